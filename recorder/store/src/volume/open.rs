//! Opening a volume: identity, lock, what a crash left, and enough empty files to begin.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::books::Books;
use super::signal::Signal;
use super::unit::free_header;
use super::writer::{Active, Slot};
use super::{Dirty, Pending, Volume, is_full, newest, parallel, pool};
use crate::catalogue::Catalogue;
use crate::env::{Batch, Env, File, Folder, WritePath, WritesWanted, read_exact, write_all};
use crate::error::OpenError;
use crate::identity::{Expected, SEGMENT_NUMBER_BITS};
use crate::lock;
use crate::names;
use crate::segment::live::{Fixed, LiveSegment};
use crate::segment::place::Placer;
use crate::segment::sealed::sealed_record;
use crate::segment::walk::{self, Head, HeadError, Walked};
use crate::stats::VolumeCounters;
use crate::stream::Latch;
use crate::types::{PreviousRun, StoreConfig, StreamIdent, VolumeConfig};

/// A segment is not smaller: there must be room for some GOPs.
const SEGMENT_BYTES_AT_LEAST: u64 = 1 << 20;
/// Offsets and lengths are 32-bit in places.
const SEGMENT_BYTES_AT_MOST: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 4096;
/// One to write, one free, and some to read.
const FILES_AT_LEAST: u64 = 4;
/// What the manifest and the catalogue take for each segment, with room to spare.
pub(crate) const BOOKKEEPING_BYTES_A_FILE: u64 = 4096;
/// Files made before recording may begin, at most; the keeper makes the rest.
const FIRST_FILES: u64 = 16;

/// What is left to do once recording has begun.
pub(crate) struct Later {
    pub(crate) closed_in_order: bool,
    /// Segments may be anywhere among the files of their streams.
    pub(crate) unordered: bool,
    /// Newest files that there was no time to look at.
    pub(crate) unread: Vec<PathBuf>,
    /// Files in `streams/`: so many the pool took for granted, and so many of them were found unsealed.
    pub(crate) counted: u64,
    pub(crate) unsealed: u64,
}

/// A volume that is ready to be written.
pub(crate) struct Opened {
    pub(crate) volume: Arc<Volume>,
    pub(crate) slots: HashMap<Uuid, Slot>,
    pub(crate) streams: Vec<(StreamIdent, Option<PreviousRun>)>,
    pub(crate) later: Later,
    pub(crate) batch: Box<dyn Batch>,
}

/// Checks what was configured.
fn check(config: &VolumeConfig) -> Result<(), OpenError> {
    let bad = |field, value: u64, expected: String| OpenError::Config { field, value: value.to_string(), expected };
    let bytes = config.segment_bytes;
    if !(SEGMENT_BYTES_AT_LEAST..=SEGMENT_BYTES_AT_MOST).contains(&bytes) || !bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(bad(
            "segment bytes",
            bytes,
            format!("expected a multiple of {BLOCK_BYTES} from {SEGMENT_BYTES_AT_LEAST} to {SEGMENT_BYTES_AT_MOST}"),
        ));
    }
    if config.budget_bytes / bytes < FILES_AT_LEAST {
        let least = FILES_AT_LEAST * bytes;
        return Err(bad(
            "budget bytes",
            config.budget_bytes,
            format!("expected at least {least}: {FILES_AT_LEAST} segments of {bytes} bytes"),
        ));
    }
    Ok(())
}

/// Opens a volume for writing. Only what recording needs is done here: manifest and catalogue are left for later, because they take as long as
/// the volume is big. From `until_us` on (monotonic) segments are not walked any more.
pub(crate) fn open(
    at: usize,
    store: &StoreConfig,
    config: &VolumeConfig,
    env: &Env,
    until_us: u64,
) -> Result<Opened, OpenError> {
    check(config)?;
    let dir = &config.dir;
    let io = |what: &'static str| {
        move |source: io::Error| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                OpenError::ReadOnly { dir: dir.clone(), source }
            }
            _ => OpenError::Io { dir: dir.clone(), what: what.to_owned(), source },
        }
    };
    let folder = env.disk.open(dir).map_err(io("open the volume's folder"))?;
    let expected = Expected {
        dir,
        pool: &store.pool,
        recorder: &store.recorder,
        volume: config.uuid,
        segment_bytes: config.segment_bytes,
        known_opens: &store.known_opens,
    };
    let total = config.budget_bytes / config.segment_bytes;
    // Looked at before the lock, which writes a file; and again behind it.
    if expected.read(folder.as_ref())?.is_none() {
        let free_bytes = folder.space().map_err(io("ask for free space"))?.free_bytes;
        enough_room(config, total, free_bytes)?;
    }
    let lock_guard = expected.lock(folder.as_ref())?;
    let mut identity = match expected.read(folder.as_ref())? {
        Some(identity) => identity,
        None => {
            // Before anything else: formatting that is cut short behind this goes on when the volume is opened again.
            let fresh = expected.fresh(env.random.uuid(), env.clock.wall());
            expected.write(folder.as_ref(), &fresh)?;
            fresh
        }
    };
    let closed_in_order = identity.closed;
    let unordered = match folder.open(Path::new(names::UNORDERED), false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        // Where that cannot be told they may be.
        _ => true,
    };
    for name in [names::POOL, names::RETIRED, names::STREAMS] {
        folder.make_folders(Path::new(name)).map_err(io("make folders"))?;
    }

    let mut ready = pool::list(folder.as_ref(), names::POOL).map_err(io("list pool/"))?;
    let retired = pool::list(folder.as_ref(), names::RETIRED).map_err(io("list retired/"))?;
    let newest = newest::files(folder.as_ref()).map_err(io("list streams/"))?;
    // Counting files takes as long as there are many. Until that is done none is made but where it is sure that they are missing.
    let empty = (ready.len() + retired.len()) as u64;
    let counted = match identity.made.filter(|_| closed_in_order) {
        _ if newest.is_empty() => 0,
        Some(made) => made.saturating_sub(empty),
        None => total.saturating_sub(empty),
    };
    let mut made = empty + counted;

    // Numbers are given out for all files that may be made while the volume is open, so that no crash gives one twice.
    let highest = ready.iter().chain(&retired).copied().max().unwrap_or(0).max(identity.files);
    identity.files = highest + total.saturating_sub(empty);
    identity.opens += 1;
    identity.closed = false;
    identity.made = None;
    if let Err(error) = expected.write(folder.as_ref(), &identity) {
        // As in `Volume::with_room`: others have filled the file system.
        let full = matches!(&error, OpenError::Io { source, .. } if is_full(source));
        let Some(number) = ready.pop().filter(|_| full) else { return Err(error) };
        folder.remove(&names::numbered(names::POOL, number)).map_err(io("make room"))?;
        made -= 1;
        expected.write(folder.as_ref(), &identity)?;
    }
    store.known_opens.opened(&identity);

    let batch = batch(folder.as_ref(), store.writes, config.segment_bytes).map_err(io("write past the page cache"))?;
    let write_path = batch.path();
    match &write_path {
        WritePath::Direct => tracing::info!(dir = %dir.display(), "segments are written past the page cache"),
        WritePath::Buffered { reason } => {
            tracing::info!(dir = %dir.display(), reason, "segments are written through the page cache");
        }
    }
    // Nothing is in it before the keeper has found the one on the volume.
    let catalogue =
        Catalogue::in_memory().map_err(|e| io("make a catalogue in memory")(io::Error::other(e.to_string())))?;
    let rotational = folder.is_rotational();
    let sync_interval = store.sync_interval_on(rotational);
    tracing::info!(dir = %dir.display(), ?sync_interval, ?rotational, by_disk = store.sync_interval.is_none(), "how often is synced");
    let sync_interval_us = u64::try_from(sync_interval.as_micros()).unwrap_or(u64::MAX);
    let first_segment_number = identity.opens << SEGMENT_NUMBER_BITS;
    let volume = Arc::new(Volume {
        at,
        uuid: identity.volume,
        dir: dir.clone(),
        folder,
        env: env.clone(),
        segment_bytes: config.segment_bytes,
        first_segment_number,
        unordered: Mutex::default(),
        write_path,
        writing: batch.interrupt(),
        recorder_uid: store.recorder_uid,
        pool: Mutex::new(pool::Pool::new(ready, made, total, highest + 1..identity.files + 1)),
        identity: Mutex::new(identity),
        catalogue: RwLock::new(catalogue),
        catalogue_replayed: AtomicBool::new(false),
        catalogue_complete: AtomicBool::new(false),
        caught_up: Latch::default(),
        progress: Mutex::default(),
        books: Books::default(),
        live: Mutex::default(),
        dirty: Mutex::new(Dirty::default()),
        jobs: Mutex::default(),
        holds: Mutex::default(),
        oldest: Mutex::default(),
        coming: AtomicUsize::new(0),
        doomed: Mutex::default(),
        rot: super::rot::Rot::default(),
        scrub: super::scrub::ScrubCounters::default(),
        retiring: Mutex::default(),
        leases: Mutex::default(),
        folders: Mutex::default(),
        streams: Mutex::default(),
        recording: AtomicUsize::new(0),
        counters: VolumeCounters::default(),
        stuck: Mutex::default(),
        files_ahead: AtomicU64::new(0),
        seen: Mutex::default(),
        sync_interval_us,
        rotational,
        pending: Pending::default(),
        left: Mutex::default(),
        draining: AtomicBool::new(false),
        stalled: AtomicBool::new(false),
        failed: Mutex::default(),
        has_failed: AtomicBool::new(false),
        starving: AtomicBool::new(false),
        wake_writer: Signal::default(),
        wake_sync: Signal::default(),
        wake_keeper: Signal::default(),
        wake_scrub: Signal::default(),
        synced_us: AtomicU64::new(0),
        _lock: lock_guard,
    });
    if !closed_in_order {
        lock(&volume.pool).doubt();
    }
    let retired_before = retired.len() as u64;
    for number in retired {
        volume.retired(number);
    }
    let Recovered { slots, streams, unread } =
        recover(&volume, &newest, closed_in_order, until_us).map_err(io("recover segments"))?;
    let given_back = lock(&volume.pool).numbers().3 - retired_before;
    let unsealed = lock(&volume.live).values().map(|l| l.len() as u64).sum::<u64>() + given_back;
    first_files(&volume).map_err(io("make segment files"))?;
    Ok(Opened { volume, slots, streams, later: Later { closed_in_order, unordered, unread, counted, unsealed }, batch })
}

/// Whether a folder that is to be formatted has room for all files.
fn enough_room(config: &VolumeConfig, total: u64, free_bytes: u64) -> Result<(), OpenError> {
    let needed_bytes = total.saturating_mul(config.segment_bytes.saturating_add(BOOKKEEPING_BYTES_A_FILE));
    if needed_bytes <= free_bytes {
        return Ok(());
    }
    Err(OpenError::NoSpace {
        dir: config.dir.clone(),
        have: 0,
        want: total,
        segment_bytes: config.segment_bytes,
        free_bytes,
        needed_bytes,
    })
}

/// What segment files are written with.
fn batch(folder: &dyn Folder, wanted: WritesWanted, segment_bytes: u64) -> io::Result<Box<dyn Batch>> {
    let batch = folder.batch(wanted)?;
    let block_bytes = batch.block_bytes();
    if segment_bytes.is_multiple_of(block_bytes as u64) {
        return Ok(batch);
    }
    match wanted {
        WritesWanted::Auto => folder.batch(WritesWanted::Buffered),
        WritesWanted::Direct | WritesWanted::Buffered => {
            let what = format!("segments of {segment_bytes} bytes are not whole blocks of {block_bytes}");
            Err(io::Error::new(io::ErrorKind::Unsupported, what))
        }
    }
}

fn first_files(volume: &Volume) -> io::Result<()> {
    while lock(&volume.pool).numbers().2 < FIRST_FILES {
        let number = lock(&volume.pool).next_new();
        let Some(number) = number else { break };
        match pool::make(volume.folder.as_ref(), number, volume.segment_bytes) {
            Ok(_) => lock(&volume.pool).give(number),
            Err(e) if is_full(&e) => {
                // The keeper counts better, and says so when there really is no room.
                lock(&volume.pool).not_made(number);
                break;
            }
            Err(e) => return Err(e),
        }
    }
    volume.wrote(|dirty| {
        dirty.folders.insert(PathBuf::from(names::POOL));
    });
    Ok(())
}

struct Candidate {
    path: PathBuf,
    file: Arc<dyn File>,
    head: Head,
}

/// What a stream's newest segment tells.
enum Found {
    /// It is filled on.
    Unsealed(Box<Active>, Option<PreviousRun>),
    /// The next one follows it.
    Other(Option<PreviousRun>),
    /// There was no time to look: the keeper will.
    Unknown,
}

struct Recovered {
    slots: HashMap<Uuid, Slot>,
    streams: Vec<(StreamIdent, Option<PreviousRun>)>,
    /// There was no time to look at them.
    unread: Vec<PathBuf>,
}

/// Looks at the newest segment of each stream; those that are unsealed are walked, as many as the time allows.
fn recover(volume: &Arc<Volume>, newest: &[PathBuf], closed_in_order: bool, until_us: u64) -> io::Result<Recovered> {
    let mut by_stream: HashMap<Uuid, Candidate> = HashMap::new();
    let mut latest: HashMap<Uuid, WallTime> = HashMap::new();
    for candidate in parallel::each(newest, |path| candidate(volume, path))?.into_iter().flatten() {
        let segment = &candidate.head.segment;
        let first = latest.entry(segment.stream).or_insert(segment.first_wall);
        *first = segment.first_wall.max(*first);
        let known = by_stream.get(&segment.stream).map(|c| c.head.segment.segment_number);
        if known.is_none_or(|number| number < segment.segment_number) {
            by_stream.insert(segment.stream, candidate);
        }
    }
    let mut candidates: Vec<Candidate> = by_stream.into_values().collect();
    candidates.sort_by(|a, b| a.path.cmp(&b.path));
    let late = || volume.env.clock.monotonic_us() >= until_us;
    let found = parallel::each(&candidates, |candidate| look(volume, candidate, closed_in_order, &late))?;
    let mut recovered = Recovered { slots: HashMap::new(), streams: Vec::new(), unread: Vec::new() };
    for (Candidate { path, head, .. }, found) in candidates.into_iter().zip(found) {
        let next_number = head.segment.segment_number + 1;
        let latest_first = latest.get(&head.segment.stream).copied().unwrap_or(head.segment.first_wall);
        let (slot, previous) = match found {
            Found::Unsealed(active, previous) => (Slot::resume(next_number, latest_first, Some(*active)), previous),
            Found::Other(previous) => (Slot::resume(next_number, latest_first, None), previous),
            Found::Unknown => {
                recovered.unread.push(path);
                let unknown = PreviousRun { run: Uuid::nil(), end: WallTime(0), in_order: closed_in_order };
                (Slot::resume(next_number, latest_first, None), Some(unknown))
            }
        };
        let ident = ident(&head);
        recovered.slots.insert(ident.uid, slot);
        recovered.streams.push((ident, previous));
    }
    if !recovered.unread.is_empty() {
        let (streams, dir) = (recovered.unread.len(), volume.dir.display());
        tracing::warn!(%dir, streams, "there was no time to look at the newest segments of some streams: they are recorded to fresh files");
    }
    Ok(recovered)
}

fn candidate(volume: &Volume, path: &Path) -> io::Result<Option<Candidate>> {
    let file = match volume.folder.open(path, true) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(path = %path.display(), "a file among the segments cannot be opened, and is left alone");
            return Ok(None);
        }
        other => other?,
    };
    match walk::head(file.as_ref()) {
        Ok(head) => Ok(Some(Candidate { path: path.to_owned(), file, head })),
        Err(HeadError::Io(e)) => Err(e),
        Err(HeadError::NotOurs(reason)) => {
            tracing::warn!(path = %path.display(), reason, "a file among the segments is none, and is left alone");
            Ok(None)
        }
    }
}

fn look(
    volume: &Arc<Volume>,
    candidate: &Candidate,
    closed_in_order: bool,
    late: &(dyn Fn() -> bool + Sync),
) -> io::Result<Found> {
    let Candidate { path, file, head } = candidate;
    if late() {
        return Ok(Found::Unknown);
    }
    if let Some(record) = sealed_record(file.as_ref(), head, path)? {
        let last = record.runs.last();
        return Ok(Found::Other(last.map(|r| PreviousRun { run: r.run, end: r.end, in_order: closed_in_order })));
    }
    let Some(walked) = walk::fragments_in_time(file.as_ref(), head, late)? else { return Ok(Found::Unknown) };
    let Some((live, placer)) = recovered(volume, path, file.clone(), head.clone(), walked)? else {
        return Ok(Found::Other(None));
    };
    volume.add_live(live.clone());
    let end = live.with_index(|index| index.run_end());
    let previous = end.map(|end| PreviousRun { run: end.run, end: end.end, in_order: closed_in_order });
    Ok(Found::Unsealed(Box::new(Active::resume(live, placer)), previous))
}

fn ident(head: &Head) -> StreamIdent {
    let (namespace, name) = head.segment.stream_name.split_once('/').unwrap_or(("", &head.segment.stream_name));
    StreamIdent { uid: head.segment.stream, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Ends an unsealed segment that was walked behind its last fragment that checks. `None` when there is no fragment: then the file is
/// given back.
pub(crate) fn recovered(
    volume: &Volume,
    path: &Path,
    file: Arc<dyn File>,
    head: Head,
    walked: Walked,
) -> io::Result<Option<(Arc<LiveSegment>, Placer)>> {
    let segment = &head.segment;
    if walked.found.first().is_none() {
        let retired = names::numbered(names::RETIRED, segment.file_number);
        volume.with_room(|| volume.folder.rename(path, &retired))?;
        volume.retired(segment.file_number);
        return Ok(None);
    }
    let rest = segment.file_size.saturating_sub(walked.end);
    if rest >= 8 {
        let mut there = [0; 8];
        read_exact(file.as_ref(), &mut there, walked.end)?;
        let free = free_header(rest);
        if there != free {
            write_all(file.as_ref(), &free, walked.end)?;
            volume.wrote(|dirty| {
                dirty.files.insert(segment.file_number, file.clone());
            });
        }
    }
    let head_end = segment.offset + framekeeper_media::boxes::segment::SEGMENT_BOX_LENGTH as u64;
    let placer = Placer::new(segment.nonce, segment.file_size, segment.audio_timescale, head_end).resume(
        walked.end,
        walked.sequence,
        walked.times,
        &walked.found,
    );
    let fixed = Fixed {
        volume: volume.uuid,
        stream: ident(&head),
        path: path.to_owned(),
        file,
        file_number: segment.file_number,
        file_bytes: segment.file_size,
        nonce: segment.nonce,
        number: segment.segment_number,
        audio_timescale: segment.audio_timescale,
        box_offset: segment.offset,
        init: Arc::new(head.init),
    };
    Ok(Some((Arc::new(LiveSegment::new(fixed, walked.found, walked.end)), placer)))
}
