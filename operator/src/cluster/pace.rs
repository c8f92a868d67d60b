//! How soon after a decision the next one is made. While thousands of streams are being applied each decision changes every Recorder, and each Recorder that
//! is written is a large object, and has its recorder write its status in turn: decisions that follow each other at once leave the API server
//! no time for what they are about. Pure.

use std::time::{Duration, Instant};

/// A decision that took so long is rested for as many times that long.
const RESTS: u32 = 3;
/// But never for longer.
const AT_MOST: Duration = Duration::from_secs(3);
/// Where so many streams are new, more of them are waited for.
const MANY: usize = 100;
/// Until no more have come for so long.
const STILL: Duration = Duration::from_millis(500);
/// But never for longer: the first of them are to be recorded, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// When the next decision may be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    rests_until: Option<Instant>,
    /// How many streams there were at the last decision, and when that was.
    decided: Option<(usize, Instant)>,
    /// How many there are, and since when.
    there: Option<(usize, Instant)>,
}

impl Pace {
    /// So many streams there are now.
    pub fn counted(&mut self, streams: usize, now: Instant) {
        if self.there.is_none_or(|(before, _)| before != streams) {
            self.there = Some((streams, now));
        }
    }

    /// A decision about so many streams was made and written, from then until then.
    pub fn worked(&mut self, streams: usize, began: Instant, ended: Instant) {
        self.decided = Some((streams, ended));
        self.rests_until = Some(ended + AT_MOST.min(ended.duration_since(began) * RESTS));
    }

    /// Until when the next one waits. What comes meanwhile is decided together.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        let gathers = self.decided.zip(self.there).and_then(|((decided, at), (there, since))| {
            let is_flood = there >= decided + MANY;
            is_flood.then(|| (since + STILL).min(at + PATIENCE))
        });
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
        pace.worked(1, at(0), at(20));
        assert!(pace.rests(at(79)) && !pace.rests(at(80)));
        pace.worked(1, at(0), at(10_000));
        assert!(pace.rests(at(12_999)) && !pace.rests(at(13_000)));
    }

    #[test]
    fn streams_that_come_by_hundreds_are_waited_for_but_not_for_ever() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::default();
        pace.counted(500, at(0));
        assert!(!pace.rests(at(0)), "an operator that begins to lead waits for nothing");
        pace.worked(500, at(0), at(0));
        pace.counted(599, at(100));
        assert!(!pace.rests(at(100)), "a few are decided at once");
        pace.counted(600, at(200));
        pace.counted(600, at(600));
        assert!(pace.rests(at(699)) && !pace.rests(at(700)), "no more have come");
        for ms in (700..29_999).step_by(100) {
            pace.counted(usize::try_from(ms).unwrap(), at(ms));
            assert!(pace.rests(at(ms)));
        }
        assert!(!pace.rests(at(30_000)), "they come and come");
        pace.worked(29_900, at(30_000), at(30_000));
        pace.counted(400, at(30_001));
        assert!(!pace.rests(at(30_001)), "they were taken away");
    }
}
