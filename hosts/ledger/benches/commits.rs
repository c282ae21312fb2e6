//! Intents accepted per second, beside the commits of the raw store in the same run: `cargo bench -p svc-ledger`.
//!
//! Cases rotate inside a round; figures are medians of rounds. PostgreSQL takes part if RON_TEST_POSTGRES says where it is.

#![allow(clippy::print_stdout)] // The table.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use svc_ledger::amount::Amount;
use svc_ledger::digest::{Address, Digest};
use svc_ledger::intent::{Intent, Posting, Run};
use svc_ledger::journal::Verdict;
use svc_ledger::store::{Memory, Postgres, Sqlite, Store};
use svc_ledger::writer::ledger;

const CASE: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 5;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn intent() -> Intent {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // As keys are: without order.
    let key = blake3::hash(&number.to_le_bytes());
    let run = Run {
        run_key: Digest::from(key),
        tenant: "tenant".parse().unwrap_or_else(|_| unreachable!()),
        epoch_id: format!("epoch-{number}")
            .parse()
            .unwrap_or_else(|_| unreachable!()),
        commitment: Address::new(Digest::from(key)),
    };
    let postings = (0..3).map(|at| {
        let account = format!("actor-{at}-{}", number % 1000);
        Posting(
            account.parse().unwrap_or_else(|_| unreachable!()),
            Amount::new(7),
        )
    });
    let funding = "pool".parse().unwrap_or_else(|_| unreachable!());
    let intent = Intent::new(run, funding, Amount::new(21), postings.collect());
    intent.unwrap_or_else(|error| panic!("{error}"))
}

/// Per second, by so many clients that each wait for their answer.
fn accepted(mut store: Box<dyn Store>, clients: usize) -> f64 {
    let (ledger, writer) = ledger(1024);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        if let Err(error) = writer.run(&mut *store, || stopped.load(Ordering::Relaxed)) {
            eprintln!("{error}");
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    let done: u64 = runtime.block_on(async {
        let clients = (0..clients).map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut done = 0u64;
                while begun.elapsed() < CASE {
                    match ledger.settle(intent()).await {
                        Ok(Verdict::Accepted(_)) => done += 1,
                        other => panic!("{other:?}"),
                    }
                }
                done
            })
        });
        let mut done = 0;
        for client in clients.collect::<Vec<_>>() {
            done += client.await.unwrap_or_default();
        }
        done
    });
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let _ = thread.join();
    rate
}

/// One row of as many bytes in each commit, and nothing else.
fn raw_sqlite(dir: &Path) -> rusqlite::Result<f64> {
    let db = Connection::open(dir.join("raw.db"))?;
    db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE rows (id INTEGER PRIMARY KEY, bytes BLOB)")?;
    let mut insert = db.prepare("INSERT INTO rows (bytes) VALUES (?1)")?;
    let bytes = [7u8; 400];
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < CASE {
        insert.execute([&bytes[..]])?;
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn raw_postgres(service: &str) -> Result<f64, postgres::Error> {
    let mut client = postgres::Client::connect(service, postgres::NoTls)?;
    client.batch_execute(
        "DROP TABLE IF EXISTS raw; CREATE TABLE raw (id bigserial PRIMARY KEY, bytes bytea)",
    )?;
    let insert = client.prepare("INSERT INTO raw (bytes) VALUES ($1)")?;
    let bytes = [7u8; 400];
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < CASE {
        client.execute(&insert, &[&&bytes[..]])?;
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn fresh_postgres(service: &str, name: &str) -> Box<dyn Store> {
    let made = postgres::Client::connect(service, postgres::NoTls)
        .and_then(|mut client| client.batch_execute(&format!("CREATE DATABASE {name}")));
    made.unwrap_or_else(|error| panic!("{error}"));
    let mut config: postgres::Config = service.parse().unwrap_or_else(|error| panic!("{error}"));
    config.dbname(name);
    let store = Postgres::open(&config, Duration::from_secs(10));
    Box::new(store.unwrap_or_else(|error| panic!("{error}")))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let service = std::env::var("RON_TEST_POSTGRES").ok();
    let mut cases = vec!["raw SQLite, 1", "SQLite, 1", "SQLite, 64", "memory, 64"];
    if service.is_some() {
        cases.extend(["raw PostgreSQL, 1", "PostgreSQL, 1", "PostgreSQL, 64"]);
    }
    let mut rates = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for turn in 0..cases.len() {
            let case = (turn + round) % cases.len();
            let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
            let sqlite = || {
                let store = Sqlite::open(&dir.path().join("ledger"));
                Box::new(store.unwrap_or_else(|error| panic!("{error}")))
            };
            let service = service.as_deref().unwrap_or_default();
            let database = format!("bench_{}_{round}_{case}", std::process::id());
            let rate = match case {
                0 => raw_sqlite(dir.path()).unwrap_or_else(|error| panic!("{error}")),
                1 => accepted(sqlite(), 1),
                2 => accepted(sqlite(), 64),
                3 => accepted(Box::new(Memory::new()), 64),
                4 => raw_postgres(service).unwrap_or_else(|error| panic!("{error}")),
                5 => accepted(fresh_postgres(service, &database), 1),
                _ => accepted(fresh_postgres(service, &database), 64),
            };
            rates[case].push(rate);
        }
    }
    println!(
        "{:<20} {:>12} {:>10}",
        "store, clients", "accepted/s", "of raw"
    );
    for (case, name) in cases.iter().enumerate() {
        let raw = if case < 4 { 0 } else { 4 };
        let ratios = rates[case]
            .iter()
            .zip(&rates[raw])
            .map(|(own, raw)| own / raw);
        let ratio = median(ratios.collect());
        println!(
            "{name:<20} {:>12.0} {ratio:>9.2}x",
            median(rates[case].clone())
        );
    }
}
