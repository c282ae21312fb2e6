//! The service manager's side of sd_notify: what a demo tells it from start to end.

use crate::process::{Demo, FAST, PATIENCE};
use std::os::unix::net::UnixDatagram;

/// The manager's socket.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, dir }
    }

    fn path(&self) -> String {
        let path = self.dir.path().join("notify");
        path.to_str().unwrap().to_owned()
    }

    /// The next messages up to one with this assignment, the lines of each joined by `;`.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let length = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("no {wanted} ({error}) after {heard:#?}"));
            let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let found = lines.contains(&wanted);
            heard.push(lines.join(";"));
            if found {
                return heard;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_of_readiness_reloads_life_and_the_end() {
    let manager = Manager::new();
    let demo = Demo::start_in(
        FAST,
        &[],
        &[
            ("NOTIFY_SOCKET", &manager.path()),
            ("WATCHDOG_USEC", "200000"),
        ],
    );
    let start = manager.until("READY=1");
    let before = &start[..start.len() - 1];
    let early = before
        .iter()
        .all(|text| text.starts_with("STATUS=not_ready") || text == "WATCHDOG=1");
    assert!(early, "{start:?}");
    assert_eq!(start.last().unwrap(), "READY=1;STATUS=ready");
    for _ in 0..3 {
        assert_eq!(manager.until("WATCHDOG=1").len(), 1);
    }

    demo.signal("HUP");
    let reload = manager.until("READY=1");
    let reload: Vec<&String> = reload.iter().filter(|text| *text != "WATCHDOG=1").collect();
    let begun = reload[0]
        .strip_prefix("RELOADING=1;MONOTONIC_USEC=")
        .unwrap();
    assert!(begun.parse::<u64>().unwrap() > 0, "{reload:?}");
    assert_eq!(reload[1], "READY=1");

    demo.configure(&format!("{FAST}heartbeat_intervall = \"1s\"\n"));
    demo.line("config_rejected");
    let rejected = loop {
        let heard = manager.until("WATCHDOG=1");
        if let Some(status) = heard.iter().find(|text| text.contains("config_reload")) {
            break status.clone();
        }
    };
    assert!(rejected.starts_with("STATUS="), "{rejected}");
    assert!(rejected.contains("demo.heartbeat_intervall"), "{rejected}");

    demo.signal("TERM");
    manager.until("STOPPING=1");
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn a_manager_that_does_not_read_or_makes_no_sense_holds_nobody_up() {
    let manager = Manager::new();
    let demo = Demo::start_in(
        FAST,
        &[],
        &[
            ("NOTIFY_SOCKET", &manager.path()),
            ("WATCHDOG_USEC", "2000"),
        ],
    );
    demo.get_until("/readyz", |answer| answer.status == 200);
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));

    let demo = Demo::start_in(FAST, &[], &[("NOTIFY_SOCKET", "relative")]);
    let line = demo.line("notify_unavailable");
    assert!(
        line["reason"].as_str().unwrap().contains("absolute path"),
        "{line}"
    );
    demo.get_until("/readyz", |answer| answer.status == 200);
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));
}
