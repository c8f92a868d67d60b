//! What recorders ask one another of footage: JSON, in both directions. Bytes of files are sent as they are.

use std::path::PathBuf;

use framekeeper_media::{FrameFlags, WallTime};
use framekeeper_store::GapReason;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::serve::footage::{AudioEntry, Counts, Hole, Run, RunPart, Segment, SegmentFrames, VideoEntry};

/// A question about what the asked one has itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::serve) enum Question {
    /// The stream of this name.
    Find { namespace: String, name: String },
    /// Runs with frames between two times, and whether all can be found.
    Coverage { stream: Uuid, from: i64, to: i64 },
    /// Segments between two times.
    Segments { stream: Uuid, from: i64, to: i64 },
    /// The frames of a segment.
    Frames { segment: Name },
    /// The head of a segment.
    Init { segment: Name },
    /// Bytes of a segment.
    Bytes { segment: Name, offset: u64, length: u32 },
    /// What of a stream is damaged.
    Damage { stream: Uuid },
    /// That these segments stay as they are, for a minute. The answer is how many of them there are.
    Lease { lease: Uuid, segments: Vec<Name> },
    /// That a lease is not needed any more.
    Release { lease: Uuid },
}

/// Names a segment for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(in crate::serve) struct Name {
    pub(super) stream: Uuid,
    pub(super) volume: Uuid,
    pub(super) file_number: u64,
    pub(super) nonce: u64,
    /// When its first frame is.
    pub(super) first: i64,
}

impl From<&Segment> for Name {
    fn from(segment: &Segment) -> Self {
        Self {
            stream: segment.stream,
            volume: segment.volume,
            file_number: segment.file_number,
            nonce: segment.nonce,
            first: segment.first.0,
        }
    }
}

/// Why there is no answer; the status says it as well.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Refusal {
    Gone,
    Damaged(String),
    Broken(String),
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireCoverage {
    pub(super) complete: bool,
    /// Newest wall time that is safe, of a stream that is being recorded.
    pub(super) durable: Option<i64>,
    pub(super) runs: Vec<WireRun>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireRun {
    run: Uuid,
    recorder: Uuid,
    epoch: u64,
    rank: u32,
    from: i64,
    to: i64,
    frames: u64,
    gap: u32,
    previous_run: Uuid,
    previous_end: Option<i64>,
    active: bool,
}

impl From<&Run> for WireRun {
    fn from(run: &Run) -> Self {
        Self {
            run: run.run,
            recorder: run.recorder,
            epoch: run.epoch,
            rank: run.rank,
            from: run.from.0,
            to: run.to.0,
            frames: run.frames,
            gap: run.gap.code(),
            previous_run: run.previous_run,
            previous_end: run.previous_end.map(|end| end.0),
            active: run.active,
        }
    }
}

impl From<WireRun> for Run {
    fn from(run: WireRun) -> Self {
        Self {
            run: run.run,
            recorder: run.recorder,
            epoch: run.epoch,
            rank: run.rank,
            from: WallTime(run.from),
            to: WallTime(run.to),
            frames: run.frames,
            gap: GapReason::from_code(run.gap),
            previous_run: run.previous_run,
            previous_end: run.previous_end.map(WallTime),
            active: run.active,
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireSegment {
    name: Name,
    number: u64,
    init_hash: u64,
    end: i64,
    sealed: bool,
    used_bytes: u64,
    /// Video and audio frames, random access points, fragments, runs.
    counts: [u32; 5],
    /// Bytes of video and audio.
    bytes: [u64; 2],
}

impl From<&Segment> for WireSegment {
    fn from(segment: &Segment) -> Self {
        let Counts { video_frames, audio_frames, random_access_points, fragments, runs, video_bytes, audio_bytes } =
            segment.counts;
        Self {
            name: segment.into(),
            number: segment.number,
            init_hash: segment.init_hash,
            end: segment.end.0,
            sealed: segment.sealed,
            used_bytes: segment.used_bytes,
            counts: [video_frames, audio_frames, random_access_points, fragments, runs],
            bytes: [video_bytes, audio_bytes],
        }
    }
}

impl From<WireSegment> for Segment {
    fn from(segment: WireSegment) -> Self {
        let [video_frames, audio_frames, random_access_points, fragments, runs] = segment.counts;
        let [video_bytes, audio_bytes] = segment.bytes;
        Self {
            volume: segment.name.volume,
            // Where it is there is nobody's business here.
            path: PathBuf::new(),
            file_number: segment.name.file_number,
            nonce: segment.name.nonce,
            stream: segment.name.stream,
            number: segment.number,
            init_hash: segment.init_hash,
            first: WallTime(segment.name.first),
            end: WallTime(segment.end),
            sealed: segment.sealed,
            used_bytes: segment.used_bytes,
            counts: Counts {
                video_frames,
                audio_frames,
                random_access_points,
                fragments,
                runs,
                video_bytes,
                audio_bytes,
            },
        }
    }
}

/// Wall time, decode time, identity, offset, length, composition offset, flags.
type WireVideo = (i64, i64, u64, u32, u32, i32, u32);
/// Run, offset of its media time, video frames from and to, audio frames from and to, end.
type WirePart = (Uuid, i64, u32, u32, u32, u32, i64);

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireFrames {
    runs: Vec<WirePart>,
    /// The camera's clock, of each run.
    #[serde(default)]
    clocks: Vec<Option<i64>>,
    video: Vec<WireVideo>,
    /// Time, duration, offset, length.
    audio: Vec<(i64, u32, u32, u32)>,
    fragments: Vec<(u32, u32)>,
}

impl From<&SegmentFrames> for WireFrames {
    fn from(frames: &SegmentFrames) -> Self {
        let part = |part: &RunPart| {
            let (video, audio) = (&part.video, &part.audio);
            (part.run, part.video_offset, video.start, video.end, audio.start, audio.end, part.end.0)
        };
        let video = |frame: &VideoEntry| {
            let VideoEntry { wall, dts, identity, offset, len, composition_offset, flags } = *frame;
            (wall.0, dts, identity, offset, len, composition_offset, flags.0)
        };
        let audio = |frame: &AudioEntry| (frame.time, frame.duration, frame.offset, frame.len);
        Self {
            runs: frames.runs.iter().map(part).collect(),
            clocks: frames.runs.iter().map(|part| part.camera_zero_us).collect(),
            video: frames.video.iter().map(video).collect(),
            audio: frames.audio.iter().map(audio).collect(),
            fragments: frames.fragments.clone(),
        }
    }
}

impl TryFrom<WireFrames> for SegmentFrames {
    type Error = &'static str;

    fn try_from(frames: WireFrames) -> Result<Self, Self::Error> {
        let part = |(run, video_offset, video_from, video_to, audio_from, audio_to, end): WirePart| RunPart {
            run,
            video_offset,
            video: video_from..video_to,
            audio: audio_from..audio_to,
            end: WallTime(end),
            camera_zero_us: None,
        };
        let video = |(wall, dts, identity, offset, len, composition_offset, flags): WireVideo| VideoEntry {
            wall: WallTime(wall),
            dts,
            identity,
            offset,
            len,
            composition_offset,
            flags: FrameFlags(flags),
        };
        let audio = |(time, duration, offset, len)| AudioEntry { time, duration, offset, len };
        let mut found = Self {
            runs: frames.runs.into_iter().map(part).collect(),
            video: frames.video.into_iter().map(video).collect(),
            audio: frames.audio.into_iter().map(audio).collect(),
            fragments: frames.fragments,
        };
        found.runs.iter_mut().zip(frames.clocks).for_each(|(part, clock)| part.camera_zero_us = clock);
        let (videos, audios) = (found.video.len() as u64, found.audio.len() as u64);
        let fits = |range: &std::ops::Range<u32>, count: u64| range.start <= range.end && u64::from(range.end) <= count;
        if found.runs.iter().all(|part| fits(&part.video, videos) && fits(&part.audio, audios)) {
            Ok(found)
        } else {
            Err("the frames of a run are not all there")
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireHole {
    run: Uuid,
    from: i64,
    to: i64,
    bytes: (u64, u64),
    video_frames: u32,
}

impl From<&Hole> for WireHole {
    fn from(hole: &Hole) -> Self {
        Self {
            run: hole.run,
            from: hole.from.0,
            to: hole.to.0,
            bytes: (hole.bytes.start, hole.bytes.end),
            video_frames: hole.video_frames,
        }
    }
}

impl From<WireHole> for Hole {
    fn from(hole: WireHole) -> Self {
        Self {
            run: hole.run,
            from: WallTime(hole.from),
            to: WallTime(hole.to),
            bytes: hole.bytes.0..hole.bytes.1,
            video_frames: hole.video_frames,
        }
    }
}

/// The head of a segment: its bytes follow the first line, which is this.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WireInit {
    pub(super) reorders: bool,
}
