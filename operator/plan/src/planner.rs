//! The plan itself: [`Planner`]. A pure function of what is wanted, what there is and what was decided before; and the books to change it by one
//! stream without looking at the others.
//!
//! In this order: whoever records goes on (`primaries.rs`), then standbys by priority (`standbys.rs`). A second look at a finished
//! plan changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Ledger;
use super::model::{self, Assigned, Class, Condition, Demand, Held, Lack, Promise, Recorder};
use super::reserve::{Division, Mix};

/// A stream in the books.
#[derive(Clone, Debug)]
pub(super) struct Entry<S> {
    pub(super) stream: S,
    pub(super) demand: Demand,
    /// The class it has, and how many standbys it shall have.
    pub(super) class: Class,
    pub(super) standbys: u32,
    pub(super) lack: Option<Lack>,
    /// Indices of its holders, the primary first; empty if it has none.
    pub(super) chain: Vec<u32>,
}

/// Who holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan<S: Ord> {
    /// The streams that have a recorder.
    pub placed: BTreeMap<S, Assigned>,
    /// The streams that have none, because slots are too few.
    pub waiting: BTreeSet<S>,
}

/// What a recorder has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its number.
    pub ordinal: u32,
    /// Primaries.
    pub primaries: u32,
    /// How many of them sit in reserved slots, because there are more than normal ones.
    pub in_reserved: u32,
    /// Standbys with reserved slots of their own.
    pub dedicated: u32,
    /// Streams it takes over at once in the worst case, for which it has no standby with a slot of its own.
    pub worst_takeovers: u32,
}

/// A plan with its books.
#[derive(Clone, Debug)]
pub struct Planner<S> {
    promise: Promise,
    division: Division,
    recorders: Vec<Recorder>,
    pub(super) ledger: Ledger,
    pub(super) entries: Vec<Option<Entry<S>>>,
    index: BTreeMap<S, usize>,
    free: Vec<usize>,
    /// Streams with a recorder, by priority.
    pub(super) recorded: BTreeMap<i32, u64>,
    /// Streams that did not get all they shall have.
    short: u64,
}

impl<S: Ord + Clone> Planner<S> {
    /// Plans everything.
    ///
    /// Whoever is recorded in `previous` stays where it is, unless its recorder is gone (then a standby is promoted), is drained, or has more
    /// than its normal slots while others have free ones. All others come by priority, then by name.
    #[must_use]
    pub fn new(
        promise: Promise,
        division: Division,
        recorders: &[Recorder],
        demands: &BTreeMap<S, Demand>,
        previous: &BTreeMap<S, Held>,
    ) -> Self {
        let mut recorders = recorders.to_vec();
        recorders.sort_unstable_by_key(|recorder| recorder.ordinal);
        recorders.dedup_by_key(|recorder| recorder.ordinal);
        let sharing = sharing(&recorders, demands, previous);
        let ledger = Ledger::new(promise, division.slots, &recorders, &sharing);
        let mut planner = Planner {
            promise,
            division,
            recorders,
            ledger,
            // With room for some more, so that adding one seldom moves all.
            entries: Vec::with_capacity(demands.len() / 8 + demands.len()),
            index: BTreeMap::new(),
            free: Vec::new(),
            recorded: BTreeMap::new(),
            short: 0,
        };
        planner.entries.extend(demands.iter().map(|(stream, demand)| Some(entry(&division, stream, demand))));
        planner.index = demands.keys().cloned().zip(0..).collect();
        // Both maps are sorted, so they are walked side by side.
        let mut held = previous.iter().peekable();
        let held: Vec<Option<&Held>> = demands
            .keys()
            .map(|stream| {
                while held.next_if(|(other, _)| *other < stream).is_some() {}
                held.next_if(|(other, _)| *other == stream).map(|(_, held)| held)
            })
            .collect();
        planner.settle(&held);
        planner
    }

    fn settle(&mut self, held: &[Option<&Held>]) {
        let mut order: Vec<(Reverse<i32>, bool, usize)> = (0..)
            .zip(&self.entries)
            .filter_map(|(at, entry)| {
                let entry = entry.as_ref()?;
                let is_held =
                    held.get(at).is_some_and(|held| held.is_some_and(|held| self.ledger.index(held.primary).is_some()));
                Some((Reverse(entry.demand.priority), !is_held, at))
            })
            .collect();
        order.sort_unstable();
        let order: Vec<usize> = order.into_iter().map(|(_, _, at)| at).collect();
        let old = self.settle_primaries(&order, held);
        self.settle_standbys(&order, &old);
        self.short = self.entries.iter().flatten().filter(|entry| entry.is_short()).count() as u64;
    }

    /// Adds a stream, or changes what is wanted of one. Returns the streams for which something changed.
    ///
    /// Where there is room, nothing but this stream is looked at. Otherwise others may have to give way, and all is planned anew.
    pub fn set(&mut self, stream: S, demand: Demand) -> Vec<S> {
        if let Some(at) = self.index.get(&stream).copied() {
            let same = self.entries.get(at).and_then(Option::as_ref).is_some_and(|entry| entry.demand == demand);
            if same {
                return Vec::new();
            }
            let mut demands = self.demands();
            demands.insert(stream, demand);
            return self.replan(&demands);
        }
        let at = self.free.pop().unwrap_or(self.entries.len());
        if at == self.entries.len() {
            self.entries.push(None);
        }
        let new = entry(&self.division, &stream, &demand);
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = Some(new);
        }
        self.index.insert(stream.clone(), at);
        if self.place_in_normal(at) && self.extend(at, u32::MAX) {
            return vec![stream];
        }
        let mut changed = self.replan(&self.demands());
        if !changed.contains(&stream) {
            changed.push(stream);
        }
        changed
    }

    /// Takes a stream out. Returns the other streams for which something changed.
    pub fn remove(&mut self, stream: &S) -> Vec<S> {
        let Some(at) = self.index.remove(stream) else { return Vec::new() };
        let Some(entry) = self.entries.get_mut(at).and_then(Option::take) else { return Vec::new() };
        self.free.push(at);
        self.short -= u64::from(entry.is_short());
        if let Some(primary) = entry.chain.first() {
            self.ledger.remove_primary(*primary, entry.class);
            if let Some(count) = self.recorded.get_mut(&entry.demand.priority) {
                *count = count.saturating_sub(1);
            }
        }
        for rank in 1..entry.chain.len() {
            let (chain, rest) = entry.chain.split_at(rank);
            if let Some(standby) = rest.first() {
                self.ledger.remove_standby(chain, entry.class, *standby);
            }
        }
        if self.is_settled() { Vec::new() } else { self.replan(&self.demands()) }
    }

    /// Whether nobody waits for room that may have become free.
    fn is_settled(&self) -> bool {
        self.short == 0 && !(0..self.ledger.sites.len() as u32).any(|index| self.ledger.is_to_shed(index))
    }

    fn replan(&mut self, demands: &BTreeMap<S, Demand>) -> Vec<S> {
        let before = self.plan();
        let previous = before.placed.iter().map(|(stream, assigned)| (stream.clone(), assigned.held())).collect();
        *self = Planner::new(self.promise, self.division, &self.recorders, demands, &previous);
        let after = self.plan();
        let changed = demands.keys().filter(|stream| before.placed.get(stream) != after.placed.get(stream));
        changed.cloned().collect()
    }

    fn demands(&self) -> BTreeMap<S, Demand> {
        self.entries.iter().flatten().map(|entry| (entry.stream.clone(), entry.demand)).collect()
    }

    pub(super) fn for_each_demand(&self, mut look: impl FnMut(&Demand)) {
        self.entries.iter().flatten().for_each(|entry| look(&entry.demand));
    }

    /// Who holds what.
    #[must_use]
    pub fn plan(&self) -> Plan<S> {
        let mut plan = Plan { placed: BTreeMap::new(), waiting: BTreeSet::new() };
        for entry in self.entries.iter().flatten() {
            if let Some(assigned) = self.assignment(entry) {
                plan.placed.insert(entry.stream.clone(), assigned);
            } else {
                plan.waiting.insert(entry.stream.clone());
            }
        }
        plan
    }

    /// Who holds a stream, if anybody does.
    #[must_use]
    pub fn assigned(&self, stream: &S) -> Option<Assigned> {
        self.assignment(self.entries.get(*self.index.get(stream)?)?.as_ref()?)
    }

    fn assignment(&self, entry: &Entry<S>) -> Option<Assigned> {
        let (primary, standbys) = entry.chain.split_first()?;
        let live = standbys.iter().filter(|standby| self.ledger.is(**standby, Condition::Active)).count();
        let tolerates = live as u64 >= u64::from(self.promise.tolerated_failures.max(1))
            && !self.ledger.is(*primary, Condition::Down);
        let protected = (entry.demand.class != Class::None).then_some(tolerates);
        let is_short = standbys.len() < entry.standbys as usize;
        Some(Assigned {
            primary: self.ledger.ordinal(*primary),
            standbys: standbys.iter().map(|standby| self.ledger.ordinal(*standby)).collect(),
            class: entry.class,
            protected,
            lack: if is_short { Some(Lack::Room) } else { entry.lack },
        })
    }

    /// What each recorder has to do, by ordinal.
    pub fn loads(&mut self) -> Vec<Load> {
        (0..self.ledger.sites.len() as u32)
            .map(|index| {
                let (primaries, dedicated, worst_takeovers) = self.ledger.load(index);
                let (ordinal, in_reserved) = (self.ledger.ordinal(index), self.ledger.excess(index));
                Load { ordinal, primaries, in_reserved, dedicated, worst_takeovers }
            })
            .collect()
    }

    /// What was promised, how the slots are divided, and the recorders by ordinal.
    #[must_use]
    pub fn pool(&self) -> (Promise, Division, &[Recorder]) {
        (self.promise, self.division, &self.recorders)
    }
}

impl<S> Entry<S> {
    /// Whether it did not get all it shall have.
    fn is_short(&self) -> bool {
        self.chain.len() < 1 + self.standbys as usize
    }
}

/// The streams of each class that standbys are to be found for: as the cameras allow it, not as it was asked for.
#[must_use]
pub fn mix<'d>(promise: Promise, demands: impl Iterator<Item = &'d Demand>) -> Mix {
    let mut mix = Mix::default();
    for demand in demands {
        mix.add(model::allowed(demand, promise.standbys.max(promise.tolerated_failures)).0);
    }
    mix
}

fn entry<S: Clone>(division: &Division, stream: &S, demand: &Demand) -> Entry<S> {
    let (class, standbys, lack) = match division.no_reserve {
        Some(why) if demand.class != Class::None => (Class::None, 0, Some(Lack::NoReserve(why))),
        _ => model::allowed(demand, division.standbys),
    };
    Entry { stream: stream.clone(), demand: *demand, class, standbys, lack, chain: Vec::new() }
}

/// How many streams each pair of recorders shares. Only large pools need it: in small ones everybody is everybody's peer.
fn sharing<S: Ord>(
    recorders: &[Recorder],
    demands: &BTreeMap<S, Demand>,
    previous: &BTreeMap<S, Held>,
) -> BTreeMap<(u32, u32), u32> {
    let mut sharing = BTreeMap::new();
    if recorders.len() <= super::peers::MAX_PEERS as usize + 1 {
        return sharing;
    }
    let index =
        |ordinal: u32| recorders.binary_search_by_key(&ordinal, |recorder| recorder.ordinal).ok().map(|at| at as u32);
    for (_, held) in previous.iter().filter(|(stream, held)| !held.standbys.is_empty() && demands.contains_key(stream))
    {
        let holders: Vec<u32> =
            std::iter::once(&held.primary).chain(&held.standbys).filter_map(|ordinal| index(*ordinal)).collect();
        for (rank, one) in holders.iter().enumerate() {
            for other in holders.iter().skip(rank + 1) {
                *sharing.entry((*one.min(other), *one.max(other))).or_default() += 1;
            }
        }
    }
    sharing
}
