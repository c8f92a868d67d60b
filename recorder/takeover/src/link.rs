//! Whether a peer is alive, as far as one can tell from here.

use crate::rules::Rules;

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Heard, and it hears us.
    Alive,
    /// Not heard yet, and it is too early to tell.
    Joining,
    /// Closed, silent, or deaf to us.
    Failed,
}

/// The heartbeats of one peer. Both ways must work: one that we hear and that does not hear us would let us wait for it while it waits for us.
#[derive(Clone, Debug)]
pub struct Link {
    /// When this side began to wait for it.
    since: u64,
    heard: Option<u64>,
    /// When it last said that it hears us.
    heard_by: Option<u64>,
    closed: Option<u64>,
}

impl Link {
    /// A peer that is being dialled from `now` on (monotonic microseconds, as all times here).
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self { since: now, heard: None, heard_by: None, closed: None }
    }

    /// A heartbeat came. `hears_us`: one of ours reached it within [`Rules::silence`] before it sent this.
    pub fn hear(&mut self, now: u64, hears_us: bool) {
        self.heard = Some(now);
        self.closed = None;
        if hears_us {
            self.heard_by = Some(now);
        }
    }

    /// The connection was closed, or reset.
    pub fn close(&mut self, now: u64) {
        self.closed.get_or_insert(now);
    }

    /// This process stood still for `slept`: what came meanwhile may still be on its way to whoever counts it.
    pub fn slept(&mut self, slept: u64) {
        for time in [&mut self.heard, &mut self.heard_by, &mut self.closed].into_iter().flatten() {
            *time = time.saturating_add(slept);
        }
        self.since = self.since.saturating_add(slept);
    }

    /// What is known at `now`.
    #[must_use]
    pub fn liveness(&self, now: u64, rules: &Rules) -> Liveness {
        let older = |time: u64, limit: u64| now.saturating_sub(time) >= limit;
        let closed = self.closed.is_some_and(|closed| older(closed, rules.redial));
        let silent = self.heard.is_some_and(|heard| older(heard, rules.silence));
        // It hears us for the first time a little later than we hear it.
        let deaf = self.heard.is_some() && self.heard_by.is_none_or(|by| older(by, rules.silence));
        match self.heard {
            None if older(self.since, rules.joining) => Liveness::Failed,
            // Also where it refuses: it may be starting, as we are.
            None => Liveness::Joining,
            Some(_) if closed || silent => Liveness::Failed,
            Some(_) if deaf && self.heard_by.is_none() && !older(self.since, rules.joining) => Liveness::Joining,
            Some(_) if deaf => Liveness::Failed,
            Some(_) => Liveness::Alive,
        }
    }

    /// Whether it was heard within [`Rules::silence`]: what our own heartbeats tell it.
    #[must_use]
    pub fn hears(&self, now: u64, rules: &Rules) -> bool {
        self.closed.is_none() && self.heard.is_some_and(|heard| now.saturating_sub(heard) < rules.silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn state(link: &Link, now: u64) -> Liveness {
        link.liveness(now, &Rules::default())
    }

    #[test]
    fn a_peer_is_alive_while_both_ways_work() {
        let mut link = Link::new(0);
        assert_eq!(state(&link, 2_999 * MS), Liveness::Joining);
        assert_eq!(state(&link, 3_000 * MS), Liveness::Failed, "nobody is waited for for ever");
        link.hear(100 * MS, false);
        assert_eq!(state(&link, 200 * MS), Liveness::Joining, "it had no time to hear us");
        link.hear(350 * MS, true);
        assert_eq!(state(&link, 1_599 * MS), Liveness::Alive);
        assert_eq!(state(&link, 1_600 * MS), Liveness::Failed);
        // It is heard on and on, and says that it does not hear us.
        for beat in 1..=10 {
            link.hear((1_500 + beat * 250) * MS, false);
        }
        assert_eq!(state(&link, 4_100 * MS), Liveness::Failed);
        assert!(link.hears(4_100 * MS, &Rules::default()));
        link.hear(4_200 * MS, true);
        assert_eq!(state(&link, 4_300 * MS), Liveness::Alive);
    }

    #[test]
    fn a_closed_link_has_a_quarter_of_a_second() {
        let mut link = Link::new(0);
        link.hear(100 * MS, true);
        link.close(200 * MS);
        link.close(400 * MS);
        assert_eq!(state(&link, 449 * MS), Liveness::Alive);
        assert_eq!(state(&link, 450 * MS), Liveness::Failed);
        assert!(!link.hears(300 * MS, &Rules::default()));
        link.hear(500 * MS, true);
        assert_eq!(state(&link, 600 * MS), Liveness::Alive);
        let mut refused = Link::new(0);
        refused.close(10 * MS);
        assert_eq!(state(&refused, 300 * MS), Liveness::Joining, "it may be starting, as we are");
    }

    #[test]
    fn standing_still_is_nobody_elses_silence() {
        let mut link = Link::new(0);
        link.hear(100 * MS, true);
        link.slept(20_000 * MS);
        assert_eq!(state(&link, 20_200 * MS), Liveness::Alive);
        assert_eq!(state(&link, 21_400 * MS), Liveness::Failed);
    }
}
