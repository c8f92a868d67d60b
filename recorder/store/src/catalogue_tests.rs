//! The catalogue against a plain list of segments: the same answers after any additions and retirements, in any order of replay.

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use proptest::prelude::*;
use uuid::Uuid;

use crate::catalogue::{Catalogue, RunRow, merge_run};
use crate::manifest::{Record, RunPart, SealedSegment};
use crate::manifest_log::Position;
use crate::types::SegmentCounts;

const ALWAYS: (WallTime, WallTime) = (WallTime(i64::MIN), WallTime(i64::MAX));

/// The `at`-th segment of a stream: ten long, with the end of one run and the beginning of the next where `breaks`.
fn segment(stream: u128, at: i64, run: u128, breaks: bool) -> SealedSegment {
    let part = |run, first, end, continued| RunPart {
        run: Uuid::from_u128(stream << 64 | run),
        epoch: 1,
        rank: 0,
        gap: if continued { GapReason::NoGap } else { GapReason::Silence },
        recorder: Uuid::nil(),
        previous_run: Uuid::nil(),
        first: WallTime(first),
        end: WallTime(end),
        video_frames: 5,
        continued,
        previous_end: WallTime(0),
    };
    let (first, end) = (at * 10, at * 10 + 10);
    let mut runs = vec![part(run, first, if breaks { first + 5 } else { end }, at > 0)];
    if breaks {
        runs.push(part(run + 1, first + 6, end, false));
    }
    let file_number = u64::try_from(stream).unwrap_or(0) * 1000 + at.unsigned_abs();
    SealedSegment {
        file_number,
        nonce: file_number + 1,
        stream: Uuid::from_u128(stream),
        number: at.unsigned_abs(),
        init_hash: 1,
        first: WallTime(first),
        end: WallTime(end),
        index_offset: 1,
        index_length: 1,
        counts: SegmentCounts { runs: if breaks { 2 } else { 1 }, ..SegmentCounts::default() },
        stream_name: format!("default/{stream}"),
        path: format!("streams/{stream}/{at}"),
        runs,
    }
}

fn expected_runs(segments: &[&SealedSegment]) -> Vec<RunRow> {
    let mut rows: Vec<RunRow> = Vec::new();
    for part in segments.iter().flat_map(|s| &s.runs) {
        let at = rows.iter().position(|row| row.part.run == part.run);
        let row = merge_run(at.map(|at| rows.swap_remove(at)), part, 1);
        rows.push(row);
    }
    rows.sort_by_key(|row| (row.part.first, row.part.run));
    rows
}

fn times(rows: &[RunRow]) -> Vec<(Uuid, GapReason, i64, i64, u64, u32)> {
    rows.iter().map(|r| (r.part.run, r.part.gap, r.part.first.0, r.part.end.0, r.frames, r.segments)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn it_answers_as_a_plain_list_does(
        breaks in proptest::collection::vec((1_u128..3, any::<bool>()), 1..30),
        retired in 0_usize..20,
        from in -20_i64..200,
        length in 1_i64..100,
        twice in any::<bool>(),
    ) {
        let mut all = Vec::new();
        for stream in 1..3 {
            let mut run = 1;
            for (at, (_, breaks)) in (0..).zip(breaks.iter().filter(|(s, _)| *s == stream)) {
                all.push(segment(stream, at, run, *breaks));
                run += u128::from(*breaks);
            }
        }
        let catalogue = Catalogue::in_memory().unwrap();
        let records: Vec<_> = all.iter().cloned().map(Record::Sealed).collect();
        catalogue.apply(&records, Some(Position { generation: 1, offset: 99 })).unwrap();
        let gone: Vec<SealedSegment> = (0..retired.min(all.len())).map(|_| {
            let oldest = catalogue.view().unwrap().oldest(|_| true).unwrap().unwrap();
            let record = Record::Retired { file_number: oldest.file_number, nonce: oldest.nonce };
            catalogue.apply(&[record], None).unwrap();
            oldest
        }).collect();
        let left: Vec<&SealedSegment> = all.iter().filter(|s| !gone.contains(s)).collect();
        if let (Some(last), Some(first)) = (gone.iter().map(|s| s.end).max(), left.iter().map(|s| s.end).min()) {
            prop_assert!(last <= first, "the oldest goes first");
        }
        if twice {
            let again: Vec<_> = left.iter().map(|s| Record::Sealed((*s).clone())).collect();
            catalogue.apply(&again, None).unwrap();
        }
        let view = catalogue.view().unwrap();
        prop_assert_eq!(view.count().unwrap(), left.len() as u64);
        let (from, to) = (WallTime(from), WallTime(from + length));
        for stream in (1..3).map(Uuid::from_u128) {
            let of_stream: Vec<&SealedSegment> = left.iter().copied().filter(|s| s.stream == stream).collect();
            let found = view.segments(stream, ALWAYS.0, ALWAYS.1).unwrap();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), of_stream.clone());
            let inside: Vec<_> = of_stream.iter().filter(|s| s.first < to && s.end > from).map(|s| s.number).collect();
            let found: Vec<_> = view.segments(stream, from, to).unwrap().iter().map(|s| s.number).collect();
            prop_assert_eq!(found, inside);
            let runs = expected_runs(&of_stream);
            prop_assert_eq!(times(&view.runs(stream, ALWAYS.0, ALWAYS.1).unwrap()), times(&runs));
            let inside: Vec<_> = runs.into_iter().filter(|r| r.part.first < to && r.part.end > from).collect();
            prop_assert_eq!(times(&view.runs(stream, from, to).unwrap()), times(&inside));
            prop_assert_eq!(view.last_segment(stream).unwrap(), of_stream.last().map(|s| (*s).clone()));
        }
        let streams = view.streams().unwrap().len();
        prop_assert_eq!(streams, [1, 2].iter().filter(|s| left.iter().any(|l| l.stream == Uuid::from_u128(**s))).count());
    }
}

#[test]
fn a_file_used_again_replaces_what_was_in_it() {
    let catalogue = Catalogue::in_memory().unwrap();
    let old = segment(1, 0, 1, false);
    // The record of its retirement got lost.
    let new = SealedSegment { file_number: old.file_number, nonce: 77, ..segment(2, 3, 1, false) };
    catalogue.apply(&[Record::Sealed(old.clone()), Record::Sealed(new.clone())], None).unwrap();
    let view = catalogue.view().unwrap();
    assert_eq!(view.by_file(old.file_number).unwrap(), Some(new.clone()));
    assert!(view.segments(old.stream, ALWAYS.0, ALWAYS.1).unwrap().is_empty());
    assert!(view.runs(old.stream, ALWAYS.0, ALWAYS.1).unwrap().is_empty());
    assert_eq!(view.streams().unwrap(), [(new.stream, new.stream_name)]);
}
