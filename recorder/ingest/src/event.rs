//! What an engine tells about a source, and the shape of who listens.

use framekeeper_media::{AccessUnit, AudioFrame, MediaTime, WallTime};

/// The moment of a tick, on both clocks of the machine, read once for all sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickTime {
    /// CLOCK_MONOTONIC, microseconds: never steps, has no meaning outside this process.
    pub monotonic_us: u64,
    /// CLOCK_REALTIME: may step.
    pub wall: WallTime,
}

/// An RTCP sender report (RFC 3550 §6.4.1): the camera's own clock beside its media clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    /// NTP timestamp, 32.32 fixed point, as sent.
    pub ntp: u64,
    /// The RTP time of the report, unwrapped on the same track's media clock.
    pub media_time: MediaTime,
}

/// The codec parameters of a session: known before its first frame, and again whenever they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamParameters {
    /// Video.
    pub video: framekeeper_media::h264::H264Parameters,
    /// Audio, where the stream has one that can be recorded and audio is wanted.
    pub audio: Option<framekeeper_media::aac::AacParameters>,
    /// Why audio that the camera offers is not recorded ("codec PCMU is not supported yet"), for a condition.
    pub audio_left_out: Option<String>,
}

/// Why a session ended or could not begin. Decides the back-off and what a person is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEndKind {
    /// The source was removed or changed by its owner.
    Stopped,
    /// TCP connect failed, or the name did not resolve.
    Unreachable,
    /// 401 or 403 with the credentials given, or credentials missing.
    Unauthorized,
    /// The camera has no room for another session (453 or 503).
    TooManySessions,
    /// 404, or no such path.
    NotFound,
    /// What answers is not RTSP, or breaks the protocol.
    Protocol,
    /// The stream has no codec that can be recorded.
    Unsupported,
    /// The camera closed the session.
    ClosedByCamera,
    /// No packet for the silence limit.
    Silence,
    /// RTP that cannot be followed; the session had to be started again.
    Malformed,
    /// The session's task panicked. A bug, contained.
    Internal,
}

/// The end of a session, or of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// What class of trouble.
    pub kind: SessionEndKind,
    /// For a person: what happened and what would help. Never holds credentials.
    pub message: String,
    /// When the next attempt is due, microseconds from now; `None` when there will be none.
    pub retry_in_us: Option<u64>,
}

/// What happens with a source, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// An attempt begins.
    Connecting,
    /// The session of a source that is held is set up, and plays as soon as that is wanted.
    Ready,
    /// PLAY was answered; parameters come before the first frame.
    Playing(Box<StreamParameters>),
    /// The parameters changed in mid-session; the next frame uses the new ones.
    Parameters(Box<StreamParameters>),
    /// A coded picture.
    Video(AccessUnit),
    /// A coded audio frame.
    Audio(AudioFrame),
    /// RTP packets lost on the video track since the frame before.
    Loss {
        /// How many, by sequence number.
        packets: u64,
    },
    /// Pictures come that nobody can decode whole: none of those so far was a key frame, or some were lost since. Said again each second.
    KeyFrameWanted,
    /// RTP time jumped (more than 10 s against arrival); the next frame starts a new run. The session goes on.
    TimeJump,
    /// Sender report of the video track.
    VideoReport(SenderReport),
    /// Sender report of the audio track.
    AudioReport(SenderReport),
    /// The session ended.
    Ended(SessionEnd),
}

/// Who listens to one source. Called on the tick thread: must not block and must not take long.
pub trait Sink: Send {
    /// Something happened, read in the tick `at`.
    fn event(&mut self, at: TickTime, event: Event);
    /// All sockets have been read in this tick; called once a tick for every source, also when it had no event.
    fn tick(&mut self, at: TickTime);
    /// Whether the source is to be set up and kept alive, but not played (the state `Ready` of RFC 2326 appendix A). Asked before each attempt and
    /// behind each [`Sink::tick`]: where it no longer is so, the session that is there plays at once; where one plays that is to be held, another one
    /// is set up in its place.
    fn holds(&self) -> bool {
        false
    }
}
