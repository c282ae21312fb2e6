//! What a valid request must be answered with, after RFC 9110.

use crate::strict::{Request, Verdict};

/// The statuses one of which is right, or `None` where more than the RFC decides.
pub(crate) fn expected(request: &Request, objects: &[(String, usize)]) -> Option<Vec<u16>> {
    let is_plain = request.head == Verdict::Valid && request.body == Verdict::Valid;
    let hosts: Vec<&[u8]> = request.values("host").collect();
    let is_here = hosts
        .iter()
        .all(|host| host.eq_ignore_ascii_case(b"localhost"));
    let is_read = request.content.is_empty()
        && [
            "content-encoding",
            "content-length",
            "transfer-encoding",
            "origin",
            "x",
        ]
        .iter()
        .all(|name| request.values(name).next().is_none());
    let target = std::str::from_utf8(&request.target).ok()?;
    if !is_plain || !is_here || hosts.is_empty() {
        return None;
    }
    match (request.method.as_slice(), target) {
        (b"GET" | b"HEAD", "/healthz" | "/livez" | "/metrics" | "/version") if is_read => {
            Some(vec![200])
        }
        (b"PUT" | b"POST", "/put") => {
            let names = [
                "content-encoding",
                "origin",
                "x",
                "if-match",
                "content-range",
            ];
            let is_simple = names
                .iter()
                .all(|name| request.values(name).next().is_none());
            is_simple.then(|| vec![201, 408, 503, 507])
        }
        (method @ (b"GET" | b"HEAD"), target) if is_read => {
            let addr = target.strip_prefix("/o/")?;
            let (addr, length) = objects.iter().find(|(known, _)| known == addr)?;
            read(request, &format!("\"{addr}\""), *length, method == b"GET")
        }
        _ => None,
    }
}

/// Section 13.2.2, of what has a tag and no date.
fn read(request: &Request, tag: &str, length: usize, is_get: bool) -> Option<Vec<u16>> {
    if let Some(matches) = any(request, "if-match", |listed| listed == tag)? {
        if !matches {
            return Some(vec![412]);
        }
    }
    let weakly = |listed: &str| listed.strip_prefix("W/").unwrap_or(listed) == tag;
    if let Some(true) = any(request, "if-none-match", weakly)? {
        return Some(vec![304]);
    }
    let ranges: Vec<&[u8]> = request.values("range").collect();
    let conditions: Vec<&[u8]> = request.values("if-range").collect();
    let range = match (&ranges[..], &conditions[..]) {
        _ if !is_get => return Some(vec![200]),
        ([], _) => return Some(vec![200]),
        ([range], []) => range,
        ([range], [condition]) if *condition == tag.as_bytes() => range,
        (_, [condition]) if condition.starts_with(b"W/") => return Some(vec![200]),
        _ => return None,
    };
    let range = std::str::from_utf8(range).ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Larger than any object is as good as any other number.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let satisfied = match (is_number(first), is_number(last)) {
        (true, true) if number(first) > number(last) => return None,
        (true, true) => number(first) < length as u64,
        (true, false) if last.is_empty() => number(first) < length as u64,
        // Of nothing, no range can be told.
        (false, true) if first.is_empty() && length == 0 => return Some(vec![200, 416]),
        (false, true) if first.is_empty() => number(last) > 0,
        _ => return None,
    };
    Some(vec![if satisfied { 206 } else { 416 }])
}

/// Whether one of the tags of a field is so; `Some(None)` without the field, `None` where its form is none.
fn any(request: &Request, name: &str, is_so: impl Fn(&str) -> bool) -> Option<Option<bool>> {
    let lines: Vec<&[u8]> = request.values(name).collect();
    if lines.is_empty() {
        return Some(None);
    }
    if lines[..] == [b"*"] {
        return Some(Some(true));
    }
    let mut found = false;
    for line in lines {
        let mut rest = std::str::from_utf8(line).ok()?;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let opening = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
            let closing = opening.find('"')?;
            let length = rest.len() - opening.len() + closing + 1;
            found |= is_so(&rest[..length]);
            rest = rest[length..].trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
    }
    Some(Some(found))
}
