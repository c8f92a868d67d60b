//! A disk in memory: for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Batch, Disk, Entry, File, FileBatch, Folder, Lock, Space, WritesWanted};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    whole_sync: bool,
    block_bytes: Option<usize>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Vec<u8>>>>,
    folders: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    capacity_bytes: Option<u64>,
    read_only: bool,
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|f| lock(f).len() as u64).sum()
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

// A test that panics with the lock held must not hide its own message behind a poisoned one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDisk {
    /// An empty disk without limits, whose volumes are synced file by file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk of that many bytes.
    #[must_use]
    pub fn with_capacity(bytes: u64) -> Self {
        let disk = Self::default();
        lock(&disk.state).capacity_bytes = Some(bytes);
        disk
    }

    /// The same disk, whose volumes are synced as a whole.
    #[must_use]
    pub fn synced_as_a_whole(mut self) -> Self {
        self.whole_sync = true;
        self
    }

    /// The same disk, whose segment files are written as past a page cache: in whole blocks of that many bytes.
    #[must_use]
    pub fn written_in_blocks(mut self, block_bytes: usize) -> Self {
        self.block_bytes = Some(block_bytes);
        self
    }

    /// From now on nothing can be written (or again can).
    pub fn set_read_only(&self, read_only: bool) {
        lock(&self.state).read_only = read_only;
    }

    /// Makes a folder and those above it.
    pub fn make_folder(&self, path: &Path) {
        let mut state = lock(&self.state);
        for above in path.ancestors() {
            state.folders.insert(above.to_owned());
        }
    }

    /// Puts a file there, whole.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        lock(&self.state).files.insert(path.to_owned(), Arc::new(Mutex::new(bytes)));
    }

    /// Removes a file.
    pub fn remove(&self, path: &Path) {
        lock(&self.state).files.remove(path);
    }

    /// Changes the bytes of a file where they are: whoever has it open sees that.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let file = lock(&self.state).files.get(path).cloned();
        if let Some(file) = file {
            change(&mut lock(&file));
        }
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.state).files.keys().cloned().collect()
    }

    /// A copy of a file as it is now.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let file = lock(&self.state).files.get(path).cloned()?;
        let bytes = lock(&file).clone();
        Some(bytes)
    }

    /// A copy of the disk as it is now: what a process that was killed leaves behind. Nothing is locked in it.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let state = lock(&self.state);
        let files = state.files.iter().map(|(path, file)| (path.clone(), Arc::new(Mutex::new(lock(file).clone()))));
        let copy = State {
            files: files.collect(),
            folders: state.folders.clone(),
            locked: BTreeSet::new(),
            capacity_bytes: state.capacity_bytes,
            read_only: state.read_only,
        };
        Self { state: Arc::new(Mutex::new(copy)), ..self.clone() }
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        if !lock(&self.state).folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Arc::new(MemFolder { disk: self.clone(), root: path.to_owned() }))
    }
}

#[derive(Clone)]
struct MemFolder {
    disk: MemDisk,
    root: PathBuf,
}

impl MemFolder {
    fn at(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Vec<u8>>>> {
        lock(&self.disk.state).files.get(&self.at(path)).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn handle(&self, bytes: Arc<Mutex<Vec<u8>>>, write: bool) -> Arc<dyn File> {
        Arc::new(MemFile { disk: self.disk.clone(), bytes, write })
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        let at = self.at(path);
        let mut state = lock(&self.disk.state);
        state.writable()?;
        if state.files.contains_key(&at) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !at.parent().is_some_and(|p| state.folders.contains(p)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.capacity_bytes.is_some_and(|c| state.used().saturating_add(bytes) > c) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = Arc::new(Mutex::new(vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)]));
        state.files.insert(at, file.clone());
        drop(state);
        Ok(self.handle(file, true))
    }
}

impl Folder for MemFolder {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        if write {
            lock(&self.disk.state).writable()?;
        }
        Ok(self.handle(self.file(path)?, write))
    }

    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        self.create(path, bytes)
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match self.create(path, 0) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.open(path, true),
            other => other,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        let mut state = lock(&self.disk.state);
        state.writable()?;
        if !to.parent().is_some_and(|p| state.folders.contains(p)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = state.files.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to, file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.disk.state);
        state.writable()?;
        state.files.remove(&self.at(path)).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let at = self.at(path);
        let state = lock(&self.disk.state);
        if !state.folders.contains(&at) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let folders = state.folders.iter().filter(|p| p.parent() == Some(&at)).map(|p| (name(p), true));
        let files = state.files.keys().filter(|p| p.parent() == Some(&at)).map(|p| (name(p), false));
        let mut entries: Vec<_> = folders.chain(files).map(|(name, folder)| Entry { name, folder }).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn make_folders(&self, path: &Path) -> io::Result<()> {
        lock(&self.disk.state).writable()?;
        self.disk.make_folder(&self.at(path));
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let mut state = lock(&self.disk.state);
        state.writable()?;
        state.folders.remove(&self.at(path));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        if lock(&self.disk.state).folders.contains(&self.at(path)) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn sync_all(&self) -> io::Result<bool> {
        Ok(self.disk.whole_sync)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.open_or_create(path)?;
        let at = self.at(path);
        if !lock(&self.disk.state).locked.insert(at.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { disk: self.disk.clone(), at }))
    }

    fn space(&self) -> io::Result<Space> {
        let state = lock(&self.disk.state);
        let total_bytes = state.capacity_bytes.unwrap_or(1 << 50);
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(state.used()) })
    }

    fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>> {
        let folder = self.clone();
        let batch = FileBatch::new(move |path| Folder::open(&folder, path, true), "the disk is in memory");
        match (self.disk.block_bytes, wanted) {
            (Some(block_bytes), WritesWanted::Auto | WritesWanted::Direct) => {
                Ok(Box::new(batch.in_blocks(block_bytes)))
            }
            (None, WritesWanted::Direct) => Err(io::ErrorKind::Unsupported.into()),
            (_, WritesWanted::Auto | WritesWanted::Buffered) => Ok(Box::new(batch)),
        }
    }
}

struct MemLock {
    disk: MemDisk,
    at: PathBuf,
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        lock(&self.disk.state).locked.remove(&self.at);
    }
}

struct MemFile {
    disk: MemDisk,
    bytes: Arc<Mutex<Vec<u8>>>,
    write: bool,
}

impl MemFile {
    fn writable(&self) -> io::Result<()> {
        if !self.write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        lock(&self.disk.state).writable()
    }
}

fn too_big() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl File for MemFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.writable()?;
        let mut bytes = lock(&self.bytes);
        let start = usize::try_from(offset).map_err(|_| too_big())?;
        let mut at = start;
        for part in parts {
            let end = at.checked_add(part.len()).ok_or_else(too_big)?;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes.get_mut(at..end).ok_or_else(too_big)?.copy_from_slice(part);
            at = end;
        }
        Ok(at - start)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = lock(&self.bytes);
        let rest = usize::try_from(offset).ok().and_then(|o| bytes.get(o..)).unwrap_or_default();
        let n = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn zero_range(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.writable()?;
        let mut content = lock(&self.bytes);
        let start = usize::try_from(offset).map_err(|_| too_big())?;
        let end = usize::try_from(offset.saturating_add(bytes)).map_err(|_| too_big())?.min(content.len());
        content.get_mut(start..end).unwrap_or_default().fill(0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.bytes).len() as u64)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.writable()?;
        lock(&self.bytes).resize(usize::try_from(bytes).map_err(|_| too_big())?, 0);
        Ok(())
    }
}
