//! What an engine is: something that opens sessions, and a session is something that is read once a tick.
//!
//! An engine does not retry, does not watch for silence and keeps no statistics beyond one session: that is the same for all
//! engines and lives in `source.rs`. It runs on the tick thread, inside a current-thread tokio runtime whose I/O and time drivers turn
//! between reads; it must not block there, and nothing of it may wake the thread between ticks.

use std::time::Duration;

use bytes::Bytes;
use framekeeper_media::{AudioFrame, MediaTime};

use crate::event::{SenderReport, SessionEndKind, StreamParameters, TickTime};
use crate::spec::SourceSpec;

/// Opens sessions.
pub trait Engine {
    /// Begins an attempt; with `hold` it stops at [`Progress::Ready`] until it is played. Must not block; failing is told by the session.
    fn open(&self, spec: &SourceSpec, hold: bool) -> Box<dyn Session>;

    /// All sessions have been read in the tick `at`: time for what the engine does for those that are closed.
    fn tick(&self, _at: TickTime) {}

    /// Waits until the sessions that were closed have said good-bye, at most `limit`. Called once, when everything ends.
    fn drain(&self, limit: Duration) -> futures::future::LocalBoxFuture<'_, ()>;
}

/// One attempt, and the session that comes of it. Dropping it closes it, in an orderly way where that can be done in the background.
pub trait Session {
    /// Reads what has arrived, puts it into `out` in order, and says how the session stands. After [`Progress::Ended`] it is dropped.
    fn read(&mut self, at: TickTime, out: &mut Vec<Item>) -> Progress;

    /// A session of a source that was held is to play: at once, or as soon as it is set up.
    fn play(&mut self, at: TickTime);

    /// Pictures come that nobody can decode whole: the camera is to be asked for a key frame, where it can be.
    fn want_key_frame(&mut self);

    /// What was counted since the session began.
    fn traffic(&self) -> Traffic;
}

/// How a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The hand-shake is under way; answers may come within milliseconds.
    Opening,
    /// Everything is set up and kept alive; [`Session::play`] is waited for.
    Ready,
    /// PLAY was answered.
    Playing,
    /// It is over, or never came to be.
    Ended(Failure),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub kind: SessionEndKind,
    /// For a person; no credentials.
    pub message: String,
}

impl Failure {
    /// A failure of `kind` with a message for a person.
    pub fn new(kind: SessionEndKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What a session yields.
#[derive(Clone, Debug)]
pub enum Item {
    /// PLAY was answered; first of all items. Video parameters may be unknown until they come in-band; then
    /// [`Item::Parameters`] follows before the first video frame.
    Parameters(Box<StreamParameters>),
    /// A coded picture.
    Video(VideoUnit),
    /// A coded audio frame.
    Audio(AudioFrame),
    /// Sender report of the video track.
    VideoReport(SenderReport),
    /// Sender report of the audio track.
    AudioReport(SenderReport),
}

/// A coded picture, before anything was looked up in it.
#[derive(Clone, Debug)]
pub struct VideoUnit {
    /// NAL units behind 4-byte lengths, no parameter sets inside.
    pub data: Bytes,
    /// RTP time, unwrapped.
    pub pts: MediaTime,
    /// RTP packets lost or unusable between the picture before and this one; pictures that were damaged by it were left out.
    pub lost_packets: u64,
}

/// Counters of one session. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of RTP and RTCP packets with their interleaved framing.
    pub bytes: u64,
    /// RTP and RTCP packets.
    pub packets: u64,
    /// RTP packets lost, by sequence number, on all tracks.
    pub lost_packets: u64,
    /// Packets that could not be used.
    pub malformed_packets: u64,
    /// Pictures left out because parts of them were missing.
    pub damaged_frames: u64,
}
