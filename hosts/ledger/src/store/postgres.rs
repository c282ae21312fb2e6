//! A journal in a database of PostgreSQL.

use std::fmt;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Config, GenericClient, IsolationLevel, NoTls};

use super::rows::{entry, Row};
use super::{next, whole, Balance, Store, StoreError};
use crate::amount::Amount;
use crate::digest::Digest;
use crate::intent::{Intent, Posting};
use crate::journal::{settle, Entry, Head, Settled, Verdict};
use crate::name::Name;

const SCHEMA: &str = include_str!("postgres.sql");
const VERSION: i32 = 1;
/// "ronLedgr": what writers of this journal lock.
const LOCK: i64 = 0x726f_6e4c_6564_6772;
const ROW: &str = "seq, run_key, tenant, epoch_id, commitment, funding_account, total::text, paid::text, prev, root";
/// Appends entries and their postings, all or none.
const APPEND: &str = "WITH entries AS (
  INSERT INTO intents SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::text[]::numeric[], $8::text[]::numeric[], $9::text[], $10::text[]))
  INSERT INTO postings SELECT * FROM unnest($11::bigint[], $12::text[], $13::text[]::numeric[])";

/// A journal in the schema `ron_ledger` of a database. Several processes may write it: each entry names the root before it,
/// and the database takes one that follows.
pub struct Postgres {
    client: Client,
    /// The last that was seen; another process may have written since.
    head: Head,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("head", &self.head)
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
            head: Head::empty(),
        };
        store.head = store.audit(&mut |_| ())?;
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
        let Settled { verdicts, entries } = settle(self.head, Vec::new(), intents.clone());
        // The others may be known to the database otherwise than by this batch.
        let is_accepted = |verdict: &Verdict| matches!(verdict, Verdict::Accepted(_));
        if !verdicts.iter().all(is_accepted) {
            return Ok(Err(intents));
        }
        match append(&mut self.client, &entries) {
            Ok(()) => {
                self.head = entries.last().map_or(self.head, Entry::head);
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
        self.head = entries.last().map_or(head, Entry::head);
        Ok(verdicts)
    }

    fn sum(&mut self, sql: &str, account: &Name) -> Result<Amount, StoreError> {
        let text: String = self
            .client
            .query_one(sql, &[&account.as_str()])?
            .try_get(0)?;
        let beyond =
            |_| StoreError::Damaged(format!("the amounts of {account} are beyond the range"));
        text.parse().map_err(beyond)
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
        let credits = "SELECT coalesce(sum(amount), 0)::text FROM postings WHERE account = $1";
        let debits = "SELECT coalesce(sum(total), 0)::text FROM intents WHERE funding_account = $1";
        Ok(Balance {
            credits: self.sum(credits, account)?,
            debits: self.sum(debits, account)?,
        })
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        last(&mut self.client)
    }

    fn audit(&mut self, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let sql = format!(
            "SELECT {ROW}, account, amount::text FROM intents LEFT JOIN postings USING (seq) ORDER BY seq, account"
        );
        let work = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead);
        let mut work = work.read_only(true).start()?;
        let mut rows = work.query_raw(&sql, std::iter::empty::<&str>())?;
        let mut head = Head::empty();
        let mut begun: Option<(Row, Vec<(String, String)>)> = None;
        let mut end = |begun: Option<(Row, Vec<_>)>| {
            let Some((row, postings)) = begun else {
                return Ok(());
            };
            let entry = entry(&row, &postings)?;
            next(&mut head, &entry)?;
            each(&entry);
            Ok::<(), StoreError>(())
        };
        while let Some(found) = rows.next()? {
            let row = row(&found)?;
            if begun
                .as_ref()
                .is_none_or(|(before, _)| before.seq != row.seq)
            {
                end(begun.replace((row, Vec::new())))?;
            }
            let posting = (found.try_get(10)?, found.try_get(11)?);
            if let (Some((_, postings)), (Some(account), Some(amount))) = (&mut begun, posting) {
                postings.push((account, amount));
            }
        }
        end(begun)?;
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
    let mut entries = Vec::new();
    for found in client.query(sql, params)? {
        let row = row(&found)?;
        let postings = "SELECT account, amount::text FROM postings WHERE seq = $1 ORDER BY account";
        let postings = client.query(postings, &[&row.seq])?;
        let postings: Vec<(String, String)> = postings
            .iter()
            .map(|posting| Ok((posting.try_get(0)?, posting.try_get(1)?)))
            .collect::<Result<_, postgres::Error>>()?;
        entries.push(whole(entry(&row, &postings)?)?);
    }
    Ok(entries)
}

fn append(client: &mut impl GenericClient, entries: &[Entry]) -> Result<(), postgres::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Entry) -> String| -> Vec<String> { entries.iter().map(of).collect() };
    let seqs: Vec<i64> = entries.iter().map(|entry| entry.seq as i64).collect();
    let (mut of, mut accounts, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        for Posting(account, amount) in entry.intent.postings() {
            of.push(entry.seq as i64);
            accounts.push(account.as_str());
            amounts.push(amount.to_string());
        }
    }
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
            &column(|entry| entry.paid.to_string()),
            &column(|entry| entry.prev.to_string()),
            &column(|entry| entry.root.to_string()),
            &of,
            &accounts,
            &amounts,
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
        paid: row.try_get(7)?,
        prev: row.try_get(8)?,
        root: row.try_get(9)?,
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
