//! A disk that dies: from its k-th write or flush on, every one of that kind fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::disk::Blocks;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Writes of blocks.
    Write,
    /// Flushes of the disk's cache.
    Flush,
}

/// From the operation of a kind on that comes behind `after` good ones, counted from now, all of that kind fail with EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Of which kind.
    pub kind: Kind,
    /// How many go well before.
    pub after: u64,
}

/// A disk whose blocks are in a sparse file. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    bytes: u64,
    file: Arc<File>,
    death: Arc<Mutex<Option<Death>>>,
}

impl FaultyDisk {
    /// An empty disk: its blocks in `file`.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn create(bytes: u64, file: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(file)?;
        file.set_len(bytes)?;
        Ok(Self { bytes, file: Arc::new(file), death: Arc::default() })
    }

    /// It is to die so, or to live.
    pub fn set(&self, death: Option<Death>) {
        *self.death.lock().unwrap_or_else(PoisonError::into_inner) = death;
    }

    fn goes_well(&self, kind: Kind) -> io::Result<()> {
        let mut death = self.death.lock().unwrap_or_else(PoisonError::into_inner);
        match death.as_mut().filter(|death| death.kind == kind) {
            None => Ok(()),
            Some(Death { after: 0, .. }) => Err(rustix::io::Errno::IO.into()),
            Some(death) => {
                death.after -= 1;
                Ok(())
            }
        }
    }
}

impl Blocks for FaultyDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.goes_well(Kind::Write)?;
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.goes_well(Kind::Flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_dies_when_told_and_lives_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::create(8192, &folder.path().join("blocks")).unwrap();
        disk.set(Some(Death { kind: Kind::Write, after: 2 }));
        let writes: Vec<bool> = (0..4).map(|at| disk.write(at * 512, b"x").is_ok()).collect();
        assert_eq!(writes, [true, true, false, false]);
        assert!(disk.flush().is_ok());
        disk.set(Some(Death { kind: Kind::Flush, after: 0 }));
        assert!(disk.flush().is_err() && disk.write(0, b"y").is_ok());
        disk.set(None);
        assert!(disk.flush().is_ok());
        assert_eq!(disk.read(0, 1).unwrap(), b"y");
    }
}
