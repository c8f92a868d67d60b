//! What people at the machine, and annotations, have a recorder do with volumes and footage, and how long that lasts.

use std::process::Command;

use crate::support::*;
use serde_json::{Value, json};

/// `framekeeper-recorder volume …` on the bench's volumes: whether it succeeded, and what it said.
fn volume(bench: &Bench, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framekeeper-recorder"));
    let output = command.arg("volume").args(arguments).arg("--volumes").arg(bench.path("volumes")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

fn state(status: &Value, name: &str) -> String {
    let volumes = status["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == name);
    volume.map(|volume| volume["state"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// The assignment, with these changes to its spec.
fn change(bench: &mut Bench, spec: &Value) {
    bench.assign(&[]);
    let text = std::fs::read_to_string(bench.path("assignment.yaml")).unwrap();
    let mut object: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    bench.put("assignment.yaml", &object.to_string());
}

#[test]
fn what_a_person_asked_of_a_volume_holds_over_crashes_until_it_is_asked_otherwise() {
    let mut bench = Bench::new();
    std::fs::create_dir_all(bench.path("volumes/second")).unwrap();
    let second = json!({"name": "second", "uuid": "10000000-0000-4000-8000-000000000801", "budgetBytes": 16 << 20});
    let first = json!({"name": "footage", "uuid": VOLUME_UUID, "budgetBytes": 16 << 20});
    change(&mut bench, &json!({"volumes": [first, second]}));
    let recorder = bench.start(&[]);
    recorder.ready(0);
    assert!(volume(&bench, &["drain", "footage"]).0);
    assert!(volume(&bench, &["stop", "second"]).0);
    // The worker dies: the next one leaves both as they were.
    recorder.signal(recorder.worker(), rustix::process::Signal::KILL);
    let restarted = |status: &Value| status["instance"]["restarts"] == 1;
    let as_left =
        |status: &Value| (state(status, "footage"), state(status, "second")) == ("Draining".into(), "Stopped".into());
    recorder.status("both as they were left", |status| restarted(status) && as_left(status));
    let opens =
        |name: &str| std::fs::read_to_string(bench.path("volumes").join(name).join("framekeeper.json")).unwrap();
    assert!(opens("second").contains("\"opens\":1,"), "{}", opens("second"));
    // All are stopped: the recorder is still there to be told otherwise, also when it is started anew.
    assert!(volume(&bench, &["stop", "footage"]).0);
    assert_eq!(recorder.stop().0.code(), Some(0));
    let recorder = bench.start(&[]);
    recorder.status("both stopped", |status| {
        (state(status, "footage"), state(status, "second")) == ("Stopped".into(), "Stopped".into())
    });
    assert!(volume(&bench, &["start", "second"]).0);
    let status = recorder.ready(0);
    assert_eq!((state(&status, "footage"), state(&status, "second")), ("Stopped".into(), "Ready".into()));
    // Told in words too.
    let message = status["volumes"][0]["message"].as_str().unwrap();
    assert!(message.contains("volume start"), "{message}");
}

#[test]
fn a_hold_ends_only_by_a_word() {
    let stream = |number: u32| {
        let uid = format!("10000000-0000-4000-8000-{number:012}");
        json!({"namespace": "default", "name": format!("cam-{number}"), "uid": uid})
    };
    let hold = |number: u32| json!({"stream": stream(number), "from": "2026-11-21T14:00:00.000000Z"});
    let mut bench = Bench::new();
    change(&mut bench, &json!({"holds": [hold(1), hold(2)]}));
    let recorder = bench.start(&[]);
    recorder.ready(0);
    let held = |bench: &Bench| -> Vec<(String, bool)> {
        let (_, said) = volume(bench, &["holds", "--json"]);
        let holds: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
        let mut held: Vec<_> =
            holds.iter().map(|h| (h["stream"].as_str().unwrap().to_owned(), h["annotated"] == true)).collect();
        held.sort();
        held
    };
    let wait = |bench: &Bench, expected: &[(&str, bool)]| {
        let expected: Vec<(String, bool)> = expected.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect();
        assert!(until(|| (held(bench) == expected).then_some(())).is_some(), "{:?}, not {expected:?}", held(bench));
    };
    wait(&bench, &[("default/cam-1", true), ("default/cam-2", true)]);
    let id = |bench: &Bench, of: &str| {
        let holds: Vec<Value> = serde_json::from_str(&volume(bench, &["holds", "--json"]).1).unwrap();
        holds.iter().find(|h| h["stream"] == of).unwrap()["hold"].as_str().unwrap().to_owned()
    };
    let second = id(&bench, "default/cam-2");
    let (done, said) = volume(&bench, &["release", &second]);
    assert!(!done && said.contains("framekeeper.dev/hold of CameraStream default/cam-2"), "{said}");
    // Taken back by its owner; the other one is not spoken of any more, which releases nothing, not over a restart either.
    change(&mut bench, &json!({"releasedHolds": [hold(1)]}));
    wait(&bench, &[("10000000-0000-4000-8000-000000000002", false)]);
    assert_eq!(recorder.stop().0.code(), Some(0));
    let recorder = bench.start(&[]);
    recorder.ready(0);
    wait(&bench, &[("10000000-0000-4000-8000-000000000002", false)]);
    // With no recorder, the files tell.
    let (done, said) = volume(&bench, &["release", "10000000-0000-4000-8000-00000000000f"]);
    assert!(!done && said.contains("no open volume has a hold"), "{said}");
    let (done, said) = volume(&bench, &["release", &second]);
    assert!(done, "{said}");
    assert_eq!(volume(&bench, &["holds"]).1.trim(), "nothing is held");
}
