//! What writing costs: streams at a steady rate into a real folder, one way of writing after the other.
//!
//! `write_bench FOLDER [--streams 100] [--kbit 4000] [--seconds 20] [--sync-ms 500] [--flat-out] direct|buffered|raw|raw-direct …`
//!
//! CPU is user and system time of the process, and of its threads by name; the frames are slices of one buffer, so making them costs
//! little. Block bytes are what the process had the block layer write (`write_bytes` of proc(5)). `raw` writes the same bytes with blocking
//! `pwrite`s to preallocated files, one a stream, and syncs each of them as often; `raw-direct` with `O_DIRECT`.
//!
//! With `--flat-out` a gigabyte for each of the seconds is written as fast as it goes, and the rate is that of making all of it durable.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a measuring tool, run by hand")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::env::{Env, WritesWanted};
use framekeeper_store::*;
use uuid::Uuid;

const SPS: &[u8] = &[
    0x67, 0x4d, 0x40, 0x0d, 0xec, 0xa0, 0xa0, 0xfd, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03, 0x01,
    0x90, 0x78, 0xa1, 0x4c, 0xb0,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x20];
const TICK: Duration = Duration::from_millis(100);
const SEGMENT_BYTES: u64 = 64 << 20;
/// What is not measured at a steady rate: the beginning, when all streams take their files.
const WARM: Duration = Duration::from_secs(3);
/// Rounds over all streams that wait for the writer when it goes as fast as it goes: it never has nothing to do.
const ROUNDS_AHEAD: u64 = 3;

#[derive(Clone)]
struct Load {
    folder: PathBuf,
    streams: usize,
    kbit: u64,
    seconds: u64,
    sync: Duration,
    flat_out: bool,
}

impl Load {
    fn fragment_bytes(&self) -> u64 {
        self.kbit * 1000 / 8 / 2
    }

    /// Of each stream, in all.
    fn stream_bytes(&self) -> u64 {
        if self.flat_out {
            self.seconds * 1_000_000_000 / self.streams as u64
        } else {
            self.fragment_bytes() * 2 * (self.seconds + WARM.as_secs() + 1)
        }
    }

    fn files(&self) -> u64 {
        self.streams as u64 * (self.stream_bytes() / (SEGMENT_BYTES - (1 << 20)) + 2)
    }

    /// Whether it is over, `elapsed` after the beginning, with so many rounds over all streams.
    fn is_over(&self, warm: Duration, elapsed: Duration, rounds: u64) -> bool {
        if self.flat_out {
            rounds * self.fragment_bytes() >= self.stream_bytes()
        } else {
            elapsed >= warm + Duration::from_secs(self.seconds)
        }
    }
}

/// CPU time of each thread that there is, by its name, in milliseconds.
fn threads() -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name));
        let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else { continue };
        let on_cpu: f64 = stat.split_whitespace().next().unwrap().parse().unwrap();
        let kind = if name.starts_with("iou-") { "io_uring workers" } else { name.trim() };
        *found.entry(kind.to_owned()).or_default() += on_cpu / 1e6;
    }
    found
}

/// CPU time of the process so far, threads that ended included, in milliseconds.
fn process_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Bytes that this process had the block layer write: for the page cache whole pages, each time that they get dirty (proc(5)).
fn block_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// The same frames for everybody.
fn fragment(load: &Load, source: &Bytes, stream: usize, number: u64) -> Fragment {
    const FRAMES: u64 = 12;
    const TICKS: i64 = 3_750;
    let size = (load.fragment_bytes() / FRAMES) as usize;
    let frame = |k: u64| {
        let n = number * FRAMES + k;
        let at = (stream * 1_000_003 + n as usize * size) % (source.len() - size);
        let key = number.is_multiple_of(4) && k == 0;
        VideoFrame {
            data: source.slice(at..at + size),
            pts: MediaTime(n as i64 * TICKS),
            dts: MediaTime(n as i64 * TICKS),
            duration: TICKS as u32,
            wall: WallTime(1_795_269_780_000_000 + n as i64 * 41_667),
            identity: FrameIdentity(n),
            flags: if key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags(0) },
        }
    };
    let video: Vec<_> = (0..FRAMES).map(frame).collect();
    Fragment { begins_random_access: number.is_multiple_of(4), video, ..Fragment::default() }
}

fn run_start() -> RunStart {
    let init = InitSegment::new(&H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap(), None);
    RunStart {
        run: Uuid::new_v4(),
        epoch: 1,
        rank: 0,
        plan_version: PlanVersion { term: 1, sequence: 1 },
        gap: None,
        init: Arc::new(init),
        audio_timescale: 0,
        sender_report: None,
    }
}

#[derive(Default)]
struct Found {
    cpu_ms: f64,
    threads: BTreeMap<String, f64>,
    received: u64,
    written: u64,
    device: u64,
    seconds: f64,
    sync_ms: Vec<f64>,
    write_ms: Vec<f64>,
    dropped: u64,
}

fn quantile(of: &mut [f64], q: f64) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(((of.len() as f64 * q) as usize).min(of.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl Found {
    fn print(mut self, what: &str, load: &Load) {
        let per = load.streams as f64 * self.seconds;
        println!(
            "{what:9} sync {:4} ms: CPU {:.3} ms a stream-second; {:.1} MB/s; sync p50 {:.1} p99 {:.1} ms; write p50 {:.1} p99 {:.1} max {:.1} ms; \
             written / received {:.4}; block bytes / received {:.4}; dropped {}",
            load.sync.as_millis(),
            self.cpu_ms / per,
            self.received as f64 / self.seconds / 1e6,
            quantile(&mut self.sync_ms, 0.5),
            quantile(&mut self.sync_ms, 0.99),
            quantile(&mut self.write_ms, 0.5),
            quantile(&mut self.write_ms, 0.99),
            quantile(&mut self.write_ms, 1.0),
            self.written as f64 / self.received as f64,
            self.device as f64 / self.received as f64,
            self.dropped,
        );
        let threads = self.threads.iter().map(|(name, ms)| format!("{name} {:.3}", ms / per));
        println!("          {}", threads.collect::<Vec<_>>().join(", "));
    }
}

/// What is counted from here on.
struct Meter {
    start: Instant,
    cpu: f64,
    threads: BTreeMap<String, f64>,
    device: u64,
}

impl Meter {
    fn new() -> Self {
        Self { start: Instant::now(), cpu: process_ms(), threads: threads(), device: block_bytes() }
    }

    fn end(self, found: &mut Found) {
        found.seconds = self.start.elapsed().as_secs_f64();
        found.cpu_ms = process_ms() - self.cpu;
        found.threads = threads();
        for (name, ms) in self.threads {
            if let Some(now) = found.threads.get_mut(&name) {
                *now -= ms;
            }
        }
        found.threads.retain(|_, ms| *ms > 1.0);
        found.device = block_bytes() - self.device;
    }
}

fn framekeeper(load: &Load, source: &Bytes, writes: WritesWanted) -> Found {
    let dir = load.folder.join("volume");
    std::fs::create_dir_all(&dir).unwrap();
    let budget_bytes = load.files() * SEGMENT_BYTES;
    let volume = VolumeConfig { dir: dir.clone(), uuid: None, segment_bytes: SEGMENT_BYTES, budget_bytes };
    let mut config = StoreConfig::new("default/bench", "bench-recorder-0", Uuid::new_v4(), vec![volume]);
    config.sync_interval = Some(load.sync);
    config.writes = writes;
    if load.flat_out {
        // Frames are slices of one buffer: what waits takes no memory.
        (config.stream_queue_bytes, config.total_queue_bytes) = (1 << 40, 1 << 40);
    }
    let store = Store::open(config, Env::real()).unwrap();
    while store.volumes()[0].files_made < store.volumes()[0].files_total {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ident = |n: usize| StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: format!("s{n}") };
    let mut writers: Vec<_> = (0..load.streams).map(|n| store.stream(ident(n)).unwrap()).collect();
    writers.iter_mut().for_each(|w| w.begin_run(run_start()));
    let done = std::sync::atomic::AtomicBool::new(false);
    let times = Mutex::new((Vec::new(), Vec::new()));
    let mut found = Found::default();
    std::thread::scope(|scope| {
        let watch = std::thread::Builder::new().name("watch".into());
        let (store, done, times) = (&store, &done, &times);
        watch
            .spawn_scoped(scope, move || {
                let (mut syncs, mut batches) = (0, 0);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let v = store.volumes().remove(0);
                    let mut times = times.lock().unwrap();
                    if v.syncs != syncs {
                        times.0.push(v.last_sync_us as f64 / 1e3);
                    }
                    if v.write_batches != batches {
                        times.1.push(v.last_write_us as f64 / 1e3);
                    }
                    (syncs, batches) = (v.syncs, v.write_batches);
                    drop(times);
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
            .unwrap();
        let mut numbers = vec![0_u64; load.streams];
        let mut received = 0_u64;
        let mut meter = None;
        let mut before = 0;
        let start = Instant::now();
        let warm = if load.flat_out { Duration::ZERO } else { WARM };
        let mut tick = 0_u32;
        while !load.is_over(warm, start.elapsed(), tick.into()) {
            if meter.is_none() && start.elapsed() >= warm {
                *times.lock().unwrap() = (Vec::new(), Vec::new());
                before = store.volumes()[0].bytes;
                received = 0;
                meter = Some(Meter::new());
            }
            for (n, writer) in writers.iter_mut().enumerate() {
                if load.flat_out || n % 5 == tick as usize % 5 {
                    let one = fragment(load, source, n, numbers[n]);
                    numbers[n] += 1;
                    received += load.fragment_bytes();
                    writer.append(one);
                }
            }
            store.flush_tick();
            tick += 1;
            if load.flat_out {
                let round = load.fragment_bytes() * load.streams as u64;
                while received > store.volumes()[0].bytes - before + ROUNDS_AHEAD * round {
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                std::thread::sleep((TICK * tick).saturating_sub(start.elapsed()));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        found.received = received;
        if load.flat_out {
            // Each waits for a sync that covers what it wrote.
            std::thread::scope(|all| writers.drain(..).for_each(|writer| drop(all.spawn(move || writer.finish()))));
        }
        meter.unwrap().end(&mut found);
        found.written = store.volumes()[0].bytes - before;
    });
    found.dropped = store.streams().iter().flat_map(|s| &s.dropped_frames).map(|(_, n)| n).sum();
    (found.sync_ms, found.write_ms) = times.into_inner().unwrap();
    drop(writers);
    store.close();
    std::fs::remove_dir_all(&dir).unwrap();
    found
}

/// Blocking writes to preallocated files, one file a stream, and a thread that syncs each.
fn raw(load: &Load, source: &Bytes, direct: bool) -> Found {
    use rustix::fs::{FallocateFlags, Mode, OFlags};
    let dir = load.folder.join("raw");
    std::fs::create_dir_all(&dir).unwrap();
    let size = load.fragment_bytes().next_multiple_of(4096) as usize;
    let file_bytes = load.files() * SEGMENT_BYTES / load.streams as u64;
    let flags = OFlags::RDWR | OFlags::CREATE | if direct { OFlags::DIRECT } else { OFlags::empty() };
    let files: Vec<_> = (0..load.streams)
        .map(|n| {
            let fd = rustix::fs::open(dir.join(n.to_string()), flags, Mode::from(0o600)).unwrap();
            rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, file_bytes).unwrap();
            fd
        })
        .collect();
    let aligned = source.as_ptr().align_offset(4096);
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut found = Found::default();
    let syncs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("raw-sync".into())
            .spawn_scoped(scope, || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let start = Instant::now();
                    files.iter().for_each(|f| rustix::fs::fdatasync(f).unwrap());
                    syncs.lock().unwrap().push(start.elapsed().as_secs_f64() * 1e3);
                    std::thread::sleep(load.sync.saturating_sub(start.elapsed()));
                }
            })
            .unwrap();
        let mut at = vec![0_u64; load.streams];
        let start = Instant::now();
        let meter = Meter::new();
        let mut tick = 0_u32;
        while !load.is_over(Duration::ZERO, start.elapsed(), tick.into()) {
            let began = Instant::now();
            for (n, file) in files.iter().enumerate() {
                if load.flat_out || n % 5 == tick as usize % 5 {
                    let from = aligned + (n * 4096 * 7 + at[n] as usize) % (source.len() / 2) / 4096 * 4096;
                    assert!(at[n] + size as u64 <= file_bytes, "the raw file is full");
                    assert_eq!(rustix::io::pwrite(file, &source[from..from + size], at[n]).unwrap(), size);
                    at[n] += size as u64;
                    found.received += size as u64;
                }
            }
            found.write_ms.push(began.elapsed().as_secs_f64() * 1e3);
            tick += 1;
            if !load.flat_out {
                std::thread::sleep((TICK * tick).saturating_sub(start.elapsed()));
            }
        }
        if load.flat_out {
            files.iter().for_each(|f| rustix::fs::fdatasync(f).unwrap());
        }
        meter.end(&mut found);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    found.written = found.received;
    found.sync_ms = syncs.into_inner().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    found
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut load = Load {
        folder: PathBuf::from(arguments.next().unwrap()),
        streams: 100,
        kbit: 4000,
        seconds: 20,
        sync: Duration::from_millis(500),
        flat_out: false,
    };
    let source: Vec<u8> = (0..64_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let source = Bytes::from(source);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().unwrap().parse::<u64>().unwrap();
        match argument.as_str() {
            "--streams" => load.streams = number() as usize,
            "--kbit" => load.kbit = number(),
            "--seconds" => load.seconds = number(),
            "--sync-ms" => load.sync = Duration::from_millis(number()),
            "--flat-out" => load.flat_out = true,
            "direct" => framekeeper(&load, &source, WritesWanted::Direct).print("direct", &load),
            "buffered" => framekeeper(&load, &source, WritesWanted::Buffered).print("buffered", &load),
            "raw" => raw(&load, &source, false).print("raw", &load),
            "raw-direct" => raw(&load, &source, true).print("raw-direct", &load),
            other => println!("{other} is none of direct, buffered, raw, raw-direct"),
        }
    }
}
