//! Time and chance, behind traits, so that a simulator can drive the ingest.

use std::time::{SystemTime, UNIX_EPOCH};

use framekeeper_media::WallTime;
use rustix::thread::{ClockId as SleepClock, Timespec, clock_nanosleep_absolute};

use crate::event::TickTime;

/// Where the tick gets its time from.
pub trait Clock: Send {
    /// Both clocks, read now.
    fn now(&self) -> TickTime;
    /// Blocks the calling thread until `monotonic_us`; returns at once if that is past.
    fn sleep_until(&self, monotonic_us: u64);
}

/// Where jitter comes from.
pub trait Random: Send {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TickTime {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let monotonic_us = u64::try_from(monotonic.tv_sec)
            .unwrap_or(0)
            .saturating_mul(1_000_000)
            .saturating_add(u64::try_from(monotonic.tv_nsec).unwrap_or(0) / 1000);
        let wall_us = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        };
        TickTime { monotonic_us, wall: WallTime(wall_us) }
    }

    fn sleep_until(&self, monotonic_us: u64) {
        let until = Timespec {
            tv_sec: i64::try_from(monotonic_us / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: (monotonic_us % 1_000_000 * 1000) as i64,
        };
        // A signal handler's thread may interrupt the sleep; the deadline is absolute, so it is simply slept again.
        while clock_nanosleep_absolute(SleepClock::Monotonic, &until) == Err(rustix::io::Errno::INTR) {}
    }
}

/// A small generator (SplitMix64), seeded by hand: jitter needs to be spread, not to be secret.
#[derive(Clone, Debug)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that differs between processes and starts.
    #[must_use]
    pub fn from_system() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }
}

impl Random for SeededRandom {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 53 bits, which an f64 holds exactly.
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_is_spread_and_repeatable() {
        let mut a = SeededRandom::new(1);
        let mut b = SeededRandom::new(1);
        let numbers: Vec<f64> = (0..10_000).map(|_| a.unit()).collect();
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
        assert!(numbers.iter().all(|x| *x == b.unit()));
    }

    #[test]
    fn the_clock_sleeps_to_an_absolute_moment() {
        let clock = SystemClock;
        let until = clock.now().monotonic_us + 20_000;
        clock.sleep_until(until);
        assert!(clock.now().monotonic_us >= until);
        clock.sleep_until(0);
    }
}
