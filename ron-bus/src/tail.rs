//! `Tail`: the JSON topics of a bus as lines of text.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use futures_core::Stream;
use thiserror::Error;

use crate::channel::{Channel, Encode, Fixed};
use crate::config::{checked_name, NameError};
use crate::receiver::{Connect, Item, Receiver};
use crate::subscriber::{Gap, Lane, Overflow, RecvError, Start};
use crate::timestamp::{push_rfc3339_millis, wall};

/// Follows JSON topics and yields a line per event or gap; from [`Bus::tail`](crate::Bus::tail).
///
/// On every topic it is a reader named `tail` with [`Overflow::DropOldest`]. An event line has the keys of
/// [`TailLine`] in this order, a lag line stands where the missed events would. The lines of one topic keep the order
/// of a [`Subscriber`](crate::Subscriber); topics take turns, so lines of different topics are not ordered by time.
/// Encoding happens here, not in the publisher.
///
/// ```
/// # use ron_bus::{Bus, BusConfig};
/// # let bus = Bus::new(BusConfig::default().instance("edge-7").epoch(3).wall_clock(|| std::time::UNIX_EPOCH))?;
/// let mut tail = bus.tail("orders")?;
/// bus.topic_spec("orders.eu").json().open::<(u32, &str)>()?.publish((42, "bolts"))?;
/// let line = tail.try_next().map(|line| line.into_string());
/// assert_eq!(
///     line.as_deref(),
///     Some(r#"{"topic":"orders.eu","seq":1,"epoch":3,"instance":"edge-7","ts":"1970-01-01T00:00:00.000Z","event":[42,"bolts"]}"#)
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tail {
    lines: Vec<Box<dyn Lines>>,
    /// Which topic is asked first; moves on with every line.
    turn: usize,
    inbox: Arc<Inbox>,
}

impl Tail {
    pub(crate) fn new(lines: Vec<Box<dyn Lines>>) -> (Self, Weak<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let weak = Arc::downgrade(&inbox);
        (
            Self {
                lines,
                turn: 0,
                inbox,
            },
            weak,
        )
    }

    /// Waits for the next line; `None` once the bus and every topic followed are closed and read.
    ///
    /// # Cancel safety
    ///
    /// A line is made only when the future returns it, so dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// If an event's `Serialize` panics. That event counts as `panicked`, the tail stays usable.
    pub async fn next(&mut self) -> Option<TailLine> {
        poll_fn(|cx| self.poll_line(Some(cx))).await
    }

    /// The next line if there is one.
    ///
    /// # Panics
    ///
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Option<TailLine> {
        match self.poll_line(None) {
            Poll::Ready(line) => line,
            Poll::Pending => None,
        }
    }

    /// Without a context it does not park.
    fn poll_line(&mut self, mut cx: Option<&mut Context<'_>>) -> Poll<Option<TailLine>> {
        let finished = self.inbox.take(cx.as_deref(), &mut self.lines);
        let mut asked = 0;
        while asked < self.lines.len() {
            self.turn = if self.turn < self.lines.len() {
                self.turn
            } else {
                0
            };
            match self.lines[self.turn].poll_line(cx.as_deref_mut()) {
                Poll::Ready(Some(line)) => {
                    self.turn += 1;
                    return Poll::Ready(Some(line));
                }
                Poll::Ready(None) => drop(self.lines.remove(self.turn)),
                Poll::Pending => {
                    asked += 1;
                    self.turn += 1;
                }
            }
        }
        if finished && self.lines.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

impl Stream for Tail {
    type Item = TailLine;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TailLine>> {
        self.poll_line(Some(cx))
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail")
            .field("topics", &self.lines.len())
            .finish_non_exhaustive()
    }
}

/// One line of a [`Tail`], without a line break.
///
/// An event: `{"topic","seq","epoch","instance","ts","event"}`, with the time of publishing in RFC 3339, UTC,
/// milliseconds. A gap: `{"topic","lagged","first_missed","last_missed"}`. Lines of the control lane, whose numbers are
/// its own, have `"lane":"control"` behind the topic; one that stands for earlier events ends with `"conflated":n`. An event whose `Serialize` fails has
/// `{"type":"Unencodable","error":"..."}` in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TailLine {
    /// The topic.
    pub topic: Arc<str>,
    /// The lane whose sequence numbers the line shows.
    pub lane: Lane,
    /// Whether the line tells of events missed.
    pub lagged: bool,
    /// Sequence number of the event, or of the newest one missed.
    pub seq: u64,
    /// When the event was published; `None` for a gap.
    pub published: Option<SystemTime>,
    text: String,
}

impl TailLine {
    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The line.
    #[must_use]
    pub fn into_string(self) -> String {
        self.text
    }
}

impl fmt::Display for TailLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a tail was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TailError {
    /// The pattern is no valid topic name. The caller's mistake.
    #[error("tail not opened; the pattern `P` follows topic P and topics P.*")]
    Pattern(#[from] NameError),
    /// The pattern names a topic that was opened without `.json()`.
    #[error("tail not opened: topic {topic} has no encoder; open it with `.json()`")]
    NoEncoder {
        /// The topic.
        topic: String,
    },
    /// The bus has as many tails as it may.
    #[error("tail not opened: {limit} tails are open already; drop one")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The bus is closed.
    #[error("tail not opened: the bus is closed")]
    Closed,
}

/// A topic's name and everything below it.
pub(crate) struct Pattern(String);

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, NameError> {
        checked_name(pattern)?;
        Ok(Self(pattern.to_owned()))
    }

    pub(crate) fn matches(&self, topic: &str) -> bool {
        topic
            .strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// Where the bus leaves readers of topics opened after the tail.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
}

#[derive(Default)]
struct InboxState {
    arrived: Vec<Box<dyn Lines>>,
    /// No more will arrive.
    finished: bool,
    waker: Option<Waker>,
}

impl Inbox {
    pub(crate) fn put(&self, lines: Box<dyn Lines>) {
        self.lock().arrived.push(lines);
    }

    pub(crate) fn finish(&self) {
        self.lock().finished = true;
    }

    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves what arrived to `lines` and leaves the waker; returns whether that was all.
    fn take(&self, cx: Option<&Context<'_>>, lines: &mut Vec<Box<dyn Lines>>) -> bool {
        let waker = cx.map(|cx| cx.waker().clone());
        let mut state = self.lock();
        lines.append(&mut state.arrived);
        let finished = state.finished;
        let replaced = waker.and_then(|waker| state.waker.replace(waker));
        drop(state);
        drop(replaced);
        finished
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of one topic that renders what it receives.
pub(crate) trait Lines: Send + Sync {
    /// `None` once the topic is closed and read. Without a context it does not park.
    fn poll_line(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Option<TailLine>>;
}

struct TopicLines<E> {
    receiver: Receiver<E>,
    channel: Arc<Channel<E>>,
    encode: Encode<E>,
}

/// A reader of the channel, unless it has no encoder or is closed.
pub(crate) fn lines<E>(channel: &Arc<Channel<E>>, start: Start) -> Option<Box<dyn Lines>>
where
    E: Send + Sync + 'static,
{
    let encode = channel.fixed.encode?;
    let spec = Connect {
        name: "tail".into(),
        overflow: Overflow::DropOldest,
        start,
        interest: None,
        filters: false,
        unlimited: true,
    };
    let receiver = Receiver::connect(channel, spec).ok()?;
    Some(Box::new(TopicLines {
        receiver,
        channel: Arc::clone(channel),
        encode,
    }))
}

impl<E: Send + Sync> Lines for TopicLines<E> {
    fn poll_line(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Option<TailLine>> {
        let (fixed, encode) = (&self.channel.fixed, self.encode);
        let render = |item: Item<'_, E>| Some(event_line(fixed, encode, &item));
        let received = match cx {
            Some(cx) => self.receiver.poll_next(cx, render),
            None => match self.receiver.try_next(render).transpose() {
                Some(received) => Poll::Ready(received),
                None => Poll::Pending,
            },
        };
        received.map(|received| match received {
            Ok(line) => Some(line),
            Err(RecvError::Lagged(gap) | RecvError::Disconnected(gap)) => {
                Some(lag_line(&fixed.name, gap))
            }
            Err(RecvError::Closed) => None,
        })
    }
}

fn event_line<E>(fixed: &Fixed<E>, encode: Encode<E>, item: &Item<'_, E>) -> TailLine {
    let mut event = Vec::new();
    if let Err(error) = encode(item.event.get(), &mut event) {
        let error = serde_json::Value::from(error.to_string());
        event = format!(r#"{{"type":"Unencodable","error":{error}}}"#).into_bytes();
    }
    let instance = serde_json::Value::from(&*fixed.identity.instance);
    let mut text = format!(
        r#"{{"topic":"{}",{}"seq":{},"epoch":{},"instance":{instance},"ts":""#,
        fixed.name,
        lane_member(item.lane),
        item.seq,
        fixed.identity.epoch
    );
    push_rfc3339_millis(&mut text, item.stamp_ms);
    text.push_str(r#"","event":"#);
    text.push_str(&String::from_utf8_lossy(&event));
    if item.conflated > 0 {
        text.push_str(&format!(r#","conflated":{}"#, item.conflated));
    }
    text.push('}');
    TailLine {
        topic: Arc::clone(&fixed.name),
        lane: item.lane,
        lagged: false,
        seq: item.seq,
        published: Some(wall(item.stamp_ms)),
        text,
    }
}

/// Each lane counts for itself; what is not the data lane says so, or two events of a topic could look alike.
fn lane_member(lane: Lane) -> &'static str {
    match lane {
        Lane::Data => "",
        Lane::Control => r#""lane":"control","#,
    }
}

fn lag_line(topic: &Arc<str>, gap: Gap) -> TailLine {
    let text = format!(
        r#"{{"topic":"{topic}",{}"lagged":{},"first_missed":{},"last_missed":{}}}"#,
        lane_member(gap.lane),
        gap.missed(),
        gap.first_missed,
        gap.last_missed
    );
    TailLine {
        topic: Arc::clone(topic),
        lane: gap.lane,
        lagged: true,
        seq: gap.last_missed,
        published: None,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn a_pattern_matches_its_topic_and_the_topics_below_it() {
        let pattern = Pattern("kernel".to_owned());
        for (topic, matches) in [
            ("kernel", true),
            ("kernel.lifecycle", true),
            ("kernel.a.b", true),
            ("kernels", false),
            ("kerne", false),
            ("my.kernel", false),
        ] {
            assert_eq!(pattern.matches(topic), matches, "{topic}");
        }
    }
}
