//! The catalogue is given what the manifest got, and is made durable; the manifest is written anew when most of it means nothing any more.

use std::io;
use std::sync::atomic::Ordering;

use super::Keeper;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::manifest::{HEADER_BYTES, Record};
use crate::manifest_log;
use crate::volume::is_full;

/// The manifest is written anew when so many of its records, and more than half, mean nothing any more.
const DEAD_RECORDS: u64 = 20_000;

impl Keeper {
    pub(super) fn persist(&self) {
        if let Ok(catalogue) = self.volume.catalogue.read()
            && let Err(error) = catalogue.persist()
        {
            tracing::warn!(%error, volume = %self.volume.uuid, "the catalogue could not be made durable");
        }
    }

    /// Gives the catalogue what the manifest got.
    pub(crate) fn apply_jobs(&self) {
        // Records must come in the order of the manifest: first what was there before.
        if !self.volume.catalogue_replayed.load(Ordering::Acquire) {
            return;
        }
        let (records, position) = {
            let jobs = crate::lock(&self.volume.jobs);
            let Some(last) = jobs.last() else { return };
            (jobs.iter().map(|job| job.record.clone()).collect::<Vec<_>>(), last.position)
        };
        // Under the write lock, so that readers see each segment either here or there.
        let Ok(mut catalogue) = self.volume.catalogue.write() else { return };
        if let Err(error) = catalogue.apply(&records, Some(position)) {
            // A file system that is full, for instance. The catalogue is a cache: it can be anywhere.
            tracing::error!(%error, volume = %self.volume.uuid, "the catalogue failed, and is built anew in memory");
            match self.in_memory() {
                Ok(anew) => *catalogue = anew,
                Err(error) => {
                    tracing::error!(%error, volume = %self.volume.uuid, "the catalogue cannot be built; segments stay in memory");
                    return;
                }
            }
        }
        // Not before: where the catalogue makes its thread panic, the one that is built anew needs them, and what they tell of live segments.
        let jobs: Vec<_> = crate::lock(&self.volume.jobs).drain(..records.len()).collect();
        for live in jobs.iter().filter_map(|job| job.live.as_ref()) {
            self.volume.remove_live(live);
        }
        drop(catalogue);
        for job in &jobs {
            match &job.record {
                Record::Sealed(segment) => self.volume.sealed_with_damage(segment.stream, segment.nonce),
                Record::Retired { nonce, .. } => self.volume.rot.forget(*nonce),
                _ => {}
            }
        }
    }

    /// The whole manifest as a catalogue in memory. What else waits to be applied is in it twice then, which does no harm.
    fn in_memory(&self) -> io::Result<Catalogue> {
        let other = |e: CatalogueError| io::Error::other(e.to_string());
        let (file, end) = match &self.volume.books.lock().log {
            Some(log) => (log.file(), log.end()),
            None => return Err(io::Error::other("the manifest is not open")),
        };
        let catalogue = Catalogue::in_memory().map_err(other)?;
        let mut records = Vec::new();
        manifest_log::replay(file.as_ref(), HEADER_BYTES, end.offset, |record, _| records.push(record))?;
        catalogue.apply(&records, Some(end)).map_err(other)?;
        Ok(catalogue)
    }

    pub(super) fn compact(&mut self) -> io::Result<()> {
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
        let mut books = self.volume.books.lock();
        let Some(manifest) = &mut books.log else { return Ok(()) };
        if !crate::lock(&self.volume.jobs).is_empty() {
            // Something was sealed meanwhile: the next round is as good.
            return Ok(());
        }
        let Ok(catalogue) = self.volume.catalogue.write() else { return Ok(()) };
        let Ok(view) = catalogue.view() else { return Ok(()) };
        let holds = crate::lock(&self.volume.holds).clone();
        let keep = |record: &Record| match record {
            Record::Sealed(s) => view.by_file(s.file_number).ok().flatten().is_some_and(|now| now.nonce == s.nonce),
            Record::Hold(hold) => holds.contains(hold),
            Record::Damaged(d) => view.by_file(d.file_number).ok().flatten().is_some_and(|now| now.nonce == d.nonce),
            Record::Checked(c) => view.checked(c.file_number).ok().flatten().is_some_and(|now| now == *c),
            Record::Retired { .. } | Record::HoldReleased { .. } => false,
        };
        let generation = self.volume.env.random.u64();
        let position = match self.volume.with_room(|| manifest.compact(generation, keep)) {
            // The long one is as good, and recording goes on with it.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, volume = %self.volume.uuid, "there is no room to write the manifest anew; that is tried again later");
                return Ok(());
            }
            other => other?,
        };
        drop(view);
        if let Err(error) = catalogue.compacted(position) {
            tracing::error!(%error, "the catalogue failed");
        }
        Ok(())
    }
}
