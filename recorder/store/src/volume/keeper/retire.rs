//! Which segment goes next, and how it goes.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use framekeeper_media::WallTime;

use super::Keeper;
use super::catch_up::CatchUp;
use crate::manifest::{Record, SealedSegment};
use crate::names;
use crate::segment::walk::head;

/// Readers have let go of a retired segment after that long.
pub(crate) const LEASE_US: u64 = 60_000_000;

impl Keeper {
    /// Retires the oldest segments while free files are few.
    pub(super) fn retire(&mut self) -> io::Result<()> {
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
            let free = {
                let (_, _, free, retired) = crate::lock(&self.volume.pool).numbers();
                free + retired
            };
            let unknown = |work: &CatchUp| !oldest.as_ref().is_some_and(|oldest| work.may_retire(oldest, free == 0));
            if self.later.as_ref().is_some_and(unknown) {
                // An older one may turn up.
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
        self.volume.record(gone.clone(), None)?;
        if ours {
            self.volume.retired(segment.file_number);
        }
        if !self.volume.catalogue_replayed.load(Ordering::Acquire)
            && let Ok(catalogue) = self.volume.catalogue.write()
            && let Err(error) = catalogue.apply(&[gone], None)
        {
            // The record itself waits until the manifest has been read.
            tracing::error!(%error, "the catalogue failed");
            return Ok(());
        }
        self.apply_jobs();
        Ok(())
    }

    /// Removes the day's folder, and the stream's, when they are empty.
    pub(super) fn remove_empty_folders(&self, path: &Path) {
        let _guard = crate::lock(&self.volume.folders);
        for folder in path.ancestors().skip(1).take(3) {
            // Not empty, most of the time: then it stays.
            if self.volume.folder.remove_folder(folder).is_err() {
                return;
            }
        }
    }
}
