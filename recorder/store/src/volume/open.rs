//! Opening a volume: identity, lock, what a crash left, and enough empty files to begin.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::keeper::day_folders;
use super::signal::Signal;
use super::unit::free_header;
use super::writer::{Active, Slot};
use super::{Dirty, Pending, Volume, pool};
use crate::catalogue::Catalogue;
use crate::env::{Batch, Env, File, Folder, WritePath, WritesWanted, read_exact, write_all};
use crate::error::OpenError;
use crate::identity::Expected;
use crate::lock;
use crate::manifest_log::{ManifestLog, Position};
use crate::names;
use crate::segment::live::{Fixed, LiveSegment};
use crate::segment::place::Placer;
use crate::segment::sealed::sealed_record;
use crate::segment::walk::{self, Head, HeadError};
use crate::stats::VolumeCounters;
use crate::types::{PreviousRun, StoreConfig, StreamIdent, VolumeConfig};

/// A segment is not smaller: there must be room for some GOPs.
const SEGMENT_BYTES_AT_LEAST: u64 = 1 << 20;
/// Offsets and lengths are 32-bit in places.
const SEGMENT_BYTES_AT_MOST: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 4096;
/// One to write, one free, and some to read.
const FILES_AT_LEAST: u64 = 4;
/// What the manifest and the catalogue take for each segment, with room to spare.
const BOOKKEEPING_BYTES_A_FILE: u64 = 4096;
/// Files made before recording may begin, at most; the keeper makes the rest.
const FIRST_FILES: u64 = 16;

/// What is left to do once recording has begun.
pub(crate) struct Later {
    pub(crate) replay_from: Position,
    pub(crate) replay_to: Position,
    pub(crate) scan: Option<Newest>,
    /// Files with footage, as far as they could be counted so soon, and those of them that are not sealed.
    pub(crate) counted: u64,
    pub(crate) unsealed: u64,
}

/// Which files of each stream are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub(crate) days: usize,
    pub(crate) files: usize,
}

const ALL: Newest = Newest { days: usize::MAX, files: usize::MAX };
/// After a crash: what was sealed in the last seconds, when the manifest may have lost its end.
const LATELY: Newest = Newest { days: 2, files: 4 };

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

/// Opens a volume for writing.
pub(crate) fn open(at: usize, store: &StoreConfig, config: &VolumeConfig, env: &Env) -> Result<Opened, OpenError> {
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
    };
    // Looked at before the lock, which writes a file; and again behind it.
    expected.read(folder.as_ref())?;
    let lock_guard = expected.lock(folder.as_ref())?;
    let found = expected.read(folder.as_ref())?;
    let mut identity = found.unwrap_or_else(|| expected.fresh(env.random.uuid(), env.clock.wall()));
    let closed_in_order = identity.closed;
    for name in [names::POOL, names::RETIRED, names::STREAMS] {
        folder.make_folders(Path::new(name)).map_err(io("make folders"))?;
    }

    let known =
        Catalogue::open(folder.as_ref()).map_err(|e| io("open the catalogue")(io::Error::other(e.to_string())))?;
    let (manifest, replay_from) =
        ManifestLog::open(folder.clone(), known.position, env.random.u64()).map_err(io("open manifest.log"))?;
    let replay_to = manifest.end();
    if replay_from.offset <= crate::manifest::HEADER_BYTES {
        known.catalogue.clear().map_err(|e| io("clear the catalogue")(io::Error::other(e.to_string())))?;
    }
    let scanned = known.scanned && replay_from.offset > crate::manifest::HEADER_BYTES;
    let holds = known.catalogue.view().and_then(|view| view.holds()).unwrap_or_default();
    let sealed_files = known.catalogue.view().and_then(|view| view.count()).unwrap_or(0);

    let ready = pool::list(folder.as_ref(), names::POOL).map_err(io("list pool/"))?;
    let retired = pool::list(folder.as_ref(), names::RETIRED).map_err(io("list retired/"))?;
    let newest = newest_files(folder.as_ref()).map_err(io("list streams/"))?;
    let in_use = if scanned {
        sealed_files + newest.len().div_ceil(2) as u64
    } else {
        count_files(folder.as_ref()).map_err(io("list streams/"))?
    };
    let total = config.budget_bytes / config.segment_bytes;
    let made = ready.len() as u64 + retired.len() as u64 + in_use;
    let missing_bytes = total.saturating_sub(made).saturating_mul(config.segment_bytes);
    let needed_bytes = missing_bytes.saturating_add(total.saturating_mul(BOOKKEEPING_BYTES_A_FILE));
    let free_bytes = folder.space().map_err(io("ask for free space"))?.free_bytes;
    // After a crash the catalogue lacks the last minute's segments: files that are there would be taken for missing.
    let counted_well = closed_in_order || !scanned;
    if needed_bytes > free_bytes && counted_well {
        return Err(OpenError::NoSpace {
            dir: dir.clone(),
            have: made,
            want: total,
            segment_bytes: config.segment_bytes,
            free_bytes,
            needed_bytes,
        });
    }

    // Numbers are given out for all files that may be made while the volume is open, so that no crash gives one twice.
    let highest = ready.iter().chain(&retired).copied().max().unwrap_or(0).max(identity.files);
    identity.files = highest + total.saturating_sub(made) + newest.len() as u64;
    identity.opens += 1;
    identity.closed = false;
    expected.write(folder.as_ref(), &identity)?;

    let batch = batch(folder.as_ref(), store.writes, config.segment_bytes).map_err(io("write past the page cache"))?;
    let write_path = batch.path();
    match &write_path {
        WritePath::Direct => tracing::info!(dir = %dir.display(), "segments are written past the page cache"),
        WritePath::Buffered { reason } => {
            tracing::info!(dir = %dir.display(), reason, "segments are written through the page cache");
        }
    }
    let sync_interval_us = u64::try_from(store.sync_interval.as_micros()).unwrap_or(u64::MAX);
    let volume = Arc::new(Volume {
        at,
        uuid: identity.volume,
        dir: dir.clone(),
        folder,
        env: env.clone(),
        segment_bytes: config.segment_bytes,
        write_path,
        writing: batch.interrupt(),
        recorder_uid: store.recorder_uid,
        pool: Mutex::new(pool::Pool::new(ready, made, total, highest + 1..identity.files + 1)),
        identity: Mutex::new(identity),
        catalogue: RwLock::new(known.catalogue),
        catalogue_complete: AtomicBool::new(false),
        manifest: Mutex::new(manifest),
        live: Mutex::default(),
        dirty: Mutex::new(Dirty::default()),
        jobs: Mutex::default(),
        holds: Mutex::new(holds),
        leases: Mutex::default(),
        folders: Mutex::default(),
        streams: Mutex::default(),
        recording: AtomicUsize::new(0),
        counters: VolumeCounters::default(),
        stuck: Mutex::default(),
        sync_interval_us,
        pending: Pending::default(),
        left: Mutex::default(),
        draining: AtomicBool::new(false),
        stalled: AtomicBool::new(false),
        failed: Mutex::default(),
        has_failed: AtomicBool::new(false),
        wake_writer: Signal::default(),
        wake_sync: Signal::default(),
        wake_keeper: Signal::default(),
        synced_us: AtomicU64::new(0),
        _lock: lock_guard,
    });
    for number in retired {
        volume.retired(number);
    }
    let deadline_us =
        env.clock.monotonic_us().saturating_add(u64::try_from(store.recovery_budget.as_micros()).unwrap_or(u64::MAX));
    let (slots, streams) = recover(&volume, &newest, closed_in_order, deadline_us).map_err(io("recover segments"))?;
    let unsealed = lock(&volume.live).values().map(|l| l.len() as u64).sum::<u64>();
    let counted = if scanned {
        // Now it is known which of the newest files the catalogue lacks.
        let mut pool = lock(&volume.pool);
        let (_, _, free, retired) = pool.numbers();
        pool.set_made(free + retired + sealed_files + unsealed);
        sealed_files + unsealed
    } else {
        in_use
    };
    first_files(&volume).map_err(io("make segment files"))?;
    let scan = if !scanned {
        Some(ALL)
    } else if closed_in_order {
        None
    } else {
        Some(LATELY)
    };
    Ok(Opened { volume, slots, streams, later: Later { replay_from, replay_to, scan, counted, unsealed }, batch })
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
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // The keeper counts better, and says so when there really is no room.
                lock(&volume.pool).not_made();
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

/// The newest two files of each stream, by name.
fn newest_files(folder: &dyn crate::env::Folder) -> io::Result<Vec<PathBuf>> {
    let mut newest = Vec::new();
    for day in day_folders(folder, 1)? {
        let entries = folder.list(&day)?;
        let files: Vec<_> = entries.iter().filter(|e| !e.folder && e.name.ends_with(".mp4")).collect();
        newest.extend(files.iter().rev().take(2).map(|e| day.join(&e.name)));
    }
    Ok(newest)
}

fn count_files(folder: &dyn crate::env::Folder) -> io::Result<u64> {
    let mut count = 0;
    for day in day_folders(folder, usize::MAX)? {
        count += folder.list(&day)?.iter().filter(|e| !e.folder && e.name.ends_with(".mp4")).count() as u64;
    }
    Ok(count)
}

struct Candidate {
    path: PathBuf,
    file: Arc<dyn File>,
    head: Head,
}

/// What a stream's newest segment tells.
enum Found {
    /// It is filled on.
    Unsealed(Box<Slot>, Option<PreviousRun>),
    /// The next one follows it.
    Other(Option<PreviousRun>),
    /// There was no time to look: the keeper will.
    Unknown,
}

type Recovered = (HashMap<Uuid, Slot>, Vec<(StreamIdent, Option<PreviousRun>)>);

/// Looks at the newest segment of each stream; those that are unsealed are walked, as many as the time allows.
fn recover(volume: &Arc<Volume>, newest: &[PathBuf], closed_in_order: bool, deadline_us: u64) -> io::Result<Recovered> {
    let mut by_stream: HashMap<Uuid, Candidate> = HashMap::new();
    for path in newest {
        let file = match volume.folder.open(path, true) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %path.display(), "a file among the segments cannot be opened, and is left alone");
                continue;
            }
            other => other?,
        };
        let head = match walk::head(file.as_ref()) {
            Ok(head) => head,
            Err(HeadError::Io(e)) => return Err(e),
            Err(HeadError::NotOurs(reason)) => {
                tracing::warn!(path = %path.display(), reason, "a file among the segments is none, and is left alone");
                continue;
            }
        };
        let known = by_stream.get(&head.segment.stream).map(|c| c.head.segment.segment_number);
        if known.is_none_or(|number| number < head.segment.segment_number) {
            by_stream.insert(head.segment.stream, Candidate { path: path.clone(), file, head });
        }
    }
    let candidates: Vec<Candidate> = by_stream.into_values().collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(candidates.len()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4).min(candidates.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let late = volume.env.clock.monotonic_us() >= deadline_us;
                    let found = look(volume, candidate, closed_in_order, late);
                    lock(&results).push((ident(&candidate.head), candidate.head.segment.segment_number, found));
                }
            });
        }
    });
    let mut slots = HashMap::new();
    let mut streams = Vec::new();
    for (ident, number, found) in results.into_inner().unwrap_or_default() {
        let (slot, previous) = match found? {
            Found::Unsealed(slot, previous) => (*slot, previous),
            Found::Other(previous) => (Slot::resume(number + 1, None), previous),
            Found::Unknown => {
                let unknown = PreviousRun { run: Uuid::nil(), end: WallTime(0), in_order: closed_in_order };
                (Slot::resume(number + 1, None), Some(unknown))
            }
        };
        slots.insert(ident.uid, slot);
        streams.push((ident, previous));
    }
    Ok((slots, streams))
}

fn look(volume: &Arc<Volume>, candidate: &Candidate, closed_in_order: bool, late: bool) -> io::Result<Found> {
    let Candidate { path, file, head } = candidate;
    if let Some(record) = sealed_record(file.as_ref(), head, path)? {
        let last = record.runs.last();
        return Ok(Found::Other(last.map(|r| PreviousRun { run: r.run, end: r.end, in_order: closed_in_order })));
    }
    if late {
        return Ok(Found::Unknown);
    }
    let Some((live, placer)) = recovered(volume, path, file.clone(), head.clone())? else {
        return Ok(Found::Other(None));
    };
    volume.add_live(live.clone());
    let end = live.with_index(|index| index.run_end());
    let previous = end.map(|end| PreviousRun { run: end.run, end: end.end, in_order: closed_in_order });
    let number = head.segment.segment_number;
    let slot = Slot::resume(number + 1, Some(Active::resume(live, placer)));
    Ok(Found::Unsealed(Box::new(slot), previous))
}

fn ident(head: &Head) -> StreamIdent {
    let (namespace, name) = head.segment.stream_name.split_once('/').unwrap_or(("", &head.segment.stream_name));
    StreamIdent { uid: head.segment.stream, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Walks an unsealed segment and ends it behind its last fragment that checks. `None` when there is no fragment: then the file is
/// given back.
pub(crate) fn recovered(
    volume: &Volume,
    path: &Path,
    file: Arc<dyn File>,
    head: Head,
) -> io::Result<Option<(Arc<LiveSegment>, Placer)>> {
    let walked = walk::fragments(file.as_ref(), &head)?;
    let segment = &head.segment;
    if walked.found.first().is_none() {
        volume.folder.rename(path, &names::numbered(names::RETIRED, segment.file_number))?;
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
