//! Notices when RTP time jumps against arrival, as when a camera sets its clock or starts its encoder anew. Pure.

/// More than this much difference between how far two frames are apart in RTP time and in arrival is a jump, microseconds. Above any
/// stall that TCP delivers late (the silence limits end those), and far below what a clock that was set moves.
pub(crate) const JUMP_LIMIT_US: i64 = 10_000_000;

/// Watches one track.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JumpWatch {
    last: Option<(i64, u64)>,
}

impl JumpWatch {
    /// A frame with media time `pts` in ticks of `clock_hz` arrived at `arrival_us` (monotonic). True if it jumped against the frame
    /// before it; what comes after is measured from this one.
    pub(crate) fn frame(&mut self, pts: i64, clock_hz: u32, arrival_us: u64) -> bool {
        let Some((last_pts, last_arrival_us)) = self.last.replace((pts, arrival_us)) else { return false };
        let media_us = i128::from(pts.saturating_sub(last_pts)) * 1_000_000 / i128::from(clock_hz.max(1));
        let arrival_us = i128::from(arrival_us) - i128::from(last_arrival_us);
        (media_us - arrival_us).abs() > i128::from(JUMP_LIMIT_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 90_000;

    #[test]
    fn forward_and_backward_jumps_are_seen_once() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(1 << 40, HZ, 0));
        assert!(!w.frame((1 << 40) + 3600, HZ, 40_000));
        assert!(w.frame((1 << 40) + 3600 + 11 * 90_000, HZ, 80_000));
        assert!(!w.frame((1 << 40) + 7200 + 11 * 90_000, HZ, 120_000));
        assert!(w.frame(0, HZ, 160_000));
        assert!(!w.frame(3600, HZ, 200_000));
    }

    #[test]
    fn a_burst_after_a_stall_is_no_jump() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(0, HZ, 0));
        for i in 1..100 {
            assert!(!w.frame(3600 * i, HZ, 4_000_000), "frames held up for 4 s and then read in one tick");
        }
    }

    #[test]
    fn a_cached_gop_of_20_s_sent_at_once_is_no_jump() {
        let mut w = JumpWatch::default();
        for i in 0..500 {
            assert!(!w.frame(3600 * i, HZ, 1_000_000));
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut w = JumpWatch::default();
        assert!(!w.frame(i64::MIN, 0, u64::MAX));
        assert!(w.frame(i64::MAX, 0, 0));
        assert!(w.frame(i64::MIN, HZ, 0));
    }
}
