//! From what was gathered to the file: units, their order on the disk, the moment at which a segment can be seen, and its index.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use framekeeper_media::boxes::segment::{SEGMENT_BOX_LENGTH, SegmentBox};
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{FrameFlags, WallTime};

use super::super::folder_and_above;
use super::super::unit::{Image, Seal, Tail, pad, write_heads};
use super::Writer;
use super::slot::{Active, Output, Pending, Slot, Staged, Unit};
use crate::env::Target;
use crate::names;
use crate::segment::index::IndexBuilder;
use crate::segment::live::{Fixed, LiveSegment};
use crate::segment::place::Placer;
use crate::stream::{Mark, StreamState};
use crate::types::Fragment;

impl Writer {
    /// Takes an empty file for a stream; `false` when there is none.
    pub(super) fn take(&mut self, stream: &Arc<StreamState>, slot: &mut Slot, fragment: &Fragment) -> io::Result<bool> {
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
        let segment_number = slot.next_number.max(self.volume.first_segment_number);
        let segment_box = SegmentBox {
            nonce,
            offset: box_offset,
            begins_inside_gop,
            volume: self.volume.uuid,
            stream: stream.ident.uid,
            segment_number,
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
            number: segment_number,
            init: init.clone(),
            audio_timescale: run.start.audio_timescale,
            box_offset,
        };
        if slot.latest_first.is_some_and(|latest| first < latest) {
            self.volume.note_unordered()?;
        }
        slot.latest_first = slot.latest_first.max(Some(first));
        slot.next_number = segment_number + 1;
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
    pub(super) fn flush(&mut self, stream: &Arc<StreamState>, active: &mut Active) -> io::Result<()> {
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
    pub(super) fn commit(&mut self) -> io::Result<()> {
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
    pub(super) fn seal(&mut self, stream: &Arc<StreamState>, slot: &mut Slot) -> io::Result<()> {
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
