//! What a sealed segment file says of itself.

use std::io;
use std::path::Path;

use framekeeper_media::boxes::index::SegmentIndex;
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};

use super::index::run_parts;
use super::walk::Head;
use crate::env::{File, read_exact};
use crate::manifest::SealedSegment;
use crate::types::SegmentCounts;

/// What the manifest says of a sealed file; `None` when it is not sealed, or its index does not check.
pub(crate) fn sealed_record(file: &dyn File, head: &Head, path: &Path) -> io::Result<Option<SealedSegment>> {
    let Some(sealed) = head.segment.sealed else { return Ok(None) };
    let Some(index) = read_index(file, head.segment.nonce, sealed.index_offset, sealed.index_length)? else {
        return Ok(None);
    };
    let mut boxes = Vec::with_capacity(index.runs.len());
    for place in &index.runs {
        let mut bytes = [0; RUN_BOX_LENGTH];
        read_exact(file, &mut bytes, place.offset)?;
        let Ok(run) = RunBox::decode(&bytes) else { return Ok(None) };
        let first = usize::try_from(place.first_entry).unwrap_or(usize::MAX);
        let count = usize::try_from(place.entries).unwrap_or(usize::MAX);
        let entries = index.entries.get(first..first.saturating_add(count)).unwrap_or_default();
        let frames = entries.iter().filter(|e| crate::frames::is_video(e)).count();
        boxes.push((run, u32::try_from(frames).unwrap_or(u32::MAX), place));
    }
    let runs = run_parts(boxes.iter().map(|(run, frames, place)| (run, *frames, *place)));
    let totals = &index.totals;
    Ok(Some(SealedSegment {
        file_number: head.segment.file_number,
        nonce: head.segment.nonce,
        stream: head.segment.stream,
        number: head.segment.segment_number,
        init_hash: head.segment.init_hash,
        first: index.entries.iter().find(|e| crate::frames::is_video(e)).map_or(head.segment.first_wall, |e| e.wall),
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
