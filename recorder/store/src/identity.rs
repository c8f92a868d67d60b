//! Who a volume is: `framekeeper.json` (`docs/format.md` §2).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use framekeeper_media::WallTime;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::{Folder, read_exact, write_all};
use crate::error::OpenError;
use crate::{lock, names};

pub(crate) const NAME: &str = "framekeeper.json";
const NEW_NAME: &str = "framekeeper.new";
pub(crate) const LOCK_NAME: &str = "lock";
pub(crate) const FORMAT: u32 = 1;
/// Far more than it ever is.
const BYTES_AT_MOST: u64 = 64 << 10;

/// Lower bits of a segment number: it begins anew with each opening, which is in the upper ones. What a stream's highest number was before
/// cannot be told in time: a clock that was set back has its newest segments among its oldest.
pub(crate) const SEGMENT_NUMBER_BITS: u32 = 32;

/// The identity file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) pool: String,
    pub(crate) recorder: String,
    pub(crate) volume: Uuid,
    pub(crate) segment_bytes: u64,
    pub(crate) created: String,
    pub(crate) opens: u64,
    /// File numbers up to this one were given out.
    #[serde(default)]
    pub(crate) files: u64,
    /// Segment files that there were when it was closed in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<u64>,
    /// The last opener closed it in order.
    #[serde(default)]
    pub(crate) closed: bool,
}

/// What a volume must be to be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) pool: &'a str,
    pub(crate) recorder: &'a str,
    pub(crate) volume: Option<Uuid>,
    pub(crate) segment_bytes: u64,
    pub(crate) known_opens: &'a KnownOpens,
}

/// How often volumes had been opened when that was last heard of: one that was opened less often is an older copy, put back by mistake. Kept
/// outside of the volumes by whoever opens the store; each opening moves it on. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct KnownOpens(Arc<Mutex<BTreeMap<Uuid, u64>>>);

impl KnownOpens {
    /// What is remembered.
    #[must_use]
    pub fn of(opens: impl IntoIterator<Item = (Uuid, u64)>) -> Self {
        Self(Arc::new(Mutex::new(opens.into_iter().collect())))
    }

    /// All, by volume.
    #[must_use]
    pub fn all(&self) -> Vec<(Uuid, u64)> {
        lock(&self.0).iter().map(|(volume, opens)| (*volume, *opens)).collect()
    }

    fn get(&self, volume: Uuid) -> Option<u64> {
        lock(&self.0).get(&volume).copied()
    }

    pub(crate) fn opened(&self, identity: &Identity) {
        lock(&self.0).insert(identity.volume, identity.opens);
    }
}

impl Expected<'_> {
    fn io(&self, what: &str) -> impl FnOnce(io::Error) -> OpenError {
        let (dir, what) = (self.dir.to_owned(), what.to_owned());
        move |source| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => OpenError::ReadOnly { dir, source },
            _ => OpenError::Io { dir, what, source },
        }
    }

    fn refuse(&self, field: &'static str, found: &impl ToString, expected: &impl ToString) -> OpenError {
        let (found, expected) = (found.to_string(), expected.to_string());
        OpenError::Identity { dir: self.dir.to_owned(), field, found, expected }
    }

    /// Whether `found` is what was expected.
    fn check(&self, found: &Identity) -> Result<(), OpenError> {
        if found.format != FORMAT {
            return Err(self.refuse("format", &found.format, &FORMAT));
        }
        if found.pool != self.pool {
            return Err(self.refuse("pool", &found.pool, &self.pool));
        }
        if let Some(volume) = self.volume.filter(|v| *v != found.volume) {
            return Err(self.refuse("volume", &found.volume, &volume));
        }
        if found.segment_bytes != self.segment_bytes {
            return Err(self.refuse("segmentBytes", &found.segment_bytes, &self.segment_bytes));
        }
        if let Some(known) = self.known_opens.get(found.volume).filter(|known| *known > found.opens) {
            let (dir, volume) = (self.dir.to_owned(), found.volume);
            return Err(OpenError::Older { dir, volume, found: found.opens, known });
        }
        Ok(())
    }

    /// Reads the identity of the volume; `None` when the folder is empty and may be formatted.
    pub(crate) fn read(&self, folder: &dyn Folder) -> Result<Option<Identity>, OpenError> {
        let entries = folder.list(Path::new("")).map_err(self.io("list"))?;
        if entries.iter().any(|e| e.name == NAME && !e.folder) {
            let identity = self.parse(folder)?;
            self.check(&identity)?;
            return Ok(Some(identity));
        }
        // Formatting that was cut short leaves these behind.
        let ours = ["lost+found", LOCK_NAME, NEW_NAME];
        match entries.iter().find(|e| !ours.contains(&e.name.as_str())) {
            None => self.never_opened(),
            Some(foreign) => Err(OpenError::Foreign { dir: self.dir.to_owned(), example: foreign.name.clone() }),
        }
    }

    /// A folder is empty: that of a volume that had been opened is not to be formatted, its mount may be missing.
    fn never_opened(&self) -> Result<Option<Identity>, OpenError> {
        match self.volume.and_then(|volume| Some((volume, self.known_opens.get(volume)?))) {
            Some((volume, known)) => Err(OpenError::Older { dir: self.dir.to_owned(), volume, found: 0, known }),
            None => Ok(None),
        }
    }

    fn parse(&self, folder: &dyn Folder) -> Result<Identity, OpenError> {
        let damaged = |reason: String| OpenError::Damaged { dir: self.dir.to_owned(), reason };
        let file = folder.open(Path::new(NAME), false).map_err(self.io("open framekeeper.json"))?;
        let size = file.size().map_err(self.io("read framekeeper.json"))?;
        if size > BYTES_AT_MOST {
            return Err(damaged(format!("it is {size} bytes long")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        read_exact(file.as_ref(), &mut bytes, 0).map_err(self.io("read framekeeper.json"))?;
        serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))
    }

    /// Takes the volume's lock.
    pub(crate) fn lock(&self, folder: &dyn Folder) -> Result<Box<dyn crate::env::Lock>, OpenError> {
        folder.lock(Path::new(LOCK_NAME)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { dir: self.dir.to_owned() },
            _ => self.io("lock")(e),
        })
    }

    /// The identity of a new volume.
    pub(crate) fn fresh(&self, volume: Uuid, now: WallTime) -> Identity {
        Identity {
            format: FORMAT,
            pool: self.pool.to_owned(),
            recorder: self.recorder.to_owned(),
            volume: self.volume.unwrap_or(volume),
            segment_bytes: self.segment_bytes,
            created: names::rfc3339(now),
            opens: 0,
            files: 0,
            made: None,
            closed: true,
        }
    }

    /// Replaces the identity file, durably.
    pub(crate) fn write(&self, folder: &dyn Folder, identity: &Identity) -> Result<(), OpenError> {
        write(folder, identity).map_err(self.io("write framekeeper.json"))
    }
}

/// Replaces the identity file: write, sync, rename, sync of the folder.
pub(crate) fn write(folder: &dyn Folder, identity: &Identity) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(identity)?;
    bytes.push(b'\n');
    let new = PathBuf::from(NEW_NAME);
    let file = folder.open_or_create(&new)?;
    file.set_size(0)?;
    write_all(file.as_ref(), &bytes, 0)?;
    file.sync()?;
    folder.rename(&new, Path::new(NAME))?;
    folder.sync_folder(Path::new(""))
}
