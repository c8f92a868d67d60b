//! The virtual file of a clip: which bytes stand where. Every length follows from the plan's counts, so that the file's size is
//! known before a single index of the segments between is read.
//!
//! ```text
//! ftyp moov(mvhd trak(… stbl(stsd «stts» «ctts» «stss» «stsz» stsc «co64»)) trak(…)) mdat(«samples»)
//! ```
//! What stands in «» is made while it is sent. Each sample is a chunk of its own, so that `stsc` does not depend on how the segments
//! are divided into fragments.

use super::PlanError;
use super::boxes::{self, Node};
use super::plan::Plan;

/// A table whose rows are made while they are sent (ISO/IEC 14496-12 §8.6.1.2, §8.6.1.3, §8.6.2, §8.7.3, §8.7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `stts` of the video: how long each frame's decode time lasts.
    VideoTimes,
    /// `ctts`: presentation − decode time.
    VideoOffsets,
    /// `stss`: random access points.
    VideoSync,
    /// `stsz` of the video.
    VideoSizes,
    /// `co64` of the video.
    VideoChunks,
    /// `stts` of the audio.
    AudioTimes,
    /// `stsz` of the audio.
    AudioSizes,
    /// `co64` of the audio.
    AudioChunks,
}

impl Table {
    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(self) -> u64 {
        match self {
            Self::VideoTimes | Self::VideoOffsets | Self::VideoChunks | Self::AudioTimes | Self::AudioChunks => 8,
            Self::VideoSync | Self::VideoSizes | Self::AudioSizes => 4,
        }
    }

    /// Rows in the whole clip.
    #[must_use]
    pub fn rows(self, plan: &Plan) -> u64 {
        let total = plan.total();
        match self {
            Self::VideoTimes | Self::VideoOffsets | Self::VideoSizes | Self::VideoChunks => total.video,
            Self::VideoSync => total.random_access_points,
            Self::AudioTimes | Self::AudioSizes | Self::AudioChunks => total.audio,
        }
    }
}

/// What a slice of the virtual file consists of.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Rows of a table.
    Table(Table),
    /// The samples.
    Samples,
}

/// A slice of the virtual file.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Where it begins in the file.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What it consists of.
    pub content: Content,
}

/// The virtual file.
#[derive(Clone, Debug)]
pub struct Layout {
    slices: Vec<Slice>,
    /// Where the samples begin.
    pub samples_start: u64,
    /// Length of the whole file in bytes.
    pub len: u64,
}

/// Box lengths in `moov` are 32 bits wide; this leaves room.
const MAX_MOOV_BYTES: u64 = 4_000_000_000;

impl Layout {
    /// Lays the clip out.
    ///
    /// # Errors
    /// When the tables would not fit a 32-bit box.
    pub fn new(plan: &Plan) -> Result<Self, PlanError> {
        let tables: u64 = [
            Table::VideoTimes,
            Table::VideoOffsets,
            Table::VideoSync,
            Table::VideoSizes,
            Table::VideoChunks,
            Table::AudioTimes,
            Table::AudioSizes,
            Table::AudioChunks,
        ]
        .iter()
        .map(|table| table.rows(plan) * table.row_bytes())
        .sum();
        if tables > MAX_MOOV_BYTES {
            return Err(PlanError::TooLong);
        }
        let mut nodes = vec![Node::Bytes(boxes::file_type())];
        nodes.extend(boxes::movie(plan));
        nodes.push(Node::Bytes(boxes::media_data_header(plan.total().bytes)));

        let mut slices: Vec<Slice> = Vec::new();
        let mut start = 0;
        for node in nodes {
            let (len, content) = match node {
                Node::Bytes(bytes) => {
                    if let Some(Slice { len, content: Content::Bytes(before), .. }) = slices.last_mut() {
                        start += bytes.len() as u64;
                        *len += bytes.len() as u64;
                        before.extend(bytes);
                        continue;
                    }
                    (bytes.len() as u64, Content::Bytes(bytes))
                }
                Node::Table(table) => (table.rows(plan) * table.row_bytes(), Content::Table(table)),
            };
            if len > 0 {
                slices.push(Slice { start, len, content });
            }
            start += len;
        }
        let samples_start = start;
        let samples = plan.total().bytes;
        slices.push(Slice { start, len: samples, content: Content::Samples });
        Ok(Self { slices, samples_start, len: samples_start + samples })
    }

    /// The slice that holds a byte of the file.
    #[must_use]
    pub fn slice_at(&self, position: u64) -> Option<&Slice> {
        let after = self.slices.partition_point(|slice| slice.start <= position);
        self.slices.get(after.checked_sub(1)?).filter(|slice| position < slice.start + slice.len)
    }
}
