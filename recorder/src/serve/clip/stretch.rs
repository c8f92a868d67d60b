//! Stretches: what is played without a break on one media clock, in the order in which a clip shows it.

use std::ops::Range;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::change_over::{self, ChangeOver, Side};
use super::overlap::{CLOCKS_APART_US, Candidate, LOOKED_AT_US, Of, merge};
use super::select::{Part, RunSelection, inconsistent, trim};
use crate::serve::footage::{Footage, FootageError, VideoEntry};

/// The clocks of recorders whose times are compared as they are differ by less than this.
pub(super) const REACH_US: i64 = 250_000;

/// All times.
const ALWAYS: Range<WallTime> = WallTime(i64::MIN)..WallTime(i64::MAX);

/// Parts of one run that follow each other without a break.
pub(super) struct Stretch {
    pub(super) parts: Vec<Part>,
    /// It goes on with the very next frame behind the stretch before, of which it has copies: by so much is the media time of that one greater, 90 kHz.
    pub(super) resumes: Option<i64>,
    /// Its first picture that is shown is the very next one, too, but coded by the camera for another recorder: there are no copies.
    pub(super) goes_over: bool,
    /// What of it is shown: another recorder's footage shows the rest.
    shown: Range<WallTime>,
}

impl Stretch {
    fn new(parts: Vec<Part>) -> Self {
        Self { parts, resumes: None, goes_over: false, shown: ALWAYS }
    }
}

/// When a stretch is shown, on its run's media clock (90 kHz), and how that relates to wall time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Decode time of its first frame.
    pub(super) first_dts: i64,
    /// Decode time of its last frame.
    pub(super) last_dts: i64,
    /// Decode time at which a frame behind the last one would follow.
    pub(super) end_dts: i64,
    /// The earliest presentation time of any of its frames.
    pub(super) first_pts: i64,
    /// Presentation time at which the latest of its frames ends, shown or not.
    pub(super) end_pts: i64,
    /// What of it is in the range, if anything: the rest is only there to decode that.
    pub(super) visible: Option<Visible>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Visible {
    /// Presentation time of the first frame in range.
    pub(super) from_pts: i64,
    /// Presentation time at which the last frame in range ends.
    pub(super) to_pts: i64,
    /// Wall time of the first frame in range.
    pub(super) wall: WallTime,
}

/// Puts the runs behind each other; frames that two of them have are taken from the first.
pub(super) fn arrange(
    footage: &dyn Footage,
    stream: Uuid,
    selections: Vec<RunSelection>,
) -> Result<Vec<Stretch>, FootageError> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut end = WallTime(i64::MIN);
    let mut recorder = None;
    for RunSelection { run, mut parts } in selections {
        match stretches.last_mut() {
            Some(last) if run.from < end.saturating_add_us(CLOCKS_APART_US) => {
                let first = candidates_behind(footage, &mut last.parts, run.from.saturating_add_us(-LOOKED_AT_US))?;
                let second = candidates_ahead(footage, &mut parts, end.saturating_add_us(LOOKED_AT_US))?;
                let merged = merge(&first, &second);
                if let Some((a, b)) = merged.copy {
                    let ahead = a.media - b.media;
                    splice(&mut stretches, parts, &first, &second, &merged.stretches, ahead);
                } else {
                    // Of one recorder, the same time twice is a clock that was set back.
                    let mut sides =
                        (Side { parts: &mut last.parts, frames: &first }, Side { parts: &mut parts, frames: &second });
                    let of_others = recorder.is_some_and(|recorder| recorder != run.recorder);
                    match of_others
                        .then(|| change_over::find(footage, &mut sides.0, &mut sides.1))
                        .transpose()?
                        .flatten()
                    {
                        Some(seam) => go_over(footage, stream, &mut stretches, parts, seam)?,
                        None => stretches.push(Stretch::new(parts)),
                    }
                }
            }
            _ => stretches.push(Stretch::new(parts)),
        }
        end = end.max(run.to);
        recorder = Some(run.recorder);
    }
    stretches.retain(|stretch| !stretch.parts.is_empty());
    Ok(stretches)
}

/// Goes over from the last stretch to these parts, unless there is nothing in them behind it.
fn go_over(
    footage: &dyn Footage,
    stream: Uuid,
    stretches: &mut Vec<Stretch>,
    parts: Vec<Part>,
    seam: ChangeOver,
) -> Result<(), FootageError> {
    let Some(parts) = trim(footage, stream, parts, seam.from, ALWAYS.end)? else { return Ok(()) };
    if let Some(before) = stretches.last_mut() {
        before.shown.end = seam.until;
        while let Some(last) = before.parts.last_mut() {
            let loaded = last.load(footage)?;
            if let Some((shown, _)) = loaded.video(&last.video).rev().find(|(_, entry)| entry.wall < seam.until) {
                last.video.end = shown + 1;
                break;
            }
            before.parts.pop();
        }
    }
    stretches.push(Stretch { shown: seam.from..ALWAYS.end, goes_over: true, ..Stretch::new(parts) });
    Ok(())
}

/// The frames at the end of `parts`, from the first one at or after `from` on.
fn candidates_behind(
    footage: &dyn Footage,
    parts: &mut [Part],
    from: WallTime,
) -> Result<Vec<Candidate>, FootageError> {
    let mut found = Vec::new();
    for (index, part) in parts.iter_mut().enumerate().rev() {
        let loaded = part.load(footage)?;
        let Some((start, _)) = loaded.video(&part.video).find(|(_, entry)| entry.wall >= from) else { break };
        let offset = loaded.run()?.video_offset;
        let here =
            loaded.video(&(start..part.video.end)).map(|(frame, entry)| Candidate::new(index, frame, entry, offset));
        found.splice(0..0, here);
        if start != part.video.start {
            break;
        }
    }
    Ok(found)
}

/// The frames at the beginning of `parts`, up to the last one at or before `to`.
fn candidates_ahead(footage: &dyn Footage, parts: &mut [Part], to: WallTime) -> Result<Vec<Candidate>, FootageError> {
    let mut found = Vec::new();
    for (index, part) in parts.iter_mut().enumerate() {
        let loaded = part.load(footage)?;
        let Some((last, _)) = loaded.video(&part.video).rev().find(|(_, entry)| entry.wall <= to) else { break };
        let offset = loaded.run()?.video_offset;
        let here = loaded
            .video(&(part.video.start..last + 1))
            .map(|(frame, entry)| Candidate::new(index, frame, entry, offset));
        found.extend(here);
        if last + 1 != part.video.end {
            break;
        }
    }
    Ok(found)
}

/// Replaces the end of the last stretch and the beginning of `parts` by what came out of merging them. The media time of the first run is `ahead` of
/// the second one's.
fn splice(
    stretches: &mut Vec<Stretch>,
    mut parts: Vec<Part>,
    first: &[Candidate],
    second: &[Candidate],
    merged: &[(Of, Range<usize>)],
    ahead: i64,
) {
    let Some(before) = stretches.last_mut() else { return };
    let old = before.parts.clone();
    if let Some(cut) = first.first() {
        before.parts.truncate(cut.part + 1);
        if let Some(part) = before.parts.last_mut() {
            part.video.end = cut.frame;
        }
    }
    let new = parts.clone();
    if let Some(cut) = second.last() {
        parts.drain(..cut.part);
        if let Some(part) = parts.first_mut() {
            part.video.start = cut.frame + 1;
        }
    }
    let mut of_last = Of::First;
    for (of, range) in merged {
        let (source, taken) = match of {
            Of::First => (&old, first.get(range.clone())),
            Of::Second => (&new, second.get(range.clone())),
        };
        let pieces = slices(source, taken.unwrap_or_default());
        match stretches.last_mut() {
            Some(last) if of_last == *of => last.parts.extend(pieces),
            _ => stretches.push(Stretch {
                resumes: Some(if *of == Of::Second { ahead } else { -ahead }),
                ..Stretch::new(pieces)
            }),
        }
        of_last = *of;
    }
    match stretches.last_mut() {
        Some(last) if of_last == Of::Second => last.parts.extend(parts),
        _ => stretches.push(Stretch { resumes: Some(ahead), ..Stretch::new(parts) }),
    }
    for stretch in stretches {
        stretch.parts.retain(|part| !part.video.is_empty());
        join(&mut stretch.parts);
    }
}

/// Parts made of frames that follow each other.
fn slices(source: &[Part], taken: &[Candidate]) -> Vec<Part> {
    let mut parts: Vec<(usize, Part)> = Vec::new();
    for candidate in taken {
        match parts.last_mut() {
            Some((index, part)) if *index == candidate.part && part.video.end == candidate.frame => part.video.end += 1,
            _ => {
                let Some(part) = source.get(candidate.part) else { continue };
                let video = candidate.frame..candidate.frame + 1;
                parts.push((candidate.part, Part { video, ..part.clone() }));
            }
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// Joins neighbours that are one stretch of the same segment.
fn join(parts: &mut Vec<Part>) {
    parts.dedup_by(|next, part| {
        let joins = next.segment.nonce == part.segment.nonce
            && next.segment.path == part.segment.path
            && next.run == part.run
            && next.video.start == part.video.end;
        if joins {
            part.video.end = next.video.end;
        }
        joins
    });
}

impl Stretch {
    /// When it is shown; reads its first and its last segment.
    pub(super) fn times(
        &mut self,
        footage: &dyn Footage,
        in_range: impl Fn(&VideoEntry) -> bool,
    ) -> Result<Times, FootageError> {
        let shown = self.shown.clone();
        let in_range = |entry: &VideoEntry| in_range(entry) && shown.contains(&entry.wall);
        let empty = || inconsistent("a segment in the catalogue has no frame");
        let mut first_dts = None;
        let mut first_pts = None;
        let mut from = None;
        for part in &mut self.parts {
            let (entries, offset) = media(footage, part)?;
            first_dts = first_dts.or_else(|| entries.first().map(|entry| entry.dts + offset));
            first_pts = first_pts.or_else(|| entries.iter().map(|entry| entry.pts() + offset).min());
            from = entries.iter().filter(|entry| in_range(entry)).map(|entry| (entry.pts() + offset, entry.wall)).min();
            if from.is_some() {
                break;
            }
        }
        let last = self.parts.last_mut().ok_or_else(empty)?;
        let (entries, offset) = media(footage, last)?;
        let loaded = last.load(footage)?;
        let run = loaded.run()?;
        let last_dts = entries.last().ok_or_else(empty)?.dts;
        let behind = loaded.video(&(last.video.end..run.video.end)).next().map(|(_, entry)| entry.dts);
        let step = entries.iter().rev().nth(1).map_or(0, |entry| last_dts - entry.dts);

        let end_of = |entry: &VideoEntry| {
            let next = loaded.video(&run.video).map(|(_, other)| other.pts()).filter(|pts| *pts > entry.pts()).min();
            let end = next.unwrap_or_else(|| entry.pts() + ticks(run.end.0 - entry.wall.0).max(1));
            // Another recorder goes on in the middle of the last one that is shown; what is next here may be much later.
            let goes_over = shown.end != ALWAYS.end && entry.wall < shown.end;
            if goes_over { end.min(entry.pts() + 2 * ticks(shown.end.0 - entry.wall.0)) } else { end }
        };
        let end = entries.iter().filter(|entry| in_range(entry)).max_by_key(|entry| entry.pts()).map(end_of);
        let end_pts = entries.iter().max_by_key(|entry| entry.pts()).map(end_of);
        let visible = from.map(|(from_pts, wall)| Visible {
            from_pts,
            to_pts: end.map_or(from_pts, |end| end + offset).max(from_pts + 1),
            wall,
        });
        let end_dts = behind.unwrap_or_else(|| match (step, end) {
            (1.., _) => last_dts + step,
            (_, Some(end)) => end.max(last_dts + 1),
            _ => last_dts + 1,
        });
        Ok(Times {
            first_dts: first_dts.ok_or_else(empty)?,
            last_dts: last_dts + offset,
            end_dts: end_dts + offset,
            first_pts: first_pts.ok_or_else(empty)?,
            end_pts: end_pts.ok_or_else(empty)? + offset,
            visible,
        })
    }
}

/// The frames of a part, and what makes their file times times of the media clock.
fn media(footage: &dyn Footage, part: &mut Part) -> Result<(Vec<VideoEntry>, i64), FootageError> {
    let loaded = part.load(footage)?;
    let entries = loaded.video(&part.video).map(|(_, entry)| *entry).collect();
    Ok((entries, loaded.run()?.video_offset))
}

/// Microseconds in ticks of 90 kHz, rounded.
pub(super) fn ticks(us: i64) -> i64 {
    ((i128::from(us) * 9 + 50).div_euclid(100)) as i64
}
