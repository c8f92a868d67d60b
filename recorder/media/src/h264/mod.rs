//! H.264 (ISO/IEC 14496-10): parameter sets, and what a frame's NAL units say about it.

mod nal;
mod parameters;
mod sps;

pub use nal::{NalSummary, annexb_to_avcc, classify, first_mb_in_slice, random_access_flags, split_annexb, split_nals};
pub(crate) use nal::{nal_type, strip_trailing_zeros};
pub use parameters::{Colour, H264Parameters};

/// The widest and highest picture that is accepted, in luma samples.
pub const MAX_DIMENSION: u32 = 16_384;

/// Why H.264 bytes were refused. Nothing but other bytes helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum H264Error {
    /// A parameter set that is not one, ends early, or has a field out of its range.
    #[error("{set} is malformed: {field}")]
    Malformed {
        /// "SPS", "PPS" or "avcC".
        set: &'static str,
        /// The syntax element, in the standard's name, or what is wrong.
        field: &'static str,
    },
    /// A picture size beyond [`MAX_DIMENSION`], or of nothing.
    #[error("SPS: picture of {width} x {height} samples; 1 to 16384 each way are supported")]
    Size {
        /// Luma samples after cropping.
        width: u32,
        /// Luma samples after cropping.
        height: u32,
    },
    /// A NAL unit's length prefix reaches past the end of the frame, or is 0.
    #[error("NAL unit of {length} bytes where {left} are left")]
    NalLength {
        /// What the prefix says.
        length: usize,
        /// Bytes behind the prefix.
        left: usize,
    },
}
