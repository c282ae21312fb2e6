//! Rust source as tokens: enough to see modules, tests and string literals, with comments gone.

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier, keyword or number.
    Word(String),
    /// The text of a string literal; simple escapes are resolved, others kept as written.
    Literal(String),
    /// Any other visible character.
    Mark(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(found) if found == word)
    }

    fn is_mark(&self, mark: char) -> bool {
        *self == Token::Mark(mark)
    }
}

/// A `mod name;`, with the inline modules around it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// From `#[path = ".."]`.
    pub(crate) path: Option<String>,
    pub(crate) inside: Vec<String>,
}

/// How a function stands to `cargo test`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// It runs.
    Runs,
    /// It carries `#[ignore]`.
    Ignored,
    /// There is no function of that name with a test attribute.
    Missing,
}

/// The tokens of `source`.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&here) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        if here == '/' && next == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if here == '/' && next == '*' {
            at = after_block_comment(&chars, at);
        } else if here == '"' {
            let (text, end) = quoted(&chars, at + 1);
            tokens.push(Token::Literal(text));
            at = end;
        } else if here == '\'' {
            at = after_char_or_lifetime(&chars, at);
        } else if here == '_' || here.is_alphanumeric() {
            let begin = at;
            while at < chars.len() && (chars[at] == '_' || chars[at].is_alphanumeric()) {
                at += 1;
            }
            let word: String = chars[begin..at].iter().collect();
            match raw_string(&chars, &word, at) {
                Some((text, end)) => {
                    tokens.push(Token::Literal(text));
                    at = end;
                }
                None => tokens.push(Token::Word(word)),
            }
        } else {
            if !here.is_whitespace() {
                tokens.push(Token::Mark(here));
            }
            at += 1;
        }
    }
    tokens
}

/// Block comments nest in Rust.
fn after_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// The text up to the closing quote and the place after it.
fn quoted(chars: &[char], mut at: usize) -> (String, usize) {
    let mut text = String::new();
    while at < chars.len() && chars[at] != '"' {
        if chars[at] == '\\' {
            at += 1;
            match chars.get(at) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(&escaped @ ('"' | '\\' | '\'')) => text.push(escaped),
                Some('\n') => {
                    while chars.get(at + 1).is_some_and(|c| c.is_whitespace()) {
                        at += 1;
                    }
                }
                Some(&other) => text.extend(['\\', other]),
                None => {}
            }
        } else {
            text.push(chars[at]);
        }
        at += 1;
    }
    (text, at + 1)
}

/// `r"..."`, `r#"..."#` and their byte and C forms, where `word` is the prefix that ends at `at`.
fn raw_string(chars: &[char], word: &str, mut at: usize) -> Option<(String, usize)> {
    if !["r", "br", "cr"].contains(&word) {
        return None;
    }
    let mut fence = 0;
    while chars.get(at) == Some(&'#') {
        fence += 1;
        at += 1;
    }
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    let begin = at;
    while at < chars.len() {
        let closed =
            chars[at] == '"' && (1..=fence).all(|ahead| chars.get(at + ahead) == Some(&'#'));
        if closed {
            return Some((chars[begin..at].iter().collect(), at + 1 + fence));
        }
        at += 1;
    }
    Some((chars[begin..].iter().collect(), at))
}

fn after_char_or_lifetime(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        // 'x' after a backslash may itself be a quote, so the search for the end starts behind it.
        let mut end = at + 3;
        while end < chars.len() && chars[end] != '\'' {
            end += 1;
        }
        end + 1
    } else if chars.get(at + 2) == Some(&'\'') {
        at + 3
    } else {
        at + 1
    }
}

/// The string literals among `tokens`.
pub(crate) fn literals(tokens: &[Token]) -> impl Iterator<Item = &str> {
    tokens.iter().filter_map(|token| match token {
        Token::Literal(text) => Some(text.as_str()),
        _ => None,
    })
}

/// The modules that `tokens` declare in files of their own.
pub(crate) fn modules(tokens: &[Token]) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut path = None;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => {
                depth -= 1;
                inline.retain(|(_, opened)| *opened <= depth);
            }
            Token::Mark(';') => path = None,
            Token::Literal(text)
                if at >= 2 && tokens[at - 1].is_mark('=') && tokens[at - 2].is("path") =>
            {
                path = Some(text.clone());
            }
            word if word.is("mod") => {
                let (Some(Token::Word(name)), Some(Token::Mark(mark))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                else {
                    continue;
                };
                match mark {
                    ';' => modules.push(Module {
                        name: name.clone(),
                        path: path.take(),
                        inside: inline.iter().map(|(name, _)| name.clone()).collect(),
                    }),
                    '{' => inline.push((name.clone(), depth + 1)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    modules
}

/// The files that `tokens` name in `include!`, `include_str!` and `include_bytes!`.
pub(crate) fn includes(tokens: &[Token]) -> Vec<&str> {
    tokens
        .windows(4)
        .filter_map(|window| match window {
            [Token::Word(word), Token::Mark('!'), Token::Mark('('), Token::Literal(text)]
                if word.starts_with("include") =>
            {
                Some(text.as_str())
            }
            _ => None,
        })
        .collect()
}

/// Whether `tokens` hold a test function `name`.
pub(crate) fn test(tokens: &[Token], name: &str) -> Test {
    let mut found = Test::Missing;
    for at in 1..tokens.len() {
        if !(tokens[at].is(name) && tokens[at - 1].is("fn")) {
            continue;
        }
        let begin = tokens[..at]
            .iter()
            .rposition(|token| matches!(token, Token::Mark('{' | '}' | ';')))
            .map_or(0, |mark| mark + 1);
        let before = &tokens[begin..at];
        if before.iter().any(|token| token.is("ignore")) {
            found = Test::Ignored;
        } else if before.iter().any(|token| token.is("test")) {
            return Test::Runs;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_survive_and_comments_do_not() {
        let source = r####"
            // "in a comment"
            /* outer /* "nested" */ "still a comment" */
            let a = "plain \"quoted\""; let b = r#"raw "x""#; let c = b"bytes";
            let quote = '"'; let escaped = '\''; fn f<'a>(x: &'a str) -> &'a str { "after a lifetime" }
            let joined = "one \
                two";
        "####;
        assert_eq!(
            literals(&tokens(source)).collect::<Vec<_>>(),
            [
                "plain \"quoted\"",
                "raw \"x\"",
                "bytes",
                "after a lifetime",
                "one two"
            ]
        );
    }

    #[test]
    fn modules_know_their_path_and_their_surroundings() {
        let source = r#"
            mod plain; // mod commented;
            #[cfg(loom)] pub(crate) mod gated;
            #[path = "elsewhere.rs"] mod moved;
            mod outer { fn f() {} mod inner; }
            mod last;
            const TEXT: &str = "mod quoted;";
        "#;
        let seen: Vec<(String, Option<String>, Vec<String>)> = modules(&tokens(source))
            .into_iter()
            .map(|module| (module.name, module.path, module.inside))
            .collect();
        let row = |name: &str, path: Option<&str>, inside: &[&str]| {
            (
                name.to_string(),
                path.map(str::to_string),
                inside.iter().map(|name| (*name).to_string()).collect(),
            )
        };
        assert_eq!(
            seen,
            [
                row("plain", None, &[]),
                row("gated", None, &[]),
                row("moved", Some("elsewhere.rs"), &[]),
                row("inner", None, &["outer"]),
                row("last", None, &[]),
            ]
        );
    }

    #[test]
    fn a_test_runs_is_ignored_or_is_not_there() {
        let source = r#"
            #[test] fn plain() {}
            #[tokio::test(start_paused = true)] async fn paused() {}
            proptest! { #![proptest_config(x())] #[test] fn property(a in 0..3) {} }
            #[test] #[ignore = "slow"] fn slow() {}
            fn helper() {}
            // #[test] fn commented() {}
        "#;
        let tokens = tokens(source);
        for (name, expected) in [
            ("plain", Test::Runs),
            ("paused", Test::Runs),
            ("property", Test::Runs),
            ("slow", Test::Ignored),
            ("helper", Test::Missing),
            ("commented", Test::Missing),
        ] {
            assert_eq!(test(&tokens, name), expected, "{name}");
        }
    }

    #[test]
    fn includes_are_found() {
        let source = r#"const A: &str = include_str!("a.txt"); include!("b.rs");"#;
        assert_eq!(includes(&tokens(source)), ["a.txt", "b.rs"]);
    }
}
