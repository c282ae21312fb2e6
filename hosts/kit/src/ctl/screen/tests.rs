use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::ctl::wire;

const PIPE: usize = usize::MAX;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn read(name: &str) -> String {
    let path = golden(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn noon() -> Time {
    Time::parse("2026-11-21T12:00:05.000Z").unwrap()
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

/// What the screen of this name shows of an answer.
fn shown(screen: &str, json: &str, look: Look) -> String {
    let now = noon();
    match screen {
        "accepted" => accepted(&parsed(json), look),
        "bus" => bus(&parsed(json), look),
        "changes" => changes(&parsed(json), now, look),
        "chaos" => chaos(&parsed(json), now, look),
        "config" => config(&parsed(json), look),
        "config_key" => origin(&parsed(json), look),
        "drain_plan" => drain_plan(&parsed(json), look),
        "drain_report" => drain_report(&parsed(json), look),
        "explain" => diagnosis(&parsed(json), "ronctl", now, look),
        "explain_child" | "explain_ready" => explanation(&parsed(json), now, look),
        "fault" => injected(&parsed(json), now),
        "log" => filter(&parsed(json), now),
        "plan_check" | "plan_rejected" => plan(&parsed(json), Asked::Check, look),
        "plan_reload" => plan(&parsed(json), Asked::Reload, look),
        "tail" => json.lines().map(|text| line(&parsed(text), look)).collect(),
        "top" => {
            let before = Before {
                at: Time::parse("2026-11-21T12:00:03.000Z").unwrap(),
                cpu_ms: 82_780,
            };
            top(&parsed(json), now, Some(before), look, 23)
        }
        "tree" => tree(&parsed(json), now, look),
        other => panic!("no screen {other}"),
    }
}

const SCREENS: [&str; 17] = [
    "accepted",
    "bus",
    "changes",
    "chaos",
    "config",
    "config_key",
    "drain_plan",
    "drain_report",
    "explain",
    "explain_child",
    "explain_ready",
    "fault",
    "log",
    "plan_check",
    "plan_rejected",
    "plan_reload",
    "top",
];

fn answer(screen: &str) -> String {
    match screen {
        "tail" => read("tail.ndjson"),
        screen => read(&format!("{screen}.json")),
    }
}

fn compare(name: &str, actual: &str) {
    // RON_BLESS=1 writes what is shown now.
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(golden(name), actual).unwrap();
    }
    assert_eq!(
        actual,
        read(name),
        "{name}; RON_BLESS=1 accepts what is shown now"
    );
}

#[test]
fn every_screen_is_as_its_golden_file_says() {
    for screen in SCREENS.iter().chain(&["tail", "tree"]) {
        let text = shown(
            screen,
            &answer(screen),
            Look {
                colour: false,
                width: 80,
            },
        );
        compare(&format!("{screen}.txt"), &text);
    }
    for screen in ["explain", "tail", "top", "tree"] {
        let json = answer(screen);
        let text = shown(
            screen,
            &json,
            Look {
                colour: true,
                width: 80,
            },
        );
        compare(&format!("{screen}_colour.txt"), &text);
        let text = shown(
            screen,
            &json,
            Look {
                colour: false,
                width: PIPE,
            },
        );
        compare(&format!("{screen}_pipe.txt"), &text);
    }
}

fn rows() -> Vec<Socket<'static>> {
    let socket = |service, here| Socket {
        service,
        instance: "1a2b-19aabbccdde",
        pid: Some(6699),
        path: std::path::Path::new("/run/ron/x.1a2b-19aabbccdde.sock"),
        here,
    };
    vec![
        socket(
            "ron-kernel",
            Here::Live(Box::new(parsed(&read("about.json")))),
        ),
        socket("svc-old", Here::Dead),
        socket(
            "svc-hung",
            Here::Silent("/run/ron/svc-hung.sock: no answer within 1.5 s".to_owned()),
        ),
        socket(
            "svc-odd",
            Here::Refused("/run/ron/svc-odd.sock: is no socket".to_owned()),
        ),
    ]
}

#[test]
fn the_list_of_services_is_as_its_golden_file_says() {
    compare(
        "ps.txt",
        &ps(
            &rows(),
            Look {
                colour: false,
                width: 80,
            },
        ),
    );
    compare(
        "ps_pipe.txt",
        &ps(
            &rows(),
            Look {
                colour: false,
                width: PIPE,
            },
        ),
    );
}

/// `text` without what colours it.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('m').unwrap();
        rest = &rest[at + end + 1..];
    }
    plain + rest
}

#[test]
fn colour_changes_nothing_but_the_colour() {
    for screen in SCREENS.iter().chain(&["tail", "tree"]) {
        let json = answer(screen);
        for width in [40, 80, PIPE] {
            let with = shown(
                screen,
                &json,
                Look {
                    colour: true,
                    width,
                },
            );
            let without = shown(
                screen,
                &json,
                Look {
                    colour: false,
                    width,
                },
            );
            assert_eq!(plain(&with), without, "{screen} at {width}");
        }
    }
}

#[test]
fn what_is_redrawn_and_what_is_a_table_never_wraps_around_the_edge() {
    for screen in ["top", "tree", "explain", "bus", "changes"] {
        let json = answer(screen);
        for width in 78..200 {
            for line in shown(
                screen,
                &json,
                Look {
                    colour: false,
                    width,
                },
            )
            .lines()
            {
                let command = line
                    .trim_start()
                    .trim_start_matches("try")
                    .trim_start()
                    .starts_with("ronctl");
                assert!(
                    wide(line) <= width || command,
                    "{screen} at {width}: {line}"
                );
            }
        }
    }
}

#[test]
fn the_frame_is_never_higher_than_the_terminal_and_shows_the_unwell() {
    let mut value: Value = serde_json::from_str(&read("top.json")).unwrap();
    let well = serde_json::json!({"id": "w", "kind": "task", "state": "ready"});
    let mut children = vec![well; 200];
    children.push(
        serde_json::json!({"id": "group/sick", "kind": "task", "state": "stuck", "cause": "x"}),
    );
    value["children"] = Value::Array(children);
    let top: wire::Top = serde_json::from_value(value).unwrap();
    for height in 1..60 {
        let frame = super::top(
            &top,
            noon(),
            None,
            Look {
                colour: false,
                width: 80,
            },
            height,
        );
        assert!(frame.lines().count() <= height, "{height}: {frame}");
        if height >= 24 {
            assert!(
                frame.contains("group/sick") && frame.contains("more, 0 of them unwell"),
                "{frame}"
            );
        }
    }
}

#[test]
fn the_worst_finding_is_whole_on_the_first_screen() {
    let long = "all the words that an error may bring along with it ".repeat(9);
    for links in [0, 1, 5, 9, 40] {
        for (affected, commands) in [(0, 0), (1, 1), (90, 3)] {
            let because: Vec<Value> = (0..links)
                .map(|at| {
                    let what = if at + 1 == links { format!("the root: {long}") } else { format!("link {at}: {long}") };
                    serde_json::json!({"what": what, "since": null, "evidence": format!("record #{at}")})
                })
                .collect();
            let finding = serde_json::json!({
                "severity": "critical", "subject": "child:a", "what": long, "since": "2026-11-21T11:00:00Z",
                "because": because, "affects": vec!["child:b"; affected], "next": long,
                "try": vec!["ronctl release a"; commands],
            });
            let value = serde_json::json!({"service": "s", "verdict": long, "findings": [finding, finding]});
            let look = Look {
                colour: false,
                width: 80,
            };
            let text = diagnosis(
                &serde_json::from_value(value).unwrap(),
                "ronctl",
                noon(),
                look,
            );
            let first = text
                .lines()
                .position(|line| line.starts_with("2. "))
                .unwrap();
            assert!(first <= 24, "{links} links: {text}");
            let head: Vec<&str> = text.lines().take(first).collect();
            let head = head.join("\n");
            if links > 0 {
                assert!(head.contains("the root: all the words"), "{head}");
                assert!(head.contains(&format!("[record #{}]", links - 1)), "{head}");
            }
            if links == 5 {
                let lines = |from: &str| {
                    let (_, text) = head.split_once(from).unwrap();
                    text.split("[record").next().unwrap().lines().count()
                };
                assert!(lines("the root:") > lines("link 0:"), "{head}");
            }
            assert_eq!(head.matches("ronctl release a").count(), commands);
        }
    }
}

/// Calls `change` on a copy of `value` for every place in it, by path.
fn each_place(value: &Value, change: &mut dyn FnMut(Value)) {
    fn paths(value: &Value, path: String, all: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    paths(member, format!("{path}/{name}"), all);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    paths(item, format!("{path}/{at}"), all);
                }
            }
            _ => {}
        }
        if !path.is_empty() {
            all.push(path);
        }
    }
    let mut all = Vec::new();
    paths(value, String::new(), &mut all);
    for path in all {
        for other in [
            Value::Null,
            serde_json::json!(-1),
            serde_json::json!("\u{1b}[2J"),
            serde_json::json!([[]]),
            serde_json::json!({"": {}}),
        ] {
            let mut copy = value.clone();
            *copy.pointer_mut(&path).unwrap() = other;
            change(copy);
        }
        let (parent, name) = path.rsplit_once('/').unwrap();
        let mut copy = value.clone();
        if let Some(Value::Object(members)) = copy.pointer_mut(parent) {
            members.remove(name);
            change(copy);
        }
    }
}

#[test]
fn an_answer_with_anything_anywhere_is_shown_and_moves_no_cursor() {
    for screen in SCREENS.iter().chain(&["tree"]) {
        let value: Value = serde_json::from_str(&answer(screen)).unwrap();
        let mut cases = 0;
        each_place(&value, &mut |changed| {
            cases += 1;
            for width in [1, 80] {
                let text = shown(
                    screen,
                    &changed.to_string(),
                    Look {
                        colour: false,
                        width,
                    },
                );
                assert!(!text.contains('\x1b'), "{screen}: {text}");
            }
        });
        assert!(cases > 5, "{screen}");
        shown(
            screen,
            "{}",
            Look {
                colour: true,
                width: 80,
            },
        );
    }
}

#[test]
fn members_that_are_not_known_change_nothing() {
    fn grown(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let members = members
                    .iter()
                    .map(|(name, member)| (name.clone(), grown(member)));
                let new = (
                    "of_a_later_version".to_owned(),
                    serde_json::json!({"a": [1]}),
                );
                Value::Object(members.chain([new]).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(grown).collect()),
            other => other.clone(),
        }
    }
    let look = Look {
        colour: false,
        width: 80,
    };
    for screen in SCREENS.iter().chain(&["tree"]) {
        let json = answer(screen);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            shown(screen, &grown(&value).to_string(), look),
            shown(screen, &json, look),
            "{screen}"
        );
    }
}
