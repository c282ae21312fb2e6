//! A letterbox does what a list of messages does that is looked through from the beginning every time.

use std::collections::HashSet;
use std::time::Duration;

use micronode::mailbox::{
    Collector, Draft, Full, LeaseId, Letterbox, MailboxSettings, MessageId, Payload, Shelf, Unsent,
};
use proptest::prelude::*;
use ron_config::ByteSize;

const VISIBILITY: u64 = 1_000;
const WINDOW: u64 = 4_000;
const COST: u64 = 256;

#[derive(Clone, Debug)]
enum Step {
    Send { key: u8, body: u8 },
    Receive(Shelf),
    Ack(prop::sample::Index),
    AckAnother(prop::sample::Index, prop::sample::Index),
    Wait(u64),
    Limit(Limits),
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    max_messages: usize,
    max_bytes: u64,
    max_attempts: u32,
    dead_letters: usize,
}

fn limits() -> impl Strategy<Value = Limits> {
    let ranges = (1..8usize, 700..6_000u64, 1..=5u32, 0..4usize);
    ranges.prop_map(
        |(max_messages, max_bytes, max_attempts, dead_letters)| Limits {
            max_messages,
            max_bytes,
            max_attempts,
            dead_letters,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let shelf = prop_oneof![4 => Just(Shelf::Queue), 1 => Just(Shelf::Dead)];
    prop_oneof![
        6 => (0..12u8, 0..3u8).prop_map(|(key, body)| Step::Send { key, body }),
        10 => shelf.prop_map(Step::Receive),
        4 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Step::AckAnother(a, b)),
        4 => prop_oneof![Just(1), Just(VISIBILITY / 2), Just(VISIBILITY), Just(WINDOW)].prop_map(Step::Wait),
        1 => limits().prop_map(Step::Limit),
    ]
}

/// As many bytes as its number says hundreds of.
fn payload(body: u8) -> Payload {
    let mut collector = Collector::with_capacity(0);
    collector.push(&vec![body; usize::from(body) * 100]);
    collector.finish()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Alive,
    /// With the number of those that had died before it.
    Dead(usize),
    Acked,
    Dropped,
}

#[derive(Clone, Debug)]
struct Message {
    id: MessageId,
    key: u8,
    body: u8,
    sent: u64,
    attempts: u32,
    lease: Option<(LeaseId, u64)>,
    place: Place,
}

impl Message {
    fn cost(&self) -> u64 {
        COST + u64::from(self.body) * 100
    }

    fn is_dead(&self) -> bool {
        matches!(self.place, Place::Dead(_))
    }
}

#[derive(Default)]
struct Model {
    all: Vec<Message>,
    died: usize,
    received: u64,
    expired: u64,
    deduplicated: u64,
}

impl Model {
    /// The message that a key stands for, if it does.
    fn known(&self, key: u8, now: u64) -> Option<&Message> {
        let last = self.all.iter().rev().find(|message| message.key == key)?;
        (last.place == Place::Alive || last.sent + WINDOW > now).then_some(last)
    }

    fn keys(&self, now: u64) -> usize {
        (0..12)
            .filter(|key| self.known(*key, now).is_some())
            .count()
    }

    fn alive(&self) -> impl Iterator<Item = &Message> {
        self.all.iter().filter(|m| m.place == Place::Alive)
    }

    fn dead(&self) -> impl Iterator<Item = &Message> {
        self.all.iter().filter(|m| m.is_dead())
    }

    fn advance(&mut self, now: u64, limits: &Limits) {
        let mut due: Vec<(u64, usize)> = self
            .all
            .iter()
            .enumerate()
            .filter_map(|(n, m)| Some((m.lease?.1, n)))
            .filter(|(until, _)| *until <= now)
            .collect();
        due.sort_unstable();
        for (_, n) in due {
            // It may have been dropped since, for one that died before it.
            if self.all[n].lease.take().is_none() {
                continue;
            }
            self.expired += 1;
            if self.all[n].place == Place::Alive && self.all[n].attempts >= limits.max_attempts {
                self.bury(n, limits);
            }
        }
        self.drop_dead_beyond(limits.dead_letters);
    }

    fn bury(&mut self, n: usize, limits: &Limits) {
        self.all[n].place = Place::Dead(self.died);
        self.died += 1;
        self.drop_dead_beyond(limits.dead_letters);
    }

    fn drop_dead_beyond(&mut self, most: usize) {
        while self.dead().count() > most {
            let oldest = self.all.iter_mut().filter(|m| m.is_dead());
            let oldest = oldest.min_by_key(|m| match m.place {
                Place::Dead(nth) => nth,
                _ => usize::MAX,
            });
            let oldest = oldest.unwrap();
            (oldest.place, oldest.lease) = (Place::Dropped, None);
        }
    }

    fn send(&mut self, key: u8, body: u8, now: u64, limits: &Limits) -> Result<(), Refused> {
        self.advance(now, limits);
        if let Some(known) = self.known(key, now) {
            if known.body != body {
                return Err(Refused::KeyReused);
            }
            let id = known.id;
            self.deduplicated += 1;
            return Err(Refused::Duplicate(id));
        }
        if self.alive().count() >= limits.max_messages {
            return Err(Refused::Messages);
        }
        let cost = 2 * COST + u64::from(body) * 100;
        let used = self.bytes(now) - self.dead().map(Message::cost).sum::<u64>();
        if used + cost > limits.max_bytes {
            return Err(Refused::Bytes);
        }
        while self.bytes(now) + cost > limits.max_bytes {
            self.drop_dead_beyond(self.dead().count() - 1);
        }
        Ok(())
    }

    fn bytes(&self, now: u64) -> u64 {
        let messages = self.alive().chain(self.dead()).map(Message::cost);
        messages.sum::<u64>() + self.keys(now) as u64 * COST
    }

    fn receive(
        &mut self,
        shelf: Shelf,
        lease: LeaseId,
        now: u64,
        limits: &Limits,
    ) -> Option<usize> {
        self.advance(now, limits);
        let n = loop {
            let free = self
                .all
                .iter()
                .enumerate()
                .filter(|(_, m)| m.lease.is_none());
            let first = match shelf {
                Shelf::Queue => free
                    .filter(|(_, m)| m.place == Place::Alive)
                    .map(|(n, _)| n)
                    .next(),
                Shelf::Dead => free
                    .filter_map(|(n, m)| match m.place {
                        Place::Dead(nth) => Some((nth, n)),
                        _ => None,
                    })
                    .min()
                    .map(|(_, n)| n),
            };
            let n = first?;
            if shelf == Shelf::Queue && self.all[n].attempts >= limits.max_attempts {
                self.bury(n, limits);
                continue;
            }
            break n;
        };
        self.received += 1;
        let message = &mut self.all[n];
        message.attempts += u32::from(shelf == Shelf::Queue);
        message.lease = Some((lease, now + VISIBILITY));
        Some(n)
    }

    fn ack(&mut self, id: MessageId, lease: LeaseId, now: u64, limits: &Limits) -> bool {
        self.advance(now, limits);
        let held =
            |m: &&mut Message| m.id == id && m.lease.is_some_and(|(known, _)| known == lease);
        let Some(message) = self.all.iter_mut().find(held) else {
            return false;
        };
        (message.place, message.lease) = (Place::Acked, None);
        true
    }

    fn count(&self, place: impl Fn(&Message) -> bool) -> usize {
        self.all.iter().filter(|m| place(m)).count()
    }
}

#[derive(Debug, PartialEq)]
enum Refused {
    Duplicate(MessageId),
    KeyReused,
    Messages,
    Bytes,
}

fn settings(limits: &Limits) -> MailboxSettings {
    let mut settings = MailboxSettings::default();
    settings.max_messages = limits.max_messages;
    settings.max_bytes = ByteSize::new(limits.max_bytes);
    settings.max_attempts = limits.max_attempts;
    settings.dead_letters = limits.dead_letters;
    settings.visibility = Duration::from_millis(VISIBILITY);
    settings.dedupe_window = Duration::from_millis(WINDOW);
    settings
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_letterbox_does_what_the_model_does_and_loses_nothing(
        mut limits in limits(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut letterbox, mut model) = (Letterbox::new(7), Model::default());
        let (mut now, mut leases) = (0, 0u128);
        let mut given: Vec<(MessageId, LeaseId)> = Vec::new();
        for step in steps {
            let (at, set) = (Duration::from_millis(now), settings(&limits));
            match step {
                Step::Send { key, body } => {
                    let draft = Draft::new(&format!("key-{key}"), payload(body));
                    let seen = letterbox.send(at, &set, draft);
                    let expected = model.send(key, body, now, &limits);
                    let refused = seen.map_err(|why| match why {
                        Unsent::Duplicate(id) => Refused::Duplicate(id),
                        Unsent::KeyReused => Refused::KeyReused,
                        Unsent::Full(Full::Messages { .. }) => Refused::Messages,
                        Unsent::Full(Full::Bytes { .. }) => Refused::Bytes,
                    });
                    prop_assert_eq!(refused.as_ref().err(), expected.as_ref().err());
                    if let Ok(id) = refused {
                        prop_assert!(model.all.iter().all(|m| m.id != id));
                        let mut same = model.all.iter().filter(|m| m.key == key);
                        prop_assert!(same.all(|m| m.sent + WINDOW <= now), "two ids under one key");
                        let (attempts, lease, place) = (0, None, Place::Alive);
                        model.all.push(Message { id, key, body, sent: now, attempts, lease, place });
                    }
                }
                Step::Receive(shelf) => {
                    leases += 1;
                    let lease = LeaseId::new(leases);
                    let live: HashSet<MessageId> = model
                        .all
                        .iter()
                        .filter(|m| m.lease.is_some_and(|(_, until)| until > now))
                        .map(|m| m.id)
                        .collect();
                    let seen = letterbox.receive(at, &set, shelf, lease);
                    let expected = model.receive(shelf, lease, now, &limits);
                    prop_assert_eq!(seen.as_ref().map(|d| d.id), expected.map(|n| model.all[n].id));
                    if let (Some(seen), Some(n)) = (seen, expected) {
                        let message = &model.all[n];
                        prop_assert!(!live.contains(&seen.id), "two holders");
                        prop_assert!((1..=5).contains(&seen.attempt));
                        prop_assert_eq!((seen.attempt, seen.lease), (message.attempts, lease));
                        let sent = payload(message.body);
                        prop_assert_eq!(seen.payload.as_bytes(), sent.as_bytes());
                        given.push((seen.id, lease));
                    }
                }
                Step::Ack(which) if !given.is_empty() => {
                    let (id, lease) = given[which.index(given.len())];
                    let acked = letterbox.ack(at, &set, id, lease).is_ok();
                    prop_assert_eq!(acked, model.ack(id, lease, now, &limits));
                }
                Step::AckAnother(a, b) if !given.is_empty() => {
                    let (id, lease) = (given[a.index(given.len())].0, given[b.index(given.len())].1);
                    let acked = letterbox.ack(at, &set, id, lease).is_ok();
                    prop_assert_eq!(acked, model.ack(id, lease, now, &limits));
                }
                Step::Ack(_) | Step::AckAnother(..) => {}
                Step::Wait(ms) => {
                    now += ms;
                    letterbox.advance(Duration::from_millis(now), &set);
                    model.advance(now, &limits);
                }
                Step::Limit(new) => {
                    limits = new;
                    letterbox.advance(at, &settings(&limits));
                    model.advance(now, &limits);
                }
            }
            let counts = letterbox.counts(Duration::from_millis(now));
            let totals = counts.totals;
            let here = (counts.waiting + counts.leased + counts.dead) as u64;
            prop_assert_eq!(totals.sent, here + totals.acked + totals.dropped);
            let waiting = |m: &Message| m.place == Place::Alive && m.lease.is_none();
            let places = (counts.waiting, counts.leased, counts.dead);
            let leased = model.count(|m| m.place == Place::Alive && m.lease.is_some());
            prop_assert_eq!(places, (model.count(waiting), leased, model.dead().count()));
            prop_assert_eq!((counts.keys, counts.bytes), (model.keys(now), model.bytes(now)));
            prop_assert_eq!(counts.dead_bytes, model.dead().map(Message::cost).sum::<u64>());
            let oldest = model.all.iter().find(|m| waiting(m)).map(|m| now - m.sent);
            prop_assert_eq!(counts.oldest, oldest.map(Duration::from_millis));
            let ended = (totals.acked, totals.dropped, totals.dead);
            let acked = model.count(|m| m.place == Place::Acked) as u64;
            let dropped = model.count(|m| m.place == Place::Dropped) as u64;
            prop_assert_eq!(ended, (acked, dropped, model.died as u64));
            let counted = (totals.received, totals.expired, totals.deduplicated);
            prop_assert_eq!(counted, (model.received, model.expired, model.deduplicated));
        }
    }
}

#[test]
fn a_message_comes_back_to_its_place_five_times_and_is_then_a_dead_letter() {
    let (mut letterbox, limits) = (Letterbox::new(7), MailboxSettings::default());
    let at = Duration::from_secs;
    let draft = |key| Draft::new(key, payload(1));
    let first = letterbox.send(at(0), &limits, draft("a")).unwrap();
    let second = letterbox.send(at(1), &limits, draft("b")).unwrap();
    let mut lease = 0;
    let mut receive = |letterbox: &mut Letterbox, now, shelf| {
        lease += 1;
        let received = letterbox.receive(at(now), &limits, shelf, LeaseId::new(lease));
        received.map(|delivery| (delivery.id, delivery.attempt))
    };
    for attempt in 1..=5 {
        let now = 30 * u64::from(attempt);
        let received = receive(&mut letterbox, now, Shelf::Queue);
        assert_eq!(received, Some((first, attempt)));
        assert_eq!(receive(&mut letterbox, now, Shelf::Dead), None);
        // While it is hidden the one behind it is delivered; this one is acked in time.
        if attempt == 1 {
            let other = letterbox.receive(at(now + 29), &limits, Shelf::Queue, LeaseId::new(99));
            assert_eq!(other.map(|delivery| delivery.id), Some(second));
            letterbox
                .ack(at(now + 29), &limits, second, LeaseId::new(99))
                .unwrap();
        }
        assert_eq!(receive(&mut letterbox, now + 29, Shelf::Queue), None);
    }
    assert_eq!(receive(&mut letterbox, 180, Shelf::Queue), None);
    assert_eq!(receive(&mut letterbox, 180, Shelf::Dead), Some((first, 5)));
    let counts = letterbox.counts(at(180));
    assert_eq!((counts.waiting, counts.leased, counts.dead), (0, 0, 1));
}

#[test]
fn a_key_is_known_while_its_message_is_there_and_for_the_window_after_it_was_sent() {
    let (mut letterbox, limits) = (Letterbox::new(7), MailboxSettings::default());
    let at = Duration::from_secs;
    let draft = || Draft::new("a", payload(1));
    let id = letterbox.send(at(0), &limits, draft()).unwrap();
    let repeated = letterbox.send(at(3_000), &limits, draft());
    assert_eq!(repeated, Err(Unsent::Duplicate(id)));
    let lease = LeaseId::new(1);
    letterbox
        .receive(at(3_000), &limits, Shelf::Queue, lease)
        .unwrap();
    letterbox.ack(at(3_000), &limits, id, lease).unwrap();
    assert_eq!(letterbox.counts(at(3_000)).keys, 0);

    let id = letterbox.send(at(3_000), &limits, draft()).unwrap();
    letterbox
        .receive(at(3_000), &limits, Shelf::Queue, lease)
        .unwrap();
    letterbox.ack(at(3_000), &limits, id, lease).unwrap();
    let other = Draft::new("a", payload(2));
    assert_eq!(
        letterbox.send(at(3_299), &limits, other),
        Err(Unsent::KeyReused)
    );
    let repeated = letterbox.send(at(3_299), &limits, draft());
    assert_eq!(repeated, Err(Unsent::Duplicate(id)));
    assert_ne!(letterbox.send(at(3_300), &limits, draft()), Ok(id));
}
