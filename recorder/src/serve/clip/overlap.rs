//! Copies of the same frame in two runs.
//!
//! Two recorders that record the same stream, a camera that begins each session with the GOP it has just sent, or a volume that failed before its
//! last frames were safe, leave the same coded frames in two runs. A clip shows each once, and none is hidden that only one of the runs has.
//!
//! Identities repeat: of a still scene a camera codes the same bytes again and again. So they tell first by how much the media clocks of the runs
//! differ, and then the media time tells which frame is which, however the clocks of two recorders differ. Where that cannot be told, frames
//! are copies that are alike and were received at about the same time.

use std::collections::HashMap;
use std::ops::Range;

use framekeeper_media::WallTime;

use crate::serve::footage::VideoEntry;

/// Two sessions' wall clocks for the same frame differ by less than this, where nothing else tells which frame it is.
const COPY_TOLERANCE_US: i64 = 250_000;
/// The clocks of recorders differ by less than this. Further apart, copies are not looked for.
pub(super) const CLOCKS_APART_US: i64 = 1_000_000;
/// So many frames must agree on how the media clocks of two runs differ.
const AGREEING: usize = 8;
/// Within so long an identity must be the only one of its kind in its run: twice what clocks may differ, and some more. A scene that repeats itself sooner
/// could be taken for itself one turn later.
const ALONE_US: i64 = 2_500_000;
/// Of a run that is no longer than this, a frame may be the only one of its kind although the scene repeats itself.
const LONG_ENOUGH_US: i64 = 4 * CLOCKS_APART_US;
/// How far a run is looked at beyond where it may have copies of another one's frames.
pub(super) const LOOKED_AT_US: i64 = CLOCKS_APART_US + LONG_ENOUGH_US;
/// Frames are received in no other order than they are shown in by more than this.
const OUT_OF_ORDER_US: i64 = 2_000_000;
/// Media times of one frame differ by no more than this, 90 kHz: a sender rounds.
const ROUNDED: i64 = 45;

/// A frame of a run: where it is, and what is needed to know its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Position of the part in its run.
    pub(super) part: usize,
    /// Position of the frame in its segment.
    pub(super) frame: u32,
    pub(super) wall: WallTime,
    /// When it is shown on the media clock of its run, 90 kHz.
    pub(super) media: i64,
    pub(super) identity: u64,
}

impl Candidate {
    /// `offset` makes times of the segment's file times of the run's media clock.
    pub(super) fn new(part: usize, frame: u32, entry: &VideoEntry, offset: i64) -> Self {
        Self { part, frame, wall: entry.wall, media: entry.pts() + offset, identity: entry.identity }
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.identity != 0 && self.identity == other.identity
    }

    fn is_near(&self, other: &Self, within_us: i64) -> bool {
        (self.wall.0 - other.wall.0).abs() <= within_us
    }
}

/// By how much the media clock of the first run is ahead of the second one's, 90 kHz, as all of these frames say that can be told apart; `None` where it is
/// not certain. `known`: what was found of the frames before them, which holds unless these say otherwise.
pub(super) fn ahead(first: &[Candidate], second: &[Candidate], known: Option<i64>) -> Option<i64> {
    if [first, second].iter().any(|frames| !is_long_enough(frames)) {
        return known;
    }
    let alone = alone(first);
    let mut said = Vec::new();
    for frame in self::alone(second).into_values().flatten() {
        let same = alone.get(&frame.identity).into_iter().flatten();
        said.extend(same.filter(|other| other.is_near(frame, CLOCKS_APART_US)).map(|other| other.media - frame.media));
    }
    let (Some(least), Some(most)) = (said.iter().chain(&known).min(), said.iter().chain(&known).max()) else {
        return None;
    };
    let is_said = known.is_some() || said.len() >= AGREEING;
    (is_said && most - least <= ROUNDED).then_some(known.unwrap_or(*least))
}

/// Whether a scene that repeats itself would be known as such.
fn is_long_enough(frames: &[Candidate]) -> bool {
    frames.first().zip(frames.last()).is_some_and(|(first, last)| last.wall.0 - first.wall.0 >= LONG_ENOUGH_US)
}

/// Frames by their identities, but for those that another one with the same is near to.
fn alone(frames: &[Candidate]) -> HashMap<u64, Vec<&Candidate>> {
    let mut alike: HashMap<u64, Vec<&Candidate>> = HashMap::new();
    for frame in frames.iter().filter(|frame| frame.identity != 0) {
        alike.entry(frame.identity).or_default().push(frame);
    }
    for alike in alike.values_mut() {
        let all = std::mem::take(alike);
        let before = std::iter::once(None).chain(all.iter().copied().map(Some));
        let behind = all.iter().copied().skip(1).map(Some).chain(std::iter::once(None));
        let is_far =
            |frame: &Candidate, other: Option<&Candidate>| other.is_none_or(|other| !other.is_near(frame, ALONE_US));
        let far = all
            .iter()
            .zip(before.zip(behind))
            .filter(|(frame, (before, behind))| is_far(frame, *before) && is_far(frame, *behind));
        *alike = far.map(|(frame, _)| *frame).collect();
    }
    alike
}

/// Where the frames of a run are that were received from `from` to `to`, and some beside them: frames are in the order in which they are decoded.
fn around(frames: &[Candidate], from: WallTime, to: WallTime) -> Range<usize> {
    let begin = frames.partition_point(|frame| frame.wall < from.saturating_add_us(-OUT_OF_ORDER_US));
    let end = frames.partition_point(|frame| frame.wall <= to.saturating_add_us(OUT_OF_ORDER_US));
    begin..end.max(begin)
}

/// Looks for copies in two runs.
pub(super) struct Copies<'a> {
    pub(super) first: &'a [Candidate],
    pub(super) second: &'a [Candidate],
    pub(super) ahead: Option<i64>,
}

impl Copies<'_> {
    /// The earliest frame of the second run, from `in_second` on, that has a copy in the first from `in_first` on.
    pub(super) fn next(&self, in_first: usize, in_second: usize) -> Option<(usize, usize)> {
        let end_of_first = self.first.last()?.wall.saturating_add_us(self.apart_us());
        for (b, frame) in self.second.iter().enumerate().skip(in_second) {
            if frame.wall > end_of_first {
                return None;
            }
            let apart_us = self.apart_us();
            let near =
                around(self.first, frame.wall.saturating_add_us(-apart_us), frame.wall.saturating_add_us(apart_us));
            let begin = near.start.max(in_first);
            let mut rest = self.first.get(begin..near.end).unwrap_or_default().iter();
            if let Some(a) = rest.position(|other| self.is_copy(other, frame)) {
                return Some((begin + a, b));
            }
        }
        None
    }

    fn apart_us(&self) -> i64 {
        if self.ahead.is_some() { CLOCKS_APART_US } else { COPY_TOLERANCE_US }
    }

    fn is_copy(&self, a: &Candidate, b: &Candidate) -> bool {
        let in_time = self.ahead.is_none_or(|ahead| (a.media - b.media - ahead).abs() <= ROUNDED);
        a.is_alike(b) && in_time && a.is_near(b, self.apart_us())
    }
}

/// Frames for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Of one camera that two recorders record: frames by their numbers, received by clocks of which the second one's is ahead.
    pub(in super::super) fn of_two(
        identity: impl Fn(i64) -> u64,
        first: Range<i64>,
        second: Range<i64>,
        ahead_us: i64,
    ) -> (Vec<Candidate>, Vec<Candidate>) {
        let frame = |number: i64, wall_us: i64, zero: i64| Candidate {
            part: 0,
            frame: number as u32,
            wall: WallTime(number * 40_000 + wall_us),
            media: number * 3_600 + zero,
            identity: identity(number),
        };
        let first = first.map(|number| frame(number, 0, 77_000)).collect();
        let second = second.map(|number| frame(number, ahead_us, 5_000_000 + number % 2)).collect();
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::of_two;
    use super::*;

    #[test]
    fn identities_that_do_not_agree_tell_nothing() {
        let (first, mut second) = of_two(|number| 1 + number as u64, 0..150, 90..260, 0);
        // The clock of the one goes on at twice its pace.
        second.iter_mut().for_each(|frame| frame.media *= 2);
        assert_eq!(ahead(&first, &second, None), None);
        let (first, second) = of_two(|number| 1 + number as u64 % 12, 0..150, 90..260, 0);
        assert_eq!(ahead(&first, &second, None), None);
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 143..260, 0);
        assert_eq!(ahead(&first, &second, None), None, "seven frames are too few");
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 60..150, 0);
        assert_eq!(ahead(&first, &second, None), None, "what is too short may repeat itself behind its end");
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 142..260, 0);
        assert!(ahead(&first, &second, None).is_some());
    }

    #[test]
    fn what_is_known_holds_until_frames_say_otherwise() {
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 90..260, 0);
        let found = ahead(&first, &second, None);
        assert!(found.is_some());
        assert_eq!(ahead(&first, &second, found.map(|found| found + 9_000)), None);
        // A black scene tells nothing, nor do few frames.
        let (black, repeated) = of_two(|number| 1 + (number % 25) as u64, 0..150, 90..260, 0);
        for (first, second) in [(&black, &repeated), (&first[..3].to_vec(), &second)] {
            assert_eq!(ahead(first, second, None), None);
            assert_eq!(ahead(first, second, found), found);
        }
    }
}
