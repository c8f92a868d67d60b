//! Which audio belongs to a stretch of video, and how the two clocks relate.

use std::ops::Range;

use uuid::Uuid;

use super::PlanError;
use super::descriptions::{AudioClock, Descriptions};
use super::select::{Part, part_after, part_before};
use super::stretch::Stretch;
use crate::serve::footage::{AudioEntry, Footage, FootageError};

/// Sound ends that much before or behind the pictures of a recorder that failed, at most: 90 kHz.
const RESUMES_WITHIN: i64 = 90_000;

/// The audio that a stretch should have.
pub(super) struct Wanted {
    /// Clip time − media time of the stretch, 90 kHz.
    pub(super) zero: i64,
    /// Clip times in which the stretch is shown, 90 kHz.
    pub(super) window: Option<Range<i64>>,
    /// It is the first: its audio covers the beginning, and one frame more from which the decoder starts.
    pub(super) begins_clip: bool,
    /// It is the last: its audio covers the end.
    pub(super) ends_clip: bool,
    /// It goes on with the very next picture behind the stretch before, of which this is how far the sound goes.
    pub(super) resumes: Option<Heard>,
}

/// How far the sound of a stretch goes.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    /// Clip time, in the clip's audio timescale. A recorder that fails has written less of the sound than of the pictures; the other one's copy has the
    /// rest.
    pub(super) until: i64,
    /// The clip time at which its pictures end, 90 kHz, where the next stretch's clip times are others: that one's pictures begin where these end.
    pub(super) beside: Option<i64>,
}

impl Heard {
    /// The clip time from which on the next stretch is to be heard, if its pictures are shown from `begin` on and each frame of its sound lasts so long.
    fn from(self, begin: i64, duration: i64, clock: AudioClock) -> i64 {
        match self.beside {
            None if (begin - self.until).abs() < clock.from_video(RESUMES_WITHIN) => self.until,
            None => begin,
            // What was missing by more was not recorded: before `begin` nothing is shown.
            Some(beside) => begin + (self.until - clock.from_video(beside)).clamp(-duration, duration),
        }
    }
}

/// A part with the audio frames that go with it, as positions in its segment's frames.
pub(super) struct AudioSelection {
    pub(super) part: Part,
    pub(super) audio: Range<u32>,
}

/// The stretch's parts with their audio, and when the last of that ends, where it is known; parts that hold only audio are added at its ends where
/// the clip's edges need them.
pub(super) fn select(
    footage: &dyn Footage,
    stream: Uuid,
    stretch: &mut Stretch,
    wanted: &Wanted,
    descriptions: &mut Descriptions,
) -> Result<(Vec<AudioSelection>, Option<i64>), PlanError> {
    let mut selected = Vec::with_capacity(stretch.parts.len());
    let mut end = None;
    for (index, part) in stretch.parts.iter().enumerate() {
        let goes_on = stretch.parts.get(index + 1).is_some_and(|next| next.segment == part.segment);
        // What a segment holds of a run's audio goes with the last of its parts.
        let audio = if goes_on { 0..0 } else { of_part(part, wanted, descriptions)? };
        end = end_of(part, &audio, wanted.zero, descriptions)?.or(end);
        selected.push(AudioSelection { part: part.clone(), audio });
    }
    let has_audio = |part: &Part| part.segment.counts.audio_frames > 0;
    if let Some(first) = stretch.parts.first().filter(|part| wanted.begins_clip && has_audio(part))
        && let Some(loaded) = &first.loaded
        && selected.first().is_some_and(|s| loaded.run().is_ok_and(|run| s.audio.start == run.audio.start))
        && begins_late(first, wanted, descriptions)?
        && let Some(mut before) = part_before(footage, stream, first)?
    {
        before.video = before.video.end..before.video.end;
        descriptions.add(footage, &before.segment)?;
        let audio = of_part(&before, wanted, descriptions)?;
        selected.insert(0, AudioSelection { part: before, audio });
    }
    if let Some(last) = stretch.parts.last().filter(|part| wanted.ends_clip && has_audio(part))
        && let Some(loaded) = &last.loaded
        && selected.last().is_some_and(|s| loaded.run().is_ok_and(|run| s.audio.end == run.audio.end))
        && ends_early(last, wanted, descriptions)?
        && let Some(mut after) = part_after(footage, stream, last)?
    {
        after.video = after.video.start..after.video.start;
        descriptions.add(footage, &after.segment)?;
        let audio = of_part(&after, wanted, descriptions)?;
        selected.push(AudioSelection { part: after, audio });
    }
    Ok((selected, end))
}

/// When the last of these audio frames ends, in the clip's audio timescale.
fn end_of(
    part: &Part,
    audio: &Range<u32>,
    zero: i64,
    descriptions: &Descriptions,
) -> Result<Option<i64>, FootageError> {
    let timed = timed(part, zero, descriptions.audio_clock(part.segment.init_hash))?;
    Ok(timed.iter().rev().find(|(at, ..)| audio.contains(at)).map(|(_, time, duration)| time + duration))
}

/// Clip times of a loaded part's audio frames with their positions and durations in the clip's timescale.
fn timed(part: &Part, zero: i64, clock: AudioClock) -> Result<Vec<(u32, i64, i64)>, FootageError> {
    let Some(loaded) = &part.loaded else { return Ok(Vec::new()) };
    let run = loaded.run()?;
    let entries: &[AudioEntry] =
        loaded.frames.audio.get(run.audio.start as usize..run.audio.end as usize).unwrap_or_default();
    let time = |entry: &AudioEntry| clock.clip_time(zero + run.video_offset, entry.time);
    let each = (run.audio.start..).zip(entries);
    Ok(each.map(|(at, entry)| (at, time(entry), clock.scale(i64::from(entry.duration)))).collect())
}

fn of_part(part: &Part, wanted: &Wanted, descriptions: &Descriptions) -> Result<Range<u32>, FootageError> {
    if part.loaded.is_none() {
        return Ok(0..part.segment.counts.audio_frames);
    }
    let Some(window) = &wanted.window else { return Ok(0..0) };
    let clock = descriptions.audio_clock(part.segment.init_hash);
    let (begin, to) = (clock.from_video(window.start), clock.from_video(window.end));
    // Between stretches a frame goes to the side on which more than half of it lies.
    let belongs = |time: i64, duration: i64| {
        let from = wanted.resumes.map_or(begin, |heard| heard.from(begin, duration, clock));
        let not_too_early =
            if wanted.begins_clip { time > from - 2 * duration } else { 2 * time + duration >= 2 * from };
        let not_too_late = if wanted.ends_clip { time < to } else { 2 * time + duration < 2 * to };
        not_too_early && not_too_late
    };
    let timed = timed(part, wanted.zero, clock)?;
    let Some(first) = timed.iter().find(|(_, time, duration)| belongs(*time, *duration)) else { return Ok(0..0) };
    let last = timed.iter().rev().find(|(_, time, duration)| belongs(*time, *duration)).unwrap_or(first);
    Ok(first.0..last.0 + 1)
}

/// Whether the part's audio begins behind the point that the clip needs.
fn begins_late(part: &Part, wanted: &Wanted, descriptions: &Descriptions) -> Result<bool, FootageError> {
    let clock = descriptions.audio_clock(part.segment.init_hash);
    let from = wanted.window.as_ref().map(|window| clock.from_video(window.start));
    let first = timed(part, wanted.zero, clock)?.first().copied();
    Ok(from.zip(first).is_none_or(|(from, (_, time, duration))| time > from - duration))
}

/// Whether the part's audio ends before the clip does.
fn ends_early(part: &Part, wanted: &Wanted, descriptions: &Descriptions) -> Result<bool, FootageError> {
    let clock = descriptions.audio_clock(part.segment.init_hash);
    let to = wanted.window.as_ref().map(|window| clock.from_video(window.end));
    let last = timed(part, wanted.zero, clock)?.last().copied();
    Ok(to.zip(last).is_none_or(|(to, (_, time, duration))| time + duration < to))
}
