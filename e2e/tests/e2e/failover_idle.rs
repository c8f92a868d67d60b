//! A camera that ends sessions that do not play is no camera for class `Ready`: it is found out, told, and remembered.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_crds::CameraStream;
use framekeeper_e2e::harness::{get, poll};
use framekeeper_e2e::judge;
use framekeeper_e2e::local::System;
use serde_json::Value;

use super::failover::{Setting, Site};

/// After so many seconds the camera ends a session that does not play.
const IDLE_S: u64 = 2;
/// What is known after it ended three of them, with the pauses in between.
const FOUND_OUT: Duration = Duration::from_secs(40);
const RECORDING: Duration = Duration::from_secs(30);

/// What `Protected` says of a stream: status, reason, message.
fn protected(site: &Site, name: &str) -> Result<Option<(String, String, String)>> {
    let path = site.system.data.join(format!("status/camerastreams/default/{name}.yaml"));
    // Not written yet.
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    let stream: CameraStream = framekeeper_crds::yaml::read(&text)?;
    let conditions = stream.status.into_iter().flat_map(|status| status.conditions);
    let found = conditions.into_iter().find(|condition| condition.type_ == "Protected");
    Ok(found.map(|found| (found.status, found.reason, found.message)))
}

/// Waits until streams of the camera that ends sessions are not protected for this reason, and those of the other one are.
fn wait_told(site: &Site) -> Result<()> {
    let mut said = Vec::new();
    let told = poll(FOUND_OUT, Duration::from_millis(100), || {
        said = site.names.iter().map(|name| protected(site, name)).collect::<Result<Vec<_>>>()?;
        let as_wanted = |(name, said): (&String, &Option<(String, String, String)>)| {
            said.as_ref().is_some_and(|(status, reason, message)| match is_dropping(name) {
                true => {
                    status == "False" && reason == "Sessions" && message.contains("drops sessions that do not play")
                }
                false => status == "True",
            })
        };
        Ok(site.names.iter().zip(&said).all(as_wanted).then_some(()))
    })?;
    told.with_context(|| format!("not told as wanted: {said:?}\n{}", site.system.operator.log_tail()))
}

/// Waits until recorders do as was told: streams of the camera that ends sessions are one's, those of the other one two's. One that does not answer
/// has none.
fn wait_held(site: &Site) -> Result<()> {
    let mut said = BTreeMap::new();
    let held = poll(FOUND_OUT, Duration::from_millis(100), || {
        said = site.said()?;
        let as_told = |name: &String| said.get(name).map_or(0, Vec::len) == if is_dropping(name) { 1 } else { 2 };
        Ok(site.names.iter().all(as_told).then_some(()))
    })?;
    held.with_context(|| format!("not held as told: {said:?}\n{}", site.system.operator.log_tail()))
}

fn is_dropping(name: &str) -> bool {
    name.starts_with("drops")
}

/// How many sessions each camera that ends them has begun so far.
fn sessions_begun(site: &Site) -> Result<Vec<u64>> {
    let cameras = get(site.cameras.control, "/cameras")?.json()?;
    let dropping = |camera: &&Value| camera.get("name").and_then(Value::as_str).is_some_and(is_dropping);
    let begun =
        |camera: &Value| camera.pointer("/counts/begun").and_then(Value::as_u64).context("no count of sessions");
    cameras.as_array().context("no cameras")?.iter().filter(dropping).map(begun).collect()
}

#[test]
fn a_camera_that_ends_sessions_that_do_not_play_is_found_out_and_remembered() -> Result<()> {
    let pictures = "count=2,width=320,height=180,fps=25,bitrate=300k,gop=50,audio=aac";
    let setting = Setting {
        recorders: 2,
        at_first: 2,
        cameras: vec![format!("name=drops,idle={IDLE_S},{pictures}"), format!("name=keeps,{pictures}")],
        pool: "toleratedFailures: 1\n  redundancy: {class: Ready}",
        stable: 3,
        wrapper: &[],
    };
    let mut site = Site::set_up(tempfile::tempdir()?, &setting)?;
    site.system.wait_recording(&site.names.clone(), RECORDING)?;
    wait_told(&site)?;
    // Up to here whoever was to stand by may have tried once more.
    wait_held(&site)?;
    let tried = sessions_begun(&site)?;
    // The one that records, and three that were ended.
    ensure!(tried.iter().all(|begun| *begun >= 4), "found out with {tried:?} sessions");
    // Whoever recorded went on: no frame of all that time is missing.
    site.judge()?;

    // It is remembered: nobody tries again.
    let (folder, manifest) = (site.folder.path().to_owned(), site.system.manifest.clone());
    site.system = System::start_on(&folder, manifest, 2)?;
    site.system.wait_recording(&site.names.clone(), RECORDING)?;
    wait_told(&site)?;
    wait_held(&site)?;
    std::thread::sleep(Duration::from_secs(2 * IDLE_S));
    let again = sessions_begun(&site)?;
    ensure!(
        tried.iter().zip(&again).all(|(before, after)| *after == before + 1),
        "sessions begun: {tried:?}, and {again:?} after a restart"
    );
    wait_held(&site)?;
    wait_told(&site)?;
    judge::result(&format!(
        "2 cameras that end idle sessions after {IDLE_S} s: found out with {tried:?} sessions, told, remembered over a restart; 0 frames missing"
    ));
    Ok(())
}
