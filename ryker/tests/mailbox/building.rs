//! What a mailbox can be built with, and what is refused.

use std::time::Duration;

use ryker::{BuildError, Runtime, RykerConfig};

use crate::rig::runtime;

#[test]
fn an_option_out_of_its_range_is_named_with_its_value_and_nothing_is_built() {
    let rt = runtime();
    let refused = [
        (rt.mailbox::<String>("m").capacity(0).build(), "capacity"),
        (rt.mailbox("m").capacity(1_048_577).build(), "capacity"),
        (rt.mailbox("m").capacity(usize::MAX).build(), "capacity"),
        (rt.mailbox("m").deadline(Duration::ZERO).build(), "deadline"),
        (
            rt.mailbox("m").deadline(Duration::from_millis(9)).build(),
            "deadline",
        ),
        (
            rt.mailbox("m")
                .deadline(Duration::from_millis(60_001))
                .build(),
            "deadline",
        ),
        (rt.mailbox("m").deadline(Duration::MAX).build(), "deadline"),
        (
            rt.mailbox("m").max_msg_bytes(1_023).build(),
            "max_msg_bytes",
        ),
        (
            rt.mailbox("m").max_msg_bytes((1 << 20) + 1).build(),
            "max_msg_bytes",
        ),
        (
            rt.mailbox("m").max_msg_bytes(usize::MAX).build(),
            "max_msg_bytes",
        ),
        (
            rt.mailbox("m")
                .max_msg_bytes(2_048)
                .max_bytes(2_047)
                .build(),
            "max_bytes",
        ),
        (
            rt.mailbox("m")
                .capacity(2)
                .max_msg_bytes(2_048)
                .max_bytes(4_097)
                .build(),
            "max_bytes",
        ),
        (rt.mailbox("m").max_bytes(0).build(), "max_bytes"),
        (rt.mailbox("m").max_bytes(u64::MAX).build(), "max_bytes"),
    ];
    for (built, expected) in refused {
        match built {
            Err(BuildError::Invalid { name, option, .. }) => {
                assert_eq!((name.as_str(), option), ("m", expected));
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert_eq!(rt.accounts().accepted, 0);
}

#[test]
fn the_ends_of_every_range_are_in_it() {
    let rt = runtime();
    for capacity in [1, 1_048_576] {
        let built = rt.mailbox::<u8>("m").capacity(capacity).build().unwrap();
        assert_eq!(built.capacity(), capacity);
    }
    for millis in [10, 60_000] {
        let deadline = Duration::from_millis(millis);
        let built = rt.mailbox::<u8>("m").deadline(deadline).build().unwrap();
        assert_eq!(built.deadline(), deadline);
    }
    for bytes in [1_024, 1 << 20] {
        let mailbox = rt.mailbox::<String>("m").max_msg_bytes(bytes);
        mailbox.build().unwrap();
    }
    let narrow = rt.mailbox::<String>("m").capacity(2).max_msg_bytes(2_048);
    narrow.max_bytes(2_048).build().unwrap();
    let wide = rt.mailbox::<String>("m").capacity(2).max_msg_bytes(2_048);
    wide.max_bytes(4_096).build().unwrap();
}

#[test]
fn a_name_is_a_label_of_up_to_64_harmless_characters() {
    let rt = runtime();
    let long = "n".repeat(64);
    for name in [
        "a",
        "A-z.0_9:b/c",
        "/",
        "-",
        "..",
        long.as_str(),
        "(others)".trim_matches(['(', ')']),
    ] {
        rt.mailbox::<u8>(name).build().unwrap();
    }
    let too_long = "n".repeat(65);
    for name in [
        "",
        " ",
        "a b",
        "a\n",
        "a\0",
        "\"",
        "{}",
        "a,b",
        "a=b",
        "\\",
        "ä",
        "a\u{301}",
        "日",
        "\u{1F600}",
        "(others)",
        too_long.as_str(),
    ] {
        match rt.mailbox::<u8>(name).build() {
            Err(BuildError::Name { name: given, .. }) => assert_eq!(given, name),
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

#[test]
fn what_is_not_set_comes_from_the_configuration() {
    let config = RykerConfig::builder()
        .mailbox_capacity(7)
        .deadline(Duration::from_millis(123))
        .max_msg_bytes(2_000);
    let rt = Runtime::new(config.build().unwrap());
    let mailbox = rt.mailbox::<String>("m").measured().build().unwrap();
    assert_eq!(mailbox.capacity(), 7);
    assert_eq!(mailbox.deadline(), Duration::from_millis(123));
    let (sender, _receiver) = mailbox.split();
    assert_eq!(sender.capacity(), 7);
    sender.try_send("x".repeat(2_000)).unwrap();
    sender.try_send("x".repeat(2_001)).unwrap_err();

    let mailbox = rt.mailbox::<u8>("m").capacity(3).build().unwrap();
    assert_eq!(mailbox.capacity(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_drains_builds_nothing() {
    let rt = runtime();
    rt.drain(Duration::ZERO).await;
    match rt.mailbox::<u8>("late").build() {
        Err(BuildError::Draining { name, .. }) => assert_eq!(name, "late"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_may_be_used_twice_and_the_runtime_adds_up() {
    let rt = runtime();
    let (first, mut receiver) = rt.mailbox("m").build().unwrap().split();
    let (second, _kept) = rt.mailbox("m").build().unwrap().split();
    first.try_send(1).unwrap();
    second.try_send("other type").unwrap();
    assert_eq!(receiver.try_recv(), Ok(1));
    let sum = rt.accounts();
    assert_eq!((sum.accepted, sum.ok, sum.pending), (2, 1, 1));
    assert!(sum.balances());
}

#[test]
fn accounts_of_mailboxes_that_are_gone_stay_in_the_sum() {
    let rt = runtime();
    for _ in 0..10 {
        let (sender, mut receiver) = rt.mailbox("m").capacity(2).build().unwrap().split();
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        sender.try_send(3).unwrap_err();
        assert_eq!(receiver.try_recv(), Ok(1));
    }
    let sum = rt.accounts();
    assert_eq!((sum.accepted, sum.ok, sum.dropped), (20, 10, 10));
    assert_eq!((sum.refused.busy, sum.pending), (10, 0));
    assert!(sum.balances());
}
