//! Everything of the outside world that the store touches, as traits: a simulator drives the store through these, and so do
//! the fault decorators of [`fault`].
//!
//! Paths given to a [`Folder`] are relative to it and never leave it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use framekeeper_media::WallTime;
use uuid::Uuid;

mod batch;
mod direct;
pub mod fault;
pub mod mem;
mod memory;
pub mod real;
mod ring;
mod rotational;

pub use batch::FileBatch;
pub(crate) use batch::cut;
pub use fault::{Fault, FaultDisk, Operation, Trouble};
pub use mem::MemDisk;
pub use real::{RealClock, RealDisk, RealRandom};

/// A kind of disk: opens the folder of a volume.
pub trait Disk: Send + Sync + 'static {
    /// Opens the folder at `path`, which must exist; one descriptor stays open for as long as the result lives.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>>;
}

/// The folder of one volume.
pub trait Folder: Send + Sync + 'static {
    /// Opens a file. With `write`, it must be writable.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;
    /// Makes a file of `bytes` bytes, all allocated and all reading as zero; fails when it exists.
    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing, making it (empty) when it is not there.
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file or folder; replaces a file that is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What is in a folder, sorted by name. An empty path is the volume's folder.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a folder and those above it; no error when it is there.
    fn make_folders(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes all that was written in this folder's file system durable, in one go, and reports every error since the folder was
    /// opened. `Ok(false)` where that is not possible or not right here: then each file and folder is to be synced alone.
    fn sync_all(&self) -> io::Result<bool>;
    /// Takes the lock file, without waiting: [`io::ErrorKind::WouldBlock`] when somebody else has it. Held until dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Room in the file system.
    fn space(&self) -> io::Result<Space>;
    /// What segment files are written with. [`WritesWanted::Auto`] always gives something; an error says why what is wanted cannot be had.
    fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>>;
    /// Whether it is on a disk that rotates; `None` where that is not known.
    fn is_rotational(&self) -> Option<bool> {
        None
    }
    /// How many files are best synced at the same time, where they are synced one by one.
    fn syncs_at_once(&self) -> usize {
        1
    }
}

/// How segment files are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WritesWanted {
    /// Past the page cache where that is possible, else through it.
    #[default]
    Auto,
    /// Past the page cache, or not at all.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// How segment files are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// Past the page cache: `O_DIRECT`, through io_uring.
    Direct,
    /// Through the page cache.
    Buffered {
        /// Why not past it; in a few words, for people.
        reason: String,
    },
}

/// A file that a [`Batch`] writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(pub u64);

/// Some bytes for a file.
#[derive(Debug)]
pub struct Write<'a> {
    /// The file.
    pub target: Target,
    /// Where they go.
    pub offset: u64,
    /// The bytes, in pieces that lie one behind the other in the file.
    pub parts: Vec<&'a [u8]>,
}

impl Write<'_> {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes to many files at once.
pub trait Batch: Send {
    /// How it writes.
    fn path(&self) -> WritePath;
    /// Offsets and lengths of writes are multiples of this: 1, or a block.
    fn block_bytes(&self) -> usize;
    /// Opens a file to be written; it may be renamed later.
    fn open(&mut self, path: &Path) -> io::Result<Target>;
    /// The file is not written any more.
    fn close(&mut self, target: Target);
    /// Begins to write; may return before it is written. Writes may overtake each other, so none overlaps another that was not finished.
    fn send(&mut self, write: &Write<'_>) -> io::Result<()>;
    /// Returns when all that was sent is written: whoever opens or reads these files now finds it. After an error any part of it may have
    /// been written.
    fn finish(&mut self) -> io::Result<()>;
    /// Ends the waiting for a disk that does not answer, where that can be done.
    fn interrupt(&self) -> Interrupt {
        Interrupt::default()
    }
}

/// Once set, a [`Batch`] that waits for its disk (then, or later) gives up with [`io::ErrorKind::TimedOut`], in a fraction of a
/// second. What it wrote may be written at any time behind that. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Sets it, for good.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A lock that is given back when dropped.
pub trait Lock: Send + Sync {}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// Writes all of `parts`, one behind the other, at `offset`. May write less: then it says how many bytes.
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Reads up to `into.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes what was written to this file durable.
    fn sync(&self) -> io::Result<()>;
    /// [`Self::sync`] will follow: what it has to write may be on its way already. Waits for nothing, and promises nothing.
    fn begin_sync(&self) {}
    /// Makes all bytes of the range read as zero, without giving up their blocks.
    fn zero_range(&self, offset: u64, bytes: u64) -> io::Result<()>;
    /// Where the first bytes at or behind `offset` are that may not be zero; `None` when all of them are. May name an earlier place than need be.
    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok((offset < self.size()?).then_some(offset))
    }
    /// The next reads of the range shall come from the disk, and what was read of it is not needed again. A hint.
    fn forget(&self, _offset: u64, _bytes: u64) {}
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) the file.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder. Names that are not UTF-8 are given with replacement characters.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
}

/// Room in a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the file system holds.
    pub total_bytes: u64,
    /// Bytes that can still be allocated by us.
    pub free_bytes: u64,
}

/// Time.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since some fixed moment; never goes back.
    fn monotonic_us(&self) -> u64;
    /// Wall-clock time.
    fn wall(&self) -> WallTime;
}

/// Randomness.
pub trait Random: Send + Sync + 'static {
    /// 64 random bits.
    fn u64(&self) -> u64;
    /// A random UUID (version 4).
    fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(*Uuid::from_u64_pair(self.u64(), self.u64()).as_bytes()).into_uuid()
    }
}

/// The outside world, given to [`crate::Store::open`].
#[derive(Clone)]
pub struct Env {
    /// Where volumes are.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The real world.
    #[must_use]
    pub fn real() -> Self {
        Self { disk: Arc::new(RealDisk), clock: Arc::new(RealClock::default()), random: Arc::new(RealRandom) }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = file.write_vectored_at(&[IoSlice::new(bytes)], offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(n..).unwrap_or_default();
        offset += n as u64;
    }
    Ok(())
}

/// Writes all `parts`, one behind the other, at `offset`.
pub(crate) fn write_all_vectored(file: &dyn File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    // The kernel takes at most IOV_MAX (1024) parts a call.
    const PARTS_AT_MOST: usize = 1024;
    let mut at = offset;
    for chunk in parts.chunks(PARTS_AT_MOST) {
        let want: usize = chunk.iter().map(|p| p.len()).sum();
        let mut done = file.write_vectored_at(chunk, at)?;
        for part in chunk {
            // A short write is rare: what is left of it goes out part by part.
            let from = done.min(part.len());
            if from < part.len() {
                write_all(file, part.get(from..).unwrap_or_default(), at + from as u64)?;
            }
            done -= from;
            at += part.len() as u64;
        }
        debug_assert!(want as u64 <= at - offset);
    }
    Ok(())
}

/// Fills all of `into` from `offset`; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
pub(crate) fn read_exact(file: &dyn File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        let n = file.read_at(into, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = into.get_mut(n..).unwrap_or_default();
        offset += n as u64;
    }
    Ok(())
}
