//! When something is read again, and how fast. Pure.

use framekeeper_media::WallTime;

/// Of the disk's time, at most a twentieth.
const RESTS_A_READ: u64 = 19;
/// After a start nobody waits longer than that for the first segment: a recorder that is started again and again checks its footage too.
const FIRST_REST_US: u64 = 60_000_000;
/// When nothing is due.
const IDLE_US: u64 = 3_600_000_000;
/// No rest is shorter, however short a round shall be.
const SHORTEST_US: u64 = 10_000;
/// While it is not known yet what there is.
const NOT_YET_US: u64 = 10_000_000;
/// A disk that is behind is left alone for so long.
const BUSY_US: u64 = 10_000_000;
/// What is written is durable so late beyond the interval, or a sync took so long: the disk has enough to do.
const BEHIND_US: u64 = 1_000_000;

/// How the disk does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    pub(super) stalled: bool,
    /// Age of the oldest bytes that are not durable.
    pub(super) unsynced_us: u64,
    pub(super) sync_interval_us: u64,
    pub(super) last_sync_us: u64,
}

impl Disk {
    /// How long to keep away from it; `None`: it has time for us.
    pub(super) fn rest_us(&self) -> Option<u64> {
        let behind = self.unsynced_us > self.sync_interval_us.saturating_add(BEHIND_US);
        (self.stalled || behind || self.last_sync_us > BEHIND_US).then_some(BUSY_US)
    }
}

/// Whether a segment is to be read: it never was as a whole, or not for a round. A clock that was set back is no reason to wait.
pub(super) fn is_due(checked: Option<WallTime>, now: WallTime, round_us: u64) -> bool {
    let round_us = i64::try_from(round_us).unwrap_or(i64::MAX);
    checked.is_none_or(|at| at > now || now.0.saturating_sub(at.0) >= round_us)
}

/// From the end of one segment to the beginning of the next, so that all are read in a round.
pub(super) fn between_us(segments: u64, round_us: u64) -> u64 {
    round_us / segments.max(1)
}

/// Up to the first segment after a start.
pub(super) fn first_us(segments: u64, round_us: u64) -> u64 {
    between_us(segments, round_us).min(FIRST_REST_US)
}

/// Up to the next look, when nothing is due.
pub(super) fn idle_us(segments: u64, round_us: u64) -> u64 {
    between_us(segments, round_us).clamp(SHORTEST_US, IDLE_US)
}

/// Up to the next look, while the catalogue is not complete.
pub(super) fn not_yet_us(round_us: u64) -> u64 {
    round_us.clamp(SHORTEST_US, NOT_YET_US)
}

/// Behind a read that took so long.
pub(super) fn behind_us(read_us: u64) -> u64 {
    read_us.saturating_mul(RESTS_A_READ)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: u64 = 86_400_000_000;

    #[test]
    fn what_was_never_read_or_not_for_a_round_is_due() {
        let now = WallTime(40 * DAY_US as i64);
        let ago = |days: i64| Some(WallTime(now.0 - days * DAY_US as i64));
        assert!(is_due(None, now, 25 * DAY_US));
        assert!(!is_due(ago(24), now, 25 * DAY_US));
        assert!(is_due(ago(25), now, 25 * DAY_US));
        assert!(is_due(ago(-1), now, 25 * DAY_US));
    }

    #[test]
    fn a_round_takes_its_time_and_a_start_does_not_begin_it_anew() {
        let round = 25 * DAY_US;
        for segments in [1, 7, 100_000] {
            let all = between_us(segments, round) * segments;
            assert!(all <= round && all > round - DAY_US, "{segments}: {all}");
        }
        assert_eq!(first_us(7, round), FIRST_REST_US);
        assert_eq!(first_us(1_000_000, round), between_us(1_000_000, round));
        assert_eq!(between_us(0, round), round);
    }

    #[test]
    fn a_disk_is_read_for_a_twentieth_of_its_time_and_not_while_it_is_slow() {
        for read_us in [1, 2_600, 700_000] {
            assert!(read_us * 20 <= read_us + behind_us(read_us));
        }
        let disk = Disk { sync_interval_us: 500_000, unsynced_us: 900_000, last_sync_us: 30_000, stalled: false };
        assert_eq!(disk.rest_us(), None);
        for slow in [
            Disk { stalled: true, ..disk },
            Disk { unsynced_us: 1_600_000, ..disk },
            Disk { last_sync_us: 1_100_000, ..disk },
        ] {
            assert_eq!(slow.rest_us(), Some(BUSY_US), "{slow:?}");
        }
    }
}
