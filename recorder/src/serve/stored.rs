//! The store's footage, as serving sees it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_store::{ReadError, Reader};
use uuid::Uuid;

use super::footage::{Footage, FootageError, Init, Lease, Run, Segment, SegmentFrames};
use super::segment_frames::frames;

/// Footage of a store.
pub struct Stored {
    reader: Reader,
    /// Of frames of segments that are kept in memory: an hour of a camera at 4 Mbit/s with audio takes about 10 MB.
    cache_bytes: usize,
    recent: Mutex<VecDeque<(Key, Arc<SegmentFrames>)>>,
}

/// A use of a file, and how far it was written when its frames were read.
type Key = (Uuid, u64, u64, u64);

fn key(segment: &Segment) -> Key {
    (segment.volume, segment.file_number, segment.nonce, segment.used_bytes)
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
        recent.retain(|(known, _)| *known != key);
        recent.push_back((key, Arc::clone(frames)));
        let mut bytes: usize = recent.iter().map(|(_, frames)| frames.weight()).sum();
        while bytes > self.cache_bytes
            && let Some((_, oldest)) = recent.pop_front()
        {
            bytes -= oldest.weight();
        }
    }
}

impl From<ReadError> for FootageError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::Gone,
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
            match runs.iter_mut().rev().find(|known| known.run == run.run) {
                Some(known) => {
                    known.to = known.to.max(run.to);
                    known.frames += run.frames;
                    known.active |= run.active;
                }
                None => runs.push(run),
            }
        }
        Ok(runs)
    }

    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        Ok(self.reader.segments(stream, from, to)?)
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        let key = key(segment);
        if let Some(frames) = self.recall(&key) {
            return Ok(frames);
        }
        let index = self.reader.index(segment)?;
        let run_boxes = index.runs.iter().map(|run| {
            let mut bytes = [0; RUN_BOX_LENGTH];
            self.reader.read_at(segment, run.offset, &mut bytes)?;
            RunBox::decode(&bytes)
                .map_err(|error| FootageError::Broken(format!("{}: run box: {error}", segment.path.display())))
        });
        let run_boxes = run_boxes.collect::<Result<Vec<_>, _>>()?;
        let frames = Arc::new(frames(&index, &run_boxes, &[], &[]));
        self.remember(key, &frames);
        Ok(frames)
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

    fn cache_bytes(&self) -> usize {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let frames: usize = recent.iter().map(|(_, frames)| frames.weight()).sum();
        drop(recent);
        frames + self.reader.cache_bytes()
    }

    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease> {
        Box::new(self.reader.lease(segments))
    }

    fn durable_until(&self, stream: Uuid) -> Option<WallTime> {
        // The store names the newest frame that is safe; this is the first instant behind it.
        self.reader.durable_until(stream).map(|newest| newest.saturating_add_us(1))
    }
}
