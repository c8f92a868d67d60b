//! What every recorder has to do and could have to do: [`Ledger`], the checker's books. It says who may take one channel more, and who best.
//!
//! For each recorder the books hold: primaries + standbys with a slot of their own + the worst case of shared takeovers ≤ M. Nothing here
//! knows streams; a channel is a list of recorders (indices), the primary first.

use std::collections::BTreeMap;

use super::model::{Class, Condition, Promise, Recorder, Slots};
use super::peers::Peers;
use super::takeovers::{Checker, Takeovers};

/// A recorder.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) ordinal: u32,
    pub(super) domain: u32,
    pub(super) condition: Condition,
    primaries: u32,
    /// Primaries by class, so that each class is spread evenly: a class's standbys go where its primaries are not.
    by_class: [u32; 4],
}

/// What a recorder stands by for. Apart from [`Site`], so that all of those are looked through quickly.
#[derive(Clone, Debug)]
struct Reserve {
    dedicated: u32,
    takeovers: Takeovers,
}

/// The books of a pool.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) slots: Slots,
    pub(super) sites: Vec<Site>,
    /// Beside `sites`.
    reserves: Vec<Reserve>,
    peers: Peers,
}

impl Ledger {
    /// Empty books. `recorders` by ordinal; `sharing` as [`Peers::new`] wants it.
    pub(super) fn new(
        promise: Promise,
        slots: Slots,
        recorders: &[Recorder],
        sharing: &BTreeMap<(u32, u32), u32>,
    ) -> Self {
        let domains: Vec<u32> = recorders.iter().map(|recorder| recorder.domain).collect();
        let peers = Peers::new(&domains, sharing);
        let mut checker = Checker::new(promise.tolerated_failures);
        let reserves = (0_u32..)
            .zip(recorders)
            .map(|(index, _)| Reserve { dedicated: 0, takeovers: checker.takeovers(peers.domains(&domains, index)) });
        let reserves = reserves.collect();
        let site = |recorder: &Recorder| {
            let Recorder { ordinal, domain, condition } = *recorder;
            Site { ordinal, domain, condition, primaries: 0, by_class: [0; 4] }
        };
        Ledger { slots, sites: recorders.iter().map(site).collect(), reserves, peers }
    }

    pub(super) fn site(&self, index: u32) -> Option<&Site> {
        self.sites.get(index as usize)
    }

    /// The index of a recorder.
    pub(super) fn index(&self, ordinal: u32) -> Option<u32> {
        self.sites.binary_search_by_key(&ordinal, |site| site.ordinal).ok().map(|index| index as u32)
    }

    pub(super) fn ordinal(&self, index: u32) -> u32 {
        self.site(index).map_or(0, |site| site.ordinal)
    }

    pub(super) fn is(&self, index: u32, condition: Condition) -> bool {
        self.site(index).is_some_and(|site| site.condition == condition)
    }

    pub(super) fn add_primary(&mut self, index: u32, class: Class) {
        if let Some(site) = self.sites.get_mut(index as usize) {
            site.primaries += 1;
            site.by_class[class as usize] += 1;
        }
    }

    pub(super) fn remove_primary(&mut self, index: u32, class: Class) {
        if let Some(site) = self.sites.get_mut(index as usize) {
            site.primaries = site.primaries.saturating_sub(1);
            let same = &mut site.by_class[class as usize];
            *same = same.saturating_sub(1);
        }
    }

    /// Primaries beyond the normal slots: they sit in reserved ones.
    pub(super) fn excess(&self, index: u32) -> u32 {
        self.site(index).map_or(0, |site| site.primaries.saturating_sub(self.slots.normal))
    }

    /// Whether some of what it records should be elsewhere.
    pub(super) fn is_to_shed(&self, index: u32) -> bool {
        let drained = self.site(index).is_some_and(|site| site.condition == Condition::Draining && site.primaries > 0);
        drained || self.excess(index) > 0
    }

    /// Primaries beyond all slots.
    pub(super) fn overflow(&self, index: u32) -> u32 {
        self.site(index).map_or(0, |site| site.primaries.saturating_sub(self.slots.total()))
    }

    pub(super) fn has_normal(&self, index: u32) -> bool {
        self.site(index).is_some_and(|site| site.primaries < self.slots.normal)
    }

    /// Whether one more can record here. Standbys are no obstacle: a recording that exists is worth more than one that might be needed.
    pub(super) fn has_any(&self, index: u32) -> bool {
        self.site(index).is_some_and(|site| site.primaries < self.slots.total())
    }

    /// Normal slots of the recorders that may keep what they have.
    pub(super) fn normal_slots(&self) -> u64 {
        let staying = self.sites.iter().filter(|site| matches!(site.condition, Condition::Active | Condition::Down));
        staying.count() as u64 * u64::from(self.slots.normal)
    }

    /// The best recorder for a primary: the emptiest, then the one with the fewest of the class, then by ordinal.
    pub(super) fn best_primary(&self, class: Class, reserved_too: bool) -> Option<u32> {
        let limit = if reserved_too { self.slots.total() } else { self.slots.normal };
        let mut best = None;
        for (index, site) in (0_u32..).zip(&self.sites) {
            if site.condition == Condition::Active && site.primaries < limit {
                let key = (site.primaries, site.by_class[class as usize], index);
                if best.is_none_or(|best| key < best) {
                    best = Some(key);
                }
            }
        }
        best.map(|(_, _, index)| index)
    }

    /// Whether a recorder may hold a stream beside these.
    fn may_share(&self, chain: &[u32], index: u32) -> bool {
        let Some(domain) = self.site(index).map(|site| site.domain) else { return false };
        chain.iter().all(|holder| {
            self.site(*holder).is_some_and(|site| site.domain != domain) && self.peers.are(*holder, index)
        })
    }

    fn reserve(&self, index: u32) -> Option<&Reserve> {
        self.reserves.get(index as usize)
    }

    /// Reserved slots that no primary and no standby with a slot of its own has; shared takeovers must fit in.
    fn shared_room(&self, index: u32) -> u32 {
        let taken = self.excess(index) + self.reserve(index).map_or(0, |reserve| reserve.dedicated);
        self.slots.reserved.saturating_sub(taken)
    }

    /// The set of failure domains whose failure makes the next of the chain stand in, as `index` counts them.
    fn set(&self, chain: &[u32], index: u32) -> u32 {
        let Some(reserve) = self.reserve(index) else { return 0 };
        reserve.takeovers.set(chain.iter().filter_map(|holder| self.site(*holder).map(|site| site.domain)))
    }

    /// Whether a recorder has a reserved slot for this standby, which comes behind `chain`.
    pub(super) fn fits(&mut self, chain: &[u32], class: Class, index: u32) -> bool {
        self.may_share(chain, index) && self.weigh(chain, class, index).is_some()
    }

    /// How well a standby of this class fits on a recorder that may share the stream: the lowest is best, and `None` that it has no slot for it.
    ///
    /// Each rank is spread evenly within (domains of the primary and the earlier ranks): that is what keeps the worst case near the average.
    fn weigh(&mut self, chain: &[u32], class: Class, index: u32) -> Option<(u32, u32, u32)> {
        let (set, room) = (self.set(chain, index), self.shared_room(index));
        let takeovers = &mut self.reserves.get_mut(index as usize)?.takeovers;
        let left = room.checked_sub(takeovers.worst())?;
        match class {
            Class::None => None,
            Class::Ready => {
                let worst_of = takeovers.worst_of(set);
                if takeovers.worst_with(set, worst_of) > room {
                    return None;
                }
                Some((takeovers.group(set), worst_of, u32::MAX - left))
            }
            Class::Playing | Class::Mirrored => (left > 0).then(|| (u32::MAX - left, takeovers.group(set), 0)),
        }
    }

    pub(super) fn add_standby(&mut self, chain: &[u32], class: Class, index: u32) {
        let set = self.set(chain, index);
        let Some(reserve) = self.reserves.get_mut(index as usize) else { return };
        if class.is_dedicated() {
            reserve.dedicated += 1;
            reserve.takeovers.count(set);
        } else {
            reserve.takeovers.add(set);
        }
    }

    pub(super) fn remove_standby(&mut self, chain: &[u32], class: Class, index: u32) {
        let set = self.set(chain, index);
        let Some(reserve) = self.reserves.get_mut(index as usize) else { return };
        if class.is_dedicated() {
            reserve.dedicated = reserve.dedicated.saturating_sub(1);
            reserve.takeovers.discount(set);
        } else {
            reserve.takeovers.remove(set);
        }
    }

    /// The best recorder for the next standby of a chain, if there is one.
    pub(super) fn best_standby(&mut self, chain: &[u32], class: Class) -> Option<u32> {
        let primary = *chain.first()?;
        let count = self.sites.len() as u32;
        let candidates = self.peers.of(primary).len();
        let mut best = None;
        for at in 0..candidates {
            let Some(index) = self.peers.of(primary).get(at).copied() else { break };
            if !self.is(index, Condition::Active) || !self.may_share(chain, index) {
                continue;
            }
            let Some(weight) = self.weigh(chain, class, index) else { continue };
            // Equals take turns: from the primary's own place on.
            let key = (weight, (index + count - primary) % count, index);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
        best.map(|(.., index)| index)
    }

    /// Primaries, standbys with slots of their own, and the worst case of shared takeovers of a recorder.
    pub(super) fn load(&mut self, index: u32) -> (u32, u32, u32) {
        let primaries = self.site(index).map_or(0, |site| site.primaries);
        let reserve = self.reserves.get_mut(index as usize);
        reserve.map_or((primaries, 0, 0), |reserve| (primaries, reserve.dedicated, reserve.takeovers.worst()))
    }
}
