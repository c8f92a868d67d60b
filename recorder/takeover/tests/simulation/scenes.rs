//! Single faults, each with what it must get.

use crate::node::{Bug, MS, SECOND, name, number};
use crate::world::{Shape, World};

const GOP: u64 = 2 * SECOND;

/// One stream whose holders are recorders 0, 1, … in this order, recorded by 0 since a while.
fn calm(nodes: usize, standbys: usize) -> World {
    let mut world = World::new(1, &Shape { nodes, streams: 1, standbys, volumes: 1, rotating: false, bug: Bug::None });
    world.run_until(30 * SECOND, |_| {});
    assert_eq!((recording(&world), world.takeovers), (vec![0], 0));
    world
}

fn recording(world: &World) -> Vec<usize> {
    let records = |at: &usize| {
        world.nodes[*at].up && world.nodes[*at].held[0].as_ref().is_some_and(|held| held.machine.is_recording())
    };
    (0..world.nodes.len()).filter(records).collect()
}

/// Goes on until exactly these record; how long that took.
fn until(world: &mut World, wanted: &[usize], patience: u64) -> u64 {
    let begin = world.now;
    while recording(world) != wanted {
        let at = world.now;
        assert!(
            at < begin + patience,
            "{:?} record, not {wanted:?}, after {patience} us: {:#?}",
            recording(world),
            world.log
        );
        world.run_until(at + crate::world::TICK, |_| {});
    }
    world.now - begin
}

fn go_on(world: &mut World, length: u64) {
    let end = world.now + length;
    world.run_until(end, |_| {});
}

/// Nothing is lost but the last seconds, which are on their way.
fn whole(world: &mut World) {
    go_on(world, 20 * SECOND);
    world.end();
    world.check_frames(10 * SECOND, world.now - 10 * SECOND);
    let last = (world.now - 10 * SECOND) / crate::node::FRAME;
    let frames = &world.durable[0];
    let missing: Vec<_> = (60..last as usize).filter(|frame| !frames.get(*frame).copied().unwrap_or(false)).collect();
    assert!(world.wrong.is_empty() && missing.is_empty(), "{missing:?} {:?} {:#?}", world.wrong, world.log);
}

#[test]
fn a_slow_network_is_no_failure() {
    let mut world = calm(4, 2);
    world.delay = 400 * MS;
    go_on(&mut world, 600 * SECOND);
    assert_eq!((recording(&world), world.takeovers, world.doubled), (vec![0], 0, 0));
    whole(&mut world);
}

#[test]
fn a_primary_that_dies_is_replaced_and_has_the_stream_back_when_it_is_stable() {
    for (silent, soon) in [(false, 700 * MS), (true, 1_700 * MS)] {
        let mut world = calm(3, 1);
        world.kill(0, silent);
        assert!(until(&mut world, &[1], 5 * SECOND) <= soon, "silent: {silent}");
        go_on(&mut world, 7 * SECOND);
        world.start(0);
        until(&mut world, &[0, 1], SECOND);
        let together = until(&mut world, &[0], 20 * SECOND);
        assert!(together >= world.rules.hold, "{together}");
        assert_eq!(world.takeovers, 1);
        whole(&mut world);
    }
}

#[test]
fn a_primary_that_is_back_before_it_was_missed_has_failed_all_the_same() {
    let mut world = calm(3, 1);
    world.kill(0, false);
    go_on(&mut world, 100 * MS);
    world.start(0);
    // The standby has what is missing.
    until(&mut world, &[0, 1], 5 * SECOND);
    let together = until(&mut world, &[0], 30 * SECOND);
    assert!(together >= world.rules.hold, "{together}");
    whole(&mut world);
}

#[test]
fn one_standby_after_the_other() {
    let mut world = calm(4, 2);
    world.kill(0, true);
    until(&mut world, &[1], 2 * SECOND);
    go_on(&mut world, SECOND);
    world.kill(1, true);
    until(&mut world, &[2], 2 * SECOND);
    // The first standby is back; the second goes on, for nothing would be won.
    world.start(1);
    go_on(&mut world, 30 * SECOND);
    assert_eq!((recording(&world), world.takeovers), (vec![2], 2));
    world.start(0);
    until(&mut world, &[0], 20 * SECOND);
    whole(&mut world);
}

#[test]
fn recorders_that_do_not_hear_each_other_both_record_until_they_do() {
    for ways in [vec![(0, 1), (1, 0)], vec![(0, 1)], vec![(1, 0)]] {
        let mut world = calm(2, 1);
        world.cut.extend(ways);
        until(&mut world, &[0, 1], 3 * SECOND);
        go_on(&mut world, 60 * SECOND);
        world.cut.clear();
        // The primary never stopped: no need to wait until it is stable.
        assert!(until(&mut world, &[0], GOP + 5 * SECOND) <= GOP + SECOND);
        assert_eq!(world.takeovers, 1);
        whole(&mut world);
    }
}

#[test]
fn a_third_that_hears_both_keeps_them_from_recording_twice() {
    let mut world = calm(3, 2);
    world.cut.extend([(0, 1), (1, 0)]);
    go_on(&mut world, 60 * SECOND);
    assert_eq!((recording(&world), world.takeovers), (vec![0], 0));
    // What it says of a dead one is not believed for long.
    world.kill(0, true);
    assert!(until(&mut world, &[1], 5 * SECOND) <= 3_500 * MS);
    whole(&mut world);
}

#[test]
fn a_camera_out_of_one_recorders_reach_is_recorded_by_the_other() {
    let mut world = calm(3, 1);
    world.blind.insert((0, 0));
    assert!(until(&mut world, &[0, 1], 2 * SECOND) <= 700 * MS, "it says so itself");
    world.blind.clear();
    let together = until(&mut world, &[0], 20 * SECOND);
    assert!(together >= world.rules.hold, "{together}");
    whole(&mut world);
    // Out of everybody's reach: nobody is to blame.
    let mut world = calm(3, 1);
    world.blind.extend([(0, 0), (1, 0)]);
    go_on(&mut world, 10 * SECOND);
    assert_eq!(recording(&world), [0]);
}

#[test]
fn a_session_that_was_torn_for_a_moment_leaves_no_hole() {
    let mut world = calm(3, 1);
    world.blind.insert((0, 0));
    go_on(&mut world, crate::world::TICK);
    world.blind.clear();
    go_on(&mut world, 10 * SECOND);
    assert_eq!(recording(&world), [0]);
    whole(&mut world);
}

#[test]
fn a_hanging_disk_is_taken_over_from_by_a_better_one_only() {
    let mut world = calm(3, 1);
    world.nodes[0].site.hang(|_| true);
    let soon = until(&mut world, &[0, 1], 6 * SECOND);
    assert!((2 * SECOND..=4 * SECOND).contains(&soon), "{soon}");
    go_on(&mut world, 3 * SECOND);
    world.nodes[0].site.mend(world.now);
    until(&mut world, &[0], 20 * SECOND);
    whole(&mut world);
    // Each of three records one, and so knows of its disk.
    let mut world =
        World::new(1, &Shape { nodes: 3, streams: 3, standbys: 1, volumes: 1, rotating: false, bug: Bug::None });
    world.run_until(30 * SECOND, |_| {});
    world.nodes.iter_mut().for_each(|node| node.site.hang(|_| true));
    go_on(&mut world, 10 * SECOND);
    assert_eq!(recording(&world), [0], "recording on another disk that hangs helps nobody");
}

#[test]
fn a_recorder_that_is_to_end_is_followed_before_it_does() {
    let mut world = calm(3, 1);
    world.nodes[0].leaving = true;
    assert!(until(&mut world, &[0, 1], 2 * SECOND) <= 700 * MS);
    // Both record a whole GOP; then the first lets go.
    assert!(until(&mut world, &[1], 10 * SECOND) <= 2 * GOP + SECOND);
    world.kill(0, false);
    go_on(&mut world, 5 * SECOND);
    assert_eq!((recording(&world), world.takeovers), (vec![1], 1));
    world.start(0);
    until(&mut world, &[0], 20 * SECOND);
    whole(&mut world);
    // With nobody to follow it goes on until its process ends.
    let mut world = calm(2, 1);
    world.kill(1, false);
    world.nodes[0].leaving = true;
    go_on(&mut world, 20 * SECOND);
    assert_eq!(recording(&world), [0]);
}

#[test]
fn a_standby_that_starts_waits_until_it_can_hear_the_others() {
    let mut world = calm(3, 1);
    world.delay = 600 * MS;
    world.kill(1, false);
    go_on(&mut world, 2 * SECOND);
    world.start(1);
    go_on(&mut world, 20 * SECOND);
    assert_eq!((recording(&world), world.takeovers), (vec![0], 0));
    // Nobody waits for ever.
    world.kill(0, true);
    world.kill(1, true);
    go_on(&mut world, 2 * SECOND);
    world.start(1);
    until(&mut world, &[1], 4 * SECOND);
}

#[test]
fn mirrors_record_all_the_time() {
    let mut world =
        World::new(1, &Shape { nodes: 3, streams: 1, standbys: 1, volumes: 1, rotating: false, bug: Bug::None });
    world.mirror();
    world.run_until(30 * SECOND, |_| {});
    assert_eq!(recording(&world), [0, 1]);
    world.kill(0, true);
    go_on(&mut world, 10 * SECOND);
    assert_eq!(recording(&world), [1]);
    world.start(0);
    go_on(&mut world, 60 * SECOND);
    assert_eq!(recording(&world), [0, 1]);
    // One that is to end does not wait for a third.
    world.nodes[1].leaving = true;
    until(&mut world, &[0], GOP + SECOND);
    whole(&mut world);
}

#[test]
fn a_standby_without_a_slot_leaves_it_to_the_next() {
    let mut world = calm(4, 2);
    world.nodes[1].slots = 0;
    world.kill(0, true);
    until(&mut world, &[2], 3 * SECOND);
    go_on(&mut world, SECOND);
    world.nodes[1].slots = 1;
    go_on(&mut world, 20 * SECOND);
    assert_eq!(recording(&world), [2], "{:#?}", world.log);
    whole(&mut world);
}

#[test]
fn standing_still_takes_nothing_over() {
    let mut world = calm(3, 1);
    world.nodes[1].paused_until = world.now + 20 * SECOND;
    go_on(&mut world, 60 * SECOND);
    assert_eq!((recording(&world), world.takeovers), (vec![0], 0));
    // The primary does: it is taken over from, and what it does on waking is no harm.
    world.nodes[0].paused_until = world.now + 20 * SECOND;
    until(&mut world, &[0, 1], 3 * SECOND);
    until(&mut world, &[0], 60 * SECOND);
    assert_eq!(world.takeovers, 1);
    whole(&mut world);
}

#[test]
fn a_primary_that_comes_and_goes_is_trusted_less_each_time() {
    let mut world = calm(3, 1);
    let begin = world.now;
    let mut since = Vec::new();
    for _ in 0..60 {
        world.kill(0, false);
        let before = world.takeovers;
        go_on(&mut world, SECOND);
        world.start(0);
        if world.takeovers > before {
            since.push(world.now - begin);
        }
        // Just back in its place it dies again.
        let at = world.now;
        while recording(&world) != [0] && world.now < at + 60 * SECOND {
            go_on(&mut world, SECOND);
        }
    }
    let apart: Vec<u64> = since.windows(2).map(|pair| (pair[1] - pair[0]) / SECOND).collect();
    assert!(apart.windows(2).all(|pair| pair[1] >= pair[0].min(40)), "{apart:?}");
    assert!(apart.last().is_some_and(|last| *last >= 40), "{apart:?}");
    whole(&mut world);
}

#[test]
fn a_minute_without_a_takeover_ends_the_doubling() {
    // Those that hear of one from each other must not keep it young.
    let mut world = calm(4, 2);
    for _ in 0..3 {
        world.kill(0, true);
        until(&mut world, &[1], 2 * SECOND);
        world.start(0);
        let together = until(&mut world, &[0], 40 * SECOND);
        assert!(together < world.rules.hold + 2 * SECOND, "{together}");
        go_on(&mut world, 62 * SECOND);
    }
    whole(&mut world);
}

#[test]
fn a_move_to_other_recorders_loses_nothing_and_what_was_before_lets_go() {
    for seed in 0..20 {
        let mut world =
            World::new(seed, &Shape { nodes: 5, streams: 1, standbys: 1, volumes: 1, rotating: false, bug: Bug::None });
        world.run_until(20 * SECOND, |_| {});
        for _ in 0..4 {
            world.replan(0);
            go_on(&mut world, 25 * SECOND);
        }
        world.check_calm();
        whole(&mut world);
    }
}

#[test]
fn a_recorder_that_returns_with_an_old_plan_is_told_and_lets_go() {
    let mut world = calm(4, 1);
    world.kill(0, true);
    until(&mut world, &[1], 3 * SECOND);
    // Two plans without it. It is started where the control plane does not reach it.
    for _ in 0..2 {
        while {
            world.replan(0);
            world.plans[0].holders.contains(&name(0))
        } {}
        go_on(&mut world, 20 * SECOND);
    }
    let primary = number(world.plans[0].holders[0]);
    world.nodes[0].watches = false;
    world.start(0);
    go_on(&mut world, 20 * SECOND);
    assert_eq!(recording(&world), [primary]);
    whole(&mut world);
}
