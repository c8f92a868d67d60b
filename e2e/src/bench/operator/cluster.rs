//! The control plane that an operator is measured with: etcd and an API server of `e2e/cluster`, without nodes. It ends with this process, however that ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Waits for the end of whoever started it, and takes the cluster down: it may be half up, which its lock tells.
const KEEPER: &str =
    "trap '' INT TERM HUP; cat >/dev/null; for _ in {1..120}; do \"$0\" && exit 0; sleep 1; done; exit 1";

/// It, from before it is made.
#[derive(Debug)]
pub(super) struct ControlPlane {
    folder: PathBuf,
    tool: PathBuf,
    keeper: Option<Child>,
}

/// Whether this machine can run it.
///
/// # Errors
/// When it can't; says why.
pub fn check() -> Result<()> {
    let (tool, folder) = (tools().join("cluster"), folder());
    let output = Command::new(&tool).arg("check").env("K", &folder).output();
    let output = output.with_context(|| format!("cannot run {}", tool.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the part `operator` has a Kubernetes API server of its own (e2e/cluster/README.md), and this machine can't run it: {}; --only names the other parts",
        said.trim()
    );
    Ok(())
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// All state of the cluster, and its logs: `K`, if that is set.
fn folder() -> PathBuf {
    std::env::var_os("K").map_or_else(|| std::env::temp_dir().join("framekeeper-bench-cluster"), PathBuf::from)
}

impl ControlPlane {
    /// Brings it up.
    ///
    /// # Errors
    /// When that fails; nothing is left running then.
    pub(super) fn up() -> Result<Self> {
        let (folder, tools) = (folder(), tools());
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let keeper = Command::new("setsid")
            .args(["bash", "-c", KEEPER])
            .arg(tools.join("down"))
            .env("K", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start who takes the cluster down")?;
        let plane = Self { folder, tool: tools.join("cluster"), keeper: Some(keeper) };
        let mut up = Command::new(tools.join("up"));
        let up = up.args(["--bare", "--nodes", "0"]).env("K", &plane.folder).stdout(Stdio::null()).status()?;
        if !up.success() {
            bail!("the control plane did not come up ({up}); its logs are in {}", plane.folder.join("log").display());
        }
        Ok(plane)
    }

    /// A command in its network, with its `KUBECONFIG`, kubectl and helm. The kernel ends it with the thread that starts it.
    #[must_use]
    pub(super) fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.tool).arg("enter").arg(program).env("K", &self.folder);
        command
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When something is left.
    pub(super) fn down(mut self) -> Result<()> {
        let ended = self.end()?;
        ensure!(
            ended,
            "the control plane in {} did not go away: e2e/cluster/down says what is left",
            self.folder.display()
        );
        Ok(())
    }

    fn end(&mut self) -> Result<bool> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(true) };
        drop(keeper.stdin.take());
        Ok(keeper.wait()?.success())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _what_is_left_is_found_by_the_next_up = self.end();
    }
}
