//! The drill: a fault from the configuration, restarts with backoff, quarantine, readiness with its cause.

use crate::process::{Demo, FAST};

const ARMED: &str = "\n[chaos]\narmed = true\ndefault_child = \"heartbeat\"\n";

#[test]
fn a_panicking_child_is_restarted_five_times_and_quarantined_while_its_sibling_runs_on() {
    let demo = Demo::start(&format!("{FAST}{ARMED}"));
    assert_eq!(demo.line("chaos_armed")["level"], "warn");
    demo.get_until("/readyz", |answer| answer.status == 200);
    demo.configure(&format!("{FAST}{ARMED}fault = \"panic\"\n"));
    demo.signal("HUP");
    let quarantined = demo.line("child_quarantined");
    assert_eq!(quarantined["child"], "heartbeat");

    let unready = demo
        .get_until("/readyz", |answer| answer.status == 503)
        .json();
    let cause = &unready["causes"][0];
    assert_eq!(cause["key"], "child:heartbeat", "{unready}");
    assert!(
        cause["reason"].as_str().unwrap().contains("panic"),
        "{unready}"
    );
    assert_eq!(
        demo.sample("service_restarts_total{service=\"heartbeat\"}"),
        5.0
    );
    assert_eq!(
        demo.sample("ron_kernel_crashes_total{service=\"heartbeat\"}"),
        6.0
    );
    assert_eq!(
        demo.sample("ron_kernel_children{state=\"quarantined\"}"),
        1.0
    );
    assert_eq!(demo.get("/livez").status, 200);

    demo.signal("TERM");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let of = |event: &str| {
        lines
            .iter()
            .filter(|line| line["event"] == event)
            .collect::<Vec<_>>()
    };
    let crashes = of("service_crashed");
    assert_eq!(crashes.len(), 6);
    for crash in crashes {
        assert_eq!(
            (&crash["message"], &crash["child"]),
            (&"ServiceCrashed".into(), &"heartbeat".into())
        );
        assert!(
            crash["reason"].as_str().unwrap().contains("panic"),
            "{crash}"
        );
    }
    assert_eq!(of("child_backoff").len(), 5);
    assert!(of("panic").is_empty(), "a child's panic is told once");
    let report = of("shutdown_report")[0];
    assert_eq!(
        (
            &report["started"],
            &report["stopped"],
            &report["quarantined"]
        ),
        (&3.into(), &2.into(), &1.into())
    );
    for sibling in lines.iter().filter(|line| line["child"] == "status") {
        assert!(
            sibling["generation"]
                .as_u64()
                .is_none_or(|generation| generation == 1),
            "{sibling}"
        );
    }
}

#[test]
fn a_fault_that_nobody_armed_is_refused() {
    let demo = Demo::start(FAST);
    demo.configure(&format!(
        "{FAST}\n[chaos]\ndefault_child = \"heartbeat\"\nfault = \"panic\"\n"
    ));
    let rejected = demo.line("config_rejected");
    assert!(
        rejected["problem"]
            .as_str()
            .unwrap()
            .contains("chaos.armed"),
        "{rejected}"
    );
}
