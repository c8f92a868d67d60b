//! Writing past the page cache: `O_DIRECT` (open(2)) through io_uring.
//!
//! What the cache holds of a range that is written, the kernel throws away before the write is reported as done, so a buffered reader
//! sees either the old bytes or the new ones, and the new ones from then on.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::batch::{aligned, not_open};
use super::ring::Ring;
use super::{Batch, Interrupt, Target, Write, WritePath};

/// What is written at once is not smaller, whatever the disk says: file systems and disks work in pages.
const BLOCK_BYTES: usize = 4096;
/// tmpfs and ramfs (linux/magic.h).
const IN_MEMORY: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// Written and removed to see whether it can be done.
const PROBE: &str = "direct.probe";

/// A [`Batch`] that writes past the page cache.
pub(super) struct DirectBatch {
    dir: Arc<OwnedFd>,
    ring: Ring,
    block_bytes: usize,
    files: HashMap<Target, OwnedFd>,
    next: u64,
    interrupt: Interrupt,
}

impl DirectBatch {
    /// Tries it out in the folder.
    ///
    /// # Errors
    /// With a message on why it cannot be done here.
    pub(super) fn new(dir: Arc<OwnedFd>) -> io::Result<Self> {
        let block_bytes = probe(&dir)?;
        let interrupt = Interrupt::default();
        let ring = Ring::new(interrupt.clone()).map_err(refused)?;
        Ok(Self { dir, ring, block_bytes, files: HashMap::new(), next: 0, interrupt })
    }
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what}: {error}"))
}

fn refused(error: io::Error) -> io::Error {
    let what = match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "io_uring is forbidden here (seccomp profile, or kernel.io_uring_disabled)"
        }
        Some(Errno::NOSYS) => "the kernel has no io_uring, or the seccomp profile hides it",
        _ => "io_uring cannot be set up",
    };
    said(what, &error)
}

/// Writes a block to a file that nobody sees, past the cache, and reads it through the cache. Gives the size of a block.
fn probe(dir: &OwnedFd) -> io::Result<usize> {
    let mut ring = Ring::new(Interrupt::default()).map_err(refused)?;
    if IN_MEMORY.contains(&rustix::fs::fstatfs(dir)?.f_type) {
        // tmpfs takes the flag since Linux 6.6, and copies into the page cache all the same: that is where its files are.
        let message = "the file system is in memory and has no direct writes";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let plain = rustix::fs::openat(dir, PROBE, flags, Mode::from(0o600))?;
    let direct = rustix::fs::openat(dir, PROBE, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    rustix::fs::unlinkat(dir, PROBE, AtFlags::empty())?;
    let direct = direct.map_err(|e| said("the file system refuses O_DIRECT", &e.into()))?;
    let block_bytes = block_bytes(&direct)?;
    let block: Vec<u8> = (0..block_bytes).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
    let refuses = |e: io::Error| said("the file system refuses a write with O_DIRECT", &e);
    rustix::fs::ftruncate(&plain, block_bytes as u64)?;
    ring.enable().map_err(refused)?;
    ring.write(direct.as_raw_fd(), 0, &[&block]).and_then(|()| ring.finish()).map_err(refuses)?;
    let mut back = vec![0; block_bytes];
    rustix::io::pread(&plain, &mut back, 0)?;
    if back != block {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "what is written with O_DIRECT is not what is read"));
    }
    Ok(block_bytes)
}

fn block_bytes(file: &OwnedFd) -> io::Result<usize> {
    // Kernels before 6.1 do not tell: then the probe's write does.
    let Ok(stat) = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Ok(BLOCK_BYTES);
    };
    if !StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) {
        return Ok(BLOCK_BYTES);
    }
    if stat.stx_dio_offset_align == 0 {
        // It takes the flag and writes through the cache all the same.
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the file system has no direct writes for these files"));
    }
    let block = usize::try_from(stat.stx_dio_offset_align).map_err(io::Error::other)?;
    if !block.is_power_of_two() || block > super::ring::PIECE_BYTES {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("the disk wants blocks of {block} bytes")));
    }
    Ok(block.max(BLOCK_BYTES))
}

impl Batch for DirectBatch {
    fn path(&self) -> WritePath {
        WritePath::Direct
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn open(&mut self, path: &Path) -> io::Result<Target> {
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = super::real::retry(|| rustix::fs::openat(self.dir.as_fd(), path, flags, Mode::empty()))?;
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
        self.ring.write(file.as_raw_fd(), write.offset, &write.parts)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.ring.finish()
    }

    fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }
}
