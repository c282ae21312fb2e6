//! The `v1.health` call: a request and what an answer says, as bytes. [`Probe::v1_health`](super::Probe::v1_health)
//! documents the shapes.
//!
//! The services that speak it read their messages with rmp-serde into `{service: String, method: String, corr_id: u64,
//! token: Vec<u8>, payload: Vec<u8>}`. So `token` is empty and not nil, and both are arrays of numbers: rmp-serde before
//! 1.3 reads a `Vec<u8>` from nothing else. What they act on is the payload.

use super::msgpack::{self, Malformed, Value};

/// The method that is called.
const METHOD: &str = "v1.health";

/// The payload of a request and of a good answer, MessagePack within MessagePack.
const HEALTH: &str = "Health";
const HEALTH_OK: &str = "HealthOk";

/// Bytes of an answer. An answer takes about a hundred; a service that says more has gone wrong.
pub(crate) const ANSWER_MAX: usize = 64 * 1024;

/// Characters of a reason; it becomes part of a log line.
const REASON_MAX: usize = 200;

/// Why an answer is not a good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The bytes, or those of its payload, are not MessagePack.
    Malformed(Malformed),
    /// It answers another call.
    OtherCall { answered: String },
    /// The service says that it is not well.
    NotWell { reason: String },
    /// It says neither.
    Unclear { found: String },
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Malformed(malformed)
    }
}

/// A request, with its length in front.
pub(crate) fn request(service: &str, corr_id: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    msgpack::write_str(&mut payload, HEALTH);

    let mut frame = vec![0; 4];
    frame.push(msgpack::map_of(5));
    for (key, value) in [("service", service), ("method", METHOD)] {
        msgpack::write_str(&mut frame, key);
        msgpack::write_str(&mut frame, value);
    }
    msgpack::write_str(&mut frame, "corr_id");
    msgpack::write_uint(&mut frame, corr_id);
    msgpack::write_str(&mut frame, "token");
    frame.push(msgpack::array_of(0));
    msgpack::write_str(&mut frame, "payload");
    frame.push(msgpack::array_of(payload.len() as u8));
    for byte in payload {
        msgpack::write_uint(&mut frame, byte.into());
    }
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    frame
}

/// What the answer `body` to the call `corr_id` says.
pub(crate) fn verdict(body: &[u8], corr_id: u64) -> Result<(), Refusal> {
    let answer = msgpack::decode(body)?;
    let envelope = Envelope::of(&answer);
    match envelope.corr_id {
        None | Some(Value::Nil) => {}
        Some(Value::UInt(answered)) if *answered == corr_id => {}
        Some(other) => {
            let answered = describe(other);
            return Err(Refusal::OtherCall { answered });
        }
    }

    let bytes = envelope.payload.and_then(byte_string);
    let decoded;
    let inner = match &bytes {
        Some(bytes) if bytes.is_empty() => None,
        Some(bytes) => {
            decoded = msgpack::decode(bytes)?;
            Some(&decoded)
        }
        None => envelope.payload,
    };
    // What is wrong outweighs what is well, wherever it stands.
    let said = [says(&answer), inner.map_or(Says::Nothing, says)];
    if let Some(reason) = said.iter().find_map(Says::not_well) {
        return Err(Refusal::NotWell { reason });
    }
    let method_says_it = envelope.method == Some(&Value::Str(HEALTH_OK));
    if said.contains(&Says::Well) || method_says_it {
        return Ok(());
    }
    let found = describe(inner.unwrap_or(&answer));
    Err(Refusal::Unclear { found })
}

/// The fields of an answer that has them: a map by name, or an array in the order of the request's.
#[derive(Default)]
struct Envelope<'v, 'a> {
    method: Option<&'v Value<'a>>,
    corr_id: Option<&'v Value<'a>>,
    payload: Option<&'v Value<'a>>,
}

impl<'v, 'a> Envelope<'v, 'a> {
    fn of(answer: &'v Value<'a>) -> Self {
        match answer {
            Value::Map(pairs) => Envelope {
                method: field(pairs, "method"),
                corr_id: field(pairs, "corr_id"),
                payload: field(pairs, "payload"),
            },
            Value::Array(items) => match items.as_slice() {
                [_service, method, corr_id, _token, payload] => Envelope {
                    method: Some(method),
                    corr_id: Some(corr_id),
                    payload: Some(payload),
                },
                _ => Envelope::default(),
            },
            _ => Envelope::default(),
        }
    }
}

fn field<'v, 'a>(pairs: &'v [(Value<'a>, Value<'a>)], name: &str) -> Option<&'v Value<'a>> {
    let mut named = pairs
        .iter()
        .filter(|(key, _)| matches!(key, Value::Str(key) if *key == name));
    named.next().map(|(_, value)| value)
}

/// The bytes that a binary or an array of numbers below 256 stands for.
fn byte_string(value: &Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Bin(bytes) => Some(bytes.to_vec()),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::UInt(number) => u8::try_from(*number).ok(),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Says {
    Well,
    NotWell(String),
    Nothing,
}

impl Says {
    fn not_well(&self) -> Option<String> {
        match self {
            Says::NotWell(reason) => Some(reason.clone()),
            Says::Well | Says::Nothing => None,
        }
    }
}

/// What one value says, its payload aside.
fn says(value: &Value<'_>) -> Says {
    let pairs = match value {
        Value::Str(HEALTH_OK) => return Says::Well,
        Value::Map(pairs) => pairs,
        _ => return Says::Nothing,
    };
    for name in ["error", "err", "Err"] {
        match field(pairs, name) {
            None | Some(Value::Nil | Value::Bool(false) | Value::Str("")) => {}
            Some(error) => return Says::NotWell(reason(error)),
        }
    }
    match (field(pairs, "ok"), field(pairs, HEALTH_OK)) {
        (Some(Value::Bool(false)), _) => Says::NotWell(reason(value)),
        (Some(Value::Bool(true)), _) | (None, Some(_)) => Says::Well,
        _ => Says::Nothing,
    }
}

/// The text that a value gives as a reason.
fn reason(value: &Value<'_>) -> String {
    let text = match value {
        Value::Str(text) => Some(*text),
        // A struct of one field, as rmp-serde writes it.
        Value::Array(items) => match items.as_slice() {
            [Value::Str(text)] => Some(*text),
            _ => None,
        },
        Value::Map(pairs) => ["status", "reason", "message", "cause", "err"]
            .iter()
            .find_map(|name| match field(pairs, name) {
                Some(Value::Str(text)) => Some(*text),
                _ => None,
            }),
        _ => None,
    };
    match text {
        Some(text) if !text.trim().is_empty() => printable(text),
        _ => "no reason given".to_owned(),
    }
}

/// What stands there, for somebody who expected something else.
fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Str(text) => format!("`{}`", printable(text)),
        Value::Bin(bytes) => format!("{} bytes", bytes.len()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Map(pairs) => format!("a map of {}", pairs.len()),
        Value::Other => "a value of another kind".to_owned(),
    }
}

/// `text` without control characters, and not all of it if there is much.
fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let mut clipped: String = text.chars().take(REASON_MAX).map(visible).collect();
    if text.chars().nth(REASON_MAX).is_some() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_these_bytes() {
        let golden = b"\0\0\0\x47\
            \x85\
            \xa7service\xa9svc.index\
            \xa6method\xa9v1.health\
            \xa7corr_id\xcd\x01\x2c\
            \xa5token\x90\
            \xa7payload\x97\xcc\xa6Health";
        assert_eq!(request("svc.index", 300), golden);
    }

    fn not_well(reason: &str) -> Result<(), Refusal> {
        let reason = reason.to_owned();
        Err(Refusal::NotWell { reason })
    }

    fn unclear(found: &str) -> Result<(), Refusal> {
        let found = found.to_owned();
        Err(Refusal::Unclear { found })
    }

    fn other_call(answered: &str) -> Result<(), Refusal> {
        let answered = answered.to_owned();
        Err(Refusal::OtherCall { answered })
    }

    /// An answer to call 300 as rmp-serde writes a struct of five, `payload` bytes of it as an array.
    fn compact(payload: &[u8]) -> Vec<u8> {
        let mut answer = b"\x95\xa9svc-index\xa5v1.ok\xcd\x01\x2c\x90\xdc".to_vec();
        answer.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        payload
            .iter()
            .for_each(|b| msgpack::write_uint(&mut answer, (*b).into()));
        answer
    }

    /// An answer to call 300 as a map, with `payload` in it as it is.
    fn named(payload: &[u8]) -> Vec<u8> {
        let head = b"\x83\xa6method\xa5v1.ok\xa7corr_id\xcd\x01\x2c\xa7payload";
        [&head[..], payload].concat()
    }

    #[test]
    fn an_answer_is_read_in_each_shape_that_services_give_it() {
        let cases: Vec<(&str, Vec<u8>, Result<(), Refusal>)> = vec![
            // What the services answer that read and write with rmp-serde, whatever its version.
            (
                "golden",
                b"\x95\xa9svc.index\xa5v1.ok\xcd\x01\x2c\x90\x99\xcc\xa8HealthOk".to_vec(),
                Ok(()),
            ),
            ("compact", compact(b"\xa8HealthOk"), Ok(())),
            (
                "unit variant as a map",
                compact(b"\x81\xa8HealthOk\xc0"),
                Ok(()),
            ),
            (
                "compact error",
                compact(b"\x81\xa3Err\x91\xa7no disk"),
                not_well("no disk"),
            ),
            (
                "named error",
                compact(b"\x81\xa3Err\x81\xa3err\xa7no disk"),
                not_well("no disk"),
            ),
            (
                "another variant",
                compact(b"\xa8NotFound"),
                unclear("`NotFound`"),
            ),
            ("no payload", compact(b""), unclear("an array of 5")),
            (
                "payload of garbage",
                compact(b"\xc1"),
                Err(Refusal::Malformed(Malformed::Reserved { at: 0 })),
            ),
            // A map with the payload as bytes, as text, as a map.
            ("binary", named(b"\xc4\x09\xa8HealthOk"), Ok(())),
            ("array of bytes", named(b"\x99\xcc\xa8HealthOk"), Ok(())),
            ("text", named(b"\xa8HealthOk"), Ok(())),
            ("ok", named(b"\x81\xa2ok\xc3"), Ok(())),
            ("ok in a binary", named(b"\xc4\x05\x81\xa2ok\xc3"), Ok(())),
            (
                "ok and a status",
                named(b"\x82\xa2ok\xc3\xa6status\xa9replaying"),
                Ok(()),
            ),
            (
                "not ok, with a status",
                named(b"\x82\xa2ok\xc2\xa6status\xa9replaying"),
                not_well("replaying"),
            ),
            (
                "not ok, with a reason",
                named(b"\x82\xa2ok\xc2\xa6reason\xa4disk"),
                not_well("disk"),
            ),
            (
                "not ok, with a message",
                named(b"\x82\xa2ok\xc2\xa7message\xa4disk"),
                not_well("disk"),
            ),
            (
                "not ok, with a cause",
                named(b"\x82\xa2ok\xc2\xa5cause\xa4disk"),
                not_well("disk"),
            ),
            (
                "not ok",
                named(b"\x81\xa2ok\xc2"),
                not_well("no reason given"),
            ),
            (
                "a reason over several lines",
                named(b"\x82\xa2ok\xc2\xa5cause\xa4a\nb\x1b"),
                not_well("a b "),
            ),
            (
                "ok is no bool",
                named(b"\x81\xa2ok\x01"),
                unclear("a map of 1"),
            ),
            ("nil", named(b"\xc0"), unclear("nil")),
            ("a number", named(b"\x2a"), unclear("42")),
            (
                "a list",
                named(b"\x91\xa8HealthOk"),
                unclear("an array of 1"),
            ),
            (
                "error outweighs ok",
                named(b"\x82\xa2ok\xc3\xa5error\xa4disk"),
                not_well("disk"),
            ),
            (
                "no error",
                named(b"\x83\xa2ok\xc3\xa5error\xc0\xa3err\xa0"),
                Ok(()),
            ),
            // Without an envelope, or with all of it in there.
            ("bare text", b"\xa8HealthOk".to_vec(), Ok(())),
            ("bare map", b"\x81\xa2ok\xc3".to_vec(), Ok(())),
            (
                "bare text of another kind",
                b"\xa2ok".to_vec(),
                unclear("`ok`"),
            ),
            (
                "method",
                b"\x82\xa6method\xa8HealthOk\xa7corr_id\xcd\x01\x2c".to_vec(),
                Ok(()),
            ),
            (
                "error beside a good payload",
                b"\x82\xa5error\xa4busy\xa7payload\xa8HealthOk".to_vec(),
                not_well("busy"),
            ),
            (
                "good beside a bad payload",
                b"\x82\xa2ok\xc3\xa7payload\x82\xa2ok\xc2\xa5cause\xa4disk".to_vec(),
                not_well("disk"),
            ),
            (
                "nested ok is not looked for",
                b"\x81\xa4data\x81\xa2ok\xc3".to_vec(),
                unclear("a map of 1"),
            ),
            // Whose answer it is.
            (
                "another call",
                b"\x82\xa2ok\xc3\xa7corr_id\x07".to_vec(),
                other_call("7"),
            ),
            (
                "another call, not well",
                b"\x82\xa2ok\xc2\xa7corr_id\x07".to_vec(),
                other_call("7"),
            ),
            (
                "another call, compact",
                b"\x95\xa1s\xa5v1.ok\x07\x90\xa8HealthOk".to_vec(),
                other_call("7"),
            ),
            (
                "its number as text",
                b"\x82\xa2ok\xc3\xa7corr_id\xa3300".to_vec(),
                other_call("`300`"),
            ),
            (
                "no number",
                b"\x82\xa2ok\xc3\xa7corr_id\xc0".to_vec(),
                Ok(()),
            ),
            // Not an answer.
            (
                "empty",
                vec![],
                Err(Refusal::Malformed(Malformed::Truncated { at: 0 })),
            ),
            (
                "two answers",
                b"\xa8HealthOk\xa8HealthOk".to_vec(),
                Err(Refusal::Malformed(Malformed::Trailing { bytes: 9 })),
            ),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(verdict(&bytes, 300), expected, "{name}");
        }
    }

    #[test]
    fn a_reason_of_many_characters_is_cut() {
        let mut answer = b"\x82\xa2ok\xc2\xa5cause".to_vec();
        msgpack::write_str(&mut answer, &"ö".repeat(1000));
        let expected = format!("{}…", "ö".repeat(REASON_MAX));
        assert_eq!(verdict(&answer, 300), not_well(&expected));
    }

    proptest! {
        #[test]
        fn a_request_is_one_map_of_what_was_asked(service in ".{0,300}", corr_id in any::<u64>()) {
            let frame = request(&service, corr_id);
            let (len, body) = frame.split_at(4);
            prop_assert_eq!(len, (body.len() as u32).to_be_bytes());
            let Ok(Value::Map(pairs)) = msgpack::decode(body) else { panic!("{body:x?}") };
            prop_assert_eq!(field(&pairs, "service"), Some(&Value::Str(&service)));
            prop_assert_eq!(field(&pairs, "corr_id"), Some(&Value::UInt(corr_id)));
            let payload = field(&pairs, "payload").and_then(byte_string);
            prop_assert_eq!(payload, Some(b"\xa6Health".to_vec()));
        }

        #[test]
        fn no_changed_byte_of_an_answer_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            is_named in any::<bool>(),
        ) {
            let payload = b"\x82\xa2ok\xc2\xa5cause\xa4disk";
            let mut answer = if is_named { named(payload) } else { compact(payload) };
            for (place, byte) in changes {
                let place = place.index(answer.len());
                answer[place] = byte;
            }
            if let Err(Refusal::NotWell { reason }) = verdict(&answer, 300) {
                prop_assert!(!reason.chars().any(char::is_control));
            }
        }
    }
}
