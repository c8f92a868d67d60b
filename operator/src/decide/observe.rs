//! What recorders say of their channels: `GET /v1/channels`, a second apart. Fields that an older or newer recorder does not
//! have, or has in other types, are left out rather than failing the whole.

use std::time::Duration;

use framekeeper_crds::ChannelState;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value as Json;

use super::wanted::Key;

/// Shorter than the interval, so that a recorder that hangs is seen as one that does not answer.
const TIMEOUT: Duration = Duration::from_millis(900);

/// What a recorder says of one channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelReport {
    /// What it does.
    pub state: Option<ChannelState>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// Why, in a sentence.
    pub message: Option<String>,
    /// The epoch it records in, or would.
    pub epoch: Option<u64>,
    /// Codec of the video, RFC 6381.
    pub codec: Option<String>,
    /// Codec of the audio, RFC 6381.
    pub audio_codec: Option<String>,
    /// Width of the picture in pixels.
    pub width: Option<u64>,
    /// Height of the picture in pixels.
    pub height: Option<u64>,
    /// Frames a second.
    pub fps: Option<f64>,
    /// Bits a second.
    pub bitrate: Option<f64>,
    /// The longest group of pictures lately, seconds.
    pub gop: Option<f64>,
    /// Wall-clock time of the last frame.
    pub last_frame: Option<Timestamp>,
    /// Bytes recorded since the recorder started.
    pub bytes: u64,
    /// Frames recorded since the recorder started.
    pub frames: u64,
}

impl ChannelReport {
    /// `1920x1080`, where it is known.
    pub fn resolution(&self) -> Option<String> {
        Some(format!("{}x{}", self.width?, self.height?))
    }
}

/// Asks a recorder. `None` when it does not answer, or not with what was asked for.
pub async fn ask(client: &reqwest::Client, address: &str) -> Option<Vec<(Key, ChannelReport)>> {
    let response = client.get(format!("http://{address}/v1/channels")).timeout(TIMEOUT).send().await.ok()?;
    let json: Json = response.error_for_status().ok()?.json().await.ok()?;
    Some(read(&json))
}

fn read(json: &Json) -> Vec<(Key, ChannelReport)> {
    let channels = json.get("channels").and_then(Json::as_array).into_iter().flatten();
    let read = |channel: &Json| {
        let text = |key: &str| channel.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
        let owned = |key: &str| text(key).map(str::to_owned);
        let count = |key: &str| channel.get(key).and_then(Json::as_u64);
        let number = |key: &str| channel.get(key).and_then(Json::as_f64);
        let key = Key::new(text("namespace")?, text("name")?);
        let state: Option<ChannelState> = channel.get("state").and_then(|state| ChannelState::deserialize(state).ok());
        // Whoever records says always the same, and nobody asks why.
        let why = |key: &str| owned(key).filter(|_| state != Some(ChannelState::Recording));
        let report = ChannelReport {
            state,
            reason: why("reason"),
            message: why("message"),
            epoch: count("epoch"),
            codec: owned("codec"),
            audio_codec: owned("audioCodec"),
            width: count("width").filter(|width| *width > 0),
            height: count("height").filter(|height| *height > 0),
            fps: number("fps"),
            bitrate: number("bitrate"),
            gop: number("gop"),
            last_frame: text("lastFrame").and_then(|time| time.parse().ok()),
            bytes: count("bytes").unwrap_or(0),
            frames: count("frames").unwrap_or(0),
        };
        Some((key, report))
    };
    channels.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_or_new_does_no_harm() {
        let json = json!({ "recorder": "r", "channels": [
            { "namespace": "default", "name": "a", "state": "Recording", "epoch": 7, "codec": "avc1.64001f", "width": 1920, "height": 1080,
              "fps": 25.0, "bitrate": 4_000_000, "lastFrame": "2026-11-21T14:03:00.123Z", "bytes": 5, "frames": 7, "new": {} },
            { "namespace": "default", "name": "b", "state": "Dancing", "width": null, "fps": "many" },
            { "name": "nowhere" },
        ] });
        let read = read(&json);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].1.state, Some(ChannelState::Recording));
        assert_eq!(read[0].1.epoch, Some(7));
        assert_eq!(read[0].1.resolution().unwrap(), "1920x1080");
        assert_eq!(read[0].1.last_frame.unwrap().to_string(), "2026-11-21T14:03:00.123Z");
        assert_eq!(read[1].1, ChannelReport::default());
    }
}
