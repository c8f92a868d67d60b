//! The bytes of segments: opened, read, and checked before anybody gets one of them.
//!
//! A fragment is read as a whole, and must check; what does not is remembered as damaged, and left out of everything from then on. A head
//! that rotted is made again from the catalogue and from another segment with the same parameters; an index that rotted, from the fragments.

mod kept;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use framekeeper_media::boxes::index::SegmentIndex;
use framekeeper_media::boxes::run::{GapReason, PlanVersion, RUN_BOX_LENGTH, RunBox};
use framekeeper_media::boxes::segment::{SEGMENT_BOX_LENGTH, Sealed, SegmentBox};
use framekeeper_media::init::InitSegment;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{MediaTime, WallTime};
use uuid::Uuid;

use kept::{FRAGMENT_BYTES, Fragments, Lru, key};

use crate::env::{File, read_exact};
use crate::error::ReadError;
use crate::lock;
use crate::manifest::SealedSegment;
use crate::reach::Reaches;
use crate::reader::{Reader, SegmentInit};
use crate::segment::fetch;
use crate::segment::sealed::read_index;
use crate::segment::survey::survey;
use crate::segment::walk::{self, Head, HeadError};
use crate::types::SegmentInfo;
use crate::volume::Volume;
use crate::volume::rot::{Found, Place};
use crate::volume::scrub::Reading;

/// Files kept open.
const FILES: usize = 256;
/// What one takes in memory: its parameters, and what the allocator and the list add.
const FILE_BYTES: usize = 4 << 10;
/// Where the use nonce stands in the segment box.
const NONCE_OFFSET: u64 = 32;
/// So many segments of a stream are looked at for a head that is like one that rotted.
const TWINS_LOOKED_AT: usize = 64;

#[derive(Default)]
pub(crate) struct Caches {
    indexes: Mutex<Lru<Arc<Indexed>>>,
    files: Mutex<Lru<Arc<OpenSegment>>>,
    fragments: Mutex<Fragments>,
    pub(crate) reaches: Mutex<Reaches>,
}

struct OpenSegment {
    file: Arc<dyn File>,
    head: Head,
}

/// What is in a segment, and whose it is.
struct Indexed {
    index: Arc<SegmentIndex>,
    /// One for each run of the index.
    run_boxes: Arc<[RunBox]>,
}

impl Indexed {
    fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + size_of_val(self.run_boxes.as_ref())
    }
}

impl OpenSegment {
    /// Whether the file says that it is still in that use.
    fn says(&self, nonce: u64) -> io::Result<bool> {
        let mut bytes = [0; 8];
        read_exact(self.file.as_ref(), &mut bytes, self.head.segment.offset + NONCE_OFFSET)?;
        Ok(u64::from_be_bytes(bytes) == nonce)
    }
}

fn is_live(volume: &Volume, segment: &SegmentInfo) -> bool {
    volume.live_of(segment.stream).iter().any(|live| live.fixed.nonce == segment.nonce)
}

fn io_error(segment: &SegmentInfo, source: io::Error) -> ReadError {
    match source.kind() {
        io::ErrorKind::NotFound => ReadError::Gone,
        _ => ReadError::Io { path: segment.path.clone(), source },
    }
}

fn damaged(segment: &SegmentInfo, reason: impl Into<String>) -> ReadError {
    ReadError::Damaged { path: segment.path.clone(), reason: reason.into() }
}

impl Reader {
    /// Bytes of what was read and is kept.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        let indexes = lock(&self.caches.indexes).bytes;
        indexes + lock(&self.caches.files).bytes + lock(&self.caches.fragments).bytes
    }

    /// Every frame of a segment; of one that is being written, those written so far. Damaged ones are in it, as far as it is known.
    ///
    /// # Errors
    /// When the segment is gone or cannot be read at all.
    pub fn index(&self, segment: &SegmentInfo) -> Result<Arc<SegmentIndex>, ReadError> {
        Ok(self.indexed(segment)?.index.clone())
    }

    /// The box of each run of [`Self::index`], in its order.
    ///
    /// # Errors
    /// When the segment is gone or cannot be read at all.
    pub fn run_boxes(&self, segment: &SegmentInfo) -> Result<Arc<[RunBox]>, ReadError> {
        Ok(self.indexed(segment)?.run_boxes.clone())
    }

    fn indexed(&self, segment: &SegmentInfo) -> Result<Arc<Indexed>, ReadError> {
        let volume = self.volume(segment.volume)?;
        let live = volume.live_of(segment.stream);
        if let Some(live) = live.iter().find(|live| live.fixed.nonce == segment.nonce) {
            return Ok(Arc::new(live.with_index(|builder| Indexed {
                index: Arc::new(builder.index().clone()),
                run_boxes: builder.run_box_list().iter().map(|(run, _)| *run).collect(),
            })));
        }
        if let Some(indexed) = lock(&self.caches.indexes).get(&key(segment)) {
            return Ok(indexed);
        }
        let open = self.open(segment)?;
        let indexed = Arc::new(self.read_indexed(segment, &volume, &open)?);
        self.still_there(segment, &volume, &open)?;
        let most = self.inner.reader_cache_bytes / 4 * 3;
        lock(&self.caches.indexes).put(key(segment), indexed.clone(), indexed.memory_bytes(), most);
        Ok(indexed)
    }

    fn read_indexed(&self, segment: &SegmentInfo, volume: &Volume, open: &OpenSegment) -> Result<Indexed, ReadError> {
        let file = open.file.as_ref();
        let place = volume
            .lists(segment.file_number, segment.nonce)
            .map(|listed| (listed.index_offset, listed.index_length))
            .or_else(|| {
                // Sealed, and not in the catalogue yet. The head may have been read before.
                let sealed = walk::head(file).ok()?.segment.sealed?;
                Some((sealed.index_offset, sealed.index_length))
            });
        // What cannot be read is no better than what does not check.
        let index = place.and_then(|(offset, length)| read_index(file, segment.nonce, offset, length).unwrap_or(None));
        if let Some(index) = index {
            return self.with_run_boxes(segment, volume, file, index);
        }
        tracing::warn!(path = %segment.path.display(), "the index of a segment does not check; its fragments are looked at, one by one");
        let mut head = open.head.clone();
        if let (Some((index_offset, index_length)), None) = (place, head.segment.sealed) {
            head.segment.sealed = Some(Sealed { index_offset, index_length, end_wall: segment.end });
        }
        let found = survey(file, &head, &mut |_| {}).map_err(|e| io_error(segment, e))?;
        self.still_there(segment, volume, open)?;
        let all = SegmentIndex { nonce: segment.nonce, offset: found.end, ..found.all().clone() };
        let indexed = self.with_run_boxes(segment, volume, file, all)?;
        let lost = found.lost();
        if !lost.is_empty() {
            let what = "neither the index nor these fragments check";
            self.note_damage(segment, volume, &indexed, &lost, true, what);
        }
        Ok(indexed)
    }

    /// Reads the run boxes of an index. What follows one that does not check cannot be placed in time, and is lost.
    fn with_run_boxes(
        &self,
        segment: &SegmentInfo,
        volume: &Volume,
        file: &dyn File,
        index: SegmentIndex,
    ) -> Result<Indexed, ReadError> {
        let (mut run_boxes, mut lost) = (Vec::with_capacity(index.runs.len()), Vec::new());
        for (number, place) in index.runs.iter().enumerate() {
            if let Some((run, mended)) = fetch::run_box(file, segment.nonce, place.offset) {
                if mended {
                    tracing::warn!(path = %segment.path.display(), offset = place.offset, "a run box has one wrong bit, and is read without it");
                }
                run_boxes.push(run);
                continue;
            }
            let until = index.runs.get(number + 1).map_or(segment.used_bytes, |next| next.offset);
            lost.push(place.offset..until.max(place.offset + RUN_BOX_LENGTH as u64));
            let parts = volume.lists(segment.file_number, segment.nonce).map(|listed| listed.runs).unwrap_or_default();
            let part = parts.iter().find(|part| part.first <= place.first_wall && place.first_wall < part.end);
            let run = part.map_or_else(Uuid::nil, |part| part.run);
            run_boxes.push(nameless(segment.nonce, place.offset, run));
        }
        let indexed = Indexed { index: Arc::new(index), run_boxes: run_boxes.into() };
        if !lost.is_empty() {
            self.still_there(segment, volume, &*self.open(segment)?)?;
            self.note_damage(segment, volume, &indexed, &lost, true, "the box of a run does not check");
        }
        Ok(indexed)
    }

    /// The codec parameters of a segment.
    ///
    /// # Errors
    /// When the segment is gone, or nothing tells of them any more.
    pub fn init(&self, segment: &SegmentInfo) -> Result<SegmentInit, ReadError> {
        let open = self.open(segment)?;
        let head = &open.head;
        Ok(SegmentInit { init: head.init.clone(), video: head.video.clone(), audio: head.audio.clone() })
    }

    /// Fills `into` with the bytes of frames that stand at `offset` of a segment, all in one fragment, once all of that fragment was checked,
    /// and makes sure that the file is still in this use.
    ///
    /// # Errors
    /// When the segment is gone, there are no frames there, or they do not check: then they are left out from now on.
    pub fn read_at(&self, segment: &SegmentInfo, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let range = offset..offset.saturating_add(into.len() as u64);
        let read = self.read_checked(segment, &range, into);
        read.inspect_err(|_| into.fill(0))
    }

    fn read_checked(&self, segment: &SegmentInfo, range: &Range<u64>, into: &mut [u8]) -> Result<(), ReadError> {
        let volume = self.volume(segment.volume)?;
        let open = self.open(segment)?;
        if lock(&self.caches.fragments).copy(&key(segment), range, into) {
            return self.still_there(segment, &volume, &open);
        }
        let live = volume.live_of(segment.stream);
        let live = live.iter().find(|live| live.fixed.nonce == segment.nonce);
        let spot = match live {
            Some(live) => live.with_index(|builder| fetch::spot(builder.index(), range.start)),
            None => fetch::spot(&self.indexed(segment)?.index, range.start),
        };
        let Some(spot) = spot.filter(|spot| spot.holds(range)) else {
            let reason = format!("bytes {} to {} are not of frames of one fragment", range.start, range.end);
            return Err(damaged(segment, reason));
        };
        // Once more, should the bytes have come wrong over the wire.
        let read = || fetch::read(open.file.as_ref(), segment.nonce, &spot);
        match read().or_else(|_| read()) {
            Ok(fragment) => {
                if let Some(bytes) = fragment.get(range.clone()).filter(|bytes| bytes.len() == into.len()) {
                    into.copy_from_slice(bytes);
                }
                self.still_there(segment, &volume, &open)?;
                let most = FRAGMENT_BYTES.min(self.inner.reader_cache_bytes / 4);
                lock(&self.caches.fragments).put(key(segment), Arc::new(fragment), most);
                Ok(())
            }
            Err(bad) => {
                // Where the file is in another use by now, nothing is damaged.
                self.still_there(segment, &volume, &open)?;
                let indexed = self.indexed(segment)?;
                self.note_damage(segment, &volume, &indexed, &[spot.bytes()], !bad.unreadable, &bad.what);
                Err(damaged(segment, format!("{} at byte {}", bad.what, spot.bytes().start)))
            }
        }
    }

    /// Reads all of a sealed segment, from the disk. Its BLAKE3, when it is as it was when it had the hash `before`, or all of it checks; `None`
    /// when something does not: that is told, and what it costs is remembered.
    pub(crate) fn scrub(
        &self,
        segment: &SegmentInfo,
        reading: &Reading,
        before: Option<[u8; 32]>,
    ) -> Result<Option<[u8; 32]>, ReadError> {
        let volume = self.volume(segment.volume)?;
        let _lease = self.lease(std::slice::from_ref(segment));
        let open = self.open(segment)?;
        let file = reading.paced(open.file.clone());
        let hash = file.hash();
        let ended = || io_error(segment, io::Error::new(io::ErrorKind::TimedOut, "the store is closed"));
        if reading.has_ended() {
            return Err(ended());
        }
        self.still_there(segment, &volume, &open)?;
        if let (Ok(now), Some(before)) = (&hash, before) {
            if *now == before {
                return Ok(Some(before));
            }
            tracing::warn!(path = %segment.path.display(), "a segment is not what it was when it was found whole");
        }
        let listed = volume.lists(segment.file_number, segment.nonce).ok_or(ReadError::Gone)?;
        let (index_offset, index_length, end_wall) = (listed.index_offset, listed.index_length, listed.end);
        let mut head = open.head.clone();
        head.segment.sealed = Some(Sealed { index_offset, index_length, end_wall });
        let found = survey(&file, &head, &mut |_| {}).map_err(|e| io_error(segment, e))?;
        if reading.has_ended() {
            return Err(ended());
        }
        open.file.forget(0, u64::MAX);
        self.still_there(segment, &volume, &open)?;
        let head_is_whole = walk::head(open.file.as_ref())
            .is_ok_and(|head| head.segment.nonce == segment.nonce && head.segment.sealed.is_some());
        for spare in found.damage.iter().filter(|damage| damage.spare) {
            tracing::warn!(path = %segment.path.display(), offset = spare.range.start, what = spare.what, "a segment is damaged where no footage is; `volume repair` makes it good");
        }
        let lost = found.lost();
        if !lost.is_empty() {
            let all = SegmentIndex { nonce: segment.nonce, ..found.all().clone() };
            let indexed = self.with_run_boxes(segment, &volume, open.file.as_ref(), all)?;
            let what = found.damage.iter().find(|damage| !damage.spare).map_or("", |damage| damage.what.as_str());
            self.note_damage(segment, &volume, &indexed, &lost, !reading.has_failed(), what);
            lock(&self.caches.fragments).remove(&key(segment));
        }
        if !head_is_whole {
            tracing::warn!(path = %segment.path.display(), "the head of a segment is damaged; `volume repair` makes it good");
        }
        Ok(hash.ok().filter(|_| found.damage.is_empty() && head_is_whole))
    }

    /// Keeps nothing of a segment.
    pub(crate) fn let_go(&self, segment: &SegmentInfo) {
        lock(&self.caches.files).remove(&key(segment));
        lock(&self.caches.indexes).remove(&key(segment));
        lock(&self.caches.fragments).remove(&key(segment));
    }

    fn note_damage(
        &self,
        segment: &SegmentInfo,
        volume: &Volume,
        indexed: &Indexed,
        ranges: &[Range<u64>],
        lasting: bool,
        what: &str,
    ) {
        let runs: Vec<Uuid> = indexed.run_boxes.iter().map(|run| run.run).collect();
        let listed = volume.lists(segment.file_number, segment.nonce);
        let sealed = listed.is_some();
        let name = listed.map(|listed| listed.stream_name).or_else(|| {
            let live = volume.live_of(segment.stream);
            live.first().map(|live| crate::names::full_name(&live.fixed.stream))
        });
        let place = Place { stream: name.unwrap_or_default(), path: segment.path.to_string_lossy().into_owned() };
        let found = Found {
            file_number: segment.file_number,
            nonce: segment.nonce,
            stream: segment.stream,
            place,
            index: &indexed.index,
            runs: &runs,
            ranges,
            lasting,
            sealed,
        };
        volume.damaged(&found, what);
    }

    /// An error when the file is in another use by now.
    fn still_there(&self, segment: &SegmentInfo, volume: &Volume, open: &OpenSegment) -> Result<(), ReadError> {
        // A file is emptied only once the catalogue has forgotten it: one that it lists has a damaged head, and is still there.
        if open.says(segment.nonce).unwrap_or(false)
            || volume.lists(segment.file_number, segment.nonce).is_some()
            || is_live(volume, segment)
        {
            return Ok(());
        }
        self.let_go(segment);
        Err(ReadError::Gone)
    }

    fn open(&self, segment: &SegmentInfo) -> Result<Arc<OpenSegment>, ReadError> {
        if let Some(open) = lock(&self.caches.files).get(&key(segment)) {
            return Ok(open);
        }
        let volume = self.volume(segment.volume)?;
        let file = volume.folder.open(&segment.path, false).map_err(|e| io_error(segment, e))?;
        let head = match walk::head(file.as_ref()) {
            Ok(head) if head.segment.nonce == segment.nonce => head,
            other => self.head_again(segment, &volume, file.as_ref(), other)?,
        };
        let open = Arc::new(OpenSegment { file, head });
        lock(&self.caches.files).put(key(segment), open.clone(), FILE_BYTES, FILES * FILE_BYTES);
        Ok(open)
    }

    /// The head of a segment whose own is damaged, from the catalogue (or from memory) and from a segment with the same parameters.
    fn head_again(
        &self,
        segment: &SegmentInfo,
        volume: &Volume,
        file: &dyn File,
        there: Result<Head, HeadError>,
    ) -> Result<Head, ReadError> {
        let live = volume.live_of(segment.stream);
        let live = live.iter().find(|live| live.fixed.nonce == segment.nonce);
        let listed = volume.lists(segment.file_number, segment.nonce);
        if live.is_none() && listed.is_none() {
            return Err(match there {
                Ok(_) => ReadError::Gone,
                Err(HeadError::Io(source)) => io_error(segment, source),
                Err(HeadError::NotOurs(reason)) => damaged(segment, reason),
            });
        }
        let init = match live {
            Some(live) => Some((*live.fixed.init).clone()),
            None => self.init_like(segment),
        };
        let parsed = init.and_then(|init| InitSegment::parse(&init.bytes).ok());
        let Some((init, video, audio)) = parsed else {
            let what = "its head is damaged, and no segment with the same codec parameters is here";
            if let Some(listed) = &listed {
                volume.lost(listed, what);
            }
            return Err(damaged(segment, what));
        };
        tracing::warn!(path = %segment.path.display(), "the head of a segment is damaged; it is read with that of another one");
        let offset = init.padded().len() as u64;
        let audio_timescale = audio.as_ref().map_or(0, |audio| audio.sample_rate);
        let segment_box = segment_box(segment, file.size().unwrap_or(0), offset, audio_timescale, listed.as_ref());
        Ok(Head { init, video, audio, segment: segment_box, end: offset + SEGMENT_BOX_LENGTH as u64 })
    }

    /// Codec parameters as those of a segment, from another one.
    fn init_like(&self, segment: &SegmentInfo) -> Option<InitSegment> {
        let known = lock(&self.caches.files);
        let open = known.entries.iter().map(|(_, open, _)| &open.head.init).find(|init| init.hash == segment.init_hash);
        if let Some(init) = open {
            return Some(init.clone());
        }
        drop(known);
        for volume in self.inner.volumes() {
            let live = lock(&volume.live).values().flatten().map(|live| live.fixed.init.clone()).collect::<Vec<_>>();
            if let Some(init) = live.into_iter().find(|init| init.hash == segment.init_hash) {
                return Some((*init).clone());
            }
            if volume.is_stalled() {
                continue;
            }
            let around = {
                let catalogue = volume.catalogue.read().ok()?;
                let view = catalogue.view().ok()?;
                let always = WallTime(i64::MAX);
                view.segments(segment.stream, WallTime(i64::MIN), always).unwrap_or_default()
            };
            let same = |other: &&SealedSegment| other.init_hash == segment.init_hash && other.nonce != segment.nonce;
            for other in around.iter().rev().filter(same).take(TWINS_LOOKED_AT) {
                let file = volume.folder.open(std::path::Path::new(&other.path), false);
                let head = file.ok().and_then(|file| walk::head(file.as_ref()).ok());
                if let Some(head) = head.filter(|head| head.init.hash == segment.init_hash) {
                    return Some(head.init);
                }
            }
        }
        None
    }
}

fn segment_box(
    segment: &SegmentInfo,
    file_size: u64,
    offset: u64,
    audio_timescale: u32,
    listed: Option<&SealedSegment>,
) -> SegmentBox {
    SegmentBox {
        nonce: segment.nonce,
        offset,
        begins_inside_gop: false,
        volume: segment.volume,
        stream: segment.stream,
        segment_number: segment.number,
        file_number: segment.file_number,
        file_size,
        first_wall: segment.first,
        init_hash: segment.init_hash,
        video_timescale: VIDEO_CLOCK_HZ,
        audio_timescale,
        stream_name: listed.map(|listed| listed.stream_name.clone()).unwrap_or_default(),
        sealed: listed.map(|listed| Sealed {
            index_offset: listed.index_offset,
            index_length: listed.index_length,
            end_wall: listed.end,
        }),
    }
}

/// A run of which only the manifest tells. Nothing of it is served.
fn nameless(nonce: u64, offset: u64, run: Uuid) -> RunBox {
    RunBox {
        nonce,
        offset,
        continued: true,
        run,
        epoch: 0,
        rank: 0,
        gap_reason: GapReason::Unknown,
        plan: PlanVersion { term: 0, sequence: 0 },
        recorder: Uuid::nil(),
        previous_offset: 0,
        anchor_wall: WallTime(0),
        anchor_media: MediaTime(0),
        video_offset: 0,
        audio_offset: 0,
        sender_report: None,
        previous_end: None,
        previous_run: None,
    }
}
