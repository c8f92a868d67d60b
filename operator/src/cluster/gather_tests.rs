use std::collections::BTreeMap;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use framekeeper_crds::{RecorderStatus, StreamAssignment};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::cluster::guarded::Asked;
use crate::cluster::streams::kept;
use crate::decide::assign::{Assignment, World, assign};

struct Nowhere(BTreeMap<Key, RecorderStatus>, u128);

impl World for Nowhere {
    fn new_uuid(&mut self) -> Uuid {
        self.1 += 1;
        Uuid::from_u128(self.1)
    }

    fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
        None
    }

    fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
        self.0.get(recorder)
    }

    fn peer_address(&self, _: &Key) -> Option<String> {
        None
    }

    fn http_address(&self, _: &Key) -> Option<String> {
        None
    }
}

fn guard<K: crate::cluster::guarded::Readable>(value: serde_json::Value) -> Guarded<K> {
    serde_json::from_value(value).unwrap()
}

fn metadata(name: &str, uid: u128) -> serde_json::Value {
    json!({ "namespace": "default", "name": name, "uid": Uuid::from_u128(uid), "generation": 3 })
}

fn stream(name: &str, uid: u128, more: serde_json::Value) -> Guarded<Asked> {
    let mut spec = json!({ "source": { "url": format!("rtsp://c/{name}") }, "poolRef": { "name": "main" } });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    guard(json!({
        "apiVersion": "framekeeper.dev/v1alpha1", "kind": "CameraStream", "metadata": metadata(name, uid), "spec": spec,
    }))
}

fn pool(recorders: u32) -> Guarded<StoragePool> {
    let claim = json!({ "spec": { "resources": { "requests": { "storage": "10Gi" } } } });
    guard(json!({
        "apiVersion": "framekeeper.dev/v1alpha1", "kind": "StoragePool", "metadata": metadata("main", 1000),
        "spec": {
            "recorders": recorders, "maxChannels": 6, "toleratedFailures": 1,
            "storage": { "volumes": [{ "name": "a", "claimTemplate": claim }] },
        },
    }))
}

fn streams() -> Vec<Guarded<Asked>> {
    (1..=6).map(|number| stream(&format!("cam-{number}"), number, json!({}))).collect()
}

fn each(streams: &[Guarded<Asked>]) -> impl Each {
    let kept: BTreeMap<Key, Stream> = streams.iter().cloned().map(kept).collect();
    move |look: &mut dyn FnMut(&Key, &Stream)| kept.iter().for_each(|(key, stream)| look(key, stream))
}

fn decide(streams: &[Guarded<Asked>], pools: &[Guarded<StoragePool>], state: State) -> Assignment {
    let wanted = wanted(each(streams), pools, &state);
    // No identity is drawn twice, whoever draws it; of two decisions in one term, the second has nothing to draw for.
    let first = 1_000_000 * u128::from(state.term) + 1_000 * pools.len() as u128 + u128::from(state.sequence);
    assign(&wanted, state, &mut Nowhere(BTreeMap::new(), first))
}

/// What is left in the cluster of a decision.
fn left(assignment: &Assignment) -> Vec<Arc<Recorder>> {
    assignment.recorders.values().cloned().collect()
}

fn begin(
    term: u64,
    recorders: &[Arc<Recorder>],
    streams: &[Guarded<Asked>],
    statuses: &BTreeMap<Key, CameraStreamStatus>,
) -> State {
    let recorders: Vec<&Arc<Recorder>> = recorders.iter().collect();
    state(term, &recorders, each(streams), statuses, [])
}

fn without_terms(assignment: &Assignment) -> Vec<framekeeper_crds::RecorderSpec> {
    let mut specs: Vec<_> = assignment.recorders.values().map(|recorder| recorder.spec.clone()).collect();
    specs.iter_mut().for_each(|spec| spec.term = 0);
    specs
}

/// Who holds each stream, by rank, and what of it.
fn held(assignment: &Assignment) -> Vec<(String, u32, u32, String)> {
    let channels = assignment.recorders.values().flat_map(|recorder| {
        let of = |channel: &framekeeper_crds::Channel| {
            (channel.stream.name.clone(), channel.rank, recorder.spec.ordinal, channel.source.url.clone())
        };
        recorder.spec.channels.iter().map(of)
    });
    channels.collect()
}

#[test]
fn another_operator_begins_where_this_one_was() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 4, ..State::default() });
    assert!(first.recorders.values().all(|recorder| recorder.spec.channels.len() == 4), "two primaries, two standbys");
    let second = decide(&streams, &pools, begin(5, &left(&first), &streams, &BTreeMap::new()));
    assert_eq!(without_terms(&first), without_terms(&second));
    assert_eq!(second.state.sequence, 0, "nothing was decided");

    // One recorder more, and the first operator dies before anybody let go of anything.
    let more = [pool(4)];
    let third = decide(&streams, &more, second.state);
    let fourth = decide(&streams, &more, begin(6, &left(&third), &streams, &BTreeMap::new()));
    assert_eq!(without_terms(&third), without_terms(&fourth));
}

#[test]
fn who_was_not_told_yet_that_it_lost_a_stream_goes_on_until_another_one_records() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 4, ..State::default() });
    let mut half = left(&first);
    let moved = half[0].spec.channels.iter().find(|channel| channel.rank == 0).unwrap().stream.clone();
    // A later decision gave it to its standby alone, and whoever decided that ended when only that one was written.
    let decided = PlanVersion { term: 5, sequence: 3 };
    let to =
        half.iter().position(|it| it.spec.channels.iter().any(|its| its.stream == moved && its.rank == 1)).unwrap();
    let recorder = Arc::make_mut(&mut half[to]);
    let uid = recorder.metadata.uid.clone().unwrap();
    let channel = recorder.spec.channels.iter_mut().find(|channel| channel.stream == moved).unwrap();
    (channel.plan_version, channel.rank, channel.holders) = (decided, 0, vec![uid]);
    let state = begin(6, &half, &streams, &BTreeMap::new());
    let retiring = |at: usize| {
        let name = format!("default/{}", half[at].metadata.name.as_deref().unwrap());
        state.recorders[&name].retiring.clone()
    };
    let generation = half[0].metadata.generation.unwrap() + 1;
    let expected = Retiring { stream: moved.clone(), plan_version: decided, generation, handover: true };
    assert_eq!((retiring(0), retiring(to)), (vec![expected], Vec::new()));
    // It is among the stream's former holders, as whoever decided would have had it.
    let held = &state.streams[&format!("default/{}", moved.name)];
    assert_eq!((held.recorder, held.plan_version), (Some(half[to].spec.ordinal), decided));
}

#[test]
fn epochs_never_go_back_whoever_remembers_them() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 1, ..State::default() });
    let epoch = |assignment: &Assignment, name: &str| {
        let channels = assignment.recorders.values().flat_map(|recorder| &recorder.spec.channels);
        channels.filter(|channel| channel.stream.name == name).map(|channel| channel.epoch).max()
    };
    assert_eq!(epoch(&first, "cam-1"), Some(1));
    // A standby took over in epoch 7, as it says itself; of another stream an operator had told of epoch 9.
    let mut recorders = left(&first);
    let taken = recorders[0].spec.channels[0].stream.clone();
    Arc::make_mut(&mut recorders[1]).status = serde_json::from_value(json!({
        "channels": [{ "stream": taken, "state": "Recording", "epoch": 7 }],
    }))
    .unwrap();
    let other = streams.iter().map(kube::ResourceExt::name_any).find(|name| *name != taken.name).unwrap();
    let assignment = Some(StreamAssignment { epoch: 9, ..StreamAssignment::default() });
    let said = CameraStreamStatus { assignment, ..CameraStreamStatus::default() };
    let state = begin(2, &recorders, &streams, &[(Key::new("default", other.as_str()), said)].into());
    let known = |name: &str| state.streams[&format!("default/{name}")].newest_epoch();
    assert_eq!((known(&taken.name), known(&other)), (7, 9));
}

#[test]
fn a_stream_of_the_same_name_is_another_one() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 1, ..State::default() });
    let mut again: Vec<_> = self::streams();
    again[0] = stream("cam-1", 77, json!({}));
    let second = decide(&again, &pools, begin(2, &left(&first), &again, &BTreeMap::new()));
    let uids: Vec<&str> = second
        .recorders
        .values()
        .flat_map(|recorder| &recorder.spec.channels)
        .filter(|channel| channel.stream.name == "cam-1")
        .map(|channel| channel.stream.uid.as_str())
        .collect();
    assert_eq!(uids, vec![Uuid::from_u128(77).to_string(); 2]);
}

#[test]
fn a_poisonous_object_is_refused_by_itself_and_what_was_known_of_it_goes_on() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 1, ..State::default() });
    let mut bad = self::streams();
    // No integer, as an older definition may have let through; and a rule that it did not have.
    bad[0] = stream("cam-1", 1, json!({ "priority": "high" }));
    bad[1] = stream("cam-2", 2, json!({ "source": { "url": "rtsp://bob:geheim@camera/1" } }));
    bad.push(stream("cam-7", 7, json!({ "poolRef": { "name": "nowhere" } })));
    bad.push(stream("cam-8", 8, json!({ "priority": "high" })));
    let seen = wanted(each(&bad), &pools, &first.state);
    let reasons: BTreeMap<&str, &str> =
        seen.refused.iter().map(|(key, refusal)| (key.name.as_str(), refusal.reason)).collect();
    assert_eq!(
        reasons,
        [("cam-1", "Unreadable"), ("cam-2", "InvalidSpec"), ("cam-7", "PoolNotFound"), ("cam-8", "Unreadable")].into()
    );
    assert!(!format!("{:?}", seen.refused).contains("geheim"));
    assert_eq!(seen.unknown.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["cam-8"]);
    let second = decide(&bad, &pools, first.state.clone());
    assert_eq!(without_terms(&first), without_terms(&second), "the others are recorded as before, and so are these");
    // Another operator, which has never understood them, knows from recorders what was asked for.
    let third = decide(&bad, &pools, begin(2, &left(&first), &bad, &BTreeMap::new()));
    assert_eq!(held(&first), held(&third));
    // The pool itself.
    let mut broken: Vec<Guarded<StoragePool>> = vec![pool(3)];
    Arc::make_mut(broken[0].0.as_mut().unwrap()).spec.segment.bytes = framekeeper_crds::ByteQuantity::from_bytes(5);
    let seen = wanted(each(&streams), &broken, &first.state);
    assert_eq!(seen.refused_pools.len(), 1);
    assert_eq!(seen.pools.len(), 1);
}

#[test]
fn a_stream_that_names_a_pool_that_is_not_there_goes_on_in_the_one_that_it_is_in() {
    let (streams, pools) = (streams(), [pool(3)]);
    let first = decide(&streams, &pools, State { term: 1, ..State::default() });
    let mut lost: Vec<_> = self::streams();
    lost[0] = stream("cam-1", 1, json!({ "poolRef": { "name": "nowhere" } }));
    let refused = |state: &State| {
        let seen = wanted(each(&lost), &pools, state);
        seen.refused.iter().map(|(key, refusal)| (key.name.clone(), refusal.reason)).collect::<Vec<_>>()
    };
    let second = decide(&lost, &pools, first.state.clone());
    assert_eq!(
        (without_terms(&first), refused(&first.state)),
        (without_terms(&second), vec![("cam-1".into(), "PoolNotFound")])
    );
    // So it does for another operator.
    let state = begin(2, &left(&first), &lost, &BTreeMap::new());
    assert_eq!(refused(&state), [("cam-1".to_owned(), "PoolNotFound")]);
    assert_eq!(without_terms(&first), without_terms(&decide(&lost, &pools, state)));
    // One that nobody ever recorded waits.
    let fresh = decide(&lost, &pools, State { term: 1, ..State::default() });
    assert!(!held(&fresh).iter().any(|(name, ..)| name == "cam-1"));
}

#[test]
fn terms_are_found_wherever_a_leader_left_them() {
    let recorder = |annotation: Option<&str>, spec: u64, observed: Option<u64>| {
        let mut recorder: Recorder = serde_json::from_value(json!({
            "apiVersion": "framekeeper.dev/v1alpha1", "kind": "Recorder", "metadata": metadata("r", 1),
            "spec": { "pool": "main", "ordinal": 0, "term": spec, "slots": { "normal": 1 }, "segment": { "bytes": 1, "partMs": 1 }, "volumes": [] },
        }))
        .unwrap();
        let annotation = annotation.map(|term| [(TERM.to_owned(), term.to_owned())].into());
        recorder.metadata = ObjectMeta { annotations: annotation, ..recorder.metadata };
        recorder.status =
            observed.map(|term| RecorderStatus { observed_term: Some(term), ..RecorderStatus::default() });
        recorder
    };
    assert_eq!(highest_term([&recorder(None, 3, None)]), 3);
    assert_eq!(highest_term([&recorder(Some("9"), 3, None), &recorder(None, 4, None)]), 9);
    assert_eq!(
        highest_term([&recorder(Some("nine"), 3, Some(12))]),
        12,
        "a cluster that was restored, and a recorder that was not"
    );
}
