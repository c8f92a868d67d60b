//! Numbers that are counted while recording, for metrics and status.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::env::WritePath;
use crate::outlook::{Foreign, Outlook};
use crate::volume::rot::DamageSummary;

/// Why frames were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Too many bytes waited for the disk.
    Overload,
    /// The volume failed while they waited.
    VolumeFailed,
    /// No volume can be written.
    NoVolume,
    /// The volume has no free file, and nothing that may be retired.
    NoFreeFile,
    /// They stood before the first random access point of their run.
    NotRandomAccess,
    /// One fragment is bigger than a segment.
    TooBig,
    /// They cannot be put into a fragment: times that go back, or no run was begun.
    Malformed,
    /// The store is closed.
    Closed,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Overload,
        Self::VolumeFailed,
        Self::NoVolume,
        Self::NoFreeFile,
        Self::NotRandomAccess,
        Self::TooBig,
        Self::Malformed,
        Self::Closed,
    ];

    /// Its name in metrics: `overload`, `volume_failed`, ….
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::VolumeFailed => "volume_failed",
            Self::NoVolume => "no_volume",
            Self::NoFreeFile => "no_free_file",
            Self::NotRandomAccess => "not_random_access",
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
        }
    }
}

/// A counter that several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is being done so that the catalogue knows all that is on a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatalogueStage {
    /// The catalogue is opened and checked.
    #[default]
    Opening,
    /// The manifest is read; `done` and `of` are bytes of it.
    Manifest,
    /// Folders are looked through for files that the manifest lacks; `done` and `of` are streams.
    Folders,
    /// Files that the manifest lacks are read; `done` and `of` are files.
    Files,
    /// Nothing more.
    Complete,
}

impl CatalogueStage {
    /// Its name: `opening`, `manifest`, `folders`, `files`, `complete`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Manifest => "manifest",
            Self::Folders => "folders",
            Self::Files => "files",
            Self::Complete => "complete",
        }
    }
}

/// How far the catalogue of a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogueProgress {
    /// What is being done.
    pub stage: CatalogueStage,
    /// So much of this stage is done.
    pub done: u64,
    /// Of so much.
    pub of: u64,
}

impl CatalogueProgress {
    /// The done part of the stage, from 0 to 1; 1 where there is nothing to do.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.stage == CatalogueStage::Complete {
            return 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = if self.of == 0 { 0.0 } else { self.done.min(self.of) as f64 / self.of as f64 };
        ratio
    }
}

/// Counted for a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamCounters {
    pub(crate) bytes: Counter,
    pub(crate) video_frames: Counter,
    pub(crate) audio_frames: Counter,
    pub(crate) fragments: Counter,
    pub(crate) segments: Counter,
    pub(crate) runs: Counter,
    dropped: [Counter; 8],
}

impl StreamCounters {
    pub(crate) fn dropped(&self, reason: DropReason, frames: u64) {
        let at = DropReason::ALL.iter().position(|r| *r == reason);
        if let Some(counter) = at.and_then(|at| self.dropped.get(at)) {
            counter.add(frames);
        }
    }

    pub(crate) fn dropped_by_reason(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.into_iter().zip(&self.dropped).map(|(reason, counter)| (reason, counter.get())).collect()
    }
}

/// A stream, in numbers, since the store was opened.
#[derive(Clone, Debug)]
pub struct StreamStats {
    /// The stream.
    pub stream: Uuid,
    /// Its `namespace/name`.
    pub name: String,
    /// The volume that it is written to, if any.
    pub volume: Option<Uuid>,
    /// Bytes written, boxes included.
    pub bytes: u64,
    /// Video frames written.
    pub video_frames: u64,
    /// Audio frames written.
    pub audio_frames: u64,
    /// Fragments written.
    pub fragments: u64,
    /// Segments begun.
    pub segments: u64,
    /// Runs begun.
    pub runs: u64,
    /// Bytes of frames that wait for the disk.
    pub queue_bytes: u64,
    /// Bytes of frames in memory: those that wait, those that are not durable yet, and the GOP that they belong to.
    pub memory_bytes: u64,
    /// Bytes of a whole GOP, boxes not included: of the last one, or of the one that goes on where that is larger. `None` before one was whole.
    pub gop_bytes: Option<u64>,
    /// The GOP that goes on is too long for the memory that is allowed: should the volume fail, what was not durable goes on elsewhere without
    /// its key frame, and can be shown only as long as the failed volume can be read.
    pub gop_too_long: bool,
    /// Video and audio frames that were not stored, by reason.
    pub dropped_frames: Vec<(DropReason, u64)>,
    /// Wall time of the newest durable video frame.
    pub durable: Option<WallTime>,
    /// Bytes of its segments, over all volumes, as of the last segment; where it has a limit of bytes.
    pub kept_bytes: Option<u64>,
}

/// Upper bounds of the buckets of sync durations, in microseconds.
pub const SYNC_BUCKETS_US: [u64; 10] =
    [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Counted for a volume.
#[derive(Debug, Default)]
pub(crate) struct VolumeCounters {
    pub(crate) bytes: Counter,
    pub(crate) writes: Counter,
    write_batches: Counter,
    write_us: Counter,
    last_write_us: Counter,
    pub(crate) fragments: Counter,
    pub(crate) syncs: Counter,
    pub(crate) sync_us: Counter,
    pub(crate) last_sync_us: Counter,
    pub(crate) sealed: Counter,
    pub(crate) retired: Counter,
    /// Bytes found damaged.
    pub(crate) rotten: Counter,
    pub(crate) awaited: Counter,
    buckets: [Counter; SYNC_BUCKETS_US.len()],
}

impl VolumeCounters {
    pub(crate) fn wrote(&self, us: u64) {
        self.write_batches.add(1);
        self.write_us.add(us);
        self.last_write_us.set(us);
    }

    /// Number of batches, microseconds of all and of the last one.
    pub(crate) fn write_times(&self) -> (u64, u64, u64) {
        (self.write_batches.get(), self.write_us.get(), self.last_write_us.get())
    }

    pub(crate) fn synced(&self, us: u64) {
        self.syncs.add(1);
        self.sync_us.add(us);
        self.last_sync_us.set(us);
        if let Some((_, bucket)) = SYNC_BUCKETS_US.iter().zip(&self.buckets).find(|(bound, _)| us <= **bound) {
            bucket.add(1);
        }
    }

    pub(crate) fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().map(Counter::get).collect()
    }
}

/// A volume, in numbers; counters since the store was opened.
#[derive(Clone, Debug)]
pub struct VolumeStats {
    /// The volume; nil when it could not be opened.
    pub volume: Uuid,
    /// Its folder.
    pub dir: PathBuf,
    /// Why it cannot be written any more. A failed volume stays readable as far as it can be.
    pub failed: Option<String>,
    /// Why no file could be made free when one was wanted. Recording goes on as long as there are free files.
    pub stuck: Option<String>,
    /// Size of each file.
    pub segment_bytes: u64,
    /// How segments are written; `None` when it could not be opened.
    pub write_path: Option<WritePath>,
    /// Files that the budget allows.
    pub files_total: u64,
    /// Files that exist.
    pub files_made: u64,
    /// Files that are empty and ready.
    pub files_free: u64,
    /// Files that wait to be zeroed.
    pub files_retired: u64,
    /// Files whose footage is held.
    pub files_held: u64,
    /// Files that new footage can be put into, now or once older footage is given up.
    pub files_usable: u64,
    /// Times that a stream had to wait until a file was made.
    pub files_awaited: u64,
    /// Holds on the volume, whether or not there is footage that they cover.
    pub holds: u64,
    /// What is to be expected of the volume's room, as of the last second.
    pub outlook: Outlook,
    /// What else is on the file system, as of the last second.
    pub foreign: Foreign,
    /// From the start of one sync to the start of the next.
    pub sync_interval: Duration,
    /// Whether its disk rotates, where that is known.
    pub rotational: Option<bool>,
    /// Streams being written here.
    pub streams: u64,
    /// Records of the manifest that wait for the catalogue.
    pub waiting_records: u64,
    /// Whether the catalogue knows all that is on the volume.
    pub catalogue_complete: bool,
    /// How often it was opened, this time included.
    pub opens: u64,
    /// How far it is, while it does not.
    pub catalogue_progress: CatalogueProgress,
    /// Bytes written; where whole blocks are written, these.
    pub bytes: u64,
    /// Writes handed to the system.
    pub writes: u64,
    /// Times that something was written: all streams' writes of a tick are one.
    pub write_batches: u64,
    /// Microseconds that these took together.
    pub write_us: u64,
    /// Microseconds that the last one took.
    pub last_write_us: u64,
    /// Fragments written.
    pub fragments: u64,
    /// Syncs done (each may be several system calls).
    pub syncs: u64,
    /// Microseconds that all syncs took together.
    pub sync_us: u64,
    /// Microseconds that the last sync took.
    pub last_sync_us: u64,
    /// Syncs by duration: one number for each of [`SYNC_BUCKETS_US`], not cumulative; slower ones are only in `syncs`.
    pub sync_buckets: Vec<u64>,
    /// Age in microseconds of the oldest bytes that are not durable yet; 0 when all are.
    pub unsynced_us: u64,
    /// The disk hangs: nothing is given to it until it answers.
    pub stalled: bool,
    /// No stream is recorded to it any more, because somebody said so.
    pub draining: bool,
    /// Segments sealed.
    pub sealed: u64,
    /// Segments retired.
    pub retired: u64,
    /// When the oldest footage on it begins, as of the last seconds; `None` while there is none, or it is not known yet.
    pub oldest: Option<WallTime>,
    /// What of the footage on it is known to be damaged.
    pub damage: DamageSummary,
    /// How far the thread is that reads all footage again.
    pub scrub: ScrubStats,
}

/// The reading of all footage of a volume, in numbers; counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Bytes read.
    pub bytes: u64,
    /// Segments found whole.
    pub whole: u64,
    /// Bytes found damaged, by the thread and by readers.
    pub rotten_bytes: u64,
    /// Of the pass that goes on: segments passed, and segments that there were at its beginning.
    pub passed: u64,
    /// See `passed`.
    pub of: u64,
}

impl VolumeStats {
    /// A volume that could not be opened.
    pub(crate) fn not_opened(dir: &std::path::Path, error: &crate::OpenError) -> Self {
        Self {
            volume: Uuid::nil(),
            dir: dir.to_owned(),
            failed: Some(error.to_string()),
            stuck: None,
            segment_bytes: 0,
            write_path: None,
            files_total: 0,
            files_made: 0,
            files_free: 0,
            files_retired: 0,
            files_held: 0,
            files_usable: 0,
            files_awaited: 0,
            holds: 0,
            outlook: Outlook::default(),
            foreign: Foreign::default(),
            sync_interval: Duration::ZERO,
            rotational: None,
            streams: 0,
            waiting_records: 0,
            catalogue_complete: false,
            opens: 0,
            catalogue_progress: CatalogueProgress::default(),
            bytes: 0,
            writes: 0,
            write_batches: 0,
            write_us: 0,
            last_write_us: 0,
            fragments: 0,
            syncs: 0,
            sync_us: 0,
            last_sync_us: 0,
            sync_buckets: Vec::new(),
            unsynced_us: 0,
            stalled: false,
            draining: false,
            sealed: 0,
            retired: 0,
            oldest: None,
            damage: DamageSummary::default(),
            scrub: ScrubStats::default(),
        }
    }
}
