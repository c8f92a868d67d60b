//! Writing to many files one after the other, with plain writes: through the page cache, or in memory.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::{Batch, File, Target, Write, WritePath, write_all_vectored};

type Opener = Box<dyn Fn(&Path) -> io::Result<Arc<dyn File>> + Send>;

/// A [`Batch`] that writes with [`File::write_vectored_at`].
pub struct FileBatch {
    open: Opener,
    path: WritePath,
    block_bytes: usize,
    files: HashMap<Target, Arc<dyn File>>,
    next: u64,
}

impl FileBatch {
    /// Writes the files that `open` gives; `reason` is why they are not written directly.
    pub fn new(open: impl Fn(&Path) -> io::Result<Arc<dyn File>> + Send + 'static, reason: &str) -> Self {
        let path = WritePath::Buffered { reason: reason.to_owned() };
        Self { open: Box::new(open), path, block_bytes: 1, files: HashMap::new(), next: 0 }
    }

    /// The same, as if it wrote directly: whole blocks only, and anything else is an error. For disks in memory.
    #[must_use]
    pub fn in_blocks(mut self, block_bytes: usize) -> Self {
        self.path = WritePath::Direct;
        self.block_bytes = block_bytes.max(1);
        self
    }
}

/// An error when a write does not begin and end at multiples of `block_bytes`.
pub(super) fn aligned(write: &Write<'_>, block_bytes: usize) -> io::Result<()> {
    if write.offset.is_multiple_of(block_bytes as u64) && write.len().is_multiple_of(block_bytes) {
        return Ok(());
    }
    let what = format!("{} bytes at {} are not whole blocks of {block_bytes}", write.len(), write.offset);
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

pub(super) fn not_open(target: Target) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{target:?} is not open"))
}

/// The first `at` bytes of `parts`, and the others.
pub(crate) fn cut<'a>(parts: &[&'a [u8]], at: usize) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut first, mut others) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
    let mut left = at;
    for part in parts {
        let (now, later) = part.split_at_checked(left).unwrap_or((part, &[]));
        left -= now.len();
        first.extend((!now.is_empty()).then_some(now));
        others.extend((!later.is_empty()).then_some(later));
    }
    (first, others)
}

impl Batch for FileBatch {
    fn path(&self) -> WritePath {
        self.path.clone()
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn open(&mut self, path: &Path) -> io::Result<Target> {
        let file = (self.open)(path)?;
        let target = Target(self.next);
        self.next += 1;
        self.files.insert(target, file);
        Ok(target)
    }

    fn close(&mut self, target: Target) {
        self.files.remove(&target);
    }

    fn send(&mut self, write: &Write<'_>) -> io::Result<()> {
        aligned(write, self.block_bytes)?;
        let file = self.files.get(&write.target).ok_or_else(|| not_open(write.target))?;
        let parts: Vec<_> = write.parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all_vectored(file.as_ref(), &parts, write.offset)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
