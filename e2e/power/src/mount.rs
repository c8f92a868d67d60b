//! Real devices and mounts: a private mount namespace, the disk's process, loop devices, ext4. All is taken down when dropped; should
//! this process be killed, the namespace ends with its last process, and with it its mounts, and with them the loop devices.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::disk::NAME;
use crate::faulty::Death;
use crate::image::{Cut, Survival};

/// Programs, and the Debian packages they are in.
const PROGRAMS: [(&str, &str); 5] = [
    ("losetup", "mount"),
    ("mount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("strace", "strace"),
];

/// Names everything that is missing to play a loss of power through on this machine.
///
/// # Errors
/// When anything is.
pub fn prerequisites() -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("to be root (mounts, loop devices)".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            missing
                .push(format!("{device} (a kernel with FUSE and loop devices; in a container, the device passed in)"));
        }
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    for (program, package) in PROGRAMS {
        if !folders.iter().any(|folder| folder.join(program).is_file()) {
            missing.push(format!("{program} (Debian package {package})"));
        }
    }
    ensure!(missing.is_empty(), "a loss of power cannot be played through here; missing: {}", missing.join("; "));
    Ok(())
}

/// Gives this thread, and the threads and processes that it starts from now on, mounts of their own.
///
/// # Errors
/// When the kernel refuses.
pub fn private_namespace() -> Result<()> {
    #[expect(
        unsafe_code,
        reason = "unsharing mounts touches no table of descriptors, which is what is unsafe about it"
    )]
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS).context("unshare the mounts")?;
    }
    let flags = rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", flags).context("make all mounts private")
}

/// Runs a command that must succeed; its output.
///
/// # Errors
/// When it can't be run or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Unmounts. A process that another thread is just starting holds what this one had open, up to the moment in which it becomes another
/// program: so it may take a moment until nobody uses the mount.
fn unmount(folder: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match rustix::mount::unmount(folder, rustix::mount::UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            other => return other.with_context(|| format!("unmount {}", folder.display())),
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A process that serves the disk's file in a folder.
#[derive(Debug)]
pub struct DiskProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl DiskProcess {
    /// An empty disk that logs: blocks in `folder/blocks`, log in `folder/log`, the file in `folder/fuse`.
    ///
    /// # Errors
    /// When the program can't be started or can't mount.
    pub fn record(program: &Path, folder: &Path, bytes: u64) -> Result<Self> {
        let blocks = folder.join("blocks");
        Self::start(
            program,
            folder,
            &["record", "--bytes", &bytes.to_string(), "--blocks", text(&blocks)?, "--log", text(&Self::log(folder))?],
        )
    }

    /// A disk that shows images of a log; the file in `folder/fuse`.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn images(program: &Path, folder: &Path, bytes: u64, log: &Path) -> Result<Self> {
        Self::start(program, folder, &["images", "--bytes", &bytes.to_string(), "--log", text(log)?])
    }

    /// An empty disk that dies when told: blocks in `folder/blocks`, the file in `folder/fuse`.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn faulty(program: &Path, folder: &Path, bytes: u64) -> Result<Self> {
        let blocks = folder.join("blocks");
        Self::start(program, folder, &["faulty", "--bytes", &bytes.to_string(), "--blocks", text(&blocks)?])
    }

    /// A faulty disk is to die so, or to live.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn set(&mut self, death: Option<Death>) -> Result<()> {
        self.ask(&serde_json::to_string(&death)?).map(drop)
    }

    /// Where a recording disk's log is.
    #[must_use]
    pub fn log(folder: &Path) -> PathBuf {
        folder.join("log")
    }

    fn start(program: &Path, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let mount = folder.join("fuse");
        fs::create_dir_all(&mount)?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--mount")
            .arg(&mount)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no output of power-disk")?);
        let process = Self { child, input, output: BufReader::new(output), folder: mount };
        let until = Instant::now() + Duration::from_secs(60);
        while !process.file().exists() {
            ensure!(Instant::now() < until, "power-disk did not mount {} within a minute", process.folder.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The disk's file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Shows another image. No loop device may stand on the file.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn show(&mut self, cut: Cut) -> Result<Survival> {
        let line = self.ask(&serde_json::to_string(&cut)?)?;
        serde_json::from_str(&line).with_context(|| format!("power-disk said {line:?}"))
    }

    /// Sends a line; returns the answer's.
    fn ask(&mut self, line: &str) -> Result<String> {
        let input = self.input.as_mut().context("power-disk has ended")?;
        writeln!(input, "{line}")?;
        let mut answer = String::new();
        ensure!(self.output.read_line(&mut answer)? > 0, "power-disk has ended");
        Ok(answer)
    }

    /// Unmounts the file's folder and waits for the process; its log is whole then.
    ///
    /// # Errors
    /// When something still uses the file, or the process failed.
    pub fn stop(mut self) -> Result<()> {
        unmount(&self.folder)?;
        self.input = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "power-disk ended with {status}");
        Ok(())
    }
}

impl Drop for DiskProcess {
    fn drop(&mut self) {
        self.input = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            let _may_be_gone = rustix::mount::unmount(&self.folder, rustix::mount::UnmountFlags::DETACH);
            let _may_be_gone = self.child.kill();
        }
        let _reaped = self.child.wait();
    }
}

/// A loop device.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
}

impl LoopDevice {
    /// Stands a free loop device on a file, with direct I/O.
    ///
    /// # Errors
    /// When there is none.
    pub fn on(file: &Path) -> Result<Self> {
        let device = run("losetup", &["--find", "--show", "--direct-io=on", text(file)?])?;
        Ok(Self { device: device.trim().into() })
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.device
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _may_be_gone = text(&self.device).and_then(|device| run("losetup", &["--detach", device]));
    }
}

/// Makes an ext4 file system. All of it is written now, so that nothing is left for the kernel to do later.
///
/// # Errors
/// When that fails.
pub fn make_ext4(device: &LoopDevice) -> Result<()> {
    let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0", "-E", options, text(device.path())?]).map(drop)
}

/// How a file system could be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// By itself, its journal replayed by the kernel.
    ByItself,
    /// After `e2fsck -p`, as systems run it at boot.
    AfterCheck,
}

/// A mounted ext4 file system; unmounted, and its loop device freed, when dropped.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    device: Option<LoopDevice>,
}

impl Mounted {
    /// Mounts the device's file system at a folder, which is made.
    ///
    /// # Errors
    /// When it can't be mounted even after `e2fsck -p`.
    pub fn ext4(device: LoopDevice, folder: &Path) -> Result<(Self, Came)> {
        fs::create_dir_all(folder)?;
        let (source, target) = (text(device.path())?, text(folder)?);
        let came = match run("mount", &["-t", "ext4", source, target]) {
            Ok(_) => Came::ByItself,
            Err(error) => {
                let checked = Command::new("e2fsck").args(["-p", source]).output()?;
                // 1: errors were corrected (e2fsck(8)).
                if !matches!(checked.status.code(), Some(0 | 1)) {
                    bail!("{error:#}; e2fsck: {}: {}", checked.status, String::from_utf8_lossy(&checked.stdout));
                }
                run("mount", &["-t", "ext4", source, target])?;
                Came::AfterCheck
            }
        };
        Ok((Self { folder: folder.to_owned(), device: Some(device) }, came))
    }

    /// Unmounts.
    ///
    /// # Errors
    /// When it is in use.
    pub fn unmount(mut self) -> Result<()> {
        unmount(&self.folder)?;
        self.device = None;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.device.is_some() {
            let _may_be_gone = rustix::mount::unmount(&self.folder, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
