//! W3C Trace Context: which trace a request belongs to, and this node's place in it. That needs no exporter.

use hyper::header::HeaderValue;

/// Whoever began the trace records it.
const SAMPLED: u8 = 0x01;
/// The trace id is random, so samplers may decide by it (level 2).
const RANDOM: u8 = 0x02;

/// A trace, the caller's span in it, and a span for what is done for that caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    flags: u8,
}

impl TraceContext {
    /// The header it comes and goes in.
    pub const HEADER: &'static str = "traceparent";

    /// The caller's trace with a span of our own, or a new trace where the header is absent or malformed. Of several headers
    /// give none: which one is right cannot be told.
    ///
    /// A trace that begins here is not sampled, as nothing here decides to record it. Flags that version 00 does not define
    /// are not passed on, as it demands. `random` is asked for the ids, which are never 0.
    pub fn of(theirs: Option<&HeaderValue>, mut random: impl FnMut() -> u128) -> TraceContext {
        let parent = theirs.and_then(|value| parse(value.as_bytes()));
        let (trace_id, parent_id, flags) = match parent {
            Some(parent) => (parent.trace_id, Some(parent.span_id), parent.flags),
            None => (random().max(1), None, RANDOM),
        };
        TraceContext {
            trace_id,
            // The lower half.
            span_id: (random() as u64).max(1),
            parent_id,
            flags,
        }
    }

    /// A new trace that is recorded, as so many in one are: the ids decide, so that whoever samples by them agrees.
    #[cfg(feature = "otel")]
    pub(crate) fn sampled(ratio: f64, mut random: impl FnMut() -> u128) -> Option<TraceContext> {
        let trace_id = random().max(1);
        // The lower 56 bits are what level 2 says is random. A product above them saturates, as a cast does.
        let below = (ratio * (1u64 << 56) as f64) as u64;
        let is_recorded = (trace_id as u64) >> 8 < below;
        is_recorded.then(|| TraceContext {
            trace_id,
            span_id: (random() as u64).max(1),
            parent_id: None,
            flags: SAMPLED | RANDOM,
        })
    }

    /// Trace, span and the span above it.
    #[cfg(feature = "otel")]
    pub(crate) fn ids(&self) -> (u128, u64, Option<u64>) {
        (self.trace_id, self.span_id, self.parent_id)
    }

    #[cfg(feature = "otel")]
    pub(crate) fn flags(&self) -> u32 {
        self.flags.into()
    }

    /// For requests made on behalf of this one, whose parent this one is.
    pub fn header(&self) -> HeaderValue {
        let text = format!(
            "00-{}-{}-{:02x}",
            self.trace_id(),
            self.span_id(),
            self.flags
        );
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }

    /// 32 digits, for logs.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// 16 digits: what is done here.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// 16 digits: what the caller does, if one has said.
    pub fn parent_id(&self) -> Option<String> {
        self.parent_id.map(|id| format!("{id:016x}"))
    }

    /// Whether the caller may have recorded its part.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

struct Parent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// `VERSION-TRACE-SPAN-FLAGS`. Later versions may go on behind another dash.
fn parse(header: &[u8]) -> Option<Parent> {
    let (known, rest) = header.split_at_checked(55)?;
    let dashes = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
    let version = hex(&known[..2])?;
    let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
    let parent = Parent {
        trace_id: hex(&known[3..35])?,
        span_id: u64::try_from(hex(&known[36..52])?).ok()?,
        flags: u8::try_from(hex(&known[53..])?).ok()? & (SAMPLED | RANDOM),
    };
    let is_valid = dashes && ends && version != 0xff && parent.trace_id != 0 && parent.span_id != 0;
    is_valid.then_some(parent)
}

/// At most 32 digits, none in capitals.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn of(header: &str) -> TraceContext {
        let value = HeaderValue::from_bytes(header.as_bytes()).unwrap();
        TraceContext::of(Some(&value), || 0x0102_0304_0506_0708)
    }

    #[test]
    fn a_trace_goes_on_with_a_span_of_our_own_and_the_flags_that_are_defined() {
        for (version, flags, rest, kept) in [
            ("00", "00", "", "00"),
            ("00", "01", "", "01"),
            ("00", "03", "", "03"),
            ("00", "ff", "", "03"),
            ("00", "08", "", "00"),
            ("01", "01", "", "01"),
            ("cc", "01", "-what-will-be", "01"),
            ("fe", "02", "-", "02"),
        ] {
            let header = format!("{version}-{TRACE}-{SPAN}-{flags}{rest}");
            let context = of(&header);
            assert_eq!(context.trace_id(), TRACE, "{header}");
            assert_eq!(context.parent_id().as_deref(), Some(SPAN), "{header}");
            let expected = format!("00-{TRACE}-0102030405060708-{kept}");
            assert_eq!(context.header(), expected, "{header}");
            assert_eq!(
                context.is_sampled(),
                ["01", "03"].contains(&kept),
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_malformed_begins_a_trace() {
        for header in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("01-{TRACE}-{SPAN}-01.more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("0g-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{}-{SPAN}-01", TRACE.replace('0', "+")),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!("00-{TRACE}{SPAN}-01----"),
        ] {
            let context = of(&header);
            assert_eq!(context.parent_id(), None, "{header:?}");
            assert_ne!(context.trace_id(), TRACE, "{header:?}");
        }
    }

    #[cfg(feature = "otel")]
    #[test]
    fn as_many_traces_are_recorded_as_the_ratio_says_and_they_say_so() {
        let drawn = |ratio| {
            let mut state = 1u128;
            let mut random = || {
                state = state
                    .wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645)
                    .wrapping_add(7);
                state ^ (state >> 64)
            };
            let drawn = (0..10_000).filter_map(|_| TraceContext::sampled(ratio, &mut random));
            drawn.inspect(|trace| assert!(trace.is_sampled())).count()
        };
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        let tenth = drawn(0.1);
        assert!((800..1_200).contains(&tenth), "{tenth}");
        let context = TraceContext::sampled(1.0, || u128::MAX).unwrap();
        assert!(context.header().to_str().unwrap().ends_with("-03"));
    }

    #[test]
    fn a_trace_that_begins_here_has_ids_and_is_not_sampled() {
        let mut drawn = [7, 9].into_iter();
        let context = TraceContext::of(None, || drawn.next().unwrap());
        let expected = format!("00-{:032x}-{:016x}-02", 7, 9);
        assert_eq!(context.header(), expected);
        assert!(!context.is_sampled() && context.parent_id().is_none());
        let context = TraceContext::of(None, || 0);
        assert!(parse(context.header().as_bytes()).is_some(), "{context:?}");
        // The upper half alone is no span.
        let context = TraceContext::of(None, || 1 << 64);
        assert!(parse(context.header().as_bytes()).is_some(), "{context:?}");
    }

    proptest! {
        #[test]
        fn whatever_comes_what_goes_is_valid(header in prop::collection::vec(32u8..127, 0..80), random: u128) {
            let value = HeaderValue::from_bytes(&header).unwrap();
            let context = TraceContext::of(Some(&value), || random);
            let again = TraceContext::of(Some(&context.header()), || random);
            prop_assert_eq!(again.trace_id(), context.trace_id());
            prop_assert_eq!(again.parent_id(), Some(context.span_id()));
            prop_assert_eq!(again.is_sampled(), context.is_sampled());
        }

        #[test]
        fn one_changed_byte_is_refused_or_read_as_it_stands(at in 0usize..55, byte in 32u8..127) {
            let mut header = format!("00-{TRACE}-{SPAN}-01").into_bytes();
            header[at] = byte;
            let digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let dash = [2, 35, 52].contains(&at);
            // A later version of the same length, and ff, which is none, cannot come of one byte.
            prop_assert_eq!(parse(&header).is_some(), if dash { byte == b'-' } else { digit });
        }
    }
}
