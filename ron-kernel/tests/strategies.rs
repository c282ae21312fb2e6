//! Who restarts with whom: the strategies of groups, their shared budget, and escalation as in OTP.

use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity, Strategy};
use ron_kernel::{Change, ChildEvent, Kernel, Running, TreeNode, LIFECYCLE_TOPIC};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Children that log `+id` when they start, `-id` when told to stop, `!id` when told to crash.
#[derive(Clone, Default)]
struct Lab {
    log: Arc<Mutex<Vec<String>>>,
    triggers: Arc<Mutex<BTreeMap<String, Arc<Notify>>>>,
}

impl Lab {
    fn child(&self, name: &str) -> Child {
        let lab = self.clone();
        Child::task(name, move |cx| {
            let lab = lab.clone();
            async move {
                let trigger = lab.trigger(cx.id());
                lab.write('+', cx.id());
                tokio::select! {
                    () = cx.stopping() => lab.write('-', cx.id()),
                    () = trigger.notified() => {
                        lab.write('!', cx.id());
                        return Err("told to crash");
                    }
                }
                Ok(())
            }
        })
        .backoff(Backoff::NONE)
    }

    fn trigger(&self, id: &str) -> Arc<Notify> {
        self.triggers
            .lock()
            .unwrap()
            .entry(id.to_owned())
            .or_default()
            .clone()
    }

    fn write(&self, sign: char, id: &str) {
        self.log.lock().unwrap().push(format!("{sign}{id}"));
    }

    /// What was logged since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Crashes a child and returns what came of it.
    async fn crash(&self, id: &str) -> Vec<String> {
        self.trigger(id).notify_one();
        settle().await;
        self.take()
    }
}

/// Long enough for restarts without backoff, too short for any other timer.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn start(group: Group) -> Running {
    Kernel::builder()
        .seed(3)
        .group(group)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap()
}

fn find(nodes: &[TreeNode], id: &str) -> Option<TreeNode> {
    nodes.iter().find_map(|node| {
        if node.id == id {
            Some(node.clone())
        } else {
            find(&node.children, id)
        }
    })
}

fn node(running: &Running, id: &str) -> TreeNode {
    find(&running.handle().tree(), id).unwrap_or_else(|| panic!("no {id}"))
}

fn sorted(mut log: Vec<String>) -> Vec<String> {
    log.sort();
    log
}

#[tokio::test(start_paused = true)]
async fn one_for_one_restarts_the_failed_member_only() {
    let lab = Lab::default();
    let group = Group::new("g")
        .child(lab.child("a"))
        .child(lab.child("b"))
        .child(lab.child("c"));
    let running = start(group).await;
    settle().await;
    assert_eq!(sorted(lab.take()), ["+g/a", "+g/b", "+g/c"]);
    assert_eq!(lab.crash("g/b").await, ["!g/b", "+g/b"]);
    assert_eq!(node(&running, "g").state, "ready");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_stops_in_reverse_order_and_starts_in_order() {
    let lab = Lab::default();
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(lab.child("a"))
        .child(lab.child("b").after("a"))
        .child(lab.child("c").after("b"))
        .child(lab.child("d").after("c"));
    let running = start(group).await;
    settle().await;
    assert_eq!(lab.take(), ["+g/a", "+g/b", "+g/c", "+g/d"]);
    assert_eq!(
        lab.crash("g/b").await,
        ["!g/b", "-g/d", "-g/c", "-g/a", "+g/a", "+g/b", "+g/c", "+g/d"]
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_waits_for_every_old_incarnation_before_the_first_new_one() {
    let lab = Lab::default();
    let log = lab.clone();
    let slow = Child::task("slow", move |cx| {
        let lab = log.clone();
        async move {
            lab.write('+', cx.id());
            cx.stopping().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            lab.write('-', cx.id());
        }
    });
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(slow)
        .child(lab.child("b"));
    let running = start(group).await;
    settle().await;
    lab.take();
    assert_eq!(
        lab.crash("g/b").await,
        ["!g/b"],
        "nothing starts while `slow` is stopping"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = lab.take();
    assert_eq!(log[0], "-g/slow");
    assert_eq!(sorted(log), ["+g/b", "+g/slow", "-g/slow"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_the_failed_member_and_those_after_it() {
    let lab = Lab::default();
    let group = Group::new("g")
        .strategy(Strategy::RestForOne)
        .child(lab.child("a"))
        .child(lab.child("b"))
        .child(lab.child("c"));
    let running = start(group).await;
    settle().await;
    assert_eq!(
        lab.take(),
        ["+g/a", "+g/b", "+g/c"],
        "each after the one before it"
    );
    assert_eq!(lab.crash("g/b").await, ["!g/b", "-g/c", "+g/b", "+g/c"]);
    assert_eq!(lab.crash("g/c").await, ["!g/c", "+g/c"]);
    assert_eq!(
        lab.crash("g/a").await,
        ["!g/a", "-g/c", "-g/b", "+g/a", "+g/b", "+g/c"]
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_an_operator_stopped_stays_down_in_a_joint_restart() {
    let lab = Lab::default();
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(lab.child("a"))
        .child(lab.child("b"));
    let running = start(group).await;
    settle().await;
    running.handle().stop("g/b").await.unwrap();
    lab.take();
    assert_eq!(lab.crash("g/a").await, ["!g/a", "+g/a"]);
    assert_eq!(node(&running, "g/b").state, "stopped");
    running.handle().restart("g/b").unwrap();
    settle().await;
    assert_eq!(lab.take(), ["+g/b"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_budget_is_spent_stops_as_a_whole_and_is_restarted_by_its_parent() {
    let lab = Lab::default();
    let budget = Intensity::new(2, Duration::from_secs(60)).unwrap();
    let group = Group::new("g")
        .intensity(budget)
        .backoff(Backoff::new(Duration::from_secs(10), Duration::from_secs(10)).unwrap())
        .child(lab.child("a"))
        .child(lab.child("b"));
    let running = Kernel::builder()
        .seed(1)
        .group(group)
        .child(lab.child("outside"));
    let running = running.build().unwrap().start().await.unwrap();
    let topic = running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap();
    let mut changes = topic.subscribe().unwrap();
    settle().await;
    lab.take();
    // The budget is the group's: crashes of different members add up.
    assert_eq!(lab.crash("g/a").await, ["!g/a", "+g/a"]);
    assert_eq!(lab.crash("g/b").await, ["!g/b", "+g/b"]);
    assert_eq!(
        lab.crash("g/a").await,
        ["!g/a", "-g/b"],
        "the third failure takes the group down"
    );
    let down = node(&running, "g");
    assert_eq!(down.state, "backoff", "{down:?}");
    assert!(
        down.cause.as_deref().unwrap_or_default().contains("g/a"),
        "names the member: {down:?}"
    );
    let mut escalated = false;
    while let Ok(Some(delivery)) = changes.try_recv() {
        escalated |= matches!(delivery.event.change, Change::Escalated { .. });
    }
    assert!(escalated, "the escalation is told");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(sorted(lab.take()), ["+g/a", "+g/b"]);
    assert_eq!(node(&running, "g").state, "ready");
    assert_eq!(
        lab.crash("g/b").await,
        ["!g/b", "+g/b"],
        "a restarted group has a fresh budget"
    );
    assert_eq!(node(&running, "outside").generation, 1);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_nested_group_escalates_to_the_group_around_it() {
    let lab = Lab::default();
    let once = Intensity::new(1, Duration::from_secs(60)).unwrap();
    let inner = Group::new("inner")
        .intensity(once)
        .backoff(Backoff::NONE)
        .child(lab.child("x"));
    let outer = Group::new("outer")
        .intensity(once)
        .backoff(Backoff::NONE)
        .strategy(Strategy::OneForAll)
        .group(inner)
        .child(lab.child("y"));
    let running = Kernel::builder().seed(1).group(outer).child(lab.child("z"));
    let running = running.build().unwrap().start().await.unwrap();
    settle().await;
    lab.take();
    let x = "outer/inner/x";
    assert_eq!(lab.crash(x).await, ["!outer/inner/x", "+outer/inner/x"]);
    // The inner budget is spent: the inner group fails, and the outer one restarts all.
    assert_eq!(
        sorted(lab.crash(x).await),
        ["!outer/inner/x", "+outer/inner/x", "+outer/y", "-outer/y"]
    );
    assert_eq!(
        lab.crash(x).await,
        ["!outer/inner/x", "+outer/inner/x"],
        "a fresh inner budget"
    );
    // Inner spent again, and the outer budget with it: the whole outer group fails at the root.
    assert_eq!(
        sorted(lab.crash(x).await),
        ["!outer/inner/x", "+outer/inner/x", "+outer/y", "-outer/y"]
    );
    assert_eq!(node(&running, "outer").restarts, 1, "restarted by the root");
    assert_eq!(node(&running, "z").generation, 1);
    assert_eq!(node(&running, "z").state, "ready");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_keeps_failing_is_quarantined_and_comes_back_by_release() {
    let lab = Lab::default();
    let none = Intensity::new(0, Duration::from_secs(60)).unwrap();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let flag = broken.clone();
    let sick = Child::task("sick", move |cx| {
        let broken = flag.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            if broken {
                return Err("no disk");
            }
            cx.stopping().await;
            Ok(())
        }
    });
    let group = Group::new("g")
        .intensity(none)
        .on_exhausted(Exhausted::Hold)
        .child(sick)
        .child(lab.child("mate"));
    let running = Kernel::builder().seed(1).group(group).child(lab.child("z"));
    let running = running.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let held = node(&running, "g");
    assert_eq!(held.state, "quarantined", "{held:?}");
    let starts = lab.take().iter().filter(|line| *line == "+g/mate").count();
    assert!(
        (1..=6).contains(&starts),
        "one start and at most five restarts, not {starts}"
    );
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(lab.take(), Vec::<String>::new(), "Hold waits for a human");
    assert_eq!(node(&running, "z").state, "ready");

    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    running.handle().release("g").unwrap();
    settle().await;
    assert_eq!(node(&running, "g").state, "ready");
    assert_eq!(lab.take(), ["+g/mate"]);
    let report = running.shutdown().await;
    assert!(report.is_balanced(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_group_with_on_exhausted_shutdown_ends_the_kernel() {
    let lab = Lab::default();
    let group = Group::new("g")
        .intensity(Intensity::new(0, Duration::from_secs(60)).unwrap())
        .backoff(Backoff::NONE)
        .on_exhausted(Exhausted::Shutdown)
        .child(Child::task("sick", |_| async { Err::<(), _>("no disk") }))
        .child(lab.child("mate"));
    let kernel = Kernel::builder()
        .seed(1)
        .group(group)
        .child(lab.child("z"))
        .build()
        .unwrap();
    let ended = tokio::time::timeout(
        Duration::from_secs(600),
        kernel.run_until(std::future::pending::<()>()),
    );
    let report = ended.await.expect("ends by itself").unwrap();
    assert!(report.is_balanced(), "{report:?}");
    let failure = report.failure.unwrap();
    assert!(
        failure.contains('g') && failure.contains("no disk"),
        "{failure}"
    );
    assert_eq!(
        lab.take().last().unwrap(),
        "-z",
        "orderly: the others were told to stop"
    );
}
