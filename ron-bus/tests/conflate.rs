//! Readers that conflate: the newest event of each key, with a count of what it stands for.

use ron_bus::{
    Account, Bus, BusConfig, Delivery, Gap, Lane, Overflow, Policy, RecvError, Start,
    SubscribeError, Subscriber, Topic,
};

/// A key and a value.
type Tick = (u64, u32);

fn topic(capacity: usize) -> Topic<Tick> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn by_key(max_keys: usize) -> Overflow<Tick> {
    Overflow::Conflate {
        key: |tick| tick.0,
        max_keys,
    }
}

fn reader(topic: &Topic<Tick>, max_keys: usize) -> Subscriber<Tick> {
    topic
        .subscriber()
        .overflow(by_key(max_keys))
        .build()
        .unwrap()
}

/// Sequence number, event and how many it stands for.
fn parts(delivery: Delivery<Tick>) -> (u64, Tick, u64) {
    (delivery.seq, delivery.event, delivery.conflated)
}

fn next(reader: &mut Subscriber<Tick>) -> Option<(u64, Tick, u64)> {
    reader.try_recv().unwrap().map(parts)
}

fn drain(reader: &mut Subscriber<Tick>) -> Vec<(u64, Tick, u64)> {
    std::iter::from_fn(|| next(reader)).collect()
}

fn lagged(reader: &mut Subscriber<Tick>) -> (u64, u64, u64) {
    match reader.try_recv() {
        Err(RecvError::Lagged(gap)) => span(gap),
        other => panic!("expected a gap, got {other:?}"),
    }
}

fn span(gap: Gap) -> (u64, u64, u64) {
    assert_eq!(gap.lane, Lane::Data);
    (gap.first_missed, gap.last_missed, gap.missed())
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
}

#[test]
fn the_newest_event_of_each_key_stands_for_those_before_it() {
    let topic = topic(2);
    let mut reader = reader(&topic, 4);
    let mut other = topic.subscribe().unwrap();
    topic
        .publish_many([(1, 10), (2, 20), (1, 11), (3, 30), (1, 12)])
        .unwrap();
    let account = balanced(reader.account());
    assert_eq!(
        (account.offered, account.conflated, account.pending),
        (5, 2, 3)
    );
    assert_eq!(
        drain(&mut reader),
        [(2, (2, 20), 0), (4, (3, 30), 0), (5, (1, 12), 2)]
    );
    let account = balanced(reader.account());
    assert_eq!((account.delivered, account.lost.total()), (3, 0));
    let stats = topic.stats();
    assert_eq!(stats.readers[0].overflow, Policy::Conflate);
    assert_eq!(balanced(stats.total).conflated, 2);
    assert!(other.try_recv().is_err());
    assert_eq!(next(&mut other), Some((4, (3, 30), 0)), "nobody else's");
}

#[test]
fn a_hot_key_starves_no_other_and_numbers_never_go_back() {
    let topic = topic(2);
    let mut reader = reader(&topic, 8);
    topic.publish((7, 0)).unwrap();
    for key in 0..5 {
        topic.publish((key, 0)).unwrap();
    }
    let (mut newest, mut seen) = (0, Vec::new());
    for n in 1..=12 {
        // As fast as it is read, and faster.
        topic.publish((7, n)).unwrap();
        topic.publish((7, n)).unwrap();
        let (seq, (key, _), _) = next(&mut reader).unwrap();
        assert!(seq > newest);
        newest = seq;
        seen.push(key);
    }
    assert_eq!(seen[..6], [0, 1, 2, 3, 4, 7]);
    assert!(seen[6..].iter().all(|key| *key == 7));
}

#[test]
fn what_is_being_swept_is_not_replaced_any_more() {
    let topic = topic(2);
    let mut reader = reader(&topic, 4);
    topic.publish_many([(1, 10), (2, 20)]).unwrap();
    assert_eq!(next(&mut reader), Some((1, (1, 10), 0)));
    topic.publish_many([(2, 21), (1, 11), (2, 22)]).unwrap();
    assert_eq!(balanced(reader.account()).pending, 3);
    assert_eq!(
        drain(&mut reader),
        [(2, (2, 20), 0), (4, (1, 11), 0), (5, (2, 22), 1)]
    );
}

#[tokio::test]
async fn a_batch_goes_through_the_sweep_into_what_came_meanwhile() {
    let topic = topic(2);
    let mut reader = reader(&topic, 4);
    topic.publish_many([(1, 10), (2, 20), (3, 30)]).unwrap();
    assert_eq!(next(&mut reader), Some((1, (1, 10), 0)));
    topic.publish_many([(1, 11), (1, 12)]).unwrap();
    topic.publish_control((9, 90)).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(4));
    let order: Vec<_> = out
        .into_iter()
        .map(|d| (d.lane, d.event, d.conflated))
        .collect();
    assert_eq!(
        order,
        [
            (Lane::Control, (9, 90), 0),
            (Lane::Data, (2, 20), 0),
            (Lane::Data, (3, 30), 0),
            (Lane::Data, (1, 12), 1)
        ]
    );
}

#[test]
fn a_key_too_many_is_lost_and_told_before_anything_else() {
    let topic = topic(2);
    let mut reader = reader(&topic, 2);
    topic
        .publish_many([(1, 10), (2, 20), (3, 30), (1, 11), (4, 40)])
        .unwrap();
    let account = balanced(reader.account());
    assert_eq!(
        (account.lost.conflate_full, account.lost.overflowed()),
        (2, 2)
    );
    assert_eq!((account.conflated, account.pending), (1, 2));
    assert_eq!(lagged(&mut reader), (3, 5, 2), "event 4 was not lost");
    assert_eq!(drain(&mut reader), [(2, (2, 20), 0), (4, (1, 11), 1)]);
    topic.publish_many([(5, 50), (6, 60)]).unwrap();
    assert_eq!(drain(&mut reader), [(6, (5, 50), 0), (7, (6, 60), 0)]);
    assert_eq!(balanced(reader.account()).lost.total(), 2);
}

#[tokio::test]
async fn a_gap_interrupts_the_sweep_and_is_hidden_by_no_batch() {
    let topic = topic(2);
    let mut reader = reader(&topic, 1);
    topic.publish((1, 10)).unwrap();
    topic.publish_control((9, 90)).unwrap();
    topic.publish((2, 20)).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 9).await, Ok(1), "control first");
    let Err(RecvError::Lagged(gap)) = reader.recv_many(&mut out, 9).await else {
        panic!("must have lagged")
    };
    assert_eq!(span(gap), (2, 2, 1));
    assert_eq!(reader.recv_many(&mut out, 9).await, Ok(1));
    let events: Vec<_> = out.iter().map(|d| d.event).collect();
    assert_eq!(events, [(9, 90), (1, 10)]);
}

#[test]
fn at_most_two_rounds_of_keys_wait() {
    let topic = topic(2);
    let mut reader = reader(&topic, 3);
    topic.publish_many((0..3).map(|key| (key, 0))).unwrap();
    assert!(next(&mut reader).is_some());
    topic.publish_many((0..100).map(|n| (n % 7, 1))).unwrap();
    let account = balanced(reader.account());
    assert_eq!(account.pending, 2 + 3);
    assert_eq!(topic.queue_depth(), 5);
    assert_eq!(account.conflated + account.lost.conflate_full, 97);
}

#[test]
fn the_number_of_keys_is_between_one_and_a_million() {
    let topic = topic(2);
    for got in [0, 1_048_577, usize::MAX] {
        let refused = topic.subscriber().overflow(by_key(got)).build();
        assert_eq!(refused.unwrap_err(), SubscribeError::MaxKeys { got });
    }
    let refused = SubscribeError::MaxKeys { got: 0 }.to_string();
    assert!(refused.contains("1048576"), "{refused}");
    for max_keys in [1, 1_048_576] {
        topic
            .subscriber()
            .overflow(by_key(max_keys))
            .build()
            .unwrap();
    }
}

#[test]
fn what_was_retained_comes_first_as_it_was() {
    let topic = topic(4);
    topic.publish_many((1..=6).map(|n| (1, n))).unwrap();
    let mut reader = topic
        .subscriber()
        .overflow(by_key(1))
        .start(Start::Retained(3))
        .build()
        .unwrap();
    topic.publish_many((7..=20).map(|n| (1, n))).unwrap();
    assert_eq!(balanced(reader.account()).pending, 4);
    assert_eq!(
        drain(&mut reader),
        [
            (4, (1, 4), 0),
            (5, (1, 5), 0),
            (6, (1, 6), 0),
            (20, (1, 20), 13)
        ]
    );
}

#[test]
fn a_filter_sees_only_what_conflation_left() {
    let topic = topic(4);
    let mut reader = topic
        .subscriber()
        .overflow(by_key(4))
        .filter(|tick| tick.1 % 2 == 0)
        .build()
        .unwrap();
    topic.publish_many([(1, 2), (2, 4), (1, 3)]).unwrap();
    assert_eq!(drain(&mut reader), [(2, (2, 4), 0)]);
    let account = balanced(reader.account());
    assert_eq!(
        (account.conflated, account.filtered, account.delivered),
        (1, 1, 1)
    );
}

#[test]
fn the_next_sweep_begins_with_the_receive_that_needs_it() {
    let topic = topic(4);
    for filtered in [false, true] {
        let mut builder = topic.subscriber().overflow(by_key(4));
        if filtered {
            builder = builder.filter(|_| true);
        }
        let mut reader = builder.build().unwrap();
        topic.publish((1, 10)).unwrap();
        assert!(next(&mut reader).is_some(), "the first sweep is read");
        topic.publish_many([(2, 20), (2, 21)]).unwrap();
        assert_eq!(
            next(&mut reader).map(|(_, tick, c)| (tick, c)),
            Some(((2, 21), 1))
        );
        topic.publish((3, 30)).unwrap();
        topic.publish((3, 31)).unwrap();
        topic.publish((4, 40)).unwrap();
        assert!(next(&mut reader).is_some());
        topic.publish((5, 50)).unwrap();
        assert!(next(&mut reader).is_some(), "the last of its sweep");
        topic.publish((5, 51)).unwrap();
        assert_eq!(
            next(&mut reader).map(|(_, tick, c)| (tick, c)),
            Some(((5, 51), 1))
        );
    }
}

#[test]
fn the_counts_delivered_add_up_to_the_account() {
    let topic = topic(4);
    let mut reader = reader(&topic, 16);
    let mut stood_for = 0;
    for n in 0..1000_u32 {
        topic.publish((u64::from(n * n % 16), n)).unwrap();
        if n % 7 == 0 {
            stood_for += next(&mut reader).map_or(0, |(_, _, conflated)| conflated);
        }
    }
    stood_for += drain(&mut reader).iter().map(|(_, _, c)| c).sum::<u64>();
    let account = balanced(reader.account());
    assert_eq!(stood_for, account.conflated);
    assert_eq!(account.delivered + account.conflated, 1000);
}

#[test]
fn a_reader_that_leaves_abandons_what_it_had_not_read() {
    let topic = topic(4);
    let mut reader = reader(&topic, 4);
    topic.publish_many([(1, 1), (2, 2)]).unwrap();
    next(&mut reader);
    topic.publish_many([(1, 3), (1, 4)]).unwrap();
    drop(reader);
    let total = balanced(topic.stats().total);
    assert_eq!((total.conflated, total.lost.abandoned), (1, 2));
}
