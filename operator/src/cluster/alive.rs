//! Which recorders are alive, by their Leases. Only when a Lease was seen to change counts, by this process's own clock: what stands in it is by the recorder's. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::build::access::LEASE_SECONDS;
use crate::decide::wanted::Key;

/// A Lease that did not change for so long has expired.
const EXPIRES_AFTER: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() as u64);

/// A recorder that lives renews its Lease each quarter of the time that it holds; what watches take is in it.
const RENEWS_WITHIN: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() as u64 / 4 + 3);
/// A renewal may be seen so much later than it was made, and than an answer that was given after it.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// What is known of one recorder's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It never renewed its Lease: it is being started, or can't be. Since then.
    New(Instant),
    /// It renewed its Lease lately, or answers.
    Alive,
    /// Its Lease expired, and it does not answer: since then.
    Silent(Instant),
}

/// When something was heard, and for how long in all nobody could be heard before.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    deaf: Duration,
}

#[derive(Clone, Debug)]
struct Seen {
    renewed: Option<String>,
    changed: Mark,
}

/// All recorders.
#[derive(Debug, Default)]
pub struct Lives {
    seen: BTreeMap<Key, Seen>,
    answered: BTreeMap<Key, Mark>,
    /// For how long in all nobody could be heard.
    deaf: Duration,
    passed: Option<Instant>,
}

impl Lives {
    /// It is `now`. Where the API server could not be reached since this was said last, that time says nothing of anybody's silence, and does not count: after
    /// an outage all recorders would pass for lost.
    pub fn pass(&mut self, now: Instant, is_deaf: bool) {
        let since = self.passed.replace(now).filter(|_| is_deaf);
        self.deaf += since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    }

    const fn mark(&self, at: Instant) -> Mark {
        Mark { at, deaf: self.deaf }
    }

    /// When that would have been, had all time since counted.
    fn counted(&self, mark: Mark) -> Instant {
        mark.at + self.deaf.saturating_sub(mark.deaf)
    }

    /// A recorder's Lease is this one at `now`; `renewed`: what it says of its last renewal. `was_silent`: whoever looked before had not heard of it for long.
    pub fn lease(&mut self, recorder: &Key, renewed: Option<String>, was_silent: bool, now: Instant) {
        let changed = self.mark(now);
        match self.seen.get_mut(recorder) {
            Some(seen) if seen.renewed == renewed => {}
            Some(seen) => *seen = Seen { renewed, changed },
            None => {
                let at = now.checked_sub(EXPIRES_AFTER).filter(|_| was_silent).unwrap_or(now);
                self.seen.insert(recorder.clone(), Seen { renewed, changed: Mark { at, ..changed } });
            }
        }
    }

    /// There is a recorder, which may have no Lease yet.
    pub fn is_there(&mut self, recorder: &Key, now: Instant) {
        let changed = self.mark(now);
        self.seen.entry(recorder.clone()).or_insert(Seen { renewed: None, changed });
    }

    /// A recorder answered a question.
    pub fn answered(&mut self, recorder: &Key, now: Instant) {
        self.answered.insert(recorder.clone(), self.mark(now));
    }

    /// Whether anything was heard of a recorder since then.
    #[must_use]
    pub fn was_heard_since(&self, recorder: &Key, since: Instant) -> bool {
        self.heard(recorder).is_some_and(|mark| mark.at >= since)
    }

    /// When a recorder was heard last: it answered, or renewed its Lease.
    fn heard(&self, recorder: &Key) -> Option<Mark> {
        let answered = self.answered.get(recorder).copied();
        let renewed = self.seen.get(recorder).filter(|seen| seen.renewed.is_some()).map(|seen| seen.changed);
        answered.into_iter().chain(renewed).max_by_key(|mark| mark.at)
    }

    /// Forgets those that are not among these.
    pub fn keep_only(&mut self, is_there: impl Fn(&Key) -> bool) {
        self.seen.retain(|key, _| is_there(key));
        self.answered.retain(|key, _| is_there(key));
    }

    /// For how long nothing was heard of a recorder that was heard of once.
    #[must_use]
    pub fn quiet_for(&self, recorder: &Key, now: Instant) -> Option<Duration> {
        self.heard(recorder).map(|last| now.saturating_duration_since(self.counted(last)))
    }

    /// Whether one that does not answer is known to have lived on since it did: its Lease was renewed. Else what it said last may be from before it was lost,
    /// though its Lease holds for a while.
    #[must_use]
    pub fn lives_on(&self, recorder: &Key, now: Instant) -> bool {
        let renewed = self.seen.get(recorder).filter(|seen| seen.renewed.is_some()).map(|seen| seen.changed.at);
        let answered = self.answered.get(recorder);
        renewed.is_some_and(|renewed| {
            now.saturating_duration_since(renewed) < RENEWS_WITHIN
                && answered.is_none_or(|last| renewed > last.at + SEEN_WITHIN)
        })
    }

    /// How it stands with a recorder.
    #[must_use]
    pub fn of(&self, recorder: &Key, now: Instant) -> Life {
        let Some(last) = self.heard(recorder) else {
            return Life::New(self.seen.get(recorder).map_or(now, |seen| self.counted(seen.changed)));
        };
        let last = self.counted(last);
        if now.saturating_duration_since(last) < EXPIRES_AFTER {
            Life::Alive
        } else {
            Life::Silent(last + EXPIRES_AFTER)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_lives_as_long_as_its_lease_changes_or_it_answers() {
        let (mut lives, one, begin) = (Lives::default(), Key::new("a", "main-recorder-0"), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        assert_eq!(lives.of(&one, at(7)), Life::New(at(7)));
        lives.lease(&one, None, false, at(0));
        assert_eq!(lives.of(&one, at(100)), Life::New(at(0)), "a Lease that nobody holds");
        lives.lease(&one, Some("14:00:00".into()), false, at(100));
        lives.lease(&one, Some("14:00:00".into()), false, at(130));
        assert_eq!(lives.of(&one, at(139)), Life::Alive);
        assert_eq!(lives.of(&one, at(140)), Life::Silent(at(140)));
        // Its clock was set back: any change counts.
        lives.lease(&one, Some("13:00:00".into()), false, at(150));
        assert_eq!(lives.of(&one, at(189)), Life::Alive);
        // Only the API server is out of its reach.
        lives.answered(&one, at(189));
        assert_eq!(lives.of(&one, at(228)), Life::Alive);
        // It answered, and nothing is known since, however long its Lease holds.
        assert!(!lives.lives_on(&one, at(190)));
        lives.lease(&one, Some("13:00:10".into()), false, at(191));
        assert!(!lives.lives_on(&one, at(191)), "that may have been made before it was lost");
        lives.lease(&one, Some("13:00:20".into()), false, at(201));
        assert!(lives.lives_on(&one, at(201)) && lives.lives_on(&one, at(213)) && !lives.lives_on(&one, at(214)));
        lives.keep_only(|_| false);
        // Who begins to lead has asked nobody yet.
        lives.lease(&one, Some("13:00:20".into()), false, at(228));
        assert!(lives.lives_on(&one, at(240)) && !lives.lives_on(&one, at(241)));
        lives.keep_only(|_| false);
        assert_eq!(lives.of(&one, at(228)), Life::New(at(228)));
    }
    #[test]
    fn time_in_which_nobody_could_be_heard_says_nothing_of_anybody() {
        let (mut lives, one, begin) = (Lives::default(), Key::new("a", "main-recorder-0"), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        lives.lease(&one, Some("a".into()), false, at(0));
        lives.is_there(&Key::new("a", "main-recorder-1"), at(0));
        // The API server is gone from the tenth second on, and back at the thousandth.
        for second in 0..=1_000 {
            lives.pass(at(second), second > 10);
            assert_eq!(lives.of(&one, at(second)), Life::Alive, "{second}");
        }
        assert_eq!(lives.of(&Key::new("a", "main-recorder-1"), at(1_000)), Life::New(at(990)));
        assert_eq!(lives.quiet_for(&one, at(1_000)), Some(Duration::from_secs(10)));
        for second in 1_001..=1_029 {
            lives.pass(at(second), false);
            assert_eq!(lives.of(&one, at(second)), Life::Alive, "{second}");
        }
        lives.pass(at(1_030), false);
        assert_eq!(lives.of(&one, at(1_030)), Life::Silent(at(1_030)));
        assert!(lives.was_heard_since(&one, at(0)) && !lives.was_heard_since(&one, at(1)));
        lives.lease(&one, Some("b".into()), false, at(1_031));
        assert!(lives.of(&one, at(1_031)) == Life::Alive && lives.was_heard_since(&one, at(1_031)));
    }

    #[test]
    fn one_that_was_silent_before_anybody_looked_is_so_until_it_is_heard() {
        let (mut lives, one) = (Lives::default(), Key::new("a", "main-recorder-0"));
        let begin = Instant::now() + Duration::from_secs(3_600);
        lives.lease(&one, Some("a".into()), true, begin);
        assert_eq!(lives.of(&one, begin), Life::Silent(begin));
        lives.lease(&one, Some("a".into()), true, begin + Duration::from_secs(1));
        assert_eq!(lives.of(&one, begin + Duration::from_secs(1)), Life::Silent(begin));
        lives.lease(&one, Some("b".into()), true, begin + Duration::from_secs(2));
        assert_eq!(lives.of(&one, begin + Duration::from_secs(2)), Life::Alive);
    }
}
