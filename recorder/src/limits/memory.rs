//! How much memory this process may use, and how much of that nobody uses.

use std::fs;
use std::path::Path;

/// Of a limit, what is never said to be left: what recording takes more of while others use the rest. One part in so many.
const KEPT_PART: u64 = 20;

/// What control groups say, by their version.
struct Version {
    /// Where the memory controller's groups are, below `/sys/fs/cgroup`.
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Fields of `memory.stat`, of a group and those below it: what the kernel keeps of files.
    cached: [&'static str; 2],
    /// What of that it cannot or should not let go of at once: mapped, or on its way to a disk.
    needed: [&'static str; 3],
}

static VERSION_2: Version = Version {
    root: "",
    limit: "memory.max",
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
    needed: ["file_mapped", "file_dirty", "file_writeback"],
};

static VERSION_1: Version = Version {
    root: "memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
    needed: ["total_mapped_file", "total_dirty", "total_writeback"],
};

/// What this process uses, for where the control groups do not say what all of their processes do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnMemory {
    pub(crate) resident_bytes: u64,
    /// What frames may still take of their share.
    pub(crate) frames_to_come_bytes: u64,
}

/// The least of the control groups' limits (cgroup v2 or v1) and the machine's memory, bytes.
pub(crate) fn memory_limit() -> u64 {
    limit(&file("/proc/self/cgroup"), &file("/proc/meminfo"), read_group)
}

/// Bytes that the processes of this one's control groups may take more than they have, with recording's part taken off; `None` where no group has
/// a limit.
pub(crate) fn memory_left(own: OwnMemory) -> Option<u64> {
    left(&file("/proc/self/cgroup"), &file("/proc/meminfo"), read_group, own)
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn read_group(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()
}

/// The first of what `/proc/self/cgroup` and `/proc/meminfo` say; `read` reads below `/sys/fs/cgroup`.
fn limit(groups: &str, machine: &str, read: impl Fn(&str) -> Option<String>) -> u64 {
    let limits = folders(groups).into_iter().filter_map(|(version, folder)| number(&read, &folder, version.limit));
    limits.chain(total(machine)).min().unwrap_or(u64::MAX)
}

/// The second of the same.
fn left(groups: &str, machine: &str, read: impl Fn(&str) -> Option<String>, own: OwnMemory) -> Option<u64> {
    let machine_bytes = total(machine).unwrap_or(u64::MAX);
    let left = folders(groups).into_iter().filter_map(|(version, folder)| {
        // More than there is says that there is no limit; cgroup v1 has no other way to.
        let limit = number(&read, &folder, version.limit).filter(|limit| *limit < machine_bytes)?;
        let used = match number(&read, &folder, version.used) {
            Some(used) => {
                let stat = read(&inside(&folder, "memory.stat")).unwrap_or_default();
                let free = fields(&stat, &version.cached).saturating_sub(fields(&stat, &version.needed));
                used.saturating_sub(free)
            }
            None => own.resident_bytes.saturating_add(own.frames_to_come_bytes),
        };
        Some((limit - limit / KEPT_PART).saturating_sub(used))
    });
    left.min()
}

/// Folders of the groups that this process is in, and of those above them, whose limits hold as well.
fn folders(groups: &str) -> Vec<(&'static Version, String)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => &VERSION_2,
            some if some.split(',').any(|one| one == "memory") => &VERSION_1,
            _ => continue,
        };
        // Inside a container the path may begin above what is mounted: then the root is ours.
        let mut below = path.trim_matches('/');
        loop {
            found.push((version, inside(version.root, below)));
            if below.is_empty() {
                break;
            }
            below = below.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    found
}

/// A path of two parts, of which one may be empty.
fn inside(folder: &str, name: &str) -> String {
    let parts: Vec<&str> = [folder, name].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

/// What a group's file says, if that is a number.
fn number(read: &impl Fn(&str) -> Option<String>, folder: &str, name: &str) -> Option<u64> {
    read(&inside(folder, name))?.trim().parse().ok()
}

/// The sum of these fields of a `memory.stat`.
fn fields(stat: &str, names: &[&str]) -> u64 {
    let values = stat.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if names.contains(&name) { value.trim().parse::<u64>().ok() } else { None }
    });
    values.sum()
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
    const OWN: OwnMemory = OwnMemory { resident_bytes: 300, frames_to_come_bytes: 50 };

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

    #[test]
    fn what_is_kept_of_files_counts_as_left_unless_it_is_in_use() {
        let read = |path: &str| {
            let text = match path {
                "pod1/c1/memory.max" => "2000\n",
                "pod1/c1/memory.current" => "1500\n",
                "pod1/c1/memory.stat" => {
                    "file_mapped 100\nfile_dirty 50\nfile_writeback 50\ninactive_file 600\nactive_file 300\n"
                }
                _ => return None,
            };
            Some(text.to_owned())
        };
        // 2000 − 2000 / 20 − (1500 − (900 − 200)).
        assert_eq!(left("0::/pod1/c1\n", MACHINE, read, OWN), Some(1_100));
    }

    #[test]
    fn the_group_with_the_least_left_counts() {
        let read = |path: &str| {
            let text = match path {
                "memory/pod1/c1/memory.limit_in_bytes" => "1000",
                "memory/pod1/c1/memory.usage_in_bytes" => "100",
                "memory/pod1/memory.limit_in_bytes" => "2000",
                "memory/pod1/memory.usage_in_bytes" => "1800",
                "memory/pod1/memory.stat" => "inactive_file 1\ntotal_inactive_file 400\ntotal_dirty 100\n",
                "memory/memory.limit_in_bytes" => "9223372036854771712",
                "memory/memory.usage_in_bytes" => "123456",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(left("4:cpu,memory:/pod1/c1\n", MACHINE, read, OWN), Some(400));
    }

    #[test]
    fn where_a_group_does_not_say_what_is_used_the_process_and_the_frames_to_come_count() {
        let read = |path: &str| (path == "memory.max").then(|| "1000".to_owned());
        assert_eq!(left("0::/\n", MACHINE, read, OWN), Some(600));
        let more = OwnMemory { resident_bytes: 990, ..OWN };
        assert_eq!(left("0::/\n", MACHINE, read, more), Some(0));
    }

    #[test]
    fn without_a_limit_nothing_is_said_to_be_left() {
        let read = |path: &str| (path == "memory.max").then(|| "max\n".to_owned());
        assert_eq!(left("0::/\n", MACHINE, read, OWN), None);
        let read = |path: &str| path.ends_with("limit_in_bytes").then(|| "9223372036854771712".to_owned());
        assert_eq!(left("4:memory:/\n", MACHINE, read, OWN), None);
        assert_eq!(left("", MACHINE, |_| None, OWN), None);
    }
}
