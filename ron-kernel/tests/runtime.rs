//! `runtime.*`: how many threads `run` makes, and the numbers that it refuses.

use ron_kernel::configuration::Loader;
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Config, Kernel, KernelError};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_runs_has_as_many_threads_as_the_configuration_says_and_no_more() {
    let mut config = Config::default();
    config.runtime.workers = Some(3);
    config.runtime.blocking = 2;
    let (workers, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = (workers.clone(), most.clone());
    let child = Child::task("look", move |cx: ChildContext| {
        let (workers, most) = seen.clone();
        async move {
            workers.store(Handle::current().metrics().num_workers(), Ordering::SeqCst);
            let under_way = Arc::new(AtomicUsize::new(0));
            let go = Arc::new(Semaphore::new(0));
            let calls: Vec<_> = (0..6)
                .map(|_| {
                    let (under_way, most, go) = (under_way.clone(), most.clone(), go.clone());
                    tokio::task::spawn_blocking(move || {
                        let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        while go.try_acquire().map(|permit| permit.forget()).is_err() {
                            std::thread::yield_now();
                        }
                        under_way.fetch_sub(1, Ordering::SeqCst);
                    })
                })
                .collect();
            let began = Instant::now();
            while under_way.load(Ordering::SeqCst) < 2 {
                assert!(began.elapsed() < PATIENCE, "two do not run at a time");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            go.add_permits(6);
            for call in calls {
                call.await.unwrap();
            }
            cx.kernel().unwrap().shutdown();
        }
    });
    let code = Kernel::builder().config(config).child(child).run();
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", ExitCode::SUCCESS),
        "it ends in order"
    );
    assert_eq!(workers.load(Ordering::SeqCst), 3);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// A runtime without threads panics.
#[test]
fn numbers_made_by_hand_are_refused_with_their_key_and_range() {
    for (workers, blocking, told) in [
        (Some(0), 512, "runtime.workers is 0; expected 1 to 1024"),
        (
            Some(1025),
            512,
            "runtime.workers is 1025; expected 1 to 1024",
        ),
        (None, 0, "runtime.blocking is 0; expected 1 to 4096"),
        (
            Some(1),
            10_000,
            "runtime.blocking is 10000; expected 1 to 4096",
        ),
    ] {
        let mut config = Config::default();
        (config.runtime.workers, config.runtime.blocking) = (workers, blocking);
        let error = Kernel::builder().config(config).build().err().unwrap();
        assert!(matches!(error, KernelError::Threads { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), format!("configuration: {told}"));
    }
    for (workers, blocking) in [(Some(1), 1), (Some(1024), 4096), (None, 512)] {
        let mut config = Config::default();
        (config.runtime.workers, config.runtime.blocking) = (workers, blocking);
        assert!(Kernel::builder().config(config).build().is_ok());
    }
}

#[test]
fn what_tokio_calls_its_threads_is_a_name_of_the_key() {
    let load = |env: &[(&str, &str)]| {
        Loader::<Config>::new("ron-kernel")
            .env(env.iter().copied())
            .load()
    };
    for (name, text, workers) in [
        ("TOKIO_WORKER_THREADS", "7", Some(7)),
        ("RON_RUNTIME_WORKERS", "8", Some(8)),
        ("RON_RUNTIME_WORKERS", "unset", None),
    ] {
        let loaded = load(&[(name, text)]).unwrap();
        assert_eq!(loaded.snapshot().runtime.workers, workers, "{name}={text}");
    }
    // tokio itself would panic.
    for text in ["0", "10000", "many", "-1", ""] {
        let refused = load(&[("TOKIO_WORKER_THREADS", text)]).err().unwrap();
        let told = refused.to_string();
        for word in ["TOKIO_WORKER_THREADS", "an integer from 1 to 1024"] {
            assert!(told.contains(word), "{text:?}: {told}");
        }
    }
    let both = [("TOKIO_WORKER_THREADS", "7"), ("RON_RUNTIME_WORKERS", "8")];
    assert!(load(&both).is_err());
}
