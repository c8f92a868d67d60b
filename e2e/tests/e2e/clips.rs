//! Footage over HTTP: exactly the frames of a range, and clear answers to impossible ones.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, count, get, http};
use framekeeper_e2e::judge;
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use serde_json::{Value, json};

struct Footage {
    system: System,
    cameras: Cameras,
    names: Vec<String>,
}

/// Records two cameras with sound for a while, with a gap in the middle of the first.
fn footage(folder: &Path) -> Result<Footage> {
    let cameras = Cameras::start(
        folder,
        0,
        &["name=cam,count=2,kind=synthetic,width=640,height=360,fps=25,bitrate=1M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "512Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let mut system = System::start(folder, &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let part = Duration::from_secs(count(12, 60) as u64);
    std::thread::sleep(part);
    let first = names.first().context("no camera")?;
    cameras.fault(first, &json!({"fault": "refuse", "on": true}))?;
    cameras.fault(first, &json!({"fault": "kill"}))?;
    std::thread::sleep(Duration::from_secs(3));
    cameras.fault(first, &json!({"fault": "refuse", "on": false}))?;
    system.wait_recording(&names, Duration::from_secs(20))?;
    std::thread::sleep(part);
    Ok(Footage { system, cameras, names })
}

fn coverage(address: SocketAddr, name: &str) -> Result<Vec<(Timestamp, Timestamp)>> {
    let answer = get(address, &format!("/v1/streams/default/{name}/coverage"))?;
    ensure!(answer.status == 200, "coverage: {} {}", answer.status, answer.text());
    let answer = answer.json()?;
    let runs = answer.get("runs").and_then(Value::as_array).context("no runs")?;
    runs.iter()
        .map(|run| {
            let time = |key: &str| -> Result<Timestamp> {
                Ok(run.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {run}"))?.parse()?)
            };
            Ok((time("from")?, time("to")?))
        })
        .collect()
}

#[test]
fn clips_hold_exactly_the_frames_of_their_range() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Footage { mut system, cameras, names } = footage(folder.path())?;
    let address = system.http(0);
    let mut random = rand::rng();
    let clips = count(30, 500);
    let mut runs_of = Vec::new();
    for name in &names {
        runs_of.push((name, coverage(address, name)?));
    }
    ensure!(runs_of.iter().any(|(_, runs)| runs.len() == 2), "the gap is not in the coverage: {runs_of:?}");
    let (mut bytes, mut ranges) = (0, 0);
    for number in 0..clips {
        let (name, runs) = runs_of.get(number % runs_of.len()).context("no runs")?;
        // Within one run or across the gap; everything that is asked for is durable by now.
        let (begin, end) = (runs.first().context("no run")?.0, runs.last().context("no run")?.1);
        let span_us = end.duration_since(begin).as_micros() - 2_500_000;
        let from_us = random.random_range(0..span_us);
        let length_us = random.random_range(200_000..=(span_us - from_us + 1_000_000).min(20_000_000));
        let from = begin.checked_add(SignedDuration::from_micros(i64::try_from(from_us)?))?;
        let to = from.checked_add(SignedDuration::from_micros(i64::try_from(length_us)?))?;
        let path = format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}");
        let whole = get(address, &path)?;
        if whole.status == 404 {
            let inside_gap = !runs.iter().any(|&(begin, end)| begin < to && from < end);
            ensure!(inside_gap, "{path}: {}", whole.text());
            continue;
        }
        ensure!(whole.status == 200, "{path}: {} {}", whole.status, whole.text());
        bytes += whole.body.len();
        let etag = whole.header("etag").context("no ETag")?.to_owned();
        for _ in 0..3 {
            let first = random.random_range(0..whole.body.len());
            let last = random.random_range(first..whole.body.len());
            let range = format!("bytes={first}-{last}");
            let part = http("GET", address, &path, &[("Range", &range), ("If-Range", &etag)], &[])?;
            ensure!(part.status == 206, "{path} {range}: {} {}", part.status, part.text());
            ensure!(
                Some(part.body.as_slice()) == whole.body.get(first..=last),
                "{path} {range}: other bytes than in the whole"
            );
            ranges += 1;
        }
        let file = folder.path().join("clip.mp4");
        fs::write(&file, &whole.body)?;
        let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
        arguments.extend([
            "--live".to_owned(),
            "--clip".to_owned(),
            file.display().to_string(),
            "--stream".to_owned(),
            format!("default/{name}"),
        ]);
        arguments.extend(["--from".to_owned(), from.to_string(), "--to".to_owned(), to.to_string()]);
        judge::check(&arguments).with_context(|| path.clone())?;
    }
    system.stop()?;
    judge::result(&format!(
        "{clips} clips of random ranges exact by the ledger ({} MB), {ranges} ranges identical",
        bytes / 1_000_000
    ));
    Ok(())
}

#[test]
fn impossible_ranges_get_a_status_and_a_message() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Footage { mut system, names, .. } = footage(folder.path())?;
    let address = system.http(0);
    let name = names.first().context("no camera")?;
    let runs = coverage(address, name)?;
    let [(begin, first_end), (second_begin, _)] = runs.as_slice() else { anyhow::bail!("not two runs: {runs:?}") };
    let at = |time: &Timestamp, ms: i64| -> Result<String> {
        Ok(time.checked_add(SignedDuration::from_millis(ms))?.to_string())
    };
    let clip = |from: &str, to: &str| format!("/v1/streams/default/{name}/clip.mp4?from={from}&to={to}");
    let cases = [
        ("in the gap", clip(&at(first_end, 500)?, &at(second_begin, -500)?), 404),
        ("in the future", clip(&at(begin, 3_600_000)?, &at(begin, 3_660_000)?), 404),
        ("before everything", clip(&at(begin, -60_000)?, &at(begin, -30_000)?), 404),
        ("empty", clip(&at(begin, 1_000)?, &at(begin, 1_000)?), 400),
        ("reversed", clip(&at(begin, 2_000)?, &at(begin, 1_000)?), 400),
        ("malformed", clip("yesterday", &at(begin, 1_000)?), 400),
        ("without an end", format!("/v1/streams/default/{name}/clip.mp4?from={begin}"), 400),
        ("of no stream", format!("/v1/streams/default/nobody/clip.mp4?from={begin}&to={first_end}"), 404),
        ("coverage malformed", format!("/v1/streams/default/{name}/coverage?from=x"), 400),
        ("picture before everything", format!("/v1/streams/default/{name}/frame.jpg?at={}", at(begin, -60_000)?), 404),
        ("picture malformed", format!("/v1/streams/default/{name}/frame.jpg?at=noon"), 400),
    ];
    for (what, path, status) in cases {
        let answer = get(address, &path)?;
        ensure!(answer.status == status, "{what}: {path}: {} instead of {status}: {}", answer.status, answer.text());
        ensure!(
            answer.header("content-type").is_some_and(|kind| kind.starts_with("application/problem+json")),
            "{what}: no problem: {:?}",
            answer.headers
        );
        let problem = answer.json()?;
        ensure!(
            problem.get("detail").and_then(Value::as_str).is_some_and(|detail| detail.len() > 10),
            "{what}: says nothing: {problem}"
        );
    }
    let path = clip(&at(begin, 1_000)?, &at(begin, 3_000)?);
    let unsatisfiable = http("GET", address, &path, &[("Range", "bytes=999999999999-")], &[])?;
    ensure!(unsatisfiable.status == 416, "Range behind the end: {}", unsatisfiable.status);
    let head = http("HEAD", address, &path, &[], &[])?;
    let whole = get(address, &path)?;
    ensure!(head.header("content-length") == Some(whole.body.len().to_string().as_str()), "HEAD: {:?}", head.headers);
    system.stop()
}

#[test]
fn a_picture_is_the_frame_it_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Footage { mut system, cameras, names } = footage(folder.path())?;
    let address = system.http(0);
    let mut random = rand::rng();
    for number in 0..count(6, 50) {
        let name = names.get(number % names.len()).context("no camera")?;
        let (begin, end) = *coverage(address, name)?.last().context("no run")?;
        let span_us = i64::try_from(end.duration_since(begin).as_micros())? - 2_000_000;
        let at = begin.checked_add(SignedDuration::from_micros(random.random_range(1_000_000..span_us)))?;
        for exact in ["", "&exact=1"] {
            let path = format!("/v1/streams/default/{name}/frame.jpg?at={at}{exact}");
            let answer = get(address, &path)?;
            ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
            let time: Timestamp =
                answer.header("framekeeper-frame-time").context("no Framekeeper-Frame-Time")?.parse()?;
            let file = folder.path().join("frame.jpg");
            fs::write(&file, &answer.body)?;
            let raw = Command::new("ffmpeg")
                .args(["-v", "error", "-i"])
                .arg(&file)
                .args(["-f", "rawvideo", "-pix_fmt", "gray", "-"])
                .output()?;
            let stamp = framekeeper_e2e_camera::read_stamp(&raw.stdout, 640)
                .with_context(|| format!("{path}: no stamp in the picture"))?;
            let ledger = framekeeper_e2e_camera::Ledger::read(cameras.ledgers.join(format!("{name}.ledger")))?;
            let frame =
                ledger.video().find(|frame| frame.number == stamp).context("a picture that the camera never sent")?;
            // When the camera's loop really woke is no business of the recorder's.
            let due_ns = ledger.due_ns(frame).context("no frame")?;
            let deviation_ms = (i64::try_from(time.as_nanosecond())? - due_ns) / 1_000_000;
            ensure!(
                (-20..=150).contains(&deviation_ms),
                "{path}: the picture is frame {stamp}, {deviation_ms} ms from the time it is said to have"
            );
            if exact.is_empty() {
                ensure!(frame.is_key(), "{path}: frame {stamp} is no key frame");
            } else {
                let before_ms = at.duration_since(time).as_millis();
                ensure!(
                    (0..=45).contains(&before_ms),
                    "{path}: the frame at that time is at most 40 ms older, not {before_ms}"
                );
            }
        }
    }
    system.stop()
}
