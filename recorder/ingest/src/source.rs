//! One source: attempts, the session that plays, what its sink is told, and when the next attempt is due.
//!
//! ```text
//! Waiting(due) ── bucket gives ──► Running: opening ─(held)─► ready ── PLAY ──► Running: playing
//!      ▲                              │ failed, too slow            │ ended, silent, panicked
//!      └──────── back-off ────────────┴─────────────────────────────┘
//! ```
//! Time and chance come in as values; the only I/O is the session's own.

use std::sync::Arc;
use std::time::Duration;

use framekeeper_media::identity::inspect;
use framekeeper_media::{AccessUnit, FrameFlags, unit::VIDEO_CLOCK_HZ};

use crate::backoff::{Backoff, BackoffLimits};
use crate::contain::contain;
use crate::engine::{Engine, Failure, Item, Progress, Session, Traffic, VideoUnit};
use crate::event::{Event, SessionEnd, SessionEndKind, Sink, StreamParameters, TickTime};
use crate::key_frames::KeyFrames;
use crate::silence::{Silence, SilenceLimits, SilenceWatch};
use crate::spec::SourceSpec;
use crate::stats::{Counters, SourceStats};
use crate::time_jump::{Arrival, JumpWatch};

/// Reading all sockets takes less than this; a process that was stopped meanwhile takes longer.
const STOOD_STILL_US: u64 = 50_000;

/// The limits that all sources share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) silence: SilenceLimits,
    pub(crate) handshake: Duration,
    pub(crate) backoff: BackoffLimits,
}

pub(crate) struct Source {
    spec: SourceSpec,
    sink: Box<dyn Sink>,
    stats: SourceStats,
    published: Arc<Counters>,
    backoff: Backoff,
    /// The session is set up, and not played: [`Sink::holds`] when that was asked last.
    held: bool,
    state: State,
}

enum State {
    /// The next attempt is due at this monotonic time.
    Waiting { due_us: u64 },
    /// An attempt is under way, or a session plays.
    Running(Box<Running>),
}

struct Running {
    session: Box<dyn Session>,
    /// When the attempt began, or when a session that was held was told to play.
    started_us: u64,
    /// When the session was read before, monotonic: what is read now arrived since then.
    read_us: u64,
    /// Since when the session has been set up and held.
    ready_since_us: Option<u64>,
    /// Counted of this session already.
    counted: Traffic,
    playing: Option<Playing>,
}

struct Playing {
    silence: SilenceWatch,
    parameters: Option<Box<StreamParameters>>,
    video_jump: JumpWatch,
    audio_jump: JumpWatch,
    /// When the first frame was delivered; frames are from the first random access point on.
    delivering_since_us: Option<u64>,
    key_frames: KeyFrames,
}

impl Source {
    pub(crate) fn new(spec: SourceSpec, sink: Box<dyn Sink>, published: Arc<Counters>, now: TickTime) -> Self {
        Self {
            spec,
            sink,
            stats: SourceStats::default(),
            published,
            backoff: Backoff::default(),
            held: false,
            state: State::Waiting { due_us: now.monotonic_us },
        }
    }

    /// Higher starts first.
    pub(crate) fn priority(&self) -> i32 {
        self.spec.priority
    }

    /// When the next attempt is due, if none is under way.
    pub(crate) fn due_us(&self) -> Option<u64> {
        match self.state {
            State::Waiting { due_us } => Some(due_us),
            State::Running(_) => None,
        }
    }

    /// When the attempt that is under way began.
    pub(crate) fn opening_since_us(&self) -> Option<u64> {
        match &self.state {
            State::Running(running) if running.playing.is_none() && running.ready_since_us.is_none() => {
                Some(running.started_us)
            }
            _ => None,
        }
    }

    /// Begins an attempt.
    pub(crate) fn start(&mut self, engine: &dyn Engine, at: TickTime, limits: &Limits, random: f64) {
        self.stats.attempts += 1;
        let opened = contain(|| {
            self.held = self.sink.holds();
            self.sink.event(at, Event::Connecting);
            engine.open(&self.spec, self.held)
        });
        match opened {
            Ok(session) => {
                let running = Running {
                    session,
                    started_us: at.monotonic_us,
                    read_us: at.monotonic_us,
                    ready_since_us: None,
                    counted: Traffic::default(),
                    playing: None,
                };
                self.state = State::Running(Box::new(running));
            }
            Err(report) => self.panicked(at, limits, random, &report),
        }
    }

    /// Reads what has arrived and tells the sink. `now` is asked once it is read.
    pub(crate) fn read(
        &mut self,
        at: TickTime,
        now: &dyn Fn() -> TickTime,
        limits: &Limits,
        random: f64,
        items: &mut Vec<Item>,
    ) {
        let State::Running(running) = &mut self.state else { return };
        let (sink, stats) = (&mut self.sink, &mut self.stats);
        items.clear();
        let outcome = contain(|| running.step(at, now, limits, sink.as_mut(), stats, items));
        items.clear();
        match outcome {
            Ok(None) => {}
            Ok(Some(failure)) => self.ended(at, limits, random, failure),
            Err(report) => self.panicked(at, limits, random, &report),
        }
    }

    /// All sockets were read: tells the sink, publishes the counters.
    pub(crate) fn tick(&mut self, at: TickTime, limits: &Limits, random: f64) {
        let sink = &mut self.sink;
        let told = contain(|| {
            sink.tick(at);
            sink.holds()
        });
        match told {
            Ok(hold) if hold != self.held => self.set_held(hold, at),
            Ok(_) => {}
            Err(report) => self.panicked(at, limits, random, &report),
        }
        self.stats.playing = matches!(&self.state, State::Running(running) if running.playing.is_some());
        self.published.publish(&self.stats);
    }

    /// Takes a changed spec. Where the session that is there serves it as well, it goes on; a waiting source tries at once.
    pub(crate) fn update(&mut self, spec: SourceSpec, at: TickTime) {
        let same_session = self.spec.same_session(&spec);
        let same_credentials = self.spec.credentials == spec.credentials;
        self.spec = spec;
        if same_session && same_credentials {
            return;
        }
        let plays = matches!(&self.state, State::Running(running) if running.playing.is_some());
        if same_session && plays {
            return;
        }
        self.begin_anew("the source was changed; connecting anew", at);
    }

    /// It is to be held from now on, or to play.
    fn set_held(&mut self, hold: bool, at: TickTime) {
        self.held = hold;
        let runs = matches!(self.state, State::Running(_));
        if hold && runs {
            self.begin_anew("setting up a session that does not play", at);
        } else if !hold && !self.play(at) {
            self.begin_anew("connecting to play", at);
        }
    }

    fn begin_anew(&mut self, message: &str, at: TickTime) {
        self.backoff.reset();
        if matches!(self.state, State::Running(_)) {
            self.close();
            let message = message.to_owned();
            self.tell_end(at, SessionEnd { kind: SessionEndKind::Stopped, message, retry_in_us: Some(0) });
        }
        self.state = State::Waiting { due_us: at.monotonic_us };
    }

    /// Plays a session that was held. False if there is none.
    fn play(&mut self, at: TickTime) -> bool {
        let State::Running(running) = &mut self.state else { return false };
        (running.started_us, running.ready_since_us) = (at.monotonic_us, None);
        // A panic is met again, and told, at the next read.
        contain(|| running.session.play(at)).is_ok()
    }

    /// The last that the sink hears.
    pub(crate) fn stop(&mut self, at: TickTime) {
        self.close();
        let message = "the source was removed".to_owned();
        self.tell_end(at, SessionEnd { kind: SessionEndKind::Stopped, message, retry_in_us: None });
        self.stats.playing = false;
        self.published.publish(&self.stats);
    }

    fn close(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Waiting { due_us: u64::MAX });
        // What panicked may panic again when it is dropped.
        if let Err(report) = contain(|| drop(state)) {
            tracing::warn!(report, "closing a session panicked");
        }
    }

    fn tell_end(&mut self, at: TickTime, end: SessionEnd) {
        let sink = &mut self.sink;
        if let Err(report) = contain(|| sink.event(at, Event::Ended(end))) {
            tracing::error!(report, "a sink panicked at the end of a session");
        }
    }

    fn ended(&mut self, at: TickTime, limits: &Limits, random: f64, failure: Failure) {
        let played_us = match &self.state {
            State::Running(running) => running.good_for_us(at),
            State::Waiting { .. } => 0,
        };
        self.close();
        let delay = self.backoff.after(&limits.backoff, failure.kind, Duration::from_micros(played_us), random);
        let retry_in_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.state = State::Waiting { due_us: at.monotonic_us.saturating_add(retry_in_us) };
        let message = match &self.spec.credentials {
            Some(credentials) => credentials.redact(&failure.message),
            None => failure.message,
        };
        self.tell_end(at, SessionEnd { kind: failure.kind, message, retry_in_us: Some(retry_in_us) });
    }

    fn panicked(&mut self, at: TickTime, limits: &Limits, random: f64, report: &str) {
        self.stats.panics += 1;
        let message = format!("the session's code panicked, which is a bug: {report}");
        self.ended(at, limits, random, Failure::new(SessionEndKind::Internal, message));
    }
}

impl Running {
    /// How long it has delivered, or been ready to.
    fn good_for_us(&self, at: TickTime) -> u64 {
        let since = self.playing.as_ref().and_then(|p| p.delivering_since_us).or(self.ready_since_us);
        since.map_or(0, |since| at.monotonic_us.saturating_sub(since))
    }

    /// One tick of a session; a failure ends it.
    fn step(
        &mut self,
        at: TickTime,
        now: &dyn Fn() -> TickTime,
        limits: &Limits,
        sink: &mut dyn Sink,
        stats: &mut SourceStats,
        items: &mut Vec<Item>,
    ) -> Option<Failure> {
        let progress = self.session.read(at, items);
        // Where the process stood still in the middle of a tick, what was read may have arrived long after the tick began: by its time frames would
        // have been here before the camera had them.
        let read = now();
        let at = if read.monotonic_us.saturating_sub(at.monotonic_us) > STOOD_STILL_US { read } else { at };
        let now_us = at.monotonic_us;
        let arrival = Arrival { from_us: std::mem::replace(&mut self.read_us, now_us), to_us: now_us };
        let heard = self.count(at, stats);
        if self.playing.is_none() && (progress == Progress::Playing || !items.is_empty()) {
            stats.sessions += 1;
            self.playing = Some(Playing {
                silence: SilenceWatch::new(limits.silence, now_us),
                parameters: None,
                video_jump: JumpWatch::default(),
                audio_jump: JumpWatch::default(),
                delivering_since_us: None,
                key_frames: KeyFrames::default(),
            });
        }
        if let Some(playing) = &mut self.playing {
            if heard {
                playing.silence.packet(now_us);
            }
            for item in items.drain(..) {
                playing.item(at, arrival, item, sink, stats);
            }
            if playing.key_frames.ask(now_us) {
                self.session.want_key_frame();
                sink.event(at, Event::KeyFrameWanted);
            }
        }
        if progress == Progress::Ready && self.ready_since_us.is_none() {
            self.ready_since_us = Some(now_us);
            sink.event(at, Event::Ready);
        }
        match (progress, &self.playing) {
            (Progress::Ended(failure), _) => Some(failure),
            (Progress::Ready, _) => None,
            (_, Some(playing)) => playing.silence.check(now_us).map(|silence| silence_failure(silence, limits)),
            (_, None) => {
                let waited = Duration::from_micros(now_us.saturating_sub(self.started_us));
                (waited >= limits.handshake).then(|| {
                    let limit = limits.handshake.as_secs();
                    let message =
                        format!("no session within {limit} s: the camera does not answer, or answers too slowly");
                    Failure::new(SessionEndKind::Unreachable, message)
                })
            }
        }
    }

    /// Adds what the session counted since the last time; true if a packet came.
    fn count(&mut self, at: TickTime, stats: &mut SourceStats) -> bool {
        let new = self.session.traffic();
        let old = std::mem::replace(&mut self.counted, new);
        stats.bytes += new.bytes.saturating_sub(old.bytes);
        stats.packets += new.packets.saturating_sub(old.packets);
        stats.lost_packets += new.lost_packets.saturating_sub(old.lost_packets);
        stats.malformed_packets += new.malformed_packets.saturating_sub(old.malformed_packets);
        stats.damaged_frames += new.damaged_frames.saturating_sub(old.damaged_frames);
        let heard = new.packets > old.packets;
        if heard {
            stats.last_packet = Some(at.wall);
        }
        heard
    }
}

impl Playing {
    fn item(&mut self, at: TickTime, arrival: Arrival, item: Item, sink: &mut dyn Sink, stats: &mut SourceStats) {
        match item {
            Item::Parameters(parameters) => {
                let told_before = self.parameters.replace(parameters.clone()).is_some();
                sink.event(at, if told_before { Event::Parameters(parameters) } else { Event::Playing(parameters) });
            }
            Item::Video(unit) => self.video(at, arrival, unit, sink, stats),
            Item::Audio(frame) => {
                // Audio before the first picture would be a stretch of a recording with nothing to see.
                if self.delivering_since_us.is_none() {
                    return;
                }
                let clock_hz = self.parameters.as_ref().and_then(|p| p.audio.as_ref()).map_or(1, |a| a.sample_rate);
                if self.audio_jump.frame(frame.pts.0, clock_hz, arrival) {
                    sink.event(at, Event::TimeJump);
                }
                stats.audio_frames += 1;
                sink.event(at, Event::Audio(frame));
            }
            Item::VideoReport(report) => sink.event(at, Event::VideoReport(report)),
            Item::AudioReport(report) => sink.event(at, Event::AudioReport(report)),
        }
    }

    fn video(&mut self, at: TickTime, arrival: Arrival, unit: VideoUnit, sink: &mut dyn Sink, stats: &mut SourceStats) {
        self.silence.video(at.monotonic_us);
        let inspected = inspect(&unit.data);
        let mut flags = inspected.flags;
        self.key_frames.picture(at.monotonic_us, flags.contains(FrameFlags::RANDOM_ACCESS), unit.lost_packets > 0);
        let jumped = self.video_jump.frame(unit.pts.0, VIDEO_CLOCK_HZ, arrival);
        if self.delivering_since_us.is_none() {
            if self.parameters.is_none() || !flags.contains(FrameFlags::RANDOM_ACCESS) {
                stats.skipped_frames += 1;
                return;
            }
            self.delivering_since_us = Some(at.monotonic_us);
        } else {
            if unit.lost_packets > 0 {
                flags = flags.with(FrameFlags::LOSS_BEFORE);
                sink.event(at, Event::Loss { packets: unit.lost_packets });
            }
            if jumped {
                sink.event(at, Event::TimeJump);
            }
        }
        stats.video_frames += 1;
        sink.event(
            at,
            Event::Video(AccessUnit { data: unit.data, pts: unit.pts, flags, identity: inspected.identity }),
        );
    }
}

fn silence_failure(silence: Silence, limits: &Limits) -> Failure {
    let message = match silence {
        Silence::Any => format!("no packet for {} s", limits.silence.any.as_secs_f32()),
        Silence::Video => {
            format!("no video frame for {} s, though other packets come", limits.silence.video.as_secs_f32())
        }
    };
    Failure::new(SessionEndKind::Silence, message)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
