//! RTP's short counters, extended (RFC 3550 §5.1, §A.1).

use crate::unit::MediaTime;

/// Extends 32-bit RTP timestamps: each is taken as the nearest to the one before, forwards or backwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrapper {
    last: Option<i64>,
}

impl Unwrapper {
    /// One that takes its first timestamp as it is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The unwrapped time of `timestamp`, which becomes the reference for the next.
    pub fn unwrap(&mut self, timestamp: u32) -> MediaTime {
        let time = self.peek(timestamp);
        self.last = Some(time.0);
        time
    }

    /// The unwrapped time of `timestamp`, with the reference left where it is (for sender reports, which may be old).
    #[must_use]
    pub fn peek(&self, timestamp: u32) -> MediaTime {
        let Some(last) = self.last else { return MediaTime(i64::from(timestamp)) };
        // The low 32 bits are the timestamp that `last` came from: truncation is the point.
        let difference = timestamp.wrapping_sub(last as u32).cast_signed();
        MediaTime(last + i64::from(difference))
    }
}

/// Extends 16-bit RTP sequence numbers: each is taken as the nearest to the one before, forwards or backwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceExtender {
    last: Option<i64>,
}

impl SequenceExtender {
    /// One that takes its first number as it is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The extended number, which becomes the reference for the next.
    pub fn extend(&mut self, sequence: u16) -> i64 {
        let extended = match self.last {
            None => i64::from(sequence),
            Some(last) => last + i64::from(sequence.wrapping_sub(last as u16).cast_signed()),
        };
        self.last = Some(extended);
        extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_wrap_forwards_and_backwards() {
        let mut time = Unwrapper::new();
        assert_eq!(time.unwrap(u32::MAX - 10), MediaTime(i64::from(u32::MAX) - 10));
        assert_eq!(time.unwrap(20), MediaTime((1 << 32) + 20));
        assert_eq!(time.peek(u32::MAX), MediaTime((1 << 32) - 1));
        assert_eq!(time.unwrap(u32::MAX - 5), MediaTime((1 << 32) - 6));
        assert_eq!(time.unwrap(21), MediaTime((1 << 32) + 21));
        let mut time = Unwrapper::new();
        time.unwrap(3);
        assert_eq!(time.unwrap(u32::MAX), MediaTime(-1), "before the first wrap there are negative times");
    }

    #[test]
    fn sequence_numbers_extend() {
        let mut sequence = SequenceExtender::new();
        let extended: Vec<i64> = [65_534, 65_535, 1, 0, 2, 40_000].into_iter().map(|n| sequence.extend(n)).collect();
        assert_eq!(extended, [65_534, 65_535, 65_537, 65_536, 65_538, 40_000]);
    }
}
