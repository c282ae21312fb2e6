//! Every key from every source: what it may hold, each bound, one beyond it, and garbage.

use std::time::Duration;

use ryker::config::{ConfigError, ErrorKind, RykerConfig, SpanLevel};

use crate::sources::{json, only, toml, variables, Number, FLAGS, LEVEL, NUMBERS};

/// The number from each of the four sources.
fn everywhere(number: &Number, n: u64) -> [(&'static str, Result<RykerConfig, ConfigError>); 4] {
    let beside = number.beside.map(|(key, n)| (Number::of(key), n));
    let (text, literal) = (number.text(n), number.literal(n));
    let mut env = vec![(number.variable, text.as_str())];
    let mut file = vec![(number.key, literal.as_str())];
    let mut code = (number.set)(RykerConfig::builder(), n);
    let (beside_text, beside_literal);
    if let Some((other, n)) = beside {
        beside_text = other.text(n);
        beside_literal = other.literal(n);
        env.push((other.variable, &beside_text));
        file.push((other.key, &beside_literal));
        code = (other.set)(code, n);
    }
    [
        ("variables", variables(&env)),
        ("toml", toml(&file)),
        ("json", json(&file)),
        ("builder", code.build()),
    ]
}

#[test]
fn every_number_is_taken_from_its_lowest_to_its_highest_value_from_every_source() {
    for number in &NUMBERS {
        assert_eq!((number.get)(&RykerConfig::default()), number.default);
        let (low, high) = (number.low.0, number.high.0);
        for n in [low, low + 1, number.default, high - 1, high] {
            for (source, result) in everywhere(number, n) {
                let cfg = result.unwrap_or_else(|error| panic!("{source}: {error}"));
                assert_eq!((number.get)(&cfg), n, "{} from {source}", number.key);
            }
        }
    }
}

#[test]
fn every_number_beyond_a_bound_is_refused_from_every_source() {
    for number in &NUMBERS {
        let (low, low_shown) = number.low;
        let (high, high_shown) = number.high;
        for (n, what) in [
            (low - 1, format!("is below {low_shown}")),
            (high + 1, format!("is above {high_shown}")),
            (u64::from(u32::MAX), format!("is above {high_shown}")),
        ] {
            for (source, result) in everywhere(number, n) {
                let error = result.clone().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
                let expected = (number.key.to_owned(), what.clone());
                assert_eq!(only(result), expected, "{source}");
            }
        }
    }
}

#[test]
fn every_flag_and_level_is_taken_from_every_source() {
    for flag in &FLAGS {
        assert_eq!((flag.get)(&RykerConfig::default()), flag.default);
        for (on, text, digit) in [(true, "true", "1"), (false, "false", "0")] {
            for cfg in [
                variables(&[(flag.variable, text)]),
                variables(&[(flag.variable, digit)]),
                toml(&[(flag.key, text)]),
                json(&[(flag.key, text)]),
                (flag.set)(RykerConfig::builder(), on).build(),
            ] {
                assert_eq!((flag.get)(&cfg.unwrap()), on, "{} {text}", flag.key);
            }
        }
    }
    assert_eq!(RykerConfig::default().span_level(), SpanLevel::Info);
    for (level, text) in [
        (SpanLevel::Off, "off"),
        (SpanLevel::Error, "error"),
        (SpanLevel::Warn, "warn"),
        (SpanLevel::Info, "info"),
        (SpanLevel::Debug, "debug"),
        (SpanLevel::Trace, "trace"),
    ] {
        let literal = format!("\"{text}\"");
        for cfg in [
            variables(&[(LEVEL.1, text)]),
            toml(&[(LEVEL.0, &literal)]),
            json(&[(LEVEL.0, &literal)]),
            RykerConfig::builder().span_level(level).build(),
        ] {
            assert_eq!(cfg.unwrap().span_level(), level);
        }
    }
}

const NO_UNIT: &str = "is a bare number and needs a unit";
const NO_NUMBER: &str = "does not begin with a whole number";
const UNKNOWN_UNIT: &str = "has an unknown unit";
const EMPTY: &str = "is empty; unset the variable for the default";

#[test]
fn garbage_in_a_variable_is_refused_and_says_why() {
    let bare = [
        ("", EMPTY),
        (" ", "is not a whole number"),
        (" 5", "is not a whole number"),
        ("5\n", "is not a whole number"),
        ("+5", "is not a whole number"),
        ("-5", "is not a whole number"),
        ("5.0", "is not a whole number"),
        ("0x10", "is not a whole number"),
        ("1_000", "is not a whole number"),
        ("100ms", "is not a whole number"),
        ("\u{661}", "is not a whole number"),
    ];
    let with_unit = [
        ("", EMPTY),
        ("5000", NO_UNIT),
        (" 5s", NO_NUMBER),
        ("-5s", NO_NUMBER),
        ("five", NO_NUMBER),
        ("5s ", UNKNOWN_UNIT),
        ("5S", UNKNOWN_UNIT),
        ("64kib", UNKNOWN_UNIT),
        ("1h30m", UNKNOWN_UNIT),
        (
            "1.5s",
            "has a fraction; write a whole number of a smaller unit",
        ),
    ];
    for number in &NUMBERS {
        let garbage: &[(&str, &str)] = if number.unit.is_empty() {
            &bare
        } else {
            &with_unit
        };
        for (text, what) in garbage {
            let result = variables(&[(number.variable, text)]);
            assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Parse);
            let expected = (number.key.to_owned(), (*what).to_owned());
            assert_eq!(only(result), expected, "{text:?}");
        }
    }
    for flag in &FLAGS {
        for text in ["yes", "on", "TRUE", "True", " true", "2", "01", "-1"] {
            let (key, what) = only(variables(&[(flag.variable, text)]));
            assert_eq!((&*key, &*what), (flag.key, "is neither true nor false"));
        }
        assert_eq!(only(variables(&[(flag.variable, "")])).1, EMPTY);
    }
    for text in ["INFO", "warning", " info", "5", "none"] {
        let (key, what) = only(variables(&[(LEVEL.1, text)]));
        assert_eq!((&*key, &*what), (LEVEL.0, "is no level"), "{text}");
    }
}

#[test]
fn a_number_of_more_than_64_bits_is_above_the_bound_and_no_other_number() {
    let huge = "18446744073709551617";
    for number in NUMBERS.iter().filter(|number| number.unit.is_empty()) {
        let what = format!("is above {}", number.high.1);
        assert_eq!(only(variables(&[(number.variable, huge)])).1, what);
        assert_eq!(only(toml(&[(number.key, huge)])).1, what);
        assert_eq!(only(json(&[(number.key, huge)])).1, what);
    }
    for number in NUMBERS.iter().filter(|number| !number.unit.is_empty()) {
        let text = format!("{huge}{}", number.unit);
        assert_eq!(
            only(variables(&[(number.variable, &text)])).1,
            "is too large"
        );
    }
    let error = RykerConfig::builder().deadline(Duration::MAX).build();
    assert_eq!(only(error).1, "is above 1m");
}

#[test]
fn a_value_of_another_type_in_a_file_is_refused_and_says_what_it_is() {
    let both = [
        ("\"5\"", "is a text", "", ""),
        ("true", "is a boolean", "is a boolean", ""),
        ("5", "", NO_UNIT, "is a number"),
        (
            "5.0",
            "is a number with a fraction",
            "is a number with a fraction",
            "is a number with a fraction",
        ),
        ("[5]", "is an array", "is an array", "is an array"),
        ("{}", "is a table", "is a table", "is a table"),
        ("\"true\"", "is a text", NO_NUMBER, "is a text"),
        ("-5", "is negative", NO_UNIT, "is a number"),
    ];
    let texts = NUMBERS.iter().filter(|number| !number.unit.is_empty());
    let bares = NUMBERS.iter().filter(|number| number.unit.is_empty());
    let keys = bares
        .map(|number| (number.key, 0))
        .chain(texts.map(|number| (number.key, 1)))
        .chain(FLAGS.iter().map(|flag| (flag.key, 2)));
    for (key, form) in keys {
        for (literal, bare, text, flag) in both {
            let what = [bare, text, flag][form];
            if what.is_empty() {
                continue;
            }
            for result in [toml(&[(key, literal)]), json(&[(key, literal)])] {
                assert_eq!(only(result), (key.to_owned(), what.to_owned()), "{literal}");
            }
        }
        let (_, what) = only(json(&[(key, "null")]));
        assert_eq!(what, "is null");
        let (_, what) = only(toml(&[(key, "1979-05-27")]));
        assert_eq!(what, "is a date or time");
    }
    for (literal, what) in [
        ("\"loud\"", "is no level"),
        ("3", "is a number"),
        ("false", "is a boolean"),
    ] {
        for result in [toml(&[(LEVEL.0, literal)]), json(&[(LEVEL.0, literal)])] {
            assert_eq!(only(result), (LEVEL.0.to_owned(), what.to_owned()));
        }
    }
}

#[test]
fn numbers_of_toml_may_be_written_in_every_way_that_toml_has() {
    for literal in ["1_024", "0x400", "0o2000", "0b10000000000", "+1024"] {
        let cfg = toml(&[("defaults.mailbox_capacity", literal)]).unwrap();
        assert_eq!(cfg.mailbox_capacity(), 1_024, "{literal}");
    }
}

#[test]
fn a_duration_from_code_that_no_file_could_hold_is_refused() {
    let builder = RykerConfig::builder()
        .deadline(Duration::from_micros(10_500))
        .backoff_base(Duration::from_nanos(1))
        .rapid_fail_window(Duration::from_millis(1_500));
    let error = builder.build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 problems in the configuration of ryker\n\
         builder: defaults.deadline: 10.5ms is not a whole number of milliseconds; expected a duration from 10ms to 1m \
         (units ms, s, m, h), such as \"1s\"\n\
         builder: supervisor.backoff_base_ms: 1ns is not a whole number of milliseconds; expected whole milliseconds \
         from 1 to 3600000, no unit"
    );
}
