//! `coverage`: which runs of a stream are held here, and why there are gaps between them.

use framekeeper_media::WallTime;
use framekeeper_store::GapReason;
use serde::Serialize;
use uuid::Uuid;

use super::footage::{Footage, FootageError, Hole, Run};
use super::problem::{Nearest, Span};
use super::query::format_time;

/// The answer to a coverage query.
#[derive(Debug, Serialize)]
pub struct Coverage {
    namespace: String,
    name: String,
    stream: Uuid,
    /// Not while the catalogue is being gathered, and not when somebody else did not answer: then there may be more runs.
    complete: bool,
    pub(crate) runs: Vec<RunView>,
    pub(crate) gaps: Vec<Gap>,
    /// What of the footage is never given up, until somebody releases it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) holds: Vec<Held>,
}

/// A bound that is missing is that of all times.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Held {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RunView {
    pub(crate) run: Uuid,
    recorder: Uuid,
    epoch: u64,
    rank: u32,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) frames: u64,
    active: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reason: &'static str,
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
    // Asked before: what is gathered meanwhile may be missing in the answer. And behind it: who does not answer is known only then.
    let was_complete = footage.is_complete();
    let mut runs = footage.coverage(stream, from, to)?;
    runs.sort_by_key(|run| (run.from, run.epoch, run.rank));
    let holes = footage.damage(stream)?;
    let mut gaps = gaps(&runs, &holes);
    if runs.is_empty()
        && let Some(next) = footage.coverage(stream, to, WallTime(i64::MAX))?.first()
    {
        gaps.extend(gap(next, next.previous_end));
    }
    let complete = was_complete && footage.is_complete();
    let gaps = gaps.into_iter().filter(|(gap_from, gap_to, _)| *gap_from < to && *gap_to > from);
    let holds = footage.holds(stream).into_iter().filter(|(held_from, held_to)| *held_from < to && *held_to > from);
    let bound = |time: WallTime, none: i64| (time.0 != none).then(|| format_time(time));
    Ok(Coverage {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        stream,
        complete,
        gaps: gaps.map(|(from, to, reason)| Gap { from: format_time(from), to: format_time(to), reason }).collect(),
        runs: runs.iter().map(view).collect(),
        holds: holds.map(|(from, to)| Held { from: bound(from, i64::MIN), to: bound(to, i64::MAX) }).collect(),
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

/// The gaps between runs that are in order of their beginning, the one before the first of them, and what is damaged.
fn gaps(runs: &[Run], holes: &[Hole]) -> Vec<(WallTime, WallTime, &'static str)> {
    let mut covered_until = runs.first().and_then(|run| run.previous_end);
    let mut found = Vec::new();
    for run in runs {
        // What is damaged has been recorded: the gap of another reason begins behind it.
        let damaged = holes.iter().filter(|hole| Some(hole.from) <= covered_until && hole.to <= run.from);
        covered_until = covered_until.max(covered_until.and(damaged.map(|hole| hole.to).max()));
        if run.gap != GapReason::Damaged {
            found.extend(gap(run, covered_until));
        }
        covered_until = covered_until.max(Some(run.to));
    }
    let damaged = holes.iter().filter(|hole| hole.to.0 - hole.from.0 >= SHORTEST_GAP_US);
    // Another copy may have what is lost here.
    let lost = damaged.filter(|hole| !runs.iter().any(|run| run.from <= hole.from && hole.to <= run.to));
    let lost = union(lost.map(|hole| (hole.from, hole.to)).collect());
    found.extend(lost.into_iter().map(|(from, to)| (from, to, GapReason::Damaged.as_str())));
    found.sort_by_key(|(from, to, _)| (*from, *to));
    found
}

/// Stretches of time that overlap or touch made one: as more of a file is read, a hole that was known grows.
fn union(mut stretches: Vec<(WallTime, WallTime)>) -> Vec<(WallTime, WallTime)> {
    stretches.sort();
    stretches.dedup_by(|next, before| {
        let touches = next.0 <= before.1;
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
    stretches
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
        assert_eq!(gaps(&runs, &[]), [(WallTime(12_000_000), WallTime(20_000_000), "Silence")]);
    }

    #[test]
    fn the_gap_before_the_first_run_counts_where_it_is_known() {
        let mut later = run(20, 30, GapReason::RecorderCrashed);
        assert!(gaps(std::slice::from_ref(&later), &[]).is_empty());
        later.previous_end = Some(WallTime(12_000_000));
        assert_eq!(gaps(&[later], &[])[0].2, "RecorderCrashed");
    }

    #[test]
    fn damage_is_a_gap_of_its_own() {
        let hole = |from: i64, to: i64| Hole {
            run: Uuid::nil(),
            from: WallTime(from * 1_000_000),
            to: WallTime(to * 1_000_000),
            bytes: 0..1,
            video_frames: 1,
        };
        let seconds = |runs: &[Run], holes: &[Hole]| -> Vec<(i64, i64, &str)> {
            gaps(runs, holes).iter().map(|(from, to, why)| (from.0 / 1_000_000, to.0 / 1_000_000, *why)).collect()
        };
        let runs = [run(0, 10, GapReason::FirstRun), run(12, 20, GapReason::Damaged), run(30, 40, GapReason::Silence)];
        let holes = [hole(10, 12), hole(20, 22), hole(39, 40)];
        let expected = [(10, 12, "Damaged"), (20, 22, "Damaged"), (22, 30, "Silence")];
        assert_eq!(seconds(&runs, &holes[..2]), expected);
        // More of the first one was found later.
        assert_eq!(seconds(&runs[1..2], &[hole(9, 10), hole(9, 12)]), [(9, 12, "Damaged")]);
        // The end of the last run is lost.
        assert_eq!(seconds(&runs[2..], &[hole(40, 45)]), [(40, 45, "Damaged")]);
    }

    #[test]
    fn rounding_is_no_gap() {
        let mut second = run(10, 20, GapReason::Unknown);
        second.from = WallTime(10_000_900);
        assert!(gaps(&[run(0, 10, GapReason::FirstRun), second], &[]).is_empty());
    }
}
