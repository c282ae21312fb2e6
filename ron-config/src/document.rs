//! A configuration file as a tree of located values, whatever its syntax.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use crate::diagnostic::Diagnostic;

mod json;
mod toml;

/// The largest configuration file that is read, in bytes (1 MiB). Real ones are a few kilobytes; a larger file is a
/// mistaken path, and is refused before it is parsed.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// How deep tables and arrays may nest in either syntax.
pub(crate) const MAX_DEPTH: usize = 64;

/// Byte offsets into the text: `start..end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// One value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a value is. Text is zeroized on drop, because it may be a secret.
#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Zeroizing<String>),
    Date,
    /// A number too large for any type we read.
    Huge,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key = value` of a table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) span: Span,
    pub(crate) value: Node,
}

/// What is wrong with the syntax, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) span: Span,
    pub(crate) problem: String,
    /// A repeated key: the rest of the file is still understood.
    pub(crate) repeated: bool,
}

/// A file that was read: its bytes as text, its tree, and the faults of its syntax.
#[derive(Debug)]
pub(crate) struct Document {
    shown: String,
    text: Zeroizing<String>,
    positions: Positions,
    pub(crate) root: Vec<Entry>,
    pub(crate) faults: Vec<Fault>,
}

impl Document {
    /// Parses `bytes`; `shown` is the path as the operator wrote it, and its extension picks the syntax.
    pub(crate) fn parse(shown: &str, bytes: &[u8]) -> Result<Self, Box<Diagnostic>> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Zeroizing::new(text.to_owned()),
            Err(error) => {
                let (line, column) = Positions::of(bytes).at(bytes, error.valid_up_to());
                let diagnostic = Diagnostic::new("", format!("{shown}:{line}:{column}"))
                    .problem("is not UTF-8 text")
                    .expected("a configuration file in UTF-8");
                return Err(Box::new(diagnostic));
            }
        };
        let is_json = Path::new(shown)
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let (root, faults) = if is_json {
            json::parse(&text)
        } else {
            toml::parse(&text)
        };
        Ok(Self {
            shown: shown.to_owned(),
            positions: Positions::of(text.as_bytes()),
            text,
            root,
            faults,
        })
    }

    /// `path:line:column` of a byte offset; both count from 1, columns in characters.
    pub(crate) fn place(&self, offset: usize) -> String {
        let (line, column) = self.positions.at(self.text.as_bytes(), offset);
        format!("{}:{line}:{column}", self.shown)
    }

    /// The path as the operator wrote it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn line(&self, offset: usize) -> usize {
        self.positions.at(self.text.as_bytes(), offset).0
    }

    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// The text between the start of the line and `offset`.
    pub(crate) fn line_head(&self, offset: usize) -> &str {
        let head = self.text.get(..offset).unwrap_or("");
        let start = head.rfind('\n').map_or(0, |n| n + 1);
        head.get(start..).unwrap_or("")
    }

    /// The inner text of the last line before `offset` that looks like a TOML table header.
    pub(crate) fn header_before(&self, offset: usize) -> Option<&str> {
        let head = self.text.get(..offset)?;
        head.lines()
            .rev()
            .skip(usize::from(!head.ends_with('\n')))
            .map(str::trim_start)
            .find(|line| line.starts_with('['))
            .map(|line| line.trim_start_matches('['))
            .and_then(|line| line.split(']').next())
            .map(str::trim)
    }
}

/// Lines and columns of byte offsets, found without counting from the start each time.
#[derive(Debug)]
struct Positions {
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
    /// Characters before each multiple of `STRIDE` bytes, because a file may be one long line.
    characters: Vec<usize>,
}

const STRIDE: usize = 1024;

impl Positions {
    fn of(text: &[u8]) -> Self {
        let breaks = text.iter().enumerate().filter(|(_, b)| **b == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1));
        let mut sum = 0;
        let mut characters = vec![0];
        for chunk in text.chunks(STRIDE) {
            sum += starts(chunk);
            characters.push(sum);
        }
        Self {
            lines: lines.collect(),
            characters,
        }
    }

    /// Line and column, both from 1, columns in characters.
    fn at(&self, text: &[u8], offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let column = self.before(text, offset) - self.before(text, start) + 1;
        (line, column)
    }

    fn before(&self, text: &[u8], offset: usize) -> usize {
        let stride = offset / STRIDE;
        self.characters[stride] + starts(&text[stride * STRIDE..offset])
    }
}

/// How many characters begin in these bytes of UTF-8.
fn starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// Reads a file that is not being written at this moment, as far as that can be seen.
///
/// A file last changed [`LONG_AGO`] is taken at once, any other when it was seen unchanged for [`SETTLED`], and so is an
/// empty one: a file being truncated is empty for a moment before its time of change tells. A file that does not rest
/// within [`PATIENCE`] is an error, because half of it may be a valid configuration.
pub(crate) fn read_settled(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let began = Instant::now();
    let mut seen: Option<(Fingerprint, Instant)> = None;
    loop {
        let before = Fingerprint::of(path)?;
        let bytes = read(path)?;
        if Fingerprint::of(path).ok().as_ref() != Some(&before) {
            seen = None;
        } else if before.is_old() && !bytes.is_empty() {
            return Ok(bytes);
        } else {
            match seen {
                Some((ref then, since)) if *then == before => {
                    if since.elapsed() >= SETTLED {
                        return Ok(bytes);
                    }
                }
                _ => seen = Some((before, Instant::now())),
            }
        }
        if began.elapsed() >= PATIENCE {
            return Err(io::Error::other("it is being written to without a pause"));
        }
        std::thread::sleep(SETTLED / 4);
    }
}

/// How long a file must be left alone to count as written: writers of configuration files write them in one go, so a
/// pause of this length means they are done.
const SETTLED: Duration = Duration::from_millis(40);
/// A file that old was not written by anybody who is still at it.
const LONG_AGO: Duration = Duration::from_secs(2);
/// How long a reload waits for a writer.
const PATIENCE: Duration = Duration::from_millis(500);

/// What changes when a file is replaced or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    identity: (u64, u64),
    len: u64,
    modified: Option<SystemTime>,
}

impl Fingerprint {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let identity = (0, 0);
        Ok(Self {
            identity,
            len: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }

    /// Whether the last change lies [`LONG_AGO`]. File times are the only record of it, so this one decision is by the
    /// wall clock; a time in the future is not old.
    fn is_old(&self) -> bool {
        self.modified
            .and_then(|time| time.elapsed().ok())
            .is_some_and(|age| age >= LONG_AGO)
    }
}

/// Reads a whole file, refusing one above [`MAX_FILE_BYTES`].
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Looked at before it is opened: opening a pipe would wait for its writer, with every reload behind it.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "it is a directory"
        } else {
            "it is no regular file"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let file = File::open(path)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {} KiB", MAX_FILE_BYTES / 1024),
        ));
    }
    Ok(bytes)
}
