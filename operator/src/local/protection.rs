//! The condition `Protected` of a stream: whether as many recorders may fail as the pool tolerates, and what would help if not. Pure.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStreamStatus, RedundancyClass};
use framekeeper_plan::{Assigned, Lack, Shortage};

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
    let message = match needed {
        1 => "any one recorder may fail".to_owned(),
        many => format!("any {many} recorders may fail"),
    };
    Protection { holds: true, reason: PROTECTED, message }
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
