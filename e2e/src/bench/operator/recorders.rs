//! Recorders that only talk: each follows its Recorder, keeps its Lease, writes its status and answers `/v1/channels` as the real one does, and records
//! nothing. All of them are in this process, on addresses of their own, and share one watch.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::http::header::{self, ACCEPT, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{
    API_VERSION, Addresses, Channel, ChannelState, ChannelStatus, Instance, Recorder, RecorderPhase, RecorderStatus,
    Role, VolumeState, VolumeStatus,
};
use futures::StreamExt as _;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::core::Request;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::tally::Tally;

/// Field manager of what a recorder writes, and its times: those of the real one (`recorder/src/cluster/link.rs`).
const MANAGER: &str = "framekeeper-recorder";
const ONLY_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const RENEW: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
const PACE: Duration = Duration::from_secs(1);
const RESTS: u32 = 8;
const PACE_AT_MOST: Duration = Duration::from_secs(5);
/// A camera answers at once, and its next key frame comes within two seconds.
const CONNECTS_WITHIN_MS: u64 = 2_000;

/// What a pretended channel does.
#[derive(Clone, Debug)]
struct Pretended {
    channel: Channel,
    since: Timestamp,
    begins: Instant,
    /// How its camera differs from others: 0..1000.
    kind: u64,
}

impl Pretended {
    fn is_ready(&self, now: Instant) -> bool {
        now >= self.begins
    }

    fn state(&self, now: Instant) -> ChannelState {
        match self.channel.role {
            Role::Standby => ChannelState::Standby,
            Role::Primary if self.is_ready(now) => ChannelState::Recording,
            Role::Primary => ChannelState::Connecting,
        }
    }

    /// Reason and message, as the real one says them.
    fn why(&self, now: Instant) -> (&'static str, &'static str) {
        match (self.channel.role, self.is_ready(now)) {
            (Role::Primary, true) => ("Recording", "frames reach the disk"),
            (Role::Standby, true) => ("StandingBy", "ready to record from the next moment on"),
            (_, false) => ("Connecting", "connecting to the camera"),
        }
    }
}

/// What it was told last.
#[derive(Debug, Default)]
struct Told {
    generation: i64,
    term: u64,
    channels: BTreeMap<String, Pretended>,
    volumes: Vec<(String, String, u64)>,
}

/// One of them.
#[derive(Debug)]
struct Pretender {
    namespace: String,
    name: String,
    address: String,
    key: String,
    instance: String,
    began: Timestamp,
    told: Mutex<Told>,
}

/// Begins to follow all Recorders of a namespace; each gets the next port from `port` on. What they are told goes into the tally.
pub(super) fn start(client: Client, namespace: &str, port: u16, tally: Arc<Tally>) {
    let namespace = namespace.to_owned();
    tokio::spawn(async move {
        let api = Api::<Recorder>::namespaced(client.clone(), &namespace);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        let mut known: BTreeMap<String, Arc<Pretender>> = BTreeMap::new();
        while let Some(event) = events.next().await {
            let Ok(recorder) = event else { continue };
            let name = recorder.name_any();
            let pretender = match known.get(&name) {
                Some(pretender) => Arc::clone(pretender),
                None => match begin(&client, &recorder, port).await {
                    Ok(pretender) => Arc::clone(known.entry(name).or_insert(pretender)),
                    Err(error) => {
                        tally.trouble(format!("{name}: {error}"));
                        continue;
                    }
                },
            };
            pretender.told(&recorder);
            tally.told(&recorder);
        }
    });
}

async fn begin(client: &Client, recorder: &Recorder, port: u16) -> Result<Arc<Pretender>> {
    let port = port + u16::try_from(recorder.spec.ordinal)?;
    let address = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind(&address).await?;
    let pretender = Arc::new(Pretender {
        namespace: recorder.namespace().unwrap_or_default(),
        name: recorder.name_any(),
        address,
        // Of the length that a real one has: the base64 of an Ed25519 SubjectPublicKeyInfo.
        key: format!("MCowBQYDK2VwAyEA{:0>43}=", recorder.spec.ordinal),
        instance: format!("00000000-0000-4000-8000-{:012}", recorder.spec.ordinal),
        began: Timestamp::now(),
        told: Mutex::default(),
    });
    let answers = Arc::clone(&pretender);
    let app = Router::new().route(
        "/v1/channels",
        get(move |headers: HeaderMap| {
            let answers = Arc::clone(&answers);
            async move {
                let tag = answers.tag();
                if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
                    return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
                }
                let json = HeaderValue::from_static("application/json");
                ([(header::ETAG, tag)], [(header::CONTENT_TYPE, json)], answers.channels()).into_response()
            }
        }),
    );
    tokio::spawn(async move { axum::serve(listener, app).await });
    tokio::spawn(renew(client.clone(), Arc::clone(&pretender)));
    tokio::spawn(tell(client.clone(), Arc::clone(&pretender)));
    Ok(pretender)
}

impl Pretender {
    fn told(&self, recorder: &Recorder) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.generation = recorder.metadata.generation.unwrap_or_default();
        told.term = recorder.spec.term;
        let volumes = recorder.spec.volumes.iter();
        told.volumes = volumes.map(|it| (it.name.clone(), it.uuid.clone(), it.budget_bytes)).collect();
        let mut before = std::mem::take(&mut told.channels);
        for channel in &recorder.spec.channels {
            let known = before.remove(&channel.stream.uid).filter(|known| known.channel.epoch == channel.epoch);
            let kind = channel.stream.name.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 1_000);
            let new = || Pretended {
                channel: channel.clone(),
                since: wall,
                begins: now + Duration::from_millis(CONNECTS_WITHIN_MS * kind / 1_000),
                kind,
            };
            let pretended = Pretended { channel: channel.clone(), ..known.unwrap_or_else(new) };
            told.channels.insert(channel.stream.uid.clone(), pretended);
        }
    }

    /// Another one where the real one's would be: something is news of a channel, and not that a counter went on.
    fn tag(&self) -> String {
        let now = Instant::now();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = DefaultHasher::new();
        for (stream, pretended) in &told.channels {
            let Channel { role, epoch, .. } = &pretended.channel;
            (stream, *role as u8, epoch, pretended.why(now)).hash(&mut hasher);
            let frames = now.saturating_duration_since(pretended.begins).as_millis() as u64 / 40;
            frames.checked_ilog2().hash(&mut hasher);
        }
        format!("W/\"{:016x}\"", hasher.finish())
    }

    /// The answer to `/v1/channels`, with the fields of the real one.
    fn channels(&self) -> String {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("{{\"recorder\":\"{}/{}\",\"channels\":[", self.namespace, self.name);
        for (at, pretended) in told.channels.values().enumerate() {
            let Channel { stream, role, epoch, .. } = &pretended.channel;
            let (reason, message) = pretended.why(now);
            let comma = if at == 0 { "" } else { "," };
            let _infallible = write!(
                text,
                "{comma}{{\"namespace\":\"{}\",\"name\":\"{}\",\"role\":\"{role:?}\",\"epoch\":{epoch},\"state\":\"{:?}\",\"reason\":\"{reason}\",\"message\":\"{message}\"",
                stream.namespace,
                stream.name,
                pretended.state(now)
            );
            if pretended.is_ready(now) {
                let seconds = now.duration_since(pretended.begins).as_secs_f64();
                let (bitrate, frames) = (3_600_000 + pretended.kind * 800, (seconds * 25.0) as u64);
                let bytes = (seconds * bitrate as f64 / 8.0) as u64;
                let _infallible = write!(
                    text,
                    ",\"codec\":\"avc1.64001f\",\"audioCodec\":\"mp4a.40.2\",\"width\":1920,\"height\":1080,\"fps\":25.0,\"bitrate\":{bitrate},\"gop\":2.0,\"lastFrame\":\"{wall:.3}\",\"durable\":\"{wall:.3}\",\"bytes\":{bytes},\"frames\":{frames}"
                );
            } else {
                text.push_str(",\"fps\":0.0,\"bitrate\":0,\"bytes\":0,\"frames\":0");
            }
            text.push_str(",\"gaps\":0,\"lostPackets\":0,\"droppedFrames\":0,\"reconnects\":0}");
        }
        text.push_str("]}");
        text
    }

    fn status(&self) -> RecorderStatus {
        let now = Instant::now();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let not_yet = told.channels.values().filter(|pretended| !pretended.is_ready(now));
        let channels: Vec<ChannelStatus> = not_yet
            .map(|pretended| {
                let (reason, message) = pretended.why(now);
                ChannelStatus {
                    stream: pretended.channel.stream.clone(),
                    state: pretended.state(now),
                    reason: Some(reason.to_owned()),
                    message: Some(message.to_owned()),
                    since: Some(MicroTime(pretended.since)),
                    epoch: None,
                }
            })
            .collect();
        let condition = |kind: &str, is_true: bool, reason: &str, message: &str| Condition {
            type_: kind.to_owned(),
            status: if is_true { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: Some(told.generation),
            last_transition_time: Time(self.began),
        };
        let as_planned = channels.is_empty();
        let volume = |(name, uuid, budget): &(String, String, u64)| VolumeStatus {
            name: name.clone(),
            uuid: Some(uuid.clone()),
            state: VolumeState::Ready,
            reason: None,
            message: None,
            capacity_bytes: *budget,
            used_bytes: 0,
            free_segments: budget / (64 << 20),
            held_bytes: 0,
            oldest_footage: None,
            writes: Some(framekeeper_crds::VolumeWrites::Direct),
            sync_ms: Some(500),
            rotational: Some(false),
            writes_reason: None,
        };
        RecorderStatus {
            observed_generation: Some(told.generation),
            observed_term: Some(told.term),
            phase: Some(RecorderPhase::Ready),
            conditions: vec![
                condition("Ready", true, "Recording", "volumes can be written to"),
                condition("VolumesHealthy", true, "AllHealthy", "all volumes work"),
                condition("RecordingSpace", true, "Enough", "there is room for what is to be recorded"),
                condition(
                    "GopsInMemory",
                    true,
                    "Enough",
                    "what a failing volume has not made safe can go on elsewhere",
                ),
                condition("PeersReachable", true, "AllReachable", "all peers are alive"),
                condition("ClocksInStep", true, "InStep", "all clocks are within a second of this one"),
                condition(
                    "ChannelsAsPlanned",
                    as_planned,
                    if as_planned { "AllRecording" } else { "NotRecording" },
                    if as_planned { "all channels do what they are to" } else { "some channels do not record yet" },
                ),
            ],
            addresses: Some(Addresses { http: Some(self.address.clone()), peer: Some(self.address.clone()) }),
            public_key: Some(self.key.clone()),
            instance: Some(Instance { uid: self.instance.clone(), restarts: 0 }),
            volumes: told.volumes.iter().map(volume).collect(),
            channels,
        }
    }
}

/// Renews the Lease, as soon as the operator has made it.
async fn renew(client: Client, own: Arc<Pretender>) {
    let api = Api::<Lease>::namespaced(client, &own.namespace);
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let lease = json!({ "spec": {
            "holderIdentity": own.instance, "renewTime": format!("{:.6}", Timestamp::now()),
        } });
        if api.patch(&own.name, &PatchParams::default(), &Patch::Merge(&lease)).await.is_err() {
            ticks.reset_after(PACE);
        }
    }
}

/// Sends the status whenever it is another one, at most one a second.
async fn tell(client: Client, own: Arc<Pretender>) {
    let path = Recorder::url_path(&(), Some(&own.namespace));
    let (mut said, mut next) = (None, Instant::now());
    loop {
        sleep(LOOK).await;
        let status = own.status();
        if said.as_ref() == Some(&status) || Instant::now() < next {
            continue;
        }
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
        if send.await.is_ok() {
            said = Some(status);
        }
        next = Instant::now() + (began.elapsed() * RESTS).clamp(PACE, PACE_AT_MOST);
    }
}
