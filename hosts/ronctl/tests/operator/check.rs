//! A configuration checked by the service's program where no service runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fake::{ended, json, Ended, Run, BINARY, INSTANCE};

/// A program that says what it was asked and ends with `code`.
fn program(dir: &Path, name: &str, code: i32) {
    let path = dir.join(name);
    std::fs::write(
        &path,
        format!("#!/bin/sh\necho \"asked: $*\"\necho defect >&2\nexit {code}\n"),
    )
    .unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

fn check(run: &Run, arguments: &str, env: &[(&str, &str)]) -> Ended {
    let bin = run.base().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let copy = bin.join("ronctl");
    if !copy.exists() {
        std::fs::copy(BINARY, &copy).unwrap();
    }
    let mut command = run.command(copy);
    command
        .args(["config", "check"])
        .args(arguments.split_whitespace())
        .envs(env.iter().copied());
    ended(&mut command)
}

#[test]
fn without_a_service_its_program_beside_this_one_checks_the_file() {
    let run = Run::new();
    let bin = run.base().join("bin");
    std::fs::create_dir(&bin).unwrap();
    program(&bin, "ron-kernel-demo", 0);
    program(&bin, "svc-b", 2);
    program(&bin, "svc-c", 7);
    for (arguments, env, code, asked) in [
        ("", &[][..], 0, "/etc/ron/ron-kernel.toml"),
        ("ron-kernel", &[("RON_CONFIG", "/b.toml")][..], 0, "/b.toml"),
        (
            "--file a.toml",
            &[("RON_CONFIG", "/b.toml")][..],
            0,
            "a.toml",
        ),
        ("svc-b", &[][..], 1, "/etc/ron/svc-b.toml"),
        ("--target svc-b --file a.toml", &[][..], 1, "a.toml"),
        ("svc-c", &[][..], 1, "/etc/ron/svc-c.toml"),
    ] {
        let ended = check(&run, arguments, env);
        assert_eq!(ended.code, Some(code), "{arguments}: {ended:?}");
        assert_eq!(
            ended.out,
            format!("asked: config validate {asked}\n"),
            "{arguments}"
        );
        assert_eq!(ended.err, "defect\n", "{arguments}");
    }
    let ended = check(&run, "svc-b --json", &[]);
    let line: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &*ended.err), (Some(1), ""));
    assert_eq!(
        (&line["valid"], &line["stderr"]),
        (&false.into(), &"defect".into())
    );
    assert_eq!(line["file"], "/etc/ron/svc-b.toml");
}

#[test]
fn a_dead_socket_is_no_service_either_and_a_live_one_is_asked() {
    let run = Run::new();
    let bin = run.base().join("bin");
    std::fs::create_dir(&bin).unwrap();
    program(&bin, "svc-b", 2);
    run.dead("svc-b", INSTANCE);
    assert_eq!(check(&run, "svc-b", &[]).err, "defect\n");
    // One that runs says nothing of another.
    run.serve("svc-a", "1-a", |_| json(200, "{}"));
    assert_eq!(check(&run, "svc-b", &[]).err, "defect\n");
    assert!(check(&run, "svc-a", &[]).good().starts_with("valid"));
    assert!(check(&run, "", &[]).good().starts_with("valid"));
    run.mode(0o755);
    assert_eq!(check(&run, "svc-b", &[]).code, Some(4));
}

#[test]
fn without_service_and_program_nothing_is_checked() {
    let run = Run::new();
    let err = check(&run, "svc-nowhere", &[]).failed(3);
    assert!(
        err.contains("no service is running here") && err.contains("no program svc-nowhere"),
        "{err}"
    );
    assert_eq!(check(&run, "../evil", &[]).code, Some(2));
}
