//! Wrong input: each is told where it is wrong and what would be right, and harms nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition, describe, installed, is_true};

/// A condition says what is wrong within this time.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A stream that nothing stands in the way of is recorded within this time. Beside what its recorder needs to be told of it are in it: the steps of RTSP, a key
/// frame, and two looks of a second each, of the operator at the recorder and of kubectl.
const RECORDED_SOON: Duration = Duration::from_secs(10);
/// Cameras of these tests send a key frame every 0.4 s: it is not that which is waited for.
const KEY_FRAMES: &str = ",gop=10";
/// What is besides of a camera that asks for a password.
const LOCKED: &str = "auth=digest,user=viewer,password=the-right-one";

#[test]
fn the_api_server_refuses_what_is_wrong_and_says_where() -> Result<()> {
    let cluster = installed()?;
    let stream = |spec: &str| {
        format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: wrong, namespace: default}}\nspec: {spec}\n"
        )
    };
    let pool = |name: &str, more: &str| {
        format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{{more} storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 1Gi}}}}}}}}}}]}}}}\n"
        )
    };
    let cases = [
        (stream("{source: {url: \"http://c/1\"}, poolRef: {name: main}}"), "spec.source.url", "rtsp://"),
        (
            stream("{source: {url: \"rtsp://a:b@c/1\"}, poolRef: {name: main}}"),
            "spec.source.url",
            "credentialsSecretRef",
        ),
        (stream("{source: {url: \"rtsp://c/1\"}, poolRef: {name: \"\"}}"), "spec.poolRef.name", "at least 1"),
        (pool("main", "recorders: 0,"), "spec.recorders", "greater than or equal to 1"),
        (pool("main", "recorders: 2, maxChannels: 501,"), "spec.maxChannels", "less than or equal to 500"),
        (pool("main", "recorders: 2, segment: {bytes: 5},"), "spec.segment.bytes", "4Mi"),
        (pool("main", "recorders: 2, toleratedFailures: 1, segment: {sync: 3s},"), "spec.segment.sync", "at most 2s"),
        (pool(&"p".repeat(40), "recorders: 2,"), "metadata.name", "39"),
    ];
    for (manifest, field, what) in cases {
        let refused = cluster.apply(&manifest).err().with_context(|| format!("not refused: {manifest}"))?;
        let said = format!("{refused:#}");
        ensure!(said.contains(field) && said.contains(what), "{field}, {what}: {said}");
        ensure!(!said.contains("a:b@"), "credentials are shown: {said}");
    }
    Ok(())
}

#[test]
fn what_only_turns_out_later_is_told_in_conditions_and_harms_no_other_stream() -> Result<()> {
    let site = Site::with("mistakes", &[KEY_FRAMES, &format!("{KEY_FRAMES},{LOCKED}")])?;
    let cluster = site.cluster;
    let first = site.stream("cam-1", "");
    cluster.apply(&format!("{}  maxChannels: 4\n{first}", site.pool(1, "")))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    let long = "n".repeat(253);
    let wrong = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}, namespace: {}}}\nspec: {spec}\n",
            site.namespace
        )
    };
    cluster.apply(&format!(
        "{}{}{}",
        wrong("no-pool", "{source: {url: \"rtsp://c/1\"}, poolRef: {name: nowhere}}"),
        wrong(
            "no-secret",
            "{source: {url: \"rtsp://cam-1:8554/cam-1\", credentialsSecretRef: {name: nothing}}, poolRef: {name: main}}"
        ),
        wrong(&long, "{source: {url: \"rtsp://cam-1.mistakes.svc:8554/refused\"}, poolRef: {name: main}}"),
    ))?;
    let says = |name: &str, words: &[&str]| site.told(name, TOLD_WITHIN, words);
    says("no-pool", &["PoolNotFound", "nowhere", "make it"])?;
    says("no-secret", &["nothing", "username and password"])?;
    says(&long, &["Failed"])?;
    // A password that is wrong, and then is not: nobody has to start anything anew.
    let secret = |password: &str| {
        let name = "cam-2-login";
        let namespace = &site.namespace;
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {{username: viewer, password: {password}}}\n"
        )
    };
    let locked = "{source: {url: \"rtsp://cam-2.mistakes.svc:8554/cam-2\", credentialsSecretRef: {name: cam-2-login}}, poolRef: {name: main}}";
    cluster.apply(&format!("{}{}", secret("the-wrong-one"), wrong("cam-2", locked)))?;
    says("cam-2", &["Failed", "Unauthorized"])?;
    cluster.apply(&secret("the-right-one"))?;
    let (_, took) = cluster.wait("the camera lets it in", RECORDED_SOON, || {
        let stream = cluster.get(&["camerastream", "cam-2", "-n", &site.namespace])?;
        ensure!(is_true(&stream, "Recording"), "{}", describe(&stream));
        Ok(Some(()))
    })?;
    judge::result(&format!("recorded {:.1} s after its Secret was changed", took.as_secs_f64()));
    // Too many streams for the slots there are.
    cluster.apply(&wrong("one-more", "{source: {url: \"rtsp://c/2\"}, poolRef: {name: main}}"))?;
    says("one-more", &["NoSlot", "StoragePool main", "CapacitySufficient"])?;
    let pool = cluster.get(&["storagepool", "main", "-n", &site.namespace])?;
    let capacity = condition(&pool, "CapacitySufficient").and_then(|it| it.get("status")).and_then(Value::as_str);
    ensure!(capacity == Some("False"), "{pool}");
    let said = pool.to_string();
    ensure!(said.contains("set recorders: 2") && said.contains("maxChannels: 5"), "what would do: {said}");
    let events = site.kubectl(&["get", "events", "--field-selector", "involvedObject.name=no-pool"])?;
    ensure!(events.contains("PoolNotFound"), "{events}");
    let shown = ["get", "cam,sp,rec,events", "-o", "yaml"];
    let shown = site.kubectl(&shown)?;
    ensure!(!shown.contains("the-wrong-one") && !shown.contains("the-right-one"), "a password is shown");
    // The one that was right all the time.
    site.judge(&[])?;
    site.clean()
}

/// A definition as it was before there were rules.
struct Lenient<'c> {
    cluster: &'c Cluster,
    strict: String,
}

impl<'c> Lenient<'c> {
    fn new(cluster: &'c Cluster) -> Result<Self> {
        let mut definition = cluster.get(&["crd", "camerastreams.framekeeper.dev"])?;
        if let Some(metadata) = definition.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| matches!(key.as_str(), "name" | "labels" | "annotations"));
        }
        let strict = definition.to_string();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        *definition.pointer_mut(spec).context("the definition has no spec")? =
            serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        cluster.replace(&definition.to_string())?;
        Ok(Self { cluster, strict })
    }

    fn end(&self) -> Result<()> {
        self.cluster.replace(&self.strict).map(drop)
    }
}

impl Drop for Lenient<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            judge::say(&format!("{error:#}"));
        }
    }
}

#[test]
fn an_object_that_is_wrong_by_todays_rules_harms_no_other_one() -> Result<()> {
    let site = Site::with("poison", &[KEY_FRAMES; 2])?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 4\n{}", site.pool(1, ""), site.stream("cam-1", "")))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    let lenient = Lenient::new(cluster)?;
    let poison = |name: &str, spec: &str| {
        let namespace = &site.namespace;
        format!(
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let unreadable = poison("unreadable", "{source: [1, 2], poolRef: main}");
    let invalid = poison(
        "invalid",
        "{source: {url: \"http://c/1\", transport: Auto}, poolRef: {name: main}, audio: true, priority: 0, suspend: false}",
    );
    // The API server takes a new definition into use a moment after it has taken it.
    cluster.wait("the definition without rules is in use", Duration::from_secs(20), || {
        cluster.apply(&format!("{unreadable}{invalid}"))?;
        Ok(Some(()))
    })?;
    lenient.end()?;
    let told = |name: &str, words: &[&str]| site.told(name, TOLD_WITHIN, words);
    told("unreadable", &["Unreadable", "spec.poolRef: ", "main", "PoolRef"])?;
    told("invalid", &["InvalidSpec", "spec.source.url", "rtsp://"])?;
    // Others are reconciled as ever.
    cluster.apply(&site.stream("cam-2", ""))?;
    cluster.wait("the other camera is recorded", RECORDED_SOON, || {
        let stream = cluster.get(&["camerastream", "cam-2", "-n", &site.namespace])?;
        ensure!(is_true(&stream, "Recording"), "{}", describe(&stream));
        Ok(Some(()))
    })?;
    site.judge(&[])?;
    site.clean()
}

/// Nobody may do this, `CREATE` or `UPDATE`, to Recorders of this pool in this namespace.
pub(super) fn policy(namespace: &str, pool: &str, operation: &str) -> String {
    let rule = format!(
        "{{apiGroups: [framekeeper.dev], apiVersions: [v1alpha1], operations: [{operation}], resources: [recorders]}}"
    );
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: no-{pool}}}\n\
         spec:\n  failurePolicy: Fail\n  matchConstraints: {{resourceRules: [{rule}]}}\n  \
         validations: [{{expression: \"object.spec.pool != '{pool}'\", message: there is no room for {pool}}}]\n\
         ---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: no-{pool}}}\n\
         spec:\n  policyName: no-{pool}\n  validationActions: [Deny]\n  \
         matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}\n"
    )
}

#[test]
fn what_is_refused_of_one_pool_or_one_object_keeps_nothing_else_back() -> Result<()> {
    let site = Site::with("limits", &[KEY_FRAMES, &format!("{KEY_FRAMES},{LOCKED}")])?;
    let (cluster, namespace) = (site.cluster, &site.namespace);
    let pool = format!("{}  maxChannels: 4\n", site.pool(1, ""));
    cluster.apply(&format!("{pool}{}", site.stream("cam-1", "")))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    // An admission policy does not let a second pool have its Recorder. It holds a moment after it was made.
    cluster.apply(&policy(namespace, "other", "CREATE"))?;
    let probe = site.ledgers.join("probe.yaml");
    let recorder = "apiVersion: framekeeper.dev/v1alpha1\nkind: Recorder\nmetadata: {name: probe}\n\
                    spec: {pool: other, ordinal: 0, term: 0, slots: {normal: 1, reserved: 0}, segment: {bytes: 4194304, partMs: 500}, volumes: []}\n";
    std::fs::write(&probe, recorder)?;
    let probe = probe.display().to_string();
    cluster.wait("the policy holds", Duration::from_secs(20), || {
        let refused = site.kubectl(&["create", "--dry-run=server", "-f", &probe]).err();
        Ok(refused.filter(|error| format!("{error:#}").contains("no room for other")).map(drop))
    })?;
    cluster.apply(&pool.replace("{name: main,", "{name: other,"))?;
    // A claim that can't be of another class, of the first one.
    cluster.apply(&pool.replace("storageClassName: local", "storageClassName: another"))?;
    let degraded = |name: &str, words: &[&str]| {
        let (said, _) = cluster.wait(&format!("{name} is told {words:?}"), TOLD_WITHIN, || {
            let pool = cluster.get(&["storagepool", name, "-n", namespace])?;
            let degraded = condition(&pool, "Degraded").filter(|_| is_true(&pool, "Degraded"));
            let message = degraded.and_then(|it| it.get("message")).and_then(Value::as_str).unwrap_or_default();
            ensure!(words.iter().all(|word| message.contains(word)), "{pool}");
            Ok(Some(message.to_owned()))
        })?;
        judge::result(&format!("{name}: {said}"));
        anyhow::Ok(())
    };
    degraded("other", &["other-recorder-0", "no room for other"])?;
    degraded("main", &["PersistentVolumeClaim", "footage-main-recorder-0"])?;
    // Another camera, and its credentials, get through all the same.
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cam-2-login, namespace: {namespace}}}\n\
         stringData: {{username: viewer, password: the-right-one}}\n{}",
        site.stream("cam-2", "").replace("source: {", "source: {credentialsSecretRef: {name: cam-2-login}, ")
    ))?;
    site.wait_recorded(RECORDED_SOON, 2)?;
    // What stood in the way is gone, and nobody has to start anything anew.
    site.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "no-other"])?;
    cluster.wait("the second pool has its Recorder", Duration::from_secs(20), || {
        ensure!(site.list("recorders")?.len() == 2, "there is one");
        Ok(Some(()))
    })?;
    site.kubectl(&["delete", "storagepool", "other", "--cascade=foreground", "--timeout=60s"])?;
    site.judge(&[])?;
    site.clean()
}

#[test]
fn a_recorder_reads_its_own_things_and_nobody_elses() -> Result<()> {
    let site = Site::new("access", 1)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 3\n{}", site.pool(2, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    let token = site.kubectl(&["create", "token", "main-recorder-0"])?;
    let as_recorder = |arguments: &[&str]| {
        let token = format!("--token={}", token.trim());
        let mut all =
            vec!["--kubeconfig=/dev/null", "--server=https://10.200.0.1:6443", "--insecure-skip-tls-verify", &token];
        all.extend(["-n", &site.namespace]);
        all.extend_from_slice(arguments);
        cluster.kubectl(&all)
    };
    as_recorder(&["get", "recorder", "main-recorder-0"])?;
    as_recorder(&["get", "secret", "main-recorder-0-cameras"])?;
    let forbidden: [&[&str]; 6] = [
        &["get", "secret", "main-recorder-1-cameras"],
        &["get", "secrets"],
        &["get", "recorder", "main-recorder-1"],
        &["patch", "recorder", "main-recorder-1", "--subresource=status", "--type=merge", "-p", "{\"status\":{}}"],
        &["patch", "recorder", "main-recorder-0", "--type=merge", "-p", "{\"spec\":{\"term\":99}}"],
        &["get", "camerastreams"],
    ];
    for arguments in forbidden {
        let said = as_recorder(arguments).err().with_context(|| format!("allowed: {arguments:?}"))?;
        ensure!(format!("{said:#}").contains("Forbidden") || format!("{said:#}").contains("forbidden"), "{said:#}");
    }
    site.judge(&[])?;
    site.clean()
}
