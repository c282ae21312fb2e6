//! The mailboxes compared, behind one face that groups are generic over.
//!
//! What is received is shown to a closure where it lies: moving 64 bytes once more costs as much as some receives.

use super::{Message, BATCH};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use thingbuf::recycling::DefaultRecycle;
use tokio::sync::mpsc;

/// A bounded queue of many senders and one receiver.
pub trait Mailbox: 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver);

    /// Whether there was room.
    fn try_send(sender: &Self::Sender, message: Message) -> bool;

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R>;

    /// Takes what waits, or [`BATCH`] of it, and returns how many; one by one where there is no better way.
    fn drain(
        receiver: &mut Self::Receiver,
        _: &mut Vec<Message>,
        mut look: impl FnMut(&Message),
    ) -> usize {
        let mut taken = 0;
        while taken < BATCH && Self::try_recv(receiver, &mut look).is_some() {
            taken += 1;
        }
        taken
    }
}

/// One that tasks wait for.
pub trait AsyncMailbox: Mailbox {
    /// Waits for room.
    fn send(sender: &Self::Sender, message: Message) -> impl Future<Output = ()> + Send;

    fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> impl Future<Output = R> + Send;

    /// Waits for one and takes more with it.
    fn recv_many(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        mut look: impl FnMut(&Message) + Send,
    ) -> impl Future<Output = ()> + Send {
        async move {
            Self::recv(receiver, &mut look).await;
            Self::drain(receiver, buffer, look);
        }
    }
}

/// With deadlines, accounts and metrics, as it comes.
pub struct Ryker;
pub struct Tokio;
pub struct Flume;
pub struct Kanal;
pub struct AsyncChannel;
/// Its receiver borrows the slot.
pub struct Thingbuf;
/// For threads.
pub struct Crossbeam;
/// `std::sync::Mutex<VecDeque>`, which nobody can wait for; swapped out whole.
pub struct Locked;

impl Mailbox for Ryker {
    type Sender = ryker::Sender<Message>;
    type Receiver = ryker::Receiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        static RUNTIME: LazyLock<ryker::Runtime> =
            LazyLock::new(|| ryker::Runtime::new(ryker::RykerConfig::default()));
        let mailbox = RUNTIME.mailbox("bench").capacity(capacity);
        // Long, so that no message is dropped where a round is held up.
        let mailbox = mailbox.deadline(Duration::from_secs(60)).build();
        mailbox.expect("a mailbox").split()
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().as_ref().ok().map(look)
    }

    fn drain(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        look: impl FnMut(&Message),
    ) -> usize {
        let mut nobody = Context::from_waker(Waker::noop());
        // It is pending once, too, when it gives others their turn.
        for _ in 0..2 {
            let received = pin!(receiver.recv_many(buffer, BATCH)).poll(&mut nobody);
            if let Poll::Ready(taken) = received {
                buffer.iter().for_each(look);
                buffer.clear();
                return taken;
            }
        }
        0
    }
}

impl AsyncMailbox for Ryker {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(receiver.recv().await.as_ref().expect("a sender"))
    }

    async fn recv_many(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        look: impl FnMut(&Message) + Send,
    ) {
        receiver.recv_many(buffer, BATCH).await;
        buffer.iter().for_each(look);
        buffer.clear();
    }
}

impl Mailbox for Tokio {
    type Sender = mpsc::Sender<Message>;
    type Receiver = mpsc::Receiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().as_ref().ok().map(look)
    }

    fn drain(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        look: impl FnMut(&Message),
    ) -> usize {
        let mut nobody = Context::from_waker(Waker::noop());
        let Poll::Ready(taken) = receiver.poll_recv_many(&mut nobody, buffer, BATCH) else {
            return 0;
        };
        buffer.iter().for_each(look);
        buffer.clear();
        taken
    }
}

impl AsyncMailbox for Tokio {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(receiver.recv().await.as_ref().expect("a sender"))
    }

    async fn recv_many(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        look: impl FnMut(&Message) + Send,
    ) {
        receiver.recv_many(buffer, BATCH).await;
        buffer.iter().for_each(look);
        buffer.clear();
    }
}

impl Mailbox for Flume {
    type Sender = flume::Sender<Message>;
    type Receiver = flume::Receiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        flume::bounded(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().as_ref().ok().map(look)
    }

    fn drain(
        receiver: &mut Self::Receiver,
        _: &mut Vec<Message>,
        mut look: impl FnMut(&Message),
    ) -> usize {
        let messages = receiver.drain();
        let taken = messages.len();
        messages.for_each(|message| look(&message));
        taken
    }
}

impl AsyncMailbox for Flume {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send_async(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(receiver.recv_async().await.as_ref().expect("a sender"))
    }
}

impl Mailbox for Kanal {
    type Sender = kanal::AsyncSender<Message>;
    type Receiver = kanal::AsyncReceiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        kanal::bounded_async(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).expect("a receiver")
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().expect("a sender").as_ref().map(look)
    }

    fn drain(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Message>,
        look: impl FnMut(&Message),
    ) -> usize {
        let taken = receiver.drain_into(buffer).expect("a sender");
        buffer.iter().for_each(look);
        buffer.clear();
        taken
    }
}

impl AsyncMailbox for Kanal {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(receiver.recv().await.as_ref().expect("a sender"))
    }
}

impl Mailbox for AsyncChannel {
    type Sender = async_channel::Sender<Message>;
    type Receiver = async_channel::Receiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        async_channel::bounded(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().as_ref().ok().map(look)
    }
}

impl AsyncMailbox for AsyncChannel {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(receiver.recv().await.as_ref().expect("a sender"))
    }
}

impl Mailbox for Thingbuf {
    type Sender = thingbuf::mpsc::Sender<Message, DefaultRecycle>;
    type Receiver = thingbuf::mpsc::Receiver<Message, DefaultRecycle>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        thingbuf::mpsc::channel(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv_ref().ok().map(|message| look(&message))
    }
}

impl AsyncMailbox for Thingbuf {
    async fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).await.expect("a receiver");
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        look(&receiver.recv_ref().await.expect("a sender"))
    }
}

impl Mailbox for Crossbeam {
    type Sender = crossbeam_channel::Sender<Message>;
    type Receiver = crossbeam_channel::Receiver<Message>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        crossbeam_channel::bounded(capacity)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        sender.try_send(message).is_ok()
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        receiver.try_recv().as_ref().ok().map(look)
    }
}

/// A queue with its limit.
#[derive(Clone)]
pub struct Queue {
    queue: Arc<Mutex<VecDeque<Message>>>,
    capacity: usize,
}

impl Mailbox for Locked {
    type Sender = Queue;
    /// The other queue is empty: it is what the full one is swapped for.
    type Receiver = (Queue, VecDeque<Message>);

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        let queue = Queue {
            queue: Arc::new(Mutex::new(VecDeque::with_capacity(capacity))),
            capacity,
        };
        (queue.clone(), (queue, VecDeque::with_capacity(capacity)))
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        let mut queue = sender.queue.lock().expect("nobody panics with it");
        let room = queue.len() < sender.capacity;
        if room {
            queue.push_back(message);
        }
        room
    }

    fn try_recv<R>((queue, _): &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        let message = queue
            .queue
            .lock()
            .expect("nobody panics with it")
            .pop_front();
        message.as_ref().map(look)
    }

    fn drain(
        (queue, spare): &mut Self::Receiver,
        _: &mut Vec<Message>,
        look: impl FnMut(&Message),
    ) -> usize {
        std::mem::swap(
            &mut *queue.queue.lock().expect("nobody panics with it"),
            spare,
        );
        let taken = spare.len();
        spare.iter().for_each(look);
        spare.clear();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tape;
    use super::*;

    fn has_room_for_its_capacity_and_hands_out_in_order<M: Mailbox>() {
        let (sender, mut receiver) = M::open(128);
        let mut tape = Tape::new(1, 256);
        let mut buffer = Vec::new();
        let mut numbers = 0..;
        for _ in 0..2 {
            for number in numbers.by_ref().take(128) {
                assert!(M::try_send(&sender, Message::new(0, number)));
            }
            assert!(!M::try_send(&sender, Message::new(0, 999)));
            assert!(M::try_recv(&mut receiver, |message| tape.take(message)).is_some());
            while M::drain(&mut receiver, &mut buffer, |message| tape.take(message)) > 0 {}
            assert!(M::try_recv(&mut receiver, |_| ()).is_none());
        }
        assert!(tape.is_full());
    }

    fn waits_for_messages_and_for_room<M: AsyncMailbox>() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let (sender, mut receiver) = M::open(128);
            let receiving = tokio::spawn(async move {
                let mut tape = Tape::new(1, 1000);
                let mut buffer = Vec::new();
                while !tape.is_full() {
                    M::recv(&mut receiver, |message| tape.take(message)).await;
                    if !tape.is_full() {
                        M::recv_many(&mut receiver, &mut buffer, |message| tape.take(message))
                            .await;
                    }
                }
            });
            for number in 0..1000 {
                M::send(&sender, Message::new(0, number)).await;
            }
            receiving.await.expect("all messages");
        });
    }

    macro_rules! of {
        ($property:ident: $($mailbox:ident),+) => {
            #[test]
            fn $property() {
                $(super::$property::<$mailbox>();)+
            }
        };
    }

    mod every_mailbox {
        use super::super::{AsyncChannel, Crossbeam, Flume, Kanal, Locked, Ryker, Thingbuf, Tokio};
        of!(has_room_for_its_capacity_and_hands_out_in_order: Ryker, Tokio, Flume, Kanal, AsyncChannel, Thingbuf, Crossbeam, Locked);
        of!(waits_for_messages_and_for_room: Ryker, Tokio, Flume, Kanal, AsyncChannel, Thingbuf);
    }
}
