//! Cameras in pods, a pool that records them, and the judge of both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::judge;
use serde_json::Value;

/// Name of the release, and of its namespace.
pub(super) const RELEASE: &str = "framekeeper";
/// The labels of recorders' pods.
const RECORDERS: &str = "app.kubernetes.io/component=recorder";
/// The labels of operators' pods.
const OPERATORS: &str = "app.kubernetes.io/component=operator";
/// The chart is in, and its operators run, within this time.
const INSTALLED_WITHIN: &str = "90s";
/// An operator that was killed is ready to follow again within this time: a kubelet waits longer before each start, at most five minutes.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(360);
/// From nothing to cameras being recorded.
pub(super) const RECORDED_WITHIN: Duration = Duration::from_secs(60);
/// What a pod takes to go: its grace period and the kubelet's own time.
const GONE_WITHIN: Duration = Duration::from_secs(90);

/// The cluster with the chart in it: put there once for all tests.
pub(super) fn installed() -> Result<&'static Cluster> {
    static CLUSTER: OnceLock<std::result::Result<Cluster, String>> = OnceLock::new();
    let made = CLUSTER.get_or_init(|| install().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow::anyhow!("the chart is not in: {error}"))
}

fn install() -> Result<Cluster> {
    let cluster = Cluster::entered()?;
    let began = Instant::now();
    install_chart(&cluster, &[])?;
    judge::result(&format!("chart installed in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(cluster)
}

/// Waits until who leads has somebody who follows: one that was killed often is started again after up to five minutes.
pub(super) fn operators_ready(cluster: &Cluster) -> Result<()> {
    cluster.wait("two operators are ready", FOLLOWS_WITHIN, || {
        let operators = cluster.get(&["deployment", RELEASE, "-n", RELEASE])?;
        let ready = operators.pointer("/status/readyReplicas").and_then(Value::as_i64);
        ensure!(ready == Some(2), "{ready:?}");
        Ok(Some(()))
    })?;
    Ok(())
}

/// `helm upgrade --install`, with these values besides.
pub(super) fn install_chart(cluster: &Cluster, more: &[&str]) -> Result<String> {
    install_release(cluster, RELEASE, more)
}

/// The same for a release of this name, in a namespace of its own by the same name.
pub(super) fn install_release(cluster: &Cluster, release: &str, more: &[&str]) -> Result<String> {
    let (repository, tag) = cluster.image.rsplit_once(':').context("an image without a tag")?;
    let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
    let chart = cluster.chart().display().to_string();
    let mut arguments = vec!["upgrade", "--install", release, &chart, "-n", release, "--create-namespace"];
    arguments.extend(["--set", &repository, "--set", &tag, "--wait", "--timeout", INSTALLED_WITHIN]);
    arguments.extend_from_slice(more);
    cluster.helm(&arguments)
}

/// A namespace with cameras.
pub(super) struct Site {
    pub(super) cluster: &'static Cluster,
    pub(super) namespace: String,
    pub(super) cameras: Vec<String>,
    pub(super) ledgers: PathBuf,
    /// All cameras are in one pod, behind one Service of this name; else each has its own name.
    host: Option<&'static str>,
    is_clean: bool,
}

impl Site {
    /// So many cameras, each in a pod of its own, all of them ready.
    pub(super) fn new(namespace: &str, cameras: usize) -> Result<Self> {
        Self::with(namespace, &vec![""; cameras])
    }

    /// One camera for each of these; what it is beside the ordinary, behind a comma.
    pub(super) fn with(namespace: &str, cameras: &[&str]) -> Result<Self> {
        let site = Self::empty(namespace, cameras.len(), None)?;
        let all = site.cameras.iter().zip(cameras);
        let cameras: Vec<(&str, String)> = all.map(|(name, more)| (name.as_str(), camera(name, more))).collect();
        site.begin(cameras.iter().map(|(name, camera)| site.camera_pod(name, std::slice::from_ref(camera), None)))?;
        Ok(site)
    }

    /// So many cameras in one pod, on this node; what they are beside the ordinary, behind a comma.
    pub(super) fn on_node(namespace: &str, cameras: usize, node: &str, more: &str) -> Result<Self> {
        let host = "cameras";
        let site = Self::empty(namespace, cameras, Some(host))?;
        let cameras: Vec<String> = site.cameras.iter().map(|name| camera(name, more)).collect();
        site.begin(std::iter::once(site.camera_pod(host, &cameras, Some(node))))?;
        Ok(site)
    }

    fn empty(namespace: &str, cameras: usize, host: Option<&'static str>) -> Result<Self> {
        let cluster = installed()?;
        let ledgers = cluster.folder.join("ledgers").join(namespace);
        // An earlier cluster may have been in the same folder.
        if ledgers.exists() {
            std::fs::remove_dir_all(&ledgers)?;
        }
        std::fs::create_dir_all(&ledgers)?;
        let cameras: Vec<String> = (1..=cameras).map(|number| format!("cam-{number}")).collect();
        let site = Self { cluster, namespace: namespace.to_owned(), cameras, ledgers, host, is_clean: false };
        cluster.kubectl(&["create", "namespace", namespace])?;
        Ok(site)
    }

    fn begin(&self, pods: impl Iterator<Item = String>) -> Result<()> {
        // A pod is refused as long as its namespace has none.
        self.cluster.wait("the namespace has its service account", Duration::from_secs(30), || {
            self.kubectl(&["get", "serviceaccount", "default"]).map(Some)
        })?;
        self.cluster.apply(&pods.collect::<Vec<_>>().join("---\n"))?;
        self.kubectl(&["wait", "pod", "-l", "camera", "--for=condition=Ready", "--timeout=60s"])?;
        Ok(())
    }

    fn camera_pod(&self, name: &str, cameras: &[String], node: Option<&str>) -> String {
        let (image, ledgers) = (&self.cluster.camera_image, self.ledgers.display());
        let node = node.map(|node| format!("  nodeName: node{node}\n")).unwrap_or_default();
        let cameras = cameras.join(", ");
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{camera: {name}}}}}\n\
             spec:\n{node}  terminationGracePeriodSeconds: 2\n  securityContext: {{runAsUser: 0}}\n  containers:\n  - name: camera\n    image: {image}\n    imagePullPolicy: IfNotPresent\n    \
             command: [ledger-camera, --listen, 0.0.0.0:8554, --control, 0.0.0.0:8555, --log-dir, /ledgers, --cache, /tmp/clips, {cameras}]\n    \
             readinessProbe: {{tcpSocket: {{port: 8554}}, periodSeconds: 1}}\n    volumeMounts: [{{name: ledgers, mountPath: /ledgers}}]\n  \
             volumes: [{{name: ledgers, hostPath: {{path: \"{ledgers}\", type: DirectoryOrCreate}}}}]\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{selector: {{camera: {name}}}, ports: [{{name: rtsp, port: 8554}}, {{name: control, port: 8555}}]}}\n",
            namespace = self.namespace,
        )
    }

    /// kubectl in this namespace.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend_from_slice(arguments);
        self.cluster.kubectl(&all)
    }

    /// The items of a list in this namespace.
    pub(super) fn list(&self, kind: &str) -> Result<Vec<Value>> {
        self.cluster.list(&[kind, "-n", &self.namespace])
    }

    /// A pool by the name of `main`; `more`: more of its spec.
    pub(super) fn pool(&self, recorders: usize, more: &str) -> String {
        self.sized_pool(recorders, "256Mi", "200Mi", more)
    }

    /// The same, of recorders that may have so much memory, and each so much of a disk.
    pub(super) fn sized_pool(&self, recorders: usize, memory: &str, disk: &str, more: &str) -> String {
        format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main, namespace: {}}}\n\
             spec:\n  recorders: {recorders}\n  segment: {{bytes: 4Mi}}\n  \
             template: {{resources: {{requests: {{cpu: 50m, memory: 128Mi}}, limits: {{memory: {memory}}}}}}}\n  \
             storage:\n    volumes:\n    - name: footage\n      \
             claimTemplate: {{spec: {{storageClassName: local, resources: {{requests: {{storage: {disk}}}}}}}}}\n{more}",
            self.namespace
        )
    }

    /// A stream of one of the cameras; `more`: more of its spec, after a comma.
    pub(super) fn stream(&self, name: &str, more: &str) -> String {
        let host = self.host.unwrap_or(name);
        format!(
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{source: {{url: \"rtsp://{host}.{namespace}.svc:8554/{name}\"}}, poolRef: {{name: main}}{more}}}\n",
            namespace = self.namespace,
        )
    }

    /// Streams of all cameras.
    pub(super) fn streams(&self) -> String {
        self.cameras.iter().map(|name| self.stream(name, "")).collect()
    }

    /// Waits until all of these streams are recorded; how long that took.
    pub(super) fn wait_recorded(&self, patience: Duration, count: usize) -> Result<Duration> {
        let what = format!("{count} streams of {} are recorded", self.namespace);
        let (_, took) = self.cluster.wait(&what, patience, || {
            let streams = self.list("camerastreams")?;
            let states: Vec<String> = streams.iter().map(describe).collect();
            let recorded = streams.iter().filter(|stream| is_true(stream, "Ready") && is_true(stream, "Recording"));
            let all = recorded.count() == count && streams.len() == count;
            ensure!(all, "{}", states.join("; "));
            Ok(Some(()))
        })?;
        Ok(took)
    }

    /// Waits until a stream is told how it stands, in these words.
    pub(super) fn told(&self, name: &str, patience: Duration, words: &[&str]) -> Result<()> {
        let (text, took) = self.cluster.wait(&format!("{name} is told {words:?}"), patience, || {
            let stream = self.cluster.get(&["camerastream", name, "-n", &self.namespace])?;
            let text = describe(&stream);
            ensure!(words.iter().all(|word| text.contains(word)), "{text}");
            Ok(Some(text))
        })?;
        judge::result(&format!("told after {:.1} s: {text}", took.as_secs_f64()));
        Ok(())
    }

    /// Waits until all recorders do what they are to.
    pub(super) fn wait_as_planned(&self, patience: Duration) -> Result<Duration> {
        let (_, took) = self.cluster.wait("all recorders do what they are to", patience, || {
            let recorders = self.list("recorders")?;
            let as_planned = |recorder: &&Value| {
                let generation = |path: &str| recorder.pointer(path).and_then(Value::as_i64);
                is_true(recorder, "Ready")
                    && is_true(recorder, "ChannelsAsPlanned")
                    && generation("/status/observedGeneration") == generation("/metadata/generation")
            };
            let good = recorders.iter().filter(as_planned).count();
            let others = recorders.iter().filter(|recorder| !as_planned(recorder));
            let others: Vec<String> =
                others.map(|it| it.pointer("/status").map(Value::to_string).unwrap_or_default()).collect();
            ensure!(good == recorders.len() && good > 0, "{good} of {}; {}", recorders.len(), others.join("; "));
            Ok(Some(()))
        })?;
        Ok(took)
    }

    /// The pod of a recorder.
    pub(super) fn pod(&self, ordinal: usize) -> Result<Value> {
        self.cluster.get(&["pod", &format!("main-recorder-{ordinal}-0"), "-n", &self.namespace])
    }

    /// The number of the node that a recorder runs on.
    pub(super) fn node(&self, ordinal: usize) -> Result<String> {
        let pod = self.pod(ordinal)?;
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).context("the pod has no node")?;
        Ok(node.trim_start_matches("node").to_owned())
    }

    /// Ends all recording in order, and counts: nothing that the cameras sent from the first recorded frame on is missing.
    pub(super) fn judge(&self, more: &[&str]) -> Result<()> {
        let stop = judge::now_ns()?;
        self.take_pool_away()?;
        self.count(stop, more)
    }

    /// The same of these cameras only: of others nothing is looked at, not even whether they still send. No recorder has opened the volumes that are
    /// `unopened` since their power was lost.
    pub(super) fn judge_only(&self, cameras: &BTreeSet<String>, unopened: &[&str]) -> Result<()> {
        let stop = judge::now_ns()?;
        self.take_pool_away()?;
        let bound = self.bound()?;
        let mut more = Vec::new();
        for folder in self.cluster.with_footage(unopened)? {
            more.extend(["--unopened".to_owned(), folder.to_str().context("a path that is not UTF-8")?.to_owned()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        self.count_only(cameras, &bound.iter().map(String::as_str).collect::<Vec<&str>>(), stop, &more)
    }

    /// The pools go, and their pods with them. Claims and footage stay.
    pub(super) fn take_pool_away(&self) -> Result<()> {
        // A kubelet whose API server was gone watches its pods again after up to a minute: its client waits longer each time.
        self.kubectl(&["delete", "storagepool", "--all", "--cascade=foreground", "--timeout=150s"])?;
        self.cluster.wait("the recorders' pods are gone", GONE_WITHIN, || {
            let left = self.cluster.list(&["pods", "-n", &self.namespace, "-l", "framekeeper.dev/pool"])?;
            Ok(left.is_empty().then_some(()))
        })?;
        Ok(())
    }

    /// Counts what the claims of this namespace hold, where nobody records: nothing that the cameras sent up to `stop` is missing.
    pub(super) fn count(&self, stop: i64, more: &[&str]) -> Result<()> {
        let bound = self.bound()?;
        self.count_on(&bound.iter().map(String::as_str).collect::<Vec<&str>>(), stop, more)
    }

    /// The volumes that the claims of this namespace are bound to.
    fn bound(&self) -> Result<Vec<String>> {
        let claims = self.list("persistentvolumeclaims")?;
        let bound = claims.iter().filter_map(|claim| claim.pointer("/spec/volumeName").and_then(Value::as_str));
        Ok(bound.map(str::to_owned).collect())
    }

    /// Counts what these volumes hold together, up to `stop`.
    pub(super) fn count_on(&self, bound: &[&str], stop: i64, more: &[&str]) -> Result<()> {
        self.count_of(std::slice::from_ref(&self.ledgers), bound, stop, more)
    }

    /// Counts what these volumes hold together of these cameras only, up to `stop`.
    pub(super) fn count_only(
        &self,
        cameras: &BTreeSet<String>,
        bound: &[&str],
        stop: i64,
        more: &[&str],
    ) -> Result<()> {
        let ledgers: Vec<PathBuf> = cameras.iter().map(|name| self.ledgers.join(format!("{name}.ledger"))).collect();
        self.count_of(&ledgers, bound, stop, more)
    }

    fn count_of(&self, ledgers: &[PathBuf], bound: &[&str], stop: i64, more: &[&str]) -> Result<()> {
        let volumes = self.cluster.with_footage(bound)?;
        ensure!(!volumes.is_empty(), "no volume of {bound:?} has footage");
        let mut arguments = judge::volumes_of(ledgers, &volumes);
        arguments.extend(["--union".to_owned(), "--ignore-others".to_owned()]);
        arguments.extend(["--stop".to_owned(), rfc3339(stop)?]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        judge::say(&self.cluster.check(&arguments)?);
        Ok(())
    }

    /// Takes everything away again, footage too.
    pub(super) fn clean(mut self) -> Result<()> {
        self.is_clean = true;
        self.take_away()
    }

    fn take_away(&self) -> Result<()> {
        self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--timeout=120s"])?;
        self.cluster.fault(&["pv-clean"])?;
        Ok(())
    }
}

impl Drop for Site {
    /// A test that failed leaves no other one without volumes. What the cluster looked like stands in its output.
    fn drop(&mut self) {
        if !self.is_clean {
            let objects = self.kubectl(&["get", "cam,sp,rec,sts,pods,pvc", "-o", "wide"]);
            let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]);
            let logs =
                self.kubectl(&["logs", "-l", RECORDERS, "--prefix", "--tail", "300", "--max-log-requests", "20"]);
            let operators = ["logs", "-n", RELEASE, "-l", OPERATORS, "--prefix", "--tail", "200"];
            let operators = self.cluster.kubectl(&operators);
            for said in [objects, events, logs, operators] {
                judge::say(&said.unwrap_or_else(|error| format!("{error:#}")));
            }
            if let Err(error) = self.take_away() {
                judge::say(&format!("{error:#}"));
            }
        }
    }
}

/// A camera, for `ledger-camera`; `more`: what it is beside the ordinary, behind a comma. Of what is said twice the last counts.
fn camera(name: &str, more: &str) -> String {
    format!("\"name={name},kind=synthetic,width=320,height=180,fps=25,bitrate=500k,gop=50{more}\"")
}

/// A time for `ledger-check`.
pub(super) fn rfc3339(nanoseconds: i64) -> Result<String> {
    Ok(jiff::Timestamp::from_nanosecond(nanoseconds.into())?.to_string())
}

/// Whether a condition is True.
pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.get("status").and_then(Value::as_str) == Some("True"))
}

/// A condition.
pub(super) fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
}

/// The name of an object, its phase, and why.
pub(super) fn describe(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("?").to_owned();
    let why = condition(object, "Recording").or_else(|| condition(object, "Ready"));
    let why = |key: &str| why.and_then(|it| it.get(key)).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("{} {} {} {}", text("/metadata/name"), text("/status/phase"), why("reason"), why("message"))
}
