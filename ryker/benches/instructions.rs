//! The work whose instructions `.ci/check-ryker-instructions.sh` counts: `instructions CASE` under callgrind, which
//! collects within [`measured`] only. Without a case it lists them, each with the number of messages it works on.
#![allow(clippy::print_stdout)] // a program that answers on its standard output

use std::convert::Infallible;
use std::future::{pending, Future};
use std::hint::black_box;
use std::pin::{pin, Pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Wake, Waker};

use ryker::{
    Actor, ActorExit, ActorRef, Context, MessageSize, Receiver, Reply, Runtime, RykerConfig,
    SendError, Sender,
};

/// 64 bytes, as in the benchmarks.
#[derive(Debug, Clone, Copy)]
struct Message([u64; 8]);

impl MessageSize for Message {
    fn message_size(&self) -> usize {
        self.0[0] as usize
    }
}

const MESSAGE: Message = Message([64; 8]);
/// Messages of one round: no more than after which a reader gives way.
const ROUND: usize = 32;
const CAPACITY: usize = 64;

/// How often a case repeats its round, measured and before that to warm up.
const ROUNDS: usize = 128;

type Case = (&'static str, usize, fn());

const CASES: &[Case] = &[
    ("try-send", ROUND, || try_send(false)),
    ("try-send-measured", ROUND, || try_send(true)),
    ("try-send-busy", ROUND, try_send_busy),
    ("try-send-wakes", 1, try_send_wakes),
    ("send", ROUND, send),
    ("try-recv", ROUND, try_recv),
    ("recv", ROUND, recv),
    ("recv-many", ROUND, recv_many),
    ("tell", ROUND, tell),
    ("handle", ROUND, handle),
    ("ask", 1, ask),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    match CASES.iter().find(|case| case.0 == name) {
        Some((_, _, run)) => run(),
        None => CASES
            .iter()
            .for_each(|(name, messages, _)| println!("{name} {}", messages * ROUNDS)),
    }
    ExitCode::SUCCESS
}

/// All that is counted.
#[inline(never)]
fn measured<S>(state: &mut S, work: impl Fn(&mut S)) {
    work(black_box(state));
}

/// `before` makes a round ready, `work` is counted.
fn rounds<S>(mut state: S, before: impl Fn(&mut S), work: impl Fn(&mut S)) {
    for _ in 0..ROUNDS {
        before(&mut state);
        work(&mut state);
    }
    for _ in 0..ROUNDS {
        before(&mut state);
        measured(&mut state, &work);
    }
}

struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

fn silent() -> Waker {
    Waker::from(Arc::new(Silent))
}

struct Mail {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    batch: Vec<Message>,
    waker: Waker,
}

impl Mail {
    fn new(is_measured: bool) -> Self {
        let runtime = Runtime::new(RykerConfig::default());
        let builder = runtime.mailbox("mail").capacity(CAPACITY);
        let builder = if is_measured {
            builder.measured()
        } else {
            builder
        };
        let (sender, receiver) = builder.build().expect("the options are valid").split();
        Self {
            sender,
            receiver,
            batch: Vec::with_capacity(CAPACITY),
            waker: silent(),
        }
    }

    fn send(&mut self) {
        for _ in 0..ROUND {
            let sent = self.sender.try_send(black_box(MESSAGE));
            assert!(sent.is_ok(), "there is room");
        }
    }

    fn empty(&mut self) {
        while self.receiver.try_recv().is_ok() {}
    }

    /// Lets the receiver wait, which begins a new turn.
    fn park(&mut self) {
        let mut task = Task::from_waker(&self.waker);
        while pin!(self.receiver.recv()).poll(&mut task).is_ready() {}
    }
}

fn try_send(is_measured: bool) {
    rounds(Mail::new(is_measured), Mail::empty, Mail::send);
}

fn try_send_busy() {
    let mut mail = Mail::new(false);
    mail.send();
    mail.send();
    rounds(
        mail,
        |_| {},
        |mail| {
            for _ in 0..ROUND {
                let refused = mail.sender.try_send(black_box(MESSAGE));
                assert!(matches!(refused, Err(SendError::Busy(_))));
            }
        },
    );
}

fn try_send_wakes() {
    rounds(Mail::new(false), Mail::park, |mail| {
        let sent = mail.sender.try_send(black_box(MESSAGE));
        assert!(sent.is_ok());
    });
}

/// Nobody has to wait.
fn send() {
    rounds(Mail::new(false), Mail::empty, |mail| {
        let mut task = Task::from_waker(&mail.waker);
        for _ in 0..ROUND {
            let polled = pin!(mail.sender.send(black_box(MESSAGE))).poll(&mut task);
            assert!(matches!(polled, Poll::Ready(Ok(()))));
        }
    });
}

fn try_recv() {
    rounds(Mail::new(false), Mail::send, |mail| {
        for _ in 0..ROUND {
            assert!(black_box(mail.receiver.try_recv()).is_ok());
        }
    });
}

fn parked_and_sent(mail: &mut Mail) {
    mail.park();
    mail.send();
}

fn recv() {
    rounds(Mail::new(false), parked_and_sent, |mail| {
        let mut task = Task::from_waker(&mail.waker);
        for _ in 0..ROUND {
            let polled = pin!(mail.receiver.recv()).poll(&mut task);
            assert!(matches!(black_box(polled), Poll::Ready(Some(_))));
        }
    });
}

fn recv_many() {
    rounds(Mail::new(false), parked_and_sent, |mail| {
        let mut task = Task::from_waker(&mail.waker);
        mail.batch.clear();
        let polled = pin!(mail.receiver.recv_many(&mut mail.batch, ROUND)).poll(&mut task);
        assert_eq!(polled, Poll::Ready(ROUND));
    });
}

struct Sum(u64);

enum Msg {
    Add(Message),
    Total(Reply<u64>),
}

impl Actor for Sum {
    type Msg = Msg;
    type Error = Infallible;

    async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Msg::Add(message) => self.0 += message.0[0],
            Msg::Total(reply) => drop(reply.send(self.0)),
        }
        Ok(())
    }
}

/// An actor and its task, polled by hand.
struct Stage {
    actor: ActorRef<Msg>,
    life: Pin<Box<dyn Future<Output = Result<(), ActorExit>>>>,
    waker: Waker,
}

impl Stage {
    fn new() -> Self {
        let runtime = Runtime::new(RykerConfig::default());
        let actor = runtime.actor("sum", || Sum(0)).capacity(CAPACITY);
        let (actor, runner) = actor.runner().expect("the options are valid");
        Self {
            actor,
            life: Box::pin(async move { runner.run(pending::<()>()).await }),
            waker: silent(),
        }
    }

    fn tell(&mut self) {
        for _ in 0..ROUND {
            let told = self.actor.try_send(Msg::Add(black_box(MESSAGE)));
            assert!(told.is_ok(), "there is room");
        }
    }

    /// The actor handles what there is, and waits.
    fn handle(&mut self) {
        let polled = self.life.as_mut().poll(&mut Task::from_waker(&self.waker));
        assert!(polled.is_pending(), "it lives on");
    }
}

fn tell() {
    rounds(Stage::new(), Stage::handle, Stage::tell);
}

fn handle() {
    rounds(Stage::new(), Stage::tell, Stage::handle);
}

fn ask() {
    rounds(Stage::new(), Stage::handle, |stage| {
        let waker = stage.waker.clone();
        let mut task = Task::from_waker(&waker);
        let mut ask = pin!(stage.actor.ask(Msg::Total));
        assert!(ask.as_mut().poll(&mut task).is_pending());
        let polled = stage.life.as_mut().poll(&mut task);
        assert!(polled.is_pending(), "it lives on");
        assert!(matches!(ask.poll(&mut task), Poll::Ready(Ok(_))));
    });
}
