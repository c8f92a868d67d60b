//! Whether a stream still is as it was told last. Ten thousand streams that record steadily are looked at each second, and what is said of them need not be
//! made anew to find out that it is the same. Pure.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use framekeeper_crds::ChannelState;

use super::observe::ChannelReport;
use super::place::PoolPlan;
use super::seen::Seen;
use super::status;
use super::wanted::Key;

/// What a status that did not change was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// Of what is wanted, remembered and planned.
    revision: u64,
    /// Of what its holders say.
    said: u64,
}

/// Where what a stream depends on is found at once.
pub(super) struct Basis<'v> {
    revision: u64,
    now: Instant,
    pools: HashMap<(&'v str, &'v str), OfPool<'v>>,
}

struct OfPool<'v> {
    plan: Option<&'v PoolPlan>,
    /// By ordinal.
    recorders: Vec<Option<&'v Seen>>,
}

impl<'v> Basis<'v> {
    pub(super) fn new<R: AsRef<Seen>>(
        revision: u64,
        now: Instant,
        plans: &'v BTreeMap<Key, PoolPlan>,
        running: &'v BTreeMap<Key, R>,
    ) -> Self {
        let mut pools: HashMap<(&str, &str), OfPool<'_>> = HashMap::new();
        for (key, plan) in plans {
            pools.insert((&key.namespace, &key.name), OfPool { plan: Some(plan), recorders: Vec::new() });
        }
        for (key, seen) in running {
            let seen = seen.as_ref();
            let spec = &seen.recorder.spec;
            let pool =
                pools.entry((&key.namespace, &spec.pool)).or_insert(OfPool { plan: None, recorders: Vec::new() });
            let at = spec.ordinal as usize;
            pool.recorders.resize(pool.recorders.len().max(at + 1), None);
            if let Some(place) = pool.recorders.get_mut(at) {
                *place = Some(seen);
            }
        }
        Self { revision, now, pools }
    }

    /// What a stream's status is made from now.
    pub(super) fn of(&self, stream: &Key, pool: &str) -> Settled {
        let mut hasher = DefaultHasher::new();
        if let Some(pool) = self.pools.get(&(stream.namespace.as_str(), pool))
            && let Some(assigned) = pool.plan.and_then(|plan| plan.plan.placed.get(stream))
        {
            for ordinal in std::iter::once(&assigned.primary).chain(&assigned.standbys) {
                let seen = pool.recorders.get(*ordinal as usize).copied().flatten();
                seen.map(|seen| seen.is_down).hash(&mut hasher);
                match seen.and_then(|seen| seen.report(stream, self.now)) {
                    None => 0_u8.hash(&mut hasher),
                    Some(report) => tells(report, &mut hasher),
                }
            }
        }
        Settled { revision: self.revision, said: hasher.finish() }
    }
}

/// What of a report statuses tell, while they tell it.
fn tells(report: &ChannelReport, hasher: &mut DefaultHasher) {
    let ChannelReport { state, reason, message, epoch, codec, width, height, .. } = report;
    let records = *state == Some(ChannelState::Recording);
    state.map(|state| state as u8).hash(hasher);
    (reason, message, epoch, codec, width, height).hash(hasher);
    // The longest gap is told in whole seconds, the bit rate once, and the last frame of what is not recorded.
    report.gop.map(|gop| gop.ceil() as i64).hash(hasher);
    status::measured_bitrate(report).is_some().hash(hasher);
    report.last_frame.filter(|_| !records).hash(hasher);
}
