//! Connections: so many at once, none that says nothing for long, so that whoever floods the port takes nothing from recording. Beyond them are a few
//! places for probes: else who holds all connections would have the kubelet end a recorder that records.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::limits::{Guard, SPARE_CONNECTIONS};

/// A request's head must be here in this time, also the next one's of a connection that is kept.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The same of a connection beyond the limit: a probe says at once what it wants, and the places are few.
const SPARE_HEAD_TIME: Duration = Duration::from_secs(1);
/// A request's head beyond the limit, bytes: the least that hyper takes for a limit.
const SPARE_HEAD_BYTES: usize = 8 << 10;
/// So long may all of a connection beyond the limit take, whatever its client does with the answer.
const SPARE_TIME: Duration = Duration::from_secs(3);
/// How long nothing is accepted after the system refused a connection: out of descriptors, a busy loop would only make it worse.
const PAUSE: Duration = Duration::from_millis(100);
/// What a connection too many is told.
pub(super) const TOO_MANY: &str = "too many connections to this recorder are open\n";
/// When there may be fewer; a guess.
pub(super) const RETRY_AFTER_S: u32 = 2;

/// Serves until the runtime ends: `app`, and `spare` to one request of each connection beyond those that may be open.
pub(crate) async fn serve(listener: TcpListener, app: Router, spare: Router, guard: Arc<Guard>) {
    let places = Arc::new(Semaphore::new(guard.connections_at_most));
    let spare_places = Arc::new(Semaphore::new(SPARE_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            tokio::spawn(connection(stream, app.clone(), Arc::clone(&guard), place));
        } else if let Ok(place) = Arc::clone(&spare_places).try_acquire_owned() {
            tokio::spawn(spare_connection(stream, spare.clone(), Arc::clone(&guard), place));
        } else {
            guard.refused();
            refuse(&stream);
        }
    }
}

/// Serves a client until it goes.
async fn connection(stream: TcpStream, app: Router, guard: Arc<Guard>, place: OwnedSemaphorePermit) {
    guard.connected();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await {
        debug!(%error, "a connection ended");
    }
    guard.disconnected();
    drop(place);
}

/// Answers one request. Whoever makes none in time is told that there are too many connections.
async fn spare_connection(mut stream: TcpStream, app: Router, guard: Arc<Guard>, place: OwnedSemaphorePermit) {
    guard.connected();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SPARE_HEAD_TIME);
    builder.max_buf_size(SPARE_HEAD_BYTES).keep_alive(false);
    let served = builder.serve_connection(TokioIo::new(&mut stream), TowerToHyperService::new(app));
    let ended = tokio::time::timeout(SPARE_TIME, served).await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_timeout() => {
            guard.refused();
            refuse(&stream);
        }
        Ok(Err(error)) => debug!(%error, "a connection beyond the limit ended"),
        Err(_) => debug!("a connection beyond the limit took too long"),
    }
    guard.disconnected();
    drop(place);
}

/// Says why, as far as the socket takes it at once; the caller lets go of it.
fn refuse(stream: &TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n\
         {TOO_MANY}",
        TOO_MANY.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        debug!(%error, "a refused connection was not told so");
    }
}
