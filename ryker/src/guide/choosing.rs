//! When to use ryker, a plain task, or another framework.
//!
//! # A plain task with `tokio::sync::mpsc`
//!
//! Enough where one task reads one queue, a panic may end it for good or the process with it, messages have no
//! deadline, and nobody asks at shutdown what was lost. It is less to learn and one dependency less, and it has what
//! ryker does not: reserving a place before making the message (`reserve`), streams. What it does not have is usually
//! written around it sooner or later: a timeout for each wait, a oneshot for each answer, a restart that keeps the
//! queue, counters.
//!
//! ```
//! use ryker::{Runtime, RykerConfig, SendError};
//! use tokio::sync::mpsc;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The same loop twice; this one handles what is too late as well,
//! let (jobs, mut queue) = mpsc::channel(1);
//! jobs.try_send("resize")?;
//! tokio::time::sleep(std::time::Duration::from_secs(2)).await;
//! assert_eq!(queue.recv().await, Some("resize"));
//!
//! // and this one does not, and says so.
//! let rt = Runtime::new(RykerConfig::default());
//! let (jobs, mut queue) = rt.mailbox("jobs").capacity(1).build()?.split();
//! jobs.try_send("resize")?;
//! assert!(matches!(jobs.try_send("crop"), Err(SendError::Busy("crop"))));
//! tokio::time::sleep(std::time::Duration::from_secs(2)).await;
//! drop(jobs);
//! assert_eq!(queue.recv().await, None);
//! assert_eq!((queue.accounts().expired, queue.accounts().refused.busy), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # ryker
//!
//! Where load can exceed what can be served and must be refused early: bounds by count and bytes without a way around
//! them, one deadline for waiting, queueing and handling, work that is too late dropped before it begins, restarts that
//! keep the mailbox, a drain that accounts for every message.
//!
//! # Another framework
//!
//! As of kameo 0.22, ractor 0.16, actix 0.13 and xtra 0.6:
//!
//! | | does better | look twice at |
//! |---|---|---|
//! | kameo | supervision of siblings, links, a hook for undelivered messages, actors on other machines, registries, streams, a console | restarts at once without a delay; an API that changes with each minor version |
//! | ractor | Erlang's model: links, monitoring, process groups, a registry, clusters; `Factory`, a worker pool with its own overload policies | mailboxes of ordinary actors are unbounded; restarting is yours to write or an add-on's |
//! | actix | the largest user base; state that need not be `Send`; the fastest messages between actors of one thread; timers and streams in the context | `do_send` ignores the bound; a panic is not supervised |
//! | xtra | small, runs on any executor; priorities, broadcast to many actors | its queue orders by priority only: messages of equal priority may overtake each other |
//!
//! ryker has none of what the second column names. Remoting, persistence, broadcast and registries lie outside of it:
//! it has the actors of one process, and the host owns the rest. The shape of a tree (who starts after whom, who shares
//! whose fate) is ron-kernel's, under which an actor runs as a child.
