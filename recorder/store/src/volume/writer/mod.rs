//! The thread that writes a volume: places fragments in files, in the order that keeps every file valid at every moment.

mod output;
mod slot;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::boxes::segment::SEGMENT_BOX_LENGTH;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;

use super::Volume;
use crate::backlog::{Begin, Handed, Item};
use crate::env::Batch;
use crate::names;
use crate::segment::index::IndexBuilder;
use crate::segment::place::{Placer, RunFacts, cost};
use crate::segment::rollover::{Place, Room, place};
use crate::stats::DropReason;
use crate::store::Inner;
use crate::stream::{Destination, Latch, Mark, StreamState};
use crate::types::{Fragment, PreviousRun, RunStart};

pub(crate) use slot::{Active, Carry, Slot};
use slot::{At, CurrentRun, Full, Origin, Pending, Staged};

/// What is gathered before it is written, at most; a tick's worth is far less.
const UNIT_BYTES_AT_MOST: u64 = 8 << 20;
/// More run boxes than this in a file, and its manifest record gets too long.
const RUNS_AT_MOST: usize = 4096;

/// What a tick had to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrote {
    Nothing,
    Something,
    /// And somebody waits for it to be durable.
    ToBeSyncedNow,
}

/// The thread's state.
pub(crate) struct Writer {
    inner: Arc<Inner>,
    volume: Arc<Volume>,
    slots: HashMap<uuid::Uuid, Slot>,
    batch: Box<dyn Batch>,
    pending: Vec<Pending>,
    /// What the bodies took so far.
    sending_us: u64,
    /// How far streams got, once the batch is written.
    marks: Vec<(Arc<StreamState>, Mark)>,
    /// To be opened with the next sync.
    latches: Vec<Arc<Latch>>,
    batches: u64,
}

impl Writer {
    pub(crate) fn new(
        inner: Arc<Inner>,
        volume: Arc<Volume>,
        slots: HashMap<uuid::Uuid, Slot>,
        batch: Box<dyn Batch>,
    ) -> Self {
        Self {
            inner,
            volume,
            slots,
            batch,
            pending: Vec::new(),
            sending_us: 0,
            marks: Vec::new(),
            latches: Vec::new(),
            batches: 0,
        }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        loop {
            let wake = self.volume.wake_writer.wait(None);
            if wake.stop {
                return;
            }
            self.tick();
            if wake.finish {
                self.volume.wake_sync.finish();
                return;
            }
        }
    }

    /// Writes all that waits.
    pub(crate) fn tick(&mut self) {
        let clock = self.volume.env.clock.clone();
        let began = clock.wall();
        self.volume.pending.write(Some(clock.monotonic_us()));
        let wrote = self.write_all();
        self.volume.pending.write(None);
        timing!(volume = %self.volume.uuid, began_us = began.0, ended_us = clock.wall().0, "written");
        let asked = matches!(wrote, Wrote::ToBeSyncedNow);
        if asked || matches!(wrote, Wrote::Something) && self.volume.pending.is_sync_due(clock.monotonic_us()) {
            self.volume.wake_sync.notify();
        }
    }

    fn write_all(&mut self) -> Wrote {
        let streams = crate::lock(&self.volume.streams).clone();
        for stream in streams {
            if self.volume.has_failed() {
                break;
            }
            let Some(handed) = stream.drain(self.volume.at) else { continue };
            if let Err(error) = self.items(&stream, handed) {
                self.volume.fail("write", &error);
            }
        }
        if !self.volume.has_failed()
            && let Err(error) = self.commit()
        {
            self.volume.fail("write", &error);
        }
        if self.volume.has_failed() {
            // The streams have all of it in memory, for another volume.
            self.pending.clear();
            self.marks.clear();
            self.latches.clear();
            let actives = self.slots.drain().filter_map(|(_, slot)| slot.active);
            actives.filter_map(|active| active.output).for_each(|output| self.batch.close(output.target));
            self.inner.leave(&self.volume);
            return Wrote::Nothing;
        }
        let (mut latches, marks) = (std::mem::take(&mut self.latches), std::mem::take(&mut self.marks));
        let wrote = match (latches.is_empty(), marks.is_empty()) {
            (false, _) => Wrote::ToBeSyncedNow,
            (true, false) => Wrote::Something,
            (true, true) => Wrote::Nothing,
        };
        if !marks.is_empty() {
            self.volume.wrote(|dirty| {
                marks.iter().for_each(|(stream, mark)| dirty.mark(stream, *mark));
                dirty.latches.append(&mut latches);
            });
        }
        self.seal_what_left();
        wrote
    }

    /// Seals the segments of streams that went elsewhere.
    fn seal_what_left(&mut self) {
        let left = std::mem::take(&mut *crate::lock(&self.volume.left));
        for uid in left {
            let Some(mut slot) = self.slots.remove(&uid) else { continue };
            let elsewhere = |stream: &Arc<StreamState>| stream.volume() != Some(self.volume.at);
            if let Some(stream) = self.inner.stream(uid).filter(elsewhere) {
                if let Err(error) = self.seal(&stream, &mut slot) {
                    self.volume.fail("write", &error);
                }
                slot = slot.left();
            }
            self.slots.insert(uid, slot);
        }
    }

    /// Writes what a stream has handed over. After an error the stream still has all of it in memory, for another volume.
    fn items(&mut self, stream: &Arc<StreamState>, handed: Handed) -> io::Result<()> {
        let mut slot = self.slots.remove(&stream.ident.uid).unwrap_or_default();
        let result = self.items_of(stream, &mut slot, handed);
        self.slots.insert(stream.ident.uid, slot);
        result
    }

    fn items_of(&mut self, stream: &Arc<StreamState>, slot: &mut Slot, handed: Handed) -> io::Result<()> {
        let mut below = 0;
        if let Some(carry) = handed.carry {
            (slot.run, slot.costs) = (carry.run, carry.costs);
            (slot.broken, slot.turn_is_over) = (None, false);
        }
        let from = Origin { moves: handed.moves, again_below: handed.again_below, counted_below: handed.counted_below };
        for (number, item) in handed.items {
            let at = At { number, from };
            match item {
                Item::Begin(begin) => self.begin(stream, slot, &begin, at),
                Item::Fragment(fragment) => {
                    self.fragment(stream, slot, &fragment, at)?;
                    match slot.full.take() {
                        None => {}
                        Some(Full::Moved) => break,
                        Some(Full::Waits) => {
                            stream.give_back(from.moves, number);
                            below = number;
                            break;
                        }
                        Some(Full::HandedOver) => {
                            below = number;
                            break;
                        }
                    }
                }
                Item::Seal => {
                    self.seal(stream, slot)?;
                    // Should more of its GOP come, the next segment says so.
                    (slot.inside_gop, slot.turn_is_over) = (true, true);
                }
                Item::Finish(latch) => self.latches.push(latch),
                Item::Nothing => {}
            }
            below = number + 1;
        }
        if let Some(active) = &mut slot.active {
            self.flush(stream, active)?;
        }
        self.marks.push((stream.clone(), Mark { moves: from.moves, below, newest: None }));
        Ok(())
    }

    fn begin(&self, stream: &StreamState, slot: &mut Slot, begin: &Begin, at: At) {
        let start = &begin.start;
        if let Some(run) = &mut slot.run
            && run.given == start.run
            && !begin.anew
        {
            // The same run with other codec parameters: what was before it stays.
            run.sender_report = start.sender_report.or(run.sender_report);
            run.start = RunStart { run: run.start.run, ..start.clone() };
            return;
        }
        let resolve = || {
            let previous = slot.active.as_ref().and_then(|a| a.unit.run_end).or_else(|| stream.previous());
            let gap = start.gap.unwrap_or(match previous {
                None => GapReason::FirstRun,
                Some(previous) if previous.in_order => GapReason::RecorderStopped,
                Some(_) => GapReason::RecorderCrashed,
            });
            (gap, previous)
        };
        let (gap, previous) = *begin.resolved.get_or_init(resolve);
        let sender_report = start.sender_report.or(match &slot.run {
            Some(run) if run.given == start.run => run.sender_report,
            _ => None,
        });
        slot.broken = None;
        // Under its own name it may be on another volume already.
        let renamed = begin.anew || at.number < at.from.again_below;
        let run = if renamed { self.volume.env.random.uuid() } else { start.run };
        let given = start.run;
        let start = RunStart { run, ..start.clone() };
        slot.run = Some(CurrentRun { given, sender_report, gap, previous, began: false, start });
    }

    /// The run goes on as a new one, behind a gap of our own making.
    fn begin_anew(&self, stream: &StreamState, slot: &mut Slot, gap: GapReason, at: At) {
        let Some(run) = &slot.run else { return };
        let start = RunStart { run: run.given, gap: Some(gap), ..run.start.clone() };
        self.begin(stream, slot, &Begin::new(start, true), at);
    }

    fn fragment(&mut self, stream: &Arc<StreamState>, slot: &mut Slot, fragment: &Fragment, at: At) -> io::Result<()> {
        if let Some((gap, reason)) = slot.broken {
            if !fragment.begins_random_access {
                self.drop_frames(stream, fragment, reason, at);
                return Ok(());
            }
            self.begin_anew(stream, slot, gap, at);
        }
        let Some(run) = &mut slot.run else {
            self.drop_frames(stream, fragment, DropReason::Malformed, at);
            return Ok(());
        };
        run.sender_report = fragment.sender_report.or(run.sender_report);
        let cost = cost(fragment);
        slot.costs.add(cost, fragment.begins_random_access);
        if fragment.begins_random_access {
            slot.inside_gop = false;
        }
        let (init_hash, begins) = (run.start.init.hash, !run.began);
        if slot.active.as_ref().is_some_and(|a| a.live.fixed.init.hash != init_hash) {
            self.seal(stream, slot)?;
            slot.turn_is_over = true;
        }
        // Readers find a segment by one stretch of time: a run whose times go back, because a clock was set, begins the next one.
        let first = fragment.video.first().map(|frame| frame.wall);
        if begins && slot.active.as_ref().is_some_and(|active| first.is_some_and(|first| first < active.latest())) {
            self.seal(stream, slot)?;
        }
        loop {
            let Some(active) = &slot.active else {
                // Between GOPs, so that no volume has one that begins on another.
                if slot.turn_is_over && fragment.begins_random_access && self.hand_over(stream, slot, at) {
                    slot.full = Some(Full::HandedOver);
                    return Ok(());
                }
                if !self.take(stream, slot, fragment)? {
                    self.volume.starving.store(true, Ordering::Release);
                    self.volume.wake_keeper.notify();
                    if self.moved_off(stream) {
                        slot.full = Some(Full::Moved);
                        return Ok(());
                    }
                    // A frame is dropped only where nothing may be given up for it.
                    if !self.volume.is_stuck() {
                        slot.full = Some(Full::Waits);
                        return Ok(());
                    }
                    self.give_up(stream, slot, fragment, (GapReason::NoSpace, DropReason::NoFreeFile), at);
                    return Ok(());
                }
                continue;
            };
            let room = Room {
                left: active.placer.room(),
                empty_file: self.empty_file(active),
                fragment: cost,
                gop: if fragment.begins_random_access { slot.costs.expected() } else { 0 },
                has_frames: active.placer.has_frames(),
            };
            let many_runs = active.live.with_index(IndexBuilder::run_boxes) >= RUNS_AT_MOST;
            match place(room) {
                Place::Here if !(many_runs && fragment.begins_random_access) => break,
                Place::Here | Place::Next => {
                    self.seal(stream, slot)?;
                    slot.inside_gop = !fragment.begins_random_access;
                    slot.turn_is_over = true;
                }
                Place::Nowhere => {
                    self.give_up(stream, slot, fragment, (GapReason::Overload, DropReason::TooBig), at);
                    return Ok(());
                }
            }
        }
        self.put(stream, slot, fragment, at)
    }

    /// Hands a stream over to the next volume in turn, if there is one.
    fn hand_over(&self, stream: &Arc<StreamState>, slot: &mut Slot, at: At) -> bool {
        let Some(to) = self.inner.next_in_turn(stream, &self.volume) else { return false };
        let carry = Box::new(Carry { run: slot.run.clone(), costs: slot.costs.clone() });
        if !stream.hand_over(self.volume.at, to.at, at.from.moves, at.number, carry) {
            return false;
        }
        *slot = slot.left();
        self.volume.count_recording();
        to.count_recording();
        to.wake_writer.notify();
        true
    }

    /// There is no file for a stream: another volume may have one.
    fn moved_off(&self, stream: &Arc<StreamState>) -> bool {
        let at = self.volume.at;
        let to = self.inner.place_off(stream, Some(at)).filter(|to| {
            let free = self.inner.volume(*to).map(|volume| crate::lock(&volume.pool).numbers().2);
            free.is_some_and(|free| free > 0)
        });
        let moved = to.is_some_and(|to| stream.move_to(at, Destination::Volume(to), &self.inner.budget));
        if moved {
            crate::lock(&self.volume.left).push(stream.ident.uid);
            self.inner.flush_tick();
        }
        moved
    }

    fn give_up(
        &self,
        stream: &StreamState,
        slot: &mut Slot,
        fragment: &Fragment,
        why: (GapReason, DropReason),
        at: At,
    ) {
        self.drop_frames(stream, fragment, why.1, at);
        stream.set_starved(why.1 == DropReason::NoFreeFile);
        slot.broken = Some(why);
    }

    fn drop_frames(&self, stream: &StreamState, fragment: &Fragment, reason: DropReason, at: At) {
        let frames = (fragment.video.len() + fragment.audio.len()) as u64;
        stream.dropped(at.number, reason, frames, &self.inner.budget);
    }

    /// Bytes that an empty file of this stream has for fragments.
    fn empty_file(&self, active: &Active) -> u64 {
        let fixed = &active.live.fixed;
        let head = fixed.box_offset + SEGMENT_BOX_LENGTH as u64;
        Placer::new(fixed.nonce, fixed.file_bytes, fixed.audio_timescale, head).room()
    }

    /// Puts a fragment into the unit of the active segment, with a run box before it where one is needed.
    fn put(&mut self, stream: &Arc<StreamState>, slot: &mut Slot, fragment: &Fragment, at: At) -> io::Result<()> {
        let (Some(active), Some(run)) = (&mut slot.active, &mut slot.run) else { return Ok(()) };
        let mut placer = active.placer.clone();
        let offset = placer.position();
        let run_box = placer.needs_run_box(run.start.run, fragment).then(|| {
            let facts = RunFacts {
                start: &run.start,
                gap: run.gap,
                continued: run.began,
                recorder: self.volume.recorder_uid,
                previous: run.previous,
                sender_report: run.sender_report,
            };
            placer.run_box(&facts, fragment)
        });
        let placed = match placer.fragment(fragment, slot.inside_gop) {
            Ok(placed) => placed,
            Err(error) => {
                tracing::warn!(stream = %names::full_name(&stream.ident), %error, "a fragment cannot be stored and is dropped");
                self.give_up(stream, slot, fragment, (GapReason::MalformedMedia, DropReason::Malformed), at);
                return Ok(());
            }
        };
        active.placer = placer;
        let unit = &mut active.unit;
        if unit.parts.is_empty() {
            unit.offset = offset;
        }
        if let Some(run_box) = run_box {
            unit.push(Bytes::copy_from_slice(&run_box.encode()));
            unit.staged.push(Staged::Run(Box::new(run_box)));
            if !run.began {
                stream.counters.runs.add(1);
            }
        }
        run.began = true;
        unit.push(placed.encoded.head.clone());
        for frame in &fragment.video {
            unit.push(frame.data.clone());
        }
        for frame in fragment.audio.iter().take(placed.stored.audio.len()) {
            unit.push(frame.data.clone());
        }
        unit.push(Bytes::from_static(&[0; 8]).slice(..placed.encoded.padding.min(8)));
        unit.fragments += 1;
        unit.audio_frames += placed.stored.audio.len() as u64;
        if at.number >= at.from.counted_below {
            unit.video_frames += fragment.video.len() as u64;
        }
        (unit.moves, unit.below) = (at.from.moves, at.number + 1);
        if let Some(newest) = fragment.video.iter().max_by_key(|frame| frame.wall) {
            let end = crate::segment::index::ticks_to_us(newest.duration.into(), VIDEO_CLOCK_HZ);
            unit.newest = Some((newest.wall, newest.pts));
            unit.run_end =
                Some(PreviousRun { run: run.start.run, end: newest.wall.saturating_add_us(end), in_order: true });
        }
        unit.staged.push(Staged::Fragment(placed.stored));
        if unit.bytes >= UNIT_BYTES_AT_MOST {
            return self.flush(stream, active);
        }
        Ok(())
    }
}
