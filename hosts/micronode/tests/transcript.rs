//! README's transcripts, typed into a shell. In what they show, `…` stands for anything.

#[path = "http/rig.rs"]
#[allow(dead_code)]
mod rig;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rig::Node;

const README: &str = include_str!("../../../README.md");
/// Between the outputs of two commands.
const MARK: &str = "--- next ---";

/// The `console` blocks of README that follow this comment.
fn transcripts() -> Vec<Vec<(&'static str, String)>> {
    let mut blocks = README.split("<!-- transcript: micronode -->\n```console\n");
    blocks.next();
    let steps = |block: &'static str| {
        let mut steps: Vec<(&str, String)> = Vec::new();
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command, String::new())),
                (None, Some((_, output))) => output.push_str(&format!("{line}\n")),
                (None, None) => panic!("no command before {line:?}"),
            }
        }
        steps
    };
    blocks.map(steps).collect()
}

fn matches(expected: &str, seen: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = seen.strip_prefix(parts.next().unwrap()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        last = Some((part, rest));
        rest = &rest[at + part.len()..];
    }
    // The last part is at the end, wherever else it occurs.
    rest.is_empty() || last.is_some_and(|(part, rest)| rest.ends_with(part))
}

/// Types `commands` into a shell in `dir`, with `ronctl` as the node's own and the node's address in place of the port.
fn typed(dir: &Path, node: Option<&Node>, commands: &[&str]) -> Vec<String> {
    let mut script = String::new();
    for command in commands {
        script.push_str(&format!("{command}\necho '{MARK}'\n"));
    }
    if let Some(node) = node {
        script = script.replace("127.0.0.1:8080", &node.addr.to_string());
    }
    let ronctl = format!(
        "ronctl() {{ {} ctl \"$@\"; }}\n",
        env!("CARGO_BIN_EXE_micronode")
    );
    let mut shell = Command::new("bash");
    shell
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all((ronctl + &script).as_bytes()).unwrap();
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mark = format!("{MARK}\n");
    let mut outputs: Vec<String> = text.split(&mark).map(str::to_owned).collect();
    outputs.truncate(commands.len());
    outputs
}

#[test]
fn what_readme_shows_is_what_happens() {
    if Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let transcripts = transcripts();
    assert_eq!(transcripts.len(), 2);
    for steps in transcripts {
        let dir = tempfile::tempdir().unwrap();
        let mut node = None;
        let mut outputs = Vec::new();
        let mut typing = Vec::new();
        for (command, _) in &steps {
            let Some(start) = command.strip_prefix("cargo run -p micronode -- ") else {
                typing.push(*command);
                continue;
            };
            outputs = typed(dir.path(), None, &typing);
            outputs.push(String::new());
            typing.clear();
            let absolute = |word: &str| match word {
                "&" => None,
                path if path.starts_with("./configs/") => Some(root.join(path)),
                path if path.ends_with(".toml") => Some(dir.path().join(path)),
                word => Some(word.into()),
            };
            let args: Vec<_> = start.split(' ').filter_map(absolute).collect();
            let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
            node = Some(Node::start_with(&args));
        }
        outputs.extend(typed(dir.path(), node.as_ref(), &typing));
        assert_eq!(outputs.len(), steps.len());
        for ((command, expected), seen) in steps.iter().zip(outputs) {
            // Not every answer ends its line.
            assert!(
                matches(expected.trim_end(), seen.trim_end()),
                "$ {command}\n{seen}instead of\n{expected}"
            );
        }
    }
}

#[test]
fn an_ellipsis_stands_for_anything() {
    for (expected, seen, is_match) in [
        ("a\n", "a\n", true),
        ("a\n", "b\n", false),
        ("a\n", "a\nb\n", false),
        ("{\"id\":\"…\"}\n", "{\"id\":\"17\"}\n", true),
        ("{\"id\":\"…\"}\n", "{\"no\":\"17\"}\n", false),
        ("…1\n", "21 1\n", true),
        ("…1\n", "21 2\n", false),
        ("", "", true),
        ("", "x\n", false),
    ] {
        assert_eq!(matches(expected, seen), is_match, "{expected:?} {seen:?}");
    }
}
