//! How long to wait before the next attempt at a source. Pure: the random number comes in as a value.

use std::time::Duration;

use crate::event::SessionEndKind;

/// One rule of growing delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Upper end of the first delay.
    pub first: Duration,
    /// Upper end of every later delay: doubled each time, but never above this.
    pub max: Duration,
    /// The least delay as a fraction of the upper end, 0 to 1. 0 is "full jitter", which spreads a thousand cameras best.
    pub least: f64,
}

/// The delays for the different classes of trouble.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffLimits {
    /// Everything that may pass by itself. Default 0.5 s doubling to 5 s, full jitter.
    pub usual: Curve,
    /// Refused credentials. Cameras lock an account after a handful of wrong passwords in a minute, so this begins at 5 s and grows
    /// to a minute: 5–6, 10–12, 20–24, 40–48, 50–60 s.
    pub refused: Curve,
    /// No codec that can be recorded: only somebody's hand on the camera's settings changes that. Default 30–60 s.
    pub unsupported: Curve,
}

impl Default for BackoffLimits {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            usual: Curve { first: Duration::from_millis(500), max: Duration::from_secs(5), least: 0.0 },
            refused: Curve { first: Duration::from_secs(6), max: minute, least: 5.0 / 6.0 },
            unsupported: Curve { first: minute, max: minute, least: 0.5 },
        }
    }
}

/// A session that played for this long was a good one: after it, delays start anew.
pub const GOOD_SESSION: Duration = Duration::from_secs(10);

/// How often in a row a source failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    last: Option<SessionEndKind>,
}

impl Backoff {
    /// Forgets all failures: something changed that makes success likely.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The delay before the next attempt after a session that ended with `kind` and had played for `played` (zero: never). `random`
    /// is uniform in 0..1.
    pub fn after(&mut self, limits: &BackoffLimits, kind: SessionEndKind, played: Duration, random: f64) -> Duration {
        let good = played >= GOOD_SESSION;
        if good
            || self.last != Some(kind) && curve(limits, kind) != self.last.map_or(limits.usual, |k| curve(limits, k))
        {
            // A new class of trouble begins its own curve: a long wait earned by a wrong password is not owed for a lost link.
            self.failures = 0;
        }
        self.last = Some(kind);
        if good && kind == SessionEndKind::Malformed {
            // The camera is there and sends; one bad packet in a good session costs no waiting.
            return Duration::ZERO;
        }
        let Curve { first, max, least } = curve(limits, kind);
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let upper = first.saturating_mul(1 << doublings).min(max);
        upper.mul_f64((least + (1.0 - least) * random).clamp(0.0, 1.0))
    }
}

fn curve(limits: &BackoffLimits, kind: SessionEndKind) -> Curve {
    match kind {
        SessionEndKind::Unauthorized => limits.refused,
        SessionEndKind::Unsupported => limits.unsupported,
        _ => limits.usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::ZERO;

    fn delays(kind: SessionEndKind, random: f64, n: usize) -> Vec<u64> {
        let mut b = Backoff::default();
        (0..n).map(|_| b.after(&BackoffLimits::default(), kind, NEVER, random).as_millis() as u64).collect()
    }

    #[test]
    fn usual_delays_double_from_half_a_second_to_five() {
        assert_eq!(delays(SessionEndKind::Unreachable, 1.0, 6), [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(delays(SessionEndKind::Unreachable, 0.0, 3), [0, 0, 0]);
    }

    #[test]
    fn a_refused_password_is_never_tried_again_within_five_seconds() {
        assert_eq!(delays(SessionEndKind::Unauthorized, 0.0, 6), [5000, 10_000, 20_000, 40_000, 50_000, 50_000]);
        assert_eq!(delays(SessionEndKind::Unauthorized, 1.0, 6), [6000, 12_000, 24_000, 48_000, 60_000, 60_000]);
    }

    #[test]
    fn a_good_session_starts_the_curve_anew() {
        let l = BackoffLimits::default();
        let mut b = Backoff::default();
        for _ in 0..5 {
            b.after(&l, SessionEndKind::Unreachable, NEVER, 1.0);
        }
        let d = b.after(&l, SessionEndKind::ClosedByCamera, Duration::from_secs(10), 1.0);
        assert_eq!(d.as_millis(), 500);
        let d = b.after(&l, SessionEndKind::ClosedByCamera, Duration::from_secs(9), 1.0);
        assert_eq!(d.as_millis(), 1000);
    }

    #[test]
    fn a_bad_packet_in_a_good_session_costs_no_waiting_but_two_in_a_row_do() {
        let l = BackoffLimits::default();
        let mut b = Backoff::default();
        assert_eq!(b.after(&l, SessionEndKind::Malformed, Duration::from_secs(11), 1.0), Duration::ZERO);
        assert_eq!(b.after(&l, SessionEndKind::Malformed, Duration::from_secs(1), 1.0).as_millis(), 500);
        assert_eq!(b.after(&l, SessionEndKind::Malformed, Duration::from_secs(1), 1.0).as_millis(), 1000);
    }

    #[test]
    fn another_class_of_trouble_begins_its_own_curve() {
        let l = BackoffLimits::default();
        let mut b = Backoff::default();
        for _ in 0..4 {
            b.after(&l, SessionEndKind::Unauthorized, NEVER, 1.0);
        }
        assert_eq!(b.after(&l, SessionEndKind::Unreachable, NEVER, 1.0).as_millis(), 500);
        assert_eq!(b.after(&l, SessionEndKind::NotFound, NEVER, 1.0).as_millis(), 1000, "same curve: goes on");
        assert_eq!(b.after(&l, SessionEndKind::Unauthorized, NEVER, 0.0).as_millis(), 5000);
    }
}
