//! What publishing costs while an operator follows the topic through the control socket.

use crate::bus::tail::{publish, Event};
use crate::harness::{Goal, Group};
use ron_kernel::bus::Topic;
use ron_kernel::control::Control;
use ron_kernel::Kernel;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::runtime::Runtime;

pub const NAMES: &[&str] = &["control-tail"];

const EVENTS: u64 = 50_000;
/// Half a second of them: a follower that is away for longer loses some.
const CAPACITY: usize = 16_384;

const BASELINE: &str = "nobody";
const SUBSCRIBER: &str = "one subscriber";
const FOLLOWED: &str = "ronctl's tail, read";
const STALLED: &str = "ronctl's tail, not read";

pub fn groups() -> Vec<Group> {
    vec![Group::new(
        "control-tail",
        "one publish at 100,000 events/s on a topic that is tailed over the control socket",
        BASELINE,
    )
    .measure("p50", "ns")
    .measure("p99", "ns")
    .measure("mean", "ns")
    .case(BASELINE, || run(Follower::Nobody))
    .case(SUBSCRIBER, || run(Follower::Subscriber))
    .case(FOLLOWED, || run(Follower::Tail { reads: true }))
    .case(STALLED, || run(Follower::Tail { reads: false }))
    .goal("p50", FOLLOWED, Goal::Ratio(1.10))
    .goal("mean", FOLLOWED, Goal::Ratio(1.10))
    .goal("p50", STALLED, Goal::Ratio(1.10))
    .note(
        "50,000 events, one every 10 us by the clock; two looks at the clock are in every figure. The follower connects \
         to the kernel's control socket as ronctl does. At the end its lines and the events its lag lines name must add \
         up to what was published; the one that does not read is a stopped terminal, whose lines are read afterwards.",
    )]
}

#[derive(Clone, Copy)]
enum Follower {
    Nobody,
    Subscriber,
    Tail { reads: bool },
}

fn run(follower: Follower) -> Vec<f64> {
    let dir = std::env::temp_dir().join(format!("ron-bench-{}", std::process::id()));
    let runtime = Runtime::new().expect("a runtime");
    let running = runtime.block_on(async {
        let control = Control::new().dir(&dir);
        let kernel = Kernel::builder().name("bench").control(control).build();
        kernel.expect("a kernel").start().await.expect("a start")
    });
    let bus = running.handle().bus().clone();
    let topic: Topic<Event> = bus
        .topic_spec("bench")
        .capacity(CAPACITY)
        .json()
        .open()
        .expect("a topic");
    // The first lap allocates.
    let lap = (0..CAPACITY as u64).map(|number| (number, "bolts", true));
    topic.publish_many(lap).expect("the topic is open");
    let row = match follower {
        Follower::Nobody => publish(&topic, EVENTS),
        Follower::Subscriber => {
            let mut reader = topic.subscribe().expect("a reader");
            let following = runtime.spawn(async move {
                let mut received = 0;
                while let Ok(delivery) = reader.recv().await {
                    black_box(delivery);
                    received += 1;
                }
                received
            });
            let row = publish(&topic, EVENTS);
            topic.close();
            assert_eq!(runtime.block_on(following).expect("the reader"), EVENTS);
            row
        }
        Follower::Tail { reads } => {
            let mut lines = connect(&dir);
            let mut count = move || {
                let (mut seen, mut missed, mut line) = (0, 0, String::new());
                while seen + missed < EVENTS {
                    line.clear();
                    assert!(
                        lines.read_line(&mut line).expect("a line") > 0,
                        "the tail ended"
                    );
                    if line.starts_with(r#"{"topic":"bench","lagged":"#) {
                        missed += field(&line, r#""lagged":"#);
                    } else if line.starts_with('{') {
                        seen += 1;
                    }
                }
                assert_eq!(seen + missed, EVENTS);
            };
            if reads {
                let following = std::thread::spawn(count);
                let row = publish(&topic, EVENTS);
                following.join().expect("a follower");
                row
            } else {
                let row = publish(&topic, EVENTS);
                count();
                row
            }
        }
    };
    runtime.block_on(running.shutdown());
    row
}

/// A tail of the topic, its head read.
fn connect(dir: &Path) -> BufReader<UnixStream> {
    let socket = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .next()
        .expect("a socket");
    let mut stream = UnixStream::connect(socket).expect("a connection");
    stream
        .write_all(b"GET /v1/tail?topic=bench HTTP/1.1\r\nHost: bench\r\n\r\n")
        .expect("a request");
    let mut lines = BufReader::with_capacity(1 << 16, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        lines.read_line(&mut line).expect("a head");
    }
    lines
}

fn field(line: &str, name: &str) -> u64 {
    let behind = line.split(name).nth(1).expect("the field");
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next();
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}
