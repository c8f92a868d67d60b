//! The control plane in a cluster: looks at everything, decides, makes it so, and tells what it sees. One task does that, one round after the other; the
//! rest of the process only brings it news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStream, CameraStreamSpec, Recorder, StoragePool};
use futures::StreamExt as _;
use kube::runtime::events::{EventType, Recorder as EventRecorder, Reporter as EventReporter};
use kube::{Client, ResourceExt as _};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::alive::{Life, Lives};
use super::apply::{WriteError, Writer};
use super::gather;
use super::lead::Leadership;
use super::metrics::{Metrics, PoolNumbers};
use super::options::Options;
use super::pace::Pace;
use super::reports::{self, Answers, Askers};
use super::secrets::SecretBook;
use super::sink::Outbox;
use super::streams::Stream;
use super::watching::Watches;
use super::world::{ClusterWorld, Facts, Standing};
use crate::decide::assign::{self, Assignment};
use crate::decide::cameras::Cameras;
use crate::decide::observe::Reports;
use crate::decide::place::PoolPlan;
use crate::decide::report::{Reporter, View};
use crate::decide::seen::Seen;
use crate::decide::state::State;
use crate::decide::wanted::{Key, Wanted};
use crate::decide::{learn, standing};

/// Everything that the leader knows and does.
pub struct Plane {
    pub(super) options: Options,
    pub(super) client: Client,
    pub(super) watches: Watches,
    pub(super) writer: Writer,
    pub(super) secrets: SecretBook,
    pub(super) events: EventRecorder,
    pub(super) metrics: Metrics,
    pub(super) reporter: Reporter<Outbox>,
    pub(super) state: State,
    pub(super) wanted: Wanted,
    pub(super) plans: BTreeMap<Key, PoolPlan>,
    pub(super) seen: BTreeMap<Key, Seen>,
    /// Versions of Recorders as this operator wrote them last, until the watch brings them.
    pub(super) versions: BTreeMap<Key, String>,
    leadership: Leadership,
    lives: Lives,
    recorders: BTreeMap<Key, Arc<Recorder>>,
    /// What could not be made of pools, and why.
    pub(super) unmade: BTreeMap<Key, String>,
    /// Recorders that the API server did not take, and why.
    pub(super) unwritten: BTreeMap<Key, String>,
    /// When what failed is tried again.
    again: Option<Instant>,
    /// What failed last, so that it is not said each time.
    said: Option<String>,
    standings: BTreeMap<Key, Standing>,
    cameras: Cameras,
    askers: Askers,
    answers: Answers,
    pace: Pace,
    /// Grows with each change of what is wanted, remembered or planned.
    revision: u64,
    /// Something changed that decisions depend on.
    is_stirred: bool,
}

impl Plane {
    /// Watches already bring what is there.
    #[must_use]
    pub fn new(
        options: Options,
        client: Client,
        watches: Watches,
        leadership: Leadership,
        metrics: Metrics,
        http: reqwest::Client,
    ) -> Self {
        let reporter =
            EventReporter { controller: "framekeeper.dev/operator".into(), instance: Some(options.identity.clone()) };
        let answers = Answers::default();
        Self {
            events: EventRecorder::new(client.clone(), reporter),
            writer: Writer::new(client.clone(), leadership.clone(), metrics.clone()),
            options,
            client,
            watches,
            secrets: SecretBook::default(),
            metrics,
            reporter: Reporter::new(Outbox::default()),
            state: State::default(),
            wanted: Wanted::default(),
            plans: BTreeMap::new(),
            seen: BTreeMap::new(),
            versions: BTreeMap::new(),
            leadership,
            lives: Lives::default(),
            recorders: BTreeMap::new(),
            unmade: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            again: None,
            said: None,
            standings: BTreeMap::new(),
            cameras: Cameras::default(),
            askers: Askers::new(http, answers.clone()),
            answers,
            pace: Pace::default(),
            revision: 0,
            is_stirred: true,
        }
    }

    /// Something changed: the next round thinks everything over again.
    pub fn stir(&mut self) {
        self.is_stirred = true;
    }

    /// Something failed: after a while everything is decided anew.
    pub(super) fn try_again(&mut self) {
        self.again = Some(Instant::now() + AGAIN);
    }

    /// When the next decision is due, if one waits.
    #[must_use]
    pub fn decides_at(&self) -> Option<Instant> {
        self.pace.until().filter(|_| self.is_stirred && self.writer.term().is_some())
    }

    /// Takes note of what recorders have answered.
    fn listen(&mut self) {
        for (key, (at, reports)) in self.answers.take() {
            self.heard(&key, &reports, at);
        }
    }

    fn heard(&mut self, key: &Key, reports: &Arc<Reports>, at: Instant) {
        self.lives.answered(key, at);
        let is_same = self.seen.get(key).is_some_and(|seen| seen.says(reports));
        // Of what is the same only what depends on time, or on others, is looked at again.
        let again = if is_same { Cameras::hears_again(reports.all()) } else { Vec::new() };
        let news = if is_same { again.as_slice() } else { reports.all() };
        self.revision += u64::from(learn::from_channels(&mut self.state, news));
        if !self.seen.contains_key(key) {
            return;
        }
        let others = |stream: &Key| {
            let others = self.seen.iter().filter(|(other, _)| *other != key);
            standing::sessions(others.filter_map(|(_, seen)| seen.report(stream, at)))
        };
        let is_news = self.cameras.heard(&mut self.state, key, news, at, others);
        self.revision += u64::from(is_news);
        self.is_stirred |= is_news;
        if let Some(seen) = self.seen.get_mut(key) {
            seen.is_running = true;
            seen.heard(Some(Arc::clone(reports)), at);
        }
    }

    /// Looks, decides, makes it so, and tells. Without the right to lead it only keeps itself ready.
    pub async fn round(&mut self) {
        self.listen();
        let facts = self.facts();
        let recorders = || facts.recorders.values().map(AsRef::as_ref);
        self.leadership.highest_seen.fetch_max(gather::highest_term(recorders()), Ordering::Relaxed);
        let term = self.writer.term();
        self.metrics.leads(term);
        let Some(term) = term else {
            if self.state.term != 0 {
                self.forget();
            }
            return;
        };
        let began = Instant::now();
        let result = self.lead(term, &facts).await;
        self.metrics.reconciled(began.elapsed(), result.is_ok());
        match result {
            Ok(()) => {}
            Err(WriteError::NotLeading) => {
                info!("leads no more; what it was about to write is another one's to decide")
            }
            Err(error) => {
                // It is tried again: with the next change, or after a while.
                self.try_again();
                if self.said.as_ref() != Some(&error.to_string()) {
                    warn!("{error}; it is tried again");
                    self.said = Some(error.to_string());
                }
                return;
            }
        }
        self.said = None;
    }

    fn forget(&mut self) {
        self.state = State::default();
        self.reporter = Reporter::new(Outbox::default());
        self.seen.clear();
        self.versions.clear();
        self.unwritten.clear();
        self.askers.ask(&BTreeMap::new());
        self.metrics.forget_pools();
    }

    async fn lead(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let began = Instant::now();
        if self.state.term != term {
            self.begin(term, facts).await?;
        }
        // That somebody is silent, or answers for the first time, is no event of an object.
        let standings = facts.standings();
        let is_due = self.again.take_if(|at| Instant::now() >= *at).is_some();
        let stirred = std::mem::take(&mut self.is_stirred) || is_due || self.standings != standings;
        self.standings = standings;
        self.pace.counted(self.watches.streams.count(), Instant::now());
        let rests = stirred && self.pace.rests(Instant::now());
        self.is_stirred |= rests;
        let stirred = stirred && !rests;
        let decided = if stirred {
            let began = Instant::now();
            self.revision += 1;
            self.take_note(facts);
            let decided = self.decide(term, facts).await;
            self.pace.worked(began, Instant::now());
            decided
        } else {
            Ok(())
        };
        let made = if stirred { self.make(term, facts).await } else { Ok(()) };
        // All that was written may have taken longer than an answer counts.
        self.listen();
        self.look_at_recorders(facts);
        // One Recorder that can't be written keeps nobody from being told how things are.
        self.report();
        self.send(term, began.elapsed()).await;
        let called = self.call_unknown(term, facts).await;
        decided.and(made).and(called)
    }

    /// Begins to lead: remembers what there is, and takes every Recorder over, so that nothing that a former leader still sends takes effect.
    async fn begin(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        self.forget();
        let recorders: Vec<&Arc<Recorder>> = facts.recorders.values().collect();
        let pools = self.watches.pools.all();
        let pools: Vec<&Arc<StoragePool>> = pools.iter().filter_map(|guard| guard.ok()).collect();
        let key = |namespace: Option<String>, name: String| Key::new(namespace.unwrap_or_default(), name);
        let specs = pools.iter().map(|pool| (key(pool.namespace(), pool.name_any()), &pool.spec));
        // What was said of streams is of use now, and never again: it is no part of what is watched.
        let former = super::former::streams(&self.client, &self.options.watch_namespaces).await?;
        let state = gather::state(
            term,
            &recorders,
            |look: &mut dyn FnMut(&Key, &Stream)| self.watches.streams.each(look),
            &former,
            specs,
        );
        let outbox = &mut self.reporter.sink;
        outbox.former_streams = former;
        outbox.former_pools = pools
            .iter()
            .filter_map(|pool| Some((key(pool.namespace(), pool.name_any()), pool.status.clone()?)))
            .collect();
        // Several at once: with a hundred recorders nobody decides anything for seconds.
        let plane = &*self;
        let taken = recorders.into_iter().map(|recorder| plane.take_over(term, recorder));
        let taken: Vec<_> = futures::stream::iter(taken).buffer_unordered(super::make::AT_ONCE).collect().await;
        for taken in taken {
            self.versions.extend(taken?);
        }
        info!(term, recorders = state.recorders.len(), streams = state.streams.len(), "begins to lead");
        self.state = state;
        self.revision += 1;
        self.is_stirred = true;
        Ok(())
    }

    /// Writes the term on a Recorder, as long as there is one. The version that it then has.
    async fn take_over(&self, term: u64, recorder: &Recorder) -> Result<Option<(Key, String)>, WriteError> {
        let key = Key::new(recorder.namespace().unwrap_or_default(), recorder.name_any());
        let mut found = recorder.clone();
        for _ in 0..TRIES {
            let mut marked = Recorder::new(&key.name, found.spec.clone());
            marked.metadata = super::make::recorder_metadata(&found);
            marked.annotations_mut().insert(gather::TERM.to_owned(), term.to_string());
            marked.metadata.resource_version = found.resource_version();
            match self.writer.patch_version(term, &marked).await {
                Ok(written) => {
                    return Ok(Some((key, written.metadata.resource_version.unwrap_or_default())));
                }
                Err(error) if error.code() == Some(404) => return Ok(None),
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
            // It was changed a moment ago, most often by the recorder itself.
            let api = self.writer.api::<Recorder>(&key.namespace);
            let Ok(read) = timeout(ANSWER, api.get_opt(&key.name)).await else { break };
            match read {
                Ok(Some(now)) => found = now,
                Ok(None) => return Ok(None),
                Err(source) => {
                    return Err(WriteError::Refused { what: format!("Recorder {key}"), source: Box::new(source) });
                }
            }
        }
        Err(WriteError::Busy { what: format!("Recorder {key}") })
    }

    fn facts(&mut self) -> Facts {
        let now = Instant::now();
        let key = |namespace: Option<String>, name: String| Key::new(namespace.unwrap_or_default(), name);
        let recorders: BTreeMap<Key, Arc<Recorder>> = self
            .watches
            .recorders
            .all()
            .iter()
            .filter_map(|guard| guard.ok())
            .map(|found| (key(found.namespace(), found.name_any()), Arc::clone(found)))
            .collect();
        self.recorders.clone_from(&recorders);
        for lease in self.watches.leases.all() {
            let key = key(lease.namespace(), lease.name_any());
            if recorders.contains_key(&key) {
                let spec = lease.spec.as_ref();
                let renewed = spec.and_then(|spec| Some(format!("{:?}", spec.renew_time.as_ref()?.0)));
                self.lives.lease(&key, renewed, now);
            }
        }
        self.lives.keep_only(|key| recorders.contains_key(key));
        let claims = self.watches.claims.all().into_iter();
        let volumes = self.watches.volumes.all().into_iter();
        let pods = self.watches.pods.all().into_iter();
        let nodes = self.watches.nodes.all().into_iter();
        Facts {
            quiet: recorders.keys().filter_map(|key| Some((key.clone(), self.lives.quiet_for(key, now)?))).collect(),
            lives: recorders.keys().map(|key| (key.clone(), self.lives.of(key, now))).collect(),
            recorders,
            claims: claims.map(|claim| (key(claim.namespace(), claim.name_any()), claim)).collect(),
            volumes: volumes.map(|volume| (volume.name_any(), volume)).collect(),
            pods: pods.map(|pod| (key(pod.namespace(), pod.name_any()), pod)).collect(),
            nodes: nodes.map(|node| (node.name_any(), node)).collect(),
            now,
        }
    }

    /// Takes over what Recorders say, and what somebody else made of them.
    fn take_note(&mut self, facts: &Facts) {
        for (key, recorder) in &facts.recorders {
            let (Some(uid), Some(generation)) = (&recorder.metadata.uid, recorder.metadata.generation) else {
                continue;
            };
            let version = recorder.resource_version().unwrap_or_default();
            match self.state.recorders.get_mut(&key.to_string()) {
                // What this operator wrote last is not here yet.
                Some(known) if known.uid == *uid && known.generation > generation => {}
                Some(known) if known.uid == *uid => {
                    known.generation = generation;
                    known.spec = Arc::clone(recorder).into();
                    self.versions.insert(key.clone(), version);
                }
                _ => {
                    self.versions.insert(key.clone(), version);
                    let found = gather::recorder_state(recorder);
                    self.state.recorders.extend(found.map(|(key, found)| (key.to_string(), found)));
                }
            }
            if let Some(status) = &recorder.status {
                learn::from_status(&mut self.state, key, status);
            }
        }
        let there: BTreeSet<String> = facts.recorders.keys().map(ToString::to_string).collect();
        self.state.recorders.retain(|name, _| there.contains(name));
    }

    async fn decide(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let pools = self.watches.pools.all();
        let streams = |look: &mut dyn FnMut(&Key, &Stream)| self.watches.streams.each(look);
        let wanted = gather::wanted(streams, pools.iter().map(AsRef::as_ref), &self.state);
        if let Some(what) = self.is_missing_by_mistake(&wanted).await {
            warn!(
                "{what} is not among what the API server lists, but is there; nothing is taken away until that is clear"
            );
            self.is_stirred = true;
            return Ok(());
        }
        let began = Instant::now();
        let mut world = ClusterWorld { facts };
        // What was wanted and planned before is given up first: of ten thousand streams, twice is most of what a decision needs for a moment.
        self.wanted = wanted;
        self.plans.clear();
        let Assignment { state, recorders, plans } = assign::assign(&self.wanted, self.state.clone(), &mut world);
        self.metrics.planned(began.elapsed());
        self.plans = plans;
        self.put(term, facts, state, recorders).await
    }

    /// Something that recorders have and nobody seems to want any more, though it is there: a list may be incomplete.
    async fn is_missing_by_mistake(&self, wanted: &Wanted) -> Option<String> {
        let assigned: BTreeMap<Key, &str> = self
            .state
            .recorders
            .values()
            .flat_map(|recorder| &recorder.spec.channels)
            .map(|channel| (Key::new(&channel.stream.namespace, &channel.stream.name), channel.stream.uid.as_str()))
            .collect();
        let is_known = |key: &Key| wanted.streams.contains_key(key) || wanted.refused.contains_key(key);
        for (key, uid) in assigned.into_iter().filter(|(key, _)| !is_known(key)) {
            let api = self.writer.api::<CameraStream>(&key.namespace);
            match timeout(ANSWER, api.get_metadata_opt(&key.name)).await {
                Err(_) => return Some(format!("CameraStream {key} (no answer in time)")),
                Ok(Ok(found)) => {
                    let found = found.filter(|found| {
                        found.metadata.uid.as_deref() == Some(uid) && found.metadata.deletion_timestamp.is_none()
                    });
                    if found.is_some() {
                        return Some(format!("CameraStream {key}"));
                    }
                }
                Ok(Err(error)) => return Some(format!("CameraStream {key} ({error})")),
            }
        }
        None
    }

    /// How recorders stand, and whom of them to ask.
    fn look_at_recorders(&mut self, facts: &Facts) {
        let now = Instant::now();
        self.seen.retain(|key, _| facts.recorders.contains_key(key));
        let mut addresses = BTreeMap::new();
        for (key, recorder) in &facts.recorders {
            let address = recorder.status.as_ref().and_then(|status| status.addresses.as_ref()?.http.clone());
            let seen = self
                .seen
                .entry(key.clone())
                .or_insert_with(|| Seen::new(Arc::clone(recorder), address.clone().unwrap_or_default()));
            seen.recorder = Arc::clone(recorder);
            let alive = facts.life(key) == Life::Alive;
            seen.is_running = alive && (facts.runs(key) || seen.answers(now));
            seen.trouble = facts.trouble(key);
            // One that is only now being started is not down, unless it can't be.
            seen.is_down = !seen.is_running && (!matches!(facts.life(key), Life::New(_)) || seen.trouble.is_some());
            seen.status = recorder.status.clone().filter(|_| alive);
            if alive && !seen.answers(now) {
                seen.heard(reports::from_status(recorder), now);
            }
            if let Some(address) = address {
                seen.address.clone_from(&address);
                addresses.insert(key.clone(), address);
            }
        }
        self.askers.ask(&addresses);
    }

    /// What could not be made of each pool, or could not be written of its recorders.
    fn failures(&self) -> BTreeMap<Key, String> {
        let mut failures = self.unmade.clone();
        for (recorder, why) in &self.unwritten {
            let Some(recorder) = self.recorders.get(recorder).map(|found| (recorder, &found.spec.pool)) else {
                continue;
            };
            let pool = Key::new(&recorder.0.namespace, recorder.1);
            let said = failures.entry(pool).or_default();
            let between = if said.is_empty() { "" } else { "; " };
            said.push_str(&format!("{between}{why}"));
        }
        failures
    }

    fn report(&mut self) {
        let failures = self.failures();
        let view = View {
            wanted: &self.wanted,
            state: &self.state,
            plans: &self.plans,
            running: &self.seen,
            unmade: &failures,
            stopped: false,
            revision: Some(self.revision),
        };
        self.reporter.sink.phases.clear();
        self.reporter.report(&view, Instant::now(), Timestamp::now());
        self.metrics.streams(&self.reporter.sink.phases);
        let now = Instant::now();
        for (key, plan) in &self.plans {
            let Some(pool) = self.wanted.pools.get(key) else { continue };
            let slots = plan.slots(&pool.object);
            let count = pool.object.recorders;
            let of_pool = |recorder: &&Seen| {
                recorder.recorder.spec.pool == key.name
                    && recorder.recorder.namespace().as_deref() == Some(&key.namespace)
            };
            let ready = self.seen.values().filter(of_pool).filter(|seen| seen.is_ready(now)).count();
            let numbers = PoolNumbers {
                slots: [slots.normal * count, slots.reserved * count],
                used: [plan.used, plan.used_reserved],
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
            };
            self.metrics.pool(&key.namespace, &key.name, numbers);
        }
    }

    /// Writes statuses and events, for a while; `rest`: how long the rest of this round took. What can't be written now stays for the next time, and is then
    /// written as it is by then.
    async fn send(&mut self, term: u64, rest: Duration) {
        let until = Instant::now() + (rest * SENDS).clamp(SENDS_FOR, SENDS_AT_MOST);
        let outbox = &mut self.reporter.sink;
        let (streams, pools) = (outbox.take_streams(), std::mem::take(&mut outbox.pools));
        let refused = std::mem::take(&mut outbox.refused);
        self.metrics.waits(streams.len() + pools.len() + outbox.events.len());
        let said = |key: &Key| {
            if let Some(refused) = refused.get(key) {
                return Some(refused.clone());
            }
            let (spec, status) = (&self.wanted.streams.get(key)?.object, self.reporter.said(key)?);
            let uid = &self.state.streams.get(&key.to_string())?.uid;
            let mut stream = CameraStream::new(&key.name, CameraStreamSpec::clone(spec));
            stream.metadata.namespace = Some(key.namespace.clone());
            stream.metadata.uid = Some(uid.clone());
            stream.status = Some(status);
            Some(stream)
        };
        let writer = &self.writer;
        let unsent_pools =
            super::send::all(writer, term, pools.keys().cloned(), |key| pools.get(key).cloned(), None).await;
        let unsent = super::send::all(writer, term, streams.iter().cloned(), said, Some(until)).await;
        let outbox = &mut self.reporter.sink;
        let is_late = !unsent.is_empty() && Instant::now() >= until;
        outbox.refused.extend(refused.into_iter().filter(|(key, _)| unsent.contains(key)));
        outbox.put_back(streams.into_iter().filter(|key| unsent.contains(key)));
        outbox.pools.extend(pools.into_iter().filter(|(key, _)| unsent_pools.contains(key)));
        // Statuses tell what counts, and come first.
        if self.writer.term() != Some(term) || is_late {
            return;
        }
        let some = outbox.events.len().min(EVENTS_A_ROUND);
        let happened: Vec<_> = outbox.events.drain(..some).collect();
        let (events, metrics) = (&self.events, &self.metrics);
        metrics.lost_events(std::mem::take(&mut outbox.lost_events));
        let writes = happened.into_iter().map(|happened| async move {
            let event = kube::runtime::events::Event {
                type_: if happened.note.warning { EventType::Warning } else { EventType::Normal },
                reason: happened.note.reason.clone(),
                note: Some(super::send::short(&happened.note.message)),
                action: happened.note.reason.clone(),
                secondary: None,
            };
            let published = timeout(ANSWER, events.publish(&event, &super::send::reference(&happened))).await;
            let why = match published {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            metrics.lost_events(1);
            error!(reason = happened.note.reason, "an event of {} is lost: {why}", happened.key);
        });
        futures::stream::iter(writes).buffer_unordered(super::send::AT_ONCE).collect::<()>().await;
    }
}

/// An API server that does not answer within this time does not hold up what else there is to do.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// A Recorder that changes while it is being taken over is looked at again so often.
const TRIES: usize = 5;
/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// So many events are written in one round: statuses tell what counts, and come first.
const EVENTS_A_ROUND: usize = 100;
/// For so long statuses of streams are written in one round: while ten thousand are new, decisions and what recorders say must not wait for all of them.
const SENDS_FOR: Duration = Duration::from_secs(1);
/// But for so many times as long as the rest of the round took: else most of the time would go into looking.
const SENDS: u32 = 4;
/// And never for longer.
const SENDS_AT_MOST: Duration = Duration::from_secs(4);

/// How often everything is looked at where nothing changes: statuses depend on time, too.
pub(super) const LOOK: Duration = Duration::from_secs(1);
