//! One camera: makes the frames that are due and logs them. Knows nothing of sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use crate::aac::{AacSource, FRAME_SAMPLES};
use crate::fault::{Fault, Switches};
use crate::h264::Coded;
use crate::ledger::{Kind, LedgerWriter, Record, video_identity};
use crate::rtp::Packets;
use crate::sdp::{AUDIO_PAYLOAD_TYPE, VIDEO_PAYLOAD_TYPE};
use crate::source::{VIDEO_CLOCK, VideoSource};
use crate::spec::{AudioKind, CameraSpec, VideoKind};

/// Audio is emitted together with the next picture, but not later than this after it is due.
const AUDIO_PATIENCE_NS: u64 = 40_000_000;

/// One of a camera's two tracks; the index of its state in arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    Video = 0,
    Audio = 1,
}

/// A frame that was emitted.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) track: Track,
    pub(crate) number: u64,
    pub(crate) media_time: i64,
    pub(crate) key: bool,
    pub(crate) bytes: u32,
    pub(crate) packets: Packets,
}

/// A newest emitted frame.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latest {
    /// Its number; frames are numbered from 0.
    pub number: u64,
    /// Its presentation time in ticks of the track's clock.
    pub media_time: i64,
    /// When it was emitted, nanoseconds since the Unix epoch.
    pub wall_ns: i64,
}

/// Newest emitted frames of a camera.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LatestFrames {
    /// Of the video track.
    pub video: Option<Latest>,
    /// Of the audio track.
    pub audio: Option<Latest>,
}

/// Sessions of a camera since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounts {
    /// That were set up.
    pub begun: u64,
    /// That it did not want.
    pub refused: u64,
    /// That it ended because somebody else came.
    pub replaced: u64,
}

/// How many frames of a track were due, and which numbers and times they have.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Frames (emitted or skipped by a freeze) since the camera started.
    steps: u64,
    next_number: u64,
    /// Media time of step 0.
    first_time: i64,
}

pub(crate) struct Camera {
    pub(crate) spec: CameraSpec,
    pub(crate) switches: Switches,
    pub(crate) latest: LatestFrames,
    /// Keys of the connections that have a session with it.
    pub(crate) sessions: Vec<usize>,
    pub(crate) counts: SessionCounts,
    pub(crate) ledger_path: PathBuf,
    video: Box<dyn VideoSource>,
    aac: Option<AacSource>,
    ledger: LedgerWriter,
    /// When step 0 is due, on the server's monotonic clock, and the wall clock then.
    start_ns: u64,
    start_wall_ns: i64,
    progress: [Progress; 2],
    was_frozen: bool,
    coded: Coded,
    audio_frame: Vec<u8>,
}

impl Camera {
    /// A camera whose first picture is due at `start_ns` (monotonic), which is `start_wall_ns` since the Unix epoch.
    ///
    /// Errors: the ledger can't be written.
    pub(crate) fn new(
        spec: CameraSpec,
        video: Box<dyn VideoSource>,
        sound: Option<Arc<Vec<Vec<u8>>>>,
        log_dir: &Path,
        start_ns: u64,
        start_wall_ns: i64,
    ) -> anyhow::Result<Self> {
        let ledger_path = log_dir.join(format!("{}.ledger", spec.name));
        let mut header = serde_json::to_value(&spec)?;
        if let Some(fields) = header.as_object_mut() {
            fields.insert("identity".to_owned(), "xxh3".into());
            fields.insert("video_clock".to_owned(), VIDEO_CLOCK.into());
        }
        let (mut ledger, before) =
            LedgerWriter::open(&ledger_path, &header).with_context(|| format!("ledger {}", ledger_path.display()))?;
        let first_video_time = before.video.map_or(0, |last| {
            let gap = (start_wall_ns - last.wall_ns).max(1_000_000_000);
            last.media_time + (i128::from(gap) * i128::from(VIDEO_CLOCK) / 1_000_000_000) as i64
        });
        let audio_clock = i64::from(spec.rate);
        let progress = [
            Progress {
                steps: 0,
                next_number: before.video.map_or(0, |last| last.number + 1),
                first_time: first_video_time,
            },
            Progress {
                steps: 0,
                next_number: before.audio.map_or(0, |last| last.number + 1),
                first_time: first_video_time * audio_clock / VIDEO_CLOCK,
            },
        ];
        ledger.push(event(Kind::Started, start_wall_ns));
        ledger.flush()?;
        let aac = (spec.audio != AudioKind::None)
            .then(|| AacSource::new(spec.rate, spec.channels, spec.audio_bitrate, spec.effective_seed(), sound));
        Ok(Self {
            spec,
            switches: Switches::default(),
            latest: LatestFrames::default(),
            sessions: Vec::new(),
            counts: SessionCounts::default(),
            ledger_path,
            video,
            aac,
            ledger,
            start_ns,
            start_wall_ns,
            progress,
            was_frozen: false,
            coded: Coded::default(),
            audio_frame: Vec::new(),
        })
    }

    /// Nanoseconds after the start at which a step of a track is due. Audio frames are due when their samples are over.
    fn due_after_ns(&self, track: Track, step: u64) -> u64 {
        let (units, per_second) = match track {
            Track::Video => (step, u64::from(self.spec.fps)),
            Track::Audio => ((step + 1) * FRAME_SAMPLES as u64, u64::from(self.spec.rate)),
        };
        (u128::from(units) * 1_000_000_000 / u128::from(per_second)) as u64
    }

    /// Media time of a step, in the track's clock (video: decoding time).
    fn step_time(&self, track: Track, step: u64) -> i64 {
        let elapsed = match track {
            Track::Video => (u128::from(step) * VIDEO_CLOCK as u128 / u128::from(self.spec.fps)) as i64,
            Track::Audio => step as i64 * FRAME_SAMPLES,
        };
        self.progress[track as usize].first_time + elapsed
    }

    /// When something has to be emitted next.
    fn next_due_ns(&self) -> u64 {
        let due = |track: Track| self.start_ns + self.due_after_ns(track, self.progress[track as usize].steps);
        let video = due(Track::Video);
        if self.aac.is_some() { video.min(due(Track::Audio) + AUDIO_PATIENCE_NS) } else { video }
    }

    /// Makes and logs all frames that are due at `now_ns`; they lie in the first `n` of `frames`, in order of time.
    ///
    /// Errors: the ledger can't be written.
    pub(crate) fn emit(&mut self, now_ns: u64, wall_ns: i64, frames: &mut Vec<Frame>) -> std::io::Result<usize> {
        if self.next_due_ns() > now_ns {
            return Ok(0);
        }
        let frozen = self.switches.freeze || self.switches.hang;
        if self.was_frozen && !frozen {
            self.video.restart();
        }
        self.was_frozen = frozen;
        let mut count = 0;
        loop {
            let due = |track: Track| self.start_ns + self.due_after_ns(track, self.progress[track as usize].steps);
            let (video, audio) = (due(Track::Video), due(Track::Audio));
            let track = if self.aac.is_some() && audio < video { Track::Audio } else { Track::Video };
            if video.min(if self.aac.is_some() { audio } else { u64::MAX }) > now_ns {
                break;
            }
            if frozen {
                self.progress[track as usize].steps += 1;
                continue;
            }
            if frames.len() == count {
                frames.push(Frame {
                    track,
                    number: 0,
                    media_time: 0,
                    key: false,
                    bytes: 0,
                    packets: Packets::default(),
                });
            }
            self.make(track, wall_ns, &mut frames[count]);
            count += 1;
        }
        self.ledger.flush()?;
        Ok(count)
    }

    fn make(&mut self, track: Track, wall_ns: i64, frame: &mut Frame) {
        let progress = self.progress[track as usize];
        let time = self.step_time(track, progress.steps);
        frame.track = track;
        frame.number = progress.next_number;
        let hash = match track {
            Track::Video => {
                frame.media_time = self.video.next(frame.number, time, &mut self.coded);
                frame.key = self.coded.key;
                frame.bytes = self.coded.bytes.len() as u32;
                if !self.sessions.is_empty() {
                    frame.packets.h264(self.coded.iter(), VIDEO_PAYLOAD_TYPE, self.spec.mtu);
                }
                video_identity(self.coded.iter())
            }
            Track::Audio => {
                if let Some(aac) = &mut self.aac {
                    aac.next(frame.number, &mut self.audio_frame);
                }
                frame.media_time = time;
                frame.key = false;
                frame.bytes = self.audio_frame.len() as u32;
                if !self.sessions.is_empty() {
                    frame.packets.aac(&self.audio_frame, AUDIO_PAYLOAD_TYPE, self.spec.mtu);
                }
                xxhash_rust::xxh3::xxh3_64(&self.audio_frame)
            }
        };
        let latest = Latest { number: frame.number, media_time: frame.media_time, wall_ns };
        let kind = match track {
            Track::Video => {
                self.latest.video = Some(latest);
                Kind::Video
            }
            Track::Audio => {
                self.latest.audio = Some(latest);
                Kind::Audio
            }
        };
        self.ledger.push(Record {
            kind,
            flags: if frame.key { Record::KEY } else { 0 },
            bytes: frame.bytes,
            number: frame.number,
            media_time: frame.media_time,
            wall_ns,
            hash,
        });
        let progress = &mut self.progress[track as usize];
        progress.steps += 1;
        progress.next_number += 1;
    }

    /// Logs an event.
    pub(crate) fn log(&mut self, record: Record) -> std::io::Result<()> {
        self.ledger.push(record);
        self.ledger.flush()
    }

    /// SPS and PPS as they are now.
    pub(crate) fn parameter_sets(&self) -> [&[u8]; 2] {
        self.video.parameter_sets()
    }

    /// Ticks a second of a track's clock.
    pub(crate) fn clock(&self, track: Track) -> i64 {
        match track {
            Track::Video => VIDEO_CLOCK,
            Track::Audio => i64::from(self.spec.rate),
        }
    }

    /// The presentation time that a session which begins with the next key frame (or the next frame) begins with,
    /// in the track's clock.
    pub(crate) fn first_time(&self, track: Track, at_key: bool) -> i64 {
        let ahead = if at_key { u64::from(self.video.frames_to_key()) } else { 0 };
        let video =
            self.step_time(Track::Video, self.progress[Track::Video as usize].steps + ahead) + self.video.key_delay();
        (i128::from(video) * i128::from(self.clock(track)) / i128::from(VIDEO_CLOCK)) as i64
    }

    /// The wall clock, as the camera has it, at a media time of a track.
    pub(crate) fn wall_ns_at(&self, track: Track, media_time: i64) -> i64 {
        let elapsed = i128::from(media_time - self.progress[track as usize].first_time);
        let elapsed_ns = elapsed * 1_000_000_000 / i128::from(self.clock(track));
        self.start_wall_ns + elapsed_ns as i64 + self.switches.clock_offset_ms * 1_000_000
    }

    /// Switches a fault and logs it. What concerns connections is left to the caller.
    ///
    /// Errors: this camera can't do it, or the ledger can't be written.
    pub(crate) fn switch(&mut self, fault: Fault, wall_ns: i64) -> anyhow::Result<()> {
        if let Fault::Resolution { width, height } = fault {
            CameraSpec { width, height, ..self.spec.clone() }.check()?;
            anyhow::ensure!(self.video.resize(width, height), "resolution: not with kind=clip");
            (self.spec.width, self.spec.height) = (width, height);
        }
        if fault == Fault::Key {
            anyhow::ensure!(
                self.spec.kind != VideoKind::Clip && !self.spec.per_session,
                "key: not with clip or per_session"
            );
            self.video.restart();
        }
        self.switches.apply(fault);
        let (number, hash) = fault.code();
        self.log(Record { number, hash, ..event(Kind::Fault, wall_ns) })?;
        Ok(())
    }
}

/// A record of something that is no frame.
pub(crate) fn event(kind: Kind, wall_ns: i64) -> Record {
    Record { kind, flags: 0, bytes: 0, number: 0, media_time: 0, wall_ns, hash: 0 }
}
