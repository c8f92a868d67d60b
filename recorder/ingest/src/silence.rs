//! When a playing session counts as silent. Pure: time comes in as a value.

use std::time::Duration;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilenceLimits {
    /// No packet at all, of any track, for this long. Default 5 s.
    pub any: Duration,
    /// No video frame for this long, whatever else comes: a camera may go on sending audio while its encoder hangs. Default 10 s.
    pub video: Duration,
}

impl Default for SilenceLimits {
    fn default() -> Self {
        Self { any: Duration::from_secs(5), video: Duration::from_secs(10) }
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// No packet came.
    Any,
    /// Packets came, but no video frame.
    Video,
}

/// Watches one session from PLAY on.
#[derive(Clone, Copy, Debug)]
pub struct SilenceWatch {
    limits: SilenceLimits,
    packet_at_us: u64,
    video_at_us: u64,
}

impl SilenceWatch {
    /// Begins at `now_us` (monotonic microseconds), the moment of PLAY: the first packet must come within the same limits.
    #[must_use]
    pub fn new(limits: SilenceLimits, now_us: u64) -> Self {
        Self { limits, packet_at_us: now_us, video_at_us: now_us }
    }

    /// Packets were read in this tick.
    pub fn packet(&mut self, now_us: u64) {
        self.packet_at_us = now_us;
    }

    /// A video frame was read in this tick.
    pub fn video(&mut self, now_us: u64) {
        self.packet_at_us = now_us;
        self.video_at_us = now_us;
    }

    /// Whether a limit is over. Ask after all that had arrived was read, so that a process that stood still does not blame a camera.
    #[must_use]
    pub fn check(&self, now_us: u64) -> Option<Silence> {
        let longer = |since_us: u64, limit: Duration| u128::from(now_us.saturating_sub(since_us)) >= limit.as_micros();
        if longer(self.packet_at_us, self.limits.any) {
            Some(Silence::Any)
        } else if longer(self.video_at_us, self.limits.video) {
            Some(Silence::Video)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn no_packet_for_five_seconds() {
        let mut w = SilenceWatch::new(SilenceLimits::default(), 100 * S);
        assert_eq!(w.check(105 * S - 1), None);
        assert_eq!(w.check(105 * S), Some(Silence::Any));
        w.packet(104 * S);
        assert_eq!(w.check(108 * S), None);
    }

    #[test]
    fn audio_alone_does_not_keep_a_session_alive() {
        let mut w = SilenceWatch::new(SilenceLimits::default(), 0);
        for t in 1..10 {
            w.packet(t * S);
            assert_eq!(w.check(t * S), None);
        }
        w.packet(10 * S);
        assert_eq!(w.check(10 * S), Some(Silence::Video));
    }

    #[test]
    fn video_counts_for_both() {
        let mut w = SilenceWatch::new(SilenceLimits::default(), 0);
        w.video(9 * S);
        assert_eq!(w.check(13 * S), None);
        assert_eq!(w.check(14 * S), Some(Silence::Any));
    }
}
