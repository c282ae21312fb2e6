//! The command line as help, shell completions and a manual page.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::{Invocation, EXAMPLES, EXIT_CODES};
use super::failure::{Failure, Fault};
use super::session::{print, Session, Stopped};

/// What the program is called: `ronctl`, or `HOST ctl`.
pub(crate) fn name(host: Option<&'static str>) -> String {
    let Some(service) = host else {
        return "ronctl".to_owned();
    };
    let called = std::env::args_os().next();
    let file = called
        .as_deref()
        .and_then(|path| Path::new(path).file_name());
    let file = file.map_or_else(
        || service.to_owned(),
        |file| file.to_string_lossy().into_owned(),
    );
    format!("{file} ctl")
}

/// The command line under that name.
pub(crate) fn command(host: Option<&'static str>) -> Command {
    let name = name(host);
    let first = match host {
        Some(service) => format!("else {service}."),
        None => "else the one whose topic\n`tail` follows, else the only one that runs.".to_owned(),
    };
    let after = format!(
        "\
Which service: --sock, else --target, {first}
Sockets: in $RON_RUN_DIR, else $RUNTIME_DIRECTORY, else /run/ron (root), else
$XDG_RUNTIME_DIR/ron, else a directory per user under the temporary one.

{EXIT_CODES}

Examples:
{}",
        examples(&name)
    );
    Invocation::command()
        .bin_name(&name)
        .no_binary_name(true)
        .after_help(after)
}

/// Side by side where a small terminal holds it, else one above the other.
fn examples(name: &str) -> String {
    const TERMINAL: usize = 80;
    let wide = EXAMPLES
        .iter()
        .map(|(line, _)| name.len() + line.len() + 1)
        .max()
        .unwrap_or(0);
    let beside = |(line, meaning): &(&str, &str)| {
        let command = format!("{name} {line}");
        format!("  {command:wide$}  {meaning}")
    };
    let lines: Vec<String> = EXAMPLES.iter().map(beside).collect();
    if lines.iter().all(|line| line.len() <= TERMINAL) {
        return lines.join("\n");
    }
    let above = EXAMPLES
        .iter()
        .map(|(line, meaning)| format!("  {meaning}:\n    {name} {line}"));
    above.collect::<Vec<_>>().join("\n")
}

pub(crate) fn completions(session: &Session, shell: Shell) -> Result<u8, Stopped> {
    plain(session, "completions")?;
    let mut text = Vec::new();
    let name = name(session.host);
    clap_complete::generate(shell, &mut command(session.host), name, &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

pub(crate) fn page(session: &Session) -> Result<u8, Stopped> {
    plain(session, "man")?;
    let mut root = command(session.host).no_binary_name(false);
    root.build();
    let mut text = Vec::new();
    let written = Man::new(root.clone()).render(&mut text).and_then(|()| {
        root.get_subcommands()
            .try_for_each(|command| section(command, &mut text))
    });
    written.map_err(|error| Failure::new(Fault::Failed, error.to_string()))?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// A command with its options, and the commands below it, each under a heading of its own.
fn section(command: &Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    text.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
    let man = Man::new(command.clone());
    let mut own = Vec::new();
    man.render_synopsis_section(&mut own)?;
    man.render_description_section(&mut own)?;
    man.render_options_section(&mut own)?;
    text.extend_from_slice(
        String::from_utf8_lossy(&own)
            .replace(".SH ", ".SS ")
            .as_bytes(),
    );
    command
        .get_subcommands()
        .try_for_each(|command| section(command, text))
}

/// What is about no service takes no word on which one, and is no JSON.
fn plain(session: &Session, command: &str) -> Result<(), Failure> {
    if session.json || session.sock.is_some() || session.targeted {
        let text = format!("`{command}` asks no service: it takes no --sock, --target or --json");
        return Err(Failure::new(Fault::Usage, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together_under_every_name() {
        for host in [None, Some("svc-a")] {
            command(host).debug_assert();
            let help = command(host).render_help().to_string();
            let usage = format!("Usage: {} [OPTIONS] <COMMAND>", name(host));
            assert!(help.contains(&usage), "{help}");
        }
    }

    #[test]
    fn examples_stand_beside_their_meaning_where_they_fit() {
        assert!(examples("ronctl")
            .lines()
            .all(|line| line.starts_with("  ronctl ")));
        let long = examples("a-host-of-a-long-name ctl");
        assert_eq!(long.lines().count(), 2 * EXAMPLES.len());
        assert!(long.lines().all(|line| line.len() <= 80), "{long}");
    }
}
