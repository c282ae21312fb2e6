//! Secrets appear in no byte of any output.

#[path = "fixture/service.rs"]
mod service;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use ron_config::{Loader, Schema, Secret, Settings};
use service::Service;
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;
    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn file(canaries: &[String; 4], pin: u64, level: &str) -> String {
    let [token, key, other, word] = canaries;
    format!(
        "[log]\nlevel = {level}\n[auth]\ntoken = {token:?}\nkeys = [{key:?}, {other:?}]\npin = {pin}\n\
         [[child]]\nname = \"a\"\ncommand = \"b\"\npassword = {word:?}\n"
    )
}

/// Runs a whole life of a configuration and returns all it ever said.
fn life(first: &[String; 4], second: &[String; 4]) -> String {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(tracing::Level::TRACE)
        .finish();
    let mut said = tracing::subscriber::with_default(subscriber, || {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("svc.toml");
        std::fs::write(&path, file(first, 777_111_777, "\"info\"")).unwrap();
        let loader = || {
            Loader::<Service>::new("svc")
                .file(&path)
                .env([("RON_AUTH_KEYS", first[2].as_str())])
                .flags([("--auth.token", first[0].as_str())])
        };
        let debug = format!("{:?}", loader());
        let loaded = loader().load().unwrap();
        loaded.guard("talkative", |old: &Service, new: &Service| {
            let text = |c: &Service| c.children[0].password.expose().clone();
            Err(format!("{} {}", text(old), text(new)))
        });
        let mut said = vec![debug, format!("{loaded:?} {:?}", loaded.snapshot())];
        let mut look = |loaded: &ron_config::Loaded<Service>| {
            let printed = loaded.print();
            said.push(format!("{printed} {} {printed:?}", printed.to_json()));
            for value in printed.values() {
                said.push(format!("{value} {} {value:?}", value.to_json()));
            }
            said.push(loaded.schema().to_string());
            said.push(format!("{:?}", loaded.warnings()));
        };
        look(&loaded);
        std::fs::write(&path, file(second, 777_222_777, "\"warn\"")).unwrap();
        let veto = loaded.reload().unwrap_err();
        let quiet = loader().load().unwrap();
        look(&quiet);
        std::fs::write(&path, file(first, 777_111_777, "\"debug\"")).unwrap();
        let report = quiet.reload().unwrap();
        look(&quiet);
        said.push(format!("{veto} {veto:?} {}", veto.to_json()));
        said.push(format!("{report:?} {}", report.to_json()));
        for broken in [
            file(second, 1, "3"),
            file(second, 1, "\"x"),
            file(second, 1, "\"x\"").replace("token", "tokn"),
            file(second, 1, "\"x\"").replace("pin = 1", "pin = \"777_333_777\""),
            file(second, 1, "\"x\"").replace("password", "pasword"),
            file(second, 1, "\"x\"").replace("token =", "token"),
            file(second, 1, "\"x\"").replace("keys = [", "keys = [[1], "),
            file(second, 1, "\"x\"").replace("]\npin", "\npin"),
            file(second, 1, "\"x\"")
                .replace("token = ", "token = { a = ")
                .replace("\nkeys", "}\nkeys"),
        ] {
            std::fs::write(&path, broken).unwrap();
            let errors = quiet.reload().unwrap_err();
            said.push(format!("{errors} {errors:?} {}", errors.to_json()));
        }
        said.concat()
    });
    said.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));
    said
}

fn canaries() -> impl Strategy<Value = [String; 4]> {
    prop::array::uniform4("Z[a-zA-Z0-9 !%]{8,20}Z")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn canaries_appear_in_zero_bytes_of_any_output(first in canaries(), second in canaries()) {
        let said = life(&first, &second);
        for canary in first.iter().chain(&second) {
            prop_assert!(!said.contains(canary.as_str()), "{canary} in {said}");
        }
        for pin in ["777_111_777", "777111777", "777222777", "777_333_777"] {
            prop_assert!(!said.contains(pin), "{pin} in {said}");
        }
        // The life was a full one: all of these were said.
        let parts = ["\"***\"", "withheld: it repeats a secret", "auth.token"];
        for part in parts {
            prop_assert!(said.contains(part), "{part} not said: {said}");
        }
    }
}

#[test]
fn a_secret_shows_stars_and_serializes_as_stars() {
    let secret = Secret::new("canary".to_string());
    assert_eq!(
        format!("{secret:?} {:#?}", Some(&secret)),
        "*** Some(\n    ***,\n)"
    );
    assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
    assert_eq!(secret.expose(), "canary");
}

/// A value that reports whether it was wiped before it was dropped.
struct Watched(Arc<Mutex<Vec<&'static str>>>);

impl zeroize::Zeroize for Watched {
    fn zeroize(&mut self) {
        self.0.lock().unwrap().push("zeroized");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("dropped");
    }
}

#[test]
fn a_secret_is_zeroized_before_it_is_dropped() {
    let log = Arc::new(Mutex::new(Vec::new()));
    drop(Secret::new(Watched(Arc::clone(&log))));
    assert_eq!(*log.lock().unwrap(), ["zeroized", "dropped"]);
}

#[derive(Clone, Default)]
struct Marked {
    dsn: String,
}

impl Settings for Marked {
    fn schema(schema: &mut Schema<Self>) {
        schema.key("dsn", |c| &mut c.dsn).secret().check(|dsn| {
            if dsn.contains("bad") {
                Err(format!("refused {dsn}"))
            } else {
                Ok(())
            }
        });
    }
}

#[test]
fn a_plain_key_marked_secret_is_redacted_as_well() {
    let loaded = Loader::<Marked>::new("svc")
        .env([("RON_DSN", "canary")])
        .load()
        .unwrap();
    assert_eq!(loaded.explain("dsn").unwrap().value(), "***");
    assert!(!loaded.print().to_string().contains("canary"));
    let errors = Loader::<Marked>::new("svc")
        .env([("RON_DSN", "bad canary")])
        .load()
        .unwrap_err();
    assert!(!errors.to_string().contains("canary"), "{errors}");
}
