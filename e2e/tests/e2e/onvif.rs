//! A camera that is asked for a key frame over ONVIF, because it cannot be asked over RTCP.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use framekeeper_e2e::harness::{Cameras, get, poll};
use framekeeper_e2e::judge;
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

/// Key frames are so far apart, in pictures at 25 a second: 20 s.
const GOP: u32 = 500;
/// Connecting, a fifth of a second of patience, a question, a picture, half a second until it is durable; on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(8);

fn counter(system: &System, name: &str, stream: &str) -> Result<f64> {
    let page = get(system.http(0), "/metrics")?.text();
    let wanted = format!("{name}{{");
    let line = page.lines().find(|line| line.starts_with(&wanted) && line.contains(&format!("\"{stream}\"")));
    Ok(line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(f64::NAN))
}

#[test]
fn a_camera_sends_a_key_frame_when_it_is_asked_over_onvif() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let common = format!(
        "kind=synthetic,width=320,height=180,fps=25,bitrate=300k,gop={GOP},start=any,user=viewer,password=the-right-one"
    );
    let cameras = Cameras::start(folder.path(), 0, &["asked", "silent"].map(|name| format!("name={name},{common}")))?;
    // The cameras' own first key frames are over before anybody comes.
    for name in ["asked", "silent"] {
        let emits = poll(AT_ONCE, Duration::from_millis(20), || {
            let latest = get(cameras.control, &format!("/cameras/{name}/latest"))?.json()?;
            let number = latest.pointer("/video/number").and_then(serde_json::Value::as_u64);
            Ok(number.filter(|number| *number > 0).map(drop))
        })?;
        ensure!(emits.is_some(), "camera {name} emits nothing: {}", cameras.process.log_tail());
    }
    let stream = |name: &str| StreamPlan {
        credentials: Some(("viewer".to_owned(), "the-right-one".to_owned())),
        ..StreamPlan::new(name, cameras.url(name))
    };
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: vec![stream("asked"), stream("silent")],
    };
    let url = format!("    url: {}\n", cameras.url("asked"));
    let onvif = format!("{url}    onvif: {{endpoint: \"http://{}/cameras/asked/onvif\"}}\n", cameras.control);
    let manifest = plan.manifest();
    ensure!(manifest.contains(&url), "no such line in the manifest: {url}");
    let path = folder.path().join("pool.yaml");
    std::fs::write(&path, manifest.replace(&url, &onvif))?;
    let begun = Instant::now();
    let mut system = System::start_on(folder.path(), path, 1)?;
    system.wait_recording(&["asked".to_owned()], AT_ONCE)?;
    let took = begun.elapsed();
    let recording = system.channels(0)?.unwrap_or_default();
    let state = |name: &str| {
        let found = recording.iter().find(|channel| channel.get("name").is_some_and(|its| its == name));
        found.and_then(|channel| channel.get("state")?.as_str()).unwrap_or_default().to_owned()
    };
    ensure!(state("silent") == "Connecting", "a camera that nobody asked sent a key frame: {recording:?}");
    ensure!(counter(&system, "framekeeper_stream_key_frame_requests_total", "asked")? >= 1.0, "nobody counted");
    ensure!(counter(&system, "framekeeper_stream_key_frame_requests_failed_total", "asked")? == 0.0, "refused");
    let log = std::fs::read_to_string(&system.operator.log)?;
    ensure!(!log.contains("the-right-one"), "a password in the log");
    system.stop()?;
    judge::result(&format!(
        "recording {:.1} s after the start, with key frames {} s apart",
        took.as_secs_f64(),
        GOP / 25
    ));
    Ok(())
}
