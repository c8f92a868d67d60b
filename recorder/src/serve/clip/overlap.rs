//! Copies of the same frame in two runs of one recorder.
//!
//! A camera that begins each session with the GOP it has just sent, or a volume that failed before its last frames were safe,
//! leaves the same coded frames in two runs. A clip shows each once, and none is hidden that only one of the runs has.

use std::ops::Range;

use framekeeper_media::WallTime;

use crate::serve::footage::VideoEntry;

/// Two sessions' wall clocks for the same frame differ by less than this.
const COPY_TOLERANCE_US: i64 = 250_000;

/// A frame of a run: where it is, and what is needed to know its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Position of the part in its run.
    pub(super) part: usize,
    /// Position of the frame in its segment.
    pub(super) frame: u32,
    pub(super) wall: WallTime,
    pub(super) identity: u64,
}

impl Candidate {
    pub(super) fn new(part: usize, frame: u32, entry: &VideoEntry) -> Self {
        Self { part, frame, wall: entry.wall, identity: entry.identity }
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
    /// Where the last frame is that is in both.
    pub(super) copy: Option<(usize, usize)>,
}

/// Merges the end of one run with the beginning of the next. Without copies the second simply follows the first.
pub(super) fn merge(first: &[Candidate], second: &[Candidate]) -> Merged {
    let mut merged: Vec<(Of, Range<usize>)> = Vec::new();
    let mut push = |of: Of, range: Range<usize>| match merged.last_mut() {
        _ if range.is_empty() => {}
        Some((last_of, last)) if *last_of == of && last.end == range.start => last.end = range.end,
        _ => merged.push((of, range)),
    };
    let mut copy = None;
    let (mut in_first, mut in_second) = (0, 0);
    while let Some((a, b)) = next_copy(first, in_first, second, in_second) {
        push(Of::First, in_first..a);
        push(Of::Second, in_second..b);
        push(Of::First, a..a + 1);
        copy = Some((a, b));
        (in_first, in_second) = (a + 1, b + 1);
    }
    push(Of::First, in_first..first.len());
    push(Of::Second, in_second..second.len());
    Merged { stretches: merged, copy }
}

/// The earliest frame of the second run, from `in_second` on, that has a copy in the first from `in_first` on.
fn next_copy(first: &[Candidate], in_first: usize, second: &[Candidate], in_second: usize) -> Option<(usize, usize)> {
    let end_of_first = first.last()?.wall.saturating_add_us(COPY_TOLERANCE_US);
    for (b, frame) in second.iter().enumerate().skip(in_second) {
        if frame.wall > end_of_first {
            return None;
        }
        let copy = first.iter().enumerate().skip(in_first).find(|(_, other)| {
            frame.identity != 0
                && frame.identity == other.identity
                && (frame.wall.0 - other.wall.0).abs() <= COPY_TOLERANCE_US
        });
        if let Some((a, _)) = copy {
            return Some((a, b));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(identities: &[u64], from_us: i64) -> Vec<Candidate> {
        let frame = |(i, identity): (usize, &u64)| Candidate {
            part: 0,
            frame: i as u32,
            wall: WallTime(from_us + 40_000 * i as i64),
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
        assert_eq!((merged.stretches.len(), merged.copy), (2, Some((4, 2))));
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
}
