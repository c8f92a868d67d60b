//! The manifests' files: read, and looked after for changes. A change counts once it has stayed the same for one look, so
//! that a file that is being written is not read half.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// More than any manifests need; a mistaken path to a film should not fill the memory.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The files and folders that were named.
#[derive(Debug)]
pub struct Sources {
    named: Vec<PathBuf>,
    seen: Fingerprint,
    taken: Fingerprint,
}

type Fingerprint = Vec<(PathBuf, Option<(u64, u64, i64, i64)>)>;

/// A file that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Why, and what would be right.
    pub message: String,
}

impl Sources {
    /// These files, and the YAML and JSON files in these folders.
    pub fn new(named: Vec<PathBuf>) -> Self {
        Self { named, seen: Vec::new(), taken: Vec::new() }
    }

    /// Reads all files: (path, text).
    ///
    /// # Errors
    /// Everything that can't be read, at once.
    pub fn read(&mut self) -> Result<Vec<(PathBuf, String)>, Vec<Unreadable>> {
        self.taken = fingerprint(&self.named);
        self.seen.clone_from(&self.taken);
        let mut texts = Vec::new();
        let mut errors = Vec::new();
        for named in &self.named {
            match files(named) {
                Ok(files) if files.is_empty() => errors.push(Unreadable {
                    path: named.clone(),
                    message: "there is no .yaml, .yml or .json file in this folder".into(),
                }),
                Ok(files) => {
                    for path in files {
                        match text(&path) {
                            Ok(text) => texts.push((path, text)),
                            Err(message) => errors.push(Unreadable { path, message }),
                        }
                    }
                }
                Err(error) => errors.push(Unreadable { path: named.clone(), message: explain(&error) }),
            }
        }
        if errors.is_empty() { Ok(texts) } else { Err(errors) }
    }

    /// Whether something changed since the last [`Sources::read`], and stayed the same since the last call of this.
    pub fn have_changed(&mut self) -> bool {
        let now = fingerprint(&self.named);
        let settled = now == self.seen;
        self.seen = now;
        settled && self.seen != self.taken
    }
}

fn files(named: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(named)?.is_dir() {
        return Ok(vec![named.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(named)? {
        let path = entry?.path();
        let known =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn text(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| explain(&error))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("is {length} bytes long; a file of manifests may have {MAX_FILE_BYTES}"));
    }
    let bytes = fs::read(path).map_err(|error| explain(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        _ => format!("cannot be read: {error}"),
    }
}

fn fingerprint(named: &[PathBuf]) -> Fingerprint {
    let all = named.iter().flat_map(|named| files(named).unwrap_or_else(|_| vec![named.clone()]));
    all.map(|path| {
        let metadata = fs::metadata(&path).ok();
        let print = metadata.map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        (path, print)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_changes_count_once_they_settle() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yaml", "b"), ("a.yml", "a"), ("c.txt", "c")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut sources = Sources::new(vec![folder.path().to_owned()]);
        let texts: Vec<String> = sources.read().unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["a", "b"]);
        assert!(!sources.have_changed());
        fs::write(folder.path().join("b.yaml"), "bb").unwrap();
        assert!(!sources.have_changed());
        assert!(sources.have_changed());
        sources.read().unwrap();
        assert!(!sources.have_changed());
        fs::remove_file(folder.path().join("a.yml")).unwrap();
        assert!(!sources.have_changed());
        assert!(sources.have_changed());
    }

    #[test]
    fn everything_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let named = vec![folder.path().join("none.yaml"), folder.path().to_owned()];
        let errors: Vec<String> = Sources::new(named).read().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].contains("none.yaml: there is no such file"));
        assert!(errors[1].contains("no .yaml"));
    }
}
