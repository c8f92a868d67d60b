//! Twice the load that a recorder's memory is rated for, under a real limit, with everybody watching: recording gets what it needs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::family;
use framekeeper_e2e::cgroup::MemoryGroup;
use framekeeper_e2e::harness::{Cameras, count, get, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

/// What `docs/limits.md` says that a recorder needs for a camera of 4 Mbit/s with a key frame every two seconds, and for itself.
const CHANNEL_BYTES: u64 = (524_288 + 1_000_000 + 550_000) * 7 / 2;
const PROCESS_BYTES: u64 = 64 << 20;
/// Clients that take a clip and read it slowly, again and again: more than memory allows at once.
const WATCHERS: usize = 48;

/// The value of a metric without labels.
fn metric(system: &System, name: &str) -> Result<u64> {
    let text = get(system.http(0), "/metrics")?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context(text.clone())?;
    Ok(line.trim().parse::<f64>()? as u64)
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    clips: AtomicU64,
    refused: AtomicU64,
    /// Refused, but not told when to come again.
    mute: AtomicU64,
}

/// Takes clips of a stream until told to stop, and reads each as slowly as a bad line does.
fn watch(address: SocketAddr, name: &str, stop: &AtomicBool, seen: &Seen) -> Result<()> {
    let request = format!(
        "GET /v1/streams/default/{name}/clip.mp4?from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00Z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    while !stop.load(Ordering::Relaxed) {
        // As many connections as may be are open: that is an answer as well.
        let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { continue };
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut buffer = [0; 4096];
        if socket.write_all(request.as_bytes()).is_err() {
            continue;
        }
        let Ok(length) = socket.read(&mut buffer) else { continue };
        let head = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
        if head.starts_with("http/1.1 200") {
            seen.clips.fetch_add(1, Ordering::Relaxed);
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until
                && !stop.load(Ordering::Relaxed)
                && socket.read(&mut buffer).is_ok_and(|length| length > 0)
            {
                std::thread::sleep(Duration::from_millis(50));
            }
        } else if head.starts_with("http/1.1 503") {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            seen.mute.fetch_add(u64::from(!head.contains("retry-after: ")), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// The most that a process ever had in memory, bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    line.unwrap_or(0) * 1024
}

/// The limit is set to where the recorder uses half of it, three quarters, and half again: footage is refused for that, and no longer when there is more.
fn playback_waits_while_memory_is_short(system: &System, group: &MemoryGroup, names: &[String]) -> Result<()> {
    let name = names.first().context("no stream")?;
    let resident = metric(system, "framekeeper_process_resident_memory_bytes")?;
    let becomes = |status: u16| {
        let answer = poll(Duration::from_secs(30), Duration::from_millis(100), || {
            let answer = get(system.http(0), &format!("/v1/streams/default/{name}/coverage"))?;
            Ok(Some(answer).filter(|answer| answer.status == status))
        })?;
        answer.with_context(|| format!("no answer {status} within 30 s: {}", system.operator.log_tail()))
    };
    group.limit(resident * 2)?;
    becomes(200)?;
    group.limit(resident / 3 * 4)?;
    let refused = becomes(503)?;
    ensure!(refused.header("retry-after").is_some() && refused.text().contains("memory"), "{refused:?}");
    ensure!(metric(system, "framekeeper_playback_refused_requests_total")? > 0, "none was counted");
    group.limit(resident * 2)?;
    becomes(200).map(drop)
}

#[test]
fn twice_the_rated_load_stays_within_four_fifths_of_the_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rated = count(9, 40);
    let limit = PROCESS_BYTES + rated as u64 * CHANNEL_BYTES;
    let group = MemoryGroup::new(limit)?;
    let spec = format!("name=cam,count={},kind=synthetic,width=640,height=360,fps=25,bitrate=4M,gop=50", 2 * rated);
    let cameras = Cameras::start(folder.path(), 0, &[spec])?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: names.len(),
        budget: format!("{}Mi", names.len() * 40),
        segment_bytes: "8Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let wrapper = group.wrapper();
    let mut system = System::start_under(folder.path(), &plan, &wrapper.each_ref().map(String::as_str))?;
    system.wait_recording(&names, Duration::from_secs(60))?;
    let recorder = family(&[system.operator.pid()]);
    let worker = *recorder.last().context("no recorder process")?;
    ensure!(metric(&system, "framekeeper_memory_limit_bytes")? <= limit, "the limit is not in force");
    // It says what it was given, and records all of it.
    let told = poll(Duration::from_secs(10), Duration::from_millis(200), || {
        let status = fs::read_to_string(system.data.join("run/main-recorder-0/status.yaml")).unwrap_or_default();
        Ok(status.contains("MoreThanRated").then_some(status))
    })?;
    let told = told.with_context(|| format!("no condition: {}", system.operator.log_tail()))?;
    ensure!(told.contains(&format!("{} channels need", names.len())), "{told}");

    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    let time = Duration::from_secs(count(8, 120) as u64);
    let mut most = 0;
    std::thread::scope(|scope| -> Result<()> {
        for number in 0..WATCHERS {
            let name = &names[number % names.len()];
            let (system, stop, seen) = (&system, &stop, &seen);
            scope.spawn(move || watch(system.http(0), name, stop, seen));
        }
        let start = Instant::now();
        let looked = poll(time, Duration::from_millis(100), || {
            most = most.max(group.resident_bytes()?);
            Ok(None::<()>)
        });
        stop.store(true, Ordering::Relaxed);
        ensure!(start.elapsed() >= time, "watched for {:?}", start.elapsed());
        looked.map(drop)
    })?;
    let peak = peak(worker);
    playback_waits_while_memory_is_short(&system, &group, &names)?;
    let end = now_ns()?;
    std::thread::sleep(Duration::from_millis(500));
    let kills = group.kills()?;
    system.stop()?;
    let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
    arguments.extend(["--stop".to_owned(), end.to_string()]);
    judge::check(&arguments)?;
    let percent = |bytes: u64| bytes * 100 / limit;
    let (clips, refused) = (seen.clips.load(Ordering::Relaxed), seen.refused.load(Ordering::Relaxed));
    judge::result(&format!(
        "{} streams with memory for {rated} ({} MiB): 0 frames missing; the recorder at most {} MiB ({} %), with the operator {} %; {clips} clips begun, {refused} refused",
        names.len(),
        limit >> 20,
        peak >> 20,
        percent(peak),
        percent(most)
    ));
    ensure!(kills == 0, "the kernel killed {kills} processes");
    ensure!(percent(peak) <= 80, "the recorder used {} % of its memory", percent(peak));
    ensure!(clips > 0 && refused > 0, "{clips} clips, {refused} refused");
    ensure!(seen.mute.load(Ordering::Relaxed) == 0, "a refusal without Retry-After");
    Ok(())
}
