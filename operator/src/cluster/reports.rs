//! What recorders say of their channels: asked for over HTTP, or taken from their Recorder's status where they can't be reached.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use framekeeper_crds::{ChannelState, Recorder, RecorderPhase, Role};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::decide::observe::{ChannelReport, Question, Reports};
use crate::decide::wanted::Key;

/// How often a recorder is asked for its channels.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What a recorder said, and when.
pub type Answer = (Instant, Arc<Reports>);

/// What recorders said last and nobody has looked at yet: of each the newest only. A round may wait for the API server for long, and what piled up meanwhile was
/// most of the operator's memory.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<Mutex<BTreeMap<Key, Answer>>>);

impl Answers {
    fn put(&self, recorder: &Key, reports: Arc<Reports>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(recorder.clone(), (Instant::now(), reports));
    }

    /// All of them, once.
    #[must_use]
    pub fn take(&self) -> BTreeMap<Key, Answer> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks each recorder, one after the other's address became known.
pub struct Askers {
    client: reqwest::Client,
    answers: Answers,
    asked: BTreeMap<Key, (String, AbortHandle)>,
}

impl Askers {
    /// Answers go there.
    #[must_use]
    pub fn new(client: reqwest::Client, answers: Answers) -> Self {
        Self { client, answers, asked: BTreeMap::new() }
    }

    /// These are to be asked, at these addresses, and no others.
    pub fn ask(&mut self, addresses: &BTreeMap<Key, String>) {
        self.asked.retain(|key, (address, task)| {
            let stays = addresses.get(key) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (key, address) in addresses {
            if self.asked.contains_key(key) {
                continue;
            }
            let mut question = Question::new(self.client.clone(), address.clone());
            let (name, answers) = (key.clone(), self.answers.clone());
            let task = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(ASK_INTERVAL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    if let Some(reports) = question.ask().await {
                        answers.put(&name, reports);
                    }
                }
            });
            self.asked.insert(key.clone(), (address.clone(), task.abort_handle()));
        }
    }
}

/// What a Recorder's status says of its channels: only of those that are not as planned is anything said. Of an assignment that it does not know yet, nothing.
#[must_use]
pub fn from_status(recorder: &Recorder) -> Option<Arc<Reports>> {
    let status = recorder.status.as_ref()?;
    // That it is silent somebody else said: it does not hold any more what it said itself.
    if status.observed_generation != recorder.metadata.generation || status.phase == Some(RecorderPhase::Unknown) {
        return None;
    }
    let said = status.channels.iter().map(|channel| {
        let report = ChannelReport {
            state: Some(channel.state),
            reason: channel.reason.clone(),
            message: channel.message.clone(),
            epoch: channel.epoch,
            ..ChannelReport::default()
        };
        (Key::new(&channel.stream.namespace, &channel.stream.name), report)
    });
    let mut reports: BTreeMap<Key, ChannelReport> = said.collect();
    for channel in &recorder.spec.channels {
        let key = Key::new(&channel.stream.namespace, &channel.stream.name);
        reports.entry(key).or_insert_with(|| {
            let (state, reason) = match channel.role {
                Role::Primary => (ChannelState::Recording, None),
                Role::Standby => (ChannelState::Standby, Some("StandingBy".to_owned())),
            };
            ChannelReport { state: Some(state), reason, epoch: Some(channel.epoch), ..ChannelReport::default() }
        });
    }
    Some(Arc::new(Reports::new(reports.into_iter().collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_recorder_said_the_newest_waits() {
        let (answers, one, two) = (Answers::default(), Key::new("a", "one"), Key::new("a", "two"));
        let says = |epoch| {
            let report = ChannelReport { epoch: Some(epoch), ..ChannelReport::default() };
            Arc::new(Reports::new(vec![(Key::new("a", "cam"), report)]))
        };
        answers.put(&one, says(1));
        answers.put(&two, says(7));
        answers.put(&one, says(2));
        let taken = answers.take();
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[&one].1, says(2));
        assert!(answers.take().is_empty(), "they are looked at once");
    }
}
