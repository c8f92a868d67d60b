//! Who holds a stream, held it, and is told of it: decisions put into force, and what of them each recorder hears.
//!
//! What a former holder must let go of is remembered with the recorder (`Retiring`), and nowhere else: that a stream still has former
//! holders, and who shares a stream with whom, follows from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use framekeeper_crds::{
    CameraStreamSpec, Channel, ChannelState, PlanVersion, RecorderPeer, RecorderStatus, RedundancyClass, Retired, Role,
    StoragePoolSpec, StreamRef, recorder_name,
};
use framekeeper_plan::{Assigned, Class, Held, Record};

use super::assign::{World, reference, retention};
use super::place::{self, PoolPlan};
use super::state::{CameraLimits, Retiring, State};
use super::wanted::Key;

/// Former holders beyond these are not named to the present ones: they let go without having been asked to.
const RETIRED_AT_MOST: usize = 32;

/// Why a recorder does not see a camera that gives no more sessions.
const TOO_MANY_SESSIONS: &str = "TooManySessions";

/// A pool with its plan.
pub struct Pool<'p> {
    /// Its name.
    pub key: &'p Key,
    /// Its specification.
    pub spec: &'p StoragePoolSpec,
    /// The streams that are to be recorded.
    pub streams: BTreeMap<Key, &'p CameraStreamSpec>,
    /// Who is to hold them.
    pub plan: PoolPlan,
    /// Recorders that are not wanted any more and run until others have what they hold.
    pub draining: Vec<u32>,
}

/// UIDs of recorders, those that are only now being made too.
pub type Uids = BTreeMap<Key, String>;

/// Who knows of a stream.
#[derive(Debug, Default)]
struct Sharing {
    /// By rank.
    holders: Vec<Key>,
    /// Those that may not have let go yet.
    former: Vec<Key>,
}

/// What a recorder is told of streams that it shares, or shared.
#[derive(Debug, Default)]
pub struct Shared {
    /// The streams it holds.
    pub channels: Vec<Channel>,
    /// The streams it is to let go of.
    pub retired: Vec<Retired>,
    /// Whom it shares streams with.
    pub peers: Vec<RecorderPeer>,
}

impl Pool<'_> {
    /// Its recorders: those that are wanted, and those that are drained.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> {
        (0..self.spec.recorders).chain(self.draining.iter().copied())
    }

    /// One of its recorders.
    #[must_use]
    pub fn recorder(&self, ordinal: u32) -> Key {
        Key::new(&self.key.namespace, recorder_name(&self.key.name, ordinal))
    }
}

/// Who holds what of a pool, by the Recorder objects as last written and by what recorders say.
pub fn recorded(state: &State, pool: &Key, world: &dyn World) -> BTreeMap<Key, Held> {
    let ours = state.recorders.iter().filter_map(|(name, recorder)| {
        let key = key_of(name)?;
        (recorder.spec.pool == pool.name && key.namespace == pool.namespace).then_some((key, recorder))
    });
    let (mut recorded, mut active) = (BTreeMap::new(), BTreeMap::new());
    for (key, recorder) in ours {
        let ordinal = recorder.spec.ordinal;
        for channel in &recorder.spec.channels {
            let stream = Key::new(&channel.stream.namespace, &channel.stream.name);
            let known = state.streams.get(&stream.to_string());
            // What a recorder held that is wanted no more may have gone on elsewhere since.
            let Some(known) = known.filter(|known| known.recorder == Some(ordinal) && known.pool == pool.to_string())
            else {
                continue;
            };
            recorded.insert(stream, Held { primary: ordinal, standbys: known.standbys.clone(), active: None });
        }
        let said = world.status(&key).map_or(&[][..], |status| &status.channels);
        // Of what is as planned nothing is said: this one records in another's place.
        for channel in said.iter().filter(|channel| channel.state == ChannelState::Recording) {
            active.insert(Key::new(&channel.stream.namespace, &channel.stream.name), ordinal);
        }
    }
    for (stream, held) in &mut recorded {
        held.active = active.get(stream).copied().filter(|ordinal| *ordinal != held.primary);
    }
    recorded
}

/// Recorders of a pool that are not wanted any more, but run, and hold streams or have not let go of them yet.
#[must_use]
pub fn draining(
    state: &State,
    pool: &Key,
    spec: &StoragePoolSpec,
    held: &BTreeMap<Key, Held>,
    world: &dyn World,
) -> Vec<u32> {
    let ours = state.recorders.iter().filter_map(|(name, recorder)| {
        let (key, ordinal) = (key_of(name)?, recorder.spec.ordinal);
        let is_surplus =
            recorder.spec.pool == pool.name && key.namespace == pool.namespace && ordinal >= spec.recorders;
        let status = world.status(&key).filter(|_| is_surplus)?;
        let holds = |held: &Held| held.primary == ordinal || held.standbys.contains(&ordinal);
        let is_needed =
            held.values().any(holds) || recorder.retiring.iter().any(|retiring| !has_let_go(retiring, status));
        is_needed.then_some(ordinal)
    });
    ours.collect()
}

/// Gives a stream to its holders. Whether that changed anything.
pub fn give(state: &mut State, key: &Key, pool: &Pool<'_>, assigned: &Assigned, decision: PlanVersion) -> bool {
    let Some(stream) = state.streams.get_mut(&key.to_string()) else { return false };
    let pool_name = pool.key.to_string();
    let (former_pool, former) = (stream.pool.clone(), stream.holders());
    let stays = former_pool == pool_name;
    let mut record = Record {
        holders: if stays { former.clone() } else { Vec::new() },
        epoch: stream.epoch,
        version: stream.plan_version,
        retired: BTreeMap::new(),
    };
    let holders: Vec<u32> = std::iter::once(&assigned.primary).chain(&assigned.standbys).copied().collect();
    if !record.decide(&holders, decision, stream.newest_epoch()) {
        return false;
    }
    // A camera without a session to spare would never let the new primary prove anything, unless that has one already.
    let sessions = pool.streams.get(key).map(|spec| sessions(spec, stream.camera));
    let may_overlap = sessions.is_some_and(|sessions| {
        let has_one_already = stays && former.contains(&assigned.primary);
        sessions.is_none_or(|sessions| sessions as usize > holders.len() || (sessions > 1 && has_one_already))
    });
    stream.recorder = Some(assigned.primary);
    stream.standbys.clone_from(&assigned.standbys);
    stream.pool = pool_name;
    stream.epoch = record.epoch;
    stream.plan_version = record.version;
    let stream = reference(key, &stream.uid);
    let leaving = if stays { record.retired.into_keys().collect() } else { former };
    let Some((namespace, name)) = former_pool.split_once('/') else { return true };
    for ordinal in leaving {
        let recorder = format!("{namespace}/{}", recorder_name(name, ordinal));
        let Some(recorder) = state.recorders.get_mut(&recorder) else { continue };
        recorder.retiring.retain(|retiring| retiring.stream != stream);
        recorder.retiring.push(Retiring {
            stream: stream.clone(),
            plan_version: decision,
            generation: recorder.generation + 1,
            handover: may_overlap,
        });
    }
    true
}

/// How many sessions the camera gives at once, as somebody wrote it down, or as was found out by trying.
fn sessions(spec: &CameraStreamSpec, camera: CameraLimits) -> Option<u32> {
    spec.source.max_sessions.into_iter().chain(camera.sessions).min()
}

/// Whether the new primary of a stream waits for a session that the former holder has, and would for ever.
fn waits_for_a_session(state: &State, pools: &[Pool<'_>], stream: &StreamRef, world: &dyn World) -> bool {
    let key = Key::new(&stream.namespace, &stream.name);
    let Some(known) = state.streams.get(&key.to_string()) else { return false };
    let now = pools.iter().find_map(|pool| Some((pool, pool.streams.get(&key)?)));
    let Some((pool, spec)) = now else { return false };
    let Some(sessions) = sessions(spec, known.camera) else { return false };
    if sessions == 1 {
        return true;
    }
    let Some(primary) = known.recorder.map(|ordinal| pool.recorder(ordinal)) else { return false };
    let said = world.status(&primary).map_or(&[][..], |status| &status.channels);
    let is_refused = || said.iter().any(|it| it.stream == *stream && it.reason.as_deref() == Some(TOO_MANY_SESSIONS));
    sessions as usize <= known.holders().len() && is_refused()
}

/// Whether a recorder has let go of a stream: it knows that it must, and does not record it until a new holder does.
#[must_use]
pub fn has_let_go(retiring: &Retiring, status: &RecorderStatus) -> bool {
    status.observed_generation.unwrap_or(0) >= retiring.generation
        && !status.channels.iter().any(|channel| channel.stream == retiring.stream)
}

/// Forgets what recorders of a pool need not be told any more: what they have again, and what they have let go of. One that keeps from a new holder the
/// session that it waits for is to let go at once: how many sessions a camera gives may have been found out since. `pools`: all there are.
pub fn forget(state: &mut State, pool: &Pool<'_>, pools: &[Pool<'_>], world: &dyn World) {
    for ordinal in pool.ordinals() {
        let key = pool.recorder(ordinal);
        let retiring = state.recorders.get(&key.to_string()).map_or(&[][..], |recorder| &recorder.retiring);
        let in_the_way: Vec<StreamRef> = retiring
            .iter()
            .filter(|retiring| retiring.handover && waits_for_a_session(state, pools, &retiring.stream, world))
            .map(|retiring| retiring.stream.clone())
            .collect();
        let held = |stream: &StreamRef| {
            let assigned = pool.plan.plan.placed.get(&Key::new(&stream.namespace, &stream.name));
            assigned.is_some_and(|assigned| rank(assigned, ordinal).is_some())
        };
        let Some(recorder) = state.recorders.get_mut(&key.to_string()) else { continue };
        for retiring in recorder.retiring.iter_mut().filter(|retiring| in_the_way.contains(&retiring.stream)) {
            retiring.handover = false;
        }
        let status = world.status(&key);
        recorder
            .retiring
            .retain(|retiring| !held(&retiring.stream) && !status.is_some_and(|status| has_let_go(retiring, status)));
    }
}

/// A stream, its holders, and the rank of one of them.
type Ranked<'p> = (&'p Key, &'p Assigned, u32);

/// Who holds what in all pools: gone through once, and not by each recorder. A hundred recorders have ten thousand streams.
pub struct Holding<'p> {
    sharing: BTreeMap<&'p Key, Sharing>,
    /// By pool and ordinal.
    held: BTreeMap<(&'p Key, u32), Vec<Ranked<'p>>>,
}

impl<'p> Holding<'p> {
    /// As it was decided. A stream is in one pool, and may still be held by former holders in another.
    #[must_use]
    pub fn of(state: &State, pools: &'p [Pool<'p>]) -> Self {
        let former = former(state, pools);
        let mut sharing = BTreeMap::new();
        let mut held: BTreeMap<_, Vec<Ranked<'_>>> = BTreeMap::new();
        for pool in pools {
            for (key, assigned) in &pool.plan.plan.placed {
                sharing.insert(key, self::sharing(state, pool, key, assigned, &former));
                let holders = std::iter::once(&assigned.primary).chain(&assigned.standbys);
                for (rank, ordinal) in (0..).zip(holders) {
                    held.entry((pool.key, *ordinal)).or_default().push((key, assigned, rank));
                }
            }
        }
        Self { sharing, held }
    }

    /// What a recorder is told: one after the other, because all that all of them are told is most of the operator's memory.
    #[must_use]
    pub fn told(&self, state: &State, pool: &Pool<'_>, ordinal: u32, uids: &Uids, world: &dyn World) -> Shared {
        let own = pool.recorder(ordinal);
        let mut peers = BTreeSet::new();
        let mut channels = Vec::new();
        for (key, assigned, rank) in self.held.get(&(pool.key, ordinal)).into_iter().flatten() {
            let Some(sharing) = self.sharing.get(key) else { continue };
            channels.extend(channel(state, pool, key, assigned, *rank, sharing, uids));
            peers.extend(sharing.holders.iter().chain(&sharing.former));
        }
        let retiring = state.recorders.get(&own.to_string()).map_or(&[][..], |recorder| &recorder.retiring);
        let mut retired = Vec::new();
        for retiring in retiring {
            let stream = Key::new(&retiring.stream.namespace, &retiring.stream.name);
            let holders = self.sharing.get(&stream).filter(|_| retiring.handover).map_or(&[][..], |now| &now.holders);
            peers.extend(holders);
            retired.push(Retired {
                stream: retiring.stream.clone(),
                plan_version: retiring.plan_version,
                holders: holders.iter().filter_map(|key| uids.get(key).cloned()).collect(),
            });
        }
        peers.remove(&own);
        let peers = peers.into_iter().filter_map(|key| peer(state, key, uids, world)).collect();
        Shared { channels, retired, peers }
    }
}

/// The recorders that have not let go of a stream yet, by the stream's UID. Those that are not wanted any more are being stopped.
fn former<'s>(state: &'s State, pools: &[Pool<'_>]) -> HashMap<&'s str, Vec<Key>> {
    let mut former: HashMap<&str, Vec<Key>> = HashMap::new();
    let recorders = pools.iter().flat_map(|pool| pool.ordinals().map(|ordinal| pool.recorder(ordinal)));
    for recorder in recorders {
        let known = state.recorders.get(&recorder.to_string());
        let retiring = known.into_iter().flat_map(|known| &known.retiring);
        for retiring in retiring.filter(|retiring| retiring.handover) {
            let of_stream = former.entry(retiring.stream.uid.as_str()).or_default();
            if of_stream.last() != Some(&recorder) {
                of_stream.push(recorder.clone());
            }
        }
    }
    former
}

fn sharing(
    state: &State,
    pool: &Pool<'_>,
    key: &Key,
    assigned: &Assigned,
    former: &HashMap<&str, Vec<Key>>,
) -> Sharing {
    let holders = std::iter::once(&assigned.primary).chain(&assigned.standbys);
    let Some(stream) = state.streams.get(&key.to_string()) else { return Sharing::default() };
    Sharing {
        holders: holders.map(|ordinal| pool.recorder(*ordinal)).collect(),
        former: former.get(stream.uid.as_str()).cloned().unwrap_or_default(),
    }
}

/// 0 for the primary, from 1 for standbys.
fn rank(assigned: &Assigned, ordinal: u32) -> Option<u32> {
    let mut holders = std::iter::once(&assigned.primary).chain(&assigned.standbys);
    holders.position(|holder| *holder == ordinal).and_then(|rank| u32::try_from(rank).ok())
}

fn channel(
    state: &State,
    pool: &Pool<'_>,
    key: &Key,
    assigned: &Assigned,
    rank: u32,
    sharing: &Sharing,
    uids: &Uids,
) -> Option<Channel> {
    let (stream, spec) = (state.streams.get(&key.to_string())?, pool.streams.get(key)?);
    let uids = |keys: &[Key]| keys.iter().filter_map(|key| uids.get(key).cloned()).collect::<Vec<_>>();
    let is_alone = sharing.holders.len() == 1 && sharing.former.is_empty();
    Some(Channel {
        stream: reference(key, &stream.uid),
        role: if rank == 0 { Role::Primary } else { Role::Standby },
        rank,
        epoch: stream.epoch,
        plan_version: stream.plan_version,
        source: spec.source.clone(),
        audio: spec.audio,
        priority: spec.priority,
        retention: retention(spec.retention, pool.spec),
        class: if assigned.class == Class::None { RedundancyClass::None } else { place::class(spec, pool.spec) },
        holders: if is_alone { Vec::new() } else { uids(&sharing.holders) },
        retired_holders: uids(sharing.former.get(..RETIRED_AT_MOST).unwrap_or(&sharing.former)),
    })
}

fn peer(state: &State, key: &Key, uids: &Uids, world: &dyn World) -> Option<RecorderPeer> {
    let known = state.recorders.get(&key.to_string());
    Some(RecorderPeer {
        name: key.name.clone(),
        uid: uids.get(key)?.clone(),
        addresses: world.peer_address(key).into_iter().collect(),
        http: world.http_address(key),
        public_keys: known.and_then(|recorder| recorder.public_key.clone()).into_iter().collect(),
    })
}

/// The key of `namespace/name`.
pub(crate) fn key_of(name: &str) -> Option<Key> {
    name.split_once('/').map(|(namespace, name)| Key::new(namespace, name))
}
