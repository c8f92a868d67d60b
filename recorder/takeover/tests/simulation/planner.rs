//! The planner itself, in the world that its plans are carried out in: recorders are drained, given up and taken back, rightly or not, and each
//! stream's holders change as it decides.

use std::collections::BTreeMap;

use framekeeper_plan::{Class, Condition, Demand, Held, Planner, Promise, Recorder, divide, mix};
use rand::RngExt as _;

use crate::node::{name, number};
use crate::world::World;

/// Slots are no trouble here.
const CHANNELS: u32 = 200;

impl World {
    /// A recorder is drained or given up, or is as the others again; then all streams are planned. Two recorders stay in any case.
    pub(crate) fn change_pool(&mut self, node: usize) {
        let active = self.conditions.iter().filter(|condition| **condition == Condition::Active).count();
        let condition = match self.conditions[node] {
            Condition::Active if active <= 2 => return,
            Condition::Active if self.random.random_bool(0.5) => Condition::Draining,
            Condition::Active => Condition::Gone,
            _ => Condition::Active,
        };
        self.say(format!("recorder {node} is {condition:?}"));
        self.conditions[node] = condition;
        let decided = self.planned();
        for (stream, holders) in decided {
            let now: Vec<usize> = self.plans[stream].holders.iter().map(|holder| number(*holder)).collect();
            if now != holders {
                self.decide(stream, holders);
            }
        }
    }

    /// Of any stream, by the plan in force.
    pub(crate) fn fewest_standbys(&self) -> usize {
        self.plans.iter().map(|plan| plan.holders.len() - 1).min().unwrap_or(0)
    }

    /// The holders of each stream, by rank.
    fn planned(&self) -> BTreeMap<usize, Vec<usize>> {
        let standbys = self.standbys as u32;
        let promise = Promise { max_channels: CHANNELS, tolerated_failures: standbys, standbys };
        let recorder = |(ordinal, condition): (usize, &Condition)| Recorder {
            ordinal: ordinal as u32,
            domain: ordinal as u32,
            condition: *condition,
        };
        let recorders: Vec<Recorder> = self.conditions.iter().enumerate().map(recorder).collect();
        let demand = Demand { class: Class::Playing, ..Demand::default() };
        let demands: BTreeMap<usize, Demand> = (0..self.plans.len()).map(|stream| (stream, demand)).collect();
        let division = divide(promise, &recorders, mix(promise, demands.values()));
        let previous = (0..self.plans.len()).map(|stream| (stream, self.held_now(stream))).collect();
        let plan = Planner::new(promise, division, &recorders, &demands, &previous).plan();
        let chain = |primary: u32, standbys: Vec<u32>| {
            std::iter::once(primary).chain(standbys).map(|ordinal| ordinal as usize).collect::<Vec<_>>()
        };
        plan.placed.into_iter().map(|(stream, assigned)| (stream, chain(assigned.primary, assigned.standbys))).collect()
    }

    /// As the operator knows it: the plan in force, and who records in the primary's place.
    fn held_now(&self, stream: usize) -> Held {
        let ordinals: Vec<u32> = self.plans[stream].holders.iter().map(|holder| number(*holder) as u32).collect();
        let records = |ordinal: &u32| {
            let held = self.nodes[*ordinal as usize].held[stream].as_ref();
            self.nodes[*ordinal as usize].up && held.is_some_and(|held| held.machine.is_recording())
        };
        let active = ordinals.iter().copied().find(records).filter(|active| Some(active) != ordinals.first());
        Held { primary: ordinals[0], standbys: ordinals[1..].to_vec(), active }
    }

    /// Other holders, or the same in another order.
    pub(crate) fn replan(&mut self, stream: usize) {
        let mut all: Vec<usize> = (0..self.nodes.len()).collect();
        for at in (1..all.len()).rev() {
            all.swap(at, self.random.random_range(0..=at));
        }
        all.truncate(self.standbys + 1);
        self.decide(stream, all);
    }

    /// Puts other holders into force.
    fn decide(&mut self, stream: usize, chain: Vec<usize>) {
        let epoch = self.epoch_seen(stream) + 1;
        let old = self.plans[stream].clone();
        let holders: Vec<_> = chain.iter().map(|at| name(*at)).collect();
        let former = old.holders.iter().chain(&old.retired).filter(|former| !holders.contains(former)).copied();
        let mut retired: Vec<_> = former.filter(|one| self.nodes[number(*one)].held[stream].is_some()).collect();
        retired.sort_unstable();
        retired.dedup();
        let version = framekeeper_media::boxes::run::PlanVersion { sequence: old.version.sequence + 1, ..old.version };
        self.say(format!("stream {stream}: plan {}, {chain:?}", version.sequence));
        self.plans[stream] = framekeeper_takeover::Assignment { version, epoch, holders, retired, ..old };
        self.plans_made += 1;
        self.announce(stream);
    }
}
