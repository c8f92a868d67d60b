//! What stands between recording and everybody who wants to see: shared by the HTTP server and the worker's look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::pressure::Pressure;

/// Limits, and what was refused because of them.
#[derive(Debug)]
pub(crate) struct Guard {
    memory_limit_bytes: u64,
    descriptors: u64,
    /// HTTP connections that may be open at once.
    pub(crate) connections_at_most: usize,
    pressure: Mutex<Pressure>,
    short: AtomicBool,
    open_connections: AtomicU64,
    refused_connections: AtomicU64,
    refused_requests: AtomicU64,
}

/// The numbers of a [`Guard`], copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LimitNumbers {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) open_connections: u64,
    pub(crate) refused_connections: u64,
    pub(crate) refused_requests: u64,
}

impl Guard {
    /// Nothing is short, nothing was refused.
    pub(crate) fn new(memory_limit_bytes: u64, descriptors: u64, connections_at_most: usize) -> Self {
        Self {
            memory_limit_bytes,
            descriptors,
            connections_at_most,
            pressure: Mutex::new(Pressure::new(memory_limit_bytes)),
            short: AtomicBool::new(false),
            open_connections: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
            refused_requests: AtomicU64::new(0),
        }
    }

    /// The process uses so many bytes now.
    pub(crate) fn look(&self, resident_bytes: u64) {
        let short = self.pressure.lock().unwrap_or_else(PoisonError::into_inner).look(resident_bytes);
        if self.short.swap(short, Ordering::Relaxed) != short {
            if short {
                tracing::warn!(
                    resident_bytes,
                    limit_bytes = self.memory_limit_bytes,
                    "memory runs short: playback is refused until there is more; recording goes on. Give the recorder more memory, or fewer channels"
                );
            } else {
                tracing::info!(resident_bytes, limit_bytes = self.memory_limit_bytes, "playback is served again");
            }
        }
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
            memory_limit_bytes: self.memory_limit_bytes,
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
        assert_eq!(guard.numbers().refused_requests, 2);
    }
}
