//! Which segment goes next, and how it goes.

use std::collections::HashSet;
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
    /// Retires what goes by the limits of its stream.
    pub(super) fn retire_doomed(&mut self) -> io::Result<()> {
        let doomed = std::mem::take(&mut *crate::lock(&self.volume.doomed));
        if doomed.is_empty() {
            return Ok(());
        }
        self.apply_jobs();
        let find = |(file_number, nonce): (u64, u64)| {
            let catalogue = self.volume.catalogue.read().ok()?;
            catalogue.view().and_then(|view| view.by_file(file_number)).ok()?.filter(|segment| segment.nonce == nonce)
        };
        let mut segments: Vec<_> = doomed.into_iter().filter_map(find).collect();
        segments.sort_by_key(|segment| segment.end);
        // It may have been put under a hold since.
        segments.retain(|segment| !self.volume.is_held(segment.stream, segment.first, segment.end));
        segments.iter().try_for_each(|segment| self.retire_one(segment))
    }

    /// Retires the oldest segments while free files are few.
    pub(super) fn retire(&mut self) -> io::Result<()> {
        self.volume.count_recording();
        let recording = self.volume.recording.load(Ordering::Relaxed).max(self.volume.coming.load(Ordering::Relaxed));
        // A stream that waits for a file wants one, also when it has no handle any more.
        let recording = recording.max(usize::from(self.volume.is_waited_for())) as u64;
        let ahead = self.volume.files_ahead.load(Ordering::Relaxed);
        while !self.volume.has_failed() {
            let leased = self.leased();
            let wanted = crate::lock(&self.volume.pool).wanted(recording, ahead, leased);
            // Readers may keep theirs for long; any other one that was retired is free behind the next sync, and is waited for.
            let is_coming = || {
                let (_, _, free, retired) = crate::lock(&self.volume.pool).numbers();
                free + retired.saturating_sub(leased) > 0
            };
            if is_coming() {
                self.volume.note_retirement(None);
            }
            if wanted == 0 {
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
                    // Nothing else may come that finds it out: where all streams wait for a file, nothing is sealed any more.
                    tracing::error!(%error, volume = %self.volume.uuid, "the catalogue failed, and is built anew in memory");
                    let before = self.later.take();
                    self.later = Some(CatchUp::again(before, self.volume.env.clock.monotonic_us()));
                    return Ok(());
                }
            };
            if self.wait_for_a_seal(oldest.as_ref().map(|s| s.end)) {
                // Sealed first, then it is as any other; the seal takes a tick and a sync.
                self.volume.note_retirement(None);
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
                if !is_coming() {
                    let why = "all files are being written, held, or waiting for readers; nothing may be retired";
                    self.volume.note_retirement(Some(why));
                }
                return Ok(());
            };
            self.retire_one(&segment)?;
        }
        Ok(())
    }

    /// How many retired files readers have not let go of.
    fn leased(&self) -> u64 {
        let now = self.volume.env.clock.monotonic_us();
        let retired = crate::lock(&self.volume.pool).retired();
        let leased = retired.iter().filter(|(number, since)| self.volume.keeps(*number, *since, now));
        leased.count() as u64
    }

    /// Whether a segment that nobody writes any more is older than all sealed ones: it is waited for, and asked to be sealed where it is not on
    /// its way to that. Such segments are left by streams that ended, that went to another volume, or that a restart found here and records
    /// elsewhere.
    fn wait_for_a_seal(&self, sealed_end: Option<WallTime>) -> bool {
        let live: Vec<_> = crate::lock(&self.volume.live).values().flatten().cloned().collect();
        let recorded: HashSet<_> = {
            let streams = crate::lock(&self.volume.streams);
            let here = streams.iter().filter(|s| s.is_taken() && s.volume() == Some(self.volume.at));
            here.map(|stream| stream.ident.uid).collect()
        };
        let idle = live.iter().filter_map(|segment| {
            let (first, end) = segment.span()?;
            let (stream, sealing) = (segment.fixed.stream.uid, segment.record().is_some());
            let may_go = (sealing || !recorded.contains(&stream)) && !self.volume.is_held(stream, first, end);
            may_go.then_some((end, stream, sealing))
        });
        match idle.min_by_key(|(end, ..)| *end) {
            Some((end, stream, sealing)) if sealed_end.is_none_or(|sealed| end < sealed) => {
                if !sealing {
                    self.volume.ask_for_seal(stream);
                }
                true
            }
            _ => false,
        }
    }

    /// Notes when the oldest footage begins, where that may have changed.
    pub(super) fn note_oldest(&mut self) {
        let counters = &self.volume.counters;
        let now = (counters.sealed.get(), counters.retired.get());
        let known = crate::lock(&self.volume.oldest).is_some();
        if known && self.oldest_of == Some(now) || !self.volume.catalogue_complete.load(Ordering::Acquire) {
            return;
        }
        let sealed = self.volume.catalogue.read().ok().and_then(|catalogue| {
            let oldest = catalogue.view().and_then(|view| view.oldest(|_| true)).ok()?;
            oldest.map(|segment| segment.first)
        });
        let live = crate::lock(&self.volume.live).values().flatten().filter_map(|segment| segment.span()).min();
        let oldest = sealed.into_iter().chain(live.map(|(first, _)| first)).min();
        *crate::lock(&self.volume.oldest) = oldest;
        self.oldest_of = Some(now);
    }

    fn retire_one(&self, segment: &SealedSegment) -> io::Result<()> {
        if self.volume.has_failed() {
            return Ok(());
        }
        let path = Path::new(&segment.path);
        let gone = Record::Retired { file_number: segment.file_number, nonce: segment.nonce };
        let ours = match self.volume.folder.open(path, false) {
            // A head that rotted, or that the disk does not give, is nobody else's either: the name was given for this use.
            Ok(file) => head(file.as_ref()).ok().is_none_or(|head| head.segment.nonce == segment.nonce),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            // Taken for gone, it would make no file free, and all footage would go one after the other.
            Err(error) => return Err(error),
        };
        // A hold that was set since the segment was chosen keeps it; one that is set from now on waits until it is gone.
        let retiring = crate::lock(&self.volume.retiring);
        if self.volume.is_held(segment.stream, segment.first, segment.end) {
            return Ok(());
        }
        if ours {
            let retired = names::numbered(names::RETIRED, segment.file_number);
            self.volume.with_room(|| self.volume.folder.rename(path, &retired))?;
            drop(retiring);
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
