//! A connection whose peer must keep it moving.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{send, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, Instant, Sleep};

/// What a connection is doing, as far as its time limits go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    answers: AtomicU32,
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
        self.0.answers.fetch_add(1, Ordering::Relaxed);
        self.set(BUSY);
    }

    /// How many answers have begun.
    fn answers(&self) -> u32 {
        self.0.answers.load(Ordering::Relaxed)
    }

    /// The answer is complete.
    pub(crate) fn idle(&self) {
        self.set(IDLE);
        self.look_again();
    }

    /// Has whoever waits to read look which limit holds now.
    fn look_again(&self) {
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
    /// Bytes per second that a peer takes of an answer, beyond what `write` allows.
    pub(crate) rate: u64,
}

/// Fails what takes too long: a head as a whole, the time between two requests, the time between two pieces written, an
/// answer that the peer takes too slowly. `T` tells the times in force.
pub(crate) struct Timed<S, T> {
    stream: S,
    phase: Phase,
    times: T,
    read: Limit,
    write: Limit,
    /// Until when the head that has begun must be there, if it did not come at once.
    head: Option<Instant>,
    taking: Taking,
}

/// How the peer takes the answer under way.
#[derive(Default)]
struct Taking {
    /// Which answer of the connection that is.
    answer: u32,
    bytes: u64,
    /// For the peer, before it waits `since` when it does.
    waited: Duration,
    since: Option<Instant>,
}

impl Taking {
    fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// When the peer has kept the node waiting for too long.
    fn until(&mut self, times: &Times) -> Instant {
        let allowed = times.write + Duration::from_secs(self.bytes / times.rate.max(1));
        let left = allowed.saturating_sub(self.waited);
        *self.since.get_or_insert_with(Instant::now) + times.write.min(left)
    }
}

/// A timer that runs while a side waits. Most waits end long before their limit: a timer that would ring before the limit of
/// this one is left as it is, and set again when it does.
#[derive(Default)]
struct Limit {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The phase that it runs for, and until when.
    running: Option<(u8, Instant)>,
    /// Whom the timer wakes.
    waker: Option<Waker>,
}

impl Limit {
    fn stop(&mut self) {
        self.running = None;
    }

    fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the side has waited until `until`, which counts from the first wait of this phase on.
    fn is_over(
        &mut self,
        phase: u8,
        until: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        let until = match self.running {
            Some((running, until)) if running == phase => until,
            _ => {
                let until = until();
                self.running = Some((phase, until));
                until
            }
        };
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if sleep.deadline() > until {
                    sleep.as_mut().reset(until);
                    self.waker = None;
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(until))),
        };
        let is_set = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !sleep.is_elapsed() {
            return false;
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= until {
                self.waker = None;
                return true;
            }
            sleep.as_mut().reset(until);
        }
        self.waker = Some(cx.waker().clone());
        false
    }
}

impl<S, T> Timed<S, T> {
    pub(crate) fn new(stream: S, phase: Phase, times: T) -> Self {
        Self {
            stream,
            phase,
            times,
            read: Limit::default(),
            write: Limit::default(),
            head: None,
            taking: Taking::default(),
        }
    }
}

impl<S: AsyncRead + Unpin, T: Fn() -> Times + Unpin> AsyncRead for Timed<S, T> {
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
                this.head = None;
            } else if this.phase.get() == HEAD {
                let now = Instant::now();
                let until = *this.head.get_or_insert_with(|| now + (this.times)().read);
                if now >= until {
                    return Poll::Ready(Err(too_slow("head")));
                }
            }
            return polled;
        }
        let phase = this.phase.get();
        // Between two requests the last answer may still be on its way.
        if phase == BUSY || phase == IDLE && this.write.is_running() {
            // Whoever reads the body, or writes, has limits of its own.
            this.read.stop();
            *this.phase.reader() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (head, times) = (&mut this.head, &this.times);
        let until = || match phase {
            HEAD => *head.get_or_insert_with(|| Instant::now() + times().read),
            _ => Instant::now() + times().idle,
        };
        if this.read.is_over(phase, until, cx) {
            return Poll::Ready(Err(too_slow("reading")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin, T: Fn() -> Times> Timed<S, T> {
    fn written(
        &mut self,
        polled: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let answer = self.phase.answers();
        if self.taking.answer != answer {
            self.taking = Taking {
                answer,
                ..Taking::default()
            };
        }
        if let Poll::Ready(result) = polled {
            self.taking.took(result.as_ref().copied().unwrap_or(0));
            if self.write.is_running() && self.phase.get() == IDLE {
                self.phase.look_again();
            }
            self.write.stop();
            return Poll::Ready(result);
        }
        let (taking, times) = (&mut self.taking, &self.times);
        if self.write.is_over(BUSY, || taking.until(&times()), cx) {
            return Poll::Ready(Err(too_slow("writing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin, T: Fn() -> Times + Unpin> AsyncWrite for Timed<S, T> {
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
        this.written(polled.map_ok(|()| 0), cx).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(polled.map_ok(|()| 0), cx).map_ok(drop)
    }
}

/// Between two tries of a socket that has not told of room: far below every limit of a slow peer.
const TRY: Duration = Duration::from_millis(200);

/// A socket that takes whatever it has room for. Linux tells of room when a third of what it sends from is free, which may be
/// a megabyte, and a peer that takes it slowly but steadily would seem to take nothing for a minute. Of a Unix socket it tells
/// when three quarters are.
pub(crate) struct Eager<S> {
    stream: S,
    /// The next try.
    next: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl<S: AsFd> Eager<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            next: None,
            is_waiting: false,
        }
    }

    /// What became of a write of `bytes`, and otherwise of a try when it is time for one.
    fn written(
        &mut self,
        polled: Poll<io::Result<usize>>,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if polled.is_ready() || bytes.is_empty() {
            self.is_waiting = false;
            return polled;
        }
        let next = self.next.get_or_insert_with(|| Box::pin(sleep(TRY)));
        if !self.is_waiting {
            self.is_waiting = true;
            next.as_mut().reset(Instant::now() + TRY);
        }
        while next.as_mut().poll(cx).is_ready() {
            match send(
                &self.stream,
                bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    self.is_waiting = false;
                    return Poll::Ready(Ok(sent));
                }
                Err(Errno::AGAIN | Errno::INTR) => next.as_mut().reset(Instant::now() + TRY),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Eager<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + AsFd + Unpin> AsyncWrite for Eager<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(polled, buf, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        let first = bufs.iter().find(|buf| !buf.is_empty());
        this.written(polled, first.map_or(&[], |first| first), cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
    use tokio::net::{TcpListener, TcpSocket, UnixStream};

    const TIMES: Times = Times {
        read: Duration::from_secs(5),
        write: Duration::from_secs(3),
        idle: Duration::from_secs(60),
        rate: 4,
    };

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    type Ours = Timed<tokio::io::DuplexStream, fn() -> Times>;

    fn pair(buffer: usize) -> (Ours, tokio::io::DuplexStream, Phase) {
        let (ours, theirs) = tokio::io::duplex(buffer);
        let phase = Phase::default();
        (Timed::new(ours, phase.clone(), || TIMES), theirs, phase)
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

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_at_a_time_is_let_go_and_one_that_takes_enough_is_not() {
        for (pause, bytes_until_late) in [(1_000, Some(1..8)), (200, None)] {
            let (mut ours, mut theirs, phase) = pair(1);
            phase.busy();
            let reading = tokio::spawn(async move {
                let mut taken = 0;
                while theirs.read_u8().await.is_ok() {
                    taken += 1;
                    sleep(Duration::from_millis(pause)).await;
                }
                taken
            });
            let written = ours.write_all(&[0; 200]).await;
            drop(ours);
            let taken = reading.await.unwrap();
            match bytes_until_late {
                Some(range) => {
                    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
                    assert!(range.contains(&taken), "{taken} at a pause of {pause} ms");
                }
                None => assert_eq!((written.is_ok(), taken), (true, 200)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_time() {
        let (mut ours, mut theirs, phase) = pair(1);
        let reading = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        for _ in 0..20 {
            phase.busy();
            ours.write_all(b"ab").await.unwrap();
            phase.idle();
        }
        drop(ours);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_and_steady_is_seen_to_take_something() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let addr = listener.local_addr().unwrap();
        let (theirs, ours) = tokio::join!(socket.connect(addr), listener.accept());
        take_a_little(ours.unwrap().0, theirs.unwrap()).await;
        let (ours, theirs) = UnixStream::pair().unwrap();
        take_a_little(ours, theirs).await;
    }

    async fn take_a_little<S>(ours: S, mut theirs: S)
    where
        S: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        let mut ours = Eager::new(ours);
        let bytes = vec![0; 1 << 20];
        // Until nothing more goes in.
        while let Ok(written) = tokio::time::timeout(2 * TRY, ours.write(&bytes)).await {
            written.unwrap();
        }
        // Far less than what the system would tell of.
        theirs.read_exact(&mut vec![0; 64 << 10]).await.unwrap();
        let written = tokio::time::timeout(PATIENCE, ours.write(&bytes)).await;
        assert!(written.expect("room").unwrap() > 0);
    }
}
