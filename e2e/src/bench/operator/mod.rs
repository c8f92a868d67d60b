//! What an operator costs that looks after ten thousand streams: the real one, with a real API server, and recorders that only talk.
//!
//! ```text
//! framekeeper-bench ─► e2e/cluster: etcd, API server (no nodes)
//!        └─ enter ─► framekeeper-bench inside-cluster ─► framekeeper-operator run
//!                        ├ cameras, a pool, pods' objects (site)
//!                        ├ recorders that only talk (recorders)
//!                        └ what was there when (tally), what was written (counts)
//! ```

mod cluster;
mod counts;
mod page;
mod recorders;
mod scenario;
mod site;
mod tally;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use cluster::ControlPlane;
pub use cluster::check;
pub use scenario::run;

/// Bytes that etcd and logs take at most.
pub const BYTES_NEEDED: u64 = 3 << 30;

/// Measures it, steady state for as long as `window`, and says what goes into the page.
///
/// # Errors
/// When the control plane can't be made, or something does not come about.
pub fn measure(scratch: &Path, window: Duration, progress: &impl Fn(&str)) -> Result<String> {
    progress("an API server for the operator");
    let plane = ControlPlane::up()?;
    let own = std::env::current_exe()?;
    let folder = scratch.join("operator");
    std::fs::create_dir_all(&folder)?;
    let mut inside = plane.enter(&own);
    let inside = inside.arg("inside-cluster").arg(&folder).arg(window.as_secs().to_string());
    let output = inside.stderr(std::process::Stdio::inherit()).output();
    let output = output.context("cannot enter the cluster's network")?;
    ensure!(output.status.success(), "measuring the operator failed: {}", output.status);
    plane.down()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
