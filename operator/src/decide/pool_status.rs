//! What is said of pools: from what is planned and observed to a status and to events. Pure: the time comes in.

use std::fmt;
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{PoolBytes, PoolSlots, RecorderSlots, RecorderSpec, StoragePoolStatus};

use super::protection::{self, PROTECTED};
use super::status::{Note, set};

const RECORDERS_NOT_READY: &str = "RecordersNotReady";
/// What a rollout waits for is told once it has waited for it for so long.
const WAITED_FOR: Duration = Duration::from_secs(30);

/// How far a pool is whose pods are made anew from another template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// Recorders that have the present one.
    pub done: usize,
    /// All of them.
    pub all: usize,
    /// What the next one waits for.
    pub waits_for: String,
}

impl fmt::Display for Rolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, all, waits_for } = self;
        write!(f, "{done} of {all} recorders have the present template; the next one has it when {waits_for}")
    }
}

/// What is told of that. While standbys fill their memories another stream is waited for each second: it is told of when it stays the same, and else
/// together with the next recorder.
#[derive(Debug)]
pub(super) struct ToldRolling {
    told: Rolling,
    /// What is waited for now, and since when.
    waits_for: (String, Instant),
}

impl ToldRolling {
    /// It begins.
    pub(super) fn new(rolling: Rolling, now: Instant) -> Self {
        Self { waits_for: (rolling.waits_for.clone(), now), told: rolling }
    }

    /// So far it is now: what is told.
    pub(super) fn at(&mut self, rolling: &Rolling, now: Instant) -> &Rolling {
        if self.waits_for.0 != rolling.waits_for {
            self.waits_for = (rolling.waits_for.clone(), now);
        }
        let is_further = (self.told.done, self.told.all) != (rolling.done, rolling.all);
        if is_further || now.duration_since(self.waits_for.1) >= WAITED_FOR {
            self.told.clone_from(rolling);
        }
        &self.told
    }
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// Number of recorders that are planned.
    pub recorders: u32,
    /// Number of recorders that say they can record.
    pub ready: u32,
    /// The slots of each recorder.
    pub slots: RecorderSlots,
    /// Streams that name the pool.
    pub streams: u32,
    /// Recordings in normal slots.
    pub used: u32,
    /// Standbys and recordings in reserved slots.
    pub used_reserved: u32,
    /// Why there are too few slots, if there are.
    pub shortage: Option<String>,
    /// Why it is not as it is written down, but as it was before: (reason, message).
    pub refused: Option<(&'static str, String)>,
    /// How many recorders may fail at once; 0: the pool promises nothing.
    pub tolerated_failures: u32,
    /// Why that is not so even while all run, if it is not: (reason, message).
    pub unprotected: Option<(&'static str, String)>,
    /// Bytes that may be used, all volumes together.
    pub capacity_bytes: u64,
    /// Bytes that hold footage, as of the last transition.
    pub used_bytes: u64,
    /// Recorders and volumes that do not work, as `recorder: why`.
    pub trouble: Vec<String>,
    /// How far it is, while pods are made anew from another template.
    pub rolling: Option<String>,
    /// Recorders that are not wanted any more and run until others have what they hold, as `recorder: what is left`.
    pub draining: Vec<String>,
}

/// The status of a pool after `old`.
pub fn status(old: &StoragePoolStatus, generation: i64, view: &PoolView, now: Timestamp) -> StoragePoolStatus {
    let mut conditions = old.conditions.clone();
    let mut put = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        set(&mut conditions, kind, status, reason, message, generation, now);
    };
    match view.ready {
        0 => put("Available", false, "NoRecorderReady", "no recorder can record yet"),
        ready if ready < view.recorders => put("Available", false, RECORDERS_NOT_READY, "some recorders cannot record"),
        _ => put("Available", true, "RecordersReady", "all recorders can record"),
    }
    match &view.shortage {
        Some(message) => put("CapacitySufficient", false, "NoSlot", message),
        None => put("CapacitySufficient", true, "SlotsSuffice", "every stream has a slot"),
    }
    match view.draining.as_slice() {
        _ if view.refused.is_some() => {
            let (reason, message) = view.refused.clone().unwrap_or_default();
            put("Progressing", false, reason, &message);
        }
        _ if view.rolling.is_some() => {
            put("Progressing", true, "RollingOut", view.rolling.as_deref().unwrap_or_default());
        }
        _ if view.ready < view.recorders => {
            put("Progressing", true, "RecordersStarting", "recorders are being started")
        }
        [] => put("Progressing", false, "Settled", "all recorders run"),
        draining => {
            let message = format!("recorders are drained before they are stopped: {}", draining.join("; "));
            put("Progressing", true, "RecordersDraining", &message);
        }
    }
    match view.trouble.as_slice() {
        [] => put("Degraded", false, "AllWork", "all recorders and volumes work"),
        trouble => put("Degraded", true, "Failures", &trouble.join("; ")),
    }
    let can_lose = view.tolerated_failures > 0;
    match &view.unprotected {
        Some((reason, message)) if can_lose => put(PROTECTED, false, reason, message),
        None if can_lose && view.ready < view.recorders => {
            put(PROTECTED, false, RECORDERS_NOT_READY, "some recorders cannot record, so fewer others may fail");
        }
        None if can_lose => {
            let may_fail = protection::may_fail(view.tolerated_failures);
            put(PROTECTED, true, PROTECTED, &format!("{may_fail}, and every stream that has standbys goes on"));
        }
        _ => conditions.retain(|condition| condition.type_ != PROTECTED),
    }
    let normal = view.recorders.saturating_mul(view.slots.normal);
    let reserved = view.recorders.saturating_mul(view.slots.reserved);
    StoragePoolStatus {
        observed_generation: Some(generation),
        conditions,
        recorders: view.recorders,
        ready_recorders: view.ready,
        slots: PoolSlots {
            normal,
            reserved,
            total: normal.saturating_add(reserved),
            used: view.used,
            used_reserved: view.used_reserved,
        },
        streams: view.streams,
        bytes: PoolBytes { capacity: view.capacity_bytes, used: view.used_bytes },
    }
}

/// What a recorder that is drained has left to do. `spec`: what it was decided to be told.
#[must_use]
pub fn left(name: &str, spec: &RecorderSpec) -> String {
    let streams = |count: usize| if count == 1 { "1 stream".to_owned() } else { format!("{count} streams") };
    // What others have been given is among what it is to let go of.
    match (spec.channels.len(), spec.retired.len()) {
        (0, leaving) => format!("{name} records {} until others do", streams(leaving)),
        (stuck, _) => format!(
            "{name} keeps {}, for which no other recorder has a free slot: raise recorders or maxChannels, or remove streams",
            streams(stuck)
        ),
    }
}

/// What people should be told of a pool's change: each condition that turned.
pub fn notes(old: &StoragePoolStatus, new: &StoragePoolStatus) -> Vec<Note> {
    let turned = new.conditions.iter().filter(|condition| {
        let before = old.conditions.iter().find(|old| old.type_ == condition.type_);
        before.map(|before| (&before.status, &before.reason)) != Some((&condition.status, &condition.reason))
    });
    let note = |condition: &Condition| {
        let good = if condition.type_ == "Degraded" { "False" } else { "True" };
        let bad = condition.status != good;
        let (reason, message) = (condition.reason.clone(), condition.message.clone());
        match condition.type_.as_str() {
            // Starting is what pools do; that it takes long shows in Available and Degraded.
            "Progressing" if !matches!(condition.reason.as_str(), "InvalidSpec" | "Unreadable") => None,
            "Progressing" => Some(Note { warning: true, reason, message }),
            "Available" if old.conditions.is_empty() => None,
            PROTECTED if condition.reason == RECORDERS_NOT_READY => None,
            // What is as it should be from the start is no news.
            _ => (bad || !old.conditions.is_empty()).then_some(Note { warning: bad, reason, message }),
        }
    };
    turned.filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

    use framekeeper_crds::{Recorder, RecorderStatus};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::sink::Outbox;
    use crate::decide::assign::{World, assign};
    use crate::decide::observe::Reports;
    use crate::decide::report::{Reporter, View};
    use crate::decide::seen::Seen;
    use crate::decide::state::State;
    use crate::decide::wanted::{Key, Wanted};
    use crate::local::manifest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn progressing(status: &StoragePoolStatus) -> (&str, &str) {
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap();
        (&condition.reason, &condition.message)
    }

    /// Recorders of which nothing is known but what they say.
    struct Say(BTreeMap<Key, RecorderStatus>);

    impl World for Say {
        fn new_uuid(&mut self) -> Uuid {
            Uuid::from_u128(7)
        }

        fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
            None
        }

        fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
            self.0.get(recorder)
        }

        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }
    }

    /// A pool of so many recorders, and two streams.
    fn wanted(recorders: u32) -> Wanted {
        let mut text = format!(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{recorders: {recorders}, maxChannels: 5, \
             storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 10Gi}}}}}}}}}}]}}}}\n"
        );
        for name in ["a", "b"] {
            text.push_str(&format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
                 spec: {{source: {{url: \"rtsp://c/{name}\"}}, poolRef: {{name: main}}}}\n"
            ));
        }
        let reading = manifest::read(&[(PathBuf::from("f"), text)]);
        assert!(reading.mistakes.is_empty(), "{:?}", reading.mistakes);
        reading.manifests.wanted()
    }

    #[test]
    fn how_far_it_is_is_told_with_each_step_and_what_is_waited_for_when_it_stays() {
        let far = |done, waits_for: &str| Rolling { done, all: 3, waits_for: waits_for.to_owned() };
        let begin = Instant::now();
        let mut rolling = ToldRolling::new(far(0, "all recorders can record"), begin);
        let mut told = |second, now: &Rolling| rolling.at(now, begin + Duration::from_secs(second)).clone();
        // Each second another stream is ready.
        for second in 1..100 {
            let seen = told(second, &far(0, &format!("stream {second} is recorded")));
            assert_eq!(seen, far(0, "all recorders can record"));
        }
        assert_eq!(told(100, &far(1, "a is recorded")), far(1, "a is recorded"), "one more");
        assert_eq!(told(110, &far(1, "b is recorded")), far(1, "a is recorded"));
        assert_eq!(told(139, &far(1, "b is recorded")), far(1, "a is recorded"));
        assert_eq!(told(140, &far(1, "b is recorded")), far(1, "b is recorded"), "that one is stuck");
        let view = |far: &Rolling| {
            let rolling = Some(far.to_string());
            PoolView { recorders: 3, ready: 3, rolling, ..PoolView::default() }
        };
        let first = status(&StoragePoolStatus::default(), 1, &view(&far(0, "x is recorded")), at(1));
        let second = status(&first, 1, &view(&far(1, "x is recorded")), at(2));
        let said = "1 of 3 recorders have the present template; the next one has it when x is recorded";
        assert_eq!(progressing(&second), ("RollingOut", said));
        assert_eq!(notes(&first, &second), []);
    }

    #[test]
    fn what_is_left_to_drain_is_what_was_decided_and_not_what_was_written_before() {
        let (of_two, of_one, drained) = (wanted(2), wanted(1), Key::new("default", "main-recorder-1"));
        let mut world = Say([(drained.clone(), RecorderStatus::default())].into());
        let before = assign(&of_two, State { term: 1, ..State::default() }, &mut world);
        let decided = assign(&of_one, before.state.clone(), &mut world);
        let (now, unmade, rolling) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
        let running = before.recorders.iter().map(|(key, recorder)| {
            let mut seen = Seen::new(Arc::clone(recorder), String::new());
            seen.is_running = true;
            seen.heard(Some(Arc::new(Reports::default())), now);
            (key.clone(), seen)
        });
        let running: BTreeMap<Key, Seen> = running.collect();
        let mut reporter = Reporter::new(Outbox::default());
        let mut told = |state: &State| {
            let (wanted, plans, running, unmade, rolling) = (&of_one, &decided.plans, &running, &unmade, &rolling);
            let view = View { wanted, state, plans, running, unmade, rolling, stopped: false, revision: None };
            reporter.report(&view, now, at(1));
            let pool = reporter.sink.pools.remove(&Key::new("default", "main"));
            pool.map(|pool| progressing(&pool.status.unwrap()).1.to_owned())
        };
        let said = "recorders are drained before they are stopped: main-recorder-1 records 1 stream until others do";
        assert_eq!(told(&decided.state).as_deref(), Some(said));
        assert_eq!(told(&decided.state), None, "nothing is written while nothing changes");
        let mut done = decided.state.clone();
        let mut recorder = Recorder::clone(&decided.recorders[&drained]);
        recorder.spec.retired.clear();
        done.recorders.get_mut(&drained.to_string()).unwrap().spec = Arc::new(recorder).into();
        assert!(told(&done).is_some_and(|said| said.ends_with("main-recorder-1 records 0 streams until others do")));
    }

    #[test]
    fn pools() {
        let slots = RecorderSlots { normal: 5, reserved: 0 };
        let view = PoolView { recorders: 2, ready: 1, slots, streams: 3, used: 3, ..PoolView::default() };
        let first = status(&StoragePoolStatus::default(), 1, &view, at(1));
        let of = |status: &StoragePoolStatus, kind: &str| {
            status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.clone()).unwrap()
        };
        assert_eq!((of(&first, "Available"), of(&first, "Progressing")), ("False".into(), "True".into()));
        let better = status(&first, 1, &PoolView { ready: 2, ..view.clone() }, at(2));
        assert_eq!((of(&better, "Available"), of(&better, "Degraded")), ("True".into(), "False".into()));
        assert_eq!(better.slots.normal, 10);
        assert_eq!(status(&better, 1, &PoolView { ready: 2, ..view.clone() }, at(3)), better);
        let bad = PoolView { trouble: vec!["r/a: EIO".into()], shortage: Some("add 1".into()), ..view };
        assert!(better.conditions.iter().all(|c| c.type_ != "Protected"));
        let worse = status(&better, 1, &bad, at(4));
        assert_eq!((of(&worse, "CapacitySufficient"), of(&worse, "Degraded")), ("False".into(), "True".into()));
    }

    #[test]
    fn a_pool_that_tolerates_failures_says_whether_it_can_lose_a_recorder() {
        let slots = RecorderSlots { normal: 5, reserved: 5 };
        let view = PoolView {
            recorders: 3,
            ready: 3,
            slots,
            used: 4,
            used_reserved: 6,
            tolerated_failures: 1,
            ..PoolView::default()
        };
        let of = |view: &PoolView| {
            let pool = status(&StoragePoolStatus::default(), 1, view, at(1));
            let protected = pool.conditions.iter().find(|c| c.type_ == PROTECTED).cloned().unwrap();
            (protected.status, protected.reason, pool.slots)
        };
        let (holds, _, slots) = of(&view);
        assert_eq!(holds, "True");
        assert_eq!(slots, PoolSlots { normal: 15, reserved: 15, total: 30, used: 4, used_reserved: 6 });
        let (holds, reason, _) = of(&PoolView { ready: 2, ..view.clone() });
        assert_eq!((holds.as_str(), reason.as_str()), ("False", "RecordersNotReady"));
        let lacking = Some(("NoReserve", "needs 2 failure domains".to_owned()));
        let (holds, reason, _) = of(&PoolView { unprotected: lacking, ..view });
        assert_eq!((holds.as_str(), reason.as_str()), ("False", "NoReserve"));
    }
}
