//! What was decided is made so: Recorders first, then what they run on, then what is not wanted any more goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use framekeeper_crds::k8s_openapi::api::apps::v1::StatefulSet;
use framekeeper_crds::k8s_openapi::api::core::v1::Pod;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{Recorder, RecorderPhase, RecorderSpec};
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
use crate::decide::holders;
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

impl Plane {
    /// Writes what was decided of Recorders, and remembers it. `state` is what is so when all of it is written.
    pub(super) async fn put(
        &mut self,
        term: u64,
        facts: &Facts,
        mut state: State,
        recorders: BTreeMap<Key, Arc<Recorder>>,
    ) -> Result<(), WriteError> {
        let missing: Vec<&Key> = recorders.keys().filter(|key| !facts.recorders.contains_key(*key)).collect();
        if !missing.is_empty() {
            // Their UIDs are the API server's to give. Nobody is told of them before.
            for key in missing {
                if let Some(recorder) = recorders.get(key) {
                    self.create(term, recorder).await?;
                }
            }
            return Ok(());
        }
        let mut failed = None;
        let mut changed = Vec::new();
        for (key, recorder) in recorders {
            let name = key.to_string();
            let Some(before) = self.state.recorders.get(&name) else { continue };
            // One that obeys a later term than its object knows of, because that was restored from an older state, takes nothing from it before it is written anew.
            let found = facts.recorders.get(&key);
            let obeys = found.and_then(|found| found.status.as_ref()?.observed_term).unwrap_or(0);
            let is_deaf = obeys > before.spec.term && recorder.spec.term > before.spec.term;
            if is_same(&recorder.spec, &before.spec) && !is_deaf {
                self.unwritten.remove(&key);
                // That the term is a later one is no reason to touch what is as it should be: the annotation says it.
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
                    // Somebody wrote to it a moment ago, most often the recorder itself: the watch brings what it is now.
                    if error.code() == Some(409) {
                        self.stir();
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
        if self.secrets.refresh(&self.client, &self.watches, &all).await {
            self.try_again();
        }
        let pools: Vec<Key> = self.wanted.pools.keys().cloned().collect();
        let owned = Owned::of(&self.watches);
        let mut failed = None;
        for key in pools {
            // One pool that can't be made harms no other.
            match self.make_pool(term, facts, &owned, &key, &needed).await {
                Ok(()) => drop(self.unmade.remove(&key)),
                Err(WriteError::NotLeading) => return Err(WriteError::NotLeading),
                Err(error) => {
                    self.unmade.insert(key.clone(), error.to_string());
                    failed = Some(error);
                }
            }
        }
        let pools = &self.wanted.pools;
        self.unmade.retain(|key, _| pools.contains_key(key));
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
    ) -> Result<(), WriteError> {
        let Some(wanted) = self.wanted.pools.get(key).cloned() else { return Ok(()) };
        let Some(identity) = wanted.identity.as_ref() else { return Ok(()) };
        let image = self.options.image.clone();
        let of_pool = OfPool { key, uid: &identity.uid, spec: &wanted.object, image: &image };
        let shared = Key::new(&key.namespace, names::of_pool(&key.name));
        self.writer.apply(term, &pool::service(&of_pool), &owned.services.seen(&shared)).await?;
        self.writer.apply(term, &pool::disruption_budget(&of_pool), &owned.budgets.seen(&shared)).await?;
        let ours = facts.recorders.iter().filter(|(own, recorder)| {
            own.namespace == key.namespace
                && recorder.spec.pool == key.name
                && recorder.metadata.deletion_timestamp.is_none()
        });
        let wanted = &wanted;
        let writes = ours.map(|(own, recorder)| async move {
            let Some(uid) = recorder.metadata.uid.clone() else { return Ok(None) };
            let of = OfRecorder { pool: of_pool, name: &own.name, uid: &uid, volumes: &recorder.spec.volumes };
            for volume in &wanted.object.storage.volumes {
                let known = recorder.spec.volumes.iter().find(|known| known.name == volume.name);
                let Some(known) = known else { continue };
                let claim = claims::claim(&of_pool, &own.name, volume, known);
                let seen = facts.claims.get(&Key::new(&own.namespace, claim.name_any()));
                self.writer.apply(term, &claim, &Seen::whole(seen.map(AsRef::as_ref))).await?;
            }
            self.writer.apply(term, &access::service_account(&of), &owned.accounts.seen(own)).await?;
            self.writer.apply(term, &access::role(&of), &owned.roles.seen(own)).await?;
            self.writer.apply(term, &access::role_binding(&of), &owned.bindings.seen(own)).await?;
            self.writer.apply(term, &access::lease(&of), &owned.leases.seen(own)).await?;
            let credentials = self.secrets.of(needed.get(own).unwrap_or(&BTreeSet::new()));
            let secret = Key::new(&own.namespace, names::cameras(&own.name));
            self.writer.apply(term, &access::cameras(&of, &credentials), &owned.secrets.seen(&secret)).await?;
            let set = pod::stateful_set(&of);
            self.writer.apply(term, &set, &owned.sets.seen(own)).await?;
            Ok(Some((recorder.spec.ordinal, pod_view(facts, own, recorder, &set))))
        });
        let made: Vec<_> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        let mut pods = BTreeMap::new();
        for view in made {
            pods.extend(view?);
        }
        self.leave_nodes_that_are_gone(term, facts, key).await?;
        self.roll(term, facts, key, &pods).await
    }

    /// Pods of a node that there is no more are in the way of new ones, until somebody takes them away.
    async fn leave_nodes_that_are_gone(&self, term: u64, facts: &Facts, pool: &Key) -> Result<(), WriteError> {
        let ours = facts.recorders.iter().filter(|(key, recorder)| {
            key.namespace == pool.namespace && recorder.spec.pool == pool.name && facts.is_silent(key)
        });
        for (key, _) in ours {
            let Some(pod) = facts.pod(key) else { continue };
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            if node.is_some_and(|node| facts.is_gone(node)) {
                warn!(recorder = %key, node, "its node is gone, and its pod is taken away");
                self.writer.delete_now::<Pod>(term, pod).await?;
            }
        }
        Ok(())
    }

    async fn roll(
        &self,
        term: u64,
        facts: &Facts,
        pool: &Key,
        pods: &BTreeMap<u32, PodView>,
    ) -> Result<(), WriteError> {
        let Some(ordinal) = rollout::next(pods) else { return Ok(()) };
        let recorder = Key::new(&pool.namespace, framekeeper_crds::recorder_name(&pool.name, ordinal));
        let Some(pod) = facts.pod(&recorder).cloned() else { return Ok(()) };
        info!(recorder = %recorder, "its pod is made anew: its template changed");
        self.writer.delete::<Pod>(term, &pod).await
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
            let Some(wanted) = self.wanted.pools.get(&pool) else { continue };
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
            let status = ClusterWorld { facts }.status(key).cloned();
            let retiring = self.state.recorders.get(&key.to_string()).map_or(&[][..], |known| &known.retiring);
            let is_leaving =
                status.is_some_and(|status| retiring.iter().any(|retiring| !holders::has_let_go(retiring, &status)));
            if is_surplus && !is_leaving && !holds() && recorder.metadata.deletion_timestamp.is_none() {
                info!(recorder = %key, "is not wanted any more, and has nothing left to do; its claims and its footage stay");
                self.writer.delete(term, recorder.as_ref()).await?;
            }
        }
        Ok(())
    }
}

fn pod_view(facts: &Facts, key: &Key, recorder: &Recorder, set: &StatefulSet) -> PodView {
    let pod = facts.pod(key);
    let made_from = pod.and_then(|pod| pod.annotations().get(names::TEMPLATE).map(String::as_str));
    let status = recorder.status.as_ref();
    let is_true = |kind: &str| {
        let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    PodView {
        uid: pod.and_then(|pod| pod.metadata.uid.clone()),
        is_current: made_from == pod::template_of(set),
        is_leaving: pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()),
        is_stuck: facts.trouble(key).is_some() && facts.life(key) != Life::Alive && !facts.runs(key),
        is_well: facts.life(key) == Life::Alive
            && facts.runs(key)
            && status.is_some_and(|status| {
                status.phase == Some(RecorderPhase::Ready) && status.observed_generation == recorder.metadata.generation
            })
            && is_true("ChannelsAsPlanned"),
    }
}
