//! Readers that are too slow: what they are told, and what it costs them.

use ron_bus::{Bus, BusConfig, Gap, Lane, Overflow, RecvError, Subscriber, Topic};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn next(reader: &mut Subscriber<u32>) -> Result<Option<u32>, RecvError> {
    reader.try_recv().map(|d| d.map(|d| d.event))
}

fn span(gap: Gap) -> (Lane, u64, u64, u64) {
    (gap.lane, gap.first_missed, gap.last_missed, gap.missed())
}

fn lagged(result: Result<Option<u32>, RecvError>) -> (Lane, u64, u64, u64) {
    match result {
        Err(RecvError::Lagged(gap)) => span(gap),
        other => panic!("expected a gap, got {other:?}"),
    }
}

#[test]
fn a_slow_reader_learns_exactly_which_events_it_missed() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    topic.publish_many(1..=4).unwrap();
    assert_eq!(
        next(&mut reader),
        Ok(Some(1)),
        "a full ring has lost nothing yet"
    );
    topic.publish_many(5..=9).unwrap();
    assert_eq!(lagged(next(&mut reader)), (Lane::Data, 2, 5, 4));
    for event in 6..=9 {
        assert_eq!(next(&mut reader), Ok(Some(event)));
    }
    assert_eq!(next(&mut reader), Ok(None));
    let account = reader.account();
    assert_eq!(
        (account.offered, account.delivered, account.lost.lagged),
        (9, 5, 4)
    );
}

#[test]
fn the_loss_is_in_the_account_before_the_reader_notices() {
    let topic = topic(2);
    let reader = topic.subscribe().unwrap();
    topic.publish_many(0..7).unwrap();
    let account = reader.account();
    assert_eq!((account.lost.lagged, account.pending), (5, 2));
    assert!(account.is_balanced());
    assert_eq!(topic.stats().total, account);
    assert_eq!(topic.stats().queue_depth(), 2);
}

#[test]
fn the_capacity_is_exactly_the_one_asked_for() {
    for capacity in [2, 3, 5, 1000] {
        let topic = topic(capacity);
        let mut reader = topic.subscribe().unwrap();
        topic.publish_many(0..capacity as u32).unwrap();
        assert_eq!(reader.account().lost.total(), 0);
        topic.publish(0).unwrap();
        assert_eq!(reader.account().lost.total(), 1);
        assert_eq!(lagged(next(&mut reader)), (Lane::Data, 1, 1, 1));
    }
}

#[tokio::test]
async fn a_batch_does_not_hide_a_gap() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    topic.publish_many(1..=6).unwrap();
    let mut out = Vec::new();
    assert!(
        matches!(reader.recv_many(&mut out, 10).await, Err(RecvError::Lagged(gap)) if gap.missed() == 2)
    );
    assert!(out.is_empty());
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(4));
    topic.publish_many(7..=13).unwrap();
    topic.publish_control(99).unwrap();
    assert_eq!(
        reader.recv_many(&mut out, 10).await,
        Ok(1),
        "control events come before the gap in the data"
    );
    assert!(
        matches!(reader.recv_many(&mut out, 10).await, Err(RecvError::Lagged(gap)) if gap.missed() == 3)
    );
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(4));
    let events: Vec<_> = out.iter().map(|d| d.event).collect();
    assert_eq!(events, [3, 4, 5, 6, 99, 10, 11, 12, 13]);
}

#[test]
fn a_disconnect_reader_is_cut_off_by_the_first_event_it_would_miss() {
    let topic = topic(4);
    let mut strict = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    let mut quick = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    topic.publish_many(1..=4).unwrap();
    assert_eq!(next(&mut strict), Ok(Some(1)));
    while let Some(_event) = next(&mut quick).unwrap() {}
    assert_eq!(topic.publish(5).unwrap().readers, 2);
    assert_eq!(
        topic.publish(6).unwrap().readers,
        1,
        "event 6 takes the slot of event 2"
    );
    assert_eq!(topic.publish(7).unwrap().readers, 1);
    let Err(RecvError::Disconnected(gap)) = next(&mut strict) else {
        panic!("must be cut off")
    };
    assert_eq!(span(gap), (Lane::Data, 2, 6, 5));
    assert_eq!(
        next(&mut strict),
        Err(RecvError::Disconnected(gap)),
        "final"
    );
    let account = strict.account();
    assert_eq!(
        (
            account.offered,
            account.delivered,
            account.lost.disconnected
        ),
        (6, 1, 5)
    );
    assert!(account.is_balanced());
    assert_eq!(next(&mut quick), Ok(Some(5)));
    assert_eq!(topic.stats().subscribers, 1);
    assert_eq!(topic.stats().readers.len(), 2);
    drop(strict);
    assert_eq!(topic.stats().subscribers, 1);
    assert_eq!(topic.stats().readers.len(), 1);
}

#[test]
fn a_disconnect_reader_that_joins_later_is_guarded_too() {
    let topic = topic(2);
    let first = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    topic.publish_many(1..=10).unwrap();
    drop(first);
    let mut late = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    topic.publish_many(11..=12).unwrap();
    assert_eq!(late.account().lost.total(), 0);
    topic.publish(13).unwrap();
    assert!(matches!(next(&mut late), Err(RecvError::Disconnected(gap)) if gap.missed() == 3));
}

#[test]
fn the_stream_of_a_disconnect_reader_ends_with_the_disconnect() {
    use futures_core::Stream;
    use std::pin::Pin;
    let topic = topic(2);
    let mut stream = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap()
        .into_stream();
    topic.publish_many(1..=3).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut pull = || {
        runtime.block_on(std::future::poll_fn(|cx| {
            Pin::new(&mut stream).poll_next(cx)
        }))
    };
    assert!(matches!(pull(), Some(Err(RecvError::Disconnected(_)))));
    assert!(pull().is_none());
}
