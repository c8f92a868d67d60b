//! What happens when domains fail, worked out from the assignments alone.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Calls `look` with every set of so many of `items`.
pub(super) fn every_set(items: &[u32], size: usize, look: &mut dyn FnMut(&BTreeSet<u32>)) {
    fn go(items: &[u32], size: usize, set: &mut BTreeSet<u32>, look: &mut dyn FnMut(&BTreeSet<u32>)) {
        if size == 0 {
            return look(set);
        }
        for (at, item) in items.iter().enumerate() {
            if items.len() - at >= size {
                set.insert(*item);
                go(&items[at + 1..], size - 1, set, look);
                set.remove(item);
            }
        }
    }
    go(items, size, &mut BTreeSet::new(), look);
}

pub(super) fn domains(recorders: &[Recorder]) -> BTreeMap<u32, u32> {
    recorders.iter().map(|recorder| (recorder.ordinal, recorder.domain)).collect()
}

/// What is wrong when these domains are failed: a protected stream that nobody records, or a recorder with more channels than slots.
pub(super) fn failed(
    plan: &Plan<u32>,
    domains: &BTreeMap<u32, u32>,
    slots: u32,
    failed: &BTreeSet<u32>,
) -> Option<String> {
    let is_live = |ordinal: &u32| !failed.contains(&domains[ordinal]);
    let mut used: BTreeMap<u32, u32> = BTreeMap::new();
    for (stream, assigned) in &plan.placed {
        if assigned.class.is_dedicated() {
            for standby in assigned.standbys.iter().filter(|standby| is_live(standby)) {
                *used.entry(*standby).or_default() += 1;
            }
        }
        if is_live(&assigned.primary) {
            *used.entry(assigned.primary).or_default() += 1;
            continue;
        }
        match assigned.standbys.iter().find(|standby| is_live(standby)) {
            Some(_) if assigned.class.is_dedicated() => {}
            Some(standby) => *used.entry(*standby).or_default() += 1,
            None if assigned.protected == Some(true) => {
                return Some(format!("stream {stream} has nobody when {failed:?} fail"));
            }
            None => {}
        }
    }
    let full = used.into_iter().find(|(_, used)| *used > slots);
    full.map(|(ordinal, used)| format!("recorder {ordinal} has {used} channels for {slots} slots when {failed:?} fail"))
}

/// Holders are of different domains and few peers, and a recorder has no more than its slots.
pub(super) fn check_form(plan: &Plan<u32>, recorders: &[Recorder]) {
    let domains = domains(recorders);
    let mut peers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (stream, assigned) in &plan.placed {
        let holders: Vec<u32> = std::iter::once(assigned.primary).chain(assigned.standbys.iter().copied()).collect();
        let different: BTreeSet<u32> = holders.iter().map(|holder| domains[holder]).collect();
        assert_eq!(different.len(), holders.len(), "stream {stream}: {assigned:?}");
        for one in &holders {
            peers.entry(*one).or_default().extend(holders.iter().filter(|other| *other != one));
        }
    }
    for (ordinal, peers) in peers {
        assert!(peers.len() <= 32, "recorder {ordinal} has {} peers", peers.len());
    }
}

/// Every set of up to f domains may fail.
pub(super) fn check(plan: &Plan<u32>, recorders: &[Recorder], slots: u32, failures: u32) {
    check_form(plan, recorders);
    let all: BTreeSet<u32> = recorders.iter().map(|recorder| recorder.domain).collect();
    let (all, domains): (Vec<u32>, _) = (all.into_iter().collect(), domains(recorders));
    for size in 0..=failures as usize {
        every_set(&all, size, &mut |set| assert_eq!(failed(plan, &domains, slots, set), None));
    }
}
