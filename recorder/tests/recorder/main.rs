//! The recorder from outside, in one program: its process, its commands, and what it serves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

mod by_hand;
mod clip;
mod metrics_page;
mod process;
mod serve_footage;
mod serve_http;
mod serve_store;
mod support;
mod volume_cmd;
