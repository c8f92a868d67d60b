//! What recording costs: Framekeeper, both ways of writing, beside ffmpeg and two floors, one after the other with the same cameras.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::{Reading, family, read, threads};
use super::stamps;
use crate::harness::{Cameras, Running, get, poll, signal};
use crate::local::{PoolPlan, StreamPlan, System};

/// Bit rate of the cameras.
pub const BITRATE: u64 = 4_000_000;
/// How long a contender runs before it is measured.
pub const SETTLE: Duration = Duration::from_secs(6);
/// The size of segments that pools have by default.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Files beside the one to write to and the one to keep that the operator wants for each stream.
const SPARE_FILES: u64 = 8;
/// The name of the floor that others are compared with.
const APPEND: &str = "receive, append";

/// One contender's figures over the window.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    cpu_ms: f64,
    memory_mb: f64,
    memory_most_mb: f64,
    threads: f64,
    written_ratio: Option<f64>,
    write_calls: f64,
    syncs: Option<f64>,
    missing: Option<String>,
    /// CPU by kind of thread, milliseconds a stream-second; of Framekeeper only.
    by_thread: BTreeMap<String, f64>,
}

/// Bytes that measuring so many streams takes on the disk at most.
#[must_use]
pub fn bytes_needed(streams: usize, window: Duration) -> u64 {
    let appended = BITRATE / 8 * streams as u64 * (SETTLE + window + Duration::from_secs(30)).as_secs();
    budget_bytes(streams).max(appended)
}

fn budget_bytes(streams: usize) -> u64 {
    (2 * streams as u64 + SPARE_FILES) * SEGMENT_BYTES
}

/// What is counted from here on, of processes that run all the time.
struct Window {
    before: Reading,
    threads: BTreeMap<String, f64>,
    began: Instant,
    from_ns: i64,
    length: Duration,
}

struct Measured {
    cost: Reading,
    memory: (f64, f64),
    by_thread: BTreeMap<String, f64>,
    /// Begin and end in nanoseconds since 1970.
    between_ns: (i64, i64),
}

fn wall_ns() -> Result<i64> {
    Ok(i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_nanos())?)
}

impl Window {
    /// Lets `pids` settle and begins.
    fn open(pids: &[u32], length: Duration) -> Result<Self> {
        std::thread::sleep(SETTLE);
        Ok(Self { from_ns: wall_ns()?, threads: threads(pids), before: read(pids), began: Instant::now(), length })
    }

    fn close(self, pids: &[u32]) -> Result<Measured> {
        // Memory goes up and down with the GOP.
        let mut memory = Vec::new();
        while self.began.elapsed() < self.length {
            let next = Duration::from_millis(970).min(self.length.saturating_sub(self.began.elapsed()));
            std::thread::sleep(next);
            memory.push(read(pids).memory_bytes as f64);
        }
        let after = read(pids);
        let mut by_thread = threads(pids);
        for (name, before) in &self.threads {
            by_thread.entry(name.clone()).and_modify(|now| *now -= before);
        }
        let cost = Reading {
            cpu_s: after.cpu_s - self.before.cpu_s,
            written_bytes: after.written_bytes - self.before.written_bytes,
            write_calls: after.write_calls - self.before.write_calls,
            ..after
        };
        let mean = memory.iter().sum::<f64>() / memory.len().max(1) as f64;
        let most = memory.iter().copied().fold(0.0, f64::max);
        Ok(Measured { cost, memory: (mean, most), by_thread, between_ns: (self.from_ns, wall_ns()?) })
    }
}

fn window_of(pids: &[u32], length: Duration) -> Result<Measured> {
    Window::open(pids, length)?.close(pids)
}

impl Row {
    fn new(name: &str, streams: usize, window: Duration, measured: &Measured) -> Self {
        let stream_seconds = streams as f64 * window.as_secs_f64();
        let cost = &measured.cost;
        Self {
            name: name.to_owned(),
            cpu_ms: cost.cpu_s * 1000.0 / stream_seconds,
            memory_mb: measured.memory.0 / 1e6 / streams as f64,
            memory_most_mb: measured.memory.1 / 1e6 / streams as f64,
            threads: cost.threads as f64,
            written_ratio: (cost.written_bytes > 0)
                .then(|| cost.written_bytes as f64 / (stream_seconds * BITRATE as f64 / 8.0)),
            write_calls: cost.write_calls as f64 / window.as_secs_f64(),
            syncs: None,
            missing: None,
            by_thread: measured.by_thread.iter().map(|(name, s)| (name.clone(), s * 1000.0 / stream_seconds)).collect(),
        }
    }
}

/// Measures all contenders with `streams` cameras, in `folder`, which is empty again afterwards.
///
/// # Errors
/// When one of them cannot be started, or ends early.
pub fn measure(folder: &Path, streams: usize, window: Duration, progress: impl Fn(&str)) -> Result<Vec<Row>> {
    let cameras = Cameras::start(
        folder,
        0,
        &[format!(
            "name=cam,count={streams},spread=true,kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50"
        )],
    )?;
    let names = stamps::ledger_names(&cameras.ledgers)?;
    if names.len() != streams {
        bail!("{} ledgers for {streams} cameras", names.len());
    }
    let bench = Bench { folder, cameras: &cameras, names: &names, window };
    let mut rows = Vec::new();
    let about = (SETTLE + window).as_secs();
    for (name, append) in [("receive, drop", false), (APPEND, true)] {
        progress(&format!("{streams} streams: {name}, {about} s"));
        rows.push(bench.floor(name, append)?);
    }
    for writes in ["direct", "buffered"] {
        progress(&format!("{streams} streams: Framekeeper, {writes}, {about} s and until all streams are recorded"));
        rows.push(bench.framekeeper(writes)?);
    }
    progress(&format!("{streams} streams: ffmpeg, {} s", about + 6));
    rows.push(bench.ffmpeg()?);
    drop(cameras);
    Ok(rows)
}

struct Bench<'a> {
    folder: &'a Path,
    cameras: &'a Cameras,
    names: &'a [String],
    window: Duration,
}

impl Bench<'_> {
    fn streams(&self) -> usize {
        self.names.len()
    }

    fn urls(&self) -> Vec<String> {
        self.names.iter().map(|name| self.cameras.url(name)).collect()
    }

    fn row(&self, name: &str, measured: &Measured) -> Row {
        Row::new(name, self.streams(), self.window, measured)
    }

    fn floor(&self, name: &str, append: bool) -> Result<Row> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--seconds", &(SETTLE + self.window + Duration::from_secs(10)).as_secs().to_string()]);
        let raw = self.folder.join("raw");
        if append {
            command.arg("--append").arg(&raw);
        }
        command.args(self.urls());
        let mut running = Running::start(name, &mut command, &self.folder.join("floor.log"))?;
        let measured = window_of(&[running.pid()], self.window)?;
        if !running.alive() {
            bail!("{name} ended early: {}", running.log_tail());
        }
        drop(running);
        let mut row = self.row(name, &measured);
        if append {
            row.syncs = Some(2.0 * self.streams() as f64);
            fs::remove_dir_all(&raw)?;
        }
        Ok(row)
    }

    fn framekeeper(&self, writes: &str) -> Result<Row> {
        let plan = PoolPlan {
            recorders: 1,
            max_channels: self.streams(),
            budget: budget_bytes(self.streams()).to_string(),
            segment_bytes: SEGMENT_BYTES.to_string(),
            streams: self.names.iter().zip(self.urls()).map(|(name, url)| StreamPlan::new(name, url)).collect(),
        };
        let folder = self.folder.join("framekeeper");
        fs::create_dir_all(&folder)?;
        let environment = [("FRAMEKEEPER_WRITES", writes.to_owned())];
        let mut system = System::start_with_env(&folder, &plan, &environment)?;
        system.wait_recording(self.names, Duration::from_secs(60))?;
        let operator = system.operator.pid();
        let recorder: Vec<u32> = family(&[operator]).into_iter().filter(|&pid| pid != operator).collect();
        let window = Window::open(&recorder, self.window)?;
        let syncs = metric(&system, "framekeeper_volume_sync_duration_seconds_count")?;
        let measured = window.close(&recorder)?;
        let syncs = metric(&system, "framekeeper_volume_sync_duration_seconds_count")? - syncs;
        // What came at the end of the window is in sockets for a tick: it counts as missing only if it stays away.
        std::thread::sleep(Duration::from_secs(1));
        system.stop()?;
        let (from, to) = measured.between_ns;
        let missing = stamps::missing(&self.cameras.ledgers, &folder.join("data/volumes"), from, to)?;
        fs::remove_dir_all(&folder)?;
        let row = self.row(&format!("Framekeeper, {writes}"), &measured);
        Ok(Row { syncs: Some(syncs / self.window.as_secs_f64()), missing: Some(missing), ..row })
    }

    fn ffmpeg(&self) -> Result<Row> {
        let folder = self.folder.join("ffmpeg");
        let mut recorders = Vec::new();
        for (name, url) in self.names.iter().zip(self.urls()) {
            let output = folder.join(name);
            fs::create_dir_all(&output)?;
            let mut command = Command::new("ffmpeg");
            command.args(["-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", &url, "-c", "copy"]);
            command.args(["-f", "segment", "-segment_time", "60", "-segment_format", "mp4", "-reset_timestamps", "1"]);
            command.arg(output.join("%04d.mp4"));
            recorders.push(Running::start("ffmpeg", &mut command, &self.folder.join("ffmpeg.log"))?);
        }
        // ffmpeg looks at a stream for up to 5 s before it writes anything.
        std::thread::sleep(Duration::from_secs(6));
        let pids: Vec<u32> = recorders.iter().map(Running::pid).collect();
        let measured = window_of(&pids, self.window)?;
        recorders.iter().for_each(|recorder| signal(recorder.pid(), rustix::process::Signal::INT));
        for recorder in &mut recorders {
            recorder.wait(Duration::from_secs(30))?.context("ffmpeg did not end")?;
        }
        let (from, to) = measured.between_ns;
        let missing = stamps::missing(&self.cameras.ledgers, &folder, from, to)?;
        fs::remove_dir_all(&folder)?;
        Ok(Row { syncs: Some(0.0), missing: Some(missing), ..self.row("ffmpeg -c copy", &measured) })
    }
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

/// What the tables are, in words.
#[must_use]
pub fn preface(window: Duration) -> String {
    format!(
        "Ledger cameras on the same machine: 1080p25 H.264 at {} Mbit/s, key frame each 2 s of at least 100 kB, spread over these 2 s, RTSP over TCP. {} s measured after {} s of \
         settling, each contender alone, one after the other. CPU is user and system time of all its processes, in milliseconds for each stream and second; what the kernel does \
         in threads of its own (writing the page cache back) is in none. Memory is the proportional set size, looked at each second: mean, and most. *receive, drop*: one thread, \
         epoll, one read a wakeup. *receive, append*: the same, the bytes of each read appended to a file of the stream's own, each synced every 500 ms. *Framekeeper*: the \
         recorder under its supervisor, default settings, synced every 500 ms, with direct writes and with buffered ones. *ffmpeg*: one process a stream, `-c copy -f segment`, \
         60 s MP4 segments, no sync. A sync of Framekeeper is one round over the volume.\n",
        BITRATE / 1_000_000,
        window.as_secs(),
        SETTLE.as_secs()
    )
}

/// The rows as a table, and Framekeeper's CPU by thread.
#[must_use]
pub fn table(streams: usize, rows: &[Row]) -> String {
    let append = rows.iter().find(|row| row.name == APPEND).map_or(f64::NAN, |row| row.cpu_ms);
    let mut text = format!(
        "\n### {streams} streams\n\n| | CPU ms a stream-second | against append | MB a stream, mean / most | threads | writes/s | syncs/s | bytes written / nominal | frames missing in the window |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let optional =
            |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
        let _infallible = writeln!(
            text,
            "| {} | {:.3} | {:.2} | {:.2} / {:.2} | {:.0} | {:.0} | {} | {} | {} |",
            row.name,
            row.cpu_ms,
            row.cpu_ms / append,
            row.memory_mb,
            row.memory_most_mb,
            row.threads,
            row.write_calls,
            optional(row.syncs, 0),
            optional(row.written_ratio, 3),
            row.missing.as_deref().unwrap_or("–")
        );
    }
    let ours = || rows.iter().filter(|row| row.name.starts_with("Framekeeper"));
    if let Some(ffmpeg) = rows.iter().find(|row| row.name.starts_with("ffmpeg")) {
        let ratios: Vec<_> =
            ours().map(|row| format!("{} 1/{:.1} of ffmpeg's CPU", row.name, ffmpeg.cpu_ms / row.cpu_ms)).collect();
        let _infallible = writeln!(text, "\n{}.", ratios.join("; "));
    }
    text.push_str("\nWhere it goes, by thread, ms a stream-second:\n\n");
    for row in ours() {
        let mut threads: Vec<_> = row.by_thread.iter().filter(|(_, ms)| **ms >= 0.0005).collect();
        threads.sort_by(|a, b| b.1.total_cmp(a.1));
        let threads: Vec<_> = threads.iter().map(|(name, ms)| format!("{name} {ms:.3}")).collect();
        let _infallible = writeln!(text, "- {}: {}", row.name, threads.join(", "));
    }
    text
}
