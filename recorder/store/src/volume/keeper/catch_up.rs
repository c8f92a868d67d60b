//! What opening a volume left for later: the rest of the manifest, and files that nobody knows.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Keeper;
use crate::env::{File, WritesWanted, read_exact};
use crate::manifest::Record;
use crate::manifest_log::{self, Position};
use crate::names;
use crate::segment::sealed::sealed_record;
use crate::segment::walk::{HeadError, head};
use crate::volume::open::{Later, recovered};
use crate::volume::unit::seal_file;

/// Records given to the catalogue in one transaction.
const BATCH: usize = 20_000;

impl Keeper {
    /// What opening left for later: the rest of the manifest, and files that it does not know.
    pub(super) fn catch_up(&mut self, later: &Later) -> io::Result<()> {
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
