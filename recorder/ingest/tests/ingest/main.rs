//! Ingest from outside, in one program: cameras that serve well, badly, and like others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

mod common;
mod gstreamer;
mod oracle;
mod redirects;
mod sessions;
mod trouble;
