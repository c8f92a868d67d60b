//! A real Kubernetes of several nodes (`e2e/cluster`), as a user of kubectl and helm sees it, and its faults.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::harness::program;

/// How often is looked whether something is so.
const LOOK: Duration = Duration::from_millis(200);
/// And at least so often.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);

/// A cluster that `e2e/cluster/up` made, from inside of its network: the test program was started by `e2e/cluster/cluster enter`.
#[derive(Debug)]
pub struct Cluster {
    /// Folder of all its state.
    pub folder: PathBuf,
    /// The image with both programs.
    pub image: String,
    /// The image of test cameras.
    pub camera_image: String,
    tool: PathBuf,
    chart: PathBuf,
}

impl Cluster {
    /// The cluster that the environment variable `K` names.
    ///
    /// # Errors
    /// When it is not there.
    pub fn entered() -> Result<Self> {
        let folder = std::env::var_os("K").context("K does not name a cluster; these tests are run by `make test`")?;
        let folder = PathBuf::from(folder);
        let path = folder.join("cluster.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: no cluster is up; e2e/cluster/up makes one", path.display()))?;
        let json: Value = serde_json::from_str(&text)?;
        let image = |name: &str| -> Result<String> {
            let image = json.pointer(&format!("/images/{name}")).and_then(Value::as_str);
            Ok(image.with_context(|| format!("the cluster has no image {name}"))?.to_owned())
        };
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.parent().context("e2e is not in a workspace")?;
        Ok(Self {
            image: image("framekeeper")?,
            camera_image: image("camera")?,
            tool: own.join("cluster/cluster"),
            chart: root.join("charts/framekeeper"),
            folder,
        })
    }

    /// The chart's folder.
    #[must_use]
    pub fn chart(&self) -> &Path {
        &self.chart
    }

    /// A command of the cluster's own: `node-kill 2`, `apiserver-stop`.
    ///
    /// # Errors
    /// When it fails.
    pub fn fault(&self, arguments: &[&str]) -> Result<String> {
        done(Command::new(&self.tool).args(arguments), None)
    }

    /// kubectl.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        done(Command::new("kubectl").args(arguments), None)
    }

    /// helm.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        done(Command::new("helm").args(arguments), None)
    }

    /// `kubectl apply` of this text.
    ///
    /// # Errors
    /// When it is refused; with what the API server said.
    pub fn apply(&self, text: &str) -> Result<String> {
        done(Command::new("kubectl").args(["apply", "-f", "-"]), Some(text))
    }

    /// `kubectl create` of this text, which must all be new: one request for each object, where `apply` takes two.
    ///
    /// # Errors
    /// When it is refused; with what the API server said.
    pub fn create(&self, text: &str) -> Result<String> {
        done(Command::new("kubectl").args(["create", "-f", "-"]), Some(text))
    }

    /// `kubectl replace` of this text.
    ///
    /// # Errors
    /// When it is refused; with what the API server said.
    pub fn replace(&self, text: &str) -> Result<String> {
        done(Command::new("kubectl").args(["replace", "-f", "-"]), Some(text))
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get"];
        all.extend_from_slice(arguments);
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// The items of a list.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let list = self.get(arguments)?;
        Ok(list.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Waits until `look` finds something, for at most `patience`. An API server that does not answer is asked again.
    ///
    /// # Errors
    /// When the time is over, with what it was that was waited for, and the last error.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<(T, Duration)> {
        let began = Instant::now();
        let mut last = None;
        loop {
            match look() {
                Ok(Some(found)) => return Ok((found, began.elapsed())),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
            let waited = began.elapsed();
            if waited >= patience {
                let what = format!("{what}: not within {patience:?}");
                return Err(match last {
                    Some(error) => error.context(what),
                    None => anyhow!(what),
                });
            }
            // Looking takes some dozens of processes: what takes long is looked for less often, to a twentieth of what it took.
            std::thread::sleep((waited / 20).clamp(LOOK, LOOK_AT_LEAST));
        }
    }

    /// A program, or a command of the machine, where the nodes' disks are to be seen.
    ///
    /// # Errors
    /// When the cluster's first process is gone.
    pub fn with_disks(&self, program: &Path) -> Result<Command> {
        let init = std::fs::read_to_string(self.folder.join("init.pid"))?;
        let mut command = Command::new("nsenter");
        command.args(["-t", init.trim(), "--mount", "--"]).arg(program);
        Ok(command)
    }

    /// `ledger-check` with these arguments, where the nodes' disks are to be seen.
    ///
    /// # Errors
    /// When anything is wrong with what was recorded.
    pub fn check(&self, arguments: &[String]) -> Result<String> {
        // It gives way to those that it judges, but not so far that nodes are away for minutes while it counts.
        let mut command = self.with_disks(Path::new("nice"))?;
        done(command.args(["-n", "5"]).arg(program("ledger-check")?).args(arguments), None)
    }

    /// The folders of these PersistentVolumes, as far as there is footage; to be seen only from inside the cluster. They are called after node and disk:
    /// `node1-disk2`.
    ///
    /// # Errors
    /// When the disks can't be looked at.
    pub fn with_footage(&self, volumes: &[&str]) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for volume in volumes {
            let folder = self.folder.join(volume.replace('-', "/"));
            let mut test = self.with_disks(Path::new("test"))?;
            if test.args(["-d"]).arg(folder.join("streams")).status()?.success() {
                found.push(folder);
            }
        }
        Ok(found)
    }
}

fn done(command: &mut Command, input: Option<&str>) -> Result<String> {
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let stdin = child.stdin.take();
    // At the same time: who reads a long text answers while it reads, and waits until the answer is read.
    let output = std::thread::scope(|threads| {
        let writer = threads.spawn(move || match (input, stdin) {
            (Some(input), Some(mut stdin)) => stdin.write_all(input.as_bytes()),
            _ => Ok(()),
        });
        let output = child.wait_with_output();
        // Who ends before it has read all of it says why.
        let _written = writer.join();
        output
    });
    let Output { status, stdout, stderr } = output?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?}: {status}\n{said}{}", String::from_utf8_lossy(&stderr));
    Ok(said)
}
