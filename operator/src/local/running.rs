//! A recorder as a child of this process: whether it runs, and what it says.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use framekeeper_crds::{Recorder, RecorderPhase, yaml};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::child::{self, Happening, Plan};
use super::log_tail::LogTail;
use crate::decide::observe::{self, Reports};
use crate::decide::seen::Seen;
use crate::decide::wanted::Key;

/// How often a recorder is asked for its channels.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// An answer of a recorder, if it gave one.
pub type Answer = (Key, Option<Arc<Reports>>);

/// A recorder.
#[derive(Debug)]
pub struct Running {
    /// As it is seen.
    pub seen: Seen,
    /// What it logs.
    pub tail: LogTail,
    child: child::Handle,
    observer: AbortHandle,
    status_read: Option<SystemTime>,
}

impl AsRef<Seen> for Running {
    fn as_ref(&self) -> &Seen {
        &self.seen
    }
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
                    let answer = observe::ask(&client, &address).await.map(Arc::new);
                    if answers.send((key.clone(), answer)).is_err() {
                        return;
                    }
                }
            })
        };
        Self {
            seen: Seen::new(Arc::new(recorder), address),
            tail,
            child: child::start(plan, happenings),
            observer: observer.abort_handle(),
            status_read: None,
        }
    }

    /// Tells it to stop.
    pub fn stop(&self) {
        self.child.stop();
    }

    /// Takes note of its process being there.
    pub fn has_started(&mut self) {
        self.seen.is_running = true;
        self.seen.is_down = false;
    }

    /// Takes note of its process having ended by itself. What it said does not hold any more, but for why it could not go on: that holds until
    /// the next one says something else. Whether what is in the file is to be kept.
    pub fn has_given_up(&mut self, path: &Path) -> bool {
        self.read_status(path);
        let last = self.seen.status.take();
        self.seen.has_ended();
        self.seen.status = last.filter(|status| status.phase == Some(RecorderPhase::Failed));
        self.seen.status.is_some()
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
        self.seen.status = read.and_then(|recorder| recorder.status);
        true
    }
}
