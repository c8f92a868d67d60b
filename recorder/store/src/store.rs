//! The store: volumes, streams, threads.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::env::Env;
use crate::error::{HoldError, OpenError, StreamError, VolumeError};
pub(crate) use crate::inner::Inner;
use crate::manifest::Record;
use crate::reader::Reader;
use crate::retention::Retention;
use crate::stats::{StreamStats, VolumeStats};
use crate::stream::{Destination, StreamState, StreamWriter};
pub(crate) use crate::threads::Workers;
use crate::threads::{END_AT_MOST, Threads};
use crate::types::{Durable, Hold, Placement, PreviousRun, Storage, StoreConfig, StreamIdent, VolumeConfig};
use crate::volume::Volume;
use crate::volume::keeper::Keeper;
use crate::volume::open::open;
use crate::volume::scrub::Scrubber;
use crate::volume::sync::Syncer;
use crate::volume::writer::Writer;
use crate::{identity, lock, names};

/// How often, and how long each time, a volume's lock is waited for: two seconds.
const LOCK_LOOKS: u32 = 40;
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// A hold waits this long for the manifest to be read.
const BOOKS_AT_MOST: Duration = Duration::from_secs(60);

/// Whoever read from a volume when it was stopped, or looks whether it is in use, lets go of it at once.
fn when_free<T>(open: impl Fn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let mut opened = open();
    for _ in 0..LOCK_LOOKS {
        if !matches!(opened, Err(OpenError::InUse { .. })) {
            break;
        }
        std::thread::sleep(LOCK_LOOK);
        opened = open();
    }
    opened
}

/// An open store. Clones are the same store; when the last one is dropped without [`Self::close`], its threads end as if the process had
/// been killed.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    threads: Arc<Threads>,
    config: Arc<StoreConfig>,
    not_opened: Arc<Mutex<Vec<(PathBuf, OpenError)>>>,
    /// Held while volumes come and go.
    changing: Arc<Mutex<()>>,
    env: Env,
}

impl Store {
    /// Opens the volumes and begins to work: unsealed segments are found first, so that recording may start when this returns; the rest
    /// of the catalogue is gathered in the background.
    ///
    /// # Errors
    /// The first volume's error when none can be opened. Where at least one can, the others are in [`Self::volumes`] as failed.
    pub fn open(config: StoreConfig, env: Env) -> Result<Self, OpenError> {
        let (store, workers) = Self::assemble(&config, env)?;
        for workers in workers {
            store.threads.start(workers);
        }
        store.threads.watch(&store.env);
        store.threads.retire();
        Ok(store)
    }

    /// A store that has no volume yet: [`Self::start_volume`] gives it some.
    #[must_use]
    pub fn without_volumes(config: &StoreConfig, env: Env) -> Self {
        let store = Self::empty(config, env);
        store.threads.watch(&store.env);
        store
    }

    fn empty(config: &StoreConfig, env: Env) -> Self {
        let inner = Arc::new(Inner::new(config));
        Self {
            threads: Arc::new(Threads::new(inner.clone())),
            inner,
            config: Arc::new(config.clone()),
            not_opened: Arc::default(),
            changing: Arc::default(),
            env,
        }
    }

    /// Opens the volumes. Nothing works before the workers run; a simulation drives them itself.
    pub(crate) fn assemble(config: &StoreConfig, env: Env) -> Result<(Self, Vec<Workers>), OpenError> {
        if config.volumes.is_empty() {
            return Err(OpenError::Config {
                field: "volumes",
                value: "empty".to_owned(),
                expected: "expected at least one volume".to_owned(),
            });
        }
        let store = Self::empty(config, env);
        let mut workers = Vec::new();
        // For all volumes together: none of them records before all are open.
        let budget_us = u64::try_from(config.recovery_budget.as_micros()).unwrap_or(u64::MAX);
        let until_us = store.env.clock.monotonic_us().saturating_add(budget_us);
        for volume in &config.volumes {
            match store.open_volume_until(volume, until_us) {
                Ok(opened) => workers.push(opened),
                Err(error) => {
                    tracing::error!(%error, dir = %volume.dir.display(), "a volume could not be opened");
                    lock(&store.not_opened).push((volume.dir.clone(), error));
                }
            }
        }
        if workers.is_empty()
            && let Some((_, error)) = lock(&store.not_opened).pop()
        {
            return Err(error);
        }
        Ok((store, workers))
    }

    pub(crate) fn open_volume(&self, config: &VolumeConfig) -> Result<Workers, OpenError> {
        let budget_us = u64::try_from(self.config.recovery_budget.as_micros()).unwrap_or(u64::MAX);
        let until_us = self.env.clock.monotonic_us().saturating_add(budget_us);
        self.open_volume_until(config, until_us)
    }

    fn open_volume_until(&self, config: &VolumeConfig, until_us: u64) -> Result<Workers, OpenError> {
        let mut opened = when_free(|| open(self.inner.next_at(), &self.config, config, &self.env, until_us))?;
        self.inner.add(&mut opened);
        let volume = opened.volume;
        let inner = &self.inner;
        Ok(Workers {
            writer: Writer::new(inner.clone(), volume.clone(), opened.slots, opened.batch),
            syncer: Syncer::new(inner.clone(), volume.clone(), self.config.on_durable.clone()),
            keeper: Keeper::new(volume.clone(), opened.later),
            scrubber: Scrubber::new(inner.clone(), volume.clone(), self.config.scrub_round),
            volume,
        })
    }

    /// Opens one more volume, or one that was stopped, while the others go on. Streams that wait for a volume are recorded to it at once.
    ///
    /// # Errors
    /// When it cannot be opened; nothing else changes then.
    pub fn start_volume(&self, config: &VolumeConfig) -> Result<(), OpenError> {
        let _changing = lock(&self.changing);
        self.inner.coming.fetch_add(1, Ordering::AcqRel);
        let opened = self.open_volume(config);
        self.inner.coming.fetch_sub(1, Ordering::AcqRel);
        let mut not_opened = lock(&self.not_opened);
        not_opened.retain(|(dir, _)| *dir != config.dir);
        drop(not_opened);
        self.threads.start(opened?);
        Ok(())
    }

    /// No stream is recorded to a volume any more: those that are go on elsewhere, as soon as there is a volume that takes them. It stays
    /// readable. Never blocks.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn drain_volume(&self, volume: Uuid) -> Result<(), VolumeError> {
        let volume = self.volume(volume)?;
        volume.set_draining(true);
        self.inner.leave(&volume);
        Ok(())
    }

    /// Takes a drained volume into use again.
    ///
    /// # Errors
    /// When there is no such volume, or it has failed.
    pub fn undrain_volume(&self, volume: Uuid) -> Result<(), VolumeError> {
        let volume = self.volume(volume)?;
        if let Some(why) = volume.failure() {
            return Err(VolumeError::Failed { volume: volume.uuid, why });
        }
        volume.set_draining(false);
        self.inner.place_waiting();
        Ok(())
    }

    /// Drains a volume and closes it: afterwards its folder may be taken away, or be opened again. Blocks until all that waits for it is
    /// written and synced, for some seconds at most. Streams that no other volume takes have none from then on.
    ///
    /// # Errors
    /// When there is no such volume, or its disk hangs: then its threads are left behind, and end when it wakes.
    pub fn stop_volume(&self, volume: Uuid) -> Result<(), VolumeError> {
        let _changing = lock(&self.changing);
        self.take_out(volume, Destination::Nowhere)
    }

    /// Stops a volume and starts it again, set up as `config` says. Streams that no other volume takes meanwhile wait in memory.
    ///
    /// # Errors
    /// As [`Self::stop_volume`] and [`Self::start_volume`].
    pub fn restart_volume(&self, volume: Uuid, config: &VolumeConfig) -> Result<(), VolumeError> {
        let changing = lock(&self.changing);
        self.inner.coming.fetch_add(1, Ordering::AcqRel);
        let stopped = self.take_out(volume, Destination::Wait);
        drop(changing);
        let started = stopped.and_then(|()| self.start_volume(config).map_err(VolumeError::Open));
        self.inner.coming.fetch_sub(1, Ordering::AcqRel);
        started
    }

    fn take_out(&self, volume: Uuid, streams: Destination) -> Result<(), VolumeError> {
        let volume = self.volume(volume)?;
        volume.set_draining(true);
        self.inner.leave(&volume);
        let ended = self.threads.finish(&volume, Instant::now() + patience(&volume));
        for stream in self.inner.streams() {
            // Also where they ended: the volume may have failed in its last sync. What is durable there is waited for no more.
            stream.lost(volume.at);
            stream.move_to(volume.at, streams, &self.inner.budget);
        }
        self.threads.release(&volume);
        if ended {
            close(&volume);
        }
        self.inner.remove(volume.at);
        if ended { Ok(()) } else { Err(VolumeError::Hangs { volume: volume.uuid }) }
    }

    /// Takes out a volume whose workers are stepped by hand, and not stepped any more.
    pub(crate) fn take_out_stepped(&self, volume: &Volume, streams: Destination) {
        volume.set_draining(true);
        self.inner.leave(volume);
        for stream in self.inner.streams() {
            stream.lost(volume.at);
            stream.move_to(volume.at, streams, &self.inner.budget);
        }
        self.inner.remove(volume.at);
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    fn volume(&self, uuid: Uuid) -> Result<Arc<Volume>, VolumeError> {
        let found = self.inner.volumes().into_iter().find(|volume| volume.uuid == uuid);
        found.ok_or(VolumeError::Unknown { volume: uuid })
    }

    /// A handle to write a stream; one at a time for each. A stream that was recorded before goes on in its unfilled segment.
    ///
    /// # Errors
    /// When its names cannot be folders, it has a writer, or the store is closed.
    pub fn stream(&self, ident: StreamIdent) -> Result<StreamWriter, StreamError> {
        names::check(&ident)?;
        if self.inner.is_closed() {
            return Err(StreamError::Closed);
        }
        let mut streams = self.inner.streams.write().map_err(|_| StreamError::Closed)?;
        let known = streams.get(&ident.uid).filter(|s| s.ident == ident).cloned();
        let stream = match known {
            Some(stream) => stream,
            None => {
                // New, or renamed: an object's name never changes in Kubernetes, but a volume may have been moved.
                let old = streams.get(&ident.uid);
                if old.is_some_and(|old| old.is_taken()) {
                    return Err(StreamError::Taken(ident.uid));
                }
                let previous = old.and_then(|old| old.previous());
                let stream = Arc::new(StreamState::new(ident.clone(), previous));
                streams.insert(ident.uid, stream.clone());
                stream
            }
        };
        if !stream.take() {
            return Err(StreamError::Taken(ident.uid));
        }
        drop(streams);
        if let Some(volume) = stream.volume().and_then(|at| self.inner.volume(at)) {
            volume.count_recording();
        }
        Ok(StreamWriter::new(self.inner.clone(), stream))
    }

    /// Writes what was appended since the last call: to be called once a tick. Never blocks.
    pub fn flush_tick(&self) {
        self.inner.flush_tick();
    }

    /// How far a stream is durable; `None` before its first sync.
    #[must_use]
    pub fn durable(&self, stream: Uuid) -> Option<Durable> {
        self.inner.stream(stream)?.durable()
    }

    /// Whether frames of a stream would be taken, and for how long the oldest one on its volume has been waiting to be durable; of a stream that
    /// has no volume, on the one that waits least.
    #[must_use]
    pub fn storage(&self, stream: Uuid) -> Storage {
        let now_us = self.env.clock.monotonic_us();
        let own = self.inner.stream(stream).and_then(|stream| stream.volume()).and_then(|at| self.inner.volume(at));
        let volumes = self.inner.volumes();
        let taking = volumes.iter().filter(|volume| volume.takes_streams() && !volume.is_stuck());
        let least = taking.map(|volume| volume.unsynced_us(now_us)).min();
        let own = own.filter(|volume| !volume.has_failed()).map(|volume| volume.unsynced_us(now_us));
        Storage { takes: least.is_some(), unsynced_us: own.or(least).unwrap_or(0) }
    }

    /// The run that a stream had last on this recorder.
    #[must_use]
    pub fn previous(&self, stream: Uuid) -> Option<PreviousRun> {
        self.inner.stream(stream)?.previous()
    }

    /// A reader: cheap to make and to clone.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.inner.clone())
    }

    /// Keeps the footage of a stream between two wall times from being retired, until released. Durable when this returns.
    ///
    /// # Errors
    /// When a volume's manifest cannot be written.
    pub fn hold(&self, hold: Uuid, stream: Uuid, from: WallTime, to: WallTime) -> Result<(), HoldError> {
        self.on_each_volume(&[Hold { hold, stream, from, to }], &[])
    }

    /// Releases a hold; no error when there is none of that name.
    ///
    /// # Errors
    /// When a volume's manifest cannot be written.
    pub fn release(&self, hold: Uuid) -> Result<(), HoldError> {
        self.on_each_volume(&[], &[hold])
    }

    /// How long footage is kept from now on.
    pub fn set_retention(&self, retention: Retention) {
        self.inner.retention.set(retention);
    }

    /// On which volume the next segment of a stream goes from now on.
    pub fn set_placement(&self, placement: Placement) {
        self.inner.set_placement(placement);
    }

    fn on_each_volume(&self, set: &[Hold], release: &[Uuid]) -> Result<(), HoldError> {
        let volumes = self.inner.volumes();
        let mut well = volumes.iter().filter(|v| !v.has_failed());
        well.try_for_each(|volume| change_holds(volume, set, release, BOOKS_AT_MOST))
    }

    /// The holds of each volume that is open.
    #[must_use]
    pub fn holds(&self) -> Vec<(Uuid, Vec<Hold>)> {
        self.inner.volumes().iter().map(|volume| (volume.uuid, lock(&volume.holds).clone())).collect()
    }

    /// Sets holds on one volume and releases others, as far as that is not so already. What is set keeps footage at once, and is durable when
    /// this returns, which may take as long as the disk wants.
    ///
    /// # Errors
    /// When the volume is not open, has failed, or its manifest cannot be written.
    pub fn change_holds(&self, volume: Uuid, set: &[Hold], release: &[Uuid]) -> Result<(), HoldError> {
        let found = self.inner.volumes().into_iter().find(|v| v.uuid == volume);
        let found = found.filter(|v| !v.has_failed()).ok_or(HoldError::NotWritable { volume })?;
        change_holds(&found, set, release, BOOKS_AT_MOST)
    }

    /// Numbers of each volume, those that could not be opened included.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStats> {
        let mut all: Vec<_> = self.inner.volumes().iter().map(|volume| volume.stats()).collect();
        all.extend(lock(&self.not_opened).iter().map(|(dir, error)| VolumeStats::not_opened(dir, error)));
        all
    }

    /// Numbers of each stream that was written since the store was opened.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamStats> {
        self.inner.streams().iter().map(|stream| self.stats_of(stream)).collect()
    }

    /// Bytes of all streams' frames in memory, and how many there may be ([`StoreConfig::total_queue_bytes`]).
    #[must_use]
    pub fn frames_bytes(&self) -> (usize, usize) {
        (self.inner.budget.used(), self.inner.queue_limits().total_bytes)
    }

    /// Numbers of one stream.
    #[must_use]
    pub fn stream_stats(&self, stream: Uuid) -> Option<StreamStats> {
        Some(self.stats_of(&*self.inner.stream(stream)?))
    }

    fn stats_of(&self, stream: &StreamState) -> StreamStats {
        let c = &stream.counters;
        let memory = stream.memory();
        StreamStats {
            stream: stream.ident.uid,
            name: names::full_name(&stream.ident),
            volume: stream.volume().and_then(|at| self.inner.volume(at)).map(|v| v.uuid),
            bytes: c.bytes.get(),
            video_frames: c.video_frames.get(),
            audio_frames: c.audio_frames.get(),
            fragments: c.fragments.get(),
            segments: c.segments.get(),
            runs: c.runs.get(),
            queue_bytes: memory.waiting_bytes,
            memory_bytes: memory.bytes,
            gop_bytes: memory.gop_bytes,
            gop_too_long: memory.gop_too_long,
            dropped_frames: c.dropped_by_reason(),
            durable: stream.durable().map(|d| d.wall),
            kept_bytes: self.inner.retention.kept_bytes(stream.ident.uid),
        }
    }

    /// Writes and syncs everything, ends the threads, and leaves the mark of an orderly end. Blocks for as long as that takes, but not for a disk
    /// that hangs. Handles of streams may still be there; what they append is dropped and counted.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // While the volumes can still stand in for one another.
        let until = Instant::now() + END_AT_MOST;
        let answers = |at| self.inner.volume(at).is_some_and(|volume| !volume.is_stalled());
        let streams = self.inner.streams();
        let latches: Vec<_> =
            streams.iter().filter(|s| s.volume().is_some_and(answers)).filter_map(|s| s.push_finish()).collect();
        self.inner.flush_tick();
        latches.iter().for_each(|latch| latch.wait_until(until));
        self.threads.stop_watching();
        self.threads.end_retention(until);
        let volumes = self.inner.volumes();
        for volume in &volumes {
            if volume.has_failed() {
                volume.wake_sync.finish();
                volume.wake_keeper.finish();
            }
            volume.wake_writer.finish();
        }
        let start = Instant::now();
        for volume in &volumes {
            let ended = self.threads.finish(volume, start + patience(volume));
            self.threads.release(volume);
            if ended {
                close(volume);
            }
        }
    }

    /// The outside world that it was opened in.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

/// Changes what of the holds is not so yet. Waits for the manifest to be read, for `books_at_most`.
pub(crate) fn change_holds(
    volume: &Volume,
    set: &[Hold],
    release: &[Uuid],
    books_at_most: Duration,
) -> Result<(), HoldError> {
    let io = |source| HoldError::Io { volume: volume.uuid, source };
    let failed = |source| {
        volume.fail("write manifest.log", &source);
        io(source)
    };
    // Behind a start the manifest may not have been read yet, and what it says of holds not be known. Nothing is retired until then. A manifest
    // that takes long to be read is no failure of its volume.
    volume.books.wait(books_at_most).map_err(io)?;
    let retiring = lock(&volume.retiring);
    let mut holds = lock(&volume.holds);
    let set: Vec<Hold> = set.iter().filter(|hold| !holds.contains(hold)).copied().collect();
    let release: Vec<Uuid> = release.iter().filter(|id| holds.iter().any(|h| h.hold == **id)).copied().collect();
    // In memory first: from now on nothing that is held is retired, and whoever writes the manifest anew leaves out what is released.
    holds.retain(|h| !release.contains(&h.hold) && !set.iter().any(|new| new.hold == h.hold));
    holds.extend(&set);
    drop((holds, retiring));
    if set.is_empty() && release.is_empty() {
        return Ok(());
    }
    let records = set.iter().map(|hold| Record::Hold(*hold));
    let mut records = records.chain(release.iter().map(|hold| Record::HoldReleased { hold: *hold }));
    records.try_for_each(|record| volume.record(record, None)).map_err(failed)?;
    let manifest = volume.books.wait(books_at_most).map_err(io)?;
    manifest.sync().map_err(failed)
}

/// How long an orderly end waits for a volume.
fn patience(volume: &Volume) -> Duration {
    if volume.is_stalled() { Duration::ZERO } else { END_AT_MOST }
}

/// Leaves the mark of an orderly end on a volume that nobody writes to any more, where the next start may rely on it.
pub(crate) fn close(volume: &Volume) {
    if volume.has_failed() {
        return;
    }
    if !volume.catalogue_complete.load(Ordering::Acquire) && !left_incomplete(volume) {
        tracing::warn!(dir = %volume.dir.display(), "closed before its manifest was read: the next start looks for what was sealed meanwhile");
        return;
    }
    if let Err(error) = volume.set_doubted_aside() {
        volume.fail("set files aside", &error);
        return;
    }
    let mut identity = lock(&volume.identity);
    identity.closed = true;
    (identity.files, identity.made) = lock(&volume.pool).for_identity();
    if let Err(error) = volume.with_room(|| identity::write(volume.folder.as_ref(), &identity)) {
        drop(identity);
        volume.fail("write framekeeper.json", &error);
    }
}

/// Whether the next start is told to look at all files, as this one did not come to an end with that.
fn left_incomplete(volume: &Volume) -> bool {
    // Before that, the catalogue of the volume is not even open, and what was sealed is in no manifest.
    let is_open = volume.books.lock().log.is_some();
    let left = || volume.catalogue.read().ok().and_then(|catalogue| catalogue.leave_unscanned().ok());
    is_open && left().unwrap_or_default()
}
