//! The thread that makes a volume's writes durable: one sync for all streams, then what follows from it.
//!
//! A sync begins when a batch has just been written, if one is about its time: begun a moment earlier, it would leave that batch, and
//! with it a whole tick more, to the next one. Where writes go past the page cache and the disk takes long for them, that moment is long.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::segment::{SEALED_PART_OFFSET, Sealed};

use super::{Dirty, Volume};
use crate::env::write_all;
use crate::manifest::Record;
use crate::segment::live::LiveSegment;
use crate::store::Inner;
use crate::types::DurableObserver;

/// A sync may begin so much earlier or later than it is due, to begin behind a batch: half a tick at most, so that with the tick of
/// recorders there is always a batch that ends meanwhile.
const SLACK_US_AT_MOST: u64 = 50_000;

/// An orderly end waits this long for the catalogue of a volume that was opened just before. Mostly it is complete long since.
const CATCH_UP_AT_MOST: Duration = Duration::from_secs(1);

/// When the next sync begins, by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    /// As soon as a batch is written, from then on.
    behind_a_batch_us: u64,
    /// Whatever is being written.
    anyway_us: u64,
}

impl Due {
    /// Behind a sync that began at `start_us`.
    fn after(start_us: u64, interval_us: u64) -> Self {
        let slack_us = (interval_us / 10).min(SLACK_US_AT_MOST);
        let due_us = start_us.saturating_add(interval_us);
        Self { behind_a_batch_us: due_us - slack_us, anyway_us: due_us.saturating_add(slack_us) }
    }
}

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
        let clock = &self.volume.env.clock;
        let mut due = Due::after(clock.monotonic_us(), self.interval_us);
        loop {
            self.volume.pending.sync_from(due.behind_a_batch_us);
            let left_us = due.anyway_us.saturating_sub(clock.monotonic_us()).max(1);
            let wake = self.volume.wake_sync.wait(Some(Duration::from_micros(left_us)));
            if wake.stop {
                return;
            }
            let now = clock.monotonic_us();
            if !wake.notified && !wake.finish && now < due.anyway_us {
                continue;
            }
            if wake.finish && !self.volume.has_failed() {
                // What waits for the manifest to be open comes in time to be synced.
                self.volume.caught_up.wait_until(Instant::now() + CATCH_UP_AT_MOST);
            }
            // From start to start; where a sync takes longer, the next one begins at once.
            due = Due::after(now, self.interval_us);
            self.volume.pending.sync_from(due.behind_a_batch_us);
            while self.once() && wake.finish {}
            if wake.finish {
                self.volume.wake_keeper.finish();
                return;
            }
        }
    }

    /// Syncs what was written so far; whether there was anything.
    pub(crate) fn once(&self) -> bool {
        let clock = &self.volume.env.clock;
        let (noted_us, noted) = (clock.monotonic_us(), clock.wall());
        let dirty = std::mem::take(&mut *crate::lock(&self.volume.dirty));
        let Some(since_us) = dirty.since_us else {
            // All that was noted has been synced, also what was noted between the start of the last sync and now: a file that was retired
            // then may be emptied. With all streams waiting for a file, nothing else is ever written, and no sync would say so.
            if !self.volume.has_failed() {
                self.durable_until(noted_us);
            }
            return false;
        };
        self.volume.pending.sync(Some(since_us));
        let result = if self.volume.has_failed() {
            Err(io::Error::other("the volume has failed before"))
        } else {
            self.sync(&dirty, noted_us, noted)
        };
        let result = result.and_then(|()| {
            let followed = self.follow(&dirty);
            // What they wait for is durable, whatever becomes of the volume in what follows. It may have been let go of, and no other volume be
            // asked for it again.
            dirty.latches.iter().for_each(|latch| latch.open());
            followed
        });
        if let Err(error) = result {
            // Where it is not durable, who waits for it waits for the volume that the stream goes on to.
            self.volume.fail("sync", &error);
        }
        self.volume.pending.sync(None);
        true
    }

    fn sync(&self, dirty: &Dirty, noted_us: u64, noted: WallTime) -> io::Result<()> {
        let clock = &self.volume.env.clock;
        let start = clock.monotonic_us();
        self.volume.sync(dirty)?;
        self.volume.counters.synced(clock.monotonic_us().saturating_sub(start));
        timing!(volume = %self.volume.uuid, began_us = noted.0, ended_us = clock.wall().0, "synced");
        for (stream, mark) in dirty.marks.values() {
            let durable = stream.settle(*mark, &self.inner.budget);
            if let (Some(observer), Some(durable)) = (&self.observer, durable) {
                observer.call(stream.ident.uid, durable);
            }
        }
        self.durable_until(noted_us);
        Ok(())
    }

    /// What follows from a sync: seals, and what the manifest is told.
    fn follow(&self, dirty: &Dirty) -> io::Result<()> {
        dirty.seals.iter().try_for_each(|live| self.seal(live))?;
        dirty.sealed.iter().try_for_each(|live| self.record(live))
    }

    /// What was noted by `noted_us` is durable; files that wait for that may be emptied.
    fn durable_until(&self, noted_us: u64) {
        self.volume.synced_us.store(noted_us, Ordering::Release);
        if crate::lock(&self.volume.pool).numbers().3 > 0 {
            self.volume.wake_keeper.notify();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_US: u64 = 100_000;
    const INTERVAL_US: u64 = 500_000;

    /// Writes of any length up to half a tick: how long after the last tick that a sync covers the next sync begins, at most. Of all
    /// phases between ticks and syncs.
    fn longest_us(due: impl Fn(u64) -> Due) -> u64 {
        let mut longest = 0;
        for phase in 0..100_u64 {
            let mut random = phase.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = due(phase * 1_000);
            let mut covered = None;
            for tick in 0..2_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (began, ended) = (tick * TICK_US, tick * TICK_US + (random >> 33) % (TICK_US / 2));
                // The syncs that begin up to the end of this batch.
                loop {
                    let (start, last) = match ended {
                        at if next.anyway_us < at => (next.anyway_us, began.checked_sub(TICK_US)),
                        at if next.behind_a_batch_us <= at => (at, Some(began)),
                        _ => break,
                    };
                    // The first ones may come at any time.
                    let before = covered.replace(last).flatten().filter(|_| tick > 20);
                    longest = longest.max(before.map_or(0, |before: u64| start - before));
                    next = due(start);
                }
            }
        }
        longest
    }

    #[test]
    fn what_a_sync_just_misses_waits_no_longer_than_the_interval_and_a_tick() {
        let ours = longest_us(|start| Due::after(start, INTERVAL_US));
        assert!(ours <= INTERVAL_US + TICK_US, "{ours}");
        // On time and no later, whatever is being written: worse.
        let on_time = longest_us(|start| {
            let at = start + INTERVAL_US;
            Due { behind_a_batch_us: u64::MAX, anyway_us: at }
        });
        assert!(on_time > INTERVAL_US + TICK_US + TICK_US / 4, "{on_time}");
    }

    #[test]
    fn a_short_interval_has_little_slack() {
        assert_eq!(Due::after(1_000, 100_000), Due { behind_a_batch_us: 91_000, anyway_us: 111_000 });
        assert_eq!(Due::after(0, 2_000_000), Due { behind_a_batch_us: 1_950_000, anyway_us: 2_050_000 });
    }
}
