//! The thread that keeps house on a volume: catalogue, pool of empty files, retirement, and what recovery left for later.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::SegmentIndex;
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};

use super::open::{Later, recovered};
use super::unit::seal_file;
use super::{Volume, pool};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::env::{File, WritesWanted, read_exact};
use crate::manifest::{HEADER_BYTES, Record, SealedSegment};
use crate::manifest_log::{self, Position};
use crate::names;
use crate::segment::index::run_parts;
use crate::segment::walk::{Head, HeadError, head};
use crate::types::SegmentCounts;

/// Between rounds when nothing happens.
const ROUND: Duration = Duration::from_secs(1);
/// The catalogue is made durable this often; what a crash loses of it is read from the manifest again.
const PERSIST_US: u64 = 60_000_000;
/// Readers have let go of a retired segment after that long.
pub(crate) const LEASE_US: u64 = 60_000_000;
/// Records given to the catalogue in one transaction.
const BATCH: usize = 20_000;
/// The manifest is written anew when so many of its records, and more than half, mean nothing any more.
const DEAD_RECORDS: u64 = 20_000;

/// The thread's state.
pub(crate) struct Keeper {
    volume: Arc<Volume>,
    later: Option<Later>,
    persisted_us: u64,
}

impl Keeper {
    pub(crate) fn new(volume: Arc<Volume>, later: Later) -> Self {
        let persisted_us = volume.env.clock.monotonic_us();
        Self { volume, later: Some(later), persisted_us }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        loop {
            let longest = if self.later.is_some() { Duration::ZERO } else { ROUND };
            let wake = self.volume.wake_keeper.wait(Some(longest));
            if wake.stop {
                return;
            }
            if !self.volume.has_failed() {
                self.round(wake.finish);
            }
            if wake.finish {
                self.last();
                return;
            }
        }
    }

    /// One round; when `finishing`, nothing new is begun.
    pub(crate) fn round(&mut self, finishing: bool) {
        if !finishing && let Some(later) = self.later.take() {
            self.checked("make files", |k| k.make_files(false));
            self.checked("recover", |k| k.catch_up(&later));
        }
        self.apply_jobs();
        if finishing {
            return;
        }
        self.checked("make files", |k| k.make_files(true));
        self.checked("retire", Self::retire);
        self.checked("empty a retired file", Self::reclaim);
        let now = self.volume.env.clock.monotonic_us();
        if now.saturating_sub(self.persisted_us) >= PERSIST_US {
            self.persisted_us = now;
            self.persist();
            self.checked("compact the manifest", Self::compact);
        }
    }

    fn checked(&mut self, what: &str, step: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.volume.has_failed() {
            return;
        }
        if let Err(error) = step(self) {
            self.volume.fail(what, &error);
        }
    }

    fn last(&mut self) {
        self.apply_jobs();
        self.persist();
    }

    fn persist(&self) {
        if let Ok(catalogue) = self.volume.catalogue.read()
            && let Err(error) = catalogue.persist()
        {
            tracing::warn!(%error, volume = %self.volume.uuid, "the catalogue could not be made durable");
        }
    }

    /// Gives the catalogue what the manifest got.
    pub(crate) fn apply_jobs(&self) {
        // Records must come in the order of the manifest: first what was there before.
        if !self.volume.catalogue_complete.load(Ordering::Acquire) {
            return;
        }
        let jobs = std::mem::take(&mut *crate::lock(&self.volume.jobs));
        let Some(last) = jobs.last() else { return };
        let position = Some(last.position);
        let records: Vec<_> = jobs.iter().map(|job| job.record.clone()).collect();
        // Under the write lock, so that readers see each segment either here or there.
        let Ok(mut catalogue) = self.volume.catalogue.write() else { return };
        if let Err(error) = catalogue.apply(&records, position) {
            // A file system that is full, for instance. The catalogue is a cache: it can be anywhere.
            tracing::error!(%error, volume = %self.volume.uuid, "the catalogue failed, and is built anew in memory");
            match self.in_memory() {
                Ok(anew) => *catalogue = anew,
                Err(error) => {
                    tracing::error!(%error, volume = %self.volume.uuid, "the catalogue cannot be built; segments stay in memory");
                    crate::lock(&self.volume.jobs).splice(0..0, jobs);
                    return;
                }
            }
        }
        for live in jobs.iter().filter_map(|job| job.live.as_ref()) {
            self.volume.remove_live(live);
        }
    }

    /// The whole manifest as a catalogue in memory. What else waits to be applied is in it twice then, which does no harm.
    fn in_memory(&self) -> io::Result<Catalogue> {
        let other = |e: CatalogueError| io::Error::other(e.to_string());
        let (file, end) = {
            let manifest = crate::lock(&self.volume.manifest);
            (manifest.file(), manifest.end())
        };
        let catalogue = Catalogue::in_memory().map_err(other)?;
        let mut records = Vec::new();
        manifest_log::replay(file.as_ref(), HEADER_BYTES, end.offset, |record, _| records.push(record))?;
        catalogue.apply(&records, Some(end)).map_err(other)?;
        Ok(catalogue)
    }

    /// Makes empty files: the few that the next roll-overs need, or (`all`) as many as the budget allows, some a round.
    fn make_files(&mut self, all: bool) -> io::Result<()> {
        const A_ROUND: usize = 64;
        for _ in 0..if all { A_ROUND } else { 4 } {
            let number = crate::lock(&self.volume.pool).next_new();
            let Some(number) = number else { break };
            match pool::make(self.volume.folder.as_ref(), number, self.volume.segment_bytes) {
                Ok(_) => {
                    crate::lock(&self.volume.pool).give(number);
                    self.volume.note_room(None);
                }
                Err(e) => {
                    crate::lock(&self.volume.pool).not_made();
                    if e.kind() == io::ErrorKind::StorageFull {
                        self.volume.note_room(Some(&e));
                        return Ok(());
                    }
                    return Err(e);
                }
            }
            self.volume.wrote(|dirty| {
                dirty.folders.insert(PathBuf::from(names::POOL));
            });
            self.volume.wake_keeper.notify();
        }
        let surplus = crate::lock(&self.volume.pool).pop_surplus();
        if let Some(number) = surplus {
            self.volume.folder.remove(&names::numbered(names::POOL, number))?;
        }
        Ok(())
    }

    /// Retires the oldest segments while free files are few.
    fn retire(&mut self) -> io::Result<()> {
        self.volume.count_recording();
        let recording = self.volume.recording.load(Ordering::Relaxed) as u64;
        loop {
            let wanted = crate::lock(&self.volume.pool).wanted(recording);
            if wanted == 0 {
                let any = crate::lock(&self.volume.pool).numbers();
                if any.2 + any.3 > 0 {
                    self.volume.note_retirement(None);
                }
                return Ok(());
            }
            self.apply_jobs();
            let oldest = match self.volume.catalogue.read() {
                Ok(catalogue) => {
                    catalogue.view().and_then(|view| view.oldest(|s| !self.volume.is_held(s.stream, s.first, s.end)))
                }
                Err(_) => return Ok(()),
            };
            let oldest = match oldest {
                Ok(oldest) => oldest,
                Err(error) => {
                    tracing::error!(%error, "the catalogue failed");
                    return Ok(());
                }
            };
            let idle = self.oldest_idle(oldest.as_ref().map(|s| s.end));
            if idle {
                // Sealed first, then it is as any other; the seal takes a tick and a sync.
                return Ok(());
            }
            let Some(segment) = oldest else {
                let free = crate::lock(&self.volume.pool).numbers().2;
                if free == 0 {
                    let why = "all files are being written, held, or waiting for readers; nothing may be retired";
                    self.volume.note_retirement(Some(why));
                }
                return Ok(());
            };
            self.retire_one(&segment)?;
        }
    }

    /// Asks for the seal of a segment that nobody writes any more, if it is older than all sealed ones.
    fn oldest_idle(&self, sealed_end: Option<WallTime>) -> bool {
        let streams = crate::lock(&self.volume.streams).clone();
        let idle = streams.iter().filter(|s| !s.is_taken() && s.volume() == Some(self.volume.at));
        let oldest = idle
            .filter_map(|s| {
                let live = self.volume.live_of(s.ident.uid);
                let segment = live.iter().find(|l| l.record().is_none())?;
                let (first, end) = segment.span()?;
                (!self.volume.is_held(s.ident.uid, first, end)).then_some((end, s))
            })
            .min_by_key(|(end, _)| *end);
        match oldest {
            Some((end, stream)) if sealed_end.is_none_or(|sealed| end < sealed) => {
                stream.push_seal();
                self.volume.wake_writer.notify();
                true
            }
            _ => false,
        }
    }

    fn retire_one(&self, segment: &SealedSegment) -> io::Result<()> {
        let path = Path::new(&segment.path);
        let there = self.volume.folder.open(path, false).ok().and_then(|file| head(file.as_ref()).ok());
        let gone = Record::Retired { file_number: segment.file_number, nonce: segment.nonce };
        let ours = there.is_some_and(|h| h.segment.nonce == segment.nonce);
        if ours {
            self.volume.folder.rename(path, &names::numbered(names::RETIRED, segment.file_number))?;
            self.volume.counters.retired.add(1);
            self.volume.wrote(|dirty| dirty.folders.extend(path.parent().map(Path::to_path_buf)));
            self.remove_empty_folders(path);
        }
        self.volume.record(gone, None)?;
        if ours {
            self.volume.retired(segment.file_number);
        }
        self.apply_jobs();
        Ok(())
    }

    /// Removes the day's folder, and the stream's, when they are empty.
    fn remove_empty_folders(&self, path: &Path) {
        let _guard = crate::lock(&self.volume.folders);
        for folder in path.ancestors().skip(1).take(3) {
            // Not empty, most of the time: then it stays.
            if self.volume.folder.remove_folder(folder).is_err() {
                return;
            }
        }
    }

    /// Empties the files that no reader needs any more.
    fn reclaim(&mut self) -> io::Result<()> {
        let now = self.volume.env.clock.monotonic_us();
        let synced = self.volume.synced_us.load(Ordering::Acquire);
        let retired = crate::lock(&self.volume.pool).retired();
        for (number, since) in retired {
            let leased = now.saturating_sub(since) < LEASE_US && self.volume.is_leased(number, now);
            if leased || since > synced {
                continue;
            }
            pool::reclaim(self.volume.folder.as_ref(), number, self.volume.segment_bytes)?;
            crate::lock(&self.volume.pool).reclaimed(number);
            self.volume.wrote(|dirty| {
                dirty.folders.extend([PathBuf::from(names::POOL), PathBuf::from(names::RETIRED)]);
            });
        }
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let Ok(catalogue) = self.volume.catalogue.read() else { return Ok(()) };
        let view = catalogue.view();
        let Ok((dead, count)) = view
            .as_ref()
            .map_err(|_| ())
            .and_then(|v| Ok((v.dead_records().map_err(|_| ())?, v.count().map_err(|_| ())?)))
        else {
            return Ok(());
        };
        drop(catalogue);
        if dead < DEAD_RECORDS || dead < count || !self.volume.catalogue_complete.load(Ordering::Acquire) {
            return Ok(());
        }
        self.compact_now()
    }

    /// Writes the manifest anew with what still counts.
    pub(crate) fn compact_now(&self) -> io::Result<()> {
        self.apply_jobs();
        let mut manifest = crate::lock(&self.volume.manifest);
        if !crate::lock(&self.volume.jobs).is_empty() {
            // Something was sealed meanwhile: the next round is as good.
            return Ok(());
        }
        let Ok(catalogue) = self.volume.catalogue.write() else { return Ok(()) };
        let Ok(view) = catalogue.view() else { return Ok(()) };
        let holds = crate::lock(&self.volume.holds).clone();
        let position = manifest.compact(self.volume.env.random.u64(), |record| match record {
            Record::Sealed(s) => view.by_file(s.file_number).ok().flatten().is_some_and(|now| now.nonce == s.nonce),
            Record::Hold(hold) => holds.contains(hold),
            Record::Damaged(d) => view.by_file(d.file_number).ok().flatten().is_some_and(|now| now.nonce == d.nonce),
            Record::Checked(c) => view.checked(c.file_number).ok().flatten().is_some_and(|now| now == *c),
            Record::Retired { .. } | Record::HoldReleased { .. } => false,
        })?;
        drop(view);
        if let Err(error) = catalogue.compacted(position) {
            tracing::error!(%error, "the catalogue failed");
        }
        Ok(())
    }

    /// What opening left for later: the rest of the manifest, and files that it does not know.
    fn catch_up(&mut self, later: &Later) -> io::Result<()> {
        self.replay(later.replay_from, later.replay_to)?;
        let sealed = self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.count()).ok());
        let buried = self.bury_retired()?;
        let mut really = sealed.unwrap_or(0).saturating_sub(buried) + later.unsealed;
        let known: std::collections::HashSet<PathBuf> = {
            let live = crate::lock(&self.volume.live);
            live.values().flatten().map(|l| l.fixed.path.clone()).collect()
        };
        if let Some(newest) = later.scan {
            for folder in day_folders(self.volume.folder.as_ref(), newest.days)? {
                let entries = self.volume.folder.list(&folder)?;
                let skip = entries.len().saturating_sub(newest.files);
                for entry in entries.iter().skip(skip).filter(|e| !e.folder && e.name.ends_with(".mp4")) {
                    let path = folder.join(&entry.name);
                    if !known.contains(&path) && self.look_at(&path)? == Seen::New {
                        really += 1;
                    }
                }
            }
            crate::lock(&self.volume.pool).recount(later.counted, really);
            if newest.days == usize::MAX
                && let Ok(catalogue) = self.volume.catalogue.read()
                && let Err(error) = catalogue.set_scanned()
            {
                tracing::error!(%error, "the catalogue failed");
            }
        }
        self.volume.catalogue_complete.store(true, Ordering::Release);
        Ok(())
    }

    fn replay(&self, from: Position, to: Position) -> io::Result<()> {
        let file = crate::lock(&self.volume.manifest).file();
        let mut batch = Vec::with_capacity(BATCH);
        let flush = |batch: &mut Vec<Record>, position| {
            let Ok(catalogue) = self.volume.catalogue.write() else { return };
            if let Err(error) = catalogue.apply(batch, Some(position)) {
                tracing::error!(%error, "the catalogue failed");
            }
            batch.clear();
        };
        let mut behind = from;
        manifest_log::replay(file.as_ref(), from.offset, to.offset, |record, offset| {
            behind.offset = offset;
            batch.push(record);
            if batch.len() >= BATCH {
                flush(&mut batch, behind);
            }
        })?;
        flush(&mut batch, behind);
        let holds = self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.holds()).ok());
        if let Some(holds) = holds {
            let mut known = crate::lock(&self.volume.holds);
            let new: Vec<_> = holds.into_iter().filter(|h| !known.contains(h)).collect();
            known.extend(new);
        }
        Ok(())
    }

    /// Records that segments are gone whose files lie in `retired/`: a crash came between the one and the other.
    fn bury_retired(&self) -> io::Result<u64> {
        let mut buried = 0;
        let retired = crate::lock(&self.volume.pool).retired();
        for (file_number, _) in retired {
            let known =
                self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.by_file(file_number)).ok()?);
            if let Some(segment) = known {
                self.volume.record(Record::Retired { file_number, nonce: segment.nonce }, None)?;
                buried += 1;
                // Emptied only when that is durable.
                crate::lock(&self.volume.pool).retired_again(file_number, self.volume.env.clock.monotonic_us());
            }
        }
        Ok(buried)
    }

    /// A file in `streams/` that may not be known: a sealed one is put into the manifest, any other is sealed first.
    fn look_at(&self, path: &Path) -> io::Result<Seen> {
        let file = match self.volume.folder.open(path, true) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Seen::Gone),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %path.display(), "a file among the segments cannot be opened, and is left alone");
                return Ok(Seen::New);
            }
            other => other?,
        };
        let head = match head(file.as_ref()) {
            Ok(head) => head,
            Err(HeadError::Io(e)) => return Err(e),
            Err(HeadError::NotOurs(reason)) => return self.no_segment(path, file.as_ref(), &reason),
        };
        let number = head.segment.file_number;
        let known = self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.by_file(number)).ok()?);
        let nonce = head.segment.nonce;
        let is_live = crate::lock(&self.volume.live).values().flatten().any(|l| l.fixed.nonce == nonce);
        if is_live || known.is_some_and(|k| k.nonce == nonce && Path::new(&k.path) == path) {
            return Ok(Seen::Known);
        }
        if let Some(record) = sealed_record(file.as_ref(), &head, path)? {
            self.volume.record(Record::Sealed(record), None)?;
            return Ok(Seen::New);
        }
        let Some((live, placer)) = recovered(&self.volume, path, file, head)? else { return Ok(Seen::Gone) };
        self.volume.add_live(live.clone());
        self.volume.counters.writes.add(2);
        let mut batch = self.volume.folder.batch(WritesWanted::Buffered)?;
        seal_file(&live, batch.as_mut(), placer.position())?;
        self.volume.sealing(live);
        Ok(Seen::New)
    }

    /// A file in `streams/` that has not the head of a segment. Where power was lost, the name of a file may be durable and its head not;
    /// then nothing in it ever was. Such a file is removed, another one is made in its place; any other is left alone.
    fn no_segment(&self, path: &Path, file: &dyn File, reason: &str) -> io::Result<Seen> {
        let named = |view: &crate::catalogue::View| view.oldest(|segment| Path::new(&segment.path) == path);
        let known = self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|view| named(&view)).ok());
        // Not to be removed when the catalogue cannot tell.
        let never_durable = matches!(known, Some(None)) && has_no_head(file, self.volume.segment_bytes)?;
        if !never_durable {
            tracing::warn!(path = %path.display(), reason, "a file among the segments is none, and is left alone");
            return Ok(Seen::New);
        }
        tracing::info!(path = %path.display(), "a file that was being taken when the recorder died is removed");
        self.volume.folder.remove(path)?;
        self.volume.wrote(|dirty| dirty.folders.extend(path.parent().map(Path::to_path_buf)));
        self.remove_empty_folders(path);
        Ok(Seen::Gone)
    }
}

/// A file that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It is not there, or not there any more.
    Gone,
    /// The catalogue has it, or somebody writes it.
    Known,
    /// Nobody knew of it.
    New,
}

/// Whether the head of a segment file was never written, or not all of it: files are zero before they are used, and no sector in a head is.
fn has_no_head(file: &dyn File, segment_bytes: u64) -> io::Result<bool> {
    const SECTOR_BYTES: usize = 512;
    // Shorter than any head.
    let mut start = [0; 2 * SECTOR_BYTES];
    if file.size()? != segment_bytes {
        return Ok(false);
    }
    read_exact(file, &mut start, 0)?;
    Ok(start.chunks(SECTOR_BYTES).any(|sector| sector.iter().all(|&byte| byte == 0)))
}

/// All folders `streams/<namespace>/<name>/<day>`; of each stream, the newest so many days.
pub(crate) fn day_folders(folder: &dyn crate::env::Folder, days: usize) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let subfolders = |path: &Path| -> io::Result<Vec<PathBuf>> {
        match folder.list(path) {
            // Removed since its parent was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(entries) => Ok(entries.iter().filter(|e| e.folder).map(|e| path.join(&e.name)).collect()),
        }
    };
    for namespace in subfolders(Path::new(names::STREAMS))? {
        for name in subfolders(&namespace)? {
            let all = subfolders(&name)?;
            found.extend(all.iter().skip(all.len().saturating_sub(days)).cloned());
        }
    }
    Ok(found)
}

/// What the manifest says of a sealed file; `None` when it is not sealed, or its index does not check.
pub(crate) fn sealed_record(file: &dyn File, head: &Head, path: &Path) -> io::Result<Option<SealedSegment>> {
    let Some(sealed) = head.segment.sealed else { return Ok(None) };
    let Some(index) = read_index(file, head.segment.nonce, sealed.index_offset, sealed.index_length)? else {
        return Ok(None);
    };
    let mut boxes = Vec::with_capacity(index.runs.len());
    for place in &index.runs {
        let mut bytes = [0; RUN_BOX_LENGTH];
        read_exact(file, &mut bytes, place.offset)?;
        let Ok(run) = RunBox::decode(&bytes) else { return Ok(None) };
        let first = usize::try_from(place.first_entry).unwrap_or(usize::MAX);
        let count = usize::try_from(place.entries).unwrap_or(usize::MAX);
        let entries = index.entries.get(first..first.saturating_add(count)).unwrap_or_default();
        let frames = entries.iter().filter(|e| crate::frames::is_video(e)).count();
        boxes.push((run, u32::try_from(frames).unwrap_or(u32::MAX), place));
    }
    let runs = run_parts(boxes.iter().map(|(run, frames, place)| (run, *frames, *place)));
    let totals = &index.totals;
    Ok(Some(SealedSegment {
        file_number: head.segment.file_number,
        nonce: head.segment.nonce,
        stream: head.segment.stream,
        number: head.segment.segment_number,
        init_hash: head.segment.init_hash,
        first: index.entries.iter().find(|e| crate::frames::is_video(e)).map_or(head.segment.first_wall, |e| e.wall),
        end: sealed.end_wall,
        index_offset: sealed.index_offset,
        index_length: sealed.index_length,
        counts: SegmentCounts {
            video_frames: totals.video_frames,
            audio_frames: u32::try_from(index.audio_sizes.len()).unwrap_or(u32::MAX),
            random_access_points: totals.random_access_points,
            fragments: totals.fragments,
            runs: u32::try_from(runs.len()).unwrap_or(u32::MAX),
            video_bytes: totals.video_bytes,
            audio_bytes: totals.audio_bytes,
        },
        stream_name: head.segment.stream_name.clone(),
        path: path.to_string_lossy().into_owned(),
        runs,
    }))
}

/// The index box of a sealed file; `None` when it is not there or does not check.
pub(crate) fn read_index(file: &dyn File, nonce: u64, offset: u64, length: u64) -> io::Result<Option<SegmentIndex>> {
    let size = file.size()?;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exact(file, &mut bytes, offset)?;
    Ok(SegmentIndex::decode(&bytes).ok().filter(|index| index.nonce == nonce && index.offset == offset))
}
