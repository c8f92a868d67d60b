//! What a camera does that codes for each session: the same scene in other bytes, with key frames of the session's own.

use crate::camera::{Frame, Track};
use crate::h264::{Coded, Encoder};
use crate::ledger::video_identity;
use crate::rtp::Packets;
use crate::sdp::VIDEO_PAYLOAD_TYPE;
use crate::source::encoder;
use crate::spec::CameraSpec;

/// One session's encoder. Its first picture is a key frame.
pub(crate) struct Recoder {
    encoder: Encoder,
    coded: Coded,
    mtu: usize,
}

impl std::fmt::Debug for Recoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recoder").field("key", &self.coded.key).finish_non_exhaustive()
    }
}

impl Recoder {
    /// The encoder of a session with this number, where the camera has one for each.
    pub(crate) fn of(spec: &CameraSpec, session: u64) -> Option<Self> {
        // A seed is odd, so the number goes above its last bit.
        let own = CameraSpec { seed: spec.effective_seed() ^ (session << 1) | 1, ..spec.clone() };
        spec.per_session.then(|| Self { encoder: encoder(&own), coded: Coded::default(), mtu: spec.mtu })
    }

    /// A picture that the camera emitted, as this session gets it, and its identity.
    pub(crate) fn code(&mut self, picture: &Frame) -> (Frame, u64) {
        self.encoder.encode(picture.number, picture.media_time, &mut self.coded);
        let mut packets = Packets::default();
        packets.h264(self.coded.iter(), VIDEO_PAYLOAD_TYPE, self.mtu);
        let frame = Frame {
            track: Track::Video,
            number: picture.number,
            media_time: picture.media_time,
            key: self.coded.key,
            bytes: self.coded.bytes.len() as u32,
            packets,
        };
        (frame, video_identity(self.coded.iter()))
    }
}
