//! How to get an answer, and every way of not getting one.
//!
//! A variant that wants an answer carries a [`Reply`](crate::Reply). [`ask`](crate::ActorRef::ask) makes the reply,
//! sends the message and waits; the handler answers with [`Reply::send`](crate::Reply::send), at once or later, itself
//! or through a task that it gives the reply to.
//!
//! | the ask fails with | because | at |
//! |---|---|---|
//! | `NotSent(Busy)` | the mailbox is full | once, with the message |
//! | `NotSent(Draining)`, `NotSent(Closed)` | the actor takes nothing more in, or has ended | once, with the message |
//! | `NotSent(TooLarge)`, `NotSent(Deadline)` | it never fits; the deadline had passed before | once, with the message |
//! | `Timeout` | no answer came | the deadline |
//! | `Draining`, `Closed` | it was queued when the actor's end dropped it | that moment |
//! | `NoReply` | the handler failed, panicked or dropped the reply | that moment |
//!
//! Only `Timeout` and `NoReply` leave open whether the message had an effect. All have a
//! [`kind`](crate::AskError::kind) for HTTP and gRPC.
//!
//! ```
//! use ryker::{Actor, AskError, Context, Reply, Runtime, RykerConfig};
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! enum Msg {
//!     Square(u64, Reply<u64>),
//!     Forget(Reply<()>),
//!     Work(Reply<()>),
//! }
//!
//! struct Worker {
//!     worked: u32,
//! }
//!
//! impl Actor for Worker {
//!     type Msg = Msg;
//!     type Error = Infallible;
//!
//!     async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
//!         match message {
//!             Msg::Square(n, reply) => drop(reply.send(n * n)),
//!             Msg::Forget(_) => {}
//!             Msg::Work(reply) => {
//!                 tokio::time::sleep(Duration::from_millis(100)).await;
//!                 if !reply.is_gone() {
//!                     self.worked += 1;
//!                     drop(reply.send(()));
//!                 }
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let worker = rt.actor("worker", || Worker { worked: 0 }).capacity(2).spawn()?;
//!
//! assert_eq!(worker.ask(|reply| Msg::Square(12, reply)).await?, 144);
//! assert!(matches!(worker.ask(Msg::Forget).await, Err(AskError::NoReply)));
//!
//! // Giving up is dropping. What is still queued then is never handled.
//! tokio::select! {
//!     biased;
//!     _ = async { tokio::join!(worker.ask(Msg::Work), worker.ask(Msg::Work)) } => unreachable!(),
//!     () = tokio::time::sleep(Duration::from_millis(50)) => {}
//! }
//! tokio::time::sleep(Duration::from_millis(100)).await;
//! assert_eq!(worker.accounts().abandoned, 1);
//!
//! worker.stop();
//! let Err(AskError::NotSent(refused)) = worker.ask(Msg::Work).await else {
//!     panic!("it takes nothing more in");
//! };
//! assert!(matches!(refused.into_inner(), Msg::Work(_)));
//! # Ok(())
//! # }
//! ```
//!
//! Two actors that ask each other at the same time wait for each other until the earlier deadline, and so does an actor
//! that asks itself. Let one of them send, or give the reply to a task.
