//! The custom resources of Framekeeper, group `framekeeper.dev`, version `v1alpha1`: what a person writes down
//! ([`CameraStream`], [`StoragePool`]) and what the operator and a recorder tell each other ([`Recorder`]).
//!
//! ```text
//! CameraStream --poolRef--> StoragePool --recorders--> Recorder 0..N
//!      |                                                  spec.channels[].stream
//!      +-- source.credentialsSecretRef --> Secret          (who records what, by whom, since which epoch)
//! ```
//!
//! The Rust types are the one source of truth. `crds/*.yaml`, which a cluster is given, is written from them by the
//! binary of this crate, and a test fails when it is stale. Reading ignores unknown fields, so that old programs can read
//! what newer ones write; a person's manifest is held against the schema instead (`framekeeper-operator local`, and
//! the API server's strict field validation).
//!
//! [`validate`] repeats, as plain functions, the rules that a cluster evaluates as CEL: the same words come out either way.

#[expect(unreachable_pub, reason = "KubeSchema expands to a pub struct inside a function")]
#[expect(clippy::duplicated_attributes, reason = "print columns have the same keys each")]
mod camera_stream;
#[expect(unreachable_pub, reason = "KubeSchema expands to a pub struct inside a function")]
mod common;
mod hold;
mod human_duration;
mod quantity;
#[expect(unreachable_pub, reason = "KubeSchema expands to a pub struct inside a function")]
mod recorder;
pub mod schema;
#[expect(unreachable_pub, reason = "KubeSchema expands to a pub struct inside a function")]
mod storage_pool;
pub mod validate;
pub mod yaml;

pub use camera_stream::{
    CameraFindings, CameraStream, CameraStreamSpec, CameraStreamStatus, Onvif, RedundancyClass, Source,
    StreamAssignment, StreamPhase, Transport,
};
pub use common::{
    CREDENTIAL_BYTES_AT_MOST, CREDENTIAL_BYTES_SUFFIX, Placement, PlanVersion, PoolRef, RetentionSpec, SecretRef,
    StreamRef,
};
pub use hold::{HOLD_ANNOTATION, Hold, HoldRange, hold_ranges};
pub use human_duration::{HumanDuration, ParseDurationError};
pub use quantity::{ByteQuantity, ParseQuantityError};
pub use recorder::{
    Addresses, Channel, ChannelState, ChannelStatus, Instance, Kept, Recorder, RecorderPeer, RecorderPhase,
    RecorderRetention, RecorderSegment, RecorderSlots, RecorderSpec, RecorderStatus, RecorderVolume, Retired, Role,
    VolumeState, VolumeStatus, VolumeWrites,
};
pub use storage_pool::{
    ClaimRequests, ClaimResources, ClaimSpec, ClaimTemplate, FailureDomain, PodOverrides, PodResources, PoolBytes,
    PoolSlots, PoolVolume, ReclaimPolicy, RedundancySpec, SegmentSpec, StoragePool, StoragePoolSpec, StoragePoolStatus,
    StorageSpec, TemplateMetadata,
};

/// The API types of Kubernetes that ours are made of (`Condition`, `Time`, `ObjectMeta`, `Secret`), in the one version we
/// use, so that users of this crate need no dependency of their own on it.
pub use k8s_openapi;

/// The API group of all our kinds.
pub const GROUP: &str = "framekeeper.dev";
/// The API version of all our kinds.
pub const VERSION: &str = "v1alpha1";
/// What stands in `apiVersion` of all our kinds.
pub const API_VERSION: &str = "framekeeper.dev/v1alpha1";

/// Name of a pool's recorder: of the `Recorder` object, of its pod, of the local process.
#[must_use]
pub fn recorder_name(pool: &str, ordinal: u32) -> String {
    format!("{pool}-recorder-{ordinal}")
}
