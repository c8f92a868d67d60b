//! Access units and audio frames, and the two kinds of time they carry.

use bytes::Bytes;

/// Ticks a second of every video media time (RFC 6184 §5.1 fixes 90 kHz for H.264, RFC 7798 §4.1 for H.265).
pub const VIDEO_CLOCK_HZ: u32 = 90_000;

/// A time on the media clock of one track: RTP time, unwrapped to 64 bits (RFC 3550 §5.1), in ticks of that track's clock rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaTime(pub i64);

/// Wall-clock time: microseconds since 1970-01-01T00:00:00Z, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// This time moved by `micros` microseconds, saturating at the ends of the range.
    #[must_use]
    pub fn saturating_add_us(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// 64-bit identity of a coded frame: XXH3-64 of its VCL NAL units (`docs/format.md` §6). 0 means "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameIdentity(pub u64);

/// What is known of a frame besides its bytes; the bits are those of `docs/format.md` §6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFlags(pub u32);

impl FrameFlags {
    /// Decoding can start here: an IDR picture, or a recovery point with recovery_frame_cnt 0 (H.264 §D.2.8).
    pub const RANDOM_ACCESS: Self = Self(1);
    /// A sync sample in the sense of ISO/IEC 14496-12 §8.6.2.
    pub const SYNC: Self = Self(1 << 1);
    /// RTP packets were lost between the frame before and this one.
    pub const LOSS_BEFORE: Self = Self(1 << 2);
    /// Parts of this frame are missing.
    pub const INCOMPLETE: Self = Self(1 << 3);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One coded video picture with its timestamps, in decoding order.
#[derive(Clone, Debug)]
pub struct AccessUnit {
    /// NAL units, each behind its length as 4 bytes big-endian (ISO/IEC 14496-15 §5.3.2); no parameter sets needed inside.
    pub data: Bytes,
    /// Presentation time on the 90 kHz media clock.
    pub pts: MediaTime,
    /// Random access, loss.
    pub flags: FrameFlags,
    /// Hash of the VCL NAL units.
    pub identity: FrameIdentity,
}

/// One coded audio frame (AAC: a raw_data_block, ISO/IEC 14496-3 §4.4.2.1).
#[derive(Clone, Debug)]
pub struct AudioFrame {
    /// The frame's bytes.
    pub data: Bytes,
    /// Presentation time on the audio clock.
    pub pts: MediaTime,
    /// How long it plays, in ticks of the audio clock (AAC-LC: 1024 samples).
    pub duration: u32,
}
