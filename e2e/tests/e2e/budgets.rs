//! What runs out is taken from playback, never from recording.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, get, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

/// Descriptors that the recorder gets: few more than it needs to record.
const DESCRIPTORS: usize = 200;

/// The value of a metric without labels.
fn metric(system: &System, name: &str) -> Result<u64> {
    let text = get(system.http(0), "/metrics")?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context(text.clone())?;
    Ok(line.trim().parse::<f64>()? as u64)
}

#[test]
fn connections_beyond_what_descriptors_allow_do_not_touch_recording() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=4,kind=synthetic,width=640,height=360,fps=25,bitrate=4M,gop=25".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 8,
        budget: "512Mi".to_owned(),
        // The least: each stream needs a new file every 8 s.
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let mut system = System::start_under(folder.path(), &plan, &["prlimit", &limit])?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    ensure!(metric(&system, "framekeeper_process_max_fds")? == DESCRIPTORS as u64, "the limit is not in force");

    // Three times as many connections as there are descriptors; each is held, and says nothing or half a word.
    let mut held = Vec::new();
    let mut refused = 0;
    for number in 0..DESCRIPTORS * 3 {
        let Ok(mut stream) = TcpStream::connect_timeout(&system.http(0), Duration::from_secs(2)) else { continue };
        if number % 2 == 0 {
            let _refused_already = stream.write_all(b"GET /v1/channels HT");
        }
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let mut answer = [0; 16];
        refused += usize::from(stream.read(&mut answer).is_ok_and(|got| answer[..got].starts_with(b"HTTP/1.1 503")));
        held.push(stream);
    }
    // A second later those beyond the limit that say nothing have left the places for probes.
    let status = |path: &str| get(system.http(0), path).ok().map(|answer| answer.status);
    let lives =
        poll(Duration::from_secs(5), Duration::from_millis(100), || Ok((status("/livez") == Some(200)).then_some(())))?;
    ensure!(lives.is_some(), "no probe is answered in the flood: {}", system.operator.log_tail());
    let other = status("/v1/channels");
    ensure!(other == Some(503), "the flood does not hold all connections: /v1/channels answers {other:?}");
    // Long enough for every stream to need new files, and short enough for those that are held to be open all the time.
    let flooded = Instant::now();
    let mut probes = 0;
    while flooded.elapsed() < Duration::from_secs(20) {
        for path in ["/livez", "/readyz"] {
            let answer = status(path);
            ensure!(answer == Some(200), "{path} answers {answer:?} in the flood: {}", system.operator.log_tail());
            probes += 1;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(held);
    let back = poll(Duration::from_secs(5), Duration::from_millis(100), || {
        Ok(get(system.http(0), "/readyz").ok().filter(|answer| answer.status == 200))
    })?;
    ensure!(back.is_some(), "not ready after the flood: {}", system.operator.log_tail());
    ensure!(refused > 0, "nobody was told that there are too many connections");
    ensure!(metric(&system, "framekeeper_http_refused_connections_total")? > 0, "none was counted");
    let stop = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    system.stop()?;
    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend(["--stop".to_owned(), stop.to_string()]);
    judge::check(&arguments)?;
    judge::result(&format!(
        "{} connections on {DESCRIPTORS} descriptors, {refused} told that there are too many, {probes} probes answered meanwhile: 0 frames missing",
        DESCRIPTORS * 3
    ));
    Ok(())
}
