//! However the file is changed, the last valid content is what ends up in force, and never a part of one.
//!
//! The random run makes 500 operations by default, about five seconds; the full count is
//! `RON_CONFIG_FILE_OPS=10000 cargo test -p ron-config --release --test file_operations`.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ron_config::{FileWatcher, Loaded, Loader, Reload, Schema, Settings, Timing};
use tempfile::TempDir;

/// Two numbers that are equal in every whole file, far apart in its text.
#[derive(Clone, Default)]
struct Pair {
    first: u64,
    filling: Vec<u64>,
    last: u64,
}

impl Settings for Pair {
    fn schema(schema: &mut Schema<Self>) {
        schema.key("first", |c| &mut c.first).reload(Reload::Live);
        schema
            .key("filling", |c| &mut c.filling)
            .reload(Reload::Live);
        schema.key("last", |c| &mut c.last).reload(Reload::Live);
    }
}

fn content(n: u64) -> String {
    let filling: Vec<String> = (0..400).map(|i| (n + i).to_string()).collect();
    format!(
        "first = {n}\nfilling = [\n{},\n]\nlast = {n}\n",
        filling.join(",\n")
    )
}

const FAST: Duration = Duration::from_millis(10);

fn timing() -> Timing {
    Timing::default()
        .debounce(FAST)
        .poll(Duration::from_millis(200))
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future on this thread until it is ready or the time is over; then it is dropped.
fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Instant::now() + limit;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

const SOON: Duration = Duration::from_secs(10);

/// A directory as Kubernetes mounts a volume: the file is a link through `..data`, which is swapped whole.
struct Volume {
    dir: TempDir,
    file: PathBuf,
    generation: u64,
}

impl Volume {
    fn new(n: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("svc.toml");
        let mut volume = Self {
            dir,
            file,
            generation: 0,
        };
        volume.swap(n);
        symlink("..data/svc.toml", &volume.file).unwrap();
        volume
    }

    fn swap(&mut self, n: u64) {
        let old = self.dir.path().join(format!("..{}", self.generation));
        self.generation += 1;
        let new = self.dir.path().join(format!("..{}", self.generation));
        fs::create_dir(&new).unwrap();
        fs::write(new.join("svc.toml"), content(n)).unwrap();
        let link = self.dir.path().join("..data_tmp");
        symlink(new.file_name().unwrap(), &link).unwrap();
        fs::rename(&link, self.dir.path().join("..data")).unwrap();
        let _ = fs::remove_dir_all(old);
    }
}

/// The ways to change a file.
#[derive(Clone, Copy, Debug)]
enum Operation {
    EditorRename,
    TruncateThenWrite,
    WriteInPieces,
    DeleteAndCreate,
    WriteOver,
    SwapVolume,
    TouchOnly,
    BreakAndMend,
}

const OPERATIONS: [Operation; 8] = [
    Operation::EditorRename,
    Operation::TruncateThenWrite,
    Operation::WriteInPieces,
    Operation::DeleteAndCreate,
    Operation::WriteOver,
    Operation::SwapVolume,
    Operation::TouchOnly,
    Operation::BreakAndMend,
];

fn perform(volume: &mut Volume, operation: Operation, n: u64, pause: Duration) {
    let text = content(n);
    let file = volume.file.clone();
    match operation {
        Operation::EditorRename => {
            let swap = file.with_file_name(".svc.toml.swp");
            fs::write(&swap, text).unwrap();
            fs::rename(swap, file).unwrap();
        }
        Operation::TruncateThenWrite => {
            let mut open = fs::File::create(file).unwrap();
            thread::sleep(pause);
            open.write_all(text.as_bytes()).unwrap();
        }
        Operation::WriteInPieces => {
            let mut open = fs::File::create(file).unwrap();
            for piece in text.as_bytes().chunks(text.len() / 3) {
                open.write_all(piece).unwrap();
                thread::sleep(pause);
            }
        }
        Operation::DeleteAndCreate => {
            fs::remove_file(&file).unwrap();
            thread::sleep(pause);
            fs::write(file, text).unwrap();
        }
        Operation::WriteOver => {
            let mut open = fs::OpenOptions::new().write(true).open(&file).unwrap();
            open.write_all(text.as_bytes()).unwrap();
            open.set_len(text.len() as u64).unwrap();
        }
        Operation::SwapVolume => {
            volume.swap(n);
            // An earlier operation may have put a plain file where the link was.
            let link = file.with_file_name(".link");
            symlink("..data/svc.toml", &link).unwrap();
            fs::rename(link, file).unwrap();
        }
        Operation::TouchOnly => {
            fs::write(&file, text).unwrap();
            let open = fs::File::options().write(true).open(&file).unwrap();
            open.set_modified(std::time::SystemTime::now()).unwrap();
        }
        Operation::BreakAndMend => {
            fs::write(&file, "first = \n").unwrap();
            thread::sleep(pause);
            fs::write(file, text).unwrap();
        }
    }
}

/// Follows the file as a kernel does, and counts what must never be.
struct Follower {
    stop: Arc<AtomicBool>,
    torn: Arc<AtomicUsize>,
    thread: thread::JoinHandle<FileWatcher>,
}

impl Follower {
    fn start(loaded: &Loaded<Pair>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let torn = Arc::new(AtomicUsize::new(0));
        let mut watcher = loaded.file_watcher_with(timing()).unwrap().unwrap();
        let (stopped, tears, loaded) = (Arc::clone(&stop), Arc::clone(&torn), loaded.clone());
        let thread = thread::spawn(move || {
            let mut watch = loaded.watch();
            while !stopped.load(Ordering::SeqCst) {
                if within(Duration::from_millis(50), watcher.changed()).is_some() {
                    let _ = loaded.reload();
                }
                let pair = watch.get();
                let whole = pair.first == pair.last && pair.filling.len() == 400;
                tears.fetch_add(usize::from(!whole), Ordering::SeqCst);
            }
            watcher
        });
        Self { stop, torn, thread }
    }
}

#[test]
fn random_interleavings_end_in_the_last_valid_file_with_no_torn_read() {
    let total: u64 = std::env::var("RON_CONFIG_FILE_OPS")
        .map_or(500, |n| n.parse().expect("RON_CONFIG_FILE_OPS is a number"));
    let mut volume = Volume::new(1);
    let loaded = Loader::<Pair>::new("svc")
        .file(&volume.file)
        .load()
        .unwrap();
    let follower = Follower::start(&loaded);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    let mut n = 1;
    while n < total {
        // A burst, some of it faster than the debounce and some slower; then quiet, and the truth.
        let burst = 1 + random(60);
        let mut done = Vec::new();
        for _ in 0..burst {
            n += 1;
            let operation = OPERATIONS[random(OPERATIONS.len() as u64) as usize];
            let pause = Duration::from_micros(random(2_000));
            perform(&mut volume, operation, n, pause);
            done.push(operation);
            if random(8) == 0 {
                thread::sleep(Duration::from_millis(random(30)));
            }
        }
        let deadline = Instant::now() + SOON;
        while loaded.snapshot().last != n {
            assert!(
                Instant::now() < deadline,
                "stuck at {} of {n} after {done:?}",
                loaded.snapshot().last
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
    follower.stop.store(true, Ordering::SeqCst);
    let mut watcher = follower.thread.join().unwrap();
    assert_eq!(follower.torn.load(Ordering::SeqCst), 0);
    // Quiet now: nothing is pending that has not been read, and what was touched is no change.
    fs::write(&volume.file, content(n)).unwrap();
    assert_eq!(within(FAST * 30, watcher.changed()), None);
    watcher.join();
}

#[test]
fn a_reload_in_the_middle_of_a_write_waits_for_the_writer() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    fs::write(&file, content(1)).unwrap();
    let loaded = Loader::<Pair>::new("svc").file(&file).load().unwrap();
    let writer = thread::spawn(move || {
        for n in 2..12 {
            let text = content(n);
            let mut open = fs::File::create(&file).unwrap();
            for piece in text.as_bytes().chunks(text.len() / 3) {
                open.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(4));
            }
            // Long enough for the file to count as written.
            thread::sleep(Duration::from_millis(120));
        }
    });
    while !writer.is_finished() {
        loaded.reload().expect("no reload meets half a file");
        let pair = loaded.snapshot();
        assert_eq!((pair.first, pair.filling.len()), (pair.last, 400));
    }
    loaded.reload().unwrap();
    assert_eq!(loaded.snapshot().last, 11);
}

#[test]
fn many_changes_while_nobody_waits_are_one_pending_reload() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    fs::write(&file, content(0)).unwrap();
    let mut watcher = FileWatcher::new(&file, timing()).unwrap();
    for n in 1..6 {
        fs::write(&file, content(n)).unwrap();
        // Longer than the debounce, so that each is seen on its own.
        thread::sleep(FAST * 6);
    }
    assert_eq!(within(SOON, watcher.changed()), Some(()));
    assert_eq!(within(FAST * 10, watcher.changed()), None);
}

#[test]
fn every_operation_is_seen_by_events_and_by_polling_alone() {
    for slow_poll in [true, false] {
        let timing = if slow_poll {
            timing().poll(Duration::from_secs(3600))
        } else {
            timing().poll(Duration::from_millis(20))
        };
        let mut volume = Volume::new(1);
        let mut watcher = FileWatcher::new(&volume.file, timing).unwrap();
        for (n, operation) in OPERATIONS.into_iter().enumerate() {
            perform(&mut volume, operation, 10 + n as u64, Duration::ZERO);
            let seen = within(SOON, watcher.changed());
            assert_eq!(seen, Some(()), "{operation:?}, slow poll {slow_poll}");
        }
    }
}

#[test]
fn a_link_that_leads_out_of_the_directory_is_followed() {
    let mut volume = Volume::new(1);
    let elsewhere = TempDir::new().unwrap();
    let link = elsewhere.path().join("app.toml");
    symlink(&volume.file, &link).unwrap();
    let slow = timing().poll(Duration::from_secs(3600));
    let mut watcher = FileWatcher::new(&link, slow).unwrap();
    volume.swap(2);
    assert_eq!(within(SOON, watcher.changed()), Some(()));
    volume.swap(3);
    assert_eq!(within(SOON, watcher.changed()), Some(()));
}

#[test]
fn a_directory_that_is_deleted_and_created_again_is_found_by_the_poll() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("etc");
    let file = inner.join("svc.toml");
    fs::create_dir(&inner).unwrap();
    fs::write(&file, content(1)).unwrap();
    let mut watcher = FileWatcher::new(&file, timing()).unwrap();
    fs::remove_dir_all(&inner).unwrap();
    assert_eq!(
        within(FAST * 30, watcher.changed()),
        None,
        "a deletion is no change"
    );
    fs::create_dir(&inner).unwrap();
    fs::write(&file, content(2)).unwrap();
    assert_eq!(within(SOON, watcher.changed()), Some(()));
}

#[test]
fn a_file_left_open_half_written_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    fs::write(&file, content(1)).unwrap();
    let slow = Timing::default().debounce(Duration::from_millis(50));
    let mut watcher = FileWatcher::new(&file, slow).unwrap();
    let mut open = fs::File::create(&file).unwrap();
    open.write_all(b"first = 2\n").unwrap();
    // Four debounce times of silence, within the ten that a writer is given.
    assert_eq!(within(Duration::from_millis(200), watcher.changed()), None);
    open.write_all(b"last = 2\n").unwrap();
    drop(open);
    assert_eq!(within(SOON, watcher.changed()), Some(()));
    assert_eq!(within(Duration::from_millis(700), watcher.changed()), None);
}

#[test]
fn a_change_is_lost_to_no_dropped_future() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    fs::write(&file, content(1)).unwrap();
    let mut watcher = FileWatcher::new(&file, timing()).unwrap();
    for _ in 0..20 {
        assert_eq!(within(Duration::ZERO, watcher.changed()), None);
    }
    fs::write(&file, content(2)).unwrap();
    let deadline = Instant::now() + SOON;
    // Each wait is dropped after a moment; one of them must have it.
    while within(Duration::from_micros(100), watcher.changed()).is_none() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_change_between_loading_and_watching_is_reported() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    fs::write(&file, content(1)).unwrap();
    let loaded = Loader::<Pair>::new("svc").file(&file).load().unwrap();
    fs::write(&file, content(2)).unwrap();
    let mut watcher = loaded.file_watcher_with(timing()).unwrap().unwrap();
    assert_eq!(within(SOON, watcher.changed()), Some(()));
    loaded.reload().unwrap();
    assert_eq!(loaded.snapshot().last, 2);
}

/// The threads of this process that carry the watcher's name.
fn watching_threads() -> usize {
    let name = |path: PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default();
    let threads = fs::read_dir(Path::new("/proc/self/task")).unwrap();
    let names = threads.map(|thread| name(thread.unwrap().path()));
    names
        .filter(|name| name.starts_with("ron-config-file"))
        .count()
}

#[test]
fn the_thread_ends_when_the_watcher_is_joined() {
    let dir = TempDir::new().unwrap();
    // Other tests of this file run their own watchers at the same time, so only the joining itself is proof: it would
    // wait for ever if the thread did not end.
    let watcher =
        FileWatcher::new(dir.path().join("none.toml"), timing().poll(SOON * 100)).unwrap();
    assert!(watching_threads() >= 1);
    let began = Instant::now();
    watcher.join();
    assert!(began.elapsed() < Duration::from_secs(5));
}
