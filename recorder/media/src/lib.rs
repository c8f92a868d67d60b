//! What a camera sends, as plain values: access units, codec parameters, MP4 boxes and fragments.
//!
//! Nothing here does I/O or knows of RTSP, volumes or Kubernetes. Everything that parses bytes from outside is bounded,
//! returns errors and never panics. `docs/format.md` is the text that the box code follows.
//!
//! ```text
//! camera bytes ─ h264, aac ─► parameters ─► init ─► ftyp, moov, init hash
//!              ─ identity ──► flags, identity
//! RTP times    ─ rtp_time ──► media times ─ dts ─► decode times
//! samples      ─ fragment ──► moof, frames box, mdat header, CRC      boxes: segment, run, index, walk
//! ```
#![deny(clippy::indexing_slicing)] // every length in here comes from a camera or a disk

pub mod aac;
mod bits;
pub mod boxes;
pub mod checksum;
pub mod dts;
pub mod fragment;
pub mod h264;
pub mod identity;
pub mod init;
pub mod rtp_time;
pub mod unit;

pub use unit::{AccessUnit, AudioFrame, FrameFlags, FrameIdentity, MediaTime, WallTime};
