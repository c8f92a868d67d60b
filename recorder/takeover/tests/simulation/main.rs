//! Recorders that share streams, under one seed: what no course of events may do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, in their helpers too"
)]

mod disk;
mod faults;
mod node;
mod planner;
mod scenes;
mod seeds;
mod storage;
mod world;
