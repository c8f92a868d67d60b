//! HTTP: whether the recorder lives and is ready, what its channels do, metrics; and the footage (`serve`).
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200 while the process works: ticks end. Else 503 |
//! | `GET /readyz[?verbose]` | 200 while it can record: at least one volume. Else 503. `verbose`: the details as JSON |
//! | `GET /metrics` | OpenMetrics text; see `docs/metrics.md` |
//! | `GET /v1/channels` | what each channel does, as JSON |
//!
//! The first two are answered also where as many connections as may be are open (`server`).

mod channels;
pub(crate) mod server;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use framekeeper_crds::{RecorderPhase, VolumeState};
use framekeeper_store::{CatalogueProgress, CatalogueStage, Store};
use serde::Serialize;
use tracing::error;

use crate::clock;
use crate::limits::Guard;
use crate::metrics::{ProcessNumbers, Scrape, expose};
use crate::serve::ServeState;
use crate::serve::problem::Problem;
use crate::view::{View, VolumeNumbers};

/// What answers are made from.
#[derive(Clone)]
pub(crate) struct Sources {
    /// What is being served.
    pub(crate) serve: ServeState,
    /// What the recorder shows.
    pub(crate) view: Arc<View>,
    /// What is on disk.
    pub(crate) store: Arc<Store>,
    /// What may be used.
    pub(crate) guard: Arc<Guard>,
}

/// All of it.
pub(crate) fn router(sources: Sources) -> Router {
    let footage =
        crate::serve::router(sources.serve.clone()).layer(from_fn_with_state(Arc::clone(&sources.guard), shed));
    probes()
        .route("/metrics", get(metrics))
        .route("/v1/channels", get(channels::channels))
        .with_state(sources)
        .merge(footage)
}

/// What is answered on a connection beyond those that may be open: probes as ever, and nothing else.
pub(crate) fn spare_router(sources: Sources) -> Router {
    probes().fallback(too_many).method_not_allowed_fallback(too_many).with_state(sources)
}

/// What the kubelet asks.
fn probes() -> Router<Sources> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz))
}

async fn too_many(State(sources): State<Sources>) -> Response {
    sources.guard.refused();
    let retry_after = [(header::RETRY_AFTER, HeaderValue::from(server::RETRY_AFTER_S))];
    (StatusCode::SERVICE_UNAVAILABLE, retry_after, server::TOO_MANY).into_response()
}

/// When memory may be there again; a guess.
const RETRY_AFTER_S: u32 = 5;

/// Lets requests for footage through while memory suffices.
async fn shed(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if guard.may_play() {
        return next.run(request).await;
    }
    Problem::busy("memory runs short on this recorder, and recording comes first", RETRY_AFTER_S).into_response()
}

async fn livez(State(sources): State<Sources>) -> Response {
    if sources.view.is_ticking(clock::monotonic_us()) {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no tick has ended for 5 s\n").into_response()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    phase: RecorderPhase,
    ticking: bool,
    assignment_current: bool,
    volumes: Vec<VolumeReadiness>,
    channels: usize,
    recording: usize,
}

#[derive(Serialize)]
struct VolumeReadiness {
    name: String,
    state: VolumeState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Where not all of its footage can be found yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    catalogue: Option<CatalogueReadiness>,
}

/// How far a catalogue is. It keeps nobody from recording.
#[derive(Serialize)]
struct CatalogueReadiness {
    stage: &'static str,
    done: u64,
    of: u64,
}

impl CatalogueReadiness {
    fn of(numbers: &VolumeNumbers) -> Option<Self> {
        let CatalogueProgress { stage, done, of } = numbers.catalogue;
        (stage != CatalogueStage::Complete).then(|| Self { stage: stage.as_str(), done, of })
    }
}

async fn readyz(State(sources): State<Sources>, RawQuery(query): RawQuery) -> Response {
    let view = &sources.view;
    let volumes = view.volumes();
    let phase = view.phase();
    let ticking = view.is_ticking(clock::monotonic_us());
    let usable = volumes.iter().any(|volume| volume.state == VolumeState::Ready);
    let ready = phase == RecorderPhase::Ready && ticking && usable;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    if !verbose {
        return (status, if ready { "ok\n" } else { "not ready; ask with ?verbose for why\n" }).into_response();
    }
    let channels = view.channels();
    let recording = channels
        .iter()
        .filter(|entry| entry.stats.condition().state == framekeeper_crds::ChannelState::Recording)
        .count();
    let volumes = volumes
        .into_iter()
        .map(|volume| {
            let (reason, message) = volume.reason.unzip();
            let catalogue = volume.numbers.as_ref().and_then(CatalogueReadiness::of);
            VolumeReadiness { name: volume.name, state: volume.state, reason, message, catalogue }
        })
        .collect();
    let assignment_current = !view.assignment_is_stale();
    let channels = channels.len();
    (status, Json(Readiness { ready, phase, ticking, assignment_current, volumes, channels, recording }))
        .into_response()
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let scrape = Scrape {
        channels: channels::views(&sources),
        refused_channels: sources.view.refusals().len() as u64,
        volumes: sources.view.volumes(),
        ticks: sources.view.ticks(),
        process: ProcessNumbers::now(),
        limits: sources.guard.numbers(),
        serve: sources.serve.numbers(),
        reader_cache_bytes: sources.serve.cache_bytes(),
        frames_bytes: sources.store.frames_bytes(),
        peers: sources.view.peers(),
        restarts: sources.view.restarts,
    };
    match expose(scrape) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
