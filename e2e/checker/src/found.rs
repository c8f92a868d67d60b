//! What was found of a stream, whether in segments or in a clip, in the form in which it is compared with a ledger.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::movie::{Handler, Movie};
use crate::segment::{Segment, Uid, VideoFrame, gap_reason};
use crate::volume::Volume;

/// A coded frame.
#[derive(Debug, Clone, Default)]
pub struct FoundFrame {
    /// The number of its stamp.
    pub number: Option<u64>,
    /// More than one stamp: access units were merged.
    pub merged: bool,
    /// XXH3-64 as in the ledger.
    pub hash: u64,
    /// Without a stamp: its hash in ledgers of cameras that cannot stamp; else 0.
    pub size_and_crc: u64,
    /// Presentation time on the stream's own clock, in the track's timescale; constant offset within a stretch.
    pub media_time: i64,
    /// Presentation time in the file, in seconds.
    pub file_seconds: f64,
    /// Wall time that was recorded, microseconds since 1970.
    pub wall_us: Option<i64>,
    /// Which stretch of unbroken media time it belongs to: a run, or a piece of a clip.
    pub stretch: usize,
    /// Which file it was found in.
    pub file: usize,
    /// Packets were lost between it and the random access point before it: it may not be possible to decode it.
    pub behind_loss: bool,
}

/// A run as it lies on a volume.
#[derive(Debug, Clone, Serialize)]
pub struct FoundRun {
    /// Its UID.
    pub run: Uid,
    /// The recorder's UID.
    pub recorder: Uid,
    /// Its epoch.
    pub epoch: u64,
    /// Wall time of its first frame, microseconds since 1970.
    pub from_us: i64,
    /// Wall time at which its last frame begins.
    pub last_us: i64,
    /// Its pictures.
    pub frames: usize,
    /// Why there is a gap before it.
    pub gap_reason: &'static str,
    /// When the run before it ended; 0 is unknown.
    pub previous_end_us: i64,
}

/// One stream of one volume, or one clip.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// `namespace/name`.
    pub stream: String,
    /// Pictures in coding order.
    pub video: Vec<FoundFrame>,
    /// Audio frames.
    pub audio: Vec<FoundFrame>,
    /// Of the audio track; 0 without audio.
    pub audio_timescale: u32,
    /// The runs, in order.
    pub runs: Vec<FoundRun>,
    /// Segment files.
    pub files: usize,
}

impl Found {
    /// The streams of a volume.
    pub fn on_volume(volume: &Volume) -> Vec<Self> {
        let mut streams = BTreeMap::<Uid, Self>::new();
        for segment in &volume.segments {
            let found = streams.entry(segment.header.stream).or_default();
            found.stream.clone_from(&segment.header.name);
            found.add_segment(segment);
        }
        streams.into_values().collect()
    }

    fn add_segment(&mut self, segment: &Segment) {
        let file = self.files;
        self.files += 1;
        let audio_timescale = segment.header.timescales.audio;
        if audio_timescale != 0 {
            self.audio_timescale = audio_timescale;
        }
        let lost: BTreeSet<usize> =
            segment.video().zip(segment.behind_loss()).filter(|(_, lost)| *lost).map(|(frame, _)| frame.at).collect();
        for (number, run) in segment.runs.iter().enumerate() {
            let known = self.runs.iter().position(|known| known.run == run.run);
            let stretch = known.unwrap_or_else(|| {
                self.runs.push(FoundRun {
                    run: run.run,
                    recorder: run.recorder,
                    epoch: run.epoch,
                    from_us: i64::MAX,
                    last_us: i64::MIN,
                    frames: 0,
                    gap_reason: gap_reason(run.gap_reason),
                    previous_end_us: run.previous_end_us,
                });
                self.runs.len() - 1
            });
            for fragment in segment.fragments.iter().filter(|fragment| fragment.run == number) {
                self.video.extend(fragment.video.iter().map(|frame| FoundFrame {
                    behind_loss: lost.contains(&frame.at),
                    ..picture(frame, run.video_offset, stretch, file)
                }));
                let start = fragment.audio.first().map_or(0, |sound| sound.decode);
                let scale = i64::from(audio_timescale.max(1));
                self.audio.extend(fragment.audio.iter().map(|sound| FoundFrame {
                    number: sound.number,
                    merged: false,
                    hash: sound.computed,
                    size_and_crc: sound.size_and_crc,
                    media_time: sound.decode + run.audio_offset,
                    file_seconds: sound.decode as f64 / scale as f64,
                    wall_us: Some(fragment.audio_wall_us + (sound.decode - start) * 1_000_000 / scale),
                    stretch,
                    file,
                    behind_loss: false,
                }));
                if let Some(run) = self.runs.get_mut(stretch) {
                    run.frames += fragment.video.len();
                    for frame in &fragment.video {
                        run.from_us = run.from_us.min(frame.wall_us);
                        run.last_us = run.last_us.max(frame.wall_us);
                    }
                }
            }
        }
    }

    /// What a clip presents. A new stretch begins wherever numbers do not follow each other.
    pub fn in_movie(stream: &str, movie: &Movie) -> Self {
        let mut found = Self { stream: stream.to_owned(), files: 1, ..Self::default() };
        for track in &movie.tracks {
            let mut frames: Vec<FoundFrame> = Vec::new();
            let mut highest: Option<u64> = None;
            let mut stretch = 0;
            for sample in track.samples.iter().filter(|sample| sample.movie_seconds.is_some()) {
                let follows = match (highest, sample.number) {
                    (Some(before), Some(number)) => number <= before + 1,
                    _ => true,
                };
                stretch += usize::from(!follows);
                highest = highest.max(sample.number);
                let file_seconds = sample.movie_seconds.unwrap_or_default();
                frames.push(FoundFrame {
                    number: sample.number,
                    merged: sample.merged,
                    hash: sample.hash,
                    size_and_crc: sample.size_and_crc,
                    media_time: (file_seconds * f64::from(track.timescale)).round() as i64,
                    file_seconds,
                    wall_us: None,
                    stretch,
                    file: 0,
                    behind_loss: false,
                });
            }
            match track.handler {
                Handler::Video => found.video = frames,
                Handler::Audio => {
                    found.audio = frames;
                    found.audio_timescale = track.timescale;
                }
            }
        }
        found
    }
}

fn picture(frame: &VideoFrame, video_offset: i64, stretch: usize, file: usize) -> FoundFrame {
    FoundFrame {
        number: frame.stamps.first().map(|stamp| stamp.number),
        merged: frame.stamps.len() > 1,
        hash: frame.computed,
        size_and_crc: frame.size_and_crc,
        media_time: frame.presentation() + video_offset,
        file_seconds: frame.presentation() as f64 / 90_000.0,
        wall_us: Some(frame.wall_us),
        stretch,
        file,
        behind_loss: false,
    }
}
