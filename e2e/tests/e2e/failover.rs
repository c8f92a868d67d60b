//! A recorder fails: others that stand by record on, and nobody's frame is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
use framekeeper_e2e::disk::LoopDisk;
use framekeeper_e2e::harness::{Cameras, count, get, poll, program, signal};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System, with_pool_spec};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::Value;

/// What a recorder may have at most.
const MOST_CHANNELS: usize = 500;
/// More than the budget of a volume.
const DISK_BYTES: u64 = 1 << 30;
/// Until everything is as planned again: a hold, which doubles with each takeover that follows the one before within [`CALM`], a few seconds of memory, key
/// frames. No promise: it is as long as a hold that doubled takes on a busy machine.
const PROTECTED_WITHIN: Duration = Duration::from_secs(60);
/// After this much time without a takeover a stream is given back as soon as ever.
const CALM: Duration = Duration::from_secs(60);
/// Who has to wait for so long has been struck several times in a row; the next hold would be twice as long.
const FLAPPING: Duration = Duration::from_secs(15);

/// A recorder that did not answer another one in time is left out by that one for two seconds.
pub(super) const COMPLETE_WITHIN: Duration = Duration::from_secs(20);
/// The same for a clip, which has to be taken again.
pub(super) const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Before and behind a failure, in the clips over it.
const BEFORE_NS: i64 = 4_000_000_000;
const BEHIND_NS: i64 = 6_000_000_000;

/// What a recorder says of a stream.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) ordinal: usize,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) reason: String,
}

/// A clip that was taken.
pub(super) struct Taken {
    name: String,
    from: String,
    to: String,
    path: PathBuf,
}

/// What a [`Site`] is made of.
pub(super) struct Setting<'s> {
    /// Recorders.
    pub(super) recorders: usize,
    /// So many of them are in the manifest with which it begins.
    pub(super) at_first: usize,
    /// Specs of cameras.
    pub(super) cameras: Vec<String>,
    /// More of the pool's spec.
    pub(super) pool: &'s str,
    /// Seconds after which streams are given back.
    pub(super) stable: u32,
    /// The operator's command line is added to it.
    pub(super) wrapper: &'s [&'s str],
}

/// A pool whose streams have standbys.
pub(super) struct Site {
    pub(super) system: System,
    recorders: usize,
    pub(super) cameras: Cameras,
    pub(super) names: Vec<String>,
    /// Each stream's primary.
    pub(super) primaries: BTreeMap<String, usize>,
    random: StdRng,
    /// Standbys record as well.
    mirrored: bool,
    pub(super) folder: tempfile::TempDir,
}

impl Site {
    /// `cameras` cameras; `pool`: more of the pool's spec. Streams are given back after 3 s. All are protected when it returns.
    pub(super) fn start(recorders: usize, cameras: usize, pool: &str) -> Result<Self> {
        Self::on(tempfile::tempdir()?, recorders, cameras, pool)
    }

    fn on(folder: tempfile::TempDir, recorders: usize, cameras: usize, pool: &str) -> Result<Self> {
        Self::under(folder, recorders, cameras, pool, &[])
    }

    /// The operator's command line is added to `wrapper`.
    pub(super) fn under(
        folder: tempfile::TempDir,
        recorders: usize,
        cameras: usize,
        pool: &str,
        wrapper: &[&str],
    ) -> Result<Self> {
        // What counts is which frames are there, not how large they are; all of them are decoded in the end.
        let bitrate = if cameras > 30 { "300k" } else { "500k" };
        let spec = format!(
            "name=cam,count={cameras},kind=synthetic,width=320,height=180,fps=25,bitrate={bitrate},gop=50,audio=aac"
        );
        let mut site = Self::set_up(
            folder,
            &Setting { recorders, at_first: recorders, cameras: vec![spec], pool, stable: 3, wrapper },
        )?;
        site.wait_protected()?;
        Ok(site)
    }

    /// Starts everything, and waits for nothing.
    pub(super) fn set_up(folder: tempfile::TempDir, setting: &Setting<'_>) -> Result<Self> {
        let &Setting { recorders, at_first, ref cameras, pool, stable, wrapper } = setting;
        let cameras = Cameras::start(folder.path(), 0, cameras)?;
        let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let plan = PoolPlan {
            recorders: at_first,
            max_channels: (names.len() * 2).min(MOST_CHANNELS),
            // All that a test records must be there at its end: 90 minutes of 60 cameras, some of the time twice.
            budget: if names.len() > 30 { "8Gi" } else { "900Mi" }.to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let manifest = folder.path().join("pool.yaml");
        std::fs::write(&manifest, with_pool_spec(&plan.manifest(), pool)?)?;
        let environment = [("FRAMEKEEPER_STABLE", stable.to_string())];
        let system = System::start_on_under(folder.path(), manifest, recorders, &environment, wrapper)?;
        let seed: u64 = rand::random();
        judge::result(&format!("seed {seed}"));
        let mirrored = pool.contains("Mirrored");
        let random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
        Ok(Self { system, recorders, cameras, names, primaries: BTreeMap::new(), random, mirrored, folder })
    }

    /// What each recorder says of each stream.
    pub(super) fn said(&self) -> Result<BTreeMap<String, Vec<Said>>> {
        self.said_by(0..self.recorders)
    }

    /// What these recorders say of each stream: one that stands still is not to be asked.
    pub(super) fn said_by(&self, recorders: std::ops::Range<usize>) -> Result<BTreeMap<String, Vec<Said>>> {
        let mut said = BTreeMap::<_, Vec<_>>::new();
        for ordinal in recorders {
            for channel in self.system.channels(ordinal)?.unwrap_or_default() {
                let text = |key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let one = Said { ordinal, role: text("role"), state: text("state"), reason: text("reason") };
                said.entry(text("name")).or_default().push(one);
            }
        }
        Ok(said)
    }

    /// Waits until each stream's primary records it, and nobody else, and each standby is ready to.
    pub(super) fn wait_protected(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let mut said = BTreeMap::new();
        let calm = poll(PROTECTED_WITHIN, Duration::from_millis(50), || {
            said = self.said()?;
            let protected = |name: &String| {
                let holders = said.get(name).map(Vec::as_slice).unwrap_or_default();
                // One that did not answer in time says nothing, also not that it is the primary.
                holders.len() > 1
                    && holders.iter().any(|said| said.role == "Primary")
                    && holders.iter().all(|said| match said.role.as_str() {
                        "Primary" => said.state == "Recording",
                        _ => said.state == if self.mirrored { "Recording" } else { "Standby" },
                    })
            };
            Ok(self.names.iter().all(protected).then_some(()))
        })?;
        ensure!(
            calm.is_some(),
            "not protected after {PROTECTED_WITHIN:?}: {said:?}\n{}",
            self.system.operator.log_tail()
        );
        for (name, holders) in said {
            let primary = holders.iter().find(|said| said.role == "Primary").context("no primary")?;
            self.primaries.insert(name, primary.ordinal);
        }
        Ok(begun.elapsed())
    }

    /// The supervisor of a recorder and its worker.
    pub(super) fn processes(&self, ordinal: usize) -> Result<(u32, u32)> {
        let found = supervisor_and_worker(self.system.operator.pid(), self.system.http(ordinal));
        found.with_context(|| format!("recorder {ordinal}"))
    }

    pub(super) fn some_recorder(&mut self) -> usize {
        self.random.random_range(0..self.recorders)
    }

    pub(super) fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(milliseconds)));
    }

    /// A counter of all recorders together, since each one's last start.
    pub(super) fn counted(&self, name: &str) -> Result<u64> {
        let mut sum = 0.0;
        for ordinal in 0..self.recorders {
            let page = get(self.system.http(ordinal), "/metrics")?.text();
            let line =
                page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
            sum += line.parse::<f64>()?;
        }
        Ok(sum as u64)
    }

    /// Whichever recorder is asked: all have the same runs of each stream, without a gap.
    pub(super) fn ask_for_coverage(&self) -> Result<()> {
        for name in &self.names {
            let mut last = Vec::new();
            let same = poll(COMPLETE_WITHIN, ASK_AGAIN, || {
                last.clear();
                let mut all = Vec::new();
                for ordinal in 0..self.recorders {
                    let json = coverage_of(&self.system, ordinal, name)?;
                    let list = |key: &str| json.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                    let runs: BTreeSet<String> =
                        list("runs").iter().filter_map(|run| run.get("run")?.as_str().map(str::to_owned)).collect();
                    let complete = is_complete(&json);
                    // A gap that one who does not hear all others tells of may be none.
                    ensure!(!complete || list("gaps").is_empty(), "{name} has gaps at recorder {ordinal}: {json}");
                    all.push(complete.then_some(runs));
                    last.push(json);
                }
                let first = all.first().and_then(Option::as_ref).filter(|runs| !runs.is_empty());
                Ok((first.is_some() && all.iter().all(|runs| runs.as_ref() == first)).then_some(()))
            })?;
            ensure!(same.is_some(), "{name}: not the same runs at all recorders after {COMPLETE_WITHIN:?}: {last:?}");
        }
        Ok(())
    }

    /// Clips over a moment, one of each stream from some recorder; to be judged when all is at rest.
    pub(super) fn take_clips(&mut self, moment_ns: i64) -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        for name in self.names.clone() {
            let (from, to) = (moment_ns - BEFORE_NS, moment_ns + BEHIND_NS);
            let time = |ns: i64| jiff::Timestamp::from_nanosecond(ns.into()).map(|time| format!("{time:.6}"));
            let (from, to) = (time(from)?, time(to)?);
            let ordinal = self.some_recorder();
            let target = format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}");
            let body = whole_clip(&self.system, ordinal, &name, &target)?;
            let path = self.folder.path().join(format!("{name}-{moment_ns}.mp4"));
            std::fs::write(&path, body)?;
            taken.push(Taken { name, from, to, path });
        }
        Ok(taken)
    }

    /// Each clip has all frames of its time, each once, in order.
    pub(super) fn judge_clips(&self, clips: &[Taken]) -> Result<()> {
        for Taken { name, from, to, path } in clips {
            let mut arguments = judge::volumes(&self.cameras.ledgers, &self.system.volumes());
            let more = ["--clip", &path.display().to_string(), "--from", from, "--to", to, "--stream"];
            arguments.extend(more.map(str::to_owned));
            arguments.push(format!("default/{name}"));
            judge::check(&arguments)?;
        }
        Ok(())
    }

    /// Stops everything, and has all frames of all cameras looked for on all volumes together.
    pub(super) fn judge(&mut self) -> Result<()> {
        let stop = self.end()?;
        self.judge_on(stop, &self.system.volumes())
    }

    /// Stops everything; up to when frames are expected.
    pub(super) fn end(&mut self) -> Result<i64> {
        std::thread::sleep(Duration::from_secs(2));
        let stop = now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        self.system.stop()?;
        Ok(stop)
    }

    fn judge_on(&self, stop: i64, volumes: &[PathBuf]) -> Result<()> {
        let mut arguments = judge::volumes(&self.cameras.ledgers, volumes);
        arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
        arguments.extend(["--json".to_owned(), self.folder.path().join("report.json").display().to_string()]);
        judge::check(&arguments)
    }
}

/// What a recorder tells of a stream's coverage, or that it knows of none: it may hear none of those that do.
pub(super) fn coverage_of(system: &System, ordinal: usize, name: &str) -> Result<Value> {
    let answer = get(system.http(ordinal), &format!("/v1/streams/default/{name}/coverage"))?;
    ensure!([200, 404].contains(&answer.status), "coverage of {name} at recorder {ordinal}: {}", answer.text());
    answer.json()
}

/// Whether all others answered whoever told this coverage: who does not in time is left out, and that is said.
pub(super) fn is_complete(coverage: &Value) -> bool {
    coverage.get("complete") == Some(&Value::Bool(true))
}

/// A clip of a stream, `target` of a recorder that hears all others, before and after it: else it is taken again.
pub(super) fn whole_clip(system: &System, ordinal: usize, name: &str, target: &str) -> Result<Vec<u8>> {
    let body = poll(WHOLE_WITHIN, ASK_AGAIN, || {
        let before = coverage_of(system, ordinal, name)?;
        let answer = get(system.http(ordinal), target);
        let after = coverage_of(system, ordinal, name)?;
        let complete = is_complete(&before) && is_complete(&after);
        if !complete {
            return Ok(None);
        }
        let answer = answer.with_context(|| format!("{target} of recorder {ordinal}"))?;
        ensure!(answer.status == 200, "{target} of recorder {ordinal}: {}", answer.text());
        Ok(Some(answer.body))
    })?;
    body.with_context(|| format!("recorder {ordinal} did not hear all others for {WHOLE_WITHIN:?}"))
}

/// Lets the minute pass after which it does not count any more that a stream was taken over again and again: it took that long to be protected.
pub(super) fn calm_down(protected_after: Duration) {
    if protected_after > FLAPPING {
        std::thread::sleep(CALM + Duration::from_secs(1));
    }
}

#[test]
fn a_killed_recorder_costs_no_frame() -> Result<()> {
    let kills = count(2, 100);
    let mut site = Site::start(3, count(6, 60), "toleratedFailures: 1")?;
    let (mut longest, mut struck) = (Duration::ZERO, 0);
    let mut clips = Vec::new();
    for number in 0..kills {
        site.pause(500..2_500);
        let victim = site.some_recorder();
        struck += site.primaries.values().filter(|primary| **primary == victim).count();
        let (supervisor, worker) = site.processes(victim)?;
        let killed_ns = now_ns()?;
        // Each fourth time the supervisor as well: the operator starts both again, some time later. Else the operator stands still through all
        // of it: nobody needs it.
        let operator = site.system.operator.pid();
        let takes_both = number % 4 == 1;
        if !takes_both {
            signal(operator, Signal::STOP);
        }
        signal(worker, Signal::KILL);
        if takes_both {
            signal(supervisor, Signal::KILL);
        }
        // What it was is not what it says until it answers again.
        std::thread::sleep(Duration::from_millis(300));
        let protected = site.wait_protected().with_context(|| format!("kill {number} of recorder {victim}"))?;
        longest = longest.max(protected);
        signal(operator, Signal::CONT);
        calm_down(protected);
        site.ask_for_coverage()?;
        if number == 0 {
            clips = site.take_clips(killed_ns)?;
        }
    }
    ensure!(struck > 0, "no recorder that was killed recorded anything");
    site.judge()?;
    site.judge_clips(&clips)?;
    judge::result(&format!(
        "{kills} kills, {struck} streams struck: 0 frames missing; all protected again after at most {longest:.1?}"
    ));
    Ok(())
}

#[test]
fn a_recorder_that_stands_still_costs_no_frame() -> Result<()> {
    let stops = count(2, 20);
    let mut site = Site::start(3, count(6, 60), "toleratedFailures: 1")?;
    for number in 0..stops {
        site.pause(500..2_500);
        let victim = site.some_recorder();
        let (_, worker) = site.processes(victim)?;
        signal(worker, Signal::STOP);
        site.pause(2_000..8_000);
        signal(worker, Signal::CONT);
        std::thread::sleep(Duration::from_millis(1_500));
        calm_down(site.wait_protected().with_context(|| format!("stop {number} of recorder {victim}"))?);
    }
    let takeovers = site.counted("framekeeper_takeovers_total")?;
    ensure!(takeovers > 0, "nobody took anything over");
    site.judge()?;
    judge::result(&format!("{stops} recorders stood still for 2 to 8 s, {takeovers} takeovers: 0 frames missing"));
    Ok(())
}

/// Cameras of [`Site`] have a key frame every two seconds.
const GOP_MS: u64 = 2_000;
/// What class `Ready` promises besides a group of pictures: for a recorder that is killed, whose connections close…
const READY_KILLED_MS: u64 = 1_500;
/// …and for one that is silent.
const READY_SILENT_MS: u64 = 3_000;
/// What a recorder had received and not made durable when it failed.
const NOT_DURABLE_MS: u64 = 600;

/// Of class `Ready` standbys have sessions that do not play: a failure costs what it takes to notice it, to ask the camera, and its next key frame.
#[test]
fn of_class_ready_a_failure_costs_detection_and_a_group_of_pictures() -> Result<()> {
    let failures = count(2, 40);
    let mut site = Site::start(3, count(6, 60), "toleratedFailures: 1\n  redundancy: {class: Ready}")?;
    let mut moments = Vec::new();
    for number in 0..failures {
        site.pause(500..2_500);
        let victim = site.some_recorder();
        let (_, worker) = site.processes(victim)?;
        moments.push((now_ns()?, number % 2 == 0, victim, site.primaries.clone()));
        if number % 2 == 1 {
            // Silent, as a node that is lost: its connections stay open, and what waits in them is never read.
            signal(worker, Signal::STOP);
            site.pause(6_000..9_000);
        }
        signal(worker, Signal::KILL);
        std::thread::sleep(Duration::from_millis(300));
        let protected = site.wait_protected().with_context(|| format!("failure {number} of recorder {victim}"))?;
        calm_down(protected);
    }
    let takeovers = site.counted("framekeeper_takeovers_total")?;
    ensure!(takeovers > 0, "nobody took anything over");
    let stop = site.end()?;

    let json = site.folder.path().join("report.json");
    let mut arguments = judge::volumes(&site.cameras.ledgers, &site.system.volumes());
    let (lost, back) = (NOT_DURABLE_MS.to_string(), (READY_SILENT_MS + GOP_MS).to_string());
    let (stop, json_path) = (stop.to_string(), json.display().to_string());
    let more = ["--stop", &stop, "--max-missing-ms", &lost, "--max-back-ms", &back, "--json", &json_path];
    arguments.extend(more.map(str::to_owned));
    arguments.push("--union".to_owned());
    for (moment, ..) in &moments {
        arguments.extend(["--kill".to_owned(), moment.to_string()]);
    }
    judge::check(&arguments)?;

    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let (mut killed, mut silent) = (Vec::new(), Vec::new());
    for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
        let name = stream.get("stream").and_then(Value::as_str).context("a stream without a name")?;
        let name = name.strip_prefix("default/").unwrap_or(name);
        let costs = stream.get("kills").and_then(Value::as_array).context("no kills in the report")?;
        ensure!(costs.len() == moments.len(), "{} costs of {} failures", costs.len(), moments.len());
        for (cost, (_, was_killed, victim, primaries)) in costs.iter().zip(&moments) {
            let number = |key: &str| cost.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            let gap_ms = number("lost_before_ms") + number("back_after_ms");
            if primaries.get(name) != Some(victim) {
                ensure!(gap_ms == 0.0, "{name} lacks {gap_ms} ms though its recorder {victim} did not fail");
                continue;
            }
            let (kind, at_most) =
                if *was_killed { (&mut killed, READY_KILLED_MS) } else { (&mut silent, READY_SILENT_MS) };
            let back_ms = number("back_after_ms");
            ensure!(back_ms <= (at_most + GOP_MS) as f64, "{name} was back after {back_ms} ms; killed: {was_killed}");
            kind.push(gap_ms);
        }
    }
    ensure!(!killed.is_empty() || !silent.is_empty(), "no recorder that failed recorded anything");
    let spread = |mut gaps: Vec<f64>| {
        gaps.sort_by(f64::total_cmp);
        let at = |part: usize| gaps.get((gaps.len().saturating_sub(1)) * part / 100).copied().unwrap_or(0.0);
        format!(
            "{} streams, gaps of {:.0} / {:.0} / {:.0} ms (median, 95 %, longest)",
            gaps.len(),
            at(50),
            at(95),
            at(100)
        )
    };
    judge::result(&format!("class Ready, killed: {}; silent: {}", spread(killed), spread(silent)));
    Ok(())
}

#[test]
fn two_of_five_recorders_killed_in_the_same_second_cost_no_frame() -> Result<()> {
    let times = count(1, 20);
    let mut site = Site::start(5, count(5, 30), "toleratedFailures: 2")?;
    for number in 0..times {
        site.pause(500..2_500);
        let first = site.some_recorder();
        let second = (first + site.random.random_range(1..5)) % 5;
        for victim in [first, second] {
            let (supervisor, worker) = site.processes(victim)?;
            signal(worker, Signal::KILL);
            signal(supervisor, Signal::KILL);
            site.pause(0..800);
        }
        std::thread::sleep(Duration::from_millis(300));
        calm_down(site.wait_protected().with_context(|| format!("kill {number} of recorders {first} and {second}"))?);
    }
    site.judge()?;
    judge::result(&format!("two of five recorders killed within a second, {times} times: 0 frames missing"));
    Ok(())
}

#[test]
fn a_recorder_that_is_told_to_end_is_relieved_before() -> Result<()> {
    let mut site = Site::start(3, 6, "toleratedFailures: 1")?;
    let times = count(1, 10);
    for number in 0..times {
        let victim = site.some_recorder();
        let (supervisor, worker) = site.processes(victim)?;
        signal(supervisor, Signal::TERM);
        let ended = poll(Duration::from_secs(10), Duration::from_millis(20), || {
            let gone = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).is_err();
            Ok((gone(worker) && gone(supervisor)).then_some(()))
        })?;
        ensure!(ended.is_some(), "recorder {victim} did not end within 10 s");
        site.wait_protected().with_context(|| format!("end {number} of recorder {victim}"))?;
    }
    site.judge()?;
    judge::result(&format!("{times} recorders told to end: 0 frames missing"));
    Ok(())
}

/// Where a recorder's volume is.
fn volume_of(folder: &std::path::Path, recorder: usize) -> PathBuf {
    folder.join(format!("data/volumes/main-recorder-{recorder}/footage"))
}

#[test]
fn a_disk_that_fails_and_one_that_hangs_cost_no_frame() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut disks = (0..2)
        .map(|recorder| {
            LoopDisk::new(folder.path(), &format!("disk{recorder}"), DISK_BYTES, &volume_of(folder.path(), recorder))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut site = Site::on(folder, 3, count(6, 30), "toleratedFailures: 1")?;
    // The second one hangs first: it is whole again afterwards.
    let hanging = disks.get_mut(1).context("two disks")?;
    hanging.freeze()?;
    std::thread::sleep(Duration::from_secs(10));
    hanging.thaw()?;
    site.wait_protected().context("behind a disk that hung")?;
    ensure!(site.counted("framekeeper_takeovers_total")? > 0, "nobody took over from a disk that hung");
    disks.first().context("two disks")?.fail()?;
    std::thread::sleep(Duration::from_secs(8));
    // Its streams are recorded by others now, for as long as it takes.
    for (name, holders) in site.said()? {
        ensure!(holders.iter().any(|said| said.state == "Recording" && said.ordinal != 0), "{name}: {holders:?}");
    }
    let stop = site.end()?;
    disks.first().context("two disks")?.repair()?;
    // What its recorder would do if it came back: the ends of files that nothing was synced of any more.
    let repaired = Command::new(program("framekeeper-recorder")?)
        .args(["volume", "repair"])
        .arg(volume_of(site.folder.path(), 0))
        .output()?;
    ensure!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stdout));
    site.judge_on(stop, &site.system.volumes())?;
    judge::result("a disk that hung for 10 s, and one that failed: 0 frames missing");
    Ok(())
}

#[test]
fn of_mirrored_streams_a_recorder_may_be_lost_with_its_disk() -> Result<()> {
    let mut site = Site::start(3, count(6, 30), "toleratedFailures: 1\n  redundancy: {class: Mirrored}")?;
    site.pause(3_000..4_000);
    let victim = site.some_recorder();
    let (supervisor, worker) = site.processes(victim)?;
    signal(supervisor, Signal::KILL);
    signal(worker, Signal::KILL);
    site.pause(2_000..3_000);
    let stop = site.end()?;
    let lost = volume_of(site.folder.path(), victim);
    let left: Vec<PathBuf> = site.system.volumes().into_iter().filter(|volume| *volume != lost).collect();
    ensure!(left.len() == 2, "{left:?}");
    site.judge_on(stop, &left)?;
    judge::result("one of three recorders lost with its disk: 0 frames missing on the others'");
    Ok(())
}

#[test]
fn a_recorder_that_cannot_see_its_cameras_costs_no_frame() -> Result<()> {
    let mut site = Site::start(3, count(6, 30), "toleratedFailures: 1")?;
    let victim = site.some_recorder();
    let (_, worker) = site.processes(victim)?;
    let before = site.counted("framekeeper_takeovers_total")?;
    let until = Instant::now() + Duration::from_secs(10);
    let mut muted = BTreeSet::new();
    while Instant::now() < until {
        // Connections that it makes anew as well.
        for port in client_ports(worker)? {
            if muted.insert(port) {
                for name in &site.names {
                    site.cameras.fault(name, &serde_json::json!({"fault": "mute", "client": port}))?;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let struck = site.primaries.values().filter(|primary| **primary == victim).count() as u64;
    let took = site.counted("framekeeper_takeovers_total")? - before;
    ensure!(took >= struck, "{took} streams of {struck} were taken over");
    site.wait_protected()?;
    site.judge()?;
    judge::result(&format!("{struck} streams whose recorder alone did not see the cameras for 10 s: 0 frames missing"));
    Ok(())
}

/// Local ports of a process's connections.
fn client_ports(pid: u32) -> Result<BTreeSet<u16>> {
    let mut inodes = BTreeSet::new();
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is none.
        let Ok(link) = std::fs::read_link(fd?.path()) else { continue };
        let inode = link.to_string_lossy().strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']').to_owned());
        inodes.extend(inode);
    }
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let ports = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        inodes.contains(*fields.get(9)?).then(|| u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok())?
    });
    Ok(ports.collect())
}
