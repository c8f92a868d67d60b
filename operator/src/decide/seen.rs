//! A recorder as the operator sees it: what it is to do, and what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::{Recorder, RecorderPhase, RecorderStatus, VolumeState};

use super::observe::{ChannelReport, Reports};
use super::wanted::Key;

/// For how long an answer counts: one lost question is no news.
const ANSWER_LIFETIME: Duration = Duration::from_secs(3);

/// A recorder.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it is to do. A Recorder of a thousand channels is no small thing: all who look at it share it.
    pub recorder: Arc<Recorder>,
    /// Where its HTTP server listens.
    pub address: String,
    /// What it says of itself.
    pub status: Option<RecorderStatus>,
    /// Whether it runs, as far as can be told.
    pub is_running: bool,
    /// Whether it ended and has not been started again.
    pub is_down: bool,
    /// Why it can't be started, where somebody says so.
    pub trouble: Option<String>,
    reports: Arc<Reports>,
    /// Since when it says that.
    since: Option<Instant>,
    answered: Option<Instant>,
}

impl AsRef<Self> for Seen {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Seen {
    /// A recorder of which nothing has been heard yet.
    #[must_use]
    pub fn new(recorder: Arc<Recorder>, address: String) -> Self {
        Self {
            recorder,
            address,
            status: None,
            is_running: false,
            is_down: false,
            trouble: None,
            reports: Arc::default(),
            since: None,
            answered: None,
        }
    }

    /// Takes note of its process being gone: what it said does not hold any more.
    pub fn has_ended(&mut self) {
        self.is_running = false;
        self.is_down = true;
        self.reports = Arc::default();
        (self.since, self.answered) = (None, None);
        self.status = None;
    }

    /// Takes note of where it listens: in another pod it is another process, and what the former one said does not hold any more.
    pub fn listens(&mut self, address: &str) {
        if self.address != address {
            address.clone_into(&mut self.address);
            self.reports = Arc::default();
            (self.since, self.answered) = (None, None);
        }
    }

    /// Takes note of an answer.
    pub fn heard(&mut self, answer: Option<Arc<Reports>>, now: Instant) {
        if let Some(reports) = answer
            && self.is_running
        {
            if !self.says(&reports) {
                (self.reports, self.since) = (reports, Some(now));
            }
            self.answered = Some(now);
        }
    }

    /// Whether this very answer is the last one that it gave.
    #[must_use]
    pub fn says(&self, reports: &Arc<Reports>) -> bool {
        self.since.is_some() && Arc::ptr_eq(&self.reports, reports)
    }

    /// Since when it says what it says, if that still holds.
    #[must_use]
    pub fn says_since(&self, now: Instant) -> Option<Instant> {
        self.since.filter(|_| self.answers(now))
    }

    /// Takes note of an answer that is the same as the last one.
    #[cfg(test)]
    pub(super) fn heard_again(&mut self, now: Instant) {
        if self.answered.is_some() {
            self.answered = Some(now);
        }
    }

    /// What it says of a stream, if that still holds.
    #[must_use]
    pub fn report(&self, stream: &Key, now: Instant) -> Option<&ChannelReport> {
        self.answers(now).then(|| self.reports.of(stream)).flatten()
    }

    /// Whether it answered lately.
    #[must_use]
    pub fn answers(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.duration_since(at) < ANSWER_LIFETIME)
    }

    /// Whether it can record.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.is_running
            && match self.status.as_ref().and_then(|status| status.phase) {
                Some(phase) => phase == RecorderPhase::Ready,
                None => self.answers(now),
            }
    }

    /// Volumes that do not work, each with the reason.
    #[must_use]
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

#[cfg(test)]
mod tests {
    use framekeeper_crds::ChannelState;
    use framekeeper_crds::yaml;

    use super::*;

    #[test]
    fn what_a_process_said_in_a_former_pod_does_not_hold_in_the_next_one() {
        let recorder = "{apiVersion: framekeeper.dev/v1alpha1, kind: Recorder, metadata: {name: r}, spec: {pool: main, ordinal: 0, term: 1, \
                        slots: {normal: 1, reserved: 0}, segment: {bytes: 4194304, partMs: 500}, volumes: []}}";
        let recorder = Arc::new(yaml::read_recorder(recorder).unwrap());
        let (mut seen, now, stream) =
            (Seen::new(recorder, "10.0.0.1:8080".into()), Instant::now(), Key::new("a", "cam"));
        let report = ChannelReport { state: Some(ChannelState::Standby), ..ChannelReport::default() };
        seen.is_running = true;
        seen.heard(Some(Arc::new(Reports::new([(stream.clone(), report)].into()))), now);
        seen.listens("10.0.0.1:8080");
        assert!(seen.report(&stream, now).is_some());
        seen.listens("10.0.0.2:8080");
        assert!(seen.report(&stream, now).is_none() && !seen.answers(now));
    }
}
