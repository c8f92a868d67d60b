//! What was decided is made so: Recorders first, then what they run on, then what is not wanted any more goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use framekeeper_crds::k8s_openapi::api::apps::v1::StatefulSet;
use framekeeper_crds::k8s_openapi::api::core::v1::Pod;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{Recorder, RecorderPhase, RecorderSpec, StoragePoolSpec};
use futures::StreamExt as _;
use kube::ResourceExt as _;
use serde_json::json;
use tracing::{info, warn};

use super::alive::Life;
use super::apply::{Seen, WriteError};
use super::build::{OfPool, OfRecorder, access, claims, names, owned_by_pool, pod, pool};
use super::gather;
use super::owned::Owned;
use super::plane::Plane;
use super::rollout::{self, PodView};
use super::world::{ClusterWorld, Facts};
use crate::decide::assign::World as _;
use crate::decide::caution::PoolCaution;
use crate::decide::holders;
use crate::decide::pool_status::Rolling;
use crate::decide::report::{Kind, Sink as _};
use crate::decide::state::State;
use crate::decide::status::Note;
use crate::decide::wanted::Key;

/// So many Recorders are written, or have what they run on made, at once.
pub(super) const AT_ONCE: usize = 8;

/// Whether a Recorder is told the same, whatever the term.
fn is_same(now: &RecorderSpec, before: &RecorderSpec) -> bool {
    if now.term == before.term {
        return now == before;
    }
    RecorderSpec { term: before.term, ..now.clone() } == *before
}

/// Whether a Recorder has to be written, which is `before` in a generation. `obeys`: the latest term that the recorder says it obeys, and the generation that it
/// observed in it; one that obeys a later one than its object knows of, because that was restored from an older state, takes nothing from it before it is written
/// anew. That the term is a later one is no reason to touch what is as it should be: the annotation says it.
fn is_news(now: &RecorderSpec, before: &RecorderSpec, generation: i64, obeys: (u64, i64)) -> bool {
    let is_deaf = obeys > (before.term, generation) && now.term > before.term;
    is_deaf || !is_same(now, before)
}

/// What of a Recorder's metadata is the operator's.
pub(super) fn recorder_metadata(recorder: &Recorder) -> ObjectMeta {
    let annotations = recorder.metadata.annotations.iter().flatten();
    let term = annotations.filter(|(key, _)| key.as_str() == gather::TERM);
    ObjectMeta {
        name: recorder.metadata.name.clone(),
        namespace: recorder.metadata.namespace.clone(),
        labels: Some(names::labels(&recorder.spec.pool, &recorder.name_any())),
        annotations: Some(term.map(|(key, value)| (key.clone(), value.clone())).collect()),
        owner_references: recorder.metadata.owner_references.clone(),
        ..ObjectMeta::default()
    }
}

/// How far a pool is.
#[derive(Debug, Default)]
struct Made {
    /// How far pods are being made anew.
    rolling: Option<Rolling>,
    /// What of its recorders' objects was not taken.
    refused: Option<WriteError>,
}

impl Plane {
    /// Makes the Recorders that there are not yet: their UIDs are the API server's to give, and nobody is told of them before. Whether any is only now
    /// being made. Those that can't be made or read are remembered in `uncreated`, with why.
    pub(super) async fn create_missing(
        &mut self,
        term: u64,
        facts: &Facts,
        recorders: &BTreeMap<Key, Arc<Recorder>>,
    ) -> Result<bool, WriteError> {
        self.uncreated.clear();
        let mut is_coming = false;
        for (key, recorder) in recorders.iter().filter(|(key, _)| !facts.recorders.contains_key(*key)) {
            let done = match facts.unreadable.get(key) {
                Some(why) => Err(format!("Recorder {key} cannot be understood: {why}; it goes on as it is")),
                None => match self.create(term, recorder).await {
                    Ok(()) => Ok(()),
                    Err(WriteError::NotLeading) => return Err(WriteError::NotLeading),
                    Err(error) => Err(error.to_string()),
                },
            };
            match done {
                Ok(()) => is_coming = true,
                Err(why) => drop(self.uncreated.insert(key.clone(), (recorder.spec.pool.clone(), why))),
            }
        }
        Ok(is_coming)
    }

    /// Writes what was decided of Recorders, and remembers it. `state` is what is so when all of it is written.
    pub(super) async fn put(
        &mut self,
        term: u64,
        facts: &Facts,
        mut state: State,
        recorders: BTreeMap<Key, Arc<Recorder>>,
    ) -> Result<(), WriteError> {
        let mut failed = None;
        let mut changed = Vec::new();
        self.settled_pools = self.plans.keys().cloned().collect();
        for (key, recorder) in recorders {
            let name = key.to_string();
            let (Some(found), Some(before)) = (facts.recorders.get(&key), self.state.recorders.get(&name)) else {
                // It could not be made, or read. What is known of it stays.
                match self.state.recorders.get(&name) {
                    Some(before) => drop(state.recorders.insert(name, before.clone())),
                    None => drop(state.recorders.remove(&name)),
                }
                continue;
            };
            let status = found.status.as_ref();
            let obeys = status.and_then(|status| status.observed_term).unwrap_or(0);
            let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
            if !is_news(&recorder.spec, &before.spec, before.generation, (obeys, observed)) {
                self.unwritten.remove(&key);
                if let Some(known) = state.recorders.get_mut(&name) {
                    known.spec = before.spec.clone();
                    known.generation = before.generation;
                }
                continue;
            }
            changed.push((key, recorder));
        }
        // Several at once: a Recorder is a large object, and while many streams are new all of them change.
        let plane = &*self;
        let writes = changed.into_iter().map(|(key, recorder)| async move {
            // Of a recorder that begins anew: what it had before.
            let before = plane.state.recorders.get(&key.to_string());
            let anew = before.into_iter().flat_map(|before| &before.spec.volumes).filter(|known| {
                recorder.spec.volumes.iter().any(|volume| known.name == volume.name && known.uuid != volume.uuid)
            });
            let lost: Vec<String> = anew.map(|volume| names::claim_of(volume, &key.name)).collect();
            let mut object = Recorder::new(&key.name, recorder.spec.clone());
            object.metadata = ObjectMeta { uid: recorder.metadata.uid.clone(), ..recorder_metadata(&recorder) };
            object.metadata.namespace = Some(key.namespace.clone());
            object.metadata.owner_references = plane.owner(&key, &recorder.spec.pool);
            object.metadata.annotations = Some([(gather::TERM.to_owned(), term.to_string())].into());
            object.metadata.resource_version = plane.versions.get(&key).cloned();
            let written = plane.writer.patch_version(term, &object).await;
            let written = written.map(|object| (object.metadata.resource_version, object.metadata.generation));
            (key, recorder, lost, written)
        });
        let written: Vec<_> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        for (key, recorder, lost, written) in written {
            let name = key.to_string();
            match written {
                Ok((version, generation)) => {
                    self.unwritten.remove(&key);
                    self.versions.insert(key.clone(), version.unwrap_or_default());
                    if let Some(known) = state.recorders.get_mut(&name) {
                        known.generation = generation.unwrap_or(known.generation);
                    }
                    if !lost.is_empty() {
                        self.tell_lost(&key, &recorder, &lost);
                    }
                }
                Err(error) => {
                    let before = self.state.recorders.get(&name);
                    if let (Some(known), Some(before)) = (state.recorders.get_mut(&name), before) {
                        known.spec = before.spec.clone();
                        known.generation = before.generation;
                    }
                    self.settled_pools.remove(&Key::new(&key.namespace, &recorder.spec.pool));
                    // Somebody wrote to it a moment ago, most often the recorder itself: the watch brings what it is now, and stirs. Where that is late, writing
                    // it again at once is of no use.
                    if error.code() == Some(409) {
                        self.try_again();
                    } else {
                        self.unwritten.insert(key.clone(), error.to_string());
                        failed = Some(error);
                    }
                }
            }
        }
        self.state = state;
        let known = &self.state.recorders;
        self.unwritten.retain(|key, _| known.contains_key(&key.to_string()));
        failed.map_or(Ok(()), Err)
    }

    fn owner(
        &self,
        recorder: &Key,
        pool: &str,
    ) -> Option<Vec<framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> {
        let key = Key::new(&recorder.namespace, pool);
        let identity = self.wanted.pools.get(&key)?.identity.as_ref()?;
        Some(vec![owned_by_pool(&key, &identity.uid)])
    }

    /// A recorder was lost with its volumes, and begins anew.
    fn tell_lost(&mut self, key: &Key, recorder: &Recorder, claims: &[String]) {
        let message = format!(
            "the node of {} is gone, and with it the footage on {}; it begins anew on other volumes. The claims stay as they are: \
             should the disks turn up again, `framekeeper-recorder volume export` reads them",
            key.name,
            claims.join(", ")
        );
        warn!(recorder = %key, "{message}");
        let note = Note { warning: true, reason: "RecorderLost".to_owned(), message };
        let uid = recorder.metadata.uid.clone().unwrap_or_default();
        let pool = Key::new(&key.namespace, &recorder.spec.pool);
        let pool_uid = self.wanted.pools.get(&pool).and_then(|pool| pool.identity.as_ref()).map(|it| it.uid.clone());
        let now = Timestamp::now();
        let outbox = &mut self.reporter.sink;
        // An outbox takes everything.
        let _ = outbox.event(Kind::Recorder, key, &uid, &note, now);
        let _ = outbox.event(Kind::Pool, &pool, &pool_uid.unwrap_or_default(), &note, now);
    }

    async fn create(&mut self, term: u64, recorder: &Recorder) -> Result<(), WriteError> {
        let mut spec = recorder.spec.clone();
        (spec.channels, spec.retired, spec.peers) = (Vec::new(), Vec::new(), Vec::new());
        let mut object = Recorder::new(&recorder.name_any(), spec);
        object.metadata = recorder_metadata(recorder);
        let key = Key::new(recorder.namespace().unwrap_or_default(), recorder.name_any());
        object.metadata.owner_references = self.owner(&key, &recorder.spec.pool);
        object.metadata.annotations = Some([(gather::TERM.to_owned(), term.to_string())].into());
        match self.writer.create(term, &object).await {
            // The watch tells when it is there.
            Ok(_) => {
                info!(recorder = %key, "is new");
                Ok(())
            }
            Err(error) if error.code() == Some(409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes what recorders run on, and takes away what is not wanted any more.
    pub(super) async fn make(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        let needed = self.credentials_needed(facts);
        let all: BTreeSet<Key> = needed.values().flatten().cloned().collect();
        let is_behind = self.secrets.refresh(&self.client, &self.watches, &all).await;
        if self.secrets.remember(&self.client, &needed).await || is_behind {
            self.try_again();
        }
        let pools: Vec<Key> = self.wanted.pools.keys().cloned().collect();
        let owned = Owned::of(&self.watches);
        let mut failed = None;
        for key in pools {
            // One pool that can't be made harms no other.
            let made = self.make_pool(term, facts, &owned, &key, &needed).await;
            let refused = match made {
                Ok(Made { rolling, refused }) => {
                    match rolling {
                        Some(rolling) => drop(self.rolling.insert(key.clone(), rolling)),
                        None => drop(self.rolling.remove(&key)),
                    }
                    refused
                }
                Err(WriteError::NotLeading) => return Err(WriteError::NotLeading),
                Err(error) => Some(error),
            };
            match refused {
                None => drop(self.unmade.remove(&key)),
                Some(error) => {
                    self.unmade.insert(key.clone(), error.to_string());
                    failed = Some(error);
                }
            }
        }
        let pools = &self.wanted.pools;
        self.unmade.retain(|key, _| pools.contains_key(key));
        self.rolling.retain(|key, _| pools.contains_key(key));
        self.remove_surplus(term, facts).await?;
        failed.map_or(Ok(()), Err)
    }

    /// The Secrets that each recorder's streams name.
    fn credentials_needed(&self, facts: &Facts) -> BTreeMap<Key, BTreeSet<Key>> {
        let of = |key: &Key, recorder: &Recorder| {
            let known = self.state.recorders.get(&key.to_string()).map_or(&recorder.spec, |known| &known.spec);
            let names = known.channels.iter().filter_map(|channel| channel.source.credentials_secret_ref.as_ref());
            names.map(|secret| Key::new(&key.namespace, &secret.name)).collect()
        };
        facts.recorders.iter().map(|(key, recorder)| (key.clone(), of(key, recorder))).collect()
    }

    async fn make_pool(
        &self,
        term: u64,
        facts: &Facts,
        owned: &Owned,
        key: &Key,
        needed: &BTreeMap<Key, BTreeSet<Key>>,
    ) -> Result<Made, WriteError> {
        let Some(wanted) = self.wanted.pools.get(key).cloned() else { return Ok(Made::default()) };
        let Some(identity) = wanted.identity.as_ref() else { return Ok(Made::default()) };
        let image = self.options.image.clone();
        let of_pool = OfPool { key, uid: &identity.uid, spec: &wanted.object, image: &image };
        let shared = Key::new(&key.namespace, names::of_pool(&key.name));
        self.writer.apply(term, &pool::service(&of_pool), &owned.services.seen(&shared)).await?;
        let budget = owned.budgets.seen(&shared);
        // A leader that has not looked at streams yet leaves it as it is.
        if let Some(at_once) = self.may_stop(key, &wanted.object).or_else(|| (budget == Seen::Absent).then_some(0)) {
            self.writer.apply(term, &pool::disruption_budget(&of_pool, at_once), &budget).await?;
        }
        let ours = facts.recorders.iter().filter(|(own, recorder)| {
            own.namespace == key.namespace
                && recorder.spec.pool == key.name
                && recorder.metadata.deletion_timestamp.is_none()
        });
        let writes = ours.map(|(own, recorder)| async move {
            let Some(uid) = recorder.metadata.uid.clone() else { return (None, None) };
            let of = OfRecorder { pool: of_pool, name: &own.name, uid: &uid, volumes: &recorder.spec.volumes };
            let set = pod::stateful_set(&of);
            let (has_template, refused) = self.make_recorder(term, facts, owned, &of, needed, &set).await;
            let mut view = pod_view(facts, own, recorder, &set, self.heard_at.get(own));
            // Made anew, its pod would have the former template again.
            view.is_current |= !has_template;
            (Some((recorder.spec.ordinal, view)), refused)
        });
        let made: Vec<_> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        let (mut pods, mut refused) = (BTreeMap::new(), None);
        for (view, error) in made {
            pods.extend(view);
            refused = refused.or(error);
        }
        self.leave_nodes_that_are_gone(term, facts, key).await?;
        Ok(Made { rolling: self.roll(term, facts, key, &pods).await?, refused })
    }

    /// Makes what a recorder runs on. What is refused, a claim that can't be larger for instance, keeps nothing else back: cameras' credentials come first.
    /// Whether its pods have the template that they are to have, and what was refused.
    async fn make_recorder(
        &self,
        term: u64,
        facts: &Facts,
        owned: &Owned,
        of: &OfRecorder<'_>,
        needed: &BTreeMap<Key, BTreeSet<Key>>,
        set: &StatefulSet,
    ) -> (bool, Option<WriteError>) {
        let own = &Key::new(&of.pool.key.namespace, of.name);
        let mut done = Vec::new();
        // What it has is not known where that could not be read: it stays.
        if let Some(credentials) = self.secrets.of(own, needed.get(own).unwrap_or(&BTreeSet::new())) {
            let secret = Key::new(&own.namespace, names::cameras(&own.name));
            done.push(self.writer.apply(term, &access::cameras(of, &credentials), &owned.secrets.seen(&secret)).await);
        }
        done.push(self.writer.apply(term, &access::service_account(of), &owned.accounts.seen(own)).await);
        done.push(self.writer.apply(term, &access::role(of), &owned.roles.seen(own)).await);
        done.push(self.writer.apply(term, &access::role_binding(of), &owned.bindings.seen(own)).await);
        done.push(self.writer.apply(term, &access::lease(of), &owned.leases.seen(own)).await);
        let mut has_claims = true;
        for volume in &of.pool.spec.storage.volumes {
            let known = of.volumes.iter().find(|known| known.name == volume.name);
            let Some(known) = known else { continue };
            let claim = claims::claim(&of.pool, of.name, volume, known);
            let found = facts.claims.get(&Key::new(&own.namespace, claim.name_any()));
            let made = self.writer.apply(term, &claim, &Seen::whole(found.map(AsRef::as_ref))).await;
            has_claims &= made.is_ok() || found.is_some();
            done.push(made);
        }
        let mut has_template = false;
        if has_claims {
            let made = self.writer.apply(term, set, &owned.sets.seen(own)).await;
            has_template = made.is_ok();
            done.push(made);
        }
        (has_template, done.into_iter().find_map(Result::err))
    }

    /// Pods of a node that there is no more are in the way of new ones, until somebody takes them away.
    async fn leave_nodes_that_are_gone(&self, term: u64, facts: &Facts, pool: &Key) -> Result<(), WriteError> {
        let ours = facts
            .recorders
            .iter()
            .filter(|(key, recorder)| key.namespace == pool.namespace && recorder.spec.pool == pool.name);
        for (key, recorder) in ours {
            if let Some(pod) = left_behind(facts, key, recorder) {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                warn!(recorder = %key, node, "its node is gone, and its pod is taken away");
                self.writer.delete_now::<Pod>(term, pod).await?;
            }
        }
        Ok(())
    }

    /// How many recorders of a pool others may stop at once; nothing while streams were not looked at yet.
    fn may_stop(&self, pool: &Key, spec: &StoragePoolSpec) -> Option<u32> {
        let caution = self.cautions.as_ref()?.get(pool).cloned().unwrap_or_default();
        Some(caution.at_once(spec.tolerated_failures))
    }

    /// Makes the next pod anew, if one is to be. How far that is.
    async fn roll(
        &self,
        term: u64,
        facts: &Facts,
        pool: &Key,
        pods: &BTreeMap<u32, PodView>,
    ) -> Result<Option<Rolling>, WriteError> {
        let waits_for = match &self.cautions {
            Some(cautions) => cautions.get(pool).and_then(PoolCaution::waits_for),
            None => Some("streams are looked at".to_owned()),
        };
        if let Some(ordinal) = rollout::next(pods, waits_for.is_none()) {
            let recorder = Key::new(&pool.namespace, framekeeper_crds::recorder_name(&pool.name, ordinal));
            if let Some(pod) = facts.pod(&recorder).cloned() {
                info!(recorder = %recorder, "its pod is made anew: its template changed");
                self.writer.delete::<Pod>(term, &pod).await?;
            }
        }
        let outdated = rollout::outdated(pods);
        let waits_for = waits_for.unwrap_or_else(|| "all recorders can record".to_owned());
        let all = pods.len();
        Ok((outdated > 0).then(|| Rolling { done: all - outdated, all, waits_for }))
    }

    /// What a recorder said last of itself does not hold any more when it is silent: that it is so is all that is known.
    pub(super) async fn call_unknown(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        for (key, recorder) in &facts.recorders {
            let Life::Silent(_) = facts.life(key) else { continue };
            let Some(status) = recorder.status.as_ref() else { continue };
            if status.phase == Some(RecorderPhase::Unknown) {
                continue;
            }
            let now = Time(Timestamp::now());
            let conditions = status.conditions.iter().map(|condition| Condition {
                last_transition_time: if condition.status == "Unknown" {
                    condition.last_transition_time.clone()
                } else {
                    now.clone()
                },
                status: "Unknown".to_owned(),
                reason: "RecorderSilent".to_owned(),
                message: "its Lease was not renewed in time, and it does not answer".to_owned(),
                ..condition.clone()
            });
            let patch = json!({
                "metadata": { "resourceVersion": recorder.metadata.resource_version },
                "status": { "phase": RecorderPhase::Unknown, "conditions": conditions.collect::<Vec<_>>() },
            });
            match self.writer.merge_status(term, recorder.as_ref(), &patch).await {
                Err(error) if error.code() == Some(409) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Recorders that hold nothing any more and are not wanted. What belongs to them goes with them; claims stay.
    async fn remove_surplus(&mut self, term: u64, facts: &Facts) -> Result<(), WriteError> {
        for (key, recorder) in &facts.recorders {
            let pool = Key::new(&key.namespace, &recorder.spec.pool);
            let Some(wanted) = self.wanted.pools.get(&pool).filter(|_| self.settled_pools.contains(&pool)) else {
                // What was decided of it, its others do not know yet.
                continue;
            };
            let is_surplus = recorder.spec.ordinal >= wanted.object.recorders;
            // Looked for only where it counts: each recorder would go through all streams.
            let holds = || {
                self.plans.get(&pool).is_some_and(|plan| {
                    plan.plan.placed.values().any(|assigned| {
                        assigned.primary == recorder.spec.ordinal || assigned.standbys.contains(&recorder.spec.ordinal)
                    })
                })
            };
            // One that is dead lets go of nothing any more; others have what it held.
            let status = ClusterWorld::of(facts).status(key).cloned();
            let retiring = self.state.recorders.get(&key.to_string()).map_or(&[][..], |known| &known.retiring);
            let is_leaving = status.is_some_and(|status| {
                !recorder.spec.channels.is_empty()
                    || retiring.iter().any(|retiring| !holders::has_let_go(retiring, &status))
            });
            if is_surplus && !is_leaving && !holds() && recorder.metadata.deletion_timestamp.is_none() {
                info!(recorder = %key, "is not wanted any more, and has nothing left to do; its claims and its footage stay");
                self.writer.delete_version(term, recorder.as_ref()).await?;
            }
        }
        Ok(())
    }
}

/// The pod of a silent recorder whose node is gone. Where a volume is lost with the node it stays for now: its Recorder is only being told of another one, and a
/// pod that was made before the StatefulSet names that one's claim would wait for the lost claim.
fn left_behind<'f>(facts: &'f Facts, key: &Key, recorder: &Recorder) -> Option<&'f Pod> {
    let pod = facts.pod(key).filter(|_| facts.is_silent(key))?;
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    let is_lost = || recorder.spec.volumes.iter().any(|volume| facts.is_lost(key, &volume.name));
    (facts.is_gone(node) && !is_lost()).then_some(pod)
}

/// `heard_at`: where it was heard when it was looked at whether a recorder may be stopped. What a former pod's process said does not count.
fn pod_view(facts: &Facts, key: &Key, recorder: &Recorder, set: &StatefulSet, heard_at: Option<&String>) -> PodView {
    let pod = facts.pod(key);
    let made_from = pod.and_then(|pod| pod.annotations().get(names::TEMPLATE).map(String::as_str));
    let status = recorder.status.as_ref();
    let says = status.and_then(|status| status.addresses.as_ref()?.http.as_ref());
    PodView {
        uid: pod.and_then(|pod| pod.metadata.uid.clone()),
        is_current: made_from == pod::template_of(set),
        is_leaving: pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()),
        is_stuck: facts.trouble(key).is_some() && facts.life(key) != Life::Alive && !facts.runs(key),
        is_well: facts.life(key) == Life::Alive
            && facts.is_pod_ready(key)
            && facts.speaks_from_its_pod(key)
            && says.is_some()
            && says == heard_at
            && status.is_some_and(|status| {
                status.phase == Some(RecorderPhase::Ready) && status.observed_generation == recorder.metadata.generation
            }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_whose_node_is_gone_stays_until_its_recorder_is_told_of_another_volume() {
        let key = Key::new("a", "main-recorder-0");
        let recorder = |claim: Option<&str>| -> Recorder {
            serde_json::from_value(json!({
                "apiVersion": "framekeeper.dev/v1alpha1", "kind": "Recorder",
                "metadata": { "name": "main-recorder-0", "namespace": "a" },
                "spec": {
                    "pool": "main", "ordinal": 0, "term": 1, "slots": { "normal": 1, "reserved": 0 },
                    "segment": { "bytes": 1_048_576, "partMs": 500 }, "channels": [],
                    "volumes": [{ "name": "disk", "uuid": "disk", "budgetBytes": 1, "claim": claim }],
                },
            }))
            .unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "main-recorder-0-0" }, "spec": { "nodeName": "node1", "containers": [] },
        }))
        .unwrap();
        let claim = json!({ "metadata": { "name": "disk" }, "spec": { "volumeName": "pv" } });
        let claim = (Key::new("a", names::claim("disk", &key.name)), Arc::new(serde_json::from_value(claim).unwrap()));
        let expression = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"] });
        let bound = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } });
        let volume = json!({ "metadata": { "name": "pv" }, "spec": { "nodeAffinity": bound } });
        let node = |name: &str| Arc::new(serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap());
        let mut facts = Facts {
            recorders: [(key.clone(), Arc::new(recorder(None)))].into(),
            unreadable: BTreeMap::new(),
            claims: [claim].into(),
            volumes: [("pv".to_owned(), Arc::new(serde_json::from_value(volume).unwrap()))].into(),
            pods: [(Key::new("a", names::pod(&key.name)), Arc::new(pod))].into(),
            nodes: ["node1", "node2"].map(|name| (name.to_owned(), node(name))).into(),
            lives: BTreeMap::new(),
            quiet: BTreeMap::new(),
            now: Instant::now(),
        };
        let is_left = |facts: &Facts| left_behind(facts, &key, &facts.recorders[&key]).is_some();
        assert!(!is_left(&facts), "its node is there");
        facts.nodes.remove("node1");
        assert!(!is_left(&facts), "a pod that is made now would wait for the lost claim");
        facts.recorders.insert(key.clone(), Arc::new(recorder(Some("disk-main-recorder-0-1a2b3c4d"))));
        assert!(is_left(&facts));
    }

    #[test]
    fn a_recorder_is_written_when_it_is_told_something_else_or_does_not_listen() {
        let of_term = |term: u64, pool: &str| -> RecorderSpec {
            let (slots, segment) =
                (json!({"normal": 1, "reserved": 0}), json!({"bytes": 4_194_304, "partMs": 500, "syncMs": 500}));
            let spec =
                json!({"pool": pool, "ordinal": 0, "term": term, "slots": slots, "segment": segment, "volumes": []});
            serde_json::from_value(spec).unwrap()
        };
        let before = of_term(4, "main");
        let is_news = |now: &RecorderSpec, obeys: u64, observed: i64| is_news(now, &before, 5, (obeys, observed));
        assert!(!is_news(&of_term(4, "main"), 4, 5));
        assert!(!is_news(&of_term(5, "main"), 4, 5), "another leader, and the same decisions");
        assert!(is_news(&of_term(5, "other"), 4, 5));
        // Its object is of a backup: it knows of a later term, or of a later generation of that term.
        assert!(is_news(&of_term(8, "main"), 7, 2));
        assert!(is_news(&of_term(5, "main"), 4, 9));
        assert!(!is_news(&of_term(4, "main"), 7, 2), "the same term would be refused again");
        assert!(!is_news(&of_term(5, "main"), 3, 9), "it has not read the newest yet");
    }
}
