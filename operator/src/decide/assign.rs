//! From what is wanted and what is remembered to the Recorder objects: who records what, in which epoch, by which decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use framekeeper_crds::validate::{self, FieldError};
use framekeeper_crds::{
    CameraStreamSpec, FailureDomain, Hold, Kept, PlanVersion, Recorder, RecorderRetention, RecorderSegment,
    RecorderSpec, RecorderStatus, RecorderVolume, RetentionSpec, StoragePoolSpec, StreamRef, recorder_name,
};
use framekeeper_plan::Condition;
use uuid::Uuid;

use super::holders::{self, Holding, Pool, Shared, Uids};
use super::holds;
use super::place::{self, Known, PoolPlan};
use super::state::{CameraLimits, PoolState, RecorderState, State, StreamState, Told};
use super::wanted::{Desired, Identity, Key, Wanted};

/// More than a Recorder may hold are not told of; of these, what was said last holds.
const KEPT_AT_MOST: usize = 1000;

/// What an assignment needs to know of the world outside of what is wanted.
pub trait World {
    /// A new identity.
    fn new_uuid(&mut self) -> Uuid;
    /// The identity of a volume that is there already, if it belongs to this recorder of this pool.
    fn volume_uuid(&mut self, recorder: &Key, pool: &Key, volume: &str) -> Option<Uuid>;
    /// What a recorder says of itself.
    fn status(&self, recorder: &Key) -> Option<&RecorderStatus>;
    /// Where a recorder's peers reach it.
    fn peer_address(&self, recorder: &Key) -> Option<String>;
    /// Where a recorder's HTTP server is reached.
    fn http_address(&self, recorder: &Key) -> Option<String>;
    /// What a recorder fails together with, by any name that they have in common. Nothing known: it fails alone.
    fn domain(&self, _recorder: &Key, _kind: FailureDomain) -> Option<String> {
        None
    }
    /// Whether a volume of a recorder is lost for good, so that it is to begin anew on another.
    fn is_lost(&self, _recorder: &Key, _volume: &str) -> bool {
        false
    }
    /// Whether a recorder does its work.
    fn condition(&self, _recorder: &Key) -> Condition {
        Condition::Active
    }
}

/// Who is to record what.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// What to remember.
    pub state: State,
    /// The recorders there shall be, and those that go on until others have what they hold.
    pub recorders: BTreeMap<Key, Arc<Recorder>>,
    /// What was planned for each pool.
    pub plans: BTreeMap<Key, PoolPlan>,
}

/// UID of a stream: the same for the same namespace and name, so that footage is found again.
#[must_use]
pub fn stream_uid(key: &Key) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("framekeeper.dev/camerastreams/{key}").as_bytes()).to_string()
}

/// What a change of what is wanted may not do: (pool, mistake).
#[must_use]
pub fn refused_changes(wanted: &Wanted, state: &State) -> Vec<(Key, FieldError)> {
    let refused = wanted.pools.iter().flat_map(|(key, pool)| {
        let old = state.pools.get(&key.to_string());
        let errors =
            old.map(|old| validate::storage_pool_change(old.spec.segment.bytes, &pool.object)).unwrap_or_default();
        errors.into_iter().map(|error| (key.clone(), error))
    });
    refused.collect()
}

/// Assigns all streams. Of what is as it was, nothing changes: not the recorder of a stream, not its epoch, not the generation of a Recorder.
pub fn assign(wanted: &Wanted, mut state: State, world: &mut dyn World) -> Assignment {
    let decision = PlanVersion { term: state.term, sequence: state.sequence + 1 };
    let mut decided = false;
    for (key, pool) in &wanted.pools {
        remember_pool(&mut state, key, pool);
    }
    for (key, stream) in &wanted.streams {
        remember_stream(&mut state, key, stream);
    }
    holds::remember(&mut state, wanted);

    let mut pools = Vec::new();
    for (key, placed) in &wanted.pools {
        let pool = planned(wanted, &state, (key, &placed.object), world);
        for (stream, assigned) in &pool.plan.plan.placed {
            decided |= holders::give(&mut state, stream, &pool, assigned, decision);
        }
        pools.push(pool);
    }
    if decided {
        state.sequence = decision.sequence;
    }
    for pool in &pools {
        holders::forget(&mut state, pool, &pools, world);
    }
    let uids = uids(&state, &pools, world);
    let mut recorders = BTreeMap::new();
    let holding = Holding::of(&state, &pools);
    for pool in &pools {
        let mut kept = kept(&state, wanted, pool);
        let holds = holds::of_namespace(&state, &pool.key.namespace);
        for ordinal in pool.ordinals() {
            let shared = holding.told(&state, pool, ordinal, &uids, world);
            let kept = kept.remove(&ordinal).unwrap_or_default();
            let recorder = recorder(&mut state, pool, ordinal, OfStreams { shared, kept, holds: &holds }, &uids, world);
            recorders.insert(pool.recorder(ordinal), recorder);
        }
    }
    drop(holding);
    let plans = pools.into_iter().map(|pool| (pool.key.clone(), pool.plan)).collect();
    Assignment { state, recorders, plans }
}

/// A pool, and who is to hold its streams.
pub(super) fn planned<'w>(
    wanted: &'w Wanted,
    state: &State,
    (key, spec): (&'w Key, &'w StoragePoolSpec),
    world: &dyn World,
) -> Pool<'w> {
    let streams = place::streams_of(wanted, key);
    let known = |stream: &Key| {
        let remembered = state.streams.get(&stream.to_string());
        let last = remembered.filter(|last| last.pool == key.to_string()).and_then(|last| last.recorder);
        Known { last, camera: remembered.map(|remembered| remembered.camera).unwrap_or_default() }
    };
    let held = holders::recorded(state, key, world);
    let draining = holders::draining(state, key, spec, &held, world);
    let recorders = recorders_of(key, spec, &draining, world);
    let holds = holds::bytes(state, &key.namespace);
    let plan = place::place(spec, place::max_channels(spec), holds, &streams, known, &held, &recorders);
    Pool { key, spec, streams, plan, draining }
}

/// The recorders of a pool for the planner.
fn recorders_of(
    pool: &Key,
    spec: &StoragePoolSpec,
    draining: &[u32],
    world: &dyn World,
) -> Vec<framekeeper_plan::Recorder> {
    let key = |ordinal: u32| Key::new(&pool.namespace, recorder_name(&pool.name, ordinal));
    let ordinals = || (0..spec.recorders).chain(draining.iter().copied());
    let domain = |ordinal: u32| world.domain(&key(ordinal), spec.failure_domain);
    let names: BTreeSet<String> = ordinals().filter_map(domain).collect();
    // Those that fail alone are numbered by themselves, beyond all that have a name in common.
    let alone = |ordinal: u32| u32::try_from(names.len()).unwrap_or(u32::MAX).saturating_add(ordinal);
    let number = |ordinal: u32| {
        let named = domain(ordinal).and_then(|name| names.iter().position(|known| *known == name));
        named.and_then(|at| u32::try_from(at).ok()).unwrap_or_else(|| alone(ordinal))
    };
    let condition = |ordinal: u32| match ordinal < spec.recorders {
        true => world.condition(&key(ordinal)),
        false => Condition::Draining,
    };
    let recorder =
        |ordinal: u32| framekeeper_plan::Recorder { ordinal, domain: number(ordinal), condition: condition(ordinal) };
    ordinals().map(recorder).collect()
}

/// Who each recorder is, before any of them is told of another.
fn uids(state: &State, pools: &[Pool<'_>], world: &mut dyn World) -> Uids {
    let mut uids = Uids::new();
    for pool in pools {
        for ordinal in pool.ordinals() {
            let key = pool.recorder(ordinal);
            let known = state.recorders.get(&key.to_string()).map(|known| known.uid.clone());
            uids.insert(key, known.unwrap_or_else(|| world.new_uuid().to_string()));
        }
    }
    uids
}

/// What a recorder has of streams.
struct OfStreams<'h> {
    shared: Shared,
    kept: Vec<Kept>,
    /// Holds of its namespace, and those that were taken back.
    holds: &'h (Vec<Hold>, Vec<Hold>),
}

/// By recorder, the limits of streams whose footage it has, and that nobody records now: suspended ones, and those without a slot.
fn kept(state: &State, wanted: &Wanted, pool: &Pool<'_>) -> BTreeMap<u32, Vec<Kept>> {
    let (mut kept, own) = (BTreeMap::<u32, Vec<Kept>>::new(), pool.key.to_string());
    let idle = wanted.streams.iter().filter(|(key, _)| !pool.plan.plan.placed.contains_key(*key));
    for (key, stream) in idle {
        let Some(known) = state.streams.get(&key.to_string()).filter(|known| known.pool == own) else { continue };
        let retention = retention(stream.object.retention, pool.spec);
        for ordinal in known.holders().into_iter().collect::<BTreeSet<u32>>() {
            let here = kept.entry(ordinal).or_default();
            if here.len() < KEPT_AT_MOST {
                here.push(Kept { stream: reference(key, &known.uid), retention });
            }
        }
    }
    kept
}

/// How recorders name a stream.
pub(crate) fn reference(key: &Key, uid: &str) -> StreamRef {
    StreamRef { namespace: key.namespace.clone(), name: key.name.clone(), uid: uid.to_owned() }
}

/// What a recorder is told: the stream's own limits before the pool's.
pub(crate) fn retention(own: RetentionSpec, pool: &StoragePoolSpec) -> RecorderRetention {
    let RetentionSpec { max_age, max_bytes } = own.or(pool.retention);
    RecorderRetention {
        max_age_ms: max_age.map(framekeeper_crds::HumanDuration::as_millis),
        max_bytes: max_bytes.map(framekeeper_crds::ByteQuantity::as_bytes),
    }
}

fn recorder(
    state: &mut State,
    pool: &Pool<'_>,
    ordinal: u32,
    of_streams: OfStreams<'_>,
    uids: &Uids,
    world: &mut dyn World,
) -> Arc<Recorder> {
    let (key, spec) = (pool.recorder(ordinal), pool.spec);
    let OfStreams { shared: Shared { channels, retired, peers }, kept, holds } = of_streams;
    let name = key.to_string();
    let old = state.recorders.get(&name).cloned();
    let volumes = spec.storage.volumes.iter().map(|volume| {
        let is_lost = world.is_lost(&key, &volume.name);
        let known = old.as_ref().and_then(|old| old.spec.volumes.iter().find(|known| known.name == volume.name));
        let uuid = match known {
            Some(_) if is_lost => world.new_uuid().to_string(),
            Some(known) => known.uuid.clone(),
            None => match world.volume_uuid(&key, pool.key, &volume.name) {
                Some(found) => found.to_string(),
                None => world.new_uuid().to_string(),
            },
        };
        let budget_bytes = volume.claim_template.spec.resources.requests.storage.as_bytes();
        // The claim that was lost stays as it is: whoever finds its disk again finds its footage.
        let claim = match known {
            Some(_) if is_lost => Some(another_claim(&volume.name, &key.name, &uuid)),
            known => known.and_then(|known| known.claim.clone()),
        };
        RecorderVolume { name: volume.name.clone(), uuid, budget_bytes, claim }
    });
    let (holds, released_holds) = holds.clone();
    let spec = RecorderSpec {
        pool: pool.key.name.clone(),
        ordinal,
        term: state.term,
        slots: pool.plan.slots(spec),
        segment: RecorderSegment {
            bytes: spec.segment.bytes.as_bytes(),
            part_ms: millis(spec.segment.part),
            sync_ms: spec.segment.sync.map(millis),
        },
        volumes: volumes.collect(),
        placement: spec.storage.placement,
        retention: retention(RetentionSpec::default(), spec),
        handback_after_ms: spec.redundancy.handback_after.map(millis),
        peers,
        channels,
        kept,
        retired,
        holds,
        released_holds,
    };
    let uid = uids.get(&key).cloned().unwrap_or_default();
    let is_same = old.as_ref().is_some_and(|old| *old.spec == spec);
    let generation = old.as_ref().map_or(1, |old| old.generation + i64::from(!is_same));
    let metadata = ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: Some(uid.clone()),
        generation: Some(generation),
        ..ObjectMeta::default()
    };
    let known = old.as_ref().map(|old| old.spec.recorder()).filter(|known| is_same && is_of(known, &metadata));
    let recorder = known.map_or_else(
        || {
            let mut recorder = Recorder::new(&key.name, spec);
            recorder.metadata = metadata;
            Arc::new(recorder)
        },
        Arc::clone,
    );
    let told = Told::from(Arc::clone(&recorder));
    let remembered = match old {
        Some(old) => RecorderState { generation, spec: told, ..old },
        None => RecorderState {
            uid,
            generation,
            spec: told,
            retiring: Vec::new(),
            http_port: 0,
            peer_port: 0,
            public_key: None,
        },
    };
    state.recorders.insert(name, remembered);
    recorder
}

/// Whether it is the very object, in the very generation.
fn is_of(recorder: &Recorder, metadata: &ObjectMeta) -> bool {
    let of = |it: &ObjectMeta| (it.name.clone(), it.namespace.clone(), it.uid.clone(), it.generation);
    of(&recorder.metadata) == of(metadata)
}

/// A claim that has never been: it is named after the identity of the volume, too.
fn another_claim(volume: &str, recorder: &str, uuid: &str) -> String {
    format!("{volume}-{recorder}-{}", uuid.get(..8).unwrap_or(uuid))
}

/// Validation bounds these to seconds.
fn millis(duration: framekeeper_crds::HumanDuration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn remember_pool(state: &mut State, key: &Key, pool: &Desired<StoragePoolSpec>) {
    let spec = &pool.object;
    let uid =
        || Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("framekeeper.dev/storagepools/{key}").as_bytes()).to_string();
    let entry = state.pools.entry(key.to_string());
    let known = entry.or_insert_with(|| PoolState { uid: uid(), generation: 1, spec: spec.clone() });
    if known.spec != *spec {
        known.spec = spec.clone();
        known.generation += 1;
    }
    if let Some(Identity { uid, generation }) = &pool.identity {
        known.uid.clone_from(uid);
        known.generation = *generation;
    }
}

fn remember_stream(state: &mut State, key: &Key, wanted: &Desired<Arc<CameraStreamSpec>>) {
    let spec = &wanted.object;
    let new = || StreamState {
        uid: stream_uid(key),
        generation: 1,
        spec: Arc::clone(spec),
        recorder: None,
        standbys: Vec::new(),
        pool: format!("{}/{}", key.namespace, spec.pool_ref.name),
        epoch: 0,
        epoch_seen: 0,
        plan_version: PlanVersion::default(),
        camera: CameraLimits::default(),
        holds: Vec::new(),
        left_out_holds: Vec::new(),
        released_holds: Vec::new(),
    };
    let stream = state.streams.entry(key.to_string()).or_insert_with(new);
    // Another one of the same name: its footage is another's, and nobody holds it yet.
    if let Some(Identity { uid, .. }) = wanted.identity.as_ref().filter(|identity| identity.uid != stream.uid) {
        *stream = StreamState { uid: uid.clone(), ..new() };
    }
    if stream.spec.source != spec.source {
        stream.camera = CameraLimits::default();
    }
    if stream.spec != *spec {
        stream.spec = Arc::clone(spec);
        stream.generation += 1;
    }
    if let Some(Identity { generation, .. }) = &wanted.identity {
        stream.generation = *generation;
    }
}

#[cfg(test)]
#[path = "assign_tests.rs"]
mod tests;
