//! What all parts of an open store share: its volumes and streams, and which stream is written where.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use crate::lock;
use crate::retention;
use crate::stream::{Destination, QueueBudget, QueueLimits, StreamState};
use crate::types::{Placement, StoreConfig, StreamIdent};
use crate::volume::Volume;
use crate::volume::open::Opened;

/// What all parts of an open store share.
pub(crate) struct Inner {
    volumes: RwLock<Vec<Arc<Volume>>>,
    /// Position that the next volume gets; none is given twice.
    next_at: AtomicUsize,
    /// In an order, so that what is done to all of them is done in the same one each time.
    pub(crate) streams: RwLock<BTreeMap<Uuid, Arc<StreamState>>>,
    pub(crate) budget: QueueBudget,
    limits: QueueLimits,
    pub(crate) reader_cache_bytes: usize,
    pub(crate) closed: AtomicBool,
    /// Volumes that are being opened again.
    pub(crate) coming: AtomicUsize,
    pub(crate) retention: retention::Shared,
    placement: RwLock<Placement>,
}

impl Inner {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            volumes: RwLock::default(),
            next_at: AtomicUsize::new(0),
            streams: RwLock::default(),
            budget: QueueBudget::default(),
            limits: QueueLimits { stream_bytes: config.stream_queue_bytes, total_bytes: config.total_queue_bytes },
            reader_cache_bytes: config.reader_cache_bytes,
            closed: AtomicBool::new(false),
            coming: AtomicUsize::new(0),
            retention: retention::Shared::new(config.retention.clone()),
            placement: RwLock::new(config.placement),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        self.limits
    }

    /// The volumes as they are now.
    pub(crate) fn volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn volume(&self, at: usize) -> Option<Arc<Volume>> {
        self.volumes().into_iter().find(|volume| volume.at == at)
    }

    pub(crate) fn next_at(&self) -> usize {
        self.next_at.fetch_add(1, Ordering::Relaxed)
    }

    /// A volume and the streams that it has footage of. They go on where their newest footage is, unless they are being recorded elsewhere.
    pub(crate) fn add(&self, opened: &mut Opened) {
        let volume = &opened.volume;
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        for (ident, previous) in std::mem::take(&mut opened.streams) {
            let fresh = |ident: StreamIdent| Arc::new(StreamState::new(ident, None));
            let stream = streams.entry(ident.uid).or_insert_with(|| fresh(ident.clone())).clone();
            if !stream.is_taken() && stream.previous().is_none_or(|p| previous.is_some_and(|n| n.end > p.end)) {
                stream.set_volume(Some(volume.at));
            }
            if let Some(previous) = previous {
                stream.found_previous(previous);
            }
            lock(&volume.streams).push(stream);
        }
        drop(streams);
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).push(volume.clone());
        self.place_waiting();
    }

    pub(crate) fn remove(&self, at: usize) {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).retain(|volume| volume.at != at);
    }

    pub(crate) fn flush_tick(&self) {
        for volume in self.volumes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            volume.wake_writer.notify();
        }
    }

    pub(crate) fn stream(&self, uid: Uuid) -> Option<Arc<StreamState>> {
        self.streams.read().ok()?.get(&uid).cloned()
    }

    pub(crate) fn streams(&self) -> Vec<Arc<StreamState>> {
        self.streams.read().map(|streams| streams.values().cloned().collect()).unwrap_or_default()
    }

    /// Finds a volume for a stream: of those that take streams, the one with the most files for each of its streams.
    pub(crate) fn place(&self, stream: &Arc<StreamState>) -> Option<usize> {
        self.place_off(stream, None)
    }

    /// The same, but not on that volume.
    pub(crate) fn place_off(&self, stream: &Arc<StreamState>, off: Option<usize>) -> Option<usize> {
        let volumes = self.volumes();
        let live = volumes.iter().filter(|volume| volume.takes_streams() && Some(volume.at) != off);
        let roomiest = live.max_by_key(|volume| {
            let (total, ..) = lock(&volume.pool).numbers();
            let streams =
                lock(&volume.streams).iter().filter(|s| s.is_taken() && s.volume() == Some(volume.at)).count();
            // One where nothing can be given up only where there is no other. On equal terms the first one listed.
            (!volume.is_stuck(), total / (streams as u64 + 1), std::cmp::Reverse(volume.at))
        })?;
        let mut streams = lock(&roomiest.streams);
        if !streams.iter().any(|s| Arc::ptr_eq(s, stream)) {
            streams.push(stream.clone());
        }
        drop(streams);
        roomiest.count_recording();
        Some(roomiest.at)
    }

    /// The volume that is next in turn for a stream after `from`; none where it stays, or where that is to be left to room.
    pub(crate) fn next_in_turn(&self, stream: &Arc<StreamState>, from: &Volume) -> Option<Arc<Volume>> {
        if self.placement() != Placement::RoundRobin {
            return None;
        }
        let usable = |volume: &Arc<Volume>| {
            let has_files = !volume.is_stuck() || lock(&volume.pool).numbers().2 > 0;
            volume.at != from.at && volume.takes_streams() && has_files
        };
        // By identity: the order is the same whichever volumes come and go.
        let behind = |volume: &Arc<Volume>| (volume.uuid < from.uuid, volume.uuid);
        let next = self.volumes().into_iter().filter(usable).min_by_key(behind)?;
        let mut streams = lock(&next.streams);
        if !streams.iter().any(|s| Arc::ptr_eq(s, stream)) {
            streams.push(stream.clone());
        }
        drop(streams);
        Some(next)
    }

    pub(crate) fn placement(&self) -> Placement {
        *self.placement.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_placement(&self, placement: Placement) {
        *self.placement.write().unwrap_or_else(PoisonError::into_inner) = placement;
    }

    /// Whether a volume may come that takes streams which have none now.
    pub(crate) fn one_may_come(&self) -> bool {
        self.coming.load(Ordering::Acquire) > 0
            || self.volumes().iter().any(|volume| volume.is_stalled() && !volume.has_failed())
    }

    /// The streams of a volume that takes none go on elsewhere, if they can. From a volume that failed they go in any case.
    pub(crate) fn leave(&self, volume: &Volume) {
        let mut moved = false;
        if volume.has_failed() || volume.is_stalled() {
            for stream in self.streams() {
                moved |= stream.lost(volume.at);
            }
        }
        // All of them stay on its list: one that was placed here a moment ago is not here yet, and would be written by nobody.
        let streams = lock(&volume.streams).clone();
        for stream in streams {
            if stream.volume() != Some(volume.at) {
                continue;
            }
            let to = match self.place_off(&stream, Some(volume.at)) {
                Some(at) => Destination::Volume(at),
                None if !volume.has_failed() => continue,
                None if self.one_may_come() => Destination::Wait,
                None => Destination::Nowhere,
            };
            if stream.move_to(volume.at, to, &self.budget) {
                lock(&volume.left).push(stream.ident.uid);
                moved = true;
            }
        }
        volume.count_recording();
        // The writer of a failed volume comes here whenever it wakes: told of nothing new, it would wake itself for ever.
        if moved {
            self.flush_tick();
        }
    }

    /// Streams that wait for a volume get one.
    pub(crate) fn place_waiting(&self) {
        for stream in self.streams() {
            if stream.is_waiting()
                && let Some(at) = self.place(&stream)
            {
                stream.arrive(at);
            }
        }
        self.flush_tick();
    }

    /// Looks after volumes that hang or wake up, and streams that can go where they should be. To be called a few times a second.
    pub(crate) fn watch(&self, now_us: u64) {
        let volumes = self.volumes();
        let taking = volumes.iter().filter(|volume| volume.takes_streams()).count();
        for volume in &volumes {
            let coming = match self.placement() {
                Placement::Fill => 0,
                // Wherever they are now, their next segments are spread over all.
                Placement::RoundRobin => self.streams().iter().filter(|s| s.is_taken()).count().div_ceil(taking.max(1)),
            };
            volume.coming.store(coming, Ordering::Relaxed);
        }
        for volume in volumes {
            volume.watch(now_us);
            if !volume.takes_streams() {
                self.leave(&volume);
            }
        }
        self.place_waiting();
    }
}
