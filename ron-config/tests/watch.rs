//! Readers of the snapshot: never blocked, never shown a mixture, never told twice.

#[path = "fixture/service.rs"]
mod service;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ron_config::{Loaded, Loader, Watch};
use service::Service;
use tempfile::TempDir;

struct Bed {
    _dir: TempDir,
    path: PathBuf,
    loaded: Loaded<Service>,
}

impl Bed {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("svc.toml");
        write(&path, 1);
        let loaded = Loader::<Service>::new("svc").file(&path).load().unwrap();
        Self {
            _dir: dir,
            path,
            loaded,
        }
    }

    fn set(&self, n: u32) {
        write(&self.path, n);
        self.loaded.reload().unwrap();
    }
}

fn write(path: &PathBuf, n: u32) {
    std::fs::write(
        path,
        format!("max_conns = {n}\nbus.max_lag = {n}\ntags = [\"{n}\"]\n"),
    )
    .unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60))
        .unwrap();
}

#[test]
fn a_watch_never_mixes_two_versions_and_versions_only_grow() {
    let bed = Bed::new();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut watch = bed.loaded.watch();
            let mut part = watch.map(|c: &Service| (c.max_conns, c.max_lag));
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut last, mut seen) = (0, 0u64);
                while !stop.load(Ordering::Relaxed) {
                    let config = Arc::clone(watch.get());
                    assert_eq!(config.max_conns, config.max_lag);
                    assert_eq!(config.tags, [config.max_conns.to_string()]);
                    assert_eq!(u64::from(config.max_conns), watch.version());
                    let (a, b) = **part.get();
                    assert_eq!((a, b, u64::from(a)), (b, a, part.version()));
                    assert!(watch.version() >= last);
                    seen += u64::from(watch.version() > last);
                    last = watch.version();
                }
                (last, seen)
            })
        })
        .collect();
    for n in 2..=400 {
        bed.set(n);
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let (last, seen) = reader.join().unwrap();
        assert!(last > 1 && seen > 1, "{last} {seen}");
    }
    assert_eq!(bed.loaded.version(), 400);
}

#[test]
fn an_unchanged_watch_hands_out_the_same_snapshot() {
    let bed = Bed::new();
    let mut watch = bed.loaded.watch();
    let first = Arc::clone(watch.get());
    assert!(Arc::ptr_eq(&first, watch.get()));
    bed.set(2);
    assert_eq!(
        watch.version(),
        1,
        "a version is what was read, not what there is"
    );
    assert_eq!(watch.get().max_conns, 2);
    assert_eq!((watch.version(), first.max_conns), (2, 1));
}

#[tokio::test]
async fn changed_returns_once_per_news_and_joins_what_came_together() {
    let bed = Bed::new();
    let mut watch = bed.loaded.watch();
    let mut late = watch.clone();
    bed.set(2);
    bed.set(3);
    assert_eq!(watch.changed().await, Ok(3));
    assert_eq!(watch.get().max_conns, 3);
    {
        let again = std::pin::pin!(watch.changed());
        let mut again = poll_once(again);
        assert!(again().is_none());
        bed.set(4);
        assert_eq!(again(), Some(Ok(4)));
    }
    assert_eq!(late.changed().await, Ok(4));
    // What `get` has shown already is no news.
    bed.set(5);
    late.get();
    let none = std::pin::pin!(late.changed());
    assert!(poll_once(none)().is_none());
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let bed = Bed::new();
    let mut watch = bed.loaded.watch();
    for n in 2..50 {
        {
            let wait = std::pin::pin!(watch.changed());
            assert!(poll_once(wait)().is_none());
            bed.set(n);
        }
        assert_eq!(watch.changed().await, Ok(u64::from(n)));
    }
}

#[tokio::test]
async fn a_waiting_reader_is_woken_from_another_thread() {
    let bed = Bed::new();
    let mut watch = bed.loaded.watch().map(|c: &Service| c.max_conns);
    let waiting = tokio::spawn(async move {
        let mut versions = Vec::new();
        while **watch.get() < 20 {
            versions.push(watch.changed().await.unwrap());
        }
        versions
    });
    tokio::task::yield_now().await;
    let thread = std::thread::spawn(move || {
        for n in 2..=20 {
            bed.set(n);
        }
        bed
    });
    let versions = waiting.await.unwrap();
    assert!(
        versions.windows(2).all(|pair| pair[0] < pair[1]),
        "{versions:?}"
    );
    assert_eq!(versions.last(), Some(&20));
    drop(thread.join().unwrap());
}

#[tokio::test]
async fn a_watch_outlives_what_it_watches_and_says_that_nothing_will_come() {
    let bed = Bed::new();
    let mut watch = bed.loaded.watch();
    bed.set(2);
    drop(bed);
    assert_eq!(watch.changed().await, Ok(2), "the last news is not lost");
    assert!(watch.changed().await.is_err());
    assert_eq!(watch.get().max_conns, 2);

    let mut fixed = Watch::fixed(7);
    assert_eq!((**fixed.get(), fixed.version()), (7, 1));
    assert!(fixed.changed().await.is_err());
}

struct Unheard;

impl std::task::Wake for Unheard {
    fn wake(self: Arc<Self>) {}
}

/// A closure that polls the future once.
fn poll_once<F: std::future::Future>(
    mut future: std::pin::Pin<&mut F>,
) -> impl FnMut() -> Option<F::Output> + '_ {
    move || {
        let waker = std::task::Waker::from(Arc::new(Unheard));
        let mut cx = std::task::Context::from_waker(&waker);
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
