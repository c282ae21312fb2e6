//! No input panics, what is written reads back, and a naive model agrees on what is valid.

use std::ffi::OsString;
use std::time::Duration;

use proptest::prelude::*;
use ryker::config::{RykerConfig, SpanLevel};

use crate::sources::{Number, FLAGS, LEVEL, NUMBERS};

/// A number near a bound of its key, or any at all.
fn near(number: &'static Number) -> impl Strategy<Value = u64> {
    let (low, high) = (number.low.0, number.high.0);
    prop_oneof![
        3 => low..=high,
        1 => low.saturating_sub(2)..=low + 2,
        1 => high - 2..=high + 2,
        1 => any::<u32>().prop_map(u64::from),
    ]
}

type Values = (Vec<u64>, Vec<bool>, SpanLevel);

fn values() -> impl Strategy<Value = Values> {
    let numbers: Vec<_> = NUMBERS.iter().map(near).collect();
    let flags = proptest::collection::vec(any::<bool>(), FLAGS.len());
    let level = proptest::sample::select(vec![SpanLevel::Off, SpanLevel::Warn, SpanLevel::Trace]);
    (numbers, flags, level)
}

fn built((numbers, flags, level): &Values) -> Result<RykerConfig, ryker::config::ConfigError> {
    let mut builder = RykerConfig::builder().span_level(*level);
    for (number, n) in NUMBERS.iter().zip(numbers) {
        builder = (number.set)(builder, *n);
    }
    for (flag, on) in FLAGS.iter().zip(flags) {
        builder = (flag.set)(builder, *on);
    }
    builder.build()
}

/// Whether the values are valid, said once more in other words.
fn is_valid((numbers, flags, _): &Values) -> bool {
    let of = |key: &str| {
        NUMBERS
            .iter()
            .zip(numbers)
            .find(|(number, _)| number.key == key)
            .map(|(_, n)| *n)
    };
    let on = |key: &str| {
        FLAGS
            .iter()
            .zip(flags)
            .any(|(flag, on)| flag.key == key && *on)
    };
    let in_range = |(number, n): (&Number, &u64)| (number.low.0..=number.high.0).contains(n);
    NUMBERS.iter().zip(numbers).all(in_range)
        && of("supervisor.backoff_base_ms") <= of("supervisor.backoff_cap_ms")
        && of("fairness.batch_messages") <= of("fairness.yield_every_n_msgs")
        && (on("amnesia.zeroize_on_drop") || !on("amnesia.enabled"))
}

/// Something between a file and noise.
fn almost_a_file() -> impl Strategy<Value = String> {
    let keys = NUMBERS
        .iter()
        .map(|number| number.key)
        .chain(FLAGS.iter().map(|flag| flag.key));
    let words: Vec<String> = keys
        .flat_map(|key| {
            let (section, leaf) = key.split_once('.').unwrap();
            [
                format!("[{section}]\n"),
                format!("{leaf} = "),
                format!("\"{leaf}\": "),
                format!("\"{section}\": {{"),
            ]
        })
        .chain(
            [
                "1", "\"1s\"", "true", "\n", "}", ",", "{", "[", "]", "\"", "\\u", "\u{e9}", "=",
                ".", "1e9", "-",
            ]
            .map(str::to_owned),
        )
        .collect();
    let word = prop_oneof![4 => proptest::sample::select(words), 1 => any::<String>()];
    proptest::collection::vec(word, 0..30).prop_map(|words| words.concat())
}

fn variable() -> impl Strategy<Value = (OsString, OsString)> {
    let names = NUMBERS
        .iter()
        .map(|number| number.variable)
        .chain(FLAGS.iter().map(|flag| flag.variable));
    let names: Vec<&str> = names
        .chain([
            "RYKER_JITTER",
            "RYKER_CONFIG_PATH",
            "RYKER_ALLOW_CONFIG_PATH",
            "APP_ENV",
        ])
        .collect();
    let name = prop_oneof![
        proptest::sample::select(names).prop_map(str::to_owned),
        any::<String>().prop_map(|rest| format!("RYKER_{rest}")),
    ];
    let value = prop_oneof![
        (
            any::<u16>(),
            proptest::sample::select(vec!["", "s", "ms", "KiB"])
        )
            .prop_map(|(n, unit)| format!("{n}{unit}")),
        proptest::sample::select(vec!["true", "1", "a.toml", "a.json", "production"])
            .prop_map(str::to_owned),
        any::<String>(),
    ];
    (name.prop_map(Into::into), value.prop_map(Into::into))
}

proptest! {
    #[test]
    fn a_configuration_is_built_exactly_if_the_model_calls_it_valid(values in values()) {
        let result = built(&values);
        prop_assert_eq!(result.is_ok(), is_valid(&values), "{:?}", result);
        if let Ok(cfg) = result {
            for (number, n) in NUMBERS.iter().zip(&values.0) {
                prop_assert_eq!((number.get)(&cfg), *n);
            }
            for (flag, on) in FLAGS.iter().zip(&values.1) {
                prop_assert_eq!((flag.get)(&cfg), *on);
            }
            prop_assert_eq!(cfg.span_level(), values.2);
        }
    }

    #[test]
    fn what_is_written_as_toml_reads_back_from_every_source(mut values in values()) {
        for (n, number) in values.0.iter_mut().zip(&NUMBERS) {
            *n = (*n).clamp(number.low.0, number.high.0);
        }
        values.0[4] = values.0[4].max(values.0[3]);
        values.0[8] = values.0[8].max(values.0[7]);
        values.1[4] |= values.1[3];
        let cfg = built(&values).unwrap();
        let written = cfg.to_toml();
        prop_assert_eq!(RykerConfig::from_toml(&written), Ok(cfg.clone()));

        let table: serde_json::Value = toml::from_str(&written).unwrap();
        prop_assert_eq!(RykerConfig::from_json(&table.to_string()), Ok(cfg.clone()));

        let names = NUMBERS.iter().map(|number| (number.key, number.variable))
            .chain(FLAGS.iter().map(|flag| (flag.key, flag.variable)))
            .chain([LEVEL]);
        let pairs: Vec<(OsString, OsString)> = names
            .map(|(key, variable)| {
                let (section, leaf) = key.split_once('.').unwrap();
                let text = match &table[section][leaf] {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                (variable.into(), text.into())
            })
            .collect();
        prop_assert_eq!(pairs.len(), 15);
        let (from_env, warnings) = RykerConfig::from_env(pairs, |path| std::fs::read(path));
        prop_assert_eq!(from_env, Ok(cfg));
        prop_assert!(warnings.is_empty());
    }

    #[test]
    fn no_file_panics_and_what_is_taken_is_valid(text in prop_oneof![almost_a_file(), any::<String>()]) {
        for result in [RykerConfig::from_toml(&text), RykerConfig::from_json(&text)] {
            match result {
                Ok(cfg) => prop_assert_eq!(cfg.to_builder().validate(), Ok(())),
                Err(error) => {
                    prop_assert!(!error.problems().is_empty());
                    prop_assert_eq!(error.to_string().lines().count(), 1 + error.problems().len());
                }
            }
        }
    }

    #[test]
    fn no_environment_panics_and_what_is_taken_is_valid(
        pairs in proptest::collection::vec(variable(), 0..8),
        file in almost_a_file(),
    ) {
        let (result, _) = RykerConfig::from_env(pairs, |_| Ok(file.into_bytes()));
        match result {
            Ok(cfg) => prop_assert_eq!(cfg.to_builder().validate(), Ok(())),
            Err(error) => prop_assert!(!error.problems().is_empty()),
        }
    }

    #[test]
    fn a_difference_is_what_is_told_apart(old in values(), new in values()) {
        if let (Ok(old), Ok(new)) = (built(&old), built(&new)) {
            prop_assert_eq!(old.diff(&new).is_empty(), old == new);
            prop_assert_eq!(old.diff(&new).len(), new.diff(&old).len());
        }
    }

    #[test]
    fn a_duration_from_code_is_taken_exactly_if_a_file_could_hold_it(
        secs in prop_oneof![0..62u64, any::<u64>()],
        nanos in prop_oneof![0..1_000_000_000u32, (0..1_000u32).prop_map(|ms| ms * 1_000_000)],
    ) {
        let duration = Duration::new(secs, nanos);
        let result = RykerConfig::builder().deadline(duration).build();
        let fits = (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&duration)
            && nanos % 1_000_000 == 0;
        prop_assert_eq!(result.map(|cfg| cfg.deadline()).ok(), fits.then_some(duration));
    }
}
