//! Placing runs and fragments in a file: offsets, file times (`docs/format.md` §5, §6). Pure.

use framekeeper_media::boxes::index::{SegmentIndex, mfra_length};
use framekeeper_media::boxes::run::{GapReason, RUN_BOX_LENGTH, ReportedTime, RunBox};
use framekeeper_media::fragment::{
    AudioSample, EncodedFragment, FragmentError, FragmentSpec, StoredAudio, StoredVideo, VideoSample, encode,
    max_length,
};
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{MediaTime, WallTime};
use uuid::Uuid;

use super::index::{IndexBuilder, StoredFragment, ticks_to_us};
use crate::types::{Fragment, PreviousRun, RunStart};

/// Audio and video that begin further apart than this, in microseconds, are not believed to be in step.
const SYNC_US_AT_MOST: i64 = 10_000_000;

/// Where the next box of a file goes, and which file times are next.
#[derive(Clone, Debug)]
pub(crate) struct Placer {
    nonce: u64,
    file_bytes: u64,
    audio_timescale: u32,
    position: u64,
    sequence: u32,
    last_run_offset: u64,
    clock: Option<FileClock>,
    /// Decode time of the last video frame, and when it ends. 90 kHz.
    video_last: Option<u64>,
    video_end: u64,
    /// When the last picture in display order ends. 90 kHz.
    shown_end: u64,
    /// When the last audio frame ends, in audio ticks.
    audio_end: u64,
    runs: u64,
    entries: u64,
    audio_frames: u64,
    random_access: u64,
}

/// How media times become file times, in one run.
#[derive(Clone, Copy, Debug)]
struct FileClock {
    run: Uuid,
    video_offset: i64,
    /// Unknown until the first audio frame.
    audio_offset: Option<i64>,
}

/// What a run box says besides its place.
#[derive(Clone, Debug)]
pub(crate) struct RunFacts<'a> {
    pub(crate) start: &'a RunStart,
    pub(crate) gap: GapReason,
    pub(crate) continued: bool,
    pub(crate) recorder: Uuid,
    pub(crate) previous: Option<PreviousRun>,
    pub(crate) sender_report: Option<ReportedTime>,
}

/// A fragment that has its place.
#[derive(Debug)]
pub(crate) struct PlacedFragment {
    pub(crate) encoded: EncodedFragment,
    pub(crate) stored: StoredFragment,
}

fn scale(ticks: i64, from: u32, to: u32) -> i64 {
    let scaled = i128::from(ticks) * i128::from(to) / i128::from(from.max(1));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

fn scale_up(ticks: u64, from: u32, to: u32) -> u64 {
    let scaled = (u128::from(ticks) * u128::from(to)).div_ceil(u128::from(from.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn to_i64(ticks: u64) -> i64 {
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

/// Bytes that a fragment takes at most, with its share of the index.
pub(crate) fn cost(fragment: &Fragment) -> u64 {
    let (video, audio) = (fragment.video.len() as u64, fragment.audio.len() as u64);
    let samples = fragment.video.iter().map(|f| f.data.len() as u64).sum::<u64>()
        + fragment.audio.iter().map(|f| f.data.len() as u64).sum::<u64>();
    let index = SegmentIndex::encoded_length(1, video + audio, audio) - SegmentIndex::encoded_length(0, 0, 0);
    max_length(video, audio, samples) + index + mfra_length(2) - mfra_length(0)
}

impl Placer {
    /// At the beginning of a file whose head ends at `position`.
    pub(crate) fn new(nonce: u64, file_bytes: u64, audio_timescale: u32, position: u64) -> Self {
        Self {
            nonce,
            file_bytes,
            audio_timescale,
            position,
            sequence: 0,
            last_run_offset: 0,
            clock: None,
            video_last: None,
            video_end: 0,
            shown_end: 0,
            audio_end: 0,
            runs: 0,
            entries: 0,
            audio_frames: 0,
            random_access: 0,
        }
    }

    /// Behind what was found in a file: the position behind the last fragment, and the last sequence number.
    pub(crate) fn resume(mut self, position: u64, sequence: u32, times: FileTimes, found: &IndexBuilder) -> Self {
        let index = found.index();
        self.position = position;
        self.sequence = sequence;
        self.last_run_offset = index.runs.last().map_or(0, |run| run.offset);
        self.video_last = times.video_last;
        self.video_end = times.video_end;
        self.shown_end = times.shown_end;
        self.audio_end = times.audio_end;
        self.runs = index.runs.len() as u64;
        self.entries = index.entries.len() as u64;
        self.audio_frames = index.audio_sizes.len() as u64;
        self.random_access = index.totals.random_access_points.into();
        self
    }

    /// Offset of the next box.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes left in the file behind `position`.
    pub(crate) fn rest(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position)
    }

    /// Bytes left for fragments once the index has what it needs now.
    pub(crate) fn room(&self) -> u64 {
        let index = SegmentIndex::encoded_length(self.runs + 1, self.entries, self.audio_frames);
        self.rest().saturating_sub(index + mfra_length(self.random_access) + RUN_BOX_LENGTH as u64)
    }

    /// Whether anything was placed.
    pub(crate) fn has_frames(&self) -> bool {
        self.sequence > 0
    }

    /// Whether a run box must stand before this fragment.
    pub(crate) fn needs_run_box(&self, run: Uuid, fragment: &Fragment) -> bool {
        match &self.clock {
            Some(clock) if clock.run == run => clock.audio_offset.is_none() && !fragment.audio.is_empty(),
            _ => true,
        }
    }

    /// Places the run box that stands before `fragment`.
    pub(crate) fn run_box(&mut self, facts: &RunFacts<'_>, fragment: &Fragment) -> RunBox {
        let same_run = self.clock.filter(|clock| clock.run == facts.start.run);
        let mut clock = match same_run {
            Some(clock) => clock,
            None => self.start_clock(facts.start.run, fragment),
        };
        if clock.audio_offset.is_none() {
            clock.audio_offset = self.audio_offset(clock.video_offset, fragment);
        }
        self.clock = Some(clock);
        // An audio-only fragment has no video frame to anchor: its media time is that of its wall time.
        let anchor = fragment.video.first().map(|f| (f.wall, f.pts)).or_else(|| {
            let audio = fragment.audio.first()?;
            let file = scale(audio.pts.0 - clock.audio_offset?, self.audio_timescale, VIDEO_CLOCK_HZ);
            Some((audio.wall, MediaTime(file + clock.video_offset)))
        });
        let (anchor_wall, anchor_media) = anchor.unwrap_or((WallTime(0), MediaTime(clock.video_offset)));
        let continued = facts.continued || same_run.is_some();
        let run = RunBox {
            nonce: self.nonce,
            offset: self.position,
            continued,
            run: facts.start.run,
            epoch: facts.start.epoch,
            rank: facts.start.rank,
            gap_reason: if continued { GapReason::NoGap } else { facts.gap },
            plan: facts.start.plan_version,
            recorder: facts.recorder,
            previous_offset: self.last_run_offset,
            anchor_wall,
            anchor_media,
            video_offset: clock.video_offset,
            audio_offset: clock.audio_offset.unwrap_or(0),
            sender_report: facts.sender_report,
            previous_end: facts.previous.map(|p| p.end),
            previous_run: facts.previous.map(|p| p.run),
        };
        self.last_run_offset = self.position;
        self.position += RUN_BOX_LENGTH as u64;
        self.runs += 1;
        run
    }

    /// A run begins in this file: at 0, or where the last frame ended and less than a picture later. The earlier of its first frames lies there. What was
    /// written of pictures that are not in display order may end before those that are shown first: the run begins so much later that none of its own
    /// is shown between them.
    fn start_clock(&self, run: Uuid, fragment: &Fragment) -> FileClock {
        let base = self.video_end.max(scale_up(self.audio_end, self.audio_timescale, VIDEO_CLOCK_HZ));
        let audio = self.audio_as_video_time(fragment);
        let start = match (fragment.video.first(), audio) {
            (Some(video), Some(audio)) => video.dts.0.min(audio),
            (Some(video), None) => video.dts.0,
            (None, audio) => audio.unwrap_or(0),
        };
        let first_shown = fragment.video.iter().map(|frame| frame.pts.0.saturating_sub(start)).min();
        let behind_shown = first_shown.map_or(0, |first| to_i64(self.shown_end).saturating_sub(first));
        let base = base.max(u64::try_from(behind_shown).unwrap_or(0));
        let base = base.saturating_add(self.to_next_picture(base, start, fragment));
        FileClock { run, video_offset: start.saturating_sub(to_i64(base)), audio_offset: None }
    }

    /// How much later than `base` a run has to begin so that its first picture follows the last one by whole pictures. Sound rarely ends
    /// with a picture; what players and ffmpeg take for the frame rate would be another one in files with many runs.
    fn to_next_picture(&self, base: u64, start: i64, fragment: &Fragment) -> u64 {
        let (Some(last), Some(first)) = (self.video_last, fragment.video.first()) else { return 0 };
        let begins = base.saturating_add(u64::try_from(first.dts.0.saturating_sub(start)).unwrap_or(0));
        let (apart, picture) = (begins.saturating_sub(last), u64::from(first.duration.max(1)));
        apart.checked_next_multiple_of(picture).map_or(0, |whole| whole - apart)
    }

    /// Media time, on the video clock, of the first audio frame.
    fn audio_as_video_time(&self, fragment: &Fragment) -> Option<i64> {
        let audio = fragment.audio.first()?;
        let Some(video) = fragment.video.first() else {
            let (a, v) = fragment.av_sync?;
            return Some(v.0.saturating_add(scale(
                audio.pts.0.saturating_sub(a.0),
                self.audio_timescale,
                VIDEO_CLOCK_HZ,
            )));
        };
        let by_wall =
            video.pts.0.saturating_add(scale(audio.wall.0.saturating_sub(video.wall.0), 1_000_000, VIDEO_CLOCK_HZ));
        let at = match fragment.av_sync {
            Some((a, v)) => {
                v.0.saturating_add(scale(audio.pts.0.saturating_sub(a.0), self.audio_timescale, VIDEO_CLOCK_HZ))
            }
            None => by_wall,
        };
        let apart = ticks_to_us(at.saturating_sub(video.dts.0), VIDEO_CLOCK_HZ);
        Some(if apart.abs() > SYNC_US_AT_MOST { video.dts.0 } else { at })
    }

    fn audio_offset(&self, video_offset: i64, fragment: &Fragment) -> Option<i64> {
        let audio = fragment.audio.first()?;
        let at = self.audio_as_video_time(fragment).unwrap_or_else(|| {
            // Nothing to compare with: right behind what is there.
            video_offset.saturating_add(to_i64(self.video_end))
        });
        let file = scale(at.saturating_sub(video_offset), VIDEO_CLOCK_HZ, self.audio_timescale);
        Some(audio.pts.0.saturating_sub(file))
    }

    /// Places a fragment behind its run box.
    ///
    /// # Errors
    /// When the frames cannot make a fragment; nothing is placed then.
    pub(crate) fn fragment(
        &mut self,
        fragment: &Fragment,
        continues_gop: bool,
    ) -> Result<PlacedFragment, FragmentError> {
        let clock = self.clock.ok_or(FragmentError::Input { what: "no run has begun" })?;
        let mut after = self.clone();
        let video: Vec<_> = fragment.video.iter().map(|frame| after.video_sample(&clock, frame)).collect();
        let mut audio = Vec::with_capacity(fragment.audio.len());
        if self.audio_timescale > 0 {
            audio.extend(fragment.audio.iter().map(|frame| after.audio_sample(&clock, frame)));
        }
        after.sequence += 1;
        let audio_wall = fragment.audio.first().map_or(WallTime(0), |frame| frame.wall);
        let encoded = encode(&FragmentSpec {
            sequence_number: after.sequence,
            nonce: self.nonce,
            offset: self.position,
            continues_gop,
            video: &video,
            audio: &audio,
            audio_wall,
        })?;
        let stored = stored(self.position, &encoded, &video, &audio, audio_wall);
        after.position += encoded.length;
        after.entries += (video.len() + audio.len()) as u64;
        after.audio_frames += audio.len() as u64;
        after.random_access += u64::from(fragment.begins_random_access);
        *self = after;
        Ok(PlacedFragment { encoded, stored })
    }

    fn video_sample(&mut self, clock: &FileClock, frame: &crate::types::VideoFrame) -> VideoSample {
        let wanted = u64::try_from(frame.dts.0.saturating_sub(clock.video_offset)).unwrap_or(0);
        let dts = self.video_last.map_or(wanted, |last| wanted.max(last.saturating_add(1)));
        let duration = frame.duration.max(1);
        self.video_last = Some(dts);
        self.video_end = dts.saturating_add(duration.into());
        let composition_offset = frame.pts.0.saturating_sub(frame.dts.0);
        self.shown_end = self.shown_end.max(self.video_end.saturating_add_signed(composition_offset));
        VideoSample {
            data: frame.data.clone(),
            dts,
            duration,
            composition_offset: i32::try_from(composition_offset).unwrap_or(0),
            wall: frame.wall,
            identity: frame.identity,
            flags: frame.flags,
        }
    }

    fn audio_sample(&mut self, clock: &FileClock, frame: &crate::types::AudioFrame) -> AudioSample {
        let offset = clock.audio_offset.unwrap_or(frame.pts.0);
        let dts = u64::try_from(frame.pts.0.saturating_sub(offset)).unwrap_or(0).max(self.audio_end);
        self.audio_end = dts.saturating_add(frame.duration.into());
        AudioSample { data: frame.data.clone(), dts, duration: frame.duration }
    }
}

/// File times up to which a file has frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileTimes {
    pub(crate) video_last: Option<u64>,
    pub(crate) video_end: u64,
    pub(crate) shown_end: u64,
    pub(crate) audio_end: u64,
}

impl FileTimes {
    /// With one more fragment.
    pub(crate) fn add(&mut self, fragment: &StoredFragment) {
        let shown = |video: &StoredVideo| {
            let end = video.dts.saturating_add(video.duration.into());
            end.saturating_add_signed(video.composition_offset.into())
        };
        self.shown_end = fragment.video.iter().map(shown).fold(self.shown_end, u64::max);
        if let Some(last) = fragment.video.last() {
            self.video_last = Some(last.dts);
            self.video_end = last.dts.saturating_add(last.duration.into());
        }
        if let Some(last) = fragment.audio.last() {
            self.audio_end = last.dts.saturating_add(last.duration.into());
        }
    }
}

fn stored(
    moof_offset: u64,
    encoded: &EncodedFragment,
    video: &[VideoSample],
    audio: &[AudioSample],
    audio_wall: WallTime,
) -> StoredFragment {
    let mut offset = encoded.video_offset;
    let size = |data: &bytes::Bytes| u32::try_from(data.len()).unwrap_or(u32::MAX);
    let until_next = |next: Option<u64>, dts: u64, own: u32| {
        next.and_then(|next| u32::try_from(next.saturating_sub(dts)).ok()).unwrap_or(own)
    };
    let stored_video = video.iter().enumerate().map(|(at, sample)| {
        let place = offset;
        offset += sample.data.len() as u64;
        StoredVideo {
            offset: place,
            size: size(&sample.data),
            dts: sample.dts,
            duration: until_next(video.get(at + 1).map(|next| next.dts), sample.dts, sample.duration),
            composition_offset: sample.composition_offset,
            wall: sample.wall,
            identity: sample.identity,
            flags: sample.flags,
        }
    });
    let stored_video = stored_video.collect();
    let mut offset = encoded.audio_offset;
    let stored_audio = audio.iter().enumerate().map(|(at, sample)| {
        let place = offset;
        offset += sample.data.len() as u64;
        StoredAudio {
            offset: place,
            size: size(&sample.data),
            dts: sample.dts,
            duration: until_next(audio.get(at + 1).map(|next| next.dts), sample.dts, sample.duration),
        }
    });
    StoredFragment { moof_offset, video: stored_video, audio: stored_audio.collect(), audio_wall }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use framekeeper_media::{FrameFlags, FrameIdentity};

    use super::*;
    use crate::types::VideoFrame;

    const PICTURE: i64 = 3_600;

    /// Pictures by their numbers in display order, in coding order; decode times are those of a reorder depth of 2.
    fn fragment(zero: i64, shown: &[i64]) -> Fragment {
        let frame = |(at, number): (usize, &i64)| VideoFrame {
            data: Bytes::from_static(&[0, 0, 0, 1, 0x65]),
            pts: MediaTime(zero + number * PICTURE),
            dts: MediaTime(zero + (at as i64 - 2) * PICTURE),
            duration: PICTURE as u32,
            wall: WallTime(0),
            identity: FrameIdentity(1),
            flags: if at == 0 { FrameFlags::RANDOM_ACCESS } else { FrameFlags::default() },
        };
        Fragment {
            video: shown.iter().enumerate().map(frame).collect(),
            begins_random_access: true,
            ..Fragment::default()
        }
    }

    /// Places a run of one fragment; decode and composition times in pictures.
    fn place(placer: &mut Placer, run: u128, fragment: &Fragment) -> (StoredFragment, Vec<(i64, i64)>) {
        let start = crate::backlog::tests::run(run, None);
        let gap = GapReason::RecorderCrashed;
        let facts = RunFacts {
            start: &start,
            gap,
            continued: false,
            recorder: Uuid::nil(),
            previous: None,
            sender_report: None,
        };
        placer.run_box(&facts, fragment);
        let stored = placer.fragment(fragment, false).unwrap().stored;
        let time = |video: &StoredVideo| {
            let dts = video.dts.cast_signed() / PICTURE;
            (dts, dts + i64::from(video.composition_offset) / PICTURE)
        };
        let times = stored.video.iter().map(time).collect();
        (stored, times)
    }

    #[test]
    fn a_run_begins_behind_the_last_picture_that_is_shown_of_the_one_before() {
        let (mut whole, mut cut) = (Placer::new(1, 1 << 20, 0, 1_000), Placer::new(1, 1 << 20, 0, 1_000));
        place(&mut whole, 1, &fragment(0, &[0, 3, 1, 2]));
        // In the middle of what belongs together: the picture that is shown fifth came third.
        let (stored, times) = place(&mut cut, 1, &fragment(0, &[0, 4, 2]));
        assert_eq!(times, [(0, 2), (1, 6), (2, 4)]);
        let mut found = FileTimes::default();
        found.add(&stored);
        let mut resumed = Placer::new(1, 1 << 20, 0, 1_000);
        resumed.video_last = found.video_last;
        (resumed.video_end, resumed.shown_end) = (found.video_end, found.shown_end);
        let second = fragment(999_000, &[0, 3, 1, 2]);
        assert_eq!(place(&mut whole, 2, &second).1, [(4, 6), (5, 9), (6, 7), (7, 8)], "one follows on the other");
        for mut placer in [cut, resumed] {
            assert_eq!(place(&mut placer, 2, &second).1, [(5, 7), (6, 10), (7, 8), (8, 9)]);
        }
    }
}
