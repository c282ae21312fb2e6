//! Many children that come and go at run time: nothing of them stays behind.

use ron_kernel::metrics::Format;
use ron_kernel::supervisor::{Child, Restart};
use ron_kernel::{Kernel, KernelHandle};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;

/// Lines of samples in the exposition.
fn series(handle: &KernelHandle) -> usize {
    let text = handle.metrics().render(Format::Prometheus);
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn a_hundred_thousand_temporary_children_come_and_go_and_leave_nothing_behind() {
    const CHILDREN: u32 = 100_000;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Child::task("server", |cx| async move { cx.stopping().await });
        let running = Kernel::builder()
            .child(server)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        let handle = running.handle().clone();
        handle.ready().await;
        let ran = Arc::new(AtomicU32::new(0));
        let connection = |name: String, ran: &Arc<AtomicU32>| {
            let ran = ran.clone();
            Child::task(name, move |_| {
                let ran = ran.clone();
                async move {
                    tokio::task::yield_now().await;
                    ran.fetch_add(1, Ordering::Relaxed);
                }
            })
            .restart(Restart::Temporary)
        };
        let (mut before, mut most) = (0, 0);
        for number in 0..CHILDREN {
            handle
                .start(connection(format!("conn-{number}"), &ran))
                .unwrap();
            if number % 1_000 == 999 {
                while ran.load(Ordering::Relaxed) <= number {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                most = most.max(handle.tree().len());
            }
            if number == 9_999 {
                before = series(&handle);
            }
        }
        for _ in 0..5_000 {
            if handle.tree().len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(handle.tree().len(), 1, "only the server is left");
        assert!(
            most < 2_000,
            "forgotten as they end, not at the end: {most}"
        );
        let after = series(&handle);
        assert_eq!(
            before, after,
            "series after 10,000 and after 100,000 children"
        );
        let report = running.shutdown().await;
        assert_eq!(report.started, u64::from(CHILDREN) + 1);
        assert_eq!(report.stopped, report.started, "{report:?}");
        assert!(report.is_balanced());
    });
}

#[test]
fn ten_thousand_children_alive_at_once_are_listed_and_stopped() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let running = Kernel::builder().build().unwrap().start().await.unwrap();
        for number in 0..10_000 {
            let child = Child::task(
                format!("c{number}"),
                |cx| async move { cx.stopping().await },
            );
            running.handle().start(child).unwrap();
        }
        for _ in 0..2_000 {
            if running
                .handle()
                .tree()
                .iter()
                .all(|node| node.state == "ready")
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let tree = running.handle().tree();
        assert_eq!(tree.len(), 10_000);
        assert!(tree.iter().all(|node| node.state == "ready"));
        let report = running.shutdown().await;
        assert_eq!(
            (report.started, report.stopped),
            (10_000, 10_000),
            "{report:?}"
        );
    });
}
