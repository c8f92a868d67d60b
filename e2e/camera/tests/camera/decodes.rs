//! What the encoder makes is decoded by ffmpeg without one message, picture by picture, stamps and all.

use std::io::Write as _;
use std::process::{Command, Stdio};

use framekeeper_e2e_camera::h264::{Coded, Encoder, Format, Picture};
use framekeeper_e2e_camera::read_stamp;

const FORMAT: Format = Format {
    width: 640,
    height: 368,
    fps: 25,
    bitrate_bps: 1_000_000,
    gop: 20,
    slices: 1,
    picture: Picture::Moving,
    seed: 7,
};

fn annex_b(format: Format, first: u64, frames: u64) -> Vec<u8> {
    let mut encoder = Encoder::new(format);
    let (mut stream, mut coded) = (Vec::new(), Coded::default());
    for number in first..first + frames {
        encoder.encode(number, number as i64 * 3600, &mut coded);
        for nal in coded.iter() {
            stream.extend_from_slice(&[0, 0, 0, 1]);
            stream.extend_from_slice(nal);
        }
    }
    stream
}

/// The luma planes that ffmpeg decodes; fails on any message.
fn decoded(format: Format, stream: &[u8]) -> Vec<Vec<u8>> {
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-err_detect", "explode", "-f", "h264", "-i", "-"])
        .args(["-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stream = stream.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&stream).unwrap());
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    output.stdout.chunks((format.width * format.height) as usize).map(<[u8]>::to_vec).collect()
}

fn check_stamps(format: Format, first: u64, frames: u64) {
    let stream = annex_b(format, first, frames);
    let pictures = decoded(format, &stream);
    let stamps: Vec<_> = pictures.iter().map(|luma| read_stamp(luma, format.width as usize)).collect();
    let expected: Vec<_> = (first..first + frames).map(Some).collect();
    assert_eq!(stamps, expected);
    let bits = stream.len() as u64 * 8 * u64::from(format.fps) / frames;
    let wanted = format.bitrate_bps;
    assert!(bits.abs_diff(wanted) < wanted / 5, "{bits} bit/s instead of {wanted}");
}

#[test]
fn moving_pictures_decode_with_their_stamps() {
    check_stamps(FORMAT, 0, 100);
}

#[test]
fn full_hd_with_cropping_decodes_and_has_large_key_frames() {
    let format = Format { width: 1920, height: 1080, bitrate_bps: 4_000_000, gop: 50, ..FORMAT };
    check_stamps(format, u64::from(u32::MAX) - 5, 100);
    let mut coded = Coded::default();
    for seed in 0..20 {
        Encoder::new(Format { seed, ..format }).encode(0, 0, &mut coded);
        assert!(coded.bytes.len() >= 100_000, "{}", coded.bytes.len());
    }
}

#[test]
fn slices_odd_sizes_and_low_rates_decode() {
    check_stamps(Format { slices: 5, ..FORMAT }, 3, 60);
    check_stamps(Format { slices: 100, width: 160, height: 144, bitrate_bps: 300_000, ..FORMAT }, 3, 60);
    check_stamps(Format { width: 1280, height: 720, fps: 5, bitrate_bps: 128_000, gop: 10, ..FORMAT }, 9, 40);
    check_stamps(Format { width: 642, height: 358, gop: 1, bitrate_bps: 3_000_000, ..FORMAT }, 0, 10);
}

#[test]
fn frozen_gops_are_the_same_bytes_and_black_is_black() {
    let frozen = Format { picture: Picture::Frozen, ..FORMAT };
    let mut encoder = Encoder::new(frozen);
    let mut gops = [Vec::new(), Vec::new()];
    let mut coded = Coded::default();
    for number in 0..40 {
        encoder.encode(number, 0, &mut coded);
        gops[number as usize / 20].extend(coded.iter().filter(|nal| nal[0] & 0x1f != 6).map(<[u8]>::to_vec));
    }
    assert_eq!(gops[0], gops[1]);
    assert_eq!(decoded(frozen, &annex_b(frozen, 0, 60)).len(), 60);

    let black = Format { picture: Picture::Black, slices: 3, ..FORMAT };
    let pictures = decoded(black, &annex_b(black, 0, 60));
    assert_eq!(pictures.len(), 60);
    assert!(pictures.iter().flatten().all(|&luma| luma <= 20));
}
