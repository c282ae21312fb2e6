//! From JSON as people write it to the canonical form, which is what is signed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::json::Defect;
use super::policy::{Policy, POLICY_BYTES_MAX};

/// Why a text has no canonical form as a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TidyError {
    /// It is no JSON of integers, strings and objects.
    #[error("line {line}, column {column}: {what}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// There is too much of it.
    #[error("a policy has at most {POLICY_BYTES_MAX} bytes")]
    Length,
    /// Tidied up, it is no policy. The byte is one of the tidy text, the element is the same in both.
    #[error(transparent)]
    Policy(#[from] Defect),
}

/// The canonical form of a policy that was written with whitespace and its fields in any order.
///
/// # Errors
///
/// The text is no JSON, has a field twice, or is no policy.
pub fn tidy(text: &[u8]) -> Result<Vec<u8>, TidyError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(TidyError::Length);
    }
    let value: Value = serde_json::from_slice(text).map_err(|error| TidyError::Json {
        line: error.line(),
        column: error.column(),
        what: what(&error),
    })?;
    let bytes = value.to_string().into_bytes();
    Policy::read(&bytes)?;
    Ok(bytes)
}

const REPEATED: &str = "a field stands twice";
const INTEGERS: &str = "numbers are integers, from 0 on";

/// Without the text of the document, which messages of serde may have.
fn what(error: &serde_json::Error) -> &'static str {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "the text ends in the middle",
        Category::Data if error.to_string().starts_with(REPEATED) => REPEATED,
        Category::Data if error.to_string().starts_with(INTEGERS) => INTEGERS,
        _ => "not JSON of objects, strings, integers and null",
    }
}

enum Value {
    Null,
    Integer(u64),
    Text(String),
    Object(BTreeMap<String, Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |f: &mut fmt::Formatter<'_>, text: &str| {
            // Writing a string as JSON does not fail.
            f.write_str(&serde_json::to_string(text).unwrap_or_default())
        };
        match self {
            Value::Null => f.write_str("null"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Text(text) => quoted(f, text),
            Value::Object(fields) => {
                for (at, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if at == 0 { "{" } else { "," })?;
                    quoted(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str(if fields.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, a string, an integer or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Err(E::custom(INTEGERS))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom(INTEGERS))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom(REPEATED));
            }
        }
        Ok(Value::Object(fields))
    }
}
