//! The planner itself, in the world that its plans are carried out in: recorders are drained, given up and taken back, rightly or not, and each
//! stream's holders change as it decides. The operator sees what recorders wrote into their statuses some time ago, and what it writes comes late and
//! not to all at once.

use std::collections::{BTreeMap, VecDeque};

use framekeeper_plan::{Class, Condition, Demand, Held, Planner, Promise, Recorder, divide, mix};
use rand::RngExt as _;
use uuid::Uuid;

use crate::node::{Node, SECOND, name, number};
use crate::world::World;

/// Between two statuses of a recorder, and how old the oldest is that is read.
const STATUS: u64 = SECOND;
const STATUSES: usize = 5;

/// What a recorder's status says of a stream.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said {
    holds: bool,
    records: bool,
    /// The highest epoch that it knows of.
    epoch: u64,
    /// The sequence number of the newest plan that it was told.
    knows: u64,
}

/// What a recorder's statuses say, the newest last, of each stream.
pub(crate) type Statuses = VecDeque<Vec<Said>>;

/// Slots are no trouble here.
const CHANNELS: u32 = 200;

fn said(node: &Node, stream: usize) -> Said {
    let knows = node.knows[stream];
    match &node.held[stream] {
        None => Said { knows, epoch: node.epochs[stream], ..Said::default() },
        Some(held) => {
            let records = held.machine.is_recording();
            Said { holds: true, records, epoch: held.epoch.max(held.plan.epoch), knows }
        }
    }
}

impl World {
    /// Recorders write their statuses, where the control plane can be reached.
    pub(crate) fn write_statuses(&mut self) {
        if !self.now.is_multiple_of(STATUS) {
            return;
        }
        for (node, statuses) in self.nodes.iter().zip(&mut self.statuses) {
            if node.runs(self.now) && node.watches {
                statuses.push_back((0..self.plans.len()).map(|stream| said(node, stream)).collect());
            }
            // One that writes no more has the last one that it wrote.
            while statuses.len() > if node.runs(self.now) { STATUSES } else { 1 } {
                statuses.pop_front();
            }
        }
    }

    /// What the operator knows of a stream on a recorder.
    fn read(&self, node: usize, stream: usize) -> Said {
        let statuses = &self.statuses[node];
        let read = statuses.len().saturating_sub(self.late.min(statuses.len()));
        statuses.get(read).or(statuses.back()).map_or_else(Said::default, |status| status[stream])
    }

    /// The highest epoch that the operator was told of.
    fn epoch_seen(&self, stream: usize) -> u64 {
        let told = (0..self.nodes.len()).map(|node| self.read(node, stream).epoch).max();
        told.unwrap_or(0).max(self.plans[stream].epoch)
    }

    /// A recorder is drained or given up, or is as the others again; then all streams are planned. Two recorders stay in any case.
    pub(crate) fn change_pool(&mut self, node: usize) {
        let active = self.conditions.iter().filter(|condition| **condition == Condition::Active).count();
        let condition = match self.conditions[node] {
            Condition::Active if active <= 2 => return,
            Condition::Active if self.random.random_bool(0.5) => Condition::Draining,
            Condition::Active => Condition::Gone,
            _ => Condition::Active,
        };
        self.late = self.random.random_range(1..=STATUSES);
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
        let records = |ordinal: &u32| self.read(*ordinal as usize, stream).records;
        let active = ordinals.iter().copied().find(records).filter(|active| Some(active) != ordinals.first());
        Held { primary: ordinals[0], standbys: ordinals[1..].to_vec(), active }
    }

    /// Other holders, or the same in another order.
    pub(crate) fn replan(&mut self, stream: usize) {
        self.late = self.random.random_range(1..=STATUSES);
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
        let has_it = |one: &Uuid| {
            let said = self.read(number(*one), stream);
            said.holds || said.knows < old.version.sequence
        };
        let mut retired: Vec<_> = former.filter(has_it).collect();
        retired.sort_unstable();
        retired.dedup();
        let version = framekeeper_media::boxes::run::PlanVersion { sequence: old.version.sequence + 1, ..old.version };
        self.say(format!("stream {stream}: plan {}, {chain:?}", version.sequence));
        self.plans[stream] = framekeeper_takeover::Assignment { version, epoch, holders, retired, ..old };
        self.plans_made += 1;
        self.announce(stream);
    }
}
