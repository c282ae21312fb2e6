//! What a child writes on stdout and stderr, as log lines. Splitting and limiting are pure.

use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

/// A longer line becomes several: no child makes this process hold more than this of a line.
const LINE_MAX: usize = 16 * 1024;
/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;
/// Lines in one window; those beyond are dropped and counted. What journald takes of one service by default, so that
/// nothing is counted here and lost there.
const LINES_MAX: u32 = 10_000;
const WINDOW: Duration = Duration::from_secs(30);
/// Bytes of the last line on stderr that are kept to explain an exit.
const LAST_MAX: usize = 200;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Splitter {
    part: Vec<u8>,
}

impl Splitter {
    fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line, &mut each);
            self.finish(&mut each);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes, &mut each);
    }

    fn extend(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8])) {
        while self.part.len() + bytes.len() > LINE_MAX {
            let (now, later) = bytes.split_at(LINE_MAX - self.part.len());
            self.part.extend_from_slice(now);
            each(&self.part);
            self.part.clear();
            bytes = later;
        }
        self.part.extend_from_slice(bytes);
    }

    /// Ends the line under way; empty lines are none.
    fn finish(&mut self, each: &mut impl FnMut(&[u8])) {
        let line = self.part.strip_suffix(b"\r").unwrap_or(&self.part);
        if !line.is_empty() {
            each(line);
        }
        self.part.clear();
    }
}

/// At most [`LINES_MAX`] in a [`WINDOW`].
#[derive(Debug, Default)]
struct Allowance {
    window_end: Duration,
    admitted: u32,
    dropped: u64,
}

impl Allowance {
    /// Whether a line may pass; the first of a window carries how many were dropped in the one before.
    fn admit(&mut self, now: Duration) -> Option<u64> {
        let mut dropped = 0;
        if now >= self.window_end {
            self.window_end = now + WINDOW;
            self.admitted = 0;
            dropped = std::mem::take(&mut self.dropped);
        }
        if self.admitted >= LINES_MAX {
            self.dropped += 1;
            return None;
        }
        self.admitted += 1;
        Some(dropped)
    }
}

#[derive(Debug)]
struct Stream {
    name: &'static str,
    /// `None` once it has ended.
    pipe: Option<Receiver>,
    splitter: Splitter,
    allowance: Allowance,
}

/// Both streams of one incarnation.
#[derive(Debug)]
pub(crate) struct Output {
    log: Log,
    streams: [Stream; 2],
    chunk: Box<[u8; CHUNK]>,
    /// Something was taken at the last look.
    busy: bool,
}

#[derive(Debug)]
struct Log {
    child: Arc<str>,
    generation: u64,
    begun: Instant,
    /// The last line on stderr.
    last: String,
    /// Lines that were dropped since the last look.
    dropped: u64,
}

impl Output {
    pub(crate) fn new(
        child: Arc<str>,
        generation: u64,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<Output> {
        let stream = |name, pipe: Option<OwnedFd>| {
            let pipe = pipe.map(Receiver::from_owned_fd).transpose()?;
            io::Result::Ok(Stream {
                name,
                pipe,
                splitter: Splitter::default(),
                allowance: Allowance::default(),
            })
        };
        Ok(Output {
            log: Log {
                child,
                generation,
                begun: Instant::now(),
                last: String::new(),
                dropped: 0,
            },
            streams: [stream("stdout", stdout)?, stream("stderr", stderr)?],
            chunk: Box::new([0; CHUNK]),
            busy: false,
        })
    }

    /// Whether both streams have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.streams.iter().all(|stream| stream.pipe.is_none())
    }

    /// Takes what is there, at least something, and returns how many lines were dropped; never returns once both
    /// streams are over. Cancel safe.
    pub(crate) async fn pump(&mut self) -> u64 {
        // One chunk in one poll: a readable pipe is none of the runtime's budget.
        if std::mem::take(&mut self.busy) {
            tokio::task::yield_now().await;
        }
        let [stdout, stderr] = &mut self.streams;
        tokio::select! {
            () = stdout.readable() => stdout.take(&mut *self.chunk, &mut self.log),
            () = stderr.readable() => stderr.take(&mut *self.chunk, &mut self.log),
        }
        self.busy = true;
        std::mem::take(&mut self.log.dropped)
    }

    /// Takes the rest, as long as somebody holds the other end and at most for `limit`, and gives back the last line on
    /// stderr and how many lines were dropped.
    pub(crate) async fn finish(mut self, limit: Duration) -> (String, u64) {
        let mut dropped = 0;
        let all = async {
            while !self.is_over() {
                dropped += self.pump().await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
        for stream in &mut self.streams {
            stream.end(&mut self.log);
        }
        (self.log.last, dropped + self.log.dropped)
    }
}

impl Stream {
    async fn readable(&self) {
        match &self.pipe {
            // An error shows again when it is read.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, chunk: &mut [u8], log: &mut Log) {
        let Some(pipe) = &self.pipe else { return };
        match pipe.try_read(chunk) {
            Ok(0) => self.end(log),
            Ok(length) => {
                let bytes = chunk.get(..length).unwrap_or_default();
                let (name, allowance) = (self.name, &mut self.allowance);
                self.splitter
                    .push(bytes, |line| log.line(name, allowance, line));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.end(log),
        }
    }

    fn end(&mut self, log: &mut Log) {
        self.pipe = None;
        let (name, allowance) = (self.name, &mut self.allowance);
        self.splitter
            .finish(&mut |line| log.line(name, allowance, line));
        let dropped = std::mem::take(&mut allowance.dropped);
        if dropped > 0 {
            log.dropped_lines(name, dropped);
        }
    }
}

impl Log {
    fn line(&mut self, stream: &'static str, allowance: &mut Allowance, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if stream == "stderr" {
            self.last = crate::telemetry::one_line(text.to_string(), LAST_MAX);
        }
        let Some(dropped) = allowance.admit(self.begun.elapsed()) else {
            self.dropped += 1;
            return;
        };
        if dropped > 0 {
            self.dropped_lines(stream, dropped);
        }
        let (child, generation) = (&*self.child, self.generation);
        tracing::info!(
            target: "ron_kernel::output",
            event = "output",
            child,
            generation,
            stream,
            "{text}"
        );
    }

    fn dropped_lines(&self, stream: &'static str, dropped: u64) {
        let (child, generation) = (&*self.child, self.generation);
        tracing::warn!(
            event = "output_dropped",
            child,
            generation,
            stream,
            dropped,
            "{child} writes more than {LINES_MAX} lines in {} s; {dropped} were dropped",
            WINDOW.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line.to_vec()));
        }
        splitter.finish(&mut |line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let expected: Vec<&[u8]> = vec![b"one", b"two", b"three"];
        assert_eq!(split(&[b"one\ntwo\r\n\nthree"]), expected);
        assert_eq!(
            split(&[b"o", b"ne", b"\n", b"two\r", b"\n\n", b"three\n"]),
            expected
        );
        assert!(split(&[b"", b"\n\r\n"]).is_empty());
    }

    #[test]
    fn a_long_line_becomes_several_and_loses_nothing() {
        let long = vec![b'x'; 2 * LINE_MAX + 7];
        let lengths =
            |pieces: &[&[u8]]| -> Vec<usize> { split(pieces).iter().map(Vec::len).collect() };
        assert_eq!(lengths(&[&long]), [LINE_MAX, LINE_MAX, 7]);
        let (a, b) = long.split_at(LINE_MAX / 2);
        assert_eq!(lengths(&[a, b, b"\nend"]), [LINE_MAX, LINE_MAX, 7, 3]);
        assert_eq!(lengths(&[&long[..LINE_MAX], b"\n"]), [LINE_MAX]);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut allowance = Allowance::default();
        let at = Duration::from_secs;
        let admitted = (0..LINES_MAX + 5).filter(|_| allowance.admit(at(1)).is_some());
        assert_eq!(admitted.count(), LINES_MAX as usize);
        assert_eq!(allowance.admit(at(30)), None);
        assert_eq!(allowance.admit(at(31)), Some(6));
        assert_eq!(allowance.admit(at(32)), Some(0));
    }
}
