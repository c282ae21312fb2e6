//! What comes back on a connection, read strictly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::rig::dial;

/// An answer of the node, after any `100 Continue`.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came as long as was announced.
    pub(crate) is_whole: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Splits all bytes of a connection into answers.
///
/// `is_head(n)` says whether the request that the n-th final answer is for was a HEAD.
pub(crate) fn replies(all: &[u8], is_head: impl Fn(usize) -> bool) -> Result<Vec<Reply>, String> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut rest = all;
    while !rest.is_empty() {
        let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Err(format!("half a head: {}", rest.escape_ascii()));
        };
        let (status, headers) = head(&rest[..end])?;
        rest = &rest[end + 4..];
        if status == 100 {
            continue;
        }
        let mut lengths = headers.iter().filter(|(name, _)| name == "content-length");
        let length = match (lengths.next(), lengths.next()) {
            (Some((_, length)), None) => length.parse().map_err(|_| "a length of no number")?,
            (None, _) if status == 304 => 0,
            _ => return Err(format!("not one length in {headers:?}")),
        };
        let bodiless = status == 304 || is_head(replies.len());
        let length = if bodiless { 0 } else { length };
        let taken = rest.len().min(length);
        replies.push(Reply {
            status,
            headers,
            body: rest[..taken].to_vec(),
            is_whole: taken == length,
        });
        rest = &rest[taken..];
    }
    Ok(replies)
}

type Head = (u16, Vec<(String, String)>);

fn head(head: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(head).map_err(|_| "a head of other than UTF-8")?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| format!("no status line: {first:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("no header: {line:?}"))?;
        let is_clean = !value.contains(|c: char| c.is_control())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_clean {
            return Err(format!("an unclean header: {line:?}"));
        }
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    Ok((status, headers))
}

/// How bytes are handed to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Everything in one piece.
    Whole,
    /// Byte by byte.
    Pieces,
    /// The follow-up only after something came back, or the connection ended.
    Apart,
}

/// Sends `first`, then `follow_up`, and reads until the node closes.
pub(crate) fn exchange(
    addr: SocketAddr,
    first: &[u8],
    follow_up: &[u8],
    delivery: Delivery,
) -> Result<Vec<u8>, String> {
    let mut stream = dial(addr);
    let mut all = Vec::new();
    // The node may close whenever it has refused: a failed write is no fault.
    match delivery {
        Delivery::Whole => {
            let _ = stream.write_all(&[first, follow_up].concat());
        }
        Delivery::Pieces => {
            for byte in first.iter().chain(follow_up) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
            }
        }
        Delivery::Apart => {
            let _ = stream.write_all(first);
            let mut some = [0; 4096];
            let read = stream.read(&mut some).unwrap_or(0);
            all.extend_from_slice(&some[..read]);
            let _ = stream.write_all(follow_up);
        }
    }
    drain(&mut stream, &mut all)?;
    Ok(all)
}

/// Reads to the end of the connection; an error is a node that neither answers nor closes.
pub(crate) fn drain(stream: &mut TcpStream, all: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_to_end(all) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(format!(
            "neither answered nor closed: {}",
            all.escape_ascii()
        )),
        // Ended by a reset, when it closed with bytes unread.
        Ok(_) | Err(_) => Ok(()),
    }
}
