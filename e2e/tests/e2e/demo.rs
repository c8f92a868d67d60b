//! `make demo` as a user starts it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Running, free_port, free_ports, get, poll, program};
use framekeeper_e2e::judge::segments;
use serde_json::Value;

#[test]
fn the_demo_records_at_once_and_goes_on_where_it_stopped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("demo-data");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let programs = program("framekeeper-operator")?;
    let programs = programs.parent().context("no folder")?;
    let (rtsp, base) = (free_port()?, free_ports(2)?);
    let mut runs_before = 0;
    for start in 0..2 {
        // What an earlier start left says nothing of this one.
        let cameras = data.join("cameras.log");
        let _none = fs::remove_file(&cameras);
        let mut command = Command::new(&script);
        command
            .arg(programs)
            .env("DEMO_DATA", &data)
            .env("DEMO_RTSP_PORT", rtsp.to_string())
            .env("DEMO_HTTP_PORT", base.to_string());
        let mut demo = Running::start("demo", &mut command, &folder.path().join("demo.log"))?;
        // The cameras listen when their footage is encoded: no recorder can be blamed for that.
        let listening = poll(Duration::from_secs(60), Duration::from_millis(50), || {
            ensure!(demo.alive(), "the demo ended: {}", demo.log_tail());
            Ok(fs::read_to_string(&cameras).is_ok_and(|said| said.contains("\"rtsp\"")).then_some(()))
        })?;
        ensure!(listening.is_some(), "start {start}: the cameras do not listen: {}", demo.log_tail());
        let began = Instant::now();
        let mut recording = Vec::new();
        // What is promised is 10 s for the first recording; all four may take longer.
        for (wanted, patience) in [(1, 10), (4, 60)] {
            let enough = poll(Duration::from_secs(patience), Duration::from_millis(100), || {
                ensure!(demo.alive(), "the demo ended: {}", demo.log_tail());
                recording = states(base).into_iter().filter(|(_, state)| state == "Recording").collect();
                Ok((recording.len() >= wanted).then_some(()))
            })?;
            ensure!(
                enough.is_some(),
                "start {start}: {} of {wanted} cameras recorded after {:?}: {:?}\n{}",
                recording.len(),
                began.elapsed(),
                states(base),
                demo.log_tail()
            );
        }
        std::thread::sleep(Duration::from_secs(3));
        let runs = (0..2).map(|ordinal| runs_of(base + ordinal, "entrance")).max().unwrap_or(0);
        ensure!(runs > runs_before, "start {start}: {runs} runs, {runs_before} before");
        runs_before = runs;
        let said = fs::read_to_string(&demo.log)?;
        for word in ["segments", "ffplay", "curl", &base.to_string()] {
            ensure!(said.contains(word), "the demo does not say {word:?}: {said}");
        }
        // Ctrl-C reaches the whole foreground group; the operator is the script's last child.
        let operator = framekeeper_e2e::bench::process::family(&[demo.pid()])
            .into_iter()
            .find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("framekeeper-ope"))
            })
            .context("no operator")?;
        framekeeper_e2e::harness::signal(operator, rustix::process::Signal::INT);
        demo.wait(Duration::from_secs(15))?.with_context(|| format!("the demo does not end: {}", demo.log_tail()))?;
    }
    let files =
        segments(&data)?.into_iter().filter(|file| file.components().any(|part| part.as_os_str() == "streams")).count();
    // The second start filled on the files of the first.
    ensure!(files == 4, "{files} segment files for four cameras and two short starts");
    Ok(())
}

/// Name and state of all channels of the demo's recorders.
fn states(base: u16) -> Vec<(String, String)> {
    let mut states = Vec::new();
    for ordinal in 0..2 {
        let Ok(answer) = get(([127, 0, 0, 1], base + ordinal).into(), "/v1/channels") else { continue };
        let Ok(answer) = answer.json() else { continue };
        for channel in answer.get("channels").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            states.push((text("name"), text("state")));
        }
    }
    states
}

fn runs_of(port: u16, name: &str) -> usize {
    get(([127, 0, 0, 1], port).into(), &format!("/v1/streams/default/{name}/coverage"))
        .ok()
        .and_then(|answer| answer.json().ok())
        .and_then(|answer| answer.get("runs").and_then(Value::as_array).map(Vec::len))
        .unwrap_or(0)
}
