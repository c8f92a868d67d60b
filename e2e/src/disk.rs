//! Disks that can be made to fail or hang: ext4 on loop devices. Needs root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file system on a loop device, mounted. Taken apart when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    mount: PathBuf,
    frozen: bool,
}

impl LoopDisk {
    /// Makes one of `bytes` bytes, its image in `folder`, and mounts it on `mount`, which is made.
    ///
    /// # Errors
    /// When a tool fails, for example because this is not run as root.
    pub fn new(folder: &Path, name: &str, bytes: u64, mount: &Path) -> Result<Self> {
        let image = folder.join(format!("{name}.ext4"));
        File::create(&image)?.set_len(bytes)?;
        Self::on(&image, mount)
    }

    /// Makes one of a file that is there, and mounts it on `mount`, which is made.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn on(image: &Path, mount: &Path) -> Result<Self> {
        fs::create_dir_all(mount)?;
        let device = tool("losetup", &["-f", "--show", &image.display().to_string()])?.trim().to_owned();
        let disk = Self { device, mount: mount.to_owned(), frozen: false };
        tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device])?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        tool("mount", &[&self.device, &self.mount.display().to_string()]).map(drop)
    }

    /// From now on every write and sync fails with EIO; what was not synced is gone (`EXT4_IOC_SHUTDOWN`, no flush of the journal).
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn fail(&self) -> Result<()> {
        const CALL: &str = "import fcntl, os, struct, sys\n\
                            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        tool("python3", &["-c", CALL, &self.mount.display().to_string()]).map(drop)
    }

    /// As after a repair: the file system is checked, as at boot, and mounted anew. Nobody may have files of it open.
    ///
    /// # Errors
    /// When somebody does, or a tool fails.
    pub fn repair(&self) -> Result<()> {
        tool("umount", &[&self.mount.display().to_string()])?;
        let checked = Command::new("e2fsck").args(["-p", &self.device]).output().context("cannot run e2fsck")?;
        // 1: errors were corrected (e2fsck(8)).
        if !matches!(checked.status.code(), Some(0 | 1)) {
            bail!("e2fsck -p: {}: {}", checked.status, String::from_utf8_lossy(&checked.stdout));
        }
        self.mount()
    }

    /// Writes and syncs wait from now on.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn freeze(&mut self) -> Result<()> {
        tool("fsfreeze", &["-f", &self.mount.display().to_string()])?;
        self.frozen = true;
        Ok(())
    }

    /// They go on.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn thaw(&mut self) -> Result<()> {
        tool("fsfreeze", &["-u", &self.mount.display().to_string()])?;
        self.frozen = false;
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Best effort: the test may have failed anywhere.
        if self.frozen {
            let _thawed = self.thaw();
        }
        let _unmounted = tool("umount", &["-l", &self.mount.display().to_string()]);
        let _detached = tool("losetup", &["-d", &self.device]);
    }
}

/// Runs a tool of the system; returns what it said.
fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}; this test needs root, e2fsprogs and util-linux"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}: {} (this test needs root)",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
