//! Which threads may hold what: Send, Sync and Unpin of the public types, Send of the futures. Checked by
//! the compiler; a type that loses one of them no longer compiles here.

use ron_kernel::supervisor::{
    Backoff, Child, ChildContext, Exhausted, Exit, Group, Intensity, Kind, PolicyError, Restart,
    RestartPolicy, Spec, Step, StopToken, Strategy, Timeout, TreeError, Verdict,
};
use ron_kernel::{
    Bus, Change, ChildEvent, Config, ControlError, Explanation, Fault, HealthState, Kernel,
    KernelBuilder, KernelError, KernelEvent, KernelHandle, Metrics, Reason, ReloadError, Running,
    ShutdownReport, TreeNode,
};
use std::time::Duration;

fn anywhere<T: Send + Sync + Unpin + 'static>() {}
fn error<T: std::error::Error + Send + Sync + 'static>() {}
fn value<T: Clone + std::fmt::Debug + Send + Sync + Unpin + 'static>() {}
fn sendable<T: Send>(_: &T) {}

#[test]
fn public_types_may_be_sent_and_shared() {
    anywhere::<KernelBuilder>();
    anywhere::<Kernel>();
    anywhere::<Running>();
    value::<KernelHandle>();
    value::<ChildContext>();
    value::<StopToken>();
    value::<Child>();
    value::<Group>();
    value::<Spec>();
    value::<Config>();
    value::<Fault>();
    value::<KernelEvent>();
    value::<ChildEvent>();
    value::<Change>();
    value::<TreeNode>();
    value::<Explanation>();
    value::<Reason>();
    value::<ShutdownReport>();
    value::<Exit>();
    value::<Timeout>();
    value::<Kind>();
    value::<Restart>();
    value::<Strategy>();
    value::<Exhausted>();
    value::<Backoff>();
    value::<Intensity>();
    anywhere::<RestartPolicy>();
    anywhere::<Step>();
    anywhere::<Verdict>();
    value::<Bus>();
    anywhere::<Metrics>();
    anywhere::<HealthState>();
    error::<KernelError>();
    error::<ControlError>();
    error::<ReloadError>();
    error::<TreeError>();
    error::<PolicyError>();
}

fn context(cx: &ChildContext) {
    sendable(&cx.stopping());
    fn owned<F: std::future::Future<Output = ()> + Send + 'static>(_: F) {}
    owned(cx.stopping_owned());
}

#[tokio::test(start_paused = true)]
async fn futures_may_be_sent() {
    let child = Child::task("c", |cx| async move {
        context(&cx);
        cx.stopping().await;
    });
    let start = Kernel::builder().child(child).build().unwrap().start();
    sendable(&start);
    let running = start.await.unwrap();
    let handle = running.handle().clone();
    let stop = handle.stop("c");
    sendable(&stop);
    sendable(&handle.ended());
    sendable(&handle.ready());
    sendable(&handle.reload());
    // Really on another thread.
    let elsewhere = running.handle().clone();
    tokio::spawn(async move { elsewhere.stop("c").await })
        .await
        .unwrap()
        .unwrap();
    stop.await.unwrap();
    let shutdown = running.shutdown();
    sendable(&shutdown);
    shutdown.await;

    let run = Kernel::builder()
        .build()
        .unwrap()
        .run_until(tokio::time::sleep(Duration::ZERO));
    sendable(&run);
    run.await.unwrap();
    let running = Kernel::builder().build().unwrap().start().await.unwrap();
    running.handle().shutdown();
    let ended = running.ended();
    sendable(&ended);
    ended.await;
}
