//! `CameraStream`: one video source to be recorded.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{PoolRef, RetentionSpec, SecretRef};
use crate::human_duration::HumanDuration;

/// What to record, from where, and into which pool.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "framekeeper.dev",
    version = "v1alpha1",
    kind = "CameraStream",
    plural = "camerastreams",
    // Not `cs`: that is every cluster's componentstatuses, which kubectl prefers.
    shortname = "cam",
    category = "framekeeper",
    namespaced,
    status = "CameraStreamStatus",
    derive = "PartialEq",
    doc = "A CameraStream is one video source, pulled over RTSP and recorded into a StoragePool.",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.poolRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Recorder", type_ = "string", json_path = ".status.assignment.active"),
    printcolumn(name = "Codec", type_ = "string", json_path = ".status.codec"),
    printcolumn(name = "Resolution", type_ = "string", json_path = ".status.resolution"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.source.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CameraStreamSpec {
    /// Where the video comes from.
    // The rules stand here and not at `Source`, because a Recorder holds up to 1,000 sources that were checked already.
    #[x_kube(
        validation = crate::validate::URL_SCHEME.at(".url"),
        validation = crate::validate::URL_USER_INFO.at(".url"),
        validation = crate::validate::URL_FORM.at(".url"),
        validation = crate::validate::ONVIF_SCHEME.at(".onvif.endpoint"),
        validation = crate::validate::ONVIF_USER_INFO.at(".onvif.endpoint"),
        validation = crate::validate::ONVIF_FORM.at(".onvif.endpoint")
    )]
    pub source: Source,
    /// The StoragePool, in the same namespace, whose recorders record this stream.
    pub pool_ref: PoolRef,
    /// What a failure of a recorder may cost; where it is not given, as the pool's `redundancy` says. Only as far as the pool tolerates failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<RedundancyClass>,
    /// Whether the camera's audio is recorded along with the video, where it sends any.
    #[serde(default = "yes")]
    pub audio: bool,
    /// How long this stream's footage is kept. What is not said here is as the pool's `retention` says.
    #[serde(default, skip_serializing_if = "RetentionSpec::is_empty")]
    pub retention: RetentionSpec,
    /// Streams with a higher priority get a recorder first when a pool has too few slots. May be negative.
    #[serde(default)]
    pub priority: i32,
    /// Stops recording, without losing what is recorded, until it is set to false again.
    #[serde(default)]
    pub suspend: bool,
}

/// Where a stream's video comes from, and how to get at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The camera's address, for example `rtsp://camera-7.example:554/stream1`. User name and password never stand here: put
    /// them into a Secret and name it in `credentialsSecretRef`.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Names a Secret in the stream's namespace whose keys `username` and `password` are the camera's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// How RTP packets travel. `Tcp`: interleaved in the RTSP connection (RFC 2326 section 10.12). `Auto`: whatever is best; at present TCP.
    #[serde(default)]
    pub transport: Transport,
    /// How many sessions the camera allows at the same time, if that is few: each recorder that stands by needs one, and a handover one more for a
    /// moment. Where they do not suffice, fewer recorders stand by, and the condition `Protected` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_sessions: Option<u32>,
    /// Where the camera can be asked for a key frame over ONVIF, for one that cannot be asked over RTCP: a recorder that begins to record, or has lost
    /// pictures, needs not wait for the next one then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onvif: Option<Onvif>,
}

/// A camera's ONVIF services. User name and password are those of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Onvif {
    /// The address of the device service, for example `http://camera-7.example/onvif/device_service`.
    #[schemars(length(min = 1, max = 2048))]
    pub endpoint: String,
    /// The token of the media profile that sends the stream; found by the stream's address where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub profile: Option<String>,
}

/// How RTP packets travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Transport {
    /// Whatever is best; at present TCP.
    #[default]
    Auto,
    /// Interleaved in the RTSP connection (RFC 2326 section 10.12).
    Tcp,
}

/// What a failure of a recorder may cost a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum RedundancyClass {
    /// No standby: nothing is recorded until the recorder is back.
    #[default]
    None,
    /// Each standby has a session with the camera that is set up and does not play: nothing is recorded until the failure is noticed, the camera asked to
    /// play and its next key frame has come.
    Ready,
    /// Each standby plays the stream and keeps the last seconds in memory: no frame is lost.
    Playing,
    /// Each standby records the stream as well, all the time: no frame is lost, and no footage with a recorder's disks either.
    Mirrored,
}

impl RedundancyClass {
    /// Whether no recorder stands by.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What is known of a stream. Nothing is written while it records steadily.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CameraStreamStatus {
    /// The conditions in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<StreamPhase>,
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the stream is as it was asked for. `Recording`: frames reach the disk. `SourceReachable`: the camera answers and sends. `Protected`:
    /// as many recorders may fail as the pool tolerates; only where the stream has a redundancy class. `Held`: False where Recorders have no room for all
    /// that the stream's annotation holds; only there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Who records the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<StreamAssignment>,
    /// The highest epoch it was ever recorded in; only while the assignment does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_epoch: Option<u64>,
    /// What the camera does not do, as was found out by trying. Forgotten when the source changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<CameraFindings>,
    /// The longest stretch that is not recorded when a recorder fails, for example `0ms` or `5s`: of class `Ready` until the failure is noticed, the
    /// camera plays and its next key frame has come. Absent where no recorder stands by: until the recorder is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_case_gap: Option<HumanDuration>,
    /// Codec of the video as in RFC 6381, for example `avc1.64001f`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Size of the picture in pixels, for example `1920x1080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// Bits a second, video and audio, rounded, as measured when recording began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
    /// Wall-clock time of the last frame recorded; only while the stream is not being recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_frame_time: Option<MicroTime>,
}

/// What a camera does not do, as was found out by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CameraFindings {
    /// It ends sessions that do not play.
    #[serde(default)]
    pub drops_idle_sessions: bool,
    /// It refused one more than so many sessions at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

/// A stream's conditions in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum StreamPhase {
    /// No recorder has been given the stream yet, or none has a slot for it.
    Pending,
    /// Assigned; the recorder is connecting to the camera.
    Connecting,
    /// Frames reach the disk.
    Recording,
    /// Assigned, but not recording; the conditions say why.
    Failed,
    /// Not recorded because `spec.suspend` says so.
    Suspended,
}

/// Who records a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamAssignment {
    /// Grows with each change of who records the stream. While nobody does: that of the last who did.
    pub epoch: u64,
    /// The recorder whose normal slot the stream has.
    pub primary: String,
    /// The recorders that are ready to take over, by rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<String>,
    /// The recorder that records now, if any does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// The recorder that recorded last; only while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<String>,
}

fn yes() -> bool {
    true
}
