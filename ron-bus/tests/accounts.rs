//! Accounts: filters, names, and readers that left.

use ron_bus::{Account, Bus, BusConfig, Overflow, SubscribeError, Topic, TopicStats};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn named(stats: &TopicStats, name: &str) -> (usize, Account) {
    let row = stats.by_name.iter().find(|row| &*row.name == name).unwrap();
    (row.readers, row.account)
}

#[test]
fn a_filter_counts_what_it_refuses() {
    let topic = topic(8);
    let mut even = topic
        .subscriber()
        .name("even")
        .filter(|n| n % 2 == 0)
        .build()
        .unwrap();
    topic.publish_many(1..=5).unwrap();
    topic.publish_control(7).unwrap();
    assert_eq!(even.try_recv().unwrap().map(|d| d.event), Some(2));
    let account = even.account();
    assert_eq!(
        (
            account.offered,
            account.delivered,
            account.filtered,
            account.pending
        ),
        (6, 1, 2, 3)
    );
    assert_eq!(even.try_recv().unwrap().map(|d| d.event), Some(4));
    assert_eq!(even.try_recv().unwrap(), None);
    let account = even.account();
    assert_eq!(
        (account.delivered, account.filtered, account.pending),
        (2, 4, 0)
    );
    assert!(account.is_balanced());
}

#[tokio::test]
async fn a_filter_holds_for_batches_too() {
    let topic = topic(600);
    let mut reader = topic
        .subscriber()
        .filter(|n| [7, 300, 599].contains(n))
        .build()
        .unwrap();
    topic.publish_many(0..600).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 2).await, Ok(2));
    assert_eq!(reader.account().filtered, 299, "no further than it needs");
    assert_eq!(reader.recv_many(&mut out, 1000).await, Ok(1));
    assert_eq!(
        out.iter().map(|d| (d.seq, d.event)).collect::<Vec<_>>(),
        [(8, 7), (301, 300), (600, 599)]
    );
    assert_eq!(
        (reader.account().filtered, reader.account().pending),
        (597, 0)
    );
}

#[test]
fn the_counters_of_a_name_outlive_its_readers() {
    let topic = topic(2);
    for _ in 0..3 {
        let mut reader = topic.subscriber().name("svc-a").build().unwrap();
        topic.publish_many(0..5).unwrap();
        assert!(reader.try_recv().is_err());
        assert!(reader.try_recv().unwrap().is_some());
    }
    let stats = topic.stats();
    let (readers, account) = named(&stats, "svc-a");
    assert_eq!(readers, 0);
    assert_eq!(
        (account.offered, account.delivered, account.pending),
        (15, 3, 0)
    );
    assert_eq!(
        (
            account.lost.lagged,
            account.lost.abandoned,
            account.lost.overflowed()
        ),
        (9, 3, 9)
    );
    assert!(account.is_balanced());
    assert_eq!(stats.total, account);
    assert!(stats.readers.is_empty());
    assert_eq!((stats.subscribers, stats.queue_depth()), (0, 0));
}

#[test]
fn readers_of_one_name_share_a_row_and_keep_their_own_accounts() {
    let topic = topic(8);
    let mut first = topic.subscriber().name("pool").build().unwrap();
    let _second = topic
        .subscriber()
        .name("pool")
        .overflow(Overflow::Disconnect)
        .build()
        .unwrap();
    let _unnamed = topic.subscribe().unwrap();
    topic.publish(1).unwrap();
    first.try_recv().unwrap();
    let stats = topic.stats();
    let (readers, account) = named(&stats, "pool");
    assert_eq!(
        (readers, account.offered, account.delivered, account.pending),
        (2, 2, 1, 1)
    );
    assert_eq!(named(&stats, "anonymous").1.pending, 1);
    assert_eq!(stats.readers.len(), 3);
    assert_eq!(
        stats
            .readers
            .iter()
            .filter(|r| r.overflow == ron_bus::Policy::Disconnect)
            .count(),
        1
    );
}

#[test]
fn names_beyond_the_sixty_fourth_are_added_up_under_other() {
    let topic = topic(8);
    let readers: Vec<_> = (0..70)
        .map(|n| topic.subscriber().name(format!("r{n}")).build().unwrap())
        .collect();
    topic.publish(1).unwrap();
    drop(readers);
    let stats = topic.stats();
    assert_eq!(stats.by_name.len(), 65);
    assert_eq!(named(&stats, "other").1.lost.abandoned, 6);
    assert_eq!(stats.total.offered, 70);
}

#[test]
fn the_number_of_readers_is_bounded_and_a_place_becomes_free_again() {
    let bus = Bus::new(BusConfig::default().max_readers(2)).unwrap();
    let topic = bus.topic::<u8>("t").unwrap();
    let first = topic.subscribe().unwrap();
    let _second = topic.subscribe().unwrap();
    let refused = topic.subscribe().unwrap_err();
    assert_eq!(
        refused,
        SubscribeError::TooMany {
            topic: "t".into(),
            limit: 2
        }
    );
    assert_eq!(
        refused.to_string(),
        "topic t already has 2 readers; drop one or raise max_readers"
    );
    drop(first);
    topic.subscribe().unwrap();
}

#[test]
fn a_reader_name_follows_the_grammar() {
    assert!(matches!(
        topic(2).subscriber().name("a b").build(),
        Err(SubscribeError::Name(_))
    ));
}
