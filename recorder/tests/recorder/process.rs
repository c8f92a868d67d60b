//! The recorder as a process: its supervisor, its exit statuses, its assignment, its probes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{Bench, LIMIT, channel, files, get, is_alive, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A camera that is not there: nobody listens on port 1.
const NOBODY: &str = "rtsp://127.0.0.1:1/s";

#[test]
fn a_worker_that_is_killed_is_restarted_and_an_orderly_stop_is_exit_0() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    let recorder = bench.start(&[]);
    let first = recorder.ready(0);
    let worker = recorder.worker();
    recorder.signal(worker, Signal::KILL);
    let second = recorder.ready(1);
    assert_ne!(first["instance"]["uid"], second["instance"]["uid"]);
    assert_ne!(recorder.worker(), worker);
    assert!(recorder.log().contains("killed by signal 9"), "{}", recorder.log());
    let status = bench.path("status.yaml");
    let (exit, took) = recorder.stop();
    assert_eq!(exit.code(), Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(std::fs::read_to_string(status).unwrap().contains("phase: Stopped"));
}

#[test]
fn the_worker_does_not_outlive_its_supervisor() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    let mut recorder = bench.start(&[]);
    recorder.ready(0);
    let worker = recorder.worker();
    recorder.child.kill().unwrap();
    recorder.wait();
    until(|| (!is_alive(worker)).then_some(())).expect("the worker ends");
}

#[test]
fn exit_statuses_tell_what_is_wrong() {
    let exit = |bench: &Bench, more: &[&str]| {
        let output = bench.command(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let free = ["--listen", "127.0.0.1:0"];
    let mut bench = Bench::new();

    let (code, message) = exit(&bench, &["--no-such-flag"]);
    assert_eq!(code, Some(64), "{message}");

    let (code, message) = exit(&bench, &free);
    assert_eq!(code, Some(65), "{message}");
    assert!(message.contains("assignment.yaml"), "{message}");
    bench.put("assignment.yaml", "kind: Recorder\napiVersion: framekeeper.dev/v1alpha1\nspec: {pool: 7");
    let (code, message) = exit(&bench, &free);
    assert_eq!(code, Some(65), "{message}");

    bench.assign(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let (code, message) = exit(&bench, &["--listen", &taken]);
    assert_eq!(code, Some(75), "{message}");
    assert!(message.contains(&taken), "{message}");

    std::fs::write(bench.volume().join("holiday.mp4"), "mine").unwrap();
    let (code, message) = exit(&bench, &free);
    assert_eq!(code, Some(73), "{message}");
    assert!(message.contains("volumes/footage") && message.contains("holiday.mp4"), "{message}");
    assert_eq!(files(&bench.volume()).len(), 1, "a refused folder is not written to");

    std::fs::remove_dir_all(bench.volume()).unwrap();
    let (code, message) = exit(&bench, &free);
    assert_eq!(code, Some(73), "{message}");
    assert!(!bench.volume().exists(), "a folder that is not mounted is not made");
}

#[test]
fn a_volume_of_another_pool_is_refused() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    let recorder = bench.start(&[]);
    recorder.ready(0);
    assert_eq!(recorder.stop().0.code(), Some(0));
    let text = std::fs::read_to_string(bench.path("assignment.yaml")).unwrap();
    bench.put("assignment.yaml", &text.replace(r#""pool":"main""#, r#""pool":"other""#));
    let output = bench.command(&["--listen", "127.0.0.1:0"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{message}");
    assert!(message.contains("default/main") && message.contains("default/other"), "{message}");
}

#[test]
fn one_volume_that_cannot_be_used_leaves_the_others() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    let mut object: Value =
        serde_json::from_str(&std::fs::read_to_string(bench.path("assignment.yaml")).unwrap()).unwrap();
    object["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "second", "uuid": "10000000-0000-4000-8000-000000000801", "budgetBytes": 16 << 20}));
    bench.put("assignment.yaml", &object.to_string());
    let recorder = bench.start(&[]);
    let status = recorder.ready(0);
    assert_eq!(status["volumes"][0]["state"], "Ready", "{status:#}");
    assert_eq!(status["volumes"][1]["state"], "Refused", "{status:#}");
    let message = status["volumes"][1]["message"].as_str().unwrap();
    assert!(message.contains("volumes/second"), "{message}");
    assert_eq!(recorder.stop().0.code(), Some(0));
}

#[test]
fn assignments_are_followed_and_bad_ones_change_nothing() {
    let mut bench = Bench::new();
    bench.assign(&[channel(1, NOBODY)]);
    let recorder = bench.start(&[]);
    recorder.ready(0);
    let names = |status: &Value| -> Vec<String> {
        let channels = status["channels"].as_array().cloned().unwrap_or_default();
        channels.iter().map(|channel| channel["stream"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let status = recorder.status("the camera that is not there", |status| status["channels"][0]["state"] == "Backoff");
    assert_eq!(status["channels"][0]["reason"], "CameraUnreachable", "{status:#}");
    let since = status["channels"][0]["since"].clone();

    // The same stream twice, and one with user info: theirs is the trouble, not the others'.
    bench.assign(&[
        channel(1, NOBODY),
        channel(2, NOBODY),
        channel(2, NOBODY),
        channel(3, "rtsp://bob:geheim@127.0.0.1/"),
    ]);
    let status = recorder.status("four entries", |status| {
        names(status).len() == 4
            && status["observedGeneration"] == 2
            && status["channels"]
                .as_array()
                .is_some_and(|all| all.iter().filter(|c| c["state"] == "Backoff").count() == 2)
    });
    let find = |name: &str, state: &str| {
        let all = status["channels"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .find(|channel| channel["stream"]["name"] == name && channel["state"] == state)
            .expect("a channel")
    };
    assert_eq!(find("cam-1", "Backoff")["since"], since, "an untouched channel goes on");
    assert_eq!(find("cam-2", "Failed")["reason"], "DuplicateStream");
    assert_eq!(find("cam-3", "Failed")["reason"], "InvalidSource");

    bench.put("assignment.yaml", "kind: Recorder\n\tspec:");
    let stale = |status: &Value, wanted: &str| {
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|condition| condition["type"] == "AssignmentCurrent" && condition["status"] == wanted)
    };
    let status = recorder.status("a refused assignment", |status| stale(status, "False"));
    assert_eq!(names(&status).len(), 4);

    bench.assign(&[channel(2, NOBODY)]);
    let status = recorder.status("one channel", |status| stale(status, "True") && names(status).len() == 1);
    assert_eq!(names(&status), ["cam-2"]);
    assert_eq!(recorder.stop().0.code(), Some(0));

    // Nobody tells it anything: it starts from the copy on its volume.
    std::fs::remove_file(bench.path("assignment.yaml")).unwrap();
    let recorder = bench.start(&[]);
    let status = recorder.status("the channel of the copy", |status| names(status) == ["cam-2"]);
    assert!(stale(&status, "False"), "{status:#}");
    assert_eq!(recorder.stop().0.code(), Some(0));
}

/// As when a pool is deleted and made again: generations begin anew, and nobody of its peers is who it was.
#[test]
fn a_recorder_whose_object_was_made_again_goes_on_as_that() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    bench.assign(&[channel(1, NOBODY)]);
    let recorder = bench.start(&[]);
    recorder.ready(0);
    let text = std::fs::read_to_string(bench.path("assignment.yaml")).unwrap();
    let mut object: Value = serde_json::from_str(&text).unwrap();
    object["metadata"]["uid"] = "20000000-0000-4000-8000-000000000902".into();
    object["metadata"]["generation"] = 1.into();
    object["spec"]["channels"] = json!([channel(2, NOBODY)]);
    bench.put("assignment.yaml", &object.to_string());
    recorder.ready(1);
    let status = recorder.status("the channel of the other object", |status| {
        status["channels"][0]["stream"]["name"] == "cam-2" && status["observedGeneration"] == 1
    });
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let current = conditions.iter().find(|condition| condition["type"] == "AssignmentCurrent").expect("a condition");
    assert_eq!(current["status"], "True", "{status:#}");
    assert_eq!(recorder.stop().0.code(), Some(0));
}

#[test]
fn credentials_are_nowhere_to_be_seen() {
    let mut bench = Bench::new();
    let mut with_secret = channel(1, NOBODY);
    with_secret["source"]["credentialsSecretRef"] = json!({"name": "door"});
    let mut without = channel(2, NOBODY);
    without["source"]["credentialsSecretRef"] = json!({"name": "gone"});
    bench.put("secrets/default/door/username", "u5er-of-the-door");
    bench.put("secrets/default/door/password", "pa55-of-the-door");
    bench.assign(&[with_secret, without, channel(3, "rtsp://u5er-of-the-door:pa55-of-the-door@127.0.0.1:1/s")]);
    let recorder = bench.start(&[]);
    let status = recorder.status("trouble with all", |status| {
        status["channels"]
            .as_array()
            .is_some_and(|all| all.len() == 3 && all.iter().all(|c| c["state"] != "Connecting"))
    });
    let missing =
        status["channels"].as_array().unwrap().iter().find(|c| c["stream"]["name"] == "cam-2").unwrap().clone();
    assert_eq!(missing["reason"], "SecretNotUsable", "{status:#}");
    // It appears: no restart is needed.
    bench.put("secrets/default/gone/username", "u5er-of-the-door");
    bench.put("secrets/default/gone/password", "pa55-of-the-door");
    recorder.status("a Secret that appeared", |status| {
        status["channels"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["stream"]["name"] == "cam-2" && c["state"] == "Backoff"))
    });
    let address = status["addresses"]["http"].as_str().unwrap().to_owned();
    let mut seen: String =
        ["/metrics", "/v1/channels", "/readyz?verbose", "/livez"].iter().map(|path| get(&address, path).1).collect();
    let log = recorder.log();
    assert_eq!(recorder.stop().0.code(), Some(0));
    seen += &log;
    for file in files(&bench.path("volumes")).into_iter().chain([bench.path("status.yaml")]) {
        seen += &String::from_utf8_lossy(&std::fs::read(file).unwrap());
    }
    assert!(!seen.contains("pa55-of-the-door") && !seen.contains("u5er-of-the-door"));
}

#[test]
fn probes_channels_and_metrics_answer() {
    let mut bench = Bench::new();
    bench.assign(&[channel(1, NOBODY)]);
    let recorder = bench.start(&["--no-supervisor"]);
    let status = recorder.status("a camera that is not there", |status| status["channels"][0]["state"] == "Backoff");
    let address = status["addresses"]["http"].as_str().unwrap().to_owned();
    assert_eq!(get(&address, "/livez").0, 200);
    assert_eq!(get(&address, "/readyz").0, 200);
    let (code, body) = get(&address, "/readyz?verbose");
    assert_eq!(code, 200);
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&ready["ready"], &ready["volumes"][0]["state"]), (&json!(true), &json!("Ready")));
    let (code, body) = get(&address, "/v1/channels");
    assert_eq!(code, 200);
    let channels: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(channels["recorder"], "main-recorder-0");
    assert_eq!(channels["channels"][0]["state"], "Backoff");
    assert_eq!(channels["channels"][0]["reason"], "CameraUnreachable");
    let (code, metrics) = get(&address, "/metrics");
    assert_eq!(code, 200);
    assert!(metrics.ends_with("# EOF\n"));
    for wanted in [
        r#"framekeeper_channels{state="Backoff"} 1"#,
        r#"framekeeper_stream_session_ends_total{namespace="default",stream="cam-1",reason="CameraUnreachable"}"#,
        r#"framekeeper_volume_ready{volume="footage"} 1"#,
        r#"framekeeper_volume_sync_duration_seconds_count{volume="footage"}"#,
    ] {
        assert!(metrics.contains(wanted), "{wanted}\n{metrics}");
    }
    assert_eq!(get(&address, "/nothing").0, 404);
    assert_eq!(recorder.stop().0.code(), Some(0));
}

/// The kubelet ends a recorder that does not answer: whoever holds connections must not bring that about.
#[test]
fn probes_are_answered_while_others_hold_all_connections() {
    let mut bench = Bench::new();
    bench.assign(&[]);
    let recorder = bench.start_with_descriptors(200);
    let status = recorder.ready(0);
    let address = status["addresses"]["http"].as_str().unwrap().to_owned();
    let log = recorder.log();
    let limits = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "limits")
        .unwrap_or_else(|| panic!("no limits in {log}"));
    let most = limits["connections"].as_u64().unwrap();
    let silent = |_| TcpStream::connect(&address).unwrap();
    // What comes until the recorder closes the connection.
    let told = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let is_too_many = |answer: &str| {
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("\r\nConnection: close\r\n")
            && answer.ends_with("\r\n\r\ntoo many connections to this recorder are open\n")
    };

    let held: Vec<TcpStream> = (0..most).map(silent).collect();
    // Twice as many as there are places for probes: some wait in one for a second, the others are told at once.
    let beyond: Vec<TcpStream> = (0..32).map(silent).collect();
    for stream in beyond {
        let answer = told(stream);
        assert!(is_too_many(&answer), "{answer}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&address, path), (200, "ok\n".to_owned()), "{path}");
    }
    assert_eq!(get(&address, "/readyz?verbose").0, 200);
    for path in ["/v1/channels", "/metrics", "/nothing"] {
        assert_eq!(get(&address, path), (503, "too many connections to this recorder are open\n".to_owned()), "{path}");
    }
    let mut kept = TcpStream::connect(&address).unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let answer = told(kept);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let mut posted = TcpStream::connect(&address).unwrap();
    posted.write_all(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let answer = told(posted);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 2\r\n"), "{answer}");
    let mut half = TcpStream::connect(&address).unwrap();
    half.write_all(b"GET /livez HT").unwrap();
    let answer = told(half);
    assert!(is_too_many(&answer), "{answer}");

    drop(held);
    let metrics = until(|| {
        let (code, text) = get(&address, "/metrics");
        (code == 200).then_some(text)
    })
    .expect("all is served again");
    let refused = metrics.lines().find_map(|line| line.strip_prefix("framekeeper_http_refused_connections_total "));
    // Those beyond, three paths, the POST and the half word; of the probes none.
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 37, "{metrics}");
    assert_eq!(recorder.stop().0.code(), Some(0));
}
