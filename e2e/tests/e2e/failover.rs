//! A recorder fails: others that stand by record on, and nobody's frame is missing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::family;
use framekeeper_e2e::harness::{Cameras, count, get, poll, signal};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System, with_pool_spec};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::Value;

const RECORDERS: usize = 3;
/// Until everything is as planned again: a hold, a few seconds of memory, key frames.
const CALM: Duration = Duration::from_secs(60);

/// What a recorder says of a stream.
#[derive(Debug)]
#[expect(dead_code, reason = "the reason is for whoever reads why a test failed")]
struct Said {
    ordinal: usize,
    role: String,
    state: String,
    reason: String,
}

/// A pool whose streams have standbys, with all of them protected.
struct Site {
    system: System,
    cameras: Cameras,
    names: Vec<String>,
    /// Each stream's primary.
    primaries: BTreeMap<String, usize>,
    random: StdRng,
    folder: tempfile::TempDir,
}

impl Site {
    /// `cameras` cameras; `pool`: more of the pool's spec. Streams are given back after `stable` seconds.
    fn start(cameras: usize, pool: &str, stable: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let spec =
            format!("name=cam,count={cameras},kind=synthetic,width=640,height=360,fps=25,bitrate=1M,gop=50,audio=aac");
        let cameras = Cameras::start(folder.path(), 0, &[spec])?;
        let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let plan = PoolPlan {
            recorders: RECORDERS,
            max_channels: names.len() * 2,
            budget: "2Gi".to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let manifest = folder.path().join("pool.yaml");
        std::fs::write(&manifest, with_pool_spec(&plan.manifest(), pool)?)?;
        let environment = [("FRAMEKEEPER_STABLE", stable.to_string())];
        let system = System::start_on_with_env(folder.path(), manifest, RECORDERS, &environment)?;
        let seed: u64 = rand::random();
        judge::result(&format!("seed {seed}"));
        let random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
        let mut site = Self { system, cameras, names, primaries: BTreeMap::new(), random, folder };
        site.wait_protected()?;
        Ok(site)
    }

    /// What each recorder says of each stream.
    fn said(&self) -> Result<BTreeMap<String, Vec<Said>>> {
        let mut said = BTreeMap::<_, Vec<_>>::new();
        for ordinal in 0..RECORDERS {
            for channel in self.system.channels(ordinal)?.unwrap_or_default() {
                let text = |key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let one = Said { ordinal, role: text("role"), state: text("state"), reason: text("reason") };
                said.entry(text("name")).or_default().push(one);
            }
        }
        Ok(said)
    }

    /// Waits until each stream's primary records it, and nobody else, and each standby is ready to.
    fn wait_protected(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let mut said = BTreeMap::new();
        let calm = poll(CALM, Duration::from_millis(50), || {
            said = self.said()?;
            let protected = |name: &String| {
                let holders = said.get(name).map(Vec::as_slice).unwrap_or_default();
                holders.len() == 2
                    && holders.iter().all(|said| match said.role.as_str() {
                        "Primary" => said.state == "Recording",
                        _ => said.state == "Standby",
                    })
            };
            Ok(self.names.iter().all(protected).then_some(()))
        })?;
        ensure!(calm.is_some(), "not protected after {CALM:?}: {said:?}\n{}", self.system.operator.log_tail());
        for (name, holders) in said {
            let primary = holders.iter().find(|said| said.role == "Primary").context("no primary")?;
            self.primaries.insert(name, primary.ordinal);
        }
        Ok(begun.elapsed())
    }

    /// The supervisor of a recorder and its worker.
    fn processes(&self, ordinal: usize) -> Result<(u32, u32)> {
        let address = self.system.http(ordinal).to_string();
        let of_recorder = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').any(|word| word == address)
        };
        let pids: Vec<u32> = family(&[self.system.operator.pid()]).into_iter().filter(of_recorder).collect();
        match pids[..] {
            [supervisor, worker] => Ok((supervisor, worker)),
            _ => anyhow::bail!("expected a supervisor and a worker of recorder {ordinal}, found {pids:?}"),
        }
    }

    fn some_recorder(&mut self) -> usize {
        self.random.random_range(0..RECORDERS)
    }

    fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(milliseconds)));
    }

    /// A counter of all recorders together, since each one's last start.
    fn counted(&self, name: &str) -> Result<u64> {
        let mut sum = 0.0;
        for ordinal in 0..RECORDERS {
            let page = get(self.system.http(ordinal), "/metrics")?.text();
            let line =
                page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
            sum += line.parse::<f64>()?;
        }
        Ok(sum as u64)
    }

    /// Stops everything, and has all frames of all cameras looked for on all volumes together.
    fn judge(mut self) -> Result<()> {
        std::thread::sleep(Duration::from_secs(2));
        let stop = now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        self.system.stop()?;
        let mut arguments = judge::volumes(&self.cameras.ledgers, &self.system.volumes());
        arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
        arguments.extend(["--json".to_owned(), self.folder.path().join("report.json").display().to_string()]);
        judge::check(&arguments)
    }
}

#[test]
fn a_killed_recorder_costs_no_frame() -> Result<()> {
    let kills = count(4, 100);
    let mut site = Site::start(count(6, 60), "toleratedFailures: 1", 3)?;
    let (mut longest, mut struck) = (Duration::ZERO, 0);
    for number in 0..kills {
        site.pause(500..2_500);
        let victim = site.some_recorder();
        struck += site.primaries.values().filter(|primary| **primary == victim).count();
        let (supervisor, worker) = site.processes(victim)?;
        // Each fourth time the supervisor as well: the operator starts both again, some time later.
        signal(worker, Signal::KILL);
        if number % 4 == 3 {
            signal(supervisor, Signal::KILL);
        }
        // What it was is not what it says until it answers again.
        std::thread::sleep(Duration::from_millis(300));
        longest = longest.max(site.wait_protected().with_context(|| format!("kill {number} of recorder {victim}"))?);
    }
    ensure!(struck > 0, "no recorder that was killed recorded anything");
    site.judge()?;
    judge::result(&format!(
        "{kills} kills, {struck} streams struck: 0 frames missing; all protected again after at most {longest:.1?}"
    ));
    Ok(())
}

#[test]
fn a_recorder_that_stands_still_costs_no_frame() -> Result<()> {
    let stops = count(3, 20);
    let mut site = Site::start(count(6, 60), "toleratedFailures: 1", 3)?;
    for number in 0..stops {
        site.pause(500..2_500);
        let victim = site.some_recorder();
        let (_, worker) = site.processes(victim)?;
        signal(worker, Signal::STOP);
        site.pause(2_000..8_000);
        signal(worker, Signal::CONT);
        std::thread::sleep(Duration::from_millis(1_500));
        site.wait_protected().with_context(|| format!("stop {number} of recorder {victim}"))?;
    }
    let takeovers = site.counted("framekeeper_takeovers_total")?;
    ensure!(takeovers > 0, "nobody took anything over");
    site.judge()?;
    judge::result(&format!("{stops} recorders stood still for 2 to 8 s, {takeovers} takeovers: 0 frames missing"));
    Ok(())
}
