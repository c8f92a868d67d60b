//! How soon a volume with very many segments records again, and how soon all of it can be found, with cold caches.
//!
//! `recovery_bench [--segments N] [--streams N] [--dir FOLDER] [--write docs/benchmarks.md]` (root, to empty the caches): the store itself
//! records that many short segments into sparse files; then it is opened again and again, each time in a process of its own and with empty
//! caches: after an orderly end, after a kill, without the catalogue, without catalogue and manifest.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program for people who measure: it ends where something is wrong"
)]

#[path = "../tests/store/common/mod.rs"]
mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Camera, FPS};
use framekeeper_store::env::*;
use framekeeper_store::*;
use uuid::Uuid;

const SEGMENT_BYTES: u64 = 1 << 20;
/// How far segments of a stream are apart, as 64 MiB at 4 Mbit/s are.
const SEGMENT_SECONDS: i64 = 131;
const PATIENCE: Duration = Duration::from_secs(600);

struct Arguments {
    segments: u64,
    streams: u64,
    dir: Option<PathBuf>,
    write: Option<PathBuf>,
    /// What a child does.
    child: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = Arguments { segments: 100_000, streams: 200, dir: None, write: None, child: None };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--segments" => arguments.segments = value.parse()?,
            "--streams" => arguments.streams = value.parse()?,
            "--dir" => arguments.dir = Some(value.into()),
            "--write" => arguments.write = Some(value.into()),
            "--child" => arguments.child = Some(value),
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    match (&arguments.child, &arguments.dir) {
        (Some(what), Some(dir)) => child(what, dir, &arguments),
        _ => parent(&arguments),
    }
}

fn config(dir: &Path, arguments: &Arguments) -> StoreConfig {
    let budget_bytes = (arguments.segments + 2 * arguments.streams + 64) * SEGMENT_BYTES;
    let volume = VolumeConfig { dir: dir.to_owned(), uuid: None, segment_bytes: SEGMENT_BYTES, budget_bytes };
    StoreConfig::new("default/bench", "bench-recorder-0", Uuid::from_u128(1), vec![volume])
}

fn cameras(arguments: &Arguments) -> Vec<Camera> {
    let camera = |n: u64| {
        let mut camera = Camera::new(&format!("camera-{n:05}"));
        camera.ident.uid = Uuid::from_u128(1000 + u128::from(n));
        (camera.gop, camera.frame_bytes, camera.key_bytes) = (12, 100, 600);
        camera
    };
    (0..arguments.streams).map(camera).collect()
}

/// Frames of every stream, all in one go.
struct Recording {
    store: Store,
    streams: Vec<(Camera, StreamWriter)>,
}

impl Recording {
    fn begin(store: &Store, arguments: &Arguments, round: u64) -> Self {
        let mut streams = Vec::new();
        for mut camera in cameras(arguments) {
            let mut writer = store.stream(camera.ident.clone()).unwrap();
            camera.start_wall += i64::try_from(round).unwrap() * SEGMENT_SECONDS * 1_000_000;
            writer.begin_run(camera.run());
            streams.push((camera, writer));
        }
        Self { store: store.clone(), streams }
    }

    /// The next segment of each stream: other codec parameters than before, so that it gets a file of its own.
    fn next_segment(&mut self) {
        for (camera, writer) in &mut self.streams {
            camera.start_wall += SEGMENT_SECONDS * 1_000_000;
            camera.audio = !camera.audio;
            camera.next_audio = camera.next_frame * 16_000 / 1024 / FPS;
            writer.begin_run(RunStart { gap: Some(GapReason::SessionEnded), ..camera.run() });
        }
    }

    /// A fragment of each stream, until all are durable.
    fn fragment(&mut self) {
        for (camera, writer) in &mut self.streams {
            writer.append(camera.fragment());
        }
        self.store.flush_tick();
        let frames = |camera: &Camera| self.store.durable(camera.ident.uid).map_or(0, |d| d.frames);
        wait(|| self.streams.iter().all(|(camera, _)| frames(camera) >= camera.next_frame));
    }
}

fn tell(mut to: impl io::Write, line: &str) -> io::Result<()> {
    writeln!(to, "{line}")?;
    to.flush()
}

fn wait(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "this takes too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What one process does with the volume. Times count from its start.
fn child(what: &str, dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    if what == "fill" {
        return fill(dir, arguments);
    }
    let store = Store::open(config(dir, arguments), Env::real())?;
    let opened = start.elapsed();
    let mut recording = Recording::begin(&store, arguments, arguments.segments / arguments.streams + 10);
    recording.fragment();
    let recorded = start.elapsed();
    let reader = store.reader();
    wait(|| reader.is_complete());
    let complete = start.elapsed();
    let mut segments = 0;
    for (camera, _) in &recording.streams {
        segments +=
            reader.segments(camera.ident.uid, common::ALWAYS.0, common::ALWAYS.1)?.iter().filter(|s| s.sealed).count();
    }
    let memory_kb = std::fs::read_to_string("/proc/self/status")?
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let (opened, recorded, complete) = (opened.as_millis(), recorded.as_millis(), complete.as_millis());
    let memory_mib = memory_kb / 1024;
    tell(io::stdout(), &format!("{opened} {recorded} {complete} {segments} {memory_mib}"))?;
    if what == "orderly" {
        drop(recording);
        store.close();
        return Ok(());
    }
    // Recorded on until somebody kills it.
    tell(io::stdout(), "ready")?;
    loop {
        recording.fragment();
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn fill(dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let env = Env { disk: Arc::new(Sparse(RealDisk)), ..Env::real() };
    let config = StoreConfig {
        sync_interval: Some(Duration::from_millis(2)),
        writes: WritesWanted::Buffered,
        ..config(dir, arguments)
    };
    let store = Store::open(config, env)?;
    let mut recording = Recording::begin(&store, arguments, 0);
    for _ in 0..arguments.segments / arguments.streams {
        recording.fragment();
        recording.next_segment();
    }
    recording.fragment();
    drop(recording);
    store.close();
    Ok(())
}

fn parent(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = base.join(format!("recovery-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, arguments);
    std::fs::remove_dir_all(&dir)?;
    let report = result?;
    tell(io::stdout(), &report)?;
    if let Some(path) = &arguments.write {
        write_section(path, &report)?;
    }
    Ok(())
}

fn measure(dir: &Path, arguments: &Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let start = Instant::now();
    run(dir, arguments, "fill")?;
    tell(io::stderr(), &format!("{} segments recorded in {:?}", arguments.segments, start.elapsed()))?;
    // Leaves a volume that was killed.
    run(dir, arguments, "killed")?;
    let mut rows = Vec::new();
    for (title, without, end) in [
        ("after a kill", &[][..], "orderly"),
        ("after an orderly end", &[][..], "killed"),
        ("after a kill, without the catalogue", &["catalogue.redb"][..], "killed"),
        ("after a kill, without catalogue and manifest", &["catalogue.redb", "manifest.log"][..], "killed"),
    ] {
        for name in without {
            std::fs::remove_file(dir.join(name))?;
        }
        empty_caches()?;
        let numbers = run(dir, arguments, end)?;
        tell(io::stderr(), &format!("{title}: {numbers:?}"))?;
        rows.push((title, numbers));
    }
    let bytes = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |m| m.len() >> 20);
    let mut report = format!(
        "## Recovery\n\nWritten by `recovery_bench` (part of `make bench`): a volume with {} sealed segments of {} streams, sparse files of 1 MiB, on {}; manifest {} MiB, catalogue {} MiB. Caches emptied before each start. \
         *Open*: the store can be written to. *Recording*: a first fragment of each stream is durable. *Catalogue*: every segment can be found. Milliseconds since the start of the process.\n\n\
         | start | open | recording (target 2,000) | catalogue | sealed segments found | MiB of memory at most |\n|---|---|---|---|---|---|\n",
        arguments.segments,
        arguments.streams,
        device(dir),
        bytes("manifest.log"),
        bytes("catalogue.redb"),
    );
    for (title, numbers) in rows {
        let cells: Vec<_> = numbers.iter().map(u64::to_string).collect();
        report.push_str(&format!("| {title} | {} |\n", cells.join(" | ")));
    }
    Ok(report)
}

/// Runs a child; one that is to be killed, up to where it says that it is ready.
fn run(dir: &Path, arguments: &Arguments, what: &str) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", what, "--dir"])
        .arg(dir)
        .args(["--segments", &arguments.segments.to_string(), "--streams", &arguments.streams.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut numbers = Vec::new();
    for line in io::BufRead::lines(io::BufReader::new(output)) {
        let line = line?;
        if line == "ready" {
            // In the middle of recording.
            std::thread::sleep(Duration::from_secs(3));
            child.kill()?;
            break;
        }
        numbers = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    }
    let status = child.wait()?;
    if what != "killed" && !status.success() {
        return Err(format!("{what}: {status}").into());
    }
    Ok(numbers)
}

fn empty_caches() -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// What the folder is on, in words.
fn device(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_dir = mounts.lines().filter_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let mut rest = rest.split(' ');
        let (kind, source) = (rest.next()?, rest.next()?);
        dir.starts_with(fields.get(4)?)
            .then(|| (fields[4].len(), fields[2].to_owned(), kind.to_owned(), source.to_owned()))
    });
    let Some((_, number, kind, source)) = of_dir.max_by_key(|(length, ..)| *length) else {
        return "an unknown device".to_owned();
    };
    let sys = PathBuf::from("/sys/dev/block").join(&number);
    let read = |name: &str| {
        let of_disk = [sys.join(name), sys.join("..").join(name)];
        of_disk.iter().find_map(|path| std::fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
    };
    let model = read("device/model").unwrap_or_else(|| "no model given".to_owned());
    let spins = if read("queue/rotational").as_deref() == Some("1") {
        "rotational by its own account"
    } else {
        "not rotational"
    };
    format!("{kind} on {source} ({model}, {spins})")
}

/// Puts the section into the page, in the place of the one that is there.
fn write_section(path: &Path, report: &str) -> io::Result<()> {
    let page = std::fs::read_to_string(path)?;
    let begin = page.find("## Recovery\n").unwrap_or(page.len());
    let behind = page.get(begin + 3..).and_then(|rest| rest.find("\n## ")).map_or(page.len(), |at| begin + 3 + at + 1);
    let (before, after) = (page.get(..begin).unwrap_or_default(), page.get(behind..).unwrap_or_default());
    let gap = if before.ends_with("\n\n") { "" } else { "\n" };
    let after = if after.is_empty() { String::new() } else { format!("\n{after}") };
    std::fs::write(path, format!("{before}{gap}{report}{after}"))
}

/// Files take no more room than what is written to them, and nothing is synced: a volume is made quickly, and looks like any other.
struct Sparse(RealDisk);

impl Disk for Sparse {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        Ok(Arc::new(SparseFolder(Disk::open(&self.0, path)?)))
    }
}

struct SparseFolder(Arc<dyn Folder>);

impl Folder for SparseFolder {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        self.0.open(path, write)
    }
    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        let file = self.0.open_or_create(path)?;
        file.set_size(bytes)?;
        Ok(file)
    }
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open_or_create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(path)
    }
    fn make_folders(&self, path: &Path) -> io::Result<()> {
        self.0.make_folders(path)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.0.remove_folder(path)
    }
    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<bool> {
        Ok(true)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.0.lock(path)
    }
    fn space(&self) -> io::Result<Space> {
        // The files are sparse.
        Ok(Space { total_bytes: u64::MAX, free_bytes: u64::MAX })
    }
    fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>> {
        self.0.batch(wanted)
    }
}
