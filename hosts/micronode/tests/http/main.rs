//! The node over a real socket.

mod drain;
mod limits;
mod objects;
mod rig;
