//! SIGKILL of a recorder at random moments: what is lost, and how soon it records again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::family;
use framekeeper_e2e::harness::{Cameras, count, poll, signal};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::Value;

/// What may be missing before a kill (design section 9), milliseconds.
const MAX_MISSING_MS: u32 = 600;
/// When it must be recording again, milliseconds.
const MAX_BACK_MS: u32 = 5_000;

#[test]
fn a_killed_recorder_lacks_little_and_is_back_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let kills = count(6, 50);
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=6,kind=synthetic,width=1280,height=720,fps=25,bitrate=2M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: names.len(),
        budget: "4Gi".to_owned(),
        segment_bytes: "8Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let mut system = System::start(folder.path(), &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let seed: u64 = rand::random();
    judge::result(&format!("seed {seed}"));
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut moments = Vec::new();
    // Newest time said to be durable just before each kill, by stream.
    let mut durable_before: Vec<BTreeMap<String, i64>> = Vec::new();
    for number in 0..kills {
        std::thread::sleep(Duration::from_millis(random.random_range(1_500..4_000)));
        durable_before.push(durable(&system)?);
        let recorder = recorder_processes(&system)?;
        // Every fifth time the supervisor itself: then the operator has to start it again.
        let victim = if number % 5 == 4 { recorder.first() } else { recorder.last() };
        moments.push(now_ns()?);
        signal(*victim.context("no recorder process")?, Signal::KILL);
        let killed_us = moments.last().copied().unwrap_or_default();
        let back = poll(Duration::from_secs(10), Duration::from_millis(20), || {
            let now = durable(&system).unwrap_or_default();
            Ok(names.iter().all(|name| now.get(name).is_some_and(|&time| time > killed_us)).then_some(()))
        })?;
        ensure!(back.is_some(), "not recording 10 s after kill {number}: {}", system.operator.log_tail());
    }
    std::thread::sleep(Duration::from_secs(1));
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;

    let json = folder.path().join("report.json");
    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend([
        "--stop".to_owned(),
        stop.to_string(),
        "--max-missing-ms".to_owned(),
        MAX_MISSING_MS.to_string(),
    ]);
    arguments.extend([
        "--max-back-ms".to_owned(),
        MAX_BACK_MS.to_string(),
        "--json".to_owned(),
        json.display().to_string(),
    ]);
    for moment in &moments {
        arguments.extend(["--kill".to_owned(), moment.to_string()]);
    }
    for (name, time) in durable_before.iter().flatten() {
        arguments.extend(["--durable".to_owned(), format!("default/{name}={time}")]);
    }
    judge::check(&arguments)?;

    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let (mut worst_lost, mut worst_back) = (0.0_f64, 0.0_f64);
    for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
        for cost in stream.get("kills").and_then(Value::as_array).context("no kills in the report")? {
            let number = |key: &str| cost.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            worst_lost = worst_lost.max(number("lost_before_ms"));
            worst_back = worst_back.max(number("back_after_ms"));
        }
    }
    judge::result(&format!(
        "{kills} kills: at most {worst_lost:.0} ms missing before a kill, recording again after at most {worst_back:.0} ms"
    ));
    Ok(())
}

/// The recorder's supervisor and its worker, in this order.
fn recorder_processes(system: &System) -> Result<Vec<u32>> {
    let all = family(&[system.operator.pid()]);
    let recorder: Vec<u32> = all.into_iter().skip(1).collect();
    ensure!(recorder.len() == 2, "expected a supervisor and a worker, found {recorder:?}");
    Ok(recorder)
}

/// The newest durable time of each stream, nanoseconds since 1970.
fn durable(system: &System) -> Result<BTreeMap<String, i64>> {
    let mut times = BTreeMap::new();
    for channel in system.channels(0)?.context("the recorder does not answer")? {
        let text = |key: &str| channel.get(key).and_then(Value::as_str);
        if let (Some(name), Some(time)) = (text("name"), text("durable")) {
            times.insert(name.to_owned(), i64::try_from(time.parse::<jiff::Timestamp>()?.as_nanosecond())?);
        }
    }
    Ok(times)
}
