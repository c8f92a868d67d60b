//! A camera made of numbers, a strict look at segment files, and stores to try them on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(unreachable_pub, reason = "a test's helper module has no outside")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::boxes::run::{GapReason, RunBox};
use framekeeper_media::boxes::segment::SegmentBox;
use framekeeper_media::boxes::walk::boxes;
use framekeeper_media::fragment::decode;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::env::{Disk, Env, MemDisk, RealClock, RealRandom, WritesWanted};
use framekeeper_store::*;
use uuid::Uuid;

pub const SPS: &[u8] = &[
    0x67, 0x4d, 0x40, 0x0d, 0xec, 0xa0, 0xa0, 0xfd, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03, 0x01,
    0x90, 0x78, 0xa1, 0x4c, 0xb0,
];
pub const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x20];
/// AAC-LC, 16 kHz, mono.
pub const AUDIO_CONFIG: &[u8] = &[0x14, 0x08];
pub const AUDIO_RATE: u32 = 16_000;

pub const SEGMENT_BYTES: u64 = 1 << 20;

pub fn init(audio: bool) -> Arc<InitSegment> {
    let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
    let audio = audio.then(|| AacParameters::from_audio_specific_config(AUDIO_CONFIG).unwrap());
    Arc::new(InitSegment::new(&video, audio.as_ref()))
}

/// A camera: each frame's bytes tell whose and which it is.
#[derive(Clone)]
pub struct Camera {
    pub ident: StreamIdent,
    pub audio: bool,
    /// Every third frame is a P frame that two B frames precede in presentation.
    pub b_frames: bool,
    pub gop: u64,
    pub frame_bytes: usize,
    pub key_bytes: usize,
    pub next_frame: u64,
    pub next_audio: u64,
    pub start_wall: i64,
    pub rtp_base: i64,
    pub audio_base: i64,
}

pub const FRAME_TICKS: i64 = 3600;
pub const FPS: u64 = 25;

impl Camera {
    pub fn new(name: &str) -> Self {
        Self {
            ident: StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: name.into() },
            audio: false,
            b_frames: false,
            gop: 25,
            frame_bytes: 2_000,
            key_bytes: 20_000,
            next_frame: 0,
            next_audio: 0,
            start_wall: 1_795_269_780_000_000,
            rtp_base: 4_000_000_000,
            audio_base: 7_000_000,
        }
    }

    pub fn with_audio(mut self) -> Self {
        self.audio = true;
        self
    }

    pub fn with_b_frames(mut self) -> Self {
        self.b_frames = true;
        self.gop = 24;
        self
    }

    pub fn marker(&self) -> Vec<u8> {
        format!("<{}>", self.ident.uid).into_bytes()
    }

    fn payload(&self, kind: &str, number: u64, size: usize) -> Bytes {
        let mut body = format!("{kind}{number:08}").into_bytes();
        // Made once: simulations make a million of them.
        let marker = self.marker();
        while body.len() < size {
            body.extend_from_slice(&marker);
        }
        body.truncate(size);
        Bytes::from(body)
    }

    pub fn video_data(&self, number: u64) -> Bytes {
        let key = number.is_multiple_of(self.gop);
        let size = if key { self.key_bytes } else { self.frame_bytes + (number % 7) as usize };
        let body = self.payload("video", number, size);
        let mut data = ((body.len() + 1) as u32).to_be_bytes().to_vec();
        data.push(if key { 0x65 } else { 0x41 });
        data.extend_from_slice(&body);
        Bytes::from(data)
    }

    pub fn audio_data(&self, number: u64) -> Bytes {
        self.payload("audio", number, 100 + (number % 5) as usize)
    }

    pub fn identity(&self, number: u64) -> FrameIdentity {
        framekeeper_media::identity::frame_identity(&self.video_data(number))
    }

    /// Presentation in frames, for decoding order `number`.
    fn shown(&self, number: u64) -> i64 {
        let n = number as i64;
        if !self.b_frames {
            return n;
        }
        // Decoded I P B B P B B …: a P is shown two later, the Bs one earlier; a key frame closes its GOP.
        let in_gop = number % self.gop;
        match in_gop {
            0 => n,
            k if k > self.gop - 1 - (self.gop - 1) % 3 => n,
            k if k % 3 == 1 => n + 2,
            _ => n - 1,
        }
    }

    pub fn wall_of(&self, number: u64) -> WallTime {
        WallTime(self.start_wall + self.shown(number) * 1_000_000 / FPS as i64)
    }

    pub fn frame(&mut self) -> VideoFrame {
        let n = self.next_frame;
        self.next_frame += 1;
        let key = n.is_multiple_of(self.gop);
        let delay = if self.b_frames { FRAME_TICKS } else { 0 };
        VideoFrame {
            data: self.video_data(n),
            pts: MediaTime(self.rtp_base + self.shown(n) * FRAME_TICKS + delay),
            dts: MediaTime(self.rtp_base + n as i64 * FRAME_TICKS),
            duration: FRAME_TICKS as u32,
            wall: self.wall_of(n),
            identity: self.identity(n),
            flags: if key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags(0) },
        }
    }

    fn audio_frames(&mut self) -> Vec<AudioFrame> {
        let mut frames = Vec::new();
        if !self.audio {
            return frames;
        }
        // As much audio as there is video.
        while self.next_audio * 1024 * FPS < self.next_frame * u64::from(AUDIO_RATE) {
            let n = self.next_audio;
            self.next_audio += 1;
            frames.push(AudioFrame {
                data: self.audio_data(n),
                pts: MediaTime(self.audio_base + n as i64 * 1024),
                duration: 1024,
                wall: WallTime(self.start_wall + n as i64 * 1024 * 1_000_000 / i64::from(AUDIO_RATE)),
            });
        }
        frames
    }

    /// Half a second, or up to the next key frame.
    pub fn fragment(&mut self) -> Fragment {
        let mut video = vec![self.frame()];
        while video.len() < 12 && !self.next_frame.is_multiple_of(self.gop) {
            video.push(self.frame());
        }
        Fragment {
            begins_random_access: video[0].flags.contains(FrameFlags::RANDOM_ACCESS),
            audio: self.audio_frames(),
            video,
            av_sync: self.audio.then_some((MediaTime(self.audio_base), MediaTime(self.rtp_base))),
            sender_report: None,
        }
    }

    pub fn run(&self) -> RunStart {
        RunStart {
            run: Uuid::new_v4(),
            epoch: 1,
            rank: 0,
            plan_version: PlanVersion { term: 1, sequence: 2 },
            gap: None,
            init: init(self.audio),
            audio_timescale: if self.audio { AUDIO_RATE } else { 0 },
            sender_report: None,
        }
    }
}

/// Waits for streams to become durable.
#[derive(Clone, Default)]
pub struct Durables {
    seen: Arc<(Mutex<HashMap<Uuid, Durable>>, Condvar)>,
}

impl Durables {
    pub fn observer(&self) -> DurableObserver {
        let seen = self.seen.clone();
        DurableObserver::new(move |stream, durable| {
            seen.0.lock().unwrap().insert(stream, durable);
            seen.1.notify_all();
        })
    }

    fn forget(&self) {
        self.seen.0.lock().unwrap().clear();
    }

    pub fn wait(&self, stream: Uuid, frames: u64) {
        let enough = |seen: &mut HashMap<Uuid, Durable>| seen.get(&stream).is_none_or(|d| d.frames < frames);
        let (seen, timeout) =
            self.seen.1.wait_timeout_while(self.seen.0.lock().unwrap(), Duration::from_secs(20), enough).unwrap();
        assert!(!timeout.timed_out(), "{frames} frames did not become durable: {:?}", seen.get(&stream));
    }
}

/// An empty disk in memory. In the tests of `in_blocks.rs` its segments are written as past a page cache.
pub fn mem_disk() -> MemDisk {
    if module_path!().contains("in_blocks") { MemDisk::new().written_in_blocks(4096) } else { MemDisk::new() }
}

/// A store of one volume.
pub struct Site {
    pub env: Env,
    pub dirs: Vec<PathBuf>,
    pub budget_files: u64,
    pub durables: Durables,
    pub recorder_uid: Uuid,
    pub stream_queue_bytes: usize,
    pub writes: WritesWanted,
}

impl Site {
    pub fn new(disk: Arc<dyn Disk>, dirs: &[&Path], budget_files: u64) -> Self {
        Self {
            env: Env { disk, clock: Arc::new(RealClock::default()), random: Arc::new(RealRandom) },
            dirs: dirs.iter().map(|d| d.to_path_buf()).collect(),
            budget_files,
            durables: Durables::default(),
            recorder_uid: Uuid::new_v4(),
            stream_queue_bytes: StoreConfig::STREAM_QUEUE_BYTES,
            writes: WritesWanted::Auto,
        }
    }

    pub fn mem(budget_files: u64) -> (MemDisk, Self) {
        let disk = mem_disk();
        disk.make_folder(Path::new("/v"));
        (disk.clone(), Self::new(Arc::new(disk), &[Path::new("/v")], budget_files))
    }

    pub fn config(&self) -> StoreConfig {
        let volume = |dir: &PathBuf| VolumeConfig {
            dir: dir.clone(),
            uuid: None,
            segment_bytes: SEGMENT_BYTES,
            budget_bytes: SEGMENT_BYTES * self.budget_files,
        };
        let volumes = self.dirs.iter().map(volume).collect();
        StoreConfig {
            sync_interval: Some(Duration::from_millis(5)),
            // What a test finds must not depend on how busy the machine is.
            recovery_budget: Duration::from_secs(20),
            on_durable: Some(self.durables.observer()),
            stream_queue_bytes: self.stream_queue_bytes,
            writes: self.writes,
            ..StoreConfig::new("default/main", "main-recorder-0", self.recorder_uid, volumes)
        }
    }

    pub fn open(&self) -> Store {
        // A store counts from nothing: what another one said before must not pass for its own.
        self.durables.forget();
        Store::open(self.config(), self.env.clone()).unwrap()
    }

    /// The same recorder on another disk, as after a crash.
    pub fn on(&self, disk: &MemDisk) -> Self {
        let env = Env { disk: Arc::new(disk.clone()), ..self.env.clone() };
        Self { env, durables: Durables::default(), dirs: self.dirs.clone(), ..*self }
    }
}

/// Waits until `done`, which some thread of the store brings about without telling.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "this did not happen: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub const ALWAYS: (WallTime, WallTime) = (WallTime(i64::MIN), WallTime(i64::MAX));

/// Records so many fragments and waits until they are durable.
pub fn record(site: &Site, store: &Store, writer: &mut StreamWriter, camera: &mut Camera, fragments: usize) {
    let before = store.stream_stats(camera.ident.uid).map_or(0, |s| s.video_frames);
    let mut frames = 0;
    for _ in 0..fragments {
        let fragment = camera.fragment();
        frames += fragment.video.len() as u64;
        let appended = writer.append(fragment);
        assert!(matches!(appended, Appended::Queued | Appended::Waits(_)), "{appended:?}, {:?}", store.volumes());
        store.flush_tick();
    }
    site.durables.wait(camera.ident.uid, before + frames);
}

/// The numbers of all video frames that the reader gives for a stream, each with its bytes and times checked.
///
/// A store that makes room may retire the oldest segments while they are read: with one that is gone, all before it are gone too.
pub fn frames_of(reader: &Reader, camera: &Camera) -> Vec<u64> {
    let mut numbers = Vec::new();
    'segments: for segment in reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap() {
        let index = match reader.index(&segment) {
            Err(ReadError::Gone) => {
                numbers.clear();
                continue;
            }
            index => index.unwrap(),
        };
        for entry in &index.entries {
            let mut data = vec![0; entry.data_length as usize];
            match reader.read_at(&segment, entry.data_offset.into(), &mut data) {
                Err(ReadError::Gone) => {
                    numbers.clear();
                    continue 'segments;
                }
                read => read.unwrap(),
            }
            match entry.kind {
                EntryKind::Video { identity, .. } => {
                    let number: u64 = std::str::from_utf8(&data[10..18]).unwrap().parse().unwrap();
                    assert_eq!(data, camera.video_data(number));
                    assert_eq!(identity, camera.identity(number));
                    assert_eq!(entry.wall, camera.wall_of(number), "wall time of frame {number}");
                    numbers.push(number);
                }
                EntryKind::Audio { .. } => {
                    let mut at = 0;
                    for size in index.sizes_of(entry) {
                        let one = &data[at..at + usize::from(*size)];
                        let number: u64 = std::str::from_utf8(&one[5..13]).unwrap().parse().unwrap();
                        assert_eq!(one, camera.audio_data(number));
                        at += usize::from(*size);
                    }
                    assert_eq!(at, data.len());
                }
            }
        }
    }
    numbers
}

/// What a strict walk over a segment file finds.
#[derive(Debug, Default)]
pub struct Look {
    pub sealed: bool,
    pub begins_inside_gop: bool,
    pub continues_gop: bool,
    pub runs: Vec<(GapReason, bool)>,
    pub frames: Vec<FrameIdentity>,
    pub last_video_end: u64,
    pub last_audio_end: u64,
    pub audio_frames: usize,
}

/// Walks a segment file as a player would, and stricter: any mistake is an error.
pub fn look(bytes: &[u8]) -> Result<Look, String> {
    let mut found = Look::default();
    let mut order = Vec::new();
    let mut nonce = 0;
    for header in boxes(bytes) {
        let (header, _) = header.map_err(|e| e.to_string())?;
        if header.offset % 8 != 0 && nonce != 0 && header.kind != *b"mdat" {
            return Err(format!("{:?} at {} is not aligned", std::str::from_utf8(&header.kind), header.offset));
        }
        order.push(header.kind);
        let rest = &bytes[header.offset as usize..];
        match &header.kind {
            b"uuid" if order.iter().filter(|k| *k == b"uuid").count() == 1 => {
                let segment = SegmentBox::decode(rest).map_err(|e| e.to_string())?;
                nonce = segment.nonce;
                found.sealed = segment.sealed.is_some();
                found.begins_inside_gop = segment.begins_inside_gop;
            }
            b"uuid" if header.length == 256 => {
                let run = RunBox::decode(rest).map_err(|e| e.to_string())?;
                if run.nonce != nonce || run.offset != header.offset {
                    return Err("a run box of another use".to_owned());
                }
                found.runs.push((run.gap_reason, run.continued));
            }
            b"moof" => {
                let head = decode(rest, header.offset, bytes.len() as u64).map_err(|e| e.to_string())?;
                head.verify([&rest[..head.length as usize]]).map_err(|e| e.to_string())?;
                if head.nonce != nonce {
                    return Err("a fragment of another use".to_owned());
                }
                found.continues_gop |= head.continues_gop;
                for frame in &head.video {
                    if frame.dts < found.last_video_end && !found.frames.is_empty() {
                        return Err(format!("decode time {} goes back behind {}", frame.dts, found.last_video_end));
                    }
                    found.last_video_end = frame.dts + u64::from(frame.duration);
                    found.frames.push(frame.identity);
                }
                for frame in &head.audio {
                    if frame.dts < found.last_audio_end {
                        return Err(format!("audio time {} goes back behind {}", frame.dts, found.last_audio_end));
                    }
                    found.last_audio_end = frame.dts + u64::from(frame.duration);
                    found.audio_frames += 1;
                }
            }
            b"ftyp" | b"moov" | b"free" | b"mdat" | b"mfra" | b"uuid" => {}
            other => return Err(format!("a {:?} box", std::str::from_utf8(other))),
        }
    }
    if order.first() != Some(b"ftyp") || order.get(1) != Some(b"moov") {
        return Err("does not begin with ftyp and moov".to_owned());
    }
    Ok(found)
}

/// All segment files on a disk in memory.
pub fn segment_files(disk: &MemDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let is_segment = |p: &PathBuf| p.components().any(|c| c.as_os_str() == "streams");
    disk.files().into_iter().filter(is_segment).map(|p| (p.clone(), disk.bytes(&p).unwrap())).collect()
}
