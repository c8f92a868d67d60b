//! The conditions of a `Recorder`: what is right and what is not, with a reason.

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{ChannelState, ChannelStatus, RecorderPhase, RecorderStatus, VolumeState};
use framekeeper_media::WallTime;

use super::space;
use crate::limits::MemoryShort;
use crate::serve::query::format_time;
use crate::standby::Counts;
use crate::view::{View, VolumeView};

/// One condition before it has its times.
pub(super) struct Verdict {
    pub(super) kind: &'static str,
    pub(super) good: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) fn make(
    view: &View,
    volumes: &[VolumeView],
    channels: &[ChannelStatus],
    generation: Option<i64>,
    now: WallTime,
    before: Option<&RecorderStatus>,
) -> Vec<Condition> {
    let peers = view.peers();
    let verdicts = [
        ready(view.phase()),
        assignment(view),
        healthy(volumes),
        memory(view.memory_short()),
        intact(volumes),
        space::recording_space(volumes),
        gops_fit(&view.long_gops()),
        peers_reachable(peers.counts, &peers.silent),
        clocks_in_step(peers.counts, &peers.clocks_apart),
        as_planned(channels),
    ];
    // Conditions have whole seconds, as `Time` of Kubernetes has.
    let now = Time(Timestamp::from_second(now.0.div_euclid(1_000_000)).unwrap_or_default());
    verdicts
        .into_iter()
        .map(|verdict| {
            let status = if verdict.good { "True" } else { "False" };
            let since = before
                .and_then(|before| before.conditions.iter().find(|other| other.type_ == verdict.kind))
                .filter(|other| other.status == status)
                .map_or_else(|| now.clone(), |other| other.last_transition_time.clone());
            Condition {
                type_: verdict.kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message,
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

fn ready(phase: RecorderPhase) -> Verdict {
    let (good, reason, message) = match phase {
        RecorderPhase::Ready => (true, "Ready", "the recorder can record"),
        RecorderPhase::Starting => (false, "Starting", "the recorder opens its volumes"),
        RecorderPhase::Failed => (false, "NoVolume", "no volume can be written to"),
        RecorderPhase::Draining => (false, "Draining", "the recorder ends its channels, to stop"),
        RecorderPhase::Stopped => (false, "Stopped", "the recorder has stopped"),
        // That is what others say.
        RecorderPhase::Unknown => (false, "Unknown", "the recorder does not know itself"),
    };
    Verdict { kind: "Ready", good, reason, message: message.to_owned() }
}

fn assignment(view: &View) -> Verdict {
    if view.assignment_is_stale() {
        let message = "the newest assignment cannot be used; the recorder goes on with the last good one, see its log";
        Verdict { kind: "AssignmentCurrent", good: false, reason: "AssignmentRefused", message: message.to_owned() }
    } else {
        let message = "the assignment in effect is the newest".to_owned();
        Verdict { kind: "AssignmentCurrent", good: true, reason: "Current", message }
    }
}

fn peers_reachable(counts: Counts, silent: &[(String, Option<String>)]) -> Verdict {
    const KIND: &str = "PeersReachable";
    let peers = counts.peers;
    if silent.is_empty() {
        let (reason, message) = match peers {
            0 => ("NoPeers", "no stream is shared with another recorder".to_owned()),
            _ => ("AllAlive", format!("all {peers} recorders that streams are shared with are alive")),
        };
        return Verdict { kind: KIND, good: true, reason, message };
    }
    let told = silent.iter().map(|(name, why)| match why {
        Some(why) => format!("{name} ({why})"),
        None => name.clone(),
    });
    let message = format!(
        "{} of {peers} recorders that streams are shared with are not heard, or do not hear this one; they have failed, or the network between \
         them and this one has, unless more is known: {}",
        silent.len(),
        told.collect::<Vec<_>>().join(", ")
    );
    Verdict { kind: KIND, good: false, reason: "PeersNotHeard", message }
}

fn clocks_in_step(counts: Counts, apart: &[(String, i64)]) -> Verdict {
    const KIND: &str = "ClocksInStep";
    if apart.is_empty() {
        let (reason, message) = match counts.peers {
            0 => ("NoPeers", "no stream is shared with another recorder"),
            _ => (
                "InStep",
                "the clocks of recorders that streams are shared with, and that are heard, are not more than a second from this one's",
            ),
        };
        return Verdict { kind: KIND, good: true, reason, message: message.to_owned() };
    }
    let told = apart.iter().map(|(name, ahead_us)| {
        let (seconds, where_to) =
            (ahead_us.unsigned_abs() as f64 / 1e6, if *ahead_us < 0 { "behind" } else { "ahead of" });
        format!("{name} is {seconds:.1} s {where_to} this one")
    });
    let message = format!(
        "by their clocks, {}: times of the same footage differ by as much between these recorders; no frame is lost by it. Run NTP (chrony, \
         systemd-timesyncd) on the machine whose clock is wrong",
        told.collect::<Vec<_>>().join(", ")
    );
    Verdict { kind: KIND, good: false, reason: "ClocksApart", message }
}

fn healthy(volumes: &[VolumeView]) -> Verdict {
    let bad: Vec<String> = volumes
        .iter()
        // What somebody asked for is no trouble.
        .filter(|volume| !matches!(volume.state, VolumeState::Ready | VolumeState::Draining | VolumeState::Stopped))
        .map(|volume| {
            let why = volume.reason.as_ref().map_or("it is being opened", |(_, sentence)| sentence);
            format!("{}: {why}", volume.name)
        })
        .collect();
    if bad.is_empty() {
        let message = "all volumes can be written to".to_owned();
        Verdict { kind: "VolumesHealthy", good: true, reason: "AllReady", message }
    } else {
        Verdict { kind: "VolumesHealthy", good: false, reason: "VolumeNotReady", message: bad.join("; ") }
    }
}

fn memory(short: Option<MemoryShort>) -> Verdict {
    const KIND: &str = "MemorySufficient";
    match short {
        None => {
            let message = "the memory is rated for what is to be recorded".to_owned();
            Verdict { kind: KIND, good: true, reason: "Rated", message }
        }
        Some(short) => Verdict { kind: KIND, good: false, reason: "MoreThanRated", message: short.to_string() },
    }
}

/// Whether all footage that is held can be trusted, as far as anybody has read it.
fn intact(volumes: &[VolumeView]) -> Verdict {
    const KIND: &str = "FootageIntact";
    let damaged = volumes.iter().filter_map(|volume| {
        let damage = &volume.numbers.as_ref()?.damage;
        (damage.holes > 0).then_some((volume, damage))
    });
    let told: Vec<String> = damaged
        .map(|(volume, damage)| {
            let places = damage.places.iter().map(|place| {
                let (from, to) = (format_time(place.from), format_time(place.to));
                format!("{} from {from} to {to} (byte {} of {})", place.stream, place.offset, place.path)
            });
            let places: Vec<String> = places.collect();
            let more = damage.holes.saturating_sub(places.len() as u64);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            format!(
                "volume {}: {} bytes are damaged and {} frames are not served: {}{more}",
                volume.name,
                damage.bytes,
                damage.video_frames,
                places.join(", ")
            )
        })
        .collect();
    if told.is_empty() {
        let message = "no damage is known in the footage that is held".to_owned();
        return Verdict { kind: KIND, good: true, reason: "NoneDamaged", message };
    }
    let message =
        format!("{}; look after the disk: `framekeeper-recorder volume check` tells all of it", told.join("; "));
    Verdict { kind: KIND, good: false, reason: "FootageDamaged", message }
}

fn gops_fit(long: &[String]) -> Verdict {
    const KIND: &str = "GopsInMemory";
    if long.is_empty() {
        let message = "should a volume fail, every stream goes on elsewhere from its key frame".to_owned();
        return Verdict { kind: KIND, good: true, reason: "AllFit", message };
    }
    let message = format!(
        "these streams' GOPs do not fit into memory; should their volume fail, what was not yet safe goes on elsewhere without its key frame, \
         and can be shown up to the next one only as long as the failed volume can be read: {}",
        long.join(", ")
    );
    Verdict { kind: KIND, good: false, reason: "GopTooLong", message }
}

fn as_planned(channels: &[ChannelStatus]) -> Verdict {
    if channels.is_empty() {
        let message = "all channels record, or are ready to where another recorder does".to_owned();
        return Verdict { kind: "ChannelsAsPlanned", good: true, reason: "AllRecording", message };
    }
    let count = |state| channels.iter().filter(|channel| channel.state == state).count();
    let instead = count(ChannelState::Recording);
    let out = channels.len() - instead;
    let not_ready = format!(
        "not recording, or not ready to: {} connecting, {} waiting to try again, {} failed",
        count(ChannelState::Connecting),
        count(ChannelState::Backoff),
        count(ChannelState::Failed)
    );
    let in_place = format!("{instead} record in another recorder's place, or until another one does");
    let (reason, message) = match (out, instead) {
        (_, 0) => ("NotAllRecording", not_ready),
        (0, _) => ("TakenOver", in_place),
        _ => ("NotAllRecording", format!("{not_ready}; {in_place}")),
    };
    Verdict { kind: "ChannelsAsPlanned", good: false, reason, message }
}
