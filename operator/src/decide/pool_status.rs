//! What is said of pools: from what is planned and observed to a status and to events. Pure: the time comes in.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{PoolBytes, PoolSlots, RecorderSlots, RecorderSpec, StoragePoolStatus};

use super::protection::{self, PROTECTED};
use super::status::{Note, set};

const RECORDERS_NOT_READY: &str = "RecordersNotReady";

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

/// What a recorder that is drained has left to do.
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
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
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
