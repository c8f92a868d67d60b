//! Every frame of every camera reaches disk: counted, not felt.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, Running, count, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use framekeeper_e2e_checker::lag::{Poll, largest_lag};
use framekeeper_e2e_checker::ledger::Ledger;

/// How far the newest durable frame may be behind the camera's log: part, tick, sync interval and one sync, and then one frame,
/// so 1.2 s at 25 frames a second.
const MAX_LAG_BUT_A_FRAME_MS: f64 = 1_160.0;

#[test]
fn every_frame_of_every_camera_reaches_disk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (cameras_count, seconds) = (count(12, 100), count(15, 60));
    let cameras = Cameras::start(
        folder.path(),
        0,
        &[
            format!(
                "name=cam,count={cameras_count},kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50,audio=aac"
            ),
            "name=frozen,kind=frozen,width=1280,height=720,fps=25,bitrate=2M,gop=50,audio=aac".to_owned(),
            "name=black,kind=black,width=1280,height=720,fps=25,gop=50".to_owned(),
            "name=slices,kind=synthetic,width=1280,height=720,fps=30,bitrate=2M,gop=30,slices=4".to_owned(),
            "name=low,kind=synthetic,width=640,height=360,fps=5,bitrate=128k,gop=25,audio=aac".to_owned(),
        ],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    ensure!(names.len() == cameras_count + 4, "{names:?}");
    let plan = PoolPlan {
        recorders: 2,
        max_channels: names.len(),
        budget: format!("{}Mi", 64 * (names.len() * 2 + 8) + names.len() * seconds),
        segment_bytes: count(8, 64).to_string() + "Mi",
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let mut system = System::start(folder.path(), &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;

    let mut polls: BTreeMap<String, Vec<Poll>> = BTreeMap::new();
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    while Instant::now() < until {
        let round = Instant::now();
        for ordinal in 0..2 {
            // Before it is asked: the time that an answer takes is no lag.
            let at_ns = now_ns()?;
            for channel in system.channels(ordinal)?.unwrap_or_default() {
                let text = |key: &str| channel.get(key).and_then(|value| value.as_str());
                let durable = text("durable").map(str::parse::<jiff::Timestamp>).transpose()?;
                let durable_ns = durable.map(|time| i64::try_from(time.as_nanosecond())).transpose()?;
                let name = text("name").context("a channel without a name")?.to_owned();
                polls.entry(name).or_default().push(Poll { at_ns, durable_ns });
            }
        }
        std::thread::sleep(Duration::from_millis(200).saturating_sub(round.elapsed()));
    }
    let stop = now_ns()?;
    // What was emitted up to here is in sockets for a tick at most; an orderly stop writes what it has.
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;

    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend(["--union".to_owned(), "--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)?;

    let ledgers = Ledger::read_all(std::slice::from_ref(&cameras.ledgers))?;
    // By frames a second.
    let mut worst_of = BTreeMap::<u64, f64>::new();
    for ledger in &ledgers {
        let lag = largest_lag(polls.get(&ledger.camera).context("a camera that was never polled")?, ledger)
            .context("no durable frame")?;
        let apart = ledger.video.iter().zip(ledger.video.iter().skip(1)).map(|(a, b)| b.media_time - a.media_time);
        let frame_ms = apart.max().unwrap_or(0) as f64 / 90.0;
        let worst: &mut f64 = worst_of.entry((1_000.0 / frame_ms).round() as u64).or_default();
        *worst = worst.max(lag.largest_ms);
        ensure!(
            lag.largest_ms <= MAX_LAG_BUT_A_FRAME_MS + frame_ms,
            "{}: the newest durable frame was {:.0} ms behind the camera, whose frames are {frame_ms:.0} ms apart",
            ledger.camera,
            lag.largest_ms
        );
    }
    let frames: usize =
        ledgers.iter().map(|ledger| ledger.video.iter().filter(|frame| frame.wall_ns <= stop).count()).sum();
    judge::result(&format!(
        "{} cameras, {frames} frames emitted, 0 missing; newest durable frame at most behind the camera: {}",
        ledgers.len(),
        worst_of.iter().map(|(fps, ms)| format!("{ms:.0} ms at {fps} fps")).collect::<Vec<_>>().join(", ")
    ));
    for volume in system.volumes() {
        judge::python_reader(&volume)?;
    }
    Ok(())
}

#[test]
fn frames_out_of_display_order_keep_their_times() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source.mp4");
    judge::silent(
        Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-t", "8"])
            .arg(&source),
    )?;
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache)?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &[format!("name=reordered,kind=clip,file={},bframes=3,gop=50,bitrate=1M,audio=tone", source.display())],
    )?;
    let seconds = count(12, 60);
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: vec![StreamPlan::new("reordered", cameras.url("reordered"))],
    };
    let stop = record(folder.path(), &plan, &["reordered".to_owned()], Duration::from_secs(60), seconds)?;
    let mut arguments = judge::volumes(&cameras.ledgers, &[folder.path().join("data/volumes/main-recorder-0/footage")]);
    arguments.extend(["--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)
}

#[test]
fn a_camera_that_nobody_here_wrote_loses_no_frame() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = framekeeper_e2e::harness::free_port()?;
    let ledgers = folder.path().join("ledgers");
    std::fs::create_dir(&ledgers)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("camera/gst_camera.py");
    let mut command = Command::new("/usr/bin/python3"); // Debian's, which has the bindings of GStreamer
    command.arg(script).args(["--port", &port.to_string(), "--name", "gst", "--audio", "--log-dir"]).arg(&ledgers);
    command.args(["--user", "viewer", "--password", "from GStreamer"]);
    let mut camera = Running::start("gst_camera.py", &mut command, &folder.path().join("gst.log"))?;
    let listening = poll(Duration::from_secs(20), Duration::from_millis(50), || {
        ensure!(camera.alive(), "gst_camera.py ended: {}", camera.log_tail());
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    ensure!(listening.is_some(), "gst_camera.py does not listen: {}", camera.log_tail());
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: vec![StreamPlan {
            name: "gst".to_owned(),
            url: format!("rtsp://127.0.0.1:{port}/gst"),
            credentials: Some(("viewer".to_owned(), "from GStreamer".to_owned())),
        }],
    };
    let stop = record(folder.path(), &plan, &["gst".to_owned()], Duration::from_secs(30), count(12, 60))?;
    let mut arguments = judge::volumes(&ledgers, &[folder.path().join("data/volumes/main-recorder-0/footage")]);
    arguments.extend(["--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)
}

/// Records for `seconds` once all of `names` are recording, stops in order; returns until when frames are expected, nanoseconds since 1970.
fn record(folder: &Path, plan: &PoolPlan, names: &[String], patience: Duration, seconds: usize) -> Result<i64> {
    let mut system = System::start(folder, plan)?;
    system.wait_recording(names, patience)?;
    std::thread::sleep(Duration::from_secs(seconds as u64));
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;
    Ok(stop)
}
