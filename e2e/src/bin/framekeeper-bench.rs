//! `framekeeper-bench`: what recording costs, beside peers and floors, in one run; and how fast footage is found.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use framekeeper_e2e::bench::floor::{self, Floor};
use framekeeper_e2e::bench::process::{Reading, family, read};
use framekeeper_e2e::bench::stamps;
use framekeeper_e2e::harness::{Cameras, Running, get, poll, program};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

#[derive(Parser)]
#[command(about = "Measures Framekeeper beside ffmpeg and two floors, by CPU time, in one run")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Mode>,
    /// Numbers of streams to measure with.
    #[arg(long, value_delimiter = ',', default_value = "20,100")]
    streams: Vec<usize>,
    /// Length of each measurement in seconds, after 6 s of settling.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where recordings go: a folder on the disk to measure. A new folder below the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write the report into this file, too.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Mode {
    /// Only receive, for the given seconds; used by the benchmark itself.
    #[command(hide = true)]
    Floor {
        /// Where to append; without it, bytes are dropped.
        #[arg(long)]
        append: Option<PathBuf>,
        /// How long.
        #[arg(long)]
        seconds: u64,
        /// Cameras.
        urls: Vec<String>,
    },
}

/// Bit rate of the benchmark's cameras.
const BITRATE: u64 = 4_000_000;
/// How long a contender runs before it is measured.
const SETTLE: Duration = Duration::from_secs(6);

/// One contender's figures over the window.
struct Row {
    name: &'static str,
    cpu_ms: f64,
    memory_mb: f64,
    threads: f64,
    written_ratio: Option<f64>,
    write_calls: f64,
    syncs: Option<f64>,
    missing: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Mode::Floor { append, seconds, urls }) = arguments.command {
        let floor = append.map_or(Floor::Drop, |folder| Floor::Append { folder, sync: Duration::from_millis(500) });
        let bytes = floor::run(&floor, &urls, Duration::from_secs(seconds))?;
        say(&format!("{bytes}"));
        return Ok(());
    }
    let temporary = std::env::temp_dir().join(format!("framekeeper-bench-{}", std::process::id()));
    let folder = arguments.folder.clone().unwrap_or(temporary);
    fs::create_dir_all(&folder)?;
    let mut report = heading(arguments.seconds)?;
    for &streams in &arguments.streams {
        let rows = measure(&folder, streams, Duration::from_secs(arguments.seconds))?;
        table(&mut report, streams, &rows)?;
    }
    report.push_str(&latencies()?);
    say(&report);
    if let Some(path) = arguments.write {
        fs::write(path, &report)?;
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's report goes to its standard output")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress of a long measurement, apart from the report")]
fn progress(text: &str) {
    eprintln!("bench: {text}");
}

fn heading(seconds: u64) -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(" unknown")
        .trim_start_matches([' ', '\t', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "# Benchmarks\n\nWritten by `make bench`; run it to repeat them. {cores} cores of {processor}, kernel {kernel}, ext4 on a virtual disk. Numbers of \
         different machines, or of different runs, do not compare; the ratios in one table do.\n\n## Recording\n\nLedger cameras on the same machine: 1080p25 \
         H.264 at {} Mbit/s, key frame each 2 s of at least 100 kB, RTSP over TCP. {seconds} s measured after {} s of settling, each contender alone, one after the \
         other. CPU is user and system time of all its processes, in milliseconds for each stream and second. *receive, drop*: one thread, epoll, one read a wakeup. *receive, append*: the \
         same, the bytes of each read appended to a file of the stream's own, each synced every 500 ms. *ffmpeg*: one process a stream, `-c copy -f segment`, 60 s MP4 \
         segments, no sync. *Framekeeper*: the recorder under its supervisor, default settings, synced every 500 ms.\n",
        BITRATE / 1_000_000,
        SETTLE.as_secs()
    ))
}

/// Measures all contenders with `streams` cameras.
fn measure(folder: &Path, streams: usize, window: Duration) -> Result<Vec<Row>> {
    let folder = folder.join(format!("n{streams}"));
    fs::create_dir_all(&folder)?;
    let cameras = Cameras::start(
        &folder,
        0,
        &[format!("name=cam,count={streams},kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50")],
    )?;
    let names = stamps::ledger_names(&cameras.ledgers)?;
    if names.len() != streams {
        bail!("{} ledgers for {streams} cameras", names.len());
    }
    let urls: Vec<String> = names.iter().map(|name| cameras.url(name)).collect();
    let mut rows = Vec::new();

    for append in [false, true] {
        let name = if append { "receive, append" } else { "receive, drop" };
        progress(&format!("{streams} streams: {name}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--seconds", &(SETTLE + window + Duration::from_secs(5)).as_secs().to_string()]);
        if append {
            command.arg("--append").arg(folder.join("raw"));
        }
        command.args(&urls);
        let mut running = Running::start(name, &mut command, &folder.join("floor.log"))?;
        let (cost, _) = window_of(&[running.pid()], window)?;
        if !running.alive() {
            bail!("{name} ended early: {}", running.log_tail());
        }
        rows.push(row(name, streams, window, &cost, append.then_some(2.0 * streams as f64), None));
        drop(running);
        let _absent = fs::remove_dir_all(folder.join("raw"));
    }

    progress(&format!("{streams} streams: Framekeeper"));
    let plan = PoolPlan {
        recorders: 1,
        max_channels: streams,
        budget: format!("{}Gi", 2 + streams * 192 / 1024 + streams / 16),
        segment_bytes: "64Mi".to_owned(),
        streams: names.iter().zip(&urls).map(|(name, url)| StreamPlan::new(name, url.clone())).collect(),
    };
    let mut system = System::start(&folder.join("framekeeper"), &plan)?;
    system.wait_recording(&names, Duration::from_secs(60))?;
    let operator = system.operator.pid();
    let recorder: Vec<u32> = family(&[operator]).into_iter().filter(|&pid| pid != operator).collect();
    let syncs_before = metric(&system, "framekeeper_volume_sync_duration_seconds_count")?;
    let (cost, (from, to)) = window_of(&recorder, window)?;
    let syncs = metric(&system, "framekeeper_volume_sync_duration_seconds_count")? - syncs_before;
    // What came at the end of the window is in sockets for a tick: it counts as missing only if it stays away.
    std::thread::sleep(Duration::from_secs(1));
    system.stop()?;
    let missing = stamps::missing(&cameras.ledgers, &folder.join("framekeeper/data/volumes"), from, to)?;
    rows.push(row("Framekeeper", streams, window, &cost, Some(syncs / window.as_secs_f64()), Some(missing)));
    fs::remove_dir_all(folder.join("framekeeper"))?;

    progress(&format!("{streams} streams: ffmpeg"));
    let mut recorders = Vec::new();
    for (name, url) in names.iter().zip(&urls) {
        let output = folder.join("ffmpeg").join(name);
        fs::create_dir_all(&output)?;
        let mut command = Command::new("ffmpeg");
        command.args([
            "-nostdin",
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-i",
            url,
            "-c",
            "copy",
            "-f",
            "segment",
            "-segment_time",
            "60",
        ]);
        command.args(["-segment_format", "mp4", "-reset_timestamps", "1"]).arg(output.join("%04d.mp4"));
        recorders.push(Running::start("ffmpeg", &mut command, &folder.join("ffmpeg.log"))?);
    }
    // ffmpeg looks at a stream for up to 5 s before it writes anything.
    std::thread::sleep(Duration::from_secs(6));
    let pids: Vec<u32> = recorders.iter().map(Running::pid).collect();
    let (cost, (from, to)) = window_of(&pids, window)?;
    for recorder in &recorders {
        framekeeper_e2e::harness::signal(recorder.pid(), rustix::process::Signal::INT);
    }
    for recorder in &mut recorders {
        recorder.wait(Duration::from_secs(30))?.context("ffmpeg did not end")?;
    }
    let missing = stamps::missing(&cameras.ledgers, &folder.join("ffmpeg"), from, to)?;
    rows.push(row("ffmpeg -c copy", streams, window, &cost, Some(0.0), Some(missing)));
    drop(recorders);
    drop(cameras);
    fs::remove_dir_all(&folder)?;
    Ok(rows)
}

/// Lets `pids` settle, then reads what they cost over the window; also its begin and end in nanoseconds since 1970.
fn window_of(pids: &[u32], window: Duration) -> Result<(Reading, (i64, i64))> {
    std::thread::sleep(SETTLE);
    let wall = || -> Result<i64> { Ok(i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_nanos())?) };
    let (from, before, began) = (wall()?, read(pids), Instant::now());
    std::thread::sleep(window.saturating_sub(began.elapsed()));
    let after = read(pids);
    let cost = Reading {
        cpu_s: after.cpu_s - before.cpu_s,
        written_bytes: after.written_bytes - before.written_bytes,
        write_calls: after.write_calls - before.write_calls,
        ..after
    };
    Ok((cost, (from, wall()?)))
}

fn row(
    name: &'static str,
    streams: usize,
    window: Duration,
    cost: &Reading,
    syncs: Option<f64>,
    missing: Option<String>,
) -> Row {
    let stream_seconds = streams as f64 * window.as_secs_f64();
    Row {
        name,
        cpu_ms: cost.cpu_s * 1000.0 / stream_seconds,
        memory_mb: cost.memory_bytes as f64 / 1e6 / streams as f64,
        threads: cost.threads as f64,
        written_ratio: (cost.written_bytes > 0)
            .then(|| cost.written_bytes as f64 / (stream_seconds * BITRATE as f64 / 8.0)),
        write_calls: cost.write_calls as f64 / window.as_secs_f64(),
        syncs,
        missing,
    }
}

fn table(report: &mut String, streams: usize, rows: &[Row]) -> Result<()> {
    let append = rows.iter().find(|row| row.name == "receive, append").map_or(f64::NAN, |row| row.cpu_ms);
    write!(
        report,
        "\n### {streams} streams\n\n| | CPU ms a stream-second | against append | MB a stream | threads | writes/s | syncs/s | bytes written / nominal | frames missing in the window |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    )?;
    for row in rows {
        let optional =
            |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
        writeln!(
            report,
            "| {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} | {} | {} |",
            row.name,
            row.cpu_ms,
            row.cpu_ms / append,
            row.memory_mb,
            row.threads,
            row.write_calls,
            optional(row.syncs, 0),
            optional(row.written_ratio, 3),
            row.missing.as_deref().unwrap_or("–")
        )?;
    }
    Ok(())
}

/// The sum of a counter over its labels, from the recorder's metrics.
fn metric(system: &System, name: &str) -> Result<f64> {
    let text = poll(Duration::from_secs(5), Duration::from_millis(100), || Ok(get(system.http(0), "/metrics").ok()))?
        .context("no answer from /metrics")?
        .text();
    let sum = text
        .lines()
        .filter(|line| line.starts_with(name) && !line.starts_with('#'))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    Ok(sum)
}

/// Coverage and clip latency over a synthesised catalogue, by the programs that stand beside the code they measure.
fn latencies() -> Result<String> {
    let mut text = String::from("\n## Finding\n\n");
    for (title, name) in [
        ("Coverage, 10^6 catalogued segments, 10,000 streams", "catalogue_bench"),
        ("First byte of a clip", "clip_latency"),
    ] {
        progress(title);
        let output = Command::new(program(&format!("examples/{name}"))?)
            .output()
            .with_context(|| format!("cannot run {name}"))?;
        if !output.status.success() {
            bail!("{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        write!(text, "{title}:\n\n```\n{}```\n\n", String::from_utf8_lossy(&output.stdout))?;
    }
    Ok(text)
}
