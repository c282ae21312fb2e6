//! 10,000 children: started until each has run, their bytes, and drained.
//!
//! Every child counts itself in its first user code and then waits to be told to stop. The work runs as
//! a task on a runtime of two workers that is made before the clock starts. Bytes are counted in a pass of
//! their own: what the allocator was asked for and not given back, from before the first child to all
//! running, divided by their number.

use crate::harness::{Goal, Group};
use crate::memory;
use crate::otp::Otp;
use kameo::actor::{ActorRef as KameoRef, Spawn};
use ractor::{Actor as _, ActorProcessingErr, ActorRef};
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, Running as RunningKernel};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{watch, Notify};
use tokio::task::JoinSet;

pub const NAMES: &[&str] = &["children"];

const CHILDREN: usize = 10_000;

pub fn groups() -> Vec<Group> {
    let mut group = Group::new(
        "children",
        "10,000 children under one supervisor, 2 workers",
        "tokio JoinSet",
    )
    .measure("start until each has run", "ms")
    .measure("live bytes of a child", "B")
    .measure("drain", "ms")
    .case("ron-kernel, builder + start", || measure(built))
    .case("ron-kernel, handle.start", || measure(added))
    .case("tokio JoinSet", || measure(join_set))
    .case("ractor spawn_linked", || measure(ractor_children))
    .case("kameo supervise", || measure(kameo_children))
    .difference(
        "ron-kernel, builder + start, less JoinSet",
        "ron-kernel, builder + start",
        "tokio JoinSet",
    )
    .goal(
        "start until each has run",
        "ron-kernel, builder + start",
        Goal::AtMost(30.0),
    )
    .goal(
        "start until each has run",
        "ron-kernel, handle.start",
        Goal::AtMost(30.0),
    )
    .goal(
        "live bytes of a child",
        "ron-kernel, builder + start",
        Goal::AtMost(1000.0),
    )
    .goal(
        "live bytes of a child",
        "ron-kernel, handle.start",
        Goal::AtMost(1000.0),
    )
    .goal("drain", "ron-kernel, builder + start", Goal::AtMost(100.0))
    .goal("drain", "ron-kernel, handle.start", Goal::AtMost(100.0))
    .note(
        "ron's bytes hold everything: the tokio task with the child's boxed future (a context and a wait for the stop), \
         name, policy, body, stop token, the node of the state machine and its timer, and what is kept of its first \
         events on the bus, with the spare capacity of the tables and queues they are in. OTP's bytes are `erlang:memory(processes)`. The supervisors \
         of ron, OTP and kameo restart their children; JoinSet and ractor leave that to more code.",
    );
    if let Some(otp) = Otp::compile() {
        group = group.case("OTP one_for_one", move || otp.run("children", CHILDREN));
    }
    vec![group]
}

/// Children that run, and how to end them all.
trait Fleet: Send + 'static {
    fn drain(self) -> impl Future<Output = ()> + Send;
}

/// Counts the children that have run.
struct Muster {
    running: AtomicUsize,
    all: Notify,
}

impl Muster {
    fn new() -> Arc<Muster> {
        Arc::new(Muster {
            running: AtomicUsize::new(0),
            all: Notify::new(),
        })
    }

    fn present(&self) {
        if self.running.fetch_add(1, Ordering::AcqRel) + 1 == CHILDREN {
            self.all.notify_one();
        }
    }
}

fn measure<F, Made>(make: fn() -> Made) -> Vec<f64>
where
    F: Fleet,
    Made: Future<Output = F> + Send + 'static,
{
    let (start, drain) = on_a_worker(async move {
        let began = Instant::now();
        let fleet = make().await;
        let start = began.elapsed();
        let began = Instant::now();
        fleet.drain().await;
        (start, began.elapsed())
    });
    let bytes = on_a_worker(async move {
        memory::start_counting();
        let fleet = make().await;
        let bytes = memory::stop_counting();
        fleet.drain().await;
        bytes
    });
    vec![
        start.as_secs_f64() * 1e3,
        bytes / CHILDREN as f64,
        drain.as_secs_f64() * 1e3,
    ]
}

fn on_a_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::spawn(work).await.expect("it does not panic") })
}

fn child(index: usize, muster: &Arc<Muster>) -> Child {
    async fn body(cx: ChildContext, muster: Arc<Muster>) {
        muster.present();
        cx.stopping().await;
    }
    Child::task_with(format!("child-{index}"), Arc::clone(muster), body)
}

impl Fleet for RunningKernel {
    async fn drain(self) {
        let report = self.shutdown().await;
        assert_eq!((report.started, report.stopped), (10_000, 10_000));
    }
}

async fn built() -> RunningKernel {
    let muster = Muster::new();
    let children = (0..CHILDREN).map(|index| child(index, &muster));
    let builder = children.fold(Kernel::builder(), ron_kernel::KernelBuilder::child);
    let kernel = builder.build().expect("a tree");
    let running = kernel.start().await.expect("a runtime");
    muster.all.notified().await;
    running.handle().ready().await;
    running
}

async fn added() -> RunningKernel {
    let muster = Muster::new();
    let kernel = Kernel::builder().build().expect("a tree");
    let running = kernel.start().await.expect("a runtime");
    for index in 0..CHILDREN {
        let child = child(index, &muster);
        running.handle().start(child).expect("a free name");
    }
    muster.all.notified().await;
    running
}

struct Tasks {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Fleet for Tasks {
    async fn drain(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn join_set() -> Tasks {
    let muster = Muster::new();
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for _ in 0..CHILDREN {
        let (muster, mut stopping) = (Arc::clone(&muster), stopping.clone());
        tasks.spawn(async move {
            muster.present();
            drop(muster);
            let _ = stopping.changed().await;
        });
    }
    muster.all.notified().await;
    Tasks { tasks, stop }
}

struct RactorChild(Arc<Muster>);

impl ractor::Actor for RactorChild {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        self.0.present();
        Ok(())
    }
}

struct RactorSupervisor;

impl ractor::Actor for RactorSupervisor {
    type Msg = ();
    type State = ();
    type Arguments = Arc<Muster>;

    async fn pre_start(
        &self,
        me: ActorRef<()>,
        muster: Arc<Muster>,
    ) -> Result<(), ActorProcessingErr> {
        for _ in 0..CHILDREN {
            let child = RactorChild(Arc::clone(&muster));
            RactorChild::spawn_linked(None, child, (), me.get_cell()).await?;
        }
        Ok(())
    }
}

struct RactorFleet(ActorRef<()>);

impl Fleet for RactorFleet {
    async fn drain(self) {
        self.0.stop_children_and_wait(None, None).await;
        // It may have ended by itself, as ractor's supervisors do when a child of theirs ends.
        let _ = self.0.stop_and_wait(None, None).await;
    }
}

async fn ractor_children() -> RactorFleet {
    let muster = Muster::new();
    let made = RactorSupervisor::spawn(None, RactorSupervisor, Arc::clone(&muster)).await;
    muster.all.notified().await;
    RactorFleet(made.expect("it starts").0)
}

struct KameoChild;

impl kameo::Actor for KameoChild {
    type Args = Arc<Muster>;
    type Error = kameo::error::Infallible;

    async fn on_start(muster: Arc<Muster>, _: KameoRef<Self>) -> Result<Self, Self::Error> {
        muster.present();
        Ok(KameoChild)
    }
}

struct KameoSupervisor;

impl kameo::Actor for KameoSupervisor {
    type Args = Arc<Muster>;
    type Error = kameo::error::Infallible;

    async fn on_start(muster: Arc<Muster>, me: KameoRef<Self>) -> Result<Self, Self::Error> {
        for _ in 0..CHILDREN {
            KameoChild::supervise(&me, Arc::clone(&muster))
                .spawn()
                .await;
        }
        Ok(KameoSupervisor)
    }
}

struct KameoFleet(KameoRef<KameoSupervisor>);

impl Fleet for KameoFleet {
    async fn drain(self) {
        self.0.stop_gracefully().await.expect("it runs");
        self.0.wait_for_shutdown().await;
    }
}

async fn kameo_children() -> KameoFleet {
    let muster = Muster::new();
    let supervisor = KameoSupervisor::spawn(Arc::clone(&muster));
    muster.all.notified().await;
    KameoFleet(supervisor)
}
