//! Reading what a process answers to a probe. The modules are the kernel's own, taken by path: they are private there, and
//! pure.

#[allow(dead_code)] // Nobody is asked here.
#[path = "../../ron-kernel/src/process/probe/health.rs"]
mod health;
#[allow(dead_code)] // As above.
#[path = "../../ron-kernel/src/process/probe/http.rs"]
mod http;
#[path = "../../ron-kernel/src/process/probe/msgpack.rs"]
mod msgpack;

use health::Refusal;
use http::{Head, HeadError};
use msgpack::{Malformed, Value};
use rmpv::ValueRef;

/// Takes an answer; the call it should be to is the number of its bytes.
pub fn probe_answers(bytes: &[u8]) {
    messagepack(bytes);
    health_answer(bytes);
    http_head(bytes);
}

/// What is read is what rmpv reads, and no prefix of it is a value.
fn messagepack(bytes: &[u8]) {
    let mut rest = bytes;
    let theirs = rmpv::decode::read_value_ref(&mut rest);
    match (msgpack::decode(bytes), theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert!(rest.is_empty(), "{} bytes left", rest.len());
            assert!(agree(&ours, &theirs), "{ours:?} {theirs:?}");
            for len in 0..bytes.len().min(400) {
                let cut = msgpack::decode(&bytes[..len]);
                assert!(matches!(cut, Err(Malformed::Truncated { .. })), "{cut:?}");
            }
        }
        (Err(Malformed::Trailing { bytes }), Ok(_)) => assert_eq!(bytes, rest.len()),
        (Err(Malformed::Truncated { .. }), Err(_)) => {}
        // rmpv takes these, to fail later or not.
        (Err(Malformed::Reserved { .. } | Malformed::Text { .. } | Malformed::Depth { .. }), _) => {
        }
        (ours, theirs) => panic!("{ours:?} {theirs:?}"),
    }
}

fn agree(ours: &Value<'_>, theirs: &ValueRef<'_>) -> bool {
    match (ours, theirs) {
        (Value::Nil, ValueRef::Nil) => true,
        (Value::Bool(a), ValueRef::Boolean(b)) => a == b,
        (Value::UInt(a), ValueRef::Integer(b)) => b.as_u64() == Some(*a),
        (Value::Int(a), ValueRef::Integer(b)) => b.as_i64() == Some(*a) && *a < 0,
        (Value::Str(a), ValueRef::String(b)) => b.as_str() == Some(a),
        (Value::Bin(a), ValueRef::Binary(b)) => a == b,
        (Value::Array(a), ValueRef::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agree(a, b))
        }
        (Value::Map(a), ValueRef::Map(b)) => {
            let pairs = a.iter().zip(b);
            a.len() == b.len() && { pairs }.all(|(a, b)| agree(&a.0, &b.0) && agree(&a.1, &b.1))
        }
        (Value::Other, ValueRef::F32(_) | ValueRef::F64(_) | ValueRef::Ext(..)) => true,
        _ => false,
    }
}

/// A reason is fit for a log line, and an answer that names its call answers no other.
fn health_answer(bytes: &[u8]) {
    let asked = bytes.len() as u64;
    match health::verdict(bytes, asked) {
        Ok(()) => {
            let decoded = msgpack::decode(bytes).expect("it was understood");
            let corr_id = match &decoded {
                Value::Map(pairs) => {
                    let mut named = pairs.iter().filter(|(k, _)| *k == Value::Str("corr_id"));
                    named.next().map(|(_, value)| value)
                }
                Value::Array(items) => items.get(2),
                _ => None,
            };
            let is_anybodys = matches!(corr_id, None | Some(Value::Nil));
            assert_eq!(health::verdict(bytes, asked + 1).is_ok(), is_anybodys);
        }
        Err(Refusal::NotWell { reason }) => {
            assert!(
                !reason.is_empty() && !reason.contains(char::is_control),
                "{reason:?}"
            );
            assert!(reason.chars().count() <= 201, "{reason:?}");
        }
        Err(Refusal::OtherCall { answered } | Refusal::Unclear { found: answered }) => {
            assert!(!answered.contains(char::is_control), "{answered:?}");
        }
        Err(Refusal::Malformed(_)) => {}
    }
    // Any text can be the name of a service.
    let request = health::request(&String::from_utf8_lossy(bytes), asked);
    assert!(msgpack::decode(&request[4..]).is_ok());
}

/// In which pieces a head comes does not matter.
fn http_head(bytes: &[u8]) {
    let whole = Head::default().feed(bytes);
    let mut head = Head::default();
    let mut pieces = Ok(None);
    for piece in bytes.chunks(1 + bytes.len() % 7) {
        pieces = head.feed(piece);
        if !matches!(pieces, Ok(None)) {
            break;
        }
    }
    match (whole, pieces) {
        (Err(HeadError::NotHttp { .. }), Err(HeadError::NotHttp { .. })) => {}
        (whole, pieces) => assert_eq!(whole, pieces),
    }
}
