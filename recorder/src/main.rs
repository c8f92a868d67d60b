//! The recorder: channels, HTTP, supervisor.
fn main() {}
