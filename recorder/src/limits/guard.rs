//! What stands between recording and everybody who wants to see: shared by the HTTP server and the worker's look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::pressure::Pressure;
use super::shares::{Rating, Shares};

/// Limits, and what was refused because of them.
#[derive(Debug)]
pub(crate) struct Guard {
    memory_limit_bytes: AtomicU64,
    /// What each part may use.
    pub(crate) shares: Shares,
    descriptors: u64,
    /// HTTP connections that may be open at once.
    pub(crate) connections_at_most: usize,
    pressure: Mutex<Pressure>,
    rating: Mutex<Rating>,
    needed_bytes: AtomicU64,
    short: AtomicBool,
    open_connections: AtomicU64,
    refused_connections: AtomicU64,
    refused_requests: AtomicU64,
}

/// The recorder is to record more than its memory is rated for, as of when that was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryShort {
    pub(crate) channels: usize,
    pub(crate) needed_bytes: u64,
    pub(crate) limit_bytes: u64,
}

impl std::fmt::Display for MemoryShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { channels, needed_bytes, limit_bytes } = self;
        write!(
            f,
            "{channels} channels need {} MiB of memory, there are {}: all of them are recorded, but playback is refused sooner, and GOPs may have to \
             leave memory; give the recorder more memory, or fewer channels (docs/limits.md)",
            needed_bytes.div_ceil(1 << 20),
            limit_bytes >> 20
        )
    }
}

/// The numbers of a [`Guard`], copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LimitNumbers {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_needed_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) open_connections: u64,
    pub(crate) refused_connections: u64,
    pub(crate) refused_requests: u64,
}

impl Guard {
    /// Nothing is short, nothing was refused.
    pub(crate) fn new(memory_limit_bytes: u64, descriptors: u64, connections_at_most: usize) -> Self {
        Self {
            memory_limit_bytes: AtomicU64::new(memory_limit_bytes),
            shares: Shares::of(memory_limit_bytes),
            descriptors,
            connections_at_most,
            pressure: Mutex::default(),
            rating: Mutex::default(),
            needed_bytes: AtomicU64::new(0),
            short: AtomicBool::new(false),
            open_connections: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
            refused_requests: AtomicU64::new(0),
        }
    }

    /// There is another limit now. The shares stay as they are until the process is started again.
    pub(crate) fn set_memory_limit(&self, limit_bytes: u64) {
        let before = self.memory_limit_bytes.swap(limit_bytes, Ordering::Relaxed);
        if before != limit_bytes {
            tracing::info!(
                before,
                limit_bytes,
                "the memory limit has changed; how it is shared out changes when the recorder is started again"
            );
        }
    }

    fn memory_limit(&self) -> u64 {
        self.memory_limit_bytes.load(Ordering::Relaxed)
    }

    /// The process uses so many bytes now.
    pub(crate) fn look(&self, resident_bytes: u64) {
        let limit_bytes = self.memory_limit();
        let short = self.pressure.lock().unwrap_or_else(PoisonError::into_inner).look(resident_bytes, limit_bytes);
        if self.short.swap(short, Ordering::Relaxed) != short {
            if short {
                tracing::warn!(
                    resident_bytes,
                    limit_bytes,
                    "memory runs short: playback is refused until there is more; recording goes on. Give the recorder more memory, or fewer channels"
                );
            } else {
                tracing::info!(resident_bytes, limit_bytes, "playback is served again");
            }
        }
    }

    /// The channels need so many bytes now. Says what is wrong where that is more than there are.
    pub(crate) fn rate(&self, needed_bytes: u64, channels: usize) -> Option<MemoryShort> {
        self.needed_bytes.store(needed_bytes, Ordering::Relaxed);
        let limit_bytes = self.memory_limit();
        let short = self.rating.lock().unwrap_or_else(PoisonError::into_inner).look(needed_bytes, limit_bytes);
        short.then_some(MemoryShort { channels, needed_bytes, limit_bytes })
    }

    /// Whether a request for footage may be served; counts those that may not.
    pub(crate) fn may_play(&self) -> bool {
        let short = self.short.load(Ordering::Relaxed);
        if short {
            self.refused_requests.fetch_add(1, Ordering::Relaxed);
        }
        !short
    }

    /// A connection was opened.
    pub(crate) fn connected(&self) {
        self.open_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was [`Self::connected`] ended.
    pub(crate) fn disconnected(&self) {
        self.open_connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was refused, because as many as may be are open.
    pub(crate) fn refused(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// For metrics.
    pub(crate) fn numbers(&self) -> LimitNumbers {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        LimitNumbers {
            memory_limit_bytes: self.memory_limit(),
            memory_needed_bytes: load(&self.needed_bytes),
            descriptors: self.descriptors,
            open_connections: load(&self.open_connections),
            refused_connections: load(&self.refused_connections),
            refused_requests: load(&self.refused_requests),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn playback_waits_while_memory_is_short() {
        let guard = Guard::new(1_000, 1_024, 8);
        guard.look(500);
        assert!(guard.may_play());
        guard.look(800);
        assert!(!guard.may_play() && !guard.may_play());
        guard.look(100);
        assert!(guard.may_play());
        guard.set_memory_limit(140);
        guard.look(100);
        assert_eq!(guard.shares, Shares::of(1_000), "what is shared out stays");
        assert!(!guard.may_play());
        guard.set_memory_limit(1_000);
        guard.look(100);
        assert!(guard.may_play());
        assert_eq!(guard.numbers().refused_requests, 3);
    }

    #[test]
    fn more_than_memory_is_rated_for_is_said() {
        let guard = Guard::new(1_000, 1_024, 8);
        assert_eq!(guard.rate(900, 3), None);
        assert_eq!(guard.rate(1_100, 4), Some(MemoryShort { channels: 4, needed_bytes: 1_100, limit_bytes: 1_000 }));
        assert_eq!(guard.numbers().memory_needed_bytes, 1_100);
    }
}
