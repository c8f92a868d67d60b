//! Takeovers without any control plane: operator, API server, controller manager and scheduler are gone while a recorder, its sandbox, links, disks and a
//! node fail, one after the other. All cameras are on one node, which is never hurt.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::count;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, RELEASE, Site, rfc3339};

/// Where the cameras are.
const CAMERAS_ON: &str = "3";
/// All streams of a recorder that is struck are recorded by others within this time; what looking takes is in it.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// Who was struck stands by, or records, again within this time: a kubelet's pause before another start is in it.
const PROTECTED_WITHIN: Duration = Duration::from_secs(90);
/// A fault that has a duration has this one.
const LASTS: Duration = Duration::from_secs(8);
/// What is not durable yet is not counted while recorders record.
const DURABLE_AFTER: Duration = Duration::from_secs(5);

/// A recorder, where it runs, and where it writes to.
#[derive(Clone, Debug)]
struct Place {
    ordinal: usize,
    node: String,
    /// Name of its PersistentVolume.
    volume: String,
}

impl Place {
    fn of(site: &Site, ordinal: usize) -> Result<Self> {
        let claim = format!("footage-main-recorder-{ordinal}");
        let claim = site.cluster.get(&["pvc", &claim, "-n", &site.namespace])?;
        let volume = claim.pointer("/spec/volumeName").and_then(Value::as_str).context("an unbound claim")?;
        Ok(Self { ordinal, node: site.node(ordinal)?, volume: volume.to_owned() })
    }

    /// The number of its disk on its node.
    fn disk(&self) -> &str {
        self.volume.rsplit_once("disk").map_or("1", |(_, number)| number)
    }

    /// The supervisor and its worker, as its node numbers them.
    fn processes(&self, site: &Site) -> Result<Vec<String>> {
        let command = format!("--cluster {}/main-recorder-{}", site.namespace, self.ordinal);
        let said = site.cluster.fault(&["node-exec", &self.node, "pgrep", "-f", "--", &command]).unwrap_or_default();
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    /// What it says of its channels: asked on its node, wherever it is by now and whoever reaches it.
    fn says(&self, site: &Site) -> Result<Vec<Says>> {
        let pids = self.processes(site)?;
        let worker = pids.last().context("no recorder runs")?;
        let ask =
            ["nsenter", "-t", worker, "-n", "curl", "-sf", "--max-time", "1", "http://127.0.0.1:8080/v1/channels"];
        let said = site.cluster.fault(&[&["node-exec", &self.node][..], &ask[..]].concat())?;
        let said: Value = serde_json::from_str(&said)?;
        let channels = said.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |channel: &Value, key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let says = |channel: &Value| Says {
            stream: text(channel, "name"),
            role: text(channel, "role"),
            state: text(channel, "state"),
            reason: text(channel, "reason"),
        };
        Ok(channels.iter().map(says).collect())
    }

    fn records(&self, site: &Site) -> Result<BTreeSet<String>> {
        let says = self.says(site)?.into_iter();
        Ok(says.filter(|says| says.state == "Recording").map(|says| says.stream).collect())
    }
}

/// What a recorder says of a stream.
#[derive(Clone, Debug)]
struct Says {
    stream: String,
    role: String,
    state: String,
    reason: String,
}

/// How a recorder is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Its supervisor and its worker.
    Killed,
    /// All processes of its pod: the kubelet makes another sandbox, with another address.
    SandboxKilled,
    /// Its node's cable is out: it sees no camera and no other recorder.
    Partitioned,
    /// Its node does not reach the cameras' node, and reaches the third one.
    Blind,
    /// Its node and the third one do not reach each other: all see the cameras.
    LinkCut,
    /// Writing blocks.
    DiskHangs,
    /// No byte is left on its disk.
    DiskFull,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Killed,
        Self::Partitioned,
        Self::DiskHangs,
        Self::SandboxKilled,
        Self::Blind,
        Self::LinkCut,
        Self::DiskFull,
    ];

    /// Whether others have to record instead.
    fn is_taken_over(self) -> bool {
        !matches!(self, Self::LinkCut | Self::DiskFull)
    }

    fn begin(self, site: &Site, struck: &Place, third: &Place) -> Result<()> {
        let (fault, node) = (|arguments: &[&str]| site.cluster.fault(arguments).map(drop), struck.node.as_str());
        match self {
            Self::Killed => {
                let pids = struck.processes(site)?;
                ensure!(!pids.is_empty(), "no recorder runs on node {node}");
                // The second may end with the first.
                fault(&["node-exec", node, "sh", "-c", &format!("kill -KILL {} || true", pids.join(" "))])
            }
            Self::SandboxKilled => {
                let pids = struck.processes(site)?;
                let recorder = pids.first().context("no recorder runs")?;
                // All that is in the control group of its pod, by the path that its own has.
                let kill = format!(
                    "path=$(sed -n 's|^[0-9]*:pids:\\(.*\\)/[^/]*$|\\1|p' /proc/{recorder}/cgroup); \
                     cat $(find /sys/fs/cgroup/pids -path \"*$(basename $path)*\" -name cgroup.procs) | sort -u | xargs kill -KILL || true"
                );
                fault(&["node-exec", node, "sh", "-c", &kill])
            }
            Self::Partitioned => fault(&["node-partition", node]),
            Self::Blind => fault(&["link-cut", node, CAMERAS_ON]),
            Self::LinkCut => fault(&["link-cut", node, &third.node]),
            Self::DiskHangs => fault(&["disk-hang", node, struck.disk()]),
            Self::DiskFull => fault(&["disk-fill", node, struck.disk()]),
        }
    }

    fn end(self, cluster: &Cluster, struck: &Place) -> Result<()> {
        let node = struck.node.as_str();
        match self {
            Self::Killed | Self::SandboxKilled => Ok(()),
            Self::Partitioned => cluster.fault(&["node-heal", node]).map(drop),
            Self::Blind | Self::LinkCut => cluster.fault(&["link-heal"]).map(drop),
            Self::DiskHangs => cluster.fault(&["disk-unhang", node, struck.disk()]).map(drop),
            Self::DiskFull => cluster.fault(&["disk-unfill", node, struck.disk()]).map(drop),
        }
    }
}

/// Three recorders, and what they record.
struct Three<'s> {
    site: &'s Site,
    /// The one beside the cameras last.
    places: Vec<Place>,
    /// How long each takeover took, in seconds.
    took: Vec<f64>,
    /// The node that has no power.
    killed: Option<String>,
}

impl<'s> Three<'s> {
    fn new(site: &'s Site) -> Result<Self> {
        let mut places: Vec<Place> = (0..3).map(|ordinal| Place::of(site, ordinal)).collect::<Result<_>>()?;
        places.sort_by_key(|place| (place.node == CAMERAS_ON, place.ordinal));
        let nodes: BTreeSet<&str> = places.iter().map(|place| place.node.as_str()).collect();
        ensure!(nodes.len() == 3, "recorders are not spread over the nodes: {places:?}");
        Ok(Self { site, places, took: Vec::new(), killed: None })
    }

    /// Waits until these streams are recorded by others than the one at `struck`.
    fn taken_over(&mut self, struck: usize, streams: &BTreeSet<String>, began: Instant) -> Result<()> {
        let others = self.places.iter().enumerate().filter(|(at, _)| *at != struck).map(|(_, place)| place);
        let others: Vec<&Place> = others.collect();
        self.site.cluster.wait("others record what was struck", TAKEN_WITHIN, || {
            let mut recorded = BTreeSet::new();
            for other in &others {
                recorded.extend(other.records(self.site)?);
            }
            let left: Vec<&String> = streams.difference(&recorded).collect();
            ensure!(left.is_empty(), "nobody else records {left:?}");
            Ok(Some(()))
        })?;
        self.took.push(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Waits until each stream is recorded, and another recorder stands by.
    fn protected(&self, what: &str) -> Result<()> {
        let cameras: BTreeSet<&str> = self.site.cameras.iter().map(String::as_str).collect();
        let (_, took) = self.site.cluster.wait(&format!("{what}: all protected again"), PROTECTED_WITHIN, || {
            let mut said = Vec::new();
            for place in &self.places {
                said.extend(place.says(self.site)?);
            }
            let with = |state: &str| {
                let all = said.iter().filter(|says| says.state == state);
                all.map(|says| says.stream.as_str()).collect::<BTreeSet<&str>>()
            };
            let waiting: Vec<&Says> =
                said.iter().filter(|says| !matches!(says.state.as_str(), "Recording" | "Standby")).collect();
            ensure!(with("Recording") == cameras && with("Standby") == cameras, "{waiting:?}");
            Ok(Some(()))
        })?;
        judge::result(&format!("{what}: all protected again {:.1} s after it ended", took.as_secs_f64()));
        Ok(())
    }

    /// Waits until each stream is recorded by the recorder that it is planned for.
    fn handed_back(&self) -> Result<()> {
        self.site.cluster.wait("all is handed back", PROTECTED_WITHIN, || {
            for place in &self.places {
                for says in place.says(self.site)? {
                    let state = if says.role == "Primary" { "Recording" } else { "Standby" };
                    ensure!(says.state == state && says.reason != "TakenOver", "{place:?}: {says:?}");
                }
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Which of the two beside the cameras' node records more at the moment, and what.
    fn busiest(&self) -> Result<(usize, BTreeSet<String>)> {
        let (found, _) = self.site.cluster.wait("one of them records something", PROTECTED_WITHIN, || {
            let streams = [self.places[0].records(self.site)?, self.places[1].records(self.site)?];
            let at = usize::from(streams[1].len() > streams[0].len());
            Ok(streams.into_iter().nth(at).filter(|streams| !streams.is_empty()).map(|streams| (at, streams)))
        })?;
        Ok(found)
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        let (at, streams) = self.busiest()?;
        let (struck, third) = (self.places[at].clone(), self.places[1 - at].clone());
        let began = Instant::now();
        fault.begin(self.site, &struck, &third)?;
        let result = if fault.is_taken_over() { self.taken_over(at, &streams, began) } else { Ok(()) };
        if result.is_ok() {
            std::thread::sleep(LASTS.saturating_sub(began.elapsed()));
        }
        fault.end(self.site.cluster, &struck)?;
        result.with_context(|| format!("{fault:?}"))?;
        self.protected(&format!("{fault:?}"))
    }

    /// A disk fails, and then its node loses its power: with no API server there is no pod on it when it is back. Counted while it is away.
    fn lose_a_node(&mut self) -> Result<()> {
        let (at, streams) = self.busiest()?;
        let struck = self.places[at].clone();
        let (began, since) = (Instant::now(), judge::now_ns()?);
        self.site.cluster.fault(&["disk-fail", &struck.node, struck.disk()])?;
        let failed = self.taken_over(at, &streams, began).context("DiskFailed");
        let streams = struck.records(self.site).unwrap_or_default();
        let began = Instant::now();
        self.site.cluster.fault(&["node-kill", &struck.node])?;
        self.killed = Some(struck.node.clone());
        failed?;
        self.taken_over(at, &streams, began).context("NodeKilled")?;
        std::thread::sleep(LASTS);
        let stop = judge::now_ns()?;
        std::thread::sleep(DURABLE_AFTER);
        let left: Vec<&str> =
            self.places.iter().filter(|place| place.node != struck.node).map(|it| it.volume.as_str()).collect();
        judge::say("while the node is away, from the moment that its disk failed on:");
        self.site.count_on(&left, stop, &["--live", "--from", &rfc3339(since)?])
    }
}

fn operators(cluster: &Cluster, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    cluster.kubectl(&["scale", "deployment", RELEASE, "-n", RELEASE, &replicas])?;
    cluster.wait(&format!("{count} operators"), Duration::from_secs(60), || {
        let pods = cluster.list(&["pods", "-n", RELEASE, "-l", "app.kubernetes.io/component=operator"])?;
        ensure!(pods.len() == count, "{} pods", pods.len());
        Ok(Some(()))
    })?;
    Ok(())
}

#[test]
fn with_no_control_plane_whatever_fails_costs_no_frame() -> Result<()> {
    let cameras = count(6, 24);
    let site = Site::on_node("takeover", cameras, CAMERAS_ON)?;
    let cluster = site.cluster;
    let streams: String = site.cameras.iter().map(|name| site.stream(name, ", redundancy: Playing")).collect();
    let pool = site.pool(3, &format!("  maxChannels: {cameras}\n  toleratedFailures: 1\n"));
    cluster.apply(&format!("{pool}{streams}"))?;
    site.wait_recorded(RECORDED_WITHIN, cameras)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    for round in 0..count(1, 10) {
        let mut three = Three::new(&site)?;
        three.protected("before anything fails")?;
        operators(cluster, 0)?;
        cluster.fault(&["apiserver-stop"])?;
        let result = (|| -> Result<()> {
            for fault in Fault::ALL {
                three.strike(fault)?;
            }
            three.handed_back()?;
            three.lose_a_node()
        })();
        cluster.fault(&["apiserver-start"])?;
        if let Some(node) = three.killed.take() {
            cluster.fault(&["node-start", &node])?;
        }
        operators(cluster, 2)?;
        result?;
        site.wait_as_planned(Duration::from_secs(180))?;
        site.wait_recorded(Duration::from_secs(60), cameras)?;
        three.protected("with the control plane back")?;
        three.handed_back()?;
        three.took.sort_by(f64::total_cmp);
        let (took, middle) = (&three.took, three.took.len() / 2);
        judge::result(&format!(
            "round {round}: {} takeovers of {cameras} streams without a control plane, seen after {:.1} / {:.1} s (median, longest)",
            took.len(),
            took.get(middle).copied().unwrap_or_default(),
            took.last().copied().unwrap_or_default()
        ));
    }
    site.judge(&[])?;
    site.clean()
}
