//! Starts and stops the programs under test, as a user would: by their command lines.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where the built programs lie: `FRAMEKEEPER_BIN`, else beside this program (`target/<profile>`).
///
/// # Errors
/// When neither holds the program.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("FRAMEKEEPER_BIN").map(PathBuf::from).into_iter().collect();
    if let Ok(own) = std::env::current_exe() {
        folders.extend(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not in {folders:?}; build it first: make build"))
}

/// Whether the full counts of the issues are asked for (`make soak`), or the small ones (`make test`).
#[must_use]
pub fn soak() -> bool {
    std::env::var_os("FRAMEKEEPER_SOAK").is_some()
}

/// `small` in `make test`, `full` in `make soak`.
#[must_use]
pub fn count(small: usize, full: usize) -> usize {
    if soak() { full } else { small }
}

/// A child process that is ended, and waited for, when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// What it is called in messages.
    pub name: String,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Running {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log can't be made or the program can't be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_path_buf() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, then waits; SIGKILL when that takes longer than `patience`.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        signal(self.pid(), rustix::process::Signal::TERM);
        match self.wait(patience)? {
            Some(status) => Ok(status),
            None => {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end within {patience:?} of SIGTERM; its log is {}", self.name, self.log.display())
            }
        }
    }

    /// Waits for its end for at most `patience`.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        poll(patience, Duration::from_millis(20), || Ok(self.child.try_wait()?))
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.alive() {
            signal(self.pid(), rustix::process::Signal::TERM);
            if !matches!(self.wait(Duration::from_secs(12)), Ok(Some(_))) {
                let _killed = self.child.kill();
            }
        }
        let _reaped = self.child.wait();
    }
}

/// Sends a signal to a process this harness started.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// Gives a process what it needs before all others: one that stands for a device of its own, which no load of this machine slows down.
/// Needs root.
///
/// # Errors
/// When that is not allowed.
pub fn prefer(pid: u32) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.file_name();
        let thread = thread.to_str().and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
        // Of Linux's threads, each has a priority of its own.
        let thread = thread.context("a thread without a number")?;
        rustix::process::setpriority_process(Some(thread), -20).with_context(|| format!("prefer process {pid}"))?;
    }
    Ok(())
}

/// Asks `look` each `interval` until it answers or `patience` is over.
///
/// # Errors
/// The first error of `look`.
pub fn poll<T>(
    patience: Duration,
    interval: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(interval);
    }
}

/// Ports that are given out: below those that the kernel takes for connections, or one of these might be gone before it is used.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A TCP port of loopback that nobody listens on now.
///
/// # Errors
/// When none can be had.
pub fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The first of `count` TCP ports of loopback in a row that nobody listens on now. No two calls of a process are given the same.
///
/// # Errors
/// When none can be had.
pub fn free_ports(count: u16) -> Result<u16> {
    static GIVEN: Mutex<Option<u16>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Programs that run beside each other begin at different places.
    let begin = PORTS.start + (std::process::id() % 1_000) as u16 * 20;
    let mut next = given.unwrap_or(begin);
    for _ in PORTS {
        if PORTS.end - next < count {
            next = PORTS.start;
        }
        let ports = next..next + count;
        next = ports.end;
        if ports.clone().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            *given = Some(next);
            return Ok(ports.start);
        }
    }
    bail!("no {count} free ports in a row")
}

/// What an HTTP server answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// One HTTP/1.1 request with `Connection: close`, by hand, so that no client hides what the server does.
///
/// # Errors
/// When the server can't be reached or breaks off.
pub fn http(method: &str, address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    request(method, address, path, headers, body, false)
}

fn request(
    method: &str,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    may_break: bool,
) -> Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not HTTP: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse::<usize>().ok());
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value.contains("chunked"));
    let mut body = Vec::new();
    if method == "HEAD" {
    } else if chunked {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).with_context(|| format!("not a chunk size: {line:?}"))?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            chunk.truncate(size);
            body.append(&mut chunk);
        }
    } else {
        let read = reader.read_to_end(&mut body);
        if !may_break {
            read?;
        }
        if let Some(length) = length.filter(|&length| length != body.len() && !may_break) {
            bail!("{path}: {} bytes instead of the {length} announced", body.len());
        }
    }
    Ok(Answer { status, headers, body })
}

/// GET; a body that breaks off is given as far as it came.
///
/// # Errors
/// When the server can't be reached.
pub fn get_as_far_as(address: SocketAddr, path: &str) -> Result<Answer> {
    request("GET", address, path, &[], &[], true)
}

/// GET.
///
/// # Errors
/// As [`http`].
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    http("GET", address, path, &[], &[])
}

/// The ledger cameras, as a process.
#[derive(Debug)]
pub struct Cameras {
    /// The process.
    pub process: Running,
    /// RTSP.
    pub rtsp: SocketAddr,
    /// Control: faults, newest frames.
    pub control: SocketAddr,
    /// The ledgers' folder.
    pub ledgers: PathBuf,
}

impl Cameras {
    /// Starts cameras by their specs, ledgers under `folder`; returns when they listen.
    ///
    /// # Errors
    /// When they don't start within a minute.
    pub fn start(folder: &Path, rtsp_port: u16, specs: &[String]) -> Result<Self> {
        let ledgers = folder.join("ledgers");
        fs::create_dir_all(&ledgers)?;
        let log = folder.join("cameras.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new(program("ledger-camera")?)
            .args(["--listen", &format!("127.0.0.1:{rtsp_port}"), "--control", "127.0.0.1:0", "--log-dir"])
            .arg(&ledgers)
            .args(specs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(output)
            .spawn()
            .context("cannot start ledger-camera")?;
        let stdout = child.stdout.take().context("no output of ledger-camera")?;
        let process = Running { child, name: "ledger-camera".to_owned(), log };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("ledger-camera said {line:?}: {}", process.log_tail()))?;
        let address = |key: &str| -> Result<SocketAddr> {
            let text = ready.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {line}"))?;
            Ok(text.parse()?)
        };
        Ok(Self { rtsp: address("rtsp")?, control: address("control")?, process, ledgers })
    }

    /// The URL of a camera.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("rtsp://{}/{name}", self.rtsp)
    }

    /// Switches a fault of a camera.
    ///
    /// # Errors
    /// When the camera refuses it.
    pub fn fault(&self, name: &str, fault: &Value) -> Result<()> {
        let body = serde_json::to_vec(fault)?;
        let answer = http(
            "POST",
            self.control,
            &format!("/cameras/{name}/fault"),
            &[("Content-Type", "application/json")],
            &body,
        )?;
        if answer.status / 100 != 2 {
            bail!("fault {fault} of {name}: {} {}", answer.status, answer.text());
        }
        Ok(())
    }
}
