//! What a channel shows to other threads: numbers, published once a tick, and texts, published at transitions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use framekeeper_crds::ChannelState;
use framekeeper_ingest::{StreamParameters, TickTime};
use framekeeper_media::WallTime;
use framekeeper_store::GapReason;

use super::core::{Counts, Report};

const NEVER: i64 = i64::MIN;
/// Over how long frame rate and bitrate are measured.
const RATE_WINDOW_US: u64 = 4_000_000;
/// How often they are measured.
const RATE_STEP_US: u64 = 1_000_000;

/// The shared side of one channel. Written by the tick thread only.
#[derive(Debug)]
pub(crate) struct ChannelStats {
    video_frames: AtomicU64,
    audio_frames: AtomicU64,
    bytes: AtomicU64,
    key_frames: AtomicU64,
    asked: AtomicU64,
    not_asked: AtomicU64,
    sessions: AtomicU64,
    lost_packets: AtomicU64,
    last_frame_us: AtomicI64,
    bits_per_second: AtomicU64,
    millihertz: AtomicU64,
    condition: Mutex<Condition>,
    video: Mutex<Option<Video>>,
    gaps: Mutex<Vec<(GapReason, u64)>>,
    ends: Mutex<Vec<(&'static str, u64)>>,
}

/// What a channel does, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// What it does.
    pub(crate) state: ChannelState,
    /// One word in CamelCase.
    pub(crate) reason: &'static str,
    /// The same as a sentence.
    pub(crate) message: String,
    /// Since when.
    pub(crate) since: WallTime,
}

/// What the session's parameters say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Video {
    /// As in RFC 6381: `avc1.64001f`.
    pub(crate) codec: String,
    /// As in RFC 6381: `mp4a.40.2`.
    pub(crate) audio_codec: Option<String>,
    /// In pixels.
    pub(crate) width: u32,
    /// In pixels.
    pub(crate) height: u32,
    /// Why audio that the camera offers is not recorded.
    pub(crate) audio_left_out: Option<String>,
}

/// A copy of everything.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) counts: Counts,
    /// Sessions that ended, and attempts that failed, by why.
    pub(crate) ends: Vec<(&'static str, u64)>,
    pub(crate) lost_packets: u64,
    /// Key frames that the camera was asked for over ONVIF.
    pub(crate) key_frames_asked: u64,
    /// And that it could not be asked for.
    pub(crate) key_frames_refused: u64,
    pub(crate) last_frame: Option<WallTime>,
    pub(crate) bits_per_second: u64,
    pub(crate) frames_per_second: f64,
    pub(crate) condition: Condition,
    pub(crate) video: Option<Video>,
    /// Gaps by reason; the first run of a stream and the going-on in another epoch are none.
    pub(crate) gaps: Vec<(GapReason, u64)>,
}

impl ChannelStats {
    /// Of a channel that is about to connect.
    pub(crate) fn new(condition: Condition) -> Self {
        Self {
            video_frames: AtomicU64::new(0),
            audio_frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            key_frames: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            not_asked: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            lost_packets: AtomicU64::new(0),
            last_frame_us: AtomicI64::new(NEVER),
            bits_per_second: AtomicU64::new(0),
            millihertz: AtomicU64::new(0),
            condition: Mutex::new(condition),
            video: Mutex::new(None),
            gaps: Mutex::new(Vec::new()),
            ends: Mutex::new(Vec::new()),
        }
    }

    /// Numbers, once a tick.
    pub(crate) fn publish(&self, counts: &Counts, last_frame: Option<WallTime>) {
        self.video_frames.store(counts.video_frames, Ordering::Relaxed);
        self.audio_frames.store(counts.audio_frames, Ordering::Relaxed);
        self.bytes.store(counts.bytes, Ordering::Relaxed);
        self.key_frames.store(counts.key_frames, Ordering::Relaxed);
        self.sessions.store(counts.sessions, Ordering::Relaxed);
        self.last_frame_us.store(last_frame.map_or(NEVER, |time| time.0), Ordering::Relaxed);
    }

    /// Rates, once a second.
    pub(crate) fn publish_rates(&self, rates: Rates) {
        self.bits_per_second.store(rates.bits_per_second, Ordering::Relaxed);
        self.millihertz.store(rates.millihertz, Ordering::Relaxed);
    }

    /// The camera was asked for a key frame over ONVIF, or could not be.
    pub(crate) fn asked_for_key_frame(&self, asked: bool) {
        let count = if asked { &self.asked } else { &self.not_asked };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Packets were lost.
    pub(crate) fn lost(&self, packets: u64) {
        self.lost_packets.fetch_add(packets, Ordering::Relaxed);
    }

    /// A session ended, or an attempt failed.
    pub(crate) fn ended(&self, reason: &'static str) {
        count(&mut lock(&self.ends), reason);
    }

    /// A run began behind a gap.
    pub(crate) fn run(&self, gap: GapReason) {
        if !matches!(gap, GapReason::NoGap | GapReason::FirstRun) {
            count(&mut lock(&self.gaps), gap);
        }
    }

    /// A transition.
    pub(crate) fn set_condition(&self, report: &Report, since: WallTime) {
        let mut condition = lock(&self.condition);
        // What changes is only the reason: it has been in this state since before.
        let since = if condition.state == report.state { condition.since } else { since };
        *condition = Condition { state: report.state, reason: report.reason, message: report.message.clone(), since };
    }

    /// The parameters of a new session.
    pub(crate) fn set_parameters(&self, parameters: &StreamParameters) {
        *lock(&self.video) = Some(Video {
            codec: parameters.video.codec_string(),
            audio_codec: parameters.audio.as_ref().map(|audio| audio.codec_string()),
            width: parameters.video.width,
            height: parameters.video.height,
            audio_left_out: parameters.audio_left_out.clone(),
        });
    }

    /// Video and audio, over the last seconds.
    pub(crate) fn bits_per_second(&self) -> u64 {
        self.bits_per_second.load(Ordering::Relaxed)
    }

    /// What the channel does.
    pub(crate) fn condition(&self) -> Condition {
        lock(&self.condition).clone()
    }

    /// Everything.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Snapshot {
            counts: Counts {
                video_frames: load(&self.video_frames),
                audio_frames: load(&self.audio_frames),
                bytes: load(&self.bytes),
                key_frames: load(&self.key_frames),
                sessions: load(&self.sessions),
            },
            ends: lock(&self.ends).clone(),
            lost_packets: load(&self.lost_packets),
            key_frames_asked: load(&self.asked),
            key_frames_refused: load(&self.not_asked),
            last_frame: Some(self.last_frame_us.load(Ordering::Relaxed)).filter(|us| *us != NEVER).map(WallTime),
            bits_per_second: load(&self.bits_per_second),
            frames_per_second: load(&self.millihertz) as f64 / 1000.0,
            condition: self.condition(),
            video: lock(&self.video).clone(),
            gaps: lock(&self.gaps).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing done under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count<T: PartialEq>(counts: &mut Vec<(T, u64)>, what: T) {
    match counts.iter_mut().find(|(other, _)| *other == what) {
        Some((_, count)) => *count = count.saturating_add(1),
        None => counts.push((what, 1)),
    }
}

/// Rates over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Video and audio.
    pub(crate) bits_per_second: u64,
    /// Video frames in 1000 seconds.
    pub(crate) millihertz: u64,
}

/// Measures [`Rates`].
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    /// Monotonic time, bytes, video frames.
    samples: VecDeque<(u64, u64, u64)>,
}

impl RateMeter {
    /// Called each tick; gives rates about once a second.
    pub(crate) fn tick(&mut self, at: TickTime, counts: &Counts) -> Option<Rates> {
        let now_us = at.monotonic_us;
        if self.samples.back().is_some_and(|sample| now_us.saturating_sub(sample.0) < RATE_STEP_US) {
            return None;
        }
        self.samples.push_back((now_us, counts.bytes, counts.video_frames));
        while self.samples.get(1).is_some_and(|second| now_us.saturating_sub(second.0) >= RATE_WINDOW_US) {
            self.samples.pop_front();
        }
        let (since_us, bytes, frames) = self.samples.front().copied()?;
        let span_us = now_us.saturating_sub(since_us);
        let per_second = |amount: u64, factor: u64| {
            let rate = u128::from(amount) * u128::from(factor) * 1_000_000 / u128::from(span_us.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        (span_us > 0).then(|| Rates {
            bits_per_second: per_second(counts.bytes.saturating_sub(bytes), 8),
            millihertz: per_second(counts.video_frames.saturating_sub(frames), 1000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut meter = RateMeter::default();
        let mut counts = Counts::default();
        let mut last = Rates::default();
        for tick in 0..200_u64 {
            // 25 frames/s and 1 Mbit/s, then silence.
            if tick < 100 {
                counts.video_frames = tick * 5 / 2;
                counts.bytes = tick * 12_500;
            }
            let at = TickTime { monotonic_us: tick * 100_000, wall: WallTime(0) };
            last = meter.tick(at, &counts).unwrap_or(last);
            if tick == 95 {
                assert_eq!(last.bits_per_second, 1_000_000);
                assert!((24_000..=26_000).contains(&last.millihertz), "{last:?}");
            }
        }
        assert_eq!(last, Rates::default());
    }
}
