//! Footage over HTTP: `coverage`, `clip.mp4` and `frame.jpg` of each stream that this recorder holds (`docs/http-api.md`).
//!
//! ```text
//! mod ── routes and limits        query, problem, range ── what HTTP says, checked
//!  ├─ coverage ── runs and gaps
//!  ├─ clip_http ── clip/ ── plan, layout and bytes of a virtual file ── stream ── a body
//!  └─ frame ── which picture ── decoder ── a child process that makes a JPEG of it
//! footage ── what all of them know of the store, and nothing more
//! ```
//! Whatever reads runs on the blocking pool. Nothing here writes.

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
pub mod stored;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use uuid::Uuid;

use decoder::Decoder;
use footage::{Footage, FootageError};
use problem::Problem;
use query::Query;

/// Clips sent at the same time. Each costs up to 1 MiB and some reading; recording must not feel it.
const MAX_CLIPS: usize = 64;

/// What the routes share.
#[derive(Clone)]
pub struct ServeState {
    footage: Arc<dyn Footage>,
    clips: Arc<Semaphore>,
    decoder: Arc<Decoder>,
}

impl ServeState {
    /// Serves what a store holds. `program` is the recorder's own executable, whose `decode-still` command makes pictures.
    #[must_use]
    pub fn new(reader: framekeeper_store::Reader, program: PathBuf) -> Self {
        Self::of(Arc::new(stored::Stored::new(reader)), program)
    }

    /// Serves any footage.
    #[must_use]
    pub fn of(footage: Arc<dyn Footage>, program: PathBuf) -> Self {
        Self { footage, clips: Arc::new(Semaphore::new(MAX_CLIPS)), decoder: Arc::new(Decoder::new(program)) }
    }
}

/// The routes below `/v1`.
pub fn router(state: ServeState) -> Router {
    Router::new()
        .route("/v1/streams/{namespace}/{name}/coverage", get(coverage_of))
        .route("/v1/streams/{namespace}/{name}/clip.mp4", get(clip_http::clip))
        .route("/v1/streams/{namespace}/{name}/frame.jpg", get(frame::frame))
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
