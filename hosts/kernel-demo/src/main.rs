//! The kernel demo.
fn main() {}
