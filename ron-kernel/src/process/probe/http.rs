//! As much of HTTP/1.1 as asking for a status takes: a request, and the head of its answer, as bytes.

/// Bytes of head that are read, interim answers included: what servers allow each other.
pub(crate) const HEAD_MAX: usize = 16 * 1024;

/// Bytes of something that is not HTTP that are shown.
const SHOWN_MAX: usize = 60;

const VERSION: &[u8] = b"HTTP/1.";

/// Why bytes are no head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// It begins with this instead of an HTTP/1 status line.
    NotHttp { found: String },
    /// It is longer than [`HEAD_MAX`].
    TooLarge,
}

pub(crate) fn request(addr: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: ron-kernel\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The head of an answer as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// What has come of the present line.
    line: Vec<u8>,
    read: usize,
    /// Of the head whose header lines are being read.
    status: Option<u16>,
}

impl Head {
    /// Takes what has come; the status, once the head is complete. Interim answers (1xx) are passed over.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<u16>, HeadError> {
        for &byte in bytes {
            if self.read == HEAD_MAX {
                return Err(HeadError::TooLarge);
            }
            self.read += 1;
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            let line = std::mem::take(&mut self.line);
            match self.status {
                None => self.status = Some(status(&line)?),
                Some(status) if line.is_empty() && is_interim(status) => self.status = None,
                Some(status) if line.is_empty() => return Ok(Some(status)),
                Some(_) => {}
            }
        }
        // Not only when the line is complete: something that is not HTTP may have no lines.
        if self.status.is_none() && !self.line.iter().zip(VERSION).all(|(a, b)| a == b) {
            return Err(not_http(&self.line));
        }
        Ok(None)
    }
}

/// 101 is none: what follows it is not HTTP any more.
fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

/// The status in a status line, as in `HTTP/1.1 204 No Content`.
fn status(line: &[u8]) -> Result<u16, HeadError> {
    let rest = line.strip_prefix(VERSION).unwrap_or_default();
    let code = match rest {
        [b'0'..=b'9', b' ', rest @ ..] => rest.split(|byte| *byte == b' ').next(),
        _ => None,
    };
    match code {
        Some([a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Ok(digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        _ => Err(not_http(line)),
    }
}

fn not_http(line: &[u8]) -> HeadError {
    let shown = &line[..line.len().min(SHOWN_MAX)];
    HeadError::NotHttp {
        found: shown.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fed(bytes: &[u8]) -> Result<Option<u16>, HeadError> {
        Head::default().feed(bytes)
    }

    fn not_http(found: &str) -> Result<Option<u16>, HeadError> {
        Err(HeadError::NotHttp {
            found: found.to_owned(),
        })
    }

    #[test]
    fn the_request_is_these_bytes() {
        let expected =
            "GET /healthz?deep=1 HTTP/1.1\r\nHost: [::1]:7000\r\nUser-Agent: ron-kernel\r\n\
                        Accept: */*\r\nConnection: close\r\n\r\n";
        let request = request("[::1]:7000", "/healthz?deep=1");
        assert_eq!(String::from_utf8(request).unwrap(), expected);
    }

    #[test]
    fn the_status_is_that_of_the_first_complete_head_that_is_not_interim() {
        let cases: [(&str, Option<u16>); 14] = [
            ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n<html>", Some(200)),
            ("HTTP/1.0 204\r\n\r\n", Some(204)),
            ("HTTP/1.1 503 \r\n\r\n", Some(503)),
            ("HTTP/1.1 302 Found\nLocation: http://elsewhere/\n\n", Some(302)),
            ("HTTP/1.1 999 Who knows\r\n\r\n", Some(999)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", Some(503)),
            (
                "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                Some(200),
            ),
            ("HTTP/1.1 101 Switching\r\n\r\nbinary", Some(101)),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200 OK\r\nServer: x\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r", None),
            ("HTT", None),
            ("", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(fed(bytes.as_bytes()), Ok(expected), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_shown_as_soon_as_it_shows() {
        let cases = [
            ("SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6"),
            ("+PONG\r\n", "+PONG"),
            ("HTTQ", "HTTQ"),
            (
                "\x15\x03\x01\x00\x02\x02\x46",
                "\\x15\\x03\\x01\\x00\\x02\\x02F",
            ),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
            ("HTTP/2 200\r\n", "HTTP/2 200"),
            ("HTTP/1.1 20 OK\r\n", "HTTP/1.1 20 OK"),
            ("HTTP/1.1 2000\r\n", "HTTP/1.1 2000"),
            ("HTTP/1.1 +20\r\n", "HTTP/1.1 +20"),
            ("HTTP/1.1 000\r\n", "HTTP/1.1 000"),
            ("HTTP/1.1  200\r\n", "HTTP/1.1  200"),
            ("HTTP/1.x 200\r\n", "HTTP/1.x 200"),
            ("HTTP/1.1\r\n", "HTTP/1.1"),
            ("HTTP/1.1 100 C\r\n\r\nnonsense", "nonsense"),
        ];
        for (bytes, found) in cases {
            assert_eq!(fed(bytes.as_bytes()), not_http(found), "{bytes:?}");
        }
        let long = "x".repeat(5000);
        assert_eq!(fed(long.as_bytes()), not_http(&"x".repeat(SHOWN_MAX)));
    }

    #[test]
    fn a_head_may_have_16_kib_and_no_byte_more() {
        let head = |len: usize| {
            let mut head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
            head.resize(len - 4, b'x');
            head.extend_from_slice(b"\r\n\r\n");
            head
        };
        assert_eq!(fed(&head(HEAD_MAX)), Ok(Some(200)));
        assert_eq!(fed(&head(HEAD_MAX + 1)), Err(HeadError::TooLarge));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
        assert_eq!(fed(&interim), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_a_head_arrives(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                "(HTTP/1\\.1 [1-5][0-9]{2} O?K?\r?\n(X: y\r?\n){0,3}\r?\n){1,3}".prop_map(String::into_bytes),
                "HTTP/1\\.[0-9] [0-9 ]{2,4}\r\n\r\n".prop_map(String::into_bytes),
            ],
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = fed(&bytes);
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut head = Head::default();
            let pieces = match head.feed(first) {
                Ok(None) => head.feed(second),
                other => other,
            };
            match (&whole, &pieces) {
                // How much of it is shown depends on how much had come.
                (Err(HeadError::NotHttp { .. }), Err(HeadError::NotHttp { .. })) => {}
                _ => prop_assert_eq!(whole, pieces),
            }
        }
    }
}
