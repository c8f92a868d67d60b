//! A whole volume (format.md §1, §2): its identity, its files, and that they agree with each other.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::manifest::{self, Record};
use crate::segment::{Finding, Segment, Tail, Uid};

/// A volume that cannot be judged at all.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no identity, or one of another format.
    #[error("{}: no volume of format 1: {why}", path.display())]
    NoVolume {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// `framekeeper.json` (format.md §2).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// Of the format; 1.
    pub format: u32,
    /// `namespace/name` of the pool.
    pub pool: String,
    /// The recorder's name.
    pub recorder: String,
    /// The volume's UID.
    pub volume: Uid,
    /// Size of every file.
    pub segment_bytes: u64,
    /// When it was formatted.
    pub created: jiff::Timestamp,
    /// How often it was opened for writing.
    pub opens: u64,
    /// File numbers from 1 to this one have been given out.
    pub files: u64,
    /// Whether it was closed in order.
    pub closed: bool,
    /// How many segment files there are, where it was.
    pub made: Option<u64>,
}

/// What is done with the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is being written.
    AtRest,
    /// A recorder has it open: files come and go while they are read.
    Live,
    /// Its power was lost while a recorder had it open, and none has opened it since: what was not synced may be there, or not, or in part.
    Unopened,
}

/// A volume that was read.
#[derive(Debug)]
pub struct Volume {
    /// Its folder.
    pub path: PathBuf,
    /// Its identity.
    pub identity: Identity,
    /// The segments, by stream and number.
    pub segments: Vec<Segment>,
    /// What is wrong with it, the segments' findings included.
    pub findings: Vec<Finding>,
}

impl Volume {
    /// Reads and checks everything on a volume.
    ///
    /// Errors: it cannot be read, or is none; whatever is wrong on it is in [`Volume::findings`].
    pub fn read(path: &Path, state: State) -> Result<Self, VolumeError> {
        let mut volume = Self::read_streams(path, "", state)?;
        volume.check_numbers();
        volume.check_pool(state)?;
        volume.check_manifest(state)?;
        Ok(volume)
    }

    /// Reads only one stream, `namespace/name`, or with an empty name all; nothing else on the volume is checked.
    ///
    /// Errors: as [`Volume::read`].
    pub fn read_streams(path: &Path, stream: &str, state: State) -> Result<Self, VolumeError> {
        let identity = read_identity(path)?;
        let mut volume = Self { path: path.to_owned(), identity, segments: Vec::new(), findings: Vec::new() };
        for file in files_below(&path.join("streams").join(stream))? {
            volume.read_segment(&file, state)?;
        }
        volume.segments.sort_by(|a, b| (&a.header.name, a.header.number).cmp(&(&b.header.name, b.header.number)));
        Ok(volume)
    }

    fn wrong(&mut self, file: &Path, what: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), at: None, what: what.into() });
    }

    fn read_segment(&mut self, file: &Path, state: State) -> Result<(), VolumeError> {
        let tail = if state == State::Unopened { Tail::Torn } else { Tail::Whole };
        let segment = match Segment::read(file, tail) {
            // Retired and zeroed while it was read: what was read is worthless (format.md §10).
            Ok(_) if state == State::Live && !file.exists() => return Ok(()),
            Ok(Ok(segment)) => segment,
            // Taken just then: no fragment of it can have been durable.
            Ok(Err(_)) if state == State::Unopened => return Ok(()),
            Ok(Err(finding)) => {
                self.findings.push(finding);
                return Ok(());
            }
            Err(error) if state == State::Live && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(VolumeError::Io { path: file.to_owned(), source }),
        };
        self.findings.extend(segment.findings.iter().cloned());
        let header = &segment.header;
        let mut wrong = Vec::new();
        if header.volume != self.identity.volume {
            wrong.push(format!("is of volume {}, not of {}", header.volume, self.identity.volume));
        }
        if segment.bytes as u64 != self.identity.segment_bytes {
            wrong.push(format!("has {} bytes, the volume's files have {}", segment.bytes, self.identity.segment_bytes));
        }
        let right = folder_and_name(&header.name, header.first_wall_us);
        let below = file.strip_prefix(self.path.join("streams")).unwrap_or(file);
        let names_fit = right.as_ref().is_some_and(|(folder, stem)| {
            let is = below.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let rest = is.strip_prefix(stem.as_str());
            below.parent() == Some(folder)
                && rest.is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= 2))
                })
        });
        if !names_fit {
            wrong.push(format!("its segment box asks for another name: {right:?}"));
        }
        let first = segment.fragments.first().and_then(|first| segment.walls_of_run(first.run));
        if let Some((first, _)) = first.filter(|&(first, _)| first != header.first_wall_us) {
            wrong.push(format!("segment box begins at {}, its first frame at {first}", header.first_wall_us));
        }
        if !(1..=self.identity.files).contains(&header.file_number) {
            wrong.push(format!("file number {}, {} were given out", header.file_number, self.identity.files));
        }
        for what in wrong {
            self.wrong(file, what);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Numbers of files, uses and a stream's segments are given once.
    fn check_numbers(&mut self) {
        let (mut files, mut nonces, mut numbers) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut wrong = Vec::new();
        for segment in &self.segments {
            let header = &segment.header;
            let doubles = [
                ("file number", files.insert(header.file_number, &segment.path)),
                ("use nonce", nonces.insert(header.nonce, &segment.path)),
                ("segment number", numbers.insert((header.stream, header.number), &segment.path)),
            ];
            for (what, other) in doubles {
                if let Some(other) = other {
                    wrong.push((segment.path.clone(), format!("same {what} as {}", other.display())));
                }
            }
        }
        for (file, what) in wrong {
            self.wrong(&file, what);
        }
    }

    /// Empty files hold nothing but zero bytes.
    fn check_pool(&mut self, state: State) -> Result<(), VolumeError> {
        // Who opens it looks through its pool, and zeroes what was being taken (format.md §1).
        if state == State::Unopened {
            return Ok(());
        }
        for file in files_below(&self.path.join("pool"))? {
            let size = file.metadata().map(|metadata| metadata.len()).unwrap_or(self.identity.segment_bytes);
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let numbered = stem.len() >= 8 && stem.parse::<u64>().is_ok_and(|n| (1..=self.identity.files).contains(&n));
            if size != self.identity.segment_bytes && state == State::AtRest || !numbered {
                let what = format!("{size} bytes, named `{stem}`: not a file of the pool");
                self.findings.push(Finding { file: file.clone(), at: None, what });
            }
            match first_byte_not_zero(&file) {
                Ok(None) => {}
                // A file that is being taken holds its first boxes before it is renamed.
                Ok(Some(0..8)) if state == State::Live => {}
                Ok(Some(at)) => {
                    let what = "a file of the pool that is not all zero".into();
                    self.findings.push(Finding { file, at: Some(at), what });
                }
                Err(error) if state == State::Live && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(VolumeError::Io { path: file, source }),
            }
        }
        Ok(())
    }

    fn check_manifest(&mut self, state: State) -> Result<(), VolumeError> {
        let path = self.path.join("manifest.log");
        let data = match std::fs::read(&path) {
            Ok(data) => data,
            Err(source) => return Err(VolumeError::Io { path, source }),
        };
        let (records, broken) = manifest::read(&data);
        if state == State::AtRest {
            self.findings.extend(broken.into_iter().map(|broken| Finding {
                file: path.clone(),
                at: Some(broken.at),
                what: broken.what,
            }));
        }
        let mut sealed = HashMap::new();
        let mut gone = HashSet::new();
        for record in records {
            match record {
                Record::Sealed(record) => {
                    sealed.insert(record.file_use, record);
                }
                Record::Retired(file, nonce) => {
                    gone.insert((file, nonce));
                }
                Record::Hold | Record::Damaged | Record::Checked => {}
            }
        }
        let mut wrong = Vec::new();
        for segment in &self.segments {
            let file_use = (segment.header.file_number, segment.header.nonce);
            let below = segment.path.strip_prefix(&self.path).unwrap_or(&segment.path).to_owned();
            if gone.contains(&file_use) && state == State::AtRest {
                wrong.push((segment.path.clone(), "retired by the manifest, and still there".to_owned()));
            }
            match (sealed.remove(&file_use), manifest::expected(segment, below)) {
                (Some(says), Some(is)) if *says != is => {
                    wrong.push((segment.path.clone(), format!("the manifest says {says:?}, the file {is:?}")));
                }
                (Some(_), None) if state == State::AtRest => {
                    wrong.push((segment.path.clone(), "sealed by the manifest, but not in itself".to_owned()));
                }
                _ => {}
            }
        }
        for record in sealed.values().filter(|record| !gone.contains(&record.file_use)) {
            if state == State::AtRest {
                wrong.push((path.clone(), format!("no file for the sealed segment {}", record.path.display())));
            }
        }
        for (file, what) in wrong {
            self.wrong(&file, what);
        }
        Ok(())
    }
}

fn read_identity(path: &Path) -> Result<Identity, VolumeError> {
    let no_volume = |why: String| VolumeError::NoVolume { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path.join("framekeeper.json"))
        .map_err(|error| no_volume(format!("framekeeper.json: {error}")))?;
    let identity: Identity =
        serde_json::from_str(&text).map_err(|error| no_volume(format!("framekeeper.json: {error}")))?;
    if identity.format != 1 {
        return Err(no_volume(format!("format {}", identity.format)));
    }
    if identity.made.is_some() && !identity.closed {
        return Err(no_volume("framekeeper.json counts files, and was not closed in order".to_owned()));
    }
    Ok(identity)
}

/// `<namespace>/<name>/<YYYY-MM-DD>` and `<YYYYMMDD>T<HHMMSS>.<mmm>Z` of a segment's first wall time.
fn folder_and_name(stream: &str, wall_us: i64) -> Option<(PathBuf, String)> {
    let time = jiff::Timestamp::from_microsecond(wall_us).ok()?;
    let stem = format!("{}.{:03}Z", time.strftime("%Y%m%dT%H%M%S"), wall_us.div_euclid(1_000).rem_euclid(1_000));
    Some((Path::new(stream).join(time.strftime("%Y-%m-%d").to_string()), stem))
}

/// The regular files below a folder, sorted; none when it is not there.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(path) = folders.pop() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(VolumeError::Io { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| VolumeError::Io { path: path.clone(), source })?.path();
            if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
        }
    }
    files.sort();
    Ok(files)
}

fn first_byte_not_zero(path: &Path) -> std::io::Result<Option<usize>> {
    let mut file = std::fs::File::open(path)?;
    let (mut chunk, mut before) = (vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(at) = chunk.iter().take(read).position(|&byte| byte != 0) {
            return Ok(Some(before + at));
        }
        before += read;
    }
}
