//! From the panic of an actor to the next message it handles.
//!
//! As the group `restart`, which is about children of a supervisor, but for actors as users write them. Where the
//! mailbox is kept, poison and probe both wait in it; ractor's supervisor sends the probe to the replacement.

use super::peers::{ryker_actor, Ryker, RYKER};
use super::peers::{Kameo, KameoActor, Ractor, RactorActor, RactorCall, Spawn, Tell};
use super::{Host, Job};
use crate::harness::{percentile, Group};
use crate::restart::POISON;
use kameo::actor::Spawn as _;
use ractor::{Actor as _, ActorProcessingErr, SupervisionEvent};
use std::future::{poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Restarts of one round; 10 of them are above the p99.
const RESTARTS: usize = 1000;
/// Restarts before that, which do not count.
const WARM_UP: usize = 50;
const CAPACITY: usize = 16;

pub fn group() -> Group {
    Group::new(
        "actor-restart",
        "panic -> the next message is handled, backoff 0, 2 workers",
        "raw task, catch_unwind",
    )
    .measure("p50", "us")
    .measure("p99", "us")
    .case("ryker's runner", all::<RykerRunner>)
    .case("raw task, catch_unwind", all::<Caught>)
    .case("raw task, JoinHandle and spawn", all::<Respawned>)
    .case("kameo", all::<KameoSupervised>)
    .case("ractor", all::<RactorSupervised>)
    .note(format!(
        "{RESTARTS} restarts a round. No tracing subscriber. ractor gives the replacement a new mailbox; the others keep \
         theirs. ryker is run as by a supervisor that restarts at once."
    ))
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Poison,
    Probe,
}

/// Panics over the poison, and says at the probe how long ago that was.
#[derive(Clone)]
struct Patient {
    struck: Arc<Mutex<Instant>>,
    handled: mpsc::Sender<Duration>,
}

impl Job for Patient {
    type Message = Order;
    type Reply = ();

    fn handle(&mut self, order: Order) {
        match order {
            Order::Poison => {
                *self.struck.lock().expect("nobody panics with it") = Instant::now();
                std::panic::panic_any(POISON);
            }
            Order::Probe => {
                let latency = self.struck.lock().expect("nobody panics with it").elapsed();
                self.handled.try_send(latency).expect("one at a time");
            }
        }
    }
}

/// One that is restarted when it panics.
trait Supervised: Tell<Patient> {
    /// Sends the poison, and the probe where the mailbox is kept.
    fn strike(actor: &Self::Ref) -> impl Future<Output = ()> + Send {
        async {
            Self::tell(actor, Order::Poison).await;
            Self::tell(actor, Order::Probe).await;
        }
    }
}

fn all<P: Supervised>() -> Vec<f64> {
    Host::Workers(2).block_on(async {
        let (handled, mut latencies) = mpsc::channel(1);
        let struck = Arc::new(Mutex::new(Instant::now()));
        let actor = P::spawn(Patient { struck, handled }, CAPACITY).await;
        // What is accepted before it runs can be lost by some.
        P::tell(&actor, Order::Probe).await;
        latencies.recv().await.expect("it runs");
        let mut samples = Vec::with_capacity(RESTARTS);
        for round in 0..WARM_UP + RESTARTS {
            P::strike(&actor).await;
            let latency = tokio::time::timeout(Duration::from_secs(5), latencies.recv()).await;
            let latency = latency.expect("the probe was lost").expect("it restarts");
            if round >= WARM_UP {
                samples.push(latency.as_nanos() as f64 / 1e3);
            }
        }
        vec![percentile(&samples, 50), percentile(&samples, 99)]
    })
}

/// A task that catches its panics: nobody is told, nothing is counted.
struct Caught;

impl Spawn<Patient> for Caught {
    type Ref = mpsc::Sender<Order>;

    async fn spawn(job: Patient, capacity: usize) -> Self::Ref {
        let (sender, mut orders) = mpsc::channel(capacity);
        tokio::spawn(async move {
            let mut patient = job.clone();
            while let Some(order) = orders.recv().await {
                if catch_unwind(AssertUnwindSafe(|| patient.handle(order))).is_err() {
                    patient = job.clone();
                }
            }
        });
        sender
    }
}

impl Tell<Patient> for Caught {
    async fn tell(actor: &Self::Ref, order: Order) {
        actor.send(order).await.expect("it runs");
    }
}

impl Supervised for Caught {}

/// A task that another one waits for and replaces.
struct Respawned;

impl Spawn<Patient> for Respawned {
    type Ref = mpsc::Sender<Order>;

    async fn spawn(job: Patient, capacity: usize) -> Self::Ref {
        let (sender, orders) = mpsc::channel::<Order>(capacity);
        let orders = Arc::new(tokio::sync::Mutex::new(orders));
        tokio::spawn(async move {
            loop {
                let (mut patient, orders) = (job.clone(), Arc::clone(&orders));
                let task = tokio::spawn(async move {
                    let mut orders = orders.lock().await;
                    while let Some(order) = orders.recv().await {
                        patient.handle(order);
                    }
                });
                if task.await.is_ok() {
                    return;
                }
            }
        });
        sender
    }
}

impl Tell<Patient> for Respawned {
    async fn tell(actor: &Self::Ref, order: Order) {
        actor.send(order).await.expect("it runs");
    }
}

impl Supervised for Respawned {}

/// An actor of ryker's without the loop of its own, which would wait a millisecond at least.
struct RykerRunner;

impl Spawn<Patient> for RykerRunner {
    type Ref = <Ryker as Spawn<Patient>>::Ref;

    async fn spawn(job: Patient, capacity: usize) -> Self::Ref {
        let (actor, runner) = ryker_actor(&RYKER, job, capacity)
            .runner()
            .expect("an actor");
        tokio::spawn(async move {
            loop {
                let mut life = pin!(runner.run(std::future::pending::<()>()));
                let ended =
                    poll_fn(
                        |cx| match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(cx))) {
                            Ok(polled) => polled.map(|_| true),
                            Err(_) => Poll::Ready(false),
                        },
                    );
                if ended.await {
                    return;
                }
            }
        });
        actor
    }
}

impl Tell<Patient> for RykerRunner {
    async fn tell(actor: &Self::Ref, order: Order) {
        Ryker::tell(actor, order).await;
    }
}

impl Supervised for RykerRunner {}

struct KameoSupervisor;

impl kameo::Actor for KameoSupervisor {
    type Args = ();
    type Error = kameo::error::Infallible;

    async fn on_start((): (), _: kameo::actor::ActorRef<Self>) -> Result<Self, Self::Error> {
        Ok(KameoSupervisor)
    }
}

struct KameoSupervised;

impl Spawn<Patient> for KameoSupervised {
    /// The supervisor ends with its last reference.
    type Ref = (
        <Kameo as Spawn<Patient>>::Ref,
        kameo::actor::ActorRef<KameoSupervisor>,
    );

    async fn spawn(job: Patient, capacity: usize) -> Self::Ref {
        let supervisor = KameoSupervisor::spawn(());
        let actor = KameoActor::supervise(&supervisor, job)
            .restart_limit(u32::MAX, Duration::from_secs(1))
            .spawn_with_mailbox(kameo::mailbox::bounded(capacity))
            .await;
        (actor, supervisor)
    }
}

impl Tell<Patient> for KameoSupervised {
    async fn tell((actor, _): &Self::Ref, order: Order) {
        Kameo::tell(actor, order).await;
    }
}

impl Supervised for KameoSupervised {}

/// Passes on what it gets, and probes each replacement.
struct RactorSupervisor(Patient);

type RactorRef = ractor::ActorRef<RactorCall<Patient>>;

impl RactorSupervisor {
    async fn child(&self, me: RactorRef) -> Result<RactorRef, ActorProcessingErr> {
        let job = self.0.clone();
        let spawned = ractor::Actor::spawn_linked(None, RactorActor::new(), job, me.into());
        Ok(spawned.await?.0)
    }
}

impl ractor::Actor for RactorSupervisor {
    type Msg = RactorCall<Patient>;
    type State = RactorRef;
    type Arguments = ();

    async fn pre_start(&self, me: RactorRef, (): ()) -> Result<RactorRef, ActorProcessingErr> {
        self.child(me).await
    }

    async fn handle(
        &self,
        _: RactorRef,
        call: RactorCall<Patient>,
        child: &mut RactorRef,
    ) -> Result<(), ActorProcessingErr> {
        assert!(child.cast(call).is_ok());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: RactorRef,
        event: SupervisionEvent,
        child: &mut RactorRef,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(..) = event {
            *child = self.child(me).await?;
            Ractor::tell(child, Order::Probe).await;
        }
        Ok(())
    }
}

struct RactorSupervised;

impl Spawn<Patient> for RactorSupervised {
    type Ref = RactorRef;

    async fn spawn(job: Patient, _: usize) -> RactorRef {
        let spawned = RactorSupervisor::spawn(None, RactorSupervisor(job), ()).await;
        spawned.expect("it starts").0
    }
}

impl Tell<Patient> for RactorSupervised {
    async fn tell(actor: &RactorRef, order: Order) {
        Ractor::tell(actor, order).await;
    }
}

impl Supervised for RactorSupervised {
    async fn strike(actor: &RactorRef) {
        Self::tell(actor, Order::Poison).await;
    }
}
