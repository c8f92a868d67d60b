//! Which segments of a stream go by its limits. Pure.
//!
//! One rule for each limit, and each looks at one segment and at what is newer:
//!
//! - by age, a segment goes when all of it is older than `max_age`;
//! - by bytes, a segment goes when the newer ones hold `max_bytes` without it.
//!
//! So what is kept is never more than one segment above the limit, and nothing goes of what is inside it. What is newer only gets more, whoever
//! looks and however little of the volumes can be seen at that moment: a volume that is not known yet, or does not answer, can make a segment
//! stay longer, and never makes one go that should stay.

use std::collections::VecDeque;
use std::time::Duration;

use framekeeper_media::WallTime;

/// How long footage is kept. `None`: no limit but the room on the volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What is older goes.
    pub max_age: Option<Duration>,
    /// So many bytes of a stream stay, over all volumes.
    pub max_bytes: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The wider of both, limit by limit: where two sources tell differently and nobody knows which is newer, more is kept.
    #[must_use]
    pub fn wider(self, other: Self) -> Self {
        Self {
            max_age: self.max_age.zip(other.max_age).map(|(a, b)| a.max(b)),
            max_bytes: self.max_bytes.zip(other.max_bytes).map(|(a, b)| a.max(b)),
        }
    }
}

/// A segment, as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<Id> {
    pub(crate) id: Id,
    /// Its number among the stream's segments on its volume: the order in which they were recorded, whatever the clock said.
    pub(crate) number: u64,
    /// When its last frame ends.
    pub(crate) end: WallTime,
    /// What it counts: its file's size, or what is in it so far.
    pub(crate) bytes: u64,
    pub(crate) held: bool,
    /// It is being recorded.
    pub(crate) grows: bool,
}

/// What becomes of a stream's segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict<Id> {
    /// These go, oldest first.
    pub(crate) go: Vec<Id>,
    /// All segments together.
    pub(crate) bytes: u64,
    /// When the oldest that stays and may go by age ends.
    pub(crate) next_end: Option<WallTime>,
    /// When the stream has so many bytes more, the next one goes.
    pub(crate) next_bytes: Option<u64>,
}

/// The segments of all volumes in one order, oldest first. On each volume they stand as they were recorded; what the clock did meanwhile only
/// matters between volumes. What is being recorded is the newest.
fn in_order<Id>(volumes: Vec<Vec<Piece<Id>>>) -> Vec<Piece<Id>> {
    let mut queues: Vec<VecDeque<(WallTime, Piece<Id>)>> = Vec::with_capacity(volumes.len());
    let mut growing = Vec::new();
    for mut pieces in volumes {
        pieces.sort_by_key(|piece| piece.number);
        let mut queue = VecDeque::with_capacity(pieces.len());
        let mut latest = WallTime(i64::MIN);
        for piece in pieces {
            if piece.grows {
                growing.push(piece);
                continue;
            }
            // Recorded behind a clock that was set back, it is still newer than what was there before.
            latest = latest.max(piece.end);
            queue.push_back((latest, piece));
        }
        queues.push(queue);
    }
    let mut all = Vec::new();
    while let Some(queue) = queues
        .iter_mut()
        .filter(|queue| !queue.is_empty())
        .min_by_key(|queue| queue.front().map(|(latest, piece)| (*latest, piece.end)))
    {
        all.extend(queue.pop_front().map(|(_, piece)| piece));
    }
    growing.sort_by_key(|piece| piece.end);
    all.extend(growing);
    all
}

/// What goes of a stream's segments, given by volume, when it is `now` for the ages of footage.
pub(crate) fn decide<Id: Copy>(volumes: Vec<Vec<Piece<Id>>>, limits: Limits, now: WallTime) -> Verdict<Id> {
    let pieces = in_order(volumes);
    let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let cutoff = limits.max_age.map(|age| now.saturating_add_us(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
    let mut verdict = Verdict { go: Vec::new(), bytes, next_end: None, next_bytes: None };
    let mut newer = bytes;
    for piece in &pieces {
        newer -= piece.bytes;
        if piece.held {
            continue;
        }
        let by_age = cutoff.is_some_and(|cutoff| piece.end < cutoff);
        // What is being recorded goes by age alone: when nothing came for that long.
        let by_bytes = !piece.grows && limits.max_bytes.is_some_and(|most| newer >= most);
        if by_age || by_bytes {
            verdict.go.push(piece.id);
            continue;
        }
        if limits.max_age.is_some() && verdict.next_end.is_none_or(|end| piece.end < end) {
            verdict.next_end = Some(piece.end);
        }
        if !piece.grows && verdict.next_bytes.is_none() {
            verdict.next_bytes = limits.max_bytes.map(|most| most.saturating_sub(newer));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 10;

    fn piece(id: u32, end: i64) -> Piece<u32> {
        Piece { id, number: id.into(), end: WallTime(end), bytes: S, held: false, grows: false }
    }

    fn bytes(max_bytes: u64) -> Limits {
        Limits { max_age: None, max_bytes: Some(max_bytes) }
    }

    fn age(us: u64) -> Limits {
        Limits { max_age: Some(Duration::from_micros(us)), max_bytes: None }
    }

    #[test]
    fn the_oldest_over_all_volumes_goes_and_what_is_inside_the_limit_stays() {
        let volumes = || {
            vec![
                vec![piece(1, 10), piece(4, 40), piece(6, 60)],
                vec![piece(2, 20), piece(3, 30), piece(5, 50), Piece { grows: true, bytes: 3, ..piece(7, 65) }],
            ]
        };
        let go = |most| decide(volumes(), bytes(most), WallTime(0)).go;
        assert_eq!(go(30), [1, 2, 3]);
        // Of 33 bytes the newest three and what is being written; one more as soon as there is a byte more to be kept.
        assert_eq!(go(33), [1, 2, 3]);
        assert_eq!(go(34), [1, 2]);
        assert_eq!(go(1_000), [0; 0]);
        // What is being written never goes for want of room in the limit.
        assert_eq!(go(0), [1, 2, 3, 4, 5, 6]);
        let verdict = decide(volumes(), bytes(35), WallTime(0));
        assert_eq!((verdict.bytes, verdict.next_bytes), (63, Some(2)), "the third goes when two bytes more are there");
    }

    #[test]
    fn what_is_held_stays_and_what_is_older_still_goes() {
        let held = Piece { held: true, ..piece(2, 20) };
        let volumes = vec![vec![piece(1, 10), held, piece(3, 30), piece(4, 40), piece(5, 50)]];
        assert_eq!(decide(volumes.clone(), bytes(20), WallTime(0)).go, [1, 3]);
        assert_eq!(decide(volumes, age(5), WallTime(50)).go, [1, 3, 4]);
    }

    #[test]
    fn by_age_a_segment_goes_when_all_of_it_is_older() {
        let volumes = vec![vec![piece(1, 10), piece(3, 30)], vec![piece(2, 20)]];
        let verdict = decide(volumes.clone(), age(10), WallTime(30));
        assert_eq!((verdict.go, verdict.next_end), (vec![1], Some(WallTime(20))));
        assert_eq!(decide(volumes, age(10), WallTime(31)).go, [1, 2]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_make_new_footage_the_oldest() {
        // 4, 5 and 6 were recorded behind a step of -30.
        let volumes =
            vec![vec![piece(1, 10), piece(3, 30), piece(4, 10), piece(6, 30)], vec![piece(2, 20), piece(5, 20)]];
        assert_eq!(decide(volumes, bytes(4 * S), WallTime(0)).go, [1, 2]);
    }

    proptest! {
        /// Segments one behind the other, thrown on volumes in any way, with any of them held.
        #[test]
        fn exact_to_one_segment_and_oldest_first(
            on in proptest::collection::vec((0_usize..3, any::<bool>(), 1_u64..20), 1..40),
            max_bytes in 0_u64..400,
            max_age in 0_u64..60,
            growing in any::<bool>(),
        ) {
            let mut volumes = vec![Vec::new(), Vec::new(), Vec::new()];
            let last = on.len() - 1;
            for (at, (volume, held, size)) in on.iter().enumerate() {
                let grows = growing && at == last;
                let piece = Piece { bytes: *size, held: *held && at % 4 == 0, grows, ..piece(at as u32, at as i64) };
                volumes[*volume].push(piece);
            }
            let all: Vec<_> = { let mut all = volumes.concat(); all.sort_by_key(|p| p.end); all };
            let now = WallTime(on.len() as i64);
            let limits = Limits { max_age: Some(Duration::from_micros(max_age)), max_bytes: Some(max_bytes) };
            let verdict = decide(volumes.clone(), limits, now);
            let goes = |piece: &Piece<u32>| verdict.go.contains(&piece.id);
            // Oldest first: whatever is older than one that goes, goes or is held.
            for (at, piece) in all.iter().enumerate() {
                if goes(piece) {
                    prop_assert!(all[..at].iter().all(|older| goes(older) || older.held));
                    prop_assert!(!piece.held);
                    // Nothing of what is inside both limits goes.
                    let newer: u64 = all[at + 1..].iter().map(|p| p.bytes).sum();
                    prop_assert!(newer >= max_bytes || piece.end.0 < now.0 - max_age as i64);
                }
            }
            // Never more than one segment above the limit, beside what is held and older.
            if let Some(oldest) = all.iter().find(|p| !goes(p) && !p.held && !p.grows) {
                let newer: u64 = all.iter().filter(|p| p.end > oldest.end).map(|p| p.bytes).sum();
                prop_assert!(newer < max_bytes && oldest.end.0 >= now.0 - max_age as i64);
            }
            prop_assert!(verdict.go.is_sorted());
        }

        /// To see fewer volumes never makes a segment go that would stay.
        #[test]
        fn a_volume_that_is_not_seen_makes_nothing_go(
            on in proptest::collection::vec(0_usize..3, 1..40),
            max_bytes in 0_u64..400,
            unseen in 0_usize..3,
        ) {
            let mut volumes = vec![Vec::new(), Vec::new(), Vec::new()];
            for (at, volume) in on.iter().enumerate() {
                volumes[*volume].push(piece(at as u32, at as i64));
            }
            let all = decide(volumes.clone(), bytes(max_bytes), WallTime(0)).go;
            volumes[unseen].clear();
            let some = decide(volumes, bytes(max_bytes), WallTime(0)).go;
            prop_assert!(some.iter().all(|id| all.contains(id)));
        }
    }
}
