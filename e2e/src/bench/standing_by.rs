//! What standing by costs: two recorders that record as many streams each, without standbys, with sessions that do not play, and with the last seconds in memory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::process::{Reading, family, read};
use super::recording::{BITRATE, SETTLE};
use super::stamps;
use crate::harness::{Cameras, poll};
use crate::local::{PoolPlan, StreamPlan, System, with_pool_spec};

/// Streams of both recorders together.
pub const STREAMS: usize = 40;
const SEGMENT_BYTES: u64 = 16 << 20;
const CLASSES: [&str; 3] = ["None", "Ready", "Playing"];

/// Bytes that it takes on the disk at most.
#[must_use]
pub const fn bytes_needed() -> u64 {
    2 * budget_bytes()
}

const fn budget_bytes() -> u64 {
    (3 * STREAMS as u64 + 2) * SEGMENT_BYTES
}

/// One class: CPU in milliseconds a second, and memory in bytes, of both recorders.
struct Cost {
    class: &'static str,
    cpu_ms: f64,
    memory_bytes: f64,
}

/// Measures all three, one after the other with the same cameras, and tells what a standby adds to a recorder.
///
/// # Errors
/// When something cannot be started, or the standbys do not become ready.
pub fn measure(folder: &Path, window: Duration, progress: &impl Fn(&str)) -> Result<String> {
    let spec =
        format!("name=cam,count={STREAMS},spread=true,kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50");
    let cameras = Cameras::start(folder, 0, &[spec])?;
    let names = stamps::ledger_names(&cameras.ledgers)?;
    let mut costs = Vec::new();
    for class in CLASSES {
        progress(&format!("{STREAMS} streams, two recorders, class {class}, {} s", (SETTLE + window).as_secs()));
        costs.push(cost(folder, &cameras, &names, class, window)?);
    }
    Ok(table(&costs))
}

fn cost(folder: &Path, cameras: &Cameras, names: &[String], class: &'static str, window: Duration) -> Result<Cost> {
    let plan = PoolPlan {
        recorders: 2,
        max_channels: 2 * names.len(),
        budget: budget_bytes().to_string(),
        segment_bytes: SEGMENT_BYTES.to_string(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let folder = folder.join("standing-by");
    fs::create_dir_all(&folder)?;
    let failures = u8::from(class != "None");
    let pool = format!("toleratedFailures: {failures}\n  redundancy: {{class: {class}}}");
    let manifest = folder.join("pool.yaml");
    fs::write(&manifest, with_pool_spec(&plan.manifest(), &pool)?)?;
    let mut system = System::start_on(&folder, manifest, 2)?;
    let holders = if failures == 0 { 1 } else { 2 };
    let ready = poll(Duration::from_secs(90), Duration::from_millis(200), || {
        let mut good = 0;
        for recorder in 0..2 {
            let channels = system.channels(recorder)?.unwrap_or_default();
            let state = |channel: &Value| channel.get("state").and_then(Value::as_str).map(str::to_owned);
            let is_good = |state: &String| state == "Recording" || state == "Standby";
            good += channels.iter().filter_map(state).filter(is_good).count();
        }
        Ok((good == holders * names.len()).then_some(()))
    })?;
    if ready.is_none() {
        bail!("class {class}: not all recorders are ready: {}", system.operator.log_tail());
    }
    let operator = system.operator.pid();
    let recorders: Vec<u32> = family(&[operator]).into_iter().filter(|&pid| pid != operator).collect();
    std::thread::sleep(SETTLE);
    let (before, began) = (read(&recorders), Instant::now());
    let mut memory = Vec::new();
    while began.elapsed() < window {
        std::thread::sleep(Duration::from_millis(970).min(window.saturating_sub(began.elapsed())));
        memory.push(read(&recorders).memory_bytes as f64);
    }
    let Reading { cpu_s, .. } = read(&recorders);
    let cpu_ms = (cpu_s - before.cpu_s) * 1e3 / began.elapsed().as_secs_f64();
    system.stop()?;
    fs::remove_dir_all(&folder)?;
    Ok(Cost { class, cpu_ms, memory_bytes: memory.iter().sum::<f64>() / memory.len().max(1) as f64 })
}

fn table(costs: &[Cost]) -> String {
    let streams = STREAMS as f64;
    let mut text = format!(
        "{STREAMS} ledger cameras (1080p25, {} Mbit/s, key frame each 2 s), two recorders that record half of them each and, but for class `None`, stand by for the other half. CPU and memory (proportional set size) of \
         both recorders with their supervisors, for each stream; *a standby adds* is what is more than without standbys, links and heartbeats included.\n\n\
         | class | CPU ms a stream-second | a standby adds | of a recording channel | MB a stream | a standby adds MB |\n|---|---|---|---|---|---|\n",
        BITRATE / 1_000_000
    );
    let Some(none) = costs.first() else { return text };
    for cost in costs {
        let (cpu, more) = (cost.cpu_ms / streams, (cost.cpu_ms - none.cpu_ms) / streams);
        let (memory, memory_more) =
            (cost.memory_bytes / streams / 1e6, (cost.memory_bytes - none.memory_bytes) / streams / 1e6);
        let _infallible = writeln!(
            text,
            "| `{}` | {cpu:.3} | {more:.3} | {:.2} | {memory:.2} | {memory_more:.2} |",
            cost.class,
            more / (none.cpu_ms / streams)
        );
    }
    text
}
