//! Failures and returns one after the other. A domain counts as failed until it has all its streams back: up to f such at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

struct Pool<'p> {
    plan: &'p Plan<u32>,
    domains: BTreeMap<u32, u32>,
    slots: u32,
    down: BTreeSet<u32>,
    records: BTreeMap<u32, u32>,
}

impl Pool<'_> {
    /// The first holder by rank that is up.
    fn due(&self, stream: u32) -> Option<u32> {
        let assigned = &self.plan.placed[&stream];
        std::iter::once(&assigned.primary)
            .chain(&assigned.standbys)
            .copied()
            .find(|holder| !self.down.contains(&self.domains[holder]))
    }

    fn used(&self, ordinal: u32) -> u32 {
        let holds = |stream: &u32, assigned: &Assigned| {
            let records = self.records.get(stream) == Some(&ordinal);
            let stands_by = assigned.class.is_dedicated() && assigned.standbys.contains(&ordinal);
            records || stands_by
        };
        self.plan.placed.iter().filter(|(stream, assigned)| holds(stream, assigned)).count() as u32
    }

    /// Domains that are down, or up again and without some stream that is theirs.
    fn busy(&self) -> BTreeSet<u32> {
        let mut busy = self.down.clone();
        for (stream, records) in &self.records {
            if let Some(due) = self.due(*stream).filter(|due| due != records) {
                busy.insert(self.domains[&due]);
            }
        }
        busy
    }

    fn check(&self) {
        for stream in self.plan.placed.keys() {
            let records = self.records[stream];
            assert!(
                !self.down.contains(&self.domains[&records]),
                "stream {stream} is not recorded, down: {:?}",
                self.down
            );
        }
        for ordinal in self.domains.keys().filter(|ordinal| !self.down.contains(&self.domains[ordinal])) {
            assert!(
                self.used(*ordinal) <= self.slots,
                "recorder {ordinal} uses {} slots, down: {:?}",
                self.used(*ordinal),
                self.down
            );
        }
    }
}

fn run(promise: Promise, recorders: &[Recorder], classes: &[Class], seed: u64, steps: u32) {
    let planner = full(promise, recorders, classes);
    assert_eq!(planner.pool().1.no_reserve, None);
    let plan = planner.plan();
    let domains = judge::domains(recorders);
    let all: Vec<u32> = domains.values().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let records = plan.placed.iter().map(|(stream, assigned)| (*stream, assigned.primary)).collect();
    let mut pool = Pool { plan: &plan, domains, slots: promise.max_channels, down: BTreeSet::new(), records };
    let (mut dice, mut failures) = (Dice(seed), 0);
    for _ in 0..steps {
        let domain = all[dice.below(all.len() as u32) as usize];
        let busy = pool.busy();
        if pool.down.contains(&domain) {
            pool.down.remove(&domain);
        } else if busy.contains(&domain) || (busy.len() as u32) < promise.tolerated_failures {
            pool.down.insert(domain);
            failures += 1;
            // Whoever lost its recorder is taken over at once, by rank.
            for stream in plan.placed.keys().copied() {
                if pool.down.contains(&pool.domains[&pool.records[&stream]]) {
                    let due = pool.due(stream).expect("somebody is left");
                    pool.records.insert(stream, due);
                }
            }
        } else {
            // Some streams go back to whoever is first by rank.
            for stream in plan.placed.keys().copied() {
                if dice.below(3) > 0 {
                    let due = pool.due(stream).expect("somebody is left");
                    pool.records.insert(stream, due);
                }
            }
        }
        pool.check();
    }
    assert!(failures > steps / 10, "{failures}");
}

#[test]
fn failures_and_returns_in_any_order_leave_every_stream_recorded() {
    for seed in 1..=u64::from(count(2, 200)) {
        run(promise(12, 1, 1), &recorders(5, 1), &[Class::Ready], seed, count(60, 1_000));
        run(promise(12, 2, 2), &recorders(6, 1), &[Class::Ready], seed, count(60, 1_000));
        run(promise(12, 2, 2), &recorders(6, 1), &[Class::Ready, Class::Playing], seed, count(60, 1_000));
        run(promise(12, 3, 3), &recorders(7, 1), &[Class::Ready], seed, count(60, 1_000));
        run(promise(12, 1, 1), &recorders(9, 3), &[Class::Ready, Class::Mirrored], seed, count(60, 1_000));
    }
}
