//! Walking a segment file that was not sealed: up to the first fragment that does not check (`docs/format.md` §6).

use std::io;

use framekeeper_media::WallTime;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::boxes::run::{RUN_BOX_LENGTH, RunBox};
use framekeeper_media::boxes::segment::{SEGMENT_BOX_LENGTH, SegmentBox};
use framekeeper_media::boxes::walk::boxes;
use framekeeper_media::boxes::walk::{BoxHeader, MAX_HEADER_LENGTH};
use framekeeper_media::fragment::{FragmentHead, decode, moof_length};
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;

use super::index::{IndexBuilder, StoredFragment};
use super::place::FileTimes;
use crate::env::{File, read_exact};

/// The head of a segment file is not longer: `ftyp`, `moov`, padding and the segment box.
const HEAD_BYTES: usize = 64 << 10;
/// Most are within this.
const SHORT_HEAD_BYTES: usize = 4 << 10;
/// Read at a time while checking.
const READ_BYTES: usize = 1 << 20;

/// What stands before the first run box.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) init: InitSegment,
    pub(crate) video: H264Parameters,
    pub(crate) audio: Option<AacParameters>,
    pub(crate) segment: SegmentBox,
    /// Where the first run box stands.
    pub(crate) end: u64,
}

/// Why a file is no segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("{0}")]
    NotOurs(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the head of a segment file.
pub(crate) fn head(file: &dyn File) -> Result<Head, HeadError> {
    // Nearly all heads are short, and with very many segments it is this read that counts.
    match parse_head(&first_bytes(file, SHORT_HEAD_BYTES)?) {
        Err(HeadError::NotOurs(_)) => parse_head(&first_bytes(file, HEAD_BYTES)?),
        other => other,
    }
}

fn first_bytes(file: &dyn File, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The segment box of a file whose `ftyp` or `moov` is damaged, if it checks.
pub(crate) fn segment_box(file: &dyn File) -> io::Result<Option<SegmentBox>> {
    let bytes = first_bytes(file, HEAD_BYTES)?;
    let places = (0..bytes.len()).step_by(8);
    let decoded = places.filter_map(|at| Some((at, SegmentBox::decode(bytes.get(at..)?).ok()?)));
    Ok(decoded.filter(|(at, segment)| segment.offset == *at as u64).map(|(_, segment)| segment).next())
}

fn parse_head(bytes: &[u8]) -> Result<Head, HeadError> {
    let not_ours = |e: String| HeadError::NotOurs(e);
    let (init, video, audio) = InitSegment::parse(bytes).map_err(|e| not_ours(e.to_string()))?;
    for header in boxes(bytes) {
        // The last box here may reach past what was read; the segment box never does.
        let (header, _) = header.map_err(|_| not_ours("no segment box behind moov".to_owned()))?;
        if header.kind != *b"uuid" {
            continue;
        }
        let at = usize::try_from(header.offset).unwrap_or(usize::MAX);
        let segment = SegmentBox::decode(bytes.get(at..).unwrap_or_default()).map_err(|e| not_ours(e.to_string()))?;
        if segment.offset != header.offset {
            return Err(not_ours("the segment box names another offset".to_owned()));
        }
        if segment.init_hash != init.hash {
            // What describes the codecs is not what was written: no frame could be trusted to decode.
            return Err(not_ours(format!(
                "ftyp and moov are damaged: their hash is {:016x}, the segment box says {:016x}",
                init.hash, segment.init_hash
            )));
        }
        return Ok(Head { init, video, audio, segment, end: header.offset + SEGMENT_BOX_LENGTH as u64 });
    }
    Err(not_ours("no segment box behind moov".to_owned()))
}

/// What a walk found.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    pub(crate) found: IndexBuilder,
    pub(crate) times: FileTimes,
    pub(crate) sequence: u32,
    /// Behind the last fragment (or run box) that checks.
    pub(crate) end: u64,
}

/// Walks the fragments of a segment file, checking every byte.
pub(crate) fn fragments(file: &dyn File, head: &Head) -> io::Result<Walked> {
    let mut walked = Walked::begin(head);
    walk(file, head, &mut walked, &|| false)?;
    Ok(walked)
}

/// The same, as long as it is not `late`; `None` when it is.
pub(crate) fn fragments_in_time(file: &dyn File, head: &Head, late: &dyn Fn() -> bool) -> io::Result<Option<Walked>> {
    let mut walked = Walked::begin(head);
    Ok(walk(file, head, &mut walked, late)?.then_some(walked))
}

impl Walked {
    fn begin(head: &Head) -> Self {
        Self { found: IndexBuilder::default(), times: FileTimes::default(), sequence: 0, end: head.end }
    }
}

/// Whether it came to the end in time.
fn walk(file: &dyn File, head: &Head, walked: &mut Walked, late: &dyn Fn() -> bool) -> io::Result<bool> {
    let size = file.size()?.min(head.segment.file_size);
    let mut at = head.end;
    while let Ok(step) = next_box(file, head, at, size)? {
        if late() {
            return Ok(false);
        }
        match step {
            Step::Run(run) => {
                // A run box without a fragment behind it is written anew by whoever goes on.
                let after = at + RUN_BOX_LENGTH as u64;
                match next_box(file, head, after, size)? {
                    Ok(Step::Fragment(fragment)) => {
                        walked.found.add_run(*run);
                        at = after;
                        at = add(walked, &fragment, at, head.segment.audio_timescale);
                    }
                    _ => break,
                }
            }
            Step::Fragment(fragment) => {
                if walked.found.last_run().is_none() {
                    break;
                }
                at = add(walked, &fragment, at, head.segment.audio_timescale);
            }
        }
    }
    Ok(true)
}

fn add(walked: &mut Walked, head: &FragmentHead, at: u64, audio_timescale: u32) -> u64 {
    let fragment = StoredFragment {
        moof_offset: at,
        video: head.video.clone(),
        audio: head.audio.clone(),
        audio_wall: head.audio_wall.unwrap_or(WallTime(0)),
    };
    walked.found.add_fragment(&fragment, audio_timescale);
    walked.times.add(&fragment);
    walked.sequence = head.sequence_number;
    walked.end = at + head.length;
    walked.end
}

/// What stands in a segment file, behind its head and before its index.
pub(crate) enum Step {
    Run(Box<RunBox>),
    Fragment(Box<FragmentHead>),
}

/// Whether the first fragment goes on with a GOP of an earlier segment.
pub(crate) fn first_continues_gop(file: &dyn File, head: &Head, size: u64) -> io::Result<bool> {
    let mut at = head.end;
    while let Ok(step) = next_box(file, head, at, size)? {
        match step {
            Step::Run(_) => at += RUN_BOX_LENGTH as u64,
            Step::Fragment(fragment) => return Ok(fragment.continues_gop),
        }
    }
    Ok(false)
}

/// The run box or fragment at `at`, or why there is none of this use that checks.
pub(crate) fn next_box(file: &dyn File, head: &Head, at: u64, size: u64) -> io::Result<Result<Step, String>> {
    if size.saturating_sub(at) < 8 {
        return Ok(Err("the file ends".to_owned()));
    }
    let mut start = [0; MAX_HEADER_LENGTH];
    let available = usize::try_from(size - at).unwrap_or(usize::MAX).min(MAX_HEADER_LENGTH);
    let start = start.get_mut(..available).unwrap_or_default();
    read_exact(file, start, at)?;
    let header = match BoxHeader::parse(start, at, size) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    match &header.kind {
        b"uuid" if header.length == RUN_BOX_LENGTH as u64 => {
            let mut bytes = [0; RUN_BOX_LENGTH];
            read_exact(file, &mut bytes, at)?;
            Ok(match RunBox::decode(&bytes) {
                Ok(run) if run.nonce != head.segment.nonce => Err("a run box of an earlier use of the file".to_owned()),
                Ok(run) if run.offset != at => Err(format!("a run box that belongs at {}", run.offset)),
                Ok(run) => Ok(Step::Run(Box::new(run))),
                Err(error) => Err(error.to_string()),
            })
        }
        b"moof" => fragment(file, head, start, at, size),
        kind => Ok(Err(format!("a {:?} box, where a run box or a fragment should be", String::from_utf8_lossy(kind)))),
    }
}

fn fragment(file: &dyn File, head: &Head, start: &[u8], at: u64, size: u64) -> io::Result<Result<Step, String>> {
    let length = match moof_length(start, at, size) {
        Ok(length) => length,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let behind_moof = u64::from(length) + 8;
    if at + behind_moof > size {
        return Ok(Err("a moof that reaches up to the end of the file".to_owned()));
    }
    let mut bytes = vec![0; usize::try_from(behind_moof).unwrap_or(0)];
    read_exact(file, &mut bytes, at)?;
    let fragment = match decode(&bytes, at, size) {
        Ok(fragment) => fragment,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if fragment.nonce != head.segment.nonce {
        return Ok(Err("a fragment of an earlier use of the file".to_owned()));
    }
    if fragment.length % 8 != 0 {
        return Ok(Err(format!("a fragment of {} bytes, which is no multiple of 8", fragment.length)));
    }
    let mut verifier = fragment.verifier();
    verifier.update(&bytes);
    let (mut next, end) = (at + behind_moof, at + fragment.length);
    while next < end {
        let n = usize::try_from(end - next).unwrap_or(READ_BYTES).min(READ_BYTES);
        bytes.resize(n, 0);
        read_exact(file, &mut bytes, next)?;
        verifier.update(&bytes);
        next += n as u64;
    }
    Ok(match verifier.finish() {
        Ok(()) => Ok(Step::Fragment(Box::new(fragment))),
        Err(error) => Err(error.to_string()),
    })
}
