//! A control group with a limit of memory, as a container has one. Needs root, and the memory controller of version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::harness::poll;

/// A group below the one that this process is in. Removed when dropped, once nobody is in it any more.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    version_2: bool,
}

impl MemoryGroup {
    /// Makes one whose processes together may use so many bytes.
    ///
    /// # Errors
    /// When there is no memory controller, or no group may be made: says where it was tried.
    pub fn new(limit_bytes: u64) -> Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").context("this system has no control groups")?;
        let (parent, version_2) = parent(&groups).with_context(|| {
            format!(
                "no control group with a memory controller that may have groups of its own; this test needs root and one, of version 1 or 2:\n{groups}"
            )
        })?;
        let folder = parent.join(format!("framekeeper-test-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make a control group in {}", parent.display()))?;
        let group = Self { folder, version_2 };
        group.limit(limit_bytes)?;
        Ok(group)
    }

    /// From now on they may use so many bytes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        let file = if self.version_2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(self.folder.join(file), bytes.to_string())
            .with_context(|| format!("cannot limit the memory of {} to {bytes} bytes", self.folder.display()))
    }

    /// The beginning of a command line that runs the rest of it in this group.
    #[must_use]
    pub fn wrapper(&self) -> [String; 4] {
        let enter = format!("echo $$ >'{}/cgroup.procs' && exec \"$@\"", self.folder.display());
        ["/bin/sh", "-c", &enter, "sh"].map(str::to_owned)
    }

    /// How often the kernel had to kill a process of the group to keep it below its limit.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn kills(&self) -> Result<u64> {
        let file = if self.version_2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).context("no oom_kill")?;
        Ok(line.trim().parse()?)
    }

    /// Memory of the group's processes now, what the kernel caches of files for them not included, bytes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn resident_bytes(&self) -> Result<u64> {
        let name = if self.version_2 { "anon " } else { "total_rss " };
        let text = fs::read_to_string(self.folder.join("memory.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no resident set")?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Whoever was in it may still be on the way out.
        let _removed = poll(Duration::from_secs(5), Duration::from_millis(20), || {
            Ok(fs::remove_dir(&self.folder).is_ok().then_some(()))
        });
    }
}

/// Where a group may be made, of what `/proc/self/cgroup` says, and whether it is of version 2.
fn parent(groups: &str) -> Result<(PathBuf, bool)> {
    let root = Path::new("/sys/fs/cgroup");
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let own = path.trim_matches('/');
        if controllers.split(',').any(|one| one == "memory") {
            // Inside a container the path may begin above what is mounted.
            let folders = [root.join("memory").join(own), root.join("memory")];
            if let Some(folder) = folders.into_iter().find(|folder| folder.join("memory.limit_in_bytes").exists()) {
                return Ok((folder, false));
            }
        }
    }
    // Of version 2 a group with processes has no limited groups below it: the root has both.
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|one| one == "memory") {
        fs::write(root.join("cgroup.subtree_control"), "+memory")
            .context("the memory controller cannot be switched on")?;
        return Ok((root.to_owned(), true));
    }
    bail!("no memory controller below {}", root.display())
}
