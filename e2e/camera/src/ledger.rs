//! The ledger: what a camera emitted, one fixed-size record a frame, written before any client gets the frame.
//!
//! Layout, little endian, append-only:
//!
//! ```text
//! 0   8  magic "FKLEDG01"
//! 8   4  u32 length L of the header line
//! 12  L  JSON object with the camera's name and parameters (never credentials), ending in '\n'
//! 12+L   records of 40 bytes each; a shorter rest is a record that was being written
//!
//! record:
//! 0   1  u8  kind       1 video frame, 2 audio frame, 3 video frame as one session alone gets it,
//!                       16 started, 17 session began, 18 session ended, 19 frame lost for a session, 20 fault switched,
//!                       21 stopped
//! 1   1  u8  flags      bit 0: key frame (IDR); bit 1 (kind 19): it was an audio frame
//! 2   2  u16 reserved   0
//! 4   4  u32 bytes      frame: its coded bytes (video: NAL units without start codes or lengths); kind 18: the reason
//! 8   8  u64 number     frame number; kinds 17, 18: session; kind 20: fault code
//! 16  8  i64 media time frame: presentation time, video in 1/90000 s, audio in samples; kind 17: of its first frame
//! 24  8  i64 wall clock nanoseconds since the Unix epoch when it was emitted or happened
//! 32  8  u64 hash       video: XXH3-64 of the concatenated VCL NAL units (types 1 to 5, each from its NAL header on,
//!                       without start code or length, trailing zero bytes stripped); audio: of the raw AAC frame;
//!                       kind 17: number of its first video frame; kind 19: the session; kind 20: the fault's argument
//! ```
//!
//! A camera that codes for each session logs a picture once as what it shows, with the bytes that a coding for all would
//! have, and behind that (kind 3, the same number and media time) as each session gets it.
//!
//! A camera that is started again with the same folder goes on in the same file: numbers go on, media time jumps by the
//! wall-clock time in between. Identity kinds other than XXH3-64 are named in the header as `"identity"`:
//! `"xxh3"` (default) or `"crc32-size"`: (bytes of the concatenated VCL NAL units « 32) | CRC-32 (zlib's) of them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use xxhash_rust::xxh3::Xxh3Default;

use crate::source::VIDEO_CLOCK;

const MAGIC: &[u8; 8] = b"FKLEDG01";
/// Bytes of one record.
pub const RECORD_BYTES: usize = 40;
/// Longest header line a reader accepts.
const HEADER_LIMIT_BYTES: u32 = 1 << 20;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A video frame was emitted.
    Video = 1,
    /// An audio frame was emitted.
    Audio = 2,
    /// A video frame that was emitted was coded anew for a session.
    Recoded = 3,
    /// The camera started (again).
    Started = 16,
    /// A session got its first frame.
    SessionBegan = 17,
    /// A session ended; `bytes` is an [`EndReason`].
    SessionEnded = 18,
    /// A session with more than a second of backlog did not get a frame.
    Lost = 19,
    /// A fault was switched on or off; `number` is its code, `hash` its argument.
    Fault = 20,
    /// The camera stopped in an orderly way.
    Stopped = 21,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Video,
            2 => Self::Audio,
            3 => Self::Recoded,
            16 => Self::Started,
            17 => Self::SessionBegan,
            18 => Self::SessionEnded,
            19 => Self::Lost,
            20 => Self::Fault,
            21 => Self::Stopped,
            _ => return None,
        })
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EndReason {
    /// The client sent TEARDOWN.
    Teardown = 1,
    /// The client closed the connection, or it broke.
    Closed = 2,
    /// Nothing was heard of the client for the session timeout.
    Timeout = 3,
    /// A fault killed it.
    Killed = 4,
    /// The camera stopped.
    Stopped = 5,
    /// The client sent PAUSE; a later PLAY begins it again under the same number.
    Paused = 6,
    /// The camera ended it, because somebody else came.
    Replaced = 7,
}

/// One record; the module's text tells what each field means for each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What the record tells.
    pub kind: Kind,
    /// Bit 0: key frame; bit 1: audio (of a lost frame).
    pub flags: u8,
    /// Coded bytes, or a reason.
    pub bytes: u32,
    /// Frame number, session or fault code.
    pub number: u64,
    /// Presentation time: video in 1/90000 s, audio in samples.
    pub media_time: i64,
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    /// Identity of the coded frame, or another kind's argument.
    pub hash: u64,
}

impl Record {
    /// Bit of `flags`: a key frame.
    pub const KEY: u8 = 1;
    /// Bit of `flags`: the lost frame was audio.
    pub const AUDIO: u8 = 2;

    /// Whether it is a video frame that begins a GOP.
    pub fn is_key(&self) -> bool {
        self.flags & Self::KEY != 0
    }

    /// The record's 40 bytes.
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.media_time.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.wall_ns.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }

    /// The record in these bytes; `None` if its kind is unknown.
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let field = |at: usize| <[u8; 8]>::try_from(&bytes[at..at + 8]).unwrap_or_default();
        Some(Self {
            kind: Kind::from_byte(bytes[0])?,
            flags: bytes[1],
            bytes: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            number: u64::from_le_bytes(field(8)),
            media_time: i64::from_le_bytes(field(16)),
            wall_ns: i64::from_le_bytes(field(24)),
            hash: u64::from_le_bytes(field(32)),
        })
    }
}

/// A ledger that was read.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The header line: name and parameters of the camera.
    pub header: serde_json::Value,
    /// All records, in the order in which they were written.
    pub records: Vec<Record>,
}

impl Ledger {
    /// Reads a whole ledger, also while its camera goes on writing.
    ///
    /// Errors: the file can't be read, is no ledger, or holds a record of an unknown kind.
    pub fn read(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let read = || -> anyhow::Result<Self> {
            let bytes = std::fs::read(path)?;
            let (header, records_at) = parse_header(&bytes)?;
            let (records, _rest) = bytes[records_at..].as_chunks::<RECORD_BYTES>();
            let records = records
                .iter()
                .map(|record| Record::from_bytes(record).with_context(|| format!("unknown record kind {}", record[0])))
                .collect::<anyhow::Result<_>>()?;
            Ok(Self { header, records })
        };
        read().with_context(|| format!("ledger {}", path.display()))
    }

    /// The video frames, in coding order.
    pub fn video(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.kind == Kind::Video)
    }

    /// When a video frame was due by the camera's own even clock, nanoseconds since the Unix epoch: `wall_ns` is when its loop woke, which on a
    /// busy machine is later. Of a camera that was started once and sends pictures in the order in which they are shown; `None` without pictures.
    pub fn due_ns(&self, frame: &Record) -> Option<i64> {
        let media_ns = |frame: &Record| i128::from(frame.media_time) * 1_000_000_000 / i128::from(VIDEO_CLOCK);
        let zero_ns = self.video().map(|frame| i128::from(frame.wall_ns) - media_ns(frame)).min()?;
        i64::try_from(zero_ns + media_ns(frame)).ok()
    }

    /// The audio frames.
    pub fn audio(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.kind == Kind::Audio)
    }
}

fn parse_header(bytes: &[u8]) -> anyhow::Result<(serde_json::Value, usize)> {
    let length = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()).context("no ledger: wrong magic")?;
    let length = u32::from_le_bytes(*length);
    if length > HEADER_LIMIT_BYTES {
        bail!("header line of {length} bytes, at most {HEADER_LIMIT_BYTES} are allowed");
    }
    let end = 12 + length as usize;
    let line = bytes.get(12..end).context("header cut short")?;
    Ok((serde_json::from_slice(line)?, end))
}

/// Appends to a ledger.
#[derive(Debug)]
pub(crate) struct LedgerWriter {
    file: File,
    buffer: Vec<u8>,
}

/// The last frame of each kind that a ledger holds already.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) video: Option<Record>,
    pub(crate) audio: Option<Record>,
}

impl LedgerWriter {
    /// Makes the ledger, or opens it to go on behind its last whole record.
    pub(crate) fn open(path: &Path, header: &serde_json::Value) -> anyhow::Result<(Self, Before)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut before = Before::default();
        if bytes.is_empty() {
            let line = format!("{header}\n");
            let mut head = MAGIC.to_vec();
            head.extend_from_slice(&(line.len() as u32).to_le_bytes());
            head.extend_from_slice(line.as_bytes());
            file.write_all(&head)?;
        } else {
            let (_, records_at) = parse_header(&bytes)?;
            let (records, rest) = bytes[records_at..].as_chunks::<RECORD_BYTES>();
            for record in records.iter().filter_map(Record::from_bytes) {
                match record.kind {
                    Kind::Video => before.video = Some(record),
                    Kind::Audio => before.audio = Some(record),
                    _ => {}
                }
            }
            let end = (bytes.len() - rest.len()) as u64;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
        }
        Ok((Self { file, buffer: Vec::new() }, before))
    }

    /// Takes a record; [`Self::flush`] writes it.
    pub(crate) fn push(&mut self, record: Record) {
        self.buffer.extend_from_slice(&record.to_bytes());
    }

    /// Writes what was pushed with one write.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// The identity of a coded video frame: XXH3-64 of its VCL NAL units, trailing zero bytes stripped.
///
/// `nals` are whole NAL units without start code or length; others than types 1 to 5 are passed over.
pub fn video_identity<'a>(nals: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = Xxh3Default::new();
    vcl(nals).for_each(|nal| hasher.update(nal));
    hasher.digest()
}

/// The same frame's `"crc32-size"` identity: what cameras write that have no XXH3.
pub fn crc32_size_identity<'a>(nals: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    crc32_size(vcl(nals))
}

/// The `"crc32-size"` identity of bytes in pieces, for example of a raw AAC frame.
pub fn crc32_size<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let (mut crc, mut bytes) = (!0u32, 0u64);
    for piece in pieces {
        crc = piece.iter().fold(crc, |crc, &byte| (crc >> 8) ^ CRC32[usize::from(crc as u8 ^ byte)]);
        bytes += piece.len() as u64;
    }
    (bytes << 32) | u64::from(!crc)
}

fn vcl<'a>(nals: impl IntoIterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    nals.into_iter().filter(|nal| nal.first().is_some_and(|header| (1..=5).contains(&(header & 0x1f)))).map(|nal| {
        let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        &nal[..end]
    })
}

/// CRC-32 of each byte (ISO/IEC 13239, reflected polynomial 0xEDB88320: zlib's).
const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_back_and_goes_on_behind_a_torn_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cam.ledger");
        let header = serde_json::json!({"name": "cam"});
        let record = Record {
            kind: Kind::Video,
            flags: Record::KEY,
            bytes: 7,
            number: 1 << 40,
            media_time: -3,
            wall_ns: i64::MAX,
            hash: u64::MAX - 1,
        };
        let (mut writer, before) = LedgerWriter::open(&path, &header).unwrap();
        assert!(before.video.is_none());
        writer.push(record);
        writer.push(Record { kind: Kind::Audio, flags: 0, ..record });
        writer.flush().unwrap();
        writer.file.write_all(&[1; 13]).unwrap();
        let read = Ledger::read(&path).unwrap();
        assert_eq!(read.header, header);
        assert_eq!(read.records, [record, Record { kind: Kind::Audio, flags: 0, ..record }]);

        let (mut writer, before) = LedgerWriter::open(&path, &header).unwrap();
        assert_eq!(before.video, Some(record));
        writer.push(Record { number: 9, ..record });
        writer.flush().unwrap();
        assert_eq!(Ledger::read(&path).unwrap().records.len(), 3);
    }

    #[test]
    fn frames_are_due_evenly_however_late_the_loop_woke() {
        let frame = |number: u64, wall_ns: i64| Record {
            kind: Kind::Video,
            flags: 0,
            bytes: 7,
            number,
            media_time: 500 + 3_600 * number as i64,
            wall_ns,
            hash: 0,
        };
        let late = [frame(0, 1_090_000_000), frame(1, 1_042_000_000), frame(2, 1_085_000_000)];
        let ledger = Ledger { header: serde_json::Value::Null, records: late.to_vec() };
        let due = late.each_ref().map(|frame| ledger.due_ns(frame).unwrap());
        assert_eq!(due.map(|ns| ns / 1_000_000), [1_002, 1_042, 1_082]);
        let none = Ledger { header: serde_json::Value::Null, records: Vec::new() };
        assert_eq!(none.due_ns(&late[0]), None);
    }

    #[test]
    fn identity_strips_trailing_zeros_and_passes_over_other_nal_units() {
        let plain = video_identity([&[0x65u8, 1, 2][..], &[0x41, 3]]);
        assert_eq!(plain, video_identity([&[0x67u8, 9][..], &[0x65, 1, 2, 0, 0], &[6, 1], &[0x41, 3, 0]]));
        assert_ne!(plain, video_identity([&[0x65u8, 1, 2][..]]));
        // The check value of CRC-32.
        assert_eq!(crc32_size([&b"12345"[..], b"6789"]), (9 << 32) | 0xcbf4_3926);
        assert_eq!(crc32_size_identity([&b"A23456789\0"[..], &[6, 1]]), 9 << 32 | 0x3b57_faf3);
    }
}
