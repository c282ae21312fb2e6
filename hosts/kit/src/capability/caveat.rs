//! What a token is restricted to: one caveat, one text `key = value`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::SystemTime;

use ron_kernel::bus::rfc3339;

use super::time::{parse_utc, writable};

/// Longest name of an audience, tenant or scope, and longest method, in bytes. A name is a host or a customer, not a
/// document; 32 caveats of this length still fit into a token.
const NAME_MAX: usize = 64;
/// Longest path, in bytes: an object's address behind a prefix takes 70.
const PATH_MAX: usize = 256;
/// Most entries of a list.
const LIST_MAX: usize = 16;

/// One restriction. A token that carries several is restricted by all of them.
///
/// The text form is `key = value` with one space on either side of the equals sign, and lists without spaces:
/// `method = GET,PUT`. What is not exactly of this form is refused, because two readers must never differ on what a
/// token allows.
///
/// ```
/// use ron_host::capability::Caveat;
///
/// let caveat: Caveat = "path = /mbox".parse()?;
/// assert_eq!(caveat, Caveat::Path("/mbox".to_owned()));
/// assert_eq!(caveat.to_string(), "path = /mbox");
/// # Ok::<(), ron_host::capability::CaveatError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// `exp`: valid before this instant, no longer at it.
    Expires(SystemTime),
    /// `nbf`: valid from this instant on.
    NotBefore(SystemTime),
    /// `aud`: valid at the service of this name.
    Audience(String),
    /// `method`: valid for these methods. `GET` does not include `HEAD`.
    Methods(Vec<String>),
    /// `path`: valid for this path and what is below it: `/o` covers `/o` and `/o/x`, not `/other`; `/o/` only what is
    /// below.
    Path(String),
    /// `max-bytes`: valid for bodies of at most so many bytes.
    MaxBytes(u64),
    /// `tenant`: valid for what belongs to this tenant.
    Tenant(String),
    /// `scope`: valid for what needs one of these scopes, and for what needs none.
    Scopes(Vec<String>),
    /// `rps`: at most so many requests per second, by everybody who holds the token or one made from it.
    Rps(NonZeroU32),
}

/// A caveat that cannot be read. The fault of whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaveatError {
    /// There is no such key, or no ` = `.
    #[error("unknown caveat; known are exp, nbf, aud, method, path, max-bytes, tenant, scope, rps, as `key = value`")]
    Unknown,
    /// The value is not one that the key takes.
    #[error("caveat `{key}`: the value is not {expected}")]
    Malformed {
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

impl Caveat {
    /// The key of the text form.
    pub fn key(&self) -> &'static str {
        match self {
            Caveat::Expires(_) => "exp",
            Caveat::NotBefore(_) => "nbf",
            Caveat::Audience(_) => "aud",
            Caveat::Methods(_) => "method",
            Caveat::Path(_) => "path",
            Caveat::MaxBytes(_) => "max-bytes",
            Caveat::Tenant(_) => "tenant",
            Caveat::Scopes(_) => "scope",
            Caveat::Rps(_) => "rps",
        }
    }

    /// The text that goes into a token, if it can be read back.
    ///
    /// # Errors
    ///
    /// [`CaveatError::Malformed`] where a field holds what its text form does not allow, as an empty list.
    pub fn predicate(&self) -> Result<String, CaveatError> {
        let text = self.to_string();
        let read: Caveat = text.parse()?;
        let instant = matches!(self, Caveat::Expires(_) | Caveat::NotBefore(_));
        match instant || read == *self {
            true => Ok(text),
            false => Err(CaveatError::Malformed {
                key: self.key(),
                expected: "a list whose entries have no commas",
            }),
        }
    }
}

impl FromStr for Caveat {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Caveat, CaveatError> {
        const TIME: &str = "an instant such as 2026-01-31T12:00:00Z";
        const NAME: &str = "a name of 1 to 64 letters, digits or . _ : / @ -";
        const LIST: &str = "up to 16 names between commas, without spaces";
        const COUNT: &str = "a whole number of bytes";
        let (key, value) = text.split_once(" = ").ok_or(CaveatError::Unknown)?;
        let (key, expected, caveat) = match key {
            "exp" => ("exp", TIME, parse_utc(value).map(Caveat::Expires)),
            "nbf" => ("nbf", TIME, parse_utc(value).map(Caveat::NotBefore)),
            "aud" => ("aud", NAME, name(value).map(Caveat::Audience)),
            "method" => {
                const METHODS: &str = "up to 16 methods in capitals between commas, without spaces";
                ("method", METHODS, list(value, method).map(Caveat::Methods))
            }
            "path" => {
                const PATH: &str = "a path that begins with / and has no . or .. in it";
                let path = (value.len() <= PATH_MAX && is_plain(value)).then(|| value.to_owned());
                ("path", PATH, path.map(Caveat::Path))
            }
            "max-bytes" => ("max-bytes", COUNT, number(value).map(Caveat::MaxBytes)),
            "tenant" => ("tenant", NAME, name(value).map(Caveat::Tenant)),
            "scope" => ("scope", LIST, list(value, name).map(Caveat::Scopes)),
            "rps" => {
                const RATE: &str = "a whole number of requests, at least 1";
                ("rps", RATE, number(value).map(Caveat::Rps))
            }
            _ => return Err(CaveatError::Unknown),
        };
        caveat.ok_or(CaveatError::Malformed { key, expected })
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = ", self.key())?;
        match self {
            Caveat::Expires(time) | Caveat::NotBefore(time) => {
                f.write_str(&rfc3339(writable(*time)))
            }
            Caveat::Audience(name) | Caveat::Tenant(name) | Caveat::Path(name) => f.write_str(name),
            Caveat::Methods(list) | Caveat::Scopes(list) => f.write_str(&list.join(",")),
            Caveat::MaxBytes(bytes) => bytes.fmt(f),
            Caveat::Rps(rate) => rate.fmt(f),
        }
    }
}

/// Whether a path means what it says: no segment is `.` or `..`, written out or percent-encoded, and nothing in it is
/// taken for a separator by some programs only.
pub(crate) fn is_plain(path: &str) -> bool {
    let folded = path.to_ascii_lowercase();
    path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && !path.contains(['\\', '?', '#'])
        && !["%2e", "%2f", "%5c", "%00"]
            .iter()
            .any(|code| folded.contains(code))
        && !path.split('/').any(|part| part == "." || part == "..")
}

/// Whether `path` is `prefix` or below it.
pub(crate) fn covers(prefix: &str, path: &str) -> bool {
    is_plain(path)
        && path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

fn name(text: &str) -> Option<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    let fits = (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(known);
    fits.then(|| text.to_owned())
}

fn method(text: &str) -> Option<String> {
    let fits = (1..=NAME_MAX).contains(&text.len());
    (fits && text.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| text.to_owned())
}

fn list(text: &str, entry: fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let entries: Option<Vec<String>> = text.split(',').take(LIST_MAX + 1).map(entry).collect();
    entries.filter(|entries| entries.len() <= LIST_MAX)
}

/// A number as it is written back: no sign, no zeros in front.
fn number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse()
        .ok()
        .filter(|number: &T| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caveat_is_read_back_as_it_was_written() {
        for text in [
            "exp = 2026-01-31T12:00:00.000Z",
            "nbf = 1970-01-01T00:00:00.001Z",
            "aud = micronode",
            "aud = svc-rewarder.prod:8080/a@b_c",
            "method = GET",
            "method = GET,HEAD,PUT",
            "path = /",
            "path = /o",
            "path = /o/",
            "path = /o/b3:00,=%41",
            "max-bytes = 0",
            "max-bytes = 18446744073709551615",
            "tenant = acme",
            "scope = read",
            "scope = read,write:all",
            "rps = 1",
            "rps = 4294967295",
        ] {
            let caveat: Caveat = text.parse().unwrap();
            assert_eq!(caveat.to_string(), text);
            assert_eq!(caveat.predicate().unwrap(), text);
            assert!(text.starts_with(caveat.key()));
        }
        let short: Caveat = "exp = 2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(short.to_string(), "exp = 2026-01-31T12:00:00.000Z");
    }

    #[test]
    fn what_is_no_caveat_of_ours_is_unknown() {
        for text in [
            "",
            " = ",
            "exp",
            "exp=2026-01-31T12:00:00Z",
            "exp =2026-01-31T12:00:00Z",
            " exp = 2026-01-31T12:00:00Z",
            "EXP = 2026-01-31T12:00:00Z",
            "exp  = 2026-01-31T12:00:00Z",
            "max_bytes = 1",
            "ttl = 60",
            "account = 3735928559",
        ] {
            assert_eq!(text.parse::<Caveat>(), Err(CaveatError::Unknown), "{text}");
        }
    }

    #[test]
    fn a_value_that_the_key_does_not_take_is_malformed() {
        let long = "x".repeat(NAME_MAX + 1);
        let longest = "x".repeat(NAME_MAX);
        assert!(format!("aud = {longest}").parse::<Caveat>().is_ok());
        let many = vec!["x"; LIST_MAX + 1].join(",");
        let most = vec!["x"; LIST_MAX].join(",");
        assert!(format!("scope = {most}").parse::<Caveat>().is_ok());
        let deep = format!("/{}", "x".repeat(PATH_MAX));
        assert!(format!("path = {}", &deep[..PATH_MAX])
            .parse::<Caveat>()
            .is_ok());
        for (key, values) in [
            (
                "exp",
                &[
                    "",
                    "soon",
                    "1767225600",
                    "2026-02-30T00:00:00Z",
                    " 2026-01-31T12:00:00Z",
                ][..],
            ),
            ("nbf", &["2026-01-31T12:00:00", "2026-01-31T12:00:00Z "]),
            ("aud", &["", "a b", "a,b", "é", "a\0", &long]),
            (
                "method",
                &["", "get", "GET,", ",GET", "GET, PUT", "GET PUT", "G3T"],
            ),
            (
                "path",
                &[
                    "",
                    "o",
                    "/a/../b",
                    "/.",
                    "/a/%2e%2E/b",
                    "/a%2Fb",
                    "/a\\b",
                    "/a?b",
                    "/a b",
                    "/a\n",
                    &deep,
                ],
            ),
            (
                "max-bytes",
                &[
                    "",
                    "-1",
                    "+1",
                    "01",
                    "1 ",
                    "1k",
                    "1.0",
                    "18446744073709551616",
                ],
            ),
            ("tenant", &["", "a b", "*\n"]),
            ("scope", &["", "a,,b", "a, b", &many]),
            ("rps", &["", "0", "-1", "00", "4294967296", "1.5"]),
        ] {
            for value in values {
                let error = format!("{key} = {value}").parse::<Caveat>().unwrap_err();
                let of = matches!(error, CaveatError::Malformed { key: of, .. } if of == key);
                assert!(of, "{key} = {value:?}: {error}");
            }
        }
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        for caveat in [
            Caveat::Methods(Vec::new()),
            Caveat::Scopes(vec!["a,b".to_owned()]),
            Caveat::Tenant("a b".to_owned()),
            Caveat::Path("o".to_owned()),
        ] {
            assert!(caveat.predicate().is_err(), "{caveat:?}");
        }
    }

    #[test]
    fn a_path_covers_itself_and_what_is_below_it() {
        for (prefix, path, covered) in [
            ("/", "/", true),
            ("/", "/put", true),
            ("/o", "/o", true),
            ("/o", "/o/", true),
            ("/o", "/o/x/y", true),
            ("/o", "/other", false),
            ("/o", "/", false),
            ("/o", "/O/x", false),
            ("/o/", "/o/x", true),
            ("/o/", "/o", false),
            ("/o", "//o/x", false),
            ("/o", "/o/../put", false),
            ("/o", "/o/./x", false),
            ("/o", "/o/%2e%2e/put", false),
            ("/o", "/o/.%2E/put", false),
            ("/o", "/o/..%2fput", false),
            ("/o", "/o\\..\\put", false),
            ("/o", "/o?x=/o", false),
            ("/o", "/o/..x", true),
            ("/o", "o", false),
            ("/", "", false),
        ] {
            assert_eq!(covers(prefix, path), covered, "{prefix} {path}");
        }
    }
}
