//! A client as small as HTTP/1.1 allows: bytes over a Unix socket.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing but a hung server takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.body))
    }

    /// The value of a header, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Status and `error.code` of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let code = self.json()["error"]["code"].as_str().map(str::to_owned);
        (self.status, code.unwrap_or_else(|| panic!("{}", self.body)))
    }

    pub(crate) fn message(&self) -> String {
        let message = self.json()["error"]["message"].as_str().map(str::to_owned);
        message.unwrap_or_else(|| panic!("{}", self.body))
    }

    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    path: PathBuf,
}

impl Client {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Client {
        Client { path: path.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "")
    }

    pub(crate) fn post(&self, target: &str, body: &str) -> Answer {
        self.ask("POST", target, body)
    }

    pub(crate) fn delete(&self, target: &str) -> Answer {
        self.ask("DELETE", target, "")
    }

    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        self.try_ask(method, target, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    pub(crate) fn try_ask(&self, method: &str, target: &str, body: &str) -> io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n");
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send(format!("{head}\r\n{body}").as_bytes())
    }

    /// Sends bytes and reads the one answer that comes.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        // Who refuses early need not read the rest.
        let sent = stream.write_all(bytes);
        match read_answer(&mut BufReader::new(stream)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => sent.and(Err(error)),
            answer => answer,
        }
    }

    /// Opens a tail; what the query says stands in `query`.
    pub(crate) fn tail(&self, query: &str) -> Result<Lines, Answer> {
        let mut stream = self.connect().unwrap();
        let head = format!("GET /v1/tail?{query} HTTP/1.1\r\nHost: svc\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let (status, head) = read_head(&mut reader).unwrap();
        if status != 200 {
            let body = read_body(&mut reader, &head).unwrap();
            return Err(Answer { status, head, body });
        }
        assert!(
            head.to_lowercase().contains("application/x-ndjson"),
            "{head}"
        );
        let chunks = Chunks {
            inner: reader,
            left: 0,
            ended: false,
        };
        Ok(Lines {
            chunks: BufReader::new(chunks),
        })
    }
}

pub(crate) fn read_answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    let (status, head) = read_head(reader)?;
    let body = read_body(reader, &head)?;
    Ok(Answer { status, head, body })
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, String)> {
    let mut head = String::new();
    loop {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.ends_with("\r\n\r\n") {
            break;
        }
    }
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {head:?}")))?;
    Ok((status, head))
}

fn read_body(reader: &mut impl BufRead, head: &str) -> io::Result<String> {
    let length = head.lines().find_map(|line| {
        let line = line.to_lowercase();
        line.strip_prefix("content-length:")?.trim().parse().ok()
    });
    let length: usize = length.ok_or_else(|| io::Error::other(format!("no length: {head:?}")))?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    String::from_utf8(body).map_err(io::Error::other)
}

/// Takes chunked coding off.
struct Chunks {
    inner: BufReader<UnixStream>,
    left: usize,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            if self.inner.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let wanted = buffer.len().min(self.left);
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        if self.left == 0 {
            let mut end = [0; 2];
            self.inner.read_exact(&mut end)?;
            assert_eq!(&end, b"\r\n");
        }
        Ok(read)
    }
}

/// The lines of a tail.
pub(crate) struct Lines {
    chunks: BufReader<Chunks>,
}

impl Lines {
    /// The next line; none after the last chunk of an orderly end.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        match self.chunks.read_line(&mut line)? {
            0 => Ok(None),
            _ => {
                assert!(line.ends_with('\n'), "half a line: {line:?}");
                line.pop();
                Ok(Some(line))
            }
        }
    }

    pub(crate) fn next(&mut self) -> Value {
        let line = self.next_line().unwrap().expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Reads up to the first line that is liked; all that were read.
    pub(crate) fn until(&mut self, liked: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next());
            if liked(&seen[seen.len() - 1]) {
                return seen;
            }
        }
    }

    /// Everything up to an orderly end.
    pub(crate) fn rest(mut self) -> Vec<Value> {
        let mut seen = Vec::new();
        while let Some(line) = self.next_line().unwrap() {
            seen.push(serde_json::from_str(&line).unwrap());
        }
        seen
    }
}
