//! One page per concept, each with an example that runs.
//!
//! | page | the question it answers |
//! |---|---|
//! | [`mailbox`] | what bounds a mailbox, and what happens at its ends |
//! | [`sending`] | how to send, and what to do when there is no room |
//! | [`deadlines`] | how long a message may take, and who pays when it takes longer |
//! | [`asks`] | how to get an answer, and every way of not getting one |
//! | [`fairness`] | what an actor that is flooded leaves to the others |
//! | [`supervision`] | who restarts a failed actor, when, and when no more |
//! | [`drain`] | how everything ends, and the law that says that nothing was lost unseen |
//! | [`observing`] | what can be seen: accounts, metrics, observers, spans, log lines |
//! | [`configuration`] | where values come from, and what a reload changes |
//! | [`amnesia`] | how messages with secrets are overwritten |
//! | [`testing`] | how to test an actor without waiting |
//! | [`choosing`] | when to use ryker, a plain task, or another framework |

pub mod amnesia;
pub mod asks;
pub mod choosing;
pub mod configuration;
pub mod deadlines;
pub mod drain;
pub mod fairness;
pub mod mailbox;
pub mod observing;
pub mod sending;
pub mod supervision;
pub mod testing;
