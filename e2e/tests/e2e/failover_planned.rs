//! Changes that were asked for: the new recorder records first, with and without standbys.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, count, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System, with_pool_spec, with_stream_spec};
use serde_json::Value;

/// Until others record what the surplus recorders have, and those have stopped.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// All streams are recorded, by these recorders alone.
fn wait_recorded_by(system: &System, names: &[String], recorders: usize) -> Result<()> {
    let mut said = Vec::new();
    let all = poll(DRAINED_WITHIN, Duration::from_millis(50), || {
        said.clear();
        for ordinal in 0..recorders {
            for channel in system.channels(ordinal)?.unwrap_or_default() {
                let text = |key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                said.push((text("name"), ordinal, text("role"), text("state")));
            }
        }
        let recorded = |name: &String| {
            said.iter().any(|(stream, _, role, state)| stream == name && role == "Primary" && state == "Recording")
        };
        Ok(names.iter().all(recorded).then_some(()))
    })?;
    all.with_context(|| format!("not recorded by {recorders} recorders: {said:?}\n{}", system.operator.log_tail()))
}

/// Waits until the operator has said this.
fn wait_said(system: &System, what: &str) -> Result<()> {
    let said = poll(DRAINED_WITHIN, Duration::from_millis(50), || {
        Ok(fs::read_to_string(&system.operator.log).unwrap_or_default().contains(what).then_some(()))
    })?;
    said.with_context(|| format!("the operator does not say {what:?}: {}", system.operator.log_tail()))
}

#[test]
fn fewer_recorders_and_more_again_cost_no_frame() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let per_recorder = count(2, 20);
    let spec = format!(
        "name=cam,count={},kind=synthetic,width=320,height=180,fps=25,bitrate=300k,gop=25,audio=aac",
        per_recorder * 3
    );
    let cameras = Cameras::start(folder.path(), 0, &[spec])?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 3,
        max_channels: names.len() * 2,
        budget: "900Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    // Half of the streams have standbys.
    let mut manifest = with_pool_spec(&plan.manifest(), "toleratedFailures: 1")?;
    for name in names.iter().step_by(2) {
        manifest = with_stream_spec(&manifest, name, "redundancy: None")?;
    }
    let path = folder.path().join("pool.yaml");
    fs::write(&path, &manifest)?;
    let environment = [("FRAMEKEEPER_STABLE", "3".to_owned())];
    let mut system = System::start_on_under(folder.path(), path, 3, &environment, &[])?;
    wait_recorded_by(&system, &names, 3)?;
    let begun = now_ns()?;

    let with = |recorders: usize| {
        let changed = manifest.replace("recorders: 3", &format!("recorders: {recorders}"));
        ensure!(recorders == 3 || changed != manifest, "no recorders in the manifest");
        Ok(changed)
    };
    let times = count(1, 5);
    for _ in 0..times {
        system.edit(&with(2)?)?;
        wait_recorded_by(&system, &names, 2)?;
        wait_said(&system, "it records on until others record what it has")?;
        // From two, that stand by for one another, to one, which nobody stands by for.
        system.edit(&with(1)?)?;
        wait_recorded_by(&system, &names, 1)?;
        for ordinal in [1, 2] {
            let gone = poll(DRAINED_WITHIN, Duration::from_millis(50), || {
                Ok(system.channels(ordinal)?.is_none().then_some(()))
            })?;
            ensure!(gone.is_some(), "recorder {ordinal} still runs: {}", system.operator.log_tail());
        }
        system.edit(&with(3)?)?;
        for ordinal in [1, 2] {
            system.wait_ready(ordinal, DRAINED_WITHIN)?;
        }
        wait_recorded_by(&system, &names, 3)?;
    }
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_secs(2));
    system.stop()?;

    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)?;
    judge::result(&format!(
        "{times} times from three recorders to two, to one and back, within {} s: 0 frames missing of {} streams, half of them without a standby",
        (stop - begun) / 1_000_000_000,
        names.len()
    ));
    Ok(())
}
