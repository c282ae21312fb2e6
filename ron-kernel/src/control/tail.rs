//! The endless answer of `tail`: lines as the client takes them.

use hyper::body::{Body, Bytes, Frame};
use ron_bus::{Lane, Tail, TailLine};
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// Retained lines put in the order of time before the first write; more than these stay in the order of topics.
const SORTED_MAX: usize = 16 * 1024;
/// Lines in one write at most; a fast topic would else cost a write an event.
const BATCH_BYTES: usize = 64 * 1024;
/// After lines were found, this long nobody waits on the topic: a publisher of many events would pay for waking the
/// reader at each. People do not notice, and the ring holds what comes meanwhile.
const NAP: Duration = Duration::from_millis(1);

/// A tail as a response body. The connection asks for more only when there is room, so a client that does not read
/// makes its own reader lag and nobody else wait.
pub(crate) struct Lines {
    tail: Tail,
    /// Only events published from then on.
    since: Option<SystemTime>,
    /// Topics whose first line has been seen: what the ring no longer held has been told.
    begun: HashSet<Arc<str>>,
    /// What was retained, in the order of time; `None` until it is asked for.
    retained: Option<VecDeque<TailLine>>,
    nap: Option<Pin<Box<Sleep>>>,
    /// One of the places for tails.
    _place: OwnedSemaphorePermit,
}

impl Lines {
    pub(crate) fn new(tail: Tail, since: Option<SystemTime>, place: OwnedSemaphorePermit) -> Lines {
        Lines {
            tail,
            since,
            begun: HashSet::new(),
            retained: None,
            nap: None,
            _place: place,
        }
    }

    /// The next line there is, without waiting.
    fn take(&mut self) -> Option<TailLine> {
        if self.since.is_some() && self.retained.is_none() {
            let lines = std::iter::from_fn(|| self.tail.try_next());
            self.retained = Some(in_order(lines.take(SORTED_MAX).collect()));
        }
        let retained = self.retained.as_mut().and_then(VecDeque::pop_front);
        retained.or_else(|| self.tail.try_next())
    }

    fn push(&mut self, line: &TailLine, text: &mut String) {
        let first = self.since.is_some()
            && line.lane == Lane::Data
            && self.begun.insert(line.topic.clone());
        if let (Some(since), Some(published)) = (self.since, line.published) {
            if published < since {
                return;
            }
            // The ring's oldest event lies inside the span: older ones may have, too.
            if first && line.seq > 1 {
                text.push_str(&forgotten(&line.topic, line.seq));
            }
        }
        text.push_str(line.as_str());
        text.push('\n');
    }
}

/// By time. A gap has none: it stays in front of the event it stood before.
fn in_order(lines: Vec<TailLine>) -> VecDeque<TailLine> {
    let mut keyed: Vec<(SystemTime, TailLine)> = Vec::with_capacity(lines.len());
    let mut next: HashMap<Arc<str>, SystemTime> = HashMap::new();
    for line in lines.into_iter().rev() {
        let time = line
            .published
            .or_else(|| next.get(&line.topic).copied())
            .unwrap_or_else(SystemTime::now);
        next.insert(line.topic.clone(), time);
        keyed.push((time, line));
    }
    keyed.reverse();
    keyed.sort_by_key(|(time, _)| *time);
    keyed.into_iter().map(|(_, line)| line).collect()
}

fn forgotten(topic: &str, first: u64) -> String {
    let missed = first - 1;
    format!(
        "{{\"topic\":\"{topic}\",\"lagged\":{missed},\"first_missed\":1,\"last_missed\":{missed},\"reason\":\"no longer retained\"}}\n"
    )
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(nap) = &mut self.nap {
            ready!(nap.as_mut().poll(cx));
            self.nap = None;
        }
        let mut text = String::new();
        while text.is_empty() {
            let line = match self.take() {
                Some(line) => line,
                None => match ready!(poll_line(&mut self.tail, cx)) {
                    Some(line) => line,
                    None => return Poll::Ready(None),
                },
            };
            self.push(&line, &mut text);
            while text.len() < BATCH_BYTES {
                let Some(line) = self.take() else {
                    break;
                };
                self.push(&line, &mut text);
            }
        }
        self.nap = Some(Box::pin(tokio::time::sleep(NAP)));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}

fn poll_line(tail: &mut Tail, cx: &mut Context<'_>) -> Poll<Option<TailLine>> {
    let mut next = std::pin::pin!(tail.next());
    next.as_mut().poll(cx)
}
