//! The store: volumes, streams, threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::env::Env;
use crate::error::{HoldError, OpenError, StreamError};
use crate::manifest::{Hold, Record};
use crate::reader::Reader;
use crate::stats::{StreamStats, VolumeStats};
use crate::stream::{QueueBudget, QueueLimits, StreamState, StreamWriter};
use crate::types::{Durable, PreviousRun, StoreConfig, StreamIdent};
use crate::volume::Volume;
use crate::volume::keeper::Keeper;
use crate::volume::open::{Opened, open};
use crate::volume::sync::Syncer;
use crate::volume::writer::Writer;
use crate::{identity, lock, names};

/// What all parts of an open store share.
pub(crate) struct Inner {
    pub(crate) volumes: Vec<Arc<Volume>>,
    streams: RwLock<HashMap<Uuid, Arc<StreamState>>>,
    pub(crate) budget: QueueBudget,
    limits: QueueLimits,
    closed: AtomicBool,
}

impl Inner {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        self.limits
    }

    pub(crate) fn flush_tick(&self) {
        for volume in &self.volumes {
            volume.wake_writer.notify();
        }
    }

    pub(crate) fn stream(&self, uid: Uuid) -> Option<Arc<StreamState>> {
        self.streams.read().ok()?.get(&uid).cloned()
    }

    pub(crate) fn streams(&self) -> Vec<Arc<StreamState>> {
        self.streams.read().map(|streams| streams.values().cloned().collect()).unwrap_or_default()
    }

    /// Finds a volume for a stream that has none: the live one with the most files for each stream.
    pub(crate) fn place(&self, stream: &Arc<StreamState>) -> Option<usize> {
        let live = self.volumes.iter().filter(|volume| !volume.has_failed());
        let roomiest = live.max_by_key(|volume| {
            let (total, ..) = lock(&volume.pool).numbers();
            let streams =
                lock(&volume.streams).iter().filter(|s| s.is_taken() && s.volume() == Some(volume.at)).count();
            // On equal terms the first one listed.
            (total / (streams as u64 + 1), std::cmp::Reverse(volume.at))
        })?;
        let mut streams = lock(&roomiest.streams);
        if !streams.iter().any(|s| Arc::ptr_eq(s, stream)) {
            streams.push(stream.clone());
        }
        drop(streams);
        roomiest.count_recording();
        Some(roomiest.at)
    }

    /// All streams of a failed volume go on elsewhere, if they can.
    pub(crate) fn volume_failed(&self, at: usize) {
        let Some(volume) = self.volumes.get(at) else { return };
        let streams = std::mem::take(&mut *lock(&volume.streams));
        for stream in streams {
            if stream.volume() == Some(at) {
                stream.move_to(self.place(&stream), &self.budget);
            }
        }
    }
}

/// An open store. Clones are the same store; when the last one is dropped without [`Self::close`], its threads end as if the process had
/// been killed.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    threads: Arc<Threads>,
    not_opened: Arc<Vec<(std::path::PathBuf, OpenError)>>,
    env: Env,
}

/// Three for each volume: writer, syncer, keeper.
struct Threads {
    inner: Arc<Inner>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    fn join(&self) {
        for handle in std::mem::take(&mut *lock(&self.handles)) {
            if handle.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        // Nobody writes any more: whoever waits need not.
        for stream in self.inner.streams() {
            stream.move_to(None, &self.inner.budget);
        }
        for volume in &self.inner.volumes {
            for latch in std::mem::take(&mut lock(&volume.dirty).latches) {
                latch.open();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Release);
        for volume in &self.inner.volumes {
            for signal in [&volume.wake_writer, &volume.wake_sync, &volume.wake_keeper] {
                signal.stop();
            }
        }
        self.join();
    }
}

impl Store {
    /// Opens the volumes and begins to work: unsealed segments are found first, so that recording may start when this returns; the rest
    /// of the catalogue is gathered in the background.
    ///
    /// # Errors
    /// The first volume's error when none can be opened. Where at least one can, the others are in [`Self::volumes`] as failed.
    pub fn open(config: StoreConfig, env: Env) -> Result<Self, OpenError> {
        if config.volumes.is_empty() {
            return Err(OpenError::Config {
                field: "volumes",
                value: "empty".to_owned(),
                expected: "expected at least one volume".to_owned(),
            });
        }
        let mut opened: Vec<Opened> = Vec::new();
        let mut not_opened = Vec::new();
        for volume in &config.volumes {
            match open(opened.len(), &config, volume, &env) {
                Ok(volume) => opened.push(volume),
                Err(error) => {
                    tracing::error!(%error, dir = %volume.dir.display(), "a volume could not be opened");
                    not_opened.push((volume.dir.clone(), error));
                }
            }
        }
        if opened.is_empty() {
            return match not_opened.into_iter().next() {
                Some((_, error)) => Err(error),
                None => Err(OpenError::Config {
                    field: "volumes",
                    value: "empty".to_owned(),
                    expected: "expected at least one volume".to_owned(),
                }),
            };
        }
        Ok(Self::start(&config, env, opened, not_opened))
    }

    fn start(
        config: &StoreConfig,
        env: Env,
        mut opened: Vec<Opened>,
        not_opened: Vec<(std::path::PathBuf, OpenError)>,
    ) -> Self {
        let mut streams: HashMap<Uuid, Arc<StreamState>> = HashMap::new();
        for volume in &mut opened {
            for (ident, previous) in std::mem::take(&mut volume.streams) {
                let stream =
                    streams.entry(ident.uid).or_insert_with(|| Arc::new(StreamState::new(ident.clone(), None))).clone();
                // It goes on where its newest footage is.
                if stream.previous().is_none_or(|p| previous.is_some_and(|n| n.end > p.end)) {
                    stream.set_volume(Some(volume.volume.at));
                }
                if let Some(previous) = previous {
                    stream.found_previous(previous);
                }
                lock(&volume.volume.streams).push(stream);
            }
        }
        let inner = Arc::new(Inner {
            volumes: opened.iter().map(|o| o.volume.clone()).collect(),
            streams: RwLock::new(streams),
            budget: QueueBudget::default(),
            limits: QueueLimits { stream_bytes: config.stream_queue_bytes, total_bytes: config.total_queue_bytes },
            closed: AtomicBool::new(false),
        });
        let threads = Arc::new(Threads { inner: inner.clone(), handles: Mutex::default() });
        for Opened { volume, slots, later, batch, .. } in opened {
            let writer = Writer::new(inner.clone(), volume.clone(), slots, batch);
            let syncer = Syncer::new(volume.clone(), config.sync_interval, config.on_durable.clone());
            let keeper = Keeper::new(volume.clone(), later);
            threads.spawn("writer", &volume, move || writer.run());
            threads.spawn("sync", &volume, move || syncer.run());
            threads.spawn("keeper", &volume, move || keeper.run());
        }
        Self { inner, threads, not_opened: Arc::new(not_opened), env }
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
        if let Some(volume) = stream.volume().and_then(|at| self.inner.volumes.get(at)) {
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
        let hold = Hold { hold, stream, from, to };
        self.on_each_manifest(&Record::Hold(hold), |volume| {
            let mut holds = lock(&volume.holds);
            holds.retain(|h| h.hold != hold.hold);
            holds.push(hold);
        })
    }

    /// Releases a hold; no error when there is none of that name.
    ///
    /// # Errors
    /// When a volume's manifest cannot be written.
    pub fn release(&self, hold: Uuid) -> Result<(), HoldError> {
        self.on_each_manifest(&Record::HoldReleased { hold }, |volume| lock(&volume.holds).retain(|h| h.hold != hold))
    }

    fn on_each_manifest(&self, record: &Record, change: impl Fn(&Volume)) -> Result<(), HoldError> {
        for volume in self.inner.volumes.iter().filter(|v| !v.has_failed()) {
            // In memory first: from now on nothing that is held is retired.
            change(volume);
            let written = volume.record(record.clone(), None).and_then(|()| {
                let manifest = lock(&volume.manifest).file();
                manifest.sync()
            });
            written.map_err(|source| {
                volume.fail("write manifest.log", &source);
                HoldError::Io { volume: volume.uuid, source }
            })?;
        }
        Ok(())
    }

    /// Numbers of each volume, those that could not be opened included.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStats> {
        let open = self.inner.volumes.iter().map(|volume| volume.stats());
        let not = self.not_opened.iter().map(|(dir, error)| VolumeStats::not_opened(dir, error));
        open.chain(not).collect()
    }

    /// Numbers of each stream that was written since the store was opened.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamStats> {
        self.inner.streams().iter().map(|stream| self.stats_of(stream)).collect()
    }

    /// Numbers of one stream.
    #[must_use]
    pub fn stream_stats(&self, stream: Uuid) -> Option<StreamStats> {
        Some(self.stats_of(&*self.inner.stream(stream)?))
    }

    fn stats_of(&self, stream: &StreamState) -> StreamStats {
        let c = &stream.counters;
        StreamStats {
            stream: stream.ident.uid,
            volume: stream.volume().and_then(|at| self.inner.volumes.get(at)).map(|v| v.uuid),
            bytes: c.bytes.get(),
            video_frames: c.video_frames.get(),
            audio_frames: c.audio_frames.get(),
            fragments: c.fragments.get(),
            segments: c.segments.get(),
            runs: c.runs.get(),
            queue_bytes: stream.queue_bytes() as u64,
            dropped_frames: c.dropped_by_reason(),
            durable: stream.durable().map(|d| d.wall),
        }
    }

    /// Writes and syncs everything, ends the threads, and leaves the mark of an orderly end. Blocks for as long as that takes. Handles of
    /// streams may still be there; what they append is dropped and counted.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        for volume in &self.inner.volumes {
            if volume.has_failed() {
                volume.wake_sync.finish();
                volume.wake_keeper.finish();
            }
            volume.wake_writer.finish();
        }
        self.threads.join();
        for volume in self.inner.volumes.iter().filter(|v| !v.has_failed()) {
            let mut identity = lock(&volume.identity);
            identity.closed = true;
            if let Err(error) = identity::write(volume.folder.as_ref(), &identity) {
                volume.fail("write framekeeper.json", &error);
            }
        }
    }

    /// The outside world that it was opened in.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

impl Threads {
    fn spawn(&self, what: &str, volume: &Volume, run: impl FnOnce() + Send + 'static) {
        let name = format!("store-{what}-{}", volume.at);
        match std::thread::Builder::new().name(name).spawn(run) {
            Ok(handle) => lock(&self.handles).push(handle),
            Err(error) => volume.fail("start a thread", &error),
        }
    }
}
