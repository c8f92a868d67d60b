//! Losses of power: the recorder on a disk that logs its blocks, and what it makes of the images of that disk.
//!
//! What a disk keeps is in `framekeeper-e2e-power`; here are the recorder, its cameras and the judges around it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use framekeeper_e2e_checker::ledger::Ledger;
use framekeeper_e2e_checker::volume::{State, Volume};
use framekeeper_e2e_power::image::{Cut, Survival};
use framekeeper_e2e_power::log::Log;
use framekeeper_e2e_power::mount::{Came, DiskProcess, LoopDevice, Mounted, make_ext4, private_namespace};
use framekeeper_e2e_power::recover::{Recovered, Site, by_program};
use framekeeper_e2e_power::verdict::{Promise, Sample, Verdict, Violation, verdict};
use framekeeper_e2e_power::{monotonic_ns, wall_ns};
use serde_json::Value;

use crate::bench::process::family;
use crate::harness::{Cameras, Running, get, poll, program};
use crate::local::{PoolPlan, StreamPlan, System};

/// Size of the disk: little more than what the volume and ext4 need, so that a file too many is noticed.
pub const DISK_BYTES: u64 = 88 << 20;
/// The least there is, so that segments are sealed, retired and used again within seconds.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Files of the volume: two for each stream, and two spare ones, the least that is allowed.
const FILES: u64 = 18;
/// Of the pool: `segment.part` and `segment.sync` as they are when nobody sets them, and the tick.
const PART_TICK_AND_SYNC_MS: f64 = 500.0 + 100.0 + 500.0;
/// One frame at 25 a second.
const FRAME_MS: f64 = 40.0;
/// When recording must be possible after a start.
const MAX_OPEN_MS: f64 = 2_000.0;
/// Between questions after durable times.
const SAMPLE: Duration = Duration::from_millis(50);

/// Where the file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the volume: one `syncfs` for all.
    Volume,
    /// The whole data folder is on it, operator and all: an `fdatasync` for each file.
    Data,
}

/// What is done to a recorder to see whether the proof notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Its syncs do nothing and succeed.
    NoSync,
    /// Every other sync does nothing and succeeds: what it should have made durable, the next one does.
    LateSync,
}

/// A recording on a logged disk.
#[derive(Debug)]
pub struct Recording {
    /// Where the log and the recorder's files are.
    pub folder: PathBuf,
    /// Where the file system was.
    pub place: Place,
    log: Arc<Log>,
    ledgers: PathBuf,
    manifest: PathBuf,
    durable: Vec<Sample>,
    from: Vec<Sample>,
    /// Cuts are made from here to there, nanoseconds of the monotonic clock.
    window: (u64, u64),
    restarted_ns: i64,
    /// No sync took longer, milliseconds.
    pub max_sync_ms: f64,
    /// For how long this machine let nobody work within any second and a half, milliseconds.
    pub stalled_ms: f64,
    /// What the recorder did: segments sealed, segments retired, syncs.
    pub counts: (u64, u64, u64),
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
    Cameras::start(folder, 0, &[spec("fast", "8M"), spec("slow", "5M")])
}

/// Records for so long on a logged disk. To be called in a private mount namespace.
///
/// # Errors
/// When anything does not go as it should; the disk is taken down then too.
pub fn record(
    folder: &Path,
    cameras: &Cameras,
    place: Place,
    time: Duration,
    harm: Option<Sabotage>,
) -> Result<Recording> {
    fs::create_dir_all(folder)?;
    let disk = DiskProcess::record(&program("power-disk")?, folder, DISK_BYTES)?;
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
    // Recorded a little before, and stopped in order: so that there is a catalogue, which the loss of power finds out of date.
    let mut system = System::start(folder, &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    system.stop()?;
    let restarted_ns = crate::judge::now_ns()?;
    let mut system = System::start(folder, &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let tracer = harm.map(|harm| sabotage(harm, folder, &system)).transpose()?;
    if tracer.is_some() {
        // What was synced in order before is not to be told from the rest.
        std::thread::sleep(Duration::from_secs(1));
    }
    let begin = monotonic_ns();
    let (durable, from, stalled_ms) = sample(system.http(0), &names, time)?;
    let (max_sync_ms, counts) = numbers(system.http(0))?;
    if let Some(mut tracer) = tracer {
        tracer.stop(Duration::from_secs(5))?;
    }
    system.stop()?;
    mounted.unmount()?;
    disk.stop()?;
    let last = from.last().context("no answer of the recorder")?.asked_ns;
    let log = Log::read(&DiskProcess::log(folder))?;
    let recording = Recording {
        folder: folder.to_owned(),
        place,
        log: Arc::new(log),
        ledgers: cameras.ledgers.clone(),
        manifest: system.manifest.clone(),
        durable,
        from,
        window: (begin, last.saturating_sub(1_600_000_000)),
        restarted_ns,
        max_sync_ms,
        stalled_ms,
        counts,
    };
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

/// Makes the recorder believe in syncs that never were.
fn sabotage(harm: Sabotage, folder: &Path, system: &System) -> Result<Running> {
    let worker = *family(&[system.operator.pid()]).last().context("no recorder process")?;
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
    let all = poll(Duration::from_secs(10), Duration::from_millis(10), || {
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

/// Asks the recorder for so long how far its streams are durable, and from when on they are there.
fn sample(recorder: SocketAddr, names: &[String], time: Duration) -> Result<(Vec<Sample>, Vec<Sample>, f64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let from = scope.spawn(|| {
            let mut samples = Vec::new();
            while !done.load(Ordering::Relaxed) {
                samples.push(asked(|| names.iter().map(|name| Ok((name.clone(), first(recorder, name)?))).collect())?);
                std::thread::sleep(SAMPLE * 4);
            }
            Ok::<_, anyhow::Error>(samples)
        });
        let stalls = scope.spawn(|| stalls(&done));
        let until = monotonic_ns() + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut samples = Vec::new();
        let mut failed = None;
        while monotonic_ns() < until && failed.is_none() {
            match asked(|| durable(recorder)) {
                Ok(sample) => samples.push(sample),
                Err(error) => failed = Some(error),
            }
            std::thread::sleep(SAMPLE);
        }
        done.store(true, Ordering::Relaxed);
        let from = from.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let stalled_ms = stalls.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        match failed {
            Some(error) => Err(error),
            None => Ok((samples, from, stalled_ms)),
        }
    })
}

/// How much later than it asked for a thread that only sleeps was woken, at most within a second and a half, milliseconds: a machine
/// that is busy with something else delays the recorder as well.
fn stalls(done: &AtomicBool) -> f64 {
    const NAP: Duration = Duration::from_millis(10);
    const WINDOW_NS: u64 = 1_500_000_000;
    let (mut late, mut worst) = (std::collections::VecDeque::new(), 0_u64);
    while !done.load(Ordering::Relaxed) {
        let before = monotonic_ns();
        std::thread::sleep(NAP);
        let now = monotonic_ns();
        let by = (now - before).saturating_sub(u64::try_from(NAP.as_nanos()).unwrap_or(0));
        // Less than that is the timer's own.
        if by > 1_000_000 {
            late.push_back((now, by));
        }
        while late.front().is_some_and(|&(at, _)| at + WINDOW_NS < now) {
            late.pop_front();
        }
        worst = worst.max(late.iter().map(|&(_, by)| by).sum());
    }
    worst as f64 / 1e6
}

fn asked(ask: impl FnOnce() -> Result<BTreeMap<String, i64>>) -> Result<Sample> {
    let asked_ns = monotonic_ns();
    let times_ms = ask()?;
    Ok(Sample { asked_ns, answered_ns: monotonic_ns(), times_ms })
}

fn ms_of(text: &str) -> Result<i64> {
    Ok(text.parse::<jiff::Timestamp>()?.as_millisecond())
}

fn durable(recorder: SocketAddr) -> Result<BTreeMap<String, i64>> {
    let answer = get(recorder, "/v1/channels")?.json()?;
    let channels = answer.get("channels").and_then(Value::as_array).context("no channels")?;
    let mut times = BTreeMap::new();
    for channel in channels {
        let text = |key: &str| channel.get(key).and_then(Value::as_str);
        if let (Some(name), Some(time)) = (text("name"), text("durable")) {
            times.insert(name.to_owned(), ms_of(time)?);
        }
    }
    Ok(times)
}

fn first(recorder: SocketAddr, name: &str) -> Result<i64> {
    let answer = get(recorder, &format!("/v1/streams/default/{name}/coverage"))?.json()?;
    let from = answer.pointer("/runs/0/from").and_then(Value::as_str);
    ms_of(from.with_context(|| format!("no run of {name}: {answer}"))?)
}

/// From the metrics: the bucket of the longest sync, and (sealed, retired, syncs).
fn numbers(recorder: SocketAddr) -> Result<(f64, (u64, u64, u64))> {
    let text = get(recorder, "/metrics")?.text();
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no metric {name}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    let syncs = value("framekeeper_volume_sync_duration_seconds_count")?;
    let mut longest = f64::INFINITY;
    for line in text.lines().filter(|line| line.starts_with("framekeeper_volume_sync_duration_seconds_bucket")) {
        let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let count: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
        if count >= syncs && bound != "+Inf" {
            longest = longest.min(bound.parse::<f64>()? * 1_000.0);
        }
    }
    let count = |name: &str| -> Result<u64> { Ok(value(name)? as u64) };
    let counts = (
        count("framekeeper_volume_sealed_segments_total")?,
        count("framekeeper_volume_retired_segments_total")?,
        syncs as u64,
    );
    Ok((longest, counts))
}

/// An image, and what became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The cut.
    pub cut: Cut,
    /// What survived behind the last flush.
    pub survival: Survival,
    /// How the file system came back; `None`: not at all.
    pub came: Option<Came>,
    /// How the product recovered it; `None`: not at all.
    pub recovered: Option<Recovered>,
    /// What was found.
    pub verdict: Verdict,
}

impl Recording {
    /// Random cuts within the recording, in order: half of them spread over its time, half over its writes.
    pub fn cuts(&self, count: usize, random: &mut rand::rngs::StdRng) -> Vec<Cut> {
        use rand::RngExt as _;
        let at = |ns: u64| self.log.records.partition_point(|record| record.monotonic_ns <= ns);
        let (first, last) = (at(self.window.0).max(1), at(self.window.1));
        let mut cuts: Vec<_> = (0..count)
            .map(|number| {
                let records = if number % 2 == 0 {
                    at(random.random_range(self.window.0..self.window.1)).clamp(first, last)
                } else {
                    random.random_range(first..=last)
                };
                Cut { records, seed: random.random() }
            })
            .collect();
        cuts.sort_by_key(|cut| cut.records);
        cuts
    }

    /// Writes and flushes that were logged.
    #[must_use]
    pub fn logged(&self) -> (usize, usize) {
        let flushes =
            self.log.records.iter().filter(|record| record.action == framekeeper_e2e_power::log::Action::Flush);
        let flushes = flushes.count();
        (self.log.records.len() - flushes, flushes)
    }

    /// The longest loss that is allowed, milliseconds.
    #[must_use]
    pub fn max_lost_ms(&self) -> f64 {
        PART_TICK_AND_SYNC_MS + self.max_sync_ms + FRAME_MS + self.stalled_ms
    }

    /// The moment of a cut: (monotonic, since 1970) nanoseconds.
    fn moment(&self, cut: Cut) -> (u64, u64) {
        // The disk has taken up its last record, and not the next one.
        let last = self.log.records.get(cut.records.saturating_sub(1));
        last.map_or((0, 0), |record| (record.monotonic_ns, record.wall_ns))
    }

    fn promise(&self, cut: Cut) -> Promise {
        let (monotonic, wall) = self.moment(cut);
        Promise::at(monotonic, wall, &self.durable, &self.from, (self.max_lost_ms(), MAX_OPEN_MS), self.restarted_ns)
    }

    /// Where the volume is below the root of the file system.
    fn volume(&self) -> &'static str {
        match self.place {
            Place::Volume => "",
            Place::Data => "volumes/main-recorder-0/footage",
        }
    }

    /// Recovers the image of each cut, on some threads; tells `progress` of each.
    ///
    /// # Errors
    /// When the machine does not do what it should. What the product does wrong is in the outcomes.
    pub fn images(&self, cuts: &[Cut], progress: impl Fn(&Outcome) + Sync) -> Result<Vec<Outcome>> {
        // A recovery waits for a sync most of the time.
        const WORKERS: usize = 3;
        let ledgers = Ledger::read_all(std::slice::from_ref(&self.ledgers))?;
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = |number: usize| -> Result<()> {
            let folder = self.folder.join(format!("images-{number}"));
            let log = DiskProcess::log(&self.folder);
            let mut disk = DiskProcess::images(&program("power-disk")?, &folder, DISK_BYTES, &log)?;
            while let Some(&cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = self.one(&mut disk, &folder, cut, &ledgers)?;
                progress(&outcome);
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            }
            disk.stop()
        };
        std::thread::scope(|scope| {
            let work = &work;
            let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || work(number))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn one(&self, disk: &mut DiskProcess, folder: &Path, cut: Cut, ledgers: &[Ledger]) -> Result<Outcome> {
        let survival = disk.show(cut)?;
        let mut outcome = Outcome { cut, survival, came: None, recovered: None, verdict: Verdict::default() };
        let wrong = |what: &str, error: &anyhow::Error| Verdict {
            violations: vec![Violation::Wrong(format!("{what}: {error:#}"))],
            ..Verdict::default()
        };
        let (mounted, came) = match Mounted::ext4(LoopDevice::on(&disk.file())?, &folder.join("mounted")) {
            Ok(mounted) => mounted,
            Err(error) => return Ok(Outcome { verdict: wrong("file system", &error), ..outcome }),
        };
        outcome.came = Some(came);
        let site = Site {
            folder: folder.join("mounted").join(self.volume()),
            segment_bytes: SEGMENT_BYTES,
            budget_bytes: FILES * SEGMENT_BYTES,
        };
        outcome.verdict = match by_program(&program("power-recover")?, &site) {
            Err(error) => wrong("recovery", &error),
            Ok(recovered) => {
                outcome.recovered = Some(recovered);
                match Volume::read(&site.folder, State::AtRest) {
                    Ok(volume) => verdict(&volume, ledgers, &recovered, &self.promise(cut)),
                    Err(error) => wrong("volume", &error.into()),
                }
            }
        };
        mounted.unmount()?;
        Ok(outcome)
    }

    /// Starts the whole product on the image of a cut, as after a reboot, and lets it record for `time`. Returns after how many
    /// milliseconds it recorded again.
    ///
    /// # Errors
    /// When it does not, or what is there is not as promised.
    pub fn reboot(&self, cut: Cut, cameras: &Cameras, time: Duration) -> Result<f64> {
        let folder = self.folder.join(format!("reboot-{}-{}", cut.records, cut.seed));
        let log = DiskProcess::log(&self.folder);
        let mut disk = DiskProcess::images(&program("power-disk")?, &folder.join("disk"), DISK_BYTES, &log)?;
        let _survival = disk.show(cut)?;
        let (mounted, _) = Mounted::ext4(LoopDevice::on(&disk.file())?, &folder.join(mount_point(self.place)))?;
        if self.place == Place::Volume {
            // The operator's part of the data folder was on another disk, which lost nothing.
            copy(&self.folder.join("data/run"), &folder.join("data/run"))?;
        }
        let began_ns = i64::try_from(wall_ns())?;
        let mut system = System::start_on(&folder, self.manifest.clone(), 1)?;
        let names = crate::bench::stamps::ledger_names(&cameras.ledgers)?;
        let recorder = system.http(0);
        let back = poll(Duration::from_secs(15), Duration::from_millis(20), || {
            let now = durable(recorder).unwrap_or_default();
            Ok(names.iter().all(|name| now.get(name).is_some_and(|&time| time > began_ns / 1_000_000)).then_some(()))
        })?;
        ensure!(back.is_some(), "not recording 15 s after the start: {}", system.operator.log_tail());
        std::thread::sleep(time);
        let stop = crate::judge::now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        system.stop()?;
        let cut_wall_ns = i64::try_from(self.moment(cut).1)?;
        let json = folder.join("report.json");
        let mut arguments = crate::judge::volumes(&cameras.ledgers, &system.volumes());
        for (name, value) in [
            ("--stop", stop.to_string()),
            ("--kill", cut_wall_ns.to_string()),
            ("--max-missing-ms", self.max_lost_ms().to_string()),
            // The machine was off for as long as the test likes.
            ("--max-back-ms", 1e9.to_string()),
            ("--json", json.display().to_string()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        crate::judge::check(&arguments)?;
        mounted.unmount()?;
        disk.stop()?;
        let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
        let promise = self.promise(cut);
        let mut slowest = 0.0_f64;
        for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
            let name = stream.get("camera").and_then(Value::as_str).unwrap_or_default();
            for hole in stream.pointer("/video/holes").and_then(Value::as_array).context("no holes")? {
                let ns = |key: &str| hole.get(key).and_then(Value::as_i64);
                let from_ms = ns("from_ns").context("a hole without a begin")? / 1_000_000;
                let durable = promise.durable_ms.get(name).copied().unwrap_or(0);
                // Frames are stamped as they are sent, and recorded a moment later.
                ensure!(from_ms + 20 >= durable, "{name}: durable up to {durable}, and missing: {hole}");
                let back = ns("back_ns").context("never recorded again")? - began_ns;
                slowest = slowest.max(back as f64 / 1e6);
            }
        }
        Ok(slowest)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Mounts of its own for this test, and everything there that it needs.
///
/// # Errors
/// Naming what is missing.
pub fn ready() -> Result<()> {
    framekeeper_e2e_power::mount::prerequisites()?;
    private_namespace()
}
