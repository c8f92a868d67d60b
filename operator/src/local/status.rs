//! What is said of streams and pools: from what is planned and observed to statuses and events. Pure: the time comes in.
//! While a stream records steadily its status does not change, so that nothing is written.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{
    CameraStreamStatus, ChannelState, PoolBytes, PoolSlots, RecorderSlots, RecorderStatus, StoragePoolStatus,
    StreamAssignment, StreamPhase,
};

use super::observe::ChannelReport;
use super::protection::PROTECTED;

/// What is known of what a stream is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// It is not to be recorded.
    Suspended,
    /// There are too few slots.
    NoSlot {
        /// What would help.
        message: String,
    },
    /// The operator was told to stop, and its recorders with it.
    Stopped,
    /// Its recorder does not run.
    RecorderDown,
    /// Its recorder runs but does not answer, or not yet of this stream.
    NoAnswer,
    /// Nobody records it at the moment, but a standby is about to.
    TakingOver,
    /// What its recorder says.
    Reported(ChannelReport),
}

/// Something that happened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `Normal` or `Warning`.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

const NO_ANSWER: &str = "RecorderNotAnswering";
const RECORDERS_NOT_READY: &str = "RecordersNotReady";

struct Verdict {
    phase: StreamPhase,
    ready: &'static str,
    recording: &'static str,
    reachable: &'static str,
    reason: String,
    message: String,
}

fn verdict(old: Option<StreamPhase>, doing: &Doing) -> Option<Verdict> {
    let all = |phase, [ready, recording, reachable]: [&'static str; 3], reason: &str, message: &str| {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Some(Verdict { phase, ready, recording, reachable, reason, message })
    };
    const NO: [&str; 3] = ["False", "False", "Unknown"];
    match doing {
        Doing::Suspended => {
            all(StreamPhase::Suspended, ["True", "False", "Unknown"], "Suspended", "spec.suspend is true")
        }
        Doing::NoSlot { message } => all(StreamPhase::Pending, NO, "NoSlot", message),
        Doing::Stopped => all(StreamPhase::Pending, NO, "Stopped", "the operator and its recorders were stopped"),
        Doing::RecorderDown => {
            all(StreamPhase::Failed, NO, "RecorderNotRunning", "the recorder does not run; it is being started again")
        }
        Doing::NoAnswer => {
            let unknown = ["Unknown", "Unknown", "Unknown"];
            all(StreamPhase::Connecting, unknown, NO_ANSWER, "the recorder has not said anything of the stream yet")
        }
        // It is over before anybody could do anything, or else it is told as what it is then.
        Doing::TakingOver => None,
        Doing::Reported(report) => {
            let reason = report.reason.as_deref();
            let message = report.message.as_deref().unwrap_or_default();
            match report.state {
                Some(ChannelState::Recording) => {
                    all(StreamPhase::Recording, ["True", "True", "True"], "Recording", "frames reach the disk")
                }
                // Between two attempts nothing is better than it was: staying with the failure tells more, and writes less.
                Some(ChannelState::Connecting | ChannelState::Standby) | None if old == Some(StreamPhase::Failed) => {
                    None
                }
                Some(ChannelState::Connecting | ChannelState::Standby) | None => all(
                    StreamPhase::Connecting,
                    NO,
                    reason.unwrap_or("Connecting"),
                    if message.is_empty() { "connecting to the camera" } else { message },
                ),
                Some(ChannelState::Backoff) => {
                    all(StreamPhase::Failed, ["False", "False", "False"], reason.unwrap_or("SourceFailed"), message)
                }
                Some(ChannelState::Suspended) => {
                    all(StreamPhase::Suspended, ["True", "False", "Unknown"], "Suspended", message)
                }
                Some(ChannelState::Failed) => all(StreamPhase::Failed, NO, reason.unwrap_or("Failed"), message),
            }
        }
    }
}

/// The status of a stream after `old`. Who is `active` in the assignment counts only while it is recorded; nobody there: the primary.
pub fn stream(
    old: &CameraStreamStatus,
    generation: i64,
    assignment: Option<StreamAssignment>,
    doing: &Doing,
    now: Timestamp,
) -> CameraStreamStatus {
    let mut new = old.clone();
    new.observed_generation = Some(generation);
    let verdict = verdict(old.phase, doing);
    if let Some(verdict) = &verdict {
        new.phase = Some(verdict.phase);
        for (kind, status) in
            [("Ready", verdict.ready), ("Recording", verdict.recording), ("SourceReachable", verdict.reachable)]
        {
            set(&mut new.conditions, kind, status, &verdict.reason, &verdict.message, generation, now);
        }
    }
    let recording = new.phase == Some(StreamPhase::Recording);
    new.assignment = assignment.map(|assignment| {
        let before =
            || old.assignment.as_ref().and_then(|old| old.active.clone()).filter(|_| *doing == Doing::TakingOver);
        let active = assignment.active.clone().or_else(before).or_else(|| Some(assignment.primary.clone()));
        StreamAssignment { active: active.filter(|_| recording), ..assignment }
    });
    if let Doing::Reported(report) = doing {
        if recording {
            let measured = measured_bitrate(report);
            let same = (&old.codec, &old.resolution) == (&report.codec, &report.resolution());
            // Once for each set of parameters: it changes all the time.
            new.bitrate =
                if same && old.phase == Some(StreamPhase::Recording) { old.bitrate.or(measured) } else { measured };
            new.codec = report.codec.clone().or(new.codec);
            new.resolution = report.resolution().or(new.resolution);
        } else {
            let last = report.last_frame.map(MicroTime).or(old.last_frame_time.clone());
            new.last_frame_time = last;
        }
    }
    if recording {
        new.last_frame_time = None;
    }
    new
}

/// The bit rate to two digits, once enough was seen to measure it.
fn measured_bitrate(report: &ChannelReport) -> Option<u64> {
    const SECONDS: f64 = 5.0;
    let rate = report.bitrate.filter(|rate| *rate >= 1.0)?;
    if (report.frames as f64) < report.fps? * SECONDS {
        return None;
    }
    let unit = 10_f64.powf(rate.log10().floor() - 1.0).max(1.0);
    Some(((rate / unit).round() * unit) as u64)
}

/// Sets a condition. Its time changes with its status only, and its message with its reason only: messages may count attempts.
pub(super) fn set(
    list: &mut Vec<Condition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let condition = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    match list.iter_mut().find(|existing| existing.type_ == kind) {
        None => list.push(condition),
        Some(existing) => {
            let last_transition_time = if existing.status == status {
                existing.last_transition_time.clone()
            } else {
                condition.last_transition_time.clone()
            };
            let message = if (existing.status.as_str(), existing.reason.as_str()) == (status, reason)
                && !reason_has_details(reason)
            {
                existing.message.clone()
            } else {
                condition.message.clone()
            };
            *existing = Condition { last_transition_time, message, ..condition };
        }
    }
}

/// Reasons of our own, whose messages only change when something did.
fn reason_has_details(reason: &str) -> bool {
    matches!(
        reason,
        "NoSlot" | "Failures" | "NoReserve" | "Room" | "Sessions" | "StandbyNotReady" | "TakenOver" | "Protected"
    )
}

/// What people should be told of a stream's change, if anything.
pub fn stream_note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    let condition = |status: &CameraStreamStatus| {
        status.conditions.iter().find(|c| c.type_ == "Recording").map(|c| (c.reason.clone(), c.message.clone()))
    };
    let (reason, message) = condition(new)?;
    let unchanged = old.phase == new.phase && condition(old).is_some_and(|(old, _)| old == reason);
    let primary = |status: &CameraStreamStatus| status.assignment.as_ref().map(|a| (a.primary.clone(), a.epoch));
    if unchanged {
        let (new_primary, epoch) = primary(new)?;
        if primary(old).is_none_or(|(old, _)| old == new_primary) {
            return None;
        }
        let message = format!("given to {new_primary}, epoch {epoch}");
        return Some(Note { warning: false, reason: "Assigned".into(), message });
    }
    if matches!(old.phase, None | Some(StreamPhase::Pending)) && reason == NO_ANSWER {
        // That a recorder needs a moment to start is no news.
        return None;
    }
    let recorder = new.assignment.as_ref().map(|a| a.active.as_ref().unwrap_or(&a.primary).clone()).unwrap_or_default();
    Some(match new.phase? {
        StreamPhase::Recording => {
            let what = [new.codec.as_deref(), new.resolution.as_deref()].into_iter().flatten().collect::<Vec<_>>();
            let what = if what.is_empty() { String::new() } else { format!(" ({})", what.join(", ")) };
            Note { warning: false, reason, message: format!("recorded by {recorder}{what}") }
        }
        StreamPhase::Suspended | StreamPhase::Connecting => {
            let warning = old.phase == Some(StreamPhase::Recording) && new.phase == Some(StreamPhase::Connecting);
            Note { warning, reason, message }
        }
        StreamPhase::Pending | StreamPhase::Failed => Note { warning: reason != "Stopped", reason, message },
    })
}

/// What people should be told when another recorder than before records a stream.
pub fn takeover_note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    let now = new.assignment.as_ref()?;
    let active = now.active.as_ref()?;
    let before = old.assignment.as_ref();
    let former = before.and_then(|before| before.active.as_ref());
    if former == Some(active) {
        return None;
    }
    if *active != now.primary {
        // Where nobody recorded in between, it is the primary that failed.
        let from = former.unwrap_or(&now.primary);
        let message = format!("taken over by {active} from {from}, epoch {}", now.epoch);
        return Some(Note { warning: true, reason: "TakenOver".into(), message });
    }
    // That a stream was given to another primary is told when it is decided.
    let same_primary = before.is_some_and(|before| before.primary == now.primary);
    let from_standby = former.is_some_and(|former| now.standbys.contains(former));
    let message = format!("given back to {active}, epoch {}", now.epoch);
    (same_primary && from_standby).then(|| Note { warning: false, reason: "HandedBack".into(), message })
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
}

/// The status of a pool after `old`.
pub fn pool(old: &StoragePoolStatus, generation: i64, view: &PoolView, now: Timestamp) -> StoragePoolStatus {
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
    match view.ready < view.recorders {
        true => put("Progressing", true, "RecordersStarting", "recorders are being started"),
        false => put("Progressing", false, "Settled", "all recorders run"),
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
            let message = match view.tolerated_failures {
                1 => "any one recorder may fail".to_owned(),
                many => format!("any {many} recorders may fail"),
            };
            put(PROTECTED, true, PROTECTED, &message);
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

/// What people should be told of a pool's change: each condition that turned.
pub fn pool_notes(old: &StoragePoolStatus, new: &StoragePoolStatus) -> Vec<Note> {
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
            "Progressing" => None,
            "Available" if old.conditions.is_empty() => None,
            PROTECTED if condition.reason == RECORDERS_NOT_READY => None,
            // What is as it should be from the start is no news.
            _ => (bad || !old.conditions.is_empty()).then_some(Note { warning: bad, reason, message }),
        }
    };
    turned.filter_map(note).collect()
}

/// What people should be told of a recorder's change: that room runs short, how short, and that it does no longer.
pub fn recorder_notes(old: Option<&RecorderStatus>, new: &RecorderStatus) -> Vec<Note> {
    let space = |status: &RecorderStatus| status.conditions.iter().find(|c| c.type_ == "RecordingSpace").cloned();
    let before = old.and_then(space);
    let Some(now) = space(new) else { return Vec::new() };
    let was_bad = before.as_ref().is_some_and(|before| before.status == "False");
    let is_bad = now.status == "False";
    let said =
        before.is_some_and(|before| (before.status, before.message) == (now.status.clone(), now.message.clone()));
    if said || !(was_bad || is_bad) {
        return Vec::new();
    }
    vec![Note { warning: is_bad, reason: now.reason, message: now.message }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn assigned() -> Option<StreamAssignment> {
        Some(StreamAssignment { epoch: 1, primary: "main-recorder-0".into(), ..StreamAssignment::default() })
    }

    fn report(state: ChannelState) -> ChannelReport {
        ChannelReport {
            state: Some(state),
            codec: Some("avc1.64001f".into()),
            width: Some(1920),
            height: Some(1080),
            fps: Some(25.0),
            bitrate: Some(4_012_345.0),
            frames: 500,
            last_frame: Some(at(0)),
            ..ChannelReport::default()
        }
    }

    fn condition<'s>(status: &'s CameraStreamStatus, kind: &str) -> &'s Condition {
        status.conditions.iter().find(|c| c.type_ == kind).unwrap()
    }

    #[test]
    fn steady_recording_changes_nothing() {
        let recording = Doing::Reported(report(ChannelState::Recording));
        let first = stream(&CameraStreamStatus::default(), 1, assigned(), &recording, at(1));
        assert_eq!(first.phase, Some(StreamPhase::Recording));
        assert_eq!(first.bitrate, Some(4_000_000));
        assert_eq!(first.assignment.as_ref().unwrap().active.as_deref(), Some("main-recorder-0"));
        assert_eq!(first.last_frame_time, None);
        let later = ChannelReport {
            bitrate: Some(5e6),
            last_frame: Some(at(9)),
            frames: 900,
            ..report(ChannelState::Recording)
        };
        let second = stream(&first, 1, assigned(), &Doing::Reported(later), at(9));
        assert_eq!(second, first);
        assert_eq!(stream_note(&first, &second), None);
    }

    #[test]
    fn a_failure_says_why_and_since_when_and_retries_write_nothing() {
        let recording = stream(
            &CameraStreamStatus::default(),
            1,
            assigned(),
            &Doing::Reported(report(ChannelState::Recording)),
            at(1),
        );
        let failed = ChannelReport {
            reason: Some("Unauthorized".into()),
            message: Some("the camera refused user name and password, attempt 1".into()),
            ..report(ChannelState::Backoff)
        };
        let status = stream(&recording, 1, assigned(), &Doing::Reported(failed.clone()), at(5));
        assert_eq!(status.phase, Some(StreamPhase::Failed));
        assert_eq!(status.last_frame_time, Some(MicroTime(at(0))));
        assert_eq!(condition(&status, "Recording").last_transition_time, Time(at(5)));
        assert_eq!(condition(&status, "SourceReachable").reason, "Unauthorized");
        let note = stream_note(&recording, &status).unwrap();
        assert!(note.warning && note.message.contains("refused"));

        let retry = stream(&status, 1, assigned(), &Doing::Reported(report(ChannelState::Connecting)), at(6));
        assert_eq!(retry, status);
        let again = ChannelReport { message: Some("attempt 2".into()), ..failed };
        assert_eq!(stream(&status, 1, assigned(), &Doing::Reported(again), at(7)), status);

        let back = stream(&status, 1, assigned(), &Doing::Reported(report(ChannelState::Recording)), at(8));
        assert_eq!(condition(&back, "Recording").last_transition_time, Time(at(8)));
        assert_eq!(back.last_frame_time, None);
        assert!(!stream_note(&status, &back).unwrap().warning);
    }

    #[test]
    fn who_is_not_recorded_is_told_why() {
        let none = CameraStreamStatus::default();
        let no_slot = Doing::NoSlot { message: "add a recorder".into() };
        let status = stream(&none, 1, None, &no_slot, at(1));
        assert_eq!((status.phase, condition(&status, "Ready").reason.as_str()), (Some(StreamPhase::Pending), "NoSlot"));
        assert_eq!(status.assignment, None);
        let status = stream(&none, 1, None, &Doing::Suspended, at(1));
        assert_eq!((status.phase, condition(&status, "Ready").status.as_str()), (Some(StreamPhase::Suspended), "True"));
        let status = stream(&none, 1, assigned(), &Doing::RecorderDown, at(1));
        assert_eq!(status.phase, Some(StreamPhase::Failed));
        let status = stream(&none, 1, assigned(), &Doing::NoAnswer, at(1));
        assert_eq!(condition(&status, "Recording").status, "Unknown");
    }

    #[test]
    fn that_room_runs_short_is_told_once_for_each_step() {
        let status = |status: &str, message: &str| RecorderStatus {
            conditions: vec![Condition {
                type_: "RecordingSpace".into(),
                status: status.into(),
                reason: "HoldsFillVolume".into(),
                message: message.into(),
                observed_generation: None,
                last_transition_time: Time(at(0)),
            }],
            ..RecorderStatus::default()
        };
        let (good, day, hour) = (status("True", "fine"), status("False", "24 h"), status("False", "1 h"));
        assert_eq!(recorder_notes(None, &good), []);
        assert_eq!(recorder_notes(Some(&good), &good), []);
        let note =
            |warning, message: &str| vec![Note { warning, reason: "HoldsFillVolume".into(), message: message.into() }];
        assert_eq!(recorder_notes(None, &day), note(true, "24 h"));
        assert_eq!(recorder_notes(Some(&good), &day), note(true, "24 h"));
        assert_eq!(recorder_notes(Some(&day), &day), []);
        assert_eq!(recorder_notes(Some(&day), &hour), note(true, "1 h"));
        assert_eq!(recorder_notes(Some(&hour), &good), note(false, "fine"));
    }

    #[test]
    fn pools() {
        let slots = RecorderSlots { normal: 5, reserved: 0 };
        let view = PoolView { recorders: 2, ready: 1, slots, streams: 3, used: 3, ..PoolView::default() };
        let status = pool(&StoragePoolStatus::default(), 1, &view, at(1));
        let of = |status: &StoragePoolStatus, kind: &str| {
            status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.clone()).unwrap()
        };
        assert_eq!((of(&status, "Available"), of(&status, "Progressing")), ("False".into(), "True".into()));
        let better = pool(&status, 1, &PoolView { ready: 2, ..view.clone() }, at(2));
        assert_eq!((of(&better, "Available"), of(&better, "Degraded")), ("True".into(), "False".into()));
        assert_eq!(better.slots.normal, 10);
        assert_eq!(pool(&better, 1, &PoolView { ready: 2, ..view.clone() }, at(3)), better);
        let bad = PoolView { trouble: vec!["r/a: EIO".into()], shortage: Some("add 1".into()), ..view };
        let worse = pool(&better, 1, &bad, at(4));
        assert_eq!((of(&worse, "CapacitySufficient"), of(&worse, "Degraded")), ("False".into(), "True".into()));
    }
}
