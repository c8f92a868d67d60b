//! What is told of streams and pools that are refused, and of which nothing is known that could be gone on with.

use std::collections::BTreeMap;

use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{
    CameraStream, CameraStreamSpec, CameraStreamStatus, PoolRef, Source, StoragePool, StoragePoolStatus,
};
use tracing::warn;

use super::pool_status::{self, PoolView};
use super::report::{Kind, Reporter, Sink, metadata};
use super::status::{self, Doing, Note};
use super::wanted::{Identity, Key, Refusal, Wanted};

/// What was told of each.
#[derive(Debug, Default)]
pub(super) struct Told {
    streams: BTreeMap<Key, (Identity, Refusal)>,
    pools: BTreeMap<Key, (Identity, Refusal)>,
}

impl Told {
    /// What is new of these; what is not refused any more is forgotten.
    fn news(
        known: &mut BTreeMap<Key, (Identity, Refusal)>,
        unknown: &BTreeMap<Key, Identity>,
        refused: &BTreeMap<Key, Refusal>,
    ) -> Vec<(Key, Identity, Refusal)> {
        known.retain(|key, _| unknown.contains_key(key));
        let all =
            unknown.iter().filter_map(|(key, identity)| Some((key, (identity.clone(), refused.get(key)?.clone()))));
        let news: Vec<_> = all.filter(|(key, now)| known.get(*key) != Some(now)).collect();
        let owned = news.into_iter().map(|(key, now)| (key.clone(), now));
        owned
            .map(|(key, now)| {
                known.insert(key.clone(), now.clone());
                (key, now.0, now.1)
            })
            .collect()
    }
}

impl<S: Sink> Reporter<S> {
    /// Tells it, each once.
    pub(super) fn refusals(&mut self, wanted: &Wanted, wall: Timestamp) {
        for (key, identity, refusal) in Told::news(&mut self.refused.streams, &wanted.unknown, &wanted.refused) {
            let old = self.sink.former_stream(&key).unwrap_or_default();
            let doing = Doing::Refused { reason: refusal.reason, message: refusal.message.clone() };
            let new: CameraStreamStatus = status::stream(&old, identity.generation, None, &doing, wall);
            // Of its spec nothing can be said: nothing but the status is written.
            let mut object = CameraStream::new(&key.name, nowhere());
            object.metadata = metadata(&key, &identity.uid, identity.generation);
            object.status = Some(new);
            let written = self.sink.refused_stream(&key, object);
            self.note_trouble(written);
            self.say(Kind::Stream, &key, &identity, refusal, wall);
        }
        for (key, identity, refusal) in
            Told::news(&mut self.refused.pools, &wanted.unknown_pools, &wanted.refused_pools)
        {
            let old = self.sink.former_pool(&key).unwrap_or_default();
            let view = PoolView { refused: Some((refusal.reason, refusal.message.clone())), ..PoolView::default() };
            let new: StoragePoolStatus = pool_status::status(&old, identity.generation, &view, wall);
            let Some(spec) = empty() else { continue };
            let mut object = StoragePool::new(&key.name, spec);
            object.metadata = metadata(&key, &identity.uid, identity.generation);
            object.status = Some(new);
            let written = self.sink.pool(&key, object);
            self.note_trouble(written);
            self.say(Kind::Pool, &key, &identity, refusal, wall);
        }
    }

    fn say(&mut self, kind: Kind, key: &Key, identity: &Identity, refusal: Refusal, wall: Timestamp) {
        let Refusal { reason, message } = refusal;
        warn!(kind = kind.name(), name = %key, reason, "{message}");
        let note = Note { warning: true, reason: reason.to_owned(), message };
        let result = self.sink.event(kind, key, &identity.uid, &note, wall);
        self.note_trouble(result);
    }
}

fn nowhere() -> CameraStreamSpec {
    CameraStreamSpec {
        source: Source {
            url: String::new(),
            credentials_secret_ref: None,
            transport: framekeeper_crds::Transport::default(),
            max_sessions: None,
            onvif: None,
        },
        pool_ref: PoolRef { name: String::new() },
        redundancy: None,
        audio: true,
        retention: framekeeper_crds::RetentionSpec::default(),
        priority: 0,
        suspend: false,
    }
}

fn empty() -> Option<framekeeper_crds::StoragePoolSpec> {
    framekeeper_crds::yaml::read("{recorders: 1, storage: {volumes: []}}").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_news_once_and_again_when_it_is_another() {
        let key = Key::new("default", "a");
        let identity = |generation| Identity { uid: "u".to_owned(), generation };
        let refusal = |message: &str| Refusal { reason: "InvalidSpec", message: message.to_owned() };
        let unknown = BTreeMap::from([(key.clone(), identity(1))]);
        let refused = BTreeMap::from([(key.clone(), refusal("spec.source.url: no"))]);
        let mut known = BTreeMap::new();
        assert_eq!(Told::news(&mut known, &unknown, &refused).len(), 1);
        assert_eq!(Told::news(&mut known, &unknown, &refused), []);
        let edited = BTreeMap::from([(key.clone(), identity(2))]);
        assert_eq!(Told::news(&mut known, &edited, &refused).len(), 1);
        // It was right for a while.
        assert_eq!(Told::news(&mut known, &BTreeMap::new(), &refused), []);
        assert_eq!(Told::news(&mut known, &edited, &refused).len(), 1);
    }

    #[test]
    fn a_pool_can_be_made_up_to_say_that_it_is_refused() {
        assert!(empty().is_some());
    }
}
