//! What people at the machine want of volumes, remembered beside them: a stopped disk stays stopped, whoever crashes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::control::FOLDER;

const NAME: &str = "volumes.json";

/// What a volume is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Wish {
    Run,
    Drain,
    Stop,
}

/// Of all volumes, by name; what is not in here shall run.
#[derive(Debug)]
pub(super) struct Wishes {
    path: PathBuf,
    wishes: BTreeMap<String, Wish>,
}

impl Wishes {
    /// As they were left beside the volumes in `volumes`. What cannot be read is said, and forgotten: to record is safer than not to.
    pub(super) fn read(volumes: &Path) -> Self {
        let path = volumes.join(FOLDER).join(NAME);
        let wishes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        };
        let wishes = wishes.unwrap_or_else(|error| {
            error!("{}: {error}; all volumes are used, also those that were drained or stopped", path.display());
            BTreeMap::new()
        });
        for (volume, wish) in &wishes {
            info!(volume, ?wish, "as a person at the machine left it");
        }
        Self { path, wishes }
    }

    pub(super) fn of(&self, volume: &str) -> Wish {
        self.wishes.get(volume).copied().unwrap_or(Wish::Run)
    }

    /// Remembers it, durably.
    ///
    /// # Errors
    /// When it cannot be written; then it is as before.
    pub(super) fn set(&mut self, volume: &str, wish: Wish) -> io::Result<()> {
        let mut wishes = self.wishes.clone();
        match wish {
            Wish::Run => wishes.remove(volume),
            other => wishes.insert(volume.to_owned(), other),
        };
        self.write(&wishes)?;
        self.wishes = wishes;
        Ok(())
    }

    fn write(&self, wishes: &BTreeMap<String, Wish>) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(wishes)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_outlives_the_recorder() {
        let folder = tempfile::tempdir().unwrap();
        let mut wishes = Wishes::read(folder.path());
        assert_eq!(wishes.of("a"), Wish::Run);
        wishes.set("a", Wish::Stop).unwrap();
        wishes.set("b", Wish::Drain).unwrap();
        wishes.set("c", Wish::Stop).unwrap();
        wishes.set("c", Wish::Run).unwrap();
        let again = Wishes::read(folder.path());
        assert_eq!((again.of("a"), again.of("b"), again.of("c")), (Wish::Stop, Wish::Drain, Wish::Run));
        fs::write(&again.path, "{\"a\":").unwrap();
        assert_eq!(Wishes::read(folder.path()).of("a"), Wish::Run);
    }

    #[test]
    fn what_cannot_be_remembered_is_not_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut wishes = Wishes::read(&folder.path().join("not there"));
        wishes.set("a", Wish::Stop).unwrap_err();
        assert_eq!(wishes.of("a"), Wish::Run);
    }
}
