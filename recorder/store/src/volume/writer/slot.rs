//! What the writer knows of each stream, and what it gathers before it is written.

use std::sync::Arc;

use bytes::Bytes;
use framekeeper_media::boxes::run::{GapReason, ReportedTime, RunBox};
use framekeeper_media::{MediaTime, WallTime};

use super::super::unit::{Head, Tail};
use crate::env::Target;
use crate::segment::index::StoredFragment;
use crate::segment::live::LiveSegment;
use crate::segment::place::Placer;
use crate::segment::rollover::GopCosts;
use crate::stats::DropReason;
use crate::stream::StreamState;
use crate::types::{PreviousRun, RunStart};

/// Runs of one clock follow each other, but for a frame's length.
const OVERLAP_US: i64 = 1_000_000;

/// What the writer knows of a stream on its volume.
#[derive(Default)]
pub(crate) struct Slot {
    pub(super) active: Option<Active>,
    pub(super) run: Option<CurrentRun>,
    /// Frames are dropped up to the next random access point; then a new run begins for this reason.
    pub(super) broken: Option<(GapReason, DropReason)>,
    /// Number of the stream's next segment here.
    pub(super) next_number: u64,
    /// The latest beginning of any of its segments here.
    pub(super) latest_first: Option<WallTime>,
    pub(super) costs: GopCosts,
    /// The GOP began in an earlier segment.
    pub(super) inside_gop: bool,
    /// There is no file for it: it went elsewhere, or waits.
    pub(super) full: Option<Full>,
    /// Its last segment here is full.
    pub(super) turn_is_over: bool,
}

impl Slot {
    /// A stream that has segments here already.
    pub(crate) fn resume(next_number: u64, latest_first: WallTime, active: Option<Active>) -> Self {
        Self { next_number, latest_first: Some(latest_first), active, ..Self::default() }
    }

    /// What is left of it when the stream goes elsewhere: it may come back.
    pub(super) fn left(&self) -> Self {
        Self { next_number: self.next_number, latest_first: self.latest_first, ..Self::default() }
    }
}

/// What becomes of a stream that finds no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It has gone to another volume, from the fragment that found none on at the latest.
    Moved,
    /// One will be free soon.
    Waits,
    /// It is the turn of another volume.
    HandedOver,
}

/// What goes with a stream to the volume whose turn it is.
pub(crate) struct Carry {
    pub(super) run: Option<CurrentRun>,
    pub(super) costs: GopCosts,
}

impl Carry {
    /// Nothing.
    #[cfg(test)]
    pub(crate) fn empty() -> Box<Self> {
        Box::new(Self { run: None, costs: GopCosts::default() })
    }
}

/// The segment that a stream is written to.
pub(crate) struct Active {
    pub(super) live: Arc<LiveSegment>,
    pub(super) placer: Placer,
    pub(super) unit: Unit,
    /// The file is in `streams/`, where readers find it, or will be once the batch is written.
    pub(super) visible: bool,
    /// Once something was written.
    pub(super) output: Option<Output>,
}

/// Where the segment is written.
pub(super) struct Output {
    pub(super) target: Target,
    pub(super) tail: Tail,
    /// The last batch in which there is something of it.
    pub(super) batch: u64,
}

impl Active {
    /// A segment found unsealed, to be filled on.
    pub(crate) fn resume(live: Arc<LiveSegment>, placer: Placer) -> Self {
        Self { live, placer, unit: Unit::default(), visible: true, output: None }
    }
}

impl Active {
    /// Wall time at which the newest run in it ends, less what that may overlap with the next one's beginning.
    pub(super) fn latest(&self) -> WallTime {
        let staged = self.unit.run_end.map(|run| run.end);
        let written = self.live.with_index(|index| index.run_end()).map(|run| run.end);
        staged.or(written).unwrap_or(WallTime(i64::MIN)).saturating_add_us(-OVERLAP_US)
    }
}

#[derive(Clone)]
pub(super) struct CurrentRun {
    /// As it was asked for; `start` has the name that it has here.
    pub(super) given: uuid::Uuid,
    pub(super) start: RunStart,
    pub(super) gap: GapReason,
    pub(super) previous: Option<PreviousRun>,
    pub(super) sender_report: Option<ReportedTime>,
    /// It has frames in an earlier segment.
    pub(super) began: bool,
}

/// Where items of a stream come from.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    /// How often the stream had moved.
    pub(super) moves: u64,
    /// Items below were given to another volume before.
    pub(super) again_below: u64,
    /// Frames of items below were counted before.
    pub(super) counted_below: u64,
}

/// Which item of a stream.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) number: u64,
    pub(super) from: Origin,
}

/// Boxes that are written in one go.
#[derive(Default)]
pub(super) struct Unit {
    pub(super) offset: u64,
    pub(super) parts: Vec<Bytes>,
    pub(super) bytes: u64,
    pub(super) staged: Vec<Staged>,
    pub(super) newest: Option<(WallTime, MediaTime)>,
    /// How often the stream had moved.
    pub(super) moves: u64,
    /// Items below are in here, or were written or dropped before.
    pub(super) below: u64,
    pub(super) run_end: Option<PreviousRun>,
    /// Those that were not written to another volume before.
    pub(super) video_frames: u64,
    pub(super) audio_frames: u64,
    pub(super) fragments: u64,
}

/// What the index gets once it is written.
pub(super) enum Staged {
    Run(Box<RunBox>),
    Fragment(StoredFragment),
}

impl Unit {
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        if !bytes.is_empty() {
            self.parts.push(bytes);
        }
    }
}

/// A unit whose body is on its way, and whose head is written with those of other streams.
pub(super) struct Pending {
    pub(super) stream: Arc<StreamState>,
    pub(super) live: Arc<LiveSegment>,
    pub(super) head: Head,
    /// That are written to the file.
    pub(super) bytes: u64,
    pub(super) unit: Unit,
    /// Where the unit ends in the file.
    pub(super) end: u64,
    /// It is the file's first.
    pub(super) first: bool,
}
