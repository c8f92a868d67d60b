//! One stream on one of its holders: begin, go on, let go.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::clock::SteadyTime;
use crate::link::Liveness;
use crate::report::{Assignment, Class, Footage, Own, Peer, Report, Standing};
use crate::rules::Rules;

/// What is told of one takeover differs by less: a report is told anew after a quarter of a second, and a peer counts as alive for 1.25 s without one.
const SAME_TAKEOVER_US: u64 = 2_000_000;

/// What a recorder does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Record it.
    Begin {
        /// Exceeds every epoch that was heard of.
        epoch: u64,
        /// Behind this everything is to be recorded that is in memory, from the group of pictures on in which it lies. `None`: nothing is
        /// known to be durable anywhere.
        from: Option<SteadyTime>,
    },
    /// Record it no more: another holder has proven that it does.
    End {
        /// That one was only not heard: it had been recording all the time.
        false_alarm: bool,
    },
    /// It is not held any more, nor recorded: the operator may forget this holder.
    Release,
}

/// Decides for one stream. Times are monotonic microseconds of this recorder.
#[derive(Clone, Debug)]
pub struct Stream {
    me: Uuid,
    since: u64,
    /// The highest epoch that was heard of.
    epoch: u64,
    recording: Option<Recording>,
    /// Up to here durable pictures of some holder followed on those of another, as far as was heard.
    covered: Option<SteadyTime>,
    /// Since when nobody records, or nobody has what is missing in another's footage.
    wanted: Option<u64>,
    /// Since when those before it are waited for that have only begun, while nothing of what they record becomes durable.
    begun: Option<u64>,
    /// Since when each holder with a lower rank delivers.
    stable: BTreeMap<Uuid, u64>,
    /// Hold and end of the last takeover that is known of, one's own or another's.
    last: Option<(u64, u64)>,
    released: bool,
    /// When it is to be asked again.
    next: u64,
    /// Until when it is to be asked at every opportunity.
    restless: u64,
}

#[derive(Clone, Debug)]
struct Recording {
    since: u64,
    /// In the place of another one: how long that must be stable before it has the stream back.
    hold: Option<u64>,
    /// Holders with a lower rank that failed before, or since.
    failed: BTreeMap<Uuid, Failing>,
}

/// How a holder failed, as far as it was seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    /// It was not heard: dead, or cut off and recording all the time.
    Unheard,
    /// It said so itself.
    Said,
}

impl Stream {
    /// A stream that `me` holds from `now` on. `epoch`: the highest in its own footage, 0 for none; a process that begins anew must not
    /// record in an epoch of its former life.
    #[must_use]
    pub const fn new(me: Uuid, now: u64, epoch: u64) -> Self {
        Self {
            me,
            since: now,
            epoch,
            recording: None,
            covered: None,
            wanted: None,
            begun: None,
            stable: BTreeMap::new(),
            last: None,
            released: false,
            next: 0,
            restless: 0,
        }
    }

    /// A stream that `me` alone held up to `now`, and records in `epoch`. From now on others are to have it.
    #[must_use]
    pub fn recorded_alone(me: Uuid, now: u64, epoch: u64) -> Self {
        let recording = Some(Recording { since: now, hold: None, failed: BTreeMap::new() });
        Self { recording, ..Self::new(me, now, epoch) }
    }

    /// Whether it is to be recorded.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// This process stood still for `slept`: nobody was stable meanwhile as far as it knows, and nobody was missed. For how long each was stable
    /// before is not forgotten: else one that stands still again and again would never give back. To be told beside [`crate::Link::slept`].
    pub fn slept(&mut self, slept: u64) {
        self.wanted = None;
        self.begun = None;
        for since in self.stable.values_mut() {
            *since = since.saturating_add(slept);
        }
        self.next = 0;
    }

    /// A link changed, the plan, or what a peer says ([`Report::is_news`]).
    pub fn stir(&mut self, now: u64, rules: &Rules) {
        self.restless = now.saturating_add(rules.restless);
    }

    /// Up to when it is to be asked at every opportunity.
    #[must_use]
    pub const fn restless_until(&self) -> u64 {
        self.restless
    }

    /// Whether [`Self::step`] is to be asked at `now`: always for a while after something changed, else now and then. Most streams are in order most
    /// of the time, and there are very many of them.
    #[must_use]
    pub const fn is_due(&self, now: u64) -> bool {
        now >= self.next || now < self.restless
    }

    /// What is to be done at `now`. To be asked twenty times a second where [`Self::is_due`] says so.
    pub fn step(
        &mut self,
        now: u64,
        rules: &Rules,
        plan: &Assignment,
        own: &Own,
        peers: &[Peer<'_>],
    ) -> Option<Action> {
        let told = peers.iter().filter_map(|peer| peer.report).map(|report| report.epoch).max().unwrap_or(0);
        self.epoch = self.epoch.max(plan.epoch).max(told);
        self.next = now.saturating_add(rules.look);
        let held_for = now.saturating_sub(self.since);
        let scene = Scene { now, rules, plan, own, peers, seat: seat(self.me, plan, peers), held_for };
        self.hear_of_takeovers(&scene);
        self.watch(&scene);
        self.cover(&scene);
        let action = if self.recording.is_some() { self.go_on(&scene) } else { self.stand_by(&scene) };
        // Whoever waits for others to begin must not wait longer than for that.
        if action.is_some() || self.wanted.is_some() {
            self.stir(now, rules);
        }
        action
    }

    /// What peer `to` is told.
    #[must_use]
    pub fn report(
        &self,
        now: u64,
        rules: &Rules,
        plan: &Assignment,
        own: &Own,
        peers: &[Peer<'_>],
        to: Uuid,
    ) -> Report {
        let recording = self.recording.as_ref();
        let held_for = now.saturating_sub(self.since);
        let scene = Scene { now, rules, plan, own, peers, seat: None, held_for };
        let heard = peers.iter().filter(|peer| scene.delivers(peer));
        Report {
            version: plan.version,
            epoch: self.epoch,
            you: if plan.rank(to).is_some() { Standing::Holder } else { Standing::Superseded },
            recording: recording.is_some(),
            able: scene.is_able(),
            leaving: own.leaving,
            unsynced: own.unsynced,
            footage: own.footage.filter(|_| recording.is_some()),
            recording_for: recording.map_or(0, |recording| now.saturating_sub(recording.since)),
            holding_for: held_for,
            hears: heard.filter_map(|peer| Some((peer.recorder, peer.report?.footage?.durable))).collect(),
            last_takeover: self.last.map(|(hold, ended)| (hold, now.saturating_sub(ended))),
        }
    }

    /// Remembers the last takeover that peers tell of: who did it may be gone when it is asked for.
    fn hear_of_takeovers(&mut self, scene: &Scene<'_>) {
        let alive = scene.peers.iter().filter(|peer| peer.liveness == Liveness::Alive);
        for (hold, ago) in alive.filter_map(|peer| peer.report?.last_takeover) {
            self.remember(hold, scene.now.saturating_sub(ago));
        }
    }

    /// A takeover ended. What is told ages on its way and until it is told anew, and comes back from others: a known one must not get younger by that.
    fn remember(&mut self, hold: u64, ended: u64) {
        match &mut self.last {
            Some((known, at)) if ended <= at.saturating_add(SAME_TAKEOVER_US) => {
                if ended.saturating_add(SAME_TAKEOVER_US) >= *at {
                    *known = hold.max(*known);
                }
            }
            last => *last = Some((hold, ended)),
        }
    }

    /// Notes since when those before it deliver, and which of them fail while it records in their place.
    fn watch(&mut self, scene: &Scene<'_>) {
        for better in scene.better() {
            let peer = scene.peer(better);
            if peer.is_some_and(|peer| scene.delivers(peer)) {
                self.stable.entry(better).or_insert(scene.now);
                continue;
            }
            let was = self.stable.remove(&better).is_some();
            if let Some(recording) = self.recording.as_mut().filter(|_| was) {
                recording.failed.insert(better, failing(peer));
            }
        }
    }

    /// Moves on what is covered, through footage that follows on it. A hole that this one can do nothing about is passed over.
    fn cover(&mut self, scene: &Scene<'_>) {
        let told = scene.peers.iter().filter_map(|peer| peer.report?.footage);
        // What this one has recorded is all that it had.
        let own = scene.own.footage.filter(|_| self.recording.is_some());
        let mut covered = self.covered.max(own.map(|own| own.durable));
        loop {
            let follows = |footage: &Footage| covered.is_none_or(|covered| footage.first <= covered);
            let next = told.clone().filter(follows).map(|footage| footage.durable).max();
            let helpless = |footage: &Footage| scene.own.memory.is_none_or(|memory| memory >= footage.first);
            let over = || told.clone().filter(helpless).map(|footage| footage.durable).max();
            let further = covered.max(next).max(over());
            if further == covered {
                break;
            }
            covered = further;
        }
        self.covered = covered;
    }

    /// Pictures are missing before those that another one has, which this one may have in memory, and nobody else is about it.
    fn is_missed(&self, scene: &Scene<'_>) -> bool {
        let Some(covered) = self.covered else { return false };
        let recording = || scene.peers.iter().filter(|peer| scene.delivers(peer)).filter_map(|peer| peer.report);
        let has_hole = |report: &Report| report.footage.is_some_and(|its| its.first > covered);
        let newest = recording().filter_map(|report| report.footage).map(|its| its.durable).max();
        let is_behind = |report: &Report| newest.is_some_and(|newest| scene.is_behind(report, newest));
        recording().any(has_hole) && recording().all(|report| has_hole(report) || is_behind(report))
    }

    fn stand_by(&mut self, scene: &Scene<'_>) -> Option<Action> {
        let Some(rank) = scene.seat else {
            return (!std::mem::replace(&mut self.released, true)).then_some(Action::Release);
        };
        self.released = false;
        if scene.own.leaving {
            return None;
        }
        if rank == 0 || scene.plan.class == Class::Mirrored {
            return Some(self.begin(scene, None));
        }
        if !scene.is_able() || (scene.somebody_records() && !self.is_missed(scene)) {
            self.wanted = None;
            // One that ends again before anything of it is durable has not come.
            if !scene.is_able() || scene.somebody_keeps() {
                self.begun = None;
            }
            return None;
        }
        if scene.better().any(|better| scene.peer(better).is_none_or(|peer| scene.may_come(peer))) {
            return None;
        }
        // Not in each life anew of one that ends and begins again and again.
        if scene.better().filter_map(|better| scene.peer(better)).any(|peer| scene.has_begun(peer)) {
            let begun = *self.begun.get_or_insert(scene.now);
            if scene.now.saturating_sub(begun) < scene.rules.joining {
                return None;
            }
        }
        // Those before it that could: each is given time to begin, as it may not have seen the failure yet.
        let wanted = *self.wanted.get_or_insert(scene.now);
        let before = scene.better().filter_map(|better| scene.peer(better));
        // One that records already will not record what it did not get.
        let able = before.filter(|peer| scene.could(peer) && !scene.delivers(peer)).count();
        if scene.now.saturating_sub(wanted) < scene.rules.patience.saturating_mul(able as u64) {
            return None;
        }
        let hold = scene.rules.next_hold(self.last.map(|(hold, ended)| (hold, scene.now.saturating_sub(ended))));
        Some(self.begin(scene, Some(hold)))
    }

    fn begin(&mut self, scene: &Scene<'_>, hold: Option<u64>) -> Action {
        self.wanted = None;
        self.begun = None;
        // Whoever says the highest that there is does not begin them anew.
        self.epoch = self.epoch.saturating_add(1);
        // One that is back before anybody missed it has failed all the same: it does not go on with what there is.
        let has_hole = |peer: &Peer<'_>| {
            let follows =
                |covered| peer.report.and_then(|report| report.footage).is_some_and(|its| its.first <= covered);
            self.covered.is_some_and(|covered| !follows(covered))
        };
        let failed = scene.better().filter_map(|better| {
            let peer = scene.peer(better);
            (!peer.is_some_and(|peer| scene.could(peer) && !has_hole(peer))).then(|| (better, failing(peer)))
        });
        let failed: BTreeMap<Uuid, Failing> = failed.collect();
        // However long it had been stable before.
        self.stable.retain(|better, _| !failed.contains_key(better));
        self.recording = Some(Recording { since: scene.now, hold, failed });
        Action::Begin { epoch: self.epoch, from: self.covered }
    }

    fn go_on(&mut self, scene: &Scene<'_>) -> Option<Action> {
        let recording = self.recording.as_ref()?;
        let going = scene.own.leaving || scene.seat.is_none();
        if !going && (scene.seat == Some(0) || scene.plan.class == Class::Mirrored) {
            return None;
        }
        let mut others = scene.peers.iter().filter(|peer| scene.delivers(peer) && !scene.is_leaving(peer));
        // Without pictures of one's own there is nothing to hand over.
        let idle = !scene.own.camera || !scene.own.storage || !scene.own.slot;
        let done = others.any(|peer| {
            let proven = scene.proves(peer);
            if going {
                return proven && scene.is_holder(peer);
            }
            let better = scene.better().any(|better| better == peer.recorder);
            // It began because of a hole in the other's footage, and has not filled it yet.
            let owes = scene.own.footage.is_none() && self.is_missed(scene);
            (better && proven && !owes && self.has_waited(recording, scene, peer)) || (idle && peer.recorder != self.me)
        });
        // Who is to have it knows, and from here there is nothing to be seen: neither need wait for the camera.
        let is_told = |peer: &Peer<'_>| {
            let knows = peer.report.is_some_and(|report| report.version >= scene.plan.version);
            peer.liveness == Liveness::Alive && knows && scene.is_holder(peer)
        };
        let needless = scene.seat.is_none() && idle && scene.peers.iter().any(is_told);
        if !done && !needless {
            return None;
        }
        let false_alarm = scene.better().filter_map(|better| scene.peer(better)).any(|peer| {
            scene.delivers(peer)
                && recording.failed.get(&peer.recorder) == Some(&Failing::Unheard)
                && scene.recorded_before(peer)
        });
        if let Some(hold) = recording.hold {
            self.remember(hold, scene.now);
        }
        self.recording = None;
        Some(Action::End { false_alarm })
    }

    /// Whether a holder that failed has been back for long enough.
    fn has_waited(&self, recording: &Recording, scene: &Scene<'_>, peer: &Peer<'_>) -> bool {
        let Some(failing) = recording.failed.get(&peer.recorder) else { return true };
        let Some(report) = peer.report else { return false };
        let age = scene.now.saturating_sub(recording.since);
        // Cut off, and never stopped. A standby that began meanwhile, and did not die, did so for the same reason as this one.
        let beside = scene.plan.rank(peer.recorder) != Some(0) && report.holding_for >= age;
        if *failing == Failing::Unheard && (scene.recorded_before(peer) || beside) {
            return true;
        }
        let stable = self.stable.get(&peer.recorder).map_or(0, |since| scene.now.saturating_sub(*since));
        stable >= recording.hold.unwrap_or(scene.rules.hold)
    }
}

fn failing(peer: Option<&Peer<'_>>) -> Failing {
    match peer {
        Some(peer) if peer.liveness == Liveness::Alive => Failing::Said,
        _ => Failing::Unheard,
    }
}

/// The rank of `me`, unless a newer plan than its own is known to have it no more.
fn seat(me: Uuid, plan: &Assignment, peers: &[Peer<'_>]) -> Option<usize> {
    let superseded = peers
        .iter()
        .filter_map(|peer| peer.report)
        .any(|report| report.you == Standing::Superseded && report.version > plan.version);
    plan.rank(me).filter(|_| !superseded)
}

/// All that one decision goes by.
struct Scene<'a> {
    now: u64,
    rules: &'a Rules,
    plan: &'a Assignment,
    own: &'a Own,
    peers: &'a [Peer<'a>],
    seat: Option<usize>,
    /// For how long this recorder has been holding the stream.
    held_for: u64,
}

impl<'a> Scene<'a> {
    /// The holders before this one.
    fn better(&self) -> impl Iterator<Item = Uuid> + use<'a> {
        self.plan.holders.iter().take(self.seat.unwrap_or(0)).copied()
    }

    fn peer(&self, recorder: Uuid) -> Option<&'a Peer<'a>> {
        self.peers.iter().find(|peer| peer.recorder == recorder)
    }

    fn is_able(&self) -> bool {
        let own = self.own;
        own.camera && own.storage && own.slot && !own.leaving
    }

    /// Its disk is slower than it may be, and this one's is better.
    fn is_slow(&self, report: &Report) -> bool {
        report.unsynced >= self.rules.slow_disk && self.own.storage && self.own.unsynced < report.unsynced / 2
    }

    /// Frames come and become durable there.
    fn delivers(&self, peer: &Peer<'_>) -> bool {
        peer.liveness == Liveness::Alive && peer.report.is_some_and(|report| report.delivers() && !self.is_slow(report))
    }

    fn is_leaving(&self, peer: &Peer<'_>) -> bool {
        peer.report.is_some_and(|report| report.leaving)
    }

    /// It would record if it knew that nobody does.
    fn could(&self, peer: &Peer<'_>) -> bool {
        let fit = |report: &Report| report.able && !report.leaving && !self.is_slow(report);
        peer.liveness == Liveness::Alive && peer.report.is_some_and(fit)
    }

    /// It is about to be heard, or to be told of the stream.
    fn may_come(&self, peer: &Peer<'_>) -> bool {
        match peer.liveness {
            Liveness::Joining => true,
            Liveness::Alive => peer.report.is_none() && self.held_for < self.rules.joining,
            Liveness::Failed => false,
        }
    }

    /// It is about to see the camera for the first time.
    fn has_begun(&self, peer: &Peer<'_>) -> bool {
        let begun = |report: &Report| {
            report.recording && !report.able && !report.leaving && report.holding_for < self.rules.joining
        };
        peer.liveness == Liveness::Alive && peer.report.is_some_and(begun)
    }

    /// Another one records, by what it says, or by what those say that hear it.
    fn somebody_records(&self) -> bool {
        self.somebody(|_| true)
    }

    /// Another one records, and something of it is durable.
    fn somebody_keeps(&self) -> bool {
        self.somebody(|report| report.footage.is_some())
    }

    /// Another one records, by what those say that hear it, or by what it says itself, where that is so.
    fn somebody(&self, is_so: impl Fn(&Report) -> bool) -> bool {
        let says_so = |peer: &Peer<'_>| peer.report.is_some_and(&is_so);
        let direct = |peer: &Peer<'_>| self.delivers(peer) && !self.is_leaving(peer) && says_so(peer);
        let hears_it = |who: Uuid| self.peer(who).is_some_and(|peer| peer.liveness == Liveness::Alive);
        let alive = self.peers.iter().filter(|peer| peer.liveness == Liveness::Alive);
        let told = alive.filter_map(|peer| peer.report).flat_map(|report| &report.hears);
        // Of one that is heard here, nobody else's word is needed; and what is said of this one is not news.
        let by_others = |who: Uuid| self.plan.rank(who).is_some_and(|rank| Some(rank) != self.seat) && !hears_it(who);
        self.peers.iter().any(direct) || told.map(|(who, _)| *who).any(by_others)
    }

    /// By the plan of one of the two, the newer one, it holds the stream.
    fn is_holder(&self, peer: &Peer<'_>) -> bool {
        let newer = peer.report.is_some_and(|report| report.version > self.plan.version);
        newer || self.plan.rank(peer.recorder).is_some()
    }

    /// It is further behind a picture that is durable elsewhere than its disk is: it stood still or saw nothing since, and does not know yet that there
    /// is a hole; or it knows, and has nothing behind it yet.
    fn is_behind(&self, report: &Report, newest: SteadyTime) -> bool {
        let behind = match report.footage {
            Some(its) => u64::try_from(newest.0.saturating_sub(its.durable.0)).unwrap_or(0),
            None => report.recording_for,
        };
        behind > report.unsynced.saturating_add(self.rules.silence)
    }

    /// What it records without a hole begins no later than what is recorded here.
    fn recorded_before(&self, peer: &Peer<'_>) -> bool {
        let its = peer.report.and_then(|report| report.footage);
        its.zip(self.own.footage).is_some_and(|(its, mine)| its.first <= mine.first)
    }

    /// It goes by a plan that is no older, and has a whole group of pictures durable of the time in which this one recorded as well, or, where
    /// this one has none of its own, any. And it is not behind.
    fn proves(&self, peer: &Peer<'_>) -> bool {
        let Some(report) = peer.report.filter(|report| report.version >= self.plan.version) else { return false };
        let Some(its) = report.footage else { return false };
        let Some(mine) = self.own.footage else { return true };
        if self.is_behind(report, mine.durable) {
            return false;
        }
        let common = its.durable.0.saturating_sub(its.first.0.max(mine.first.0));
        its.first <= mine.durable && u64::try_from(common).is_ok_and(|common| common >= self.own.gop)
    }
}
