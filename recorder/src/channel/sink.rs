//! Between the tick thread and the store: lets the core decide, does what it decided, publishes what is to be seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Event, Sink, TickTime};
use framekeeper_store::{Appended, DropReason, Fragment, GapReason, PlanVersion, ReportedTime, RunStart, StreamWriter};
use tracing::{info, warn};
use uuid::Uuid;

use super::core::{Action, Core, Format, RECORDING, RECORDING_MESSAGE, Report, reason};
use super::stats::{ChannelStats, RateMeter};
use crate::assignment::ChannelPlan;
use crate::view::View;

/// What of a channel's plan may change while its session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    epoch: u64,
    rank: u32,
    plan_version: PlanVersion,
}

impl Standing {
    fn of(plan: &ChannelPlan) -> Self {
        Self { epoch: plan.epoch, rank: plan.rank, plan_version: plan.plan_version }
    }
}

/// Tells a running channel that its plan changed.
#[derive(Debug)]
pub(crate) struct Control {
    version: AtomicU64,
    standing: Mutex<Standing>,
}

impl Control {
    /// For a channel that begins with `plan`.
    pub(crate) fn new(plan: &ChannelPlan) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(0), standing: Mutex::new(Standing::of(plan)) })
    }

    /// In effect from the next tick on.
    pub(crate) fn set(&self, plan: &ChannelPlan) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Standing::of(plan);
        self.version.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One channel on the tick thread.
pub(crate) struct ChannelSink {
    /// `namespace/name`, for logs.
    name: String,
    core: Core,
    writer: StreamWriter,
    stats: Arc<ChannelStats>,
    view: Arc<View>,
    control: Arc<Control>,
    control_seen: u64,
    standing: Standing,
    run: Option<Uuid>,
    meter: RateMeter,
    /// Kept for its memory.
    actions: Vec<Action>,
    /// Whether a failure has been logged since it last recorded.
    complained: bool,
    /// Why the store drops this stream's frames, while it does.
    dropping: Option<DropReason>,
}

impl ChannelSink {
    /// For a channel whose frames go to `writer`.
    pub(crate) fn new(
        name: String,
        core: Core,
        writer: StreamWriter,
        stats: Arc<ChannelStats>,
        view: Arc<View>,
        control: Arc<Control>,
    ) -> Self {
        let standing = control.get();
        Self {
            name,
            core,
            writer,
            stats,
            view,
            control,
            control_seen: 0,
            standing,
            run: None,
            meter: RateMeter::default(),
            actions: Vec::new(),
            complained: false,
            dropping: None,
        }
    }

    fn act(&mut self, at: TickTime) {
        if self.actions.is_empty() {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::BeginRun { gap, format, sender_report } => {
                    let run = Uuid::new_v4();
                    self.begin(run, gap, format, sender_report);
                }
                Action::Parameters(format) => {
                    // The same run: the store sees by the init hash that a new segment is needed.
                    if let Some(run) = self.run {
                        info!(stream = self.name, %run, "the camera changed its codec parameters");
                        self.start_run(run, Some(GapReason::NoGap), format, None);
                    }
                }
                Action::Append(fragment) => {
                    self.told_handed_over(&fragment, at);
                    let appended = self.writer.append(fragment);
                    self.kept(appended, at);
                }
                Action::Report(report) => self.report(&report, at),
            }
        }
        self.actions = actions;
    }

    /// For whoever wants to know exactly what must be durable at which moment (`docs/durability.md`): up to where picture and sound are
    /// handed over.
    fn told_handed_over(&self, fragment: &Fragment, at: TickTime) {
        let picture = fragment.video.iter().map(|frame| frame.wall.0).max();
        let sound = fragment.audio.iter().map(|frame| frame.wall.0).max();
        let Some(newest_us) = picture.into_iter().chain(sound).min() else { return };
        let (at_us, stream) = (at.wall.0, self.name.as_str());
        tracing::trace!(target: "framekeeper::timing", began_us = at_us, ended_us = at_us, stream, newest_us, "handed over");
    }

    fn begin(&mut self, run: Uuid, gap: Option<GapReason>, format: Format, sender_report: Option<ReportedTime>) {
        let epoch = self.standing.epoch;
        self.run = Some(run);
        self.start_run(run, gap, format, sender_report);
        if let Some(gap) = gap {
            self.stats.run(gap);
            info!(stream = self.name, %run, epoch, gap = %gap, "a run begins");
        } else {
            info!(stream = self.name, %run, epoch, "the first run since the start begins");
        }
    }

    fn start_run(&mut self, run: Uuid, gap: Option<GapReason>, format: Format, sender_report: Option<ReportedTime>) {
        let Standing { epoch, rank, plan_version } = self.standing;
        let Format { init, audio_timescale } = format;
        self.writer.begin_run(RunStart { run, epoch, rank, plan_version, gap, init, audio_timescale, sender_report });
    }

    /// Notices where the store begins to drop frames, and where it no longer does. Frames are counted there, and a new run
    /// begins behind the gap.
    fn kept(&mut self, appended: Appended, at: TickTime) {
        let dropping = match appended {
            Appended::Queued => None,
            Appended::Dropped(reason) | Appended::Waits(reason) => Some(reason),
        };
        if self.dropping == dropping {
            return;
        }
        let report = match dropping {
            None => {
                info!(stream = self.name, "frames reach the disk again");
                Report { state: ChannelState::Recording, reason: RECORDING, message: RECORDING_MESSAGE.to_owned() }
            }
            Some(reason) => {
                let (gap, word, message) = trouble(reason);
                if self.dropping.is_none() {
                    self.stats.run(gap);
                }
                warn!(stream = self.name, reason = word, "frames are dropped: {message}");
                Report { state: ChannelState::Failed, reason: word, message: message.to_owned() }
            }
        };
        self.dropping = dropping;
        self.stats.set_condition(&report, at.wall);
        self.view.transition();
    }

    fn report(&mut self, report: &Report, at: TickTime) {
        self.stats.set_condition(report, at.wall);
        self.view.transition();
        // A new state of the session hides what was said of the store; it will be said again.
        self.dropping = None;
        let Report { reason, message, .. } = report;
        match report.state {
            ChannelState::Recording => {
                self.complained = false;
                if let Some(parameters) = self.core.parameters() {
                    let (width, height) = (parameters.video.width, parameters.video.height);
                    info!(stream = self.name, codec = parameters.video.codec_string(), width, height, "recording");
                }
            }
            ChannelState::Backoff | ChannelState::Failed => {
                warn!(stream = self.name, reason, again = self.complained, "not recording: {message}");
                self.complained = true;
            }
            ChannelState::Connecting | ChannelState::Standby | ChannelState::Suspended => {
                info!(stream = self.name, reason, "{message}");
            }
        }
    }
}

/// The gap that dropped frames make, a word for a status, and a sentence.
fn trouble(reason: DropReason) -> (GapReason, &'static str, &'static str) {
    match reason {
        DropReason::Overload => {
            (GapReason::Overload, "Overload", "the disk is too slow for what all streams together want to write")
        }
        DropReason::NoFreeFile => (
            GapReason::NoSpace,
            "NoFreeFile",
            "no volume has a free file, and nothing on them may be given up: release holds, or add room",
        ),
        DropReason::TooBig => {
            (GapReason::Overload, "TooBig", "half a second of the stream does not fit into a segment")
        }
        DropReason::VolumeFailed => (GapReason::VolumeFailed, "VolumeFailed", "the stream's volume failed"),
        DropReason::NoVolume => (GapReason::VolumeFailed, "NoVolume", "no volume can be written to"),
        DropReason::Malformed => {
            (GapReason::MalformedMedia, "MalformedMedia", "the camera's frames cannot be put into a segment")
        }
        DropReason::NotRandomAccess => (
            GapReason::Unknown,
            "WaitingForKeyFrame",
            "the next key frame is waited for, because nothing before it can be decoded",
        ),
        DropReason::Closed => (GapReason::RecorderStopped, "Stopping", "the recorder stops"),
    }
}

impl Sink for ChannelSink {
    fn event(&mut self, at: TickTime, event: Event) {
        match &event {
            Event::Loss { packets } => self.stats.lost(*packets),
            Event::Ended(end) => self.stats.ended(reason(end.kind)),
            Event::Playing(parameters) | Event::Parameters(parameters) => self.stats.set_parameters(parameters),
            _ => {}
        }
        self.core.event(at, event, &mut self.actions);
        self.act(at);
    }

    fn tick(&mut self, at: TickTime) {
        let version = self.control.version.load(Ordering::Acquire);
        if version != self.control_seen {
            self.control_seen = version;
            self.standing = self.control.get();
            self.core.set_epoch(self.standing.epoch, &mut self.actions);
        }
        self.core.tick(at, &mut self.actions);
        self.act(at);
        let counts = self.core.counts();
        self.stats.publish(&counts, self.core.last_frame());
        if let Some(rates) = self.meter.tick(at, &counts) {
            self.stats.publish_rates(rates);
        }
    }
}
