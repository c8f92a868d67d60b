//! What a decoder of pictures may take of the memory that is left. Pure.
//!
//! Decoders are processes of their own in the recorder's control group. Where that runs out of memory the kernel ends one of its processes, and with
//! cgroup v2, as the kubelet sets it up, all of them: the recorder too. So none begins without memory for it, and none may take more than its part.

use std::fmt;

/// With less than this no decoder gets far: its libraries, a thread, and a small picture.
const LEAST_BYTES: u64 = 48 << 20;

/// What a person can do where memory does not suffice for pictures.
pub(crate) const RAISE: &str =
    "the pool's memory limit may be raised (template.resources.limits.memory; docs/limits.md)";

/// Too little memory is left for a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecoderShort {
    /// What one takes at least.
    needed_bytes: u64,
    at_once: u64,
    left_bytes: u64,
}

impl fmt::Display for DecoderShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed_bytes, at_once, left_bytes } = self;
        let missing_bytes = needed_bytes.saturating_mul(*at_once).saturating_sub(*left_bytes);
        write!(
            f,
            "decoding this picture takes at least {} MiB of memory, {at_once} may be decoded at once, and {} MiB are left beside recording: {} MiB are \
             missing; {RAISE}",
            needed_bytes.div_ceil(1 << 20),
            left_bytes >> 20,
            missing_bytes.div_ceil(1 << 20)
        )
    }
}

/// Bytes that a decoder may take where so many are left and `at_once` decoders may run, for a picture of so many coded bytes.
///
/// # Errors
/// When that would be too little for it to get anywhere.
pub(crate) fn decoder_bytes(left_bytes: u64, at_once: u64, coded_bytes: u64) -> Result<u64, DecoderShort> {
    let part = left_bytes / at_once.max(1);
    // It has the coded frames in memory as well.
    let needed_bytes = LEAST_BYTES.saturating_add(coded_bytes);
    if part < needed_bytes {
        return Err(DecoderShort { needed_bytes, at_once, left_bytes });
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn each_of_those_that_may_run_gets_its_part_of_what_is_left() {
        assert_eq!(decoder_bytes(1_000 * MIB, 2, 0), Ok(500 * MIB));
        assert_eq!(decoder_bytes(96 * MIB, 2, 0), Ok(48 * MIB));
        assert_eq!(decoder_bytes(98 * MIB, 2, MIB), Ok(49 * MIB));
        assert_eq!(decoder_bytes(u64::MAX, 1, u64::MAX), Ok(u64::MAX));
    }

    #[test]
    fn what_is_missing_is_said() {
        let short = decoder_bytes(60 * MIB, 2, 1).unwrap_err();
        let said = short.to_string();
        assert!(said.contains("at least 49 MiB") && said.contains("60 MiB are left"), "{said}");
        assert!(said.contains("37 MiB are missing") && said.contains("template.resources.limits.memory"), "{said}");
        assert!(decoder_bytes(96 * MIB - 1, 2, 0).is_err() && decoder_bytes(96 * MIB, 2, 1).is_err());
        assert!(decoder_bytes(0, 2, 0).unwrap_err().to_string().contains("96 MiB are missing"));
    }
}
