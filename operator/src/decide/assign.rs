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
    /// Whether a recorder's volumes are lost for good, so that it is to begin anew on others.
    fn is_lost(&self, _recorder: &Key) -> bool {
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
        let (spec, streams) = (&placed.object, place::streams_of(wanted, key));
        let known = |stream: &Key| {
            let remembered = state.streams.get(&stream.to_string());
            let last = remembered.filter(|last| last.pool == key.to_string()).and_then(|last| last.recorder);
            Known { last, camera: remembered.map(|remembered| remembered.camera).unwrap_or_default() }
        };
        let held = holders::recorded(&state, key, world);
        let draining = holders::draining(&state, key, spec, &held, world);
        let recorders = recorders_of(key, spec, &draining, world);
        let plan = place::place(spec, place::max_channels(spec), &streams, known, &held, &recorders);
        let pool = Pool { key, spec, streams, plan, draining };
        for (stream, assigned) in &pool.plan.plan.placed {
            decided |= holders::give(&mut state, stream, &pool, assigned, decision);
        }
        pools.push(pool);
    }
    if decided {
        state.sequence = decision.sequence;
    }
    for pool in &pools {
        holders::forget(&mut state, pool, world);
    }
    let uids = uids(&state, &pools, world);
    let mut recorders = BTreeMap::new();
    for pool in &pools {
        let mut kept = kept(&state, wanted, pool);
        let holds = holds::of_namespace(&state, &pool.key.namespace);
        let holding = Holding::of(&state, pool);
        for ordinal in pool.ordinals() {
            let shared = holding.told(&state, pool, ordinal, &uids, world);
            let kept = kept.remove(&ordinal).unwrap_or_default();
            let recorder = recorder(&mut state, pool, ordinal, OfStreams { shared, kept, holds: &holds }, &uids, world);
            recorders.insert(pool.recorder(ordinal), recorder);
        }
    }
    let plans = pools.into_iter().map(|pool| (pool.key.clone(), pool.plan)).collect();
    Assignment { state, recorders, plans }
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
    let is_lost = world.is_lost(&key);
    let volumes = spec.storage.volumes.iter().map(|volume| {
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
    let volumes = volumes.collect();
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
        volumes,
        placement: spec.storage.placement,
        retention: retention(RetentionSpec::default(), spec),
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
mod tests {
    use super::*;
    use crate::local::manifest;
    use std::path::PathBuf;

    #[derive(Default)]
    struct Fake {
        uuids: u128,
        found: BTreeMap<(Key, String), Uuid>,
        statuses: BTreeMap<Key, RecorderStatus>,
    }

    impl World for Fake {
        fn new_uuid(&mut self) -> Uuid {
            self.uuids += 1;
            Uuid::from_u128(self.uuids)
        }

        fn volume_uuid(&mut self, recorder: &Key, _: &Key, volume: &str) -> Option<Uuid> {
            self.found.get(&(recorder.clone(), volume.to_owned())).copied()
        }

        fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
            self.statuses.get(recorder)
        }

        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }
    }

    fn wanted(recorders: u32, max_channels: u32, streams: &[(&str, &str)]) -> Wanted {
        let mut text = format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{recorders: {recorders}, \
             maxChannels: {max_channels}, storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 10Gi}}}}}}}}}}]}}}}\n"
        );
        for (name, more) in streams {
            text.push_str(&format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
                 spec: {{source: {{url: \"rtsp://c/{name}\"}}, poolRef: {{name: main}}{more}}}\n"
            ));
        }
        // That slots are too few is the one mistake that is let through here: what then happens is a decision of this module.
        let reading = manifest::read(&[(PathBuf::from("f"), text)]);
        assert!(reading.mistakes.iter().all(|mistake| mistake.path == "spec.maxChannels"), "{:?}", reading.mistakes);
        reading.manifests.wanted()
    }

    fn holders(assignment: &Assignment) -> BTreeMap<String, (String, u64)> {
        let all = assignment.recorders.values().flat_map(|recorder| {
            let name = recorder.metadata.name.clone().unwrap();
            recorder.spec.channels.iter().map(move |c| (c.stream.name.clone(), (name.clone(), c.epoch)))
        });
        all.collect()
    }

    fn at(name: &str) -> Key {
        Key::new("default", name)
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let wanted = wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]);
        let mut world = Fake::default();
        let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
        assert_eq!(first.state.sequence, 1);
        let second = assign(&wanted, first.state.clone(), &mut world);
        assert_eq!(first, second);
    }

    #[test]
    fn a_streams_limits_come_before_the_pools_and_stay_while_it_is_suspended() {
        let limits = |recorder: &Recorder, name: &str| {
            let channels = recorder.spec.channels.iter().map(|c| (&c.stream, c.retention, "recorded"));
            let kept = recorder.spec.kept.iter().map(|k| (&k.stream, k.retention, "kept"));
            let found = channels.chain(kept).find(|(stream, ..)| stream.name == name);
            found.map(|(_, retention, how)| (retention.max_age_ms, retention.max_bytes, how))
        };
        let with = |b: &str| {
            let mut wanted = wanted(1, 5, &[("a", ""), ("b", b)]);
            let pool = wanted.pools.get_mut(&at("main")).unwrap();
            pool.object.retention.max_age = Some("7d".parse().unwrap());
            wanted
        };
        let mut world = Fake::default();
        let own = ", retention: {maxAge: 1h, maxBytes: 1Gi}";
        let first = assign(&with(own), State::default(), &mut world);
        let recorder = &first.recorders[&at("main-recorder-0")];
        let week_ms = 7 * 24 * 3_600_000;
        assert_eq!(limits(recorder, "a"), Some((Some(week_ms), None, "recorded")));
        assert_eq!(limits(recorder, "b"), Some((Some(3_600_000), Some(1 << 30), "recorded")));
        assert_eq!(recorder.spec.retention.max_age_ms, Some(week_ms));

        let suspended = assign(&with(", suspend: true, retention: {maxAge: 2h}"), first.state.clone(), &mut world);
        let recorder = &suspended.recorders[&at("main-recorder-0")];
        assert_eq!(limits(recorder, "b"), Some((Some(7_200_000), None, "kept")));
        // Of one that is gone nothing is said: the recorder goes by what it knows.
        let gone = assign(&wanted(1, 5, &[("a", "")]), suspended.state, &mut world);
        assert_eq!(limits(&gone.recorders[&at("main-recorder-0")], "b"), None);
        // One that was never recorded has no footage anywhere.
        let never = assign(&with(", suspend: true"), State::default(), &mut world);
        assert_eq!(limits(&never.recorders[&at("main-recorder-0")], "b"), None);
    }

    #[test]
    fn a_restart_keeps_placement_epochs_and_volumes() {
        let wanted = wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]);
        let mut world = Fake::default();
        let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
        let second = assign(&wanted, State { term: 2, ..first.state.clone() }, &mut world);
        assert_eq!(holders(&first), holders(&second));
        for (key, recorder) in &second.recorders {
            let old = &first.recorders[key];
            assert_eq!(recorder.spec.term, 2);
            assert_eq!(recorder.metadata.generation, old.metadata.generation.map(|g| g + 1));
            assert_eq!(recorder.metadata.uid, old.metadata.uid);
            assert_eq!(recorder.spec.volumes, old.spec.volumes);
            assert_eq!(recorder.spec.channels, old.spec.channels);
        }
    }

    #[test]
    fn one_more_stream_touches_one_recorder() {
        let mut world = Fake::default();
        let first = assign(&wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]), State::default(), &mut world);
        let second =
            assign(&wanted(2, 5, &[("a", ""), ("b", ""), ("c", ""), ("d", "")]), first.state.clone(), &mut world);
        let touched: Vec<_> = second.recorders.iter().filter(|(key, new)| first.recorders[*key] != **new).collect();
        assert_eq!(touched.len(), 1);
        assert_eq!(second.state.sequence, 2);
    }

    #[test]
    fn a_stream_that_moves_gets_a_new_epoch_and_its_former_holder_is_told() {
        let mut world = Fake::default();
        let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
        // Recorder 1 goes; what it had moves to recorder 0, and nobody is left to be told.
        let second = assign(&wanted(1, 5, &[("a", ""), ("b", "")]), first.state.clone(), &mut world);
        assert_eq!(holders(&first)["b"], ("main-recorder-1".into(), 1));
        assert_eq!(holders(&second)["b"], ("main-recorder-0".into(), 2));
        assert_eq!(holders(&second)["a"], holders(&first)["a"]);
        // It comes back while recorder 0 has one slot: one of the two moves, and recorder 0 is told so.
        let third = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), second.state.clone(), &mut world);
        let retired = |assignment: &Assignment| assignment.recorders[&at("main-recorder-0")].spec.retired.clone();
        assert_eq!(retired(&third).len(), 1);
        assert_eq!(retired(&third)[0].stream.name, "b");
        assert_eq!(holders(&third)["b"], ("main-recorder-1".into(), 3));
        // Until it says that it knows.
        let again = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), third.state.clone(), &mut world);
        assert_eq!(retired(&again).len(), 1);
        let observed_generation = third.recorders[&at("main-recorder-0")].metadata.generation;
        let status = RecorderStatus { observed_generation, ..RecorderStatus::default() };
        world.statuses.insert(at("main-recorder-0"), status);
        let last = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), again.state, &mut world);
        assert_eq!(retired(&last), []);
    }

    #[test]
    fn a_recorder_that_is_not_wanted_any_more_goes_when_others_have_what_it_held() {
        let mut world = Fake::default();
        let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
        // It runs: it is told who has its stream now, goes on with it until then, and is given no other one.
        world.statuses.insert(at("main-recorder-1"), RecorderStatus::default());
        let fewer = wanted(1, 5, &[("a", ""), ("b", ""), ("c", "")]);
        let second = assign(&fewer, first.state, &mut world);
        assert_eq!(holders(&second).into_values().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 1);
        let (drained, heir) = (&second.recorders[&at("main-recorder-1")], &second.recorders[&at("main-recorder-0")]);
        let retired = &drained.spec.retired[..];
        assert!(retired.len() == 1 && retired[0].stream.name == "b", "{retired:?}");
        assert_eq!(retired[0].holders, [heir.metadata.uid.clone().unwrap()]);
        let peers = [&drained.spec.peers[..], &heir.spec.peers[..]].concat();
        assert_eq!(
            peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(),
            ["main-recorder-0", "main-recorder-1"]
        );
        let taken_over = heir.spec.channels.iter().find(|channel| channel.stream.name == "b").unwrap();
        assert_eq!(taken_over.retired_holders, [drained.metadata.uid.clone().unwrap()]);
        // Nobody else has proven anything yet.
        let generation = drained.metadata.generation;
        assert!(assign(&fewer, second.state.clone(), &mut world).recorders.contains_key(&at("main-recorder-1")));
        let said = RecorderStatus { observed_generation: generation, ..RecorderStatus::default() };
        world.statuses.insert(at("main-recorder-1"), said);
        let third = assign(&fewer, second.state.clone(), &mut world);
        assert_eq!(third.recorders.keys().collect::<Vec<_>>(), [&at("main-recorder-0")]);
        assert_eq!(holders(&third), holders(&second));
    }

    #[test]
    fn a_recorder_whose_streams_have_no_slot_elsewhere_stays() {
        let mut world = Fake::default();
        let first = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), State::default(), &mut world);
        world.statuses.insert(at("main-recorder-1"), RecorderStatus::default());
        let second = assign(&wanted(1, 1, &[("a", ""), ("b", "")]), first.state.clone(), &mut world);
        assert_eq!(holders(&second), holders(&first));
    }

    #[test]
    fn suspended_streams_hold_no_slot_and_come_back_to_where_they_were() {
        let mut world = Fake::default();
        let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
        let second = assign(&wanted(2, 5, &[("a", ", suspend: true"), ("b", "")]), first.state.clone(), &mut world);
        assert_eq!(holders(&second).len(), 1);
        let third = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), second.state, &mut world);
        assert_eq!(holders(&first), holders(&third));
    }

    #[test]
    fn who_has_no_slot_is_named() {
        let streams = [("a", ""), ("b", ", priority: 1"), ("c", "")];
        let assignment = assign(&wanted(1, 2, &streams), State::default(), &mut Fake::default());
        assert_eq!(assignment.plans[&at("main")].plan.waiting, BTreeSet::from([at("c")]));
    }

    #[test]
    fn a_volume_that_is_there_is_known_again() {
        let uuid = Uuid::from_u128(77);
        let mut world = Fake { found: [((at("main-recorder-0"), "a".to_owned()), uuid)].into(), ..Fake::default() };
        let assignment = assign(&wanted(1, 2, &[]), State::default(), &mut world);
        assert_eq!(assignment.recorders[&at("main-recorder-0")].spec.volumes[0].uuid, uuid.to_string());
    }

    #[test]
    fn the_size_of_segments_stays() {
        let old = wanted(1, 2, &[]);
        let state = assign(&old, State::default(), &mut Fake::default()).state;
        let mut new = wanted(1, 2, &[]);
        assert_eq!(refused_changes(&new, &state), []);
        let pool = new.pools.get_mut(&at("main")).unwrap();
        pool.object.segment.bytes = framekeeper_crds::ByteQuantity::from_bytes(8 << 20);
        assert_eq!(refused_changes(&new, &state)[0].1.path, "spec.segment.bytes");
    }
}
