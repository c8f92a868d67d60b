//! A disk on which things go wrong when told to: a decorator around any other.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{
    Batch, Disk, Entry, File, Folder, Interrupt, Lock, Space, Target, Write, WritePath, WritesWanted, batch::cut,
    batch::not_open,
};

/// What is done to a disk, as far as faults and observers tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`File::write_vectored_at`], and each [`Write`] that a [`Batch`] is given.
    Write,
    /// [`Folder::open`].
    Open,
    /// [`File::read_at`].
    Read,
    /// [`File::sync`], [`Folder::sync_folder`] and [`Folder::sync_all`].
    Sync,
    /// [`Folder::create_preallocated`].
    Create,
    /// [`Folder::rename`].
    Rename,
    /// [`File::zero_range`].
    Zero,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An error of the disk: EIO.
    Eio,
    /// No space left: ENOSPC.
    Enospc,
    /// Only this many bytes are written (at least one; of a [`Batch`] at least a block). What is left is an operation of its own.
    Short(usize),
    /// It takes that much longer.
    Delay(Duration),
    /// It does not return until [`FaultDisk::release`].
    Hang,
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// At which operation.
    pub operation: Operation,
    /// Only at files and folders whose path (from the volume's folder) begins with this. Empty: all.
    pub below: PathBuf,
    /// How many of these operations go well before, counted from now.
    pub after: u64,
    /// How many go wrong then; `u64::MAX` for all.
    pub times: u64,
    /// How.
    pub trouble: Trouble,
}

impl Fault {
    /// The next operation of that kind goes wrong, once.
    #[must_use]
    pub fn next(operation: Operation, trouble: Trouble) -> Self {
        Self { operation, below: PathBuf::new(), after: 0, times: 1, trouble }
    }

    /// All operations of that kind go wrong from now on.
    #[must_use]
    pub fn always(operation: Operation, trouble: Trouble) -> Self {
        Self { times: u64::MAX, ..Self::next(operation, trouble) }
    }

    /// The same, only below `path`.
    #[must_use]
    pub fn below(mut self, path: &str) -> Self {
        self.below = PathBuf::from(path);
        self
    }

    /// The same, after `count` operations that go well.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.after = count;
        self
    }
}

type Observer = Arc<dyn Fn(Operation, &Path) + Send + Sync>;

#[derive(Default)]
struct Control {
    faults: Mutex<Vec<Fault>>,
    observer: Mutex<Option<Observer>>,
    hang_generation: Mutex<u64>,
    released: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// What goes wrong with this operation; delays and hangs happen in here.
    fn enter(&self, operation: Operation, path: &Path) -> io::Result<Option<usize>> {
        let mut trouble = None;
        for fault in lock(&self.faults).iter_mut() {
            if fault.operation != operation || !path.starts_with(&fault.below) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 && trouble.is_none() {
                fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
                trouble = Some(fault.trouble);
            }
        }
        match trouble {
            None => Ok(None),
            Some(Trouble::Eio) => Err(rustix::io::Errno::IO.into()),
            Some(Trouble::Enospc) => Err(rustix::io::Errno::NOSPC.into()),
            Some(Trouble::Short(bytes)) => Ok(Some(bytes.max(1))),
            Some(Trouble::Delay(duration)) => {
                std::thread::sleep(duration);
                Ok(None)
            }
            Some(Trouble::Hang) => {
                let generation = lock(&self.hang_generation);
                let at = *generation;
                drop(self.released.wait_while(generation, |now| *now == at));
                Ok(None)
            }
        }
    }

    fn done(&self, operation: Operation, path: &Path) {
        let observer = lock(&self.observer).clone();
        if let Some(observer) = observer {
            observer(operation, path);
        }
    }
}

/// The decorator. Clones share their faults.
#[derive(Clone)]
pub struct FaultDisk {
    disk: Arc<dyn Disk>,
    control: Arc<Control>,
}

impl FaultDisk {
    /// `disk`, with nothing wrong yet.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, control: Arc::default() }
    }

    /// From now on, this goes wrong too.
    pub fn inject(&self, fault: Fault) {
        lock(&self.control.faults).push(fault);
    }

    /// Nothing goes wrong any more; what hangs goes on.
    pub fn release(&self) {
        lock(&self.control.faults).clear();
        *lock(&self.control.hang_generation) += 1;
        self.control.released.notify_all();
    }

    /// Calls `observer` after each operation that went well, in the thread that did it.
    pub fn observe(&self, observer: impl Fn(Operation, &Path) + Send + Sync + 'static) {
        *lock(&self.control.observer) = Some(Arc::new(observer));
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        Ok(Arc::new(FaultFolder { folder: self.disk.open(path)?, control: self.control.clone() }))
    }
}

struct FaultFolder {
    folder: Arc<dyn Folder>,
    control: Arc<Control>,
}

impl FaultFolder {
    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FaultFile { file, path: path.to_owned(), control: self.control.clone() })
    }

    fn around<T>(&self, operation: Operation, path: &Path, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.control.enter(operation, path)?;
        let result = call()?;
        self.control.done(operation, path);
        Ok(result)
    }
}

impl Folder for FaultFolder {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        self.control.enter(Operation::Open, path)?;
        Ok(self.wrap(path, self.folder.open(path, write)?))
    }

    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        let file = self.around(Operation::Create, path, || self.folder.create_preallocated(path, bytes))?;
        Ok(self.wrap(path, file))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.folder.open_or_create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(Operation::Rename, from, || self.folder.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.folder.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.folder.list(path)
    }

    fn make_folders(&self, path: &Path) -> io::Result<()> {
        self.folder.make_folders(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.folder.remove_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.around(Operation::Sync, path, || self.folder.sync_folder(path))
    }

    fn sync_all(&self) -> io::Result<bool> {
        self.around(Operation::Sync, Path::new(""), || self.folder.sync_all())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.folder.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.folder.space()
    }

    fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>> {
        let batch = self.folder.batch(wanted)?;
        Ok(Box::new(FaultBatch { batch, paths: HashMap::new(), control: self.control.clone() }))
    }

    fn syncs_at_once(&self) -> usize {
        self.folder.syncs_at_once()
    }
}

/// Hands on one write after the other, so that each is an operation that can go wrong.
struct FaultBatch {
    batch: Box<dyn Batch>,
    // Where they were when they were opened.
    paths: HashMap<Target, PathBuf>,
    control: Arc<Control>,
}

impl Batch for FaultBatch {
    fn path(&self) -> WritePath {
        self.batch.path()
    }

    fn block_bytes(&self) -> usize {
        self.batch.block_bytes()
    }

    fn open(&mut self, path: &Path) -> io::Result<Target> {
        let target = self.batch.open(path)?;
        self.paths.insert(target, path.to_owned());
        Ok(target)
    }

    fn close(&mut self, target: Target) {
        self.paths.remove(&target);
        self.batch.close(target);
    }

    fn interrupt(&self) -> Interrupt {
        self.batch.interrupt()
    }

    fn send(&mut self, write: &Write<'_>) -> io::Result<()> {
        let Write { target, offset, parts } = write;
        let mut offset = *offset;
        let path = self.paths.get(target).ok_or_else(|| not_open(*target))?;
        let mut parts = parts.clone();
        while !parts.is_empty() {
            let now = match self.control.enter(Operation::Write, path)? {
                None => std::mem::take(&mut parts),
                Some(at_most) => {
                    let (now, later) = cut(&parts, at_most.next_multiple_of(self.batch.block_bytes()));
                    parts = later;
                    now
                }
            };
            let write = Write { target: *target, offset, parts: now };
            offset += write.len() as u64;
            self.batch.send(&write)?;
            // One after the other, so that whoever observes finds it written.
            self.batch.finish()?;
            self.control.done(Operation::Write, path);
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.batch.finish()
    }
}

struct FaultFile {
    file: Arc<dyn File>,
    // Where it was when it was opened: a rename later on does not change it.
    path: PathBuf,
    control: Arc<Control>,
}

impl File for FaultFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let n = match self.control.enter(Operation::Write, &self.path)? {
            None => self.file.write_vectored_at(parts, offset)?,
            Some(at_most) => {
                let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).take(at_most).collect();
                self.file.write_vectored_at(&[IoSlice::new(&bytes)], offset)?
            }
        };
        self.control.done(Operation::Write, &self.path);
        Ok(n)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.control.enter(Operation::Read, &self.path)?;
        self.file.read_at(into, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.control.enter(Operation::Sync, &self.path)?;
        self.file.sync()?;
        self.control.done(Operation::Sync, &self.path);
        Ok(())
    }

    fn begin_sync(&self) {
        self.file.begin_sync();
    }

    fn zero_range(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.control.enter(Operation::Zero, &self.path)?;
        self.file.zero_range(offset, bytes)?;
        self.control.done(Operation::Zero, &self.path);
        Ok(())
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.data_from(offset)
    }

    fn forget(&self, offset: u64, bytes: u64) {
        self.file.forget(offset, bytes);
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)
    }
}
