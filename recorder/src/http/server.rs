//! Connections: so many at once, none that says nothing for long, so that whoever floods the port takes nothing from recording.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::limits::Guard;

/// A request's head must be here in this time, also the next one's of a connection that is kept.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long nothing is accepted after the system refused a connection: out of descriptors, a busy loop would only make it worse.
const PAUSE: Duration = Duration::from_millis(100);
/// The answer to a connection too many.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 47\r\n\r\n\
    too many connections to this recorder are open\n";

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, app: Router, guard: Arc<Guard>) {
    let permits = Arc::new(Semaphore::new(guard.connections_at_most));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            guard.refused();
            refuse(&stream);
            continue;
        };
        let (app, guard) = (app.clone(), Arc::clone(&guard));
        guard.connected();
        tokio::spawn(async move {
            let service = TowerToHyperService::new(app);
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(%error, "a connection ended");
            }
            guard.disconnected();
            drop(permit);
        });
    }
}

/// Says why, as far as the socket takes it at once; the caller lets go of it.
fn refuse(stream: &TcpStream) {
    if let Err(error) = stream.try_write(BUSY) {
        debug!(%error, "a refused connection was not told so");
    }
}
