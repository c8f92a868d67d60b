//! A store whose workers run when they are told to, on the thread of whoever tells them: for simulations, in which the same seed gives the same
//! course of events.

use std::sync::atomic::Ordering;

use crate::env::Env;
use crate::error::OpenError;
use crate::store::{Store, Workers};
use crate::stream::{Destination, StreamState};
use crate::types::{StoreConfig, VolumeConfig};

/// An open store and the workers of its volumes. Dropping it is the end of a process that is killed.
pub struct Stepped {
    store: Store,
    /// By the position of the volume in the configuration; none where it could not be opened.
    workers: Vec<Option<Workers>>,
}

impl Stepped {
    /// Opens the volumes. Nothing works but what is stepped.
    ///
    /// # Errors
    /// The first volume's error when none can be opened.
    pub fn open(config: &StoreConfig, env: Env) -> Result<Self, OpenError> {
        let (store, opened) = Store::assemble(config, env)?;
        let mut workers: Vec<_> = config.volumes.iter().map(|_| None).collect();
        for opened in opened {
            let at = config.volumes.iter().position(|volume| volume.dir == opened.volume.dir);
            if let Some(place) = at.and_then(|at| workers.get_mut(at)) {
                *place = Some(opened);
            }
        }
        Ok(Self { store, workers })
    }

    /// The store itself. What waits for a worker, as its `close`, would wait for ever.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a volume is open and may be written.
    #[must_use]
    pub fn is_well(&self, at: usize) -> bool {
        self.of(at).is_some_and(|workers| !workers.volume.has_failed())
    }

    /// Writes what waits for a volume.
    pub fn write(&mut self, at: usize) {
        if let Some(workers) = self.of_mut(at) {
            workers.writer.tick();
        }
    }

    /// Whether a volume's writer has something to write.
    #[must_use]
    pub fn waits(&self, at: usize) -> bool {
        let here = self.of(at).map(|workers| workers.volume.at);
        let waits = |stream: &StreamState| stream.volume() == here && stream.memory().waiting_bytes > 0;
        here.is_some() && self.store.inner().streams().iter().any(|stream| waits(stream))
    }

    /// A volume's disk has been keeping its writer waiting since `since_us`.
    pub fn hang(&self, at: usize, since_us: u64) {
        if let Some(workers) = self.of(at) {
            workers.volume.pending.write(Some(since_us));
        }
    }

    /// Makes durable what was written to a volume.
    pub fn sync(&self, at: usize) {
        if let Some(workers) = self.of(at) {
            workers.syncer.once();
        }
    }

    /// A round of a volume's keeper. Whether all that is on the volume is in its catalogue.
    pub fn keep(&mut self, at: usize) -> bool {
        let Some(workers) = self.of_mut(at) else { return true };
        if !workers.volume.has_failed() {
            workers.keeper.round(false);
        }
        workers.volume.catalogue_complete.load(Ordering::Acquire)
    }

    /// Looks after volumes that hang, or no longer do.
    pub fn watch(&self) {
        self.store.inner().watch(self.store.env().clock.monotonic_us());
    }

    /// Opens a volume anew, without what was not written; streams that no other volume takes meanwhile wait in memory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reopen(&mut self, at: usize, config: &VolumeConfig) -> Result<(), OpenError> {
        let Some(place) = self.workers.get_mut(at) else { return Ok(()) };
        if let Some(workers) = place.take() {
            self.store.take_out_stepped(&workers.volume, Destination::Wait);
        }
        *place = Some(self.store.open_volume(config)?);
        Ok(())
    }

    fn of(&self, at: usize) -> Option<&Workers> {
        self.workers.get(at)?.as_ref()
    }

    fn of_mut(&mut self, at: usize) -> Option<&mut Workers> {
        self.workers.get_mut(at)?.as_mut()
    }
}
