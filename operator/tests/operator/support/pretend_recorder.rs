//! A recorder that only pretends, for the tests of the operator: it reads its assignment, answers for its channels, and ends when told.
//! Files beside its assignment tell it what to do: `crash` ends it once, `deaf` has it ignore SIGTERM, `blind` keeps it from its cameras, and
//! `takeover` has it record what it stands by for, in the epoch that stands in it.
#![expect(clippy::unwrap_used, reason = "a part of tests fails by panicking")]
#![expect(clippy::print_stderr, reason = "it logs like a real one")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use framekeeper_crds::{Recorder, RecorderPhase, RecorderStatus, Role, yaml};
use serde_json::json;

fn main() {
    let mut arguments = std::env::args().skip(1);
    assert_eq!(arguments.next().as_deref(), Some("run"));
    let mut options = BTreeMap::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name.trim_start_matches("--").to_owned(), value);
    }
    let assignment = PathBuf::from(&options["assignment"]);
    let beside = |name: &str| assignment.with_file_name(name);
    assert_eq!(options["log-format"], "json");
    assert_eq!(Path::new(&options["key"]), beside("peer.key"));
    // Held as long as it runs, as the port of a real one would be.
    let _peers = TcpListener::bind(&options["peer-listen"]).unwrap();
    assert!(Path::new(&options["secrets"]).is_dir() && Path::new(&options["volumes"]).join("footage").is_dir());
    eprintln!(r#"{{"level":"WARN","message":"only pretending","pid":{}}}"#, std::process::id());
    if fs::remove_file(beside("crash")).is_ok() {
        eprintln!("boom");
        std::process::exit(7);
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let (serving, status, listen) = (assignment.clone(), options["status"].clone(), options["listen"].clone());
        let requests = beside("requests");
        std::thread::spawn(move || serve(&serving, Path::new(&status), &listen, &requests));
        loop {
            terminate.recv().await;
            if !beside("deaf").exists() {
                break;
            }
        }
    });
    fs::write(beside("drained"), "").unwrap();
    std::process::exit(0);
}

fn serve(assignment: &Path, status: &Path, listen: &str, requests: &Path) {
    let listener = TcpListener::bind(listen).unwrap();
    let beside = |name: &str| assignment.with_file_name(name);
    let mut said = None;
    let mut count = 0_u64;
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if connection.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            request.extend(byte);
        }
        let mut recorder: Recorder = yaml::read_recorder(&fs::read_to_string(assignment).unwrap()).unwrap();
        if said != recorder.metadata.generation {
            said = recorder.metadata.generation;
            recorder.status = Some(RecorderStatus {
                observed_generation: said,
                phase: Some(RecorderPhase::Ready),
                public_key: Some(format!("key of {}", recorder.metadata.name.clone().unwrap())),
                ..RecorderStatus::default()
            });
            let new = status.with_extension("new");
            fs::write(&new, yaml::write(&recorder).unwrap()).unwrap();
            fs::rename(new, status).unwrap();
        }
        let channels: Vec<_> = recorder
            .spec
            .channels
            .iter()
            .map(|channel| {
                let works = !channel.source.url.contains("broken") && !beside("blind").exists();
                let taken_over =
                    fs::read_to_string(beside("takeover")).ok().and_then(|epoch| epoch.parse::<u64>().ok());
                let taken_over = taken_over.filter(|_| channel.role == Role::Standby);
                count += 1;
                let (state, reason) = match (works, channel.role, taken_over) {
                    (false, ..) => ("Backoff", Some("Unauthorized")),
                    (true, Role::Primary, _) => ("Recording", None),
                    (true, Role::Standby, None) => ("Standby", Some("StandingBy")),
                    (true, Role::Standby, Some(_)) => ("Recording", Some("TakenOver")),
                };
                json!({
                    "namespace": channel.stream.namespace, "name": channel.stream.name, "role": channel.role,
                    "state": state, "reason": reason, "epoch": taken_over.unwrap_or(channel.epoch),
                    "message": if works { String::new() } else { format!("refused, attempt {count}") },
                    "codec": "avc1.64001f", "audioCodec": "mp4a.40.2", "width": 1920, "height": 1080, "fps": 25.0,
                    "bitrate": 4_000_000 + count * 1_000, "lastFrame": "2026-11-21T14:03:00.123Z",
                    "bytes": count * 1_000_000, "frames": 1_000 + count,
                })
            })
            .collect();
        let body = json!({ "recorder": recorder.metadata.name, "channels": channels }).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = connection.write_all((head + &body).as_bytes());
        let mut log = fs::OpenOptions::new().create(true).append(true).open(requests).unwrap();
        log.write_all(b".").unwrap();
    }
}
