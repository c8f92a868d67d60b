//! What the operator looks after: its installation, a pool with its recorders' pods, and cameras.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use framekeeper_crds::k8s_openapi::api::apps::v1::StatefulSet;
use framekeeper_crds::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use framekeeper_crds::{CameraStream, CameraStreamSpec, yaml};
use futures::StreamExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Namespace of the cameras.
pub(super) const CAMERAS: &str = "cameras";
/// Namespace of the operator.
pub(super) const OPERATOR: &str = "framekeeper";
/// Field manager of what people and their tools write.
const MANAGER: &str = "framekeeper-bench";
/// So many objects are applied at once.
pub(super) const AT_ONCE: usize = 16;
/// Cameras that have the same credentials.
const SITE: usize = 500;
/// Recorders on one node.
const RECORDERS_A_NODE: usize = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The definitions, the operator's account with what the chart allows it, and a kubeconfig for it in `folder`.
///
/// # Errors
/// When something is refused.
pub(super) fn install(folder: &Path) -> Result<PathBuf> {
    let kubectl = |arguments: &[&str]| output(Command::new("kubectl").args(arguments));
    for crd in ["camerastreams", "recorders", "storagepools"] {
        let file = root().join(format!("crds/{crd}.yaml"));
        kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()])?;
    }
    kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
    for namespace in [CAMERAS, OPERATOR] {
        kubectl(&["create", "namespace", namespace])?;
    }
    let chart = root().join("charts/framekeeper");
    let mut helm = Command::new("helm");
    helm.args(["template", "framekeeper"]).arg(chart).args(["--namespace", OPERATOR]);
    // The chart insists on it, whatever is rendered.
    helm.args(["--set", "image.repository=localhost/framekeeper", "--set", "image.tag=bench"]);
    let access = output(helm.args(["-s", "templates/serviceaccount.yaml", "-s", "templates/rbac.yaml"]))?;
    let file = folder.join("access.yaml");
    std::fs::write(&file, access)?;
    kubectl(&["apply", "--namespace", OPERATOR, "-f", &file.to_string_lossy()])?;
    let account = kubectl(&["get", "serviceaccounts", "--namespace", OPERATOR, "-o", "name"])?;
    let account = account.trim().rsplit('/').next().unwrap_or_default().to_owned();
    let token = kubectl(&["create", "token", &account, "--namespace", OPERATOR, "--duration", "6h"])?;
    let config = kubectl(&["config", "view", "--raw", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&config)?;
    let user = config.pointer_mut("/users/0/user").context("the kubeconfig has no user")?;
    *user = json!({ "token": token.trim() });
    let file = folder.join("operator.kubeconfig");
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

/// A pool, and the Secrets that its cameras name.
///
/// # Errors
/// When it is refused.
pub(super) async fn pool(
    client: &Client,
    recorders: usize,
    max_channels: usize,
    more: &str,
    streams: usize,
) -> Result<()> {
    let text = format!(
        "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{recorders: {recorders}, maxChannels: {max_channels}, \
         {more}storage: {{volumes: [{{name: footage, claimTemplate: {{spec: {{resources: {{requests: {{storage: 4Ti}}}}}}}}}}]}}}}\n"
    );
    let pool: framekeeper_crds::StoragePool = yaml::read(&text)?;
    let api = Api::namespaced(client.clone(), CAMERAS);
    api.create(&PostParams::default(), &pool).await?;
    let secrets = Api::<Secret>::namespaced(client.clone(), CAMERAS);
    for site in 0..=streams / SITE {
        let secret = serde_json::from_value(json!({
            "metadata": { "name": format!("site-{site:02}") },
            "stringData": { "username": "recorder", "password": format!("not-a-password-{site:02}") },
        }))?;
        secrets.create(&PostParams::default(), &secret).await?;
    }
    Ok(())
}

/// What a StatefulSet controller, a scheduler and kubelets would have made of what the operator made: nodes, and the recorders' pods and volumes, on them.
///
/// # Errors
/// When something is refused, or the operator makes less than it is to.
pub(super) async fn run_pods(client: &Client, recorders: usize, patience: Duration) -> Result<()> {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), CAMERAS);
    let began = Instant::now();
    let sets = loop {
        let found = sets.list(&ListParams::default()).await?.items;
        if found.len() >= recorders {
            break found;
        }
        if began.elapsed() > patience {
            bail!("the operator made {} of {recorders} StatefulSets in {} s", found.len(), patience.as_secs());
        }
        sleep(Duration::from_millis(200)).await;
    };
    let params = PostParams::default();
    let nodes = Api::<Node>::all(client.clone());
    for node in 0..recorders.div_ceil(RECORDERS_A_NODE) {
        let name = format!("node-{node:03}");
        let labels = json!({ "kubernetes.io/hostname": name });
        let node = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } }))?;
        nodes.create(&params, &node).await?;
    }
    let (pods, claims) = (
        Api::<Pod>::namespaced(client.clone(), CAMERAS),
        Api::<PersistentVolumeClaim>::namespaced(client.clone(), CAMERAS),
    );
    let volumes = Api::<PersistentVolume>::all(client.clone());
    for (number, set) in sets.iter().enumerate() {
        let (name, node) = (set.name_any(), format!("node-{:03}", number / RECORDERS_A_NODE));
        let claim = claims.get(&format!("footage-{name}")).await?;
        let volume = json!({
            "metadata": { "name": format!("disk-{number:03}") },
            "spec": {
                "capacity": { "storage": "4Ti" }, "accessModes": ["ReadWriteOnce"], "local": { "path": "/disk" },
                "claimRef": { "namespace": CAMERAS, "name": claim.name_any(), "uid": claim.uid() },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] } ] }] } },
            },
        });
        volumes.create(&params, &serde_json::from_value(volume)?).await?;
        let bound = json!({ "spec": { "volumeName": format!("disk-{number:03}") } });
        claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&bound)).await?;
        let mut pod: Pod = serde_json::from_value(serde_json::to_value(&set.spec.template)?)?;
        pod.metadata.name = Some(format!("{name}-0"));
        let spec = pod.spec.get_or_insert_default();
        spec.node_name = Some(node);
        spec.hostname = Some(format!("{name}-0"));
        pods.create(&params, &pod).await?;
        let now = framekeeper_crds::k8s_openapi::jiff::Timestamp::now();
        let is_true = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": format!("{now:.0}") });
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(is_true);
        let status = json!({ "status": {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [{ "name": "recorder", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": format!("{now:.0}") } } }],
        } });
        pods.patch_status(&format!("{name}-0"), &PatchParams::default(), &Patch::Merge(&status)).await?;
    }
    Ok(())
}

/// The camera of this number.
///
/// # Errors
/// Never, as long as the definition is what it is.
fn camera(number: usize) -> Result<CameraStream> {
    let spec: CameraStreamSpec = serde_json::from_value(json!({
        "source": {
            "url": format!("rtsp://camera-{number:05}.site-{:02}.example:554/Streaming/Channels/101", number / SITE),
            "credentialsSecretRef": { "name": format!("site-{:02}", number / SITE) },
        },
        "poolRef": { "name": "main" },
        "retention": { "maxAge": "30d" },
    }))?;
    Ok(CameraStream::new(&camera_name(number), spec))
}

/// Its name.
#[must_use]
pub(super) fn camera_name(number: usize) -> String {
    format!("camera-{number:05}")
}

/// Applies cameras, [`AT_ONCE`] of them at a time, and returns when the first was asked for and when the last was there.
///
/// # Errors
/// When one is refused.
pub(super) async fn apply(client: &Client, numbers: std::ops::Range<usize>) -> Result<(Instant, Instant)> {
    let api = Api::<CameraStream>::namespaced(client.clone(), CAMERAS);
    let params = PatchParams::apply(MANAGER);
    let began = Instant::now();
    let mut writes = futures::stream::iter(numbers)
        .map(|number| {
            let (api, params) = (&api, &params);
            async move {
                let object = camera(number)?;
                api.patch(&object.name_any(), params, &Patch::Apply(&object)).await?;
                Ok::<(), anyhow::Error>(())
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(done) = writes.next().await {
        done?;
    }
    Ok((began, Instant::now()))
}

/// Deletes all cameras.
///
/// # Errors
/// When that is refused.
pub(super) async fn forget(client: &Client) -> Result<()> {
    let api = Api::<CameraStream>::namespaced(client.clone(), CAMERAS);
    api.delete_collection(&Default::default(), &ListParams::default()).await?;
    Ok(())
}
