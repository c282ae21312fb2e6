//! Start order, reverse stop order, and the trees that are refused: `after` over random graphs of
//! children and groups, against a model that knows nothing but the declared edges.

use proptest::prelude::*;
use proptest::sample::Index;
use ron_kernel::supervisor::{Child, Group, Spec, Strategy as Fate, TreeError};
use ron_kernel::{Kernel, KernelBuilder, KernelError, ShutdownReport};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// What one child did, by the index of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Started(usize),
    Ready(usize),
    ToldToStop(usize),
    Ended(usize),
}

#[derive(Clone, Debug)]
struct Node {
    /// A group with its strategy, or a child.
    group: Option<Fate>,
    parent: Option<usize>,
    after: Vec<usize>,
    start_ms: u64,
    stop_ms: u64,
}

#[derive(Clone, Debug)]
struct Plan(Vec<Node>);

fn plans() -> impl Strategy<Value = Plan> {
    let node = (
        0..8_u8,
        any::<Index>(),
        prop::collection::vec((any::<Index>(), 0..12_u8), 0..3),
        0..20_u64,
        0..20_u64,
    );
    prop::collection::vec(node, 1..=12).prop_map(|raw| {
        let mut nodes: Vec<Node> = Vec::new();
        for (index, (kind, parent, edges, start_ms, stop_ms)) in raw.iter().enumerate() {
            let groups: Vec<usize> = (0..index)
                .filter(|node| nodes[*node].group.is_some())
                .collect();
            let place = parent.index(groups.len() + 1);
            let group = match kind {
                0 => Some(Fate::OneForOne),
                1 => Some(Fate::OneForAll),
                2 => Some(Fate::RestForOne),
                _ => None,
            };
            // Nearly all edges point back, so that most plans have an order and some have none.
            let after = edges
                .iter()
                .filter(|(_, any)| *any == 0 || index > 0)
                .map(|(to, any)| {
                    if *any == 0 {
                        to.index(raw.len())
                    } else {
                        to.index(index)
                    }
                })
                .collect();
            let parent = groups.get(place).copied();
            nodes.push(Node {
                group,
                parent,
                after,
                start_ms: *start_ms,
                stop_ms: *stop_ms,
            });
        }
        // A group that got no members is a child.
        for index in 0..nodes.len() {
            if !nodes.iter().any(|node| node.parent == Some(index)) {
                nodes[index].group = None;
            }
        }
        Plan(nodes)
    })
}

impl Plan {
    fn id(&self, node: usize) -> String {
        match self.0[node].parent {
            Some(parent) => format!("{}/n{node}", self.id(parent)),
            None => format!("n{node}"),
        }
    }

    fn members(&self, parent: Option<usize>) -> Vec<usize> {
        (0..self.0.len())
            .filter(|node| self.0[*node].parent == parent)
            .collect()
    }

    /// `before[p][q]`: point p comes before point q; node n starts at point 2n and is ready at 2n + 1.
    fn before(&self) -> Vec<Vec<bool>> {
        let (start, ready) = (|node: usize| 2 * node, |node: usize| 2 * node + 1);
        let mut before = vec![vec![false; 2 * self.0.len()]; 2 * self.0.len()];
        for (index, node) in self.0.iter().enumerate() {
            before[start(index)][ready(index)] = true;
            for target in &node.after {
                before[ready(*target)][start(index)] = true;
            }
            if let Some(parent) = node.parent {
                before[start(parent)][start(index)] = true;
                before[ready(index)][ready(parent)] = true;
            }
            if node.group == Some(Fate::RestForOne) {
                for pair in self.members(Some(index)).windows(2) {
                    before[ready(pair[0])][start(pair[1])] = true;
                }
            }
        }
        for via in 0..before.len() {
            for from in 0..before.len() {
                if before[from][via] {
                    let beyond = before[via].clone();
                    for (to, reached) in before[from].iter_mut().zip(beyond) {
                        *to |= reached;
                    }
                }
            }
        }
        before
    }

    /// Whether `a` may follow `b` directly on a cycle: an edge, a membership or a group's own order.
    fn related(&self, a: &str, b: &str) -> bool {
        let node = |id: &str| (0..self.0.len()).find(|node| self.id(*node) == id);
        let (Some(a), Some(b)) = (node(a), node(b)) else {
            return false;
        };
        let (left, right) = (&self.0[a], &self.0[b]);
        left.after.contains(&b)
            || left.parent == Some(b)
            || right.parent == Some(a)
            || (left.parent.is_some() && left.parent == right.parent)
    }

    fn builder(&self, steps: &Arc<Mutex<Vec<Step>>>) -> KernelBuilder {
        self.members(None)
            .into_iter()
            .fold(Kernel::builder().seed(7), |kernel, node| {
                match self.spec(node, steps) {
                    Spec::Child(child) => kernel.child(child),
                    Spec::Group(group) => kernel.group(group),
                }
            })
    }

    fn spec(&self, index: usize, steps: &Arc<Mutex<Vec<Step>>>) -> Spec {
        let node = &self.0[index];
        let after = node.after.iter().map(|target| self.id(*target));
        if let Some(strategy) = node.group {
            let mut group = Group::new(format!("n{index}")).strategy(strategy);
            for member in self.members(Some(index)) {
                group = match self.spec(member, steps) {
                    Spec::Child(child) => group.child(child),
                    Spec::Group(inner) => group.group(inner),
                };
            }
            return after.fold(group, Group::after).into();
        }
        let steps = steps.clone();
        let (start, stop) = (
            Duration::from_millis(node.start_ms),
            Duration::from_millis(node.stop_ms),
        );
        let child = Child::task(format!("n{index}"), move |cx| {
            let steps = steps.clone();
            async move {
                let log = |step| steps.lock().unwrap().push(step);
                log(Step::Started(index));
                tokio::time::sleep(start).await;
                log(Step::Ready(index));
                cx.ready();
                cx.stopping().await;
                log(Step::ToldToStop(index));
                tokio::time::sleep(stop).await;
                log(Step::Ended(index));
            }
        });
        after
            .fold(child.gated(Duration::from_secs(30)), Child::after)
            .into()
    }

    /// Builds, starts, waits for readiness, shuts down and compares with the model.
    fn check(&self, runtime: &Runtime) -> Result<(), TestCaseError> {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let before = self.before();
        let cyclic = (0..before.len()).any(|point| before[point][point]);
        let kernel = match self.builder(&steps).build() {
            Err(KernelError::Tree(TreeError::Cycle { path })) => {
                prop_assert!(cyclic, "refused a graph without a cycle: {:?}", path);
                prop_assert!(
                    path.len() >= 2 && path.first() == path.last(),
                    "no cycle: {:?}",
                    path
                );
                for pair in path.windows(2) {
                    prop_assert!(self.related(&pair[0], &pair[1]), "{:?} in {:?}", pair, path);
                }
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
            Ok(kernel) => kernel,
        };
        prop_assert!(!cyclic, "accepted a cycle");
        let report: ShutdownReport = runtime.block_on(async {
            let running = kernel.start().await.unwrap();
            let ready = tokio::time::timeout(Duration::from_secs(60), running.handle().ready());
            ready.await.expect("every child becomes ready");
            running.shutdown().await
        });
        let children: Vec<usize> = (0..self.0.len())
            .filter(|node| self.0[*node].group.is_none())
            .collect();
        prop_assert_eq!(report.stopped, children.len() as u64, "{:?}", report);
        prop_assert!(report.is_balanced());

        let steps = steps.lock().unwrap();
        prop_assert_eq!(
            steps.len(),
            4 * children.len(),
            "each step once: {:?}",
            steps
        );
        let at = |step: Step| {
            steps
                .iter()
                .position(|found| *found == step)
                .expect("happened")
        };
        for &first in &children {
            for &then in &children {
                if before[2 * first + 1][2 * then] {
                    prop_assert!(at(Step::Ready(first)) < at(Step::Started(then)));
                    prop_assert!(at(Step::Ended(then)) < at(Step::ToldToStop(first)));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn any_graph_starts_in_order_stops_in_reverse_or_is_refused_with_its_cycle(plan in plans()) {
        plan.check(&Builder::new_current_thread().enable_all().start_paused(true).build().unwrap())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn order_holds_on_several_workers_too(plan in plans()) {
        plan.check(&Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())?;
    }
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

fn refusal(builder: KernelBuilder) -> TreeError {
    match builder.build() {
        Err(KernelError::Tree(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn a_cycle_is_refused_with_the_names_on_it() {
    let ring = Kernel::builder()
        .child(idle("a").after("c"))
        .child(idle("b").after("a"))
        .child(idle("c").after("b"))
        .child(idle("innocent"));
    let error = refusal(ring);
    let text = error.to_string();
    let TreeError::Cycle { path } = error else {
        panic!("{error}")
    };
    assert_eq!(path.len(), 4);
    for name in ["a", "b", "c"] {
        assert!(path.iter().any(|id| id == name), "{path:?}");
    }
    assert!(
        text.contains(" -> ") && !text.contains("innocent"),
        "{text}"
    );

    let oneself = refusal(Kernel::builder().child(idle("a").after("a")));
    assert_eq!(
        oneself,
        TreeError::Cycle {
            path: vec!["a".into(), "a".into()]
        }
    );

    // Through a group: the group waits for x, x waits for a member of the group.
    let group = Group::new("g").child(idle("m")).after("x");
    let error = refusal(Kernel::builder().group(group).child(idle("x").after("g/m")));
    assert!(
        matches!(&error, TreeError::Cycle { path } if path.iter().any(|id| id == "x")),
        "{error}"
    );
}

#[test]
fn duplicate_unknown_and_illegal_names_are_refused_and_named() {
    let duplicate = refusal(Kernel::builder().child(idle("db")).child(idle("db")));
    assert_eq!(duplicate, TreeError::Duplicate { id: "db".into() });
    let group = Group::new("db").child(idle("x"));
    let duplicate = refusal(Kernel::builder().child(idle("db")).group(group));
    assert_eq!(duplicate, TreeError::Duplicate { id: "db".into() });
    let group = Group::new("g").child(idle("x")).child(idle("x"));
    assert_eq!(
        refusal(Kernel::builder().group(group)),
        TreeError::Duplicate { id: "g/x".into() }
    );

    let unknown = refusal(
        Kernel::builder()
            .child(idle("web").after("bd"))
            .child(idle("db")),
    );
    let TreeError::UnknownDependency {
        child,
        after,
        known,
    } = &unknown
    else {
        panic!("{unknown}")
    };
    assert_eq!((child.as_str(), after.as_str()), ("web", "bd"));
    assert!(known.contains("db"), "says what would be right: {known}");

    let long = "x".repeat(129);
    for name in ["", "a/b", "a b", "naïve", "a\n", "\"", long.as_str()] {
        let refused = refusal(Kernel::builder().child(idle(name)));
        assert_eq!(
            refused,
            TreeError::BadName {
                name: name.to_owned()
            }
        );
        let refused = refusal(Kernel::builder().group(Group::new(name)));
        assert_eq!(
            refused,
            TreeError::BadName {
                name: name.to_owned()
            }
        );
    }
    let limit = "x".repeat(128);
    for name in ["a", "A.b_c-9", limit.as_str()] {
        assert!(
            Kernel::builder().child(idle(name)).build().is_ok(),
            "{name}"
        );
    }
}

#[test]
fn the_same_name_in_two_groups_is_two_children() {
    let left = Group::new("left").child(idle("worker"));
    let right = Group::new("right").child(idle("worker").after("left/worker"));
    assert!(Kernel::builder().group(left).group(right).build().is_ok());
}

/// A child that logs its name when it starts and is ready after `delay`.
fn logged(name: &str, log: &Arc<Mutex<Vec<String>>>, delay: Duration) -> Child {
    let log = log.clone();
    Child::task(name, move |cx| {
        let log = log.clone();
        async move {
            log.lock().unwrap().push(cx.id().to_owned());
            tokio::time::sleep(delay).await;
            cx.ready();
            cx.stopping().await;
        }
    })
    .gated(Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn after_finds_siblings_first_then_what_is_beside_the_groups_around() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let slow = Duration::from_secs(1);
    let inner =
        Group::new("inner").child(logged("m", &log, Duration::ZERO).after("near").after("db"));
    let outer = Group::new("outer")
        .group(inner)
        // Shadows the child of the root for everything inside `outer`.
        .child(logged("db", &log, slow))
        .child(logged("near", &log, Duration::ZERO));
    let kernel = Kernel::builder()
        .group(outer)
        .child(logged("db", &log, Duration::from_secs(30)));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = log.lock().unwrap().clone();
    assert_eq!(started.last().unwrap(), "outer/inner/m", "{started:?}");
    assert_eq!(
        started.len(),
        4,
        "the nearest `db` counts, not the slow one of the root: {started:?}"
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_starter_holds_back_only_what_comes_after_it() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let kernel = Kernel::builder()
        .child(logged("slow", &log, Duration::from_secs(40)))
        .child(logged("waits", &log, Duration::ZERO).after("slow"))
        .child(logged("free", &log, Duration::ZERO));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut started = log.lock().unwrap().clone();
    started.sort();
    assert_eq!(started, ["free", "slow"]);
    let explained = running.handle().explain("waits").unwrap();
    assert_eq!(explained.state, "waiting");
    assert!(explained.because[0].what.contains("slow"), "{explained:?}");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(log.lock().unwrap().last().unwrap(), "waits");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn order_is_only_order_a_dependant_keeps_running_when_its_dependency_crashes() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let crashing = log.clone();
    let db = Child::task("db", move |cx| {
        let log = crashing.clone();
        async move {
            log.lock().unwrap().push(format!("db {}", cx.generation()));
            if cx.generation() == 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Err("lost");
            }
            cx.stopping().await;
            Ok(())
        }
    });
    let kernel = Kernel::builder()
        .child(db)
        .child(logged("web", &log, Duration::ZERO).after("db"));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*log.lock().unwrap(), ["db 1", "web", "db 2"]);
    running.shutdown().await;
}
