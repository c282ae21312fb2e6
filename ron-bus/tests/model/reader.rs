//! A real reader beside its model: every receive goes to both, and both must agree.

use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use ron_bus::{Delivery, Gap, Lane, RecvError, Subscriber};

use crate::naive::{Model, Outcome, Seqs, Span};
use crate::Event;

#[derive(Default)]
pub(crate) struct Wakes(pub(crate) AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) type Receiving = Pin<Box<dyn Future<Output = Result<usize, RecvError>>>>;
pub(crate) type Received = Rc<tokio::sync::Mutex<Vec<Delivery<Event>>>>;

/// A receive that waits.
pub(crate) struct Parked {
    pub(crate) future: Receiving,
    pub(crate) out: Received,
    pub(crate) max: usize,
    pub(crate) wakes: Arc<Wakes>,
    pub(crate) woken: usize,
}

pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) subscriber: Rc<tokio::sync::Mutex<Subscriber<Event>>>,
    pub(crate) parked: Option<Parked>,
    pub(crate) model: Model,
}

impl Reader {
    pub(crate) fn begin(&self, many: Option<usize>) -> Parked {
        let (subscriber, out) = (Rc::clone(&self.subscriber), Received::default());
        let received = Rc::clone(&out);
        let future = async move {
            let (mut reader, mut out) =
                (subscriber.try_lock().unwrap(), received.try_lock().unwrap());
            match many {
                Some(max) => reader.recv_many(&mut out, max).await,
                None => reader.recv().await.map(|delivery| {
                    out.push(delivery);
                    1
                }),
            }
        };
        Parked {
            future: Box::pin(future),
            out,
            max: many.unwrap_or(1),
            wakes: Arc::default(),
            woken: 0,
        }
    }

    /// Polls the receive that waits, or else a new one.
    pub(crate) fn poll(&mut self, many: Option<usize>, ended: bool, seqs: Seqs) {
        let mut parked = self.parked.take().unwrap_or_else(|| self.begin(many));
        let waker = Waker::from(Arc::clone(&parked.wakes));
        let polled = loop {
            parked.woken = parked.wakes.0.load(Ordering::SeqCst);
            let polled = catch_unwind(AssertUnwindSafe(|| {
                let mut cx = Context::from_waker(&waker);
                parked.future.as_mut().poll(&mut cx)
            }));
            // One that goes through what its filter refuses lets others run now and then.
            let yields = parked.wakes.0.load(Ordering::SeqCst) > parked.woken;
            if !(yields && matches!(polled, Ok(Poll::Pending))) {
                break polled;
            }
        };
        let mut expected = Vec::new();
        let outcome = self.model.receive(parked.max, ended, seqs, &mut expected);
        if matches!(polled, Ok(Poll::Pending)) {
            assert!(
                matches!(outcome, Outcome::Empty),
                "pending instead of {outcome:?}"
            );
            self.parked = Some(parked);
            return;
        }
        drop(parked.future);
        let received: Vec<_> = parked
            .out
            .try_lock()
            .unwrap()
            .drain(..)
            .map(parts)
            .collect();
        assert_eq!(received, expected);
        let real = match polled {
            Err(_) => Outcome::Panicked,
            Ok(Poll::Ready(Err(error))) => failure(error),
            Ok(Poll::Ready(Ok(count))) => {
                assert_eq!(count, received.len());
                Outcome::Events(received)
            }
            Ok(Poll::Pending) => return,
        };
        compare(&real, &outcome);
    }

    pub(crate) fn try_recv(&mut self, ended: bool, seqs: Seqs) {
        self.parked = None;
        let mut reader = self.subscriber.try_lock().unwrap();
        let real = match catch_unwind(AssertUnwindSafe(|| reader.try_recv())) {
            Err(_) => Outcome::Panicked,
            Ok(Ok(Some(delivery))) => Outcome::Events(vec![parts(delivery)]),
            Ok(Ok(None)) => Outcome::Empty,
            Ok(Err(error)) => failure(error),
        };
        compare(&real, &self.model.receive(1, ended, seqs, &mut Vec::new()));
    }
}

pub(crate) fn parts(delivery: Delivery<Event>) -> (Lane, u64, u64, u8) {
    (
        delivery.lane,
        delivery.seq,
        delivery.conflated,
        delivery.event.0,
    )
}

pub(crate) fn failure(error: RecvError) -> Outcome<Gap> {
    match error {
        RecvError::Lagged(gap) => Outcome::Lagged(gap),
        RecvError::Disconnected(gap) => Outcome::Disconnected(gap),
        RecvError::Closed => Outcome::Closed,
        other => panic!("unknown outcome {other:?}"),
    }
}

pub(crate) fn compare(real: &Outcome<Gap>, expected: &Outcome<Span>) {
    let fits = |gap: &Gap, span: &Span| {
        gap.lane == span.lane
            && span.first.contains(&gap.first_missed)
            && span.last.contains(&gap.last_missed)
            && gap.missed() == span.count
    };
    let same = match (real, expected) {
        (Outcome::Events(real), Outcome::Events(expected)) => real == expected,
        (Outcome::Lagged(gap), Outcome::Lagged(span))
        | (Outcome::Disconnected(gap), Outcome::Disconnected(span)) => fits(gap, span),
        (Outcome::Closed, Outcome::Closed)
        | (Outcome::Empty, Outcome::Empty)
        | (Outcome::Panicked, Outcome::Panicked) => true,
        _ => false,
    };
    let missed = match real {
        Outcome::Lagged(gap) | Outcome::Disconnected(gap) => gap.missed(),
        _ => 0,
    };
    assert!(same, "{real:?} (missed {missed}) instead of {expected:?}");
}
