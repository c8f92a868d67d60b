//! The thread that keeps house on a volume: catalogue, pool of empty files, retirement, and what recovery left for later.
//!
//! | what | file |
//! |---|---|
//! | the rounds | here |
//! | what the manifest got goes into the catalogue; the manifest written anew | [`jobs`] |
//! | empty files made, and made of retired ones | [`files`] |
//! | which segment goes next | [`retire`] |
//! | what opening left: the rest of the manifest, files that nobody knows | [`catch_up`] |

mod catch_up;
mod files;
mod jobs;
mod retire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use catch_up::day_folders;
pub(crate) use retire::LEASE_US;

use super::Volume;
use super::open::Later;

/// Between rounds when nothing happens.
const ROUND: Duration = Duration::from_secs(1);
/// The catalogue is made durable this often; what a crash loses of it is read from the manifest again.
const PERSIST_US: u64 = 60_000_000;

/// The thread's state.
pub(crate) struct Keeper {
    volume: Arc<Volume>,
    later: Option<Later>,
    persisted_us: u64,
}

impl Keeper {
    pub(crate) fn new(volume: Arc<Volume>, later: Later) -> Self {
        let persisted_us = volume.env.clock.monotonic_us();
        Self { volume, later: Some(later), persisted_us }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        loop {
            let longest = if self.later.is_some() { Duration::ZERO } else { ROUND };
            let wake = self.volume.wake_keeper.wait(Some(longest));
            if wake.stop {
                return;
            }
            if !self.volume.has_failed() {
                self.round(wake.finish);
            }
            if wake.finish {
                self.last();
                return;
            }
        }
    }

    /// One round; when `finishing`, nothing new is begun.
    pub(crate) fn round(&mut self, finishing: bool) {
        if !finishing && let Some(later) = self.later.take() {
            self.checked("make files", |k| k.make_files(false));
            self.checked("recover", |k| k.catch_up(&later));
        }
        self.apply_jobs();
        if finishing {
            return;
        }
        self.checked("make files", |k| k.make_files(true));
        self.checked("retire", Self::retire);
        self.checked("empty a retired file", Self::reclaim);
        let now = self.volume.env.clock.monotonic_us();
        if now.saturating_sub(self.persisted_us) >= PERSIST_US {
            self.persisted_us = now;
            self.persist();
            self.checked("compact the manifest", Self::compact);
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
        self.persist();
    }
}
