//! Damage at the end of a segment: the frames that follow in the next one, or in several, refer to what is lost, up to
//! the first random access point.

use std::collections::HashMap;
use std::sync::Arc;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::damage::Hole;
use crate::error::ReadError;
use crate::lock;
use crate::reader::{Reader, SegmentDamage};
use crate::segment::hole::Reach;
use crate::types::SegmentInfo;

/// A segment of the same run begins at most so long after the one before it.
const LOOK_ON_US: i64 = 600_000_000;

/// A hole, by its segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    volume: Uuid,
    file_number: u64,
    nonce: u64,
    run: Uuid,
    from: WallTime,
    to: WallTime,
}

/// What was told of each stream.
pub(crate) type Reaches = HashMap<Uuid, Arc<Told>>;

/// What is damaged of a stream and is not served.
#[derive(Clone, Debug, Default)]
pub struct StreamDamage {
    /// The version of this knowledge: another one after each change.
    pub version: u64,
    /// Each hole up to where decoding begins again.
    pub holes: Arc<[SegmentDamage]>,
    /// Whether that could be told of all of them: not while a disk does not answer, or a catalogue is being made.
    pub is_certain: bool,
}

pub(crate) struct Told {
    damage: StreamDamage,
    /// How far those reach of which that never changes.
    settled: HashMap<Place, Reach>,
}

fn place(damage: &SegmentDamage) -> Place {
    let SegmentDamage { volume, file_number, nonce, hole } = damage;
    Place { volume: *volume, file_number: *file_number, nonce: *nonce, run: hole.run, from: hole.from, to: hole.to }
}

fn is_own(damage: &SegmentDamage, segment: &SegmentInfo) -> bool {
    (damage.volume, damage.file_number, damage.nonce) == (segment.volume, segment.file_number, segment.nonce)
}

impl Reader {
    /// What of a stream is damaged and is not served.
    #[must_use]
    pub fn damage(&self, stream: Uuid) -> StreamDamage {
        let version = self.damage_version(stream);
        let told = lock(&self.caches.reaches).get(&stream).cloned();
        if let Some(told) = told.as_ref().filter(|told| told.damage.version == version)
            && told.settled.len() == told.damage.holes.len()
        {
            return told.damage.clone();
        }
        let (version, mut found) = self.known_damage(stream);
        if found.is_empty() {
            lock(&self.caches.reaches).remove(&stream);
            return StreamDamage { version, is_certain: true, ..StreamDamage::default() };
        }
        let (mut settled, mut is_certain) = (HashMap::with_capacity(found.len()), true);
        for damage in &mut found {
            let place = place(damage);
            let known = told.as_ref().and_then(|told| told.settled.get(&place)).copied();
            let reach = match known.map_or_else(|| self.reach(stream, damage), Ok) {
                Ok(reach) => reach,
                Err(error) => {
                    tracing::debug!(error, "how far damage reaches cannot be told");
                    is_certain = false;
                    continue;
                }
            };
            if reach.settled {
                settled.insert(place, reach);
            }
            reach.widen(&mut damage.hole);
        }
        let damage = StreamDamage { version, holes: found.into(), is_certain };
        lock(&self.caches.reaches).insert(stream, Arc::new(Told { damage: damage.clone(), settled }));
        damage
    }

    /// The version of what [`Self::damage`] gives.
    #[must_use]
    pub fn damage_version(&self, stream: Uuid) -> u64 {
        self.readable().iter().fold(0, |sum, volume| sum.wrapping_add(volume.rot.version(stream)))
    }

    fn reach(&self, stream: Uuid, damage: &SegmentDamage) -> Result<Reach, String> {
        let (hole, mut reach) = (&damage.hole, Reach::of(&damage.hole));
        if !self.is_complete() {
            return Err("the catalogue is being made".to_owned());
        }
        let mut looked_at = 0;
        loop {
            let until = reach.to.saturating_add_us(LOOK_ON_US);
            let (segments, all) =
                self.segments_as_far_as(stream, hole.from, until).map_err(|error| error.to_string())?;
            if !all {
                return Err("a volume does not answer".to_owned());
            }
            // What begins earlier ends before the hole does; the segment of the hole itself may hold the rest of it.
            let own = segments.iter().position(|segment| is_own(damage, segment)).unwrap_or(0);
            let behind = segments.get(own..).unwrap_or_default();
            let Some(new) = behind.get(looked_at..).filter(|new| !new.is_empty()) else { break };
            for segment in new {
                self.take(damage, segment, &mut reach).map_err(|error| error.to_string())?;
                if reach.settled {
                    return Ok(reach);
                }
            }
            looked_at = behind.len();
        }
        reach.settled = self.is_over(stream, hole.run);
        Ok(reach)
    }

    fn take(&self, damage: &SegmentDamage, segment: &SegmentInfo, reach: &mut Reach) -> Result<(), ReadError> {
        let Hole { run, to, .. } = damage.hole;
        let own = is_own(damage, segment);
        // Of a segment that is lost as a whole there is nothing to read.
        if own && to >= segment.end {
            return Ok(());
        }
        let (index, boxes) = match self.index(segment).and_then(|index| Ok((index, self.run_boxes(segment)?))) {
            Ok(found) => found,
            // Another hole.
            Err(ReadError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        reach.take(&damage.hole, own, &index, boxes.iter().map(|run| run.run));
        // Runs follow each other: behind another one there is nothing more of this one.
        reach.settled |= segment.first > to && !boxes.iter().any(|part| part.run == run);
        Ok(())
    }

    /// Whether nothing is added to a run any more.
    fn is_over(&self, stream: Uuid, run: Uuid) -> bool {
        let volumes = self.inner.volumes();
        let live = || volumes.iter().flat_map(|volume| volume.live_of(stream)).flat_map(|live| live.run_parts());
        let is_taken = self.inner.stream(stream).is_some_and(|stream| stream.is_taken());
        // Between two segments there is none that is written: of one that is recorded another run must be seen.
        !live().any(|part| part.run == run) && (!is_taken || live().next().is_some())
    }
}
