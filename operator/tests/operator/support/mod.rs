//! An operator on a folder of its own, with recorders that only pretend.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use framekeeper_crds::k8s_openapi::api::events::v1::Event;
use framekeeper_crds::{CameraStream, Recorder, StreamPhase, yaml};
use rustix::process::{Pid, Signal};

/// The recorder that pretends: see its source.
const PRETENDER: &str = env!("CARGO_BIN_EXE_pretend-recorder");

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
        command.arg("--recorder-bin").arg(PRETENDER).args(["--log-format", "json"]).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Runs the operator where it must fail: exit code and what it says.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command().args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn with_recorder(&self) -> [String; 2] {
        ["--recorder-bin".into(), PRETENDER.into()]
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
        yaml::read(&fs::read_to_string(path).ok()?).ok()
    }

    pub(crate) fn phase(&self, name: &str) -> Option<StreamPhase> {
        self.stream(name)?.status?.phase
    }

    pub(crate) fn assignment(&self, recorder: u32) -> Option<Recorder> {
        yaml::read_recorder(&fs::read_to_string(self.run(recorder, "assignment.yaml")).ok()?).ok()
    }

    /// The events of a stream, the oldest first: (reason, note).
    pub(crate) fn events(&self, stream: &str) -> Vec<(String, String)> {
        let path = self.data(&format!("status/events/camerastreams/default/{stream}.yaml"));
        let events: Vec<Event> = yaml::read_all(&fs::read_to_string(path).unwrap_or_default()).unwrap();
        events.into_iter().map(|event| (event.reason.unwrap(), event.note.unwrap())).collect()
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
