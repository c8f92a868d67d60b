//! What people want: streams and pools, wherever they wrote them down.

use std::collections::BTreeMap;
use std::fmt;

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
    pub streams: BTreeMap<Key, Desired<CameraStreamSpec>>,
    /// What of the streams' footage is held.
    pub holds: BTreeMap<Key, Vec<HoldRange>>,
    /// The pools.
    pub pools: BTreeMap<Key, Desired<StoragePoolSpec>>,
}

impl<T> From<T> for Desired<T> {
    fn from(object: T) -> Self {
        Self { object, identity: None }
    }
}
