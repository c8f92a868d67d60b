//! The channels of this recorder: started, changed and stopped as assignments say, one without the other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Credentials, Ingest, SourceId, SourceSpec};
use framekeeper_onvif::{Camera, Client, Login};
use framekeeper_store::{GapReason, Store};
use tokio::runtime::Handle;
use tracing::{info, warn};
use url::Url;
use uuid::Uuid;

use crate::assignment::{Assignment, Change, ChannelPlan, OnvifPlan, Secrets, diff};
use crate::channel::{Asker, ChannelSink, ChannelStats, Condition, Control, Core, Report};
use crate::clock;
use crate::metrics::TickNumbers;
use crate::standby::Standby;
use crate::view::{ChannelEntry, View};

/// Looks between two looks at the Secrets: 1 s.
const SECRET_LOOKS: u32 = 4;

/// All channels.
pub(super) struct Channels {
    view: Arc<View>,
    store: Arc<Store>,
    standby: Arc<Standby>,
    ingest: Option<Ingest>,
    tick: Duration,
    part: Duration,
    channels: HashMap<Uuid, Channel>,
    plans: Vec<ChannelPlan>,
    /// Streams that another recorder is to have, and that are recorded here until it has proven that it does.
    retired: HashSet<Uuid>,
    /// Streams that were recorded by this process before.
    known: HashSet<Uuid>,
    looks: u32,
    /// Made with the first camera that is asked over ONVIF.
    onvif: Option<Client>,
    runtime: Handle,
}

struct Channel {
    plan: ChannelPlan,
    stats: Arc<ChannelStats>,
    control: Arc<Control>,
    /// Its source, once it has one, and the credentials that the source was given.
    source: Option<(SourceId, Option<Credentials>)>,
    /// Asks the camera for key frames, with what it was given to do so.
    asker: Option<(Asked, Asker)>,
}

/// How a camera is asked for key frames.
#[derive(PartialEq, Eq)]
struct Asked {
    onvif: OnvifPlan,
    url: Url,
    credentials: Option<Credentials>,
}

impl Channels {
    /// None yet.
    pub(super) fn new(
        view: Arc<View>,
        store: Arc<Store>,
        standby: Arc<Standby>,
        ingest: Ingest,
        tick: Duration,
        runtime: Handle,
    ) -> Self {
        Self {
            view,
            store,
            standby,
            ingest: Some(ingest),
            tick,
            part: Duration::ZERO,
            channels: HashMap::new(),
            plans: Vec::new(),
            retired: HashSet::new(),
            known: HashSet::new(),
            looks: 0,
            onvif: None,
            runtime,
        }
    }

    /// Turns what is into what `assignment` says; what is the same in both is not touched.
    pub(super) fn apply(&mut self, assignment: &Assignment, secrets: &mut Secrets) {
        if self.part.is_zero() {
            self.part = assignment.part;
        }
        for refusal in &assignment.refusals {
            let (namespace, name) = (&refusal.stream.namespace, &refusal.stream.name);
            warn!(
                stream = format!("{namespace}/{name}"),
                reason = refusal.reason,
                "a channel cannot be recorded: {}",
                refusal.message
            );
        }
        if self.view.refusals() != assignment.refusals {
            self.view.set_refusals(assignment.refusals.clone());
        }
        self.standby.set_peers(&assignment.peers, &assignment.peer_mistakes);
        self.standby.shared_slots().set_room(assignment.shared_slots);
        self.standby.set_hold(assignment.object.spec.handback_after_ms);
        for change in diff(&self.plans, &assignment.channels) {
            match change {
                // It came back before it was let go of.
                Change::Start(plan) if self.retired.remove(&plan.stream.uid) => self.adjust(plan, secrets),
                Change::Start(plan) => self.start(plan, secrets),
                Change::Adjust(plan) | Change::Restart(plan) => self.adjust(plan, secrets),
                Change::Stop(uid) => self.leave_or_stop(uid, assignment),
            }
        }
        // One that is not to be handed over any more, because the stream is gone, for instance.
        let dropped: Vec<Uuid> =
            self.retired.iter().filter(|uid| !assignment.retired.contains_key(uid)).copied().collect();
        dropped.into_iter().for_each(|uid| self.stop(uid));
        self.plans.clone_from(&assignment.channels);
        let used: HashSet<_> = self.plans.iter().filter_map(|plan| plan.secret.clone()).collect();
        secrets.keep_only(|name| used.contains(name));
    }

    /// Ends what another recorder has taken over for good.
    pub(super) fn let_go(&mut self) {
        for uid in self.standby.released() {
            if self.retired.contains(&uid) {
                self.stop(uid);
            }
        }
    }

    /// Gives changed credentials to their sources, and tries again what could not be started.
    pub(super) fn look(&mut self, secrets: &mut Secrets) {
        self.looks = self.looks.wrapping_add(1);
        let waiting = self.channels.values().any(|channel| channel.source.is_none());
        if !waiting && !self.looks.is_multiple_of(SECRET_LOOKS) {
            return;
        }
        let uids: Vec<Uuid> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.source.is_none() || channel.plan.secret.is_some())
            .map(|(uid, _)| *uid)
            .collect();
        for uid in uids {
            if let Some(channel) = self.channels.get(&uid) {
                let plan = channel.plan.clone();
                self.bring_up(&plan, secrets);
                self.ask_for_key_frames(uid);
            }
        }
    }

    /// Whether the tick thread lives.
    pub(super) fn is_running(&self) -> bool {
        self.ingest.as_ref().is_none_or(Ingest::is_running)
    }

    /// How the tick does.
    pub(super) fn ticks(&self) -> TickNumbers {
        self.ingest.as_ref().map(|ingest| ingest.tick_stats().into()).unwrap_or_default()
    }

    /// Ends all sessions in order and waits for that: afterwards all frames that came are with the store.
    pub(super) fn shutdown(&mut self) {
        if let Some(ingest) = self.ingest.take() {
            ingest.shutdown();
        }
    }

    fn start(&mut self, plan: ChannelPlan, secrets: &mut Secrets) {
        let stats = Arc::new(ChannelStats::new(Condition {
            state: ChannelState::Connecting,
            reason: "Connecting",
            message: "connecting to the camera".to_owned(),
            since: clock::wall(),
        }));
        let control = Control::new(&plan);
        self.view.add_channel(ChannelEntry {
            stream: plan.stream.clone(),
            stats: Arc::clone(&stats),
            control: Arc::clone(&control),
        });
        self.standby.hold(&plan, &control);
        self.channels
            .insert(plan.stream.uid, Channel { plan: plan.clone(), stats, control, source: None, asker: None });
        self.bring_up(&plan, secrets);
        self.ask_for_key_frames(plan.stream.uid);
    }

    /// Has the camera asked for key frames as its plan says, with the credentials that its source has.
    fn ask_for_key_frames(&mut self, uid: Uuid) {
        let Some(channel) = self.channels.get_mut(&uid) else { return };
        let wanted = channel.plan.onvif.clone().zip(channel.source.as_ref()).map(|(onvif, (_, credentials))| Asked {
            onvif,
            url: channel.plan.url.clone(),
            credentials: credentials.clone(),
        });
        if channel.asker.as_ref().map(|(asked, _)| asked) == wanted.as_ref() {
            return;
        }
        channel.asker = None;
        let Some(asked) = wanted else { return };
        let stream = name(&channel.plan);
        if self.onvif.is_none() {
            match Client::new() {
                Ok(client) => self.onvif = Some(client),
                Err(error) => return warn!(stream, "the camera cannot be asked for key frames: {error}"),
            }
        }
        let Some(client) = self.onvif.clone() else { return };
        let login = asked.credentials.as_ref().map(|credentials| {
            let (user, password) = credentials.for_login();
            Login { user: user.to_owned(), password: password.to_owned() }
        });
        let camera =
            Camera::new(client, asked.onvif.endpoint.clone(), asked.url.clone(), asked.onvif.profile.clone(), login);
        let asker =
            Asker::start(&self.runtime, stream, camera, Arc::clone(&channel.control), Arc::clone(&channel.stats));
        channel.asker = Some((asked, asker));
    }

    fn adjust(&mut self, plan: ChannelPlan, secrets: &mut Secrets) {
        let Some(channel) = self.channels.get_mut(&plan.stream.uid) else { return };
        channel.control.set(&plan);
        self.standby.hold(&plan, &channel.control);
        channel.plan = plan.clone();
        if let (Some(ingest), Some((source, credentials))) = (&self.ingest, &channel.source) {
            let spec = spec(&plan, credentials.clone());
            if let Err(error) = ingest.update(*source, spec) {
                warn!(stream = name(&plan), "the channel's source could not be changed: {error}");
            }
        }
        self.bring_up(&plan, secrets);
        self.ask_for_key_frames(plan.stream.uid);
    }

    /// Another recorder is to have the stream, if the assignment says so: it is recorded here until that one has proven that it does.
    fn leave_or_stop(&mut self, uid: Uuid, assignment: &Assignment) {
        if let (Some(retired), Some(channel)) = (assignment.retired.get(&uid), self.channels.get(&uid))
            && self.standby.retire(uid, retired, assignment.uid, &channel.control)
        {
            info!(
                stream = name(&channel.plan),
                "another recorder is to have it; it is recorded here until that one does"
            );
            channel.control.retire();
            self.retired.insert(uid);
            self.view.transition();
        } else {
            self.stop(uid);
        }
    }

    fn stop(&mut self, uid: Uuid) {
        self.standby.let_go(uid);
        self.retired.remove(&uid);
        let Some(channel) = self.channels.remove(&uid) else { return };
        if let (Some(ingest), Some((source, _))) = (&self.ingest, channel.source) {
            ingest.remove(source);
        }
        self.view.remove_channel(uid);
        info!(stream = name(&channel.plan), "no longer assigned; the channel ends");
    }

    /// Starts the channel's source if it has none, or gives it new credentials if there are any.
    fn bring_up(&mut self, plan: &ChannelPlan, secrets: &mut Secrets) {
        let Some(ingest) = &self.ingest else { return };
        let Some(channel) = self.channels.get_mut(&plan.stream.uid) else { return };
        let credentials = match plan.secret.as_ref().map(|secret| secrets.get(secret)).transpose() {
            Ok(credentials) => credentials,
            // A camera that is being recorded is not given up because its Secret is.
            Err(_) if channel.source.is_some() => return,
            Err(error) => return refuse(&self.view, channel, "SecretNotUsable", error.to_string()),
        };
        if let Some((source, given)) = &mut channel.source {
            if *given != credentials {
                match ingest.update(*source, spec(plan, credentials.clone())) {
                    Ok(()) => {
                        info!(stream = name(plan), "the camera's credentials changed");
                        *given = credentials;
                    }
                    Err(error) => warn!(stream = name(plan), "the channel's source could not be changed: {error}"),
                }
            }
            return;
        }
        let writer = match self.store.stream(plan.stream.clone()) {
            Ok(writer) => writer,
            Err(error) => return refuse(&self.view, channel, "StoreRefused", error.to_string()),
        };
        let gap = self.known.contains(&plan.stream.uid).then_some(GapReason::NotAssigned);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let core = Core::new(micros(self.part), micros(self.tick), plan.epoch, gap);
        let sink = ChannelSink::new(
            name(plan),
            core,
            writer,
            Arc::clone(&channel.stats),
            Arc::clone(&self.view),
            Arc::clone(&channel.control),
            Arc::clone(self.standby.shared_slots()),
        );
        match ingest.add(spec(plan, credentials.clone()), Box::new(sink)) {
            Ok(source) => {
                channel.source = Some((source, credentials));
                self.known.insert(plan.stream.uid);
                connecting(&self.view, channel);
            }
            Err(error) => refuse(&self.view, channel, "InvalidSource", error.to_string()),
        }
    }
}

fn refuse(view: &View, channel: &Channel, reason: &'static str, message: String) {
    let before = channel.stats.condition();
    if before.state == ChannelState::Failed && before.reason == reason && before.message == message {
        return;
    }
    warn!(stream = name(&channel.plan), reason, "the channel cannot begin: {message}");
    let report = Report { state: ChannelState::Failed, reason, message };
    channel.stats.set_condition(&report, clock::wall());
    view.transition();
}

fn connecting(view: &View, channel: &Channel) {
    if channel.stats.condition().state == ChannelState::Failed {
        let message = "connecting to the camera".to_owned();
        let report = Report { state: ChannelState::Connecting, reason: "Connecting", message };
        channel.stats.set_condition(&report, clock::wall());
        view.transition();
    }
}

fn spec(plan: &ChannelPlan, credentials: Option<Credentials>) -> SourceSpec {
    let mut spec = SourceSpec::new(plan.url.clone());
    spec.credentials = credentials;
    spec.audio = plan.audio;
    spec.priority = plan.priority;
    spec
}

fn name(plan: &ChannelPlan) -> String {
    format!("{}/{}", plan.stream.namespace, plan.stream.name)
}
