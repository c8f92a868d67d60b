//! The format from outside, in one program: against `docs/format.md`, against itself, against ffmpeg.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

mod golden;
mod players;
mod round_trips;
mod support;
