//! Whether one more recorder may be stopped on purpose: what that would cost. Pure.
//!
//! A stream that nobody can record, because its camera is off, loses nothing by it: were it waited for, one broken camera among five hundred would keep all
//! recorders from ever being upgraded.

use std::collections::BTreeMap;

use framekeeper_crds::{ChannelState, RedundancyClass};

use super::standing::{Holder, active};
use super::wanted::Key;

/// What stands against stopping one more recorder, as one stream sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caution {
    /// So many of the standbys that may have to record are not ready to.
    pub missing: u32,
    /// Nobody records it yet, and somebody is about to.
    pub is_starting: bool,
}

impl Caution {
    /// Whether nothing does.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Looks at one stream. `holders`: those that are to hold it, by rank.
#[must_use]
pub fn of(class: RedundancyClass, tolerated_failures: u32, holders: &[Holder<'_>]) -> Caution {
    let standbys = holders.len().saturating_sub(1);
    let needed = if class == RedundancyClass::None { 0 } else { standbys.min(tolerated_failures.max(1) as usize) };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let Some(active) = active(holders) else {
        let is_starting = holders.iter().any(Holder::is_starting);
        let may_begin = needed > 0 && holders.iter().any(|holder| holder.is_ready(class));
        return Caution { missing: if may_begin { count(needed) } else { 0 }, is_starting };
    };
    let ready = holders.iter().filter(|holder| holder.name != active.name && holder.is_ready(class)).count();
    Caution { missing: count(needed.saturating_sub(ready)), is_starting: false }
}

/// The same of a pool: the most that any of its streams says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCaution {
    /// See [`Caution::missing`].
    pub missing: u32,
    /// See [`Caution::is_starting`].
    pub is_starting: bool,
    /// One of the streams that say so.
    pub stream: Option<Key>,
}

impl PoolCaution {
    /// Whether recorders that run may be stopped one by one, and if not, what is waited for.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let stream = self.stream.as_ref()?;
        match self {
            Self { missing: 1.., .. } => {
                Some(format!("another recorder is ready to take over {stream}, and what else is not protected"))
            }
            Self { is_starting: true, .. } => Some(format!("{stream} is recorded")),
            Self { .. } => None,
        }
    }

    /// How many recorders may be away at once, by whoever stops them: as many as may fail, less those of the standbys that are not ready. One that is back and
    /// is not ready to take over yet counts as much as one that is away.
    #[must_use]
    pub fn at_once(&self, tolerated_failures: u32) -> u32 {
        tolerated_failures.max(1).saturating_sub(self.missing)
    }
}

/// Puts together what streams say: each with its pool.
#[must_use]
pub fn of_pools<'c>(streams: impl Iterator<Item = (&'c Key, &'c str, Caution)>) -> BTreeMap<Key, PoolCaution> {
    let mut pools: BTreeMap<Key, PoolCaution> = BTreeMap::new();
    for (stream, pool, caution) in streams.filter(|(_, _, caution)| !caution.is_none()) {
        let known = pools.entry(Key::new(&stream.namespace, pool)).or_default();
        if known.stream.is_none() || caution.missing > known.missing {
            known.stream = Some(stream.clone());
        }
        known.missing = known.missing.max(caution.missing);
        known.is_starting |= caution.is_starting;
    }
    pools
}

/// Whether of each pool the same may be done.
#[must_use]
pub fn allow_the_same(before: &BTreeMap<Key, PoolCaution>, now: &BTreeMap<Key, PoolCaution>) -> bool {
    let none = PoolCaution::default();
    let of = |cautions: &BTreeMap<Key, PoolCaution>, pool: &Key| {
        let caution = cautions.get(pool).unwrap_or(&none);
        (caution.missing, caution.is_starting)
    };
    before.keys().chain(now.keys()).all(|pool| of(before, pool) == of(now, pool))
}

impl Holder<'_> {
    /// Whether it may record in a moment: it says nothing yet, or is on its way to its camera.
    fn is_starting(&self) -> bool {
        let state = self.report.map(|report| report.state);
        !self.is_down && matches!(state, None | Some(None | Some(ChannelState::Connecting)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::ChannelReport;
    use super::*;

    fn says(state: ChannelState, reason: &str) -> ChannelReport {
        ChannelReport { state: Some(state), reason: Some(reason.to_owned()), ..ChannelReport::default() }
    }

    fn caution(class: RedundancyClass, failures: u32, reports: &[Option<&ChannelReport>]) -> Caution {
        let names = ["a", "b", "c"];
        let holders = names.iter().zip(reports).map(|(name, report)| Holder { name, is_down: false, report: *report });
        of(class, failures, &holders.collect::<Vec<_>>())
    }

    #[test]
    fn a_standby_that_is_not_ready_is_waited_for_and_a_camera_that_is_off_is_not() {
        let records = says(ChannelState::Recording, "Recording");
        let ready = says(ChannelState::Standby, "StandingBy");
        let filling = says(ChannelState::Connecting, "FillingMemory");
        let off = says(ChannelState::Backoff, "Unreachable");
        let of = |failures, reports: &[&ChannelReport]| {
            let reports: Vec<_> = reports.iter().copied().map(Some).collect();
            caution(RedundancyClass::Playing, failures, &reports)
        };
        let missing = |missing| Caution { missing, is_starting: false };
        assert_eq!(of(1, &[&records, &ready]), missing(0));
        assert_eq!(of(1, &[&records, &filling]), missing(1));
        assert_eq!(of(1, &[&records, &off]), missing(1), "that one does not see the camera: nobody would record it");
        assert_eq!(of(1, &[&records, &off, &ready]), missing(0));
        assert_eq!(of(2, &[&records, &off, &ready]), missing(1));
        assert_eq!(of(1, &[&off, &off]), missing(0));
        // About to be taken over; taken over, and its recorder is back and records as well.
        assert_eq!(of(1, &[&off, &ready]), missing(1));
        assert_eq!(of(1, &[&records, &records]), missing(0));
        assert_eq!(of(1, &[&filling, &off]), Caution { missing: 0, is_starting: true });
        // There is no other one, and nothing to wait for.
        assert_eq!(of(1, &[&records]), missing(0));
        assert_eq!(caution(RedundancyClass::Playing, 1, &[Some(&records), None]), missing(1));
        // What standbys of a class that records as well do besides recording is of no use.
        assert_eq!(caution(RedundancyClass::Mirrored, 1, &[Some(&records), Some(&ready)]), missing(1));
        assert_eq!(caution(RedundancyClass::Mirrored, 1, &[Some(&records), Some(&records)]), missing(0));
    }

    #[test]
    fn of_a_stream_without_standbys_only_its_beginning_is_waited_for() {
        let of = |report| caution(RedundancyClass::None, 1, &[report]);
        let connecting = says(ChannelState::Connecting, "Connecting");
        let starting = Caution { missing: 0, is_starting: true };
        assert_eq!(of(None), starting);
        assert_eq!(of(Some(&connecting)), starting);
        let (records, off) = (says(ChannelState::Recording, "Recording"), says(ChannelState::Backoff, "Unreachable"));
        assert!(of(Some(&records)).is_none() && of(Some(&off)).is_none());
    }

    #[test]
    fn as_many_may_be_stopped_as_may_fail_and_fewer_while_standbys_are_not_ready() {
        let of = |missing| PoolCaution { missing, ..PoolCaution::default() };
        assert_eq!((of(0).at_once(0), of(0).at_once(1), of(0).at_once(2)), (1, 1, 2));
        assert_eq!((of(1).at_once(1), of(1).at_once(2), of(2).at_once(2), of(3).at_once(2)), (0, 1, 0, 0));
    }

    #[test]
    fn a_pool_is_as_its_worst_stream() {
        let (one, two, other) = (Key::new("a", "one"), Key::new("a", "two"), Key::new("b", "one"));
        let streams = [
            (&one, "main", Caution { missing: 0, is_starting: true }),
            (&two, "main", Caution { missing: 1, is_starting: false }),
            (&other, "main", Caution::default()),
        ];
        let pools = of_pools(streams.into_iter());
        let expected = PoolCaution { missing: 1, is_starting: true, stream: Some(two) };
        assert_eq!(pools, [(Key::new("a", "main"), expected.clone())].into());
        assert!(expected.waits_for().is_some_and(|what| what.contains("a/two")));
        assert!(PoolCaution::default().waits_for().is_none());
    }
}
