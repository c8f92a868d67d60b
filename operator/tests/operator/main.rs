//! The operator from outside, in one program: what it reads, and what its local control plane does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

mod local;
mod manifests;
mod standbys;
mod support;
