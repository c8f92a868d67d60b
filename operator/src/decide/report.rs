//! What people are told: statuses and events into objects ([`Sink`]), changes into the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{
    CameraStream, CameraStreamStatus, Recorder, RecorderSpec, RecorderStatus, StoragePool, StoragePoolStatus,
    StreamAssignment, StreamPhase, recorder_name,
};
use framekeeper_plan::Assigned;
use tracing::{info, warn};

use super::caution::{self, Caution, PoolCaution};
use super::holds;
use super::observe::ChannelReport;
use super::place::{self, PoolPlan};
use super::pool_status::{self, PoolView, Rolling, ToldRolling};
use super::protection;
use super::recorder_notes;
use super::refusals::Told;
use super::said::{Conditions, Said};
use super::seen::Seen;
use super::settled::Basis;
use super::standing::{self, Holder};
use super::state::{State, StreamState};
use super::status::{self, Doing, Note};
use super::wanted::{Key, Wanted};

/// More changes of one sort at once than this are told as one.
const NOTES_TOLD_ONE_BY_ONE: usize = 5;
/// So long a standby may take until it is seen to record: peers notice silence after 1.25 s, and are asked once a second.
const TAKEOVER_GRACE: Duration = Duration::from_secs(3);

/// The kinds that are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CameraStreams.
    Stream,
    /// StoragePools.
    Pool,
    /// Recorders.
    Recorder,
}

impl Kind {
    /// What stands in `kind`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "CameraStream",
            Self::Pool => "StoragePool",
            Self::Recorder => "Recorder",
        }
    }
}

/// Where statuses and events go.
pub trait Sink {
    /// What was said last of a stream, by an operator before this one.
    fn former_stream(&self, key: &Key) -> Option<CameraStreamStatus>;
    /// What was said last of a pool, by an operator before this one.
    fn former_pool(&self, key: &Key) -> Option<StoragePoolStatus>;
    /// A stream's status is another one.
    ///
    /// # Errors
    /// When it can't be written; it is then given again.
    fn stream(&mut self, key: &Key, stream: CameraStream) -> std::io::Result<()>;
    /// The same of one of which nothing can be said but that it is refused.
    fn refused_stream(&mut self, key: &Key, stream: CameraStream) -> std::io::Result<()> {
        self.stream(key, stream)
    }
    /// A pool's status is another one.
    ///
    /// # Errors
    /// As for streams.
    fn pool(&mut self, key: &Key, pool: StoragePool) -> std::io::Result<()>;
    /// A recorder is told something else, or says something else.
    ///
    /// # Errors
    /// As for streams.
    fn recorder(&mut self, key: &Key, recorder: Recorder) -> std::io::Result<()>;
    /// Something happened to an object.
    ///
    /// # Errors
    /// When it can't be written; it is then lost.
    fn event(&mut self, kind: Kind, key: &Key, uid: &str, note: &Note, now: Timestamp) -> std::io::Result<()>;
    /// There are no other objects than these any more.
    ///
    /// # Errors
    /// When others can't be removed.
    fn keep_only(&mut self, wanted: &BTreeMap<Kind, BTreeSet<Key>>) -> std::io::Result<()>;
    /// How a stream stands, changed or not, and what whoever records it says.
    fn stands(&mut self, key: &Key, status: &CameraStreamStatus, report: Option<&ChannelReport>);
    /// A stream stands as it did: told instead where [`View::revision`] allows that.
    fn still(&mut self, phase: Option<StreamPhase>);
}

/// Everything there is to tell of.
pub struct View<'p, R> {
    /// What is wanted.
    pub wanted: &'p Wanted,
    /// What was decided.
    pub state: &'p State,
    /// What was planned for each pool.
    pub plans: &'p BTreeMap<Key, PoolPlan>,
    /// What is there.
    pub running: &'p BTreeMap<Key, R>,
    /// What could not be made of pools, and why.
    pub unmade: &'p BTreeMap<Key, String>,
    /// Pools whose pods are being made anew, and how far that is.
    pub rolling: &'p BTreeMap<Key, Rolling>,
    /// Whether all of it has just been stopped.
    pub stopped: bool,
    /// Another one whenever what is wanted, remembered or planned is. Nothing: all of it is looked at each time.
    pub revision: Option<u64>,
}

/// Tells it.
#[derive(Debug)]
pub struct Reporter<S> {
    /// Where it goes to.
    pub sink: S,
    streams: BTreeMap<Key, Said>,
    conditions: Conditions,
    pools: BTreeMap<Key, StoragePoolStatus>,
    /// What is told of pools whose pods are being made anew.
    rolling: BTreeMap<Key, ToldRolling>,
    recorders: BTreeMap<Key, (Arc<Recorder>, Option<RecorderStatus>)>,
    /// What all streams were made from when each of them was as it was told.
    all_settled: Option<u64>,
    /// Streams that nobody records though a standby is ready to, and since when.
    awaiting: BTreeMap<Key, Instant>,
    /// Streams that stand against stopping a recorder, each with its pool.
    cautions: BTreeMap<Key, (String, Caution)>,
    /// What must be written again because the last time failed.
    unwritten: BTreeSet<(Kind, Key)>,
    trouble: Option<String>,
    /// What was told of objects that are refused.
    pub(super) refused: Told,
}

impl<S: Sink> Reporter<S> {
    /// Tells it there.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            streams: BTreeMap::new(),
            conditions: Conditions::default(),
            pools: BTreeMap::new(),
            rolling: BTreeMap::new(),
            recorders: BTreeMap::new(),
            all_settled: None,
            awaiting: BTreeMap::new(),
            cautions: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            trouble: None,
            refused: Told::default(),
        }
    }

    /// Tells what has changed.
    pub fn report<R: AsRef<Seen>>(&mut self, view: &View<'_, R>, now: Instant, wall: Timestamp) {
        self.forget(view);
        self.streams(view, now, wall);
        self.pools(view, now, wall);
        self.recorders(view, wall);
        self.refusals(view.wanted, wall);
    }

    /// What was said last of a stream.
    #[must_use]
    pub fn said(&self, stream: &Key) -> Option<CameraStreamStatus> {
        self.streams.get(stream).map(Said::status)
    }

    /// What stands against stopping a recorder of each pool, as of the last look at streams.
    #[must_use]
    pub fn cautions(&self) -> BTreeMap<Key, PoolCaution> {
        caution::of_pools(self.cautions.iter().map(|(key, (pool, caution))| (key, pool.as_str(), *caution)))
    }

    /// How many streams need not be looked at again while nothing changes.
    #[cfg(test)]
    pub(super) fn settled(&self) -> usize {
        self.streams.values().filter(|said| said.settled.is_some()).count()
    }

    /// Forgets what is not there any more.
    fn forget<R: AsRef<Seen>>(&mut self, view: &View<'_, R>) {
        let before = self.streams.len() + self.pools.len() + self.recorders.len();
        self.streams.retain(|key, _| view.wanted.streams.contains_key(key));
        self.awaiting.retain(|key, _| view.wanted.streams.contains_key(key));
        self.cautions.retain(|key, _| view.wanted.streams.contains_key(key));
        self.pools.retain(|key, _| view.wanted.pools.contains_key(key));
        self.rolling.retain(|key, _| view.rolling.contains_key(key));
        self.recorders.retain(|key, _| view.running.contains_key(key));
        let after = self.streams.len() + self.pools.len() + self.recorders.len();
        let first = after == 0;
        if before == after && !first {
            return;
        }
        let wanted = BTreeMap::from([
            (Kind::Stream, view.wanted.streams.keys().chain(view.wanted.unknown.keys()).cloned().collect()),
            (Kind::Pool, view.wanted.pools.keys().chain(view.wanted.unknown_pools.keys()).cloned().collect()),
            (Kind::Recorder, view.running.keys().cloned().collect()),
        ]);
        let result = self.sink.keep_only(&wanted);
        self.note_trouble(result);
    }

    fn streams<R: AsRef<Seen>>(&mut self, view: &View<'_, R>, now: Instant, wall: Timestamp) {
        let basis = view.revision.map(|revision| Basis::new(revision, now, view.plans, view.running));
        let of_all = basis.as_ref().map(Basis::of_all);
        if of_all.is_some() && self.all_settled == of_all {
            for said in self.streams.values() {
                self.sink.still(said.phase());
            }
            return;
        }
        let mut notes: BTreeMap<(bool, String), Vec<(Key, String)>> = BTreeMap::new();
        let former = former(view);
        for (key, placed) in &view.wanted.streams {
            let settled = basis.as_ref().map(|basis| basis.of(key, &placed.object.pool_ref.name));
            if let Some(said) = self.streams.get(key).filter(|said| settled.is_some() && said.settled == settled) {
                self.sink.still(said.phase());
                continue;
            }
            let Some(remembered) = view.state.streams.get(&key.to_string()) else { continue };
            let pool = Key::new(&key.namespace, &placed.object.pool_ref.name);
            let planned = view.wanted.pools.get(&pool).zip(view.plans.get(&pool));
            let assigned = planned.and_then(|(_, plan)| plan.plan.placed.get(key));
            let names = assigned.map(|assigned| names(&former, &pool, assigned, remembered)).unwrap_or_default();
            let holders: Vec<Holder<'_>> = names.iter().map(|name| holder(view, key, name, now)).collect();
            let current = assigned.map_or(0, |assigned| 1 + assigned.standbys.len());
            let active = standing::active(&holders).map(|holder| holder.name);
            let caution = planned.zip(holders.get(..current)).map_or_else(Caution::default, |((spec, _), holders)| {
                caution::of(place::class(&placed.object, &spec.object), spec.object.tolerated_failures, holders)
            });
            if caution.is_none() {
                self.cautions.remove(key);
            } else {
                self.cautions.insert(key.clone(), (pool.name.clone(), caution));
            }
            let report = standing::spokesman(&holders).and_then(|holder| holder.report);

            let known = self.streams.get(key);
            let is_of_another = known.is_some_and(|said| !said.is_of(&remembered.uid));
            let known = known.filter(|_| !is_of_another).map(Said::status);
            let is_new = known.is_none();
            let old =
                known.or_else(|| if is_of_another { None } else { self.sink.former_stream(key) }).unwrap_or_default();
            let doing = match (placed.object.suspend, names.first()) {
                (true, _) => Doing::Suspended,
                (_, None) if view.wanted.refused.contains_key(key) => refused(view.wanted, key),
                (_, None) => {
                    let message = planned.map(|(spec, plan)| plan.no_slot(&pool.name, &spec.object));
                    Doing::NoSlot { message: message.unwrap_or_else(|| "the pool has no slot for it".into()) }
                }
                _ if view.stopped => Doing::Stopped,
                _ if self.is_being_taken_over(key, &old, &holders, now) => Doing::TakingOver,
                _ => standing::doing(&holders),
            };
            let assignment = names.split_first().map(|(primary, others)| StreamAssignment {
                epoch: remembered.newest_epoch(),
                primary: primary.clone(),
                standbys: others.iter().take(current.saturating_sub(1)).cloned().collect(),
                active: active.map(str::to_owned),
                last_active: None,
            });
            let generation = remembered.generation;
            let mut new = status::stream(&old, generation, assignment, &doing, wall);
            if let Some(refusal) = view.wanted.refused.get(key).filter(|_| new.phase == Some(StreamPhase::Recording)) {
                status::refuse(&old, &mut new, (refusal.reason, &refusal.message), wall);
            }
            if doing != Doing::TakingOver {
                let protection = planned.zip(assigned).and_then(|((spec, plan), assigned)| {
                    let class = place::class(&placed.object, &spec.object);
                    let (failures, holders) = (spec.object.tolerated_failures, holders.get(..current)?);
                    (!class.is_none())
                        .then(|| protection::of(class, failures, assigned, &plan.shortage, holders, active))
                });
                protection::put(&mut new, protection.as_ref(), generation, wall);
            }
            holds::put(&mut new, remembered, &key.namespace, generation, wall);
            new.camera = remembered.camera.findings();
            // What it was recorded in must be exceeded when it is recorded again, whoever decides that.
            let said = new.assignment.as_ref().map_or(0, |assignment| assignment.epoch);
            new.last_epoch = Some(remembered.newest_epoch()).filter(|epoch| *epoch > said);
            let gop = report.and_then(|report| report.gop);
            let same = |old: &&CameraStreamStatus| {
                let holders = |status: &CameraStreamStatus| {
                    status.assignment.as_ref().map(|it| (it.primary.clone(), it.standbys.clone()))
                };
                holders(old) == holders(&new)
            };
            let before = Some(&old).filter(same).and_then(|old| old.worst_case_gap);
            new.worst_case_gap = protection::worst_case_gap(assigned, gop, before);
            self.sink.stands(key, &new, report);
            if new == old && !is_new && !self.unwritten.contains(&(Kind::Stream, key.clone())) {
                // Who hands over, or is about to take over, is looked at each time: that depends on more, and on time.
                let is_settled = names.len() == current && !self.awaiting.contains_key(key) && !view.stopped;
                if let Some(said) = self.streams.get_mut(key) {
                    said.settled = settled.filter(|_| is_settled);
                }
                continue;
            }
            let mut object = CameraStream::new(&key.name, framekeeper_crds::CameraStreamSpec::clone(&placed.object));
            object.metadata = metadata(key, &remembered.uid, generation);
            object.status = Some(new.clone());
            let written = self.sink.stream(key, object);
            self.written(Kind::Stream, key, written);
            let said = [
                status::stream_note(&old, &new),
                status::takeover_note(&old, &new),
                protection::note(&old, &new).filter(|_| !view.stopped),
                status::refusal_note(&old, &new),
                holds::note(&old, &new),
            ];
            for note in said.into_iter().flatten() {
                let result = self.sink.event(Kind::Stream, key, &remembered.uid, &note, wall);
                self.note_trouble(result);
                notes.entry((note.warning, note.reason)).or_default().push((key.clone(), note.message));
            }
            let said = self.conditions.keep(&remembered.uid, new);
            self.streams.insert(key.clone(), said);
        }
        let are_settled = self.streams.values().all(|said| said.settled.is_some());
        self.all_settled = of_all.filter(|_| are_settled);
        for ((warning, reason), streams) in notes.into_iter().filter(|_| !view.stopped) {
            tell(warning, &reason, &streams);
        }
    }

    /// Whether a stream that was recorded is about to be again, so that it would only confuse to say that it is not.
    fn is_being_taken_over(
        &mut self,
        key: &Key,
        old: &CameraStreamStatus,
        holders: &[Holder<'_>],
        now: Instant,
    ) -> bool {
        if old.phase != Some(StreamPhase::Recording) || !standing::awaits_takeover(holders) {
            self.awaiting.remove(key);
            return false;
        }
        let since = *self.awaiting.entry(key.clone()).or_insert(now);
        now.duration_since(since) < TAKEOVER_GRACE
    }

    fn pools<R: AsRef<Seen>>(&mut self, view: &View<'_, R>, now: Instant, wall: Timestamp) {
        for (key, placed) in &view.wanted.pools {
            let Some(remembered) = view.state.pools.get(&key.to_string()) else { continue };
            let Some(plan) = view.plans.get(key) else { continue };
            let spec = &placed.object;
            let mut pool = PoolView {
                recorders: spec.recorders,
                slots: plan.slots(spec),
                used: plan.used,
                used_reserved: plan.used_reserved,
                shortage: plan.too_few_slots(spec, wanted(view.wanted, key)),
                tolerated_failures: spec.tolerated_failures,
                unprotected: plan.unprotected(),
                refused: view.wanted.refused_pools.get(key).map(|refusal| (refusal.reason, refusal.message.clone())),
                ..PoolView::default()
            };
            let of_pool =
                |(stream, placed): &(&Key, &super::wanted::Desired<Arc<framekeeper_crds::CameraStreamSpec>>)| {
                    stream.namespace == key.namespace && placed.object.pool_ref.name == key.name
                };
            pool.streams = view.wanted.streams.iter().filter(of_pool).count().try_into().unwrap_or(u32::MAX);
            for ordinal in 0..spec.recorders {
                let name = recorder_name(&key.name, ordinal);
                let Some(running) = view.running.get(&Key::new(&key.namespace, &name)) else { continue };
                let running = running.as_ref();
                pool.ready += u32::from(running.is_ready(now));
                pool.capacity_bytes += running.recorder.spec.volumes.iter().map(|v| v.budget_bytes).sum::<u64>();
                pool.used_bytes +=
                    running.status.iter().flat_map(|status| &status.volumes).map(|v| v.used_bytes).sum::<u64>();
                if running.is_down && !view.stopped {
                    let why = running.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    pool.trouble.push(format!("{name} does not run{why}"));
                }
                pool.trouble.extend(running.bad_volumes().into_iter().map(|bad| format!("{name}: {bad}")));
            }
            pool.trouble.extend(view.unmade.get(key).cloned());
            pool.rolling = view.rolling.get(key).map(|rolling| {
                let told = self.rolling.entry(key.clone());
                told.or_insert_with(|| ToldRolling::new(rolling.clone(), now)).at(rolling, now).to_string()
            });
            let of_pool = |recorder: &RecorderSpec| recorder.pool == key.name && recorder.ordinal >= spec.recorders;
            let surplus = view.running.iter().filter(|(other, running)| {
                other.namespace == key.namespace && of_pool(&running.as_ref().recorder.spec)
            });
            // A Recorder that is watched may be one write old: by it streams would be told as stuck that are on their way.
            let left = surplus.map(|(other, running)| {
                let (decided, written) = (view.state.recorders.get(&other.to_string()), running.as_ref());
                pool_status::left(&other.name, decided.map_or(&written.recorder.spec, |decided| &decided.spec))
            });
            pool.draining = left.collect();
            let known = self.pools.get(key).cloned();
            let is_new = known.is_none();
            let old = known.unwrap_or_else(|| self.sink.former_pool(key).unwrap_or_default());
            let new = pool_status::status(&old, remembered.generation, &pool, wall);
            if new == old && !is_new && !self.unwritten.contains(&(Kind::Pool, key.clone())) {
                continue;
            }
            let mut object = StoragePool::new(&key.name, spec.clone());
            object.metadata = metadata(key, &remembered.uid, remembered.generation);
            object.status = Some(new.clone());
            let written = self.sink.pool(key, object);
            self.written(Kind::Pool, key, written);
            for note in pool_status::notes(&old, &new) {
                let result = self.sink.event(Kind::Pool, key, &remembered.uid, &note, wall);
                self.note_trouble(result);
                let Note { warning, reason, message } = note;
                if view.stopped {
                    continue;
                }
                if warning {
                    warn!(pool = %key, reason, "{message}");
                } else {
                    info!(pool = %key, reason, "{message}");
                }
            }
            self.pools.insert(key.clone(), new);
        }
    }

    fn recorders<R: AsRef<Seen>>(&mut self, view: &View<'_, R>, wall: Timestamp) {
        for (key, running) in view.running {
            let running = running.as_ref();
            let is_so = |(recorder, status): &(Arc<Recorder>, Option<RecorderStatus>)| {
                (Arc::ptr_eq(recorder, &running.recorder) || *recorder == running.recorder) && *status == running.status
            };
            let same = self.recorders.get(key).is_some_and(is_so);
            if same && !self.unwritten.contains(&(Kind::Recorder, key.clone())) {
                continue;
            }
            let mut object = Recorder::clone(&running.recorder);
            object.status.clone_from(&running.status);
            let written = self.sink.recorder(key, object);
            self.written(Kind::Recorder, key, written);
            // Between two of its processes a recorder says nothing: what the second one says is compared with the first's.
            let old = self.recorders.remove(key).and_then(|(_, status)| status);
            if let Some(new) = &running.status {
                let uid = running.recorder.metadata.uid.clone().unwrap_or_default();
                for note in recorder_notes::notes(old.as_ref(), new) {
                    let result = self.sink.event(Kind::Recorder, key, &uid, &note, wall);
                    self.note_trouble(result);
                }
                for note in recorder_notes::room_notes(old.as_ref(), new) {
                    let result = self.sink.event(Kind::Recorder, key, &uid, &note, wall);
                    self.note_trouble(result);
                    let Note { warning, reason, message } = note;
                    if warning {
                        warn!(recorder = %key.name, reason, "{message}");
                    } else {
                        info!(recorder = %key.name, reason, "{message}");
                    }
                }
            }
            self.recorders.insert(key.clone(), (Arc::clone(&running.recorder), running.status.clone().or(old)));
        }
    }

    fn written(&mut self, kind: Kind, key: &Key, result: std::io::Result<()>) {
        if result.is_ok() {
            self.unwritten.remove(&(kind, key.clone()));
        } else {
            self.unwritten.insert((kind, key.clone()));
        }
        self.note_trouble(result);
    }

    /// Recording goes on without statuses; that they can't be written is said once.
    pub(super) fn note_trouble(&mut self, result: std::io::Result<()>) {
        let Err(error) = result else { return };
        let error = error.to_string();
        if self.trouble.as_ref() != Some(&error) {
            warn!("statuses and events cannot be written: {error}");
            self.trouble = Some(error);
        }
    }
}

fn refused(wanted: &Wanted, key: &Key) -> Doing {
    let refusal = wanted.refused.get(key);
    let (reason, message) = refusal.map_or(("Refused", String::new()), |it| (it.reason, it.message.clone()));
    Doing::Refused { reason, message }
}

/// How many streams a pool is to record, with those that wait for it elsewhere.
fn wanted(wanted: &Wanted, pool: &Key) -> u32 {
    let waiting = wanted.waiting.values().filter(|other| *other == pool).count();
    u32::try_from(place::of_pool(wanted, pool).count() + waiting).unwrap_or(u32::MAX)
}

/// The recorders that have not let go of a stream yet, by the stream's UID: looked for once, not by each stream.
type Former<'v> = HashMap<&'v str, Vec<&'v Key>>;

fn former<'v, R>(view: &View<'v, R>) -> Former<'v> {
    let mut former = Former::new();
    for key in view.running.keys() {
        let recorder = view.state.recorders.get(&key.to_string());
        let retiring = recorder.into_iter().flat_map(|recorder| &recorder.retiring);
        for retiring in retiring.filter(|retiring| retiring.handover) {
            let of_stream = former.entry(retiring.stream.uid.as_str()).or_default();
            if of_stream.last() != Some(&key) {
                of_stream.push(key);
            }
        }
    }
    former
}

/// The recorders that hold a stream, by rank, and behind them those that have not let go of it yet.
fn names(former: &Former<'_>, pool: &Key, assigned: &Assigned, stream: &StreamState) -> Vec<String> {
    let holders = std::iter::once(&assigned.primary).chain(&assigned.standbys);
    let mut names: Vec<String> = holders.map(|ordinal| recorder_name(&pool.name, *ordinal)).collect();
    let former = former.get(stream.uid.as_str()).into_iter().flatten();
    names.extend(former.filter(|key| key.namespace == pool.namespace).map(|key| key.name.clone()));
    names
}

fn holder<'v, R: AsRef<Seen>>(view: &View<'v, R>, stream: &Key, name: &'v str, now: Instant) -> Holder<'v> {
    let running = view.running.get(&Key::new(&stream.namespace, name)).map(AsRef::as_ref);
    Holder {
        name,
        is_down: running.is_some_and(|running: &Seen| running.is_down),
        report: running.and_then(|running| running.report(stream, now)),
    }
}

fn tell(warning: bool, reason: &str, streams: &[(Key, String)]) {
    let put = |names: &str, message: &str| {
        if warning {
            warn!(stream = names, reason, "{message}");
        } else {
            info!(stream = names, reason, "{message}");
        }
    };
    match streams {
        [(_, message), ..] if streams.len() > NOTES_TOLD_ONE_BY_ONE => {
            put(&format!("{} streams", streams.len()), message);
        }
        few => few.iter().for_each(|(key, message)| put(&key.to_string(), message)),
    }
}

pub(super) fn metadata(key: &Key, uid: &str, generation: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: Some(uid.to_owned()),
        generation: Some(generation),
        ..ObjectMeta::default()
    }
}
