//! Where objects are kept: in memory, in files of a directory, or in a bucket of an S3-compatible service.
//!
//! One narrow interface over all of them: a [`Put`] takes an object piece by piece, [`Store::open`] finds the tree of one,
//! [`Opened`] gives its groups, which whoever sends them verifies.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use ron_host::{Pace, Pool, PoolSettings};
use ron_kernel::supervisor::ChildContext;
use ron_metrics::{Condition, Metrics, MetricsError};
use tokio::time::{sleep, timeout};

use crate::object::{encoded_len, Address, Hasher, Tree, GROUP_LEN};
use crate::wiped::Wiped;

mod budget;
mod disk;
mod error;
mod form;
mod memory;
mod remote;
mod settings;
mod trouble;

pub use budget::Full;
use budget::{Budget, Reservation};
use disk::{Disk, Temp};
pub use error::{Busy, StoreError};
use memory::{Held, Memory, Object};
use remote::Remote;
pub use settings::{S3Settings, StoreKind, StoreSettings};
use trouble::{Trouble, Troubles};

/// What is read at a time of an object that is on disk, and what a put gathers before it writes: few trips to the
/// threads that wait for the disk, and little memory for each of hundreds of requests.
const WINDOW: u64 = 4 * GROUP_LEN as u64;
/// What a plain put takes: a disk that has no room for it is of no use to anybody.
const PLAIN: u64 = 1 << 20;
/// Between two looks at the store, and before the first is told of as late.
const LOOK: Duration = Duration::from_secs(1);
/// At least, however often it fails.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps objects.
pub struct Store {
    kind: Kind,
    pool: Pool,
    /// Of what is in memory of objects that are read from elsewhere.
    reads: Budget,
    troubles: Troubles,
    /// Whether a look at the disk is under way, which may hang.
    looking: Arc<AtomicBool>,
}

enum Kind {
    Memory(Memory),
    Disk {
        dir: PathBuf,
        max_bytes: u64,
        /// Once it could be opened.
        disk: Arc<OnceLock<Disk>>,
    },
    S3 {
        settings: S3Settings,
        /// Of puts under way.
        budget: Budget,
        /// Once it could be used. Made anew after a failure: the secret may be another.
        remote: RwLock<Option<Remote>>,
    },
}

/// What a look at a store has found that can be used.
#[derive(Debug)]
enum Found {
    Well,
    /// There is no room for an object of so many bytes, though for smaller ones.
    Short(u64),
    /// An object that could not be read still cannot.
    Unread(StoreError),
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

/// An object on its way into the store. Dropped before [`finish`](Self::finish), it is not stored, and what was written of it
/// is removed as soon as the disk lets it be, at the latest by the next start.
pub struct Put {
    store: Arc<Store>,
    pace: Pace,
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
        groups: Held,
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
        groups: Held,
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
    /// The store of these settings, which waits for disks on the threads of `pool`. What it needs from the system is looked
    /// for by the first [`check`](Self::check).
    pub fn new(settings: &StoreSettings, pool: &PoolSettings) -> Arc<Self> {
        let max_bytes = settings.max_bytes.bytes();
        let kind = match settings.kind {
            StoreKind::Memory => Kind::Memory(Memory::new(max_bytes)),
            StoreKind::Disk => Kind::Disk {
                dir: settings.dir.clone().unwrap_or_default(),
                max_bytes,
                disk: Arc::default(),
            },
            StoreKind::S3 => Kind::S3 {
                settings: settings.s3.clone(),
                budget: Budget::new(max_bytes),
                remote: RwLock::default(),
            },
        };
        Self::of(kind, Pool::new(pool), settings.read_bytes.bytes())
    }

    fn of(kind: Kind, pool: Pool, read_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            kind,
            pool,
            reads: Budget::new(read_bytes),
            troubles: Troubles::default(),
            looking: Arc::default(),
        })
    }

    /// Begins to put an object of `declared` bytes, if that is known. One that `reserves` has room in the budget for every
    /// byte that it has taken; another asks for all of it at its end, and not at all if the object is there already.
    ///
    /// # Errors
    /// The store does not work, or the object would not fit if nothing else were there.
    pub fn put(self: &Arc<Self>, declared: Option<u64>, reserves: bool) -> Result<Put, StoreError> {
        let (sink, cost): (_, fn(u64) -> u64) = match &self.kind {
            Kind::Memory(memory) => {
                let (memory, groups) = (memory.clone(), Held::new(&self.pool));
                (Sink::Memory { memory, groups }, memory::cost)
            }
            Kind::Disk { disk, .. } => {
                let (disk, temp) = (opened(disk)?.clone(), None);
                let waiting = Vec::new();
                let sink = Sink::Disk {
                    disk,
                    temp,
                    waiting,
                };
                (sink, form::stored_len)
            }
            Kind::S3 { budget, remote, .. } => {
                let sink = Sink::S3 {
                    remote: usable(remote)?,
                    budget: budget.clone(),
                    groups: Held::new(&self.pool),
                };
                (sink, |len| len)
            }
        };
        let (used, budget) = sink.budget().usage();
        let whole = declared.map_or(0, cost);
        if whole > budget {
            let size = whole;
            return Err(StoreError::Full(Full {
                size,
                whole,
                used,
                budget,
            }));
        }
        // What goes to a bucket is in memory for nothing but this put.
        let reserves = reserves || matches!(sink, Sink::S3 { .. });
        Ok(Put {
            reserved: sink.budget().reservation(),
            store: Arc::clone(self),
            pace: Pace::default(),
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
    /// The store does not work, there is no memory to read it into, or what it has is not that object.
    pub async fn open(&self, address: &Address) -> Result<Option<Opened>, StoreError> {
        let mut room = self.reads.reservation();
        let opened = match &self.kind {
            Kind::Memory(memory) => return Ok(memory.get(address).map(Source::Memory).map(Opened)),
            Kind::Disk { disk, .. } => {
                let (disk, address) = (opened(disk)?.clone(), *address);
                let stored = on(&self.pool, move || disk.get(&address, room)).await;
                stored.map(|stored| Some(Source::Disk(Arc::new(stored?))))
            }
            Kind::S3 { remote, .. } => {
                let remote = usable(remote)?;
                reading(&mut room, remote::TAIL, remote::WINDOW)?;
                let stored = remote.get(address, room).await;
                stored.map(|stored| Some(Source::S3(Arc::new(stored?))))
            }
        };
        let opened = opened.inspect_err(|error| self.unread(error, address, 0));
        Ok(opened?.map(Opened))
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
        let help = "Memory that objects which are read from a disk or a bucket take.";
        gauge("store_reading_bytes", help, |store| {
            Some(store.reads.usage().0)
        })?;
        gauge("store_objects", "Objects in the store.", Self::count)?;
        self.pool.expose(metrics)
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

    /// Opens the store, and keeps readiness in step with it until the child is stopped. Whatever the first look finds, and
    /// however long it takes, who starts after this child is not kept waiting: readiness tells what is wrong.
    ///
    /// # Errors
    /// None.
    pub async fn look_after(self: Arc<Self>, cx: ChildContext) -> io::Result<()> {
        let Some(kernel) = cx.kernel() else {
            return Ok(());
        };
        let health = kernel.metrics().health().clone();
        let looking = async {
            loop {
                let mut check = pin!(self.check());
                let found = match timeout(LOOK, &mut check).await {
                    Ok(found) => found,
                    Err(_) => {
                        health.set("store", Condition::not_ready("it takes its time to answer"));
                        cx.ready();
                        check.await
                    }
                };
                match found {
                    Some(condition) => health.set("store", condition),
                    None => health.clear("store"),
                }
                cx.ready();
                sleep(PAUSE).await;
                let _ = timeout(LOOK, self.troubles.told()).await;
            }
        };
        tokio::select! {
            () = cx.stopping() => Ok(()),
            () = looking => Ok(()),
        }
    }

    /// Looks at a store that is not open yet or has failed, and says what is wrong with it, if anything.
    pub async fn check(&self) -> Option<Condition> {
        let (failures, trouble) = self.troubles.known();
        match self.look(trouble).await {
            Err(error) => {
                self.failed(&error, 0);
                Some(Condition::not_ready(error.to_string()))
            }
            Ok(Found::Short(size)) => {
                let reason = format!("the disk has no room for the {size} bytes of an object");
                Some(Condition::degraded(reason))
            }
            Ok(Found::Unread(error)) => {
                let reason = format!("an object cannot be read: {error}");
                Some(Condition::degraded(reason))
            }
            Ok(Found::Well) => match self.troubles.over(failures) {
                Err(newer) => Some(Condition::not_ready(newer.what)),
                Ok(over) => {
                    if over.is_some() {
                        tracing::info!(event = "store_recovered", "the store works again");
                    }
                    self.strain()
                }
            },
        }
    }

    /// Does what a put and a get need where that has failed before, or was not done yet.
    async fn look(&self, trouble: Option<Trouble>) -> Result<Found, StoreError> {
        match &self.kind {
            Kind::Memory(_) => Ok(Found::Well),
            Kind::Disk {
                dir,
                max_bytes,
                disk,
            } => {
                if disk.get().is_some() && trouble.is_none() {
                    return Ok(Found::Well);
                }
                let looking = Looking::begin(&self.looking)?;
                let (dir, max_bytes, disk) = (dir.clone(), *max_bytes, Arc::clone(disk));
                let pool = self.pool.clone();
                let look = move || {
                    let _looking = looking;
                    if let Some(disk) = disk.get() {
                        return disk.probe(trouble.as_ref());
                    }
                    // Whoever asked may be gone: a directory of many objects takes its time.
                    let _ = disk.set(Disk::open(&dir, max_bytes, &pool)?);
                    Ok(Found::Well)
                };
                on(&self.pool, look).await
            }
            Kind::S3 {
                settings, remote, ..
            } => {
                if usable(remote).is_ok() && trouble.is_none() {
                    return Ok(Found::Well);
                }
                let settings = settings.clone();
                let made = on(&self.pool, move || Remote::open(&settings)).await?;
                let found = made.probe(trouble.as_ref()).await?;
                *remote.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
                Ok(found)
            }
        }
    }

    /// What a store that works is short of.
    fn strain(&self) -> Option<Condition> {
        let load = self.pool.load();
        if load.overdue > 0 {
            let (overdue, threads) = (load.overdue, load.threads);
            let reason = format!("{overdue} of {threads} threads wait for the disk in vain");
            return Some(Condition::degraded(reason));
        }
        let (used, limit) = self.usage()?;
        // Beyond nine tenths, so that somebody can act before puts are refused.
        (used > limit / 10 * 9).then(|| {
            Condition::degraded(format!("{used} of {limit} bytes of the store are in use"))
        })
    }

    /// Remembers what is the store's own failure, of which `size` bytes were to be written.
    fn failed(&self, error: &StoreError, size: u64) {
        self.tell(error, size, None);
    }

    /// As [`failed`](Self::failed), for the object at `address` from `start` on.
    pub(crate) fn unread(&self, error: &StoreError, address: &Address, start: u64) {
        self.tell(error, 0, Some((*address, start)));
    }

    fn tell(&self, error: &StoreError, size: u64, unread: Option<(Address, u64)>) {
        if self.troubles.tell(error, size, unread) {
            let reason = error.text();
            tracing::error!(event = "store_failed", reason, "the store fails: {reason}");
        }
    }
}

/// A look at the disk that is under way, of which there is one at a time: one that hangs takes one thread.
struct Looking(Arc<AtomicBool>);

impl Looking {
    fn begin(looking: &Arc<AtomicBool>) -> Result<Self, StoreError> {
        if looking.swap(true, Ordering::AcqRel) {
            let what = "the disk hangs: a look at it has not ended";
            return Err(StoreError::unavailable(what, "it was begun before"));
        }
        Ok(Self(Arc::clone(looking)))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The bucket, if it could be used.
fn usable(remote: &RwLock<Option<Remote>>) -> Result<Remote, StoreError> {
    let cause = "it could not be used yet; /readyz tells why";
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

/// On a thread that may wait for the disk.
async fn on<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    pool.run(work).await?
}

/// Takes room in memory for reading an object of `len` bytes in windows: one of them goes out while the next comes in. Its
/// tree is there twice while it is verified.
fn reading(room: &mut Reservation, len: u64, window: u64) -> Result<(), StoreError> {
    let bytes = match len <= window {
        true => len,
        false => 2 * window,
    };
    let room = room.set_to(bytes + 2 * encoded_len(len));
    room.map_err(|_| StoreError::Busy(Busy::Reads))
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
        self.pace.spend(group.len()).await;
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
                    let write = move || {
                        let mut temp = begun.map_or_else(|| disk.temp(), Ok)?;
                        temp.write(&pieces)?;
                        Ok(temp)
                    };
                    let written = on(&self.store.pool, write).await;
                    let size = self.declared.unwrap_or(0).max(self.len);
                    *temp = Some(written.inspect_err(|error| self.store.failed(error, size))?);
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
                memory.put(Object { groups, tree }, reserved).await?
            }
            Sink::Disk {
                disk,
                temp,
                waiting,
            } => {
                let put = move || disk.put(temp, &waiting, &tree, reserved);
                let put = on(&store.pool, put).await;
                put.inspect_err(|error| store.failed(error, size))?
            }
            Sink::S3 { remote, groups, .. } => {
                let put = remote.put(&groups, &tree).await;
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
    pub(crate) async fn fetch(
        self,
        store: Arc<Store>,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        match self.0 {
            // It has no group that `group` does not know.
            Source::Memory(_) => Err(StoreError::Damaged),
            Source::Disk(stored) => {
                let end = end.min(start + WINDOW);
                on(&store.pool, move || stored.read(start, end)).await
            }
            Source::S3(stored) => stored.read(start, end.min(start + remote::WINDOW)).await,
        }
    }
}

fn part_of(whole: &Bytes, span: &Range<u64>) -> Option<Bytes> {
    let span = usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?;
    Some(whole.slice_ref(whole.get(span)?))
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
    pub(crate) async fn with_damaged(groups: Vec<Bytes>, tree: Tree) -> Arc<Self> {
        let (memory, pool) = (Memory::new(1 << 30), Pool::new(&PoolSettings::default()));
        let mut held = Held::new(&pool);
        groups.into_iter().for_each(|group| held.push(group));
        let groups = held;
        let put = memory.put(Object { groups, tree }, memory.budget().reservation());
        assert_eq!(put.await, Ok(Before::Absent));
        Self::of(Kind::Memory(memory), pool, 1 << 30)
    }
}
