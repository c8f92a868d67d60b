//! Which frame is which, where a camera cannot stamp: by the frames' hashes, in the order in which they were emitted.
//!
//! Hashes repeat (silence, still pictures), so a frame is first taken for the one behind its predecessor.

use std::collections::HashMap;

use crate::found::{Found, FoundFrame};
use crate::ledger::{Emitted, Ledger};

/// Recorded wall times and moments of emission are this close.
const NEAR_NS: i64 = 2_000_000_000;
/// So many frames decide where a stretch begins.
const PROBE: usize = 300;

/// The same frames with the numbers of their hashes' places in the ledger.
pub fn numbered(found: &Found, ledger: &Ledger) -> Found {
    let mut found = found.clone();
    number_track(&mut found.video, &ledger.video);
    number_track(&mut found.audio, &ledger.audio);
    found
}

fn number_track(frames: &mut [FoundFrame], emitted: &[Emitted]) {
    let mut places = HashMap::<u64, Vec<usize>>::new();
    for (at, frame) in emitted.iter().enumerate() {
        places.entry(frame.hash).or_default().push(at);
    }
    let near = |frame: &FoundFrame, at: usize| match (frame.wall_us, emitted.get(at)) {
        (Some(wall_us), Some(emitted)) => {
            (wall_us.saturating_mul(1_000).saturating_sub(emitted.wall_ns)).abs() <= NEAR_NS
        }
        _ => true,
    };
    for stretch in frames.chunk_by_mut(|a, b| a.stretch == b.stretch) {
        let mut next = beginning(stretch, emitted, &places, near);
        for frame in stretch {
            let follows = emitted.get(next).is_some_and(|emitted| emitted.hash == frame.size_and_crc);
            let all = places.get(&frame.size_and_crc).map(Vec::as_slice).unwrap_or_default();
            let split = all.partition_point(|&at| at < next);
            let (before, behind) = all.split_at(split);
            // The one behind the last frame; else a later one (frames are missing); else an earlier one (out of order).
            let place = if follows {
                Some(next)
            } else {
                let later = behind.iter().copied().find(|&at| near(frame, at));
                later.or_else(|| before.iter().rev().copied().find(|&at| near(frame, at)))
            };
            frame.hash = frame.size_and_crc;
            frame.number = place.and_then(|at| emitted.get(at)).map(|emitted| emitted.number);
            if let Some(at) = place {
                next = next.max(at + 1);
            }
        }
    }
}

/// The place at which a stretch begins: the one from which on most of its frames agree.
fn beginning(
    stretch: &[FoundFrame],
    emitted: &[Emitted],
    places: &HashMap<u64, Vec<usize>>,
    near: impl Fn(&FoundFrame, usize) -> bool,
) -> usize {
    let Some(first) = stretch.first() else { return 0 };
    let candidates = places.get(&first.size_and_crc).map(Vec::as_slice).unwrap_or_default();
    let agreeing = |at: usize| {
        let ledger = emitted.iter().skip(at).take(PROBE);
        stretch.iter().zip(ledger).filter(|(frame, emitted)| frame.size_and_crc == emitted.hash).count()
    };
    let near = candidates.iter().copied().filter(|&at| near(first, at));
    near.max_by_key(|&at| agreeing(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(hashes: &[u64]) -> Vec<Emitted> {
        let one = |(number, &hash): (usize, &u64)| Emitted {
            number: number as u64,
            media_time: 0,
            wall_ns: number as i64 * 40_000_000,
            hash,
            bytes: 0,
            key: false,
        };
        hashes.iter().enumerate().map(one).collect()
    }

    fn numbers(found: &[(u64, i64)], ledger: &[u64]) -> Vec<Option<u64>> {
        let frame = |&(size_and_crc, wall_us): &(u64, i64)| FoundFrame {
            hash: 1,
            size_and_crc,
            wall_us: Some(wall_us),
            ..FoundFrame::default()
        };
        let mut frames: Vec<_> = found.iter().map(frame).collect();
        number_track(&mut frames, &emitted(ledger));
        frames.iter().map(|frame| frame.number).collect()
    }

    #[test]
    fn frames_are_known_by_their_neighbours_where_hashes_repeat() {
        let silence_with_ticks = [7, 7, 7, 9, 7, 7, 7, 9, 7, 8];
        let from = |hashes: &[u64], at: i64| -> Vec<(u64, i64)> {
            hashes.iter().zip(at..).map(|(&hash, number)| (hash, number * 40_000)).collect()
        };
        assert_eq!(numbers(&from(&[7, 9, 7, 8], 6), &silence_with_ticks), [Some(6), Some(7), Some(8), Some(9)]);
        // One lost in silence shows at the next tick; what was never emitted has no number; a copy is an earlier one.
        assert_eq!(numbers(&from(&[7, 9, 7, 7, 9, 7, 8], 2), &silence_with_ticks), [2, 3, 4, 5, 7, 8, 9].map(Some));
        assert_eq!(numbers(&from(&[9, 6, 8], 7), &silence_with_ticks), [Some(7), None, Some(9)]);
        assert_eq!(numbers(&from(&[9, 7, 8, 9], 7), &silence_with_ticks), [7, 8, 9, 7].map(Some));
        // Far from the time of emission it is another one.
        assert_eq!(numbers(&from(&[8], 100), &silence_with_ticks), [None]);
    }
}
