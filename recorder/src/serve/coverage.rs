//! `coverage`: which runs of a stream are held here, and why there are gaps between them.

use framekeeper_media::WallTime;
use serde::Serialize;
use uuid::Uuid;

use super::footage::{Footage, FootageError, Run};
use super::problem::{Nearest, Span};
use super::query::format_time;

/// The answer to a coverage query.
#[derive(Debug, Serialize)]
pub struct Coverage {
    namespace: String,
    name: String,
    stream: Uuid,
    runs: Vec<RunView>,
    gaps: Vec<Gap>,
}

#[derive(Debug, Serialize)]
struct RunView {
    run: Uuid,
    recorder: Uuid,
    epoch: u64,
    rank: u32,
    from: String,
    to: String,
    frames: u64,
    active: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Gap {
    from: String,
    to: String,
    reason: &'static str,
}

/// Gaps that are shorter are rounding, not missing footage: times are given in milliseconds.
const SHORTEST_GAP_US: i64 = 1_000;

/// Runs that have a frame in the range, whole, and the gaps that touch it.
///
/// # Errors
/// When the catalogue cannot be read.
pub fn coverage(
    footage: &dyn Footage,
    stream: Uuid,
    (namespace, name): (&str, &str),
    (from, to): (WallTime, WallTime),
) -> Result<Coverage, FootageError> {
    let mut runs = footage.coverage(stream, from, to)?;
    runs.sort_by_key(|run| (run.from, run.epoch, run.rank));
    let mut gaps = gaps(&runs);
    if runs.is_empty()
        && let Some(next) = footage.coverage(stream, to, WallTime(i64::MAX))?.first()
    {
        gaps.extend(gap(next, next.previous_end));
    }
    let gaps = gaps.into_iter().filter(|(gap_from, gap_to, _)| *gap_from < to && *gap_to > from);
    Ok(Coverage {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        stream,
        gaps: gaps.map(|(from, to, reason)| Gap { from: format_time(from), to: format_time(to), reason }).collect(),
        runs: runs.iter().map(view).collect(),
    })
}

fn view(run: &Run) -> RunView {
    RunView {
        run: run.run,
        recorder: run.recorder,
        epoch: run.epoch,
        rank: run.rank,
        from: format_time(run.from),
        to: format_time(run.to),
        frames: run.frames,
        active: run.active,
    }
}

/// The gaps between runs that are in order of their beginning, and the one before the first of them.
fn gaps(runs: &[Run]) -> Vec<(WallTime, WallTime, &'static str)> {
    let mut covered_until = runs.first().and_then(|run| run.previous_end);
    let mut found = Vec::new();
    for run in runs {
        found.extend(gap(run, covered_until));
        covered_until = covered_until.max(Some(run.to));
    }
    found
}

fn gap(run: &Run, before: Option<WallTime>) -> Option<(WallTime, WallTime, &'static str)> {
    let before = before?;
    (run.from.0 - before.0 >= SHORTEST_GAP_US).then_some((before, run.from, run.gap.as_str()))
}

/// The footage around a range that has none.
///
/// # Errors
/// When the catalogue cannot be read.
pub fn nearest(footage: &dyn Footage, stream: Uuid, from: WallTime, to: WallTime) -> Result<Nearest, FootageError> {
    let span = |run: &Run| Span { from: format_time(run.from), to: format_time(run.to) };
    let runs = footage.coverage(stream, WallTime(i64::MIN), WallTime(i64::MAX))?;
    let before = runs.iter().filter(|run| run.from < from).max_by_key(|run| run.to);
    let after = runs.iter().filter(|run| run.from >= from.min(to)).min_by_key(|run| run.from);
    Ok(Nearest { before: before.map(span), after: after.map(span) })
}

#[cfg(test)]
mod tests {
    use framekeeper_store::GapReason;

    use super::*;

    fn run(from_s: i64, to_s: i64, gap: GapReason) -> Run {
        Run {
            run: Uuid::nil(),
            recorder: Uuid::nil(),
            epoch: 1,
            rank: 0,
            from: WallTime(from_s * 1_000_000),
            to: WallTime(to_s * 1_000_000),
            frames: 1,
            gap,
            previous_run: Uuid::nil(),
            previous_end: None,
            active: false,
        }
    }

    #[test]
    fn gaps_are_between_what_is_covered() {
        let runs = [
            run(0, 10, GapReason::FirstRun),
            run(5, 7, GapReason::ClockStep),
            run(9, 12, GapReason::Takeover),
            run(20, 30, GapReason::Silence),
        ];
        assert_eq!(gaps(&runs), [(WallTime(12_000_000), WallTime(20_000_000), "Silence")]);
    }

    #[test]
    fn the_gap_before_the_first_run_counts_where_it_is_known() {
        let mut later = run(20, 30, GapReason::RecorderCrashed);
        assert!(gaps(std::slice::from_ref(&later)).is_empty());
        later.previous_end = Some(WallTime(12_000_000));
        assert_eq!(gaps(&[later])[0].2, "RecorderCrashed");
    }

    #[test]
    fn rounding_is_no_gap() {
        let mut second = run(10, 20, GapReason::Unknown);
        second.from = WallTime(10_000_900);
        assert!(gaps(&[run(0, 10, GapReason::FirstRun), second]).is_empty());
    }
}
