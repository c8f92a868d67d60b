//! `GET /v1/channels`: what each channel does.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use framekeeper_crds::ChannelState;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_media::WallTime;
use framekeeper_store::StreamStats;
use serde::Serialize;
use uuid::Uuid;

use super::Sources;
use crate::serve::range::not_modified;
use crate::view::{ChannelEntry, ChannelView};

/// The answer.
#[derive(Serialize)]
pub(super) struct Channels {
    recorder: String,
    channels: Vec<Channel>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Channel {
    namespace: String,
    name: String,
    /// Of an entry that is refused it does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    state: ChannelState,
    /// Since when it has been in this state; the reason may be newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    codec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_codec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_left_out: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    fps: f64,
    bitrate: u64,
    /// The longest group of pictures lately, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    gop: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_frame: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<String>,
    bytes: u64,
    frames: u64,
    gaps: u64,
    lost_packets: u64,
    dropped_frames: u64,
    reconnects: u64,
}

/// All channels as they are now.
pub(super) fn views(sources: &Sources) -> Vec<ChannelView> {
    let stored: HashMap<Uuid, StreamStats> =
        sources.store.streams().into_iter().map(|stream| (stream.stream, stream)).collect();
    let view = |entry: &Arc<ChannelEntry>| {
        let stored = stored.get(&entry.stream.uid);
        ChannelView {
            stream: entry.stream.clone(),
            rank: entry.control.rank(),
            epoch: entry.control.epoch(),
            gop_us: entry.control.gop_us(),
            snapshot: entry.stats.snapshot(),
            durable: stored.and_then(|stream| stream.durable),
            dropped_frames: stored.map(|stream| stream.dropped_frames.clone()).unwrap_or_default(),
            queue_bytes: stored.map_or(0, |stream| stream.queue_bytes),
            memory_bytes: stored.map_or(0, |stream| stream.memory_bytes),
            gop_too_long: stored.is_some_and(|stream| stream.gop_too_long),
            kept_bytes: stored.and_then(|stream| stream.kept_bytes),
        }
    };
    sources.view.channels().iter().map(view).collect()
}

impl Channels {
    /// Another one when something is news, and not because a counter went on: a weak entity tag (RFC 9110 section 8.8.1), without its `W/`. Who asks each second
    /// whether all is well need not read a hundred channels each time.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        for channel in &self.channels {
            let Channel { namespace, name, role, epoch, state, since, reason, message, .. } = channel;
            let Channel { codec, audio_codec, audio_left_out, width, height, gop, last_frame, frames, .. } = channel;
            let records = *state == ChannelState::Recording;
            let sees = records || *state == ChannelState::Standby;
            (namespace, name, role, epoch, *state as u8, since).hash(&mut hasher);
            (codec, audio_codec, audio_left_out, width, height).hash(&mut hasher);
            (!records).then_some((reason, message)).hash(&mut hasher);
            // When frames stopped is news, not that they go on.
            last_frame.as_ref().filter(|_| !sees).hash(&mut hasher);
            gop.map(|gop| gop.ceil() as u64).hash(&mut hasher);
            // Rates mean more the longer they were measured.
            frames.checked_ilog2().hash(&mut hasher);
        }
        format!("\"{:016x}\"", hasher.finish())
    }
}

/// The handler.
pub(super) async fn channels(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let channels = all(&sources);
    let tag = channels.tag();
    let is_known = not_modified(&headers, &tag);
    let tag = [(header::ETAG, format!("W/{tag}"))];
    if is_known { (StatusCode::NOT_MODIFIED, tag).into_response() } else { (tag, Json(channels)).into_response() }
}

fn all(sources: &Sources) -> Channels {
    let mut channels: Vec<Channel> = views(sources).into_iter().map(channel).collect();
    channels.extend(sources.view.refusals().into_iter().map(|refusal| Channel {
        namespace: refusal.stream.namespace,
        name: refusal.stream.name,
        role: None,
        epoch: None,
        state: ChannelState::Failed,
        since: None,
        reason: refusal.reason.to_owned(),
        message: refusal.message,
        codec: None,
        audio_codec: None,
        audio_left_out: None,
        width: None,
        height: None,
        fps: 0.0,
        bitrate: 0,
        gop: None,
        last_frame: None,
        durable: None,
        bytes: 0,
        frames: 0,
        gaps: 0,
        lost_packets: 0,
        dropped_frames: 0,
        reconnects: 0,
    }));
    channels.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Channels { recorder: sources.view.recorder.clone(), channels }
}

fn channel(view: ChannelView) -> Channel {
    let ChannelView { stream, rank, epoch, gop_us, snapshot, durable, dropped_frames, .. } = view;
    let video = snapshot.video;
    let (codec, audio_codec, audio_left_out, width, height) = match video {
        Some(video) => {
            (Some(video.codec), video.audio_codec, video.audio_left_out, Some(video.width), Some(video.height))
        }
        None => (None, None, None, None, None),
    };
    Channel {
        namespace: stream.namespace,
        name: stream.name,
        role: Some(if rank == 0 { "Primary" } else { "Standby" }),
        epoch,
        state: snapshot.condition.state,
        since: rfc3339(snapshot.condition.since),
        reason: snapshot.condition.reason.to_owned(),
        message: snapshot.condition.message,
        codec,
        audio_codec,
        audio_left_out,
        width,
        height,
        fps: snapshot.frames_per_second,
        bitrate: snapshot.bits_per_second,
        gop: (gop_us > 0).then(|| gop_us as f64 / 1e6),
        last_frame: snapshot.last_frame.and_then(rfc3339),
        durable: durable.and_then(rfc3339),
        bytes: snapshot.counts.bytes,
        frames: snapshot.counts.video_frames,
        gaps: snapshot.gaps.iter().map(|(_, count)| count).sum(),
        lost_packets: snapshot.lost_packets,
        dropped_frames: dropped_frames.iter().map(|(_, count)| count).sum(),
        reconnects: snapshot.counts.sessions.saturating_sub(1),
    }
}

fn rfc3339(time: WallTime) -> Option<String> {
    Timestamp::from_microsecond(time.0).ok().map(|time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        Channel {
            namespace: "default".into(),
            name: "door".into(),
            role: Some("Primary"),
            epoch: Some(4),
            state: ChannelState::Recording,
            since: Some("2026-11-21T13:58:01.120000Z".into()),
            reason: "Recording".into(),
            message: "frames reach the disk".into(),
            codec: Some("avc1.64001f".into()),
            audio_codec: None,
            audio_left_out: None,
            width: Some(1920),
            height: Some(1080),
            fps: 25.0,
            bitrate: 4_000_000,
            gop: Some(1.9),
            last_frame: Some("2026-11-21T14:03:07.480000Z".into()),
            durable: None,
            bytes: 1_000_000,
            frames: 4_921,
            gaps: 0,
            lost_packets: 0,
            dropped_frames: 0,
            reconnects: 0,
        }
    }

    fn tag(change: impl Fn(&mut Channel)) -> String {
        let mut channel = channel();
        change(&mut channel);
        Channels { recorder: "main-recorder-0".into(), channels: vec![channel] }.tag()
    }

    #[test]
    fn the_tag_is_another_one_when_something_is_news() {
        let before = tag(|_| {});
        let goes_on = tag(|channel| {
            (channel.frames, channel.bytes, channel.bitrate, channel.fps) = (5_100, 1_100_000, 4_100_000, 24.9);
            (channel.gop, channel.last_frame) = (Some(2.0), Some("2026-11-21T14:03:14.480000Z".into()));
        });
        assert_eq!(before, goes_on);
        let news: [fn(&mut Channel); 8] = [
            |channel| channel.state = ChannelState::Backoff,
            |channel| channel.since = Some("2026-11-21T14:03:08.000000Z".into()),
            |channel| channel.epoch = Some(5),
            |channel| channel.codec = Some("hvc1.1.6.L93.B0".into()),
            |channel| channel.width = Some(640),
            |channel| channel.gop = Some(2.1),
            |channel| channel.frames = 9_842,
            |channel| channel.role = Some("Standby"),
        ];
        for (at, change) in news.into_iter().enumerate() {
            assert_ne!(before, tag(change), "change {at}");
        }
        // Of one that does not see its camera, when it did last, and why.
        let blind = |time: &str, why: &str| {
            tag(|channel| {
                (channel.state, channel.message) = (ChannelState::Backoff, why.into());
                channel.last_frame = Some(time.into());
            })
        };
        assert_eq!(blind("14:03", "no answer"), blind("14:03", "no answer"));
        assert_ne!(blind("14:03", "no answer"), blind("14:04", "no answer"));
        assert_ne!(blind("14:03", "no answer"), blind("14:03", "refused"));
    }
}
