//! Nodes that are lost for a while, cut off, and lost for good.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition, is_true};

/// After a node is there again its recorder is, too. What the node itself takes is in it, and the kubelet's own time; it is no deadline of ours.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A recorder whose node was deleted is another one's, on another volume, within this time.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

fn start(name: &str) -> Result<Site> {
    let site = Site::new(name, 3)?;
    // A takeover while all are only starting would double the hold of half a minute.
    let spec = "  maxChannels: 6\n  toleratedFailures: 1\n  redundancy: {handbackAfter: 3s}\n";
    site.cluster.apply(&format!("{}{spec}{}", site.pool(3, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 3)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    Ok(site)
}

/// Cameras run on nodes, too: what one sent that was on a lost node, it sent to nobody. Those on other nodes count.
fn cameras_beside(site: &Site, node: &str) -> Result<BTreeSet<String>> {
    let mut cameras = BTreeSet::new();
    for pod in site.cluster.list(&["pods", "-n", &site.namespace, "-l", "camera"])? {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("/spec/nodeName") != format!("node{node}") {
            cameras.insert(text("/metadata/name"));
        }
    }
    ensure!(!cameras.is_empty(), "all cameras are on node {node}");
    Ok(cameras)
}

fn uid(object: &Value) -> String {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn volume_uuid(site: &Site, ordinal: usize) -> Result<String> {
    let recorder = site.cluster.get(&["recorder", &format!("main-recorder-{ordinal}"), "-n", &site.namespace])?;
    let uuid = recorder.pointer("/spec/volumes/0/uuid").and_then(Value::as_str);
    Ok(uuid.context("a recorder without a volume")?.to_owned())
}

#[test]
fn a_node_that_is_killed_costs_no_frame_and_its_recorder_comes_back_to_its_footage() -> Result<()> {
    let site = start("killed")?;
    let cluster = site.cluster;
    let node = site.node(0)?;
    let survivors = cameras_beside(&site, &node)?;
    let volume = volume_uuid(&site, 0)?;
    let struck = Instant::now();
    cluster.fault(&["node-kill", &node])?;
    let told = cluster.wait("conditions tell the truth", Duration::from_secs(90), || {
        let pool = cluster.get(&["storagepool", "main", "-n", &site.namespace])?;
        let degraded = condition(&pool, "Degraded").and_then(|it| it.get("message")).and_then(Value::as_str);
        let recorder = cluster.get(&["recorder", "main-recorder-0", "-n", &site.namespace])?;
        let is_unknown = recorder.pointer("/status/phase").and_then(Value::as_str) == Some("Unknown");
        Ok(degraded.filter(|message| is_unknown && message.contains("main-recorder-0")).map(str::to_owned))
    });
    let (message, _) = match told {
        Ok(told) => told,
        Err(error) => {
            cluster.fault(&["node-start", &node])?;
            return Err(error);
        }
    };
    judge::result(&format!("node killed: the pool said after {:.0} s: {message}", struck.elapsed().as_secs_f64()));
    let recorder = cluster.get(&["recorder", "main-recorder-0", "-n", &site.namespace]);
    cluster.fault(&["node-start", &node])?;
    let recorder = recorder?;
    let phase = recorder.pointer("/status/phase").and_then(Value::as_str);
    ensure!(
        phase == Some("Unknown") && !is_true(&recorder, "Ready"),
        "a recorder that nobody hears is called {phase:?}"
    );
    let began = Instant::now();
    site.wait_as_planned(BACK_WITHIN)?;
    judge::result(&format!("node back: all as planned after {:.1} s", began.elapsed().as_secs_f64()));
    ensure!(volume == volume_uuid(&site, 0)?, "the recorder has another volume");
    let described = site.kubectl(&["describe", "storagepool", "main"])?;
    ensure!(described.contains("main-recorder-0 does not run"), "kubectl describe tells what happened: {described}");
    site.judge_only(&survivors, &[])?;
    site.clean()
}

#[test]
fn a_node_that_the_control_plane_can_not_reach_goes_on_recording_and_keeps_its_pod() -> Result<()> {
    let site = start("cutoff")?;
    let cluster = site.cluster;
    let node = site.node(0)?;
    let before = uid(&site.pod(0)?);
    cluster.fault(&["api-cut", &node])?;
    // Past the time after which Kubernetes taints a node and evicts what does not tolerate that.
    std::thread::sleep(Duration::from_secs(45));
    cluster.fault(&["link-heal"])?;
    site.wait_as_planned(BACK_WITHIN)?;
    ensure!(before == uid(&site.pod(0)?), "the recording pod was replaced");
    for stream in site.list("camerastreams")? {
        ensure!(is_true(&stream, "Recording"), "{stream}");
    }
    site.judge(&[])?;
    site.clean()
}

#[test]
fn a_recorder_whose_node_is_deleted_begins_anew_elsewhere() -> Result<()> {
    let site = start("deleted")?;
    let cluster = site.cluster;
    let node = site.node(0)?;
    let survivors = cameras_beside(&site, &node)?;
    let volume = volume_uuid(&site, 0)?;
    cluster.fault(&["node-kill", &node])?;
    let struck = Instant::now();
    let result = (|| -> Result<String> {
        cluster.kubectl(&["delete", "node", &format!("node{node}")])?;
        cluster.wait("the recorder is on another node, on another volume", REPLACED_WITHIN, || {
            let recorder = cluster.get(&["recorder", "main-recorder-0", "-n", &site.namespace])?;
            let ready = is_true(&recorder, "Ready") && volume_uuid(&site, 0)? != volume && site.node(0)? != node;
            let generation = |path: &str| recorder.pointer(path).and_then(Value::as_i64);
            let knows = generation("/status/observedGeneration") == generation("/metadata/generation");
            Ok((ready && knows).then_some(()))
        })?;
        judge::result(&format!("node deleted: its recorder began anew after {:.1} s", struck.elapsed().as_secs_f64()));
        let events = site.kubectl(&["get", "events", "--field-selector", "reason=RecorderLost"])?;
        ensure!(events.contains("main-recorder-0"), "{events}");
        let claim = cluster.get(&["pvc", "footage-main-recorder-0", "-n", &site.namespace])?;
        let phase = claim.pointer("/status/phase").and_then(Value::as_str);
        ensure!(phase == Some("Bound"), "the old claim, and with it the old disk, is left alone: {claim}");
        let volume = claim.pointer("/spec/volumeName").and_then(Value::as_str);
        Ok(volume.context("a bound claim without a volume")?.to_owned())
    })();
    cluster.fault(&["node-start", &node])?;
    let left = result?;
    cluster.wait("the streams of the cameras that are left are protected", BACK_WITHIN, || {
        let streams = site.list("camerastreams")?;
        let good = streams.iter().filter(|stream| is_true(stream, "Protected") && is_true(stream, "Recording"));
        let names: BTreeSet<String> = good
            .filter_map(|stream| stream.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned))
            .collect();
        ensure!(survivors.is_subset(&names), "{names:?}");
        Ok(Some(()))
    })?;
    // A camera may have outlived its node, and write. Nobody opens the disk that was left: it is as the loss of power left it.
    site.judge_only(&survivors, &[&left])?;
    site.clean()
}
