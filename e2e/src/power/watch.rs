//! Watches a recorder: what it says of its streams, and whether the machine lets it work.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use framekeeper_e2e_power::monotonic_ns;
use framekeeper_e2e_power::verdict::Sample;
use serde_json::Value;

use crate::harness::get;

/// Between questions after durable times.
const DURABLE_EVERY: Duration = Duration::from_millis(20);
/// Between questions from when on streams are there.
const FROM_EVERY: Duration = Duration::from_millis(200);
/// Between looks at how long threads had to wait.
const DELAYS_EVERY: Duration = Duration::from_millis(20);
/// The recorder's threads between a camera and the disk.
const THREADS: [&str; 4] = ["ingest-tick", "store-writer", "store-sync", "iou-"];

/// What was seen.
pub(super) struct Watched {
    pub(super) durable: Vec<Sample>,
    pub(super) from: Vec<Sample>,
    pub(super) delays: Delays,
}

/// Watches for so long.
pub(super) fn watch(recorder: SocketAddr, worker: u32, names: &[String], time: Duration) -> Result<Watched> {
    let done = AtomicBool::new(false);
    let until_done = |every: Duration, look: &mut dyn FnMut() -> Result<()>| {
        while !done.load(Ordering::Relaxed) {
            look()?;
            std::thread::sleep(every);
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let durable = scope.spawn(|| {
            let mut samples = Vec::new();
            until_done(DURABLE_EVERY, &mut || {
                samples.push(asked(|| durable(recorder))?);
                Ok(())
            })?;
            anyhow::Ok(samples)
        });
        let from = scope.spawn(|| {
            let mut samples = Vec::new();
            until_done(FROM_EVERY, &mut || {
                let first = |name: &String| Ok((name.clone(), first(recorder, name)?));
                samples.push(asked(|| names.iter().map(first).collect())?);
                Ok(())
            })?;
            anyhow::Ok(samples)
        });
        let delays = scope.spawn(|| {
            let mut delays = Delays::default();
            until_done(DELAYS_EVERY, &mut || delays.look(worker))?;
            anyhow::Ok(delays)
        });
        std::thread::sleep(time);
        done.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        Ok(Watched {
            durable: durable.join().map_err(panicked)??,
            from: from.join().map_err(panicked)??,
            delays: delays.join().map_err(panicked)??,
        })
    })
}

/// For how long the recorder's threads could have worked and got no processor, all together (`schedstat`, proc(5)).
#[derive(Debug, Default)]
pub(super) struct Delays {
    /// When (monotonic), and how much by then; nanoseconds.
    seen: Vec<(u64, u64)>,
    threads: HashMap<String, u64>,
}

impl Delays {
    fn look(&mut self, process: u32) -> Result<()> {
        let mut all = self.seen.last().map_or(0, |&(_, all)| all);
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?.path();
            // Ended meanwhile.
            let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
            if !THREADS.iter().any(|ours| name.starts_with(ours)) {
                continue;
            }
            let Some(ns) = waited_ns(&thread) else { continue };
            let before = self.threads.insert(thread.to_string_lossy().into_owned(), ns).unwrap_or(ns);
            all += ns.saturating_sub(before);
        }
        self.seen.push((monotonic_ns(), all));
        Ok(())
    }

    /// Milliseconds between two moments (monotonic).
    pub(super) fn ms(&self, from_ns: u64, to_ns: u64) -> f64 {
        let before = self.seen.partition_point(|&(at, _)| at <= from_ns).saturating_sub(1);
        let behind = self.seen.partition_point(|&(at, _)| at < to_ns).min(self.seen.len().saturating_sub(1));
        let all = |at: usize| self.seen.get(at).map_or(0, |&(_, all)| all);
        all(behind).saturating_sub(all(before)) as f64 / 1e6
    }
}

/// How long a thread has waited for a processor so far; `None` when it is gone.
fn waited_ns(thread: &Path) -> Option<u64> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

/// How long all threads of these processes have waited for a processor so far, milliseconds.
pub(super) fn delayed_ms(processes: &[u32]) -> Result<f64> {
    let mut all_ns = 0;
    for process in processes {
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads {
            all_ns += waited_ns(&thread?.path()).unwrap_or(0);
        }
    }
    Ok(all_ns as f64 / 1e6)
}

fn asked(ask: impl FnOnce() -> Result<BTreeMap<String, i64>>) -> Result<Sample> {
    let asked_ns = monotonic_ns();
    let times_ms = ask()?;
    Ok(Sample { asked_ns, answered_ns: monotonic_ns(), times_ms })
}

fn ms_of(text: &str) -> Result<i64> {
    Ok(text.parse::<jiff::Timestamp>()?.as_millisecond())
}

/// How far streams are durable, by name.
pub(super) fn durable(recorder: SocketAddr) -> Result<BTreeMap<String, i64>> {
    let answer = get(recorder, "/v1/channels")?.json()?;
    let channels = answer.get("channels").and_then(Value::as_array).context("no channels")?;
    let mut times = BTreeMap::new();
    for channel in channels {
        let text = |key: &str| channel.get(key).and_then(Value::as_str);
        if let (Some(name), Some(time)) = (text("name"), text("durable")) {
            times.insert(name.to_owned(), ms_of(time)?);
        }
    }
    Ok(times)
}

fn first(recorder: SocketAddr, name: &str) -> Result<i64> {
    let answer = get(recorder, &format!("/v1/streams/default/{name}/coverage"))?.json()?;
    let from = answer.pointer("/runs/0/from").and_then(Value::as_str);
    ms_of(from.with_context(|| format!("no run of {name}: {answer}"))?)
}

/// From the metrics: segments sealed, and retired.
pub(super) fn numbers(recorder: SocketAddr) -> Result<(u64, u64)> {
    let text = get(recorder, "/metrics")?.text();
    let value = |name: &str| -> Result<u64> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no metric {name}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()? as u64)
    };
    Ok((value("framekeeper_volume_sealed_segments_total")?, value("framekeeper_volume_retired_segments_total")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_between_two_moments_and_never_less() {
        let delays =
            Delays { seen: vec![(10, 0), (20, 1_000_000), (30, 1_000_000), (40, 5_000_000)], ..Delays::default() };
        assert_eq!(delays.ms(20, 30), 0.0);
        assert_eq!(delays.ms(15, 25), 1.0);
        assert_eq!(delays.ms(0, 35), 5.0);
        assert_eq!(delays.ms(25, 99), 4.0);
    }
}
