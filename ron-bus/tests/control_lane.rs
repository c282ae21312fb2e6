//! The control lane: slots and a sequence of its own, read first.

use ron_bus::{Bus, BusConfig, Lane, Overflow, RecvError, Topic};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
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
