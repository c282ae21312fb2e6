//! Noticing that the configuration file changed, however it was changed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, DataChange, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::document::{read, Fingerprint};
use crate::loader::hex;

mod chain;

/// How a [`FileWatcher`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    debounce: Duration,
    poll: Duration,
}

impl Default for Timing {
    /// A debounce of 100 ms, which joins the several steps of an editor's save into one change, and a poll every 2 s.
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(100),
            poll: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// How long the file must be left alone before its content counts, at least 1 ms.
    pub fn debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce.max(Duration::from_millis(1));
        self
    }

    /// How often the file is looked at without being told: the only way where the operating system reports nothing (some
    /// network file systems, a spent inotify limit), and a safety net everywhere else. At least 1 ms.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll.max(Duration::from_millis(1));
        self
    }
}

/// Reports when a file has other content than before.
///
/// The directory of the file is watched, and those of every symbolic link on the way to it, so that the file being
/// replaced by rename, deleted and created again, or moved under a link (`..data` of a Kubernetes volume) is seen. What
/// is reported is content, compared by hash: a touched or rewritten file of the same bytes is no change, a deletion is
/// none until the file is back. A file that is being written (changed, not yet closed) is waited for, for at most ten
/// debounce times, and so is one that is empty and was not.
///
/// One thread does the work; it never runs in a runtime.
pub struct FileWatcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Holds at most one permit, so at most one change is pending however many there were.
    changed: Notify,
    inbox: Mutex<Inbox>,
    wake: Condvar,
}

/// What the operating system told since the thread last looked.
#[derive(Default)]
struct Inbox {
    events: u64,
    /// The file was written to and its writer has not closed it.
    open: bool,
    stop: bool,
    /// Events no longer come.
    deaf: bool,
}

impl FileWatcher {
    /// Watches a file, which need not exist; reports any content other than the one it has now.
    ///
    /// # Errors
    /// The operating system's, when it gives no thread. Where it gives no file events, the file is polled instead.
    pub fn new(path: impl AsRef<Path>, timing: Timing) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let now = sha256_of(&path);
        Self::since(&path, now, timing)
    }

    /// Watches a file, and reports any content whose hash is not `known`.
    pub(crate) fn since(path: &Path, known: Option<String>, timing: Timing) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            changed: Notify::new(),
            inbox: Mutex::new(Inbox {
                // Look once at the start: the file may have changed before the watch stands.
                events: 1,
                ..Inbox::default()
            }),
            wake: Condvar::new(),
        });
        let mut watch = Watching {
            path: path.to_owned(),
            timing,
            had_content: known.is_some(),
            known,
            shared: Arc::clone(&shared),
            watcher: None,
            watched: BTreeSet::new(),
        };
        // Here and not in the thread, so that whatever happens after this call is seen.
        watch.watch_directories();
        let thread = std::thread::Builder::new()
            .name("ron-config-file".to_owned())
            .spawn(move || watch.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until the file has other content than at the last report. Changes that come while nobody waits are reported
    /// once.
    ///
    /// # Cancel safety
    /// Cancel safe: a change is lost to no dropped future.
    pub async fn changed(&mut self) {
        self.shared.changed.notified().await;
    }

    /// Stops watching and waits for the thread to end, which takes as long as reading the file once.
    ///
    /// Dropping the watcher stops it too, without waiting.
    pub fn join(mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // The thread runs no code of the user's; were it to panic, there is nothing left to do here.
            let _ = thread.join();
        }
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatcher").finish_non_exhaustive()
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.inbox().stop = true;
        self.wake.notify_all();
    }

    /// Takes one event of the operating system's; `name` is the file's, to know writes to it from those to neighbours.
    fn tell(&self, event: notify::Result<Event>, name: Option<&OsString>) {
        let mut inbox = self.inbox();
        match event {
            Ok(event) => {
                let ours = || {
                    let mut names = event.paths.iter().filter_map(|path| path.file_name());
                    names.any(|other| name.is_some_and(|name| name.as_os_str() == other))
                };
                match event.kind {
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                        if ours() {
                            inbox.open = false;
                        }
                    }
                    // Reading the file is an access too; reacting to it would never end.
                    EventKind::Access(_) => return,
                    EventKind::Modify(ModifyKind::Data(DataChange::Any | DataChange::Content)) => {
                        if ours() {
                            inbox.open = true;
                        }
                    }
                    _ => {
                        if ours() {
                            inbox.open = false;
                        }
                    }
                }
            }
            Err(_) => inbox.deaf = true,
        }
        inbox.events += 1;
        drop(inbox);
        self.wake.notify_all();
    }
}

/// The thread's own state.
struct Watching {
    path: PathBuf,
    timing: Timing,
    /// Hash of the content last reported, or `None` if there was no file.
    known: Option<String>,
    had_content: bool,
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

/// The file at a moment when nobody was writing it.
struct Settled {
    fingerprint: Option<Fingerprint>,
    /// Its hash and whether it is empty; `None` when there is no readable file.
    content: Option<(String, bool)>,
}

/// Why the thread woke up.
enum Wake {
    Event,
    Poll,
    Stop,
}

impl Watching {
    fn run(mut self) {
        let mut last = None;
        let mut first = true;
        loop {
            self.watch_directories();
            let wake = if first {
                Wake::Event
            } else {
                self.wait(self.timing.poll)
            };
            first = false;
            let fingerprint = Fingerprint::of(&self.path).ok();
            match wake {
                Wake::Stop => return,
                Wake::Poll if fingerprint == last => continue,
                Wake::Poll | Wake::Event => {}
            }
            let Some(settled) = self.settle() else {
                return;
            };
            last = settled.fingerprint;
            let Some((sha256, empty)) = settled.content else {
                continue;
            };
            self.had_content = !empty;
            if self.known.as_ref() != Some(&sha256) {
                self.known = Some(sha256);
                self.shared.changed.notify_one();
            }
        }
    }

    /// Waits for an event; `Poll` after `timeout` without one.
    fn wait(&self, timeout: Duration) -> Wake {
        let deadline = Instant::now() + timeout;
        let mut inbox = self.shared.inbox();
        loop {
            if inbox.stop {
                return Wake::Stop;
            }
            if inbox.events > 0 {
                inbox.events = 0;
                return Wake::Event;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wake::Poll;
            }
            let (next, _) = self
                .shared
                .wake
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner);
            inbox = next;
        }
    }

    /// Waits until the file is left alone, then reads it; `None` to stop.
    fn settle(&mut self) -> Option<Settled> {
        let patience = Instant::now() + self.timing.debounce * 10;
        let mut before = Fingerprint::of(&self.path).ok();
        loop {
            let quiet = match self.wait(self.timing.debounce) {
                Wake::Stop => return None,
                Wake::Event => false,
                Wake::Poll => true,
            };
            let out_of_patience = Instant::now() >= patience;
            // A link on the way may lead elsewhere by now.
            self.watch_directories();
            let after = Fingerprint::of(&self.path).ok();
            let still = after == before;
            before = after;
            let open = self.shared.inbox().open;
            let left_alone = quiet && still && !open;
            if !left_alone && !out_of_patience {
                continue;
            }
            let Ok(bytes) = read(&self.path) else {
                return Some(Settled {
                    fingerprint: before,
                    content: None,
                });
            };
            if bytes.is_empty() && self.had_content && !out_of_patience {
                continue;
            }
            if Fingerprint::of(&self.path).ok() != before && !out_of_patience {
                continue;
            }
            let sha256 = hex(&hmac_sha256::Hash::hash(&bytes));
            return Some(Settled {
                fingerprint: before,
                content: Some((sha256, bytes.is_empty())),
            });
        }
    }

    /// Makes the watched directories those on the way to the file, as the links stand now. Where that fails the poll
    /// remains.
    fn watch_directories(&mut self) {
        if std::mem::take(&mut self.shared.inbox().deaf) {
            self.watcher = None;
        }
        if self.watcher.is_none() {
            self.watched.clear();
            let shared = Arc::clone(&self.shared);
            let name = chain::target_name(&self.path);
            let watcher = notify::recommended_watcher(move |event| {
                shared.tell(event, name.as_ref());
            });
            self.watcher = watcher.ok();
        }
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted = chain::directories(&self.path);
        for gone in self.watched.difference(&wanted) {
            // It may be deleted, which ends its watch as well.
            let _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            let known = self.watched.contains(&directory);
            if known
                || watcher
                    .watch(&directory, RecursiveMode::NonRecursive)
                    .is_ok()
            {
                watched.insert(directory);
            }
        }
        self.watched = watched;
    }
}

fn sha256_of(path: &Path) -> Option<String> {
    let bytes = read(path).ok()?;
    Some(hex(&hmac_sha256::Hash::hash(&bytes)))
}
