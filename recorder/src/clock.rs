//! The clocks of the machine, for the thin parts; whatever decides is given times as values.

use framekeeper_media::WallTime;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    u64::try_from(read_us(ClockId::Monotonic)).unwrap_or(0)
}

/// CLOCK_REALTIME.
pub(crate) fn wall() -> WallTime {
    WallTime(read_us(ClockId::Realtime))
}

fn read_us(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}
