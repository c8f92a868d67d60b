//! `/metrics`, `/livez`, `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use tokio::net::TcpListener;

use super::lead::monotonic_us;
use super::metrics::Metrics;

/// Rounds end every second; one that takes longer than this hangs.
const HANGS_AFTER_US: u64 = 120_000_000;

/// Whether the process does its work.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// When a round ended last, by [`monotonic_us`]; 0: none has.
    last_round_us: Arc<AtomicU64>,
}

impl Health {
    /// A round ended.
    pub fn beat(&self) {
        self.last_round_us.store(monotonic_us(), Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.last_round_us.load(Ordering::Relaxed) > 0
    }

    fn is_alive(&self) -> bool {
        let last = self.last_round_us.load(Ordering::Relaxed);
        last == 0 || monotonic_us().saturating_sub(last) < HANGS_AFTER_US
    }
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health) -> std::io::Result<()> {
    let answer = |good: bool, why: &'static str| match good {
        true => (StatusCode::OK, "ok\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    };
    let (live, ready) = (health.clone(), health);
    let app = Router::new()
        .route("/livez", get(move || async move { answer(live.is_alive(), "no round has ended for 2 minutes\n") }))
        .route("/readyz", get(move || async move { answer(ready.is_ready(), "not all kinds have been listed yet\n") }))
        .route(
            "/metrics",
            get(move || async move {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.text())
            }),
        );
    axum::serve(listener, app).await
}
