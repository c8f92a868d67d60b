//! The thread that makes a volume's writes durable: one sync for all streams, then what follows from it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use framekeeper_media::boxes::segment::{SEALED_PART_OFFSET, Sealed};

use super::{Dirty, Volume};
use crate::env::write_all;
use crate::manifest::Record;
use crate::segment::live::LiveSegment;
use crate::store::Inner;
use crate::types::DurableObserver;

/// The thread's state.
pub(crate) struct Syncer {
    inner: Arc<Inner>,
    volume: Arc<Volume>,
    interval_us: u64,
    observer: Option<DurableObserver>,
}

impl Syncer {
    pub(crate) fn new(inner: Arc<Inner>, volume: Arc<Volume>, observer: Option<DurableObserver>) -> Self {
        let interval_us = volume.sync_interval_us;
        Self { inner, volume, interval_us, observer }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(self) {
        let mut next_us = self.volume.env.clock.monotonic_us() + self.interval_us;
        loop {
            let now = self.volume.env.clock.monotonic_us();
            let wake = self.volume.wake_sync.wait(Some(Duration::from_micros(next_us.saturating_sub(now).max(1))));
            if wake.stop {
                return;
            }
            let now = self.volume.env.clock.monotonic_us();
            if !wake.notified && !wake.finish && now < next_us {
                continue;
            }
            // From start to start; where a sync takes longer, the next one begins at once.
            next_us = now + self.interval_us;
            while self.once() && wake.finish {}
            if wake.finish {
                self.volume.wake_keeper.finish();
                return;
            }
        }
    }

    /// Syncs what was written so far; whether there was anything.
    pub(crate) fn once(&self) -> bool {
        let noted_us = self.volume.env.clock.monotonic_us();
        let dirty = std::mem::take(&mut *crate::lock(&self.volume.dirty));
        let Some(since_us) = dirty.since_us else { return false };
        self.volume.pending.sync(Some(since_us));
        let result = if self.volume.has_failed() {
            Err(io::Error::other("the volume has failed before"))
        } else {
            self.sync(&dirty, noted_us)
        };
        match result {
            Ok(()) => dirty.latches.iter().for_each(|latch| latch.open()),
            // Who waits for these waits for the volume that the stream goes on to.
            Err(error) => self.volume.fail("sync", &error),
        }
        self.volume.pending.sync(None);
        true
    }

    fn sync(&self, dirty: &Dirty, noted_us: u64) -> io::Result<()> {
        let clock = &self.volume.env.clock;
        let start = clock.monotonic_us();
        self.volume.sync(dirty)?;
        self.volume.counters.synced(clock.monotonic_us().saturating_sub(start));
        for (stream, mark) in dirty.marks.values() {
            let durable = stream.settle(*mark, &self.inner.budget);
            if let (Some(observer), Some(durable)) = (&self.observer, durable) {
                observer.call(stream.ident.uid, durable);
            }
        }
        self.volume.synced_us.store(noted_us, Ordering::Release);
        if crate::lock(&self.volume.pool).numbers().3 > 0 {
            self.volume.wake_keeper.notify();
        }
        dirty.seals.iter().try_for_each(|live| self.seal(live))?;
        dirty.sealed.iter().try_for_each(|live| self.record(live))
    }

    /// The index of a segment is durable: now the segment may say that it is sealed.
    fn seal(&self, live: &Arc<LiveSegment>) -> io::Result<()> {
        let Some(record) = live.record() else { return Ok(()) };
        let sealed =
            Sealed { index_offset: record.index_offset, index_length: record.index_length, end_wall: record.end };
        let fixed = &live.fixed;
        let at = fixed.box_offset + SEALED_PART_OFFSET as u64;
        write_all(fixed.file.as_ref(), &sealed.encode(fixed.nonce), at)?;
        self.volume.counters.sealed.add(1);
        self.volume.wrote(|dirty| {
            dirty.files.insert(fixed.file_number, fixed.file.clone());
            dirty.sealed.push(live.clone());
        });
        Ok(())
    }

    /// That a segment is sealed is durable in itself: now the manifest may say so. Said before, a loss of power could leave a manifest
    /// that names a seal which its file lacks.
    fn record(&self, live: &Arc<LiveSegment>) -> io::Result<()> {
        match live.record() {
            Some(record) => self.volume.record(Record::Sealed(record), Some(live.clone())),
            None => Ok(()),
        }
    }
}
