//! The thread that keeps house on a volume: catalogue, pool of empty files, retirement, and what recovery left for later.
//!
//! | what | file |
//! |---|---|
//! | the rounds | here |
//! | what the manifest got goes into the catalogue; the manifest written anew | [`jobs`] |
//! | empty files made, and made of retired ones | [`files`] |
//! | which segment goes next | [`retire`] |
//! | what opening left: catalogue, manifest, files that nobody knows | [`catch_up`] |
//! | a file that nobody knows | [`look`] |

mod catch_up;
mod files;
mod jobs;
mod look;
mod retire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catch_up::CatchUp;
pub(crate) use retire::LEASE_US;

use super::Volume;
use super::look_ahead::LookAhead;
use super::open::Later;

/// Between rounds when nothing happens.
const ROUND: Duration = Duration::from_secs(1);
/// The catalogue is made durable this often; what a crash loses of it is read from the manifest again.
const PERSIST_US: u64 = 60_000_000;

/// The thread's state.
pub(crate) struct Keeper {
    volume: Arc<Volume>,
    later: Option<CatchUp>,
    persisted_us: u64,
    /// Segments sealed and retired when the oldest footage was looked for.
    oldest_of: Option<(u64, u64)>,
    look_ahead: LookAhead,
}

impl Keeper {
    pub(crate) fn new(volume: Arc<Volume>, later: Later) -> Self {
        let persisted_us = volume.env.clock.monotonic_us();
        let later = Some(CatchUp::new(later, persisted_us));
        Self { volume, later, persisted_us, oldest_of: None, look_ahead: LookAhead::default() }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        loop {
            let goes_on = self.later.is_some() && !self.volume.has_failed();
            let longest = if goes_on { Duration::ZERO } else { ROUND };
            let wake = self.volume.wake_keeper.wait(Some(longest));
            if wake.stop {
                return;
            }
            if !self.volume.has_failed() {
                self.contained_round(wake.finish);
            }
            if wake.finish {
                self.last();
                return;
            }
        }
    }

    /// One round. Pages of the catalogue that change under redb may make it panic: that costs the catalogue, which is only a cache.
    fn contained_round(&mut self, finishing: bool) {
        let round = std::panic::AssertUnwindSafe(|| self.round(finishing));
        if std::panic::catch_unwind(round).is_err() {
            let before = self.later.take();
            self.later = Some(self.again(before));
        }
    }

    fn again(&self, before: Option<CatchUp>) -> CatchUp {
        tracing::error!(volume = %self.volume.uuid, "the catalogue made its thread panic; it is built anew in memory");
        CatchUp::again(before, self.volume.env.clock.monotonic_us())
    }

    /// One round; when `finishing`, nothing new is begun.
    pub(crate) fn round(&mut self, finishing: bool) {
        if !finishing && let Some(mut work) = self.later.take() {
            self.checked("make files", |k| k.make_files(false));
            self.checked("recover", |k| {
                let slice = std::panic::AssertUnwindSafe(|| k.catch_up(&mut work));
                k.later = match std::panic::catch_unwind(slice) {
                    Ok(is_done) => (!is_done?).then_some(work),
                    Err(_) => Some(k.again(Some(work))),
                };
                Ok(())
            });
        }
        self.apply_jobs();
        if finishing {
            return;
        }
        self.checked("make files", |k| k.make_files(true));
        self.look_ahead.look(&self.volume);
        self.checked("retire", Self::retire_doomed);
        self.checked("retire", Self::retire);
        self.checked("look through an empty file", Self::look_through);
        self.checked("empty a retired file", Self::reclaim);
        self.hurry();
        self.note_oldest();
        let now = self.volume.env.clock.monotonic_us();
        if now.saturating_sub(self.persisted_us) >= PERSIST_US {
            self.persisted_us = now;
            self.persist();
            self.checked("compact the manifest", Self::compact);
        }
    }

    /// Where a stream waits for a file, those that are to be sealed, and those that were retired, are not kept back until the next sync is due:
    /// it comes now. The writer says each tick that it still waits.
    fn hurry(&self) {
        let starving = self.volume.starving.swap(false, Ordering::AcqRel);
        if starving && crate::lock(&self.volume.pool).numbers().2 == 0 {
            self.volume.wake_sync.notify();
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
        if !self.volume.has_failed() {
            self.persist();
        }
    }
}
