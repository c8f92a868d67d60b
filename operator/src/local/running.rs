//! A recorder as the operator sees it: what it is to do, whether it runs, and what it says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use framekeeper_crds::{Recorder, RecorderPhase, RecorderStatus, VolumeState, yaml};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::child::{self, Happening, Plan};
use super::log_tail::LogTail;
use super::manifest::Key;
use super::observe::{self, ChannelReport};

/// How often a recorder is asked for its channels.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// For how long an answer counts: one lost question is no news.
const ANSWER_LIFETIME: Duration = Duration::from_secs(3);

/// An answer of a recorder, if it gave one.
pub type Answer = (Key, Option<Vec<(Key, ChannelReport)>>);

/// A recorder.
#[derive(Debug)]
pub struct Running {
    /// What it is to do.
    pub recorder: Recorder,
    /// Where it listens.
    pub address: String,
    /// What it says of itself.
    pub status: Option<RecorderStatus>,
    /// What it logs.
    pub tail: LogTail,
    /// Its process ID while it runs.
    pub pid: Option<u32>,
    /// Whether it ended and has not been started again.
    pub is_down: bool,
    child: child::Handle,
    observer: AbortHandle,
    reports: BTreeMap<Key, ChannelReport>,
    answered: Option<Instant>,
    status_read: Option<SystemTime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.observer.abort();
    }
}

impl Running {
    /// Starts a recorder and asks it for its channels from then on.
    pub fn start(
        recorder: Recorder,
        address: String,
        plan: Plan,
        client: &reqwest::Client,
        happenings: mpsc::UnboundedSender<(Key, Happening)>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Self {
        let tail = LogTail::new(&plan.log);
        let observer = {
            let (key, address, client) = (plan.recorder.clone(), address.clone(), client.clone());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(ASK_INTERVAL);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let answer = observe::ask(&client, &address).await;
                    if answers.send((key.clone(), answer)).is_err() {
                        return;
                    }
                }
            })
        };
        Self {
            recorder,
            address,
            status: None,
            tail,
            pid: None,
            is_down: false,
            child: child::start(plan, happenings),
            observer: observer.abort_handle(),
            reports: BTreeMap::new(),
            answered: None,
            status_read: None,
        }
    }

    /// Tells it to stop.
    pub fn stop(&self) {
        self.child.stop();
    }

    /// Takes note of its process being there.
    pub fn has_started(&mut self, pid: u32) {
        self.pid = Some(pid);
        self.is_down = false;
    }

    /// Takes note of its process having ended by itself. What it said does not hold any more, but for why it could not go on: that holds until
    /// the next one says something else. Whether what is in the file is to be kept.
    pub fn has_given_up(&mut self, path: &Path) -> bool {
        self.read_status(path);
        let last = self.status.take();
        self.has_ended();
        self.status = last.filter(|status| status.phase == Some(RecorderPhase::Failed));
        self.status.is_some()
    }

    /// Takes note of its process being gone: what it said does not hold any more.
    pub fn has_ended(&mut self) {
        self.pid = None;
        self.is_down = true;
        self.reports.clear();
        self.answered = None;
        self.status = None;
    }

    /// Takes note of an answer.
    pub fn heard(&mut self, answer: Option<Vec<(Key, ChannelReport)>>, now: Instant) {
        if let Some(reports) = answer
            && self.pid.is_some()
        {
            self.reports = reports.into_iter().collect();
            self.answered = Some(now);
        }
    }

    /// What it says of a stream, if that still holds.
    pub fn report(&self, stream: &Key, now: Instant) -> Option<&ChannelReport> {
        self.answers(now).then(|| self.reports.get(stream)).flatten()
    }

    /// Whether it answered lately.
    pub fn answers(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.duration_since(at) < ANSWER_LIFETIME)
    }

    /// Whether it can record.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.pid.is_some()
            && match self.status.as_ref().and_then(|status| status.phase) {
                Some(phase) => phase == RecorderPhase::Ready,
                None => self.answers(now),
            }
    }

    /// Reads its status again if it was written since. Whether it was.
    pub fn read_status(&mut self, path: &Path) -> bool {
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if written == self.status_read {
            return false;
        }
        self.status_read = written;
        let text = fs::read_to_string(path).ok();
        let read = text.and_then(|text| yaml::read_recorder(&text).ok());
        self.status = read.and_then(|recorder| recorder.status);
        true
    }

    /// Volumes that do not work, each with the reason.
    pub fn bad_volumes(&self) -> Vec<String> {
        let volumes = self.status.iter().flat_map(|status| &status.volumes);
        let bad = volumes
            .filter(|volume| matches!(volume.state, VolumeState::Failed | VolumeState::Hanging | VolumeState::Refused));
        bad.map(|volume| {
            let why = volume.message.as_deref().or(volume.reason.as_deref()).unwrap_or("does not work");
            format!("volume {}: {why}", volume.name)
        })
        .collect()
    }
}
