//! The state machine of one slot: what a source tells and what time it is go in, what to write and what to report come out.
//!
//! ```text
//!   Connecting ── Playing ──► waiting for a key frame ── Video ──► Recording
//!       ▲                            │                                │
//!       └────────── retry ───── Backoff ◄──────── Ended ──────────────┘        Failed: no retry will come
//! ```
//! A run begins with a session's first frame, and again where RTP time jumped or the epoch is another one; then the pictures go on
//! without a key frame and none is dropped. Where the host's clock stepped, the run goes on by the clock as it was up to the next
//! key frame, so that what is recorded by the new one can be decoded by itself. A run is only told to the store with its
//! first fragment, because the longer one waits the better its wall-clock times are known.

use std::sync::Arc;

use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Event, SenderReport, SessionEnd, SessionEndKind, StreamParameters, TickTime};
use framekeeper_media::dts::DecodeTimes;
use framekeeper_media::init::InitSegment;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{AccessUnit, FrameFlags, MediaTime, WallTime};
use framekeeper_store::{AudioFrame, Fragment, GapReason, ReportedTime, VideoFrame};

use super::av_sync::AvSync;
use super::cutter::Cutter;
use super::ends::{gap_reason, reason};
use super::held::Held;
use super::wall_clock::WallClock;

/// CLOCK_REALTIME against CLOCK_MONOTONIC, from one look to the next: more than this is a step of the host's clock.
const CLOCK_STEP_US: i64 = 500_000;
/// Presentation times that go back by more than this are no reordering of pictures but a camera that set its clock.
const BACKWARDS_TICKS: i64 = 45_000; // 500 ms
/// Duration of a frame where nothing is known: 25 frames a second.
const DEFAULT_DURATION: u32 = VIDEO_CLOCK_HZ / 25;
/// Audio frames that wait for the first picture of a run: more than 10 s of AAC at 48 kHz.
const EARLY_AUDIO: usize = 500;

/// The reason of a channel that has all that it takes to record in another one's place.
pub(crate) const STANDING_BY: &str = "StandingBy";
/// The reason of a channel whose camera does not keep sessions that do not play.
const DROPS_IDLE: &str = "DropsIdleSessions";
/// The reason of a channel that does what it is to do.
pub(crate) const RECORDING: &str = "Recording";
/// The same as a sentence.
pub(crate) const RECORDING_MESSAGE: &str = "frames reach the disk";

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// A run begins; its first fragment follows.
    BeginRun {
        /// Why there is a gap before it; `None`: the store knows.
        gap: Option<GapReason>,
        /// The codec parameters.
        format: Format,
        /// The newest sender report of the video.
        sender_report: Option<ReportedTime>,
    },
    /// The run goes on with other codec parameters.
    Parameters(Format),
    /// To be written. By how much its times are ahead of the monotonic clock, microseconds.
    Append(Fragment, i64),
    /// To be reported.
    Report(Report),
}

/// How frames are coded, as the store wants it.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    /// `ftyp` and `moov`.
    pub(crate) init: Arc<InitSegment>,
    /// Ticks a second of the audio clock; 0 without audio.
    pub(crate) audio_timescale: u32,
}

impl Format {
    fn of(parameters: &StreamParameters) -> Self {
        Self {
            init: Arc::new(InitSegment::new(&parameters.video, parameters.audio.as_ref())),
            audio_timescale: parameters.audio.as_ref().map_or(0, |audio| audio.sample_rate),
        }
    }
}

/// A change that a person may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What the channel does now.
    pub(crate) state: ChannelState,
    /// One word in CamelCase.
    pub(crate) reason: &'static str,
    /// The same as a sentence, without credentials.
    pub(crate) message: String,
}

/// What was counted; only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) video_frames: u64,
    pub(crate) audio_frames: u64,
    /// Bytes of the frames of both.
    pub(crate) bytes: u64,
    pub(crate) key_frames: u64,
    /// Sessions that came to play.
    pub(crate) sessions: u64,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Core {
    state: ChannelState,
    reason: &'static str,
    session: Option<Session>,
    run: Option<Run>,
    cutter: Cutter,
    /// Cut in this tick: their times are given at its end, when all that arrived with them is known.
    cut: Vec<Fragment>,
    early_audio: Vec<framekeeper_media::AudioFrame>,
    /// Why there will have been a gap when the next run begins. `None`: nothing happened since the start, so the store knows.
    gap: Option<GapReason>,
    /// The latest time given to a frame; the next run begins behind it.
    latest: Option<WallTime>,
    /// When the tick before was, monotonic.
    last_tick_us: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC.
    clock_difference_us: Option<i64>,
    /// By how much the host's clock was set since the run began; the next key frame begins another one.
    stepped_us: i64,
    epoch: u64,
    counts: Counts,
    last_frame: Option<WallTime>,
    held: Held,
}

/// From PLAY to the end of the session.
#[derive(Debug)]
struct Session {
    parameters: Box<StreamParameters>,
    format: Format,
    /// A random access point has come.
    started: bool,
    /// The newest of each track. They often come before the first key frame.
    video_report: Option<SenderReport>,
    audio_report: Option<SenderReport>,
}

impl Session {
    fn reported_time(&self) -> Option<ReportedTime> {
        // 0 means "not known" in a run box, and in a report a camera that has no clock.
        let report = self.video_report.filter(|report| report.ntp != 0)?;
        Some(ReportedTime { ntp: report.ntp, media_time: report.media_time })
    }
}

#[derive(Debug)]
struct Run {
    /// The store knows of it.
    begun: bool,
    epoch: u64,
    clock: WallClock,
    sync: Option<AvSync>,
    times: DecodeTimes,
    /// Duration of the frame before, in ticks.
    duration: u32,
    /// Decode time of the newest frame.
    last_dts: Option<MediaTime>,
    report_is_new: bool,
}

impl Run {
    fn new(at: TickTime, session: Option<&Session>, epoch: u64, after: Option<WallTime>) -> Self {
        let video = session.map(|session| &session.parameters.video);
        let audio = session.and_then(|session| session.parameters.audio.as_ref());
        let duration = video.and_then(|video| video.nominal_frame_duration()).unwrap_or(DEFAULT_DURATION);
        let mut sync = audio.map(|audio| AvSync::new(audio.sample_rate));
        if let (Some(sync), Some(session)) = (&mut sync, session) {
            session.video_report.into_iter().for_each(|report| sync.video_report(at, report));
            session.audio_report.into_iter().for_each(|report| sync.audio_report(at, report));
        }
        Self {
            begun: false,
            epoch,
            clock: WallClock::new(after),
            sync,
            times: DecodeTimes::new(video.and_then(|video| video.max_num_reorder_frames), duration),
            duration,
            last_dts: None,
            report_is_new: false,
        }
    }
}

impl Core {
    /// A channel that is about to connect. `part_us`, `tick_us`: see [`Cutter`]. `gap`: why there is a gap before its first
    /// run, where more is known than the store knows.
    pub(crate) fn new(part_us: u64, tick_us: u64, epoch: u64, gap: Option<GapReason>) -> Self {
        Self {
            state: ChannelState::Connecting,
            reason: "Connecting",
            session: None,
            run: None,
            cutter: Cutter::new(part_us, tick_us),
            cut: Vec::new(),
            early_audio: Vec::new(),
            gap,
            latest: None,
            last_tick_us: 0,
            clock_difference_us: None,
            stepped_us: 0,
            epoch,
            counts: Counts::default(),
            last_frame: None,
            held: Held::default(),
        }
    }

    /// Whether a session is set up of which no frame is expected, or none has come yet. It ends by itself where the camera does not answer any more.
    pub(crate) fn stands(&self) -> bool {
        self.held.stands() || self.session.as_ref().is_some_and(|session| !session.started)
    }

    /// Whether frames come.
    pub(crate) fn plays(&self) -> bool {
        self.state == ChannelState::Recording
    }

    /// The frames so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// When the newest frame was read.
    pub(crate) fn last_frame(&self) -> Option<WallTime> {
        self.last_frame
    }

    /// The parameters of the session that plays.
    pub(crate) fn parameters(&self) -> Option<&StreamParameters> {
        self.session.as_ref().map(|session| &*session.parameters)
    }

    /// From the next fragment on, this recorder records the stream in another epoch.
    pub(crate) fn set_epoch(&mut self, epoch: u64, out: &mut Vec<Action>) {
        if self.epoch != epoch {
            self.epoch = epoch;
            if self.run.as_ref().is_some_and(|run| run.epoch != epoch) {
                self.new_run(GapReason::NoGap, out);
            }
        }
    }

    /// What comes is recorded in this epoch. Until now nothing was, so the run that goes on begins in it.
    pub(crate) fn adopt_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        if let Some(run) = &mut self.run {
            run.epoch = epoch;
        }
    }

    /// Something happened at the source.
    pub(crate) fn event(&mut self, at: TickTime, event: Event, out: &mut Vec<Action>) {
        self.look_at_clock(at);
        match event {
            Event::Connecting => {
                // A camera that keeps failing stays in Backoff; each attempt is not news.
                if self.state == ChannelState::Failed {
                    self.report(ChannelState::Connecting, "Connecting", || "connecting to the camera".to_owned(), out);
                }
            }
            Event::Ready => {
                self.held.begin(at.monotonic_us);
                if !self.held.is_dropped() {
                    self.stand(out);
                }
            }
            Event::Playing(parameters) => self.playing(parameters, out),
            Event::Parameters(parameters) => self.changed(parameters, out),
            Event::Video(unit) => self.video(at, unit, out),
            Event::Audio(frame) => self.audio(at, frame),
            Event::Loss { .. } | Event::KeyFrameWanted => {}
            Event::TimeJump => self.jumped(out),
            Event::VideoReport(report) => {
                if let Some(session) = &mut self.session {
                    session.video_report = Some(report);
                }
                if let Some(run) = &mut self.run {
                    run.report_is_new = true;
                    if let Some(sync) = &mut run.sync {
                        sync.video_report(at, report);
                    }
                }
            }
            Event::AudioReport(report) => {
                if let Some(session) = &mut self.session {
                    session.audio_report = Some(report);
                }
                if let Some(sync) = self.run.as_mut().and_then(|run| run.sync.as_mut()) {
                    sync.audio_report(at, report);
                }
            }
            Event::Ended(end) => self.ended(end, out),
        }
    }

    /// All that arrived by `at` has been told.
    pub(crate) fn tick(&mut self, at: TickTime, out: &mut Vec<Action>) {
        self.look_at_clock(at);
        if self.held.look(at.monotonic_us) {
            self.stand(out);
        }
        self.cut.extend(self.cutter.tick(at.monotonic_us));
        self.append_cut(out);
        self.last_tick_us = at.monotonic_us;
    }

    /// How long ago the sockets were read before this tick.
    fn since_last_tick_us(&self, at: TickTime) -> i64 {
        i64::try_from(at.monotonic_us.saturating_sub(self.last_tick_us)).unwrap_or(i64::MAX)
    }

    fn look_at_clock(&mut self, at: TickTime) {
        let now_us = at.wall.0.saturating_sub_unsigned(at.monotonic_us);
        let before_us = self.clock_difference_us.replace(now_us).unwrap_or(now_us);
        let step_us = now_us.saturating_sub(before_us);
        if step_us.saturating_abs() > CLOCK_STEP_US {
            if self.run.is_some() {
                self.stepped_us = self.stepped_us.saturating_add(step_us);
            } else {
                // The times before it belong to a clock that was wrong: no reason to stay behind them.
                self.latest = None;
            }
        }
    }

    /// The time by the clock as it was when the run began.
    fn by_run(&self, at: TickTime) -> TickTime {
        TickTime { wall: at.wall.saturating_add_us(self.stepped_us.saturating_neg()), ..at }
    }

    /// A run ends where the clock was set; the next one may have earlier times.
    fn take_step(&mut self, out: &mut Vec<Action>) {
        if self.stepped_us.saturating_abs() > CLOCK_STEP_US {
            self.new_run(GapReason::ClockStep, out);
        }
    }

    /// Its session is set up, and shall not play.
    fn stand(&mut self, out: &mut Vec<Action>) {
        let message = || "another recorder records; the session with the camera is set up here".to_owned();
        self.report(ChannelState::Standby, STANDING_BY, message, out);
    }

    fn playing(&mut self, parameters: Box<StreamParameters>, out: &mut Vec<Action>) {
        self.end_run(out);
        self.held.play();
        self.counts.sessions = self.counts.sessions.saturating_add(1);
        let format = Format::of(&parameters);
        self.session = Some(Session { parameters, format, started: false, video_report: None, audio_report: None });
        if matches!(self.state, ChannelState::Connecting | ChannelState::Standby) {
            self.report(
                ChannelState::Connecting,
                "WaitingForKeyFrame",
                || "the camera plays; its first key frame has not come yet".to_owned(),
                out,
            );
        }
    }

    fn changed(&mut self, parameters: Box<StreamParameters>, out: &mut Vec<Action>) {
        let Some(session) = &self.session else { return self.playing(parameters, out) };
        let format = Format::of(&parameters);
        if format.init.hash == session.format.init.hash {
            return;
        }
        // What is there was coded with the old ones.
        self.cut.extend(self.cutter.take());
        self.append_cut(out);
        let Some(session) = &mut self.session else { return };
        let same_clocks = format.audio_timescale == session.format.audio_timescale;
        let depth = parameters.video.max_num_reorder_frames;
        let same_order = depth == session.parameters.video.max_num_reorder_frames;
        let duration = parameters.video.nominal_frame_duration().unwrap_or(DEFAULT_DURATION);
        session.parameters = parameters;
        session.format = format.clone();
        if !same_clocks {
            self.new_run(GapReason::ParametersChanged, out);
        } else if let Some(run) = &mut self.run {
            if !same_order {
                run.times = DecodeTimes::new(depth, duration);
            }
            if run.begun {
                out.push(Action::Parameters(format));
            }
        }
    }

    fn video(&mut self, at: TickTime, unit: AccessUnit, out: &mut Vec<Action>) {
        let since_us = self.since_last_tick_us(at);
        let Some(session) = &mut self.session else { return };
        let key = unit.flags.contains(FrameFlags::RANDOM_ACCESS);
        if !session.started {
            if !key {
                return;
            }
            session.started = true;
        }
        if key {
            self.take_step(out);
        }
        let run_at = self.by_run(at);
        let (mut dts, offset) = self.decode_time(run_at, unit.pts);
        if offset < -BACKWARDS_TICKS {
            self.jumped(out);
            (dts, _) = self.decode_time(self.by_run(at), unit.pts);
        }
        let run_at = self.by_run(at);
        if self.state != ChannelState::Recording {
            self.report(ChannelState::Recording, RECORDING, || RECORDING_MESSAGE.to_owned(), out);
        }
        let Some(run) = &mut self.run else { return };
        run.clock.observe(run_at, unit.pts);
        if let Some(sync) = &mut run.sync {
            sync.video(run_at, since_us, unit.pts);
        }
        let bytes = unit.data.len() as u64;
        if let Some(last_dts) = run.last_dts.replace(dts) {
            run.duration = u32::try_from(dts.0.saturating_sub(last_dts.0)).unwrap_or(u32::MAX);
            if let Some(last) = self.cutter.last_video() {
                last.duration = run.duration;
            }
        }
        let frame = VideoFrame {
            data: unit.data,
            pts: unit.pts,
            dts,
            duration: run.duration,
            wall: WallTime(0), // known when the fragment is cut
            identity: unit.identity,
            flags: unit.flags,
        };
        self.counts.video_frames = self.counts.video_frames.saturating_add(1);
        self.counts.key_frames = self.counts.key_frames.saturating_add(u64::from(key));
        self.counts.bytes = self.counts.bytes.saturating_add(bytes);
        self.last_frame = Some(at.wall);
        self.cut.extend(self.cutter.video(at.monotonic_us, frame));
        for frame in std::mem::take(&mut self.early_audio) {
            self.audio(at, frame);
        }
    }

    /// The decode time of the next frame, and how far behind it is to be shown. Begins a run where there is none.
    fn decode_time(&mut self, at: TickTime, pts: MediaTime) -> (MediaTime, i64) {
        let (epoch, latest, session) = (self.epoch, self.latest, self.session.as_ref());
        let run = self.run.get_or_insert_with(|| Run::new(at, session, epoch, latest));
        let time = run.times.push(pts);
        // With other parameters the reordering may be another one; decode times go on from where they were.
        let dts = run.last_dts.map_or(time.dts, |last| time.dts.max(MediaTime(last.0.saturating_add(1))));
        (dts, pts.0.saturating_sub(dts.0))
    }

    fn audio(&mut self, at: TickTime, frame: framekeeper_media::AudioFrame) {
        let since_us = self.since_last_tick_us(at);
        let run_at = self.by_run(at);
        let Some(run) = &mut self.run else {
            // Between two runs of one session it waits for the next picture. Before a session's first picture there is
            // nothing to place it by.
            if self.session.as_ref().is_some_and(|session| session.started) && self.early_audio.len() < EARLY_AUDIO {
                self.early_audio.push(frame);
            }
            return;
        };
        let Some(sync) = &mut run.sync else { return };
        sync.audio(run_at, since_us, frame.pts);
        self.counts.audio_frames = self.counts.audio_frames.saturating_add(1);
        self.counts.bytes = self.counts.bytes.saturating_add(frame.data.len() as u64);
        let frame = AudioFrame { data: frame.data, pts: frame.pts, duration: frame.duration, wall: WallTime(0) };
        self.cut.extend(self.cutter.audio(at.monotonic_us, frame));
    }

    fn ended(&mut self, end: SessionEnd, out: &mut Vec<Action>) {
        self.end_run(out);
        self.session = None;
        self.early_audio.clear();
        self.held.end(end.kind);
        if end.kind == SessionEndKind::Stopped {
            self.gap = self.gap.or(Some(GapReason::SourceChanged));
            if end.retry_in_us.is_some() {
                self.report(ChannelState::Connecting, "Connecting", || end.message, out);
            }
            return;
        }
        self.gap = Some(gap_reason(end.kind));
        if self.held.is_dropped() {
            let message = || "the camera ends sessions that do not play; use redundancy: Playing".to_owned();
            return self.report(ChannelState::Backoff, DROPS_IDLE, message, out);
        }
        let state = if end.retry_in_us.is_some() { ChannelState::Backoff } else { ChannelState::Failed };
        self.report(state, reason(end.kind), || end.message, out);
    }

    fn new_run(&mut self, gap: GapReason, out: &mut Vec<Action>) {
        if self.run.is_some() {
            self.end_run(out);
            self.gap = Some(gap);
        }
    }

    /// Media time is not what it was; what was reported of it is worthless.
    fn jumped(&mut self, out: &mut Vec<Action>) {
        self.new_run(GapReason::MediaTimeJump, out);
        if let Some(session) = &mut self.session {
            session.video_report = None;
            session.audio_report = None;
        }
    }

    fn end_run(&mut self, out: &mut Vec<Action>) {
        self.cut.extend(self.cutter.take());
        self.append_cut(out);
        if let Some(run) = self.run.take() {
            self.latest = run.clock.latest().or(self.latest);
            if std::mem::take(&mut self.stepped_us).saturating_abs() > CLOCK_STEP_US {
                // Its times belong to a clock that was wrong: no reason to stay behind them.
                self.latest = None;
            }
        }
    }

    fn append_cut(&mut self, out: &mut Vec<Action>) {
        let mut cut = std::mem::take(&mut self.cut);
        for fragment in cut.drain(..) {
            self.append(fragment, out);
        }
        // Kept for its memory.
        self.cut = cut;
    }

    fn append(&mut self, mut fragment: Fragment, out: &mut Vec<Action>) {
        let (Some(run), Some(session)) = (&mut self.run, &self.session) else { return };
        for frame in &mut fragment.video {
            frame.wall = run.clock.time_of(frame.pts);
        }
        if let Some(sync) = &mut run.sync
            && let Some(first) = fragment.audio.first()
        {
            fragment.av_sync = Some(sync.pair(first.pts));
            for frame in &mut fragment.audio {
                frame.wall = run.clock.convert_us(sync.video_time_us(frame.pts));
            }
        }
        if !run.begun {
            run.begun = true;
            run.report_is_new = false;
            out.push(Action::BeginRun {
                gap: self.gap.take(),
                format: session.format.clone(),
                sender_report: session.reported_time(),
            });
        } else if std::mem::take(&mut run.report_is_new) {
            fragment.sender_report = session.reported_time();
        }
        out.push(Action::Append(fragment, run.clock.ahead_us()));
    }

    fn report(
        &mut self,
        state: ChannelState,
        reason: &'static str,
        message: impl FnOnce() -> String,
        out: &mut Vec<Action>,
    ) {
        if self.state != state || self.reason != reason {
            self.state = state;
            self.reason = reason;
            out.push(Action::Report(Report { state, reason, message: message() }));
        }
    }
}
