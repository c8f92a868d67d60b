//! Files below `streams/`, by stream and day; their names sort by time.

use std::io;
use std::path::{Path, PathBuf};

use super::parallel;
use crate::env::{Entry, Folder};
use crate::names;

/// Files looked at of each stream when a volume is opened: the one that was being written, and the one that had just been taken.
const NEWEST: usize = 2;

/// The newest files of each stream.
pub(crate) fn files(folder: &dyn Folder) -> io::Result<Vec<PathBuf>> {
    let streams = stream_folders(folder)?;
    let newest = |stream: &PathBuf| of_stream(folder, stream, Some(NEWEST));
    Ok(parallel::each(&streams, newest)?.concat())
}

/// All folders `streams/<namespace>/<name>`.
pub(crate) fn stream_folders(folder: &dyn Folder) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for namespace in folders(folder, Path::new(names::STREAMS))? {
        found.extend(folders(folder, &namespace)?);
    }
    Ok(found)
}

/// The files of a stream in order of time: all, or at least so many of the newest, where there are as many.
pub(crate) fn of_stream(folder: &dyn Folder, stream: &Path, newest: Option<usize>) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in folders(folder, stream)?.iter().rev() {
        let entries = list(folder, day)?;
        let of_day = entries.iter().filter(|e| !e.folder && e.name.ends_with(".mp4")).map(|e| day.join(&e.name));
        files.splice(0..0, of_day);
        if newest.is_some_and(|newest| files.len() >= newest) {
            break;
        }
    }
    let skip = newest.map_or(0, |newest| files.len().saturating_sub(newest));
    Ok(files.split_off(skip))
}

fn folders(folder: &dyn Folder, path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(list(folder, path)?.iter().filter(|e| e.folder).map(|e| path.join(&e.name)).collect())
}

fn list(folder: &dyn Folder, path: &Path) -> io::Result<Vec<Entry>> {
    match folder.list(path) {
        // Removed since its parent was listed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
