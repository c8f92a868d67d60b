//! How many slots of each recorder are reserved: [`divide`].
//!
//! Two formulas give the least number that could do: one goes by the sum of slots, the other by how many peers a recorder's standbys come from. From
//! there on the number grows until a pool that is full to its last normal slot gets all its standbys past the checker, and by one more where classes are
//! mixed. It follows from the recorders that are wanted, not from those that are there at the moment.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::model::{Class, Condition, NoReserve, Promise, Recorder, Slots};
use super::peers::Peers;

/// How many streams of each class a pool has, or is to be divided for; only the proportions count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// By class, in the order of [`Class::ALL`].
    pub streams: [u32; 4],
}

impl Mix {
    /// A pool with one class.
    #[must_use]
    pub fn only(class: Class) -> Self {
        let mut mix = Mix::default();
        mix.add(class);
        mix
    }

    /// One stream more.
    pub fn add(&mut self, class: Class) {
        self.streams[class as usize] += 1;
    }

    fn of(self, class: Class) -> u64 {
        u64::from(self.streams[class as usize])
    }

    fn total(self) -> u64 {
        self.streams.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether any stream wants a standby.
    fn wants_standbys(self) -> bool {
        self.total() > self.of(Class::None)
    }

    /// Whether there is more than one class.
    fn is_mixed(self) -> bool {
        self.streams.iter().filter(|count| **count > 0).count() > 1
    }

    /// Classes without end, each as often as its share says and as evenly as can be.
    fn classes(self) -> impl Iterator<Item = Class> {
        let total = i128::from(self.total());
        let mut credit = [0_i128; 4];
        std::iter::repeat_with(move || {
            let mut next = Class::None;
            for class in Class::ALL {
                credit[class as usize] += i128::from(self.of(class));
                if credit[class as usize] > credit[next as usize] {
                    next = class;
                }
            }
            credit[next as usize] -= total;
            next
        })
    }
}

/// How a pool is divided, and why it has no reserve if it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Slots of each recorder.
    pub slots: Slots,
    /// Standbys a stream gets: K, at most one in each other failure domain.
    pub standbys: u32,
    /// Why there is no reserve, if a stream wanted one.
    pub no_reserve: Option<NoReserve>,
}

/// Divides the slots of each recorder into normal and reserved ones.
#[must_use]
pub fn divide(promise: Promise, recorders: &[Recorder], mix: Mix) -> Division {
    let standbys = promise.standbys.max(promise.tolerated_failures);
    let slots = Slots { normal: promise.max_channels, reserved: 0 };
    let undivided = |no_reserve| Division { slots, standbys, no_reserve };
    if !mix.wants_standbys() {
        return undivided(None);
    }
    let domains = sizes(recorders).len() as u32;
    if promise.tolerated_failures == 0 {
        return undivided(Some(NoReserve::NotAsked));
    }
    if promise.tolerated_failures >= domains {
        let tolerated_failures = promise.tolerated_failures;
        return undivided(Some(NoReserve::Domains { domains, tolerated_failures }));
    }
    let promise = Promise { standbys: standbys.min(domains - 1), ..promise };
    let least = by_slots(promise, recorders, mix).max(by_peers(promise, recorders, mix));
    if let Some(slots) = first_enough(least, promise, recorders, mix) {
        // Names come in any order, so real recorders have each class less evenly than those of the full pool that was looked at.
        let spare = u32::from(mix.is_mixed() && slots.normal > 1);
        let slots = Slots { normal: slots.normal - spare, reserved: slots.reserved + spare };
        return Division { slots, standbys: promise.standbys, no_reserve: None };
    }
    undivided(Some(NoReserve::MaxChannels { max_channels: promise.max_channels }))
}

/// The first division with at least so many reserved slots that is enough.
fn first_enough(least: u32, promise: Promise, recorders: &[Recorder], mix: Mix) -> Option<Slots> {
    let slots = |reserved| Slots { normal: promise.max_channels - reserved, reserved };
    (least..promise.max_channels).map(slots).find(|slots| is_enough(promise, *slots, recorders, mix))
}

/// The least reserve by the sum of slots alone. The f largest domains have R of N recorders: what they carried, R·n streams, must fit into
/// (N − R)·r; so r ≥ R·M / N. A standby with a slot of its own takes K slots a stream: r ≥ K·M / (K + 1). Classes are weighed by their share.
fn by_slots(promise: Promise, recorders: &[Recorder], mix: Mix) -> u32 {
    let mut sizes: Vec<u64> = sizes(recorders).into_values().collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    let failing: u64 = sizes.iter().take(promise.tolerated_failures as usize).sum();
    let all = recorders.len() as u64;
    let left = all.saturating_sub(failing).max(1);
    // A stream's cost in reserved slots, in parts of `left × total`.
    let shared = u128::from(mix.of(Class::Ready)) * u128::from(failing);
    let own =
        u128::from(mix.of(Class::Playing) + mix.of(Class::Mirrored)) * u128::from(promise.standbys) * u128::from(left);
    let (cost, whole) = (shared + own, u128::from(left) * u128::from(mix.total()));
    let reserve = (u128::from(promise.max_channels) * cost).div_ceil(whole + cost);
    u32::try_from(reserve).unwrap_or(u32::MAX)
}

/// The least reserve by what peers allow. A recorder's shared standbys come from the domains of its peers, d of them, and the worst f of these
/// are no better than the average of all sets of f. A standby of rank j stands in for j domains, which are all in F for one of so many sets:
/// d·(d − 1)·… / f·(f − 1)·…, j factors each. Every recorder has as many of each rank as it has primaries, on average.
fn by_peers(promise: Promise, recorders: &[Recorder], mix: Mix) -> u32 {
    let domains: Vec<u32> = recorders.iter().map(|recorder| recorder.domain).collect();
    let peers = Peers::new(&domains, &BTreeMap::new());
    let most = (0..recorders.len() as u32).map(|index| peers.domains(&domains, index).len()).max();
    let domains = most.unwrap_or(0) as u32;
    let failing = promise.tolerated_failures.min(domains);
    let (mut each, mut stands_in) = (1.0, 0.0);
    for rank in 0..failing {
        each *= f64::from(failing - rank) / f64::from(domains - rank);
        stands_in += each;
    }
    let total = mix.total() as f64;
    let (shared, own) = (mix.of(Class::Ready) as f64, (mix.of(Class::Playing) + mix.of(Class::Mirrored)) as f64);
    let cost = (shared * stands_in + own * f64::from(promise.standbys)) / total;
    // Classes come in whole streams, so that a full pool may have one less of a class than its share.
    let rounding = (stands_in + f64::from(promise.standbys)) / recorders.len().max(1) as f64;
    let rounding = if mix.is_mixed() { rounding } else { 1e-6 };
    (f64::from(promise.max_channels) * cost / (1.0 + cost) - rounding).ceil().max(0.0) as u32
}

fn sizes(recorders: &[Recorder]) -> BTreeMap<u32, u64> {
    let mut sizes = BTreeMap::new();
    for recorder in recorders {
        *sizes.entry(recorder.domain).or_default() += 1;
    }
    sizes
}

/// Whether a full pool gets all its standbys.
fn is_enough(promise: Promise, slots: Slots, recorders: &[Recorder], mix: Mix) -> bool {
    let mut recorders: Vec<Recorder> =
        recorders.iter().map(|recorder| Recorder { condition: Condition::Active, ..*recorder }).collect();
    recorders.sort_unstable_by_key(|recorder| recorder.ordinal);
    let mut ledger = Ledger::new(promise, slots, &recorders, &BTreeMap::new());
    let streams = recorders.len() as u64 * u64::from(slots.normal);
    let mut chains = Vec::with_capacity(usize::try_from(streams).unwrap_or(0));
    for (_, class) in (0..streams).zip(mix.classes()) {
        let Some(primary) = ledger.best_primary(class, false) else { return false };
        ledger.add_primary(primary, class);
        chains.push((vec![primary], class));
    }
    // Rank by rank, and those with a slot of their own first, as the planner does it.
    for rank in 0..promise.standbys as usize {
        for dedicated in [true, false] {
            let same = |class: Class| class != Class::None && class.is_dedicated() == dedicated;
            for (chain, class) in chains.iter_mut().filter(|(_, class)| same(*class)) {
                let Some(standby) = ledger.best_standby(chain, *class) else { return false };
                ledger.add_standby(chain, *class, standby);
                chain.push(standby);
                debug_assert_eq!(chain.len(), rank + 2);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beginning at what peers allow only saves looking at what cannot be enough.
    #[test]
    fn nothing_below_what_peers_allow_is_enough() {
        let mixes = [[0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [5, 3, 0, 1], [0, 7, 2, 0]];
        let (mut looked_at, mut saved) = (0, 0);
        for (count, in_domain) in [(4, 1), (5, 1), (9, 2), (12, 4), (12, 3), (40, 1), (48, 6), (64, 2), (150, 1)] {
            let recorder = |ordinal| Recorder { ordinal, domain: ordinal / in_domain, condition: Condition::Active };
            let recorders: Vec<Recorder> = (0..count).map(recorder).collect();
            let domains = count.div_ceil(in_domain);
            for tolerated_failures in 1..domains.min(4) {
                for (standbys, max_channels) in [(0, 7), (1, 20), (0, 33)] {
                    let standbys = (tolerated_failures + standbys).min(domains - 1);
                    let promise = Promise { max_channels, tolerated_failures, standbys };
                    for streams in mixes {
                        let mix = Mix { streams };
                        let (slots, peers) = (by_slots(promise, &recorders, mix), by_peers(promise, &recorders, mix));
                        let first = first_enough(slots, promise, &recorders, mix).map(|slots| slots.reserved);
                        assert!(
                            first.is_none_or(|first| peers <= first),
                            "{promise:?} {count}/{in_domain} {streams:?}: {peers} {first:?}"
                        );
                        looked_at += 1;
                        saved += peers.saturating_sub(slots);
                    }
                }
            }
        }
        assert!(looked_at > 300 && saved > 10, "{looked_at} {saved}");
    }
}
