//! A strict walk of one segment file (docs/format.md): every byte is accounted for, every field is checked.

mod fragment;
mod index;
mod init;
mod run;
mod tail;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bytes::Box4;
pub use crate::bytes::{Broken, Bytes};
pub use fragment::{Fragment, Sound, VideoFrame};
pub use init::Timescales;
pub use run::{Run, gap_reason};
pub use tail::{Index, Sealed};

/// A UUID as it is written in JSON and messages.
pub type Uid = uuid::Uuid;

const SEGMENT: Uid = uuid::uuid!("cc20bc60-609f-4dd3-a9ea-79e3b78d3280");
const RUN: Uid = uuid::uuid!("67fae9ce-c9c3-4b30-9a9e-845f33769685");
const FRAMES: Uid = uuid::uuid!("faf6f56e-93b6-4237-8d8c-c2fbbd99ebb2");
const INDEX: Uid = uuid::uuid!("9988df71-ce20-4ffb-8e5d-9a80c1eb7fd2");

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// File that it is about.
    pub file: PathBuf,
    /// Offset in the file, where there is one.
    pub at: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} at {at}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

/// Collects what is wrong with one file; a file that is wrong everywhere is cut short.
#[derive(Debug)]
pub(crate) struct Findings {
    file: PathBuf,
    list: Vec<Finding>,
}

/// Most findings of one file that are kept.
const FINDINGS_LIMIT: usize = 200;

impl Findings {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), list: Vec::new() }
    }

    pub(crate) fn add(&mut self, at: usize, what: impl Into<String>) {
        if self.list.len() < FINDINGS_LIMIT {
            self.list.push(Finding { file: self.file.clone(), at: Some(at), what: what.into() });
        }
    }

    pub(crate) fn check(&mut self, right: bool, at: usize, what: impl FnOnce() -> String) {
        if !right {
            self.add(at, what());
        }
    }

    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list
    }

    pub(crate) fn broken(&mut self, broken: Broken) {
        self.add(broken.at, broken.what);
    }
}

/// The segment box (format.md §4).
#[derive(Debug, Clone)]
pub struct Header {
    /// Its offset.
    pub at: usize,
    /// Flag bit 0.
    pub begins_inside_gop: bool,
    /// Random, new at each use of the file.
    pub nonce: u64,
    /// Volume that the file belongs to.
    pub volume: Uid,
    /// The stream's UID.
    pub stream: Uid,
    /// Counts the stream's segments on this volume.
    pub number: u64,
    /// The file's number, kept for its whole life.
    pub file_number: u64,
    /// Microseconds since 1970.
    pub first_wall_us: i64,
    /// XXH3-64 of `ftyp` and `moov`.
    pub init_hash: u64,
    /// Of the two tracks.
    pub timescales: Timescales,
    /// `namespace/name`.
    pub name: String,
}

/// What may be behind the last fragment of a file that is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// What its writer puts there.
    Whole,
    /// Whatever a loss of power left: reading ends before the first fragment that does not check (format.md §6).
    Torn,
}

/// A segment file that was walked.
#[derive(Debug)]
pub struct Segment {
    /// Where it was read.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: usize,
    /// The segment box.
    pub header: Header,
    /// The sealed part, when it is whole.
    pub sealed: Option<Sealed>,
    /// The run boxes.
    pub runs: Vec<Run>,
    /// The fragments.
    pub fragments: Vec<Fragment>,
    /// The index box, when there is one that can be read.
    pub index: Option<Index>,
    /// Where reading ended, of a file that may be torn there: what follows means nothing.
    pub torn_at: Option<usize>,
    /// What is wrong with the file.
    pub findings: Vec<Finding>,
}

impl Segment {
    /// Reads and walks a file.
    ///
    /// Errors: the file cannot be read. What is wrong *in* it is in `Err` of the inner result, when not even its segment
    /// box can be read, or else in [`Segment::findings`].
    pub fn read(path: &Path, tail: Tail) -> std::io::Result<Result<Self, Finding>> {
        Ok(Self::walk(path, &std::fs::read(path)?, tail))
    }

    /// Walks a file's bytes.
    pub fn walk(path: &Path, data: &[u8], tail: Tail) -> Result<Self, Finding> {
        let bytes = Bytes(data);
        let mut findings = Findings::new(path);
        let header = read_header(bytes, &mut findings).map_err(|broken| Finding {
            file: path.to_owned(),
            at: Some(broken.at),
            what: format!("no segment file: {}", broken.what),
        })?;
        let mut walker = Walker {
            bytes,
            findings,
            tail,
            segment: Self {
                path: path.to_owned(),
                bytes: data.len(),
                sealed: None,
                runs: Vec::new(),
                fragments: Vec::new(),
                index: None,
                torn_at: None,
                findings: Vec::new(),
                header,
            },
        };
        if let Err(broken) = walker.run() {
            walker.findings.broken(broken);
        }
        let Walker { findings, mut segment, .. } = walker;
        segment.findings = findings.into_list();
        Ok(segment)
    }

    /// Its video frames in decoding order.
    pub fn video(&self) -> impl Iterator<Item = &VideoFrame> {
        self.fragments.iter().flat_map(|fragment| &fragment.video)
    }

    /// Of each of its video frames, whether it is behind a loss: where packets were lost, those up to the next random access point refer to what is not there.
    pub fn behind_loss(&self) -> impl Iterator<Item = bool> {
        let mut is_whole = true;
        self.video().map(move |frame| {
            let begins = frame.flags & VideoFrame::RANDOM_ACCESS != 0;
            let follows = frame.flags & (VideoFrame::LOSS_BEFORE | VideoFrame::INCOMPLETE) == 0;
            is_whole = begins || (is_whole && follows);
            !is_whole
        })
    }

    /// Its audio frames.
    pub fn audio(&self) -> impl Iterator<Item = &Sound> {
        self.fragments.iter().flat_map(|fragment| &fragment.audio)
    }
}

struct Walker<'a> {
    bytes: Bytes<'a>,
    findings: Findings,
    tail: Tail,
    segment: Segment,
}

impl Walker<'_> {
    fn run(&mut self) -> Result<(), Broken> {
        let bytes = self.bytes;
        self.findings
            .check(bytes.len().is_multiple_of(4096), 0, || format!("size {}, no multiple of 4096", bytes.len()));
        self.read_sealed()?;
        let may_be_torn = self.tail == Tail::Torn && self.segment.sealed.is_none();
        let mut at = self.segment.header.at + 512;
        // Every byte up to the end of the file lies in a top-level box, and each box is one that may stand there.
        let mut behind = Vec::new();
        while at < bytes.len() {
            let before = self.findings.list.len();
            let read = self.read_box(at, &mut behind);
            if may_be_torn && (read.is_err() || !behind.is_empty()) {
                self.findings.list.truncate(before);
                self.segment.torn_at = Some(at);
                self.check_runs();
                return Ok(());
            }
            at = read?;
        }
        self.check_runs();
        self.read_tail(&behind)
    }

    /// Reads the box at an offset, and gives back where it ends. What is neither run nor fragment, and all that follows it, is put `behind` them.
    fn read_box(&mut self, at: usize, behind: &mut Vec<Box4>) -> Result<usize, Broken> {
        let bytes = self.bytes;
        let one = bytes.box_at(at, bytes.len())?;
        // A fragment's length counts with its mdat.
        let whole = one.size().is_multiple_of(8) || one.kind == *b"moof";
        self.findings.check(at.is_multiple_of(8) && whole, at, || {
            format!("`{}`, {} bytes: begin and length must be multiples of 8", one.name(), one.size())
        });
        match &one.kind {
            b"uuid" if behind.is_empty() && bytes.array(one.body)? == *RUN.as_bytes() => {
                self.read_run(&one)?;
                Ok(one.end)
            }
            b"moof" if behind.is_empty() => self.read_fragment(&one),
            _ => {
                let end = one.end;
                behind.push(one);
                Ok(end)
            }
        }
    }
}

/// The 48 bytes that our boxes begin with (format.md §3). Gives back the flags.
fn common(
    bytes: Bytes<'_>,
    at: usize,
    which: Uid,
    nonce: Option<u64>,
    own_offset: usize,
    known_flags: u16,
    findings: &mut Findings,
) -> Result<u16, Broken> {
    let is = Uid::from_bytes(bytes.array(at + 8)?);
    if is != which {
        return Err(Broken::new(at, format!("uuid box {is} where {which} belongs")));
    }
    let (version, flags) = (bytes.u16(at + 24)?, bytes.u16(at + 26)?);
    if version != 1 {
        return Err(Broken::new(at, format!("uuid box {is} of version {version}")));
    }
    findings.check(flags & !known_flags == 0, at, || format!("unknown flags {flags:#06x}"));
    let own = bytes.u64(at + 40)?;
    findings.check(own == own_offset as u64, at, || format!("own offset {own} instead of {own_offset}"));
    let says = bytes.u64(at + 32)?;
    if let Some(nonce) = nonce {
        findings.check(says == nonce, at, || format!("use nonce {says:016x}, the file's is {nonce:016x}"));
    }
    Ok(flags)
}

/// A CRC field of one of our boxes. What has a wrong one is not there; nothing in it is worth reading.
fn check_crc(bytes: Bytes<'_>, (start, end): (usize, usize), crc_at: usize, what: &str) -> Result<(), Broken> {
    let (says, is) = (bytes.u32(crc_at)?, bytes.crc32c_without(start, end, crc_at)?);
    if says != is {
        return Err(Broken::new(start, format!("{what}: CRC {says:08x}, its bytes have {is:08x}")));
    }
    Ok(())
}

fn read_header(bytes: Bytes<'_>, findings: &mut Findings) -> Result<Header, Broken> {
    let ftyp = bytes.box_at(0, bytes.len())?;
    let moov = bytes.box_at(ftyp.end, bytes.len())?;
    if (&ftyp.kind, &moov.kind) != (b"ftyp", b"moov") {
        return Err(Broken::new(0, format!("begins with `{}`, `{}`", ftyp.name(), moov.name())));
    }
    let timescales = init::check(bytes, &ftyp, &moov, findings)?;
    let mut at = moov.end;
    let next = bytes.box_at(at, bytes.len())?;
    if next.kind == *b"free" {
        findings.check(next.size() < 16, at, || format!("`free` of {} bytes behind moov", next.size()));
        at = next.end;
    }
    let own = bytes.box_at(at, bytes.len())?;
    if own.kind != *b"uuid" || own.size() != 512 {
        return Err(Broken::new(at, format!("`{}` of {} bytes where the segment box belongs", own.name(), own.size())));
    }
    findings.check(at.is_multiple_of(8), at, || "segment box not at a multiple of 8".into());
    let flags = common(bytes, at, SEGMENT, None, at, 1, findings)?;
    check_crc(bytes, (at, at + 448), at + 28, "segment box")?;
    let name_bytes = usize::from(bytes.u16(at + 128)?);
    if name_bytes > 318 {
        return Err(Broken::new(at + 128, format!("name of {name_bytes} bytes")));
    }
    let name = String::from_utf8(bytes.slice(at + 130, name_bytes)?.to_vec())
        .map_err(|_| Broken::new(at + 130, "name is not UTF-8"))?;
    let header = Header {
        at,
        begins_inside_gop: flags & 1 != 0,
        nonce: bytes.u64(at + 32)?,
        volume: Uid::from_bytes(bytes.array(at + 48)?),
        stream: Uid::from_bytes(bytes.array(at + 64)?),
        number: bytes.u64(at + 80)?,
        file_number: bytes.u64(at + 88)?,
        first_wall_us: bytes.i64(at + 104)?,
        init_hash: bytes.u64(at + 112)?,
        timescales,
        name,
    };
    findings.check(header.nonce != 0, at, || "use nonce 0".into());
    let size = bytes.u64(at + 96)?;
    findings.check(size == bytes.len() as u64, at, || format!("file size {size}, the file has {}", bytes.len()));
    let hash = xxhash_rust::xxh3::xxh3_64(bytes.slice(0, moov.end)?);
    findings
        .check(hash == header.init_hash, at, || format!("init hash {:016x} instead of {hash:016x}", header.init_hash));
    let says = (bytes.u32(at + 120)?, bytes.u32(at + 124)?);
    findings.check(says == (timescales.video, timescales.audio), at, || {
        format!("timescales {says:?}, moov has {timescales:?}")
    });
    findings.check(header.name.split('/').filter(|part| !part.is_empty()).count() == 2, at, || {
        format!("name `{}` is not namespace/name", header.name)
    });
    findings.check(bytes.is_zero(at + 130 + name_bytes, at + 448)?, at, || "reserved bytes are not zero".into());
    findings.check(bytes.is_zero(at + 488, at + 512)?, at, || "reserved bytes of the sealed part are not zero".into());
    Ok(header)
}
