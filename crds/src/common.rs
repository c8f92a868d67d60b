//! Small types that more than one kind is made of.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::human_duration::HumanDuration;
use crate::quantity::ByteQuantity;

/// Names a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Longest user name or password that a recorder reads. RFC 7617 and 7616 know no limit; cameras stop far below.
pub const CREDENTIAL_BYTES_AT_MOST: u64 = 4096;
/// In place of a longer one a recorder is given how long it is: under the key with this behind it, as decimal digits.
pub const CREDENTIAL_BYTES_SUFFIX: &str = ".bytes";

/// Names a StoragePool in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// Name of the StoragePool.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which stream: the CameraStream's namespace, name and UID. The UID tells a stream from another that had the same name before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamRef {
    /// Namespace of the CameraStream.
    pub namespace: String,
    /// Name of the CameraStream.
    pub name: String,
    /// UID of the CameraStream.
    pub uid: String,
}

/// The decision that an assignment comes from. A higher one wins: first by term, then by sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanVersion {
    /// Term of the operator that decided. It grows each time an operator becomes the leader (locally: at each start).
    pub term: u64,
    /// Number of the decision within the term.
    pub sequence: u64,
}

/// How long footage is kept. Whatever is said here, the oldest footage of a volume is given up when its space is used up.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Footage older than this is given up, for example `7d` or `720h`; at least 10s. Segments go whole: one stays until all of it is older.
    #[x_kube(validation = crate::validate::MAX_AGE.here())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
    /// How many bytes of a stream are kept on one recorder, over all of its volumes, for example `200Gi`; at least 8Mi. Each segment counts with
    /// the size of its file. Segments go whole: the oldest stays until the newer ones hold that much.
    #[x_kube(validation = crate::validate::MAX_BYTES.here())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteQuantity>,
}

impl RetentionSpec {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What holds where this is what was said of one stream and `pool` is what its pool says: each limit of the stream's own comes first.
    #[must_use]
    pub fn or(self, pool: Self) -> Self {
        Self { max_age: self.max_age.or(pool.max_age), max_bytes: self.max_bytes.or(pool.max_bytes) }
    }
}

/// On which of a recorder's volumes the next segment of a stream is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Placement {
    /// A stream stays on the volume that had most room for it when it began, as long as that volume takes it.
    #[default]
    Fill,
    /// Each next segment of a stream goes to the next volume in turn, so that load and fill stay even. A volume that fails, hangs, is drained or
    /// has nothing that may be given up is left out until it can be used again.
    RoundRobin,
}
