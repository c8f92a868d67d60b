//! What is in a segment, gathered fragment by fragment: by whoever writes it, and by whoever walks it after a crash.

use framekeeper_media::boxes::index::{EntryKind, IndexEntry, IndexRun, RandomAccess, SegmentIndex};
use framekeeper_media::boxes::run::RunBox;
use framekeeper_media::fragment::{StoredAudio, StoredVideo};
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{FrameFlags, WallTime};

use crate::manifest::RunPart;
use crate::types::SegmentCounts;

/// A fragment as it lies in the file.
#[derive(Clone, Debug)]
pub(crate) struct StoredFragment {
    pub(crate) moof_offset: u64,
    pub(crate) video: Vec<StoredVideo>,
    pub(crate) audio: Vec<StoredAudio>,
    pub(crate) audio_wall: WallTime,
}

/// The index of a segment as far as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexBuilder {
    index: SegmentIndex,
    random_access: Vec<RandomAccess>,
    run_boxes: Vec<(RunBox, u32)>,
    first: Option<WallTime>,
}

/// What the last frame of a run is, for the run behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEnd {
    pub(crate) run: uuid::Uuid,
    pub(crate) end: WallTime,
}

/// Ticks as microseconds, rounded down.
pub(crate) fn ticks_to_us(ticks: i64, timescale: u32) -> i64 {
    let us = i128::from(ticks) * 1_000_000 / i128::from(timescale.max(1));
    i64::try_from(us).unwrap_or(i64::MAX)
}

impl IndexBuilder {
    /// A run box was written; what follows belongs to it.
    pub(crate) fn add_run(&mut self, run: RunBox) {
        self.index.runs.push(IndexRun {
            offset: run.offset,
            first_entry: u32::try_from(self.index.entries.len()).unwrap_or(u32::MAX),
            entries: 0,
            first_wall: run.anchor_wall,
            end_wall: run.anchor_wall,
        });
        self.run_boxes.push((run, 0));
    }

    /// A fragment was written. `audio_timescale` in ticks a second.
    pub(crate) fn add_fragment(&mut self, fragment: &StoredFragment, audio_timescale: u32) {
        let before = self.index.entries.len();
        for (at, frame) in fragment.video.iter().enumerate() {
            self.add_video(frame, at == 0);
        }
        if let Some(first) = fragment.video.first().filter(|f| f.flags.contains(FrameFlags::RANDOM_ACCESS)) {
            let time = first.dts.saturating_add_signed(first.composition_offset.into());
            self.random_access.push(RandomAccess { time, moof_offset: fragment.moof_offset });
        }
        self.add_audio(fragment, audio_timescale);
        self.index.totals.fragments += 1;
        let added = u32::try_from(self.index.entries.len() - before).unwrap_or(u32::MAX);
        if let (Some(run), Some((_, frames))) = (self.index.runs.last_mut(), self.run_boxes.last_mut()) {
            if *frames == 0
                && let Some(first) = fragment.video.first()
            {
                run.first_wall = first.wall;
            }
            run.entries += added;
            run.end_wall = fragment.video.iter().map(frame_end).fold(run.end_wall.max(run.first_wall), WallTime::max);
            *frames += u32::try_from(fragment.video.len()).unwrap_or(u32::MAX);
            let end = run.end_wall;
            let totals = &mut self.index.totals;
            totals.end_wall = if totals.fragments == 1 { end } else { totals.end_wall.max(end) };
        }
        if self.first.is_none() {
            self.first = fragment.video.first().map(|f| f.wall);
        }
    }

    fn add_video(&mut self, frame: &StoredVideo, first_of_fragment: bool) {
        self.index.entries.push(IndexEntry {
            first_of_fragment,
            data_offset: u32::try_from(frame.offset).unwrap_or(u32::MAX),
            data_length: frame.size,
            decode_time: frame.dts,
            wall: frame.wall,
            kind: EntryKind::Video {
                flags: frame.flags,
                composition_offset: frame.composition_offset,
                identity: frame.identity,
            },
        });
        let totals = &mut self.index.totals;
        totals.video_frames += 1;
        totals.random_access_points += u32::from(frame.flags.contains(FrameFlags::RANDOM_ACCESS));
        totals.video_bytes += u64::from(frame.size);
    }

    fn add_audio(&mut self, fragment: &StoredFragment, timescale: u32) {
        let Some(first) = fragment.audio.first() else { return };
        let mut first_of_fragment = fragment.video.is_empty();
        for stretch in
            fragment.audio.chunk_by(|a, b| a.dts + u64::from(a.duration) == b.dts && a.duration == b.duration)
        {
            for stretch in stretch.chunks(usize::from(u16::MAX)) {
                let Some(start) = stretch.first() else { continue };
                let behind_first = i64::try_from(start.dts.saturating_sub(first.dts)).unwrap_or(i64::MAX);
                let bytes: u32 = stretch.iter().map(|a| a.size).sum();
                self.index.entries.push(IndexEntry {
                    first_of_fragment,
                    data_offset: u32::try_from(start.offset).unwrap_or(u32::MAX),
                    data_length: bytes,
                    decode_time: start.dts,
                    wall: fragment.audio_wall.saturating_add_us(ticks_to_us(behind_first, timescale)),
                    kind: EntryKind::Audio {
                        frames: u16::try_from(stretch.len()).unwrap_or(u16::MAX),
                        frame_duration: start.duration,
                        first_size: u32::try_from(self.index.audio_sizes.len()).unwrap_or(u32::MAX),
                    },
                });
                first_of_fragment = false;
                self.index.audio_sizes.extend(stretch.iter().map(|a| u16::try_from(a.size).unwrap_or(u16::MAX)));
                self.index.totals.audio_bytes += u64::from(bytes);
            }
        }
    }

    /// The index so far.
    pub(crate) fn index(&self) -> &SegmentIndex {
        &self.index
    }

    /// The index box and `mfra` that seal the file at `offset`.
    pub(crate) fn seal(&self, nonce: u64, offset: u64) -> (SegmentIndex, &[RandomAccess]) {
        (SegmentIndex { nonce, offset, ..self.index.clone() }, &self.random_access)
    }

    /// Every run box, with its number of video frames.
    pub(crate) fn run_box_list(&self) -> &[(RunBox, u32)] {
        &self.run_boxes
    }

    /// Run boxes in the file.
    pub(crate) fn run_boxes(&self) -> usize {
        self.run_boxes.len()
    }

    /// Wall time of the first video frame.
    pub(crate) fn first(&self) -> Option<WallTime> {
        self.first
    }

    /// Wall time at which the last video frame ends.
    pub(crate) fn end(&self) -> WallTime {
        self.index.totals.end_wall
    }

    /// The last run, and where it ends.
    pub(crate) fn run_end(&self) -> Option<RunEnd> {
        let (run, _) = self.run_boxes.last()?;
        Some(RunEnd { run: run.run, end: self.index.runs.last()?.end_wall })
    }

    /// The last run box.
    pub(crate) fn last_run(&self) -> Option<&RunBox> {
        self.run_boxes.last().map(|(run, _)| run)
    }

    /// Counts.
    pub(crate) fn counts(&self) -> SegmentCounts {
        let totals = &self.index.totals;
        SegmentCounts {
            video_frames: totals.video_frames,
            audio_frames: u32::try_from(self.index.audio_sizes.len()).unwrap_or(u32::MAX),
            random_access_points: totals.random_access_points,
            fragments: totals.fragments,
            runs: u32::try_from(self.run_parts().len()).unwrap_or(u32::MAX),
            video_bytes: totals.video_bytes,
            audio_bytes: totals.audio_bytes,
        }
    }

    /// The runs with frames in this file, for the manifest.
    pub(crate) fn run_parts(&self) -> Vec<RunPart> {
        let boxes = self.run_boxes.iter().map(|(run, frames)| (run, *frames));
        run_parts(boxes.zip(&self.index.runs).map(|((run, frames), place)| (run, frames, place)))
    }
}

/// When a frame ends.
fn frame_end(frame: &StoredVideo) -> WallTime {
    frame.wall.saturating_add_us(ticks_to_us(frame.duration.into(), VIDEO_CLOCK_HZ))
}

/// One part a run: a run may have several boxes in a file.
pub(crate) fn run_parts<'a>(boxes: impl Iterator<Item = (&'a RunBox, u32, &'a IndexRun)>) -> Vec<RunPart> {
    let mut parts: Vec<RunPart> = Vec::new();
    for (run, frames, place) in boxes {
        if place.entries == 0 {
            continue;
        }
        if let Some(part) = parts.iter_mut().find(|p| p.run == run.run) {
            part.first = part.first.min(place.first_wall);
            part.end = part.end.max(place.end_wall);
            part.video_frames += frames;
            continue;
        }
        parts.push(RunPart {
            run: run.run,
            epoch: run.epoch,
            rank: run.rank,
            gap: run.gap_reason,
            recorder: run.recorder,
            previous_run: run.previous_run.unwrap_or_default(),
            first: place.first_wall,
            end: place.end_wall,
            video_frames: frames,
            continued: run.continued,
            previous_end: run.previous_end.unwrap_or(WallTime(0)),
        });
    }
    parts
}
