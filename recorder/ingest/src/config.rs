//! How the ingest behaves as a whole.

use std::time::Duration;

use crate::backoff::BackoffLimits;
use crate::bucket::StartRate;
use crate::clock::{Clock, Random, SeededRandom, SystemClock};
use crate::silence::SilenceLimits;

/// Settings of one [`crate::Ingest`].
pub struct IngestConfig {
    /// How often all sockets are read. Default 100 ms; 20 ms to 1 s makes sense.
    pub tick: Duration,
    /// When a session counts as silent.
    pub silence: SilenceLimits,
    /// From the start of an attempt to the answer to PLAY. Default 10 s.
    pub handshake_limit: Duration,
    /// How long attempts wait after trouble.
    pub backoff: BackoffLimits,
    /// How many sessions may begin.
    pub start_rate: StartRate,
    /// How long a shutdown waits for cameras to answer TEARDOWN. Default 2 s.
    pub teardown_limit: Duration,
    /// Sent in every RTSP request.
    pub user_agent: String,
    /// The clocks.
    pub clock: Box<dyn Clock>,
    /// Jitter.
    pub random: Box<dyn Random>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            silence: SilenceLimits::default(),
            handshake_limit: Duration::from_secs(10),
            backoff: BackoffLimits::default(),
            start_rate: StartRate::default(),
            teardown_limit: Duration::from_secs(2),
            user_agent: concat!("framekeeper/", env!("CARGO_PKG_VERSION")).to_owned(),
            clock: Box::new(SystemClock),
            random: Box::new(SeededRandom::from_system()),
        }
    }
}

impl std::fmt::Debug for IngestConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IngestConfig")
            .field("tick", &self.tick)
            .field("silence", &self.silence)
            .field("handshake_limit", &self.handshake_limit)
            .field("backoff", &self.backoff)
            .field("start_rate", &self.start_rate)
            .field("teardown_limit", &self.teardown_limit)
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}
