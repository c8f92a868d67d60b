//! Disks that fail or hang under a running recorder: ext4 on loop devices. Needs root, and fails without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
use framekeeper_e2e::disk::LoopDisk;
use framekeeper_e2e::harness::{Cameras, Running, count, get, poll, program};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{self, PoolPlan, StreamPlan, System, with_volumes};
use framekeeper_e2e_power::faulty::{Death, Kind};
use framekeeper_e2e_power::mount::DiskProcess;
use serde_json::Value;

/// A stream must be durable again so soon after its disk failed or hung (`faults.md` rows 5 and 6).
const BACK: Duration = Duration::from_secs(5);
/// The API answers so fast, whatever a disk does.
const ANSWER: Duration = Duration::from_millis(1_000);
/// Who waits for a disk that hangs waits until it is left, 3 s behind the sync that it should have made by then: longer than this.
const LEFT: Duration = Duration::from_millis(2_500);
const VOLUMES: [&str; 2] = ["first", "second"];
const DISK_BYTES: u64 = 400 << 20;

/// Where the recorder's volumes are.
fn volumes(folder: &Path) -> PathBuf {
    folder.join("data/volumes/main-recorder-0")
}

struct Site {
    // Dropped in this order: nobody may use the disks when they are taken apart.
    system: System,
    cameras: Cameras,
    disks: Vec<LoopDisk>,
    /// What the disks' blocks are in, where they can be told to die.
    below: Vec<DiskProcess>,
    names: Vec<String>,
    volumes: PathBuf,
    folder: tempfile::TempDir,
}

impl Site {
    /// Four cameras, one recorder, two disks.
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disks = VOLUMES
            .iter()
            .map(|name| LoopDisk::new(folder.path(), name, DISK_BYTES, &volumes(folder.path()).join(name)))
            .collect::<Result<Vec<_>>>()?;
        Self::on(folder, disks, Vec::new(), "auto")
    }

    /// The same on disks that can be told to die, written as `writes` says.
    fn on_mortal_disks(writes: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (mut disks, mut below) = (Vec::new(), Vec::new());
        for name in VOLUMES {
            let place = folder.path().join(name);
            std::fs::create_dir(&place)?;
            let blocks = DiskProcess::faulty(&program("power-disk")?, &place, DISK_BYTES)?;
            disks.push(LoopDisk::on(&blocks.file(), &volumes(folder.path()).join(name))?);
            below.push(blocks);
        }
        Self::on(folder, disks, below, writes)
    }

    fn on(folder: tempfile::TempDir, disks: Vec<LoopDisk>, below: Vec<DiskProcess>, writes: &str) -> Result<Self> {
        let volumes = volumes(folder.path());
        let cameras = Cameras::start(
            folder.path(),
            0,
            &["name=cam,count=4,kind=synthetic,width=640,height=360,fps=25,bitrate=1M,gop=50,audio=aac".to_owned()],
        )?;
        let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let plan = PoolPlan {
            recorders: 1,
            max_channels: names.len(),
            budget: "256Mi".to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let manifest = folder.path().join("pool.yaml");
        std::fs::write(&manifest, with_volumes(&plan.manifest(), &VOLUMES)?)?;
        let mut system = System::start_writing(folder.path(), manifest, 1, writes)?;
        system.wait_recording(&names, Duration::from_secs(30))?;
        Ok(Self { system, cameras, disks, below, names, volumes, folder })
    }

    /// Wall time, in nanoseconds, up to which each stream is durable.
    fn durable(&self) -> Result<BTreeMap<String, i64>> {
        let mut times = BTreeMap::new();
        for channel in self.system.channels(0)?.unwrap_or_default() {
            let text = |key: &str| channel.get(key).and_then(Value::as_str);
            if let (Some(name), Some(durable)) = (text("name"), text("durable")) {
                let time: jiff::Timestamp = durable.parse()?;
                times.insert(name.to_owned(), i64::try_from(time.as_nanosecond())?);
            }
        }
        Ok(times)
    }

    /// Asks for all channels and for the coverage of each stream: how long the answers took, when it was asked, in nanoseconds since 1970, and up to
    /// when each stream was durable then.
    fn ask(&self) -> Result<(Duration, i64, BTreeMap<String, i64>)> {
        let asked = Instant::now();
        let asked_ns = now_ns()?;
        let durable = self.durable()?;
        for name in &self.names {
            let answer = get(self.system.http(0), &format!("/v1/streams/default/{name}/coverage"))?;
            ensure!(answer.status == 200, "coverage of {name}: {}", answer.text());
        }
        Ok((asked.elapsed(), asked_ns, durable))
    }

    /// Waits until every stream is durable beyond `moment`.
    fn wait_durable(&self, moment: i64, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        let back = poll(patience, Duration::from_millis(50), || {
            let durable = self.durable()?;
            Ok(self.names.iter().all(|name| durable.get(name).is_some_and(|time| *time > moment)).then_some(()))
        })?;
        ensure!(
            back.is_some(),
            "not durable {patience:?} after it: {:?}\n{}",
            self.durable()?,
            self.system.operator.log_tail()
        );
        Ok(start.elapsed())
    }

    /// What the recorder's status says of a volume: state and reason.
    fn state(&self, volume: &str) -> Result<(String, String)> {
        let metrics = get(self.system.http(0), "/metrics")?.text();
        let line = format!("framekeeper_volume_state{{volume=\"{volume}\",state=\"");
        let state = metrics.lines().find_map(|l| {
            let (state, value) = l.strip_prefix(&line)?.split_once("\"} ")?;
            (value.trim() == "1").then(|| state.to_owned())
        });
        Ok((state.with_context(|| format!("no state of {volume} in the metrics"))?, metrics))
    }

    fn wait_state(&self, volume: &str, wanted: &str, patience: Duration) -> Result<()> {
        let seen = poll(patience, Duration::from_millis(50), || Ok((self.state(volume)?.0 == wanted).then_some(())))?;
        ensure!(
            seen.is_some(),
            "{volume} is {}, not {wanted}: {}",
            self.state(volume)?.0,
            self.system.operator.log_tail()
        );
        Ok(())
    }

    /// `framekeeper-recorder volume …`, as a person at the machine.
    fn volume(&self, verb: &str, name: &str) -> Result<()> {
        local::volume(verb, name, &self.volumes)
    }

    /// Stops everything and has both volumes judged together: nothing is missing.
    fn judge(mut self) -> Result<()> {
        std::thread::sleep(Duration::from_secs(1));
        let stop = now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        self.system.stop()?;
        let volumes: Vec<PathBuf> = VOLUMES.iter().map(|name| self.volumes.join(name)).collect();
        let mut arguments = judge::volumes(&self.cameras.ledgers, &volumes);
        arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
        judge::check(&arguments)?;
        for volume in &volumes {
            judge::python_reader(volume)?;
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_fails_costs_no_frame() -> Result<()> {
    let site = Site::start()?;
    let mut slowest = Duration::ZERO;
    for number in 0..count(3, 20) {
        // Some writes and syncs later each time, so that another one is hit.
        std::thread::sleep(Duration::from_millis(2_500 + 137 * number as u64));
        let (name, disk) = (VOLUMES[number % 2], &site.disks[number % 2]);
        disk.fail()?;
        let moment = now_ns()?;
        slowest = slowest.max(site.wait_durable(moment, BACK)?);
        site.wait_state(name, "Failed", BACK)?;
        // A person puts a good disk in its place while the other one records: that fails next.
        site.volume("stop", name)?;
        disk.repair()?;
        site.volume("start", name)?;
        site.wait_state(name, "Ready", BACK)?;
    }
    judge::result(&format!("failed disks: durable again after at most {slowest:?}"));
    site.judge()
}

/// The k-th block write, or flush, from some moment on fails, and all of its kind behind it: below the file system, so that its own writes are
/// hit as well.
#[test]
fn a_device_that_fails_at_its_kth_write_or_flush_costs_no_frame() -> Result<()> {
    for writes in ["direct", "buffered"] {
        let mut site = Site::on_mortal_disks(writes)?;
        let (mut slowest, mut seen) = (Duration::ZERO, Vec::new());
        let rounds = count(2, 10) as u64;
        for round in 0..rounds {
            let at = usize::from(round % 2 == 1);
            let name = VOLUMES[at];
            // A tick of these cameras makes some ten writes, half a second one sync.
            let death = match round % 2 == 0 {
                true => Death { kind: Kind::Write, after: 13 * round },
                false => Death { kind: Kind::Flush, after: round },
            };
            site.below[at].set(Some(death))?;
            site.wait_state(name, "Failed", Duration::from_secs(30))?;
            let moment = now_ns()?;
            slowest = slowest.max(site.wait_durable(moment, BACK)?);
            seen.push(format!("{:?} {}", death.kind, death.after));
            site.volume("stop", name)?;
            site.below[at].set(None)?;
            site.disks[at].repair()?;
            site.volume("start", name)?;
            site.wait_state(name, "Ready", BACK)?;
        }
        judge::result(&format!(
            "{writes}: {rounds} dying devices ({}): all durable again at most {slowest:?} after the failure was seen",
            seen.join(", ")
        ));
        site.judge()?;
    }
    Ok(())
}

/// What a device cannot say, but a file system can: the k-th write, or sync, of the volume's threads fails with ENOSPC.
#[test]
fn a_system_call_that_finds_no_space_costs_no_frame() -> Result<()> {
    let site = Site::on_mortal_disks("buffered")?;
    let (_, worker) = supervisor_and_worker(site.system.operator.pid(), site.system.http(0))?;
    let mut slowest = Duration::ZERO;
    let rounds = count(2, 10);
    // Volumes are numbered as they are opened: the threads' names tell.
    let mut numbers = [0, 1];
    for round in 0..rounds {
        let at = round % 2;
        let name = VOLUMES[at];
        let (thread, calls) = match round / 2 % 2 {
            0 => ("writer", "pwrite64,pwritev,pwritev2"),
            _ => ("sync", "fdatasync,fsync,syncfs"),
        };
        let task = thread_of(worker, &format!("store-{thread}-{}", numbers[at]))?;
        let inject = format!("inject={calls}:error=ENOSPC:when={}", 1 + round / 4 * 7);
        let log = site.folder.path().join(format!("strace-{round}"));
        let mut command = Command::new("strace");
        command.args(["-q", "-p", &task.to_string(), "-e", &format!("trace={calls}"), "-e", &inject]);
        let mut tracer = Running::start("strace", &mut command, &log)?;
        site.wait_state(name, "Failed", Duration::from_secs(30))?;
        tracer.stop(Duration::from_secs(10))?;
        let moment = now_ns()?;
        slowest = slowest.max(site.wait_durable(moment, BACK)?);
        site.volume("stop", name)?;
        site.volume("start", name)?;
        site.wait_state(name, "Ready", BACK)?;
        numbers[at] = numbers[0].max(numbers[1]) + 1;
    }
    judge::result(&format!(
        "{rounds} calls without space: all durable again at most {slowest:?} after the failure was seen"
    ));
    site.judge()
}

/// The thread of a process with that name.
fn thread_of(process: u32, name: &str) -> Result<u32> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(task.file_name().and_then(|id| id.to_str()).context("no thread")?.parse()?);
        }
    }
    anyhow::bail!("process {process} has no thread {name}")
}

/// Sorts; gives the one that a quarter are faster than: what else this machine does hardly shows in it, a wait for a disk does.
fn quick(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 4).copied().unwrap_or_default()
}

#[test]
fn a_disk_that_hangs_is_in_nobodys_way() -> Result<()> {
    let mut site = Site::start()?;
    std::thread::sleep(Duration::from_secs(3));
    let hang = Duration::from_secs(count(8, 30) as u64);
    // What is normal on this machine now: the same questions, with no disk hanging.
    let mut normal = Vec::new();
    for _ in 0..30 {
        normal.push(site.ask()?.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    let (mut answers, mut most_bytes, mut worst_lag) = (Vec::new(), 0.0_f64, 0);
    let before = now_ns()?;
    if let Some(disk) = site.disks.first_mut() {
        disk.freeze()?;
    }
    let start = Instant::now();
    while start.elapsed() < hang {
        let hanging = start.elapsed();
        let (took, asked_ns, durable) = site.ask()?;
        answers.push(took);
        // At most half of the streams are on the disk that hangs; no other lags.
        let mut lags: Vec<i64> =
            site.names.iter().map(|name| asked_ns - durable.get(name).copied().unwrap_or(before)).collect();
        lags.sort_unstable();
        worst_lag = worst_lag.max(lags[lags.len() / 2 - 1]);
        if hanging > BACK {
            ensure!(lags.iter().all(|lag| *lag < 3_000_000_000), "still not durable: {lags:?}");
        }
        let (_, metrics) = site.state(VOLUMES[0])?;
        let memory = metrics.lines().filter_map(|l| l.strip_prefix("framekeeper_stream_memory_bytes{"));
        let bytes: f64 = memory.filter_map(|l| l.split_whitespace().last()?.parse::<f64>().ok()).sum();
        most_bytes = most_bytes.max(bytes);
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(site.state(VOLUMES[0])?.0 == "Hanging", "{}", site.system.operator.log_tail());
    if let Some(disk) = site.disks.first_mut() {
        disk.thaw()?;
    }
    site.wait_state(VOLUMES[0], "Ready", BACK)?;
    ensure!(worst_lag < 2_500_000_000, "streams of the other disk lagged by {worst_lag} ns");
    let (usual_before, slowest_before) = (quick(&mut normal), normal.last().copied().unwrap_or_default());
    // A wait for a disk would be in one answer after the other; one alone that is late is this machine that stood still.
    let limit = ANSWER.max(slowest_before * 3);
    ensure!(
        !answers.windows(2).any(|pair| pair.iter().all(|took| *took >= limit)),
        "the API took {answers:?}, before the hang at most {slowest_before:?}"
    );
    let (usual, slowest) = (quick(&mut answers), answers.last().copied().unwrap_or_default());
    ensure!(
        usual <= usual_before * 3 + Duration::from_millis(50),
        "the API took {usual:?}, before the hang {usual_before:?}"
    );
    // Or one answer would wait until the disk is left, or until it is back.
    ensure!(slowest < limit.max(LEFT), "the API took {slowest:?}, before the hang at most {slowest_before:?}");
    // Four streams of 1 Mbit/s with a key frame every 2 s: some hundred KB each, and less than the hang's worth in any case.
    ensure!(most_bytes < 16e6, "{most_bytes} bytes in memory");
    judge::result(&format!(
        "a hang of {hang:?}: five questions answered in {usual:?}, at most {slowest:?} (before it {usual_before:?}, {slowest_before:?}), at most {:.1} MB of \
         frames in memory, other streams durable within {:.1} s",
        most_bytes / 1e6,
        worst_lag as f64 / 1e9
    ));
    site.judge()
}

#[test]
fn volumes_come_and_go_with_the_manifest() -> Result<()> {
    let mut site = Site::start()?;
    let manifest = site.folder.path().join("pool.yaml");
    let both = std::fs::read_to_string(&manifest)?;
    let begin = both.find("    - name: second\n").context("no second volume")?;
    let end = both[begin..].find("---\n").map_or(both.len(), |at| begin + at);
    std::thread::sleep(Duration::from_secs(2));
    replace(&manifest, &format!("{}{}", &both[..begin], &both[end..]))?;
    // It is drained and closed: nobody has it locked any more.
    let gone =
        poll(Duration::from_secs(15), Duration::from_millis(100), || Ok(site.state("second").is_err().then_some(())))?;
    ensure!(gone.is_some(), "the second volume is still there: {}", site.system.operator.log_tail());
    let identity = std::fs::read_to_string(site.volumes.join("second/framekeeper.json"))?;
    ensure!(identity.contains("\"closed\":true"), "{identity}");
    std::thread::sleep(Duration::from_secs(2));
    replace(&manifest, &both)?;
    let back = poll(Duration::from_secs(15), Duration::from_millis(100), || {
        Ok(site.state("second").ok().filter(|(state, _)| state == "Ready").map(drop))
    })?;
    ensure!(back.is_some(), "the second volume does not come: {}", site.system.operator.log_tail());
    site.volume("drain", "first")?;
    std::thread::sleep(Duration::from_secs(3));
    site.system.wait_recording(&site.names.clone(), Duration::from_secs(5))?;
    site.judge()
}

fn replace(manifest: &Path, text: &str) -> Result<()> {
    let new = manifest.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, manifest)?;
    Ok(())
}
