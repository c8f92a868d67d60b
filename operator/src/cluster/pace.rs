//! How soon after a decision the next one is made. While thousands of streams are being applied each decision changes every Recorder, and each Recorder that
//! is written is a large object, and has its recorder write its status in turn: decisions that follow each other at once leave the API server
//! no time for what they are about. Pure.

use std::time::{Duration, Instant};

/// A decision that took so long is rested for as many times that long.
const RESTS: u32 = 4;
/// But never for longer.
const AT_MOST: Duration = Duration::from_secs(3);
/// Where so many streams come within a second, more of them are waited for. No person's `kubectl apply` is that fast.
const MANY: usize = 100;
const SECOND: Duration = Duration::from_secs(1);
/// But never for longer: the first of them are to be recorded, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the next decision may be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    rests_until: Option<Instant>,
    decided: Option<Instant>,
    /// How many streams there were a moment ago, and when that was.
    before: Option<(usize, Instant)>,
    /// When they came by the hundred last.
    flood: Option<Instant>,
}

impl Pace {
    /// So many streams there are now.
    pub fn counted(&mut self, streams: usize, now: Instant) {
        let (before, since) = *self.before.get_or_insert((streams, now));
        if streams >= before + MANY {
            self.flood = Some(now);
        }
        if streams >= before + MANY || streams < before || now.duration_since(since) >= SECOND {
            self.before = Some((streams, now));
        }
    }

    /// A decision was made and written, from then until then.
    pub fn worked(&mut self, began: Instant, ended: Instant) {
        self.decided = Some(ended);
        self.rests_until = Some(ended + AT_MOST.min(ended.duration_since(began) * RESTS));
    }

    /// Until when the next one waits. What comes meanwhile is decided together.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        let gathers = self.flood.zip(self.decided).map(|(flood, decided)| (flood + SECOND).min(decided + PATIENCE));
        gathers.max(self.rests_until)
    }

    /// Whether the next one waits.
    #[must_use]
    pub fn rests(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_worked_for_long_rests_for_long_but_not_for_ever() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert!(!pace.rests(begin), "nothing was decided yet");
        pace.worked(at(0), at(20));
        assert!(pace.rests(at(99)) && !pace.rests(at(100)));
        pace.worked(at(0), at(10_000));
        assert!(pace.rests(at(12_999)) && !pace.rests(at(13_000)));
    }

    #[test]
    fn streams_that_come_by_hundreds_are_waited_for_but_not_for_ever() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::default();
        pace.counted(500, at(0));
        assert!(!pace.rests(at(0)), "an operator that begins to lead waits for nothing");
        pace.worked(at(0), at(0));
        for second in 1..10 {
            pace.counted(500 + 99 * usize::try_from(second).unwrap(), at(1_000 * second));
            assert!(!pace.rests(at(1_000 * second)), "a few are decided at once");
        }
        pace.counted(2_000, at(10_000));
        pace.counted(2_099, at(10_500));
        assert!(pace.rests(at(10_999)) && !pace.rests(at(11_000)), "no more have come");
        for ms in (11_000..60_000).step_by(100) {
            pace.counted(2_000 + usize::try_from(ms).unwrap(), at(ms));
            assert!(pace.rests(at(ms)));
        }
        assert!(!pace.rests(at(60_000)), "they come and come");
        pace.counted(400, at(62_000));
        pace.counted(450, at(62_100));
        assert!(!pace.rests(at(62_100)), "they were taken away, and a few others came");
    }
}
