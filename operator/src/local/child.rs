//! One recorder as a child process: started, started again when it ends, told to stop, and made to.
//!
//! A child is in a process group of its own, so that Ctrl-C in the terminal reaches the operator alone and recorders drain in
//! order; and the kernel tells it to stop when the operator is killed.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::backoff::Backoff;
use crate::decide::wanted::Key;

/// How long a recorder may take to stop before it is killed.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recorder.
    pub recorder: Key,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where its output goes, appended.
    pub log: PathBuf,
}

/// What happened to a child.
#[derive(Debug)]
pub enum Happening {
    /// It runs.
    Started {
        /// Its process ID.
        pid: u32,
    },
    /// It could not be started.
    NotStarted {
        /// Why.
        error: io::Error,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It ended without being told to.
    Ended {
        /// How.
        how: String,
        /// When it is started again.
        retry_in: Duration,
    },
    /// It was told to stop and did.
    Stopped,
    /// It was told to stop, did not, and was killed.
    Killed,
}

/// A child that is being looked after.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
}

impl Handle {
    /// Tells the child to stop. [`Happening::Stopped`] or [`Happening::Killed`] follows.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Starts a child and looks after it. Must be called on a thread that lives as long as the process, because the kernel counts
/// the end of the thread that made a child as the end of its parent; the main thread of a current-thread runtime is one.
pub fn start(plan: Plan, happenings: mpsc::UnboundedSender<(Key, Happening)>) -> Handle {
    let (stop, mut stopping) = watch::channel(false);
    tokio::spawn(async move {
        let key = plan.recorder.clone();
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let happening = match spawn(&plan) {
                Ok(mut child) => {
                    let pid = child.id();
                    tell(&happenings, &key, Happening::Started { pid: pid.unwrap_or(0) });
                    let ended = tokio::select! {
                        status = child.wait() => Some(status),
                        _ = stopping.wait_for(|stop| *stop) => None,
                    };
                    match ended {
                        None => {
                            let last = end(&mut child, pid).await;
                            tell(&happenings, &key, last);
                            return;
                        }
                        Some(status) => {
                            // What it left behind would keep its volumes locked.
                            signal_group(pid, Signal::KILL);
                            let how = status.map_or_else(|error| error.to_string(), describe);
                            Happening::Ended { how, retry_in: backoff.after(started.elapsed()) }
                        }
                    }
                }
                Err(error) => Happening::NotStarted { error, retry_in: backoff.after(started.elapsed()) },
            };
            let wait = match &happening {
                Happening::Ended { retry_in, .. } | Happening::NotStarted { retry_in, .. } => *retry_in,
                _ => Duration::ZERO,
            };
            tell(&happenings, &key, happening);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopping.wait_for(|stop| *stop) => {
                    tell(&happenings, &key, Happening::Stopped);
                    return;
                }
            }
        }
    });
    Handle { stop }
}

/// The receiver is gone only when the operator ends, and then nobody wants to know.
fn tell(happenings: &mpsc::UnboundedSender<(Key, Happening)>, key: &Key, happening: Happening) {
    let _ = happenings.send((key.clone(), happening));
}

async fn end(child: &mut Child, pid: Option<u32>) -> Happening {
    signal(pid, Signal::TERM);
    match tokio::time::timeout(DRAIN, child.wait()).await {
        Ok(_) => {
            signal_group(pid, Signal::KILL);
            Happening::Stopped
        }
        Err(_) => {
            signal_group(pid, Signal::KILL);
            // Killed processes end; that it can't be waited for would change nothing.
            let _ = child.wait().await;
            Happening::Killed
        }
    }
}

fn spawn(plan: &Plan) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&plan.log)?;
    let mut command = Command::new(&plan.program);
    command
        .args(&plan.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(false);
    let parent = rustix::process::getpid();
    #[expect(unsafe_code, reason = "the only way to set a signal for the parent's death in the child before it runs")]
    // SAFETY: between fork and exec only these two system calls are made; nothing allocates or locks.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // The operator may have died before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
    command.spawn()
}

fn pid(raw: Option<u32>) -> Option<Pid> {
    Pid::from_raw(i32::try_from(raw?).ok()?)
}

fn signal(raw: Option<u32>, signal: Signal) {
    if let Some(pid) = pid(raw) {
        // Only fails when the process is gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn signal_group(raw: Option<u32>, signal: Signal) {
    if let Some(pid) = pid(raw) {
        // Only fails when the group is gone already.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
