//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::cap::Cap;

pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed (rejected, unknown child, conflict, stragglers);
2 usage (also: several services run, and none was chosen); 3 unreachable;
4 refused.";

/// Arguments, and what they answer.
pub(crate) const EXAMPLES: [(&str, &str); 7] = [
    ("explain", "what is wrong, root cause first"),
    ("tree", "every child: state, restarts, cause"),
    (
        "tail --topic kernel --since 10m",
        "what has happened, and happens",
    ),
    ("changes --since 1h", "failures, reloads, commands"),
    (
        "config explain bus.capacity",
        "which value is in force, from where",
    ),
    ("drain --dry-run", "what would be lost"),
    ("chaos inject --fault=panic", "a drill, where it is armed"),
];

/// Asks a running service what is wrong with it, and tells it what to do.
#[derive(Debug, Parser)]
#[command(
    name = "ronctl",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Invocation {
    #[command(flatten)]
    pub(crate) whom: Whom,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const ASKING: &str = "Options of every command";

/// Whom to ask, and how to show the answer.
#[derive(Clone, Debug, Args)]
pub(crate) struct Whom {
    /// The service's socket
    #[arg(long, global = true, help_heading = ASKING, value_name = "PATH", conflicts_with = "target")]
    pub(crate) sock: Option<PathBuf>,
    /// Which service, or which instance of it
    #[arg(long, global = true, help_heading = ASKING, value_name = "SERVICE[.INSTANCE]")]
    pub(crate) target: Option<String>,
    /// Print the answer as one line of JSON
    #[arg(long, global = true, help_heading = ASKING)]
    pub(crate) json: bool,
    /// When to use colour; auto honours $NO_COLOR
    #[arg(long, global = true, help_heading = ASKING, value_name = "auto|always|never", default_value = "auto")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub(crate) color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what runs here, and sockets left by what no longer does
    Ps,
    /// Show the supervision tree: states, restarts, causes
    Tree {
        /// Only this child and what is below it
        #[arg(value_name = "ID", value_parser = child)]
        id: Option<String>,
    },
    /// Say what is wrong, root cause first, or why a child is as it is
    Explain {
        /// A child, or `ready`; `child:ID` is a child whatever its name
        #[arg(value_name = "ID|ready")]
        id: Option<String>,
    },
    /// Show the live picture until Ctrl-C
    ///
    /// One frame where there is no terminal, and with --json.
    Top {
        /// Between two frames
        #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = interval)]
        interval: Duration,
        /// Show one frame
        #[arg(long)]
        once: bool,
    },
    /// Follow the events of a topic and of those below it
    Tail {
        /// The topic: P matches P and P.*
        #[arg(long, value_name = "P")]
        topic: String,
        /// First what is retained of this span
        #[arg(long, value_name = "SPAN", value_parser = span)]
        since: Option<String>,
        /// End after this many lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Show what changed: failures, reloads, operators' commands
    Changes {
        /// How far back
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
        since: String,
    },
    /// Show the topics of the bus, their readers, and who lost what
    Bus,
    /// Show, check or reload the configuration
    #[command(subcommand)]
    Config(Config),
    /// Stop the service in order
    Drain {
        /// Only show in which order, and what would be lost
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Wait for the report; fails if a child did not stop by itself
        #[arg(long)]
        wait: bool,
    },
    /// Restart a child
    Restart(Child),
    /// Stop a child
    Stop(Child),
    /// Start a child that is stopped
    Start(Child),
    /// End a child's quarantine
    Release(Child),
    /// Show the log filter, or set one for a while
    Log {
        /// As in info,ron_kernel=debug
        filter: Option<String>,
        /// For how long; 10m unless said
        #[arg(long = "for", value_name = "SPAN", value_parser = ron_config::parse_duration, requires = "filter")]
        span: Option<Duration>,
    },
    /// Inject faults where chaos.armed allows it
    #[command(subcommand)]
    Chaos(Chaos),
    /// Mint, restrict and revoke capabilities; rotate their keys
    #[command(subcommand)]
    Cap(Cap),
    /// Print the completions for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct Child {
    /// The child's id
    #[arg(value_name = "CHILD", value_parser = child)]
    pub(crate) id: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say which value of a key is in force, and from where
    Explain { key: String },
    /// Show every value with its origin
    Print,
    /// Check a file, or what a reload would do
    ///
    /// Without a running service, by the service's program.
    Check {
        /// The service; ron-kernel unless one runs
        #[arg(value_name = "SVC")]
        service: Option<String>,
        /// The file; unless said, the one the service uses
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
    /// Read the configuration again
    Reload,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Chaos {
    /// Inject a fault; it ends by itself
    Inject {
        /// panic, exit, hang, block, latency, bus_lag or config
        #[arg(long, value_name = "F", value_parser = PossibleValuesParser::new(FAULTS), hide_possible_values = true)]
        fault: String,
        /// The child that gets it; chaos.default_child unless said
        #[arg(long, value_name = "C", value_parser = child)]
        child: Option<String>,
        /// At most so many times
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// For how long
        #[arg(long = "for", value_name = "SPAN", value_parser = ron_config::parse_duration)]
        span: Option<Duration>,
        /// The latency to add
        #[arg(long, value_name = "SPAN", value_parser = ron_config::parse_duration)]
        delay: Option<Duration>,
    },
    /// Show the faults in force
    List,
    /// End a fault, or all
    Clear {
        /// As `chaos list` shows it
        #[arg(value_name = "ID")]
        id: Option<u64>,
    },
}

const FAULTS: [&str; 7] = [
    "panic", "exit", "hang", "block", "latency", "bus_lag", "config",
];

/// An id as it is, or as findings write it.
fn child(text: &str) -> Result<String, &'static str> {
    match text.strip_prefix("child:").unwrap_or(text) {
        "" => Err("an id is not empty"),
        id => Ok(id.to_owned()),
    }
}

fn span(text: &str) -> Result<String, ron_config::UnitError> {
    ron_config::parse_duration(text).map(|_| text.to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = ron_config::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("at least 100ms".to_owned());
    }
    Ok(interval)
}
