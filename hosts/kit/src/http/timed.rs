//! A connection whose peer must keep it moving.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a connection is doing, as far as its time limits go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Whoever waits to read, to be woken when other limits hold.
    reader: Mutex<Option<Waker>>,
}

/// Between two requests.
const IDLE: u8 = 0;
/// A head has begun.
const HEAD: u8 = 1;
/// A head was read, the answer is under way.
const BUSY: u8 = 2;

impl Phase {
    /// A head was read.
    pub(crate) fn busy(&self) {
        self.set(BUSY);
    }

    /// The answer is complete.
    pub(crate) fn idle(&self) {
        self.set(IDLE);
        let reader = self.reader().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn set(&self, phase: u8) {
        self.0.phase.store(phase, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }

    fn reader(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection may take its time for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) read: Duration,
    pub(crate) write: Duration,
    pub(crate) idle: Duration,
}

/// Fails what takes too long: a head as a whole, the time between two requests, the time between two pieces written.
pub(crate) struct Timed<S> {
    stream: S,
    phase: Phase,
    times: Times,
    read: Limit,
    write: Limit,
    /// Until when the head that has begun must be there.
    head: Option<Instant>,
}

/// A timer that runs while a side waits.
#[derive(Default)]
struct Limit {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The phase that it runs for.
    running: Option<u8>,
}

impl Limit {
    fn stop(&mut self) {
        self.running = None;
    }

    /// Whether the side has waited until `until`, which counts from the first wait of this phase on.
    fn is_over(
        &mut self,
        phase: u8,
        until: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.running != Some(phase) {
            self.running = Some(phase);
            let until = until();
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(until),
                none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        }
        self.sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl<S> Timed<S> {
    pub(crate) fn new(stream: S, phase: Phase, times: Times) -> Self {
        Self {
            stream,
            phase,
            times,
            read: Limit::default(),
            write: Limit::default(),
            head: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() {
            this.read.stop();
            if this.phase.get() == IDLE && buf.filled().len() > before {
                this.phase.set(HEAD);
                this.head = Some(Instant::now() + this.times.read);
            }
            let late =
                this.phase.get() == HEAD && this.head.is_some_and(|head| Instant::now() >= head);
            return if late {
                Poll::Ready(Err(too_slow("head")))
            } else {
                polled
            };
        }
        let phase = this.phase.get();
        if phase == BUSY {
            // Whoever reads the body has limits of its own.
            this.read.stop();
            *this.phase.reader() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let idle = this.times.idle;
        let head = this.head.filter(|_| phase == HEAD);
        let until = || head.unwrap_or_else(|| Instant::now() + idle);
        if this.read.is_over(phase, until, cx) {
            return Poll::Ready(Err(too_slow("reading")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    fn written<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write.stop();
            return polled;
        }
        let write = self.times.write;
        if self.write.is_over(BUSY, || Instant::now() + write, cx) {
            return Poll::Ready(Err(too_slow("writing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(polled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(polled, cx)
    }
}

fn too_slow(what: &'static str) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the peer was too slow: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::sleep;

    const TIMES: Times = Times {
        read: Duration::from_secs(5),
        write: Duration::from_secs(3),
        idle: Duration::from_secs(60),
    };

    fn pair(
        buffer: usize,
    ) -> (
        Timed<tokio::io::DuplexStream>,
        tokio::io::DuplexStream,
        Phase,
    ) {
        let (ours, theirs) = tokio::io::duplex(buffer);
        let phase = Phase::default();
        (Timed::new(ours, phase.clone(), TIMES), theirs, phase)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_idle_for_a_minute() {
        let (mut ours, _theirs, _) = pair(64);
        let began = Instant::now();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_as_a_whole() {
        let (mut ours, mut theirs, _) = pair(64);
        let drip = tokio::spawn(async move {
            while theirs.write_u8(b'x').await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        sleep(Duration::from_secs(30)).await;
        let began = Instant::now();
        let error = loop {
            if let Err(error) = ours.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 5);
        drop(ours);
        drip.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_answer_is_under_way_reading_has_no_limit() {
        let (mut ours, mut theirs, phase) = pair(64);
        theirs.write_u8(b'x').await.unwrap();
        ours.read_u8().await.unwrap();
        phase.busy();
        let late = tokio::spawn(async move {
            sleep(Duration::from_secs(1_000)).await;
            theirs.write_u8(b'y').await.unwrap();
            theirs
        });
        assert_eq!(ours.read_u8().await.unwrap(), b'y');
        let _theirs = late.await.unwrap();
        // A read that waits is told of the end of the answer.
        let reading = tokio::spawn(async move {
            let read = ours.read_u8().await;
            (read.is_err(), Instant::now())
        });
        sleep(Duration::from_secs(100)).await;
        phase.idle();
        let began = Instant::now();
        let (failed, at) = reading.await.unwrap();
        assert!(failed);
        assert_eq!((at - began).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_let_go() {
        let (mut ours, _theirs, _) = pair(16);
        let began = Instant::now();
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
