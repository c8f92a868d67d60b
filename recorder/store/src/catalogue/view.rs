//! Questions to the catalogue, as it was at one moment.

use framekeeper_media::WallTime;
use framekeeper_media::boxes::Reader;
use redb::{ReadableTable, ReadableTableMetadata};
use uuid::Uuid;

use super::tables::*;
use super::{Result, damaged};
use crate::manifest::{Checked, Damage, Record, SealedSegment, SegmentPlace};
use crate::types::Hold;

/// Segments and runs are in order of time but for steps of the clock: a search looks at this many more before the first that
/// ends too early.
const LOOK_BEHIND: usize = 16;

/// What the catalogue held at one moment.
pub(crate) struct View {
    read: redb::ReadTransaction,
}

impl View {
    pub(super) fn new(read: redb::ReadTransaction) -> Self {
        Self { read }
    }

    /// Segments of a stream with footage between `from` and `to`, in order of their first frame.
    pub(crate) fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<SealedSegment>> {
        let mut found = Vec::new();
        self.backwards(SEGMENTS, stream, to, |bytes| {
            // Most that are looked at end too early: the rest of those is not read.
            let inside = SealedSegment::end_in(bytes).map_err(damaged)? > from;
            if inside {
                found.push(segment(bytes)?);
            }
            Ok(inside)
        })?;
        found.reverse();
        Ok(found)
    }

    /// Runs of a stream with footage between `from` and `to`, in order of their first frame.
    pub(crate) fn runs(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<RunRow>> {
        let mut found = Vec::new();
        self.backwards(RUNS, stream, to, |bytes| {
            let row = RunRow::decode(bytes)?;
            let inside = row.part.end > from;
            if inside {
                found.push(row);
            }
            Ok(inside)
        })?;
        found.reverse();
        Ok(found)
    }

    /// A run, as far as it is here.
    pub(crate) fn run(&self, stream: Uuid, run: Uuid) -> Result<Option<RunRow>> {
        let starts = self.read.open_table(RUN_STARTS)?;
        let Some(start) = starts.get(run_start_key(stream, run).as_slice())? else { return Ok(None) };
        let first = WallTime(Reader::new(start.value()).i64().map_err(damaged)?);
        let row = self.read.open_table(RUNS)?.get(run_key(stream, first, run).as_slice())?;
        row.map(|row| RunRow::decode(row.value())).transpose()
    }

    fn backwards(
        &self,
        table: Table,
        stream: Uuid,
        before: WallTime,
        mut visit: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let table = self.read.open_table(table)?;
        let (low, high) = (time_key(stream, WallTime(i64::MIN)), time_key(stream, before));
        let mut outside = 0;
        for row in table.range::<&[u8]>(low.as_slice()..high.as_slice())?.rev() {
            outside = if visit(row?.1.value())? { 0 } else { outside + 1 };
            if outside > LOOK_BEHIND {
                break;
            }
        }
        Ok(())
    }

    /// How many segments of a stream have footage between `from` and `to`.
    pub(crate) fn count_touching(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<u64> {
        let mut count = 0;
        self.backwards(SEGMENTS, stream, to, |bytes| {
            let inside = SealedSegment::end_in(bytes).map_err(damaged)? > from;
            count += u64::from(inside);
            Ok(inside)
        })?;
        Ok(count)
    }

    /// The newest segment of a stream.
    pub(crate) fn last_segment(&self, stream: Uuid) -> Result<Option<SealedSegment>> {
        let table = self.read.open_table(SEGMENTS)?;
        let (low, high) = (time_key(stream, WallTime(i64::MIN)), time_key(stream, WallTime(i64::MAX)));
        let last = table.range::<&[u8]>(low.as_slice()..high.as_slice())?.next_back();
        last.map(|row| segment(row?.1.value())).transpose()
    }

    /// The segment that is in a file.
    pub(crate) fn by_file(&self, file_number: u64) -> Result<Option<SealedSegment>> {
        let Some(key) = self.read.open_table(FILES)?.get(file_number)? else { return Ok(None) };
        let table = self.read.open_table(SEGMENTS)?;
        table.get(key.value())?.map(|row| segment(row.value())).transpose()
    }

    /// The segment whose footage ends first, of those that `may` go.
    pub(crate) fn oldest(&self, may: impl Fn(&SealedSegment) -> bool) -> Result<Option<SealedSegment>> {
        for row in self.read.open_table(AGES)?.iter()? {
            let key = row?.0.value().to_vec();
            let file_number = key.get(8..).and_then(|k| Reader::new(k).u64().ok()).unwrap_or_default();
            if let Some(segment) = self.by_file(file_number)?.filter(|s| may(s)) {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Where the segments of a stream are, in order of their first frame: all, or those that end before `until` and a few more.
    pub(crate) fn places(&self, stream: Uuid, until: Option<WallTime>, look_on: usize) -> Result<Vec<SegmentPlace>> {
        let table = self.read.open_table(SEGMENTS)?;
        let (low, high) = (time_key(stream, WallTime(i64::MIN)), time_key(stream, WallTime(i64::MAX)));
        let (mut places, mut behind) = (Vec::new(), 0);
        for row in table.range::<&[u8]>(low.as_slice()..high.as_slice())? {
            let place = SealedSegment::place_in(row?.1.value()).map_err(damaged)?;
            behind = if until.is_some_and(|until| place.end >= until) { behind + 1 } else { 0 };
            places.push(place);
            if behind > look_on {
                break;
            }
        }
        Ok(places)
    }

    /// Segments in the order in which their footage ends, behind `after`, with what is known of the last time that they were read through.
    pub(crate) fn by_age(
        &self,
        after: Option<(WallTime, u64)>,
        most: usize,
    ) -> Result<Vec<(SealedSegment, Option<Checked>)>> {
        let ages = self.read.open_table(AGES)?;
        let mut low = Vec::new();
        if let Some((end, file_number)) = after {
            low.extend_from_slice(&wall_bytes(end));
            low.extend_from_slice(&file_number.saturating_add(1).to_be_bytes());
        }
        let mut found = Vec::new();
        for row in ages.range::<&[u8]>(low.as_slice()..)?.take(most) {
            let key = row?.0.value().to_vec();
            let file_number = key.get(8..).and_then(|k| Reader::new(k).u64().ok()).unwrap_or_default();
            if let Some(segment) = self.by_file(file_number)? {
                let checked = self.checked(file_number)?.filter(|checked| checked.nonce == segment.nonce);
                found.push((segment, checked));
            }
        }
        Ok(found)
    }

    /// Streams that have sealed segments, with their names.
    pub(crate) fn streams(&self) -> Result<Vec<(Uuid, String)>> {
        let mut streams = Vec::new();
        for row in self.read.open_table(STREAMS)?.iter()? {
            let (key, name) = row?;
            let uid = Uuid::from_slice(key.value()).unwrap_or_default();
            streams.push((uid, String::from_utf8_lossy(name.value()).into_owned()));
        }
        Ok(streams)
    }

    /// Holds that were not released.
    pub(crate) fn holds(&self) -> Result<Vec<Hold>> {
        let mut holds = Vec::new();
        for row in self.read.open_table(HOLDS)?.iter()? {
            if let Some(Record::Hold(hold)) = Record::decode(row?.1.value()).map_err(damaged)? {
                holds.push(hold);
            }
        }
        Ok(holds)
    }

    /// All that is damaged, with the segments that it is in.
    pub(crate) fn all_damage(&self) -> Result<Vec<(Damage, SealedSegment)>> {
        let mut damage = Vec::new();
        for row in self.read.open_table(DAMAGE)?.iter()? {
            let Some(Record::Damaged(one)) = Record::decode(row?.1.value()).map_err(damaged)? else { continue };
            if let Some(segment) = self.by_file(one.file_number)?.filter(|segment| segment.nonce == one.nonce) {
                damage.push((one, segment));
            }
        }
        Ok(damage)
    }

    /// When the segment in a file was read as a whole, if it was.
    pub(crate) fn checked(&self, file_number: u64) -> Result<Option<Checked>> {
        let Some(row) = self.read.open_table(CHECKED)?.get(file_number)? else { return Ok(None) };
        match Record::decode(row.value()).map_err(damaged)? {
            Some(Record::Checked(checked)) => Ok(Some(checked)),
            _ => Ok(None),
        }
    }

    /// Each segment's file number and path, by stream and time; until `visit` says that it has seen enough.
    pub(crate) fn each(&self, mut visit: impl FnMut(&SealedSegment) -> bool) -> Result<()> {
        for row in self.read.open_table(SEGMENTS)?.iter()? {
            if !visit(&segment(row?.1.value())?) {
                break;
            }
        }
        Ok(())
    }

    /// Sealed segments.
    pub(crate) fn count(&self) -> Result<u64> {
        Ok(self.read.open_table(FILES)?.len()?)
    }

    /// Records of the manifest that mean nothing any more.
    pub(crate) fn dead_records(&self) -> Result<u64> {
        Ok(self.read.open_table(META)?.get("dead")?.map_or(0, |v| v.value()))
    }
}
