//! The index box and `mfra` of a sealed segment (`docs/format.md` §7).

use bytes::Bytes;

use super::common::{COMMON_LENGTH, CRC_OFFSET, INDEX, check_crc, crc_without};
use super::{BoxError, BoxWriter, CommonPart, Ended, Reader};
use crate::unit::{FrameFlags, FrameIdentity, WallTime};

/// Length of the box without runs, entries and sizes.
const FIXED_LENGTH: u64 = 96;
const RUN_LENGTH: u64 = 32;
const ENTRY_LENGTH: u64 = 40;
const SIZE_LENGTH: u64 = 2;

const NAME: &str = "index";
const FRAME_FLAGS: u32 = 0xf;
const AUDIO: u32 = 1 << 8;
const FIRST_OF_FRAGMENT: u32 = 1 << 9;

/// Where the frames of a run box are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRun {
    /// Offset of the run box in the file.
    pub offset: u64,
    /// Position of its first entry.
    pub first_entry: u32,
    /// Number of its entries.
    pub entries: u32,
    /// Wall time of its first frame.
    pub first_wall: WallTime,
    /// Wall time at which its last frame ends.
    pub end_wall: WallTime,
}

/// A video frame, or an unbroken stretch of audio frames in a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// First entry of its fragment.
    pub first_of_fragment: bool,
    /// Offset of the data in the file.
    pub data_offset: u32,
    /// Length of the data in bytes.
    pub data_length: u32,
    /// File time, in the track's timescale.
    pub decode_time: u64,
    /// Wall time; of the first frame in a stretch of audio.
    pub wall: WallTime,
    /// What it is.
    pub kind: EntryKind,
}

/// What is different between video and audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A video frame.
    Video {
        /// As in the frames box.
        flags: FrameFlags,
        /// Presentation less decode time, 90 kHz.
        composition_offset: i32,
        /// As in the frames box.
        identity: FrameIdentity,
    },
    /// A stretch of audio frames.
    Audio {
        /// How many.
        frames: u16,
        /// Of each, in ticks of the audio timescale.
        frame_duration: u32,
        /// Position of its first frame in the size table.
        first_size: u32,
    },
}

/// Everything in a segment file, frame by frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// This use of the file; never 0.
    pub nonce: u64,
    /// Offset of the index box in the file.
    pub offset: u64,
    /// One for each run box.
    pub runs: Vec<IndexRun>,
    /// In file order.
    pub entries: Vec<IndexEntry>,
    /// Size of each audio frame in bytes, in file order.
    pub audio_sizes: Vec<u16>,
    /// Sums over the file.
    pub totals: IndexTotals,
}

/// What the index box says about the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexTotals {
    /// Video frames.
    pub video_frames: u32,
    /// Video frames with [`FrameFlags::RANDOM_ACCESS`].
    pub random_access_points: u32,
    /// Fragments.
    pub fragments: u32,
    /// Bytes of all video samples.
    pub video_bytes: u64,
    /// Bytes of all audio samples.
    pub audio_bytes: u64,
    /// Wall time at which the last frame ends.
    pub end_wall: WallTime,
}

impl Default for IndexTotals {
    fn default() -> Self {
        Self {
            video_frames: 0,
            random_access_points: 0,
            fragments: 0,
            video_bytes: 0,
            audio_bytes: 0,
            end_wall: WallTime(0),
        }
    }
}

impl SegmentIndex {
    /// Bytes that it takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.runs.capacity() * size_of::<IndexRun>()
            + self.entries.capacity() * size_of::<IndexEntry>()
            + self.audio_sizes.capacity() * size_of::<u16>()
    }

    /// Length in bytes of an index box with so many runs, entries and audio frames: what must be kept free for it.
    #[must_use]
    pub const fn encoded_length(runs: u64, entries: u64, audio_frames: u64) -> u64 {
        (FIXED_LENGTH + runs * RUN_LENGTH + entries * ENTRY_LENGTH + audio_frames * SIZE_LENGTH).next_multiple_of(8)
    }

    /// The box's bytes.
    ///
    /// # Errors
    /// When there is more in it than a file of 1 GiB can hold.
    pub fn encode(&self) -> Result<Bytes, BoxError> {
        let count = |length: usize| {
            u32::try_from(length).map_err(|_| BoxError::Field { which: NAME, field: "more than 2^32 of something" })
        };
        let length =
            Self::encoded_length(self.runs.len() as u64, self.entries.len() as u64, self.audio_sizes.len() as u64);
        let length = u32::try_from(length).map_err(|_| BoxError::Field { which: NAME, field: "longer than 4 GiB" })?;
        let end = usize::try_from(length).unwrap_or(usize::MAX);
        let mut w = BoxWriter::with_capacity(end);
        CommonPart { length, flags: 0, crc: 0, nonce: self.nonce, offset: self.offset }.write(INDEX, &mut w);
        w.u32(count(self.runs.len())?);
        w.u32(count(self.entries.len())?);
        w.u32(self.totals.video_frames);
        w.u32(count(self.audio_sizes.len())?);
        w.u32(self.totals.random_access_points);
        w.u32(self.totals.fragments);
        w.u64(self.totals.video_bytes);
        w.u64(self.totals.audio_bytes);
        w.i64(self.totals.end_wall.0);
        for run in &self.runs {
            w.u64(run.offset);
            w.u32(run.first_entry);
            w.u32(run.entries);
            w.i64(run.first_wall.0);
            w.i64(run.end_wall.0);
        }
        for entry in &self.entries {
            entry.write(&mut w);
        }
        for &size in &self.audio_sizes {
            w.u16(size);
        }
        w.zeros(end.saturating_sub(w.len()));
        let crc = crc_without(w.as_slice(), CRC_OFFSET);
        w.patch_u32(CRC_OFFSET, crc);
        Ok(w.finish())
    }

    /// From bytes that begin with the box. Memory is bounded by their length.
    ///
    /// # Errors
    /// When it is not there, of another version, does not check, or has fields that make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        let field = |field| BoxError::Field { which: NAME, field };
        let ended = |_: Ended| field("ends early");
        let mut r = Reader::new(bytes);
        let common = CommonPart::read(&mut r, INDEX, NAME)?;
        let whole = usize::try_from(common.length).ok().and_then(|length| bytes.get(..length));
        let whole = whole.ok_or_else(|| field("ends early"))?;
        check_crc(NAME, whole, CRC_OFFSET, common.crc)?;
        let mut r = Reader::new(whole.get(COMMON_LENGTH..).ok_or_else(|| field("ends early"))?);
        let (run_count, entry_count) = (r.u32().map_err(ended)?, r.u32().map_err(ended)?);
        let video_frames = r.u32().map_err(ended)?;
        let audio_count = r.u32().map_err(ended)?;
        if Self::encoded_length(run_count.into(), entry_count.into(), audio_count.into()) != u64::from(common.length) {
            return Err(field("counts and length do not agree"));
        }
        let totals = IndexTotals {
            video_frames,
            random_access_points: r.u32().map_err(ended)?,
            fragments: r.u32().map_err(ended)?,
            video_bytes: r.u64().map_err(ended)?,
            audio_bytes: r.u64().map_err(ended)?,
            end_wall: WallTime(r.i64().map_err(ended)?),
        };
        let mut read_run = || -> Result<IndexRun, Ended> {
            Ok(IndexRun {
                offset: r.u64()?,
                first_entry: r.u32()?,
                entries: r.u32()?,
                first_wall: WallTime(r.i64()?),
                end_wall: WallTime(r.i64()?),
            })
        };
        let runs = (0..run_count).map(|_| read_run()).collect::<Result<Vec<_>, _>>().map_err(ended)?;
        let in_range = |run: &IndexRun| run.first_entry.checked_add(run.entries).is_some_and(|end| end <= entry_count);
        if !runs.iter().all(in_range) {
            return Err(field("a run's entries are out of range"));
        }
        let entries =
            (0..entry_count).map(|_| IndexEntry::read(&mut r)).collect::<Result<Vec<_>, _>>().map_err(ended)?;
        let in_range = |entry: &IndexEntry| match entry.kind {
            EntryKind::Video { .. } => true,
            EntryKind::Audio { frames, first_size, .. } => {
                first_size.checked_add(frames.into()).is_some_and(|end| end <= audio_count)
            }
        };
        if !entries.iter().all(in_range) {
            return Err(field("an entry's audio sizes are out of range"));
        }
        let audio_sizes = (0..audio_count).map(|_| r.u16()).collect::<Result<Vec<_>, _>>().map_err(ended)?;
        Ok(Self { nonce: common.nonce, offset: common.offset, runs, entries, audio_sizes, totals })
    }

    /// The sizes of the frames of an audio entry; empty for video.
    #[must_use]
    pub fn sizes_of(&self, entry: &IndexEntry) -> &[u16] {
        let EntryKind::Audio { frames, first_size, .. } = entry.kind else { return &[] };
        let first = usize::try_from(first_size).unwrap_or(usize::MAX);
        self.audio_sizes.get(first..first.saturating_add(frames.into())).unwrap_or_default()
    }
}

impl IndexEntry {
    fn write(&self, w: &mut BoxWriter) {
        let first = if self.first_of_fragment { FIRST_OF_FRAGMENT } else { 0 };
        let (bits, number, last) = match self.kind {
            EntryKind::Video { flags, composition_offset, identity } => {
                (flags.0 & FRAME_FLAGS, composition_offset, identity.0)
            }
            EntryKind::Audio { frames, frame_duration, first_size } => {
                (AUDIO | u32::from(frames) << 16, frame_duration.cast_signed(), u64::from(first_size))
            }
        };
        w.u32(bits | first);
        w.u32(self.data_offset);
        w.u32(self.data_length);
        w.i32(number);
        w.u64(self.decode_time);
        w.i64(self.wall.0);
        w.u64(last);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Ended> {
        let bits = r.u32()?;
        let (data_offset, data_length, number) = (r.u32()?, r.u32()?, r.i32()?);
        let (decode_time, wall, last) = (r.u64()?, WallTime(r.i64()?), r.u64()?);
        let kind = if bits & AUDIO != 0 {
            EntryKind::Audio {
                frames: u16::try_from(bits >> 16).unwrap_or(u16::MAX),
                frame_duration: number.cast_unsigned(),
                first_size: u32::try_from(last).unwrap_or(u32::MAX),
            }
        } else {
            EntryKind::Video {
                flags: FrameFlags(bits & FRAME_FLAGS),
                composition_offset: number,
                identity: FrameIdentity(last),
            }
        };
        Ok(Self { first_of_fragment: bits & FIRST_OF_FRAGMENT != 0, data_offset, data_length, decode_time, wall, kind })
    }
}

/// A fragment that begins with a random access point, for [`mfra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomAccess {
    /// File time of its presentation, 90 kHz.
    pub time: u64,
    /// Offset of its `moof` in the file.
    pub moof_offset: u64,
}

/// Length in bytes of an `mfra` with so many random access points.
#[must_use]
pub const fn mfra_length(points: u64) -> u64 {
    48 + 28 * points + if points % 2 == 1 { 12 } else { 0 }
}

/// The `mfra` box (ISO/IEC 14496-12 §8.8.9 to §8.8.11) of the video track.
#[must_use]
pub fn mfra(points: &[RandomAccess]) -> Bytes {
    /// length_size_of_traf_num, …_trun_num, …_sample_num: each 3, which means 4 bytes.
    const FOUR_BYTES_EACH: u32 = 0x3f;
    let length = mfra_length(points.len() as u64);
    let mut w = BoxWriter::with_capacity(usize::try_from(length).unwrap_or(0));
    w.boxed(*b"mfra", |w| {
        w.full_box(*b"tfra", 1, 0, |w| {
            w.u32(1);
            w.u32(FOUR_BYTES_EACH);
            w.u32(u32::try_from(points.len()).unwrap_or(u32::MAX));
            for point in points {
                w.u64(point.time);
                w.u64(point.moof_offset);
                w.u32(1);
                w.u32(1);
                w.u32(1);
            }
        });
        if points.len() % 2 == 1 {
            w.boxed(*b"free", |w| w.zeros(4));
        }
        w.full_box(*b"mfro", 0, 0, |w| w.u32(u32::try_from(length).unwrap_or(u32::MAX)));
    });
    w.finish()
}
