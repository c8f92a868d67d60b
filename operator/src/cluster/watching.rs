//! What is known of the cluster: one watch for each kind, its objects in memory, and a word when any of them changed.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use framekeeper_crds::k8s_openapi::api::apps::v1::StatefulSet;
use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use framekeeper_crds::k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use framekeeper_crds::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use framekeeper_crds::k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use framekeeper_crds::{CameraStream, Recorder, StoragePool};
use futures::StreamExt as _;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::build::names::MANAGED;

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
    pub streams: Watched<DeserializeGuard<CameraStream>>,
    /// Pools.
    pub pools: Watched<DeserializeGuard<StoragePool>>,
    /// Recorders.
    pub recorders: Watched<DeserializeGuard<Recorder>>,
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    Yes,
    No,
}

impl Watches {
    /// Begins to watch. `changed` is told of each change.
    #[must_use]
    pub fn start(client: &Client, namespaces: &[String], changed: &Arc<Notify>) -> Self {
        let all = watcher::Config::default();
        let ours = watcher::Config::default().labels(MANAGED);
        Self {
            streams: namespaced(client, namespaces, &all, changed, Tell::Yes),
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
                stores: vec![keep(watcher::watcher(Api::all(client.clone()), all.clone()), "Node", changed, Tell::Yes)],
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

fn namespaced<K>(
    client: &Client,
    namespaces: &[String],
    config: &watcher::Config,
    changed: &Arc<Notify>,
    tell: Tell,
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
    tell: Tell,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let (changed, kind) = (Arc::clone(changed), kind.to_owned());
    let stream = stream.backoff(Again::default()).modify(|object| object.managed_fields_mut().clear());
    tokio::spawn(async move {
        let mut events = std::pin::pin!(reflector::reflector(writer, stream));
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::InitApply(_) | watcher::Event::Init) => {}
                Ok(_) if tell == Tell::Yes => changed.notify_one(),
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
