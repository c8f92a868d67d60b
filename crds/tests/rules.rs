//! Each rule, broken once: as CEL, the way an API server evaluates it, and as a function, the way local manifests are
//! checked. Both must find the same mistakes in the same fields with the same words.

#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use framekeeper_crds::validate::{self, FieldError};
use framekeeper_crds::{ByteQuantity, CameraStream, HumanDuration, Recorder, StoragePool};
use kube::core::cel::{ValidationErrors, validate_cel, validate_cel_update};
use serde_json::{Value, json};

fn stream(url: &str) -> CameraStream {
    serde_json::from_value(json!({
        "apiVersion": "framekeeper.dev/v1alpha1",
        "kind": "CameraStream",
        "metadata": { "name": "gate" },
        "spec": { "source": { "url": url }, "poolRef": { "name": "main" } },
    }))
    .unwrap()
}

fn pool(name: &str, change: impl FnOnce(&mut StoragePool)) -> StoragePool {
    let mut pool: StoragePool = serde_json::from_value(json!({
        "apiVersion": "framekeeper.dev/v1alpha1",
        "kind": "StoragePool",
        "metadata": { "name": name },
        "spec": { "recorders": 2, "storage": { "volumes": [volume("a"), volume("b")] } },
    }))
    .unwrap();
    change(&mut pool);
    pool
}

fn volume(name: &str) -> Value {
    json!({ "name": name, "claimTemplate": { "spec": { "resources": { "requests": { "storage": "10Gi" } } } } })
}

fn recorder(term: u64) -> Recorder {
    serde_json::from_value(json!({
        "apiVersion": "framekeeper.dev/v1alpha1",
        "kind": "Recorder",
        "metadata": { "name": "main-recorder-0" },
        "spec": {
            "pool": "main", "ordinal": 0, "term": term, "slots": { "normal": 10 },
            "segment": { "bytes": 67_108_864, "partMs": 500, "syncMs": 500 }, "volumes": [],
        },
    }))
    .unwrap()
}

/// Where and what, as one line each.
fn cel(result: Result<(), ValidationErrors>) -> Vec<String> {
    let mut found: Vec<String> = match result {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|e| format!("{}: {}", e.field_path, e.message)).collect(),
    };
    found.sort();
    found
}

/// The same of the function, with the words that CEL can't have because they name a value taken away.
fn plain(errors: &[FieldError]) -> Vec<String> {
    let mut found: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
    found.sort();
    found
}

#[test]
fn addresses() {
    for (url, wrong) in [
        ("rtsp://camera", 0),
        ("rtsp://camera.example:554/stream1?channel=1&subtype=0", 0),
        ("rtsp://10.0.0.7/Streaming/Channels/101", 0),
        ("rtsp://[fe80::1]:8554/a", 0),
        ("rtsp://cam_1/path@2", 0),
        ("rtsp://camera/a b", 1),
        ("rtsp://camera/a#b", 1),
        ("rtsp://camera:port/", 1),
        ("rtsp://camera:123456/", 1),
        ("rtsp:///stream", 1),
        ("rtsp://", 1),
        ("rtsp://[fe80::1/a", 1),
        ("rtsp://user:secret@camera/a", 1),
        ("rtsp://user@camera/a", 1),
        ("http://camera/a", 1),
        ("http://user:secret@camera/a", 2),
        ("camera", 2),
        ("", 2),
    ] {
        let stream = stream(url);
        let by_function = plain(&validate::camera_stream(&stream.spec));
        assert_eq!(by_function.len(), wrong, "{url}: {by_function:?}");
        assert_eq!(cel(validate_cel(&stream)), by_function, "{url}");
        assert!(!format!("{:?}", validate::camera_stream(&stream.spec)).contains("secret"), "{url}");
    }
}

#[test]
fn addresses_of_onvif_services() {
    for (endpoint, wrong) in [
        ("http://camera/onvif/device_service", 0),
        ("http://10.0.0.7:8080/onvif/device_service", 0),
        ("http://[fe80::1]/onvif", 0),
        ("https://camera/onvif/device_service", 1),
        ("http://camera/a b", 1),
        ("http://user:secret@camera/onvif", 1),
        ("rtsp://user:secret@camera/onvif", 2),
        ("camera/onvif", 2),
    ] {
        let mut stream = stream("rtsp://camera/1");
        stream.spec.source.onvif = Some(framekeeper_crds::Onvif { endpoint: endpoint.to_owned(), profile: None });
        let by_function = plain(&validate::camera_stream(&stream.spec));
        assert_eq!(by_function.len(), wrong, "{endpoint}: {by_function:?}");
        assert_eq!(cel(validate_cel(&stream)), by_function, "{endpoint}");
        assert!(!format!("{:?}", validate::camera_stream(&stream.spec)).contains("secret"), "{endpoint}");
    }
}

#[test]
fn retention() {
    for (limits, wrong) in [
        (json!({}), 0),
        (json!({ "maxAge": "7d" }), 0),
        (json!({ "maxAge": "1d12h" }), 0),
        (json!({ "maxAge": "10s" }), 0),
        (json!({ "maxAge": "10000ms" }), 0),
        (json!({ "maxAge": "9s999ms" }), 1),
        (json!({ "maxAge": "0d" }), 1),
        (json!({ "maxAge": "0s" }), 1),
        (json!({ "maxBytes": "8Mi" }), 0),
        (json!({ "maxBytes": 8_388_608 }), 0),
        (json!({ "maxBytes": "8388607" }), 1),
        (json!({ "maxBytes": "0" }), 1),
        (json!({ "maxAge": "1s", "maxBytes": "1Ki" }), 2),
    ] {
        let mut stream = stream("rtsp://camera");
        stream.spec.retention = serde_json::from_value(limits.clone()).unwrap();
        let by_function = plain(&validate::camera_stream(&stream.spec));
        assert_eq!(by_function.len(), wrong, "{limits}: {by_function:?}");
        assert_eq!(cel(validate_cel(&stream)), by_function, "{limits}");
        let pool = pool("main", |pool| pool.spec.retention = stream.spec.retention);
        assert_eq!(plain(&validate::storage_pool("main", &pool.spec)), by_function, "{limits}");
        assert_eq!(cel(validate_cel(&pool)), by_function, "{limits}");
    }
}

#[test]
fn segments() {
    let segment = |bytes: u64, part_ms: u64, sync_ms: u64| {
        pool("main", |pool| {
            pool.spec.segment.bytes = ByteQuantity::from_bytes(bytes);
            pool.spec.segment.part = HumanDuration::from_millis(part_ms);
            pool.spec.segment.sync = Some(HumanDuration::from_millis(sync_ms));
        })
    };
    for (pool, wrong) in [
        (segment(64 << 20, 500, 500), 0),
        (segment(4 << 20, 100, 100), 0),
        (segment(1 << 30, 2_000, 10_000), 0),
        (segment((4 << 20) - 4096, 500, 500), 1),
        (segment((1 << 30) + 4096, 500, 500), 1),
        (segment((4 << 20) + 1, 500, 500), 1),
        (segment(64 << 20, 99, 500), 1),
        (segment(64 << 20, 2_001, 500), 1),
        (segment(64 << 20, 500, 99), 1),
        (segment(0, 0, 10_001), 3),
    ] {
        let by_function = plain(&validate::storage_pool("main", &pool.spec));
        assert_eq!(by_function.len(), wrong, "{by_function:?}");
        assert_eq!(cel(validate_cel(&pool)), by_function);
    }
}

/// Standbys have seconds in memory: what is not durable must not be older.
#[test]
fn syncs_of_a_pool_with_standbys() {
    let syncing = |sync_ms: Option<u64>, failures: u32| {
        pool("main", |pool| {
            pool.spec.segment.sync = sync_ms.map(HumanDuration::from_millis);
            pool.spec.tolerated_failures = failures;
        })
    };
    for (sync_ms, failures) in [(Some(2_000), 1), (None, 1), (Some(10_000), 0)] {
        let pool = syncing(sync_ms, failures);
        assert_eq!(validate::storage_pool("main", &pool.spec), []);
        assert_eq!(cel(validate_cel(&pool)), Vec::<String>::new());
    }
    let pool = syncing(Some(2_001), 1);
    let by_function = plain(&validate::storage_pool("main", &pool.spec));
    assert_eq!(by_function.len(), 1);
    // Whoever names the field of a rule about a whole object begins it with a dot.
    let by_cel = cel(validate_cel(&pool));
    assert_eq!(by_cel.iter().map(|error| error.trim_start_matches('.')).collect::<Vec<_>>(), by_function);
}

#[test]
fn names() {
    for (name, wrong) in [
        ("main", 0),
        ("a", 0),
        ("a-1", 0),
        ("a23456789-b23456789-c23456789-d23456789", 0),
        ("a23456789-b23456789-c23456789-d234567890", 1),
        ("1a", 1),
        ("a-", 1),
        ("a.b", 1),
    ] {
        let pool = pool(name, |_| ());
        let by_function = validate::storage_pool(name, &pool.spec);
        assert_eq!(by_function.len(), wrong, "{name}: {by_function:?}");
        assert!(by_function.iter().all(|error| error.path == "metadata.name"));
        assert_eq!(cel(validate_cel(&pool)).len(), wrong, "{name}");
    }
}

#[test]
fn volumes_with_one_name() {
    let pool = pool("main", |pool| pool.spec.storage.volumes[1].name = "a".into());
    let by_function = validate::storage_pool("main", &pool.spec);
    assert_eq!(by_function.len(), 1);
    assert_eq!(by_function[0].path, "spec.storage.volumes[1].name");
    assert_eq!(cel(validate_cel(&pool)), ["spec.storage.volumes: must have different names"]);
}

#[test]
fn what_the_schema_bounds() {
    let errors = |change: fn(&mut StoragePool)| {
        let pool = pool("main", change);
        plain(&validate::storage_pool("main", &pool.spec))
    };
    assert_eq!(errors(|pool| pool.spec.recorders = 0), ["spec.recorders: must be between 1 and 1000"]);
    assert_eq!(errors(|pool| pool.spec.max_channels = 501), ["spec.maxChannels: must be between 1 and 500"]);
    assert_eq!(errors(|pool| pool.spec.storage.volumes.clear()), ["spec.storage.volumes: must be between 1 and 32"]);
    assert_eq!(errors(|pool| pool.spec.storage.volumes[0].name = "A".into()).len(), 1);
}

#[test]
fn the_size_of_segments_stays() {
    let old = pool("main", |_| ());
    let new = pool("main", |pool| pool.spec.segment.bytes = ByteQuantity::from_bytes(8 << 20));
    let by_function = plain(&validate::storage_pool_change(old.spec.segment.bytes, &new.spec));
    assert_eq!(by_function.len(), 1);
    assert_eq!(cel(validate_cel_update(&new, &old)), by_function);
    assert_eq!(validate::storage_pool_change(old.spec.segment.bytes, &old.spec), []);
    assert_eq!(cel(validate_cel_update(&old, &old)), Vec::<String>::new());
}

#[test]
fn an_older_term_is_refused() {
    let (old, new) = (recorder(3), recorder(2));
    assert_eq!(validate::recorder_change(&old.spec, &new.spec).len(), 1);
    assert_eq!(cel(validate_cel_update(&new, &old)).len(), 1);
    assert_eq!(validate::recorder_change(&new.spec, &old.spec), []);
    assert_eq!(cel(validate_cel_update(&old, &new)), Vec::<String>::new());
}

#[test]
fn redaction_shows_no_credentials() {
    for (url, shown) in [
        ("rtsp://camera/a", "rtsp://camera/a"),
        ("rtsp://camera/a@2", "rtsp://camera/a@2"),
        ("rtsp://user:secret@camera/a", "rtsp://***@camera/a"),
        ("rtsp://user:se/cret@camera/a", "rtsp://***@camera/a"),
        ("rtsp://user:se@cret@camera/a", "rtsp://***@camera/a"),
        ("user:secret@camera/a", "***@camera/a"),
    ] {
        assert_eq!(validate::redact_url(url), shown);
    }
}
