//! The node over a real socket.

mod capabilities;
mod drain;
mod limits;
mod mailbox;
mod objects;
mod rig;
mod tls;
