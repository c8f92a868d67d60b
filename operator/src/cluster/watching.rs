//! What is known of the cluster: one watch for each kind, its objects in memory, and a word when any of them changed.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use framekeeper_crds::k8s_openapi::api::apps::v1::StatefulSet;
use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use framekeeper_crds::k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use framekeeper_crds::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use framekeeper_crds::k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use framekeeper_crds::{Recorder, StoragePool};
use futures::StreamExt as _;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::build::names::MANAGED;
use super::guarded::{Asked, Guarded};
use super::streams::{self, Streams};

/// The API server ends each watch after so long, and it is gone on with at once. One that is silent for 5 s more is given up: nothing else tells of an API server
/// that went without a word, and without this the watch is believed for nearly five minutes.
const WATCH_SECONDS: u32 = 60;

/// Objects of one kind, of all namespaces that are looked after.
#[derive(Clone)]
pub struct Watched<K: Resource + 'static>
where
    K::DynamicType: Eq + Hash,
{
    stores: Vec<Store<K>>,
}

impl<K: Resource + Clone + 'static> Watched<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.stores.iter().flat_map(Store::state).collect()
    }

    async fn ready(&self) {
        for store in &self.stores {
            // The writer is never dropped while the process runs.
            let _ = store.wait_until_ready().await;
        }
    }
}

/// Everything that is watched.
#[derive(Clone)]
pub struct Watches {
    /// Streams; one that can't be understood is named and harms no other.
    pub streams: Streams,
    /// Pools.
    pub pools: Watched<Guarded<StoragePool>>,
    /// Recorders.
    pub recorders: Watched<Guarded<Recorder>>,
    /// That there are Secrets, and which version: nothing of what is in them.
    pub secrets: Watched<PartialObjectMeta<Secret>>,
    /// Claims that the operator made.
    pub claims: Watched<PersistentVolumeClaim>,
    /// StatefulSets that the operator made.
    pub sets: Watched<StatefulSet>,
    /// Of the rest of what the operator made, that it is there, and which version: what somebody changes or deletes is made again.
    pub services: Watched<PartialObjectMeta<Service>>,
    /// The same of these.
    pub budgets: Watched<PartialObjectMeta<PodDisruptionBudget>>,
    /// The same of these.
    pub accounts: Watched<PartialObjectMeta<ServiceAccount>>,
    /// The same of these.
    pub roles: Watched<PartialObjectMeta<Role>>,
    /// The same of these.
    pub bindings: Watched<PartialObjectMeta<RoleBinding>>,
    /// Pods of recorders.
    pub pods: Watched<Pod>,
    /// Leases of recorders.
    pub leases: Watched<Lease>,
    /// Volumes: they tell which nodes their claims are bound to.
    pub volumes: Watched<PersistentVolume>,
    /// Nodes.
    pub nodes: Watched<PartialObjectMeta<Node>>,
}

/// How changes are told: a Lease that is renewed is no reason to think everything over again.
enum Tell<K> {
    Yes,
    No,
    /// Only when what this makes of an object is another thing than before.
    When(fn(&K) -> u64),
}

// Not derived: that would ask the same of `K`.
impl<K> Clone for Tell<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Tell<K> {}

/// Tells news from what was known.
struct News<K> {
    tell: Tell<K>,
    known: HashMap<u64, u64>,
}

impl<K: Resource> News<K> {
    fn new(tell: Tell<K>) -> Self {
        Self { tell, known: HashMap::new() }
    }

    /// Whether this is a reason to think everything over again.
    fn is_news(&mut self, event: &watcher::Event<K>) -> bool {
        let name = |object: &K| digest(&(&object.meta().namespace, &object.meta().name));
        match (&self.tell, event) {
            // That it is gone is news of every object: somebody has to make it anew.
            (Tell::No, watcher::Event::Delete(_)) => true,
            (Tell::No, _) | (_, watcher::Event::Init) => false,
            (Tell::Yes, watcher::Event::InitApply(_)) => false,
            (Tell::Yes, _) | (_, watcher::Event::InitDone) => true,
            (Tell::When(_), watcher::Event::Delete(object)) => {
                self.known.remove(&name(object));
                true
            }
            (Tell::When(of), watcher::Event::InitApply(object)) => {
                self.known.insert(name(object), of(object));
                false
            }
            (Tell::When(of), watcher::Event::Apply(object)) => {
                let now = of(object);
                self.known.insert(name(object), now) != Some(now)
            }
        }
    }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// What of a stream decisions depend on: not its status, which the operator writes itself.
fn asked(stream: &Guarded<Asked>) -> u64 {
    let meta = stream.meta();
    digest(&(&meta.uid, meta.generation, &meta.annotations, meta.deletion_timestamp.is_some()))
}

/// What of a node decisions depend on: each kubelet writes its status every few minutes.
fn labelled(node: &PartialObjectMeta<Node>) -> u64 {
    digest(node.labels())
}

impl Watches {
    /// Begins to watch. `changed` is told of each change.
    #[must_use]
    pub fn start(client: &Client, namespaces: &[String], changed: &Arc<Notify>) -> Self {
        let all = watcher::Config::default().timeout(WATCH_SECONDS);
        let ours = all.clone().labels(MANAGED);
        Self {
            streams: streams(client, namespaces, &all, changed),
            pools: namespaced(client, namespaces, &all, changed, Tell::Yes),
            recorders: namespaced(client, namespaces, &all, changed, Tell::Yes),
            secrets: namespaced(client, namespaces, &all, changed, Tell::Yes),
            claims: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            sets: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            services: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            budgets: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            accounts: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            roles: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            bindings: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            pods: namespaced(client, namespaces, &ours, changed, Tell::Yes),
            leases: namespaced(client, namespaces, &ours, changed, Tell::No),
            volumes: Watched {
                stores: vec![keep(
                    watcher::watcher(Api::all(client.clone()), all.clone()),
                    "PersistentVolume",
                    changed,
                    Tell::Yes,
                )],
            },
            nodes: Watched {
                stores: vec![keep(
                    watcher::watcher(Api::all(client.clone()), all.clone()),
                    "Node",
                    changed,
                    Tell::When(labelled),
                )],
            },
        }
    }

    /// Waits until all of it was listed once.
    pub async fn ready(&self) {
        let slow = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(10));
            ticks.tick().await;
            loop {
                ticks.tick().await;
                info!(
                    "waiting for the first lists of all kinds; are the CustomResourceDefinitions applied, and may this operator list them?"
                );
            }
        };
        let all = async {
            self.recorders.ready().await;
            self.streams.ready().await;
            self.pools.ready().await;
            self.secrets.ready().await;
            self.claims.ready().await;
            self.sets.ready().await;
            self.services.ready().await;
            self.budgets.ready().await;
            self.accounts.ready().await;
            self.roles.ready().await;
            self.bindings.ready().await;
            self.pods.ready().await;
            self.leases.ready().await;
            self.volumes.ready().await;
            self.nodes.ready().await;
        };
        tokio::select! {
            () = all => {}
            () = slow => {}
        }
    }
}

/// Between two tries of a watch that fails: longer each time, but never so long that an API server which is back is not noticed for a minute, as with the
/// usual thirty seconds and as much again by chance. There are some fifteen watches, of one or two operators.
#[derive(Debug, Default)]
struct Again {
    failures: u32,
}

impl Again {
    const FIRST_MS: u64 = 250;
    const LAST_MS: u64 = 4_000;
}

impl Backoff for Again {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let most = Self::FIRST_MS.saturating_mul(1 << self.failures.min(8)).min(Self::LAST_MS);
        self.failures = self.failures.saturating_add(1);
        // Not all at the same moment.
        Some(Duration::from_millis(rand::random_range(most / 2..=most)))
    }
}

fn apis<K>(client: &Client, namespaces: &[String]) -> Vec<Api<K>>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
}

fn streams(client: &Client, namespaces: &[String], config: &watcher::Config, changed: &Arc<Notify>) -> Streams {
    let parts = apis::<Guarded<Asked>>(client, namespaces).into_iter().map(|api| {
        let (part, mut writer) = streams::part();
        let changed = Arc::clone(changed);
        let events = watcher::watcher(api, config.clone()).backoff(Again::default());
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut news = News::new(Tell::When(asked));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        let is_news = news.is_news(&event);
                        writer.take(event);
                        if is_news {
                            changed.notify_one();
                        }
                    }
                    Err(error) => warn!(kind = "CameraStream", "cannot be watched, and is tried again: {error}"),
                }
            }
        });
        part
    });
    Streams::new(parts.collect())
}

fn namespaced<K>(
    client: &Client,
    namespaces: &[String],
    config: &watcher::Config,
    changed: &Arc<Notify>,
    tell: Tell<K>,
) -> Watched<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let stores = apis(client, namespaces)
        .into_iter()
        .map(|api| keep(watcher::watcher(api, config.clone()), &kind, changed, tell))
        .collect();
    Watched { stores }
}

/// Keeps what a watch brings. One that fails is begun anew, later each time; meanwhile what was known stays.
fn keep<K>(
    stream: impl futures::Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    kind: &str,
    changed: &Arc<Notify>,
    tell: Tell<K>,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let (changed, kind) = (Arc::clone(changed), kind.to_owned());
    // Not only emptied: its memory would stay.
    let stream = stream.backoff(Again::default()).modify(|object| object.meta_mut().managed_fields = None);
    tokio::spawn(async move {
        let mut events = std::pin::pin!(reflector::reflector(writer, stream));
        let mut news = News::new(tell);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) if news.is_news(&event) => changed.notify_one(),
                Ok(_) => {}
                Err(error) => warn!(kind, "cannot be watched, and is tried again: {error}"),
            }
        }
    });
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(more: &str) -> Guarded<Asked> {
        let text = format!(
            r#"{{"apiVersion": "framekeeper.dev/v1alpha1", "kind": "CameraStream", "metadata": {{"name": "cam", "namespace": "a", "uid": "u"{more}}},
                "spec": {{"source": {{"url": "rtsp://c/1"}}, "poolRef": {{"name": "main"}}}}, "status": {{"phase": "Recording"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_stream_is_news_when_something_else_is_asked_for() {
        let mut news = News::new(Tell::When(asked));
        let mut apply = |object| news.is_news(&watcher::Event::Apply(object));
        assert!(apply(stream(r#", "generation": 1, "resourceVersion": "1""#)));
        assert!(!apply(stream(r#", "generation": 1, "resourceVersion": "2""#)), "its status was written");
        assert!(apply(stream(r#", "generation": 2, "resourceVersion": "3""#)));
        assert!(apply(stream(r#", "generation": 2, "annotations": {"framekeeper.dev/hold": "x"}"#)));
        assert!(apply(stream(r#", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z""#)));
        assert!(news.is_news(&watcher::Event::Delete(stream(r#", "generation": 2"#))));
        assert!(
            news.is_news(&watcher::Event::Apply(stream(r#", "generation": 2"#))),
            "one of that name is there again"
        );
        assert!(!news.is_news(&watcher::Event::InitApply(stream(r#", "generation": 2"#))));
        assert!(news.is_news(&watcher::Event::InitDone), "what went meanwhile is not named");
    }

    #[test]
    fn a_watch_is_tried_again_soon_however_long_it_failed() {
        let mut again = Again::default();
        let waits: Vec<u64> = again.by_ref().take(100).map(|wait| wait.as_millis() as u64).collect();
        assert!(waits[0] <= 250 && waits.iter().all(|wait| (125..=4_000).contains(wait)), "{waits:?}");
        assert!(waits[10..].iter().all(|wait| *wait >= 2_000), "{waits:?}");
        again.reset();
        assert!(again.next().is_some_and(|wait| wait.as_millis() <= 250));
    }
}
