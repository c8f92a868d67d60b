//! Looking at every segment of a place: its head and index, or every byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::SegmentIndex;
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_media::init::InitSegment;
use uuid::Uuid;

use super::books;
use super::finding::{Finding, Kind, Severity};
use super::place::{Place, PlaceError, is_segment_name};
use crate::env::{File, read_exact};
use crate::manifest::RunPart;
use crate::segment::hole::{Hole, holes, runs_of};
use crate::segment::index::run_parts;
use crate::segment::sealed::read_index;
use crate::segment::survey::{DamagedBytes, Survey, survey};
use crate::segment::walk::{self, Head, HeadError};
use crate::types::{SegmentCounts, SegmentInfo, StreamIdent};

/// Where the use nonce stands in the segment box.
const NONCE_OFFSET: u64 = 32;

/// How closely segments are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Head and index; fragments only where there is no index. For finding things.
    Heads,
    /// Every byte that means something.
    Everything,
}

/// Which segments are looked at.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only this stream, `namespace/name`.
    pub stream: Option<String>,
    /// Only segments with footage at or behind this time…
    pub from: WallTime,
    /// …and before this one.
    pub to: WallTime,
}

impl Default for Filter {
    fn default() -> Self {
        Self { stream: None, from: WallTime(i64::MIN), to: WallTime(i64::MAX) }
    }
}

/// Told how many bytes of how many were looked at, and which file is.
pub type Progress<'a> = dyn FnMut(u64, u64, &Path) + 'a;

/// A segment, and what of it can be read.
pub struct SeenSegment {
    /// As the catalogue would know it; counts are those of the frames that were there.
    pub info: SegmentInfo,
    /// Whose it is.
    pub stream: StreamIdent,
    /// Every frame that is known of.
    pub index: Arc<SegmentIndex>,
    /// The run boxes of the index, in its order.
    pub run_boxes: Vec<RunBox>,
    /// What describes the codecs.
    pub init: InitSegment,
    /// Whether frames may be decoded in another order than they are shown.
    pub reorders: bool,
    /// Damaged ranges in which frames are.
    pub damage: Vec<std::ops::Range<u64>>,
    /// What cannot be served for it.
    pub holes: Vec<Hole>,
    /// When a recorder read all of it and found it whole, and the BLAKE3 that its file had then; with [`Depth::Heads`] on a volume.
    pub found_whole: Option<(WallTime, [u8; 32])>,
    pub(super) file: Arc<dyn File>,
    pub(super) head: Head,
    pub(super) parts: Vec<RunPart>,
    pub(super) survey: Option<Survey>,
}

/// What is in a place.
#[derive(Default)]
pub struct Seen {
    /// Segments, by path.
    pub segments: Vec<SeenSegment>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Files that were looked at.
    pub files: u64,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Files whose head cannot be read, with their segment box where that can.
    pub(super) headless: Vec<PathBuf>,
}

impl SeenSegment {
    /// Whether it goes on with a GOP that began in the segment before.
    #[must_use]
    pub fn begins_inside_gop(&self) -> bool {
        self.head.segment.begins_inside_gop
    }

    /// BLAKE3 of the whole file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash(&self) -> io::Result<[u8; 32]> {
        const READ_BYTES: usize = 1 << 20;
        let size = self.file.size()?;
        let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; READ_BYTES], 0);
        while at < size {
            let n = usize::try_from(size - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let piece = buffer.get_mut(..n).unwrap_or_default();
            read_exact(self.file.as_ref(), piece, at)?;
            hasher.update(piece);
            at += n as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Fills `into` with the bytes of the file at `offset`.
    ///
    /// # Errors
    /// When the file cannot be read, ends before, or is in another use by now.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact(self.file.as_ref(), into, offset)?;
        let mut nonce = [0; 8];
        read_exact(self.file.as_ref(), &mut nonce, self.head.segment.offset + NONCE_OFFSET)?;
        if u64::from_be_bytes(nonce) == self.info.nonce {
            return Ok(());
        }
        into.fill(0);
        Err(io::Error::new(io::ErrorKind::NotFound, "the file was reused for other footage meanwhile"))
    }
}

impl Place {
    /// Looks at everything that `filter` lets through. The books of a volume (manifest, catalogue, pool) are looked at with
    /// [`Depth::Everything`] and without a filter.
    ///
    /// # Errors
    /// When the place itself cannot be read; what is wrong with single files is found, and no error.
    pub fn look(&self, depth: Depth, filter: &Filter, progress: &mut Progress<'_>) -> Result<Seen, PlaceError> {
        let failed = |source| PlaceError::Io { path: self.path().to_owned(), source };
        let paths = self.files().map_err(failed)?;
        let mut seen = Seen::default();
        let (mut done, total) = (0, self.weigh(&paths));
        for path in &paths {
            progress(done, total, path);
            let before = done;
            let size = match self.folder.open(path, false) {
                // Retired since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    let what = format!("cannot be opened: {e}");
                    seen.findings.push(Finding::new(Severity::Loss, Kind::Head, path, what));
                    continue;
                }
                Ok(file) => {
                    let size = file.size().unwrap_or(0);
                    let mut tell = |bytes| {
                        done += bytes;
                        progress(done, total, path);
                    };
                    self.look_at(&mut seen, path, &file, depth, filter, &mut tell);
                    size
                }
            };
            done = before + size;
            seen.files += 1;
            seen.bytes += size;
        }
        if self.is_volume && depth == Depth::Heads {
            self.add_known_damage(&mut seen).map_err(failed)?;
        } else if self.is_volume && filter.stream.is_none() {
            books::look(self, &mut seen).map_err(failed)?;
        }
        Ok(seen)
    }

    /// Looks at every byte of one segment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn survey(&self, segment: &SeenSegment) -> Result<(SeenSegment, Vec<Finding>), PlaceError> {
        let failed = |source| PlaceError::Io { path: segment.info.path.clone(), source };
        let looked = self.look_again(&segment.info.path).map_err(failed)?;
        looked.ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, "it is no segment any more")))
    }

    /// Looks at every byte of one file again. `None` when it is no segment.
    pub(super) fn look_again(&self, path: &Path) -> io::Result<Option<(SeenSegment, Vec<Finding>)>> {
        let file = self.folder.open(path, false)?;
        match walk::head(file.as_ref()) {
            Ok(head) => segment(path, &file, head, Depth::Everything, &mut |_| {}).map(Some),
            Err(HeadError::NotOurs(_)) => Ok(None),
            Err(HeadError::Io(e)) => Err(e),
        }
    }

    fn weigh(&self, paths: &[PathBuf]) -> u64 {
        let size = |path: &PathBuf| self.folder.open(path, false).and_then(|file| file.size()).unwrap_or(0);
        // Files of a volume are of one size: not all of them are opened for it.
        match &self.identity {
            Some(Ok(identity)) => identity.segment_bytes * paths.len() as u64,
            _ => paths.iter().map(size).sum(),
        }
    }

    /// What the manifest says of damage, where that was not looked for.
    fn add_known_damage(&self, seen: &mut Seen) -> io::Result<()> {
        let books = books::read(self, &mut Vec::new())?;
        for segment in seen.segments.iter_mut().filter(|segment| segment.survey.is_none()) {
            let info = &segment.info;
            let known = books.damage.iter().filter(|d| d.file_number == info.file_number && d.nonce == info.nonce);
            segment.holes = known.map(|damage| damage.hole.clone()).collect();
            segment.damage = segment.holes.iter().map(|hole| hole.bytes.clone()).collect();
            segment.damage.sort_by_key(|range| range.start);
            let checked = books.checked.get(&segment.info.file_number).filter(|c| c.nonce == segment.info.nonce);
            segment.found_whole = checked.map(|checked| (checked.at, checked.hash));
        }
        Ok(())
    }

    fn look_at(
        &self,
        seen: &mut Seen,
        path: &Path,
        file: &Arc<dyn File>,
        depth: Depth,
        filter: &Filter,
        progress: &mut dyn FnMut(u64),
    ) {
        let head = match walk::head(file.as_ref()) {
            Ok(head) => head,
            Err(HeadError::Io(e)) => {
                let what = format!("cannot be read: {e}");
                return seen.findings.push(Finding::new(Severity::Loss, Kind::Head, path, what));
            }
            Err(HeadError::NotOurs(reason)) => {
                let ours = self.is_volume || is_segment_name(path);
                let (severity, kind) =
                    if ours { (Severity::Loss, Kind::Head) } else { (Severity::Note, Kind::Foreign) };
                if ours {
                    seen.headless.push(path.to_owned());
                }
                return seen.findings.push(Finding::new(severity, kind, path, reason));
            }
        };
        let name = &head.segment.stream_name;
        let ends = head.segment.sealed.map_or(WallTime(i64::MAX), |sealed| sealed.end_wall);
        let wanted = filter.stream.as_ref().is_none_or(|wanted| wanted == name);
        if !wanted || head.segment.first_wall >= filter.to || ends <= filter.from {
            return;
        }
        match segment(path, file, head, depth, progress) {
            Ok((segment, findings)) => {
                seen.findings.extend(findings);
                seen.segments.push(segment);
            }
            Err(e) => {
                let what = format!("cannot be read: {e}");
                seen.findings.push(Finding::new(Severity::Loss, Kind::Head, path, what));
            }
        }
    }
}

/// A segment as `depth` shows it.
fn segment(
    path: &Path,
    file: &Arc<dyn File>,
    head: Head,
    depth: Depth,
    progress: &mut dyn FnMut(u64),
) -> io::Result<(SeenSegment, Vec<Finding>)> {
    if depth == Depth::Heads
        && let Some((index, run_boxes)) = indexed(file.as_ref(), &head)?
    {
        let sealed_end = head.segment.sealed.map_or(index.offset, |sealed| sealed.index_offset);
        return Ok((seen(path, file, head, index, run_boxes, sealed_end), Vec::new()));
    }
    let survey = survey(file.as_ref(), &head, progress)?;
    let all = survey.all().clone();
    let run_boxes = boxes_of(&all, &survey);
    let end = head.segment.sealed.map_or(survey.end, |sealed| sealed.index_offset);
    let sealed = head.segment.sealed.is_some();
    let mut segment = seen(path, file, head, all, run_boxes, end);
    segment.damage = survey.lost();
    let runs: Vec<Uuid> = segment.run_boxes.iter().map(|run| run.run).collect();
    segment.holes = holes(&segment.index, &runs, &segment.damage);
    let findings = survey.damage.iter().map(|damage| finding(&segment, damage, sealed)).collect();
    segment.survey = Some(survey);
    Ok((segment, findings))
}

/// The index of a sealed file, and its run boxes, where all of them check.
fn indexed(file: &dyn File, head: &Head) -> io::Result<Option<(SegmentIndex, Vec<RunBox>)>> {
    let Some(sealed) = head.segment.sealed else { return Ok(None) };
    let Some(index) = read_index(file, head.segment.nonce, sealed.index_offset, sealed.index_length)? else {
        return Ok(None);
    };
    let mut run_boxes = Vec::with_capacity(index.runs.len());
    for place in &index.runs {
        let mut bytes = [0; RUN_BOX_LENGTH];
        read_exact(file, &mut bytes, place.offset)?;
        let Ok(run) = RunBox::decode(&bytes) else { return Ok(None) };
        run_boxes.push(run);
    }
    Ok(Some((index, run_boxes)))
}

/// The boxes of the runs of `all`; of one whose box is damaged, as much as its neighbours tell.
fn boxes_of(all: &SegmentIndex, survey: &Survey) -> Vec<RunBox> {
    let found = survey.found.run_box_list();
    let unknown = |offset: u64| {
        let like = found.first().map(|(run, _)| *run);
        like.map(|run| RunBox {
            offset,
            run: Uuid::new_v5(&run.run, &offset.to_be_bytes()),
            gap_reason: framekeeper_media::boxes::run::GapReason::Unknown,
            continued: false,
            previous_run: None,
            previous_end: None,
            ..run
        })
    };
    let known = |offset| found.iter().find(|(run, _)| run.offset == offset).map(|(run, _)| *run);
    all.runs.iter().filter_map(|place| known(place.offset).or_else(|| unknown(place.offset))).collect()
}

fn seen(
    path: &Path,
    file: &Arc<dyn File>,
    head: Head,
    index: SegmentIndex,
    run_boxes: Vec<RunBox>,
    used_bytes: u64,
) -> SeenSegment {
    let counted = runs_of(&index).zip(&run_boxes).map(|((place, entries, _), run)| {
        let frames = entries.iter().filter(|entry| crate::frames::is_video(entry)).count();
        (run, u32::try_from(frames).unwrap_or(u32::MAX), place)
    });
    let parts = run_parts(counted);
    let segment = &head.segment;
    let first = index.entries.iter().find(|e| crate::frames::is_video(e)).map_or(segment.first_wall, |e| e.wall);
    let (namespace, name) = segment.stream_name.split_once('/').unwrap_or(("", &segment.stream_name));
    let totals = &index.totals;
    let info = SegmentInfo {
        volume: segment.volume,
        path: path.to_owned(),
        file_number: segment.file_number,
        nonce: segment.nonce,
        stream: segment.stream,
        number: segment.segment_number,
        init_hash: segment.init_hash,
        first,
        end: segment.sealed.map_or(totals.end_wall, |sealed| sealed.end_wall).max(first),
        sealed: segment.sealed.is_some(),
        used_bytes,
        counts: SegmentCounts {
            video_frames: totals.video_frames,
            audio_frames: u32::try_from(index.audio_sizes.len()).unwrap_or(u32::MAX),
            random_access_points: totals.random_access_points,
            fragments: totals.fragments,
            runs: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            video_bytes: totals.video_bytes,
            audio_bytes: totals.audio_bytes,
        },
    };
    SeenSegment {
        info,
        stream: StreamIdent { uid: segment.stream, namespace: namespace.to_owned(), name: name.to_owned() },
        index: Arc::new(index),
        run_boxes,
        init: head.init.clone(),
        // Without the field, frames may be reordered as far as the level allows (H.264 §E.2.1).
        reorders: head.video.max_num_reorder_frames != Some(0),
        damage: Vec::new(),
        holes: Vec::new(),
        found_whole: None,
        file: file.clone(),
        parts,
        survey: None,
        head,
    }
}

fn finding(segment: &SeenSegment, damage: &DamagedBytes, sealed: bool) -> Finding {
    let path = &segment.info.path;
    if damage.spare {
        return Finding::new(Severity::Damage, Kind::Index, path, &damage.what).at(&damage.range);
    }
    let hit = |hole: &&Hole| hole.bytes.start <= damage.range.start && damage.range.start < hole.bytes.end;
    let hole = segment.holes.iter().find(hit).filter(|hole| hole.video_frames > 0 || hole.from < hole.to);
    // Behind the last frame of a file that was not sealed there may have been nothing: a loss of power leaves such ends.
    let severity = if hole.is_some() || sealed { Severity::Loss } else { Severity::Damage };
    let mut finding = Finding::new(severity, Kind::Fragment, path, &damage.what).at(&damage.range);
    finding.stream = Some(segment.head.segment.stream_name.clone());
    finding.span = hole.map(|hole| (hole.from, hole.to));
    finding.video_frames = hole.map_or(0, |hole| hole.video_frames);
    finding
}
