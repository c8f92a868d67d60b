//! The store's footage, as serving sees it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use framekeeper_media::WallTime;
use framekeeper_store::damage::cut;
use framekeeper_store::{GapReason, ReadError, Reader, SegmentDamage, StreamDamage};
use uuid::Uuid;

use super::footage::{Footage, FootageError, Hole, Init, Lease, Run, Segment, SegmentFrames};
use super::segment_frames::{frames, readable};

/// Footage of a store.
pub struct Stored {
    reader: Reader,
    /// Of frames of segments that are kept in memory: an hour of a camera at 4 Mbit/s with audio takes about 10 MB.
    cache_bytes: usize,
    recent: Mutex<VecDeque<(Key, Arc<SegmentFrames>)>>,
}

/// A use of a file, how far it was written when its frames were read, and what was known of its stream's damage.
type Key = (Uuid, u64, u64, u64, u64);

fn key(segment: &Segment, damage: u64) -> Key {
    (segment.volume, segment.file_number, segment.nonce, segment.used_bytes, damage)
}

impl Stored {
    /// Footage of this store; so many bytes may be kept of where its frames are.
    #[must_use]
    pub fn new(reader: Reader, cache_bytes: usize) -> Self {
        Self { reader, cache_bytes, recent: Mutex::default() }
    }

    fn recall(&self, key: &Key) -> Option<Arc<SegmentFrames>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(known, _)| known == key)?;
        let entry = recent.remove(at)?;
        let frames = Arc::clone(&entry.1);
        recent.push_back(entry);
        Some(frames)
    }

    fn remember(&self, key: Key, frames: &Arc<SegmentFrames>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &Key| (known.0, known.1, known.2) == (key.0, key.1, key.2);
        recent.retain(|(known, _)| !same(known));
        recent.push_back((key, Arc::clone(frames)));
        let mut bytes: usize = recent.iter().map(|(_, frames)| frames.weight()).sum();
        while bytes > self.cache_bytes
            && let Some((_, oldest)) = recent.pop_front()
        {
            bytes -= oldest.weight();
        }
    }

    /// The frames of a segment without what is known to be damaged of its stream.
    fn frames_knowing(&self, segment: &Segment, damage: &StreamDamage) -> Result<Arc<SegmentFrames>, FootageError> {
        let key = key(segment, damage.version);
        if let Some(frames) = self.recall(&key) {
            return Ok(frames);
        }
        let (index, run_boxes) = (self.reader.index(segment)?, self.reader.run_boxes(segment)?);
        if self.reader.damage_version(segment.stream) != damage.version {
            // The index, or the box of a run, turned out to be damaged.
            return self.frames_knowing(segment, &self.reader.damage(segment.stream));
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) = damage.holes.iter().partition(|damage| is_in(damage, segment));
        let mut ranges: Vec<_> = here.iter().map(|damage| damage.hole.bytes.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        let of = |damage: Vec<&SegmentDamage>| damage.into_iter().map(|damage| damage.hole.clone()).collect::<Vec<_>>();
        let frames = Arc::new(frames(&index, &run_boxes, &ranges, &of(here), &of(elsewhere)));
        if damage.is_certain {
            self.remember(key, &frames);
        }
        Ok(frames)
    }
}

fn holes(damage: &[SegmentDamage]) -> Vec<Hole> {
    damage.iter().map(|damage| damage.hole.clone()).collect()
}

fn is_in(damage: &SegmentDamage, segment: &Segment) -> bool {
    (damage.volume, damage.file_number, damage.nonce) == (segment.volume, segment.file_number, segment.nonce)
}

/// Whether a hole that began in an earlier segment goes on in this one.
fn reaches_into(damage: &SegmentDamage, segment: &Segment) -> bool {
    damage.hole.from < segment.end && segment.first < damage.hole.to
}

impl From<ReadError> for FootageError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::Gone,
            damaged @ ReadError::Damaged { .. } => Self::Damaged(damaged.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl Footage for Stored {
    fn find(&self, namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError> {
        Ok(self.reader.find(namespace, name)?.map(|ident| ident.uid))
    }

    fn coverage(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError> {
        let mut runs: Vec<Run> = Vec::new();
        for run in self.reader.coverage(stream, from, to)? {
            // A run that goes over several volumes is one run.
            let rest = run.gap != GapReason::Retired;
            match runs.iter_mut().rev().find(|known| known.run == run.run && rest) {
                Some(known) => {
                    known.to = known.to.max(run.to);
                    known.frames += run.frames;
                    known.active |= run.active;
                }
                None => runs.push(run),
            }
        }
        let damage = self.reader.damage(stream);
        if damage.holes.is_empty() {
            return Ok(runs);
        }
        // Behind a hole it is another run.
        let holes = holes(&damage.holes);
        let mut whole: Vec<Run> = runs.into_iter().flat_map(|run| cut(run, &holes)).collect();
        whole.retain(|run| run.from < to && run.to > from);
        whole.sort_by_key(|run| (run.from, run.run));
        Ok(whole)
    }

    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let segments = self.reader.segments(stream, from, to)?;
        let damage = self.reader.damage(stream);
        if damage.holes.is_empty() {
            return Ok(segments);
        }
        let mut whole = Vec::with_capacity(segments.len());
        for segment in segments {
            if damage.holes.iter().any(|damage| is_in(damage, &segment) || reaches_into(damage, &segment)) {
                match self.frames_knowing(&segment, &damage) {
                    Ok(frames) => whole.extend(readable(segment, &frames)),
                    // Nothing of it is left.
                    Err(FootageError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            } else {
                whole.push(segment);
            }
        }
        whole.retain(|segment| segment.first < to && segment.end > from);
        Ok(whole)
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        self.frames_knowing(segment, &self.reader.damage(segment.stream))
    }

    fn init(&self, segment: &Segment) -> Result<Init, FootageError> {
        let init = self.reader.init(segment)?;
        // Without the field, frames may be reordered as far as the level allows (H.264 §E.2.1).
        let reorders = init.video.max_num_reorder_frames != Some(0);
        Ok(Init { bytes: init.init.bytes, reorders })
    }

    fn read_at(&self, segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        Ok(self.reader.read_at(segment, offset, buf)?)
    }

    fn is_complete(&self) -> bool {
        self.reader.is_complete()
    }
    fn holds(&self, stream: Uuid) -> Vec<(WallTime, WallTime)> {
        self.reader.holds(stream)
    }

    fn cache_bytes(&self) -> usize {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let frames: usize = recent.iter().map(|(_, frames)| frames.weight()).sum();
        drop(recent);
        frames + self.reader.cache_bytes()
    }

    fn damage(&self, stream: Uuid) -> Result<Vec<Hole>, FootageError> {
        Ok(holes(&self.reader.damage(stream).holes))
    }

    fn damage_version(&self, stream: Uuid) -> u64 {
        self.reader.damage_version(stream)
    }

    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease> {
        Box::new(self.reader.lease(segments))
    }

    fn durable_until(&self, stream: Uuid) -> Option<WallTime> {
        // The store names the newest frame that is safe; this is the first instant behind it.
        self.reader.durable_until(stream).map(|newest| newest.saturating_add_us(1))
    }
}
