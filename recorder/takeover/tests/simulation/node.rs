//! A recorder: its cameras and its memory. What decides is real, and so is what stores: [`Site`].

use std::collections::VecDeque;

use framekeeper_media::WallTime;
use framekeeper_store::{Appended, StreamWriter};
use framekeeper_takeover::heartbeat::Heartbeat;
use framekeeper_takeover::{
    Action, Assignment, Footage, Link, Liveness, Moment, Own, Peer, PeerClock, Report, Rules, SteadyTime, Stream,
};
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::storage::{Piece, Site, frame_of};
use crate::world::Shape;

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// Between two pictures, and between two key frames.
pub(crate) const FRAME: u64 = 200 * MS;
pub(crate) const GOP: u32 = 10;
/// Pictures that the store is given at once; whole ones in a GOP.
const PIECE: u32 = 2;
/// Pictures that stay in memory; whole GOPs.
const RING: u64 = 7 * SECOND;
/// Until a camera answers.
const CONNECT: u64 = 400 * MS;

/// Bugs that the simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// What was written counts as durable before it is synced.
    DurableTooEarly,
    /// A takeover begins with the GOP behind the one that it should.
    BeginsTooLate,
    /// A recorder vouches for others for ever.
    VouchesForTheDead,
}

pub(crate) fn name(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

pub(crate) fn number(name: Uuid) -> usize {
    name.as_u128() as usize - 1
}

/// Where the group of pictures begins that a frame is in. Each camera has key frames at times of its own.
pub(crate) fn key_of(stream: usize, frame: u32) -> u32 {
    let phase = stream as u32 % GOP;
    frame.saturating_sub((frame + GOP - phase) % GOP)
}

fn time(frame: u32) -> SteadyTime {
    SteadyTime(i64::from(frame) * FRAME as i64)
}

/// A stretch of recording without a hole.
#[derive(Clone, Copy)]
struct Recorded {
    first: u32,
    /// Pictures that the store was given before, since it was opened.
    behind: u64,
}

/// A stream on a recorder.
pub(crate) struct Held {
    pub(crate) plan: Assignment,
    pub(crate) machine: Stream,
    /// While the process lives.
    writer: Option<StreamWriter>,
    /// When the camera's session stood.
    session: Option<u64>,
    /// Whole GOPs, but for the newest.
    memory: VecDeque<u32>,
    next_seen: u32,
    /// The next frame to be given to the store, while recording.
    next_written: Option<u32>,
    /// What it records begins with this frame.
    began: u32,
    /// The run that goes on, if any: the frame behind its newest one, and how far ahead the time of day was when it began.
    run: Option<(u32, i64)>,
    recorded: Option<Recorded>,
    /// The store took the newest ones.
    kept: bool,
    vouched: Vec<(Uuid, SteadyTime)>,
    /// Of its own footage.
    pub(crate) epoch: u64,
}

impl Held {
    pub(crate) fn new(plan: Assignment, me: Uuid, now: u64, epoch: u64, writer: StreamWriter) -> Self {
        Self {
            plan,
            machine: Stream::new(me, now, epoch),
            session: None,
            memory: VecDeque::new(),
            next_seen: 0,
            next_written: None,
            began: 0,
            run: None,
            recorded: None,
            kept: true,
            writer: Some(writer),
            vouched: Vec::new(),
            epoch,
        }
    }

    /// What comes next of what is in memory, if there is enough for a piece of it.
    fn next_piece(&self, stream: usize) -> Option<std::ops::Range<u32>> {
        let next = self.next_written?;
        let from = self.memory.partition_point(|frame| *frame < next);
        let start = *self.memory.get(from)?;
        let key = key_of(stream, start);
        let whole = key + (start - key) / PIECE * PIECE + PIECE;
        let there = self.memory.iter().skip(from).zip(start..whole).filter(|(there, wanted)| *there == wanted).count();
        let end = start + there as u32;
        // The rest of it may come.
        let comes = self.session.is_some() && self.memory.back() == Some(&(end - 1));
        (end == whole || !comes).then_some(start..end)
    }

    /// Gives the store what there is of whole pieces.
    fn write(&mut self, stream: usize, me: Uuid, site: &Site, ahead: i64) {
        while let (Some(frames), Some(writer)) = (self.next_piece(stream), &mut self.writer) {
            let goes_on = self.run.filter(|(end, _)| *end == frames.start);
            let ahead = goes_on.map_or(ahead, |(_, ahead)| ahead);
            if goes_on.is_none() {
                // What comes now does not follow on what was before.
                self.recorded = None;
                let rank = self.plan.rank(me).unwrap_or(self.plan.holders.len());
                writer.begin_run(site.run(self.epoch, rank as u32, self.plan.version));
            }
            let behind = writer.given();
            // What was queued before is lost: what comes does not follow on it.
            self.recorded = self.recorded.filter(|recorded| writer.lost() <= recorded.behind);
            let appended = writer.append(Piece { stream, frames: frames.clone(), ahead }.fragment());
            self.kept = appended == Appended::Queued;
            let new = Recorded { first: frames.start, behind };
            self.recorded = self.kept.then_some(self.recorded.unwrap_or(new));
            self.run = Some((frames.end, ahead));
            self.next_written = Some(frames.end);
        }
    }

    /// What is durable of what is recorded without a hole; `early`: or given to the store.
    fn footage(&self, early: bool) -> Option<Footage> {
        let Recorded { first, behind } = self.recorded?;
        self.writer.as_ref().filter(|writer| writer.lost() <= behind)?;
        let durable = || self.writer.as_ref()?.durable().filter(|durable| durable.settled > behind);
        let newest = if early { self.run?.0 - 1 } else { frame_of(durable()?.pts) };
        (newest >= first).then(|| Footage { first: time(first), durable: time(newest + 1) })
    }
}

pub(crate) struct Node {
    pub(crate) me: Uuid,
    pub(crate) up: bool,
    pub(crate) paused_until: u64,
    pub(crate) site: Site,
    pub(crate) leaving: bool,
    pub(crate) held: Vec<Option<Held>>,
    pub(crate) links: Vec<Link>,
    pub(crate) reports: Vec<Vec<Option<Report>>>,
    /// Its time of day is ahead of the true one by so much.
    pub(crate) wall_ahead: i64,
    pub(crate) clocks: Vec<PeerClock>,
    /// Lives of its process, and heartbeats that it sent.
    life: u64,
    sent: u64,
    pub(crate) next_beat: u64,
    pub(crate) last_tick: u64,
    pub(crate) slots: usize,
    /// The control plane reaches it.
    pub(crate) watches: bool,
    pub(crate) bug: Bug,
    /// Of footage of streams that it held once.
    pub(crate) epochs: Vec<u64>,
    /// Sequence numbers of the newest plans that it was told.
    pub(crate) knows: Vec<u64>,
    /// What the links said last.
    was: Vec<Liveness>,
}

impl Node {
    pub(crate) fn new(number: usize, shape: &Shape) -> Self {
        let &Shape { nodes, streams, volumes, rotating, bug, .. } = shape;
        let mut site = Site::new(name(number), volumes, rotating && number % 2 == 1);
        site.open(0);
        Self {
            me: name(number),
            up: true,
            paused_until: 0,
            site,
            leaving: false,
            held: (0..streams).map(|_| None).collect(),
            links: vec![Link::new(0); nodes],
            reports: vec![vec![None; streams]; nodes],
            wall_ahead: 0,
            clocks: vec![PeerClock::default(); nodes],
            life: 1,
            sent: 0,
            next_beat: number as u64 * 37 * MS,
            last_tick: 0,
            slots: streams,
            watches: true,
            bug,
            epochs: vec![0; streams],
            knows: vec![0; streams],
            was: vec![Liveness::Joining; nodes],
        }
    }

    /// Neither dead nor stopped.
    pub(crate) fn runs(&self, now: u64) -> bool {
        self.up && self.paused_until <= now
    }

    /// The process ends at once. With the `power` of its machine goes what is not durable.
    pub(crate) fn kill(&mut self, power: Option<&mut StdRng>) {
        self.up = false;
        self.held.iter_mut().flatten().for_each(|held| held.writer = None);
        match power {
            Some(random) => self.site.lose_power(random),
            None => self.site.kill(),
        }
    }

    /// The process begins anew: its plans are on its volumes, the rest is gone.
    pub(crate) fn start(&mut self, now: u64) {
        self.up = true;
        self.site.open(now);
        self.leaving = false;
        self.last_tick = now;
        self.next_beat = now;
        self.life += 1;
        self.sent = 0;
        self.clocks.iter_mut().for_each(|clock| *clock = PeerClock::default());
        self.links.iter_mut().for_each(|link| *link = Link::new(now));
        self.reports.iter_mut().flatten().for_each(|report| *report = None);
        for (stream, held) in self.held.iter_mut().enumerate() {
            let Some(held) = held else { continue };
            *held = Held::new(held.plan.clone(), self.me, now, held.epoch, self.site.writer(stream));
        }
    }

    /// This process did not run since its last tick.
    pub(crate) fn wake(&mut self, now: u64, rules: &Rules) {
        let slept = now - self.last_tick;
        if slept <= rules.pause {
            return;
        }
        self.links.iter_mut().for_each(|link| link.slept(slept));
        for held in self.held.iter_mut().flatten() {
            held.machine.slept(slept);
            // The camera gave up on it.
            held.session = None;
        }
    }

    /// It holds a stream from now on.
    pub(crate) fn hold(&mut self, stream: usize, plan: Assignment, now: u64) {
        let writer = self.site.writer(stream);
        self.held[stream] = Some(Held::new(plan, self.me, now, self.epochs[stream], writer));
    }

    /// Frames come, are given to the store, and leave memory: those that this one did not record are returned.
    pub(crate) fn film(&mut self, stream: usize, now: u64, camera: bool) -> Vec<u32> {
        let Some(held) = &mut self.held[stream] else { return Vec::new() };
        if !camera {
            held.session = None;
        } else if held.session.is_none() {
            held.session = Some(now + CONNECT);
        }
        let newest = (now / FRAME) as u32;
        match held.session {
            Some(since) if since <= now => {
                // Nothing can be shown before a key frame.
                let first = key_of(stream, (since / FRAME) as u32) + GOP;
                let from = held.next_seen.max(first);
                held.memory.extend(from..=newest.max(from.saturating_sub(1)));
                held.next_seen = held.next_seen.max(newest + 1);
            }
            _ => held.next_seen = newest + 1,
        }
        held.write(stream, self.me, &self.site, self.wall_ahead);
        let mut dropped = Vec::new();
        let old = |frame: u32| u64::from(frame) * FRAME + RING < now;
        while held.memory.front().is_some_and(|front| old(key_of(stream, *front) + GOP)) {
            let frame = held.memory.pop_front().unwrap();
            if held.next_written.is_none() || frame < held.began {
                dropped.push(frame);
            }
        }
        dropped
    }

    fn own(&self, stream: usize, now: u64) -> Own {
        let held = self.held[stream].as_ref().unwrap();
        let recording = |held: &&Held| held.machine.is_recording();
        let used = || self.held.iter().flatten().filter(recording).count();
        let storage = self.site.storage(stream);
        Own {
            camera: held.session.is_some_and(|since| since <= now),
            memory: held.memory.front().map(|frame| time(*frame)),
            storage: storage.takes && held.kept,
            slot: held.machine.is_recording() || self.slots >= self.held.len() || used() < self.slots,
            leaving: self.leaving,
            unsynced: storage.unsynced_us,
            footage: held.footage(self.bug == Bug::DurableTooEarly),
            gop: u64::from(GOP) * FRAME,
        }
    }

    /// Asks the real thing what to do.
    pub(crate) fn decide(&mut self, stream: usize, now: u64, rules: &Rules) -> Option<Action> {
        let held = self.held[stream].as_ref()?;
        if !held.machine.is_due(now) {
            return None;
        }
        let own = self.own(stream, now);
        let (links, reports, me) = (&self.links, &self.reports, self.me);
        let held = self.held[stream].as_mut()?;
        let peers = peers(me, links, reports, stream, now, rules);
        let action = held.machine.step(now, rules, &held.plan, &own, &peers);
        match action {
            Some(Action::Begin { from, epoch }) => {
                held.epoch = epoch;
                let next = from.map_or(0, |from| (from.0 / FRAME as i64) as u32);
                let late = if self.bug == Bug::BeginsTooLate { GOP } else { 0 };
                held.began = key_of(stream, next) + late;
                (held.next_written, held.run, held.recorded) = (Some(held.began), None, None);
            }
            Some(Action::End { .. }) => {
                // What the store was given is still written.
                (held.next_written, held.run, held.recorded, held.kept) = (None, None, None, true);
            }
            Some(Action::Release) => {
                self.epochs[stream] = held.epoch;
                self.held[stream] = None;
            }
            None => {}
        }
        action
    }

    /// The monotonic clocks of all run as one, times of day do not.
    fn moment(&self, now: u64) -> Moment {
        Moment { monotonic: now, wall: WallTime(self.wall_ahead.saturating_add_unsigned(now)) }
    }

    /// Its time of day is set.
    pub(crate) fn set_ahead(&mut self, ahead: i64) {
        self.wall_ahead = ahead;
        self.site.set_ahead(ahead);
    }

    /// What it tells another one.
    pub(crate) fn tell(&mut self, to: usize, now: u64, rules: &Rules) -> Heartbeat {
        let moment = self.moment(now);
        let mut reports = Vec::new();
        for stream in 0..self.held.len() {
            let report = self.report(stream, now, rules, to);
            reports.extend(report.map(|report| (Uuid::from_u128(stream as u128), report.told(moment))));
        }
        self.sent += 1;
        self.clocks[to].send(now, self.sent);
        Heartbeat {
            sender: self.me,
            life: self.life,
            number: self.sent,
            sent: moment.wall,
            hears_you: self.links[to].hears(now, rules),
            echo: self.clocks[to].echo(now),
            reports,
            port: 0,
            seeks: Vec::new(),
            places: Vec::new(),
        }
    }

    /// What another one told.
    pub(crate) fn hear(&mut self, from: usize, now: u64, heartbeat: Heartbeat, rules: &Rules) {
        self.links[from].hear(now, heartbeat.hears_you);
        let nothing = vec![None; self.held.len()];
        let before = std::mem::replace(&mut self.reports[from], nothing);
        let moment = self.moment(now);
        for (stream, report) in self.clocks[from].hear(moment, heartbeat) {
            self.reports[from][stream.as_u128() as usize] = Some(report);
        }
        for ((held, before), is) in self.held.iter_mut().zip(&before).zip(&self.reports[from]) {
            let is_news = match (before, is) {
                (Some(before), Some(is)) => is.is_news(before),
                (before, is) => before.is_some() != is.is_some(),
            };
            if let Some(held) = held.as_mut().filter(|_| is_news) {
                held.machine.stir(now, rules);
            }
        }
    }

    /// Looks at the links: where one changed, all is looked at.
    pub(crate) fn watch(&mut self, now: u64, rules: &Rules) {
        let is: Vec<Liveness> = self.links.iter().map(|link| link.liveness(now, rules)).collect();
        if std::mem::replace(&mut self.was, is.clone()) != is {
            self.held.iter_mut().flatten().for_each(|held| held.machine.stir(now, rules));
        }
    }

    fn report(&mut self, stream: usize, now: u64, rules: &Rules, to: usize) -> Option<Report> {
        self.held[stream].as_ref()?;
        let own = self.own(stream, now);
        let held = self.held[stream].as_mut()?;
        let peers = peers(self.me, &self.links, &self.reports, stream, now, rules);
        let mut report = held.machine.report(now, rules, &held.plan, &own, &peers, name(to));
        if self.bug == Bug::VouchesForTheDead {
            held.vouched.extend(report.hears.iter().copied());
            report.hears.clone_from(&held.vouched);
        }
        Some(report)
    }
}

fn peers<'a>(
    me: Uuid,
    links: &'a [Link],
    reports: &'a [Vec<Option<Report>>],
    stream: usize,
    now: u64,
    rules: &Rules,
) -> Vec<Peer<'a>> {
    let peer = |(number, link): (usize, &Link)| Peer {
        recorder: name(number),
        liveness: link.liveness(now, rules),
        report: reports[number][stream].as_ref(),
    };
    links.iter().enumerate().map(peer).filter(|peer| peer.recorder != me).collect()
}
