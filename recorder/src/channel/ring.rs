//! The last seconds of a stream that another recorder records: fragments in memory, in whole groups of pictures. Pure.
//!
//! Long enough for what a failure leaves open: how long it takes to be noticed, and what was not durable by then. Ages are by the monotonic clock, so
//! that a clock that is set neither ends nor prolongs anybody's memory.

use std::collections::VecDeque;
use std::sync::Arc;

use framekeeper_store::{Fragment, GapReason, ReportedTime};
use framekeeper_takeover::SteadyTime;

use super::core::Format;

/// How much is kept: what suffices, and 2 s for frames that come late and for times that are not known well.
const KEEP_US: i64 = 7_000_000;
/// Of that, what any failure takes to be noticed, and what was not durable then: the longest is a disk that has made nothing durable for 3 s, a second
/// of frames that were waiting before, and a quarter of a second each for the heartbeat and for those who decide.
const SUFFICES_US: i64 = 5_000_000;
/// The same picture has another time on another recorder: by up to a tick, and by how well each knows when the camera made it.
const CLOCKS_US: i64 = 500_000;

/// From where on fragments belong together.
#[derive(Clone, Debug)]
pub(super) struct RunHead {
    /// Why there is a gap before it.
    pub(super) gap: Option<GapReason>,
    /// The codec parameters.
    pub(super) format: Format,
    /// The newest sender report of when it began.
    pub(super) sender_report: Option<ReportedTime>,
    /// The run before goes on in it, with other codec parameters.
    pub(super) goes_on: bool,
}

/// One fragment, and the run that it is of.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) head: Arc<RunHead>,
    pub(super) fragment: Fragment,
    /// By how much its times are ahead of the monotonic clock, microseconds.
    pub(super) ahead_us: i64,
}

/// The fragments, oldest first. The oldest begins with a key frame.
#[derive(Debug, Default)]
pub(super) struct Ring {
    kept: VecDeque<(SteadyTime, usize, Kept)>,
    bytes: usize,
}

impl Ring {
    /// Adds a fragment, and lets go of what is older than need be. One that begins in the middle of a group of pictures whose beginning is not
    /// here is of no use.
    pub(super) fn push(&mut self, head: &Arc<RunHead>, fragment: Fragment, ahead_us: i64) {
        let Some(first) = begins(&fragment, ahead_us) else {
            // Sound alone goes with the pictures before it.
            if let Some((_, size, kept)) = self.kept.back_mut() {
                let more = bytes(&fragment);
                kept.fragment.audio.extend(fragment.audio);
                kept.fragment.av_sync = kept.fragment.av_sync.or(fragment.av_sync);
                *size = size.saturating_add(more);
                self.bytes = self.bytes.saturating_add(more);
            }
            return;
        };
        if self.kept.is_empty() && !fragment.begins_random_access {
            return;
        }
        let size = bytes(&fragment);
        self.bytes = self.bytes.saturating_add(size);
        self.kept.push_back((first, size, Kept { head: Arc::clone(head), fragment, ahead_us }));
        while self.second_gop().is_some_and(|second| second.0 <= first.0.saturating_sub(KEEP_US)) {
            self.let_go();
        }
    }

    /// Lets go of the oldest group of pictures. Whether there was one besides that which goes on, of which nothing is kept then either.
    pub(super) fn let_go(&mut self) -> bool {
        let whole = self.second_gop().is_some();
        let mut first = true;
        while self.kept.front().is_some_and(|(_, _, kept)| first || !kept.fragment.begins_random_access) {
            first = false;
            if let Some((_, size, _)) = self.kept.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
        whole
    }

    /// When the second group of pictures begins.
    fn second_gop(&self) -> Option<SteadyTime> {
        let mut rest = self.kept.iter().skip(1);
        rest.find(|(_, _, kept)| kept.fragment.begins_random_access).map(|(first, ..)| *first)
    }

    /// When the oldest picture was.
    pub(super) fn oldest(&self) -> Option<SteadyTime> {
        self.kept.front().map(|(first, ..)| *first)
    }

    /// Bytes of all frames.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything from the group of pictures on that holds `from`; all where there is none so early, or where `from` is not known.
    pub(super) fn take_from(&mut self, from: Option<SteadyTime>) -> impl Iterator<Item = Kept> + use<> {
        let begin = from.map_or(i64::MIN, |from| from.0.saturating_sub(CLOCKS_US));
        while self.second_gop().is_some_and(|second| second.0 <= begin) {
            self.let_go();
        }
        self.bytes = 0;
        std::mem::take(&mut self.kept).into_iter().map(|(_, _, kept)| kept)
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether all is here that should be.
    pub(super) fn is_whole(&self) -> bool {
        self.reaches_us() >= KEEP_US
    }

    fn reaches_us(&self) -> i64 {
        let newest = self.kept.back().map_or(i64::MIN, |(newest, ..)| newest.0);
        self.oldest().map_or(-1, |oldest| newest.saturating_sub(oldest.0))
    }

    /// Whether enough is here for a recorder that fails now: what it takes to notice, and what was not durable there.
    pub(super) fn suffices(&self) -> bool {
        self.reaches_us() >= SUFFICES_US
    }
}

/// When its first picture was.
pub(super) fn begins(fragment: &Fragment, ahead_us: i64) -> Option<SteadyTime> {
    fragment.video.first().map(|frame| SteadyTime(frame.wall.0.saturating_sub(ahead_us)))
}

fn bytes(fragment: &Fragment) -> usize {
    let video = fragment.video.iter().map(|frame| frame.data.len()).sum::<usize>();
    video.saturating_add(fragment.audio.iter().map(|frame| frame.data.len()).sum())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use framekeeper_media::h264::H264Parameters;
    use framekeeper_media::init::InitSegment;
    use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
    use framekeeper_store::{AudioFrame, VideoFrame};

    use super::super::core_tests::{PPS, SPS};
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn head() -> Arc<RunHead> {
        let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
        let format = Format { init: Arc::new(InitSegment::new(&video, None)), audio_timescale: 0 };
        Arc::new(RunHead { gap: None, format, sender_report: None, goes_on: false })
    }

    /// One frame of 100 bytes at `ms`.
    fn fragment(ms: i64, key: bool) -> Fragment {
        let frame = VideoFrame {
            data: Bytes::from(vec![0; 100]),
            pts: MediaTime(ms * 90),
            dts: MediaTime(ms * 90),
            duration: 45_000,
            wall: WallTime(ms * 1_000),
            identity: FrameIdentity(0),
            flags: if key { FrameFlags::RANDOM_ACCESS } else { FrameFlags::default() },
        };
        Fragment { video: vec![frame], begins_random_access: key, ..Fragment::default() }
    }

    /// Fragments of half a second, a key frame each `gop` of them.
    fn ring(fragments: i64, gop: i64) -> Ring {
        let (mut ring, head) = (Ring::default(), head());
        (0..fragments).for_each(|at| ring.push(&head, fragment(at * 500, at % gop == 0), 0));
        ring
    }

    fn times(taken: impl Iterator<Item = Kept>) -> Vec<i64> {
        taken.map(|kept| kept.fragment.video[0].wall.0 / 1_000).collect()
    }

    #[test]
    fn at_least_seven_seconds_are_kept_in_whole_gops() {
        // 20 s in GOPs of 2 s: the newest is at 19.5 s, so what is needed begins at 12.5 s, in the GOP of 12 s.
        let ring = ring(40, 4);
        assert_eq!(ring.oldest(), Some(SteadyTime(12 * SECOND)));
        assert_eq!(ring.bytes(), 16 * 100);
        assert!(ring.suffices() && !self::ring(10, 4).suffices() && self::ring(11, 4).suffices());
    }

    #[test]
    fn a_gop_that_is_longer_stays_whole() {
        assert_eq!(ring(60, 100).oldest(), Some(SteadyTime(0)), "29.5 s without a second key frame");
        assert_eq!(ring(54, 40).oldest(), Some(SteadyTime(0)), "7 s of the second one are not there yet");
        assert_eq!(ring(55, 40).oldest(), Some(SteadyTime(20 * SECOND)));
    }

    #[test]
    fn it_begins_with_the_gop_that_holds_the_first_frame_that_is_wanted() {
        // GOPs at 12, 14, 16, 18 s; clocks may differ by half a second.
        assert_eq!(times(ring(40, 4).take_from(Some(SteadyTime(15 * SECOND))))[0], 14_000);
        assert_eq!(times(ring(40, 4).take_from(Some(SteadyTime(14_400_000))))[0], 12_000);
        assert_eq!(times(ring(40, 4).take_from(Some(SteadyTime(14_500_000))))[0], 14_000);
        assert_eq!(times(ring(40, 4).take_from(Some(SteadyTime(99 * SECOND))))[0], 18_000, "the one that goes on");
        assert_eq!(times(ring(40, 4).take_from(Some(SteadyTime(0)))).len(), 16);
        let mut all = ring(40, 4);
        assert_eq!(times(all.take_from(None)).len(), 16);
        assert_eq!((all.bytes(), all.oldest()), (0, None));
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing() {
        for step_ms in [3_600_000, -3_600_000, 700, -700] {
            let (mut ring, head) = (ring(30, 4), head());
            for at in 30..40 {
                ring.push(&head, fragment(at * 500 + step_ms, at % 4 == 0), step_ms * 1_000);
            }
            assert_eq!((ring.oldest(), ring.bytes()), (Some(SteadyTime(12 * SECOND)), 16 * 100), "{step_ms}");
            assert!(ring.suffices());
            assert_eq!(times(ring.take_from(Some(SteadyTime(14_600_000))))[0], 14_000, "{step_ms}");
        }
    }

    #[test]
    fn where_memory_is_short_the_oldest_gop_goes_first() {
        let mut ring = ring(40, 4);
        assert!(ring.let_go());
        assert_eq!((ring.oldest(), ring.bytes()), (Some(SteadyTime(14 * SECOND)), 1_200));
        assert!(ring.let_go() && ring.let_go());
        assert!(!ring.let_go(), "the one that goes on");
        assert_eq!((ring.oldest(), ring.bytes()), (None, 0));
        // The rest of it is of no use; the next one is.
        let head = head();
        ring.push(&head, fragment(20_000, false), 0);
        assert_eq!(ring.oldest(), None);
        ring.push(&head, fragment(20_500, true), 0);
        assert_eq!(ring.oldest(), Some(SteadyTime(20_500_000)));
    }

    #[test]
    fn sound_goes_with_the_pictures_before_it() {
        let (mut ring, head) = (Ring::default(), head());
        let sound = || Fragment {
            audio: vec![AudioFrame {
                data: Bytes::from_static(&[0; 10]),
                pts: MediaTime(0),
                duration: 1024,
                wall: WallTime(0),
            }],
            ..Fragment::default()
        };
        ring.push(&head, sound(), 0);
        assert_eq!(ring.bytes(), 0);
        ring.push(&head, fragment(0, true), 0);
        ring.push(&head, sound(), 0);
        assert_eq!(ring.bytes(), 110);
        assert_eq!(ring.take_from(None).map(|kept| kept.fragment.audio.len()).sum::<usize>(), 1);
    }
}
