//! A pool's specification and its streams as the planner wants them, and what it makes of them. Pure.

use std::collections::BTreeMap;

use framekeeper_crds::{CameraStreamSpec, RecorderSlots, RedundancyClass, StoragePoolSpec};
use framekeeper_plan::{
    self as plan, Class, Condition, Demand, Division, Held, Mix, NoReserve, Plan, Planner, Promise, Recorder, Shortage,
};

use super::capacity;
use super::size;
use super::state::CameraLimits;
use super::wanted::{Key, Wanted};

/// Who is to hold what in a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolPlan {
    /// How the slots of each recorder are divided.
    pub division: Division,
    /// Who holds what.
    pub plan: Plan<Key>,
    /// Recordings in normal slots, of all recorders together.
    pub used: u32,
    /// Standbys and recordings in reserved slots, of all recorders together.
    pub used_reserved: u32,
    /// What could not be done.
    pub shortage: Shortage,
    /// A Recorder object has room for so many channels only, because their addresses are long.
    pub room: Option<u32>,
}

/// The streams of a pool that are to be recorded.
#[must_use]
pub fn streams_of<'m>(wanted: &'m Wanted, pool: &Key) -> BTreeMap<Key, &'m CameraStreamSpec> {
    of_pool(wanted, pool).map(|(key, spec)| (key.clone(), spec)).collect()
}

/// The same, only gone through.
pub fn of_pool<'m>(wanted: &'m Wanted, pool: &Key) -> impl Iterator<Item = (&'m Key, &'m CameraStreamSpec)> {
    let ours = wanted.streams.iter().filter(|(key, stream)| {
        key.namespace == pool.namespace && stream.object.pool_ref.name == pool.name && !stream.object.suspend
    });
    ours.map(|(key, stream)| (key, stream.object.as_ref()))
}

/// The class that a stream is to have. The pool's own holds only where failures are tolerated: it has a default, which nobody may have asked for.
#[must_use]
pub fn class(stream: &CameraStreamSpec, pool: &StoragePoolSpec) -> RedundancyClass {
    stream.redundancy.unwrap_or_else(|| pool_class(pool))
}

fn pool_class(pool: &StoragePoolSpec) -> RedundancyClass {
    if pool.tolerated_failures == 0 { RedundancyClass::None } else { pool.redundancy.class }
}

fn planned(class: RedundancyClass) -> Class {
    match class {
        RedundancyClass::None => Class::None,
        RedundancyClass::Ready => Class::Ready,
        RedundancyClass::Playing => Class::Playing,
        RedundancyClass::Mirrored => Class::Mirrored,
    }
}

/// More streams than the budget has files for would starve each other, whatever maxChannels says.
#[must_use]
pub fn max_channels(pool: &StoragePoolSpec) -> u32 {
    pool.max_channels.min(capacity::streams_by_budget(pool))
}

/// What is remembered of a stream and counts when it is given to somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The recorder that had it last.
    pub last: Option<u32>,
    /// What its camera does not do.
    pub camera: CameraLimits,
}

/// Plans a pool with so many slots a recorder. `holds`: bytes of each Recorder that holds take; `known`: what is remembered of a stream; `held`: who holds what
/// now; `recorders`: those that are wanted, and those beyond them which go on until others have what they hold.
pub fn place(
    pool: &StoragePoolSpec,
    max_channels: u32,
    holds: u64,
    streams: &BTreeMap<Key, &CameraStreamSpec>,
    known: impl Fn(&Key) -> Known,
    held: &BTreeMap<Key, Held>,
    recorders: &[Recorder],
) -> PoolPlan {
    let demands: BTreeMap<Key, Demand> = streams
        .iter()
        .map(|(key, spec)| {
            let (Known { last, camera }, demand) = (known(key), demand(spec, pool));
            let max_sessions = demand.max_sessions.into_iter().chain(camera.sessions).min();
            let drops_idle_sessions = camera.drops_idle_sessions;
            (key.clone(), Demand { prefers: last, max_sessions, drops_idle_sessions, ..demand })
        })
        .collect();
    let room = size::channels(streams, max_channels, holds);
    let promise = promise(pool, room.unwrap_or(max_channels));
    let wanted: Vec<Recorder> = recorders.iter().filter(|it| it.ordinal < pool.recorders).copied().collect();
    let division = plan::divide(promise, &wanted, mix(pool, promise, demands.values()));
    let mut planner = Planner::new(promise, division, recorders, &demands, held);
    let loads = planner.loads();
    PoolPlan {
        division,
        plan: planner.plan(),
        used: loads.iter().map(|load| load.primaries - load.in_reserved).sum(),
        used_reserved: loads.iter().map(|load| load.dedicated + load.in_reserved).sum(),
        shortage: Shortage::of(&mut planner),
        room,
    }
}

fn demand(stream: &CameraStreamSpec, pool: &StoragePoolSpec) -> Demand {
    Demand {
        class: planned(class(stream, pool)),
        priority: stream.priority,
        max_sessions: stream.source.max_sessions,
        ..Demand::default()
    }
}

fn promise(pool: &StoragePoolSpec, max_channels: u32) -> Promise {
    let tolerated_failures = pool.tolerated_failures;
    let standbys = pool.redundancy.standbys.unwrap_or(tolerated_failures);
    Promise { max_channels, tolerated_failures, standbys }
}

/// The recorders of a pool of which nothing else is known: each can fail alone.
#[must_use]
pub fn recorders(pool: &StoragePoolSpec) -> Vec<Recorder> {
    (0..pool.recorders).map(|ordinal| Recorder { ordinal, domain: ordinal, condition: Condition::Active }).collect()
}

/// A pool without streams is divided for what its first one will be, so that what it says of its slots holds then too.
fn mix<'d>(pool: &StoragePoolSpec, promise: Promise, demands: impl ExactSizeIterator<Item = &'d Demand>) -> Mix {
    if demands.len() == 0 { Mix::only(planned(pool_class(pool))) } else { plan::mix(promise, demands) }
}

/// The least number of slots a recorder with which these streams have a normal slot each, and what is promised is kept; at most `maxChannels`.
#[must_use]
pub fn least_slots(pool: &StoragePoolSpec, streams: &BTreeMap<Key, &CameraStreamSpec>) -> u32 {
    let demands: Vec<Demand> = streams.values().map(|spec| demand(spec, pool)).collect();
    let recorders = recorders(pool);
    let is_enough = |max_channels: &u32| {
        let promise = promise(pool, *max_channels);
        let division = plan::divide(promise, &recorders, mix(pool, promise, demands.iter()));
        let normal = u64::from(division.slots.normal) * u64::from(pool.recorders);
        normal >= demands.len() as u64 && !matches!(division.no_reserve, Some(NoReserve::MaxChannels { .. }))
    };
    // Sorted, because what is enough stays so for larger numbers.
    let numbers: Vec<u32> = (1..=pool.max_channels).collect();
    numbers.get(numbers.partition_point(|number| !is_enough(number))).copied().unwrap_or(pool.max_channels)
}

impl PoolPlan {
    /// The slots of each recorder.
    #[must_use]
    pub fn slots(&self, pool: &StoragePoolSpec) -> RecorderSlots {
        let slots = self.division.slots;
        match slots.reserved {
            // The budget may bound what is planned; a recorder without a reserve is told what was written down.
            0 => RecorderSlots { normal: self.room.unwrap_or(pool.max_channels), reserved: 0 },
            reserved => RecorderSlots { normal: slots.normal, reserved },
        }
    }

    /// What is said where so many streams have too few normal slots.
    #[must_use]
    pub fn too_few_slots(&self, pool: &StoragePoolSpec, streams: u32) -> Option<String> {
        let RecorderSlots { normal, reserved } = self.slots(pool);
        let (recorders, max_channels) = (pool.recorders, pool.max_channels);
        if let Some(room) = self.room {
            let offered = u64::from(recorders) * u64::from(normal);
            let help = streams.div_ceil(normal.max(1));
            return (u64::from(streams) > offered).then(|| format!(
                "{streams} streams need {streams} normal slots, but {recorders} recorders have {offered}: the streams' addresses (spec.source.url, \
                 spec.source.onvif.endpoint) are so long that beside holds a Recorder object has room for {room} channels, whatever maxChannels {max_channels} says; \
                 shorten them, or set recorders: {help}"
            ));
        }
        // Unless it was planned as if there were room.
        let is_bounded = |limit: &capacity::BudgetLimit| reserved == 0 || normal + reserved <= limit.streams;
        if let Some(limit) = capacity::budget_limit(pool).filter(is_bounded) {
            // A recorder without a reserve is told what was written down.
            let normal = if reserved == 0 { limit.streams } else { normal };
            let offered = u64::from(recorders) * u64::from(normal);
            let help = streams.div_ceil(normal.max(1));
            return (u64::from(streams) > offered).then(|| {
                format!(
                    "{streams} streams need {streams} normal slots, but {recorders} recorders have {offered}: {limit}, whatever maxChannels {max_channels} \
                     says; ask for larger volumes, or set a smaller segment.bytes, or recorders: {help}"
                )
            });
        }
        if reserved == 0 {
            return capacity::shortage(streams, recorders, max_channels);
        }
        let offered = u64::from(recorders) * u64::from(normal);
        if u64::from(streams) <= offered {
            return None;
        }
        let failures = pool.tolerated_failures;
        let help = self.shortage.help.to_string();
        let help = if help.is_empty() { help } else { format!("; {help}") };
        Some(format!(
            "{streams} streams need {streams} normal slots, but {recorders} recorders with maxChannels {max_channels} have {offered}, \
             because toleratedFailures {failures} reserves {reserved} slots of each{help}"
        ))
    }

    /// What a stream is told for which there is no slot. The same for all of them, and the same when there is one more: else each that comes would
    /// change what all others are told.
    #[must_use]
    pub fn no_slot(&self, name: &str, pool: &StoragePoolSpec) -> String {
        let (recorders, max_channels) = (pool.recorders, pool.max_channels);
        let why = match self.room {
            Some(_) => {
                "; addresses of its streams (spec.source.url, spec.source.onvif.endpoint) are so long that beside holds a Recorder object has no room for that many".to_owned()
            }
            None => capacity::budget_limit(pool).map_or_else(String::new, |limit| format!("; {limit}")),
        };
        format!(
            "all slots of StoragePool {name} are taken, with recorders: {recorders} and maxChannels: {max_channels}{why}; its condition CapacitySufficient says \
             what would do. Streams of a higher priority come first"
        )
    }

    /// Why the pool can't lose as many recorders as it shall, and what would help: (reason, message).
    #[must_use]
    pub fn unprotected(&self) -> Option<(&'static str, String)> {
        let shortage = &self.shortage;
        match self.division.no_reserve {
            Some(_) if shortage.no_reserve.is_some() => Some(("NoReserve", shortage.to_string())),
            // No stream misses it yet.
            Some(why) => Some(("NoReserve", why.to_string())),
            None => (shortage.without_room > 0 || shortage.in_reserved > 0).then(|| ("Room", shortage.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(recorders: u32, max_channels: u32, more: &str) -> StoragePoolSpec {
        let text = format!(
            "{{recorders: {recorders}, maxChannels: {max_channels}, storage: {{volumes: [{{name: a, claimTemplate: \
             {{spec: {{resources: {{requests: {{storage: 100Gi}}}}}}}}}}]}}{more}}}"
        );
        framekeeper_crds::yaml::read(&text).unwrap()
    }

    fn stream(more: &str) -> CameraStreamSpec {
        framekeeper_crds::yaml::read(&format!("{{source: {{url: \"rtsp://c/1\"}}, poolRef: {{name: main}}{more}}}"))
            .unwrap()
    }

    fn placed(pool: &StoragePoolSpec, streams: &[CameraStreamSpec]) -> PoolPlan {
        let streams = (0..).zip(streams).map(|(n, spec): (u32, _)| (Key::new("default", format!("s{n:03}")), spec));
        let (max_channels, recorders) = (max_channels(pool), recorders(pool));
        place(pool, max_channels, 0, &streams.collect(), |_| Known::default(), &BTreeMap::new(), &recorders)
    }

    #[test]
    fn a_streams_own_class_comes_first_and_the_pools_only_where_failures_are_tolerated() {
        let (none, one) = (pool(3, 10, ""), pool(3, 10, ", toleratedFailures: 1"));
        let mirrored = pool(3, 10, ", toleratedFailures: 1, redundancy: {class: Mirrored}");
        assert_eq!(class(&stream(""), &none), RedundancyClass::None);
        assert_eq!(class(&stream(""), &one), RedundancyClass::Playing);
        assert_eq!(class(&stream(""), &mirrored), RedundancyClass::Mirrored);
        assert_eq!(class(&stream(", redundancy: None"), &one), RedundancyClass::None);
        assert_eq!(class(&stream(", redundancy: Playing"), &none), RedundancyClass::Playing);
    }

    #[test]
    fn slots_are_divided_for_the_streams_there_are_and_for_the_first_one() {
        let slots = |pool: &StoragePoolSpec, streams: &[CameraStreamSpec]| {
            let slots = placed(pool, streams).slots(pool);
            (slots.normal, slots.reserved)
        };
        let one = pool(3, 10, ", toleratedFailures: 1");
        assert_eq!(slots(&one, &[stream("")]), (5, 5));
        assert_eq!(slots(&one, &[]), (5, 5));
        assert_eq!(slots(&one, &[stream(", redundancy: None")]), (10, 0));
        assert_eq!(slots(&pool(3, 10, ""), &[stream("")]), (10, 0));
        let two = pool(3, 9, ", toleratedFailures: 1, redundancy: {standbys: 2}");
        assert_eq!(slots(&two, &[stream("")]), (3, 6));
        let plan = placed(&two, &[stream("")]);
        assert_eq!((plan.used, plan.used_reserved), (1, 2));
        // The budget has files for 4 streams a recorder: 2 + 12 segments of 64 MiB.
        let poor = framekeeper_crds::yaml::read::<StoragePoolSpec>(
            &framekeeper_crds::yaml::write(&one).unwrap().replace("100Gi", "896Mi"),
        );
        assert_eq!(slots(&poor.unwrap(), &[stream("")]), (2, 2));
    }

    #[test]
    fn volumes_with_no_room_for_as_many_streams_as_channels_are_named() {
        let small = |more: &str| {
            let text = framekeeper_crds::yaml::write(&pool(3, 10, more)).unwrap().replace("100Gi", "896Mi");
            framekeeper_crds::yaml::read::<StoragePoolSpec>(&text).unwrap()
        };
        let streams = vec![stream(""); 13];
        let (plain, held) = (small(""), small(", toleratedFailures: 1"));
        assert_eq!(placed(&plain, &streams[..12]).too_few_slots(&plain, 12), None);
        let said = placed(&plain, &streams).too_few_slots(&plain, 13).unwrap();
        let words =
            ["13 normal slots", "have 12", "room for 4 streams", "maxChannels 10", "larger volumes", "recorders: 4"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        let said = placed(&held, &streams).too_few_slots(&held, 13).unwrap();
        assert!(said.contains("have 6") && said.contains("room for 4 streams"), "{said}");
        let said = placed(&plain, &streams).no_slot("main", &plain);
        assert!(said.contains("room for 4 streams") && said.contains("CapacitySufficient"), "{said}");
    }

    #[test]
    fn streams_are_counted_against_normal_slots() {
        let one = pool(3, 10, ", toleratedFailures: 1");
        let streams = vec![stream(""); 16];
        assert_eq!(placed(&one, &streams[..15]).too_few_slots(&one, 15), None);
        let said = placed(&one, &streams).too_few_slots(&one, 16).unwrap();
        let words =
            ["16 normal slots", "have 15", "toleratedFailures 1 reserves 5", "1 more recorder or maxChannels 12"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        // What each of those that wait is told is the same with one more.
        let more = vec![stream(""); 17];
        assert_eq!(placed(&one, &streams).no_slot("main", &one), placed(&one, &more).no_slot("main", &one));
        let none = pool(3, 5, "");
        let said = placed(&none, &streams).too_few_slots(&none, 16).unwrap();
        assert!(said.contains("set recorders: 4 (1 more), or maxChannels: 6"), "{said}");
    }

    #[test]
    fn addresses_that_are_too_long_for_an_object_take_slots_and_say_so() {
        let pool = framekeeper_crds::yaml::write(&pool(1, 500, "")).unwrap().replace("100Gi", "500Gi");
        let pool: StoragePoolSpec = framekeeper_crds::yaml::read(&pool).unwrap();
        let long = stream("").source.url + &"x".repeat(2_000);
        let mut one = stream("");
        one.source.url = long;
        let plan = placed(&pool, &vec![one; 400]);
        let slots = plan.slots(&pool).normal;
        assert!(plan.used == slots && (300..400).contains(&slots), "{} of {slots}", plan.used);
        let said = plan.too_few_slots(&pool, 400).unwrap();
        assert!(said.contains("set recorders: 2") && said.contains("spec.source.url"), "{said}");
        let said = plan.no_slot("main", &pool);
        assert!(said.contains("StoragePool main") && said.contains("spec.source.url"), "{said}");
    }

    #[test]
    fn the_least_slots_hold_the_reserve_too() {
        let least = |pool: &StoragePoolSpec, count: usize| {
            let specs = vec![stream(""); count];
            let streams = (0..).zip(&specs).map(|(n, spec): (u32, _)| (Key::new("default", format!("s{n}")), spec));
            least_slots(pool, &streams.collect())
        };
        assert_eq!(least(&pool(3, 10, ""), 7), 3);
        assert_eq!(least(&pool(3, 10, ", toleratedFailures: 1"), 7), 6);
        assert_eq!(least(&pool(3, 10, ", toleratedFailures: 1"), 0), 2);
        // Nobody could stand by: as if none were asked for.
        assert_eq!(least(&pool(1, 10, ", toleratedFailures: 1"), 7), 7);
    }

    #[test]
    fn a_pool_says_why_it_can_lose_no_recorder() {
        let good = pool(3, 10, ", toleratedFailures: 1");
        assert_eq!(placed(&good, &[stream("")]).unprotected(), None);
        let alone = pool(1, 10, ", toleratedFailures: 1");
        let (reason, message) = placed(&alone, &[stream("")]).unprotected().unwrap();
        assert!(reason == "NoReserve" && message.contains("1 more recorder"), "{message}");
        let (_, message) = placed(&alone, &[]).unprotected().unwrap();
        assert!(message.contains("needs 2 failure domains"), "{message}");
        let small = pool(3, 1, ", toleratedFailures: 1");
        let (_, message) = placed(&small, &[stream("")]).unprotected().unwrap();
        assert!(message.contains("maxChannels 2"), "{message}");
    }
}
