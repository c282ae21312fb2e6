//! Closing and sealing: what can still be read, and what comes back.

use ron_bus::{
    Bus, BusConfig, Lane, RecvError, Refusal, Start, SubscribeError, Subscriber, Topic, TopicError,
    TopicState,
};

fn topic(capacity: usize) -> (Bus, Topic<u32>) {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(capacity).open().unwrap();
    (bus, topic)
}

fn read_to_end(reader: &mut Subscriber<u32>) -> (Vec<u32>, RecvError) {
    let mut events = Vec::new();
    loop {
        match reader.try_recv() {
            Ok(Some(delivery)) => events.push(delivery.event),
            Ok(None) => panic!("open after {events:?}"),
            Err(RecvError::Lagged(_)) => {}
            Err(end) => return (events, end),
        }
    }
}

#[test]
fn a_closed_topic_is_read_to_its_end_and_returns_new_events() {
    let (_bus, topic) = topic(4);
    let mut reader = topic.subscribe().unwrap();
    topic.publish(1).unwrap();
    topic.close();
    topic.close();
    let refused = topic.publish(2).unwrap_err();
    assert_eq!((refused.event, refused.refusal), (2, Refusal::Closed));
    assert_eq!(
        refused.to_string(),
        "event not published: topic t is closed"
    );
    assert_eq!(topic.publish_control(3).unwrap_err().event, 3);
    assert_eq!(topic.publish_last(4).unwrap_err().event, 4);
    assert_eq!(read_to_end(&mut reader), (vec![1], RecvError::Closed));
    assert_eq!(
        read_to_end(&mut reader),
        (vec![], RecvError::Closed),
        "final"
    );
    assert_eq!(
        topic.subscribe().unwrap_err(),
        SubscribeError::Closed { topic: "t".into() }
    );
    assert_eq!(topic.stats().state, TopicState::Closed);
}

#[test]
fn the_last_event_seals_both_lanes_and_returns_what_comes_after() {
    let (_bus, topic) = topic(4);
    let mut reader = topic.subscribe().unwrap();
    topic.publish(1).unwrap();
    topic.publish_control(2).unwrap();
    let last = topic.publish_last(3).unwrap();
    assert_eq!((last.seq, last.readers), (2, 1));
    for refused in [
        topic.publish(4),
        topic.publish_control(4),
        topic.publish_last(4),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.event, refused.refusal), (4, Refusal::Sealed));
    }
    let mut rest = [5, 6].into_iter();
    let refused = topic.publish_many(&mut rest).unwrap_err();
    assert_eq!(
        (refused.unsent, refused.published.count, refused.refusal),
        (vec![5, 6], 0, Refusal::Sealed)
    );
    assert_eq!(topic.stats().state, TopicState::Sealed);
    assert_eq!(
        (
            topic.stats().seq,
            topic.stats().control_seq,
            topic.stats().published()
        ),
        (1, 2, 3)
    );
    assert_eq!(read_to_end(&mut reader), (vec![2, 3, 1], RecvError::Closed));
}

#[test]
fn a_refused_batch_gives_back_what_it_took_and_leaves_the_rest_in_the_iterator() {
    let (_bus, topic) = topic(4);
    let closer = topic.clone();
    let mut events = (0..40_u32).inspect(|n| {
        if *n == 20 {
            closer.close();
        }
    });
    let refused = topic.publish_many(&mut events).unwrap_err();
    assert_eq!(
        (refused.published.count, refused.published.last_seq),
        (16, Some(16))
    );
    assert_eq!(refused.unsent, (16..32).collect::<Vec<_>>());
    assert_eq!(events.next(), Some(32));
}

#[test]
fn the_slowest_reader_still_receives_the_last_event() {
    let (_bus, topic) = topic(2);
    let mut reader = topic.subscribe().unwrap();
    topic.publish_many(0..1000).unwrap();
    for event in 0..100 {
        topic.publish_control(event).unwrap();
    }
    topic.publish_last(7777).unwrap();
    topic.close();
    let (events, end) = read_to_end(&mut reader);
    assert_eq!(
        events,
        (84..100).chain([7777, 998, 999]).collect::<Vec<_>>()
    );
    assert_eq!(end, RecvError::Closed);
    assert!(reader.account().is_balanced());
}

#[test]
fn no_filter_hides_the_last_event() {
    let (_bus, topic) = topic(4);
    let mut reader = topic.subscriber().filter(|_| false).build().unwrap();
    topic.publish(1).unwrap();
    topic.publish_control(2).unwrap();
    topic.publish_last(3).unwrap();
    assert_eq!(read_to_end(&mut reader), (vec![3], RecvError::Closed));
    assert_eq!(
        (reader.account().delivered, reader.account().filtered),
        (1, 2)
    );
}

#[test]
fn who_subscribes_to_a_sealed_topic_finds_its_last_event() {
    let (_bus, topic) = topic(4);
    topic.publish(1).unwrap();
    topic.publish_last(2).unwrap();
    let mut live = topic.subscribe().unwrap();
    let mut retained = topic
        .subscriber()
        .start(Start::Retained(9))
        .build()
        .unwrap();
    let first = live.try_recv().unwrap().unwrap();
    assert_eq!((first.seq, first.lane, first.event), (1, Lane::Control, 2));
    assert_eq!(read_to_end(&mut live), (vec![], RecvError::Closed));
    assert_eq!(read_to_end(&mut retained), (vec![2, 1], RecvError::Closed));
    assert!(live.account().is_balanced() && retained.account().is_balanced());
}

#[tokio::test]
async fn a_waiting_reader_of_a_sealed_topic_ends() {
    let (_bus, topic) = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let read = tokio::spawn(async move {
        (
            reader.recv().await.map(|d| d.event),
            reader.recv().await.is_err(),
        )
    });
    tokio::task::yield_now().await;
    topic.publish_last(1).unwrap();
    assert_eq!(read.await.unwrap(), (Ok(1), true));
}

#[test]
fn closing_the_bus_closes_every_topic_and_opens_no_more() {
    let (bus, topic) = topic(4);
    let other = bus.topic::<u8>("other").unwrap();
    topic.publish(1).unwrap();
    bus.clone().close();
    bus.close();
    assert!(topic.publish(1).is_err() && other.publish(1).is_err());
    assert_eq!(
        bus.topic::<u32>("t").unwrap_err(),
        TopicError::Closed {
            topic: "t".to_owned()
        }
    );
    assert_eq!(bus.topics().len(), 2, "accounts stay readable");
}

#[test]
fn a_topic_closes_when_nobody_is_left_who_could_publish() {
    let (bus, topic) = topic(4);
    let mut reader = topic.subscribe().unwrap();
    topic.publish(1).unwrap();
    drop(bus);
    let publisher = topic.clone();
    drop(topic);
    publisher.publish(2).unwrap();
    drop(publisher);
    assert_eq!(read_to_end(&mut reader), (vec![1, 2], RecvError::Closed));
}

#[test]
fn a_topic_outlives_its_handles_while_the_bus_can_hand_out_new_ones() {
    let (bus, topic) = topic(4);
    let mut reader = topic.subscribe().unwrap();
    drop(topic);
    bus.topic::<u32>("t").unwrap().publish(1).unwrap();
    assert_eq!(reader.try_recv().unwrap().unwrap().event, 1);
    assert_eq!(reader.try_recv(), Ok(None));
}
