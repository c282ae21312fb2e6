//! The frameworks compared, behind one face that groups are generic over. All run any [`Job`].

use super::Job;
use actix::Actor as _;
use kameo::actor::Spawn as _;
use ractor::{ActorProcessingErr, RpcReplyPort};
use std::future::Future;
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Messages that a receiver asks for at once.
const BATCH: usize = 32;

pub trait Spawn<J: Job>: 'static {
    type Ref: Clone + Send + Sync + 'static;

    /// With a mailbox of `capacity` where the framework has a bound.
    fn spawn(job: J, capacity: usize) -> impl Future<Output = Self::Ref> + Send;
}

pub trait Tell<J: Job>: Spawn<J> {
    /// Waits for room where there is a bound.
    fn tell(actor: &Self::Ref, message: J::Message) -> impl Future<Output = ()> + Send;
}

pub trait TryTell<J: Job>: Spawn<J> {
    /// Whether there was room.
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool;
}

pub trait Ask<J: Job>: Spawn<J> {
    fn ask(actor: &Self::Ref, message: J::Message) -> impl Future<Output = J::Reply> + Send;
}

/// With deadlines, accounts, metrics and the guard against panics, as it comes.
pub struct Ryker;
/// A task that receives from a channel of tokio's.
pub struct Raw;
/// The same by `recv_many(32)`.
pub struct RawMany;
/// The same with a channel for each answer.
pub struct RawAsk;
/// A task that receives from a channel of kanal's.
pub struct Kanal;
/// The same, which drains it after each wait.
pub struct KanalDrain;
pub struct Kameo;
pub struct Ractor;
pub struct Xtra;
/// On an arbiter of its own, that is: on another thread.
pub struct Actix;
/// On the thread of those who send to it.
pub struct ActixHere;

pub struct RykerActor<J>(J);

pub enum RykerMessage<J: Job> {
    Tell(J::Message),
    Ask(J::Message, ryker::Reply<J::Reply>),
}

impl<J: Job> ryker::Actor for RykerActor<J> {
    type Msg = RykerMessage<J>;
    type Error = std::convert::Infallible;

    async fn handle(
        &mut self,
        message: RykerMessage<J>,
        _: &mut ryker::Context<Self>,
    ) -> Result<(), Self::Error> {
        match message {
            RykerMessage::Tell(message) => drop(self.0.handle(message)),
            RykerMessage::Ask(message, reply) => drop(reply.send(self.0.handle(message))),
        }
        Ok(())
    }
}

/// An actor of `runtime` before it starts; its deadline is long, so that no message is dropped where a round is held up.
pub fn ryker_actor<J: Job>(
    runtime: &ryker::Runtime,
    job: J,
    capacity: usize,
) -> ryker::ActorBuilder<RykerActor<J>, impl FnMut() -> RykerActor<J> + Send + 'static> {
    let actor = runtime.actor("bench", move || RykerActor(job.clone()));
    actor.capacity(capacity).deadline(Duration::from_secs(60))
}

/// What comes of the defaults.
pub static RYKER: LazyLock<ryker::Runtime> =
    LazyLock::new(|| ryker::Runtime::new(ryker::RykerConfig::default()));

impl<J: Job> Spawn<J> for Ryker {
    type Ref = ryker::ActorRef<RykerMessage<J>>;

    async fn spawn(job: J, capacity: usize) -> Self::Ref {
        ryker_actor(&RYKER, job, capacity)
            .spawn()
            .expect("it starts")
    }
}

impl<J: Job> Tell<J> for Ryker {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        assert!(actor.send(RykerMessage::Tell(message)).await.is_ok());
    }
}

impl<J: Job> TryTell<J> for Ryker {
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool {
        actor.try_send(RykerMessage::Tell(message)).is_ok()
    }
}

impl<J: Job> Ask<J> for Ryker {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        let reply = actor.ask(|reply| RykerMessage::Ask(message, reply)).await;
        reply.unwrap_or_else(|_| panic!("no reply"))
    }
}

impl<J: Job> Spawn<J> for Raw {
    type Ref = mpsc::Sender<J::Message>;

    async fn spawn(mut job: J, capacity: usize) -> Self::Ref {
        let (sender, mut messages) = mpsc::channel(capacity);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                job.handle(message);
            }
        });
        sender
    }
}

impl<J: Job> Tell<J> for Raw {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        assert!(actor.send(message).await.is_ok());
    }
}

impl<J: Job> TryTell<J> for Raw {
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool {
        actor.try_send(message).is_ok()
    }
}

impl<J: Job> Spawn<J> for RawMany {
    type Ref = mpsc::Sender<J::Message>;

    async fn spawn(mut job: J, capacity: usize) -> Self::Ref {
        let (sender, mut messages) = mpsc::channel(capacity);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while messages.recv_many(&mut batch, BATCH).await > 0 {
                for message in batch.drain(..) {
                    job.handle(message);
                }
            }
        });
        sender
    }
}

impl<J: Job> Tell<J> for RawMany {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        assert!(actor.send(message).await.is_ok());
    }
}

impl<J: Job> TryTell<J> for RawMany {
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool {
        actor.try_send(message).is_ok()
    }
}

impl<J: Job> Spawn<J> for RawAsk {
    type Ref = mpsc::Sender<(J::Message, oneshot::Sender<J::Reply>)>;

    async fn spawn(mut job: J, capacity: usize) -> Self::Ref {
        let (sender, mut calls) = mpsc::channel::<(J::Message, oneshot::Sender<_>)>(capacity);
        tokio::spawn(async move {
            while let Some((message, caller)) = calls.recv().await {
                let _ = caller.send(job.handle(message));
            }
        });
        sender
    }
}

impl<J: Job> Ask<J> for RawAsk {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        let (caller, reply) = oneshot::channel();
        assert!(actor.send((message, caller)).await.is_ok());
        reply.await.expect("a reply")
    }
}

impl<J: Job> Spawn<J> for Kanal {
    type Ref = kanal::AsyncSender<J::Message>;

    async fn spawn(mut job: J, capacity: usize) -> Self::Ref {
        let (sender, messages) = kanal::bounded_async(capacity);
        tokio::spawn(async move {
            while let Ok(message) = messages.recv().await {
                job.handle(message);
            }
        });
        sender
    }
}

impl<J: Job> TryTell<J> for Kanal {
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool {
        actor.try_send(message).expect("it runs")
    }
}

impl<J: Job> Spawn<J> for KanalDrain {
    type Ref = kanal::AsyncSender<J::Message>;

    async fn spawn(mut job: J, capacity: usize) -> Self::Ref {
        let (sender, messages) = kanal::bounded_async(capacity);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(capacity);
            while let Ok(message) = messages.recv().await {
                job.handle(message);
                let _ = messages.drain_into(&mut batch);
                for message in batch.drain(..) {
                    job.handle(message);
                }
            }
        });
        sender
    }
}

impl<J: Job> Tell<J> for KanalDrain {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        actor.send(message).await.expect("it runs");
    }
}

impl<J: Job> TryTell<J> for KanalDrain {
    fn try_tell(actor: &Self::Ref, message: J::Message) -> bool {
        actor.try_send(message).expect("it runs")
    }
}

pub struct KameoActor<J>(J);

impl<J: Job> kameo::Actor for KameoActor<J> {
    type Args = J;
    type Error = kameo::error::Infallible;

    async fn on_start(job: J, _: kameo::actor::ActorRef<Self>) -> Result<Self, Self::Error> {
        Ok(KameoActor(job))
    }
}

impl<J: Job> kameo::message::Message<J::Message> for KameoActor<J>
where
    J::Reply: kameo::Reply,
{
    type Reply = J::Reply;

    async fn handle(
        &mut self,
        message: J::Message,
        _: &mut kameo::message::Context<Self, J::Reply>,
    ) -> J::Reply {
        self.0.handle(message)
    }
}

impl<J: Job> Spawn<J> for Kameo {
    type Ref = kameo::actor::ActorRef<KameoActor<J>>;

    async fn spawn(job: J, capacity: usize) -> Self::Ref {
        KameoActor::spawn_with_mailbox(job, kameo::mailbox::bounded(capacity))
    }
}

impl<J: Job> Tell<J> for Kameo
where
    J::Message: Sync,
    J::Reply: kameo::Reply,
{
    async fn tell(actor: &Self::Ref, message: J::Message) {
        assert!(actor.tell(message).await.is_ok());
    }
}

impl<J: Job> Ask<J> for Kameo
where
    J::Message: Sync,
    J::Reply: kameo::Reply<Ok = J::Reply>,
{
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        let reply = actor.ask(message).await;
        reply.unwrap_or_else(|_| panic!("no reply"))
    }
}

pub struct RactorActor<J>(PhantomData<J>);

impl<J> RactorActor<J> {
    pub fn new() -> RactorActor<J> {
        RactorActor(PhantomData)
    }
}

pub enum RactorCall<J: Job> {
    Tell(J::Message),
    Ask(J::Message, RpcReplyPort<J::Reply>),
}

impl<J: Job> ractor::Actor for RactorActor<J> {
    type Msg = RactorCall<J>;
    type State = J;
    type Arguments = J;

    async fn pre_start(
        &self,
        _: ractor::ActorRef<RactorCall<J>>,
        job: J,
    ) -> Result<J, ActorProcessingErr> {
        Ok(job)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<RactorCall<J>>,
        call: RactorCall<J>,
        job: &mut J,
    ) -> Result<(), ActorProcessingErr> {
        match call {
            RactorCall::Tell(message) => drop(job.handle(message)),
            RactorCall::Ask(message, caller) => {
                let _ = caller.send(job.handle(message));
            }
        }
        Ok(())
    }
}

impl<J: Job> Spawn<J> for Ractor {
    type Ref = ractor::ActorRef<RactorCall<J>>;

    async fn spawn(job: J, _: usize) -> Self::Ref {
        let spawned = ractor::Actor::spawn(None, RactorActor::new(), job).await;
        spawned.expect("it starts").0
    }
}

impl<J: Job> Tell<J> for Ractor {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        assert!(actor.cast(RactorCall::Tell(message)).is_ok());
    }
}

impl<J: Job> Ask<J> for Ractor {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        let call = actor.call(|caller| RactorCall::Ask(message, caller), None);
        match call.await {
            Ok(reply) => reply.unwrap(),
            Err(_) => panic!("it runs"),
        }
    }
}

pub struct XtraActor<J>(J);

impl<J: Job> xtra::Actor for XtraActor<J> {
    type Stop = ();

    async fn stopped(self) {}
}

impl<J: Job> xtra::Handler<J::Message> for XtraActor<J> {
    type Return = J::Reply;

    async fn handle(&mut self, message: J::Message, _: &mut xtra::Context<Self>) -> J::Reply {
        self.0.handle(message)
    }
}

impl<J: Job> Spawn<J> for Xtra {
    type Ref = xtra::Address<XtraActor<J>>;

    async fn spawn(job: J, capacity: usize) -> Self::Ref {
        xtra::spawn_tokio(XtraActor(job), xtra::Mailbox::bounded(capacity))
    }
}

impl<J: Job> Tell<J> for Xtra {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        drop(actor.send(message).detach().await.expect("it runs"));
    }
}

impl<J: Job> Ask<J> for Xtra {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        actor.send(message).await.expect("it runs")
    }
}

pub struct ActixActor<J>(J);

pub struct ActixMessage<J: Job>(J::Message);

impl<J: Job> actix::Message for ActixMessage<J> {
    type Result = J::Reply;
}

impl<J: Job + Unpin> actix::Actor for ActixActor<J> {
    type Context = actix::Context<Self>;
}

impl<J: Job + Unpin> actix::Handler<ActixMessage<J>> for ActixActor<J> {
    type Result = actix::MessageResult<ActixMessage<J>>;

    fn handle(&mut self, message: ActixMessage<J>, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.0.handle(message.0))
    }
}

impl<J: Job + Unpin> Spawn<J> for Actix {
    type Ref = actix::Addr<ActixActor<J>>;

    async fn spawn(job: J, _: usize) -> Self::Ref {
        let elsewhere = actix::Arbiter::new().handle();
        ActixActor::start_in_arbiter(&elsewhere, |_| ActixActor(job))
    }
}

impl<J: Job + Unpin> Tell<J> for Actix {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        actor.do_send(ActixMessage(message));
    }
}

impl<J: Job + Unpin> Ask<J> for Actix {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        actor.send(ActixMessage(message)).await.expect("it runs")
    }
}

impl<J: Job + Unpin> Spawn<J> for ActixHere {
    type Ref = actix::Addr<ActixActor<J>>;

    async fn spawn(job: J, capacity: usize) -> Self::Ref {
        ActixActor::create(|context| {
            context.set_mailbox_capacity(capacity);
            ActixActor(job)
        })
    }
}

impl<J: Job + Unpin> Tell<J> for ActixHere {
    async fn tell(actor: &Self::Ref, message: J::Message) {
        let mut message = ActixMessage(message);
        while let Err(actix::dev::SendError::Full(back)) = actor.try_send(message) {
            message = back;
            tokio::task::yield_now().await;
        }
    }
}

impl<J: Job + Unpin> Ask<J> for ActixHere {
    async fn ask(actor: &Self::Ref, message: J::Message) -> J::Reply {
        actor.send(ActixMessage(message)).await.expect("it runs")
    }
}
