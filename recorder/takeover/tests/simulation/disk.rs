//! The disk of a recorder's volume: in memory, with writes that a loss of power takes when they are not synced. It can fail.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use framekeeper_store::env::{Batch, Disk, Entry, File, FileBatch, Folder, Lock, MemDisk, Space, WritesWanted};

/// A write that is not durable.
struct Unsynced {
    offset: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

#[derive(Default)]
struct Marks {
    /// What was written since the last sync.
    loose: Vec<Unsynced>,
    /// Nothing was ever written at or behind this.
    used: u64,
}

/// What is known of a file. Names are durable at once here; that they are not has its own tests, in the store.
type Known = Arc<Mutex<Marks>>;

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<PathBuf, Known>>,
    fails: AtomicBool,
}

/// Clones are the same disk.
#[derive(Clone)]
pub(crate) struct PlatterDisk {
    memory: MemDisk,
    state: Arc<State>,
}

impl PlatterDisk {
    pub(crate) fn new(folder: &Path) -> Self {
        let memory = MemDisk::new();
        memory.make_folder(folder);
        Self { memory, state: Arc::default() }
    }

    /// From now on every write and sync is an error, or none is any more.
    pub(crate) fn set_fails(&self, fails: bool) {
        self.state.fails.store(fails, Ordering::Relaxed);
    }

    /// The power fails: of each write that was not synced `keeps` says whether it is there all the same. To be called when nobody has it open.
    pub(crate) fn lose_power(&self, mut keeps: impl FnMut() -> bool) {
        for (path, known) in self.state.files.lock().unwrap().iter() {
            let loose = std::mem::take(&mut known.lock().unwrap().loose);
            if loose.is_empty() {
                continue;
            }
            self.memory.change(path, |bytes| {
                for write in loose.iter().rev() {
                    bytes[write.offset..write.offset + write.before.len()].copy_from_slice(&write.before);
                    bytes[write.offset + write.before.len()..write.offset + write.after.len()].fill(0);
                }
                for write in loose.iter().filter(|_| keeps()) {
                    bytes[write.offset..write.offset + write.after.len()].copy_from_slice(&write.after);
                }
            });
        }
    }
}

impl State {
    fn enter(&self) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }
}

impl Disk for PlatterDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        let folder = Disk::open(&self.memory, path)?;
        Ok(Arc::new(PlatterFolder { folder, root: path.to_owned(), state: self.state.clone() }))
    }
}

#[derive(Clone)]
struct PlatterFolder {
    folder: Arc<dyn Folder>,
    root: PathBuf,
    state: Arc<State>,
}

impl PlatterFolder {
    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let known = self.state.files.lock().unwrap().entry(self.root.join(path)).or_default().clone();
        Arc::new(PlatterFile { file, known, state: self.state.clone() })
    }
}

impl Folder for PlatterFolder {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.folder.open(path, write)?))
    }

    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        self.state.enter()?;
        Ok(self.wrap(path, self.folder.create_preallocated(path, bytes)?))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.folder.open_or_create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.enter()?;
        self.folder.rename(from, to)?;
        let mut files = self.state.files.lock().unwrap();
        let known = files.remove(&self.root.join(from));
        files.extend(known.map(|known| (self.root.join(to), known)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state.enter()?;
        self.state.files.lock().unwrap().remove(&self.root.join(path));
        self.folder.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.folder.list(path)
    }

    fn make_folders(&self, path: &Path) -> io::Result<()> {
        self.state.enter()?;
        self.folder.make_folders(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.folder.remove_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.state.enter()?;
        self.folder.sync_folder(path)
    }

    fn sync_all(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.folder.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        // Counting the files of one in memory takes long, and nothing else is on it.
        Ok(Space { total_bytes: 1 << 50, free_bytes: 1 << 49 })
    }

    fn batch(&self, _: WritesWanted) -> io::Result<Box<dyn Batch>> {
        let folder = self.clone();
        Ok(Box::new(FileBatch::new(move |path| Folder::open(&folder, path, true), "the disk is simulated")))
    }
}

struct PlatterFile {
    file: Arc<dyn File>,
    known: Known,
    state: Arc<State>,
}

impl PlatterFile {
    fn wrote(&self, offset: u64, before: Vec<u8>, after: Vec<u8>) {
        let mut known = self.known.lock().unwrap();
        known.used = known.used.max(offset + after.len() as u64);
        known.loose.push(Unsynced { offset: offset as usize, before, after });
    }

    fn before(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut before = vec![0; bytes];
        let read = self.file.read_at(&mut before, offset)?;
        before.truncate(read);
        Ok(before)
    }
}

impl File for PlatterFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.state.enter()?;
        let mut after = Vec::new();
        parts.iter().for_each(|part| after.extend_from_slice(part));
        let before = self.before(offset, after.len())?;
        let written = self.file.write_vectored_at(parts, offset)?;
        self.wrote(offset, before, after);
        Ok(written)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.state.enter()?;
        self.known.lock().unwrap().loose.clear();
        Ok(())
    }

    fn zero_range(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.state.enter()?;
        let before = self.before(offset, bytes as usize)?;
        self.file.zero_range(offset, bytes)?;
        let after = vec![0; before.len()];
        self.wrote(offset, before, after);
        Ok(())
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok((offset < self.known.lock().unwrap().used).then_some(offset))
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    /// As names, durable at once: what was written behind the new end is gone.
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.state.enter()?;
        self.file.set_size(bytes)?;
        self.known.lock().unwrap().loose.retain(|write| write.offset as u64 + write.after.len() as u64 <= bytes);
        Ok(())
    }
}
