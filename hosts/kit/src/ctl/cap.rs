//! Capabilities: made and restricted by their bearers, revoked and rotated in the keyring's file. No service is asked;
//! one that runs sees the file change.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use ron_config::ByteSize;
use ron_kernel::bus::rfc3339;
use serde_json::{json, Value};
use tokio::time::Instant;

use crate::capability::{
    attenuate, inspect, last, mint, parse_utc, system_random, CapId, Caveat, ChangeError,
    Inspected, Keyring, KeyringError, MintError, Random, Token, TokenError, TOKEN_MAX,
};

use super::failure::{Failure, Fault};
use super::moment::Time;
use super::session::{print, Session, Stopped};
use super::wire::Text;

/// How long a minted token lasts unless it is said: an operator's errand.
const TTL: Duration = Duration::from_secs(3600);
/// How long another process may be changing the keyring, which takes milliseconds.
const BUSY_MAX: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Subcommand)]
pub(crate) enum Cap {
    /// Mint a token of the newest key; it expires after 1h unless said
    Mint {
        #[command(flatten)]
        file: KeyringFile,
        #[command(flatten)]
        caveats: Caveats,
    },
    /// Make a token that allows less; needs no key
    Attenuate {
        /// The token, or - to read it from standard input
        token: String,
        #[command(flatten)]
        caveats: Caveats,
    },
    /// Show what a token says; needs no key, verifies nothing
    Inspect {
        /// The token, or - to read it from standard input
        token: String,
    },
    /// Revoke a token and all that were made from it
    Revoke {
        #[command(flatten)]
        file: KeyringFile,
        /// The token, its cap_id, or - to read it from standard input
        token: String,
        /// Until when; for ever unless said
        #[arg(long, value_name = "TIME", value_parser = instant)]
        until: Option<SystemTime>,
    },
    /// Make a new key, and let the one before it end
    Rotate {
        #[command(flatten)]
        file: KeyringFile,
        /// How long the key before it still verifies
        #[arg(long, value_name = "SPAN", default_value = "48h", value_parser = ron_config::parse_duration)]
        grace: Duration,
        /// Make the file, which must not be there yet
        #[arg(long, conflicts_with = "grace")]
        create: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeyringFile {
    /// The keyring's file
    #[arg(long, value_name = "PATH")]
    keyring: PathBuf,
}

const CAVEATS: &str = "What it is restricted to; what is given twice holds twice";

#[derive(Debug, Args)]
#[command(next_help_heading = CAVEATS)]
pub(crate) struct Caveats {
    /// It expires after this span
    #[arg(long, value_name = "SPAN", value_parser = ron_config::parse_duration, conflicts_with = "exp")]
    ttl: Option<Duration>,
    /// It expires at this instant, as in 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = |text: &str| caveat("exp", text))]
    exp: Vec<Caveat>,
    /// Not before this instant
    #[arg(long, value_name = "TIME", value_parser = |text: &str| caveat("nbf", text))]
    nbf: Vec<Caveat>,
    /// At the service of this name
    #[arg(long, value_name = "NAME", value_parser = |text: &str| caveat("aud", text))]
    aud: Vec<Caveat>,
    /// For these methods, as in GET,HEAD
    #[arg(long, value_name = "LIST", value_parser = |text: &str| caveat("method", text))]
    method: Vec<Caveat>,
    /// For this path and what is below it
    #[arg(long, value_name = "PATH", value_parser = |text: &str| caveat("path", text))]
    path: Vec<Caveat>,
    /// For bodies up to this size, as in 64KiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_bytes: Vec<Caveat>,
    /// For what belongs to this tenant
    #[arg(long, value_name = "NAME", value_parser = |text: &str| caveat("tenant", text))]
    tenant: Vec<Caveat>,
    /// For what needs one of these scopes, as in read,write
    #[arg(long, value_name = "LIST", value_parser = |text: &str| caveat("scope", text))]
    scope: Vec<Caveat>,
    /// So many requests per second
    #[arg(long, value_name = "N", value_parser = |text: &str| caveat("rps", text))]
    rps: Vec<Caveat>,
}

impl Caveats {
    fn list(&self, default: Option<Duration>, now: SystemTime) -> Vec<Caveat> {
        let ttl = self.ttl.or(default.filter(|_| self.exp.is_empty()));
        let expires = ttl.map(|ttl| Caveat::Expires(now.checked_add(ttl).unwrap_or(now)));
        let flags = [
            &self.exp,
            &self.nbf,
            &self.aud,
            &self.method,
            &self.path,
            &self.max_bytes,
            &self.tenant,
            &self.scope,
            &self.rps,
        ];
        let flags = flags.into_iter().flatten().cloned();
        expires.into_iter().chain(flags).collect()
    }
}

fn caveat(key: &str, value: &str) -> Result<Caveat, String> {
    let parsed: Result<Caveat, _> = format!("{key} = {value}").parse();
    parsed.map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<Caveat, String> {
    let size = ByteSize::parse(text).map_err(|error| error.to_string())?;
    Ok(Caveat::MaxBytes(size.bytes()))
}

fn instant(text: &str) -> Result<SystemTime, &'static str> {
    parse_utc(text).ok_or("expected an instant such as 2026-01-31T12:00:00Z")
}

/// What a command did, for people and for programs.
#[derive(Debug)]
struct Done {
    text: String,
    json: Value,
}

/// Why it did not.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Mint(#[from] MintError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("no random bytes")]
    Random(#[source] io::Error),
    #[error("standard input")]
    Input(#[source] io::Error),
    #[error("expected a caveat to add, as --ttl 5m; see --help")]
    NothingToAdd,
}

impl From<Undone> for Failure {
    fn from(undone: Undone) -> Failure {
        let fault = match &undone {
            Undone::Keyring(KeyringError::Exposed { .. } | KeyringError::Owner { .. }) => {
                Fault::Refused
            }
            Undone::Token(_)
            | Undone::Mint(MintError::Token(_) | MintError::Caveat(_))
            | Undone::Change(ChangeError::Past)
            | Undone::NothingToAdd => Fault::Usage,
            _ => Fault::Failed,
        };
        let mut text = undone.to_string();
        let mut cause = std::error::Error::source(&undone);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Failure::new(fault, &*Text::escaped(&text))
    }
}

pub(crate) async fn run(session: &Session, mut command: Cap) -> Result<u8, Stopped> {
    if session.sock.is_some() || session.targeted {
        let text = "`cap` asks no service: it takes no --sock or --target";
        return Err(Failure::new(Fault::Usage, text).into());
    }
    command.take_input(io::stdin()).map_err(Failure::from)?;
    let until = Instant::now() + BUSY_MAX;
    let done = loop {
        match command.perform(&mut system_random, SystemTime::now()) {
            Err(Undone::Keyring(KeyringError::Busy { .. })) if Instant::now() < until => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            done => break done.map_err(Failure::from)?,
        }
    };
    match session.json {
        true => print(&format!("{}\n", done.json))?,
        false => print(&format!("{}\n", done.text))?,
    }
    Ok(0)
}

impl Cap {
    /// Reads the token from `input` where the command line says so.
    fn take_input(&mut self, input: impl io::Read) -> Result<(), Undone> {
        let token = match self {
            Cap::Attenuate { token, .. } | Cap::Inspect { token } | Cap::Revoke { token, .. } => {
                token
            }
            Cap::Mint { .. } | Cap::Rotate { .. } => return Ok(()),
        };
        if token == "-" {
            token.clear();
            // One byte more than a token and the end of its line: what is longer is refused as that.
            let limit = u64::try_from(TOKEN_MAX + 3).unwrap_or_default();
            let mut input = input.take(limit);
            input.read_to_string(token).map_err(Undone::Input)?;
            token.truncate(token.trim_end().len());
        }
        Ok(())
    }

    fn perform(&self, random: Random<'_>, now: SystemTime) -> Result<Done, Undone> {
        match self {
            Cap::Mint { file, caveats } => {
                let keyring = Keyring::load(&file.keyring)?;
                let caveats = caveats.list(Some(TTL), now);
                made(&mint(&keyring, &caveats, random, now)?)
            }
            Cap::Attenuate { token, caveats } => match &caveats.list(None, now)[..] {
                [] => Err(Undone::NothingToAdd),
                caveats => made(&attenuate(token, caveats)?),
            },
            Cap::Inspect { token } => inspected(token, now),
            Cap::Revoke { file, token, until } => {
                let cap_id = match token.parse::<CapId>() {
                    Ok(cap_id) => cap_id,
                    Err(_) => inspect(token)?.cap_id,
                };
                // Not as long as this token lasts: the one that it was made from may last longer.
                let until = until.unwrap_or(last());
                let until = Keyring::update(&file.keyring, |keyring| {
                    keyring.revoke(cap_id, until, now)?;
                    let revoked = keyring.revoked().find(|(revoked, _)| *revoked == cap_id);
                    Ok::<_, Undone>(revoked.map_or(until, |(_, until)| until))
                })?;
                let until = rfc3339(until);
                Ok(Done {
                    text: format!("revoked {cap_id} until {until}"),
                    json: json!({"cap_id": cap_id.to_string(), "until": until}),
                })
            }
            Cap::Rotate {
                file,
                grace,
                create,
            } => {
                let keyring = match create {
                    true => {
                        let keyring = Keyring::generate(random, now).map_err(Undone::Random)?;
                        keyring.create(&file.keyring)?;
                        keyring
                    }
                    false => Keyring::update(&file.keyring, |keyring| {
                        keyring.rotate(random, now, *grace)?;
                        Ok::<_, Undone>(keyring.clone())
                    })?,
                };
                Ok(rotated(&keyring))
            }
        }
    }
}

/// The earliest instant at which a token ends.
fn expires(caveats: &[Inspected]) -> Option<SystemTime> {
    let ends = caveats.iter().filter_map(|caveat| match caveat {
        Inspected::Known(Caveat::Expires(at)) => Some(*at),
        _ => None,
    });
    ends.min()
}

fn made(token: &Token) -> Result<Done, Undone> {
    let inspection = inspect(token.as_str())?;
    Ok(Done {
        text: token.as_str().to_owned(),
        json: json!({
            "token": token.as_str(),
            "cap_id": inspection.cap_id.to_string(),
            "kid": inspection.kid.as_str(),
            "expires": expires(&inspection.caveats).map(rfc3339),
        }),
    })
}

fn inspected(token: &str, now: SystemTime) -> Result<Done, Undone> {
    let inspection = inspect(token)?;
    let mut text = format!(
        "capability  {}\nkey         {}",
        inspection.cap_id, inspection.kid
    );
    let mut caveats = Vec::new();
    for caveat in &inspection.caveats {
        let (shown, refused) = match caveat {
            Inspected::Known(caveat) => (caveat.to_string(), None),
            Inspected::Refused(text, error) => (text.clone(), Some(error.to_string())),
            Inspected::ThirdParty(location) => (
                format!("third party {location}"),
                Some("third-party caveats are not discharged here".to_owned()),
            ),
        };
        text.push_str(&format!("\ncaveat      {}", &*Text::escaped(&shown)));
        let note = match (caveat, &refused) {
            (Inspected::Known(caveat), _) => note(caveat, now),
            (_, refused) => refused.as_ref().map(|why| format!("refused: {why}")),
        };
        if let Some(note) = note {
            text.push_str(&format!("  ({note})"));
        }
        caveats.push(json!({"caveat": shown, "refused": refused}));
    }
    Ok(Done {
        text,
        json: json!({
            "cap_id": inspection.cap_id.to_string(),
            "kid": inspection.kid.as_str(),
            "expires": expires(&inspection.caveats).map(rfc3339),
            "caveats": caveats,
        }),
    })
}

/// An instant as it looks from now.
fn note(caveat: &Caveat, now: SystemTime) -> Option<String> {
    let (at, before, after) = match caveat {
        Caveat::Expires(at) => (*at, "ends", "expired"),
        Caveat::NotBefore(at) => (*at, "begins", "began"),
        _ => return None,
    };
    Some(match now < at {
        true => format!("{before} {}", Time::of(at).ahead(Time::of(now))),
        false => format!("{after} {}", Time::of(at).ago(Time::of(now))),
    })
}

fn rotated(keyring: &Keyring) -> Done {
    let kid = keyring.newest().kid();
    let mut text = format!("{kid} mints");
    let mut previous = Vec::new();
    for key in keyring.keys().skip(1) {
        let not_after = key.not_after().map(rfc3339).unwrap_or_default();
        text.push_str(&format!("\n{} verifies until {not_after}", key.kid()));
        previous.push(json!({"kid": key.kid().as_str(), "not_after": not_after}));
    }
    Done {
        text,
        json: json!({"kid": kid.as_str(), "previous": previous}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::args::{Command, Invocation};
    use clap::Parser as _;
    use std::time::UNIX_EPOCH;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_000_000)
    }

    fn parsed(line: &str) -> Result<Cap, String> {
        let words = ["ronctl", "cap"].into_iter().chain(line.split_whitespace());
        let invocation = Invocation::try_parse_from(words).map_err(|error| error.to_string())?;
        match invocation.command {
            Command::Cap(cap) => Ok(cap),
            other => panic!("{other:?}"),
        }
    }

    fn counting() -> impl FnMut(&mut [u8]) -> io::Result<()> {
        let mut next = 0_u8;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_add(1);
                *byte = next;
            }
            Ok(())
        }
    }

    fn done(line: &str) -> Result<Done, Failure> {
        let cap = parsed(line).unwrap();
        cap.perform(&mut counting(), now()).map_err(Failure::from)
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            let place = Place(tempfile::tempdir().unwrap());
            done(&format!("rotate --create {}", place.flag())).unwrap();
            place
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("keys.toml")
        }

        fn flag(&self) -> String {
            format!("--keyring {}", self.path().display())
        }
    }

    #[test]
    fn every_flag_becomes_its_caveat_and_the_hour_is_a_default() {
        let place = Place::new();
        let hour = "exp = 2026-11-18T12:06:40.000Z";
        for (flags, expected) in [
            ("", &[hour][..]),
            ("--ttl 60s", &["exp = 2026-11-18T11:07:40.000Z"]),
            (
                "--exp 2026-12-01T00:00:00Z",
                &["exp = 2026-12-01T00:00:00.000Z"],
            ),
            (
                "--nbf 2026-12-01T00:00:00Z",
                &[hour, "nbf = 2026-12-01T00:00:00.000Z"],
            ),
            ("--aud a --aud b", &[hour, "aud = a", "aud = b"]),
            ("--method GET,PUT", &[hour, "method = GET,PUT"]),
            ("--path /o", &[hour, "path = /o"]),
            ("--max-bytes 64KiB", &[hour, "max-bytes = 65536"]),
            ("--tenant acme", &[hour, "tenant = acme"]),
            ("--scope r,w", &[hour, "scope = r,w"]),
            ("--rps 5", &[hour, "rps = 5"]),
        ] {
            let done = done(&format!("mint {} {flags}", place.flag())).unwrap();
            assert!(!done.text.contains(['\n', ' ', '=']), "{}", done.text);
            assert_eq!(done.json["token"], *done.text);
            let inspection = inspect(&done.text).unwrap();
            let caveats = inspection.caveats.iter().map(|caveat| match caveat {
                Inspected::Known(caveat) => caveat.to_string(),
                other => panic!("{other:?}"),
            });
            assert_eq!(caveats.collect::<Vec<_>>(), expected, "{flags}");
        }
        for line in [
            "mint --keyring k --ttl 5m --exp 2026-12-01T00:00:00Z",
            "mint --keyring k --rps 0",
            "mint --keyring k --method get",
            "mint --keyring k --path o",
            "mint --keyring k --max-bytes 10",
            "mint --keyring k --exp tomorrow",
            "mint",
            "rotate --keyring k --create --grace 1h",
            "revoke --keyring k 00 --until tomorrow",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_token_is_restricted_shown_and_revoked_without_a_service() {
        let place = Place::new();
        let token = done(&format!("mint {} --path /o", place.flag()))
            .unwrap()
            .text;
        let narrow = done(&format!("attenuate {token} --method GET --ttl 5m")).unwrap();
        let shown = done(&format!("inspect {}", narrow.text)).unwrap();
        let cap_id = narrow.json["cap_id"].as_str().unwrap();
        let expected = format!(
            "capability  {cap_id}\nkey         {}\n\
             caveat      exp = 2026-11-18T12:06:40.000Z  (ends in 1h)\n\
             caveat      path = /o\n\
             caveat      exp = 2026-11-18T11:11:40.000Z  (ends in 5m)\n\
             caveat      method = GET",
            narrow.json["kid"].as_str().unwrap()
        );
        assert_eq!(shown.text, expected);
        assert_eq!(shown.json["expires"], "2026-11-18T11:11:40.000Z");
        let revoked =
            |token: &str, more: &str| done(&format!("revoke {} {token} {more}", place.flag()));
        let soon = format!("revoked {cap_id} until 2026-11-18T12:00:00.000Z");
        let sooner = revoked(cap_id, "--until 2026-11-18T12:00:00Z").unwrap();
        assert_eq!(sooner.text, soon);
        let keyring = Keyring::load(&place.path()).unwrap();
        assert!(keyring.is_revoked(cap_id.parse().unwrap(), now()));
        // The token that it was made from lasts longer, so nothing ends with it.
        let ever = format!("revoked {cap_id} until 9999-12-31T23:59:59.999Z");
        assert_eq!(revoked(&narrow.text, "").unwrap().text, ever);
        let later = revoked(cap_id, "--until 2026-11-18T12:00:00Z").unwrap();
        assert_eq!(later.text, ever);
        let past = revoked(cap_id, "--until 2026-01-01T00:00:00Z").unwrap_err();
        assert_eq!(past.fault(), Fault::Usage);
    }

    #[test]
    fn what_is_refused_in_a_token_is_shown_with_the_reason_and_obeyed_by_no_terminal() {
        let token = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAIFYSA9IBsAAQF4AgF5BAF6AAAGIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let done = done(&format!("inspect {token}")).unwrap();
        assert!(
            done.text
                .contains("caveat      a = \\x1b  (refused: unknown caveat"),
            "{}",
            done.text
        );
        assert!(
            done.text.contains("caveat      third party x  (refused: "),
            "{}",
            done.text
        );
        assert_eq!(done.json["caveats"][0]["caveat"], "a = \u{1b}");
        assert!(done.json["caveats"][1]["refused"].is_string());
    }

    #[test]
    fn rotating_tells_which_key_mints_and_how_long_the_others_verify() {
        let place = Place::new();
        let old = Keyring::load(&place.path()).unwrap().newest().kid().clone();
        let cap = parsed(&format!("rotate {} --grace 1h", place.flag())).unwrap();
        let mut random = counting();
        random(&mut [0; 7]).unwrap();
        let done = cap.perform(&mut random, now()).unwrap();
        let keyring = Keyring::load(&place.path()).unwrap();
        let new = keyring.newest().kid();
        assert_ne!(*new, old);
        let expected = format!("{new} mints\n{old} verifies until 2026-11-18T12:06:40.000Z");
        assert_eq!(done.text, expected);
        assert_eq!(done.json["previous"][0]["kid"], old.as_str());
        let again = super::tests::done(&format!("rotate {} --create", place.flag()));
        assert!(again.unwrap_err().to_string().contains("keys.toml: exists"));
    }

    #[test]
    fn faults_have_the_exit_codes_of_every_command() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Place::new();
        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(place.path(), open).unwrap();
        let flag = place.flag();
        for (line, fault, text) in [
            (format!("mint {flag}"), Fault::Refused, "run `chmod 0600 "),
            (format!("rotate {flag}"), Fault::Refused, "run `chmod 0600 "),
            (
                "mint --keyring /nowhere/keys.toml".to_owned(),
                Fault::Failed,
                "cannot open it: No such file",
            ),
            (
                "inspect nonsense".to_owned(),
                Fault::Usage,
                "not a macaroon",
            ),
            (
                "attenuate nonsense --rps 1".to_owned(),
                Fault::Usage,
                "not a macaroon",
            ),
            (
                "attenuate nonsense".to_owned(),
                Fault::Usage,
                "expected a caveat to add",
            ),
            (
                format!("revoke {flag} nonsense"),
                Fault::Usage,
                "not a macaroon",
            ),
        ] {
            let failure = done(&line).unwrap_err();
            assert_eq!(failure.fault(), fault, "{line}: {failure}");
            assert!(failure.to_string().contains(text), "{line}: {failure}");
            assert!(!failure.to_string().contains("nonsense"), "{failure}");
        }
    }

    #[test]
    fn a_token_is_read_from_standard_input_up_to_a_limit() {
        let read = |bytes: &[u8]| {
            let mut cap = parsed("inspect -").unwrap();
            cap.take_input(bytes).map(|()| match cap {
                Cap::Inspect { token } => token,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(read(b"AgED\r\n").unwrap(), "AgED");
        assert_eq!(read(&[b'A'; 2 * TOKEN_MAX]).unwrap().len(), TOKEN_MAX + 3);
        assert!(matches!(read(b"\xff"), Err(Undone::Input(_))));
        let mut named = parsed("inspect AgED").unwrap();
        named.take_input(&b"other"[..]).unwrap();
        assert!(matches!(named, Cap::Inspect { token } if token == "AgED"));
    }
}
