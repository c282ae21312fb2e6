//! Markdown as far as the checks need it: headings, links, tables, and what stands in code.

/// A piece of code in a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Code<'a> {
    pub(crate) line: usize,
    pub(crate) text: &'a str,
    /// The word behind the opening fence; `None` for a span inside a line.
    pub(crate) language: Option<&'a str>,
}

/// A link or image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    pub(crate) line: usize,
    pub(crate) target: &'a str,
}

/// A line with its number, and the language of the fenced block it stands in.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, Option<&str>)> {
    let mut fence: Option<(&str, &str)> = None;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let bare = line.trim_start();
        let mark = ["```", "~~~"]
            .into_iter()
            .find(|mark| bare.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => {
                let language = bare.trim_start_matches(['`', '~']).trim();
                fence = Some((mark, language));
                None
            }
            (Some((open, _)), Some(mark)) if open == mark && bare.trim_end().len() == 3 => {
                fence = None;
                None
            }
            (open, _) => Some((at + 1, line, open.map(|(_, language)| language))),
        }
    })
}

/// Code spans of one line.
fn spans(line: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut rest = line;
    while let Some(open) = rest.find('`') {
        let ticks = rest[open..].chars().take_while(|c| *c == '`').count();
        let body = &rest[open + ticks..];
        let fence = "`".repeat(ticks);
        let Some(close) = body.find(&fence) else {
            break;
        };
        spans.push(body[..close].trim());
        rest = &body[close + ticks..];
    }
    spans
}

/// Lines of fenced blocks and spans of prose, in order.
pub(crate) fn code(text: &str) -> Vec<Code<'_>> {
    let mut found = Vec::new();
    for (line, content, language) in lines(text) {
        if language.is_some() {
            found.push(Code {
                line,
                text: content,
                language,
            });
        } else {
            found.extend(spans(content).into_iter().map(|text| Code {
                line,
                text,
                language: None,
            }));
        }
    }
    found
}

/// Anchors of the headings, as hosting sites make them.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line, language) in lines(text) {
        let level = line.chars().take_while(|c| *c == '#').count();
        if language.is_some() || !(1..=6).contains(&level) || !line[level..].starts_with(' ') {
            continue;
        }
        let plain: String = line[level..]
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let earlier = anchors
            .iter()
            .filter(|anchor| {
                **anchor == plain
                    || anchor
                        .strip_prefix(&format!("{plain}-"))
                        .is_some_and(|tail| tail.parse::<u32>().is_ok())
            })
            .count();
        anchors.push(match earlier {
            0 => plain,
            n => format!("{plain}-{n}"),
        });
    }
    anchors
}

/// Inline links and reference definitions outside of code.
pub(crate) fn links(text: &str) -> Vec<Link<'_>> {
    let mut links = Vec::new();
    for (line, content, language) in lines(text) {
        if language.is_some() {
            continue;
        }
        if let Some((_, target)) = content
            .trim_start()
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        {
            let target = target.split_whitespace().next().unwrap_or_default();
            links.push(Link { line, target });
            continue;
        }
        let mut at = 0;
        while let Some(found) = content[at..].find("](") {
            let begin = at + found + 2;
            let in_code = content[..begin].matches('`').count() % 2 == 1;
            let Some(length) = content[begin..].find(')') else {
                break;
            };
            if !in_code {
                let target = content[begin..begin + length].split_whitespace().next();
                links.push(Link {
                    line,
                    target: target.unwrap_or_default(),
                });
            }
            at = begin + length;
        }
    }
    links
}

/// The cells of table rows outside of code, with line numbers; the ruler between head and body is left out.
pub(crate) fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
    lines(text)
        .filter(|(_, line, language)| language.is_none() && line.trim_start().starts_with('|'))
        .map(|(number, line, _)| (number, cells(line)))
        .filter(|(_, cells)| {
            !cells
                .iter()
                .all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':')))
        })
        .collect()
}

/// Cells of one row; `\|` is a bar inside a cell.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim();
    let line = line.strip_prefix('|').unwrap_or(line);
    let mut cells = vec![String::new()];
    let mut chars = line.chars().peekable();
    while let Some(here) = chars.next() {
        match here {
            '\\' if chars.peek() == Some(&'|') => {
                chars.next();
                cells.last_mut().into_iter().for_each(|cell| cell.push('|'));
            }
            '|' => cells.push(String::new()),
            other => cells
                .last_mut()
                .into_iter()
                .for_each(|cell| cell.push(other)),
        }
    }
    if cells.last().is_some_and(|cell| cell.trim().is_empty()) {
        cells.pop();
    }
    cells
        .into_iter()
        .map(|cell| cell.trim().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_anchors() {
        let text =
            "# Exit codes & `bind error`\n## Same\n## Same\n```sh\n# a comment\n```\n#hashtag\n";
        assert_eq!(anchors(text), ["exit-codes--bind-error", "same", "same-1"]);
    }

    #[test]
    fn code_is_spans_and_blocks() {
        let text = "see `a` and ``b ` c``\n```console\n$ run --x\n```\nprose\n";
        let seen: Vec<(usize, &str, Option<&str>)> = code(text)
            .into_iter()
            .map(|code| (code.line, code.text, code.language))
            .collect();
        assert_eq!(
            seen,
            [
                (1, "a", None),
                (1, "b ` c", None),
                (3, "$ run --x", Some("console"))
            ]
        );
    }

    #[test]
    fn links_outside_of_code() {
        let text = "[a](x.md) ![i](y.png \"title\") `[no](z.md)` [b](#top)\n[ref]: w.md\n```\n[no](v.md)\n```\n";
        let targets: Vec<&str> = links(text).into_iter().map(|link| link.target).collect();
        assert_eq!(targets, ["x.md", "y.png", "#top", "w.md"]);
    }

    #[test]
    fn rows_keep_escaped_bars_and_empty_cells() {
        let text = "| id | what |\n|---|:--|\n| K-01 | `a \\| b` |\n| K-02 | |\n";
        let seen: Vec<Vec<String>> = rows(text).into_iter().map(|(_, cells)| cells).collect();
        let expected: Vec<Vec<&str>> = vec![
            vec!["id", "what"],
            vec!["K-01", "`a | b`"],
            vec!["K-02", ""],
        ];
        assert_eq!(seen, expected);
    }
}
