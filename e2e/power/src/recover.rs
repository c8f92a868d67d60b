//! What a recorder does with a volume after a loss of power, without cameras: opens it, and records.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, MediaTime, WallTime};
use framekeeper_store::env::Env;
use framekeeper_store::{Fragment, PlanVersion, RunStart, Store, StoreConfig, StreamIdent, VideoFrame, VolumeConfig};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Namespace of the stream that is recorded after recovery.
pub const PROBE: &str = "probe";
/// 176 × 144, baseline.
const SPS: &[u8] = &[0x67, 0x42, 0xc0, 0x0a, 0xda, 0x0b, 0x13, 0x90];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
const FRAMES: i64 = 25;
const FRAME_TICKS: u32 = 3_600;

/// The volume.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its folder.
    pub folder: PathBuf,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// Its budget.
    pub budget_bytes: u64,
}

/// How it went.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// Until recording may begin, milliseconds.
    pub open_ms: f64,
    /// Of that, for how long the machine did not let the thread that opens work, though it could have.
    pub delayed_ms: f64,
    /// Until a second of pictures was recorded and durable, milliseconds.
    pub durable_ms: f64,
    /// Until the whole catalogue was there, milliseconds.
    pub complete_ms: f64,
}

/// Opens the volume, records a second of a stream of its own, waits for the catalogue, and closes in order.
///
/// # Errors
/// When the volume can't be opened, fails, or nothing becomes durable within 20 s.
pub fn recover(site: &Site) -> Result<Recovered> {
    let begin = Instant::now();
    let ms = || begin.elapsed().as_secs_f64() * 1_000.0;
    let volume = VolumeConfig {
        dir: site.folder.clone(),
        uuid: None,
        segment_bytes: site.segment_bytes,
        budget_bytes: site.budget_bytes,
    };
    let config = StoreConfig::new("default/main", "main-recorder-0", Uuid::new_v4(), vec![volume]);
    let delayed_before_ms = delayed_ms();
    let store = Store::open(config, Env::real()).context("recovery")?;
    let (open_ms, delayed_ms) = (ms(), delayed_ms() - delayed_before_ms);
    let ident = StreamIdent { uid: Uuid::new_v4(), namespace: PROBE.to_owned(), name: PROBE.to_owned() };
    let stream = ident.uid;
    let mut writer = store.stream(ident)?;
    writer.begin_run(RunStart {
        run: Uuid::new_v4(),
        epoch: 1,
        rank: 0,
        plan_version: PlanVersion { term: 1, sequence: 1 },
        gap: None,
        init: Arc::new(InitSegment::new(&H264Parameters::from_sps_pps(SPS, &[PPS])?, None)),
        audio_timescale: 0,
        sender_report: None,
    });
    writer.append(one_second(store.env().clock.wall()));
    store.flush_tick();
    wait(&store, "nothing became durable", || store.durable(stream).is_some())?;
    let durable_ms = ms();
    let complete = || store.volumes().iter().all(|volume| volume.catalogue_complete);
    wait(&store, "the catalogue did not become complete", complete)?;
    let complete_ms = ms();
    writer.finish();
    store.close();
    check(&store)?;
    Ok(Recovered { open_ms, delayed_ms, durable_ms, complete_ms })
}

/// For how long this thread has waited for a processor (`schedstat`, proc(5)).
fn delayed_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
}

fn check(store: &Store) -> Result<()> {
    for volume in store.volumes() {
        ensure!(volume.failed.is_none(), "the volume failed: {:?}", volume.failed);
    }
    Ok(())
}

fn wait(store: &Store, otherwise: &'static str, done: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        check(store)?;
        ensure!(Instant::now() < until, "{otherwise} within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A key frame and what depends on it; nobody decodes it.
fn one_second(from: WallTime) -> Fragment {
    let frame = |number: i64| {
        let data =
            [&5_u32.to_be_bytes()[..], &[if number == 0 { 0x65 } else { 0x41 }, 0x88, 0x84, 0x21, 0xa0]].concat();
        VideoFrame {
            identity: framekeeper_media::identity::frame_identity(&data),
            data: Bytes::from(data),
            pts: MediaTime(number * i64::from(FRAME_TICKS)),
            dts: MediaTime(number * i64::from(FRAME_TICKS)),
            duration: FRAME_TICKS,
            wall: from.saturating_add_us(number * 40_000),
            flags: if number == 0 { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags(0) },
        }
    };
    Fragment { video: (0..FRAMES).map(frame).collect(), begins_random_access: true, ..Fragment::default() }
}

/// Runs the program that does this, so that one that hangs or panics takes nobody along.
///
/// # Errors
/// As [`recover`].
pub fn by_program(program: &Path, site: &Site) -> Result<Recovered> {
    let folder = site.folder.to_str().context("a folder that is not UTF-8")?;
    let (segment, budget) = (site.segment_bytes.to_string(), site.budget_bytes.to_string());
    let program = program.to_str().context("a program that is not UTF-8")?;
    let said = crate::mount::run(program, &[folder, "--segment-bytes", &segment, "--budget-bytes", &budget])?;
    serde_json::from_str(&said).with_context(|| format!("power-recover said {said:?}"))
}
