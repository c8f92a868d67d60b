//! Recorders of one test, their heartbeats carried by hand.

use std::sync::{Arc, Mutex};

use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_peer::Brain as _;
use framekeeper_takeover::{Assignment, Class, Footage, Own, Rules, SteadyTime};
use uuid::Uuid;

use super::brain::{Brain, Seat};
use crate::channel::Wish;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const STREAM: Uuid = Uuid::from_u128(7);

fn name(number: usize) -> Uuid {
    Uuid::from_u128(100 + number as u128)
}

fn plan(sequence: u64, holders: &[usize], retired: &[usize]) -> Assignment {
    Assignment {
        version: PlanVersion { term: 1, sequence },
        epoch: 1,
        class: Class::Standby,
        holders: holders.iter().map(|number| name(*number)).collect(),
        retired: retired.iter().map(|number| name(*number)).collect(),
    }
}

/// A channel whose frames are durable at once.
#[derive(Default)]
struct Desk {
    own: Mutex<Own>,
    wishes: Mutex<Vec<Wish>>,
}

struct DeskSeat(Arc<Desk>);

impl Seat for DeskSeat {
    fn own(&self, now_us: u64) -> Own {
        let mut own = *self.0.own.lock().unwrap();
        let durable = SteadyTime(now_us as i64);
        own.footage = own.footage.map(|footage| Footage { durable, ..footage });
        own
    }
    fn wish(&self, wish: Wish) {
        self.0.wishes.lock().unwrap().push(wish);
    }
}

impl Desk {
    fn wishes(&self) -> Vec<Wish> {
        std::mem::take(&mut *self.wishes.lock().unwrap())
    }
}

struct World {
    now: u64,
    up: Vec<bool>,
    /// No heartbeat arrives.
    cut: bool,
    brains: Vec<Brain>,
    desks: Vec<Arc<Desk>>,
}

impl World {
    /// Recorders that have keys and hold the stream by this plan.
    fn new(recorders: usize, plan: &Assignment) -> Self {
        let mut world =
            Self { now: SECOND, up: vec![true; recorders], cut: false, brains: Vec::new(), desks: Vec::new() };
        for me in 0..recorders {
            let mut brain = Brain::new(name(me), Rules { hold: 3 * SECOND, ..Rules::default() });
            let others: Vec<_> = (0..recorders).filter(|other| *other != me).map(|other| (name(other), true)).collect();
            brain.set_peers(world.now, &others);
            let desk = Arc::new(Desk::default());
            *desk.own.lock().unwrap() = Own { camera: true, storage: true, slot: true, gop: SECOND, ..Own::default() };
            if plan.rank(name(me)).is_some() {
                world.hold(&mut brain, &desk, plan);
            }
            world.brains.push(brain);
            world.desks.push(desk);
        }
        world
    }

    fn hold(&self, brain: &mut Brain, desk: &Arc<Desk>, plan: &Assignment) {
        let desk = Arc::clone(desk);
        brain.hold(self.now, STREAM, plan.clone(), 0, None, move || Box::new(DeskSeat(desk)));
    }

    fn plan(&mut self, number: usize, plan: &Assignment) {
        let desk = Arc::clone(&self.desks[number]);
        self.brains[number].hold(self.now, STREAM, plan.clone(), 0, None, move || Box::new(DeskSeat(desk)));
    }

    /// The first one, that recorded it alone in epoch 5, holds it together with others from now on.
    fn share(&mut self, plan: &Assignment) {
        let desk = Arc::clone(&self.desks[0]);
        self.brains[0].hold(self.now, STREAM, plan.clone(), 0, Some(5), move || Box::new(DeskSeat(desk)));
    }

    /// The first one is to hold it no more.
    fn retire(&mut self, plan: &Assignment, alone: bool) -> bool {
        let desk = Arc::clone(&self.desks[0]);
        let seat = || alone.then(|| (1, Box::new(DeskSeat(desk)) as Box<dyn Seat>));
        self.brains[0].retire(self.now, STREAM, plan.clone(), seat)
    }

    /// It records from now on, or does not.
    fn footage(&self, number: usize, records: bool) {
        let first = SteadyTime(self.now as i64);
        self.desks[number].own.lock().unwrap().footage = records.then_some(Footage { first, durable: first });
    }

    /// All live ones decide and tell each other, each 50 and 250 ms, or both each 250 ms while all is quiet, until the time has come or `until` is so. How
    /// long it took.
    fn run(&mut self, at_most: u64, mut until: impl FnMut(&mut Self) -> bool) -> u64 {
        let start = self.now;
        while self.now < start + at_most {
            self.now += 50 * MS;
            let live: Vec<usize> = (0..self.brains.len()).filter(|at| self.up[*at]).collect();
            let beat = self.now.is_multiple_of(250 * MS);
            for at in &live {
                if beat || self.brains[*at].is_restless(self.now) {
                    self.brains[*at].step(self.now);
                }
            }
            if beat && !self.cut {
                for from in &live {
                    for to in live.iter().filter(|to| *to != from) {
                        let (hears, reports) = self.brains[*from].tell(self.now, name(*to));
                        self.brains[*to].hear(self.now, name(*from), hears, reports);
                    }
                }
            }
            if until(self) {
                return self.now - start;
            }
        }
        at_most
    }

    fn die(&mut self, number: usize) {
        self.up[number] = false;
        let now = self.now;
        self.brains.iter_mut().for_each(|brain| brain.close(now, name(number)));
    }

    /// One that died comes back with nothing in memory.
    fn rise(&mut self, number: usize, plan: &Assignment) {
        let mut brain = Brain::new(name(number), Rules { hold: 3 * SECOND, ..Rules::default() });
        let others: Vec<_> = (0..self.up.len()).filter(|other| *other != number).collect();
        brain.set_peers(self.now, &others.into_iter().map(|other| (name(other), true)).collect::<Vec<_>>());
        let desk = Arc::clone(&self.desks[number]);
        self.hold(&mut brain, &desk, plan);
        self.brains[number] = brain;
        self.up[number] = true;
        self.footage(number, false);
    }
}

/// Both are up, the first one records.
fn pair() -> World {
    let mut world = World::new(2, &plan(1, &[0, 1], &[]));
    world.run(100 * MS, |_| false);
    assert_eq!(world.desks[0].wishes(), [Wish::Record { epoch: 2, from: None }]);
    world.footage(0, true);
    world.run(5 * SECOND, |_| false);
    assert_eq!(world.desks[1].wishes(), [], "the standby stands by");
    world
}

#[test]
fn a_standby_takes_over_at_once_and_gives_back() {
    let mut world = pair();
    let died = world.now;
    world.die(0);
    let took = world.run(5 * SECOND, |world| !world.desks[1].wishes.lock().unwrap().is_empty());
    assert!(took <= 350 * MS, "{took} µs");
    let [Wish::Record { epoch: 3, from: Some(from) }] = world.desks[1].wishes()[..] else { panic!("no takeover") };
    assert!((died - 300 * MS..=died).contains(&(from.0 as u64)), "{from:?}, died at {died}");
    world.footage(1, true);
    let counts = world.brains[1].counts(world.now);
    assert_eq!((counts.takeovers, counts.taken, counts.alive, counts.peers), (1, 1, 0, 1));
    let (times, detection) = counts.detection.total();
    assert!(times == 1 && detection.as_millis() <= 600, "{detection:?}");
    assert_eq!(counts.switching.total().0, 0, "nothing of it is durable yet");
    world.run(SECOND, |_| false);
    let (times, switching) = world.brains[1].counts(world.now).switching.total();
    assert!(times == 1 && switching.as_millis() <= 100, "{switching:?}");

    // It is back, with nothing in memory, and records: after the hold it has the stream again.
    world.run(10 * SECOND, |_| false);
    world.rise(0, &plan(1, &[0, 1], &[]));
    world.run(500 * MS, |_| false);
    assert!(matches!(world.desks[0].wishes()[..], [Wish::Record { .. }]));
    world.footage(0, true);
    let took = world.run(10 * SECOND, |world| !world.desks[1].wishes.lock().unwrap().is_empty());
    assert!((2_500 * MS..4_500 * MS).contains(&took), "{took} µs");
    assert_eq!(world.desks[1].wishes(), [Wish::StandBy]);
    let counts = world.brains[1].counts(world.now);
    assert_eq!((counts.handbacks, counts.taken, counts.alive, counts.false_takeovers), (1, 0, 1, 0));
}

#[test]
fn a_takeover_from_one_that_had_been_recording_all_the_time_is_counted_as_false() {
    let mut world = pair();
    // Neither hears the other one.
    world.cut = true;
    let took = world.run(5 * SECOND, |world| !world.desks[1].wishes.lock().unwrap().is_empty());
    assert!((1_000 * MS..=1_600 * MS).contains(&took), "{took} µs");
    world.footage(1, true);
    world.desks[1].wishes();
    world.run(3 * SECOND, |_| false);
    world.cut = false;
    world.run(5 * SECOND, |_| false);
    assert_eq!((world.desks[0].wishes(), world.desks[1].wishes()), (vec![], vec![Wish::StandBy]));
    let counts = world.brains[1].counts(world.now);
    assert_eq!((counts.takeovers, counts.handbacks, counts.false_takeovers), (1, 1, 1));
    let (_, detection) = counts.detection.total();
    assert!((1_000..=1_600).contains(&detection.as_millis()), "{detection:?}");
}

#[test]
fn a_recorder_that_was_not_told_of_the_newest_plans_lets_go_of_what_they_give_to_others() {
    let old = plan(1, &[0, 1], &[]);
    let mut world = World::new(3, &old);
    world.run(100 * MS, |_| false);
    world.footage(0, true);
    world.run(5 * SECOND, |_| false);
    world.desks[0].wishes();
    // To one that has nothing of it by the plan that it knows; the standby goes on standing by.
    let newest = plan(3, &[2, 1], &[0]);
    world.plan(1, &newest);
    world.plan(2, &newest);
    world.run(SECOND, |_| false);
    assert!(matches!(world.desks[2].wishes()[..], [Wish::Record { .. }]));
    assert_eq!((world.desks[0].wishes(), world.desks[1].wishes()), (vec![], vec![]), "nothing of it is durable yet");
    world.footage(2, true);
    let took = world.run(10 * SECOND, |world| !world.desks[0].wishes.lock().unwrap().is_empty());
    assert!(took < 3 * SECOND, "{took} µs");
    assert_eq!(world.desks[0].wishes(), [Wish::StandBy]);
}

#[test]
fn a_recorder_that_was_never_known_is_waited_for_and_not_for_ever() {
    let mut world = World::new(2, &plan(1, &[0, 1], &[]));
    world.up[0] = false;
    let mut brain = Brain::new(name(1), Rules::default());
    brain.set_peers(world.now, &[(name(0), false)]);
    let desk = Arc::clone(&world.desks[1]);
    world.hold(&mut brain, &desk, &plan(1, &[0, 1], &[]));
    world.brains[1] = brain;
    let took = world.run(60 * SECOND, |world| !world.desks[1].wishes.lock().unwrap().is_empty());
    assert!((19 * SECOND..21 * SECOND).contains(&took), "{took} µs");
    // Its key is told, and it is heard: no takeover.
    let mut world = World::new(2, &plan(1, &[0, 1], &[]));
    world.brains[1].set_peers(world.now, &[]);
    world.brains[1].set_peers(world.now, &[(name(0), false)]);
    world.up[0] = false;
    world.run(4 * SECOND, |_| false);
    let now = world.now;
    world.brains[1].set_peers(now, &[(name(0), true)]);
    world.up[0] = true;
    world.footage(0, true);
    world.run(30 * SECOND, |_| false);
    assert_eq!(world.desks[1].wishes(), []);
}

#[test]
fn who_is_to_end_is_relieved_first() {
    let mut world = pair();
    assert!(world.brains[0].is_handing_over(world.now));
    let now = world.now;
    world.brains[0].leave(now);
    let took = world.run(5 * SECOND, |world| !world.desks[1].wishes.lock().unwrap().is_empty());
    assert!(took <= 800 * MS, "{took} µs");
    world.footage(1, true);
    world.run(5 * SECOND, |world| !world.brains[0].is_handing_over(world.now));
    assert_eq!(world.desks[0].wishes(), [Wish::StandBy]);
    // Alone, there is nobody to wait for.
    let mut world = pair();
    world.die(1);
    world.run(SECOND, |_| false);
    assert!(!world.brains[0].is_handing_over(world.now));
}

#[test]
fn a_stream_moves_without_a_frame_that_nobody_records() {
    moves(false);
    // One that was held alone is nothing that others were ever told of.
    moves(true);
}

fn moves(alone: bool) {
    let mut world = World::new(2, &plan(1, if alone { &[] } else { &[0] }, &[]));
    world.run(SECOND, |_| false);
    world.footage(0, true);
    world.desks[0].wishes();
    // The operator gives it to the other one, which hears of it later.
    let moved = plan(2, &[1], &[0]);
    assert!(world.retire(&moved, alone));
    world.run(5 * SECOND, |_| false);
    assert_eq!((world.desks[0].wishes(), world.brains[0].released()), (vec![], vec![]));
    world.plan(1, &moved);
    world.run(200 * MS, |_| false);
    assert!(matches!(world.desks[1].wishes()[..], [Wish::Record { .. }]));
    assert_eq!(world.desks[0].wishes(), [], "nothing of it is durable yet");
    world.footage(1, true);
    world.run(3 * SECOND, |_| false);
    assert_eq!(world.desks[0].wishes(), [Wish::StandBy]);
    assert_eq!(world.brains[0].released(), [STREAM]);
}

/// The first one records alone, and others are to be told of it.
fn alone() -> World {
    let mut world = World::new(2, &plan(1, &[], &[]));
    world.footage(0, true);
    world.run(SECOND, |_| false);
    world
}

#[test]
fn who_recorded_alone_and_stands_by_from_now_on_records_until_the_primary_does() {
    let mut world = alone();
    let shared = plan(2, &[1, 0], &[]);
    world.share(&shared);
    // The primary hears of it later.
    world.run(5 * SECOND, |_| false);
    assert_eq!(world.desks[0].wishes(), [], "it goes on in the epoch in which it records");
    world.plan(1, &shared);
    world.run(200 * MS, |_| false);
    assert!(matches!(world.desks[1].wishes()[..], [Wish::Record { epoch: 6, from: Some(_) }]));
    assert_eq!(world.desks[0].wishes(), [], "nothing of it is durable yet");
    world.footage(1, true);
    world.run(3 * SECOND, |_| false);
    assert_eq!(world.desks[0].wishes(), [Wish::StandBy]);
    // It is a standby as any other.
    world.run(5 * SECOND, |_| false);
    assert_eq!((world.desks[0].wishes(), world.brains[0].released()), (vec![], vec![]));
    world.die(1);
    world.run(SECOND, |_| false);
    assert!(matches!(world.desks[0].wishes()[..], [Wish::Record { epoch: 7, from: Some(_) }]));
}

#[test]
fn who_recorded_alone_and_is_to_record_together_with_others_is_not_interrupted() {
    let mirrored = Assignment { class: Class::Mirrored, ..plan(2, &[1, 0], &[]) };
    for shared in [plan(2, &[0, 1], &[]), mirrored] {
        let mut world = alone();
        world.share(&shared);
        world.plan(1, &shared);
        world.run(10 * SECOND, |_| false);
        assert_eq!(world.desks[0].wishes(), [Wish::Record { epoch: 6, from: None }], "{shared:?}");
    }
}

#[test]
fn who_sees_nothing_of_a_stream_that_moves_does_not_wait_for_its_camera() {
    let mut world = World::new(2, &plan(1, &[], &[]));
    let blind = |world: &World, at: usize| world.desks[at].own.lock().unwrap().camera = false;
    (0..2).for_each(|at| blind(&world, at));
    let moved = plan(2, &[1], &[0]);
    assert!(world.retire(&moved, true));
    world.run(5 * SECOND, |_| false);
    assert!(world.brains[0].released().is_empty(), "nobody else was told of it yet");
    world.plan(1, &moved);
    world.run(SECOND, |_| false);
    assert_eq!(world.brains[0].released(), [STREAM]);
}

#[test]
fn a_process_that_stood_still_accuses_nobody() {
    let mut world = pair();
    world.now += 20 * SECOND;
    world.run(2 * SECOND, |_| false);
    assert_eq!(world.desks[1].wishes(), []);
}
