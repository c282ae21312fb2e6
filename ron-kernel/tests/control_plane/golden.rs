//! Answers against files: keys and their order, types and values; only what differs between two runs is masked.
//!
//! `RON_BLESS=1` writes the files.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt::{self, Write};
use std::path::Path;

/// JSON that keeps the order of its keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn parse(text: &str) -> Json {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(format!("{value:?}")))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members: Vec<(String, Json)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Json>()? {
                    assert!(members.iter().all(|(had, _)| *had != key), "{key} twice");
                    members.push((key, value));
                }
                Ok(Json::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What differs between two runs, by key: the word that stands for it. Null stays null.
const MASKED: &[(&str, &str)] = &[
    ("instance", "<instance>"),
    ("pid", "<pid>"),
    ("version", "<version>"),
    ("build", "<build>"),
    ("rustc", "<rustc>"),
    ("epoch", "<epoch>"),
    ("sha256", "<sha>"),
    ("config_sha", "<sha>"),
    ("uptime_ms", "<ms>"),
    ("took_ms", "<ms>"),
    ("cpu_ms", "<ms>"),
    ("rss_bytes", "<bytes>"),
    ("threads", "<count>"),
    ("fds", "<count>"),
];

/// Masks times (checked for their form), the members in [`MASKED`], processes in texts and the test's directory.
pub(crate) fn masked(json: Json, dir: &Path) -> Json {
    match json {
        Json::Text(text) if is_time(&text) => Json::Text("<time>".to_owned()),
        Json::Text(text) => Json::Text(plain(&text, dir)),
        Json::List(list) => Json::List(list.into_iter().map(|item| masked(item, dir)).collect()),
        Json::Object(members) => {
            let member = |(key, value): (String, Json)| {
                let mask = MASKED.iter().find(|(name, _)| *name == key);
                let value = match (mask, value) {
                    (_, Json::Text(text)) if key == "verdict" => Json::Text(spanless(&text)),
                    (Some((_, word)), Json::Number(number)) => {
                        assert!(number.bytes().all(|byte| byte.is_ascii_digit()), "{key}");
                        Json::Text(format!("{word} as a number"))
                    }
                    (Some((_, word)), Json::Text(_)) => Json::Text((*word).to_owned()),
                    (_, value) => masked(value, dir),
                };
                (key, value)
            };
            Json::Object(members.into_iter().map(member).collect())
        }
        other => other,
    }
}

fn is_time(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00.000Z";
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(got, shape)| match shape {
            b'0' => got.is_ascii_digit(),
            _ => got == *shape,
        })
}

/// Masks the process that asks and the directory.
fn plain(text: &str, dir: &Path) -> String {
    let own = own_uid();
    text.replace(
        &format!("uid {own} pid {}", std::process::id()),
        "uid <uid> pid <pid>",
    )
    .replace(&dir.display().to_string(), "<dir>")
}

/// Masks the spans of time in a line, as in `not ready for 12ms: ...`.
fn spanless(text: &str) -> String {
    let span = |word: &str| {
        let word = word.trim_end_matches([':', ',']);
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        unit.len() < word.len() && matches!(unit, "ns" | "µs" | "ms" | "s" | "m" | "h")
    };
    let words = text.split(' ').map(|word| {
        if span(word) {
            let end = word.trim_start_matches(|c: char| c.is_alphanumeric() || c == '.');
            format!("<span>{end}")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// This process's user.
pub(crate) fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn pretty(json: &Json, indent: usize, out: &mut String) {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    match json {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => write!(out, "{value}").unwrap(),
        Json::Number(number) => out.push_str(number),
        Json::Text(text) => out.push_str(&quoted(text)),
        Json::List(list) if list.is_empty() => out.push_str("[]"),
        Json::Object(members) if members.is_empty() => out.push_str("{}"),
        Json::List(list) => {
            for (index, item) in list.iter().enumerate() {
                out.push_str(if index == 0 { "[\n" } else { ",\n" });
                out.push_str(&"  ".repeat(indent + 1));
                pretty(item, indent + 1, out);
            }
            write!(out, "\n{}]", "  ".repeat(indent)).unwrap();
        }
        Json::Object(members) => {
            for (index, (key, value)) in members.iter().enumerate() {
                out.push_str(if index == 0 { "{\n" } else { ",\n" });
                write!(out, "{}{}: ", "  ".repeat(indent + 1), quoted(key)).unwrap();
                pretty(value, indent + 1, out);
            }
            write!(out, "\n{}}}", "  ".repeat(indent)).unwrap();
        }
    }
}

/// Compares with `tests/golden/control/NAME.json`.
#[track_caller]
pub(crate) fn check(name: &str, json: Json, dir: &Path) {
    let mut text = String::new();
    pretty(&masked(json, dir), 0, &mut text);
    text.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/control")
        .join(format!("{name}.json"));
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        text == wanted,
        "{name}: the answer is not what {} says\n--- wanted\n{wanted}--- got\n{text}",
        path.display()
    );
}
