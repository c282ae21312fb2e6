//! The demo as its operator sees it: started as a process, asked over HTTP, signalled, read by its log.
#![cfg(unix)]

mod chaos;
mod control;
mod notify;
mod process;
mod reloading;
mod services;
mod serving;
mod starting;
mod stopping;
