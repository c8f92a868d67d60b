//! A file system with one big file in it, `disk`, for a loop device to stand on.
//!
//! The file is opened for direct I/O, so that the kernel keeps no copy of it: each write of the loop device arrives here at once and
//! alone, and each flush as an `fsync`. One thread answers, so what was taken up before a flush was answered before it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::log::LogWriter;

/// The name of the file.
pub const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
/// Nothing but this program changes anything.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// What is behind the file.
pub trait Blocks: Send + Sync + 'static {
    /// Its size in bytes.
    fn bytes(&self) -> u64;
    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// Those of what is below.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Writes.
    ///
    /// # Errors
    /// Those of what is below.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// The disk's cache is written out.
    ///
    /// # Errors
    /// Those of what is below.
    fn flush(&self) -> io::Result<()>;
}

/// Shows `blocks` as `disk` in the folder, until it is unmounted.
///
/// # Errors
/// When it can't be mounted.
pub fn serve(blocks: impl Blocks, folder: &Path) -> io::Result<()> {
    fuser::mount(OneFile { blocks }, folder, &config())
}

/// As [`serve`], from a thread of its own, until what is returned is dropped.
///
/// # Errors
/// When it can't be mounted.
pub fn spawn(blocks: impl Blocks, folder: &Path) -> io::Result<fuser::BackgroundSession> {
    fuser::spawn_mount(OneFile { blocks }, folder, &config())
}

fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("framekeeper-power".to_owned())];
    config
}

struct OneFile<B> {
    blocks: B,
}

impl<B: Blocks> OneFile<B> {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let file = node == FILE;
        FileAttr {
            ino: node,
            size: if file { self.blocks.bytes() } else { 0 },
            blocks: if file { self.blocks.bytes() / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
}

impl<B: Blocks> Filesystem for OneFile<B> {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOR_EVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(node));
    }

    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(size).min(self.blocks.bytes().saturating_sub(offset));
        match self.blocks.read(offset, usize::try_from(length).unwrap_or(0)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.blocks.write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _request: &Request, _node: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // A descriptor was closed: that makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _node: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.blocks.flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

/// A disk whose blocks are in a sparse file, and which logs what it does.
#[derive(Debug)]
pub struct LoggedDisk {
    bytes: u64,
    file: File,
    log: Mutex<LogWriter>,
}

impl LoggedDisk {
    /// An empty disk: its blocks in `file`, its log in `log`.
    ///
    /// # Errors
    /// When a file can't be made.
    pub fn create(bytes: u64, file: &Path, log: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(file)?;
        file.set_len(bytes)?;
        Ok(Self { bytes, file, log: Mutex::new(LogWriter::create(log)?) })
    }
}

impl Blocks for LoggedDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, offset)?;
        log.write(offset, bytes)
    }

    fn flush(&self) -> io::Result<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
