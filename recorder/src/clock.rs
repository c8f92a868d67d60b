//! The clocks of the machine, for the thin parts; whatever decides is given times as values.

use std::time::{SystemTime, UNIX_EPOCH};

use framekeeper_media::WallTime;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)).unwrap_or(0)
}

/// CLOCK_REALTIME; asked as ingest and store ask, so that all of them see one clock, also a pretended one.
pub(crate) fn wall() -> WallTime {
    WallTime(match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    })
}
