//! What is said, and that what would help does help.

use super::*;
use crate::{Help, NoReserve, Shortage};
use proptest::prelude::*;

fn said(promise: Promise, recorders: &[Recorder], demands: &BTreeMap<u32, Demand>) -> (Shortage, String) {
    let shortage = Shortage::of(&mut fresh(promise, recorders, demands));
    let text = shortage.to_string();
    (shortage, text)
}

#[test]
fn too_few_slots() {
    // f = 2 of 8: 25 of 100 slots are reserved.
    let (shortage, text) = said(promise(100, 2, 2), &recorders(8, 1), &streams(700, &[Class::Ready]));
    assert_eq!(shortage.waiting, 700 - 8 * 75);
    assert!(
        text.starts_with("100 streams not recorded: no slot is free; needs 2 more recorders or maxChannels 118"),
        "{text}"
    );
    let (shortage, text) = said(promise(10, 0, 0), &recorders(2, 1), &streams(21, &[Class::None]));
    assert_eq!(shortage.help, Help { more_recorders: Some(1), max_channels: Some(11) });
    assert_eq!(text, "1 stream not recorded: no slot is free; needs 1 more recorder or maxChannels 11");
    assert!(said(promise(10, 0, 0), &recorders(2, 1), &streams(20, &[Class::None])).0.is_none());
}

#[test]
fn no_reserve() {
    let (shortage, text) = said(promise(100, 1, 1), &recorders(1, 1), &streams(3, &[Class::Ready]));
    assert_eq!(shortage.no_reserve, Some((NoReserve::Domains { domains: 1, tolerated_failures: 1 }, 3)));
    assert_eq!(
        text,
        "3 streams not protected, the pool has no reserve: toleratedFailures 1 needs 2 failure domains at least, there is only 1; needs 1 more recorder"
    );
    let plan = fresh(promise(100, 2, 2), &recorders(4, 2), &streams(9, &[Class::Playing])).plan();
    assert!(plan.placed.values().all(|assigned| assigned.protected == Some(false) && assigned.class == Class::None));
    let (_, text) = said(promise(1, 1, 1), &recorders(4, 1), &streams(3, &[Class::Ready]));
    assert!(
        text.contains("with maxChannels 1 a reserve that is large enough leaves no normal slot; needs maxChannels 2"),
        "{text}"
    );
}

#[test]
fn cameras_with_few_sessions() {
    let demand = |class, max_sessions, drops_idle_sessions| Demand {
        class,
        max_sessions,
        drops_idle_sessions,
        ..Demand::default()
    };
    let demands = BTreeMap::from([
        (0, demand(Class::Playing, Some(1), false)),
        (1, demand(Class::Playing, Some(3), false)),
        (2, demand(Class::Playing, Some(4), false)),
        (3, demand(Class::Ready, None, true)),
        (4, demand(Class::Playing, None, true)),
    ]);
    let mut planner = fresh(promise(20, 2, 2), &recorders(5, 1), &demands);
    let plan = planner.plan();
    let got =
        |stream: u32| (plan.placed[&stream].class, plan.placed[&stream].standbys.len(), plan.placed[&stream].protected);
    assert_eq!(got(0), (Class::None, 0, Some(false)));
    assert_eq!(got(1), (Class::Playing, 1, Some(false)));
    assert_eq!(got(2), (Class::Playing, 2, Some(true)));
    assert_eq!(got(3), (Class::None, 0, Some(false)));
    assert_eq!(got(4), (Class::Playing, 2, Some(true)));
    let shortage = Shortage::of(&mut planner);
    assert_eq!((shortage.by_sessions, shortage.by_idle_sessions, shortage.help), (2, 1, Help::default()));
}

#[test]
fn what_cannot_be_drained() {
    let mut recorders = recorders(2, 1);
    let demands = streams(20, &[Class::None]);
    let before = fresh(promise(10, 0, 0), &recorders, &demands).plan();
    recorders[1].condition = Condition::Draining;
    let mut planner = replanned(promise(10, 0, 0), &recorders, &demands, &before);
    assert_eq!(planner.plan(), before, "nothing is stopped");
    assert_eq!(
        Shortage::of(&mut planner).to_string(),
        "recorder 1 cannot be drained: 10 streams have nowhere to go; needs 1 more recorder or maxChannels 20"
    );
}

#[test]
fn what_only_the_return_of_a_recorder_helps() {
    let mut recorders = recorders(5, 1);
    let demands = streams(80, &[Class::Ready]);
    let before = fresh(promise(20, 1, 1), &recorders, &demands).plan();
    recorders[4].condition = Condition::Gone;
    let shortage = Shortage::of(&mut replanned(promise(20, 1, 1), &recorders, &demands, &before));
    assert!(shortage.without_room > 0);
    assert!(
        shortage.to_string().ends_with("16 streams recorded in reserved slots; ends when recorder 4 is back"),
        "{shortage}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(count(16, 1_000)))]

    #[test]
    fn what_is_said_to_be_enough_is_enough(
        count in 2_u32..9, in_domain in 1_u32..3, max_channels in 3_u32..20, failures in 0_u32..3, number in 1_u32..150, class in 0_usize..4,
    ) {
        let (recorders, promise) = (recorders(count, in_domain), promise(max_channels, failures, failures));
        let demands = streams(number, &[Class::ALL[class]]);
        let (shortage, text) = said(promise, &recorders, &demands);
        if class > 0 && failures == 0 {
            return Ok(());
        }
        if let Some(max_channels) = shortage.help.max_channels {
            let enough = fresh(Promise { max_channels, ..promise }, &recorders, &demands).plan();
            prop_assert!(all_protected(&enough), "{}", text);
        }
        if let Some(more) = shortage.help.more_recorders && in_domain == 1 {
            let enough = fresh(promise, &super::recorders(count + more, 1), &demands).plan();
            prop_assert!(all_protected(&enough), "{}", text);
            // One less is not.
            let fewer = fresh(promise, &super::recorders(count + more - 1, 1), &demands).plan();
            prop_assert!(!all_protected(&fewer), "{}", text);
        }
    }
}
