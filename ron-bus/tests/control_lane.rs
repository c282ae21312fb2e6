//! The control lane: slots and a sequence of its own, read first.

use std::time::Duration;

use ron_bus::{Account, Bus, BusConfig, Lane, Overflow, RecvError, Subscriber, Topic};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

/// One reader of each policy, each already as slow as can be.
fn readers_of_every_policy(topic: &Topic<u32>) -> [Subscriber<u32>; 4] {
    let policies = [
        Overflow::DropOldest,
        Overflow::Disconnect,
        Overflow::Block {
            deadline: Duration::from_secs(1),
        },
        Overflow::Conflate {
            key: |event: &u32| u64::from(event % 10),
            max_keys: 10,
        },
    ];
    policies.map(|overflow| topic.subscriber().overflow(overflow).build().unwrap())
}

/// Lane, number, how many it stands for, and the event.
fn drain(reader: &mut Subscriber<u32>) -> Vec<(Lane, u64, u64, u32)> {
    std::iter::from_fn(|| reader.try_recv().unwrap())
        .map(|d| (d.lane, d.seq, d.conflated, d.event))
        .collect()
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
}

#[test]
fn a_control_event_overtakes_a_full_data_ring() {
    let topic = topic(4);
    let mut slow = topic.subscribe().unwrap();
    topic.publish_many(0..100).unwrap();
    assert_eq!(topic.publish_control(7).unwrap().seq, 1);
    let first = slow.try_recv().unwrap().unwrap();
    assert_eq!((first.lane, first.seq, first.event), (Lane::Control, 1, 7));
    assert!(matches!(slow.try_recv(), Err(RecvError::Lagged(gap)) if gap.missed() == 96));
    let second = slow.try_recv().unwrap().unwrap();
    assert_eq!(
        (second.lane, second.seq, second.event),
        (Lane::Data, 97, 96)
    );
}

#[test]
fn data_never_displaces_a_control_event() {
    let topic = topic(2);
    let mut reader = topic.subscribe().unwrap();
    for event in 0..16 {
        topic.publish_control(event).unwrap();
        topic.publish_many(0..50).unwrap();
    }
    for event in 0..16 {
        assert_eq!(reader.try_recv().unwrap().unwrap().event, event);
    }
}

#[test]
fn the_seventeenth_unread_control_event_displaces_the_first_and_says_so() {
    let topic = topic(2);
    let mut reader = topic.subscribe().unwrap();
    for event in 1..=17 {
        topic.publish_control(event).unwrap();
    }
    let Err(RecvError::Lagged(gap)) = reader.try_recv() else {
        panic!("must have lagged")
    };
    assert_eq!(
        (gap.lane, gap.first_missed, gap.last_missed),
        (Lane::Control, 1, 1)
    );
    let next = reader.try_recv().unwrap().unwrap();
    assert_eq!((next.seq, next.event), (2, 2));
    assert_eq!(reader.account().lost.lagged, 1);
}

#[test]
fn a_disconnect_reader_is_cut_off_by_control_events_too_and_loses_both_lanes() {
    let topic = topic(8);
    let mut reader = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    topic.publish_many(0..3).unwrap();
    for event in 1..=17 {
        topic.publish_control(event).unwrap();
    }
    let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!(
        (gap.lane, gap.first_missed, gap.last_missed),
        (Lane::Control, 1, 17)
    );
    assert_eq!(reader.account().lost.disconnected, 20);
    assert!(reader.account().is_balanced());
}

#[test]
fn the_lanes_count_for_themselves() {
    let topic = topic(8);
    let mut reader = topic.subscribe().unwrap();
    topic.publish(0).unwrap();
    topic.publish(0).unwrap();
    assert_eq!(topic.publish_control(0).unwrap().seq, 1);
    assert_eq!(topic.publish(0).unwrap().seq, 3);
    let stats = topic.stats();
    assert_eq!((stats.seq, stats.control_seq, stats.published()), (3, 1, 4));
    assert_eq!(stats.readers[0].account.pending, 4);
    let order: Vec<_> = std::iter::from_fn(|| reader.try_recv().unwrap())
        .map(|d| (d.lane, d.seq))
        .collect();
    assert_eq!(
        order,
        [
            (Lane::Control, 1),
            (Lane::Data, 1),
            (Lane::Data, 2),
            (Lane::Data, 3)
        ]
    );
}

#[test]
fn while_there_is_room_keyed_events_are_events_like_any() {
    let topic = topic(2);
    let mut readers = readers_of_every_policy(&topic);
    for event in 1..=16 {
        let published = topic.publish_control_keyed(7, event).unwrap();
        assert_eq!((published.seq, published.readers), (u64::from(event), 4));
    }
    for reader in &mut readers {
        let expected: Vec<_> = (1..=16)
            .map(|event| (Lane::Control, u64::from(event), 0, event))
            .collect();
        assert_eq!(drain(reader), expected);
        assert_eq!(balanced(reader.account()).conflated, 0);
    }
}

#[test]
fn the_seventeenth_unread_event_takes_in_the_oldest_of_its_key() {
    let topic = topic(2);
    let mut readers = readers_of_every_policy(&topic);
    topic.publish_control(1).unwrap();
    topic.publish_control_keyed(7, 2).unwrap();
    topic.publish_control_keyed(8, 3).unwrap();
    for event in 4..=16 {
        topic.publish_control_keyed(7, event).unwrap();
    }
    topic.publish_control_keyed(8, 17).unwrap();
    topic.publish_control_keyed(8, 18).unwrap();
    topic.publish_control_keyed(7, 19).unwrap();
    for reader in &mut readers {
        let account = balanced(reader.account());
        assert_eq!(
            (account.offered, account.conflated, account.pending),
            (19, 3, 16)
        );
        assert_eq!(account.lost.total(), 0);
        let seen: Vec<_> = drain(reader)
            .into_iter()
            .map(|(_, seq, conflated, event)| {
                assert_eq!(seq, u64::from(event));
                (event, conflated)
            })
            .collect();
        let mut expected = vec![(1, 0)];
        expected.extend((4..=16).map(|event| (event, 0)));
        expected.extend([(18, 2), (19, 1)]);
        assert_eq!(seen, expected);
        assert_eq!(balanced(reader.account()).delivered, 16);
    }
}

#[test]
fn a_key_nobody_holds_displaces_the_oldest_and_counts_it_lost() {
    let topic = topic(2);
    let [mut oldest, mut strict, mut block, mut conflate] = readers_of_every_policy(&topic);
    for event in 1..=16 {
        topic.publish_control(event).unwrap();
    }
    // Events without a key are of no key.
    topic.publish_control_keyed(0, 17).unwrap();
    topic.publish_control_keyed(0, 18).unwrap();
    topic.publish_control(19).unwrap();
    for reader in [&mut oldest, &mut block, &mut conflate] {
        let account = balanced(reader.account());
        assert_eq!((account.lost.lagged, account.conflated), (2, 1));
        let Err(RecvError::Lagged(gap)) = reader.try_recv() else {
            panic!("must have lagged")
        };
        assert_eq!(
            (gap.lane, gap.first_missed, gap.last_missed, gap.missed()),
            (Lane::Control, 1, 2, 2)
        );
        let seen: Vec<_> = drain(reader).iter().map(|(_, _, c, e)| (*e, *c)).collect();
        let mut expected: Vec<_> = (3..=16).map(|event| (event, 0)).collect();
        expected.extend([(18, 1), (19, 0)]);
        assert_eq!(seen, expected);
    }
    let Err(RecvError::Disconnected(gap)) = strict.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!(
        (gap.lane, gap.first_missed, gap.last_missed, gap.missed()),
        (Lane::Control, 1, 17, 17)
    );
    assert_eq!(balanced(strict.account()).lost.disconnected, 17);
}

#[test]
fn a_storm_of_one_key_leaves_every_other_control_event_in_place() {
    let topic = topic(2);
    let mut readers = readers_of_every_policy(&topic);
    for event in 1..=15 {
        topic.publish_control(event).unwrap();
    }
    for event in 0..1000 {
        topic.publish_control_keyed(7, 1000 + event).unwrap();
    }
    for reader in &mut readers {
        let seen: Vec<_> = drain(reader).iter().map(|(_, _, c, e)| (*e, *c)).collect();
        let mut expected: Vec<_> = (1..=15).map(|event| (event, 0)).collect();
        expected.push((1999, 999));
        assert_eq!(seen, expected);
        let account = balanced(reader.account());
        assert_eq!((account.conflated, account.lost.total()), (999, 0));
    }
    assert_eq!(balanced(topic.stats().total).conflated, 4 * 999);
}

#[test]
fn the_last_event_is_the_next_of_every_slow_reader_and_the_data_stays_readable() {
    let topic = topic(8);
    let mut readers = readers_of_every_policy(&topic);
    topic.publish_many(1..=8).unwrap();
    topic.publish_last(99).unwrap();
    assert!(topic.publish(100).is_err() && topic.publish_control_keyed(1, 100).is_err());
    for reader in &mut readers {
        let last = reader.try_recv().unwrap().unwrap();
        assert_eq!(
            (last.lane, last.seq, last.event, last.conflated),
            (Lane::Control, 1, 99, 0)
        );
        for event in 1..=8 {
            assert_eq!(reader.try_recv().unwrap().unwrap().event, event);
        }
        assert_eq!(reader.try_recv(), Err(RecvError::Closed));
        assert_eq!(balanced(reader.account()).delivered, 9);
    }
}

#[test]
fn a_reader_far_behind_gets_the_last_event_before_its_gap() {
    let topic = topic(4);
    let [mut oldest, _, mut block, mut conflate] = readers_of_every_policy(&topic);
    topic.publish_many(1..=15).unwrap();
    topic.publish_last(99).unwrap();
    for reader in [&mut oldest, &mut block, &mut conflate] {
        assert_eq!(reader.try_recv().unwrap().unwrap().event, 99);
    }
    let rest = |reader: &mut Subscriber<u32>| {
        let mut seen = Vec::new();
        loop {
            match reader.try_recv() {
                Ok(Some(delivery)) => seen.push(Ok(delivery.event)),
                Err(RecvError::Lagged(gap)) => seen.push(Err(gap.missed())),
                end => {
                    assert_eq!(end, Err(RecvError::Closed));
                    return seen;
                }
            }
        }
    };
    let oks = |range: std::ops::RangeInclusive<u32>| range.map(Ok).collect::<Vec<_>>();
    assert_eq!(rest(&mut oldest), [vec![Err(11)], oks(12..=15)].concat());
    assert_eq!(rest(&mut block), [oks(1..=4), vec![Err(11)]].concat());
    assert_eq!(rest(&mut conflate), oks(6..=15));
}
