//! A clip against what it was cut from.

use std::collections::{BTreeMap, BTreeSet};

use crate::found::{Found, FoundFrame};
use crate::judge::{From, Rules, StreamReport, Until, judge};
use crate::ledger::Ledger;
use crate::movie::Movie;

/// Wall times, microseconds since 1970: pictures and audio frames by number.
pub type Walls = (BTreeMap<u64, i64>, BTreeMap<u64, i64>);

/// The recorded wall times of all frames of a stream, for [`check`]; several volumes may hold parts of it.
pub fn walls(found: &[&Found]) -> Walls {
    let of = |frames: &mut dyn Iterator<Item = &FoundFrame>| {
        frames.filter_map(|frame| Some((frame.number?, frame.wall_us?))).collect()
    };
    (of(&mut found.iter().flat_map(|one| &one.video)), of(&mut found.iter().flat_map(|one| &one.audio)))
}

/// Half of what a picture of the test cameras lasts, microseconds.
const HALF_PICTURE_US: i64 = 20_000;

/// Without what is said to be damaged: pictures of these times count as never recorded. A stretch ends where its last picture does, and the clock by
/// which the next one has its time may have been slewed by some milliseconds meanwhile: what begins just before the end is that next one. Sound that
/// lies beside such a stretch may be in a damaged fragment or not.
pub fn without((mut pictures, mut sounds): Walls, damaged: &[(i64, i64)]) -> Walls {
    pictures.retain(|_, wall| !damaged.iter().any(|&(from, to)| from <= *wall && *wall < to - HALF_PICTURE_US));
    sounds.retain(|_, wall| !damaged.iter().any(|&(from, to)| from - BESIDE_US <= *wall && *wall < to + BESIDE_US));
    (pictures, sounds)
}

/// Checks that a clip presents the frames of `from_us <= wall time < to_us` and no others.
///
/// With `recorded` (from [`walls`]) exactly those pictures; without, the wall times are those of emission, and pictures
/// within `edge_ms` of an end of the range may be there or not.
pub fn check(
    stream: &str,
    movie: &Movie,
    ledger: &Ledger,
    (from_us, to_us): (i64, i64),
    recorded: Option<&Walls>,
    edge_ms: i64,
) -> StreamReport {
    let emitted: BTreeMap<u64, i64>;
    let (pictures, edge_us) = match recorded {
        Some((pictures, _)) => (pictures, 0),
        None => {
            emitted = ledger.video.iter().map(|frame| (frame.number, frame.wall_ns / 1_000)).collect();
            (&emitted, edge_ms * 1_000)
        }
    };
    let within = |wall: i64, edge: i64| from_us + edge <= wall && wall < to_us - edge;
    // Not all numbers between the first and the last: those are in coding order, the range is in display order.
    let must: BTreeSet<u64> = pictures.iter().filter(|&(_, &wall)| within(wall, edge_us)).map(|(&n, _)| n).collect();
    let sounds = match recorded {
        Some((pictures, sounds)) => inside(sounds, pictures),
        None => ledger.audio.iter().map(|frame| frame.number).collect(),
    };
    let found = Found::in_movie(stream, movie);
    let rules = Rules {
        from: From::Number(must.first().copied().unwrap_or(u64::MAX)),
        until: Until::Number(must.last().copied().unwrap_or(0)),
        only: Some((must, sounds)),
        ..Rules::default()
    };
    let mut report = judge(&[&found], ledger, &rules);
    let surplus = found
        .video
        .iter()
        .filter_map(|frame| frame.number)
        .filter(|number| pictures.get(number).is_none_or(|&wall| !within(wall, -edge_us)));
    let surplus: Vec<u64> = surplus.collect();
    if !surplus.is_empty() {
        report.findings.push(format!("video: {} pictures outside of the range are shown: {surplus:?}", surplus.len()));
    }
    report
}

/// How far the sound of a fragment may reach beyond its pictures.
const BESIDE_US: i64 = 150_000;

/// Wall times are rounded, and those of pictures and sound apart: a middle so close to an edge may fall on either side.
const EDGE_US: i64 = 1_000;

/// The audio frames whose middle lies where recorded pictures are shown: where recording begins or ends, up to half an audio
/// frame lies outside the pictures, and a clip that closes the gap leaves that frame out. What was lost elsewhere is no excuse.
fn inside(sounds: &BTreeMap<u64, i64>, pictures: &BTreeMap<u64, i64>) -> BTreeSet<u64> {
    let shown: BTreeSet<i64> = pictures.values().copied().collect();
    let picture_us = usual_distance(&shown);
    let sound_us = usual_distance(&sounds.values().copied().collect());
    let shown_at = |wall: i64| {
        let before = shown.range(..=wall).next_back().copied();
        // A picture lasts up to the next one, but where that one is missing no longer than most do.
        before.is_some_and(|before| {
            let next = shown.range(wall + 1..).next().copied();
            wall < before + picture_us || next.is_some_and(|next| next - before < picture_us * 3 / 2)
        })
    };
    let covered = |middle: i64| shown_at(middle - EDGE_US) && shown_at(middle) && shown_at(middle + EDGE_US);
    sounds.iter().filter(|&(_, &wall)| covered(wall + sound_us / 2)).map(|(&number, _)| number).collect()
}

/// The median distance of neighbours.
fn usual_distance(times: &BTreeSet<i64>) -> i64 {
    let mut apart: Vec<i64> = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b - a).collect();
    apart.sort_unstable();
    apart.get(apart.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_at_the_edges_of_pictures_is_excused() {
        // 25 pictures a second with a hole from 400 to 1,000 ms, and sound that goes on through it but for one lost frame.
        let pictures: BTreeMap<u64, i64> =
            (0..50).filter(|n| !(10..25).contains(n)).map(|n| (n, n as i64 * 40_000)).collect();
        let sounds: BTreeMap<u64, i64> = (0..95).filter(|&n| n != 5).map(|n| (n, n as i64 * 21_333 - 15_000)).collect();
        let wanted = inside(&sounds, &pictures);
        let middle = |n: u64| sounds.get(&n).copied().unwrap_or_default() + 10_666;
        assert!(!wanted.contains(&0), "half of it lies before the first picture");
        assert!(wanted.contains(&4) && wanted.contains(&6), "a lost neighbour excuses nobody");
        for number in sounds.keys() {
            let shown =
                (1_000..399_000).contains(&middle(*number)) || (1_001_000..1_999_000).contains(&middle(*number));
            assert_eq!(wanted.contains(number), shown, "audio frame {number} at {} µs", middle(*number));
        }
    }
}
