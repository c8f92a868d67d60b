//! A recorder fails that has hundreds of streams, and recorders that get too little of the processors: nobody's frame is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process;
use framekeeper_e2e::harness::{Running, count, get, poll, prefer, signal};
use framekeeper_e2e::judge::{self, now_ns};
use rustix::process::Signal;
use serde_json::Value;

use super::failover::{Setting, Site};

/// The recorders that have all streams, half of them each, and the one that stands by for all of them. (One recorder has 500 slots at most, of which a
/// standby of class `Playing` takes one for itself.)
const VICTIMS: [usize; 2] = [0, 1];
const SURVIVOR: usize = 2;
/// Within so much of the kill all streams are recorded: of class `Ready` with the key frame for which they wait, one of which comes each second.
const ALL_RECORDING: Duration = Duration::from_secs(3);
/// What a recorder had received and not made durable when it failed, of class `Ready`.
const NOT_DURABLE_MS: u64 = 600;
/// What a takeover costs is measured over so long, beside as long a time before.
const MEASURED: Duration = Duration::from_secs(5);

/// All streams of two recorders, taken over at once by another one.
struct TakenOver {
    site: Site,
    killed_ns: i64,
    /// Until the last one was recorded.
    after: Duration,
    /// Of the survivor, before and behind the kill: seconds of processor time, and the most memory.
    processor_s: [f64; 2],
    peak_mib: [u64; 2],
}

/// Starts cameras that cost next to nothing, lets two recorders have them all and another one stand by for all, and kills the two.
fn take_over_at_once(class: &str) -> Result<TakenOver> {
    let streams = count(60, 300);
    // Key frames at moments of their own, as those of cameras that know nothing of each other.
    let cameras = format!("name=cam,count={streams},width=160,height=160,fps=10,bitrate=100k,gop=10,spread=true");
    let pool = format!("toleratedFailures: 2\n  redundancy: {{class: {class}}}");
    let setting = Setting { recorders: 3, at_first: 2, cameras: vec![cameras], pool: &pool, stable: 3, wrapper: &[] };
    let mut site = Site::set_up(tempfile::tempdir()?, &setting)?;
    site.system.wait_recording(&site.names.clone(), Duration::from_secs(60))?;
    // What is recorded stays where it is, so that the third recorder gets standbys of all streams and none of the primaries.
    let manifest = fs::read_to_string(&site.system.manifest)?;
    site.system.edit(&manifest.replacen("recorders: 2", "recorders: 3", 1))?;
    site.wait_protected()?;
    ensure!(site.primaries.values().all(|primary| VICTIMS.contains(primary)), "{:?}", site.primaries);

    let (_, survivor) = site.processes(SURVIVOR)?;
    let forget_peak = || fs::write(format!("/proc/{survivor}/clear_refs"), "5").context("forget the peak of memory");
    forget_peak()?;
    let begun = process::read(&[survivor]).cpu_s;
    std::thread::sleep(MEASURED);
    let before = (process::read(&[survivor]).cpu_s, peak_mib(survivor)?);
    forget_peak()?;
    let victims = VICTIMS.map(|victim| site.processes(victim));
    // Nobody starts it again before all is measured.
    signal(site.system.operator.pid(), Signal::STOP);
    let (killed, killed_ns) = (Instant::now(), now_ns()?);
    for victim in victims {
        let (supervisor, worker) = victim?;
        signal(supervisor, Signal::KILL);
        signal(worker, Signal::KILL);
    }
    let mut recording = 0;
    let all = poll(ALL_RECORDING, Duration::from_millis(50), || {
        let channels = site.system.channels(SURVIVOR)?.unwrap_or_default();
        let records = |channel: &&Value| channel.get("state").and_then(Value::as_str) == Some("Recording");
        recording = channels.iter().filter(records).count();
        Ok((recording == streams).then_some(()))
    })?;
    let after = killed.elapsed();
    let rest = MEASURED.saturating_sub(killed.elapsed());
    std::thread::sleep(rest);
    let behind = (process::read(&[survivor]).cpu_s, peak_mib(survivor)?);
    signal(site.system.operator.pid(), Signal::CONT);
    all.with_context(|| format!("{recording} of {streams} streams recorded after {after:?}"))?;
    site.wait_protected()?;
    Ok(TakenOver {
        site,
        killed_ns,
        after,
        processor_s: [before.0 - begun, behind.0 - before.0],
        peak_mib: [before.1, behind.1],
    })
}

/// The most memory that a process had since that was forgotten, MiB (proc(5), `VmHWM`).
fn peak_mib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

impl TakenOver {
    fn tell(&self, class: &str, lost: &str) {
        let &Self { after, processor_s: [before_s, behind_s], peak_mib: [before_mib, behind_mib], .. } = self;
        judge::result(&format!(
            "class {class}: {} streams taken over at once, all recorded {:.2} s after the kill, {lost}; processor time of the one that took over \
             in {MEASURED:?}: {behind_s:.2} s, before {before_s:.2} s; its memory at most {behind_mib} MiB, before {before_mib} MiB",
            self.site.names.len(),
            after.as_secs_f64(),
        ));
    }
}

#[test]
fn hundreds_of_streams_taken_over_at_once_cost_no_frame() -> Result<()> {
    let mut taken = take_over_at_once("Playing")?;
    taken.site.judge()?;
    taken.tell("Playing", "0 frames missing");
    Ok(())
}

#[test]
fn hundreds_of_streams_of_class_ready_taken_over_at_once_are_soon_recorded() -> Result<()> {
    let mut taken = take_over_at_once("Ready")?;
    let stop = taken.site.end()?;
    let json = taken.site.folder.path().join("report.json");
    let mut arguments = judge::volumes(&taken.site.cameras.ledgers, &taken.site.system.volumes());
    let numbers = [stop, taken.killed_ns, NOT_DURABLE_MS as i64, ALL_RECORDING.as_millis() as i64];
    for (option, number) in ["--stop", "--kill", "--max-missing-ms", "--max-back-ms"].into_iter().zip(numbers) {
        arguments.extend([option.to_owned(), number.to_string()]);
    }
    arguments.extend(["--union".to_owned(), "--json".to_owned(), json.display().to_string()]);
    judge::check(&arguments)?;
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let mut back_ms = Vec::new();
    for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
        let cost = stream.get("kills").and_then(Value::as_array).and_then(|kills| kills.first()).context("no kill")?;
        back_ms.push(cost.get("back_after_ms").and_then(Value::as_f64).context("a stream that did not come back")?);
    }
    back_ms.sort_by(f64::total_cmp);
    let (median, last) = (back_ms.get(back_ms.len() / 2), back_ms.last());
    let (Some(median), Some(last)) = (median, last) else { anyhow::bail!("no stream in {report}") };
    taken.tell("Ready", &format!("first frame behind it {median:.0} ms (median), {last:.0} ms (longest)"));
    Ok(())
}

/// By stream: how often it was recorded in its primary's place, each time in an epoch of its own.
fn recorded_in_place(site: &Site) -> Result<BTreeMap<String, usize>> {
    let count = |name: &String| {
        let answer = get(site.system.http(0), &format!("/v1/streams/default/{name}/coverage"))?.json()?;
        let runs = answer.get("runs").and_then(Value::as_array).context("no runs")?;
        let number = |run: &Value, key: &str| run.get(key).and_then(Value::as_u64).unwrap_or(0);
        let epochs: BTreeSet<u64> =
            runs.iter().filter(|run| number(run, "rank") > 0).map(|run| number(run, "epoch")).collect();
        Ok((name.clone(), epochs.len()))
    };
    site.names.iter().map(count).collect()
}

#[test]
fn recorders_that_get_too_little_of_the_processors_lose_no_frame() -> Result<()> {
    let mut site = Site::start(3, count(6, 30), "toleratedFailures: 1")?;
    // A camera is a device of its own, and so is not slowed down.
    prefer(site.cameras.process.pid())?;
    let before = (recorded_in_place(&site)?, site.counted("framekeeper_takeovers_total")?);
    let processors = std::thread::available_parallelism()?.get();
    let seconds = count(20, 600);
    let mut busy = Vec::new();
    for _ in 0..processors * 2 {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        busy.push(Running::start("a loop", &mut command, &site.folder.path().join("busy.log"))?);
    }
    std::thread::sleep(Duration::from_secs(seconds as u64));
    drop(busy);
    site.wait_protected()?;
    let after = (recorded_in_place(&site)?, site.counted("framekeeper_takeovers_total")?);
    let takeovers = after.1.saturating_sub(before.1);
    for (name, times) in &after.0 {
        let was = before.0.get(name).context("a stream that was not there before")?;
        ensure!(*times <= was + 1, "{name} was taken over {} times", times - was);
    }
    ensure!(takeovers <= site.names.len() as u64, "{takeovers} takeovers of {} streams", site.names.len());
    site.judge()?;
    judge::result(&format!(
        "{} loops on {processors} processors for {seconds} s: 0 frames missing, {takeovers} takeovers of {} streams by mistake",
        processors * 2,
        site.names.len()
    ));
    Ok(())
}
