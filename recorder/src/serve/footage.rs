//! What serving needs to know of recorded footage, and nothing of how it is kept.
//!
//! [`Footage`] is the wall between HTTP and the store: the store's reader implements it, and so does footage in memory, so that
//! every decision here can be tested without a disk. All calls may block; they belong on the blocking pool.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use framekeeper_media::{FrameFlags, WallTime};
pub use framekeeper_store::damage::Hole;
pub use framekeeper_store::{RunInfo as Run, SegmentCounts as Counts, SegmentInfo as Segment};
use uuid::Uuid;

/// The frames of a segment, from its index.
#[derive(Debug, Default)]
pub struct SegmentFrames {
    /// Runs in file order; their ranges follow each other.
    pub runs: Vec<RunPart>,
    /// Video frames in decoding order.
    pub video: Vec<VideoEntry>,
    /// Audio frames in order of time.
    pub audio: Vec<AudioEntry>,
    /// For each fragment: how many video and audio frames there are up to its end.
    pub fragments: Vec<(u32, u32)>,
}

impl SegmentFrames {
    /// About how much memory this takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of_val(self.video.as_slice())
            + size_of_val(self.audio.as_slice())
            + size_of_val(self.fragments.as_slice())
            + 256
    }
}

/// What one segment holds of one run.
#[derive(Clone, Debug)]
pub struct RunPart {
    /// The run.
    pub run: Uuid,
    /// Media time (90 kHz, unwrapped RTP) = file time + this.
    pub video_offset: i64,
    /// Its video frames, as positions in [`SegmentFrames::video`].
    pub video: Range<u32>,
    /// Its audio frames, as positions in [`SegmentFrames::audio`].
    pub audio: Range<u32>,
    /// Wall time at which its last frame here ends.
    pub end: WallTime,
    /// The camera's own clock at file time 0, microseconds since 1900, by its newest sender report of when the recording of it here began.
    pub camera_zero_us: Option<i64>,
}

/// One video frame in a segment.
#[derive(Clone, Copy, Debug)]
pub struct VideoEntry {
    /// Wall time of its presentation.
    pub wall: WallTime,
    /// Decode time: file time, 90 kHz.
    pub dts: i64,
    /// Hash of its VCL NAL units, 0 = none.
    pub identity: u64,
    /// Where its bytes are in the file.
    pub offset: u32,
    /// How many they are.
    pub len: u32,
    /// Presentation time − decode time, 90 kHz.
    pub composition_offset: i32,
    /// Random access, sync, loss.
    pub flags: FrameFlags,
}

impl VideoEntry {
    /// Whether decoding can begin here.
    #[must_use]
    pub fn random_access(&self) -> bool {
        self.flags.contains(FrameFlags::RANDOM_ACCESS)
    }

    /// Presentation time: file time, 90 kHz.
    #[must_use]
    pub fn pts(&self) -> i64 {
        self.dts.saturating_add(i64::from(self.composition_offset))
    }
}

/// One audio frame in a segment.
#[derive(Clone, Copy, Debug)]
pub struct AudioEntry {
    /// File time, in ticks of the audio track's timescale.
    pub time: i64,
    /// How long it plays, in the same ticks.
    pub duration: u32,
    /// Where its bytes are in the file.
    pub offset: u32,
    /// How many they are.
    pub len: u32,
}

/// The head of a segment file: what names and describes its codecs.
#[derive(Clone, Debug)]
pub struct Init {
    /// `ftyp` and `moov`.
    pub bytes: Bytes,
    /// Whether frames may be decoded in another order than they are shown.
    pub reorders: bool,
}

/// Why footage could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FootageError {
    /// It was retired since: plan again and find what there is now.
    #[error("the footage was retired while it was read")]
    Gone,
    /// What is on the disk does not check. It is remembered: plan again, and it is left out.
    #[error("{0}")]
    Damaged(String),
    /// The disk, or what is on it, is broken.
    #[error("{0}")]
    Broken(String),
}

/// Keeps segments from being zeroed under a reader, for a while; ends when dropped.
pub trait Lease: Send {}
impl<T: Send> Lease for T {}

/// Recorded footage of one recorder.
pub trait Footage: Send + Sync + 'static {
    /// UID of the stream of that name.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    fn find(&self, namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError>;
    /// Runs that have frames at `from ≤ wall time < to`, in order of their beginning.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    fn coverage(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError>;
    /// Segments whose time `first..end` has a common instant with `from..to`, in order of their beginning.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError>;
    /// The frames of a segment.
    ///
    /// # Errors
    /// When it is gone or cannot be read.
    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError>;
    /// The head of a segment.
    ///
    /// # Errors
    /// When it is gone or cannot be read.
    fn init(&self, segment: &Segment) -> Result<Init, FootageError>;
    /// Fills `buf` from the segment's file at `offset`, and makes sure afterwards that the file was still this use of it.
    ///
    /// # Errors
    /// When it is gone or cannot be read; `buf` is worthless then.
    fn read_at(&self, segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError>;
    /// What of a stream is known to be damaged, and left out of everything else here.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    fn damage(&self, _stream: Uuid) -> Result<Vec<Hole>, FootageError> {
        Ok(Vec::new())
    }
    /// Another number after each change of what [`Self::damage`] tells of a stream.
    fn damage_version(&self, _stream: Uuid) -> u64 {
        0
    }
    /// Whether all that is held can be found; right after a start it may not be yet.
    fn is_complete(&self) -> bool {
        true
    }
    /// Bytes of what was read and is kept.
    fn cache_bytes(&self) -> usize {
        0
    }
    /// Wall times between which the stream's footage is never given up, in order.
    fn holds(&self, _stream: Uuid) -> Vec<(WallTime, WallTime)> {
        Vec::new()
    }
    /// Asks that these segments stay as they are for up to a minute.
    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease>;
    /// Of the run that is being recorded, frames before this wall time are safe on disk. `None`: all that there is is safe.
    fn durable_until(&self, stream: Uuid) -> Option<WallTime>;
}
