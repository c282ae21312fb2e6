//! The grammar of names, and which topics a tail follows.

use ron_bus::{Bus, BusConfig};

/// Takes lines of text: the first is a tail's pattern, the others name topics.
pub fn bus_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n').take(9);
    let pattern = lines.next().unwrap_or_default();
    let bus = Bus::new(BusConfig::default()).expect("the defaults are valid");
    let tail = bus.tail(pattern);
    assert_eq!(tail.is_ok(), is_name(pattern), "{pattern:?}");

    let mut followed = Vec::new();
    let mut named = Vec::new();
    for name in lines {
        let opened = bus.topic_spec(name).json().open::<String>();
        assert_eq!(opened.is_ok(), is_name(name), "{name:?}");
        let Ok(topic) = opened else { continue };
        let reader = topic.subscriber().name(pattern).build();
        assert_eq!(reader.is_ok(), is_name(pattern), "{pattern:?}");
        drop(reader);
        let published = topic.publish(name.to_owned()).expect("it is open");
        let below = name.strip_prefix(pattern);
        let follows = tail.is_ok() && below.is_some_and(|b| b.is_empty() || b.starts_with('.'));
        assert_eq!(published.readers, usize::from(follows), "{name:?}");
        if follows {
            followed.push((name.to_owned(), published.seq));
        }
        named.push(name.to_owned());
    }
    named.sort();
    named.dedup();
    let topics: Vec<_> = bus.topics().iter().map(|t| t.name.to_string()).collect();
    assert_eq!(topics, named);

    let Ok(mut tail) = tail else { return };
    let mut seen = Vec::new();
    while let Some(line) = tail.try_next() {
        let value: serde_json::Value = serde_json::from_str(line.as_str()).expect("a line is JSON");
        assert_eq!(value["topic"], *line.topic);
        assert_eq!(value["event"], *line.topic);
        let seq = value["seq"].as_u64().expect("seq is a number");
        seen.push((line.topic.to_string(), seq));
    }
    followed.sort();
    seen.sort();
    assert_eq!(seen, followed);
}

/// 1 to 128 bytes: segments of ASCII letters, digits, `_` and `-`, joined by single dots.
fn is_name(text: &str) -> bool {
    let mut previous = '.';
    for c in text.chars() {
        let word = c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !word && (c != '.' || previous == '.') {
            return false;
        }
        previous = c;
    }
    previous != '.' && text.len() <= 128
}
