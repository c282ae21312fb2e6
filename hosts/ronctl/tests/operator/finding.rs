//! Which service is asked.

use crate::fake::{golden, json, Run, INSTANCE, SOON};

fn about(run: &Run, service: &str, instance: &str) {
    let body = format!(
        r#"{{"service":"{service}","instance":"{instance}","state":"ready","children":[]}}"#
    );
    run.serve(service, instance, move |_| json(200, &body));
}

#[test]
fn where_nothing_runs_it_says_where_it_looked() {
    let run = Run::new();
    let path = run.path().display().to_string();
    assert_eq!(
        run.ronctl("tree").failed(3),
        format!("ronctl: no service is running here (looked in {path})\n")
    );
    std::fs::remove_dir(run.path()).unwrap();
    assert!(run.ronctl("explain").failed(3).contains("looked in"));
    let err = run.ronctl("--json ps");
    assert_eq!((err.code, &*err.out), (Some(3), "[]\n"));
    assert!(
        err.err.starts_with(r#"{"error":{"code":"unreachable","#),
        "{err:?}"
    );
}

#[test]
fn a_socket_that_nobody_listens_on_is_not_a_service() {
    let run = Run::new();
    let path = run.dead("ron-kernel", INSTANCE);
    let expected = format!(
        "ronctl: {}: nobody listens; the process is gone\n",
        path.display()
    );
    for line in [
        "tree",
        "tail --topic kernel",
        "--target ron-kernel drain",
        "restart a",
    ] {
        assert_eq!(run.ronctl(line).failed(3), expected, "{line}");
    }
    assert_eq!(
        run.ronctl(&format!("tree --sock {}", path.display()))
            .failed(3),
        expected
    );
    run.dead("svc-other", INSTANCE);
    assert!(run
        .ronctl("tree")
        .failed(3)
        .contains("nobody listens on the 2 sockets"));
    // A live one is found among the dead.
    about(&run, "ron-kernel", "1-a");
    assert!(run
        .ronctl("tree")
        .good()
        .starts_with("ron-kernel 1-a  READY"));
}

#[test]
fn several_services_are_listed_with_what_to_add() {
    let run = Run::new();
    about(&run, "ron-kernel", "1-a");
    about(&run, "svc-b", INSTANCE);
    about(&run, "svc-b", "2-b");
    let ended = run.ronctl("tree");
    assert_eq!((ended.code, &*ended.out), (Some(2), ""));
    assert_eq!(
        ended.err,
        "ronctl: several services are running here; say which:\n\
         \x20 ron-kernel  1-a  pid 1  --target ron-kernel\n\
         \x20 svc-b  1a2b-19aabbccdde  pid 6699  --target svc-b.1a2b-19aabbccdde\n\
         \x20 svc-b  2-b  pid 2  --target svc-b.2-b\n"
    );
    for (line, asked) in [
        ("tree --target ron-kernel", "ron-kernel 1-a"),
        ("--target svc-b.1a2b tree", "svc-b 1a2b-19aabbccdde"),
        ("tree --target=svc-b.2", "svc-b 2-b"),
    ] {
        assert!(run.ronctl(line).good().starts_with(asked), "{line}");
    }
    let same = run.ronctl("--target svc-b tree");
    assert_eq!(
        (same.code, same.err.lines().count()),
        (Some(2), 3),
        "{same:?}"
    );
    let err = run.ronctl("--target svc tree").failed(3);
    assert_eq!(
        err,
        "ronctl: svc is not running here; here are ron-kernel.1-a, svc-b.1a2b-19aabbccdde, svc-b.2-b\n"
    );
    let sock = run.sock("svc-b", "2-b");
    let tree = run.ronctl(&format!("tree --sock {}", sock.display()));
    assert!(tree.good().starts_with("svc-b 2-b"));
    let both = run.ronctl(&format!("tree --sock {} --target svc-b", sock.display()));
    assert_eq!(both.code, Some(2));
}

#[test]
fn a_topic_names_its_service() {
    let run = Run::new();
    let line = "{\"topic\":\"t\",\"seq\":1,\"event\":\"x\"}\n";
    let of_kernel = run.serve("ron-kernel", "1-a", move |_| json(200, line));
    let of_other = run.serve("svc-b", "2-b", move |_| json(200, line));
    run.ronctl("tail --topic kernel.lifecycle --count 1").good();
    assert_eq!(
        of_kernel.try_recv().unwrap().0,
        "GET /v1/tail?topic=kernel.lifecycle HTTP/1.1"
    );
    run.ronctl("tail --topic b --count 1").good();
    assert!(of_other.try_recv().is_ok());
    // Said in so many words, it is the other one's.
    run.ronctl("tail --topic kernel --target svc-b --count 1")
        .good();
    assert!(of_other.try_recv().is_ok() && of_kernel.try_recv().is_err());
    assert_eq!(run.ronctl("tail --topic orders --count 1").code, Some(2));
}

#[test]
fn the_directory_of_the_service_manager_is_looked_into() {
    let run = Run::new();
    about(&run, "ron-kernel", "1-a");
    let mut command = run.command(crate::fake::BINARY);
    let both = format!("{}:/nowhere", run.path().display());
    command
        .env_remove("RON_RUN_DIR")
        .env("RUNTIME_DIRECTORY", both)
        .arg("tree");
    assert!(crate::fake::ended(&mut command)
        .good()
        .starts_with("ron-kernel"));
}

#[test]
fn the_list_tells_the_living_from_the_dead_the_silent_and_the_odd() {
    let run = Run::new();
    let body = golden("about.json");
    run.serve("ron-kernel", INSTANCE, move |_| json(200, &body));
    run.serve("svc-hung", "2-b", |_| crate::fake::Manner::Hangs);
    run.serve("svc-slow", "4-d", |_| crate::fake::Manner::Trickles);
    run.dead("svc-dead", "3-c");
    std::fs::write(run.sock("svc-odd", "5-e"), "").unwrap();
    let ended = run.ronctl("ps --json");
    assert!(ended.took < SOON, "{ended:?}");
    let list: serde_json::Value = serde_json::from_str(&ended.good()).unwrap();
    let list: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            (
                text("service"),
                text("here"),
                entry["about"]["state"].as_str().map(str::to_owned),
            )
        })
        .collect();
    let expected = [
        ("ron-kernel", "live", Some("not_ready")),
        ("svc-dead", "dead", None),
        ("svc-hung", "silent", None),
        ("svc-odd", "refused", None),
        ("svc-slow", "silent", None),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(service, here, state)| {
            (
                (*service).to_owned(),
                (*here).to_owned(),
                state.map(str::to_owned),
            )
        })
        .collect();
    assert_eq!(list, expected);
    let text = run.ronctl("ps").good();
    assert!(text.contains("6699  not_ready  3h  0.1.0"), "{text}");
    assert!(
        text.contains("svc-hung.2-b.sock: no answer within 1.5 s"),
        "{text}"
    );
    assert_eq!(run.ronctl("ps --target svc-dead").code, Some(3));
    assert!(!run.ronctl("ps --target ron-kernel").good().contains("svc-"));
}
