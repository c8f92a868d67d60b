//! When the camera is to be asked for a key frame: before the first one has come, and after pictures were lost. The session is told, which may do it
//! over RTCP, and the sink, which may have another way. Times are monotonic microseconds; no I/O.

/// What is on its way anyway is not asked for.
const PATIENCE_US: u64 = 200_000;
/// Not more often than this, whatever is lost.
const AGAIN_US: u64 = 1_000_000;

/// Whether pictures can be decoded, and when somebody asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyFrames {
    /// Since when pictures come that nobody can decode whole.
    missing_us: Option<u64>,
    begun: bool,
    asked_us: Option<u64>,
}

impl KeyFrames {
    /// A picture came; whether others were lost before it.
    pub(crate) fn picture(&mut self, now_us: u64, is_key: bool, lost: bool) {
        if is_key {
            self.missing_us = None;
        } else if lost || !self.begun {
            self.missing_us.get_or_insert(now_us);
        }
        self.begun = true;
    }

    /// Whether to ask at `now_us`; if so, it is taken for done.
    pub(crate) fn ask(&mut self, now_us: u64) -> bool {
        let long = |since_us: Option<u64>, at_least_us| {
            since_us.is_some_and(|since| now_us.saturating_sub(since) >= at_least_us)
        };
        let due = long(self.missing_us, PATIENCE_US) && (self.asked_us.is_none() || long(self.asked_us, AGAIN_US));
        if due {
            self.asked_us = Some(now_us);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    #[test]
    fn it_is_asked_for_until_one_has_come_and_again_after_a_loss() {
        let mut frames = KeyFrames::default();
        assert!(!frames.ask(0), "nothing has come: nobody could be asked");
        frames.picture(100 * MS, false, false);
        assert!(!frames.ask(299 * MS) && frames.ask(300 * MS) && !frames.ask(1_299 * MS) && frames.ask(1_300 * MS));
        frames.picture(1_400 * MS, true, false);
        assert!(!frames.ask(9_000 * MS));
        frames.picture(9_000 * MS, false, false);
        assert!(!frames.ask(9_900 * MS), "nothing was lost");
        frames.picture(10_000 * MS, false, true);
        frames.picture(10_100 * MS, false, true);
        assert!(!frames.ask(10_199 * MS) && frames.ask(10_200 * MS));
    }

    #[test]
    fn a_session_that_begins_with_one_does_not_ask() {
        let mut frames = KeyFrames::default();
        frames.picture(0, true, false);
        assert!(!frames.ask(5_000 * MS));
    }
}
