//! How far what is durable stays behind the camera.

use serde::Serialize;

use crate::ledger::Ledger;

/// What a recorder said was durable at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Poll {
    /// When it was asked, nanoseconds since 1970.
    pub at_ns: i64,
    /// Wall time of the newest durable picture, nanoseconds since 1970; `None`: nothing yet.
    pub durable_ns: Option<i64>,
}

/// The largest lag over a series of polls, and when it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// How long before the camera's newest picture the newest durable one was emitted, milliseconds.
    pub largest_ms: f64,
    /// The poll at which it was.
    pub at_ns: i64,
    /// Polls that counted.
    pub polls: usize,
}

/// How far the newest durable picture was behind the newest one in the camera's log, at worst. Polls before the first one
/// with something durable do not count. `None`: none counted.
pub fn largest_lag(polls: &[Poll], ledger: &Ledger) -> Option<Lag> {
    let mut largest: Option<Lag> = None;
    let began = polls.iter().position(|poll| poll.durable_ns.is_some())?;
    let mut count = 0;
    for poll in polls.iter().skip(began) {
        let Some(newest) = ledger.newest_video(poll.at_ns) else { continue };
        count += 1;
        let durable = poll.durable_ns.unwrap_or(i64::MIN / 2);
        let lag_ms = (newest.wall_ns.saturating_sub(durable)).max(0) as f64 / 1e6;
        if largest.is_none_or(|known| lag_ms > known.largest_ms) {
            largest = Some(Lag { largest_ms: lag_ms, at_ns: poll.at_ns, polls: 0 });
        }
    }
    largest.map(|lag| Lag { polls: count, ..lag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Emitted;

    #[test]
    fn the_worst_poll_counts() {
        let frame = |number: u64| Emitted {
            number,
            media_time: 0,
            wall_ns: number as i64 * 40_000_000,
            hash: 0,
            bytes: 0,
            key: false,
        };
        let ledger = Ledger { video: (0..100).map(frame).collect(), ..Ledger::default() };
        let poll = |at_ms: i64, durable_ms: Option<i64>| Poll {
            at_ns: at_ms * 1_000_000,
            durable_ns: durable_ms.map(|ms| ms * 1_000_000),
        };
        assert_eq!(largest_lag(&[poll(900, None)], &ledger), None);
        let polls = [poll(100, None), poll(1_000, Some(800)), poll(2_010, Some(800)), poll(2_500, Some(2_480))];
        let lag = largest_lag(&polls, &ledger).unwrap();
        assert_eq!((lag.largest_ms, lag.polls), (1_200.0, 3));
    }
}
