//! The manifest (`docs/format.md` §8): its records as values and bytes. The file itself is in [`crate::manifest_log`].

use std::path::PathBuf;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::boxes::{BoxWriter, Ended, Reader};
use framekeeper_media::checksum::crc32c;
use uuid::Uuid;

use crate::segment::hole::Hole;
use crate::types::{Hold, SegmentCounts, SegmentInfo};

/// The first 8 bytes of the file.
pub(crate) const MAGIC: &[u8; 8] = b"FKMANIF1";
/// Length of the file's header.
pub(crate) const HEADER_BYTES: u64 = 16;
/// A record's payload is never longer.
pub(crate) const PAYLOAD_BYTES_AT_MOST: usize = 1 << 20;

const SEALED: u8 = 1;
const RETIRED: u8 = 2;
const HOLD: u8 = 3;
const HOLD_RELEASED: u8 = 4;
const DAMAGED: u8 = 5;
const CHECKED: u8 = 6;
const VERSION: u8 = 1;
const CONTINUED: u32 = 1;

/// One entry of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Sealed(SealedSegment),
    Retired { file_number: u64, nonce: u64 },
    Hold(Hold),
    HoldReleased { hold: Uuid },
    Damaged(Damage),
    Checked(Checked),
}

/// A range of a segment that was found damaged. What of a run in it cannot be served has a record of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) file_number: u64,
    pub(crate) nonce: u64,
    pub(crate) stream: Uuid,
    pub(crate) hole: Hole,
}

/// A sealed segment all of whose bytes were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) file_number: u64,
    pub(crate) nonce: u64,
    /// When it was read.
    pub(crate) at: WallTime,
    /// BLAKE3 of the whole file.
    pub(crate) hash: [u8; 32],
}

/// A segment that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedSegment {
    pub(crate) file_number: u64,
    pub(crate) nonce: u64,
    pub(crate) stream: Uuid,
    pub(crate) number: u64,
    pub(crate) init_hash: u64,
    pub(crate) first: WallTime,
    pub(crate) end: WallTime,
    pub(crate) index_offset: u64,
    pub(crate) index_length: u64,
    pub(crate) counts: SegmentCounts,
    /// `namespace/name`.
    pub(crate) stream_name: String,
    /// Below the volume's folder.
    pub(crate) path: String,
    pub(crate) runs: Vec<RunPart>,
}

/// What of a run is in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunPart {
    pub(crate) run: Uuid,
    pub(crate) epoch: u64,
    pub(crate) rank: u32,
    pub(crate) gap: GapReason,
    pub(crate) recorder: Uuid,
    pub(crate) previous_run: Uuid,
    pub(crate) first: WallTime,
    pub(crate) end: WallTime,
    pub(crate) video_frames: u32,
    pub(crate) continued: bool,
    /// 0 unknown or none.
    pub(crate) previous_end: WallTime,
}

impl SealedSegment {
    pub(crate) fn info(&self, volume: Uuid) -> SegmentInfo {
        SegmentInfo {
            volume,
            path: PathBuf::from(&self.path),
            file_number: self.file_number,
            nonce: self.nonce,
            stream: self.stream,
            number: self.number,
            init_hash: self.init_hash,
            first: self.first,
            end: self.end,
            sealed: true,
            used_bytes: self.index_offset,
            counts: self.counts,
        }
    }
}

/// Which file a segment is in, and when it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentPlace {
    pub(crate) file_number: u64,
    pub(crate) nonce: u64,
    pub(crate) number: u64,
    pub(crate) first: WallTime,
    pub(crate) end: WallTime,
}

impl Record {
    /// The record as it stands in the file: length, CRC, payload, padding.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let payload = self.payload();
        let mut w = BoxWriter::with_capacity(payload.len() + 16);
        w.u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        w.u32(crc32c(&payload));
        w.bytes(&payload);
        w.zeros(payload.len().next_multiple_of(8) - payload.len());
        w.into_vec()
    }

    /// The payload alone.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut w = BoxWriter::with_capacity(512);
        let kind = match self {
            Self::Sealed(_) => SEALED,
            Self::Retired { .. } => RETIRED,
            Self::Hold(_) => HOLD,
            Self::HoldReleased { .. } => HOLD_RELEASED,
            Self::Damaged(_) => DAMAGED,
            Self::Checked(_) => CHECKED,
        };
        w.u8(kind);
        w.u8(VERSION);
        w.zeros(2);
        w.u32(if let Self::Sealed(segment) = self { segment.counts.fragments } else { 0 });
        match self {
            Self::Sealed(segment) => segment.write(&mut w),
            Self::Retired { file_number, nonce } => {
                w.u64(*file_number);
                w.u64(*nonce);
            }
            Self::Hold(hold) => {
                w.bytes(hold.hold.as_bytes());
                w.bytes(hold.stream.as_bytes());
                w.i64(hold.from.0);
                w.i64(hold.to.0);
            }
            Self::HoldReleased { hold } => w.bytes(hold.as_bytes()),
            Self::Damaged(damage) => damage.write(&mut w),
            Self::Checked(checked) => {
                w.u64(checked.file_number);
                w.u64(checked.nonce);
                w.i64(checked.at.0);
                w.bytes(&checked.hash);
            }
        }
        w.into_vec()
    }

    /// A payload whose CRC was checked. `Ok(None)`: of a kind or version that is not known, to be skipped.
    pub(crate) fn decode(payload: &[u8]) -> Result<Option<Self>, Ended> {
        let mut r = Reader::new(payload);
        let kind = r.u8()?;
        let version = r.u8()?;
        r.take(2)?;
        let fragments = r.u32()?;
        if version != VERSION {
            return Ok(None);
        }
        Ok(match kind {
            SEALED => Some(Self::Sealed(SealedSegment::read(fragments, &mut r)?)),
            RETIRED => Some(Self::Retired { file_number: r.u64()?, nonce: r.u64()? }),
            HOLD => Some(Self::Hold(Hold {
                hold: Uuid::from_bytes(r.array()?),
                stream: Uuid::from_bytes(r.array()?),
                from: WallTime(r.i64()?),
                to: WallTime(r.i64()?),
            })),
            HOLD_RELEASED => Some(Self::HoldReleased { hold: Uuid::from_bytes(r.array()?) }),
            DAMAGED => Some(Self::Damaged(Damage::read(&mut r)?)),
            CHECKED => Some(Self::Checked(Checked {
                file_number: r.u64()?,
                nonce: r.u64()?,
                at: WallTime(r.i64()?),
                hash: r.array()?,
            })),
            _ => None,
        })
    }
}

impl Damage {
    fn write(&self, w: &mut BoxWriter) {
        w.u64(self.file_number);
        w.u64(self.nonce);
        w.bytes(self.stream.as_bytes());
        w.bytes(self.hole.run.as_bytes());
        w.u64(self.hole.bytes.start);
        w.u64(self.hole.bytes.end);
        w.i64(self.hole.from.0);
        w.i64(self.hole.to.0);
        w.u32(self.hole.video_frames);
        w.zeros(4);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Ended> {
        let (file_number, nonce) = (r.u64()?, r.u64()?);
        let (stream, run) = (Uuid::from_bytes(r.array()?), Uuid::from_bytes(r.array()?));
        let bytes = r.u64()?..r.u64()?;
        let (from, to) = (WallTime(r.i64()?), WallTime(r.i64()?));
        Ok(Self { file_number, nonce, stream, hole: Hole { run, from, to, bytes, video_frames: r.u32()? } })
    }
}

impl SealedSegment {
    /// The end of a segment, from its record's payload alone.
    pub(crate) fn end_in(payload: &[u8]) -> Result<WallTime, Ended> {
        /// Kind, version, fragments, file number, nonce, stream, number, init hash, first.
        const BEFORE_END: usize = 8 + 8 + 8 + 16 + 8 + 8 + 8;
        let mut r = Reader::new(payload);
        r.take(BEFORE_END)?;
        Ok(WallTime(r.i64()?))
    }

    /// Where a segment is, from its record's payload alone.
    pub(crate) fn place_in(payload: &[u8]) -> Result<SegmentPlace, Ended> {
        let mut r = Reader::new(payload);
        // Kind, version, fragments.
        r.take(8)?;
        let (file_number, nonce) = (r.u64()?, r.u64()?);
        r.take(16)?;
        let number = r.u64()?;
        r.take(8)?;
        Ok(SegmentPlace { file_number, nonce, number, first: WallTime(r.i64()?), end: WallTime(r.i64()?) })
    }

    fn write(&self, w: &mut BoxWriter) {
        w.u64(self.file_number);
        w.u64(self.nonce);
        w.bytes(self.stream.as_bytes());
        w.u64(self.number);
        w.u64(self.init_hash);
        w.i64(self.first.0);
        w.i64(self.end.0);
        w.u64(self.index_offset);
        w.u64(self.index_length);
        w.u32(self.counts.video_frames);
        w.u32(self.counts.audio_frames);
        w.u32(self.counts.random_access_points);
        w.u32(u32::try_from(self.runs.len()).unwrap_or(u32::MAX));
        w.u64(self.counts.video_bytes);
        w.u64(self.counts.audio_bytes);
        for text in [&self.stream_name, &self.path] {
            w.u16(u16::try_from(text.len()).unwrap_or(0));
            w.bytes(text.as_bytes());
        }
        for run in &self.runs {
            run.write(w);
        }
    }

    fn read(fragments: u32, r: &mut Reader<'_>) -> Result<Self, Ended> {
        let mut this = Self {
            file_number: r.u64()?,
            nonce: r.u64()?,
            stream: Uuid::from_bytes(r.array()?),
            number: r.u64()?,
            init_hash: r.u64()?,
            first: WallTime(r.i64()?),
            end: WallTime(r.i64()?),
            index_offset: r.u64()?,
            index_length: r.u64()?,
            counts: SegmentCounts {
                video_frames: r.u32()?,
                audio_frames: r.u32()?,
                random_access_points: r.u32()?,
                fragments,
                runs: r.u32()?,
                video_bytes: r.u64()?,
                audio_bytes: r.u64()?,
            },
            stream_name: read_text(r)?,
            path: read_text(r)?,
            runs: Vec::new(),
        };
        for _ in 0..this.counts.runs {
            this.runs.push(RunPart::read(r)?);
        }
        Ok(this)
    }
}

fn read_text(r: &mut Reader<'_>) -> Result<String, Ended> {
    let length = usize::from(r.u16()?);
    Ok(String::from_utf8_lossy(r.take(length)?).into_owned())
}

impl RunPart {
    /// Bytes of a run in the manifest.
    pub(crate) const BYTES: usize = 96;

    pub(crate) fn write(&self, w: &mut BoxWriter) {
        w.bytes(self.run.as_bytes());
        w.u64(self.epoch);
        w.u32(self.rank);
        w.u32(self.gap.code());
        w.bytes(self.recorder.as_bytes());
        w.bytes(self.previous_run.as_bytes());
        w.i64(self.first.0);
        w.i64(self.end.0);
        w.u32(self.video_frames);
        w.u32(if self.continued { CONTINUED } else { 0 });
        w.i64(self.previous_end.0);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Ended> {
        Ok(Self {
            run: Uuid::from_bytes(r.array()?),
            epoch: r.u64()?,
            rank: r.u32()?,
            gap: GapReason::from_code(r.u32()?),
            recorder: Uuid::from_bytes(r.array()?),
            previous_run: Uuid::from_bytes(r.array()?),
            first: WallTime(r.i64()?),
            end: WallTime(r.i64()?),
            video_frames: r.u32()?,
            continued: r.u32()? & CONTINUED != 0,
            previous_end: WallTime(r.i64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> SealedSegment {
        let run = RunPart {
            run: Uuid::from_u128(1),
            epoch: 2,
            rank: 3,
            gap: GapReason::Silence,
            recorder: Uuid::from_u128(4),
            previous_run: Uuid::from_u128(5),
            first: WallTime(6),
            end: WallTime(7),
            video_frames: 8,
            continued: true,
            previous_end: WallTime(9),
        };
        SealedSegment {
            file_number: 1,
            nonce: 2,
            stream: Uuid::from_u128(3),
            number: 4,
            init_hash: 5,
            first: WallTime(-6),
            end: WallTime(7),
            index_offset: 8,
            index_length: 9,
            counts: SegmentCounts { video_frames: 1, runs: 2, ..SegmentCounts::default() },
            stream_name: "default/door".into(),
            path: "streams/default/door/x.mp4".into(),
            runs: vec![run.clone(), run],
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let hold = Hold { hold: Uuid::from_u128(1), stream: Uuid::from_u128(2), from: WallTime(3), to: WallTime(4) };
        for record in [
            Record::Sealed(sealed()),
            Record::Retired { file_number: 1, nonce: 2 },
            Record::Hold(hold),
            Record::HoldReleased { hold: Uuid::from_u128(1) },
        ] {
            let payload = record.payload();
            assert_eq!(Record::decode(&payload), Ok(Some(record.clone())));
            assert_eq!(record.encode().len() % 8, 0);
            for cut in 0..payload.len() {
                assert!(Record::decode(&payload[..cut]).is_err(), "a record cut at {cut} must not be accepted");
            }
        }
    }

    #[test]
    fn the_end_is_found_without_reading_the_rest() {
        let sealed = sealed();
        let payload = Record::Sealed(sealed.clone()).payload();
        assert_eq!(SealedSegment::end_in(&payload), Ok(sealed.end));
        let SealedSegment { file_number, nonce, number, first, end, .. } = sealed;
        assert_eq!(SealedSegment::place_in(&payload), Ok(SegmentPlace { file_number, nonce, number, first, end }));
    }

    #[test]
    fn a_run_has_the_length_that_the_format_says() {
        let mut w = BoxWriter::new();
        sealed().runs[0].write(&mut w);
        assert_eq!(w.len(), RunPart::BYTES);
    }

    #[test]
    fn a_hold_touches_what_overlaps_it() {
        let hold = Hold { hold: Uuid::nil(), stream: Uuid::nil(), from: WallTime(10), to: WallTime(20) };
        assert!(hold.touches(Uuid::nil(), WallTime(0), WallTime(11)));
        assert!(!hold.touches(Uuid::nil(), WallTime(0), WallTime(10)));
        assert!(!hold.touches(Uuid::nil(), WallTime(20), WallTime(30)));
        assert!(!hold.touches(Uuid::from_u128(1), WallTime(0), WallTime(100)));
    }
}
