//! A pool on this machine under `framekeeper-operator local`, as a user runs it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::harness::{Running, free_ports, get, poll, program};

/// What to write into the manifest of a test pool. Namespace `default`, pool `main`, one volume `footage`.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    /// Recorders.
    pub recorders: usize,
    /// `maxChannels`.
    pub max_channels: usize,
    /// Budget of each recorder's volume, for example `4Gi`.
    pub budget: String,
    /// `segment.bytes`.
    pub segment_bytes: String,
    /// The streams.
    pub streams: Vec<StreamPlan>,
}

/// One stream of a test pool.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    /// Name of the `CameraStream`.
    pub name: String,
    /// The camera's URL.
    pub url: String,
    /// User and password, where the camera wants them.
    pub credentials: Option<(String, String)>,
}

impl StreamPlan {
    /// A stream of a camera that asks for no password.
    #[must_use]
    pub fn new(name: &str, url: String) -> Self {
        Self { name: name.to_owned(), url, credentials: None }
    }
}

impl PoolPlan {
    /// The manifest as YAML.
    #[must_use]
    pub fn manifest(&self) -> String {
        let mut text = format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata:\n  name: main\nspec:\n  recorders: {}\n  maxChannels: {}\n  \
             segment:\n    bytes: {}\n    sync: 500ms\n  storage:\n    volumes:\n    - name: footage\n      claimTemplate:\n        spec:\n          resources:\n            \
             requests:\n              storage: {}\n",
            self.recorders, self.max_channels, self.segment_bytes, self.budget
        );
        for StreamPlan { name, url, credentials } in &self.streams {
            let _infallible = write!(
                text,
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata:\n  name: {name}\nspec:\n  poolRef:\n    name: main\n  \
                 source:\n    url: {url}\n"
            );
            if let Some((user, password)) = credentials {
                let _infallible = write!(
                    text,
                    "    credentialsSecretRef:\n      name: {name}\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n\
                     stringData:\n  username: \"{user}\"\n  password: \"{password}\"\n"
                );
            }
        }
        text
    }
}

/// The manifest of a pool with one volume, with these ones instead, each like it.
///
/// # Errors
/// When it is no manifest of [`PoolPlan::manifest`].
pub fn with_volumes(manifest: &str, volumes: &[&str]) -> Result<String> {
    let begin = manifest.find("    - name: footage\n").context("no volume in the manifest")?;
    let (before, rest) = manifest.split_at(begin);
    let (block, behind) = rest.split_at(rest.find("---\n").unwrap_or(rest.len()));
    let blocks: String = volumes.iter().map(|name| block.replace("footage", name)).collect();
    Ok(format!("{before}{blocks}{behind}"))
}

/// The manifest with more in the spec of the pool, in YAML's short form: `toleratedFailures: 1`.
///
/// # Errors
/// When it is no manifest of [`PoolPlan::manifest`].
pub fn with_pool_spec(manifest: &str, more: &str) -> Result<String> {
    let head = "  name: main\nspec:\n";
    let at = manifest.find(head).context("no pool in the manifest")? + head.len();
    let (before, behind) = manifest.split_at(at);
    Ok(format!("{before}  {more}\n{behind}"))
}

/// The manifest with more in the spec of a stream, in YAML's short form: `retention: {maxAge: 10s}`.
///
/// # Errors
/// When the stream is not in it.
pub fn with_stream_spec(manifest: &str, stream: &str, more: &str) -> Result<String> {
    let head = format!("  name: {stream}\nspec:\n");
    let at = manifest.find(&head).with_context(|| format!("no stream {stream} in the manifest"))? + head.len();
    let (before, behind) = manifest.split_at(at);
    Ok(format!("{before}  {more}\n{behind}"))
}

/// `framekeeper-recorder volume VERB NAME` for the recorder whose volumes are below `folder`, as a person at the machine.
///
/// # Errors
/// When it fails.
pub fn volume(verb: &str, name: &str, folder: &Path) -> Result<()> {
    let mut command = Command::new(program("framekeeper-recorder")?);
    let output = command.args(["volume", verb, name, "--volumes"]).arg(folder).output()?;
    if !output.status.success() {
        bail!("volume {verb} {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The operator and its recorders. Stopped in order when dropped.
#[derive(Debug)]
pub struct System {
    /// The operator's process.
    pub operator: Running,
    /// The data folder.
    pub data: PathBuf,
    /// The manifest file.
    pub manifest: PathBuf,
    base_port: u16,
    recorders: usize,
}

impl System {
    /// Writes the manifest below `folder` and starts the operator on it. Data goes to `folder/data`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(folder: &Path, plan: &PoolPlan) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Self::start_with_env(folder, plan, &[])
    }

    /// The same, with these environment variables for the operator and its recorders.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with_env(folder: &Path, plan: &PoolPlan, environment: &[(&str, String)]) -> Result<Self> {
        let manifest = folder.join("pool.yaml");
        fs::write(&manifest, plan.manifest())?;
        Self::launch(folder, manifest, plan.recorders, environment, &[])
    }

    /// The same, started by another program: `wrapper` is its command line, to which the operator's is added.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_under(folder: &Path, plan: &PoolPlan, wrapper: &[&str]) -> Result<Self> {
        let manifest = folder.join("pool.yaml");
        fs::write(&manifest, plan.manifest())?;
        Self::launch(folder, manifest, plan.recorders, &[], wrapper)
    }

    /// Starts the operator on a manifest that is there.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_on(folder: &Path, manifest: PathBuf, recorders: usize) -> Result<Self> {
        Self::launch(folder, manifest, recorders, &[], &[])
    }

    /// The same, with these environment variables for the operator and its recorders, and started by another program: `wrapper` is its command line,
    /// to which the operator's is added.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_on_under(
        folder: &Path,
        manifest: PathBuf,
        recorders: usize,
        environment: &[(&str, String)],
        wrapper: &[&str],
    ) -> Result<Self> {
        Self::launch(folder, manifest, recorders, environment, wrapper)
    }

    /// The same, with the choice of how segments are written: `auto`, `direct` or `buffered`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_writing(folder: &Path, manifest: PathBuf, recorders: usize, writes: &str) -> Result<Self> {
        Self::launch(folder, manifest, recorders, &[("FRAMEKEEPER_WRITES", writes.to_owned())], &[])
    }

    fn launch(
        folder: &Path,
        manifest: PathBuf,
        recorders: usize,
        environment: &[(&str, String)],
        wrapper: &[&str],
    ) -> Result<Self> {
        let data = folder.join("data");
        let base_port = free_ports(u16::try_from(recorders)?)?;
        let operator = program("framekeeper-operator")?;
        let mut command = match wrapper {
            [] => Command::new(operator),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(operator);
                command
            }
        };
        command.arg("local").arg(&manifest).arg("--data").arg(&data);
        command.arg("--http-base-port").arg(base_port.to_string());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let operator = Running::start("framekeeper-operator", &mut command, &folder.join("operator.log"))?;
        Ok(Self { operator, data, manifest, base_port, recorders })
    }

    /// The HTTP address of recorder `ordinal`.
    #[must_use]
    pub fn http(&self, ordinal: usize) -> SocketAddr {
        let offset = u16::try_from(ordinal).unwrap_or(0);
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.base_port + offset))
    }

    /// The folder of each recorder's volume.
    #[must_use]
    pub fn volumes(&self) -> Vec<PathBuf> {
        (0..self.recorders).map(|ordinal| self.data.join(format!("volumes/main-recorder-{ordinal}/footage"))).collect()
    }

    /// `GET /v1/channels` of recorder `ordinal`; `None` while it does not answer.
    ///
    /// # Errors
    /// When the answer is no JSON.
    pub fn channels(&self, ordinal: usize) -> Result<Option<Vec<Value>>> {
        let Ok(answer) = get(self.http(ordinal), "/v1/channels") else { return Ok(None) };
        if answer.status != 200 {
            return Ok(None);
        }
        Ok(answer.json()?.get("channels").and_then(Value::as_array).cloned())
    }

    /// Waits until every one of `streams` is recording with durable frames, and returns which recorder has it.
    ///
    /// # Errors
    /// When that takes longer than `patience`; says which are missing and shows the log.
    pub fn wait_recording(&mut self, streams: &[String], patience: Duration) -> Result<BTreeMap<String, usize>> {
        let mut holders = BTreeMap::new();
        let all = poll(patience, Duration::from_millis(100), || {
            holders.clear();
            for ordinal in 0..self.recorders {
                for channel in self.channels(ordinal)?.unwrap_or_default() {
                    let text = |key: &str| channel.get(key).and_then(Value::as_str);
                    if text("state") == Some("Recording")
                        && text("durable").is_some()
                        && let Some(name) = text("name")
                    {
                        holders.insert(name.to_owned(), ordinal);
                    }
                }
            }
            if !self.operator.alive() {
                bail!("the operator ended: {}", self.operator.log_tail());
            }
            Ok(streams.iter().all(|name| holders.contains_key(name)).then_some(()))
        })?;
        if all.is_none() {
            let missing: Vec<_> = streams.iter().filter(|name| !holders.contains_key(*name)).collect();
            let states: Vec<_> =
                (0..self.recorders).filter_map(|ordinal| self.channels(ordinal).ok().flatten()).collect();
            bail!("not recording after {patience:?}: {missing:?}\n{states:?}\n{}", self.operator.log_tail());
        }
        Ok(holders)
    }

    /// Replaces the manifest, as an editor does.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn edit(&self, manifest: &str) -> Result<()> {
        let new = self.manifest.with_extension("new");
        fs::write(&new, manifest)?;
        Ok(fs::rename(new, &self.manifest)?)
    }

    /// Waits until recorder `ordinal` answers again.
    ///
    /// # Errors
    /// When it doesn't within `patience`.
    pub fn wait_ready(&self, ordinal: usize, patience: Duration) -> Result<()> {
        poll(patience, Duration::from_millis(50), || {
            Ok(get(self.http(ordinal), "/readyz").ok().filter(|answer| answer.status == 200).map(drop))
        })?
        .with_context(|| format!("recorder {ordinal} is not ready after {patience:?}: {}", self.operator.log_tail()))
    }

    /// Stops everything in order.
    ///
    /// # Errors
    /// When the operator does not end within 15 s, or with a failure.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.operator.stop(Duration::from_secs(15))?;
        if !status.success() {
            bail!("the operator ended with {status}: {}", self.operator.log_tail());
        }
        Ok(())
    }
}
