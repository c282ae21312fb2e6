//! What services answer, and what becomes of it.

use serde_json::Value;

use crate::fake::{golden, json, response, Manner, Run, INSTANCE};

#[test]
fn whoever_is_no_control_plane_costs_one_line_and_less_than_two_seconds() {
    type Case = (fn() -> Manner, &'static str);
    let cases: [Case; 9] = [
        (
            || Manner::Hangs,
            "no answer within 1.5 s; the process hangs or is stopped",
        ),
        (
            || Manner::Trickles,
            "no answer within 1.5 s; the process hangs or is stopped",
        ),
        (
            || Manner::Floods,
            "answers with more than 64 MiB; this is no control plane",
        ),
        (
            || Manner::Says(b"SSH-2.0-OpenSSH\r\n".to_vec()),
            "does not speak HTTP; this is no control plane",
        ),
        (
            || Manner::Says(vec![0; 100_000]),
            "does not speak HTTP; this is no control plane",
        ),
        (
            || Manner::Says(Vec::new()),
            "the connection ended before the answer did",
        ),
        (
            || Manner::Says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
            "the connection ended before the answer did",
        ),
        (
            || json(200, "<html>"),
            "answers 200 without JSON; this is no control plane",
        ),
        (
            || json(200, "[]"),
            "answers with another shape of JSON; this is no control plane",
        ),
    ];
    for (manner, expected) in cases {
        let run = Run::new();
        run.serve("ron-kernel", INSTANCE, move |_| manner());
        let path = run.sock("ron-kernel", INSTANCE).display().to_string();
        assert_eq!(
            run.ronctl("tree").failed(3),
            format!("ronctl: {path}: {expected}\n")
        );
        let text = run.ronctl("tree --json").failed(3);
        let envelope: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(envelope["error"]["code"], "unreachable");
        assert_eq!(envelope["error"]["message"], format!("{path}: {expected}"));
    }
}

#[test]
fn a_service_that_does_not_accept_is_told_from_one_that_is_gone() {
    let run = Run::new();
    let path = run.sock("ron-kernel", INSTANCE);
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // Until its queue is full.
    let mut waiting = Vec::new();
    for _ in 0..5000 {
        let (done, connected) = std::sync::mpsc::channel();
        let path = path.clone();
        std::thread::spawn(move || done.send(std::os::unix::net::UnixStream::connect(path)));
        match connected.recv_timeout(std::time::Duration::from_millis(200)) {
            Ok(stream) => waiting.push(stream),
            Err(_) => break,
        }
    }
    assert!(run
        .ronctl("tree")
        .failed(3)
        .contains("no answer within 1.5 s"));
}

#[test]
fn what_a_service_refuses_is_one_line_with_its_exit_code() {
    for (status, code, message, details, exit, shown) in [
        (
            403,
            "foreign_uid",
            "uid 7 may not",
            "{}",
            4,
            "uid 7 may not",
        ),
        (
            403,
            "not_armed",
            "chaos is not armed",
            "{}",
            4,
            "chaos is not armed",
        ),
        (
            404,
            "unknown_child",
            "no child `stor`",
            r#"{"suggestion":"store"}"#,
            1,
            "no child `stor`; did you mean `store`?",
        ),
        (
            404,
            "unknown_child",
            "no child `x`",
            r#"{"suggestion":null}"#,
            1,
            "no child `x`",
        ),
        (
            404,
            "unknown_key",
            "no key `a`; did you mean `b`?",
            r#"{"suggestion":"b"}"#,
            1,
            "no key `a`; did you mean `b`?",
        ),
        (404, "unknown_path", "", "null", 1, "unknown_path"),
        (
            409,
            "conflict",
            "store is not quarantined",
            "{}",
            1,
            "store is not quarantined",
        ),
        (
            400,
            "bad_request",
            "unknown field `x`",
            "{}",
            1,
            "unknown field `x`",
        ),
        (
            422,
            "invalid",
            "a\\nb \\u001b[2Jc",
            "{}",
            1,
            "a\\nb \\x1b[2Jc",
        ),
        (
            503,
            "busy",
            "64 requests are in flight",
            "{}",
            1,
            "64 requests are in flight",
        ),
        (
            500,
            "",
            "",
            "{}",
            1,
            "the service answered 500 and did not say why",
        ),
    ] {
        let run = Run::new();
        let body = format!(
            r#"{{"error":{{"code":"{code}","message":"{message}","retryable":false,"details":{details}}}}}"#
        );
        let sent = body.clone();
        run.serve("ron-kernel", INSTANCE, move |_| json(status, &sent));
        for line in [
            "restart stor",
            "config reload",
            "tail --topic kernel",
            "drain",
        ] {
            assert_eq!(
                run.ronctl(line).failed(exit),
                format!("ronctl: {shown}\n"),
                "{line}"
            );
        }
        assert_eq!(
            run.ronctl("restart stor --json").failed(exit),
            format!("{body}\n")
        );
    }
}

#[test]
fn json_is_the_answer_itself() {
    for (line, name) in [
        ("tree", "tree.json"),
        ("explain", "explain.json"),
        ("explain store", "explain_child.json"),
        ("top", "top.json"),
        ("top --once", "top.json"),
        ("changes", "changes.json"),
        ("bus", "bus.json"),
        ("config print", "config.json"),
        ("config explain bus.capacity", "config_key.json"),
        ("config check", "plan_check.json"),
        ("config reload", "plan_reload.json"),
        ("drain --dry-run", "drain_plan.json"),
        ("log", "log.json"),
        ("chaos list", "chaos.json"),
        ("restart store", "accepted.json"),
    ] {
        let run = Run::new();
        let body = golden(name);
        let sent = body.clone();
        run.serve("ron-kernel", INSTANCE, move |_| json(200, &sent));
        let expected = body.trim().replace('\n', " ") + "\n";
        assert_eq!(
            run.ronctl(&format!("{line} --json")).good(),
            expected,
            "{line}"
        );
        assert_ne!(run.ronctl(line).good(), expected, "{line}");
    }
}

#[test]
fn the_exit_code_tells_whether_it_was_done() {
    let report = |members: &str| format!(r#"{{"started":3,"stopped":3,{members}"took_ms":1}}"#);
    let rejected = golden("plan_rejected.json");
    for (line, status, body, code, shown) in [
        (
            "config check",
            422,
            rejected.clone(),
            1,
            "would be rejected\n",
        ),
        (
            "config check",
            200,
            rejected.clone(),
            1,
            "would be rejected\n",
        ),
        (
            "config reload",
            422,
            rejected,
            1,
            "rejected; version 3 stays in force\n",
        ),
        (
            "config check",
            200,
            golden("plan_check.json"),
            0,
            "valid; a reload would do this\n",
        ),
        ("drain --wait", 200, report(""), 0, "drained in 1ms\n"),
        (
            "drain --wait",
            200,
            report(r#""aborted":1,"#),
            1,
            "drained in 1ms; 1 child did not",
        ),
        (
            "drain --wait",
            200,
            report(r#""leaked":2,"#),
            1,
            "drained in 1ms; 2 children did not",
        ),
        (
            "drain --wait",
            200,
            report(r#""quarantined":1,"#),
            0,
            "drained in 1ms\n",
        ),
        (
            "drain",
            202,
            r#"{"draining":true,"reason":"uid 0"}"#.to_owned(),
            0,
            "draining: uid 0\n",
        ),
    ] {
        let run = Run::new();
        run.serve("ron-kernel", INSTANCE, move |asked| {
            match asked.contains("/v1/about") {
                true => json(200, "{}"),
                false => json(status, &body),
            }
        });
        let ended = run.ronctl(line);
        assert_eq!(
            (ended.code, &*ended.err),
            (Some(code), ""),
            "{line}: {ended:?}"
        );
        assert!(ended.out.starts_with(shown), "{line}: {ended:?}");
        assert_eq!(
            run.ronctl(&format!("{line} --json")).code,
            Some(code),
            "{line}"
        );
    }
}

#[test]
fn a_drain_without_its_report_has_failed() {
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |asked| {
        match asked.contains("/v1/about") {
            true => json(200, "{}"),
            false => Manner::Says(Vec::new()),
        }
    });
    let err = run.ronctl("drain --wait").failed(1);
    assert!(
        err.starts_with("ronctl: the process ended before its report came: "),
        "{err}"
    );
}

#[test]
fn what_takes_long_is_waited_for_where_somebody_answers() {
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |_| Manner::Hangs);
    for line in ["drain --wait", "config check", "config reload"] {
        let err = run.ronctl(line).failed(3);
        assert!(err.contains("no answer within 1.5 s"), "{line}: {err}");
    }
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |asked| {
        if !asked.contains("/v1/about") {
            // Longer than a question may take.
            std::thread::sleep(std::time::Duration::from_millis(1800));
        }
        Manner::Says(response(200, r#"{"started":1,"stopped":1,"took_ms":1800}"#))
    });
    assert!(run
        .ronctl("drain --wait")
        .good()
        .starts_with("drained in 1s"));
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let run = Run::new();
    let body = golden("tree.json");
    run.serve("ron-kernel", INSTANCE, move |_| json(200, &body));
    let plain = run.ronctl("tree").good();
    assert!(!plain.contains('\x1b'), "{plain}");
    assert!(run
        .ronctl("tree --color always")
        .good()
        .contains("\x1b[32m"));
    assert_eq!(run.ronctl("tree --color=never").good(), plain);
}

#[test]
fn advice_can_be_copied_as_it_stands() {
    let run = Run::new();
    for name in ["ron-kernel", "svc-b"] {
        let body = golden("explain.json");
        run.serve(name, INSTANCE, move |_| json(200, &body));
    }
    let sock = run.sock("svc-b", INSTANCE).display().to_string();
    for whom in [
        "--target svc-b",
        "--target svc-b.1a2b",
        &format!("--sock {sock}"),
    ] {
        let text = run.ronctl(&format!("explain {whom}")).good();
        let advice = format!("ronctl {whom} release hasher\n");
        assert!(text.contains(&advice), "{advice} in {text}");
    }
}
