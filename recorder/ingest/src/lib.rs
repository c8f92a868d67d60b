//! The engines that turn a camera's RTSP session into access units.
//!
//! One thread reads all sockets on one tick (design: waking up is what costs). An engine knows nothing of files, slots or
//! Kubernetes: it is given sources and calls their sinks.
#![deny(clippy::indexing_slicing)] // every length in here comes from a camera

pub mod event;

pub use event::{Event, SenderReport, SessionEnd, SessionEndKind, Sink, StreamParameters, TickTime};
