//! What people want: streams and pools, wherever they wrote them down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use framekeeper_crds::validate::FieldError;
use framekeeper_crds::{CameraStreamSpec, HoldRange, StoragePoolSpec};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// From namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Who gave an object its name knows it by these as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
}

/// An object that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired<T> {
    /// Its spec.
    pub object: T,
    /// What an API server calls it. Without one it is counted and named here.
    pub identity: Option<Identity>,
}

/// Everything that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The streams.
    pub streams: BTreeMap<Key, Desired<Arc<CameraStreamSpec>>>,
    /// What of the streams' footage is held.
    pub holds: BTreeMap<Key, Vec<HoldRange>>,
    /// The pools.
    pub pools: BTreeMap<Key, Desired<StoragePoolSpec>>,
    /// Streams that wait for a slot of this pool, and are recorded in another one meanwhile.
    pub waiting: BTreeMap<Key, Key>,
    /// Streams that are not recorded as they are written down, and why.
    pub refused: BTreeMap<Key, Refusal>,
    /// Pools that are not as they are written down, and why.
    pub refused_pools: BTreeMap<Key, Refusal>,
    /// Of the refused streams those of which nothing is known that could be gone on with: who they are.
    pub unknown: BTreeMap<Key, Identity>,
    /// The same of pools.
    pub unknown_pools: BTreeMap<Key, Identity>,
}

/// Why an object is not made so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Refusal {
    /// The object has fields that mean nothing, or of another type.
    #[must_use]
    pub fn unreadable(error: &str) -> Self {
        let message = format!(
            "the object cannot be understood: {error}; what was known of it before, if anything, is gone on with"
        );
        Self { reason: "Unreadable", message }
    }

    /// The object breaks these rules, if any.
    #[must_use]
    pub fn invalid(errors: &[FieldError]) -> Option<Self> {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| Self { reason: "InvalidSpec", message: all.join("; ") })
    }

    /// There is no such pool.
    #[must_use]
    pub fn no_pool(pool: &Key) -> Self {
        let message = format!(
            "spec.poolRef.name: there is no StoragePool {} in namespace {}; make it, or name another one. What is recorded goes on where it is",
            pool.name, pool.namespace
        );
        Self { reason: "PoolNotFound", message }
    }

    /// The pool that it is to be moved to has no slot for it.
    #[must_use]
    pub fn no_slot(pool: &Key, spec: &StoragePoolSpec, former: &Key) -> Self {
        let StoragePoolSpec { recorders, max_channels, .. } = spec;
        let message = format!(
            "spec.poolRef.name: StoragePool {} has no slot for it on a recorder that runs, with recorders: {recorders} and maxChannels: {max_channels}; \
             its conditions CapacitySufficient and Degraded say what would do. Until then the stream is recorded in StoragePool {}, where it was",
            pool.name, former.name
        );
        Self { reason: "NoSlot", message }
    }

    /// The pool is there, can't be understood, and nothing is known of it from before.
    #[must_use]
    pub fn pool_refused(pool: &Key) -> Self {
        let message = format!(
            "spec.poolRef.name: StoragePool {} cannot be understood, as its conditions say; what recorders were told before they go on with",
            pool.name
        );
        Self { reason: "PoolRefused", message }
    }
}

impl<T> From<T> for Desired<T> {
    fn from(object: T) -> Self {
        Self { object, identity: None }
    }
}
