//! Every test on a simulated disk once more, with segments written in whole blocks, as they are past the page cache.
#![allow(clippy::duplicate_mod, reason = "each of these files has the helpers as a module of its own")]
#![allow(unreachable_pub, reason = "a test's module has no outside")]

#[path = "crash.rs"]
mod crash;
#[path = "open.rs"]
mod open;
#[path = "retire.rs"]
mod retire;
#[path = "trouble.rs"]
mod trouble;
