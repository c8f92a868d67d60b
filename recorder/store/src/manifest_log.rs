//! The manifest as a file: read once, appended to, now and then written anew (`docs/format.md` §8).

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use framekeeper_media::boxes::Reader;
use framekeeper_media::checksum::crc32c;

use crate::env::{File, Folder, read_exact, write_all};
use crate::manifest::{HEADER_BYTES, MAGIC, PAYLOAD_BYTES_AT_MOST, Record};

pub(crate) const NAME: &str = "manifest.log";
const NEW_NAME: &str = "manifest.new";
const READ_BYTES: usize = 1 << 20;
/// Records begin at multiples of this.
const RECORD_ALIGNMENT: usize = 8;
const RECORD_BYTES_AT_MOST: usize = PAYLOAD_BYTES_AT_MOST + 16;

/// A place in a manifest: behind a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
}

/// A manifest that was just opened.
pub(crate) struct OpenedLog {
    pub(crate) log: ManifestLog,
    /// From where on its records are new to whoever knew it: from the first one, when what was known is no place in this manifest.
    pub(crate) from: Position,
    /// Holds and releases from there on.
    pub(crate) holds: Vec<Record>,
    /// Records that were there are not any more.
    pub(crate) lost: bool,
}

/// The open manifest.
pub(crate) struct ManifestLog {
    folder: Arc<dyn Folder>,
    file: Arc<dyn File>,
    end: Position,
}

impl ManifestLog {
    /// Opens the manifest, making it when there is none. What does not check at its end was never whole, and is cut off; where records behind
    /// do check it is damaged, and written anew with those that are left. `known` is how far somebody knows it.
    pub(crate) fn open(folder: Arc<dyn Folder>, known: Position, new_generation: u64) -> io::Result<OpenedLog> {
        let file = folder.open_or_create(Path::new(NAME))?;
        let size = file.size()?;
        let mut lost = false;
        let generation = match read_header(file.as_ref(), size)? {
            Some(generation) => generation,
            None => {
                // Empty, a header that never got whole, or one of another version: what is sealed is found in the files.
                lost = size > 0 || known.generation != 0;
                if size > 0 {
                    tracing::error!(size, "the header of the manifest does not check; it is begun anew");
                }
                file.set_size(0)?;
                write_header(file.as_ref(), new_generation)?;
                new_generation
            }
        };
        let size = file.size()?;
        let mut from = Position { generation, offset: HEADER_BYTES };
        if known.generation == generation {
            if (HEADER_BYTES..=size).contains(&known.offset) {
                from = known;
            } else {
                lost = true;
            }
        }
        let mut holds = Vec::new();
        let Replayed { good, damage } = replay(file.as_ref(), from.offset, size, |record, _| {
            if matches!(record, Record::Hold(_) | Record::HoldReleased { .. }) {
                holds.push(record);
            }
        })?;
        if good < size {
            tracing::warn!(cut_at = good, size, "the manifest ends in a record that does not check; it is cut there");
            file.set_size(good)?;
        }
        let mut log = Self { folder, file, end: Position { generation, offset: good } };
        if let Some(first) = damage.first() {
            let (ranges, at) = (damage.len(), first.start);
            tracing::error!(ranges, at, "records of the manifest are damaged; it is written anew with the others");
            log.compact(new_generation, |_| true)?;
            from = Position { generation: new_generation, offset: HEADER_BYTES };
            lost = true;
        }
        Ok(OpenedLog { log, from, holds, lost })
    }

    /// Behind the last record.
    pub(crate) fn end(&self) -> Position {
        self.end
    }

    /// The file, to be synced by whoever appended.
    pub(crate) fn file(&self) -> Arc<dyn File> {
        self.file.clone()
    }

    /// Appends a record, unsynced. After an error the manifest must not be used any more.
    pub(crate) fn append(&mut self, record: &Record) -> io::Result<Position> {
        let bytes = record.encode();
        write_all(self.file.as_ref(), &bytes, self.end.offset)?;
        self.end.offset += bytes.len() as u64;
        Ok(self.end)
    }

    /// Writes the manifest anew with only the records that `keep` wants, and puts it in place of the old one, synced.
    pub(crate) fn compact(&mut self, generation: u64, keep: impl Fn(&Record) -> bool) -> io::Result<Position> {
        let new = Path::new(NEW_NAME);
        let file = self.folder.open_or_create(new)?;
        file.set_size(0)?;
        write_header(file.as_ref(), generation)?;
        let mut end = HEADER_BYTES;
        let mut batch = Vec::with_capacity(READ_BYTES);
        let mut failed = None;
        replay(self.file.as_ref(), HEADER_BYTES, self.end.offset, |record, _| {
            if failed.is_some() || !keep(&record) {
                return;
            }
            batch.extend_from_slice(&record.encode());
            if batch.len() >= READ_BYTES {
                failed = write_all(file.as_ref(), &batch, end).err();
                end += batch.len() as u64;
                batch.clear();
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        write_all(file.as_ref(), &batch, end)?;
        end += batch.len() as u64;
        file.sync()?;
        self.folder.rename(new, Path::new(NAME))?;
        // At once: whatever becomes of the sync, the old file is not the manifest any more.
        self.file = file;
        self.end = Position { generation, offset: end };
        self.folder.sync_folder(Path::new(""))?;
        Ok(self.end)
    }
}

/// Writes a manifest of these records and puts it in the place of the old one, synced.
pub(crate) fn write_anew(
    folder: &dyn Folder,
    generation: u64,
    records: impl Iterator<Item = Record>,
) -> io::Result<Position> {
    let new = Path::new(NEW_NAME);
    let file = folder.open_or_create(new)?;
    file.set_size(0)?;
    write_header(file.as_ref(), generation)?;
    let mut offset = HEADER_BYTES;
    for record in records {
        let bytes = record.encode();
        write_all(file.as_ref(), &bytes, offset)?;
        offset += bytes.len() as u64;
    }
    file.sync()?;
    folder.rename(new, Path::new(NAME))?;
    folder.sync_folder(Path::new(""))?;
    Ok(Position { generation, offset })
}

pub(crate) fn read_header(file: &dyn File, size: u64) -> io::Result<Option<u64>> {
    if size < HEADER_BYTES {
        return Ok(None);
    }
    let mut header = [0; 16];
    read_exact(file, &mut header, 0)?;
    Ok(header
        .split_first_chunk::<8>()
        .filter(|(magic, _)| *magic == MAGIC)
        .and_then(|(_, rest)| Reader::new(rest).u64().ok()))
}

pub(crate) fn write_header(file: &dyn File, generation: u64) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&generation.to_be_bytes());
    write_all(file, &header, 0)
}

/// What reading a manifest found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Behind the last record that checks.
    pub(crate) good: u64,
    /// Ranges before it that do not check: records were lost there.
    pub(crate) damage: Vec<Range<u64>>,
}

/// Gives each record between `from` and `to` with the offset behind it. Behind one that does not check it goes on at the next that does:
/// bits rot, and what was written later is as good as before.
pub(crate) fn replay(file: &dyn File, from: u64, to: u64, mut apply: impl FnMut(Record, u64)) -> io::Result<Replayed> {
    let mut replayed = Replayed { good: from, damage: Vec::new() };
    let mut buffer = Vec::new();
    let mut start = from;
    loop {
        let left = usize::try_from(to.saturating_sub(start)).unwrap_or(usize::MAX);
        buffer.resize(left.min(READ_BYTES + RECORD_BYTES_AT_MOST), 0);
        read_exact(file, &mut buffer, start)?;
        let is_last = left == buffer.len();
        let mut at = 0;
        while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
            if !is_last && rest.len() < RECORD_BYTES_AT_MOST {
                break;
            }
            let Some((payload, length)) = first_record(rest) else {
                at += RECORD_ALIGNMENT;
                continue;
            };
            let begin = start + at as u64;
            if replayed.good < begin {
                replayed.damage.push(replayed.good..begin);
            }
            at += length;
            replayed.good = begin + length as u64;
            match Record::decode(payload) {
                Ok(Some(record)) => apply(record, replayed.good),
                Ok(None) => {}
                Err(_) => tracing::warn!(offset = begin, "a record of the manifest ends early and is skipped"),
            }
        }
        if is_last {
            return Ok(replayed);
        }
        start += at as u64;
    }
}

/// The records of about a slice of a manifest that was opened, and the offset behind them.
pub(crate) fn slice(file: &dyn File, from: u64, to: u64) -> io::Result<(Vec<Record>, u64)> {
    const SLICE_BYTES: u64 = 2 << 20;
    let mut records = Vec::new();
    let replayed = replay(file, from, to.min(from.saturating_add(SLICE_BYTES)), |record, _| records.push(record))?;
    // Nothing but whole records is in there, and none is longer than a slice.
    let behind = if replayed.good > from { replayed.good } else { to };
    Ok((records, behind))
}

/// The payload of the record that begins here, if it is whole and checks, and the length of the record.
fn first_record(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let mut r = Reader::new(bytes);
    let length = usize::try_from(r.u32().ok()?).ok().filter(|l| (1..=PAYLOAD_BYTES_AT_MOST).contains(l))?;
    let crc = r.u32().ok()?;
    let payload = r.take(length).ok()?;
    r.take(length.next_multiple_of(RECORD_ALIGNMENT) - length).ok()?;
    (crc32c(payload) == crc).then_some((payload, bytes.len() - r.rest().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Disk, Fault, FaultDisk, MemDisk, Operation, Trouble};

    fn folder(disk: &MemDisk) -> Arc<dyn Folder> {
        disk.make_folder(Path::new("/v"));
        Disk::open(disk, Path::new("/v")).unwrap()
    }

    fn read(disk: &MemDisk, known: Position) -> (ManifestLog, Vec<Record>, bool) {
        let OpenedLog { log, from, .. } = ManifestLog::open(folder(disk), known, 7).unwrap();
        let mut records = Vec::new();
        replay(log.file().as_ref(), from.offset, log.end().offset, |record, _| records.push(record)).unwrap();
        (log, records, from != known)
    }

    fn retired(n: u64) -> Record {
        Record::Retired { file_number: n, nonce: n }
    }

    #[test]
    fn appended_records_are_read_again_and_a_known_position_skips_them() {
        let disk = MemDisk::new();
        let (mut log, records, restarted) = read(&disk, Position::default());
        assert!(records.is_empty() && restarted);
        log.append(&retired(1)).unwrap();
        let position = log.append(&retired(2)).unwrap();
        log.append(&retired(3)).unwrap();
        assert_eq!(read(&disk, Position::default()).1, [retired(1), retired(2), retired(3)]);
        let (_, records, restarted) = read(&disk, position);
        assert_eq!((records, restarted), (vec![retired(3)], false));
        let (_, records, restarted) = read(&disk, Position { generation: 8, ..position });
        assert_eq!((records.len(), restarted), (3, true));
    }

    #[test]
    fn it_is_cut_at_the_first_record_that_does_not_check_and_goes_on_there() {
        let disk = MemDisk::new();
        let (mut log, ..) = read(&disk, Position::default());
        let first = log.append(&retired(1)).unwrap();
        log.append(&retired(2)).unwrap();
        let path = Path::new("/v/manifest.log");
        let whole = disk.bytes(path).unwrap();
        for cut in usize::try_from(first.offset).unwrap() + 1..whole.len() {
            disk.put(path, whole[..cut].to_vec());
            let (mut log, records, _) = read(&disk, Position::default());
            assert_eq!(records, [retired(1)], "cut at {cut}");
            log.append(&retired(9)).unwrap();
            assert_eq!(read(&disk, Position::default()).1, [retired(1), retired(9)]);
        }
    }

    #[test]
    fn a_damaged_record_takes_none_of_the_others_with_it() {
        let disk = MemDisk::new();
        let (mut log, ..) = read(&disk, Position::default());
        let count = 20;
        let mut places = Vec::new();
        for n in 0..count {
            places.push(log.append(&retired(n)).unwrap());
        }
        let path = Path::new("/v/manifest.log");
        let whole = disk.bytes(path).unwrap();
        for number in [0_usize, 1, 10, 18] {
            for within in 0..32 {
                let begin = number.checked_sub(1).map_or(HEADER_BYTES, |n| places[n].offset);
                let mut flipped = whole.clone();
                flipped[usize::try_from(begin).unwrap() + within] ^= 0x10;
                disk.put(path, flipped);
                let (mut log, records, _) = read(&disk, Position::default());
                let expected: Vec<_> = (0..count).filter(|n| *n != number as u64).map(retired).collect();
                assert_eq!(records, expected, "record {number}, byte {within}");
                log.append(&retired(7)).unwrap();
                assert_eq!(read(&disk, Position::default()).1.len(), expected.len() + 1);
            }
        }
    }

    #[test]
    fn damage_is_passed_where_more_follows_than_is_read_at_a_time() {
        let disk = MemDisk::new();
        drop(read(&disk, Position::default()));
        let mut bytes = disk.bytes(Path::new("/v/manifest.log")).unwrap();
        let count = 70_000;
        (0..count).for_each(|n| bytes.extend_from_slice(&retired(n).encode()));
        let record = retired(0).encode().len();
        for at in [16 + 5, 16 + record * 34_000 + 9] {
            bytes[at] ^= 1;
        }
        disk.put(Path::new("/v/manifest.log"), bytes);
        assert_eq!(read(&disk, Position::default()).1.len(), count as usize - 2);
    }

    #[test]
    fn compaction_keeps_what_is_wanted_and_changes_the_generation() {
        let disk = MemDisk::new();
        let (mut log, ..) = read(&disk, Position::default());
        for n in 0..10 {
            log.append(&retired(n)).unwrap();
        }
        let end = log.compact(11, |record| *record == retired(4) || *record == retired(7)).unwrap();
        log.append(&retired(20)).unwrap();
        let (_, records, restarted) = read(&disk, end);
        assert_eq!((records, restarted), (vec![retired(20)], false));
        assert_eq!(read(&disk, Position::default()).1, [retired(4), retired(7), retired(20)]);
    }

    #[test]
    fn whatever_a_compaction_fails_at_what_is_appended_behind_it_is_found() {
        for after in 0..2 {
            let disk = MemDisk::new();
            drop(read(&disk, Position::default()));
            let faults = FaultDisk::new(Arc::new(disk.clone()));
            let folder = faults.open(Path::new("/v")).unwrap();
            let mut log = ManifestLog::open(folder, Position::default(), 7).unwrap().log;
            log.append(&retired(1)).unwrap();
            // Of the new file, and of the folder behind it.
            faults.inject(Fault::next(Operation::Sync, Trouble::Enospc).after(after));
            assert!(log.compact(11, |_| true).is_err());
            log.append(&retired(2)).unwrap();
            assert_eq!(read(&disk, Position::default()).1, [retired(1), retired(2)], "{after}");
        }
    }
}
