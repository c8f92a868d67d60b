//! Footage of a source, recorded by the real store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::env::Env;
use framekeeper_store::{
    AudioFrame, Fragment, Placement, PlanVersion, RunStart, Store, StoreConfig, StreamIdent, VideoFrame, VolumeConfig,
};
use uuid::Uuid;

use crate::serve_footage::{Coded, RunSpec, Source};

const AUDIO_ZERO: i64 = 55_000_000;
const VIDEO_ZERO: i64 = 99_000_000_000;

pub(crate) fn open(folder: &Path) -> Store {
    open_all(&[folder.to_owned()], Placement::Fill)
}

/// The same with several volumes.
pub(crate) fn open_all(folders: &[PathBuf], placement: Placement) -> Store {
    let volume =
        |dir: &PathBuf| VolumeConfig { dir: dir.clone(), uuid: None, segment_bytes: 1 << 20, budget_bytes: 32 << 20 };
    let volumes = folders.iter().map(volume).collect();
    let config = StoreConfig::new("default/main", "main-recorder-0", Uuid::from_u128(9), volumes);
    Store::open(StoreConfig { placement, ..config }, Env::real()).unwrap()
}

fn init(source: &Source) -> Arc<InitSegment> {
    let at = source.init.windows(4).position(|window| window == b"avcC").unwrap();
    let length = u32::from_be_bytes(source.init[at - 4..at].try_into().unwrap()) as usize;
    let video = H264Parameters::from_avcc(&source.init[at + 4..at - 4 + length]).unwrap();
    // AAC-LC, 48 kHz, mono.
    let audio = AacParameters::from_audio_specific_config(&[0x11, 0x88]).unwrap();
    Arc::new(InitSegment::new(&video, Some(&audio)))
}

/// Records frames of a source as one run, a fragment of up to 12 frames at a time.
pub(crate) fn record(store: &Store, ident: &StreamIdent, spec: &RunSpec<'_>) {
    let source = spec.source;
    let wall = |pts: i64| WallTime(spec.wall_us + (pts as i128 * 100).div_euclid(9) as i64);
    let mut writer = store.stream(ident.clone()).unwrap();
    writer.begin_run(RunStart {
        run: Uuid::new_v4(),
        epoch: 1,
        rank: 0,
        plan_version: PlanVersion { term: 1, sequence: 1 },
        gap: Some(spec.gap),
        init: init(source),
        audio_timescale: 48_000,
        sender_report: None,
    });
    let frames = &source.video[spec.frames.clone()];
    let heard_at = |frame: &Coded| frame.pts * 90_000 / source.audio_rate;
    let first_pts = frames.iter().map(|frame| frame.pts).min().unwrap();
    let mut audio = source.audio.iter().filter(|frame| heard_at(frame) >= first_pts).peekable();
    let mut rest = frames;
    while !rest.is_empty() {
        let next_key = rest[1..].iter().position(|frame| frame.key).map_or(rest.len(), |at| at + 1);
        let (now, then) = rest.split_at(next_key.min(12));
        rest = then;
        let until = now.last().unwrap().dts - 9_000;
        let mut fragment = Fragment {
            begins_random_access: now[0].key,
            av_sync: Some((MediaTime(AUDIO_ZERO), MediaTime(VIDEO_ZERO))),
            ..Fragment::default()
        };
        fragment.video.extend(now.iter().map(|frame| VideoFrame {
            data: Bytes::copy_from_slice(&frame.data),
            pts: MediaTime(VIDEO_ZERO + frame.pts),
            dts: MediaTime(VIDEO_ZERO + frame.dts),
            duration: frame.duration as u32,
            wall: wall(frame.pts),
            identity: FrameIdentity(frame.data.len() as u64),
            flags: FrameFlags(if frame.key { 3 } else { 0 }),
        }));
        while let Some(frame) = audio.next_if(|frame| heard_at(frame) < until) {
            fragment.audio.push(AudioFrame {
                data: Bytes::copy_from_slice(&frame.data),
                pts: MediaTime(AUDIO_ZERO + frame.pts),
                duration: frame.duration as u32,
                wall: wall(heard_at(frame)),
            });
        }
        let _ = writer.append(fragment);
        store.flush_tick();
    }
    writer.finish();
}
