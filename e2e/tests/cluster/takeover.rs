//! Takeovers: without any control plane, while operator, API server, controller manager and scheduler are gone; of class `Ready`; of two nodes at once; of
//! very many streams at once. All cameras are on one node, which is never hurt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::{count, soak};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, RELEASE, Site, condition, is_true, operators_ready, rfc3339};
use super::struck::{CAMERAS_ON, Fault, PROTECTED_WITHIN, Place, Recorders};

/// A fault that has a duration has this one.
const LASTS: Duration = Duration::from_secs(8);
/// What is not durable yet is not counted while recorders record.
const DURABLE_AFTER: Duration = Duration::from_secs(5);
/// It is told who records within this time: who leads may have been on the node that is gone, another one leads after 17 s, and waits for up to 5 s for the
/// recorder that is gone to answer. The rest is for writing and looking.
const TOLD_WITHIN: Duration = Duration::from_secs(25);
/// Streams of a pool whose recorders have them back soon.
const SOON: &str = "handbackAfter: 1s";
/// A takeover that much later than the last one is no flapping, and some more.
const CALM: Duration = Duration::from_secs(65);
/// The cameras' groups of pictures, milliseconds.
const GOP_MS: u64 = 2_000;
/// Until a recorder that was killed is missed, and the camera plays to another one.
const READY_KILLED_MS: u64 = 1_500;
/// The same of one that is silent.
const READY_SILENT_MS: u64 = 3_000;
/// What a loss of power takes besides: a part, the interval of syncs, and a sync.
const NOT_DURABLE_MS: u64 = 1_600;

/// Strikes one recorder: whatever others have to record they do, and then all is as before.
fn strike(recorders: &mut Recorders<'_>, fault: Fault, at: usize) -> Result<()> {
    let what = format!("{fault:?}");
    let streams = recorders.records(at)?;
    let (struck, other) = (recorders.at(at)?.clone(), recorders.at(1 - at)?.node.clone());
    let began = Instant::now();
    let struck_ns = fault.begin(recorders.site, &struck, &other)?;
    let when = (struck_ns, fault.is_taken_within());
    let result = if fault.is_taken_over() { recorders.taken_over(&what, &[at], &streams, when) } else { Ok(()) };
    if result.is_ok() && fault.lasts() {
        std::thread::sleep(LASTS.saturating_sub(began.elapsed()));
    }
    fault.end(recorders.site.cluster, &struck)?;
    result?;
    recorders.handed_back(&what)
}

/// The volumes that are not on these nodes.
fn left<'r>(recorders: &'r Recorders<'_>, nodes: &[&str]) -> Vec<&'r str> {
    let left = recorders.places.iter().filter(|place| !nodes.contains(&place.node.as_str()));
    left.map(|it| it.volume.as_str()).collect()
}

/// What the volumes hold that are not on these nodes, from `since` on up to now.
fn count_without(recorders: &Recorders<'_>, nodes: &[&str], since: i64) -> Result<()> {
    let stop = judge::now_ns()?;
    std::thread::sleep(DURABLE_AFTER);
    judge::say(&format!("while {nodes:?} are away:"));
    recorders.site.count_on(&left(recorders, nodes), stop, &["--live", "--from", &rfc3339(since)?])
}

/// The same of mirrored streams only, of which a recorder on that node was to have everything.
fn count_mirrored_without(recorders: &Recorders<'_>, node: &str, since: i64) -> Result<()> {
    ensure!(!recorders.mirrored.is_empty(), "no stream is mirrored");
    let stop = judge::now_ns()?;
    std::thread::sleep(DURABLE_AFTER);
    let more = ["--live", "--from", &rfc3339(since)?];
    recorders.site.count_only(&recorders.mirrored, &left(recorders, &[node]), stop, &more)
}

/// Makes one stream of each of the first two recorders a mirrored one.
fn mirror_some(recorders: &Recorders<'_>) -> Result<BTreeSet<String>> {
    let site = recorders.site;
    let mirrored = [0, 1].map(|at| recorders.records(at)?.pop_first().context("it records nothing"));
    let mirrored: BTreeSet<String> = mirrored.into_iter().collect::<Result<_>>()?;
    for stream in &mirrored {
        site.cluster.apply(&site.stream(stream, ", redundancy: Mirrored"))?;
    }
    Ok(mirrored)
}

/// A disk fails, and then its node loses its power: with no API server there is no pod on it when it is back. Counted while it is away: all streams from
/// then on, and those that are mirrored from before.
fn lose_a_node(recorders: &mut Recorders<'_>, at: usize) -> Result<String> {
    let streams = recorders.records(at)?;
    let struck = recorders.at(at)?.clone();
    let mirrored_since = judge::now_ns()?;
    std::thread::sleep(LASTS);
    // Up to then all is on the disk that fails, and counted when that is back.
    let since = Fault::DiskFails.begin(recorders.site, &struck, "")?;
    let failed = recorders.taken_over("DiskFails", &[at], &streams, (since, Fault::DiskFails.is_taken_within()));
    let streams = struck.records(recorders.site).unwrap_or_default();
    let struck_ns = Fault::NodeKilled.begin(recorders.site, &struck, "")?;
    let killed = recorders.taken_over("NodeKilled", &[at], &streams, (struck_ns, Fault::NodeKilled.is_taken_within()));
    if failed.is_ok() && killed.is_ok() {
        std::thread::sleep(LASTS);
        count_without(recorders, &[&struck.node], since)?;
        judge::say("of mirrored streams, also what was recorded on the node that is gone:");
        count_mirrored_without(recorders, &struck.node, mirrored_since)?;
    }
    failed.and(killed).map(|()| struck.node)
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

/// A pool of recorders that all have room for all, and streams of this class.
pub(super) fn record(site: &Site, recorders: usize, failures: usize, class: &str) -> Result<()> {
    record_with(site, recorders, failures, class, "")
}

/// The same; `more`: more of the pool's spec.
fn record_with(site: &Site, recorders: usize, failures: usize, class: &str, more: &str) -> Result<()> {
    let cameras = site.cameras.len();
    let streams: String = site.cameras.iter().map(|name| site.stream(name, "")).collect();
    // With full counts all that is recorded is kept, and counted at the end.
    let disk = if soak() { "3500Mi" } else { "200Mi" };
    let pool = site.sized_pool(
        recorders,
        "256Mi",
        disk,
        &format!(
            "  maxChannels: {cameras}\n  toleratedFailures: {failures}\n  redundancy: {{class: {class}, {SOON}}}\n{more}"
        ),
    );
    site.cluster.apply(&format!("{pool}{streams}"))?;
    site.wait_recorded(RECORDED_WITHIN, cameras)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    Ok(())
}

/// The addresses of all recorders, as the control plane knows them.
fn addresses(site: &Site) -> Result<Vec<String>> {
    let recorders = site.list("recorders")?;
    let address = |it: &Value| it.pointer("/status/addresses/peer").and_then(Value::as_str).map(str::to_owned);
    Ok(recorders.iter().filter_map(address).collect())
}

#[test]
fn with_no_control_plane_whatever_fails_costs_no_frame() -> Result<()> {
    let site = Site::on_node("takeover", count(6, 24), CAMERAS_ON, "")?;
    let cluster = site.cluster;
    record(&site, 3, 1, "Playing")?;
    let mut recorders = Recorders::find(&site, 3)?;
    let mut struck = recorders.records(0)?;
    struck.extend(recorders.records(1)?);
    recorders.mirrored = mirror_some(&recorders)?;
    // Of those nobody takes anything over: all of their recorders record.
    struck.retain(|stream| !recorders.mirrored.contains(stream));
    let (mut clips, mut told) = (Vec::new(), BTreeMap::new());
    let one = std::env::var("ROUND").ok().and_then(|round| round.parse::<usize>().ok());
    for round in one.map_or(0..count(1, 10), |round| round..round + 1) {
        recorders.handed_back("before anything fails")?;
        let since = judge::now_ns()?;
        let before = addresses(&site)?;
        operators(cluster, 0)?;
        cluster.fault(&["apiserver-stop"])?;
        let mut lost = None;
        let result = (|| -> Result<()> {
            for (number, fault) in Fault::WITHOUT_API_SERVER.into_iter().enumerate() {
                strike(&mut recorders, fault, (round + number) % 2)?;
            }
            // Both have another address after that, and nobody tells either of them: the third one is reached by both.
            for at in [0, 1] {
                strike(&mut recorders, Fault::SandboxKilled, at)?;
            }
            for place in &recorders.places {
                place.wait_hears(&site, 2)?;
            }
            lost = Some(lose_a_node(&mut recorders, round % 2)?);
            Ok(())
        })();
        cluster.fault(&["apiserver-start"])?;
        if result.is_err() {
            lost = recorders
                .places
                .iter()
                .map(|place| place.node.clone())
                .find(|node| cluster.fault(&["node-exec", node, "true"]).is_err());
        }
        if let Some(node) = lost {
            cluster.fault(&["node-start", &node])?;
        }
        operators(cluster, 2)?;
        result?;
        told_afterwards(&site, &struck, &mut told)?;
        site.wait_as_planned(PROTECTED_WITHIN)?;
        site.wait_recorded(Duration::from_secs(60), site.cameras.len())?;
        recorders.handed_back("with the control plane back")?;
        ensure!(before != addresses(&site)?, "no sandbox was made anew: {before:?}");
        clips = recorders.take_clips(since)?;
        judge::result(&format!("round {round} is over"));
    }
    recorders.tell("no control plane");
    recorders.judge()?;
    recorders.judge_clips(&clips)?;
    site.clean()
}

/// The reasons of the events of a stream that tell who records it, in order.
fn story(site: &Site, stream: &str) -> Result<Vec<(String, String)>> {
    let selector = format!("involvedObject.kind=CameraStream,involvedObject.name={stream}");
    let mut events = site.cluster.list(&["events", "-n", &site.namespace, "--field-selector", &selector])?;
    let text = |event: &Value, path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    // One that was said again counts from when it was said last.
    let said_last = |event: &Value| ["/series/lastObservedTime", "/eventTime"].map(|path| text(event, path));
    events.sort_by_key(|event| said_last(event).into_iter().find(|time| !time.is_empty()));
    let told = events.iter().map(|event| (text(event, "/reason"), text(event, "/message")));
    Ok(told.filter(|(reason, _)| matches!(reason.as_str(), "TakenOver" | "HandedBack")).collect())
}

/// What happened while nobody could be told is told when the control plane is back, of each of these streams. `told`: the epoch of each one's last event.
fn told_afterwards(site: &Site, streams: &BTreeSet<String>, told: &mut BTreeMap<String, u64>) -> Result<()> {
    for stream in streams {
        let (now, _) = site.cluster.wait("what happened is told", Duration::from_secs(120), || {
            let story = story(site, stream)?;
            let epochs: Vec<u64> = story.iter().filter_map(|(_, message)| epoch(message)).collect();
            ensure!(epochs.len() == story.len() && epochs.is_sorted(), "{stream}: {story:?}");
            let is_over = story.last().is_some_and(|(reason, _)| reason == "HandedBack");
            let news = epochs.last().filter(|now| told.get(stream).is_none_or(|before| *now > before));
            ensure!(is_over && news.is_some(), "{stream}, of which was told {:?}: {story:?}", told.get(stream));
            Ok(news.copied())
        })?;
        told.insert(stream.clone(), now);
    }
    Ok(())
}

/// Of each stream that was taken over: told so while it is, and afterwards in events, with epochs that grow.
fn is_told(site: &Site, streams: &BTreeSet<String>) -> Result<()> {
    for stream in streams {
        site.cluster.wait("it is told who records", TOLD_WITHIN, || {
            let object = site.cluster.get(&["camerastream", stream, "-n", &site.namespace])?;
            let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (active, primary) = (text("/status/assignment/active"), text("/status/assignment/primary"));
            let reason = condition(&object, "Protected").and_then(|it| it.get("reason")).and_then(Value::as_str);
            ensure!(active != primary && !active.is_empty(), "{active} records in the place of {primary}");
            ensure!(is_true(&object, "Recording") && reason == Some("TakenOver"), "{object}");
            Ok(Some(()))
        })?;
    }
    judge::say(&site.kubectl(&["get", "cam", "-o", "wide"])?);
    Ok(())
}

/// The first epoch that an event names.
fn epoch(message: &str) -> Option<u64> {
    message.split_once("epoch ")?.1.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[test]
fn of_class_ready_a_failure_costs_detection_and_a_group_of_pictures_and_is_told() -> Result<()> {
    let site = Site::on_node("ready", count(6, 24), CAMERAS_ON, "")?;
    record(&site, 3, 1, "Ready")?;
    let mut moments = Vec::new();
    let mut recorders = Recorders::find(&site, 3)?;
    let mut told = BTreeSet::new();
    for round in 0..count(1, 10) {
        if round > 0 {
            // What fails again within this time is held for longer each time, to the limit of ten minutes. Each round is a first failure of its streams.
            recorders.handed_back("before the next round")?;
            std::thread::sleep(CALM);
        }
        for fault in [Fault::Killed, Fault::NodeKilled] {
            let at = (round + usize::from(fault == Fault::NodeKilled)) % 2;
            recorders.handed_back(&format!("before {fault:?}"))?;
            operators_ready(site.cluster)?;
            let streams = recorders.records(at)?;
            let struck = recorders.at(at)?.clone();
            let struck_ns = fault.begin(&site, &struck, "")?;
            moments.push((struck_ns, fault, streams.clone()));
            let (what, when) = (format!("{fault:?}"), (struck_ns, fault.is_taken_within()));
            // One that is killed for the first time is started again at once: it may be the first to record.
            let taken = match fault {
                Fault::Killed => recorders.recorded_again(&what, at, &streams, when),
                _ => recorders.taken_over(&what, &[at], &streams, when),
            };
            let seen = if fault == Fault::NodeKilled && taken.is_ok() { is_told(&site, &streams) } else { Ok(()) };
            fault.end(site.cluster, &struck)?;
            taken.and(seen)?;
            if fault == Fault::NodeKilled {
                told.extend(streams);
            }
        }
    }
    recorders.handed_back("all is over")?;
    site.wait_as_planned(Duration::from_secs(60))?;
    for stream in &told {
        site.cluster.wait("the story is told", Duration::from_secs(10), || {
            let story = story(&site, stream)?;
            let last = story.iter().map(|(reason, _)| reason.as_str()).rev().take(2).collect::<Vec<_>>();
            ensure!(last == ["HandedBack", "TakenOver"], "{stream}: {story:?}");
            let epochs: Vec<u64> = story.iter().filter_map(|(_, message)| epoch(message)).collect();
            ensure!(epochs.len() == story.len() && epochs.is_sorted(), "{stream}: {story:?}");
            Ok(Some(()))
        })?;
    }
    recorders.tell("class Ready");

    let stop = judge::now_ns()?;
    site.take_pool_away()?;
    let json = site.ledgers.join("report.json");
    let (lost, back) = (NOT_DURABLE_MS.to_string(), (READY_SILENT_MS + GOP_MS).to_string());
    let json_path = json.display().to_string();
    let mut more = vec!["--max-missing-ms", &lost, "--max-back-ms", &back, "--json", &json_path];
    let kills: Vec<String> = moments.iter().map(|(moment, ..)| moment.to_string()).collect();
    for kill in &kills {
        more.extend(["--kill", kill]);
    }
    site.count(stop, &more)?;
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let (mut killed, mut silent) = (Vec::new(), Vec::new());
    for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
        let name = stream.get("stream").and_then(Value::as_str).context("a stream without a name")?;
        let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
        let costs = stream.get("kills").and_then(Value::as_array).context("no kills in the report")?;
        ensure!(costs.len() == moments.len(), "{} costs of {} failures", costs.len(), moments.len());
        for (cost, (_, fault, streams)) in costs.iter().zip(&moments) {
            let number = |key: &str| cost.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            let (lost_ms, back_ms) = (number("lost_before_ms"), number("back_after_ms"));
            if !streams.contains(name) {
                ensure!(
                    lost_ms + back_ms == 0.0,
                    "{name} lacks {lost_ms} + {back_ms} ms, and its recorder did not fail"
                );
                continue;
            }
            let is_killed = *fault == Fault::Killed;
            let at_most = GOP_MS + if is_killed { READY_KILLED_MS } else { READY_SILENT_MS };
            ensure!(back_ms <= at_most as f64, "{name} was back {back_ms} ms after {fault:?}");
            if is_killed { &mut killed } else { &mut silent }.push(lost_ms + back_ms);
        }
    }
    let spread = |mut gaps: Vec<f64>| {
        gaps.sort_by(f64::total_cmp);
        let (middle, longest) = (gaps.get(gaps.len() / 2).copied(), gaps.last().copied());
        let (middle, longest) = (middle.unwrap_or_default(), longest.unwrap_or_default());
        format!("{} gaps of {middle:.0} / {longest:.0} ms (median, longest)", gaps.len())
    };
    ensure!(!killed.is_empty() && !silent.is_empty(), "nothing was recorded by whoever failed");
    judge::result(&format!("class Ready, killed: {}; node lost: {}", spread(killed), spread(silent)));
    site.clean()
}

/// Nodes that are started for the tests that need five.
const MORE: [&str; 2] = ["4", "5"];

/// Cameras in a cluster of five nodes.
fn with_five_nodes(namespace: &str, cameras: usize) -> Result<Site> {
    let site = Site::on_node(namespace, cameras, CAMERAS_ON, "")?;
    for node in MORE {
        site.cluster.fault(&["node-start", node])?;
    }
    for node in MORE {
        let node = format!("node/node{node}");
        site.cluster.kubectl(&["wait", &node, "--for=condition=Ready", "--timeout=60s"])?;
        // Ready, it is tainted for a moment longer: what is to be spread over all nodes would be spread over the others.
        site.cluster.wait(&format!("{node} has no taints"), Duration::from_secs(60), || {
            let taints = site.cluster.get(&[node.as_str()])?.pointer("/spec/taints").cloned().unwrap_or_default();
            ensure!(taints.as_array().is_none_or(Vec::is_empty), "{taints}");
            Ok(Some(()))
        })?;
    }
    Ok(site)
}

/// Nobody else counts on them.
fn with_three_nodes_again(cluster: &Cluster) -> Result<()> {
    for node in MORE {
        cluster.fault(&["node-kill", node])?;
        cluster.kubectl(&["delete", "node", &format!("node{node}")])?;
        cluster.kubectl(&["delete", "pv", "-l", &format!("node=node{node}")])?;
    }
    Ok(())
}

/// The nodes of two recorders lose their power in the same second. Counted while they are away; then they are switched on.
fn lose_both(recorders: &mut Recorders<'_>, what: &str, struck: [usize; 2]) -> Result<()> {
    let cluster = recorders.site.cluster;
    let mut streams = recorders.at(struck[0])?.wait_records(recorders.site)?;
    streams.extend(recorders.at(struck[1])?.wait_records(recorders.site)?);
    ensure!(!streams.is_empty(), "neither of {struck:?} records anything");
    let nodes = [recorders.at(struck[0])?.node.clone(), recorders.at(struck[1])?.node.clone()];
    let killed = std::thread::scope(|threads| {
        let kill = |node: &str| -> Result<i64> {
            let said = cluster.fault(&["node-kill", node])?;
            Ok(said.lines().next().context("it does not say when")?.trim().parse()?)
        };
        let both = nodes.each_ref().map(|node| threads.spawn(move || kill(node)));
        both.map(|one| one.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked"))))
    });
    let result = killed.into_iter().collect::<Result<Vec<i64>>>().and_then(|moments| {
        let first = moments.iter().min().copied().context("no node")?;
        recorders.taken_over(what, &struck, &streams, (first, Fault::NodeKilled.is_taken_within()))?;
        std::thread::sleep(LASTS);
        // What the second one recorded until it was struck is there when it is back.
        let since = moments.iter().max().copied().context("no node")?;
        count_without(recorders, &nodes.each_ref().map(String::as_str), since)
    });
    for node in &nodes {
        cluster.fault(&["node-start", node])?;
    }
    result
}

#[test]
fn two_of_five_nodes_lost_in_the_same_second_cost_no_frame() -> Result<()> {
    let site = with_five_nodes("five", count(6, 30))?;
    record(&site, 5, 2, "Playing")?;
    let mut recorders = Recorders::find(&site, 5)?;
    for round in 0..count(1, 5) {
        recorders.handed_back("before")?;
        lose_both(&mut recorders, "TwoNodesKilled", [round % 4, (round + 1) % 4])?;
        recorders.protected(&format!("round {round}"), 2)?;
    }
    recorders.handed_back("all is over")?;
    site.wait_as_planned(Duration::from_secs(60))?;
    recorders.tell("two of five nodes");
    recorders.judge()?;
    let cluster = site.cluster;
    site.clean()?;
    with_three_nodes_again(cluster)
}

/// What a zone is by.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cameras' node is one by itself.
const ZONES: [(&str, &str); 5] = [("1", "a"), ("2", "a"), ("3", "b"), ("4", "c"), ("5", "c")];

fn zone_of(place: &Place) -> Option<&'static str> {
    ZONES.iter().find(|(node, _)| *node == place.node).map(|(_, zone)| *zone)
}

#[test]
fn a_zone_that_is_lost_costs_no_frame() -> Result<()> {
    let site = with_five_nodes("zones", count(6, 24))?;
    let cluster = site.cluster;
    for (node, zone) in ZONES {
        cluster.kubectl(&["label", "node", &format!("node{node}"), &format!("{ZONE}={zone}"), "--overwrite"])?;
    }
    record_with(&site, 5, 1, "Playing", "  failureDomain: Zone\n")?;
    let mut recorders = Recorders::find(&site, 5)?;
    recorders.handed_back("before")?;
    // A stream and its standby are never in one zone.
    let mut pairs = BTreeSet::new();
    for stream in site.list("camerastreams")? {
        let text = |path: &str| stream.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let standbys = stream.pointer("/status/assignment/standbys").and_then(Value::as_array).cloned();
        let names = [vec![Value::from(text("/status/assignment/primary"))], standbys.unwrap_or_default()].concat();
        let zones: Vec<Option<&str>> = names
            .iter()
            .filter_map(|name| recorders.places.iter().find(|place| name.as_str() == Some(&place.name())))
            .map(zone_of)
            .collect();
        let different: BTreeSet<&Option<&str>> = zones.iter().collect();
        ensure!(zones.len() == 2 && different.len() == 2, "{names:?} are in the zones {zones:?}");
        pairs.insert(zones);
    }
    judge::result(&format!("zones of streams and standbys: {pairs:?}"));
    for round in 0..count(1, 4) {
        recorders.handed_back("before")?;
        // Both nodes of zone a, or of zone c.
        lose_both(&mut recorders, "ZoneLost", if round % 2 == 0 { [0, 1] } else { [2, 3] })?;
        recorders.protected(&format!("round {round}"), 1)?;
    }
    recorders.handed_back("all is over")?;
    site.wait_as_planned(Duration::from_secs(60))?;
    recorders.tell("a zone of two nodes");
    recorders.judge()?;
    site.clean()?;
    for (node, _) in ZONES {
        cluster.kubectl(&["label", "node", &format!("node{node}"), &format!("{ZONE}-")])?;
    }
    with_three_nodes_again(cluster)
}

#[test]
fn all_streams_of_a_node_with_very_many_are_taken_over_at_once() -> Result<()> {
    let cameras = count(40, 200);
    let site = Site::on_node("many", cameras, CAMERAS_ON, ",width=160,height=160,fps=10,gop=10,bitrate=100k")?;
    let cluster = site.cluster;
    let pool = |recorders: usize, failures: usize| {
        let room = format!("  maxChannels: {}\n  toleratedFailures: {failures}\n", 2 * cameras);
        // A budget counts for three segments a channel, and two more: with less, others would be given some of the streams.
        let disk = if soak() { "4900Mi" } else { "3500Mi" };
        site.sized_pool(recorders, "768Mi", disk, &format!("{room}  redundancy: {{class: Playing, {SOON}}}\n"))
    };
    let streams: String = site.cameras.iter().map(|name| site.stream(name, "")).collect();
    // All of them on one recorder, not beside the cameras, which keeps them when there are others.
    let beside = format!("node{CAMERAS_ON}");
    cluster.kubectl(&["cordon", &beside])?;
    let first =
        cluster.apply(&format!("{}{streams}", pool(1, 0))).and_then(|_| site.wait_recorded(RECORDED_WITHIN, cameras));
    cluster.kubectl(&["uncordon", &beside])?;
    first?;
    cluster.apply(&pool(3, 1))?;
    cluster.wait("all are protected", Duration::from_secs(120), || {
        let streams = site.list("camerastreams")?;
        let good = streams.iter().filter(|stream| is_true(stream, "Protected")).count();
        ensure!(good == cameras, "{good} of {cameras}");
        Ok(Some(()))
    })?;
    let mut recorders = Recorders::find(&site, 3)?;
    // Whoever was taken for failed while hundreds began has them back when holds are over.
    let (at, _) = cluster.wait("one records all", PROTECTED_WITHIN, || {
        let recorded = [0, 1, 2].map(|at| Ok(recorders.at(at)?.records(&site)?.len()));
        let recorded: Vec<usize> = recorded.into_iter().collect::<Result<_>>()?;
        ensure!(recorded.contains(&cameras), "of {cameras} streams they record {recorded:?}");
        Ok(recorded.iter().position(|recorded| *recorded == cameras))
    })?;
    let streams = recorders.records(at)?;
    let struck = recorders.at(at)?.clone();
    ensure!(struck.node != CAMERAS_ON, "it runs beside the cameras");
    let began = Instant::now();
    let when = (Fault::NodeKilled.begin(&site, &struck, "")?, Fault::NodeKilled.is_taken_within());
    let result = recorders.taken_over(&format!("{cameras} streams of one node"), &[at], &streams, when);
    let result = result.and_then(|()| {
        std::thread::sleep(LASTS.saturating_sub(began.elapsed()));
        count_without(&recorders, &[&struck.node], when.0)
    });
    Fault::NodeKilled.end(cluster, &struck)?;
    result?;
    recorders.tell("very many at once");
    recorders.handed_back("all is over")?;
    recorders.judge()?;
    site.clean()
}
