//! When what was asked for was there: streams that recorders were told of, that have a holder by their status, and that are recorded. From watches, so that
//! looking costs no requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use framekeeper_crds::{CameraStream, Recorder, StreamPhase};
use futures::StreamExt as _;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use tokio::time::sleep;

/// How often is looked whether all of it is there. Times are those of the events, not of this.
const LOOK: Duration = Duration::from_millis(50);

/// Since when something is so, by name of the stream.
type Since = BTreeMap<String, Instant>;

#[derive(Debug, Default)]
struct Seen {
    assigned: Since,
    shown: Since,
    recorded: Since,
    recorders: BTreeSet<String>,
    trouble: Option<String>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Seen>);

/// When the last of some streams was so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// A Recorder's spec has it: that is the assignment, by which it is recorded.
    pub(super) assigned: Instant,
    /// Its status names its recorder.
    pub(super) shown: Instant,
    /// Its status says that it is recorded.
    pub(super) recorded: Instant,
}

impl Tally {
    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a Recorder is told.
    pub(super) fn told(&self, recorder: &Recorder) {
        let now = Instant::now();
        self.with(|seen| {
            for channel in &recorder.spec.channels {
                if !seen.assigned.contains_key(&channel.stream.name) {
                    seen.assigned.insert(channel.stream.name.clone(), now);
                }
            }
            if recorder.status.as_ref().is_some_and(|status| status.addresses.is_some()) {
                seen.recorders.insert(recorder.name_any());
            }
        });
    }

    /// Something that makes the measurement worthless.
    pub(super) fn trouble(&self, what: String) {
        self.with(|seen| seen.trouble.get_or_insert(what).len());
    }

    fn stream(&self, stream: &CameraStream) {
        let Some(status) = &stream.status else { return };
        let now = Instant::now();
        let name = stream.name_any();
        self.with(|seen| {
            if status.assignment.is_some() {
                seen.shown.entry(name.clone()).or_insert(now);
            }
            if status.phase == Some(StreamPhase::Recording) {
                seen.recorded.entry(name).or_insert(now);
            }
        });
    }

    /// Begins to follow all streams of a namespace.
    pub(super) fn follow(self: &Arc<Self>, client: Client, namespace: &str) {
        let (tally, api) = (Arc::clone(self), Api::<CameraStream>::namespaced(client, namespace));
        tokio::spawn(async move {
            let mut events =
                std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
            while let Some(event) = events.next().await {
                if let Ok(stream) = event {
                    tally.stream(&stream);
                }
            }
        });
    }

    /// Waits until so many recorders have told their addresses.
    ///
    /// # Errors
    /// When the time is over.
    pub(super) async fn recorders(&self, count: usize, patience: Duration) -> Result<()> {
        self.wait(patience, "recorders have said where they are", count, |seen| seen.recorders.len()).await
    }

    /// Waits until all of these streams are recorded, by what is told of them.
    ///
    /// # Errors
    /// When the time is over.
    pub(super) async fn reached(&self, streams: &[String], patience: Duration) -> Result<Reached> {
        let count = |since: &Since| streams.iter().filter(|name| since.contains_key(*name)).count();
        let all = streams.len();
        self.wait(patience, "streams are in a Recorder's spec", all, |seen| count(&seen.assigned)).await?;
        self.wait(patience, "streams have a recorder by their status", all, |seen| count(&seen.shown)).await?;
        self.wait(patience, "streams are recorded by their status", all, |seen| count(&seen.recorded)).await?;
        let last = |since: &Since| {
            streams.iter().filter_map(|name| since.get(name)).max().copied().unwrap_or_else(Instant::now)
        };
        Ok(self.with(|seen| Reached {
            assigned: last(&seen.assigned),
            shown: last(&seen.shown),
            recorded: last(&seen.recorded),
        }))
    }

    async fn wait(&self, patience: Duration, what: &str, wanted: usize, count: impl Fn(&Seen) -> usize) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let (found, trouble) = self.with(|seen| (count(seen), seen.trouble.take()));
            if let Some(trouble) = trouble {
                bail!("{trouble}");
            }
            if found >= wanted {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!("{found} of {wanted} {what} after {} s", patience.as_secs());
            }
            sleep(LOOK).await;
        }
    }
}
