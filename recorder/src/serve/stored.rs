//! The store's footage, as serving sees it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::{EntryKind, IndexEntry, SegmentIndex};
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_store::{ReadError, Reader};
use uuid::Uuid;

use super::footage::{
    AudioEntry, Footage, FootageError, Init, Lease, Run, RunPart, Segment, SegmentFrames, VideoEntry,
};

/// Frames of segments kept in memory, in bytes: an hour of a camera at 4 Mbit/s with audio takes about 10 MB.
const CACHE_BYTES: usize = 48 << 20;

/// Footage of a store.
pub struct Stored {
    reader: Reader,
    recent: Mutex<VecDeque<(Key, Arc<SegmentFrames>)>>,
}

/// A use of a file, and how far it was written when its frames were read.
type Key = (Uuid, u64, u64, u64);

fn key(segment: &Segment) -> Key {
    (segment.volume, segment.file_number, segment.nonce, segment.used_bytes)
}

impl Stored {
    /// Footage of this store.
    #[must_use]
    pub fn new(reader: Reader) -> Self {
        Self { reader, recent: Mutex::default() }
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
        while bytes > CACHE_BYTES
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
        let frames = Arc::new(frames(&index, &run_boxes));
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

    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease> {
        Box::new(self.reader.lease(segments))
    }

    fn durable_until(&self, stream: Uuid) -> Option<WallTime> {
        // The store names the newest frame that is safe; this is the first instant behind it.
        self.reader.durable_until(stream).map(|newest| newest.saturating_add_us(1))
    }
}

/// The frames of an index, run by run.
fn frames(index: &SegmentIndex, run_boxes: &[RunBox]) -> SegmentFrames {
    let mut frames = SegmentFrames {
        video: Vec::with_capacity(index.totals.video_frames as usize),
        audio: Vec::with_capacity(index.audio_sizes.len()),
        ..SegmentFrames::default()
    };
    for (run, run_box) in index.runs.iter().zip(run_boxes) {
        let (video, audio) = (frames.video.len() as u32, frames.audio.len() as u32);
        let entries = run.first_entry as usize..(run.first_entry as usize).saturating_add(run.entries as usize);
        for entry in index.entries.get(entries).unwrap_or_default() {
            if entry.first_of_fragment {
                close_fragment(&mut frames);
            }
            add(&mut frames, index, entry);
        }
        close_fragment(&mut frames);
        frames.runs.push(RunPart {
            run: run_box.run,
            video_offset: run_box.video_offset,
            video: video..frames.video.len() as u32,
            audio: audio..frames.audio.len() as u32,
            end: run.end_wall,
        });
    }
    frames
}

fn close_fragment(frames: &mut SegmentFrames) {
    let until = (frames.video.len() as u32, frames.audio.len() as u32);
    if until != frames.fragments.last().copied().unwrap_or_default() {
        frames.fragments.push(until);
    }
}

fn add(frames: &mut SegmentFrames, index: &SegmentIndex, entry: &IndexEntry) {
    // Decode times in a file count from 0 and stay far below 2^63.
    let time = entry.decode_time.cast_signed();
    match entry.kind {
        EntryKind::Video { flags, composition_offset, identity } => frames.video.push(VideoEntry {
            wall: entry.wall,
            dts: time,
            identity: identity.0,
            offset: entry.data_offset,
            len: entry.data_length,
            composition_offset,
            flags,
        }),
        EntryKind::Audio { frame_duration, .. } => {
            let mut offset = entry.data_offset;
            let mut time = time;
            for size in index.sizes_of(entry) {
                frames.audio.push(AudioEntry { time, duration: frame_duration, offset, len: u32::from(*size) });
                offset = offset.saturating_add(u32::from(*size));
                time += i64::from(frame_duration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use framekeeper_media::boxes::index::IndexRun;
    use framekeeper_media::{FrameFlags, FrameIdentity};

    use super::*;

    #[test]
    fn an_index_becomes_runs_fragments_and_single_audio_frames() {
        let video = |first_of_fragment, decode_time| IndexEntry {
            first_of_fragment,
            data_offset: 1000 + decode_time as u32,
            data_length: 10,
            decode_time,
            wall: WallTime(decode_time as i64),
            kind: EntryKind::Video { flags: FrameFlags(3), composition_offset: 5, identity: FrameIdentity(9) },
        };
        let audio = |frames, first_size| IndexEntry {
            kind: EntryKind::Audio { frames, frame_duration: 1024, first_size },
            first_of_fragment: false,
            ..video(false, 7)
        };
        let run = |first_entry, entries| IndexRun {
            offset: 0,
            first_entry,
            entries,
            first_wall: WallTime(0),
            end_wall: WallTime(99),
        };
        let index = SegmentIndex {
            runs: vec![run(0, 3), run(3, 2)],
            entries: vec![video(true, 0), video(false, 40), audio(2, 0), video(true, 80), audio(1, 2)],
            audio_sizes: vec![4, 6, 8],
            ..SegmentIndex::default()
        };
        let run_box = |video_offset| RunBox {
            nonce: 1,
            offset: 0,
            continued: false,
            run: Uuid::from_u128(video_offset as u128),
            epoch: 1,
            rank: 0,
            gap_reason: framekeeper_store::GapReason::FirstRun,
            plan: framekeeper_media::boxes::run::PlanVersion { term: 1, sequence: 1 },
            recorder: Uuid::nil(),
            previous_offset: 0,
            anchor_wall: WallTime(0),
            anchor_media: framekeeper_media::MediaTime(0),
            video_offset,
            audio_offset: 0,
            sender_report: None,
            previous_end: None,
            previous_run: None,
        };
        let frames = frames(&index, &[run_box(500), run_box(600)]);
        assert_eq!(frames.fragments, [(2, 2), (3, 3)]);
        assert_eq!(
            frames.runs.iter().map(|run| (run.video.clone(), run.audio.clone())).collect::<Vec<_>>(),
            [(0..2, 0..2), (2..3, 2..3)]
        );
        assert_eq!(frames.runs.iter().map(|run| run.video_offset).collect::<Vec<_>>(), [500, 600]);
        let audio: Vec<_> = frames.audio.iter().map(|audio| (audio.time, audio.offset, audio.len)).collect();
        assert_eq!(audio, [(7, 1007, 4), (1031, 1011, 6), (7, 1007, 8)]);
        assert_eq!(frames.video[1].pts(), 45);
    }
}
