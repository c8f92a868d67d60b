//! Which frames of which segments belong to a range of time.
//!
//! Only the segments in which something is decided are read: the first and the last of each run, and those that hold several runs
//! or overlap with another. What lies between is taken whole, by the catalogue's counts.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::PlanError;
use crate::serve::footage::{Footage, FootageError, Run, RunPart, Segment, SegmentFrames, VideoEntry};

/// A GOP that began more segments ago than this is not followed back: what precedes its next key frame is left out.
const MAX_LOOKBACK_SEGMENTS: usize = 64;

/// Video frames of one run in one segment, as positions in its frames.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) segment: Segment,
    pub(super) run: Uuid,
    /// The frames, where they were needed to decide; with the position of the run in them.
    pub(super) loaded: Option<Loaded>,
    pub(super) video: Range<u32>,
}

/// A segment's frames, and which of its runs is meant.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) frames: Arc<SegmentFrames>,
    pub(super) index: usize,
}

impl Loaded {
    pub(super) fn run(&self) -> Result<&RunPart, FootageError> {
        self.frames.runs.get(self.index).ok_or_else(|| inconsistent("a run is missing from its segment's index"))
    }

    /// The video frames in `range`, with their positions.
    pub(super) fn video(&self, range: &Range<u32>) -> impl DoubleEndedIterator<Item = (u32, &VideoEntry)> + use<'_> {
        let start = range.start;
        let slice = self.frames.video.get(start as usize..range.end as usize).unwrap_or_default();
        slice.iter().enumerate().map(move |(at, entry)| (start + at as u32, entry))
    }
}

impl Part {
    /// Whether it is all that there is in its segment, so that the catalogue's counts say all of it.
    pub(super) fn is_whole(&self) -> bool {
        let counts = &self.segment.counts;
        self.segment.sealed && counts.runs == 1 && self.video == (0..counts.video_frames)
    }

    /// Frames are held only where the catalogue's counts do not say all.
    pub(super) fn forget_if_whole(&mut self) {
        if self.is_whole() {
            self.loaded = None;
        }
    }

    /// Some of its frames: the catalogue does not say which these are, so they are held.
    pub(super) fn cut(&self, footage: &dyn Footage, video: Range<u32>) -> Result<Self, FootageError> {
        let mut part = self.clone();
        if video != part.video {
            part.load(footage)?;
            part.video = video;
        }
        Ok(part)
    }

    /// Reads the segment's frames, if that was not done before.
    pub(super) fn load(&mut self, footage: &dyn Footage) -> Result<Loaded, FootageError> {
        if let Some(loaded) = &self.loaded {
            return Ok(loaded.clone());
        }
        let frames = footage.frames(&self.segment)?;
        let index = frames
            .runs
            .iter()
            .position(|part| part.run == self.run)
            .ok_or_else(|| inconsistent("the catalogue and a segment's index name different runs"))?;
        let loaded = Loaded { frames, index };
        if loaded.run()?.video != self.video {
            return Err(inconsistent("the catalogue and a segment's index count different frames"));
        }
        self.loaded = Some(loaded.clone());
        Ok(loaded)
    }
}

/// What a run gives to the range, in order of time.
#[derive(Clone, Debug)]
pub(super) struct RunSelection {
    pub(super) run: Run,
    pub(super) parts: Vec<Part>,
}

pub(super) fn inconsistent(what: &str) -> FootageError {
    FootageError::Broken(what.to_owned())
}

/// The runs that have a frame with `from ≤ wall time < to`, each with all frames needed to show those.
pub(super) fn select(
    footage: &dyn Footage,
    stream: Uuid,
    from: WallTime,
    to: WallTime,
) -> Result<Vec<RunSelection>, PlanError> {
    let mut runs = footage.coverage(stream, from, to)?;
    runs.sort_by_key(|run| (run.from, run.epoch, run.rank));
    let mut segments = footage.segments(stream, from, to)?;
    segments.sort_by_key(|segment| (segment.first, segment.end));

    let mut by_run: HashMap<Uuid, Vec<Part>> = HashMap::new();
    for (segment, owner) in segments.into_iter().zip_owner(&runs) {
        match owner {
            Some(run) if segment.sealed && segment.counts.runs == 1 => {
                let video = 0..segment.counts.video_frames;
                by_run.entry(run).or_default().push(Part { segment, run, loaded: None, video });
            }
            _ => {
                let frames = footage.frames(&segment)?;
                for (index, part) in frames.runs.iter().enumerate() {
                    let (run, video) = (part.run, part.video.clone());
                    let loaded = Some(Loaded { frames: Arc::clone(&frames), index });
                    let mut part = Part { segment: segment.clone(), run, loaded, video };
                    part.forget_if_whole();
                    by_run.entry(run).or_default().push(part);
                }
            }
        }
    }
    let durable = footage.durable_until(stream).unwrap_or(to);
    let mut selections = Vec::new();
    for run in runs {
        let Some(parts) = by_run.remove(&run.run) else { continue };
        // What is older than the run being recorded is safe on disk, whatever the clock said then.
        let to = if run.active { to.min(durable) } else { to };
        if let Some(parts) = trim(footage, stream, parts, from, to)? {
            selections.push(RunSelection { run, parts });
        }
    }
    Ok(selections)
}

/// Pairs each segment with the run it belongs to, or `None` when several runs touch its time or none does.
trait ZipOwner: Iterator<Item = Segment> + Sized {
    fn zip_owner(self, runs: &[Run]) -> impl Iterator<Item = (Segment, Option<Uuid>)> {
        let mut latest_end = WallTime(i64::MIN);
        let latest_ends: Vec<WallTime> = runs
            .iter()
            .map(|run| {
                latest_end = latest_end.max(run.to);
                latest_end
            })
            .collect();
        self.map(move |segment| {
            let begun = runs.partition_point(|run| run.from < segment.end);
            let mut owner = None;
            for (run, latest_end) in runs.iter().zip(&latest_ends).take(begun).rev() {
                if *latest_end <= segment.first {
                    break;
                }
                if run.to > segment.first && owner.replace(run.run).is_some_and(|other| other != run.run) {
                    return (segment, None);
                }
            }
            (segment, owner)
        })
    }
}
impl<I: Iterator<Item = Segment>> ZipOwner for I {}

/// Cuts a run's parts to the range: from the key frame that the first frame in range needs, to the last frame in range.
pub(super) fn trim(
    footage: &dyn Footage,
    stream: Uuid,
    mut parts: Vec<Part>,
    from: WallTime,
    to: WallTime,
) -> Result<Option<Vec<Part>>, FootageError> {
    let in_range = |entry: &VideoEntry| entry.wall >= from && entry.wall < to;
    while let Some(last) = parts.last_mut() {
        let loaded = last.load(footage)?;
        if let Some((position, _)) = loaded.video(&last.video).rev().find(|(_, entry)| in_range(entry)) {
            last.video.end = position + 1;
            break;
        }
        parts.pop();
    }
    let mut empty_ahead = 0;
    let mut first_wanted = 0;
    for part in &mut parts {
        let loaded = part.load(footage)?;
        if let Some((position, _)) = loaded.video(&part.video).find(|(_, entry)| in_range(entry)) {
            first_wanted = position;
            break;
        }
        empty_ahead += 1;
    }
    parts.drain(..empty_ahead);
    let Some(first) = parts.first_mut() else { return Ok(None) };

    let loaded = first.load(footage)?;
    if let Some(key) = key_frame_for(&loaded, &first.video, first_wanted, in_range) {
        first.video.start = key;
        skip_leading(&mut parts)?;
        return Ok(Some(parts));
    }
    // The GOP began in an earlier segment.
    for _ in 0..MAX_LOOKBACK_SEGMENTS {
        let Some(mut earlier) =
            parts.first().and_then(|part| part_before(footage, stream, part).transpose()).transpose()?
        else {
            break;
        };
        let loaded = earlier.load(footage)?;
        let key = loaded.video(&earlier.video).rev().find(|(_, entry)| entry.random_access()).map(|(key, _)| key);
        earlier.video.start = key.unwrap_or(earlier.video.start);
        parts.insert(0, earlier);
        if key.is_some() {
            skip_leading(&mut parts)?;
            return Ok(Some(parts));
        }
    }
    // That key frame is not held any more: nothing before the next one can be decoded.
    while let Some(first) = parts.first_mut() {
        let loaded = first.load(footage)?;
        let key = loaded.video(&first.video).find(|(_, entry)| entry.random_access()).map(|(key, _)| key);
        first.video.start = key.unwrap_or(first.video.end);
        let shows = loaded.video(&first.video).any(|(_, entry)| in_range(entry));
        if key.is_some() {
            skip_leading(&mut parts)?;
            return Ok((shows || parts.len() > 1).then_some(parts));
        }
        parts.remove(0);
    }
    Ok(None)
}

/// Leaves out the pictures that lead the first key frame: they need frames from before it, and decoders stumble over them.
fn skip_leading(parts: &mut Vec<Part>) -> Result<(), FootageError> {
    let Some(first) = parts.first() else { return Ok(()) };
    let loaded = first.loaded.clone().ok_or_else(|| inconsistent("the first segment of a run was not read"))?;
    let mut frames = loaded.video(&first.video);
    let Some((key, key_entry)) = frames.next() else { return Ok(()) };
    let leading = frames.take_while(|(_, entry)| !entry.random_access() && entry.wall < key_entry.wall).count();
    if leading > 0 {
        let rest = Part { video: key + 1 + leading as u32..first.video.end, ..first.clone() };
        let key_only = Part { video: key..key + 1, ..first.clone() };
        parts.splice(..1, [key_only, rest]);
        parts.retain(|part| !part.video.is_empty());
    }
    Ok(())
}

/// The frame at which decoding must begin so that `wanted`, and all of its GOP in range, can be shown. Pictures that lead a key frame (shown
/// before it, decoded after it) may need the GOP before.
fn key_frame_for(
    loaded: &Loaded,
    video: &Range<u32>,
    wanted: u32,
    in_range: impl Fn(&VideoEntry) -> bool,
) -> Option<u32> {
    let run = loaded.run().ok()?.video.clone();
    let (key, key_entry) = loaded.video(&(run.start..wanted + 1)).rev().find(|(_, entry)| entry.random_access())?;
    let leads = loaded
        .video(&(key + 1..video.end))
        .take_while(|(_, entry)| !entry.random_access())
        .any(|(_, entry)| entry.wall < key_entry.wall && in_range(entry));
    if leads {
        let before = loaded.video(&(run.start..key)).rev().find(|(_, entry)| entry.random_access());
        return before.map(|(key, _)| key);
    }
    Some(key)
}

/// What the segment before a part's holds of the same run.
pub(super) fn part_before(footage: &dyn Footage, stream: Uuid, part: &Part) -> Result<Option<Part>, FootageError> {
    let first = part.segment.first;
    let near = footage.segments(stream, first.saturating_add_us(-NEIGHBOUR_US), first)?;
    neighbour(footage, part, near.into_iter().filter(|s| s.first < first).rev())
}

/// What the segment behind a part's holds of the same run.
pub(super) fn part_after(footage: &dyn Footage, stream: Uuid, part: &Part) -> Result<Option<Part>, FootageError> {
    let end = part.segment.end;
    let near = footage.segments(stream, end, end.saturating_add_us(NEIGHBOUR_US))?;
    neighbour(footage, part, near.into_iter().filter(|s| s.first > part.segment.first))
}

/// Two segments of one run are no further apart than this: a frame's length, or what a slow clock correction makes of it.
const NEIGHBOUR_US: i64 = 2_000_000;

fn neighbour(
    footage: &dyn Footage,
    part: &Part,
    near: impl Iterator<Item = Segment>,
) -> Result<Option<Part>, FootageError> {
    for segment in near {
        if segment.nonce == part.segment.nonce && segment.path == part.segment.path {
            continue;
        }
        let frames = footage.frames(&segment)?;
        if let Some(index) = frames.runs.iter().position(|candidate| candidate.run == part.run) {
            let loaded = Loaded { frames, index };
            let video = loaded.run()?.video.clone();
            return Ok(Some(Part { segment, run: part.run, loaded: Some(loaded), video }));
        }
    }
    Ok(None)
}
