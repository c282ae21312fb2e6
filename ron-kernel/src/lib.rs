//! One supervision tree for async tasks and threads, with restarts, readiness and orderly shutdown.
#![forbid(unsafe_code)]
