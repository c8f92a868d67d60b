//! Streams on their way from one pool to another.
//!
//! Who has a stream goes on with it until its new holder records, as within a pool. So one for which the other pool has no slot stays where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use framekeeper_crds::{CameraStreamSpec, PoolRef};

use super::assign::{World, planned};
use super::holders;
use super::state::State;
use super::wanted::{Key, Refusal, Wanted};

/// What a stream asks for, but in this pool.
pub fn in_pool(spec: &CameraStreamSpec, pool: Key) -> Arc<CameraStreamSpec> {
    Arc::new(CameraStreamSpec { pool_ref: PoolRef { name: pool.name }, ..spec.clone() })
}

/// Leaves streams where they are recorded that ask for another pool which has no slot for them, and says so of them.
pub fn stay(wanted: &mut Wanted, state: &State, world: &dyn World) {
    // Each time round at least one less is on its way: those that stay may take the slots of others that were to come.
    loop {
        let mut full = Vec::new();
        for (pool, moving) in moving(wanted, state) {
            let Some(spec) = wanted.pools.get(&pool).map(|pool| &pool.object) else { continue };
            let plan = planned(wanted, state, (&pool, spec), world).plan;
            let left = moving.into_iter().filter(|(stream, _)| !plan.plan.placed.contains_key(stream));
            full.extend(left.map(|(stream, former)| {
                let refusal = Refusal::no_slot(&pool, spec, &former);
                (stream, pool.clone(), former, refusal)
            }));
        }
        if full.is_empty() {
            return;
        }
        for (stream, pool, former, refusal) in full {
            if let Some(stream) = wanted.streams.get_mut(&stream) {
                stream.object = in_pool(&stream.object, former);
            }
            wanted.refused.entry(stream.clone()).or_insert(refusal);
            wanted.waiting.insert(stream, pool);
        }
    }
}

/// Streams that are recorded in another pool than the one they ask for, by that one, with the one that they are in.
fn moving(wanted: &Wanted, state: &State) -> BTreeMap<Key, Vec<(Key, Key)>> {
    let mut moving: BTreeMap<Key, Vec<(Key, Key)>> = BTreeMap::new();
    for (key, stream) in wanted.streams.iter().filter(|(_, stream)| !stream.object.suspend) {
        let is_same = |uid: &str| stream.identity.as_ref().is_none_or(|identity| identity.uid == uid);
        let known = state.streams.get(&key.to_string());
        let Some(known) = known.filter(|known| known.recorder.is_some() && is_same(&known.uid)) else { continue };
        let asked = Key::new(&key.namespace, &stream.object.pool_ref.name);
        let former = holders::key_of(&known.pool).filter(|former| *former != asked);
        if let Some(former) = former.filter(|former| wanted.pools.contains_key(former)) {
            moving.entry(asked).or_default().push((key.clone(), former));
        }
    }
    moving
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use framekeeper_crds::{ChannelState, ChannelStatus, RecorderStatus, StreamRef};
    use framekeeper_plan::Condition;
    use uuid::Uuid;

    use super::super::assign::{Assignment, assign};
    use super::*;
    use crate::local::manifest;

    #[derive(Default)]
    struct Fake {
        uuids: u128,
        statuses: BTreeMap<Key, RecorderStatus>,
        down: Option<Key>,
    }

    impl World for Fake {
        fn new_uuid(&mut self) -> Uuid {
            self.uuids += 1;
            Uuid::from_u128(self.uuids)
        }

        fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
            None
        }

        fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
            self.statuses.get(recorder)
        }

        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn condition(&self, recorder: &Key) -> Condition {
            if self.down.as_ref() == Some(recorder) { Condition::Down } else { Condition::Active }
        }
    }

    fn at(name: &str) -> Key {
        Key::new("default", name)
    }

    /// Pools of one recorder, each with so many slots, and streams, each with its pool.
    fn wanted(pools: &[(&str, u32)], streams: &[(&str, &str)]) -> Wanted {
        let pools = pools.iter().map(|(name, max_channels)| {
            format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: {name}}}\nspec: {{recorders: 1, maxChannels: \
                 {max_channels}, storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 10Gi}}}}}}}}}}]}}}}\n"
            )
        });
        let streams = streams.iter().map(|(name, pool)| {
            format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
                 spec: {{source: {{url: \"rtsp://c/{name}\"}}, poolRef: {{name: {pool}}}}}\n"
            )
        });
        let reading = manifest::read(&[(PathBuf::from("f"), pools.chain(streams).collect::<String>())]);
        assert!(reading.mistakes.iter().all(|it| it.path == "spec.maxChannels"), "{:?}", reading.mistakes);
        reading.manifests.wanted()
    }

    fn decide(mut wanted: Wanted, state: State, world: &mut Fake) -> (Wanted, Assignment) {
        stay(&mut wanted, &state, world);
        let assignment = assign(&wanted, state, world);
        (wanted, assignment)
    }

    fn holders(assignment: &Assignment) -> BTreeMap<String, (String, u64)> {
        let all = assignment.recorders.values().flat_map(|recorder| {
            let name = recorder.metadata.name.clone().unwrap();
            recorder.spec.channels.iter().map(move |it| (it.stream.name.clone(), (name.clone(), it.epoch)))
        });
        all.collect()
    }

    const POOLS: [(&str, u32); 2] = [("near", 2), ("far", 2)];

    #[test]
    fn a_stream_is_recorded_where_it_was_until_a_recorder_of_its_new_pool_does() {
        let mut world = Fake::default();
        let streams = |a| wanted(&POOLS, &[("a", a), ("b", "near")]);
        let (_, first) = decide(streams("near"), State::default(), &mut world);
        let (_, second) = decide(streams("far"), first.state, &mut world);
        let now = holders(&second);
        assert_eq!((now["a"].clone(), now["b"].0.as_str()), (("far-recorder-0".into(), 2), "near-recorder-0"));
        let [former, heir] = ["near", "far"].map(|pool| &second.recorders[&at(&format!("{pool}-recorder-0"))]);
        let retired = &former.spec.retired[..];
        assert!(retired.len() == 1 && retired[0].stream.name == "a", "{retired:?}");
        assert_eq!(retired[0].holders, [heir.metadata.uid.clone().unwrap()], "it waits for the one that has it now");
        assert_eq!(heir.spec.channels[0].retired_holders, [former.metadata.uid.clone().unwrap()]);
        assert_eq!(former.spec.peers[0].name, "far-recorder-0");
        assert_eq!(heir.spec.peers[0].name, "near-recorder-0");

        // It knows, and records on; then the other one does.
        let stream = StreamRef { namespace: "default".into(), name: "a".into(), uid: retired[0].stream.uid.clone() };
        let recording =
            ChannelStatus { stream, state: ChannelState::Recording, ..serde_json::from_str(REPORT).unwrap() };
        let generation = former.metadata.generation;
        let mut status =
            RecorderStatus { observed_generation: generation, channels: vec![recording], ..RecorderStatus::default() };
        world.statuses.insert(at("near-recorder-0"), status.clone());
        let (_, third) = decide(streams("far"), second.state, &mut world);
        assert_eq!(third.recorders[&at("near-recorder-0")].spec.retired.len(), 1);
        status.channels.clear();
        world.statuses.insert(at("near-recorder-0"), status);
        let (_, last) = decide(streams("far"), third.state, &mut world);
        assert_eq!(last.recorders[&at("near-recorder-0")].spec.retired, []);
        assert_eq!(last.recorders[&at("far-recorder-0")].spec.channels[0].retired_holders, [] as [String; 0]);
    }

    const REPORT: &str = r#"{"stream": {"namespace": "", "name": "", "uid": ""}, "state": "Recording"}"#;

    #[test]
    fn a_camera_with_one_session_is_let_go_of_at_once() {
        let mut world = Fake::default();
        let streams = |a| wanted(&POOLS, &[("a", a)]);
        let (_, first) = decide(streams("near"), State::default(), &mut world);
        let (_, second) = decide(streams("far"), first.state, &mut world);
        let waits = |assignment: &Assignment| {
            let retired = &assignment.recorders[&at("near-recorder-0")].spec.retired;
            retired.iter().map(|retired| retired.holders.len()).collect::<Vec<_>>()
        };
        assert_eq!(waits(&second), [1]);
        let mut state = second.state;
        state.streams.get_mut("default/a").unwrap().camera.sessions = Some(1);
        assert_eq!(waits(&decide(streams("far"), state, &mut world).1), [0], "known only since");
    }

    #[test]
    fn a_pool_without_a_slot_for_it_leaves_a_stream_where_it_is_and_it_moves_when_there_is_one() {
        let mut world = Fake::default();
        let far = |a, slots| wanted(&[("near", 2), ("far", slots)], &[("a", a), ("b", "far"), ("c", "far")]);
        let (_, first) = decide(far("near", 2), State::default(), &mut world);
        let (told, second) = decide(far("far", 2), first.state.clone(), &mut world);
        assert_eq!(holders(&second), holders(&first));
        let refusal = &told.refused[&at("a")];
        assert_eq!(refusal.reason, "NoSlot");
        for word in ["StoragePool far", "maxChannels: 2", "recorded in StoragePool near"] {
            assert!(refusal.message.contains(word), "{word}: {}", refusal.message);
        }
        assert_eq!(told.waiting, BTreeMap::from([(at("a"), at("far"))]));
        let (_, again) = decide(far("far", 2), second.state, &mut world);
        assert_eq!(holders(&again), holders(&first));
        let (told, last) = decide(far("far", 3), again.state, &mut world);
        assert_eq!(holders(&last)["a"], ("far-recorder-0".into(), 2));
        assert!(told.refused.is_empty() && told.waiting.is_empty());
        // One that nobody records waits without a slot, as any other.
        let (told, never) = decide(far("far", 2), State::default(), &mut world);
        assert!(!holders(&never).contains_key("c") && told.waiting.is_empty());
    }

    #[test]
    fn a_pool_whose_recorder_does_not_run_or_cannot_be_made_leaves_a_stream_where_it_is() {
        let mut world = Fake::default();
        let streams = |a| wanted(&POOLS, &[("a", a)]);
        let (_, first) = decide(streams("near"), State::default(), &mut world);
        world.down = Some(at("far-recorder-0"));
        let (told, second) = decide(streams("far"), first.state.clone(), &mut world);
        assert_eq!(holders(&second), holders(&first));
        assert!(told.refused.contains_key(&at("a")));
        world.down = None;
        let (_, last) = decide(streams("far"), second.state, &mut world);
        assert_eq!(holders(&last)["a"].0, "far-recorder-0");
    }

    #[test]
    fn one_that_stays_keeps_its_slot_from_those_that_were_to_come() {
        let mut world = Fake::default();
        let all = |a, b| wanted(&[("near", 1), ("far", 1), ("other", 1)], &[("a", a), ("b", b), ("c", "far")]);
        let (_, first) = decide(all("near", "other"), State::default(), &mut world);
        // `a` has no slot in `far`, so `b` has none in `near`.
        let (told, second) = decide(all("far", "near"), first.state.clone(), &mut world);
        assert_eq!(holders(&second), holders(&first));
        assert_eq!(told.refused.keys().collect::<Vec<_>>(), [&at("a"), &at("b")]);
        // Its own pool is on its way out: nothing is left to stay in.
        let mut gone = all("near", "near");
        gone.pools.remove(&at("other"));
        let (told, last) = decide(gone, first.state, &mut world);
        assert!(told.refused.is_empty() && !holders(&last).contains_key("b"));
    }
}
