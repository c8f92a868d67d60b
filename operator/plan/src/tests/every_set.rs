//! Full pools, and every set of domains that may fail.

use super::judge::check;
use super::*;
use proptest::prelude::*;

/// Every class alone and mixed, in pools of every size up to a bound, one to four recorders in a domain.
#[test]
fn full_small_pools_lose_nothing_whatever_fails() {
    let mixes: [&[Class]; 6] = [
        &[Class::None],
        &[Class::Ready],
        &[Class::Playing],
        &[Class::Mirrored],
        &[Class::Ready, Class::Playing],
        &[Class::None, Class::Ready, Class::Ready, Class::Mirrored, Class::Playing],
    ];
    let mut planned = 0;
    for failures in 1..=3 {
        for in_domain in [1, 2, 4] {
            // Many large domains take most of the time; the full count has them.
            let most = count(6, 10).min(count(16, 40) / in_domain);
            for domains in failures + 1..=most {
                for max_channels in [4, 11, count(20, 100)] {
                    for classes in mixes {
                        let recorders = recorders(domains * in_domain, in_domain);
                        let promise = promise(max_channels, failures, failures);
                        let planner = full(promise, &recorders, classes);
                        let division = planner.pool().1;
                        if division.no_reserve.is_some() {
                            continue;
                        }
                        let plan = planner.plan();
                        assert!(all_protected(&plan), "{promise:?} {domains} × {in_domain} {classes:?}");
                        check(&plan, &recorders, max_channels, failures);
                        planned += 1;
                    }
                }
            }
        }
    }
    assert!(planned > 400, "{planned}");
}

/// The numbers that users are told.
#[test]
fn the_reserve_is_as_documented() {
    let reserved = |count, in_domain, max_channels, failures, class| {
        let promise = promise(max_channels, failures, failures);
        divide(promise, &recorders(count, in_domain), Mix::only(class)).slots.reserved
    };
    assert_eq!(reserved(10, 1, 100, 2, Class::Ready), 20);
    assert_eq!(reserved(12, 1, 64, 3, Class::Ready), 17);
    assert_eq!(reserved(12, 4, 100, 1, Class::Ready), 34);
    assert_eq!(reserved(10, 1, 100, 1, Class::Ready), 10);
    assert_eq!(reserved(10, 1, 100, 1, Class::Playing), 50);
    assert_eq!(reserved(10, 1, 100, 2, Class::Playing), 67);
    assert_eq!(reserved(10, 1, 100, 2, Class::None), 0);
}

/// 12 recorders, M = 64, f = 3: the formula says 16, and 17 is enough.
#[test]
fn twelve_recorders_with_three_failures_need_17() {
    let recorders = recorders(12, 1);
    let planner = full(promise(64, 3, 3), &recorders, &[Class::Ready]);
    assert_eq!((planner.pool().1.slots.normal, planner.pool().1.slots.reserved), (47, 17));
    let plan = planner.plan();
    assert_eq!(plan.placed.len(), 12 * 47);
    assert!(all_protected(&plan));
    check(&plan, &recorders, 64, 3);
}

/// Four recorders on each of three nodes: with the reserve for one recorder a quarter of the pool would not be recorded.
#[test]
fn a_node_with_several_recorders_needs_a_reserve_for_all_of_them() {
    let recorders = recorders(12, 4);
    let planner = full(promise(100, 1, 1), &recorders, &[Class::Ready]);
    assert_eq!(planner.pool().1.slots.normal, 66);
    check(&planner.plan(), &recorders, 100, 1);
}

/// Large pools: rings of peers; sets that share peers are where it could go wrong, so each sample is a recorder with some of its neighbours.
#[test]
fn large_pools_lose_nothing_in_samples() {
    let (recorders, promise) = (recorders(count(40, 300), 1), promise(count(30, 60), 2, 2));
    let planner = full(promise, &recorders, &[Class::Ready, Class::Ready, Class::Ready, Class::Playing]);
    let plan = planner.plan();
    assert!(all_protected(&plan));
    super::judge::check_form(&plan, &recorders);
    let (domains, mut dice) = (super::judge::domains(&recorders), Dice(7));
    for _ in 0..count(100, 5_000) {
        let one = dice.below(recorders.len() as u32);
        let other = if dice.below(4) == 0 {
            dice.below(recorders.len() as u32)
        } else {
            (one + dice.below(30)) % recorders.len() as u32
        };
        assert_eq!(super::judge::failed(&plan, &domains, promise.max_channels, &[one, other].into()), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(count(24, 2_000)))]

    /// Domains of any size, any classes, any fill, cameras with few sessions.
    #[test]
    fn whatever_is_said_to_be_protected_is(
        sizes in prop::collection::vec(1_u32..4, 2..7),
        max_channels in 2_u32..24,
        failures in 1_u32..4,
        more in 0_u32..2,
        wanted in prop::collection::vec((0_usize..4, -1_i32..2, prop::option::of(1_u32..6), prop::bool::weighted(0.1)), 0..200),
    ) {
        let mut recorders = Vec::new();
        for (domain, size) in (0_u32..).zip(&sizes) {
            for _ in 0..*size {
                recorders.push(Recorder { ordinal: recorders.len() as u32, domain, condition: Condition::Active });
            }
        }
        let demands: BTreeMap<u32, Demand> = (0..).zip(wanted).map(|(stream, (class, priority, max_sessions, drops_idle_sessions))| {
            (stream, Demand { class: Class::ALL[class], priority, max_sessions, drops_idle_sessions, prefers: None })
        }).collect();
        let promise = promise(max_channels, failures, failures + more);
        let planner = fresh(promise, &recorders, &demands);
        let plan = planner.plan();
        check(&plan, &recorders, max_channels, failures);
        for (stream, assigned) in &plan.placed {
            if assigned.protected == Some(true) {
                prop_assert!(assigned.standbys.len() >= failures as usize);
                prop_assert_eq!(assigned.lack.is_some(), assigned.standbys.len() < (failures + more).min(sizes.len() as u32 - 1) as usize);
            }
            // Nothing is tried that would cut a session: the holders and one handover fit into what the camera allows.
            let sessions = 1 + assigned.standbys.len() as u32;
            let allowed = demands[stream].max_sessions.unwrap_or(u32::MAX);
            prop_assert!(sessions == 1 || sessions < allowed);
        }
    }
}
