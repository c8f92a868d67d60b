//! Between the tick thread and the store: lets the core decide, does what it decided, publishes what is to be seen.

use std::sync::Arc;

use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Event, Sink, TickTime};
use framekeeper_store::{Appended, DropReason, Fragment, GapReason, ReportedTime, RunStart, StreamWriter};
use framekeeper_takeover::{Footage, Moment, SteadyTime};
use tracing::{info, warn};
use uuid::Uuid;

use super::control::{Control, Facts, Standing, Wish, patience_us};
use super::core::{Action, Core, RECORDING, RECORDING_MESSAGE, Report, STANDING_BY};
use super::ends::{SILENCE, reason};
use super::gops::Gops;
use super::ring::{Kept, Ring, RunHead, begins};
use super::slots::{SharedSlots, Slot};
use super::stats::{ChannelStats, RateMeter};
use crate::assignment::Class;
use crate::view::View;

/// What is recorded without a hole since it was last asked for.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    /// Its first picture.
    first: SteadyTime,
    /// By how much its newest times are ahead of the monotonic clock, microseconds.
    ahead_us: i64,
    /// Pictures that the store had been given before it: what is durable of those is not of it, whatever their times say.
    behind: u64,
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
    shared_slots: Arc<SharedSlots>,
    /// Of those, while it records in one.
    slot: Option<Slot>,
    /// The run that goes on in the core.
    head: Option<Arc<RunHead>>,
    /// The newest sender report since it began.
    reported: Option<ReportedTime>,
    /// Its frames, while nobody wants them recorded here.
    ring: Ring,
    /// Bytes of them that the store knows of.
    beside: usize,
    /// They do not reach back as far as they should.
    is_short: bool,
    /// Whether they sufficed, and were short, when that was said last.
    memory_was: (bool, bool),
    /// Its number, where it is recorded.
    run: Option<Uuid>,
    recorded: Option<Recorded>,
    /// Nobody wants it recorded any more; it is up to the next key frame, with which what is in memory begins: so that it all is somewhere.
    is_ending: bool,
    /// It has recorded since the process began.
    has_recorded: bool,
    /// Why there is a gap before the next run, where the core does not know.
    behind: Option<GapReason>,
    facts: Facts,
    gops: Gops,
    meter: RateMeter,
    frames: u64,
    /// A session plays, and no frame has come for so long that the camera counts as not seen.
    is_silent: bool,
    /// What the core said last.
    said: Option<Report>,
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
        shared_slots: Arc<SharedSlots>,
    ) -> Self {
        let standing = control.standing();
        Self {
            name,
            core,
            writer,
            stats,
            view,
            control,
            control_seen: 0,
            standing,
            shared_slots,
            slot: None,
            head: None,
            reported: None,
            ring: Ring::default(),
            beside: 0,
            is_short: false,
            memory_was: (false, false),
            run: None,
            recorded: None,
            is_ending: false,
            has_recorded: false,
            behind: None,
            facts: Facts { kept: true, ..Facts::default() },
            gops: Gops::default(),
            meter: RateMeter::default(),
            frames: 0,
            is_silent: false,
            said: None,
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
                    if gap != Some(GapReason::NoGap) {
                        self.gops.interrupt();
                    }
                    self.head = Some(Arc::new(RunHead { gap, format, sender_report, goes_on: false }));
                    self.reported = sender_report;
                    self.run = None;
                }
                Action::Parameters(format) => {
                    // The same run: the store sees by the init hash that a new segment is needed.
                    info!(stream = self.name, "the camera changed its codec parameters");
                    let gap = Some(GapReason::NoGap);
                    self.head = Some(Arc::new(RunHead { gap, format, sender_report: None, goes_on: true }));
                    if let (Some(run), Some(head)) = (self.run, self.head.clone()) {
                        self.start_run(run, head.gap, &head);
                    }
                }
                Action::Append(fragment, ahead_us) => {
                    let Some(head) = self.head.clone() else { continue };
                    self.gops.note(&fragment);
                    self.reported = fragment.sender_report.or(self.reported);
                    self.is_ending &= !fragment.begins_random_access && self.run.is_some();
                    if self.standing.wish == Wish::StandBy && !self.is_ending {
                        self.stand_by(&head, fragment, ahead_us);
                    } else {
                        self.record(Kept { head, fragment, ahead_us }, at);
                    }
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

    fn stand_by(&mut self, head: &Arc<RunHead>, fragment: Fragment, ahead_us: i64) {
        self.slot = None;
        // What still comes of a session that is about to be held is of no use.
        if self.standing.class != Class::Ready {
            self.ring.push(head, fragment, ahead_us);
        }
    }

    /// Whether there is a slot to record in. One of those that are shared is taken with the first frame, not with the decision.
    fn has_slot(&mut self) -> bool {
        if self.standing.shares_slots() && self.slot.is_none() {
            self.slot = self.shared_slots.take();
            return self.slot.is_some();
        }
        true
    }

    /// Gives a fragment to the store; the first of a run tells the store of it.
    fn record(&mut self, kept: Kept, at: TickTime) {
        if !self.has_slot() {
            self.run = None;
            return;
        }
        let Kept { head, fragment, ahead_us } = kept;
        if self.run.is_none() {
            let run = Uuid::new_v4();
            self.run = Some(run);
            let gap = self.behind.take().or(head.gap);
            self.begin(run, gap, &head);
        }
        self.has_recorded = true;
        self.told_handed_over(&fragment, at);
        let (first, behind, lost) = (begins(&fragment, ahead_us), self.writer.given(), self.writer.lost());
        // What was queued before is lost with its volume: what comes does not follow on it.
        self.recorded = self.recorded.filter(|recorded| lost <= recorded.behind);
        let appended = self.writer.append(fragment);
        self.facts.kept = appended == Appended::Queued;
        let new = || first.map(|first| Recorded { first, ahead_us, behind });
        let recorded = self.recorded.filter(|_| self.facts.kept).or_else(new);
        self.recorded = recorded.filter(|_| self.facts.kept).map(|recorded| Recorded { ahead_us, ..recorded });
        self.kept(appended, at);
    }

    fn begin(&mut self, run: Uuid, gap: Option<GapReason>, head: &RunHead) {
        let Wish::Record { epoch, .. } = self.standing.wish else { return };
        self.start_run(run, gap, head);
        if gap != Some(GapReason::NoGap) {
            // What comes now does not follow on what was before.
            self.recorded = None;
        }
        if let Some(gap) = gap {
            self.stats.run(gap);
            info!(stream = self.name, %run, epoch, gap = %gap, "a run begins");
        } else {
            info!(stream = self.name, %run, epoch, "the first run since the start begins");
        }
    }

    fn start_run(&mut self, run: Uuid, gap: Option<GapReason>, head: &RunHead) {
        let Standing { rank, plan_version, wish, .. } = self.standing;
        let Wish::Record { epoch, .. } = wish else { return };
        let (init, audio_timescale) = (Arc::clone(&head.format.init), head.format.audio_timescale);
        // What is in memory began before the first report came, often; by now there is one.
        let goes_on = self.head.as_deref().is_some_and(|current| std::ptr::eq(current, head));
        let sender_report = self.reported.filter(|_| goes_on).or(head.sender_report);
        self.writer.begin_run(RunStart { run, epoch, rank, plan_version, gap, init, audio_timescale, sender_report });
    }

    /// What is wanted changed.
    fn change(&mut self, standing: Standing, at: TickTime) {
        let before = std::mem::replace(&mut self.standing, standing);
        if !standing.shares_slots() {
            self.slot = None;
        }
        if standing.class == Class::Ready {
            self.ring.clear();
        }
        match (before.wish, standing.wish) {
            (Wish::StandBy, Wish::Record { epoch, .. }) if std::mem::take(&mut self.is_ending) => {
                self.core.set_epoch(epoch, &mut self.actions);
            }
            (Wish::StandBy, Wish::Record { epoch, from }) => {
                self.core.adopt_epoch(epoch);
                self.take_over(epoch, from, at);
            }
            (Wish::Record { epoch, .. }, Wish::StandBy) => {
                info!(stream = self.name, epoch, "another recorder records; this one stands by");
                self.is_ending = self.run.is_some();
                self.recorded = None;
                self.facts.kept = true;
                self.dropping = None;
            }
            (_, Wish::Record { epoch, .. }) => self.core.set_epoch(epoch, &mut self.actions),
            (Wish::StandBy, Wish::StandBy) => {}
        }
        self.show_again(at);
    }

    fn show_again(&mut self, at: TickTime) {
        if let Some(said) = self.said.take() {
            self.show(&said, at);
            self.said = Some(said);
        }
    }

    /// Records what is in memory, as far as it is not known to be durable elsewhere, and from now on what comes.
    fn take_over(&mut self, epoch: u64, from: Option<SteadyTime>, at: TickTime) {
        let oldest = self.ring.oldest();
        let mut head: Option<Arc<RunHead>> = None;
        let (mut first, mut frames) = (None, 0_usize);
        self.run = None;
        self.recorded = None;
        let is_first = !self.has_recorded && (self.standing.rank == 0 || self.standing.class == Class::Mirrored);
        self.behind = (!is_first).then_some(GapReason::Takeover);
        self.writer.keep_beside(0);
        self.beside = 0;
        for kept in self.ring.take_from(from) {
            let goes_on = head.as_ref().is_none_or(|head| Arc::ptr_eq(head, &kept.head));
            if !goes_on && kept.head.goes_on {
                if let Some(run) = self.run {
                    self.start_run(run, kept.head.gap, &kept.head);
                }
            } else if !goes_on {
                self.run = None;
            }
            first = first.or(begins(&kept.fragment, kept.ahead_us));
            frames = frames.saturating_add(kept.fragment.video.len());
            head = Some(Arc::clone(&kept.head));
            self.record(kept, at);
        }
        // Where the run that goes on is another one than what was in memory, it begins with its next fragment.
        if let (Some(head), Some(current)) = (head, &self.head)
            && !Arc::ptr_eq(&head, current)
        {
            self.run = None;
        }
        let now = Moment { monotonic: at.monotonic_us, wall: at.wall };
        let ms = |time: SteadyTime| now.wall(time).0 / 1_000;
        let (oldest_ms, first_ms, from_ms) = (oldest.map(ms), first.map(ms), from.map(ms));
        info!(
            stream = self.name,
            epoch, oldest_ms, from_ms, first_ms, frames, "records from now on, what was in memory first"
        );
    }

    /// What is durable of what is recorded without a hole.
    fn footage(&self) -> Option<Footage> {
        let Recorded { first, ahead_us, behind } = self.recorded?;
        if self.writer.lost() > behind {
            return None;
        }
        let durable = self.writer.durable().filter(|durable| durable.settled > behind)?;
        let durable = SteadyTime(durable.wall.0.saturating_sub(ahead_us));
        (durable >= first).then_some(Footage { first, durable })
    }

    /// Frames that stand by give way to those that are recorded.
    fn bound_memory(&mut self) {
        if self.ring.bytes() == 0 && self.beside == 0 {
            return;
        }
        while self.writer.keep_beside(self.ring.bytes()) && self.ring.bytes() > 0 {
            let whole = self.ring.let_go();
            if !std::mem::replace(&mut self.is_short, true) {
                warn!(
                    stream = self.name,
                    whole,
                    "there is too little memory to keep the last seconds of a stream that another recorder records: should that fail, frames may be missing"
                );
            }
        }
        self.beside = self.ring.bytes();
        // Said again only when all was here in between.
        self.is_short &= !self.ring.is_whole();
    }

    /// What a channel says whose frames come, while another recorder records.
    fn standing_by(&self) -> Report {
        if self.standing.class == Class::Ready {
            let message = "another recorder records; a session that does not play is to be set up here".to_owned();
            return Report { state: ChannelState::Connecting, reason: "Connecting", message };
        }
        let (state, reason, message) = match (self.ring.suffices(), self.is_short) {
            (true, _) => {
                (ChannelState::Standby, STANDING_BY, "another recorder records; the last seconds are in memory here")
            }
            (false, true) => (
                ChannelState::Failed,
                "MemoryShort",
                "there is too little memory here to keep the last seconds: give the recorder more, or fewer streams",
            ),
            (false, false) => (
                ChannelState::Connecting,
                "FillingMemory",
                "the camera's frames come; the last seconds are not in memory yet",
            ),
        };
        Report { state, reason, message: message.to_owned() }
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
                self.recording()
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

    /// What a channel says that records.
    fn recording(&self) -> Report {
        let Standing { rank, class, is_retired, .. } = self.standing;
        let (reason, message) = match (is_retired, rank, class) {
            (true, ..) => (
                "HandingOver",
                "frames reach the disk until the recorder that has the stream now proves that it records",
            ),
            (false, 0, _) | (false, _, Class::Mirrored) => (RECORDING, RECORDING_MESSAGE),
            (false, ..) => {
                ("TakenOver", "frames reach the disk here, in the place of the recorder that has the stream")
            }
        };
        Report { state: ChannelState::Recording, reason, message: message.to_owned() }
    }

    /// Notices where frames stop coming though the session stands, and where they come again.
    fn listen(&mut self, at: TickTime) {
        let silent_us = at.monotonic_us.saturating_sub(self.facts.last_frame_us);
        let is_silent = self.facts.plays && silent_us >= patience_us(self.facts.frame_us);
        if std::mem::replace(&mut self.is_silent, is_silent) == is_silent {
            return;
        }
        if is_silent {
            warn!(
                stream = self.name,
                reason = SILENCE,
                silent_ms = silent_us / 1_000,
                "no frames come, though the session stands"
            );
        } else if self.facts.plays {
            info!(stream = self.name, "the camera's frames come again");
        }
        // What was said of the store will be said again.
        self.dropping = None;
        self.show_again(at);
    }

    /// Says what the core says, in the words of what this channel is.
    fn show(&self, report: &Report, at: TickTime) {
        let shown = match (report.state, self.standing.wish) {
            // Heartbeats say the same at the same moment: a standby begins to record.
            (ChannelState::Recording, _) if self.is_silent => {
                let message = "no frame has come for 2 s or more; the session goes on for a while".to_owned();
                Report { state: ChannelState::Backoff, reason: SILENCE, message }
            }
            (ChannelState::Recording, Wish::StandBy) => self.standing_by(),
            (ChannelState::Recording, Wish::Record { .. }) => self.recording(),
            (ChannelState::Standby, Wish::Record { .. }) => {
                let message =
                    "the camera is asked to play, in the place of the recorder that has the stream".to_owned();
                Report { state: ChannelState::Connecting, reason: "Connecting", message }
            }
            _ => report.clone(),
        };
        self.stats.set_condition(&shown, at.wall);
        self.view.transition();
    }

    fn report(&mut self, report: &Report, at: TickTime) {
        self.show(report, at);
        self.said = Some(report.clone());
        // A new state of the session hides what was said of the store; it will be said again.
        self.dropping = None;
        let Report { reason, message, .. } = report;
        match report.state {
            ChannelState::Recording => {
                self.complained = false;
                if let Some(parameters) = self.core.parameters() {
                    let (width, height) = (parameters.video.width, parameters.video.height);
                    info!(
                        stream = self.name,
                        codec = parameters.video.codec_string(),
                        width,
                        height,
                        "the camera's frames come"
                    );
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
            Event::KeyFrameWanted => self.control.want_key_frame(),
            Event::Ended(end) => self.stats.ended(reason(end.kind)),
            Event::Playing(parameters) | Event::Parameters(parameters) => self.stats.set_parameters(parameters),
            _ => {}
        }
        self.core.event(at, event, &mut self.actions);
        self.act(at);
    }

    fn tick(&mut self, at: TickTime) {
        if let Some(standing) = self.control.news(&mut self.control_seen) {
            self.change(standing, at);
        }
        self.core.tick(at, &mut self.actions);
        self.act(at);
        if self.standing.wish == Wish::StandBy && !self.core.plays() {
            // No more comes of what was to be recorded to its end.
            self.is_ending = false;
            self.slot = None;
        }
        self.bound_memory();
        let (suffices, is_short) = (self.ring.suffices(), self.is_short);
        if std::mem::replace(&mut self.memory_was, (suffices, is_short)) != (suffices, is_short) {
            self.show_again(at);
        }
        let counts = self.core.counts();
        self.stats.publish(&counts, self.core.last_frame());
        if std::mem::replace(&mut self.frames, counts.video_frames) != counts.video_frames {
            self.facts.last_frame_us = at.monotonic_us;
        }
        if let Some(rates) = self.meter.tick(at, &counts) {
            // None at all in the last seconds: how fast they come is what it was.
            self.facts.frame_us = 1_000_000_000_u64.checked_div(rates.millihertz).unwrap_or(self.facts.frame_us);
            self.stats.publish_rates(rates);
        }
        self.facts.plays = self.core.plays();
        self.listen(at);
        if !self.facts.plays {
            self.gops.interrupt();
        }
        self.facts.gop_us = self.gops.longest_us();
        self.facts.memory = self.ring.oldest();
        self.facts.stands = self.standing.shares_slots() && self.core.stands();
        self.facts.has_slot = self.slot.is_some();
        self.facts.footage = self.footage();
        self.control.publish(&self.facts);
    }

    fn holds(&self) -> bool {
        let Standing { class, wish, .. } = self.standing;
        // What it records to its end needs frames.
        class == Class::Ready && wish == Wish::StandBy && !self.is_ending
    }
}
