//! Variables and flags: resolved by the schema, refused when strange, quiet about other people's.

#[path = "fixture/service.rs"]
mod service;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use ron_config::{ConfigErrors, Layer, Loaded, Loader, Schema, SchemaError, Settings};
use service::Service;
use tempfile::TempDir;

fn load(env: &[(&str, &str)]) -> Result<Loaded<Service>, ConfigErrors> {
    Loader::<Service>::new("svc")
        .env(env.iter().copied())
        .load()
}

fn only(errors: ConfigErrors) -> String {
    assert_eq!(errors.len(), 1, "{errors}");
    errors.iter().next().unwrap().to_string()
}

#[test]
fn names_resolve_by_the_schema_and_not_by_splitting() {
    let loaded = load(&[("RON_BUS_MAX_LAG", "7"), ("RON_MAX_CONNS", "9")]).unwrap();
    assert_eq!(loaded.snapshot().max_lag, 7);
    assert_eq!(loaded.snapshot().max_conns, 9);
    assert_eq!(
        loaded.explain("bus.max_lag").unwrap().origin().place(),
        "RON_BUS_MAX_LAG"
    );
}

#[test]
fn booleans_take_six_words_in_variables_and_flags() {
    for (word, value) in [
        ("true", true),
        ("on", true),
        ("1", true),
        ("false", false),
        ("off", false),
        ("0", false),
    ] {
        let loaded = load(&[("RON_OBSERVABILITY_EXPOSE_HTTP", word)]).unwrap();
        assert_eq!(loaded.snapshot().expose_http, value, "{word}");
    }
    for word in ["yes", "TRUE", "", "2"] {
        let text = only(load(&[("RON_OBSERVABILITY_EXPOSE_HTTP", word)]).unwrap_err());
        assert!(text.contains("expected true or false"), "{text}");
    }
}

#[test]
fn a_bare_number_is_taken_only_from_a_name_that_carries_its_unit() {
    let loaded = load(&[("LEDGER_DEADLINE_MS", "750")]).unwrap();
    assert_eq!(
        loaded.snapshot().ledger_deadline,
        Duration::from_millis(750)
    );
    let loaded = load(&[("LEDGER_DEADLINE_MS", "2s")]).unwrap();
    assert_eq!(loaded.snapshot().ledger_deadline, Duration::from_secs(2));
    let text = only(load(&[("RON_LEDGER_DEADLINE", "750")]).unwrap_err());
    assert!(text.contains("is a bare number and needs a unit"), "{text}");
}

#[test]
fn a_name_that_implies_another_key_is_its_origin_and_gives_way_to_its_own_variable() {
    let loaded = load(&[("RON_KERNEL_METRICS_ADDR", "127.0.0.1:1")]).unwrap();
    assert!(loaded.snapshot().expose_http);
    let told = loaded.explain("observability.expose_http").unwrap();
    assert_eq!(told.origin().place(), "RON_KERNEL_METRICS_ADDR");

    let loaded = load(&[
        ("RON_OBSERVABILITY_EXPOSE_HTTP", "off"),
        ("RON_KERNEL_METRICS_ADDR", "127.0.0.1:1"),
    ])
    .unwrap();
    assert!(!loaded.snapshot().expose_http);
}

#[test]
fn two_names_of_one_key_may_agree_but_not_differ() {
    let loaded = load(&[
        ("RON_OBSERVABILITY_ADDR", "127.0.0.1:1"),
        ("RON_KERNEL_METRICS_ADDR", "127.0.0.1:1"),
    ]);
    assert!(loaded.is_ok());
    let text = only(
        load(&[
            ("RON_OBSERVABILITY_ADDR", "127.0.0.1:1"),
            ("RON_KERNEL_METRICS_ADDR", "127.0.0.1:2"),
        ])
        .unwrap_err(),
    );
    assert!(text.contains("set it to different values"), "{text}");
    assert!(text.contains("RON_OBSERVABILITY_ADDR") && text.contains("RON_KERNEL_METRICS_ADDR"));
}

#[test]
fn a_name_declared_first_wins_over_the_others() {
    let loaded = load(&[("RUST_LOG", "debug"), ("RON_LOG", "warn")]).unwrap();
    assert_eq!(loaded.snapshot().level, "debug");
    let told = loaded.explain("log.level").unwrap();
    assert_eq!(told.origin().place(), "RUST_LOG");
    assert_eq!(told.shadowed()[0].origin().place(), "RON_LOG");
}

#[test]
fn former_names_work_with_a_warning_and_conflict_with_the_new_one() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    std::fs::write(&file, "[supervisor]\nbackoff_cap = \"9s\"\n").unwrap();
    let loaded = Loader::<Service>::new("svc").file(&file).load().unwrap();
    assert_eq!(loaded.snapshot().max_backoff, Duration::from_secs(9));
    let warnings = loaded.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].did_you_mean(), Some("supervisor.max_backoff"));
    assert!(
        warnings[0].place().ends_with("svc.toml:2:15"),
        "{}",
        warnings[0]
    );

    std::fs::write(
        &file,
        "[supervisor]\nbackoff_cap = \"9s\"\nmax_backoff = \"8s\"\n",
    )
    .unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(&file)
        .load()
        .unwrap_err();
    assert!(only(errors).contains("set it to different values"));
    std::fs::write(
        &file,
        "[supervisor]\nbackoff_cap = \"9s\"\nmax_backoff = \"9s\"\n",
    )
    .unwrap();
    assert!(Loader::<Service>::new("svc").file(&file).load().is_ok());

    let loaded = load(&[("RON_SUPERVISOR_BACKOFF_CAP", "7s")]).unwrap();
    assert_eq!(loaded.snapshot().max_backoff, Duration::from_secs(7));
    assert_eq!(
        loaded.warnings()[0].did_you_mean(),
        Some("RON_SUPERVISOR_MAX_BACKOFF")
    );
}

#[test]
fn strange_names_are_refused_only_where_they_can_be_ours() {
    // In a section of ours, near a name of ours, a list of ours.
    for (name, part) in [
        (
            "RON_BUS_SHINY",
            "expected one of RON_BUS_CAPACITY, RON_BUS_MAX_LAG",
        ),
        ("RON_BUS", "unknown variable"),
        ("RON_MAX_CONS", "did you mean `RON_MAX_CONNS`"),
        ("RON_CONFGI", "did you mean `RON_CONFIG`"),
        ("RON_CHILD_0_NAME", "only the file can set"),
    ] {
        let errors = Loader::<Service>::new("svc")
            .known_env("RON_CONFIG")
            .env([(name, "x")])
            .load()
            .unwrap_err();
        let text = only(errors);
        assert!(text.contains(part), "{text}");
    }
    let fine = Loader::<Service>::new("svc")
        .known_env("RON_CONFIG")
        .siblings(["RON_LEDGER_MAX_RETRIES", "RON_STORAGE_"])
        .env([
            ("RON_CONFIG", "x"),
            ("RON_LEDGER_MAX_RETRIES", "x"),
            ("RON_STORAGE_SOCK", "x"),
            ("RON_COMPLETELY_ELSEWHERE", "x"),
            ("BUS_CAPACTY", "x"),
            ("HOME", "/"),
        ]);
    assert!(fine.load().is_ok());
}

#[test]
fn lists_and_maps_are_split_at_commas() {
    let loaded = load(&[("RON_TAGS", "x, y,z"), ("RON_LABELS", "a=1, b=2")]).unwrap();
    assert_eq!(loaded.snapshot().tags, ["x", "y", "z"]);
    assert_eq!(loaded.snapshot().labels["b"], "2");
    assert!(load(&[("RON_TAGS", "")])
        .unwrap()
        .snapshot()
        .tags
        .is_empty());
}

#[test]
fn an_optional_key_is_unset_by_the_word() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    std::fs::write(&file, "supervisor.give_up_after = 3\n").unwrap();
    let loaded = Loader::<Service>::new("svc")
        .file(&file)
        .env([("RON_SUPERVISOR_GIVE_UP_AFTER", "unset")])
        .load()
        .unwrap();
    assert_eq!(loaded.snapshot().give_up_after, None);
}

#[test]
fn flags_win_and_may_be_spelled_with_dashes() {
    let loaded = Loader::<Service>::new("svc")
        .env([
            ("RON_MAX_CONNS", "5"),
            ("RON_KERNEL_METRICS_ADDR", "127.0.0.1:1"),
        ])
        .flags([("--max-conns", "6"), ("metrics-addr", "127.0.0.1:2")])
        .load()
        .unwrap();
    assert_eq!(loaded.snapshot().max_conns, 6);
    let told = loaded.explain("observability.addr").unwrap();
    assert_eq!(
        (told.origin().layer(), told.origin().place()),
        (Layer::Flag, "--metrics-addr")
    );
    let errors = Loader::<Service>::new("svc")
        .flags([("--child", "x")])
        .load()
        .unwrap_err();
    assert!(only(errors).contains("only the file can set"));
}

#[test]
fn an_alias_of_the_program_names_a_key() {
    let loaded = Loader::<Service>::new("svc")
        .alias("HTTP_ADDR", "observability.addr")
        .env([("HTTP_ADDR", "127.0.0.1:3")])
        .load()
        .unwrap();
    assert_eq!(loaded.snapshot().addr.port(), 3);
    let implied = loaded.explain("observability.expose_http").unwrap();
    assert!(loaded.snapshot().expose_http);
    assert_eq!(implied.origin().place(), "HTTP_ADDR");
    let errors = Loader::<Service>::new("svc")
        .alias("HTTP_ADDR", "addr")
        .load()
        .unwrap_err();
    assert!(only(errors).contains("alias HTTP_ADDR names the unknown key `addr`"));
    let errors = Loader::<Service>::new("svc")
        .alias("RON_LOG", "tags")
        .load()
        .unwrap_err();
    assert!(only(errors).contains("would set both"));
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_is_refused_for_our_names_only() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![0xff]);
    let errors = Loader::<Service>::new("svc")
        .env([("RON_TAGS", bad()), ("ELSEWHERE", bad())])
        .load()
        .unwrap_err();
    assert!(only(errors).contains("RON_TAGS: tags: is not UTF-8 text"));
}

#[test]
fn the_file_may_be_named_by_a_variable_unless_a_flag_names_it() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    std::fs::write(&a, "max_conns = 1\n").unwrap();
    std::fs::write(&b, "max_conns = 2\n").unwrap();
    let loader = || {
        Loader::<Service>::new("svc")
            .file_env("RON_CONFIG")
            .env([("RON_CONFIG", &a)])
    };
    assert_eq!(loader().load().unwrap().snapshot().max_conns, 1);
    assert_eq!(loader().file(&b).load().unwrap().snapshot().max_conns, 2);
    let errors = Loader::<Service>::new("svc")
        .file_env("RON_CONFIG")
        .env([("RON_CONFIG", "")])
        .load();
    assert!(only(errors.unwrap_err()).contains("RON_CONFIG: is empty"));
}

thread_local! {
    static PATHS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Settings whose keys are whatever the test put into `PATHS`.
#[derive(Clone)]
struct Random(Vec<u32>);

impl Default for Random {
    fn default() -> Self {
        Self(PATHS.with_borrow(|paths| vec![0; paths.len()]))
    }
}

impl Settings for Random {
    fn schema(schema: &mut Schema<Self>) {
        PATHS.with_borrow(|paths| {
            for (i, path) in paths.iter().enumerate() {
                schema.key(path, move |c: &mut Random| &mut c.0[i]);
            }
        });
    }
}

fn schema_of(paths: &[&str]) -> Result<Schema<Random>, Vec<SchemaError>> {
    PATHS.set(paths.iter().map(ToString::to_string).collect());
    Schema::<Random>::of().map_err(|errors| errors.iter().cloned().collect())
}

#[test]
fn contradictions_in_a_schema_are_found_when_it_is_built() {
    assert!(schema_of(&["a.b", "a.c"]).is_ok());
    let errors = schema_of(&["a_b.c", "a.b_c"]).unwrap_err();
    assert!(
        matches!(&errors[..], [SchemaError::EnvCollision { env, .. }] if env == "RON_A_B_C"),
        "{errors:?}"
    );
    for (paths, expected) in [
        (["a", "a"], SchemaError::DuplicateKey { key: "a".into() }),
        (["a", "a.b"], SchemaError::KeyIsSection { key: "a".into() }),
        (["a", "B"], SchemaError::BadPath { key: "B".into() }),
        (["a", "b..c"], SchemaError::BadPath { key: "b..c".into() }),
        (["a", ""], SchemaError::BadPath { key: "".into() }),
    ] {
        let errors = schema_of(&paths).unwrap_err();
        assert!(errors.contains(&expected), "{paths:?}: {errors:?}");
        let errors = Loader::<Random>::new("svc").load().unwrap_err();
        assert!(errors.iter().any(|e| e.place() == "schema"), "{errors}");
    }
}

fn paths() -> impl Strategy<Value = BTreeSet<String>> {
    let segment = "[a-c]{1,2}(_[a-c])?";
    let path = prop::collection::vec(segment, 1..4).prop_map(|segments| segments.join("."));
    prop::collection::btree_set(path, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn environment_names_round_trip_in_every_schema_that_builds(paths in paths(), pick: prop::sample::Index) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let name = |path: &str| format!("RON_{}", path.replace('.', "_").to_uppercase());
        let names: BTreeSet<String> = paths.iter().map(|path| name(path)).collect();
        let section = |path: &str| paths.iter().any(|other| other.starts_with(&format!("{path}.")));
        let sound = names.len() == paths.len() && !paths.iter().any(|path| section(path));
        prop_assert_eq!(schema_of(&paths).is_ok(), sound);
        if sound {
            let i = pick.index(paths.len());
            let loaded = Loader::<Random>::new("svc").env([(name(paths[i]), "7")]).load().unwrap();
            for (other, value) in loaded.snapshot().0.iter().enumerate() {
                prop_assert_eq!(*value, if other == i { 7 } else { 0 });
            }
            let told = loaded.explain(paths[i]).unwrap();
            prop_assert_eq!(told.origin().place(), name(paths[i]));
        }
    }
}
