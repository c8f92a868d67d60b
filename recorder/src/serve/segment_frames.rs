//! The frames of a segment from its index, run by run, without what is damaged.

use std::ops::Range;

use framekeeper_media::boxes::index::{EntryKind, IndexEntry, SegmentIndex};
use framekeeper_media::boxes::run::RunBox;
use framekeeper_store::damage::{Hole, holes_of, run_at, undecodable, whole};

use super::footage::{AudioEntry, RunPart, Segment, SegmentFrames, VideoEntry};

/// The frames of a segment. `damage` are the damaged ranges of its file, in order; `here` are the holes that these make, and `elsewhere` those of the other
/// segments of its stream, in any order. What follows a hole is a run of its own.
pub(crate) fn frames(
    index: &SegmentIndex,
    run_boxes: &[RunBox],
    damage: &[Range<u64>],
    here: &[Hole],
    elsewhere: &[Hole],
) -> SegmentFrames {
    let mut frames = SegmentFrames {
        video: Vec::with_capacity(index.totals.video_frames as usize),
        audio: Vec::with_capacity(index.audio_sizes.len()),
        ..SegmentFrames::default()
    };
    for (number, (run, run_box)) in index.runs.iter().zip(run_boxes).enumerate() {
        let entries = run.first_entry as usize..(run.first_entry as usize).saturating_add(run.entries as usize);
        let entries = index.entries.get(entries).unwrap_or_default();
        let until = index.runs.get(number + 1).map_or(u64::MAX, |next| next.offset);
        let whole = whole(entries, run, until, damage);
        let elsewhere = holes_of(run_box.run, elsewhere);
        let of_run = holes_of(run_box.run, &[here, elsewhere.as_slice()].concat());
        for stretch in &whole.stretches {
            let (video, audio) = (frames.video.len() as u32, frames.audio.len() as u32);
            let stretch: Vec<&IndexEntry> = stretch.iter().filter_map(|at| entries.get(*at)).collect();
            // The hole may have begun at the end of the segment before.
            let stretch = stretch.get(undecodable(&stretch, &elsewhere)..).unwrap_or_default();
            if stretch.is_empty() && !entries.is_empty() {
                continue;
            }
            for entry in stretch {
                if entry.first_of_fragment {
                    close_fragment(&mut frames);
                }
                add(&mut frames, index, entry);
            }
            close_fragment(&mut frames);
            let shown = frames.video.get(video as usize..).unwrap_or_default();
            let first = shown.iter().map(|entry| entry.wall).min().unwrap_or(run.first_wall);
            // Up to the hole behind it, if there is one.
            let end = whole.holes.iter().map(|hole| hole.from).find(|from| *from > first);
            frames.runs.push(RunPart {
                // By the frame that decoding begins with: pictures that lead it may be shown within the hole.
                run: run_at(run_box.run, shown.first().map_or(first, |entry| entry.wall), &of_run),
                video_offset: run_box.video_offset,
                video: video..frames.video.len() as u32,
                audio: audio..frames.audio.len() as u32,
                end: end.unwrap_or(run.end_wall),
                camera_zero_us: camera_zero_us(run_box),
            });
        }
    }
    frames
}

/// A segment with the counts and times of what of it can be read; `None` when nothing can.
pub(crate) fn readable(mut segment: Segment, frames: &SegmentFrames) -> Option<Segment> {
    let first = frames.video.iter().map(|entry| entry.wall).min()?;
    segment.first = segment.first.max(first);
    segment.end = frames.runs.iter().map(|run| run.end).max().map_or(segment.end, |end| end.min(segment.end));
    let counts = &mut segment.counts;
    counts.video_frames = frames.video.len() as u32;
    counts.audio_frames = frames.audio.len() as u32;
    counts.random_access_points = frames.video.iter().filter(|entry| entry.random_access()).count() as u32;
    counts.runs = frames.runs.len() as u32;
    counts.video_bytes = frames.video.iter().map(|entry| u64::from(entry.len)).sum();
    counts.audio_bytes = frames.audio.iter().map(|entry| u64::from(entry.len)).sum();
    Some(segment)
}

/// The camera's clock at file time 0, by the sender report of a run's box.
fn camera_zero_us(run: &RunBox) -> Option<i64> {
    let report = run.sender_report?;
    // NTP timestamps count seconds in 32.32 fixed point (RFC 3550 §4).
    let clock_us = (u128::from(report.ntp) * 1_000_000) >> 32;
    let since_zero_us = (i128::from(report.media_time.0) - i128::from(run.video_offset)) * 100 / 9;
    i64::try_from(i128::try_from(clock_us).ok()? - since_zero_us).ok()
}

fn close_fragment(frames: &mut SegmentFrames) {
    let until = (frames.video.len() as u32, frames.audio.len() as u32);
    if until != frames.fragments.last().copied().unwrap_or_default() {
        frames.fragments.push(until);
    }
}

fn add(frames: &mut SegmentFrames, index: &SegmentIndex, entry: &IndexEntry) {
    // Decode times in a file count from 0 and stay far below 2^63.
    let time = entry.decode_time.cast_signed();
    match entry.kind {
        EntryKind::Video { flags, composition_offset, identity } => frames.video.push(VideoEntry {
            wall: entry.wall,
            dts: time,
            identity: identity.0,
            offset: entry.data_offset,
            len: entry.data_length,
            composition_offset,
            flags,
        }),
        EntryKind::Audio { frame_duration, .. } => {
            let mut offset = entry.data_offset;
            let mut time = time;
            for size in index.sizes_of(entry) {
                frames.audio.push(AudioEntry { time, duration: frame_duration, offset, len: u32::from(*size) });
                offset = offset.saturating_add(u32::from(*size));
                time += i64::from(frame_duration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use framekeeper_media::boxes::index::IndexRun;
    use framekeeper_media::boxes::run::ReportedTime;
    use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime};

    use framekeeper_media::WallTime;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_index_becomes_runs_fragments_and_single_audio_frames() {
        let video = |first_of_fragment, decode_time| IndexEntry {
            first_of_fragment,
            data_offset: 1000 + decode_time as u32,
            data_length: 10,
            decode_time,
            wall: WallTime(decode_time as i64),
            kind: EntryKind::Video { flags: FrameFlags(3), composition_offset: 5, identity: FrameIdentity(9) },
        };
        let audio = |frames, first_size| IndexEntry {
            kind: EntryKind::Audio { frames, frame_duration: 1024, first_size },
            first_of_fragment: false,
            ..video(false, 7)
        };
        let run = |first_entry, entries| IndexRun {
            offset: 0,
            first_entry,
            entries,
            first_wall: WallTime(0),
            end_wall: WallTime(99),
        };
        let index = SegmentIndex {
            runs: vec![run(0, 3), run(3, 2)],
            entries: vec![video(true, 0), video(false, 40), audio(2, 0), video(true, 80), audio(1, 2)],
            audio_sizes: vec![4, 6, 8],
            ..SegmentIndex::default()
        };
        let run_box = |video_offset| RunBox {
            nonce: 1,
            offset: 0,
            continued: false,
            run: Uuid::from_u128(video_offset as u128),
            epoch: 1,
            rank: 0,
            gap_reason: framekeeper_store::GapReason::FirstRun,
            plan: framekeeper_media::boxes::run::PlanVersion { term: 1, sequence: 1 },
            recorder: Uuid::nil(),
            previous_offset: 0,
            anchor_wall: WallTime(0),
            anchor_media: MediaTime(0),
            video_offset,
            audio_offset: 0,
            sender_report: None,
            previous_end: None,
            previous_run: None,
        };
        // File time 90,000 is at media time 90,600; 1 s earlier the camera's clock was at 2.5 s.
        let report = ReportedTime { ntp: 5 << 31, media_time: MediaTime(600) };
        let second = RunBox { sender_report: Some(report), ..run_box(600) };
        let frames = frames(&index, &[run_box(500), second], &[], &[], &[]);
        assert_eq!(frames.runs.iter().map(|run| run.camera_zero_us).collect::<Vec<_>>(), [None, Some(2_500_000)]);
        assert_eq!(frames.fragments, [(2, 2), (3, 3)]);
        assert_eq!(
            frames.runs.iter().map(|run| (run.video.clone(), run.audio.clone())).collect::<Vec<_>>(),
            [(0..2, 0..2), (2..3, 2..3)]
        );
        assert_eq!(frames.runs.iter().map(|run| run.video_offset).collect::<Vec<_>>(), [500, 600]);
        let audio: Vec<_> = frames.audio.iter().map(|audio| (audio.time, audio.offset, audio.len)).collect();
        assert_eq!(audio, [(7, 1007, 4), (1031, 1011, 6), (7, 1007, 8)]);
        assert_eq!(frames.video[1].pts(), 45);
    }
}
