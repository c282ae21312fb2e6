//! A reload takes effect whole or not at all, and says truly which.

#[path = "fixture/service.rs"]
mod service;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ron_config::{Layer, Loaded, Loader, ReloadReport, Source};
use serde_json::json;
use service::Service;
use tempfile::TempDir;

struct Bed {
    _dir: TempDir,
    path: PathBuf,
}

impl Bed {
    fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("svc.toml");
        let bed = Self { _dir: dir, path };
        bed.write(text);
        bed
    }

    /// Writes a file that looks as if written long ago, so that it is read at once.
    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(&self.path)
            .unwrap();
        let past = std::time::SystemTime::now() - Duration::from_secs(60);
        file.set_modified(past).unwrap();
    }

    fn loader(&self) -> Loader<Service> {
        Loader::new("svc").file(&self.path)
    }

    fn load(&self) -> Loaded<Service> {
        self.loader().load().unwrap()
    }
}

#[test]
fn live_keys_apply_restart_keys_name_their_child_and_process_keys_wait() {
    let bed = Bed::new("max_conns = 1\nbus.capacity = 8\n");
    let loaded = bed.load();
    bed.write("max_conns = 2\nbus.capacity = 16\nobservability.addr = \"127.0.0.1:1\"\n");
    let report = loaded.reload().unwrap();
    assert_eq!(report.version(), 2);
    assert_eq!(report.applied(), ["observability.addr", "max_conns"]);
    assert_eq!(report.needs_restart(), ["bus.capacity"]);
    assert_eq!(report.restarts(), ["admin"]);
    let snapshot = loaded.snapshot();
    assert_eq!(
        (snapshot.max_conns, snapshot.capacity, snapshot.addr.port()),
        (2, 8, 1)
    );

    let told = loaded.explain("bus.capacity").unwrap();
    assert_eq!(told.value(), 8);
    let pending = told.pending().unwrap();
    assert_eq!(pending.value(), 16);
    assert!(pending.origin().place().ends_with("svc.toml:2:16"));

    // Still listed by the next reload, which changes nothing.
    let report = loaded.reload().unwrap();
    assert_eq!((report.version(), report.applied().len()), (2, 0));
    assert_eq!(report.needs_restart(), ["bus.capacity"]);
    // Until the file is set back.
    bed.write("max_conns = 2\nbus.capacity = 8\nobservability.addr = \"127.0.0.1:1\"\n");
    assert!(loaded.reload().unwrap().is_unchanged());
    assert_eq!(loaded.explain("bus.capacity").unwrap().pending(), None);
    assert_eq!(loaded.version(), 2);
}

#[test]
fn the_report_has_the_shape_tools_depend_on() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.loader().env([("RON_TAGS", "x")]).load().unwrap();
    bed.write("max_conns = 2\nbus.capacity = 16\ntags = [\"y\"]\nauth.token = \"canary\"\n");
    let report = loaded.reload().unwrap();
    assert_eq!(
        report.to_json(),
        json!({
            "version": 2,
            "applied": ["max_conns", "auth.token"],
            "needs_restart": ["bus.capacity"],
            "pinned": ["tags"],
            "rejected": [],
            "restarts": [],
            "diff": [
                {"key": "bus.capacity", "old": 4096, "new": 16},
                {"key": "max_conns", "old": 1, "new": 2},
                {"key": "auth.token", "old": null, "new": "***"},
            ],
        })
    );
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.starts_with(r#"{"version":2,"applied":["#), "{text}");

    bed.write("max_conns = \"many\"\n");
    let errors = loaded.reload().unwrap_err();
    let refused = ReloadReport::refused(loaded.version(), &errors);
    let place = format!("{}:1:13", bed.path.display());
    assert_eq!(
        refused.to_json()["rejected"],
        json!([{
            "key": "max_conns",
            "where": place,
            "problem": "found the text \"many\"",
            "expected": "an integer from 1 to 100000",
            "suggestion": null,
        }])
    );
}

#[test]
fn a_pinned_key_is_reported_when_the_file_changes_it_and_keeps_its_value() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.loader().env([("RON_MAX_CONNS", "5")]).load().unwrap();
    bed.write("max_conns = 2\n");
    let report = loaded.reload().unwrap();
    assert_eq!(
        (report.pinned(), report.version()),
        (&["max_conns".to_string()][..], 1)
    );
    assert_eq!(loaded.snapshot().max_conns, 5);
    let told = loaded.explain("max_conns").unwrap();
    assert_eq!(
        (told.origin().layer(), told.shadowed()[0].value()),
        (Layer::Env, &json!(2))
    );
    assert!(loaded.reload().unwrap().is_unchanged());
}

#[test]
fn a_reload_without_change_keeps_the_version_and_follows_lines_that_moved() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    let before = loaded.snapshot();
    let sha256 = loaded.sha256();
    bed.write("# a comment\n\nmax_conns = 1\n");
    assert!(loaded.reload().unwrap().is_unchanged());
    assert!(Arc::ptr_eq(&before, &loaded.snapshot()));
    assert!(loaded
        .explain("max_conns")
        .unwrap()
        .origin()
        .place()
        .ends_with(":3:13"));
    assert_ne!(loaded.sha256(), sha256);
}

#[test]
fn a_broken_file_keeps_the_last_good_configuration_and_a_mended_one_clears_the_fault() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    for broken in [
        "max_conns = 0\n",
        "max_conns = \n",
        "max_cons = 2\n",
        "\u{0}\n",
    ] {
        bed.write(broken);
        let errors = loaded.reload().unwrap_err();
        assert!(!errors.is_empty());
        assert_eq!((loaded.snapshot().max_conns, loaded.version()), (1, 1));
        assert!(!loaded.reload_stats().last_successful);
    }
    assert_eq!(
        (loaded.reload_stats().reloads, loaded.reload_stats().errors),
        (0, 4)
    );
    bed.write("max_conns = 2\n");
    loaded.reload().unwrap();
    assert_eq!((loaded.snapshot().max_conns, loaded.version()), (2, 2));
    let stats = loaded.reload_stats();
    assert_eq!(
        (stats.reloads, stats.errors, stats.last_successful),
        (1, 4, true)
    );
}

#[test]
fn a_file_that_is_gone_or_emptied_is_refused_and_one_that_appears_is_read() {
    let bed = Bed::new("max_conns = 2\n");
    let loaded = Loader::<Service>::new("svc")
        .default_file(&bed.path)
        .load()
        .unwrap();
    std::fs::remove_file(&bed.path).unwrap();
    assert!(loaded
        .reload()
        .unwrap_err()
        .to_string()
        .contains("the file is gone"));
    bed.write("");
    assert!(loaded
        .reload()
        .unwrap_err()
        .to_string()
        .contains("the file is empty"));
    assert_eq!(loaded.snapshot().max_conns, 2);
    bed.write("# all defaults\n");
    assert_eq!(loaded.reload().unwrap().applied(), ["max_conns"]);

    let missing = bed.path.with_file_name("other.toml");
    let loaded = Loader::<Service>::new("svc")
        .default_file(&missing)
        .load()
        .unwrap();
    std::fs::write(&missing, "max_conns = 3\n").unwrap();
    loaded.reload().unwrap();
    assert_eq!(loaded.snapshot().max_conns, 3);
}

#[test]
fn any_one_of_32_guards_can_veto_and_a_panic_is_a_veto() {
    for culprit in 0..32 {
        for panics in [false, true] {
            let bed = Bed::new("max_conns = 1\n");
            let loaded = bed.load();
            for i in 0..32 {
                loaded.guard(
                    &format!("guard-{i}"),
                    move |old: &Service, new: &Service| {
                        assert_eq!((old.max_conns, new.max_conns), (1, 2));
                        assert!(!(panics && i == culprit), "a guard that panics");
                        if i == culprit {
                            return Err("not now".into());
                        }
                        Ok(())
                    },
                );
            }
            let mut watches: Vec<_> = (0..32).map(|_| loaded.watch()).collect();
            bed.write("max_conns = 2\n");
            let errors = loaded.reload().unwrap_err();
            assert_eq!(errors.len(), 1, "{errors}");
            let text = errors.to_string();
            assert!(
                text.contains(&format!("refused by guard `guard-{culprit}`")),
                "{text}"
            );
            assert!(
                text.contains(if panics { "panicked" } else { "not now" }),
                "{text}"
            );
            for watch in &mut watches {
                assert_eq!((watch.get().max_conns, watch.version()), (1, 1));
            }
        }
    }
}

#[test]
fn guards_are_not_asked_when_nothing_would_change() {
    let bed = Bed::new("bus.capacity = 8\n");
    let loaded = bed.load();
    loaded.guard("never", |_, _| Err("asked".into()));
    bed.write("bus.capacity = 16\n");
    assert_eq!(loaded.reload().unwrap().needs_restart(), ["bus.capacity"]);
}

#[test]
fn a_guard_that_reloads_is_told_so_instead_of_waiting_for_itself() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    let inner = loaded.clone();
    loaded.guard("again", move |_, _| {
        inner.reload().map(|_| ()).map_err(|e| e.to_string())
    });
    bed.write("max_conns = 2\n");
    let text = loaded.reload().unwrap_err().to_string();
    assert!(text.contains("a guard may not reload"), "{text}");
}

#[test]
fn a_check_across_keys_judges_the_mixture_that_would_be_in_force() {
    use ron_config::{Reload, Schema, Settings};
    #[derive(Clone)]
    struct Pair(u32, u32);
    impl Default for Pair {
        fn default() -> Self {
            Self(1, 10)
        }
    }
    impl Settings for Pair {
        fn schema(s: &mut Schema<Self>) {
            s.key("low", |c| &mut c.0).reload(Reload::Live);
            s.key("high", |c| &mut c.1);
            s.check(&["low", "high"], |c| {
                if c.0 <= c.1 {
                    Ok(())
                } else {
                    Err("low is above high".into())
                }
            });
        }
    }
    let bed = Bed::new("low = 1\nhigh = 10\n");
    let loaded = Loader::<Pair>::new("svc").file(&bed.path).load().unwrap();
    bed.write("low = 50\nhigh = 100\n");
    let text = loaded.reload().unwrap_err().to_string();
    assert!(
        text.contains("low is above high (while `high` keeps its old value"),
        "{text}"
    );
    assert_eq!((loaded.snapshot().0, loaded.snapshot().1), (1, 10));
}

#[test]
fn a_plan_says_what_the_reload_then_does_and_does_nothing_itself() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    let levels = ["debug", "info"];
    // Enough random diffs that every class and origin meets every other.
    let mut seed = 1u64;
    for _ in 0..1_000 {
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        let text = format!(
            "max_conns = {}\n[bus]\ncapacity = {}\nmax_lag = {}\n[log]\nlevel = {:?}\n[limits]\nratio = {}\n",
            next(3), 1 << next(3), next(3), levels[next(2) as usize], next(3)
        );
        bed.write(&text);
        let before = (loaded.version(), loaded.reload_stats(), loaded.sha256());
        let plan = loaded.plan();
        assert_eq!(
            (loaded.version(), loaded.reload_stats(), loaded.sha256()),
            before
        );
        assert_eq!(plan, loaded.reload());
    }
    assert!(loaded.version() > 50);
    assert!(loaded.reload_stats().errors > 50);
}

#[test]
fn concurrent_reloads_run_one_after_the_other() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    let inside = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&inside);
    loaded.guard("alone", move |_, _| {
        assert_eq!(seen.fetch_add(1, Ordering::SeqCst), 0);
        // Long enough for seven others to come in, if they could.
        std::thread::sleep(Duration::from_millis(5));
        seen.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    bed.write("max_conns = 2\n");
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (loaded, barrier) = (loaded.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                loaded.reload().unwrap().applied().len()
            })
        })
        .collect();
    let applied: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(
        (applied, loaded.version(), loaded.reload_stats().reloads),
        (1, 2, 8)
    );
}

#[test]
fn a_changed_list_restarts_its_child_and_its_items_keep_their_origins() {
    let item = |name: &str| format!("[[child]]\nname = {name:?}\ncommand = \"run\"\n");
    let bed = Bed::new(&item("a"));
    let loaded = bed.load();
    bed.write(&format!("{}{}", item("a"), item("b")));
    let report = loaded.reload().unwrap();
    assert_eq!(
        (report.applied(), report.restarts()),
        (&["child".to_string()][..], &["children"][..])
    );
    let told = loaded.explain("child[1].name").unwrap();
    assert_eq!(told.value(), "b");
    assert!(told.origin().place().ends_with("svc.toml:5:8"));
    assert!(loaded.explain("child[2].name").is_err());
}

#[test]
fn the_kernel_needs_no_type_to_reload_and_to_answer() {
    let bed = Bed::new("max_conns = 1\n");
    let source: Arc<dyn Source> = Arc::new(bed.load());
    let mut versions = source.versions();
    bed.write("max_conns = 2\n");
    assert_eq!(source.plan().unwrap().version(), 2);
    assert_eq!(source.reload().unwrap().version(), 2);
    versions.get();
    assert_eq!((versions.version(), source.version()), (2, 2));
    assert_eq!(source.explain("max_conns").unwrap().value(), 2);
    assert_eq!(
        (source.service(), source.files()),
        ("svc", vec![bed.path.clone()])
    );
    assert!(source.print().to_string().contains("max_conns = 2"));
    assert_eq!(source.reload_stats().reloads, 1);
    assert!(source.file_watcher().unwrap().is_some());
}

#[test]
fn another_file_can_be_tried_in_place_of_the_one_in_force() {
    let bed = Bed::new("max_conns = 1\n");
    let loaded = bed.load();
    let other = bed.path.with_file_name("other.toml");
    std::fs::write(&other, "max_conns = 2\n").unwrap();
    let plan = loaded.plan_file(&other).unwrap();
    assert_eq!(plan.applied(), ["max_conns"]);
    std::fs::write(&other, "max_cons = 2\n").unwrap();
    let errors = loaded.plan_file(&other).unwrap_err();
    let first = errors.iter().next().unwrap();
    assert!(first.place().contains("other.toml"), "{first}");
    assert_eq!(first.did_you_mean(), Some("max_conns"));
    let absent = loaded.plan_file(bed.path.with_file_name("none.toml"));
    assert!(absent.unwrap_err().to_string().contains("no such file"));
    assert_eq!((loaded.version(), loaded.snapshot().max_conns), (1, 1));
}
