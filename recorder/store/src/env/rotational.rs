//! Whether a file system is on a disk that rotates: syncs are dear there, because each one moves the heads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// A loop device on a file on a loop device on …: nobody has more.
const LOOPS_AT_MOST: usize = 8;

/// Whether the file system that `path` is on rotates; `None` where the kernel does not tell: no block device, or none that is visible here.
pub(super) fn is_rotational(path: &Path) -> Option<bool> {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    look(Path::new("/sys"), device(path)?, &device)
}

/// The same for device number `device`, below `sys`. `device_of` says on which device a file is.
fn look(sys: &Path, mut device: u64, device_of: &dyn Fn(&Path) -> Option<u64>) -> Option<bool> {
    for _ in 0..LOOPS_AT_MOST {
        let link = sys.join(format!("dev/block/{}:{}", major(device), minor(device)));
        let block = fs::canonicalize(link).ok()?;
        // A loop device is what its file is on.
        if let Ok(backing) = fs::read_to_string(block.join("loop/backing_file")) {
            device = device_of(&PathBuf::from(backing.trim_end_matches('\n')))?;
            continue;
        }
        // A virtual machine's disk says that it rotates whatever is behind it.
        let is_virtual = block.components().any(|part| part.as_os_str().to_string_lossy().starts_with("virtio"));
        // A partition has no queue of its own: its disk, the folder above, has.
        let queues = [block.join("queue/rotational"), block.parent()?.join("queue/rotational")];
        let said = queues.iter().find_map(|queue| fs::read_to_string(queue).ok())?;
        return match said.trim() {
            "1" if is_virtual => None,
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `/sys` with a rotating disk 8:0, its partition 8:1, an SSD 259:0, and loop devices 7:0 (on 8:1), 7:1 (on 7:0) and 7:2 (on itself).
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("devices/pci/sda/queue/rotational", "1\n");
        put("devices/pci/sda/sda1/partition", "1\n");
        put("devices/pci/nvme0n1/queue/rotational", "0\n");
        put("devices/pci/odd/queue/rotational", "yes\n");
        put("devices/pci/virtio2/block/vda/queue/rotational", "1\n");
        for (number, backing) in [(0, "/on/sda1"), (1, "/on/loop0"), (2, "/on/loop2")] {
            put(&format!("devices/virtual/loop{number}/loop/backing_file"), &format!("{backing}\n"));
            // What the kernel says of the loop device itself does not count.
            put(&format!("devices/virtual/loop{number}/queue/rotational"), "0\n");
        }
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        for (device, path) in [
            ("8:0", "pci/sda"),
            ("8:1", "pci/sda/sda1"),
            ("259:0", "pci/nvme0n1"),
            ("9:9", "pci/odd"),
            ("254:0", "pci/virtio2/block/vda"),
            ("7:0", "virtual/loop0"),
            ("7:1", "virtual/loop1"),
            ("7:2", "virtual/loop2"),
        ] {
            symlink(sys.path().join("devices").join(path), sys.path().join("dev/block").join(device)).unwrap();
        }
        sys
    }

    #[test]
    fn partitions_and_loop_devices_are_what_they_stand_on() {
        let sys = sys();
        let device = |major: u32, minor: u32| rustix::fs::makedev(major, minor);
        let device_of = |path: &Path| match path.to_str()? {
            "/on/sda1" => Some(device(8, 1)),
            "/on/loop0" => Some(device(7, 0)),
            "/on/loop2" => Some(device(7, 2)),
            _ => None,
        };
        let said = |major, minor| look(sys.path(), device(major, minor), &device_of);
        assert_eq!((said(8, 0), said(8, 1), said(259, 0)), (Some(true), Some(true), Some(false)));
        assert_eq!((said(7, 0), said(7, 1)), (Some(true), Some(true)));
        // Not understood, not there, a ring, and a disk that does not know itself.
        assert_eq!((said(9, 9), said(0, 45), said(7, 2), said(254, 0)), (None, None, None, None));
    }
}
