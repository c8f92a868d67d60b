//! Standbys as they are assigned: who holds what, who knows of whom, and what nobody hears of where none are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use framekeeper_crds::{Channel, ChannelState, ChannelStatus, Recorder, RecorderStatus, RedundancyClass, Role, yaml};
use framekeeper_operator::decide::assign::{Assignment, World, assign};
use framekeeper_operator::decide::learn;
use framekeeper_operator::decide::observe::ChannelReport;
use framekeeper_operator::decide::state::State;
use framekeeper_operator::decide::wanted::{Key, Wanted};
use framekeeper_operator::local::manifest;
use framekeeper_plan::{Lack, NoReserve};
use uuid::Uuid;

/// A world in which recorders say what a test has them say.
#[derive(Default)]
struct Fake {
    uuids: u128,
    statuses: BTreeMap<Key, RecorderStatus>,
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

    fn peer_address(&self, recorder: &Key) -> Option<String> {
        Some(format!("{}:7447", recorder.name))
    }

    fn http_address(&self, _: &Key) -> Option<String> {
        None
    }
}

fn manifests(pool: &str, streams: &[(&str, &str)]) -> Wanted {
    let mut text = format!(
        "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{{pool}, \
         storage: {{volumes: [{{name: a, claimTemplate: {{spec: {{resources: {{requests: {{storage: 10Gi}}}}}}}}}}]}}}}\n"
    );
    for (name, more) in streams {
        let (source, more) = more.strip_prefix("source").map_or(("", *more), |source| (source, ""));
        text.push_str(&format!(
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
             spec: {{source: {{url: \"rtsp://c/{name}\"{source}}}, poolRef: {{name: main}}{more}}}\n"
        ));
    }
    let reading = manifest::read(&[(PathBuf::from("f"), text)]);
    assert_eq!(reading.mistakes, []);
    reading.manifests.wanted()
}

const SIX: [(&str, &str); 6] = [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", ""), ("f", "")];
const TOLERANT: &str = "recorders: 3, maxChannels: 10, toleratedFailures: 1";

fn recorder(ordinal: u32) -> Key {
    Key::new("default", format!("main-recorder-{ordinal}"))
}

fn uid(assignment: &Assignment, ordinal: u32) -> String {
    assignment.recorders[&recorder(ordinal)].metadata.uid.clone().unwrap()
}

/// The channels of a stream by rank, each with its recorder.
fn channels<'a>(assignment: &'a Assignment, stream: &str) -> Vec<(u32, &'a Channel)> {
    let of = |recorder: &'a Arc<Recorder>| {
        recorder.spec.channels.iter().map(|channel| (recorder.spec.ordinal, channel)).collect::<Vec<_>>()
    };
    let mut found: Vec<_> = assignment.recorders.values().flat_map(of).collect();
    found.retain(|(_, channel)| channel.stream.name == stream);
    found.sort_by_key(|(_, channel)| channel.rank);
    found
}

fn holders(assignment: &Assignment, stream: &str) -> Vec<u32> {
    channels(assignment, stream).into_iter().map(|(ordinal, _)| ordinal).collect()
}

/// Pairs of recorders that know each other.
fn links(assignment: &Assignment) -> BTreeSet<(u32, String)> {
    let of = |recorder: &Arc<Recorder>| {
        recorder.spec.peers.iter().map(|peer| (recorder.spec.ordinal, peer.name.clone())).collect::<Vec<_>>()
    };
    assignment.recorders.values().flat_map(of).collect()
}

fn knows_all(assignment: &Assignment, ordinal: u32) -> RecorderStatus {
    let observed_generation = assignment.recorders[&recorder(ordinal)].metadata.generation;
    RecorderStatus { observed_generation, ..RecorderStatus::default() }
}

#[test]
fn where_no_failure_is_tolerated_nothing_is_said_of_standbys() {
    let mut world = Fake::default();
    let none = manifests("recorders: 3, maxChannels: 10", &SIX);
    let first = assign(&none, State { term: 1, ..State::default() }, &mut world);
    for recorder in first.recorders.values() {
        let text = yaml::write(recorder.as_ref()).unwrap();
        for word in ["peers", "holders", "Holders", "class", "Standby", "publicKey"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        assert_eq!((recorder.spec.slots.normal, recorder.spec.slots.reserved), (10, 0));
    }
    // Nor when a recorder tells its key, ...
    let (mut state, status) =
        (first.state.clone(), RecorderStatus { public_key: Some("k".into()), ..knows_all(&first, 0) });
    assert!(learn::from_status(&mut state, &recorder(0), &status).assign);
    let second = assign(&none, state, &mut world);
    assert_eq!(second.recorders, first.recorders);
    // ... nor when one goes that does not run: nobody is there to hand over.
    let fewer = manifests("recorders: 2, maxChannels: 10", &SIX);
    let third = assign(&fewer, second.state.clone(), &mut world);
    assert_eq!(links(&third), BTreeSet::new());
    assert!(!third.recorders.contains_key(&recorder(2)));
    assert!(third.recorders.values().all(|recorder| recorder.spec.channels.iter().all(|c| c.holders.is_empty())));
}

#[test]
fn a_class_without_a_reserve_is_recorded_and_says_why_it_has_no_standby() {
    let none = manifests("recorders: 3, maxChannels: 10", &[("a", ", redundancy: Playing")]);
    let plan = assign(&none, State::default(), &mut Fake::default());
    let assigned = &plan.plans[&Key::new("default", "main")].plan.placed[&Key::new("default", "a")];
    assert_eq!(assigned.lack, Some(Lack::NoReserve(NoReserve::NotAsked)));
    assert_eq!(channels(&plan, "a")[0].1.class, RedundancyClass::None);
}

#[test]
fn each_stream_has_a_standby_elsewhere_and_whoever_shares_one_knows_the_other() {
    let mut world = Fake::default();
    let wanted = manifests(TOLERANT, &SIX);
    let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
    for (name, _) in SIX {
        let channels = channels(&first, name);
        let [(primary, one), (standby, other)] = channels.as_slice() else { panic!("{name}: {channels:?}") };
        assert_ne!(primary, standby);
        assert_eq!((one.role, other.role, other.rank), (Role::Primary, Role::Standby, 1));
        assert_eq!((one.class, other.class), (RedundancyClass::Playing, RedundancyClass::Playing));
        let uids = vec![uid(&first, *primary), uid(&first, *standby)];
        assert_eq!((&one.holders, &other.holders), (&uids, &uids));
        assert_eq!((one.epoch, other.epoch, one.plan_version), (1, 1, other.plan_version));
        assert!(one.retired_holders.is_empty());
    }
    for recorder in first.recorders.values() {
        assert_eq!((recorder.spec.slots.normal, recorder.spec.slots.reserved), (5, 5));
        for peer in &recorder.spec.peers {
            assert_eq!(peer.addresses, [format!("{}:7447", peer.name)]);
            assert_eq!(Some(&peer.uid), first.recorders[&Key::new("default", &peer.name)].metadata.uid.as_ref());
            assert!(peer.public_keys.is_empty());
        }
    }
    let links = links(&first);
    assert!(!links.is_empty());
    for (one, other) in &links {
        assert_ne!(recorder(*one).name, *other);
        let ordinal = other.rsplit('-').next().unwrap().parse().unwrap();
        assert!(links.contains(&(ordinal, recorder(*one).name)), "{one} knows {other}: {links:?}");
    }
    assert_eq!(assign(&wanted, first.state.clone(), &mut world), first);
}

#[test]
fn a_camera_with_one_session_has_no_standby_and_is_recorded() {
    let wanted = manifests(TOLERANT, &[("a", "source, maxSessions: 1"), ("b", "")]);
    let plan = assign(&wanted, State::default(), &mut Fake::default());
    let a = channels(&plan, "a");
    assert_eq!((a.len(), a[0].1.class), (1, RedundancyClass::None));
    assert!(a[0].1.holders.is_empty());
    let assigned = &plan.plans[&Key::new("default", "main")].plan.placed[&Key::new("default", "a")];
    assert_eq!(assigned.lack, Some(Lack::Sessions { allowed: 1, needed: 3 }));
    assert_eq!(channels(&plan, "b").len(), 2);
}

#[test]
fn a_key_that_arrives_changes_what_peers_know_and_nothing_else() {
    let mut world = Fake::default();
    let wanted = manifests(TOLERANT, &SIX);
    let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
    let status = RecorderStatus { public_key: Some("key-of-1".into()), ..knows_all(&first, 1) };
    let mut state = first.state.clone();
    let news = learn::from_status(&mut state, &recorder(1), &status);
    assert!(news.assign && news.remember);
    let second = assign(&wanted, state.clone(), &mut world);
    for (key, after) in &second.recorders {
        let before = &first.recorders[key];
        let mut spec = after.spec.clone();
        let known: Vec<_> = spec.peers.iter().filter(|peer| !peer.public_keys.is_empty()).collect();
        assert!(known.iter().all(|peer| peer.name == "main-recorder-1" && peer.public_keys == ["key-of-1"]));
        let shares = before.spec.peers.iter().any(|peer| peer.name == "main-recorder-1");
        assert_eq!(known.len(), usize::from(shares));
        assert_eq!(after.metadata.generation, before.metadata.generation.map(|old| old + i64::from(shares)));
        spec.peers.iter_mut().for_each(|peer| peer.public_keys.clear());
        assert_eq!(spec, before.spec);
    }
    // Said again, it is no news.
    assert_eq!(learn::from_status(&mut state, &recorder(1), &status), learn::News::default());
}

#[test]
fn a_recorder_that_goes_leaves_its_streams_to_their_standbys_and_hands_over_when_it_returns() {
    let mut world = Fake::default();
    let first = assign(&manifests(TOLERANT, &SIX), State { term: 1, ..State::default() }, &mut world);
    let of_two = |name: &str| channels(&first, name)[0].0 == 2;
    let moved: Vec<&str> = SIX.iter().map(|(name, _)| *name).filter(|name| of_two(name)).collect();
    assert!(!moved.is_empty());
    let two = TOLERANT.replace("recorders: 3", "recorders: 2");
    let second = assign(&manifests(&two, &SIX), first.state.clone(), &mut world);
    for name in &moved {
        assert_eq!(holders(&second, name)[0], holders(&first, name)[1], "the standby goes on: {name}");
        assert_eq!(channels(&second, name)[0].1.epoch, 2);
        // It is being stopped: nobody is to ask it for anything.
        assert!(channels(&second, name)[0].1.retired_holders.is_empty());
    }
    for (name, _) in SIX {
        let before = channels(&first, name)[0];
        if !moved.contains(&name) {
            assert_eq!(channels(&second, name)[0].1.epoch, before.1.epoch, "a new standby is no new epoch: {name}");
        }
    }
    assert!(second.state.recorders["default/main-recorder-2"].retiring.iter().all(|retiring| retiring.handover));

    // It comes back and may still have what it had: those that hold it now are named, and named to.
    let third = assign(&manifests(TOLERANT, &SIX), second.state.clone(), &mut world);
    let returned = &third.recorders[&recorder(2)];
    let name = moved.iter().find(|name| !holders(&third, name).contains(&2)).unwrap();
    let retired = returned.spec.retired.iter().find(|retired| retired.stream.name == **name).unwrap();
    let now: Vec<String> = holders(&third, name).into_iter().map(|ordinal| uid(&third, ordinal)).collect();
    assert_eq!(retired.holders, now);
    for (ordinal, channel) in channels(&third, name) {
        assert_eq!(channel.retired_holders, [uid(&third, 2)]);
        assert!(
            links(&third).contains(&(ordinal, recorder(2).name))
                && links(&third).contains(&(2, recorder(ordinal).name))
        );
    }

    // It knows, but goes on recording until a holder has proven that it does.
    let listed = returned.spec.retired.iter().map(|retired| ChannelStatus {
        stream: retired.stream.clone(),
        state: ChannelState::Recording,
        reason: None,
        message: None,
        since: None,
        epoch: None,
    });
    let mut state = third.state.clone();
    let still = RecorderStatus { channels: listed.collect(), ..knows_all(&third, 2) };
    assert!(!learn::from_status(&mut state, &recorder(2), &still).assign);
    world.statuses.insert(recorder(2), still);
    let fourth = assign(&manifests(TOLERANT, &SIX), state.clone(), &mut world);
    assert_eq!(fourth.recorders, third.recorders);
    // Then it is told no more, and neither are they.
    let done = knows_all(&fourth, 2);
    assert!(learn::from_status(&mut state, &recorder(2), &done).assign);
    world.statuses.insert(recorder(2), done);
    let last = assign(&manifests(TOLERANT, &SIX), fourth.state, &mut world);
    assert_eq!(last.recorders[&recorder(2)].spec.retired, []);
    assert!(channels(&last, name).iter().all(|(_, channel)| channel.retired_holders.is_empty()));
}

#[test]
fn whoever_records_in_anothers_place_goes_on_and_the_epoch_passes_all_that_were_seen() {
    let mut world = Fake::default();
    let two_standbys = "recorders: 4, maxChannels: 10, toleratedFailures: 1, redundancy: {standbys: 2}";
    let wanted = manifests(two_standbys, &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
    let first = assign(&wanted, State { term: 1, ..State::default() }, &mut world);
    let name = ["a", "b", "c", "d"].into_iter().find(|name| holders(&first, name)[0] == 3).unwrap();
    let [_, _, second_rank] = holders(&first, name)[..] else { panic!("{:?}", holders(&first, name)) };
    let stream = channels(&first, name)[0].1.stream.clone();
    let takes_over = ChannelStatus {
        stream,
        state: ChannelState::Recording,
        reason: Some("TakenOver".into()),
        message: None,
        since: None,
        epoch: Some(6),
    };
    let status = RecorderStatus { channels: vec![takes_over], ..knows_all(&first, second_rank) };
    let mut state = first.state.clone();
    let news = learn::from_status(&mut state, &recorder(second_rank), &status);
    assert_eq!(news, learn::News { remember: true, assign: false });
    let report = ChannelReport { state: Some(ChannelState::Recording), epoch: Some(8), ..ChannelReport::default() };
    let standby = ChannelReport { state: Some(ChannelState::Standby), ..report.clone() };
    assert!(!learn::from_channels(&mut state, &[(Key::new("default", name), standby)]));
    assert!(learn::from_channels(&mut state, &[(Key::new("default", name), report.clone())]));
    assert!(!learn::from_channels(&mut state, &[(Key::new("default", name), report)]));
    world.statuses.insert(recorder(second_rank), status);
    let fewer =
        manifests(&two_standbys.replace("recorders: 4", "recorders: 3"), &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
    let second = assign(&fewer, state, &mut world);
    assert_eq!(holders(&second, name)[0], second_rank);
    assert_eq!(channels(&second, name)[0].1.epoch, 9);
}

#[test]
fn a_camera_with_one_session_that_moves_is_let_go_of_first() {
    let mut world = Fake::default();
    let streams = [("a", "source, maxSessions: 1"), ("b", "source, maxSessions: 1"), ("c", "source, maxSessions: 1")];
    let first = assign(&manifests(TOLERANT, &streams), State { term: 1, ..State::default() }, &mut world);
    let two = TOLERANT.replace("recorders: 3", "recorders: 2");
    let second = assign(&manifests(&two, &streams), first.state, &mut world);
    let retiring = &second.state.recorders["default/main-recorder-2"].retiring;
    assert!(!retiring.is_empty() && retiring.iter().all(|retiring| !retiring.handover));
}
