//! What a frame costs here: `cargo run --release -p framekeeper-media --example frame_cost`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool for a terminal")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use framekeeper_media::WallTime;
use framekeeper_media::fragment::{FragmentSpec, VideoSample, encode};
use framekeeper_media::identity::inspect;

const FRAMES: usize = 12;
const ROUNDS: u32 = 4000;

/// Coded data looks like noise; what is measured must not depend on it being compressible or short of zeros.
fn frame(length: usize, slices: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut data = Vec::new();
    for _ in 0..slices {
        let size = length / slices;
        data.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
        data.push(0x41);
        data.extend((1..size).map(|_| noise()));
    }
    Bytes::from(data)
}

fn per_frame(what: &str, length: usize, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS) / FRAMES as f64);
    }
    println!("{what:<40} {best:>8.0} ns a frame  {:>7.4} ns a byte", best / length as f64);
}

fn main() {
    for (length, slices) in [(0, 1), (20_000, 1), (20_000, 4), (100_000, 1)] {
        let length = length.max(16);
        let frames: Vec<Bytes> = (0..FRAMES).map(|i| frame(length, slices, i as u64 + 1)).collect();
        let samples: Vec<VideoSample> = frames
            .iter()
            .enumerate()
            .map(|(i, data)| {
                let seen = inspect(data);
                let dts = i as u64 * 3600;
                let wall = WallTime(1);
                let (identity, flags) = (seen.identity, seen.flags);
                VideoSample { data: data.clone(), dts, duration: 3600, composition_offset: 0, wall, identity, flags }
            })
            .collect();
        let spec = FragmentSpec {
            sequence_number: 1,
            nonce: 1,
            offset: 4096,
            continues_gop: false,
            video: &samples,
            audio: &[],
            audio_wall: WallTime(0),
        };
        println!("{length} bytes, {slices} slice(s)");
        per_frame("  inspect (split, classify, XXH3)", length, || {
            for data in &frames {
                black_box(inspect(black_box(data)));
            }
        });
        per_frame("  encode (moof, frames box, CRC32C)", length, || {
            black_box(encode(black_box(&spec)).unwrap());
        });
    }
}
