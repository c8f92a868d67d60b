//! Segments that were looked at, as footage that clips can be made of.

use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_store::Hold;
use framekeeper_store::inspect::{SeenSegment, SeenStream, streams};
use uuid::Uuid;

use crate::serve::footage::{Footage, FootageError, Hole, Init, Lease, Run, Segment, SegmentFrames};
use crate::serve::segment_frames::{frames, readable};

/// Footage out of files, with no recorder.
pub(super) struct Shelf {
    segments: Vec<SeenSegment>,
    streams: Vec<SeenStream>,
    holds: Vec<Hold>,
}

impl Shelf {
    pub(super) fn new(segments: Vec<SeenSegment>) -> Self {
        let streams = streams(&segments);
        Self { segments, streams, holds: Vec::new() }
    }

    /// The same, with what is held.
    pub(super) fn with_holds(self, holds: Vec<Hold>) -> Self {
        Self { holds, ..self }
    }

    /// All that is held, of which there need not be footage.
    pub(super) fn all_holds(&self) -> &[Hold] {
        &self.holds
    }

    pub(super) fn streams(&self) -> &[SeenStream] {
        &self.streams
    }

    pub(super) fn segments_of(&self, stream: &SeenStream) -> impl Iterator<Item = &SeenSegment> {
        stream.segments.iter().filter_map(|at| self.segments.get(*at))
    }

    fn stream(&self, uid: Uuid) -> Option<&SeenStream> {
        self.streams.iter().find(|stream| stream.ident.uid == uid)
    }

    fn segment(&self, wanted: &Segment) -> Result<&SeenSegment, FootageError> {
        let same = |s: &&SeenSegment| s.info.nonce == wanted.nonce && s.info.path == wanted.path;
        self.segments.iter().find(same).ok_or(FootageError::Gone)
    }

    fn frames_of(&self, segment: &SeenSegment) -> SegmentFrames {
        let holes = self.stream(segment.info.stream).map(|stream| stream.holes.as_slice()).unwrap_or_default();
        let is_own = |hole: &&Hole| segment.holes.iter().any(|own| (own.run, own.from) == (hole.run, hole.from));
        let (here, elsewhere): (Vec<_>, Vec<_>) = holes.iter().partition(is_own);
        let of = |holes: Vec<&Hole>| holes.into_iter().cloned().collect::<Vec<_>>();
        frames(&segment.index, &segment.run_boxes, &segment.damage, &of(here), &of(elsewhere))
    }
}

impl Footage for Shelf {
    fn find(&self, namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError> {
        // The one recorded last, should a name have been used again.
        let named = self.streams.iter().filter(|s| s.ident.namespace == namespace && s.ident.name == name);
        Ok(named.max_by_key(|stream| stream.runs.iter().map(|run| run.to).max()).map(|stream| stream.ident.uid))
    }

    fn coverage(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError> {
        let runs = self.stream(stream).map(|stream| stream.runs.as_slice()).unwrap_or_default();
        Ok(runs.iter().filter(|run| run.from < to && run.to > from).cloned().collect())
    }

    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let Some(stream) = self.stream(stream) else { return Ok(Vec::new()) };
        let segments = self.segments_of(stream).filter_map(|segment| {
            let reaches_into = |hole: &Hole| hole.from < segment.info.end && segment.info.first < hole.to;
            let whole = segment.damage.is_empty() && !stream.holes.iter().any(reaches_into);
            if whole { Some(segment.info.clone()) } else { readable(segment.info.clone(), &self.frames_of(segment)) }
        });
        Ok(segments.filter(|segment| segment.first < to && segment.end > from).collect())
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        Ok(Arc::new(self.frames_of(self.segment(segment)?)))
    }

    fn init(&self, segment: &Segment) -> Result<Init, FootageError> {
        let segment = self.segment(segment)?;
        Ok(Init { bytes: segment.init.bytes.clone(), reorders: segment.reorders })
    }

    fn holds(&self, stream: Uuid) -> Vec<(WallTime, WallTime)> {
        self.holds.iter().filter(|hold| hold.stream == stream).map(|hold| (hold.from, hold.to)).collect()
    }

    fn read_at(&self, segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        let read = self.segment(segment)?.read_at(offset, buf);
        read.map_err(|e| FootageError::Broken(format!("{}: {e}", segment.path.display())))
    }

    fn damage(&self, stream: Uuid) -> Result<Vec<Hole>, FootageError> {
        Ok(self.stream(stream).map(|stream| stream.holes.clone()).unwrap_or_default())
    }

    fn lease(&self, _segments: &[Segment]) -> Box<dyn Lease> {
        Box::new(())
    }

    fn durable_until(&self, _stream: Uuid) -> Option<WallTime> {
        None
    }
}
