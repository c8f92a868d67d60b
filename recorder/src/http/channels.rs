//! `GET /v1/channels`: what each channel does.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use framekeeper_crds::ChannelState;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_media::WallTime;
use framekeeper_store::StreamStats;
use serde::Serialize;
use uuid::Uuid;

use super::Sources;
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

/// The handler.
pub(super) async fn channels(State(sources): State<Sources>) -> Json<Channels> {
    let mut channels: Vec<Channel> = views(&sources).into_iter().map(channel).collect();
    channels.extend(sources.view.refusals().into_iter().map(|refusal| Channel {
        namespace: refusal.stream.namespace,
        name: refusal.stream.name,
        role: None,
        epoch: None,
        state: ChannelState::Failed,
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
    Json(Channels { recorder: sources.view.recorder.clone(), channels })
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
