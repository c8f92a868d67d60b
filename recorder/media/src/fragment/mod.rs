//! Fragments: `moof` with the frames box, and `mdat` (`docs/format.md` §6).

mod decode;
mod encode;

use bytes::Bytes;

pub use decode::{FragmentHead, StoredAudio, StoredVideo, Verifier, decode, moof_length};
pub use encode::{EncodedFragment, FragmentSpec, encode, length_of, max_length};

use crate::boxes::BoxError;
use crate::unit::{FrameFlags, FrameIdentity, WallTime};

/// Longest `moof` that is read, in bytes: 100,000 frames.
pub const MAX_MOOF_BYTES: u64 = 4 << 20;

/// default_sample_flags of a frame that depends on others and is no sync sample (ISO/IEC 14496-12 §8.8.3.1).
const DEPENDENT: u32 = 0x0101_0000;
/// Flags of a sample that depends on no other.
const INDEPENDENT: u32 = 0x0200_0000;

const TFHD_VIDEO: u32 = 0x02_0020;
const TFHD_AUDIO: u32 = 0x02_0028;
const TRUN_VIDEO: u32 = 0x0305;
const TRUN_COMPOSITION_OFFSETS: u32 = 0x0800;
const TRUN_AUDIO: u32 = 0x0201;
const TRUN_DURATIONS: u32 = 0x0100;

/// Of the frames box.
const BEGINS_RANDOM_ACCESS: u16 = 1;
const CONTINUES_GOP: u16 = 2;
const FRAMES_FIXED_LENGTH: usize = 72;
const FRAME_LENGTH: usize = 24;

const NAME: &str = "frames";

/// A video frame, placed in file time.
#[derive(Clone, Debug)]
pub struct VideoSample {
    /// NAL units behind 4-byte lengths.
    pub data: Bytes,
    /// File time of decoding, 90 kHz.
    pub dts: u64,
    /// Ticks up to the next frame's decode time. What is written for all but the last frame is the difference to the next `dts`.
    pub duration: u32,
    /// Presentation less decode time, 90 kHz.
    pub composition_offset: i32,
    /// Wall time of presentation.
    pub wall: WallTime,
    /// Hash of the VCL NAL units.
    pub identity: FrameIdentity,
    /// Random access, sync, loss.
    pub flags: FrameFlags,
}

/// An audio frame, placed in file time.
#[derive(Clone, Debug)]
pub struct AudioSample {
    /// The frame.
    pub data: Bytes,
    /// File time, in ticks of the audio timescale.
    pub dts: u64,
    /// In ticks of the audio timescale. What is written for all but the last frame is the difference to the next `dts`.
    pub duration: u32,
}

/// Why a fragment could not be made, or is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The caller's frames can't make a fragment.
    #[error("no fragment can be made: {what}")]
    Input {
        /// Which rule they break.
        what: &'static str,
    },
    /// More bytes are needed to say anything.
    #[error("the fragment's head ends early")]
    Short,
    /// What stands here is no fragment of ours, or a damaged one.
    #[error("no fragment here: {what}")]
    Malformed {
        /// The box and field.
        what: &'static str,
    },
    /// The frames box is missing, of another version, or odd.
    #[error(transparent)]
    Frames(#[from] BoxError),
    /// The bytes do not check.
    #[error("the fragment does not check: CRC32C is {computed:08x}, the frames box says {stored:08x}")]
    Crc {
        /// Over the bytes.
        computed: u32,
        /// In the box.
        stored: u32,
    },
}
