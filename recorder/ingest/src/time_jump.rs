//! Notices when RTP time jumps against arrival, as when a camera sets its clock or starts its encoder anew. Pure.

/// More than this much difference between how far two frames are apart in RTP time and in arrival is a jump, microseconds. Above any
/// stall that TCP delivers late (the silence limits end those), and far below what a clock that was set moves.
pub(crate) const JUMP_LIMIT_US: i128 = 10_000_000;

/// When something arrived: between the read before and the one that found it, monotonic microseconds. As long as a tick, or as long
/// as the process stood still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
}

/// Watches one track.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JumpWatch {
    last: Option<(i64, Arrival)>,
}

impl JumpWatch {
    /// A frame with media time `pts` in ticks of `clock_hz` arrived. True if it jumped against the frame before it; what comes after is
    /// measured from this one.
    pub(crate) fn frame(&mut self, pts: i64, clock_hz: u32, arrival: Arrival) -> bool {
        let Some((last_pts, last)) = self.last.replace((pts, arrival)) else { return false };
        let media_us = i128::from(pts.saturating_sub(last_pts)) * 1_000_000 / i128::from(clock_hz.max(1));
        let least_us = i128::from(arrival.from_us) - i128::from(last.to_us);
        let most_us = i128::from(arrival.to_us) - i128::from(last.from_us);
        !(least_us - JUMP_LIMIT_US..=most_us + JUMP_LIMIT_US).contains(&media_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 90_000;

    /// Read one tick after the read before.
    fn at(us: u64) -> Arrival {
        Arrival { from_us: us.saturating_sub(100_000), to_us: us }
    }

    #[test]
    fn forward_and_backward_jumps_are_seen_once() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(1 << 40, HZ, at(0)));
        assert!(!w.frame((1 << 40) + 3600, HZ, at(40_000)));
        assert!(w.frame((1 << 40) + 3600 + 11 * 90_000, HZ, at(80_000)));
        assert!(!w.frame((1 << 40) + 7200 + 11 * 90_000, HZ, at(120_000)));
        assert!(w.frame(0, HZ, at(160_000)));
        assert!(!w.frame(3600, HZ, at(200_000)));
    }

    #[test]
    fn a_burst_after_a_stall_is_no_jump() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(0, HZ, at(0)));
        for i in 1..100 {
            assert!(!w.frame(3600 * i, HZ, at(4_000_000)), "frames held up for 4 s and then read in one tick");
        }
    }

    #[test]
    fn a_cached_gop_of_20_s_sent_at_once_is_no_jump() {
        let mut w = JumpWatch::default();
        for i in 0..500 {
            assert!(!w.frame(3600 * i, HZ, at(1_000_000)));
        }
    }

    #[test]
    fn what_waited_while_the_process_stood_still_is_no_jump() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(0, HZ, at(1_000_000)));
        let still = Arrival { from_us: 1_000_000, to_us: 31_000_000 };
        for i in 1..750 {
            assert!(!w.frame(3600 * i, HZ, still), "frame {i}");
        }
        assert!(!w.frame(3600 * 750, HZ, at(31_100_000)));
        assert!(w.frame(3600 * 750 + 20 * 90_000, HZ, at(31_200_000)), "but a jump is one");
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(i64::MIN, 0, at(u64::MAX)));
        assert!(w.frame(i64::MAX, 0, at(0)));
        assert!(w.frame(i64::MIN, HZ, at(0)));
    }
}
