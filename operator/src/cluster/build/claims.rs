//! The claims of a recorder's volumes. They outlive recorder and pool, unless the pool is to take its footage with it.

use framekeeper_crds::k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use framekeeper_crds::{PoolVolume, ReclaimPolicy, RecorderVolume};

use super::{OfPool, names};

/// The claim of a recorder's volume.
#[must_use]
pub fn claim(pool: &OfPool<'_>, recorder: &str, volume: &PoolVolume, known: &RecorderVolume) -> PersistentVolumeClaim {
    let template = &volume.claim_template;
    let told = template.metadata.clone().unwrap_or_default();
    let mut labels = told.labels;
    labels.extend(names::labels(&pool.key.name, recorder));
    let mut annotations = told.annotations;
    annotations.insert(names::VOLUME_UUID.to_owned(), known.uuid.clone());
    let modes = &template.spec.access_modes;
    let modes = if modes.is_empty() { vec!["ReadWriteOnce".to_owned()] } else { modes.clone() };
    let size = Quantity(template.spec.resources.requests.storage.to_string());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::claim_of(known, recorder)),
            namespace: Some(pool.key.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: (pool.spec.reclaim_policy == ReclaimPolicy::Delete).then(|| vec![pool.owner()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes),
            storage_class_name: template.spec.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
