//! Damage at the end of a segment: the frames with which the next one begins refer to what is lost, up to its first random access point.

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

/// How far the holes of each stream reach, where that never changes.
pub(crate) type Reaches = HashMap<Uuid, Arc<HashMap<Place, Reach>>>;

fn place(damage: &SegmentDamage) -> Place {
    let SegmentDamage { volume, file_number, nonce, hole } = damage;
    Place { volume: *volume, file_number: *file_number, nonce: *nonce, run: hole.run, from: hole.from, to: hole.to }
}

fn is_own(damage: &SegmentDamage, segment: &SegmentInfo) -> bool {
    (damage.volume, damage.file_number, damage.nonce) == (segment.volume, segment.file_number, segment.nonce)
}

impl Reader {
    /// What of a stream is damaged and is not served, each hole up to where decoding begins again, with the version of that knowledge:
    /// another one after each change.
    #[must_use]
    pub fn damage(&self, stream: Uuid) -> (u64, Vec<SegmentDamage>) {
        let (version, mut found) = self.known_damage(stream);
        if found.is_empty() {
            lock(&self.caches.reaches).remove(&stream);
            return (version, found);
        }
        let known = lock(&self.caches.reaches).get(&stream).cloned().unwrap_or_default();
        let mut kept = HashMap::with_capacity(found.len());
        for damage in &mut found {
            let place = place(damage);
            let reach = known.get(&place).copied().unwrap_or_else(|| self.reach(stream, damage));
            if reach.settled {
                kept.insert(place, reach);
            }
            reach.widen(&mut damage.hole);
        }
        lock(&self.caches.reaches).insert(stream, Arc::new(kept));
        (version, found)
    }

    /// The version of what [`Self::damage`] gives.
    #[must_use]
    pub fn damage_version(&self, stream: Uuid) -> u64 {
        self.known_damage(stream).0
    }

    fn reach(&self, stream: Uuid, damage: &SegmentDamage) -> Reach {
        let mut reach = Reach::of(&damage.hole);
        if let Err(error) = self.look_on(stream, damage, &mut reach) {
            tracing::warn!(%error, "how far damage reaches cannot be told");
        }
        reach
    }

    fn look_on(&self, stream: Uuid, damage: &SegmentDamage, reach: &mut Reach) -> Result<(), ReadError> {
        let hole = &damage.hole;
        let mut looked_at = 0;
        loop {
            let segments = self.segments(stream, hole.from, reach.to.saturating_add_us(LOOK_ON_US))?;
            // What begins earlier ends before the hole does; the segment of the hole itself may hold the rest of it.
            let own = segments.iter().position(|segment| is_own(damage, segment)).unwrap_or(0);
            let behind = segments.get(own..).unwrap_or_default();
            let Some(new) = behind.get(looked_at..).filter(|new| !new.is_empty()) else { return Ok(()) };
            for segment in new {
                self.take(damage, segment, reach);
                if reach.settled {
                    return Ok(());
                }
            }
            looked_at = behind.len();
        }
    }

    fn take(&self, damage: &SegmentDamage, segment: &SegmentInfo, reach: &mut Reach) {
        let Hole { to, .. } = damage.hole;
        let own = is_own(damage, segment);
        // Of a segment that is lost as a whole there is nothing to read.
        if own && to >= segment.end {
            return;
        }
        // What cannot be read is another hole.
        if let (Ok(index), Ok(boxes)) = (self.index(segment), self.run_boxes(segment)) {
            reach.take(&damage.hole, own, &index, boxes.iter().map(|run| run.run));
            // Runs follow each other: behind another one there is nothing more of this one.
            reach.settled |= segment.first > to && !boxes.iter().any(|run| run.run == damage.hole.run);
        }
    }
}
