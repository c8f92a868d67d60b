//! How a leader begins: it takes over what a former one left, so that nothing that is still on its way from there takes effect, and listens before it decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::{Recorder, StoragePool};
use futures::StreamExt as _;
use kube::ResourceExt as _;
use tokio::time::timeout;
use tracing::{info, warn};

use super::alive::Life;
use super::apply::WriteError;
use super::gather;
use super::plane::{AGAIN, ANSWER, Plane};
use super::streams::Stream;
use super::world::Facts;
use crate::decide::wanted::Key;

/// A Recorder that changes while it is being taken over is looked at again so often.
const TRIES: usize = 5;
/// A leader that begins waits so long for recorders that do not answer: what their Leases say, and who was asked, is known by then.
const LISTENS: Duration = Duration::from_secs(5);

/// How far a leader is with beginning.
#[derive(Debug)]
pub(super) struct Beginning {
    term: u64,
    /// Recorders that the term was written on, and when: the watch shows it a moment later.
    marked: BTreeMap<Key, Instant>,
    /// Since when it has been refused a Recorder.
    refused_since: Option<Instant>,
    /// Since when recorders are asked.
    asks_since: Option<Instant>,
    /// Whether all that could be heard was.
    has_listened: bool,
}

impl Beginning {
    const fn new(term: u64) -> Self {
        Self { term, marked: BTreeMap::new(), refused_since: None, asks_since: None, has_listened: false }
    }

    /// Whether a Recorder is to be taken over, which does not show this term: again, where it should show it by now. Somebody may have taken it away.
    fn is_due(&self, recorder: &Key, now: Instant) -> bool {
        self.marked.get(recorder).is_none_or(|at| now.duration_since(*at) >= AGAIN)
    }
}

/// Whether a leader of this term has taken a Recorder over.
fn is_of(term: u64, recorder: &Recorder) -> bool {
    recorder.annotations().get(gather::TERM).is_some_and(|mark| *mark == term.to_string())
}

fn key_of(recorder: &Recorder) -> Key {
    Key::new(recorder.namespace().unwrap_or_default(), recorder.name_any())
}

impl Plane {
    /// Whether it is done with beginning, and decides.
    pub(super) fn has_begun(&self) -> bool {
        self.beginning.as_ref().is_some_and(|beginning| beginning.has_listened)
    }

    /// Begins to lead, in several rounds: takes every Recorder over, so that nothing that a former leader still sends takes effect; remembers what there is, when the
    /// watch shows that; and asks all recorders how they are. Whether it is done.
    ///
    /// What the watch showed before may be from before an outage, or a restore from a backup: whoever decides by that, or by whom it has not heard of when nobody
    /// could be heard, takes streams from recorders that have them.
    pub(super) async fn begin(&mut self, term: u64, facts: &Facts) -> Result<bool, WriteError> {
        if self.state.term == term && self.has_begun() {
            return Ok(true);
        }
        if self.beginning.as_ref().is_none_or(|beginning| beginning.term != term) {
            self.forget();
            self.beginning = Some(Beginning::new(term));
        }
        if self.state.term != term {
            self.take_every_one_over(term, facts).await?;
            let is_taken =
                |(key, recorder): (&Key, &Arc<Recorder>)| is_of(term, recorder) || self.untaken.contains(key);
            if !facts.recorders.iter().all(is_taken) {
                return Ok(false);
            }
            self.remember(term, facts).await?;
        }
        // From now on they are asked: what they answer is compared with what is remembered.
        self.look_at_recorders(facts);
        let Some(beginning) = &mut self.beginning else { return Ok(false) };
        let since = *beginning.asks_since.get_or_insert_with(Instant::now);
        let is_heard = |key: &Key| matches!(facts.life(key), Life::New(_)) || self.lives.was_heard_since(key, since);
        beginning.has_listened = since.elapsed() >= LISTENS || facts.recorders.keys().all(is_heard);
        Ok(beginning.has_listened)
    }

    /// Writes the term on those that do not show it yet.
    async fn take_every_one_over(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let now = Instant::now();
        let is_due = |key: &Key| {
            !self.untaken.contains(key) && self.beginning.as_ref().is_none_or(|beginning| beginning.is_due(key, now))
        };
        let due = facts.recorders.iter().filter(|(key, recorder)| !is_of(term, recorder) && is_due(key));
        let due: Vec<&Arc<Recorder>> = due.map(|(_, recorder)| recorder).collect();
        let (mut refused, failed) = self.take_all_over(term, &due).await;
        if let Some(error) = failed {
            return Err(error);
        }
        let Some(beginning) = &mut self.beginning else { return Ok(()) };
        let is_refused = |key: &Key| refused.iter().any(|(other, _)| other == key);
        let marked = due.iter().map(|recorder| key_of(recorder)).filter(|key| !is_refused(key));
        beginning.marked.extend(marked.map(|key| (key, now)));
        if let Some((_, error)) = refused.first() {
            // An API server that has just begun knows no rights yet, and refuses everything. One that nobody may write to for longer is no reason for nobody to
            // lead: a former leader may not write to it either.
            if beginning.refused_since.get_or_insert(now).elapsed() < AGAIN {
                return Err(refused.swap_remove(0).1);
            }
            warn!("{error}; it is left as it is, and taken over as soon as it can be");
        }
        self.untaken.extend(refused.into_iter().map(|(key, _)| key));
        Ok(())
    }

    /// Remembers what there is.
    async fn remember(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let recorders: Vec<&Arc<Recorder>> = facts.recorders.values().collect();
        let pools = self.watches.pools.all();
        let pools: Vec<&Arc<StoragePool>> = pools.iter().filter_map(|guard| guard.ok()).collect();
        let key = |namespace: Option<String>, name: String| Key::new(namespace.unwrap_or_default(), name);
        let specs = pools.iter().map(|pool| (key(pool.namespace(), pool.name_any()), &pool.spec));
        // What was said of streams is of use now, and never again: it is no part of what is watched.
        let former = super::former::streams(&self.client, &self.options.watch_namespaces).await?;
        let state = gather::state(
            term,
            &recorders,
            |look: &mut dyn FnMut(&Key, &Stream)| self.watches.streams.each(look),
            &former,
            specs,
        );
        let outbox = &mut self.reporter.sink;
        outbox.former_streams = former;
        outbox.former_pools = pools
            .iter()
            .filter_map(|pool| Some((key(pool.namespace(), pool.name_any()), pool.status.clone()?)))
            .collect();
        info!(term, recorders = state.recorders.len(), streams = state.streams.len(), "begins to lead");
        self.state = state;
        self.revision += 1;
        self.is_stirred = true;
        Ok(())
    }

    /// Takes these over, several at once: with a hundred recorders nobody decides anything for seconds. Those that nobody may write to, and why; and what else failed.
    async fn take_all_over(
        &mut self,
        term: u64,
        recorders: &[&Arc<Recorder>],
    ) -> (Vec<(Key, WriteError)>, Option<WriteError>) {
        let plane = &*self;
        let take = |recorder: &Arc<Recorder>| {
            let recorder = Arc::clone(recorder);
            async move { (key_of(&recorder), plane.take_over(term, &recorder).await) }
        };
        let taken = recorders.iter().map(|recorder| take(recorder));
        let taken: Vec<_> = futures::stream::iter(taken).buffer_unordered(super::make::AT_ONCE).collect().await;
        let (mut refused, mut failed) = (Vec::new(), None);
        for (key, taken) in taken {
            match taken {
                Ok(taken) => self.versions.extend(taken),
                Err(error) if error.holds_for_everybody() => refused.push((key, error)),
                // Any other one is tried again before anything is decided: until it is taken over, what a former leader sends takes effect.
                Err(error) => failed = Some(error),
            }
        }
        (refused, failed)
    }

    /// Those that could not be taken over, once more.
    pub(super) async fn take_rest_over(&mut self, term: u64, facts: &Facts) {
        let rest: Vec<&Arc<Recorder>> = self.untaken.iter().filter_map(|key| facts.recorders.get(key)).collect();
        let (refused, failed) = self.take_all_over(term, &rest).await;
        self.try_again();
        if let Some(error) = failed {
            // It may have been any of them.
            warn!("{error}; it is tried again");
            return;
        }
        self.untaken = refused.into_iter().map(|(key, _)| key).collect();
    }

    /// Writes the term on a Recorder, as long as there is one. The version that it then has.
    async fn take_over(&self, term: u64, recorder: &Recorder) -> Result<Option<(Key, String)>, WriteError> {
        let key = key_of(recorder);
        let mut found = recorder.clone();
        for _ in 0..TRIES {
            let mut marked = Recorder::new(&key.name, found.spec.clone());
            marked.metadata = super::make::recorder_metadata(&found);
            marked.annotations_mut().insert(gather::TERM.to_owned(), term.to_string());
            marked.metadata.resource_version = found.resource_version();
            match self.writer.patch_version(term, &marked).await {
                Ok(written) => {
                    return Ok(Some((key, written.metadata.resource_version.unwrap_or_default())));
                }
                Err(error) if error.code() == Some(404) => return Ok(None),
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
            // It was changed a moment ago, most often by the recorder itself.
            let api = self.writer.api::<Recorder>(&key.namespace);
            let Ok(read) = timeout(ANSWER, api.get_opt(&key.name)).await else { break };
            match read {
                Ok(Some(now)) => found = now,
                Ok(None) => return Ok(None),
                Err(source) => {
                    return Err(WriteError::Refused { what: format!("Recorder {key}"), source: Box::new(source) });
                }
            }
        }
        Err(WriteError::Busy { what: format!("Recorder {key}") })
    }
}
