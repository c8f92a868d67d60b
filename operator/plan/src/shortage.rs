//! What a plan could not do, and what would help: [`Shortage`], in words for a condition or an event.

use std::collections::BTreeMap;
use std::fmt;

use super::model::{Class, Condition, Lack, NoReserve, Promise, Recorder};
use super::planner::{Planner, mix};
use super::reserve::{Mix, divide};

/// The most slots a recorder may be given.
const MAX_CHANNELS: u32 = 500;

/// What would be enough, all else as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Help {
    /// So many recorders more.
    pub more_recorders: Option<u32>,
    /// So many slots on each recorder.
    pub max_channels: Option<u32>,
}

/// What a plan could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// Streams that nobody records, because there is no slot.
    pub waiting: u32,
    /// Streams with fewer standbys than they shall have, because there is no room for them.
    pub without_room: u32,
    /// Streams with fewer standbys because of their cameras' sessions.
    pub by_sessions: u32,
    /// `Ready` streams without a standby because their cameras drop sessions that do not play.
    pub by_idle_sessions: u32,
    /// Why the pool has no reserve though streams want one, and how many do.
    pub no_reserve: Option<(NoReserve, u32)>,
    /// Recorders that could not be emptied, with what is left on them.
    pub stuck: Vec<(u32, u32)>,
    /// Recordings in reserved slots.
    pub in_reserved: u32,
    /// Recorders that are down or gone.
    pub absent: Vec<u32>,
    /// What would be enough, if anything in the pool's specification would.
    pub help: Help,
}

impl Shortage {
    /// Looks through a plan. This takes as long as planning anew, more when something is short: not for every stream that comes.
    #[must_use]
    pub fn of<S: Ord + Clone>(planner: &mut Planner<S>) -> Self {
        let mut shortage = Shortage::default();
        let plan = planner.plan();
        shortage.waiting = plan.waiting.len() as u32;
        let mut without_reserve = None;
        for assigned in plan.placed.values() {
            match assigned.lack {
                Some(Lack::Room) => shortage.without_room += 1,
                Some(Lack::Sessions { .. }) => shortage.by_sessions += 1,
                Some(Lack::DropsIdleSessions) => shortage.by_idle_sessions += 1,
                Some(Lack::NoReserve(why)) => without_reserve.get_or_insert((why, 0)).1 += 1,
                None => {}
            }
        }
        shortage.no_reserve = without_reserve;
        let loads: BTreeMap<u32, _> = planner.loads().into_iter().map(|load| (load.ordinal, load)).collect();
        shortage.in_reserved = loads.values().map(|load| load.in_reserved).sum();
        let (promise, _, recorders) = planner.pool();
        for recorder in recorders {
            match recorder.condition {
                Condition::Active => {}
                Condition::Draining => {
                    let left = loads.get(&recorder.ordinal).map_or(0, |load| load.primaries);
                    if left > 0 {
                        shortage.stuck.push((recorder.ordinal, left));
                    }
                }
                Condition::Down | Condition::Gone => shortage.absent.push(recorder.ordinal),
            }
        }
        let is_short = shortage.waiting > 0 || shortage.without_room > 0 || !shortage.stuck.is_empty();
        if is_short || shortage.no_reserve.is_some() {
            let staying = recorders.iter().filter(|recorder| recorder.condition != Condition::Draining);
            let staying: Vec<Recorder> = staying.copied().collect();
            let mut demands = Vec::new();
            planner.for_each_demand(|demand| demands.push(*demand));
            let streams = demands.len() as u64;
            shortage.help = help(promise, &staying, streams, mix(promise, demands.iter()));
        }
        shortage
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Shortage { absent: self.absent.clone(), ..Shortage::default() }
    }
}

/// Whether a pool can hold so many streams with everything that is promised.
fn is_enough(promise: Promise, recorders: &[Recorder], streams: u64, mix: Mix) -> bool {
    let division = divide(promise, recorders, mix);
    division.no_reserve.is_none() && u64::from(division.slots.normal) * recorders.len() as u64 >= streams
}

fn help(promise: Promise, recorders: &[Recorder], streams: u64, mix: Mix) -> Help {
    if is_enough(promise, recorders, streams, mix) {
        // Only time helps: recorders that come back.
        return Help::default();
    }
    let more = |count: u32| is_enough(promise, &grown(recorders, count), streams, mix);
    let max_channels = |max_channels: u32| is_enough(Promise { max_channels, ..promise }, recorders, streams, mix);
    Help {
        more_recorders: least(1, 1_000, more),
        max_channels: least(promise.max_channels + 1, MAX_CHANNELS, max_channels),
    }
}

/// The least number that is enough, found by doubling the step and halving the interval; what is enough stays so for larger ones.
fn least(from: u32, to: u32, is_enough: impl Fn(u32) -> bool) -> Option<u32> {
    if from > to {
        return None;
    }
    let (mut too_few, mut step) = (from - 1, 1);
    let mut enough = loop {
        let next = too_few.saturating_add(step).min(to);
        if is_enough(next) {
            break next;
        }
        if next == to {
            return None;
        }
        (too_few, step) = (next, step * 2);
    };
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if is_enough(middle) { enough = middle } else { too_few = middle }
    }
    Some(enough)
}

/// A pool with so many recorders more: each in a failure domain of its own where that is so already, else in the smallest domains.
fn grown(recorders: &[Recorder], more: u32) -> Vec<Recorder> {
    let mut all = recorders.to_vec();
    let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
    for recorder in recorders {
        *sizes.entry(recorder.domain).or_default() += 1;
    }
    let alone = sizes.values().all(|size| *size == 1);
    for _ in 0..more {
        let ordinal = all.iter().map(|recorder| recorder.ordinal + 1).max().unwrap_or(0);
        let new = sizes.keys().max().map_or(0, |domain| domain + 1);
        let smallest = sizes.iter().min_by_key(|(domain, size)| (**size, **domain)).map(|(domain, _)| *domain);
        let domain = if alone { new } else { smallest.unwrap_or(new) };
        *sizes.entry(domain).or_default() += 1;
        all.push(Recorder { ordinal, domain, condition: Condition::Active });
    }
    all
}

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.more_recorders, self.max_channels) {
            (Some(more), Some(channels)) => write!(f, "needs {} or maxChannels {channels}", recorders(more)),
            (Some(more), None) => write!(f, "needs {}", recorders(more)),
            (None, Some(channels)) => write!(f, "needs maxChannels {channels}"),
            (None, None) => Ok(()),
        }
    }
}

fn recorders(more: u32) -> String {
    if more == 1 { "1 more recorder".to_owned() } else { format!("{more} more recorders") }
}

impl fmt::Display for NoReserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoReserve::NotAsked => write!(f, "toleratedFailures is 0; set it to 1 or more"),
            NoReserve::Domains { domains, tolerated_failures } => {
                let least = tolerated_failures + 1;
                write!(
                    f,
                    "toleratedFailures {tolerated_failures} needs {least} failure domains at least, there is only {domains}"
                )
            }
            NoReserve::MaxChannels { max_channels } => {
                write!(f, "with maxChannels {max_channels} a reserve that is large enough leaves no normal slot")
            }
        }
    }
}

/// One sentence for each thing that is missing.
impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        let streams = |count: u32| if count == 1 { "1 stream".to_owned() } else { format!("{count} streams") };
        if self.waiting > 0 {
            said.push(format!("{} not recorded: no slot is free", streams(self.waiting)));
        }
        if self.without_room > 0 {
            said.push(format!("{} not protected: no reserved slot is free", streams(self.without_room)));
        }
        for (ordinal, left) in &self.stuck {
            said.push(format!("recorder {ordinal} cannot be drained: {} have nowhere to go", streams(*left)));
        }
        if let Some((why, count)) = &self.no_reserve {
            said.push(format!("{} not protected, the pool has no reserve: {why}", streams(*count)));
        }
        if self.by_sessions > 0 {
            let what = "a primary, its standbys and a handover need one session each";
            said.push(format!(
                "{} with fewer standbys, their cameras allow too few sessions ({what})",
                streams(self.by_sessions)
            ));
        }
        if self.by_idle_sessions > 0 {
            let (what, class) = ("their cameras drop sessions that do not play", "use class Playing");
            said.push(format!("{} without standby: {what}; {class}", streams(self.by_idle_sessions)));
        }
        if self.in_reserved > 0 {
            said.push(format!("{} recorded in reserved slots", streams(self.in_reserved)));
        }
        if self.help != Help::default() {
            said.push(self.help.to_string());
        } else if (self.waiting > 0 || self.without_room > 0 || self.in_reserved > 0) && !self.absent.is_empty() {
            let absent: Vec<String> = self.absent.iter().map(u32::to_string).collect();
            said.push(format!("ends when recorder {} is back", absent.join(", ")));
        }
        write!(f, "{}", said.join("; "))
    }
}

/// Classes by the names that users write.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
