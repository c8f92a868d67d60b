//! The recorder's side of the API server: its one `Recorder` and its Secret come in as files, its status goes out from one, its Lease is renewed.
//!
//! ```text
//! API server ── watch ──► assignment.yaml, secrets/…   ──► the worker, as without a cluster
//!            ◄─ patch ── status.yaml                   ◄──
//!            ◄─ renew ── Lease, every 10 s, while ticks end
//! ```
//! A thread of its own: an API server that hangs, or lies, is in nobody's way. The files are in memory and outlive the process, but not the pod; what is
//! on the volumes outlives that.

mod files;
mod link;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::view::View;

pub(crate) use files::Files;

/// An API server that has not answered within this time is not waited for: there may be copies on the volumes.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Time for the last status to go out.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Which object this recorder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its namespace.
    pub namespace: String,
    /// Its name: of the Recorder, and of the Lease.
    pub name: String,
}

impl std::str::FromStr for Own {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("must be NAMESPACE/NAME of a Recorder".to_owned()),
        }
    }
}

/// Where what goes.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The Recorder.
    pub own: Own,
    /// Where the Secret is mounted, for when the API server does not answer.
    pub mounted_secrets: Option<PathBuf>,
}

/// The running link.
#[derive(Debug)]
pub(crate) struct Cluster {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    first: Receiver<()>,
    view: watch::Sender<Option<Arc<View>>>,
}

impl Cluster {
    /// Begins to talk to the API server.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(options: &ClusterOptions, files: Files) -> std::io::Result<Self> {
        if let Some(mounted) = &options.mounted_secrets
            && let Err(error) = files.take_mounted(&options.own.namespace, mounted)
        {
            warn!(%error, "the mounted credentials can't be used; those of the API server will be");
        }
        let (stop, stopping) = watch::channel(false);
        let (view, viewed) = watch::channel(None);
        let (first_to, first) = channel();
        let own = options.own.clone();
        let thread = std::thread::Builder::new().name("cluster".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(link::run(own, files, viewed, stopping, first_to)),
                Err(error) => error!(%error, "there is no runtime for the API server"),
            }
        })?;
        Ok(Self { thread: Some(thread), stop, first, view })
    }

    /// Whether ticks end is to be seen there: without that no Lease is renewed.
    pub(crate) fn watch(&self, view: &Arc<View>) {
        self.view.send_replace(Some(Arc::clone(view)));
    }

    /// Whether its thread lives. Before this is dropped it ends only by a panic, or where there was no runtime for it.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for the first answer of the API server, for a moment.
    pub(crate) fn wait_for_answer(&self) {
        let until = Instant::now() + FIRST_ANSWER;
        match self.first.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                info!("the API server has not answered within {FIRST_ANSWER:?}");
            }
        }
    }
}

impl Drop for Cluster {
    /// The last status goes out, if that can be.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let until = Instant::now() + LAST_WORD;
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if thread.is_finished() {
            // It has told its own errors.
            let _ = thread.join();
        }
    }
}
