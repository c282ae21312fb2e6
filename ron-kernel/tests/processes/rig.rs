//! A kernel with process children, and what its tests wait for.

use ron_kernel::process::Command;
use ron_kernel::supervisor::Child;
use ron_kernel::{Kernel, KernelHandle, Running, TreeNode};
use std::time::Duration;

/// Longer than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn sh(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

pub(crate) async fn start(children: impl IntoIterator<Item = Child>) -> Running {
    let builder = Kernel::builder();
    let builder = children
        .into_iter()
        .fold(builder, |builder, child| builder.child(child));
    builder.build().unwrap().start().await.unwrap()
}

pub(crate) fn node(handle: &KernelHandle, id: &str) -> Option<TreeNode> {
    fn find(nodes: Vec<TreeNode>, id: &str) -> Option<TreeNode> {
        nodes.into_iter().find_map(|node| {
            if node.id == id {
                return Some(node);
            }
            find(node.children, id)
        })
    }
    find(handle.tree(), id)
}

pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn until_state(handle: &KernelHandle, id: &str, state: &str) -> TreeNode {
    until(&format!("{id} is {state}"), || {
        node(handle, id).filter(|node| node.state == state)
    })
    .await
}

pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // A zombie has ended.
    stat.is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}
