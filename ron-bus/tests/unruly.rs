//! Events, wakers and readers that misbehave at the worst moment, and who pays for it.

use std::cell::RefCell;
use std::future::{poll_fn, Future};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ron_bus::{
    Bus, BusConfig, Class, Classify, Overflow, RecvError, Start, Subscriber, Topic, TopicState,
};

fn bus() -> Bus {
    Bus::new(BusConfig::default()).unwrap()
}

fn topic<E: Clone + Send + Sync + 'static>(capacity: usize) -> Topic<E> {
    let spec_of = bus();
    spec_of.topic_spec("t").capacity(capacity).open().unwrap()
}

fn block<E>(topic: &Topic<E>, deadline: Duration) -> Subscriber<E>
where
    E: Clone + Send + Sync + 'static,
{
    let builder = topic.subscriber().overflow(Overflow::Block { deadline });
    builder.build().unwrap()
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

fn quietly_panic() -> ! {
    resume_unwind(Box::new("unruly"))
}

struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        quietly_panic()
    }
}

fn panicking_waker() -> Waker {
    Waker::from(Arc::new(PanickingWaker))
}

#[tokio::test(start_paused = true)]
async fn the_panicking_waker_of_a_publisher_costs_the_reader_that_makes_room_nothing() {
    let topic = topic::<u32>(2);
    let mut reader = block(&topic, Duration::MAX);
    topic.publish_many([1, 2]).unwrap();
    let mut waiting = Box::pin(topic.publish_wait(3));
    let waker = panicking_waker();
    assert!(waiting
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending());
    assert_eq!(reader.try_recv().unwrap().map(|d| d.event), Some(1));
    drop(waiting);
    assert_eq!(reader.try_recv().unwrap().map(|d| d.event), Some(2));
    let account = reader.account();
    assert_eq!((account.delivered, account.pending), (2, 0));
    topic.publish(9).unwrap();
    assert_eq!(reader.try_recv().unwrap().map(|d| d.event), Some(9));
}

struct Bomb;

impl Clone for Bomb {
    fn clone(&self) -> Self {
        Self
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        quietly_panic()
    }
}

#[test]
fn a_batch_that_displaces_two_events_whose_drop_panics_is_published_and_panics_once() {
    let topic = topic::<Bomb>(2);
    topic.publish_many([Bomb, Bomb]).unwrap();
    assert!(panics(|| topic.publish_many([Bomb, Bomb])));
    assert_eq!(topic.stats().seq, 4);
    // What lies in the ring would panic as well.
    std::mem::forget(topic);
}

thread_local! {
    static WHEN_CLONED: RefCell<Option<fn(&Hooked)>> = const { RefCell::new(None) };
}

struct Hooked {
    number: u32,
    topic: Topic<Hooked>,
    clones: Arc<AtomicUsize>,
}

impl Clone for Hooked {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        if let Some(hook) = WHEN_CLONED.with(|hook| hook.borrow_mut().take()) {
            hook(self);
            WHEN_CLONED.with(|place| *place.borrow_mut() = Some(hook));
        }
        Self {
            number: self.number,
            topic: self.topic.clone(),
            clones: Arc::clone(&self.clones),
        }
    }
}

#[test]
fn a_publish_ends_however_many_readers_come_and_go_while_it_makes_copies() {
    let topic = topic::<Hooked>(8);
    let reader = block(&topic, Duration::ZERO);
    let clones = Arc::new(AtomicUsize::new(0));
    WHEN_CLONED.with(|hook| {
        *hook.borrow_mut() = Some(|event: &Hooked| drop(block(&event.topic, Duration::ZERO)));
    });
    let event = Hooked {
        number: 1,
        topic: topic.clone(),
        clones: Arc::clone(&clones),
    };
    assert!(topic.publish(event).is_ok());
    WHEN_CLONED.with(|hook| hook.borrow_mut().take());
    assert_eq!(
        clones.load(Ordering::Relaxed),
        1,
        "nobody new is left to copy for"
    );
    assert_eq!(reader.account().pending, 1);
    assert!(topic.stats().total.is_balanced());
}

#[test]
fn readers_that_keep_coming_while_copies_are_made_are_told_what_they_lost() {
    thread_local! {
        static CAME: RefCell<Vec<Subscriber<Hooked>>> = const { RefCell::new(Vec::new()) };
    }
    let topic = topic::<Hooked>(8);
    let first = block(&topic, Duration::ZERO);
    WHEN_CLONED.with(|hook| {
        *hook.borrow_mut() = Some(|event: &Hooked| {
            let newcomer = block(&event.topic, Duration::ZERO);
            CAME.with(|came| came.borrow_mut().push(newcomer));
        });
    });
    let event = Hooked {
        number: 1,
        topic: topic.clone(),
        clones: Arc::default(),
    };
    assert!(topic.publish(event).is_ok());
    WHEN_CLONED.with(|hook| hook.borrow_mut().take());
    let mut came = CAME.with(|came| came.take());
    let mut last = came.pop().unwrap();
    assert!(came.len() < 100);
    assert_eq!(last.account().lost.block_full, 1);
    assert!(matches!(last.try_recv(), Err(RecvError::Lagged(gap)) if gap.missed() == 1));
    assert!(came
        .iter()
        .chain([&first, &last])
        .all(|r| r.account().is_balanced()));
    assert_eq!(first.account().pending, 1);
}

#[test]
fn a_batch_refused_in_its_middle_says_how_far_it_came() {
    let topic = topic::<Hooked>(8);
    let _reader = block(&topic, Duration::ZERO);
    WHEN_CLONED.with(|hook| {
        *hook.borrow_mut() = Some(|event: &Hooked| {
            if event.number == 3 {
                event.topic.close();
            }
        });
    });
    let refused = topic
        .publish_many((1..=5).map(|number| Hooked {
            number,
            topic: topic.clone(),
            clones: Arc::default(),
        }))
        .unwrap_err();
    WHEN_CLONED.with(|hook| hook.borrow_mut().take());
    let unsent: Vec<u32> = refused.unsent.iter().map(|event| event.number).collect();
    let published = refused.published;
    assert_eq!(
        (published.count, published.last_seq, published.readers),
        (2, Some(2), 1)
    );
    assert_eq!(unsent, [3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_bus_closes_every_topic_and_ends_its_tails_whoever_panics() {
    let bus = bus();
    let first = bus.topic::<u32>("a").unwrap();
    let _second = bus.topic::<u32>("b").unwrap();
    let mut tail = bus.tail("x").unwrap();
    let mut reader = first.subscribe().unwrap();
    let waker = panicking_waker();
    {
        let mut receive = pin!(reader.recv());
        assert!(receive
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
    }
    assert!(panics(|| bus.close()));
    assert!(bus.topics().iter().all(|t| t.state == TopicState::Closed));
    let ended = tokio::time::timeout(Duration::from_secs(60), tail.next()).await;
    assert_eq!(ended, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_room_wakes_no_publisher_that_waits() {
    let topic = topic::<u32>(2);
    let _stuck = block(&topic, Duration::MAX);
    topic.publish_many([1, 2]).unwrap();
    let conflating = Overflow::Conflate {
        key: |n| u64::from(*n),
        max_keys: 64,
    };
    let mut conflating = topic.subscriber().overflow(conflating).build().unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let mut waiting: Vec<_> = (0..20)
        .map(|n| {
            let (topic, polls) = (topic.clone(), Arc::clone(&polls));
            tokio::spawn(async move {
                let mut wait = pin!(topic.publish_wait(n));
                poll_fn(|cx| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    wait.as_mut().poll(cx)
                })
                .await
                .is_ok()
            })
        })
        .collect();
    let settle = || async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    settle().await;
    polls.store(0, Ordering::Relaxed);
    for n in 0..10 {
        topic.publish(n).unwrap();
        assert!(conflating.recv().await.is_ok());
        drop(topic.subscribe().unwrap());
        settle().await;
    }
    if let Some(last) = waiting.pop() {
        last.abort();
    }
    settle().await;
    assert_eq!(polls.load(Ordering::Relaxed), 0);
}

static CLASS_PANICS: AtomicBool = AtomicBool::new(false);

#[derive(Clone)]
struct Classed;

impl Classify for Classed {
    fn class(&self) -> Class {
        if CLASS_PANICS.load(Ordering::Relaxed) {
            quietly_panic()
        }
        Class::at::<0>()
    }
}

#[test]
fn a_class_that_panics_in_the_reader_costs_it_that_event() {
    let topic = topic::<Classed>(8);
    topic.publish_many([Classed, Classed, Classed]).unwrap();
    let builder = topic.subscriber().interest(Class::at::<0>());
    let deadline = Duration::ZERO;
    let builder = builder.overflow(Overflow::Block { deadline });
    let mut reader = builder.start(Start::Retained(8)).build().unwrap();
    CLASS_PANICS.store(true, Ordering::Relaxed);
    assert!(panics(|| reader.try_recv()));
    CLASS_PANICS.store(false, Ordering::Relaxed);
    while reader.try_recv().unwrap().is_some() {}
    let account = reader.account();
    let counts = (account.delivered, account.lost.panicked, account.pending);
    assert_eq!(counts, (2, 1, 0));
}

#[test]
fn a_gap_in_the_control_lane_is_told_where_it_is() {
    let topic = topic::<u32>(8);
    let (publisher, once) = (topic.clone(), AtomicBool::new(true));
    let builder = topic.subscriber().filter(move |_| {
        if once.swap(false, Ordering::Relaxed) {
            (17..=19).for_each(|n| drop(publisher.publish_control(n)));
        }
        true
    });
    let mut reader = builder.build().unwrap();
    (1..=16).for_each(|n| drop(topic.publish_control(n)));
    let mut told = Vec::new();
    loop {
        match reader.try_recv() {
            Ok(Some(delivery)) => told.push((delivery.seq, delivery.seq)),
            Err(RecvError::Lagged(gap)) => told.push((gap.first_missed, gap.last_missed)),
            _ => break,
        }
    }
    assert!(told.windows(2).all(|w| w[0].1 + 1 == w[1].0), "{told:?}");
    assert_eq!((told[0].0, told.last().map(|t| t.1)), (1, Some(19)));
}
