//! What readers make of damage: a run with a hole in it is two runs. Pure.

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use uuid::Uuid;

pub use crate::segment::hole::{Hole, Whole, undecodable, whole};
use crate::types::RunInfo;

/// Holes that are nearer to each other are one: times are rounded.
const APART_US: i64 = 1_000;

/// The holes of a run, in order of time, those that touch each other made one. Their bytes say nothing any more.
#[must_use]
pub fn holes_of(run: Uuid, holes: &[Hole]) -> Vec<Hole> {
    let mut of_run: Vec<Hole> = holes.iter().filter(|hole| hole.run == run).cloned().collect();
    of_run.sort_by_key(|hole| (hole.from, hole.to));
    of_run.dedup_by(|next, before| {
        let touches = next.from.0 <= before.to.0.saturating_add(APART_US);
        if touches {
            let same_bytes = next.bytes.start < before.bytes.end && before.bytes.start < next.bytes.end;
            let frames = (next.video_frames, before.video_frames);
            before.video_frames = if same_bytes { frames.0.max(frames.1) } else { frames.0.saturating_add(frames.1) };
            before.to = before.to.max(next.to);
        }
        touches
    });
    of_run
}

/// The id of what of a run begins with the frame at `first`, where `holes` are those of [`holes_of`]: behind a hole it is another one. No
/// stretch begins inside a hole, so whatever begins after one begins behind it: where a hole ends may be told a little late, as the last
/// frame of a segment has a forecast duration.
#[must_use]
pub fn run_at(run: Uuid, first: WallTime, holes: &[Hole]) -> Uuid {
    let before = holes.iter().rfind(|hole| hole.from < first);
    before.map_or(run, |hole| run_behind(run, hole.from))
}

fn run_behind(run: Uuid, hole_from: WallTime) -> Uuid {
    Uuid::new_v5(&run, &hole_from.0.to_be_bytes())
}

/// A run without its holes: each stretch a run of its own, that of the first keeps the id. Frames are shared out by length where there is a
/// hole: what they are exactly, only the indexes know.
#[must_use]
pub fn cut(run: RunInfo, holes: &[Hole]) -> Vec<RunInfo> {
    let original = run.run;
    let mut rest = run;
    let mut stretches = Vec::new();
    let holes = holes_of(original, holes);
    // A part of a run whose damaged beginning is gone keeps the name that it had behind the damage.
    rest.run = run_at(original, rest.from, &holes);
    for hole in holes {
        if hole.to <= rest.from || hole.from >= rest.to {
            continue;
        }
        rest.frames = rest.frames.saturating_sub(hole.video_frames.into());
        let before = RunInfo { to: hole.from, active: false, ..rest.clone() };
        let is_there = before.from < before.to;
        rest = RunInfo {
            run: run_behind(original, hole.from),
            from: hole.to,
            gap: GapReason::Damaged,
            previous_run: if is_there { before.run } else { rest.previous_run },
            previous_end: Some(hole.from),
            ..rest
        };
        stretches.extend(is_there.then_some(before));
    }
    let all = rest.frames;
    stretches.extend((rest.from < rest.to).then_some(rest));
    if stretches.len() > 1 {
        share_out(&mut stretches, all);
    }
    stretches
}

fn share_out(stretches: &mut [RunInfo], all: u64) {
    let length = |run: &RunInfo| u64::try_from(run.to.0.saturating_sub(run.from.0)).unwrap_or(0);
    let total = stretches.iter().map(length).sum::<u64>().max(1);
    let (mut left, count) = (all, stretches.len());
    for (at, run) in stretches.iter_mut().enumerate() {
        let share = u64::try_from(u128::from(all) * u128::from(length(run)) / u128::from(total)).unwrap_or(0);
        run.frames = if at + 1 == count { left } else { share.min(left) };
        left -= run.frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Uuid = Uuid::from_u128(7);

    fn run(from: i64, to: i64) -> RunInfo {
        RunInfo {
            run: RUN,
            recorder: Uuid::nil(),
            epoch: 1,
            rank: 0,
            from: WallTime(from),
            to: WallTime(to),
            frames: 100,
            gap: GapReason::FirstRun,
            previous_run: Uuid::nil(),
            previous_end: None,
            active: true,
        }
    }

    fn hole(from: i64, to: i64) -> Hole {
        Hole { run: RUN, from: WallTime(from), to: WallTime(to), bytes: from as u64..to as u64, video_frames: 10 }
    }

    fn look(holes: &[Hole]) -> Vec<(i64, i64, GapReason, bool)> {
        cut(run(100_000, 900_000), holes).iter().map(|r| (r.from.0, r.to.0, r.gap, r.active)).collect()
    }

    #[test]
    fn each_stretch_is_a_run_whose_gap_says_damaged() {
        use GapReason::{Damaged, FirstRun};
        assert_eq!(look(&[]), [(100_000, 900_000, FirstRun, true)]);
        let both = look(&[hole(500_000, 600_000), hole(200_000, 300_000)]);
        let expected = [
            (100_000, 200_000, FirstRun, false),
            (300_000, 500_000, Damaged, false),
            (600_000, 900_000, Damaged, true),
        ];
        assert_eq!(both, expected);
        assert_eq!(look(&[hole(100_000, 200_000)]), [(200_000, 900_000, Damaged, true)]);
        assert_eq!(look(&[hole(800_000, 900_000)]), [(100_000, 800_000, FirstRun, false)]);
        assert_eq!(look(&[hole(50_000, 950_000)]), []);
        // Not of this run's time.
        assert_eq!(look(&[hole(900_000, 950_000)]).len(), 1);
    }

    #[test]
    fn ids_and_frames_of_stretches_agree() {
        let holes = [hole(200_000, 300_000), hole(250_000, 300_000), hole(300_100, 400_000)];
        let cut = cut(run(100_000, 900_000), &holes);
        assert_eq!(
            cut.iter().map(|r| (r.from.0, r.to.0)).collect::<Vec<_>>(),
            [(100_000, 200_000), (400_000, 900_000)]
        );
        let merged = holes_of(RUN, &holes);
        for stretch in &cut {
            assert_eq!(run_at(RUN, stretch.from, &merged), stretch.run);
        }
        assert_eq!(cut.iter().map(|r| r.frames).sum::<u64>(), 80);
    }

    #[test]
    fn runs_and_indexes_name_stretches_alike_where_times_are_a_little_off() {
        // The hole reaches the end of its segment by a forecast, and the next segment begins 3 ms before that.
        let holes = [hole(400_000, 500_000)];
        let stretches = cut(run(100_000, 900_000), &holes);
        assert_eq!(stretches[1].run, run_at(RUN, WallTime(497_000), &holes_of(RUN, &holes)));
        assert_ne!(stretches[1].run, RUN);
        // The beginning of the run, with the hole, is not held any more.
        let rest = cut(run(600_000, 900_000), &holes);
        assert_eq!(rest.iter().map(|r| (r.run, r.from.0)).collect::<Vec<_>>(), [(stretches[1].run, 600_000)]);
    }
}
