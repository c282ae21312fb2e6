//! The grammar of durations and sizes, by vectors that other implementations of it run too.

use std::time::Duration;

use proptest::prelude::*;
use ron_config::{format_duration, parse_duration, ByteSize, UnitError};
use serde_json::Value as Json;

const VECTORS: &str = include_str!("vectors/units.json");

fn name(error: UnitError) -> &'static str {
    match error {
        UnitError::BareNumber => "bare_number",
        UnitError::NoNumber => "no_number",
        UnitError::Fraction => "fraction",
        UnitError::UnknownUnit => "unknown_unit",
        UnitError::TooLarge => "too_large",
        other => panic!("no vector for {other:?}"),
    }
}

#[test]
fn every_vector_holds() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert!(vectors.len() > 90, "{} vectors", vectors.len());
    for vector in vectors {
        let input = vector["input"].as_str().unwrap();
        let result = match vector["kind"].as_str().unwrap() {
            "duration" => parse_duration(input).map(|d| d.as_nanos().to_string()),
            "size" => ByteSize::parse(input).map(|s| s.bytes().to_string()),
            kind => panic!("{kind}"),
        };
        match (vector["ok"].as_str(), vector["error"].as_str()) {
            (Some(ok), None) => assert_eq!(result.as_deref(), Ok(ok), "{vector}"),
            (None, Some(error)) => assert_eq!(result.map_err(name), Err(error), "{vector}"),
            _ => panic!("{vector}"),
        }
    }
}

proptest! {
    #[test]
    fn a_duration_of_whole_milliseconds_reads_back_as_written(ms in 0..=u64::MAX / 1_000_000) {
        let duration = Duration::from_millis(ms);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn a_finer_duration_is_shown_as_what_no_file_accepts(nanos in 1..1_000_000u64, ms in 0..1_000u64) {
        let duration = Duration::from_nanos(ms * 1_000_000 + nanos);
        prop_assume!(duration.as_nanos() % 1_000_000 != 0);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Err(UnitError::UnknownUnit));
    }

    #[test]
    fn a_size_reads_back_as_written(bytes: u64) {
        let size = ByteSize::new(bytes);
        prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
    }

    #[test]
    fn the_parser_never_panics(text in any::<String>()) {
        let _ = parse_duration(&text);
        let _ = ByteSize::parse(&text);
    }
}
