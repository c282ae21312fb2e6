//! What is to be supervised and how: [`Child`] and [`Group`].

use super::backoff::Backoff;
use super::context::ChildContext;
use super::exit::{BoxError, Outcome, OutcomeFuture};
use super::intensity::Intensity;
use super::machine::Blueprint;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An async task.
    Task,
    /// An operating system thread.
    Thread,
    /// A process of the operating system.
    Process,
    /// Children that share a restart strategy and a budget.
    Group,
}

impl Kind {
    /// The word for it in logs, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Task => "task",
            Kind::Thread => "thread",
            Kind::Process => "process",
            Kind::Group => "group",
        }
    }
}

/// When a child that ended is started again (OTP's restart types). Complete: these are all there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// After a failure; `Ok` means it is done.
    #[default]
    Transient,
    /// Always; returning `Ok` is a failure like any other.
    Permanent,
    /// Never.
    Temporary,
}

/// Who shares the fate of a failed member of a group (OTP's strategies). Complete, as OTP's are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody: only the failed member restarts.
    #[default]
    OneForOne,
    /// All members stop in reverse start order and start again.
    OneForAll,
    /// The failed member and those declared after it. Each member also starts after the one before it.
    RestForOne,
}

/// What happens when the restart budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exhausted {
    /// Quarantine with a trial after 30 s, then doubling to 5 min. Default for children of the root.
    HalfOpen,
    /// Quarantine until a human releases it.
    Hold,
    /// The group fails as a whole and its parent decides, as in OTP; at the root the kernel shuts down.
    /// Default for members of a group.
    Escalate,
    /// The kernel shuts down in order and the process exits with 1.
    Shutdown,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) restart: Restart,
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Option<Intensity>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) optional: bool,
    pub(crate) exhausted: Option<Exhausted>,
}

/// Two ranks of children that ignore their stop token fit into the default drain of 5 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for Policy {
    fn default() -> Self {
        Policy {
            restart: Restart::default(),
            strategy: Strategy::default(),
            intensity: None,
            backoff: None,
            start_timeout: None,
            stop_timeout: STOP_TIMEOUT,
            heartbeat: None,
            optional: false,
            exhausted: None,
        }
    }
}

pub(crate) type ChildFuture = Pin<Box<dyn OutcomeFuture>>;

/// The body of a child; called once per incarnation.
#[derive(Clone)]
pub(crate) enum Body {
    Task(Arc<dyn Fn(ChildContext) -> ChildFuture + Send + Sync>),
    Thread(Arc<dyn Fn(ChildContext) -> Result<(), BoxError> + Send + Sync>),
    Group,
}

/// A child to supervise: an async task, a thread or a process, with its restart policy.
///
/// ```
/// use ron_kernel::supervisor::{Child, ChildContext, Restart};
/// use std::time::Duration;
///
/// async fn ingest(cx: ChildContext, url: String) -> std::io::Result<()> {
///     let _ = url;
///     cx.stopping().await;
///     Ok(())
/// }
///
/// let child = Child::task_with("ingest", "tcp://127.0.0.1:7000".to_owned(), ingest)
///     .restart(Restart::Permanent)
///     .after("db")
///     .stop_timeout(Duration::from_secs(1));
/// assert_eq!(child.name(), "ingest");
/// ```
#[derive(Clone)]
pub struct Child {
    name: String,
    kind: Kind,
    policy: Policy,
    after: Vec<String>,
    body: Body,
}

impl Child {
    /// An async task; `body` is called for each incarnation with a fresh context.
    ///
    /// `name` is unique among its siblings: 1 to 128 of `A-Z a-z 0-9 . _ -`; it is checked when the
    /// kernel is built.
    pub fn task<F, Fut>(name: impl Into<String>, body: F) -> Child
    where
        F: Fn(ChildContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let body = move |cx| -> ChildFuture { Box::pin(body(cx)) };
        Child::new(name.into(), Kind::Task, Body::Task(Arc::new(body)))
    }

    /// An async task that gets its own clone of `arg` in each incarnation; takes a plain `async fn`.
    pub fn task_with<A, F, Fut>(name: impl Into<String>, arg: A, body: F) -> Child
    where
        A: Clone + Send + Sync + 'static,
        F: Fn(ChildContext, A) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        Child::task(name, move |cx| body(cx, arg.clone()))
    }

    /// A thread of its own, for code that blocks. It must watch [`ChildContext::is_stopping`] or wait with
    /// [`ChildContext::wait_stopping`]: a thread cannot be aborted, and one that ignores the stop is
    /// reported Stuck, then Leaked, and never duplicated.
    pub fn thread<F, O>(name: impl Into<String>, body: F) -> Child
    where
        F: Fn(ChildContext) -> O + Send + Sync + 'static,
        O: Outcome,
    {
        let body = move |cx| body(cx).into_result();
        Child::new(name.into(), Kind::Thread, Body::Thread(Arc::new(body)))
    }

    /// A process; the program is started anew in each incarnation. It is [gated](Self::gated) with 10 s unless
    /// told otherwise. See [`process`](crate::process) for what it gets and how it ends.
    #[cfg(feature = "process")]
    pub fn process(name: impl Into<String>, command: crate::process::Command) -> Child {
        let body = move |cx| -> ChildFuture { Box::pin(crate::process::run(cx, command.clone())) };
        let child = Child::new(name.into(), Kind::Process, Body::Task(Arc::new(body)));
        child.gated(crate::process::START_TIMEOUT)
    }

    fn new(name: String, kind: Kind, body: Body) -> Child {
        Child {
            name,
            kind,
            policy: Policy::default(),
            after: Vec::new(),
            body,
        }
    }

    /// The name among its siblings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ready only when it calls [`ChildContext::ready`]; if it has not within `start_timeout`, that is a
    /// failure. Without this a child is ready when its first poll has returned.
    pub fn gated(mut self, start_timeout: Duration) -> Child {
        self.policy.start_timeout = Some(start_timeout);
        self
    }

    /// Must call [`ChildContext::heartbeat`] at least once per `interval` or ends as
    /// [`Exit::TimedOut`](super::Exit). The clock stands still while another child holds a worker. A process says
    /// `WATCHDOG=1` as sd_notify(3) does, or answers its health probe.
    pub fn watchdog(mut self, interval: Duration) -> Child {
        self.policy.heartbeat = Some(interval);
        self
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Children that restart together, under one budget.
///
/// Every restart of a member is charged to the group (5 in 60 s by default). When the budget is spent the
/// whole group stops and fails at its parent, which restarts the group under its own rules: OTP's
/// escalation. Groups nest.
///
/// ```
/// use ron_kernel::supervisor::{Child, Group, Strategy};
///
/// let group = Group::new("ingest")
///     .strategy(Strategy::RestForOne)
///     .child(Child::task("connect", |cx| async move { cx.stopping().await }))
///     .child(Child::task("decode", |cx| async move { cx.stopping().await }));
/// assert_eq!(group.name(), "ingest");
/// ```
#[derive(Clone)]
pub struct Group {
    name: String,
    policy: Policy,
    after: Vec<String>,
    members: Vec<Spec>,
}

/// A child or a group. Complete: a tree has no third kind of node.
#[derive(Clone, Debug)]
pub enum Spec {
    /// One child.
    Child(Child),
    /// A group with its members.
    Group(Group),
}

impl Group {
    /// An empty group. `name` obeys the rules of child names.
    pub fn new(name: impl Into<String>) -> Group {
        Group {
            name: name.into(),
            policy: Policy::default(),
            after: Vec::new(),
            members: Vec::new(),
        }
    }

    /// The name among its siblings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a member; the order matters under [`Strategy::RestForOne`].
    pub fn child(mut self, child: Child) -> Group {
        self.members.push(Spec::Child(child));
        self
    }

    /// Adds a group as a member.
    pub fn group(mut self, group: Group) -> Group {
        self.members.push(Spec::Group(group));
        self
    }

    /// The budget of its members together; default as for children of the root. How often the group itself
    /// may be restarted is its parent's to say: the configuration's budget at the root, the budget of the
    /// enclosing group elsewhere.
    pub fn intensity(mut self, intensity: Intensity) -> Group {
        self.policy.intensity = Some(intensity);
        self
    }

    /// Whose fate is shared; default [`Strategy::OneForOne`].
    pub fn strategy(mut self, strategy: Strategy) -> Group {
        self.policy.strategy = strategy;
        self
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

macro_rules! shared_options {
    ($type:ident) => {
        impl $type {
            /// The delay before restarts; default from the configuration (100 ms to 30 s).
            pub fn backoff(mut self, backoff: Backoff) -> $type {
                self.policy.backoff = Some(backoff);
                self
            }

            /// Starts after `name` is ready and stops before it stops. Order only: it keeps running when
            /// `name` fails later. Each start waits, a restart included: what needs `name` to start needs it
            /// to start again. `name` is a sibling, something beside an enclosing group, or a full id.
            pub fn after(mut self, name: impl Into<String>) -> $type {
                self.after.push(name.into());
                self
            }

            /// May stay down: quarantine or a stop only degrades readiness, and what comes after it starts
            /// without it.
            pub fn optional(mut self) -> $type {
                self.policy.optional = true;
                self
            }

            /// What happens when the restart budget is spent; see [`Exhausted`] for the defaults.
            pub fn on_exhausted(mut self, exhausted: Exhausted) -> $type {
                self.policy.exhausted = Some(exhausted);
                self
            }
        }
    };
}

shared_options!(Child);
shared_options!(Group);

impl Child {
    /// When it is started again after it ended; default [`Restart::Transient`].
    pub fn restart(mut self, restart: Restart) -> Child {
        self.policy.restart = restart;
        self
    }

    /// Its own restart budget. Default for children of the root: `supervisor.restart_cap` in
    /// `supervisor.restart_window` of the configuration (5 in 60 s). A member of a group has none unless
    /// it is given here; its restarts are charged to the group either way.
    pub fn intensity(mut self, intensity: Intensity) -> Child {
        self.policy.intensity = Some(intensity);
        self
    }

    /// How long it may take to end after its stop token is set before it is aborted; default 2 s. Never
    /// longer than what is left of the drain.
    pub fn stop_timeout(mut self, timeout: Duration) -> Child {
        self.policy.stop_timeout = timeout;
        self
    }
}

impl Spec {
    /// Splits into what the transition function knows and the bodies, each group before its members.
    pub(crate) fn split(self, bodies: &mut Vec<Body>) -> Blueprint {
        match self {
            Spec::Child(child) => {
                bodies.push(child.body);
                Blueprint {
                    name: child.name,
                    kind: child.kind,
                    policy: child.policy,
                    after: child.after,
                    members: Vec::new(),
                }
            }
            Spec::Group(group) => {
                bodies.push(Body::Group);
                let members = group
                    .members
                    .into_iter()
                    .map(|member| member.split(bodies))
                    .collect();
                Blueprint {
                    name: group.name,
                    kind: Kind::Group,
                    policy: group.policy,
                    after: group.after,
                    members,
                }
            }
        }
    }
}

impl From<Child> for Spec {
    fn from(child: Child) -> Spec {
        Spec::Child(child)
    }
}

impl From<Group> for Spec {
    fn from(group: Group) -> Spec {
        Spec::Group(group)
    }
}
