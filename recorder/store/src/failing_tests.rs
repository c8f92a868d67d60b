//! A disk that fails at the k-th operation, for every k: eight streams on two volumes, 20 s on a simulated clock and disks, with the workers of
//! the volumes stepped by hand, so that each k is the same operation every time. Each way to write and to sync is tried.

#[path = "../tests/store/common/mod.rs"]
pub(crate) mod common;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::env::{Clock, Disk, Env, Fault, FaultDisk, Folder, MemDisk, Operation, Random, Trouble};
use crate::store::Workers;
use crate::{Appended, GapReason, RunStart, Store, StoreConfig, StreamWriter, VolumeConfig};

const TICK_US: u64 = 100_000;
const TICKS: u64 = 200;
const STREAMS: usize = 8;

#[derive(Clone, Default)]
struct SimClock(Arc<AtomicU64>);

impl Clock for SimClock {
    fn monotonic_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.monotonic_us() as i64)
    }
}

/// SplitMix64.
#[derive(Default)]
struct SimRandom(AtomicU64);

impl Random for SimRandom {
    fn u64(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How the volumes are written and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As through the page cache, file by file.
    EachFile,
    /// The volume is the root of its file system.
    Whole,
    /// As past the page cache.
    InBlocks,
    InBlocksAndWhole,
}

impl Way {
    const ALL: [Self; 4] = [Self::EachFile, Self::Whole, Self::InBlocks, Self::InBlocksAndWhole];

    fn disk(self) -> MemDisk {
        let disk = MemDisk::new();
        let disk = if matches!(self, Self::Whole | Self::InBlocksAndWhole) { disk.synced_as_a_whole() } else { disk };
        if matches!(self, Self::InBlocks | Self::InBlocksAndWhole) { disk.written_in_blocks(4096) } else { disk }
    }
}

/// Volume `v` is the one that fails.
struct Disks {
    memory: MemDisk,
    failing: FaultDisk,
}

impl Disk for Disks {
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn Folder>> {
        if path.ends_with("v") { self.failing.open(path) } else { self.memory.open(path) }
    }
}

struct Stream {
    camera: Camera,
    writer: StreamWriter,
    /// Frames that were given to the store, in order.
    given: Vec<u64>,
    /// How many of them were durable when the volume was last seen well.
    durable_before: usize,
}

struct Sim {
    clock: SimClock,
    memory: MemDisk,
    failing: FaultDisk,
    store: Store,
    workers: Vec<Workers>,
    streams: Vec<Stream>,
    /// What was done to the failing volume once it had failed.
    late: Arc<AtomicUsize>,
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Whoever watches the disk holds the volume, which holds the disk: thousands of these would fill the memory.
        self.failing.observe(|_, _| {});
    }
}

impl Sim {
    fn new(way: Way) -> Self {
        let memory = way.disk();
        let failing = FaultDisk::new(Arc::new(memory.clone()));
        for folder in ["/v", "/w"] {
            memory.make_folder(Path::new(folder));
        }
        let clock = SimClock::default();
        let env = Env {
            disk: Arc::new(Disks { memory: memory.clone(), failing: failing.clone() }),
            clock: Arc::new(clock.clone()),
            random: Arc::new(SimRandom::default()),
        };
        let volumes = ["/v", "/w"].map(|dir| VolumeConfig {
            dir: dir.into(),
            uuid: None,
            segment_bytes: SEGMENT_BYTES,
            budget_bytes: 24 * SEGMENT_BYTES,
        });
        let config = StoreConfig::new("default/main", "main-recorder-0", Uuid::from_u128(1), volumes.to_vec());
        let (store, workers) = Store::assemble(&config, env).unwrap();
        let mut sim = Self { clock, memory, failing, store, workers, streams: Vec::new(), late: Arc::default() };
        let (volume, late) = (sim.workers[0].volume.clone(), sim.late.clone());
        sim.failing.observe(move |_, _| {
            late.fetch_add(usize::from(volume.has_failed()), Ordering::Relaxed);
        });
        for at in 0..STREAMS {
            let mut camera = Camera::new(&format!("camera-{at}"));
            camera.ident.uid = Uuid::from_u128(100 + at as u128);
            // From a key frame a second to one for all 20 s; some with audio, some with B-frames.
            camera.gop = [25, 50, 100, 500][at % 4];
            camera.audio = at % 3 == 1;
            camera.b_frames = at == 4;
            // Two of the failing volume's fill files while it runs.
            (camera.frame_bytes, camera.key_bytes) = if at == 0 || at == 2 { (3_500, 20_000) } else { (250, 2_000) };
            let mut writer = sim.store.stream(camera.ident.clone()).unwrap();
            writer.begin_run(RunStart { run: Uuid::from_u128(200 + at as u128), ..camera.run() });
            sim.streams.push(Stream { camera, writer, given: Vec::new(), durable_before: 0 });
        }
        sim
    }

    fn run(&mut self) {
        for tick in 0..TICKS {
            self.clock.0.fetch_add(TICK_US, Ordering::Relaxed);
            for (at, stream) in self.streams.iter_mut().enumerate() {
                if (tick + at as u64).is_multiple_of(5) {
                    stream.go_on(at, tick);
                }
            }
            self.step(tick);
        }
        // What was given last takes a sync, and where that fails, a move and another sync.
        for tick in 0..10 {
            self.step(tick);
        }
    }

    fn step(&mut self, tick: u64) {
        for workers in &mut self.workers {
            workers.writer.tick();
        }
        if tick % 5 == 4 {
            for workers in &mut self.workers {
                workers.syncer.once();
            }
        }
        if tick % 10 == 9 {
            for workers in self.workers.iter_mut().filter(|workers| !workers.volume.has_failed()) {
                workers.keeper.round(false);
            }
        }
        if !self.has_failed() {
            for stream in &mut self.streams {
                let durable = self.store.durable(stream.camera.ident.uid);
                stream.durable_before = durable.map_or(0, |durable| durable.frames as usize);
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.workers[0].volume.has_failed()
    }

    /// Nothing is missing, nothing is hidden, and what is told is true.
    fn check(&self, what: &str) {
        assert!(!self.workers[1].volume.has_failed(), "{what}: the other volume failed");
        assert_eq!(self.late.load(Ordering::Relaxed), 0, "{what}: something was done to the failed volume");
        let other = self.workers[1].volume.uuid;
        let reader = self.store.reader();
        for stream in &self.streams {
            let (name, uid) = (&stream.camera.ident.name, stream.camera.ident.uid);
            let all: BTreeSet<u64> = frames_of(&reader, &stream.camera).into_iter().collect();
            let given: BTreeSet<u64> = stream.given.iter().copied().collect();
            assert_eq!(all, given, "{what}: {name}");
            let stats = self.store.stream_stats(uid).unwrap();
            assert!(stats.dropped_frames.iter().all(|(_, frames)| *frames == 0), "{what}: {name}: {stats:?}");
            assert_eq!(stats.video_frames, given.len() as u64, "{what}: {name}");
            assert_eq!(self.store.durable(uid).unwrap().frames, given.len() as u64, "{what}: {name}");
            assert_eq!(stats.volume, Some(other).filter(|_| self.has_failed()).or(stats.volume));
            // As if the failed volume had kept nothing but what was durable.
            if self.has_failed() {
                let on_other = self.on_other(&reader, stream, other);
                let lost = stream.given.iter().skip(stream.durable_before).find(|n| !on_other.contains(n));
                assert_eq!(lost, None, "{what}: {name}: {} were durable", stream.durable_before);
                if let Some(first) = on_other.first() {
                    assert!(first.is_multiple_of(stream.camera.gop), "{what}: {name} goes on at frame {first}");
                }
            }
            let runs = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
            let names: BTreeSet<_> = runs.iter().map(|run| run.run).collect();
            assert_eq!(names.len(), runs.len(), "{what}: {name}: a run is on two volumes");
            let gaps = gaps(&runs);
            let expected = if uid == self.streams[1].camera.ident.uid { vec![GapReason::SessionEnded] } else { vec![] };
            assert_eq!(gaps, expected, "{what}: {name}");
        }
        for (path, bytes) in segment_files(&self.memory) {
            look(&bytes).unwrap_or_else(|e| panic!("{what}: {}: {e}", path.display()));
        }
    }

    fn on_other(&self, reader: &crate::Reader, stream: &Stream, other: Uuid) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        let segments = reader.segments(stream.camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        for segment in segments.iter().filter(|segment| segment.volume == other) {
            for entry in reader.index(segment).unwrap().entries.iter().filter(|e| crate::frames::is_video(e)) {
                let mut data = vec![0; entry.data_length as usize];
                reader.read_at(segment, entry.data_offset.into(), &mut data).unwrap();
                numbers.insert(std::str::from_utf8(&data[10..18]).unwrap().parse().unwrap());
            }
        }
        numbers
    }
}

impl Stream {
    fn go_on(&mut self, at: usize, tick: u64) {
        // One camera's session ends, and begins again two seconds later.
        if at == 1 && (100..120).contains(&tick) {
            return;
        }
        if at == 1 && tick >= 120 && self.camera.next_frame < 300 {
            self.camera.next_frame = 300;
            self.camera.next_audio = 300 * 16_000 / 1024 / 25;
            let run = Uuid::from_u128(300);
            self.writer.begin_run(RunStart { run, gap: Some(GapReason::SessionEnded), ..self.camera.run() });
        }
        // Another one sends audio from now on: the same run in other files.
        if at == 3 && tick == 107 {
            self.camera.audio = true;
            self.camera.next_audio = self.camera.next_frame * 16_000 / 1024 / 25;
            self.writer.begin_run(RunStart {
                run: Uuid::from_u128(203),
                gap: Some(GapReason::NoGap),
                ..self.camera.run()
            });
        }
        let fragment = self.camera.fragment();
        let last = self.camera.next_frame;
        self.given.extend(last - fragment.video.len() as u64..last);
        assert_eq!(self.writer.append(fragment), Appended::Queued);
    }
}

/// Why there are gaps between runs, one reason a gap.
fn gaps(runs: &[crate::RunInfo]) -> Vec<GapReason> {
    let mut found = Vec::new();
    let mut covered = None;
    for run in runs {
        if covered.is_some_and(|covered: WallTime| run.from.0 - covered.0 >= 1_000) {
            found.push(run.gap);
        }
        covered = covered.max(Some(run.to));
    }
    found
}

/// What an undisturbed run does to the volume, by kind.
fn operations(way: Way) -> HashMap<Operation, u64> {
    let mut sim = Sim::new(way);
    let counts: Arc<Mutex<HashMap<Operation, u64>>> = Arc::default();
    let seen = counts.clone();
    sim.failing.observe(move |operation, _| *seen.lock().unwrap().entry(operation).or_default() += 1);
    sim.run();
    sim.check("undisturbed");
    let sealed = sim.workers[0].volume.stats().sealed;
    assert!(sealed >= 2, "files are sealed while it runs: {sealed}");
    let counts = counts.lock().unwrap();
    counts.clone()
}

/// Tries every k, or as many as the small counts allow, spread over all of them: about `small` for each way.
fn every_kth(operation: Operation, small: usize) {
    let full = std::env::var_os("FRAMEKEEPER_SOAK").is_some();
    let mut cases = Vec::new();
    for way in Way::ALL {
        let count = usize::try_from(operations(way).get(&operation).copied().unwrap_or(0)).unwrap();
        assert!(count >= small.min(5), "{way:?}: {count} of {operation:?}");
        // Odd: else both troubles would always meet the same half of what a stream does.
        let stride = if full { 1 } else { (2 * count / small) | 1 };
        for (at, trouble) in [Trouble::Eio, Trouble::Enospc].into_iter().enumerate() {
            let first = if full { 0 } else { at * stride / 2 };
            cases.extend((first..count).step_by(stride).map(|k| (way, trouble, k as u64, count)));
        }
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    // A folder that has no room finds it: an empty segment file gives way.
    let finds_room = |trouble: Trouble| operation == Operation::Rename && trouble == Trouble::Enospc;
    let some = || {
        while let Some((way, trouble, k, count)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut sim = Sim::new(*way);
            sim.failing.inject(Fault::next(operation, *trouble).after(*k));
            sim.run();
            sim.check(&format!("{way:?}: {trouble:?} at {operation:?} {k} of {count}"));
            if finds_room(*trouble) {
                assert!(!sim.has_failed(), "{way:?}: {trouble:?} at {operation:?} {k} of {count} made the volume fail");
            }
            failed.fetch_add(usize::from(sim.has_failed()), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(some);
        scope.spawn(some);
    });
    // All but the few that hit the catalogue, which is only a cache, or a file that is made another time.
    let (failed, tried) = (failed.into_inner(), cases.len());
    let fatal = cases.iter().filter(|(_, trouble, ..)| !finds_room(*trouble)).count();
    assert!(failed * 10 >= fatal * 9, "{failed} of {fatal} {operation:?} made the volume fail");
    println!(
        "result: {}",
        format_args!(
            "{tried} runs of 20 s with 8 streams, one {operation:?} failing in each: {failed} volumes failed, 0 frames missing"
        )
    );
}

#[test]
fn a_write_that_fails_loses_nothing() {
    every_kth(Operation::Write, 3);
}

#[test]
fn a_sync_that_fails_loses_nothing() {
    every_kth(Operation::Sync, 2);
}

#[test]
fn a_rename_that_fails_loses_nothing() {
    every_kth(Operation::Rename, 2);
}

/// Another thread's trouble, in the middle of making files.
#[test]
fn the_keeper_does_nothing_more_to_a_volume_that_fails_in_its_round() {
    let mut sim = Sim::new(Way::EachFile);
    let done = Arc::new(AtomicUsize::new(0));
    let (volume, seen) = (sim.workers[0].volume.clone(), done.clone());
    sim.failing.observe(move |operation, _| {
        if operation == Operation::Create {
            volume.fail("sync", &"broken on purpose");
        }
        seen.fetch_add(usize::from(volume.has_failed()), Ordering::Relaxed);
    });
    sim.workers[0].keeper.round(false);
    assert!(sim.has_failed());
    assert_eq!(done.load(Ordering::Relaxed), 1, "the file that was being made, and nothing else");
}

#[test]
fn without_another_volume_the_others_go_on_and_the_loss_is_counted() {
    let mut sim = Sim::new(Way::EachFile);
    // First one volume, then the other.
    sim.failing.inject(Fault::next(Operation::Write, Trouble::Eio).after(200));
    sim.run();
    assert!(sim.has_failed());
    let uid = sim.streams[0].camera.ident.uid;
    let before = sim.store.durable(uid).unwrap().frames;
    let fragment = sim.streams[0].camera.fragment();
    sim.streams[0].writer.append(fragment);
    sim.workers[1].writer.tick();
    sim.workers[1].volume.fail("sync", &"broken on purpose");
    sim.workers[1].writer.tick();
    let stats = sim.store.stream_stats(uid).unwrap();
    let dropped: HashMap<_, _> = stats.dropped_frames.iter().copied().collect();
    assert_eq!(stats.volume, None);
    assert_eq!(dropped[&crate::DropReason::VolumeFailed], sim.streams[0].camera.next_frame - before);
    assert_eq!(stats.memory_bytes, 0);
    let fragment = sim.streams[0].camera.fragment();
    assert_eq!(sim.streams[0].writer.append(fragment), Appended::Dropped(crate::DropReason::NoVolume));
}
