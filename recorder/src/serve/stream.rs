//! Sends the bytes of a clip: made on the blocking pool, one step ahead of the client and no more.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::clip::file::ClipFile;
use super::footage::{Footage, FootageError, Lease};

/// The first step is small, so that the first byte does not wait for indexes that are needed later; then four times as much each,
/// up to what makes good use of a read.
const FIRST_STEP_BYTES: usize = 4 << 10;
const STEP_BYTES: usize = 256 << 10;

/// A client that takes nothing for so long gives its place to others.
const STALLED: Duration = Duration::from_secs(60);

/// A lease holds for up to a minute.
const RENEW_LEASE: Duration = Duration::from_secs(20);

/// The bytes `range` of a clip as a response body, which ends early, with the connection, when footage cannot be read any more.
pub(super) fn body(file: ClipFile, footage: Arc<dyn Footage>, range: Range<u64>, permit: OwnedSemaphorePermit) -> Body {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = send(file, &footage, range, &sender).await {
            tracing::warn!(%error, "a clip ends early");
            // Nobody listening is no error any more.
            let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
        }
    });
    Body::from_stream(futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Footage(#[from] FootageError),
    #[error("the client took nothing for {} s", STALLED.as_secs())]
    Stalled,
    #[error("the task that reads was lost: {0}")]
    Task(#[from] tokio::task::JoinError),
}

async fn send(
    mut file: ClipFile,
    footage: &Arc<dyn Footage>,
    range: Range<u64>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), SendError> {
    let mut position = range.start;
    let mut step = FIRST_STEP_BYTES;
    let mut lease: Option<(Box<dyn Lease>, Instant)> = None;
    while position < range.end {
        let limit = step.min(usize::try_from(range.end - position).unwrap_or(usize::MAX));
        let footage = Arc::clone(footage);
        let read = tokio::task::spawn_blocking(move || {
            if lease.as_ref().is_none_or(|(_, since)| since.elapsed() >= RENEW_LEASE) {
                lease = Some((footage.lease(&file.plan().segments), Instant::now()));
            }
            let mut chunk = Vec::with_capacity(limit);
            let result = file.read(position, limit, &mut chunk);
            (file, lease, chunk, result)
        });
        let (file_back, lease_back, chunk, result) = read.await?;
        (file, lease) = (file_back, lease_back);
        result?;
        if chunk.is_empty() {
            return Err(SendError::Footage(FootageError::Broken("a clip is shorter than was said".to_owned())));
        }
        position += chunk.len() as u64;
        match tokio::time::timeout(STALLED, sender.send(Ok(Bytes::from(chunk)))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(SendError::Stalled),
        }
        step = (step * 4).min(STEP_BYTES);
    }
    Ok(())
}
