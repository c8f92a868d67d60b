//! `Recorder`: what the operator and one recorder tell each other, as `Node` is between a control plane and a kubelet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::camera_stream::{RedundancyClass, Source};
use crate::common::{Placement, PlanVersion, StreamRef};
use crate::hold::Hold;

/// What one recorder is to do. Written by the operator only. Lists are atomic: each write replaces them.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "framekeeper.dev",
    version = "v1alpha1",
    kind = "Recorder",
    plural = "recorders",
    shortname = "rec",
    category = "framekeeper",
    namespaced,
    status = "RecorderStatus",
    derive = "PartialEq",
    doc = "A Recorder is one recorder of a StoragePool: its spec is what the operator has it record, its status what the recorder says of itself. It is not written by hand.",
    validation = crate::validate::RECORDER_TERM.here(),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".spec.slots.normal"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.instance.restarts"),
    printcolumn(name = "HTTP", type_ = "string", json_path = ".status.addresses.http", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RecorderSpec {
    /// Name of the StoragePool, in the same namespace, that this recorder belongs to.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// Number of this recorder within the pool, from 0.
    #[schemars(range(max = 999))]
    pub ordinal: u32,
    /// Term of the operator that wrote this. A write with an older one is refused.
    pub term: u64,
    /// How many channels it may record.
    pub slots: RecorderSlots,
    /// How footage is cut into files.
    pub segment: RecorderSegment,
    /// Where it writes to.
    #[schemars(length(max = 32))]
    pub volumes: Vec<RecorderVolume>,
    /// On which volume the next segment of a stream is recorded.
    #[serde(default)]
    pub placement: Placement,
    /// How long footage is kept of streams that nothing else is known of: neither this object nor a volume tells their limits.
    #[serde(default, skip_serializing_if = "RecorderRetention::is_empty")]
    pub retention: RecorderRetention,
    /// For how long a recorder that had failed must record without a fault before it has its streams back, milliseconds. Where it is not given: as it was
    /// told when it was started, 30 s if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handback_after_ms: Option<u32>,
    /// The recorders that it shares streams with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub peers: Vec<RecorderPeer>,
    /// The streams it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub channels: Vec<Channel>,
    /// Streams it held, and is to let go of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub retired: Vec<Retired>,
    /// Streams that exist and are not recorded, whose footage it has: how long that is kept. Of those that are gone, what was said last holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub kept: Vec<Kept>,
    /// Footage that is never given up. What stands here no more stays held, until it stands in `releasedHolds` or a person at the recorder's
    /// machine releases it: no loss of an object, or of the operator's memory, ever costs held footage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// Holds that their stream's owner took back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released_holds: Vec<Hold>,
}

/// A recorder that streams are shared with: who holds a stream hears of each other four times a second.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderPeer {
    /// Name of its Recorder.
    pub name: String,
    /// UID of its Recorder.
    pub uid: String,
    /// Where its peers may reach it, for example `10.0.0.7:7447`; tried in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub addresses: Vec<String>,
    /// Address and port of its HTTP server: what it holds of streams that are shared is asked for there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// What it is known by: its public key, or two while one takes the other's place. None: it has not told its key yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub public_keys: Vec<String>,
}

/// A recorder's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderSlots {
    /// Slots for primary channels.
    pub normal: u32,
    /// Slots kept free for takeovers.
    #[serde(default)]
    pub reserved: u32,
}

/// How a recorder cuts footage into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderSegment {
    /// Size of each segment file in bytes.
    pub bytes: u64,
    /// Length of a fragment in milliseconds.
    pub part_ms: u32,
    /// How often what was written is synced, in milliseconds. Missing: by the kind of each volume's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_ms: Option<u32>,
}

/// One volume of a recorder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderVolume {
    /// Name of the volume within the pool; also of the folder it is found at.
    pub name: String,
    /// Identity of the volume. The recorder refuses a volume that has another, and gives this one to an empty folder.
    pub uuid: String,
    /// How many bytes may be used on it.
    pub budget_bytes: u64,
    /// Name of its PersistentVolumeClaim, where that is another one than a recorder's first: that one was lost with its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// One stream on one recorder, in one role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// The stream.
    pub stream: StreamRef,
    /// `Primary`: records it. `Standby`: is ready to.
    pub role: Role,
    /// 0 for the primary, 1..K for standbys: the order in which they take over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rank: u32,
    /// Grows with each change of who records the stream.
    pub epoch: u64,
    /// The decision that this comes from.
    pub plan_version: PlanVersion,
    /// Where the video comes from.
    pub source: Source,
    /// Whether audio is recorded.
    pub audio: bool,
    /// The stream's priority.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// How long its footage is kept.
    #[serde(default, skip_serializing_if = "RecorderRetention::is_empty")]
    pub retention: RecorderRetention,
    /// What a failure of a recorder may cost it. Where it is `None`, it is left out.
    #[serde(default, skip_serializing_if = "RedundancyClass::is_none")]
    pub class: RedundancyClass,
    /// UIDs of the Recorders that hold it, by rank: this one is among them. None: this one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 17))]
    pub holders: Vec<String>,
    /// UIDs of Recorders that held it and may not have let go yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub retired_holders: Vec<String>,
}

/// How long a recorder keeps footage. What is not said has no limit but the room on the volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderRetention {
    /// Footage older than this many milliseconds is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// Bytes of segment files of one stream that are kept, over all volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

// A Recorder has hundreds of channels, and the API server looks at each of their fields each time it is written: what is as usual is left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RecorderRetention {
    /// Whether there is no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A stream that is not recorded now, and whose footage is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The stream.
    pub stream: StreamRef,
    /// How long its footage is kept.
    #[serde(default, skip_serializing_if = "RecorderRetention::is_empty")]
    pub retention: RecorderRetention,
}

/// What a recorder is to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Role {
    /// Records the stream, in a normal slot.
    Primary,
    /// Is ready to take over, backed by a reserved slot.
    Standby,
}

/// A stream that a recorder held and is to let go of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// The stream.
    pub stream: StreamRef,
    /// The decision that took it away.
    pub plan_version: PlanVersion,
    /// UIDs of the Recorders that hold it now, by rank. It is recorded here until one of them has proven that it does; without any, until now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 17))]
    pub holders: Vec<String>,
}

/// What a recorder says of itself. Written at transitions only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderStatus {
    /// The `metadata.generation` of the spec that is in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The highest term of an operator that it has heard of: one with a lower term is not obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_term: Option<u64>,
    /// The conditions in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RecorderPhase>,
    /// `Ready`: it can record. `VolumesHealthy`: all its volumes work. `RecordingSpace`: neither held footage nor foreign data will end recording soon. `GopsInMemory`: what a failing volume has not made safe can go on elsewhere.
    /// `PeersReachable`: all recorders that it shares streams with are alive. `ClocksInStep`: their clocks are not more
    /// than a second from its own. `ChannelsAsPlanned`: all its channels do what they are to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where it can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Addresses>,
    /// What its peers know it by: an Ed25519 SubjectPublicKeyInfo (RFC 8410 section 4) in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Which process this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// Only channels that are not as planned: those that do not record, and those that record in another recorder's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelStatus>,
}

/// A recorder's conditions in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum RecorderPhase {
    /// Opening its volumes.
    Starting,
    /// Can record.
    Ready,
    /// Runs, but no volume works.
    Failed,
    /// Ending its channels, to stop.
    Draining,
    /// Has stopped.
    Stopped,
    /// Nothing was heard of it for longer than its Lease lasts: said by the operator.
    Unknown,
}

/// Where a recorder can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    /// Address and port of its HTTP server, for example `127.0.0.1:8080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Address and port where its peers reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// One process of a recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Drawn anew at each start of the process.
    pub uid: String,
    /// How often its supervisor has restarted it.
    #[serde(default)]
    pub restarts: u64,
}

/// A volume as its recorder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Name of the volume within the pool.
    pub name: String,
    /// Identity that was found on it or given to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Whether it can be written to.
    pub state: VolumeState,
    /// Why it is in this state: one word in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many bytes may be used on it.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// How many bytes hold footage, as of the last transition.
    #[serde(default)]
    pub used_bytes: u64,
    /// Number of segment files that are empty, as of the last transition.
    #[serde(default)]
    pub free_segments: u64,
    /// How many bytes of them are held and never given up, as of the last transition.
    #[serde(default)]
    pub held_bytes: u64,
    /// Wall-clock time of the oldest frame on it, to within a twentieth of what is on it, at least an hour: it is written when it has moved by more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_footage: Option<MicroTime>,
    /// How footage is written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<VolumeWrites>,
    /// How often what was written to it is synced, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_ms: Option<u32>,
    /// Whether its disk rotates, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Why not past the page cache, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_reason: Option<String>,
}

/// Whether a volume can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum VolumeState {
    /// Being opened: what was cut off is being repaired.
    Opening,
    /// Can be written to.
    Ready,
    /// A write or a sync failed; it is read from as far as that goes.
    Failed,
    /// Its disk does not answer; streams are recorded elsewhere until it does.
    Hanging,
    /// No stream is to be recorded to it any more; its footage can be read.
    Draining,
    /// Closed because a person said so: it may be taken away.
    Stopped,
    /// Not ours: another identity, another pool, or foreign files. It is not touched.
    Refused,
}

/// How footage is written to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum VolumeWrites {
    /// Past the page cache: for half the CPU.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// A channel that is not as planned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// The stream.
    pub stream: StreamRef,
    /// What it does instead.
    pub state: ChannelState,
    /// Why: one word in CamelCase, for example `Unauthorized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a sentence. Never holds credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// The epoch in which it records, where that is not the plan's: it took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// What a channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum ChannelState {
    /// Connecting to the camera, or waiting for its first key frame.
    Connecting,
    /// Frames reach the disk.
    Recording,
    /// Another recorder records; this one is ready to.
    Standby,
    /// The camera does not answer or sends what can't be recorded; it is tried again after a while.
    Backoff,
    /// Told not to record.
    Suspended,
    /// Cannot record, and trying again would not help until something changes.
    Failed,
}
