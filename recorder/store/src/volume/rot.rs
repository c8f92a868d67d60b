//! What of a volume's footage is known to be damaged: found once, by whoever read it, and left out from then on.
//!
//! Readers ask here and nowhere else. The manifest keeps it over restarts; damage of a segment that is not sealed yet, and what the disk
//! did not give, stays in memory only: the one is recorded with the seal, the other may be read another time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::index::SegmentIndex;
use uuid::Uuid;

use super::Volume;
use crate::lock;
use crate::manifest::{Damage, Record, SealedSegment};
use crate::segment::hole::{Hole, holes};

/// A segment with more damaged places than this counts as damaged from the first to the last: memory is bounded.
const PLACES_AT_MOST: usize = 16;
/// Places that are told to people; of others there is the sum.
const TOLD_AT_MOST: usize = 4;

/// The damage of a volume.
#[derive(Default)]
pub(crate) struct Rot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: HashMap<Uuid, OfStream>,
    /// Grows with each change.
    version: u64,
}

#[derive(Default)]
struct OfStream {
    version: u64,
    known: Vec<Known>,
}

/// One hole, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    damage: Damage,
    place: Place,
    recorded: bool,
}

/// Names of the segment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `namespace/name`.
    pub(crate) stream: String,
    /// Below the volume's folder.
    pub(crate) path: String,
}

/// A hole, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// `namespace/name` of the stream.
    pub stream: String,
    /// The segment, below the volume's folder.
    pub path: String,
    /// First byte of it that is damaged.
    pub offset: u64,
    /// From when on footage is lost.
    pub from: WallTime,
    /// Up to when.
    pub to: WallTime,
}

/// All damage of a volume, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamageSummary {
    /// Holes in footage that is held.
    pub holes: u64,
    /// Damaged bytes of it.
    pub bytes: u64,
    /// Video frames known to be lost with them.
    pub video_frames: u64,
    /// Some of the places, the newest first.
    pub places: Vec<DamagedPlace>,
}

/// Where something damaged was found.
pub(crate) struct Found<'a> {
    pub(crate) file_number: u64,
    pub(crate) nonce: u64,
    pub(crate) stream: Uuid,
    pub(crate) place: Place,
    /// Every frame that was in the segment, as far as that is known.
    pub(crate) index: &'a SegmentIndex,
    /// The run of each of its run boxes.
    pub(crate) runs: &'a [Uuid],
    /// Its damaged bytes.
    pub(crate) ranges: &'a [Range<u64>],
    /// It stays so: the bytes are there, and do not check.
    pub(crate) lasting: bool,
    /// The manifest has the segment.
    pub(crate) sealed: bool,
}

/// Ranges in order, those that touch each other made one, and all of them one where they are many. Pure.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
    if ranges.len() > PLACES_AT_MOST {
        let end = ranges.last().map_or(0, |last| last.end);
        ranges.truncate(1);
        ranges.iter_mut().for_each(|all| all.end = end);
    }
    ranges
}

impl Rot {
    /// The version of what is known of a stream.
    pub(crate) fn version(&self, stream: Uuid) -> u64 {
        lock(&self.state).streams.get(&stream).map_or(0, |of| of.version)
    }

    /// The damage of a stream with the version of that knowledge: another one after each change.
    pub(crate) fn of(&self, stream: Uuid) -> (u64, Vec<Damage>) {
        let state = lock(&self.state);
        let known = state.streams.get(&stream);
        known.map_or((0, Vec::new()), |of| (of.version, of.known.iter().map(|known| known.damage.clone()).collect()))
    }

    /// Takes in what was found; gives what of it is news, with whether it is for the manifest.
    fn learn(&self, found: &Found<'_>) -> Vec<(Damage, bool)> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let of = state.streams.entry(found.stream).or_default();
        let (here, mut others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut of.known).into_iter().partition(|known| known.damage.nonce == found.nonce);
        let known = here.iter().map(|known| known.damage.hole.bytes.clone());
        let ranges = union(known.chain(found.ranges.iter().cloned()).collect());
        let mut news = Vec::new();
        for hole in holes(found.index, found.runs, &ranges) {
            let damage = Damage { file_number: found.file_number, nonce: found.nonce, stream: found.stream, hole };
            let before = here.iter().find(|known| known.damage == damage);
            let may_be_recorded = found.lasting && found.sealed;
            let recorded = before.map_or(may_be_recorded, |known| known.recorded || may_be_recorded);
            if before.is_none_or(|before| before.recorded != recorded) {
                news.push((damage.clone(), recorded));
            }
            others.push(Known { damage, place: found.place.clone(), recorded });
        }
        of.known = others;
        if !news.is_empty() {
            state.version += 1;
            of.version = state.version;
        }
        news
    }

    /// Takes in that nothing of a segment can be read; gives what of that is news.
    fn lose(&self, segment: &SealedSegment) -> Vec<Damage> {
        let mut state = lock(&self.state);
        let State { streams, version } = &mut *state;
        let of = streams.entry(segment.stream).or_default();
        let mut news = Vec::new();
        for part in &segment.runs {
            let bytes = 0..segment.index_offset;
            let hole = Hole { run: part.run, from: part.first, to: part.end, bytes, video_frames: part.video_frames };
            let (file_number, nonce, stream) = (segment.file_number, segment.nonce, segment.stream);
            let damage = Damage { file_number, nonce, stream, hole };
            if of.known.iter().any(|known| known.damage == damage) {
                continue;
            }
            let place = Place { stream: segment.stream_name.clone(), path: segment.path.clone() };
            of.known.push(Known { damage: damage.clone(), place, recorded: true });
            news.push(damage);
        }
        if !news.is_empty() {
            *version += 1;
            of.version = *version;
        }
        news
    }

    /// What the manifest knows.
    pub(crate) fn load(&self, known: impl IntoIterator<Item = (Damage, Place)>) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        for (damage, place) in known {
            let of = state.streams.entry(damage.stream).or_default();
            if of.known.iter().any(|known| known.damage == damage) {
                continue;
            }
            of.known.push(Known { damage, place, recorded: true });
            state.version += 1;
            of.version = state.version;
        }
    }

    /// The footage of a use of a file is given up.
    pub(crate) fn forget(&self, nonce: u64) {
        let mut state = lock(&self.state);
        let State { streams, version } = &mut *state;
        for of in streams.values_mut() {
            let before = of.known.len();
            of.known.retain(|known| known.damage.nonce != nonce);
            if of.known.len() < before {
                *version += 1;
                of.version = *version;
            }
        }
    }

    /// Damage of a segment that was not sealed when it was found.
    fn unrecorded(&self, stream: Uuid, nonce: u64) -> Vec<Damage> {
        let mut state = lock(&self.state);
        let known = state.streams.get_mut(&stream).map(|of| of.known.iter_mut());
        let news = known.into_iter().flatten().filter(|known| known.damage.nonce == nonce && !known.recorded);
        news.map(|known| {
            known.recorded = true;
            known.damage.clone()
        })
        .collect()
    }

    /// All of it, in numbers.
    pub(crate) fn summary(&self) -> DamageSummary {
        let state = lock(&self.state);
        let mut known: Vec<&Known> = state.streams.values().flat_map(|of| &of.known).collect();
        known.sort_by_key(|known| std::cmp::Reverse((known.damage.hole.from, known.damage.file_number)));
        let sum = |of: fn(&Hole) -> u64| known.iter().map(|known| of(&known.damage.hole)).sum();
        let told = known.iter().take(TOLD_AT_MOST).map(|Known { damage, place, .. }| DamagedPlace {
            stream: place.stream.clone(),
            path: place.path.clone(),
            offset: damage.hole.bytes.start,
            from: damage.hole.from,
            to: damage.hole.to,
        });
        DamageSummary {
            holes: known.len() as u64,
            bytes: sum(|hole| hole.bytes.end - hole.bytes.start),
            video_frames: sum(|hole| hole.video_frames.into()),
            places: told.collect(),
        }
    }
}

impl Volume {
    /// Something damaged was found: it is told, remembered, and not served any more.
    pub(crate) fn damaged(&self, found: &Found<'_>, what: &str) {
        for (damage, record) in self.rot.learn(found) {
            let hole = &damage.hole;
            tracing::error!(
                volume = %self.uuid, path = found.place.path, stream = found.place.stream, offset = hole.bytes.start,
                bytes = hole.bytes.end - hole.bytes.start, video_frames = hole.video_frames, what,
                "footage is damaged; it is left out from now on"
            );
            self.counters.rotten.add(hole.bytes.end - hole.bytes.start);
            if record {
                self.record_damage(damage);
            }
        }
    }

    /// Nothing of a segment can be read: it is told, remembered, and not served any more.
    pub(crate) fn lost(&self, segment: &SealedSegment, what: &str) {
        for damage in self.rot.lose(segment) {
            tracing::error!(volume = %self.uuid, path = segment.path, stream = segment.stream_name, what, "footage is lost; it is left out from now on");
            self.counters.rotten.add(damage.hole.bytes.end - damage.hole.bytes.start);
            self.record_damage(damage);
        }
    }

    /// A segment was sealed: the manifest may tell of its damage now.
    pub(crate) fn sealed_with_damage(&self, stream: Uuid, nonce: u64) {
        for damage in self.rot.unrecorded(stream, nonce) {
            self.record_damage(damage);
        }
    }

    fn record_damage(&self, damage: Damage) {
        // It is found again, should it not be remembered.
        if self.has_failed() || self.is_stalled() {
            return;
        }
        if let Err(error) = self.record(Record::Damaged(damage), None) {
            self.fail("write manifest.log", &error);
        }
    }

    /// Takes in the damage that the catalogue has.
    pub(crate) fn load_damage(&self) {
        let known = match self.catalogue.read().map(|catalogue| catalogue.view().and_then(|view| view.all_damage())) {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::error!(%error, volume = %self.uuid, "known damage cannot be read; it is found again");
                return;
            }
            Err(_) => return,
        };
        let place = |damage: Damage, stream, path| (damage, Place { stream, path });
        self.rot.load(known.into_iter().map(|(damage, segment)| place(damage, segment.stream_name, segment.path)));
    }

    /// Whether the manifest has a use of a file, as far as the catalogue knows: as long as it has, the file is not emptied.
    pub(crate) fn lists(&self, file_number: u64, nonce: u64) -> Option<SealedSegment> {
        let catalogue = self.catalogue.read().ok()?;
        catalogue.view().ok()?.by_file(file_number).ok()?.filter(|segment| segment.nonce == nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_very_many_are_one() {
        assert_eq!(union(vec![30..40, 0..10, 10..20, 5..8]), [0..20, 30..40]);
        let many: Vec<_> = (0..PLACES_AT_MOST as u64).map(|n| n * 10..n * 10 + 5).collect();
        assert_eq!(union(many.clone()).len(), PLACES_AT_MOST);
        let more = many.into_iter().chain(std::iter::once(1_000..1_001)).collect();
        assert_eq!(union(more), [Range { start: 0, end: 1_001 }]);
    }
}
