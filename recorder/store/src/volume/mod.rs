//! One volume: a folder of files that are taken, written, sealed, retired and taken again.
//!
//! ```text
//! StreamWriter ─ queue ─► writer thread ─ pwritev ─► files        (volume/writer.rs)
//!                              │ dirty
//!                              ▼
//!                         sync thread ─ sync, seals, manifest ──► durable times     (volume/sync.rs)
//!                              │ jobs
//!                              ▼
//!                         keeper thread ─ catalogue, pool, retirement, late recovery  (volume/keeper/)
//! ```

/// When writes and syncs began and ended, wall time in microseconds: for whoever wants to know exactly what is durable at which moment
/// (`docs/durability.md`). Shown with `RUST_LOG=framekeeper::timing=trace`.
macro_rules! timing {
    ($($fields:tt)*) => { tracing::trace!(target: "framekeeper::timing", $($fields)*) };
}

pub(crate) mod books;
mod files;
pub(crate) mod keeper;
pub(crate) mod look_ahead;
pub(crate) mod newest;
pub(crate) mod open;
pub(crate) mod parallel;
pub(crate) mod pool;
pub(crate) mod rot;
pub(crate) mod scrub;
pub(crate) mod signal;
pub(crate) mod sync;
pub(crate) mod unit;
pub(crate) mod writer;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::env::{Env, File, Folder, Interrupt, Lock, WritePath};
use crate::identity::Identity;
use crate::lock;
use crate::manifest::Record;
use crate::manifest_log::Position;
use crate::names;
use crate::segment::live::LiveSegment;
use crate::stats::{CatalogueProgress, VolumeCounters, VolumeStats};
use crate::stream::{Latch, Mark, StreamState};
use crate::types::Hold;
use books::Books;
use pool::Pool;
use signal::Signal;

/// An open volume.
pub(crate) struct Volume {
    /// Position in the store.
    pub(crate) at: usize,
    pub(crate) uuid: Uuid,
    pub(crate) dir: PathBuf,
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) env: Env,
    pub(crate) segment_bytes: u64,
    /// No segment written since it was opened has a lower number.
    pub(crate) first_segment_number: u64,
    /// Since it was opened a segment was begun whose name sorts before that of an older one.
    pub(crate) unordered: Mutex<bool>,
    pub(crate) write_path: WritePath,
    /// Ends the writer's waiting for the disk.
    pub(crate) writing: Interrupt,
    pub(crate) recorder_uid: Uuid,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) pool: Mutex<Pool>,
    /// Read-locked for a view together with `live`; write-locked while a segment moves from one to the other.
    pub(crate) catalogue: RwLock<Catalogue>,
    /// The manifest is in the catalogue: what is new may follow.
    pub(crate) catalogue_replayed: AtomicBool,
    /// All that is on the volume is in the catalogue.
    pub(crate) catalogue_complete: AtomicBool,
    /// Opens when it is so for the first time.
    pub(crate) caught_up: Latch,
    /// How far the catalogue is, while it is not complete.
    pub(crate) progress: Mutex<CatalogueProgress>,
    pub(crate) books: Books,
    /// Segments that are not in the catalogue yet, by stream.
    pub(crate) live: Mutex<HashMap<Uuid, Vec<Arc<LiveSegment>>>>,
    pub(crate) dirty: Mutex<Dirty>,
    pub(crate) jobs: Mutex<Vec<Job>>,
    pub(crate) holds: Mutex<Vec<Hold>>,
    /// When the oldest footage begins, as of the last round of the keeper.
    pub(crate) oldest: Mutex<Option<WallTime>>,
    /// Segments that are to go by the limits of their streams: file number and nonce.
    pub(crate) doomed: Mutex<HashSet<(u64, u64)>>,
    pub(crate) rot: rot::Rot,
    pub(crate) scrub: scrub::ScrubCounters,
    /// Held while a segment is retired, and while holds change.
    pub(crate) retiring: Mutex<()>,
    pub(crate) leases: Mutex<HashMap<u64, Vec<(u64, u64)>>>,
    /// Held while a folder is made and filled, or removed when empty.
    pub(crate) folders: Mutex<()>,
    pub(crate) streams: Mutex<Vec<Arc<StreamState>>>,
    /// Streams with a handle that are written here.
    pub(crate) recording: AtomicUsize,
    /// Streams that may come for their next segment.
    pub(crate) coming: AtomicUsize,
    pub(crate) counters: VolumeCounters,
    pub(crate) stuck: Mutex<Stuck>,
    /// Files that the streams recorded here shall find ready.
    pub(crate) files_ahead: AtomicU64,
    pub(crate) seen: Mutex<look_ahead::Seen>,
    /// From the start of one sync to the start of the next.
    pub(crate) sync_interval_us: u64,
    /// Whether its disk rotates, where that is known.
    pub(crate) rotational: Option<bool>,
    pub(crate) pending: Pending,
    /// Streams that went elsewhere; their segments are to be sealed.
    pub(crate) left: Mutex<Vec<Uuid>>,
    pub(crate) draining: AtomicBool,
    pub(crate) stalled: AtomicBool,
    pub(crate) failed: Mutex<Option<String>>,
    pub(crate) has_failed: AtomicBool,
    /// A stream waits for a file.
    pub(crate) starving: AtomicBool,
    pub(crate) wake_writer: Signal,
    pub(crate) wake_sync: Signal,
    pub(crate) wake_keeper: Signal,
    pub(crate) wake_scrub: Signal,
    /// What was noted as written by then (monotonic µs) is durable.
    pub(crate) synced_us: AtomicU64,
    pub(crate) _lock: Box<dyn Lock>,
}

/// Why there are fewer free files than there should be.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    /// The file system has no room for another one.
    pub(crate) room: Option<String>,
    /// Nothing may be retired.
    pub(crate) retirement: Option<String>,
}

impl Stuck {
    fn why(&self) -> Option<String> {
        let both: Vec<_> = self.room.iter().chain(&self.retirement).map(String::as_str).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// A disk that takes longer than this for what is to be written and synced, beyond the sync interval, hangs.
const STALLED_US: u64 = 3_000_000;
/// A disk that hung is used again once nothing has been pending for longer than this, beyond the sync interval.
const AWAKE_US: u64 = 500_000;

/// Since when (monotonic µs) a write, and what a sync covers, have been under way; 0: none.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    write_us: AtomicU64,
    sync_us: AtomicU64,
    /// From then on a sync begins as soon as a batch is written.
    sync_from_us: AtomicU64,
}

impl Pending {
    pub(crate) fn write(&self, since_us: Option<u64>) {
        self.write_us.store(since_us.map_or(0, |us| us.max(1)), Ordering::Release);
    }

    pub(crate) fn sync(&self, since_us: Option<u64>) {
        self.sync_us.store(since_us.map_or(0, |us| us.max(1)), Ordering::Release);
    }

    pub(crate) fn sync_from(&self, us: u64) {
        self.sync_from_us.store(us, Ordering::Release);
    }

    /// Whether a sync is to follow a batch that was written at `now_us`.
    pub(crate) fn is_sync_due(&self, now_us: u64) -> bool {
        now_us >= self.sync_from_us.load(Ordering::Acquire)
    }

    /// The earlier of both.
    fn since_us(&self) -> Option<u64> {
        let set = |at: &AtomicU64| Some(at.load(Ordering::Acquire)).filter(|us| *us > 0);
        [set(&self.write_us), set(&self.sync_us)].into_iter().flatten().min()
    }
}

/// What was written and not synced.
#[derive(Default)]
pub(crate) struct Dirty {
    /// By file number.
    pub(crate) files: HashMap<u64, Arc<dyn File>>,
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) manifest: bool,
    /// How far streams were written, by their UIDs.
    pub(crate) marks: HashMap<Uuid, (Arc<StreamState>, Mark)>,
    /// Their index is written.
    pub(crate) seals: Vec<Arc<LiveSegment>>,
    /// They say themselves that they are sealed; the manifest says so once that is durable.
    pub(crate) sealed: Vec<Arc<LiveSegment>>,
    pub(crate) latches: Vec<Arc<Latch>>,
    /// Monotonic time of the oldest write in here.
    pub(crate) since_us: Option<u64>,
}

impl Dirty {
    /// A stream was written that far.
    pub(crate) fn mark(&mut self, stream: &Arc<StreamState>, mark: Mark) {
        let earlier = self.marks.get(&stream.ident.uid).map(|(_, mark)| *mark);
        self.marks.insert(stream.ident.uid, (stream.clone(), mark.behind(earlier)));
    }
}

/// Something for the catalogue, in the order of the manifest.
pub(crate) struct Job {
    pub(crate) record: Record,
    pub(crate) position: Position,
    pub(crate) live: Option<Arc<LiveSegment>>,
}

impl Volume {
    /// The volume cannot be written any more. Nothing is retried on it.
    pub(crate) fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        let mut failed = lock(&self.failed);
        if failed.is_none() {
            tracing::error!(dir = %self.dir.display(), volume = %self.uuid, what, %error, "the volume failed; nothing more is written to it");
            *failed = Some(format!("{what}: {error}"));
            self.has_failed.store(true, Ordering::Release);
            self.writing.set();
        }
        drop(failed);
        for signal in [&self.wake_writer, &self.wake_sync, &self.wake_keeper] {
            signal.notify();
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Whether streams may be recorded here.
    pub(crate) fn takes_streams(&self) -> bool {
        !self.has_failed() && !self.is_stalled() && !self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Whether its disk hangs.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Whether nothing on it may be given up.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.stuck).retirement.is_some()
    }

    /// Age of the oldest bytes that a loss of power would take, at `now_us`.
    pub(crate) fn unsynced_us(&self, now_us: u64) -> u64 {
        let dirty = lock(&self.dirty).since_us;
        let since = self.pending.since_us().into_iter().chain(dirty).min();
        since.map_or(0, |since| now_us.saturating_sub(since))
    }

    /// Notices that the disk hangs, or no longer does.
    pub(crate) fn watch(&self, now_us: u64) {
        let age_us = self.unsynced_us(now_us);
        let stalled = self.is_stalled();
        if !stalled && age_us > self.sync_interval_us.saturating_add(STALLED_US) {
            self.stalled.store(true, Ordering::Release);
            tracing::error!(volume = %self.uuid, dir = %self.dir.display(), age_ms = age_us / 1000, "the disk hangs; nothing is given to the volume until it answers");
        } else if stalled && age_us < self.sync_interval_us.saturating_add(AWAKE_US) {
            self.stalled.store(false, Ordering::Release);
            tracing::info!(volume = %self.uuid, dir = %self.dir.display(), "the disk answers again");
        }
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    /// Notes what was written; the next sync covers it.
    pub(crate) fn wrote(&self, note: impl FnOnce(&mut Dirty)) {
        let now = self.env.clock.monotonic_us();
        let mut dirty = lock(&self.dirty);
        dirty.since_us.get_or_insert(now);
        note(&mut dirty);
    }

    /// A segment is begun whose name sorts before that of an older one: a clock was set back. Whoever opens the volume next does not find it among the
    /// newest files. Durable before anything in the segment is.
    pub(crate) fn note_unordered(&self) -> io::Result<()> {
        let mut unordered = lock(&self.unordered);
        if !*unordered {
            self.with_room(|| self.folder.open_or_create(Path::new(names::UNORDERED)))?;
            self.wrote(|dirty| {
                dirty.folders.insert(PathBuf::new());
            });
            *unordered = true;
        }
        Ok(())
    }

    /// All files were looked at, and nothing is unknown any more but what was begun since the volume was opened. `all_known`: the manifest had all of it
    /// already. What was only found now gets there some time later, and must be found again by whoever opens the volume before.
    pub(crate) fn forget_unordered(&self, all_known: bool) {
        let unordered = lock(&self.unordered);
        if *unordered || !all_known {
            return;
        }
        match self.folder.remove(Path::new(names::UNORDERED)) {
            Ok(()) => self.wrote(|dirty| {
                dirty.folders.insert(PathBuf::new());
            }),
            // It could not be told whether it is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // All files are looked at once more.
            Err(error) => tracing::warn!(%error, volume = %self.uuid, "the mark `unordered` cannot be removed"),
        }
    }

    /// Does what needs a little room in the file system: a folder, a record. Where others have filled it, an empty segment file makes room: what
    /// has been formatted records on, whatever else is on its disk.
    pub(crate) fn with_room<T>(&self, mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        /// Whoever fills the disk may be faster.
        const FILES_AT_MOST: usize = 4;
        for _ in 0..FILES_AT_MOST {
            match what() {
                Err(error) if is_full(&error) => {
                    let Some(number) = lock(&self.pool).give_up_one() else { return Err(error) };
                    tracing::warn!(volume = %self.uuid, dir = %self.dir.display(), "the file system is full; an empty segment file makes room");
                    self.folder.remove(&names::numbered(names::POOL, number))?;
                    lock(&self.pool).not_made(number);
                }
                other => return other,
            }
        }
        what()
    }

    /// A file was moved into `retired/`: once that is durable, it may be emptied. Emptied before, a loss of power could leave an empty
    /// file where the manifest, or the folder, still has a segment.
    pub(crate) fn retired(&self, file_number: u64) {
        self.wrote(|dirty| {
            dirty.folders.insert(PathBuf::from(names::RETIRED));
        });
        // Behind all notes: a sync that began later covers them.
        lock(&self.pool).retire(file_number, self.env.clock.monotonic_us());
    }

    /// Empties a file in `retired/` and puts it into the pool: zeroed and synced before anybody can use it. Room is made for what needs it;
    /// a write or sync that fails is not tried again, whatever the reason.
    pub(crate) fn reclaim(&self, file_number: u64) -> io::Result<()> {
        let retired = names::numbered(names::RETIRED, file_number);
        let file = self.folder.open(&retired, true)?;
        pool::clear_head(file.as_ref(), self.segment_bytes)?;
        self.with_room(|| file.zero_range(0, self.segment_bytes))?;
        file.sync()?;
        self.with_room(|| self.folder.rename(&retired, &names::numbered(names::POOL, file_number)))
    }

    /// Another file could be made, or there was no room for it.
    pub(crate) fn note_room(&self, error: Option<&io::Error>) {
        let (total, made, ..) = lock(&self.pool).numbers();
        let why = error.map(|e| format!("no room for all segment files: {made} of {total} exist: {e}"));
        lock(&self.pool).set_full(why.is_some());
        let mut stuck = lock(&self.stuck);
        if let Some(why) = why.as_ref().filter(|_| stuck.room.is_none()) {
            tracing::error!(volume = %self.uuid, dir = %self.dir.display(), why, "the volume gets fewer files than its budget allows");
        }
        stuck.room = why;
    }

    /// A file could be retired where one was wanted, or nothing may be.
    pub(crate) fn note_retirement(&self, why: Option<&str>) {
        let mut stuck = lock(&self.stuck);
        if let Some(why) = why.filter(|_| stuck.retirement.is_none()) {
            tracing::error!(volume = %self.uuid, dir = %self.dir.display(), why, "no file can be made free");
        }
        stuck.retirement = why.map(str::to_owned);
    }

    /// Whether a hold keeps the footage of a stream between two wall times.
    pub(crate) fn is_held(
        &self,
        stream: Uuid,
        first: framekeeper_media::WallTime,
        end: framekeeper_media::WallTime,
    ) -> bool {
        lock(&self.holds).iter().any(|hold| hold.touches(stream, first, end))
    }

    /// Segments of streams that nobody writes any more, neither sealed nor held: they can be sealed and given up.
    pub(crate) fn idle_unheld(&self) -> u64 {
        let streams = lock(&self.streams).clone();
        let idle = streams.iter().filter(|s| !s.is_taken() && s.volume() == Some(self.at));
        let segments = idle.filter_map(|s| {
            let live = self.live_of(s.ident.uid);
            let (first, end) = live.iter().find(|l| l.record().is_none())?.span()?;
            (!self.is_held(s.ident.uid, first, end)).then_some(())
        });
        segments.count() as u64
    }

    /// Whether somebody reads a file, at `now_us`.
    pub(crate) fn is_leased(&self, file_number: u64, now_us: u64) -> bool {
        let mut leases = lock(&self.leases);
        let Some(of_file) = leases.get_mut(&file_number) else { return false };
        of_file.retain(|(_, until)| *until > now_us);
        let leased = !of_file.is_empty();
        if !leased {
            leases.remove(&file_number);
        }
        leased
    }

    /// Asks for the seal of a segment that nothing more comes for, as if the next one began.
    pub(crate) fn ask_for_seal(&self, stream: Uuid) {
        let here = lock(&self.streams).iter().find(|s| s.ident.uid == stream && s.volume() == Some(self.at)).cloned();
        match here {
            Some(stream) => stream.push_seal(),
            None => lock(&self.left).push(stream),
        }
        self.wake_writer.notify();
    }

    /// Whether a reader keeps a file, that was retired at `since_us`, from being emptied at `now_us`.
    pub(crate) fn keeps(&self, file_number: u64, since_us: u64, now_us: u64) -> bool {
        now_us.saturating_sub(since_us) < keeper::LEASE_US && self.is_leased(file_number, now_us)
    }

    /// Live segments of a stream, oldest first.
    pub(crate) fn live_of(&self, stream: Uuid) -> Vec<Arc<LiveSegment>> {
        lock(&self.live).get(&stream).cloned().unwrap_or_default()
    }

    pub(crate) fn add_live(&self, segment: Arc<LiveSegment>) {
        lock(&self.live).entry(segment.fixed.stream.uid).or_default().push(segment);
    }

    pub(crate) fn remove_live(&self, segment: &LiveSegment) {
        let mut live = lock(&self.live);
        if let Some(of_stream) = live.get_mut(&segment.fixed.stream.uid) {
            of_stream.retain(|s| s.fixed.nonce != segment.fixed.nonce);
            if of_stream.is_empty() {
                live.remove(&segment.fixed.stream.uid);
            }
        }
    }

    /// Syncs what the notes name: all in one go where that is right, else one by one.
    pub(crate) fn sync(&self, dirty: &Dirty) -> io::Result<()> {
        if self.folder.sync_all()? {
            return Ok(());
        }
        let files: Vec<_> = dirty.files.values().collect();
        // All on their way first: the disk orders them better than we do.
        files.iter().for_each(|file| file.begin_sync());
        sync_each(&files, self.folder.syncs_at_once())?;
        if dirty.manifest {
            // What waits for it to be opened is noted again then.
            if let Some(manifest) = self.books.file() {
                manifest.sync()?;
            }
        }
        for folder in &dirty.folders {
            match self.folder.sync_folder(folder) {
                // Emptied and removed since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> VolumeStats {
        let now = self.env.clock.monotonic_us();
        let (total, made, free, retired) = lock(&self.pool).numbers();
        let c = &self.counters;
        let seen = lock(&self.seen).clone();
        let (write_batches, write_us, last_write_us) = c.write_times();
        VolumeStats {
            volume: self.uuid,
            dir: self.dir.clone(),
            failed: self.failure(),
            stuck: lock(&self.stuck).why(),
            segment_bytes: self.segment_bytes,
            write_path: Some(self.write_path.clone()),
            files_total: total,
            files_made: made,
            files_free: free,
            files_retired: retired,
            files_held: seen.files.held,
            files_usable: seen.files.usable,
            files_awaited: c.awaited.get(),
            holds: lock(&self.holds).len() as u64,
            outlook: seen.outlook,
            foreign: seen.foreign,
            sync_interval: Duration::from_micros(self.sync_interval_us),
            rotational: self.rotational,
            streams: self.recording.load(Ordering::Relaxed) as u64,
            waiting_records: lock(&self.jobs).len() as u64,
            catalogue_complete: self.catalogue_complete.load(Ordering::Acquire),
            opens: lock(&self.identity).opens,
            catalogue_progress: *lock(&self.progress),
            bytes: c.bytes.get(),
            writes: c.writes.get(),
            write_batches,
            write_us,
            last_write_us,
            fragments: c.fragments.get(),
            syncs: c.syncs.get(),
            sync_us: c.sync_us.get(),
            last_sync_us: c.last_sync_us.get(),
            sync_buckets: c.buckets(),
            unsynced_us: self.unsynced_us(now),
            stalled: self.is_stalled(),
            draining: self.draining.load(Ordering::Acquire),
            sealed: c.sealed.get(),
            retired: c.retired.get(),
            oldest: *lock(&self.oldest),
            damage: self.rot.summary(),
            scrub: self.scrubbed(),
        }
    }
}

/// Whether there was no room in the file system.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Syncs files, some at the same time.
fn sync_each(files: &[&Arc<dyn File>], at_once: usize) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let some = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            file.sync()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others = 1..at_once.min(files.len());
        let others: Vec<_> = others.map(|_| scope.spawn(some)).collect();
        let own = some();
        let results = others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))));
        results.fold(own, io::Result::and)
    })
}

/// A folder and those above it, down from the volume's own.
pub(crate) fn folder_and_above(folder: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    folder.ancestors().map(Path::to_path_buf)
}
