//! Where a clip goes over from one recorder's footage to another's of the same time, of which no frame is a copy of one of the first: a camera that
//! codes for each session gives each of them other bytes.
//!
//! Which frames show the same moment is then told by the camera's clock, as its sender reports have it, where the recorders' clocks say about the
//! same. Otherwise both are shown whole: twice rather than never.

use framekeeper_media::WallTime;

use super::descriptions::Descriptions;
use super::merge::Merged;
use super::overlap::Candidate;
use super::select::{Part, inconsistent};
use super::stretch::REACH_US;
use crate::serve::footage::{Footage, FootageError, VideoEntry};

/// A recorder that fails has written less of the sound than of the pictures, but not by more than this.
const SOUND_BEHIND_US: i64 = 1_000_000;

/// One moment on the clocks of two recorders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangeOver {
    /// What of the first one is earlier is shown…
    pub(super) until: WallTime,
    /// …and from here on the second one, by its own clock.
    pub(super) from: WallTime,
}

/// Where the second goes on for the first, by what was seen of both in the time in which there are both, and some seconds around it; `None` where they do
/// not overlap, or it is not certain that they show the same.
pub(super) fn find(
    footage: &dyn Footage,
    first: &mut [Part],
    second: &mut [Part],
    seen: &Merged,
) -> Result<Option<ChangeOver>, FootageError> {
    let (Some(begins), Some(last)) = (seen.second_begins, seen.walls.iter().max()) else { return Ok(None) };
    if last.0 - begins.0 <= REACH_US {
        return Ok(None);
    }
    let (Some(ahead), Some(behind)) =
        (camera_ahead_us(footage, first, seen.first_ends)?, camera_ahead_us(footage, second, seen.second_ends)?)
    else {
        return Ok(None);
    };
    let apart_us = ahead - behind;
    if apart_us.abs() > REACH_US {
        return Ok(None);
    }
    let both = begins.saturating_add_us(-apart_us);
    let mut pictures: Vec<WallTime> = seen.walls.iter().copied().filter(|wall| *wall >= both).collect();
    let Some(end) = cut_where_one_is_missing(&mut pictures) else { return Ok(None) };
    let heard = sound_end(footage, first)?.filter(|heard| (0..SOUND_BEHIND_US).contains(&(end.0 - heard.0)));
    let next = pictures.iter().skip(1).chain([&end]);
    let within = |(_, next): &(&WallTime, &WallTime)| heard.is_none_or(|heard| **next <= heard);
    let seam = pictures.iter().zip(next).filter(within).last();
    // Where the sound ends too early, it does so.
    let seam = seam.or_else(|| pictures.last().map(|shown| (shown, &end)));
    Ok(seam.map(|(shown, next)| {
        let until = WallTime(shown.0 + (next.0 - shown.0) / 2);
        ChangeOver { until, from: until.saturating_add_us(apart_us) }
    }))
}

/// Puts pictures in order and leaves out what does not follow: a recorder that fails between pictures that are not in display order lacks some before
/// its last one, and the other one has them. Returns when the next one would be; `None` where that can't be told.
fn cut_where_one_is_missing(pictures: &mut Vec<WallTime>) -> Option<WallTime> {
    pictures.sort_unstable();
    let apart_us = |(one, next): (&WallTime, &WallTime)| next.0 - one.0;
    let all: Vec<i64> = pictures.iter().zip(pictures.iter().skip(1)).map(apart_us).collect();
    let mut usual = all.clone();
    usual.sort_unstable();
    let usual_us = *usual.get(usual.len() / 2)?;
    let following = all.iter().take_while(|apart| **apart <= usual_us * 3 / 2).count();
    pictures.truncate(following + 1);
    pictures.last().map(|last| last.saturating_add_us(usual_us))
}

/// How far the camera's clock is ahead of the recorder's, by this frame of these parts; microseconds, and not from the same beginning.
fn camera_ahead_us(
    footage: &dyn Footage,
    parts: &mut [Part],
    frame: Option<Candidate>,
) -> Result<Option<i64>, FootageError> {
    let Some(frame) = frame else { return Ok(None) };
    let part = parts.get_mut(frame.part).ok_or_else(|| inconsistent("a part of a clip is missing"))?;
    let loaded = part.load(footage)?;
    let entry = loaded.frames.video.get(frame.frame as usize);
    let zero_us = loaded.run()?.camera_zero_us;
    Ok(entry.zip(zero_us).map(|(entry, zero_us)| zero_us + us(entry.pts()) - entry.wall.0))
}

/// When the sound of these parts ends.
fn sound_end(footage: &dyn Footage, parts: &mut [Part]) -> Result<Option<WallTime>, FootageError> {
    // What is behind its picture may be in the next segment.
    for part in parts.iter_mut().rev().take(2) {
        let loaded = part.load(footage)?;
        let run = loaded.run()?;
        let sounds = loaded.frames.audio.get(run.audio.start as usize..run.audio.end as usize);
        let picture: Option<&VideoEntry> = loaded.video(&run.video).next_back().map(|(_, entry)| entry);
        let Some((sound, picture)) = sounds.and_then(<[_]>::last).zip(picture) else { continue };
        let mut descriptions = Descriptions::default();
        descriptions.add(footage, &part.segment)?;
        let rate = i64::from(descriptions.audio_rate.max(1));
        let end = (sound.time + i64::from(sound.duration)).saturating_mul(90_000) / rate;
        return Ok(Some(picture.wall.saturating_add_us(us(end - picture.pts()))));
    }
    Ok(None)
}

/// Ticks of 90 kHz in microseconds.
fn us(ticks: i64) -> i64 {
    ticks.saturating_mul(100) / 9
}
