//! Bits that flip in the files of a running recorder: nothing wrong is ever sent, what is lost is said, and all else is served.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Answer, Cameras, count, get, get_as_far_as, poll, program};
use framekeeper_e2e::judge;
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use serde_json::{Value, json};

/// Of a segment file, a little more than it has at most.
const FILE_BYTES: f64 = 4.2e6;
/// Bytes that were read to find rot.
const SCRUBBED: &str = "framekeeper_volume_scrubbed_bytes_total{";

struct Site {
    system: System,
    cameras: Cameras,
    names: Vec<String>,
    /// What was recorded before anything flipped, by stream.
    ranges: BTreeMap<String, (Timestamp, Timestamp)>,
    folder: tempfile::TempDir,
}

impl Site {
    /// Two cameras, recorded into small segments until some are sealed. A copy of the volume is taken then.
    fn start(environment: &[(&str, String)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cameras = Cameras::start(
            folder.path(),
            0,
            // A GOP of the second one takes more than a segment: most of its segments end inside one.
            &[25, 100].map(|gop| {
                format!("name=gop{gop},kind=synthetic,width=640,height=360,fps=25,bitrate=12M,gop={gop},audio=aac")
            }),
        )?;
        let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let plan = PoolPlan {
            recorders: 1,
            max_channels: names.len(),
            budget: "1Gi".to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let mut system = System::start_with_env(folder.path(), &plan, environment)?;
        system.wait_recording(&names, Duration::from_secs(30))?;
        let mut site = Self { system, cameras, names, ranges: BTreeMap::new(), folder };
        let enough = count(4, 40);
        let filled = poll(Duration::from_secs(180), Duration::from_millis(100), || {
            Ok(site.names.iter().all(|name| site.sealed(name).is_ok_and(|files| files.len() >= enough)).then_some(()))
        })?;
        ensure!(filled.is_some(), "no segments were filled: {}", site.system.operator.log_tail());
        // What is asked for later is in the copy, and durable.
        let ranges = site.names.iter().map(|name| Ok((name.clone(), site.runs(name)?)));
        site.ranges = ranges.collect::<Result<_>>()?;
        let end = site.ranges.values().map(|(_, end)| *end).max().context("no stream")?;
        let durable = poll(Duration::from_secs(20), Duration::from_millis(50), || {
            let channels = site.system.channels(0)?.unwrap_or_default();
            let until = |channel: &Value| channel.get("durable")?.as_str()?.parse::<Timestamp>().ok();
            Ok((channels.len() == site.names.len() && channels.iter().all(|c| until(c).is_some_and(|at| at > end)))
                .then_some(()))
        })?;
        ensure!(durable.is_some(), "not durable: {}", site.system.operator.log_tail());
        copy(&site.volume(), &site.copied())?;
        Ok(site)
    }

    fn volume(&self) -> PathBuf {
        self.system.volumes().first().cloned().unwrap_or_default()
    }

    fn copied(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    fn address(&self) -> SocketAddr {
        self.system.http(0)
    }

    /// Segment files of a stream that are sealed: all but the newest.
    fn sealed(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for day in fs::read_dir(self.volume().join("streams/default").join(name))? {
            for file in fs::read_dir(day?.path())? {
                found.push(file?.path());
            }
        }
        found.sort();
        found.pop();
        Ok(found)
    }

    fn coverage(&self, name: &str) -> Result<Value> {
        let answer = get(self.address(), &format!("/v1/streams/default/{name}/coverage"))?;
        ensure!(answer.status == 200, "coverage: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// From the beginning of a stream's first run to the end of its last.
    fn runs(&self, name: &str) -> Result<(Timestamp, Timestamp)> {
        let coverage = self.coverage(name)?;
        let runs = coverage.get("runs").and_then(Value::as_array).context("no runs")?;
        let time = |run: Option<&Value>, key: &str| -> Result<Timestamp> {
            Ok(run.and_then(|run| run.get(key)?.as_str()).context("no time")?.parse()?)
        };
        Ok((time(runs.first(), "from")?, time(runs.last(), "to")?))
    }

    /// The stretches of a stream that are said to be damaged.
    fn damaged(&self, name: &str) -> Result<Vec<(String, String)>> {
        damaged_gaps(&self.coverage(name)?)
    }

    /// Whether all that was recorded up to a time is said to be damaged.
    fn nothing_before(&self, name: &str, at: Timestamp) -> Result<bool> {
        let damaged = self.damaged(name)?;
        let (first, _) = self.runs(name)?;
        Ok(first > at && damaged.iter().any(|(_, to)| to.parse::<Timestamp>().is_ok_and(|to| to == first)))
    }

    fn range(&self, name: &str) -> (Timestamp, Timestamp) {
        self.ranges.get(name).copied().unwrap_or((Timestamp::MIN, Timestamp::MAX))
    }

    fn clip(&self, name: &str) -> String {
        let (from, to) = self.range(name);
        format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}")
    }

    /// Flips so many bits in sealed segments of both streams.
    fn flip(&self, flips: usize) -> Result<()> {
        let mut random = rand::rng();
        for number in 0..flips {
            let files = self.sealed(&self.names[number % self.names.len()])?;
            // Those of the copy only.
            let within = count(4, 40).min(files.len());
            let path = &files[random.random_range(0..within)];
            let file = fs::File::options().read(true).write(true).open(path)?;
            let at = random.random_range(0..file.metadata()?.len());
            flip(path, at, random.random_range(0..8))?;
        }
        Ok(())
    }

    /// Flips a bit of what describes the codecs in one segment. A recorder knows it from the other segments.
    fn flip_head(&self) -> Result<()> {
        let files = self.sealed(self.names.first().context("no stream")?)?;
        flip(files.get(1).context("too few segments")?, 100, 3)
    }

    /// Flips a bit in the last fragment of a segment of each stream: the next one may begin with frames that refer to it.
    fn flip_ends(&self) -> Result<()> {
        for name in &self.names {
            let files = self.sealed(name)?;
            let path = files.get(2).context("too few segments")?;
            let bytes = fs::read(path)?;
            let last = bytes.windows(4).rposition(|word| word == b"mdat").context("no fragment")?;
            flip(path, last as u64 + 100, 3)?;
        }
        Ok(())
    }

    /// What the files tell of a stopped recorder's volume.
    fn list(&self) -> Result<Value> {
        let program = program("framekeeper-recorder")?;
        let listed = Command::new(program).args(["volume", "ls", "--json"]).arg(self.volume()).output()?;
        Ok(serde_json::from_slice(&listed.stdout)?)
    }

    /// A clip of everything by the ledger: all frames that were recorded, but for those said to be damaged, bit by bit.
    fn judge(&self, name: &str, clip: &Answer) -> Result<usize> {
        let file = self.folder.path().join("clip.mp4");
        fs::write(&file, &clip.body)?;
        let mut arguments = judge::volumes(&self.cameras.ledgers, &[self.copied()]);
        let (from, to) = self.range(name);
        arguments.extend(["--live", "--clip"].map(str::to_owned));
        arguments.extend([file.display().to_string(), "--stream".to_owned(), format!("default/{name}")]);
        arguments.extend(["--from".to_owned(), from.to_string(), "--to".to_owned(), to.to_string()]);
        let damaged = self.damaged(name)?;
        for (from, to) in &damaged {
            arguments.extend(["--damaged".to_owned(), format!("{from}/{to}")]);
        }
        judge::check(&arguments)?;
        Ok(damaged.len())
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let text = get(self.address(), "/metrics")?.text();
        let values =
            text.lines().filter_map(|line| line.strip_prefix(name)?.split_whitespace().last()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Has the cameras send nothing any more, while footage is read on. A disk whose last sync was slow is left alone: then there have to be more syncs.
    fn stand_still(&self) -> Result<()> {
        let freeze = |on: bool| {
            let fault = json!({"fault": "freeze", "on": on});
            self.names.iter().try_for_each(|name| self.cameras.fault(name, &fault))
        };
        for _ in 0..5 {
            freeze(true)?;
            std::thread::sleep(Duration::from_secs(2));
            let before = self.metric(SCRUBBED)?;
            let goes_on = poll(Duration::from_secs(25), Duration::from_millis(200), || {
                Ok((self.metric(SCRUBBED)? > before).then_some(()))
            })?;
            if goes_on.is_some() {
                return Ok(());
            }
            freeze(false)?;
            std::thread::sleep(Duration::from_secs(10));
        }
        anyhow::bail!("footage is not read: {}", self.system.operator.log_tail())
    }

    /// The `Recorder` object as the recorder writes it.
    fn status(&self) -> Result<String> {
        Ok(fs::read_to_string(self.system.data.join("run/main-recorder-0/status.yaml"))?)
    }
}

fn flip(path: &Path, at: u64, bit: u32) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at)?;
    judge::say(&format!("flipped a bit of byte {at} of {}", path.display()));
    Ok(())
}

fn damaged_gaps(coverage: &Value) -> Result<Vec<(String, String)>> {
    let gaps = coverage.get("gaps").and_then(Value::as_array).context("no gaps")?;
    let text = |gap: &Value, key: &str| gap.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let damaged = gaps.iter().filter(|gap| text(gap, "reason") == "Damaged");
    Ok(damaged.map(|gap| (text(gap, "from"), text(gap, "to"))).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            // Empty files are nobody's footage.
            if name != "pool" && name != "retired" {
                copy(&entry.path(), &to.join(name))?;
            }
        } else {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// What came of a clip, and whether it was all.
fn get_some(address: SocketAddr, path: &str) -> Result<(Answer, bool)> {
    let answer = get_as_far_as(address, path)?;
    let length: usize = answer.header("content-length").context("no length")?.parse()?;
    let whole = answer.body.len() == length;
    Ok((answer, whole))
}

#[test]
fn a_flipped_bit_is_never_sent_and_all_else_is() -> Result<()> {
    let mut site = Site::start(&[])?;
    let flips = count(10, 1_000);
    let before = site.names.iter().map(|name| get(site.address(), &site.clip(name))).collect::<Result<Vec<_>>>()?;
    for (name, clip) in site.names.iter().zip(&before) {
        ensure!(site.judge(name, clip)? == 0, "damage before anything flipped");
    }
    ensure!(site.status()?.contains("reason: NoneDamaged"), "{}", site.status()?);
    site.flip(flips)?;
    site.flip_ends()?;
    site.flip_head()?;
    let (mut broken, mut damaged) = (0, 0);
    for (name, before) in site.names.clone().iter().zip(&before) {
        for attempt in 0.. {
            ensure!(attempt <= 2 * flips, "{name}: no clip comes to its end");
            let (clip, whole) = get_some(site.address(), &site.clip(name))?;
            ensure!(clip.status == 200, "{}: {} {}", site.clip(name), clip.status, clip.text());
            if clip.header("etag") == before.header("etag") {
                // Nothing was known to be damaged: what came is the beginning of what came before.
                ensure!(before.body.starts_with(&clip.body), "{name}: other bytes than before");
            }
            if whole {
                damaged += site.judge(name, &clip)?;
                break;
            }
            broken += 1;
        }
        let (from, to) = site.range(name);
        let picture = format!("/v1/streams/default/{name}/frame.jpg?at=");
        for part in 1..5 {
            let at =
                from.checked_add(SignedDuration::from_millis(to.duration_since(from).as_millis() as i64 * part / 5))?;
            let answer = get(site.address(), &format!("{picture}{at}"))?;
            if answer.status == 404 && site.nothing_before(name, at)? {
                continue;
            }
            ensure!(answer.status == 200, "a picture at {at}: {} {}", answer.status, answer.text());
        }
    }
    judge::result(&format!(
        "{flips} flips: {broken} clips broke off, {damaged} damaged stretches left out, all else sent"
    ));
    if damaged > 0 {
        let told = poll(Duration::from_secs(10), Duration::from_millis(100), || {
            let status = site.status()?;
            Ok((status.contains("reason: FootageDamaged") && status.contains("bytes are damaged")).then_some(()))
        })?;
        ensure!(told.is_some(), "the status says {}", site.status()?);
        ensure!(site.metric("framekeeper_volume_damaged_bytes{")? > 0.0);
    }
    // It is remembered, and told by the files alone.
    let known: Vec<_> = site.names.iter().map(|name| site.damaged(name)).collect::<Result<_>>()?;
    site.system.stop()?;
    // By itself the file with the damaged head is none any more. That is said, and `repair` writes the head anew.
    let findings = site.list()?.get("findings").cloned().context("no findings")?;
    ensure!(findings.to_string().contains("ftyp and moov are damaged"), "{findings:#}");
    let program = program("framekeeper-recorder")?;
    let repaired = Command::new(program).args(["volume", "repair"]).arg(site.volume()).output()?;
    let did = String::from_utf8_lossy(&repaired.stdout);
    ensure!(did.contains("its head was written anew"), "{did} {}", String::from_utf8_lossy(&repaired.stderr));
    let listed = site.list()?;
    for (name, known) in site.names.iter().zip(&known) {
        let streams = listed.get("streams").and_then(Value::as_array).context("no streams")?;
        let stream = streams.iter().find(|s| s.get("name").and_then(Value::as_str) == Some(name));
        let found = damaged_gaps(stream.context("a stream is not listed")?)?;
        ensure!(found == *known, "{name}: listed {found:?}, known {known:?}; {listed:#}");
    }
    Ok(())
}

#[test]
fn rot_is_found_before_anybody_asks() -> Result<()> {
    let mut site = Site::start(&[("FRAMEKEEPER_SCRUB_ROUND", "0".to_owned())])?;
    site.flip(count(6, 60))?;
    site.flip_ends()?;
    // Nothing more is recorded: how much there is to read through is known.
    site.stand_still()?;
    let mut files = 0;
    for name in &site.names {
        files += site.sealed(name)?.len() + 1;
    }
    // Twice through all of it: what was under way when the bits flipped may have been behind them. Each time a file is hashed, and read once more
    // where it is not what it was.
    let start = Instant::now();
    let enough = site.metric(SCRUBBED)? + 4.0 * files as f64 * FILE_BYTES;
    let through = poll(Duration::from_secs(300), Duration::from_millis(200), || {
        Ok((site.metric(SCRUBBED)? > enough).then_some(()))
    })?;
    ensure!(through.is_some(), "footage is not read: {}", site.system.operator.log_tail());
    judge::result(&format!("read through twice within {:.1} s", start.elapsed().as_secs_f64()));
    for name in site.names.clone() {
        let clip = get(site.address(), &site.clip(&name)).context("a clip broke off though all was read before")?;
        ensure!(clip.status == 200, "{} {}", clip.status, clip.text());
        site.judge(&name, &clip)?;
    }
    site.system.stop()
}
