//! What is so in the cluster, as a decision needs to know it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{Discriminant, discriminant};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use framekeeper_crds::{FailureDomain, Recorder, RecorderStatus};
use framekeeper_plan::Condition;
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;
use uuid::Uuid;

use super::alive::Life;
use super::build::names;
use crate::decide::assign::World;
use crate::decide::wanted::Key;

/// A recorder that nobody heard of for so long has its streams given to others.
pub const GONE_AFTER: Duration = Duration::from_secs(300);
/// A recorder renews its Lease every 10 s, and answers each second.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// The label that a node-bound volume names its node by.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Of a container that is only being made.
const HARMLESS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
const ZONE: &str = "topology.kubernetes.io/zone";

/// What decisions depend on of a recorder and no object says, because time brings it, or what the recorder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    is_silent: bool,
    life: Discriminant<Life>,
    condition: Condition,
}

/// The facts of one moment.
pub struct Facts {
    /// Recorders, by name.
    pub recorders: BTreeMap<Key, Arc<Recorder>>,
    /// Recorders that are there and can't be understood, and why.
    pub unreadable: BTreeMap<Key, String>,
    /// Claims, by name.
    pub claims: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    /// Volumes, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// Pods of recorders, by name.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Nodes, by name.
    pub nodes: BTreeMap<String, Arc<PartialObjectMeta<Node>>>,
    /// How it stands with each recorder.
    pub lives: BTreeMap<Key, Life>,
    /// For how long nothing was heard of each.
    pub quiet: BTreeMap<Key, Duration>,
    /// Now.
    pub now: Instant,
}

impl Facts {
    /// The pod of a recorder.
    #[must_use]
    pub fn pod(&self, recorder: &Key) -> Option<&Pod> {
        self.pods.get(&Key::new(&recorder.namespace, names::pod(&recorder.name))).map(AsRef::as_ref)
    }

    /// How it stands with a recorder.
    #[must_use]
    pub fn life(&self, recorder: &Key) -> Life {
        self.lives.get(recorder).copied().unwrap_or(Life::New(self.now))
    }

    /// The node that a recorder runs on, or would: its volumes may be there already.
    #[must_use]
    pub fn node(&self, recorder: &Key) -> Option<String> {
        let runs_on = self.pod(recorder).and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        runs_on.or_else(|| self.bound_to(recorder).first().cloned())
    }

    /// The nodes that a recorder's volumes are bound to. Volumes of the network are bound to none.
    fn bound_to(&self, recorder: &Key) -> Vec<String> {
        self.nodes_of_volumes(recorder).map(|(_, node)| node).collect()
    }

    /// The same, each with the name of the volume.
    fn nodes_of_volumes<'f>(&'f self, recorder: &'f Key) -> impl Iterator<Item = (&'f str, String)> {
        let volumes = self.recorders.get(recorder).into_iter().flat_map(|object| &object.spec.volumes);
        volumes.flat_map(|known| {
            let claim = self.claims.get(&Key::new(&recorder.namespace, names::claim_of(known, &recorder.name)));
            let name = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.as_ref());
            let volume = name.and_then(|name| self.volumes.get(name));
            let nodes = volume.map(|volume| nodes_of(volume)).unwrap_or_default();
            nodes.into_iter().map(|node| (known.name.as_str(), node))
        })
    }

    /// Why a recorder's pod can't start, as the scheduler or the kubelet say it.
    #[must_use]
    pub fn trouble(&self, recorder: &Key) -> Option<String> {
        let status = self.pod(recorder)?.status.as_ref()?;
        let unscheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        if let Some(condition) = unscheduled {
            let message = condition.message.as_deref().unwrap_or_default();
            return Some(format!("its pod has no node: {message}"));
        }
        status.container_statuses.iter().flatten().find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref().filter(|reason| !HARMLESS.contains(reason))?;
            let message = waiting.message.as_deref().unwrap_or_default();
            let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let last = last.and_then(|last| last.message.as_deref()).unwrap_or_default();
            Some(format!("its pod can't start: {reason}: {message} {last}").trim_end().to_owned())
        })
    }

    /// Whether nothing was heard of a recorder for longer than it takes to renew a Lease, or never.
    #[must_use]
    pub fn is_silent(&self, recorder: &Key) -> bool {
        self.quiet.get(recorder).is_none_or(|quiet| *quiet >= SILENT_AFTER)
    }

    /// How each recorder stands: while this is the same, and no object is another one, so is every decision.
    #[must_use]
    pub fn standings(&self) -> BTreeMap<Key, Standing> {
        let world = ClusterWorld::of(self);
        let of = |key: &Key| Standing {
            is_silent: self.is_silent(key),
            life: discriminant(&self.life(key)),
            condition: world.condition(key),
        };
        self.recorders.keys().map(|key| (key.clone(), of(key))).collect()
    }

    /// Whether there is no node of this name any more. As long as none is known at all, nobody is gone.
    #[must_use]
    pub fn is_gone(&self, node: &str) -> bool {
        let is_it = |known: &PartialObjectMeta<Node>| known.labels().get(HOSTNAME).is_some_and(|name| name == node);
        !self.nodes.is_empty() && !self.nodes.contains_key(node) && !self.nodes.values().any(|known| is_it(known))
    }

    /// Whether a volume of a recorder is on a node that was deleted, and the recorder is silent. Its volumes of the network are not lost with it.
    #[must_use]
    pub fn is_lost(&self, recorder: &Key, volume: &str) -> bool {
        let on_gone_nodes =
            || self.nodes_of_volumes(recorder).any(|(name, node)| name == volume && self.is_gone(&node));
        self.is_silent(recorder) && on_gone_nodes()
    }

    /// Whether a recorder's process runs, as far as the cluster knows.
    #[must_use]
    pub fn runs(&self, recorder: &Key) -> bool {
        let status = self.pod(recorder).and_then(|pod| pod.status.as_ref());
        status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
    }

    /// Whether what it says of itself was said in the pod that there is now: a former one had another address.
    #[must_use]
    pub fn speaks_from_its_pod(&self, recorder: &Key) -> bool {
        let status = self.recorders.get(recorder).and_then(|recorder| recorder.status.as_ref());
        let says = status.and_then(|status| status.addresses.as_ref()?.http.as_ref()?.parse::<SocketAddr>().ok());
        let pod = self.pod(recorder).and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        says.zip(pod).is_some_and(|(says, pod)| says.ip() == pod)
    }

    /// Whether its pod counts as ready: for Services, and for who asks how many are away. A kubelet finds that out a moment after it is so.
    #[must_use]
    pub fn is_pod_ready(&self, recorder: &Key) -> bool {
        let status = self.pod(recorder).and_then(|pod| pod.status.as_ref());
        let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

/// The only nodes that a volume can be used on, if it says so.
fn nodes_of(volume: &PersistentVolume) -> Vec<String> {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
    let expressions = terms.flat_map(|term| term.match_expressions.iter().flatten());
    let names = expressions.filter(|it| it.key == HOSTNAME && it.operator == "In");
    let names: Vec<String> = names.flat_map(|it| it.values.iter().flatten()).cloned().collect();
    // One that can be used on any of several is lost with none of them.
    if names.len() == 1 { names } else { Vec::new() }
}

/// Facts, and identities drawn as they are needed.
pub struct ClusterWorld<'f> {
    /// The facts.
    pub facts: &'f Facts,
    /// Recorders that are given nothing new: they could not be made, or can't be read.
    pub without: BTreeSet<Key>,
}

impl<'f> ClusterWorld<'f> {
    /// With all recorders that are wanted.
    #[must_use]
    pub fn of(facts: &'f Facts) -> Self {
        Self { facts, without: BTreeSet::new() }
    }
}

impl World for ClusterWorld<'_> {
    fn new_uuid(&mut self) -> Uuid {
        Uuid::new_v4()
    }

    fn volume_uuid(&mut self, recorder: &Key, _: &Key, volume: &str) -> Option<Uuid> {
        let claim = self.facts.claims.get(&Key::new(&recorder.namespace, names::claim(volume, &recorder.name)))?;
        claim.annotations().get(names::VOLUME_UUID)?.parse().ok()
    }

    fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
        if self.facts.life(recorder) != Life::Alive {
            return None;
        }
        self.facts.recorders.get(recorder)?.status.as_ref()
    }

    /// The last one that is known: a recorder that is silent may be reached there again.
    fn peer_address(&self, recorder: &Key) -> Option<String> {
        self.facts.recorders.get(recorder)?.status.as_ref()?.addresses.as_ref()?.peer.clone()
    }

    fn http_address(&self, recorder: &Key) -> Option<String> {
        self.facts.recorders.get(recorder)?.status.as_ref()?.addresses.as_ref()?.http.clone()
    }

    fn domain(&self, recorder: &Key, kind: FailureDomain) -> Option<String> {
        let node = self.facts.node(recorder)?;
        match kind {
            FailureDomain::Recorder => None,
            FailureDomain::Node => Some(node),
            FailureDomain::Zone => Some(self.facts.nodes.get(&node)?.labels().get(ZONE).unwrap_or(&node).clone()),
        }
    }

    fn is_lost(&self, recorder: &Key, volume: &str) -> bool {
        self.facts.is_lost(recorder, volume)
    }

    fn condition(&self, recorder: &Key) -> Condition {
        if self.without.contains(recorder) {
            return Condition::Down;
        }
        match self.facts.life(recorder) {
            Life::Alive => Condition::Active,
            // It gets its streams before it is there, and begins with them; unless it does not get there.
            Life::New(since) if self.facts.now.duration_since(since) < GONE_AFTER => Condition::Active,
            Life::Silent(since) if self.facts.now.duration_since(since) < GONE_AFTER => Condition::Down,
            Life::New(_) | Life::Silent(_) => Condition::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::alive::Lives;

    /// Facts of one recorder, which nobody has heard of.
    fn facts(recorder: Recorder) -> Facts {
        let key = Key::new("a", "main-recorder-0");
        Facts {
            recorders: [(key, Arc::new(recorder))].into(),
            unreadable: BTreeMap::new(),
            claims: BTreeMap::new(),
            volumes: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            lives: BTreeMap::new(),
            quiet: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    fn recorder(volumes: &serde_json::Value) -> Recorder {
        serde_json::from_value(json!({
            "apiVersion": "framekeeper.dev/v1alpha1", "kind": "Recorder",
            "metadata": { "name": "main-recorder-0", "namespace": "a" },
            "spec": {
                "pool": "main", "ordinal": 0, "term": 1, "slots": { "normal": 1, "reserved": 0 },
                "segment": { "bytes": 1_048_576, "partMs": 500 }, "volumes": volumes, "channels": [],
            },
        }))
        .unwrap()
    }

    #[test]
    fn volumes_of_the_network_are_not_lost_with_a_node() {
        let key = Key::new("a", "main-recorder-0");
        let volume = |name: &str| json!({ "name": name, "uuid": name, "budgetBytes": 1 });
        let mut facts = facts(recorder(&json!([volume("disk"), volume("net")])));
        let expression = json!({ "key": HOSTNAME, "operator": "In", "values": ["node1"] });
        let bound = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } });
        for (name, affinity) in [("disk", bound), ("net", json!(null))] {
            let claim = json!({ "metadata": { "name": name }, "spec": { "volumeName": name } });
            let claim_key = Key::new("a", names::claim(name, "main-recorder-0"));
            facts.claims.insert(claim_key, Arc::new(serde_json::from_value(claim).unwrap()));
            let volume = json!({ "metadata": { "name": name }, "spec": { "nodeAffinity": affinity } });
            facts.volumes.insert(name.to_owned(), Arc::new(serde_json::from_value(volume).unwrap()));
        }
        let lost = |facts: &Facts| ["disk", "net"].map(|volume| facts.is_lost(&key, volume));
        let node = |name: &str| Arc::new(serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap());
        facts.nodes = ["node1", "node2"].map(|name| (name.to_owned(), node(name))).into();
        assert_eq!(lost(&facts), [false, false]);
        facts.nodes.remove("node1");
        assert_eq!(lost(&facts), [true, false]);
    }

    #[test]
    fn what_time_and_answers_change_for_decisions_is_seen() {
        let key = Key::new("a", "main-recorder-0");
        let recorder = Arc::new(recorder(&json!([])));
        let (mut lives, begin) = (Lives::default(), Instant::now());
        lives.lease(&key, None, false, begin);
        let mut changes = Vec::new();
        let mut before = None;
        // It is started, is heard of from the tenth second to the hundredth, and never again.
        for second in 0..500 {
            let now = begin + Duration::from_secs(second);
            if (10..=100).contains(&second) {
                lives.answered(&key, now);
            }
            let facts = Facts {
                recorders: [(key.clone(), Arc::clone(&recorder))].into(),
                unreadable: BTreeMap::new(),
                claims: BTreeMap::new(),
                volumes: BTreeMap::new(),
                pods: BTreeMap::new(),
                nodes: BTreeMap::new(),
                lives: [(key.clone(), lives.of(&key, now))].into(),
                quiet: lives.quiet_for(&key, now).map(|quiet| (key.clone(), quiet)).into_iter().collect(),
                now,
            };
            let standings = facts.standings();
            if before.as_ref() != Some(&standings) {
                changes.push(second);
            }
            before = Some(standings);
        }
        // It answers; it is silent; its Lease has expired; others are given what it had.
        assert_eq!(changes, [0, 10, 115, 140, 440]);
    }
}
