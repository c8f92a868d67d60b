//! Manifests that are edited while cameras are being recorded: what did not change must not notice.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, get, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use serde_json::Value;

const PASSWORD: &str = "the-right-one";

/// The names of the streams that recorder 0 says are recording.
fn recording(system: &System) -> Result<BTreeSet<String>> {
    let text = |channel: &Value, key: &str| channel.get(key).and_then(Value::as_str).map(str::to_owned);
    let channels = system.channels(0)?.unwrap_or_default();
    Ok(channels
        .iter()
        .filter(|channel| text(channel, "state").as_deref() == Some("Recording"))
        .filter_map(|channel| text(channel, "name"))
        .collect())
}

/// Waits until exactly these streams are recording.
fn wait_exactly(system: &System, names: &[&str]) -> Result<()> {
    let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut last = BTreeSet::new();
    let told = poll(Duration::from_secs(20), Duration::from_millis(50), || {
        last = recording(system)?;
        Ok((last == names).then_some(()))
    })?;
    ensure!(told.is_some(), "recording {last:?} instead of {names:?}: {}", system.operator.log_tail());
    Ok(())
}

#[test]
fn edits_reach_only_what_they_change() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let common = "kind=synthetic,width=640,height=360,fps=25,bitrate=1M,gop=25";
    let cameras = Cameras::start(
        folder.path(),
        0,
        &[
            format!("name=stays,{common},audio=aac"),
            format!("name=goes,{common}"),
            format!("name=comes,{common}"),
            format!("name=locked,{common},auth=digest,user=viewer,password={PASSWORD}"),
        ],
    )?;
    let stream = |name: &str| StreamPlan::new(name, cameras.url(name));
    let locked = |password: &str| StreamPlan {
        credentials: Some(("viewer".to_owned(), password.to_owned())),
        ..stream("locked")
    };
    let plan = |streams| PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams,
    };
    let mut system =
        System::start(folder.path(), &plan(vec![stream("stays"), stream("goes"), locked("the-wrong-one")]))?;
    wait_exactly(&system, &["goes", "stays"])?;
    let manifest = system.manifest.clone();
    let edit = |streams| fs::write(&manifest, plan(streams).manifest());

    // A camera is added, and a password corrected.
    edit(vec![stream("stays"), stream("goes"), stream("comes"), locked(PASSWORD)])?;
    wait_exactly(&system, &["comes", "goes", "locked", "stays"])?;
    // One is taken away: its footage stays.
    edit(vec![stream("stays"), stream("comes"), locked(PASSWORD)])?;
    wait_exactly(&system, &["comes", "locked", "stays"])?;
    let gone = get(system.http(0), "/v1/streams/default/goes/coverage")?;
    let runs = gone.json()?.get("runs").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(
        gone.status == 200 && runs == 1,
        "footage of a stream that was taken away: {} {}",
        gone.status,
        gone.text()
    );
    // A mistake changes nothing, and is told.
    fs::write(&manifest, plan(vec![stream("stays"), stream("comes")]).manifest().replace("    url:", "    uri:"))?;
    let told = poll(Duration::from_secs(10), Duration::from_millis(50), || {
        Ok(fs::read_to_string(&system.operator.log).unwrap_or_default().contains("uri").then_some(()))
    })?;
    ensure!(told.is_some(), "nothing was said about the mistake: {}", system.operator.log_tail());
    wait_exactly(&system, &["comes", "locked", "stays"])?;
    // It comes back, and its run is a new one.
    edit(vec![stream("stays"), stream("goes"), stream("comes"), locked(PASSWORD)])?;
    wait_exactly(&system, &["comes", "goes", "locked", "stays"])?;
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;

    let json = folder.path().join("report.json");
    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    // Only what the recorder had a session for is expected of each camera: its last frames before TEARDOWN may be on the way.
    arguments.extend(["--stop".to_owned(), stop.to_string(), "--sessions".to_owned(), "300".to_owned()]);
    arguments.extend(["--json".to_owned(), json.display().to_string()]);
    judge::check(&arguments)?;
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let streams = report.get("streams").and_then(Value::as_array).context("no streams in the report")?;
    let runs = |camera: &str| {
        let stream = streams.iter().find(|one| one.get("camera").and_then(Value::as_str) == Some(camera));
        stream.and_then(|one| one.get("runs")?.as_array()).map_or(0, Vec::len)
    };
    ensure!(runs("stays") == 1, "a stream that nobody touched has {} runs", runs("stays"));
    ensure!(runs("comes") == 1 && runs("locked") == 1, "{} and {} runs", runs("comes"), runs("locked"));
    ensure!(runs("goes") == 2, "a stream that went and came back has {} runs", runs("goes"));
    judge::result("5 edits while recording: the stream that was not touched lacks nothing and has one run");
    Ok(())
}
