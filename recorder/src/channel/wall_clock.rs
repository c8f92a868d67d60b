//! When a frame was: wall-clock times for the frames of one run, from media time and arrival.
//!
//! `wall = media + offset`. A packet can come late but never early, so the least (receive − media) seen is the best
//! estimate of the offset, and a burst of cached frames at the start of a session does not shift it. In the first 10 s the
//! offset follows that estimate freely; afterwards it is slewed by at most 500 ppm towards the least of each 10 s window,
//! which follows the drift of the camera's clock and ignores late packets. Whatever the estimate does, the times of frames
//! stay strictly increasing in presentation order.
//!
//! The same is known of the monotonic clock, which is never set: what other recorders' footage is compared by
//! ([`framekeeper_takeover::SteadyTime`]).

use std::collections::VecDeque;

use framekeeper_ingest::TickTime;
use framekeeper_media::{MediaTime, WallTime};

/// How long the offset follows the estimate freely, and the length of the windows afterwards.
const WINDOW_US: u64 = 10_000_000;
/// Greatest slew after the first window: NTP's own limit, and less than a player would notice.
const SLEW_PPM: i64 = 500;
/// Errors below this are the jitter of ticks and networks, not drift; following them would only make times less even.
const DEAD_BAND_US: i64 = 10_000;
/// Frames whose times are remembered, so that pictures shown before one already seen fall between the right neighbours.
/// H.264 reorders over at most 16 frames (§A.3.1 h, MaxDpbFrames).
const REMEMBERED: usize = 17;

/// A frame's place on both clocks, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Knot {
    media_us: i64,
    wall_us: i64,
}

/// The least of what was seen, in a window and lately.
#[derive(Debug, Default)]
struct Least {
    window_us: Option<i64>,
    lately_us: Option<i64>,
}

impl Least {
    fn see(&mut self, us: i64) {
        let least_us = self.window_us.map_or(us, |least| least.min(us));
        self.window_us = Some(least_us);
        // Lower is proof at once; higher has to last a window.
        self.lately_us = Some(self.lately_us.map_or(least_us, |lately| lately.min(least_us)));
    }

    /// The first window goes on in the second one.
    fn next_window(&mut self, is_first: bool) {
        if !is_first {
            self.lately_us = self.window_us.or(self.lately_us);
        }
        self.window_us = None;
    }
}

/// The clock of one run. A step of the host's clock, or a jump of media time, needs a new one.
#[derive(Debug)]
pub(crate) struct WallClock {
    /// Monotonic time of the first arrival.
    began_us: Option<u64>,
    /// When the window that is being measured began, monotonic.
    window_began_us: u64,
    /// Receive − media by the wall clock: what the offset is to become.
    target: Least,
    /// Receive − media by the monotonic clock.
    steady: Least,
    /// Whether the first window is over.
    settled: bool,
    /// Whether the offset is on its way to the target, having left the dead band.
    slewing: bool,
    /// Times already given, increasing on both clocks.
    knots: VecDeque<Knot>,
    /// No frame is given this time or an earlier one.
    after: Option<WallTime>,
}

impl WallClock {
    /// A clock that has seen nothing. Its first frame comes later than `after`: the end of the run before.
    pub(crate) fn new(after: Option<WallTime>) -> Self {
        Self {
            began_us: None,
            window_began_us: 0,
            target: Least::default(),
            steady: Least::default(),
            settled: false,
            slewing: false,
            knots: VecDeque::with_capacity(REMEMBERED + 1),
            after,
        }
    }

    /// A frame with presentation time `media` was read in the tick `at`.
    pub(crate) fn observe(&mut self, at: TickTime, media: MediaTime) {
        let media_us = video_us(media);
        let began_us = *self.began_us.get_or_insert(at.monotonic_us);
        if self.target.lately_us.is_none() {
            self.window_began_us = began_us;
        }
        if at.monotonic_us.saturating_sub(self.window_began_us) > WINDOW_US {
            let is_first = !std::mem::replace(&mut self.settled, true);
            self.target.next_window(is_first);
            self.steady.next_window(is_first);
            self.window_began_us = at.monotonic_us;
        }
        self.target.see(at.wall.0.saturating_sub(media_us));
        self.steady.see(media_us.saturating_neg().saturating_add_unsigned(at.monotonic_us));
    }

    /// By how much the newest times that were given are ahead of the monotonic clock, microseconds.
    pub(crate) fn ahead_us(&self) -> i64 {
        let given_us = self.knots.back().map_or(0, |last| last.wall_us.saturating_sub(last.media_us));
        given_us.saturating_sub(self.steady.lately_us.unwrap_or(0))
    }

    /// The wall time of a frame. Called once for each frame, in decoding order, after it was observed; the later, the better
    /// the estimate.
    pub(crate) fn time_of(&mut self, media: MediaTime) -> WallTime {
        let media_us = video_us(media);
        let wall_us = match self.knots.back().copied() {
            None => {
                let wall_us = media_us.saturating_add(self.target.lately_us.unwrap_or(0));
                self.after.map_or(wall_us, |after| wall_us.max(after.0.saturating_add(1)))
            }
            Some(last) if media_us > last.media_us => self.next_after(last, media_us),
            // A camera that gives two pictures one time: the order is known, the distance is not.
            Some(last) if media_us == last.media_us => last.wall_us.saturating_add(1),
            Some(_) => return self.between(media_us),
        };
        if self.knots.len() == REMEMBERED {
            self.knots.pop_front();
        }
        self.knots.push_back(Knot { media_us, wall_us });
        WallTime(wall_us)
    }

    /// The latest time given so far.
    pub(crate) fn latest(&self) -> Option<WallTime> {
        self.knots.back().map(|knot| WallTime(knot.wall_us))
    }

    /// The time of something at `media_us` of video media time that is no video frame: audio.
    pub(crate) fn convert_us(&self, media_us: i64) -> WallTime {
        let offset_us = match self.knots.back() {
            Some(last) => last.wall_us.saturating_sub(last.media_us),
            None => self.target.lately_us.unwrap_or(0),
        };
        WallTime(media_us.saturating_add(offset_us))
    }

    fn next_after(&mut self, last: Knot, media_us: i64) -> i64 {
        let step_us = media_us.saturating_sub(last.media_us);
        let offset_us = last.wall_us.saturating_sub(last.media_us);
        let error_us = self.target.lately_us.unwrap_or(offset_us).saturating_sub(offset_us);
        let correction_us = if self.settled {
            if error_us.abs() > DEAD_BAND_US {
                self.slewing = true;
            } else if error_us == 0 {
                self.slewing = false;
            }
            let limit_us = step_us.saturating_mul(SLEW_PPM) / 1_000_000;
            if self.slewing { error_us.clamp(-limit_us, limit_us) } else { 0 }
        } else {
            // Half the distance at most: the frames shown between these two must find room as well.
            error_us.max(-(step_us / 2))
        };
        last.wall_us.saturating_add(step_us).saturating_add(correction_us).max(last.wall_us.saturating_add(1))
    }

    /// For a picture that is shown before one already seen.
    fn between(&self, media_us: i64) -> WallTime {
        let mut later = None;
        for knot in self.knots.iter().rev() {
            if knot.media_us <= media_us {
                let Some(Knot { media_us: later_media_us, wall_us: later_wall_us }) = later else { break };
                let span_us = i128::from(later_media_us) - i128::from(knot.media_us);
                let part_us = i128::from(media_us) - i128::from(knot.media_us);
                let wall_span_us = i128::from(later_wall_us) - i128::from(knot.wall_us);
                let inside_us = if span_us > 0 { wall_span_us * part_us / span_us } else { 0 };
                return WallTime(knot.wall_us.saturating_add(i64::try_from(inside_us).unwrap_or(0)));
            }
            later = Some(*knot);
        }
        // Before everything remembered: by the offset of the oldest.
        let offset_us = later.map_or(0, |knot| knot.wall_us.saturating_sub(knot.media_us));
        WallTime(media_us.saturating_add(offset_us))
    }
}

/// Video media time in microseconds, rounded down.
pub(crate) fn video_us(media: MediaTime) -> i64 {
    // 90 kHz: 100 µs are 9 ticks. Split, so that nothing overflows for any plausible time.
    let (whole, rest) = (media.0.div_euclid(9), media.0.rem_euclid(9));
    whole.saturating_mul(100).saturating_add(rest * 100 / 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0_US: i64 = 1_790_000_000_000_000;
    const FRAME: i64 = 3_600; // 25 fps on 90 kHz
    const FRAME_US: i64 = 40_000;

    fn at(us: i64) -> TickTime {
        TickTime { monotonic_us: 5_000_000 + us as u64, wall: WallTime(T0_US + us) }
    }

    fn see(clock: &mut WallClock, arrival_us: i64, media: i64) -> i64 {
        clock.observe(at(arrival_us), MediaTime(media));
        clock.time_of(MediaTime(media)).0 - T0_US
    }

    #[test]
    fn even_arrivals_give_even_times() {
        let mut clock = WallClock::new(None);
        for n in 0..2_000 {
            assert_eq!(see(&mut clock, n * FRAME_US + 3_000, 77 + n * FRAME), n * FRAME_US + 3_000);
        }
    }

    #[test]
    fn a_burst_of_cached_frames_gets_the_times_it_was_made() {
        let mut clock = WallClock::new(None);
        // Two seconds of frames arrive in one tick; times are given when the fragment is cut, behind the burst.
        for n in 0..50 {
            clock.observe(at(2_000_000), MediaTime(n * FRAME));
        }
        for n in 0..50 {
            assert_eq!(clock.time_of(MediaTime(n * FRAME)).0 - T0_US, 2_000_000 - (49 - n) * FRAME_US);
        }
    }

    #[test]
    fn a_late_start_is_corrected_within_the_first_window_without_going_back() {
        let mut clock = WallClock::new(None);
        let mut last = i64::MIN;
        for n in 0..500 {
            let late_us = if n < 20 { 800_000 } else { 0 };
            let wall = see(&mut clock, n * FRAME_US + late_us, n * FRAME);
            assert!(wall > last);
            last = wall;
        }
        assert_eq!(last, 499 * FRAME_US);
    }

    #[test]
    fn late_packets_are_no_drift() {
        let mut clock = WallClock::new(None);
        for n in 0..5_000 {
            let late_us = if n % 300 > 200 { 3_000_000 } else { 0 };
            assert_eq!(see(&mut clock, n * FRAME_US + late_us, n * FRAME), n * FRAME_US);
        }
    }

    #[test]
    fn drift_is_followed_by_at_most_500_ppm() {
        // The camera's clock is 200 ppm slow: without slewing it would be 720 ms off after an hour.
        let mut clock = WallClock::new(None);
        let mut last: Option<i64> = None;
        for n in 0..90_000_i64 {
            let arrival_us = n * FRAME_US + n * FRAME_US * 200 / 1_000_000;
            let wall = see(&mut clock, arrival_us, n * FRAME);
            if let Some(last) = last {
                assert!((wall - last - FRAME_US).abs() <= FRAME_US * SLEW_PPM / 1_000_000);
            }
            last = Some(wall);
            assert!((wall - arrival_us).abs() <= 25_000, "{} µs off at frame {n}", wall - arrival_us);
        }
    }

    #[test]
    fn reordered_pictures_fall_between_their_neighbours() {
        let mut clock = WallClock::new(None);
        let mut times = Vec::new();
        for group in 0..40 {
            for shown in [3, 1, 2] {
                let n = group * 3 + shown;
                times.push((n, see(&mut clock, (group * 3 + 3) * FRAME_US, n * FRAME)));
            }
        }
        times.sort_unstable();
        assert!(times.windows(2).all(|pair| pair[0].1 < pair[1].1), "{times:?}");
    }

    #[test]
    fn a_run_begins_after_the_one_before() {
        let mut clock = WallClock::new(Some(WallTime(T0_US + 500_000)));
        assert_eq!(see(&mut clock, 100_000, 0), 500_001);
        // and comes back to the truth, later.
        let mut last = 0;
        for n in 1..200 {
            last = see(&mut clock, 100_000 + n * FRAME_US, n * FRAME);
        }
        assert_eq!(last, 100_000 + 199 * FRAME_US);
    }

    #[test]
    fn times_are_known_by_the_monotonic_clock_too_whatever_the_other_does() {
        let (mut clock, mut wall_us) = (WallClock::new(None), T0_US);
        for n in 0..3_000 {
            // Late at first, and every now and then. The wall clock is set by less than what begins a new run, and a little each second.
            let late_us = if n < 20 || n % 300 > 200 { 400_000 } else { 0 };
            wall_us += if n == 500 { -450_000 } else { i64::from(n % 25 == 0) * 300 };
            let arrival_us = n * FRAME_US + late_us;
            let at = TickTime { monotonic_us: 5_000_000 + arrival_us as u64, wall: WallTime(wall_us + arrival_us) };
            clock.observe(at, MediaTime(n * FRAME));
            let given = clock.time_of(MediaTime(n * FRAME));
            let steady_us = given.0 - clock.ahead_us() - 5_000_000;
            let truly_us = n * FRAME_US + if n < 20 { 400_000 } else { 0 };
            assert!((steady_us - truly_us).abs() <= 1_000, "{} µs off at frame {n}", steady_us - truly_us);
        }
    }

    proptest! {
        #[test]
        fn times_strictly_increase_whatever_arrives(
            steps in proptest::collection::vec((1_i64..20_000, 0_i64..3_000_000), 2..400),
        ) {
            let mut clock = WallClock::new(None);
            let (mut media, mut arrival_us, mut last) = (0, 0, i64::MIN);
            for (step, late_us) in steps {
                media += step;
                arrival_us = arrival_us.max(video_us(MediaTime(media)) + late_us);
                let wall = see(&mut clock, arrival_us, media);
                prop_assert!(wall > last);
                last = wall;
            }
        }

        #[test]
        fn after_the_first_window_no_step_is_off_by_more_than_500_ppm(
            lates in proptest::collection::vec(0_i64..400_000, 600..1_500),
        ) {
            let mut clock = WallClock::new(None);
            let (mut arrival_us, mut last): (i64, Option<i64>) = (0, None);
            for (n, late_us) in lates.into_iter().enumerate() {
                let n = n as i64;
                arrival_us = arrival_us.max(n * FRAME_US + late_us);
                let wall = see(&mut clock, arrival_us, n * FRAME);
                if let Some(last) = last && arrival_us > 11_000_000 {
                    prop_assert!((wall - last - FRAME_US).abs() <= FRAME_US * SLEW_PPM / 1_000_000);
                }
                last = Some(wall);
            }
        }
    }
}
