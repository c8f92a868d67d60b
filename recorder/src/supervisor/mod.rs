//! Process 1 of a recorder's pod: starts the worker, and starts it again at once when it dies.
//!
//! A kubelet waits 10 s and more before it restarts a container; a camera's frames do not. The supervisor is the same
//! program without the work: it holds no volume, no socket and no thread but its own, so it has nothing to crash on. It
//! passes signals on, reaps whatever process 1 inherits, and ends with the worker's exit status where a restart would not
//! help ([`Exit::is_misconfiguration`]). The worker asks the kernel to be killed when its supervisor dies, so there is never a
//! recorder that nobody watches.

mod restart;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, wait};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::exit::Exit;
use restart::Restarts;

/// Tells the worker that it is one, and the supervisor's process id.
pub(crate) const SUPERVISOR_PID_VAR: &str = "FRAMEKEEPER_SUPERVISOR_PID";
/// How often the worker has been restarted.
pub(crate) const RESTARTS_VAR: &str = "FRAMEKEEPER_RESTARTS";
/// A worker that has not ended this long after it was asked to is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Whether this process is a supervised worker.
#[must_use]
pub fn is_worker() -> bool {
    std::env::var_os(SUPERVISOR_PID_VAR).is_some()
}

/// How often the supervisor has restarted this worker.
#[must_use]
pub fn restarts() -> u64 {
    std::env::var(RESTARTS_VAR).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Ties a worker's life to its supervisor's. Gives `false` when the supervisor is dead already.
pub fn follow_supervisor() -> bool {
    let Some(supervisor) = std::env::var(SUPERVISOR_PID_VAR).ok().and_then(|text| text.parse::<i32>().ok()) else {
        return true;
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        warn!(%error, "the kernel will not end this recorder when its supervisor dies");
    }
    // It may have died before the line above took effect.
    rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == supervisor)
}

/// Runs the worker, with this process's own arguments, until it ends for good. Gives the exit status to end with.
///
/// # Errors
/// When the system does not give this process what a supervisor needs: signal handlers, or a worker at all.
pub fn run(arguments: &[OsString]) -> std::io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(arguments))
}

async fn supervise(arguments: &[OsString]) -> std::io::Result<u8> {
    let mut child_ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut restarts = Restarts::default();
    loop {
        let mut worker = Worker::start(arguments, restarts.count())?;
        let mut stop_by: Option<tokio::time::Instant> = None;
        let status = loop {
            if let Some(status) = worker.reap() {
                break status;
            }
            tokio::select! {
                _ = child_ended.recv() => {}
                _ = terminate.recv() => { worker.signal(Signal::TERM); stop_by.get_or_insert(tokio::time::Instant::now() + STOP_LIMIT); }
                _ = interrupt.recv() => { worker.signal(Signal::TERM); stop_by.get_or_insert(tokio::time::Instant::now() + STOP_LIMIT); }
                () = until(stop_by) => {
                    error!("the recorder did not stop within {} s and is killed; what it wrote last is found again at the next start", STOP_LIMIT.as_secs());
                    worker.signal(Signal::KILL);
                    stop_by = None;
                }
            }
        };
        let stopping = stop_by.is_some();
        if let Some(code) = status.code()
            && (stopping || code == 0 || Exit::is_misconfiguration(code))
        {
            return Ok(u8::try_from(code).unwrap_or(Exit::Internal.code()));
        }
        if stopping || worker.killed {
            // Asked before it could listen: there was nothing to end in order.
            let unprepared = !worker.killed && status.signal() == Some(Signal::TERM.as_raw());
            return Ok(if unprepared { Exit::Ok } else { Exit::Internal }.code());
        }
        let delay = restarts.next(worker.started.elapsed());
        warn!(how = %Ending(status), after_s = worker.started.elapsed().as_secs_f32(), restarts = restarts.count(), delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "the recorder ended and is restarted");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = terminate.recv() => return Ok(Exit::Ok.code()),
            _ = interrupt.recv() => return Ok(Exit::Ok.code()),
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Worker {
    pid: Pid,
    started: Instant,
    killed: bool,
}

impl Worker {
    fn start(arguments: &[OsString], restarts: u64) -> std::io::Result<Self> {
        // Not by name: the file may have been replaced by an upgrade, and the worker is to be this very program.
        let child = Command::new("/proc/self/exe")
            .args(arguments)
            .env(SUPERVISOR_PID_VAR, std::process::id().to_string())
            .env(RESTARTS_VAR, restarts.to_string())
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| {
            std::io::Error::other(format!("the system gave the impossible process id {}", child.id()))
        })?;
        info!(pid = pid.as_raw_nonzero().get(), "started the recorder");
        Ok(Self { pid, started: Instant::now(), killed: false })
    }

    fn signal(&mut self, signal: Signal) {
        self.killed |= signal == Signal::KILL;
        if let Err(error) = kill_process(self.pid, signal) {
            warn!(%error, "could not signal the recorder");
        }
    }

    /// Takes leave of all children that have ended; the worker's status, if it is among them.
    fn reap(&self) -> Option<ExitStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                ended = Some(ExitStatus::from_raw(status.as_raw()));
            }
        }
        ended
    }
}

struct Ending(ExitStatus);

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "killed by signal {signal}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}
