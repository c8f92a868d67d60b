//! What recorders say of their channels: `GET /v1/channels`, a second apart. Fields that an older or newer recorder does not
//! have, or has in other types, are left out rather than failing the whole.

use std::sync::Arc;
use std::time::Duration;

use framekeeper_crds::ChannelState;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
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

/// What a recorder says of all its channels.
#[derive(Debug, Default, PartialEq)]
pub struct Reports {
    /// By stream.
    sorted: Vec<(Key, ChannelReport)>,
}

impl Reports {
    /// Of these channels.
    #[must_use]
    pub fn new(mut reports: Vec<(Key, ChannelReport)>) -> Self {
        reports.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { sorted: reports }
    }

    /// What is said of a stream.
    #[must_use]
    pub fn of(&self, stream: &Key) -> Option<&ChannelReport> {
        let at = self.sorted.binary_search_by(|(key, _)| key.cmp(stream)).ok()?;
        self.sorted.get(at).map(|(_, report)| report)
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> &[(Key, ChannelReport)] {
        &self.sorted
    }
}

/// Asks one recorder time and again. What is as it was is not sent again (RFC 9110 section 13.1.2): ten thousand channels that record steadily would be read
/// each second to find out that they do.
pub struct Question {
    client: reqwest::Client,
    address: String,
    known: Option<(HeaderValue, Arc<Reports>)>,
    repeated: u32,
}

impl Question {
    /// The same is believed so many times in a row, and then asked for in full: numbers that go on all the time, like the time of the last frame, are not news.
    const BELIEVED: u32 = 30;

    /// To the recorder at this address.
    #[must_use]
    pub fn new(client: reqwest::Client, address: String) -> Self {
        Self { client, address, known: None, repeated: 0 }
    }

    /// What it says now; the very same as before where nothing of it is news. `None` when it does not answer, or not with what was asked for.
    pub async fn ask(&mut self) -> Option<Arc<Reports>> {
        let known = self.known.take().filter(|_| self.repeated < Self::BELIEVED);
        let response = get(&self.client, &self.address, known.as_ref().map(|(tag, _)| tag)).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            let (_, reports) = self.known.insert(known?);
            self.repeated += 1;
            return Some(Arc::clone(reports));
        }
        let tag = response.headers().get(ETAG).cloned();
        let reports = Arc::new(read(&response.json().await.ok()?));
        self.known = tag.map(|tag| (tag, Arc::clone(&reports)));
        self.repeated = 0;
        Some(reports)
    }
}

/// Asks a recorder for everything. `None` as for [`Question::ask`].
pub async fn ask(client: &reqwest::Client, address: &str) -> Option<Reports> {
    Some(read(&get(client, address, None).await?.json().await.ok()?))
}

async fn get(client: &reqwest::Client, address: &str, known: Option<&HeaderValue>) -> Option<reqwest::Response> {
    let mut request = client.get(format!("http://{address}/v1/channels")).timeout(TIMEOUT);
    if let Some(tag) = known {
        request = request.header(IF_NONE_MATCH, tag);
    }
    request.send().await.ok()?.error_for_status().ok()
}

fn read(json: &Json) -> Reports {
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
    Reports::new(channels.filter_map(read).collect())
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
        let read = read.all();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].1.state, Some(ChannelState::Recording));
        assert_eq!(read[0].1.epoch, Some(7));
        assert_eq!(read[0].1.resolution().unwrap(), "1920x1080");
        assert_eq!(read[0].1.last_frame.unwrap().to_string(), "2026-11-21T14:03:00.123Z");
        assert_eq!(read[1].1, ChannelReport::default());
    }

    #[tokio::test]
    async fn what_is_the_same_is_not_sent_again_until_it_was_believed_for_long() {
        use axum::extract::State;
        use axum::http::{HeaderMap, header};
        use axum::response::IntoResponse as _;
        use std::sync::atomic::{AtomicU64, Ordering};

        #[derive(Default)]
        struct Recorder {
            epoch: AtomicU64,
            sent: AtomicU64,
        }
        async fn channels(State(recorder): State<Arc<Recorder>>, headers: HeaderMap) -> axum::response::Response {
            let epoch = recorder.epoch.load(Ordering::Relaxed);
            let tag = format!("W/\"{epoch}\"");
            if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
                return axum::http::StatusCode::NOT_MODIFIED.into_response();
            }
            recorder.sent.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "channels": [{ "namespace": "default", "name": "a", "epoch": epoch }] });
            ([(header::ETAG, tag)], axum::Json(body)).into_response()
        }
        let recorder = Arc::new(Recorder::default());
        let app = axum::Router::new().route("/v1/channels", axum::routing::get(channels)).with_state(recorder.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let mut question = Question::new(reqwest::Client::new(), address);
        let sent = || recorder.sent.load(Ordering::Relaxed);

        let first = question.ask().await.unwrap();
        let again = question.ask().await.unwrap();
        assert!(Arc::ptr_eq(&first, &again) && sent() == 1);
        recorder.epoch.store(5, Ordering::Relaxed);
        let other = question.ask().await.unwrap();
        assert_eq!((other.all()[0].1.epoch, sent()), (Some(5), 2));
        for _ in 0..Question::BELIEVED {
            assert!(Arc::ptr_eq(&other, &question.ask().await.unwrap()));
        }
        assert_eq!(sent(), 2);
        assert_eq!(*question.ask().await.unwrap(), *other);
        assert_eq!(sent(), 3);
        server.abort();
        assert!(server.await.is_err_and(|error| error.is_cancelled()));
        assert!(question.ask().await.is_none());
    }
}
