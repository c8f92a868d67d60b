//! The log of a disk: each write with its bytes, and each flush, in the order in which the disk took them up.
//!
//! A record is 40 bytes, little-endian: kind (1 write, 2 flush), offset, length of the bytes that follow, monotonic and wall time in
//! nanoseconds, each a `u64`; then the bytes of a write.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const HEADER_BYTES: usize = 40;
const WRITE: u64 = 1;
const FLUSH: u64 = 2;

/// Writes the log of one disk.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
}

impl LogWriter {
    /// Makes an empty log.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)? })
    }

    /// Logs a write.
    ///
    /// # Errors
    /// Those of the log's file.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut record = header(WRITE, offset, bytes.len());
        record.extend_from_slice(bytes);
        self.file.write_all(&record)
    }

    /// Logs a flush.
    ///
    /// # Errors
    /// Those of the log's file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&header(FLUSH, 0, 0))
    }
}

fn header(kind: u64, offset: u64, bytes: usize) -> Vec<u8> {
    let fields = [kind, offset, bytes as u64, crate::monotonic_ns(), crate::wall_ns()];
    fields.iter().flat_map(|field| field.to_le_bytes()).collect()
}

/// What the disk did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote bytes.
    Write {
        /// Where on the disk.
        offset: u64,
        /// Where its bytes are in [`Log::bytes`].
        bytes: Range<usize>,
    },
    /// Made everything before durable.
    Flush,
}

/// A record of the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was done.
    pub action: Action,
    /// When, nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// When, nanoseconds since 1970.
    pub wall_ns: u64,
}

/// A log that was read.
#[derive(Debug, Default)]
pub struct Log {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Its records.
    pub records: Vec<Record>,
}

impl Log {
    /// Reads a log; a last record that is not whole is left out.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(std::fs::read(path).with_context(|| path.display().to_string())?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let mut records = Vec::new();
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + HEADER_BYTES) {
            let field = |number: usize| {
                let bytes = head.get(number * 8..number * 8 + 8).and_then(|bytes| bytes.try_into().ok());
                u64::from_le_bytes(bytes.unwrap_or_default())
            };
            let begin = at + HEADER_BYTES;
            let end = begin + usize::try_from(field(2))?;
            if end > bytes.len() {
                break;
            }
            let action = match field(0) {
                WRITE => Action::Write { offset: field(1), bytes: begin..end },
                FLUSH => Action::Flush,
                other => bail!("record of kind {other} at {at}: not a log of a disk"),
            };
            records.push(Record { action, monotonic_ns: field(3), wall_ns: field(4) });
            at = end;
        }
        Ok(Self { bytes, records })
    }

    /// The bytes of a write.
    #[must_use]
    pub fn of(&self, bytes: &Range<usize>) -> &[u8] {
        self.bytes.get(bytes.clone()).unwrap_or_default()
    }

    /// Records up to the last flush before record `cut`: what a loss of power there can't take away.
    #[must_use]
    pub fn flushed_before(&self, cut: usize) -> usize {
        let before = self.records.get(..cut).unwrap_or(&self.records);
        before.iter().rposition(|record| record.action == Action::Flush).map_or(0, |flush| flush + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_torn_end_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = LogWriter::create(&path).unwrap();
        writer.write(4096, b"one").unwrap();
        writer.flush().unwrap();
        writer.write(0, b"two").unwrap();
        let log = Log::read(&path).unwrap();
        let actions: Vec<_> = log.records.iter().map(|record| record.action.clone()).collect();
        let [Action::Write { offset: 4096, bytes: one }, Action::Flush, Action::Write { offset: 0, bytes: two }] =
            actions.as_slice()
        else {
            panic!("{actions:?}")
        };
        assert_eq!((log.of(one), log.of(two)), (&b"one"[..], &b"two"[..]));
        assert_eq!((log.flushed_before(1), log.flushed_before(2), log.flushed_before(3)), (0, 2, 2));
        let torn = log.bytes.len() - 1;
        let log = Log::parse(log.bytes.get(..torn).unwrap().to_vec()).unwrap();
        assert_eq!(log.records.len(), 2);
    }
}
