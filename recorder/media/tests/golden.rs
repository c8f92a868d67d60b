//! `docs/format.md` by hand: bytes written out from the page, not by the code.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use bytes::Bytes;
use framekeeper_media::boxes::common::crc_without;
use framekeeper_media::fragment::{self, AudioSample, FragmentSpec, VideoSample};
use framekeeper_media::identity::{frame_identity, inspect};
use framekeeper_media::{FrameFlags, FrameIdentity, WallTime};

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
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc_without(b"ab1234cd", 2), crc32c::crc32c(b"ab\0\0\0\0cd"));
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
