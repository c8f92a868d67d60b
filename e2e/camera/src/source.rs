//! Where a camera's coded pictures come from.

use crate::h264::{Coded, Encoder, Format, Picture};
use crate::spec::{CameraSpec, VideoKind};

/// Ticks a second of the video clock.
pub(crate) const VIDEO_CLOCK: i64 = 90_000;

/// Yields coded pictures in coding order, one each frame interval.
pub(crate) trait VideoSource: Send {
    /// SPS and PPS as they are now.
    fn parameter_sets(&self) -> [&[u8]; 2];
    /// Pictures until the next key frame; 0 if it comes next.
    fn frames_to_key(&self) -> u32;
    /// Codes picture `number`, due for decoding at `decode_time`; gives back its presentation time.
    /// Both in 1/90000 s.
    fn next(&mut self, number: u64, decode_time: i64, out: &mut Coded) -> i64;
    /// How much later than its decoding time a key frame is presented, in 1/90000 s.
    fn key_delay(&self) -> i64;
    /// The next picture is a key frame.
    fn restart(&mut self);
    /// The next picture is a key frame of this size; `false` if this source can't.
    fn resize(&mut self, width: u32, height: u32) -> bool;
}

impl VideoSource for Encoder {
    fn parameter_sets(&self) -> [&[u8]; 2] {
        Encoder::parameter_sets(self)
    }

    fn frames_to_key(&self) -> u32 {
        Encoder::frames_to_key(self)
    }

    fn next(&mut self, number: u64, decode_time: i64, out: &mut Coded) -> i64 {
        self.encode(number, decode_time, out);
        decode_time
    }

    fn key_delay(&self) -> i64 {
        0
    }

    fn restart(&mut self) {
        self.force_key();
    }

    fn resize(&mut self, width: u32, height: u32) -> bool {
        *self = Encoder::new(Format { width, height, ..*self.format() });
        true
    }
}

/// The encoder that a synthetic, frozen or black camera asks for.
pub(crate) fn encoder(spec: &CameraSpec) -> Encoder {
    Encoder::new(Format {
        width: spec.width,
        height: spec.height,
        fps: spec.fps,
        bitrate_bps: spec.bitrate,
        gop: spec.gop,
        slices: spec.slices,
        picture: match spec.kind {
            VideoKind::Frozen => Picture::Frozen,
            VideoKind::Black => Picture::Black,
            VideoKind::Synthetic | VideoKind::Clip => Picture::Moving,
        },
        seed: spec.effective_seed(),
    })
}
