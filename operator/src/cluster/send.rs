//! Statuses on their way out: many at once, none twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use framekeeper_crds::API_VERSION;
use framekeeper_crds::k8s_openapi::api::core::v1::ObjectReference;
use framekeeper_crds::{CameraStream, CameraStreamSpec, StoragePool};
use futures::StreamExt as _;
use kube::runtime::events::EventType;
use tokio::time::timeout;
use tracing::{error, warn};

use super::apply::{WriteError, Writer, Written};
use super::plane::{ANSWER, Plane};
use super::sink::Happened;
use crate::decide::wanted::Key;

/// So many writes are under way at once: an API server has others to serve.
pub(super) const AT_ONCE: usize = 16;
/// `note` of an event may have so many bytes, though the API server calls them characters when it refuses one.
const NOTE_AT_MOST: usize = 1024;

/// So many events are written in one round: statuses tell what counts, and come first.
const EVENTS_A_ROUND: usize = 100;
/// For so long statuses of streams are written in one round: while ten thousand are new, decisions and what recorders say must not wait for all of them.
const SENDS_FOR: Duration = Duration::from_secs(1);
/// But for so many times as long as the rest of the round took: else most of the time would go into looking.
const SENDS: u32 = 4;
/// And never for longer.
const SENDS_AT_MOST: Duration = Duration::from_secs(4);

/// An object whose status is written.
pub(super) trait WithStatus: Written {
    /// Nothing but what tells which object it is, and the status.
    fn bare(self) -> Self;
}

impl WithStatus for CameraStream {
    fn bare(mut self) -> Self {
        bare(&mut self.metadata);
        self
    }
}

impl WithStatus for StoragePool {
    fn bare(mut self) -> Self {
        bare(&mut self.metadata);
        self
    }
}

/// The UID stays: should there be another object of this name by now, the write is refused (422).
fn bare(metadata: &mut framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    metadata.generation = None;
    metadata.resource_version = None;
}

/// Writes the statuses of these, each made when its turn comes: ten thousand at once would be most of the memory. Gives back whose could not be written,
/// also those that would have been begun after `until`.
pub(super) async fn all<K: WithStatus>(
    writer: &Writer,
    term: u64,
    keys: impl Iterator<Item = Key>,
    object: impl Fn(&Key) -> Option<K>,
    until: Option<Instant>,
) -> BTreeSet<Key> {
    let object = &object;
    let writes = keys.map(|key| async move {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Some((key, None));
        }
        match writer.status(term, &object(&key)?.bare()).await {
            Ok(()) => None,
            Err(error) => match after(&error) {
                After::Gone => None,
                After::Refused => {
                    warn!("a status can't be written: {error}");
                    None
                }
                After::Again => Some((key, Some(error))),
            },
        }
    });
    let results = futures::stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(std::future::ready);
    let results: Vec<_> = results.collect().await;
    if let Some(error) = results.iter().find_map(|(_, error)| error.as_ref()) {
        warn!("a status can't be written, and is tried again: {error}");
    }
    results.into_iter().map(|(key, _)| key).collect()
}

/// What follows from a status not having been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The object is gone.
    Gone,
    /// Another one has its name: the API server answers so (422) where the patch's test of the UID fails. Or what stands in its spec is nothing by today's
    /// definition, and nobody may write to it before that is put right; an event has told why.
    Refused,
    /// It is written the next time. Also where others wrote to the object all the while (409): what is left away then would not be written before it changes.
    Again,
}

fn after(error: &WriteError) -> After {
    match error.code() {
        Some(404) => After::Gone,
        Some(422) => After::Refused,
        _ => After::Again,
    }
}

/// The object that something happened to.
pub(super) fn reference(happened: &Happened) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(happened.kind.name().to_owned()),
        namespace: Some(happened.key.namespace.clone()),
        name: Some(happened.key.name.clone()),
        uid: Some(happened.uid.clone()),
        ..ObjectReference::default()
    }
}

/// What fits into an event.
pub(super) fn short(text: &str) -> String {
    if text.len() <= NOTE_AT_MOST {
        return text.to_owned();
    }
    let room = NOTE_AT_MOST - '…'.len_utf8();
    let end = text.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= room).last();
    format!("{}…", text.get(..end.unwrap_or(0)).unwrap_or_default())
}

impl Plane {
    /// Writes statuses and events, for a while; `rest`: how long the rest of this round took. What can't be written now stays for the next time, and is then
    /// written as it is by then.
    pub(super) async fn send(&mut self, term: u64, rest: Duration) {
        let until = Instant::now() + (rest * SENDS).clamp(SENDS_FOR, SENDS_AT_MOST);
        let outbox = &mut self.reporter.sink;
        let (streams, pools) = (outbox.take_streams(), std::mem::take(&mut outbox.pools));
        let refused = std::mem::take(&mut outbox.refused);
        self.metrics.waits(streams.len() + pools.len() + outbox.events.len());
        let said = |key: &Key| {
            if let Some(refused) = refused.get(key) {
                return Some(refused.clone());
            }
            let (spec, status) = (&self.wanted.streams.get(key)?.object, self.reporter.said(key)?);
            let uid = &self.state.streams.get(&key.to_string())?.uid;
            let mut stream = CameraStream::new(&key.name, CameraStreamSpec::clone(spec));
            stream.metadata.namespace = Some(key.namespace.clone());
            stream.metadata.uid = Some(uid.clone());
            stream.status = Some(status);
            Some(stream)
        };
        let writer = &self.writer;
        let unsent_pools = all(writer, term, pools.keys().cloned(), |key| pools.get(key).cloned(), None).await;
        let unsent = all(writer, term, streams.iter().cloned(), said, Some(until)).await;
        let outbox = &mut self.reporter.sink;
        let is_late = !unsent.is_empty() && Instant::now() >= until;
        outbox.refused.extend(refused.into_iter().filter(|(key, _)| unsent.contains(key)));
        outbox.put_back(streams.into_iter().filter(|key| unsent.contains(key)));
        outbox.pools.extend(pools.into_iter().filter(|(key, _)| unsent_pools.contains(key)));
        // Statuses tell what counts, and come first.
        if self.writer.term() != Some(term) || is_late {
            return;
        }
        let some = outbox.events.len().min(EVENTS_A_ROUND);
        let happened: Vec<_> = outbox.events.drain(..some).collect();
        let (events, metrics) = (&mut self.events, &self.metrics);
        metrics.lost_events(std::mem::take(&mut outbox.lost_events));
        // One after the other: whether something is said again goes by what was said last.
        let prepared: Vec<_> = happened
            .into_iter()
            .map(|happened| {
                let note = short(&happened.note.message);
                (events.through(&happened, &note), note, happened)
            })
            .collect();
        let writes = prepared.into_iter().map(|(publisher, note, happened)| async move {
            let event = kube::runtime::events::Event {
                type_: if happened.note.warning { EventType::Warning } else { EventType::Normal },
                reason: happened.note.reason.clone(),
                note: Some(note),
                action: happened.note.reason.clone(),
                secondary: None,
            };
            let published = timeout(ANSWER, publisher.publish(&event, &reference(&happened))).await;
            let why = match published {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            metrics.lost_events(1);
            error!(reason = happened.note.reason, "an event of {} is lost: {why}", happened.key);
        });
        futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_given_up_only_where_it_is_nobodys_or_may_not_be_written() {
        let answered = |code: u16| {
            let status = format!(r#"{{ "status": "Failure", "message": "", "reason": "", "code": {code} }}"#);
            let source = Box::new(kube::Error::Api(serde_json::from_str(&status).unwrap()));
            after(&WriteError::Refused { what: "status of CameraStream a".to_owned(), source })
        };
        let with = |after: After| (400..600).filter(|code| answered(*code) == after).collect::<Vec<u16>>();
        assert_eq!((with(After::Gone), with(After::Refused)), (vec![404], vec![422]));
        // Somebody else was faster, again and again; no answer; another one leads by now, and this one may again.
        assert_eq!(answered(409), After::Again);
        let silent = Box::new(kube::Error::Service("no answer in time".into()));
        assert_eq!(after(&WriteError::Refused { what: String::new(), source: silent }), After::Again);
        assert_eq!(after(&WriteError::NotLeading), After::Again);
    }

    #[test]
    fn a_note_is_cut_by_bytes_and_between_letters() {
        let fits = "x".repeat(NOTE_AT_MOST);
        assert_eq!(short(&fits), fits);
        assert_eq!(short(&"x".repeat(NOTE_AT_MOST + 1)), format!("{}…", "x".repeat(NOTE_AT_MOST - 3)));
        assert_eq!(short(&"ä".repeat(NOTE_AT_MOST)), format!("{}…", "ä".repeat(510)));
    }
}
