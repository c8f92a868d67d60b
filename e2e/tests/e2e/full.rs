//! Full disks: with and without held footage, and filled by somebody else.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::disk::LoopDisk;
use framekeeper_e2e::harness::{Cameras, get, poll, program};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use serde_json::Value;

/// Much longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

struct Site {
    // Dropped in this order: nobody may use the disk when it is taken apart.
    system: System,
    cameras: Cameras,
    names: Vec<String>,
    plan: PoolPlan,
    _disk: Option<LoopDisk>,
    folder: tempfile::TempDir,
}

impl Site {
    /// Some cameras, the first `recorded` of which are recorded to one volume of `budget`, on a disk of its own if there are bytes for one.
    fn start(cameras: &str, recorded: usize, budget: &str, disk_bytes: Option<u64>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mount = folder.path().join("data/volumes/main-recorder-0/footage");
        let disk = disk_bytes.map(|bytes| LoopDisk::new(folder.path(), "disk", bytes, &mount)).transpose()?;
        let cameras = Cameras::start(folder.path(), 0, &[format!("name=cam,kind=synthetic,{cameras}")])?;
        let all = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let names: Vec<String> = all.iter().take(recorded).cloned().collect();
        let plan = PoolPlan {
            recorders: 1,
            max_channels: all.len(),
            budget: budget.to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let mut system = System::start(folder.path(), &plan)?;
        system.wait_recording(&names, PATIENCE)?;
        Ok(Self { system, cameras, names, plan, _disk: disk, folder })
    }

    fn volume(&self) -> PathBuf {
        self.folder.path().join("data/volumes/main-recorder-0/footage")
    }

    /// Gives streams annotations (`None`: none), as `kubectl annotate` would.
    fn annotate(&self, holds: &[(&str, Option<String>)]) -> Result<()> {
        let mut text = self.plan.manifest();
        for (name, hold) in holds {
            if let Some(hold) = hold {
                let plain = format!("kind: CameraStream\nmetadata:\n  name: {name}\n");
                ensure!(text.contains(&plain), "no stream {name} in {text}");
                let annotated = format!("{plain}  annotations:\n    framekeeper.dev/hold: {hold}\n");
                text = text.replace(&plain, &annotated);
            }
        }
        self.apply(&text)
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        let new = self.folder.path().join("pool.new");
        fs::write(&new, manifest)?;
        fs::rename(new, &self.system.manifest)?;
        Ok(())
    }

    /// What the recorder holds, as a person at the machine is told.
    fn holds(&self) -> Result<Vec<Value>> {
        let output = self.by_hand(&["holds", "--json"])?;
        Ok(serde_json::from_slice::<Value>(output.as_bytes())
            .ok()
            .and_then(|v| v.as_array().cloned())
            .unwrap_or_default())
    }

    /// `framekeeper-recorder volume …` at the machine.
    fn by_hand(&self, arguments: &[&str]) -> Result<String> {
        let volumes = self.folder.path().join("data/volumes/main-recorder-0");
        let mut command = Command::new(program("framekeeper-recorder")?);
        let output = command.arg("volume").args(arguments).arg("--volumes").arg(volumes).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "volume {arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let seen = poll(PATIENCE, LOOK, || Ok(is_so()?.then_some(())))?;
        seen.with_context(|| format!("not within {PATIENCE:?}: {what}\n{}", self.system.operator.log_tail()))
    }

    /// The sum of a metric's values whose labels hold `label`; `None` where there is none.
    fn metric(&self, name: &str, label: &str) -> Result<Option<f64>> {
        let text = get(self.system.http(0), "/metrics")?.text();
        let values = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
            labels.contains(label).then(|| value.trim().parse::<f64>().ok())?
        });
        Ok(values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value)))
    }

    fn retired(&self) -> Result<f64> {
        Ok(self.metric("framekeeper_volume_retired_segments_total", "footage")?.unwrap_or(0.0))
    }

    fn coverage(&self, name: &str) -> Result<Value> {
        get(self.system.http(0), &format!("/v1/streams/default/{name}/coverage"))?.json()
    }

    /// A text of the local control plane's folder of statuses; empty while there is none.
    fn told(&self, path: &str) -> String {
        let text = fs::read_to_string(self.folder.path().join("data/status").join(path)).unwrap_or_default();
        // Long texts are folded.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether the condition `RecordingSpace` has this status and reason, and its message such words.
    fn space_is(&self, status: &str, reason: &str, words: &str) -> Result<bool> {
        let path = self.folder.path().join("data/status/recorders/default/main-recorder-0.yaml");
        let object: Value =
            framekeeper_crds::yaml::read(&fs::read_to_string(path).unwrap_or_default()).unwrap_or_default();
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(conditions.iter().any(|condition| {
            text(condition, "type") == "RecordingSpace"
                && text(condition, "status") == status
                && text(condition, "reason") == reason
                && text(condition, "message").contains(words)
        }))
    }

    fn clip(&self, name: &str, from: &str, to: &str) -> Result<Vec<u8>> {
        let answer = get(self.system.http(0), &format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}"))?;
        ensure!(answer.status == 200, "clip of {name}: {} {}", answer.status, answer.text());
        Ok(answer.body)
    }

    /// Waits until a stream is durable beyond a time.
    fn wait_durable(&self, name: &str, beyond: jiff::Timestamp) -> Result<()> {
        self.wait(&format!("{name} durable beyond {beyond}"), || {
            let channels = self.system.channels(0)?.unwrap_or_default();
            let text = |channel: &Value, key: &str| channel.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            let own = channels.iter().find(|channel| text(channel, "name") == name);
            Ok(own.is_some_and(|own| text(own, "durable").parse::<jiff::Timestamp>().is_ok_and(|time| time > beyond)))
        })
    }
}

/// Beginning of the oldest run of a coverage.
fn run_start(coverage: &Value) -> Result<jiff::Timestamp> {
    let run = coverage.get("runs").and_then(Value::as_array).context("no runs")?.first();
    Ok(run.and_then(|run| run.get("from")).and_then(Value::as_str).context("no beginning of a run")?.parse()?)
}

fn gap_reasons(coverage: &Value) -> Vec<String> {
    let gaps = coverage.get("gaps").and_then(Value::as_array).cloned().unwrap_or_default();
    gaps.iter().filter_map(|gap| Some(gap.get("reason")?.as_str()?.to_owned())).collect()
}

/// All segment files of a stream, oldest first.
fn files_of(volume: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in fs::read_dir(volume.join("streams/default").join(name))? {
        for file in fs::read_dir(day?.path())? {
            files.push(file?.path());
        }
    }
    files.sort();
    Ok(files)
}

/// From when on a volume has the footage of all streams, with nothing given up behind it: by the names of the files.
fn kept_from(volume: &Path, names: &[String]) -> Result<jiff::Timestamp> {
    /// A file lasts a little more than a second here.
    const IN_A_ROW: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
    let begins = |file: &PathBuf| -> Result<jiff::Timestamp> {
        let name = file.file_name().and_then(|name| name.to_str()).context("no name")?;
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.fZ.mp4", name)?;
        Ok(time.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
    };
    let oldest = names.iter().map(|name| {
        let mut times = files_of(volume, name)?.iter().map(begins).collect::<Result<Vec<_>>>()?;
        let mut oldest = times.pop().context("no files")?;
        while let Some(before) = times.pop().filter(|before| oldest.duration_since(*before) < IN_A_ROW) {
            oldest = before;
        }
        Ok(oldest)
    });
    let oldest = oldest.collect::<Result<Vec<_>>>()?.into_iter().max().context("no streams")?;
    // Recorded times and moments of emission are not the same to the millisecond.
    Ok(oldest + jiff::SignedDuration::from_millis(200))
}

#[test]
fn a_full_volume_gives_up_the_oldest_and_never_what_is_held() -> Result<()> {
    let mut site = Site::start("count=2,width=640,height=360,fps=25,bitrate=25M,gop=25,audio=none", 2, "80Mi", None)?;
    let held = site.names.first().context("no camera")?.clone();
    let from = run_start(&site.coverage(&held)?)?;
    let to = from + jiff::SignedDuration::from_secs(2);
    site.wait_durable(&held, to)?;
    site.annotate(&[(&held, Some(format!("{from}/{to}")))])?;
    site.wait("the hold is set", || Ok(site.holds()?.len() == 1))?;
    let (from, to) = (from.to_string(), to.to_string());
    let before = site.clip(&held, &from, &to)?;
    site.wait("a second segment of the held stream", || Ok(files_of(&site.volume(), &held)?.len() >= 3))?;
    let first = files_of(&site.volume(), &held)?.into_iter().next().context("no segment")?;
    let bytes_before = fs::read(&first)?;
    // Every file that is not held has been used again.
    site.wait("all other files are used again", || Ok(site.retired()? >= 14.0))?;
    ensure!(
        site.metric("framekeeper_volume_held_bytes", "footage")?.is_some_and(|bytes| bytes >= 4e6),
        "nothing is held"
    );
    ensure!(
        site.metric("framekeeper_volume_awaited_segments_total", "footage")? == Some(0.0),
        "a stream waited for a file"
    );
    ensure!(site.clip(&held, &from, &to)? == before, "the held range is not what it was");
    let coverage = site.coverage(&held)?;
    ensure!(coverage.get("holds").and_then(Value::as_array).is_some_and(|holds| holds.len() == 1), "{coverage:#}");
    ensure!(gap_reasons(&coverage) == ["Retired"], "what went between the held and the newest footage: {coverage:#}");
    std::thread::sleep(Duration::from_secs(1));
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    site.system.stop()?;

    ensure!(fs::read(&first)? == bytes_before, "{} is not what it was", first.display());
    let mut arguments = judge::volumes(&site.cameras.ledgers, &site.system.volumes());
    let kept_from = kept_from(&site.volume(), &site.names)?;
    arguments.extend(["--from".to_owned(), kept_from.to_string(), "--stop".to_owned(), stop.to_string()]);
    arguments.push("--no-decode".to_owned());
    judge::check(&arguments)?;
    let clip = site.folder.path().join("held.mp4");
    fs::write(&clip, before)?;
    let mut arguments = vec!["--ledger".to_owned(), site.cameras.ledgers.display().to_string()];
    arguments.extend([
        "--clip".to_owned(),
        clip.display().to_string(),
        "--stream".to_owned(),
        format!("default/{held}"),
    ]);
    arguments.extend(["--from".to_owned(), from, "--to".to_owned(), to]);
    judge::check(&arguments)?;
    judge::python_reader(&site.volume())?;
    Ok(())
}

#[test]
fn holds_that_fill_a_volume_are_told_long_before_and_released_by_taking_them_back() -> Result<()> {
    // Room for 20 s: to set holds, and to be told, before it is full.
    let site = Site::start("count=2,width=640,height=360,fps=25,bitrate=25M,gop=25,audio=none", 2, "128Mi", None)?;
    let (held, other) =
        (site.names.first().context("no camera")?.clone(), site.names.get(1).context("no camera")?.clone());
    let all = |name: &str| Ok::<_, anyhow::Error>(format!("{}/", run_start(&site.coverage(name)?)?));
    let holds = [(held.as_str(), Some(all(&held)?)), (other.as_str(), Some(all(&other)?))];
    site.annotate(&holds)?;
    // While there still are files: the rates say that they will be gone in minutes.
    site.wait("it is told", || site.space_is("False", "HoldsFillVolume", "recording ends in less than"))?;
    let usable = site.metric("framekeeper_volume_usable_segments", "footage")?.unwrap_or(0.0);
    let lasts = site.metric("framekeeper_volume_recording_lasts_seconds", "footage")?.unwrap_or(0.0);
    ensure!(usable > 0.0 && lasts > 0.0 && lasts < 60.0, "{usable} files, {lasts} s");
    ensure!(site.metric("framekeeper_stream_dropped_frames_total", "")?.is_none(), "dropped before it was full");
    site.wait("nothing may go", || site.space_is("False", "HoldsFillVolume", "nothing on it may be given up"))?;
    site.wait("dropped frames are counted by their reason", || {
        Ok(site.metric("framekeeper_stream_dropped_frames_total", "no_free_file")?.is_some_and(|frames| frames > 25.0))
    })?;
    site.wait("both streams say why they are not recorded", || {
        let channels = site.system.channels(0)?.unwrap_or_default();
        Ok(channels
            .iter()
            .filter(|channel| channel.get("reason").and_then(Value::as_str) == Some("NoFreeFile"))
            .count()
            == 2)
    })?;
    let events = site.told("events/recorders/default/main-recorder-0.yaml");
    ensure!(events.contains("HoldsFillVolume") && events.contains("recording ends in less than"), "{events}");
    ensure!(site.retired()? == 0.0, "held footage was given up");

    // One is taken back: its footage goes, and both are recorded again.
    site.annotate(&holds[..1])?;
    site.wait("one hold is released", || Ok(site.holds()?.len() == 1))?;
    let now = jiff::Timestamp::now();
    site.wait_durable(&held, now)?;
    site.wait_durable(&other, now)?;
    site.wait("the gap has its reason", || Ok(gap_reasons(&site.coverage(&held)?) == ["NoSpace"]))?;
    // What is still held, and nothing else, cannot be released by hand.
    let hold =
        site.holds()?.first().and_then(|hold| hold.get("hold")).and_then(Value::as_str).context("no hold")?.to_owned();
    let refused = site.by_hand(&["release", &hold]).unwrap_err().to_string();
    ensure!(refused.contains("take it away there") && refused.contains(&held), "{refused}");

    // With its CameraStream gone, it stays until a person at the machine says so.
    let mut plan = site.plan.clone();
    plan.streams.retain(|stream| stream.name == other);
    site.apply(&plan.manifest())?;
    site.wait("the stream has ended", || Ok(site.system.channels(0)?.is_some_and(|channels| channels.len() == 1)))?;
    let files = files_of(&site.volume(), &held)?;
    let retired = site.retired()?;
    site.wait("files of the other stream are used again", || Ok(site.retired()? >= retired + 2.0))?;
    ensure!(site.holds()?.len() == 1, "the hold went with its CameraStream");
    ensure!(files_of(&site.volume(), &held)?.starts_with(&files[..files.len() - 1]), "held footage was given up");
    site.by_hand(&["release", &hold])?;
    ensure!(site.holds()?.is_empty(), "it is still held");
    site.wait("what was held goes", || Ok(files_of(&site.volume(), &held).map_or(0, |left| left.len()) < files.len()))
}

#[test]
fn foreign_data_that_fills_the_disk_costs_no_frame_and_is_named() -> Result<()> {
    let mut site =
        Site::start("count=3,width=640,height=360,fps=25,bitrate=25M,gop=25,audio=none", 2, "96Mi", Some(200 << 20))?;
    site.wait("all files are made", || {
        Ok(site.metric("framekeeper_volume_needed_bytes", "footage")?.is_some_and(|needed| needed < 4e6))
    })?;
    let backup = site.volume().join("backup");
    fs::create_dir(&backup)?;
    let mut foreign = fs::File::create(backup.join("big"))?;
    let filled = loop {
        if let Err(error) = foreign.write_all(&[1; 1 << 16]) {
            break error;
        }
    };
    ensure!(filled.kind() == std::io::ErrorKind::StorageFull, "{filled}");
    foreign.sync_all()?;
    let retired = site.retired()?;
    site.wait("it is told and named", || site.space_is("False", "ForeignData", "footage/backup ("))?;
    // The event is written behind the status.
    site.wait("there is an event", || {
        Ok(site.told("events/recorders/default/main-recorder-0.yaml").contains("ForeignData"))
    })?;
    ensure!(
        site.metric("framekeeper_volume_foreign_bytes", "footage")?.is_some_and(|bytes| bytes > 4e7),
        "not counted"
    );
    // A folder for one more stream must be made, on a disk that has no room for a folder.
    let mut plan = site.plan.clone();
    let third =
        framekeeper_e2e::bench::stamps::ledger_names(&site.cameras.ledgers)?.pop().context("no third camera")?;
    plan.streams.push(StreamPlan::new(&third, site.cameras.url(&third)));
    site.apply(&plan.manifest())?;
    let mut all = site.names.clone();
    all.push(third);
    site.system.wait_recording(&all, PATIENCE)?;
    // Somebody writes on whenever there is room.
    site.wait("files are used again meanwhile", || {
        let _full = foreign.write_all(&[1; 1 << 16]);
        Ok(site.retired()? >= retired + 8.0)
    })?;
    ensure!(site.metric("framekeeper_stream_dropped_frames_total", "")?.is_none(), "frames were dropped");
    std::thread::sleep(Duration::from_secs(1));
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    site.system.stop()?;
    let mut arguments = judge::volumes(&site.cameras.ledgers, &site.system.volumes());
    let kept_from = kept_from(&site.volume(), &all)?;
    arguments.extend(["--from".to_owned(), kept_from.to_string(), "--stop".to_owned(), stop.to_string()]);
    arguments.push("--no-decode".to_owned());
    judge::check(&arguments)?;
    judge::python_reader(&site.volume())?;

    // A recorder that starts on the full disk records.
    site.system = System::start_on(site.folder.path(), site.system.manifest.clone(), 1)?;
    site.system.wait_recording(&all, PATIENCE)?;
    // Once the data is gone, the volume has its files again, and that is told as well.
    drop(foreign);
    fs::remove_dir_all(&backup)?;
    site.wait("all is well again", || site.space_is("True", "SpaceSuffices", ""))
}
