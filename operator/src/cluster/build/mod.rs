//! What the operator makes for a pool and for each of its recorders, as objects. Pure.
//!
//! ```text
//! StoragePool ──owns──► Service, PodDisruptionBudget, Recorder 0..N
//!                                                        │ owns
//!                       StatefulSet (1 replica), ServiceAccount, Role, RoleBinding, Secret, Lease
//! PersistentVolumeClaims: nobody's, or the pool's where it is to take its footage with it
//! ```

pub mod access;
pub mod claims;
pub mod names;
pub mod pod;
pub mod pool;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use framekeeper_crds::{API_VERSION, RecorderVolume, StoragePoolSpec};

use super::options::Image;
use crate::decide::wanted::Key;

/// A pool, as far as its objects go.
#[derive(Clone, Copy, Debug)]
pub struct OfPool<'p> {
    /// Its name.
    pub key: &'p Key,
    /// Its UID.
    pub uid: &'p str,
    /// What it is to be.
    pub spec: &'p StoragePoolSpec,
    /// What recorders are made of.
    pub image: &'p Image,
}

/// One of a pool's recorders.
#[derive(Clone, Copy, Debug)]
pub struct OfRecorder<'p> {
    /// Its pool.
    pub pool: OfPool<'p>,
    /// Its name.
    pub name: &'p str,
    /// UID of its Recorder.
    pub uid: &'p str,
    /// Its volumes, as it is told of them.
    pub volumes: &'p [RecorderVolume],
}

impl OfPool<'_> {
    fn owner(&self) -> OwnerReference {
        owner("StoragePool", &self.key.name, self.uid)
    }

    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.key.namespace.clone()),
            labels: Some(names::pool_labels(&self.key.name)),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }
}

impl OfRecorder<'_> {
    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.pool.key.namespace.clone()),
            labels: Some(names::labels(&self.pool.key.name, self.name)),
            owner_references: Some(vec![owner("Recorder", self.name, self.uid)]),
            ..ObjectMeta::default()
        }
    }
}

/// The owner of a Recorder: its pool.
#[must_use]
pub fn owned_by_pool(pool: &Key, uid: &str) -> OwnerReference {
    owner("StoragePool", &pool.name, uid)
}

fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests;
