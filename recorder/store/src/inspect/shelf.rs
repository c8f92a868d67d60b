//! Streams, their runs and gaps, from segments alone.

use std::collections::BTreeMap;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::look::SeenSegment;
use crate::catalogue::{RunRow, merge_run};
use crate::damage::{Hole, cut};
use crate::segment::hole::Reach;
use crate::types::{RunInfo, StreamIdent};

/// A stream that there is footage of.
#[derive(Clone, Debug)]
pub struct SeenStream {
    /// UID and names.
    pub ident: StreamIdent,
    /// Its runs, in order of their first frame, cut where footage is damaged.
    pub runs: Vec<RunInfo>,
    /// What cannot be served.
    pub holes: Vec<Hole>,
    /// Its segments, as positions, in order of their first frame.
    pub segments: Vec<usize>,
    /// Bytes of its frames.
    pub bytes: u64,
}

/// The times of a segment's first frame and of the end of its last one are not those of its index to the microsecond.
const SAME_US: i64 = 50_000;

/// What a sealed segment says that it held, where no frame of that is known of: fragments were lost together with the index, which was made anew of
/// those that are left.
fn forgotten(segment: &SeenSegment) -> Vec<(WallTime, WallTime)> {
    let head = &segment.head.segment;
    let Some(sealed) = head.sealed else { return Vec::new() };
    let first = segment.parts.iter().map(|part| part.first).min().unwrap_or(sealed.end_wall);
    let end = segment.parts.iter().map(|part| part.end).max().unwrap_or(sealed.end_wall);
    let lost = [(head.first_wall, first), (end, sealed.end_wall)];
    lost.into_iter().filter(|(from, to)| to.0.saturating_sub(from.0) > SAME_US).collect()
}

/// A hole up to where decoding begins again, in its own segment (the first one) or in one behind it.
fn reaching<'s>(hole: &Hole, segments: impl Iterator<Item = (usize, &'s SeenSegment)>) -> Hole {
    let mut reach = Reach::of(hole);
    for (at, segment) in segments.filter(|(_, segment)| segment.parts.iter().any(|part| part.run == hole.run)) {
        reach.take(hole, at == 0, &segment.index, segment.run_boxes.iter().map(|run| run.run));
        if reach.settled {
            break;
        }
    }
    let mut hole = hole.clone();
    reach.widen(&mut hole);
    hole
}

/// Names and UID of a stream.
type Key = (String, String, Uuid);
/// Positions of its segments, and its runs.
type Gathered = (Vec<usize>, BTreeMap<Uuid, RunRow>);

/// The streams of these segments, by name.
#[must_use]
pub fn streams(segments: &[SeenSegment]) -> Vec<SeenStream> {
    let mut found: BTreeMap<Key, Gathered> = BTreeMap::new();
    for (at, segment) in segments.iter().enumerate() {
        let ident = &segment.stream;
        let key = (ident.namespace.clone(), ident.name.clone(), ident.uid);
        let (positions, runs) = found.entry(key).or_default();
        positions.push(at);
        for part in &segment.parts {
            let row = merge_run(runs.remove(&part.run), part, 1);
            runs.insert(part.run, row);
        }
    }
    let stream = |(key, (mut positions, runs)): (Key, Gathered)| {
        let (namespace, name, uid) = key;
        positions.sort_by_key(|at| segments.get(*at).map(|s| (s.info.first, s.info.number)));
        let of = || positions.iter().filter_map(|at| segments.get(*at));
        let mut holes = Vec::new();
        for (at, segment) in of().enumerate() {
            let behind = || of().skip(at).enumerate();
            holes.extend(segment.holes.iter().map(|hole| reaching(hole, behind())));
        }
        for (from, to) in of().flat_map(forgotten) {
            if !holes.iter().any(|hole| hole.from <= from && to <= hole.to) {
                let around = runs.values().find(|row| row.part.first <= from && to <= row.part.end);
                let run = around.map_or(Uuid::nil(), |row| row.part.run);
                holes.push(Hole { run, from, to, bytes: 0..0, video_frames: 0 });
            }
        }
        let rows = runs.into_values();
        let mut runs: Vec<RunInfo> = rows.flat_map(|row| cut(crate::reader::run_info(&row, false), &holes)).collect();
        runs.sort_by_key(|run| (run.from, run.run));
        let bytes = of().map(|segment| segment.info.counts.video_bytes + segment.info.counts.audio_bytes).sum();
        SeenStream { ident: StreamIdent { uid, namespace, name }, runs, holes, segments: positions, bytes }
    };
    found.into_iter().map(stream).collect()
}
