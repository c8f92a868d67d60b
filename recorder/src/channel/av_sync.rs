//! Where audio belongs beside the video: the two tracks have media clocks of their own, with unrelated zero points.
//!
//! Sender reports of both tracks (RFC 3550 §6.4.1) say it exactly: each pairs its media clock with the camera's one NTP
//! clock. Until both have one, arrival decides. What was found stays for the run, so that audio never wanders; only the
//! first pair of reports, if it comes within 10 s of the start, corrects what arrival said, once.

use framekeeper_ingest::{SenderReport, TickTime};
use framekeeper_media::MediaTime;

use super::wall_clock::video_us;

/// How long after the first frame sender reports may still correct what arrival said.
const CORRECTABLE_US: u64 = 10_000_000;
/// Sender reports further than this from what arrival says are nonsense: cameras exist that report one track as of 1970.
const PLAUSIBLE_US: i64 = 2_000_000;

/// How the audio track's clock relates to the video track's, for one run.
#[derive(Debug)]
pub(crate) struct AvSync {
    audio_rate_hz: u32,
    began_us: Option<u64>,
    video_report: Option<SenderReport>,
    audio_report: Option<SenderReport>,
    video_offset: Offset,
    audio_offset: Offset,
    /// video media time − audio media time, in microseconds, once it was needed.
    delta: Option<Delta>,
    /// The same instant on both clocks, as `delta` says: one for all, so that rounding moves nothing.
    pair: Option<(MediaTime, MediaTime)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delta {
    ByArrival(i64),
    Final(i64),
}

impl AvSync {
    /// For an audio track of this clock rate.
    pub(crate) fn new(audio_rate_hz: u32) -> Self {
        Self {
            audio_rate_hz: audio_rate_hz.max(1),
            began_us: None,
            video_report: None,
            audio_report: None,
            video_offset: Offset::default(),
            audio_offset: Offset::default(),
            delta: None,
            pair: None,
        }
    }

    /// A video frame was read; the sockets had been read before `since_us` microseconds ago.
    pub(crate) fn video(&mut self, at: TickTime, since_us: i64, media: MediaTime) {
        if self.settled() {
            return;
        }
        self.began_us.get_or_insert(at.monotonic_us);
        self.video_offset.observe(at, since_us, video_us(media));
    }

    /// An audio frame was read; the sockets had been read before `since_us` microseconds ago.
    pub(crate) fn audio(&mut self, at: TickTime, since_us: i64, media: MediaTime) {
        if self.settled() {
            return;
        }
        self.began_us.get_or_insert(at.monotonic_us);
        let audio_us = self.audio_us(media);
        self.audio_offset.observe(at, since_us, audio_us);
    }

    /// The video track's first sender report.
    pub(crate) fn video_report(&mut self, at: TickTime, report: SenderReport) {
        if self.video_report.is_none() && report.ntp != 0 {
            self.video_report = Some(report);
            self.correct(at);
        }
    }

    /// The audio track's first sender report.
    pub(crate) fn audio_report(&mut self, at: TickTime, report: SenderReport) {
        if self.audio_report.is_none() && report.ntp != 0 {
            self.audio_report = Some(report);
            self.correct(at);
        }
    }

    /// Video media time, in microseconds, at which an audio frame plays.
    pub(crate) fn video_time_us(&mut self, media: MediaTime) -> i64 {
        let delta_us = match self.delta {
            Some(Delta::ByArrival(delta_us) | Delta::Final(delta_us)) => delta_us,
            None => {
                let by_arrival_us = self.by_arrival_us();
                let delta = match self.by_reports_us(by_arrival_us) {
                    Some(delta_us) => Delta::Final(delta_us),
                    None => Delta::ByArrival(by_arrival_us),
                };
                self.delta = Some(delta);
                let (Delta::ByArrival(delta_us) | Delta::Final(delta_us)) = delta;
                delta_us
            }
        };
        self.audio_us(media).saturating_add(delta_us)
    }

    /// The same instant on the audio clock and on the video clock; `near` is an audio time that it may be taken at.
    pub(crate) fn pair(&mut self, near: MediaTime) -> (MediaTime, MediaTime) {
        if let Some(pair) = self.pair {
            return pair;
        }
        let video_us = self.video_time_us(near);
        let (hundreds, rest) = (video_us.div_euclid(100), video_us.rem_euclid(100));
        let pair = (near, MediaTime(hundreds.saturating_mul(9).saturating_add(rest * 9 / 100)));
        self.pair = Some(pair);
        pair
    }

    fn settled(&self) -> bool {
        matches!(self.delta, Some(Delta::Final(_)))
    }

    fn correct(&mut self, at: TickTime) {
        let Some(Delta::ByArrival(by_arrival_us)) = self.delta else { return };
        let in_time = self.began_us.is_none_or(|began_us| at.monotonic_us.saturating_sub(began_us) <= CORRECTABLE_US);
        if in_time && let Some(delta_us) = self.by_reports_us(by_arrival_us) {
            self.delta = Some(Delta::Final(delta_us));
            self.pair = None;
        }
    }

    fn by_arrival_us(&self) -> i64 {
        match (self.video_offset.estimate_us(), self.audio_offset.estimate_us()) {
            (Some(video_us), Some(audio_us)) => audio_us.saturating_sub(video_us),
            _ => 0,
        }
    }

    fn by_reports_us(&self, by_arrival_us: i64) -> Option<i64> {
        let (video, audio) = (self.video_report?, self.audio_report?);
        let ntp_difference = i128::from(audio.ntp) - i128::from(video.ntp);
        let difference_us = i64::try_from((ntp_difference * 1_000_000) >> 32).ok()?;
        let delta_us =
            video_us(video.media_time).saturating_add(difference_us).saturating_sub(self.audio_us(audio.media_time));
        (delta_us.saturating_sub(by_arrival_us).saturating_abs() <= PLAUSIBLE_US).then_some(delta_us)
    }

    fn audio_us(&self, media: MediaTime) -> i64 {
        let rate = i64::from(self.audio_rate_hz);
        let (seconds, rest) = (media.0.div_euclid(rate), media.0.rem_euclid(rate));
        seconds.saturating_mul(1_000_000).saturating_add(rest * 1_000_000 / rate)
    }
}

/// What arrivals tell of (receive − media) of one track. A frame that is read in a tick came after the tick before, so each
/// frame gives two bounds, and frames that come at all phases of the tick narrow them far below its length.
#[derive(Debug, Default)]
struct Offset {
    /// A frame is never early: the offset is not more than any (read − media).
    at_most_us: Option<i64>,
    /// If no frame was late, it is more than any (read before − media).
    at_least_us: Vec<i64>,
}

/// Lower bounds that are kept: as many frames as come in the first fragment or two, audio included.
const BOUNDS: usize = 64;

impl Offset {
    fn observe(&mut self, at: TickTime, since_us: i64, media_us: i64) {
        let read_us = at.wall.0.saturating_sub(media_us);
        self.at_most_us = Some(self.at_most_us.map_or(read_us, |least| least.min(read_us)));
        if self.at_least_us.len() < BOUNDS {
            self.at_least_us.push(read_us.saturating_sub(since_us.max(0)));
        }
    }

    fn estimate_us(&self) -> Option<i64> {
        let at_most_us = self.at_most_us?;
        // Bounds above the upper one are those of frames that were late.
        let at_least_us = self.at_least_us.iter().copied().filter(|bound| *bound <= at_most_us).max();
        Some(at_least_us.map_or(at_most_us, |at_least_us| at_least_us.midpoint(at_most_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framekeeper_media::WallTime;
    use proptest::prelude::*;

    const RATE: u32 = 48_000;
    /// Zero points of the two media clocks in camera time 0.
    const VIDEO_ZERO: i64 = 123_456;
    const AUDIO_ZERO: i64 = 987_654_321;
    const NTP_ZERO: u64 = 3_900_000_000 << 32;

    fn at(us: i64) -> TickTime {
        TickTime { monotonic_us: 1_000_000 + us as u64, wall: WallTime(1_790_000_000_000_000 + us) }
    }
    fn video_at(us: i64) -> MediaTime {
        MediaTime(VIDEO_ZERO + us * 9 / 100)
    }
    fn audio_at(us: i64) -> MediaTime {
        MediaTime(AUDIO_ZERO + us * i64::from(RATE) / 1_000_000)
    }
    fn ntp_at(us: i64) -> u64 {
        NTP_ZERO + ((us as u64) << 32) / 1_000_000
    }
    fn video_report(us: i64) -> SenderReport {
        SenderReport { ntp: ntp_at(us), media_time: video_at(us) }
    }
    fn audio_report(us: i64) -> SenderReport {
        SenderReport { ntp: ntp_at(us), media_time: audio_at(us) }
    }
    /// How far an audio frame made at `us` is from the video frame made at the same moment.
    fn error_us(sync: &mut AvSync, us: i64) -> i64 {
        sync.video_time_us(audio_at(us)) - video_us(video_at(us))
    }
    /// Frames of both tracks for a while, audio `late_us` later on the wire.
    fn started(late_us: i64) -> AvSync {
        let mut sync = AvSync::new(RATE);
        for n in 0..20 {
            sync.video(at(n * 40_000), 0, video_at(n * 40_000));
            sync.audio(at(n * 40_000 + late_us), 0, audio_at(n * 40_000));
        }
        sync
    }

    #[test]
    fn arrival_decides_without_reports() {
        assert!(error_us(&mut started(0), 800_000).abs() <= 100);
        let off_us = error_us(&mut started(70_000), 800_000);
        assert!((off_us - 70_000).abs() <= 100, "{off_us}");
    }

    #[test]
    fn arrival_is_within_an_audio_frame_although_sockets_are_read_on_a_tick() {
        // 25 fps and 48 kHz AAC, read each 100 ms, whatever the phase of the tick.
        for phase_us in (0..100_000).step_by(3_700) {
            let mut sync = AvSync::new(RATE);
            let read_us = |made_us: i64| (made_us - phase_us).div_euclid(100_000) * 100_000 + 100_000 + phase_us;
            for n in 0..12 {
                sync.video(at(read_us(n * 40_000)), 100_000, video_at(n * 40_000));
            }
            for n in 0..23 {
                sync.audio(at(read_us(n * 21_333)), 100_000, audio_at(n * 21_333));
            }
            let off_us = error_us(&mut sync, 500_000);
            assert!(off_us.abs() < 15_000, "{off_us} with phase {phase_us}");
        }
    }

    #[test]
    fn reports_decide_as_soon_as_both_are_there() {
        let mut sync = started(70_000);
        sync.video_report(at(800_000), video_report(700_000));
        sync.audio_report(at(810_000), audio_report(790_000));
        assert!(error_us(&mut sync, 900_000).abs() <= 100);
    }

    #[test]
    fn the_first_reports_correct_arrival_once_and_then_it_is_stable() {
        let mut sync = started(70_000);
        assert!(error_us(&mut sync, 800_000) > 60_000);
        sync.video_report(at(5_000_000), video_report(5_000_000));
        sync.audio_report(at(5_100_000), audio_report(5_100_000));
        assert!(error_us(&mut sync, 5_200_000).abs() <= 100);
        // Later reports, even wrong ones, and later arrivals change nothing.
        sync.audio_report(at(9_000_000), audio_report(8_000_000));
        sync.audio(at(9_000_000), 0, audio_at(9_500_000));
        assert!(error_us(&mut sync, 9_500_000).abs() <= 100);
    }

    #[test]
    fn reports_that_come_late_change_nothing() {
        let mut sync = started(70_000);
        let before = error_us(&mut sync, 800_000);
        sync.video_report(at(11_000_000), video_report(11_000_000));
        sync.audio_report(at(11_000_000), audio_report(11_000_000));
        assert!((error_us(&mut sync, 12_000_000) - before).abs() <= 100);
    }

    #[test]
    fn nonsense_in_reports_is_not_believed() {
        let mut sync = started(0);
        sync.video_report(at(500_000), video_report(500_000));
        sync.audio_report(at(500_000), SenderReport { ntp: 2_208_988_800 << 32, media_time: audio_at(500_000) });
        assert!(error_us(&mut sync, 800_000).abs() <= 100);
    }

    proptest! {
        #[test]
        fn no_times_overflow(ntp in proptest::array::uniform2(any::<u64>()), media in proptest::array::uniform4(any::<i64>()), rate in any::<u32>()) {
            let mut sync = AvSync::new(rate);
            sync.video(at(0), 100_000, MediaTime(media[0]));
            sync.audio(at(0), 100_000, MediaTime(media[1]));
            sync.video_report(at(1), SenderReport { ntp: ntp[0], media_time: MediaTime(media[2]) });
            sync.audio_report(at(1), SenderReport { ntp: ntp[1], media_time: MediaTime(media[3]) });
            sync.video_time_us(MediaTime(media[1]));
        }
    }
}
