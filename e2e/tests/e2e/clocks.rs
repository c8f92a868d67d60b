//! Clocks that are set, and a process that stood still, while cameras are being recorded: no frame is lost, and time stays in order.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
use framekeeper_e2e::harness::{Cameras, count, get, poll, signal};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

/// Debian's libfaketime: the wall clock that a process sees is off by what a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn plan(cameras: &Cameras, names: &[String]) -> PoolPlan {
    PoolPlan {
        recorders: 1,
        max_channels: names.len(),
        budget: "512Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    }
}

/// A run as the recorder's coverage tells it.
#[derive(Debug)]
struct Run {
    id: String,
    from: Timestamp,
    to: Timestamp,
}

fn coverage(system: &System, name: &str) -> Result<Vec<Run>> {
    let answer = get(system.http(0), &format!("/v1/streams/default/{name}/coverage"))?;
    ensure!(answer.status == 200, "coverage: {} {}", answer.status, answer.text());
    let answer = answer.json()?;
    let runs = answer.get("runs").and_then(Value::as_array).context("no runs")?;
    runs.iter()
        .map(|run| {
            let text = |key: &str| run.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {run}"));
            Ok(Run { id: text("run")?.to_owned(), from: text("from")?.parse()?, to: text("to")?.parse()? })
        })
        .collect()
}

/// The wall time that the recorder gives to the newest durable picture of a stream.
fn durable(system: &System, name: &str) -> Result<Option<Timestamp>> {
    let channels = system.channels(0)?.unwrap_or_default();
    let channel = channels.iter().find(|channel| channel.get("name").and_then(Value::as_str) == Some(name));
    let time = channel.and_then(|channel| channel.get("durable")?.as_str());
    Ok(time.map(str::parse).transpose()?)
}

/// The report of `ledger-check` over everything that was recorded up to `stop`, streams by camera.
fn judged(folder: &Path, cameras: &Cameras, system: &System, stop: i64) -> Result<Vec<Value>> {
    let json = folder.join("report.json");
    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend(["--stop".to_owned(), stop.to_string(), "--json".to_owned(), json.display().to_string()]);
    judge::check(&arguments)?;
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    Ok(report.get("streams").and_then(Value::as_array).context("no streams in the report")?.clone())
}

#[test]
fn a_clock_that_is_set_loses_no_frame_and_keeps_playback_in_order() -> Result<()> {
    let folder = tempfile::tempdir()?;
    ensure!(Path::new(FAKETIME).is_file(), "{FAKETIME} is missing: apt-get install libfaketime");
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=2,kind=synthetic,width=640,height=360,fps=25,bitrate=1M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let offset_file = folder.path().join("offset");
    let set_clock = |seconds: i64| -> Result<()> {
        // By rename: the reader must never see half a number.
        let next = folder.path().join("offset.next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        Ok(fs::rename(&next, &offset_file)?)
    };
    // Summer time ends in Berlin at 01:00 UTC on 2026-10-25, some seconds from the start.
    let dst: Timestamp = "2026-10-25T00:59:54Z".parse()?;
    let dst_offset = dst.as_second() - Timestamp::now().as_second();
    set_clock(dst_offset)?;
    let environment = [
        ("LD_PRELOAD", FAKETIME.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", offset_file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
        ("TZ", "Europe/Berlin".to_owned()),
    ];
    let mut system = System::start_with_env(folder.path(), &plan(&cameras, &names), &environment)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let first = names.first().context("no camera")?;
    let part = Duration::from_secs(count(5, 20) as u64);
    std::thread::sleep(part);
    let hour = 3_600;
    // Forward and back by an hour and by a day; the last one by 3 s, into time that is recorded already.
    let steps = [hour, -2 * hour, 25 * hour, -48 * hour, 24 * hour, -3];
    let mut offset = dst_offset;
    for step in steps {
        offset += step;
        set_clock(offset)?;
        // Recorded under the new clock, and durable.
        let told = poll(Duration::from_secs(15), Duration::from_millis(50), || {
            let now_s = Timestamp::now().as_second() + offset;
            Ok(durable(&system, first)?.filter(|time| (time.as_second() - now_s).abs() <= 2))
        })?;
        ensure!(told.is_some(), "nothing recorded after a step of {step} s: {}", system.operator.log_tail());
        std::thread::sleep(part);
    }
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(1_500));

    // One coverage in order of time, each step a run of its own.
    let runs = coverage(&system, first)?;
    ensure!(runs.len() == steps.len() + 1, "{} runs of {} clocks: {runs:#?}", runs.len(), steps.len() + 1);
    ensure!(runs.is_sorted_by_key(|run| run.from), "not in order: {runs:#?}");
    let overlapping = runs.iter().zip(runs.iter().skip(1)).filter(|(a, b)| a.to > b.from).count();
    ensure!(overlapping == 1, "only the step of 3 s leads into recorded time: {runs:#?}");
    // Each is played whole: exactly the pictures with those times, also where two runs have the same times.
    for run in &runs {
        let path = format!("/v1/streams/default/{first}/clip.mp4?from={}&to={}", run.from, run.to);
        let clip = get(system.http(0), &path)?;
        ensure!(clip.status == 200, "{path}: {} {}", clip.status, clip.text());
        let file = folder.path().join("clip.mp4");
        fs::write(&file, &clip.body)?;
        let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
        arguments.extend(["--live".to_owned(), "--clip".to_owned(), file.display().to_string()]);
        arguments.extend(["--stream".to_owned(), format!("default/{first}")]);
        arguments.extend(["--from".to_owned(), run.from.to_string(), "--to".to_owned(), run.to.to_string()]);
        judge::check(&arguments).with_context(|| format!("run {} {path}", run.id))?;
    }
    system.stop()?;
    let streams = judged(folder.path(), &cameras, &system, stop)?;
    let reasons = |stream: &Value| -> Vec<String> {
        let runs = stream.get("runs").and_then(Value::as_array).cloned().unwrap_or_default();
        runs.iter().filter_map(|run| Some(run.get("gap_reason")?.as_str()?.to_owned())).collect()
    };
    for stream in &streams {
        let stepped = reasons(stream).iter().filter(|reason| reason.contains("clock")).count();
        ensure!(stepped == steps.len(), "{stepped} runs begin with a clock step: {:?}", reasons(stream));
    }
    // The cameras saw one session each: a clock is no reason to let go of one.
    for name in &names {
        let ledger = framekeeper_e2e_checker::ledger::Ledger::read(&cameras.ledgers.join(format!("{name}.ledger")))?;
        ensure!(ledger.sessions.len() == 1, "{name}: {} sessions", ledger.sessions.len());
    }
    judge::result(&format!("{} steps of the clock and an end of summer time: 0 frames missing, in order", steps.len()));
    Ok(())
}

#[test]
fn a_recorder_that_stood_still_goes_on_with_what_waited() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // So few bytes that what comes meanwhile finds room in the sockets: then the camera delivers all of it.
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=3,kind=synthetic,width=320,height=240,fps=10,bitrate=60k,gop=20".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let mut system = System::start(folder.path(), &plan(&cameras, &names))?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let (_, worker) = supervisor_and_worker(system.operator.pid(), system.http(0))?;
    let stops = count(1, 3);
    for _ in 0..stops {
        std::thread::sleep(Duration::from_secs(2));
        signal(worker, Signal::STOP);
        std::thread::sleep(Duration::from_secs(20));
        signal(worker, Signal::CONT);
        let awake_us = now_ns()?;
        let back = poll(Duration::from_secs(5), Duration::from_millis(20), || {
            for name in &names {
                if durable(&system, name)?.is_none_or(|time| time.as_nanosecond() < i128::from(awake_us)) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        ensure!(back.is_some(), "not recording 5 s after it went on: {}", system.operator.log_tail());
    }
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_secs(1));
    system.stop()?;
    let streams = judged(folder.path(), &cameras, &system, stop)?;
    for stream in &streams {
        let runs = stream.get("runs").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(runs == 1, "{runs} runs, but no frame was lost and no clock was set: {stream}");
    }
    judge::result(&format!("stood still {stops} × 20 s: 0 frames missing, one run"));
    Ok(())
}
