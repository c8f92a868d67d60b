//! What opening a volume left for later, a slice a round, so that files are retired and made meanwhile:
//!
//! ```text
//! open      catalogue (checked as a whole) and manifest
//! replay    what of the manifest the catalogue lacks           from then on the catalogue gets what is new
//! folders   files that neither knows: of all days where the catalogue was built anew, else lately sealed ones
//! files     their heads and indexes, oldest first, some at the same time
//! missing   segments that are listed and have no file any more
//! ```

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Keeper;
use super::look::Seen;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::identity;
use crate::lock;
use crate::manifest::{HEADER_BYTES, Record, SealedSegment};
use crate::manifest_log::{self, ManifestLog, OpenedLog, Position};
use crate::stats::{CatalogueProgress, CatalogueStage};
use crate::types::Hold;
use crate::volume::open::Later;
use crate::volume::{newest, parallel};

/// After a crash: what of a stream was sealed in the last seconds, when the manifest may have lost its end. Where the oldest of these is not
/// known either, as many more are looked at, until one is.
const LATELY: usize = 4;
/// Streams whose folders are looked through in a round.
const FOLDERS_A_ROUND: usize = 64;
/// Files that are read in a round.
const FILES_A_ROUND: usize = 256;
/// Progress is logged this often.
const LOG_US: u64 = 5_000_000;

/// What is left to do.
pub(super) struct CatchUp {
    later: Later,
    stage: Stage,
    began_us: u64,
    logged_us: u64,
    /// All files are looked for, and not only the newest.
    all: bool,
    /// The pool waits for the count of files.
    recounts: bool,
    /// Segments in files that there were when the volume was opened.
    sealed: u64,
    found: u64,
    missing: u64,
}

enum Stage {
    /// `in_memory`: the one on the volume failed.
    Open {
        in_memory: bool,
    },
    Replay {
        generation: u64,
        at: u64,
        to: u64,
    },
    Folders {
        streams: Vec<PathBuf>,
        next: usize,
        listed: Listed,
    },
    Files {
        unknown: Vec<PathBuf>,
        next: usize,
        listed: Listed,
    },
    Missing {
        listed: Listed,
    },
    Done,
}

/// Paths of all files that were found, as hashes: a million take 8 MB.
#[derive(Default)]
struct Listed {
    /// In the catalogue.
    known: Vec<u64>,
    found: Vec<u64>,
    unknown: Vec<PathBuf>,
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

impl CatchUp {
    pub(super) fn new(later: Later, now_us: u64) -> Self {
        let stage = Stage::Open { in_memory: false };
        Self {
            later,
            stage,
            began_us: now_us,
            logged_us: now_us,
            all: false,
            recounts: true,
            sealed: 0,
            found: 0,
            missing: 0,
        }
    }

    /// The catalogue failed: all of it again, in memory. Where that came before the first time was over, its pool is counted now.
    pub(super) fn again(before: Option<Self>, now_us: u64) -> Self {
        let stage = Stage::Open { in_memory: true };
        match before {
            Some(before) => Self { stage, all: true, sealed: 0, found: 0, missing: 0, ..before },
            None => {
                let later =
                    Later { closed_in_order: false, unordered: false, unread: Vec::new(), counted: 0, unsealed: 0 };
                Self { stage, recounts: false, ..Self::new(later, now_us) }
            }
        }
    }

    /// Whether a segment may be given up although not everything is known: nothing older can turn up.
    pub(super) fn may_retire(&self, segment: &SealedSegment, no_file: bool) -> bool {
        match &self.stage {
            // In the order of sealing, so nearly in that of age; only where recording would have to stop.
            Stage::Replay { .. } => no_file,
            Stage::Files { unknown, next, .. } => {
                let oldest = unknown.get(*next).and_then(|path| path.file_name());
                oldest.is_none_or(|oldest| Path::new(&segment.path).file_name().is_some_and(|name| name <= oldest))
            }
            Stage::Missing { .. } | Stage::Done => true,
            Stage::Open { .. } | Stage::Folders { .. } => false,
        }
    }

    fn progress(&self, end: u64) -> CatalogueProgress {
        let (stage, done, of) = match &self.stage {
            Stage::Open { .. } => (CatalogueStage::Opening, 0, 0),
            Stage::Replay { at, to, .. } => (CatalogueStage::Manifest, *at, *to),
            Stage::Folders { streams, next, .. } => (CatalogueStage::Folders, *next as u64, streams.len() as u64),
            Stage::Files { unknown, next, .. } => (CatalogueStage::Files, *next as u64, unknown.len() as u64),
            Stage::Missing { .. } => (CatalogueStage::Files, 1, 1),
            Stage::Done => (CatalogueStage::Complete, end, end),
        };
        CatalogueProgress { stage, done, of }
    }
}

fn failed(error: CatalogueError) -> io::Error {
    io::Error::other(error.to_string())
}

impl Keeper {
    /// Does a slice of what is left. Whether that was the last.
    pub(super) fn catch_up(&mut self, work: &mut CatchUp) -> io::Result<bool> {
        work.stage = match std::mem::replace(&mut work.stage, Stage::Done) {
            Stage::Open { in_memory } => self.open_books(work, in_memory)?,
            Stage::Replay { generation, at, to } if at < to => self.replay(generation, at, to)?,
            Stage::Replay { .. } => self.replayed(work)?,
            Stage::Folders { streams, next, listed } => self.list(work, streams, next, listed)?,
            Stage::Files { unknown, next, listed } => self.read_files(work, unknown, next, listed)?,
            Stage::Missing { listed } => self.bury_missing(work, &listed)?,
            Stage::Done => Stage::Done,
        };
        let is_done = matches!(work.stage, Stage::Done);
        if is_done {
            self.caught_up(work)?;
        }
        self.tell(work);
        Ok(is_done)
    }

    fn tell(&self, work: &mut CatchUp) {
        let now_us = self.volume.env.clock.monotonic_us();
        let progress = work.progress(work.sealed + work.found);
        *lock(&self.volume.progress) = progress;
        let volume = self.volume.uuid;
        if progress.stage == CatalogueStage::Complete {
            let (ms, segments) = (now_us.saturating_sub(work.began_us) / 1000, self.count());
            let (found, missing) = (work.found, work.missing);
            tracing::info!(%volume, ms, segments, found, missing, "the catalogue is complete");
        } else if now_us.saturating_sub(work.logged_us) >= LOG_US {
            work.logged_us = now_us;
            let (stage, done, of) = (progress.stage.as_str(), progress.done, progress.of);
            tracing::info!(%volume, stage, done, of, "the catalogue is being completed");
        }
    }

    fn count(&self) -> u64 {
        self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.count()).ok()).unwrap_or(0)
    }

    /// Opens catalogue and manifest, and learns what is held: from then on something may be retired.
    fn open_books(&self, work: &mut CatchUp, in_memory: bool) -> io::Result<Stage> {
        let volume = &self.volume;
        if in_memory {
            return self.open_in_memory(work);
        }
        let known = Catalogue::open(volume.folder.as_ref()).map_err(failed)?;
        let generation = volume.env.random.u64();
        let OpenedLog { log, from, holds, lost } =
            volume.with_room(|| ManifestLog::open(volume.folder.clone(), known.position, generation))?;
        let known_holds = known.catalogue.view().and_then(|view| view.holds()).unwrap_or_default();
        let is_known = from.offset > HEADER_BYTES;
        work.all = work.later.unordered || !(known.scanned && is_known);
        if !work.all && !work.later.closed_in_order {
            // Ended before the newest files were looked at, the next start would find only what was sealed since.
            known.catalogue.leave_unscanned().map_err(failed)?;
        }
        if !is_known {
            known.catalogue.clear().map_err(failed)?;
        }
        let known_holds = if is_known || lost { known_holds } else { Vec::new() };
        let held = held(known_holds, &holds);
        // The records of these may be among those that were lost.
        let again: Vec<_> = held.iter().filter(|_| lost).map(|hold| Record::Hold(*hold)).collect();
        self.hold(held);
        *volume.catalogue.write().unwrap_or_else(PoisonError::into_inner) = known.catalogue;
        let Position { generation, offset: to } = log.end();
        volume.open_books(log, again)?;
        Ok(Stage::Replay { generation, at: from.offset, to })
    }

    fn hold(&self, held: Vec<Hold>) {
        let mut now_held = lock(&self.volume.holds);
        let others: Vec<_> = held.into_iter().filter(|h| !now_held.iter().any(|n| n.hold == h.hold)).collect();
        now_held.extend(others);
    }

    fn open_in_memory(&self, work: &mut CatchUp) -> io::Result<Stage> {
        let volume = &self.volume;
        volume.catalogue_complete.store(false, Ordering::Release);
        volume.catalogue_replayed.store(false, Ordering::Release);
        work.all = true;
        *volume.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Catalogue::in_memory().map_err(failed)?;
        volume.catalogue.clear_poison();
        let mut books = volume.books.lock();
        if let Some(log) = &mut books.log {
            let Position { generation, offset: to } = log.end();
            return Ok(Stage::Replay { generation, at: HEADER_BYTES, to });
        }
        drop(books);
        let (unknown, generation) = (Position::default(), volume.env.random.u64());
        let OpenedLog { log, holds, .. } =
            volume.with_room(|| ManifestLog::open(volume.folder.clone(), unknown, generation))?;
        self.hold(held(Vec::new(), &holds));
        let Position { generation, offset: to } = log.end();
        volume.open_books(log, Vec::new())?;
        Ok(Stage::Replay { generation, at: HEADER_BYTES, to })
    }

    fn replay(&self, generation: u64, at: u64, to: u64) -> io::Result<Stage> {
        let Some(file) = self.volume.books.file() else { return Ok(Stage::Replay { generation, at: to, to }) };
        let (records, behind) = manifest_log::slice(file.as_ref(), at, to)?;
        let position = Position { generation, offset: behind };
        let applied = {
            let catalogue = self.volume.catalogue.write().unwrap_or_else(PoisonError::into_inner);
            catalogue.apply(&records, Some(position))
        };
        match applied {
            Ok(()) => Ok(Stage::Replay { generation, at: behind, to }),
            // A file system that is full, for instance. The catalogue is a cache: it can be anywhere.
            Err(error) => {
                tracing::error!(%error, volume = %self.volume.uuid, "the catalogue failed, and is built anew in memory");
                Ok(Stage::Open { in_memory: true })
            }
        }
    }

    /// All that the manifest tells is known.
    fn replayed(&self, work: &mut CatchUp) -> io::Result<Stage> {
        work.sealed = self.count();
        let buried = self.bury_retired()?;
        work.sealed = work.sealed.saturating_sub(buried);
        self.volume.load_damage();
        self.volume.catalogue_replayed.store(true, Ordering::Release);
        if !work.all && work.later.closed_in_order {
            let unknown = std::mem::take(&mut work.later.unread);
            return Ok(Stage::Files { unknown, next: 0, listed: Listed::default() });
        }
        let mut listed = Listed::default();
        if work.all {
            let known = |segment: &SealedSegment| {
                listed.known.push(hash(Path::new(&segment.path)));
                true
            };
            let view = self.volume.catalogue.read().ok().map(|c| c.view().and_then(|view| view.each(known)));
            if let Some(Err(error)) = view {
                return Err(failed(error));
            }
            listed.known.sort_unstable();
        }
        let streams = newest::stream_folders(self.volume.folder.as_ref())?;
        Ok(Stage::Folders { streams, next: 0, listed })
    }

    /// Records that segments are gone whose files lie in `retired/`: a crash came between the one and the other.
    fn bury_retired(&self) -> io::Result<u64> {
        let mut buried = 0;
        let retired = lock(&self.volume.pool).retired();
        for (file_number, _) in retired {
            let known =
                self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.by_file(file_number)).ok()?);
            if let Some(segment) = known {
                self.volume.record(Record::Retired { file_number, nonce: segment.nonce }, None)?;
                buried += 1;
                // Emptied only when that is durable.
                lock(&self.volume.pool).retired_again(file_number, self.volume.env.clock.monotonic_us());
            }
        }
        Ok(buried)
    }

    fn list(&self, work: &mut CatchUp, streams: Vec<PathBuf>, next: usize, mut listed: Listed) -> io::Result<Stage> {
        let some = streams.iter().skip(next).take(FOLDERS_A_ROUND).collect::<Vec<_>>();
        let count = some.len();
        let folder = self.volume.folder.as_ref();
        let live: HashSet<PathBuf> =
            lock(&self.volume.live).values().flatten().map(|segment| segment.fixed.path.clone()).collect();
        let files = |stream: &&PathBuf| match work.all {
            true => newest::of_stream(folder, stream, None),
            false => self.lately(stream),
        };
        for path in parallel::each(&some, files)?.into_iter().flatten() {
            let hashed = hash(&path);
            listed.found.push(hashed);
            if listed.known.binary_search(&hashed).is_err() && !live.contains(&path) {
                listed.unknown.push(path);
            }
        }
        if next + count < streams.len() {
            return Ok(Stage::Folders { streams, next: next + count, listed });
        }
        listed.known = Vec::new();
        listed.found.sort_unstable();
        let mut unknown = std::mem::take(&mut listed.unknown);
        let unread = std::mem::take(&mut work.later.unread);
        let unread = unread.into_iter().filter(|path| !unknown.contains(path)).collect::<Vec<_>>();
        unknown.extend(unread);
        // Their names begin with the time of their first frame.
        unknown.sort_by(|a, b| (a.file_name(), a).cmp(&(b.file_name(), b)));
        Ok(Stage::Files { unknown, next: 0, listed })
    }

    /// The files of a stream back to one that the catalogue has.
    fn lately(&self, stream: &Path) -> io::Result<Vec<PathBuf>> {
        let mut wanted = LATELY;
        loop {
            let files = newest::of_stream(self.volume.folder.as_ref(), stream, Some(wanted))?;
            let known = files.first().is_none_or(|oldest| self.is_known(oldest));
            if known || files.len() < wanted {
                return Ok(files);
            }
            wanted *= 2;
        }
    }

    fn read_files(&self, work: &mut CatchUp, unknown: Vec<PathBuf>, next: usize, listed: Listed) -> io::Result<Stage> {
        let some = unknown.iter().skip(next).take(FILES_A_ROUND).collect::<Vec<_>>();
        let read = parallel::each(&some, |path| self.read(path))?;
        for (path, file) in some.iter().zip(read) {
            if self.take_in(path, file)? == Seen::New {
                work.found += 1;
            }
        }
        match next + some.len() {
            next if next < unknown.len() => Ok(Stage::Files { unknown, next, listed }),
            _ if work.all => Ok(Stage::Missing { listed }),
            _ => Ok(Stage::Done),
        }
    }

    /// Records that segments are gone that have no file: the record of their retirement was lost, or somebody took the file away.
    fn bury_missing(&self, work: &mut CatchUp, listed: &Listed) -> io::Result<Stage> {
        let mut suspects = Vec::new();
        let suspect = |segment: &SealedSegment| {
            if listed.found.binary_search(&hash(Path::new(&segment.path))).is_err() {
                suspects.push((segment.file_number, segment.nonce, segment.path.clone()));
            }
            true
        };
        let view = self.volume.catalogue.read().ok().map(|c| c.view().and_then(|view| view.each(suspect)));
        if let Some(Err(error)) = view {
            return Err(failed(error));
        }
        for (file_number, nonce, path) in suspects {
            // Those that were sealed since are there.
            let gone = self.volume.folder.open(Path::new(&path), false);
            if gone.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                self.volume.record(Record::Retired { file_number, nonce }, None)?;
                work.missing += 1;
            }
        }
        Ok(Stage::Done)
    }

    fn caught_up(&self, work: &CatchUp) -> io::Result<()> {
        self.apply_jobs();
        let really = (work.sealed + work.later.unsealed + work.found).saturating_sub(work.missing);
        let highest = {
            let mut pool = lock(&self.volume.pool);
            if work.recounts {
                pool.recount(work.later.counted, really);
            }
            pool.reserve_numbers()
        };
        let mut identity = lock(&self.volume.identity);
        if identity.files != highest {
            identity.files = highest;
            self.volume.with_room(|| identity::write(self.volume.folder.as_ref(), &identity))?;
        }
        drop(identity);
        if let Ok(catalogue) = self.volume.catalogue.read()
            && let Err(error) = catalogue.set_scanned(true)
        {
            tracing::error!(%error, "the catalogue failed");
        }
        if work.later.unordered {
            self.volume.forget_unordered(work.found == 0);
        }
        self.volume.catalogue_complete.store(true, Ordering::Release);
        self.volume.caught_up.open();
        // What was read is not to be read again after a kill.
        self.persist();
        Ok(())
    }
}

/// What is held, after `changes`.
fn held(known: Vec<Hold>, changes: &[Record]) -> Vec<Hold> {
    let mut held: BTreeMap<_, _> = known.into_iter().map(|hold| (hold.hold, hold)).collect();
    for change in changes {
        match change {
            Record::Hold(hold) => {
                held.insert(hold.hold, *hold);
            }
            Record::HoldReleased { hold } => {
                held.remove(hold);
            }
            _ => {}
        }
    }
    held.into_values().collect()
}
