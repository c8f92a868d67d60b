//! The thread that writes a volume: places fragments in files, in the order that keeps every file valid at every moment.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use framekeeper_media::boxes::run::{GapReason, ReportedTime, RunBox};
use framekeeper_media::boxes::segment::{SEGMENT_BOX_LENGTH, SegmentBox};
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{FrameFlags, MediaTime, WallTime};

use super::unit::{Head, Image, Seal, Tail, pad, write_heads};
use super::{Volume, folder_and_above, pool};
use crate::backlog::{Begin, Handed, Item};
use crate::env::{Batch, File, Target};
use crate::names;
use crate::segment::index::{IndexBuilder, StoredFragment};
use crate::segment::live::{Fixed, LiveSegment};
use crate::segment::place::{Placer, RunFacts, cost};
use crate::segment::rollover::{GopCosts, Place, Room, place};
use crate::stats::DropReason;
use crate::store::Inner;
use crate::stream::{Destination, Latch, Mark, StreamState};
use crate::types::{Fragment, PreviousRun, RunStart};

/// What is gathered before it is written, at most; a tick's worth is far less.
const UNIT_BYTES_AT_MOST: u64 = 8 << 20;
/// More run boxes than this in a file, and its manifest record gets too long.
const RUNS_AT_MOST: usize = 4096;

/// Runs of one clock follow each other, but for a frame's length.
const OVERLAP_US: i64 = 1_000_000;

/// What the writer knows of a stream on its volume.
#[derive(Default)]
pub(crate) struct Slot {
    active: Option<Active>,
    run: Option<CurrentRun>,
    /// Frames are dropped up to the next random access point; then a new run begins for this reason.
    broken: Option<(GapReason, DropReason)>,
    /// Number of the stream's next segment here.
    next_number: u64,
    costs: GopCosts,
    /// The GOP began in an earlier segment.
    inside_gop: bool,
    /// There is no file for it: it went elsewhere, or waits.
    full: Option<Full>,
    /// Its last segment here is full.
    turn_is_over: bool,
}

impl Slot {
    /// A stream that has segments here already.
    pub(crate) fn resume(next_number: u64, active: Option<Active>) -> Self {
        Self { next_number, active, ..Self::default() }
    }
}

/// What becomes of a stream that finds no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// It has gone to another volume, from the fragment that found none on at the latest.
    Moved,
    /// One will be free soon.
    Waits,
    /// It is the turn of another volume.
    HandedOver,
}

/// What goes with a stream to the volume whose turn it is.
pub(crate) struct Carry {
    run: Option<CurrentRun>,
    costs: GopCosts,
}

impl Carry {
    /// Nothing.
    #[cfg(test)]
    pub(crate) fn empty() -> Box<Self> {
        Box::new(Self { run: None, costs: GopCosts::default() })
    }
}

/// The segment that a stream is written to.
pub(crate) struct Active {
    live: Arc<LiveSegment>,
    placer: Placer,
    unit: Unit,
    /// The file is in `streams/`, where readers find it, or will be once the batch is written.
    visible: bool,
    /// Once something was written.
    output: Option<Output>,
}

/// Where the segment is written.
struct Output {
    target: Target,
    tail: Tail,
    /// The last batch in which there is something of it.
    batch: u64,
}

impl Active {
    /// A segment found unsealed, to be filled on.
    pub(crate) fn resume(live: Arc<LiveSegment>, placer: Placer) -> Self {
        Self { live, placer, unit: Unit::default(), visible: true, output: None }
    }
}

impl Active {
    /// Wall time at which the newest run in it ends, less what that may overlap with the next one's beginning.
    fn latest(&self) -> WallTime {
        let staged = self.unit.run_end.map(|run| run.end);
        let written = self.live.with_index(|index| index.run_end()).map(|run| run.end);
        staged.or(written).unwrap_or(WallTime(i64::MIN)).saturating_add_us(-OVERLAP_US)
    }
}

#[derive(Clone)]
struct CurrentRun {
    /// As it was asked for; `start` has the name that it has here.
    given: uuid::Uuid,
    start: RunStart,
    gap: GapReason,
    previous: Option<PreviousRun>,
    sender_report: Option<ReportedTime>,
    /// It has frames in an earlier segment.
    began: bool,
}

/// Where items of a stream come from.
#[derive(Clone, Copy)]
struct Origin {
    /// How often the stream had moved.
    moves: u64,
    /// Items below were given to another volume before.
    again_below: u64,
    /// Frames of items below were counted before.
    counted_below: u64,
}

/// Which item of a stream.
#[derive(Clone, Copy)]
struct At {
    number: u64,
    from: Origin,
}

/// Boxes that are written in one go.
#[derive(Default)]
struct Unit {
    offset: u64,
    parts: Vec<Bytes>,
    bytes: u64,
    staged: Vec<Staged>,
    newest: Option<(WallTime, MediaTime)>,
    /// How often the stream had moved.
    moves: u64,
    /// Items below are in here, or were written or dropped before.
    below: u64,
    run_end: Option<PreviousRun>,
    /// Those that were not written to another volume before.
    video_frames: u64,
    audio_frames: u64,
    fragments: u64,
}

/// What the index gets once it is written.
enum Staged {
    Run(Box<RunBox>),
    Fragment(StoredFragment),
}

impl Unit {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        if !bytes.is_empty() {
            self.parts.push(bytes);
        }
    }
}

/// A unit whose body is on its way, and whose head is written with those of other streams.
struct Pending {
    stream: Arc<StreamState>,
    live: Arc<LiveSegment>,
    head: Head,
    /// That are written to the file.
    bytes: u64,
    unit: Unit,
    /// Where the unit ends in the file.
    end: u64,
    /// It is the file's first.
    first: bool,
}

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
            // It may come back: then its segments are numbered on.
            let next_number = slot.next_number;
            let elsewhere = |stream: &Arc<StreamState>| stream.volume() != Some(self.volume.at);
            if let Some(stream) = self.inner.stream(uid).filter(elsewhere) {
                if let Err(error) = self.seal(&stream, &mut slot) {
                    self.volume.fail("write", &error);
                }
                slot = Slot { next_number, ..Slot::default() };
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
        *slot = Slot { next_number: slot.next_number, ..Slot::default() };
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

    /// Takes an empty file for a stream; `false` when there is none.
    fn take(&mut self, stream: &Arc<StreamState>, slot: &mut Slot, fragment: &Fragment) -> io::Result<bool> {
        let Some(run) = &slot.run else { return Ok(false) };
        let Some((file_number, file)) = self.volume.take_file()? else { return Ok(false) };
        self.volume.wake_keeper.notify();
        let first = fragment.video.first().map(|f| f.wall).or(fragment.audio.first().map(|f| f.wall));
        let first = first.unwrap_or(WallTime(0));
        let init = run.start.init.clone();
        let box_offset = (init.bytes.len() as u64).next_multiple_of(8);
        // A pad of 1 to 7 bytes is no box: the next multiple is used then.
        let box_offset = match box_offset - init.bytes.len() as u64 {
            0 => box_offset,
            _ => box_offset + 8,
        };
        let nonce = loop {
            match self.volume.env.random.u64() {
                0 => {}
                nonce => break nonce,
            }
        };
        let begins_inside_gop = !fragment.video.first().is_some_and(|f| f.flags.contains(FrameFlags::RANDOM_ACCESS));
        let segment_box = SegmentBox {
            nonce,
            offset: box_offset,
            begins_inside_gop,
            volume: self.volume.uuid,
            stream: stream.ident.uid,
            segment_number: slot.next_number,
            file_number,
            file_size: self.volume.segment_bytes,
            first_wall: first,
            init_hash: init.hash,
            video_timescale: VIDEO_CLOCK_HZ,
            audio_timescale: run.start.audio_timescale,
            stream_name: names::full_name(&stream.ident),
            sealed: None,
        };
        let encoded = segment_box.encode().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let fixed = Fixed {
            volume: self.volume.uuid,
            stream: stream.ident.clone(),
            path: self.free_path(stream, first)?,
            file,
            file_number,
            file_bytes: self.volume.segment_bytes,
            nonce,
            number: slot.next_number,
            init: init.clone(),
            audio_timescale: run.start.audio_timescale,
            box_offset,
        };
        slot.next_number += 1;
        slot.turn_is_over = false;
        let head_end = box_offset + SEGMENT_BOX_LENGTH as u64;
        let placer = Placer::new(nonce, self.volume.segment_bytes, run.start.audio_timescale, head_end);
        let mut unit = Unit::default();
        unit.push(init.bytes.clone());
        unit.push(pad(box_offset - init.bytes.len() as u64));
        unit.push(Bytes::copy_from_slice(&encoded));
        let live = Arc::new(LiveSegment::new(fixed, IndexBuilder::default(), head_end));
        slot.active = Some(Active { live, placer, unit, visible: false, output: None });
        stream.counters.segments.add(1);
        stream.set_starved(false);
        Ok(true)
    }

    fn free_path(&self, stream: &StreamState, first: WallTime) -> io::Result<PathBuf> {
        let mut copy = 1;
        loop {
            let (_, path) = names::segment(&stream.ident, first, copy);
            match self.volume.folder.open(&path, false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(e) => return Err(e),
                Ok(_) => copy += 1,
            }
        }
    }

    /// Hands the unit to the batch of this tick.
    fn flush(&mut self, stream: &Arc<StreamState>, active: &mut Active) -> io::Result<()> {
        if active.unit.staged.is_empty() {
            return Ok(());
        }
        // One unit of a file in a batch: the next one begins in the block that it ends in.
        if active.output.as_ref().is_some_and(|output| output.batch == self.batches) {
            self.commit()?;
        }
        let mut unit = std::mem::take(&mut active.unit);
        let (target, image) = self.image(active, std::mem::take(&mut unit.parts), unit.offset, active.placer.rest())?;
        let clock = &self.volume.env.clock;
        let (start, bytes) = (clock.monotonic_us(), image.bytes());
        let head = image.send(self.batch.as_mut(), target)?;
        self.sending_us += clock.monotonic_us().saturating_sub(start);
        let first = !std::mem::replace(&mut active.visible, true);
        let (live, end) = (active.live.clone(), active.placer.position());
        self.pending.push(Pending { stream: stream.clone(), live, head, bytes, unit, end, first });
        Ok(())
    }

    /// Boxes as they go into the active segment's file.
    fn image(&mut self, active: &mut Active, parts: Vec<Bytes>, offset: u64, rest: u64) -> io::Result<(Target, Image)> {
        let fixed = &active.live.fixed;
        let output = match &mut active.output {
            Some(output) => output,
            none => {
                let pool = names::numbered(names::POOL, fixed.file_number);
                let target = self.batch.open(if active.visible { &fixed.path } else { &pool })?;
                let tail = Tail::read(fixed.file.as_ref(), offset, self.batch.block_bytes())?;
                none.insert(Output { target, tail, batch: 0 })
            }
        };
        output.batch = self.batches;
        Ok((output.target, output.tail.image(parts, offset, rest)))
    }

    /// Makes seen what all streams gathered.
    fn commit(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let sending_us = std::mem::take(&mut self.sending_us);
        self.batches += 1;
        if pending.is_empty() {
            return Ok(());
        }
        let clock = self.volume.env.clock.clone();
        let start = clock.monotonic_us();
        write_heads(self.batch.as_mut(), pending.iter().map(|p| &p.head))?;
        self.volume.counters.wrote(sending_us + clock.monotonic_us().saturating_sub(start));
        pending.into_iter().try_for_each(|pending| self.written(pending))
    }

    /// A unit was written.
    fn written(&self, pending: Pending) -> io::Result<()> {
        let Pending { stream, live, bytes, unit, end, first, .. } = pending;
        let fixed = &live.fixed;
        if first {
            // Known before it can be found: whoever looks for forgotten files must not take it for one.
            self.volume.add_live(live.clone());
            self.make_visible(fixed)?;
        }
        let audio_timescale = fixed.audio_timescale;
        live.wrote(end, |index| {
            for staged in unit.staged {
                match staged {
                    Staged::Run(run) => index.add_run(*run),
                    Staged::Fragment(fragment) => index.add_fragment(&fragment, audio_timescale),
                }
            }
        });
        stream.counters.bytes.add(unit.bytes);
        stream.counters.fragments.add(unit.fragments);
        stream.counters.audio_frames.add(unit.audio_frames);
        if stream.written(unit.moves, unit.below, unit.run_end) {
            stream.counters.video_frames.add(unit.video_frames);
        }
        self.count(bytes, 2, unit.fragments);
        let (number, file) = (fixed.file_number, fixed.file.clone());
        self.volume.wrote(|dirty| {
            dirty.files.insert(number, file);
            dirty.mark(&stream, Mark { moves: unit.moves, below: unit.below, newest: unit.newest });
        });
        Ok(())
    }

    fn count(&self, bytes: u64, writes: u64, fragments: u64) {
        self.volume.counters.bytes.add(bytes);
        self.volume.counters.writes.add(writes);
        self.volume.counters.fragments.add(fragments);
    }

    /// Moves a file that begins with whole fragments to where people and readers find it.
    fn make_visible(&self, fixed: &Fixed) -> io::Result<()> {
        let folder = fixed.path.parent().unwrap_or(&fixed.path).to_owned();
        let guard = crate::lock(&self.volume.folders);
        let pool = names::numbered(names::POOL, fixed.file_number);
        self.volume.with_room(|| {
            self.volume.folder.make_folders(&folder)?;
            self.volume.folder.rename(&pool, &fixed.path)
        })?;
        drop(guard);
        self.volume.wrote(|dirty| {
            dirty.folders.extend(folder_and_above(&folder));
            dirty.folders.insert(PathBuf::from(names::POOL));
        });
        Ok(())
    }

    /// Writes the index of the active segment, if there is one; the sync thread does the rest.
    fn seal(&mut self, stream: &Arc<StreamState>, slot: &mut Slot) -> io::Result<()> {
        let Some(mut active) = slot.active.take() else { return Ok(()) };
        self.flush(stream, &mut active)?;
        if !active.visible {
            // Nothing was written to it.
            crate::lock(&self.volume.pool).give(active.live.fixed.file_number);
            return Ok(());
        }
        // The index tells of all that was written.
        self.commit()?;
        let offset = active.placer.position();
        let seal = Seal::new(&active.live, offset)?;
        let (target, image) = self.image(&mut active, seal.parts, offset, seal.rest)?;
        let bytes = image.bytes();
        let batch = self.batch.as_mut();
        let written = image.send(batch, target).and_then(|head| write_heads(batch, [&head]));
        batch.close(target);
        written?;
        active.live.indexed(seal.sealed);
        self.count(bytes, 2, 0);
        stream.counters.bytes.add(bytes);
        self.volume.sealing(active.live);
        Ok(())
    }
}

impl Volume {
    /// An empty file, made on the spot when there is none and the budget allows one.
    pub(crate) fn take_file(&self) -> io::Result<Option<(u64, Arc<dyn File>)>> {
        loop {
            let ready = crate::lock(&self.pool).pop();
            let Some((number, doubted)) = ready else { break };
            if let Some(file) = pool::open(self.folder.as_ref(), number, self.segment_bytes, doubted)? {
                return Ok(Some((number, file)));
            }
            self.not_empty(number)?;
        }
        let number = crate::lock(&self.pool).next_new();
        let Some(number) = number else { return Ok(None) };
        self.counters.awaited.add(1);
        match pool::make(self.folder.as_ref(), number, self.segment_bytes) {
            Ok(file) => Ok(Some((number, file))),
            Err(e) => {
                crate::lock(&self.pool).not_made(number);
                if super::is_full(&e) {
                    self.note_room(Some(&e));
                    return Ok(None);
                }
                Err(e)
            }
        }
    }

    /// A file of the pool is not empty (a crash between filling and moving it), or not whole: it is emptied, or removed.
    pub(super) fn not_empty(&self, number: u64) -> io::Result<()> {
        let path = names::numbered(names::POOL, number);
        let whole = self.folder.open(&path, false)?.size()? == self.segment_bytes;
        if whole {
            self.with_room(|| self.folder.rename(&path, &names::numbered(names::RETIRED, number)))?;
            self.retired(number);
        } else {
            self.folder.remove(&path)?;
            crate::lock(&self.pool).not_made(number);
        }
        Ok(())
    }

    /// Files that nobody looked through when the volume is closed: the next opening empties them, and need not doubt the others.
    pub(crate) fn set_doubted_aside(&self) -> io::Result<()> {
        let doubted = crate::lock(&self.pool).take_doubted();
        for number in &doubted {
            let (pool, retired) = (names::numbered(names::POOL, *number), names::numbered(names::RETIRED, *number));
            self.with_room(|| self.folder.rename(&pool, &retired))?;
        }
        if !doubted.is_empty() {
            // Before the volume says that it was closed in order.
            self.folder.sync_folder(Path::new(names::RETIRED))?;
            self.folder.sync_folder(Path::new(names::POOL))?;
        }
        Ok(())
    }

    /// The index box of a segment was written: the next sync makes it sealed.
    pub(crate) fn sealing(&self, live: Arc<LiveSegment>) {
        let (number, file) = (live.fixed.file_number, live.fixed.file.clone());
        self.wrote(|dirty| {
            dirty.files.insert(number, file);
            dirty.seals.push(live);
        });
    }

    /// Counts the streams that have a handle.
    pub(crate) fn count_recording(&self) {
        let streams = crate::lock(&self.streams);
        let recording = streams.iter().filter(|s| s.is_taken() && s.volume() == Some(self.at)).count();
        self.recording.store(recording, Ordering::Relaxed);
    }
}
