//! What is left when nobody drives the kernel any more, or somebody else's code runs inside of it.

use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, KernelHandle};
use std::future::Future;
use std::sync::mpsc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Longer than any of this takes; what fails, fails by waiting this long.
const PATIENCE: Duration = Duration::from_secs(20);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Says on which way out it was dropped.
struct Gone(mpsc::Sender<&'static str>, &'static str);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[test]
fn dropping_the_runtime_ends_thread_children_and_tells_those_who_wait_for_the_end() {
    let (tell, told) = mpsc::channel();
    let runtime = one_thread();
    let (tell_thread, tell_task) = (tell.clone(), tell);
    let handle = runtime.block_on(async move {
        let tell_thread = std::sync::Mutex::new(tell_thread);
        let tell_task = std::sync::Mutex::new(tell_task);
        let thread = Child::thread("thread", move |cx: ChildContext| {
            let _gone = Gone(tell_thread.lock().unwrap().clone(), "thread");
            while !cx.wait_stopping(PATIENCE) {}
        });
        let task = Child::task("task", move |cx: ChildContext| {
            let gone = Gone(tell_task.lock().unwrap().clone(), "task");
            async move {
                let _gone = gone;
                cx.stopping().await;
            }
        });
        let kernel = Kernel::builder().child(thread).child(task).build().unwrap();
        let running = kernel.start().await.unwrap();
        running.handle().ready().await;
        // Dropped here, which begins a shutdown that nobody is left to carry out.
        running.handle().clone()
    });
    drop(runtime);
    let mut gone = [(); 2].map(|()| told.recv_timeout(PATIENCE).expect("both end"));
    gone.sort_unstable();
    assert_eq!(gone, ["task", "thread"]);
    let report = one_thread().block_on(async {
        let ended = tokio::time::timeout(PATIENCE, handle.ended()).await;
        ended.expect("the end is told in another runtime")
    });
    assert_eq!(report.started, 2);
    assert!(report.is_balanced(), "{report:?}");
    let failure = report.failure.unwrap();
    assert!(failure.contains("runtime"), "{failure}");
}

/// A waker that looks at the tree.
struct Nosy(KernelHandle, mpsc::Sender<usize>);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0.tree().len());
    }
}

#[test]
fn a_waker_that_looks_at_the_tree_does_not_deadlock() {
    let (saw, seen) = mpsc::channel();
    let (stopped, when_stopped) = mpsc::channel();
    let saw = std::sync::Mutex::new(saw);
    let child = Child::thread("thread", move |cx: ChildContext| {
        let (look, looked) = mpsc::channel();
        let waker = Waker::from(Arc::new(Nosy(cx.kernel().unwrap(), look)));
        let mut stopping = Box::pin(cx.stopping_owned());
        let polled = stopping.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Pending);
        cx.ready();
        // Not by its token: who drops the future before it is woken is not woken.
        let children = looked.recv_timeout(PATIENCE);
        let _ = saw.lock().unwrap().send(children);
    });
    // On a thread of its own: what deadlocks must not take the test with it.
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::builder().child(child.gated(PATIENCE).stop_timeout(PATIENCE));
            let running = kernel.build().unwrap().start().await.unwrap();
            running.handle().ready().await;
            let _ = stopped.send(running.handle().stop("thread").await);
            running.shutdown().await;
        });
    });
    let stop = when_stopped.recv_timeout(PATIENCE);
    stop.expect("the stop resolves").unwrap();
    let children = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(children, Ok(1), "the waker saw the one child");
}

#[test]
fn a_runtime_that_goes_during_a_restart_is_dropped_all_the_same() {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let runtime = one_thread();
        let handle = runtime.block_on(async {
            let slow = Child::task("slow", |_| std::future::pending::<()>()).stop_timeout(PATIENCE);
            let kernel = Kernel::builder().child(slow).build().unwrap();
            let running = kernel.start().await.unwrap();
            running.handle().ready().await;
            running.handle().restart("slow").unwrap();
            running.handle().clone()
        });
        drop(runtime);
        let _ = done.send(handle.tree().len());
    });
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(1));
}
