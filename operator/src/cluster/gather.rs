//! What is wanted and what is remembered, from the objects of a cluster: they are all the memory that an operator has. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use framekeeper_crds::{
    ByteQuantity, CameraStreamSpec, CameraStreamStatus, Channel, HumanDuration, PlanVersion, PoolRef, Recorder,
    RetentionSpec, StoragePool, StoragePoolSpec, StreamRef, validate,
};
use kube::{Resource as _, ResourceExt as _};

use super::guarded::Guarded;
use super::streams::Stream;
use crate::decide::holders;
use crate::decide::moves;
use crate::decide::state::{CameraLimits, RecorderState, Retiring, State, StreamState};
use crate::decide::wanted::{Desired, Identity, Key, Refusal, Wanted};

/// The annotation of a Recorder that says in which term an operator last took it over. It changes no generation, and what a former leader still sends names
/// an older version of the object.
pub const TERM: &str = "framekeeper.dev/term";

/// Who shows all streams to whoever looks.
pub trait Each: FnOnce(&mut dyn FnMut(&Key, &Stream)) {}

impl<F: FnOnce(&mut dyn FnMut(&Key, &Stream))> Each for F {}

fn key(namespace: Option<String>, name: String) -> Key {
    Key::new(namespace.unwrap_or_default(), name)
}

/// What people want. An object that can't be understood, or breaks a rule that an older definition did not have, is refused by itself; what was known of it
/// before is gone on with.
pub fn wanted<'o>(
    streams: impl Each,
    pools: impl IntoIterator<Item = &'o Guarded<StoragePool>>,
    state: &State,
) -> Wanted {
    let mut wanted = Wanted::default();
    for pool in pools {
        let key = key(pool.namespace(), pool.name_any());
        let identity = identity(pool.meta());
        let refusal = match &pool.0 {
            Err(error) => Some(Refusal::unreadable(&error.error)),
            // One that is on its way out gives nobody anything any more.
            Ok(object) if object.metadata.deletion_timestamp.is_some() => continue,
            Ok(object) => {
                let errors = validate::storage_pool(&key.name, &object.spec);
                let refusal = Refusal::invalid(&errors);
                if refusal.is_none() {
                    wanted.pools.insert(key, Desired { object: object.spec.clone(), identity });
                    continue;
                }
                refusal
            }
        };
        let known = state.pools.get(&key.to_string()).map(|known| known.spec.clone());
        if known.is_none() {
            wanted.unknown_pools.extend(identity.clone().map(|identity| (key.clone(), identity)));
        }
        keep_known(&mut wanted.pools, &key, identity, known);
        wanted.refused_pools.extend(refusal.map(|refusal| (key, refusal)));
    }
    streams(&mut |key, stream| want(&mut wanted, key, stream, state));
    wanted
}

fn want(wanted: &mut Wanted, key: &Key, stream: &Stream, state: &State) {
    let identity = &stream.identity;
    let refusal = match &stream.asks {
        Err(error) => Some(Refusal::unreadable(error)),
        Ok(_) if stream.is_leaving => return,
        Ok(asks) => {
            if !asks.holds.is_empty() {
                wanted.holds.insert(key.clone(), asks.holds.to_vec());
            }
            let refusal = Refusal::invalid(&asks.mistakes);
            if refusal.is_none() {
                let pool = Key::new(&key.namespace, &asks.spec.pool_ref.name);
                if !wanted.pools.contains_key(&pool) {
                    let is_there = wanted.refused_pools.contains_key(&pool);
                    let refusal = if is_there { Refusal::pool_refused(&pool) } else { Refusal::no_pool(&pool) };
                    wanted.refused.insert(key.clone(), refusal);
                }
                // Where the pool that it names can't have it, the one that it is in does.
                let known = state.streams.get(&key.to_string()).filter(|known| known.uid == identity.uid);
                let former =
                    known.filter(|known| known.recorder.is_some()).and_then(|known| holders::key_of(&known.pool));
                let former = former.filter(|_| wanted.refused.contains_key(key));
                let former = former.filter(|former| *former != pool && wanted.pools.contains_key(former));
                let object = former.map_or_else(|| Arc::clone(&asks.spec), |former| moves::in_pool(&asks.spec, former));
                wanted.streams.insert(key.clone(), Desired { object, identity: Some(identity.clone()) });
                return;
            }
            refusal
        }
    };
    let same = state.streams.get(&key.to_string()).filter(|known| known.uid == identity.uid);
    if same.is_none() {
        wanted.unknown.insert(key.clone(), identity.clone());
    }
    keep_known(&mut wanted.streams, key, Some(identity.clone()), same.map(|known| known.spec.clone()));
    if let Some(known) = same.filter(|known| !wanted.holds.contains_key(key) && !known.holds.is_empty()) {
        wanted.holds.insert(key.clone(), known.holds.clone());
    }
    wanted.refused.extend(refusal.map(|refusal| (key.clone(), refusal)));
}

fn keep_known<T>(into: &mut BTreeMap<Key, Desired<T>>, key: &Key, identity: Option<Identity>, known: Option<T>) {
    if let Some(object) = known {
        into.insert(key.clone(), Desired { object, identity });
    }
}

fn identity(
    metadata: &framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<Identity> {
    Some(Identity { uid: metadata.uid.clone()?, generation: metadata.generation.unwrap_or(0) })
}

/// The highest term that these Recorders know of.
pub fn highest_term<'o>(recorders: impl IntoIterator<Item = &'o Recorder>) -> u64 {
    let of = |recorder: &Recorder| {
        let annotation = recorder.annotations().get(TERM).and_then(|term| term.parse().ok()).unwrap_or(0);
        let observed = recorder.status.as_ref().and_then(|status| status.observed_term).unwrap_or(0);
        let channels = recorder.spec.channels.iter().map(|channel| channel.plan_version.term);
        let decided = channels.chain(recorder.spec.retired.iter().map(|retired| retired.plan_version.term)).max();
        recorder.spec.term.max(annotation).max(observed).max(decided.unwrap_or(0))
    };
    recorders.into_iter().map(of).max().unwrap_or(0)
}

/// What an operator remembers that begins to lead in this term.
#[must_use]
pub fn state<'o>(
    term: u64,
    recorders: &[&Arc<Recorder>],
    streams: impl Each,
    statuses: &BTreeMap<Key, CameraStreamStatus>,
    pools: impl IntoIterator<Item = (Key, &'o StoragePoolSpec)>,
) -> State {
    let mut state = State { term, ..State::default() };
    for recorder in recorders {
        let Some((own, known)) = recorder_state(recorder) else { continue };
        state.recorders.insert(own.to_string(), known);
    }
    // Pools are remembered for what of them may not change.
    for (key, spec) in pools {
        let pool = crate::decide::state::PoolState { uid: String::new(), generation: 0, spec: spec.clone() };
        state.pools.insert(key.to_string(), pool);
    }
    let ordinals: BTreeMap<&str, u32> = recorders
        .iter()
        .filter_map(|recorder| Some((recorder.metadata.uid.as_deref()?, recorder.spec.ordinal)))
        .collect();
    let mut by_uid: HashMap<String, String> = HashMap::new();
    let mut unreadable: HashMap<String, (Key, Identity)> = HashMap::new();
    let mut remember = |key: &Key, identity: &Identity, spec: &Arc<CameraStreamSpec>| {
        let known = stream_state(identity, spec, statuses.get(key), key);
        by_uid.insert(known.uid.clone(), key.to_string());
        state.streams.insert(key.to_string(), known);
    };
    streams(&mut |key, stream| match &stream.asks {
        Ok(asks) if asks.mistakes.is_empty() => remember(key, &stream.identity, &asks.spec),
        _ => drop(unreadable.insert(stream.identity.uid.clone(), (key.clone(), stream.identity.clone()))),
    });
    // What can't be understood, or is not right, was so once for whoever gave it to recorders: these tell what of it is gone on with.
    for recorder in recorders {
        for channel in &recorder.spec.channels {
            if let Some((key, identity)) = unreadable.remove(&channel.stream.uid) {
                remember(&key, &identity, &Arc::new(asked_once(channel, &recorder.spec.pool)));
            }
        }
    }
    for recorder in recorders {
        remember_streams(&mut state, recorder, &by_uid, &ordinals);
    }
    for recorder in recorders {
        remember_leaving(&mut state, recorder, &by_uid);
    }
    for stream in state.streams.values_mut() {
        let StreamState { holds, released_holds, .. } = stream;
        released_holds.retain(|range| !holds.contains(range));
    }
    state
}

/// What a Recorder still gives to its recorder though a later decision gave it to others: whoever decided that ended before this one was written. It lets go of it
/// as if it had been, and records until another one does.
fn remember_leaving(state: &mut State, recorder: &Recorder, by_uid: &HashMap<String, String>) {
    let own = key(recorder.namespace(), recorder.name_any());
    let pool = format!("{}/{}", own.namespace, recorder.spec.pool);
    let leaving = recorder.spec.channels.iter().filter_map(|channel| {
        let known = state.streams.get(by_uid.get(&channel.stream.uid)?)?;
        let holds = known.pool == pool && known.holders().contains(&recorder.spec.ordinal);
        (!holds && channel.plan_version < known.plan_version).then(|| (channel.stream.clone(), known.plan_version))
    });
    let leaving: Vec<(StreamRef, PlanVersion)> = leaving.collect();
    let Some(known) = state.recorders.get_mut(&own.to_string()) else { return };
    for (stream, plan_version) in leaving {
        known.retiring.retain(|retiring| retiring.stream != stream);
        known.retiring.push(Retiring { stream, plan_version, generation: known.generation + 1, handover: true });
    }
}

/// What a Recorder tells of streams.
fn remember_streams(
    state: &mut State,
    recorder: &Recorder,
    by_uid: &HashMap<String, String>,
    ordinals: &BTreeMap<&str, u32>,
) {
    let spec = &recorder.spec;
    let pool = format!("{}/{}", recorder.namespace().unwrap_or_default(), spec.pool);
    let mut of = |stream: &StreamRef, tell: &mut dyn FnMut(&mut StreamState)| {
        let known = by_uid.get(&stream.uid).and_then(|key| state.streams.get_mut(key));
        known.into_iter().for_each(tell);
    };
    for kept in &spec.kept {
        of(&kept.stream, &mut |known| {
            if known.recorder.is_none() {
                known.recorder = Some(spec.ordinal);
                known.pool.clone_from(&pool);
            }
        });
    }
    for channel in &spec.channels {
        of(&channel.stream, &mut |known| {
            known.epoch = known.epoch.max(channel.epoch);
            if known.plan_version >= channel.plan_version {
                return;
            }
            known.plan_version = channel.plan_version;
            let holders = channel.holders.iter().filter_map(|holder| ordinals.get(holder.as_str()).copied());
            let mut holders = holders.collect::<Vec<u32>>().into_iter();
            known.recorder = Some(holders.next().unwrap_or(spec.ordinal));
            known.standbys = holders.collect();
            known.pool.clone_from(&pool);
        });
    }
    for channel in recorder.status.iter().flat_map(|status| &status.channels) {
        if let Some(epoch) = channel.epoch {
            of(&channel.stream, &mut |known| {
                known.saw_epoch(epoch);
            });
        }
    }
    for hold in &spec.holds {
        of(&hold.stream, &mut |known| {
            if !known.holds.contains(&hold.range) {
                known.holds.push(hold.range.clone());
            }
        });
    }
    for hold in &spec.released_holds {
        of(&hold.stream, &mut |known| {
            if !known.released_holds.contains(&hold.range) {
                known.released_holds.push(hold.range.clone());
            }
        });
    }
}

/// What a stream asked for when a recorder was told of it.
fn asked_once(channel: &Channel, pool: &str) -> CameraStreamSpec {
    CameraStreamSpec {
        source: channel.source.clone(),
        pool_ref: PoolRef { name: pool.to_owned() },
        redundancy: Some(channel.class),
        audio: channel.audio,
        retention: RetentionSpec {
            max_age: channel.retention.max_age_ms.map(HumanDuration::from_millis),
            max_bytes: channel.retention.max_bytes.map(ByteQuantity::from_bytes),
        },
        priority: channel.priority,
        suspend: false,
    }
}

fn stream_state(
    identity: &Identity,
    spec: &Arc<CameraStreamSpec>,
    status: Option<&CameraStreamStatus>,
    key: &Key,
) -> StreamState {
    let said = status.and_then(|status| status.assignment.as_ref()).map_or(0, |assignment| assignment.epoch);
    let camera = status.and_then(|status| status.camera).unwrap_or_default();
    StreamState {
        uid: identity.uid.clone(),
        generation: identity.generation,
        spec: Arc::clone(spec),
        recorder: None,
        standbys: Vec::new(),
        pool: format!("{}/{}", key.namespace, spec.pool_ref.name),
        epoch: 0,
        epoch_seen: said.max(status.and_then(|status| status.last_epoch).unwrap_or(0)),
        plan_version: PlanVersion::default(),
        camera: CameraLimits { drops_idle_sessions: camera.drops_idle_sessions, sessions: camera.sessions },
        holds: Vec::new(),
        left_out_holds: Vec::new(),
        released_holds: Vec::new(),
    }
}

/// What is remembered of a recorder; nothing of one that has no identity.
#[must_use]
pub fn recorder_state(recorder: &Arc<Recorder>) -> Option<(Key, RecorderState)> {
    let (uid, generation) = (recorder.metadata.uid.clone()?, recorder.metadata.generation?);
    let retiring = recorder.spec.retired.iter().map(|retired| Retiring {
        stream: retired.stream.clone(),
        plan_version: retired.plan_version,
        // Since which generation it is told so is not known: since this one, at the latest.
        generation,
        handover: !retired.holders.is_empty(),
    });
    let known = RecorderState {
        uid,
        generation,
        spec: Arc::clone(recorder).into(),
        retiring: retiring.collect(),
        http_port: 0,
        peer_port: 0,
        public_key: recorder.status.as_ref().and_then(|status| status.public_key.clone()),
    };
    Some((key(recorder.namespace(), recorder.name_any()), known))
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
