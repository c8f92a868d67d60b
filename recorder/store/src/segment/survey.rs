//! Looking at every byte of a segment file that means something, and going on behind what is damaged.
//!
//! A walk after a crash ends at the first fragment that does not check: nothing was written behind it. Bits rot anywhere, so a survey
//! looks for the next box of this use and goes on there. What lies between is a damaged range.

use std::io;
use std::ops::Range;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::{SegmentIndex, mfra};
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_media::boxes::segment::{SEALED_PART_OFFSET, Sealed};

use super::fetch::run_box;
use super::index::{IndexBuilder, StoredFragment};
use super::sealed::read_index;
use super::walk::{Head, Step, next_box};
use crate::env::{File, read_exact};
use crate::volume::unit::free_header;

/// Boxes begin at multiples of this.
const ALIGNMENT: usize = 8;
/// Looked through at a time, in search of the next box.
const SEARCH_BYTES: usize = 1 << 20;
/// What cannot be read is skipped in steps of this, the least that disks read.
const SECTOR_BYTES: u64 = 4096;

/// A range of a file that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedBytes {
    pub(crate) range: Range<u64>,
    pub(crate) what: String,
    /// No frames are in it: index, `mfra`, padding. They can be made again.
    pub(crate) spare: bool,
}

/// What is in a segment file.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Every fragment that checks, with its run.
    pub(crate) found: IndexBuilder,
    /// The index box of a sealed file, where it checks.
    pub(crate) index: Option<SegmentIndex>,
    /// In order.
    pub(crate) damage: Vec<DamagedBytes>,
    /// Behind the last fragment that checks.
    pub(crate) end: u64,
    /// Run boxes with one wrong bit, as they were.
    pub(crate) mended_runs: Vec<RunBox>,
}

impl Survey {
    /// Ranges in which frames were lost.
    pub(crate) fn lost(&self) -> Vec<Range<u64>> {
        self.damage.iter().filter(|damage| !damage.spare).map(|damage| damage.range.clone()).collect()
    }

    /// Everything that was in the file, as far as it is known: the index where it checks, else what was found.
    pub(crate) fn all(&self) -> &SegmentIndex {
        self.index.as_ref().unwrap_or_else(|| self.found.index())
    }
}

struct Surveyor<'a> {
    file: &'a dyn File,
    head: &'a Head,
    size: u64,
    /// Where fragments end at the latest.
    stop: u64,
    survey: Survey,
    /// Fragments follow whose run box is damaged.
    run_lost: bool,
}

/// Looks at a whole file. `progress` is told how many bytes were looked at since it was told last.
pub(crate) fn survey(file: &dyn File, head: &Head, progress: &mut dyn FnMut(u64)) -> io::Result<Survey> {
    let size = file.size()?;
    let sealed = head.segment.sealed.filter(|sealed| sealed.index_offset >= head.end && sealed.index_offset < size);
    let empty = Survey {
        found: IndexBuilder::default(),
        index: None,
        damage: Vec::new(),
        end: head.end,
        mended_runs: Vec::new(),
    };
    let stop = sealed.map_or(size, |sealed| sealed.index_offset);
    let mut this = Surveyor { file, head, size, stop, survey: empty, run_lost: false };
    if size != head.segment.file_size {
        let what = format!("the file has {size} bytes, its segment box says {}", head.segment.file_size);
        let range = size.min(head.segment.file_size)..size.max(head.segment.file_size);
        this.survey.damage.push(DamagedBytes { range, what, spare: sealed.is_some_and(|s| s.index_offset < size) });
    }
    if let Some(sealed) = sealed {
        // A file of which the disk gives nothing has a survey too.
        this.survey.index =
            read_index(file, head.segment.nonce, sealed.index_offset, sealed.index_length).unwrap_or(None);
    }
    this.fragments(progress)?;
    if let Some(sealed) = sealed {
        this.sealed_part(sealed)?;
    } else if head.segment.sealed.is_some() {
        this.note(0..head.end, "the segment box says that the index is where no index can be", true);
    }
    this.survey.damage.sort_by_key(|damage| damage.range.start);
    this.survey.damage.dedup_by(|next, before| {
        let joins = next.range.start == before.range.end && next.what == before.what && next.spare == before.spare;
        if joins {
            before.range.end = next.range.end;
        }
        joins
    });
    progress(size.saturating_sub(this.survey.end));
    Ok(this.survey)
}

impl Surveyor<'_> {
    fn note(&mut self, range: Range<u64>, what: impl Into<String>, spare: bool) {
        self.survey.damage.push(DamagedBytes { range, what: what.into(), spare });
    }

    fn step(&self, at: u64) -> Result<Step, String> {
        match next_box(self.file, self.head, at, self.stop) {
            Ok(step) => step,
            Err(error) => Err(format!("it cannot be read: {error}")),
        }
    }

    fn fragments(&mut self, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        let mut at = self.head.end;
        while at < self.stop {
            let next = match self.step(at) {
                Ok(Step::Run(run)) => {
                    self.run_lost = false;
                    self.survey.found.add_run(*run);
                    at + RUN_BOX_LENGTH as u64
                }
                Ok(Step::Fragment(fragment)) => {
                    let end = at + fragment.length;
                    progress(end - at);
                    if self.run_lost || self.survey.found.run_boxes() == 0 {
                        self.note(at..end, "the box of the run that this fragment belongs to is damaged", false);
                        at = end;
                        continue;
                    }
                    let stored = StoredFragment {
                        moof_offset: at,
                        audio_wall: fragment.audio_wall.unwrap_or(WallTime(0)),
                        video: fragment.video,
                        audio: fragment.audio,
                    };
                    self.survey.found.add_fragment(&stored, self.head.segment.audio_timescale);
                    self.survey.end = end;
                    at = end;
                    continue;
                }
                Err(_) if self.ends_at(at) || self.is_sealed_at(at) => break,
                Err(_) if self.mended_run(at).is_some() => {
                    let end = at + RUN_BOX_LENGTH as u64;
                    self.note(at..end, "the box of a run has one wrong bit, and is read without it", true);
                    self.run_lost = false;
                    if let Some(run) = self.mended_run(at) {
                        self.survey.found.add_run(run);
                        self.survey.mended_runs.push(run);
                    }
                    end
                }
                Err(what) => {
                    let (end, more) = self.next_whole(at + ALIGNMENT as u64)?;
                    self.run_lost |= self.held_a_run(&(at..end));
                    self.note(at..end, what, false);
                    if !more {
                        break;
                    }
                    end
                }
            };
            progress(next - at);
            at = next;
        }
        Ok(())
    }

    fn mended_run(&self, at: u64) -> Option<RunBox> {
        let fits = at + RUN_BOX_LENGTH as u64 <= self.stop;
        fits.then(|| run_box(self.file, self.head.segment.nonce, at))?.map(|(run, _)| run)
    }

    /// Whether a damaged range held a run box: the index knows, or its length tells.
    fn held_a_run(&self, range: &Range<u64>) -> bool {
        match &self.survey.index {
            Some(index) => index.runs.iter().any(|run| range.contains(&run.offset)),
            None => range.end - range.start == RUN_BOX_LENGTH as u64 || self.survey.found.run_boxes() == 0,
        }
    }

    /// Whether `at` is where an unsealed file, or one with a damaged seal, ends in order.
    fn ends_at(&self, at: u64) -> bool {
        let mut there = [0; ALIGNMENT];
        if read_exact(self.file, &mut there, at).is_err() {
            return false;
        }
        self.head.segment.sealed.is_none() && there == free_header(self.size - at)
    }

    /// The index of a file whose segment box does not say that it is sealed, if one stands at `at`.
    fn index_at(&self, at: u64) -> Option<SegmentIndex> {
        let mut length = [0; 4];
        if self.head.segment.sealed.is_some() || read_exact(self.file, &mut length, at).is_err() {
            return None;
        }
        read_index(self.file, self.head.segment.nonce, at, u32::from_be_bytes(length).into()).unwrap_or(None)
    }

    fn is_sealed_at(&mut self, at: u64) -> bool {
        let Some(index) = self.index_at(at) else { return false };
        self.survey.index = Some(index);
        let part = self.head.segment.offset + SEALED_PART_OFFSET as u64..self.head.end;
        self.note(part, "the segment box does not say that the file is sealed, and there is an index", true);
        true
    }

    /// Where the next box of this use that checks begins, from `from` on, or where the fragments end; and whether there is one.
    fn next_whole(&self, from: u64) -> io::Result<(u64, bool)> {
        let mut buffer = Vec::new();
        let mut at = from.next_multiple_of(ALIGNMENT as u64);
        while at < self.stop {
            let n = usize::try_from(self.stop - at).unwrap_or(SEARCH_BYTES).min(SEARCH_BYTES);
            buffer.resize(n, 0);
            if read_exact(self.file, &mut buffer, at).is_err() {
                // Once more, without what the disk does not give.
                buffer.truncate(usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(n).min(n));
                if read_exact(self.file, &mut buffer, at).is_err() {
                    buffer.fill(0);
                }
            }
            for (number, word) in buffer.chunks_exact(ALIGNMENT).enumerate() {
                let offset = at + (number * ALIGNMENT) as u64;
                match word.get(4..) {
                    Some(b"moof" | b"uuid") if self.step(offset).is_ok() => return Ok((offset, true)),
                    Some(b"free") if self.ends_at(offset) => return Ok((offset, false)),
                    Some(b"uuid") if self.index_at(offset).is_some() => return Ok((offset, true)),
                    _ => {}
                }
            }
            at += buffer.len() as u64;
            // A file is a multiple of 4096 long; one that was cut is not.
            if buffer.len() < ALIGNMENT {
                break;
            }
        }
        Ok((self.stop, false))
    }

    /// The index against the fragments, `mfra`, and what is behind it.
    fn sealed_part(&mut self, sealed: Sealed) -> io::Result<()> {
        let index_end = sealed.index_offset.saturating_add(sealed.index_length);
        let Some(index) = &self.survey.index else {
            self.note(sealed.index_offset..index_end.min(self.size), "the index box does not check", true);
            return Ok(());
        };
        if self.survey.damage.iter().any(|damage| !damage.spare) {
            // Frames are missing from what was found: the two cannot be the same.
            return Ok(());
        }
        let (found, points) = self.survey.found.seal(self.head.segment.nonce, sealed.index_offset);
        let mfra = mfra(points);
        if found != *index {
            let what = difference(&found, index);
            self.note(sealed.index_offset..index_end, what, true);
        }
        let mut there = vec![0; mfra.len()];
        let same = read_exact(self.file, &mut there, index_end).is_ok() && there == mfra;
        let behind = index_end + mfra.len() as u64;
        if !same {
            self.note(index_end..behind.min(self.size), "mfra is not what the fragments say", true);
        } else if behind < self.size {
            let mut there = [0; ALIGNMENT];
            let free = read_exact(self.file, &mut there, behind).is_ok() && there == free_header(self.size - behind);
            if !free {
                self.note(behind..self.size, "no free box up to the end of the file", true);
            }
        }
        Ok(())
    }
}

/// In what an index differs from the fragments.
fn difference(found: &SegmentIndex, index: &SegmentIndex) -> String {
    if found.entries.len() != index.entries.len() {
        let (has, there) = (index.entries.len(), found.entries.len());
        return format!("the index has {has} entries, the fragments make {there}");
    }
    if let Some(at) = found.entries.iter().zip(&index.entries).position(|(found, index)| found != index) {
        return format!("entry {at} of the index is not what its fragment says");
    }
    if found.runs != index.runs {
        return "the runs of the index are not those of the file".to_owned();
    }
    "the sums of the index are not those of its entries".to_owned()
}
