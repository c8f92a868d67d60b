//! What this recorder knows of the others, and what it makes of it: records, stands by, lets go. No clock, no I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use framekeeper_takeover::{Action, Assignment, Class, Link, Liveness, Own, Peer, Report, Rules, Stream};
use tracing::{info, warn};
use uuid::Uuid;

use super::spread::Spread;
use crate::channel::Wish;

/// A recorder that has never told its key to anybody is waited for so long, microseconds: it starts for the first time, and its key comes with
/// the next assignment.
const KEYLESS_US: u64 = 20_000_000;

/// The side of a channel that decisions go by.
pub(super) trait Seat: Send {
    /// How it stands with it, at `now_us` (monotonic).
    fn own(&self, now_us: u64) -> Own;
    /// What is to become of its frames.
    fn wish(&self, wish: Wish);
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Streams that were recorded in another recorder's place.
    pub(crate) takeovers: u64,
    /// Of these, given back.
    pub(crate) handbacks: u64,
    /// Of these, given back to one that had been recording all the time, and was only not heard.
    pub(crate) false_takeovers: u64,
    /// From the last heartbeat of a recorder that recorded a stream until it was decided to record it here.
    pub(crate) detection: Spread,
    /// From then until the first frames of it were durable here.
    pub(crate) switching: Spread,
    /// Streams that are recorded in another's place now.
    pub(crate) taken: u64,
    /// Streams that are held together with others.
    pub(crate) shared: u64,
    /// Peers that are alive.
    pub(crate) alive: u64,
    /// Peers that there are.
    pub(crate) peers: u64,
}

/// Another recorder.
struct Tie {
    link: Link,
    since: u64,
    has_key: bool,
    reports: HashMap<Uuid, Told>,
    /// As it was last: whoever comes or goes is told of, and decided by, at once.
    was: Liveness,
}

/// What a recorder says of a stream.
struct Told {
    report: Report,
    /// When it said last that it records it.
    delivered: Option<u64>,
}

impl Tie {
    fn new(now: u64, has_key: bool) -> Self {
        Self { link: Link::new(now), since: now, has_key, reports: HashMap::new(), was: Liveness::Joining }
    }

    fn liveness(&self, now: u64, rules: &Rules) -> Liveness {
        if !self.has_key && now.saturating_sub(self.since) < KEYLESS_US {
            return Liveness::Joining;
        }
        self.link.liveness(now, rules)
    }
}

/// A stream that is held together with others.
struct Held {
    plan: Assignment,
    stream: Stream,
    seat: Box<dyn Seat>,
    /// When it was taken over, while nothing of it is durable yet.
    switching: Option<u64>,
}

/// All of it.
pub(super) struct Brain {
    me: Uuid,
    rules: Rules,
    leaving: bool,
    last_step: Option<u64>,
    /// Until when decisions are due at every step.
    restless: u64,
    /// Whether that was so at the last step.
    was_restless: bool,
    ties: HashMap<Uuid, Tie>,
    streams: BTreeMap<Uuid, Held>,
    released: Vec<Uuid>,
    /// Of these only what is counted since the start.
    counts: Counts,
}

impl Brain {
    pub(super) fn new(me: Uuid, rules: Rules) -> Self {
        Self {
            me,
            rules,
            leaving: false,
            last_step: None,
            restless: 0,
            was_restless: true,
            ties: HashMap::new(),
            streams: BTreeMap::new(),
            released: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Who there is, and whether a key of it is known. What is known of those that stay is not touched.
    pub(super) fn set_peers(&mut self, now: u64, peers: &[(Uuid, bool)]) {
        let wanted: HashSet<Uuid> = peers.iter().map(|(peer, _)| *peer).collect();
        self.ties.retain(|peer, _| wanted.contains(peer));
        for (peer, has_key) in peers {
            let tie = self.ties.entry(*peer).or_insert_with(|| Tie::new(now, *has_key));
            if *has_key && !tie.has_key {
                // Only now can it be heard.
                *tie = Tie::new(now, true);
            }
        }
        self.stir(now);
    }

    /// For how long a recorder that had failed must record without a fault before it has its streams back, microseconds; of takeovers from now on.
    pub(super) fn set_hold(&mut self, hold: u64) {
        self.rules.hold = hold;
    }

    /// A stream is held from now on, or by another plan. `epoch`: the highest in its own footage, asked for where it is new. `alone`: the epoch in
    /// which it is recorded here, where nobody else held it so far.
    pub(super) fn hold(
        &mut self,
        now: u64,
        stream: Uuid,
        plan: Assignment,
        epoch: u64,
        alone: Option<u64>,
        seat: impl FnOnce() -> Box<dyn Seat>,
    ) {
        self.restless = now.saturating_add(self.rules.restless);
        match self.streams.get_mut(&stream) {
            Some(held) => {
                held.stream.stir(now, &self.rules);
                held.plan = plan;
            }
            None => {
                let epoch = epoch.max(alone.unwrap_or(0));
                // One that stands by from now on goes on until the primary has proven that it records. Any other one is to record anyway, and begins
                // an epoch of its own at once, without a gap.
                let mut new = if alone.is_some() && self.is_standby(&plan) {
                    Stream::recorded_alone(self.me, now, epoch)
                } else {
                    Stream::new(self.me, now, epoch)
                };
                new.stir(now, &self.rules);
                self.streams.insert(stream, Held { plan, stream: new, seat: seat(), switching: None });
            }
        }
    }

    /// Whether it is held together with others.
    pub(super) fn holds(&self, stream: Uuid) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Another recorder is to have it: it is let go of when that one has proven that it records. Whether there is anything to wait for.
    /// `alone`: the epoch in which it is recorded here, and the side of its channel, where nobody else held it so far.
    pub(super) fn retire(
        &mut self,
        now: u64,
        stream: Uuid,
        plan: Assignment,
        alone: impl FnOnce() -> Option<(u64, Box<dyn Seat>)>,
    ) -> bool {
        self.restless = now.saturating_add(self.rules.restless);
        if let Some(held) = self.streams.get_mut(&stream) {
            held.stream.stir(now, &self.rules);
            held.plan = plan;
            return held.stream.is_recording();
        }
        let Some((epoch, seat)) = alone() else { return false };
        let stream_here = Stream::recorded_alone(self.me, now, epoch);
        self.streams.insert(stream, Held { plan, stream: stream_here, seat, switching: None });
        true
    }

    /// It is not held any more.
    pub(super) fn let_go(&mut self, stream: Uuid) {
        self.streams.remove(&stream);
    }

    /// Streams that nobody needs here any more, since this was asked last.
    pub(super) fn released(&mut self) -> Vec<Uuid> {
        std::mem::take(&mut self.released)
    }

    /// This recorder is to end: whatever others can record is theirs.
    pub(super) fn leave(&mut self, now: u64) {
        self.leaving = true;
        self.stir(now);
    }

    /// Something changed that all decisions go by.
    fn stir(&mut self, now: u64) {
        self.restless = now.saturating_add(self.rules.restless);
        self.streams.values_mut().for_each(|held| held.stream.stir(now, &self.rules));
    }

    /// Whether it records streams that another one, which is alive, is able to record.
    pub(super) fn is_handing_over(&self, now: u64) -> bool {
        self.streams.iter().any(|(stream, held)| {
            held.stream.is_recording()
                && peers(self.me, &self.ties, *stream, &held.plan, now, &self.rules)
                    .iter()
                    .any(|peer| peer.liveness == Liveness::Alive && peer.report.is_some_and(|report| report.able))
        })
    }

    /// What was counted.
    pub(super) fn counts(&self, now: u64) -> Counts {
        let alive = self.ties.values().filter(|tie| tie.liveness(now, &self.rules) == Liveness::Alive).count();
        let taken = self.streams.values().filter(|held| held.stream.is_recording() && self.is_standby(&held.plan));
        Counts {
            taken: taken.count() as u64,
            shared: self.streams.len() as u64,
            alive: alive as u64,
            peers: self.ties.len() as u64,
            ..self.counts
        }
    }

    /// Peers that are not heard, or do not hear this one.
    pub(super) fn silent(&self, now: u64) -> Vec<Uuid> {
        let silent = self.ties.iter().filter(|(_, tie)| tie.liveness(now, &self.rules) != Liveness::Alive);
        silent.map(|(peer, _)| *peer).collect()
    }

    fn is_standby(&self, plan: &Assignment) -> bool {
        plan.class == Class::Standby && plan.rank(self.me).is_some_and(|rank| rank > 0)
    }

    fn own(&self, held: &Held, now: u64) -> Own {
        Own { leaving: self.leaving, ..held.seat.own(now) }
    }

    /// Notes who comes and who goes.
    fn watch(&mut self, now: u64) {
        let mut changed = false;
        for (peer, tie) in &mut self.ties {
            let is = tie.liveness(now, &self.rules);
            let was = std::mem::replace(&mut tie.was, is);
            changed |= was != is;
            match (was, is) {
                (was, is) if was == is => {}
                (_, Liveness::Alive) => info!(%peer, "a recorder that shares streams is alive"),
                (_, Liveness::Failed) => warn!(%peer, "a recorder that shares streams is not heard any more"),
                (_, Liveness::Joining) => {}
            }
        }
        if changed {
            self.stir(now);
        }
    }
}

fn peers<'a>(
    me: Uuid,
    ties: &'a HashMap<Uuid, Tie>,
    stream: Uuid,
    plan: &Assignment,
    now: u64,
    rules: &Rules,
) -> Vec<Peer<'a>> {
    let named = || plan.holders.iter().chain(&plan.retired);
    // Those that have it by a newer plan, of which this one was not told yet, and to which it is a former holder.
    let is_newer = |tie: &Tie| tie.reports.get(&stream).is_some_and(|told| told.report.version > plan.version);
    let newer = ties.iter().filter(|(peer, tie)| is_newer(tie) && !named().any(|other| other == *peer));
    let others = named().chain(newer.map(|(peer, _)| peer)).filter(|other| **other != me);
    let peer = |recorder: &Uuid| match ties.get(recorder) {
        Some(tie) => {
            let report = tie.reports.get(&stream).map(|told| &told.report);
            Peer { recorder: *recorder, liveness: tie.liveness(now, rules), report }
        }
        None => Peer { recorder: *recorder, liveness: Liveness::Failed, report: None },
    };
    others.map(peer).collect()
}

impl framekeeper_peer::Brain for Brain {
    fn hear(&mut self, now: u64, peer: Uuid, hears_us: bool, reports: Vec<(Uuid, Report)>) {
        let Some(tie) = self.ties.get_mut(&peer) else { return };
        tie.link.hear(now, hears_us);
        let mut before = std::mem::replace(&mut tie.reports, HashMap::with_capacity(reports.len()));
        for (stream, report) in reports {
            let before = before.remove(&stream);
            let is_news = before.as_ref().is_none_or(|before| report.is_news(&before.report));
            if let Some(held) = self.streams.get_mut(&stream).filter(|_| is_news) {
                held.stream.stir(now, &self.rules);
                self.restless = now.saturating_add(self.rules.restless);
            }
            let delivered = if report.delivers() { Some(now) } else { before.and_then(|before| before.delivered) };
            tie.reports.insert(stream, Told { report, delivered });
        }
        // What it tells of no more.
        for stream in before.keys() {
            if let Some(held) = self.streams.get_mut(stream) {
                held.stream.stir(now, &self.rules);
                self.restless = now.saturating_add(self.rules.restless);
            }
        }
    }

    fn close(&mut self, now: u64, peer: Uuid) {
        if let Some(tie) = self.ties.get_mut(&peer) {
            tie.link.close(now);
            self.stir(now);
        }
    }

    fn step(&mut self, now: u64) -> bool {
        // While all is quiet steps are further apart, and that is no standing still.
        let apart = if self.was_restless { 0 } else { self.rules.look };
        let slept = self.last_step.replace(now).map_or(0, |last| now.saturating_sub(last));
        if slept > self.rules.pause.saturating_add(apart) {
            warn!(ms = slept / 1_000, "this process stood still; what was not heard meanwhile is nobody's failure");
            self.ties.values_mut().for_each(|tie| tie.link.slept(slept));
            self.streams.values_mut().for_each(|held| held.stream.slept(slept));
        }
        self.watch(now);
        let mut streams = std::mem::take(&mut self.streams);
        let mut changed = false;
        for (uid, held) in streams.iter_mut().filter(|(_, held)| held.stream.is_due(now)) {
            let own = self.own(held, now);
            let peers = peers(self.me, &self.ties, *uid, &held.plan, now, &self.rules);
            let action = held.stream.step(now, &self.rules, &held.plan, &own, &peers);
            self.restless = self.restless.max(held.stream.restless_until());
            if let Some(since) = held.switching.filter(|_| action.is_none() && own.footage.is_some()) {
                held.switching = None;
                self.counts.switching.add(now.saturating_sub(since));
            }
            let Some(action) = action else { continue };
            changed = true;
            let in_place = self.is_standby(&held.plan);
            match action {
                Action::Begin { epoch, from } => {
                    if in_place {
                        self.counts.takeovers += 1;
                        held.switching = Some(now);
                        let told = self.ties.values().filter_map(|tie| tie.reports.get(uid)?.delivered);
                        if let Some(delivered) = told.max() {
                            self.counts.detection.add(now.saturating_sub(delivered));
                        }
                    }
                    held.seat.wish(Wish::Record { epoch, from });
                }
                Action::End { false_alarm } => {
                    self.counts.handbacks += u64::from(in_place);
                    self.counts.false_takeovers += u64::from(in_place && false_alarm);
                    held.switching = None;
                    held.seat.wish(Wish::StandBy);
                }
                Action::Release => self.released.push(*uid),
            }
        }
        self.streams = streams;
        self.was_restless = now < self.restless;
        changed
    }

    fn is_restless(&self, now: u64) -> bool {
        now < self.restless
    }

    fn tell(&mut self, now: u64, peer: Uuid) -> (bool, Vec<(Uuid, Report)>) {
        let hears = self.ties.get(&peer).is_some_and(|tie| tie.link.hears(now, &self.rules));
        let concerns = |plan: &Assignment| plan.holders.contains(&peer) || plan.retired.contains(&peer);
        let told = self.streams.iter().filter(|(_, held)| concerns(&held.plan)).map(|(uid, held)| {
            let own = self.own(held, now);
            let peers = peers(self.me, &self.ties, *uid, &held.plan, now, &self.rules);
            (*uid, held.stream.report(now, &self.rules, &held.plan, &own, &peers, peer))
        });
        (hears, told.collect())
    }
}
