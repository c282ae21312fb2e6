//! A journal in a file of SQLite.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rusqlite::{
    params, Connection, ErrorCode, OptionalExtension, Params, Transaction, TransactionBehavior,
};
use rustix::fs::{flock, FlockOperation};

use super::accounts::{follow, Accounts};
use super::rows::{entry, Row};
use super::witness::Witness;
use super::{whole, Balance, Store, StoreError};
use crate::digest::Digest;
use crate::intent::{postings_json, Intent};
use crate::journal::{settle, Entry, Head, Settled, Verdict};
use crate::name::Name;

const SCHEMA: &str = include_str!("sqlite.sql");
/// "ronL", by which the file is told from others.
const APPLICATION: i32 = 0x726f_6e4c;
const VERSION: i32 = 1;
const BY_RUN: &str = "SELECT * FROM intents WHERE run_key = ?1";
const BY_EPOCH: &str = "SELECT * FROM intents WHERE tenant = ?1 AND epoch_id = ?2";
const AFTER: &str = "SELECT * FROM intents WHERE seq > ?1 ORDER BY seq";
const APPEND: &str = "INSERT INTO intents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// A journal in the file `journal.db` of a directory, with WAL and `synchronous=FULL`: what was accepted is on the disk.
///
/// Tools that read SQLite may read it meanwhile; another process that would write it is refused.
#[derive(Debug)]
pub struct Sqlite {
    db: Connection,
    accounts: Accounts,
    witness: Witness,
    _lock: File,
}

impl Sqlite {
    /// Opens the journal of `dir`, or makes it: the directory for this user alone. All of it is read and checked.
    ///
    /// # Errors
    /// The disk fails, another process uses it, it is no journal, or it is not what was accepted.
    pub fn open(dir: &Path) -> Result<Sqlite, StoreError> {
        let at = |path: &Path, error: io::Error| failed_io(&path.display().to_string(), &error);
        private(dir).map_err(|error| at(dir, error))?;
        let lock = dir.join("lock");
        let held = File::create(&lock).map_err(|error| at(&lock, error))?;
        flock(&held, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::InUse(dir.display().to_string()))?;
        let head = dir.join("head");
        let (witness, seen) = Witness::open(&head).map_err(|error| at(&head, error))?;
        let db = connect(&dir.join("journal.db"), dir)?;
        let mut store = Sqlite {
            db,
            accounts: Accounts::new(),
            witness,
            _lock: held,
        };
        store.examine(seen)?;
        Ok(store)
    }

    /// Reads everything once.
    fn examine(&mut self, seen: Option<(u64, Digest)>) -> Result<(), StoreError> {
        let told: String = self
            .db
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if told != "ok" {
            return Err(StoreError::Damaged(told));
        }
        let mut at_seen = None;
        let mut accounts = Accounts::new();
        let head = self.audit(Head::empty(), &mut |entry| {
            accounts.add(entry);
            if seen.is_some_and(|(seq, _)| seq == entry.seq) {
                at_seen = Some(entry.root);
            }
        })?;
        if let Some((seq, root)) = seen.filter(|(seq, _)| *seq > 0) {
            if head.seq < seq {
                let missing = format!("it ends with entry {}, and {seq} were accepted", head.seq);
                return Err(StoreError::Damaged(missing));
            }
            if at_seen != Some(root) {
                return Err(StoreError::damaged(seq, "it is not what was accepted"));
            }
        }
        self.accounts = accounts;
        self.saw()?;
        self.rest()
    }

    fn saw(&mut self) -> Result<(), StoreError> {
        let saw = self.witness.saw(&self.accounts.head);
        saw.map_err(|error| failed_io("head", &error))
    }

    fn find(&self, sql: &str, key: impl Params) -> Result<Option<Entry>, StoreError> {
        let mut statement = self.db.prepare_cached(sql)?;
        let row = statement.query_row(key, row).optional()?;
        row.map(|row| whole(entry(&row)?)).transpose()
    }
}

impl Store for Sqlite {
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        let mut known = Vec::new();
        for intent in &intents {
            known.extend(self.run(intent.run_key())?);
            known.extend(self.epoch(intent.tenant(), intent.epoch_id())?);
        }
        let Settled { verdicts, entries } = settle(self.accounts.head, known, intents);
        if !entries.is_empty() {
            let work = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            for entry in &entries {
                append(&work, entry)?;
            }
            work.commit()?;
            for entry in &entries {
                self.accounts.add(entry);
            }
            self.saw()?;
        }
        Ok(verdicts)
    }

    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError> {
        self.find(BY_RUN, [run_key.to_string()])
    }

    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError> {
        self.find(BY_EPOCH, [tenant.as_str(), epoch_id.as_str()])
    }

    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError> {
        Ok(self.accounts.balance(account))
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        Ok(self.accounts.head)
    }

    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let mut head = from;
        let mut statement = self.db.prepare_cached(AFTER)?;
        let mut rows = statement.query([from.seq as i64])?;
        while let Some(found) = rows.next()? {
            let entry = entry(&row(found)?)?;
            follow(&mut head, &entry)?;
            each(&entry);
        }
        Ok(head)
    }

    fn rest(&mut self) -> Result<(), StoreError> {
        self.witness
            .sync()
            .map_err(|error| failed_io("head", &error))
    }
}

fn append(work: &Transaction<'_>, entry: &Entry) -> Result<(), StoreError> {
    let intent = &entry.intent;
    work.prepare_cached(APPEND)?.execute(params![
        entry.seq as i64,
        intent.run_key().to_string(),
        intent.tenant().as_str(),
        intent.epoch_id().as_str(),
        intent.commitment().to_string(),
        intent.funding_account().as_str(),
        intent.total().to_string(),
        postings_json(intent.postings()),
        entry.paid.to_string(),
        entry.prev.to_string(),
        entry.root.to_string(),
    ])?;
    Ok(())
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        seq: row.get(0)?,
        run_key: row.get(1)?,
        tenant: row.get(2)?,
        epoch_id: row.get(3)?,
        commitment: row.get(4)?,
        funding_account: row.get(5)?,
        total: row.get(6)?,
        postings: row.get(7)?,
        paid: row.get(8)?,
        prev: row.get(9)?,
        root: row.get(10)?,
    })
}

/// Makes the directory, for this user alone.
fn private(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)?;
    let found = std::fs::metadata(dir)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own || found.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "expected a directory of this user that no other may enter (mode 700)",
        ));
    }
    Ok(())
}

fn connect(path: &Path, dir: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    let mode: String = db.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Other {
            what: format!("journal_mode {mode}"),
            expected: "wal, which a network file system cannot have".to_owned(),
        });
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.set_prepared_statement_cache_capacity(32);
    let number = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    let (application, version): (i32, i32) = (number("application_id")?, number("user_version")?);
    let tables: i32 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, tables) == (0, 0, 0) {
        let work = Transaction::new_unchecked(&db, TransactionBehavior::Immediate)?;
        work.execute_batch(SCHEMA)?;
        work.pragma_update(None, "application_id", APPLICATION)?;
        work.pragma_update(None, "user_version", VERSION)?;
        work.commit()?;
        // The names of the new files.
        let sync = File::open(dir).and_then(|dir| dir.sync_all());
        sync.map_err(|error| failed_io("the directory", &error))?;
    } else if (application, version) != (APPLICATION, VERSION) {
        return Err(StoreError::Other {
            what: format!(
                "{}: another program's, or version {version}",
                PathBuf::from(path).display()
            ),
            expected: format!("a journal of version {VERSION}"),
        });
    }
    Ok(db)
}

fn failed_io(what: &str, error: &io::Error) -> StoreError {
    let told = format!("{what}: {error}");
    if error.kind() == io::ErrorKind::StorageFull {
        StoreError::Full(told)
    } else {
        StoreError::Failed(told)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        let told = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(told),
            // Not text, or a law of the schema that no entry of ours breaks.
            Some(ErrorCode::ConstraintViolation) => StoreError::Damaged(told),
            None if matches!(
                error,
                rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::FromSqlConversionFailure(..)
            ) =>
            {
                StoreError::Damaged(told)
            }
            Some(ErrorCode::DiskFull) => StoreError::Full(told),
            _ => StoreError::Failed(told),
        }
    }
}
