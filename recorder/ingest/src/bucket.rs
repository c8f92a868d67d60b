//! A token bucket: how many sessions may begin now, so that a rack of cameras that comes back at once is not met by a thousand
//! handshakes in one tick. Pure: time comes in as a value.

/// The rate of session starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRate {
    /// Starts a second in the long run; 500 cameras are up in 10 s with 50.
    pub per_second: u32,
    /// Starts at once after a quiet time.
    pub burst: u32,
}

impl Default for StartRate {
    fn default() -> Self {
        Self { per_second: 50, burst: 20 }
    }
}

/// The bucket. Counts in millionths of a start, so that no fraction is lost between ticks.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: StartRate,
    micro_tokens: u64,
    filled_at_us: u64,
}

const MICRO: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket at `now_us` (monotonic microseconds). A rate or burst of 0 counts as 1: a bucket that never gives is a bug.
    #[must_use]
    pub fn new(rate: StartRate, now_us: u64) -> Self {
        let rate = StartRate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, micro_tokens: u64::from(rate.burst) * MICRO, filled_at_us: now_us }
    }

    /// Takes one start if there is one at `now_us`.
    pub fn take(&mut self, now_us: u64) -> bool {
        let elapsed_us = now_us.saturating_sub(self.filled_at_us);
        self.filled_at_us = self.filled_at_us.max(now_us);
        let gained = elapsed_us.saturating_mul(u64::from(self.rate.per_second));
        self.micro_tokens = self.micro_tokens.saturating_add(gained).min(u64::from(self.rate.burst) * MICRO);
        match self.micro_tokens.checked_sub(MICRO) {
            Some(rest) => {
                self.micro_tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut TokenBucket, now_us: u64) -> usize {
        std::iter::repeat_with(|| bucket.take(now_us)).take_while(|taken| *taken).count()
    }

    #[test]
    fn gives_the_burst_then_the_rate() {
        let mut b = TokenBucket::new(StartRate { per_second: 50, burst: 20 }, 7_000_000);
        assert_eq!(taken(&mut b, 7_000_000), 20);
        assert_eq!(taken(&mut b, 7_100_000), 5);
        assert_eq!(taken(&mut b, 7_110_000), 0);
        assert_eq!(taken(&mut b, 7_120_000), 1, "fractions add up");
        assert_eq!(taken(&mut b, 60_000_000), 20, "never more than the burst");
    }

    #[test]
    fn five_hundred_sources_start_within_ten_seconds() {
        let mut b = TokenBucket::new(StartRate::default(), 0);
        let started: usize = (0..=96).map(|tick| taken(&mut b, tick * 100_000)).sum();
        assert_eq!(started, 500);
    }

    #[test]
    fn time_that_steps_back_gives_nothing_and_breaks_nothing() {
        let mut b = TokenBucket::new(StartRate { per_second: 10, burst: 1 }, 1_000_000);
        assert!(b.take(1_000_000));
        assert!(!b.take(0));
        assert!(!b.take(1_050_000));
        assert!(b.take(1_100_000));
    }

    #[test]
    fn zero_is_one() {
        let mut b = TokenBucket::new(StartRate { per_second: 0, burst: 0 }, 0);
        assert!(b.take(0));
        assert!(b.take(1_000_000));
    }
}
