//! The lengths of time that decisions go by.

/// One second in microseconds.
const SECOND: u64 = 1_000_000;

/// How long what may last. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A peer that is not heard for longer, or says that it does not hear us, counts as failed.
    pub silence: u64,
    /// A link that was closed counts as failed when it does not stand again within this.
    pub redial: u64,
    /// A peer that this recorder has only begun to dial is not judged for so long.
    pub joining: u64,
    /// Steps further apart than this mean that this process stood still; nothing heard meanwhile is no silence of the others.
    pub pause: u64,
    /// For each better holder that could record and does not, the next one waits so long.
    pub patience: u64,
    /// A disk that did not make durable what it got for longer counts as failed, where another holder's does better.
    pub slow_disk: u64,
    /// A holder that had failed must have recorded without a fault for so long before others let go. From the second takeover within
    /// [`Rules::calm`] on it doubles…
    pub hold: u64,
    /// …up to this.
    pub hold_at_most: u64,
    /// Where nothing changes, what there is to do is asked so often.
    pub look: u64,
    /// After something changed it is asked at every opportunity for so long.
    pub restless: u64,
    /// A takeover so soon after the last one is flapping.
    pub calm: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            silence: 1_250_000,
            redial: 250_000,
            joining: 3 * SECOND,
            pause: 750_000,
            patience: 500_000,
            slow_disk: 3 * SECOND,
            hold: 30 * SECOND,
            hold_at_most: 600 * SECOND,
            look: 200_000,
            restless: SECOND,
            calm: 60 * SECOND,
        }
    }
}

impl Rules {
    /// How long a returned holder has to be stable after a takeover, where the one before asked for `last` and ended `ago` microseconds
    /// before this one began.
    #[must_use]
    pub fn next_hold(&self, last: Option<(u64, u64)>) -> u64 {
        match last {
            Some((hold, ago)) if ago <= self.calm => {
                hold.saturating_mul(2).clamp(self.hold, self.hold_at_most.max(self.hold))
            }
            _ => self.hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_doubles_while_takeovers_follow_each_other_and_ends_at_ten_minutes() {
        let rules = Rules::default();
        assert_eq!(rules.next_hold(None), 30 * SECOND);
        let mut hold = 30 * SECOND;
        let mut seen = Vec::new();
        for _ in 0..6 {
            hold = rules.next_hold(Some((hold, 60 * SECOND)));
            seen.push(hold / SECOND);
        }
        assert_eq!(seen, [60, 120, 240, 480, 600, 600]);
        assert_eq!(
            rules.next_hold(Some((hold, 60 * SECOND + 1))),
            30 * SECOND,
            "a minute of calm, and all is forgotten"
        );
        // A pool that holds for longer than ten minutes anyway.
        let long = Rules { hold: 900 * SECOND, ..rules };
        assert_eq!(long.next_hold(Some((900 * SECOND, 0))), 900 * SECOND);
    }
}
