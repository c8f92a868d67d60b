//! How much memory this process may use.

use std::fs;
use std::path::Path;

/// The least of the control groups' limits (cgroup v2 or v1) and the machine's memory, bytes.
pub(crate) fn memory_limit() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    limit(&groups, &machine, |path| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok())
}

/// The same of what `/proc/self/cgroup` and `/proc/meminfo` say; `read` reads below `/sys/fs/cgroup`.
fn limit(groups: &str, machine: &str, read: impl Fn(&str) -> Option<String>) -> u64 {
    let mut least = total(machine).unwrap_or(u64::MAX);
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (prefix, file) = match controllers {
            "" => ("", "memory.max"),
            some if some.split(',').any(|one| one == "memory") => ("memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // A limit of a group above holds as well. Inside a container the path may begin above what is mounted: then the root is ours.
        let mut below = path.trim_matches('/');
        loop {
            let place: Vec<&str> = [prefix, below, file].into_iter().filter(|part| !part.is_empty()).collect();
            if let Some(bytes) = read(&place.join("/")).and_then(|text| text.trim().parse::<u64>().ok()) {
                least = least.min(bytes);
            }
            if below.is_empty() {
                break;
            }
            below = below.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    least
}

/// `MemTotal` in bytes.
fn total(machine: &str) -> Option<u64> {
    let line = machine.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "MemTotal:       16000000 kB\nMemFree:        1 kB\n";

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let read = |path: &str| match path {
            "kubepods/pod1/memory.max" => Some("536870912\n".to_owned()),
            "kubepods/pod1/c1/memory.max" => Some("max\n".to_owned()),
            "memory.max" => None,
            _ => Some("1073741824\n".to_owned()),
        };
        assert_eq!(limit("0::/kubepods/pod1/c1\n", MACHINE, read), 536_870_912);
    }

    #[test]
    fn version_1_and_a_path_that_is_not_mounted() {
        let read = |path: &str| (path == "memory/memory.limit_in_bytes").then(|| "268435456".to_owned());
        assert_eq!(limit("8:pids:/x\n4:cpu,memory:/docker/abc\n", MACHINE, read), 268_435_456);
    }

    #[test]
    fn without_groups_the_machine_counts() {
        // cgroup v1 says "no limit" as a number near 2^63.
        let read = |_: &str| Some("9223372036854771712".to_owned());
        assert_eq!(limit("4:memory:/\n", MACHINE, read), 16_384_000_000);
        assert_eq!(limit("", MACHINE, |_| None), 16_384_000_000);
        assert_eq!(limit("garbage", "", |_| None), u64::MAX);
    }
}
