//! An operator on a folder of its own, with recorders that only pretend.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]
#![expect(clippy::print_stderr, reason = "the pretended recorder logs like a real one")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use framekeeper_crds::{CameraStream, Recorder, RecorderPhase, RecorderStatus, StreamPhase};
use rustix::process::{Pid, Signal};
use serde_json::json;

const ARGUMENTS: &str = "FAKE_RECORDER_ARGUMENTS";

/// Waits for something to become true.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with manifests, and what the operator makes of it.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    child: Option<Child>,
    starts: u32,
}

impl Site {
    pub(crate) fn new(manifests: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { folder, child: None, starts: 0 };
        site.edit(manifests);
        // This very program is the recorder, told so by its environment.
        let script = format!(
            "#!/bin/sh\n{ARGUMENTS}=\"$*\" exec {} --ignored --exact fake_recorder --nocapture\n",
            std::env::current_exe().unwrap().display()
        );
        fs::write(site.program(), script).unwrap();
        fs::set_permissions(site.program(), fs::Permissions::from_mode(0o755)).unwrap();
        site
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn data(&self, path: &str) -> PathBuf {
        self.path("data").join(path)
    }

    pub(crate) fn run(&self, recorder: u32, path: &str) -> PathBuf {
        self.data(&format!("run/main-recorder-{recorder}")).join(path)
    }

    fn program(&self) -> PathBuf {
        self.path("recorder.sh")
    }

    pub(crate) fn edit(&self, manifests: &str) {
        let path = self.path("cameras.yaml");
        fs::write(path.with_extension("new"), manifests).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framekeeper-operator"));
        command
            .arg("local")
            .arg(self.path("cameras.yaml"))
            .arg("--data")
            .arg(self.path("data"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Starts the operator, and waits until it says that its recorders run.
    pub(crate) fn start(&mut self) {
        self.starts += 1;
        let log = fs::File::create(self.log_path()).unwrap();
        let mut command = self.command();
        command
            .arg("--recorder-bin")
            .arg(self.program())
            .args(["--log-format", "json"])
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Runs the operator where it must fail: exit code and what it says.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command().args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn with_recorder(&self) -> [String; 2] {
        ["--recorder-bin".into(), self.program().display().to_string()]
    }

    fn log_path(&self) -> PathBuf {
        self.path(&format!("log-{}", self.starts))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn stream(&self, name: &str) -> Option<CameraStream> {
        let path = self.data(&format!("status/camerastreams/default/{name}.yaml"));
        serde_saphyr::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    pub(crate) fn phase(&self, name: &str) -> Option<StreamPhase> {
        self.stream(name)?.status?.phase
    }

    pub(crate) fn assignment(&self, recorder: u32) -> Option<Recorder> {
        serde_saphyr::from_str(&fs::read_to_string(self.run(recorder, "assignment.yaml")).ok()?).ok()
    }

    /// Who records what, and in which epoch.
    pub(crate) fn holders(&self) -> BTreeMap<String, (u32, u64)> {
        let recorders = (0..10).filter_map(|ordinal| Some((ordinal, self.assignment(ordinal)?)));
        recorders
            .flat_map(|(ordinal, recorder)| {
                recorder.spec.channels.into_iter().map(move |c| (c.stream.name, (ordinal, c.epoch)))
            })
            .collect()
    }

    /// All text below a folder but for the credentials given to recorders.
    pub(crate) fn everything_written(&self) -> String {
        fn walk(folder: &Path, all: &mut String) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if path.file_name().unwrap() != "secrets" {
                        walk(&path, all);
                    }
                } else if path.extension().is_none_or(|extension| extension != "sock") {
                    all.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap()));
                }
            }
        }
        let mut all = self.log();
        walk(&self.path("data"), &mut all);
        all
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// The recorder that pretends. Files beside its assignment tell it what to do: `crash` ends it once, `deaf` has it ignore SIGTERM.
pub(crate) fn fake_recorder() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let mut arguments = arguments.split(' ');
    assert_eq!(arguments.next(), Some("run"));
    let mut options = BTreeMap::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name.trim_start_matches("--").to_owned(), value.to_owned());
    }
    let assignment = PathBuf::from(&options["assignment"]);
    let beside = |name: &str| assignment.with_file_name(name);
    assert_eq!(options["log-format"], "json");
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
        let mut recorder: Recorder = serde_saphyr::from_str(&fs::read_to_string(assignment).unwrap()).unwrap();
        if said != recorder.metadata.generation {
            said = recorder.metadata.generation;
            recorder.status = Some(RecorderStatus {
                observed_generation: said,
                phase: Some(RecorderPhase::Ready),
                ..RecorderStatus::default()
            });
            let new = status.with_extension("new");
            fs::write(&new, serde_saphyr::to_string(&recorder).unwrap()).unwrap();
            fs::rename(new, status).unwrap();
        }
        let channels: Vec<_> = recorder
            .spec
            .channels
            .iter()
            .map(|channel| {
                let works = !channel.source.url.contains("broken");
                count += 1;
                json!({
                    "namespace": channel.stream.namespace, "name": channel.stream.name, "role": "Primary",
                    "state": if works { "Recording" } else { "Backoff" },
                    "reason": if works { None } else { Some("Unauthorized") },
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
