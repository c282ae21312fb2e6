//! What operators and tools read: shapes held by golden files.

#[path = "fixture/service.rs"]
mod service;

use std::fs;

use ron_config::{Loaded, Loader};
use serde_json::{json, Value as Json};
use service::Service;
use tempfile::TempDir;

const FILE: &str = r#"max_conns = 7
tags = ["x\ty", "\u007f"]
labels = { "a b" = "c" }
[bus]
capacity = 8
[auth]
token = "canary"
[[child]]
name = "one"
command = "run"
args = ["-v"]
stop.grace = "2s"
retries = 1
[[child]]
name = "two"
command = "walk"
"#;

fn bed(text: &str) -> (TempDir, Loaded<Service>) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    fs::write(&path, text).unwrap();
    let loaded = Loader::<Service>::new("svc")
        .file(path)
        .env([("RON_BUS_CAPACITY", "16"), ("LEDGER_DEADLINE_MS", "90000")])
        .flags([("--bus.capacity", "32")])
        .load()
        .unwrap();
    (dir, loaded)
}

/// Compares with a golden file; `RON_BLESS=1` writes it.
fn golden(name: &str, dir: &TempDir, text: &str) {
    let text = text.replace(&dir.path().display().to_string(), "DIR");
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RON_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "differs from {path}");
}

#[test]
fn print_text_is_toml_with_origins() {
    let (dir, loaded) = bed(FILE);
    golden("print.toml", &dir, &loaded.print().to_string());
}

#[test]
fn print_json_holds_one_origin_per_key() {
    let (dir, loaded) = bed(FILE);
    let text = serde_json::to_string_pretty(&loaded.print()).unwrap();
    golden("print.json", &dir, &text);
    // The same whichever way it is asked for.
    let parsed: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed, loaded.print().to_json());
}

#[test]
fn explain_names_the_origin_and_what_it_shadows() {
    let (dir, loaded) = bed(FILE);
    let told = loaded.explain("bus.capacity").unwrap();
    assert_eq!(
        told.to_json(),
        json!({
            "key": "bus.capacity",
            "value": 32,
            "origin": {"layer": "flag", "where": "--bus.capacity"},
            "shadowed": [
                {"value": 16, "origin": {"layer": "env", "where": "RON_BUS_CAPACITY"}},
                {"value": 8, "origin": {"layer": "file",
                    "where": format!("{}/svc.toml:5:12", dir.path().display())}},
                {"value": 4096, "origin": {"layer": "default", "where": "default"}},
            ],
            "reload": "process",
        })
    );
    golden("explain.txt", &dir, &format!("{told}\n"));
    let line = serde_json::to_string(&told).unwrap();
    assert!(
        line.starts_with(r#"{"key":"bus.capacity","value":32,"origin":{"layer":"flag","#),
        "{line}"
    );
    assert_eq!(loaded.explain("auth.token").unwrap().value(), "***");
    assert_eq!(loaded.explain("child[0].password").unwrap().value(), "***");
    assert_eq!(
        loaded.explain("observability.addr").unwrap().to_json()["reload"],
        "restart"
    );
}

#[test]
fn a_printed_configuration_reads_back_as_the_same_but_for_secrets() {
    let (dir, loaded) = bed(FILE);
    let path = dir.path().join("again.toml");
    let printed = loaded.print().to_string();
    let open = printed.lines().filter(|line| !line.contains("\"***\""));
    fs::write(&path, open.collect::<Vec<_>>().join("\n")).unwrap();
    let again = Loader::<Service>::new("svc").file(&path).load().unwrap();
    let values = |loaded: &Loaded<Service>| {
        let values = loaded.print().values().to_vec();
        let values = values.into_iter().filter(|v| v.key() != "auth.token");
        let values = values.map(|v| (v.key().to_string(), v.value().clone()));
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&loaded), values(&again));
}

#[test]
fn errors_read_well_and_point_at_the_value() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    let text = "[bus]\ncapacity = 1_000  # not one\nmax_lag = \"many\"\nmax_lg = 3\n[auth]\ntoken = 12345\n";
    fs::write(&path, text).unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(&path)
        .env([("RON_BUS_CAPACTY", "1")])
        .load()
        .unwrap_err();
    golden("errors.txt", &dir, &format!("{errors}\n"));
    golden(
        "errors.json",
        &dir,
        &serde_json::to_string_pretty(&errors).unwrap(),
    );
}

/// As much of JSON Schema (draft 2020-12) as ours uses; `pattern` is taken from the types it stands for.
fn valid(schema: &Json, value: &Json) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {value} against {schema}"));
    if let Some(options) = schema["anyOf"].as_array() {
        if !options.iter().any(|option| valid(option, value).is_ok()) {
            return wrong("anyOf");
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        if !words.contains(value) {
            return wrong("enum");
        }
    }
    let fits = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => return wrong(other),
    };
    if !fits {
        return wrong("type");
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str()) {
        let units: &[&str] = match pattern {
            "^[0-9]+(ms|s|m|h)$" => &["ms", "s", "m", "h"],
            "^[0-9]+(B|KiB|MiB|GiB)$" => &["B", "KiB", "MiB", "GiB"],
            "^.+:[0-9]{1,5}$" => &[":9909", ":1"],
            other => return wrong(other),
        };
        if !units.iter().any(|unit| text.ends_with(unit)) {
            return wrong("pattern");
        }
    }
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| schema[name].as_f64();
        if bound("minimum").is_some_and(|low| number < low)
            || bound("maximum").is_some_and(|high| number > high)
        {
            return wrong("range");
        }
    }
    if let Some(items) = value.as_array() {
        items
            .iter()
            .try_for_each(|item| valid(&schema["items"], item))?;
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                return wrong("required");
            }
        }
        for (name, member) in members {
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Json::Null, Json::Bool(false)) => return wrong("unknown"),
                (Json::Null, rest) => valid(rest, member)?,
                (known, _) => valid(known, member)?,
            }
        }
    }
    Ok(())
}

#[test]
fn the_json_schema_agrees_with_the_loader() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.json");
    let schema = Loader::<Service>::new("svc").load().unwrap().schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let child = |rest: &str| format!(r#"{{"child": [{{"name": "a", "command": "b"{rest}}}]}}"#);
    for (text, good) in [
        ("{}".to_string(), true),
        (r#"{"max_conns": 5, "bus": {"capacity": 8}}"#.into(), true),
        (r#"{"max_conns": 0}"#.into(), false),
        (r#"{"max_conns": "5"}"#.into(), false),
        (r#"{"max_conn": 5}"#.into(), false),
        (r#"{"bus": 5}"#.into(), false),
        (r#"{"bus": {"capacty": 8}}"#.into(), false),
        (r#"{"supervisor": {"min_backoff": "1s"}}"#.into(), true),
        (r#"{"supervisor": {"min_backoff": 1}}"#.into(), false),
        (r#"{"supervisor": {"min_backoff": "1d"}}"#.into(), false),
        (r#"{"supervisor": {"backoff_cap": "40s"}}"#.into(), true),
        (r#"{"supervisor": {"give_up_after": null}}"#.into(), true),
        (r#"{"supervisor": {"give_up_after": "unset"}}"#.into(), true),
        (r#"{"supervisor": {"give_up_after": 3}}"#.into(), true),
        (r#"{"supervisor": {"give_up_after": 0}}"#.into(), false),
        (r#"{"pq": {"mode": "hybrid"}}"#.into(), true),
        (r#"{"pq": {"mode": "on"}}"#.into(), false),
        (r#"{"limits": {"body": "4KiB", "ratio": 2}}"#.into(), true),
        (r#"{"limits": {"ratio": 0.5}}"#.into(), false),
        (r#"{"tags": ["a"], "labels": {"x": "y"}}"#.into(), true),
        (r#"{"tags": [1]}"#.into(), false),
        (r#"{"labels": {"x": 1}}"#.into(), false),
        (r#"{"observability": {"addr": "127.0.0.1:1"}}"#.into(), true),
        (r#"{"observability": {"addr": "nowhere"}}"#.into(), false),
        (
            r#"{"auth": {"token": "long enough", "keys": ["a"], "pin": 3}}"#.into(),
            true,
        ),
        (r#"{"auth": {"pin": "3"}}"#.into(), false),
        (child(""), true),
        (
            child(r#", "args": ["x"], "env": {"A": "b"}, "stop": {"grace": "1s"}"#),
            true,
        ),
        (child(r#", "retries": 11, "stop": {"grace": "1s"}"#), false),
        (child(r#", "shape": 1"#), false),
        (r#"{"child": [{"name": "a"}]}"#.into(), false),
        (r#"{"child": {"name": "a"}}"#.into(), false),
    ] {
        fs::write(&path, &text).unwrap();
        let loaded = Loader::<Service>::new("svc").file(&path).load();
        assert_eq!(loaded.is_ok(), good, "{text}: {:?}", loaded.err());
        let value: Json = serde_json::from_str(&text).unwrap();
        let verdict = valid(&schema, &value);
        assert_eq!(verdict.is_ok(), good, "{text}: {verdict:?}");
    }
}

#[test]
fn the_json_schema_documents_defaults_classes_and_variables_but_no_secret() {
    let schema = Loader::<Service>::new("svc").load().unwrap().schema();
    let capacity = &schema["properties"]["bus"]["properties"]["capacity"];
    assert_eq!(capacity["default"], 4096);
    assert_eq!(capacity["x-reload"], "process");
    assert_eq!(capacity["x-env"], json!(["RON_BUS_CAPACITY"]));
    assert_eq!(
        capacity["description"],
        "events kept for slow readers; an integer from 1 to 65536"
    );
    let pin = &schema["properties"]["auth"]["properties"]["pin"];
    assert_eq!(
        (&pin["default"], &pin["writeOnly"]),
        (&Json::Null, &Json::Bool(true))
    );
    assert_eq!(
        schema["properties"]["observability"]["properties"]["addr"]["x-reload"],
        "restart(admin)"
    );
}
