//! `StoragePool`: recorders and the storage they record to.

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::camera_stream::RedundancyClass;
use crate::common::{Placement, RetentionSpec};
use crate::human_duration::HumanDuration;
use crate::quantity::ByteQuantity;

/// How many recorders there are, how much each may record, and where to.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "framekeeper.dev",
    version = "v1alpha1",
    kind = "StoragePool",
    plural = "storagepools",
    shortname = "sp",
    category = "framekeeper",
    namespaced,
    status = "StoragePoolStatus",
    derive = "PartialEq",
    doc = "A StoragePool is a number of recorders and the storage they record CameraStreams to.",
    scale(spec_replicas_path = ".spec.recorders", status_replicas_path = ".status.recorders"),
    validation = crate::validate::POOL_NAME.here(),
    validation = crate::validate::STANDBYS.at(".spec.redundancy.standbys"),
    validation = crate::validate::SYNC_OF_STANDBYS.at(".spec.segment.sync"),
    printcolumn(name = "Recorders", type_ = "integer", json_path = ".spec.recorders"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyRecorders"),
    printcolumn(name = "Streams", type_ = "integer", json_path = ".status.streams"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".status.slots.normal"),
    printcolumn(name = "Reserved", type_ = "integer", json_path = ".status.slots.reserved"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type==\"Available\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolSpec {
    /// Number of recorders.
    #[schemars(range(min = 1, max = 1000))]
    pub recorders: u32,
    /// How many streams one recorder may record at once.
    #[serde(default = "default_max_channels")]
    #[schemars(range(min = 1, max = 500))]
    pub max_channels: u32,
    /// How many failure domains may fail at once without a stream being left unrecorded. Slots are reserved for that, so fewer streams can be
    /// recorded. 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = 16))]
    pub tolerated_failures: u32,
    /// What fails together: a recorder alone, all recorders of a node, or all of a zone (`topology.kubernetes.io/zone`). Without a cluster each
    /// recorder is a domain of its own.
    #[serde(default, skip_serializing_if = "FailureDomain::is_default")]
    pub failure_domain: FailureDomain,
    /// What a failure may cost a stream that does not say so itself, where failures are tolerated.
    #[serde(default, skip_serializing_if = "RedundancySpec::is_default")]
    pub redundancy: RedundancySpec,
    /// Where recorders write to.
    pub storage: StorageSpec,
    /// How footage is cut into files.
    #[serde(default)]
    pub segment: SegmentSpec,
    /// How long footage is kept, for streams that don't say so themselves. Without it: until its space is needed.
    #[serde(default, skip_serializing_if = "RetentionSpec::is_empty")]
    pub retention: RetentionSpec,
    /// What becomes of the footage when the pool is deleted. `Retain`: it stays.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// How the recorders' pods differ from what the operator makes of them. Means nothing without a cluster.
    #[serde(default, skip_serializing_if = "PodOverrides::is_empty")]
    pub template: PodOverrides,
}

/// What fails together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum FailureDomain {
    /// A recorder alone.
    Recorder,
    /// All recorders of a node.
    #[default]
    Node,
    /// All recorders of a zone.
    Zone,
}

impl FailureDomain {
    // serde asks for a reference.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a pool says of its recorders' pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodOverrides {
    /// More labels and annotations of the pods. Those of `framekeeper.dev` and `app.kubernetes.io` are the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// Labels of the nodes that recorders may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// More taints that recorders tolerate. That a node is not ready or can't be reached they tolerate anyway: footage does not move with a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// CPU and memory of a recorder; computed from `maxChannels` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<PodResources>,
    /// A seccomp profile on the nodes, as a path below the kubelet's, in place of the container runtime's own one: with one that allows io_uring, recording
    /// takes half the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub seccomp_localhost_profile: Option<String>,
}

impl PodOverrides {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a recorder's container asks for and may use at most, by resource: `cpu`, `memory`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodResources {
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

/// What a failure of a recorder may cost, and how many recorders stand by for it.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedundancySpec {
    /// The class of streams that don't name one.
    #[serde(default = "default_class")]
    pub class: RedundancyClass,
    /// How many recorders stand by for each stream; at least `toleratedFailures`, which it is where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub standbys: Option<u32>,
    /// For how long a recorder that had failed must record without a fault before it has its streams back, 1s to 10m. From the second takeover within a
    /// minute on it is twice as long each time, 10m at most. Where it is not given: 30s.
    #[x_kube(validation = crate::validate::HANDBACK_RANGE.here())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handback_after: Option<HumanDuration>,
}

impl Default for RedundancySpec {
    fn default() -> Self {
        Self { class: default_class(), standbys: None, handback_after: None }
    }
}

impl RedundancySpec {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the recorders of a pool write to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// The volumes of each recorder. Each stands alone: the others go on when one fails.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = crate::validate::VOLUME_NAMES.here()
    )]
    pub volumes: Vec<PoolVolume>,
    /// On which of a recorder's volumes the next segment of a stream is recorded.
    #[serde(default)]
    pub placement: Placement,
}

/// One volume that every recorder of the pool gets.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolVolume {
    /// Name of the volume, unique within the pool: lower-case letters, digits and `-`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The PersistentVolumeClaim that is made for each recorder. Without a cluster: a folder, and the requested size is its budget.
    pub claim_template: ClaimTemplate,
}

/// A PersistentVolumeClaim to be made.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    /// Labels and annotations of the claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// What is claimed.
    pub spec: ClaimSpec,
}

/// Labels and annotations of what is made from a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels of each claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of each claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a PersistentVolumeClaim asks for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// Access modes of the claim; `ReadWriteOnce` or `ReadWriteOncePod`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_modes: Vec<String>,
    /// StorageClass of the claim; the cluster's default where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// How much is asked for.
    pub resources: ClaimResources,
}

/// How much a PersistentVolumeClaim asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResources {
    /// What must be given at least.
    pub requests: ClaimRequests,
}

/// What a PersistentVolumeClaim must be given at least.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRequests {
    /// Size of each recorder's volume, for example `500Gi`. The oldest footage is overwritten when it is used up.
    pub storage: ByteQuantity,
}

/// How footage is cut into files. Every file is a valid MP4 at every moment.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentSpec {
    /// Size of each file, 4Mi to 1Gi, a multiple of 4096. Files are made at this size and used again, so it cannot be changed later.
    #[x_kube(
        validation = crate::validate::SEGMENT_BYTES.here(),
        validation = crate::validate::SEGMENT_BYTES_FIXED.here()
    )]
    #[serde(default = "default_bytes")]
    pub bytes: ByteQuantity,
    /// Length of a fragment, 100ms to 2s: what is in memory only, and lost when a recorder is killed.
    #[x_kube(validation = crate::validate::PART_RANGE.here())]
    #[serde(default = "default_part")]
    pub part: HumanDuration,
    /// How often what was written is made durable, 100ms to 10s, and 2s at most where failures are tolerated. Where it is not given, each volume's disk
    /// decides: 500ms, 2s where it rotates.
    #[x_kube(validation = crate::validate::SYNC_RANGE.here())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<HumanDuration>,
}

impl Default for SegmentSpec {
    fn default() -> Self {
        Self { bytes: default_bytes(), part: default_part(), sync: None }
    }
}

/// What becomes of the footage when the pool is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays, and a pool that is made again under the same name finds it.
    #[default]
    Retain,
    /// The PersistentVolumeClaims go with the pool, and with them what their StorageClass says. Without a cluster footage stays all the same: a file
    /// that is gone may have been moved.
    Delete,
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`: every stream that has a slot can be recorded. `CapacitySufficient`: every stream has a slot. `Progressing`:
    /// recorders are starting or stopping. `Degraded`: a recorder or a volume does not work. `Protected`: as many recorders may fail as `toleratedFailures` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Number of recorders that exist.
    #[serde(default)]
    pub recorders: u32,
    /// Number of recorders that can record.
    #[serde(default)]
    pub ready_recorders: u32,
    /// Slots of all recorders together.
    #[serde(default)]
    pub slots: PoolSlots,
    /// Number of CameraStreams that name this pool.
    #[serde(default)]
    pub streams: u32,
    /// Bytes of all volumes together.
    #[serde(default)]
    pub bytes: PoolBytes,
}

/// The slots of a pool's recorders, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolSlots {
    /// Slots for primary channels.
    pub normal: u32,
    /// Slots kept free for takeovers.
    pub reserved: u32,
    /// All slots.
    pub total: u32,
    /// Normal slots that hold a channel.
    pub used: u32,
    /// Reserved slots that hold a channel.
    pub used_reserved: u32,
}

/// The bytes of a pool's volumes, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolBytes {
    /// What may be used.
    pub capacity: u64,
    /// What holds footage, as of the last transition.
    pub used: u64,
}

fn default_max_channels() -> u32 {
    100
}

// serde asks for a reference.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn default_class() -> RedundancyClass {
    RedundancyClass::Playing
}

fn default_bytes() -> ByteQuantity {
    ByteQuantity::from_bytes(64 << 20)
}

fn default_part() -> HumanDuration {
    HumanDuration::from_millis(500)
}
