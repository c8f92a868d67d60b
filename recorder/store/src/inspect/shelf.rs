//! Streams, their runs and gaps, from segments alone.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::look::SeenSegment;
use crate::catalogue::{RunRow, merge_run};
use crate::damage::{Hole, cut};
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
        let holes: Vec<Hole> = of().flat_map(|segment| &segment.holes).cloned().collect();
        let rows = runs.into_values();
        let mut runs: Vec<RunInfo> = rows.flat_map(|row| cut(crate::reader::run_info(&row, false), &holes)).collect();
        runs.sort_by_key(|run| (run.from, run.run));
        let bytes = of().map(|segment| segment.info.counts.video_bytes + segment.info.counts.audio_bytes).sum();
        SeenStream { ident: StreamIdent { uid, namespace, name }, runs, holes, segments: positions, bytes }
    };
    found.into_iter().map(stream).collect()
}
