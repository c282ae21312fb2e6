//! Help, completions, the manual page.

use crate::fake::Run;

const COMMANDS: [&str; 18] = [
    "ps",
    "tree",
    "explain",
    "top",
    "tail",
    "changes",
    "bus",
    "config",
    "drain",
    "restart",
    "stop",
    "start",
    "release",
    "log",
    "chaos",
    "cap",
    "completions",
    "man",
];
const BELOW: [&str; 12] = [
    "print",
    "check",
    "reload",
    "inject",
    "list",
    "clear",
    "explain",
    "mint",
    "attenuate",
    "inspect",
    "revoke",
    "rotate",
];

#[track_caller]
fn mentions(text: &str, words: &[&str]) {
    let known: Vec<&str> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .collect();
    for word in words {
        assert!(known.contains(word), "{word} is missing in {text}");
    }
}

#[test]
fn help_names_every_command_every_exit_code_and_examples() {
    let run = Run::new();
    let help = run.ronctl("--help").good();
    mentions(&help, &COMMANDS);
    for word in [
        "Exit codes: 0 done; 1 failed",
        "2 usage",
        "3 unreachable",
        "4 refused",
        "Examples:",
        "RON_RUN_DIR",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(run.ronctl("--version").good().starts_with("ronctl "));
}

#[test]
fn no_line_of_any_help_is_wider_than_a_small_terminal() {
    let run = Run::new();
    let mut lines: Vec<String> = COMMANDS.iter().map(|name| (*name).to_owned()).collect();
    lines.extend(
        [
            "config explain",
            "config print",
            "config check",
            "config reload",
        ]
        .map(str::to_owned),
    );
    lines.extend(
        ["mint", "attenuate", "inspect", "revoke", "rotate"].map(|name| format!("cap {name}")),
    );
    lines.extend(["chaos inject", "chaos list", "chaos clear", ""].map(str::to_owned));
    for line in lines {
        for help in ["-h", "--help"] {
            let text = run.ronctl(&format!("{line} {help}")).good();
            let wide = text.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{line} {help}");
        }
    }
}

#[test]
fn completions_and_the_manual_page_mention_every_command() {
    let run = Run::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = run.ronctl(&format!("completions {shell}")).good();
        mentions(&text, &COMMANDS);
        mentions(&text, &BELOW);
    }
    let page = run.ronctl("man").good();
    assert!(page.contains(".TH ronctl 1"), "{page}");
    mentions(&page, &COMMANDS);
    mentions(&page, &BELOW);
    mentions(&page, &["RON_RUN_DIR", "unreachable"]);
    assert!(
        page.contains(".SH \"RONCTL CHAOS INJECT\"") && page.contains("\\-\\-fault"),
        "{page}"
    );
}
