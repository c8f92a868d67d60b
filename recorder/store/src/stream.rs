//! One stream: what waits to be written, and the handle that fills the queue.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use framekeeper_media::boxes::run::GapReason;

use crate::lock;
use crate::stats::{DropReason, StreamCounters};
use crate::store::Inner;
use crate::types::{Durable, Fragment, PreviousRun, RunStart, StreamIdent};

/// Something for the writer of a volume to do.
pub(crate) enum Item {
    /// A run begins.
    Begin(Box<RunStart>),
    /// Frames were lost on our side: what follows is a new run, like the one before.
    Break(GapReason),
    Fragment(Box<Fragment>),
    /// All before this is to be written and synced.
    Finish(Arc<Latch>),
    /// The stream's segment is to be sealed.
    Seal,
}

/// Something that others wait for.
#[derive(Default)]
pub(crate) struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    pub(crate) fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    pub(crate) fn wait(&self) {
        // A poisoned lock means that a thread of the store panicked: there is nothing to wait for any more.
        drop(self.opened.wait_while(lock(&self.open), |open| !*open));
    }
}

/// Whether frames are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// The next random access point is.
    AtRandomAccess,
    /// The next random access point is, and begins a new run for this reason.
    Broken(GapReason, DropReason),
}

struct Queue {
    items: Vec<Item>,
    bytes: usize,
    gate: Gate,
    run: Option<Box<RunStart>>,
    /// Position of the volume in the store.
    volume: Option<usize>,
}

/// A stream, known to its handle, to the writer of its volume and to readers.
pub(crate) struct StreamState {
    pub(crate) ident: StreamIdent,
    queue: Mutex<Queue>,
    durable: Mutex<Option<Durable>>,
    previous: Mutex<Option<PreviousRun>>,
    pub(crate) counters: StreamCounters,
    /// Whether there is a handle.
    taken: AtomicBool,
}

/// Bytes that wait, over all streams.
#[derive(Default)]
pub(crate) struct QueueBudget {
    used: AtomicUsize,
}

impl StreamState {
    pub(crate) fn new(ident: StreamIdent, previous: Option<PreviousRun>) -> Self {
        Self {
            ident,
            queue: Mutex::new(Queue {
                items: Vec::new(),
                bytes: 0,
                gate: Gate::AtRandomAccess,
                run: None,
                volume: None,
            }),
            durable: Mutex::new(None),
            previous: Mutex::new(previous),
            counters: StreamCounters::default(),
            taken: AtomicBool::new(false),
        }
    }

    pub(crate) fn durable(&self) -> Option<Durable> {
        *lock(&self.durable)
    }

    pub(crate) fn set_durable(&self, durable: Durable) {
        *lock(&self.durable) = Some(durable);
    }

    pub(crate) fn previous(&self) -> Option<PreviousRun> {
        *lock(&self.previous)
    }

    pub(crate) fn set_previous(&self, previous: PreviousRun) {
        *lock(&self.previous) = Some(previous);
    }

    /// What an older volume or a slower walk found; the newest counts.
    pub(crate) fn found_previous(&self, found: PreviousRun) {
        let mut previous = lock(&self.previous);
        if previous.is_none_or(|p| p.end < found.end) {
            *previous = Some(found);
        }
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Makes the caller the only one that writes; `false` when somebody else is.
    pub(crate) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }

    pub(crate) fn volume(&self) -> Option<usize> {
        lock(&self.queue).volume
    }

    pub(crate) fn set_volume(&self, volume: Option<usize>) {
        lock(&self.queue).volume = volume;
    }

    pub(crate) fn queue_bytes(&self) -> usize {
        lock(&self.queue).bytes
    }

    /// All that waits, for the writer of that volume.
    pub(crate) fn drain(&self, volume: usize, budget: &QueueBudget) -> Vec<Item> {
        let mut queue = lock(&self.queue);
        if queue.volume != Some(volume) {
            return Vec::new();
        }
        budget.used.fetch_sub(queue.bytes, Ordering::Relaxed);
        queue.bytes = 0;
        std::mem::take(&mut queue.items)
    }

    /// Asks the stream's volume to seal its segment.
    pub(crate) fn push_seal(&self) {
        lock(&self.queue).items.push(Item::Seal);
    }

    /// Asks for all to be written and synced; `None` when no volume has the stream.
    pub(crate) fn push_finish(&self) -> Option<Arc<Latch>> {
        let mut queue = lock(&self.queue);
        queue.volume?;
        let latch = Arc::new(Latch::default());
        queue.items.push(Item::Finish(latch.clone()));
        Some(latch)
    }

    /// The stream's volume failed: what waits is given up, and the stream goes on at its next GOP on another one, if any.
    pub(crate) fn move_to(&self, volume: Option<usize>, budget: &QueueBudget) {
        let mut queue = lock(&self.queue);
        budget.used.fetch_sub(queue.bytes, Ordering::Relaxed);
        queue.bytes = 0;
        for item in std::mem::take(&mut queue.items) {
            match item {
                Item::Fragment(fragment) => self.counters.dropped(DropReason::VolumeFailed, frames(&fragment)),
                Item::Finish(latch) => latch.open(),
                Item::Begin(_) | Item::Break(_) | Item::Seal => {}
            }
        }
        queue.volume = volume;
        // Where the failed volume was in the middle of a run, the next one must be told of it.
        if let Some(run) = queue.run.clone() {
            queue.items.push(Item::Begin(run));
        }
        let reason = if volume.is_some() { DropReason::VolumeFailed } else { DropReason::NoVolume };
        queue.gate = Gate::Broken(GapReason::VolumeFailed, reason);
    }
}

fn frames(fragment: &Fragment) -> u64 {
    (fragment.video.len() + fragment.audio.len()) as u64
}

fn bytes(fragment: &Fragment) -> usize {
    fragment.video.iter().map(|f| f.data.len()).sum::<usize>()
        + fragment.audio.iter().map(|f| f.data.len()).sum::<usize>()
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It waits for the next [`crate::Store::flush_tick`].
    Queued,
    /// It will not be stored; nor will be what follows, up to the next random access point.
    Dropped(DropReason),
}

/// Writes one stream. Only one at a time exists for each stream. Dropping it is like [`Self::finish`] without waiting.
pub struct StreamWriter {
    inner: Arc<Inner>,
    stream: Arc<StreamState>,
}

impl StreamWriter {
    pub(crate) fn new(inner: Arc<Inner>, stream: Arc<StreamState>) -> Self {
        Self { inner, stream }
    }

    /// The stream.
    #[must_use]
    pub fn ident(&self) -> &StreamIdent {
        &self.stream.ident
    }

    /// The run that the stream had before on this recorder, if any.
    #[must_use]
    pub fn previous(&self) -> Option<PreviousRun> {
        self.stream.previous()
    }

    /// A run begins with the next fragment; where nothing was being stored, with the next one that begins with a random access
    /// point. The run that goes on already may be given again, with other codec parameters.
    pub fn begin_run(&mut self, start: RunStart) {
        let mut queue = lock(&self.stream.queue);
        queue.run = Some(Box::new(start.clone()));
        // Times that jump in the middle of a GOP begin a run as well, and nothing is to be dropped for it.
        if queue.gate != Gate::Open {
            queue.gate = Gate::AtRandomAccess;
        }
        queue.items.push(Item::Begin(Box::new(start)));
    }

    /// Queues a fragment; never blocks. When too much waits already, or no volume can take it, the rest of the GOP is dropped and
    /// counted, and a new run begins behind the gap.
    pub fn append(&mut self, fragment: Fragment) -> Appended {
        let counters = &self.stream.counters;
        let count = frames(&fragment);
        if count == 0 {
            return Appended::Queued;
        }
        let drop_it = |reason| {
            counters.dropped(reason, count);
            Appended::Dropped(reason)
        };
        if self.inner.is_closed() {
            return drop_it(DropReason::Closed);
        }
        let mut queue = lock(&self.stream.queue);
        if queue.run.is_none() {
            return drop_it(DropReason::Malformed);
        }
        if !fragment.begins_random_access {
            match queue.gate {
                Gate::Open => {}
                Gate::AtRandomAccess => return drop_it(DropReason::NotRandomAccess),
                Gate::Broken(_, reason) => return drop_it(reason),
            }
        }
        if queue.volume.is_none() {
            drop(queue);
            let volume = self.inner.place(&self.stream);
            queue = lock(&self.stream.queue);
            queue.volume = volume;
            if queue.volume.is_none() {
                queue.gate = Gate::Broken(GapReason::VolumeFailed, DropReason::NoVolume);
                return drop_it(DropReason::NoVolume);
            }
        }
        let size = bytes(&fragment);
        let limits = self.inner.queue_limits();
        let total = self.inner.budget.used.load(Ordering::Relaxed);
        if queue.bytes.saturating_add(size) > limits.stream_bytes || total.saturating_add(size) > limits.total_bytes {
            queue.gate = Gate::Broken(GapReason::Overload, DropReason::Overload);
            return drop_it(DropReason::Overload);
        }
        if let Gate::Broken(gap, _) = queue.gate {
            queue.items.push(Item::Break(gap));
        }
        queue.gate = Gate::Open;
        queue.bytes += size;
        self.inner.budget.used.fetch_add(size, Ordering::Relaxed);
        queue.items.push(Item::Fragment(Box::new(fragment)));
        Appended::Queued
    }

    /// Writes and syncs all that was appended, and lets go of the stream. Blocks for up to one sync.
    pub fn finish(self) {
        if let Some(latch) = self.stream.push_finish() {
            self.inner.flush_tick();
            latch.wait();
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.stream.release();
    }
}

/// Limits of the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) stream_bytes: usize,
    pub(crate) total_bytes: usize,
}
