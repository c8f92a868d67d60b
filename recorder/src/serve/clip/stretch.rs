//! Stretches: what is played without a break on one media clock, in the order in which a clip shows it.

use std::ops::Range;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::change_over::{self, ChangeOver};
use super::merge::{Feed, Merged, Of, Piece, WINDOW_US, merge};
use super::overlap::{CLOCKS_APART_US, Candidate, LOOKED_AT_US};
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
        if stretches.is_empty() || run.from >= end.saturating_add_us(CLOCKS_APART_US) {
            stretches.push(Stretch::new(parts));
        } else {
            let mut before = Behind::new(footage, &mut stretches, run.from.saturating_add_us(-LOOKED_AT_US))?;
            let mut next = Ahead { footage, parts: &parts, until: end.saturating_add_us(LOOKED_AT_US), read: 0 };
            let merged = merge(&mut before, &mut next, WINDOW_US)?;
            if merged.copy.is_some() {
                splice(footage, &mut stretches, parts, before.finish(), &merged)?;
            } else {
                // Of one recorder, the same time twice is a clock that was set back.
                let mut before: Vec<Part> = before.sources.into_iter().map(|source| source.part).collect();
                let of_others = recorder.is_some_and(|recorder| recorder != run.recorder);
                let found = of_others.then(|| change_over::find(footage, &mut before, &mut parts, &merged));
                match found.transpose()?.flatten() {
                    Some(seam) => go_over(footage, stream, &mut stretches, parts, seam)?,
                    None => stretches.push(Stretch::new(parts)),
                }
            }
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

/// A part at the end of what there is, in which frames are looked at.
struct Source {
    part: Part,
    /// Position of its stretch.
    stretch: usize,
    /// By how much the media clock of the last stretch is ahead of this one's, 90 kHz.
    ahead: i64,
}

/// The frames at the end of the stretches, from the first one at or after some time on, on the media clock of the last one; back to where that clock
/// begins. Of three recorders that record at once the first may have what the third has, and the second what comes behind it. `part` of each is the
/// position of its source.
struct Behind<'f> {
    footage: &'f dyn Footage,
    sources: Vec<Source>,
    read: usize,
}

impl<'f> Behind<'f> {
    fn new(footage: &'f dyn Footage, stretches: &mut [Stretch], from: WallTime) -> Result<Self, FootageError> {
        // From the last one on.
        let mut sources = Vec::new();
        let mut ahead = 0;
        'all: for (stretch, Stretch { parts, resumes, .. }) in stretches.iter_mut().enumerate().rev() {
            for part in parts.iter_mut().rev() {
                let mut part = part.clone();
                // What is whole and begins later need not be read to know that.
                let begins = if part.is_whole() && part.segment.first >= from {
                    part.video.start
                } else {
                    let loaded = part.load(footage)?;
                    let Some((begins, _)) = loaded.video(&part.video).find(|(_, entry)| entry.wall >= from) else {
                        break 'all;
                    };
                    begins
                };
                let is_cut = begins != part.video.start;
                part = part.cut(footage, begins..part.video.end)?;
                part.forget_if_whole();
                sources.push(Source { part, stretch, ahead });
                if is_cut {
                    break 'all;
                }
            }
            let Some(before) = resumes else { break };
            ahead -= *before;
        }
        sources.reverse();
        Ok(Self { footage, sources, read: 0 })
    }

    /// The sources, and how many of them were read.
    fn finish(self) -> (Vec<Source>, usize) {
        (self.sources, self.read)
    }
}

impl Feed for Behind<'_> {
    fn next(&mut self) -> Result<Option<Vec<Candidate>>, FootageError> {
        let Some(source) = self.sources.get(self.read) else { return Ok(None) };
        let loaded = source.part.clone().load(self.footage)?;
        let offset = loaded.run()?.video_offset.saturating_add(source.ahead);
        let here = loaded.video(&source.part.video);
        let found = here.map(|(frame, entry)| Candidate::new(self.read, frame, entry, offset)).collect();
        self.read += 1;
        Ok(Some(found))
    }
}

/// The frames at the beginning of parts, up to the last one at or before some time.
struct Ahead<'f> {
    footage: &'f dyn Footage,
    parts: &'f [Part],
    until: WallTime,
    read: usize,
}

impl Feed for Ahead<'_> {
    fn next(&mut self) -> Result<Option<Vec<Candidate>>, FootageError> {
        let Some(part) = self.parts.get(self.read) else { return Ok(None) };
        let loaded = part.clone().load(self.footage)?;
        let last = loaded.video(&part.video).rev().find(|(_, entry)| entry.wall <= self.until);
        let Some((last, _)) = last else {
            self.read = self.parts.len();
            return Ok(None);
        };
        let offset = loaded.run()?.video_offset;
        let here = loaded.video(&(part.video.start..last + 1));
        let found = here.map(|(frame, entry)| Candidate::new(self.read, frame, entry, offset)).collect();
        self.read = if last + 1 == part.video.end { self.read + 1 } else { self.parts.len() };
        Ok(Some(found))
    }
}

/// Replaces the end of the stretches, which is `sources`, of which so many were read, and the beginning of `parts` by what came out of merging them.
fn splice(
    footage: &dyn Footage,
    stretches: &mut Vec<Stretch>,
    mut parts: Vec<Part>,
    (sources, read): (Vec<Source>, usize),
    merged: &Merged,
) -> Result<(), FootageError> {
    let (Some(begin), Some((a, b))) = (sources.first(), merged.copy) else { return Ok(()) };
    // The media time of the last stretch is so far ahead of that of `parts`.
    let ahead = a.media - b.media;
    let taken = sources.iter().filter(|source| source.stretch == begin.stretch).count();
    stretches.truncate(begin.stretch + 1);
    if let Some(before) = stretches.last_mut() {
        before.parts.truncate((before.parts.len() + 1).saturating_sub(taken));
        if let Some(part) = before.parts.last_mut() {
            *part = part.cut(footage, part.video.start..begin.part.video.start)?;
        }
        before.parts.retain(|part| !part.video.is_empty());
    }
    let new = parts.clone();
    if let Some(cut) = merged.second_ends {
        parts.drain(..cut.part);
        if let Some(part) = parts.first_mut() {
            *part = part.cut(footage, cut.frame + 1..part.video.end)?;
        }
    }
    parts.retain(|part| !part.video.is_empty());
    // Whose stretch the last one is (`None`: that of `parts`), and by how much the clock of what was the last one is ahead of its clock.
    let mut last = (Some(begin.stretch), begin.ahead);
    let mut push = |of: Option<usize>, ahead: i64, part: Part| {
        let (last_of, last_ahead) = last;
        match stretches.last_mut() {
            Some(stretch) if last_of == of => stretch.parts.push(part),
            Some(stretch) if stretch.parts.is_empty() => {
                stretch.parts.push(part);
                stretch.resumes = stretch.resumes.map(|resumes| resumes + ahead - last_ahead);
            }
            _ => stretches.push(Stretch { resumes: Some(ahead - last_ahead), ..Stretch::new(vec![part]) }),
        }
        last = (of, ahead);
    };
    for Piece { of, part, frames } in &merged.pieces {
        let video = frames.clone();
        match of {
            Of::First => {
                let Some(source) = sources.get(*part) else { continue };
                push(Some(source.stretch), source.ahead, source.part.cut(footage, video)?);
            }
            Of::Second => {
                let Some(part) = new.get(*part) else { continue };
                push(None, ahead, part.cut(footage, video)?);
            }
        }
    }
    for source in sources.iter().skip(read) {
        push(Some(source.stretch), source.ahead, source.part.clone());
    }
    for part in parts {
        push(None, ahead, part);
    }
    for stretch in stretches {
        join(&mut stretch.parts);
        stretch.parts.iter_mut().for_each(Part::forget_if_whole);
    }
    Ok(())
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
