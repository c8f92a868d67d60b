//! The plan of a clip: which frames it holds, in which order, and when each is shown. Everything about the virtual file follows from it.

use std::ops::Range;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::PlanError;
use super::audio::{self, AudioSelection};
use super::descriptions::Descriptions;
use super::select::{self, Part};
use super::stretch::{Stretch, Times, arrange, ticks};
use crate::serve::footage::{Footage, FootageError, Segment, VideoEntry};

/// Timescale of the movie and of its video track, ticks a second.
pub const TIMESCALE: i64 = 90_000;

/// What becomes of the time in which nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gaps {
    /// The next run follows at once.
    #[default]
    Close,
    /// The last frame before the gap lasts until the next run.
    Keep,
}

/// Frames of one run in one segment, in the clip.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Position in [`Plan::segments`].
    pub segment: usize,
    /// The run, and nothing else may be found there.
    pub run: Uuid,
    /// Video frames, as positions in the segment's frames.
    pub video: Range<u32>,
    /// Audio frames, likewise.
    pub audio: Range<u32>,
    /// Random access points among the video frames.
    pub random_access_points: u32,
    /// Bytes of all these frames.
    pub bytes: u64,
    /// Clip time − media time of the run, 90 kHz.
    pub zero: i64,
    /// Position in [`Plan::descriptions`]'s video entries.
    pub video_description: usize,
    /// Position in its audio entries.
    pub audio_description: usize,
}

/// A stretch of the clip's media that is shown (ISO/IEC 14496-12 §8.6.6), 90 kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// From this clip time on.
    pub media_time: i64,
    /// For so long.
    pub duration: i64,
}

impl Edit {
    /// The clip time at which it ends.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.media_time + self.duration
    }
}

/// How many there were before a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Video frames.
    pub video: u64,
    /// Audio frames.
    pub audio: u64,
    /// Random access points.
    pub random_access_points: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A clip, planned. "Clip time" is the decode and presentation time of its tracks: 0 at the first video frame's decode time.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Segments it reads, in order.
    pub segments: Vec<Segment>,
    /// What it holds, in order.
    pub pieces: Vec<Piece>,
    /// Sums before each piece, and after the last.
    pub sums: Vec<Sums>,
    /// Codec descriptions.
    pub descriptions: Descriptions,
    /// What is shown.
    pub edits: Vec<Edit>,
    /// Clip time at which the last video frame's decode time ends.
    pub video_end: i64,
    /// The audio track's beginning and end as clip times in its own timescale, if there is one.
    pub audio_span: Option<Range<i64>>,
    /// Wall time of the first frame that is shown.
    pub first_wall: WallTime,
}

/// A range of a stream's time, as asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The stream.
    pub stream: Uuid,
    /// First instant.
    pub from: WallTime,
    /// First instant that is not wanted any more.
    pub to: WallTime,
    /// What to do with gaps.
    pub gaps: Gaps,
}

/// Plans a clip.
///
/// # Errors
/// When the range has no frame that could be shown, is too long for one file, or the footage cannot be read.
pub fn plan(footage: &dyn Footage, request: Request) -> Result<Plan, PlanError> {
    let Request { stream, from, to, gaps } = request;
    let in_range = |entry: &VideoEntry| entry.wall >= from && entry.wall < to;
    let selections = select::select(footage, stream, from, to)?;
    let mut stretches = Vec::new();
    for mut stretch in arrange(footage, stream, selections)? {
        let times = stretch.times(footage, in_range)?;
        stretches.push((stretch, times));
    }
    let timeline = place(&stretches, gaps).ok_or(PlanError::NoFrames)?;
    let mut builder = Builder::default();
    let count = stretches.len();
    let mut heard: Option<audio::Heard> = None;
    for (index, ((stretch, times), zero)) in stretches.iter_mut().zip(&timeline.zeros).enumerate() {
        let wanted = audio::Wanted {
            zero: *zero,
            window: times.visible.map(|visible| visible.from_pts + zero..visible.to_pts + zero),
            begins_clip: index == 0,
            ends_clip: index + 1 == count,
            resumes: heard.and_then(|heard| match (stretch.resumes, stretch.goes_over) {
                (Some(_), _) => Some(audio::Heard { beside: None, ..heard }),
                (None, true) => Some(heard),
                (None, false) => None,
            }),
        };
        let until = builder.add(footage, stream, stretch, &wanted)?;
        let beside = wanted.window.map(|window| window.end);
        heard = until.map(|until| audio::Heard { until, beside });
    }
    builder.finish(footage, timeline)
}

/// Where each stretch stands in the clip.
struct Timeline {
    /// Clip time − media time, for each stretch.
    zeros: Vec<i64>,
    edits: Vec<Edit>,
    video_end: i64,
    first_wall: WallTime,
}

/// Puts the stretches on the clip's clock; `None` when nothing of them is visible.
fn place(stretches: &[(Stretch, Times)], gaps: Gaps) -> Option<Timeline> {
    let mut zeros: Vec<i64> = Vec::with_capacity(stretches.len());
    let mut edits: Vec<Edit> = Vec::new();
    let mut last_dts = None;
    let mut video_end = 0;
    // Clip time and wall time of the first frame shown; again behind frames between that are not shown, which take clip time and no other.
    let mut origin: Option<(i64, WallTime)> = None;
    let mut first_wall = None;
    // Clip time at which the latest frame so far ends, shown or not: what is not shown must not lie where something is.
    let mut taken_until = 0;
    for (stretch, times) in stretches {
        // On the clock that goes on: on both sides pictures may be shown in another order than they are decoded in.
        let resumed = stretch
            .resumes
            .zip(zeros.last().copied())
            .map(|(ahead, before): (i64, i64)| before + ahead + times.first_dts);
        let begin = match (last_dts, resumed, origin, times.visible) {
            (None, ..) => 0,
            (Some(last), Some(resumed), ..) => resumed.max(last + 1),
            (Some(last), None, Some((clip, wall)), Some(visible)) if gaps == Gaps::Keep => {
                let kept = clip + ticks(visible.wall.0 - wall.0) - (visible.from_pts - times.first_dts);
                kept.max(taken_until - (times.first_pts - times.first_dts)).max(last + 1)
            }
            (Some(last), ..) => (taken_until - (times.first_pts - times.first_dts)).max(last + 1),
        };
        let zero = begin - times.first_dts;
        if let Some(visible) = times.visible {
            let (from, to) = (visible.from_pts + zero, visible.to_pts + zero);
            let all_shown = visible.from_pts == times.first_pts;
            origin = origin.filter(|_| all_shown).or(Some((from, visible.wall)));
            first_wall = first_wall.or(Some(visible.wall));
            match edits.last_mut() {
                Some(edit) if stretch.resumes.is_some() => {
                    let begin = edit.media_time.min(from);
                    *edit = Edit { media_time: begin, duration: edit.end().max(to) - begin };
                }
                // Kept gaps belong to the frame before them.
                Some(edit) if edit.end() == taken_until && all_shown && (gaps == Gaps::Keep || edit.end() == from) => {
                    edit.duration = to - edit.media_time;
                }
                _ => edits.push(Edit { media_time: from, duration: to - from }),
            }
        }
        zeros.push(zero);
        last_dts = Some(times.last_dts + zero);
        video_end = times.end_dts + zero;
        taken_until = taken_until.max(times.end_pts + zero);
    }
    Some(Timeline { zeros, edits, video_end, first_wall: first_wall? })
}

#[derive(Default)]
struct Builder {
    segments: Vec<Segment>,
    pieces: Vec<Piece>,
    parts: Vec<Part>,
    descriptions: Descriptions,
}

impl Builder {
    fn add(
        &mut self,
        footage: &dyn Footage,
        stream: Uuid,
        stretch: &mut Stretch,
        wanted: &audio::Wanted,
    ) -> Result<Option<i64>, PlanError> {
        for part in &stretch.parts {
            self.descriptions.add(footage, &part.segment)?;
        }
        let (selected, end) = audio::select(footage, stream, stretch, wanted, &mut self.descriptions)?;
        for AudioSelection { part, audio } in selected {
            if part.video.is_empty() && audio.is_empty() {
                continue;
            }
            let (random_access_points, bytes) = count(&part, &audio);
            let (video_description, audio_description) = self.descriptions.positions(part.segment.init_hash);
            let segment = match self.segments.last() {
                Some(last) if *last == part.segment => self.segments.len() - 1,
                _ => {
                    self.segments.push(part.segment.clone());
                    self.segments.len() - 1
                }
            };
            self.pieces.push(Piece {
                segment,
                run: part.run,
                video: part.video.clone(),
                audio,
                random_access_points,
                bytes,
                zero: wanted.zero,
                video_description,
                audio_description,
            });
            self.parts.push(part);
        }
        Ok(end)
    }

    fn finish(mut self, footage: &dyn Footage, timeline: Timeline) -> Result<Plan, PlanError> {
        let mut sums = vec![Sums::default()];
        let mut sum = Sums::default();
        for piece in &self.pieces {
            sum.video += piece.video.len() as u64;
            sum.audio += piece.audio.len() as u64;
            sum.random_access_points += u64::from(piece.random_access_points);
            sum.bytes += piece.bytes;
            sums.push(sum);
        }
        let audio_span = self.audio_span(footage)?;
        Ok(Plan {
            segments: self.segments,
            pieces: self.pieces,
            sums,
            descriptions: self.descriptions,
            edits: timeline.edits,
            video_end: timeline.video_end,
            audio_span,
            first_wall: timeline.first_wall,
        })
    }

    /// When the audio begins and ends.
    fn audio_span(&mut self, footage: &dyn Footage) -> Result<Option<Range<i64>>, FootageError> {
        let with_audio = |piece: &Piece| !piece.audio.is_empty();
        let (Some(first), Some(last)) =
            (self.pieces.iter().position(with_audio), self.pieces.iter().rposition(with_audio))
        else {
            return Ok(None);
        };
        let mut times = |index: usize, at: fn(&Range<u32>) -> u32| -> Result<Range<i64>, FootageError> {
            let gone = || select::inconsistent("a segment has less audio than the catalogue says");
            let (piece, part) = self.pieces.get(index).zip(self.parts.get_mut(index)).ok_or_else(gone)?;
            let loaded = part.load(footage)?;
            let clock = self.descriptions.audio_clock(part.segment.init_hash);
            let entry = loaded.frames.audio.get(at(&piece.audio) as usize).ok_or_else(gone)?;
            let start = clock.clip_time(piece.zero + loaded.run()?.video_offset, entry.time);
            Ok(start..start + clock.scale(i64::from(entry.duration)))
        };
        let start = times(first, |range| range.start)?.start;
        let end = times(last, |range| range.end.saturating_sub(1))?.end;
        Ok(Some(start..end.max(start + 1)))
    }
}

/// Random access points and bytes of a part and its audio: from its frames where they were read, else from the catalogue's counts.
fn count(part: &Part, audio: &Range<u32>) -> (u32, u64) {
    let Some(loaded) = &part.loaded else {
        let counts = &part.segment.counts;
        return (counts.random_access_points, counts.video_bytes + counts.audio_bytes);
    };
    let (mut points, mut bytes) = (0, 0);
    for (_, entry) in loaded.video(&part.video) {
        points += u32::from(entry.random_access());
        bytes += u64::from(entry.len);
    }
    let heard = loaded.frames.audio.get(audio.start as usize..audio.end as usize).unwrap_or_default();
    (points, bytes + heard.iter().map(|entry| u64::from(entry.len)).sum::<u64>())
}

impl Plan {
    /// What the whole clip holds.
    #[must_use]
    pub fn total(&self) -> Sums {
        self.sums.last().copied().unwrap_or_default()
    }

    /// The piece that holds the `nth` of something, and how many of it there were before that piece.
    #[must_use]
    pub fn locate(&self, nth: u64, of: impl Fn(&Sums) -> u64) -> Option<(usize, u64)> {
        let after = self.sums.partition_point(|sums| of(sums) <= nth);
        let piece = after.checked_sub(1)?;
        (piece < self.pieces.len()).then(|| (piece, self.sums.get(piece).map_or(0, &of)))
    }

    /// How long the clip plays, 90 kHz.
    #[must_use]
    pub fn duration(&self) -> i64 {
        self.edits.iter().map(|edit| edit.duration).sum()
    }
}
