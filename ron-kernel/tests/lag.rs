//! A reader that loses events degrades readiness by name, and no longer than it loses.

use ron_kernel::Kernel;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_lagging_reader_is_named_in_readiness_and_the_service_stays_ready() {
    let running = Kernel::builder().build().unwrap().start().await.unwrap();
    let orders = running
        .handle()
        .bus()
        .topic_spec("orders")
        .capacity(4)
        .open::<u64>()
        .unwrap();
    let _slow = orders.subscriber().name("audit").build().unwrap();
    let health = running.handle().health().clone();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(health.snapshot().causes().count(), 0);

    for n in 0..3_u32 {
        for event in 0..10 {
            orders.publish(event + u64::from(n)).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let snapshot = health.snapshot();
    assert!(snapshot.ready() && snapshot.degraded());
    let cause = snapshot
        .causes()
        .find(|cause| cause.key == "bus_lag")
        .unwrap();
    assert!(
        cause.reason.contains("audit on topic orders"),
        "{}",
        cause.reason
    );

    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(!health.snapshot().degraded(), "nothing lost any more");
    running.shutdown().await;
}
