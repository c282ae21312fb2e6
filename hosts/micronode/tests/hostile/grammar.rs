//! Requests drawn from a seed: valid ones, and what mutation makes of them.

/// SplitMix64: the same numbers everywhere for the same seed.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What the node holds, to ask for.
#[derive(Debug)]
pub(crate) struct Known {
    /// Addresses and lengths.
    pub(crate) objects: Vec<(String, usize)>,
    /// A gzip body.
    pub(crate) gzip: Vec<u8>,
}

/// A connection's requests, and where each began before mutation.
pub(crate) fn connection(draw: &mut Draw, known: &Known, requests: usize) -> Vec<Vec<u8>> {
    (0..requests)
        .map(|n| {
            let mut request = Parts::draw(draw, known);
            if n + 1 == requests {
                request.headers.push("connection: close".into());
            }
            if draw.one_in(3) {
                request.mutate(draw);
            }
            let mut bytes = request.bytes(draw);
            if draw.one_in(6) {
                for _ in 0..=draw.below(3) {
                    mutate(draw, &mut bytes);
                }
            }
            bytes
        })
        .collect()
}

struct Parts {
    method: String,
    target: String,
    version: String,
    headers: Vec<String>,
    body: Vec<u8>,
    framing: Framing,
}

#[derive(PartialEq, Eq)]
enum Framing {
    None,
    Length,
    Chunked,
}

const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "2",
    "9",
    "65535",
    "65536",
    "69999",
    "70000",
    "70001",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "-1",
];

const TOKENS: [&str; 34] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "\r\n ",
    "\r\n\r\n",
    ",",
    ";",
    "\"",
    "=",
    "%00",
    "/../",
    "*",
    "chunked",
    "content-length: 1\r\n",
    "content-length: 0\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "transfer-encoding: identity\r\n",
    "host: b\r\n",
    "HTTP/1.1",
    "HTTP/1.0",
    "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "connection: close\r\n",
    "expect: 100-continue\r\n",
    "\u{7f}",
    "\u{e9}",
    "b3:",
    "upgrade: h2c\r\n",
];

impl Parts {
    fn draw(draw: &mut Draw, known: &Known) -> Self {
        let mut parts = Self {
            method: "GET".into(),
            target: "/healthz".into(),
            version: "HTTP/1.1".into(),
            headers: vec!["host: localhost".into()],
            body: Vec::new(),
            framing: Framing::None,
        };
        match draw.below(10) {
            0..=2 => {
                parts.method = draw.of(&["PUT", "PUT", "POST"]).into();
                parts.target = "/put".into();
                let length = draw.of(&[&0_usize, &1, &3, &100, &5_000]);
                parts.body = draw.bytes(*length);
                parts.framing = Framing::Length;
            }
            3 => {
                parts.method = "PUT".into();
                parts.target = "/put".into();
                let length = draw.below(300);
                parts.body = draw.bytes(length);
                parts.framing = Framing::Chunked;
            }
            4 => {
                parts.method = "PUT".into();
                parts.target = "/put".into();
                parts.headers.push("content-encoding: gzip".into());
                parts.body = known.gzip.clone();
                parts.framing = Framing::Length;
            }
            5..=7 => {
                let (addr, _) = &known.objects[draw.below(known.objects.len())];
                parts.target = format!("/o/{addr}");
                parts.method = draw.of(&["GET", "GET", "GET", "HEAD"]).into();
                for _ in 0..draw.below(4) {
                    parts.headers.push(condition(draw, addr));
                }
            }
            _ => {
                let routes = [
                    "/healthz", "/livez", "/readyz", "/metrics", "/version", "/nothing", "/o/x",
                ];
                parts.target = draw.of(&routes).into();
            }
        }
        if draw.one_in(8) {
            parts.headers.push("x-corr-id: abc_DEF-1".into());
        }
        if draw.one_in(16) {
            parts.headers.push("expect: 100-continue".into());
        }
        parts
    }

    /// Changes the form, not the bytes.
    fn mutate(&mut self, draw: &mut Draw) {
        match draw.below(12) {
            0 => {
                let methods = [
                    "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH",
                    "get", "FROB", "",
                ];
                self.method = draw.of(&methods).into();
            }
            1 => {
                let targets = [
                    "/put?mode=stream",
                    "*",
                    "http://localhost/healthz",
                    "/o/",
                    "/o/b3:",
                    "/%6fb",
                    "//",
                    "/put/",
                    "",
                    "localhost:1",
                    "/healthz?a=b#c",
                ];
                self.target = draw.of(&targets).into();
            }
            2 => {
                let versions = [
                    "HTTP/1.0",
                    "HTTP/1.0",
                    "HTTP/1.2",
                    "HTTP/2.0",
                    "http/1.1",
                    "HTTP/1.1 ",
                    "",
                    "HTTP/0.9",
                ];
                self.version = draw.of(&versions).into();
            }
            3 => {
                let line = self.headers[draw.below(self.headers.len())].clone();
                self.headers
                    .insert(draw.below(self.headers.len() + 1), line);
            }
            4 => {
                self.headers.remove(draw.below(self.headers.len()));
            }
            5 => {
                let number = draw.of(&NUMBERS);
                self.headers.push(format!("content-length: {number}"));
            }
            6 => {
                let codings = [
                    "chunked",
                    "Chunked",
                    "xchunked",
                    "chunked, chunked",
                    "identity",
                    "gzip, chunked",
                    "\tchunked",
                    "chunked;q=1",
                ];
                self.headers
                    .push(format!("transfer-encoding: {}", draw.of(&codings)));
            }
            7 => self.framing = Framing::Chunked,
            8 => {
                let codings = ["gzip", "zstd", "br", "identity", "gzip, gzip", "GZIP", ""];
                self.headers
                    .push(format!("content-encoding: {}", draw.of(&codings)));
            }
            9 => {
                let connections = [
                    "close",
                    "keep-alive",
                    "close, keep-alive",
                    "upgrade",
                    "content-length",
                    "x",
                ];
                self.headers
                    .push(format!("connection: {}", draw.of(&connections)));
            }
            10 => {
                let place = draw.below(self.headers.len());
                let line = &mut self.headers[place];
                *line = match draw.below(5) {
                    0 => line.to_uppercase(),
                    1 => line.replace(": ", ":"),
                    2 => line.replace(": ", " : "),
                    3 => line.replace(": ", ":\t  ") + " \t",
                    _ => line.replace(": ", ":\r\n "),
                };
            }
            _ => {
                let length = draw.of(&[&10_usize, &100, &1_000, &20_000, &200_000]);
                self.headers.push(format!("x: {}", "y".repeat(*length)));
            }
        }
    }

    fn bytes(&self, draw: &mut Draw) -> Vec<u8> {
        let mut bytes =
            format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        for line in &self.headers {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        match self.framing {
            Framing::None => bytes.extend_from_slice(b"\r\n"),
            Framing::Length => {
                bytes.extend_from_slice(
                    format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes(),
                );
                bytes.extend_from_slice(&self.body);
            }
            Framing::Chunked => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                let mut rest = self.body.as_slice();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(1 + draw.below(rest.len()));
                    let extension = draw.of(&["", "", "", ";a", ";a=b", " ; a = \"b\""]);
                    bytes.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                    rest = after;
                }
                let trailer = draw.of(&["", "", "x: y\r\n"]);
                bytes.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            }
        }
        bytes
    }
}

fn condition(draw: &mut Draw, addr: &str) -> String {
    let (first, last) = (draw.of(&NUMBERS), draw.of(&NUMBERS));
    let tags = ["*", "\"x\"", "W/\"x\"", "x", "\"", "\"x\", \"y\"", ",,", ""];
    let tag = match draw.below(3) {
        0 => format!("\"{addr}\""),
        1 => format!("W/\"{addr}\""),
        _ => draw.of(&tags).to_owned(),
    };
    let dates = [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "0",
        "Fri, 01 Jan 2100 00:00:00 GMT",
    ];
    match draw.below(10) {
        0..=2 => format!("range: bytes={first}-{last}"),
        3 => format!("range: bytes=-{last}"),
        4 => format!(
            "range: {}={first}-{last}, {last}-",
            draw.of(&["bytes", "lines", "BYTES", ""])
        ),
        5 => format!("if-match: {tag}"),
        6 => format!("if-none-match: {tag}"),
        7 => format!("if-range: {tag}"),
        8 => format!("if-modified-since: {}", draw.of(&dates)),
        _ => format!("if-unmodified-since: {}", draw.of(&dates)),
    }
}

/// Changes the bytes.
fn mutate(draw: &mut Draw, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    // Most of what can go wrong is in the head.
    let reach = if draw.one_in(3) {
        bytes.len()
    } else {
        bytes.len().min(120)
    };
    let place = draw.below(reach);
    match draw.below(6) {
        0 => bytes[place] ^= 1 << draw.below(8),
        1 => bytes[place] = draw.below(256) as u8,
        2 => {
            let end = bytes.len().min(place + 1 + draw.below(8));
            bytes.drain(place..end);
        }
        3 | 4 => {
            let token = draw.of(&TOKENS);
            bytes.splice(place..place, token.bytes());
        }
        _ => {
            let end = bytes.len().min(place + 1 + draw.below(40));
            let piece = bytes[place..end].to_vec();
            bytes.splice(place..place, piece);
        }
    }
}
