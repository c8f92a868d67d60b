//! What the encoders write is what ffmpeg reads: every frame, every time, without one message. ffmpeg must be installed.

use std::path::Path;

use crate::support::{Footage, SegmentFile, audio, footage, place, place_audio, place_with, run, segment_file};
use framekeeper_media::boxes::walk::boxes;
use framekeeper_media::fragment::VideoSample;
use framekeeper_media::h264::H264Parameters;

/// Whatever a player would complain about.
fn accepted(path: &Path) {
    let path = path.to_str().unwrap();
    run(
        "ffmpeg",
        &["-v", "error", "-xerror", "-err_detect", "+crccheck+bitstream+explode", "-i", path, "-f", "null", "-"],
    );
    run("ffprobe", &["-v", "warning", "-show_packets", "-show_format", path]);
}

/// Strict walk: top-level boxes begin at multiples of 8, fill the file, and are of known kinds.
fn walks(bytes: &[u8]) -> Vec<String> {
    let mut kinds = Vec::new();
    let mut past_init = false;
    for found in boxes(bytes) {
        let (header, _) = found.unwrap();
        let kind = String::from_utf8(header.kind.to_vec()).unwrap();
        past_init |= kind == "uuid";
        if past_init && kind != "mdat" {
            assert_eq!(header.offset % 8, 0, "{kind} at {}", header.offset);
        }
        kinds.push(kind);
    }
    kinds
}

/// (pts, dts) of the video packets as ffprobe reads them, in file order.
fn packet_times(path: &Path) -> Vec<(i64, i64)> {
    let out = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-select_streams",
            "v",
            "-show_entries",
            "packet=pts,dts",
            "-of",
            "csv=p=0",
            path.to_str().unwrap(),
        ],
    );
    let number = |text: &str| text.parse().unwrap();
    String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|line| line.split(',').map(number).collect::<Vec<i64>>())
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

fn picture_hashes(path: &Path) -> Vec<String> {
    let out = run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-i",
            path.to_str().unwrap(),
            "-map",
            "0:v",
            "-fps_mode",
            "passthrough",
            "-f",
            "framemd5",
            "-",
        ],
    );
    let text = String::from_utf8(out).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

fn expected_times(samples: &[VideoSample]) -> Vec<(i64, i64)> {
    let pair = |sample: &VideoSample| {
        let dts = i64::try_from(sample.dts).unwrap();
        (dts + i64::from(sample.composition_offset), dts)
    };
    samples.iter().map(pair).collect()
}

fn check(folder: &Path, source: &Footage, samples: &[VideoSample], file: &SegmentFile) {
    let path = folder.join("segment.mp4");
    std::fs::write(&path, &file.bytes).unwrap();
    let kinds = walks(&file.bytes);
    assert_eq!(kinds.last().map(String::as_str), Some("free"));
    assert_eq!(kinds.iter().filter(|kind| *kind == "mfra").count(), 1);
    accepted(&path);
    assert_eq!(packet_times(&path), expected_times(samples));
    assert_eq!(picture_hashes(&path), picture_hashes(&folder.join("coded.mkv")));
    assert_eq!(source.frames.len(), samples.len());

    for (number, moment) in file.moments.iter().enumerate() {
        walks(moment);
        // The body of a fragment is not there before its moof header is: every third moment adds frames.
        let expected: usize = file.fragments.iter().take(number / 3).count();
        let found = walks(moment).iter().filter(|kind| *kind == "moof").count();
        assert_eq!(found, expected, "moment {number}");
    }
    // Players are slow to start, so only some moments go through one; the first has no frames, which ffmpeg calls an error.
    for moment in file.moments.iter().skip(3).step_by(7) {
        std::fs::write(&path, moment).unwrap();
        accepted(&path);
    }
}

#[test]
fn without_b_frames_and_with_audio() {
    let folder = tempfile::tempdir().unwrap();
    let source = footage(
        folder.path(),
        "testsrc2=size=160x120:rate=25:duration=3",
        &["-bf", "0", "-g", "25", "-tune", "zerolatency"],
    );
    let (aac, sounds) = audio(16_000, 1, 3.0);
    let samples = place(&source);
    assert!(samples.iter().all(|sample| sample.composition_offset == 0));
    let file = segment_file(&source.parameters, Some(&aac), &samples, &place_audio(&sounds), 12);
    check(folder.path(), &source, &samples, &file);

    let path = folder.path().join("segment.mp4");
    std::fs::write(&path, &file.bytes).unwrap();
    let probe = [
        "-v",
        "error",
        "-select_streams",
        "a",
        "-count_packets",
        "-show_entries",
        "stream=codec_name,profile,sample_rate,channels,nb_read_packets",
        "-of",
        "csv=p=0",
    ];
    let out = run("ffprobe", &[&probe[..], &[path.to_str().unwrap()]].concat());
    assert_eq!(String::from_utf8(out).unwrap().trim(), format!("aac,LC,16000,1,{}", sounds.len()));
}

#[test]
fn with_b_frames_offsets_are_never_negative() {
    let folder = tempfile::tempdir().unwrap();
    let source = footage(
        folder.path(),
        "testsrc2=size=160x120:rate=25:duration=3",
        &["-bf", "3", "-b_strategy", "0", "-x264-params", "b-pyramid=normal:keyint=25:open-gop=0"],
    );
    assert_eq!(source.parameters.max_num_reorder_frames, Some(2));
    let samples = place(&source);
    assert!(samples.iter().all(|sample| sample.composition_offset >= 0));
    assert!(samples.iter().any(|sample| sample.composition_offset > 0));
    let file = segment_file(&source.parameters, None, &samples, &[], 12);
    check(folder.path(), &source, &samples, &file);
}

/// A camera that reorders and does not say so: offsets become negative, presentation times stay right to each other. (Where the smallest
/// offset of a file is negative, ffmpeg moves all times of the track by it.)
#[test]
fn with_b_frames_that_nobody_announced() {
    let folder = tempfile::tempdir().unwrap();
    let source = footage(
        folder.path(),
        "testsrc2=size=160x120:rate=25:duration=2",
        &["-bf", "2", "-b_strategy", "0", "-g", "25"],
    );
    let samples = place_with(&source, None);
    assert!(samples.iter().any(|sample| sample.composition_offset < 0));
    let path = folder.path().join("segment.mp4");
    std::fs::write(&path, &segment_file(&source.parameters, None, &samples, &[], 12).bytes).unwrap();
    accepted(&path);
    let shown: Vec<i64> = packet_times(&path).iter().map(|(pts, _)| *pts).collect();
    let moved = samples.iter().map(|sample| -i64::from(sample.composition_offset)).max().unwrap();
    let expected: Vec<i64> = expected_times(&samples).iter().map(|(pts, _)| *pts + moved).collect();
    assert_eq!(shown, expected);
    assert_eq!(picture_hashes(&path), picture_hashes(&folder.path().join("coded.mkv")));
}

#[test]
fn open_gops_begin_at_recovery_points_and_stereo_at_48_khz() {
    let folder = tempfile::tempdir().unwrap();
    let source = footage(
        folder.path(),
        "testsrc2=size=176x144:rate=25:duration=3",
        &["-bf", "2", "-b_strategy", "0", "-x264-params", "keyint=15:open-gop=1:slices=3"],
    );
    let samples = place(&source);
    let random_access = samples.iter().filter(|sample| sample.flags.0 & 1 != 0).count();
    let sync = samples.iter().filter(|sample| sample.flags.0 & 2 != 0).count();
    assert_eq!(sync, 1, "only the first picture is IDR");
    assert!(random_access >= 4, "{random_access}");
    let (aac, sounds) = audio(48_000, 2, 3.0);
    let file = segment_file(&source.parameters, Some(&aac), &samples, &place_audio(&sounds), 12);
    check(folder.path(), &source, &samples, &file);
}

/// The SPS parser against ffprobe's, over what x264 can write.
#[test]
fn parameter_sets_as_ffprobe_reads_them() {
    let cases: [(&str, &str, &[&str]); 10] = [
        ("160x120", "yuv420p", &["-profile:v", "baseline"]),
        ("160x120", "yuv420p", &["-profile:v", "main", "-bf", "2"]),
        ("1920x1080", "yuv420p", &["-profile:v", "high", "-level", "5.1"]),
        ("322x242", "yuv420p", &["-x264-params", "nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500:cqm=jvt"]),
        ("320x240", "yuv420p10le", &["-profile:v", "high10"]),
        ("322x242", "yuv422p", &["-profile:v", "high422"]),
        ("321x241", "yuv444p", &["-profile:v", "high444"]),
        ("320x272", "yuv420p", &["-flags", "+ildct+ilme", "-x264-params", "tff=1"]),
        ("720x576", "yuv420p", &["-vf", "setsar=16/11"]),
        (
            "320x240",
            "yuv420p",
            &[
                "-color_primaries",
                "bt709",
                "-color_trc",
                "bt709",
                "-colorspace",
                "bt709",
                "-color_range",
                "pc",
                "-bf",
                "0",
            ],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (size, pixels, options) in cases {
        let source = format!("testsrc2=size={size}:rate=25:duration=0.2,format={pixels}");
        let found: H264Parameters = footage(folder.path(), &source, options).parameters;
        let fields = "stream=width,height,has_b_frames,sample_aspect_ratio,level";
        let path = folder.path().join("coded.mkv");
        let probe = ["-v", "error", "-show_entries", fields, "-of", "csv=p=0", path.to_str().unwrap()];
        let probed = String::from_utf8(run("ffprobe", &probe)).unwrap();
        let (horizontal, vertical) = found.sample_aspect_ratio.unwrap_or((1, 1));
        let reorder = found.max_num_reorder_frames.unwrap();
        let read = format!("{},{},{reorder},{horizontal}:{vertical},{}", found.width, found.height, found.level_idc);
        assert_eq!(probed.trim(), read, "{size} {pixels} {options:?}");
        assert_eq!(found.frame_rate_hint.map(|(frames, seconds)| f64::from(frames) / f64::from(seconds)), Some(25.0));
        assert_eq!(found.nominal_frame_duration(), Some(3600));
        assert_eq!(H264Parameters::from_avcc(&found.avcc()).unwrap(), found);
        if options.contains(&"bt709") {
            let colour = found.colour.unwrap();
            assert_eq!((colour.primaries, colour.transfer, colour.matrix, colour.full_range), (1, 1, 1, true));
        }
    }
}
