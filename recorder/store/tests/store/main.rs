//! The store from outside, in one program: disks that fail, processes that die, and what is found afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

mod common;
mod crash;
mod flips;
mod full;
mod in_blocks;
mod limits;
mod open;
mod players;
mod power;
mod real_disk;
mod recovery;
mod retire;
mod round_trip;
mod trouble;
mod unordered;
