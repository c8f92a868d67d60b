//! Looking at footage with nobody's help: a volume, a plain copy of its files, a part of `streams/`, or a single segment.
//!
//! ```text
//! place ── what lies where ──► look ── each file's survey ──► Seen ──► shelf ── streams, runs, gaps
//!                               books ── manifest, catalogue       └─► repair
//! ```
//! Nothing here opens a file for writing but [`repair`], and nothing needs a recorder, a lock or a catalogue.

mod books;
mod finding;
mod look;
mod place;
pub mod repair;
mod shelf;

pub use finding::{Finding, Kind, Severity};
pub use look::{Depth, Filter, Progress, Seen, SeenSegment};
pub use place::{Place, PlaceError, VolumeFacts};
pub use shelf::{SeenStream, streams};
