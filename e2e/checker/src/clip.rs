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
        Some((_, sounds)) => inside(sounds),
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

/// The frames that have both neighbours: where recording begins or ends, up to half an audio frame lies outside the pictures,
/// and a clip that closes the gap may leave that frame out.
fn inside(sounds: &BTreeMap<u64, i64>) -> BTreeSet<u64> {
    let has = |number: Option<u64>| number.is_some_and(|number| sounds.contains_key(&number));
    sounds.keys().copied().filter(|&number| has(number.checked_sub(1)) && has(number.checked_add(1))).collect()
}
