//! The core through its public API: documents, policies, payouts, their proof, and golden vectors.

mod checking;
mod documents;
mod golden;
mod payouts;
mod policies;
mod recompute;
mod support;
