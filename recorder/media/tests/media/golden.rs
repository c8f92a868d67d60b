//! `docs/format.md` by hand: bytes written out from the page, not by the code.

use bytes::Bytes;
use framekeeper_media::boxes::common::crc_without;
use framekeeper_media::boxes::index::{EntryKind, IndexEntry, IndexRun, IndexTotals, SegmentIndex};
use framekeeper_media::boxes::run::{GapReason, PlanVersion, ReportedTime, RunBox};
use framekeeper_media::boxes::segment::{Sealed, SegmentBox};
use framekeeper_media::checksum::crc32c;
use framekeeper_media::fragment::{self, AudioSample, FragmentSpec, VideoSample};
use framekeeper_media::identity::{frame_identity, inspect};
use framekeeper_media::{FrameFlags, FrameIdentity, MediaTime, WallTime};
use uuid::Uuid;

/// Section 6: one video and one audio frame at offset 4096. The CRC was computed by a bitwise CRC32C in another language.
const FRAGMENT: &str = "
    00000118 6D6F6F66
      00000010 6D666864 00000000 00000007
      00000054 74726166
        00000014 74666864 00020020 00000001 01010000
        00000014 74666474 01000000 0000000000015F90
        00000024 7472756E 01000B05 00000001 00000120 02000000 00000E10 00000006 FFFFFFFE
      0000004C 74726166
        00000018 74666864 00020028 00000002 00000400 02000000
        00000014 74666474 01000000 0000000000004000
        00000018 7472756E 01000201 00000001 00000126 00000003
      00000060 75756964 FAF6F56E93B642378D8CC2FBBD99EBB2
        0001 0003 44FEA2D7 0102030405060708 0000000000001000
        00000001 00000001 00000018 00000000 0005D00000000000
        0005D00000000001 1122334455667788 00000007 00000000
    00000018 6D646174
      00000002 6588 ABCDEF 00000000000000";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

#[test]
fn a_fragment_byte_by_byte() {
    let video = [VideoSample {
        data: Bytes::from_static(&[0, 0, 0, 2, 0x65, 0x88]),
        dts: 90_000,
        duration: 3600,
        composition_offset: -2,
        wall: WallTime(0x0005_d000_0000_0001),
        identity: FrameIdentity(0x1122_3344_5566_7788),
        flags: FrameFlags(7),
    }];
    let audio = [AudioSample { data: Bytes::from_static(&[0xab, 0xcd, 0xef]), dts: 0x4000, duration: 1024 }];
    let encoded = fragment::encode(&FragmentSpec {
        sequence_number: 7,
        nonce: 0x0102_0304_0506_0708,
        offset: 4096,
        continues_gop: true,
        video: &video,
        audio: &audio,
        audio_wall: WallTime(0x0005_d000_0000_0000),
    })
    .unwrap();
    let whole = [&encoded.head[..], &video[0].data, &audio[0].data, &[0; 7]].concat();
    assert_eq!(whole, bytes_of(FRAGMENT));
    assert_eq!((encoded.padding, encoded.length), (7, 304));
    assert_eq!((encoded.video_offset, encoded.audio_offset), (4096 + 0x120, 4096 + 0x126));
}

/// Section "Conventions".
#[test]
fn the_check_value_of_crc32c() {
    // Of "123456789", with the four bytes at the place of the CRC taken as zero whatever they are.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc_without(b"ab1234cd", 2), crc32c(b"ab\0\0\0\0cd"));
}

/// Values of the reference implementation of XXH3.
#[test]
fn identities() {
    let frame = |nals: &[&[u8]]| -> Vec<u8> {
        let with_length = |nal: &&[u8]| [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], nal].concat();
        nals.iter().flat_map(with_length).collect()
    };
    let slice = |length: u32, step: u32, start: u32| -> Vec<u8> {
        let body = (0..length).map(|i| u8::try_from((i * step + start) % 255 + 1).unwrap());
        [0x65].into_iter().chain(body).collect()
    };
    let small: &[u8] = &[0x65, 0x88, 0x80, 0x10];
    let (one, two) = (slice(300, 7, 1), slice(20, 5, 3));
    let sei: &[u8] = &[6, 5, 1, 9, 0x80];

    assert_eq!(frame_identity(&frame(&[small])).0, 0xad6d_8247_b12d_955c);
    assert_eq!(frame_identity(&frame(&[&[small, &[0, 0]].concat()])).0, 0xad6d_8247_b12d_955c, "zeros at the end");
    assert_eq!(frame_identity(&frame(&[&one])).0, 0xb204_88a7_b01c_1aad);
    assert_eq!(frame_identity(&frame(&[sei, &one, sei, &two])).0, 0x8095_49b4_633a_925b, "two slices, SEI left out");
    assert_eq!(frame_identity(&frame(&[sei])).0, 0, "no slice");
    assert_eq!(inspect(&frame(&[sei, &one, &two])).vcl_nals, 2);
}

fn hex_at(bytes: &[u8], offset: usize, length: usize) -> String {
    bytes[offset..offset + length].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sections 3 and 4: every field at its offset.
#[test]
fn a_segment_box_by_its_table() {
    let bytes = SegmentBox {
        nonce: 0xa1,
        offset: 0xa2,
        begins_inside_gop: true,
        volume: Uuid::from_u128(0xa3),
        stream: Uuid::from_u128(0xa4),
        segment_number: 0xa5,
        file_number: 0xa6,
        file_size: 0xa7,
        first_wall: WallTime(0xa8),
        init_hash: 0xa9,
        video_timescale: 0xaa,
        audio_timescale: 0xab,
        stream_name: "ns/name".to_owned(),
        sealed: Some(Sealed { index_offset: 0xac, index_length: 0xad, end_wall: WallTime(0xae) }),
    }
    .encode()
    .unwrap();
    assert_eq!(hex_at(&bytes, 0, 28), "0000020075756964cc20bc60609f4dd3a9ea79e3b78d328000010001");
    let last_byte = |offset: usize, length: usize| hex_at(&bytes, offset, length).trim_start_matches('0').to_owned();
    let fields =
        [(32, 8), (40, 8), (48, 16), (64, 16), (80, 8), (88, 8), (96, 8), (104, 8), (112, 8), (120, 4), (124, 4)];
    for (value, (offset, length)) in (0xa1..=0xab).zip(fields) {
        assert_eq!(last_byte(offset, length), format!("{value:x}"), "at {offset}");
    }
    assert_eq!(hex_at(&bytes, 128, 10), "00076e732f6e616d6500");
    assert_eq!((last_byte(448, 4), last_byte(456, 8)), ("1".into(), "a1".into()));
    assert_eq!((last_byte(464, 8), last_byte(472, 8), last_byte(480, 8)), ("ac".into(), "ad".into(), "ae".into()));
    assert_eq!(bytes[28..32], crc_without(&bytes[..448], 28).to_be_bytes());
    assert_eq!(bytes[452..456], crc_without(&bytes[448..], 4).to_be_bytes());
}

/// Section 5.
#[test]
fn a_run_box_by_its_table() {
    let bytes = RunBox {
        nonce: 0xa1,
        offset: 0xa2,
        continued: true,
        run: Uuid::from_u128(0xa3),
        epoch: 0xa4,
        rank: 0xa5,
        gap_reason: GapReason::Handback,
        plan: PlanVersion { term: 0xa6, sequence: 0xa7 },
        recorder: Uuid::from_u128(0xa8),
        previous_offset: 0xa9,
        anchor_wall: WallTime(0xaa),
        anchor_media: MediaTime(0xab),
        video_offset: 0xac,
        audio_offset: 0xad,
        sender_report: Some(ReportedTime { ntp: 0xae, media_time: MediaTime(0xaf) }),
        previous_end: Some(WallTime(0xb0)),
        previous_run: Some(Uuid::from_u128(0xb1)),
    }
    .encode();
    assert_eq!(hex_at(&bytes, 0, 28), "000001007575696467fae9cec9c34b309a9e845f3376968500010001");
    let fields = [
        (32, 8),
        (40, 8),
        (48, 16),
        (64, 8),
        (72, 4),
        (80, 8),
        (88, 8),
        (96, 16),
        (112, 8),
        (120, 8),
        (128, 8),
        (136, 8),
        (144, 8),
        (152, 8),
        (160, 8),
        (168, 8),
        (176, 16),
    ];
    for (value, (offset, length)) in (0xa1..=0xb1).zip(fields) {
        assert_eq!(hex_at(&bytes, offset, length).trim_start_matches('0'), format!("{value:x}"), "at {offset}");
    }
    assert_eq!(hex_at(&bytes, 76, 4), "00000010");
    assert_eq!(bytes[28..32], crc_without(&bytes, 28).to_be_bytes());
}

/// Section 7: one run, one video entry, one stretch of three audio frames.
#[test]
fn an_index_byte_by_byte() {
    let entry = |kind| IndexEntry {
        first_of_fragment: true,
        data_offset: 0xd0,
        data_length: 0xd1,
        decode_time: 0xd2,
        wall: WallTime(0xd3),
        kind,
    };
    let (flags, identity) = (FrameFlags(0xb), FrameIdentity(0xe1));
    let video = entry(EntryKind::Video { flags, composition_offset: -1, identity });
    let audio = entry(EntryKind::Audio { frames: 3, frame_duration: 1024, first_size: 0 });
    let run =
        IndexRun { offset: 0xc0, first_entry: 0, entries: 2, first_wall: WallTime(0xc1), end_wall: WallTime(0xc2) };
    let totals = IndexTotals {
        video_frames: 1,
        random_access_points: 0xf1,
        fragments: 0xf2,
        video_bytes: 0xf3,
        audio_bytes: 0xf4,
        end_wall: WallTime(0xf5),
    };
    let index = SegmentIndex {
        nonce: 0xa1,
        offset: 0xa2,
        runs: vec![run],
        entries: vec![video, IndexEntry { first_of_fragment: false, ..audio }],
        audio_sizes: vec![7, 8, 9],
        totals,
    };
    let bytes = index.encode().unwrap();
    let expected = bytes_of(
        "000000D8 75756964 9988DF71CE204FFB8E5D9A80C1EB7FD2 0001 0000 00000000 00000000000000A1 00000000000000A2
         00000001 00000002 00000001 00000003 000000F1 000000F2 00000000000000F3 00000000000000F4 00000000000000F5
         00000000000000C0 00000000 00000002 00000000000000C1 00000000000000C2
         0000020B 000000D0 000000D1 FFFFFFFF 00000000000000D2 00000000000000D3 00000000000000E1
         00030100 000000D0 000000D1 00000400 00000000000000D2 00000000000000D3 0000000000000000
         0007 0008 0009 0000",
    );
    assert_eq!((&bytes[..28], &bytes[32..]), (&expected[..28], &expected[32..]));
    assert_eq!(bytes[28..32], crc_without(&bytes, 28).to_be_bytes());
}
