//! Where objects are kept: in memory, in files of a directory, or in a bucket of an S3-compatible service.
//!
//! One narrow interface over all of them: a [`Put`] takes an object piece by piece, [`Store::open`] finds the tree of one,
//! [`Opened`] gives its groups, which whoever sends them verifies.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use ron_metrics::{Condition, Metrics, MetricsError};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::object::{Address, Hasher, Tree, GROUP_LEN};
use crate::wiped::Wiped;

mod budget;
mod disk;
mod form;
mod memory;
mod remote;
mod settings;

pub use budget::Full;
use budget::{Budget, Reservation};
use disk::{Disk, Temp};
use memory::{Memory, Object};
use remote::Remote;
pub use settings::{S3Settings, StoreKind, StoreSettings};

/// What is read at a time of an object that is not in memory, and what a put gathers before it writes: few trips to the
/// threads that wait for the disk, and little memory for each of hundreds of requests.
const WINDOW: u64 = 4 * GROUP_LEN as u64;
/// The most that a look at a store that failed tries to write: what a plain put takes.
const PROBE_MAX: u64 = 1 << 20;

/// For a look at a bucket: a service that takes longer is of no use to clients either.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// Keeps objects.
pub struct Store {
    kind: Kind,
    trouble: Mutex<Option<Trouble>>,
    troubled: Notify,
}

enum Kind {
    Memory(Memory),
    Disk {
        dir: PathBuf,
        max_bytes: u64,
        /// Once it could be opened.
        disk: OnceLock<Disk>,
    },
    S3 {
        settings: S3Settings,
        /// Of puts under way.
        budget: Budget,
        /// Once it could be written to. Made anew after a failure: the secret may be another.
        remote: RwLock<Option<Remote>>,
    },
}

/// What went wrong last, until a look finds that it is over.
struct Trouble {
    /// What fails: a text of its own for each kind of failure.
    what: String,
    /// Bytes that could not be written.
    size: u64,
}

/// Why an object could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The budget does not allow it.
    #[error(transparent)]
    Full(#[from] Full),
    /// The disk, or the quota on it, does not allow it.
    #[error("the disk has no room")]
    NoSpace(#[source] io::Error),
    /// What is stored is not the object of its address.
    #[error("the stored bytes are not those of this address")]
    Damaged,
    /// The store does not do what it should.
    #[error("{what}: {cause}")]
    Unavailable {
        /// What could not be done.
        what: String,
        /// Why.
        cause: Box<dyn Error + Send + Sync>,
    },
}

/// What was at an address before a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Before {
    /// Nothing.
    Absent,
    /// The object; it was left as it is.
    Intact,
    /// Something else; it was replaced.
    Damaged,
}

/// An object on its way into the store. Dropped before [`finish`](Self::finish), nothing of it stays.
pub struct Put {
    store: Arc<Store>,
    hasher: Hasher,
    /// The group that fills.
    group: Wiped,
    len: u64,
    /// Bytes that are still to come, if that is known.
    declared: Option<u64>,
    reserved: Reservation,
    /// Whether the budget is asked with every piece, or when all is there.
    reserves: bool,
    sink: Sink,
}

/// Where full groups go.
enum Sink {
    Memory {
        memory: Memory,
        groups: Vec<Bytes>,
    },
    Disk {
        disk: Disk,
        temp: Option<Temp>,
        /// Less than a [`WINDOW`], still to be written.
        waiting: Vec<Bytes>,
    },
    S3 {
        remote: Remote,
        budget: Budget,
        groups: Vec<Bytes>,
    },
}

/// An object that is stored; clones are the same.
#[derive(Clone, Debug)]
pub struct Opened(Source);

#[derive(Clone, Debug)]
enum Source {
    Memory(Arc<Object>),
    Disk(Arc<disk::Stored>),
    S3(Arc<remote::Stored>),
}

impl Store {
    /// The store of these settings. What it needs from the system is looked for by the first [`check`](Self::check).
    pub fn new(settings: &StoreSettings) -> Arc<Self> {
        let max_bytes = settings.max_bytes.bytes();
        Arc::new(Self {
            kind: match settings.kind {
                StoreKind::Memory => Kind::Memory(Memory::new(max_bytes)),
                StoreKind::Disk => Kind::Disk {
                    dir: settings.dir.clone().unwrap_or_default(),
                    max_bytes,
                    disk: OnceLock::new(),
                },
                StoreKind::S3 => Kind::S3 {
                    settings: settings.s3.clone(),
                    budget: Budget::new(max_bytes),
                    remote: RwLock::default(),
                },
            },
            trouble: Mutex::default(),
            troubled: Notify::new(),
        })
    }

    /// Begins to put an object of `declared` bytes, if that is known. One that `reserves` has room in the budget for every
    /// byte that it has taken; another asks for all of it at its end, and not at all if the object is there already.
    ///
    /// # Errors
    /// The store does not work.
    pub fn put(self: &Arc<Self>, declared: Option<u64>, reserves: bool) -> Result<Put, StoreError> {
        let sink = match &self.kind {
            Kind::Memory(memory) => Sink::Memory {
                memory: memory.clone(),
                groups: Vec::new(),
            },
            Kind::Disk { disk, .. } => Sink::Disk {
                disk: opened(disk)?.clone(),
                temp: None,
                waiting: Vec::new(),
            },
            Kind::S3 { budget, remote, .. } => Sink::S3 {
                remote: usable(remote)?,
                budget: budget.clone(),
                groups: Vec::new(),
            },
        };
        // What goes to a bucket is in memory for nothing but this put.
        let reserves = reserves || matches!(sink, Sink::S3 { .. });
        Ok(Put {
            reserved: sink.budget().reservation(),
            store: Arc::clone(self),
            hasher: Hasher::new(),
            group: Wiped::default(),
            len: 0,
            declared,
            reserves,
            sink,
        })
    }

    /// The object at `address`: its tree is verified, its groups are not.
    ///
    /// # Errors
    /// The store does not work, or what it has is not that object.
    pub async fn open(&self, address: &Address) -> Result<Option<Opened>, StoreError> {
        let source = match &self.kind {
            Kind::Memory(memory) => memory.get(address).map(Source::Memory),
            Kind::Disk { disk, .. } => {
                let (disk, address) = (opened(disk)?.clone(), *address);
                let stored = blocking(move || disk.get(&address)).await;
                let stored = stored.inspect_err(|error| self.failed(error, 0))?;
                stored.map(|stored| Source::Disk(Arc::new(stored)))
            }
            Kind::S3 { remote, .. } => {
                let stored = usable(remote)?.get(address).await;
                let stored = stored.inspect_err(|error| self.failed(error, 0))?;
                stored.map(|stored| Source::S3(Arc::new(stored)))
            }
        };
        Ok(source.map(Opened))
    }

    /// Whether its objects are in memory, where reading takes no time to speak of.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind, Kind::Memory(_))
    }

    /// Has `metrics` tell what is in it, as long as it is.
    ///
    /// # Errors
    /// They have a family of one of the names already.
    pub(crate) fn expose(self: &Arc<Self>, metrics: &Metrics) -> Result<(), MetricsError> {
        let gauge = |name: &str, help: &str, value: fn(&Self) -> Option<u64>| {
            let store = Arc::downgrade(self);
            let gauge = metrics.gauge_collector(name, help, [])?;
            let feed = gauge.feed(move |samples| {
                if let Some(value) = store.upgrade().and_then(|store| value(&store)) {
                    samples.push([], value as f64);
                }
            });
            feed.keep();
            Ok::<(), MetricsError>(())
        };
        let help = "Bytes that objects take in the store, puts under way included.";
        gauge("store_used_bytes", help, |store| Some(store.usage()?.0))?;
        let help = "Bytes that objects may take in the store.";
        gauge("store_limit_bytes", help, |store| Some(store.usage()?.1))?;
        gauge("store_objects", "Objects in the store.", Self::count)
    }

    /// Bytes in use, and how many there may be. Nothing before it is opened.
    pub fn usage(&self) -> Option<(u64, u64)> {
        match &self.kind {
            Kind::Memory(memory) => Some(memory.budget().usage()),
            Kind::Disk { disk, .. } => Some(disk.get()?.budget().usage()),
            Kind::S3 { budget, .. } => Some(budget.usage()),
        }
    }

    /// How many objects it has. Nothing before it is opened, nor of a bucket.
    pub fn count(&self) -> Option<u64> {
        match &self.kind {
            Kind::Memory(memory) => Some(memory.count()),
            Kind::Disk { disk, .. } => Some(disk.get()?.count()),
            Kind::S3 { .. } => None,
        }
    }

    /// Looks at a store that is not open yet or has failed, and says what is wrong with it, if anything.
    pub async fn check(&self) -> Option<Condition> {
        let size = self.trouble().as_ref().map(|trouble| trouble.size);
        let probed = match &self.kind {
            Kind::Memory(_) => Ok(()),
            Kind::Disk {
                dir,
                max_bytes,
                disk,
            } => match (disk.get(), size) {
                (Some(_), None) => Ok(()),
                (Some(disk), Some(size)) => {
                    let disk = disk.clone();
                    blocking(move || disk.probe(size.min(PROBE_MAX))).await
                }
                (None, _) => {
                    let (dir, max_bytes) = (dir.clone(), *max_bytes);
                    let opened = blocking(move || Disk::open(&dir, max_bytes)).await;
                    opened.map(|opened| drop(disk.set(opened)))
                }
            },
            Kind::S3 {
                settings, remote, ..
            } => {
                let is_usable = usable(remote).is_ok();
                if is_usable && size.is_none() {
                    Ok(())
                } else {
                    let settings = settings.clone();
                    let probed = async {
                        let made = blocking(move || Remote::open(&settings)).await?;
                        made.probe().await?;
                        let mut remote = remote.write().unwrap_or_else(PoisonError::into_inner);
                        *remote = Some(made);
                        Ok(())
                    };
                    let late = |_| Err(StoreError::unavailable("the bucket", "it does not answer"));
                    timeout(PROBE_TIME, probed).await.unwrap_or_else(late)
                }
            }
        };
        if let Err(error) = probed {
            self.remember(&error, size.unwrap_or(0));
            return Some(Condition::not_ready(error.text()));
        }
        if self.trouble().take().is_some() {
            tracing::info!(event = "store_recovered", "the store works again");
        }
        let (used, limit) = self.usage()?;
        // Beyond nine tenths, so that somebody can act before puts are refused.
        (used > limit / 10 * 9).then(|| {
            Condition::degraded(format!("{used} of {limit} bytes of the store are in use"))
        })
    }

    /// Until something has failed.
    pub async fn troubled(&self) {
        self.troubled.notified().await;
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what is the store's own failure, of which `size` bytes were to be written.
    pub(crate) fn failed(&self, error: &StoreError, size: u64) {
        if self.remember(error, size) {
            self.troubled.notify_one();
        }
    }

    /// Whether that is another failure than the last, which is told.
    fn remember(&self, error: &StoreError, size: u64) -> bool {
        let what = match error {
            StoreError::NoSpace(_) => error.to_string(),
            StoreError::Unavailable { what, .. } => what.clone(),
            StoreError::Full(_) | StoreError::Damaged => return false,
        };
        let mut trouble = self.trouble();
        let size = trouble.as_ref().map_or(size, |known| known.size.max(size));
        let before = trouble.replace(Trouble {
            what: what.clone(),
            size,
        });
        drop(trouble);
        let is_new = before.is_none_or(|before| before.what != what);
        if is_new {
            let reason = error.text();
            tracing::error!(event = "store_failed", reason, "the store fails: {reason}");
        }
        is_new
    }
}

/// The bucket, if it could be written to.
fn usable(remote: &RwLock<Option<Remote>>) -> Result<Remote, StoreError> {
    let cause = "it could not be written to yet; /readyz tells why";
    let remote = remote.read().unwrap_or_else(PoisonError::into_inner);
    remote
        .clone()
        .ok_or_else(|| StoreError::unavailable("the bucket is not there", cause))
}

/// The disk, if it could be opened.
fn opened(disk: &OnceLock<Disk>) -> Result<&Disk, StoreError> {
    let cause = "it could not be opened yet; /readyz tells why";
    disk.get()
        .ok_or_else(|| StoreError::unavailable("the store is not there", cause))
}

/// Where waiting for a disk holds up nothing else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::unavailable("work on the disk was lost", error)))
}

impl Put {
    /// Takes the next bytes. After an error there is nothing but to drop it.
    ///
    /// # Errors
    /// The budget or the store does not allow it.
    ///
    /// # Cancel safety
    /// Dropped, bytes may be lost: whoever gives up drops the put too.
    pub async fn write(&mut self, mut piece: &[u8]) -> Result<(), StoreError> {
        if self.reserves {
            self.reserved.grow_to(self.len + piece.len() as u64)?;
        }
        while !piece.is_empty() {
            let room = GROUP_LEN - self.group.len();
            let (now, later) = piece.split_at(piece.len().min(room));
            if self.group.len() == 0 {
                // A length that is known is not to be grown to. An object of one group may stay as small as its first piece.
                let left = match self.declared {
                    Some(declared) => declared.saturating_sub(self.len),
                    None if self.len == 0 => 0,
                    None => GROUP_LEN as u64,
                };
                self.group = Wiped::with_capacity(left.min(GROUP_LEN as u64) as usize);
            }
            self.group.extend(now, GROUP_LEN);
            self.len += now.len() as u64;
            piece = later;
            if self.group.len() == GROUP_LEN {
                self.push().await?;
            }
        }
        Ok(())
    }

    /// Hashes a group and passes it on.
    async fn push(&mut self) -> Result<(), StoreError> {
        let group = std::mem::take(&mut self.group);
        self.hasher.update(group.as_ref());
        let group = group.freeze();
        match &mut self.sink {
            Sink::Memory { groups, .. } | Sink::S3 { groups, .. } => groups.push(group),
            Sink::Disk {
                disk,
                temp,
                waiting,
            } => {
                waiting.push(group);
                if waiting.len() as u64 * GROUP_LEN as u64 >= WINDOW {
                    let (disk, begun) = (disk.clone(), temp.take());
                    let pieces = std::mem::take(waiting);
                    let written = blocking(move || {
                        let mut temp = begun.map_or_else(|| disk.temp(), Ok)?;
                        temp.write(&pieces)?;
                        Ok(temp)
                    });
                    let written = written.await;
                    *temp = Some(written.inspect_err(|error| self.store.failed(error, self.len))?);
                }
            }
        }
        Ok(())
    }

    /// Keeps the object, once and for all when this returns.
    ///
    /// # Errors
    /// The budget or the store does not allow it: nothing of it stays.
    ///
    /// # Cancel safety
    /// Dropped, the object may be stored or not.
    pub async fn finish(mut self) -> Result<Finished, StoreError> {
        if self.group.len() > 0 {
            self.push().await?;
        }
        let Self {
            hasher,
            reserved,
            sink,
            store,
            ..
        } = self;
        let tree = hasher.finish();
        let (address, size) = (tree.address(), tree.object_len());
        let before = match sink {
            Sink::Memory { memory, groups } => {
                let groups = groups.into();
                memory.put(Object { groups, tree }, reserved)?
            }
            Sink::Disk {
                disk,
                temp,
                waiting,
            } => {
                let put = blocking(move || disk.put(temp, &waiting, &tree, reserved)).await;
                put.inspect_err(|error| store.failed(error, size))?
            }
            Sink::S3 { remote, groups, .. } => {
                let put = remote.put(groups, &tree).await;
                drop(reserved);
                put.inspect_err(|error| store.failed(error, size))?
            }
        };
        Ok(Finished {
            address,
            size,
            before,
        })
    }
}

/// An object that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// Where it can be read from now on.
    pub address: Address,
    /// Bytes of it.
    pub size: u64,
    /// What was there.
    pub before: Before,
}

impl Sink {
    fn budget(&self) -> &Budget {
        match self {
            Self::Memory { memory, .. } => memory.budget(),
            Self::Disk { disk, .. } => disk.budget(),
            Self::S3 { budget, .. } => budget,
        }
    }
}

impl Opened {
    /// What its groups are verified by.
    pub fn tree(&self) -> &Tree {
        match &self.0 {
            Source::Memory(object) => &object.tree,
            Source::Disk(stored) => &stored.tree,
            Source::S3(stored) => &stored.tree,
        }
    }

    /// A group, not verified, if it is in memory.
    pub(crate) fn group(&self, index: u64, span: &Range<u64>) -> Option<Bytes> {
        match &self.0 {
            Source::Memory(object) => object.groups.get(usize::try_from(index).ok()?).cloned(),
            Source::Disk(stored) => part_of(stored.whole.as_ref()?, span),
            Source::S3(stored) => part_of(stored.whole.as_ref()?, span),
        }
    }

    /// Bytes of the object from the start of a group on, up to `end` and of a bounded length, not verified.
    pub(crate) async fn fetch(self, start: u64, end: u64) -> Result<Bytes, StoreError> {
        match self.0 {
            // It has no group that `group` does not know.
            Source::Memory(_) => Err(StoreError::Damaged),
            Source::Disk(stored) => {
                let end = end.min(start + WINDOW);
                blocking(move || stored.read(start, end)).await
            }
            Source::S3(stored) => stored.read(start, end.min(start + remote::WINDOW)).await,
        }
    }
}

fn part_of(whole: &Bytes, span: &Range<u64>) -> Option<Bytes> {
    let span = usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?;
    Some(whole.slice_ref(whole.get(span)?))
}

impl StoreError {
    fn unavailable(
        what: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            what: what.into(),
            cause: cause.into(),
        }
    }

    fn writing(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::NoSpace(error)
            }
            _ => Self::unavailable("the disk cannot be written", error),
        }
    }

    fn reading(error: io::Error) -> Self {
        Self::unavailable("the disk cannot be read", error)
    }

    /// With its cause.
    fn text(&self) -> String {
        match self {
            Self::NoSpace(cause) => format!("{self}: {cause}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Store {
    /// In memory, with one object that consists of `groups` and has the tree of another.
    pub(crate) fn with_damaged(groups: Vec<Bytes>, tree: Tree) -> Arc<Self> {
        let memory = Memory::new(1 << 30);
        let groups = groups.into();
        let put = memory.put(Object { groups, tree }, memory.budget().reservation());
        assert_eq!(put, Ok(Before::Absent));
        Arc::new(Self {
            kind: Kind::Memory(memory),
            trouble: Mutex::default(),
            troubled: Notify::new(),
        })
    }
}
