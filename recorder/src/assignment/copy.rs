//! The copy of the last assignment on each volume: what the recorder starts from when nobody can tell it what to do.
//!
//! One JSON object: `{"format":1,"crc32c":"<8 hex digits>","recorder":{…}}`, the checksum over the bytes of the value of
//! `recorder` as they stand there. Mode 0600, replaced by rename. An assignment names Secrets and holds none.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use framekeeper_crds::Recorder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Its name in the volume's folder (`docs/format.md` §1).
pub const COPY_NAME: &str = "assignment.json";
const FORMAT: u32 = 1;

/// Why a copy cannot be used. Other volumes may have one.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    format: u32,
    crc32c: String,
    #[serde(borrow)]
    recorder: &'a RawValue,
}

/// The copy in a volume's folder; `None` where there is none.
///
/// # Errors
/// [`CopyError`].
pub fn read_copy(volume: &Path) -> Result<Option<Recorder>, CopyError> {
    let path = volume.join(COPY_NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CopyError::Io { path, source }),
    };
    let damaged = |reason: String| CopyError::Damaged { path: path.clone(), reason };
    let stored: Stored<'_> = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if stored.format != FORMAT {
        return Err(damaged(format!("format is {}, only {FORMAT} is known", stored.format)));
    }
    if stored.crc32c != checksum(stored.recorder.get()) {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    serde_json::from_str(stored.recorder.get()).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Writes the copy into a volume's folder. Status and managed fields are left out.
///
/// # Errors
/// [`CopyError::Io`].
pub fn write_copy(volume: &Path, recorder: &Recorder) -> Result<(), CopyError> {
    let path = volume.join(COPY_NAME);
    let io_error = |source: io::Error| CopyError::Io { path: path.clone(), source };
    let mut bare = recorder.clone();
    bare.status = None;
    bare.metadata.managed_fields = None;
    let text = serde_json::to_string(&bare).map_err(|error| io_error(error.into()))?;
    let crc32c = checksum(&text);
    let raw = RawValue::from_string(text).map_err(|error| io_error(error.into()))?;
    let stored = serde_json::to_vec(&Stored { format: FORMAT, crc32c, recorder: &raw })
        .map_err(|error| io_error(error.into()))?;
    let new = volume.join(".assignment.json.new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(io_error)?;
    file.write_all(&stored).and_then(|()| file.sync_all()).map_err(io_error)?;
    fs::rename(&new, &path).map_err(io_error)?;
    fs::File::open(volume).and_then(|folder| folder.sync_all()).map_err(io_error)
}

fn checksum(text: &str) -> String {
    format!("{:08x}", framekeeper_media::checksum::crc32c(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::plan::tests::object;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read() {
        let volume = tempfile::tempdir().unwrap();
        assert!(read_copy(volume.path()).unwrap().is_none());
        write_copy(volume.path(), &object()).unwrap();
        assert_eq!(read_copy(volume.path()).unwrap(), Some(object()));
        let mode = fs::metadata(volume.path().join(COPY_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let volume = tempfile::tempdir().unwrap();
        write_copy(volume.path(), &object()).unwrap();
        let path = volume.path().join(COPY_NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("rtsp://camera", "rtsp://kamera", 1)).unwrap();
        let error = read_copy(volume.path()).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(read_copy(volume.path()), Err(CopyError::Damaged { .. })));
    }
}
