//! From nothing to recorded cameras, and changes while others record.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use framekeeper_e2e::harness::count;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition};

/// A change of a stream is to be with its recorder within this time.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn cameras_are_recorded_into_claims_from_nothing() -> Result<()> {
    let site = Site::new("first", count(4, 12))?;
    let began = Instant::now();
    site.cluster.apply(&format!(
        "{}  maxChannels: 12\n  toleratedFailures: 1\n{}",
        site.pool(3, ""),
        site.streams()
    ))?;
    site.wait_recorded(RECORDED_WITHIN, site.cameras.len())?;
    judge::result(&format!(
        "{} cameras recorded {:.1} s after the pool was applied",
        site.cameras.len(),
        began.elapsed().as_secs_f64()
    ));
    site.wait_as_planned(Duration::from_secs(60))?;
    std::thread::sleep(Duration::from_secs(count(20, 120) as u64));
    for wide in [false, true] {
        let mut arguments = vec!["get", "cam,sp,rec"];
        arguments.extend(wide.then_some(["-o", "wide"]).into_iter().flatten());
        judge::say(&site.kubectl(&arguments)?);
    }
    for stream in site.list("camerastreams")? {
        let has = |path: &str| stream.pointer(path).is_some();
        ensure!(
            has("/status/codec") && has("/status/resolution") && has("/status/assignment/active"),
            "what people look for first is in the status: {stream}"
        );
    }
    // Nothing is written while nothing changes.
    let before = versions(&site)?;
    std::thread::sleep(Duration::from_secs(5));
    let after = versions(&site)?;
    ensure!(before == after, "statuses are written while nothing changes: {before:?} {after:?}");
    site.judge(&[])?;
    site.clean()
}

fn versions(site: &Site) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for kind in ["camerastreams", "storagepools", "recorders", "statefulsets"] {
        for object in site.list(kind)? {
            let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            versions.push(format!("{kind} {} {}", text("/metadata/name"), text("/metadata/resourceVersion")));
        }
    }
    Ok(versions)
}

#[test]
fn changes_of_some_cameras_cost_the_others_nothing() -> Result<()> {
    let site = Site::new("changes", 4)?;
    let first: String = ["cam-1", "cam-2"].iter().map(|name| site.stream(name, "")).collect();
    site.cluster.apply(&format!("{}  maxChannels: 6\n{first}", site.pool(2, "")))?;
    site.wait_recorded(RECORDED_WITHIN, 2)?;
    // Added.
    let began = Instant::now();
    site.cluster.apply(&site.stream("cam-3", ""))?;
    site.cluster.wait("a recorder has the new stream", CHANGE_WITHIN, || {
        let recorders = site.list("recorders")?;
        Ok(recorders.iter().any(|recorder| observed(recorder, "cam-3")).then_some(()))
    })?;
    judge::result(&format!("a new stream was with its recorder after {:.2} s", began.elapsed().as_secs_f64()));
    site.wait_recorded(Duration::from_secs(15), 3)?;
    // Another camera.
    let url = format!("{{\"spec\":{{\"source\":{{\"url\":\"rtsp://cam-4.{}.svc:8554/cam-4\"}}}}}}", site.namespace);
    let began = Instant::now();
    site.kubectl(&["patch", "camerastream", "cam-3", "--type=merge", "-p", &url])?;
    let (_, took) = site.cluster.wait("a recorder records the other camera", CHANGE_WITHIN, || {
        let recorders = site.list("recorders")?;
        let has = |recorder: &&Value| {
            recorder.pointer("/spec/channels").is_some_and(|channels| channels.to_string().contains("cam-4.changes"))
                && is_observed(recorder)
        };
        Ok(recorders.iter().find(has).map(|_| ()))
    })?;
    let _ = took;
    judge::result(&format!("a changed address was in effect after {:.2} s", began.elapsed().as_secs_f64()));
    // Suspended, and removed.
    site.kubectl(&["patch", "camerastream", "cam-3", "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"])?;
    site.cluster.wait("the stream is suspended", Duration::from_secs(10), || {
        let stream = site.cluster.get(&["camerastream", "cam-3", "-n", &site.namespace])?;
        let phase = stream.pointer("/status/phase").and_then(Value::as_str);
        Ok((phase == Some("Suspended")).then_some(()))
    })?;
    site.kubectl(&["delete", "camerastream", "cam-3"])?;
    site.cluster.wait("nobody has it any more", Duration::from_secs(10), || {
        let recorders = site.list("recorders")?;
        Ok((!recorders.iter().any(|recorder| observed(recorder, "cam-3"))).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    for stream in site.list("camerastreams")? {
        let recording = condition(&stream, "Recording");
        ensure!(recording.is_some(), "{stream}");
    }
    // Those that nobody touched, frame by frame; the others came and went.
    for name in ["cam-3", "cam-4"] {
        let _gone = std::fs::remove_file(site.ledgers.join(format!("{name}.ledger")));
    }
    site.judge(&[])?;
    site.clean()
}

fn is_observed(recorder: &Value) -> bool {
    let generation = |path: &str| recorder.pointer(path).and_then(Value::as_i64);
    generation("/status/observedGeneration") == generation("/metadata/generation")
}

/// Whether a recorder has a stream, and says that it knows.
fn observed(recorder: &Value, stream: &str) -> bool {
    let channels = recorder.pointer("/spec/channels").and_then(Value::as_array).cloned().unwrap_or_default();
    let has = channels.iter().any(|channel| channel.pointer("/stream/name").and_then(Value::as_str) == Some(stream));
    has && is_observed(recorder)
}
