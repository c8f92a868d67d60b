//! How the memory that this process may use is shared out, and how much a recorder's channels ask for. Pure.
//!
//! The promise (`docs/limits.md`): with twice the load that the memory is rated for, and everybody watching, at most 80 % of it are in use.
//! Frames get two fifths, playback a tenth on top of what it finds at 70 %; the rest is what a process takes by itself and what grows with
//! the number of channels.

/// What the process takes with no channel: programs, buffers of the volumes' writers, catalogues, connections.
const PROCESS_BYTES: u64 = 64 << 20;
/// What a channel takes beside its frames: its session, its segment's index, a block of its file, what the allocator adds.
const CHANNEL_BYTES: u64 = 512 << 10;
/// Frames that are not durable yet: a part, a tick, a sync interval.
const AT_RISK_MS: u64 = 1_100;
/// The last seconds of a stream that another recorder records.
const RING_MS: u64 = 7_000;
/// What a session takes that does not play.
const HELD_BYTES: u64 = 128 << 10;
/// A channel of which nothing is known yet counts as one of 4 Mbit/s with a key frame every two seconds.
const ASSUMED: ChannelLoad =
    ChannelLoad { gop_bytes: Some(1_000_000), bits_per_second: 4_000_000, stands_by: false, is_held: false };
/// The memory that a load is rated for is so many halves of what it takes: twice the load then takes at most four sevenths, and the GOPs of the
/// load itself fit into three quarters of what frames get, beyond which the store lets go of them.
const RATED_HALVES: u64 = 7;

/// Frames of all streams get at most that, whatever there is: 500 channels of 4 MiB.
const FRAMES_AT_MOST: u64 = 2 << 30;
/// Frames of one stream: 4 s of 50 Mbit/s.
const STREAM_FRAMES_AT_MOST: u64 = 24 << 20;
/// What readers keep.
const READER_CACHE_AT_MOST: u64 = 12 << 20;
/// What serving keeps of where frames are.
const SERVE_CACHE_AT_MOST: u64 = 48 << 20;
/// What a clip takes while it is sent.
const CLIP_BYTES: u64 = 1 << 20;
/// More clips at once than this serve nobody better.
const CLIPS_AT_MOST: u64 = 64;
/// What a connection takes with its buffers.
const CONNECTION_BYTES: u64 = 64 << 10;

/// What each part may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Of all streams' frames.
    pub(crate) frames_bytes: usize,
    /// Of one stream's frames.
    pub(crate) stream_frames_bytes: usize,
    /// Of what readers keep.
    pub(crate) reader_cache_bytes: usize,
    /// Of where frames are, for serving.
    pub(crate) serve_cache_bytes: usize,
    /// Clips that may be sent at once.
    pub(crate) clips: usize,
    /// HTTP connections that memory allows.
    pub(crate) connections: u64,
}

impl Shares {
    /// Of so many bytes.
    pub(crate) fn of(limit_bytes: u64) -> Self {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let frames = (limit_bytes / 5 * 2).min(FRAMES_AT_MOST);
        Self {
            frames_bytes: bytes(frames),
            stream_frames_bytes: bytes(frames.min(STREAM_FRAMES_AT_MOST)),
            reader_cache_bytes: bytes((limit_bytes / 20).min(READER_CACHE_AT_MOST)),
            serve_cache_bytes: bytes((limit_bytes / 20).min(SERVE_CACHE_AT_MOST)),
            clips: bytes((limit_bytes / 10 / CLIP_BYTES).clamp(2, CLIPS_AT_MOST)),
            connections: limit_bytes / 20 / CONNECTION_BYTES,
        }
    }
}

/// What is known of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelLoad {
    /// Of a whole GOP; `None` before one was seen.
    pub(crate) gop_bytes: Option<u64>,
    /// Video and audio.
    pub(crate) bits_per_second: u64,
    /// Another recorder records it, and its last seconds are kept in memory here.
    pub(crate) stands_by: bool,
    /// Another recorder records it, and its session here does not play.
    pub(crate) is_held: bool,
}

/// Bytes of memory that a recorder with these channels should have, where so many of those that are held may come to record.
pub(crate) fn needed_bytes(channels: impl IntoIterator<Item = ChannelLoad>, mut takeovers: u32) -> u64 {
    let mut channel = |load: ChannelLoad| {
        if load.is_held && takeovers == 0 {
            return HELD_BYTES;
        }
        takeovers -= u32::from(load.is_held);
        let stands_by = load.stands_by;
        let load = if load.gop_bytes.is_some() { load } else { ASSUMED };
        let kept_ms = if stands_by { RING_MS } else { AT_RISK_MS };
        let at_risk = load.bits_per_second / 8 * kept_ms / 1_000;
        CHANNEL_BYTES + load.gop_bytes.unwrap_or(0) + at_risk
    };
    PROCESS_BYTES + channels.into_iter().map(&mut channel).sum::<u64>() * RATED_HALVES / 2
}

/// Whether the memory is rated for what the channels ask for; with some distance between yes and no.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rating {
    short: bool,
}

impl Rating {
    /// So many bytes are needed now: whether that is more than there are.
    pub(crate) fn look(&mut self, needed_bytes: u64, limit_bytes: u64) -> bool {
        let enough = if self.short { limit_bytes / 10 * 9 } else { limit_bytes };
        self.short = needed_bytes > enough;
        self.short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn every_part_has_a_bound() {
        let small = Shares::of(160 << 20);
        assert_eq!(small.frames_bytes, 64 << 20);
        assert_eq!((small.reader_cache_bytes, small.clips, small.connections), (8 << 20, 16, 128));
        let large = Shares::of(64 * GIB);
        assert_eq!((large.frames_bytes, large.stream_frames_bytes), (2 << 30, 24 << 20));
        assert_eq!((large.reader_cache_bytes, large.clips), (12 << 20, 64));
        assert_eq!(Shares::of(0).clips, 2);
    }

    /// The sum that `docs/limits.md` gives: 64 MiB and seven halves of each channel's frames and half a MiB.
    #[test]
    fn what_channels_need() {
        assert_eq!(needed_bytes([], 0), 64 << 20);
        let known = ChannelLoad { gop_bytes: Some(1_000_000), bits_per_second: 4_000_000, ..ChannelLoad::default() };
        assert_eq!(needed_bytes([known], 0), (64 << 20) + (524_288 + 1_000_000 + 550_000) * 7 / 2);
        assert_eq!(needed_bytes([ChannelLoad::default(); 100], 0), needed_bytes([known; 100], 0), "nothing known yet");
        assert!((750..800).contains(&(needed_bytes([known; 100], 0) >> 20)));
        let standby = ChannelLoad { stands_by: true, ..known };
        assert_eq!(needed_bytes([standby], 0), (64 << 20) + (524_288 + 1_000_000 + 3_500_000) * 7 / 2);
        // Half of what frames get is for those that nobody records yet.
        // Of those that are held, as many count as may come to record here.
        let held = ChannelLoad { is_held: true, ..ChannelLoad::default() };
        assert_eq!(needed_bytes([held; 4], 0), (64 << 20) + 4 * 131_072 * 7 / 2);
        assert_eq!(needed_bytes([held; 4], 1), needed_bytes([held, held, held, known], 0));
        let limit = needed_bytes([standby; 100], 0);
        assert!(100 * (1_000_000 + 3_500_000) <= Shares::of(limit).frames_bytes / 2 * 3 / 2, "{limit}");
    }

    #[test]
    fn the_gops_of_what_the_memory_is_rated_for_fit_into_three_quarters_of_what_frames_get() {
        for (bits_per_second, gop_s, channels) in
            [(4_000_000, 2, 100), (50_000_000, 1, 30), (500_000, 10, 400), (8_000_000, 4, 1)]
        {
            let gop_bytes = Some(bits_per_second / 8 * gop_s);
            let limit = needed_bytes(
                vec![ChannelLoad { gop_bytes, bits_per_second, stands_by: false, is_held: false }; channels],
                0,
            );
            let frames = channels as u64 * (bits_per_second / 8 * gop_s + bits_per_second * 11 / 80);
            assert!(frames <= Shares::of(limit).frames_bytes as u64 / 4 * 3, "{bits_per_second} {gop_s} {channels}");
        }
    }

    #[test]
    fn it_does_not_flap() {
        let mut rating = Rating::default();
        assert_eq!(
            [1_000, 1_001, 950, 901, 900, 950].map(|bytes| rating.look(bytes, 1_000)),
            [false, true, true, true, false, false]
        );
    }
}
