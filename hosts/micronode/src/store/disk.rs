//! Objects in files of a directory, under a budget of bytes: what was acknowledged is there after a power loss.
//!
//! Not by the `object_store` crate: its `LocalFileSystem` renames into place without a sync of the file or of the
//! directory, so that an acknowledged object could be gone or empty after a power loss.
//!
//! ```text
//! DIR/lock          held while a process uses the directory
//! DIR/objects/HEX   an object: its bytes, then its tree
//! DIR/tmp/N         an object on its way; removed at start
//! ```
//!
//! A put writes a file in `tmp`, syncs it, renames it into `objects` and syncs that directory: before the rename nobody
//! sees it, after the last sync it stays. All of that waits for the disk and runs on tokio's threads for blocking work.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::budget::{Budget, Reservation};
use super::{form, Before, StoreError, WINDOW};
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
    /// What is charged for each object. Files are put in their places under this lock.
    placed: Mutex<HashMap<Address, u64>>,
}

/// A file in `tmp`, which is removed unless it is put in its place.
#[derive(Debug)]
pub(super) struct Temp {
    file: File,
    path: PathBuf,
    placed: bool,
}

/// A stored object; its file stays open whatever happens to its name.
#[derive(Debug)]
pub(super) struct Stored {
    file: File,
    pub(super) tree: Tree,
    /// All of a small object, as it was read with its tree.
    pub(super) whole: Option<Bytes>,
}

impl Disk {
    /// Takes `dir` into use, which is made if it is not there, for `budget` bytes of objects.
    ///
    /// # Errors
    /// It is in use, others may read it, or the system says no.
    pub(super) fn open(dir: &Path, budget: u64) -> Result<Self, StoreError> {
        let failed = |what| move |error| StoreError::unavailable(what, error);
        let (objects, tmp) = (dir.join("objects"), dir.join("tmp"));
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
        for path in [dir, &objects, &tmp] {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(path);
            made.map_err(failed("cannot make the directory of objects"))?;
            let metadata = fs::metadata(path).map_err(failed("cannot look at the directory"))?;
            let mode = metadata.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                let what = format!("others may use {}: its mode is {mode:o}", path.display());
                return Err(StoreError::unavailable(what, "expected 700"));
            }
        }
        let lock = private(&dir.join("lock"), false).map_err(failed("cannot make the lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let what = format!("{} is in use", dir.display());
                StoreError::unavailable(what, "another process has its lock")
            }
            TryLockError::Error(error) => failed("cannot lock the directory")(error),
        })?;
        let mut removed = 0_u64;
        for left in fs::read_dir(&tmp).map_err(failed("cannot list tmp"))? {
            let left = left.map_err(failed("cannot list tmp"))?;
            let kind = left.file_type().map_err(failed("cannot list tmp"))?;
            if kind.is_file() {
                fs::remove_file(left.path()).map_err(failed("cannot clear tmp"))?;
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
        let (mut placed, mut used, mut foreign) = (HashMap::new(), 0, 0_u64);
        for object in fs::read_dir(&objects).map_err(failed("cannot list objects"))? {
            let object = object.map_err(failed("cannot list objects"))?;
            let metadata = object.metadata().map_err(failed("cannot list objects"))?;
            let name = object.file_name();
            let address = name
                .to_str()
                .and_then(|hex| format!("b3:{hex}").parse().ok());
            match address.filter(|_| metadata.is_file()) {
                Some(address) => {
                    placed.insert(address, metadata.len());
                    used += metadata.len();
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
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all().map(|()| dir));
        // Nothing in a directory outlives a power loss that takes the directory itself.
        let above = made.iter().filter_map(|made| made.parent());
        let above = above.map(|path| {
            if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            }
        });
        for path in above.chain([dir]) {
            sync(path).map_err(failed("cannot sync the directory"))?;
        }
        let objects = sync(&objects).map_err(failed("cannot sync the directory"))?;
        let budget = Budget::new(budget);
        budget.charge(used);
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            objects,
            _lock: lock,
            budget,
            next: AtomicU64::new(0),
            placed: Mutex::new(placed),
        })))
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(super) fn count(&self) -> u64 {
        self.placed().len() as u64
    }

    fn placed(&self) -> MutexGuard<'_, HashMap<Address, u64>> {
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
        })
    }

    /// The object at `address`, with its tree verified.
    ///
    /// # Errors
    /// The disk fails, or what is there is not the object.
    pub(super) fn get(&self, address: &Address) -> Result<Option<Stored>, StoreError> {
        let file = match File::open(self.path(address)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::reading(error)),
        };
        let stored = file.metadata().map_err(StoreError::reading)?.len();
        let len = form::object_len(stored).ok_or(StoreError::Damaged)?;
        let small = len <= WINDOW;
        let start = if small { 0 } else { len };
        let read = read_at(&file, start, stored - start)?;
        let encoded = read.get((len - start) as usize..).unwrap_or_default();
        let tree = Tree::decode(encoded, address, len).map_err(|_| StoreError::Damaged)?;
        let whole = small.then(|| read.slice(..len as usize));
        Ok(Some(Stored { file, tree, whole }))
    }

    /// Puts the object of `tree` in its place, of which `rest` is not in `temp` yet; what was there before.
    ///
    /// # Errors
    /// The budget or the disk does not allow it: then nothing of it stays.
    pub(super) fn put(
        &self,
        temp: Option<Temp>,
        rest: &[Bytes],
        tree: &Tree,
        mut reserved: Reservation,
    ) -> Result<Before, StoreError> {
        let path = self.path(&tree.address());
        let before = self.placed().get(&tree.address()).copied();
        if let Some(known) = self.intact(tree) {
            // Whoever put it may still be about to sync it.
            known.file.sync_all().map_err(StoreError::writing)?;
            self.0.objects.sync_all().map_err(StoreError::writing)?;
            return Ok(Before::Intact);
        }
        let size = form::stored_len(tree.object_len());
        reserved.grow_to(size.saturating_sub(before.unwrap_or(0)))?;
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
            placed.insert(tree.address(), size)
        };
        // What is charged, not what the file had become.
        let charged_bytes = charged.unwrap_or(0);
        reserved.keep_as(size.saturating_sub(charged_bytes));
        self.0.budget.release(charged_bytes.saturating_sub(size));
        self.0.objects.sync_all().map_err(StoreError::writing)?;
        Ok(match (before, charged) {
            (Some(_), _) => Before::Damaged,
            // Somebody else has put it since.
            (None, Some(_)) => Before::Intact,
            (None, None) => Before::Absent,
        })
    }

    /// The object of `tree`, if every byte that is stored is its own. What cannot be read is replaced as what is damaged.
    fn intact(&self, tree: &Tree) -> Option<Stored> {
        let known = self.get(&tree.address()).ok().flatten()?;
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

    /// Whether `size` bytes can be written, synced and removed again.
    ///
    /// # Errors
    /// They cannot.
    pub(super) fn probe(&self, size: u64) -> Result<(), StoreError> {
        let mut temp = self.temp()?;
        let zeros = Bytes::from_static(&[0; 64 << 10]);
        for _ in 0..size.div_ceil(zeros.len() as u64).max(1) {
            temp.write(std::slice::from_ref(&zeros))?;
        }
        temp.file.sync_all().map_err(StoreError::writing)?;
        self.0.objects.sync_all().map_err(StoreError::writing)
    }
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
            // What stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Stored {
    /// Bytes of the object from `start` to `end`, not verified.
    pub(super) fn read(&self, start: u64, end: u64) -> Result<Bytes, StoreError> {
        match &self.whole {
            Some(whole) => Ok(whole.slice(start as usize..end as usize)),
            None => read_at(&self.file, start, end - start),
        }
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
fn read_at(file: &File, start: u64, len: u64) -> Result<Bytes, StoreError> {
    let mut bytes = Wiped::zeroed(usize::try_from(len).map_err(|_| StoreError::Damaged)?);
    match file.read_exact_at(bytes.as_mut(), start) {
        Ok(()) => Ok(bytes.freeze()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(StoreError::Damaged),
        Err(error) => Err(StoreError::reading(error)),
    }
}
