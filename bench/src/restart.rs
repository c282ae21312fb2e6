//! From the panic of a child to the message its replacement handles.
//!
//! The driver sends a poison and a probe. The child notes the time and panics over the poison; whoever
//! handles the probe takes the difference. Where the framework keeps the inbox, both wait in it; where it
//! does not, the supervisor sends the probe to the replacement, as its users must.

use crate::harness::{percentile, Goal, Group};
use crate::otp::Otp;
use kameo::actor::{ActorRef as KameoRef, Spawn};
use kameo::message::{Context, Message};
use ractor::{Actor as _, ActorProcessingErr, ActorRef, SupervisionEvent};
use ron_kernel::supervisor::{Backoff, Child, Intensity};
use ron_kernel::Kernel;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub const NAMES: &[&str] = &["restart"];

/// What the children panic with; the panic hook stays silent over it.
pub const POISON: &str = "poison";

/// Restarts of one round; 10 of them are above the p99.
const RESTARTS: usize = 1000;
/// Restarts before that, which do not count.
const WARM_UP: usize = 50;

pub fn groups() -> Vec<Group> {
    let mut group = Group::new(
        "restart",
        "failure -> replacement handles a message, backoff 0, 2 workers",
        "tokio JoinHandle + spawn, panic",
    )
    .measure("p50", "us")
    .measure("p99", "us")
    .case("ron-kernel, panic", || measure(ron(Failure::Panic)))
    .case("ron-kernel, Err", || measure(ron(Failure::Error)))
    .case("catch_unwind in the task, panic", || measure(caught()))
    .case("tokio JoinHandle + spawn, panic", || {
        measure(respawned(Failure::Panic))
    })
    .case("tokio JoinHandle + spawn, Err", || {
        measure(respawned(Failure::Error))
    })
    .case("ractor, panic", || measure(ractor_supervised()))
    .case("kameo, panic", || measure(kameo_supervised()))
    .goal("p50", "ron-kernel, panic", Goal::AtMost(3.5))
    .goal("p99", "ron-kernel, panic", Goal::AtMost(10.0))
    .note(format!(
        "{RESTARTS} restarts a round. No tracing subscriber anywhere. ractor and OTP give the replacement a new \
         inbox: it is sent its probe as it starts. OTP unwinds no stack."
    ));
    if let Some(otp) = Otp::compile().map(Rc::new) {
        let us = |ns: Vec<f64>| ns.iter().map(|ns| ns / 1e3).collect();
        let error = Rc::clone(&otp);
        group = group
            .case("OTP, exit(boom)", move || us(otp.run("exit", RESTARTS)))
            .case("OTP, error(badarg)", move || {
                us(error.run("error", RESTARTS))
            });
    }
    vec![group]
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Panic,
    Error,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Poison,
    Probe,
}

/// What outlives the incarnations of a child: when it was struck, and where to say how long it took.
struct Clock {
    struck: Mutex<Instant>,
    handled: mpsc::Sender<Duration>,
}

impl Clock {
    fn new() -> (Arc<Clock>, mpsc::Receiver<Duration>) {
        let (handled, latencies) = mpsc::channel(16);
        let struck = Mutex::new(Instant::now());
        (Arc::new(Clock { struck, handled }), latencies)
    }

    fn strike(&self) {
        *self.struck.lock().expect("nobody panics with it") = Instant::now();
    }

    fn handle(&self) {
        let latency = self.struck.lock().expect("nobody panics with it").elapsed();
        self.handled.try_send(latency).expect("one at a time");
    }
}

/// An inbox that outlives the child, for all who supervise plain futures.
struct Inbox {
    orders: tokio::sync::Mutex<mpsc::Receiver<Order>>,
    clock: Arc<Clock>,
}

impl Inbox {
    fn new() -> (mpsc::Sender<Order>, Arc<Inbox>, mpsc::Receiver<Duration>) {
        let (sender, orders) = mpsc::channel(16);
        let (clock, latencies) = Clock::new();
        let orders = tokio::sync::Mutex::new(orders);
        (sender, Arc::new(Inbox { orders, clock }), latencies)
    }

    /// The child: ends with `Ok` when no order can come any more.
    async fn serve(self: Arc<Self>, failure: Failure) -> Result<(), &'static str> {
        let mut orders = self.orders.lock().await;
        while let Some(order) = orders.recv().await {
            match order {
                Order::Probe => self.clock.handle(),
                Order::Poison => {
                    self.clock.strike();
                    match failure {
                        Failure::Panic => std::panic::panic_any(POISON),
                        Failure::Error => return Err(POISON),
                    }
                }
            }
        }
        Ok(())
    }
}

/// A child under supervision: how to poison it and probe its replacement, and what it reports.
trait Patient {
    fn strike(&mut self) -> impl Future<Output = ()>;
    fn latency(&mut self) -> impl Future<Output = Duration>;
    fn end(self) -> impl Future<Output = ()>;
}

fn measure<P: Patient>(patient: impl Future<Output = P>) -> Vec<f64> {
    let runtime = workers();
    let latencies: Vec<f64> = runtime.block_on(async {
        let mut patient = patient.await;
        let mut latencies = Vec::with_capacity(RESTARTS);
        for round in 0..WARM_UP + RESTARTS {
            patient.strike().await;
            let latency = patient.latency().await;
            if round >= WARM_UP {
                latencies.push(latency.as_nanos() as f64 / 1e3);
            }
        }
        patient.end().await;
        latencies
    });
    vec![percentile(&latencies, 50), percentile(&latencies, 99)]
}

fn workers() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A child fed through an [`Inbox`], and what ends its supervisor.
struct Fed<End> {
    orders: mpsc::Sender<Order>,
    latencies: mpsc::Receiver<Duration>,
    end: End,
}

impl<End: AsyncFnOnce()> Patient for Fed<End> {
    async fn strike(&mut self) {
        for order in [Order::Poison, Order::Probe] {
            self.orders
                .send(order)
                .await
                .expect("the inbox outlives it");
        }
    }

    async fn latency(&mut self) -> Duration {
        self.latencies.recv().await.expect("the child restarts")
    }

    async fn end(self) {
        drop(self.orders);
        (self.end)().await;
    }
}

async fn ron(failure: Failure) -> impl Patient {
    let (orders, inbox, latencies) = Inbox::new();
    let intensity = Intensity::new(1_000_000, Duration::from_millis(1)).expect("a window");
    let child = Child::task_with("patient", inbox, move |_, inbox| inbox.serve(failure))
        .backoff(Backoff::NONE)
        .intensity(intensity);
    let kernel = Kernel::builder().child(child).build().expect("a tree");
    let running = kernel.start().await.expect("a runtime");
    Fed {
        orders,
        latencies,
        end: async move || {
            assert!(running.shutdown().await.is_balanced());
        },
    }
}

/// The least it can cost: nobody is told, nothing is counted.
async fn caught() -> impl Patient {
    let (orders, inbox, latencies) = Inbox::new();
    let child = tokio::spawn(async move {
        loop {
            let mut body = pin!(Arc::clone(&inbox).serve(Failure::Panic));
            let exit = std::future::poll_fn(|cx| {
                match std::panic::catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(cx))) {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(exit)) => Poll::Ready(Some(exit)),
                    Err(_) => Poll::Ready(None),
                }
            });
            if exit.await.is_some() {
                return;
            }
        }
    });
    Fed {
        orders,
        latencies,
        end: async move || child.await.expect("it catches its panics"),
    }
}

async fn respawned(failure: Failure) -> impl Patient {
    let (orders, inbox, latencies) = Inbox::new();
    let supervisor = tokio::spawn(async move {
        loop {
            let child = tokio::spawn(Arc::clone(&inbox).serve(failure));
            if let Ok(Ok(())) = child.await {
                return;
            }
        }
    });
    Fed {
        orders,
        latencies,
        end: async move || supervisor.await.expect("it does not panic"),
    }
}

struct RactorChild(Arc<Clock>);

impl ractor::Actor for RactorChild {
    type Msg = RactorOrder;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<RactorOrder>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<RactorOrder>,
        RactorOrder(order): RactorOrder,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Probe => self.0.handle(),
            Order::Poison => {
                self.0.strike();
                std::panic::panic_any(POISON)
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct RactorOrder(Order);

struct RactorSupervisor(Arc<Clock>);

impl RactorSupervisor {
    async fn child(
        &self,
        me: ActorRef<RactorOrder>,
    ) -> Result<ActorRef<RactorOrder>, ActorProcessingErr> {
        let body = RactorChild(Arc::clone(&self.0));
        let (child, _) = ractor::Actor::spawn_linked(None, body, (), me.into()).await?;
        Ok(child)
    }
}

impl ractor::Actor for RactorSupervisor {
    type Msg = RactorOrder;
    type State = ActorRef<RactorOrder>;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<RactorOrder>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.child(me).await
    }

    async fn handle(
        &self,
        _: ActorRef<RactorOrder>,
        order: RactorOrder,
        child: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(child.cast(order)?)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RactorOrder>,
        event: SupervisionEvent,
        child: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(..) = event {
            *child = self.child(me).await?;
            child.cast(RactorOrder(Order::Probe))?;
        }
        Ok(())
    }
}

struct RactorPatient {
    supervisor: ActorRef<RactorOrder>,
    latencies: mpsc::Receiver<Duration>,
}

impl Patient for RactorPatient {
    async fn strike(&mut self) {
        let poison = RactorOrder(Order::Poison);
        self.supervisor.cast(poison).expect("the supervisor runs");
    }

    async fn latency(&mut self) -> Duration {
        self.latencies.recv().await.expect("the child restarts")
    }

    async fn end(self) {
        let stopped = self.supervisor.stop_and_wait(None, None).await;
        stopped.expect("the supervisor runs");
    }
}

async fn ractor_supervised() -> impl Patient {
    let (clock, latencies) = Clock::new();
    let (supervisor, _) = RactorSupervisor::spawn(None, RactorSupervisor(clock), ())
        .await
        .expect("it starts");
    RactorPatient {
        supervisor,
        latencies,
    }
}

struct KameoChild(Arc<Clock>);

impl kameo::Actor for KameoChild {
    type Args = Arc<Clock>;
    type Error = kameo::error::Infallible;

    async fn on_start(clock: Arc<Clock>, _: KameoRef<Self>) -> Result<Self, Self::Error> {
        Ok(KameoChild(clock))
    }
}

impl Message<Order> for KameoChild {
    type Reply = ();

    async fn handle(&mut self, order: Order, _: &mut Context<Self, ()>) {
        match order {
            Order::Probe => self.0.handle(),
            Order::Poison => {
                self.0.strike();
                std::panic::panic_any(POISON)
            }
        }
    }
}

struct KameoSupervisor;

impl kameo::Actor for KameoSupervisor {
    type Args = ();
    type Error = kameo::error::Infallible;

    async fn on_start((): (), _: KameoRef<Self>) -> Result<Self, Self::Error> {
        Ok(KameoSupervisor)
    }
}

struct KameoPatient {
    supervisor: KameoRef<KameoSupervisor>,
    child: KameoRef<KameoChild>,
    latencies: mpsc::Receiver<Duration>,
}

impl Patient for KameoPatient {
    async fn strike(&mut self) {
        for order in [Order::Poison, Order::Probe] {
            self.child.tell(order).await.expect("the mailbox is kept");
        }
    }

    async fn latency(&mut self) -> Duration {
        let waited = tokio::time::timeout(Duration::from_secs(5), self.latencies.recv());
        let latency = waited.await.expect("kameo lost an accepted tell");
        latency.expect("the child restarts")
    }

    async fn end(self) {
        self.supervisor.stop_gracefully().await.expect("it runs");
        self.supervisor.wait_for_shutdown().await;
    }
}

async fn kameo_supervised() -> impl Patient {
    let (clock, mut latencies) = Clock::new();
    let supervisor = KameoSupervisor::spawn(());
    let child = KameoChild::supervise(&supervisor, clock)
        .restart_limit(u32::MAX, Duration::from_secs(1))
        .spawn()
        .await;
    // A tell that is accepted before the child runs can be lost when an earlier one makes it panic.
    child.tell(Order::Probe).await.expect("it runs");
    latencies.recv().await.expect("it runs");
    KameoPatient {
        supervisor,
        child,
        latencies,
    }
}
