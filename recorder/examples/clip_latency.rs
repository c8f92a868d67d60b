//! How long the first byte of a clip takes, over a synthetic catalogue of 30 days: `cargo run --release --example clip_latency`.
//!
//! Segments of 131 s (64 MiB at 4 Mbit/s) with 25 frames a second and AAC at 48 kHz; their frames are made anew whenever they are asked for, which costs
//! about what reading an index from the page cache costs. Asked over the real routes, without a socket.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, WallTime};
use framekeeper_recorder::serve::footage::{
    AudioEntry, Counts, Footage, FootageError, Init, Lease, Run, RunPart, Segment, SegmentFrames, VideoEntry,
};
use framekeeper_recorder::serve::query::format_time;
use framekeeper_recorder::serve::{ServeState, router};
use framekeeper_store::GapReason;
use http_body_util::BodyExt;
use tower::ServiceExt;
use uuid::Uuid;

const START_US: i64 = 1_795_269_780_000_000;
const SEGMENT_US: i64 = 131_072_000;
const SEGMENTS: i64 = 30 * 86_400 * 1_000_000 / SEGMENT_US;
const VIDEO_FRAMES: u32 = 3_276;
const AUDIO_FRAMES: u32 = 6_144;
const VIDEO_BYTES: u32 = 20_000;
const AUDIO_BYTES: u32 = 170;
const GOP: u32 = 50;
const FRAGMENT: u32 = 12;

struct Synthetic {
    init: Bytes,
    indexes_read: AtomicU64,
}

fn segment(number: i64) -> Segment {
    let first = START_US + number * SEGMENT_US;
    Segment {
        volume: Uuid::nil(),
        path: PathBuf::new(),
        file_number: number.unsigned_abs(),
        nonce: number.unsigned_abs() + 1,
        stream: Uuid::nil(),
        number: number.unsigned_abs(),
        init_hash: 1,
        first: WallTime(first),
        end: WallTime(first + SEGMENT_US),
        sealed: true,
        used_bytes: 0,
        counts: Counts {
            video_frames: VIDEO_FRAMES,
            audio_frames: AUDIO_FRAMES,
            random_access_points: VIDEO_FRAMES.div_ceil(GOP),
            fragments: VIDEO_FRAMES.div_ceil(FRAGMENT),
            runs: 1,
            video_bytes: u64::from(VIDEO_FRAMES * VIDEO_BYTES),
            audio_bytes: u64::from(AUDIO_FRAMES * AUDIO_BYTES),
        },
    }
}

fn frames(segment: &Segment) -> SegmentFrames {
    let mut frames = SegmentFrames::default();
    let mut offset = 2_000;
    let mut heard = 0;
    for frame in 0..VIDEO_FRAMES {
        let dts = i64::from(frame) * 3600;
        frames.video.push(VideoEntry {
            wall: WallTime(segment.first.0 + i64::from(frame) * 40_000),
            dts,
            identity: segment.nonce << 16 | u64::from(frame),
            offset,
            len: VIDEO_BYTES,
            composition_offset: 0,
            flags: FrameFlags(if frame % GOP == 0 { 3 } else { 0 }),
        });
        offset += VIDEO_BYTES;
        if (frame + 1) % FRAGMENT == 0 || frame + 1 == VIDEO_FRAMES {
            while heard < AUDIO_FRAMES
                && (u64::from(heard) * 1024 * 25 < u64::from(frame) * 48_000 || frame + 1 == VIDEO_FRAMES)
            {
                frames.audio.push(AudioEntry {
                    time: i64::from(heard) * 1024,
                    duration: 1024,
                    offset,
                    len: AUDIO_BYTES,
                });
                offset += AUDIO_BYTES;
                heard += 1;
            }
            frames.fragments.push((frame + 1, heard));
        }
    }
    frames.runs.push(RunPart {
        run: Uuid::nil(),
        video_offset: (segment.first.0 - START_US) * 9 / 100,
        video: 0..VIDEO_FRAMES,
        audio: 0..AUDIO_FRAMES,
        end: segment.end,
        camera_zero_us: None,
    });
    frames
}

impl Footage for Synthetic {
    fn find(&self, _: &str, _: &str) -> Result<Option<Uuid>, FootageError> {
        Ok(Some(Uuid::nil()))
    }

    fn coverage(&self, _: Uuid, _: WallTime, _: WallTime) -> Result<Vec<Run>, FootageError> {
        Ok(vec![Run {
            run: Uuid::nil(),
            recorder: Uuid::nil(),
            epoch: 1,
            rank: 0,
            from: WallTime(START_US),
            to: WallTime(START_US + SEGMENTS * SEGMENT_US),
            frames: SEGMENTS.unsigned_abs() * u64::from(VIDEO_FRAMES),
            gap: GapReason::FirstRun,
            previous_run: Uuid::nil(),
            previous_end: None,
            active: false,
        }])
    }

    fn segments(&self, _: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let first = ((from.0 - START_US).max(0)) / SEGMENT_US;
        let last = ((to.0 - START_US - 1) / SEGMENT_US).min(SEGMENTS - 1);
        Ok((first..=last).map(segment).collect())
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        self.indexes_read.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(frames(segment)))
    }

    fn init(&self, _: &Segment) -> Result<Init, FootageError> {
        Ok(Init { bytes: self.init.clone(), reorders: true })
    }

    fn read_at(&self, _: &Segment, _: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        buf.fill(0);
        Ok(())
    }

    fn lease(&self, _: &[Segment]) -> Box<dyn Lease> {
        Box::new(())
    }

    fn durable_until(&self, _: Uuid) -> Option<WallTime> {
        None
    }
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    // 1920 × 1080, Main profile.
    let sps = [0x67, 0x4d, 0x40, 0x28, 0x96, 0x52, 0x80, 0xf0, 0x04, 0x4f, 0xcb, 0x35, 0x01, 0x01, 0x01, 0x40];
    let video = H264Parameters::from_sps_pps(&sps, &[[0x68, 0xeb, 0xe3, 0xcb]])?;
    let audio = AacParameters::from_audio_specific_config(&[0x11, 0x90])?;
    let init = InitSegment::new(&video, Some(&audio)).bytes;
    let footage = Arc::new(Synthetic { init, indexes_read: AtomicU64::new(0) });
    let app = router(ServeState::of(Arc::clone(&footage) as _, PathBuf::new(), 64));
    let mut out = std::io::stdout();
    writeln!(out, "{:>6} {:>12} {:>12} {:>9} {:>14}", "clip", "first byte", "worst", "indexes", "length")?;
    for hours in [1i64, 24, 24 * 7] {
        let (mut times, mut length, mut indexes) = (Vec::new(), String::new(), 0);
        for round in 0..50 {
            // Anywhere in the month, on no boundary.
            let from = START_US + 1_234_567 + round * 7_654_321_000;
            let to = from + hours * 3_600_000_000;
            let uri = format!(
                "/v1/streams/a/b/clip.mp4?from={}&to={}",
                format_time(WallTime(from)),
                format_time(WallTime(to))
            );
            let before = footage.indexes_read.load(Ordering::Relaxed);
            let started = Instant::now();
            let response = app.clone().oneshot(Request::get(&uri).body(Body::empty())?).await?;
            ensure!(response.status() == 200, "{} for {uri}", response.status());
            length = response.headers()["content-length"].to_str()?.to_owned();
            let mut body = response.into_body();
            body.frame().await.context("no first byte")??;
            times.push(started.elapsed());
            indexes = footage.indexes_read.load(Ordering::Relaxed) - before;
        }
        times.sort();
        let (median, worst) = (times[times.len() / 2], times.last().copied().unwrap_or(Duration::ZERO));
        writeln!(out, "{hours:>4} h {median:>12.1?} {worst:>12.1?} {indexes:>9} {length:>14}")?;
    }
    Ok(())
}
