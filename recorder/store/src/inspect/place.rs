//! The folder or file that is looked at: what it is, whose it is, which files are in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use uuid::Uuid;

use crate::env::{Env, Folder, read_exact};
use crate::identity::{self, Identity};
use crate::names;

/// Deeper folders than those of a volume are not looked into.
const DEPTH_AT_MOST: usize = 8;
/// More than an identity ever is.
const IDENTITY_BYTES_AT_MOST: u64 = 64 << 10;

/// Why a place cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is not there, or may not be read.
    #[error("{path}: {source}")]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing of ours in it.
    #[error(
        "{path} holds neither a volume (framekeeper.json) nor segments (*.mp4); give a volume, a copy of one, a part of its streams/, or a segment"
    )]
    Nothing {
        /// The place.
        path: PathBuf,
    },
    /// A recorder has it.
    #[error("{path} is in use by a recorder; stop the recorder first, or remove the volume from it")]
    InUse {
        /// The place.
        path: PathBuf,
    },
}

/// What a volume says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// `namespace/name` of its pool.
    pub pool: String,
    /// The recorder that opened it first.
    pub recorder: String,
    /// Its UUID.
    pub volume: Uuid,
    /// Size of its files.
    pub segment_bytes: u64,
    /// How often it was opened.
    pub opens: u64,
    /// Whether it was closed in order.
    pub closed: bool,
}

/// A folder or file with footage.
pub struct Place {
    /// What was given.
    given: PathBuf,
    /// The folder that paths count from.
    dir: PathBuf,
    pub(super) folder: Arc<dyn Folder>,
    /// The one file that is meant.
    only: Option<PathBuf>,
    /// Of a volume: its identity, or why it cannot be understood.
    pub(super) identity: Option<Result<Identity, String>>,
    /// It looks like a volume: an identity, a pool or a manifest.
    pub(super) is_volume: bool,
    /// The volume's lock is ours.
    pub(super) locked: bool,
}

impl Place {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or has nothing of ours.
    pub fn open(env: &Env, path: &Path) -> Result<Self, PlaceError> {
        let failed = |source| PlaceError::Io { path: path.to_owned(), source };
        let (dir, only) = match env.disk.open(path) {
            Ok(_) => (path.to_owned(), None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")).to_owned(), path.file_name().map(PathBuf::from))
            }
            Err(e) => return Err(failed(e)),
        };
        let folder = env.disk.open(&dir).map_err(failed)?;
        let mut this =
            Self { given: path.to_owned(), dir, folder, only, identity: None, is_volume: false, locked: false };
        if this.only.is_none() {
            let names = this.folder.list(Path::new("")).map_err(failed)?;
            let has = |name: &str, folder: bool| names.iter().any(|entry| entry.name == name && entry.folder == folder);
            if has(identity::NAME, false) {
                this.identity = Some(this.read_identity().map_err(failed)?);
            }
            let known = [(crate::manifest_log::NAME, false), (names::POOL, true), (names::RETIRED, true)];
            this.is_volume = this.identity.is_some() || known.iter().any(|(name, folder)| has(name, *folder));
        }
        if !this.is_volume && this.files().map_err(failed)?.is_empty() {
            return Err(PlaceError::Nothing { path: path.to_owned() });
        }
        Ok(this)
    }

    fn read_identity(&self) -> io::Result<Result<Identity, String>> {
        let file = self.folder.open(Path::new(identity::NAME), false)?;
        let size = file.size()?;
        if size > IDENTITY_BYTES_AT_MOST {
            return Ok(Err(format!("it is {size} bytes long")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        read_exact(file.as_ref(), &mut bytes, 0)?;
        let identity: Result<Identity, String> = serde_json::from_slice(&bytes).map_err(|e| e.to_string());
        Ok(identity.and_then(|found| match found.format {
            identity::FORMAT => Ok(found),
            other => Err(format!("its format is {other}, this program knows {}", identity::FORMAT)),
        }))
    }

    /// What the volume says of itself, where this is one and it can be understood.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeFacts> {
        let identity = self.identity.as_ref()?.as_ref().ok()?;
        Some(VolumeFacts {
            pool: identity.pool.clone(),
            recorder: identity.recorder.clone(),
            volume: identity.volume,
            segment_bytes: identity.segment_bytes,
            opens: identity.opens,
            closed: identity.closed,
        })
    }

    /// The holds that the volume's manifest tells of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn holds(&self) -> io::Result<Vec<crate::Hold>> {
        if !self.is_volume {
            return Ok(Vec::new());
        }
        Ok(super::books::read(self, &mut Vec::new())?.holds)
    }

    /// What was given to [`Self::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.given
    }

    /// Whether a recorder has the volume open. A copy is nobody's.
    #[must_use]
    pub fn in_use(&self) -> bool {
        let lock = (self.is_volume && !self.locked).then(|| std::fs::File::open(self.dir.join(identity::LOCK_NAME)));
        // Tried and given back at once: it must not keep a recorder from starting.
        let Some(Ok(lock)) = lock else { return false };
        matches!(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Every `.mp4` that may be a segment, sorted: of a volume those below `streams/`.
    pub(super) fn files(&self) -> io::Result<Vec<PathBuf>> {
        if let Some(only) = &self.only {
            return Ok(vec![only.clone()]);
        }
        let mut found = Vec::new();
        let top = PathBuf::from(if self.is_volume { names::STREAMS } else { "" });
        let mut folders = vec![(top.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match self.folder.list(&folder) {
                Ok(entries) => entries,
                // Removed since its parent was listed, or never made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let path = folder.join(&entry.name);
                if entry.folder {
                    if depth < DEPTH_AT_MOST {
                        folders.push((path, depth + 1));
                    }
                } else if entry.name.ends_with(".mp4") {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a name is one that segments have: `<YYYYMMDD>T<HHMMSS>.<mmm>Z[-<n>].mp4`.
pub(super) fn is_segment_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pattern = "ddddddddTdddddd";
    let head = name.get(..15).unwrap_or_default();
    head.len() == 15
        && head.chars().zip(pattern.chars()).all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p })
        && name.get(15..).is_some_and(|rest| rest.starts_with('.') && rest.contains('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_names() {
        for (name, expected) in [
            ("a/20261121T140300.123Z.mp4", true),
            ("20261121T140300.123Z-2.mp4", true),
            ("20261121X140300.123Z.mp4", false),
            ("holiday.mp4", false),
            ("00000017.mp4", false),
        ] {
            assert_eq!(is_segment_name(Path::new(name)), expected, "{name}");
        }
    }
}
