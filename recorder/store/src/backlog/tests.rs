use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SPS: &[u8] = &[
    0x67, 0x4d, 0x40, 0x0d, 0xec, 0xa0, 0xa0, 0xfd, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x03, 0x01,
    0x90, 0x78, 0xa1, 0x4c, 0xb0,
];

pub(crate) fn run(name: u128, gap: Option<GapReason>) -> RunStart {
    let video = H264Parameters::from_sps_pps(SPS, &[&[0x68, 0xeb, 0xe3, 0xcb, 0x20]]).unwrap();
    RunStart {
        run: Uuid::from_u128(name),
        epoch: 1,
        rank: 0,
        plan_version: PlanVersion { term: 1, sequence: 1 },
        gap,
        init: Arc::new(InitSegment::new(&video, None)),
        audio_timescale: 0,
        sender_report: None,
    }
}

fn fragment(key: bool) -> Fragment {
    Fragment { begins_random_access: key, ..Fragment::default() }
}

/// What was handed over, in short: runs with their gap (`+` for one like the named), fragments as `K` and `.`.
fn told(handed: &Handed) -> String {
    let one = |(number, item): &(u64, Item)| match item {
        Item::Begin(begin) => {
            let again = if begin.anew || *number < handed.again_below { "+" } else { "" };
            let gap = begin.start.gap.map_or("?", GapReason::as_str);
            format!("[{}{again} {gap}]", begin.start.run.as_u128())
        }
        Item::Fragment(fragment) => if fragment.begins_random_access { "K" } else { "." }.to_owned(),
        Item::Finish(_) => "F".to_owned(),
        Item::Seal => "S".to_owned(),
        Item::Nothing => "-".to_owned(),
    };
    handed.items.iter().map(one).collect()
}

fn with(fragments: &str) -> Backlog {
    let mut log = Backlog::default();
    log.begin(run(1, None), false);
    fragments.chars().for_each(|c| log.fragment(fragment(c == 'K'), 10));
    log
}

#[test]
fn the_size_of_a_gop_is_known_once_one_was_whole() {
    assert_eq!(with("..K...").gop_bytes(), None);
    assert_eq!(with("..K...K").gop_bytes(), Some(40));
    assert_eq!(with("K...K......").gop_bytes(), Some(70), "the one that goes on is larger");
    let mut log = with("K...K..");
    log.cut();
    log.give_up();
    assert_eq!(log.gop_bytes(), Some(40), "what is in memory does not matter");
}

#[test]
fn all_from_the_key_frame_of_the_first_frame_at_risk_goes_on() {
    let mut log = with("K..K..K.");
    assert_eq!(told(&log.drain()), "[1 ?]K..K..K.");
    assert_eq!(told(&log.drain()), "");
    // Up to the fifth fragment; the sixth is at risk, and its GOP began with the fourth.
    assert_eq!(log.settled(0, 6, None), Some((0, None)));
    assert_eq!(log.trim(true), 30);
    assert_eq!((log.bytes(), log.durable_bytes(), log.waiting_bytes()), (50, 20, 0));
    log.move_on();
    log.fragment(fragment(false), 10);
    assert_eq!(log.waiting_bytes(), 60);
    assert_eq!(told(&log.drain()), "[1+ NoGap]K..K..");
    // What the first volume still says does not count; what the second one says does.
    assert_eq!(log.settled(0, 9, None), None);
    assert_eq!(log.settled(1, 10, None), Some((0, None)));
    assert_eq!(log.trim(true), 30);
    assert_eq!(log.trim(false), 30);
}

#[test]
fn a_gap_before_what_goes_on_keeps_its_reason() {
    let mut log = with("K.");
    log.begin(run(2, Some(GapReason::Silence)), false);
    log.fragment(fragment(true), 10);
    let handed = log.drain();
    assert_eq!(told(&handed), "[1 ?]K.[2 Silence]K");
    let Some((_, Item::Begin(begin))) = handed.items.get(3) else { panic!() };
    let resolved = (GapReason::Silence, Some(PreviousRun { run: Uuid::nil(), end: WallTime(5), in_order: true }));
    begin.resolved.set(resolved).unwrap();
    // Everything but the last fragment is durable: only that goes on, behind the same gap.
    log.settled(0, 4, None);
    log.trim(true);
    log.move_on();
    let again = log.drain();
    assert_eq!(told(&again), "[2+ Silence]K");
    let Some((_, Item::Begin(begin))) = again.items.first() else { panic!() };
    assert_eq!(begin.resolved.get(), Some(&resolved));
    // Once more, from inside of the run.
    log.fragment(fragment(true), 10);
    log.drain();
    log.settled(1, 6, None);
    log.trim(true);
    log.move_on();
    assert_eq!(told(&log.drain()), "[2+ NoGap]K");
}

#[test]
fn parameters_that_change_do_not_begin_a_run() {
    let mut log = with("K.");
    log.drain();
    log.begin(run(1, Some(GapReason::NoGap)), false);
    log.fragment(fragment(true), 10);
    log.drain();
    log.settled(0, 4, None);
    log.trim(true);
    log.move_on();
    assert_eq!(told(&log.drain()), "[1+ NoGap]K");
    // One that nothing came for is forgotten; the reason of the first stays.
    log.begin(run(3, Some(GapReason::Silence)), false);
    log.begin(run(3, Some(GapReason::NoGap)), false);
    assert_eq!(told(&log.drain()), "[3 Silence]");
}

#[test]
fn what_is_handed_over_goes_on_where_it_was_and_is_durable_only_behind_what_was_before() {
    let mut log = with("K..K..");
    assert_eq!(told(&log.drain()), "[1 ?]K..K..");
    // The first volume wrote up to the second key frame, and syncs some of it later.
    assert_eq!(log.settled(0, 3, None), Some((0, None)));
    assert!(log.hand_over(0, 0, 4, Carry::empty()));
    assert!(log.waits_for(0) && !log.waits_for(1));
    assert_eq!(log.waiting_bytes(), 30);
    let handed = log.drain();
    assert_eq!((told(&handed).as_str(), handed.moves, handed.carry.is_some()), ("K..", 1, true));
    let at = |us| Some((WallTime(us), MediaTime(us)));
    assert_eq!(log.settled(1, 7, at(7)), None);
    assert!(!log.hand_over(1, 1, 6, Carry::empty()), "one at a time");
    assert_eq!((log.written(1, 7), log.written(0, 4)), (Some(true), Some(false)));
    assert_eq!(log.settled(0, 4, at(4)), Some((0, at(7))));
    assert!(!log.waits_for(0));
    assert_eq!(log.durable, 7);
    // The first volume has no part in it any more.
    assert_eq!((log.settled(0, 7, None), log.written(0, 7)), (None, None));
    // Should it have failed before that, all that was not durable goes on from its key frame.
    let mut log = with("K..K..");
    log.drain();
    assert!(log.hand_over(0, 0, 4, Carry::empty()));
    log.drain();
    assert_eq!(log.settled(1, 7, None), None);
    log.move_on();
    let handed = log.drain();
    assert_eq!((told(&handed).as_str(), handed.carry.is_some()), ("[1+ ?]K..K..", false));
}

proptest! {
    /// Whatever happens in whatever order: what is at risk is always there to be handed over, and the bytes add up.
    #[test]
    fn nothing_at_risk_is_ever_let_go(steps in proptest::collection::vec((0_u8..9, 0_u64..6), 1..200)) {
        let mut log = with("K");
        let (mut end, mut drained, mut moves, mut durable) = (2_u64, 0, 0, 0);
        for (step, n) in steps {
            match step {
                0..=2 => {
                    log.fragment(fragment(n == 0), 10);
                    end += 1;
                }
                3 => {
                    let handed = log.drain();
                    let numbers: Vec<u64> = handed.items.iter().map(|(number, _)| *number).collect();
                    prop_assert!(numbers.last().is_none_or(|last| last + 1 == end));
                    drained = end;
                }
                4 => {
                    let below = drained.min(durable + n);
                    let news = log.settled(moves, below, None).is_some();
                    prop_assert_eq!(news, below > durable);
                    durable = durable.max(below);
                }
                5 => {
                    log.trim(n > 0);
                }
                6 => {
                    log.move_on();
                    moves += 1;
                    let numbers: Vec<u64> = log.drain().items.iter().map(|(number, _)| *number).collect();
                    prop_assert!(numbers.first().is_none_or(|first| *first <= durable), "{:?}, {}", numbers, durable);
                    prop_assert!((durable..end).all(|n| numbers.contains(&n)));
                    drained = end;
                }
                7 => {
                    // What was settled is written, and never comes back.
                    let from = durable.max(drained.saturating_sub(n));
                    log.give_back(moves + 1, from);
                    log.give_back(moves, from);
                    let numbers: Vec<u64> = log.drain().items.iter().map(|(number, _)| *number).collect();
                    prop_assert_eq!(numbers, (from.min(drained)..end).collect::<Vec<_>>());
                    drained = end;
                }
                _ => {
                    prop_assert!(log.settled(moves + 1, end, None).is_none());
                }
            }
            let all: usize = log.entries.iter().map(|e| e.bytes).sum();
            prop_assert_eq!(all, log.bytes());
            prop_assert!(log.durable_bytes() + log.waiting_bytes() <= 2 * log.bytes());
        }
        let (freed, _) = log.give_up();
        prop_assert_eq!(log.bytes(), 0);
        prop_assert!(freed % 10 == 0);
    }
}
