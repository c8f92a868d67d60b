//! `clip.mp4`: a range of a stream's time as one progressive MP4, made while it is sent.
//!
//! ```text
//! catalogue ─ select ─► parts ─ stretch (merge, overlap, change_over) ─► stretches ─ plan (audio, descriptions) ─► plan
//! plan ─ layout (boxes) ─► slices of a virtual file ─ file (view) ─► any range of its bytes ─ stream ─► HTTP
//! ```
//! Everything up to the bytes is a pure function of the footage. Only what must be decided is read ahead: the first and the last
//! segment of each run, and, where two recorders recorded at once, what both have, some minutes of it at a time. The indexes between are read while their
//! rows are sent.

mod audio;
mod boxes;
mod change_over;
pub mod descriptions;
pub mod file;
pub mod layout;
mod merge;
mod overlap;
pub mod plan;
mod select;
mod stretch;
mod view;

use super::footage::FootageError;

/// Why there is no clip.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The range has no frame that could be shown.
    #[error("the range has no frame")]
    NoFrames,
    /// The range has more frames than one file can list.
    #[error("the range has too many frames for one MP4 file")]
    TooLong,
    /// The footage cannot be read.
    #[error(transparent)]
    Footage(#[from] FootageError),
}
