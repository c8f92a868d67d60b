//! What time it is for the ages of footage. Pure.
//!
//! A clock that is set forward by a day, by mistake or by a machine that lost its battery, would make a day of footage too old at once. So this
//! time follows the clock at no more than twice the pace of time itself: whoever sets the clock right within a day has lost nothing of what a
//! step of a day would have taken, and a step that was right is caught up with in as long as it is. Back it follows at once: then footage only stays
//! longer. It is written down on the volumes, because a restart must not make it jump; how long a recorder was off nobody can tell from a clock
//! that was set, so that is caught up with in the same way.

use framekeeper_media::WallTime;

/// How often it is written down.
pub(crate) const SAVE_EVERY_US: u64 = 600_000_000;
/// What the clock may be ahead at a start: it went on since it was last written down.
const AHEAD_AT_START_US: i64 = 2 * SAVE_EVERY_US.cast_signed();

/// The time for ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AgeClock {
    now: WallTime,
    monotonic_us: u64,
}

impl AgeClock {
    /// Begins with what was written down, the latest of several volumes; where there is nothing, with the clock's.
    pub(crate) fn start(saved: Option<WallTime>, monotonic_us: u64, wall: WallTime) -> Self {
        let now = saved.map_or(wall, |saved| saved.saturating_add_us(AHEAD_AT_START_US).min(wall));
        Self { now, monotonic_us }
    }

    /// The time for ages now.
    pub(crate) fn advance(&mut self, monotonic_us: u64, wall: WallTime) -> WallTime {
        let twice_us = monotonic_us.saturating_sub(self.monotonic_us).saturating_mul(2);
        self.now = self.now.saturating_add_us(i64::try_from(twice_us).unwrap_or(i64::MAX)).min(wall);
        self.monotonic_us = monotonic_us;
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: i64 = 1_000_000;
    const DAY: i64 = 86_400 * S;

    #[test]
    fn a_step_forward_is_followed_at_twice_the_pace_of_time() {
        let mut clock = AgeClock::start(None, 0, WallTime(0));
        assert_eq!(clock.advance(S as u64, WallTime(S)), WallTime(S));
        assert_eq!(clock.advance(2 * S as u64, WallTime(2 * S + DAY)), WallTime(3 * S));
        assert_eq!(clock.advance(3 * S as u64, WallTime(3 * S + DAY)), WallTime(5 * S));
        // Set right again.
        assert_eq!(clock.advance(4 * S as u64, WallTime(4 * S)), WallTime(4 * S));
        // A step that was right is caught up with after as long as it is.
        clock.advance(5 * S as u64, WallTime(5 * S + 100 * S));
        assert_eq!(clock.advance(55 * S as u64, WallTime(155 * S)), WallTime(106 * S));
        assert_eq!(clock.advance(105 * S as u64, WallTime(205 * S)), WallTime(205 * S));
    }

    #[test]
    fn back_it_goes_at_once() {
        let mut clock = AgeClock::start(None, 0, WallTime(DAY));
        assert_eq!(clock.advance(1, WallTime(S)), WallTime(S));
    }

    #[test]
    fn a_restart_is_no_way_around_it() {
        let saved = WallTime(10 * DAY);
        // A process that has just begun: the monotonic clock may say anything.
        let mut clock = AgeClock::start(Some(saved), 77 * S as u64, WallTime(11 * DAY));
        assert_eq!(clock.advance(77 * S as u64, WallTime(11 * DAY)), saved.saturating_add_us(AHEAD_AT_START_US));
        // A short stop costs nothing.
        let soon = saved.saturating_add_us(60 * S);
        assert_eq!(AgeClock::start(Some(saved), 0, soon).advance(0, soon), soon);
    }

    proptest! {
        #[test]
        fn never_ahead_of_the_clock_and_never_faster_than_twice(
            steps in proptest::collection::vec((0_u64..100, -200_i64..200), 1..50),
        ) {
            let (mut mono, mut wall) = (0, 10_000_i64);
            let mut before = WallTime(wall);
            let mut clock = AgeClock::start(None, mono, before);
            for (passed, step) in steps {
                mono += passed;
                wall += passed as i64 + step;
                let now = clock.advance(mono, WallTime(wall));
                prop_assert!(now.0 <= wall && now.0 - before.0 <= 2 * passed as i64);
                // As near to the clock as that allows.
                prop_assert!(now.0 == wall || now.0 - before.0 == 2 * passed as i64);
                before = now;
            }
        }
    }
}
