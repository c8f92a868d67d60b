//! Where fragments end: at each random access point, and before anything in memory gets older than the pool allows.
//!
//! What is not cut yet is lost when the process is killed, so the age of the oldest frame decides, not the length of the
//! fragment. Age counts from the earliest moment at which a frame may have reached this machine: one tick before it was read.

use framekeeper_media::FrameFlags;
use framekeeper_store::{AudioFrame, Fragment, VideoFrame};

/// A fragment is cut at this size whatever its age: 2 s, the longest part, at 64 Mbit/s.
const MAX_BYTES: usize = 16 << 20;
/// A fragment is cut at this many frames of both kinds: bounds the tables in its `moof` where a camera sends tiny frames.
const MAX_FRAMES: usize = 4_096;

/// Gathers the frames of one channel.
#[derive(Debug)]
pub(crate) struct Cutter {
    part_us: u64,
    tick_us: u64,
    /// In order of arrival; video in decoding order.
    open: Fragment,
    bytes: usize,
    /// When the oldest frame of `open` was read, monotonic.
    oldest_us: u64,
}

impl Cutter {
    /// `part_us`: the longest that a frame is only in memory. `tick_us`: the time between two ticks.
    pub(crate) fn new(part_us: u64, tick_us: u64) -> Self {
        Self { part_us, tick_us, open: Fragment::default(), bytes: 0, oldest_us: 0 }
    }

    /// A video frame, read at `read_us` (monotonic). Gives the fragment that ends before it, if one does.
    pub(crate) fn video(&mut self, read_us: u64, frame: VideoFrame) -> Option<Fragment> {
        let begins_gop = frame.flags.contains(FrameFlags::RANDOM_ACCESS);
        let full = begins_gop && !self.open.video.is_empty() || self.is_full(frame.data.len());
        let cut = if full { self.take() } else { None };
        self.began(read_us);
        self.bytes = self.bytes.saturating_add(frame.data.len());
        self.open.video.push(frame);
        cut
    }

    /// An audio frame, read at `read_us` (monotonic). Gives the fragment that ends before it, if one does.
    pub(crate) fn audio(&mut self, read_us: u64, frame: AudioFrame) -> Option<Fragment> {
        let cut = if self.is_full(frame.data.len()) { self.take() } else { None };
        self.began(read_us);
        self.bytes = self.bytes.saturating_add(frame.data.len());
        self.open.audio.push(frame);
        cut
    }

    /// The end of the tick at `now_us` (monotonic): gives the fragment if it would be too old in the next one.
    pub(crate) fn tick(&mut self, now_us: u64) -> Option<Fragment> {
        if self.is_empty() {
            return None;
        }
        let age_us = now_us.saturating_sub(self.oldest_us).saturating_add(self.tick_us);
        // Half a tick of slack, because ticks are not exact to the microsecond.
        if age_us.saturating_add(self.tick_us / 2) > self.part_us { self.take() } else { None }
    }

    /// Whatever is there: the run ends.
    pub(crate) fn take(&mut self) -> Option<Fragment> {
        if self.is_empty() {
            return None;
        }
        // The next fragment will be about as long: room for it now costs one allocation instead of several.
        let next = Fragment {
            video: Vec::with_capacity(self.open.video.len()),
            audio: Vec::with_capacity(self.open.audio.len()),
            ..Fragment::default()
        };
        self.bytes = 0;
        let mut cut = std::mem::replace(&mut self.open, next);
        cut.begins_random_access =
            cut.video.first().is_some_and(|frame| frame.flags.contains(FrameFlags::RANDOM_ACCESS));
        Some(cut)
    }

    /// The video frame that came last, while it has not been cut.
    pub(crate) fn last_video(&mut self) -> Option<&mut VideoFrame> {
        self.open.video.last_mut()
    }

    fn is_empty(&self) -> bool {
        self.open.video.is_empty() && self.open.audio.is_empty()
    }

    fn began(&mut self, read_us: u64) {
        if self.is_empty() {
            self.oldest_us = read_us;
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        !self.is_empty()
            && (self.bytes.saturating_add(bytes) > MAX_BYTES
                || self.open.video.len().saturating_add(self.open.audio.len()) >= MAX_FRAMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use framekeeper_media::{FrameIdentity, MediaTime, WallTime};
    use proptest::prelude::*;

    const TICK_US: u64 = 100_000;

    fn frame(number: i64, key: bool, bytes: usize) -> VideoFrame {
        let flags = if key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags::default() };
        VideoFrame {
            data: Bytes::from(vec![0; bytes]),
            pts: MediaTime(number),
            dts: MediaTime(number),
            duration: 1,
            wall: WallTime(0),
            identity: FrameIdentity(0),
            flags,
        }
    }
    fn sound(number: i64) -> AudioFrame {
        AudioFrame { data: Bytes::from_static(&[0; 100]), pts: MediaTime(number), duration: 1024, wall: WallTime(0) }
    }
    fn numbers(cut: &Fragment) -> Vec<i64> {
        cut.video.iter().map(|frame| frame.pts.0).collect()
    }

    #[test]
    fn a_random_access_point_begins_a_fragment() {
        let mut cutter = Cutter::new(500_000, TICK_US);
        assert!(cutter.video(0, frame(0, true, 10)).is_none());
        assert!(cutter.video(0, frame(1, false, 10)).is_none());
        let cut = cutter.video(0, frame(2, true, 10)).expect("cut at the key frame");
        assert_eq!(numbers(&cut), [0, 1]);
        assert_eq!(numbers(&cutter.take().expect("the rest")), [2]);
        assert!(cutter.take().is_none());
    }

    #[test]
    fn audio_before_the_first_key_frame_shares_its_fragment() {
        let mut cutter = Cutter::new(500_000, TICK_US);
        cutter.audio(0, sound(0));
        assert!(cutter.video(0, frame(0, true, 10)).is_none());
        let cut = cutter.take().expect("both");
        assert_eq!((cut.video.len(), cut.audio.len(), cut.begins_random_access), (1, 1, true));
    }

    #[test]
    fn steady_video_is_cut_every_part() {
        // 25 fps, read every 100 ms: five ticks make a part of 500 ms.
        let mut cutter = Cutter::new(500_000, TICK_US);
        let mut cuts = Vec::new();
        for tick in 0..20_u64 {
            for number in 0..2 {
                assert!(cutter.video(tick * TICK_US, frame(number, tick == 0 && number == 0, 10)).is_none());
            }
            if let Some(cut) = cutter.tick(tick * TICK_US) {
                cuts.push((tick, cut.video.len()));
            }
        }
        assert_eq!(cuts, [(4, 10), (9, 10), (14, 10), (19, 10)]);
    }

    #[test]
    fn size_is_bounded() {
        let mut cutter = Cutter::new(500_000, TICK_US);
        assert!(cutter.video(0, frame(0, true, MAX_BYTES - 1)).is_none());
        assert_eq!(numbers(&cutter.video(0, frame(1, false, 2)).expect("full")), [0]);
        let cuts = (2..10_000).filter_map(|n| cutter.video(0, frame(n, false, 1))).collect::<Vec<_>>();
        assert!(cuts.iter().all(|cut| cut.video.len() == MAX_FRAMES));
        assert_eq!(cuts.len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_stays_longer_than_part_and_a_tick_and_nothing_is_lost(
            part_ms in 100_u64..2_000,
            // For each tick: its lateness in microseconds, and the frames read in it.
            ticks in proptest::collection::vec((0_u64..40_000, proptest::collection::vec((any::<bool>(), any::<bool>()), 0..6)), 1..200),
        ) {
            let mut cutter = Cutter::new(part_ms * 1000, TICK_US);
            let (mut sent, mut got, mut waiting): (i64, Vec<i64>, Vec<u64>) = (0, Vec::new(), Vec::new());
            let check = |cut: Option<Fragment>, got: &mut Vec<i64>, waiting: &mut Vec<u64>| {
                if let Some(cut) = cut {
                    assert!(cut.video.iter().skip(1).all(|frame| !frame.flags.contains(FrameFlags::RANDOM_ACCESS)));
                    let count = cut.video.len() + cut.audio.len();
                    got.extend(cut.video.iter().map(|f| f.pts.0).chain(cut.audio.iter().map(|f| f.pts.0)));
                    waiting.drain(..count);
                }
            };
            for (tick, (late_us, frames)) in ticks.into_iter().enumerate() {
                let now_us = tick as u64 * TICK_US + late_us;
                for (is_audio, key) in frames {
                    // What ends a fragment was not part of it: count the new frame after looking.
                    let cut = if is_audio { cutter.audio(now_us, sound(sent)) } else { cutter.video(now_us, frame(sent, key, 10)) };
                    check(cut, &mut got, &mut waiting);
                    waiting.push(now_us);
                    sent += 1;
                }
                let cut = cutter.tick(now_us);
                check(cut, &mut got, &mut waiting);
                if let Some(oldest_us) = waiting.first() {
                    // Killed right before the next tick, with everything read a tick after it arrived.
                    let next_us = (tick as u64 + 1) * TICK_US;
                    prop_assert!(next_us - (oldest_us - late_us.min(*oldest_us)) + TICK_US <= part_ms * 1000 + TICK_US);
                }
            }
            check(cutter.take(), &mut got, &mut waiting);
            got.sort_unstable();
            prop_assert_eq!(got, (0..sent).collect::<Vec<_>>());
        }
    }
}
