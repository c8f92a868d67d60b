//! Whatever is encoded decodes to the same, and whatever bytes come, decoding ends with an answer.

use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::boxes::index::{
    EntryKind, IndexEntry, IndexRun, IndexTotals, RandomAccess, SegmentIndex, mfra, mfra_length,
};
use framekeeper_media::boxes::run::{GapReason, PlanVersion, ReportedTime, RunBox};
use framekeeper_media::boxes::segment::{MAX_NAME_BYTES, SEALED_PART_OFFSET, Sealed, SegmentBox};
use framekeeper_media::boxes::walk::{boxes, walk};
use framekeeper_media::boxes::{BoxError, BoxWriter};
use framekeeper_media::dts::DecodeTimes;
use framekeeper_media::fragment::{self, AudioSample, FragmentSpec, VideoSample};
use framekeeper_media::h264::{self, H264Parameters};
use framekeeper_media::identity::inspect;
use framekeeper_media::init::InitSegment;
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

/// libx264, 160 x 120, High profile, level 1.1, B-frames.
const SPS: &[u8] = &[
    0x67, 0x64, 0x00, 0x0b, 0xac, 0xd9, 0x42, 0x84, 0x7e, 0x5c, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00,
    0x0c, 0x83, 0xc5, 0x0a, 0x65, 0x80,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

fn uuids() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn walls() -> impl Strategy<Value = WallTime> {
    any::<i64>().prop_map(WallTime)
}

prop_compose! {
    fn segments()(
        nonce in 1u64.., offset: u64, begins_inside_gop: bool, volume in uuids(), stream in uuids(), numbers: [u64; 4],
        first_wall in walls(), timescales: [u32; 2], stream_name in "[a-zé/.-]{0,150}",
        sealed in option::of((any::<u64>(), any::<u64>(), walls())),
    ) -> SegmentBox {
        let [segment_number, file_number, file_size, init_hash] = numbers;
        let sealed = sealed.map(|(index_offset, index_length, end_wall)| Sealed { index_offset, index_length, end_wall });
        SegmentBox {
            nonce, offset, begins_inside_gop, volume, stream, segment_number, file_number, file_size, first_wall, init_hash,
            video_timescale: timescales[0], audio_timescale: timescales[1], stream_name, sealed,
        }
    }
}

prop_compose! {
    fn runs()(
        nonce in 1u64.., offset: u64, continued: bool, run in uuids(), epoch: u64, rank: u32, reason in 0usize..19, plan: [u64; 2],
        recorder in uuids(), previous_offset: u64, anchor_wall in walls(), times: [i64; 3],
        report in option::of((1u64.., any::<i64>())), previous_end in option::of(1i64..), previous_run in option::of(1u128..),
    ) -> RunBox {
        RunBox {
            nonce, offset, continued, run, epoch, rank, gap_reason: GapReason::all().nth(reason).unwrap(),
            plan: PlanVersion { term: plan[0], sequence: plan[1] }, recorder, previous_offset, anchor_wall,
            anchor_media: MediaTime(times[0]), video_offset: times[1], audio_offset: times[2],
            sender_report: report.map(|(ntp, time)| ReportedTime { ntp, media_time: MediaTime(time) }),
            previous_end: previous_end.map(WallTime), previous_run: previous_run.map(Uuid::from_u128),
        }
    }
}

fn entries(audio_frames: u16) -> impl Strategy<Value = IndexEntry> {
    let video = (0u32..16, any::<i32>(), any::<u64>()).prop_map(|(flags, composition_offset, identity)| {
        EntryKind::Video { flags: FrameFlags(flags), composition_offset, identity: FrameIdentity(identity) }
    });
    let audio = (0..=audio_frames, any::<u32>()).prop_map(move |(frames, frame_duration)| EntryKind::Audio {
        frames,
        frame_duration,
        first_size: u32::from(audio_frames - frames),
    });
    (any::<bool>(), any::<[u32; 2]>(), any::<u64>(), walls(), prop_oneof![video, audio]).prop_map(
        |(first_of_fragment, data, decode_time, wall, kind)| IndexEntry {
            first_of_fragment,
            data_offset: data[0],
            data_length: data[1],
            decode_time,
            wall,
            kind,
        },
    )
}

fn indexes() -> impl Strategy<Value = SegmentIndex> {
    let sized = (0u16..20).prop_flat_map(|audio| (vec(entries(audio), 0..20), vec(any::<u16>(), usize::from(audio))));
    let totals = (any::<[u32; 3]>(), any::<[u64; 2]>(), walls()).prop_map(|(counts, bytes, end_wall)| IndexTotals {
        video_frames: counts[0],
        random_access_points: counts[1],
        fragments: counts[2],
        video_bytes: bytes[0],
        audio_bytes: bytes[1],
        end_wall,
    });
    (1u64.., any::<u64>(), sized, vec((any::<u64>(), walls(), walls()), 0..4), totals).prop_map(
        |(nonce, offset, (entries, audio_sizes), runs, totals)| {
            let all = u32::try_from(entries.len()).unwrap();
            let run = |(offset, first_wall, end_wall)| IndexRun {
                offset,
                first_entry: 0,
                entries: all,
                first_wall,
                end_wall,
            };
            SegmentIndex { nonce, offset, runs: runs.into_iter().map(run).collect(), entries, audio_sizes, totals }
        },
    )
}

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

prop_compose! {
    fn video()(start in 0u64..1 << 50, frames in vec((data(), 1u32..1 << 20, -9000i32..9000, walls(), any::<u64>(), 0u32..16), 0..8), offsets: bool)
    -> Vec<VideoSample> {
        let mut dts = start;
        frames.into_iter().map(|(data, duration, offset, wall, identity, flags)| {
            let sample = VideoSample {
                data, dts, duration, composition_offset: if offsets { offset } else { 0 }, wall,
                identity: FrameIdentity(identity), flags: FrameFlags(flags),
            };
            dts += u64::from(duration);
            sample
        }).collect()
    }
}

prop_compose! {
    fn audio()(start in 0u64..1 << 50, frames in vec((data(), prop_oneof![Just(1024u32), 0u32..5000]), 0..8), equal: bool) -> Vec<AudioSample> {
        let mut dts = start;
        frames.into_iter().map(|(data, duration)| {
            let sample = AudioSample { data, dts, duration: if equal { 1024 } else { duration } };
            dts += u64::from(sample.duration);
            sample
        }).collect()
    }
}

const FILE_SIZE: u64 = 1 << 30;

prop_compose! {
    /// A fragment's offset and bytes, with what it was made of.
    fn fragments()(
        sequence_number: u32, nonce in 1u64.., offset in (0u64..1 << 29).prop_map(|at| at & !7), continues_gop: bool, video in video(), audio in audio(),
        wall in walls(),
    ) -> (u64, Vec<u8>, Vec<VideoSample>, Vec<AudioSample>, WallTime) {
        let audio = if video.is_empty() && audio.is_empty() {
            vec![AudioSample { data: Bytes::from_static(b"x"), dts: 0, duration: 1024 }]
        } else {
            audio
        };
        let spec = FragmentSpec { sequence_number, nonce, offset, continues_gop, video: &video, audio: &audio, audio_wall: wall };
        let encoded = fragment::encode(&spec).unwrap();
        assert_eq!(encoded.length, fragment::length_of(&video, &audio));
        let bytes: usize = video.iter().map(|s| s.data.len()).chain(audio.iter().map(|s| s.data.len())).sum();
        assert!(encoded.length <= fragment::max_length(video.len() as u64, audio.len() as u64, bytes as u64));
        let mut whole = encoded.head.to_vec();
        video.iter().for_each(|sample| whole.extend_from_slice(&sample.data));
        audio.iter().for_each(|sample| whole.extend_from_slice(&sample.data));
        whole.resize(whole.len() + encoded.padding, 0);
        (offset, whole, video, audio, wall)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segment_boxes(segment in segments()) {
        let bytes = segment.encode().unwrap();
        prop_assert_eq!(SegmentBox::decode(&bytes).unwrap(), segment);
    }

    #[test]
    fn a_torn_sealed_part_counts_as_not_sealed(segment in segments(), at in SEALED_PART_OFFSET..512, bit in 0u32..8) {
        let mut bytes = segment.encode().unwrap();
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(SegmentBox::decode(&bytes).unwrap(), SegmentBox { sealed: None, ..segment });
    }

    #[test]
    fn a_flipped_bit_in_a_segment_box_is_noticed(segment in segments(), at in 0..SEALED_PART_OFFSET, bit in 0u32..8) {
        let mut bytes = segment.encode().unwrap();
        bytes[at] ^= 1 << bit;
        prop_assert!(SegmentBox::decode(&bytes).is_err());
    }

    #[test]
    fn run_boxes(run in runs(), at in 0usize..256, bit in 0u32..8) {
        let mut bytes = run.encode();
        prop_assert_eq!(RunBox::decode(&bytes).unwrap(), run);
        bytes[at] ^= 1 << bit;
        prop_assert!(RunBox::decode(&bytes).is_err());
    }

    #[test]
    fn indexes_round_trip(index in indexes(), place: prop::sample::Index, bit in 0u32..8) {
        let encoded = index.encode().unwrap();
        let lengths = (index.runs.len() as u64, index.entries.len() as u64, index.audio_sizes.len() as u64);
        prop_assert_eq!(encoded.len() as u64, SegmentIndex::encoded_length(lengths.0, lengths.1, lengths.2));
        prop_assert_eq!(encoded.len() % 8, 0);
        prop_assert_eq!(SegmentIndex::decode(&encoded).unwrap(), index);
        let mut bytes = encoded.to_vec();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SegmentIndex::decode(&bytes).is_err());
    }

    #[test]
    fn fragments_round_trip((offset, whole, video, audio, wall) in fragments(), cuts in vec(any::<prop::sample::Index>(), 0..4)) {
        let moof = fragment::moof_length(&whole, offset, FILE_SIZE).unwrap();
        let head = fragment::decode(&whole[..moof as usize + 8], offset, FILE_SIZE).unwrap();
        prop_assert_eq!(head.length, whole.len() as u64);
        prop_assert_eq!(head.video.len(), video.len());
        for (stored, sample) in head.video.iter().zip(&video) {
            let at = (stored.offset - offset) as usize;
            prop_assert_eq!(&whole[at..at + stored.size as usize], &sample.data[..]);
            prop_assert_eq!((stored.dts, stored.duration, stored.composition_offset), (sample.dts, sample.duration, sample.composition_offset));
            prop_assert_eq!((stored.wall, stored.identity, stored.flags), (sample.wall, sample.identity, sample.flags));
        }
        prop_assert_eq!(head.audio.len(), audio.len());
        for (stored, sample) in head.audio.iter().zip(&audio) {
            let at = (stored.offset - offset) as usize;
            prop_assert_eq!(&whole[at..at + stored.size as usize], &sample.data[..]);
            prop_assert_eq!((stored.dts, stored.duration), (sample.dts, sample.duration));
        }
        prop_assert_eq!(head.audio_wall, (!audio.is_empty()).then_some(wall));
        prop_assert_eq!(head.begins_random_access, video.first().is_some_and(|s| s.flags.contains(FrameFlags::RANDOM_ACCESS)));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&whole[from..cut]);
            from = cut;
        }
        pieces.push(&whole[from..]);
        head.verify(pieces).unwrap();
        prop_assert!(head.verify([&whole[..whole.len() - 1]]).is_err());
    }

    #[test]
    fn a_flipped_bit_in_a_fragment_is_noticed((offset, mut whole, ..) in fragments(), place: prop::sample::Index, bit in 0u32..8) {
        let at = place.index(whole.len());
        whole[at] ^= 1 << bit;
        let seen = fragment::decode(&whole, offset, FILE_SIZE).and_then(|head| head.verify([&whole[..]]));
        prop_assert!(seen.is_err());
    }

    #[test]
    fn a_fragment_elsewhere_is_not_there((offset, whole, ..) in fragments()) {
        prop_assert!(fragment::decode(&whole, offset + 8, FILE_SIZE).is_err());
        prop_assert!(fragment::decode(&whole, offset, offset + whole.len() as u64 - 1).is_err());
    }

    #[test]
    fn damaged_heads_are_answered((offset, mut whole, ..) in fragments(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        for (place, byte) in changes {
            let at = place.index(whole.len());
            whole[at] = byte;
        }
        if let Ok(head) = fragment::decode(&whole, offset, FILE_SIZE) {
            prop_assert!(head.video.len() + head.audio.len() <= whole.len());
            let end = offset + head.length;
            prop_assert!(head.video.iter().all(|sample| sample.offset >= offset && sample.offset + u64::from(sample.size) <= end));
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..400)) {
        let _ = H264Parameters::from_sps_pps(&bytes, &[PPS]);
        let _ = H264Parameters::from_sps_pps(&[&[0x67], &bytes[..]].concat(), &[PPS]);
        let _ = H264Parameters::from_sps_pps(SPS, &[&bytes]);
        let _ = H264Parameters::from_avcc(&bytes);
        let _ = AacParameters::from_audio_specific_config(&bytes);
        let _ = AacParameters::from_esds(&bytes);
        let _ = InitSegment::parse(&bytes);
        let _ = SegmentBox::decode(&bytes);
        let _ = RunBox::decode(&bytes);
        let _ = SegmentIndex::decode(&bytes);
        let _ = fragment::decode(&bytes, 0, FILE_SIZE);
        let _ = inspect(&bytes);
        let _ = h264::first_mb_in_slice(&bytes);
        let _ = h264::annexb_to_avcc(&bytes);
        prop_assert!(boxes(&bytes).count() <= 51);
    }

    #[test]
    fn annex_b_and_lengths_are_the_same_frame(nals in vec(vec(1u8..255, 1..40), 1..6), long in vec(any::<bool>(), 6)) {
        let mut stream = Vec::new();
        for (nal, long) in nals.iter().zip(long) {
            stream.extend_from_slice(if long { &[0, 0, 0, 1] } else { &[0, 0, 1] });
            stream.extend_from_slice(nal);
        }
        let frame = h264::annexb_to_avcc(&stream);
        let split: Vec<&[u8]> = h264::split_nals(&frame).map(Result::unwrap).collect();
        prop_assert_eq!(split, nals);
    }

    #[test]
    fn decode_times_increase_and_keep_presentation_times(
        pts in vec(-1_000_000i64..1_000_000, 1..60), depth in option::of(0u8..20), nominal in 0u32..100_000,
    ) {
        let mut times = DecodeTimes::new(depth, nominal);
        let mut last = i64::MIN;
        for pts in pts {
            let time = times.push(MediaTime(pts));
            prop_assert!(time.dts.0 > last);
            prop_assert_eq!(time.dts.0 + i64::from(time.composition_offset), pts);
            last = time.dts.0;
        }
    }

    /// Any order that needs no more than `depth` frames held back gets offsets that are not negative.
    #[test]
    fn offsets_are_not_negative_within_the_depth(depth in 0usize..6, keys in vec(0usize..6, 1..60), jitter in vec(0i64..3000, 60)) {
        // Sorting by (position + up to depth) moves no frame past more than `depth` others.
        let mut order: Vec<(usize, usize)> = keys.iter().enumerate().map(|(i, &key)| (i + key.min(depth), i)).collect();
        order.sort_by_key(|&(place, i)| (place, std::cmp::Reverse(i)));
        let mut times = DecodeTimes::new(Some(depth as u8), 3600);
        for &(_, i) in &order {
            let held_back = order.iter().take_while(|entry| entry.1 != i).filter(|entry| entry.1 > i).count();
            prop_assume!(held_back <= depth);
        }
        // The first in decoding order is the first to be shown, as at the start of any run.
        prop_assume!(order[0].1 == 0);
        for &(_, i) in &order {
            let time = times.push(MediaTime(i as i64 * 3600 + jitter[i] ));
            prop_assert!(time.composition_offset >= 0, "{order:?}: {time:?}");
        }
    }

    #[test]
    fn random_access_tables_have_the_length_they_say(points in vec((any::<u64>(), any::<u64>()), 0..5)) {
        let points: Vec<_> = points.into_iter().map(|(time, moof_offset)| RandomAccess { time, moof_offset }).collect();
        let bytes = mfra(&points);
        prop_assert_eq!(bytes.len() as u64, mfra_length(points.len() as u64));
        prop_assert_eq!(bytes.len() % 8, 0);
        let all: Vec<_> = boxes(&bytes[8..]).map(|found| found.unwrap().0.kind).collect();
        let expected: &[[u8; 4]] = if points.len() % 2 == 1 { &[*b"tfra", *b"free", *b"mfro"] } else { &[*b"tfra", *b"mfro"] };
        prop_assert_eq!(all, expected);
        prop_assert_eq!(&bytes[bytes.len() - 4..], &(bytes.len() as u32).to_be_bytes()[..]);
    }
}

#[test]
fn init_segments_come_back() {
    let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
    assert_eq!((video.width, video.height, video.codec_string().as_str()), (160, 120, "avc1.64000b"));
    for config in [None, Some(&[0x14, 0x08][..]), Some(&[0x11, 0x90])] {
        let audio = config.map(|config| AacParameters::from_audio_specific_config(config).unwrap());
        let init = InitSegment::new(&video, audio.as_ref());
        let file = [&init.padded()[..], &[0, 0, 2, 0], b"uuid-and-so-on"].concat();
        assert_eq!(init.padded().len() % 8, 0);
        assert_eq!(InitSegment::parse(&file).unwrap(), (init.clone(), video.clone(), audio));
        for end in 0..init.bytes.len() {
            assert!(InitSegment::parse(&file[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn names_too_long_and_newer_versions_are_refused() {
    let mut segment = SegmentBox {
        nonce: 1,
        offset: 0,
        begins_inside_gop: false,
        volume: Uuid::nil(),
        stream: Uuid::nil(),
        segment_number: 0,
        file_number: 0,
        file_size: 0,
        first_wall: WallTime(0),
        init_hash: 0,
        video_timescale: 90_000,
        audio_timescale: 0,
        stream_name: "n".repeat(MAX_NAME_BYTES),
        sealed: None,
    };
    let mut bytes = segment.encode().unwrap();
    assert_eq!(SegmentBox::decode(&bytes).unwrap(), segment);
    bytes[25] = 2;
    assert_eq!(SegmentBox::decode(&bytes), Err(BoxError::Version { which: "segment", version: 2 }));
    segment.stream_name.push('n');
    assert!(matches!(segment.encode(), Err(BoxError::Field { .. })));
}

#[test]
fn gap_reasons_keep_their_codes() {
    assert_eq!(GapReason::all().count(), 23);
    for reason in GapReason::all() {
        assert_eq!(GapReason::from_code(reason.code()), reason);
    }
    assert_eq!(
        (GapReason::Takeover.code(), GapReason::ParametersChanged.code(), GapReason::Unknown.code()),
        (15, 17, 255)
    );
    assert_eq!(GapReason::from_code(22), GapReason::Unknown);
}

#[test]
fn fragments_that_can_not_be() {
    let sample = |dts| VideoSample {
        data: Bytes::from_static(b"1234"),
        dts,
        duration: 1,
        composition_offset: 0,
        wall: WallTime(0),
        identity: FrameIdentity(0),
        flags: FrameFlags(0),
    };
    let spec = FragmentSpec {
        sequence_number: 1,
        nonce: 1,
        offset: 0,
        continues_gop: false,
        video: &[sample(1)],
        audio: &[],
        audio_wall: WallTime(0),
    };
    assert!(fragment::encode(&spec).is_ok());
    assert!(fragment::encode(&FragmentSpec { video: &[], ..spec }).is_err());
    assert!(fragment::encode(&FragmentSpec { nonce: 0, ..spec }).is_err());
    assert!(fragment::encode(&FragmentSpec { video: &[sample(5), sample(5)], ..spec }).is_err());
    assert!(fragment::encode(&FragmentSpec { video: &[sample(5), sample(4), sample(6)], ..spec }).is_err());
    assert!(fragment::encode(&FragmentSpec { video: &[sample(0), sample(1 << 33)], ..spec }).is_err());
}

#[test]
fn a_walk_over_a_reader() {
    let mut w = BoxWriter::new();
    w.boxed(*b"free", |w| w.zeros(8));
    w.u32(1);
    w.bytes(b"mdat");
    w.u64(20);
    w.zeros(4);
    w.u32(0);
    w.bytes(b"free");
    w.zeros(9);
    let file = w.finish();
    let read = |offset: u64, buffer: &mut [u8]| {
        let at = usize::try_from(offset).unwrap();
        file.get(at..at + buffer.len()).map(|bytes| buffer.copy_from_slice(bytes)).ok_or("read past the end")
    };
    let found: Vec<_> = walk(0, file.len() as u64, read).map(|header| header.unwrap()).collect();
    let lengths: Vec<_> = found.iter().map(|header| (header.offset, header.length)).collect();
    assert_eq!(lengths, [(0, 16), (16, 20), (36, 17)]);
    let cut: Vec<_> = walk(0, file.len() as u64 - 10, read).collect();
    assert!(cut.last().unwrap().is_err(), "7 bytes are no box");
    let failing: Vec<_> = walk(0, 100, |_, _| Err("broken disk")).collect();
    assert_eq!(failing.len(), 1);
}
