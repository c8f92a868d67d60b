//! Manifests of segments whose files are empty, for measuring the catalogue with more of them than a test could record.

use std::io::{self, Write};
use std::path::Path;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use uuid::Uuid;

use crate::manifest::{MAGIC, Record, RunPart, SealedSegment};
use crate::types::SegmentCounts;

/// When all streams begin.
pub const FIRST_WALL: WallTime = WallTime(1_700_000_000_000_000);
/// File numbers that no real file of the volume has.
const FIRST_FILE: u64 = 1 << 40;

/// UID of the stream of that number.
#[must_use]
pub fn stream(number: u64) -> Uuid {
    Uuid::from_u64_pair(0xc0ff_ee00_0000_0000 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)
}

/// What the manifest tells of.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// Segments over all streams.
    pub segments: u64,
    /// Streams.
    pub streams: u64,
    /// Seconds of footage in each segment.
    pub segment_seconds: i64,
    /// Segments that each run goes through.
    pub segments_a_run: u64,
}

impl Manifest {
    /// Writes it, in the order in which segments of streams recorded at the same time are sealed. Returns its length in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<u64> {
        let mut out = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
        out.write_all(MAGIC)?;
        out.write_all(&1_u64.to_be_bytes())?;
        let mut bytes = 16;
        for at in 0..self.segments {
            let record = Record::Sealed(self.segment(at)).encode();
            bytes += record.len() as u64;
            out.write_all(&record)?;
        }
        out.flush()?;
        Ok(bytes)
    }

    /// Makes an empty file for each segment: one that has none is struck off.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn touch(&self, volume: &Path) -> io::Result<()> {
        for at in 0..self.segments {
            let path = volume.join(self.segment(at).path);
            if at < self.streams
                && let Some(folder) = path.parent()
            {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::File::create(path)?;
        }
        Ok(())
    }

    fn segment(&self, at: u64) -> SealedSegment {
        let (number, name) = (at / self.streams.max(1), at % self.streams.max(1));
        let stream = stream(name);
        let length_us = self.segment_seconds.saturating_mul(1_000_000);
        let first = FIRST_WALL.saturating_add_us(i64::try_from(number).unwrap_or(i64::MAX).saturating_mul(length_us));
        let end = first.saturating_add_us(length_us);
        let of_run = number / self.segments_a_run.max(1);
        let frames = u32::try_from(self.segment_seconds * 25).unwrap_or(u32::MAX);
        let run = RunPart {
            run: Uuid::from_u64_pair(stream.as_u64_pair().0, of_run),
            epoch: of_run,
            rank: 0,
            gap: GapReason::SessionEnded,
            recorder: Uuid::from_u128(1),
            previous_run: Uuid::nil(),
            first,
            end,
            video_frames: frames,
            continued: !number.is_multiple_of(self.segments_a_run.max(1)),
            previous_end: first,
        };
        SealedSegment {
            file_number: FIRST_FILE + at,
            nonce: at + 1,
            stream,
            number,
            init_hash: 1,
            first,
            end,
            index_offset: 60_000_000,
            index_length: 150_000,
            counts: SegmentCounts { video_frames: frames, fragments: frames / 12, runs: 1, ..SegmentCounts::default() },
            stream_name: format!("bench/camera-{name:05}"),
            path: format!("streams/bench/camera-{name:05}/2026-11-21/{number:08}.mp4"),
            runs: vec![run],
        }
    }
}
