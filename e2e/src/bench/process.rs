//! What processes cost, read from /proc: CPU time, memory, threads, bytes and calls written.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::harness::poll;

/// A process that is there is found within this time.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

/// A reading of one or several processes together, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// User and system time so far, seconds.
    pub cpu_s: f64,
    /// Proportional set size, bytes.
    pub memory_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes that were caused to be sent to the storage layer (proc(5), `write_bytes`).
    pub written_bytes: u64,
    /// System calls that write (proc(5), `syscw`), sockets included.
    pub write_calls: u64,
    /// Processes counted.
    pub processes: u64,
}

/// The processes `roots` and all their descendants.
#[must_use]
pub fn family(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat_fields(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// The supervisor of the recorder whose HTTP address this is, and its worker, which an operator has started.
///
/// # Errors
/// When one of them is not there.
pub fn supervisor_and_worker(operator: u32, http: SocketAddr) -> Result<(u32, u32)> {
    let address = http.to_string();
    let of_recorder = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == address)
    };
    // What /proc lists is no snapshot: while others begin and end, one look may miss a process that is there.
    let mut pids = Vec::new();
    let found = poll(LISTED_WITHIN, Duration::from_millis(20), || {
        pids = family(&[operator]).into_iter().filter(of_recorder).collect();
        Ok(if let [supervisor, worker] = pids[..] { Some((supervisor, worker)) } else { None })
    })?;
    found.with_context(|| format!("expected a supervisor and a worker of the recorder at {address}, found {pids:?}"))
}

/// Reads all `pids`; those that are gone count nothing.
#[must_use]
pub fn read(pids: &[u32]) -> Reading {
    let mut sum = Reading::default();
    for &pid in pids {
        let Some(fields) = stat_fields(pid) else { continue };
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // proc(5): fields 14 and 15 are utime and stime, 20 the threads; `fields` begins with field 3. USER_HZ is 100 on Linux.
        sum.cpu_s += (number(11) + number(12)) as f64 / 100.0;
        sum.threads += number(17);
        sum.memory_bytes += labelled(pid, "smaps_rollup", "Pss:") * 1024;
        sum.written_bytes += labelled(pid, "io", "write_bytes:");
        sum.write_calls += labelled(pid, "io", "syscw:");
        sum.processes += 1;
    }
    sum
}

/// Resident memory of a process in bytes: the most that it ever was, and what it is now.
#[must_use]
pub fn resident(pid: u32) -> (u64, u64) {
    (labelled(pid, "status", "VmHWM:") * 1024, labelled(pid, "status", "VmRSS:") * 1024)
}

/// CPU time in seconds so far of the threads that live, by their names: those that differ in a number at the end are one kind.
#[must_use]
pub fn threads(pids: &[u32]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).ok();
            // Nanoseconds on a processor come first.
            let on_cpu = read("schedstat").and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
            if let (Some(name), Some(ns)) = (read("comm"), on_cpu) {
                *found.entry(kind_of_thread(name.trim())).or_default() += ns / 1e9;
            }
        }
    }
    found
}

fn kind_of_thread(name: &str) -> String {
    if name.starts_with("iou-") {
        return "io_uring's own".to_owned();
    }
    name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-').to_owned()
}

/// The fields of /proc/PID/stat behind the command's name, so that the first is field 3 of proc(5).
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn labelled(pid: u32, file: &str, label: &str) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_kind_are_one() {
        for (name, kind) in [
            ("store-writer-0", "store-writer"),
            ("store-writer-12", "store-writer"),
            ("http", "http"),
            ("iou-wrk-8123", "io_uring's own"),
        ] {
            assert_eq!(kind_of_thread(name), kind);
        }
    }

    #[test]
    fn this_process_has_a_thread_that_has_run() {
        let run: f64 = threads(&[std::process::id()]).values().sum();
        assert!(run > 0.0, "{run}");
    }
}
