//! What is said of streams: from what is planned and observed to statuses and events. Pure: the time comes in.
//! While a stream records steadily its status does not change, so that nothing is written.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStreamStatus, ChannelState, StreamAssignment, StreamPhase};

use super::observe::ChannelReport;

/// What is known of what a stream is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// It is not to be recorded.
    Suspended,
    /// It can't be recorded as it is written down.
    Refused {
        /// One word.
        reason: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
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
    Reported(Box<ChannelReport>),
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
        Doing::Refused { reason, message } => all(StreamPhase::Pending, NO, reason, message),
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
        let before = old.assignment.as_ref();
        if !recording {
            return unrecorded(before, assignment);
        }
        let before = || before.and_then(|old| old.active.clone()).filter(|_| *doing == Doing::TakingOver);
        let active = assignment.active.clone().or_else(before).or_else(|| Some(assignment.primary.clone()));
        StreamAssignment { active, ..assignment }
    });
    if let Doing::Reported(report) = doing {
        if recording {
            let measured = measured_bitrate(report);
            // A recorder that can't be asked says by its Recorder that it records, and not what.
            let is_same =
                |said: Option<&String>, old: &Option<String>| said.is_none_or(|said| Some(said) == old.as_ref());
            let same =
                is_same(report.codec.as_ref(), &old.codec) && is_same(report.resolution().as_ref(), &old.resolution);
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

/// A stream that goes on as it was known before is not as it was asked for: why.
pub fn refuse(old: &CameraStreamStatus, new: &mut CameraStreamStatus, (reason, message): (&str, &str), now: Timestamp) {
    let generation = new.observed_generation.unwrap_or(0);
    set(&mut new.conditions, "Ready", "False", reason, message, generation, now);
    // What its recorder says made it True in between.
    let before = old.conditions.iter().find(|it| it.type_ == "Ready" && it.status == "False");
    let ready = new.conditions.iter_mut().find(|it| it.type_ == "Ready");
    if let (Some(before), Some(ready)) = (before, ready) {
        ready.last_transition_time = before.last_transition_time.clone();
    }
}

/// What people should be told of that.
pub fn refusal_note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    let ready = |status: &CameraStreamStatus| status.conditions.iter().find(|c| c.type_ == "Ready").cloned();
    let now = ready(new).filter(|now| now.status == "False" && new.phase == Some(StreamPhase::Recording))?;
    let is_said =
        ready(old).is_some_and(|before| (before.reason, before.message) == (now.reason.clone(), now.message.clone()));
    (!is_said).then_some(Note { warning: true, reason: now.reason, message: now.message })
}

/// The bit rate to two digits, once enough was seen to measure it.
pub(super) fn measured_bitrate(report: &ChannelReport) -> Option<u64> {
    const SECONDS: f64 = 5.0;
    let rate = report.bitrate.filter(|rate| *rate >= 1.0)?;
    if (report.frames as f64) < report.fps? * SECONDS {
        return None;
    }
    let unit = 10_f64.powf(rate.log10().floor() - 1.0).max(1.0);
    Some(((rate / unit).round() * unit) as u64)
}

/// Sets a condition. Its time changes with its status only, and its message with its reason only: messages may count attempts.
pub(crate) fn set(
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
        "InvalidSpec"
            | "Unreadable"
            | "PoolNotFound"
            | "PoolRefused"
            | "NoSlot"
            | "SecretNotUsable"
            | "TooManyHolds"
            | "Failures"
            | "NoReserve"
            | "Room"
            | "Sessions"
            | "StandbyNotReady"
            | "TakenOver"
            | "Protected"
            | "RollingOut"
            | "RecordersDraining"
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

/// An assignment while nobody records: it keeps who did last, and in which epoch. Otherwise what happens meanwhile would be told of as if nothing had.
fn unrecorded(before: Option<&StreamAssignment>, assignment: StreamAssignment) -> StreamAssignment {
    let before = before.filter(|before| before.primary == assignment.primary);
    let last_active = before.and_then(last_active).cloned();
    let epoch = before.filter(|_| last_active.is_some()).map_or(assignment.epoch, |before| before.epoch);
    StreamAssignment { active: None, last_active, epoch, ..assignment }
}

/// Who records, or who did last.
const fn last_active(assignment: &StreamAssignment) -> Option<&String> {
    match &assignment.active {
        Some(active) => Some(active),
        None => assignment.last_active.as_ref(),
    }
}

/// What people should be told when another recorder than before records a stream.
pub fn takeover_note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    let now = new.assignment.as_ref()?;
    let active = now.active.as_ref()?;
    let before = old.assignment.as_ref();
    let former = before.and_then(last_active);
    if former == Some(active) {
        return before.and_then(|before| unseen_note(before, now));
    }
    if *active != now.primary {
        // Where nobody ever recorded, it is the primary that failed.
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

/// The same where it was over before anybody looked, or while nobody could: a takeover and the handback each begin an epoch. A recorder that is started anew
/// begins one, too.
fn unseen_note(before: &StreamAssignment, now: &StreamAssignment) -> Option<Note> {
    let as_planned = before.primary == now.primary && now.active.as_ref() == Some(&now.primary);
    let may_have_changed = now.epoch >= before.epoch.saturating_add(2) && !now.standbys.is_empty();
    let message = format!(
        "{} records it, epoch {}; others may have in between, since epoch {}, when nobody looked",
        now.primary, now.epoch, before.epoch
    );
    (as_planned && may_have_changed).then(|| Note { warning: false, reason: "HandedBack".into(), message })
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
        let recording = Doing::Reported(Box::new(report(ChannelState::Recording)));
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
        let second = stream(&first, 1, assigned(), &Doing::Reported(Box::new(later)), at(9));
        assert_eq!(second, first);
        assert_eq!(stream_note(&first, &second), None);
    }

    #[test]
    fn a_recorder_that_says_only_that_it_records_changes_nothing() {
        let says = |report| Doing::Reported(Box::new(report));
        let first =
            stream(&CameraStreamStatus::default(), 1, assigned(), &says(report(ChannelState::Recording)), at(1));
        assert!(first.bitrate.is_some());
        let bare = ChannelReport { state: Some(ChannelState::Recording), ..ChannelReport::default() };
        assert_eq!(stream(&first, 1, assigned(), &says(bare), at(9)), first);
        let other = ChannelReport { width: Some(640), frames: 1, ..report(ChannelState::Recording) };
        assert_eq!(
            stream(&first, 1, assigned(), &says(other), at(9)).bitrate,
            None,
            "another picture is measured anew"
        );
    }

    #[test]
    fn a_failure_says_why_and_since_when_and_retries_write_nothing() {
        let recording = stream(
            &CameraStreamStatus::default(),
            1,
            assigned(),
            &Doing::Reported(Box::new(report(ChannelState::Recording))),
            at(1),
        );
        let failed = ChannelReport {
            reason: Some("Unauthorized".into()),
            message: Some("the camera refused user name and password, attempt 1".into()),
            ..report(ChannelState::Backoff)
        };
        let status = stream(&recording, 1, assigned(), &Doing::Reported(Box::new(failed.clone())), at(5));
        assert_eq!(status.phase, Some(StreamPhase::Failed));
        assert_eq!(status.last_frame_time, Some(MicroTime(at(0))));
        assert_eq!(condition(&status, "Recording").last_transition_time, Time(at(5)));
        assert_eq!(condition(&status, "SourceReachable").reason, "Unauthorized");
        let note = stream_note(&recording, &status).unwrap();
        assert!(note.warning && note.message.contains("refused"));

        let retry = stream(&status, 1, assigned(), &Doing::Reported(Box::new(report(ChannelState::Connecting))), at(6));
        assert_eq!(retry, status);
        let again = ChannelReport { message: Some("attempt 2".into()), ..failed };
        assert_eq!(stream(&status, 1, assigned(), &Doing::Reported(Box::new(again)), at(7)), status);

        let back = stream(&status, 1, assigned(), &Doing::Reported(Box::new(report(ChannelState::Recording))), at(8));
        assert_eq!(condition(&back, "Recording").last_transition_time, Time(at(8)));
        assert_eq!(back.last_frame_time, None);
        assert!(!stream_note(&status, &back).unwrap().warning);
    }

    #[test]
    fn takeovers_and_their_end_are_told() {
        let recording = Doing::Reported(Box::new(report(ChannelState::Recording)));
        let by = |old: &CameraStreamStatus, active: &str, epoch: u64| {
            let assignment = StreamAssignment {
                epoch,
                primary: "r0".into(),
                standbys: vec!["r1".into()],
                active: Some(active.into()),
                last_active: None,
            };
            stream(old, 1, Some(assignment), &recording, at(1))
        };
        let told = |old: &CameraStreamStatus, new: &CameraStreamStatus| {
            takeover_note(old, new).map(|note| (note.warning, note.reason, note.message))
        };
        let word = |warning, reason: &str, message: &str| Some((warning, reason.to_owned(), message.to_owned()));
        let planned = by(&CameraStreamStatus::default(), "r0", 1);
        assert_eq!(told(&CameraStreamStatus::default(), &planned), None);
        let taken = by(&planned, "r1", 2);
        assert_eq!(taken.assignment.as_ref().unwrap().active.as_deref(), Some("r1"));
        assert_eq!(told(&planned, &taken), word(true, "TakenOver", "taken over by r1 from r0, epoch 2"));
        assert_eq!(told(&taken, &by(&taken, "r1", 2)), None);
        assert_eq!(stream_note(&planned, &taken), None);
        let back = by(&taken, "r0", 3);
        assert_eq!(told(&taken, &back), word(false, "HandedBack", "given back to r0, epoch 3"));
        // Over before anybody looked.
        let unseen = "r0 records it, epoch 5; others may have in between, since epoch 3, when nobody looked";
        assert_eq!(told(&back, &by(&back, "r0", 5)), word(false, "HandedBack", unseen));
        assert_eq!(told(&back, &by(&back, "r0", 4)), None, "it was started anew");
        assert_eq!(told(&taken, &by(&taken, "r1", 4)), None, "somebody else records it still, as was told");
        // While nobody is known to record, it stays known who did, and in which epoch.
        let silent = |old: &CameraStreamStatus, epoch: u64| {
            let assignment = StreamAssignment { epoch, ..old.assignment.clone().unwrap() };
            stream(old, 1, Some(assignment), &Doing::RecorderDown, at(2))
        };
        let unknown = silent(&silent(&back, 5), 6);
        let kept = unknown.assignment.as_ref().unwrap();
        assert_eq!((kept.active.as_deref(), kept.last_active.as_deref(), kept.epoch), (None, Some("r0"), 3));
        let unseen = "r0 records it, epoch 6; others may have in between, since epoch 3, when nobody looked";
        assert_eq!(told(&unknown, &by(&unknown, "r0", 6)), word(false, "HandedBack", unseen));
        assert_eq!(by(&unknown, "r0", 6).assignment.unwrap().last_active, None);
        assert_eq!(told(&unknown, &by(&unknown, "r0", 4)), None, "it was started anew");
        let unknown = silent(&taken, 3);
        assert_eq!(told(&unknown, &by(&unknown, "r0", 3)), word(false, "HandedBack", "given back to r0, epoch 3"));
        // Nobody recorded in between.
        let down = stream(&planned, 1, planned.assignment.clone(), &Doing::RecorderDown, at(2));
        assert_eq!(down.assignment.as_ref().unwrap().active, None);
        let late = by(&down, "r1", 2);
        assert_eq!(told(&down, &late), word(true, "TakenOver", "taken over by r1 from r0, epoch 2"));
        assert!(stream_note(&down, &late).unwrap().message.starts_with("recorded by r1"));
        // Given to another primary, or let go of by a former holder: both were told when it was decided.
        let with = |active: &str, primary: &str, old: &CameraStreamStatus| {
            let mut new = old.clone();
            let assignment = new.assignment.as_mut().unwrap();
            (assignment.active, assignment.primary) = (Some(active.into()), primary.into());
            new
        };
        assert_eq!(told(&taken, &with("r2", "r2", &taken)), None);
        assert_eq!(told(&with("r9", "r0", &planned), &planned), None);
        // A standby becomes the primary by decision: that is told as such.
        let decided = StreamAssignment { epoch: 3, primary: "r1".into(), ..StreamAssignment::default() };
        let promoted = stream(&taken, 1, Some(decided), &recording, at(3));
        assert_eq!(told(&taken, &promoted), None);
        assert_eq!(stream_note(&taken, &promoted).unwrap().message, "given to r1, epoch 3");
    }

    #[test]
    fn what_is_asked_for_in_vain_of_a_stream_that_is_recorded_is_told_once() {
        let recording = Doing::Reported(Box::new(report(ChannelState::Recording)));
        let before = stream(&CameraStreamStatus::default(), 1, assigned(), &recording, at(1));
        let refused = |old: &CameraStreamStatus, second: i64| {
            let mut new = stream(old, 2, assigned(), &recording, at(second));
            refuse(old, &mut new, ("PoolNotFound", "make it"), at(second));
            new
        };
        let first = refused(&before, 2);
        let condition = |kind| first.conditions.iter().find(|it| it.type_ == kind).unwrap();
        assert_eq!((condition("Ready").status.as_str(), condition("Recording").status.as_str()), ("False", "True"));
        assert_eq!(condition("Ready").last_transition_time, Time(at(2)));
        assert_eq!(refusal_note(&before, &first).unwrap().message, "make it");
        let second = refused(&first, 3);
        assert_eq!(second, first, "nothing is written");
        assert_eq!(refusal_note(&first, &second), None);
        let right = stream(&second, 3, assigned(), &recording, at(4));
        assert_eq!(right.conditions.iter().find(|it| it.type_ == "Ready").unwrap().status, "True");
        assert_eq!(refusal_note(&second, &right), None);
    }

    #[test]
    fn while_a_standby_is_about_to_record_nothing_is_said() {
        let recording = Doing::Reported(Box::new(report(ChannelState::Recording)));
        let before = stream(&CameraStreamStatus::default(), 1, assigned(), &recording, at(1));
        assert_eq!(stream(&before, 1, assigned(), &Doing::TakingOver, at(2)), before);
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_anew_when_it_is_something_else() {
        let says = |what: &str| {
            let (reason, message) = (Some("SecretNotUsable".into()), Some(what.into()));
            Doing::Reported(Box::new(ChannelReport { reason, message, ..report(ChannelState::Failed) }))
        };
        let missing = stream(&CameraStreamStatus::default(), 1, assigned(), &says("there is none"), at(1));
        assert_eq!(stream(&missing, 1, assigned(), &says("there is none"), at(2)), missing);
        let long = stream(&missing, 1, assigned(), &says("it has 614400 bytes"), at(3));
        assert_eq!(condition(&long, "Ready").message, "it has 614400 bytes");
        assert_eq!(condition(&long, "Ready").last_transition_time, Time(at(1)));
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
}
