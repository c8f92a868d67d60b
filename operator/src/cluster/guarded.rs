//! Objects as they are watched: one that can't be understood harms no other one, and says by its field why it can't; of a stream only what decisions
//! depend on is kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use framekeeper_crds::validate::{self, FieldError};
use framekeeper_crds::{
    CameraStream, CameraStreamSpec, CameraStreamStatus, HOLD_ANNOTATION, HoldRange, Recorder, RecorderSpec,
    RecorderStatus, StoragePool, StoragePoolSpec, StoragePoolStatus, hold_ranges,
};
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use serde_json::value::RawValue;

/// An object, or what of it can't be understood.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<Arc<K>, Box<Broken>>);

/// An object that can't be understood.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Who it is.
    pub metadata: ObjectMeta,
    /// The field, and what is wrong with it.
    pub error: String,
}

impl<K> Guarded<K> {
    /// The object, if it can be understood.
    #[must_use]
    pub fn ok(&self) -> Option<&Arc<K>> {
        self.0.as_ref().ok()
    }
}

/// What can be watched under guard.
pub trait Readable: Sized {
    /// What is asked for.
    type Spec: DeserializeOwned;
    /// What of what is said is of use.
    type Status: DeserializeOwned;
    /// The object.
    fn read(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

impl Readable for StoragePool {
    type Spec = StoragePoolSpec;
    type Status = StoragePoolStatus;

    fn read(metadata: ObjectMeta, spec: StoragePoolSpec, status: Option<StoragePoolStatus>) -> Self {
        Self { metadata, spec, status }
    }
}

impl Readable for CameraStream {
    type Spec = CameraStreamSpec;
    type Status = CameraStreamStatus;

    fn read(metadata: ObjectMeta, spec: CameraStreamSpec, status: Option<CameraStreamStatus>) -> Self {
        Self { metadata, spec, status }
    }
}

impl Readable for Recorder {
    type Spec = RecorderSpec;
    type Status = RecorderStatus;

    fn read(metadata: ObjectMeta, spec: RecorderSpec, status: Option<RecorderStatus>) -> Self {
        Self { metadata, spec, status }
    }
}

#[derive(Deserialize)]
#[serde(bound = "K: Readable")]
struct Whole<K: Readable> {
    metadata: Metadata,
    spec: K::Spec,
    status: Option<K::Status>,
}

/// Of an object's metadata what anybody asks for. Which field was written by whom is half of what the API server sends, and is not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
    annotations: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(read: Metadata) -> Self {
        Self {
            name: read.name,
            namespace: read.namespace,
            uid: read.uid,
            resource_version: read.resource_version,
            generation: read.generation,
            creation_timestamp: read.creation_timestamp,
            deletion_timestamp: read.deletion_timestamp,
            finalizers: read.finalizers,
            owner_references: read.owner_references,
            annotations: read.annotations,
            labels: read.labels,
            ..Self::default()
        }
    }
}

// From JSON only, which is what an API server sends: what can't be understood is read twice, and all else once.
impl<'de, K: Readable> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        if let Ok(Whole::<K> { metadata, spec, status }) = serde_json::from_str(text.get()) {
            return Ok(Self(Ok(Arc::new(K::read(metadata.into(), spec, status)))));
        }
        let json: Json = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let error = match serde_path_to_error::deserialize::<_, Whole<K>>(&json) {
            Ok(Whole { metadata, spec, status }) => {
                return Ok(Self(Ok(Arc::new(K::read(metadata.into(), spec, status)))));
            }
            Err(error) => error,
        };
        let metadata = json.get("metadata").ok_or_else(|| D::Error::missing_field("metadata"))?;
        let metadata = Metadata::deserialize(metadata).map_err(D::Error::custom)?.into();
        Ok(Self(Err(Box::new(Broken { metadata, error: without_user_info(&error.to_string()) }))))
    }
}

/// A message may quote what stands there, and what stands before an `@` may be a password.
fn without_user_info(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive('@') {
        if part.ends_with('@') {
            let begin = part.find("://").map(|at| at + 3).or_else(|| part.rfind(['"', '`']).map(|at| at + 1));
            shown.push_str(part.get(..begin.unwrap_or(0)).unwrap_or_default());
            shown.push_str("***@");
        } else {
            shown.push_str(part);
        }
    }
    shown
}

impl<K: Resource + Clone> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(broken) => &broken.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => Arc::make_mut(object).meta_mut(),
            Err(broken) => &mut broken.metadata,
        }
    }
}

/// What people ask for with a CameraStream. What is said of it the operator says itself.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who it is, and what is held of its footage.
    pub metadata: ObjectMeta,
    /// What is asked for. All who remember it share it.
    pub spec: Arc<CameraStreamSpec>,
    /// What is wrong with it: found once, and not with each decision.
    pub mistakes: Vec<FieldError>,
    /// What of its footage is to be held.
    pub holds: Vec<HoldRange>,
}

impl Readable for Asked {
    type Spec = CameraStreamSpec;
    type Status = IgnoredAny;

    fn read(mut metadata: ObjectMeta, spec: CameraStreamSpec, _: Option<IgnoredAny>) -> Self {
        // What kubectl keeps there is as large as the object.
        metadata.annotations = metadata.annotations.and_then(|mut all| {
            all.retain(|name, _| name == HOLD_ANNOTATION);
            (!all.is_empty()).then_some(all)
        });
        metadata.labels = None;
        let mut mistakes = validate::camera_stream(&spec);
        let holds = metadata.annotations.as_ref().and_then(|all| all.get(HOLD_ANNOTATION));
        let holds = holds.map(|value| hold_ranges(value)).transpose().unwrap_or_else(|error| {
            mistakes.push(error);
            None
        });
        Self { metadata, spec: Arc::new(spec), mistakes, holds: holds.unwrap_or_default() }
    }
}

impl Resource for Asked {
    type DynamicType = ();
    type Scope = <CameraStream as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        CameraStream::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        CameraStream::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        CameraStream::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        CameraStream::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;
    use serde_json::json;

    use super::*;

    fn guarded(spec: serde_json::Value) -> Guarded<Asked> {
        let annotations = json!({ HOLD_ANNOTATION: "x", "kubectl.kubernetes.io/last-applied-configuration": "{}" });
        let object = json!({
            "apiVersion": "framekeeper.dev/v1alpha1", "kind": "CameraStream", "spec": spec, "status": { "phase": "Dancing" },
            "metadata": { "name": "cam", "namespace": "a", "uid": "u", "annotations": annotations, "labels": { "a": "b" } },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_watch_brings_it_as_a_list_does() {
        let object = |name: &str, spec: Json| {
            json!({
                "apiVersion": "framekeeper.dev/v1alpha1", "kind": "CameraStream", "spec": spec,
                "metadata": { "name": name, "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }] },
            })
        };
        let right = object("a", json!({ "source": { "url": "rtsp://c/1" }, "poolRef": { "name": "main" } }));
        let wrong = object("b", json!({ "source": 5 }));
        for (object, is_right) in [(&right, true), (&wrong, false)] {
            let line = format!("{{\"type\":\"ADDED\",\"object\":{object}}}");
            let event: kube::core::WatchEvent<Guarded<Asked>> = serde_json::from_str(&line).unwrap();
            let kube::core::WatchEvent::Added(found) = event else { panic!("{line}") };
            assert_eq!(found.ok().is_some(), is_right);
            assert_eq!(found.meta().managed_fields, None);
        }
        let list = json!({ "apiVersion": "framekeeper.dev/v1alpha1", "kind": "CameraStreamList", "metadata": {}, "items": [right, wrong] });
        let list: kube::core::ObjectList<Guarded<Asked>> = serde_json::from_str(&list.to_string()).unwrap();
        assert_eq!(list.items.iter().map(|item| item.name_any()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_nobody_asks_for_is_not_kept() {
        let stream = guarded(json!({ "source": { "url": "rtsp://c/1" }, "poolRef": { "name": "main" } }));
        assert_eq!(stream.annotations().keys().collect::<Vec<_>>(), [HOLD_ANNOTATION]);
        assert!(stream.labels().is_empty());
        assert_eq!(stream.ok().unwrap().spec.source.url, "rtsp://c/1");
    }

    #[test]
    fn what_cannot_be_understood_is_told_by_its_field() {
        let error = |spec| guarded(spec).0.unwrap_err();
        let broken = error(json!({ "source": { "url": "rtsp://c/1" }, "poolRef": { "name": 5 } }));
        assert_eq!((broken.metadata.name.as_deref(), broken.metadata.namespace.as_deref()), (Some("cam"), Some("a")));
        assert_eq!(broken.error, "spec.poolRef.name: invalid type: integer `5`, expected a string");
        let broken =
            error(json!({ "source": { "url": "rtsp://c/1", "transport": "Pigeon" }, "poolRef": { "name": "a" } }));
        assert!(
            broken.error.starts_with("spec.source.transport: unknown variant `Pigeon`, expected "),
            "{}",
            broken.error
        );
        let broken = error(json!({ "source": "rtsp://bob:ge@he/im@c/1", "poolRef": { "name": "a" } }));
        assert!(
            broken.error.starts_with("spec.source: invalid type: string \"rtsp://***@***@c/1\", expected "),
            "{}",
            broken.error
        );
        assert!(error(json!({ "poolRef": { "name": "a" } })).error.contains("missing field `source`"));
    }
}
