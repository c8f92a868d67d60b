//! What is read, and what is said of what can't be.

use std::path::{Path, PathBuf};

use framekeeper_operator::decide::wanted::Key;
use framekeeper_operator::local::manifest::{self, Reading};

fn read(text: &str) -> Reading {
    manifest::read(&[(PathBuf::from("cameras.yaml"), text.to_owned())])
}

/// The mistakes as a user sees them.
fn mistakes(text: &str) -> Vec<String> {
    read(text).mistakes.iter().map(ToString::to_string).collect()
}

const POOL: &str = "
apiVersion: framekeeper.dev/v1alpha1
kind: StoragePool
metadata: {name: main}
spec:
  recorders: 2
  maxChannels: 5
  storage:
    volumes:
    - name: footage
      claimTemplate: {spec: {resources: {requests: {storage: 10Gi}}}}
";

fn camera(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"
    )
}

/// A camera that is right but for what is asked for.
fn source(url: &str) -> String {
    camera("gate", &format!("  source: {{url: \"{url}\"}}\n  poolRef: {{name: main}}"))
}

/// Exactly one mistake, which holds all of these words.
fn one(text: &str, words: &[&str]) {
    let found = mistakes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    for word in words {
        assert!(found[0].contains(word), "{word:?} is not in {:?}", found[0]);
    }
}

#[test]
fn every_example_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    let files = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    for path in files(&folder) {
        // The files of a folder belong together.
        let together = if path.is_dir() { files(&path) } else { vec![path.clone()] };
        let texts = together.into_iter().map(|file| (file.clone(), std::fs::read_to_string(file).unwrap()));
        let reading = manifest::read(&texts.collect::<Vec<_>>());
        assert_eq!(reading.mistakes, [], "{}", path.display());
        assert_eq!(reading.warnings, [], "{}", path.display());
        assert!(!reading.manifests.streams.is_empty() && !reading.manifests.pools.is_empty(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn what_is_read() {
    let text = format!(
        "{POOL}{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{username: YWRtaW4=}}\nstringData: {{password: \"12345\"}}\n",
        camera(
            "gate",
            "  source: {url: \"rtsp://c/1\", credentialsSecretRef: {name: s}}\n  poolRef: {name: main}\n  audio: no"
        )
    );
    let reading = read(&text);
    assert_eq!(reading.mistakes, []);
    let stream = &reading.manifests.streams[&Key::new("default", "gate")].object;
    assert_eq!(stream.source.url, "rtsp://c/1");
    assert!(!stream.audio);
    let pool = &reading.manifests.pools[&Key::new("default", "main")].object;
    assert_eq!((pool.recorders, pool.max_channels), (2, 5));
    assert_eq!(pool.segment.bytes.as_bytes(), 64 << 20);
    let secret = &reading.manifests.secrets[&Key::new("default", "s")].object;
    assert_eq!(secret.get("username"), Some(b"admin".as_slice()));
    assert_eq!(secret.get("password"), Some(b"12345".as_slice()));
    assert!(!format!("{reading:?}").contains("12345"));
}

#[test]
fn credentials_in_an_address_are_refused_and_not_shown() {
    let text = format!("{POOL}{}", source("rtsp://admin:hunter2@camera/1"));
    one(
        &text,
        &[
            "cameras.yaml:17: document 2 (CameraStream default/gate): spec.source.url: \"rtsp://***@camera/1\": ",
            "Secret",
        ],
    );
    assert!(!mistakes(&text)[0].contains("hunter2"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = format!(
        "{POOL}{}{}{}",
        camera(
            "gate",
            "  source: {url: \"http://camera/1\", transprot: Tcp}\n  poolRef: {name: mian}\n  priority: high"
        ),
        camera("Gate_7", "  source: {url: \"rtsp://camera/1\"}\n  poolRef: {name: main}\n  redundancy: Hot"),
        camera("yard", "  poolRef: {}\n  audio: maybe"),
    );
    let found = mistakes(&text);
    let expected = [
        "cameras.yaml:17: document 2 (CameraStream default/gate): spec.source.transprot: is not a known field; did you mean transport?",
        "cameras.yaml:17: document 2 (CameraStream default/gate): spec.source.url: \"http://camera/1\": must begin with rtsp://; other protocols are not supported yet",
        "cameras.yaml:18: document 2 (CameraStream default/gate): spec.poolRef.name: \"mian\": there is no StoragePool default/mian; did you mean main?",
        "cameras.yaml:19: document 2 (CameraStream default/gate): spec.priority: \"high\": must be a whole number, not text",
        "cameras.yaml:23: document 3 (CameraStream default/Gate_7): metadata.name: \"Gate_7\": must be lower-case letters, digits, '-' and '.', and begin and end with a letter or digit",
        "cameras.yaml:27: document 3 (CameraStream default/Gate_7): spec.redundancy: \"Hot\": must be None, Ready, Playing or Mirrored",
        "cameras.yaml:32: document 4 (CameraStream default/yard): spec.source: is missing; give it a mapping with url",
        "cameras.yaml:33: document 4 (CameraStream default/yard): spec.poolRef.name: is missing; give it text",
        "cameras.yaml:34: document 4 (CameraStream default/yard): spec.audio: \"maybe\": must be true or false, not text",
    ];
    assert_eq!(found, expected);
}

#[test]
fn unknown_pool() {
    one(&source("rtsp://c/1"), &["spec.poolRef.name", "there is no StoragePool default/main; add it to the files"]);
    let elsewhere = POOL.replace("{name: main}", "{name: main, namespace: other}");
    one(&format!("{elsewhere}{}", source("rtsp://c/1")), &["in namespace other only"]);
}

#[test]
fn two_streams_of_one_name() {
    let text = format!("{POOL}{}{}", source("rtsp://c/1"), source("rtsp://c/2"));
    one(
        &text,
        &[
            "document 3",
            "metadata.name: \"gate\": is the name of two CameraStreams; the other is at cameras.yaml:15, document 2",
        ],
    );
}

#[test]
fn secrets() {
    let wants = |secret: &str| {
        let camera =
            camera("gate", "  source: {url: \"rtsp://c/1\", credentialsSecretRef: {name: s}}\n  poolRef: {name: main}");
        format!("{POOL}{camera}{secret}")
    };
    one(&wants(""), &["spec.source.credentialsSecretRef.name: \"s\": there is no Secret default/s"]);
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    one(
        &wants(&format!("{secret}stringData: {{user: hunter2, password: hunter2}}\n")),
        &["has no key username (it has password, user)"],
    );
    one(&wants(&format!("{secret}data: {{username: YQ==, password: hunter2!}}\n")), &["data.password: is not base64"]);
    one(
        &wants(&format!("{secret}stringData: {{username: a, password: 24680}}\n")),
        &["stringData.password: must be text", "quotes"],
    );
    for broken in [
        "data: {username: YQ==, password: hunter2!}",
        "stringData: {username: a, pasword: hunter2}",
        "stringData: {username: 24680}",
        "data: hunter2",
    ] {
        let shown = mistakes(&wants(&format!("{secret}{broken}\n"))).join("\n");
        assert!(!shown.contains("hunter2") && !shown.contains("24680"), "{shown}");
    }
}

#[test]
fn a_line_break_in_a_password_is_warned_of() {
    let reading = read("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {username: YQ==, password: YQo=}\n");
    assert_eq!(reading.mistakes, []);
    assert_eq!(reading.warnings.len(), 1);
    assert!(reading.warnings[0].to_string().contains("printf"));
}

#[test]
fn budgets() {
    let small = |size: &str| POOL.replace("10Gi", size);
    // Three streams on two recorders: two on one of them, six segments, and two spare ones.
    let cameras: String =
        (0..3).map(|n| camera(&format!("c{n}"), "  source: {url: \"rtsp://c/1\"}\n  poolRef: {name: main}")).collect();
    assert_eq!(mistakes(&format!("{}{cameras}", small("512Mi"))), Vec::<String>::new());
    one(
        &format!("{}{cameras}", small("511Mi")),
        &[
            "cameras.yaml:11",
            "claimTemplate.spec.resources.requests.storage: 511Mi: ",
            "512Mi at least",
            "2 streams a recorder",
        ],
    );
    one(&small("10Mi"), &["320Mi at least"]);
}

#[test]
fn retention() {
    let camera =
        |more: &str| camera("c", &format!("  source: {{url: \"rtsp://c/1\"}}\n  poolRef: {{name: main}}\n{more}"));
    let of_camera = |limits: &str| format!("{POOL}{}", camera(&format!("  retention: {limits}")));
    assert_eq!(mistakes(&of_camera("{maxAge: 7d, maxBytes: 128Mi}")), Vec::<String>::new());
    one(&of_camera("{maxAge: 5s}"), &["spec.retention.maxAge: 5s: must be at least 10s"]);
    one(&of_camera("{maxAge: 7}"), &["spec.retention.maxAge: 7: must be text"]);
    one(
        &of_camera("{maxBytes: 127Mi}"),
        &["CameraStream", "spec.retention.maxBytes: 127Mi: must be at least 128Mi: 2 segments of 64Mi"],
    );
    one(
        &format!("{POOL}  retention: {{maxBytes: 10Mi}}\n"),
        &["StoragePool", "spec.retention.maxBytes: 10Mi: must be at least 128Mi"],
    );
    one(&of_camera("{maxDays: 7}"), &["spec.retention.maxDays"]);
    one(
        &POOL.replace("  storage:\n", "  storage:\n    placement: Spread\n"),
        &["spec.storage.placement", "Fill", "RoundRobin"],
    );
}

#[test]
fn slots() {
    let cameras = |count: usize, more: &str| -> String {
        let spec = format!("  source: {{url: \"rtsp://c/1\"}}\n  poolRef: {{name: main}}\n{more}");
        (0..count).map(|n| camera(&format!("c{n}"), &spec)).collect()
    };
    assert_eq!(mistakes(&format!("{POOL}{}", cameras(10, ""))), Vec::<String>::new());
    assert_eq!(mistakes(&format!("{POOL}{}", cameras(11, "  suspend: true"))), Vec::<String>::new());
    one(
        &format!("{POOL}{}", cameras(11, "")),
        &[
            "cameras.yaml:7",
            "spec.maxChannels: 5: 11 streams need 11 slots",
            "recorders: 3 (1 more), or maxChannels: 6",
        ],
    );
}

#[test]
fn reserved_slots_hold_no_streams_of_their_own() {
    let cameras = |count: usize| -> String {
        let spec = "  source: {url: \"rtsp://c/1\"}\n  poolRef: {name: main}";
        (0..count).map(|n| camera(&format!("c{n}"), spec)).collect()
    };
    let tolerant = POOL.replace("maxChannels: 5", "maxChannels: 5\n  toleratedFailures: 1");
    assert_eq!(mistakes(&format!("{tolerant}{}", cameras(4))), Vec::<String>::new());
    one(
        &format!("{tolerant}{}", cameras(5)),
        &[
            "spec.maxChannels: 5: 5 streams need 5 normal slots",
            "have 4",
            "reserves 3",
            "1 more recorder or maxChannels 6",
        ],
    );
    // Two streams to record and two to stand by for: three segments each, and two spare ones.
    let small = |size: &str| format!("{}{}", tolerant.replace("10Gi", size), cameras(3));
    assert_eq!(mistakes(&small("896Mi")), Vec::<String>::new());
    one(&small("895Mi"), &["896Mi at least", "4 streams a recorder"]);
    // A pool that can have no reserve is recorded all the same, and its condition says so.
    let alone = tolerant.replace("recorders: 2", "recorders: 1");
    assert_eq!(mistakes(&format!("{alone}{}", cameras(5))), Vec::<String>::new());
}

#[test]
fn holds() {
    let held = |value: &str| {
        let annotation = format!("{{name: gate, annotations: {{framekeeper.dev/hold: \"{value}\"}}}}");
        format!("{POOL}{}", source("rtsp://c/1").replace("{name: gate}", &annotation))
    };
    let reading = manifest::read(&[("f".into(), held("2026-11-21T14:00:00Z/, /2026-01-01T00:00:00Z"))]);
    assert_eq!(reading.mistakes, []);
    assert_eq!(reading.manifests.holds.values().map(Vec::len).collect::<Vec<_>>(), [2]);
    let place = "cameras.yaml:15: document 2 (CameraStream default/gate): metadata.annotations[framekeeper.dev/hold]";
    one(&held("yes"), &[place, "\"yes\": must be a range FROM/TO such as 2026-11-21T14:00:00Z/2026-11-21T15:30:00Z"]);
    one(&held("2026-11-21/2026-11-22"), &[place, "\"2026-11-21\" must be a time in RFC 3339"]);
    one(&held("2026-11-22T00:00:00Z/2026-11-21T00:00:00Z"), &[place, "must end after it begins"]);
}

#[test]
fn pools() {
    one(&POOL.replace("recorders: 2", "recorders: 0"), &["spec.recorders: 0: must be between 1 and 1000"]);
    one(&POOL.replace("maxChannels: 5", "maxChannels: 501"), &["spec.maxChannels: 501: must be between 1 and 500"]);
    one(&POOL.replace("10Gi", "10GB"), &["requests.storage: \"10GB\": has the unknown suffix \"GB\"; write Gi"]);
    one(&format!("{POOL}  segment: {{bytes: 3Mi}}\n"), &["spec.segment.bytes: 3Mi: must be between 4Mi and 1Gi"]);
    one(&format!("{POOL}  segment: {{part: 5s}}\n"), &["spec.segment.part: 5s: must be between 100ms and 2s"]);
    one(
        &format!("{POOL}  redundancy: {{handbackAfter: 500ms}}\n"),
        &["spec.redundancy.handbackAfter: 500ms: must be between 1s and 10m"],
    );
    one(&format!("{POOL}  segment: {{sync: 500}}\n"), &["spec.segment.sync: 500: must be text", "quotes"]);
    one(&format!("{POOL}  segment: {{sync: \"500\"}}\n"), &["spec.segment.sync: \"500\": has no unit", "500s"]);
    let twice = format!(
        "{POOL}    - name: footage\n      claimTemplate: {{spec: {{resources: {{requests: {{storage: 1Gi}}}}}}}}\n"
    );
    one(&twice, &["cameras.yaml:12", "spec.storage.volumes[1].name: \"footage\": is the name of two volumes"]);
    one(&POOL.replace("name: footage", "name: Foot/age"), &["spec.storage.volumes[0].name"]);
    one(&POOL.replace("{name: main}", "{name: 1main}"), &["metadata.name: \"1main\": must be at most 39"]);
    one(
        &POOL.replace(
            "\n    - name: footage\n      claimTemplate: {spec: {resources: {requests: {storage: 10Gi}}}}",
            " []",
        ),
        &["spec.storage.volumes: 0 entries: must have at least 1"],
    );
}

#[test]
fn kinds() {
    one(
        "apiVersion: framekeeper.dev/v1alpha1\nkind: CamaraStream\nmetadata: {name: a}\n",
        &["kind: \"CamaraStream\"", "did you mean CameraStream?"],
    );
    one(
        "apiVersion: framekeeper.dev/v1\nkind: CameraStream\nmetadata: {name: a}\n",
        &["must be framekeeper.dev/v1alpha1 for a CameraStream"],
    );
    one("apiVersion: framekeeper.dev/v1alpha1\nkind: Recorder\nmetadata: {name: a}\n", &["written by the operator"]);
    one("metadata: {name: a}\n", &["kind: is missing"]);
    one("- a\n", &["must be a mapping"]);
    let reading = read("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n");
    assert_eq!((reading.mistakes.len(), reading.warnings.len()), (0, 1));
}

#[test]
fn lists_lead_to_the_item() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: framekeeper.dev/v1alpha1\n  kind: CameraStream\n  metadata: {name: a}\n  spec: {source: {url: 7}, poolRef: {name: main}}\n";
    let found = mistakes(text);
    assert!(
        found[1].starts_with(
            "cameras.yaml:7: document 1 (CameraStream default/a): items[0].spec.source.url: 7: must be text"
        ),
        "{found:#?}"
    );
}

#[test]
fn text_that_is_not_yaml() {
    one("apiVersion: v1\nkind: List\nitems:\n\t- a\n", &["cameras.yaml:4: document 1: is indented with a tab"]);
    let found = mistakes("a: [\n---\nb: 1\n");
    assert!(found.iter().any(|mistake| mistake.contains("is not valid YAML")), "{found:#?}");
}

#[test]
fn what_an_export_holds_is_no_mistake() {
    let text = "apiVersion: framekeeper.dev/v1alpha1
kind: StoragePool
metadata:
  name: main
  creationTimestamp: null
  generation: 3
  resourceVersion: \"12\"
  uid: 0b0e7a3e-0000-4000-8000-000000000000
  labels: {site: north}
  managedFields: [{manager: kubectl, operation: Update, apiVersion: framekeeper.dev/v1alpha1, fieldsType: FieldsV1, fieldsV1: {\"f:spec\": {}}}]
spec:
  recorders: 1
  storage: {volumes: [{name: a, claimTemplate: {metadata: {labels: {a: b}}, spec: {storageClassName: fast, resources: {requests: {storage: 1Gi}}}}}]}
status: {recorders: 1}
";
    assert_eq!(mistakes(text), Vec::<String>::new());
}
