//! Who else fills a volume's file system, as far as that can be told cheaply.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Names looked at, at most: a file system may have millions.
const NAMES_AT_MOST: usize = 50_000;
const TIME_AT_MOST: Duration = Duration::from_secs(5);
/// While there is trouble it is looked again so often.
const AGAIN: Duration = Duration::from_secs(600);
/// How many are named.
const NAMED: usize = 2;
/// What is smaller is not worth a name.
const SMALLEST_BYTES: u64 = 1 << 20;
/// What a volume has in its own folder.
const OURS: [&str; 10] = [
    "framekeeper.json",
    "framekeeper.new",
    "lock",
    "manifest.log",
    "manifest.new",
    "catalogue.redb",
    "pool",
    "retired",
    "streams",
    "lost+found",
];

/// What was found, and what is being looked for.
#[derive(Default)]
pub(super) struct Foreigners {
    found: Option<String>,
    since: Option<Instant>,
    search: Option<JoinHandle<Option<String>>>,
}

impl Foreigners {
    /// Who it is, while there is trouble: looked for on a thread of its own, since disks may be slow or hang. Never waits.
    pub(super) fn look(&mut self, trouble: bool, folder: &Path, volumes: &[PathBuf], now: Instant) -> Option<String> {
        if self.search.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(search) = self.search.take()
        {
            self.found = search.join().ok().flatten();
        }
        if !trouble {
            (self.found, self.since) = (None, None);
            return None;
        }
        if self.search.is_none() && self.since.is_none_or(|since| now.saturating_duration_since(since) >= AGAIN) {
            self.since = Some(now);
            let (folder, volumes) = (folder.to_owned(), volumes.to_vec());
            let search = std::thread::Builder::new().name("foreign-data".to_owned());
            self.search = search.spawn(move || biggest(&folder, &volumes)).ok();
        }
        self.found.clone()
    }
}

/// The biggest files and folders on the file system of the volume in `folder` that belong to none of the `volumes`, in words. They are those at
/// its root, or beside the volume where that is deep below.
pub(super) fn biggest(folder: &Path, volumes: &[PathBuf]) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let same = |path: &&Path| fs::metadata(path).is_ok_and(|metadata| metadata.dev() == device);
    below(folder.ancestors().take_while(same).last()?, device, folder, volumes)
}

fn below(top: &Path, device: u64, folder: &Path, volumes: &[PathBuf]) -> Option<String> {
    let ours: HashSet<&Path> = volumes.iter().map(PathBuf::as_path).collect();
    let mut search = Search { device, ours, names: 0, until: Instant::now() + TIME_AT_MOST };
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    // The folders on the way down to the volume are ours in part: what is in them is looked at one by one.
    let on_the_way: Vec<&Path> = folder.ancestors().take_while(|path| path.starts_with(top)).collect();
    for step in on_the_way {
        for path in search.entries(step) {
            if !folder.starts_with(&path) {
                found.push((search.bytes(&path), path));
            }
        }
    }
    found.sort();
    let named = found.iter().rev().filter(|(bytes, _)| *bytes >= SMALLEST_BYTES).take(NAMED);
    let named: Vec<String> =
        named.map(|(bytes, path)| format!("{} ({:.1} MB)", path.display(), *bytes as f64 / 1e6)).collect();
    let so_far = if search.is_over() { " as far as was looked" } else { "" };
    (!named.is_empty()).then(|| format!("{}{so_far}", named.join(" and ")))
}

struct Search<'s> {
    device: u64,
    ours: HashSet<&'s Path>,
    names: usize,
    until: Instant,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.names >= NAMES_AT_MOST || Instant::now() >= self.until
    }

    /// What is in a folder, but for other mounts, links and what volumes have there.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let volume = self.ours.contains(folder);
        let mut entries = Vec::new();
        let Ok(listed) = fs::read_dir(folder) else { return entries };
        for entry in listed.flatten() {
            if self.is_over() {
                break;
            }
            self.names += 1;
            let name = entry.file_name();
            let is_ours = name.to_str().is_some_and(|name| OURS.contains(&name) || name.starts_with("assignment."));
            if !(volume && is_ours) {
                entries.push(entry.path());
            }
        }
        entries
    }

    /// Bytes on disk of a file, or of all that is in a folder.
    fn bytes(&mut self, path: &Path) -> u64 {
        const BLOCK_BYTES: u64 = 512;
        let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
        if metadata.dev() != self.device {
            return 0;
        }
        let own = metadata.blocks() * BLOCK_BYTES;
        if !metadata.is_dir() {
            return own;
        }
        own + self.entries(path).iter().map(|entry| self.bytes(entry)).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_biggest_foreign_things_are_named_and_nothing_of_a_volume() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: usize| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; bytes]).unwrap();
        };
        let volumes = [root.path().join("volumes/first"), root.path().join("volumes/second")];
        put("volumes/first/streams/a.mp4", 9 << 20);
        put("volumes/second/pool/b.mp4", 9 << 20);
        put("volumes/first/backup/x/big", 3 << 20);
        put("volumes/first/backup/small", 2 << 20);
        put("logs/log", 4 << 20);
        put("notes", 10);
        let device = fs::metadata(root.path()).unwrap().dev();
        let said = below(root.path(), device, &volumes[0], &volumes).unwrap();
        let named: Vec<&str> = said.split(" and ").map(|one| one.split(" (").next().unwrap()).collect();
        let expected = [root.path().join("volumes/first/backup"), root.path().join("logs")];
        assert_eq!(named, expected.each_ref().map(|path| path.to_str().unwrap()), "{said}");
        assert!(said.contains("(5.") && said.contains("(4."), "{said}");
        // Where there is nothing of others, nothing is named.
        fs::remove_dir_all(&expected[0]).unwrap();
        fs::remove_dir_all(&expected[1]).unwrap();
        assert_eq!(below(root.path(), device, &volumes[0], &volumes), None);
    }
}
