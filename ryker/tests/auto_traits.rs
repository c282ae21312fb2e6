//! Send, Sync and Unpin of what users hold and await.
#![cfg(not(loom))]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomPinned;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use ryker::{
    Accounts, Actor, ActorBuilder, ActorExit, ActorRef, AskError, BuildError, Context,
    DeadlineExceeded, Delivery, DrainReport, DropReason, ErrorKind, Mailbox, MailboxBuilder,
    Observer, OnDeadline, Outcome, Receiver, Refusals, Reloaded, Reply, Runner, Runtime,
    RykerConfig, SendError, Sender, TryRecvError, WeakActorRef,
};

/// A message that can be sent and nothing else.
#[allow(dead_code)] // the fields are there for their types alone
struct Plain(Cell<u8>, PhantomPinned);

struct Idle;

impl Actor for Idle {
    type Msg = Plain;
    type Error = Infallible;

    async fn handle(&mut self, _: Plain, _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

fn is_open<T: Send + Sync + Unpin + 'static>() {}
fn is_send<T: Send + Unpin + 'static>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
fn goes_into_a_task<F: Future + Send>(_: F) {}

#[test]
fn handles_move_between_threads_and_can_be_shared() {
    is_open::<Runtime>();
    is_open::<RykerConfig>();
    is_open::<Sender<Plain>>();
    is_open::<ActorRef<Plain>>();
    is_open::<WeakActorRef<Plain>>();
    is_open::<Runner<Idle>>();
    is_open::<(Accounts, Refusals, DrainReport, Reloaded)>();
    is_open::<(ActorExit, DeadlineExceeded, OnDeadline)>();
    is_open::<(DropReason, Outcome, ErrorKind, TryRecvError, BuildError)>();
    is_open::<Box<dyn Observer>>();
}

/// They are for one owner, and that may be in any thread.
#[test]
fn ends_and_builders_move_between_threads() {
    is_send::<Mailbox<Cell<u8>>>();
    is_send::<Receiver<Cell<u8>>>();
    is_send::<MailboxBuilder<Plain>>();
    is_send::<Reply<Cell<u8>>>();
    is_send::<Context<Idle>>();
    is_send::<ActorBuilder<Idle, fn() -> Idle>>();
    fn moves<T: Send>() {}
    moves::<Delivery<Plain>>();
    moves::<SendError<Plain>>();
    moves::<AskError<Plain>>();
    is_open::<(SendError<u8>, AskError<u8>, Delivery<u8>)>();
}

/// What is queued is not part of what is moved.
#[test]
fn ends_are_unpin_whatever_they_carry() {
    is_send::<Mailbox<Plain>>();
    is_send::<Receiver<Plain>>();
}

#[test]
fn errors_are_errors() {
    is_error::<SendError<u8>>();
    is_error::<AskError<u8>>();
    is_error::<BuildError>();
    is_error::<TryRecvError>();
    is_error::<ActorExit>();
    is_error::<DeadlineExceeded>();
}

#[test]
fn what_is_shared_survives_a_caught_panic() {
    fn survives<T: UnwindSafe + RefUnwindSafe>() {}
    survives::<(ErrorKind, BuildError, Accounts, DrainReport)>();
}

/// Compiled, not run.
#[allow(dead_code)]
async fn futures_go_into_tasks(
    rt: &Runtime,
    sender: &Sender<Plain>,
    receiver: &mut Receiver<Plain>,
    actor: &ActorRef<Plain>,
    runner: &Runner<Idle>,
    reply: &mut Reply<Cell<u8>>,
    message: impl Fn() -> Plain,
) {
    let now = std::time::Instant::now();
    goes_into_a_task(rt.drain(Duration::ZERO));
    goes_into_a_task(sender.send(message()));
    goes_into_a_task(sender.send_with_deadline(message(), now));
    goes_into_a_task(receiver.recv());
    goes_into_a_task(receiver.recv_delivery());
    goes_into_a_task(receiver.recv_many(&mut Vec::new(), 1));
    goes_into_a_task(actor.send(message()));
    goes_into_a_task(actor.send_with_deadline(message(), now));
    goes_into_a_task(actor.stopped());
    goes_into_a_task(actor.ask(|_: Reply<Cell<u8>>| Plain(Cell::new(0), PhantomPinned)));
    goes_into_a_task(runner.run(std::future::pending::<()>()));
    goes_into_a_task(reply.gone());
}
