//! One call of the program: whom it asks, and where its answers go.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::args::{Color, Whom};
use super::client::{Answer, Link, Request, PATIENCE};
use super::discovery::{self, Wish};
use super::failure::{shown, Failure, Fault};
use super::moment::Time;
use super::screen::Look;

/// Why a command ended before it was done.
#[derive(Debug)]
pub(crate) enum Stopped {
    Failed(Failure),
    /// Whoever read the output has read enough.
    Closed,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) dir: PathBuf,
    pub(crate) uid: u32,
    pub(crate) sock: Option<PathBuf>,
    pub(crate) wish: Wish,
    pub(crate) json: bool,
    pub(crate) host: Option<&'static str>,
    /// The wish stands on the command line.
    pub(crate) targeted: bool,
    color: Color,
}

impl Session {
    pub(crate) fn new(whom: Whom, host: Option<&'static str>) -> Session {
        let Whom {
            sock,
            target,
            json,
            color,
        } = whom;
        let uid = rustix::process::geteuid().as_raw();
        let targeted = target.is_some();
        let wish = match (target, host) {
            (Some(target), _) => Wish::target(&target),
            (None, Some(host)) => Wish::target(host),
            (None, None) => Wish::Any,
        };
        Session {
            dir: ron_kernel::control::run_dir(),
            uid,
            sock,
            wish,
            json,
            host,
            targeted,
            color,
        }
    }

    /// The service that is meant, connected to.
    pub(crate) async fn link(&self) -> Result<Link, Failure> {
        let until = Instant::now() + PATIENCE;
        let (found, stream) = match &self.sock {
            Some(path) => (discovery::named(path, self.uid)?, None),
            None => discovery::choose(&self.dir, self.uid, &self.wish).await?,
        };
        Link::open(&found, stream, self.uid, until).await
    }

    /// Fails unless the service answers at all, which is soon known: before what may take long.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        self.ask(&Request::get("/v1/about", &[])).await.map(|_| ())
    }

    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let until = Instant::now() + request.patience.unwrap_or(PATIENCE);
        self.link().await?.ask(request, until).await
    }

    /// Asks, and prints what `render` makes of the answer.
    pub(crate) async fn show<T: DeserializeOwned>(
        &self,
        request: &Request,
        render: impl FnOnce(&T, Time, Look) -> String,
    ) -> Result<u8, Stopped> {
        let answer = self.ask(request).await?;
        self.shown(&answer, render).map(|_| 0)
    }

    /// Prints an answer and returns it.
    pub(crate) fn shown<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        render: impl FnOnce(&T, Time, Look) -> String,
    ) -> Result<T, Stopped> {
        let parsed: T = answer.parse()?;
        if self.json {
            print(&(answer.line() + "\n"))?;
        } else {
            print(&render(&parsed, Time::of(SystemTime::now()), self.look()))?;
        }
        Ok(parsed)
    }

    pub(crate) fn look(&self) -> Look {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal() && !set("NO_COLOR") && !dumb,
        };
        let width = size().map_or(usize::MAX, |(width, _)| width);
        Look { colour, width }
    }

    /// How another command would be called to reach the same service.
    pub(crate) fn called(&self) -> String {
        let name = super::manual::name(self.host);
        match (&self.sock, &self.wish) {
            (Some(path), _) => format!("{name} --sock {}", shown(path)),
            (None, Wish::Service { service, instance }) if self.targeted => match instance.as_str()
            {
                "" => format!("{name} --target {service}"),
                instance => format!("{name} --target {service}.{instance}"),
            },
            _ => name,
        }
    }

    /// The directory in which the service would be found again.
    pub(crate) fn neighbourhood(&self) -> PathBuf {
        match self.sock.as_deref().and_then(Path::parent) {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            Some(_) => PathBuf::from("."),
            None => self.dir.clone(),
        }
    }
}

pub(crate) fn terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Columns and rows of the terminal; `None` where there is none.
pub(crate) fn size() -> Option<(usize, usize)> {
    if !terminal() {
        return None;
    }
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Some((size.ws_col.into(), size.ws_row.into()))
        }
        _ => Some((80, 24)),
    }
}

pub(crate) fn print(text: &str) -> Result<(), Stopped> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stopped::Closed),
        Err(error) => Err(Failure::new(Fault::Failed, format!("standard output: {error}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_asks_itself_unless_another_one_is_named() {
        let wish = |target: Option<&str>, host| {
            let whom = Whom {
                sock: None,
                target: target.map(str::to_owned),
                json: false,
                color: Color::Never,
            };
            Session::new(whom, host).wish
        };
        assert_eq!(wish(None, None), Wish::Any);
        assert_eq!(wish(None, Some("svc-a")), Wish::target("svc-a"));
        assert_eq!(
            wish(Some("svc-b.1"), Some("svc-a")),
            Wish::target("svc-b.1")
        );
        assert_eq!(wish(Some("svc-b"), None), Wish::target("svc-b"));
    }
}
