//! `placement: RoundRobin`: each next segment of a stream on the next volume, and reading puts them together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, get, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{self, PoolPlan, StreamPlan, System, with_volumes};
use framekeeper_e2e::shelf::{Shelved, shelved};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const VOLUMES: [&str; 3] = ["first", "second", "third"];
const PATIENCE: Duration = Duration::from_secs(30);

fn start(folder: &Path) -> Result<(System, Cameras, Vec<String>)> {
    // A segment of 4 MiB lasts about 2 s; sound is there to be put together as well.
    let spec = "name=cam,count=2,kind=synthetic,width=640,height=360,fps=25,bitrate=16M,gop=10,audio=aac".to_owned();
    let cameras = Cameras::start(folder, 0, &[spec])?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let manifest =
        with_volumes(&plan.manifest(), &VOLUMES)?.replace("  storage:\n", "  storage:\n    placement: RoundRobin\n");
    let path = folder.join("pool.yaml");
    std::fs::write(&path, manifest)?;
    let mut system = System::start_on(folder, path, 1)?;
    system.wait_recording(&names, PATIENCE)?;
    Ok((system, cameras, names))
}

fn below(system: &System) -> PathBuf {
    system.data.join("volumes/main-recorder-0")
}

fn folders(system: &System) -> Vec<PathBuf> {
    VOLUMES.iter().map(|name| below(system).join(name)).collect()
}

/// Waits until so many segments more were sealed, over all volumes.
fn wait_sealed(system: &System, more: f64) -> Result<()> {
    let sealed = || -> Result<f64> {
        let text = get(system.http(0), "/metrics")?.text();
        let lines = text.lines().filter(|line| line.starts_with("framekeeper_volume_sealed_segments_total{"));
        Ok(lines.filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok()).sum())
    };
    let before = sealed()?;
    let enough =
        poll(Duration::from_secs(60), Duration::from_millis(50), || Ok((sealed()? >= before + more).then_some(())))?;
    enough.with_context(|| format!("{} sealed after {before}: {}", sealed().unwrap_or(0.0), system.operator.log_tail()))
}

/// Stops everything, and has all volumes judged together: nothing is missing, and nothing is there twice.
fn judge_all(mut system: System, cameras: &Cameras) -> Result<Vec<Shelved>> {
    std::thread::sleep(Duration::from_secs(1));
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;
    let volumes = folders(&system);
    let mut arguments = judge::volumes(&cameras.ledgers, &volumes);
    arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)?;
    for volume in &volumes {
        judge::python_reader(volume)?;
    }
    shelved(&volumes)
}

/// The only run of a stream: from, to, frames.
fn only_run(system: &System, name: &str) -> Result<(Timestamp, Timestamp, u64)> {
    let coverage = get(system.http(0), &format!("/v1/streams/default/{name}/coverage"))?.json()?;
    let runs = coverage.get("runs").and_then(Value::as_array).context("no runs")?;
    ensure!(runs.len() == 1, "{name} has {} runs: {coverage}", runs.len());
    let run = runs.first().context("no run")?;
    let time = |key: &str| -> Result<Timestamp> {
        Ok(run.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {run}"))?.parse()?)
    };
    ensure!(run.get("active").and_then(Value::as_bool) == Some(true), "{run}");
    Ok((time("from")?, time("to")?, run.get("frames").and_then(Value::as_u64).unwrap_or(0)))
}

#[test]
fn segments_go_to_each_volume_in_turn_and_are_read_as_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (system, cameras, names) = start(folder.path())?;
    wait_sealed(&system, 12.0)?;
    for name in &names {
        let (from, to, frames) = only_run(&system, name)?;
        let expected = to.duration_since(from).as_millis() / 40;
        ensure!(i128::from(frames).abs_diff(expected) <= 1, "{name}: {frames} frames from {from} to {to}");
        // A clip that begins and ends inside of segments, with several whole ones on other volumes between.
        let (from, to) = (
            from.checked_add(SignedDuration::from_millis(1_130))?,
            to.checked_add(SignedDuration::from_millis(-1_970))?,
        );
        let path = format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}");
        let clip = get(system.http(0), &path)?;
        ensure!(clip.status == 200, "{path}: {} {}", clip.status, clip.text());
        let file = folder.path().join("clip.mp4");
        std::fs::write(&file, &clip.body)?;
        let mut arguments = judge::volumes(&cameras.ledgers, &folders(&system));
        for argument in
            ["--live", "--union", "--clip", &file.display().to_string(), "--stream", &format!("default/{name}")]
        {
            arguments.push(argument.to_owned());
        }
        arguments.extend(["--from".to_owned(), from.to_string(), "--to".to_owned(), to.to_string()]);
        judge::check(&arguments).with_context(|| path.clone())?;
    }
    let all = judge_all(system, &cameras)?;
    let mut spread = Vec::new();
    for name in &names {
        let of: Vec<&Shelved> = all.iter().filter(|segment| segment.stream == format!("default/{name}")).collect();
        let mut counts: BTreeMap<&Path, usize> = BTreeMap::new();
        of.iter().for_each(|segment| *counts.entry(&segment.volume).or_default() += 1);
        let (most, least) = (counts.values().max().copied().unwrap_or(0), counts.values().min().copied().unwrap_or(0));
        ensure!(counts.len() == 3 && most - least <= 1, "{name}: {counts:?}");
        // In turn: any three in a row are on three volumes.
        for three in of.windows(3) {
            let on: std::collections::BTreeSet<_> = three.iter().map(|segment| &segment.volume).collect();
            ensure!(on.len() == 3, "{name}: {three:?}");
        }
        spread.push(counts.into_values().collect::<Vec<_>>());
    }
    judge::result(&format!("round robin over three volumes: {spread:?} segments of each stream, one run each"));
    Ok(())
}

#[test]
fn a_volume_that_is_drained_leaves_the_round_and_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (system, cameras, _) = start(folder.path())?;
    wait_sealed(&system, 3.0)?;
    local::volume("drain", "second", &below(&system))?;
    let drained_us = now_ns()? / 1_000;
    wait_sealed(&system, 6.0)?;
    let again_us = now_ns()? / 1_000;
    local::volume("start", "second", &below(&system))?;
    wait_sealed(&system, 8.0)?;
    let all = judge_all(system, &cameras)?;
    let on_second = |begun: &dyn Fn(i64) -> bool| {
        let of = all.iter().filter(|segment| begun(segment.first_us));
        of.filter(|segment| segment.volume.ends_with("second")).count()
    };
    ensure!(on_second(&|us| us < drained_us) > 0, "{all:#?}");
    // What began in the moment of the command may still have been there.
    ensure!(on_second(&|us| us > drained_us && us < again_us) == 0, "{all:#?}");
    ensure!(on_second(&|us| us > again_us) > 0, "{all:#?}");
    Ok(())
}
