//! Losses of power: the recorder on a disk that logs its blocks, and what it makes of the images of that disk.
//!
//! What a disk keeps is in `framekeeper-e2e-power`; here are the recorder, its cameras and the judges around it.

mod images;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e_power::log::Log;
use framekeeper_e2e_power::monotonic_ns;
use framekeeper_e2e_power::mount::{DiskProcess, LoopDevice, Mounted, make_ext4, private_namespace};
use framekeeper_e2e_power::timing::Timing;
use framekeeper_e2e_power::verdict::Said;

use crate::bench::process::supervisor_and_worker;
use crate::harness::{Cameras, Running, poll, prefer, program};
use crate::local::{PoolPlan, StreamPlan, System};

pub use images::{Judged, Outcome};
use watch::{Delays, Watched, numbers, watch};

/// Size of the disk: little more than what the volume and ext4 need, so that a file too many is noticed.
pub const DISK_BYTES: u64 = 120 << 20;
/// The least there is, so that segments are sealed, retired and used again within seconds.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Files of the volume: two for each stream, and two spare ones, the least that is allowed.
const FILES: u64 = 26;
/// Behind the last cut, so that it is known what retention took.
const AFTER_NS: u64 = 1_600_000_000;

/// Where the file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the volume: one `syncfs` for all.
    Volume,
    /// The whole data folder is on it, operator and all: an `fdatasync` for each file.
    Data,
}

/// How the recorder writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Past the page cache.
    Direct,
    /// Through it.
    Buffered,
}

/// What is done to a recorder to see whether the proof notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Its syncs do nothing and succeed.
    NoSync,
    /// Every other sync does nothing and succeeds: what it should have made durable, the next one does.
    LateSync,
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Where the file system is.
    pub place: Place,
    /// How the recorder writes.
    pub way: Way,
    /// For how long.
    pub time: Duration,
    /// What is done to the recorder.
    pub harm: Option<Sabotage>,
}

/// A recording on a logged disk.
#[derive(Debug)]
pub struct Recording {
    /// Where the log and the recorder's files are.
    pub folder: PathBuf,
    /// What was recorded.
    pub scene: Scene,
    log: Arc<Log>,
    ledgers: PathBuf,
    manifest: PathBuf,
    said: Said,
    delays: Delays,
    /// Cuts are made from here to there, nanoseconds of the monotonic clock.
    window: (u64, u64),
    /// What the recorder did: segments sealed, segments retired.
    pub counts: (u64, u64),
}

/// Starts the eight cameras of a recording.
///
/// # Errors
/// When they don't start.
pub fn cameras(folder: &Path) -> Result<Cameras> {
    // Of two rates, so that segments are not all sealed at once.
    let spec = |name, bitrate| {
        format!("name={name},count=4,kind=synthetic,width=1280,height=720,fps=25,bitrate={bitrate},gop=25,audio=aac")
    };
    let cameras = Cameras::start(folder, 0, &[spec("fast", "8M"), spec("slow", "5M")])?;
    prefer(cameras.process.pid())?;
    Ok(cameras)
}

/// Records on a logged disk. To be called in a private mount namespace.
///
/// # Errors
/// When anything does not go as it should; the disk is taken down then too.
pub fn record(folder: &Path, cameras: &Cameras, scene: Scene) -> Result<Recording> {
    let Scene { place, way, time, harm } = scene;
    fs::create_dir_all(folder)?;
    let disk = DiskProcess::record(&program("power-disk")?, folder, DISK_BYTES)?;
    prefer(disk.pid())?;
    let device = LoopDevice::on(&disk.file())?;
    make_ext4(&device)?;
    let (mounted, _) = Mounted::ext4(device, &folder.join(mount_point(place)))?;
    let names = crate::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: names.len(),
        budget: format!("{}", FILES * SEGMENT_BYTES),
        segment_bytes: format!("{SEGMENT_BYTES}"),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let environment = [
        ("FRAMEKEEPER_WRITES", format!("{way:?}").to_lowercase()),
        ("RUST_LOG", "info,framekeeper::timing=trace".to_owned()),
    ];
    // Recorded a little before, and stopped in order: so that there is a catalogue, which the loss of power finds out of date.
    let mut system = System::start_with_env(folder, &plan, &environment)?;
    system.wait_recording(&names, Duration::from_secs(60))?;
    system.stop()?;
    let log = log_elsewhere(folder)?;
    let restarted_ns = crate::judge::now_ns()?;
    let mut system = System::start_with_env(folder, &plan, &environment)?;
    system.wait_recording(&names, Duration::from_secs(60))?;
    let (_, worker) = supervisor_and_worker(system.operator.pid(), system.http(0))?;
    let tracer = harm.map(|harm| sabotage(harm, folder, worker)).transpose()?;
    if tracer.is_some() {
        // What was synced in order before is not to be told from the rest.
        std::thread::sleep(Duration::from_secs(1));
    }
    let begin = monotonic_ns();
    let Watched { durable, from, delays } = watch(system.http(0), worker, &names, time)?;
    let counts = numbers(system.http(0))?;
    if let Some(mut tracer) = tracer {
        tracer.stop(Duration::from_secs(5))?;
    }
    system.stop()?;
    mounted.unmount()?;
    disk.stop()?;
    let last = from.last().context("no answer of the recorder")?.asked_ns;
    let timing = Timing::parse(&fs::read_to_string(&log)?)?;
    let recording = Recording {
        folder: folder.to_owned(),
        scene,
        log: Arc::new(Log::read(&DiskProcess::log(folder))?),
        ledgers: cameras.ledgers.clone(),
        manifest: system.manifest.clone(),
        said: Said { durable, from, timing, restarted_ns },
        delays,
        window: (begin, last.saturating_sub(AFTER_NS)),
        counts,
    };
    ensure!(recording.window.0 < recording.window.1, "too short for cuts: {time:?}");
    // The blocks were only there to be read by the file system.
    fs::remove_file(folder.join("blocks"))?;
    Ok(recording)
}

fn mount_point(place: Place) -> &'static str {
    match place {
        Place::Volume => "data/volumes/main-recorder-0/footage",
        Place::Data => "data",
    }
}

/// What the recorder logs from its next start on goes past the disk that is looked at: it logs far more than it otherwise would.
fn log_elsewhere(folder: &Path) -> Result<PathBuf> {
    let run = folder.join("data/run");
    let logs = fs::read_dir(&run)?.filter_map(|entry| Some(entry.ok()?.path().join("log"))).filter(|log| log.is_file());
    let logs: Vec<_> = logs.collect();
    let [log] = logs.as_slice() else { anyhow::bail!("not one recorder's log below {}: {logs:?}", run.display()) };
    let target = folder.join("recorder.log");
    fs::remove_file(log)?;
    std::os::unix::fs::symlink(&target, log)?;
    Ok(target)
}

/// Makes the recorder believe in syncs that never were.
fn sabotage(harm: Sabotage, folder: &Path, worker: u32) -> Result<Running> {
    let when = match harm {
        Sabotage::NoSync => "",
        Sabotage::LateSync => ":when=1+2",
    };
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs"]);
    command.arg("-e").arg(format!("inject=fsync,fdatasync,syncfs:retval=0{when}"));
    command.arg("-p").arg(worker.to_string());
    let tracer = Running::start("strace", &mut command, &folder.join("strace.log"))?;
    let threads = format!("/proc/{worker}/task");
    let all = poll(Duration::from_secs(20), Duration::from_millis(10), || {
        let mut traced = true;
        for thread in fs::read_dir(&threads)? {
            let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            traced &= status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"));
        }
        Ok(traced.then_some(()))
    })?;
    all.with_context(|| format!("strace did not take hold of {worker}: {}", tracer.log_tail()))?;
    Ok(tracer)
}

/// Mounts of its own for this test, and everything there that it needs.
///
/// # Errors
/// Naming what is missing.
pub fn ready() -> Result<()> {
    framekeeper_e2e_power::mount::prerequisites()?;
    private_namespace()
}
