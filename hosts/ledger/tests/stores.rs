//! What every store promises: the same answers as a naive model, before and after it is opened again.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use svc_ledger::amount::Amount;
use svc_ledger::digest::{Address, Digest};
use svc_ledger::intent::{Intent, Posting, Run};
use svc_ledger::journal::{Entry, Head, Receipt, Verdict};
use svc_ledger::store::{Balance, Memory, Sqlite, Store, StoreError};

fn digest(value: u8) -> Digest {
    Digest::new([value; 32])
}

fn intent(key: u8, epoch: u8, commitment: u8, amounts: &[u128]) -> Intent {
    let run = Run {
        run_key: digest(key),
        tenant: format!("tenant-{}", epoch % 2).parse().unwrap(),
        epoch_id: format!("epoch:{}", epoch / 2).parse().unwrap(),
        commitment: Address::new(digest(commitment)),
    };
    let postings: Vec<Posting> = (0..)
        .zip(amounts)
        .map(|(at, amount)| Posting(format!("actor-{at}").parse().unwrap(), Amount::new(*amount)))
        .collect();
    let total = Amount::new(amounts.iter().sum());
    Intent::new(run, "pool".parse().unwrap(), total, postings).unwrap()
}

/// What the laws say, without hashes: the entries in their order.
#[derive(Debug, Default)]
struct Model(Vec<Intent>);

#[derive(Debug, PartialEq)]
enum Expected {
    Accepted(u64),
    Dup(u64),
    KeyReused,
    EpochSettled(Digest),
}

impl Model {
    fn settle(&mut self, intent: Intent) -> Expected {
        let place = |found: Option<usize>| found.map(|at| (at as u64 + 1, self.0[at].clone()));
        let run = place(
            self.0
                .iter()
                .position(|known| known.run_key() == intent.run_key()),
        );
        let epoch = |known: &Intent| (known.tenant().clone(), known.epoch_id().clone());
        let settled = place(
            self.0
                .iter()
                .position(|known| epoch(known) == epoch(&intent)),
        );
        let seen = match (run, settled) {
            (Some((seq, known)), _) if known == intent => Expected::Dup(seq),
            (Some(_), _) => Expected::KeyReused,
            (None, Some((seq, known)))
                if (known.commitment(), known.postings())
                    == (intent.commitment(), intent.postings()) =>
            {
                Expected::Dup(seq)
            }
            (None, Some((_, known))) => Expected::EpochSettled(*known.run_key()),
            (None, None) => Expected::Accepted(self.0.len() as u64 + 1),
        };
        if let Expected::Accepted(_) = seen {
            self.0.push(intent);
        }
        seen
    }

    fn balance(&self, account: &str) -> Balance {
        let mut balance = Balance::default();
        for intent in &self.0 {
            if intent.funding_account().as_str() == account {
                balance.debits = balance.debits.checked_add(intent.total()).unwrap();
            }
            for Posting(credited, amount) in intent.postings() {
                if credited.as_str() == account {
                    balance.credits = balance.credits.checked_add(*amount).unwrap();
                }
            }
        }
        balance
    }
}

fn seen(verdict: &Verdict) -> Expected {
    match verdict {
        Verdict::Accepted(receipt) => Expected::Accepted(receipt.seq),
        Verdict::Dup(receipt) => Expected::Dup(receipt.seq),
        Verdict::KeyReused => Expected::KeyReused,
        Verdict::EpochSettled { by } => Expected::EpochSettled(*by),
        Verdict::Exhausted => panic!("no sum of these is beyond the range"),
    }
}

fn intents() -> impl Strategy<Value = Intent> {
    let amounts = prop::collection::vec(1..1000u128, 0..4);
    (0..6u8, 0..6u8, 0..2u8, amounts).prop_map(|(key, epoch, commitment, amounts)| {
        // Few of them differ in nothing but the amounts.
        intent(key, epoch, commitment, &amounts)
    })
}

#[derive(Debug, Clone)]
enum Step {
    Settle(Vec<Intent>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(intents(), 1..5).prop_map(Step::Settle),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..20)
}

/// `reopen` opens the store again; nothing of it was closed in order.
fn conforms(
    mut store: Box<dyn Store>,
    mut reopen: impl FnMut(Box<dyn Store>) -> Box<dyn Store>,
    steps: Vec<Step>,
) {
    let mut model = Model::default();
    let mut receipts: BTreeMap<u64, Receipt> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Settle(batch) => {
                let expected: Vec<Expected> = batch
                    .iter()
                    .map(|intent| model.settle(intent.clone()))
                    .collect();
                let verdicts = store.settle(batch).unwrap();
                let answered: Vec<Expected> = verdicts.iter().map(seen).collect();
                assert_eq!(answered, expected);
                for verdict in verdicts {
                    if let Verdict::Accepted(receipt) | Verdict::Dup(receipt) = verdict {
                        let known = receipts.entry(receipt.seq).or_insert(receipt);
                        assert_eq!(*known, receipt, "a receipt changed");
                    }
                }
            }
            Step::Reopen => store = reopen(store),
        }
        let mut entries = Vec::new();
        let head = store
            .audit(Head::empty(), &mut |entry| entries.push(entry.clone()))
            .unwrap();
        assert_eq!(store.head().unwrap(), head);
        let kept: Vec<&Intent> = entries.iter().map(|entry| &entry.intent).collect();
        assert_eq!(kept, model.0.iter().collect::<Vec<_>>());
        for (seq, receipt) in &receipts {
            assert_eq!(entries[*seq as usize - 1].receipt(), *receipt);
        }
        for entry in entries {
            let intent = &entry.intent;
            assert_eq!(store.run(intent.run_key()).unwrap().as_ref(), Some(&entry));
            let found = store.epoch(intent.tenant(), intent.epoch_id()).unwrap();
            assert_eq!(found.as_ref(), Some(&entry));
        }
        for account in ["pool", "actor-0", "actor-1", "nobody"] {
            let found = store.balance(&account.parse().unwrap()).unwrap();
            assert_eq!(found, model.balance(account), "{account}");
        }
        assert_eq!(store.run(&digest(99)).unwrap(), None);
        let (tenant, epoch) = ("tenant-0".parse().unwrap(), "none".parse().unwrap());
        assert_eq!(store.epoch(&tenant, &epoch).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn memory_answers_as_the_laws_say(steps in steps()) {
        conforms(Box::new(Memory::new()), |store| store, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_laws_say(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let open = || Box::new(Sqlite::open(&path).unwrap()) as Box<dyn Store>;
        conforms(open(), |store| { drop(store); open() }, steps);
    }
}

/// Databases of the service that the script started, each new.
mod service {
    use std::time::Duration;

    use postgres::{Client, Config, NoTls};
    use svc_ledger::store::{Postgres, Store, StoreError};

    #[derive(Debug)]
    pub(super) struct Database(pub(super) Config);

    impl Database {
        pub(super) fn new() -> Database {
            use std::sync::atomic::{AtomicU32, Ordering};
            static LAST: AtomicU32 = AtomicU32::new(0);
            let service = std::env::var("RON_TEST_POSTGRES")
                .expect("RON_TEST_POSTGRES: where the service is");
            let mut config: Config = service.parse().unwrap();
            let next = LAST.fetch_add(1, Ordering::Relaxed);
            let name = format!("test_{}_{next}", std::process::id());
            let mut client = config.connect(NoTls).unwrap();
            client
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .unwrap();
            config.dbname(&name);
            Database(config)
        }

        pub(super) fn open(&self) -> Result<Postgres, StoreError> {
            Postgres::open(&self.0, Duration::from_secs(10))
        }

        pub(super) fn boxed(&self) -> Box<dyn Store> {
            Box::new(self.open().unwrap())
        }

        pub(super) fn client(&self) -> Client {
            self.0.connect(NoTls).unwrap()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "by .ci/check-ledger-postgres.sh, which starts the service"]
    fn postgres_answers_as_the_laws_say(steps in steps()) {
        let database = service::Database::new();
        conforms(database.boxed(), |store| { drop(store); database.boxed() }, steps);
    }

    /// Two that write the same journal in turns, so that neither knows what the other has done.
    #[test]
    #[ignore = "by .ci/check-ledger-postgres.sh, which starts the service"]
    fn replicas_of_postgres_answer_as_one(steps in steps()) {
        let database = service::Database::new();
        let mut other = Some(database.boxed());
        conforms(database.boxed(), |store| other.replace(store).unwrap(), steps);
    }
}

#[test]
#[ignore = "by .ci/check-ledger-postgres.sh, which starts the service"]
fn replicas_that_race_credit_every_epoch_once() {
    let database = service::Database::new();
    drop(database.open().unwrap());
    let verdicts: Vec<Vec<Verdict>> = std::thread::scope(|scope| {
        let racers = [0u8, 1, 2].map(|racer| {
            let database = &database;
            scope.spawn(move || {
                let mut store = database.open().unwrap();
                let epochs = 0..60u8;
                // Its own run of each epoch, and two in one commit.
                let batches = epochs.collect::<Vec<_>>();
                let batches = batches.chunks(2).map(|epochs| {
                    let of = |epoch: &u8| intent(epoch * 3 + racer, *epoch, racer, &[1, 2]);
                    epochs.iter().map(of).collect::<Vec<_>>()
                });
                batches
                    .flat_map(|batch| store.settle(batch).unwrap())
                    .collect()
            })
        });
        racers
            .map(|racer| racer.join().unwrap())
            .into_iter()
            .collect()
    });
    let accepted = |verdict: &&Verdict| matches!(verdict, Verdict::Accepted(_));
    assert_eq!(verdicts.iter().flatten().filter(accepted).count(), 60);
    let mut store = database.open().unwrap();
    let mut epochs = std::collections::BTreeSet::new();
    let head = store
        .audit(Head::empty(), &mut |entry| {
            let intent = &entry.intent;
            assert!(epochs.insert((intent.tenant().clone(), intent.epoch_id().clone())));
        })
        .unwrap();
    assert_eq!((head.seq, head.paid), (60, Amount::new(180)));
}

#[test]
#[ignore = "by .ci/check-ledger-postgres.sh, which starts the service"]
fn what_others_write_into_the_database_is_refused_by_its_laws_or_found() {
    let database = service::Database::new();
    let mut store = database.open().unwrap();
    for key in 0..3 {
        store
            .settle(vec![intent(key, key, 1, &[u128::from(key) + 1, 5])])
            .unwrap();
    }
    let mut client = database.client();
    client
        .batch_execute("SET search_path TO ron_ledger")
        .unwrap();
    let forged = |seq: u8, epoch: &str, prev: &str, postings: &str| {
        format!(
            "INSERT INTO intents SELECT {seq}, replace(run_key, '0', '9'), tenant, '{epoch}', commitment, funding_account, \
             total, {postings}, paid + total, {prev}, replace(root, '0', '9') FROM intents WHERE seq = 3"
        )
    };
    let refused = [
        "UPDATE intents SET total = 1".to_owned(),
        "DELETE FROM intents".to_owned(),
        "TRUNCATE intents".to_owned(),
        forged(4, "epoch:1", "root", "postings"),
        forged(5, "new", "root", "postings"),
        forged(4, "new", "prev", "postings"),
        forged(4, "new", "root", "'[]'"),
        forged(4, "new", "root", r#"'[["thief","9"]]'"#),
        forged(4, "new", "root", r#"'[["thief","18"],["a","-10"]]'"#),
    ];
    for sql in refused {
        assert!(client.batch_execute(&sql).is_err(), "{sql}");
    }
    assert!(store.audit(Head::empty(), &mut |_| ()).is_ok());
    // What no law of the schema forbids.
    client
        .batch_execute(&forged(4, "new", "root", "postings"))
        .unwrap();
    let (tenant, epoch) = ("tenant-0".parse().unwrap(), "new".parse().unwrap());
    for error in [
        store.epoch(&tenant, &epoch).unwrap_err(),
        store.head().unwrap_err(),
        database.open().unwrap_err(),
    ] {
        assert!(
            matches!(&error, StoreError::Damaged(what) if what.contains("entry 4")),
            "{error}"
        );
    }
}

#[test]
fn amounts_up_to_the_last_are_kept_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores: Vec<Box<dyn Store>> = vec![
        Box::new(Memory::new()),
        Box::new(Sqlite::open(&dir.path().join("l")).unwrap()),
    ];
    if std::env::var_os("RON_TEST_POSTGRES").is_some() {
        stores.push(service::Database::new().boxed());
    }
    for mut store in stores {
        let batch = vec![
            intent(1, 1, 1, &[u128::MAX - 7, 3]),
            intent(2, 2, 1, &[4]),
            intent(3, 3, 1, &[1]),
        ];
        let verdicts = store.settle(batch).unwrap();
        assert!(matches!(verdicts[1], Verdict::Accepted(_)), "{verdicts:?}");
        assert_eq!(verdicts[2], Verdict::Exhausted);
        let pool = store.balance(&"pool".parse().unwrap()).unwrap();
        assert_eq!(pool.debits, Amount::new(u128::MAX));
        let first = store.balance(&"actor-0".parse().unwrap()).unwrap();
        assert_eq!(first.credits, Amount::new(u128::MAX - 3));
    }
}

fn filled(path: &Path, entries: u8) -> Sqlite {
    let mut store = Sqlite::open(path).unwrap();
    for key in 0..entries {
        store
            .settle(vec![intent(key, key, 1, &[u128::from(key) + 1, 5])])
            .unwrap();
    }
    store
}

#[test]
fn one_process_writes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let first = filled(&path, 1);
    let second = Sqlite::open(&path).unwrap_err();
    assert!(matches!(second, StoreError::InUse(_)), "{second}");
    drop(first);
    assert_eq!(Sqlite::open(&path).unwrap().head().unwrap().seq, 1);
}

#[test]
fn what_is_no_journal_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        path
    };
    let text = at("text");
    std::fs::write(
        text.join("journal.db"),
        "no database, and long enough for the head of one".repeat(9),
    )
    .unwrap();
    let error = Sqlite::open(&text).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    let other = at("other");
    let db = rusqlite::Connection::open(other.join("journal.db")).unwrap();
    db.execute_batch("CREATE TABLE shopping (item TEXT)")
        .unwrap();
    let error = Sqlite::open(&other).unwrap_err();
    assert!(matches!(error, StoreError::Other { .. }), "{error}");
    assert!(db.execute_batch("SELECT item FROM shopping").is_ok());
    let open = at("open");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    let error = Sqlite::open(&open).unwrap_err();
    assert!(error.to_string().contains("mode 700"), "{error}");
}

#[test]
fn what_others_write_into_the_file_is_refused_by_its_laws_or_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    drop(filled(&path, 3));
    let db = rusqlite::Connection::open(path.join("journal.db")).unwrap();
    let forged = |seq: u8, epoch: &str, prev: &str| {
        format!(
            "INSERT INTO intents SELECT {seq}, replace(run_key, '0', '9'), tenant, '{epoch}', commitment, funding_account, \
             total, postings, paid, {prev}, replace(root, '0', '9') FROM intents WHERE seq = 3"
        )
    };
    let refused = [
        "UPDATE intents SET total = '1'".to_owned(),
        "DELETE FROM intents".to_owned(),
        "DELETE FROM postings".to_owned(),
        // An epoch that is settled; another number; another predecessor.
        forged(4, "epoch:1", "root"),
        forged(5, "new", "root"),
        forged(4, "new", "prev"),
    ];
    for sql in refused {
        assert!(db.execute(&sql, []).is_err(), "{sql}");
    }
    // What no law of the schema forbids.
    db.execute(&forged(4, "new", "root"), []).unwrap();
    drop(db);
    let error = Sqlite::open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged(what) if what.contains("entry 4")),
        "{error}"
    );
}

/// Its laws are taken from it, as bytes that change on a disk heed none.
#[test]
fn what_changes_in_a_file_that_is_open_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut store = filled(&path, 3);
    let db = rusqlite::Connection::open(path.join("journal.db")).unwrap();
    db.execute_batch(
        "DROP TRIGGER intents_stay; UPDATE intents SET commitment = replace(commitment, '0', '1') WHERE seq = 2",
    )
    .unwrap();
    let right = intent(1, 1, 1, &[2, 5]);
    let (tenant, epoch) = (right.tenant().clone(), right.epoch_id().clone());
    for error in [
        store.run(right.run_key()).unwrap_err(),
        store.epoch(&tenant, &epoch).unwrap_err(),
        store.settle(vec![right]).unwrap_err(),
        store.audit(Head::empty(), &mut |_| ()).unwrap_err(),
    ] {
        assert!(
            matches!(&error, StoreError::Damaged(what) if what.contains("entry 2")),
            "{error}"
        );
    }
    assert!(store.run(&digest(0)).unwrap().is_some());
}

/// As a kill leaves it: the log is still beside the file.
fn copied(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["journal.db", "journal.db-wal", "head"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn entries(store: &mut Sqlite) -> Vec<Entry> {
    let mut entries = Vec::new();
    store
        .audit(Head::empty(), &mut |entry| entries.push(entry.clone()))
        .unwrap();
    entries
}

/// A database forgets the end of a log that it cannot read.
#[test]
fn a_journal_that_lost_its_end_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("ledger"), dir.path().join("copy"));
    let mut store = filled(&path, 5);
    copied(&path, &copy);
    assert_eq!(Sqlite::open(&copy).unwrap().head().unwrap().seq, 5);
    let wal = copy.join("journal.db-wal");
    for part in [4, 2] {
        copied(&path, &copy);
        let bytes = std::fs::read(&wal).unwrap();
        std::fs::write(&wal, &bytes[..bytes.len() / 4 * (part - 1)]).unwrap();
        let error = Sqlite::open(&copy).unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged(what) if what.contains("5 were")),
            "{error}"
        );
    }
    assert_eq!(entries(&mut store).len(), 5);
}

/// Every byte with RON_TEST_FULL=1, one of many without.
#[test]
fn a_flipped_byte_is_found_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("ledger"), dir.path().join("copy"));
    let mut store = filled(&path, 3);
    let right = entries(&mut store);
    let mut damaged = 0;
    let is_full = std::env::var_os("RON_TEST_FULL").is_some();
    // First all is in the log, then all is in the file.
    for name in ["journal.db-wal", "journal.db"] {
        if name == "journal.db" {
            drop(Sqlite::open(&copy));
            drop(store);
            store = Sqlite::open(&path).unwrap();
        }
        let bytes = std::fs::read(path.join(name)).unwrap();
        let step = if is_full { 1 } else { bytes.len() / 60 };
        for at in (0..bytes.len()).step_by(step) {
            copied(&path, &copy);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(copy.join(name), changed).unwrap();
            match Sqlite::open(&copy) {
                Err(_) => damaged += 1,
                Ok(mut store) => assert_eq!(entries(&mut store), right, "{name}, byte {at}"),
            }
        }
    }
    assert!(damaged > 30, "{damaged}");
}
