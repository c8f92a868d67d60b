//! One stream on its standby: how long a primary is waited for that does not come, and when one that is back has its stream again.

use framekeeper_media::boxes::run::PlanVersion;
use uuid::Uuid;

use crate::report::tests::report;
use crate::{Action, Assignment, Class, Footage, Liveness, Own, Peer, Report, Rules, SteadyTime, Stream};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const STEP: u64 = 50 * MS;
const PRIMARY: Uuid = Uuid::from_u128(1);
const STANDBY: Uuid = Uuid::from_u128(2);

fn at(time: u64) -> SteadyTime {
    SteadyTime(time as i64)
}

/// Of a primary from whom this is durable.
fn records(first: u64, durable: u64) -> Report {
    Report { footage: Some(Footage { first: at(first), durable: at(durable) }), ..report() }
}

/// Of one whose process is so old, and has not seen the camera yet.
fn begins(age: u64) -> Report {
    Report { able: false, holding_for: age, ..report() }
}

/// A standby that sees the camera.
struct Bench {
    now: u64,
    rules: Rules,
    plan: Assignment,
    stream: Stream,
    /// The first picture that it has recorded.
    first: Option<SteadyTime>,
}

impl Bench {
    fn new() -> Self {
        let plan = Assignment {
            version: PlanVersion { term: 1, sequence: 1 },
            epoch: 1,
            class: Class::Standby,
            holders: vec![PRIMARY, STANDBY],
            retired: Vec::new(),
        };
        let stream = Stream::new(STANDBY, 0, 0);
        Self { now: 100 * SECOND, rules: Rules::default(), plan, stream, first: None }
    }

    /// What it does next; `says`: what the primary says, where it is heard.
    fn step(&mut self, says: Option<Report>) -> Option<Action> {
        self.now += STEP;
        let footage = self.first.map(|first| Footage { first, durable: at(self.now) });
        let own = Own { camera: true, storage: true, slot: true, footage, ..Own::default() };
        let liveness = if says.is_some() { Liveness::Alive } else { Liveness::Failed };
        let primary = Peer { recorder: PRIMARY, liveness, report: says.as_ref() };
        self.stream.step(self.now, &self.rules, &self.plan, &own, &[primary])
    }

    /// Its process stands still.
    fn pause(&mut self, length: u64) {
        self.now += length;
        self.stream.slept(length);
    }
}

#[test]
fn a_primary_that_ends_again_and_again_before_it_records_is_waited_for_once() {
    // Each of its lives takes 1.5 s. It never sees the camera, or does just before it ends, and nothing of that becomes durable.
    for sees in [false, true] {
        let mut bench = Bench::new();
        assert_eq!(bench.step(Some(records(90 * SECOND, 100 * SECOND))), None);
        let mut waited = 0;
        let action = loop {
            let age = waited % (1_500 * MS);
            let says = Report { able: sees && age >= 1_250 * MS, ..begins(age) };
            if let Some(action) = bench.step(Some(says)) {
                break action;
            }
            waited += STEP;
            assert!(waited < 10 * SECOND, "it is waited for for ever, sees: {sees}");
        };
        assert!(matches!(action, Action::Begin { .. }), "{action:?}");
        assert_eq!(waited, bench.rules.joining, "sees: {sees}");
    }
}

#[test]
fn a_primary_that_records_in_between_is_waited_for_each_time() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        for age in (0..bench.rules.joining).step_by(STEP as usize) {
            assert_eq!(bench.step(Some(begins(age))), None);
        }
        let durable = bench.now;
        assert_eq!(bench.step(Some(records(90 * SECOND, durable))), None);
    }
    // Nor does it count for how long this one stood still.
    for age in (0..bench.rules.joining).step_by(STEP as usize) {
        assert_eq!(bench.step(Some(begins(age))), None);
    }
    bench.pause(20 * SECOND);
    assert_eq!(bench.step(Some(begins(0))), None);
}

#[test]
fn standing_still_adds_nothing_to_the_hold_and_takes_nothing_from_it() {
    let mut bench = Bench::new();
    assert!(matches!(bench.step(None), Some(Action::Begin { .. })));
    bench.first = Some(at(bench.now));
    // It is back, with nothing of before.
    let back = bench.now + STEP;
    let mut watched = 0;
    let action = loop {
        let says = records(back, bench.now + STEP);
        if let Some(action) = bench.step(Some(says)) {
            break action;
        }
        watched += STEP;
        assert!(watched <= bench.rules.hold, "it is not given back");
        if watched.is_multiple_of(5 * SECOND) {
            bench.pause(20 * SECOND);
        }
    };
    assert_eq!((action, watched), (Action::End { false_alarm: false }, bench.rules.hold));
}
