//! Tasks spawned through a context: aborted and joined with their incarnation, their failure is its own.

use ron_kernel::supervisor::{Backoff, Child};
use ron_kernel::{Kernel, Running};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;

/// Runs a test on one thread with paused time, and on two workers with real time.
fn on_both_flavours<F: Future>(test: impl Fn() -> F) {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test());
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test());
}

async fn start(child: Child) -> Running {
    Kernel::builder()
        .seed(1)
        .child(child.backoff(Backoff::NONE))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}

type Log = Arc<Mutex<Vec<String>>>;

struct Gone(Log, &'static str);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(format!("{} gone", self.1));
    }
}

#[test]
fn owned_tasks_are_gone_before_the_child_is_reported_stopped_or_replaced() {
    on_both_flavours(|| async {
        let log = Log::default();
        let bodies = log.clone();
        let crash = Arc::new(tokio::sync::Notify::new());
        let trigger = crash.clone();
        let child = Child::task("c", move |cx| {
            let (log, trigger) = (bodies.clone(), trigger.clone());
            async move {
                log.lock().unwrap().push("start".to_owned());
                for _ in 0..2 {
                    let gone = Gone(log.clone(), "owned");
                    cx.spawn(async move {
                        let _gone = gone;
                        std::future::pending::<()>().await;
                    });
                }
                tokio::select! {
                    () = cx.stopping() => Ok(()),
                    () = trigger.notified() => Err("crash"),
                }
            }
        });
        let running = start(child).await;
        until("first start", || log.lock().unwrap().len() == 1).await;
        crash.notify_one();
        until("second start", || {
            running.handle().tree()[0].generation == 2
        })
        .await;
        until("second start", || {
            log.lock().unwrap().last().unwrap() == "start"
        })
        .await;
        assert_eq!(
            *log.lock().unwrap(),
            ["start", "owned gone", "owned gone", "start"]
        );
        running.handle().stop("c").await.unwrap();
        assert_eq!(
            log.lock().unwrap().len(),
            6,
            "joined before the stop is over"
        );
        running.shutdown().await;
    });
}

#[test]
fn a_replacement_waits_for_an_owned_task_that_holds_a_worker() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let busy = Arc::new(AtomicBool::new(false));
        let overlapped = Arc::new(AtomicBool::new(false));
        let (holding, seen) = (busy.clone(), overlapped.clone());
        let child = Child::task("c", move |cx| {
            let (busy, overlapped) = (holding.clone(), seen.clone());
            async move {
                if cx.generation() == 1 {
                    let holding = busy.clone();
                    cx.spawn(async move {
                        holding.store(true, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(150));
                        holding.store(false, Ordering::SeqCst);
                    });
                    while !busy.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    return Err("crash while the owned task cannot be aborted");
                }
                overlapped.fetch_or(busy.load(Ordering::SeqCst), Ordering::SeqCst);
                cx.stopping().await;
                Ok(())
            }
        });
        let running = start(child).await;
        until("restarted", || {
            let node = &running.handle().tree()[0];
            node.generation == 2 && node.state == "ready"
        })
        .await;
        assert!(
            !overlapped.load(Ordering::SeqCst),
            "it ran beside what it replaces"
        );
        running.shutdown().await;
    });
}

#[test]
fn the_failure_of_an_owned_task_is_the_failure_of_the_child() {
    on_both_flavours(|| async {
        for panics in [true, false] {
            let child = Child::task("c", move |cx| async move {
                if cx.generation() == 1 {
                    cx.spawn(async move {
                        tokio::task::yield_now().await;
                        if panics {
                            panic!("owned trouble");
                        }
                        Err::<(), _>("owned trouble")
                    });
                }
                cx.stopping().await;
            });
            let running = start(child).await;
            until("restarted", || running.handle().tree()[0].generation == 2).await;
            let exit = running.handle().explain("c").unwrap().last_exit.unwrap();
            assert!(exit.to_string().contains("owned trouble"), "{exit}");
            assert_eq!(exit.kind(), if panics { "panicked" } else { "failed" });
            assert_eq!(running.handle().tree()[0].restarts, 1);
            running.shutdown().await;
        }
    });
}

#[test]
fn an_owned_task_that_ends_well_changes_nothing() {
    on_both_flavours(|| async {
        let ended = Arc::new(AtomicU32::new(0));
        let count = ended.clone();
        let child = Child::task("c", move |cx| {
            let count = count.clone();
            async move {
                for _ in 0..100 {
                    let count = count.clone();
                    cx.spawn(async move {
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                }
                cx.stopping().await;
            }
        });
        let running = start(child).await;
        until("all ended", || ended.load(Ordering::SeqCst) == 100).await;
        let node = running.handle().tree()[0].clone();
        assert_eq!((node.generation, node.state), (1, "ready"));
        running.shutdown().await;
    });
}

#[test]
fn owned_tasks_end_with_a_child_that_is_done() {
    on_both_flavours(|| async {
        let log = Log::default();
        let bodies = log.clone();
        let child = Child::task("c", move |cx| {
            let gone = Gone(bodies.clone(), "owned");
            async move {
                cx.spawn(async move {
                    let _gone = gone;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
            }
        });
        let running = start(child).await;
        until("done", || running.handle().tree()[0].state == "done").await;
        assert_eq!(*log.lock().unwrap(), ["owned gone"]);
        let report = running.shutdown().await;
        assert_eq!((report.started, report.stopped), (1, 1));
    });
}

#[test]
fn a_thread_child_spawns_tasks_too_and_they_end_with_it() {
    // Real threads need real time.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let log = Log::default();
        let bodies = log.clone();
        let child = Child::thread("t", move |cx| {
            let (log, gone) = (bodies.clone(), Gone(bodies.clone(), "owned"));
            cx.spawn(async move {
                let _gone = gone;
                log.lock().unwrap().push("runs".to_owned());
                std::future::pending::<()>().await;
            });
            while !cx.wait_stopping(Duration::from_secs(60)) {}
        });
        let running = start(child).await;
        until("the task runs", || !log.lock().unwrap().is_empty()).await;
        running.handle().stop("t").await.unwrap();
        assert_eq!(*log.lock().unwrap(), ["runs", "owned gone"]);
        running.shutdown().await;
    });
}
