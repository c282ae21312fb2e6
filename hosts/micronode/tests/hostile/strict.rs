//! A parser of requests after RFC 9112, of its own, that the node's answers are judged by.

/// What may be thought of a part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As the grammar has it.
    Valid,
    /// Against the grammar, but the RFC lets a recipient take it.
    Tolerable,
    /// Never to be taken.
    Invalid,
    /// The connection ended before it did.
    Incomplete,
}

/// One request of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: Verdict,
    /// Of framing and content; only where the head may be taken.
    pub(crate) body: Verdict,
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
    /// Nothing behind it is judged: the node may refuse it and end the connection.
    pub(crate) is_last_judged: bool,
}

impl Request {
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let found = self.headers.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Elements of a list, of all its lines.
    fn elements(&self, name: &str) -> Vec<String> {
        let lines = self.values(name).map(String::from_utf8_lossy);
        lines
            .flat_map(|line| {
                line.split(',')
                    .map(|element| element.trim_matches([' ', '\t']).to_lowercase())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// The requests of a stream, up to the one behind which nothing may be read.
pub(crate) fn requests(stream: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut cursor = Cursor { rest: stream };
    loop {
        while cursor.rest.starts_with(b"\r\n") || cursor.rest.starts_with(b"\n") {
            cursor.line();
        }
        if cursor.rest.is_empty() {
            return requests;
        }
        let (request, goes_on) = cursor.request();
        requests.push(request);
        if !goes_on {
            return requests;
        }
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Up to a line feed; whether a carriage return stood before it.
    fn line(&mut self) -> Option<(&'a [u8], bool)> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        match line.strip_suffix(b"\r") {
            Some(line) => Some((line, true)),
            None => Some((line, false)),
        }
    }

    fn request(&mut self) -> (Request, bool) {
        let mut request = Request {
            head: Verdict::Valid,
            body: Verdict::Valid,
            method: self.rest.split(|b| *b == b' ').next().unwrap_or(b"").into(),
            target: Vec::new(),
            headers: Vec::new(),
            content: Vec::new(),
            is_last_judged: false,
        };
        let Some((line, strict)) = self.line() else {
            request.head = Verdict::Incomplete;
            return (request, false);
        };
        if !strict {
            request.head = Verdict::Tolerable;
        }
        let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let [method, target, version] = parts[..] else {
            request.head = Verdict::Invalid;
            return (request, false);
        };
        request.target = target.to_vec();
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => 2,
        };
        if !is_token(method) || target.is_empty() || !is_visible(target) || minor == 2 {
            request.head = Verdict::Invalid;
            return (request, false);
        }
        if target.iter().any(|byte| b"\"<>\\^`{|}#".contains(byte)) || !target.is_ascii() {
            request.head = request.head.max(Verdict::Tolerable);
        }
        let head = self.fields(&mut request.headers);
        request.head = request.head.max(head);
        if request.head <= Verdict::Tolerable {
            request.head = request.head.max(host(&request, minor));
        }
        if request.head > Verdict::Tolerable {
            return (request, false);
        }
        let goes_on = self.body(&mut request, minor);
        let is_readable = request.values("connection").all(<[u8]>::is_ascii);
        if !is_readable {
            // Options are tokens, and what is none the node refuses.
            request.head = request.head.max(Verdict::Tolerable);
            request.is_last_judged = true;
        }
        let closes = request.elements("connection").iter().any(|e| e == "close");
        let stays = minor == 1
            || request
                .elements("connection")
                .iter()
                .any(|e| e == "keep-alive");
        (request, goes_on && stays && !closes)
    }

    fn fields(&mut self, headers: &mut Vec<(String, Vec<u8>)>) -> Verdict {
        let mut verdict = Verdict::Valid;
        loop {
            let Some((line, strict)) = self.line() else {
                return Verdict::Incomplete;
            };
            if !strict {
                verdict = Verdict::Tolerable;
            }
            if line.is_empty() {
                return verdict;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                return Verdict::Invalid;
            };
            let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
            if !is_token(name) || !is_field_value(value) {
                return Verdict::Invalid;
            }
            let name = String::from_utf8_lossy(name).to_lowercase();
            headers.push((name, value.to_vec()));
        }
    }

    /// Reads the body; `false` if nothing behind it may be read.
    fn body(&mut self, request: &mut Request, minor: u8) -> bool {
        let codings = request.elements("transfer-encoding");
        let lengths = request.elements("content-length");
        if !codings.is_empty() {
            if codings != ["chunked"] || minor == 0 {
                request.head = Verdict::Invalid;
                return false;
            }
            request.body = self.chunks(&mut request.content, &mut request.is_last_judged);
            if request.is_last_judged {
                return false;
            }
            if !lengths.is_empty() {
                request.body = request.body.max(Verdict::Tolerable);
                return false;
            }
            return request.body <= Verdict::Tolerable;
        }
        let Some(length) = lengths.first() else {
            return true;
        };
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u64> = length.parse().ok();
        let (true, Some(number)) = (is_number && lengths.iter().all(|l| l == length), number)
        else {
            request.head = Verdict::Invalid;
            return false;
        };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if number > self.rest.len() {
            request.content = std::mem::take(&mut self.rest).to_vec();
            request.body = Verdict::Incomplete;
            return false;
        }
        let (content, rest) = self.rest.split_at(number);
        request.content = content.to_vec();
        self.rest = rest;
        true
    }

    fn chunks(&mut self, content: &mut Vec<u8>, is_last_judged: &mut bool) -> Verdict {
        let mut verdict = Verdict::Valid;
        loop {
            // Only lines of the head may end in a bare line feed, section 2.2.
            let line = match self.line() {
                Some((line, true)) => line,
                Some((_, false)) => return Verdict::Invalid,
                None => return Verdict::Incomplete,
            };
            let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            let (digits, extension) = line.split_at(digits);
            let size = std::str::from_utf8(digits).unwrap_or_default();
            let Ok(size) = u64::from_str_radix(size, 16) else {
                return Verdict::Invalid;
            };
            let bare = trim(extension);
            // Other control bytes are to be refused too, section 7.1.1;
            // `what_is_marked_as_a_fault_is_one` says that they are not.
            if bare.contains(&b'\r') || !(bare.is_empty() || bare.starts_with(b";")) {
                return Verdict::Invalid;
            }
            if !extension.is_empty() {
                verdict = Verdict::Tolerable;
            }
            if size == 0 {
                let mut fields = Vec::new();
                let trailers = self.fields(&mut fields);
                if !fields.is_empty() {
                    verdict = Verdict::Tolerable;
                }
                *is_last_judged = trailers == Verdict::Tolerable;
                return verdict.max(trailers);
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > self.rest.len() {
                return Verdict::Incomplete;
            }
            let (data, rest) = self.rest.split_at(size);
            content.extend_from_slice(data);
            let Some(rest) = rest.strip_prefix(b"\r\n") else {
                return if b"\r\n".starts_with(rest) {
                    Verdict::Incomplete
                } else {
                    Verdict::Invalid
                };
            };
            self.rest = rest;
        }
    }
}

fn host(request: &Request, minor: u8) -> Verdict {
    let hosts: Vec<&[u8]> = request.values("host").collect();
    match hosts[..] {
        [] if minor == 0 => Verdict::Valid,
        [host] => {
            let is_host = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(b);
            match host.iter().all(is_host) {
                true => Verdict::Valid,
                // To be refused, section 3.2; `a_host_that_is_no_host_is_refused` says that it is not.
                false => Verdict::Tolerable,
            }
        }
        _ => Verdict::Invalid,
    }
}

fn trim(bytes: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().take_while(|byte| is_blank(byte)).count();
    let end = bytes.iter().rev().take_while(|byte| is_blank(byte)).count();
    bytes.get(start..bytes.len() - end).unwrap_or_default()
}

fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

fn is_visible(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

fn is_field_value(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

#[test]
fn the_strict_parser_takes_what_is_valid_and_nothing_else() {
    use Verdict::{Incomplete, Invalid, Tolerable, Valid};
    let cases: [(&str, Verdict, Verdict); 14] = [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Valid, Valid),
        ("GET / HTTP/1.1\nhost: a\n\n", Tolerable, Valid),
        ("GET / HTTP/1.1\r\n\r\n", Invalid, Valid),
        ("GET / HTTP/1.0\r\n\r\n", Valid, Valid),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", Invalid, Valid),
        ("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", Invalid, Valid),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", Invalid, Valid),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", Invalid, Valid),
        (
            "P / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na",
            Valid,
            Incomplete,
        ),
        (
            "P / HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 3\r\n\r\nabc",
            Invalid,
            Valid,
        ),
        (
            "P / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            Valid,
            Valid,
        ),
        (
            "P / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n",
            Valid,
            Tolerable,
        ),
        (
            "P / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
            Valid,
            Invalid,
        ),
        (
            "P / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\na\r\n0\r\n\r\n",
            Valid,
            Invalid,
        ),
    ];
    for (text, head, body) in cases {
        let parsed = requests(text.as_bytes());
        assert_eq!((parsed[0].head, parsed[0].body), (head, body), "{text:?}");
    }
    let two =
        requests(b"P / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nxGET / HTTP/1.0\r\n\r\nGET");
    assert_eq!((two.len(), &*two[0].content), (2, &b"x"[..]));
}
