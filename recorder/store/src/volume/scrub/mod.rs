//! The thread that reads all footage of a volume now and then, slowly, so that rot is found before somebody needs what rotted.
//!
//! A sealed segment is hashed as a whole. With the hash that it had when it was found whole, it still is; else every box of it is checked.

mod plan;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use framekeeper_media::WallTime;

use super::Volume;
use crate::env::{File, read_exact};
use crate::error::ReadError;
use crate::manifest::{Checked, Record, SealedSegment};
use crate::reader::Reader;
use crate::stats::{Counter, ScrubStats};
use crate::store::Inner;
use plan::Disk;

/// Read at a time: what somebody else may have to wait for.
const READ_BYTES: usize = 256 << 10;
/// Rows of the catalogue looked at before it is let go.
const ROWS: usize = 1000;
/// Shorter rests are taken together.
const REST_AT_LEAST_US: u64 = 5_000;

/// How far the thread is, for metrics.
#[derive(Debug, Default)]
pub(crate) struct ScrubCounters {
    /// Bytes read.
    pub(crate) bytes: Counter,
    /// Segments found whole.
    pub(crate) whole: Counter,
    /// Of the pass that goes on: segments passed, and segments that there were.
    pub(crate) passed: Counter,
    pub(crate) of: Counter,
}

impl Volume {
    pub(crate) fn scrubbed(&self) -> ScrubStats {
        let ScrubCounters { bytes, whole, passed, of } = &self.scrub;
        ScrubStats {
            bytes: bytes.get(),
            whole: whole.get(),
            rotten_bytes: self.counters.rotten.get(),
            passed: passed.get(),
            of: of.get(),
        }
    }
}

/// The thread's state.
pub(crate) struct Scrubber {
    reader: Reader,
    volume: Arc<Volume>,
    round_us: u64,
    /// Behind which segment it is, in the order in which footage ends.
    cursor: Option<(WallTime, u64)>,
}

/// It is to end.
struct End;

impl Scrubber {
    pub(crate) fn new(inner: Arc<Inner>, volume: Arc<Volume>, round: Duration) -> Self {
        let round_us = u64::try_from(round.as_micros()).unwrap_or(u64::MAX);
        Self { reader: Reader::new(inner), volume, round_us, cursor: None }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        let mut rest_us = plan::first_us(self.segments(), self.round_us);
        while self.rest(rest_us).is_ok() {
            rest_us = match self.step() {
                Ok(rest_us) => rest_us,
                Err(End) => return,
            };
        }
    }

    /// Reads one segment, where one is due; how long to rest then.
    fn step(&mut self) -> Result<u64, End> {
        let segments = self.segments();
        if !self.volume.catalogue_complete.load(Ordering::Acquire) || self.volume.has_failed() {
            return Ok(plan::not_yet_us(self.round_us));
        }
        let Some((segment, before)) = self.next() else { return Ok(plan::idle_us(segments, self.round_us)) };
        let reading = Reading::new(self.volume.clone());
        let info = segment.info(self.volume.uuid);
        let scrubbed = self.reader.scrub(&info, &reading, before.map(|before| before.hash));
        self.reader.let_go(&info);
        if reading.has_ended() {
            return Err(End);
        }
        match scrubbed {
            Ok(Some(hash)) => self.found_whole(&segment, hash),
            Ok(None) | Err(ReadError::Gone) => {}
            Err(error) => tracing::error!(%error, path = segment.path, "a segment could not be read through"),
        }
        Ok(plan::between_us(segments, self.round_us))
    }

    fn found_whole(&self, segment: &SealedSegment, hash: [u8; 32]) {
        self.volume.scrub.whole.add(1);
        // Retired meanwhile: there is nothing to remember.
        if self.volume.has_failed() || self.volume.lists(segment.file_number, segment.nonce).is_none() {
            return;
        }
        let at = self.volume.env.clock.wall();
        let checked = Checked { file_number: segment.file_number, nonce: segment.nonce, at, hash };
        if let Err(error) = self.volume.record(Record::Checked(checked), None) {
            self.volume.fail("write manifest.log", &error);
        }
    }

    fn segments(&self) -> u64 {
        let catalogue = self.volume.catalogue.read().ok();
        catalogue.and_then(|catalogue| catalogue.view().ok()?.count().ok()).unwrap_or(0)
    }

    /// The next segment that is due, with what is known of its last time.
    fn next(&mut self) -> Option<(SealedSegment, Option<Checked>)> {
        let now = self.volume.env.clock.wall();
        let counters = &self.volume.scrub;
        if self.cursor.is_none() {
            counters.passed.set(0);
            counters.of.set(self.segments());
        }
        loop {
            let rows = {
                let catalogue = self.volume.catalogue.read().ok()?;
                catalogue.view().ok()?.by_age(self.cursor, ROWS).ok()?
            };
            for (segment, checked) in &rows {
                self.cursor = Some((segment.end, segment.file_number));
                counters.passed.add(1);
                if plan::is_due(checked.map(|checked| checked.at), now, self.round_us) {
                    return Some((segment.clone(), *checked));
                }
            }
            if rows.len() < ROWS {
                self.cursor = None;
                return None;
            }
        }
    }

    fn rest(&self, us: u64) -> Result<(), End> {
        rest(&self.volume, us)
    }
}

fn rest(volume: &Volume, us: u64) -> Result<(), End> {
    let wake = volume.wake_scrub.wait(Some(Duration::from_micros(us)));
    if wake.stop || wake.finish { Err(End) } else { Ok(()) }
}

/// The thread's reads of one segment: with rests between them, and none while the disk has enough to do.
#[derive(Clone)]
pub(crate) struct Reading {
    volume: Arc<Volume>,
    state: Arc<ReadingState>,
}

#[derive(Default)]
struct ReadingState {
    /// The store is closed: what could not be read says nothing.
    ended: AtomicBool,
    /// The disk did not give something.
    failed: AtomicBool,
    /// Rest that is owed, µs.
    owed_us: AtomicU64,
}

impl Reading {
    fn new(volume: Arc<Volume>) -> Self {
        Self { volume, state: Arc::default() }
    }

    /// Whether the store was closed meanwhile.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.ended.load(Ordering::Acquire)
    }

    /// Whether the disk did not give something.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.failed.load(Ordering::Acquire)
    }

    /// A file read in this way.
    pub(crate) fn paced(&self, file: Arc<dyn File>) -> Paced {
        Paced { file, reading: self.clone() }
    }

    fn disk(&self) -> Disk {
        let volume = &self.volume;
        Disk {
            stalled: volume.is_stalled(),
            unsynced_us: volume.unsynced_us(volume.env.clock.monotonic_us()),
            sync_interval_us: volume.sync_interval_us,
            last_sync_us: volume.counters.last_sync_us.get(),
        }
    }

    fn rest(&self, us: u64) -> io::Result<()> {
        if self.has_ended() || rest(&self.volume, us).is_err() {
            self.state.ended.store(true, Ordering::Release);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the store is closed"));
        }
        Ok(())
    }
}

/// A file that is read with rests.
pub(crate) struct Paced {
    file: Arc<dyn File>,
    reading: Reading,
}

impl Paced {
    /// BLAKE3 of the whole file.
    pub(crate) fn hash(&self) -> io::Result<[u8; 32]> {
        let size = self.file.size()?;
        // From the disk, not from what the kernel remembers of it.
        self.file.forget(0, size);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        while at < size {
            let n = usize::try_from(size - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let piece = buffer.get_mut(..n).unwrap_or_default();
            read_exact(self, piece, at)?;
            hasher.update(piece);
            at += n as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

impl File for Paced {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        while let Some(us) = self.reading.disk().rest_us() {
            self.reading.rest(us)?;
        }
        let clock = &self.reading.volume.env.clock;
        let start = clock.monotonic_us();
        let read = self.file.read_at(into, offset);
        let took = plan::behind_us(clock.monotonic_us().saturating_sub(start));
        let state = &self.reading.state;
        let owed_us = state.owed_us.fetch_add(took, Ordering::AcqRel) + took;
        if owed_us >= REST_AT_LEAST_US {
            state.owed_us.store(0, Ordering::Release);
            self.reading.rest(owed_us)?;
        }
        match &read {
            Ok(bytes) => self.reading.volume.scrub.bytes.add(*bytes as u64),
            Err(_) => state.failed.store(true, Ordering::Release),
        }
        read
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn forget(&self, offset: u64, bytes: u64) {
        self.file.forget(offset, bytes);
    }

    fn write_vectored_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
        Err(only_read())
    }

    fn sync(&self) -> io::Result<()> {
        Err(only_read())
    }

    fn zero_range(&self, _: u64, _: u64) -> io::Result<()> {
        Err(only_read())
    }

    fn set_size(&self, _: u64) -> io::Result<()> {
        Err(only_read())
    }
}

fn only_read() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "it is only read")
}
