//! The manifest as a file: read once, appended to, now and then written anew (`docs/format.md` §8).

use std::io;
use std::path::Path;
use std::sync::Arc;

use framekeeper_media::boxes::Reader;

use crate::env::{File, Folder, read_exact, write_all};
use crate::manifest::{HEADER_BYTES, MAGIC, PAYLOAD_BYTES_AT_MOST, Record};

const NAME: &str = "manifest.log";
const NEW_NAME: &str = "manifest.new";
const READ_BYTES: usize = 1 << 20;

/// A place in a manifest: behind a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
}

/// The open manifest.
pub(crate) struct ManifestLog {
    folder: Arc<dyn Folder>,
    file: Arc<dyn File>,
    end: Position,
}

impl ManifestLog {
    /// Opens the manifest, making it when there is none, and cuts it at the first record that does not check. Also tells from where
    /// on its records are new to somebody who knows it up to `known`: from the first one, when that is no place in this manifest.
    pub(crate) fn open(folder: Arc<dyn Folder>, known: Position, new_generation: u64) -> io::Result<(Self, Position)> {
        let file = folder.open_or_create(Path::new(NAME))?;
        let size = file.size()?;
        let generation = match read_header(file.as_ref(), size)? {
            Some(generation) => generation,
            None => {
                // Empty, or a header that never got whole: what is sealed is found in the files.
                file.set_size(0)?;
                write_header(file.as_ref(), new_generation)?;
                new_generation
            }
        };
        let size = file.size()?;
        let mut from = Position { generation, offset: HEADER_BYTES };
        if known.generation == generation && (HEADER_BYTES..=size).contains(&known.offset) {
            from = known;
        }
        let good = replay(file.as_ref(), from.offset, size, |_, _| {})?;
        if good < size {
            tracing::warn!(cut_at = good, size, "the manifest ends in a record that does not check; it is cut there");
            file.set_size(good)?;
        }
        Ok((Self { folder, file, end: Position { generation, offset: good } }, from))
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
        self.folder.sync_folder(Path::new(""))?;
        self.file = file;
        self.end = Position { generation, offset: end };
        Ok(self.end)
    }
}

fn read_header(file: &dyn File, size: u64) -> io::Result<Option<u64>> {
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

fn write_header(file: &dyn File, generation: u64) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&generation.to_be_bytes());
    write_all(file, &header, 0)
}

/// Gives each record between `from` and `to` with the offset behind it; returns the offset behind the last good one.
pub(crate) fn replay(file: &dyn File, from: u64, to: u64, mut apply: impl FnMut(Record, u64)) -> io::Result<u64> {
    let mut good = from;
    let mut buffer = Vec::new();
    loop {
        let want = READ_BYTES + PAYLOAD_BYTES_AT_MOST + 16;
        let available = usize::try_from(to - good).unwrap_or(usize::MAX).min(want);
        if available == 0 {
            return Ok(good);
        }
        buffer.resize(available, 0);
        read_exact(file, &mut buffer, good)?;
        let mut r = Reader::new(&buffer);
        let start = good;
        while let Some(payload) = next_payload(&mut r) {
            let record = Record::decode(payload);
            good = start + (buffer.len() - r.rest().len()) as u64;
            match record {
                Ok(Some(record)) => apply(record, good),
                Ok(None) => {}
                Err(_) => tracing::warn!(offset = good, "a record of the manifest ends early and is skipped"),
            }
        }
        if good == start {
            return Ok(good);
        }
    }
}

/// The payload of the record that the reader stands before, if it is whole and checks.
fn next_payload<'a>(r: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut ahead = r.clone();
    let length = usize::try_from(ahead.u32().ok()?).ok().filter(|l| (1..=PAYLOAD_BYTES_AT_MOST).contains(l))?;
    let crc = ahead.u32().ok()?;
    let payload = ahead.take(length).ok()?;
    ahead.take(length.next_multiple_of(8) - length).ok()?;
    if crc32c::crc32c(payload) != crc {
        return None;
    }
    *r = ahead;
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Disk, MemDisk};

    fn folder(disk: &MemDisk) -> Arc<dyn Folder> {
        disk.make_folder(Path::new("/v"));
        Disk::open(disk, Path::new("/v")).unwrap()
    }

    fn read(disk: &MemDisk, known: Position) -> (ManifestLog, Vec<Record>, bool) {
        let (log, from) = ManifestLog::open(folder(disk), known, 7).unwrap();
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
        let mut flipped = whole.clone();
        flipped[usize::try_from(first.offset).unwrap() + 10] ^= 1;
        disk.put(path, flipped);
        assert_eq!(read(&disk, Position::default()).1, [retired(1)]);
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
}
