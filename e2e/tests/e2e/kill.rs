//! SIGKILL of a recorder at random moments: what is lost, and how soon it records again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
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
    let kills = count(6, 200);
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
        let (supervisor, worker) = supervisor_and_worker(system.operator.pid(), system.http(0))?;
        // Every fifth time the supervisor itself: then the operator has to start it again.
        let victim = if number % 5 == 4 { supervisor } else { worker };
        moments.push(now_ns()?);
        signal(victim, Signal::KILL);
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
    for volume in system.volumes() {
        only_the_newest_has_room(&volume)?;
    }

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

/// What is left in a file that is full: less than another GOP (2 Mbit/s, a second) and the index.
const MAX_LEFT_BYTES: u64 = 1 << 20;

/// However often it was killed: of the files of a stream only the newest has room.
fn only_the_newest_has_room(volume: &Path) -> Result<()> {
    let mut streams = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    for path in segment_files(&volume.join("streams"))? {
        let stream = path.parent().and_then(Path::parent).context("a segment outside of a stream's folder")?;
        streams.entry(stream.to_owned()).or_default().push(path);
    }
    ensure!(!streams.is_empty(), "no segments in {}", volume.display());
    for files in streams.values_mut() {
        files.sort();
        files.pop();
        for path in files {
            let left = free_at_the_end(&std::fs::read(&path)?).with_context(|| path.display().to_string())?;
            ensure!(left <= MAX_LEFT_BYTES, "{} has {left} bytes left, and is not the newest", path.display());
        }
    }
    Ok(())
}

fn segment_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(segment_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "mp4") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Length of the `free` box that an MP4 ends with, 0 where it ends with another one (ISO/IEC 14496-12 §4.2, §8.1.2).
fn free_at_the_end(file: &[u8]) -> Result<u64> {
    let mut rest = file;
    let mut free = 0;
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let (length, kind) = head.split_at(4);
        let length = u32::from_be_bytes(length.try_into()?);
        free = if kind == b"free" { u64::from(length) } else { 0 };
        rest = rest.get(usize::try_from(length)?..).filter(|_| length >= 8).context("a box reaches past the end")?;
    }
    Ok(free)
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
