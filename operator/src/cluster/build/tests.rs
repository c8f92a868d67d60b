use std::collections::BTreeMap;

use framekeeper_crds::StoragePoolSpec;
use framekeeper_crds::k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::access::{self, Credentials};
use super::{Image, OfPool, OfRecorder, names, pod};
use crate::decide::wanted::Key;

fn spec(more: Value) -> StoragePoolSpec {
    let claim = json!({ "spec": { "resources": { "requests": { "storage": "10Gi" } } } });
    let volume = "v".repeat(63);
    let mut spec = json!({
        "recorders": 3, "maxChannels": 100,
        "storage": { "volumes": [{ "name": "footage", "claimTemplate": claim }, { "name": volume, "claimTemplate": claim }] },
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn with<T>(pool: &str, more: Value, look: impl FnOnce(&OfRecorder<'_>) -> T) -> T {
    let (key, spec) = (Key::new("default", pool), spec(more));
    let image = Image { name: "registry.example/framekeeper@sha256:00".into(), ..Image::default() };
    let pool = OfPool { key: &key, uid: "pool-uid", spec: &spec, image: &image };
    let name = framekeeper_crds::recorder_name(&key.name, 999);
    look(&OfRecorder { pool, name: &name, uid: "recorder-uid", volumes: &[] })
}

fn set(more: Value) -> Value {
    with("main", more, |recorder| serde_json::to_value(pod::stateful_set(recorder)).unwrap())
}

#[test]
fn the_longest_names_fit() {
    // What the rule of the pool's name allows, with the highest ordinal.
    let longest = "p".repeat(39);
    with(&longest, json!({}), |recorder| {
        let set = serde_json::to_value(pod::stateful_set(recorder)).unwrap();
        assert!(recorder.name.len() <= 52, "a StatefulSet's name has room for the revision of its pods, in a label");
        assert!(names::pod(recorder.name).len() <= 63, "and its pod's name is a label");
        assert!(names::of_pool(&recorder.pool.key.name).len() <= 63, "as is a Service's");
        let volumes = set.pointer("/spec/template/spec/volumes").and_then(Value::as_array).unwrap();
        let names: Vec<&str> = volumes.iter().map(|volume| volume["name"].as_str().unwrap()).collect();
        assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        for (_, value) in set["metadata"]["labels"].as_object().unwrap() {
            assert!(value.as_str().unwrap().len() <= 63);
        }
    });
}

#[test]
fn pods_keep_to_the_restricted_level() {
    let set = set(json!({}));
    let pod = set.pointer("/spec/template/spec").unwrap();
    let at = |path: &str| pod.pointer(path).cloned().unwrap_or(Value::Null);
    assert_eq!(at("/securityContext/runAsNonRoot"), true);
    assert_eq!(at("/securityContext/seccompProfile/type"), "RuntimeDefault");
    assert_eq!(at("/securityContext/fsGroupChangePolicy"), "OnRootMismatch");
    assert_eq!(at("/containers/0/securityContext/allowPrivilegeEscalation"), false);
    assert_eq!(at("/containers/0/securityContext/readOnlyRootFilesystem"), true);
    assert_eq!(at("/containers/0/securityContext/capabilities/drop"), json!(["ALL"]));
    assert_eq!(set["spec"]["updateStrategy"]["type"], "OnDelete");
    // A node that only the control plane can't reach goes on recording.
    let tolerations = at("/tolerations");
    assert!(tolerations.as_array().unwrap().iter().all(|it| it.get("tolerationSeconds").is_none()), "{tolerations}");
}

#[test]
fn what_is_remembered_of_volumes_can_be_written_beside_them() {
    let set = set(json!({}));
    let pod = set.pointer("/spec/template/spec").unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    let beside = volumes.iter().find(|volume| volume["name"] == "volumes").unwrap();
    assert_eq!(beside["emptyDir"], json!({ "sizeLimit": "16Mi" }), "on disk: the node may start again");
    let mounts = pod.pointer("/containers/0/volumeMounts").and_then(Value::as_array).unwrap();
    assert_eq!(mounts[0], json!({ "name": "volumes", "mountPath": "/volumes", "readOnly": false }));
    assert!(mounts[1..].iter().any(|mount| mount["mountPath"] == "/volumes/footage"), "{mounts:?}");
}

#[test]
fn what_a_pool_says_of_its_pods_counts_and_what_is_ours_stays() {
    let told = json!({ "template": {
        "metadata": { "labels": { "team": "gates", "framekeeper.dev/pool": "other" }, "annotations": { "a": "b" } },
        "nodeSelector": { "disk": "yes" }, "tolerations": [{ "key": "cameras", "operator": "Exists" }],
        "priorityClassName": "high", "resources": { "limits": { "memory": "2Gi" } }, "seccompLocalhostProfile": "io_uring.json",
    } });
    let (plain, told) = (set(json!({})), set(told));
    let pod = |path: &str| told.pointer(&format!("/spec/template{path}")).cloned().unwrap_or(Value::Null);
    assert_eq!(pod("/metadata/labels/team"), "gates");
    assert_eq!(pod("/metadata/labels/framekeeper.dev~1pool"), "main");
    assert_eq!(pod("/spec/nodeSelector/disk"), "yes");
    assert_eq!(pod("/spec/priorityClassName"), "high");
    assert_eq!(pod("/spec/securityContext/seccompProfile/localhostProfile"), "io_uring.json");
    assert_eq!(pod("/spec/containers/0/resources/limits/memory"), "2Gi");
    assert_eq!(pod("/spec/containers/0/resources/requests/memory"), "2Gi", "asked for as it may be used");
    let template = |set: &Value| set.pointer("/spec/template/metadata/annotations/framekeeper.dev~1template").cloned();
    assert_ne!(template(&plain), template(&told), "its pods are to be made anew");
    assert_eq!(template(&plain), template(&self::set(json!({}))));
}

#[test]
fn pods_are_made_anew_for_what_only_takes_effect_when_a_recorder_begins() {
    let of = |segment: Value| {
        let set = set(json!({ "segment": segment }));
        let annotation = |name: &str| {
            let annotations = set.pointer("/spec/template/metadata/annotations").unwrap();
            annotations[name].as_str().unwrap().to_owned()
        };
        (annotation(names::SEGMENT), annotation(names::TEMPLATE))
    };
    let (said, plain) = of(json!({}));
    assert_eq!(said, "part=500ms");
    let (said, both) = of(json!({ "part": "1000ms", "sync": "2s" }));
    assert_eq!(said, "part=1s,sync=2s");
    assert_ne!(both, plain);
    assert_eq!(of(json!({ "part": "1s", "sync": "2000ms" })).1, both, "the same, written in another way");
    assert_eq!(of(json!({ "part": "500ms" })).1, plain, "what it is anyway");
    assert_ne!(of(json!({ "sync": "500ms" })).1, plain, "for rotating disks, too");
}

#[test]
fn a_recorder_may_touch_its_own_things_by_name_and_nothing_else() {
    with("main", json!({}), |recorder| {
        let role = access::role(recorder);
        for rule in role.rules.unwrap() {
            let names = rule.resource_names.unwrap();
            assert!(names.iter().all(|name| name.starts_with("main-recorder-999")), "{names:?}");
            assert!(!rule.verbs.contains(&"create".to_owned()) && !rule.verbs.contains(&"*".to_owned()));
        }
    });
}

#[test]
fn credentials_are_in_the_secret_and_nothing_of_them_is_beside_it() {
    with("main", json!({}), |recorder| {
        let found = |password: &str| {
            let values = [("username", "bob"), ("password", password)];
            let values = values.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into();
            let credentials = Credentials { version: "17".into(), values };
            access::cameras(recorder, &BTreeMap::from([("door".to_owned(), credentials)]))
        };
        let (one, two) = (found("geheim"), found("anders"));
        assert_eq!(one.metadata, two.metadata, "not even a hash");
        let ByteString(entry) = &one.data.unwrap()["door"];
        let entry: BTreeMap<String, ByteString> = serde_json::from_slice(entry).unwrap();
        assert_eq!(entry["password"], ByteString(b"geheim".to_vec()));
    });
}
