//! Every row of the runbook's failure table, produced, and seen in the signal that the row names.
#![cfg(all(feature = "metrics", not(loom)))]

use std::io::Write;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use ryker::metrics::Collector;
use ryker::{Actor, ActorExit, ActorRef, Context, ErrorKind, Reply, Runtime, RykerConfig};
use tokio::time::sleep;
use tracing::subscriber::{set_default, DefaultGuard};
use tracing_subscriber::fmt::MakeWriter;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

enum Order {
    Take(Duration),
    Panic,
    Ask(Reply<()>),
}

struct Desk;

impl Actor for Desk {
    type Msg = Order;
    type Error = std::convert::Infallible;

    async fn handle(&mut self, order: Order, _: &mut Context<Self>) -> Result<(), Self::Error> {
        match order {
            Order::Take(time) => sleep(time).await,
            Order::Panic => std::panic::resume_unwind(Box::new("the desk is on fire")),
            Order::Ask(reply) => drop(reply.send(())),
        }
        Ok(())
    }
}

fn desk(config: ryker::config::RykerConfigBuilder) -> (Runtime, ActorRef<Order>) {
    let rt = Runtime::new(config.build().unwrap());
    let desk = rt.spawn("desk", || Desk).unwrap();
    (rt, desk)
}

/// The value of a series on the page of a scrape; 0 where there is none.
fn scrape(rt: &Runtime, series: &str) -> f64 {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collector::new(rt)));
    let mut page = String::new();
    encode(&mut page, &registry).unwrap();
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().unwrap())
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<u8>>>);

impl Journal {
    fn open() -> (Self, DefaultGuard) {
        let journal = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(journal.clone())
            .with_ansi(false)
            .finish();
        (journal, set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines with this event; a text of several lines ends with it.
    fn of(&self, event: &str) -> Vec<String> {
        let text = self.text();
        let wanted = format!("event=\"{event}\"");
        let lines = text.lines().filter(|line| line.contains(&wanted));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Journal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_saturated_mailbox_is_429_and_busy_rejections_rise() {
    let (rt, desk) = desk(RykerConfig::builder().mailbox_capacity(4));
    for _ in 0..4 {
        desk.try_send(Order::Take(ms(1))).unwrap();
    }
    for n in 1..=110_u32 {
        let refused = desk.try_send(Order::Panic).unwrap_err();
        assert_eq!(refused.kind().http_status(), 429);
        let busy = "ryker_busy_rejections_total{actor=\"desk\"}";
        assert_eq!(scrape(&rt, busy), f64::from(n));
    }
    let asked = desk.ask(Order::Ask).await.unwrap_err();
    assert_eq!(asked.kind().http_status(), 429);
    assert!(asked.kind().retry_after().is_some());
    let dropped = "ryker_mailbox_dropped_total{actor=\"desk\",reason=\"capacity\"}";
    assert_eq!(scrape(&rt, dropped), 111.0);
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_panics_often_is_counted_logged_and_ended_with_a_cause() {
    let (journal, _open) = Journal::open();
    let (rt, desk) = desk(RykerConfig::builder().deadline(ms(60_000)));
    for n in 1..=5 {
        desk.try_send(Order::Panic).unwrap();
        let restarts = || scrape(&rt, "ryker_actor_restarts_total{actor=\"desk\"}");
        if n < 5 {
            while restarts() < f64::from(n) {
                sleep(ms(10)).await;
            }
            let log = journal.of("actor_restart");
            assert_eq!(log.len() as i32, n, "{log:?}");
            let line = &log[n as usize - 1];
            assert!(
                line.contains("WARN") && line.contains("actor=\"desk\""),
                "{line}"
            );
            assert!(line.contains("the desk is on fire"), "{line}");
        }
    }
    let exit = desk.stopped().await;
    assert!(
        matches!(exit, ActorExit::RapidFail { failures: 5, .. }),
        "{exit:?}"
    );
    let gave_up = journal.of("actor_gave_up");
    assert_eq!(gave_up.len(), 1, "{gave_up:?}");
    assert!(gave_up[0].contains("ERROR"), "{gave_up:?}");
    assert_eq!(
        scrape(&rt, "ryker_actor_restarts_total{actor=\"desk\"}"),
        4.0
    );
    let errors = "ryker_handler_latency_seconds_count{actor=\"desk\",outcome=\"error\"}";
    assert_eq!(scrape(&rt, errors), 5.0);
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_504_and_an_outcome_of_its_own() {
    let (rt, desk) = desk(RykerConfig::builder());
    let timeouts = "ryker_handler_latency_seconds_count{actor=\"desk\",outcome=\"timeout\"}";
    let in_time = "ryker_handler_latency_seconds_count{actor=\"desk\",outcome=\"ok\"}";
    desk.try_send(Order::Take(ms(1_500))).unwrap();
    let (asked, took) = {
        let began = tokio::time::Instant::now();
        (desk.ask(Order::Ask).await.unwrap_err(), began.elapsed())
    };
    assert_eq!(asked.kind().http_status(), 504);
    assert!(took >= ms(998) && took <= ms(1_002), "{took:?}");
    sleep(ms(1_000)).await;
    assert_eq!((scrape(&rt, timeouts), scrape(&rt, in_time)), (1.0, 0.0));
    let late = "ryker_mailbox_dropped_total{actor=\"desk\",reason=\"deadline\"}";
    assert_eq!(scrape(&rt, late), 1.0, "the ask that waited behind it");
    let sum = scrape(
        &rt,
        "ryker_handler_latency_seconds_sum{actor=\"desk\",outcome=\"timeout\"}",
    );
    assert!((1.498..=1.502).contains(&sum), "{sum}");

    // What the runbook advises: a longer deadline, on the fly.
    rt.reload(RykerConfig::builder().deadline(ms(5_000)).build().unwrap());
    desk.try_send(Order::Take(ms(1_500))).unwrap();
    desk.ask(Order::Ask).await.unwrap();
    assert_eq!((scrape(&rt, timeouts), scrape(&rt, in_time)), (1.0, 2.0));
    assert!(rt.accounts().balances());
}

#[test]
fn a_bad_configuration_is_refused_counted_and_logged_as_an_error() {
    let (journal, _open) = Journal::open();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ryker.toml");
    std::fs::write(
        &path,
        "[defaults]\nmailbox_capacity = 0\ndeadline = \"9ms\"\n",
    )
    .unwrap();
    let rt = Runtime::new(RykerConfig::default());
    assert_eq!(journal.of("config_applied").len(), 1);
    let errors = "ryker_config_reload_errors_total{source=\"file\",error=\"invalid\"}";
    let before = scrape(&rt, errors);
    let running = rt.config();
    RykerConfig::from_file(&path).unwrap_err();
    assert_eq!(scrape(&rt, errors), before + 1.0);
    assert_eq!(rt.config(), running, "what ran goes on");
    let log = journal.of("config_rejected");
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(journal.text().matches("ERROR").count(), 1);

    // Corrected and applied again.
    std::fs::write(&path, "[defaults]\ndeadline = \"2s\"\n").unwrap();
    let reloads = "ryker_config_reload_total{source=\"file\"}";
    let before = scrape(&rt, reloads);
    rt.reload(RykerConfig::from_file(&path).unwrap());
    assert_eq!(scrape(&rt, reloads), before + 1.0);
    let applied = journal.of("config_applied");
    assert_eq!(applied.len(), 2, "{applied:?}");
    assert!(
        applied[1].contains("defaults.deadline: 1s -> 2s"),
        "{applied:?}"
    );
    assert!(applied[1].contains("crate=\"ryker\""), "{applied:?}");
}

#[tokio::test(start_paused = true)]
async fn drops_on_shutdown_are_counted_and_a_longer_deadline_avoids_them() {
    let lost = "ryker_mailbox_dropped_total{actor=\"desk\",reason=\"shutdown\"}";
    for (deadline, dropped) in [(45, 16.0), (1_000, 0.0)] {
        let (journal, _open) = Journal::open();
        let (rt, desk) = desk(RykerConfig::builder());
        for _ in 0..20 {
            desk.try_send(Order::Take(ms(10))).unwrap();
        }
        let mut drain = pin!(rt.drain(ms(deadline)));
        let report = loop {
            tokio::select! {
                report = &mut drain => break report,
                () = sleep(ms(5)) => {
                    let refused = desk.try_send(Order::Panic).unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Draining);
                    assert_eq!(refused.kind().http_status(), 503);
                }
            }
        };
        assert!(report.balances(), "{report:?}");
        let gone = (report.dropped + report.aborted) as f64;
        assert!((gone - dropped).abs() <= 1.0, "{report:?}");
        assert_eq!(scrape(&rt, lost), gone);
        assert_eq!(report.is_clean(), dropped == 0.0);
        assert_eq!(journal.of("drained").len(), 1);
        assert!(rt.accounts().balances());
    }
}

const CHILD: &str = "FAILURE_TABLE_CHILD";

/// The two lines of the runbook's start-up, in a process with an environment of its own.
#[test]
fn a_host_starts_as_the_runbook_writes_it_or_says_why_not() {
    if std::env::var_os(CHILD).is_some() {
        let open = tracing_subscriber::fmt().with_ansi(false).finish();
        let _open = set_default(open);
        match RykerConfig::from_env_validated() {
            Ok(cfg) => {
                let rt = Runtime::new(cfg);
                let started = scrape(&rt, "ryker_config_reload_total{source=\"startup\"}");
                println!("started {started} deadline {:?}", rt.config().deadline());
            }
            Err(error) => {
                let rt = Runtime::new(RykerConfig::default());
                let invalid =
                    "ryker_config_reload_errors_total{source=\"startup\",error=\"invalid\"}";
                println!("refused {} with {error}", scrape(&rt, invalid));
            }
        }
        return;
    }
    let host = |variables: &[(&str, &str)]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture"]);
        command.arg("a_host_starts_as_the_runbook_writes_it_or_says_why_not");
        command.env(CHILD, "1").envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let said = host(&[
        ("RYKER_DEFAULT_DEADLINE", "250ms"),
        ("RYKER_JITTER", "true"),
    ]);
    assert!(said.contains("started 1 deadline 250ms"), "{said}");
    assert!(said.contains("event=\"config_applied\""), "{said}");
    assert!(
        said.contains("WARN") && said.contains("RYKER_JITTER"),
        "{said}"
    );
    let said = host(&[
        ("RYKER_DEFAULT_DEADLINE", "9ms"),
        ("RYKER_DEFAULT_MAILBOX_CAPACITY", "0"),
    ]);
    assert!(said.contains("refused 1 with 2 problems"), "{said}");
    assert!(
        said.contains("ERROR") && said.contains("config_rejected"),
        "{said}"
    );
}
