//! How often each volume was opened, kept beside the volumes: a volume that says less is an older copy of itself, and an empty folder in the
//! place of a volume that had been opened is a mount that is missing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use framekeeper_store::KnownOpens;
use tracing::warn;
use uuid::Uuid;

const NAME: &str = "opened.json";
/// Far more than there ever is in it.
const BYTES_AT_MOST: u64 = 1 << 20;

/// What is remembered, and what of it is on the disk.
pub(super) struct Opens {
    path: PathBuf,
    pub(super) known: KnownOpens,
    written: Vec<(Uuid, u64)>,
}

impl Opens {
    /// What was remembered below this folder. What cannot be read is forgotten: it only makes more sure.
    pub(super) fn read(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let read = || -> std::io::Result<BTreeMap<Uuid, u64>> {
            if std::fs::metadata(&path)?.len() > BYTES_AT_MOST {
                return Err(std::io::Error::other("it is too long"));
            }
            Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
        };
        let opens = read().unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "how often volumes were opened is not known any more");
            }
            BTreeMap::new()
        });
        let known = KnownOpens::of(opens);
        Self { path, written: known.all(), known }
    }

    /// Writes it anew, where it has changed.
    pub(super) fn keep(&mut self) {
        let now = self.known.all();
        if now == self.written {
            return;
        }
        if let Err(error) = self.write(&now) {
            warn!(path = %self.path.display(), %error, "how often volumes were opened could not be written");
        }
        // Not tried again before it changes: the next opening counts on.
        self.written = now;
    }

    fn write(&self, opens: &[(Uuid, u64)]) -> std::io::Result<()> {
        let opens: BTreeMap<_, _> = opens.iter().copied().collect();
        let new = self.path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(&opens)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_garbage_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut opens = Opens::read(folder.path());
        assert!(opens.known.all().is_empty());
        let (volume, times) = (Uuid::from_u128(1), 7);
        opens.known = KnownOpens::of([(volume, times)]);
        opens.keep();
        assert_eq!(Opens::read(folder.path()).known.all(), [(volume, times)]);
        std::fs::write(folder.path().join(NAME), b"{").unwrap();
        assert!(Opens::read(folder.path()).known.all().is_empty());
    }
}
