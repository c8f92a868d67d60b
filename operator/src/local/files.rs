//! Files that others read while they are written: whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Whether a file must be there after a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// It must.
    Yes,
    /// It would be written again anyway.
    No,
}

/// Replaces a file by rename: readers see the old text or the new one. Nobody else may read it.
///
/// # Errors
/// When the folder can't be written to; the old file is then still there.
pub fn replace(path: &Path, text: &[u8], durable: Durable) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = folder.join(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable == Durable::Yes {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        // What was begun is of no use to anybody; that it stays when it can't be removed does no harm.
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes a folder, and those it stands in, for us alone.
///
/// # Errors
/// When it can't be made.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a file that may not be there.
///
/// # Errors
/// When it is there and stays.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a lock that is held until the file is dropped. `None` when somebody else has it.
///
/// # Errors
/// When the file can't be opened.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn replaced_files_are_private_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one", Durable::Yes).unwrap();
        replace(&path, b"two", Durable::No).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }
}
