//! Reading one fragment of a segment, and checking every byte of it before anybody gets one.

use std::io;
use std::ops::Range;

use framekeeper_media::boxes::index::{EntryKind, IndexEntry, SegmentIndex};
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_media::fragment::{decode, moof_length};

use crate::env::{File, read_exact};

/// Boxes begin at multiples of this.
const ALIGNMENT: u64 = 8;
const MDAT_HEADER_BYTES: u64 = 8;
/// What a `moof` takes at most: without frames, and for each frame (`docs/format.md` §9, with composition offsets and audio durations).
const MOOF_BYTES: u64 = 168 + 72;
const MOOF_BYTES_A_VIDEO_FRAME: u64 = 36;
const MOOF_BYTES_AN_AUDIO_FRAME: u64 = 8;

/// Where a fragment is, as far as the index tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Of its frames.
    data: Range<u64>,
    /// Its `moof` begins here, or a little behind.
    from: u64,
}

/// A fragment that checked.
pub(crate) struct Checked {
    offset: u64,
    bytes: Vec<u8>,
}

impl Checked {
    /// The bytes of a range of the file, where they are in this fragment.
    pub(crate) fn get(&self, range: Range<u64>) -> Option<&[u8]> {
        let from = usize::try_from(range.start.checked_sub(self.offset)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(self.offset)?).ok()?;
        self.bytes.get(from..to)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Why there is no fragment.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) what: String,
    /// The disk did not give the bytes: it may give them another time.
    pub(crate) unreadable: bool,
}

fn end_of(entry: &IndexEntry) -> u64 {
    u64::from(entry.data_offset) + u64::from(entry.data_length)
}

/// The fragment that has a frame at `offset` of the file. Entries are in file order.
pub(crate) fn spot(index: &SegmentIndex, offset: u64) -> Option<Spot> {
    let entries = &index.entries;
    let at = entries.partition_point(|entry| u64::from(entry.data_offset) <= offset).checked_sub(1)?;
    let first = entries.get(..=at)?.iter().rposition(|entry| entry.first_of_fragment)?;
    let behind = entries.get(at + 1..)?.iter().position(|entry| entry.first_of_fragment);
    let own = entries.get(first..behind.map_or(entries.len(), |behind| at + 1 + behind))?;
    let start = u64::from(own.first()?.data_offset);
    let data = start..own.iter().map(end_of).max()?.max(start);
    if offset >= data.end {
        return None;
    }
    let video = own.iter().filter(|entry| matches!(entry.kind, EntryKind::Video { .. })).count() as u64;
    let audio: u64 = own
        .iter()
        .map(|entry| match entry.kind {
            EntryKind::Audio { frames, .. } => frames.into(),
            EntryKind::Video { .. } => 0,
        })
        .sum();
    let moof = MOOF_BYTES + video * MOOF_BYTES_A_VIDEO_FRAME + audio * MOOF_BYTES_AN_AUDIO_FRAME;
    // Boxes follow each other, but for files that were mended: there something may lie between.
    let before = first.checked_sub(1).and_then(|before| entries.get(before)).map_or(0, end_of);
    let run = index.runs.iter().map(|run| run.offset + RUN_BOX_LENGTH as u64).filter(|end| *end < start).max();
    let from = before.next_multiple_of(ALIGNMENT).max(run.unwrap_or(0));
    let from = from.max(start.saturating_sub(moof + MDAT_HEADER_BYTES) / ALIGNMENT * ALIGNMENT);
    (from < start).then_some(Spot { data, from })
}

impl Spot {
    /// Every byte that must be right for its frames to be.
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.from..self.data.end.next_multiple_of(ALIGNMENT)
    }

    /// Whether all of a range is in its frames.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        self.data.start <= range.start && range.end <= self.data.end
    }
}

/// Reads a fragment. It must be of this use of the file, stand where it says, and check: else no byte of it is given out.
pub(crate) fn read(file: &dyn File, nonce: u64, spot: &Spot) -> Result<Checked, Bad> {
    let bad = |what: String| Bad { what, unreadable: false };
    let range = spot.bytes();
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|e| bad(e.to_string()))?];
    read_exact(file, &mut bytes, range.start).map_err(|error| Bad {
        what: format!("it cannot be read: {error}"),
        // A file that was cut off stays so.
        unreadable: error.kind() != io::ErrorKind::UnexpectedEof,
    })?;
    let mdat = spot.data.start - MDAT_HEADER_BYTES;
    let places = (range.start..mdat).step_by(ALIGNMENT as usize);
    let begins = |at: &u64| {
        let head = usize::try_from(at - range.start).ok().and_then(|from| bytes.get(from..));
        head.is_some_and(|head| moof_length(head, *at, range.end).is_ok_and(|length| at + u64::from(length) == mdat))
    };
    let Some(at) = places.into_iter().find(begins) else {
        return Err(bad("no moof that leads to its frames".to_owned()));
    };
    let skip = usize::try_from(at - range.start).unwrap_or(usize::MAX);
    let own = bytes.get(skip..).unwrap_or_default();
    let head = decode(own, at, range.end).map_err(|error| bad(error.to_string()))?;
    if head.nonce != nonce {
        return Err(bad(format!("a fragment of another use of a file ({:016x})", head.nonce)));
    }
    if at + head.length != range.end {
        return Err(bad(format!("a fragment of {} bytes, where the index has one of another length", head.length)));
    }
    head.verify([own]).map_err(|error| bad(error.to_string()))?;
    Ok(Checked { offset: range.start, bytes })
}

/// The run box of this use of the file at `offset`, if it checks, or no more than one bit of it is wrong; and whether one is.
pub(crate) fn run_box(file: &dyn File, nonce: u64, offset: u64) -> Option<(RunBox, bool)> {
    let mut bytes = [0; RUN_BOX_LENGTH];
    read_exact(file, &mut bytes, offset).ok()?;
    let decode = |bytes: &[u8]| RunBox::decode(bytes).ok().filter(|run| run.nonce == nonce && run.offset == offset);
    match decode(&bytes) {
        Some(run) => Some((run, false)),
        None => without_one_bit(&mut bytes, decode).map(|run| (run, true)),
    }
}

/// What `decode` makes of the bytes with one bit turned, where that gives something. In so short a box CRC32C tells any three wrong bits
/// from none, so no two such bits are possible; and a box without which minutes of good frames have no time is worth the search.
fn without_one_bit<T>(bytes: &mut [u8], decode: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    for bit in 0..bytes.len() * 8 {
        let turn = |bytes: &mut [u8]| bytes.iter_mut().skip(bit / 8).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
        turn(bytes);
        if let Some(found) = decode(bytes) {
            return Some(found);
        }
        turn(bytes);
    }
    None
}
