//! Statuses on their way out: many at once, none twice.

use std::collections::BTreeSet;
use std::time::Instant;

use framekeeper_crds::API_VERSION;
use framekeeper_crds::k8s_openapi::api::core::v1::ObjectReference;
use framekeeper_crds::{CameraStream, StoragePool};
use futures::StreamExt as _;
use tracing::warn;

use super::apply::{Writer, Written};
use super::sink::Happened;
use crate::decide::wanted::Key;

/// So many writes are under way at once: an API server has others to serve.
pub(super) const AT_ONCE: usize = 16;
/// `note` of an event may have so many bytes, though the API server calls them characters when it refuses one.
const NOTE_AT_MOST: usize = 1024;

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
            // It is gone.
            Err(error) if matches!(error.code(), Some(404 | 409)) => None,
            // Another one has its name, and the patch's test of the UID says so. Or what stands in its spec is nothing by today's definition, and nobody may write
            // to it before that is put right; an event has told why.
            Err(error) if error.code() == Some(422) => {
                warn!("a status can't be written: {error}");
                None
            }
            Err(error) => Some((key, Some(error))),
        }
    });
    let results = futures::stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(std::future::ready);
    let results: Vec<_> = results.collect().await;
    if let Some(error) = results.iter().find_map(|(_, error)| error.as_ref()) {
        warn!("a status can't be written, and is tried again: {error}");
    }
    results.into_iter().map(|(key, _)| key).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_by_bytes_and_between_letters() {
        let fits = "x".repeat(NOTE_AT_MOST);
        assert_eq!(short(&fits), fits);
        assert_eq!(short(&"x".repeat(NOTE_AT_MOST + 1)), format!("{}…", "x".repeat(NOTE_AT_MOST - 3)));
        assert_eq!(short(&"ä".repeat(NOTE_AT_MOST)), format!("{}…", "ä".repeat(510)));
    }
}
