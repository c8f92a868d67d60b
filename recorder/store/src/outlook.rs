//! How long the room of a volume lasts: pure decisions on counts and rates.
//!
//! Without holds a volume never runs out: what is written later may go later. What a hold covers never comes back, so a hold that goes on, or
//! that is still to come, eats up the files that the others share.

use std::time::Duration;

use framekeeper_media::WallTime;

use crate::env::Space;

/// Less time than this is told long before it is over.
const SOON: Duration = Duration::from_secs(24 * 3600);
/// So is a smaller part of the files that may still be used again.
const FEW_PERCENT: u64 = 20;

/// The files of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// That there may be.
    pub(crate) total: u64,
    /// That footage can be put into: empty, to be made, to be emptied, and those whose footage may be given up.
    pub(crate) usable: u64,
    /// Whose footage is held.
    pub(crate) held: u64,
}

/// A stream whose footage is held for some time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eater {
    /// Files that it fills in a second.
    pub(crate) files_per_second: f64,
    /// Beginning and end of its holds.
    pub(crate) holds: Vec<(WallTime, WallTime)>,
}

/// What is to be expected of a volume's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// There is room for long.
    Lasting {
        /// How long it lasts at the streams' present rates; `None` where nothing that is known will end it.
        lasts: Option<Duration>,
    },
    /// Held files leave few others, or soon none.
    Dwindling {
        /// The same.
        lasts: Option<Duration>,
    },
    /// No file can be used again: what is being written is all that there is.
    Exhausted,
}

impl Default for Outlook {
    fn default() -> Self {
        Self::Lasting { lasts: None }
    }
}

/// What to expect of a volume with these files, where these streams' footage is held.
pub(crate) fn outlook(files: Files, eaters: &[Eater], now: WallTime) -> Outlook {
    if files.usable == 0 && files.held > 0 {
        return Outlook::Exhausted;
    }
    let lasts = lasts(files.usable, eaters, now);
    let few = files.held > 0 && files.usable.saturating_mul(100) < files.total.saturating_mul(FEW_PERCENT);
    if few || lasts.is_some_and(|lasts| lasts < SOON) {
        Outlook::Dwindling { lasts }
    } else {
        Outlook::Lasting { lasts }
    }
}

/// How long `usable` files last when those that the held streams fill never come back; `None`: for ever.
fn lasts(usable: u64, eaters: &[Eater], now: WallTime) -> Option<Duration> {
    let edges = eaters.iter().flat_map(|eater| &eater.holds).flat_map(|(from, to)| [*from, *to]);
    let mut edges: Vec<WallTime> = edges.filter(|edge| *edge > now).chain([WallTime(i64::MAX)]).collect();
    edges.sort();
    let (mut left, mut at) = (usable as f64, now);
    for edge in edges {
        let covers = |eater: &&Eater| eater.holds.iter().any(|(from, to)| *from <= at && at < *to);
        let rate: f64 = eaters.iter().filter(covers).map(|eater| eater.files_per_second).sum();
        let seconds = edge.0.saturating_sub(at.0) as f64 / 1e6;
        if rate > 0.0 && left <= rate * seconds {
            let until = at.0.saturating_sub(now.0) as f64 / 1e6 + left / rate;
            return Duration::try_from_secs_f64(until).ok();
        }
        left -= rate * seconds;
        at = edge;
    }
    None
}

/// How many files a stream shall find ready: as many as it can need at most while a used one is emptied, which takes `lead`.
pub(crate) fn files_ahead(bytes_per_second: f64, segment_bytes: u64, lead: Duration) -> u64 {
    // Above any camera's rate by far a cast saturates.
    1 + (bytes_per_second * lead.as_secs_f64() / segment_bytes.max(1) as f64).floor().max(0.0) as u64
}

/// What else is on the file system of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Bytes in use that are not the volume's.
    pub bytes: u64,
    /// So many more than when the volume was opened, or than at the least since.
    pub grown_bytes: u64,
    /// Bytes that can still be allocated.
    pub free_bytes: u64,
    /// Bytes that the volume still needs: files that its budget allows and that were not made yet, and what it keeps books in.
    pub needed_bytes: u64,
    /// Whether that is something to look after.
    pub crowding: Crowding,
}

/// Whether what else is on the file system takes the volume's room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crowding {
    /// There is room.
    #[default]
    None,
    /// It grows, and little is left.
    Coming,
    /// There is less room than the volume needs. It records into the files that it has.
    Short,
}

/// Growth below this part of the file system is noise.
const GROWTH_PERCENT: u64 = 1;
/// Little room beyond what is needed.
const LITTLE_PERCENT: u64 = 5;

/// What to think of a file system of `total_bytes`, of which the volume has `own_bytes` and needs `needed_bytes` more, when at the least
/// `least_foreign_bytes` were not its own.
pub(crate) fn foreign(space: Space, own_bytes: u64, needed_bytes: u64, least_foreign_bytes: Option<u64>) -> Foreign {
    let Space { total_bytes, free_bytes } = space;
    let bytes = total_bytes.saturating_sub(free_bytes).saturating_sub(own_bytes);
    let grown_bytes = bytes.saturating_sub(least_foreign_bytes.unwrap_or(bytes));
    let little = needed_bytes.saturating_add(total_bytes / 100 * LITTLE_PERCENT);
    let crowding = if free_bytes < needed_bytes {
        Crowding::Short
    } else if free_bytes < little && grown_bytes > total_bytes / 100 * GROWTH_PERCENT {
        Crowding::Coming
    } else {
        Crowding::None
    };
    Foreign { bytes, grown_bytes, free_bytes, needed_bytes, crowding }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const EVER: WallTime = WallTime(i64::MAX);
    const NOW: WallTime = WallTime(1_800_000_000_000_000);

    fn hours(n: i64) -> WallTime {
        WallTime(NOW.0 + n * HOUR_US)
    }

    fn files(total: u64, usable: u64) -> Files {
        Files { total, usable, held: total - usable }
    }

    /// Fills so many files an hour.
    fn eater(files_per_hour: f64, holds: &[(WallTime, WallTime)]) -> Eater {
        Eater { files_per_second: files_per_hour / 3600.0, holds: holds.to_vec() }
    }

    fn lasts_hours(usable: u64, eaters: &[Eater]) -> Option<f64> {
        lasts(usable, eaters, NOW).map(|lasts| (lasts.as_secs_f64() / 36.0).round() / 100.0)
    }

    #[test]
    fn holds_over_the_past_do_not_grow() {
        let past = [eater(10.0, &[(hours(-5), hours(-1))])];
        assert_eq!(lasts_hours(1, &past), None);
        assert_eq!(outlook(files(100, 50), &past, NOW), Outlook::default());
        assert_eq!(outlook(files(100, 20), &past, NOW), Outlook::default());
        assert_eq!(outlook(files(100, 19), &past, NOW), Outlook::Dwindling { lasts: None });
        assert_eq!(outlook(files(100, 0), &past, NOW), Outlook::Exhausted);
    }

    #[test]
    fn a_hold_that_goes_on_eats_what_is_left() {
        assert_eq!(lasts_hours(50, &[eater(10.0, &[(hours(-1), EVER)])]), Some(5.0));
        assert_eq!(
            lasts_hours(50, &[eater(10.0, &[(hours(-1), EVER)]), eater(40.0, &[(WallTime(i64::MIN), EVER)])]),
            Some(1.0)
        );
        // Two holds of one stream eat no more than one.
        assert_eq!(lasts_hours(50, &[eater(10.0, &[(hours(-1), EVER), (hours(-2), EVER)])]), Some(5.0));
        // It ends before they are gone, or behind.
        assert_eq!(lasts_hours(50, &[eater(10.0, &[(hours(-1), hours(5))])]), Some(5.0));
        assert_eq!(lasts_hours(51, &[eater(10.0, &[(hours(-1), hours(5))])]), None);
        // It is still to come, and then another one.
        assert_eq!(lasts_hours(50, &[eater(10.0, &[(hours(2), EVER)])]), Some(7.0));
        assert_eq!(lasts_hours(50, &[eater(10.0, &[(hours(2), hours(4)), (hours(6), EVER)])]), Some(9.0));
        // Nothing is recorded.
        assert_eq!(lasts_hours(50, &[eater(0.0, &[(hours(-1), EVER)])]), None);
    }

    #[test]
    fn what_ends_within_a_day_is_told() {
        let growing = [eater(1.0, &[(hours(-1), EVER)])];
        let lasts = Some(Duration::from_secs(25 * 3600));
        assert_eq!(outlook(files(100, 25), &growing, NOW), Outlook::Lasting { lasts });
        let lasts = Some(Duration::from_secs(23 * 3600));
        assert_eq!(outlook(files(100, 23), &growing, NOW), Outlook::Dwindling { lasts });
        // Without holds few files are no trouble.
        assert_eq!(outlook(Files { held: 0, ..files(100, 10) }, &[], NOW), Outlook::default());
    }

    #[test]
    fn fast_streams_find_more_files_ready() {
        let lead = Duration::from_secs(4);
        let megabits = |mbps: f64| files_ahead(mbps * 125_000.0, 4 << 20, lead);
        assert_eq!((megabits(0.0), megabits(4.0), megabits(50.0)), (1, 1, 6));
        assert_eq!(files_ahead(50.0 * 125_000.0, 64 << 20, lead), 1);
        assert_eq!(files_ahead(f64::NAN, 64 << 20, lead), 1);
    }

    #[test]
    fn foreign_data_is_what_is_not_ours() {
        let space = |free_bytes| Space { total_bytes: 10_000, free_bytes };
        let seen = |free, needed, least| {
            let foreign = foreign(space(free), 6_000, needed, least);
            (foreign.bytes, foreign.grown_bytes, foreign.crowding)
        };
        assert_eq!(seen(3_000, 100, None), (1_000, 0, Crowding::None));
        // It grew, and there is room; it did not, and there is little.
        assert_eq!(seen(2_000, 100, Some(1_000)), (2_000, 1_000, Crowding::None));
        assert_eq!(seen(500, 100, Some(3_450)), (3_500, 50, Crowding::None));
        assert_eq!(seen(500, 100, Some(1_000)), (3_500, 2_500, Crowding::Coming));
        // What is missing counts, whoever took it.
        assert_eq!(seen(99, 100, None), (3_901, 0, Crowding::Short));
        assert_eq!(seen(3_000, 3_001, None).2, Crowding::Short);
    }
}
