//! What several test programs need: coded material from ffmpeg, and a segment file put together from the crate's parts.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::boxes::index::{self, EntryKind, IndexEntry, IndexRun, RandomAccess, SegmentIndex};
use framekeeper_media::boxes::run::{GapReason, PlanVersion, RunBox};
use framekeeper_media::boxes::segment::{SEALED_PART_OFFSET, Sealed, SegmentBox};
use framekeeper_media::dts::DecodeTimes;
use framekeeper_media::fragment::{self, AudioSample, FragmentSpec, VideoSample};
use framekeeper_media::h264::{self, H264Parameters};
use framekeeper_media::identity::inspect;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, MediaTime, WallTime};
use uuid::Uuid;

pub(crate) const NONCE: u64 = 0x1122_3344_5566_7788;
pub(crate) const START_WALL: i64 = 1_790_000_000_000_000;
pub(crate) const FILE_SIZE: u64 = 4 << 20;

/// Runs a program that must succeed without one message; its standard output.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {messages}");
    assert_eq!(messages, "", "{program} has something to say");
    output.stdout
}

/// A test picture coded by libx264 with these options: parameters, and the frames in decoding order with presentation times at 90 kHz.
pub(crate) struct Footage {
    pub(crate) parameters: H264Parameters,
    pub(crate) frames: Vec<(Bytes, i64)>,
}

pub(crate) fn footage(folder: &Path, source: &str, encoder: &[&str]) -> Footage {
    let coded = folder.join("coded.mkv");
    let mut arguments = vec!["-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264"];
    arguments.extend_from_slice(encoder);
    arguments.push(coded.to_str().unwrap());
    run("ffmpeg", &arguments);
    let coded = coded.to_str().unwrap();
    let stream =
        run("ffmpeg", &["-v", "error", "-i", coded, "-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264", "-"]);
    // In seconds: Matroska's own timescale is too coarse, so times are rounded to the frame rate's grid.
    let times = run("ffprobe", &["-v", "error", "-show_entries", "packet=pts_time", "-of", "csv=p=0", coded]);
    let times: Vec<i64> = String::from_utf8(times)
        .unwrap()
        .lines()
        .map(|line| (line.trim_end_matches(',').parse::<f64>().unwrap() * 25.0).round() as i64 * 3600)
        .collect();
    let (parameters, frames) = access_units(&stream);
    assert_eq!(frames.len(), times.len(), "access units found against packets that ffprobe counts");
    Footage { parameters, frames: frames.into_iter().zip(times).collect() }
}

/// Splits an Annex B stream into access units (ISO/IEC 14496-10 §7.4.1.2.3, as far as x264 goes); parameter sets are taken out.
pub(crate) fn access_units(stream: &[u8]) -> (H264Parameters, Vec<Bytes>) {
    let (mut sps, mut pps) = (Vec::new(), Vec::new());
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut has_slice = true;
    for nal in h264::split_annexb(stream) {
        match nal[0] & 0x1f {
            7 => sps = nal.to_vec(),
            8 => pps.push(nal.to_vec()),
            _ => {}
        }
        let first_mb = h264::first_mb_in_slice(nal);
        if has_slice && first_mb.is_none_or(|mb| mb == 0) {
            units.push(Vec::new());
            has_slice = false;
        }
        has_slice |= first_mb.is_some();
        if !matches!(nal[0] & 0x1f, 7..=9) {
            let unit = units.last_mut().unwrap();
            unit.extend_from_slice(&u32::try_from(nal.len()).unwrap().to_be_bytes());
            unit.extend_from_slice(nal);
        }
    }
    (H264Parameters::from_sps_pps(&sps, &pps).unwrap(), units.into_iter().map(Bytes::from).collect())
}

/// AAC-LC from ffmpeg: its AudioSpecificConfig, and the frames out of their ADTS headers (ISO/IEC 14496-3 §1.A.3).
pub(crate) fn audio(rate: u32, channels: u32, seconds: f64) -> (AacParameters, Vec<Bytes>) {
    let source = format!("sine=frequency=440:sample_rate={rate}:duration={seconds}");
    let channels_text = channels.to_string();
    let adts = run(
        "ffmpeg",
        &["-v", "error", "-f", "lavfi", "-i", &source, "-ac", &channels_text, "-c:a", "aac", "-f", "adts", "-"],
    );
    let mut rest = adts.as_slice();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(rest[3] & 3) << 11 | usize::from(rest[4]) << 3 | usize::from(rest[5]) >> 5;
        frames.push(Bytes::copy_from_slice(&rest[7..length]));
        rest = &rest[length..];
    }
    let index = (adts[2] >> 2 & 0xf) as u16;
    let config = (2u16 << 11 | index << 7 | (channels as u16) << 3).to_be_bytes();
    (AacParameters::from_audio_specific_config(&config).unwrap(), frames)
}

/// Frames in file time, as the store will place them: decode times from 0.
pub(crate) fn place(footage: &Footage) -> Vec<VideoSample> {
    place_with(footage, footage.parameters.max_num_reorder_frames)
}

/// The same, with what is believed of the reorder depth.
pub(crate) fn place_with(footage: &Footage, max_num_reorder_frames: Option<u8>) -> Vec<VideoSample> {
    let mut times = DecodeTimes::new(max_num_reorder_frames, 3600);
    let placed: Vec<_> = footage.frames.iter().map(|(_, pts)| times.push(MediaTime(*pts))).collect();
    let start = placed[0].dts.0;
    let mut samples: Vec<VideoSample> = Vec::new();
    for ((data, pts), time) in footage.frames.iter().zip(&placed) {
        let inspected = inspect(data);
        samples.push(VideoSample {
            data: data.clone(),
            dts: u64::try_from(time.dts.0 - start).unwrap(),
            duration: 3600,
            composition_offset: time.composition_offset,
            wall: WallTime(START_WALL + pts * 100 / 9),
            identity: inspected.identity,
            flags: inspected.flags,
        });
    }
    samples
}

pub(crate) fn place_audio(frames: &[Bytes]) -> Vec<AudioSample> {
    let at = |index: usize| u64::try_from(index).unwrap() * 1024;
    frames.iter().enumerate().map(|(i, data)| AudioSample { data: data.clone(), dts: at(i), duration: 1024 }).collect()
}

/// A segment file, and the same at each moment between two writes of a fragment.
pub(crate) struct SegmentFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) moments: Vec<Vec<u8>>,
    pub(crate) fragments: Vec<(u64, fragment::EncodedFragment)>,
}

/// Writes a segment in the order of `docs/format.md` §6; a fragment a random access point, or `part` frames.
pub(crate) fn segment_file(
    parameters: &H264Parameters,
    aac: Option<&AacParameters>,
    video: &[VideoSample],
    audio: &[AudioSample],
    part: usize,
) -> SegmentFile {
    let init = InitSegment::new(parameters, aac);
    let mut file = vec![0; usize::try_from(FILE_SIZE).unwrap()];
    let mut at = 0usize;
    let put = |file: &mut Vec<u8>, at: &mut usize, bytes: &[u8]| {
        file[*at..*at + bytes.len()].copy_from_slice(bytes);
        *at += bytes.len();
    };
    let free = |file: &mut Vec<u8>, at: usize| {
        let length = u32::try_from(file.len() - at).unwrap();
        file[at..at + 4].copy_from_slice(&length.to_be_bytes());
        file[at + 4..at + 8].copy_from_slice(b"free");
    };
    put(&mut file, &mut at, &init.padded());
    let segment_at = at;
    let mut segment = SegmentBox {
        nonce: NONCE,
        offset: segment_at as u64,
        begins_inside_gop: false,
        volume: Uuid::from_u128(1),
        stream: Uuid::from_u128(2),
        segment_number: 3,
        file_number: 4,
        file_size: FILE_SIZE,
        first_wall: WallTime(START_WALL),
        init_hash: init.hash,
        video_timescale: 90_000,
        audio_timescale: aac.map_or(0, |aac| aac.sample_rate),
        stream_name: "default/gate".to_owned(),
        sealed: None,
    };
    put(&mut file, &mut at, &segment.encode().unwrap());
    let run = RunBox {
        nonce: NONCE,
        offset: at as u64,
        continued: false,
        run: Uuid::from_u128(5),
        epoch: 6,
        rank: 0,
        gap_reason: GapReason::FirstRun,
        plan: PlanVersion { term: 7, sequence: 8 },
        recorder: Uuid::from_u128(9),
        previous_offset: 0,
        anchor_wall: WallTime(START_WALL),
        anchor_media: MediaTime(0),
        video_offset: 0,
        audio_offset: 0,
        sender_report: None,
        previous_end: None,
        previous_run: None,
    };
    put(&mut file, &mut at, &run.encode());
    free(&mut file, at);

    let mut index = SegmentIndex { nonce: NONCE, ..SegmentIndex::default() };
    let mut points = Vec::new();
    let mut moments = vec![file.clone()];
    let mut fragments = Vec::new();
    let (mut from, mut audio_from) = (0, 0);
    while from < video.len() {
        let to = (from + 1..video.len())
            .find(|&to| to - from == part || video[to].flags.contains(FrameFlags::RANDOM_ACCESS))
            .unwrap_or(video.len());
        let frames = &video[from..to];
        let until =
            video.get(to).map_or(u64::MAX, |next| next.dts * u64::from(aac.map_or(0, |aac| aac.sample_rate)) / 90_000);
        let audio_to = (audio_from..audio.len()).find(|&to| audio[to].dts >= until).unwrap_or(audio.len());
        let sounds = &audio[audio_from..audio_to];
        let encoded = fragment::encode(&FragmentSpec {
            sequence_number: u32::try_from(fragments.len()).unwrap() + 1,
            nonce: NONCE,
            offset: at as u64,
            continues_gop: false,
            video: frames,
            audio: sounds,
            audio_wall: WallTime(START_WALL),
        })
        .unwrap();
        let mut body = encoded.head.to_vec();
        frames.iter().for_each(|sample| body.extend_from_slice(&sample.data));
        sounds.iter().for_each(|sample| body.extend_from_slice(&sample.data));
        body.resize(body.len() + encoded.padding, 0);
        assert_eq!(body.len() as u64, encoded.length);
        assert_eq!(encoded.length, fragment::length_of(frames, sounds));
        // The order that keeps the file valid: free behind, body, then the moof's first 8 bytes.
        free(&mut file, at + body.len());
        moments.push(file.clone());
        file[at + 8..at + body.len()].copy_from_slice(&body[8..]);
        moments.push(file.clone());
        file[at..at + 8].copy_from_slice(&body[..8]);
        moments.push(file.clone());

        if frames[0].flags.contains(FrameFlags::RANDOM_ACCESS) {
            let time = frames[0].dts.checked_add_signed(frames[0].composition_offset.into()).unwrap();
            points.push(RandomAccess { time, moof_offset: at as u64 });
        }
        add_to_index(&mut index, &encoded, frames, sounds);
        fragments.push((at as u64, encoded));
        at += body.len();
        (from, audio_from) = (to, audio_to);
    }
    index.offset = at as u64;
    index.totals.end_wall = WallTime(START_WALL + 1_000_000);
    index.runs.push(IndexRun {
        offset: run.offset,
        first_entry: 0,
        entries: u32::try_from(index.entries.len()).unwrap(),
        first_wall: WallTime(START_WALL),
        end_wall: index.totals.end_wall,
    });
    let encoded = index.encode().unwrap();
    put(&mut file, &mut at, &encoded);
    put(&mut file, &mut at, &index::mfra(&points));
    free(&mut file, at);
    segment.sealed = Some(Sealed {
        index_offset: index.offset,
        index_length: encoded.len() as u64,
        end_wall: index.totals.end_wall,
    });
    let sealed = segment.sealed.unwrap().encode(NONCE);
    file[segment_at + SEALED_PART_OFFSET..segment_at + 512].copy_from_slice(&sealed);
    SegmentFile { bytes: file, moments, fragments }
}

fn add_to_index(
    index: &mut SegmentIndex,
    encoded: &fragment::EncodedFragment,
    frames: &[VideoSample],
    sounds: &[AudioSample],
) {
    let mut offset = encoded.video_offset;
    for (i, sample) in frames.iter().enumerate() {
        index.entries.push(IndexEntry {
            first_of_fragment: i == 0,
            data_offset: u32::try_from(offset).unwrap(),
            data_length: u32::try_from(sample.data.len()).unwrap(),
            decode_time: sample.dts,
            wall: sample.wall,
            kind: EntryKind::Video {
                flags: sample.flags,
                composition_offset: sample.composition_offset,
                identity: sample.identity,
            },
        });
        index.totals.video_frames += 1;
        index.totals.random_access_points += u32::from(sample.flags.contains(FrameFlags::RANDOM_ACCESS));
        index.totals.video_bytes += sample.data.len() as u64;
        offset += sample.data.len() as u64;
    }
    assert_eq!(offset, encoded.audio_offset);
    if let Some(first) = sounds.first() {
        let length: usize = sounds.iter().map(|sample| sample.data.len()).sum();
        index.entries.push(IndexEntry {
            first_of_fragment: frames.is_empty(),
            data_offset: u32::try_from(encoded.audio_offset).unwrap(),
            data_length: u32::try_from(length).unwrap(),
            decode_time: first.dts,
            wall: WallTime(START_WALL),
            kind: EntryKind::Audio {
                frames: u16::try_from(sounds.len()).unwrap(),
                frame_duration: 1024,
                first_size: u32::try_from(index.audio_sizes.len()).unwrap(),
            },
        });
        index.audio_sizes.extend(sounds.iter().map(|sample| u16::try_from(sample.data.len()).unwrap()));
        index.totals.audio_bytes += length as u64;
    }
    index.totals.fragments += 1;
}
