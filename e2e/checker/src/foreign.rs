//! No file holds a byte of another stream's footage: every stamp anywhere in a file, inside a sample or not, must belong to
//! the stream that the file's segment box names.

use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::Serialize;

use crate::ledger::{Emitted, Ledger};
use crate::segment::{Finding, Segment, Tail};
use crate::stamp::{self, Stamp};
use crate::volume::{VolumeError, files_below};

/// What was searched.
#[derive(Debug, Default, Serialize)]
pub struct Searched {
    /// Files.
    pub files: usize,
    /// Stamps in them.
    pub stamps: usize,
    /// Foreign or unknown stamps, and bytes where none may be.
    pub findings: Vec<Finding>,
}

/// Searches every file below `streams/` and `pool/` of a volume. `camera_of` gives the camera of a stream.
///
/// Errors: a file or folder cannot be read.
pub fn search(volume: &Path, ledgers: &[Ledger], camera_of: impl Fn(&str) -> String) -> Result<Searched, VolumeError> {
    let mut searched = Searched::default();
    for file in files_below(&volume.join("streams"))? {
        let data = read(&file)?;
        searched.files += 1;
        let stream = match Segment::walk(&file, &data, Tail::Whole) {
            Ok(segment) => segment.header.name,
            Err(finding) => {
                searched.findings.push(finding);
                continue;
            }
        };
        let camera = camera_of(&stream);
        match ledgers.iter().find(|ledger| ledger.camera == camera) {
            Some(own) => search_bytes(&file, &data, own, ledgers, &mut searched),
            None => {
                let what = format!("stream {stream}: no ledger of a camera {camera}");
                searched.findings.push(Finding { file, at: None, what });
            }
        }
    }
    for file in files_below(&volume.join("pool"))? {
        let data = read(&file)?;
        searched.files += 1;
        if let Some(at) = memmem::find(&data, &stamp::UUID).or_else(|| memmem::find(&data, &stamp::AUDIO_MAGIC)) {
            searched.findings.push(Finding { file, at: Some(at), what: "a stamp in an empty file".into() });
        }
    }
    Ok(searched)
}

fn read(path: &Path) -> Result<Vec<u8>, VolumeError> {
    std::fs::read(path).map_err(|source| VolumeError::Io { path: path.to_owned(), source })
}

/// Searches some bytes: a file, or what an API answered.
pub fn search_bytes(name: &Path, data: &[u8], own: &Ledger, all: &[Ledger], searched: &mut Searched) {
    let mut wrong = |at: usize, what: String| {
        searched.findings.push(Finding { file: PathBuf::from(name), at: Some(at), what });
    };
    for at in memmem::find_iter(data, &stamp::UUID) {
        searched.stamps += 1;
        let Some(Stamp { number, .. }) = data.get(at..).and_then(Stamp::in_raw_video) else {
            wrong(at, "a stamp cut short".into());
            continue;
        };
        let hash = hash_behind(data, at);
        if !knows(own, number, hash) {
            let owner = all.iter().find(|ledger| knows(ledger, number, hash));
            wrong(at, whose("picture", number, owner, own));
        }
    }
    for at in memmem::find_iter(data, &stamp::AUDIO_MAGIC) {
        searched.stamps += 1;
        let number = data.get(at + 8..).and_then(|behind| behind.first_chunk()).map_or(0, |n| u64::from_be_bytes(*n));
        if !holds_audio(data, at, own, number) {
            let owner = all.iter().find(|ledger| holds_audio(data, at, ledger, number));
            wrong(at, whose("audio frame", number, owner, own));
        }
    }
}

fn whose(what: &str, number: u64, owner: Option<&Ledger>, own: &Ledger) -> String {
    match owner {
        Some(other) => format!("{what} {number} of camera {}, in a file of {}", other.camera, own.camera),
        None => format!("{what} {number} that no ledger knows, in a file of {}", own.camera),
    }
}

fn by_number(track: &[Emitted], number: u64) -> Option<&Emitted> {
    track.get(track.partition_point(|frame| frame.number < number)).filter(|frame| frame.number == number)
}

fn knows(ledger: &Ledger, number: u64, hash: u64) -> bool {
    by_number(&ledger.video, number).is_some_and(|frame| ledger.is_picture(frame, hash))
}

/// Identity of the slices that follow the SEI NAL unit whose UUID lies at `uuid_at`, in 4-byte length form.
fn hash_behind(data: &[u8], uuid_at: usize) -> u64 {
    let length = |at: usize| {
        data.get(at..).and_then(|rest| rest.first_chunk()).map_or(usize::MAX, |l| u32::from_be_bytes(*l) as usize)
    };
    // Length (4), NAL header, payload type, payload size, UUID.
    let Some(start) = uuid_at.checked_sub(3) else { return 0 };
    let mut next = start.checked_sub(4).map_or(usize::MAX, |at| start.saturating_add(length(at)));
    let mut units = Vec::new();
    while let Some(unit) = next.checked_add(4).and_then(|body| data.get(body..body.checked_add(length(next))?)) {
        if !unit.first().is_some_and(|header| (1..=5).contains(&(header & 0x1f)) && header & 0x80 == 0) {
            break;
        }
        units.push(unit);
        next += 4 + unit.len();
    }
    stamp::identity(&units)
}

/// Whether the frame whose magic lies at `magic_at` is that of this ledger, byte by byte.
fn holds_audio(data: &[u8], magic_at: usize, ledger: &Ledger, number: u64) -> bool {
    let Some(frame) = by_number(&ledger.audio, number) else { return false };
    // The element's header has 2 bytes, or 3 where its count does not fit into one.
    [2, 3].into_iter().any(|header| {
        let start = magic_at.checked_sub(header);
        let bytes = start.and_then(|start| data.get(start..start.checked_add(frame.bytes as usize)?));
        bytes.is_some_and(|bytes| xxhash_rust::xxh3::xxh3_64(bytes) == frame.hash)
    })
}
