//! What people should be told of a recorder's change, as events of its object. Pure.

use framekeeper_crds::{RecorderStatus, VolumeState, VolumeStatus};

use super::status::Note;

/// Conditions whose turns are told elsewhere: by the pool (`Ready`), by each stream (`ChannelsAsPlanned`), by each volume below, step by step
/// (`RecordingSpace`).
const TOLD_ELSEWHERE: [&str; 4] = ["Ready", "ChannelsAsPlanned", "VolumesHealthy", "RecordingSpace"];

/// Each volume whose state changed, and each condition that turned, since `old`; of a recorder that is new, what is wrong.
pub fn notes(old: Option<&RecorderStatus>, new: &RecorderStatus) -> Vec<Note> {
    let volumes = new.volumes.iter().filter_map(|volume| {
        let before = old.and_then(|old| old.volumes.iter().find(|before| before.name == volume.name));
        volume_note(before, volume)
    });
    let conditions = new.conditions.iter().filter(|condition| !TOLD_ELSEWHERE.contains(&condition.type_.as_str()));
    let conditions = conditions.filter_map(|condition| {
        let before = old.and_then(|old| old.conditions.iter().find(|before| before.type_ == condition.type_));
        let good = condition.status == "True";
        let turned = before.map_or(!good, |before| before.status != condition.status);
        turned.then(|| Note { warning: !good, reason: condition.reason.clone(), message: condition.message.clone() })
    });
    volumes.chain(conditions).collect()
}

fn volume_note(before: Option<&VolumeStatus>, now: &VolumeStatus) -> Option<Note> {
    let was = before.map(|before| (before.state, before.reason.as_ref()));
    if was == Some((now.state, now.reason.as_ref())) {
        return None;
    }
    let bad = matches!(now.state, VolumeState::Failed | VolumeState::Hanging | VolumeState::Refused);
    // Ready, but with something to say: there is no file to be used again.
    let warning = bad || (now.state == VolumeState::Ready && now.reason.is_some());
    if !warning
        && (was.is_none()
            || now.state == VolumeState::Opening
            || was.is_some_and(|(state, _)| state == VolumeState::Opening))
    {
        // That a volume is opened and can be used is what volumes are for.
        return None;
    }
    let word = |state: VolumeState| format!("Volume{state:?}");
    let reason = now.reason.clone().unwrap_or_else(|| word(now.state));
    let what = now.message.clone().unwrap_or_else(|| match now.state {
        VolumeState::Ready => "can be written to again".to_owned(),
        other => format!("is {other:?}"),
    });
    Some(Note { warning, reason, message: format!("volume {}: {what}", now.name) })
}

/// That room runs short, how short, and that it does no longer.
pub fn room_notes(old: Option<&RecorderStatus>, new: &RecorderStatus) -> Vec<Note> {
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
    use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use framekeeper_crds::k8s_openapi::jiff::Timestamp;

    use super::*;

    fn volume(state: VolumeState, reason: Option<&str>) -> VolumeStatus {
        VolumeStatus {
            name: "first".into(),
            uuid: None,
            state,
            reason: reason.map(str::to_owned),
            message: reason.map(|_| "write: Input/output error (os error 5)".into()),
            capacity_bytes: 0,
            used_bytes: 0,
            free_segments: 0,
            held_bytes: 0,
            oldest_footage: None,
            sync_ms: None,
            rotational: None,
            writes: None,
            writes_reason: None,
        }
    }

    fn condition(kind: &str, status: &str) -> Condition {
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: format!("{kind}{status}"),
            message: "why".into(),
            observed_generation: None,
            last_transition_time: Time(framekeeper_crds::k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        }
    }

    fn status(volumes: Vec<VolumeStatus>, conditions: Vec<Condition>) -> RecorderStatus {
        RecorderStatus { volumes, conditions, ..RecorderStatus::default() }
    }

    fn told(old: Option<&RecorderStatus>, new: &RecorderStatus) -> Vec<String> {
        notes(old, new)
            .into_iter()
            .map(|note| format!("{}{}: {}", if note.warning { "!" } else { "" }, note.reason, note.message))
            .collect()
    }

    #[test]
    fn a_volume_that_fails_and_works_again_is_told_once_each() {
        let opening = status(vec![volume(VolumeState::Opening, Some("Opening"))], vec![]);
        let ready = status(vec![volume(VolumeState::Ready, None)], vec![]);
        let failed = status(vec![volume(VolumeState::Failed, Some("VolumeFailed"))], vec![]);
        let hangs = status(vec![volume(VolumeState::Hanging, Some("DiskHangs"))], vec![]);
        let full = status(vec![volume(VolumeState::Ready, Some("NoFileToReuse"))], vec![]);
        let error = "volume first: write: Input/output error (os error 5)";
        assert!(told(None, &opening).is_empty());
        assert!(told(Some(&opening), &ready).is_empty());
        assert_eq!(told(Some(&ready), &failed), [format!("!VolumeFailed: {error}")]);
        assert_eq!(told(None, &failed), [format!("!VolumeFailed: {error}")]);
        assert!(told(Some(&failed), &failed).is_empty());
        assert_eq!(told(Some(&ready), &hangs), [format!("!DiskHangs: {error}")]);
        assert_eq!(told(Some(&hangs), &ready), ["VolumeReady: volume first: can be written to again"]);
        assert_eq!(told(Some(&ready), &full), [format!("!NoFileToReuse: {error}")]);
    }

    #[test]
    fn a_condition_that_turns_is_told_and_what_others_tell_is_not() {
        let good = status(vec![], vec![condition("MemorySufficient", "True"), condition("Ready", "True")]);
        let bad = status(vec![], vec![condition("MemorySufficient", "False"), condition("Ready", "False")]);
        assert!(told(None, &good).is_empty());
        assert_eq!(told(None, &bad), ["!MemorySufficientFalse: why"]);
        assert_eq!(told(Some(&good), &bad), ["!MemorySufficientFalse: why"]);
        assert_eq!(told(Some(&bad), &good), ["MemorySufficientTrue: why"]);
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
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            }],
            ..RecorderStatus::default()
        };
        let (good, day, hour) = (status("True", "fine"), status("False", "24 h"), status("False", "1 h"));
        assert_eq!(room_notes(None, &good), []);
        assert_eq!(room_notes(Some(&good), &good), []);
        let note =
            |warning, message: &str| vec![Note { warning, reason: "HoldsFillVolume".into(), message: message.into() }];
        assert_eq!(room_notes(None, &day), note(true, "24 h"));
        assert_eq!(room_notes(Some(&good), &day), note(true, "24 h"));
        assert_eq!(room_notes(Some(&day), &day), []);
        assert_eq!(room_notes(Some(&day), &hour), note(true, "1 h"));
        assert_eq!(room_notes(Some(&hour), &good), note(false, "fine"));
    }
}
