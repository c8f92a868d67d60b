//! Clocks of other recorders: when they say that something was, on the clock that decisions go by here; and how far their time of day is from ours.
//!
//! Decisions go by this recorder's monotonic clock alone, so that no clock that is set, here or there, moves what they compare. A heartbeat says
//! the sender's time of day as it was sent, and times of pictures by the same clock: only how long it was on its way has to be known. That is at least
//! nothing, and at most what is left of the way there and back when the other side's share is taken off, as in NTP (RFC 5905 §8): each heartbeat
//! echoes the newest one that came from the other side, and for how long that has been there.
//!
//! ```text
//!  here   sent ──────────────────────────── heard      round = (heard − sent) − held, by the monotonic clock here
//!             ╲                            ╱
//!  there       came ─────── held ─── sent              at `heard` it is there between `sent` and `sent + round`
//! ```

use std::collections::VecDeque;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::heartbeat::{Echo, Heartbeat};
use crate::report::{Footage, Report};

/// Heartbeats whose sending is remembered: several seconds of them, also where each decision is told at once.
const SENT: usize = 64;
/// Round trips among which the shortest is looked for: two seconds of them, as many as NTP's clock filter has (RFC 5905 §10).
const ROUNDS: usize = 8;
/// What is older tells nothing of the time of day there any more, microseconds.
const ROUND_AT_MOST_OLD: u64 = 60_000_000;
/// By how much two clocks may part while both are slewed at NTP's limit of 500 ppm: microseconds a millisecond.
const DRIFT_US_PER_MS: u64 = 1;

/// When something was, by this recorder's monotonic clock, microseconds. Negative where it was before that began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SteadyTime(pub i64);

/// One moment on both clocks of this recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic microseconds.
    pub monotonic: u64,
    /// The time of day.
    pub wall: WallTime,
}

impl Moment {
    /// By how much the time of day is ahead of the monotonic clock, microseconds.
    const fn ahead(&self) -> i64 {
        self.wall.0.saturating_sub_unsigned(self.monotonic)
    }

    /// The time of day of something, by the clock as it is now.
    #[must_use]
    pub const fn wall(&self, time: SteadyTime) -> WallTime {
        WallTime(time.0.saturating_add(self.ahead()))
    }
}

/// Between these two the difference of two clocks is, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// At least.
    pub least: i64,
    /// At most.
    pub most: i64,
}

impl Offset {
    /// The middle of it, microseconds.
    #[must_use]
    pub const fn middle(&self) -> i64 {
        self.least.midpoint(self.most)
    }

    /// How far the clocks are apart at least, microseconds; 0 where they may be the same.
    #[must_use]
    pub fn apart(&self) -> u64 {
        self.least.max(self.most.saturating_neg()).max(0).unsigned_abs()
    }

    const fn wider(self, by: i64) -> Self {
        Self { least: self.least.saturating_sub(by), most: self.most.saturating_add(by) }
    }

    const fn width(self) -> i64 {
        self.most.saturating_sub(self.least)
    }
}

/// One round trip: how far the time of day there was ahead of the monotonic clock here.
#[derive(Clone, Copy, Debug)]
struct Round {
    at: u64,
    ahead: Offset,
}

impl Round {
    /// What it says at `now`.
    fn now(&self, now: u64) -> Offset {
        let drift = now.saturating_sub(self.at) / 1_000 * DRIFT_US_PER_MS;
        self.ahead.wider(i64::try_from(drift).unwrap_or(i64::MAX))
    }
}

/// What is known of another recorder's clock.
#[derive(Clone, Debug, Default)]
pub struct PeerClock {
    /// Number and time of heartbeats that were sent to it.
    sent: VecDeque<(u64, u64)>,
    /// Life and number of the newest that came, and when it did.
    heard: Option<(u64, u64, u64)>,
    rounds: VecDeque<Round>,
}

impl PeerClock {
    /// A heartbeat is sent to it at `now` (monotonic microseconds).
    pub fn send(&mut self, now: u64, number: u64) {
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((number, now));
    }

    /// What the next heartbeat echoes.
    #[must_use]
    pub fn echo(&self, now: u64) -> Option<Echo> {
        self.heard.map(|(_, number, at)| Echo { number, held: now.saturating_sub(at) })
    }

    /// A heartbeat of it came: what it says of each stream, with times by the clock here. Where it does not tell for how long it was on its way, it
    /// says nothing of footage: what is not known to be durable is recorded.
    pub fn hear(&mut self, now: Moment, heartbeat: Heartbeat) -> Vec<(Uuid, Report)> {
        let Heartbeat { life, number, sent, echo, reports, .. } = heartbeat;
        if self.heard.is_some_and(|(known, ..)| known != life) {
            // Its machine may have started anew, with another time of day.
            self.rounds.clear();
        }
        self.heard = Some((life, number, now.monotonic));
        let least = sent.0.saturating_sub_unsigned(now.monotonic);
        let round = echo.and_then(|echo| self.round(now.monotonic, echo));
        let ahead = round.map(|round| Offset { least, most: least.saturating_add(round) });
        if let Some(ahead) = ahead {
            self.note(Round { at: now.monotonic, ahead });
        }
        reports.into_iter().map(|(stream, report)| (stream, here(report, least, ahead))).collect()
    }

    /// By how much its time of day is ahead of the one here.
    #[must_use]
    pub fn offset(&self, now: Moment) -> Option<Offset> {
        let Offset { least, most } = self.best(now.monotonic)?;
        let here = now.ahead();
        Some(Offset { least: least.saturating_sub(here), most: most.saturating_sub(here) })
    }

    /// How long a heartbeat and the one that echoed it were on their ways together.
    fn round(&self, now: u64, echo: Echo) -> Option<i64> {
        let (_, sent) = self.sent.iter().find(|(number, _)| *number == echo.number)?;
        // Of a former life of this process, or wrong: what it says would not have had the time.
        let round = now.checked_sub(*sent)?.checked_sub(echo.held)?;
        i64::try_from(round).ok()
    }

    /// Where a round trip contradicts those before it, the clock there was set: they are worth nothing.
    fn note(&mut self, round: Round) {
        let contradicts = |before: Offset| round.ahead.least > before.most || round.ahead.most < before.least;
        if self.best(round.at).is_some_and(contradicts) {
            self.rounds.clear();
        }
        if self.rounds.len() >= ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(round);
    }

    /// The shortest lately.
    fn best(&self, now: u64) -> Option<Offset> {
        let fresh = self.rounds.iter().filter(|round| now.saturating_sub(round.at) <= ROUND_AT_MOST_OLD);
        fresh.map(|round| round.now(now)).min_by_key(|ahead| ahead.width())
    }
}

/// A report with its times on the clock here. What is durable begins no earlier and ends no later than this says: what may be and may not be durable
/// there is recorded here as well. Whom it hears is of worth without the time.
fn here(report: Report<WallTime>, least: i64, ahead: Option<Offset>) -> Report {
    let early = |time: WallTime, ahead: i64| SteadyTime(time.0.saturating_sub(ahead));
    let footage = report.footage.zip(ahead).map(|(footage, ahead)| Footage {
        first: early(footage.first, ahead.least),
        durable: early(footage.durable, ahead.most),
    });
    report.with_times(footage, |time| early(time, ahead.map_or(least, |ahead| ahead.most)))
}

impl Report {
    /// As it is told at `now`: with times of day.
    #[must_use]
    pub fn told(self, now: Moment) -> Report<WallTime> {
        let wall = |time: SteadyTime| now.wall(time);
        let footage =
            self.footage.map(|Footage { first, durable }| Footage { first: wall(first), durable: wall(durable) });
        self.with_times(footage, wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    const MS: u64 = 1_000;
    const SECOND: u64 = 1_000 * MS;
    const STREAM: Uuid = Uuid::from_u128(7);

    /// One side of a link: its clocks run as the true time does, from other beginnings.
    struct Side {
        monotonic: u64,
        wall: i64,
        life: u64,
        number: u64,
        of_other: PeerClock,
    }

    impl Side {
        fn new(monotonic: u64, wall: i64) -> Self {
            Self { monotonic, wall, life: 1, number: 0, of_other: PeerClock::default() }
        }

        fn at(&self, time: u64) -> Moment {
            let wall = WallTime(self.wall.saturating_add_unsigned(time));
            Moment { monotonic: self.monotonic + time, wall }
        }

        /// It says at `time` that from `first` to `durable`, true times, is durable.
        fn tell(&mut self, time: u64, (first, durable): (u64, u64)) -> Heartbeat {
            let now = self.at(time);
            self.number += 1;
            self.of_other.send(now.monotonic, self.number);
            let steady = |time: u64| SteadyTime((self.monotonic + time) as i64);
            let footage = Some(Footage { first: steady(first), durable: steady(durable) });
            let report = Report { footage, hears: vec![(STREAM, steady(durable))], ..report() };
            Heartbeat {
                sender: STREAM,
                life: self.life,
                number: self.number,
                sent: now.wall,
                hears_you: true,
                echo: self.of_other.echo(now.monotonic),
                reports: vec![(STREAM, report.told(now))],
                port: 0,
                seeks: Vec::new(),
                places: Vec::new(),
            }
        }

        /// What it makes of it at `time`: footage in true times.
        fn hear(&mut self, time: u64, heartbeat: Heartbeat) -> Option<(i64, i64)> {
            let now = self.at(time);
            let reports = self.of_other.hear(now, heartbeat);
            let truly = |time: SteadyTime| time.0.saturating_sub_unsigned(self.monotonic);
            reports[0].1.footage.map(|footage| (truly(footage.first), truly(footage.durable)))
        }

        fn offset(&self, time: u64) -> Option<Offset> {
            self.of_other.offset(self.at(time))
        }
    }

    /// Heartbeats both ways four times a second from `from` on, `there` and `back` on their ways. What the first made of the last one of the second.
    fn talk(a: &mut Side, b: &mut Side, from: u64, beats: u64, (there, back): (u64, u64)) -> Option<(i64, i64)> {
        let mut last = None;
        for beat in 0..beats {
            let time = from + beat * 250 * MS;
            let to_b = a.tell(time, (0, 0));
            b.hear(time + there, to_b);
            let at = time + 100 * MS + there;
            let to_a = b.tell(at, (at - SECOND, at - 600 * MS));
            last = a.hear(at + back, to_a).map(|(first, durable)| (first - at as i64, durable - at as i64));
        }
        last
    }

    #[test]
    fn what_is_said_to_be_durable_is_and_the_clocks_are_known() {
        for (there, back) in [(MS, MS), (0, 400 * MS), (400 * MS, 0), (30 * MS, 200 * MS)] {
            for apart in [0, 900_000, -900_000, 3_600_000_000, -86_400_000_000] {
                let (mut a, mut b) = (Side::new(5 * SECOND, 1_700_000_000_000_000), Side::new(9_000 * SECOND, apart));
                b.wall += a.wall;
                let (first, durable) = talk(&mut a, &mut b, 10 * SECOND, 20, (there, back)).unwrap();
                let round = (there + back) as i64;
                assert!((-1_000_000..=-1_000_000 + round).contains(&first), "{first}");
                assert!((-600_000 - round..=-600_000).contains(&durable), "{durable}");
                let offset = a.offset(16 * SECOND).unwrap();
                assert!(offset.least <= apart && apart <= offset.most, "{offset:?}, {apart}");
                assert!(offset.width() <= round + 4_000 && offset.apart() <= apart.unsigned_abs(), "{offset:?}");
            }
        }
    }

    #[test]
    fn nothing_is_durable_as_long_as_the_way_is_not_known() {
        let (mut a, mut b) = (Side::new(0, 0), Side::new(0, 0));
        let first = b.tell(SECOND, (0, SECOND));
        assert_eq!((first.echo, a.hear(SECOND, first)), (None, None));
        assert_eq!(a.offset(SECOND), None);
        let to_b = a.tell(3 * SECOND, (0, 0));
        assert_eq!(to_b.echo, Some(Echo { number: 1, held: 2 * SECOND }));
        b.hear(3 * SECOND, to_b);
        // It echoes what was never sent, or says that it had it for longer than that is ago.
        for echo in [Echo { number: 99, held: 0 }, Echo { number: 1, held: 2 * SECOND }] {
            let wrong = Heartbeat { echo: Some(echo), ..b.tell(4 * SECOND, (0, SECOND)) };
            assert_eq!(a.hear(4 * SECOND, wrong), None, "{echo:?}");
        }
        let right = b.tell(4 * SECOND, (0, SECOND));
        assert_eq!(a.hear(4 * SECOND, right), Some((0, SECOND as i64)));
        assert_eq!(a.offset(4 * SECOND), Some(Offset { least: 0, most: 0 }));
    }

    #[test]
    fn a_clock_that_is_set_moves_nothing_and_is_known_at_once() {
        let (mut a, mut b) = (Side::new(0, 0), Side::new(0, 0));
        let mut time = SECOND;
        for (step_a, step_b) in [(0, 0), (0, 700_000), (0, -86_400_000_000), (3_600_000_000, 0), (-1_500_000, -300_000)]
        {
            talk(&mut a, &mut b, time, 8, (MS, MS));
            time += 2 * SECOND;
            // Between a heartbeat and the one that echoes it.
            let to_b = a.tell(time, (0, 0));
            b.hear(time + MS, to_b);
            a.wall += step_a;
            b.wall += step_b;
            let at = time + 50 * MS;
            let to_a = b.tell(at, (at - SECOND, at - 600 * MS));
            let (first, durable) = a.hear(at + MS, to_a).unwrap();
            assert_eq!((first - at as i64, durable - at as i64), (-999_000, -601_000));
            let offset = a.offset(at + MS).unwrap();
            assert!(offset.least <= b.wall - a.wall && b.wall - a.wall <= offset.most, "{offset:?}");
            assert!(offset.width() <= 8_000, "{offset:?}");
            time += 250 * MS;
        }
    }

    #[test]
    fn the_shortest_way_lately_says_best_how_far_clocks_are_apart() {
        let (mut a, mut b) = (Side::new(0, 0), Side::new(0, 500_000));
        talk(&mut a, &mut b, SECOND, 1, (MS, MS));
        talk(&mut a, &mut b, 2 * SECOND, 4, (200 * MS, 10 * MS));
        let offset = a.offset(3 * SECOND).unwrap();
        assert!((495_000..=500_000).contains(&offset.least) && offset.most <= 505_000, "{offset:?}");
        assert_eq!(offset.apart(), offset.least.unsigned_abs());
        // Not for ever.
        talk(&mut a, &mut b, 3 * SECOND, 8, (200 * MS, 10 * MS));
        assert!(a.offset(5 * SECOND).unwrap().width() >= 210_000);
        assert!(a.offset(64 * SECOND).is_some());
        assert_eq!(a.offset(66 * SECOND), None, "it is not heard any more");
    }

    #[test]
    fn a_process_that_begins_anew_is_not_measured_by_its_former_life() {
        let (mut a, mut b) = (Side::new(0, 0), Side::new(0, 0));
        talk(&mut a, &mut b, SECOND, 4, (MS, MS));
        // Its machine started anew, and thinks that it is another year.
        b = Side { life: 2, ..Side::new(7, -1_000_000_000_000) };
        let first = b.tell(3 * SECOND, (0, SECOND));
        assert_eq!(a.hear(3 * SECOND + MS, first), None);
        assert_eq!(a.offset(3 * SECOND + MS), None);
        // This one begins anew: what the other echoes is of before.
        let (mut a, mut b) = (Side::new(0, 0), Side::new(0, 0));
        talk(&mut a, &mut b, SECOND, 4, (MS, MS));
        a = Side::new(0, 0);
        a.tell(3 * SECOND, (0, 0));
        let echoes_before = Heartbeat { echo: b.of_other.echo(3 * SECOND), ..b.tell(3 * SECOND, (0, SECOND)) };
        assert_eq!(echoes_before.echo.map(|echo| echo.number), Some(4));
        let again = Heartbeat { echo: Some(Echo { number: 1, held: SECOND }), ..echoes_before };
        assert_eq!(a.hear(3 * SECOND + MS, again), None);
    }
}
