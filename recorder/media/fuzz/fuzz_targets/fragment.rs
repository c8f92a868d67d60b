//! The head of a fragment, as read from a disk.
#![no_main]

use framekeeper_media::fragment::{decode, moof_length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (offset, bytes) = input;
    let offset = offset & 0x3fff_ffff;
    let _ = moof_length(bytes, offset, 1 << 30);
    if let Ok(head) = decode(bytes, offset, 1 << 30) {
        assert!(head.video.len() + head.audio.len() <= bytes.len());
        let end = head.offset + head.length;
        assert!(end <= 1 << 30);
        assert!(head.video.iter().all(|frame| frame.offset + u64::from(frame.size) <= end));
        assert!(head.audio.iter().all(|frame| frame.offset + u64::from(frame.size) <= end));
        let _ = head.verify(bytes.chunks(7));
    }
});
