//! How many streams one recorder may have to take over at once: [`Takeovers`], the part of the checker that looks at one recorder.
//!
//! A standby stands in when the primary's failure domain and those of all earlier ranks failed. So each shared standby is a *set of domains*, and
//! when the domains F fail, a recorder takes over as many streams as it has sets within F. The worst F of f domains is what its reserve must hold.
//! Only domains of peers matter, at most 32, so all F can be listed, and a change touches those that contain the set. Where they are too
//! many (f ≥ 4 with 32 domains), an upper bound is kept instead: each set is shared out among its domains, and the f heaviest domains are added
//! up. That can only ask for too much.

use std::collections::HashMap;
use std::sync::Arc;

/// Lists of sets up to this length are kept for each recorder: C(32, 3) = 4,960 fits, C(32, 4) does not.
const MAX_SETS: usize = 5_000;
/// A set's weight of 1 in parts that can be shared out among 1 to 12 domains without a rest.
const WEIGHT: u64 = 27_720;

/// All sets of f out of so many domains.
#[derive(Debug)]
struct Sets {
    masks: Vec<u32>,
    /// Those of them that contain a domain, and a pair of domains (32 times the lower one and the higher one).
    with_one: Vec<Vec<u16>>,
    with_two: Vec<Vec<u16>>,
}

impl Sets {
    /// Positions of those that contain all of a set.
    fn containing(&self, set: u32) -> impl Iterator<Item = usize> {
        let low = set.trailing_zeros() as usize;
        let rest = set & set.wrapping_sub(1);
        let near = if rest == 0 {
            self.with_one.get(low)
        } else {
            self.with_two.get(low * 32 + rest.trailing_zeros() as usize)
        };
        let masks = &self.masks;
        // Two domains say which ones, more have to be looked for.
        let is_pair = rest & rest.wrapping_sub(1) == 0;
        let near = near.map_or(&[][..], Vec::as_slice).iter().map(|at| usize::from(*at));
        near.filter(move |at| is_pair || masks.get(*at).is_some_and(|mask| mask & set == set))
    }
}

/// Makes [`Takeovers`] for recorders; those with as many domains share a list of sets.
#[derive(Debug)]
pub(super) struct Checker {
    tolerated_failures: u32,
    sets: HashMap<u32, Option<Arc<Sets>>>,
}

impl Checker {
    pub(super) fn new(tolerated_failures: u32) -> Self {
        Checker { tolerated_failures, sets: HashMap::new() }
    }

    /// For a recorder whose peers are of these domains (sorted, each once).
    pub(super) fn takeovers(&mut self, domains: Vec<u32>) -> Takeovers {
        let count = domains.len() as u32;
        let failing = self.tolerated_failures.min(count);
        let sets = self.sets.entry(count).or_insert_with(|| all_sets(count, failing).map(Arc::new)).clone();
        let loads = vec![0; sets.as_ref().map_or(0, |sets| sets.masks.len())];
        let weights = if sets.is_some() { Vec::new() } else { vec![0; count as usize] };
        let singles = vec![0; count as usize];
        Takeovers { failing, domains, sets, loads, weights, most: Some(0), singles, groups: HashMap::new() }
    }
}

fn all_sets(count: u32, failing: u32) -> Option<Sets> {
    let mut number = 1_usize;
    for step in 0..failing as usize {
        number = number * (count as usize - step) / (step + 1);
        // Binomials grow up to the middle only, and past it they are as large as on the way there.
        if number > MAX_SETS {
            return None;
        }
    }
    let mut masks = Vec::with_capacity(number);
    let mut chosen: Vec<u32> = (0..failing).collect();
    loop {
        masks.push(chosen.iter().fold(0, |mask, bit| mask | 1 << bit));
        // The next combination in lexicographic order.
        let Some(at) =
            (0..chosen.len()).rev().find(|at| chosen.get(*at).is_some_and(|bit| bit + failing < count + *at as u32))
        else {
            break;
        };
        let first = chosen.get(at).copied().unwrap_or(0) + 1;
        for (bit, slot) in (first..).zip(chosen.iter_mut().skip(at)) {
            *slot = bit;
        }
    }
    let with = |set: u32| (0_u16..).zip(&masks).filter(|(_, mask)| **mask & set == set).map(|(at, _)| at).collect();
    let with_one = (0..count).map(|bit| with(1 << bit)).collect();
    let pair = |at: u32| (at / 32, at % 32);
    let with_two = (0..count * 32).map(|at| match pair(at) {
        (low, high) if low < high && high < count => with(1 << low | 1 << high),
        _ => Vec::new(),
    });
    let with_two = with_two.collect();
    Some(Sets { masks, with_one, with_two })
}

/// The shared standbys of one recorder.
#[derive(Clone, Debug)]
pub(super) struct Takeovers {
    failing: u32,
    domains: Vec<u32>,
    sets: Option<Arc<Sets>>,
    /// Beside `sets`: what each makes it take over.
    loads: Vec<u32>,
    /// Where there are no `sets`: what each domain adds at most, in 1/[`WEIGHT`].
    weights: Vec<u64>,
    /// The worst, unless it has to be worked out again.
    most: Option<u32>,
    /// How many standbys have exactly this set: of one domain, and of several.
    singles: Vec<u32>,
    groups: HashMap<u32, u32>,
}

impl Takeovers {
    /// The set of these domains, all of which are peers'.
    pub(super) fn set(&self, domains: impl Iterator<Item = u32>) -> u32 {
        domains.filter_map(|domain| self.domains.binary_search(&domain).ok()).fold(0, |set, bit| set | 1 << bit)
    }

    /// How many streams it takes over in the worst case.
    pub(super) fn worst(&mut self) -> u32 {
        if let Some(most) = self.most {
            return most;
        }
        let most = match &self.sets {
            Some(_) => self.loads.iter().copied().max().unwrap_or(0),
            None => self.bound(0),
        };
        self.most = Some(most);
        most
    }

    /// How many it would take over in the worst case if it had this set too; `worst_of` it as it is.
    pub(super) fn worst_with(&mut self, set: u32, worst_of: u32) -> u32 {
        let now = self.worst();
        if set.count_ones() > self.failing {
            return now;
        }
        match &self.sets {
            Some(_) => now.max(worst_of + 1),
            None => now.max(self.bound(set)),
        }
    }

    /// How many it takes over in the worst case in which all of `set` fail.
    pub(super) fn worst_of(&self, set: u32) -> u32 {
        let Some(sets) = &self.sets else { return 0 };
        if set.count_ones() > self.failing {
            return 0;
        }
        sets.containing(set).filter_map(|at| self.loads.get(at).copied()).max().unwrap_or(0)
    }

    /// How many standbys have exactly this set.
    pub(super) fn group(&self, set: u32) -> u32 {
        if set.is_power_of_two() {
            return self.singles.get(set.trailing_zeros() as usize).copied().unwrap_or(0);
        }
        self.groups.get(&set).copied().unwrap_or(0)
    }

    /// Adds a standby with a slot of its own: it counts for evenness only.
    pub(super) fn count(&mut self, set: u32) {
        *self.group_mut(set) += 1;
    }

    /// Takes a standby with a slot of its own away.
    pub(super) fn discount(&mut self, set: u32) {
        let group = self.group_mut(set);
        *group = group.saturating_sub(1);
    }

    fn group_mut(&mut self, set: u32) -> &mut u32 {
        if set.is_power_of_two()
            && let Some(single) = self.singles.get_mut(set.trailing_zeros() as usize)
        {
            return single;
        }
        self.groups.entry(set).or_default()
    }

    /// Adds a shared standby.
    pub(super) fn add(&mut self, set: u32) {
        self.count(set);
        if set.count_ones() > self.failing {
            return;
        }
        match &self.sets {
            Some(sets) => {
                for at in sets.containing(set) {
                    if let Some(load) = self.loads.get_mut(at) {
                        *load += 1;
                        self.most = self.most.map(|most| most.max(*load));
                    }
                }
            }
            None => {
                self.weigh(set, |weight, more| weight + more);
                self.most = None;
            }
        }
    }

    /// Takes a shared standby away.
    pub(super) fn remove(&mut self, set: u32) {
        self.discount(set);
        if set.count_ones() > self.failing {
            return;
        }
        self.most = None;
        match &self.sets {
            Some(sets) => {
                for at in sets.containing(set) {
                    if let Some(load) = self.loads.get_mut(at) {
                        *load = load.saturating_sub(1);
                    }
                }
            }
            None => self.weigh(set, u64::saturating_sub),
        }
    }

    fn weigh(&mut self, set: u32, change: impl Fn(u64, u64) -> u64) {
        let share = WEIGHT.div_ceil(u64::from(set.count_ones().max(1)));
        for (bit, weight) in self.weights.iter_mut().enumerate() {
            if set >> bit & 1 == 1 {
                *weight = change(*weight, share);
            }
        }
    }

    /// The upper bound, with one more set unless that is empty.
    fn bound(&self, more: u32) -> u32 {
        let share = WEIGHT.div_ceil(u64::from(more.count_ones().max(1)));
        let weights = self.weights.iter().enumerate();
        let mut weights: Vec<u64> =
            weights.map(|(bit, weight)| if more >> bit & 1 == 1 { weight + share } else { *weight }).collect();
        weights.sort_unstable_by(|one, other| other.cmp(one));
        // Rounded down: what is taken over is a whole number, and the sum is at least that.
        let sum: u64 = weights.iter().take(self.failing as usize).sum();
        u32::try_from(sum / WEIGHT).unwrap_or(u32::MAX)
    }
}
