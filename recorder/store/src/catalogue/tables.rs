//! The tables of the catalogue, and what a record of the manifest does to them.

use framekeeper_media::WallTime;
use framekeeper_media::boxes::{BoxWriter, Ended, Reader};
use redb::{ReadableTable, TableDefinition};
use uuid::Uuid;

use super::{CatalogueError, Result, damaged};
use crate::manifest::{Damage, Record, RunPart, SealedSegment};

pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// (stream, first wall time, segment number) → manifest payload.
pub(super) const SEGMENTS: Table = TableDefinition::new("segments");
/// file number → key in `SEGMENTS`.
pub(super) const FILES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("files");
/// (end wall time, file number) → nothing: what is retired next.
pub(super) const AGES: Table = TableDefinition::new("ages");
/// (stream, first wall time, run) → [`RunRow`].
pub(super) const RUNS: Table = TableDefinition::new("runs");
/// (stream, run) → first wall time.
pub(super) const RUN_STARTS: Table = TableDefinition::new("run-starts");
/// stream → its name.
pub(super) const STREAMS: Table = TableDefinition::new("streams");
/// hold → manifest payload.
pub(super) const HOLDS: Table = TableDefinition::new("holds");
/// (stream, beginning of the hole, file number, first byte) → manifest payload.
pub(super) const DAMAGE: Table = TableDefinition::new("damage");
/// file number → manifest payload: when it was read as a whole, and its hash.
pub(super) const CHECKED: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("checked");
/// All tables from bytes to bytes.
pub(super) const TABLES: [Table; 7] = [SEGMENTS, AGES, RUNS, RUN_STARTS, STREAMS, HOLDS, DAMAGE];

/// A run as far as it is in sealed segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunRow {
    /// Its first part, with `first` and `end` of the whole.
    pub(crate) part: RunPart,
    pub(crate) frames: u64,
    pub(crate) segments: u32,
}

impl RunRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = BoxWriter::with_capacity(RunPart::BYTES + 12);
        self.part.write(&mut w);
        w.u64(self.frames);
        w.u32(self.segments);
        w.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let mut read = || -> std::result::Result<_, Ended> {
            Ok(Self { part: RunPart::read(&mut r)?, frames: r.u64()?, segments: r.u32()? })
        };
        read().map_err(damaged)
    }
}

pub(super) fn segment(bytes: &[u8]) -> Result<SealedSegment> {
    match Record::decode(bytes).map_err(damaged)? {
        Some(Record::Sealed(segment)) => Ok(segment),
        _ => Err(CatalogueError("a row is no segment".to_owned())),
    }
}

// Signed times as bytes that sort the same way.
pub(super) fn wall_bytes(wall: WallTime) -> [u8; 8] {
    (wall.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub(super) fn time_key(stream: Uuid, wall: WallTime) -> Vec<u8> {
    let mut key = stream.as_bytes().to_vec();
    key.extend_from_slice(&wall_bytes(wall));
    key
}

pub(super) fn segment_key(segment: &SealedSegment) -> Vec<u8> {
    let mut key = time_key(segment.stream, segment.first);
    key.extend_from_slice(&segment.number.to_be_bytes());
    key
}

pub(super) fn age_key(segment: &SealedSegment) -> Vec<u8> {
    let mut key = wall_bytes(segment.end).to_vec();
    key.extend_from_slice(&segment.file_number.to_be_bytes());
    key
}

pub(super) fn run_key(stream: Uuid, first: WallTime, run: Uuid) -> Vec<u8> {
    let mut key = time_key(stream, first);
    key.extend_from_slice(run.as_bytes());
    key
}

pub(super) fn run_start_key(stream: Uuid, run: Uuid) -> Vec<u8> {
    let mut key = stream.as_bytes().to_vec();
    key.extend_from_slice(run.as_bytes());
    key
}

pub(super) fn damage_key(damage: &Damage) -> Vec<u8> {
    let mut key = time_key(damage.stream, damage.hole.from);
    key.extend_from_slice(&damage.file_number.to_be_bytes());
    key.extend_from_slice(&damage.hole.bytes.start.to_be_bytes());
    key
}

type Bytes<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

pub(super) struct Tables<'t> {
    pub(super) meta: redb::Table<'t, &'static str, u64>,
    segments: Bytes<'t>,
    files: redb::Table<'t, u64, &'static [u8]>,
    ages: Bytes<'t>,
    runs: Bytes<'t>,
    run_starts: Bytes<'t>,
    streams: Bytes<'t>,
    holds: Bytes<'t>,
    damage: Bytes<'t>,
    checked: redb::Table<'t, u64, &'static [u8]>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t redb::WriteTransaction) -> Result<Self> {
        Ok(Self {
            meta: write.open_table(META)?,
            segments: write.open_table(SEGMENTS)?,
            files: write.open_table(FILES)?,
            ages: write.open_table(AGES)?,
            runs: write.open_table(RUNS)?,
            run_starts: write.open_table(RUN_STARTS)?,
            streams: write.open_table(STREAMS)?,
            holds: write.open_table(HOLDS)?,
            damage: write.open_table(DAMAGE)?,
            checked: write.open_table(CHECKED)?,
        })
    }

    pub(super) fn apply(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Sealed(segment) => self.add(segment, &record.payload()),
            Record::Retired { file_number, nonce } => {
                self.bury(2)?;
                self.retire(*file_number, Some(*nonce))
            }
            Record::Hold(hold) => {
                self.holds.insert(hold.hold.as_bytes().as_slice(), record.payload().as_slice())?;
                Ok(())
            }
            Record::HoldReleased { hold } => {
                self.bury(2)?;
                self.holds.remove(hold.as_bytes().as_slice())?;
                Ok(())
            }
            Record::Damaged(damage) => {
                // Of a segment that is gone, or not yet known because its record was lost: it is found again.
                if self.by_file(damage.file_number)?.is_some_and(|s| s.nonce == damage.nonce) {
                    self.damage.insert(damage_key(damage).as_slice(), record.payload().as_slice())?;
                }
                Ok(())
            }
            Record::Checked(checked) => {
                if self.by_file(checked.file_number)?.is_some_and(|s| s.nonce == checked.nonce) {
                    let again = self.checked.insert(checked.file_number, record.payload().as_slice())?.is_some();
                    self.bury(u64::from(again))?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn bury(&mut self, records: u64) -> Result<()> {
        let dead = self.meta.get("dead")?.map_or(0, |v| v.value());
        self.meta.insert("dead", dead + records)?;
        Ok(())
    }

    fn by_file(&self, file_number: u64) -> Result<Option<SealedSegment>> {
        let Some(key) = self.files.get(file_number)? else { return Ok(None) };
        self.segments.get(key.value())?.map(|row| segment(row.value())).transpose()
    }

    fn add(&mut self, new: &SealedSegment, payload: &[u8]) -> Result<()> {
        match self.by_file(new.file_number)? {
            // Known already: the manifest was read once more.
            Some(old) if old.nonce == new.nonce => return Ok(()),
            // The record of its retirement got lost.
            Some(_) => self.retire(new.file_number, None)?,
            None => {}
        }
        let key = segment_key(new);
        self.segments.insert(key.as_slice(), payload)?;
        self.files.insert(new.file_number, key.as_slice())?;
        self.ages.insert(age_key(new).as_slice(), [].as_slice())?;
        self.streams.insert(new.stream.as_bytes().as_slice(), new.stream_name.as_bytes())?;
        for part in &new.runs {
            self.add_part(new.stream, part)?;
        }
        Ok(())
    }

    fn run(&self, stream: Uuid, run: Uuid) -> Result<Option<RunRow>> {
        let Some(start) = self.run_starts.get(run_start_key(stream, run).as_slice())? else { return Ok(None) };
        let first = WallTime(Reader::new(start.value()).i64().map_err(damaged)?);
        let row = self.runs.get(run_key(stream, first, run).as_slice())?;
        row.map(|row| RunRow::decode(row.value())).transpose()
    }

    fn put_run(&mut self, stream: Uuid, old: Option<WallTime>, row: Option<&RunRow>, run: Uuid) -> Result<()> {
        if let Some(first) = old {
            self.runs.remove(run_key(stream, first, run).as_slice())?;
        }
        let start_key = run_start_key(stream, run);
        match row {
            Some(row) => {
                self.runs.insert(run_key(stream, row.part.first, run).as_slice(), row.encode().as_slice())?;
                self.run_starts.insert(start_key.as_slice(), row.part.first.0.to_be_bytes().as_slice())?;
            }
            None => {
                self.run_starts.remove(start_key.as_slice())?;
            }
        }
        Ok(())
    }

    fn add_part(&mut self, stream: Uuid, part: &RunPart) -> Result<()> {
        let old = self.run(stream, part.run)?;
        let old_first = old.as_ref().map(|row| row.part.first);
        let row = merge_run(old, part, 1);
        self.put_run(stream, old_first, Some(&row), part.run)
    }

    fn retire(&mut self, file_number: u64, nonce: Option<u64>) -> Result<()> {
        let Some(old) = self.by_file(file_number)?.filter(|old| nonce.is_none_or(|n| n == old.nonce)) else {
            return Ok(());
        };
        self.segments.remove(segment_key(&old).as_slice())?;
        self.files.remove(file_number)?;
        self.ages.remove(age_key(&old).as_slice())?;
        let checked = self.checked.remove(file_number)?.is_some();
        self.bury(u64::from(checked))?;
        self.forget_damage(&old)?;
        for part in &old.runs {
            self.remove_part(&old, part)?;
        }
        let (low, high) = (time_key(old.stream, WallTime(i64::MIN)), time_key(old.stream, WallTime(i64::MAX)));
        if self.segments.range::<&[u8]>(low.as_slice()..high.as_slice())?.next().is_none() {
            self.streams.remove(old.stream.as_bytes().as_slice())?;
        }
        Ok(())
    }

    fn forget_damage(&mut self, gone: &SealedSegment) -> Result<()> {
        let (low, high) = (time_key(gone.stream, WallTime(i64::MIN)), time_key(gone.stream, WallTime(i64::MAX)));
        let mut keys = Vec::new();
        for row in self.damage.range::<&[u8]>(low.as_slice()..high.as_slice())? {
            let (key, row) = row?;
            if matches!(Record::decode(row.value()), Ok(Some(Record::Damaged(d))) if d.file_number == gone.file_number)
            {
                keys.push(key.value().to_vec());
            }
        }
        for key in &keys {
            self.damage.remove(key.as_slice())?;
        }
        self.bury(keys.len() as u64)
    }

    fn remove_part(&mut self, from: &SealedSegment, part: &RunPart) -> Result<()> {
        let Some(mut row) = self.run(from.stream, part.run)? else { return Ok(()) };
        let old_first = row.part.first;
        row.segments = row.segments.saturating_sub(1);
        row.frames = row.frames.saturating_sub(part.video_frames.into());
        if row.segments == 0 {
            return self.put_run(from.stream, Some(old_first), None, part.run);
        }
        if part.first <= row.part.first {
            // What is left of it begins as a part that continues another: whatever was before the run, before this lies what was given up.
            let rest = self.next_part(from, part.run)?;
            row.part = RunPart { end: row.part.end, ..rest.unwrap_or(RunPart { first: part.end, ..row.part }) };
        }
        self.put_run(from.stream, Some(old_first), Some(&row), part.run)
    }

    /// The first part of `run` behind `gone`.
    fn next_part(&self, gone: &SealedSegment, run: Uuid) -> Result<Option<RunPart>> {
        let (low, high) = (segment_key(gone), time_key(gone.stream, WallTime(i64::MAX)));
        for row in self.segments.range::<&[u8]>(low.as_slice()..high.as_slice())? {
            let next = segment(row?.1.value())?;
            if let Some(part) = next.runs.into_iter().find(|part| part.run == run) {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}

/// A run with one more part of it, which is in `segments` more segments.
pub(crate) fn merge_run(row: Option<RunRow>, part: &RunPart, segments: u32) -> RunRow {
    let Some(mut row) = row else {
        return RunRow { part: part.clone(), frames: part.video_frames.into(), segments };
    };
    let (first, end) = (row.part.first.min(part.first), row.part.end.max(part.end));
    if row.part.continued && !part.continued {
        row.part = part.clone();
    }
    (row.part.first, row.part.end) = (first, end);
    row.frames += u64::from(part.video_frames);
    row.segments += segments;
    row
}
