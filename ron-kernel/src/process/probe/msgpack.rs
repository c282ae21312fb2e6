//! MessagePack as far as a `v1.health` call needs it: one value read from bytes that anybody may have written, and
//! the five forms that a request is made of.

/// Arrays and maps in one another. An answer needs two; this many cannot exhaust a stack.
pub(crate) const DEPTH_MAX: usize = 16;

/// A value; what it is made of lies in the bytes it was read from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Nil,
    Bool(bool),
    UInt(u64),
    /// Below zero.
    Int(i64),
    Str(&'a str),
    Bin(&'a [u8]),
    Array(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// A floating point number or an extension: well formed, not looked into.
    Other,
}

/// Why bytes are not one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it ends within the value that begins at byte {at}")]
    Truncated { at: usize },
    #[error("byte {at} begins no value")]
    Reserved { at: usize },
    #[error("the text at byte {at} is not UTF-8")]
    Text { at: usize },
    #[error("more than {DEPTH_MAX} levels at byte {at}")]
    Depth { at: usize },
    #[error("{bytes} bytes follow the value")]
    Trailing { bytes: usize },
}

/// The one value that `bytes` are. Takes memory in proportion to them, whatever lengths they claim.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value<'_>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(0)?;
    match bytes.len() - reader.at {
        0 => Ok(value),
        rest => Err(Malformed::Trailing { bytes: rest }),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Malformed> {
        let at = self.at;
        let marker = self.number::<1>(at)? as u8;
        Ok(match marker {
            0x00..=0x7f => Value::UInt(marker.into()),
            0x80..=0x8f => self.map(at, u64::from(marker & 0x0f), depth)?,
            0x90..=0x9f => self.array(at, u64::from(marker & 0x0f), depth)?,
            0xa0..=0xbf => self.text(at, u64::from(marker & 0x1f))?,
            0xc0 => Value::Nil,
            0xc1 => return Err(Malformed::Reserved { at }),
            0xc2 | 0xc3 => Value::Bool(marker == 0xc3),
            0xc4..=0xc6 => {
                let len = self.len(at, marker - 0xc4)?;
                Value::Bin(self.take(at, len)?)
            }
            0xc7..=0xc9 => {
                let len = self.len(at, marker - 0xc7)?;
                // Its type is a byte of its own.
                self.take(at, len.saturating_add(1))?;
                Value::Other
            }
            0xca => self.skip(at, 4)?,
            0xcb => self.skip(at, 8)?,
            0xcc => Value::UInt(self.number::<1>(at)?),
            0xcd => Value::UInt(self.number::<2>(at)?),
            0xce => Value::UInt(self.number::<4>(at)?),
            0xcf => Value::UInt(self.number::<8>(at)?),
            0xd0 => signed((self.number::<1>(at)? as u8 as i8).into()),
            0xd1 => signed((self.number::<2>(at)? as u16 as i16).into()),
            0xd2 => signed((self.number::<4>(at)? as u32 as i32).into()),
            0xd3 => signed(self.number::<8>(at)? as i64),
            0xd4..=0xd8 => self.skip(at, 1 + (1 << (marker - 0xd4)))?,
            0xd9..=0xdb => {
                let len = self.len(at, marker - 0xd9)?;
                self.text(at, len)?
            }
            0xdc | 0xdd => {
                let len = self.len(at, marker - 0xdc + 1)?;
                self.array(at, len, depth)?
            }
            0xde | 0xdf => {
                let len = self.len(at, marker - 0xde + 1)?;
                self.map(at, len, depth)?
            }
            0xe0..=0xff => Value::Int((marker as i8).into()),
        })
    }

    fn take(&mut self, at: usize, len: u64) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let len = usize::try_from(len).ok().filter(|len| *len <= rest.len());
        let len = len.ok_or(Malformed::Truncated { at })?;
        self.at += len;
        Ok(&rest[..len])
    }

    fn skip(&mut self, at: usize, len: u64) -> Result<Value<'a>, Malformed> {
        self.take(at, len).map(|_| Value::Other)
    }

    /// A big-endian number of `N` bytes, at most eight.
    fn number<const N: usize>(&mut self, at: usize) -> Result<u64, Malformed> {
        let bytes = self.take(at, N as u64)?;
        Ok(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// A length of one, two or four bytes.
    fn len(&mut self, at: usize, width: u8) -> Result<u64, Malformed> {
        match width {
            0 => self.number::<1>(at),
            1 => self.number::<2>(at),
            _ => self.number::<4>(at),
        }
    }

    fn text(&mut self, at: usize, len: u64) -> Result<Value<'a>, Malformed> {
        let text = std::str::from_utf8(self.take(at, len)?);
        text.map(Value::Str).map_err(|_| Malformed::Text { at })
    }

    /// Every item takes a byte at least, so a length that lies ends as truncated before it takes memory.
    fn array(&mut self, at: usize, len: u64, depth: usize) -> Result<Value<'a>, Malformed> {
        let depth = deeper(at, depth)?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(self.value(depth)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, at: usize, len: u64, depth: usize) -> Result<Value<'a>, Malformed> {
        let depth = deeper(at, depth)?;
        let mut pairs = Vec::new();
        for _ in 0..len {
            pairs.push((self.value(depth)?, self.value(depth)?));
        }
        Ok(Value::Map(pairs))
    }
}

fn deeper(at: usize, depth: usize) -> Result<usize, Malformed> {
    match depth {
        DEPTH_MAX => Err(Malformed::Depth { at }),
        _ => Ok(depth + 1),
    }
}

/// A number that is not below zero is unsigned, however it was written.
fn signed<'a>(number: i64) -> Value<'a> {
    u64::try_from(number).map_or(Value::Int(number), Value::UInt)
}

/// What begins a map of `pairs` pairs or an array of `items` items, fewer than sixteen.
pub(crate) const fn map_of(pairs: u8) -> u8 {
    0x80 | (pairs & 0x0f)
}

/// See [`map_of`].
pub(crate) const fn array_of(items: u8) -> u8 {
    0x90 | (items & 0x0f)
}

pub(crate) fn write_str(out: &mut Vec<u8>, text: &str) {
    let len = (text.len() as u64).to_be_bytes();
    match text.len() {
        0..=31 => out.push(0xa0 | len[7]),
        32..=255 => out.extend_from_slice(&[0xd9, len[7]]),
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&len[4..]);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// In the fewest bytes.
pub(crate) fn write_uint(out: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let (marker, width) = match number {
        0..=0x7f => return out.push(bytes[7]),
        0x80..=0xff => (0xcc, 1),
        0x100..=0xffff => (0xcd, 2),
        0x1_0000..=0xffff_ffff => (0xce, 4),
        _ => (0xcf, 8),
    };
    out.push(marker);
    out.extend_from_slice(&bytes[8 - width..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_the_format_is_read_for_what_it_is() {
        let long = [b'x'; 300];
        let text = std::str::from_utf8(&long).unwrap();
        let with = |head: &[u8]| [head, &long[..]].concat();
        let cases = [
            (vec![0x00], Value::UInt(0)),
            (vec![0x7f], Value::UInt(127)),
            (vec![0xcc, 0xff], Value::UInt(255)),
            (vec![0xcd, 0x01, 0x00], Value::UInt(256)),
            (vec![0xce, 0x80, 0, 0, 1], Value::UInt(0x8000_0001)),
            (
                vec![0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                Value::UInt(u64::MAX),
            ),
            (vec![0xff], Value::Int(-1)),
            (vec![0xe0], Value::Int(-32)),
            (vec![0xd0, 0x80], Value::Int(-128)),
            (vec![0xd0, 0x05], Value::UInt(5)),
            (vec![0xd1, 0xff, 0x00], Value::Int(-256)),
            (vec![0xd2, 0x80, 0, 0, 0], Value::Int(i32::MIN.into())),
            (vec![0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], Value::Int(i64::MIN)),
            (vec![0xc0], Value::Nil),
            (vec![0xc2], Value::Bool(false)),
            (vec![0xc3], Value::Bool(true)),
            (vec![0xa0], Value::Str("")),
            (b"\xa2ok".to_vec(), Value::Str("ok")),
            (b"\xd9\x02ok".to_vec(), Value::Str("ok")),
            (with(&[0xda, 0x01, 0x2c]), Value::Str(text)),
            (with(&[0xdb, 0, 0, 0x01, 0x2c]), Value::Str(text)),
            (vec![0xc4, 0x01, 0xfe], Value::Bin(&[0xfe])),
            (with(&[0xc5, 0x01, 0x2c]), Value::Bin(&long)),
            (with(&[0xc6, 0, 0, 0x01, 0x2c]), Value::Bin(&long)),
            (vec![0x90], Value::Array(vec![])),
            (
                vec![0x92, 0xc0, 0x01],
                Value::Array(vec![Value::Nil, Value::UInt(1)]),
            ),
            (vec![0xdc, 0, 1, 0xc0], Value::Array(vec![Value::Nil])),
            (vec![0xdd, 0, 0, 0, 1, 0xc0], Value::Array(vec![Value::Nil])),
            (vec![0x80], Value::Map(vec![])),
            (
                vec![0x81, 0xa1, b'k', 0xc3],
                Value::Map(vec![(Value::Str("k"), Value::Bool(true))]),
            ),
            (
                vec![0xde, 0, 1, 0x01, 0x02],
                Value::Map(vec![(Value::UInt(1), Value::UInt(2))]),
            ),
            (
                vec![0xdf, 0, 0, 0, 1, 0x01, 0x02],
                Value::Map(vec![(Value::UInt(1), Value::UInt(2))]),
            ),
            (vec![0xca, 0, 0, 0, 0], Value::Other),
            (vec![0xcb, 0, 0, 0, 0, 0, 0, 0, 0], Value::Other),
            (vec![0xd4, 9, 0], Value::Other),
            (vec![0xd5, 9, 0, 0], Value::Other),
            ([&[0xd8, 9][..], &[0; 16]].concat(), Value::Other),
            (vec![0xc7, 2, 9, 0, 0], Value::Other),
            (vec![0xc8, 0, 1, 9, 0], Value::Other),
            (vec![0xc9, 0, 0, 0, 0, 9], Value::Other),
        ];
        for (bytes, value) in &cases {
            assert_eq!(decode(bytes).as_ref(), Ok(value), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_where_it_goes_wrong() {
        let truncated = |at| Malformed::Truncated { at };
        let cases: [(&[u8], Malformed); 14] = [
            (b"", truncated(0)),
            (b"\xa3ok", truncated(0)),
            (b"\xcf\0\0", truncated(0)),
            (b"\x92\xc0", truncated(2)),
            (b"\x92\xc0\xa1", truncated(2)),
            (b"\x81\xc0", truncated(2)),
            (b"\xdd\xff\xff\xff\xff\xc0", truncated(6)),
            (b"\xdf\xff\xff\xff\xff", truncated(5)),
            (b"\xc6\xff\xff\xff\xff\0", truncated(0)),
            (b"\xc9\xff\xff\xff\xff\0", truncated(0)),
            (b"\xc1", Malformed::Reserved { at: 0 }),
            (b"\x91\xc1", Malformed::Reserved { at: 1 }),
            (b"\x91\xa2\xc3\x28", Malformed::Text { at: 1 }),
            (b"\xc0\xc0\xc0", Malformed::Trailing { bytes: 2 }),
        ];
        for (bytes, malformed) in cases {
            assert_eq!(decode(bytes), Err(malformed), "{bytes:x?}");
        }
    }

    #[test]
    fn values_nest_sixteen_deep_and_no_deeper() {
        for (open, levels) in [(&b"\x91"[..], 1), (&b"\x81\xc0"[..], 1)] {
            let nested = |n: usize| [&open.repeat(n)[..], b"\xc0"].concat();
            assert!(decode(&nested(DEPTH_MAX * levels)).is_ok());
            let at = DEPTH_MAX * open.len();
            assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(Malformed::Depth { at }));
            assert_eq!(decode(&nested(30_000)), Err(Malformed::Depth { at }));
        }
    }

    /// A value that owns what it is made of, and how wide each of its lengths and numbers is written: as narrow as
    /// possible, or by that many steps wider, which readers must accept too.
    #[derive(Clone, Debug)]
    enum Tree {
        Nil,
        Bool(bool),
        UInt(u64, usize),
        Int(i64, usize),
        Str(String, usize),
        Bin(Vec<u8>, usize),
        Array(Vec<Tree>, usize),
        Map(Vec<(Tree, Tree)>, usize),
    }

    impl Tree {
        fn value(&self) -> Value<'_> {
            match self {
                Tree::Nil => Value::Nil,
                Tree::Bool(flag) => Value::Bool(*flag),
                Tree::UInt(n, _) => Value::UInt(*n),
                Tree::Int(n, _) => Value::Int(*n),
                Tree::Str(text, _) => Value::Str(text),
                Tree::Bin(bytes, _) => Value::Bin(bytes),
                Tree::Array(items, _) => Value::Array(items.iter().map(Tree::value).collect()),
                Tree::Map(pairs, _) => {
                    Value::Map(pairs.iter().map(|(k, v)| (k.value(), v.value())).collect())
                }
            }
        }

        fn write(&self, out: &mut Vec<u8>) {
            match self {
                Tree::Nil => out.push(0xc0),
                Tree::Bool(flag) => out.push(0xc2 + u8::from(*flag)),
                Tree::UInt(n, wider) => {
                    let forms = [(0x7f, 0, 0), (0xff, 0xcc, 1), (0xffff, 0xcd, 2)];
                    let forms = forms
                        .into_iter()
                        .chain([(0xffff_ffff, 0xce, 4), (u64::MAX, 0xcf, 8)]);
                    write_form(out, *n, forms.collect(), *wider);
                }
                Tree::Int(n, wider) => {
                    let forms = [
                        (32i64, 0xe0u8, 0usize),
                        (128, 0xd0, 1),
                        (1 << 15, 0xd1, 2),
                        (1 << 31, 0xd2, 4),
                    ];
                    let forms = forms.into_iter().filter(|(floor, ..)| *n >= -floor);
                    let forms: Vec<_> = forms.chain([(0, 0xd3, 8)]).collect();
                    let (_, marker, width) = forms[(*wider).min(forms.len() - 1)];
                    match width {
                        0 => out.push(*n as u8),
                        _ => {
                            out.push(marker);
                            out.extend_from_slice(&n.to_be_bytes()[8 - width..]);
                        }
                    }
                }
                Tree::Str(text, wider) => {
                    let forms = vec![
                        (31, 0xa0, 0),
                        (0xff, 0xd9, 1),
                        (0xffff, 0xda, 2),
                        (u64::MAX, 0xdb, 4),
                    ];
                    write_form(out, text.len() as u64, forms, *wider);
                    out.extend_from_slice(text.as_bytes());
                }
                Tree::Bin(bytes, wider) => {
                    let forms = vec![(0xff, 0xc4, 1), (0xffff, 0xc5, 2), (u64::MAX, 0xc6, 4)];
                    write_form(out, bytes.len() as u64, forms, *wider);
                    out.extend_from_slice(bytes);
                }
                Tree::Array(items, wider) => {
                    let forms = vec![(15, 0x90, 0), (0xffff, 0xdc, 2), (u64::MAX, 0xdd, 4)];
                    write_form(out, items.len() as u64, forms, *wider);
                    items.iter().for_each(|item| item.write(out));
                }
                Tree::Map(pairs, wider) => {
                    let forms = vec![(15, 0x80, 0), (0xffff, 0xde, 2), (u64::MAX, 0xdf, 4)];
                    write_form(out, pairs.len() as u64, forms, *wider);
                    for (key, value) in pairs {
                        key.write(out);
                        value.write(out);
                    }
                }
            }
        }
    }

    /// `number` in one of the forms that can hold it: each a highest number, a marker, and bytes behind it.
    fn write_form(out: &mut Vec<u8>, number: u64, forms: Vec<(u64, u8, usize)>, wider: usize) {
        let forms: Vec<_> = forms
            .into_iter()
            .filter(|(max, ..)| number <= *max)
            .collect();
        let (_, marker, width) = forms[wider.min(forms.len() - 1)];
        let bytes = number.to_be_bytes();
        match width {
            0 => out.push(marker | bytes[7]),
            _ => {
                out.push(marker);
                out.extend_from_slice(&bytes[8 - width..]);
            }
        }
    }

    fn tree() -> impl proptest::strategy::Strategy<Value = Tree> {
        let number = (any::<u64>(), 0u32..64).prop_map(|(n, shift)| n >> shift);
        let leaf = prop_oneof![
            Just(Tree::Nil),
            any::<bool>().prop_map(Tree::Bool),
            (number.clone(), 0usize..5).prop_map(|(n, wider)| Tree::UInt(n, wider)),
            (number, 0usize..5).prop_map(|(n, wider)| Tree::Int(-1 - (n >> 1) as i64, wider)),
            (".{0,40}", 0usize..4).prop_map(|(text, wider)| Tree::Str(text, wider)),
            (prop::collection::vec(any::<u8>(), 0..300), 0usize..3)
                .prop_map(|(bytes, wider)| Tree::Bin(bytes, wider)),
        ];
        leaf.prop_recursive(6, 64, 20, |inner| {
            let pair = (inner.clone(), inner.clone());
            prop_oneof![
                (prop::collection::vec(inner, 0..20), 0usize..3)
                    .prop_map(|(items, wider)| Tree::Array(items, wider)),
                (prop::collection::vec(pair, 0..20), 0usize..3)
                    .prop_map(|(pairs, wider)| Tree::Map(pairs, wider)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_in_any_form_is_read_and_nothing_less_or_more(tree in tree()) {
            let mut bytes = Vec::new();
            tree.write(&mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(tree.value()));
            for len in 0..bytes.len() {
                let cut = decode(&bytes[..len]);
                prop_assert!(matches!(cut, Err(Malformed::Truncated { .. })), "{len}: {cut:?}");
            }
            bytes.push(0xc0);
            prop_assert_eq!(decode(&bytes), Err(Malformed::Trailing { bytes: 1 }));
        }

        #[test]
        fn what_is_written_for_a_request_is_read_back(text in ".{0,300}", n in any::<u64>(), shift in 0u32..64) {
            let mut bytes = vec![array_of(2)];
            write_str(&mut bytes, &text);
            write_uint(&mut bytes, n >> shift);
            prop_assert_eq!(decode(&bytes), Ok(Value::Array(vec![Value::Str(&text), Value::UInt(n >> shift)])));
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_more_values_than_bytes(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..=0x9f, 0xc0u8..=0xdf], 0..200),
        ) {
            fn values(value: &Value<'_>) -> usize {
                1 + match value {
                    Value::Array(items) => items.iter().map(values).sum(),
                    Value::Map(pairs) => pairs.iter().map(|(k, v)| values(k) + values(v)).sum(),
                    _ => 0,
                }
            }
            if let Ok(value) = decode(&bytes) {
                prop_assert!(values(&value) <= bytes.len());
            }
        }
    }
}
