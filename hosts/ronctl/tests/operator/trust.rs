//! Whom the program does not speak to.

use std::fs::Permissions;
use std::os::unix::fs::{chown, symlink, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::fake::{ended, json, Run, BINARY, INSTANCE};

const NOBODY: u32 = 65534;
const OTHER: u32 = 65533;

fn kernel(run: &Run) {
    run.serve("ron-kernel", INSTANCE, |_| json(200, "{}"));
}

fn root(run: &Run) -> bool {
    let root = std::fs::metadata(run.base()).unwrap().uid() == 0;
    if !root {
        eprintln!("skipped: only root can make files that belong to somebody else");
    }
    root
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let run = Run::new();
    kernel(&run);
    for mode in [0o755, 0o701, 0o770, 0o1777, 0o720] {
        run.mode(mode);
        let expected = format!(
            "ronctl: {}: has mode {mode:04o}; must be 0700, so that nobody else can put a socket there\n",
            run.path().display()
        );
        assert_eq!(run.ronctl("tree").failed(4), expected);
        assert_eq!(run.ronctl("ps").failed(4), expected);
        let sock = run.sock("ron-kernel", INSTANCE);
        assert_eq!(
            run.ronctl(&format!("tree --sock {}", sock.display()))
                .failed(4),
            expected
        );
    }
    run.mode(0o700);
    run.ronctl("tree").good();
}

#[test]
fn a_link_is_not_followed() {
    let run = Run::new();
    kernel(&run);
    let link = run.base().join("link");
    symlink(run.path(), &link).unwrap();
    let dir = link.display();
    for dir in [dir.to_string(), format!("{dir}/"), format!("{dir}/.")] {
        let mut command = run.command(BINARY);
        let err = ended(command.env("RON_RUN_DIR", dir).arg("tree")).failed(4);
        assert_eq!(
            err,
            format!(
                "ronctl: {}: is a symbolic link; must be the directory itself\n",
                link.display()
            )
        );
    }
    let through = link.join(format!("ron-kernel.{INSTANCE}.sock"));
    assert!(run
        .ronctl(&format!("tree --sock {}", through.display()))
        .failed(4)
        .contains("is a symbolic link"));

    let other = Run::new();
    symlink(
        run.sock("ron-kernel", INSTANCE),
        other.sock("ron-kernel", INSTANCE),
    )
    .unwrap();
    let err = other.ronctl("tree").failed(4);
    assert!(
        err.ends_with("is a symbolic link; must be the socket itself\n"),
        "{err}"
    );
}

#[test]
fn what_is_no_socket_and_no_directory_is_refused() {
    let run = Run::new();
    std::fs::write(run.sock("ron-kernel", INSTANCE), "").unwrap();
    assert!(run.ronctl("tree").failed(4).ends_with("is no socket\n"));
    let file = run.base().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = run.command(BINARY);
    let err = ended(command.env("RON_RUN_DIR", file).arg("tree")).failed(4);
    assert!(err.ends_with("is no directory\n"), "{err}");
    let missing = run.path().join("none.sock");
    let err = run
        .ronctl(&format!("tree --sock {}", missing.display()))
        .failed(3);
    assert!(err.ends_with("there is no such socket\n"), "{err}");
}

#[test]
fn a_socket_of_somebody_else_in_ones_own_directory_is_refused() {
    let run = Run::new();
    if !root(&run) {
        return;
    }
    kernel(&run);
    chown(run.sock("ron-kernel", INSTANCE), Some(NOBODY), None).unwrap();
    let err = run.ronctl("tree").failed(4);
    assert!(
        err.ends_with("belongs to uid 65534; must belong to uid 0, as its directory does\n"),
        "{err}"
    );
    // Root may ask everybody's services.
    chown(run.path(), Some(NOBODY), None).unwrap();
    run.ronctl("tree").good();
}

/// The program as somebody else, from where they can run it.
fn as_nobody(run: &Run, arguments: &[&str]) -> crate::fake::Ended {
    std::fs::set_permissions(run.base(), Permissions::from_mode(0o755)).unwrap();
    let copy = run.base().join("ronctl");
    if !copy.exists() {
        std::fs::copy(BINARY, &copy).unwrap();
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    }
    ended(run.command(copy).args(arguments).uid(NOBODY).gid(NOBODY))
}

#[test]
fn a_user_asks_only_his_own_services() {
    let run = Run::new();
    if !root(&run) {
        return;
    }
    kernel(&run);
    let err = as_nobody(&run, &["tree"]).failed(4);
    assert!(
        err.ends_with("belongs to uid 0; must belong to uid 65534\n"),
        "{err}"
    );
    chown(run.path(), Some(NOBODY), None).unwrap();
    chown(run.sock("ron-kernel", INSTANCE), Some(NOBODY), None).unwrap();
    // Root listens, and root may.
    as_nobody(&run, &["tree"]).good();
}

#[test]
fn a_listener_that_does_not_own_the_socket_is_refused() {
    let run = Run::new();
    if !root(&run) {
        return;
    }
    let sock = run.sock("ron-kernel", INSTANCE);
    std::fs::set_permissions(run.base(), Permissions::from_mode(0o755)).unwrap();
    run.mode(0o777);
    let listener = run.base().join("listener");
    std::fs::copy(std::env::current_exe().unwrap(), &listener).unwrap();
    let mut command = Command::new(listener);
    command
        .args(["trust::listens_where_it_is_told", "--exact", "--nocapture"])
        .env("LISTEN_ON", &sock);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .uid(OTHER)
        .gid(OTHER);
    let mut child = command.spawn().unwrap();
    while !sock.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the listener ended");
        std::thread::yield_now();
    }
    run.mode(0o700);
    chown(run.path(), Some(NOBODY), None).unwrap();
    chown(&sock, Some(NOBODY), None).unwrap();
    let err = as_nobody(&run, &["tree"]).failed(4);
    assert!(
        err.ends_with("uid 65533 listens; must be uid 65534, which owns the socket, or root\n"),
        "{err}"
    );
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// The listener of the test above: another process, because who listens is a property of a process.
#[test]
fn listens_where_it_is_told() {
    if let Some(path) = std::env::var_os("LISTEN_ON") {
        let _listener = UnixListener::bind(path).unwrap();
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }
}
