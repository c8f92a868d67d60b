//! The segment box (`docs/format.md` §4): whose file this is, and, once sealed, where its index is.

use uuid::Uuid;

use super::common::{CRC_OFFSET, SEGMENT, check_crc, crc_without};
use super::{BoxError, BoxWriter, CommonPart, Ended, Reader};
use crate::unit::WallTime;

/// Length of the box in bytes.
pub const SEGMENT_BOX_LENGTH: usize = 512;
/// Where the sealed part begins, in the box.
pub const SEALED_PART_OFFSET: usize = 448;
/// Longest `namespace/name`, in bytes.
pub const MAX_NAME_BYTES: usize = 318;

const NAME: &str = "segment";
const BEGINS_INSIDE_GOP: u16 = 1;
const SEALED: u32 = 1;
const SEALED_CRC_OFFSET: usize = 4;

/// The first box behind `moov`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentBox {
    /// This use of the file; never 0.
    pub nonce: u64,
    /// Own offset in the file.
    pub offset: u64,
    /// The segment begins inside a GOP, which did not fit in the segment before.
    pub begins_inside_gop: bool,
    /// The volume it was written on.
    pub volume: Uuid,
    /// UID of the `CameraStream`.
    pub stream: Uuid,
    /// Grows by one with each segment of this stream on this volume.
    pub segment_number: u64,
    /// Number of the file, for its whole life.
    pub file_number: u64,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Wall time of the first frame.
    pub first_wall: WallTime,
    /// XXH3-64 of `ftyp` and `moov`.
    pub init_hash: u64,
    /// Ticks a second of video times in the file: 90000.
    pub video_timescale: u32,
    /// Ticks a second of audio times in the file; 0 without audio.
    pub audio_timescale: u32,
    /// `namespace/name`, at most [`MAX_NAME_BYTES`].
    pub stream_name: String,
    /// Once sealed.
    pub sealed: Option<Sealed>,
}

/// The part that is written when the file is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Offset of the index box in the file.
    pub index_offset: u64,
    /// Length of the index box in bytes.
    pub index_length: u64,
    /// Wall time at which the last frame ends.
    pub end_wall: WallTime,
}

impl Sealed {
    /// Bytes 448 to 511 of the segment box; `nonce` is the segment's.
    #[must_use]
    pub fn encode(&self, nonce: u64) -> [u8; SEGMENT_BOX_LENGTH - SEALED_PART_OFFSET] {
        let mut w = BoxWriter::with_capacity(64);
        w.u32(SEALED);
        w.u32(0);
        w.u64(nonce);
        w.u64(self.index_offset);
        w.u64(self.index_length);
        w.i64(self.end_wall.0);
        w.zeros(24);
        let crc = crc_without(w.as_slice(), SEALED_CRC_OFFSET);
        w.patch_u32(SEALED_CRC_OFFSET, crc);
        w.to_array()
    }

    /// The sealed part, where it is there: `None` when not sealed, torn, or of another use.
    #[must_use]
    pub fn decode(part: &[u8], nonce: u64) -> Option<Self> {
        let part = part.get(..SEGMENT_BOX_LENGTH - SEALED_PART_OFFSET)?;
        let mut r = Reader::new(part);
        let sealed = r.u32().ok()? == SEALED;
        let crc = r.u32().ok()?;
        let same_use = r.u64().ok()? == nonce;
        let this = Self { index_offset: r.u64().ok()?, index_length: r.u64().ok()?, end_wall: WallTime(r.i64().ok()?) };
        (sealed && same_use && crc_without(part, SEALED_CRC_OFFSET) == crc).then_some(this)
    }
}

impl SegmentBox {
    /// The box's bytes.
    ///
    /// # Errors
    /// When the stream's name is too long.
    pub fn encode(&self) -> Result<[u8; SEGMENT_BOX_LENGTH], BoxError> {
        let name_length = self.stream_name.len();
        if name_length > MAX_NAME_BYTES {
            return Err(BoxError::Field { which: NAME, field: "stream's name is longer than 318 bytes" });
        }
        let mut w = BoxWriter::with_capacity(SEGMENT_BOX_LENGTH);
        let flags = if self.begins_inside_gop { BEGINS_INSIDE_GOP } else { 0 };
        let length = u32::try_from(SEGMENT_BOX_LENGTH).unwrap_or(0);
        CommonPart { length, flags, crc: 0, nonce: self.nonce, offset: self.offset }.write(SEGMENT, &mut w);
        w.bytes(self.volume.as_bytes());
        w.bytes(self.stream.as_bytes());
        w.u64(self.segment_number);
        w.u64(self.file_number);
        w.u64(self.file_size);
        w.i64(self.first_wall.0);
        w.u64(self.init_hash);
        w.u32(self.video_timescale);
        w.u32(self.audio_timescale);
        w.u16(u16::try_from(name_length).unwrap_or(0));
        w.bytes(self.stream_name.as_bytes());
        w.zeros(SEALED_PART_OFFSET - w.len());
        let crc = crc_without(w.as_slice(), CRC_OFFSET);
        w.patch_u32(CRC_OFFSET, crc);
        match &self.sealed {
            Some(sealed) => w.bytes(&sealed.encode(self.nonce)),
            None => w.zeros(SEGMENT_BOX_LENGTH - SEALED_PART_OFFSET),
        }
        Ok(w.to_array())
    }

    /// From bytes that begin with the box.
    ///
    /// # Errors
    /// When it is not there, of another version, does not check, or has fields that make no sense. A torn sealed part is no error.
    pub fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        let field = |field| BoxError::Field { which: NAME, field };
        let mut r = Reader::new(bytes);
        let common = CommonPart::read(&mut r, SEGMENT, NAME)?;
        if usize::try_from(common.length) != Ok(SEGMENT_BOX_LENGTH) || bytes.len() < SEGMENT_BOX_LENGTH {
            return Err(field("length is not 512, or bytes end before"));
        }
        let (fixed, sealed_part) = bytes.split_at_checked(SEALED_PART_OFFSET).ok_or_else(|| field("ends early"))?;
        check_crc(NAME, fixed, CRC_OFFSET, common.crc)?;
        let mut read = || -> Result<Self, Ended> {
            Ok(Self {
                nonce: common.nonce,
                offset: common.offset,
                begins_inside_gop: common.flags & BEGINS_INSIDE_GOP != 0,
                volume: Uuid::from_bytes(r.array()?),
                stream: Uuid::from_bytes(r.array()?),
                segment_number: r.u64()?,
                file_number: r.u64()?,
                file_size: r.u64()?,
                first_wall: WallTime(r.i64()?),
                init_hash: r.u64()?,
                video_timescale: r.u32()?,
                audio_timescale: r.u32()?,
                stream_name: String::new(),
                sealed: Sealed::decode(sealed_part, common.nonce),
            })
        };
        let mut this = read().map_err(|_| field("ends early"))?;
        let name_length = usize::from(r.u16().map_err(|_| field("ends early"))?);
        if name_length > MAX_NAME_BYTES {
            return Err(field("stream's name is longer than 318 bytes"));
        }
        let name = r.take(name_length).map_err(|_| field("ends early"))?;
        this.stream_name = std::str::from_utf8(name).map_err(|_| field("stream's name is not UTF-8"))?.to_owned();
        Ok(this)
    }
}
