//! The end: readiness first, then the event, then the children, inside the deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::{get, Demo, FAST};

#[test]
fn sigterm_under_scrapes_flips_readiness_first_and_exits_0_inside_the_deadline() {
    let demo = Demo::start(&format!(
        "{FAST}\n[drain]\nlinger = \"300ms\"\ndeadline = \"3s\"\n"
    ));
    demo.get_until("/readyz", |answer| answer.status == 200);
    let addr = demo.addr();
    let over = Arc::new(AtomicBool::new(false));
    let scrapers: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut scrapes = 0;
                while !over.load(Ordering::Relaxed)
                    && get(addr, "/metrics").is_ok_and(|answer| answer.status == 200)
                {
                    scrapes += 1;
                }
                scrapes
            })
        })
        .collect();
    let begun = Instant::now();
    demo.signal("TERM");
    let draining = demo
        .get_until("/readyz", |answer| answer.status == 503)
        .json();
    assert_eq!(draining["state"], "draining", "{draining}");
    assert_eq!(demo.get("/healthz").status, 200);
    let (code, lines) = demo.end();
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    assert_eq!(code, Some(0));
    assert!(
        took > Duration::from_millis(300) && took < Duration::from_millis(3300),
        "{took:?}"
    );
    let scrapes: Vec<i32> = scrapers
        .into_iter()
        .map(|scraper| scraper.join().unwrap())
        .collect();
    assert!(scrapes.iter().all(|scrapes| *scrapes > 0), "{scrapes:?}");

    let place = |wanted: &str| {
        let found = lines
            .iter()
            .position(|line| line["message"] == wanted || line["event"] == wanted);
        found.unwrap_or_else(|| panic!("no {wanted} in {lines:#?}"))
    };
    let order = [
        "ready=0",
        "KernelEvent::Shutdown",
        "child_stopped",
        "shutdown_report",
    ]
    .map(place);
    assert!(order.is_sorted(), "{order:?} in {lines:#?}");
    let report = &lines[place("shutdown_report")];
    assert_eq!(
        (&report["started"], &report["stopped"]),
        (&3.into(), &3.into()),
        "{report}"
    );
    assert_eq!(place("shutdown_report"), lines.len() - 1);
}

#[test]
fn sigint_aborts_and_names_a_child_that_ignores_it_and_still_exits_0() {
    let demo = Demo::start(&hung("1s"));
    demo.line("readiness");
    demo.signal("INT");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let report = lines.last().unwrap();
    assert_eq!(report["event"], "shutdown_report");
    assert_eq!(
        (&report["aborted"], &report["stragglers"]),
        (&1.into(), &"heartbeat".into()),
        "{report}"
    );
}

#[test]
fn a_second_sigint_half_a_second_later_aborts_with_130() {
    let demo = Demo::start(&hung("20s"));
    demo.line("readiness");
    demo.signal("INT");
    demo.line("shutdown");
    // The bounce of the same key press.
    demo.signal("INT");
    // Not to wait for anything: the time between the two presses is what is tested.
    std::thread::sleep(Duration::from_millis(600));
    assert!(
        demo.lines().iter().all(|line| line["event"] != "aborted"),
        "the bounce aborted"
    );
    demo.signal("INT");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(130));
    assert_eq!(lines.last().unwrap()["event"], "aborted");
}

/// The heartbeat hangs from its start; stopping takes what it may.
fn hung(deadline: &str) -> String {
    format!(
        "{FAST}\n[drain]\ndeadline = \"{deadline}\"\n[chaos]\narmed = true\ndefault_child = \"heartbeat\"\nfault = \"hang\"\n"
    )
}

#[test]
fn a_run_with_a_crash_loop_leaves_no_file_behind() {
    let demo = Demo::start(&format!(
        "{FAST}\n[amnesia]\nenabled = true\n[chaos]\narmed = true\ndefault_child = \"heartbeat\"\nfault = \"panic\"\n"
    ));
    demo.line("child_quarantined");
    demo.signal("TERM");
    demo.line("shutdown_report");
    assert_eq!(demo.files(), ["ron-kernel.toml"]);
    assert_eq!(demo.end().0, Some(0));
}
