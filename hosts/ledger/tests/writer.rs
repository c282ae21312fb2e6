//! The thread that writes: one commit for many, and an answer for everybody, whatever fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use svc_ledger::amount::Amount;
use svc_ledger::digest::{Address, Digest};
use svc_ledger::intent::{Intent, Posting, Run};
use svc_ledger::journal::{Entry, Head, Receipt, Verdict};
use svc_ledger::name::Name;
use svc_ledger::store::{Balance, Memory, Sqlite, Store, StoreError};
use svc_ledger::writer::{ledger, Unanswered, Writer};

/// One of many, equal for equal numbers.
fn intent(number: u32) -> Intent {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    let run = Run {
        run_key: Digest::new(key),
        tenant: "t".parse().unwrap(),
        epoch_id: format!("epoch-{number}").parse().unwrap(),
        commitment: Address::new(Digest::new([1; 32])),
    };
    let amount = Amount::new(u128::from(number) + 1);
    let postings = vec![Posting("actor".parse().unwrap(), amount)];
    Intent::new(run, "pool".parse().unwrap(), amount, postings).unwrap()
}

/// Runs the writer on its thread until it is stopped; opens the store again whenever it fails.
struct Running {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    fn start(writer: Writer, mut open: impl FnMut() -> Box<dyn Store> + Send + 'static) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || loop {
            let mut store = open();
            if writer
                .run(&mut *store, || stopped.load(Ordering::Relaxed))
                .is_ok()
            {
                return;
            }
        });
        Running { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A store that several incarnations of the writer share, and that fails before or after it has done what was asked.
#[derive(Debug)]
struct Faulty {
    kept: Arc<std::sync::Mutex<Memory>>,
    calls: Arc<AtomicUsize>,
}

impl Store for Faulty {
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let failed = || Err(StoreError::Failed("unplugged".to_owned()));
        if call % 5 == 1 {
            return failed();
        }
        let verdicts = self.kept.lock().unwrap().settle(intents);
        if call % 5 == 3 {
            return failed();
        }
        verdicts
    }

    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError> {
        self.kept.lock().unwrap().run(run_key)
    }

    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError> {
        self.kept.lock().unwrap().epoch(tenant, epoch_id)
    }

    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError> {
        self.kept.lock().unwrap().balance(account)
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        self.kept.lock().unwrap().head()
    }

    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        self.kept.lock().unwrap().audit(from, each)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_after_a_failure_is_credited_once() {
    let (ledger, writer) = ledger(64);
    let kept = Arc::new(std::sync::Mutex::new(Memory::new()));
    let calls = Arc::new(AtomicUsize::new(0));
    let (shared, counted) = (kept.clone(), calls.clone());
    let running = Running::start(writer, move || {
        Box::new(Faulty {
            kept: shared.clone(),
            calls: counted.clone(),
        })
    });
    let unknown = Arc::new(AtomicUsize::new(0));
    let clients = (0..16).map(|client| {
        let (ledger, unknown) = (ledger.clone(), unknown.clone());
        tokio::spawn(async move {
            for at in 0..20 {
                // Each is sent by two clients, which is as bad as a client that asks twice.
                let intent = intent(client / 2 * 100 + at);
                loop {
                    match ledger.settle(intent.clone()).await {
                        Ok(Verdict::Accepted(_) | Verdict::Dup(_)) => break,
                        Err(Unanswered::Unknown(_)) => {
                            unknown.fetch_add(1, Ordering::Relaxed);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert!(unknown.load(Ordering::Relaxed) > 10);
    assert_eq!(ledger.head().await.unwrap().seq, 160);
    let found = ledger.run(*intent(305).run_key()).await.unwrap().unwrap();
    assert_eq!(found.intent, intent(305));
    let epoch = ledger.epoch("t".parse().unwrap(), "epoch-305".parse().unwrap());
    assert_eq!(epoch.await.unwrap(), Some(found));
    let paid: u32 = (0..8)
        .flat_map(|client| (0..20).map(move |at| client * 100 + at + 1))
        .sum();
    let paid = Amount::new(u128::from(paid));
    assert_eq!(
        ledger
            .balance("actor".parse().unwrap())
            .await
            .unwrap()
            .credits,
        paid
    );
    assert_eq!(
        ledger
            .balance("pool".parse().unwrap())
            .await
            .unwrap()
            .debits,
        paid
    );
    running.stop();
}

#[tokio::test]
async fn so_many_wait_and_the_others_are_told_at_once() {
    let (ledger, writer) = ledger(3);
    let asked: Vec<_> = (0..4)
        .map(|at| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.settle(intent(at)).await })
        })
        .collect();
    let mut answers = Vec::new();
    // Nobody writes yet: three wait.
    while ledger.waiting() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.capacity(), 3);
    assert_eq!(ledger.settle(intent(9)).await, Err(Unanswered::Busy));
    let running = Running::start(writer, || Box::new(Memory::new()));
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    let busy = answers
        .iter()
        .filter(|answer| **answer == Err(Unanswered::Busy));
    assert_eq!(busy.count(), 1);
    // All three in one commit.
    assert_eq!(ledger.head().await.unwrap().seq, 3);
    running.stop();
    let gone = ledger.settle(intent(9)).await;
    assert!(matches!(gone, Err(Unanswered::Unknown(_))), "{gone:?}");
}

#[tokio::test]
async fn nobody_is_left_without_an_answer_when_it_stops() {
    let (ledger, writer) = ledger(1000);
    let stop = AtomicBool::new(true);
    let asked: Vec<_> = (0..500)
        .map(|at| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.settle(intent(at)).await })
        })
        .collect();
    while ledger.waiting() < 500 {
        tokio::task::yield_now().await;
    }
    writer
        .run(&mut Memory::new(), || stop.load(Ordering::Relaxed))
        .unwrap();
    // Whoever was left has no answer now.
    drop(writer);
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Ok(Verdict::Accepted(_))));
    }
}

/// Writes to the journal until it is killed, and says what was accepted. Nothing but the tests below run it.
#[test]
fn a_writer_that_is_killed() {
    let Some(dir) = std::env::var_os("TEST_LEDGER_DIR") else {
        return;
    };
    let from: u32 = std::env::var("TEST_LEDGER_FROM").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (ledger, writer) = ledger(64);
    let _running = Running::start(writer, move || {
        Box::new(Sqlite::open(Path::new(&dir)).unwrap())
    });
    runtime.block_on(async {
        let clients = (0..8).map(|client| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for number in (from + client..).step_by(8) {
                    if let Ok(Verdict::Accepted(receipt) | Verdict::Dup(receipt)) =
                        ledger.settle(intent(number)).await
                    {
                        let line = format!("receipt {number} {} {}\n", receipt.seq, receipt.root);
                        // Past the harness, which would keep it.
                        rustix::io::write(std::io::stdout(), line.as_bytes()).unwrap();
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    });
}

/// 500 kills with RON_TEST_FULL=1, 15 without.
#[test]
fn what_was_accepted_outlives_a_kill() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let is_full = std::env::var_os("RON_TEST_FULL").is_some();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut receipts: Vec<(u32, u64, String)> = Vec::new();
    let mut from = 0;
    for round in 0..if is_full { 500 } else { 15 } {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_that_is_killed", "--nocapture"])
            .env("TEST_LEDGER_DIR", &path)
            .env("TEST_LEDGER_FROM", from.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let enough = 20 + round * 37 % 100;
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(receipt) = line.strip_prefix("receipt ") else {
                continue;
            };
            let words: Vec<&str> = receipt.split(' ').collect();
            let [number, seq, root] = *words else {
                panic!("{line}");
            };
            receipts.push((
                number.parse().unwrap(),
                seq.parse().unwrap(),
                root.to_owned(),
            ));
            seen += 1;
            if seen == enough {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= enough, "it ended by itself");
        // Some that are known, some whose fate is not.
        let last = receipts.iter().map(|(number, ..)| *number).max().unwrap();
        from = last.saturating_sub(20);
    }
    let mut store = Sqlite::open(&path).unwrap();
    let mut epochs = std::collections::HashSet::new();
    let mut entries = Vec::new();
    store
        .audit(Head::empty(), &mut |entry| {
            assert!(epochs.insert(entry.intent.epoch_id().clone()));
            entries.push((entry.intent.clone(), entry.receipt()));
        })
        .unwrap();
    for (number, seq, root) in receipts {
        let (kept, receipt) = &entries[seq as usize - 1];
        assert_eq!(*kept, intent(number));
        assert_eq!(
            *receipt,
            Receipt {
                seq,
                root: root.parse().unwrap()
            }
        );
    }
}
