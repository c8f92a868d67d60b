//! How soon a worker that died is started again.

use std::time::Duration;

/// A worker that lived this long did some work: its death is treated as the first.
const LIVED: Duration = Duration::from_secs(1);
/// The delay behind the second death in a row; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay. A recorder must be recording again within 5 s, whatever killed it.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Restarts so far.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    count: u64,
    quick: u32,
}

impl Restarts {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A worker died after `lifetime`: how long to wait before the next is started.
    pub(super) fn next(&mut self, lifetime: Duration) -> Duration {
        self.count = self.count.saturating_add(1);
        self.quick = if lifetime < LIVED { self.quick.saturating_add(1) } else { 0 };
        match self.quick {
            0 | 1 => Duration::ZERO,
            quick => FIRST_DELAY.saturating_mul(1 << (quick - 2).min(10)).min(MAX_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_first_then_slower_then_bounded() {
        let mut restarts = Restarts::default();
        let delays: Vec<u128> = (0..10).map(|_| restarts.next(Duration::from_millis(20)).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(restarts.count(), 10);
    }

    #[test]
    fn one_that_worked_for_a_while_is_restarted_at_once() {
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.next(Duration::ZERO);
        }
        assert_eq!(restarts.next(Duration::from_secs(2)), Duration::ZERO);
        assert_eq!(restarts.next(Duration::ZERO), Duration::ZERO);
        assert_eq!(restarts.next(Duration::ZERO), Duration::from_millis(100));
    }
}
