//! What the machine gives this process, and how it is shared out: recording comes first, playback gets what is left.

mod decoders;
mod guard;
mod memory;
mod pressure;
mod shares;

pub(crate) use decoders::{RAISE, decoder_bytes};
pub(crate) use guard::{Guard, LimitNumbers, MemoryShort};
pub(crate) use memory::{OwnMemory, memory_left, memory_limit};
pub(crate) use shares::{ChannelLoad, Shares, needed_bytes};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the process needs however little it does: logs, sockets of its own, folders, decoders' pipes, epoll.
const DESCRIPTORS_AT_LEAST: u64 = 64;
/// Segment files that readers keep open (`framekeeper_store`), for playback.
const READERS_FILES: u64 = 256;
/// A camera's socket and its segment file, and both again while a session or a segment follows another.
const DESCRIPTORS_A_CHANNEL: u64 = 4;
/// More connections at once than this serve nobody better.
const CONNECTIONS_AT_MOST: u64 = 1_024;
/// So many must be possible, else nobody could even ask how the recorder does.
const CONNECTIONS_AT_LEAST: u64 = 8;

/// Raises this process's limit of open files as far as it may, and returns it.
///
/// # Errors
/// When the system refuses; the limit stays what it was.
pub(crate) fn raise_descriptors() -> std::io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Connections beyond those, on which probes are answered and nothing else: a recorder that records must not be taken for one that hangs.
pub(crate) const SPARE_CONNECTIONS: usize = 16;

/// HTTP connections that may be open at once, so that with `channels` recording a tenth of all descriptors stays free, and as many as memory allows.
pub(crate) fn connections(descriptors: u64, channels: usize, memory: Shares) -> usize {
    let kept =
        descriptors / 10 + DESCRIPTORS_AT_LEAST + SPARE_CONNECTIONS as u64 + channels as u64 * DESCRIPTORS_A_CHANNEL;
    let left = descriptors.saturating_sub(kept);
    // Few descriptors: the readers' files are opened in turn, and share what there is with connections.
    let free = left.saturating_sub(READERS_FILES.min(left / 2)).min(memory.connections);
    usize::try_from(free.clamp(CONNECTIONS_AT_LEAST, CONNECTIONS_AT_MOST)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_gets_its_descriptors_first() {
        let memory = Shares::of(4 << 30);
        assert_eq!(connections(1_048_576, 500, memory), 1_024);
        assert_eq!(connections(4_096, 500, memory), 1_024);
        // 1024 − 102 − 64 − 16 − 400 = 442, half of it for readers' files.
        assert_eq!(connections(1_024, 100, memory), 221);
        assert_eq!(connections(256, 100, memory), 8);
        assert_eq!(connections(0, 0, memory), 8);
        // A twentieth of the memory, 64 KiB each.
        assert_eq!(connections(4_096, 500, Shares::of(256 << 20)), 204);
    }

    #[test]
    fn the_limit_can_be_raised() {
        let raised = raise_descriptors().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), raised);
    }
}
