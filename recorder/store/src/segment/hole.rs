//! What damaged ranges of a file cost: which frames can still be served, and when the gaps are. Pure.
//!
//! Behind damage, decoding can begin at the next random access point and not before: the frames up to there refer to what is lost.
//! They stay in the file, and are not served as if they were good.

use std::ops::Range;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::{IndexEntry, IndexRun, SegmentIndex};
use uuid::Uuid;

use crate::frames::{is_random_access, is_video};

/// A stretch of a run that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The run.
    pub run: Uuid,
    /// When its first frame that is lost was shown, or, when nothing tells of it, the last one before.
    pub from: WallTime,
    /// The first frame behind it; the end of the run in this file when there is none.
    pub to: WallTime,
    /// From the first to the last damaged byte of the file.
    pub bytes: Range<u64>,
    /// Video frames that are known to be in it.
    pub video_frames: u32,
}

/// What is left of a run in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Positions in the run's entries: each stretch follows the one before with something lost between.
    pub stretches: Vec<Vec<usize>>,
    /// Between them, before the first and behind the last. The run is not named.
    pub holes: Vec<Hole>,
}

fn lies_in(entry: &IndexEntry, range: &Range<u64>) -> bool {
    let from = u64::from(entry.data_offset);
    from < range.end && from + u64::from(entry.data_length) > range.start
}

/// What of a run can be served when the ranges `damage` (in order of their offsets) of its file are lost. `entries` are the run's own;
/// `until` is where the next run of the file begins.
#[must_use]
pub fn whole(entries: &[IndexEntry], place: &IndexRun, until: u64, damage: &[Range<u64>]) -> Whole {
    let damage: Vec<&Range<u64>> = damage.iter().filter(|d| d.end > place.offset && d.start < until).collect();
    if damage.is_empty() {
        return Whole { stretches: vec![(0..entries.len()).collect()], holes: Vec::new() };
    }
    let mut whole = Whole::default();
    let mut open: Option<Hole> = None;
    let (mut passed, mut last_wall) = (0, place.first_wall);
    for (at, entry) in entries.iter().enumerate() {
        let hit = damage.iter().any(|range| lies_in(entry, range));
        let entry_end = u64::from(entry.data_offset) + u64::from(entry.data_length).max(1);
        let behind = damage.partition_point(|range| range.start < entry_end);
        for range in damage.get(passed..behind).unwrap_or_default() {
            widen(&mut open, range, if is_video(entry) { last_wall.min(entry.wall) } else { last_wall });
        }
        passed = behind.max(passed);
        if let Some(hole) = open.as_mut().filter(|_| hit || !is_random_access(entry)) {
            if is_video(entry) {
                hole.from = if hole.video_frames == 0 { entry.wall } else { hole.from.min(entry.wall) };
                hole.video_frames += 1;
            }
            continue;
        }
        match open.take() {
            Some(hole) => {
                whole.holes.push(Hole { to: entry.wall, ..hole });
                whole.stretches.push(vec![at]);
            }
            None => match whole.stretches.last_mut() {
                Some(last) => last.push(at),
                None => whole.stretches.push(vec![at]),
            },
        }
        if is_video(entry) {
            last_wall = last_wall.max(entry.wall);
        }
    }
    for range in damage.get(passed..).unwrap_or_default() {
        widen(&mut open, range, place.end_wall);
    }
    whole.holes.extend(open.map(|hole| Hole { to: place.end_wall.max(hole.from), ..hole }));
    whole
}

fn widen(open: &mut Option<Hole>, range: &Range<u64>, wall: WallTime) {
    match open {
        Some(hole) => hole.bytes.end = hole.bytes.end.max(range.end),
        None => {
            *open = Some(Hole { run: Uuid::nil(), from: wall, to: wall, bytes: range.clone(), video_frames: 0 });
        }
    }
}

/// Each run of a segment with its entries and where the next one begins.
pub(crate) fn runs_of(index: &SegmentIndex) -> impl Iterator<Item = (&IndexRun, &[IndexEntry], u64)> {
    index.runs.iter().enumerate().map(|(number, place)| {
        let first = usize::try_from(place.first_entry).unwrap_or(usize::MAX);
        let count = usize::try_from(place.entries).unwrap_or(usize::MAX);
        let entries = index.entries.get(first..first.saturating_add(count)).unwrap_or_default();
        (place, entries, index.runs.get(number + 1).map_or(u64::MAX, |next| next.offset))
    })
}

/// The holes that damage makes in a segment. `all` knows every frame that was there, as far as that is known; `runs` names the run of each
/// of its run boxes.
pub(crate) fn holes(all: &SegmentIndex, runs: &[Uuid], damage: &[Range<u64>]) -> Vec<Hole> {
    let mut holes = Vec::new();
    for ((place, entries, until), run) in runs_of(all).zip(runs) {
        let of_run = whole(entries, place, until, damage).holes;
        holes.extend(of_run.into_iter().map(|hole| Hole { run: *run, ..hole }));
    }
    holes
}

/// How far what cannot be decoded goes on behind a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Wall time of the random access point with which decoding begins again; the end of what there is of the run when there is none.
    pub(crate) to: WallTime,
    /// Video frames before it that are whole and refer to what is lost.
    pub(crate) video_frames: u32,
    /// Whether there is such a point, or the run is over: then this never changes.
    pub(crate) settled: bool,
}

impl Reach {
    /// Of a hole as its own segment knows it.
    pub(crate) fn of(hole: &Hole) -> Self {
        Self { to: hole.to, video_frames: 0, settled: false }
    }

    /// Takes in a segment with footage of the hole's run: its own one (`own`), or one behind it. `runs` names the run of each run box.
    pub(crate) fn take(&mut self, hole: &Hole, own: bool, index: &SegmentIndex, runs: impl IntoIterator<Item = Uuid>) {
        for ((place, entries, _), run) in runs_of(index).zip(runs) {
            if run != hole.run || self.settled {
                continue;
            }
            // Of other segments all is behind it, whatever their times are: the end of a hole may be a forecast.
            let is_behind = |entry: &IndexEntry| !own || u64::from(entry.data_offset) >= hole.bytes.end;
            let behind = entries.iter().filter(|entry| is_video(entry) && is_behind(entry));
            for entry in behind {
                if is_random_access(entry) && entry.wall > hole.from {
                    self.to = self.to.max(entry.wall);
                    self.settled = true;
                    break;
                }
                // Those of its own segment it counts already.
                self.video_frames += u32::from(!own);
            }
            if !self.settled {
                self.to = self.to.max(place.end_wall);
            }
        }
    }

    /// The hole with what cannot be decoded behind it.
    pub(crate) fn widen(self, hole: &mut Hole) {
        hole.to = self.to;
        hole.video_frames = hole.video_frames.saturating_add(self.video_frames);
    }
}

/// How many of these entries, which follow each other, cannot be decoded as they refer to what is lost in an earlier segment. `holes`: those of their run in
/// other segments. Times are those of display: what refers to a lost frame may be shown before it, but not all of it is.
#[must_use]
pub fn undecodable(entries: &[&IndexEntry], holes: &[Hole]) -> usize {
    let leading = entries.iter().position(|entry| is_random_access(entry)).unwrap_or(entries.len());
    let is_in = |entry: &&IndexEntry| holes.iter().any(|hole| hole.from < entry.wall && entry.wall < hole.to);
    if entries.iter().take(leading).any(is_in) { leading } else { 0 }
}

#[cfg(test)]
mod tests {
    use framekeeper_media::boxes::index::EntryKind;
    use framekeeper_media::{FrameFlags, FrameIdentity};

    use super::*;

    /// Frames of 100 bytes, 10 µs apart; every fourth one is a random access point.
    fn entries(count: u32) -> Vec<IndexEntry> {
        let entry = |n: u32| IndexEntry {
            first_of_fragment: true,
            data_offset: 1000 + 100 * n,
            data_length: 100,
            decode_time: 0,
            wall: WallTime(i64::from(n) * 10),
            kind: EntryKind::Video {
                flags: FrameFlags(if n.is_multiple_of(4) { 3 } else { 0 }),
                composition_offset: 0,
                identity: FrameIdentity(0),
            },
        };
        (0..count).map(entry).collect()
    }

    fn place(count: u32) -> IndexRun {
        let end_wall = WallTime(i64::from(count) * 10);
        IndexRun { offset: 700, first_entry: 0, entries: count, first_wall: WallTime(0), end_wall }
    }

    /// First and last entry of each stretch; beginning, end and frames of each hole.
    type Seen = (Vec<(usize, usize)>, Vec<(i64, i64, u32)>);

    fn look(count: u32, damage: &[(u64, u64)]) -> Seen {
        let damage: Vec<_> = damage.iter().map(|(from, to)| *from..*to).collect();
        let whole = whole(&entries(count), &place(count), u64::MAX, &damage);
        let stretches = whole.stretches.iter().map(|s| (s[0], s[s.len() - 1])).collect();
        (stretches, whole.holes.iter().map(|h| (h.from.0, h.to.0, h.video_frames)).collect())
    }

    #[test]
    fn what_is_whole_is_one_stretch() {
        assert_eq!(look(9, &[]), (vec![(0, 8)], vec![]));
        // Damage of another run, or of what is behind.
        assert_eq!(look(9, &[(100, 200)]), (vec![(0, 8)], vec![]));
    }

    #[test]
    fn behind_damage_decoding_begins_at_the_next_random_access_point() {
        assert_eq!(look(12, &[(1500, 1600)]), (vec![(0, 4), (8, 11)], vec![(50, 80, 3)]));
        assert_eq!(look(12, &[(1400, 1450)]), (vec![(0, 3), (8, 11)], vec![(40, 80, 4)]));
        // The random access point behind the damage is damaged too.
        assert_eq!(look(16, &[(1500, 1510), (1800, 1900)]), (vec![(0, 4), (12, 15)], vec![(50, 120, 7)]));
    }

    #[test]
    fn damage_at_the_ends() {
        assert_eq!(look(12, &[(1000, 1050)]), (vec![(4, 11)], vec![(0, 40, 4)]));
        assert_eq!(look(12, &[(2150, 2200)]), (vec![(0, 10)], vec![(110, 120, 1)]));
        assert_eq!(look(3, &[(1000, 1300)]), (vec![], vec![(0, 30, 3)]));
        // Behind the last frame that is known.
        assert_eq!(look(4, &[(1400, 1800)]), (vec![(0, 3)], vec![(40, 40, 0)]));
    }

    #[test]
    fn frames_that_nothing_tells_of_are_a_hole_too() {
        let mut known = entries(16);
        known.drain(5..7);
        let whole = whole(&known, &place(16), u64::MAX, std::slice::from_ref(&(1500..1700)));
        assert_eq!(whole.stretches, [vec![0, 1, 2, 3, 4], (6..14).collect()]);
        let hole = &whole.holes[0];
        // Frame 7 is known and cannot be decoded; 5 and 6 nobody knows.
        assert_eq!((hole.to, hole.video_frames), (WallTime(80), 1));
    }

    const RUN: Uuid = Uuid::from_u128(7);

    /// A segment with the frames from `first` up to `end`.
    fn segment(first: u32, end: u32) -> SegmentIndex {
        let mut run = place(end);
        run.entries = end - first;
        SegmentIndex { entries: entries(end).split_off(first as usize), runs: vec![run], ..SegmentIndex::default() }
    }

    fn hole(from: i64, to: i64) -> Hole {
        Hole { run: RUN, from: WallTime(from), to: WallTime(to), bytes: 1500..1600, video_frames: 1 }
    }

    #[test]
    fn a_hole_at_the_end_of_a_segment_reaches_to_the_next_random_access_point() {
        let hole = hole(50, 60);
        let mut reach = Reach::of(&hole);
        reach.take(&hole, true, &segment(0, 6), [RUN]);
        assert_eq!(reach, Reach { to: WallTime(60), video_frames: 0, settled: false });
        // Frame 6 and 7 refer to what is lost; a run of somebody else says nothing.
        reach.take(&hole, false, &segment(8, 9), [Uuid::from_u128(8)]);
        reach.take(&hole, false, &segment(6, 7), [RUN]);
        assert_eq!(reach, Reach { to: WallTime(70), video_frames: 1, settled: false });
        reach.take(&hole, false, &segment(7, 14), [RUN]);
        assert_eq!(reach, Reach { to: WallTime(80), video_frames: 2, settled: true });
        // Nothing that comes later changes that.
        reach.take(&hole, false, &segment(14, 20), [RUN]);
        let mut wide = hole.clone();
        reach.widen(&mut wide);
        assert_eq!((wide.from, wide.to, wide.video_frames), (WallTime(50), WallTime(80), 3));
    }

    #[test]
    fn a_hole_that_ends_with_a_random_access_point_reaches_no_further() {
        // In its own segment; and in the next one, where the end of its own was forecast too late.
        for (own, to, index) in [(true, 80, segment(0, 14)), (false, 83, segment(8, 14))] {
            let hole = hole(50, to);
            let mut reach = Reach::of(&hole);
            reach.take(&hole, own, &index, [RUN]);
            assert_eq!(reach, Reach { to: WallTime(to), video_frames: 0, settled: true });
        }
    }

    #[test]
    fn what_begins_within_a_hole_is_decodable_from_its_random_access_point_on() {
        let frames = entries(12);
        let from = |first: usize| frames.iter().skip(first).collect::<Vec<_>>();
        assert_eq!(undecodable(&from(6), &[hole(50, 80)]), 2);
        assert_eq!(undecodable(&from(6), &[hole(10, 40)]), 0);
        assert_eq!(undecodable(&from(9), &[hole(50, 200)]), 3);
        assert_eq!(undecodable(&from(8), &[hole(50, 83)]), 0);
        assert_eq!(undecodable(&[], &[hole(50, 83)]), 0);
        // The first one is shown before the lost one that it refers to.
        let early = IndexEntry { wall: WallTime(40), ..frames[5] };
        assert_eq!(undecodable(&[&early, &frames[6], &frames[7], &frames[8]], &[hole(50, 80)]), 3);
    }
}
