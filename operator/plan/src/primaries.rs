//! Who records each stream: a recording goes on where it is; what must move, moves to where most of the promise is kept.

use super::model::{Condition, Held};
use super::planner::Planner;

impl<S: Ord + Clone> Planner<S> {
    /// Gives every stream a primary that can have one. `order` are the entries by rank. Returns the former standbys of each entry, without the
    /// one that became its primary.
    pub(super) fn settle_primaries(&mut self, order: &[usize], held: &[Option<&Held>]) -> Vec<Vec<u32>> {
        let mut old: Vec<Vec<u32>> = vec![Vec::new(); self.entries.len()];
        let mut orphans = Vec::new();
        for at in order {
            let Some(held) = held.get(*at).copied().flatten() else { continue };
            if let Some(old) = old.get_mut(*at) {
                old.extend(held.standbys.iter().filter_map(|ordinal| self.ledger.index(*ordinal)));
            }
            match self.ledger.index(held.primary) {
                Some(primary) if !self.ledger.is(primary, Condition::Gone) => self.give(*at, primary),
                _ => orphans.push((*at, held.active)),
            }
        }
        for (at, active) in orphans {
            let active = active.and_then(|ordinal| self.ledger.index(ordinal));
            let Some(standbys) = old.get_mut(at) else { continue };
            if let Some(heir) = self.heir(active, standbys) {
                standbys.retain(|standby| *standby != heir);
                self.give(at, heir);
            }
        }
        self.relocate(order, &mut old);
        for at in order {
            let waits =
                self.entries.get(*at).is_some_and(|entry| entry.as_ref().is_some_and(|entry| entry.chain.is_empty()));
            if waits && !self.place_in_normal(*at) {
                self.place_by_priority(*at);
            }
        }
        old
    }

    /// Who goes on with a stream whose primary is gone: whoever records it now, else the first live standby; in a reserved slot if need be.
    fn heir(&self, active: Option<u32>, standbys: &[u32]) -> Option<u32> {
        let active = active.filter(|active| standbys.contains(active));
        let candidates = || active.iter().chain(standbys).copied().filter(|index| self.ledger.has_any(*index));
        let usable = |condition| candidates().find(|index| self.ledger.is(*index, condition));
        usable(Condition::Active).or_else(|| usable(Condition::Draining)).or_else(|| usable(Condition::Down))
    }

    fn give(&mut self, at: usize, primary: u32) {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else { return };
        match entry.chain.first_mut() {
            Some(former) => {
                self.ledger.remove_primary(*former, entry.class);
                *former = primary;
            }
            None => {
                entry.chain.push(primary);
                *self.recorded.entry(entry.demand.priority).or_default() += 1;
            }
        }
        self.ledger.add_primary(primary, entry.class);
    }

    /// Moves what is on recorders that are drained or have too much. The new holder records before the old one stops, so nothing is lost.
    fn relocate(&mut self, order: &[usize], old: &mut [Vec<u32>]) {
        if !(0..self.ledger.sites.len() as u32).any(|index| self.ledger.is_to_shed(index)) {
            return;
        }
        // What is worth most leaves a drained recorder first, while there is room; what is worth least leaves one that has too much.
        let primary_of = |planner: &Self, at: usize| planner.entries.get(at)?.as_ref()?.chain.first().copied();
        for at in order {
            if let Some(primary) = primary_of(self, *at)
                && self.ledger.is(primary, Condition::Draining)
                && let Some(target) = self.target(*at, old, true)
            {
                self.hand_over(*at, target, old);
            }
        }
        for at in order.iter().rev() {
            let Some(primary) = primary_of(self, *at) else { continue };
            if self.ledger.overflow(primary) > 0 {
                match self.target(*at, old, true) {
                    Some(target) => self.hand_over(*at, target, old),
                    None => self.stop(*at),
                }
            } else if self.ledger.excess(primary) > 0
                && self.ledger.is(primary, Condition::Active)
                && self.can_overlap(*at)
                && let Some(target) = self.target(*at, old, false)
            {
                self.hand_over(*at, target, old);
            }
        }
    }

    /// Whether a camera allows the two sessions of a hand-over.
    fn can_overlap(&self, at: usize) -> bool {
        let entry = self.entries.get(at).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.demand.max_sessions.is_none_or(|sessions| sessions >= 2))
    }

    /// Where a stream goes best: to a standby of its own, which has a session already; to a normal slot first.
    fn target(&self, at: usize, old: &[Vec<u32>], reserved_too: bool) -> Option<u32> {
        let class = self.entries.get(at)?.as_ref()?.class;
        let own =
            || old.get(at).into_iter().flatten().copied().filter(|index| self.ledger.is(*index, Condition::Active));
        let normal =
            own().find(|index| self.ledger.has_normal(*index)).or_else(|| self.ledger.best_primary(class, false));
        if normal.is_some() || !reserved_too {
            return normal;
        }
        own().find(|index| self.ledger.has_any(*index)).or_else(|| self.ledger.best_primary(class, true))
    }

    fn hand_over(&mut self, at: usize, target: u32, old: &mut [Vec<u32>]) {
        if let Some(standbys) = old.get_mut(at) {
            standbys.retain(|standby| *standby != target);
        }
        self.give(at, target);
    }

    /// The one case in which a recording ends: `maxChannels` was lowered below what the recorder has, and there is room nowhere.
    fn stop(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else { return };
        if let Some(primary) = entry.chain.pop() {
            self.ledger.remove_primary(primary, entry.class);
            if let Some(count) = self.recorded.get_mut(&entry.demand.priority) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// Gives a stream a normal slot, where it was last if it can. Whether there was one.
    pub(super) fn place_in_normal(&mut self, at: usize) -> bool {
        let Some(entry) = self.entries.get(at).and_then(Option::as_ref) else { return false };
        let last = entry.demand.prefers.and_then(|ordinal| self.ledger.index(ordinal));
        let last = last.filter(|index| self.ledger.is(*index, Condition::Active) && self.ledger.has_normal(*index));
        let Some(primary) = last.or_else(|| self.ledger.best_primary(entry.class, false)) else { return false };
        self.give(at, primary);
        true
    }

    /// Gives a stream a reserved slot if it outranks one that has a slot: normal slots are too few for both, no recording is stopped, so it is
    /// the protection of the lower one that goes.
    fn place_by_priority(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at).and_then(Option::as_ref) else { return };
        let at_least: u64 = self.recorded.range(entry.demand.priority..).map(|(_, count)| count).sum();
        if at_least < self.ledger.normal_slots()
            && let Some(primary) = self.ledger.best_primary(entry.class, true)
        {
            self.give(at, primary);
        }
    }
}
