//! A program outside the workspace, built against the archives: the frozen root of ron-kernel is all there.
use std::mem::size_of;
use std::process::ExitCode;

use ron_kernel::{wait_for_ctrl_c, Bus, Config, HealthState, Kernel, KernelEvent, Metrics};

/// No wildcard: the four variants are all there are.
fn service(event: &KernelEvent) -> Option<&str> {
    match event {
        KernelEvent::Health { service, ok: _ } => Some(service),
        KernelEvent::ServiceCrashed { service, reason: _ } => Some(service),
        KernelEvent::ConfigUpdated { version: _ } | KernelEvent::Shutdown => None,
    }
}

fn main() -> ExitCode {
    let _ = Kernel::builder();
    let _ = wait_for_ctrl_c;
    let _ = [
        size_of::<Bus>(),
        size_of::<Config>(),
        size_of::<HealthState>(),
        size_of::<Metrics>(),
    ];
    match service(&KernelEvent::Shutdown) {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    }
}
