//! What users get wrong: each gets a message that says what to do, takes nothing else down, and shows no credential.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, get, poll, program};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

const PASSWORD: &str = "S3cret-that-nobody-may-see";
const WRONG_PASSWORD: &str = "Wr0ng-that-nobody-may-see";

fn plan(streams: Vec<StreamPlan>) -> PoolPlan {
    PoolPlan { recorders: 1, max_channels: 16, budget: "512Mi".to_owned(), segment_bytes: "4Mi".to_owned(), streams }
}

/// Runs the operator on a manifest that it must refuse, and returns what it said.
fn refused(folder: &Path, manifest: &str) -> Result<String> {
    let file = folder.join("cameras.yaml");
    fs::write(&file, manifest)?;
    refused_with(folder, &["--data".to_owned(), folder.join("data").display().to_string()])
}

fn refused_with(folder: &Path, arguments: &[String]) -> Result<String> {
    let output = Command::new("timeout")
        .arg("20")
        .arg(program("framekeeper-operator")?)
        .arg("local")
        .arg(folder.join("cameras.yaml"))
        .args(arguments)
        .output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "accepted: {said}");
    ensure!(output.status.code() != Some(124), "neither refused nor ended: {said}");
    for secret in [PASSWORD, WRONG_PASSWORD] {
        ensure!(!said.contains(secret), "shows a credential: {said}");
    }
    Ok(said)
}

/// Asserts that `said` holds all of `words`.
fn says(said: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(said.contains(word), "does not say {word:?}:\n{said}");
    }
    Ok(())
}

fn stream(name: &str) -> String {
    plan(vec![StreamPlan::new(name, format!("rtsp://127.0.0.1:1/{name}"))])
        .manifest()
        .split_once("---\n")
        .map(|(_, stream)| stream.to_owned())
        .unwrap_or_default()
}

#[test]
fn every_mistake_in_manifests_is_reported_at_once_with_its_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut manifest = plan(vec![
        StreamPlan::new("good", "rtsp://127.0.0.1:1/good".to_owned()),
        StreamPlan::new("twice", "rtsp://127.0.0.1:1/twice".to_owned()),
        StreamPlan::new("twice", "rtsp://127.0.0.1:1/twice".to_owned()),
        StreamPlan::new("named", format!("rtsp://admin:{PASSWORD}@127.0.0.1:1/named")),
    ])
    .manifest();
    manifest.push_str("---\n");
    manifest.push_str(&stream("elsewhere").replace("name: main", "name: other"));
    manifest.push_str("---\n");
    manifest.push_str(&stream("misspelt").replace("  source:", "  sauce: 1\n  source:"));
    manifest.push_str("---\n");
    manifest.push_str(&stream("secretless").replace("    url:", "    credentialsSecretRef: {name: absent}\n    url:"));
    let said = refused(folder.path(), &manifest)?;
    says(
        &said,
        &[
            "cameras.yaml",
            "twice",
            "spec.source.url",
            "credentialsSecretRef",
            "spec.poolRef",
            "other",
            "sauce",
            "absent",
        ],
    )?;
    println!("{said}");
    Ok(())
}

#[test]
fn yaml_that_is_none_is_refused_with_its_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tabs = plan(vec![]).manifest().replace("  recorders", "\trecorders");
    says(&refused(folder.path(), &tabs)?, &["cameras.yaml", "tab", "6"])?;
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in
        [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f"), ("h", "g"), ("i", "h")]
    {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(",")));
    }
    says(&refused(folder.path(), &bomb)?, &["cameras.yaml"])?;
    Ok(())
}

#[test]
fn anchors_work_as_yaml_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=one,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned()],
    )?;
    let manifest = plan(vec![StreamPlan::new("one", cameras.url("one"))])
        .manifest()
        .replace("name: main\nspec", "name: &pool main\nspec");
    let file = folder.path().join("pool.yaml");
    fs::write(&file, manifest)?;
    let mut system = System::start_on(folder.path(), file, 1)?;
    system.wait_recording(&["one".to_owned()], Duration::from_secs(20))?;
    system.stop()
}

#[test]
fn too_little_of_slots_or_space_is_refused_with_what_would_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let streams = |count: usize| {
        (0..count).map(|n| StreamPlan::new(&format!("cam-{n}"), "rtsp://127.0.0.1:1/x".to_owned())).collect()
    };
    let small = PoolPlan { budget: "8Mi".to_owned(), ..plan(streams(4)) };
    says(&refused(folder.path(), &small.manifest())?, &["storage", "8Mi", "4Mi"])?;
    let few = PoolPlan { max_channels: 2, ..plan(streams(4)) };
    says(&refused(folder.path(), &few.manifest())?, &["maxChannels", "2", "4"])?;
    Ok(())
}

#[test]
fn folders_that_cannot_be_recorded_to_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("cameras.yaml"),
        plan(vec![StreamPlan::new("one", "rtsp://127.0.0.1:1/x".to_owned())]).manifest(),
    )?;
    // Root may write into any folder of a disk; /sys takes nothing even from root.
    let read_only = if rustix::process::geteuid().is_root() {
        "/sys/framekeeper".to_owned()
    } else {
        let read_only = folder.path().join("read-only");
        fs::create_dir(&read_only)?;
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o555))?;
        read_only.join("data").display().to_string()
    };
    says(&refused_with(folder.path(), &["--data".to_owned(), read_only.clone()])?, &[&read_only])?;
    Ok(())
}

/// Starts a system whose only recorder can't use its volume, and waits for `words` in a status.
fn volume_trouble(folder: &Path, words: &[&str]) -> Result<()> {
    let mut system = System::start(folder, &plan(vec![StreamPlan::new("one", "rtsp://127.0.0.1:1/x".to_owned())]))?;
    let told = poll(Duration::from_secs(20), Duration::from_millis(100), || {
        let log = fs::read_to_string(&system.operator.log).unwrap_or_default();
        Ok(words.iter().all(|word| log.contains(word)).then_some(()))
    })?;
    ensure!(told.is_some(), "does not say {words:?}: {}", system.operator.log_tail());
    let _status = system.operator.stop(Duration::from_secs(15))?;
    Ok(())
}

#[test]
fn a_volume_with_foreign_files_is_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("data/volumes/main-recorder-0/footage");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("holiday.jpg"), "not ours")?;
    volume_trouble(folder.path(), &["holiday.jpg", "footage"])?;
    let names: Vec<_> = fs::read_dir(&volume)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ensure!(names == ["holiday.jpg"], "something was written beside foreign files: {names:?}");
    Ok(())
}

#[test]
fn a_volume_of_another_pool_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("data/volumes/main-recorder-0/footage");
    fs::create_dir_all(&volume)?;
    let identity = "{\"format\":1,\"pool\":\"default/elsewhere\",\"recorder\":\"elsewhere-recorder-0\",\"volume\":\"0b0e7a3e-9a53-4f1c-9f0e-3f6f2f5d7a11\",\
                    \"segmentBytes\":4194304,\"created\":\"2026-11-21T14:03:00.000Z\",\"opens\":3}";
    fs::write(volume.join("framekeeper.json"), identity)?;
    volume_trouble(folder.path(), &["default/elsewhere", "default/main"])?;
    ensure!(fs::read_to_string(volume.join("framekeeper.json"))? == identity, "the other pool's volume was written to");
    Ok(())
}

#[test]
fn a_port_in_use_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("cameras.yaml"),
        plan(vec![StreamPlan::new("one", "rtsp://127.0.0.1:1/x".to_owned())]).manifest(),
    )?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let data = folder.path().join("data").display().to_string();
    let said = refused_with(folder.path(), &["--data".to_owned(), data, "--http-base-port".to_owned(), port.clone()])?;
    says(&said, &[&port, "--http-base-port"])
}

#[test]
fn cameras_that_do_not_deliver_are_told_apart_and_disturb_nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &[
            "name=good,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned(),
            format!(
                "name=locked,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10,auth=digest,user=viewer,password={PASSWORD}"
            ),
            "name=old,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned(),
            "name=garbled,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned(),
            "name=mute,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned(),
        ],
    )?;
    cameras.fault("old", &serde_json::json!({"fault": "sdp", "what": "h263"}))?;
    cameras.fault("garbled", &serde_json::json!({"fault": "sdp", "what": "garbage"}))?;
    cameras.fault("mute", &serde_json::json!({"fault": "sdp", "what": "empty"}))?;
    // Something listens there, but speaks no RTSP: a web server.
    let web = TcpListener::bind("127.0.0.1:0")?;
    let web_address = web.local_addr()?;
    std::thread::spawn(move || {
        for connection in web.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let mut connection = connection;
            let mut buffer = [0; 1024];
            let _read = connection.read(&mut buffer);
            let _written = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let locked = |name: &str, password: &str| StreamPlan {
        name: name.to_owned(),
        url: cameras.url("locked"),
        credentials: Some(("viewer".to_owned(), password.to_owned())),
    };
    let streams = vec![
        StreamPlan::new("good", cameras.url("good")),
        locked("right", PASSWORD),
        locked("wrong", WRONG_PASSWORD),
        StreamPlan::new("nowhere", cameras.url("no-such-path")),
        StreamPlan::new("web", format!("rtsp://{web_address}/")),
        StreamPlan::new("closed", format!("rtsp://127.0.0.1:{}/", framekeeper_e2e::harness::free_port()?)),
        StreamPlan::new("old", cameras.url("old")),
        StreamPlan::new("garbled", cameras.url("garbled")),
        StreamPlan::new("mute", cameras.url("mute")),
    ];
    let mut system = System::start(folder.path(), &plan(streams))?;
    // A line of rubbish in a session description is no reason not to record the rest.
    system.wait_recording(&["good".to_owned(), "right".to_owned(), "garbled".to_owned()], Duration::from_secs(20))?;

    let expected = [
        ("wrong", "password"),
        ("nowhere", "404"),
        ("web", "RTSP"),
        ("closed", "refused"),
        ("old", "H263"),
        ("mute", "describes no media"),
    ];
    for (name, word) in expected {
        let mut last = String::new();
        let told = poll(Duration::from_secs(20), Duration::from_millis(200), || {
            let channels = system.channels(0)?.unwrap_or_default();
            let channel =
                channels.iter().find(|channel| channel.get("name").and_then(|name| name.as_str()) == Some(name));
            last = channel.map(ToString::to_string).unwrap_or_default();
            let message =
                channel.and_then(|channel| channel.get("message")?.as_str()).unwrap_or_default().to_lowercase();
            Ok(message.contains(&word.to_lowercase()).then_some(()))
        })?;
        ensure!(told.is_some(), "{name}: the message does not say {word:?}: {last}");
    }
    // No lock-out storm: a camera that refuses a password is asked again seldom.
    let reconnects = |system: &System| -> Result<u64> {
        let channels = system.channels(0)?.context("no answer")?;
        let wrong = channels
            .iter()
            .find(|channel| channel.get("name").and_then(|name| name.as_str()) == Some("wrong"))
            .context("no channel")?;
        Ok(wrong.get("reconnects").and_then(|count| count.as_u64()).unwrap_or(0))
    };
    ensure!(
        reconnects(&system)? <= 4,
        "{} attempts with a wrong password in {:?}",
        reconnects(&system)?,
        Duration::from_secs(20)
    );

    let metrics = get(system.http(0), "/metrics")?.text();
    let ready = get(system.http(0), "/readyz?verbose")?.text();
    let channels = get(system.http(0), "/v1/channels")?.text();
    system.stop()?;
    for text in [&metrics, &ready, &channels] {
        ensure!(!text.contains(PASSWORD) && !text.contains(WRONG_PASSWORD), "a credential is shown over HTTP: {text}");
    }
    let shown = leaks(folder.path())?;
    ensure!(shown.is_empty(), "credentials in {shown:?}");
    Ok(())
}

/// Files below `folder` that hold a password, other than the manifest that the user wrote and the recorders' Secret folders.
fn leaks(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "secrets") {
                found.extend(leaks(&path)?);
            }
        } else if path.file_name().is_none_or(|name| name != "pool.yaml") {
            let bytes = fs::read(&path)?;
            for secret in [PASSWORD, WRONG_PASSWORD] {
                if memchr::memmem::find(&bytes, secret.as_bytes()).is_some() {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    Ok(found)
}
