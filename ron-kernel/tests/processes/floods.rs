use crate::rig::{sh, start, PATIENCE};
use ron_kernel::supervisor::Child;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_flood_of_output_leaves_the_worker_to_others() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (tick, ticks) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let kernel = runtime.spawn(async move {
        let running = start([Child::process("loud", sh("exec yes"))]).await;
        let _ = stopped.await;
        running.shutdown().await;
    });
    runtime.spawn(async move {
        while tick.send(()).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    for number in 0..100 {
        let ticked = ticks.recv_timeout(PATIENCE);
        if ticked.is_err() {
            // Its worker does not come back.
            runtime.shutdown_background();
            panic!("no tick after {number} of them");
        }
    }
    drop(stop);
    runtime.block_on(kernel).unwrap();
}
