//! Names and labels of what the operator makes. Pool names have at most 39 characters ([`framekeeper_crds::validate::POOL_NAME`]), so that all of
//! these fit where Kubernetes allows 52 (StatefulSets) or 63 (labels, Services).

use std::collections::BTreeMap;

use framekeeper_crds::RecorderVolume;
use sha2::{Digest as _, Sha256};

/// Whoever writes an object says so: the field manager of server-side apply.
pub const MANAGER: &str = "framekeeper-operator";
/// Label selector of everything that the operator makes.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=framekeeper-operator";
/// Label: name of the pool.
pub const POOL: &str = "framekeeper.dev/pool";
/// Label: name of the recorder.
pub const RECORDER: &str = "framekeeper.dev/recorder";
/// Annotation of a claim: the identity of the volume on it, so that a pool that is made again knows its footage.
pub const VOLUME_UUID: &str = "framekeeper.dev/volume-uuid";
/// Annotation: what was applied last, so that nothing is written that is so already.
pub const APPLIED: &str = "framekeeper.dev/applied";
/// Annotation of a pod: what of the pool's `segment` takes effect only when a recorder begins.
pub const SEGMENT: &str = "framekeeper.dev/segment";
/// Annotation of a pod: the template that it was made from.
pub const TEMPLATE: &str = "framekeeper.dev/template";

/// Labels of what belongs to a pool.
#[must_use]
pub fn pool_labels(pool: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "framekeeper"),
        ("app.kubernetes.io/component", "recorder"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (POOL, pool),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of what belongs to a recorder.
#[must_use]
pub fn labels(pool: &str, recorder: &str) -> BTreeMap<String, String> {
    let mut labels = pool_labels(pool);
    labels.insert(RECORDER.to_owned(), recorder.to_owned());
    labels
}

/// The headless Service, and the PodDisruptionBudget, of a pool.
#[must_use]
pub fn of_pool(pool: &str) -> String {
    format!("{pool}-recorders")
}

/// The claim of one of a recorder's volumes.
#[must_use]
pub fn claim(volume: &str, recorder: &str) -> String {
    format!("{volume}-{recorder}")
}

/// The claim that a recorder's volume is on.
#[must_use]
pub fn claim_of(volume: &RecorderVolume, recorder: &str) -> String {
    volume.claim.clone().unwrap_or_else(|| claim(&volume.name, recorder))
}

/// The only pod of a recorder's StatefulSet.
#[must_use]
pub fn pod(recorder: &str) -> String {
    format!("{recorder}-0")
}

/// The Secret with the credentials of the cameras that a recorder has.
#[must_use]
pub fn cameras(recorder: &str) -> String {
    format!("{recorder}-cameras")
}

/// A volume's name within the pod: a DNS label that none of the pod's other volumes can have.
#[must_use]
pub fn pod_volume(volume: &str) -> String {
    let name = format!("volume-{volume}");
    if name.len() <= 63 { name } else { format!("volume-{}", short(volume.as_bytes())) }
}

/// Enough of a hash to tell different things apart.
#[must_use]
pub fn short(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}
