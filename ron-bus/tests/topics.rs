//! Opening topics: what must agree, and the limits.

use std::error::Error;

use ron_bus::{Bus, BusConfig, BusError, TopicError};

fn bus() -> Bus {
    Bus::new(BusConfig::default()).unwrap()
}

#[test]
fn the_same_name_is_the_same_topic() {
    let bus = bus();
    let mut reader = bus.topic::<u8>("a").unwrap().subscribe().unwrap();
    bus.clone().topic::<u8>("a").unwrap().publish(1).unwrap();
    assert_eq!(reader.try_recv().unwrap().unwrap().event, 1);
    assert_eq!(bus.topics().len(), 1);
}

#[test]
fn another_type_is_an_error_that_names_both() {
    let bus = bus();
    bus.topic::<u8>("a").unwrap();
    let error = bus.topic::<String>("a").unwrap_err();
    assert_eq!(
        error.to_string(),
        "topic a carries u8, was opened for alloc::string::String"
    );
}

#[test]
fn another_capacity_is_an_error_that_names_both() {
    let bus = bus();
    bus.topic_spec("a").capacity(10).open::<u8>().unwrap();
    let error = bus.topic_spec("a").capacity(20).open::<u8>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "topic a holds 10 events, was opened for 20; open it with its capacity first"
    );
    assert_eq!(
        bus.topic::<u8>("a").unwrap().capacity(),
        10,
        "who asks for none takes what is there"
    );
    assert_eq!(
        bus.topic_spec("a")
            .capacity(10)
            .open::<u8>()
            .unwrap()
            .capacity(),
        10
    );
}

#[test]
fn an_encoder_cannot_be_added_later() {
    let bus = bus();
    bus.topic::<u8>("plain").unwrap();
    let error = bus.topic_spec("plain").json().open::<u8>().unwrap_err();
    assert_eq!(
        error,
        TopicError::EncoderMismatch {
            topic: "plain".to_owned()
        }
    );
    bus.topic_spec("json").json().open::<u8>().unwrap();
    assert!(
        bus.topic::<u8>("json").unwrap().stats().json,
        "who asks for none takes what is there"
    );
}

#[test]
fn a_topic_takes_the_capacity_of_the_bus_unless_it_has_its_own() {
    let bus = Bus::new(BusConfig::default().capacity(7)).unwrap();
    assert_eq!(bus.topic::<u8>("a").unwrap().stats().capacity, 7);
    assert_eq!(
        Bus::new(BusConfig::default())
            .unwrap()
            .topic::<u8>("a")
            .unwrap()
            .capacity(),
        256
    );
    let error = bus.topic_spec("b").capacity(1).open::<u8>().unwrap_err();
    assert_eq!(
        error,
        TopicError::Capacity {
            topic: "b".to_owned(),
            source: BusError::Capacity { got: 1 }
        }
    );
    assert_eq!(
        error.source().unwrap().to_string(),
        "bus capacity is 1 events, must be 2 to 1048576"
    );
}

#[test]
fn the_number_of_topics_is_bounded() {
    let bus = Bus::new(BusConfig::default().max_topics(1)).unwrap();
    bus.topic::<u8>("a").unwrap();
    assert_eq!(
        bus.topic::<u8>("b").unwrap_err(),
        TopicError::TooMany {
            topic: "b".to_owned(),
            limit: 1
        }
    );
    bus.topic::<u8>("a").unwrap();
}

#[test]
fn a_topic_name_follows_the_grammar() {
    assert!(
        matches!(bus().topic::<u8>("a/b"), Err(TopicError::Name(error)) if error.name == "a/b")
    );
}

#[test]
fn topics_are_listed_by_name() {
    let bus = bus();
    for name in ["c", "a", "b"] {
        bus.topic::<u8>(name).unwrap();
    }
    let names: Vec<_> = bus
        .topics()
        .into_iter()
        .map(|t| t.name.to_string())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
}
