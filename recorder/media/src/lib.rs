//! What a camera sends, as plain values: access units, codec parameters, MP4 boxes and fragments.
//!
//! Nothing here does I/O or knows of RTSP, volumes or Kubernetes. Everything that parses bytes from outside is bounded,
//! returns errors and never panics. `docs/format.md` is the text that the box code follows.
#![deny(clippy::indexing_slicing)] // every length in here comes from a camera or a disk

pub mod unit;

pub use unit::{AccessUnit, AudioFrame, FrameFlags, FrameIdentity, MediaTime, WallTime};
