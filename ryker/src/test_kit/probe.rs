//! A mailbox that a test reads in the place of an actor.

use std::fmt;
use std::future::{poll_fn, Future};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep_until, timeout, Instant};

use crate::account::{Accounts, End};
use crate::actor::{ActorExit, ActorRef, Letter};
use crate::error::{BuildError, ErrorKind};
use crate::mailbox::{open, Envelope, Inbox, Options, Sender};
use crate::runtime::Runtime;

/// How long [`Probe::next`] waits: as long as a message can be on its way, which is the longest deadline there is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands in for an actor: gets its messages, and answers its asks, as the test pleases.
///
/// It is a mailbox like any other, with its bounds, deadlines and accounts; a message counts as handled once it is
/// handed out, and expired messages and abandoned asks are passed over as an actor would. Dropped, it has ended, and
/// what is queued is dropped. A [drain](Runtime::drain) waits for it as for an actor, so drop it first.
///
/// ```
/// use ryker::{test_kit::{paused, Probe}, Actor, ActorRef, Context, Reply, RykerConfig};
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// enum Mail {
///     Send(String),
///     Sent(Reply<u64>),
/// }
///
/// /// The actor under test: tells the mailer of every fifth order.
/// struct Orders {
///     mailer: ActorRef<Mail>,
///     seen: u64,
/// }
///
/// impl Actor for Orders {
///     type Msg = u64;
///     type Error = Infallible;
///
///     async fn handle(&mut self, _order: u64, _: &mut Context<Self>) -> Result<(), Infallible> {
///         self.seen += 1;
///         if self.seen % 5 == 0 {
///             let sent = self.mailer.ask(Mail::Sent).await.unwrap_or(0);
///             let text = format!("{} orders, {sent} mails", self.seen);
///             let _ = self.mailer.try_send(Mail::Send(text));
///         }
///         Ok(())
///     }
/// }
///
/// paused(RykerConfig::default(), |rt| async move {
///     let (mailer, mut mails) = Probe::open(&rt, "mailer");
///     let orders = rt.spawn("orders", move || Orders { mailer: mailer.clone(), seen: 0 }).unwrap();
///
///     for order in 0..4 {
///         orders.send(order).await.unwrap();
///     }
///     mails.expect_none_for(Duration::from_secs(10)).await;
///
///     orders.send(4).await.unwrap();
///     let Mail::Sent(reply) = mails.next().await else { panic!("it asks first") };
///     reply.send(7).unwrap();
///     let Mail::Send(text) = mails.next().await else { panic!("then it sends") };
///     assert_eq!(text, "5 orders, 7 mails");
///     assert!(mails.try_next().is_none());
/// });
/// ```
pub struct Probe<M> {
    inbox: Inbox<Letter<M>>,
}

impl<M: Send + 'static> Probe<M> {
    /// A probe with the options of the configuration, and the reference to give to whoever is to send to it.
    ///
    /// # Panics
    /// The name is not allowed, or the runtime drains.
    #[track_caller]
    pub fn open(rt: &Runtime, name: &str) -> (ActorRef<M>, Self) {
        built(Self::build(rt, name, None))
    }

    /// A probe whose mailbox holds `capacity` messages, for tests of what happens when it is full.
    ///
    /// # Panics
    /// As [`open`](Self::open); the capacity is not 1 to 1,048,576.
    #[track_caller]
    pub fn with_capacity(rt: &Runtime, name: &str, capacity: usize) -> (ActorRef<M>, Self) {
        built(Self::build(rt, name, Some(capacity)))
    }

    fn build(
        rt: &Runtime,
        name: &str,
        capacity: Option<usize>,
    ) -> Result<(ActorRef<M>, Self), BuildError> {
        let mut options = Options::new(name.into());
        options.capacity = capacity;
        let mut spec = options.spec(&rt.core)?;
        spec.discard = Some(Letter::discard);
        let shared = open(spec, &rt.core)?;
        let actor = ActorRef::new(Sender::new(Arc::clone(&shared)));
        let inbox = Inbox::new(shared);
        Ok((actor, Self { inbox }))
    }

    /// The next message; waits for it, for up to 60 s of tokio's time.
    ///
    /// # Panics
    /// None came, or none will: nobody is left to send, or the runtime drains.
    ///
    /// # Cancel safety
    /// Dropped before it returned, it has taken nothing.
    #[track_caller]
    #[allow(clippy::should_implement_trait)] // it waits, as a stream's does
    pub fn next(&mut self) -> impl Future<Output = M> + '_ {
        let at = Location::caller();
        async move {
            match timeout(PATIENCE, self.take()).await {
                Ok(Some(message)) => message,
                Ok(None) => panic!("{at}: no message will come to probe `{}`", self.name()),
                Err(_) => panic!("{at}: no message came to probe `{}` in 60 s", self.name()),
            }
        }
    }

    /// The next message, if one is queued.
    pub fn try_next(&mut self) -> Option<M> {
        loop {
            let envelope = self.inbox.try_take().ok()?;
            if let Some(message) = self.hand_out(envelope) {
                return Some(message);
            }
        }
    }

    /// Lets `duration` pass, in which nothing comes.
    ///
    /// # Panics
    /// A message came.
    #[track_caller]
    pub fn expect_none_for(&mut self, duration: Duration) -> impl Future<Output = ()> + '_ {
        let at = Location::caller();
        async move {
            let began = Instant::now();
            if let Ok(Some(_)) = timeout(duration, self.take()).await {
                let after = began.elapsed();
                panic!(
                    "{at}: a message came to probe `{}` after {after:?}",
                    self.name()
                );
            }
            sleep_until(began + duration).await;
        }
    }

    /// Messages that wait to be taken.
    pub fn depth(&self) -> usize {
        self.inbox.shared.depth() as usize
    }

    /// Whether it takes nothing more in: somebody has [stopped](ActorRef::stop) it, nobody is left to send to it, or the
    /// runtime drains.
    pub fn is_closed(&self) -> bool {
        self.inbox.shared.is_closed()
    }

    /// What became of every message; one that was handed out is `ok`.
    pub fn accounts(&self) -> Accounts {
        self.inbox.shared.accounts()
    }

    fn name(&self) -> &str {
        &self.inbox.shared.spec.name
    }

    /// The next message; `None` if none will come.
    async fn take(&mut self) -> Option<M> {
        loop {
            let envelope = poll_fn(|cx| self.inbox.poll_take(cx)).await?;
            if let Some(message) = self.hand_out(envelope) {
                return Some(message);
            }
        }
    }

    /// The message, unless it is an ask that nobody waits for any more.
    fn hand_out(&self, envelope: Envelope<Letter<M>>) -> Option<M> {
        if envelope.message.is_abandoned() {
            self.inbox
                .end_unhandled(envelope, End::Abandoned, ErrorKind::Timeout);
            return None;
        }
        self.inbox.shared.progress().end(1, End::Ok);
        self.inbox.shared.make_room();
        let message = envelope.message.message;
        Some(message)
    }
}

#[track_caller]
pub(super) fn built<T>(result: Result<T, BuildError>) -> T {
    match result {
        Ok(built) => built,
        Err(error) => panic!("{error}"),
    }
}

impl<M> Drop for Probe<M> {
    fn drop(&mut self) {
        self.inbox.retire();
        self.inbox.shared.fate().seal(ActorExit::Normal);
        self.inbox.shared.core.changed();
    }
}

impl<M> fmt::Debug for Probe<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.inbox.shared).finish()
    }
}
