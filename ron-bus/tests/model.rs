//! Random operations against a model that gives every reader plain queues of its own.
//!
//! `PROPTEST_CASES=20000 cargo test -p ron-bus --release --test model` is the long run.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::RangeInclusive;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use ron_bus::{
    Account, Bus, BusConfig, Class, Classify, Delivery, Gap, Interest, Lane, Overflow, Policy,
    PublishError, Published, RecvError, Refusal, Start, Subscriber, Topic, TopicState,
};

/// Values from here on panic when cloned.
const BOMB: u8 = 240;
const CONTROL_SLOTS: usize = 16;
/// The clock moves in steps of this many milliseconds, and deadlines are never multiples of it: none falls on a step.
const STEP: u64 = 10;

#[derive(Debug, PartialEq, Eq)]
struct Event(u8);

impl Clone for Event {
    fn clone(&self) -> Self {
        // No panic hook runs, so that ten thousand bombs are quiet.
        if self.0 >= BOMB {
            std::panic::resume_unwind(Box::new("bomb"));
        }
        Self(self.0)
    }
}

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new(class(self.0)).unwrap()
    }
}

fn is_even(event: &Event) -> bool {
    event.0 % 2 == 0
}

fn class(value: u8) -> u8 {
    value / 2 % 3
}

fn key(event: &Event) -> u64 {
    u64::from(event.0 / 6 % 5)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    DropOldest,
    Disconnect,
    Block { deadline: u64 },
    Conflate { max_keys: usize },
}

#[derive(Debug, Clone, Copy)]
struct Options {
    kind: Kind,
    /// One bit per class; none asks for no mask at all.
    mask: Option<u8>,
    retained: Option<usize>,
    even: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Publish(u8),
    PublishMany(Vec<u8>),
    Control(Vec<(Option<u64>, u8)>),
    Last(u8),
    Close,
    /// Begins a `publish_wait`.
    Wait(u8),
    /// Drops one; `early` before those woken by the operation before have been polled.
    Cancel {
        which: usize,
        early: bool,
    },
    /// One step of the clock.
    Advance,
    Subscribe(Options),
    TryRecv(usize),
    /// Polls the receive that waits, or a new one.
    Recv(usize),
    RecvMany(usize, usize),
    Leave(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let many = |max| prop::collection::vec(any::<u8>(), 0..max);
    let kind = prop_oneof![
        Just(Kind::DropOldest),
        Just(Kind::Disconnect),
        prop::sample::select(vec![0, 5, 25, 45]).prop_map(|deadline| Kind::Block { deadline }),
        (1..5_usize).prop_map(|max_keys| Kind::Conflate { max_keys }),
    ];
    let options = (
        kind,
        prop::option::of(0..8_u8),
        prop::option::of(prop_oneof![4 => 0..9_usize, 1 => 9..200_usize]),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(kind, mask, retained, even)| Options {
            kind,
            mask,
            retained,
            even,
        });
    prop_oneof![
        24 => any::<u8>().prop_map(Op::Publish),
        10 => many(30).prop_map(Op::PublishMany),
        2 => many(300).prop_map(Op::PublishMany),
        12 => prop::collection::vec((prop::option::of(0..3_u64), any::<u8>()), 0..20)
            .prop_map(Op::Control),
        1 => any::<u8>().prop_map(Op::Last),
        1 => Just(Op::Close),
        16 => any::<u8>().prop_map(Op::Wait),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, early)| Op::Cancel { which, early }),
        6 => Just(Op::Advance),
        12 => options.prop_map(Op::Subscribe),
        24 => any::<usize>().prop_map(Op::TryRecv),
        24 => any::<usize>().prop_map(Op::Recv),
        20 => (any::<usize>(), 1..12_usize).prop_map(|(reader, max)| Op::RecvMany(reader, max)),
        4 => (any::<usize>(), 1..400_usize).prop_map(|(reader, max)| Op::RecvMany(reader, max)),
        4 => any::<usize>().prop_map(Op::Leave),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    seq: u64,
    value: u8,
    conflated: u64,
    key: Option<u64>,
}

impl Waiting {
    fn new(seq: u64, value: u8) -> Self {
        Self {
            seq,
            value,
            conflated: 0,
            key: None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    first: u64,
    last: u64,
    count: u64,
}

/// One more event lost, after those lost before.
fn miss(missed: Option<Missed>, seq: u64) -> Missed {
    Missed {
        first: missed.map_or(seq, |m| m.first),
        last: seq,
        count: missed.map_or(1, |m| m.count + 1),
    }
}

#[derive(Debug, Clone, Copy)]
enum Item {
    Event(Waiting),
    Gap(Missed),
}

/// What a gap may say: exact for a reader of everything, within bounds for one with a mask.
#[derive(Debug)]
struct Span {
    lane: Lane,
    first: RangeInclusive<u64>,
    last: RangeInclusive<u64>,
    count: u64,
}

#[derive(Debug)]
enum Outcome<G> {
    Events(Vec<(Lane, u64, u64, u8)>),
    Lagged(G),
    Disconnected(G),
    Closed,
    Empty,
    Panicked,
}

/// The newest numbers of both lanes.
type Seqs = [u64; 2];

struct Model {
    options: Options,
    account: Account,
    control: VecDeque<Waiting>,
    control_missed: Option<Missed>,
    last: Option<Waiting>,
    /// What a queued reader found when it began.
    retained: VecDeque<Waiting>,
    /// What the data lane holds: the ring of a cursor reader, the buffer of one that blocks, the sweep of one that
    /// conflates.
    data: VecDeque<Item>,
    intake: VecDeque<Waiting>,
    /// Cut off: what the gap says, and the highest number it may name.
    cut: Option<(Lane, Missed, u64)>,
    /// The highest numbers of both lanes that were taken or told.
    place: Seqs,
}

impl Model {
    fn new(options: Options, world: &World) -> Self {
        let kept = options.retained.unwrap_or(0);
        let kept = kept.min(world.capacity).min(world.data.len());
        let begin = world.data.len() - kept;
        let mut model = Self {
            options,
            account: Account::default(),
            control: VecDeque::new(),
            control_missed: None,
            last: world.last,
            retained: VecDeque::new(),
            data: VecDeque::new(),
            intake: VecDeque::new(),
            cut: None,
            place: [begin as u64, world.control_seq],
        };
        model.account.offered = kept as u64 + u64::from(world.last.is_some());
        for (index, value) in world.data.iter().enumerate().skip(begin) {
            let waiting = Waiting::new(index as u64 + 1, *value);
            if !model.wants(*value) {
                model.account.filtered += 1;
            } else if model.is_cursor() {
                model.data.push_back(Item::Event(waiting));
            } else {
                model.retained.push_back(waiting);
            }
        }
        model
    }

    fn is_cursor(&self) -> bool {
        matches!(self.options.kind, Kind::DropOldest | Kind::Disconnect)
    }

    fn wants(&self, value: u8) -> bool {
        self.options
            .mask
            .map_or(true, |mask| mask >> class(value) & 1 == 1)
    }

    fn stored(&self) -> usize {
        let events = self.data.iter().filter(|i| matches!(i, Item::Event(_)));
        events.count()
    }

    /// Whether a `publish_wait` called at `since` waits for this reader at `now`.
    fn holds_up(&self, value: u8, since: u64, now: u64, capacity: usize) -> bool {
        let Kind::Block { deadline } = self.options.kind else {
            return false;
        };
        self.wants(value) && self.stored() >= capacity && now < since + deadline
    }

    fn offer_data(&mut self, seq: u64, value: u8, capacity: usize, waited: bool) {
        if self.cut.is_some() {
            return;
        }
        self.account.offered += 1;
        let wanted = self.wants(value);
        self.account.filtered += u64::from(!wanted);
        match self.options.kind {
            Kind::DropOldest | Kind::Disconnect => {
                if wanted {
                    self.data.push_back(Item::Event(Waiting::new(seq, value)));
                }
                self.overwrite(seq, capacity);
            }
            _ if !wanted => {}
            // Where there is no room, no copy is made that could panic.
            Kind::Block { .. } => {
                let reason = if self.stored() < capacity {
                    if value < BOMB {
                        self.data.push_back(Item::Event(Waiting::new(seq, value)));
                        return;
                    }
                    &mut self.account.lost.panicked
                } else if waited {
                    &mut self.account.lost.block_deadline
                } else {
                    &mut self.account.lost.block_full
                };
                *reason += 1;
                let before = match self.data.back() {
                    Some(Item::Gap(missed)) => Some(*missed),
                    _ => None,
                };
                if before.is_some() {
                    self.data.pop_back();
                }
                self.data.push_back(Item::Gap(miss(before, seq)));
            }
            Kind::Conflate { max_keys } => {
                let key = Some(key(&Event(value)));
                let same = self.intake.iter().position(|w| w.key == key);
                let reason = if same.is_none() && self.intake.len() >= max_keys {
                    &mut self.account.lost.conflate_full
                } else if value >= BOMB {
                    &mut self.account.lost.panicked
                } else {
                    let old = same.and_then(|index| self.intake.remove(index));
                    self.account.conflated += u64::from(old.is_some());
                    self.intake.push_back(Waiting {
                        conflated: old.map_or(0, |old| old.conflated + 1),
                        key,
                        ..Waiting::new(seq, value)
                    });
                    return;
                };
                *reason += 1;
                self.miss_in_front(seq);
            }
        }
    }

    fn miss_in_front(&mut self, seq: u64) {
        let before = match self.data.front() {
            Some(Item::Gap(missed)) => Some(*missed),
            _ => None,
        };
        if before.is_some() {
            self.data.pop_front();
        }
        self.data.push_front(Item::Gap(miss(before, seq)));
    }

    /// Event `seq` took the slot of the one `capacity` before it.
    fn overwrite(&mut self, seq: u64, capacity: usize) {
        loop {
            let Some(index) = self.data.iter().position(|i| matches!(i, Item::Event(_))) else {
                return;
            };
            let Item::Event(oldest) = self.data[index] else {
                return;
            };
            if oldest.seq + capacity as u64 > seq {
                return;
            }
            if matches!(self.options.kind, Kind::Disconnect) {
                let newest = self.data.back().map_or(seq, |item| match item {
                    Item::Event(waiting) => waiting.seq,
                    Item::Gap(missed) => missed.last,
                });
                let missed = Missed {
                    first: oldest.seq,
                    last: newest,
                    count: self.stored() as u64,
                };
                return self.cut(Lane::Data, missed, seq);
            }
            self.data.remove(index);
            self.account.lost.lagged += 1;
            self.miss_in_front(oldest.seq);
        }
    }

    fn cut(&mut self, lane: Lane, missed: Missed, high: u64) {
        self.cut = Some((lane, missed, high));
        self.account.lost.disconnected += (self.stored() + self.control.len()) as u64;
        self.data.clear();
        self.control.clear();
    }

    fn offer_control(&mut self, seq: u64, value: u8, key: Option<u64>) {
        if self.cut.is_some() {
            return;
        }
        self.account.offered += 1;
        if !self.wants(value) {
            self.account.filtered += 1;
            return;
        }
        let mut new = Waiting {
            key,
            ..Waiting::new(seq, value)
        };
        if self.control.len() == CONTROL_SLOTS {
            let same = self
                .control
                .iter()
                .position(|w| key.is_some() && w.key == key);
            if let Some(old) = same.and_then(|index| self.control.remove(index)) {
                new.conflated = old.conflated + 1;
                self.account.conflated += 1;
            } else if matches!(self.options.kind, Kind::Disconnect) {
                let missed = Missed {
                    first: self.control[0].seq,
                    last: seq,
                    count: CONTROL_SLOTS as u64 + 1,
                };
                self.control.push_back(new);
                return self.cut(Lane::Control, missed, seq);
            } else if let Some(oldest) = self.control.pop_front() {
                self.account.lost.lagged += 1;
                self.control_missed = Some(miss(self.control_missed, oldest.seq));
            }
        }
        self.control.push_back(new);
    }

    fn offer_last(&mut self, last: Waiting) {
        if self.cut.is_none() {
            self.account.offered += 1;
            self.last = Some(last);
        }
    }

    fn account(&self) -> Account {
        let waiting = self.control.len() + self.retained.len() + self.stored() + self.intake.len();
        let mut account = self.account;
        account.pending = waiting as u64 + u64::from(self.last.is_some());
        account
    }

    /// Whether a receive returns at once, if no filter refuses it all.
    fn is_ready(&self, ended: bool) -> bool {
        ended
            || self.cut.is_some()
            || self.control_missed.is_some()
            || !self.data.is_empty()
            || self.account().pending > 0
    }

    fn span(&self, lane: Lane, missed: Missed, high: u64) -> Span {
        let low = self.place[lane as usize] + 1;
        let (first, last) = match self.options.mask {
            None => (missed.first..=missed.first, missed.last..=missed.last),
            Some(_) => (low..=missed.first, missed.last..=high),
        };
        Span {
            lane,
            first,
            last,
            count: missed.count,
        }
    }

    /// The gap that comes before the next data event, with the highest number it may name.
    fn data_missed(&mut self, newest: u64) -> Option<(Missed, u64)> {
        if !self.retained.is_empty() {
            return None;
        }
        let Some(Item::Gap(missed)) = self.data.front() else {
            return None;
        };
        let next = match self.data.get(1) {
            Some(Item::Event(next)) if !matches!(self.options.kind, Kind::Conflate { .. }) => {
                next.seq - 1
            }
            _ => newest,
        };
        Some((*missed, next))
    }

    fn next_data(&mut self) -> Option<(Waiting, bool)> {
        if let Some(waiting) = self.retained.pop_front() {
            return Some((waiting, true));
        }
        if self.data.is_empty() {
            self.data.extend(self.intake.drain(..).map(Item::Event));
        }
        match self.data.pop_front() {
            Some(Item::Event(waiting)) => Some((waiting, self.is_cursor())),
            Some(Item::Gap(_)) => panic!("gaps are told first"),
            None => None,
        }
    }

    /// Receives up to `max` events; those before a panic go to `out` all the same.
    fn receive(
        &mut self,
        max: usize,
        ended: bool,
        seqs: Seqs,
        out: &mut Vec<(Lane, u64, u64, u8)>,
    ) -> Outcome<Span> {
        if let Some((lane, missed, high)) = self.cut {
            return Outcome::Disconnected(self.span(lane, missed, high));
        }
        while out.len() < max {
            if let Some(missed) = self.control_missed {
                if !out.is_empty() {
                    break;
                }
                self.control_missed = None;
                let next = self.control.front().map_or(seqs[1], |w| w.seq - 1);
                let span = self.span(Lane::Control, missed, next);
                self.place[1] = missed.last;
                return Outcome::Lagged(span);
            }
            // The event, whether the filter sees it, and whether it is cloned now.
            let (lane, waiting, filtered, cloned) = if let Some(waiting) = self.control.pop_front()
            {
                (Lane::Control, waiting, true, true)
            } else if let Some(waiting) = self.last.take() {
                (Lane::Control, waiting, false, true)
            } else if let Some((missed, high)) = self.data_missed(seqs[0]) {
                if !out.is_empty() {
                    break;
                }
                self.data.pop_front();
                let span = self.span(Lane::Data, missed, high);
                self.place[0] = self.place[0].max(missed.last);
                return Outcome::Lagged(span);
            } else if let Some((waiting, cloned)) = self.next_data() {
                (Lane::Data, waiting, true, cloned)
            } else {
                break;
            };
            let place = &mut self.place[lane as usize];
            *place = waiting.seq.max(*place);
            if filtered && self.options.even && waiting.value % 2 == 1 {
                self.account.filtered += 1;
            } else if cloned && waiting.value >= BOMB {
                self.account.lost.panicked += 1;
                return Outcome::Panicked;
            } else {
                self.account.delivered += 1;
                out.push((lane, waiting.seq, waiting.conflated, waiting.value));
            }
        }
        match (out.is_empty(), ended) {
            (false, _) => Outcome::Events(out.clone()),
            (true, true) => Outcome::Closed,
            (true, false) => Outcome::Empty,
        }
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Receiving = Pin<Box<dyn Future<Output = Result<usize, RecvError>>>>;
type Received = Rc<tokio::sync::Mutex<Vec<Delivery<Event>>>>;

/// A receive that waits.
struct Parked {
    future: Receiving,
    out: Received,
    max: usize,
    wakes: Arc<Wakes>,
    woken: usize,
}

struct Reader {
    name: String,
    subscriber: Rc<tokio::sync::Mutex<Subscriber<Event>>>,
    parked: Option<Parked>,
    model: Model,
}

impl Reader {
    fn begin(&self, many: Option<usize>) -> Parked {
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
    fn poll(&mut self, many: Option<usize>, ended: bool, seqs: Seqs) {
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

    fn try_recv(&mut self, ended: bool, seqs: Seqs) {
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

fn parts(delivery: Delivery<Event>) -> (Lane, u64, u64, u8) {
    (
        delivery.lane,
        delivery.seq,
        delivery.conflated,
        delivery.event.0,
    )
}

fn failure(error: RecvError) -> Outcome<Gap> {
    match error {
        RecvError::Lagged(gap) => Outcome::Lagged(gap),
        RecvError::Disconnected(gap) => Outcome::Disconnected(gap),
        RecvError::Closed => Outcome::Closed,
        other => panic!("unknown outcome {other:?}"),
    }
}

fn compare(real: &Outcome<Gap>, expected: &Outcome<Span>) {
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

/// Puts the number of the waiter into the queue when it is woken.
struct Ticket {
    number: usize,
    woken: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push_back(self.number);
    }
}

type WaitResult = Result<Published, PublishError<Event>>;

/// A `publish_wait` that has not returned.
struct Waiter {
    number: usize,
    value: u8,
    since: u64,
    future: Pin<Box<dyn Future<Output = WaitResult>>>,
}

impl Waiter {
    fn poll(&mut self, woken: &Arc<Mutex<VecDeque<usize>>>) -> Poll<WaitResult> {
        let waker = Waker::from(Arc::new(Ticket {
            number: self.number,
            woken: Arc::clone(woken),
        }));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// The topic as the model knows it: everything ever published.
#[derive(Default)]
struct World {
    capacity: usize,
    now: u64,
    data: Vec<u8>,
    control_seq: u64,
    last: Option<Waiting>,
    refusal: Option<Refusal>,
    readers: Vec<Reader>,
    joined: usize,
    /// In the order in which they began to wait.
    waiters: Vec<Waiter>,
    calls: usize,
    woken: Arc<Mutex<VecDeque<usize>>>,
    departed: Account,
}

impl World {
    fn publish(&mut self, value: u8, waited: bool) -> u64 {
        self.data.push(value);
        let (seq, capacity) = (self.data.len() as u64, self.capacity);
        for reader in &mut self.readers {
            reader.model.offer_data(seq, value, capacity, waited);
        }
        seq
    }

    fn seqs(&self) -> Seqs {
        [self.data.len() as u64, self.control_seq]
    }

    fn connected(&self) -> usize {
        let connected = self.readers.iter().filter(|r| r.model.cut.is_none());
        connected.count()
    }

    fn is_held_up(&self, value: u8, since: u64) -> bool {
        self.readers
            .iter()
            .any(|r| r.model.holds_up(value, since, self.now, self.capacity))
    }

    /// What a `publish_wait` does next, and has done when it is polled.
    fn wait(&mut self, value: u8, since: u64) -> Poll<Result<(u64, usize), Refusal>> {
        if let Some(refusal) = self.refusal {
            return Poll::Ready(Err(refusal));
        }
        if self.is_held_up(value, since) {
            return Poll::Pending;
        }
        let seq = self.publish(value, true);
        Poll::Ready(Ok((seq, self.connected())))
    }

    fn begin_wait(&mut self, topic: &Topic<Event>, value: u8) {
        let topic = topic.clone();
        let mut waiter = Waiter {
            number: self.calls,
            value,
            since: self.now,
            future: Box::pin(async move { topic.publish_wait(Event(value)).await }),
        };
        self.calls += 1;
        let polled = waiter.poll(&self.woken);
        let expected = self.wait(value, self.now);
        compare_wait(value, &polled, &expected);
        if polled.is_pending() {
            self.waiters.push(waiter);
        }
    }

    /// Polls whoever was woken, in the order of the wake-ups, or after a step of the clock in the order of the calls,
    /// since timers of one instant fire in any order.
    fn settle(&mut self, by_clock: bool) {
        let mut done = Vec::new();
        let woken = Arc::clone(&self.woken);
        if by_clock {
            let mut order = woken.lock().unwrap();
            order.make_contiguous().sort_unstable();
        }
        // Not locked while a waiter is polled, which may wake another.
        let next = || woken.lock().unwrap().pop_front();
        while let Some(number) = next() {
            let Some(waiter) = self.waiters.iter_mut().find(|w| w.number == number) else {
                continue;
            };
            if done.iter().any(|(n, _)| *n == number) {
                continue;
            }
            if let Poll::Ready(result) = waiter.poll(&woken) {
                done.push((number, result));
            }
        }
        let calls: Vec<_> = self
            .waiters
            .iter()
            .map(|w| (w.number, w.value, w.since))
            .collect();
        for (number, value, since) in calls {
            let polled = match done.iter().position(|(n, _)| *n == number) {
                Some(index) => Poll::Ready(done.swap_remove(index).1),
                None => Poll::Pending,
            };
            compare_wait(value, &polled, &self.wait(value, since));
            if polled.is_ready() {
                self.waiters.retain(|w| w.number != number);
            }
        }
    }

    /// Whoever waits and has something to read has been woken once, and nobody else.
    fn check_wakes(&mut self) {
        let ended = self.refusal.is_some();
        for reader in &mut self.readers {
            if let Some(parked) = &reader.parked {
                let wakes = parked.wakes.0.load(Ordering::SeqCst) - parked.woken;
                let expected = usize::from(reader.model.is_ready(ended));
                assert_eq!(wakes, expected, "wake-ups of {}", reader.name);
            }
        }
    }

    fn check(&mut self, topic: &Topic<Event>) {
        self.check_wakes();
        let stats = topic.stats();
        let state = match self.refusal {
            None => TopicState::Open,
            Some(Refusal::Sealed) => TopicState::Sealed,
            Some(_) => TopicState::Closed,
        };
        assert_eq!(
            ([stats.seq, stats.control_seq], stats.state),
            (self.seqs(), state)
        );
        assert_eq!(
            (stats.subscribers, stats.readers.len()),
            (self.connected(), self.readers.len())
        );
        let mut total = self.departed;
        let mut depth = 0;
        for reader in &self.readers {
            let row = stats.readers.iter().find(|r| *r.name == *reader.name);
            let row = row.unwrap();
            let expected = reader.model.account();
            assert!(expected.is_balanced());
            assert_eq!(row.account, expected, "{}", reader.name);
            assert!(row.account.is_balanced());
            assert_eq!(row.connected, reader.model.cut.is_none());
            let policy = match reader.model.options.kind {
                Kind::DropOldest => Policy::DropOldest,
                Kind::Disconnect => Policy::Disconnect,
                Kind::Block { .. } => Policy::Block,
                Kind::Conflate { .. } => Policy::Conflate,
            };
            assert_eq!(row.overflow, policy);
            if let Ok(subscriber) = reader.subscriber.try_lock() {
                assert_eq!(subscriber.account(), expected);
            }
            depth = depth.max(expected.pending);
            total += expected;
        }
        assert_eq!(stats.total, total);
        assert!(total.is_balanced());
        assert_eq!((stats.queue_depth(), topic.queue_depth()), (depth, depth));
    }

    fn reader(&mut self, which: usize) -> Option<&mut Reader> {
        let count = self.readers.len().max(1);
        self.readers.get_mut(which % count)
    }
}

fn compare_wait(
    value: u8,
    polled: &Poll<WaitResult>,
    expected: &Poll<Result<(u64, usize), Refusal>>,
) {
    let same = match (polled, expected) {
        (Poll::Ready(Ok(published)), Poll::Ready(Ok(expected))) => {
            (published.seq, published.readers) == *expected
        }
        (Poll::Ready(Err(refused)), Poll::Ready(Err(refusal))) => {
            (&refused.event, refused.refusal) == (&Event(value), *refusal)
        }
        (Poll::Pending, Poll::Pending) => true,
        _ => false,
    };
    assert!(same, "publish_wait: {polled:?} instead of {expected:?}");
}

fn subscribe(topic: &Topic<Event>, world: &mut World, options: Options) {
    let name = format!("r{}", world.joined);
    let mut builder = topic.subscriber().name(&name).overflow(match options.kind {
        Kind::DropOldest => Overflow::DropOldest,
        Kind::Disconnect => Overflow::Disconnect,
        Kind::Block { deadline } => Overflow::Block {
            deadline: Duration::from_millis(deadline),
        },
        Kind::Conflate { max_keys } => Overflow::Conflate { key, max_keys },
    });
    if let Some(mask) = options.mask {
        let classes = (0..3).filter(|class| mask >> class & 1 == 1);
        builder = builder.interest(classes.filter_map(Class::new).collect::<Interest>());
    }
    if let Some(n) = options.retained {
        builder = builder.start(Start::Retained(n));
    }
    if options.even {
        builder = builder.filter(is_even);
    }
    let built = builder.build();
    if world.refusal == Some(Refusal::Closed) {
        assert!(built.is_err());
        return;
    }
    world.joined += 1;
    let reader = Reader {
        name,
        subscriber: Rc::new(tokio::sync::Mutex::new(built.unwrap())),
        parked: None,
        model: Model::new(options, world),
    };
    world.readers.push(reader);
}

fn compare_publish(result: WaitResult, value: u8, expected: Result<(u64, usize), Refusal>) {
    compare_wait(value, &Poll::Ready(result), &Poll::Ready(expected));
}

fn control(topic: &Topic<Event>, world: &mut World, key: Option<u64>, value: u8) {
    let result = match key {
        Some(key) => topic.publish_control_keyed(key, Event(value)),
        None => topic.publish_control(Event(value)),
    };
    let expected = match world.refusal {
        Some(refusal) => Err(refusal),
        None => {
            world.control_seq += 1;
            for reader in &mut world.readers {
                reader.model.offer_control(world.control_seq, value, key);
            }
            Ok((world.control_seq, world.connected()))
        }
    };
    compare_publish(result, value, expected);
}

fn apply(topic: &Topic<Event>, world: &mut World, op: Op) {
    let (ended, seqs) = (world.refusal.is_some(), world.seqs());
    match op {
        Op::Publish(value) => {
            let result = topic.publish(Event(value));
            let expected = match world.refusal {
                Some(refusal) => Err(refusal),
                None => Ok((world.publish(value, false), world.connected())),
            };
            compare_publish(result, value, expected);
        }
        Op::PublishMany(values) => {
            let result = topic.publish_many(values.iter().copied().map(Event));
            if ended {
                assert_eq!(result.is_err(), !values.is_empty());
                return;
            }
            for value in &values {
                world.publish(*value, false);
            }
            let done = result.unwrap();
            let last = (!values.is_empty()).then_some(world.data.len() as u64);
            assert_eq!((done.count, done.last_seq), (values.len() as u64, last));
        }
        Op::Control(events) => {
            for (key, value) in events {
                control(topic, world, key, value);
            }
        }
        Op::Last(value) => {
            let result = topic.publish_last(Event(value));
            let expected = match world.refusal {
                Some(refusal) => Err(refusal),
                None => {
                    world.control_seq += 1;
                    let last = Waiting::new(world.control_seq, value);
                    (world.last, world.refusal) = (Some(last), Some(Refusal::Sealed));
                    for reader in &mut world.readers {
                        reader.model.offer_last(last);
                    }
                    Ok((world.control_seq, world.connected()))
                }
            };
            compare_publish(result, value, expected);
        }
        Op::Close => {
            topic.close();
            world.refusal = Some(Refusal::Closed);
        }
        Op::Wait(value) => world.begin_wait(topic, value),
        Op::Cancel { which, .. } => {
            if !world.waiters.is_empty() {
                let index = which % world.waiters.len();
                drop(world.waiters.remove(index));
            }
        }
        Op::Advance => world.now += STEP,
        Op::Subscribe(options) => subscribe(topic, world, options),
        Op::TryRecv(which) => {
            if let Some(reader) = world.reader(which) {
                reader.try_recv(ended, seqs);
            }
        }
        Op::Recv(which) => {
            if let Some(reader) = world.reader(which) {
                reader.poll(None, ended, seqs);
            }
        }
        Op::RecvMany(which, max) => {
            if let Some(reader) = world.reader(which) {
                reader.poll(Some(max), ended, seqs);
            }
        }
        Op::Leave(which) => {
            if !world.readers.is_empty() {
                let index = which % world.readers.len();
                let reader = world.readers.swap_remove(index);
                let mut account = reader.model.account();
                account.lost.abandoned += account.pending;
                account.pending = 0;
                world.departed += account;
            }
        }
    }
}

async fn run(capacity: usize, ops: Vec<Op>) {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let spec = bus.topic_spec("t").capacity(capacity);
    let topic = spec.open::<Event>().unwrap();
    let mut world = World {
        capacity,
        ..World::default()
    };
    let mut by_clock = false;
    for op in ops {
        if !matches!(op, Op::Cancel { early: true, .. }) {
            world.settle(by_clock);
            world.check(&topic);
            by_clock = false;
        }
        let advance = matches!(op, Op::Advance);
        by_clock |= advance;
        apply(&topic, &mut world, op);
        if advance {
            tokio::time::advance(Duration::from_millis(STEP)).await;
        }
        world.check(&topic);
    }
    world.settle(by_clock);
    world.check(&topic);
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_what_the_model_sees_and_every_account_balances_after_every_step(
        capacity in prop_oneof![4 => 2..9_usize, 1 => 9..200_usize],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        // Polled by hand, hundreds of times in one turn: no budget.
        runtime.block_on(tokio::task::unconstrained(run(capacity, ops)));
    }
}
