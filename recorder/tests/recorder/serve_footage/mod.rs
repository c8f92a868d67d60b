//! Footage in memory, made of video that ffmpeg encoded, and ffmpeg as the judge of what is served of it.

pub(crate) mod recorded;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use framekeeper_media::{FrameFlags, WallTime};
use framekeeper_recorder::serve::footage::*;
use framekeeper_store::GapReason;
use uuid::Uuid;

/// One second in microseconds.
pub(crate) const S: i64 = 1_000_000;
/// Wall time of the first frame of most footage here.
pub(crate) const START: i64 = 1_795_269_780 * S;

/// A coded frame of a source, times at 90 kHz (audio: at its own rate) from 0 on.
#[derive(Clone, Debug)]
pub(crate) struct Coded {
    pub data: Vec<u8>,
    pub pts: i64,
    pub dts: i64,
    pub duration: i64,
    pub key: bool,
}

/// What ffmpeg encoded.
pub(crate) struct Source {
    pub init: Bytes,
    pub video: Vec<Coded>,
    pub audio: Vec<Coded>,
    pub audio_rate: i64,
    pub reorders: bool,
    /// MD5 of each decoded frame, in order of presentation.
    pub pictures: Vec<String>,
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.trim().is_empty(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a source: video options and audio options as ffmpeg takes them; no audio when there are none.
pub(crate) fn encode(seconds: u32, size: &str, video: &str, audio: Option<&str>) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("source.mp4");
    let path = file.to_str().unwrap();
    let (pictures, tone) = (format!("testsrc2=size={size}:rate=25"), "sine=frequency=440:sample_rate=48000");
    let t = seconds.to_string();
    let mut arguments = vec!["-v", "error", "-f", "lavfi", "-i", &pictures];
    if audio.is_some() {
        arguments.extend(["-f", "lavfi", "-i", tone]);
    }
    arguments.extend(["-t", &t, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-video_track_timescale", "90000"]);
    arguments.extend(video.split_whitespace());
    if let Some(audio) = audio {
        arguments.extend(["-c:a", "aac"]);
        arguments.extend(audio.split_whitespace());
    }
    arguments.push(path);
    run("ffmpeg", &arguments);
    read_source(&file, video)
}

fn read_source(file: &Path, video_options: &str) -> Source {
    let bytes = std::fs::read(file).unwrap();
    let path = file.to_str().unwrap();
    let streams = probe(path, &["-show_streams"]);
    let audio_rate = streams["streams"]
        .as_array()
        .unwrap()
        .iter()
        .find(|stream| stream["codec_type"] == "audio")
        .map_or(0, |stream| stream["sample_rate"].as_str().unwrap().parse().unwrap());
    let (mut video, mut audio) = (Vec::new(), Vec::new());
    for packet in probe(path, &["-show_packets"])["packets"].as_array().unwrap() {
        let number = |name: &str| packet[name].as_i64().unwrap();
        let text = |name: &str| packet[name].as_str().unwrap().parse::<usize>().unwrap();
        let (at, len) = (text("pos"), text("size"));
        let coded = Coded {
            data: bytes[at..at + len].to_vec(),
            pts: number("pts"),
            dts: number("dts"),
            duration: number("duration"),
            key: packet["flags"].as_str().unwrap().starts_with('K'),
        };
        if packet["codec_type"] == "video" { video.push(coded) } else { audio.push(coded) }
    }
    let pictures = pictures(path);
    assert_eq!(pictures.len(), video.len());
    let moov = bytes.windows(4).position(|window| window == b"moov").unwrap() - 4;
    let len = u32::from_be_bytes(bytes[moov..moov + 4].try_into().unwrap()) as usize;
    let init = Bytes::copy_from_slice(&bytes[moov..moov + len]);
    Source { init, video, audio, audio_rate, reorders: !video_options.contains("-bf 0"), pictures }
}

pub(crate) fn probe(path: &str, arguments: &[&str]) -> serde_json::Value {
    let all: Vec<&str> = [&["-v", "error", "-of", "json"], arguments, &[path]].concat();
    serde_json::from_str(&run("ffprobe", &all)).unwrap()
}

/// MD5 of each decoded video frame that a player would show, in order. Any message of ffmpeg's is a failure.
pub(crate) fn pictures(path: &str) -> Vec<String> {
    let arguments =
        ["-v", "error", "-xerror", "-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"];
    let listing = run("ffmpeg", &arguments);
    let lines = listing.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Presentation times of the frames that a player would show, in seconds.
pub(crate) fn times(path: &str, stream: &str) -> Vec<f64> {
    let shown = probe(path, &["-select_streams", stream, "-show_frames", "-show_entries", "frame=pts_time"]);
    let frames = shown["frames"].as_array().unwrap();
    frames.iter().map(|frame| frame["pts_time"].as_str().unwrap().parse().unwrap()).collect()
}

/// What of a source becomes a run.
pub(crate) struct RunSpec<'a> {
    pub source: &'a Source,
    /// Positions in the source's video, in decoding order; begins at a key frame.
    pub frames: std::ops::Range<usize>,
    /// Wall time of the source's time 0.
    pub wall_us: i64,
    pub gops_per_segment: usize,
    /// Goes on in the last segment of the run before, for its first GOPs.
    pub fills_on: bool,
    pub gap: GapReason,
}

pub(crate) struct Stored {
    pub info: Segment,
    pub frames: SegmentFrames,
    pub init: Init,
    pub bytes: Vec<u8>,
}

/// A stream's footage.
#[derive(Default)]
pub(crate) struct Memory {
    pub stream: Uuid,
    pub segments: Vec<Arc<Stored>>,
    pub runs: Vec<Run>,
    pub durable: Option<WallTime>,
    /// Positions of segments whose frames were asked for.
    pub read: Mutex<Vec<u64>>,
    pub gone: AtomicBool,
    pub leases: Arc<AtomicUsize>,
    cache: Mutex<HashMap<u64, Arc<SegmentFrames>>>,
}

/// A frame that a clip should show: which picture of which source, and when it was taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub picture: String,
    pub wall_us: i64,
}

const MEDIA_ZERO: i64 = 123_456_789_012;
/// What the camera's clock was at a source's time 0.
const CAMERA_ZERO_US: i64 = 4_000_000_000 * S;

impl Memory {
    pub(crate) fn new() -> Self {
        Self { stream: Uuid::new_v4(), ..Self::default() }
    }

    /// Records a run, in fragments of 12 frames.
    pub(crate) fn record(&mut self, spec: &RunSpec<'_>) {
        let run = Uuid::new_v4();
        let source = spec.source;
        let coded = &source.video[spec.frames.clone()];
        let keys: Vec<usize> = (0..coded.len()).filter(|at| coded[*at].key).collect();
        let mut bounds: Vec<usize> = keys.iter().copied().step_by(spec.gops_per_segment).collect();
        bounds.push(coded.len());
        let wall = |pts: i64| WallTime(spec.wall_us + (pts as i128 * 100).div_euclid(9) as i64);
        let end_pts = coded.iter().map(|frame| frame.pts + frame.duration).max().unwrap();
        // Audio comes a little late, so it is in fragments behind its video's, and sometimes in the next segment.
        let heard_pts = |a: &Coded| a.pts * 90_000 / source.audio_rate.max(1);
        let first_pts = coded.iter().map(|frame| frame.pts).min().unwrap();
        let mut audio: std::collections::VecDeque<&Coded> =
            source.audio.iter().filter(|a| (first_pts..end_pts).contains(&heard_pts(a))).collect();
        for (index, bound) in bounds.windows(2).enumerate() {
            let here = &coded[bound[0]..bound[1]];
            let appends = index == 0 && spec.fills_on;
            let mut stored = if appends {
                Arc::into_inner(self.segments.pop().unwrap()).unwrap()
            } else {
                self.empty_segment(source, wall(here.iter().map(|frame| frame.pts).min().unwrap()))
            };
            // File time goes on where the last frame ended.
            let file_from = stored.frames.video.last().map_or(0, |last| last.dts + 3600);
            let file_from = stored.frames.audio.last().map_or(file_from, |last| {
                file_from.max((last.time + i64::from(last.duration)) * 90_000 / source.audio_rate + 1)
            });
            let audio_first = audio.front().map_or(i64::MAX, |a| heard_pts(a));
            let shift = file_from - here[0].dts.min(audio_first);
            let (video_before, audio_before) = (stored.frames.video.len() as u32, stored.frames.audio.len() as u32);
            for (fragment, frames) in here.chunks(12).enumerate() {
                stored.bytes.extend([0xEE; 96]);
                for frame in frames {
                    stored.frames.video.push(VideoEntry {
                        wall: wall(frame.pts),
                        dts: frame.dts + shift,
                        identity: seahash(&frame.data),
                        offset: stored.bytes.len() as u32,
                        len: frame.data.len() as u32,
                        composition_offset: (frame.pts - frame.dts) as i32,
                        flags: FrameFlags(if frame.key { 3 } else { 0 }),
                    });
                    stored.bytes.extend(&frame.data);
                }
                let until = if bound[1] == coded.len() && (fragment + 1) * 12 >= here.len() {
                    i64::MAX
                } else {
                    frames.last().unwrap().dts - 9_000
                };
                while let Some(frame) = audio.pop_front_if(|a| heard_pts(a) < until) {
                    let time =
                        frame.pts + (i128::from(shift) * i128::from(source.audio_rate)).div_euclid(90_000) as i64;
                    stored.frames.audio.push(AudioEntry {
                        time,
                        duration: frame.duration as u32,
                        offset: stored.bytes.len() as u32,
                        len: frame.data.len() as u32,
                    });
                    stored.bytes.extend(&frame.data);
                }
                stored.frames.fragments.push((stored.frames.video.len() as u32, stored.frames.audio.len() as u32));
            }
            let end = wall(here.iter().map(|frame| frame.pts + frame.duration).max().unwrap());
            stored.frames.runs.push(RunPart {
                run,
                video_offset: MEDIA_ZERO - shift,
                video: video_before..stored.frames.video.len() as u32,
                audio: audio_before..stored.frames.audio.len() as u32,
                end,
                camera_zero_us: Some(CAMERA_ZERO_US - (i128::from(shift) * 100).div_euclid(9) as i64),
            });
            stored.info.end = end;
            stored.info.counts = counts(&stored.frames);
            self.segments.push(Arc::new(stored));
        }
        self.runs.push(Run {
            run,
            recorder: Uuid::from_u128(1),
            epoch: 1,
            rank: 0,
            from: wall(first_pts),
            to: wall(end_pts),
            frames: coded.len() as u64,
            gap: spec.gap,
            previous_run: Uuid::nil(),
            previous_end: self.runs.last().map(|run| run.to),
            active: false,
        });
    }

    /// The last run is of another recorder than the first ones. Whether its camera tells it the time.
    pub(crate) fn of_another_recorder(&mut self, reports: bool) {
        let run = self.runs.last_mut().unwrap();
        run.recorder = Uuid::from_u128(2);
        for stored in self.segments.iter_mut().map(|stored| Arc::get_mut(stored).unwrap()) {
            let parts = stored.frames.runs.iter_mut().filter(|part| part.run == run.run && !reports);
            parts.for_each(|part| part.camera_zero_us = None);
        }
    }

    fn empty_segment(&self, source: &Source, first: WallTime) -> Stored {
        let number = self.segments.len() as u64;
        let info = Segment {
            volume: Uuid::from_u128(7),
            path: PathBuf::from(format!("streams/{number}.mp4")),
            nonce: 0x1234_5678_9abc_0000 + number,
            init_hash: seahash(&source.init),
            first,
            end: first,
            sealed: true,
            counts: Counts::default(),
            file_number: number,
            stream: self.stream,
            number,
            used_bytes: 0,
        };
        let init = Init { bytes: source.init.clone(), reorders: source.reorders };
        Stored { info, frames: SegmentFrames::default(), init, bytes: source.init.to_vec() }
    }

    /// The newest segment is still being written.
    pub(crate) fn unseal_last(&mut self) {
        let mut last = Arc::into_inner(self.segments.pop().unwrap()).unwrap();
        last.info.sealed = false;
        last.info.counts = Counts::default();
        self.runs.last_mut().unwrap().active = true;
        self.segments.push(Arc::new(last));
    }

    fn stored(&self, segment: &Segment) -> Result<&Arc<Stored>, FootageError> {
        if self.gone.load(Ordering::SeqCst) {
            return Err(FootageError::Gone);
        }
        self.segments
            .get(segment.file_number as usize)
            .filter(|s| s.info.nonce == segment.nonce)
            .ok_or(FootageError::Gone)
    }
}

/// The frames of a source that lie in a range of wall time, in order of presentation.
pub(crate) fn shown(spec: &RunSpec<'_>, from_us: i64, to_us: i64) -> Vec<Shown> {
    let mut order: Vec<i64> = spec.source.video.iter().map(|frame| frame.pts).collect();
    order.sort_unstable();
    let mut frames: Vec<&Coded> = spec.source.video[spec.frames.clone()].iter().collect();
    frames.sort_by_key(|frame| frame.pts);
    let all = frames.iter().map(|frame| Shown {
        picture: spec.source.pictures[order.binary_search(&frame.pts).unwrap()].clone(),
        wall_us: spec.wall_us + (frame.pts as i128 * 100).div_euclid(9) as i64,
    });
    all.filter(|frame| frame.wall_us >= from_us && frame.wall_us < to_us).collect()
}

fn counts(frames: &SegmentFrames) -> Counts {
    Counts {
        video_frames: frames.video.len() as u32,
        audio_frames: frames.audio.len() as u32,
        random_access_points: frames.video.iter().filter(|entry| entry.random_access()).count() as u32,
        runs: frames.runs.len() as u32,
        fragments: frames.fragments.len() as u32,
        video_bytes: frames.video.iter().map(|entry| u64::from(entry.len)).sum(),
        audio_bytes: frames.audio.iter().map(|entry| u64::from(entry.len)).sum(),
    }
}

fn seahash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish().max(1)
}

impl Footage for Memory {
    fn find(&self, namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError> {
        Ok((namespace == "default" && name == "door").then_some(self.stream))
    }

    fn coverage(&self, _: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError> {
        Ok(self.runs.iter().filter(|run| run.from < to && run.to > from).cloned().collect())
    }

    fn segments(&self, _: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let mut found: Vec<Segment> = self.segments.iter().map(|s| s.info.clone()).collect();
        found.retain(|segment| segment.first < to && segment.end > from);
        found.sort_by_key(|segment| segment.first);
        Ok(found)
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        let stored = self.stored(segment)?;
        self.read.lock().unwrap().push(segment.file_number);
        let mut cache = self.cache.lock().unwrap();
        let entry = cache.entry(segment.file_number).or_insert_with(|| {
            let f = &stored.frames;
            let (runs, video, audio) = (f.runs.clone(), f.video.clone(), f.audio.clone());
            Arc::new(SegmentFrames { runs, video, audio, fragments: f.fragments.clone() })
        });
        Ok(Arc::clone(entry))
    }

    fn init(&self, segment: &Segment) -> Result<Init, FootageError> {
        Ok(self.stored(segment)?.init.clone())
    }

    fn read_at(&self, segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        let stored = self.stored(segment)?;
        buf.copy_from_slice(&stored.bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn lease(&self, _: &[Segment]) -> Box<dyn Lease> {
        self.leases.fetch_add(1, Ordering::SeqCst);
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Box::new(Counted(Arc::clone(&self.leases)))
    }

    fn durable_until(&self, _: Uuid) -> Option<WallTime> {
        self.durable
    }
}
