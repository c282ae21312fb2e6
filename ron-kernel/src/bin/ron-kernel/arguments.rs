//! The command line. Hosts have a richer one; this program keeps to what the standard library offers.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run,
    Validate(PathBuf),
    Print,
    Version,
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) config: Option<PathBuf>,
    /// Keys of the configuration with their values; whether the keys exist is for the schema to say.
    pub(crate) flags: Vec<(String, String)>,
}

impl Arguments {
    /// Reads the arguments behind the program's name; an error is one line.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
        let mut args = args.into_iter().peekable();
        let (mut config, mut flags, mut words, mut asked) = (None, Vec::new(), Vec::new(), None);
        while let Some(arg) = args.next() {
            let text = arg
                .into_string()
                .map_err(|raw| format!("{} is not UTF-8 text", raw.to_string_lossy()))?;
            if !text.starts_with('-') {
                words.push(text);
                continue;
            }
            let (name, given) = match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
                None => (text, None),
            };
            match name.as_str() {
                "--help" | "-h" => asked = asked.or(Some(Command::Help)),
                "--version" | "-V" => asked = asked.or(Some(Command::Version)),
                "--config" | "-c" => {
                    let path = given
                        .or_else(|| args.next())
                        .ok_or_else(|| format!("{name} needs the path of a file"))?;
                    if config.replace(PathBuf::from(path)).is_some() {
                        return Err("--config is given twice".to_owned());
                    }
                }
                // No key of the configuration begins so.
                _ if name.starts_with("--con") => {
                    return Err(format!("unknown flag {name}; did you mean `--config`?"))
                }
                _ if !name.starts_with("--") => {
                    return Err(format!("unknown flag {name}; see --help"))
                }
                _ => {
                    let next = |arg: &OsString| !arg.to_string_lossy().starts_with("--");
                    let value = given
                        .or_else(|| args.next_if(next))
                        .unwrap_or_else(|| "true".into());
                    let value = value
                        .into_string()
                        .map_err(|_| format!("{name}: not UTF-8 text"))?;
                    flags.push((name, value));
                }
            }
        }
        let command = match asked {
            Some(command) => command,
            None => command(&words, &mut config)?,
        };
        Ok(Arguments {
            command,
            config,
            flags,
        })
    }
}

fn command(words: &[String], config: &mut Option<PathBuf>) -> Result<Command, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => Ok(Command::Run),
        ["config", "validate"] => config
            .take()
            .map(Command::Validate)
            .ok_or_else(|| "`config validate` needs the path of a file".to_owned()),
        ["config", "validate", path] if config.is_none() => Ok(Command::Validate(path.into())),
        ["config", "print"] => Ok(Command::Print),
        ["config", "print", path] if config.is_none() => {
            *config = Some(path.into());
            Ok(Command::Print)
        }
        ["config", "validate" | "print", _] => Err("the file is named twice".to_owned()),
        ["config", ..] => Err("`config` needs `validate PATH` or `print`; see --help".to_owned()),
        _ => Err(format!("unknown command `{}`; see --help", words.join(" "))),
    }
}
