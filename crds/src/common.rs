//! Small types that more than one kind is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

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
