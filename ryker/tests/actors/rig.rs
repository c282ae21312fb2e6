//! An actor that does as it is told, and what is noted about it.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use ryker::{
    Accounts, Actor, ActorExit, ActorRef, Context, DropReason, Observer, Outcome, Reply, Runtime,
    RykerConfig,
};
use tokio::time::{sleep, Instant};

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn runtime() -> Runtime {
    Runtime::new(RykerConfig::default())
}

/// Lines that many write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.0.lock().unwrap().iter().any(|l| l == line)
    }
}

pub(crate) type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), Told>> + Send + 'a>>;
type Job = Box<dyn for<'a> FnOnce(&'a mut Worker, &'a mut Context<Worker>) -> Doing<'a> + Send>;

/// What a worker is told to do.
pub(crate) enum Msg {
    Note(u32),
    Sleep(Duration),
    Panic,
    Fail,
    /// Answered with what this incarnation has noted.
    Notes(Reply<Vec<u32>>),
    /// Kept, not answered.
    Keep(Reply<()>),
    /// Let go of without an answer.
    Ignore(Reply<()>),
    SleepThenAnswer(Duration, Reply<()>),
    PanicOn(Reply<()>),
    FailOn(Reply<()>),
    Do(Job),
}

pub(crate) fn job<F>(f: F) -> Msg
where
    F: for<'a> FnOnce(&'a mut Worker, &'a mut Context<Worker>) -> Doing<'a> + Send + 'static,
{
    Msg::Do(Box::new(f))
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("as told")]
pub(crate) struct Told;

pub(crate) fn quietly_panic(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

/// Not cancel-safe.
pub(crate) struct Worker {
    pub(crate) notes: Vec<u32>,
    pub(crate) kept: Vec<Reply<()>>,
    pub(crate) log: Log,
}

impl Worker {
    pub(crate) fn new(log: &Log) -> Self {
        Self {
            notes: Vec::new(),
            kept: Vec::new(),
            log: log.clone(),
        }
    }
}

impl Actor for Worker {
    type Msg = Msg;
    type Error = Told;

    async fn on_start(&mut self, cx: &mut Context<Self>) -> Result<(), Told> {
        self.log.add(format!("start {}", cx.generation()));
        Ok(())
    }

    async fn handle(&mut self, message: Msg, cx: &mut Context<Self>) -> Result<(), Told> {
        match message {
            Msg::Note(n) => {
                self.notes.push(n);
                self.log.add(format!("note {n}"));
            }
            Msg::Sleep(time) => sleep(time).await,
            Msg::Panic => quietly_panic("told to panic"),
            Msg::Fail => return Err(Told),
            Msg::Notes(reply) => drop(reply.send(self.notes.clone())),
            Msg::Keep(reply) => self.kept.push(reply),
            Msg::Ignore(reply) => drop(reply),
            Msg::SleepThenAnswer(time, reply) => {
                self.log.add("sleeps");
                sleep(time).await;
                let heard = reply.send(()).is_ok();
                self.log.add(format!("heard {heard}"));
            }
            Msg::PanicOn(_reply) => quietly_panic("told to panic"),
            Msg::FailOn(_reply) => return Err(Told),
            Msg::Do(job) => return job(self, cx).await,
        }
        Ok(())
    }

    async fn on_stop(&mut self, _: &mut Context<Self>) {
        self.log.add("stop");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.log.add("drop");
    }
}

pub(crate) fn worker(rt: &Runtime, log: &Log) -> ActorRef<Msg> {
    let log = log.clone();
    rt.spawn("worker", move || Worker::new(&log)).unwrap()
}

/// Lets the tasks of a paused runtime do what they can without time passing.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    struct Deaf;
    impl Wake for Deaf {
        fn wake(self: Arc<Self>) {}
    }
    future.poll(&mut std::task::Context::from_waker(&Waker::from(Arc::new(
        Deaf,
    ))))
}

#[track_caller]
pub(crate) fn about(elapsed: Duration, expected: Duration) {
    let off = elapsed.max(expected) - elapsed.min(expected);
    assert!(off <= ms(2), "{elapsed:?} instead of {expected:?}");
}

/// How long `future` takes.
pub(crate) async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let began = Instant::now();
    (future.await, began.elapsed())
}

/// Any executor but tokio's.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Parked(std::thread::Thread);
    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Parked(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(&waker))
        {
            return output;
        }
        std::thread::park();
    }
}

/// The law; returns the accounts for a closer look.
#[track_caller]
pub(crate) fn balanced(accounts: Accounts) -> Accounts {
    assert!(accounts.balances(), "{accounts:?}");
    accounts
}

/// Notes all that it is told.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) log: Log,
    pub(crate) delays: Mutex<Vec<(u32, Duration)>>,
}

impl Observer for Witness {
    fn on_refused(&self, actor: &str, reason: DropReason) {
        self.log.add(format!("{actor} refused {}", reason.as_str()));
    }

    fn on_dropped(&self, actor: &str, reason: DropReason, count: u64) {
        let reason = reason.as_str();
        self.log.add(format!("{actor} dropped {count} {reason}"));
    }

    fn on_handled(&self, actor: &str, outcome: Outcome, waited: Duration, took: Duration) {
        let (outcome, waited, took) = (outcome.as_str(), waited.as_millis(), took.as_millis());
        self.log
            .add(format!("{actor} handled {outcome} {waited} {took}"));
    }

    fn on_restart(&self, actor: &str, cause: &ActorExit, failures: u32, delay: Duration) {
        self.delays.lock().unwrap().push((failures, delay));
        self.log.add(format!("{actor} restarts: {cause}"));
    }

    fn on_exit(&self, actor: &str, exit: &ActorExit) {
        self.log.add(format!("{actor} exits: {exit}"));
    }
}
