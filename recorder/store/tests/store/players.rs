//! Players open what the store writes: ffprobe and ffmpeg, without one message.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::*;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::dts::DecodeTimes;
use framekeeper_media::h264::{H264Parameters, split_annexb};
use framekeeper_media::identity::inspect;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, MediaTime, WallTime};
use framekeeper_store::env::RealDisk;
use framekeeper_store::*;

const WALL: i64 = 1_795_269_780_000_000;

fn ffmpeg(arguments: &[&str]) {
    let out = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Real pictures with B-frames, and their codec parameters. The frames' presentation order is what ffprobe says.
fn real_video(dir: &Path) -> (H264Parameters, Vec<VideoFrame>) {
    let raw = dir.join("video.h264");
    let mp4 = dir.join("video.mp4");
    let (raw, mp4) = (raw.to_str().unwrap(), mp4.to_str().unwrap());
    let source = "testsrc=size=640x360:rate=25,noise=alls=30:allf=t,format=yuv420p";
    let encoder =
        ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "25", "-x264-params", "scenecut=0:open-gop=0"];
    ffmpeg(&[&["-f", "lavfi", "-i", source, "-t", "24"][..], &encoder, &["-b:v", "2M", mp4]].concat());
    ffmpeg(&["-i", mp4, "-c", "copy", "-bsf:v", "h264_mp4toannexb", raw]);
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=pts_time", "-of", "csv=p=0", mp4])
        .output()
        .unwrap();
    let shown: Vec<i64> = String::from_utf8(probe.stdout)
        .unwrap()
        .lines()
        .map(|l| (l.trim_matches(',').parse::<f64>().unwrap() * 90_000.0).round() as i64)
        .collect();
    let stream = std::fs::read(raw).unwrap();
    let (mut sps, mut pps, mut units) = (Vec::new(), Vec::new(), Vec::<Vec<u8>>::new());
    for nal in split_annexb(&stream) {
        match nal[0] & 31 {
            7 => sps = nal.to_vec(),
            8 => pps = nal.to_vec(),
            1 | 5 => {
                let mut unit = (nal.len() as u32).to_be_bytes().to_vec();
                unit.extend_from_slice(nal);
                units.push(unit);
            }
            _ => {}
        }
    }
    let parameters = H264Parameters::from_sps_pps(&sps, &[pps]).unwrap();
    assert_eq!(units.len(), shown.len());
    let mut decode_times = DecodeTimes::new(parameters.max_num_reorder_frames, 3600);
    let frames = units.into_iter().zip(shown).map(|(data, shown)| {
        let inspected = inspect(&data);
        let pts = MediaTime(1_000_000 + shown);
        VideoFrame {
            pts,
            dts: decode_times.push(pts).dts,
            duration: 3600,
            wall: WallTime(WALL + shown * 100 / 9),
            identity: inspected.identity,
            flags: inspected.flags,
            data: data.into(),
        }
    });
    (parameters, frames.collect())
}

/// Real sound, as AAC frames out of ADTS.
fn real_audio(dir: &Path) -> (AacParameters, Vec<AudioFrame>) {
    let path = dir.join("audio.aac");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:sample_rate=16000",
        "-t",
        "24",
        "-c:a",
        "aac",
        "-f",
        "adts",
        path.to_str().unwrap(),
    ]);
    let bytes = std::fs::read(&path).unwrap();
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while rest.len() > 7 {
        let length = (usize::from(rest[3] & 3) << 11) | usize::from(rest[4]) << 3 | usize::from(rest[5]) >> 5;
        let n = frames.len() as i64;
        frames.push(AudioFrame {
            data: rest[7..length].to_vec().into(),
            pts: MediaTime(77_000 + n * 1024),
            duration: 1024,
            wall: WallTime(WALL + n * 64_000),
        });
        rest = &rest[length..];
    }
    (AacParameters::from_audio_specific_config(AUDIO_CONFIG).unwrap(), frames)
}

#[test]
fn ffprobe_and_ffmpeg_have_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let (video_parameters, video) = real_video(dir.path());
    let (audio_parameters, audio) = real_audio(dir.path());
    let init = Arc::new(InitSegment::new(&video_parameters, Some(&audio_parameters)));
    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let site = Site::new(Arc::new(RealDisk), &[&volume], 30);
    let store = site.open();
    let camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    let mut sound = audio.iter().peekable();
    let mut appended = 0;
    let mut last_run = 0;
    let is_key = |f: &VideoFrame| f.flags.contains(FrameFlags::RANDOM_ACCESS);
    for gop in video.chunk_by(|_, next| !is_key(next)) {
        // Twice in the middle the camera is away for a while.
        if appended == 0 || appended - last_run >= 200 {
            writer.begin_run(RunStart { init: init.clone(), audio_timescale: AUDIO_RATE, ..camera.run() });
            last_run = appended;
        }
        for part in gop.chunks(12) {
            let mut with = Vec::new();
            while let Some(frame) = sound.next_if(|a| a.wall <= part.last().unwrap().wall) {
                with.push(frame.clone());
            }
            let fragment = Fragment {
                begins_random_access: is_key(&part[0]),
                video: part.to_vec(),
                audio: with,
                av_sync: Some((MediaTime(77_000), MediaTime(1_000_000))),
                sender_report: None,
            };
            appended += part.len();
            assert_eq!(writer.append(fragment), Appended::Queued);
            store.flush_tick();
        }
    }
    site.durables.wait(camera.ident.uid, video.len() as u64);
    writer.finish();
    store.close();
    let reader = store.reader();
    let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert!(segments.len() > 3, "{} segments", segments.len());
    let mut decoded = 0;
    for segment in &segments {
        let path = volume.join(&segment.path);
        look(&std::fs::read(&path).unwrap()).unwrap();
        ffmpeg(&["-xerror", "-i", path.to_str().unwrap(), "-f", "null", "-"]);
        let probe = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-count_frames",
                "-select_streams",
                "v",
                "-show_entries",
                "stream=nb_read_frames",
                "-of",
                "csv=p=0",
            ])
            .arg(&path)
            .output()
            .unwrap();
        assert!(probe.stderr.is_empty(), "{}", String::from_utf8_lossy(&probe.stderr));
        decoded += String::from_utf8(probe.stdout).unwrap().trim().trim_matches(',').parse::<usize>().unwrap();
    }
    assert_eq!(decoded, video.len());
    assert_eq!(reader.coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().len(), 3);
}
