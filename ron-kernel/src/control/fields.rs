//! What a request says: the members of its query and of its body, each of which must be known and of the right kind.

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The members of a query, decoded.
pub(crate) fn query(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if found.insert(name.clone(), value).is_some() {
            return Err(format!("`{name}` is given twice in the query"));
        }
    }
    Ok(found)
}

/// Undoes percent-encoding; `+` is a blank, as forms have it.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(hex));
                let [Some(high), Some(low)] = digits else {
                    return Err(format!("`{text}`: behind % stand two hexadecimal digits"));
                };
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8 when decoded"))
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// A body: an object whose members are taken one by one.
#[derive(Debug)]
pub(crate) struct Fields {
    members: BTreeMap<String, Value>,
    /// Asked for so far, for the message about others.
    known: Vec<&'static str>,
}

impl Fields {
    /// An absent body is an empty object.
    pub(crate) fn of(body: &[u8]) -> Result<Fields, String> {
        let members = match body {
            [] => Members::default(),
            body => serde_json::from_slice(body).map_err(|error| match error.is_data() {
                true => format!("the body: {error}"),
                false => format!("the body is no JSON: {error}"),
            })?,
        };
        Ok(Fields {
            members: members.0,
            known: Vec::new(),
        })
    }

    /// A member of the body; null is as good as absent.
    fn take<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        self.known.push(name);
        match self.members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(format!(
                    "the body: `{name}` is {value}, expected {expected}"
                )),
            },
        }
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, String> {
        self.take(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A text that has to be there.
    pub(crate) fn required_text(&mut self, name: &'static str) -> Result<String, String> {
        match (self.text(name)?, self.members.keys().next()) {
            (Some(text), _) => Ok(text),
            (None, None) => Err(format!("the body: `{name}` is missing")),
            (None, Some(other)) => {
                Err(format!("the body: `{name}` is missing; there is `{other}`"))
            }
        }
    }

    pub(crate) fn path(&mut self, name: &'static str) -> Result<Option<PathBuf>, String> {
        self.take(name, "a path", |value| value.as_str().map(PathBuf::from))
    }

    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<u64>, String> {
        self.take(name, "an integer of 0 or more", Value::as_u64)
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, String> {
        let flag = self.take(name, "true or false", Value::as_bool)?;
        Ok(flag.unwrap_or(false))
    }

    /// Nothing else may be there.
    pub(crate) fn end(self) -> Result<(), String> {
        let Some(name) = self.members.keys().next() else {
            return Ok(());
        };
        Err(match &self.known[..] {
            [] => format!("the body: unknown field `{name}`; there are none"),
            known => format!(
                "the body: unknown field `{name}`, expected {}",
                known.join(", ")
            ),
        })
    }
}

/// The members of an object, each once.
#[derive(Default)]
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.0.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("`{name}` is given twice")));
                    }
                    members.0.insert(name, value);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_must_make_sense() {
        let pairs = |text| query(text).map(|found| found.into_iter().collect::<Vec<_>>());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs("").unwrap(), []);
        assert_eq!(
            pairs("id=a%2Fb%20c+d&x").unwrap(),
            [pair("id", "a/b c d"), pair("x", "")]
        );
        assert_eq!(pairs("id=%c3%A4").unwrap(), [pair("id", "ä")]);
        for (text, expected) in [
            ("id=%zz", "`%zz`: behind % stand two hexadecimal digits"),
            ("id=%2", "`%2`: behind % stand two hexadecimal digits"),
            ("id=%ff", "`%ff` is not UTF-8 when decoded"),
            ("a=1&a=2", "`a` is given twice in the query"),
        ] {
            assert_eq!(pairs(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn bodies_are_objects_of_known_members_of_the_right_kind() {
        let read = |body: &str| {
            let mut fields = Fields::of(body.as_bytes())?;
            let read = (
                fields.text("id")?,
                fields.number("count")?,
                fields.flag("wait")?,
            );
            fields.end()?;
            Ok::<_, String>(read)
        };
        assert_eq!(read("").unwrap(), (None, None, false));
        let all = r#"{"id":"a","count":3,"wait":true}"#;
        assert_eq!(read(all).unwrap(), (Some("a".to_owned()), Some(3), true));
        assert_eq!(read(r#"{"id":null}"#).unwrap().0, None);
        for (body, expected) in [
            (
                "[\"a\"]",
                "the body: invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                r#"{"id":"a","id":"b"}"#,
                "the body: `id` is given twice at line 1 column 19",
            ),
            (r#"{"id":7}"#, "the body: `id` is 7, expected a text"),
            (
                r#"{"count":-1}"#,
                "the body: `count` is -1, expected an integer of 0 or more",
            ),
            (
                r#"{"wait":1}"#,
                "the body: `wait` is 1, expected true or false",
            ),
            (
                r#"{"if":1}"#,
                "the body: unknown field `if`, expected id, count, wait",
            ),
        ] {
            assert_eq!(read(body).unwrap_err(), expected);
        }
        assert!(read("{").unwrap_err().starts_with("the body is no JSON"));
        let none = Fields::of(br#"{"x":1}"#).unwrap().end().unwrap_err();
        assert_eq!(none, "the body: unknown field `x`; there are none");
        let missing = |body: &str| {
            let mut fields = Fields::of(body.as_bytes()).unwrap();
            fields.required_text("id").unwrap_err()
        };
        assert_eq!(missing(""), "the body: `id` is missing");
        assert_eq!(
            missing(r#"{"ID":"a"}"#),
            "the body: `id` is missing; there is `ID`"
        );
    }
}
