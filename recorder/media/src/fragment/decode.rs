//! Reading a fragment back: its frames from the head alone, its truth from all of its bytes.

use super::{
    BEGINS_RANDOM_ACCESS, CONTINUES_GOP, FRAME_LENGTH, FRAMES_FIXED_LENGTH, FragmentError, MAX_MOOF_BYTES, NAME,
    TFHD_AUDIO, TFHD_VIDEO, TRUN_AUDIO, TRUN_COMPOSITION_OFFSETS, TRUN_DURATIONS, TRUN_VIDEO,
};
use crate::boxes::common::{CRC_OFFSET, CommonPart, FRAMES};
use crate::boxes::walk::{BoxHeader, boxes};
use crate::boxes::{BoxError, Ended, Reader};
use crate::checksum::Crc32c;
use crate::init::{AUDIO_TRACK, VIDEO_TRACK};
use crate::unit::{FrameFlags, FrameIdentity, WallTime};

/// A video frame of a fragment, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVideo {
    /// Of its data in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// File time of decoding, 90 kHz.
    pub dts: u64,
    /// Ticks up to the next frame; a forecast for the last one, the next fragment's time wins.
    pub duration: u32,
    /// Presentation less decode time, 90 kHz.
    pub composition_offset: i32,
    /// Wall time of presentation.
    pub wall: WallTime,
    /// Hash of the VCL NAL units.
    pub identity: FrameIdentity,
    /// Random access, sync, loss.
    pub flags: FrameFlags,
}

/// An audio frame of a fragment, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAudio {
    /// Of its data in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// File time, in ticks of the audio timescale.
    pub dts: u64,
    /// In ticks of the audio timescale; a forecast for the last one.
    pub duration: u32,
}

/// What the `moof` of a fragment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentHead {
    /// Of `mfhd`.
    pub sequence_number: u32,
    /// The use of the file that it was written in.
    pub nonce: u64,
    /// Of the `moof` in the file.
    pub offset: u64,
    /// Of `moof` and `mdat` together, in bytes.
    pub length: u64,
    /// Of the `moof`, in bytes: where `mdat` begins.
    pub moof_length: u32,
    /// It begins with a random access point.
    pub begins_random_access: bool,
    /// It goes on with a GOP that began in an earlier segment.
    pub continues_gop: bool,
    /// In decoding order.
    pub video: Vec<StoredVideo>,
    /// In order.
    pub audio: Vec<StoredAudio>,
    /// Wall time of the first audio frame.
    pub audio_wall: Option<WallTime>,
    crc: u32,
    /// Of the CRC, counted from the first byte of `moof`.
    crc_offset: u64,
}

fn malformed(what: &'static str) -> FragmentError {
    FragmentError::Malformed { what }
}

/// Length in bytes of the `moof` that begins with `first` (8 bytes or more, at `offset` of a file of `file_size` bytes): with 8 more, what [`decode`] needs.
///
/// # Errors
/// When it is not a `moof`, or one that does not fit.
pub fn moof_length(first: &[u8], offset: u64, file_size: u64) -> Result<u32, FragmentError> {
    let header = BoxHeader::parse(first, offset, file_size).map_err(|_| malformed("no box"))?;
    if header.kind != *b"moof" || header.header_length != 8 {
        return Err(malformed("not a moof"));
    }
    if header.length > MAX_MOOF_BYTES {
        return Err(malformed("moof is longer than 4 MiB"));
    }
    u32::try_from(header.length).map_err(|_| malformed("moof is longer than 4 MiB"))
}

/// Reads the head of the fragment at `offset` of a file of `file_size` bytes. `head` begins with the `moof` and holds at least it and the 8
/// bytes behind it. Whether this is a fragment of the file's present use is for the caller to see by its nonce, and whether its bytes are
/// whole, by [`FragmentHead::verifier`].
///
/// # Errors
/// When it is not a fragment as `docs/format.md` §6 says, or its frames box names another offset.
pub fn decode(head: &[u8], offset: u64, file_size: u64) -> Result<FragmentHead, FragmentError> {
    let moof_length = moof_length(head, offset, file_size)?;
    let moof_bytes = usize::try_from(moof_length).map_err(|_| FragmentError::Short)?;
    let (moof, behind) = head.split_at_checked(moof_bytes).ok_or(FragmentError::Short)?;
    let mdat_offset = offset + u64::from(moof_length);
    let mdat_header = behind.get(..8).ok_or(FragmentError::Short)?;
    let mdat = BoxHeader::parse(mdat_header, mdat_offset, file_size).map_err(|_| malformed("mdat does not fit"))?;
    if mdat.kind != *b"mdat" || mdat.header_length != 8 {
        return Err(malformed("no mdat behind moof"));
    }

    let mut sequence_number = None;
    let mut video = None;
    let mut audio = None;
    let mut frames = None;
    for child in boxes(moof.get(8..).unwrap_or_default()) {
        let (header, body) = child.map_err(|_| malformed("a box in moof"))?;
        match &header.kind {
            b"mfhd" => sequence_number = Some(Reader::new(body.get(4..).unwrap_or_default()).u32()),
            b"traf" => {
                let track = traf(body)?;
                let place = if track.audio { &mut audio } else { &mut video };
                if place.replace(track).is_some() {
                    return Err(malformed("two traf of one track"));
                }
            }
            b"uuid" if header.extended_kind == Some(*FRAMES.as_bytes()) => {
                let start = usize::try_from(header.offset).map_err(|_| FragmentError::Short)? + 8;
                let end = usize::try_from(header.end()).map_err(|_| FragmentError::Short)? + 8;
                frames = Some((start, moof.get(start..end).unwrap_or_default()));
            }
            _ => {}
        }
    }
    let sequence_number = sequence_number.and_then(Result::ok).ok_or_else(|| malformed("mfhd"))?;
    let (frames_start, frames) = frames.ok_or(BoxError::NotThere { wanted: NAME })?;
    let mut head = FragmentHead {
        sequence_number,
        nonce: 0,
        offset,
        length: u64::from(moof_length) + mdat.length,
        moof_length,
        begins_random_access: false,
        continues_gop: false,
        video: Vec::new(),
        audio: Vec::new(),
        audio_wall: None,
        crc: 0,
        crc_offset: (frames_start + CRC_OFFSET) as u64,
    };
    let field = |field| FragmentError::Frames(BoxError::Field { which: NAME, field });
    let mut r = Reader::new(frames);
    let common = CommonPart::read(&mut r, FRAMES, NAME)?;
    if common.offset != offset {
        return Err(field("own offset is another"));
    }
    head.nonce = common.nonce;
    head.crc = common.crc;
    head.begins_random_access = common.flags & BEGINS_RANDOM_ACCESS != 0;
    head.continues_gop = common.flags & CONTINUES_GOP != 0;
    let ended = |_: Ended| field("ends early");
    let video_count = usize::try_from(r.u32().map_err(ended)?).map_err(|_| field("count"))?;
    let audio_count = usize::try_from(r.u32().map_err(ended)?).map_err(|_| field("count"))?;
    if u64::from(r.u32().map_err(ended)?) != mdat.length {
        return Err(field("length of mdat is another"));
    }
    r.u32().map_err(ended)?;
    let audio_wall = WallTime(r.i64().map_err(ended)?);
    if frames.len() != FRAMES_FIXED_LENGTH.saturating_add(video_count.saturating_mul(FRAME_LENGTH)) {
        return Err(field("count and length do not agree"));
    }
    let (video, audio) = (video.unwrap_or_default(), audio.unwrap_or_default());
    if video.samples.len() != video_count || audio.samples.len() != audio_count {
        return Err(field("counts are not those of the trun boxes"));
    }
    if audio_count > 0 {
        head.audio_wall = Some(audio_wall);
    }
    let data_end = head.length;
    head.video.reserve_exact(video_count);
    for at in video.placed(data_end, moof_length) {
        let (sample, place, dts) = at?;
        let (wall, identity, flags) =
            (r.i64().map_err(ended)?, r.u64().map_err(ended)?, FrameFlags(r.u32().map_err(ended)?));
        r.u32().map_err(ended)?;
        head.video.push(StoredVideo {
            offset: offset + place,
            size: sample.size,
            dts,
            duration: sample.duration,
            composition_offset: sample.composition_offset,
            wall: WallTime(wall),
            identity: FrameIdentity(identity),
            flags,
        });
    }
    head.audio.reserve_exact(audio_count);
    for at in audio.placed(data_end, moof_length) {
        let (sample, place, dts) = at?;
        head.audio.push(StoredAudio { offset: offset + place, size: sample.size, dts, duration: sample.duration });
    }
    Ok(head)
}

#[derive(Default)]
struct Track {
    audio: bool,
    first_dts: u64,
    /// From the first byte of `moof`.
    data_offset: i32,
    samples: Vec<Sample>,
}

struct Sample {
    duration: u32,
    size: u32,
    composition_offset: i32,
}

impl Track {
    /// Each sample with its place (from the first byte of `moof`) and decode time; an error for one that does not lie in `mdat`'s body.
    fn placed(&self, end: u64, moof_length: u32) -> impl Iterator<Item = Result<(&Sample, u64, u64), FragmentError>> {
        let mut place = u64::try_from(self.data_offset).unwrap_or(0);
        let mut dts = self.first_dts;
        self.samples.iter().map(move |sample| {
            let at = (sample, place, dts);
            let behind = place.saturating_add(sample.size.into());
            if place < u64::from(moof_length) + 8 || behind > end {
                return Err(malformed("a sample does not lie in mdat"));
            }
            place = behind;
            dts = dts.checked_add(sample.duration.into()).ok_or_else(|| malformed("decode time overflows"))?;
            Ok(at)
        })
    }
}

/// A `traf` exactly as `docs/format.md` §6 lays it out.
fn traf(body: &[u8]) -> Result<Track, FragmentError> {
    let ended = |_: Ended| malformed("a box in traf ends early");
    let mut children = boxes(body);
    let mut next = |kind: [u8; 4]| match children.next() {
        Some(Ok((header, body))) if header.kind == kind => {
            let mut r = Reader::new(body);
            let version_and_flags = r.u32().map_err(ended)?;
            Ok((version_and_flags >> 24, version_and_flags & 0x00ff_ffff, r))
        }
        _ => Err(malformed("tfhd, tfdt, trun are not as they should be")),
    };
    let (_, flags, mut tfhd) = next(*b"tfhd")?;
    let track = tfhd.u32().map_err(ended)?;
    let audio = match (track, flags) {
        (VIDEO_TRACK, TFHD_VIDEO) => false,
        (AUDIO_TRACK, TFHD_AUDIO) => true,
        _ => return Err(malformed("tfhd's track or flags")),
    };
    let default_duration = if audio { tfhd.u32().map_err(ended)? } else { 0 };
    let (1, _, mut tfdt) = next(*b"tfdt")? else { return Err(malformed("tfdt's version")) };
    let first_dts = tfdt.u64().map_err(ended)?;
    let (1, flags, mut trun) = next(*b"trun")? else { return Err(malformed("trun's version")) };
    let (fixed, optional) = if audio { (TRUN_AUDIO, TRUN_DURATIONS) } else { (TRUN_VIDEO, TRUN_COMPOSITION_OFFSETS) };
    if flags & !optional != fixed {
        return Err(malformed("trun's flags"));
    }
    let count = usize::try_from(trun.u32().map_err(ended)?).map_err(|_| malformed("trun's count"))?;
    let data_offset = trun.i32().map_err(ended)?;
    if !audio {
        trun.u32().map_err(ended)?;
    }
    let has_duration = !audio || flags & TRUN_DURATIONS != 0;
    let has_composition_offset = !audio && flags & TRUN_COMPOSITION_OFFSETS != 0;
    let each = 4 + if has_duration { 4 } else { 0 } + if has_composition_offset { 4 } else { 0 };
    // The count comes from the disk: it is believed only where the bytes are there.
    if count.checked_mul(each) != Some(trun.rest().len()) {
        return Err(malformed("trun's count and length do not agree"));
    }
    let mut sample = || -> Result<Sample, Ended> {
        Ok(Sample {
            duration: if has_duration { trun.u32()? } else { default_duration },
            size: trun.u32()?,
            composition_offset: if has_composition_offset { trun.i32()? } else { 0 },
        })
    };
    let samples = (0..count).map(|_| sample()).collect::<Result<Vec<_>, _>>().map_err(ended)?;
    Ok(Track { audio, first_dts, data_offset, samples })
}

/// Checks a fragment's CRC32C over bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Verifier {
    crc: Crc32c,
    stored: u32,
    position: u64,
    crc_offset: u64,
    length: u64,
}

impl FragmentHead {
    /// Begins a check of the whole fragment.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier {
            crc: Crc32c::default(),
            stored: self.crc,
            position: 0,
            crc_offset: self.crc_offset,
            length: self.length,
        }
    }

    /// Checks the whole fragment's bytes, from the first of `moof` to the last of `mdat`.
    ///
    /// # Errors
    /// When there are too few or too many, or they do not check.
    pub fn verify<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(), FragmentError> {
        let mut verifier = self.verifier();
        for piece in pieces {
            verifier.update(piece);
        }
        verifier.finish()
    }
}

impl Verifier {
    /// Takes the next bytes.
    pub fn update(&mut self, piece: &[u8]) {
        // Up to three parts: before the CRC's four bytes, (some of) these, behind them.
        let to =
            |target: u64| usize::try_from(target.saturating_sub(self.position)).unwrap_or(usize::MAX).min(piece.len());
        let (crc_begin, crc_end) = (to(self.crc_offset), to(self.crc_offset + 4));
        let before = piece.get(..crc_begin).unwrap_or_default();
        let behind = piece.get(crc_end..).unwrap_or_default();
        self.crc.update(before);
        self.crc.update([0; 4].get(..crc_end - crc_begin).unwrap_or_default());
        self.crc.update(behind);
        self.position += piece.len() as u64;
    }

    /// Whether all bytes were there and check.
    ///
    /// # Errors
    /// When there were too few or too many, or they do not check.
    pub fn finish(self) -> Result<(), FragmentError> {
        if self.position != self.length {
            return Err(malformed("fewer or more bytes than the fragment has"));
        }
        let computed = self.crc.value();
        if computed == self.stored { Ok(()) } else { Err(FragmentError::Crc { computed, stored: self.stored }) }
    }
}
