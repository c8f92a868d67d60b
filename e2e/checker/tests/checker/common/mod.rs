//! Footage from ffmpeg, stamped as a ledger camera does, and segment files and volumes written from docs/format.md.

pub(crate) mod boxes;
pub(crate) mod volume;

use std::path::{Path, PathBuf};
use std::process::Command;

use framekeeper_e2e_checker::movie::{Handler, Movie};
use framekeeper_e2e_checker::stamp;

/// Wall time of picture 0, microseconds since 1970.
pub(crate) const WALL_US: i64 = 1_800_000_000_123_456;
/// Media time of picture 0 in the camera, and what RTP adds to it.
pub(crate) const CAMERA_TIME: i64 = 900_000;
pub(crate) const RTP_OFFSET: i64 = 0x1_2345_6789;
pub(crate) const RATE: u32 = 48_000;
pub(crate) const FRAME: i64 = 3_600;

/// A coded picture.
#[derive(Clone)]
pub(crate) struct Picture {
    pub(crate) number: u64,
    /// File time if the file begins with picture 0.
    pub(crate) decode: i64,
    pub(crate) composition: i32,
    pub(crate) sync: bool,
    pub(crate) data: Vec<u8>,
}

impl Picture {
    pub(crate) fn identity(&self) -> u64 {
        stamp::identity(&stamp::nal_units(&self.data).unwrap())
    }

    pub(crate) fn wall_us(&self) -> i64 {
        WALL_US + (self.decode + i64::from(self.composition)) * 1_000 / 90
    }
}

/// An audio frame.
#[derive(Clone)]
pub(crate) struct Sound {
    pub(crate) number: u64,
    pub(crate) decode: i64,
    pub(crate) data: Vec<u8>,
}

impl Sound {
    pub(crate) fn wall_us(&self) -> i64 {
        WALL_US + self.decode * 1_000_000 / i64::from(RATE)
    }
}

/// What a camera emitted.
#[derive(Clone)]
pub(crate) struct Footage {
    pub(crate) video: Vec<Picture>,
    pub(crate) audio: Vec<Sound>,
    /// Body of `avcC`.
    pub(crate) avcc: Vec<u8>,
    /// Body of `esds`.
    pub(crate) esds: Vec<u8>,
}

pub(crate) fn ffmpeg(arguments: &[&str]) {
    let output = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Encodes `frames` pictures of 25 a second, GOPs of 25, and stamps them.
pub(crate) fn footage(folder: &Path, frames: u64, bframes: u32, audio: bool, tone: u32) -> Footage {
    let path = folder.join(format!("source-{bframes}-{audio}-{tone}.mp4"));
    let seconds = format!("{:.2}", frames as f64 / 25.0);
    let picture = format!("testsrc2=size=320x192:rate=25:duration={seconds},hue=h={tone}");
    let sound = format!("sine=frequency={tone}:sample_rate={RATE}:duration={seconds}");
    let (bframes, out) = (bframes.to_string(), path.to_str().unwrap());
    let mut arguments = vec!["-f", "lavfi", "-i", &picture];
    if audio {
        arguments.extend(["-f", "lavfi", "-i", &sound, "-c:a", "aac", "-b:a", "48k", "-ac", "1"]);
    }
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-bf", &bframes]);
    arguments.extend(["-sc_threshold", "0", "-video_track_timescale", "90000", "-movflags", "+faststart", out]);
    ffmpeg(&arguments);
    let data = std::fs::read(&path).unwrap();
    let movie = Movie::parse(&path, &data).unwrap();
    assert_eq!(movie.findings, [], "ffmpeg's own file");
    let video = &movie.track(Handler::Video).unwrap().samples;
    assert_eq!(video.len() as u64, frames);
    let video = video.iter().zip(0..).map(|(sample, number)| {
        let media_time = CAMERA_TIME + sample.decode + sample.composition;
        Picture {
            number,
            decode: sample.decode,
            composition: sample.composition as i32,
            sync: sample.sync,
            data: stamped(&data[sample.at..sample.at + sample.bytes as usize], number, media_time),
        }
    });
    let sounds = movie.track(Handler::Audio).map(|track| track.samples.as_slice()).unwrap_or_default();
    let sounds = sounds.iter().zip(0..).map(|(sample, number)| Sound {
        number,
        decode: sample.decode,
        data: stamped_sound(&data[sample.at..sample.at + sample.bytes as usize], number),
    });
    Footage {
        video: video.collect(),
        audio: sounds.collect(),
        avcc: boxes::body_of(&data, b"avcC").unwrap(),
        esds: boxes::body_of(&data, b"esds").unwrap_or_default(),
    }
}

/// A sample with a stamp in front of its slices.
pub(crate) fn stamped(sample: &[u8], number: u64, media_time: i64) -> Vec<u8> {
    let mut message = vec![5, 32];
    message.extend(stamp::UUID);
    message.extend(number.to_be_bytes());
    message.extend(media_time.to_be_bytes());
    message.push(0x80);
    let (mut unit, mut zeros) = (vec![0x06], 0);
    for byte in message {
        if zeros >= 2 && byte <= 3 {
            unit.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        unit.push(byte);
    }
    let mut out = Vec::new();
    let mut put = false;
    for nal in stamp::nal_units(sample).unwrap() {
        if !put && (1..=5).contains(&(nal[0] & 0x1f)) {
            out.extend((unit.len() as u32).to_be_bytes());
            out.extend(&unit);
            put = true;
        }
        out.extend((nal.len() as u32).to_be_bytes());
        out.extend(nal);
    }
    out
}

fn stamped_sound(frame: &[u8], number: u64) -> Vec<u8> {
    let mut out = vec![0x81, 16];
    out.extend(stamp::AUDIO_MAGIC);
    out.extend(number.to_be_bytes());
    out.extend(frame);
    out
}

/// The ledger of a camera that emitted this.
pub(crate) fn write_ledger(folder: &Path, camera: &str, footage: &Footage) -> PathBuf {
    let path = folder.join(format!("{camera}.ledger"));
    let audio = if footage.audio.is_empty() { "none" } else { "aac" };
    let header = format!("{{\"name\":\"{camera}\",\"audio\":\"{audio}\",\"rate\":{RATE}}}\n");
    let mut out = b"FKLEDG01".to_vec();
    out.extend((header.len() as u32).to_le_bytes());
    out.extend(header.as_bytes());
    let mut record = |kind: u8, key: bool, bytes: usize, number: u64, media_time: i64, wall_us: i64, hash: u64| {
        out.extend([kind, u8::from(key), 0, 0]);
        out.extend((bytes as u32).to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend(media_time.to_le_bytes());
        out.extend((wall_us * 1_000).to_le_bytes());
        out.extend(hash.to_le_bytes());
    };
    for picture in &footage.video {
        let media_time = CAMERA_TIME + picture.decode + i64::from(picture.composition);
        let wall = WALL_US + picture.decode * 1_000 / 90;
        record(1, picture.sync, picture.data.len(), picture.number, media_time, wall, picture.identity());
    }
    for sound in &footage.audio {
        let hash = xxhash_rust::xxh3::xxh3_64(&sound.data);
        let media_time = CAMERA_TIME * i64::from(RATE) / 90_000 + sound.decode;
        record(2, false, sound.data.len(), sound.number, media_time, sound.wall_us(), hash);
    }
    std::fs::write(&path, out).unwrap();
    path
}
