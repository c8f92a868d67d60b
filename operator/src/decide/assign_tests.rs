use super::*;
use crate::local::manifest;
use std::path::PathBuf;

#[derive(Default)]
struct Fake {
    uuids: u128,
    found: BTreeMap<(Key, String), Uuid>,
    statuses: BTreeMap<Key, RecorderStatus>,
}

impl World for Fake {
    fn new_uuid(&mut self) -> Uuid {
        self.uuids += 1;
        Uuid::from_u128(self.uuids)
    }

    fn volume_uuid(&mut self, recorder: &Key, _: &Key, volume: &str) -> Option<Uuid> {
        self.found.get(&(recorder.clone(), volume.to_owned())).copied()
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
}

fn wanted(recorders: u32, max_channels: u32, streams: &[(&str, &str)]) -> Wanted {
    let mut text = format!(
        "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{recorders: {recorders}, \
         maxChannels: {max_channels}, storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 10Gi}}}}}}}}}}]}}}}\n"
    );
    for (name, more) in streams {
        text.push_str(&format!(
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
             spec: {{source: {{url: \"rtsp://c/{name}\"}}, poolRef: {{name: main}}{more}}}\n"
        ));
    }
    // That slots are too few is the one mistake that is let through here: what then happens is a decision of this module.
    let reading = manifest::read(&[(PathBuf::from("f"), text)]);
    assert!(reading.mistakes.iter().all(|mistake| mistake.path == "spec.maxChannels"), "{:?}", reading.mistakes);
    reading.manifests.wanted()
}

fn holders(assignment: &Assignment) -> BTreeMap<String, (String, u64)> {
    let all = assignment.recorders.values().flat_map(|recorder| {
        let name = recorder.metadata.name.clone().unwrap();
        recorder.spec.channels.iter().map(move |c| (c.stream.name.clone(), (name.clone(), c.epoch)))
    });
    all.collect()
}

fn at(name: &str) -> Key {
    Key::new("default", name)
}

#[test]
fn nothing_changes_when_nothing_changed() {
    let wanted = wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]);
    let mut world = Fake::default();
    let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
    assert_eq!(first.state.sequence, 1);
    let second = assign(&wanted, first.state.clone(), &mut world);
    assert_eq!(first, second);
}

#[test]
fn a_streams_limits_come_before_the_pools_and_stay_while_it_is_suspended() {
    let limits = |recorder: &Recorder, name: &str| {
        let channels = recorder.spec.channels.iter().map(|c| (&c.stream, c.retention, "recorded"));
        let kept = recorder.spec.kept.iter().map(|k| (&k.stream, k.retention, "kept"));
        let found = channels.chain(kept).find(|(stream, ..)| stream.name == name);
        found.map(|(_, retention, how)| (retention.max_age_ms, retention.max_bytes, how))
    };
    let with = |b: &str| {
        let mut wanted = wanted(1, 5, &[("a", ""), ("b", b)]);
        let pool = wanted.pools.get_mut(&at("main")).unwrap();
        pool.object.retention.max_age = Some("7d".parse().unwrap());
        wanted
    };
    let mut world = Fake::default();
    let own = ", retention: {maxAge: 1h, maxBytes: 1Gi}";
    let first = assign(&with(own), State::default(), &mut world);
    let recorder = &first.recorders[&at("main-recorder-0")];
    let week_ms = 7 * 24 * 3_600_000;
    assert_eq!(limits(recorder, "a"), Some((Some(week_ms), None, "recorded")));
    assert_eq!(limits(recorder, "b"), Some((Some(3_600_000), Some(1 << 30), "recorded")));
    assert_eq!(recorder.spec.retention.max_age_ms, Some(week_ms));

    let suspended = assign(&with(", suspend: true, retention: {maxAge: 2h}"), first.state.clone(), &mut world);
    let recorder = &suspended.recorders[&at("main-recorder-0")];
    assert_eq!(limits(recorder, "b"), Some((Some(7_200_000), None, "kept")));
    // Of one that is gone nothing is said: the recorder goes by what it knows.
    let gone = assign(&wanted(1, 5, &[("a", "")]), suspended.state, &mut world);
    assert_eq!(limits(&gone.recorders[&at("main-recorder-0")], "b"), None);
    // One that was never recorded has no footage anywhere.
    let never = assign(&with(", suspend: true"), State::default(), &mut world);
    assert_eq!(limits(&never.recorders[&at("main-recorder-0")], "b"), None);
}

#[test]
fn a_restart_keeps_placement_epochs_and_volumes() {
    let wanted = wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]);
    let mut world = Fake::default();
    let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
    let second = assign(&wanted, State { term: 2, ..first.state.clone() }, &mut world);
    assert_eq!(holders(&first), holders(&second));
    for (key, recorder) in &second.recorders {
        let old = &first.recorders[key];
        assert_eq!(recorder.spec.term, 2);
        assert_eq!(recorder.metadata.generation, old.metadata.generation.map(|g| g + 1));
        assert_eq!(recorder.metadata.uid, old.metadata.uid);
        assert_eq!(recorder.spec.volumes, old.spec.volumes);
        assert_eq!(recorder.spec.channels, old.spec.channels);
    }
}

#[test]
fn one_more_stream_touches_one_recorder() {
    let mut world = Fake::default();
    let first = assign(&wanted(2, 5, &[("a", ""), ("b", ""), ("c", "")]), State::default(), &mut world);
    let second = assign(&wanted(2, 5, &[("a", ""), ("b", ""), ("c", ""), ("d", "")]), first.state.clone(), &mut world);
    let touched: Vec<_> = second.recorders.iter().filter(|(key, new)| first.recorders[*key] != **new).collect();
    assert_eq!(touched.len(), 1);
    assert_eq!(second.state.sequence, 2);
}

#[test]
fn a_stream_that_moves_gets_a_new_epoch_and_its_former_holder_is_told() {
    let mut world = Fake::default();
    let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
    // Recorder 1 goes; what it had moves to recorder 0, and nobody is left to be told.
    let second = assign(&wanted(1, 5, &[("a", ""), ("b", "")]), first.state.clone(), &mut world);
    assert_eq!(holders(&first)["b"], ("main-recorder-1".into(), 1));
    assert_eq!(holders(&second)["b"], ("main-recorder-0".into(), 2));
    assert_eq!(holders(&second)["a"], holders(&first)["a"]);
    // It comes back while recorder 0 has one slot: one of the two moves, and recorder 0 is told so.
    let third = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), second.state.clone(), &mut world);
    let retired = |assignment: &Assignment| assignment.recorders[&at("main-recorder-0")].spec.retired.clone();
    assert_eq!(retired(&third).len(), 1);
    assert_eq!(retired(&third)[0].stream.name, "b");
    assert_eq!(holders(&third)["b"], ("main-recorder-1".into(), 3));
    // Until it says that it knows.
    let again = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), third.state.clone(), &mut world);
    assert_eq!(retired(&again).len(), 1);
    let observed_generation = third.recorders[&at("main-recorder-0")].metadata.generation;
    let status = RecorderStatus { observed_generation, ..RecorderStatus::default() };
    world.statuses.insert(at("main-recorder-0"), status);
    let last = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), again.state, &mut world);
    assert_eq!(retired(&last), []);
}

#[test]
fn a_recorder_that_is_not_wanted_any_more_goes_when_others_have_what_it_held() {
    let mut world = Fake::default();
    let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
    // It runs: it is told who has its stream now, goes on with it until then, and is given no other one.
    world.statuses.insert(at("main-recorder-1"), RecorderStatus::default());
    let fewer = wanted(1, 5, &[("a", ""), ("b", ""), ("c", "")]);
    let second = assign(&fewer, first.state, &mut world);
    assert_eq!(holders(&second).into_values().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 1);
    let (drained, heir) = (&second.recorders[&at("main-recorder-1")], &second.recorders[&at("main-recorder-0")]);
    let retired = &drained.spec.retired[..];
    assert!(retired.len() == 1 && retired[0].stream.name == "b", "{retired:?}");
    assert_eq!(retired[0].holders, [heir.metadata.uid.clone().unwrap()]);
    let peers = [&drained.spec.peers[..], &heir.spec.peers[..]].concat();
    assert_eq!(peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["main-recorder-0", "main-recorder-1"]);
    let taken_over = heir.spec.channels.iter().find(|channel| channel.stream.name == "b").unwrap();
    assert_eq!(taken_over.retired_holders, [drained.metadata.uid.clone().unwrap()]);
    // Nobody else has proven anything yet.
    let generation = drained.metadata.generation;
    assert!(assign(&fewer, second.state.clone(), &mut world).recorders.contains_key(&at("main-recorder-1")));
    let said = RecorderStatus { observed_generation: generation, ..RecorderStatus::default() };
    world.statuses.insert(at("main-recorder-1"), said);
    let third = assign(&fewer, second.state.clone(), &mut world);
    assert_eq!(third.recorders.keys().collect::<Vec<_>>(), [&at("main-recorder-0")]);
    assert_eq!(holders(&third), holders(&second));
}

#[test]
fn a_recorder_whose_streams_have_no_slot_elsewhere_stays() {
    let mut world = Fake::default();
    let first = assign(&wanted(2, 1, &[("a", ""), ("b", "")]), State::default(), &mut world);
    world.statuses.insert(at("main-recorder-1"), RecorderStatus::default());
    let second = assign(&wanted(1, 1, &[("a", ""), ("b", "")]), first.state.clone(), &mut world);
    assert_eq!(holders(&second), holders(&first));
}

#[test]
fn suspended_streams_hold_no_slot_and_come_back_to_where_they_were() {
    let mut world = Fake::default();
    let first = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), State::default(), &mut world);
    let second = assign(&wanted(2, 5, &[("a", ", suspend: true"), ("b", "")]), first.state.clone(), &mut world);
    assert_eq!(holders(&second).len(), 1);
    let third = assign(&wanted(2, 5, &[("a", ""), ("b", "")]), second.state, &mut world);
    assert_eq!(holders(&first), holders(&third));
}

#[test]
fn who_has_no_slot_is_named() {
    let streams = [("a", ""), ("b", ", priority: 1"), ("c", "")];
    let assignment = assign(&wanted(1, 2, &streams), State::default(), &mut Fake::default());
    assert_eq!(assignment.plans[&at("main")].plan.waiting, BTreeSet::from([at("c")]));
}

#[test]
fn a_volume_that_is_there_is_known_again() {
    let uuid = Uuid::from_u128(77);
    let mut world = Fake { found: [((at("main-recorder-0"), "a".to_owned()), uuid)].into(), ..Fake::default() };
    let assignment = assign(&wanted(1, 2, &[]), State::default(), &mut world);
    assert_eq!(assignment.recorders[&at("main-recorder-0")].spec.volumes[0].uuid, uuid.to_string());
}

#[test]
fn the_size_of_segments_stays() {
    let old = wanted(1, 2, &[]);
    let state = assign(&old, State::default(), &mut Fake::default()).state;
    let mut new = wanted(1, 2, &[]);
    assert_eq!(refused_changes(&new, &state), []);
    let pool = new.pools.get_mut(&at("main")).unwrap();
    pool.object.segment.bytes = framekeeper_crds::ByteQuantity::from_bytes(8 << 20);
    assert_eq!(refused_changes(&new, &state)[0].1.path, "spec.segment.bytes");
}

#[test]
fn a_recorder_in_the_way_of_a_camera_that_gives_no_more_sessions_lets_go_at_once() {
    let two = || wanted(2, 5, &[("a", ""), ("b", "")]);
    let fewer = wanted(1, 5, &[("a", ""), ("b", "")]);
    let first = assign(&two(), State::default(), &mut Fake::default());
    let mut world = Fake::default();
    world.statuses.insert(at("main-recorder-1"), RecorderStatus::default());
    let waited_for = |assignment: &Assignment| {
        let retired = &assignment.recorders[&at("main-recorder-1")].spec.retired;
        assert!(retired.len() == 1 && retired[0].stream.name == "b", "{retired:?}");
        retired[0].holders.len()
    };
    let second = assign(&fewer, first.state.clone(), &mut world);
    assert_eq!(waited_for(&second), 1, "it records until another one does");
    // The camera refused the second one for so long that it counts as one with a single session.
    let mut state = second.state.clone();
    state.streams.get_mut("default/b").unwrap().camera.sessions = Some(1);
    assert_eq!(waited_for(&assign(&fewer, state, &mut world)), 0);
    // The same where that was known before.
    let mut state = first.state;
    state.streams.get_mut("default/b").unwrap().camera.sessions = Some(1);
    assert_eq!(waited_for(&assign(&fewer, state, &mut world)), 0);
}
