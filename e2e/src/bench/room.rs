//! Room on the disk that is measured: asked for before anything begins, so that no run breaks off half way, and given back at the end.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What is left free, so that the machine goes on.
const SPARE_BYTES: u64 = 2 << 30;
const PREFIX: &str = "framekeeper-bench-";

/// A folder that is removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder below `above`. Folders that earlier runs left there when they were killed are removed.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(above: &Path) -> Result<Self> {
        for entry in fs::read_dir(above).with_context(|| above.display().to_string())?.flatten() {
            let owner = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let folder = above.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Makes sure that `bytes` can be written below `folder`.
///
/// # Errors
/// When there is less room; says how much and what to do.
pub fn check(folder: &Path, bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < bytes.saturating_add(SPARE_BYTES) {
        bail!(
            "{}: {:.1} GB are free, {:.1} GB are needed ({:.1} GB of them are left free): make room, give another disk with --folder, or fewer --streams",
            folder.display(),
            free as f64 / 1e9,
            (bytes + SPARE_BYTES) as f64 / 1e9,
            SPARE_BYTES as f64 / 1e9
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        // No process has this number (PID_MAX_LIMIT of Linux is 4,194,304).
        for name in ["framekeeper-bench-999999999", "framekeeper-bench-x", "framekeeper-bench-1", "other"] {
            fs::create_dir_all(above.path().join(name).join("inside")).unwrap();
        }
        let scratch = Scratch::new(above.path()).unwrap();
        let left = || {
            let mut names: Vec<_> = fs::read_dir(above.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left().len(), 4);
        assert!(scratch.path().is_dir());
        drop(scratch);
        assert_eq!(left(), ["framekeeper-bench-1", "framekeeper-bench-x", "other"]);
    }

    #[test]
    fn too_little_room_is_said_with_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), 0).unwrap();
        let error = check(folder.path(), u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("are needed") && error.contains("--folder"), "{error}");
    }
}
