//! What a running recorder shows of itself: one picture that status, metrics and HTTP are made from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use framekeeper_crds::{RecorderPhase, VolumeState, VolumeWrites};
use framekeeper_ingest::TickTime;
use framekeeper_media::WallTime;
use framekeeper_store::{CatalogueProgress, DamageSummary, DropReason, Foreign, Outlook, ScrubStats, StreamIdent};
use uuid::Uuid;

use crate::assignment::Refusal;
use crate::channel::{ChannelStats, Control, Snapshot};
use crate::limits::MemoryShort;
use crate::metrics::{PeerNumbers, TickNumbers};
use crate::status::space::Trouble;

/// A tick thread that has not finished a tick for this long hangs.
const TICK_LIMIT_US: u64 = 5_000_000;

/// Shared by all threads of a recorder.
#[derive(Debug)]
pub(crate) struct View {
    /// Name of the recorder.
    pub(crate) recorder: String,
    /// Drawn at the start of the process.
    pub(crate) instance: Uuid,
    /// How often the supervisor has restarted it.
    pub(crate) restarts: u64,
    phase: RwLock<RecorderPhase>,
    channels: RwLock<BTreeMap<Uuid, Arc<ChannelEntry>>>,
    refusals: RwLock<Vec<Refusal>>,
    volumes: RwLock<Vec<VolumeView>>,
    /// Grows whenever something changed that the status tells.
    transitions: AtomicU64,
    /// Monotonic time of the last tick's end.
    beat_us: AtomicU64,
    assignment_is_stale: AtomicBool,
    /// Streams whose GOP is too long for the memory that it may take, by name.
    long_gops: RwLock<Vec<String>>,
    /// It is to record more than its memory is rated for.
    memory_short: RwLock<Option<MemoryShort>>,
    ticks: RwLock<TickNumbers>,
    /// What other recorders know this one by, and where they reach it.
    known_as: OnceLock<(String, Option<SocketAddr>)>,
    peers: RwLock<PeerNumbers>,
}

/// One channel, as other threads see it.
#[derive(Debug)]
pub(crate) struct ChannelEntry {
    /// The stream.
    pub(crate) stream: StreamIdent,
    /// What its tick thread publishes.
    pub(crate) stats: Arc<ChannelStats>,
    /// What is wanted of it.
    pub(crate) control: Arc<Control>,
}

/// One channel, copied.
#[derive(Clone, Debug)]
pub(crate) struct ChannelView {
    pub(crate) stream: StreamIdent,
    /// 0 for the primary.
    pub(crate) rank: u32,
    /// The epoch in which it is recorded, if it is.
    pub(crate) epoch: Option<u64>,
    /// The longest group of pictures lately, microseconds.
    pub(crate) gop_us: u64,
    pub(crate) snapshot: Snapshot,
    /// Wall time up to which the stream is safe from loss of power.
    pub(crate) durable: Option<WallTime>,
    /// Frames that could not be kept, by why.
    pub(crate) dropped_frames: Vec<(DropReason, u64)>,
    /// Bytes that wait for the disk.
    pub(crate) queue_bytes: u64,
    /// Bytes of frames in memory.
    pub(crate) memory_bytes: u64,
    /// The GOP that goes on does not fit into the memory that it may take.
    pub(crate) gop_too_long: bool,
    /// Bytes of its segments, where there is a limit to them.
    pub(crate) kept_bytes: Option<u64>,
}

/// One volume.
#[derive(Clone, Debug)]
pub(crate) struct VolumeView {
    /// Its name in the pool.
    pub(crate) name: String,
    /// Its identity.
    pub(crate) uuid: Uuid,
    /// Whether it can be written to.
    pub(crate) state: VolumeState,
    /// Why: one word, and a sentence.
    pub(crate) reason: Option<(&'static str, String)>,
    /// How segments are written, as the status has it; `None` where it is not open.
    pub(crate) writes: Option<(VolumeWrites, Option<String>)>,
    /// When its oldest footage begins, to within what a status tells.
    pub(crate) oldest: Option<WallTime>,
    /// What is wrong with its room.
    pub(crate) space: Option<Trouble>,
    /// Who else takes it, where that could be told.
    pub(crate) culprits: Option<String>,
    /// Numbers, where it is open.
    pub(crate) numbers: Option<VolumeNumbers>,
}

/// What a volume counts. Counters only grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeNumbers {
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) free_files: u64,
    /// Records that wait for the catalogue.
    pub(crate) waiting_records: u64,
    pub(crate) held_bytes: u64,
    pub(crate) holds: u64,
    /// That new footage can be put into, now or once older footage is given up.
    pub(crate) usable_files: u64,
    pub(crate) awaited_files: u64,
    pub(crate) outlook: Outlook,
    pub(crate) foreign: Foreign,
    pub(crate) sync_ms: u32,
    pub(crate) rotational: Option<bool>,
    pub(crate) written_bytes: u64,
    pub(crate) writes: u64,
    /// Times that something was written, and how long these took together.
    pub(crate) write_batches: u64,
    pub(crate) write_seconds: f64,
    /// Whether segments are written past the page cache.
    pub(crate) writes_directly: bool,
    /// Age of the oldest bytes that are not durable yet, microseconds.
    pub(crate) unsynced_us: u64,
    pub(crate) sealed_segments: u64,
    pub(crate) retired_segments: u64,
    /// When the oldest footage begins.
    pub(crate) oldest: Option<WallTime>,
    pub(crate) syncs: u64,
    /// Sum of all syncs' durations.
    pub(crate) sync_seconds: f64,
    /// (upper bound in seconds, syncs not longer than it and longer than the bound before).
    pub(crate) sync_buckets: Vec<(f64, u64)>,
    /// How far the catalogue is.
    pub(crate) catalogue: CatalogueProgress,
    /// What of the footage on it is known to be damaged.
    pub(crate) damage: DamageSummary,
    /// How far its footage was read again.
    pub(crate) scrub: ScrubStats,
}

impl View {
    /// Of a recorder that starts.
    pub(crate) fn new(recorder: String, restarts: u64) -> Self {
        Self {
            recorder,
            instance: Uuid::new_v4(),
            restarts,
            phase: RwLock::new(RecorderPhase::Starting),
            channels: RwLock::default(),
            refusals: RwLock::default(),
            volumes: RwLock::default(),
            transitions: AtomicU64::new(0),
            beat_us: AtomicU64::new(0),
            assignment_is_stale: AtomicBool::new(false),
            long_gops: RwLock::default(),
            memory_short: RwLock::default(),
            ticks: RwLock::default(),
            known_as: OnceLock::new(),
            peers: RwLock::default(),
        }
    }

    /// What other recorders know this one by, and where they reach it; nothing before the links are there.
    pub(crate) fn known_as(&self) -> Option<&(String, Option<SocketAddr>)> {
        self.known_as.get()
    }

    pub(crate) fn set_known_as(&self, public_key: &str, address: Option<SocketAddr>) {
        // Said once in a process.
        let _ = self.known_as.set((public_key.to_owned(), address));
        self.transition();
    }

    /// What is counted of other recorders.
    pub(crate) fn peers(&self) -> PeerNumbers {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers are no news; that a recorder comes or goes is, why it is not heard, and that its clock is not in step.
    pub(crate) fn set_peers(&self, numbers: PeerNumbers) {
        let mut current = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = current.counts.peers == numbers.counts.peers
            && current.silent == numbers.silent
            && current.clocks_apart == numbers.clocks_apart;
        *current = numbers;
        drop(current);
        if !is_same {
            self.transition();
        }
    }

    /// Something changed that the status tells.
    pub(crate) fn transition(&self) {
        self.transitions.fetch_add(1, Ordering::Release);
    }

    /// How many changes there were.
    pub(crate) fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Acquire)
    }

    /// A tick ended.
    pub(crate) fn beat(&self, at: TickTime) {
        self.beat_us.store(at.monotonic_us, Ordering::Relaxed);
    }

    /// Whether ticks end; `now_us` is the monotonic time.
    pub(crate) fn is_ticking(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.beat_us.load(Ordering::Relaxed)) < TICK_LIMIT_US
    }

    /// How the tick does.
    pub(crate) fn ticks(&self) -> TickNumbers {
        *self.ticks.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_ticks(&self, ticks: TickNumbers) {
        *self.ticks.write().unwrap_or_else(PoisonError::into_inner) = ticks;
    }

    pub(crate) fn phase(&self) -> RecorderPhase {
        *self.phase.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_phase(&self, phase: RecorderPhase) {
        let mut current = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *current, phase) != phase {
            self.transition();
        }
    }

    /// Whether the assignment in effect comes from a volume because its file cannot be used.
    pub(crate) fn assignment_is_stale(&self) -> bool {
        self.assignment_is_stale.load(Ordering::Relaxed)
    }

    pub(crate) fn set_assignment_is_stale(&self, stale: bool) {
        if self.assignment_is_stale.swap(stale, Ordering::Relaxed) != stale {
            self.transition();
        }
    }

    /// Streams whose GOP is too long for the memory that it may take, by name.
    pub(crate) fn long_gops(&self) -> Vec<String> {
        self.long_gops.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_long_gops(&self, mut streams: Vec<String>) {
        streams.sort();
        let mut current = self.long_gops.write().unwrap_or_else(PoisonError::into_inner);
        if *current != streams {
            *current = streams;
            drop(current);
            self.transition();
        }
    }

    /// Whether it is to record more than its memory is rated for, with the numbers of when that began.
    pub(crate) fn memory_short(&self) -> Option<MemoryShort> {
        *self.memory_short.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers that change are no news, a number of channels that does is. Whether there is something new to tell.
    pub(crate) fn set_memory_short(&self, short: Option<MemoryShort>) -> bool {
        let mut current = self.memory_short.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.map(|short| short.channels) != short.map(|short| short.channels);
        if changed {
            *current = short;
            drop(current);
            self.transition();
        }
        changed
    }

    pub(crate) fn set_refusals(&self, refusals: Vec<Refusal>) {
        *self.refusals.write().unwrap_or_else(PoisonError::into_inner) = refusals;
        self.transition();
    }

    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.refusals.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_volumes(&self, volumes: Vec<VolumeView>) {
        let mut current = self.volumes.write().unwrap_or_else(PoisonError::into_inner);
        let states = |volumes: &[VolumeView]| {
            let damage = |volume: &VolumeView| volume.numbers.as_ref().map(|numbers| numbers.damage.clone());
            let room = |volume: &VolumeView| (volume.space, volume.culprits.clone());
            let told = |volume: &VolumeView| {
                (volume.uuid, volume.state, volume.reason.clone(), volume.oldest, damage(volume), room(volume))
            };
            volumes.iter().map(told).collect::<Vec<_>>()
        };
        let changed = states(&current) != states(&volumes);
        *current = volumes;
        drop(current);
        if changed {
            self.transition();
        }
    }

    pub(crate) fn volumes(&self) -> Vec<VolumeView> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add_channel(&self, entry: ChannelEntry) {
        let uid = entry.stream.uid;
        self.channels.write().unwrap_or_else(PoisonError::into_inner).insert(uid, Arc::new(entry));
        self.transition();
    }

    pub(crate) fn remove_channel(&self, uid: Uuid) {
        self.channels.write().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        self.transition();
    }

    /// All channels, by namespace and name.
    pub(crate) fn channels(&self) -> Vec<Arc<ChannelEntry>> {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> = channels.values().cloned().collect();
        drop(channels);
        entries.sort_by(|a, b| (&a.stream.namespace, &a.stream.name).cmp(&(&b.stream.namespace, &b.stream.name)));
        entries
    }
}
