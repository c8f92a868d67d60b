//! Two runs as one, looked at window by window: however long two recorders recorded the same stream, the frames of minutes are held of them, not of days.

use std::ops::Range;

use framekeeper_media::WallTime;

use super::overlap::{Candidate, Copies, LOOKED_AT_US, ahead};
use crate::serve::footage::FootageError;

/// So much of each of the two is looked at together.
pub(super) const WINDOW_US: i64 = 120_000_000;

/// From which of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    First,
    Second,
}

/// Frames of a run in the order in which they are decoded, some at a time.
pub(super) trait Feed {
    /// The next ones; `None` behind the last.
    ///
    /// # Errors
    /// When they cannot be read.
    fn next(&mut self) -> Result<Option<Vec<Candidate>>, FootageError>;
}

/// Frames that follow each other in one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) of: Of,
    /// Position of the part in its run.
    pub(super) part: usize,
    /// Positions of the frames in its segment.
    pub(super) frames: Range<u32>,
}

/// Two runs as one.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// What of the one and the other is shown, each frame once. What of the first one was not read follows.
    pub(super) pieces: Vec<Piece>,
    /// The last frame that is in both, in the first and in the second one.
    pub(super) copy: Option<(Candidate, Candidate)>,
    /// When the frames of the first one were received, as long as none was in both.
    pub(super) walls: Vec<WallTime>,
    /// The earliest time at which a frame of the second one was received.
    pub(super) second_begins: Option<WallTime>,
    /// The last frame of the first one that was read.
    pub(super) first_ends: Option<Candidate>,
    /// The same of the second one.
    pub(super) second_ends: Option<Candidate>,
    /// So many frames were held at once.
    #[cfg(test)]
    most_held: usize,
}

/// What is held of one of the two.
struct Side<'f, F> {
    feed: &'f mut F,
    /// Those of which nothing is decided yet, and before them those that tell which of them are alike.
    frames: Vec<Candidate>,
    /// So many of them are decided.
    decided: usize,
    has_ended: bool,
}

impl<'f, F: Feed> Side<'f, F> {
    fn new(feed: &'f mut F) -> Self {
        Self { feed, frames: Vec::new(), decided: 0, has_ended: false }
    }

    /// The next frames of its run; `false` behind the last.
    fn read(&mut self, told: impl FnOnce(&[Candidate])) -> Result<bool, FootageError> {
        match self.feed.next()? {
            Some(more) => {
                told(&more);
                self.frames.extend(more);
            }
            None => self.has_ended = true,
        }
        Ok(!self.has_ended)
    }

    /// For how long there are frames of which nothing is decided.
    fn open_us(&self) -> i64 {
        self.frames.get(self.decided).zip(self.frames.last()).map_or(0, |(first, last)| last.wall.0 - first.wall.0)
    }

    /// Whether all frames have been read that may be copies of one of that time.
    fn has_all_near(&self, wall: WallTime) -> bool {
        self.has_ended || self.frames.last().is_some_and(|last| last.wall.0 - wall.0 >= LOOKED_AT_US)
    }

    fn decide(&mut self, until: usize) {
        self.decided = until;
        let Some(next) = self.frames.get(until.min(self.frames.len().saturating_sub(1))) else { return };
        let from = next.wall.saturating_add_us(-LOOKED_AT_US);
        let old = self.frames.iter().take(until).take_while(|frame| frame.wall < from).count();
        self.frames.drain(..old);
        self.decided -= old;
    }
}

impl Merged {
    fn push(&mut self, of: Of, frames: &[Candidate]) {
        for frame in frames {
            match self.pieces.last_mut() {
                Some(last) if last.of == of && last.part == frame.part && last.frames.end == frame.frame => {
                    last.frames.end += 1;
                }
                _ => self.pieces.push(Piece { of, part: frame.part, frames: frame.frame..frame.frame + 1 }),
            }
        }
    }

    fn read<F: Feed, S: Feed>(
        &mut self,
        first: &mut Side<'_, F>,
        second: &mut Side<'_, S>,
        window_us: i64,
    ) -> Result<(), FootageError> {
        while !first.has_ended && first.open_us() < window_us {
            self.read_first(first)?;
        }
        while !second.has_ended && second.open_us() < window_us {
            self.read_second(second)?;
        }
        #[cfg(test)]
        {
            self.most_held = self.most_held.max(first.frames.len() + second.frames.len());
        }
        Ok(())
    }

    fn read_first<F: Feed>(&mut self, first: &mut Side<'_, F>) -> Result<bool, FootageError> {
        let (walls, ends, has_copies) = (&mut self.walls, &mut self.first_ends, self.copy.is_some());
        first.read(|more| {
            *ends = more.last().copied().or(*ends);
            if !has_copies {
                walls.extend(more.iter().map(|frame| frame.wall));
            }
        })
    }

    fn read_second<S: Feed>(&mut self, second: &mut Side<'_, S>) -> Result<bool, FootageError> {
        let (begins, ends) = (&mut self.second_begins, &mut self.second_ends);
        second.read(|more| {
            *ends = more.last().copied().or(*ends);
            *begins = more.iter().map(|frame| frame.wall).chain(*begins).min();
        })
    }
}

/// For how long there are frames of both.
fn common_us(first: &[Candidate], second: &[Candidate]) -> i64 {
    let ends = |frames: &[Candidate]| frames.first().zip(frames.last()).map(|(first, last)| (first.wall, last.wall));
    let common = |(first, second): ((WallTime, WallTime), (WallTime, WallTime))| {
        first.1.min(second.1).0.saturating_sub(first.0.max(second.0).0)
    };
    ends(first).zip(ends(second)).map_or(0, common)
}

/// Merges the end of one run with the beginning of the next, `window_us` of them at a time. Without copies the second simply follows the first.
///
/// # Errors
/// When their frames cannot be read.
pub(super) fn merge<F: Feed, S: Feed>(first: &mut F, second: &mut S, window_us: i64) -> Result<Merged, FootageError> {
    let mut merged = Merged::default();
    let (mut first, mut second) = (Side::new(first), Side::new(second));
    let (mut known, mut wanted_us) = (None, window_us);
    loop {
        merged.read(&mut first, &mut second, wanted_us)?;
        known = ahead(&first.frames, &second.frames, known);
        let copies = Copies { first: &first.frames, second: &second.frames, ahead: known };
        let (mut in_first, mut in_second) = (first.decided, second.decided);
        let (begun, mut has_more) = ((in_first, in_second), false);
        while let Some((a, b)) = copies.next(in_first, in_second) {
            let (Some(of_first), Some(of_second)) = (first.frames.get(a), second.frames.get(b)) else { break };
            // An earlier one of the second may have its copy where the first has not been read.
            if !first.has_all_near(of_second.wall) {
                has_more = true;
                break;
            }
            merged.copy = Some((*of_first, *of_second));
            merged.push(Of::First, first.frames.get(in_first..a).unwrap_or_default());
            merged.push(Of::Second, second.frames.get(in_second..b).unwrap_or_default());
            merged.push(Of::First, std::slice::from_ref(of_first));
            (in_first, in_second) = (a + 1, b + 1);
        }
        if merged.copy.is_some() {
            merged.walls = Vec::new();
        }
        let is_read = second.has_ended
            && second
                .frames
                .iter()
                .skip(in_second)
                .chain(&merged.second_ends)
                .all(|rest| first.has_all_near(rest.wall));
        if is_read || (first.has_ended && second.has_ended) {
            if merged.copy.is_some() {
                let (rest, others) = (first.frames.get(in_first..), second.frames.get(in_second..));
                merged.finish(rest.unwrap_or_default(), others.unwrap_or_default(), known);
                return Ok(merged);
            }
            break;
        }
        if begun != (in_first, in_second) {
            first.decide(in_first);
            second.decide(in_second);
            wanted_us = window_us;
        } else if merged.copy.is_none() && !has_more && common_us(&first.frames, &second.frames) >= window_us / 2 {
            // The camera codes for each of them.
            break;
        } else {
            wanted_us = wanted_us.saturating_mul(2);
        }
    }
    // None is in both: there is no more to be held than when the pictures of the first one were received.
    (first.frames, second.frames) = (Vec::new(), Vec::new());
    while !first.has_ended && merged.read_first(&mut first)? {
        first.frames.clear();
    }
    while !second.has_ended && merged.read_second(&mut second)? {
        second.frames.clear();
    }
    Ok(merged)
}

impl Merged {
    /// Puts what only the second one has behind the last copy into its place: the first one may go on for longer.
    fn finish(&mut self, first: &[Candidate], second: &[Candidate], ahead: Option<i64>) {
        let last_media = second.iter().map(|frame| frame.media).max();
        let last_wall = second.iter().map(|frame| frame.wall).max();
        let is_behind = |frame: &Candidate| match (ahead, last_media, last_wall) {
            (Some(ahead), Some(media), _) => frame.media - ahead > media,
            (None, _, Some(wall)) => frame.wall > wall,
            _ => false,
        };
        let at = first.iter().position(is_behind).unwrap_or(first.len());
        let (before, behind) = first.split_at(at);
        self.push(Of::First, before);
        self.push(Of::Second, second);
        self.push(Of::First, behind);
    }
}

#[cfg(test)]
mod tests {
    use super::super::overlap::testing::of_two;
    use super::*;

    /// All at once, and less at a time than is compared.
    const WINDOWS_US: [i64; 3] = [i64::MAX / 4, 60_000_000, 8_000_000];

    /// Parts of some frames each.
    struct Parts {
        parts: Vec<Vec<Candidate>>,
        read: usize,
    }

    impl Parts {
        fn new(frames: &[Candidate], each: usize) -> Self {
            let part = |(part, frames): (usize, &[Candidate])| {
                frames.iter().map(|frame| Candidate { part, ..*frame }).collect::<Vec<_>>()
            };
            Self { parts: frames.chunks(each).enumerate().map(part).collect(), read: 0 }
        }
    }

    impl Feed for Parts {
        fn next(&mut self) -> Result<Option<Vec<Candidate>>, FootageError> {
            self.read += 1;
            Ok(self.parts.get(self.read - 1).cloned())
        }
    }

    /// What is shown, of the first or the second one, by positions in the segments.
    fn shown(first: &[Candidate], second: &[Candidate], window_us: i64) -> (Vec<(Of, u32)>, Merged) {
        let (mut first_parts, mut second_parts) = (Parts::new(first, 33), Parts::new(second, 47));
        let merged = merge(&mut first_parts, &mut second_parts, window_us).unwrap();
        let every = |of: Of, frames: &[Candidate]| frames.iter().map(|frame| (of, frame.frame)).collect::<Vec<_>>();
        if merged.copy.is_none() {
            return ([every(Of::First, first), every(Of::Second, second)].concat(), merged);
        }
        let pieces = merged.pieces.iter().flat_map(|piece| piece.frames.clone().map(|frame| (piece.of, frame)));
        let rest = first_parts.parts.iter().skip(first_parts.read).flat_map(|part| every(Of::First, part));
        (pieces.chain(rest).collect(), merged)
    }

    fn numbers(first: &[Candidate], second: &[Candidate], window_us: i64) -> Vec<u32> {
        shown(first, second, window_us).0.into_iter().map(|(_, frame)| frame).collect()
    }

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
        let identity = |(of, at): (Of, u32)| {
            let frames = if of == Of::First { first } else { second };
            frames.iter().find(|frame| frame.frame == at).map(|frame| frame.identity)
        };
        shown(first, second, WINDOW_US).0.into_iter().filter_map(identity).collect()
    }

    #[test]
    fn a_burst_of_cached_frames_is_not_shown_twice() {
        let (first, second) = (frames(&[1, 2, 3, 4, 5], 0), frames(&[3, 4, 5, 6, 7], 83_000));
        assert_eq!(merged(&first, &second), [1, 2, 3, 4, 5, 6, 7]);
        let merged = shown(&first, &second, WINDOW_US).1;
        assert_eq!((merged.pieces.len(), merged.copy), (2, Some((first[4], second[2]))));
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

    #[test]
    fn clocks_that_differ_show_no_frame_twice() {
        for ahead_us in [-990_000, -300_000, 0, 300_000, 990_000] {
            let (first, second) = of_two(|number| 1 + number as u64, 0..150, 90..260, ahead_us);
            for window_us in WINDOWS_US {
                assert!(numbers(&first, &second, window_us).iter().copied().eq(0..260), "{ahead_us} {window_us}");
            }
        }
    }

    #[test]
    fn a_still_scene_of_which_pictures_repeat_is_shown_once() {
        // Of 40 frames some are the same picture as the one before, and all come again.
        let still = |number: i64| 1 + (number % 40 / 3) as u64 + if number % 40 > 24 { 100 + number as u64 } else { 0 };
        for ahead_us in [-400_000, 0, 400_000] {
            let (first, second) = of_two(still, 0..150, 110..260, ahead_us);
            for window_us in WINDOWS_US {
                assert!(numbers(&first, &second, window_us).iter().copied().eq(0..260), "{ahead_us} {window_us}");
            }
        }
    }

    #[test]
    fn a_black_scene_that_repeats_itself_each_second_hides_no_frame() {
        // However few frames both have, and wherever in the second.
        for overlap in 1..60 {
            let (first, second) = of_two(|number| 1 + (number % 25) as u64, 0..150, 150 - overlap..260, 3_000);
            assert_eq!(ahead(&first, &second, None), None);
            for window_us in WINDOWS_US {
                assert!(numbers(&first, &second, window_us).iter().copied().eq(0..260), "{overlap} {window_us}");
            }
        }
    }

    #[test]
    fn a_frame_that_one_of_two_recorders_lacks_is_shown_all_the_same() {
        let (mut first, mut second) = of_two(|number| 1 + number as u64, 0..150, 90..260, 700_000);
        first.retain(|frame| !(100..105).contains(&frame.frame));
        second.retain(|frame| !(120..125).contains(&frame.frame));
        for window_us in WINDOWS_US {
            assert!(numbers(&first, &second, window_us).iter().copied().eq(0..260), "{window_us}");
        }
    }

    #[test]
    fn hours_that_both_have_are_shown_once_and_minutes_of_them_are_held() {
        const HOURS: i64 = 3 * 90_000;
        // Each lacks some frames that the other one has; the second one ends before the first, with some that only that one has.
        let (mut first, second) = of_two(|number| 1 + number as u64, 0..HOURS, 500..HOURS - 900, 300_000);
        first.retain(|frame| {
            frame.frame % 7_001 != 600 && !(HOURS as u32 - 903..HOURS as u32 - 900).contains(&frame.frame)
        });
        let second: Vec<Candidate> = second.into_iter().filter(|frame| frame.frame % 9_001 != 700).collect();
        for window_us in [WINDOW_US, 60_000_000] {
            let (frames, merged) = shown(&first, &second, window_us);
            assert!(frames.into_iter().map(|(_, frame)| frame).eq(0..HOURS as u32), "{window_us}");
            let most = (2 * (window_us + 2 * LOOKED_AT_US) / 40_000 + 200) as usize;
            assert!(merged.most_held <= most, "{} frames, at most {most}", merged.most_held);
        }
    }

    #[test]
    fn wherever_a_window_ends_nothing_is_shown_twice() {
        for end in (210..360).chain(900..1_150).step_by(7) {
            for ahead_us in [-900_000, 900_000] {
                let (first, second) = of_two(|number| 1 + number as u64, 0..1_300, 100..end, ahead_us);
                let shown = numbers(&first, &second, WINDOWS_US[2]);
                assert!(shown.iter().copied().eq(0..1_300), "{end} {ahead_us}");
                let shown = numbers(&second, &first, WINDOWS_US[2]);
                assert!(shown.iter().copied().eq(0..1_300), "{end} {ahead_us}, the other way round");
            }
        }
    }

    #[test]
    fn what_is_coded_for_each_recorder_is_soon_known_as_such() {
        const HOUR: i64 = 90_000;
        let (first, mut second) = of_two(|number| 1 + number as u64, 0..HOUR, 500..HOUR, 0);
        second.iter_mut().for_each(|frame| frame.identity += 1 << 40);
        let merged = shown(&first, &second, WINDOW_US).1;
        assert_eq!((merged.copy, merged.walls.len()), (None, first.len()));
        assert_eq!(merged.first_ends.map(|frame| frame.wall), first.last().map(|frame| frame.wall));
        assert_eq!(merged.second_ends.map(|frame| frame.wall), second.last().map(|frame| frame.wall));
        assert!(merged.most_held <= (2 * (WINDOW_US + 2 * LOOKED_AT_US) / 40_000 + 200) as usize);
    }

    #[test]
    fn what_is_behind_the_end_of_the_second_one_is_not_read() {
        const HOURS: i64 = 3 * 90_000;
        let (first, second) = of_two(|number| 1 + number as u64, 0..HOURS, 500..2_000, 0);
        let mut parts = Parts::new(&first, 33);
        let merged = merge(&mut parts, &mut Parts::new(&second, 47), WINDOW_US).unwrap();
        assert!(merged.copy.is_some());
        assert!(parts.read < 2 * (WINDOW_US / 40_000) as usize / 33, "{} parts", parts.read);
    }
}
