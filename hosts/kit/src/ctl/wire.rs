//! The answers of a control plane, read leniently: an absent, null or misshapen member is its default, an unknown
//! one is ignored, so that old and new services can be asked alike. Every text is escaped while it is read.

use std::fmt::{self, Write as _};
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::moment::Time;

/// Text from a service in which nothing is left that a terminal would obey.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(String);

impl Text {
    /// `raw` with its control and direction-changing characters written out, as in `\x1b`.
    pub(crate) fn escaped(raw: &str) -> Text {
        let mut text = String::with_capacity(raw.len());
        for c in raw.chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push(' '),
                c if c.is_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(c));
                }
                '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}' => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        Text(text)
    }

    /// A string as it is, anything else as compact JSON.
    pub(crate) fn of(value: &Value) -> Text {
        match value {
            Value::Null => Text::default(),
            Value::String(text) => Text::escaped(text),
            other => Text::escaped(&other.to_string()),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        Value::deserialize(deserializer).map(|value| Text::of(&value))
    }
}

/// A list of which only the elements of the right shape are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        let Value::Array(items) = Value::deserialize(deserializer)? else {
            return Ok(List::default());
        };
        let items = items
            .into_iter()
            .filter(|item| !item.is_null())
            .filter_map(|item| T::deserialize(item).ok());
        Ok(List(items.collect()))
    }
}

/// An object of counters, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(Vec<(Text, u64)>);

impl Counts {
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        let found = self.0.iter().find(|(known, _)| &**known == name);
        found.map(|(_, count)| *count)
    }
}

impl Deref for Counts {
    type Target = [(Text, u64)];

    fn deref(&self) -> &[(Text, u64)] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counts, D::Error> {
        let Value::Object(counts) = Value::deserialize(deserializer)? else {
            return Ok(Counts::default());
        };
        let counts = counts
            .iter()
            .filter_map(|(name, count)| Some((Text::escaped(name), count.as_u64()?)));
        Ok(Counts(counts.collect()))
    }
}

fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

macro_rules! answers {
    ($($name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {$(
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name {
            $($(#[$attr])* #[serde(deserialize_with = "lenient")] pub(crate) $field: $type,)*
        }
    )*};
}

answers! {
    About {
        service: Text,
        instance: Text,
        pid: Option<u64>,
        version: Text,
        uptime_ms: Option<u64>,
        state: Text,
        chaos_armed: bool,
        children: Counts,
    }
    Tree {
        service: Text,
        instance: Text,
        now: Option<Time>,
        state: Text,
        children: List<Node>,
    }
    Node {
        id: Text,
        kind: Text,
        state: Text,
        generation: u64,
        since: Option<Time>,
        restarts: u64,
        restarts_in_window: u64,
        retry_at: Option<Time>,
        status: Option<Text>,
        cause: Option<Text>,
        pid: Option<u64>,
        children: List<Node>,
    }
    Diagnosis {
        service: Text,
        instance: Text,
        now: Option<Time>,
        state: Text,
        ready: Option<bool>,
        degraded: bool,
        verdict: Text,
        findings: List<Finding>,
        omitted: u64,
    }
    Finding {
        severity: Text,
        subject: Text,
        what: Text,
        since: Option<Time>,
        because: List<Reason>,
        affects: List<Text>,
        next: Text,
        retry_at: Option<Time>,
        #[serde(rename = "try")]
        advice: List<Text>,
    }
    Reason {
        what: Text,
        since: Option<Time>,
        evidence: Text,
    }
    Explanation {
        id: Text,
        state: Text,
        because: List<Reason>,
        next: Text,
        retry_at: Option<Time>,
        attempts_left: Option<u64>,
        last_exit: Option<LastExit>,
    }
    LastExit {
        kind: Text,
        text: Text,
        location: Option<Text>,
    }
    Line {
        topic: Text,
        seq: Option<u64>,
        ts: Option<Time>,
        event: Value,
        lagged: Option<u64>,
        first_missed: Option<u64>,
        last_missed: Option<u64>,
        reason: Option<Text>,
    }
    Changes {
        service: Text,
        instance: Text,
        now: Option<Time>,
        since: Option<Time>,
        complete: Option<bool>,
        record_from: Option<Time>,
        dropped: u64,
        changes: List<Change>,
    }
    Change {
        seq: Option<u64>,
        ts: Option<Time>,
        kind: Text,
        subject: Option<Text>,
        generation: Option<u64>,
        by: Option<Text>,
        text: Text,
    }
    Bus {
        service: Text,
        instance: Text,
        topics: List<Topic>,
    }
    Topic {
        name: Text,
        state: Text,
        capacity: u64,
        published: u64,
        queue_depth: u64,
        subscribers: u64,
        readers: List<Reader>,
        gone: List<Reader>,
    }
    Reader {
        name: Text,
        policy: Option<Text>,
        pending: u64,
        delivered: u64,
        filtered: u64,
        conflated: u64,
        lost: Counts,
    }
    Top {
        service: Text,
        instance: Text,
        pid: Option<u64>,
        version: Text,
        now: Option<Time>,
        uptime_ms: Option<u64>,
        state: Text,
        missing: List<Text>,
        causes: List<Cause>,
        children: List<Node>,
        topics: List<Topic>,
        process: Process,
    }
    Cause {
        key: Text,
        status: Text,
        reason: Text,
        since: Option<Time>,
    }
    Process {
        cpu_ms: Option<u64>,
        rss_bytes: Option<u64>,
        threads: Option<u64>,
        fds: Option<u64>,
    }
    Config {
        version: Option<u64>,
        sha256: Text,
        values: List<Origin>,
    }
    Origin {
        key: Text,
        value: Option<Text>,
        origin: Source,
        shadowed: List<Sourced>,
        reload: Text,
        doc: Text,
        expected: Text,
        env: List<Text>,
        pending: Option<Sourced>,
    }
    Sourced {
        value: Option<Text>,
        origin: Source,
    }
    Source {
        layer: Text,
        r#where: Text,
    }
    Plan {
        version: Option<u64>,
        applied: List<Text>,
        needs_restart: List<Text>,
        pinned: List<Text>,
        rejected: List<Diagnostic>,
        diff: List<Difference>,
    }
    Diagnostic {
        key: Text,
        r#where: Text,
        problem: Text,
        expected: Option<Text>,
        suggestion: Option<Text>,
    }
    Difference {
        key: Text,
        old: Option<Text>,
        new: Option<Text>,
    }
    Drain {
        linger_ms: u64,
        deadline_ms: u64,
        stages: List<Stage>,
        at_stake: List<Stake>,
    }
    Stage {
        children: List<Stopping>,
    }
    Stopping {
        id: Text,
        kind: Text,
        state: Text,
        stop_timeout_ms: Option<u64>,
    }
    Stake {
        what: Text,
        count: u64,
        r#where: Text,
    }
    Draining {
        draining: bool,
        reason: Text,
    }
    Report {
        started: Option<u64>,
        stopped: u64,
        aborted: u64,
        leaked: u64,
        quarantined: u64,
        took_ms: u64,
        stragglers: List<Text>,
    }
    Accepted {
        id: Text,
        accepted: Text,
        state: Text,
        generation: u64,
    }
    Filter {
        filter: Text,
        until: Option<Time>,
        standing: Text,
    }
    Chaos {
        armed: bool,
        default_child: Option<Text>,
        faults: List<Fault>,
    }
    Fault {
        id: u64,
        fault: Text,
        child: Option<Text>,
        since: Option<Time>,
        until: Option<Time>,
        count: Option<u64>,
        left: Option<u64>,
        injected: u64,
    }
    Cleared {
        cleared: u64,
    }
    Refused {
        error: Refusal,
    }
    Refusal {
        code: Text,
        message: Text,
        details: Details,
    }
    Details {
        suggestion: Option<Text>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_would_obey_is_left_in_a_text() {
        let text = Text::escaped("a\u{1b}[2Jb\r\nc\u{9b}1m\u{202e}d\u{7f}\té");
        assert_eq!(&*text, "a\\x1b[2Jb\\x0d\\nc\\x9b1m\\u{202e}d\\x7f é");
    }

    #[test]
    fn members_of_the_wrong_shape_are_their_default_and_cost_nothing_else() {
        let node: Node = serde_json::from_str(
            r#"{"id":7,"generation":"x","since":12,"children":[null,3,{"id":"a","state":null}],"new":{}}"#,
        )
        .unwrap();
        assert_eq!((&*node.id, node.generation, node.since), ("7", 0, None));
        assert_eq!(node.children.len(), 1);
        assert_eq!(&*node.children[0].id, "a");
    }
}
