//! Every test on a simulated disk once more, with segments written in whole blocks, as they are past the page cache.
#![allow(clippy::duplicate_mod, reason = "these files once more, with helpers whose disk writes in blocks")]

#[path = "common/mod.rs"]
mod common;

#[path = "crash.rs"]
mod crash;
#[path = "open.rs"]
mod open;
#[path = "retire.rs"]
mod retire;
#[path = "trouble.rs"]
mod trouble;
