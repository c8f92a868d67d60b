//! Streams and recorders that come and go: what stays, what moves, and that one change at a time ends where planning anew would.

use std::collections::BTreeSet;

use super::judge::check;
use super::*;
use crate::{Division, Slots};
use proptest::prelude::*;

/// What a pool may go through.
#[derive(Clone, Debug)]
enum Step {
    Add { class: usize, priority: i32, max_sessions: Option<u32> },
    Remove(u32),
    Is(u32, Condition),
    Grow,
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop::sample::select(vec![
        Condition::Active,
        Condition::Active,
        Condition::Down,
        Condition::Draining,
        Condition::Gone,
    ]);
    prop_oneof![
        6 => (0_usize..4, -1_i32..2, prop::option::weighted(0.1, 1_u32..4)).prop_map(|(class, priority, max_sessions)| Step::Add { class, priority, max_sessions }),
        2 => any::<u32>().prop_map(Step::Remove),
        2 => (any::<u32>(), condition).prop_map(|(at, condition)| Step::Is(at, condition)),
        1 => Just(Step::Grow),
        1 => Just(Step::Shrink),
    ]
}

/// No stream that can go on stops: it is recorded still, unless its recorder is gone and no standby of its own has a slot.
fn check_goes_on(
    before: &Plan<u32>,
    after: &Plan<u32>,
    recorders: &[Recorder],
    demands: &BTreeMap<u32, Demand>,
    slots: u32,
) {
    let condition =
        |ordinal: u32| recorders.iter().find(|recorder| recorder.ordinal == ordinal).map(|recorder| recorder.condition);
    for (stream, was) in before.placed.iter().filter(|(stream, _)| demands.contains_key(stream)) {
        let is_there = condition(was.primary).is_some_and(|condition| condition != Condition::Gone);
        let has_slot = |ordinal: &u32| {
            let recorded = after.placed.values().filter(|assigned| assigned.primary == *ordinal).count();
            condition(*ordinal) == Some(Condition::Active) && (recorded as u32) < slots
        };
        if is_there || was.standbys.iter().any(has_slot) {
            assert!(after.placed.contains_key(stream), "stream {stream} was stopped: {was:?}");
        }
    }
}

/// A plan for all classes in equal parts, whatever there is at the moment.
fn mixed(
    promise: Promise,
    recorders: &[Recorder],
    demands: &BTreeMap<u32, Demand>,
    before: &Plan<u32>,
) -> Planner<u32> {
    let division = divide(promise, recorders, Mix { streams: [1; 4] });
    Planner::new(promise, division, recorders, demands, &held(before))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(count(20, 1_500)))]

    #[test]
    fn whatever_comes_and_goes_the_plan_is_sound_and_settled(
        in_domain in 1_u32..3, failures in 1_u32..3, max_channels in 3_u32..9, steps in prop::collection::vec(step(), 1..60),
    ) {
        let promise = promise(max_channels, failures, failures);
        let mut recorders = recorders(6, in_domain);
        let mut demands: BTreeMap<u32, Demand> = BTreeMap::new();
        let mut planner = mixed(promise, &recorders, &demands, &Plan::default());
        for (next, step) in (0_u32..).zip(steps) {
            let before = planner.plan();
            match step {
                // One stream, by the books: the division of slots stays.
                Step::Add { class, priority, max_sessions } => {
                    let demand = Demand { class: Class::ALL[class], priority, max_sessions, ..Demand::default() };
                    demands.insert(next, demand);
                    let changed = planner.set(next, demand);
                    prop_assert!(changed.contains(&next));
                    let after = planner.plan();
                    for (stream, was) in &before.placed {
                        prop_assert!(changed.contains(stream) || after.placed.get(stream) == Some(was));
                    }
                }
                Step::Remove(which) => {
                    let Some(stream) = demands.keys().nth(which as usize % demands.len().max(1)).copied() else { continue };
                    demands.remove(&stream);
                    planner.remove(&stream);
                }
                Step::Is(at, condition) => {
                    let at = at as usize % recorders.len();
                    recorders[at].condition = condition;
                    planner = mixed(promise, &recorders, &demands, &before);
                }
                Step::Grow => {
                    let ordinal = recorders.len() as u32;
                    recorders.push(Recorder { ordinal, domain: ordinal / in_domain, condition: Condition::Active });
                    planner = mixed(promise, &recorders, &demands, &before);
                }
                Step::Shrink if recorders.len() > 3 => {
                    recorders.pop();
                    planner = mixed(promise, &recorders, &demands, &before);
                }
                Step::Shrink => continue,
            }
            let plan = planner.plan();
            check(&plan, &recorders, max_channels, failures);
            check_goes_on(&before, &plan, &recorders, &demands, max_channels);
            prop_assert_eq!(plan.placed.len() + plan.waiting.len(), demands.len());
            // Planning anew from here changes nothing, and the order of what is given does not matter.
            let (promise, division, recorders) = planner.pool();
            let mut turned = recorders.to_vec();
            turned.reverse();
            prop_assert_eq!(&Planner::new(promise, division, &turned, &demands, &held(&plan)).plan(), &plan);
        }
    }

    /// Without reserve: the rules of slots alone.
    #[test]
    fn slots_are_filled_by_priority_and_evenly(count in 0_u32..60, slots in 1_u32..9, number in 1_u32..8, priorities in prop::collection::vec(-2_i32..3, 60)) {
        let demands: BTreeMap<u32, Demand> =
            (0..count).map(|stream| (stream, Demand { priority: priorities[stream as usize], ..Demand::default() })).collect();
        let mut planner = fresh(promise(slots, 0, 0), &recorders(number, 1), &demands);
        let plan = planner.plan();
        prop_assert_eq!(plan.placed.len() as u32, count.min(slots * number));
        let lowest = plan.placed.keys().map(|stream| demands[stream].priority).min();
        let highest = plan.waiting.iter().map(|stream| demands[stream].priority).max();
        prop_assert!(highest.is_none() || lowest >= highest);
        let loads: Vec<u32> = planner.loads().iter().map(|load| load.primaries).collect();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    }
}

#[test]
fn one_stream_more_or_less_moves_no_other() {
    let recorders = recorders(8, 1);
    let promise = promise(24, 2, 2);
    let mut planner = fresh(promise, &recorders, &streams(80, &[Class::Ready, Class::None, Class::Playing]));
    // What is said holds while there is room: in a full pool the one that comes waits, and gets the slot of the one that goes.
    assert!(planner.pool().1.slots.normal * 8 > 80 && all_protected(&planner.plan()));
    let mut dice = Dice(5);
    for stream in 80..count(110, 1_000) {
        let before = planner.plan();
        let gone = *before.placed.keys().nth(dice.below(80) as usize).unwrap();
        assert_eq!(planner.set(stream, Demand { class: Class::Ready, ..Demand::default() }), [stream]);
        assert!(planner.remove(&gone).is_empty());
        let after = planner.plan();
        assert!(before.placed.iter().all(|(other, was)| *other == gone || after.placed.get(other) == Some(was)));
    }
}

/// A lost recorder: its streams go on where they are recorded by now, everybody else stays, and what is missing is given out anew.
#[test]
fn what_a_lost_recorder_had_is_promoted_in_place() {
    let mut recorders = recorders(6, 1);
    let demands = streams(36, &[Class::Ready]);
    let promise = promise(20, 2, 2);
    let before = fresh(promise, &recorders, &demands).plan();
    assert!(all_protected(&before));
    recorders[2].condition = Condition::Gone;
    // The second standby records some of them, because the first had no camera in sight.
    let mut previous = held(&before);
    for (stream, held) in &mut previous {
        held.active = Some(held.standbys[(*stream / 6 % 2) as usize]);
    }
    let division = divide(promise, &recorders, mix(promise, demands.values()));
    let planner = Planner::new(promise, division, &recorders, &demands, &previous);
    let after = planner.plan();
    for (stream, was) in &before.placed {
        let now = &after.placed[stream];
        if was.primary == 2 {
            assert_eq!(now.primary, was.standbys[(*stream / 6 % 2) as usize]);
        } else {
            assert_eq!(now.primary, was.primary);
            let kept: Vec<u32> = was.standbys.iter().copied().filter(|standby| *standby != 2).collect();
            assert!(kept.iter().all(|standby| now.standbys.contains(standby)));
        }
    }
    assert!(all_protected(&after));
    check(&after, &recorders, 20, 2);
}

/// A full pool loses a recorder: reserved slots are used, nothing stops, and what is no longer protected says so. It comes back: all is well again.
#[test]
fn a_full_pool_uses_its_reserve_and_gets_it_back() {
    let mut recorders = recorders(5, 1);
    let promise = promise(20, 1, 1);
    let mut planner = full(promise, &recorders, &[Class::Ready]);
    let (before, demands) = (planner.plan(), streams(80, &[Class::Ready]));
    assert_eq!(before.placed.len(), 80);
    recorders[4].condition = Condition::Gone;
    planner = replanned(promise, &recorders, &demands, &before);
    let without = planner.plan();
    assert_eq!(without.waiting.len(), 0);
    assert_eq!(planner.loads().iter().map(|load| load.in_reserved).sum::<u32>(), 16);
    assert!(without.placed.values().any(|assigned| assigned.protected == Some(false)));
    recorders[4].condition = Condition::Active;
    planner = replanned(promise, &recorders, &demands, &without);
    let back = planner.plan();
    assert_eq!(planner.loads().iter().map(|load| load.in_reserved).sum::<u32>(), 0);
    let moved = without.placed.iter().filter(|(stream, was)| back.placed[stream].primary != was.primary).count();
    assert_eq!(moved, 16, "no more than what sat in reserved slots");
    check(&back, &recorders, 20, 1);
}

#[test]
fn a_drained_recorder_is_emptied_into_its_own_standbys_first() {
    let mut recorders = recorders(6, 1);
    let demands = streams(60, &[Class::Ready]);
    let before = fresh(promise(20, 1, 1), &recorders, &demands).plan();
    recorders[0].condition = Condition::Draining;
    let after = replanned(promise(20, 1, 1), &recorders, &demands, &before).plan();
    for (stream, now) in &after.placed {
        assert!(now.primary != 0 && !now.standbys.contains(&0));
        let was = &before.placed[stream];
        assert_eq!(now.primary, if was.primary == 0 { was.standbys[0] } else { was.primary });
    }
    check(&after, &recorders, 20, 1);
}

#[test]
fn a_higher_priority_stops_nobody_but_takes_a_reserved_slot() {
    let recorders = recorders(5, 1);
    let mut planner = full(promise(10, 1, 1), &recorders, &[Class::Ready]);
    let before = planner.plan();
    // Normal slots are full: an equal waits.
    planner.set(900, Demand { class: Class::Ready, ..Demand::default() });
    assert_eq!(planner.plan().waiting, BTreeSet::from([900]));
    planner.set(901, Demand { class: Class::Ready, priority: 1, ..Demand::default() });
    let after = planner.plan();
    assert_eq!(after.waiting, BTreeSet::from([900]));
    assert_eq!(after.placed[&901].protected, Some(true), "protection goes by priority too");
    assert!(before.placed.iter().all(|(stream, was)| after.placed[stream].primary == was.primary));
    assert!(before.placed.keys().any(|stream| after.placed[stream].protected == Some(false)));
    check(&after, &recorders, 10, 1);
}

#[test]
fn a_camera_with_one_session_is_not_moved_for_tidiness() {
    let recorders = recorders(2, 1);
    let demands: BTreeMap<u32, Demand> = (0..4)
        .map(|stream| (stream, Demand { max_sessions: (stream < 2).then_some(1), ..Demand::default() }))
        .collect();
    let previous = demands.keys().map(|stream| (*stream, Held { primary: 0, ..Held::default() })).collect();
    // Four on one recorder, three normal slots, one reserved: the last by rank moves that can.
    let division = Division { slots: Slots { normal: 1, reserved: 3 }, standbys: 0, no_reserve: None };
    let plan = Planner::new(promise(4, 0, 0), division, &recorders, &demands, &previous).plan();
    let of = |ordinal: u32| {
        plan.placed.iter().filter(|(_, now)| now.primary == ordinal).map(|(stream, _)| *stream).collect::<Vec<_>>()
    };
    assert_eq!((of(0), of(1)), (vec![0, 1, 2], vec![3]));
}

/// A pool in a ring of peers grows by one recorder: nothing moves.
#[test]
fn a_large_pool_that_grows_moves_nothing() {
    let promise = promise(12, 1, 1);
    let demands = streams(40 * 8, &[Class::Ready]);
    let before = fresh(promise, &recorders(40, 1), &demands).plan();
    assert!(all_protected(&before));
    let after = replanned(promise, &recorders(41, 1), &demands, &before).plan();
    assert_eq!(before, after);
    check(&after, &recorders(41, 1), 12, 1);
}
