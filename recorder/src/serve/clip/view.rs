//! A piece of a clip as the tables see it: its frames with clip times and with their places in the clip.

use std::sync::Arc;

use super::descriptions::AudioClock;
use super::plan::{Piece, Plan};
use super::select::inconsistent;
use crate::serve::footage::{AudioEntry, Footage, FootageError, SegmentFrames, VideoEntry};

/// Bytes that stand together both in a segment's file and in the clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where they are among the piece's bytes.
    pub(super) start: u64,
    /// Where they are in the segment's file.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A piece whose segment has been read.
pub(super) struct View {
    frames: Arc<SegmentFrames>,
    video: std::ops::Range<usize>,
    audio: std::ops::Range<usize>,
    /// Clip time − file time, 90 kHz.
    zero: i64,
    clock: AudioClock,
    /// Places of the frames among the piece's bytes.
    pub(super) video_starts: Vec<u64>,
    pub(super) audio_starts: Vec<u64>,
    /// Random access points, as positions among the piece's frames.
    pub(super) random_access_points: Vec<u32>,
    pub(super) extents: Vec<Extent>,
}

impl View {
    /// Reads a piece's segment.
    pub(super) fn new(footage: &dyn Footage, plan: &Plan, piece: &Piece) -> Result<Self, FootageError> {
        let segment = plan.segments.get(piece.segment).ok_or_else(|| inconsistent("a piece without a segment"))?;
        let frames = footage.frames(segment)?;
        let changed = || inconsistent("a segment's index is not what its counts promised");
        let run = frames.runs.iter().find(|run| run.run == piece.run).ok_or_else(changed)?;
        let zero = piece.zero + run.video_offset;
        let video = piece.video.start as usize..piece.video.end as usize;
        let audio = piece.audio.start as usize..piece.audio.end as usize;
        if frames.video.len() < video.end || frames.audio.len() < audio.end {
            return Err(changed());
        }
        let clock = plan.descriptions.audio_clock(segment.init_hash);
        let mut view = Self {
            frames: Arc::clone(&frames),
            video,
            audio,
            zero,
            clock,
            video_starts: Vec::with_capacity(piece.video.len()),
            audio_starts: Vec::with_capacity(piece.audio.len()),
            random_access_points: Vec::with_capacity(piece.random_access_points as usize),
            extents: Vec::new(),
        };
        let bytes = view.lay_out();
        let as_promised =
            bytes == piece.bytes && view.random_access_points.len() == piece.random_access_points as usize;
        if as_promised { Ok(view) } else { Err(changed()) }
    }

    /// Puts the samples behind each other, fragment by fragment, video before audio; returns their length.
    fn lay_out(&mut self) -> u64 {
        let mut position = 0;
        let (mut video_before, mut audio_before) = (0, 0);
        let frames = Arc::clone(&self.frames);
        for (video_end, audio_end) in frames.fragments.iter().map(|(v, a)| (*v as usize, *a as usize)) {
            let video = video_before.max(self.video.start)..video_end.min(self.video.end);
            for entry in frames.video.get(video).unwrap_or_default() {
                if entry.random_access() {
                    self.random_access_points.push(self.video_starts.len() as u32);
                }
                self.video_starts.push(position);
                position = self.extend(position, entry.offset, entry.len);
            }
            let audio = audio_before.max(self.audio.start)..audio_end.min(self.audio.end);
            for entry in frames.audio.get(audio).unwrap_or_default() {
                self.audio_starts.push(position);
                position = self.extend(position, entry.offset, entry.len);
            }
            (video_before, audio_before) = (video_end, audio_end);
        }
        position
    }

    fn extend(&mut self, start: u64, offset: u32, len: u32) -> u64 {
        let (offset, len) = (u64::from(offset), u64::from(len));
        match self.extents.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ => self.extents.push(Extent { start, offset, len }),
        }
        start + len
    }

    pub(super) fn video(&self) -> &[VideoEntry] {
        self.frames.video.get(self.video.clone()).unwrap_or_default()
    }

    pub(super) fn audio(&self) -> &[AudioEntry] {
        self.frames.audio.get(self.audio.clone()).unwrap_or_default()
    }

    /// Decode time of a video frame, clip time, 90 kHz.
    pub(super) fn video_time(&self, entry: &VideoEntry) -> i64 {
        entry.dts + self.zero
    }

    /// Time of an audio frame, clip time in the clip's audio ticks.
    pub(super) fn audio_time(&self, entry: &AudioEntry) -> i64 {
        self.clock.clip_time(self.zero, entry.time)
    }
}
