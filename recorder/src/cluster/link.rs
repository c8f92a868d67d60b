//! The requests themselves.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use framekeeper_crds::k8s_openapi::api::core::v1::Secret;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{API_VERSION, Recorder, RecorderPhase, RecorderStatus};
use futures::StreamExt as _;
use hyper::header::{ACCEPT, HeaderValue};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::core::{NamespaceResourceScope, Request};
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::{Files, Own};
use crate::clock;
use crate::view::View;

/// Field manager of what the recorder writes.
const MANAGER: &str = "framekeeper-recorder";
/// The answer to a write without what was sent.
const ONLY_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// How often the Lease is renewed; it expires after four times as long.
const RENEW: Duration = Duration::from_secs(10);
/// How often is looked whether there is something to say.
const LOOK: Duration = Duration::from_millis(100);
/// Two statuses are so far apart at least: what changes in between goes out together.
const PACE: Duration = Duration::from_secs(1);
/// As many times as long as the API server took for one are they apart, where that is more: it has much to do then, and each status is of a large object.
const RESTS: u32 = 8;
/// But never further.
const PACE_AT_MOST: Duration = Duration::from_secs(5);
/// A request that takes longer is tried again.
const REQUEST: Duration = Duration::from_secs(5);
/// A watch that fails is begun anew after so long: one recorder is no load, and after an outage changes wait for it.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// The API server ends each watch after so long, and it is gone on with at once. One that is silent for 5 s more is given up: nothing else tells of an API server
/// that went without a word, and without this the watch is believed for nearly five minutes.
const WATCH_SECONDS: u32 = 60;

/// Talks to the API server until it is told to stop. Says once when that has answered, or refused.
pub(super) async fn run(
    own: Own,
    files: Files,
    view: watch::Receiver<Option<Arc<View>>>,
    mut stopping: watch::Receiver<bool>,
    first: Sender<()>,
) {
    let Some(client) = connect(&mut stopping).await else { return };
    let (seen_to, seen) = watch::channel(None);
    let recorder = {
        let (files, first) = (files.clone(), first);
        follow::<Recorder>(&client, &own.namespace, &own.name, move |object| {
            seen_to.send_replace(object.status.clone());
            if let Err(error) = files.assign(object) {
                warn!(%error, "the assignment can't be kept");
            }
            // Nobody waits any more after the first time.
            let _ = first.send(());
        })
    };
    let cameras = format!("{}-cameras", own.name);
    let secret = {
        let (files, namespace) = (files.clone(), own.namespace.clone());
        follow::<Secret>(&client, &own.namespace, &cameras, move |object| {
            let data = object.data.clone().unwrap_or_default();
            if let Err(error) = files.unpack(&namespace, &data) {
                warn!(%error, "credentials can't be kept");
            }
        })
    };
    tokio::select! {
        () = recorder => {}
        () = secret => {}
        () = renew(&client, &own, view) => {}
        () = tell(&client, &own, &files, seen, stopping) => {}
    }
}

/// A client; what it needs may not be mounted yet.
async fn connect(stopping: &mut watch::Receiver<bool>) -> Option<Client> {
    let mut said = false;
    loop {
        let client = Config::infer().await.map_err(|error| error.to_string()).and_then(|mut config| {
            config.connect_timeout = Some(REQUEST);
            Client::try_from(config).map_err(|error| error.to_string())
        });
        match client {
            Ok(client) => return Some(client),
            Err(error) if !said => warn!("there is no way to the API server: {error}"),
            Err(_) => {}
        }
        said = true;
        tokio::select! {
            () = sleep(WATCH_AGAIN) => {}
            _ = stopping.wait_for(|stop| *stop) => return None,
        }
    }
}

/// Always the same pause.
struct Same;

impl Backoff for Same {
    fn reset(&mut self) {}
}

impl Iterator for Same {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_AGAIN)
    }
}

/// Follows one object for ever.
async fn follow<K>(client: &Client, namespace: &str, name: &str, take: impl Fn(&K))
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(StreamBackoff::new(watcher(api, config), Same));
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                if std::mem::take(&mut failing) {
                    info!(kind = %K::kind(&()), "the API server answers again");
                }
                take(&object);
            }
            // A recorder goes on without its object: whoever deletes that ends the pod too.
            Ok(_) => {}
            Err(error) if !failing => {
                failing = true;
                warn!(kind = %K::kind(&()), "the API server does not answer, and recording goes on as it was told last: {error}");
            }
            Err(error) => debug!("{error}"),
        }
    }
}

/// Renews the Lease, as long as ticks end.
async fn renew(client: &Client, own: &Own, view: watch::Receiver<Option<Arc<View>>>) {
    let api = Api::<Lease>::namespaced(client.clone(), &own.namespace);
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(view) = view.borrow().clone() else {
            // Still opening its volumes.
            ticks.reset_after(LOOK);
            continue;
        };
        if !view.is_ticking(clock::monotonic_us()) {
            // It begins in a moment, or hangs. One that fails before its first renewal passes for one that never ran.
            ticks.reset_after(LOOK);
            continue;
        }
        let lease = json!({ "spec": {
            "holderIdentity": view.instance.to_string(),
            "renewTime": format!("{:.6}", Timestamp::now()),
        } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&lease));
        let renewal = api.patch(&own.name, &params, &patch);
        match timeout(REQUEST, renewal).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                debug!("the Lease was not renewed: {error}");
                ticks.reset_after(PACE);
            }
            Err(_) => debug!("the Lease was not renewed: no answer"),
        }
    }
}

/// Whether what stands there is not what was said last: an operator that heard nothing of it for a while calls everything unknown, and an API server that was
/// restored from an older state knows nothing of the assignment that is in effect.
fn is_to_be_said_again(there: Option<&RecorderStatus>, said: Option<&RecorderStatus>) -> bool {
    let Some(said) = said else { return false };
    let version = |status: &RecorderStatus| (status.observed_term, status.observed_generation);
    there.is_none_or(|there| there.phase == Some(RecorderPhase::Unknown) || version(there) != version(said))
}

/// Sends the status whenever it is another one, and a last time at the end.
async fn tell(
    client: &Client,
    own: &Own,
    files: &Files,
    mut there: watch::Receiver<Option<RecorderStatus>>,
    mut stopping: watch::Receiver<bool>,
) {
    let path = Recorder::url_path(&(), Some(&own.namespace));
    let mut seen: Option<(u64, SystemTime)> = None;
    let mut waiting: Option<RecorderStatus> = None;
    let mut said: Option<RecorderStatus> = None;
    let mut next = Instant::now();
    let mut failing = false;
    loop {
        let ends = tokio::select! {
            () = sleep(LOOK) => false,
            _ = stopping.wait_for(|stop| *stop) => true,
        };
        if let Some(status) = files.status(&mut seen).and_then(|recorder| recorder.status) {
            waiting = Some(status);
        }
        if there.has_changed().is_ok_and(|changed| changed)
            && is_to_be_said_again(there.borrow_and_update().as_ref(), said.as_ref())
        {
            waiting = waiting.or_else(|| said.clone());
        }
        if (ends || Instant::now() >= next)
            && let Some(status) = &waiting
        {
            let object = json!({
                "apiVersion": API_VERSION, "kind": "Recorder", "metadata": { "name": own.name }, "status": status,
            });
            let params = PatchParams::apply(MANAGER).force();
            let patch = Patch::Apply(&object);
            let request = Request::new(&path).patch_subresource("status", &own.name, &params, &patch);
            let send = async {
                let mut request = request.map_err(kube::Error::BuildRequest)?;
                request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ONLY_METADATA));
                client.request::<PartialObjectMeta<Recorder>>(request).await
            };
            let began = Instant::now();
            match timeout(REQUEST, send).await {
                Ok(Ok(_)) => {
                    said = waiting.take();
                    failing = false;
                }
                Ok(Err(error)) if !failing => {
                    failing = true;
                    warn!("the status can't be written, and is tried again: {error}");
                }
                _ => {}
            }
            next = Instant::now() + (began.elapsed() * RESTS).clamp(PACE, PACE_AT_MOST);
        }
        if ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_state_says_is_said_again() {
        let status = |term, generation| RecorderStatus {
            phase: Some(RecorderPhase::Ready),
            observed_term: Some(term),
            observed_generation: Some(generation),
            ..RecorderStatus::default()
        };
        let said = status(2, 4);
        assert!(!is_to_be_said_again(Some(&said), Some(&said)));
        assert!(is_to_be_said_again(Some(&status(1, 3)), Some(&said)), "restored");
        assert!(is_to_be_said_again(None, Some(&said)));
        assert!(!is_to_be_said_again(Some(&status(1, 3)), None), "it has said nothing yet");
        let unknown = RecorderStatus { phase: Some(RecorderPhase::Unknown), ..said.clone() };
        assert!(is_to_be_said_again(Some(&unknown), Some(&said)));
    }
}
