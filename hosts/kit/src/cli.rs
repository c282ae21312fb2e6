//! The command line every host shares.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use ron_config::nearest;

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run,
    Validate { path: PathBuf },
    Print { json: bool },
    Schema,
    Version,
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    /// The file named by `--config`.
    pub(crate) config: Option<PathBuf>,
    /// Keys of the configuration with their values. Whether the keys exist is for the schema to say.
    pub(crate) flags: Vec<(String, String)>,
}

/// A command line that asks for nothing the program can do. The caller's mistake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError {
    problem: String,
    suggestion: Option<String>,
}

impl UsageError {
    fn new(problem: impl Into<String>) -> UsageError {
        UsageError {
            problem: problem.into(),
            suggestion: None,
        }
    }

    fn suggest(mut self, suggestion: Option<impl Into<String>>) -> UsageError {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => f.write_str("; see --help"),
        }
    }
}

/// Flags that are not keys of the configuration.
const OWN: [&str; 5] = ["--config", "--set", "--json", "--version", "--help"];
const COMMANDS: [&str; 3] = ["config validate", "config print", "config schema"];

/// Reads the arguments behind the program's name. `keys` are the keys of the configuration: a flag that is
/// none of them and resembles one of ours is taken for a slip.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    keys: &[&str],
) -> Result<Invocation, UsageError> {
    let mut args = args.into_iter().peekable();
    let (mut config, mut json) = (None, false);
    let (mut asked, mut words, mut flags) = (None, Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        let text = match arg.into_string() {
            Ok(text) => text,
            Err(raw) if words.len() == 2 => {
                words.push(raw);
                continue;
            }
            Err(raw) => {
                return Err(UsageError::new(format!(
                    "{} is not UTF-8 text",
                    raw.to_string_lossy()
                )))
            }
        };
        if !text.starts_with('-') {
            words.push(text.into());
            continue;
        }
        let (name, mut value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => (text, None),
        };
        let mut required = |what: &str| {
            let value = value.take().or_else(|| args.next());
            value.ok_or_else(|| UsageError::new(format!("{name} needs {what}")))
        };
        match name.as_str() {
            "--help" | "-h" => asked = asked.or(Some(Command::Help)),
            "--version" | "-V" => asked = asked.or(Some(Command::Version)),
            "--json" => json = true,
            "--config" | "-c" => {
                let path = PathBuf::from(required("the path of a file")?);
                if config.replace(path).is_some() {
                    return Err(UsageError::new("--config is given twice"));
                }
            }
            "--set" => {
                let pair = required("KEY=VALUE")?;
                match pair.to_str().and_then(|pair| pair.split_once('=')) {
                    Some((key, value)) => flags.push((format!("--{key}"), value.to_owned())),
                    None => {
                        let pair = pair.to_string_lossy();
                        return Err(UsageError::new(format!("--set {pair}: expected KEY=VALUE")));
                    }
                }
            }
            _ if !name.starts_with("--") => {
                return Err(UsageError::new(format!("unknown flag {name}")))
            }
            _ => {
                let key = name[2..].replace('-', "_");
                if !keys.contains(&key.as_str()) {
                    if let Some(own) = nearest(&name, OWN) {
                        return Err(
                            UsageError::new(format!("unknown flag {name}")).suggest(Some(own))
                        );
                    }
                }
                let value = match value {
                    Some(value) => value,
                    None => args
                        .next_if(|next| !is_flag(next))
                        .unwrap_or_else(|| "true".into()),
                };
                let value = value
                    .into_string()
                    .map_err(|_| UsageError::new(format!("{name}: not UTF-8 text")))?;
                flags.push((name, value));
            }
        }
    }
    let command = match asked {
        Some(command) => command,
        None => command(words, &mut config, json)?,
    };
    if json
        && !matches!(
            command,
            Command::Print { .. } | Command::Help | Command::Version
        )
    {
        return Err(UsageError::new("--json belongs to `config print`"));
    }
    Ok(Invocation {
        command,
        config,
        flags,
    })
}

fn is_flag(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|text| text.starts_with("--"))
}

fn command(
    words: Vec<OsString>,
    config: &mut Option<PathBuf>,
    json: bool,
) -> Result<Command, UsageError> {
    let mut words = words.into_iter();
    let Some(first) = words.next() else {
        return Ok(Command::Run);
    };
    let second = words.next();
    let path = words.next();
    let said = match &second {
        Some(second) => format!("{} {}", first.to_string_lossy(), second.to_string_lossy()),
        None => first.to_string_lossy().into_owned(),
    };
    let unknown = |said: &str| {
        let near = nearest(said, COMMANDS)
            .or_else(|| COMMANDS.into_iter().find(|command| command.ends_with(said)));
        UsageError::new(format!("unknown command `{said}`")).suggest(near)
    };
    if words.next().is_some() {
        return Err(UsageError::new(format!("too many words after `{said}`")));
    }
    let mut named = |path: Option<OsString>| match (path, config.take()) {
        (Some(_), Some(_)) => Err(UsageError::new(format!(
            "`{said}`: the file is named twice"
        ))),
        (path, config) => Ok(path.map(PathBuf::from).or(config)),
    };
    match said.as_str() {
        "config validate" => {
            let path = named(path)?
                .ok_or_else(|| UsageError::new("`config validate` needs the path of a file"))?;
            Ok(Command::Validate { path })
        }
        "config print" => {
            *config = named(path)?;
            Ok(Command::Print { json })
        }
        "config schema" if path.is_none() => Ok(Command::Schema),
        "config schema" => Err(UsageError::new("`config schema` takes no path")),
        "config" => Err(UsageError::new(
            "`config` needs one of validate, print, schema",
        )),
        said => Err(unknown(said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 3] = ["bus.capacity", "max_conns", "chaos.armed"];

    fn parsed(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from), &KEYS).map_err(|error| error.to_string())
    }

    fn flags(line: &str) -> Vec<(String, String)> {
        parsed(line).unwrap().flags
    }

    #[test]
    fn a_key_takes_its_value_behind_a_space_or_an_equals_sign_or_is_true() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(flags("--bus.capacity 64"), [pair("--bus.capacity", "64")]);
        assert_eq!(flags("--bus.capacity=64"), [pair("--bus.capacity", "64")]);
        assert_eq!(flags("--max-conns -5"), [pair("--max-conns", "-5")]);
        assert_eq!(
            flags("--chaos.armed --max-conns 9"),
            [pair("--chaos.armed", "true"), pair("--max-conns", "9")]
        );
        assert_eq!(
            flags("--set bus.capacity=a=b"),
            [pair("--bus.capacity", "a=b")]
        );
    }

    #[test]
    fn the_file_is_named_once() {
        let config = |line| parsed(line).unwrap().config;
        assert_eq!(config("--config a.toml"), Some("a.toml".into()));
        assert_eq!(config("-c a.toml"), Some("a.toml".into()));
        assert_eq!(config("config print a.toml"), Some("a.toml".into()));
        assert_eq!(
            config("config print --config a.toml"),
            Some("a.toml".into())
        );
        assert_eq!(
            parsed("--config a --config=b").unwrap_err(),
            "--config is given twice; see --help"
        );
        assert!(parsed("config validate a --config b")
            .unwrap_err()
            .contains("named twice"));
    }

    #[test]
    fn commands_are_told_from_one_another() {
        let command = |line| parsed(line).unwrap().command;
        assert_eq!(command(""), Command::Run);
        assert_eq!(
            command("config validate a.toml"),
            Command::Validate {
                path: "a.toml".into()
            }
        );
        assert_eq!(
            command("config validate --config a.toml"),
            Command::Validate {
                path: "a.toml".into()
            }
        );
        assert_eq!(
            command("config print --json"),
            Command::Print { json: true }
        );
        assert_eq!(command("config schema"), Command::Schema);
        assert_eq!(command("nonsense --help"), Command::Help);
        assert_eq!(command("-V"), Command::Version);
    }

    #[test]
    fn slips_get_one_line_with_a_suggestion() {
        for (line, expected) in [
            (
                "--confg x",
                "unknown flag --confg; did you mean `--config`?",
            ),
            ("-x", "unknown flag -x; see --help"),
            ("--config", "--config needs the path of a file; see --help"),
            (
                "--set max_conns",
                "--set max_conns: expected KEY=VALUE; see --help",
            ),
            (
                "config pirnt",
                "unknown command `config pirnt`; did you mean `config print`?",
            ),
            ("validate x", "unknown command `validate x`; see --help"),
            (
                "validate",
                "unknown command `validate`; did you mean `config validate`?",
            ),
            (
                "config",
                "`config` needs one of validate, print, schema; see --help",
            ),
            (
                "config validate",
                "`config validate` needs the path of a file; see --help",
            ),
            (
                "config schema x",
                "`config schema` takes no path; see --help",
            ),
            (
                "config print a b",
                "too many words after `config print`; see --help",
            ),
            ("--json", "--json belongs to `config print`; see --help"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
        }
    }
}
