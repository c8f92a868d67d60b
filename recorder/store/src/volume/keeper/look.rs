//! A file in `streams/` that the catalogue may not know: what it is, and what becomes of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Keeper;
use crate::env::{File, WritesWanted, read_exact};
use crate::lock;
use crate::manifest::{Record, SealedSegment};
use crate::segment::sealed::sealed_record;
use crate::segment::walk::{self, Head, HeadError, head};
use crate::volume::open::recovered;
use crate::volume::unit::seal_file;

/// A file that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is not there, or not there any more.
    Gone,
    /// The catalogue has it, or somebody writes it.
    Known,
    /// Nobody knew of it.
    New,
}

/// What was read of a file.
pub(super) enum Read {
    Gone,
    /// For the log.
    Unreadable(String),
    NoSegment(Arc<dyn File>, String),
    Segment(Arc<dyn File>, Box<Head>, Option<SealedSegment>),
}

impl Keeper {
    /// Reads head and index. A file that cannot be read is that file's trouble: the others are served.
    pub(super) fn read(&self, path: &Path) -> io::Result<Read> {
        let file = match self.volume.folder.open(path, true) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Read::Gone),
            Err(e) => return Ok(Read::Unreadable(e.to_string())),
            Ok(file) => file,
        };
        let head = match head(file.as_ref()) {
            Ok(head) => head,
            Err(HeadError::Io(e)) => return Ok(Read::Unreadable(e.to_string())),
            Err(HeadError::NotOurs(reason)) => return Ok(Read::NoSegment(file, reason)),
        };
        match sealed_record(file.as_ref(), &head, path) {
            Ok(record) => Ok(Read::Segment(file, Box::new(head), record)),
            Err(e) => Ok(Read::Unreadable(e.to_string())),
        }
    }

    /// Whether the catalogue has the segment of this file.
    fn has(&self, path: &Path, head: &Head) -> bool {
        let number = head.segment.file_number;
        let known = self.volume.catalogue.read().ok().and_then(|c| c.view().and_then(|v| v.by_file(number)).ok()?);
        known.is_some_and(|known| known.nonce == head.segment.nonce && Path::new(&known.path) == path)
    }

    /// Whether a file is a segment that the catalogue has.
    pub(super) fn is_known(&self, path: &Path) -> bool {
        let file = self.volume.folder.open(path, false).ok();
        file.and_then(|file| head(file.as_ref()).ok()).is_some_and(|head| self.has(path, &head))
    }

    /// A sealed segment that is not known is put into the manifest; one that is not sealed is sealed first.
    pub(super) fn take_in(&self, path: &Path, read: Read) -> io::Result<Seen> {
        let (file, head, record) = match read {
            Read::Gone => return Ok(Seen::Gone),
            Read::Unreadable(error) => {
                tracing::warn!(path = %path.display(), error, "a file among the segments cannot be read, and is left alone");
                return Ok(Seen::New);
            }
            Read::NoSegment(file, reason) => return self.no_segment(path, file.as_ref(), &reason),
            Read::Segment(file, head, record) => (file, *head, record),
        };
        let nonce = head.segment.nonce;
        let is_live = lock(&self.volume.live).values().flatten().any(|l| l.fixed.nonce == nonce);
        if is_live || self.has(path, &head) {
            return Ok(Seen::Known);
        }
        if let Some(record) = record {
            self.volume.record(Record::Sealed(record), None)?;
            return Ok(Seen::New);
        }
        let walked = walk::fragments(file.as_ref(), &head)?;
        // Given back where nothing is in it: it is there all the same.
        let Some((live, placer)) = recovered(&self.volume, path, file, head, walked)? else { return Ok(Seen::New) };
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
        self.volume.wrote(|dirty| dirty.folders.extend(path.parent().map(PathBuf::from)));
        self.remove_empty_folders(path);
        Ok(Seen::Gone)
    }
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
