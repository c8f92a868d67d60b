//! Frames and GOPs by time, from the index of a segment.

use framekeeper_media::boxes::index::{EntryKind, IndexEntry, SegmentIndex};
use framekeeper_media::{FrameFlags, WallTime};

/// Whether an entry is a video frame (else it is a stretch of audio).
#[must_use]
pub fn is_video(entry: &IndexEntry) -> bool {
    matches!(entry.kind, EntryKind::Video { .. })
}

/// Whether decoding can begin at an entry.
#[must_use]
pub fn is_random_access(entry: &IndexEntry) -> bool {
    matches!(entry.kind, EntryKind::Video { flags, .. } if flags.contains(FrameFlags::RANDOM_ACCESS))
}

/// Positions in `index.entries` of the video frames that are shown from `from` up to (not at) `to`, in decoding order.
#[must_use]
pub fn frames_between(index: &SegmentIndex, from: WallTime, to: WallTime) -> Vec<usize> {
    let inside = |entry: &IndexEntry| is_video(entry) && from <= entry.wall && entry.wall < to;
    index.entries.iter().enumerate().filter(|(_, entry)| inside(entry)).map(|(at, _)| at).collect()
}

/// Positions in `index.entries` of the video frames of the GOP that is shown at `wall`, in decoding order: from the last random access
/// point at or before it up to the next one. `None` when the segment has no random access point that early.
#[must_use]
pub fn gop_at(index: &SegmentIndex, wall: WallTime) -> Option<Vec<usize>> {
    let video = || index.entries.iter().enumerate().filter(|(_, entry)| is_video(entry));
    let (begin, _) = video().rfind(|(_, entry)| is_random_access(entry) && entry.wall <= wall)?;
    let end = video().find(|(at, entry)| *at > begin && is_random_access(entry)).map(|(at, _)| at);
    Some(video().map(|(at, _)| at).filter(|at| *at >= begin && end.is_none_or(|end| *at < end)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use framekeeper_media::FrameIdentity;

    fn index(flags: &[(i64, u32)]) -> SegmentIndex {
        let entry = |&(wall, flags): &(i64, u32)| IndexEntry {
            first_of_fragment: false,
            data_offset: 0,
            data_length: 0,
            decode_time: 0,
            wall: WallTime(wall),
            kind: EntryKind::Video { flags: FrameFlags(flags), composition_offset: 0, identity: FrameIdentity(0) },
        };
        SegmentIndex { entries: flags.iter().map(entry).collect(), ..SegmentIndex::default() }
    }

    #[test]
    fn a_gop_is_found_by_any_time_in_it() {
        let index = index(&[(0, 3), (10, 0), (20, 0), (30, 3), (40, 0)]);
        assert_eq!(gop_at(&index, WallTime(-1)), None);
        for wall in [0, 15, 29] {
            assert_eq!(gop_at(&index, WallTime(wall)), Some(vec![0, 1, 2]));
        }
        assert_eq!(gop_at(&index, WallTime(1000)), Some(vec![3, 4]));
    }

    #[test]
    fn frames_are_found_by_the_time_they_are_shown() {
        let index = index(&[(0, 3), (30, 0), (10, 0), (20, 0), (40, 3)]);
        assert_eq!(frames_between(&index, WallTime(10), WallTime(40)), [1, 2, 3]);
        assert!(frames_between(&index, WallTime(40), WallTime(40)).is_empty());
    }
}
