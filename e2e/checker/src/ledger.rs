//! The cameras' ledgers: what was emitted, and when. Their layout is told in the crate `framekeeper-e2e-camera`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A frame that a camera emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// Counts the frames of its track.
    pub number: u64,
    /// Presentation time: video in 1/90000 s, audio in samples.
    pub media_time: i64,
    /// When it was emitted, nanoseconds since 1970.
    pub wall_ns: i64,
    /// Video: XXH3-64 of its VCL NAL units; audio: of its bytes.
    pub hash: u64,
    /// Its coded bytes.
    pub bytes: u32,
    /// It begins a GOP.
    pub key: bool,
}

/// An RTSP session of the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Number of its first video frame.
    pub first_video: u64,
    /// When it got its first frame, nanoseconds since 1970.
    pub began_ns: i64,
    /// When it ended, if it did.
    pub ended_ns: Option<i64>,
}

/// One camera's ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The camera's name.
    pub camera: String,
    /// The frames carry no stamps: hashes are [`crate::stamp::size_and_crc`], and tell which frame is which.
    pub unstamped: bool,
    /// Audio samples a second; 0 without audio.
    pub audio_rate: u32,
    /// The pictures in coding order.
    pub video: Vec<Emitted>,
    /// The audio frames.
    pub audio: Vec<Emitted>,
    /// Where the camera codes for each session: pictures by their numbers, with the hashes that one session alone got.
    pub recoded: HashSet<(u64, u64)>,
    /// The sessions in the order in which they began.
    pub sessions: Vec<Session>,
}

/// A ledger that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read.
    #[error("ledger {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a ledger.
    #[error("ledger {}: {why}", path.display())]
    NoLedger {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

const MAGIC: &[u8] = b"FKLEDG01";
const RECORD_BYTES: usize = 40;

impl Ledger {
    /// Reads one ledger, also while its camera goes on writing.
    pub fn read(path: &Path) -> Result<Self, LedgerError> {
        let bytes = std::fs::read(path).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
        Self::parse(&bytes).map_err(|why| LedgerError::NoLedger { path: path.to_owned(), why })
    }

    /// Reads the ledgers named: files, and all `*.ledger` of folders.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, LedgerError> {
        let mut files = Vec::new();
        for path in paths {
            let io = |source| LedgerError::Io { path: path.clone(), source };
            if path.is_dir() {
                for entry in std::fs::read_dir(path).map_err(io)? {
                    let file = entry.map_err(io)?.path();
                    if file.extension().is_some_and(|end| end == "ledger") {
                        files.push(file);
                    }
                }
            } else {
                files.push(path.clone());
            }
        }
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// Reads a ledger's bytes; a record that is not whole yet is left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("wrong magic")?;
        let (length, rest) = rest.split_first_chunk().ok_or("cut short")?;
        let (line, records) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("header cut short")?;
        let header: serde_json::Value = serde_json::from_slice(line).map_err(|error| format!("header: {error}"))?;
        let camera = header.get("name").and_then(|name| name.as_str()).ok_or("header without a name")?;
        let has_audio = header.get("audio").and_then(|audio| audio.as_str()).is_some_and(|audio| audio != "none");
        let rate = header.get("rate").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let audio_rate = if has_audio { u32::try_from(rate).map_err(|error| format!("rate: {error}"))? } else { 0 };
        let unstamped = match header.get("identity").and_then(|identity| identity.as_str()) {
            None | Some("xxh3") => false,
            Some("crc32-size") => true,
            Some(other) => return Err(format!("identity `{other}`; xxh3 and crc32-size are known")),
        };
        let mut ledger = Self { camera: camera.to_owned(), unstamped, audio_rate, ..Self::default() };
        let mut open = HashMap::new();
        for record in records.as_chunks::<RECORD_BYTES>().0 {
            ledger.take(record, &mut open);
        }
        Ok(ledger)
    }

    fn take(&mut self, record: &[u8; RECORD_BYTES], open: &mut HashMap<u64, usize>) {
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(record.get(at..at + 8).unwrap_or(&[0; 8]));
            u64::from_le_bytes(bytes)
        };
        let [kind, flags, ..] = *record;
        let (number, wall_ns, hash) = (field(8), field(24) as i64, field(32));
        let bytes = (field(0) >> 32) as u32;
        let emitted = Emitted { number, media_time: field(16) as i64, wall_ns, hash, bytes, key: flags & 1 != 0 };
        match kind {
            1 => self.video.push(emitted),
            2 => self.audio.push(emitted),
            3 => _ = self.recoded.insert((number, hash)),
            17 => {
                open.insert(number, self.sessions.len());
                self.sessions.push(Session { first_video: hash, began_ns: wall_ns, ended_ns: None });
            }
            18 => {
                if let Some(session) = open.remove(&number).and_then(|at| self.sessions.get_mut(at)) {
                    session.ended_ns = Some(wall_ns);
                }
            }
            _ => {}
        }
    }

    /// Whether these are the bytes of a picture, as all sessions or as one of them got it.
    pub fn is_picture(&self, picture: &Emitted, hash: u64) -> bool {
        picture.hash == hash || self.recoded.contains(&(picture.number, hash))
    }

    /// The newest picture emitted at or before a moment.
    pub fn newest_video(&self, at_ns: i64) -> Option<&Emitted> {
        let behind = self.video.partition_point(|frame| frame.wall_ns <= at_ns);
        self.video.get(behind.checked_sub(1)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of a ledger.
    pub(crate) fn bytes(header: &str, records: &[[u64; 6]]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend((header.len() as u32).to_le_bytes());
        out.extend(header.as_bytes());
        for &[kind, flags, number, media_time, wall_ns, hash] in records {
            out.extend([kind as u8, flags as u8, 0, 0, 0, 0, 0, 0]);
            for field in [number, media_time, wall_ns, hash] {
                out.extend(field.to_le_bytes());
            }
        }
        out
    }

    #[test]
    fn frames_and_sessions_are_read_and_a_torn_record_is_left_out() {
        let mut data = bytes(
            "{\"name\":\"cam\",\"audio\":\"aac\",\"rate\":48000}\n",
            &[
                [17, 0, 3, 0, 100, 7],
                [1, 1, 7, 3600, 110, 99],
                [3, 1, 7, 3600, 112, 97],
                [2, 0, 1, 1024, 120, 98],
                [20, 0, 0, 0, 125, 0],
                [18, 0, 3, 0, 130, 0],
            ],
        );
        data.extend([1; 39]);
        let ledger = Ledger::parse(&data).unwrap();
        assert_eq!((ledger.camera.as_str(), ledger.audio_rate), ("cam", 48_000));
        assert_eq!(
            ledger.video,
            [Emitted { number: 7, media_time: 3600, wall_ns: 110, hash: 99, bytes: 0, key: true }]
        );
        assert_eq!(ledger.audio.len(), 1);
        let picture = ledger.video[0];
        assert!([99, 97].into_iter().all(|hash| ledger.is_picture(&picture, hash)) && !ledger.is_picture(&picture, 98));
        assert!(!ledger.is_picture(&Emitted { number: 8, ..picture }, 97));
        assert_eq!(ledger.sessions, [Session { first_video: 7, began_ns: 100, ended_ns: Some(130) }]);
        assert_eq!(ledger.newest_video(109), None);
        assert_eq!(ledger.newest_video(110).map(|frame| frame.number), Some(7));
        assert!(Ledger::parse(&data[1..]).is_err());
    }
}
