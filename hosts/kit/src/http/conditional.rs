//! Conditional requests of RFC 9110, section 13, by entity tags; hosts send no modification dates.

use std::fmt;

use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};

/// A strong entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag(String);

/// What the preconditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The representation is to be sent.
    Send,
    /// The client has it: 304.
    NotModified,
    /// It is not the one the client means: 412.
    Failed,
}

impl EntityTag {
    /// Of visible characters without a quotation mark; others are left out.
    pub fn new(opaque: &str) -> Self {
        let mut tag = String::with_capacity(opaque.len());
        tag.extend(opaque.chars().filter(|c| c.is_ascii_graphic() && *c != '"'));
        Self(tag)
    }

    /// `If-Match`, then `If-None-Match`, against this tag, in the order of section 13.2.2.
    pub fn precondition(&self, headers: &HeaderMap) -> Precondition {
        if let Some(tags) = Tags::of(headers, IF_MATCH) {
            if !tags.any(|tag| tag.is_strong && tag.opaque == self.0) {
                return Precondition::Failed;
            }
        }
        match Tags::of(headers, IF_NONE_MATCH) {
            Some(tags) if tags.any(|tag| tag.opaque == self.0) => Precondition::NotModified,
            _ => Precondition::Send,
        }
    }

    /// Whether a range may be sent: there is no `If-Range`, or it has this tag. A date never does.
    pub fn allows_range(&self, headers: &HeaderMap) -> bool {
        match Tags::of(headers, IF_RANGE) {
            None => true,
            Some(Tags::Any) => false,
            Some(Tags::List(tags)) => {
                matches!(&*tags, [only] if only.is_strong && only.opaque == self.0)
            }
        }
    }
}

/// As in the header.
impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

enum Tags {
    /// `*`
    Any,
    List(Vec<Tag>),
}

struct Tag {
    is_strong: bool,
    opaque: String,
}

impl Tags {
    /// `None` without the header. What is no tag ends the list.
    fn of(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let mut tags = Vec::new();
        let mut is_there = false;
        for value in headers.get_all(name) {
            is_there = true;
            let text = String::from_utf8_lossy(value.as_bytes());
            if text.trim() == "*" {
                return Some(Self::Any);
            }
            read(&text, &mut tags);
        }
        is_there.then_some(Self::List(tags))
    }

    fn any(&self, matches: impl Fn(&Tag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(matches),
        }
    }
}

fn read(mut text: &str, tags: &mut Vec<Tag>) {
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        let (is_strong, rest) = match text.strip_prefix("W/") {
            Some(rest) => (false, rest),
            None => (true, text),
        };
        let Some((opaque, rest)) = rest.strip_prefix('"').and_then(|r| r.split_once('"')) else {
            return;
        };
        tags.push(Tag {
            is_strong,
            opaque: opaque.to_owned(),
        });
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn preconditions_compare_tags_as_rfc_9110_says() {
        use Precondition::{Failed, NotModified, Send};
        let tag = EntityTag::new("xyzzy");
        let cases: &[(&[(HeaderName, &str)], Precondition)] = &[
            (&[], Send),
            (&[(IF_NONE_MATCH, "\"xyzzy\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"xyzzy\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"a\", \"xyzzy\", \"c\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"a,b\",W/\"xyzzy\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (
                &[(IF_NONE_MATCH, "\"a\""), (IF_NONE_MATCH, "\"xyzzy\"")],
                NotModified,
            ),
            (&[(IF_NONE_MATCH, "\"other\"")], Send),
            (&[(IF_NONE_MATCH, "xyzzy")], Send),
            (&[(IF_NONE_MATCH, "\"xyzzy")], Send),
            (&[(IF_NONE_MATCH, "")], Send),
            (&[(IF_MATCH, "\"xyzzy\"")], Send),
            (&[(IF_MATCH, "*")], Send),
            (&[(IF_MATCH, "W/\"xyzzy\"")], Failed),
            (&[(IF_MATCH, "\"other\"")], Failed),
            (&[(IF_MATCH, "\"other\""), (IF_NONE_MATCH, "*")], Failed),
            (
                &[(IF_MATCH, "\"xyzzy\""), (IF_NONE_MATCH, "*")],
                NotModified,
            ),
        ];
        for (pairs, expected) in cases {
            assert_eq!(tag.precondition(&headers(pairs)), *expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_range_is_for_the_representation_the_client_has() {
        let tag = EntityTag::new("xyzzy");
        let cases = [
            ("\"xyzzy\"", true),
            ("W/\"xyzzy\"", false),
            ("\"other\"", false),
            ("\"xyzzy\", \"other\"", false),
            ("*", false),
            ("Wed, 21 Oct 2015 07:28:00 GMT", false),
        ];
        assert!(tag.allows_range(&HeaderMap::new()));
        for (value, allowed) in cases {
            assert_eq!(
                tag.allows_range(&headers(&[(IF_RANGE, value)])),
                allowed,
                "{value}"
            );
        }
    }

    #[test]
    fn a_tag_shows_as_its_header_does() {
        assert_eq!(EntityTag::new("b3:00").to_string(), "\"b3:00\"");
        assert_eq!(EntityTag::new("a\"b\r\n").to_string(), "\"ab\"");
    }
}
