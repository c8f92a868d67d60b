//! A recorder's log: its new lines, its last lines, and a bound on its size.
//!
//! Recorders write into the file themselves, so that nothing is lost and nobody blocks when the operator is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// Beyond this a log becomes `log.1`, in place of the former one.
const MAX_BYTES: u64 = 10 << 20;
/// What is read at once: more than that in one go is skipped, it stays in the file.
const MAX_READ_BYTES: u64 = 1 << 20;

/// A log that is followed.
#[derive(Debug)]
pub struct LogTail {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
    recent: std::collections::VecDeque<String>,
}

impl LogTail {
    /// Follows a log from its present end.
    pub fn new(path: &Path) -> Self {
        let offset = fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), offset, partial: Vec::new(), recent: std::collections::VecDeque::new() }
    }

    /// The complete lines that were written since the last call.
    ///
    /// # Errors
    /// When the file can't be read or shortened.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
        }
        if length == self.offset {
            return Ok(Vec::new());
        }
        self.offset = self.offset.max(length.saturating_sub(MAX_READ_BYTES));
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(MAX_READ_BYTES).read_to_end(&mut self.partial)?;
        self.offset += read as u64;
        let complete = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.partial.split_off(complete);
        let text = std::mem::replace(&mut self.partial, rest);
        let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        for line in lines.iter().rev().take(RECENT_LINES).rev() {
            if self.recent.len() == RECENT_LINES {
                self.recent.pop_front();
            }
            self.recent.push_back(line.clone());
        }
        if self.offset > MAX_BYTES {
            let mut kept = self.path.clone().into_os_string();
            kept.push(".1");
            fs::copy(&self.path, kept)?;
            // Writers append, so they go on at the new end.
            OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
            self.offset = 0;
        }
        Ok(lines)
    }

    /// The last lines that were read, for when a recorder ends: what a person should see of them.
    pub fn last_words(&self) -> Vec<String> {
        self.recent.iter().map(|line| readable(line).1).collect()
    }
}

const RECENT_LINES: usize = 5;
/// What is said of every line alike.
const FRAME_KEYS: [&str; 8] = ["message", "timestamp", "level", "target", "span", "spans", "threadName", "threadId"];

/// Whether a line of a recorder's log is worth showing, and how: JSON as its message and fields, anything else (a panic) as it is.
pub fn readable(line: &str) -> (bool, String) {
    let Ok(json) = serde_json::from_str::<Json>(line) else { return (!line.trim().is_empty(), line.to_owned()) };
    let level = json.get("level").and_then(Json::as_str).unwrap_or("INFO");
    // Fields stand in an object of their own or beside the level, as the writer likes.
    let empty = serde_json::Map::new();
    let fields = json.get("fields").unwrap_or(&json).as_object().unwrap_or(&empty);
    let mut text = fields.get("message").and_then(Json::as_str).unwrap_or_default().to_owned();
    for (key, value) in fields.iter().filter(|(key, _)| !FRAME_KEYS.contains(&key.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!(" {key}={value}"));
    }
    (matches!(level, "WARN" | "ERROR"), text.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn lines_come_whole_and_once_and_the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = LogTail::new(&path);
        assert_eq!(tail.lines().unwrap(), Vec::<String>::new());
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(tail.lines().unwrap(), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!(tail.lines().unwrap(), ["two"]);
        for _ in 0..12 {
            file.write_all(&vec![b'x'; 1 << 20]).unwrap();
            tail.lines().unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < MAX_BYTES);
        assert!(fs::metadata(folder.path().join("log.1")).unwrap().len() >= MAX_BYTES);
        file.write_all(b"\nlast\n").unwrap();
        assert_eq!(tail.lines().unwrap().last().unwrap(), "last");
        assert_eq!(tail.last_words().last().unwrap(), "last");
    }

    #[test]
    fn warnings_are_shown() {
        let line = r#"{"level":"WARN","fields":{"message":"no answer","stream":"a/b","tries":3},"target":"x"}"#;
        assert_eq!(readable(line), (true, "no answer stream=a/b tries=3".to_owned()));
        let flat = r#"{"timestamp":"now","level":"ERROR","message":"no answer","stream":"a/b","span":{"name":"x"}}"#;
        assert_eq!(readable(flat), (true, "no answer stream=a/b".to_owned()));
        assert!(!readable(r#"{"level":"INFO","fields":{"message":"fine"}}"#).0);
        assert_eq!(readable("thread 'main' panicked"), (true, "thread 'main' panicked".to_owned()));
    }
}
