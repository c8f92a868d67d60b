//! How soon after a decision the next one is made. While thousands of streams are being applied each decision changes every Recorder, and each Recorder that
//! is written is a large object, and has its recorder write its status in turn: decisions that follow each other at once leave the API server
//! no time for what they are about. Pure.

use std::time::{Duration, Instant};

/// A decision that took so long is rested for as many times that long.
const RESTS: u32 = 3;
/// But never for longer.
const AT_MOST: Duration = Duration::from_secs(3);

/// When the next decision may be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    rests_until: Option<Instant>,
}

impl Pace {
    /// A decision was made and written, from then until then.
    pub fn worked(&mut self, began: Instant, ended: Instant) {
        self.rests_until = Some(ended + AT_MOST.min(ended.duration_since(began) * RESTS));
    }

    /// Until when the next one waits.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Whether the next one waits. What comes meanwhile is decided together.
    #[must_use]
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
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
        assert!(pace.rests(at(79)) && !pace.rests(at(80)));
        pace.worked(at(0), at(10_000));
        assert!(pace.rests(at(12_999)) && !pace.rests(at(13_000)));
    }
}
