//! Pools that change: taken away and made again, with fewer recorders and more, with more volumes, with more asked of them than they can promise.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition, is_true, rfc3339};

/// A condition says what is wrong within this time.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Pods come and go one by one within this time.
const CHANGED_WITHIN: Duration = Duration::from_secs(120);

/// The identities of all volumes, by recorder and name.
fn volumes(site: &Site) -> Result<BTreeMap<(String, String), String>> {
    let mut found = BTreeMap::new();
    for recorder in site.list("recorders")? {
        let name = recorder.pointer("/metadata/name").and_then(Value::as_str).context("a name")?;
        for volume in recorder.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| volume.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            found.insert((name.to_owned(), text("name")), text("uuid"));
        }
    }
    Ok(found)
}

/// What a condition of the pool says.
fn pool_says(site: &Site, kind: &str, status: &str, words: &[&str]) -> Result<()> {
    let what = format!("the pool's {kind} is {status}");
    let (said, took) = site.cluster.wait(&what, TOLD_WITHIN, || {
        let pool = site.cluster.get(&["storagepool", "main", "-n", &site.namespace])?;
        let found = condition(&pool, kind).cloned().unwrap_or_default();
        let text = found.to_string();
        let is = found.get("status").and_then(Value::as_str) == Some(status);
        ensure!(is && words.iter().all(|word| text.contains(word)), "{text}");
        Ok(found.get("message").and_then(Value::as_str).map(str::to_owned))
    })?;
    judge::result(&format!("told after {:.1} s: {kind} {status} {said}", took.as_secs_f64()));
    Ok(())
}

fn wait_count(site: &Site, kind: &str, count: usize) -> Result<()> {
    site.cluster.wait(&format!("{count} {kind}"), CHANGED_WITHIN, || {
        let found = site.list(kind)?.len();
        ensure!(found == count, "there are {found}");
        Ok(Some(()))
    })?;
    Ok(())
}

#[test]
fn a_pool_that_is_made_again_finds_its_footage_and_its_streams_are_told_meanwhile() -> Result<()> {
    let site = Site::new("again", 2)?;
    let cluster = site.cluster;
    let make = || -> Result<()> {
        cluster.apply(&format!("{}  maxChannels: 4\n  toleratedFailures: 1\n{}", site.pool(2, ""), site.streams()))?;
        site.wait_recorded(RECORDED_WITHIN, 2)?;
        site.wait_as_planned(Duration::from_secs(60))?;
        Ok(())
    };
    make()?;
    let before = volumes(&site)?;
    let stop = judge::now_ns()?;
    site.take_pool_away()?;
    cluster.wait("the streams are told", TOLD_WITHIN, || {
        let streams = site.list("camerastreams")?;
        let told = |stream: &&Value| {
            condition(stream, "Ready").is_some_and(|ready| {
                let text = ready.to_string();
                text.contains("PoolNotFound") && text.contains("main") && text.contains("False")
            })
        };
        ensure!(streams.iter().all(|stream| told(&stream)), "{streams:?}");
        Ok(Some(()))
    })?;
    for claim in site.list("persistentvolumeclaims")? {
        let phase = claim.pointer("/status/phase").and_then(Value::as_str);
        let is_leaving = claim.pointer("/metadata/deletionTimestamp").is_some();
        ensure!(phase == Some("Bound") && !is_leaving, "footage outlives its pool: {claim}");
    }
    site.count(stop, &[])?;
    make()?;
    let again = judge::now_ns()?;
    ensure!(before == volumes(&site)?, "other volumes than before: {before:?} {:?}", volumes(&site)?);
    std::thread::sleep(Duration::from_secs(3));
    site.judge(&["--from", &rfc3339(again)?])?;
    site.clean()
}

#[test]
fn fewer_recorders_more_recorders_and_more_volumes_cost_no_frame() -> Result<()> {
    let site = Site::new("sizes", 3)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 6\n  toleratedFailures: 1\n{}", site.pool(2, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 3)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let before = volumes(&site)?;
    let patch = |patch: &str| site.kubectl(&["patch", "storagepool", "main", "--type=merge", "-p", patch]);
    // More failures than there are recorders to lose: nothing is promised, everything is recorded.
    patch(r#"{"spec":{"toleratedFailures":2}}"#)?;
    pool_says(&site, "Protected", "False", &["NoReserve", "3 failure domains"])?;
    patch(r#"{"spec":{"toleratedFailures":1}}"#)?;
    site.wait_as_planned(Duration::from_secs(30))?;
    // A camera that allows fewer sessions than a standby needs.
    let sessions = |most: &str| {
        let patch = format!(r#"{{"spec":{{"source":{{"maxSessions":{most}}}}}}}"#);
        site.kubectl(&["patch", "camerastream", "cam-3", "--type=merge", "-p", &patch])
    };
    sessions("1")?;
    cluster.wait("the stream is told that its camera allows too few sessions", TOLD_WITHIN, || {
        let stream = cluster.get(&["camerastream", "cam-3", "-n", &site.namespace])?;
        let said = condition(&stream, "Protected").cloned().unwrap_or_default();
        let text = said.to_string();
        let words = ["\"False\"", "\"Sessions\"", "allows 1", "spec.source.maxSessions"];
        ensure!(words.iter().all(|word| text.contains(word)) && is_true(&stream, "Recording"), "{text}");
        Ok(Some(()))
    })?;
    sessions("null")?;
    site.wait_as_planned(Duration::from_secs(30))?;
    // To one and back to two. What it held goes to the other one first; its claim stays.
    site.kubectl(&["scale", "storagepool", "main", "--replicas=1"])?;
    wait_count(&site, "recorders", 1)?;
    wait_count(&site, "statefulsets", 1)?;
    pool_says(&site, "Protected", "False", &["NoReserve"])?;
    site.wait_recorded(Duration::from_secs(30), 3)?;
    ensure!(site.list("persistentvolumeclaims")?.len() == 2, "the claim of the recorder that went stays");
    site.kubectl(&["scale", "storagepool", "main", "--replicas=2"])?;
    wait_count(&site, "recorders", 2)?;
    let protected = || {
        let streams = site.list("camerastreams")?;
        let good = streams.iter().filter(|stream| is_true(stream, "Protected") && is_true(stream, "Recording")).count();
        ensure!(good == 3, "{good} of 3");
        Ok(Some(()))
    };
    cluster.wait("all streams are protected again", CHANGED_WITHIN, protected)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    ensure!(before == volumes(&site)?, "other volumes than before: {before:?} {:?}", volumes(&site)?);
    // One more volume for each recorder: one pod after the other.
    let more = r#"[{"op":"add","path":"/spec/storage/volumes/-","value":{"name":"more","claimTemplate":{"spec":{"storageClassName":"local","resources":{"requests":{"storage":"100Mi"}}}}}}]"#;
    site.kubectl(&["patch", "storagepool", "main", "--type=json", "-p", more])?;
    cluster.wait("each recorder has both volumes", CHANGED_WITHIN, || {
        let recorders = site.list("recorders")?;
        let volumes = |recorder: &Value| {
            let volumes = recorder.pointer("/status/volumes").and_then(Value::as_array);
            volumes.into_iter().flatten().filter(|it| it.to_string().contains("Ready")).count()
        };
        let counts: Vec<usize> = recorders.iter().map(volumes).collect();
        ensure!(counts == [2, 2], "{counts:?}");
        Ok(Some(()))
    })?;
    // Asked in its pod, as docs/volumes.md says, a recorder answers: its socket is beside the volumes.
    let ask = ["framekeeper-recorder", "volume", "start", "more", "--volumes", "/volumes"];
    let said = site.kubectl(&[&["exec", "main-recorder-0-0", "--"][..], &ask[..]].concat())?;
    ensure!(said.contains("volume more is Ready"), "{said}");
    cluster.wait("all streams are protected again", CHANGED_WITHIN, protected)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    site.judge(&[])?;
    site.clean()
}

/// The UID of an object; nothing of one that is on its way out, or not there.
fn uid(site: &Site, kind: &str, name: &str) -> Option<String> {
    let object = site.cluster.get(&[kind, name, "-n", &site.namespace]).ok()?;
    let is_leaving = object.pointer("/metadata/deletionTimestamp").is_some();
    object.pointer("/metadata/uid").and_then(Value::as_str).filter(|_| !is_leaving).map(str::to_owned)
}

#[test]
fn what_somebody_deletes_of_a_pool_is_there_again_and_costs_no_frame() -> Result<()> {
    let site = Site::new("remade", 1)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}{}", site.pool(1, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let pod = site.pod(0)?.pointer("/metadata/uid").cloned();
    let all = [
        ("service", "main-recorders"),
        ("poddisruptionbudget", "main-recorders"),
        ("role", "main-recorder-0"),
        ("rolebinding", "main-recorder-0"),
        ("secret", "main-recorder-0-cameras"),
        ("lease", "main-recorder-0"),
        ("statefulset", "main-recorder-0"),
    ];
    let mut took = Vec::new();
    for (kind, name) in all {
        let before = uid(&site, kind, name).with_context(|| format!("there is no {kind} {name}"))?;
        // The pod of a StatefulSet stays, as when somebody makes that anew by hand.
        site.kubectl(&["delete", kind, name, "--cascade=orphan", "--wait=false"])?;
        let (_, time) = cluster.wait(&format!("{kind} {name} is there again"), TOLD_WITHIN, || {
            let now = uid(&site, kind, name);
            Ok(now.is_some_and(|now| now != before).then_some(()))
        })?;
        took.push(format!("{kind} {:.1} s", time.as_secs_f64()));
    }
    judge::result(&format!("deleted, and there again: {}", took.join(", ")));
    site.wait_as_planned(Duration::from_secs(30))?;
    ensure!(pod == site.pod(0)?.pointer("/metadata/uid").cloned(), "the pod was made anew");
    // Its new Lease is renewed by the recorder: it stays known to be alive.
    cluster.wait("the Lease is renewed", Duration::from_secs(30), || {
        let lease = cluster.get(&["lease", "main-recorder-0", "-n", &site.namespace])?;
        Ok(lease.pointer("/spec/renewTime").and_then(Value::as_str).map(str::to_owned))
    })?;
    site.judge(&[])?;
    site.clean()
}

/// Waits until recorders of this pool have a stream as it was planned, and it says so.
fn recorded_in(site: &Site, stream: &str, pool: &str, patience: Duration) -> Result<Duration> {
    let (_, took) = site.cluster.wait(&format!("{stream} is recorded in {pool}"), patience, || {
        let stream = site.cluster.get(&["camerastream", stream, "-n", &site.namespace])?;
        let text = |path: &str| stream.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (primary, active) = (text("/status/assignment/primary"), text("/status/assignment/active"));
        let is_there = primary.starts_with(&format!("{pool}-recorder-")) && primary == active;
        ensure!(is_there && is_true(&stream, "Ready") && is_true(&stream, "Recording"), "{:?}", stream.get("status"));
        Ok(Some(()))
    })?;
    Ok(took)
}

/// Waits until a stream is told that it can't be moved, and is recorded.
fn stays(site: &Site, stream: &str, words: &[&str]) -> Result<()> {
    site.cluster.wait(&format!("{stream} is told {words:?}"), TOLD_WITHIN, || {
        let stream = site.cluster.get(&["camerastream", stream, "-n", &site.namespace])?;
        let ready = condition(&stream, "Ready").cloned().unwrap_or_default();
        let is_told = words.iter().all(|word| ready.to_string().contains(word)) && !is_true(&stream, "Ready");
        ensure!(is_told && is_true(&stream, "Recording"), "{:?}", stream.get("status"));
        Ok(Some(()))
    })?;
    Ok(())
}

#[test]
fn streams_that_move_to_another_pool_lose_no_frame_and_stay_where_they_are_until_it_has_a_slot() -> Result<()> {
    let site = Site::new("moved", 4)?;
    let cluster = site.cluster;
    let failures = "  maxChannels: 8\n  toleratedFailures: 1\n  redundancy: {handbackAfter: 3s}\n";
    cluster.apply(&format!("{}{}", site.pool(2, failures), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 4)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let to = |stream: &str, pool: &str| {
        let patch = format!(r#"{{"spec":{{"poolRef":{{"name":"{pool}"}}}}}}"#);
        site.kubectl(&["patch", "camerastream", stream, "--type=merge", "-p", &patch])
    };
    to("cam-1", "other")?;
    to("cam-2", "other")?;
    stays(&site, "cam-1", &["PoolNotFound", "other"])?;
    // Its pod is only being started: they are recorded where they are until it records them.
    let other = site.pool(1, "  maxChannels: 3\n").replace("name: main", "name: other");
    cluster.apply(&other)?;
    for stream in ["cam-1", "cam-2"] {
        let took = recorded_in(&site, stream, "other", RECORDED_WITHIN)?;
        judge::result(&format!("{stream} is in the other pool {:.1} s after that was asked for", took.as_secs_f64()));
    }
    to("cam-3", "other")?;
    recorded_in(&site, "cam-3", "other", CHANGED_WITHIN)?;
    to("cam-4", "other")?;
    stays(&site, "cam-4", &["NoSlot", "StoragePool other", "recorded in StoragePool main"])?;
    let pool = cluster.get(&["storagepool", "other", "-n", &site.namespace])?;
    let capacity = condition(&pool, "CapacitySufficient").cloned().unwrap_or_default();
    ensure!(capacity.to_string().contains("4 streams need 4 slots"), "{capacity}");
    to("cam-1", "main")?;
    recorded_in(&site, "cam-1", "main", CHANGED_WITHIN)?;
    recorded_in(&site, "cam-4", "other", CHANGED_WITHIN)?;
    // Who is only being started has nothing that could be taken from it, and is not said to.
    let events = site.kubectl(&["get", "events"])?;
    let said: Vec<&str> = events.lines().filter(|line| line.contains("from other-recorder-0")).collect();
    ensure!(said.is_empty(), "{said:?}");
    site.wait_as_planned(Duration::from_secs(60))?;
    site.judge(&[])?;
    site.clean()
}
