//! A recorder process in a folder of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest that anything may take here: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const RECORDER_UID: &str = "10000000-0000-4000-8000-000000000900";
pub(crate) const VOLUME_UUID: &str = "10000000-0000-4000-8000-000000000800";

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    generation: i64,
}

pub(crate) struct Process {
    pub(crate) child: Child,
    status: PathBuf,
    log: PathBuf,
}

impl Bench {
    /// With an empty folder for the volume `footage`.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("volumes/footage")).expect("a folder");
        Self { folder, generation: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.path("volumes/footage")
    }

    /// Replaces the assignment.
    pub(crate) fn assign(&mut self, channels: &[Value]) {
        self.generation += 1;
        let object = json!({
            "apiVersion": "framekeeper.dev/v1alpha1", "kind": "Recorder",
            "metadata": {
                "namespace": "default", "name": "main-recorder-0", "uid": RECORDER_UID, "generation": self.generation,
            },
            "spec": {
                "pool": "main", "ordinal": 0, "term": 1, "slots": {"normal": 10, "reserved": 0},
                "segment": {"bytes": 4 << 20, "partMs": 500, "syncMs": 500},
                "volumes": [{"name": "footage", "uuid": VOLUME_UUID, "budgetBytes": 16 << 20}],
                "channels": channels,
            },
        });
        // JSON is YAML.
        self.put("assignment.yaml", &object.to_string());
    }

    /// Replaces a file by rename.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(self.path("new"), text).expect("a file");
        std::fs::rename(self.path("new"), path).expect("a rename");
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framekeeper-recorder"));
        command.arg("run").arg("--assignment").arg(self.path("assignment.yaml"));
        command.arg("--volumes").arg(self.path("volumes")).arg("--secrets").arg(self.path("secrets"));
        command.arg("--status").arg(self.path("status.yaml")).args(["--log-format", "json"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts a recorder on a free port.
    pub(crate) fn start(&self, more: &[&str]) -> Process {
        self.spawn(self.command(&["--listen", "127.0.0.1:0"]).args(more))
    }

    /// The same, with no more descriptors than so many.
    pub(crate) fn start_with_descriptors(&self, most: u32) -> Process {
        let recorder = self.command(&["--listen", "127.0.0.1:0"]);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"]);
        command.arg(recorder.get_program()).args(recorder.get_args());
        self.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    fn spawn(&self, command: &mut Command) -> Process {
        // What an earlier process said is not to be taken for what this one says.
        let _ = std::fs::remove_file(self.path("status.yaml"));
        let log = self.path("log");
        let to = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let child = command.stderr(to).spawn().expect("the recorder starts");
        Process { child, status: self.path("status.yaml"), log }
    }
}

impl Process {
    /// Waits for a status that `wanted` accepts.
    pub(crate) fn status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(|| {
            let text = std::fs::read_to_string(&self.status).unwrap_or_default();
            last = framekeeper_crds::yaml::read(&text).unwrap_or(Value::Null);
            (last["status"]["phase"] != Value::Null && wanted(&last["status"])).then_some(())
        })
        .unwrap_or_else(|| panic!("no status with {what}: {last:#}\n{}", self.log()));
        last["status"].clone()
    }

    /// Waits until it is ready, in its `restarts`-th restart.
    pub(crate) fn ready(&self, restarts: u64) -> Value {
        self.status("readiness", |status| status["phase"] == "Ready" && status["instance"]["restarts"] == restarts)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// The process that records.
    pub(crate) fn worker(&self) -> i32 {
        let pid = self.pid();
        until(|| {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
        .expect("a worker")
    }

    pub(crate) fn signal(&self, pid: i32, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = until(|| self.child.try_wait().expect("a child"));
        status.unwrap_or_else(|| panic!("the recorder does not end\n{}", self.log()))
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal(self.pid(), rustix::process::Signal::TERM);
        (self.wait(), asked.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its worker goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GET; gives status and body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Looks until there is something, at most [`LIMIT`].
pub(crate) fn until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie that nobody reaps is as dead as can be.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn channel(number: u32, url: &str) -> Value {
    json!({
        "stream": {
            "namespace": "default", "name": format!("cam-{number}"),
            "uid": format!("10000000-0000-4000-8000-{number:012}"),
        },
        "role": "Primary", "epoch": 1, "planVersion": {"term": 1, "sequence": 1},
        "source": {"url": url}, "audio": true,
    })
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
