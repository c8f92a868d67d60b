//! Real footage and sound: ffmpeg encodes a file once into a folder of results named by what went into them, and cameras
//! loop the result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use xxhash_rust::xxh3::xxh3_64;

use crate::h264::Coded;
use crate::source::VideoSource;
use crate::spec::{AudioKind, CameraSpec, VideoKind};
use crate::stamp;

/// Seconds of tone that are looped. Whole periods of 440 Hz, and a whole number of AAC frames at 48 and 32 kHz, but for
/// the others a click in 8 s disturbs nobody.
const TONE_SECONDS: u32 = 8;

/// One access unit of a clip.
#[derive(Debug)]
struct AccessUnit {
    /// Its VCL NAL units, without start codes.
    slices: Vec<Vec<u8>>,
    key: bool,
    /// Frame intervals from decoding to presentation.
    delay: u32,
}

/// An encoded file.
#[derive(Debug)]
pub(crate) struct Clip {
    sps: Vec<u8>,
    pps: Vec<u8>,
    units: Vec<AccessUnit>,
}

/// What ffmpeg made, in memory once however many cameras loop it.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    clips: HashMap<PathBuf, Arc<Clip>>,
    sounds: HashMap<PathBuf, Arc<Vec<Vec<u8>>>>,
}

impl Cache {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), clips: HashMap::new(), sounds: HashMap::new() }
    }

    /// The clip that a camera loops.
    ///
    /// Errors: the file can't be read or encoded.
    pub(crate) fn clip(&mut self, spec: &CameraSpec) -> anyhow::Result<Arc<Clip>> {
        let read = || std::fs::read(&spec.file).map(|bytes| xxh3_64(&bytes));
        let content = read().with_context(|| format!("camera {}: file: `{}`", spec.name, spec.file))?;
        let CameraSpec { width, height, fps, bitrate, gop, bframes, .. } = spec;
        let filter = format!("fps={fps},scale={width}:{height}");
        let arguments: Vec<String> = [
            format!("-an -vf {filter} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -bf {bframes} -g {gop}"),
            format!("-keyint_min {gop} -sc_threshold 0 -flags +cgop -b:v {bitrate} -maxrate {bitrate}"),
            format!("-bufsize {bitrate} -f mp4"),
        ]
        .iter()
        .flat_map(|words| words.split(' ').map(str::to_owned))
        .collect();
        let mp4 = self.folder.join(format!("{:016x}.mp4", xxh3_64(format!("{content} {arguments:?}").as_bytes())));
        if let Some(clip) = self.clips.get(&mp4) {
            return Ok(clip.clone());
        }
        make(&mp4, &["-i", &spec.file], &arguments)?;
        let clip = Arc::new(load(&mp4, *fps).with_context(|| format!("clip {}", mp4.display()))?);
        self.clips.insert(mp4, clip.clone());
        Ok(clip)
    }

    /// The AAC frames that a camera loops behind its stamps: the clip's own sound or a quiet tone.
    ///
    /// Errors: ffmpeg failed.
    pub(crate) fn sound(&mut self, spec: &CameraSpec) -> anyhow::Result<Arc<Vec<Vec<u8>>>> {
        let tone = format!("sine=frequency=440:sample_rate={}:duration={TONE_SECONDS},volume=-20dB", spec.rate);
        let own =
            spec.kind == VideoKind::Clip && probe(&spec.file, "a:0", "codec_name").is_ok_and(|name| !name.is_empty());
        let (input, what) = if own {
            (vec!["-i", spec.file.as_str()], xxh3_64(&std::fs::read(&spec.file)?).to_string())
        } else {
            (vec!["-f", "lavfi", "-i", tone.as_str()], tone.clone())
        };
        // What the stamp needs is taken off, so that the whole has the bit rate.
        let bitrate = spec.audio_bitrate.saturating_sub(18 * 8 * u64::from(spec.rate) / 1024).max(16_000);
        let (rate, channels) = (spec.rate, spec.channels);
        let arguments: Vec<String> = format!("-vn -c:a aac -ar {rate} -ac {channels} -b:a {bitrate} -f adts")
            .split(' ')
            .map(str::to_owned)
            .collect();
        let adts = self.folder.join(format!("{:016x}.aac", xxh3_64(format!("{what} {arguments:?}").as_bytes())));
        if let Some(sound) = self.sounds.get(&adts) {
            return Ok(sound.clone());
        }
        make(&adts, &input, &arguments)?;
        let frames = adts_frames(&std::fs::read(&adts)?);
        ensure!(!frames.is_empty(), "sound {}: no frames", adts.display());
        let frames = Arc::new(frames);
        self.sounds.insert(adts, frames.clone());
        Ok(frames)
    }
}

/// Fills in what a camera leaves to the file: size and frame rate; and the defaults where there is no file.
///
/// Errors: the file can't be read.
pub(crate) fn resolve(spec: &CameraSpec) -> anyhow::Result<CameraSpec> {
    let mut spec = spec.clone();
    if spec.kind == VideoKind::Clip && (spec.width == 0 || spec.height == 0 || spec.fps == 0) {
        let field = |name: &str| probe(&spec.file, "v:0", name);
        let size = |name: &str| -> anyhow::Result<u32> { Ok(field(name)?.parse::<u32>()? & !1) };
        let rate = field("r_frame_rate")?;
        let (numerator, denominator) = rate.split_once('/').unwrap_or((&rate, "1"));
        let fps = (numerator.parse::<f64>()? / denominator.parse::<f64>()?).round() as u32;
        let resolved = (size("width")?, size("height")?, fps.max(1));
        (spec.width, spec.height) =
            if spec.width == 0 || spec.height == 0 { (resolved.0, resolved.1) } else { (spec.width, spec.height) };
        spec.fps = if spec.fps == 0 { resolved.2 } else { spec.fps };
    }
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    (spec.width, spec.height, spec.fps) = (or(spec.width, 1920), or(spec.height, 1080), or(spec.fps, 25));
    Ok(spec)
}

/// One field of a stream of a media file, by ffprobe; empty if there is no such stream.
fn probe(file: &str, stream: &str, field: &str) -> anyhow::Result<String> {
    let entries = format!("stream={field}");
    run(Command::new("ffprobe").args(["-v", "error", "-select_streams", stream, "-show_entries", &entries]).args([
        "-of",
        "default=nw=1:nk=1",
        file,
    ]))
    .map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lets ffmpeg make `path`, unless it is there. Two processes may do so at the same time: each renames its own whole file.
fn make(path: &Path, input: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cache folder {}", folder.display()))?;
    let partial = path.with_extension(format!("part-{:08x}", rand::random::<u32>()));
    run(Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(input).args(arguments).arg(&partial))?;
    std::fs::rename(&partial, path)?;
    Ok(())
}

fn load(mp4: &Path, fps: u32) -> anyhow::Result<Clip> {
    let path = mp4.to_string_lossy();
    let annex_b = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", &path, "-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264", "-"])
        .output()?;
    ensure!(annex_b.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&annex_b.stderr));
    let times = run(Command::new("ffprobe").args([
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
        &path,
    ]))?;
    let presented: Vec<i64> = times
        .lines()
        .filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok())
        .map(|seconds| (seconds * f64::from(fps)).round() as i64)
        .collect();
    let mut clip = access_units(&annex_b.stdout)?;
    ensure!(clip.units.len() == presented.len(), "{} pictures, {} times", clip.units.len(), presented.len());
    ensure!(clip.units.first().is_some_and(|unit| unit.key), "does not begin with a key frame");
    let first = presented.iter().min().copied().unwrap_or(0);
    let ahead = presented.iter().enumerate().map(|(at, time)| at as i64 - (time - first)).max().unwrap_or(0);
    for (at, (unit, time)) in clip.units.iter_mut().zip(&presented).enumerate() {
        unit.delay = (time - first + ahead - at as i64) as u32;
    }
    Ok(clip)
}

/// The NAL units of a byte stream (H.264 Annex B), without start codes and trailing zeros.
fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    std::iter::from_fn(move || {
        let start = rest.windows(3).position(|window| window == [0, 0, 1])? + 3;
        rest = &rest[start..];
        let end = rest.windows(3).position(|window| window == [0, 0, 1]).unwrap_or(rest.len());
        let nal = &rest[..end];
        rest = &rest[end..];
        let length = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Some(&nal[..length])
    })
    .filter(|nal| !nal.is_empty())
}

/// Access units (H.264 clause 7.4.1.2.3) without anything but their slices; the first parameter sets hold for all.
fn access_units(stream: &[u8]) -> anyhow::Result<Clip> {
    let (mut sps, mut pps) = (None, None);
    let mut units: Vec<AccessUnit> = Vec::new();
    for nal in nal_units(stream) {
        match nal[0] & 0x1f {
            7 => _ = sps.get_or_insert_with(|| nal.to_vec()),
            8 => _ = pps.get_or_insert_with(|| nal.to_vec()),
            kind @ 1..=5 => {
                // first_mb_in_slice is 0, a single bit 1, in the first slice of a picture.
                let first = nal.get(1).is_some_and(|byte| byte & 0x80 != 0);
                match units.last_mut().filter(|_| !first) {
                    Some(unit) => unit.slices.push(nal.to_vec()),
                    None => units.push(AccessUnit { slices: vec![nal.to_vec()], key: kind == 5, delay: 0 }),
                }
            }
            _ => {}
        }
    }
    Ok(Clip { sps: sps.context("no SPS")?, pps: pps.context("no PPS")?, units })
}

/// Raw AAC frames of an ADTS stream (ISO/IEC 13818-7 §6.2).
fn adts_frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(&[0xff, second, _, b3, b4, b5, _]) = stream.first_chunk::<7>() {
        let header = if second & 1 == 1 { 7 } else { 9 };
        let length = usize::from(b3 & 3) << 11 | usize::from(b4) << 3 | usize::from(b5) >> 5;
        let Some(frame) = stream.get(header..length) else { break };
        frames.push(frame.to_vec());
        stream = &stream[length..];
    }
    frames
}

/// Loops a clip.
pub(crate) struct Loop {
    clip: Arc<Clip>,
    next: usize,
    /// 1/90000 s from frame to frame, as a fraction.
    fps: u32,
}

impl Loop {
    pub(crate) fn new(clip: Arc<Clip>, fps: u32) -> Self {
        Self { clip, next: 0, fps }
    }

    fn delay(&self, at: usize) -> i64 {
        let intervals = self.clip.units.get(at).map_or(0, |unit| unit.delay);
        i64::from(intervals) * crate::source::VIDEO_CLOCK / i64::from(self.fps)
    }
}

impl VideoSource for Loop {
    fn parameter_sets(&self) -> [&[u8]; 2] {
        [&self.clip.sps, &self.clip.pps]
    }

    fn frames_to_key(&self) -> u32 {
        let units = &self.clip.units;
        let from_here = units[self.next..].iter().chain(units).position(|unit| unit.key);
        from_here.unwrap_or(0) as u32
    }

    fn next(&mut self, number: u64, decode_time: i64, out: &mut Coded) -> i64 {
        let presentation = decode_time + self.delay(self.next);
        let unit = &self.clip.units[self.next];
        out.clear(unit.key);
        if unit.key {
            out.push(|bytes| bytes.extend_from_slice(&self.clip.sps));
            out.push(|bytes| bytes.extend_from_slice(&self.clip.pps));
        }
        out.push(|bytes| stamp::append_sei(bytes, number, presentation));
        for slice in &unit.slices {
            out.push(|bytes| bytes.extend_from_slice(slice));
        }
        self.next = (self.next + 1) % self.clip.units.len();
        presentation
    }

    fn key_delay(&self) -> i64 {
        self.delay(0)
    }

    fn restart(&mut self) {
        self.next = (self.next + self.frames_to_key() as usize) % self.clip.units.len();
    }

    fn resize(&mut self, _width: u32, _height: u32) -> bool {
        false
    }
}

/// The sound of a camera, where it needs ffmpeg's.
pub(crate) fn sound(spec: &CameraSpec, cache: &mut Cache) -> anyhow::Result<Option<Arc<Vec<Vec<u8>>>>> {
    if spec.audio == AudioKind::Tone { cache.sound(spec).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_stream_falls_into_access_units() {
        let stream = [
            &[0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3][..],
            &[0, 0, 1, 6, 5, 1, 0x80, 0, 0, 1, 0x65, 0x88, 1, 0, 0, 0, 0, 1, 0x65, 0x40, 2],
            &[0, 0, 1, 0x41, 0x9a, 3, 0, 0, 1, 0x01, 0x9e, 4],
        ]
        .concat();
        let clip = access_units(&stream).unwrap();
        assert_eq!((clip.sps, clip.pps), (vec![0x67, 1, 2], vec![0x68, 3]));
        let slices: Vec<_> = clip.units.iter().map(|unit| (unit.key, unit.slices.len())).collect();
        assert_eq!(slices, [(true, 2), (false, 1), (false, 1)]);
        assert_eq!(clip.units[0].slices[0], [0x65, 0x88, 1]);
        assert!(access_units(&[0, 0, 1, 0x65, 0x88]).is_err());
    }

    #[test]
    fn adts_headers_are_taken_off() {
        let frame = [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x3f, 0xfc, 7, 8];
        assert_eq!(adts_frames(&[frame, frame].concat()), [[7, 8], [7, 8]]);
        assert_eq!(adts_frames(&frame[..8]), Vec::<Vec<u8>>::new());
    }
}
