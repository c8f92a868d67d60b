//! What standing by costs: two recorders that record as many streams each, without standbys, with one alone so that their link stands, with sessions that do
//! not play, and with the last seconds in memory. Each difference is taken within a round, so that what changes on the machine from minute to minute is in
//! both sides of it.

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
use crate::local::{PoolPlan, StreamPlan, System, with_pool_spec, with_stream_spec};

/// Streams of both recorders together.
pub const STREAMS: usize = 40;
const SEGMENT_BYTES: u64 = 16 << 20;
/// All of them one after the other, so many times.
const ROUNDS: usize = 3;

/// What stands by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standbys {
    None,
    /// One stream's alone, of class `Ready`: with it comes all that recorders do for each other whatever they share.
    Link,
    Ready,
    Playing,
}

impl Standbys {
    const ALL: [Self; 4] = [Self::None, Self::Link, Self::Ready, Self::Playing];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Link => "one, `Ready`",
            Self::Ready => "`Ready`",
            Self::Playing => "`Playing`",
        }
    }

    /// The class of the pool.
    const fn class(self) -> &'static str {
        match self {
            Self::None | Self::Link => "None",
            Self::Ready => "Ready",
            Self::Playing => "Playing",
        }
    }

    const fn count(self) -> usize {
        match self {
            Self::None => 0,
            Self::Link => 1,
            Self::Ready | Self::Playing => STREAMS,
        }
    }
}

/// Bytes that it takes on the disk at most.
#[must_use]
pub const fn bytes_needed() -> u64 {
    2 * budget_bytes()
}

const fn budget_bytes() -> u64 {
    (3 * STREAMS as u64 + 2) * SEGMENT_BYTES
}

/// CPU in milliseconds a second, and memory in bytes, of both recorders.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu_ms: f64,
    memory_bytes: f64,
}

/// Measures all of them, with the same cameras, and tells what a standby adds to a recorder.
///
/// # Errors
/// When something cannot be started, or the standbys do not become ready.
pub fn measure(folder: &Path, window: Duration, progress: &impl Fn(&str)) -> Result<String> {
    let spec =
        format!("name=cam,count={STREAMS},spread=true,kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50");
    let cameras = Cameras::start(folder, 0, &[spec])?;
    let names = stamps::ledger_names(&cameras.ledgers)?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let mut costs = [Cost::default(); Standbys::ALL.len()];
        for (cost, standbys) in costs.iter_mut().zip(Standbys::ALL) {
            let seconds = (SETTLE + window).as_secs();
            progress(&format!(
                "{STREAMS} streams, two recorders, standbys: {}, {seconds} s, round {round} of {ROUNDS}",
                standbys.name()
            ));
            *cost = measure_one(folder, &cameras, &names, standbys, window)?;
        }
        rounds.push(costs);
    }
    Ok(table(&rounds))
}

fn measure_one(
    folder: &Path,
    cameras: &Cameras,
    names: &[String],
    standbys: Standbys,
    window: Duration,
) -> Result<Cost> {
    let plan = PoolPlan {
        recorders: 2,
        max_channels: 2 * names.len(),
        budget: budget_bytes().to_string(),
        segment_bytes: SEGMENT_BYTES.to_string(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let folder = folder.join("standing-by");
    fs::create_dir_all(&folder)?;
    let failures = u8::from(standbys != Standbys::None);
    let pool = format!("toleratedFailures: {failures}\n  redundancy: {{class: {}}}", standbys.class());
    let mut text = with_pool_spec(&plan.manifest(), &pool)?;
    if let (Standbys::Link, Some(first)) = (standbys, names.first()) {
        text = with_stream_spec(&text, first, "redundancy: Ready")?;
    }
    let manifest = folder.join("pool.yaml");
    fs::write(&manifest, text)?;
    let mut system = System::start_on(&folder, manifest, 2)?;
    let ready = poll(Duration::from_secs(90), Duration::from_millis(200), || {
        let mut good = 0;
        for recorder in 0..2 {
            let channels = system.channels(recorder)?.unwrap_or_default();
            let state = |channel: &Value| channel.get("state").and_then(Value::as_str).map(str::to_owned);
            let is_good = |state: &String| state == "Recording" || state == "Standby";
            good += channels.iter().filter_map(state).filter(is_good).count();
        }
        Ok((good == names.len() + standbys.count()).then_some(()))
    })?;
    if ready.is_none() {
        bail!("standbys: {}: not all are ready: {}", standbys.name(), system.operator.log_tail());
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
    Ok(Cost { cpu_ms, memory_bytes: memory.iter().sum::<f64>() / memory.len().max(1) as f64 })
}

/// The least, the middle and the most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or_default();
    [at(0), at(values.len() / 2), at(values.len().saturating_sub(1))]
}

fn table(rounds: &[[Cost; Standbys::ALL.len()]]) -> String {
    let streams = STREAMS as f64;
    let mut text = format!(
        "{STREAMS} ledger cameras (1080p25, {} Mbit/s, key frame each 2 s), two recorders that record half of them each and stand by for the other half, or for one stream, or for none. CPU and memory (proportional \
         set size) of both recorders with their supervisors, for each stream. *Beside none* is what is more than without standbys, for each standby, link and heartbeats included; *beside the link* what is more than with \
         one standby alone, for each of the others. Median of {ROUNDS} rounds, and the least and the most in brackets; 1.00 is what recording one stream costs in the same round.\n\n\
         | standbys | CPU ms a stream-second | CPU beside none | CPU beside the link | MB a stream | MB beside none | MB beside the link |\n|---|---|---|---|---|---|---|\n",
        BITRATE / 1_000_000
    );
    let of = |standbys: Standbys, value: &dyn Fn(&Cost) -> f64| -> Vec<f64> {
        rounds.iter().map(|round| round.get(standbys as usize).map_or(0.0, value)).collect()
    };
    for standbys in Standbys::ALL {
        let more = |beside: Standbys, value: &dyn Fn(&Cost) -> f64, unit: &[f64]| -> String {
            if beside.count() >= standbys.count() {
                return "–".to_owned();
            }
            let count = (standbys.count() - beside.count()) as f64;
            let pairs = of(standbys, value).into_iter().zip(of(beside, value)).zip(unit);
            let [least, middle, most] =
                spread(pairs.map(|((one, other), unit)| (one - other) / count / unit).collect());
            format!("{middle:.2} ({least:.2} to {most:.2})")
        };
        let cpu = |cost: &Cost| cost.cpu_ms;
        let memory = |cost: &Cost| cost.memory_bytes / 1e6;
        let recording: Vec<f64> = of(Standbys::None, &cpu).into_iter().map(|cpu| cpu / streams).collect();
        let ones = vec![1.0; rounds.len()];
        let [_, cpu_each, _] = spread(of(standbys, &cpu));
        let [_, memory_each, _] = spread(of(standbys, &memory));
        let _infallible = writeln!(
            text,
            "| {} | {:.3} | {} | {} | {:.2} | {} | {} |",
            standbys.name(),
            cpu_each / streams,
            more(Standbys::None, &cpu, &recording),
            more(Standbys::Link, &cpu, &recording),
            memory_each / streams,
            more(Standbys::None, &memory, &ones),
            more(Standbys::Link, &memory, &ones),
        );
    }
    text
}
