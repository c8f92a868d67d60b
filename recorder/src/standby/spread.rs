//! How long things took, counted in buckets.

use std::time::Duration;

/// Upper bounds of the buckets, microseconds.
const BOUNDS_US: [u64; 8] = [250_000, 500_000, 1_000_000, 1_500_000, 2_000_000, 3_000_000, 5_000_000, 10_000_000];

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    count: u64,
    sum_us: u64,
    buckets: [u64; BOUNDS_US.len()],
}

impl Spread {
    pub(super) fn add(&mut self, us: u64) {
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        if let Some((_, bucket)) = BOUNDS_US.iter().zip(&mut self.buckets).find(|(bound, _)| us <= **bound) {
            *bucket += 1;
        }
    }

    /// How many there were, and all together.
    pub(crate) fn total(&self) -> (u64, Duration) {
        (self.count, Duration::from_micros(self.sum_us))
    }

    /// How many took up to so many seconds, and longer than the bound before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let longer = self.count - self.buckets.iter().sum::<u64>();
        let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().copied().chain([longer])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_one_bucket() {
        let mut spread = Spread::default();
        [0, 250_000, 250_001, 4_000_000, 60_000_000].into_iter().for_each(|us| spread.add(us));
        assert_eq!(spread.total(), (5, Duration::from_micros(64_500_001)));
        let counts: Vec<u64> = spread.buckets().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(spread.buckets().first().map(|(bound, _)| *bound), Some(0.25));
    }
}
