//! One connection that sends whole requests and reads whole answers, for what is not load.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer takes here.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    addr: SocketAddr,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// How long its body was.
    pub length: usize,
    body: Vec<u8>,
}

impl Answer {
    /// What stands behind `before` in the body, up to the next quote.
    pub fn quoted(&self, before: &str) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let behind = text.split(before).nth(1)?;
        behind.split('"').next().map(str::to_owned)
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, addr })
    }

    /// `head` is the request line and header lines, without `Host` and the length.
    pub fn send(&mut self, head: &str, body: &[u8]) -> Result<Answer> {
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let head = format!("{head}Host: {}\r\n{length}\r\n", self.addr);
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        let mut read = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let mut more = |read: &mut Vec<u8>| match self.stream.read(&mut buffer)? {
            0 => Err(Error::from(ErrorKind::UnexpectedEof)),
            count => {
                read.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        };
        let end = loop {
            match read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => more(&mut read)?,
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(Some(0), |text| text.trim().parse().ok());
        let (Some(status), Some(length)) = (status, length) else {
            return Err(Error::new(ErrorKind::InvalidData, head));
        };
        while read.len() < end + length {
            more(&mut read)?;
        }
        Ok(Answer {
            status,
            length,
            body: read.split_off(end),
        })
    }
}
