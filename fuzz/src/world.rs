//! One topic, its readers and waiting publishers, driven by the bytes of the input and compared with the model after
//! every operation.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{
    Account, Bus, BusConfig, Class, Delivery, Interest, Overflow, PublishError, Published,
    RecvError, Refusal, Start, Subscriber, Topic,
};
use tokio::runtime::Runtime;

use crate::event::{Event, Planned, Traits};
use crate::input::Input;
use crate::owed::{Keeps, Manner, Next, Options, Owed, Record, Sums};

/// Rings of blocks of one slot, and of several.
const CAPACITIES: [usize; 11] = [2, 3, 4, 5, 6, 7, 8, 16, 20, 33, 64];
const READERS_MAX: usize = 6;
const WAITING_MAX: usize = 3;

/// Interprets `bytes` as operations on one topic and panics when the bus and the model disagree.
pub fn bus_ops(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World::new(CAPACITIES[input.index(CAPACITIES.len())]);
    let talks = cfg!(not(fuzzing)) && std::env::var_os("RON_FUZZ_TRACE").is_some();
    while !input.0.is_empty() {
        let before = input.0;
        let operation = world.step(&mut input);
        if talks {
            let read = &before[..before.len() - input.0.len()];
            eprintln!("{operation} {read:?} at {} ms", world.now_ms);
        }
        world.settle();
        world.check();
    }
    world.end();
    assert_eq!(Event::alive(), 0, "events that nobody dropped");
}

/// Remembers that it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Reader {
    subscriber: Subscriber<Event>,
    owed: Owed,
    woken: Arc<Flag>,
    /// Its last receive found nothing and left its waker.
    parked: bool,
    /// This operation published something for it.
    wakes: bool,
}

type Publishing = Pin<Box<dyn Future<Output = Result<Published, PublishError<Event>>>>>;

/// A publisher that waits for room.
struct Waiting {
    publishing: Publishing,
    woken: Arc<Flag>,
    since_ms: u64,
    number: u64,
    traits: Traits,
}

struct World {
    bus: Bus,
    topic: Topic<Event>,
    capacity: usize,
    readers: Vec<Reader>,
    waiting: VecDeque<Waiting>,
    /// With paused time; made when the first publisher waits.
    runtime: Option<Runtime>,
    now_ms: u64,
    /// Events made so far.
    made: u64,
    /// Newest sequence numbers.
    data_seq: u64,
    control_seq: u64,
    /// What the ring holds.
    retained: VecDeque<Record>,
    last: Option<Record>,
    /// Why nothing more is published.
    ended: Option<Refusal>,
    /// Sum over the readers that left.
    departed: Sums,
}

impl World {
    fn new(capacity: usize) -> Self {
        let config = BusConfig::default().max_readers(READERS_MAX);
        let bus = Bus::new(config).expect("the configuration is valid");
        let topic = bus.topic_spec("t").capacity(capacity).open();
        Self {
            bus,
            topic: topic.expect("the capacity is valid"),
            capacity,
            readers: Vec::new(),
            waiting: VecDeque::new(),
            runtime: None,
            now_ms: 0,
            made: 0,
            data_seq: 0,
            control_seq: 0,
            retained: VecDeque::new(),
            last: None,
            ended: None,
            departed: Sums::default(),
        }
    }

    /// One operation, whose name it returns. Its first byte says which; endings are rare, so that inputs get far.
    fn step(&mut self, input: &mut Input<'_>) -> &'static str {
        let operation = input.byte();
        let (name, run): (_, fn(&mut Self, &mut Input<'_>)) = match operation % 32 {
            0..=4 => ("publish", Self::publish),
            5..=6 => ("publish_many", Self::publish_many),
            7..=8 => ("publish_control", Self::publish_control),
            9..=10 => ("publish_control_keyed", Self::publish_control_keyed),
            11..=13 => ("publish_wait", Self::publish_wait),
            14 => ("give up", Self::give_up),
            15 => ("advance", Self::advance),
            16..=18 => ("subscribe", Self::subscribe),
            19..=23 => ("try_recv", Self::try_recv),
            24..=26 => ("recv_many", Self::recv_many),
            27..=28 => ("recv", Self::recv),
            29 => ("leave", Self::leave),
            30 => ("drain", Self::drain),
            _ => match operation {
                255 => ("publish_last", Self::publish_last),
                223 => ("close", Self::close),
                191 => ("close the bus", Self::close_bus),
                _ => ("publish", Self::publish),
            },
        };
        run(self, input);
        name
    }

    fn event(&mut self, input: &mut Input<'_>) -> (u64, Traits, Event) {
        let traits = Traits(input.byte());
        self.made += 1;
        (self.made, traits, Event::new(self.made, traits))
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let (number, traits, event) = self.event(input);
        let result = self.topic.publish(event);
        if let Some(published) = self.accepted(result, number) {
            self.published_data(published, number, traits, Manner::AtOnce);
        }
    }

    fn publish_many(&mut self, input: &mut Input<'_>) {
        let count = usize::from(input.byte() % 24);
        let events: Vec<_> = (0..count).map(|_| self.event(input)).collect();
        let (records, events): (Vec<_>, Vec<_>) = events
            .into_iter()
            .map(|(number, traits, event)| ((number, traits), event))
            .unzip();
        match self.topic.publish_many(events) {
            Ok(done) => {
                assert!(self.ended.is_none() || count == 0);
                assert_eq!(done.count, count as u64);
                let last_seq = self.data_seq + done.count;
                assert_eq!(done.last_seq, (count > 0).then_some(last_seq));
                for (number, traits) in records {
                    let published = (self.data_seq + 1, done.readers);
                    self.offer_data(published.0, number, traits, Manner::AtOnce);
                }
                assert!(count == 0 || done.readers <= self.readers.len());
            }
            Err(error) => {
                assert_eq!(Some(error.refusal), self.ended);
                assert_eq!(error.published.count, 0);
                let unsent: Vec<_> = error.unsent.iter().map(Event::number).collect();
                let taken = records.iter().map(|(number, _)| *number);
                assert_eq!(unsent, taken.take(unsent.len()).collect::<Vec<_>>());
                assert_eq!(unsent.len(), count.min(16));
            }
        }
    }

    fn publish_control(&mut self, input: &mut Input<'_>) {
        let (number, traits, event) = self.event(input);
        let result = self.topic.publish_control(event);
        self.published_control(result, number, traits, None);
    }

    fn publish_control_keyed(&mut self, input: &mut Input<'_>) {
        let key = u64::from(input.byte() % 4);
        let (number, traits, event) = self.event(input);
        let result = self.topic.publish_control_keyed(key, event);
        self.published_control(result, number, traits, Some(key));
    }

    fn published_control(
        &mut self,
        result: Result<Published, PublishError<Event>>,
        number: u64,
        traits: Traits,
        key: Option<u64>,
    ) {
        let connected = self.connected();
        let Some(published) = self.accepted(result, number) else {
            return;
        };
        self.control_seq += 1;
        assert_eq!(published.seq, self.control_seq);
        assert!(published.readers <= connected);
        let record = Record {
            seq: published.seq,
            number,
            traits,
        };
        for reader in &mut self.readers {
            reader.wakes |= reader.owed.offer_control(record, key);
        }
    }

    fn publish_last(&mut self, input: &mut Input<'_>) {
        let (number, traits, event) = self.event(input);
        let result = self.topic.publish_last(event);
        let Some(published) = self.accepted(result, number) else {
            return;
        };
        self.control_seq += 1;
        assert_eq!(published.seq, self.control_seq);
        let record = Record {
            seq: published.seq,
            number,
            traits,
        };
        self.last = Some(record);
        self.ended = Some(Refusal::Sealed);
        for reader in &mut self.readers {
            reader.wakes |= reader.owed.offer_last(record);
        }
    }

    fn close(&mut self, _: &mut Input<'_>) {
        self.topic.close();
        self.closed();
    }

    fn close_bus(&mut self, _: &mut Input<'_>) {
        self.bus.close();
        self.closed();
    }

    fn closed(&mut self) {
        self.ended = Some(Refusal::Closed);
        for reader in &mut self.readers {
            reader.wakes |= reader.owed.is_connected();
        }
    }

    fn publish_wait(&mut self, input: &mut Input<'_>) {
        let (number, traits, event) = self.event(input);
        if self.waiting.len() == WAITING_MAX {
            return;
        }
        self.runtime.get_or_insert_with(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let built = builder.enable_time().start_paused(true).build();
            built.expect("a runtime without io needs nothing")
        });
        let topic = self.topic.clone();
        let woken = Arc::new(Flag::default());
        woken.0.store(true, Ordering::Relaxed);
        self.waiting.push_back(Waiting {
            publishing: Box::pin(async move { topic.publish_wait(event).await }),
            woken,
            since_ms: self.now_ms,
            number,
            traits,
        });
    }

    /// Drops a publisher that waits, and with it its event.
    fn give_up(&mut self, input: &mut Input<'_>) {
        let which = input.index(self.waiting.len());
        drop(self.waiting.remove(which));
    }

    fn advance(&mut self, input: &mut Input<'_>) {
        let ms = 1 + u64::from(input.byte() % 16);
        self.now_ms += ms;
        if let Some(runtime) = &self.runtime {
            runtime.block_on(tokio::time::advance(Duration::from_millis(ms)));
        }
    }

    /// Polls the waiting publishers that were woken, in the order in which they began, until none is left; then nobody
    /// waits without a reason.
    fn settle(&mut self) {
        let mut rounds = 0;
        while let Some(at) = self.waiting.iter().position(|w| w.woken.is_set()) {
            rounds += 1;
            assert!(rounds < 1000, "publishers wake each other for ever");
            let runtime = self.runtime.as_ref().expect("somebody waited");
            let _entered = runtime.enter();
            let waiting = &mut self.waiting[at];
            waiting.woken.take();
            let waker = Waker::from(Arc::clone(&waiting.woken));
            let polled = waiting
                .publishing
                .as_mut()
                .poll(&mut Context::from_waker(&waker));
            let Poll::Ready(result) = polled else {
                continue;
            };
            drop(_entered);
            let done = self.waiting.remove(at).expect("it was there");
            for earlier in self.waiting.iter().take(at) {
                let overtaken = !self.must_wait(earlier) && !earlier.woken.is_set();
                assert!(!overtaken, "a publisher that could go on was not woken");
            }
            let Some(published) = self.accepted(result, done.number) else {
                continue;
            };
            assert!(!self.must_wait(&done), "published before its time");
            self.published_data(published, done.number, done.traits, Manner::Waited);
        }
        for waiting in &self.waiting {
            assert!(self.must_wait(waiting), "a publisher sleeps for ever");
        }
        self.readers.iter_mut().for_each(Reader::check_wake);
    }

    /// Whether some reader still has time to make room.
    fn must_wait(&self, waiting: &Waiting) -> bool {
        let waited_ms = self.now_ms - waiting.since_ms;
        self.ended.is_none()
            && self.readers.iter().any(|reader| {
                let deadline_ms = reader.owed.blocks(waiting.traits);
                deadline_ms.is_some_and(|deadline_ms| waited_ms < deadline_ms)
            })
    }

    /// What a publish returned, if the topic still takes events; the refusal is checked.
    fn accepted(
        &self,
        result: Result<Published, PublishError<Event>>,
        number: u64,
    ) -> Option<Published> {
        match result {
            Ok(published) => {
                assert_eq!(self.ended, None, "published behind the end");
                Some(published)
            }
            Err(error) => {
                assert_eq!(Some(error.refusal), self.ended);
                assert_eq!(error.event.number(), number, "another event came back");
                None
            }
        }
    }

    fn published_data(
        &mut self,
        published: Published,
        number: u64,
        traits: Traits,
        manner: Manner,
    ) {
        assert!(published.readers <= self.connected());
        self.offer_data(published.seq, number, traits, manner);
    }

    fn offer_data(&mut self, seq: u64, number: u64, traits: Traits, manner: Manner) {
        self.data_seq += 1;
        assert_eq!(seq, self.data_seq);
        let record = Record {
            seq,
            number,
            traits,
        };
        self.retained.push_back(record);
        if self.retained.len() > self.capacity {
            self.retained.pop_front();
        }
        for reader in &mut self.readers {
            reader.wakes |= reader.owed.offer_data(record, manner);
        }
    }

    fn connected(&self) -> usize {
        let connected = self.readers.iter().filter(|r| r.owed.is_connected());
        connected.count()
    }

    fn subscribe(&mut self, input: &mut Input<'_>) {
        let (kind, mask, start) = (input.byte(), input.byte(), input.byte());
        let (policy, overflow) = match kind % 4 {
            0 => (Keeps::Newest, Overflow::DropOldest),
            1 => (Keeps::AllOrNothing, Overflow::Disconnect),
            2 => {
                let deadline_ms = u64::from(kind >> 4);
                let deadline = Duration::from_millis(deadline_ms);
                (Keeps::Oldest { deadline_ms }, Overflow::Block { deadline })
            }
            _ => {
                let max_keys = 1 + usize::from(kind >> 4) % 5;
                let key: fn(&Event) -> u64 = Event::key;
                let overflow = Overflow::Conflate { key, max_keys };
                (Keeps::NewestPerKey { max_keys }, overflow)
            }
        };
        let interest = (mask & 16 != 0).then(|| {
            let classes = (0..4).filter(|class| mask >> class & 1 == 1);
            classes.filter_map(Class::new).collect::<Interest>()
        });
        let options = Options {
            policy,
            interest,
            even_only: kind & 4 != 0,
        };
        let mut builder = self.topic.subscriber().overflow(overflow).name("reader");
        if let Some(interest) = interest {
            builder = builder.interest(interest);
        }
        if options.even_only {
            builder = builder.filter(Event::is_even);
        }
        let keep = usize::from(start % 10);
        let built = match keep {
            0 => builder.build(),
            keep => builder.start(Start::Retained(keep)).build(),
        };
        let refused = self.ended == Some(Refusal::Closed) || self.readers.len() == READERS_MAX;
        assert_eq!(built.is_err(), refused, "{:?}", built.err());
        let Ok(subscriber) = built else {
            return;
        };
        let skipped = self.retained.len().saturating_sub(keep);
        let retained: Vec<_> = self.retained.iter().skip(skipped).copied().collect();
        self.readers.push(Reader {
            subscriber,
            owed: Owed::new(options, self.capacity, &retained, self.last),
            woken: Arc::new(Flag::default()),
            parked: false,
            wakes: false,
        });
    }

    fn try_recv(&mut self, input: &mut Input<'_>) {
        let which = input.index(self.readers.len());
        let ended = self.ended.is_some();
        if let Some(reader) = self.readers.get_mut(which) {
            reader.receive_one(ended);
        }
    }

    fn recv_many(&mut self, input: &mut Input<'_>) {
        let which = input.index(self.readers.len());
        let max = usize::from(input.byte() % 40);
        let ended = self.ended.is_some();
        if let Some(reader) = self.readers.get_mut(which) {
            reader.receive_many(max, ended);
        }
    }

    /// Receives by a future that is dropped when it has to wait.
    fn recv(&mut self, input: &mut Input<'_>) {
        let which = input.index(self.readers.len());
        let ended = self.ended.is_some();
        if let Some(reader) = self.readers.get_mut(which) {
            reader.poll(ended);
        }
    }

    fn drain(&mut self, input: &mut Input<'_>) {
        let which = input.index(self.readers.len());
        let ended = self.ended.is_some();
        if let Some(reader) = self.readers.get_mut(which) {
            while reader.receive_one(ended) {}
        }
    }

    fn leave(&mut self, input: &mut Input<'_>) {
        if self.readers.is_empty() {
            return;
        }
        let which = input.index(self.readers.len());
        let reader = self.readers.swap_remove(which);
        self.departed.add(reader.owed.farewell());
    }

    /// Every account is what the model says, and they add up.
    fn check(&self) {
        let mut total = self.departed;
        let mut depth = 0;
        for reader in &self.readers {
            let sums = reader.check();
            depth = depth.max(sums.pending());
            total.add(sums);
        }
        assert_eq!(self.topic.queue_depth(), depth);
        let stats = self.topic.stats();
        assert_eq!(
            (stats.seq, stats.control_seq),
            (self.data_seq, self.control_seq)
        );
        assert_eq!(stats.subscribers, self.connected());
        assert_eq!(stats.readers.len(), self.readers.len());
        assert!(stats.readers.iter().all(|r| r.account.is_balanced()));
        assert!(stats.total.is_balanced());
        assert_eq!(Sums::from(stats.total), total);
    }

    /// Closes the topic, reads everybody to the end and drops it all.
    fn end(mut self) {
        self.topic.close();
        self.closed();
        self.settle();
        assert!(self.waiting.is_empty(), "closing woke every publisher");
        for mut reader in std::mem::take(&mut self.readers) {
            while reader.receive_one(true) {}
            assert_eq!(reader.check().pending(), 0);
            self.departed.add(reader.owed.farewell());
        }
        self.check();
    }
}

/// A receive as all kinds of it end.
enum Got {
    Events(Vec<Delivery<Event>>),
    Error(RecvError),
    Nothing,
    Panicked(Vec<Delivery<Event>>),
}

/// Runs a receive. Panics that no event planned go on.
fn guarded<R>(run: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => Some(done),
        Err(payload) if payload.is::<Planned>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Polls until the future is ready or waits for others: one that wakes itself only lets others run.
fn poll_on<R>(woken: &Flag, mut poll: impl FnMut() -> Poll<R>) -> Poll<R> {
    for _ in 0..100 {
        let polled = poll();
        if polled.is_ready() || !woken.take() {
            return polled;
        }
    }
    panic!("a receive yields for ever");
}

impl Reader {
    /// A parked reader is woken by what concerns it and by nothing else.
    fn check_wake(&mut self) {
        let (woken, wakes) = (self.woken.take(), std::mem::take(&mut self.wakes));
        if self.parked {
            assert_eq!(woken, wakes, "woken: {woken}, had to be: {wakes}");
            self.parked = !woken;
        }
    }

    /// Returns whether there may be more.
    fn receive_one(&mut self, ended: bool) -> bool {
        self.parked = false;
        let subscriber = &mut self.subscriber;
        let got = match guarded(|| subscriber.try_recv()) {
            None => Got::Panicked(Vec::new()),
            Some(Ok(Some(delivery))) => Got::Events(vec![delivery]),
            Some(Ok(None)) => Got::Nothing,
            Some(Err(error)) => Got::Error(error),
        };
        self.compare(got, 1, ended)
    }

    fn receive_many(&mut self, max: usize, ended: bool) {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.woken.take();
        let (subscriber, mut batch) = (&mut self.subscriber, Vec::new());
        let woken = &self.woken;
        let polled = guarded(|| {
            let mut receiving = pin!(subscriber.recv_many(&mut batch, max));
            poll_on(woken, || {
                receiving.as_mut().poll(&mut Context::from_waker(&waker))
            })
        });
        if max == 0 {
            assert!(matches!(polled, Some(Poll::Ready(Ok(0)))));
            return;
        }
        self.parked = matches!(polled, Some(Poll::Pending));
        let got = match polled {
            None => Got::Panicked(batch),
            Some(Poll::Ready(Ok(count))) => {
                assert_eq!(count, batch.len());
                assert!(count > 0, "an empty batch");
                Got::Events(batch)
            }
            Some(Poll::Ready(Err(error))) => {
                assert!(batch.is_empty());
                Got::Error(error)
            }
            Some(Poll::Pending) => {
                assert!(batch.is_empty());
                Got::Nothing
            }
        };
        self.compare(got, max, ended);
    }

    fn poll(&mut self, ended: bool) {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.woken.take();
        let subscriber = &mut self.subscriber;
        let woken = &self.woken;
        let polled = guarded(|| {
            let mut receiving = pin!(subscriber.recv());
            poll_on(woken, || {
                receiving.as_mut().poll(&mut Context::from_waker(&waker))
            })
        });
        self.parked = matches!(polled, Some(Poll::Pending));
        let got = match polled {
            None => Got::Panicked(Vec::new()),
            Some(Poll::Ready(Ok(delivery))) => Got::Events(vec![delivery]),
            Some(Poll::Ready(Err(error))) => Got::Error(error),
            Some(Poll::Pending) => Got::Nothing,
        };
        self.compare(got, 1, ended);
    }

    /// What was received must be what the model owes. Returns whether there may be more.
    fn compare(&mut self, got: Got, max: usize, ended: bool) -> bool {
        let owed = &mut self.owed;
        match got {
            Got::Events(batch) => {
                assert!(batch.len() <= max);
                let count = batch.len();
                self.compare_events(batch);
                // Of a batch that was refused in part, the rest may come with the next.
                let refused = Sums::from(self.subscriber.account());
                while self.owed.sums() != refused && matches!(self.owed.peek(), Next::Refused) {
                    self.owed.take(Next::Refused);
                }
                let cut_short = count < max && !self.owed.filters() && self.owed.continues();
                let next = self.owed.peek();
                assert!(
                    !cut_short,
                    "a batch of {max} ended after {count} before {next:?}"
                );
                true
            }
            Got::Panicked(batch) => {
                self.compare_events(batch);
                let fate = self.skip_refused();
                assert!(matches!(fate, Next::Panics), "{fate:?} panicked");
                self.owed.take(fate);
                true
            }
            Got::Error(RecvError::Lagged(gap)) => {
                let fate = self.skip_refused();
                let due = matches!(fate, Next::Lagged(lane) if lane == gap.lane);
                assert!(due, "{gap:?} for {fate:?}");
                self.owed.tell(gap);
                true
            }
            Got::Error(RecvError::Disconnected(gap)) => {
                let fate = owed.peek();
                assert!(matches!(fate, Next::Disconnected), "cut off for {fate:?}");
                assert!(gap.missed() > 0 && gap.first_missed <= gap.last_missed);
                false
            }
            Got::Error(error) => {
                assert_eq!(error, RecvError::Closed);
                let fate = self.skip_refused();
                assert!(
                    ended && matches!(fate, Next::Nothing),
                    "closed for {fate:?}"
                );
                false
            }
            Got::Nothing => {
                let fate = self.skip_refused();
                let right = !ended && matches!(fate, Next::Nothing);
                assert!(right, "nothing for {fate:?}");
                false
            }
        }
    }

    fn compare_events(&mut self, batch: Vec<Delivery<Event>>) {
        for delivery in batch {
            let fate = self.skip_refused();
            let Next::Event {
                lane,
                record,
                conflated,
            } = fate
            else {
                panic!("{delivery:?} for {fate:?}");
            };
            assert_eq!(
                (delivery.lane, delivery.seq, delivery.conflated),
                (lane, record.seq, conflated)
            );
            assert_eq!(delivery.event.number(), record.number, "{delivery:?}");
            self.owed.take(fate);
        }
    }

    /// Lets the closure of the model refuse what it refuses; returns what comes behind it.
    fn skip_refused(&mut self) -> Next {
        loop {
            let fate = self.owed.peek();
            if !matches!(fate, Next::Refused) {
                return fate;
            }
            self.owed.take(fate);
        }
    }

    fn check(&self) -> Sums {
        let account: Account = self.subscriber.account();
        assert!(account.is_balanced(), "{account:?}");
        let sums = Sums::from(account);
        assert_eq!(sums, self.owed.sums());
        sums
    }
}
