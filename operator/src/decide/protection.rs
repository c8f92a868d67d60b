//! The condition `Protected` of a stream: whether as many recorders may fail as the pool tolerates, and what would help if not. Pure.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStreamStatus, HumanDuration, RedundancyClass};
use framekeeper_plan::{Assigned, Class, Lack, Shortage};

use super::standing::Holder;
use super::status::{self, Note};

/// Name of the condition.
pub const PROTECTED: &str = "Protected";

/// Whether a stream is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Whether it is.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// What is so, and what would help.
    pub message: String,
}

/// Looks at a stream that is to be protected: who it was given to, the recorders that hold it by rank, and who records it.
#[must_use]
pub fn of(
    class: RedundancyClass,
    tolerated_failures: u32,
    assigned: &Assigned,
    shortage: &Shortage,
    holders: &[Holder<'_>],
    active: Option<&str>,
) -> Protection {
    let not = |reason, message| Protection { holds: false, reason, message };
    let needed = tolerated_failures.max(1) as usize;
    if let Some(lack) = assigned.lack.filter(|_| assigned.standbys.len() < needed) {
        let (reason, message) = lacking(lack, shortage);
        return not(reason, message);
    }
    let Some((primary, standbys)) = holders.split_first() else {
        return not("NotRecording", "no recorder holds it".into());
    };
    match active {
        Some(active) if active != primary.name => {
            let message = format!("{active} records it until {} does again", primary.name);
            return not("TakenOver", message);
        }
        None => return not("NotRecording", "no recorder records it at the moment".into()),
        Some(_) => {}
    }
    let (ready, unready): (Vec<&Holder<'_>>, Vec<_>) = standbys.iter().partition(|standby| standby.is_ready(class));
    if ready.len() < needed {
        let unready: Vec<String> =
            unready.iter().map(|standby| format!("{} {}", standby.name, standby.why_not_ready())).collect();
        return not("StandbyNotReady", format!("not enough recorders are ready to take over: {}", unready.join(", ")));
    }
    Protection { holds: true, reason: PROTECTED, message: may_fail(tolerated_failures.max(1)) }
}

/// What is promised.
#[must_use]
pub fn may_fail(tolerated_failures: u32) -> String {
    match tolerated_failures {
        1 => "any one recorder may fail".to_owned(),
        many => format!("any {many} recorders may fail"),
    }
}

/// Until a failure is noticed and the camera of a stream of class `Ready` plays, milliseconds: a recorder that is silent counts as failed after 1.25 s, each
/// holder waits half a second for the one before it, and the camera is asked with the next tick.
const NOTICED_MS: f64 = 3_000.0;

/// The longest stretch that is not recorded when a recorder fails. `gop_s`: the longest group of pictures lately, seconds. Rounded up to a second, and
/// not less than it was said to be while the same holders had it, so that it does not change with each group of pictures.
#[must_use]
pub fn worst_case_gap(
    assigned: Option<&Assigned>,
    gop_s: Option<f64>,
    before: Option<HumanDuration>,
) -> Option<HumanDuration> {
    let assigned = assigned.filter(|assigned| !assigned.standbys.is_empty())?;
    match assigned.class {
        Class::None => None,
        Class::Playing | Class::Mirrored => Some(HumanDuration::from_millis(0)),
        Class::Ready => {
            let gap = gop_s.map(|gop_s| HumanDuration::from_millis(((NOTICED_MS / 1e3 + gop_s).ceil() * 1e3) as u64));
            gap.into_iter().chain(before).max_by_key(|gap| gap.as_millis())
        }
    }
}

fn lacking(lack: Lack, shortage: &Shortage) -> (&'static str, String) {
    let help = shortage.help.to_string();
    let with_help = |what: String| if help.is_empty() { what } else { format!("{what}; the pool {help}") };
    match lack {
        Lack::NoReserve(why) => ("NoReserve", with_help(format!("the pool has no reserve: {why}"))),
        Lack::Sessions { allowed, needed } => (
            "Sessions",
            format!(
                "the camera allows {allowed} at once of the {needed} sessions that are needed: one for each recorder, and one more when one hands over; \
                 raise the camera's limit, and spec.source.maxSessions"
            ),
        ),
        Lack::DropsIdleSessions => {
            ("Sessions", "the camera drops sessions that do not play; use redundancy: Playing".to_owned())
        }
        Lack::Room => ("Room", with_help("no reserved slot is free on another recorder".to_owned())),
    }
}

/// Puts it into a status; `None`: the stream is not to be protected.
pub fn put(status: &mut CameraStreamStatus, protection: Option<&Protection>, generation: i64, now: Timestamp) {
    match protection {
        None => status.conditions.retain(|condition| condition.type_ != PROTECTED),
        Some(Protection { holds, reason, message }) => {
            let holds = if *holds { "True" } else { "False" };
            status::set(&mut status.conditions, PROTECTED, holds, reason, message, generation, now);
        }
    }
}

/// What people should be told of its turns.
#[must_use]
pub fn note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    let (old, new) = (condition(old), condition(new)?);
    if old.is_some_and(|old| (&old.status, &old.reason) == (&new.status, &new.reason)) {
        return None;
    }
    let was = old.map(|old| old.status == "True");
    let holds = new.status == "True";
    let is_told = match new.reason.as_str() {
        // By who records, and by what the stream does.
        "TakenOver" | "NotRecording" => false,
        // Standbys need a moment to start, as recorders do.
        "StandbyNotReady" => was == Some(true),
        _ => !holds || was == Some(false),
    };
    is_told.then(|| Note { warning: !holds, reason: new.reason.clone(), message: new.message.clone() })
}

/// The condition, where the stream has it.
#[must_use]
pub fn condition(status: &CameraStreamStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == PROTECTED)
}

#[cfg(test)]
mod tests {
    use framekeeper_crds::ChannelState;
    use framekeeper_plan::NoReserve;

    use super::super::observe::ChannelReport;
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn says(state: ChannelState) -> ChannelReport {
        ChannelReport { state: Some(state), ..ChannelReport::default() }
    }

    fn given(standbys: &[u32], lack: Option<Lack>) -> Assigned {
        Assigned { primary: 0, standbys: standbys.to_vec(), class: Class::Playing, protected: Some(true), lack }
    }

    fn holder<'r>(name: &'r str, report: Option<&'r ChannelReport>) -> Holder<'r> {
        Holder { name, is_down: report.is_none(), report }
    }

    fn seen(failures: u32, assigned: &Assigned, holders: &[Holder<'_>]) -> Protection {
        let active = super::super::standing::active(holders).map(|holder| holder.name);
        of(RedundancyClass::Playing, failures, assigned, &Shortage::default(), holders, active)
    }

    #[test]
    fn as_many_standbys_are_ready_as_failures_are_tolerated() {
        let (recording, standby) = (says(ChannelState::Recording), says(ChannelState::Standby));
        let three = [holder("r0", Some(&recording)), holder("r1", Some(&standby)), holder("r2", None)];
        let given = given(&[1, 2], None);
        let one = seen(1, &given, &three);
        assert!(one.holds && one.reason == "Protected", "{one:?}");
        let two = seen(2, &given, &three);
        assert_eq!((two.holds, two.reason), (false, "StandbyNotReady"));
        assert!(two.message.contains("r2 does not run"), "{two:?}");
    }

    #[test]
    fn the_longest_gap_follows_from_the_class_and_the_groups_of_pictures() {
        let gap = |class, gop, before: Option<u64>| {
            let assigned = Assigned { class, ..given(&[1], None) };
            let gap = worst_case_gap(Some(&assigned), gop, before.map(HumanDuration::from_millis));
            gap.map(HumanDuration::as_millis)
        };
        assert_eq!(gap(Class::Playing, Some(20.0), None), Some(0));
        assert_eq!(gap(Class::Ready, None, None), None, "not known yet");
        assert_eq!(gap(Class::Ready, Some(1.96), None), Some(5_000));
        assert_eq!(gap(Class::Ready, Some(20.0), Some(5_000)), Some(23_000));
        assert_eq!(gap(Class::Ready, Some(1.0), Some(5_000)), Some(5_000), "it does not follow each group of pictures");
        assert_eq!(worst_case_gap(Some(&given(&[], None)), Some(1.0), None), None);
    }

    #[test]
    fn what_is_missing_and_what_would_help_is_said() {
        let (recording, standby) = (says(ChannelState::Recording), says(ChannelState::Standby));
        let alone = [holder("r0", Some(&recording))];
        let help = framekeeper_plan::Help { more_recorders: Some(1), max_channels: None };
        let shortage = Shortage { help, ..Shortage::default() };
        let lacks = |lack| {
            let it = of(RedundancyClass::Playing, 1, &given(&[], Some(lack)), &shortage, &alone, Some("r0"));
            assert!(!it.holds);
            (it.reason, it.message)
        };
        let (reason, message) = lacks(Lack::Sessions { allowed: 1, needed: 3 });
        assert!(reason == "Sessions" && message.contains("spec.source.maxSessions"), "{message}");
        let (reason, message) = lacks(Lack::Room);
        assert!(reason == "Room" && message.ends_with("the pool needs 1 more recorder"), "{message}");
        let (reason, message) = lacks(Lack::NoReserve(NoReserve::NotAsked));
        assert!(reason == "NoReserve" && message.contains("set it to 1 or more"), "{message}");
        // Fewer standbys than were asked for, but enough.
        let both = [holder("r0", Some(&recording)), holder("r1", Some(&standby))];
        assert!(seen(1, &given(&[1], Some(Lack::Sessions { allowed: 3, needed: 4 })), &both).holds);
    }

    #[test]
    fn a_stream_that_is_taken_over_is_not_protected_until_its_primary_records_again() {
        let (recording, standby) = (says(ChannelState::Recording), says(ChannelState::Standby));
        let given = given(&[1], None);
        let taken = seen(1, &given, &[holder("r0", None), holder("r1", Some(&recording))]);
        assert_eq!((taken.reason, taken.message.as_str()), ("TakenOver", "r1 records it until r0 does again"));
        assert_eq!(seen(1, &given, &[holder("r0", None), holder("r1", Some(&standby))]).reason, "NotRecording");
    }

    #[test]
    fn turns_are_told_once_and_a_start_is_no_news() {
        let protection =
            |holds, reason| Some(Protection { holds, reason, message: format!("{reason}, in other words") });
        let with = |old: &CameraStreamStatus, protection: Option<Protection>| {
            let mut new = old.clone();
            put(&mut new, protection.as_ref(), 1, NOW);
            let told = note(old, &new).map(|note| (note.warning, note.reason));
            (new, told)
        };
        let (starting, told) = with(&CameraStreamStatus::default(), protection(false, "StandbyNotReady"));
        assert_eq!(told, None);
        let (good, told) = with(&starting, protection(true, "Protected"));
        assert_eq!(told, Some((false, "Protected".into())));
        assert_eq!(with(&good, protection(true, "Protected")).1, None);
        assert_eq!(with(&good, protection(false, "StandbyNotReady")).1, Some((true, "StandbyNotReady".into())));
        assert_eq!(with(&good, protection(false, "TakenOver")).1, None);
        assert_eq!(
            with(&CameraStreamStatus::default(), protection(false, "Sessions")).1,
            Some((true, "Sessions".into()))
        );
        // Of a class that has no standbys, nothing is said.
        assert_eq!(with(&good, None).0.conditions, []);
    }
}
