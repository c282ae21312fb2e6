//! Objects in files of a directory, under a budget of bytes: what was acknowledged is there after a power loss.
//!
//! Not by the `object_store` crate: its `LocalFileSystem` renames into place without a sync of the file or of the
//! directory, so that an acknowledged object could be gone or empty after a power loss.
//!
//! ```text
//! DIR/lock          held while a process uses the directory
//! DIR/objects/HEX   an object: its bytes, then its tree
//! DIR/objects/probe what a look at the disk writes, reads and removes
//! DIR/tmp/N         an object on its way; removed at start
//! ```
//!
//! A put writes a file in `tmp`, syncs it, renames it into `objects` and syncs that directory: before the rename nobody
//! sees it, after the last sync it stays. All of that waits for the disk and runs on the threads of a
//! [`Pool`](ron_host::Pool), and so does what is left to remove or to close.
//!
//! What is in memory of an object, its bytes in a window and in the pieces of a put, is wiped when it is given back. The
//! system has more: pages of what was read and written, for as long as it likes.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ron_host::Pool;
use rustix::fs::{fadvise, fallocate, fstatvfs, Advice, FallocateFlags};
use rustix::io::Errno;

use super::budget::{Budget, Reservation};
use super::trouble::Trouble;
use super::{form, Before, Found, StoreError, PLAIN, WINDOW};
use crate::object::{Address, Tree};
use crate::wiped::Wiped;

/// A directory in use; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// To be synced when something came into it.
    objects: File,
    /// Held for the lock that it has.
    _lock: File,
    budget: Budget,
    /// Names in `tmp`.
    next: AtomicU64,
    /// Files are put in their places under this lock.
    placed: Mutex<HashMap<Address, Placed>>,
    pool: Pool,
}

/// An object in its place.
#[derive(Clone, Copy, Debug)]
struct Placed {
    /// What is charged for it.
    bytes: u64,
    /// The directory was not synced when it came there: what the system forgets of a failure it does not write again.
    is_doubtful: bool,
}

/// A file in `tmp`, which is removed unless it is put in its place.
#[derive(Debug)]
pub(super) struct Temp {
    file: File,
    path: PathBuf,
    placed: bool,
    pool: Pool,
}

/// A stored object; its file stays open whatever happens to its name.
#[derive(Debug)]
pub(super) struct Stored {
    /// Taken when it is closed.
    file: Option<File>,
    pub(super) tree: Tree,
    /// All of a small object, as it was read with its tree.
    pub(super) whole: Option<Bytes>,
    /// Memory that it is read into.
    room: Arc<Reservation>,
    pool: Pool,
}

/// What is read, and its part of a budget, until nobody has any of it.
struct Window {
    bytes: Wiped,
    _room: Arc<Reservation>,
}

impl Disk {
    /// Takes `dir` into use, which is made if it is not there, for `budget` bytes of objects.
    ///
    /// # Errors
    /// It is in use, others may read it, or the system says no.
    pub(super) fn open(dir: &Path, budget: u64, pool: &Pool) -> Result<Self, StoreError> {
        let failed = |what| move |error| StoreError::system(what, error);
        let (objects, tmp) = (dir.join("objects"), dir.join("tmp"));
        for path in [dir, &objects, &tmp] {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(path);
            made.map_err(failed("store.dir cannot be made"))?;
            let metadata = fs::metadata(path).map_err(failed("store.dir cannot be looked at"))?;
            let mode = metadata.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                let what = format!("others may use store.dir: its mode is {mode:o}, expected 700");
                return Err(StoreError::unavailable(what, path.display().to_string()));
            }
        }
        let lock = private(&dir.join("lock"), false).map_err(failed("store.dir has no lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let what = "store.dir is in use: another process has its lock";
                StoreError::unavailable(what, dir.display().to_string())
            }
            TryLockError::Error(error) => failed("store.dir cannot be locked")(error),
        })?;
        let mut removed = 0_u64;
        for left in fs::read_dir(&tmp).map_err(failed("store.dir cannot be listed"))? {
            let left = left.map_err(failed("store.dir cannot be listed"))?;
            let kind = left
                .file_type()
                .map_err(failed("store.dir cannot be listed"))?;
            if kind.is_file() {
                fs::remove_file(left.path()).map_err(failed("store.dir cannot be cleared"))?;
                removed += 1;
            }
        }
        if removed > 0 {
            tracing::info!(
                event = "leftovers_removed",
                removed,
                "{removed} puts had been broken off"
            );
        }
        match fs::remove_file(objects.join(PROBE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("store.dir cannot be cleared")(error));
            }
            _ => {}
        }
        let (mut placed, mut used, mut foreign) = (HashMap::new(), 0, 0_u64);
        for object in fs::read_dir(&objects).map_err(failed("store.dir cannot be listed"))? {
            let object = object.map_err(failed("store.dir cannot be listed"))?;
            let metadata = object
                .metadata()
                .map_err(failed("store.dir cannot be listed"))?;
            let name = object.file_name();
            let address = name
                .to_str()
                .and_then(|hex| format!("b3:{hex}").parse().ok());
            match address.filter(|_| metadata.is_file()) {
                Some(address) => {
                    let bytes = metadata.len();
                    let is_doubtful = false;
                    placed.insert(address, Placed { bytes, is_doubtful });
                    used += bytes;
                }
                None => foreign += 1,
            }
        }
        if foreign > 0 {
            tracing::warn!(
                event = "not_objects",
                foreign,
                "{foreign} entries of {} are no objects, and not counted",
                objects.display()
            );
        }
        sync_above(dir).map_err(failed("store.dir cannot be synced"))?;
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all().map(|()| dir));
        sync(dir).map_err(failed("store.dir cannot be synced"))?;
        let objects = sync(&objects).map_err(failed("store.dir cannot be synced"))?;
        let budget = Budget::new(budget);
        budget.charge(used);
        let disk = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            objects,
            _lock: lock,
            budget,
            next: AtomicU64::new(0),
            placed: Mutex::new(placed),
            pool: pool.clone(),
        }));
        disk.probe(None)?;
        Ok(disk)
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(super) fn count(&self) -> u64 {
        self.placed().len() as u64
    }

    fn placed(&self) -> MutexGuard<'_, HashMap<Address, Placed>> {
        self.0.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, address: &Address) -> PathBuf {
        self.0.dir.join("objects").join(format!("{address:x}"))
    }

    /// A new file in `tmp`.
    pub(super) fn temp(&self) -> Result<Temp, StoreError> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let path = self.0.dir.join("tmp").join(number.to_string());
        let file = private(&path, true).map_err(StoreError::writing)?;
        Ok(Temp {
            file,
            path,
            placed: false,
            pool: self.0.pool.clone(),
        })
    }

    /// The object at `address`, with its tree verified. What is read of it now and later takes `room`.
    ///
    /// # Errors
    /// The disk fails, there is no room, or what is there is not the object.
    pub(super) fn get(
        &self,
        address: &Address,
        mut room: Reservation,
    ) -> Result<Option<Stored>, StoreError> {
        let file = match File::open(self.path(address)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::reading(error)),
        };
        let stored = file.metadata().map_err(StoreError::reading)?.len();
        let len = form::object_len(stored).ok_or(StoreError::Damaged)?;
        super::reading(&mut room, len, WINDOW)?;
        let room = Arc::new(room);
        let small = len <= WINDOW;
        let start = if small { 0 } else { len };
        let read = read_at(&file, start, stored - start, &room)?;
        let encoded = read.get((len - start) as usize..).unwrap_or_default();
        let tree = Tree::decode(encoded, address, len).map_err(|_| StoreError::Damaged)?;
        Ok(Some(Stored {
            whole: small.then(|| read.slice(..len as usize)),
            file: Some(file),
            tree,
            room,
            pool: self.0.pool.clone(),
        }))
    }

    /// Puts the object of `tree` in its place, of which `rest` is not in `temp` yet; what was there before.
    ///
    /// # Errors
    /// The budget or the disk does not allow it. Then it is not in its place, unless it is the directory that could not be
    /// synced.
    pub(super) fn put(
        &self,
        temp: Option<Temp>,
        rest: &[Bytes],
        tree: &Tree,
        mut reserved: Reservation,
    ) -> Result<Before, StoreError> {
        let address = tree.address();
        let path = self.path(&address);
        let before = self.placed().get(&address).copied();
        let is_doubtful = before.is_some_and(|before| before.is_doubtful);
        let known = if is_doubtful { None } else { self.intact(tree) };
        if let Some(known) = known {
            // Whoever put it may still be about to sync it.
            let file = known.file.as_ref().map_or(Ok(()), File::sync_all);
            file.map_err(StoreError::writing)?;
            self.0.objects.sync_all().map_err(StoreError::writing)?;
            return Ok(Before::Intact);
        }
        let size = form::stored_len(tree.object_len());
        reserved.grow_to(size.saturating_sub(before.map_or(0, |before| before.bytes)))?;
        let mut temp = match temp {
            Some(temp) => temp,
            None => self.temp()?,
        };
        temp.write(rest)?;
        temp.write(&[Bytes::from(tree.encode())])?;
        temp.file.sync_all().map_err(StoreError::writing)?;
        let charged = {
            let mut placed = self.placed();
            fs::rename(&temp.path, &path).map_err(StoreError::writing)?;
            temp.placed = true;
            let new = Placed {
                bytes: size,
                is_doubtful: false,
            };
            placed.insert(address, new)
        };
        // What is charged, not what the file had become.
        let charged_bytes = charged.map_or(0, |charged| charged.bytes);
        reserved.keep_as(size.saturating_sub(charged_bytes));
        self.0.budget.release(charged_bytes.saturating_sub(size));
        if let Err(error) = self.0.objects.sync_all() {
            if let Some(doubtful) = self.placed().get_mut(&address) {
                doubtful.is_doubtful = true;
            }
            return Err(StoreError::writing(error));
        }
        Ok(match (before, charged) {
            (Some(_), _) if is_doubtful => Before::Intact,
            (Some(_), _) => Before::Damaged,
            // Somebody else has put it since.
            (None, Some(_)) => Before::Intact,
            (None, None) => Before::Absent,
        })
    }

    /// The object of `tree`, if every byte that is stored is its own. What cannot be read is replaced as what is damaged. There
    /// are no more of these at a time than threads.
    fn intact(&self, tree: &Tree) -> Option<Stored> {
        let room = Budget::unlimited().reservation();
        let known = self.get(&tree.address(), room).ok().flatten()?;
        if known.tree != *tree {
            return None;
        }
        for part in tree
            .groups()
            .cover(0..tree.object_len())
            .into_iter()
            .flatten()
        {
            let group = known.read(part.span.start, part.span.end).ok()?;
            tree.verify_group(part.index, &group).ok()?;
        }
        Some(known)
    }

    /// Does what a put and a get need, and what failed before: what is missing still, though the rest works.
    ///
    /// # Errors
    /// It does not work.
    pub(super) fn probe(&self, trouble: Option<&Trouble>) -> Result<Found, StoreError> {
        let path = self.0.dir.join("objects").join(PROBE);
        let written = {
            let mut temp = self.temp()?;
            let mark = format!("a look at the disk, {}", temp.path.display());
            temp.write(&[Bytes::from(mark.clone())])?;
            temp.file.sync_all().map_err(StoreError::writing)?;
            fs::rename(&temp.path, &path).map_err(StoreError::writing)?;
            temp.placed = true;
            self.0.objects.sync_all().map_err(StoreError::writing)?;
            mark
        };
        let file = File::open(&path).map_err(StoreError::reading)?;
        // From the disk, not from memory; where that cannot be, what is in memory has to do.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let mut read = vec![0; written.len()];
        let read_back = file.read_exact_at(&mut read, 0);
        read_back.map_err(StoreError::reading)?;
        if read != written.as_bytes() {
            let what = "the disk does not give back what was written";
            return Err(StoreError::unavailable(what, path.display().to_string()));
        }
        fs::remove_file(&path).map_err(StoreError::writing)?;
        let Some(trouble) = trouble else {
            return Ok(Found::Well);
        };
        if trouble.size > 0 {
            self.has_room_for(trouble.size.min(PLAIN))?;
            match self.has_room_for(trouble.size) {
                Err(StoreError::NoSpace(_)) => return Ok(Found::Short(trouble.size)),
                other => other?,
            }
        }
        let unread = trouble.unread.as_ref().map(|(address, start)| {
            let stored = self.get(address, Budget::unlimited().reservation())?;
            let Some(stored) = stored else { return Ok(()) };
            let end = stored.tree.object_len().min(start + WINDOW);
            stored.read(*start.min(&end), end).map(drop)
        });
        Ok(match unread {
            Some(Err(error @ StoreError::Unavailable { .. })) => Found::Unread(error),
            _ => Found::Well,
        })
    }

    /// Whether the disk, and the quota on it, have room for so many bytes. They are taken only if they are there.
    fn has_room_for(&self, size: u64) -> Result<(), StoreError> {
        let mut temp = self.temp()?;
        let free = fstatvfs(&temp.file).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free.is_ok_and(|free| free < size) {
            return Err(StoreError::NoSpace(ErrorKind::StorageFull.into()));
        }
        match fallocate(&temp.file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = Bytes::from_static(&[0; 64 << 10]);
                for _ in 0..size.min(PLAIN).div_ceil(zeros.len() as u64) {
                    temp.write(std::slice::from_ref(&zeros))?;
                }
                temp.file.sync_all().map_err(StoreError::writing)
            }
            Err(error) => Err(StoreError::writing(error.into())),
        }
    }
}

/// In `objects`, where no object has this name.
const PROBE: &str = "probe";

/// Syncs the directories that `dir` is in, as what made them may have ended before it did: nothing in a directory outlives a
/// power loss that takes the directory itself. Where this process may not look it has made nothing.
fn sync_above(dir: &Path) -> io::Result<()> {
    let whole = std::path::absolute(dir)?;
    for above in whole.ancestors().skip(1) {
        let synced = File::open(above).and_then(|above| above.sync_all());
        match synced {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            // A directory of a file system that has nothing to sync.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {}
            other => other?,
        }
    }
    Ok(())
}

impl Temp {
    /// Appends.
    pub(super) fn write(&mut self, pieces: &[Bytes]) -> Result<(), StoreError> {
        for piece in pieces {
            self.file.write_all(piece).map_err(StoreError::writing)?;
        }
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.placed {
            let path = std::mem::take(&mut self.path);
            // What stays is removed at the next start.
            self.pool.tidy(move || drop(fs::remove_file(path)));
        }
    }
}

impl Stored {
    /// Bytes of the object from `start` to `end`, not verified.
    pub(super) fn read(&self, start: u64, end: u64) -> Result<Bytes, StoreError> {
        match (&self.whole, &self.file) {
            (Some(whole), _) => Ok(whole.slice(start as usize..end as usize)),
            (None, Some(file)) => read_at(file, start, end - start, &self.room),
            (None, None) => Err(StoreError::Damaged),
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // Another file may be in its place: then its blocks are given back now.
        if let Some(file) = self.file.take().filter(|_| self.whole.is_none()) {
            self.pool.tidy(move || drop(file));
        }
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// A file that is the service's alone.
fn private(path: &Path, new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if new {
        options.create_new(true);
    } else {
        options.create(true).truncate(false);
    }
    options.open(path)
}

/// What ends before is not what was stored.
fn read_at(
    file: &File,
    start: u64,
    len: u64,
    room: &Arc<Reservation>,
) -> Result<Bytes, StoreError> {
    let mut bytes = Wiped::zeroed(usize::try_from(len).map_err(|_| StoreError::Damaged)?);
    match file.read_exact_at(bytes.as_mut(), start) {
        Ok(()) => Ok(Bytes::from_owner(Window {
            bytes,
            _room: Arc::clone(room),
        })),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(StoreError::Damaged),
        Err(error) => Err(StoreError::reading(error)),
    }
}
