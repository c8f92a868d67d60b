//! An operator's process: it watches, takes part in the election, and does a round whenever something changed.

use std::time::Duration;

use kube::Client;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::info;

use super::gather;
use super::http::{self, Health};
use super::lead::Elector;
use super::metrics::Metrics;
use super::options::Options;
use super::plane::{LOOK, Plane};
use super::watching::Watches;

/// What comes together is looked at together: two thousand streams that are applied at once are not two thousand decisions.
const GATHER: Duration = Duration::from_millis(50);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't begin: no API server is configured, or the address to listen on is taken.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = Client::try_default().await?;
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", options.listen))?;
    let (metrics, health) = (Metrics::default(), Health::default());
    let server = tokio::spawn(http::serve(listener, metrics.clone(), health.clone()));

    let changed = Arc::new(Notify::new());
    let watches = Watches::start(&client, &options.watch_namespaces, &changed);
    tokio::select! {
        () = watches.ready() => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    info!(identity = options.identity, "all kinds are listed");

    let (stop_to, stop) = watch::channel(false);
    let (elector, mut leadership) = Elector::new(client.clone(), &options);
    let recorders = watches.recorders.all();
    let known = recorders.iter().filter_map(|guard| guard.ok().map(AsRef::as_ref));
    leadership.highest_seen.fetch_max(gather::highest_term(known), Ordering::Relaxed);
    let election = tokio::spawn(elector.run(stop));

    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut plane = Plane::new(options, client, watches, leadership.clone(), metrics, http);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = changed.notified() => {
                sleep(GATHER).await;
                plane.stir();
            }
            () = leadership.changed() => plane.stir(),
            _ = look.tick() => {}
            // Something is to be decided, and not at once after what was decided before.
            () = sleep_until(plane.decides_at().map_or_else(Instant::now, Instant::from_std)), if plane.decides_at().is_some() => {}
        }
        plane.round().await;
        health.beat();
    }
    info!("stopping");
    // Nothing is being written any more: the Lease can be another one's at once.
    stop_to.send_replace(true);
    election.await?;
    server.abort();
    Ok(())
}
