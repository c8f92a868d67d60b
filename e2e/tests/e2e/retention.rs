//! How long footage is kept: by bytes and by age of a stream, over two volumes. Judged by the files on the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, poll};
use framekeeper_e2e::judge::{self, now_ns, segments};
use framekeeper_e2e::local::{self, PoolPlan, StreamPlan, System, with_stream_spec, with_volumes};
use framekeeper_e2e::shelf::{Shelved, shelved};

const VOLUMES: [&str; 2] = ["first", "second"];
/// A segment of 4 MiB of this camera lasts about 2 s.
const CAMERA: &str = "kind=synthetic,width=640,height=360,fps=25,bitrate=16M,gop=10";
/// What is said to go is gone so soon, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn plan(cameras: &Cameras, names: &[&str], budget: &str) -> PoolPlan {
    PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: budget.to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    }
}

fn below(system: &System) -> PathBuf {
    system.data.join("volumes/main-recorder-0")
}

fn folders(system: &System) -> Vec<PathBuf> {
    VOLUMES.iter().map(|name| below(system).join(name)).collect()
}

/// The files of a stream on both volumes.
fn files(system: &System, stream: &str) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for folder in folders(system) {
        let streams = folder.join("streams/default").join(stream);
        // Not there before the first segment and after the last one; a folder of a day may go while it is listed.
        all.extend(segments(&streams).unwrap_or_default());
    }
    Ok(all)
}

/// Waits until nothing is recorded.
fn wait_idle(system: &System) -> Result<()> {
    let idle = poll(PATIENCE, Duration::from_millis(50), || Ok(system.channels(0)?.filter(Vec::is_empty).map(drop)))?;
    idle.with_context(|| format!("still recording: {}", system.operator.log_tail()))
}

#[test]
fn of_two_streams_on_two_volumes_one_keeps_its_newest_bytes_and_one_its_youngest_footage() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(folder.path(), 0, &[format!("name=bytes,{CAMERA}"), format!("name=age,{CAMERA}")])?;
    let max_age_us: i64 = 10_000_000;
    let bytes = "retention: {maxBytes: 12Mi}";
    let both = with_volumes(&plan(&cameras, &["bytes", "age"], "128Mi").manifest(), &VOLUMES)?;
    let both = with_stream_spec(&with_stream_spec(&both, "bytes", bytes)?, "age", "retention: {maxAge: 10s}")?;
    let path = folder.path().join("pool.yaml");
    std::fs::write(&path, &both)?;
    let mut system = System::start_on(folder.path(), path.clone(), 1)?;
    system.wait_recording(&["bytes".to_owned(), "age".to_owned()], PATIENCE)?;
    // From one volume to the other and back: on each a segment is left that is not full.
    for volume in VOLUMES {
        std::thread::sleep(Duration::from_secs(3));
        local::volume("drain", volume, &below(&system))?;
        std::thread::sleep(Duration::from_secs(3));
        local::volume("start", volume, &below(&system))?;
    }
    // One is suspended; the other is gone, and after the restart nobody tells how long it was to be kept.
    let one = with_volumes(&plan(&cameras, &["bytes"], "128Mi").manifest(), &VOLUMES)?;
    let one = with_stream_spec(&with_stream_spec(&one, "bytes", bytes)?, "bytes", "suspend: true")?;
    system.edit(&one)?;
    wait_idle(&system)?;
    system.stop()?;
    let mut system = System::start_on(folder.path(), path, 1)?;
    system.wait_ready(0, PATIENCE)?;

    let mut last_seen = BTreeMap::new();
    let mut seen_gone = BTreeMap::new();
    let gone = poll(PATIENCE + Duration::from_micros(max_age_us.unsigned_abs()), Duration::from_millis(100), || {
        let before_us = now_ns()? / 1_000;
        let now = files(&system, "age")?;
        let after_us = now_ns()? / 1_000;
        for file in last_seen.keys().filter(|file| !now.contains(*file)) {
            seen_gone.entry(PathBuf::clone(file)).or_insert(after_us);
        }
        let none = now.is_empty();
        last_seen.extend(now.into_iter().map(|file| (file, before_us)));
        Ok((none && files(&system, "bytes")?.len() == 3).then_some(()))
    })?;
    ensure!(
        gone.is_some(),
        "of age there are {:?}, of bytes {:?}: {}",
        files(&system, "age")?,
        files(&system, "bytes")?,
        system.operator.log_tail()
    );
    let left = files(&system, "bytes")?;
    system.stop()?;

    let all = shelved(&folders(&system))?;
    let of = |stream: &str| -> Vec<&Shelved> {
        let mut of: Vec<_> = all.iter().filter(|s| s.stream == format!("default/{stream}")).collect();
        // Of two that overlap, because the stream went to another volume, the one that ends later is the newer.
        of.sort_by_key(|s| s.end_us);
        of
    };
    // What was recorded last is not sealed: it is the third that is kept.
    let sealed: BTreeSet<_> = of("bytes").iter().map(|s| s.path.clone()).collect();
    let open: Vec<_> = left.difference(&sealed).collect();
    let latest = left.iter().max_by_key(|file| file.file_name());
    ensure!(open.iter().all(|file| Some(*file) == latest), "{left:?}");
    let newest: BTreeSet<_> = of("bytes").iter().rev().take(3 - open.len()).map(|s| s.path.clone()).collect();
    let there: BTreeSet<_> = of("bytes").iter().filter(|s| s.gone.is_none()).map(|s| s.path.clone()).collect();
    ensure!(of("bytes").len() > 6 && there == newest, "{:#?}", of("bytes"));
    ensure!(there.iter().chain(open).cloned().collect::<BTreeSet<_>>() == left, "{left:?}");
    let on: BTreeSet<_> = of("age").iter().map(|segment| segment.volume.clone()).collect();
    ensure!(on.len() == 2, "all of age was on one volume");
    // None too early: that is exact. None was left behind longer than a look at a busy machine takes.
    let mut latest_us = 0;
    for segment in of("age") {
        let Some(gone_us) = seen_gone.get(&segment.path) else { continue };
        let age_us = gone_us - segment.end_us;
        ensure!(age_us >= max_age_us, "{} went when it was {age_us} us old", segment.path.display());
        let seen_us = last_seen.get(&segment.path).copied().unwrap_or(0) - segment.end_us;
        latest_us = latest_us.max(seen_us - max_age_us);
    }
    ensure!(!seen_gone.is_empty(), "nothing went by age while it was looked at");
    ensure!(latest_us < 10_000_000, "a file was there {latest_us} us after its time");
    for volume in folders(&system) {
        judge::python_reader(&volume)?;
    }
    judge::result(&format!(
        "maxBytes: the newest 3 segments stay of {} on two volumes; maxAge: {} segments seen to go, none early, the last {:.1} s late",
        of("bytes").len() + usize::from(left.len() > there.len()),
        seen_gone.len(),
        latest_us as f64 / 1e6
    ));
    Ok(())
}
