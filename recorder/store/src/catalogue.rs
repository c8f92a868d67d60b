//! The catalogue: what is sealed on a volume, found fast. A cache over the manifest and the files, kept in redb.

use std::path::Path;
use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::{BoxWriter, Ended, Reader};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend as _,
    TableDefinition,
};
use uuid::Uuid;

use crate::env::{File, Folder, read_exact, write_all};
use crate::manifest::{Checked, Damage, Record, RunPart, SealedSegment, SegmentPlace};
use crate::manifest_log::Position;
use crate::types::Hold;

pub(crate) const NAME: &str = "catalogue.redb";
/// What is in the tables, and how. A catalogue of any other version is thrown away.
const VERSION: u64 = 2;
/// Pages kept in memory; a lookup touches a handful of 4 KiB.
const CACHE_BYTES: usize = 32 << 20;
/// Segments and runs are in order of time but for steps of the clock: a search looks at this many more before the first that
/// ends too early.
const LOOK_BEHIND: usize = 16;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// (stream, first wall time, segment number) → manifest payload.
const SEGMENTS: Table = TableDefinition::new("segments");
/// file number → key in `SEGMENTS`.
const FILES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("files");
/// (end wall time, file number) → nothing: what is retired next.
const AGES: Table = TableDefinition::new("ages");
/// (stream, first wall time, run) → [`RunRow`].
const RUNS: Table = TableDefinition::new("runs");
/// (stream, run) → first wall time.
const RUN_STARTS: Table = TableDefinition::new("run-starts");
/// stream → its name.
const STREAMS: Table = TableDefinition::new("streams");
/// hold → manifest payload.
const HOLDS: Table = TableDefinition::new("holds");
/// (stream, beginning of the hole, file number, first byte) → manifest payload.
const DAMAGE: Table = TableDefinition::new("damage");
/// file number → manifest payload: when it was read as a whole, and its hash.
const CHECKED: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("checked");
/// All tables from bytes to bytes.
const TABLES: [Table; 7] = [SEGMENTS, AGES, RUNS, RUN_STARTS, STREAMS, HOLDS, DAMAGE];

/// The catalogue failed. It is only a cache: open it anew.
#[derive(Debug, thiserror::Error)]
#[error("catalogue: {0}")]
pub(crate) struct CatalogueError(String);

impl<E: Into<redb::Error>> From<E> for CatalogueError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

fn damaged(_: Ended) -> CatalogueError {
    CatalogueError("a row is cut".to_owned())
}

type Result<T> = std::result::Result<T, CatalogueError>;

/// A run as far as it is in sealed segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunRow {
    /// Its first part, with `first` and `end` of the whole.
    pub(crate) part: RunPart,
    pub(crate) frames: u64,
    pub(crate) segments: u32,
}

impl RunRow {
    fn encode(&self) -> Vec<u8> {
        let mut w = BoxWriter::with_capacity(RunPart::BYTES + 12);
        self.part.write(&mut w);
        w.u64(self.frames);
        w.u32(self.segments);
        w.into_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let mut read = || -> std::result::Result<_, Ended> {
            Ok(Self { part: RunPart::read(&mut r)?, frames: r.u64()?, segments: r.u32()? })
        };
        read().map_err(damaged)
    }
}

/// The open catalogue.
pub(crate) struct Catalogue {
    db: Database,
}

/// How far it was, when opened.
pub(crate) struct Opened {
    pub(crate) catalogue: Catalogue,
    /// What of the manifest is in it.
    pub(crate) position: Position,
    /// Whether all files were looked at, and not only the manifest.
    pub(crate) scanned: bool,
}

impl Catalogue {
    /// Opens the catalogue of a volume, making it anew when it is missing, damaged or of another version, in memory where the disk does not
    /// let it. Reads all of it: pages that do not check would be found only when somebody gets wrong answers from them.
    pub(crate) fn open(folder: &dyn Folder) -> Result<Opened> {
        let path = Path::new(NAME);
        let attempt = || {
            let opened = || {
                let file = folder.open_or_create(path).map_err(|e| CatalogueError(e.to_string()))?;
                Self::from_file(file)?.known()
            };
            // Damaged pages may make redb panic. That is this file's trouble and nobody else's: it is a cache.
            let panicked = |_| Err(CatalogueError("its pages make no sense".to_owned()));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(opened)).unwrap_or_else(panicked)
        };
        let first = attempt();
        let opened = first.or_else(|reason| {
            tracing::warn!(%reason, "the catalogue cannot be used and is built anew");
            // A file that is not there is as good as one that was removed.
            drop(folder.remove(path));
            attempt()
        });
        opened.or_else(|reason| {
            tracing::warn!(%reason, "the catalogue cannot be on this volume and is kept in memory");
            Self::known(Self::in_memory()?)
        })
    }

    fn known(self) -> Result<Opened> {
        let read = self.db.begin_read()?;
        let meta = read.open_table(META)?;
        let get = |key| -> Result<u64> { Ok(meta.get(key)?.map_or(0, |v| v.value())) };
        let position = Position { generation: get("generation")?, offset: get("position")? };
        let scanned = get("scanned")? == 1;
        let version = get("version")?;
        if version != VERSION {
            return Err(CatalogueError(format!("it has version {version}, expected {VERSION}")));
        }
        drop(meta);
        drop(read);
        Ok(Opened { catalogue: self, position, scanned })
    }

    /// A catalogue that is gone with the process.
    pub(crate) fn in_memory() -> Result<Self> {
        let db = Builder::new().create_with_backend(redb::backends::InMemoryBackend::new())?;
        Self::with_tables(db)
    }

    fn from_file(file: Arc<dyn File>) -> Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        Self::with_tables(builder.create_with_backend(Backend(file))?)
    }

    fn with_tables(db: Database) -> Result<Self> {
        let is_new = db.begin_read()?.list_tables()?.next().is_none();
        let mut write = db.begin_write()?;
        write.set_durability(Durability::None)?;
        if is_new {
            write.open_table(META)?.insert("version", VERSION)?;
        }
        write.open_table(META)?;
        write.open_table(FILES)?;
        write.open_table(CHECKED)?;
        for table in TABLES {
            write.open_table(table)?;
        }
        write.commit()?;
        Ok(Self { db })
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        write.delete_table(META)?;
        write.delete_table(FILES)?;
        write.delete_table(CHECKED)?;
        write.open_table(META)?.insert("version", VERSION)?;
        write.open_table(FILES)?;
        write.open_table(CHECKED)?;
        for table in TABLES {
            write.delete_table(table)?;
            write.open_table(table)?;
        }
        Ok(write.commit()?)
    }

    /// Puts records in, in order, and remembers `position` (where given) as what of the manifest is known.
    pub(crate) fn apply(&self, records: &[Record], position: Option<Position>) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut tables = Tables::open(&write)?;
            for record in records {
                tables.apply(record)?;
            }
            if let Some(position) = position {
                tables.meta.insert("generation", position.generation)?;
                tables.meta.insert("position", position.offset)?;
            }
        }
        Ok(write.commit()?)
    }

    /// The manifest was written anew.
    pub(crate) fn compacted(&self, position: Position) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("dead", 0)?;
            meta.insert("generation", position.generation)?;
            meta.insert("position", position.offset)?;
        }
        Ok(write.commit()?)
    }

    /// Remembers that all files were looked at.
    pub(crate) fn set_scanned(&self) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        write.open_table(META)?.insert("scanned", 1)?;
        Ok(write.commit()?)
    }

    /// Makes it durable; takes as long as a sync.
    pub(crate) fn persist(&self) -> Result<()> {
        Ok(self.db.begin_write()?.commit()?)
    }

    /// A view that does not change while it is held.
    pub(crate) fn view(&self) -> Result<View> {
        Ok(View { read: self.db.begin_read()? })
    }
}

/// What the catalogue held at one moment.
pub(crate) struct View {
    read: redb::ReadTransaction,
}

impl View {
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

fn segment(bytes: &[u8]) -> Result<SealedSegment> {
    match Record::decode(bytes).map_err(damaged)? {
        Some(Record::Sealed(segment)) => Ok(segment),
        _ => Err(CatalogueError("a row is no segment".to_owned())),
    }
}

// Signed times as bytes that sort the same way.
fn wall_bytes(wall: WallTime) -> [u8; 8] {
    (wall.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn time_key(stream: Uuid, wall: WallTime) -> Vec<u8> {
    let mut key = stream.as_bytes().to_vec();
    key.extend_from_slice(&wall_bytes(wall));
    key
}

fn segment_key(segment: &SealedSegment) -> Vec<u8> {
    let mut key = time_key(segment.stream, segment.first);
    key.extend_from_slice(&segment.number.to_be_bytes());
    key
}

fn age_key(segment: &SealedSegment) -> Vec<u8> {
    let mut key = wall_bytes(segment.end).to_vec();
    key.extend_from_slice(&segment.file_number.to_be_bytes());
    key
}

fn run_key(stream: Uuid, first: WallTime, run: Uuid) -> Vec<u8> {
    let mut key = time_key(stream, first);
    key.extend_from_slice(run.as_bytes());
    key
}

fn run_start_key(stream: Uuid, run: Uuid) -> Vec<u8> {
    let mut key = stream.as_bytes().to_vec();
    key.extend_from_slice(run.as_bytes());
    key
}

fn damage_key(damage: &Damage) -> Vec<u8> {
    let mut key = time_key(damage.stream, damage.hole.from);
    key.extend_from_slice(&damage.file_number.to_be_bytes());
    key.extend_from_slice(&damage.hole.bytes.start.to_be_bytes());
    key
}

type Bytes<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

struct Tables<'t> {
    meta: redb::Table<'t, &'static str, u64>,
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
    fn open(write: &'t redb::WriteTransaction) -> Result<Self> {
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

    fn apply(&mut self, record: &Record) -> Result<()> {
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

    fn bury(&mut self, records: u64) -> Result<()> {
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
            row.part.first = self.next_start(from, part)?.unwrap_or(part.end);
        }
        self.put_run(from.stream, Some(old_first), Some(&row), part.run)
    }

    /// Where what is left of a run begins, once `gone` is gone.
    fn next_start(&self, gone: &SealedSegment, part: &RunPart) -> Result<Option<WallTime>> {
        let (low, high) = (segment_key(gone), time_key(gone.stream, WallTime(i64::MAX)));
        let Some(row) = self.segments.range::<&[u8]>(low.as_slice()..high.as_slice())?.next() else { return Ok(None) };
        let next = segment(row?.1.value())?;
        Ok(next.runs.iter().find(|p| p.run == part.run).map(|p| p.first))
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

/// Whether the bytes of a catalogue check: the pages by their checksums, the rows by what they must be.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check(bytes: Vec<u8>) -> Result<()> {
    let memory = redb::backends::InMemoryBackend::new();
    let length = bytes.len() as u64;
    memory.set_len(length).and_then(|()| memory.write(0, &bytes)).map_err(|e| CatalogueError(e.to_string()))?;
    drop(bytes);
    let mut db = Builder::new().create_with_backend(memory)?;
    if !db.check_integrity()? {
        return Err(CatalogueError("its pages do not check".to_owned()));
    }
    let read = db.begin_read()?;
    for row in read.open_table(SEGMENTS)?.iter()? {
        segment(row?.1.value())?;
    }
    Ok(())
}

/// redb on a file of ours.
#[derive(Clone)]
struct Backend(Arc<dyn File>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        read_exact(self.0.as_ref(), out, offset)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_size(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        write_all(self.0.as_ref(), data, offset)
    }
}
