//! A recorder: its cameras, its memory, its disk. Only what decides is real.

use std::collections::VecDeque;

use framekeeper_media::WallTime;
use framekeeper_takeover::heartbeat::Heartbeat;
use framekeeper_takeover::{
    Action, Assignment, Footage, Link, Moment, Own, Peer, PeerClock, Report, Rules, SteadyTime, Stream,
};
use uuid::Uuid;

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// Between two pictures, and between two key frames.
pub(crate) const FRAME: u64 = 200 * MS;
pub(crate) const GOP: u32 = 10;
/// From a picture to its being durable.
const SYNC: u64 = 600 * MS;
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

fn time(frame: u32) -> SteadyTime {
    SteadyTime(i64::from(frame) * FRAME as i64)
}

/// A stream on a recorder.
pub(crate) struct Held {
    pub(crate) plan: Assignment,
    pub(crate) machine: Stream,
    /// When the camera's session stood.
    session: Option<u64>,
    /// Whole GOPs, but for the newest.
    memory: VecDeque<u32>,
    next_seen: u32,
    /// The next frame to be written, while recording.
    next_written: Option<u32>,
    pub(crate) pending: VecDeque<(u32, u64)>,
    footage: Option<Footage>,
    vouched: Vec<(Uuid, SteadyTime)>,
    /// Of its own footage.
    epoch: u64,
}

impl Held {
    pub(crate) fn new(plan: Assignment, me: Uuid, now: u64, epoch: u64) -> Self {
        Self {
            plan,
            machine: Stream::new(me, now, epoch),
            session: None,
            memory: VecDeque::new(),
            next_seen: 0,
            next_written: None,
            pending: VecDeque::new(),
            footage: None,
            vouched: Vec::new(),
            epoch,
        }
    }
}

/// What happens to a stream's frames.
pub(crate) enum Fate {
    Durable(u32),
    /// Out of the memory of a recorder that did not record it.
    Dropped(u32),
}

pub(crate) struct Node {
    pub(crate) me: Uuid,
    pub(crate) up: bool,
    pub(crate) paused_until: u64,
    pub(crate) disk_fails: bool,
    pub(crate) disk_hangs: bool,
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
}

impl Node {
    pub(crate) fn new(number: usize, nodes: usize, streams: usize, bug: Bug) -> Self {
        Self {
            me: name(number),
            up: true,
            paused_until: 0,
            disk_fails: false,
            disk_hangs: false,
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
        }
    }

    /// The process begins anew: its plans are on its volumes, the rest is gone.
    pub(crate) fn start(&mut self, now: u64) {
        self.up = true;
        self.leaving = false;
        self.last_tick = now;
        self.next_beat = now;
        self.life += 1;
        self.sent = 0;
        self.clocks.iter_mut().for_each(|clock| *clock = PeerClock::default());
        self.links.iter_mut().for_each(|link| *link = Link::new(now));
        self.reports.iter_mut().flatten().for_each(|report| *report = None);
        for held in self.held.iter_mut().flatten() {
            *held = Held::new(held.plan.clone(), self.me, now, held.epoch);
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
            held.machine.slept();
            // The camera gave up on it.
            held.session = None;
        }
    }

    /// Frames come, are written, become durable, and leave memory.
    pub(crate) fn film(&mut self, stream: usize, now: u64, camera: bool) -> Vec<Fate> {
        let (fails, hangs, early) = (self.disk_fails, self.disk_hangs, self.bug == Bug::DurableTooEarly);
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
                let first = ((since / FRAME) as u32 + 1).next_multiple_of(GOP);
                let from = held.next_seen.max(first);
                held.memory.extend(from..=newest.max(from.saturating_sub(1)));
                held.next_seen = held.next_seen.max(newest + 1);
            }
            _ => held.next_seen = newest + 1,
        }
        if let Some(next) = &mut held.next_written {
            let new: Vec<u32> = held.memory.iter().copied().filter(|frame| frame >= next).collect();
            *next = new.last().map_or(*next, |last| last + 1);
            if early {
                new.iter().for_each(|frame| note(&mut held.footage, *frame));
            }
            held.pending.extend(new.into_iter().map(|frame| (frame, now)));
        }
        let mut fates = Vec::new();
        while let Some((frame, since)) = held.pending.front().copied() {
            if fails || hangs || now - since < SYNC {
                break;
            }
            held.pending.pop_front();
            if !early {
                note(&mut held.footage, frame);
            }
            fates.push(Fate::Durable(frame));
        }
        let old = |frame: u32| u64::from(frame) * FRAME + RING < now;
        while held.memory.front().is_some_and(|front| old(front - front % GOP + GOP)) {
            let frame = held.memory.pop_front().unwrap();
            if held.next_written.is_none() {
                fates.push(Fate::Dropped(frame));
            }
        }
        fates
    }

    pub(crate) fn own(&self, stream: usize, now: u64) -> Own {
        let held = self.held[stream].as_ref().unwrap();
        let recording = |held: &&Held| held.machine.is_recording();
        let oldest = self.held.iter().flatten().filter_map(|held| Some(held.pending.front()?.1)).min();
        Own {
            camera: held.session.is_some_and(|since| since <= now),
            memory: held.memory.front().map(|frame| time(*frame)),
            storage: !self.disk_fails,
            slot: held.machine.is_recording() || self.held.iter().flatten().filter(recording).count() < self.slots,
            leaving: self.leaving,
            unsynced: oldest.map_or(0, |since| now - since),
            footage: held.footage.filter(|_| held.next_written.is_some()),
            gop: u64::from(GOP) * FRAME,
        }
    }

    /// Asks the real thing what to do.
    pub(crate) fn decide(&mut self, stream: usize, now: u64, rules: &Rules) -> Option<Action> {
        self.held[stream].as_ref()?;
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
                held.next_written = Some(next - next % GOP + late);
                held.footage = None;
            }
            Some(Action::End) => {
                // What was taken is still written.
                held.next_written = None;
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
        }
    }

    /// What another one told.
    pub(crate) fn hear(&mut self, from: usize, now: u64, heartbeat: Heartbeat) {
        self.links[from].hear(now, heartbeat.hears_you);
        self.reports[from].iter_mut().for_each(|report| *report = None);
        let moment = self.moment(now);
        for (stream, report) in self.clocks[from].hear(moment, heartbeat) {
            self.reports[from][stream.as_u128() as usize] = Some(report);
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

/// One more frame is durable, or said to be.
fn note(footage: &mut Option<Footage>, frame: u32) {
    let durable = time(frame + 1);
    *footage = match *footage {
        Some(known) if known.durable == time(frame) => Some(Footage { durable, ..known }),
        _ => Some(Footage { first: time(frame), durable }),
    };
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
