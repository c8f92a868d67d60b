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

/// From which of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    First,
    Second,
}

/// Two runs as one.
#[derive(Debug)]
pub(super) struct Merged {
    /// Stretches of the one and the other, as positions in the two slices, each frame once.
    pub(super) stretches: Vec<(Of, Range<usize>)>,
    /// The last frame that is in both, in the first and in the second one.
    pub(super) copy: Option<(Candidate, Candidate)>,
}

/// Merges the end of one run with the beginning of the next. Without copies the second simply follows the first.
pub(super) fn merge(first: &[Candidate], second: &[Candidate]) -> Merged {
    let mut merged: Vec<(Of, Range<usize>)> = Vec::new();
    let mut push = |of: Of, range: Range<usize>| match merged.last_mut() {
        _ if range.is_empty() => {}
        Some((last_of, last)) if *last_of == of && last.end == range.start => last.end = range.end,
        _ => merged.push((of, range)),
    };
    let copies = Copies { first, second, ahead: ahead(first, second) };
    let mut copy = None;
    let (mut in_first, mut in_second) = (0, 0);
    while let Some((a, b)) = copies.next(in_first, in_second) {
        push(Of::First, in_first..a);
        push(Of::Second, in_second..b);
        push(Of::First, a..a + 1);
        copy = first.get(a).copied().zip(second.get(b).copied());
        (in_first, in_second) = (a + 1, b + 1);
    }
    push(Of::First, in_first..first.len());
    push(Of::Second, in_second..second.len());
    Merged { stretches: merged, copy }
}

/// By how much the media clock of the first run is ahead of the second one's, 90 kHz, as all say that can be told apart; `None` where it is not certain.
fn ahead(first: &[Candidate], second: &[Candidate]) -> Option<i64> {
    if [first, second].iter().any(|frames| !is_long_enough(frames)) {
        return None;
    }
    let alone = alone(first);
    let mut said = Vec::new();
    for frame in self::alone(second).into_values().flatten() {
        let same = alone.get(&frame.identity).into_iter().flatten();
        said.extend(same.filter(|other| other.is_near(frame, CLOCKS_APART_US)).map(|other| other.media - frame.media));
    }
    let (least, most) = (said.iter().min()?, said.iter().max()?);
    (said.len() >= AGREEING && most - least <= ROUNDED).then_some(*least)
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
struct Copies<'a> {
    first: &'a [Candidate],
    second: &'a [Candidate],
    ahead: Option<i64>,
}

impl Copies<'_> {
    /// The earliest frame of the second run, from `in_second` on, that has a copy in the first from `in_first` on.
    fn next(&self, in_first: usize, in_second: usize) -> Option<(usize, usize)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(identities: &[u64], from_us: i64) -> Vec<Candidate> {
        let frame = |(i, identity): (usize, &u64)| Candidate {
            part: 0,
            frame: i as u32,
            wall: WallTime(from_us + 40_000 * i as i64),
            media: from_us + 3_600 * i as i64,
            identity: *identity,
        };
        identities.iter().enumerate().map(frame).collect()
    }

    fn merged(first: &[Candidate], second: &[Candidate]) -> Vec<u64> {
        let pick = |(of, range): (Of, Range<usize>)| match of {
            Of::First => first[range].to_vec(),
            Of::Second => second[range].to_vec(),
        };
        merge(first, second).stretches.into_iter().flat_map(pick).map(|frame| frame.identity).collect()
    }

    #[test]
    fn a_burst_of_cached_frames_is_not_shown_twice() {
        let (first, second) = (frames(&[1, 2, 3, 4, 5], 0), frames(&[3, 4, 5, 6, 7], 83_000));
        assert_eq!(merged(&first, &second), [1, 2, 3, 4, 5, 6, 7]);
        let merged = super::merge(&first, &second);
        assert_eq!((merged.stretches.len(), merged.copy), (2, Some((first[4], second[2]))));
    }

    #[test]
    fn a_frame_that_only_the_second_run_has_is_put_in_its_place() {
        let mut first = frames(&[1, 2, 3, 4, 5], 0);
        first.remove(2);
        assert_eq!(merged(&first, &frames(&[1, 2, 3, 4, 5, 6], 1_000)), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn equal_pictures_at_other_times_are_no_copies() {
        let (first, second) = (frames(&[1, 2, 3], 0), frames(&[1, 2, 3], 400_000));
        assert_eq!(merged(&first, &second), [1, 2, 3, 1, 2, 3]);
        assert_eq!(merged(&frames(&[0, 0], 0), &frames(&[0, 0], 0)), [0, 0, 0, 0]);
    }

    /// Of one camera that two recorders record: frames by their numbers, received by clocks of which the second one's is ahead.
    fn of_two(
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

    fn numbers(first: &[Candidate], second: &[Candidate]) -> Vec<u32> {
        let of = |of: Of| if of == Of::First { first } else { second };
        merge(first, second)
            .stretches
            .into_iter()
            .flat_map(|(from, range)| of(from)[range].to_vec())
            .map(|f| f.frame)
            .collect()
    }

    #[test]
    fn clocks_that_differ_show_no_frame_twice() {
        for ahead_us in [-990_000, -300_000, 0, 300_000, 990_000] {
            let (first, second) = of_two(|number| 1 + number as u64, 0..150, 90..260, ahead_us);
            assert!(numbers(&first, &second).iter().copied().eq(0..260), "{ahead_us}");
        }
    }

    #[test]
    fn a_still_scene_of_which_pictures_repeat_is_shown_once() {
        // Of 40 frames some are the same picture as the one before, and all come again.
        let still = |number: i64| 1 + (number % 40 / 3) as u64 + if number % 40 > 24 { 100 + number as u64 } else { 0 };
        for ahead_us in [-400_000, 0, 400_000] {
            let (first, second) = of_two(still, 0..150, 110..260, ahead_us);
            assert!(numbers(&first, &second).iter().copied().eq(0..260), "{ahead_us}");
        }
    }

    #[test]
    fn a_black_scene_that_repeats_itself_each_second_hides_no_frame() {
        // However few frames both have, and wherever in the second.
        for overlap in 1..60 {
            let (first, second) = of_two(|number| 1 + (number % 25) as u64, 0..150, 150 - overlap..260, 3_000);
            assert_eq!(ahead(&first, &second), None);
            assert!(numbers(&first, &second).iter().copied().eq(0..260), "{overlap}");
        }
    }

    #[test]
    fn a_frame_that_one_of_two_recorders_lacks_is_shown_all_the_same() {
        let (mut first, mut second) = of_two(|number| 1 + number as u64, 0..150, 90..260, 700_000);
        first.retain(|frame| !(100..105).contains(&frame.frame));
        second.retain(|frame| !(120..125).contains(&frame.frame));
        assert!(numbers(&first, &second).iter().copied().eq(0..260));
    }

    #[test]
    fn identities_that_do_not_agree_tell_nothing() {
        let (first, mut second) = of_two(|number| 1 + number as u64, 0..150, 90..260, 0);
        // The clock of the one goes on at twice its pace.
        second.iter_mut().for_each(|frame| frame.media *= 2);
        assert_eq!(ahead(&first, &second), None);
        let (first, second) = of_two(|number| 1 + number as u64 % 12, 0..150, 90..260, 0);
        assert_eq!(ahead(&first, &second), None);
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 143..260, 0);
        assert_eq!(ahead(&first, &second), None, "seven frames are too few");
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 60..150, 0);
        assert_eq!(ahead(&first, &second), None, "what is too short may repeat itself behind its end");
        let (first, second) = of_two(|number| 1 + number as u64, 0..150, 142..260, 0);
        assert!(ahead(&first, &second).is_some());
    }
}
