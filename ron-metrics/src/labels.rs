//! Label sets: the [`Labels`] trait, the macro that writes it, and how values become text.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// The labels of one series of a family. Usually written by [`labels!`](crate::labels).
///
/// ```
/// use ron_metrics::{LabelSink, Labels};
///
/// struct Shard(u16);
///
/// impl Labels for Shard {
///     fn names() -> &'static [&'static str] {
///         &["shard"]
///     }
///     fn write(&self, sink: &mut LabelSink<'_>) {
///         sink.push(self.0);
///     }
/// }
///
/// let metrics = ron_metrics::Metrics::new("store")?;
/// let reads = metrics.counter_family::<Shard>("store_reads_total", "Reads by shard.")?;
/// reads.get(&Shard(7)).inc();
/// assert!(metrics.render(Default::default()).contains("store_reads_total{shard=\"7\"} 1\n"));
/// # Ok::<(), ron_metrics::MetricsError>(())
/// ```
pub trait Labels: 'static {
    /// Label names, in the order in which [`write`](Labels::write) pushes the values.
    fn names() -> &'static [&'static str];

    /// Pushes one value per name, in order. A value not pushed is empty; one too many is a bug of the implementation,
    /// which a debug build stops at and a release build drops.
    fn write(&self, sink: &mut LabelSink<'_>);
}

/// Defines label structs with one field per label, and their [`Labels`] implementation.
///
/// Fields are `Cow<'static, str>`: a literal costs no allocation, and `new` takes `&'static str` and `String`.
///
/// ```
/// ron_metrics::labels! {
///     /// One disk of one pool.
///     pub struct Disk { pool, device }
/// }
///
/// let metrics = ron_metrics::Metrics::new("store")?;
/// let errors = metrics.counter_family::<Disk>("disk_errors_total", "Errors by disk.")?;
/// let sda = errors.get(&Disk::new("hot", String::from("sda")));
/// sda.inc();
/// assert_eq!(sda.value(), 1);
/// # Ok::<(), ron_metrics::MetricsError>(())
/// ```
#[macro_export]
macro_rules! labels {
    ($($(#[$doc:meta])* $vis:vis struct $name:ident { $($field:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        $vis struct $name {
            $(
                #[doc = concat!("Value of the label `", stringify!($field), "`.")]
                pub $field: ::std::borrow::Cow<'static, str>,
            )+
        }

        impl $name {
            /// The label set with these values.
            $vis fn new($($field: impl Into<::std::borrow::Cow<'static, str>>),+) -> Self {
                Self { $($field: $field.into()),+ }
            }
        }

        impl $crate::Labels for $name {
            fn names() -> &'static [&'static str] {
                &[$(stringify!($field)),+]
            }
            fn write(&self, sink: &mut $crate::LabelSink<'_>) {
                $(sink.push(&self.$field);)+
            }
        }
    )+};
}

/// Takes the values of one label set.
#[derive(Debug)]
pub struct LabelSink<'a> {
    names: &'a [&'a str],
    next: usize,
    out: &'a mut Rendered,
}

impl LabelSink<'_> {
    /// The value of the next label.
    pub fn push(&mut self, value: impl fmt::Display) {
        let Some(name) = self.names.get(self.next) else {
            debug_assert!(false, "more label values than names: {:?}", self.names);
            return;
        };
        let text = &mut self.out.text;
        if self.next > 0 {
            text.push(',');
        }
        self.next += 1;
        text.push_str(name);
        self.out.last = text.len();
        text.push_str("=\"");
        let mut escaped = Escaped { text, any: false };
        // Only a Display implementation that fails could fail here; what it wrote stands.
        let _ = write!(escaped, "{value}");
        self.out.last_escaped = escaped.any;
        self.out.text.push('"');
    }
}

/// A label set as text, `a="x",b="y"`, with the escapes both formats share. The text identifies the series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rendered {
    text: String,
    /// Where the last label's name ends.
    last: usize,
    /// Whether the last value has escapes.
    last_escaped: bool,
}

impl Rendered {
    pub(crate) fn of<L: Labels>(labels: &L) -> Rendered {
        let names = L::names();
        let mut out = Rendered::default();
        let mut sink = LabelSink {
            names,
            next: 0,
            out: &mut out,
        };
        labels.write(&mut sink);
        while sink.next < names.len() {
            sink.push("");
        }
        out
    }

    pub(crate) fn pairs<'a>(names: &[&str], values: impl IntoIterator<Item = &'a str>) -> Rendered {
        let mut out = Rendered::default();
        let mut sink = LabelSink {
            names,
            next: 0,
            out: &mut out,
        };
        for value in values {
            sink.push(value);
        }
        out
    }

    /// The same value for every label.
    pub(crate) fn all(names: &[&str], value: &str) -> Rendered {
        Rendered::pairs(names, names.iter().map(|_| value))
    }

    /// Everything up to the last label's name, and the last value as it was before escaping.
    pub(crate) fn split(&self) -> (&str, Cow<'_, str>) {
        let (head, tail) = self.text.split_at(self.last);
        let escaped = tail
            .strip_prefix("=\"")
            .and_then(|tail| tail.strip_suffix('"'))
            .unwrap_or(tail);
        if !self.last_escaped {
            return (head, Cow::Borrowed(escaped));
        }
        let mut value = String::with_capacity(escaped.len());
        let mut chars = escaped.chars();
        while let Some(c) = chars.next() {
            value.push(match c {
                '\\' => match chars.next() {
                    Some('n') => '\n',
                    Some(c) => c,
                    None => '\\',
                },
                c => c,
            });
        }
        (head, Cow::Owned(value))
    }
}

struct Escaped<'a> {
    text: &'a mut String,
    /// Whether anything needed an escape.
    any: bool,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let escape = match c {
                '\\' => "\\\\",
                '"' => "\\\"",
                '\n' => "\\n",
                c => {
                    self.text.push(c);
                    continue;
                }
            };
            self.text.push_str(escape);
            self.any = true;
        }
        Ok(())
    }
}
