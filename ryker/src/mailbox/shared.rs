//! What senders and the receiver of a mailbox share.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicUsize as PlainUsize;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use super::intake::{Bounds, Envelope, Intake, Phase, Stamp};
use super::line::{Claim, Standing, Ticket, Wakers};
use crate::account::{Accounts, End, Progress};
use crate::clock::Tick;
use crate::contain::{contain, wake};
use crate::core::{Core, Residence, Resident, Totals};
use crate::error::{ErrorKind, SendError};
use crate::fate::Fate;
use crate::observer::{DropReason, Observer};
use crate::stats::Stats;
use crate::sync::{fence, AtomicBool, AtomicU64, AtomicUsize, Guard, Lock, Ordering, Padded};

/// What a mailbox is made with and keeps.
pub(crate) struct Spec<T> {
    pub(crate) name: Arc<str>,
    pub(crate) capacity: u32,
    /// Milliseconds, instead of the runtime's default.
    pub(crate) deadline: Option<NonZeroU32>,
    /// Tells those who wait for an answer that there will be none. Actors have it, which end by their own account.
    pub(crate) discard: Option<fn(&T, ErrorKind)>,
    /// Most mailboxes have none.
    pub(crate) extras: Option<Box<Extras<T>>>,
}

/// What a mailbox can have beyond the ordinary.
pub(crate) struct Extras<T> {
    pub(crate) bytes: Option<Measured<T>>,
    /// Overwrites what is dropped unhandled.
    pub(crate) scrub: Option<fn(&mut T)>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Who keeps the receiver while nobody runs the actor.
    pub(crate) vacant: OnceLock<Weak<dyn Vacant>>,
}

impl<T> Default for Extras<T> {
    fn default() -> Self {
        Self {
            bytes: None,
            scrub: None,
            observer: None,
            vacant: OnceLock::new(),
        }
    }
}

/// An actor that somebody else runs, or does not run at the moment.
pub(crate) trait Vacant: Send + Sync {
    /// Ends it for good, unless it runs.
    fn sweep(&self);
}

/// The bound by bytes.
pub(crate) struct Measured<T> {
    pub(crate) size: fn(&T) -> usize,
    /// Of one message.
    pub(crate) max_msg: u32,
    /// Of all of them.
    pub(crate) max: u64,
}

impl<T> Spec<T> {
    fn measured(&self) -> Option<&Measured<T>> {
        self.extras.as_ref()?.bytes.as_ref()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            messages: u64::from(self.capacity),
            bytes: self.measured().map(|measured| measured.max),
        }
    }

    fn observer(&self) -> Option<&dyn Observer> {
        self.extras.as_ref()?.observer.as_deref()
    }
}

/// In cache lines by who writes them; what is written rarely fills the gaps, as there may be very many.
pub(crate) struct Shared<T> {
    inflow: Padded<Inflow<T>>,
    outflow: Padded<Outflow>,
    pub(crate) stats: Padded<Stats>,
    senders: AtomicUsize,
    pub(crate) spec: Spec<T>,
    pub(crate) core: Arc<Core>,
    /// Where it is registered, or `usize::MAX`.
    residence: PlainUsize,
}

struct Inflow<T> {
    intake: Lock<Intake<T>>,
    fate: Fate,
}

struct Outflow {
    progress: Progress,
    /// How many the receiver has taken when it is to look at those who wait for room. Written under the lock.
    wanted: AtomicU64,
    /// Whether the receiver is to drop what it finds. Written under the lock.
    cut: AtomicBool,
    /// Whether there is no receiver any more.
    is_gone: AtomicBool,
}

impl<T> Shared<T> {
    /// With one sender.
    pub(crate) fn new(spec: Spec<T>, core: Arc<Core>) -> Self {
        Self {
            inflow: Padded(Inflow {
                intake: Lock::new(Intake::new(spec.bounds())),
                fate: Fate::default(),
            }),
            outflow: Padded(Outflow {
                progress: Progress::new(),
                wanted: AtomicU64::new(u64::MAX),
                cut: AtomicBool::new(false),
                is_gone: AtomicBool::new(false),
            }),
            stats: Padded::default(),
            senders: AtomicUsize::new(1),
            spec,
            core,
            residence: PlainUsize::new(usize::MAX),
        }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.outflow.progress
    }

    pub(crate) fn fate(&self) -> &Fate {
        &self.inflow.fate
    }

    /// Where it is registered, to be left when it is dropped.
    pub(crate) fn settle(&self, residence: Residence) {
        self.residence.store(residence.0, Ordering::Relaxed);
    }

    /// What `message` is charged with, or `None` if it never fits.
    #[inline(always)]
    fn charge(&self, message: &T) -> Option<u32> {
        let Some(measured) = self.spec.measured() else {
            return Some(0);
        };
        let bytes = u32::try_from((measured.size)(message)).ok()?;
        (bytes <= measured.max_msg).then_some(bytes)
    }

    /// How long a message sent now may take.
    #[inline(always)]
    pub(crate) fn deadline_ms(&self) -> u64 {
        match self.spec.deadline {
            Some(deadline) => u64::from(deadline.get()),
            None => self.core.hot.deadline_ms(),
        }
    }

    /// What `message` is sent with: it expires at `own` or at the default deadline, whichever is earlier.
    #[inline(always)]
    pub(crate) fn stamp(&self, message: &T, own: Option<Tick>) -> Result<Stamp, ErrorKind> {
        let bytes = self.charge(message).ok_or(ErrorKind::TooLarge)?;
        let now = self.core.clock.now();
        // The tick that runs has begun already, and no deadline is to be early.
        let default = now + self.deadline_ms() + 1;
        let deadline = own.map_or(default, |own| own.min(default));
        if deadline <= now {
            return Err(ErrorKind::Timeout);
        }
        Ok(Stamp {
            deadline,
            budget: (deadline - now) as u32,
            bytes,
        })
    }

    /// Takes the message in, or hands it back with what is in the way.
    #[inline(always)]
    pub(crate) fn offer(&self, message: T, stamp: Stamp) -> Result<(), (ErrorKind, T)> {
        let mut intake = self.inflow.intake.lock();
        if !intake.admits(stamp.bytes) {
            return self.offer_slowly(intake, message, stamp);
        }
        intake.push(stamp, message);
        let reader = intake.reader_for_message();
        drop(intake);
        if let Some(reader) = reader {
            wake(reader);
        }
        Ok(())
    }

    #[cold]
    fn offer_slowly(
        &self,
        mut intake: Guard<'_, Intake<T>>,
        message: T,
        stamp: Stamp,
    ) -> Result<(), (ErrorKind, T)> {
        // When it was stamped is late enough.
        let now = stamp.deadline - u64::from(stamp.budget);
        let mut wakers = self.grant(&mut intake, now);
        let refusal = match intake.phase {
            Phase::Open if intake.admits(stamp.bytes) => None,
            Phase::Open => Some(ErrorKind::Busy),
            ended => Some(self.ended(ended)),
        };
        let result = match refusal {
            None => {
                intake.push(stamp, message);
                wakers.extend(intake.reader_for_message());
                Ok(())
            }
            Some(kind) => Err((kind, message)),
        };
        drop(intake);
        wake_all(wakers);
        result
    }

    /// What is in the way of a message when the intake has ended: a drain, or a stop that is under way, or that there is
    /// nobody any more.
    fn ended(&self, phase: Phase) -> ErrorKind {
        let is_gone = self.outflow.is_gone.load(Ordering::Relaxed);
        if self.core.is_draining() || (phase == Phase::Draining && !is_gone) {
            ErrorKind::Draining
        } else {
            ErrorKind::Closed
        }
    }

    /// Reserves room for those who wait, in their order.
    fn grant(&self, intake: &mut Intake<T>, now: Tick) -> Wakers {
        let bounds = self.spec.bounds();
        let taken = self.progress().taken();
        let wakers = intake.grant(bounds, taken, now);
        let wanted = intake.wanted(bounds, taken.0, now);
        self.outflow.wanted.store(wanted, Ordering::Relaxed);
        wakers
    }

    /// [`offer`](Self::offer), and where it is full waits for room; `ticket` is the place among those who wait, and
    /// `since` the tick from which on it does. The envelope is taken if and only if that succeeds.
    pub(crate) fn poll_offer(
        &self,
        envelope: &mut Option<Envelope<T>>,
        ticket: &mut Option<Ticket>,
        since: Tick,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ErrorKind>> {
        let Some(sealed) = envelope.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        let now = self.core.clock.now();
        let claim = Claim {
            bytes: sealed.known.bytes,
            deadline: sealed.known.deadline,
            since,
        };
        if claim.deadline <= now {
            return Poll::Ready(Err(ErrorKind::Timeout));
        }
        sealed.known.budget = (claim.deadline - now) as u32;
        let waker = cx.waker().clone();
        let mut intake = self.inflow.intake.lock();
        let mut wakers = self.grant(&mut intake, now);
        let phase = intake.phase;
        let (standing, spare) = match *ticket {
            Some(place) => intake.claim(place, waker),
            None if intake.admits(claim.bytes) => (Standing::Granted, Some(waker)),
            None if phase == Phase::Open => {
                *ticket = Some(intake.wait(claim, waker));
                // The receiver takes, then looks at what is wanted; this wants, then looks at what was taken. Without a
                // fence on its side both may look too early.
                self.outflow.wanted.store(0, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                wakers.extend(self.grant(&mut intake, now));
                (Standing::Waits, None)
            }
            None => (Standing::Lost, Some(waker)),
        };
        if let (Standing::Granted, Phase::Open) = (standing, phase) {
            if let Some(sealed) = envelope.take() {
                intake.push(sealed.known, sealed.message);
            }
            wakers.extend(intake.reader_for_message());
        }
        if standing != Standing::Waits {
            // The place has been given back, whatever the wakers do now.
            *ticket = None;
        }
        drop(intake);
        wake_all(wakers);
        drop(spare);
        match (standing, phase) {
            (Standing::Granted, Phase::Open) => Poll::Ready(Ok(())),
            (Standing::Waits, Phase::Open) => Poll::Pending,
            (Standing::Lost, Phase::Open) => Poll::Ready(Err(ErrorKind::Timeout)),
            (_, ended) => Poll::Ready(Err(self.ended(ended))),
        }
    }

    /// Gives up a place among those who wait.
    pub(crate) fn leave(&self, ticket: Ticket) {
        let now = self.core.clock.now();
        let mut intake = self.inflow.intake.lock();
        let (_, waker) = intake.leave(ticket);
        // Either room is free again, or a large message is no longer in the way of smaller ones.
        let wakers = self.grant(&mut intake, now);
        drop(intake);
        wake_all(wakers);
        drop(waker);
    }

    /// Counts a refusal.
    #[cold]
    pub(crate) fn refuse<U>(&self, error: SendError<U>) -> SendError<U> {
        let reason = {
            let mut intake = self.inflow.intake.lock();
            let refused = intake.refused();
            let (counter, reason) = match error {
                SendError::Busy(_) => (&mut refused.busy, DropReason::Capacity),
                SendError::TooLarge(_) => (&mut refused.too_large, DropReason::TooLarge),
                SendError::Closed(_) => (&mut refused.closed, DropReason::Closed),
                SendError::Deadline(_) => (&mut refused.deadline, DropReason::Deadline),
                SendError::Draining(_) => (&mut refused.draining, DropReason::Closed),
            };
            *counter += 1;
            reason
        };
        self.tell(|observer, name| observer.on_refused(name, reason));
        error
    }

    /// Ends the intake: what is queued stays readable.
    pub(crate) fn close(&self, phase: Phase) {
        let wakers = self.inflow.intake.lock().end(phase);
        wake_all(wakers);
    }

    pub(crate) fn add_sender(&self) {
        self.senders.fetch_add(1, Ordering::Relaxed);
    }

    /// Another sender, unless the last one is gone.
    pub(crate) fn revive_sender(&self) -> bool {
        let more = |senders: usize| (senders > 0).then_some(senders + 1);
        self.senders
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(crate) fn drop_sender(&self) {
        if self.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close(Phase::Closed);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inflow.intake.lock().phase != Phase::Open
    }

    /// Messages in the mailbox: accepted and not yet taken from it.
    pub(crate) fn depth(&self) -> u64 {
        let accepted = self.inflow.intake.lock().accepted();
        // Later than `accepted`, so it may have run ahead.
        accepted.saturating_sub(self.progress().taken().0)
    }

    /// What is queued goes to `batch`, which is empty. If nothing is, tells the phase, and if that is `Open` leaves
    /// `waker` to be woken by the next message; the waker that was left before takes its place.
    pub(crate) fn swap(
        &self,
        batch: &mut VecDeque<Envelope<T>>,
        waker: &mut Option<Waker>,
    ) -> Result<(), Phase> {
        let now = self.core.clock.now();
        let mut intake = self.inflow.intake.lock();
        let wakers = match intake.has_waiting() {
            true => Some(self.grant(&mut intake, now)),
            false => None,
        };
        let swapped = if intake.queue.is_empty() {
            let phase = intake.phase;
            if phase == Phase::Open {
                if let Some(reader) = waker.take() {
                    *waker = intake.park(reader, true);
                }
            }
            Err(phase)
        } else {
            std::mem::swap(&mut intake.queue, batch);
            self.progress().hold(batch.len() as u64);
            Ok(())
        };
        drop(intake);
        wakers.into_iter().for_each(wake_all);
        swapped
    }

    /// Adds what is queued to the end of `batch`.
    pub(crate) fn gather(&self, batch: &mut VecDeque<Envelope<T>>) {
        let mut intake = self.inflow.intake.lock();
        self.progress().hold(intake.queue.len() as u64);
        batch.append(&mut intake.queue);
    }

    /// Has `waker` woken by whatever is not a message, and tells the phase.
    pub(crate) fn attend(&self, waker: &Waker) -> Phase {
        let (phase, attended) = {
            let intake = self.inflow.intake.lock();
            (intake.phase, intake.is_attended(waker))
        };
        if attended {
            self.announce_room();
            return phase;
        }
        let reader = waker.clone();
        let now = self.core.clock.now();
        let mut intake = self.inflow.intake.lock();
        let old = intake.park(reader, false);
        let wakers = self.grant(&mut intake, now);
        let phase = intake.phase;
        drop(intake);
        wake_all(wakers);
        drop(old);
        phase
    }

    /// The receiver has taken messages. Whoever waits for room is told when there is [enough](Intake::wanted) of it;
    /// but one who begins to wait in this very moment may be overlooked, as a fence would cost as much as the message. It
    /// looks for itself before long.
    #[inline(always)]
    pub(crate) fn make_room(&self) {
        if self.progress().taken_by_receiver() >= self.outflow.wanted.load(Ordering::Relaxed) {
            self.grant_room();
        }
    }

    /// The receiver has taken messages and may not look again soon: whoever waits for room is told.
    pub(crate) fn announce_room(&self) {
        // Pairs with the fence in `poll_offer`.
        fence(Ordering::SeqCst);
        if self.outflow.wanted.load(Ordering::Relaxed) < u64::MAX {
            self.grant_room();
        }
    }

    #[cold]
    fn grant_room(&self) {
        let now = self.core.clock.now();
        let wakers = self.grant(&mut self.inflow.intake.lock(), now);
        wake_all(wakers);
    }

    #[inline(always)]
    pub(crate) fn is_cut(&self) -> bool {
        self.outflow.cut.load(Ordering::Relaxed)
    }

    pub(crate) fn accounts(&self) -> Accounts {
        loop {
            let intake = self.inflow.intake.lock();
            if let Some(booked) = self.progress().read() {
                let mut accounts = Accounts {
                    accepted: intake.accepted(),
                    pending: intake.queue.len() as u64 + booked.held,
                    refused: intake.refusals(),
                    ..Accounts::default()
                };
                booked.fill(&mut accounts);
                return accounts;
            }
            drop(intake);
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::hint::spin_loop();
        }
    }

    /// Books `count` messages as ended without having been handled, and tells the observer.
    pub(crate) fn book_unhandled(&self, count: u64, end: End) {
        if count == 0 {
            return;
        }
        self.progress().end(count, end);
        let reason = match end {
            End::Expired | End::Abandoned => DropReason::Deadline,
            _ if self.is_shutting_down() => DropReason::Shutdown,
            _ => DropReason::Closed,
        };
        self.stats.dropped(reason, count);
        self.tell(|observer, name| observer.on_dropped(name, reason, count));
    }

    /// Tells the observer, if there is one.
    #[inline(always)]
    pub(crate) fn tell(&self, what: impl FnOnce(&dyn Observer, &str)) {
        if let Some(observer) = self.spec.observer() {
            let _ = contain(|| what(observer, &self.spec.name));
        }
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.inflow.intake.lock().phase == Phase::Draining || self.core.is_draining()
    }

    /// Why those who wait for an answer get none.
    pub(crate) fn why_ended(&self) -> ErrorKind {
        match self.is_shutting_down() {
            true => ErrorKind::Draining,
            false => ErrorKind::Closed,
        }
    }

    /// Drops a message that nobody handles.
    pub(crate) fn discard(&self, mut message: T, kind: ErrorKind) {
        if let Some(discard) = self.spec.discard {
            discard(&message, kind);
        }
        let _ = contain(move || {
            if let Some(scrub) = self.spec.extras.as_ref().and_then(|extras| extras.scrub) {
                scrub(&mut message);
            }
        });
    }

    /// Nobody receives any more.
    pub(crate) fn retire(&self) {
        self.outflow.is_gone.store(true, Ordering::Relaxed);
        self.close(Phase::Closed);
    }

    /// Ends the mailbox at once: what is in it is dropped by its receiver.
    pub(crate) fn cut(&self, phase: Phase) {
        let wakers = {
            let mut intake = self.inflow.intake.lock();
            self.outflow.cut.store(true, Ordering::Relaxed);
            intake.end(phase)
        };
        wake_all(wakers);
        let vacant = self.spec.extras.as_ref().and_then(|e| e.vacant.get());
        if let Some(vacant) = vacant.and_then(Weak::upgrade) {
            vacant.sweep();
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let residence = Residence(*self.residence.get_mut());
        if residence.0 != usize::MAX {
            let last = Totals {
                accounts: self.accounts(),
                stats: self.stats.read(),
            };
            self.core.deregister(residence, &self.spec.name, last);
        }
    }
}

impl<T: Send + 'static> Resident for Shared<T> {
    fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    fn accounts(&self) -> Accounts {
        Shared::accounts(self)
    }

    #[cfg(feature = "metrics")]
    fn stats(&self) -> &Stats {
        &self.stats
    }

    #[cfg(feature = "metrics")]
    fn depth(&self) -> u64 {
        Shared::depth(self)
    }

    fn drain(&self) {
        self.close(Phase::Draining);
    }

    fn cut(&self) {
        Shared::cut(self, Phase::Draining);
    }

    fn is_over(&self) -> bool {
        if self.spec.discard.is_some() {
            return self.fate().is_sealed();
        }
        Shared::accounts(self).pending == 0
    }
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("name", &self.spec.name)
            .field("capacity", &self.spec.capacity)
            .field("depth", &self.depth())
            .finish_non_exhaustive()
    }
}

fn wake_all(wakers: Wakers) {
    wakers.into_iter().for_each(wake);
}
