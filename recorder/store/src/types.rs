//! The plain values that go in and come out of the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use uuid::Uuid;

use crate::env::WritesWanted;
use crate::identity::KnownOpens;
use crate::retention::Retention;

pub use framekeeper_media::boxes::run::{GapReason, PlanVersion, ReportedTime};

/// Which stream: the object's UID, and the name that its folder gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamIdent {
    /// UID of the `CameraStream` object.
    pub uid: Uuid,
    /// Its namespace: 1–63 bytes, no `/`, not `.` or `..`.
    pub namespace: String,
    /// Its name: 1–253 bytes, no `/`, not `.` or `..`.
    pub name: String,
}

/// What a new run of a stream is.
#[derive(Clone, Debug)]
pub struct RunStart {
    /// The run: random, never used before.
    pub run: Uuid,
    /// Epoch; orders copies of the same frame.
    pub epoch: u64,
    /// 0 primary, 1… standby.
    pub rank: u32,
    /// The plan version under which this recorder records.
    pub plan_version: PlanVersion,
    /// Why there is a gap before this run. `None`: the store knows better (first run of this stream since the store was
    /// opened): [`GapReason::FirstRun`], [`GapReason::RecorderStopped`] or
    /// [`GapReason::RecorderCrashed`].
    pub gap: Option<GapReason>,
    /// Codec parameters of this run.
    pub init: Arc<InitSegment>,
    /// Ticks a second of the audio clock; 0 when `init` has no audio track.
    pub audio_timescale: u32,
    /// The newest sender report, if any.
    pub sender_report: Option<ReportedTime>,
}

/// One coded picture, ready to be stored.
#[derive(Clone, Debug)]
pub struct VideoFrame {
    /// The access unit's bytes: NAL units, each behind a 4-byte length.
    pub data: Bytes,
    /// Presentation time, 90 kHz, unwrapped RTP time.
    pub pts: MediaTime,
    /// Decode time, 90 kHz, on the same clock; grows from frame to frame.
    pub dts: MediaTime,
    /// From this decode time to the next one's, in ticks of 90 kHz; a forecast at a fragment's last frame.
    pub duration: u32,
    /// Wall time of the presentation time.
    pub wall: WallTime,
    /// Hash of the VCL NAL units.
    pub identity: FrameIdentity,
    /// Random access, sync, loss.
    pub flags: FrameFlags,
}

/// One coded audio frame, ready to be stored. At most 65,535 bytes.
#[derive(Clone, Debug)]
pub struct AudioFrame {
    /// The frame's bytes.
    pub data: Bytes,
    /// Presentation time on the audio clock, unwrapped RTP time.
    pub pts: MediaTime,
    /// How long it plays, in ticks of the audio clock.
    pub duration: u32,
    /// Wall time of the presentation time.
    pub wall: WallTime,
}

/// A stretch of one GOP, with the audio that came along, to be stored as one unit.
#[derive(Clone, Debug, Default)]
pub struct Fragment {
    /// In decoding order. A frame at which decoding can begin is only ever the first.
    pub video: Vec<VideoFrame>,
    /// In order of time.
    pub audio: Vec<AudioFrame>,
    /// The same instant on the audio clock and on the video clock, as known now. Without it, wall times place the audio.
    pub av_sync: Option<(MediaTime, MediaTime)>,
    /// The first video frame is a random access point.
    pub begins_random_access: bool,
    /// A sender report newer than that of the run's start, if any.
    pub sender_report: Option<ReportedTime>,
}

/// How far a stream is safe on disk: this and all before it survives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Wall time of the newest durable video frame.
    pub wall: WallTime,
    /// Its presentation time, 90 kHz.
    pub pts: MediaTime,
    /// Durable video frames since the store was opened.
    pub frames: u64,
    /// Of the video frames that were queued since then, so many, from the first on, are durable or were lost with a volume.
    pub settled: u64,
}

/// How it stands with the place where a stream's frames go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// A volume takes streams.
    pub takes: bool,
    /// Age of the oldest bytes on its volume that are not durable yet, of whatever stream, microseconds.
    pub unsynced_us: u64,
}

/// The run that a stream had before, as its volume tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// The run.
    pub run: Uuid,
    /// When its last frame ended.
    pub end: WallTime,
    /// Whether the store was closed in order behind it; `true` for a run of the store that is open.
    pub in_order: bool,
}

/// A stretch of a stream without a gap, on one recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// The run.
    pub run: Uuid,
    /// UID of the recorder that recorded it.
    pub recorder: Uuid,
    /// Epoch; the higher one's copy of a frame comes first.
    pub epoch: u64,
    /// 0 primary, 1… standby.
    pub rank: u32,
    /// Wall time of its first frame that is still here.
    pub from: WallTime,
    /// Wall time at which its last frame here ends.
    pub to: WallTime,
    /// Video frames of it that are here.
    pub frames: u64,
    /// Why there is a gap before it.
    pub gap: GapReason,
    /// The run before it on this recorder, nil when there is none.
    pub previous_run: Uuid,
    /// When the run before it ended, if known.
    pub previous_end: Option<WallTime>,
    /// Whether it is being recorded right now.
    pub active: bool,
}

/// One segment file, as the catalogue (or, while it is written, memory) knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// UUID of its volume.
    pub volume: Uuid,
    /// Its file, below the volume's folder.
    pub path: PathBuf,
    /// Number of the file on its volume, kept for life.
    pub file_number: u64,
    /// This use of the file.
    pub nonce: u64,
    /// The stream.
    pub stream: Uuid,
    /// Its number among the stream's segments on this volume.
    pub number: u64,
    /// Names the codec parameters.
    pub init_hash: u64,
    /// Wall time of its first frame.
    pub first: WallTime,
    /// Wall time at which its last frame ends.
    pub end: WallTime,
    /// Whether it has its index.
    pub sealed: bool,
    /// Bytes in use from the start of the file: everything up to the last fragment's end.
    pub used_bytes: u64,
    /// Counts.
    pub counts: SegmentCounts,
}

/// What is in a segment, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Video frames.
    pub video_frames: u32,
    /// Audio frames.
    pub audio_frames: u32,
    /// Random access points.
    pub random_access_points: u32,
    /// Fragments.
    pub fragments: u32,
    /// Runs that have frames in it.
    pub runs: u32,
    /// Bytes of all video samples.
    pub video_bytes: u64,
    /// Bytes of all audio samples.
    pub audio_bytes: u64,
}

/// Footage that is never retired, until the hold is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// Names the hold.
    pub hold: Uuid,
    /// Whose footage.
    pub stream: Uuid,
    /// From this wall time on.
    pub from: WallTime,
    /// Up to this one.
    pub to: WallTime,
}

impl Hold {
    /// Whether footage of `stream` in a segment from `first` to `end` must stay.
    pub(crate) fn touches(&self, stream: Uuid, first: WallTime, end: WallTime) -> bool {
        self.stream == stream && first < self.to && self.from < end
    }
}

/// Somebody who is told when streams become more durable.
#[derive(Clone)]
pub struct DurableObserver(Arc<dyn Fn(Uuid, Durable) + Send + Sync>);

impl DurableObserver {
    /// Calls `observer` with the stream and how far it is durable.
    pub fn new(observer: impl Fn(Uuid, Durable) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observer))
    }

    pub(crate) fn call(&self, stream: Uuid, durable: Durable) {
        (self.0)(stream, durable);
    }
}

impl std::fmt::Debug for DurableObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableObserver")
    }
}

/// How the store is set up.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Volumes, each independent of the others.
    pub volumes: Vec<VolumeConfig>,
    /// The pool, as `namespace/name`: a volume of another pool is refused.
    pub pool: String,
    /// Name of this recorder, written into a volume when it is formatted.
    pub recorder: String,
    /// UID of this recorder, written into each run.
    pub recorder_uid: Uuid,
    /// From the start of one sync to the start of the next (never before that one ended).
    /// `None`: [`Self::SYNC_INTERVAL`], and [`Self::ROTATIONAL_SYNC_INTERVAL`] for volumes on disks that rotate.
    pub sync_interval: Option<Duration>,
    /// Bytes of frames that one stream may have in memory: what waits for the disk, what is not durable yet, and the GOP that goes on.
    pub stream_queue_bytes: usize,
    /// Bytes of frames that all streams together may have in memory.
    pub total_queue_bytes: usize,
    /// Bytes that readers may keep of what they have read.
    pub reader_cache_bytes: usize,
    /// Is told of each stream that became more durable, from the thread that syncs: must return at once.
    pub on_durable: Option<DurableObserver>,
    /// How long [`crate::Store::open`] may take before unsealed segments are left for later, and recording goes into fresh files. 1 s.
    pub recovery_budget: Duration,
    /// How segments are written.
    pub writes: WritesWanted,
    /// How often the volumes were opened before, as far as somebody remembers.
    pub known_opens: KnownOpens,
    /// How long footage is kept, beside what the room on the volumes allows.
    pub retention: Retention,
    /// On which volume the next segment of a stream goes.
    pub placement: Placement,
    /// How long it takes until all footage of a volume was read through; longer where that would take more than a twentieth of the disk's
    /// time. 25 days.
    pub scrub_round: Duration,
}

impl StoreConfig {
    /// Bytes that one stream may have waiting: 4 s of 50 Mbit/s.
    pub const STREAM_QUEUE_BYTES: usize = 24 << 20;
    /// Bytes that all streams may have waiting.
    pub const TOTAL_QUEUE_BYTES: usize = 512 << 20;
    /// Bytes that readers may keep: some sixty indexes of busy segments.
    pub const READER_CACHE_BYTES: usize = 12 << 20;

    /// Well within the 30 days that are promised.
    pub const SCRUB_ROUND: Duration = Duration::from_secs(25 * 86_400);
    /// From sync to sync, where nobody says otherwise.
    pub const SYNC_INTERVAL: Duration = Duration::from_millis(500);
    /// The same on a disk that rotates: each sync moves its heads away from what is being written.
    pub const ROTATIONAL_SYNC_INTERVAL: Duration = Duration::from_secs(2);

    /// From sync to sync, on a disk of that kind.
    #[must_use]
    pub fn sync_interval_on(&self, rotational: Option<bool>) -> Duration {
        let by_disk = if rotational == Some(true) { Self::ROTATIONAL_SYNC_INTERVAL } else { Self::SYNC_INTERVAL };
        self.sync_interval.unwrap_or(by_disk)
    }

    /// A setup with the default limits.
    #[must_use]
    pub fn new(pool: &str, recorder: &str, recorder_uid: Uuid, volumes: Vec<VolumeConfig>) -> Self {
        Self {
            volumes,
            pool: pool.to_owned(),
            recorder: recorder.to_owned(),
            recorder_uid,
            sync_interval: None,
            stream_queue_bytes: Self::STREAM_QUEUE_BYTES,
            total_queue_bytes: Self::TOTAL_QUEUE_BYTES,
            reader_cache_bytes: Self::READER_CACHE_BYTES,
            on_durable: None,
            recovery_budget: Duration::from_secs(1),
            writes: WritesWanted::Auto,
            known_opens: KnownOpens::default(),
            retention: Retention::default(),
            placement: Placement::Fill,
            scrub_round: Self::SCRUB_ROUND,
        }
    }
}

/// On which volume the next segment of a stream goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On the one where the stream is. It began on the one with most room, and goes elsewhere only when that takes it no more.
    #[default]
    Fill,
    /// On the next one in turn that takes streams.
    RoundRobin,
}

/// One volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Its folder. Must exist.
    pub dir: PathBuf,
    /// Its UUID, where it is known: any other volume found there is refused. `None` accepts whichever volume of this pool is
    /// there, and formats an empty folder with a random one.
    pub uuid: Option<Uuid>,
    /// Size of each segment file: a multiple of 4096, from 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes that the volume may use: it gets `budget_bytes / segment_bytes` files, rounded down, at least 4.
    pub budget_bytes: u64,
}
