//! Counters of each source, for metrics: written on the tick thread, read anywhere.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use framekeeper_media::WallTime;

/// What was counted for one source since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Bytes of RTP and RTCP received, with interleaved framing.
    pub bytes: u64,
    /// RTP and RTCP packets received.
    pub packets: u64,
    /// RTP packets lost, by sequence number.
    pub lost_packets: u64,
    /// Packets that could not be used.
    pub malformed_packets: u64,
    /// Video frames delivered.
    pub video_frames: u64,
    /// Audio frames delivered.
    pub audio_frames: u64,
    /// Video frames before a session's first random access point, not delivered.
    pub skipped_frames: u64,
    /// Video frames left out because parts of them were missing.
    pub damaged_frames: u64,
    /// Attempts begun.
    pub attempts: u64,
    /// Sessions that came to play.
    pub sessions: u64,
    /// Panics contained.
    pub panics: u64,
    /// When the last packet was read; `None` before the first.
    pub last_packet: Option<WallTime>,
    /// Whether a session plays now.
    pub playing: bool,
}

const NEVER: i64 = i64::MIN;

/// The shared form.
#[derive(Debug)]
pub(crate) struct Counters {
    numbers: [AtomicU64; 12],
    last_packet_us: AtomicI64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { numbers: Default::default(), last_packet_us: AtomicI64::new(NEVER) }
    }
}

impl Counters {
    /// Publishes `stats`. Each number is right by itself; the set may be torn between two ticks.
    pub(crate) fn publish(&self, stats: &SourceStats) {
        let SourceStats {
            bytes,
            packets,
            lost_packets,
            malformed_packets,
            video_frames,
            audio_frames,
            skipped_frames,
            damaged_frames,
            attempts,
            sessions,
            panics,
            last_packet,
            playing,
        } = *stats;
        let values = [
            bytes,
            packets,
            lost_packets,
            malformed_packets,
            video_frames,
            audio_frames,
            skipped_frames,
            damaged_frames,
            attempts,
            sessions,
            panics,
            u64::from(playing),
        ];
        for (cell, value) in self.numbers.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
        self.last_packet_us.store(last_packet.map_or(NEVER, |t| t.0), Ordering::Relaxed);
    }

    /// What was published last.
    pub(crate) fn snapshot(&self) -> SourceStats {
        let [
            bytes,
            packets,
            lost_packets,
            malformed_packets,
            video_frames,
            audio_frames,
            skipped_frames,
            damaged_frames,
            attempts,
            sessions,
            panics,
            playing,
        ] = self.numbers.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        let last_packet = Some(self.last_packet_us.load(Ordering::Relaxed)).filter(|us| *us != NEVER).map(WallTime);
        SourceStats {
            bytes,
            packets,
            lost_packets,
            malformed_packets,
            video_frames,
            audio_frames,
            skipped_frames,
            damaged_frames,
            attempts,
            sessions,
            panics,
            last_packet,
            playing: playing != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let c = Counters::default();
        assert_eq!(c.snapshot(), SourceStats::default());
        let s = SourceStats {
            bytes: 1,
            packets: 2,
            lost_packets: 3,
            malformed_packets: 4,
            video_frames: 5,
            audio_frames: 6,
            skipped_frames: 7,
            damaged_frames: 8,
            attempts: 9,
            sessions: 10,
            panics: 11,
            last_packet: Some(WallTime(0)),
            playing: true,
        };
        c.publish(&s);
        assert_eq!(c.snapshot(), s);
    }
}
