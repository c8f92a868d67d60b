//! What of a stream is in memory: what waits to be written, what was written and is not durable yet, and the GOP that this belongs to, so
//! that all of it can be written again elsewhere. Pure.
//!
//! ```text
//!  first                durable              drained           end
//!    │  GOP kept for what │  would be lost     │  waits for the  │
//!    │  follows           │  with the volume   │  writer         │
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::{MediaTime, WallTime};

use crate::stream::Latch;
use crate::types::{Fragment, PreviousRun, RunStart};
use crate::volume::writer::Carry;

/// Something for the writer of a volume to do.
#[derive(Clone)]
pub(crate) enum Item {
    /// A run begins.
    Begin(Arc<Begin>),
    Fragment(Arc<Fragment>),
    /// All before this is to be written and synced.
    Finish(Arc<Latch>),
    /// The stream's segment is to be sealed.
    Seal,
    /// A fragment that no volume can store.
    Nothing,
}

/// A run begins.
pub(crate) struct Begin {
    /// What it is.
    pub(crate) start: RunStart,
    /// It is not the run that `start` names but one like it: frames are missing on our side, or it goes on from another volume.
    pub(crate) anew: bool,
    /// Why there is a gap before it and which run was before, as found when it was first begun.
    pub(crate) resolved: OnceLock<(GapReason, Option<PreviousRun>)>,
}

impl Begin {
    pub(crate) fn new(start: RunStart, anew: bool) -> Arc<Self> {
        Arc::new(Self { start, anew, resolved: OnceLock::new() })
    }
}

/// What a writer is given.
pub(crate) struct Handed {
    /// With their numbers.
    pub(crate) items: Vec<(u64, Item)>,
    /// How often the stream has moved: what is reported later under another number means nothing any more.
    pub(crate) moves: u64,
    /// Items with smaller numbers were given to another volume before.
    pub(crate) again_below: u64,
    /// Frames of items with smaller numbers have been counted as written.
    pub(crate) counted_below: u64,
    /// What the volume that the stream was handed over from knew of it.
    pub(crate) carry: Option<Box<Carry>>,
}

/// A volume that the stream was handed over from, as long as what it was given is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    /// Its position in the store.
    volume: usize,
    moves: u64,
    /// It has the items below.
    below: u64,
}

/// Wall time and presentation time of a video frame.
type Newest = Option<(WallTime, MediaTime)>;

struct Entry {
    item: Item,
    bytes: usize,
    /// Pictures that there were up to its end, whatever has become of them.
    given: u64,
}

/// The items of one stream, numbered.
#[derive(Default)]
pub(crate) struct Backlog {
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    /// Items below were given to the volume that the stream is on.
    drained: u64,
    /// Items below are durable, or given up.
    durable: u64,
    /// Pictures that there were, and up to which of them all are durable or given up.
    given: u64,
    settled: u64,
    /// Up to which of them the last one was given up that a recorder with better disks would have stored.
    lost: u64,
    /// Items below were given to some volume.
    handed: u64,
    /// Items below were counted as written.
    counted: u64,
    moves: u64,
    /// The run that goes on at the first entry; its gap reason is set while none of its fragments went before.
    context: Option<Arc<Begin>>,
    /// Fragments of the context's run went before.
    inside_run: bool,
    /// The next volume must be told of the run first.
    resume: bool,
    before: Option<Before>,
    /// What the volume that the stream is on has made durable meanwhile.
    ahead: (u64, Newest),
    carry: Option<Box<Carry>>,
    bytes: usize,
    waiting_bytes: usize,
    durable_bytes: usize,
    /// Bytes of the GOP that goes on, so far, and of the last one that was whole.
    gop_bytes: usize,
    whole_gop_bytes: Option<usize>,
    /// A GOP goes on whose beginning was seen.
    inside_gop: bool,
    /// The beginning of the GOP that goes on had to be let go, and that of the one before.
    cut: bool,
    cut_before: bool,
}

impl Backlog {
    /// Bytes of all frames in here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of frames that no volume was given.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of frames that are durable and only kept for the rest of their GOP.
    pub(crate) fn durable_bytes(&self) -> usize {
        self.durable_bytes
    }

    /// Bytes of the last GOP that was seen whole, or of the one that goes on where that is larger, whether they are in memory or not.
    pub(crate) fn gop_bytes(&self) -> Option<usize> {
        self.whole_gop_bytes.map(|whole| whole.max(self.gop_bytes))
    }

    /// Whether the beginning of a GOP had to be let go, of the one that goes on or of the one before.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut || self.cut_before
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn push(&mut self, item: Item, bytes: usize) {
        self.entries.push_back(Entry { item, bytes, given: self.given });
        self.bytes += bytes;
        self.waiting_bytes += bytes;
    }

    /// A run begins. One that no fragment has come for is forgotten.
    pub(crate) fn begin(&mut self, start: RunStart, anew: bool) {
        let mut begin = (start, anew);
        if self.drained < self.end()
            && let Some(Entry { item: Item::Begin(old), .. }) = self.entries.back()
        {
            // The same run with other parameters: what led to it stays.
            if old.start.run == begin.0.run {
                begin = (RunStart { gap: old.start.gap, ..begin.0 }, old.anew || anew);
            }
            self.entries.pop_back();
        }
        self.push(Item::Begin(Begin::new(begin.0, begin.1)), 0);
    }

    pub(crate) fn fragment(&mut self, fragment: Fragment, bytes: usize) {
        if fragment.begins_random_access {
            self.cut_before = std::mem::take(&mut self.cut);
            let whole = std::mem::take(&mut self.gop_bytes);
            if std::mem::replace(&mut self.inside_gop, true) {
                self.whole_gop_bytes = Some(whole);
            }
        }
        self.gop_bytes += bytes;
        self.given += fragment.video.len() as u64;
        self.push(Item::Fragment(Arc::new(fragment)), bytes);
    }

    pub(crate) fn finish(&mut self, latch: Arc<Latch>) {
        self.push(Item::Finish(latch), 0);
    }

    pub(crate) fn seal(&mut self) {
        self.push(Item::Seal, 0);
    }

    /// What the volume was not given yet; now it is.
    pub(crate) fn drain(&mut self) -> Handed {
        let mut items = Vec::new();
        if self.drained < self.end() || self.resume {
            if std::mem::take(&mut self.resume)
                && let Some(begin) = &self.context
            {
                let gap = if self.inside_run { Some(GapReason::NoGap) } else { begin.start.gap };
                let resumed = Begin::new(RunStart { gap, ..begin.start.clone() }, true);
                if let Some(resolved) = begin.resolved.get().filter(|_| !self.inside_run) {
                    resumed.resolved.get_or_init(|| *resolved);
                }
                items.push((self.drained, Item::Begin(resumed)));
            }
            let skip = usize::try_from(self.drained.saturating_sub(self.first)).unwrap_or(usize::MAX);
            items.extend((self.drained..).zip(self.entries.iter().skip(skip).map(|entry| entry.item.clone())));
        }
        let (moves, again_below, counted_below) = (self.moves, self.handed, self.counted);
        let handed = Handed { items, moves, again_below, counted_below, carry: self.carry.take() };
        self.drained = self.end();
        self.waiting_bytes = 0;
        handed
    }

    /// The volume that the stream has moved to `moves` times could not take items from `number` on: it is given them again.
    pub(crate) fn give_back(&mut self, moves: u64, number: u64) {
        if moves != self.moves || number < self.first || number >= self.drained {
            return;
        }
        self.drained = number;
        self.waiting_bytes = self.bytes_from(number);
    }

    /// The volume that the stream has moved to `moves` times goes on with nothing from item `number` on, because another one's turn has come: that
    /// one is given them. `false` when the stream is elsewhere, or not even what was handed over the last time is durable.
    pub(crate) fn hand_over(&mut self, volume: usize, moves: u64, number: u64, carry: Box<Carry>) -> bool {
        if moves != self.moves || self.before.is_some() || number < self.first || number >= self.drained {
            return false;
        }
        self.before = (self.durable < number).then_some(Before { volume, moves, below: number });
        self.moves += 1;
        self.ahead = (0, None);
        self.drained = number;
        self.waiting_bytes = self.bytes_from(number);
        self.carry = Some(carry);
        true
    }

    /// Whether a volume that the stream was handed over from has something of it that is not durable.
    pub(crate) fn waits_for(&self, volume: usize) -> bool {
        self.before.is_some_and(|before| before.volume == volume)
    }

    fn bytes_from(&self, number: u64) -> usize {
        let skip = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).map(|entry| entry.bytes).sum()
    }

    /// No volume can store a fragment, or none of any recorder can: `by_itself`. Returns the bytes that became free.
    pub(crate) fn dropped(&mut self, number: u64, by_itself: bool) -> usize {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else { return 0 };
        let freed = std::mem::take(&mut entry.bytes);
        if !by_itself {
            self.lost = self.lost.max(entry.given);
        }
        entry.item = Item::Nothing;
        self.bytes -= freed;
        if number >= self.drained {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(freed);
        }
        if number < self.durable {
            self.durable_bytes = self.durable_bytes.saturating_sub(freed);
        }
        freed
    }

    /// Frames up to `number` (exclusive) were written, for the first time or again. Whether that is the newest that was written of the stream;
    /// `None` when the stream has moved on since it had moved `moves` times.
    pub(crate) fn written(&mut self, moves: u64, number: u64) -> Option<bool> {
        let before = self.before.is_some_and(|before| before.moves == moves);
        if moves != self.moves && !before {
            return None;
        }
        let newest = number >= self.counted;
        self.counted = self.counted.max(number);
        Some(newest)
    }

    /// Items up to `number` (exclusive) are durable on the volume that the stream has moved to `moves` times, or will never be; `newest` is the
    /// newest video frame among them. Returns how many video frames are so for the first time, and the newest of these; `None` when that is
    /// no news.
    pub(crate) fn settled(&mut self, moves: u64, number: u64, newest: Newest) -> Option<(u64, Newest)> {
        match self.before {
            Some(before) if moves == before.moves => {
                let frames = self.durable_to(number.min(before.below));
                if self.durable < before.below {
                    return frames.map(|frames| (frames, newest));
                }
                self.before = None;
                let (ahead, newer) = std::mem::take(&mut self.ahead);
                let more = self.durable_to(ahead);
                (frames.is_some() || more.is_some())
                    .then(|| (frames.unwrap_or(0) + more.unwrap_or(0), newer.or(newest)))
            }
            // Not before what came before it is: a stream is durable up to a frame, or not.
            Some(_) if moves == self.moves => {
                self.ahead = (self.ahead.0.max(number), newest.or(self.ahead.1));
                None
            }
            _ if moves == self.moves => self.durable_to(number).map(|frames| (frames, newest)),
            _ => None,
        }
    }

    fn durable_to(&mut self, number: u64) -> Option<u64> {
        if number <= self.durable {
            return None;
        }
        let mut frames = 0;
        for at in self.durable..number {
            let Some(entry) = self.entry(at) else { continue };
            let bytes = entry.bytes;
            if let Item::Fragment(fragment) = &entry.item {
                frames += fragment.video.len() as u64;
            }
            self.durable_bytes += bytes;
        }
        self.durable = number.min(self.end());
        self.settled =
            self.durable.checked_sub(1).and_then(|last| self.entry(last)).map_or(self.settled, |entry| entry.given);
        Some(frames)
    }

    /// Video frames that there were since the store was opened.
    pub(crate) fn given(&self) -> u64 {
        self.given
    }

    /// So many of these, from the first on, are durable or will never be.
    pub(crate) fn settled_frames(&self) -> u64 {
        self.settled
    }

    /// So many of these there were when the last of those was given that will never be durable here, and might be elsewhere; 0 for none.
    pub(crate) fn lost_frames(&self) -> u64 {
        self.lost
    }

    /// Lets go of what is not needed any more. With `whole_gop`, all from the key frame of the GOP that holds the first frame that is not
    /// durable stays. Returns the bytes that became free.
    pub(crate) fn trim(&mut self, whole_gop: bool) -> usize {
        let begins =
            |at: &u64| matches!(self.entry(*at), Some(Entry { item: Item::Fragment(f), .. }) if f.begins_random_access);
        let from = if whole_gop {
            let newest = self.durable.min(self.end().saturating_sub(1));
            (self.first..=newest).rev().find(begins).unwrap_or(self.durable)
        } else {
            self.durable
        };
        // A volume that the stream moves to reads from the first entry on.
        let from = from.min(self.durable).min(self.drained);
        let mut freed = 0;
        while self.first < from {
            let Some(entry) = self.entries.pop_front() else { break };
            self.first += 1;
            freed += entry.bytes;
            self.durable_bytes = self.durable_bytes.saturating_sub(entry.bytes);
            match entry.item {
                Item::Begin(begin) => {
                    // Only a run's very first fragment stands behind the gap that it tells of.
                    let goes_on =
                        self.inside_run && self.context.as_ref().is_some_and(|c| c.start.run == begin.start.run);
                    self.inside_run = goes_on && !begin.anew;
                    self.context = Some(begin);
                }
                Item::Fragment(_) => self.inside_run = true,
                Item::Finish(_) | Item::Seal | Item::Nothing => {}
            }
        }
        self.bytes -= freed;
        freed
    }

    /// Lets go of all that is durable, though the GOP goes on. Returns the bytes that became free.
    pub(crate) fn cut(&mut self) -> usize {
        self.cut = true;
        self.trim(false)
    }

    /// Video and audio frames that are not durable.
    pub(crate) fn frames_at_risk(&self) -> u64 {
        let skip = usize::try_from(self.durable.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let frames = self.entries.iter().skip(skip).map(|entry| match &entry.item {
            Item::Fragment(fragment) => (fragment.video.len() + fragment.audio.len()) as u64,
            _ => 0,
        });
        frames.sum()
    }

    /// All is to be written once more, on another volume.
    pub(crate) fn move_on(&mut self) {
        self.moves += 1;
        self.handed = self.handed.max(self.drained);
        self.drained = self.first;
        self.waiting_bytes = self.bytes;
        self.resume = true;
        self.forget_hand_over();
    }

    fn forget_hand_over(&mut self) {
        self.before = None;
        self.ahead = (0, None);
        self.carry = None;
    }

    /// All is given up; the latches in it are for the caller to open. Returns the bytes that became free.
    pub(crate) fn give_up(&mut self) -> (usize, Vec<Arc<Latch>>) {
        self.moves += 1;
        let freed = self.bytes;
        self.first = self.end();
        let latches = self.entries.drain(..).filter_map(|entry| match entry.item {
            Item::Finish(latch) => Some(latch),
            _ => None,
        });
        let latches = latches.collect();
        (self.drained, self.durable, self.handed) = (self.first, self.first, self.first);
        if self.settled < self.given {
            self.lost = self.given;
        }
        self.settled = self.given;
        (self.bytes, self.waiting_bytes, self.durable_bytes) = (0, 0, 0);
        self.context = None;
        self.inside_run = false;
        self.resume = false;
        self.forget_hand_over();
        (freed, latches)
    }
}

#[cfg(test)]
pub(crate) mod tests;
