//! Leaders that are lost, and a control plane that is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::{count, get};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, RELEASE, Site};

/// One leader again within a lease and two seconds.
const LED_WITHIN: Duration = Duration::from_secs(15 + 2);
/// A recorder whose process was killed records again within this time.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Who leads, and in which term.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    holder: String,
    term: u64,
    pod: String,
    node: String,
}

fn leader(cluster: &Cluster) -> Result<Option<Leader>> {
    let lease = cluster.get(&["lease", RELEASE, "-n", RELEASE])?;
    let text = |path: &str| lease.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let holder = text("/spec/holderIdentity");
    let term = text("/metadata/annotations/framekeeper.dev~1term").parse().unwrap_or(0);
    let pods = cluster.list(&["pods", "-n", RELEASE])?;
    let own = pods.iter().find(|pod| {
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("?");
        holder.starts_with(uid)
    });
    let Some(pod) = own else { return Ok(None) };
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let node = text("/spec/nodeName").trim_start_matches("node").to_owned();
    Ok(Some(Leader { holder, term, pod: text("/metadata/name"), node }))
}

/// The processes with this in their command line on a node, as that node numbers them, the oldest first.
fn processes(cluster: &Cluster, node: &str, command: &str) -> Result<Vec<String>> {
    let said = cluster.fault(&["node-exec", node, "pgrep", "-f", "--", command]).unwrap_or_default();
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

fn generations(site: &Site) -> Result<Vec<(String, i64)>> {
    let of = |object: &Value| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        (name, object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0))
    };
    let (recorders, sets) = (site.list("recorders")?, site.list("statefulsets")?);
    Ok(recorders.iter().chain(&sets).map(of).collect())
}

#[test]
fn a_leader_that_is_killed_or_stands_still_has_a_successor_and_nobody_notices() -> Result<()> {
    let site = Site::new("leaders", 2)?;
    let cluster = site.cluster;
    site.cluster.apply(&format!("{}  maxChannels: 4\n{}", site.pool(2, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 2)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let before = generations(&site)?;
    let mut last = leader(cluster)?.context("nobody leads")?;
    for round in 0..count(1, 10) {
        for signal in ["-KILL", "-STOP"] {
            let pids = processes(cluster, &last.node, "^framekeeper-operator run")?;
            ensure!(!pids.is_empty(), "no operator runs on node {}", last.node);
            let struck = Instant::now();
            for pid in &pids {
                cluster.fault(&["node-exec", &last.node, "kill", signal, pid])?;
            }
            let (next, _) = cluster.wait("another operator leads", LED_WITHIN, || {
                Ok(leader(cluster)?.filter(|next| next.holder != last.holder && next.term > last.term))
            })?;
            judge::result(&format!(
                "round {round}: leader {signal}: another one led after {:.1} s",
                struck.elapsed().as_secs_f64()
            ));
            if signal == "-STOP" {
                for pid in &pids {
                    cluster.fault(&["node-exec", &last.node, "kill", "-CONT", pid])?;
                }
                // What it was about to do it does not do any more.
                std::thread::sleep(Duration::from_secs(3));
                let still = leader(cluster)?.context("nobody leads")?;
                ensure!(still == next, "the one that stood still leads again: {still:?} after {next:?}");
            }
            last = next;
        }
    }
    // A Lease that is deleted turns no term back.
    cluster.kubectl(&["delete", "lease", RELEASE, "-n", RELEASE])?;
    let (next, _) = cluster.wait("one leads again", LED_WITHIN + Duration::from_secs(15), || {
        Ok(leader(cluster)?.filter(|next| next.term >= last.term))
    })?;
    judge::result(&format!("Lease deleted: term {} after {}", next.term, last.term));
    site.wait_as_planned(Duration::from_secs(30))?;
    ensure!(before == generations(&site)?, "what is as it should be was changed: {before:?} {:?}", generations(&site)?);
    site.judge(&[])?;
    site.clean()
}

/// What a recorder says of its channels, to whoever asks it.
fn recording(address: &str) -> Result<usize> {
    let answer = get(format!("{address}:8080").parse()?, "/v1/channels")?.json()?;
    let channels = answer.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
    let state = |channel: &&Value| channel.get("state").and_then(Value::as_str) == Some("Recording");
    Ok(channels.iter().filter(state).count())
}

#[test]
fn with_the_control_plane_gone_recording_goes_on_and_recorders_come_back() -> Result<()> {
    let site = Site::new("outage", 3)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 6\n  toleratedFailures: 1\n{}", site.pool(3, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 3)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let before = generations(&site)?;
    let pod = site.pod(0)?;
    let address = pod.pointer("/status/podIP").and_then(Value::as_str).context("no address")?.to_owned();
    let node = site.node(0)?;
    let began = Instant::now();
    cluster.fault(&["apiserver-stop"])?;
    let result = (|| -> Result<()> {
        for kill in 1..=5 {
            // The supervisor is the first of the two, its worker the second.
            let pids = processes(cluster, &node, "--cluster outage/main-recorder-0")?;
            ensure!(pids.len() == 2, "a supervisor and its worker, not {pids:?}");
            let worker = pids.last().context("no recorder runs")?;
            cluster.fault(&["node-exec", &node, "kill", "-KILL", worker])?;
            let (_, took) = cluster
                .wait("the recorder records again", BACK_WITHIN, || Ok((recording(&address)? > 0).then_some(())))?;
            judge::result(&format!(
                "kill {kill} with no API server: recording again after {:.1} s",
                took.as_secs_f64()
            ));
            std::thread::sleep(Duration::from_secs(2));
        }
        let outage = Duration::from_secs(count(40, 180) as u64);
        std::thread::sleep(outage.saturating_sub(began.elapsed()));
        Ok(())
    })();
    cluster.fault(&["apiserver-start"])?;
    result?;
    site.wait_as_planned(Duration::from_secs(120))?;
    site.wait_recorded(Duration::from_secs(60), 3)?;
    // Leader's Leases ran out meanwhile; there is one again, which has nothing to do.
    cluster.wait("an operator leads", Duration::from_secs(60), || leader(cluster))?;
    std::thread::sleep(Duration::from_secs(10));
    ensure!(before == generations(&site)?, "changed without need: {before:?} {:?}", generations(&site)?);
    site.judge(&[])?;
    site.clean()
}
