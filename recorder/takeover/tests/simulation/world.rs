//! Recorders, cameras, the network and the planner, in steps of a tenth of a second.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_plan::Condition;
use framekeeper_takeover::heartbeat::Heartbeat;
use framekeeper_takeover::{Action, Assignment, Class, Rules};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::node::{Bug, FRAME, MS, Node, SECOND, name, number};
use crate::planner::Statuses;

pub(crate) const TICK: u64 = 100 * MS;
const BEAT: u64 = 250 * MS;
/// By then everybody who lives has been told of a plan.
pub(crate) const TOLD: u64 = 5 * SECOND;
/// Clocks of recorders are apart from the true time by up to so much, microseconds.
const CLOCKS: i64 = 900_000;

/// Shorter than real ones, so that ten minutes see many of them.
pub(crate) fn rules() -> Rules {
    Rules { hold: 5 * SECOND, hold_at_most: 40 * SECOND, calm: 10 * SECOND, ..Rules::default() }
}

pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) streams: usize,
    pub(crate) standbys: usize,
    /// Of each recorder.
    pub(crate) volumes: usize,
    /// The disks of every other recorder rotate.
    pub(crate) rotating: bool,
    pub(crate) bug: Bug,
}

enum Message {
    Beat { from: usize, heartbeat: Heartbeat },
    Closed { from: usize },
    Plan { stream: usize, plan: Assignment },
}

/// What is on its way: when, in which order, to whom.
type Way = std::cmp::Reverse<(u64, u64, usize)>;

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: StdRng,
    pub(crate) rules: Rules,
    pub(crate) nodes: Vec<Node>,
    pub(crate) plans: Vec<Assignment>,
    pub(crate) standbys: usize,
    /// Of the recorders, as the planner sees them.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) statuses: Vec<Statuses>,
    /// Of those, the operator reads the one that is so many before the end.
    pub(crate) late: usize,
    /// Nothing gets from the first to the second.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// The node does not reach the stream's camera.
    pub(crate) blind: BTreeSet<(usize, usize)>,
    pub(crate) loss: f64,
    pub(crate) delay: u64,
    ways: BinaryHeap<Way>,
    letters: BTreeMap<u64, Message>,
    posted: u64,
    /// Frames that some recorder serves at the end.
    pub(crate) durable: Vec<Vec<bool>>,
    /// Frames that a recorder had and let go, each with when and whose it was.
    dropped: Vec<BTreeMap<u32, (u64, usize)>>,
    /// Of each stream and recorder, the epochs in which it began.
    epochs: BTreeMap<(usize, usize), u64>,
    /// Begun in another's place.
    pub(crate) takeovers: usize,
    /// Plans beside the first ones.
    pub(crate) plans_made: usize,
    /// Tenths of a second in which more than one recorded a stream.
    pub(crate) doubled: u64,
    pub(crate) log: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, shape: &Shape) -> Self {
        let &Shape { nodes, streams, standbys, .. } = shape;
        let plan = |stream: usize| Assignment {
            version: PlanVersion { term: 1, sequence: 1 },
            epoch: 1,
            class: Class::Standby,
            holders: (0..=standbys).map(|rank| name((stream + rank) % nodes)).collect(),
            retired: Vec::new(),
        };
        let mut world = Self {
            now: 0,
            random: StdRng::seed_from_u64(seed),
            rules: rules(),
            nodes: (0..nodes).map(|number| Node::new(number, shape)).collect(),
            plans: (0..streams).map(plan).collect(),
            standbys,
            conditions: vec![Condition::Active; nodes],
            statuses: vec![Statuses::new(); nodes],
            late: 1,
            cut: BTreeSet::new(),
            blind: BTreeSet::new(),
            loss: 0.0,
            delay: 20 * MS,
            ways: BinaryHeap::new(),
            letters: BTreeMap::new(),
            posted: 0,
            durable: vec![Vec::new(); streams],
            dropped: vec![BTreeMap::new(); streams],
            epochs: BTreeMap::new(),
            takeovers: 0,
            plans_made: 0,
            doubled: 0,
            log: Vec::new(),
            wrong: Vec::new(),
        };
        (0..streams).for_each(|stream| world.announce(stream));
        for node in &mut world.nodes {
            node.set_ahead(world.random.random_range(-CLOCKS..=CLOCKS));
        }
        world
    }

    /// All standbys record as well.
    pub(crate) fn mirror(&mut self) {
        for stream in 0..self.plans.len() {
            self.plans[stream].class = Class::Mirrored;
            self.plans[stream].version.sequence += 1;
            self.announce(stream);
        }
    }

    pub(crate) fn say(&mut self, what: String) {
        self.log.push(format!("{:8.1} {what}", self.now as f64 / 1e6));
    }

    fn post(&mut self, at: u64, to: usize, message: Message) {
        self.posted += 1;
        self.letters.insert(self.posted, message);
        self.ways.push(std::cmp::Reverse((at, self.posted, to)));
    }

    /// Tells everybody whom it concerns of a plan; each hears of it some time later.
    pub(crate) fn announce(&mut self, stream: usize) {
        let plan = self.plans[stream].clone();
        for recorder in plan.holders.iter().chain(&plan.retired) {
            let at = self.now + self.random.random_range(0..TOLD);
            self.post(at, number(*recorder), Message::Plan { stream, plan: plan.clone() });
        }
    }

    /// The process ends at once. `silent`: its machine loses its power, and nobody is told.
    pub(crate) fn kill(&mut self, node: usize, silent: bool) {
        let random = &mut self.random;
        self.nodes[node].kill(silent.then_some(random));
        self.say(format!("recorder {node} dies{}", if silent { " silently" } else { "" }));
        for other in (0..self.nodes.len()).filter(|other| *other != node && !silent) {
            if !self.cut.contains(&(node, other)) {
                self.post(self.now + self.delay, other, Message::Closed { from: node });
            }
        }
    }

    /// The time of day of a recorder is set: to another one that is as right, or to what is wrong by hours, or back.
    pub(crate) fn set_clock(&mut self, node: usize) {
        let is_wrong = self.random.random_bool(0.2);
        let apart = if is_wrong { 7_200_000_000 } else { CLOCKS };
        self.nodes[node].set_ahead(self.random.random_range(-apart..=apart));
        self.say(format!("the clock of recorder {node} is set to {:+.1} s", self.nodes[node].wall_ahead as f64 / 1e6));
    }

    pub(crate) fn start(&mut self, node: usize) {
        self.say(format!("recorder {node} starts"));
        self.nodes[node].start(self.now);
    }

    pub(crate) fn run_until(&mut self, end: u64, mut each: impl FnMut(&mut Self)) {
        while self.now < end && self.wrong.is_empty() {
            self.now += TICK;
            each(self);
            self.tick();
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        let runs = |node: &Node| node.runs(now);
        for number in 0..self.nodes.len() {
            if runs(&self.nodes[number]) {
                self.nodes[number].wake(now, &self.rules);
            }
        }
        self.deliver();
        for number in 0..self.nodes.len() {
            if !runs(&self.nodes[number]) {
                continue;
            }
            self.nodes[number].last_tick = now;
            for stream in 0..self.plans.len() {
                let camera = !self.blind.contains(&(number, stream));
                for frame in self.nodes[number].film(stream, now, camera) {
                    self.dropped[stream].entry(frame).or_insert((now, number));
                }
            }
            self.nodes[number].site.step(now);
            self.nodes[number].watch(now, &self.rules);
            for stream in 0..self.plans.len() {
                if let Some(action) = self.nodes[number].decide(stream, now, &self.rules) {
                    self.acted(number, stream, action);
                }
            }
            if self.nodes[number].next_beat <= now {
                self.nodes[number].next_beat = now + BEAT;
                self.beat(number);
            }
        }
        self.write_statuses();
        for stream in 0..self.plans.len() {
            let recording = self.nodes.iter().filter(|node| node.up);
            let recording =
                recording.filter_map(|node| node.held[stream].as_ref()).filter(|held| held.machine.is_recording());
            self.doubled += u64::from(recording.count() > 1);
        }
    }

    fn deliver(&mut self) {
        let mut later = Vec::new();
        while self.ways.peek().is_some_and(|way| way.0.0 <= self.now) {
            let std::cmp::Reverse((at, letter, to)) = self.ways.pop().unwrap();
            let message = self.letters.remove(&letter).unwrap();
            let node = &mut self.nodes[to];
            let waits = matches!(message, Message::Plan { .. });
            if !node.up || node.paused_until > self.now || (waits && !node.watches) {
                // Plans are watched for; what was sent to a process that stands still is in its socket; to a dead one nothing comes.
                if waits || node.up {
                    later.push((at, letter, to, message));
                }
                continue;
            }
            match message {
                Message::Beat { from, heartbeat } => node.hear(from, self.now, heartbeat, &self.rules),
                Message::Closed { from } => node.links[from].close(self.now),
                Message::Plan { stream, plan } => {
                    node.knows[stream] = node.knows[stream].max(plan.version.sequence);
                    match &mut node.held[stream] {
                        Some(held) if held.plan.version < plan.version => {
                            held.plan = plan;
                            held.machine.stir(self.now, &self.rules);
                        }
                        Some(_) => {}
                        // One that has let go already needs not be told to.
                        None if plan.rank(name(to)).is_some() => node.hold(stream, plan, self.now),
                        None => {}
                    }
                }
            }
        }
        for (at, letter, to, message) in later {
            self.letters.insert(letter, message);
            self.ways.push(std::cmp::Reverse((at.max(self.now + 1), letter, to)));
        }
    }

    fn beat(&mut self, from: usize) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            let heartbeat = self.nodes[from].tell(to, self.now, &self.rules);
            let lost = self.random.random_bool(self.loss);
            let delay = self.delay / 2 + self.random.random_range(0..=self.delay);
            if !lost && !self.cut.contains(&(from, to)) {
                self.post(self.now + delay, to, Message::Beat { from, heartbeat });
            }
        }
    }

    fn acted(&mut self, node: usize, stream: usize, action: Action) {
        let rank = self.nodes[node].held[stream].as_ref().and_then(|held| held.plan.rank(name(node)));
        self.say(format!("stream {stream}: recorder {node} (rank {rank:?}) {action:?}"));
        if let Action::Begin { epoch, .. } = action {
            self.takeovers += usize::from(rank != Some(0));
            let before = self.epochs.insert((stream, node), epoch);
            if before.is_some_and(|before| before >= epoch) {
                self.wrong.push(format!("stream {stream}: recorder {node} begins epoch {epoch} behind {before:?}"));
            }
        }
    }

    /// All recorders lose their power, and serve what they find when they are back.
    pub(crate) fn end(&mut self) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.kill(Some(&mut self.random));
            for (stream, frames) in node.site.served(self.plans.len(), self.now).into_iter().enumerate() {
                let frames = frames.unwrap_or_else(|error| {
                    self.wrong.push(format!("stream {stream}: recorder {number} cannot serve it: {error}"));
                    Vec::new()
                });
                let durable = &mut self.durable[stream];
                for frame in frames {
                    durable.resize(durable.len().max(frame as usize + 1), false);
                    durable[frame as usize] = true;
                }
            }
        }
    }

    /// A frame that a live recorder had in memory, and let go, must be durable somewhere. Those of the last seconds may be on their way.
    pub(crate) fn check_frames(&mut self, from: u64, until: u64) {
        for (stream, dropped) in self.dropped.iter().enumerate() {
            let lost: Vec<_> = dropped
                .iter()
                .filter(|(frame, _)| (from..until).contains(&(u64::from(**frame) * FRAME)))
                .filter(|(frame, _)| !self.durable[stream].get(**frame as usize).copied().unwrap_or(false))
                .collect();
            if let (Some((frame, (at, by))), Some((last, _))) = (lost.first(), lost.last()) {
                self.wrong.push(format!(
                    "stream {stream}: {} frames from {:.1} s to {:.1} s are lost; recorder {by} let go of them at {:.1} s",
                    lost.len(),
                    (u64::from(**frame) * FRAME) as f64 / 1e6,
                    (u64::from(**last) * FRAME) as f64 / 1e6,
                    *at as f64 / 1e6
                ));
            }
        }
    }

    /// Recording twice has a cause each time, and an end.
    pub(crate) fn check_doubled(&mut self) {
        let causes = (self.takeovers + self.plans_made + self.plans.len()) as u64;
        // A hold, what may interrupt it once, and the longest trouble that keeps two from hearing each other.
        let each = self.rules.hold_at_most + 60 * SECOND;
        if self.doubled * TICK > causes * each {
            self.wrong.push(format!("{} s were recorded twice for {causes} causes", self.doubled * TICK / SECOND));
        }
    }

    /// Behind all trouble: the primary alone records each stream, nobody holds one who should not.
    pub(crate) fn check_calm(&mut self) {
        for stream in 0..self.plans.len() {
            let plan = &self.plans[stream];
            let holding = |node: &Node| node.held[stream].as_ref().map(|held| held.machine.is_recording());
            let recording: Vec<_> =
                (0..self.nodes.len()).filter(|at| holding(&self.nodes[*at]) == Some(true)).collect();
            let held: Vec<_> = (0..self.nodes.len()).filter(|at| holding(&self.nodes[*at]).is_some()).collect();
            let mut wanted: Vec<_> = plan.holders.iter().map(|holder| number(*holder)).collect();
            if recording != wanted[..1] {
                self.wrong.push(format!("stream {stream}: {recording:?} record at the end, not {:?}", &wanted[..1]));
            }
            wanted.sort_unstable();
            if held != wanted {
                self.wrong.push(format!("stream {stream}: {held:?} hold it at the end, not {wanted:?}"));
            }
        }
    }
}
