//! One stream: what waits to be written, and the handle that fills the queue.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::{MediaTime, WallTime};

use crate::backlog::{Backlog, Handed};
use crate::lock;
use crate::stats::{DropReason, StreamCounters};
use crate::store::Inner;
use crate::types::{Durable, Fragment, PreviousRun, RunStart, StreamIdent};
use crate::volume::writer::Carry;

/// Bytes that a frame in memory takes beside its own.
const FRAME_OVERHEAD_BYTES: usize = 128;

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

    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        *lock(&self.open)
    }

    pub(crate) fn wait_until(&self, until: Instant) {
        let longest = until.saturating_duration_since(Instant::now());
        drop(self.opened.wait_timeout_while(lock(&self.open), longest, |open| !*open));
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
    backlog: Backlog,
    gate: Gate,
    run: Option<RunStart>,
    /// Position of the volume in the store.
    volume: Option<usize>,
}

/// Where a stream goes whose volume takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To that volume.
    Volume(usize),
    /// Nowhere yet: a volume may come.
    Wait,
    /// What is not durable is given up.
    Nowhere,
}

/// How far a stream was written to a volume; true once that is synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// How often the stream had moved.
    pub(crate) moves: u64,
    /// Items below this number.
    pub(crate) below: u64,
    /// Wall time and presentation time of the newest video frame among them, if any.
    pub(crate) newest: Option<(WallTime, MediaTime)>,
}

impl Mark {
    /// This mark, set behind `earlier`.
    pub(crate) fn behind(self, earlier: Option<Self>) -> Self {
        let earlier = earlier.filter(|earlier| earlier.moves == self.moves);
        Self { newest: self.newest.or(earlier.and_then(|earlier| earlier.newest)), ..self }
    }
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
    /// There was no file for it when one was wanted last.
    starved: AtomicBool,
}

/// What of a stream is in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes that wait for the disk.
    pub(crate) waiting_bytes: u64,
    /// Bytes of all its frames in memory.
    pub(crate) bytes: u64,
    /// Bytes of a whole GOP, where one has been seen.
    pub(crate) gop_bytes: Option<u64>,
    /// The GOP that goes on is too long for the budget.
    pub(crate) gop_too_long: bool,
}

/// Bytes of frames in memory, over all streams.
#[derive(Default)]
pub(crate) struct QueueBudget {
    used: AtomicUsize,
    /// Of these, what is kept outside.
    beside: AtomicUsize,
}

impl QueueBudget {
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn freed(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl StreamState {
    pub(crate) fn new(ident: StreamIdent, previous: Option<PreviousRun>) -> Self {
        Self {
            ident,
            queue: Mutex::new(Queue {
                backlog: Backlog::default(),
                gate: Gate::AtRandomAccess,
                run: None,
                volume: None,
            }),
            durable: Mutex::new(None),
            previous: Mutex::new(previous),
            counters: StreamCounters::default(),
            taken: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        }
    }

    pub(crate) fn durable(&self) -> Option<Durable> {
        *lock(&self.durable)
    }

    /// What `mark` says is durable; how far the stream is then, if that is news.
    pub(crate) fn settle(&self, mark: Mark, budget: &QueueBudget) -> Option<Durable> {
        let mut queue = lock(&self.queue);
        let (frames, newest) = queue.backlog.settled(mark.moves, mark.below, mark.newest)?;
        let settled = queue.backlog.settled_frames();
        budget.freed(queue.backlog.trim(self.is_taken()));
        drop(queue);
        let (wall, pts) = newest?;
        let mut durable = lock(&self.durable);
        let frames = durable.map_or(0, |durable| durable.frames) + frames;
        *durable = Some(Durable { wall, pts, frames, settled });
        *durable
    }

    /// The volume that it had moved to `moves` times holds its frames up to item `below`. `false` when it is elsewhere by now.
    pub(crate) fn written(&self, moves: u64, below: u64, run_end: Option<PreviousRun>) -> bool {
        let mut queue = lock(&self.queue);
        let here = queue.backlog.written(moves, below);
        if let Some(run_end) = run_end.filter(|_| here == Some(true)) {
            self.set_previous(run_end);
        }
        here.is_some()
    }

    /// No volume can store the fragment of that number.
    pub(crate) fn dropped(&self, number: u64, reason: DropReason, frames: u64, budget: &QueueBudget) {
        self.counters.dropped(reason, frames);
        let by_itself = matches!(reason, DropReason::Malformed | DropReason::TooBig);
        budget.freed(lock(&self.queue).backlog.dropped(number, by_itself));
    }

    pub(crate) fn previous(&self) -> Option<PreviousRun> {
        *lock(&self.previous)
    }

    fn set_previous(&self, previous: PreviousRun) {
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

    pub(crate) fn release(&self, budget: &QueueBudget) {
        self.taken.store(false, Ordering::Release);
        budget.freed(lock(&self.queue).backlog.trim(false));
    }

    /// There was no file for it, or there is one.
    pub(crate) fn set_starved(&self, starved: bool) {
        self.starved.store(starved, Ordering::Release);
    }

    fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
    }

    pub(crate) fn volume(&self) -> Option<usize> {
        lock(&self.queue).volume
    }

    pub(crate) fn set_volume(&self, volume: Option<usize>) {
        lock(&self.queue).volume = volume;
    }

    pub(crate) fn memory(&self) -> Memory {
        let queue = lock(&self.queue);
        let backlog = &queue.backlog;
        Memory {
            waiting_bytes: backlog.waiting_bytes() as u64,
            bytes: backlog.bytes() as u64,
            gop_bytes: backlog.gop_bytes().map(|bytes| bytes as u64),
            gop_too_long: self.is_taken() && backlog.is_cut(),
        }
    }

    /// All that waits, for the writer of that volume.
    pub(crate) fn drain(&self, volume: usize) -> Option<Handed> {
        let mut queue = lock(&self.queue);
        if queue.volume != Some(volume) {
            return None;
        }
        Some(queue.backlog.drain()).filter(|handed| !handed.items.is_empty())
    }

    /// The volume that it had moved to `moves` times has no file yet for what it was handed from item `number` on.
    pub(crate) fn give_back(&self, moves: u64, number: u64) {
        lock(&self.queue).backlog.give_back(moves, number);
    }

    /// Asks the stream's volume to seal its segment.
    pub(crate) fn push_seal(&self) {
        lock(&self.queue).backlog.seal();
    }

    /// Asks for all to be written and synced; `None` when no volume has the stream.
    pub(crate) fn push_finish(&self) -> Option<Arc<Latch>> {
        let mut queue = lock(&self.queue);
        queue.volume?;
        let latch = Arc::new(Latch::default());
        queue.backlog.finish(latch.clone());
        Some(latch)
    }

    /// The stream's volume takes no more: it goes on on another one, from the key frame of the GOP that holds the first frame that is not
    /// durable. Without another one, what is not durable is given up and counted. `false` when it is not on `from` any more.
    pub(crate) fn move_to(&self, from: usize, to: Destination, budget: &QueueBudget) -> bool {
        let mut queue = lock(&self.queue);
        if queue.volume != Some(from) {
            return false;
        }
        queue.volume = None;
        match to {
            Destination::Volume(at) => {
                queue.volume = Some(at);
                queue.backlog.move_on();
                return true;
            }
            Destination::Wait => {
                queue.backlog.move_on();
                return true;
            }
            Destination::Nowhere => {}
        }
        self.counters.dropped(DropReason::VolumeFailed, queue.backlog.frames_at_risk());
        let (freed, latches) = queue.backlog.give_up();
        budget.freed(freed);
        queue.gate = Gate::Broken(GapReason::VolumeFailed, DropReason::NoVolume);
        drop(queue);
        latches.iter().for_each(|latch| latch.open());
        true
    }

    /// The turn of volume `to` has come: it goes on there from item `number` on, all of which `from` was handed and has not written.
    pub(crate) fn hand_over(&self, from: usize, to: usize, moves: u64, number: u64, carry: Box<Carry>) -> bool {
        let mut queue = lock(&self.queue);
        let handed = queue.volume == Some(from) && queue.backlog.hand_over(from, moves, number, carry);
        if handed {
            queue.volume = Some(to);
        }
        handed
    }

    /// A volume that it was handed over from makes nothing durable any more: what it had goes on where the stream is now. Whether it had anything.
    pub(crate) fn lost(&self, volume: usize) -> bool {
        let mut queue = lock(&self.queue);
        let had_some = queue.backlog.waits_for(volume);
        if had_some {
            queue.backlog.move_on();
        }
        had_some
    }

    /// Whether it has frames and no volume.
    pub(crate) fn is_waiting(&self) -> bool {
        let queue = lock(&self.queue);
        queue.volume.is_none() && queue.backlog.waiting_bytes() > 0
    }

    /// A volume has come for a stream that waits.
    pub(crate) fn arrive(&self, at: usize) {
        lock(&self.queue).volume.get_or_insert(at);
    }
}

fn frames(fragment: &Fragment) -> u64 {
    (fragment.video.len() + fragment.audio.len()) as u64
}

fn bytes(fragment: &Fragment) -> usize {
    let data = fragment.video.iter().map(|f| f.data.len()).sum::<usize>()
        + fragment.audio.iter().map(|f| f.data.len()).sum::<usize>();
    data + FRAME_OVERHEAD_BYTES * (fragment.video.len() + fragment.audio.len())
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It waits for the next [`crate::Store::flush_tick`].
    Queued,
    /// It will not be stored; nor will be what follows, up to the next random access point.
    Dropped(DropReason),
    /// It waits for the next [`crate::Store::flush_tick`], but what came before could not be stored, and nothing says that this will be.
    Waits(DropReason),
}

/// Writes one stream. Only one at a time exists for each stream. Dropping it is like [`Self::finish`] without waiting.
pub struct StreamWriter {
    inner: Arc<Inner>,
    stream: Arc<StreamState>,
    /// Bytes of frames that its user keeps.
    beside: usize,
}

impl StreamWriter {
    pub(crate) fn new(inner: Arc<Inner>, stream: Arc<StreamState>) -> Self {
        Self { inner, stream, beside: 0 }
    }

    /// So many bytes of frames are kept beside the store: they count among those that all streams may have in memory. Whether that is too much, by
    /// which recording comes first: half of what there may be is for frames that nobody records yet.
    pub fn keep_beside(&mut self, bytes: usize) -> bool {
        let QueueLimits { stream_bytes, total_bytes } = self.inner.queue_limits();
        let budget = &self.inner.budget;
        budget.beside.fetch_add(bytes, Ordering::Relaxed);
        let beside = budget.beside.fetch_sub(self.beside, Ordering::Relaxed).saturating_sub(self.beside);
        budget.used.fetch_add(bytes, Ordering::Relaxed);
        budget.freed(std::mem::replace(&mut self.beside, bytes));
        bytes > stream_bytes || beside > total_bytes / 2 || budget.used() > total_bytes / 4 * 3
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

    /// How far the stream is durable on this recorder.
    #[must_use]
    pub fn durable(&self) -> Option<Durable> {
        self.stream.durable()
    }

    /// A run begins with the next fragment; where nothing was being stored, with the next one that begins with a random access
    /// point. The run that goes on already may be given again, with other codec parameters.
    pub fn begin_run(&mut self, start: RunStart) {
        let mut queue = lock(&self.stream.queue);
        queue.run = Some(start.clone());
        // Times that jump in the middle of a GOP begin a run as well, and nothing is to be dropped for it.
        if queue.gate != Gate::Open {
            queue.gate = Gate::AtRandomAccess;
        }
        queue.backlog.begin(start, false);
    }

    /// Video frames of the stream that were queued since the store was opened, whatever has become of them. Beside [`Durable::settled`].
    #[must_use]
    pub fn given(&self) -> u64 {
        lock(&self.stream.queue).backlog.given()
    }

    /// Of these, up to and with which one the last was lost after it had been queued, because no volume could store it: what is durable behind it
    /// does not follow on what is durable before it. 0 while none was. What cannot be stored anywhere (malformed, too big) does not count.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lock(&self.stream.queue).backlog.lost_frames()
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
            let may_come = volume.is_none() && self.inner.one_may_come();
            queue = lock(&self.stream.queue);
            queue.volume = queue.volume.or(volume);
            if queue.volume.is_none() && !may_come {
                queue.gate = Gate::Broken(GapReason::VolumeFailed, DropReason::NoVolume);
                return drop_it(DropReason::NoVolume);
            }
        }
        let size = bytes(&fragment);
        if !self.make_room(&mut queue.backlog, size) {
            queue.gate = Gate::Broken(GapReason::Overload, DropReason::Overload);
            return drop_it(DropReason::Overload);
        }
        if let (Gate::Broken(gap, _), Some(run)) = (queue.gate, queue.run.clone()) {
            queue.backlog.begin(RunStart { gap: Some(gap), ..run }, true);
        }
        queue.gate = Gate::Open;
        self.inner.budget.used.fetch_add(size, Ordering::Relaxed);
        queue.backlog.fragment(fragment, size);
        if self.stream.is_starved() { Appended::Waits(DropReason::NoFreeFile) } else { Appended::Queued }
    }

    /// Whether so many more bytes may be kept. The beginning of the GOP that goes on gives way to them.
    fn make_room(&self, backlog: &mut Backlog, size: usize) -> bool {
        let QueueLimits { stream_bytes, total_bytes } = self.inner.queue_limits();
        let total = || self.inner.budget.used().saturating_add(size);
        let over = |backlog: &Backlog| backlog.bytes().saturating_add(size) > stream_bytes || total() > total_bytes;
        // Before any stream has to drop frames, all let go of what only serves the failure of a volume.
        if backlog.durable_bytes() > 0 && (over(backlog) || total() > total_bytes / 4 * 3) {
            self.inner.budget.freed(backlog.cut());
        }
        !over(backlog)
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
        self.keep_beside(0);
        self.stream.release(&self.inner.budget);
    }
}

/// Limits of the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) stream_bytes: usize,
    pub(crate) total_bytes: usize,
}
