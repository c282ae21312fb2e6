//! A journal in a database of PostgreSQL.

use std::fmt;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Config, GenericClient, NoTls};

use super::accounts::{follow, Accounts};
use super::rows::{entry, Row};
use super::{whole, Balance, Store, StoreError};
use crate::digest::Digest;
use crate::intent::{postings_json, Intent};
use crate::journal::{settle, Entry, Head, Settled, Verdict};
use crate::name::Name;

const SCHEMA: &str = include_str!("postgres.sql");
const VERSION: i32 = 1;
/// "ronLedgr": what writers of this journal lock.
const LOCK: i64 = 0x726f_6e4c_6564_6772;
const ROW: &str = "seq, run_key, tenant, epoch_id, commitment, funding_account, total::text, postings::text, paid::text, prev, root";
/// Appends entries, all or none.
const APPEND: &str = "INSERT INTO intents SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[],
  $5::text[], $6::text[], $7::text[]::numeric[], $8::text[]::jsonb[], $9::text[]::numeric[], $10::text[], $11::text[])";

/// A journal in the schema `ron_ledger` of a database. Several processes may write it: each entry names the root before it,
/// and the database takes one that follows.
pub struct Postgres {
    client: Client,
    /// Up to the last entry that was seen; another process may have written since.
    accounts: Accounts,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("head", &self.accounts.head)
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// Opens the journal of the database, or makes it. All of it is read and checked. Nothing that it asks for takes longer
    /// than `patience`, but for that.
    ///
    /// # Errors
    /// The service fails or refuses, it is no journal, or it is not what was accepted.
    pub fn open(config: &Config, patience: Duration) -> Result<Postgres, StoreError> {
        let mut config = config.clone();
        config.connect_timeout(patience).tcp_user_timeout(patience);
        config.application_name("svc-ledger");
        let mut client = config.connect(NoTls)?;
        let patience = patience.as_millis();
        client.batch_execute(&format!(
            "SET search_path TO ron_ledger; SET lock_timeout = {patience}; SET synchronous_commit = on"
        ))?;
        make(&mut client)?;
        let mut store = Postgres {
            client,
            accounts: Accounts::new(),
        };
        store.catch_up()?;
        store
            .client
            .batch_execute(&format!("SET statement_timeout = {patience}"))?;
        Ok(store)
    }

    /// On the chance that nobody else wrote, and that none of the intents is known: one round trip.
    fn settle_new(
        &mut self,
        intents: Vec<Intent>,
    ) -> Result<Result<Vec<Verdict>, Vec<Intent>>, StoreError> {
        let Settled { verdicts, entries } = settle(self.accounts.head, Vec::new(), intents.clone());
        // The others may be known to the database otherwise than by this batch.
        let is_accepted = |verdict: &Verdict| matches!(verdict, Verdict::Accepted(_));
        if !verdicts.iter().all(is_accepted) {
            return Ok(Err(intents));
        }
        match append(&mut self.client, &entries) {
            Ok(()) => {
                for entry in &entries {
                    self.accounts.add(entry);
                }
                Ok(Ok(verdicts))
            }
            Err(error) if is_conflict(&error) => Ok(Err(intents)),
            Err(error) => Err(error.into()),
        }
    }

    /// Alone among all that write.
    fn settle_known(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        let mut work = self.client.transaction()?;
        work.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        let head = last(&mut work)?;
        let (mut keys, mut tenants, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
        for intent in &intents {
            keys.push(intent.run_key().to_string());
            tenants.push(intent.tenant().as_str());
            epochs.push(intent.epoch_id().as_str());
        }
        let sql = format!(
            "SELECT {ROW} FROM intents WHERE run_key = ANY($1) UNION SELECT {ROW} FROM intents
             WHERE (tenant, epoch_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))"
        );
        let known = find(&mut work, &sql, &[&keys, &tenants, &epochs])?;
        let Settled { verdicts, entries } = settle(head, known, intents);
        append(&mut work, &entries)?;
        work.commit()?;
        self.catch_up()?;
        Ok(verdicts)
    }

    /// Reads what others have written.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let from = self.accounts.head;
        let mut accounts = std::mem::replace(&mut self.accounts, Accounts::new());
        let caught_up = self.audit(from, &mut |entry| accounts.add(entry));
        self.accounts = accounts;
        caught_up.map(|_| ())
    }
}

impl Store for Postgres {
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        match self.settle_new(intents)? {
            Ok(verdicts) => Ok(verdicts),
            Err(intents) => self.settle_known(intents),
        }
    }

    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError> {
        let sql = format!("SELECT {ROW} FROM intents WHERE run_key = $1");
        Ok(find(&mut self.client, &sql, &[&run_key.to_string()])?.pop())
    }

    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError> {
        let sql = format!("SELECT {ROW} FROM intents WHERE tenant = $1 AND epoch_id = $2");
        Ok(find(
            &mut self.client,
            &sql,
            &[&tenant.as_str(), &epoch_id.as_str()],
        )?
        .pop())
    }

    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError> {
        self.catch_up()?;
        Ok(self.accounts.balance(account))
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        last(&mut self.client)
    }

    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let sql = format!("SELECT {ROW} FROM intents WHERE seq > $1 ORDER BY seq");
        let mut rows = self.client.query_raw(&sql, [from.seq as i64])?;
        let mut head = from;
        while let Some(found) = rows.next()? {
            let entry = entry(&row(&found)?)?;
            follow(&mut head, &entry)?;
            each(&entry);
        }
        Ok(head)
    }
}

/// Makes the schema where it is not, one process at a time.
fn make(client: &mut Client) -> Result<(), StoreError> {
    let mut work = client.transaction()?;
    work.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    let is_there: bool = work
        .query_one("SELECT to_regnamespace('ron_ledger') IS NOT NULL", &[])?
        .try_get(0)?;
    if !is_there {
        work.batch_execute("CREATE SCHEMA ron_ledger")?;
        work.batch_execute(SCHEMA)?;
        work.execute("INSERT INTO version VALUES ($1)", &[&VERSION])?;
    }
    let found: Vec<i32> = work
        .query("SELECT version FROM version", &[])?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    if found != [VERSION] {
        return Err(StoreError::Other {
            what: format!("schema ron_ledger of version {found:?}"),
            expected: format!("version {VERSION}"),
        });
    }
    Ok(work.commit()?)
}

fn last(client: &mut impl GenericClient) -> Result<Head, StoreError> {
    let sql = format!("SELECT {ROW} FROM intents ORDER BY seq DESC LIMIT 1");
    let last = find(client, &sql, &[])?.pop();
    Ok(last.as_ref().map_or_else(Head::empty, Entry::head))
}

/// The entries that a query for rows gives, each whole.
fn find(
    client: &mut impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Entry>, StoreError> {
    let found = client.query(sql, params)?;
    let entries = found.iter().map(|found| whole(entry(&row(found)?)?));
    entries.collect()
}

fn append(client: &mut impl GenericClient, entries: &[Entry]) -> Result<(), postgres::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Entry) -> String| -> Vec<String> { entries.iter().map(of).collect() };
    let seqs: Vec<i64> = entries.iter().map(|entry| entry.seq as i64).collect();
    client.execute(
        APPEND,
        &[
            &seqs,
            &column(|entry| entry.intent.run_key().to_string()),
            &column(|entry| entry.intent.tenant().to_string()),
            &column(|entry| entry.intent.epoch_id().to_string()),
            &column(|entry| entry.intent.commitment().to_string()),
            &column(|entry| entry.intent.funding_account().to_string()),
            &column(|entry| entry.intent.total().to_string()),
            &column(|entry| postings_json(entry.intent.postings())),
            &column(|entry| entry.paid.to_string()),
            &column(|entry| entry.prev.to_string()),
            &column(|entry| entry.root.to_string()),
        ],
    )?;
    Ok(())
}

fn row(row: &postgres::Row) -> Result<Row, postgres::Error> {
    Ok(Row {
        seq: row.try_get(0)?,
        run_key: row.try_get(1)?,
        tenant: row.try_get(2)?,
        epoch_id: row.try_get(3)?,
        commitment: row.try_get(4)?,
        funding_account: row.try_get(5)?,
        total: row.try_get(6)?,
        postings: row.try_get(7)?,
        paid: row.try_get(8)?,
        prev: row.try_get(9)?,
        root: row.try_get(10)?,
    })
}

/// A law of the schema is broken by what is there already.
fn is_conflict(error: &postgres::Error) -> bool {
    let laws = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::INTEGRITY_CONSTRAINT_VIOLATION,
    ];
    error.code().is_some_and(|code| laws.contains(code))
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> StoreError {
        let told = match error.as_db_error() {
            Some(found) => format!("{}: {}", found.severity(), found.message()),
            None => {
                let source = std::error::Error::source(&error);
                source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
            }
        };
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(told),
            Some(code)
                if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED =>
            {
                StoreError::Damaged(told)
            }
            _ => StoreError::Failed(told),
        }
    }
}
