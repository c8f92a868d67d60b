//! The recorder's own account of itself: the status of its `Recorder` object, written at transitions only.

mod conditions;
pub(crate) mod space;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::yaml;
use framekeeper_crds::{
    Addresses, ChannelState, ChannelStatus, Instance, Recorder, RecorderStatus, StreamRef, VolumeStatus,
};
use framekeeper_media::WallTime;

use crate::channel::{Condition, RECORDING};
use crate::view::{View, VolumeView};

/// Writes the status file, when there is something new to say.
#[derive(Debug)]
pub(crate) struct StatusFile {
    path: Option<PathBuf>,
    last: Option<RecorderStatus>,
    /// The view's transitions that `last` tells of.
    told: Option<u64>,
    complained: bool,
}

impl StatusFile {
    /// At `path`; without one the status is only kept.
    pub(crate) fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), last: None, told: None, complained: false }
    }

    /// Whether a failure to write is news: true once, until a write succeeds again.
    pub(crate) fn complain(&mut self) -> bool {
        !std::mem::replace(&mut self.complained, true)
    }

    /// Brings the file up to date: `object` is the assignment in effect.
    ///
    /// # Errors
    /// The file cannot be written; it is tried again at the next call.
    pub(crate) fn update(&mut self, object: &Recorder, view: &View, http: SocketAddr, now: WallTime) -> io::Result<()> {
        // Read first: what changes while the status is made is told the next time.
        let transitions = view.transitions();
        if self.told == Some(transitions) {
            return Ok(());
        }
        let status = make(object, view, http, now, self.last.as_ref());
        if let Some(path) = &self.path {
            let mut object = object.clone();
            object.metadata.managed_fields = None;
            object.status = Some(status.clone());
            replace(path, &yaml::write(&object).map_err(io::Error::other)?)?;
        }
        self.last = Some(status);
        self.told = Some(transitions);
        self.complained = false;
        Ok(())
    }
}

fn make(
    object: &Recorder,
    view: &View,
    http: SocketAddr,
    now: WallTime,
    before: Option<&RecorderStatus>,
) -> RecorderStatus {
    let volumes = view.volumes();
    let mut channels: Vec<ChannelStatus> = view
        .refusals()
        .into_iter()
        .map(|refusal| ChannelStatus {
            since: before
                .and_then(|before| before.channels.iter().find(|other| other.stream == refusal.stream))
                .filter(|other| other.reason.as_deref() == Some(refusal.reason))
                .and_then(|other| other.since.clone())
                .or_else(|| time(now)),
            stream: refusal.stream,
            state: ChannelState::Failed,
            reason: Some(refusal.reason.to_owned()),
            message: Some(refusal.message),
            epoch: None,
        })
        .collect();
    for entry in view.channels() {
        let Condition { state, reason, message, since } = entry.stats.condition();
        let (rank, is_retired) = (entry.control.rank(), entry.control.is_retired());
        let as_planned = match state {
            // One whose frames are recorded by all of its holders is recorded here for the same reason.
            ChannelState::Recording => reason == RECORDING,
            ChannelState::Standby => rank > 0,
            _ => false,
        };
        if !as_planned || is_retired {
            channels.push(ChannelStatus {
                stream: StreamRef {
                    namespace: entry.stream.namespace.clone(),
                    name: entry.stream.name.clone(),
                    uid: entry.stream.uid.to_string(),
                },
                state,
                reason: Some(reason.to_owned()),
                message: Some(message),
                since: time(since),
                epoch: entry.control.epoch().filter(|_| rank > 0 && state == ChannelState::Recording),
            });
        }
    }
    let phase = view.phase();
    let generation = object.metadata.generation;
    RecorderStatus {
        observed_generation: generation,
        observed_term: Some(object.spec.term),
        phase: Some(phase),
        conditions: conditions::make(view, &volumes, &channels, generation, now, before),
        addresses: Some(Addresses {
            http: Some(http.to_string()),
            peer: view.known_as().and_then(|(_, address)| Some(address.as_ref()?.to_string())),
        }),
        public_key: view.known_as().map(|(key, _)| key.clone()),
        instance: Some(Instance { uid: view.instance.to_string(), restarts: view.restarts }),
        volumes: volumes.iter().map(volume).collect(),
        channels,
    }
}

fn volume(view: &VolumeView) -> VolumeStatus {
    let numbers = view.numbers.as_ref();
    VolumeStatus {
        name: view.name.clone(),
        uuid: Some(view.uuid.to_string()),
        state: view.state,
        reason: view.reason.as_ref().map(|(word, _)| (*word).to_owned()),
        message: view.reason.as_ref().map(|(_, sentence)| sentence.clone()),
        capacity_bytes: numbers.map_or(0, |numbers| numbers.capacity_bytes),
        used_bytes: numbers.map_or(0, |numbers| numbers.used_bytes),
        held_bytes: numbers.map_or(0, |numbers| numbers.held_bytes),
        free_segments: numbers.map_or(0, |numbers| numbers.free_files),
        oldest_footage: view.oldest.and_then(time),
        writes: view.writes.as_ref().map(|(way, _)| *way),
        sync_ms: numbers.map(|numbers| numbers.sync_ms),
        rotational: numbers.and_then(|numbers| numbers.rotational),
        writes_reason: view.writes.as_ref().and_then(|(_, reason)| reason.clone()),
    }
}

fn time(time: WallTime) -> Option<MicroTime> {
    Timestamp::from_microsecond(time.0).ok().map(MicroTime)
}

/// Replaces the file as a whole: whoever reads it sees the old or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Not synced: it tells of this process, and after a loss of power there is none.
    fs::File::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}
