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

    /// No volume can store a fragment. Returns the bytes that became free.
    pub(crate) fn dropped(&mut self, number: u64) -> usize {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else { return 0 };
        let freed = std::mem::take(&mut entry.bytes);
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
pub(crate) mod tests {
    use std::sync::Arc;

    use framekeeper_media::WallTime;
    use framekeeper_media::boxes::run::PlanVersion;
    use framekeeper_media::h264::H264Parameters;
    use framekeeper_media::init::InitSegment;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const SPS: &[u8] = &[
        0x67, 0x4d, 0x40, 0x0d, 0xec, 0xa0, 0xa0, 0xfd, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03,
        0x01, 0x90, 0x78, 0xa1, 0x4c, 0xb0,
    ];

    pub(crate) fn run(name: u128, gap: Option<GapReason>) -> RunStart {
        let video = H264Parameters::from_sps_pps(SPS, &[&[0x68, 0xeb, 0xe3, 0xcb, 0x20]]).unwrap();
        RunStart {
            run: Uuid::from_u128(name),
            epoch: 1,
            rank: 0,
            plan_version: PlanVersion { term: 1, sequence: 1 },
            gap,
            init: Arc::new(InitSegment::new(&video, None)),
            audio_timescale: 0,
            sender_report: None,
        }
    }

    fn fragment(key: bool) -> Fragment {
        Fragment { begins_random_access: key, ..Fragment::default() }
    }

    /// What was handed over, in short: runs with their gap (`+` for one like the named), fragments as `K` and `.`.
    fn told(handed: &Handed) -> String {
        let one = |(number, item): &(u64, Item)| match item {
            Item::Begin(begin) => {
                let again = if begin.anew || *number < handed.again_below { "+" } else { "" };
                let gap = begin.start.gap.map_or("?", GapReason::as_str);
                format!("[{}{again} {gap}]", begin.start.run.as_u128())
            }
            Item::Fragment(fragment) => if fragment.begins_random_access { "K" } else { "." }.to_owned(),
            Item::Finish(_) => "F".to_owned(),
            Item::Seal => "S".to_owned(),
            Item::Nothing => "-".to_owned(),
        };
        handed.items.iter().map(one).collect()
    }

    fn with(fragments: &str) -> Backlog {
        let mut log = Backlog::default();
        log.begin(run(1, None), false);
        fragments.chars().for_each(|c| log.fragment(fragment(c == 'K'), 10));
        log
    }

    #[test]
    fn the_size_of_a_gop_is_known_once_one_was_whole() {
        assert_eq!(with("..K...").gop_bytes(), None);
        assert_eq!(with("..K...K").gop_bytes(), Some(40));
        assert_eq!(with("K...K......").gop_bytes(), Some(70), "the one that goes on is larger");
        let mut log = with("K...K..");
        log.cut();
        log.give_up();
        assert_eq!(log.gop_bytes(), Some(40), "what is in memory does not matter");
    }

    #[test]
    fn all_from_the_key_frame_of_the_first_frame_at_risk_goes_on() {
        let mut log = with("K..K..K.");
        assert_eq!(told(&log.drain()), "[1 ?]K..K..K.");
        assert_eq!(told(&log.drain()), "");
        // Up to the fifth fragment; the sixth is at risk, and its GOP began with the fourth.
        assert_eq!(log.settled(0, 6, None), Some((0, None)));
        assert_eq!(log.trim(true), 30);
        assert_eq!((log.bytes(), log.durable_bytes(), log.waiting_bytes()), (50, 20, 0));
        log.move_on();
        log.fragment(fragment(false), 10);
        assert_eq!(log.waiting_bytes(), 60);
        assert_eq!(told(&log.drain()), "[1+ NoGap]K..K..");
        // What the first volume still says does not count; what the second one says does.
        assert_eq!(log.settled(0, 9, None), None);
        assert_eq!(log.settled(1, 10, None), Some((0, None)));
        assert_eq!(log.trim(true), 30);
        assert_eq!(log.trim(false), 30);
    }

    #[test]
    fn a_gap_before_what_goes_on_keeps_its_reason() {
        let mut log = with("K.");
        log.begin(run(2, Some(GapReason::Silence)), false);
        log.fragment(fragment(true), 10);
        let handed = log.drain();
        assert_eq!(told(&handed), "[1 ?]K.[2 Silence]K");
        let Some((_, Item::Begin(begin))) = handed.items.get(3) else { panic!() };
        let resolved = (GapReason::Silence, Some(PreviousRun { run: Uuid::nil(), end: WallTime(5), in_order: true }));
        begin.resolved.set(resolved).unwrap();
        // Everything but the last fragment is durable: only that goes on, behind the same gap.
        log.settled(0, 4, None);
        log.trim(true);
        log.move_on();
        let again = log.drain();
        assert_eq!(told(&again), "[2+ Silence]K");
        let Some((_, Item::Begin(begin))) = again.items.first() else { panic!() };
        assert_eq!(begin.resolved.get(), Some(&resolved));
        // Once more, from inside of the run.
        log.fragment(fragment(true), 10);
        log.drain();
        log.settled(1, 6, None);
        log.trim(true);
        log.move_on();
        assert_eq!(told(&log.drain()), "[2+ NoGap]K");
    }

    #[test]
    fn parameters_that_change_do_not_begin_a_run() {
        let mut log = with("K.");
        log.drain();
        log.begin(run(1, Some(GapReason::NoGap)), false);
        log.fragment(fragment(true), 10);
        log.drain();
        log.settled(0, 4, None);
        log.trim(true);
        log.move_on();
        assert_eq!(told(&log.drain()), "[1+ NoGap]K");
        // One that nothing came for is forgotten; the reason of the first stays.
        log.begin(run(3, Some(GapReason::Silence)), false);
        log.begin(run(3, Some(GapReason::NoGap)), false);
        assert_eq!(told(&log.drain()), "[3 Silence]");
    }

    #[test]
    fn what_is_handed_over_goes_on_where_it_was_and_is_durable_only_behind_what_was_before() {
        let mut log = with("K..K..");
        assert_eq!(told(&log.drain()), "[1 ?]K..K..");
        // The first volume wrote up to the second key frame, and syncs some of it later.
        assert_eq!(log.settled(0, 3, None), Some((0, None)));
        assert!(log.hand_over(0, 0, 4, Carry::empty()));
        assert!(log.waits_for(0) && !log.waits_for(1));
        assert_eq!(log.waiting_bytes(), 30);
        let handed = log.drain();
        assert_eq!((told(&handed).as_str(), handed.moves, handed.carry.is_some()), ("K..", 1, true));
        let at = |us| Some((WallTime(us), MediaTime(us)));
        assert_eq!(log.settled(1, 7, at(7)), None);
        assert!(!log.hand_over(1, 1, 6, Carry::empty()), "one at a time");
        assert_eq!((log.written(1, 7), log.written(0, 4)), (Some(true), Some(false)));
        assert_eq!(log.settled(0, 4, at(4)), Some((0, at(7))));
        assert!(!log.waits_for(0));
        assert_eq!(log.durable, 7);
        // The first volume has no part in it any more.
        assert_eq!((log.settled(0, 7, None), log.written(0, 7)), (None, None));
        // Should it have failed before that, all that was not durable goes on from its key frame.
        let mut log = with("K..K..");
        log.drain();
        assert!(log.hand_over(0, 0, 4, Carry::empty()));
        log.drain();
        assert_eq!(log.settled(1, 7, None), None);
        log.move_on();
        let handed = log.drain();
        assert_eq!((told(&handed).as_str(), handed.carry.is_some()), ("[1+ ?]K..K..", false));
    }

    proptest! {
        /// Whatever happens in whatever order: what is at risk is always there to be handed over, and the bytes add up.
        #[test]
        fn nothing_at_risk_is_ever_let_go(steps in proptest::collection::vec((0_u8..9, 0_u64..6), 1..200)) {
            let mut log = with("K");
            let (mut end, mut drained, mut moves, mut durable) = (2_u64, 0, 0, 0);
            for (step, n) in steps {
                match step {
                    0..=2 => {
                        log.fragment(fragment(n == 0), 10);
                        end += 1;
                    }
                    3 => {
                        let handed = log.drain();
                        let numbers: Vec<u64> = handed.items.iter().map(|(number, _)| *number).collect();
                        prop_assert!(numbers.last().is_none_or(|last| last + 1 == end));
                        drained = end;
                    }
                    4 => {
                        let below = drained.min(durable + n);
                        let news = log.settled(moves, below, None).is_some();
                        prop_assert_eq!(news, below > durable);
                        durable = durable.max(below);
                    }
                    5 => {
                        log.trim(n > 0);
                    }
                    6 => {
                        log.move_on();
                        moves += 1;
                        let numbers: Vec<u64> = log.drain().items.iter().map(|(number, _)| *number).collect();
                        prop_assert!(numbers.first().is_none_or(|first| *first <= durable), "{:?}, {}", numbers, durable);
                        prop_assert!((durable..end).all(|n| numbers.contains(&n)));
                        drained = end;
                    }
                    7 => {
                        // What was settled is written, and never comes back.
                        let from = durable.max(drained.saturating_sub(n));
                        log.give_back(moves + 1, from);
                        log.give_back(moves, from);
                        let numbers: Vec<u64> = log.drain().items.iter().map(|(number, _)| *number).collect();
                        prop_assert_eq!(numbers, (from.min(drained)..end).collect::<Vec<_>>());
                        drained = end;
                    }
                    _ => {
                        prop_assert!(log.settled(moves + 1, end, None).is_none());
                    }
                }
                let all: usize = log.entries.iter().map(|e| e.bytes).sum();
                prop_assert_eq!(all, log.bytes());
                prop_assert!(log.durable_bytes() + log.waiting_bytes() <= 2 * log.bytes());
            }
            let (freed, _) = log.give_up();
            prop_assert_eq!(log.bytes(), 0);
            prop_assert!(freed % 10 == 0);
        }
    }
}
