//! The local control plane from outside: real processes, real signals, recorders that only pretend.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use crate::support::{Site, until};
use framekeeper_crds::StreamPhase;
use rustix::process::Signal;

fn pool(recorders: u32, max_channels: u32) -> String {
    format!(
        "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {{name: main}}\nspec: {{recorders: {recorders}, \
         maxChannels: {max_channels}, storage: {{volumes: [{{name: footage, claimTemplate: {{spec: {{resources: {{requests: {{storage: 4Gi}}}}}}}}}}]}}}}\n"
    )
}

fn stream(name: &str, url: &str, more: &str) -> String {
    format!(
        "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}}}\n\
         spec: {{source: {{url: \"{url}\"{more}}}, poolRef: {{name: main}}}}\n"
    )
}

fn streams(names: &[&str]) -> String {
    names.iter().map(|name| stream(name, &format!("rtsp://camera/{name}"), "")).collect()
}

const SECRET: &str = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {username: operator7, password: hunter2hunter2}\n";

#[test]
fn streams_are_recorded_and_everything_stops_in_order() {
    let camera = stream("a", "rtsp://camera/a", ", credentialsSecretRef: {name: login}");
    let mut site = Site::new(&format!("{}{camera}{}{SECRET}", pool(2, 5), stream("b", "rtsp://broken/b", "")));
    site.start();
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    until("b is not", || site.phase("b") == Some(StreamPhase::Failed));
    let a = site.stream("a").unwrap().status.unwrap();
    assert_eq!((a.codec.as_deref(), a.resolution.as_deref()), (Some("avc1.64001f"), Some("1920x1080")));
    let assignment = a.assignment.unwrap();
    assert_eq!((assignment.primary.as_str(), assignment.epoch), ("main-recorder-0", 1));
    let b = site.stream("b").unwrap().status.unwrap();
    assert!(b.conditions.iter().any(|c| c.type_ == "Recording" && c.status == "False" && c.reason == "Unauthorized"));
    // A moment after the status.
    until("there is an event", || {
        let path = site.data("status/events/camerastreams/default/b.yaml");
        let events = fs::read_to_string(path).unwrap_or_default();
        events.contains("Unauthorized") && events.contains("kind: Event")
    });
    until("the pool is available", || {
        fs::read_to_string(site.data("status/storagepools/default/main.yaml"))
            .unwrap_or_default()
            .contains("RecordersReady")
    });
    assert!(site.log().contains("only pretending"));

    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(site.run(0, "assignment.yaml")), 0o600);
    assert_eq!(fs::read_to_string(site.run(0, "secrets/default/login/password")).unwrap(), "hunter2hunter2");
    assert_eq!(mode(site.run(0, "secrets/default/login/password")), 0o600);
    assert!(!site.run(1, "secrets/default").join("login").exists());

    assert_eq!(site.stop().code(), Some(0));
    assert!(site.run(0, "drained").exists() && site.run(1, "drained").exists());
    assert_eq!(site.phase("a"), Some(StreamPhase::Pending));
    let everything = site.everything_written();
    assert!(everything.contains("rtsp://camera/a"));
    assert!(!everything.contains("hunter2") && !everything.contains("operator7"));
}

#[test]
fn edits_are_followed_and_wrong_ones_are_not() {
    let mut site = Site::new(&format!("{}{}", pool(2, 5), streams(&["a", "b"])));
    site.start();
    until("both are recorded", || ["a", "b"].iter().all(|name| site.phase(name) == Some(StreamPhase::Recording)));
    let written = |recorder| fs::metadata(site.run(recorder, "assignment.yaml")).unwrap().modified().unwrap();
    let before: [SystemTime; 2] = [written(0), written(1)];

    site.edit(&format!("{}{}", pool(2, 5), streams(&["a", "b", "c"])));
    until("c is recorded", || site.phase("c") == Some(StreamPhase::Recording));
    let after = [written(0), written(1)];
    assert_eq!((0..2).filter(|n| before[*n] != after[*n]).count(), 1);
    let holders = site.holders();

    site.edit(&format!("{}{}{}", pool(2, 5), streams(&["a", "b"]), stream("c", "http://camera/c", "")));
    until("the mistake is reported", || site.log().contains("what was before goes on"));
    assert!(site.log().contains("must begin with rtsp://"));
    assert_eq!([written(0), written(1)], after);
    assert_eq!(site.holders(), holders);
    assert_eq!(site.phase("c"), Some(StreamPhase::Recording));

    site.edit(&format!("{}{}", pool(1, 5), streams(&["a", "b"])));
    until("recorder 1 stopped", || site.run(1, "drained").exists());
    until("b moved", || site.holders().get("b").is_some_and(|(recorder, epoch)| (*recorder, *epoch) == (0, 2)));
    until("c is forgotten", || site.stream("c").is_none());
    assert!(!site.run(0, "drained").exists());
    assert_eq!(site.stop().code(), Some(0));
}

#[test]
fn a_second_start_goes_on_where_the_first_stopped() {
    let mut site = Site::new(&format!("{}{}", pool(2, 5), streams(&["a", "b", "c"])));
    site.start();
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    let (holders, first) = (site.holders(), site.assignment(0).unwrap());
    let since = site.stream("a").unwrap().status.unwrap();
    site.stop();
    site.start();
    until("there is a new term", || site.assignment(0).is_some_and(|recorder| recorder.spec.term == 2));
    until("recorder 0 runs", || site.log().contains("main-recorder-0"));
    assert_eq!(site.holders(), holders);
    let second = site.assignment(0).unwrap();
    assert_eq!(second.spec.volumes, first.spec.volumes);
    assert_eq!(second.spec.channels, first.spec.channels);
    assert_eq!(second.metadata.uid, first.metadata.uid);
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    assert_eq!(site.stream("a").unwrap().status.unwrap().observed_generation, since.observed_generation);
    site.stop();
}

#[test]
fn a_recorder_that_ends_is_started_again() {
    let mut site = Site::new(&format!("{}{}", pool(1, 5), streams(&["a"])));
    fs::create_dir_all(site.run(0, "")).unwrap();
    fs::write(site.run(0, "crash"), "").unwrap();
    site.start();
    until("it is recorded in spite of the crash", || site.phase("a") == Some(StreamPhase::Recording));
    let log = site.log();
    assert!(log.contains("exit code 7") && log.contains("boom") && log.contains("100ms"), "{log}");
    site.stop();
}

#[test]
fn steady_recording_writes_nothing() {
    let mut site = Site::new(&format!("{}{}{}", pool(1, 5), streams(&["a"]), stream("b", "rtsp://broken/b", "")));
    site.start();
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    until("b is not", || site.phase("b") == Some(StreamPhase::Failed));
    let requests = || fs::metadata(site.run(0, "requests")).map_or(0, |metadata| metadata.len());
    let more = |by: u64| {
        let target = requests() + by;
        until("it was asked more", || requests() >= target);
    };
    more(2);
    let written = || {
        [
            "camerastreams/default/a",
            "camerastreams/default/b",
            "storagepools/default/main",
            "recorders/default/main-recorder-0",
            "events/camerastreams/default/b",
        ]
        .map(|path| fs::metadata(site.data(&format!("status/{path}.yaml"))).unwrap().modified().unwrap())
    };
    let before = written();
    more(3);
    assert_eq!(written(), before);
    site.stop();
}

#[test]
fn recorders_stop_when_the_operator_is_killed() {
    let mut site = Site::new(&format!("{}{}", pool(2, 5), streams(&["a"])));
    site.start();
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    until("both answer", || (0..2).all(|recorder| site.run(recorder, "requests").exists()));
    site.signal(Signal::KILL);
    site.wait();
    until("both drained", || (0..2).all(|recorder| site.run(recorder, "drained").exists()));
}

#[test]
fn a_recorder_that_does_not_stop_is_killed() {
    let mut site = Site::new(&format!("{}{}", pool(1, 5), streams(&["a"])));
    site.start();
    until("a is recorded", || site.phase("a") == Some(StreamPhase::Recording));
    fs::write(site.run(0, "deaf"), "").unwrap();
    assert_eq!(site.stop().code(), Some(0));
    let log = site.log();
    assert!(log.contains("waiting for main-recorder-0") && log.contains("was killed"), "{log}");
    assert!(!site.run(0, "drained").exists());
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let site = Site::new(&format!(
        "{}{}{}",
        pool(1, 5),
        stream("a", "rtsp://u:hunter2@c/a", ""),
        stream("b", "rtsp://c/b", ", colour: red")
    ));
    let (code, text) = site.fail(&[]);
    assert_eq!(code, 2);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("cameras.yaml:") && text.contains("spec.source.url") && text.contains("spec.source.colour"));
    assert!(!text.contains("hunter2"));
    assert!(!site.path("data").exists());

    site.edit(&pool(1, 5));
    let (code, text) = site.fail(&["--recorder-bin", "/nowhere/recorder"]);
    assert!(code == 3 && text.contains("--recorder-bin says /nowhere/recorder"), "{code} {text}");

    let recorder = site.with_recorder();
    let with = |more: &[&str]| {
        let all: Vec<&str> = recorder.iter().map(String::as_str).chain(more.iter().copied()).collect();
        site.fail(&all)
    };
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = with(&["--http-base-port", &port]);
    assert!(code == 3 && text.contains(&port) && text.contains("in use"), "{code} {text}");

    fs::remove_dir_all(site.path("data")).unwrap();
    fs::write(site.path("data"), "a file").unwrap();
    let (code, text) = with(&[]);
    assert!(code == 3 && text.contains("cannot be written to") && text.contains("--data"), "{code} {text}");
}

#[test]
fn a_data_folder_belongs_to_one_operator() {
    let mut site = Site::new(&pool(1, 5));
    site.start();
    until("it runs", || site.data("run/state.json").exists());
    let recorder = site.with_recorder();
    let (code, text) = site.fail(&[&recorder[0], &recorder[1]]);
    assert!(code == 3 && text.contains("another framekeeper-operator is using it"), "{code} {text}");
    site.stop();
}

#[test]
fn the_size_of_segments_stays_over_restarts() {
    let mut site = Site::new(&pool(1, 5));
    site.start();
    until("it runs", || site.data("run/state.json").exists());
    site.stop();
    site.edit(&pool(1, 5).replace("storage: {volumes", "segment: {bytes: 8Mi}, storage: {volumes"));
    let recorder = site.with_recorder();
    let (code, text) = site.fail(&[&recorder[0], &recorder[1]]);
    assert!(code == 2 && text.contains("spec.segment.bytes: 8Mi (was 64Mi): cannot be changed"), "{code} {text}");
}

#[test]
fn standbys_know_each_other_and_takeovers_are_told() {
    let pool = pool(3, 10).replace("maxChannels: 10", "maxChannels: 10, toleratedFailures: 1");
    let mut site = Site::new(&format!("{pool}{}", streams(&["a"])));
    site.start();
    let condition = |kind: &str| {
        let status = site.stream("a").and_then(|stream| stream.status).unwrap_or_default();
        let found = status.conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map(|condition| (condition.status, condition.reason)).unwrap_or_default()
    };
    until("a is protected", || condition("Protected") == ("True".into(), "Protected".into()));
    let assignment = || site.stream("a").unwrap().status.unwrap().assignment.unwrap();
    let planned = assignment();
    assert_eq!(planned.active.as_ref(), Some(&planned.primary));
    let number = |name: &str| name.rsplit('-').next().unwrap().parse::<u32>().unwrap();
    let (primary, standby) = (number(&planned.primary), number(&planned.standbys[0]));
    let keys = |of: u32| {
        let peers = site.assignment(of).unwrap().spec.peers;
        peers.into_iter().map(|peer| (peer.name, peer.public_keys, peer.addresses.len())).collect::<Vec<_>>()
    };
    let key = |name: &str| vec![(name.to_owned(), vec![format!("key of {name}")], 1)];
    until("the primary knows the standby's key", || keys(primary) == key(&planned.standbys[0]));
    until("the standby knows the primary's key", || keys(standby) == key(&planned.primary));

    fs::write(site.run(standby, "takeover"), "5").unwrap();
    fs::write(site.run(primary, "blind"), "").unwrap();
    until("the standby records", || assignment().active.as_ref() == Some(&planned.standbys[0]));
    until("it is not protected", || condition("Protected") == ("False".into(), "TakenOver".into()));
    assert_eq!(condition("Recording").0, "True");
    assert_eq!(assignment().epoch, 5);
    let taken = format!("taken over by {} from {}, epoch 5", planned.standbys[0], planned.primary);
    until("the takeover is told", || site.events("a").contains(&("TakenOver".into(), taken.clone())));

    fs::remove_file(site.run(primary, "blind")).unwrap();
    fs::remove_file(site.run(standby, "takeover")).unwrap();
    until("it is given back", || assignment().active.as_ref() == Some(&planned.primary));
    until("the end is told", || site.events("a").iter().any(|(reason, _)| reason == "HandedBack"));
    until("a is protected again", || condition("Protected").0 == "True");
    assert_eq!(site.stop().code(), Some(0));
    let state = fs::read_to_string(site.data("run/state.json")).unwrap();
    assert!(state.contains("\"epochSeen\": 5"), "an epoch that was seen is never given again: {state}");
}
