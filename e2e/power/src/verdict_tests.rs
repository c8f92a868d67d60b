//! What each part of a verdict is for, on footage made up here.

use framekeeper_e2e_checker::found::FoundFrame;
use framekeeper_e2e_checker::ledger::Emitted;

use super::*;

/// Of the camera: a picture each 40 ms.
const BEGAN_NS: i64 = 1_000_000_000_000;
const FRAME_NS: i64 = FRAME_US * 1_000;
/// The recorder was started again at this picture.
const RESTARTED: u64 = 20;
/// The power was cut right behind this one.
const CUT: u64 = 99;

fn emitted_ns(number: u64) -> i64 {
    BEGAN_NS + number as i64 * FRAME_NS
}

fn ledger() -> Ledger {
    let picture = |number: u64| Emitted {
        number,
        media_time: number as i64 * 3_600,
        wall_ns: emitted_ns(number),
        hash: number,
        bytes: 1_000,
        key: number.is_multiple_of(25),
    };
    Ledger { camera: "door".to_owned(), video: (0..200).map(picture).collect(), ..Ledger::default() }
}

/// What came back: these pictures, recorded 3 ms after they were sent.
fn found(numbers: impl Iterator<Item = u64>) -> Found {
    let picture = |number: u64| FoundFrame {
        number: Some(number),
        hash: number,
        media_time: number as i64 * 3_600,
        file_seconds: number as f64 / 25.0,
        wall_us: Some(recorded_ms(number) * 1_000 + 77),
        ..FoundFrame::default()
    };
    Found { stream: "default/door".to_owned(), video: numbers.map(picture).collect(), ..Found::default() }
}

fn recorded_ms(number: u64) -> i64 {
    emitted_ns(number) / 1_000_000 + 3
}

/// Durable up to picture 70, and a sync had covered what was there when picture 75 was sent.
fn promise() -> Promise {
    Promise {
        cut_wall_ns: emitted_ns(CUT) as u64,
        durable_ms: BTreeMap::from([("door".to_owned(), recorded_ms(70))]),
        from_ms: BTreeMap::from([("door".to_owned(), recorded_ms(3))]),
        arrived_us: Some(emitted_ns(75) / 1_000),
        handed_us: BTreeMap::from([("default/door".to_owned(), emitted_ns(90) / 1_000)]),
        max_lost_ms: Some(1_000.0),
        max_open_ms: 2_000.0,
        restarted_ns: emitted_ns(RESTARTED),
    }
}

fn judged(numbers: impl Iterator<Item = u64>, promise: &Promise) -> Verdict {
    let mut verdict = Verdict::default();
    of_stream(&mut verdict, Some(&found(numbers)), &ledger(), promise);
    verdict
}

/// Without those that the restart cost.
fn but(missing: impl Fn(u64) -> bool) -> impl Iterator<Item = u64> {
    (2..=CUT).filter(move |number| !(18..25).contains(number) && !missing(*number))
}

#[test]
fn what_was_not_synced_may_be_missing_and_holes_in_it_too() {
    assert_eq!(judged(but(|_| false), &promise()).violations, []);
    let end = judged(but(|number| number > 75), &promise());
    assert_eq!((end.lost_ms, end.violations), ((CUT - 76) as f64 * 40.0, vec![]));
    let hole = judged(but(|number| (76..90).contains(&number)), &promise());
    assert_eq!((hole.lost_ms, hole.violations), ((CUT - 76) as f64 * 40.0, vec![]));
}

#[test]
fn what_a_sync_covered_must_be_there() {
    // The picture that was sent a frame before what had arrived for sure.
    let Violation::SyncedLost { stream, missing_ms } = &judged(but(|number| number >= 74), &promise()).violations[0]
    else {
        panic!("not found out");
    };
    assert_eq!((stream.as_str(), *missing_ms), ("door", Some(0)));
    // However much came back behind it, and whether the clock judges or not.
    let busy = Promise { max_lost_ms: None, ..promise() };
    let lost = Violation::SyncedLost { stream: "door".to_owned(), missing_ms: Some(80) };
    assert_eq!(judged(but(|number| number == 72), &busy).violations, [lost]);
    // What the recorder never had cannot be on the disk.
    let kept_back_us = emitted_ns(74) / 1_000 - STAMPS_US;
    let late = Promise { handed_us: BTreeMap::from([("default/door".to_owned(), kept_back_us)]), ..busy.clone() };
    assert_eq!(judged(but(|number| number == 72), &late).violations, []);
    assert_eq!(judged(but(|number| number == 71), &late).violations.len(), 1);
    assert_eq!((late.kept_back_ms(), busy.kept_back_ms()), (100.0, 0.0));
    let nothing_synced = Promise { arrived_us: None, ..busy };
    assert_eq!(judged(but(|number| number == 72), &nothing_synced).violations, []);
}

#[test]
fn what_was_said_to_be_durable_must_be_there_and_all_before_it() {
    let unknown = Promise { arrived_us: None, max_lost_ms: None, ..promise() };
    let lost = |missing_ms| vec![Violation::DurableLost { stream: "door".to_owned(), missing_ms: Some(missing_ms) }];
    assert_eq!(judged(but(|number| number >= 70), &unknown).violations, lost(40));
    assert_eq!(judged(but(|number| number == 50), &unknown).violations, lost(800));
    assert_eq!(judged(but(|number| number >= 71), &unknown).violations, []);
    let mut verdict = Verdict::default();
    of_stream(&mut verdict, None, &ledger(), &promise());
    assert_eq!(verdict.violations.len(), 2);
    assert!(verdict.violations.iter().all(Violation::is_loss));
}

#[test]
fn the_clock_judges_where_the_machine_was_quiet() {
    let tight = Promise { max_lost_ms: Some(900.0), ..promise() };
    assert_eq!(
        judged(but(|number| number > 75), &tight).violations,
        [Violation::TooMuchLost { stream: "door".to_owned(), lost_ms: 920.0 }]
    );
    let busy = Promise { max_lost_ms: None, ..promise() };
    assert_eq!(judged(but(|number| number > 75), &busy).violations, []);
}

#[test]
fn old_footage_and_frames_that_differ_are_noticed() {
    assert_eq!(
        judged(but(|number| number < 5), &promise()).violations,
        [Violation::OldLost { stream: "door".to_owned(), missing_ms: 80 }]
    );
    let mut other = ledger();
    other.video[60].hash = 1;
    let mut verdict = Verdict::default();
    of_stream(&mut verdict, Some(&found(but(|_| false))), &other, &promise());
    assert!(matches!(&verdict.violations[..], [Violation::Wrong(what), ..] if what.contains("altered")), "{verdict:?}");
    let twice = but(|_| false).chain(std::iter::once(60));
    assert!(matches!(&judged(twice, &promise()).violations[..], [Violation::Wrong(_)]));
}
