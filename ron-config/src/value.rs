//! The types a key can have, each read from a file node or from the text of a variable or flag.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{json, Value as Json};
use zeroize::Zeroize;

use crate::document::{Kind, Node, Span};
use crate::secret::{Secret, REDACTED};
use crate::spelling::nearest;
use crate::units::{
    format_duration, parse_duration, ByteSize, Unit, UnitError, DURATION_EXPECTED, SIZE_EXPECTED,
};

/// The word that leaves an optional key unset, in a file as in a variable.
pub(crate) const UNSET: &str = "unset";

/// A type that a key can have.
///
/// Implemented for `bool`, the integers up to 64 bits, `f64`, `String`, `PathBuf`, `SocketAddr`, `Duration`,
/// [`ByteSize`], [`Secret`], `Option<V>` (unset when absent, or by the word `unset`), `Vec<V>` and
/// `BTreeMap<String, V>`. Implement it for a type of your own by reading [`Input::text`]. For a fixed set of words use
/// [`Schema::choice`](crate::Schema::choice) instead.
///
/// ```
/// use ron_config::{Input, Mismatch, Value};
///
/// #[derive(Clone, PartialEq)]
/// struct Even(u64);
///
/// impl Value for Even {
///     fn read(input: Input<'_>) -> Result<Self, Mismatch> {
///         let n = u64::read(input)?;
///         if n % 2 == 0 { Ok(Even(n)) } else { Err(Mismatch::new(format!("{n} is odd"))) }
///     }
///     fn show(&self) -> serde_json::Value { self.0.into() }
///     fn expected() -> String { "an even number".into() }
///     fn schema() -> serde_json::Value { serde_json::json!({"type": "integer", "multipleOf": 2}) }
/// }
/// ```
pub trait Value: Clone + PartialEq + Send + Sync + 'static {
    /// Whether every output must redact the value. True for [`Secret`] and what contains one.
    const SECRET: bool = false;

    /// Reads one input.
    ///
    /// # Errors
    /// A [`Mismatch`] that says what was found; what was expected is added from [`expected`](Self::expected).
    fn read(input: Input<'_>) -> Result<Self, Mismatch>;

    /// The value as a file would spell it, redacted if secret.
    fn show(&self) -> Json;

    /// What is allowed, as a noun phrase: `an integer from 0 to 255`.
    fn expected() -> String;

    /// The JSON Schema (draft 2020-12) of the value in a file.
    fn schema() -> Json;
}

/// A [`Value`] with an order, for [`KeyBuilder::range`](crate::KeyBuilder::range).
pub trait Ranged: Value {
    /// The type of the bounds: the value's own, or that inside an `Option`.
    type Bound: Value + PartialOrd;

    /// What is compared with the bounds; `None` (unset) is always in range.
    fn bound(&self) -> Option<&Self::Bound>;
}

/// One thing to read: a value of the file, or the text of a variable or flag.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    raw: Raw<'a>,
    unit: Option<Unit>,
}

#[derive(Clone, Copy, Debug)]
enum Raw<'a> {
    Node(&'a Node),
    Text(&'a str),
}

impl<'a> Input<'a> {
    pub(crate) fn node(node: &'a Node) -> Self {
        Self {
            raw: Raw::Node(node),
            unit: None,
        }
    }

    pub(crate) fn plain(text: &'a str, unit: Option<Unit>) -> Self {
        Self {
            raw: Raw::Text(text),
            unit,
        }
    }

    pub(crate) fn as_node(self) -> Option<&'a Node> {
        match self.raw {
            Raw::Node(node) => Some(node),
            Raw::Text(_) => None,
        }
    }

    /// A truth value: `true` or `false`; in variables and flags also `on`, `off`, `1`, `0`.
    ///
    /// # Errors
    /// A mismatch naming what was found.
    pub fn bool(self) -> Result<bool, Mismatch> {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::Bool(value),
                ..
            }) => Ok(*value),
            Raw::Text("true" | "on" | "1") => Ok(true),
            Raw::Text("false" | "off" | "0") => Ok(false),
            _ => Err(self.mismatch()),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// A mismatch naming what was found.
    pub fn integer(self) -> Result<i128, Mismatch> {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::Integer(value),
                ..
            }) => Ok(*value),
            Raw::Text(text) => text.parse().map_err(|_| self.mismatch()),
            Raw::Node(_) => Err(self.mismatch()),
        }
    }

    /// A finite number.
    ///
    /// # Errors
    /// A mismatch naming what was found; infinities and NaN are mismatches.
    pub fn float(self) -> Result<f64, Mismatch> {
        let number = match self.raw {
            Raw::Node(Node {
                kind: Kind::Float(value),
                ..
            }) => Some(*value),
            // Whole numbers are accepted where a fraction may stand; 2^53 is where they stop being exact.
            Raw::Node(Node {
                kind: Kind::Integer(value),
                ..
            }) => Some(*value as f64),
            Raw::Text(text) => text.parse().ok(),
            Raw::Node(_) => None,
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.mismatch())
    }

    /// A text.
    ///
    /// # Errors
    /// A mismatch naming what was found.
    pub fn text(self) -> Result<&'a str, Mismatch> {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::Text(text),
                ..
            }) => Ok(text),
            Raw::Text(text) => Ok(text),
            Raw::Node(_) => Err(self.mismatch()),
        }
    }

    /// The items of a list: an array in the file; in a variable or flag, text split at commas, each part trimmed, the
    /// empty text giving no items. Items that contain a comma belong in the file.
    ///
    /// # Errors
    /// A mismatch naming what was found.
    pub fn items(self) -> Result<Vec<Input<'a>>, Mismatch> {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::List(items),
                ..
            }) => Ok(items.iter().map(Input::node).collect()),
            Raw::Text(text) if text.trim().is_empty() => Ok(Vec::new()),
            Raw::Text(text) => Ok(text
                .split(',')
                .map(|part| Input::plain(part.trim(), self.unit))
                .collect()),
            Raw::Node(_) => Err(self.mismatch()),
        }
    }

    /// The members of a map: a table in the file; in a variable or flag, `name=value` pairs split at commas.
    ///
    /// # Errors
    /// A mismatch naming what was found.
    pub fn members(self) -> Result<Vec<(&'a str, Input<'a>)>, Mismatch> {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::Table(entries),
                ..
            }) => Ok(entries
                .iter()
                .map(|entry| (entry.key.as_str(), Input::node(&entry.value)))
                .collect()),
            Raw::Text(_) => self
                .items()?
                .into_iter()
                .map(|item| {
                    let (name, value) = item
                        .text()?
                        .split_once('=')
                        .ok_or_else(|| self.mismatch())?;
                    Ok((name.trim(), Input::plain(value.trim(), self.unit)))
                })
                .collect(),
            Raw::Node(_) => Err(self.mismatch()),
        }
    }

    /// Whether this is the word or value that means "not set".
    fn is_unset(self) -> bool {
        match self.raw {
            Raw::Node(Node {
                kind: Kind::Null, ..
            }) => true,
            _ => self.text().is_ok_and(|text| text == UNSET),
        }
    }

    /// The text of a quantity; a bare number of a variable that carries its unit has it appended.
    fn quantity(self) -> Result<String, Mismatch> {
        if let Raw::Node(Node {
            kind: Kind::Integer(_) | Kind::Float(_) | Kind::Huge,
            ..
        }) = self.raw
        {
            return Err(Mismatch::new(format!(
                "{} {}",
                self.found(),
                UnitError::BareNumber
            )));
        }
        let text = self.text()?;
        let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        Ok(match self.unit {
            Some(unit) if bare => format!("{text}{}", unit.suffix()),
            _ => text.to_owned(),
        })
    }

    /// A mismatch that names what stands here instead of what was wanted.
    pub fn mismatch(self) -> Mismatch {
        Mismatch::new(format!("found {}", self.found())).at(self)
    }

    fn found(self) -> String {
        match self.raw {
            Raw::Text("") => "nothing".to_owned(),
            Raw::Text(text) => quoted(text),
            Raw::Node(node) => match &node.kind {
                Kind::Null => "null".to_owned(),
                Kind::Bool(value) => value.to_string(),
                Kind::Integer(value) => value.to_string(),
                Kind::Float(value) => value.to_string(),
                Kind::Text(text) => format!("the text {}", quoted(text)),
                Kind::Date => "a date".to_owned(),
                Kind::Huge => "a number beyond 128 bits".to_owned(),
                Kind::List(_) => "a list".to_owned(),
                Kind::Table(_) => "a table".to_owned(),
            },
        }
    }
}

/// A text in quotes, cut to what fits a line of a log.
fn quoted(text: &str) -> String {
    const WIDTH: usize = 60;
    if text.chars().count() <= WIDTH {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(WIDTH).collect();
    format!("{head:?}...")
}

/// Why an input is not a value of the wanted type.
///
/// The text is shown to the operator, except for secret keys, where it is withheld because it may repeat the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub(crate) problem: String,
    pub(crate) suggestion: Option<String>,
    pub(crate) span: Option<Span>,
    pub(crate) more: Vec<Mismatch>,
}

impl Mismatch {
    /// A mismatch with this description.
    pub fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            suggestion: None,
            span: None,
            more: Vec::new(),
        }
    }

    /// Adds what was probably meant.
    pub fn suggest(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }

    /// Places the mismatch at an inner input, unless it is placed already.
    pub fn at(mut self, input: Input<'_>) -> Self {
        if self.span.is_none() {
            self.span = input.as_node().map(|node| node.span);
        }
        self
    }
}

/// Reads all, so that every bad item is reported.
fn read_all<'a, T, K>(
    inputs: impl IntoIterator<Item = (K, Input<'a>)>,
    read: impl Fn(Input<'a>) -> Result<T, Mismatch>,
) -> Result<Vec<(K, T)>, Mismatch> {
    let mut values = Vec::new();
    let mut failed: Option<Mismatch> = None;
    for (key, input) in inputs {
        match read(input) {
            Ok(value) => values.push((key, value)),
            Err(mismatch) => {
                let mismatch = mismatch.at(input);
                match &mut failed {
                    Some(first) => first.more.push(mismatch),
                    None => failed = Some(mismatch),
                }
            }
        }
    }
    match failed {
        Some(mismatch) => Err(mismatch),
        None => Ok(values),
    }
}

impl Value for bool {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        input.bool()
    }
    fn show(&self) -> Json {
        (*self).into()
    }
    fn expected() -> String {
        "true or false".to_owned()
    }
    fn schema() -> Json {
        json!({"type": "boolean"})
    }
}

macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Value for $int {
            fn read(input: Input<'_>) -> Result<Self, Mismatch> {
                let number = input.integer()?;
                <$int>::try_from(number)
                    .map_err(|_| {
                        let (min, max) = (<$int>::MIN, <$int>::MAX);
                        Mismatch::new(format!("{number} is outside {min} to {max}")).at(input)
                    })
            }
            fn show(&self) -> Json {
                (*self).into()
            }
            fn expected() -> String {
                "an integer".to_owned()
            }
            fn schema() -> Json {
                json!({"type": "integer", "minimum": <$int>::MIN, "maximum": <$int>::MAX})
            }
        }
        own_bound!($int);
    )*};
}

macro_rules! own_bound {
    ($value:ty) => {
        impl Ranged for $value {
            type Bound = Self;
            fn bound(&self) -> Option<&Self> {
                Some(self)
            }
        }
    };
}

integers!(i8 i16 i32 i64 isize u8 u16 u32 u64 usize);
own_bound!(f64);
own_bound!(Duration);
own_bound!(ByteSize);

impl Value for f64 {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        input.float()
    }
    fn show(&self) -> Json {
        (*self).into()
    }
    fn expected() -> String {
        "a number".to_owned()
    }
    fn schema() -> Json {
        json!({"type": "number"})
    }
}

impl Value for String {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        input.text().map(str::to_owned)
    }
    fn show(&self) -> Json {
        self.as_str().into()
    }
    fn expected() -> String {
        "a text".to_owned()
    }
    fn schema() -> Json {
        json!({"type": "string"})
    }
}

impl Value for PathBuf {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        match input.text()? {
            "" => Err(input.mismatch()),
            text => Ok(text.into()),
        }
    }
    fn show(&self) -> Json {
        self.to_string_lossy().into()
    }
    fn expected() -> String {
        "a path".to_owned()
    }
    fn schema() -> Json {
        json!({"type": "string", "minLength": 1})
    }
}

impl Value for SocketAddr {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        input.text()?.parse().map_err(|_| input.mismatch())
    }
    fn show(&self) -> Json {
        self.to_string().into()
    }
    fn expected() -> String {
        "an address with a port such as \"127.0.0.1:9909\"".to_owned()
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^.+:[0-9]{1,5}$"})
    }
}

fn of_unit<T>(
    input: Input<'_>,
    parse: impl Fn(&str) -> Result<T, UnitError>,
    units: &[&'static str],
) -> Result<T, Mismatch> {
    let text = input.quantity()?;
    parse(&text).map_err(|error| {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let suggestion = match error {
            UnitError::UnknownUnit => {
                let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
                units
                    .iter()
                    .find(|unit| {
                        let short: String = unit.chars().filter(|c| *c != 'i').collect();
                        unit.eq_ignore_ascii_case(suffix)
                            || short.eq_ignore_ascii_case(suffix)
                            || (suffix.len() == 1 && short[..1].eq_ignore_ascii_case(suffix))
                    })
                    .map(|unit| format!("{digits}{unit}"))
            }
            _ => None,
        };
        Mismatch::new(format!("{} {error}", input.found()))
            .suggest(suggestion.as_deref())
            .at(input)
    })
}

impl Value for Duration {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        of_unit(input, parse_duration, &["s", "ms", "m", "h"])
    }
    fn show(&self) -> Json {
        format_duration(*self).into()
    }
    fn expected() -> String {
        DURATION_EXPECTED.to_owned()
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"})
    }
}

impl Value for ByteSize {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        of_unit(input, ByteSize::parse, &["B", "KiB", "MiB", "GiB"])
    }
    fn show(&self) -> Json {
        self.to_string().into()
    }
    fn expected() -> String {
        SIZE_EXPECTED.to_owned()
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"})
    }
}

impl<V: Value + Zeroize> Value for Secret<V> {
    const SECRET: bool = true;

    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        V::read(input).map(Secret::new)
    }
    fn show(&self) -> Json {
        REDACTED.into()
    }
    fn expected() -> String {
        V::expected()
    }
    fn schema() -> Json {
        let mut schema = V::schema();
        schema["writeOnly"] = true.into();
        schema
    }
}

impl<V: Value> Value for Option<V> {
    const SECRET: bool = V::SECRET;

    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        if input.is_unset() {
            return Ok(None);
        }
        V::read(input).map(Some)
    }
    fn show(&self) -> Json {
        self.as_ref().map_or(Json::Null, V::show)
    }
    fn expected() -> String {
        format!("{}, or \"{UNSET}\"", V::expected())
    }
    fn schema() -> Json {
        json!({"anyOf": [V::schema(), {"enum": [null, UNSET]}]})
    }
}

impl<V: Ranged> Ranged for Option<V> {
    type Bound = V::Bound;
    fn bound(&self) -> Option<&V::Bound> {
        self.as_ref().and_then(V::bound)
    }
}

impl<V: Value> Value for Vec<V> {
    const SECRET: bool = V::SECRET;

    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let items = input.items()?.into_iter().map(|item| ((), item));
        let values = read_all(items, V::read)?;
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }
    fn show(&self) -> Json {
        self.iter().map(V::show).collect()
    }
    fn expected() -> String {
        format!("a list, each item {}", V::expected())
    }
    fn schema() -> Json {
        json!({"type": "array", "items": V::schema()})
    }
}

impl<V: Value> Value for BTreeMap<String, V> {
    const SECRET: bool = V::SECRET;

    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let values = read_all(input.members()?, V::read)?;
        Ok(values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
    fn show(&self) -> Json {
        self.iter()
            .map(|(name, value)| (name.clone(), value.show()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
    fn expected() -> String {
        format!("a table of names, each {}", V::expected())
    }
    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": V::schema()})
    }
}

/// Reads one of a fixed set of words, with the nearest as suggestion.
pub(crate) fn read_choice<'c, V>(
    input: Input<'_>,
    choices: &'c [(&'static str, V)],
) -> Result<&'c V, Mismatch> {
    let text = input.text()?;
    choices
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| value)
        .ok_or_else(|| {
            let words = choices.iter().map(|(word, _)| *word);
            input
                .mismatch()
                .suggest(nearest(&text.to_lowercase(), words))
        })
}
