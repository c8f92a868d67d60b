//! The bytes of a clip's virtual file: any range of it, made from the plan and from the segments that the range touches.

use std::ops::Range;
use std::sync::Arc;

use super::layout::{Content, Layout, Table};
use super::plan::{Plan, Sums};
use super::select::inconsistent;
use super::view::View;
use crate::serve::footage::{Footage, FootageError};

/// Reads a clip. Keeps what it knows of the last two pieces, and nothing else.
pub struct ClipFile {
    footage: Arc<dyn Footage>,
    plan: Arc<Plan>,
    layout: Arc<Layout>,
    recent: [Option<(usize, Arc<View>)>; 2],
}

impl ClipFile {
    /// A reader of a planned clip.
    #[must_use]
    pub fn new(footage: Arc<dyn Footage>, plan: Arc<Plan>, layout: Arc<Layout>) -> Self {
        Self { footage, plan, layout, recent: [None, None] }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Appends bytes of the file from `position` on to `out`: at least one, at most `limit`, none at the end of the file. Blocks.
    ///
    /// # Errors
    /// When footage was retired or cannot be read; `out` may then hold a part, every byte of which is right.
    pub fn read(&mut self, position: u64, limit: usize, out: &mut Vec<u8>) -> Result<(), FootageError> {
        let layout = Arc::clone(&self.layout);
        let (mut position, mut room) = (position, limit as u64);
        while room > 0 {
            let Some(slice) = layout.slice_at(position) else { break };
            let from = position - slice.start;
            let range = from..slice.len.min(from + room);
            let len = range.end - range.start;
            match &slice.content {
                Content::Bytes(bytes) => {
                    out.extend_from_slice(bytes.get(range.start as usize..range.end as usize).unwrap_or_default());
                }
                Content::Table(table) => self.rows(*table, range, out)?,
                Content::Samples => self.samples(range, out)?,
            }
            position += len;
            room -= len;
        }
        Ok(())
    }

    fn view(&mut self, piece: usize) -> Result<Arc<View>, FootageError> {
        if let Some((_, view)) = self.recent.iter().flatten().find(|(known, _)| *known == piece) {
            return Ok(Arc::clone(view));
        }
        let planned = self.plan.pieces.get(piece).ok_or_else(|| inconsistent("a clip without that piece"))?;
        let view = Arc::new(View::new(self.footage.as_ref(), &self.plan, planned)?);
        self.recent.rotate_left(1);
        self.recent[1] = Some((piece, Arc::clone(&view)));
        Ok(view)
    }

    /// Appends a range of a table's bytes.
    fn rows(&mut self, table: Table, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), FootageError> {
        let width = table.row_bytes();
        let (mut row, end) = (range.start / width, range.end.div_ceil(width));
        // Where `out` would begin if the first row were wanted whole.
        let skip = (range.start - row * width) as usize;
        let begin = out.len();
        while row < end {
            let plan = Arc::clone(&self.plan);
            let of = counted(table);
            let (piece, before) = plan.locate(row, of).ok_or_else(|| inconsistent("a table ends too early"))?;
            let after = plan.sums.get(piece + 1).map_or(0, of);
            let until = end.min(after);
            self.rows_of_piece(table, piece, (row - before) as usize..(until - before) as usize, out)?;
            row = until;
        }
        out.drain(begin..begin + skip);
        out.truncate(begin + (range.end - range.start) as usize);
        Ok(())
    }

    /// Appends the rows of one piece; `range` counts in the piece.
    fn rows_of_piece(
        &mut self,
        table: Table,
        piece: usize,
        range: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), FootageError> {
        let view = self.view(piece)?;
        let sums = self.plan.sums.get(piece).copied().unwrap_or_default();
        let mut put64 = |a: u64| out.extend_from_slice(&a.to_be_bytes());
        let pair = |duration: i64| 1 << 32 | u64::from(u32::try_from(duration.max(0)).unwrap_or(u32::MAX));
        let chunk_base = self.layout.samples_start + sums.bytes;
        match table {
            Table::VideoTimes => {
                let entries = view.video();
                for (at, entry) in entries.iter().enumerate().take(range.end).skip(range.start) {
                    let next = match entries.get(at + 1) {
                        Some(next) => view.video_time(next),
                        None => self.video_time_behind(piece)?,
                    };
                    put64(pair(next - view.video_time(entry)));
                }
            }
            Table::AudioTimes => {
                let entries = view.audio();
                for (at, entry) in entries.iter().enumerate().take(range.end).skip(range.start) {
                    let next = match entries.get(at + 1) {
                        Some(next) => view.audio_time(next),
                        None => self.audio_time_behind(piece)?,
                    };
                    put64(pair(next - view.audio_time(entry)));
                }
            }
            Table::VideoOffsets => {
                for entry in view.video().get(range).unwrap_or_default() {
                    put64(1 << 32 | u64::from(entry.composition_offset as u32));
                }
            }
            Table::VideoChunks => {
                view.video_starts.get(range).unwrap_or_default().iter().for_each(|start| put64(chunk_base + start));
            }
            Table::AudioChunks => {
                view.audio_starts.get(range).unwrap_or_default().iter().for_each(|start| put64(chunk_base + start));
            }
            Table::VideoSync => {
                for point in view.random_access_points.get(range).unwrap_or_default() {
                    // Samples count from 1 (§8.6.2.3).
                    let sample = sums.video as u32 + point + 1;
                    out.extend_from_slice(&sample.to_be_bytes());
                }
            }
            Table::VideoSizes => {
                for entry in view.video().get(range).unwrap_or_default() {
                    out.extend_from_slice(&entry.len.to_be_bytes());
                }
            }
            Table::AudioSizes => {
                for entry in view.audio().get(range).unwrap_or_default() {
                    out.extend_from_slice(&entry.len.to_be_bytes());
                }
            }
        }
        Ok(())
    }

    /// Clip time of the first video frame behind a piece.
    fn video_time_behind(&mut self, piece: usize) -> Result<i64, FootageError> {
        let plan = Arc::clone(&self.plan);
        let Some(next) = next_with(&plan, piece, |piece| !piece.video.is_empty()) else { return Ok(plan.video_end) };
        let view = self.view(next)?;
        let first = view.video().first().ok_or_else(|| inconsistent("a piece without its frames"))?;
        Ok(view.video_time(first))
    }

    /// Clip time of the first audio frame behind a piece.
    fn audio_time_behind(&mut self, piece: usize) -> Result<i64, FootageError> {
        let plan = Arc::clone(&self.plan);
        let Some(next) = next_with(&plan, piece, |piece| !piece.audio.is_empty()) else {
            return Ok(plan.audio_span.as_ref().map_or(0, |span| span.end));
        };
        let view = self.view(next)?;
        let first = view.audio().first().ok_or_else(|| inconsistent("a piece without its audio"))?;
        Ok(view.audio_time(first))
    }

    /// Appends a range of the samples' bytes.
    fn samples(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), FootageError> {
        let plan = Arc::clone(&self.plan);
        let mut position = range.start;
        while position < range.end {
            let missing = || inconsistent("the samples end too early");
            let (piece, before) = plan.locate(position, |sums| sums.bytes).ok_or_else(missing)?;
            let view = self.view(piece)?;
            let within = position - before;
            let extent = view.extents.partition_point(|extent| extent.start <= within);
            let extent = extent.checked_sub(1).and_then(|at| view.extents.get(at)).ok_or_else(missing)?;
            let skip = within - extent.start;
            let len = extent.len.saturating_sub(skip).min(range.end - position);
            if len == 0 {
                return Err(missing());
            }
            let segment =
                plan.pieces.get(piece).and_then(|piece| plan.segments.get(piece.segment)).ok_or_else(missing)?;
            let begin = out.len();
            out.resize(begin + len as usize, 0);
            let buffer = out.get_mut(begin..).unwrap_or_default();
            if let Err(error) = self.footage.read_at(segment, extent.offset + skip, buffer) {
                out.truncate(begin);
                return Err(error);
            }
            position += len;
        }
        Ok(())
    }
}

fn next_with(plan: &Plan, piece: usize, has: impl Fn(&super::plan::Piece) -> bool) -> Option<usize> {
    let mut behind = plan.pieces.iter().enumerate().skip(piece + 1);
    behind.find(|(_, piece)| has(piece)).map(|(at, _)| at)
}

/// What a table counts.
fn counted(table: Table) -> fn(&Sums) -> u64 {
    match table {
        Table::VideoTimes | Table::VideoOffsets | Table::VideoSizes | Table::VideoChunks => |sums| sums.video,
        Table::VideoSync => |sums| sums.random_access_points,
        Table::AudioTimes | Table::AudioSizes | Table::AudioChunks => |sums| sums.audio,
    }
}
