//! What each command asks of the service.

use crate::fake::{json, Run, INSTANCE};

#[test]
fn every_command_asks_what_the_contract_says() {
    let cases = [
        ("tree", "GET /v1/tree", ""),
        ("tree web/api", "GET /v1/tree?id=web%2Fapi", ""),
        ("explain", "GET /v1/explain", ""),
        ("explain ready", "GET /v1/explain?of=ready", ""),
        ("explain store", "GET /v1/explain?id=store", ""),
        ("explain child:ready", "GET /v1/explain?id=ready", ""),
        ("top", "GET /v1/top", ""),
        ("tail --topic kernel", "GET /v1/tail?topic=kernel", ""),
        (
            "tail --topic kernel --since 10m",
            "GET /v1/tail?topic=kernel&since=10m",
            "",
        ),
        ("changes", "GET /v1/changes?since=1h", ""),
        ("changes --since 500ms", "GET /v1/changes?since=500ms", ""),
        ("bus", "GET /v1/bus", ""),
        ("config print", "GET /v1/config", ""),
        (
            "config explain bus.capacity",
            "GET /v1/config?key=bus.capacity",
            "",
        ),
        ("config check", "POST /v1/config/check", "{}"),
        ("config check ron-kernel", "POST /v1/config/check", "{}"),
        (
            "config check --file /a.toml",
            "POST /v1/config/check",
            r#"{"file":"/a.toml"}"#,
        ),
        ("config reload", "POST /v1/config/reload", "{}"),
        ("drain --dry-run", "POST /v1/drain", r#"{"dry_run":true}"#),
        ("drain --wait", "POST /v1/drain", r#"{"wait":true}"#),
        ("drain", "POST /v1/drain", r#"{"wait":false}"#),
        (
            "restart web/api",
            "POST /v1/children/restart",
            r#"{"id":"web/api"}"#,
        ),
        ("stop child:a", "POST /v1/children/stop", r#"{"id":"a"}"#),
        ("start a", "POST /v1/children/start", r#"{"id":"a"}"#),
        ("release a", "POST /v1/children/release", r#"{"id":"a"}"#),
        ("log", "GET /v1/log", ""),
        (
            "log debug,ron_kernel=trace",
            "POST /v1/log",
            r#"{"filter":"debug,ron_kernel=trace"}"#,
        ),
        (
            "log debug --for 10m",
            "POST /v1/log",
            r#"{"filter":"debug","for_ms":600000}"#,
        ),
        ("chaos list", "GET /v1/chaos", ""),
        ("chaos clear", "DELETE /v1/chaos", ""),
        ("chaos clear 7", "DELETE /v1/chaos?id=7", ""),
        (
            "chaos inject --target ron-kernel --fault=panic",
            "POST /v1/chaos",
            r#"{"fault":"panic"}"#,
        ),
        (
            "chaos inject --fault latency --child a/b --count 3 --for 30s --delay 200ms",
            "POST /v1/chaos",
            r#"{"child":"a/b","count":3,"delay_ms":200,"fault":"latency","for_ms":30000}"#,
        ),
    ];
    let run = Run::new();
    let asked = run.serve("ron-kernel", INSTANCE, |_| json(200, "{}"));
    for (line, request, body) in cases {
        run.ronctl(line);
        let mut asked: Vec<_> = asked
            .try_iter()
            .map(|(line, body)| line + " " + &body)
            .collect();
        // What may take long is asked of somebody who answers.
        if ["config check", "config reload", "drain --wait"]
            .iter()
            .any(|long| line.starts_with(long))
        {
            assert_eq!(asked.remove(0), "GET /v1/about HTTP/1.1 ", "{line}");
        }
        assert_eq!(asked, [format!("{request} HTTP/1.1 {body}")], "{line}");
    }
}

#[test]
fn a_file_is_named_so_that_the_service_finds_it() {
    let run = Run::new();
    let asked = run.serve("ron-kernel", INSTANCE, |_| json(200, "{}"));
    let mut command = run.command(crate::fake::BINARY);
    command
        .args(["config", "check", "--file", "a.toml"])
        .current_dir(run.base());
    crate::fake::ended(&mut command).good();
    assert!(asked.recv().unwrap().0.contains("/v1/about"));
    let expected = serde_json::json!({ "file": run.base().canonicalize().unwrap().join("a.toml") });
    assert_eq!(asked.recv().unwrap().1, expected.to_string());
}

#[test]
fn what_cannot_be_asked_is_a_matter_of_usage() {
    let run = Run::new();
    let asked = run.serve("ron-kernel", INSTANCE, |_| json(200, "{}"));
    for line in [
        "",
        "tre",
        "tree --nonsense",
        "tail",
        "tail --topic a --since 10",
        "tail --topic a --count 0",
        "changes --since soon",
        "top --interval 1ms",
        "log --for 10m",
        "drain --dry-run --wait",
        "restart",
        "restart child:",
        "chaos",
        "chaos inject",
        "chaos inject --fault explode",
        "chaos clear x",
        "config check svc-a --target svc-b",
        "completions",
        "completions oyster",
        "completions bash --json",
        "man --target ron-kernel",
        "tree --color sometimes",
    ] {
        let ended = run.ronctl(line);
        assert_eq!(
            (ended.code, &*ended.out),
            (Some(2), ""),
            "{line}: {ended:?}"
        );
        assert!(!ended.err.is_empty(), "{line}");
        let ended = run.ronctl(&format!("{line} --json"));
        let envelope: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
        assert_eq!(
            (ended.code, &envelope["error"]["code"]),
            (Some(2), &"usage".into()),
            "{line}"
        );
    }
    assert!(asked.try_recv().is_err());
}
