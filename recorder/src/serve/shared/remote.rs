//! Asks another recorder.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tracing::{debug, info};

use super::wire::{Question, Refusal};
use crate::clock;
use crate::serve::footage::FootageError;

/// A search asks all others and answers within a second.
const CONNECT: Duration = Duration::from_millis(300);
const LISTS: Duration = Duration::from_millis(800);
/// Bytes of a file on a disk that is slow.
const FOOTAGE: Duration = Duration::from_secs(5);
/// One that did not answer is not asked for so long.
const LEFT_OUT_US: u64 = 2_000_000;
/// No answer is longer: the frames of a segment of 1 GiB at 128 kbit/s take less.
const ANSWER_AT_MOST: u64 = 64 << 20;

/// Another recorder's footage.
#[derive(Debug)]
pub(super) struct Remote {
    /// Name of its Recorder.
    pub(super) name: String,
    url: String,
    client: reqwest::Client,
    runtime: Handle,
    /// Until when it is left out, monotonic; 0: it is not.
    out_until_us: AtomicU64,
}

impl Remote {
    /// Whether it did not answer lately.
    pub(super) fn is_out(&self) -> bool {
        self.out_until_us.load(Ordering::Relaxed) > clock::monotonic_us()
    }

    #[cfg(test)]
    pub(super) fn url_for_tests(&self) -> String {
        self.url.clone()
    }

    /// Asks, and waits: on a thread that may.
    pub(super) fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, FootageError> {
        let bytes = self.runtime.block_on(self.bytes(question, LISTS))?;
        serde_json::from_slice(&bytes).map_err(|error| self.broken(&format!("its answer is not understood: {error}")))
    }

    /// Tells it something; nobody waits for it.
    pub(super) fn tell(self: &Arc<Self>, question: Question) {
        let remote = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(error) = remote.bytes(&question, LISTS).await {
                debug!(%error, "a recorder could not be told");
            }
        });
    }

    /// Asks for bytes, and waits: on a thread that may.
    pub(super) fn read(&self, question: &Question) -> Result<Bytes, FootageError> {
        self.runtime.block_on(self.bytes(question, FOOTAGE))
    }

    /// Asks all of them at once. Those that do not answer are left out of it, and for a while.
    pub(super) fn ask_all<T: DeserializeOwned + Send>(
        remotes: &[Arc<Self>],
        question: &Question,
    ) -> Vec<(Arc<Self>, T)> {
        let Some(first) = remotes.first() else { return Vec::new() };
        let ask = |remote: &Arc<Self>| {
            let remote = Arc::clone(remote);
            async move {
                if remote.is_out() {
                    return None;
                }
                let bytes = remote.bytes(question, LISTS).await.ok()?;
                let answer = serde_json::from_slice(&bytes).ok()?;
                Some((remote, answer))
            }
        };
        let all = futures::future::join_all(remotes.iter().map(ask));
        first.runtime.block_on(all).into_iter().flatten().collect()
    }

    async fn bytes(&self, question: &Question, limit: Duration) -> Result<Bytes, FootageError> {
        let asked = self.client.post(&self.url).json(question).timeout(limit).send().await;
        let answered = match asked {
            Ok(response) => {
                let status = response.status();
                if response.content_length().is_some_and(|length| length > ANSWER_AT_MOST) {
                    return Err(self.broken("its answer is too long"));
                }
                response.bytes().await.map(|bytes| (status, bytes))
            }
            Err(error) => Err(error),
        };
        let (status, bytes) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                let was_out = self.out_until_us.swap(clock::monotonic_us() + LEFT_OUT_US, Ordering::Relaxed) > 0;
                let error = error.without_url();
                if !was_out {
                    info!(recorder = self.name, %error, "a recorder does not answer for its footage; it is left out until it does");
                }
                return Err(self.broken(&format!("it does not answer: {error}")));
            }
        };
        if self.out_until_us.swap(0, Ordering::Relaxed) > 0 {
            info!(recorder = self.name, "a recorder answers for its footage again");
        }
        if status.is_success() {
            return Ok(bytes);
        }
        debug!(recorder = self.name, %status, "a recorder has no answer");
        Err(match serde_json::from_slice(&bytes) {
            Ok(Refusal::Gone) => FootageError::Gone,
            Ok(Refusal::Damaged(why)) => FootageError::Damaged(why),
            Ok(Refusal::Broken(why)) => self.broken(&why),
            Err(_) => self.broken(&format!("HTTP status {status}")),
        })
    }

    fn broken(&self, why: &str) -> FootageError {
        FootageError::Broken(format!("recorder {}: {why}", self.name))
    }
}

/// The others, as they are now.
#[derive(Debug, Default)]
pub struct Remotes(RwLock<Vec<Arc<Remote>>>);

impl Remotes {
    /// From now on it is these: name, and address of the HTTP server. What is known of those that stay is kept.
    pub fn set(&self, recorders: &[(String, String)], runtime: &Handle) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *current);
        for (name, address) in recorders {
            let url = format!("http://{address}/v1/peer");
            let known = before.iter().find(|remote| remote.name == *name && remote.url == url);
            let client = || {
                let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build();
                client.inspect_err(|error| tracing::warn!(%error, "other recorders cannot be asked")).ok()
            };
            let new = || {
                Some(Arc::new(Remote {
                    name: name.clone(),
                    url,
                    client: client()?,
                    runtime: runtime.clone(),
                    out_until_us: AtomicU64::new(0),
                }))
            };
            current.extend(known.cloned().or_else(new));
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Remote>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
