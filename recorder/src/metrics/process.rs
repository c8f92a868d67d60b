//! What the system says of this process.

use std::fs;

/// Numbers of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessNumbers {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_fds: u64,
}

impl ProcessNumbers {
    /// Memory of this process, bytes; cheap enough to ask all the time. 0 where the system does not say.
    pub(crate) fn resident_bytes() -> u64 {
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident = pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
        resident.saturating_mul(rustix::param::page_size() as u64)
    }

    /// As they are now; 0 where the system does not say.
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: field("VmRSS") * 1024,
            threads: field("Threads"),
            // The folder's own descriptor is among them.
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_numbers() {
        let numbers = ProcessNumbers::now();
        assert!(numbers.resident_bytes > 100_000 && numbers.threads > 0 && numbers.open_fds >= 3, "{numbers:?}");
    }
}
