//! The planner as a whole, judged by [`judge`], which knows nothing of the planner's books: it looks at who holds what and lists what may fail.

mod churn;
mod every_set;
mod judge;
mod sequences;
mod shortages;
mod tiny;

use std::collections::BTreeMap;

use super::{Assigned, Class, Condition, Demand, Held, Mix, Plan, Planner, Promise, Recorder, divide, mix};

/// A count of `make test`, or the full one.
fn count(small: u32, full: u32) -> u32 {
    if std::env::var_os("FRAMEKEEPER_SOAK").is_some() { full } else { small }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % limit.max(1)
    }
}

/// Recorders 0..n, so many in a failure domain.
fn recorders(count: u32, in_domain: u32) -> Vec<Recorder> {
    let one = |ordinal| Recorder { ordinal, domain: ordinal / in_domain, condition: Condition::Active };
    (0..count).map(one).collect()
}

fn promise(max_channels: u32, failures: u32, standbys: u32) -> Promise {
    Promise { max_channels, tolerated_failures: failures, standbys }
}

/// Streams 0.. with these classes in turn.
fn streams(count: u32, classes: &[Class]) -> BTreeMap<u32, Demand> {
    let demand = |stream: u32| Demand { class: classes[stream as usize % classes.len()], ..Demand::default() };
    (0..count).map(|stream| (stream, demand(stream))).collect()
}

fn fresh(promise: Promise, recorders: &[Recorder], demands: &BTreeMap<u32, Demand>) -> Planner<u32> {
    replanned(promise, recorders, demands, &Plan::default())
}

fn held(plan: &Plan<u32>) -> BTreeMap<u32, Held> {
    plan.placed.iter().map(|(stream, assigned)| (*stream, assigned.held())).collect()
}

fn replanned(
    promise: Promise,
    recorders: &[Recorder],
    demands: &BTreeMap<u32, Demand>,
    before: &Plan<u32>,
) -> Planner<u32> {
    let division = divide(promise, recorders, mix(promise, demands.values()));
    Planner::new(promise, division, recorders, demands, &held(before))
}

/// A pool that is full to its last normal slot.
fn full(promise: Promise, recorders: &[Recorder], classes: &[Class]) -> Planner<u32> {
    let mut mix = Mix::default();
    classes.iter().for_each(|class| mix.add(*class));
    let normal = divide(promise, recorders, mix).slots.normal;
    // Whole rounds of the classes, so that the mix is exact.
    let count = normal * recorders.len() as u32 / classes.len() as u32 * classes.len() as u32;
    fresh(promise, recorders, &streams(count, classes))
}

fn all_protected(plan: &Plan<u32>) -> bool {
    plan.waiting.is_empty() && plan.placed.values().all(|assigned: &Assigned| assigned.protected != Some(false))
}
