//! Which recorders are alive, by their Leases. Only when a Lease was seen to change counts, by this process's own clock: what stands in it is by the recorder's. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::build::access::LEASE_SECONDS;
use crate::decide::wanted::Key;

/// A Lease that did not change for so long has expired.
const EXPIRES_AFTER: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() as u64);

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

#[derive(Clone, Debug)]
struct Seen {
    renewed: Option<String>,
    changed: Instant,
}

/// All recorders.
#[derive(Debug, Default)]
pub struct Lives {
    seen: BTreeMap<Key, Seen>,
    answered: BTreeMap<Key, Instant>,
}

impl Lives {
    /// A recorder's Lease is this one at `now`; `renewed`: what it says of its last renewal.
    pub fn lease(&mut self, recorder: &Key, renewed: Option<String>, now: Instant) {
        match self.seen.get_mut(recorder) {
            Some(seen) if seen.renewed == renewed => {}
            Some(seen) => *seen = Seen { renewed, changed: now },
            None => {
                self.seen.insert(recorder.clone(), Seen { renewed, changed: now });
            }
        }
    }

    /// A recorder answered a question.
    pub fn answered(&mut self, recorder: &Key, now: Instant) {
        self.answered.insert(recorder.clone(), now);
    }

    /// Forgets those that are not among these.
    pub fn keep_only(&mut self, is_there: impl Fn(&Key) -> bool) {
        self.seen.retain(|key, _| is_there(key));
        self.answered.retain(|key, _| is_there(key));
    }

    /// For how long nothing was heard of a recorder that was heard of once.
    #[must_use]
    pub fn quiet_for(&self, recorder: &Key, now: Instant) -> Option<Duration> {
        let heard = self.answered.get(recorder).copied();
        let renewed = self.seen.get(recorder).filter(|seen| seen.renewed.is_some()).map(|seen| seen.changed);
        heard.into_iter().chain(renewed).max().map(|last| now.duration_since(last))
    }

    /// How it stands with a recorder.
    #[must_use]
    pub fn of(&self, recorder: &Key, now: Instant) -> Life {
        let heard = self.answered.get(recorder).copied();
        let renewed = self.seen.get(recorder).filter(|seen| seen.renewed.is_some()).map(|seen| seen.changed);
        let Some(last) = heard.into_iter().chain(renewed).max() else {
            return Life::New(self.seen.get(recorder).map_or(now, |seen| seen.changed));
        };
        if now.duration_since(last) < EXPIRES_AFTER { Life::Alive } else { Life::Silent(last + EXPIRES_AFTER) }
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
        lives.lease(&one, None, at(0));
        assert_eq!(lives.of(&one, at(100)), Life::New(at(0)), "a Lease that nobody holds");
        lives.lease(&one, Some("14:00:00".into()), at(100));
        lives.lease(&one, Some("14:00:00".into()), at(130));
        assert_eq!(lives.of(&one, at(139)), Life::Alive);
        assert_eq!(lives.of(&one, at(140)), Life::Silent(at(140)));
        // Its clock was set back: any change counts.
        lives.lease(&one, Some("13:00:00".into()), at(150));
        assert_eq!(lives.of(&one, at(189)), Life::Alive);
        // Only the API server is out of its reach.
        lives.answered(&one, at(189));
        assert_eq!(lives.of(&one, at(228)), Life::Alive);
        lives.keep_only(|_| false);
        assert_eq!(lives.of(&one, at(228)), Life::New(at(228)));
    }
}
