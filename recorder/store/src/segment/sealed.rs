//! What a sealed segment file says of itself.

use std::io;
use std::path::Path;

use framekeeper_media::boxes::index::SegmentIndex;
use framekeeper_media::boxes::run::RunBox;

use super::fetch::run_box;
use super::hole::runs_of;
use super::index::run_parts;
use super::survey::survey;
use super::walk::Head;
use crate::env::{File, read_exact};
use crate::frames::is_video;
use crate::manifest::SealedSegment;
use crate::types::SegmentCounts;

/// What the manifest says of a sealed file; `None` when it is not sealed. Where its index does not check, the fragments tell: the file stays
/// as it is, and nobody fills it on.
pub(crate) fn sealed_record(file: &dyn File, head: &Head, path: &Path) -> io::Result<Option<SealedSegment>> {
    let Some(sealed) = head.segment.sealed else { return Ok(None) };
    let index = read_index(file, head.segment.nonce, sealed.index_offset, sealed.index_length)?;
    let run_boxes = index.as_ref().and_then(|index| run_boxes(file, head, index));
    let (index, run_boxes) = match index.zip(run_boxes) {
        Some(found) => found,
        None => {
            tracing::warn!(path = %path.display(), "the index of a sealed segment is damaged; its fragments are looked at, one by one");
            let survey = survey(file, head, &mut |_| {})?;
            let run_boxes = survey.found.run_box_list().iter().map(|(run, _)| *run).collect();
            (survey.found.index().clone(), run_boxes)
        }
    };
    let counted = runs_of(&index).zip(&run_boxes).map(|((place, entries, _), run)| {
        let frames = entries.iter().filter(|entry| is_video(entry)).count();
        (run, u32::try_from(frames).unwrap_or(u32::MAX), place)
    });
    let runs = run_parts(counted);
    let totals = &index.totals;
    Ok(Some(SealedSegment {
        file_number: head.segment.file_number,
        nonce: head.segment.nonce,
        stream: head.segment.stream,
        number: head.segment.segment_number,
        init_hash: head.segment.init_hash,
        first: index.entries.iter().find(|entry| is_video(entry)).map_or(head.segment.first_wall, |entry| entry.wall),
        end: sealed.end_wall,
        index_offset: sealed.index_offset,
        index_length: sealed.index_length,
        counts: SegmentCounts {
            video_frames: totals.video_frames,
            audio_frames: u32::try_from(index.audio_sizes.len()).unwrap_or(u32::MAX),
            random_access_points: totals.random_access_points,
            fragments: totals.fragments,
            runs: u32::try_from(runs.len()).unwrap_or(u32::MAX),
            video_bytes: totals.video_bytes,
            audio_bytes: totals.audio_bytes,
        },
        stream_name: head.segment.stream_name.clone(),
        path: path.to_string_lossy().into_owned(),
        runs,
    }))
}

/// The boxes of an index's runs, where all of them check.
fn run_boxes(file: &dyn File, head: &Head, index: &SegmentIndex) -> Option<Vec<RunBox>> {
    let boxes = index.runs.iter().map(|place| run_box(file, head.segment.nonce, place.offset).map(|(run, _)| run));
    boxes.collect()
}

/// The index box of a sealed file; `None` when it is not there or does not check.
pub(crate) fn read_index(file: &dyn File, nonce: u64, offset: u64, length: u64) -> io::Result<Option<SegmentIndex>> {
    let size = file.size()?;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exact(file, &mut bytes, offset)?;
    Ok(SegmentIndex::decode(&bytes).ok().filter(|index| index.nonce == nonce && index.offset == offset))
}
