//! Plans which recorder records what, and runs it: in a cluster or on one machine.
fn main() {}
