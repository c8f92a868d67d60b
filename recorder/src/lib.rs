//! The recorder: one process that records the channels it is assigned, and answers for what it holds.
//!
//! ```text
//! supervisor ── starts, restarts ──► run
//!                                     ├ assignment   what to record: a Recorder object, from a file or a volume's copy
//!                                     ├ channel      one stream: state machine, wall clock, fragments
//!                                     ├ standby      who of its holders records a stream: links to peers, decisions
//!                                     ├ status       what it says of itself
//!                                     ├ limits       memory, descriptors: what playback may have
//!                                     └ http         probes, metrics, channels; serve: the footage
//! ```
//! Below: `framekeeper-ingest` (cameras), `framekeeper-store` (disks), `framekeeper-takeover` and `framekeeper-peer` (other recorders),
//! `framekeeper-media` (formats).

pub mod assignment;
mod channel;
mod clock;
pub mod cluster;
mod exit;
mod http;
mod limits;
mod logging;
pub mod metrics;
pub mod run;
pub mod serve;
mod standby;
mod status;
pub mod still;
pub mod supervisor;
mod view;
pub mod volume_cmd;

pub use exit::Exit;
pub use logging::{LogFormat, start as start_logging};
