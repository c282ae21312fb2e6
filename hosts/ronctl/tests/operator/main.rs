//! The program against services that answer, lie, hang, or are not there.

mod answers;
mod cap;
mod check;
mod fake;
mod finding;
mod manual;
mod requests;
mod streams;
mod terminal;
mod trust;
