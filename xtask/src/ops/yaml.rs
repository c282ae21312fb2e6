//! The part of YAML that our manifests keep to, and an error for all the rest: block mappings and sequences, literal
//! blocks, bare and double-quoted scalars, lists in brackets as in JSON, comments.

use serde_json::{Map, Value};

/// The documents of a stream. An error names its line.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let lines: Vec<String> = text.lines().map(str::to_string).collect();
    let mut documents = Vec::new();
    let mut begin = 0;
    for end in 0..=lines.len() {
        if end == lines.len() || lines[end].trim_end() == "---" {
            let mut parser = Parser {
                lines: lines[..end].to_vec(),
                at: begin,
            };
            if let Some(first) = parser.peek()? {
                documents.push(parser.block(first.indent)?);
                if let Some(rest) = parser.peek()? {
                    return Err(rest.wrong("is indented less than what is before it"));
                }
            }
            begin = end + 1;
        }
    }
    Ok(documents)
}

struct Parser {
    lines: Vec<String>,
    at: usize,
}

/// A line that holds something, without its comment.
struct Line {
    number: usize,
    indent: usize,
    text: String,
}

impl Line {
    fn wrong(&self, what: &str) -> String {
        format!("line {}: `{}` {what}", self.number, self.text)
    }

    fn is_item(&self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }
}

impl Parser {
    /// The next line that holds something; `at` is there then.
    fn peek(&mut self) -> Result<Option<Line>, String> {
        while let Some(raw) = self.lines.get(self.at) {
            let text = without_comment(raw).trim_end();
            let number = self.at + 1;
            if text.contains('\t') {
                return Err(format!("line {number}: a tab"));
            }
            let text = text.trim_start();
            if !text.is_empty() {
                let indent = indent(raw);
                let text = text.to_string();
                return Ok(Some(Line {
                    number,
                    indent,
                    text,
                }));
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn block(&mut self, indent: usize) -> Result<Value, String> {
        match self.peek()? {
            Some(line) if line.is_item() => self.sequence(indent),
            _ => self.mapping(indent),
        }
    }

    fn sequence(&mut self, indent: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some(line) = self.peek()? {
            if line.indent != indent || !line.is_item() {
                break;
            }
            let rest = line.text[1..].trim_start();
            if rest.is_empty() {
                return Err(line.wrong("is an item with nothing on its line"));
            }
            if key(rest).is_some() {
                // The item is a mapping that begins behind the dash.
                self.lines[self.at].replace_range(indent..=indent, " ");
                let inner = self::indent(&self.lines[self.at]);
                items.push(self.mapping(inner)?);
            } else {
                items.push(scalar(rest).map_err(|what| line.wrong(what))?);
                self.at += 1;
            }
        }
        Ok(Value::Array(items))
    }

    fn mapping(&mut self, indent: usize) -> Result<Value, String> {
        let mut entries = Map::new();
        while let Some(line) = self.peek()? {
            if line.indent < indent || line.indent == indent && line.is_item() {
                break;
            }
            if line.indent > indent {
                return Err(line.wrong("is indented more than what is before it"));
            }
            let (name, rest) = key(&line.text).ok_or_else(|| line.wrong("has no key"))?;
            self.at += 1;
            let value = match rest {
                "" => match self.peek()? {
                    Some(next) if next.indent > indent => self.block(next.indent)?,
                    Some(next) if next.indent == indent && next.is_item() => {
                        self.sequence(indent)?
                    }
                    _ => return Err(line.wrong("has no value")),
                },
                "|" => Value::String(self.literal(indent)),
                rest => scalar(rest).map_err(|what| line.wrong(what))?,
            };
            if entries.insert(name.to_string(), value).is_some() {
                return Err(line.wrong("is there twice"));
            }
        }
        Ok(Value::Object(entries))
    }

    /// The lines that are indented more than `outer`.
    fn literal(&mut self, outer: usize) -> String {
        let mut text = String::new();
        let mut inner = None;
        while let Some(raw) = self.lines.get(self.at) {
            if !raw.trim().is_empty() {
                if indent(raw) <= outer {
                    break;
                }
                inner.get_or_insert(indent(raw));
            }
            text.push_str(raw.get(inner.unwrap_or(0)..).unwrap_or_default());
            text.push('\n');
            self.at += 1;
        }
        text.trim_end().to_string() + "\n"
    }
}

fn indent(raw: &str) -> usize {
    raw.len() - raw.trim_start_matches(' ').len()
}

fn without_comment(raw: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in raw.char_indices() {
        match c {
            '"' if before != '\\' => quoted = !quoted,
            '#' if !quoted && before == ' ' => return &raw[..at],
            _ => {}
        }
        before = c;
    }
    raw
}

/// The key of a line and what stands behind its colon.
fn key(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
    if name.is_empty() || !name.chars().all(plain) || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    Some((name, rest.trim()))
}

fn scalar(text: &str) -> Result<Value, &'static str> {
    if text.starts_with(['"', '[']) {
        return serde_json::from_str(text).map_err(|_| "is no JSON string or list");
    }
    if text.starts_with(|c: char| "'{}]&*!|>%@`?".contains(c)) || text.contains(": ") {
        return Err("is YAML that is not read here; put it in double quotes or spell it out");
    }
    Ok(match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" | "~" => Value::Null,
        text => text
            .parse::<i64>()
            .map_or_else(|_| Value::String(text.to_string()), Value::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_manifests_are_made_of_is_read() {
        let text = "# head\na: 1 # tail\n\nb:\n  - x: \"1 # no\"\n    y: [\"p\", \"q\"]\n  - z:\n      u: true\n\
                    c:\n- 50m\n- w/x:1\nd: |\n  one # kept\n\n    two\ne: end\n---\n# nothing\n---\nf: null\n";
        let first = json!({
            "a": 1,
            "b": [{"x": "1 # no", "y": ["p", "q"]}, {"z": {"u": true}}],
            "c": ["50m", "w/x:1"],
            "d": "one # kept\n\n  two\n",
            "e": "end",
        });
        assert_eq!(documents(text), Ok(vec![first, json!({"f": null})]));
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_line() {
        for (text, expected) in [
            ("a: 1\n   b: 2\n", "line 2: `b: 2` is indented more"),
            ("  a: 1\nb: 2\n", "line 2: `b: 2` is indented less"),
            ("a: 1\na: 2\n", "line 2: `a: 2` is there twice"),
            ("a:\nb: 2\n", "line 1: `a:` has no value"),
            ("a: {b: 1}\n", "line 1: `a: {b: 1}` is YAML"),
            ("a: 'b'\n", "is YAML"),
            ("a: &b c\n", "is YAML"),
            ("a: >\n  b\n", "is YAML"),
            ("a: [b]\n", "is no JSON"),
            ("a: b: c\n", "is YAML"),
            ("a:\n\t- b\n", "line 2: a tab"),
            ("a:\n  -\n    b: 1\n", "is an item with nothing"),
            ("word\n", "has no key"),
            ("a: 1\n---\nword\n", "line 3: `word` has no key"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
