//! What goes on until it is interrupted: the live picture and the stream of events.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{signal, SignalKind};
use tokio::time::{sleep, Instant};

use super::client::{harmless, Request, PATIENCE};
use super::discovery::Wish;
use super::failure::{Failure, Fault};
use super::moment::Time;
use super::screen::{self, Before};
use super::session::{print, size, terminal, Session, Stopped};
use super::wire::{Line, Text, Top};

/// Follows `topic` until `count` lines have come.
pub(crate) async fn tail(
    session: &Session,
    topic: &str,
    since: Option<&str>,
    count: Option<u64>,
) -> Result<u8, Stopped> {
    let request = Request::get("/v1/tail", &[("topic", Some(topic)), ("since", since)]);
    let until = Instant::now() + PATIENCE;
    let mut lines = session.link().await?.follow(&request, until).await?;
    let mut left = count;
    while left != Some(0) {
        let Some(line) = lines.next().await? else {
            let text = "the service ended the stream; it stops or has stopped";
            return Err(Failure::new(Fault::Unreachable, text).into());
        };
        if session.json {
            print(&(harmless(&line) + "\n"))?;
        } else {
            // A line of another shape is still worth seeing.
            let parsed = line
                .starts_with('{')
                .then(|| serde_json::from_str::<Line>(&line).ok());
            match parsed.flatten() {
                Some(line) => print(&screen::line(&line, session.look()))?,
                None => print(&format!("{}\n", Text::escaped(&line)))?,
            }
        }
        left = left.map(|left| left - 1);
    }
    Ok(0)
}

/// Draws frames until interrupted. When the service is gone, waits for it or its successor.
pub(crate) async fn top(session: Session, interval: Duration, once: bool) -> Result<u8, Stopped> {
    let request = Request::get("/v1/top", &[]);
    if once || session.json || !terminal() {
        let height = match size() {
            Some((_, rows)) if !once => rows.saturating_sub(1),
            _ => usize::MAX,
        };
        let render =
            |top: &Top, now, look| screen::top(top, top.now.unwrap_or(now), None, look, height);
        return session.show(&request, render).await;
    }
    let failed = |error: std::io::Error| Failure::new(Fault::Failed, format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut picture = Picture {
        session,
        before: None,
        last: None,
    };
    let mut screen = None;
    loop {
        let frame = tokio::select! {
            frame = picture.frame(&request) => frame?,
            _ = interrupt.recv() => return Ok(0),
            _ = terminate.recv() => return Ok(0),
        };
        // Not before something is there to be shown: an error belongs on the screen one came from.
        screen.get_or_insert_with(Screen::enter).draw(&frame)?;
        tokio::select! {
            () = sleep(interval) => {}
            _ = interrupt.recv() => return Ok(0),
            _ = terminate.recv() => return Ok(0),
        }
    }
}

/// The picture so far.
struct Picture {
    session: Session,
    before: Option<Before>,
    last: Option<Top>,
}

impl Picture {
    /// The next frame. Fails only while there has been none.
    async fn frame(&mut self, request: &Request) -> Result<String, Failure> {
        let answer = match self.session.ask(request).await {
            Ok(answer) => answer.parse::<Top>(),
            Err(failure) => Err(failure),
        };
        let local = Time::of(SystemTime::now());
        let (width, height) = size().unwrap_or((80, 24));
        let look = screen::Look {
            width,
            ..self.session.look()
        };
        let height = height.saturating_sub(1);
        match answer {
            Ok(top) => {
                let now = top.now.unwrap_or(local);
                let frame = screen::top(&top, now, self.before, look, height);
                self.before = top.process.cpu_ms.map(|cpu_ms| Before { at: now, cpu_ms });
                self.session.wish = Wish::target(&format!("{}.{}", top.service, top.instance));
                self.last = Some(top);
                Ok(frame)
            }
            Err(failure) => {
                let Some(top) = &self.last else {
                    return Err(failure);
                };
                // Its successor has another instance, and thereby another socket.
                self.session.dir = self.session.neighbourhood();
                self.session.sock = None;
                self.session.wish = Wish::target(&top.service);
                let now = top.now.unwrap_or(local);
                let frame = screen::top(top, now, None, look, height.saturating_sub(2));
                Ok(format!(
                    "{}{frame}",
                    screen::lost(&failure.to_string(), &top.service, look)
                ))
            }
        }
    }
}

/// The terminal's other screen; left when dropped.
struct Screen;

impl Screen {
    fn enter() -> Screen {
        let _ = write(b"\x1b[?1049h\x1b[?25l\x1b[2J");
        Screen
    }

    fn draw(&self, frame: &str) -> Result<(), Stopped> {
        let mut text = String::from("\x1b[H");
        for line in frame.lines() {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        print(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(b"\x1b[?25h\x1b[?1049l");
    }
}

fn write(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
