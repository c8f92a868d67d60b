//! Footage over HTTP: `coverage`, `clip.mp4` and `frame.jpg` of each stream that this recorder holds (`docs/http-api.md`).
//!
//! ```text
//! mod ── routes and limits        query, problem, range ── what HTTP says, checked
//!  ├─ coverage ── runs and gaps
//!  ├─ clip_http ── clip/ ── plan, layout and bytes of a virtual file ── stream ── a body
//!  └─ frame ── which picture ── decoder ── a child process that makes a JPEG of it
//! footage ── what all of them know of the store, and nothing more
//! shared ── footage of other recorders, as if it were here
//! ```
//! Whatever reads runs on the blocking pool. Nothing here writes.

mod again;
pub mod clip;
mod clip_http;
pub mod coverage;
mod decoder;
pub mod footage;
mod frame;
pub mod problem;
pub mod query;
pub mod range;
pub(crate) mod segment_frames;
mod shared;
pub mod stored;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use uuid::Uuid;

use decoder::Decoder;
pub use decoder::MemoryLeft;
use footage::{Footage, FootageError};
use problem::Problem;
use query::Query;
pub use shared::Remotes;
use shared::{Leases, Union};

/// What the routes share.
#[derive(Clone)]
pub struct ServeState {
    /// What is here, and what other recorders have of the same streams.
    footage: Arc<dyn Footage>,
    /// What is here.
    own: Arc<dyn Footage>,
    /// What other recorders hold of it.
    leases: Arc<Leases>,
    clips: Arc<Semaphore>,
    clips_at_most: usize,
    counters: Arc<Counters>,
    decoder: Arc<Decoder>,
}

/// What serving may use; recording must not feel it.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Clips sent at once. Each costs up to 1 MiB and some reading.
    pub clips: usize,
    /// Bytes kept of where segments' frames are.
    pub cache_bytes: usize,
}

/// What was refused because as many of a kind were being made.
#[derive(Debug, Default)]
struct Counters {
    refused_clips: AtomicU64,
    refused_stills: AtomicU64,
}

/// What is being made for clients now, and what was refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeNumbers {
    /// Clips being sent.
    pub clips: u64,
    /// Clips refused because as many as may be were being sent.
    pub refused_clips: u64,
    /// Pictures being made, or waiting for their turn.
    pub stills: u64,
    /// Pictures refused because as many as may waited, or too little memory was left.
    pub refused_stills: u64,
}

impl ServeState {
    /// Serves what a store holds, and what `remotes` have of the same streams. `program` is the recorder's own executable, whose `decode-still`
    /// command makes pictures.
    #[must_use]
    pub fn new(
        reader: framekeeper_store::Reader,
        remotes: Arc<Remotes>,
        program: PathBuf,
        limits: ServeLimits,
    ) -> Self {
        let own: Arc<dyn Footage> = Arc::new(stored::Stored::new(reader, limits.cache_bytes));
        Self { footage: Arc::new(Union::new(Arc::clone(&own), remotes)), ..Self::of(own, program, limits.clips) }
    }

    /// Serves any footage, up to so many clips at once.
    #[must_use]
    pub fn of(footage: Arc<dyn Footage>, program: PathBuf, clips: usize) -> Self {
        Self {
            own: Arc::clone(&footage),
            footage,
            leases: Arc::default(),
            clips: Arc::new(Semaphore::new(clips)),
            clips_at_most: clips,
            counters: Arc::default(),
            decoder: Arc::new(Decoder::new(program)),
        }
    }

    /// The same, with pictures made in the memory that `left` says is left.
    #[must_use]
    pub fn with_memory_left(self, left: MemoryLeft) -> Self {
        Self { decoder: Arc::new(self.decoder.with_memory_left(left)), ..self }
    }

    /// Bytes of what was read and is kept.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.footage.cache_bytes() as u64
    }

    /// For metrics.
    #[must_use]
    pub fn numbers(&self) -> ServeNumbers {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServeNumbers {
            clips: self.clips_at_most.saturating_sub(self.clips.available_permits()) as u64,
            refused_clips: load(&self.counters.refused_clips),
            stills: self.decoder.admitted() as u64,
            refused_stills: load(&self.counters.refused_stills),
        }
    }
}

/// The routes below `/v1`.
pub fn router(state: ServeState) -> Router {
    Router::new()
        .route("/v1/streams/{namespace}/{name}/coverage", get(coverage_of))
        .route("/v1/streams/{namespace}/{name}/clip.mp4", get(clip_http::clip))
        .route("/v1/streams/{namespace}/{name}/frame.jpg", get(frame::frame))
        .route("/v1/peer", post(shared::answer))
        .with_state(state)
}

async fn coverage_of(
    State(state): State<ServeState>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let range = Query::parse(query.as_deref(), &["from", "to"])?.optional_range()?;
    let footage = state.footage;
    let coverage = blocking(move || {
        let stream = find(footage.as_ref(), &namespace, &name)?;
        coverage::coverage(footage.as_ref(), stream, (&namespace, &name), range).map_err(internal)
    })
    .await?;
    Ok(Json(coverage).into_response())
}

fn find(footage: &dyn Footage, namespace: &str, name: &str) -> Result<Uuid, Problem> {
    footage.find(namespace, name).map_err(internal)?.ok_or_else(|| Problem::unknown_stream(namespace, name))
}

fn internal(error: FootageError) -> Problem {
    Problem::unreadable(error.to_string())
}

/// Runs what may wait for a disk where waiting hurts nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Problem::unreadable(format!("the task that reads was lost: {error}"))),
    }
}
