//! How often configurations were taken and refused in this process, for the two counters of reloads.
//!
//! Static, because a configuration is refused before there is any runtime to count it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ErrorKind, Source};

static RELOADS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static ERRORS: [[AtomicU64; 3]; 4] = [const { [const { AtomicU64::new(0) }; 3] }; 4];

/// A runtime took a configuration: at its start ([`Source::Startup`]) or in a reload.
pub(crate) fn count_reload(source: Source) {
    RELOADS[source as usize].fetch_add(1, Ordering::Relaxed);
}

/// A configuration was refused.
pub(crate) fn count_error(source: Source, kind: ErrorKind) {
    ERRORS[source as usize][kind as usize].fetch_add(1, Ordering::Relaxed);
}

/// `ryker_config_reload_total`, every label.
pub(crate) fn reloads() -> impl Iterator<Item = (Source, u64)> {
    Source::ALL
        .into_iter()
        .map(|source| (source, RELOADS[source as usize].load(Ordering::Relaxed)))
}

/// `ryker_config_reload_errors_total`, every pair of labels.
#[cfg(any(test, feature = "metrics"))]
pub(crate) fn errors() -> impl Iterator<Item = (Source, ErrorKind, u64)> {
    Source::ALL.into_iter().flat_map(|source| {
        ErrorKind::ALL.into_iter().map(move |kind| {
            let count = &ERRORS[source as usize][kind as usize];
            (source, kind, count.load(Ordering::Relaxed))
        })
    })
}
