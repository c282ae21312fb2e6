//! The endless answer of `tail`: lines as the client takes them.

use hyper::body::{Body, Bytes, Frame};
use ron_bus::{Lane, Tail, TailLine};
use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::SystemTime;
use tokio::sync::OwnedSemaphorePermit;

/// Lines in one write at most; a fast topic would else cost a write an event.
const BATCH_BYTES: usize = 64 * 1024;

/// A tail as a response body. The connection asks for more only when there is room, so a client that does not read
/// makes its own reader lag and nobody else wait.
pub(crate) struct Lines {
    tail: Tail,
    /// Only events published from then on.
    since: Option<SystemTime>,
    /// Topics whose first line has been seen: what the ring no longer held has been told.
    begun: HashSet<Arc<str>>,
    /// One of the places for answers without an end.
    _place: OwnedSemaphorePermit,
}

impl Lines {
    pub(crate) fn new(tail: Tail, since: Option<SystemTime>, place: OwnedSemaphorePermit) -> Lines {
        Lines {
            tail,
            since,
            begun: HashSet::new(),
            _place: place,
        }
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
        let mut text = String::new();
        while text.is_empty() {
            let Some(line) = ready!(poll_line(&mut self.tail, cx)) else {
                return Poll::Ready(None);
            };
            self.push(&line, &mut text);
            while text.len() < BATCH_BYTES {
                let Some(line) = self.tail.try_next() else {
                    break;
                };
                self.push(&line, &mut text);
            }
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}

fn poll_line(tail: &mut Tail, cx: &mut Context<'_>) -> Poll<Option<TailLine>> {
    let mut next = std::pin::pin!(tail.next());
    std::future::Future::poll(next.as_mut(), cx)
}
