//! Pools so small that the best that can be done is found by trying everything.

use super::*;

/// Whether `normal` streams on each recorder can all be protected in `reserved` slots, by any arrangement at all. Streams of one primary are alike,
/// so chains are chosen in order; a load that is too high is given up at once.
fn is_possible(recorders: &[Recorder], failures: u32, normal: u32, reserved: u32) -> bool {
    let count = recorders.len() as u32;
    let mut sets = Vec::new();
    let all: Vec<u32> = recorders
        .iter()
        .map(|recorder| recorder.domain)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    judge::every_set(&all, failures as usize, &mut |set| sets.push(set.clone()));
    let mut chains: Vec<Vec<Vec<u32>>> = Vec::new();
    for primary in 0..count {
        let mut grown: Vec<Vec<u32>> = vec![vec![primary]];
        for _ in 0..failures {
            grown = grown
                .iter()
                .flat_map(|chain| {
                    let domains: Vec<u32> = chain.iter().map(|holder| recorders[*holder as usize].domain).collect();
                    let next = recorders.iter().filter(move |recorder| !domains.contains(&recorder.domain));
                    next.map(move |recorder| [chain.as_slice(), &[recorder.ordinal]].concat())
                })
                .collect();
        }
        chains.push(grown);
    }
    /// Adds a chain's takeovers to the loads of each set; false when one is too high.
    fn add(
        chain: &[u32],
        recorders: &[Recorder],
        sets: &[std::collections::BTreeSet<u32>],
        loads: &mut [Vec<u32>],
        reserved: u32,
        undo: bool,
    ) -> bool {
        let mut fits = true;
        for (set, loads) in sets.iter().zip(loads) {
            if !set.contains(&recorders[chain[0] as usize].domain) {
                continue;
            }
            let live = chain.iter().find(|holder| !set.contains(&recorders[**holder as usize].domain)).unwrap();
            let load = &mut loads[*live as usize];
            *load = if undo { *load - 1 } else { *load + 1 };
            fits &= *load <= reserved;
        }
        fits
    }
    struct Search<'s> {
        recorders: &'s [Recorder],
        sets: &'s [std::collections::BTreeSet<u32>],
        chains: &'s [Vec<Vec<u32>>],
        normal: u32,
        reserved: u32,
    }
    fn go(search: &Search<'_>, stream: u32, from: usize, loads: &mut [Vec<u32>]) -> bool {
        let primary = stream / search.normal;
        let Some(chains) = search.chains.get(primary as usize) else { return true };
        let from = if stream.is_multiple_of(search.normal) { 0 } else { from };
        for (at, chain) in chains.iter().enumerate().skip(from) {
            let fits = add(chain, search.recorders, search.sets, loads, search.reserved, false);
            let found = fits && go(search, stream + 1, at, loads);
            add(chain, search.recorders, search.sets, loads, search.reserved, true);
            if found {
                return true;
            }
        }
        false
    }
    let mut loads = vec![vec![0; count as usize]; sets.len()];
    go(&Search { recorders, sets: &sets, chains: &chains, normal, reserved }, 0, 0, &mut loads)
}

#[test]
fn the_reserve_of_tiny_pools_is_the_least_that_any_arrangement_allows() {
    let mut compared = 0;
    for (domains, in_domain, failures) in [(2, 1, 1), (3, 1, 1), (4, 1, 1), (2, 2, 1), (3, 2, 1), (3, 1, 2), (4, 1, 2)]
    {
        for max_channels in 2..=5 {
            let recorders = recorders(domains * in_domain, in_domain);
            let division = divide(promise(max_channels, failures, failures), &recorders, Mix::only(Class::Ready));
            let best = (1..max_channels)
                .find(|reserved| is_possible(&recorders, failures, max_channels - reserved, *reserved));
            match best {
                Some(best) => {
                    assert_eq!(division.slots.reserved, best, "{domains} × {in_domain}, M {max_channels}, f {failures}")
                }
                None => assert!(division.no_reserve.is_some()),
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 28);
}

/// The fewest primaries that must move when a recorder is lost or drained, found by trying every placement.
#[test]
fn no_placement_of_tiny_pools_moves_fewer() {
    let mut dice = Dice(3);
    for _ in 0..count(60, 5_000) {
        let mut recorders = recorders(3, 1);
        let promise = promise(2 + dice.below(2), 0, 0);
        let demands = streams(1 + dice.below(5), &[Class::None]);
        let before = fresh(promise, &recorders, &demands).plan();
        recorders[dice.below(3) as usize].condition = [Condition::Gone, Condition::Draining][dice.below(2) as usize];
        let after = replanned(promise, &recorders, &demands, &before).plan();
        let stays = |ordinal: u32| recorders[ordinal as usize].condition == Condition::Active;
        // All placements: one of three recorders, or none, for each stream.
        let (mut most_recorded, mut fewest_moved) = (0, u32::MAX);
        for number in 0..4_u32.pow(demands.len() as u32) {
            let place = |stream: u32| number / 4_u32.pow(stream) % 4;
            let used = |ordinal: u32| demands.keys().filter(|stream| place(**stream) == ordinal).count() as u32;
            if !(0..3).all(|ordinal| used(ordinal) <= if stays(ordinal) { promise.max_channels } else { 0 }) {
                continue;
            }
            let recorded = demands.len() as u32 - used(3);
            let moved = demands
                .keys()
                .filter(|stream| {
                    place(**stream) < 3 && before.placed.get(stream).is_some_and(|was| was.primary != place(**stream))
                })
                .count() as u32;
            if recorded > most_recorded || recorded == most_recorded && moved < fewest_moved {
                (most_recorded, fewest_moved) = (recorded, moved);
            }
        }
        let recorded = after.placed.values().filter(|assigned| stays(assigned.primary)).count() as u32;
        let moved = after
            .placed
            .iter()
            .filter(|(stream, now)| {
                stays(now.primary) && before.placed.get(stream).is_some_and(|was| was.primary != now.primary)
            })
            .count() as u32;
        assert_eq!((recorded, moved), (most_recorded, fewest_moved), "{before:?} {after:?}");
    }
}
