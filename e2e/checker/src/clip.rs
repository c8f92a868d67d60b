//! A clip against what it was cut from.

use std::collections::{BTreeMap, BTreeSet};

use crate::found::{Found, FoundFrame};
use crate::judge::{From, Rules, StreamReport, Until, judge};
use crate::ledger::Ledger;
use crate::movie::Movie;

/// Wall times, microseconds since 1970, by the number of the frame: those of its earliest and of its latest copy. Recorders that have both recorded it
/// have received it some milliseconds apart.
type Walls = BTreeMap<u64, (i64, i64)>;

/// The recorded wall times of all frames of a stream.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pictures: Walls,
    sounds: Walls,
}

impl Recorded {
    /// Several volumes may hold parts of the stream, or the same.
    pub fn of(found: &[&Found]) -> Self {
        let pictures = walls(found.iter().flat_map(|one| &one.video));
        Self { pictures, sounds: walls(found.iter().flat_map(|one| &one.audio)) }
    }

    /// Without what is said to be damaged: pictures of these times count as never recorded. A stretch ends where its last picture does, and the clock by
    /// which the next one has its time may have been slewed by some milliseconds meanwhile: what begins just before the end is that next one. Sound that
    /// lies beside such a stretch may be in a damaged fragment or not.
    pub fn without(mut self, damaged: &[(i64, i64)]) -> Self {
        self.pictures
            .retain(|_, (wall, _)| !damaged.iter().any(|&(from, to)| from <= *wall && *wall < to - HALF_PICTURE_US));
        self.sounds.retain(|_, (wall, _)| {
            !damaged.iter().any(|&(from, to)| from - BESIDE_US <= *wall && *wall < to + BESIDE_US)
        });
        self
    }
}

fn walls<'a>(frames: impl Iterator<Item = &'a FoundFrame>) -> Walls {
    let mut walls = Walls::new();
    for (number, wall) in frames.filter_map(|frame| Some((frame.number?, frame.wall_us?))) {
        let (earliest, latest) = walls.entry(number).or_insert((wall, wall));
        (*earliest, *latest) = (wall.min(*earliest), wall.max(*latest));
    }
    walls
}

/// Half of what a picture of the test cameras lasts, microseconds.
const HALF_PICTURE_US: i64 = 20_000;

/// Checks that a clip presents the frames of `from_us <= wall time < to_us` and no others.
///
/// With `recorded` exactly those pictures, and of one whose copies lie on both sides of an end either; without, the wall times are those of
/// emission, and pictures within `edge_ms` of an end of the range may be there or not.
pub fn check(
    stream: &str,
    movie: &Movie,
    ledger: &Ledger,
    (from_us, to_us): (i64, i64),
    recorded: Option<&Recorded>,
    edge_ms: i64,
) -> StreamReport {
    let emitted: Walls;
    let (pictures, edge_us) = match recorded {
        Some(recorded) => (&recorded.pictures, 0),
        None => {
            let wall = |ns: i64| (ns / 1_000, ns / 1_000);
            emitted = ledger.video.iter().map(|frame| (frame.number, wall(frame.wall_ns))).collect();
            (&emitted, edge_ms * 1_000)
        }
    };
    let within = |wall: i64, edge: i64| from_us + edge <= wall && wall < to_us - edge;
    // Not all numbers between the first and the last: those are in coding order, the range is in display order.
    let surely = |&(earliest, latest): &(i64, i64)| within(earliest, edge_us) && within(latest, edge_us);
    let must: BTreeSet<u64> = pictures.iter().filter(|(_, walls)| surely(walls)).map(|(&n, _)| n).collect();
    let sounds = match recorded {
        Some(Recorded { pictures, sounds }) => inside(sounds, pictures),
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
    let surplus = found.video.iter().filter_map(|frame| frame.number).filter(|number| {
        !pictures.get(number).is_some_and(|walls| [walls.0, walls.1].iter().any(|&wall| within(wall, -edge_us)))
    });
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
fn inside(sounds: &Walls, pictures: &Walls) -> BTreeSet<u64> {
    let earliest = |walls: &Walls| walls.values().map(|(earliest, _)| *earliest).collect();
    let shown: BTreeSet<i64> = earliest(pictures);
    let picture_us = usual_distance(&shown);
    let sound_us = usual_distance(&earliest(sounds));
    let shown_at = |wall: i64| {
        let before = shown.range(..=wall).next_back().copied();
        // A picture lasts up to the next one, but where that one is missing no longer than most do.
        before.is_some_and(|before| {
            let next = shown.range(wall + 1..).next().copied();
            wall < before + picture_us || next.is_some_and(|next| next - before < picture_us * 3 / 2)
        })
    };
    let covered = |middle: i64| shown_at(middle - EDGE_US) && shown_at(middle) && shown_at(middle + EDGE_US);
    sounds.iter().filter(|(_, (wall, _))| covered(wall + sound_us / 2)).map(|(&number, _)| number).collect()
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
        let once = |n: u64, wall: i64| (n, (wall, wall));
        let pictures: Walls = (0..50).filter(|n| !(10..25).contains(n)).map(|n| once(n, n as i64 * 40_000)).collect();
        let sounds: Walls = (0..95).filter(|&n| n != 5).map(|n| once(n, n as i64 * 21_333 - 15_000)).collect();
        let wanted = inside(&sounds, &pictures);
        let middle = |n: u64| sounds.get(&n).map_or(0, |(wall, _)| *wall) + 10_666;
        assert!(!wanted.contains(&0), "half of it lies before the first picture");
        assert!(wanted.contains(&4) && wanted.contains(&6), "a lost neighbour excuses nobody");
        for number in sounds.keys() {
            let shown =
                (1_000..399_000).contains(&middle(*number)) || (1_001_000..1_999_000).contains(&middle(*number));
            assert_eq!(wanted.contains(number), shown, "audio frame {number} at {} µs", middle(*number));
        }
    }
}
