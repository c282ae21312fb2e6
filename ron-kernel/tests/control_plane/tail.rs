//! What a tail shows: what was retained, what comes, what was missed, and the end.

use crate::bed::{idle, Bed, SERVICE};
use crate::client::Lines;
use crate::golden::{self, Json};
use ron_kernel::bus::{Bus, BusConfig, Topic};
use serde_json::Value;
use std::time::Duration;

fn bus() -> Bus {
    Bus::new(BusConfig::default().instance(ron_kernel::instance())).unwrap()
}

fn topic(bus: &Bus, name: &str, capacity: usize) -> Topic<u64> {
    let spec = bus.topic_spec(name).capacity(capacity).json();
    spec.open::<u64>().unwrap()
}

fn bed(bus: &Bus) -> Bed {
    let bed = Bed::new(|kernel| kernel.bus(bus.clone()).child(idle("web")));
    bed.until_ready();
    bed
}

fn tail(bed: &Bed, query: &str) -> Lines {
    let tail = bed.client.tail(query);
    tail.unwrap_or_else(|answer| panic!("{}", answer.body))
}

fn publish(topic: &Topic<u64>, events: std::ops::Range<u64>) {
    for event in events {
        topic.publish(event).unwrap();
    }
}

fn events(lines: &[Value]) -> Vec<u64> {
    let events = lines.iter().map(|line| line["event"].as_u64());
    events
        .collect::<Option<_>>()
        .unwrap_or_else(|| panic!("{lines:?}"))
}

#[test]
fn without_since_a_tail_begins_with_what_comes_next() {
    let bus = bus();
    let orders = topic(&bus, "orders", 64);
    let bed = bed(&bus);
    publish(&orders, 0..3);
    let mut tail = tail(&bed, "topic=orders");
    publish(&orders, 3..5);
    assert_eq!(events(&tail.until(|line| line["event"] == 4)), [3, 4]);
}

#[test]
fn the_name_of_the_service_stands_for_the_kernels_topic_unless_it_is_one() {
    let bus = bus();
    let bed = bed(&bus);
    let query = format!("topic={SERVICE}&since=60s");
    let first = tail(&bed, &query).until(|_| true);
    assert!(first[0]["topic"].as_str().unwrap().starts_with("kernel"));
    let own = topic(&bus, SERVICE, 64);
    publish(&own, 7..8);
    let first = tail(&bed, &query).until(|_| true);
    assert_eq!(events(&first), [7]);
}

#[test]
fn since_gives_the_retained_events_of_that_span_first() {
    let bus = bus();
    let orders = topic(&bus, "orders", 64);
    let bed = bed(&bus);
    publish(&orders, 0..3);
    std::thread::sleep(Duration::from_millis(1_200));
    publish(&orders, 3..5);
    let mut all = tail(&bed, "topic=orders&since=1h");
    let mut span = tail(&bed, "topic=orders&since=1s");
    publish(&orders, 5..6);
    assert_eq!(
        events(&all.until(|line| line["event"] == 5)),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(events(&span.until(|line| line["event"] == 5)), [3, 4, 5]);
}

#[test]
fn what_is_no_longer_retained_is_one_lag_line_with_its_reason() {
    let bus = bus();
    let orders = topic(&bus, "orders", 8);
    let bed = bed(&bus);
    publish(&orders, 0..20);
    let mut tail = tail(&bed, "topic=orders&since=1h");
    let lag = tail.next_line().unwrap().unwrap();
    golden::check("line_not_retained", Json::parse(&lag), bed.dir());
    publish(&orders, 20..21);
    let lines = tail.until(|line| line["event"] == 20);
    assert_eq!(events(&lines), (12..21).collect::<Vec<_>>());
    let first = tail_first_seq(&lines);
    let lag: Value = serde_json::from_str(&lag).unwrap();
    assert_eq!(lag["last_missed"].as_u64().unwrap() + 1, first);
}

fn tail_first_seq(lines: &[Value]) -> u64 {
    lines[0]["seq"].as_u64().unwrap()
}

#[test]
fn who_does_not_read_is_told_how_much_was_missed_to_the_event() {
    const PUBLISHED: u64 = 100_000;
    let bus = bus();
    let orders = topic(&bus, "orders", 4096);
    let bed = bed(&bus);
    let mut tail = tail(&bed, "topic=orders");
    publish(&orders, 0..PUBLISHED);
    // Others are served meanwhile.
    assert_eq!(bed.client.get("/v1/about").status, 200);
    let (mut seen, mut lagged, mut next) = (0, 0, None);
    let mut shape = None;
    while seen + lagged < PUBLISHED {
        let line = tail.next_line().unwrap().unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        let (first, last) = match value["lagged"].as_u64() {
            Some(missed) => {
                let bound = |key: &str| value[key].as_u64().unwrap();
                let (first, last) = (bound("first_missed"), bound("last_missed"));
                assert_eq!(last - first + 1, missed, "{line}");
                lagged += missed;
                shape = Some(line);
                (first, last)
            }
            None => {
                seen += 1;
                let seq = value["seq"].as_u64().unwrap();
                (seq, seq)
            }
        };
        assert_eq!(
            *next.get_or_insert(first),
            first,
            "nothing is passed over: {value}"
        );
        next = Some(last + 1);
    }
    assert_eq!(seen + lagged, PUBLISHED);
    assert!(lagged > 0 && seen > 0, "{seen} seen, {lagged} missed");
    let shape: Value = serde_json::from_str(&shape.unwrap()).unwrap();
    let keys: Vec<_> = shape.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["first_missed", "lagged", "last_missed", "topic"]);
    publish(&orders, 7..8);
    assert_eq!(tail.next()["event"], 7, "and then goes on");
}

#[test]
fn a_line_is_what_the_wire_says() {
    let bus = bus();
    let orders = topic(&bus, "orders", 64);
    let bed = bed(&bus);
    let mut tail = tail(&bed, "topic=orders");
    publish(&orders, 7..8);
    let line = Json::parse(&tail.next_line().unwrap().unwrap());
    golden::check("line_event", line, bed.dir());
}

#[test]
fn a_name_stands_for_itself_and_for_what_is_below_it() {
    let bus = bus();
    let all = ["orders", "orders.eu", "orders.eu.de", "ordersx", "order"];
    let topics = all.map(|name| topic(&bus, name, 64));
    let bed = bed(&bus);
    let mut tail = tail(&bed, "topic=orders");
    for topic in &topics {
        publish(topic, 0..1);
    }
    let late = topic(&bus, "orders.late", 64);
    publish(&late, 1..2);
    publish(&topics[0], 9..10);
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 5 {
        seen.push(tail.next()["topic"].as_str().unwrap().to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["orders", "orders.eu", "orders.eu.de", "orders.late"]);
    let mut below = self::tail(&bed, "topic=orders.eu&since=1h");
    let mut names = [below.next(), below.next()].map(|line| line["topic"].to_string());
    names.sort();
    assert_eq!(names, ["\"orders.eu\"", "\"orders.eu.de\""]);
}

#[test]
fn a_topic_that_cannot_be_shown_is_refused() {
    let bus = bus();
    let plain = bus.topic_spec("plain").open::<u64>().unwrap();
    let bed = bed(&bus);
    plain.publish(1).unwrap();
    for query in [
        "topic=plain",
        "topic=",
        "topic=a%20b",
        "topic=.",
        "topic=kernel%00",
    ] {
        let answer = bed.client.tail(query).err();
        let answer = answer.unwrap_or_else(|| panic!("{query} is shown"));
        assert!((400..500).contains(&answer.status), "{query}: {answer:?}");
        assert!(answer.json()["error"]["code"].is_string());
    }
}

#[test]
fn a_tail_ends_with_the_kernel_and_its_last_lines_tell_of_the_end() {
    let bed = bed(&bus());
    let both = tail(&bed, "topic=kernel");
    let lifecycle = tail(&bed, "topic=kernel.lifecycle");
    let readers = [both, lifecycle].map(|tail| std::thread::spawn(move || tail.rest()));
    bed.end();
    let [both, lifecycle] = readers.map(|reader| reader.join().unwrap());
    let of = |topic: &str| -> Vec<&Value> {
        let lines = both.iter().filter(|line| line["topic"] == topic);
        lines.map(|line| &line["event"]).collect()
    };
    assert_eq!(
        of("kernel").last().unwrap()["type"],
        "Shutdown",
        "{both:#?}"
    );
    let shutdowns = of("kernel")
        .iter()
        .filter(|event| event["type"] == "Shutdown")
        .count();
    assert_eq!(shutdowns, 1);
    let last = of("kernel.lifecycle").pop().cloned().unwrap();
    assert_eq!(
        (&last["type"], &last["child"]),
        (&"Stopped".into(), &"web".into())
    );
    assert_eq!(both.last().unwrap()["event"], last);
    assert_eq!(lifecycle.last().unwrap()["event"], last);
    assert!(lifecycle
        .iter()
        .all(|line| line["topic"] == "kernel.lifecycle"));
}

#[test]
fn a_tail_that_begins_during_the_drain_sees_its_end_too() {
    let slow = ron_kernel::supervisor::Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let bed = Bed::new(|kernel| kernel.child(slow));
    bed.until_ready();
    bed.client.post("/v1/drain", "{}").expect(202);
    bed.until_state("slow", "stopping");
    let lines = tail(&bed, "topic=kernel&since=1m").rest();
    let types: Vec<_> = lines
        .iter()
        .map(|line| line["event"]["type"].as_str().unwrap_or("lag"))
        .collect();
    assert!(types.contains(&"Shutdown"), "{types:?}");
    assert_eq!(types.last(), Some(&"Stopped"), "{types:?}");
}
