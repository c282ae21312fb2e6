//! Two children: `api` starts only after `cache` has said that it is ready, and stops before it.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;
use std::time::Duration;

use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, TreeNode};
use tokio::time::sleep;

/// Has work to do before it can be used, so it says itself when it is ready.
async fn cache(cx: ChildContext) {
    println!("  cache: started, warming up");
    cx.status("warming up");
    if let Some(kernel) = cx.kernel() {
        println!("the tree now:");
        print_tree(&kernel.tree());
    }
    sleep(Duration::from_millis(300)).await;
    cx.status("1200 entries");
    println!("  cache: ready");
    cx.ready();
    cx.stopping().await;
    println!("  cache: stopped");
}

/// An ordinary async function. An error would restart it; `Ok` says that it is done.
async fn api(cx: ChildContext, port: u16) -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("  api: started on port {port}; cache is there");
    cx.stopping().await;
    println!("  api: stopped");
    Ok(())
}

fn print_tree(tree: &[TreeNode]) {
    for child in tree {
        let (id, state, status) = (&child.id, child.state, child.status.as_deref());
        println!("  {id:<6} {state:<9} {}", status.unwrap_or(""));
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let kernel = Kernel::builder()
        // Declared first, and still started second.
        .child(Child::task_with("api", 8080, api).after("cache"))
        .child(Child::task("cache", cache).gated(Duration::from_secs(10)))
        .build()?;

    println!("start");
    let running = kernel.start().await?;
    let handle = running.handle();
    handle.ready().await;
    println!("the tree now that all are ready:");
    print_tree(&handle.tree());

    println!("stop, in reverse order");
    let report = running.shutdown().await;
    println!(
        "report: {} started, {} stopped",
        report.started, report.stopped
    );
    Ok(())
}
