//! Where a recorder's footage goes: the real store, on disks that are simulated.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::env::{Clock, Disk, Env, Folder, Random};
use framekeeper_store::stepped::Stepped;
use framekeeper_store::{
    EntryKind, Fragment, PlanVersion, ReadError, Reader, RunStart, Storage, StoreConfig, StreamIdent, StreamWriter,
    VideoFrame, VolumeConfig,
};
use rand::RngExt as _;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::disk::PlatterDisk;
use crate::node::{FRAME, MS, SECOND, key_of};

const SEGMENT_BYTES: u64 = 1 << 20;
/// Room for all that is recorded in ten minutes, also where streams go from volume to volume: nothing is given up.
const FILES: u64 = 128;
/// Between two looks of the one who watches the volumes, and between two rounds of a volume's keeper.
const WATCH: u64 = 250 * MS;
const KEEP: u64 = SECOND;
const TICKS_A_FRAME: i64 = 90_000 * FRAME as i64 / SECOND as i64;
/// Time of day at the beginning.
const EPOCH: i64 = 1_700_000_000_000_000;
const SPS: &[u8] = &[
    0x67, 0x4d, 0x40, 0x0d, 0xec, 0xa0, 0xa0, 0xfd, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03, 0x01,
    0x90, 0x78, 0xa1, 0x4c, 0xb0,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x20];

/// The clocks of one recorder.
#[derive(Default)]
struct Clocks {
    now: AtomicU64,
    ahead: AtomicI64,
}

impl Clock for Clocks {
    fn monotonic_us(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn wall(&self) -> WallTime {
        WallTime(EPOCH + self.now.load(Ordering::Relaxed) as i64 + self.ahead.load(Ordering::Relaxed))
    }
}

/// SplitMix64.
struct Dice(AtomicU64);

impl Random for Dice {
    fn u64(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One volume, and what troubles it.
struct Volume {
    dir: PathBuf,
    disk: PlatterDisk,
    hangs: bool,
    /// Since when its writer has been waiting for it.
    waits: Option<u64>,
    /// How long each sync takes longer.
    slow: u64,
    next_sync: u64,
    next_round: u64,
}

/// The disks of all volumes, by their folders.
struct Disks(Vec<(PathBuf, PlatterDisk)>);

impl Disk for Disks {
    fn open(&self, path: &std::path::Path) -> std::io::Result<Arc<dyn Folder>> {
        let found = self.0.iter().find(|(dir, _)| dir == path).ok_or(std::io::ErrorKind::NotFound)?;
        Disk::open(&found.1, path)
    }
}

/// The footage of one recorder.
pub(crate) struct Site {
    recorder: Uuid,
    clocks: Arc<Clocks>,
    random: Arc<Dice>,
    volumes: Vec<Volume>,
    /// While its process lives.
    store: Option<Stepped>,
    init: Arc<InitSegment>,
    /// From sync to sync.
    sync: Duration,
    next_watch: u64,
}

/// A stretch of pictures that the store is given.
pub(crate) struct Piece {
    pub(crate) stream: usize,
    pub(crate) frames: std::ops::Range<u32>,
    /// The recorder's time of day is ahead by so much, as of when the run began.
    pub(crate) ahead: i64,
}

impl Site {
    /// `rotates`: its disks do, and are synced less often for that.
    pub(crate) fn new(recorder: Uuid, volumes: usize, rotates: bool) -> Self {
        let volume = |at: usize| {
            let dir = PathBuf::from(format!("/volume-{at}"));
            let disk = PlatterDisk::new(&dir);
            Volume { dir, disk, hangs: false, waits: None, slow: 0, next_sync: 0, next_round: 0 }
        };
        let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
        Self {
            recorder,
            clocks: Arc::default(),
            random: Arc::new(Dice(AtomicU64::new(recorder.as_u64_pair().1 << 32))),
            volumes: (0..volumes).map(volume).collect(),
            store: None,
            init: Arc::new(InitSegment::new(&video, None)),
            sync: if rotates { StoreConfig::ROTATIONAL_SYNC_INTERVAL } else { StoreConfig::SYNC_INTERVAL },
            next_watch: 0,
        }
    }

    fn config(&self, at: usize) -> VolumeConfig {
        let dir = self.volumes[at].dir.clone();
        VolumeConfig { dir, uuid: None, segment_bytes: SEGMENT_BYTES, budget_bytes: FILES * SEGMENT_BYTES }
    }

    /// The process begins, or begins anew.
    pub(crate) fn open(&mut self, now: u64) {
        self.clocks.now.store(now, Ordering::Relaxed);
        let volumes = (0..self.volumes.len()).map(|at| self.config(at)).collect();
        let config = StoreConfig {
            sync_interval: Some(self.sync),
            ..StoreConfig::new("default/main", &self.recorder.to_string(), self.recorder, volumes)
        };
        let disks = self.volumes.iter().map(|volume| (volume.dir.clone(), volume.disk.clone()));
        let env =
            Env { disk: Arc::new(Disks(disks.collect())), clock: self.clocks.clone(), random: self.random.clone() };
        self.store = Some(Stepped::open(&config, env).unwrap());
        let next_sync = now + self.sync.as_micros() as u64;
        for volume in &mut self.volumes {
            (volume.next_sync, volume.next_round, volume.waits) = (next_sync, now, None);
        }
    }

    /// The process ends where it stands. Nobody may write a stream any more.
    pub(crate) fn kill(&mut self) {
        self.store = None;
    }

    /// The machine loses its power as well.
    pub(crate) fn lose_power(&mut self, random: &mut StdRng) {
        self.kill();
        for volume in &self.volumes {
            volume.disk.lose_power(|| random.random_bool(0.5));
        }
    }

    /// How many volumes there are.
    pub(crate) fn count(&self) -> usize {
        self.volumes.len()
    }

    /// Some of its disks fail, or all of them.
    pub(crate) fn fail(&mut self, which: impl Fn(usize) -> bool) {
        for (_, volume) in self.volumes.iter().enumerate().filter(|(at, _)| which(*at)) {
            volume.disk.set_fails(true);
        }
    }

    /// Some of its disks do not answer, or all of them.
    pub(crate) fn hang(&mut self, which: impl Fn(usize) -> bool) {
        for (_, volume) in self.volumes.iter_mut().enumerate().filter(|(at, _)| which(*at)) {
            volume.hangs = true;
        }
    }

    /// Each sync takes so much longer.
    pub(crate) fn slow_down(&mut self, by: u64) {
        self.volumes.iter_mut().for_each(|volume| volume.slow = by);
    }

    /// All disks are well, and volumes that failed are opened anew.
    pub(crate) fn mend(&mut self, now: u64) {
        for at in 0..self.volumes.len() {
            let volume = &mut self.volumes[at];
            volume.disk.set_fails(false);
            (volume.hangs, volume.waits, volume.slow, volume.next_round) = (false, None, 0, now);
            let config = self.config(at);
            if let Some(store) = self.store.as_mut().filter(|store| !store.is_well(at)) {
                store.reopen(at, &config).unwrap();
            }
        }
    }

    /// The time of day is ahead of the true one by so much.
    pub(crate) fn set_ahead(&self, ahead: i64) {
        self.clocks.ahead.store(ahead, Ordering::Relaxed);
    }

    fn ident(stream: usize) -> StreamIdent {
        StreamIdent {
            uid: Uuid::from_u128(stream as u128),
            namespace: "default".into(),
            name: format!("camera-{stream}"),
        }
    }

    pub(crate) fn writer(&self, stream: usize) -> StreamWriter {
        self.store.as_ref().unwrap().store().stream(Self::ident(stream)).unwrap()
    }

    pub(crate) fn storage(&self, stream: usize) -> Storage {
        self.store.as_ref().unwrap().store().storage(Uuid::from_u128(stream as u128))
    }

    pub(crate) fn run(&self, epoch: u64, rank: u32, plan_version: PlanVersion) -> RunStart {
        RunStart {
            run: self.random.uuid(),
            epoch,
            rank,
            plan_version,
            gap: None,
            init: self.init.clone(),
            audio_timescale: 0,
            sender_report: None,
        }
    }

    /// What all workers have to do by now.
    pub(crate) fn step(&mut self, now: u64) {
        self.clocks.now.store(now, Ordering::Relaxed);
        let Some(store) = &mut self.store else { return };
        for (at, volume) in self.volumes.iter_mut().enumerate() {
            if volume.hangs {
                if volume.waits.is_none() && store.waits(at) {
                    volume.waits = Some(now);
                    store.hang(at, now);
                }
                continue;
            }
            store.write(at);
            if volume.next_sync + volume.slow <= now {
                volume.next_sync = now + self.sync.as_micros() as u64;
                store.sync(at);
            }
            if volume.next_round <= now {
                // Until all is known, one round follows the other.
                volume.next_round = if store.keep(at) { now + KEEP } else { now };
            }
        }
        if self.next_watch <= now {
            self.next_watch = now + WATCH;
            store.watch();
            assert!(store.store().volumes().iter().all(|volume| volume.retired == 0), "there is too little room");
        }
    }

    /// All pictures of each stream that a recorder serves that starts on these disks, or what it cannot read.
    pub(crate) fn served(&mut self, streams: usize, now: u64) -> Vec<Result<Vec<u32>, ReadError>> {
        self.kill();
        self.mend(now);
        self.open(now);
        let store = self.store.as_mut().unwrap();
        for at in 0..self.volumes.len() {
            while !store.keep(at) {}
        }
        let reader = store.store().reader();
        (0..streams).map(|stream| pictures(&reader, stream)).collect()
    }
}

fn pictures(reader: &Reader, stream: usize) -> Result<Vec<u32>, ReadError> {
    let mut frames = Vec::new();
    for segment in &reader.segments(Uuid::from_u128(stream as u128), WallTime(0), WallTime(i64::MAX))? {
        for (at, entry) in reader.index(segment)?.entries.iter().enumerate() {
            let EntryKind::Video { identity, .. } = entry.kind else { continue };
            // Each is in the index; that what is served is the picture itself is looked at here and there.
            if at % 16 == 0 {
                let mut data = [0; PICTURE_BYTES];
                reader.read_at(segment, entry.data_offset.into(), &mut data)?;
                assert_eq!(data, picture(stream, identity.0 as u32));
            }
            frames.push(identity.0 as u32);
        }
    }
    Ok(frames)
}

const PICTURE_BYTES: usize = 13;

/// One NAL unit that tells whose and which it is.
fn picture(stream: usize, number: u32) -> [u8; PICTURE_BYTES] {
    let mut data = [0; PICTURE_BYTES];
    data[3] = (PICTURE_BYTES - 4) as u8;
    data[4] = if key_of(stream, number) == number { 0x65 } else { 0x41 };
    data[5..9].copy_from_slice(&(stream as u32).to_be_bytes());
    data[9..].copy_from_slice(&number.to_be_bytes());
    data
}

impl Piece {
    pub(crate) fn fragment(&self) -> Fragment {
        let frame = |number: u32| {
            let is_key = key_of(self.stream, number) == number;
            let time = MediaTime(i64::from(number) * TICKS_A_FRAME);
            VideoFrame {
                data: Bytes::copy_from_slice(&picture(self.stream, number)),
                pts: time,
                dts: time,
                duration: TICKS_A_FRAME as u32,
                wall: WallTime(EPOCH + i64::from(number) * FRAME as i64 + self.ahead),
                identity: FrameIdentity(number.into()),
                flags: if is_key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags(0) },
            }
        };
        Fragment {
            video: self.frames.clone().map(frame).collect(),
            begins_random_access: key_of(self.stream, self.frames.start) == self.frames.start,
            ..Fragment::default()
        }
    }
}

/// Which picture has a time of the media clock.
pub(crate) fn frame_of(time: MediaTime) -> u32 {
    (time.0 / TICKS_A_FRAME) as u32
}
