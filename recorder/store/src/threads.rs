//! The threads of a store: four a volume, one that watches them all, and one for the limits of streams.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::env::Env;
use crate::inner::Inner;
use crate::lock;
use crate::retention::{self, Retirer};
use crate::stream::Destination;
use crate::volume::Volume;
use crate::volume::keeper::Keeper;
use crate::volume::scrub::Scrubber;
use crate::volume::signal::Signal;
use crate::volume::sync::Syncer;
use crate::volume::writer::Writer;

/// How often volumes are looked at.
const WATCH: Duration = Duration::from_millis(250);
/// How long an orderly end waits for a disk. A hung one is left behind, with its threads.
pub(crate) const END_AT_MOST: Duration = Duration::from_secs(4);

/// What works on a volume, each on a thread of its own.
pub(crate) struct Workers {
    pub(crate) volume: Arc<Volume>,
    pub(crate) writer: Writer,
    pub(crate) syncer: Syncer,
    pub(crate) keeper: Keeper,
    pub(crate) scrubber: Scrubber,
}

/// The threads. When this is dropped they end as if the process had been killed.
pub(crate) struct Threads {
    inner: Arc<Inner>,
    /// By position of the volume.
    of_volumes: Mutex<HashMap<usize, Vec<JoinHandle<()>>>>,
    watch: Arc<Signal>,
    watcher: Mutex<Option<JoinHandle<()>>>,
    retirer: Mutex<Option<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            of_volumes: Mutex::default(),
            watch: Arc::default(),
            watcher: Mutex::default(),
            retirer: Mutex::default(),
        }
    }

    pub(crate) fn start(&self, workers: Workers) {
        let Workers { volume, writer, syncer, keeper, scrubber } = workers;
        self.spawn("writer", &volume, move || writer.run());
        self.spawn("sync", &volume, move || syncer.run());
        self.spawn("keeper", &volume, move || keeper.run());
        self.spawn("scrub", &volume, move || scrubber.run());
    }

    fn spawn(&self, what: &str, volume: &Volume, run: impl FnOnce() + Send + 'static) {
        let name = format!("store-{what}-{}", volume.at);
        match std::thread::Builder::new().name(name).spawn(run) {
            Ok(handle) => lock(&self.of_volumes).entry(volume.at).or_default().push(handle),
            Err(error) => volume.fail("start a thread", &error),
        }
    }

    /// Begins to give up footage by the limits of streams.
    pub(crate) fn retire(&self) {
        let (inner, signal) = (Arc::downgrade(&self.inner), self.inner.retention.wake.clone());
        let run = move || {
            let mut retirer = Retirer::new();
            loop {
                let wake = signal.wait(Some(retention::ROUND));
                let Some(inner) = inner.upgrade().filter(|_| !wake.stop) else { return };
                if wake.finish {
                    return retirer.last(&inner);
                }
                // A catalogue whose pages changed under redb may panic; its keeper builds it anew.
                let round = std::panic::AssertUnwindSafe(|| retirer.round(&inner));
                if std::panic::catch_unwind(round).is_err() {
                    tracing::error!(
                        "a catalogue failed while the limits of streams were looked at; that is tried again"
                    );
                }
            }
        };
        match std::thread::Builder::new().name("store-retention".to_owned()).spawn(run) {
            Ok(handle) => *lock(&self.retirer) = Some(handle),
            Err(error) => tracing::error!(%error, "no footage goes by its limits: a thread could not be started"),
        }
    }

    /// In order, but not waiting for a disk that hangs: then the thread is left behind.
    pub(crate) fn end_retention(&self, until: Instant) {
        self.inner.retention.wake.finish();
        let retirer = lock(&self.retirer).take();
        while retirer.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Begins to watch the volumes.
    pub(crate) fn watch(&self, env: &Env) {
        let (inner, signal, clock) = (Arc::downgrade(&self.inner), self.watch.clone(), env.clock.clone());
        let run = move || {
            while !signal.wait(Some(WATCH)).stop {
                let Some(inner) = inner.upgrade() else { return };
                inner.watch(clock.monotonic_us());
            }
        };
        match std::thread::Builder::new().name("store-watch".to_owned()).spawn(run) {
            Ok(handle) => *lock(&self.watcher) = Some(handle),
            Err(error) => tracing::error!(%error, "volumes are not watched: a thread could not be started"),
        }
    }

    /// Ends the threads of a volume in order: all that waits is written, synced and sealed. Whether they ended in time.
    pub(crate) fn finish(&self, volume: &Volume, until: Instant) -> bool {
        volume.wake_scrub.stop();
        if volume.has_failed() {
            volume.wake_sync.finish();
            volume.wake_keeper.finish();
        }
        volume.wake_writer.finish();
        self.join(volume, until)
    }

    fn join(&self, volume: &Volume, until: Instant) -> bool {
        let mut handles = lock(&self.of_volumes).remove(&volume.at).unwrap_or_default();
        while !handles.is_empty() && Instant::now() < until {
            let (ended, going): (Vec<_>, Vec<_>) = handles.into_iter().partition(JoinHandle::is_finished);
            for handle in ended {
                if handle.join().is_err() {
                    tracing::error!(volume = %volume.uuid, "a thread of the store panicked");
                }
            }
            handles = going;
            if !handles.is_empty() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if !handles.is_empty() {
            tracing::error!(volume = %volume.uuid, dir = %volume.dir.display(), "the disk hangs; its threads are left behind");
        }
        handles.is_empty()
    }

    /// Nobody writes to a volume any more: whoever waits need not.
    pub(crate) fn release(&self, volume: &Volume) {
        for stream in self.inner.streams() {
            stream.move_to(volume.at, Destination::Nowhere, &self.inner.budget);
        }
        for latch in std::mem::take(&mut lock(&volume.dirty).latches) {
            latch.open();
        }
    }

    pub(crate) fn stop_watching(&self) {
        self.watch.stop();
        if let Some(watcher) = lock(&self.watcher).take()
            && watcher.join().is_err()
        {
            tracing::error!("the thread that watches volumes panicked");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Release);
        self.stop_watching();
        self.inner.retention.wake.stop();
        let volumes = self.inner.volumes();
        for volume in &volumes {
            for signal in [&volume.wake_writer, &volume.wake_sync, &volume.wake_keeper, &volume.wake_scrub] {
                signal.stop();
            }
        }
        let until = Instant::now() + END_AT_MOST;
        for volume in &volumes {
            self.join(volume, until);
            self.release(volume);
        }
    }
}
