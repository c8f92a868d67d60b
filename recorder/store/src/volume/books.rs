//! The manifest of an open volume. Recording begins before it has been read: what is to be put into it until then waits.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Job, Volume};
use crate::env::File;
use crate::lock;
use crate::manifest::Record;
use crate::manifest_log::ManifestLog;
use crate::segment::live::LiveSegment;

/// The manifest, once it is open.
#[derive(Default)]
pub(crate) struct Books {
    inner: Mutex<Inner>,
    opened: Condvar,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) log: Option<ManifestLog>,
    /// In the order in which they are to be appended. Few: segments that are sealed while a manifest is read.
    waiting: Vec<(Record, Option<Arc<LiveSegment>>)>,
}

impl Books {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The file, to be synced by whoever appended; `None` while it is not open.
    pub(crate) fn file(&self) -> Option<Arc<dyn File>> {
        self.lock().log.as_ref().map(ManifestLog::file)
    }

    /// The file, when it is open; that is waited for.
    pub(crate) fn wait(&self, at_most: Duration) -> io::Result<Arc<dyn File>> {
        let (inner, _) = match self.opened.wait_timeout_while(self.lock(), at_most, |inner| inner.log.is_none()) {
            Ok(both) => both,
            Err(poisoned) => poisoned.into_inner(),
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the manifest has not been read yet");
        inner.log.as_ref().map(ManifestLog::file).ok_or_else(late)
    }
}

impl Volume {
    /// Appends to the manifest and hands the record to the catalogue, in the same order.
    pub(crate) fn record(&self, record: Record, live: Option<Arc<LiveSegment>>) -> io::Result<()> {
        if self.has_failed() {
            return Err(io::Error::other("the volume has failed before"));
        }
        let mut books = self.books.lock();
        let Some(log) = &mut books.log else {
            books.waiting.push((record, live));
            return Ok(());
        };
        self.append(log, record, live)?;
        drop(books);
        self.wrote(|dirty| dirty.manifest = true);
        self.wake_keeper.notify();
        Ok(())
    }

    fn append(&self, log: &mut ManifestLog, record: Record, live: Option<Arc<LiveSegment>>) -> io::Result<()> {
        let position = self.with_room(|| log.append(&record))?;
        lock(&self.jobs).push(Job { record, position, live });
        Ok(())
    }

    /// The manifest was opened: what waited goes in, behind `first`.
    pub(crate) fn open_books(&self, mut log: ManifestLog, first: Vec<Record>) -> io::Result<()> {
        let mut books = self.books.lock();
        for record in first {
            self.append(&mut log, record, None)?;
        }
        for (record, live) in std::mem::take(&mut books.waiting) {
            self.append(&mut log, record, live)?;
        }
        books.log = Some(log);
        self.books.opened.notify_all();
        drop(books);
        self.wrote(|dirty| dirty.manifest = true);
        Ok(())
    }
}
