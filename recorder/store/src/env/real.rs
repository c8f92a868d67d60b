//! The real world: Linux files through `rustix`.

use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use framekeeper_media::WallTime;
use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::direct::DirectBatch;
use super::rotational::is_rotational;
use super::{Batch, Clock, Disk, Entry, File, FileBatch, Folder, Lock, Random, Space, WritesWanted, write_all};

/// Linux file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        let dir = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let sync_all = kernel_reports_syncfs_errors() && is_root_of_file_system(path);
        Ok(Arc::new(RealFolder { dir: Arc::new(dir), sync_all, rotational: is_rotational(path) }))
    }
}

#[derive(Clone)]
struct RealFolder {
    // Open from the start: syncfs reports what failed since this descriptor was made.
    dir: Arc<OwnedFd>,
    sync_all: bool,
    rotational: Option<bool>,
}

/// Flushes of a disk's cache that come together become one: more than these gain little.
const SYNCS_AT_ONCE: usize = 4;
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

impl RealFolder {
    fn open_with(&self, path: &Path, flags: OFlags) -> io::Result<RealFile> {
        let fd = retry(|| rustix::fs::openat(&self.dir, path, flags | OFlags::CLOEXEC, Mode::from(FILE_MODE)))?;
        Ok(RealFile { fd })
    }
}

impl Folder for RealFolder {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(self.open_with(path, if write { OFlags::RDWR } else { OFlags::RDONLY })?))
    }

    fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
        let file = self.open_with(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        let done = match retry(|| rustix::fs::fallocate(&file.fd, FallocateFlags::empty(), 0, bytes)) {
            Err(Errno::OPNOTSUPP) => write_zeros(&file, 0, bytes),
            other => other.map_err(io::Error::from),
        };
        if let Err(e) = done {
            // Half a file in the pool would be taken for a whole one.
            self.remove(path)?;
            return Err(e);
        }
        Ok(Arc::new(file))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(self.open_with(path, OFlags::RDWR | OFlags::CREATE)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, path, AtFlags::empty())?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let fd = rustix::fs::openat(
            &self.dir,
            here(path),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                _ => false,
            };
            entries.push(Entry { name: name.to_string_lossy().into_owned(), folder });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn make_folders(&self, path: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            match rustix::fs::mkdirat(&self.dir, &made, Mode::from(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, path, AtFlags::REMOVEDIR)?)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, here(path), flags, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn sync_all(&self) -> io::Result<bool> {
        if self.sync_all {
            rustix::fs::syncfs(&self.dir)?;
        }
        Ok(self.sync_all)
    }

    fn is_rotational(&self) -> Option<bool> {
        self.rotational
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = self.open_with(path, OFlags::RDWR | OFlags::CREATE)?;
        rustix::fs::flock(&file.fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock(file.fd)))
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(Space {
            // Less what the file system keeps for its administrator: it is not ours, and nobody else's data.
            total_bytes: stat
                .f_blocks
                .saturating_sub(stat.f_bfree.saturating_sub(stat.f_bavail))
                .saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>> {
        let folder = self.clone();
        let buffered = |reason: &str| {
            Box::new(FileBatch::new(move |path| Folder::open(&folder, path, true), reason)) as Box<dyn Batch>
        };
        match wanted {
            WritesWanted::Buffered => Ok(buffered("so configured")),
            WritesWanted::Direct => Ok(Box::new(DirectBatch::new(self.dir.clone())?)),
            WritesWanted::Auto => match DirectBatch::new(self.dir.clone()) {
                Ok(direct) => Ok(Box::new(direct)),
                Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(buffered(&e.to_string())),
                Err(e) => Err(e),
            },
        }
    }

    fn syncs_at_once(&self) -> usize {
        SYNCS_AT_ONCE
    }
}

struct RealFile {
    fd: OwnedFd,
}

struct RealLock(OwnedFd);

impl Lock for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread starts has the descriptor too, from its fork up to its exec.
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "a volume's lock could not be given back: it goes with its descriptor");
        }
    }
}

impl File for RealFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(retry(|| rustix::io::pwritev(&self.fd, parts, offset))?)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(retry(|| rustix::io::pread(&self.fd, &mut *into, offset))?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    fn begin_sync(&self) {
        // SAFETY: the descriptor is open; the call touches no memory of ours.
        #[expect(unsafe_code, reason = "no safe wrapper has this call")]
        let _no_promise = unsafe { libc::sync_file_range(self.fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn zero_range(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::ZERO_RANGE, offset, bytes)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(self, offset, bytes),
            other => Ok(other?),
        }
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        // Moves the descriptor's own position, which nothing here reads or writes at.
        match rustix::fs::seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            // Where holes are not told, all may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((offset < self.size()?).then_some(offset)),
            Err(e) => Err(e.into()),
        }
    }

    fn forget(&self, offset: u64, bytes: u64) {
        // Where it is not understood, the reads come from memory as ever.
        let _hint = rustix::fs::fadvise(&self.fd, offset, NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or_default())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, bytes)?)
    }
}

fn write_zeros(file: &dyn File, offset: u64, bytes: u64) -> io::Result<()> {
    const BLOCK_BYTES: usize = 1 << 20;
    let zeros = vec![0; BLOCK_BYTES];
    let mut at = offset;
    let end = offset.saturating_add(bytes);
    while at < end {
        let n = usize::try_from(end - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        write_all(file, zeros.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Linux reports write-back errors from `syncfs` since 5.8.
fn kernel_reports_syncfs_errors() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

/// Whether `path` is where a whole file system is mounted, as `/proc/self/mountinfo` tells (proc(5)): then syncing all of it
/// syncs nobody else's files.
fn is_root_of_file_system(path: &Path) -> bool {
    let (Ok(path), Ok(mounts)) = (path.canonicalize(), std::fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    // `/` is never a volume of ours alone.
    path.parent().is_some() && mount_root(&mounts, &path.to_string_lossy()).is_some_and(|root| root == "/")
}

/// The folder of the file system that is mounted at `path`; the mount that was made last counts.
fn mount_root<'a>(mountinfo: &'a str, path: &str) -> Option<&'a str> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (unescape(point) == path).then_some(root)
        })
        .next_back()
}

// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
}

impl Default for RealClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for RealClock {
    fn monotonic_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The kernel's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealRandom;

impl Random for RealRandom {
    fn u64(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().0 ^ uuid::Uuid::new_v4().as_u64_pair().1.rotate_left(17)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 8:1 / /data rw - ext4 /dev/sda rw\n\
        31 22 8:1 /sub /data/b\\040c rw - ext4 /dev/sda rw\n";

    #[test]
    fn a_mount_of_a_whole_file_system_is_told_from_one_of_a_folder() {
        assert_eq!(mount_root(MOUNTS, "/data"), Some("/"));
        assert_eq!(mount_root(MOUNTS, "/data/b c"), Some("/sub"));
        assert_eq!(mount_root(MOUNTS, "/data/x"), None);
    }

    /// What a child has between its fork and its exec is a duplicate of the descriptor.
    #[test]
    fn a_lock_that_is_dropped_is_free_also_where_its_descriptor_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RealDisk.open(dir.path()).unwrap();
        let file = std::fs::File::create(dir.path().join("lock")).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let _of_a_child = file.try_clone().unwrap();
        let held = RealLock(OwnedFd::from(file));
        assert_eq!(folder.lock(Path::new("lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(folder.lock(Path::new("lock")).is_ok());
    }
}
