//! The engines that turn a camera's RTSP session into access units.
//!
//! One thread reads all sockets on one tick (design: waking up is what costs). An engine knows nothing of files, slots or
//! Kubernetes: it is given sources and calls their sinks.
//!
//! ```text
//! Ingest ── ingest.rs: the tick thread, orders, token bucket
//!   └─ Source (one a camera) ── source.rs: attempts, back-off, silence, time jumps, first random access point, counters
//!        ├─ Session of an Engine ── engine.rs: the trait; native/: RTSP over TCP
//!        └─ Sink ── event.rs: who listens
//! ```
//! What decides takes time and chance as values (`backoff.rs`, `bucket.rs`, `silence.rs`, `time_jump.rs`); a panic in one session is that
//! session's error (`contain.rs`).
#![deny(clippy::indexing_slicing)] // every length in here comes from a camera

pub mod backoff;
pub mod bucket;
pub mod clock;
mod config;
mod contain;
pub mod engine;
pub mod event;
mod ingest;
mod key_frames;
mod native;
mod rtp_aac;
mod rtp_h264;
pub mod silence;
mod source;
mod spec;
mod stats;
mod time_jump;

pub use config::IngestConfig;
pub use event::{Event, SenderReport, SessionEnd, SessionEndKind, Sink, StreamParameters, TickTime};
pub use ingest::{AfterTick, Ingest, TickStats};
pub use spec::{Credentials, SourceId, SourceSpec, SpecError};
pub use stats::SourceStats;
