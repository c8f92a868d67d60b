//! The control plane in a cluster: looks at everything, decides, makes it so, and tells what it sees. One task does that, one round after the other; the
//! rest of the process only brings it news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStream, Recorder, RecorderPhase};
use kube::runtime::events::Reporter as EventReporter;
use kube::{Client, ResourceExt as _};
use tokio::time::timeout;
use tracing::{info, warn};

use super::alive::{Life, Lives};
use super::apply::{WriteError, Writer};
use super::events::Publisher;
use super::gather;
use super::lead::{Leadership, monotonic_us};
use super::metrics::{Metrics, PoolNumbers};
use super::options::Options;
use super::pace::Pace;
use super::reports::{self, Answers, Askers};
use super::secrets::SecretBook;
use super::sink::Outbox;
use super::streams::Stream;
use super::succession::Beginning;
use super::watching::Watches;
use super::world::{ClusterWorld, Facts, Standing};
use crate::decide::assign::{self, Assignment};
use crate::decide::cameras::Cameras;
use crate::decide::caution::{self, PoolCaution};
use crate::decide::observe::Reports;
use crate::decide::place::PoolPlan;
use crate::decide::pool_status::Rolling;
use crate::decide::report::{Reporter, View};
use crate::decide::seen::Seen;
use crate::decide::state::State;
use crate::decide::wanted::{Key, Wanted};
use crate::decide::{learn, moves, standing};

/// Everything that the leader knows and does.
pub struct Plane {
    pub(super) options: Options,
    pub(super) client: Client,
    pub(super) watches: Watches,
    pub(super) writer: Writer,
    pub(super) secrets: SecretBook,
    pub(super) events: Publisher,
    pub(super) metrics: Metrics,
    pub(super) reporter: Reporter<Outbox>,
    pub(super) state: State,
    pub(super) wanted: Wanted,
    pub(super) plans: BTreeMap<Key, PoolPlan>,
    pub(super) seen: BTreeMap<Key, Seen>,
    /// Versions of Recorders as this operator wrote them last, until the watch brings them.
    pub(super) versions: BTreeMap<Key, String>,
    leadership: Leadership,
    pub(super) lives: Lives,
    recorders: BTreeMap<Key, Arc<Recorder>>,
    /// What could not be made of pools, and why.
    pub(super) unmade: BTreeMap<Key, String>,
    /// Pools whose pods are being made anew, and how far that is.
    pub(super) rolling: BTreeMap<Key, Rolling>,
    /// What stands against stopping recorders of each pool; nothing while streams were not looked at yet.
    pub(super) cautions: Option<BTreeMap<Key, PoolCaution>>,
    /// The recorders that were heard when that was looked at, and where.
    pub(super) heard_at: BTreeMap<Key, String>,
    /// Recorders that the API server did not take, and why.
    pub(super) unwritten: BTreeMap<Key, String>,
    /// Recorders that could not be made, or can't be read: the names of their pools, and why.
    pub(super) uncreated: BTreeMap<Key, (String, String)>,
    /// Pools of which all that was decided last is written.
    pub(super) settled_pools: BTreeSet<Key>,
    /// When what failed is tried again.
    again: Option<Instant>,
    /// Recorders that this leader may not write to: it takes them over as soon as it may.
    pub(super) untaken: BTreeSet<Key>,
    /// How far it is with beginning to lead, in the last term in which it began.
    pub(super) beginning: Option<Beginning>,
    /// What failed last, so that it is not said each time.
    said: Option<String>,
    standings: BTreeMap<Key, Standing>,
    cameras: Cameras,
    askers: Askers,
    answers: Answers,
    pace: Pace,
    /// Grows with each change of what is wanted, remembered or planned.
    pub(super) revision: u64,
    /// Something changed that decisions depend on.
    pub(super) is_stirred: bool,
    /// Whether anything was decided since this operator began to lead.
    has_decided: bool,
    /// Since when recorders are planned for that the watch does not know yet.
    coming: Option<Instant>,
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
            events: Publisher::new(client.clone(), reporter),
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
            rolling: BTreeMap::new(),
            cautions: None,
            heard_at: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            uncreated: BTreeMap::new(),
            settled_pools: BTreeSet::new(),
            again: None,
            untaken: BTreeSet::new(),
            beginning: None,
            said: None,
            standings: BTreeMap::new(),
            cameras: Cameras::default(),
            askers: Askers::new(http, answers.clone()),
            answers,
            pace: Pace::default(),
            revision: 0,
            is_stirred: true,
            has_decided: false,
            coming: None,
        }
    }

    /// Something changed: the next round thinks everything over again.
    pub fn stir(&mut self) {
        self.is_stirred = true;
    }

    /// Something failed: after a while everything is decided anew.
    pub(super) fn try_again(&mut self) {
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// When the next decision is due, if one waits.
    #[must_use]
    pub fn decides_at(&self) -> Option<Instant> {
        self.pace.until().filter(|_| self.is_stirred && self.has_begun() && self.writer.term().is_some())
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
            if self.beginning.take().is_some() {
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

    pub(super) fn forget(&mut self) {
        self.state = State::default();
        self.reporter = Reporter::new(Outbox::default());
        self.cautions = None;
        self.heard_at.clear();
        self.has_decided = false;
        self.coming = None;
        self.rolling.clear();
        self.seen.clear();
        self.versions.clear();
        self.unwritten.clear();
        self.uncreated.clear();
        self.untaken.clear();
        self.settled_pools.clear();
        // What a former term wanted and planned is nothing to act by.
        self.wanted = Wanted::default();
        self.plans.clear();
        self.secrets.forget();
        self.events.forget();
        self.askers.ask(&BTreeMap::new());
        self.metrics.forget_pools();
    }

    async fn lead(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let began = Instant::now();
        if !self.begin(term, facts).await? {
            return Ok(());
        }
        // That somebody is silent, or answers for the first time, is no event of an object.
        let standings = facts.standings();
        let is_due = self.again.take_if(|at| Instant::now() >= *at).is_some();
        let stirred = std::mem::take(&mut self.is_stirred) || is_due || self.standings != standings;
        self.standings = standings;
        if !self.untaken.is_empty() && (is_due || self.again.is_none()) {
            self.take_rest_over(term, facts).await;
        }
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
        // One Recorder that can't be written keeps nobody from being told how things are. Only where streams are planned for recorders that are not there yet,
        // it would be told that those have them, and do not record.
        if self.coming.is_none_or(|since| since.elapsed() >= COMING_AT_MOST) {
            self.report();
        }
        self.send(term, began.elapsed()).await;
        let called = self.call_unknown(term, facts).await;
        decided.and(made).and(called)
    }

    fn facts(&mut self) -> Facts {
        let now = Instant::now();
        self.lives.pass(now, self.leadership.reach.is_deaf(monotonic_us()));
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
        let unreadable = self.watches.recorders.all().into_iter().filter_map(|guard| {
            let broken = guard.0.as_ref().err()?;
            Some((key(broken.metadata.namespace.clone(), guard.name_any()), broken.error.clone()))
        });
        let unreadable = unreadable.collect();
        for lease in self.watches.leases.all() {
            let key = key(lease.namespace(), lease.name_any());
            if recorders.contains_key(&key) {
                let spec = lease.spec.as_ref();
                let renewed = spec.and_then(|spec| Some(format!("{:?}", spec.renew_time.as_ref()?.0)));
                let status = recorders.get(&key).and_then(|recorder| recorder.status.as_ref());
                let was_silent = status.is_some_and(|status| status.phase == Some(RecorderPhase::Unknown));
                self.lives.lease(&key, renewed, was_silent, now);
            }
        }
        recorders.keys().for_each(|key| self.lives.is_there(key, now));
        self.lives.keep_only(|key| recorders.contains_key(key));
        let claims = self.watches.claims.all().into_iter();
        let volumes = self.watches.volumes.all().into_iter();
        let pods = self.watches.pods.all().into_iter();
        let nodes = self.watches.nodes.all().into_iter();
        Facts {
            quiet: recorders.keys().filter_map(|key| Some((key.clone(), self.lives.quiet_for(key, now)?))).collect(),
            unreadable,
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
        let there = facts.recorders.keys().chain(facts.unreadable.keys());
        let there: BTreeSet<String> = there.map(ToString::to_string).collect();
        self.state.recorders.retain(|name, _| there.contains(name));
    }

    async fn decide(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let pools = self.watches.pools.all();
        let streams = |look: &mut dyn FnMut(&Key, &Stream)| self.watches.streams.each(look);
        let mut wanted = gather::wanted(streams, pools.iter().map(AsRef::as_ref), &self.state);
        if let Some(what) = self.is_missing_by_mistake(&wanted).await {
            warn!(
                "{what} is not among what the API server lists, but is there; nothing is taken away until that is clear"
            );
            self.try_again();
            return Ok(());
        }
        let began = Instant::now();
        moves::stay(&mut wanted, &self.state, &ClusterWorld::of(facts));
        // What was wanted and planned before is given up first: of ten thousand streams, twice is most of what a decision needs for a moment.
        self.wanted = wanted;
        self.plans.clear();
        self.settled_pools.clear();
        let mut assigned = assign::assign(&self.wanted, self.state.clone(), &mut ClusterWorld::of(facts));
        self.metrics.planned(began.elapsed());
        let is_coming = self.create_missing(term, facts, &assigned.recorders).await?;
        if !self.uncreated.is_empty() {
            // Nobody is given to those that can't be made; all others, of all pools, are told what is decided without them.
            let mut world = ClusterWorld { facts, without: self.uncreated.keys().cloned().collect() };
            moves::stay(&mut self.wanted, &self.state, &world);
            assigned = assign::assign(&self.wanted, self.state.clone(), &mut world);
        }
        let Assignment { state, recorders, plans } = assigned;
        self.plans = plans;
        self.coming = is_coming.then(|| self.coming.unwrap_or_else(Instant::now));
        if is_coming {
            // The watch tells when they are there, a moment from now.
            return Ok(());
        }
        let put = self.put(term, facts, state, recorders).await;
        // Also where one of them could not be written: that is no reason to look after nothing else.
        self.has_decided = true;
        put?;
        match self.uncreated.values().next() {
            Some((_, why)) => Err(WriteError::Unmade { why: why.clone() }),
            None => Ok(()),
        }
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
    pub(super) fn look_at_recorders(&mut self, facts: &Facts) {
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
            // What it said last is believed of one that is out of this operator's reach and lives, not of one that fell silent.
            if let Some(address) = &address {
                seen.listens(address);
            }
            if alive && !seen.answers(now) && self.lives.lives_on(key, now) {
                seen.heard(reports::from_status(recorder), now);
            }
            addresses.extend(address.map(|address| (key.clone(), address)));
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
        for (recorder, (pool, why)) in &self.uncreated {
            let said = failures.entry(Key::new(&recorder.namespace, pool)).or_default();
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
            rolling: &self.rolling,
            stopped: false,
            revision: Some(self.revision),
        };
        self.reporter.sink.phases.clear();
        self.reporter.report(&view, Instant::now(), Timestamp::now());
        self.metrics.streams(&self.reporter.sink.phases);
        let cautions = self.reporter.cautions();
        // Before anything was decided there are no streams, which says nothing.
        if self.has_decided {
            self.is_stirred |= self.cautions.as_ref().is_none_or(|before| !caution::allow_the_same(before, &cautions));
            self.cautions = Some(cautions);
            let (now, heard) = (Instant::now(), self.seen.iter());
            let heard =
                heard.filter(|(_, seen)| seen.answers(now)).map(|(key, seen)| (key.clone(), seen.address.clone()));
            let heard: BTreeMap<Key, String> = heard.collect();
            self.is_stirred |= self.heard_at != heard;
            self.heard_at = heard;
        }
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
}

/// An API server that does not answer within this time does not hold up what else there is to do.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Recorders that were made are there, a moment later; what is told is not withheld for longer than this.
const COMING_AT_MOST: Duration = Duration::from_secs(3);
/// What failed is tried again after so long.
pub(super) const AGAIN: Duration = Duration::from_secs(5);
/// How often everything is looked at where nothing changes: statuses depend on time, too.
pub(super) const LOOK: Duration = Duration::from_secs(1);
