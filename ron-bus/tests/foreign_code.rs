//! Classes, keys, clones and filters are code of the user: they run outside every lock, and their panics stay small.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use ron_bus::{Account, Bus, BusConfig, Class, Classify, Overflow, Start, Subscriber, Topic};

/// Told which piece of code it runs in.
type Hook = Box<dyn Fn(&'static str)>;

thread_local! {
    /// Runs in every piece of foreign code, if there is one.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Takes the hook away while it runs, so that what it does to the bus runs none.
fn foreign(place: &'static str) {
    let hook = HOOK.with(|hook| hook.borrow_mut().take());
    if let Some(run) = hook {
        run(place);
        LOG.with(|log| log.borrow_mut().push(place));
        HOOK.with(|hook| hook.replace(Some(run)));
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Event(u32);

impl Clone for Event {
    fn clone(&self) -> Self {
        foreign("clone");
        Self(self.0)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        foreign("drop");
    }
}

/// The event whose class panics.
const CLASSLESS: u32 = 666;

impl Classify for Event {
    fn class(&self) -> Class {
        foreign("class");
        assert_ne!(self.0, CLASSLESS, "class");
        Class::new((self.0 % 2) as u8).unwrap()
    }
}

fn topic(capacity: usize) -> Topic<Event> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn readers_of_every_policy(topic: &Topic<Event>, start: Start) -> Vec<Subscriber<Event>> {
    let policies = [
        Overflow::DropOldest,
        Overflow::Disconnect,
        Overflow::Block {
            deadline: Duration::from_secs(1),
        },
        Overflow::Conflate {
            key: |event: &Event| {
                foreign("key");
                u64::from(event.0 % 4)
            },
            max_keys: 3,
        },
    ];
    let build = |overflow| {
        let builder = topic.subscriber().overflow(overflow).start(start);
        let interested = builder.interest(Class::at::<0>() | Class::at::<1>());
        let filtered = interested.filter(|event| {
            foreign("filter");
            event.0 % 5 != 0
        });
        filtered.build().unwrap()
    };
    policies.map(build).into()
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
}

fn read_all(readers: &mut [Subscriber<Event>]) {
    for reader in readers {
        while reader.try_recv().is_ok_and(|delivery| delivery.is_some()) {}
    }
}

#[test]
fn foreign_code_may_use_its_topic_everywhere() {
    let topic = topic(4);
    topic.publish_many((1..=4).map(Event)).unwrap();
    let mut readers = readers_of_every_policy(&topic, Start::Retained(2));
    let inner = topic.clone();
    let hook = move |_| {
        // Any of these would deadlock if the topic or a reader of it were locked.
        assert!(inner.stats().total.is_balanced());
        assert!(inner.queue_depth() <= 100);
        assert!(inner.subscriber().build().is_ok());
    };
    HOOK.with(|place| place.replace(Some(Box::new(hook))));
    for n in 0..40 {
        topic.publish(Event(n)).unwrap();
        topic.publish_many([Event(n + 1), Event(n + 2)]).unwrap();
        topic.publish_control_keyed(1, Event(n)).unwrap();
        if n % 4 == 0 {
            read_all(&mut readers);
        }
    }
    topic.publish_last(Event(1)).unwrap();
    read_all(&mut readers);
    drop(readers);
    HOOK.with(|place| place.replace(None));
    balanced(topic.stats().total);
    let log = LOG.with(|log| log.take());
    for place in ["clone", "drop", "class", "key", "filter"] {
        assert!(log.contains(&place), "{place} never ran");
    }
}

#[test]
fn foreign_code_may_publish_what_it_likes() {
    let topic = topic(4);
    let mut readers = readers_of_every_policy(&topic, Start::Live);
    let inner = topic.clone();
    // None of these is refused by the filter, which would make the filter publish the next it refuses, for ever.
    let hook = move |_| {
        inner.publish_many((101..105).map(Event)).unwrap();
        inner.publish_control_keyed(7, Event(201)).unwrap();
        assert!(inner.stats().total.is_balanced());
    };
    HOOK.with(|place| place.replace(Some(Box::new(hook))));
    for n in 0..10 {
        topic.publish(Event(n)).unwrap();
        let mut numbers = [0; 2];
        let reader = &mut readers[n as usize % 4];
        for _ in 0..5 {
            if let Ok(Some(delivery)) = reader.try_recv() {
                let newest = &mut numbers[delivery.lane as usize];
                assert!(delivery.seq > *newest, "numbers never go back");
                *newest = delivery.seq;
            }
        }
    }
    HOOK.with(|place| place.replace(None));
    for reader in &readers {
        balanced(reader.account());
    }
    balanced(topic.stats().total);
}

#[test]
fn a_class_that_panics_harms_nobody_but_its_publisher() {
    let topic = topic(8);
    let mut readers = readers_of_every_policy(&topic, Start::Live);
    let mut plain = topic.subscribe().unwrap();
    topic.publish(Event(1)).unwrap();
    let publish = |run: &dyn Fn()| catch_unwind(AssertUnwindSafe(run)).is_err();
    let before = topic.stats().seq;
    let ways: [&dyn Fn(); 3] = [
        &|| drop(topic.publish(Event(CLASSLESS))),
        &|| drop(topic.publish_control(Event(CLASSLESS))),
        &|| drop(topic.publish_many([Event(CLASSLESS)])),
    ];
    for way in ways {
        assert!(publish(way), "its publisher learns it");
    }
    let stats = topic.stats();
    assert_eq!(
        (stats.seq, stats.control_seq),
        (before, 0),
        "nothing is out"
    );
    topic.publish(Event(2)).unwrap();
    for reader in readers.iter_mut().chain([&mut plain]) {
        let seen: Vec<_> = std::iter::from_fn(|| reader.try_recv().unwrap())
            .map(|d| d.event.0)
            .collect();
        assert_eq!(seen, [1, 2]);
        assert_eq!(balanced(reader.account()).lost.total(), 0);
    }
}
