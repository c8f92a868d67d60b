//! Who stands by: kept where the checker still accepts it, then filled up, one priority after the other.
//!
//! A standby that no reserved slot stands behind is not planned at all: it would take the slot that another stream was promised.

use super::model::{Class, Condition};
use super::planner::Planner;

impl<S: Ord + Clone> Planner<S> {
    /// Gives the streams their standbys. `old` are those each entry had.
    pub(super) fn settle_standbys(&mut self, order: &[usize], old: &[Vec<u32>]) {
        let most = self.entries.iter().flatten().map(|entry| entry.standbys).max().unwrap_or(0);
        let mut rest = order;
        while let Some(priority) = rest.first().and_then(|at| self.priority(*at)) {
            let same = rest.iter().take_while(|at| self.priority(**at) == Some(priority)).count();
            let (level, lower) = rest.split_at(same);
            for at in level {
                self.keep(*at, old.get(*at).map_or(&[], Vec::as_slice));
            }
            // Rank by rank over all: the later ranks even out what the earlier ones leave, and can only when those are all there. In each rank
            // those with a slot of their own come first: they need one in every case, and what is shared can be spread around them.
            for rank in 1..=most {
                for dedicated in [true, false] {
                    for at in level {
                        if self.is_dedicated(*at) == dedicated {
                            self.extend(*at, rank);
                        }
                    }
                }
            }
            rest = lower;
        }
    }

    fn priority(&self, at: usize) -> Option<i32> {
        Some(self.entries.get(at)?.as_ref()?.demand.priority)
    }

    fn is_dedicated(&self, at: usize) -> bool {
        self.entries.get(at).and_then(Option::as_ref).is_some_and(|entry| entry.class.is_dedicated())
    }

    fn keep(&mut self, at: usize, old: &[u32]) {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else { return };
        if entry.class == Class::None || entry.chain.is_empty() {
            return;
        }
        for standby in old {
            let usable = self.ledger.is(*standby, Condition::Active) || self.ledger.is(*standby, Condition::Down);
            if entry.chain.len() <= entry.standbys as usize
                && usable
                && self.ledger.fits(&entry.chain, entry.class, *standby)
            {
                self.ledger.add_standby(&entry.chain, entry.class, *standby);
                entry.chain.push(*standby);
            }
        }
    }

    /// Adds the standbys that are missing up to a rank. Whether the stream now has all.
    pub(super) fn extend(&mut self, at: usize, rank: u32) -> bool {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else { return false };
        if entry.class == Class::None || entry.chain.is_empty() {
            return !entry.chain.is_empty();
        }
        while entry.chain.len() <= entry.standbys.min(rank) as usize {
            let Some(standby) = self.ledger.best_standby(&entry.chain, entry.class) else { return false };
            self.ledger.add_standby(&entry.chain, entry.class, standby);
            entry.chain.push(standby);
        }
        true
    }
}
