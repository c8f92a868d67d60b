//! The assignment's file: reading it, and noticing that it was replaced.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use framekeeper_crds::{API_VERSION, Recorder, yaml};
use serde::Deserialize;

/// An assignment of 1,000 channels is about 0.5 MB; more than this is not one.
const MAX_BYTES: u64 = 16 << 20;

/// Why the file gives no assignment. A later version of the file may.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the assignment {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no `Recorder`.
    #[error("the assignment {path} is not a Recorder: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

/// Watches the file by its inode, size and time: it is replaced by rename, and a look costs one system call.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    seen: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl FileWatch {
    /// For the file at `path`, which may not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// The assignment, if the file is another one than at the last call that gave something; `None` when nothing changed.
    ///
    /// # Errors
    /// [`FileError`], once for each state of the file.
    pub fn poll(&mut self) -> Option<Result<Recorder, FileError>> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(source) => {
                // Gone: said once, and noticed again when it is back.
                return self.seen.take().map(|_| Err(FileError::Read { path: self.path.clone(), source }));
            }
        };
        let stamp = Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        };
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        Some(self.read())
    }

    /// The assignment as the file has it now.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(&self) -> Result<Recorder, FileError> {
        let path = || self.path.clone();
        let metadata = fs::metadata(&self.path).map_err(|source| FileError::Read { path: path(), source })?;
        if metadata.len() > MAX_BYTES {
            let message = format!("it has {} bytes, at most {MAX_BYTES} are read", metadata.len());
            return Err(FileError::Parse { path: path(), message });
        }
        let text = fs::read_to_string(&self.path).map_err(|source| FileError::Read { path: path(), source })?;
        parse(&text).map_err(|message| FileError::Parse { path: path(), message })
    }
}

/// A `Recorder` from YAML. Unknown fields are ignored: a newer operator may know more than we do.
///
/// # Errors
/// What is wrong, for a person.
pub fn parse(text: &str) -> Result<Recorder, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        api_version: Option<String>,
        kind: Option<String>,
    }
    let head: Head = yaml::read(text).map_err(|error| error.to_string())?;
    if head.kind.as_deref() != Some("Recorder") {
        return Err(format!("kind is {:?}, it must be \"Recorder\"", head.kind.unwrap_or_default()));
    }
    if head.api_version.as_deref() != Some(API_VERSION) {
        return Err(format!("apiVersion is {:?}, it must be {API_VERSION:?}", head.api_version.unwrap_or_default()));
    }
    yaml::read_recorder(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::plan::tests::{self, object};

    #[test]
    fn a_change_is_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("assignment.yaml");
        let mut watch = FileWatch::new(&path);
        assert!(watch.poll().is_none());
        let put = |text: &str| {
            fs::write(folder.path().join("new"), text).unwrap();
            fs::rename(folder.path().join("new"), &path).unwrap();
        };
        put(&tests::yaml(&object()));
        assert!(watch.poll().unwrap().is_ok());
        assert!(watch.poll().is_none());
        put("kind: Recorder\n\tx");
        assert!(watch.poll().unwrap().is_err());
        assert!(watch.poll().is_none());
        fs::remove_file(&path).unwrap();
        assert!(matches!(watch.poll(), Some(Err(FileError::Read { .. }))));
        assert!(watch.poll().is_none());
        put(&tests::yaml(&object()));
        assert!(watch.poll().unwrap().is_ok());
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let text = tests::yaml(&object()).replacen("spec:", "spec:\n  fromTheFuture: {a: 1}", 1);
        assert_eq!(parse(&text).unwrap(), object());
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("kind: Pod\napiVersion: v1").unwrap_err().contains("kind is \"Pod\""));
        assert!(parse("kind: Recorder\napiVersion: v1").unwrap_err().contains("framekeeper.dev/v1alpha1"));
        let text = tests::yaml(&object()).replace("term: 3", "term: three");
        let message = parse(&text).unwrap_err();
        assert!(message.contains("term") || message.contains("three"), "{message}");
    }
}
