//! How fast a stream fills files, from its counter.

use std::collections::VecDeque;

/// Samples are not nearer to each other.
const APART_US: u64 = 1_000_000;
/// What is older says little about what comes.
const WINDOW_US: u64 = 60_000_000;
/// From two samples that are nearer nothing is concluded.
const SHORTEST_US: u64 = 2_000_000;
/// The last seconds: a camera whose rate rose is not to be met with the average of before.
const LATELY_US: u64 = 5_000_000;

/// Bytes a second, over the last minute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    /// Monotonic time, and the counter then; oldest first.
    samples: VecDeque<(u64, u64)>,
}

impl Rate {
    /// The counter stands at `bytes`, at `now_us`.
    pub(crate) fn add(&mut self, now_us: u64, bytes: u64) {
        match self.samples.back() {
            Some((last, _)) if now_us.saturating_sub(*last) < APART_US => return,
            // Counted anew: what was before cannot be compared.
            Some((_, before)) if *before > bytes => self.samples.clear(),
            _ => {}
        }
        self.samples.push_back((now_us, bytes));
        while self.samples.get(1).is_some_and(|(us, _)| now_us.saturating_sub(*us) >= WINDOW_US) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second over the whole window; `None` before there is something to compare.
    pub(crate) fn per_second(&self) -> Option<f64> {
        self.since(0)
    }

    /// The higher of that and the last seconds'.
    pub(crate) fn peak(&self) -> Option<f64> {
        let (newest, _) = self.samples.back()?;
        let lately = self.since(newest.saturating_sub(LATELY_US));
        self.per_second().into_iter().chain(lately).reduce(f64::max)
    }

    fn since(&self, us: u64) -> Option<f64> {
        let (from_us, from) = self.samples.iter().find(|(at, _)| *at >= us)?;
        let (to_us, to) = self.samples.back()?;
        let span_us = to_us.saturating_sub(*from_us);
        (span_us >= SHORTEST_US).then(|| (to - from) as f64 / (span_us as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_rate_needs_two_seconds_and_forgets_what_is_older_than_a_minute() {
        let mut rate = Rate::default();
        rate.add(5 * SECOND, 1_000);
        rate.add(6 * SECOND, 2_000);
        assert_eq!((rate.per_second(), rate.peak()), (None, None));
        rate.add(7 * SECOND, 5_000);
        assert_eq!(rate.per_second(), Some(2_000.0));
        for second in 8..200 {
            rate.add(second * SECOND, 5_000 + (second - 7) * 100);
        }
        assert_eq!((rate.per_second(), rate.samples.len()), (Some(100.0), 61));
    }

    #[test]
    fn a_rise_counts_at_once_and_a_fall_later() {
        let mut rate = Rate::default();
        for second in 0..60 {
            rate.add(second * SECOND, second * 100);
        }
        for second in 60..65 {
            rate.add(second * SECOND, 5_900 + (second - 59) * 1_000);
        }
        assert_eq!(rate.peak(), Some(1_000.0));
        assert!(rate.per_second().unwrap() < 200.0);
        for second in 65..75 {
            rate.add(second * SECOND, 10_900);
        }
        assert!(rate.peak().unwrap() > 50.0);
    }

    #[test]
    fn a_counter_that_begins_again_is_no_rate() {
        let mut rate = Rate::default();
        rate.add(0, 1_000_000);
        rate.add(3 * SECOND, 2_000_000);
        rate.add(4 * SECOND, 10);
        assert_eq!(rate.per_second(), None);
        rate.add(6 * SECOND, 2_010);
        assert_eq!(rate.per_second(), Some(1_000.0));
    }
}
