//! The head of a segment file.
#![no_main]

use framekeeper_media::init::InitSegment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    if let Ok((init, video, audio)) = InitSegment::parse(file) {
        assert!(file.starts_with(&init.bytes));
        let made = InitSegment::new(&video, audio.as_ref());
        assert!(InitSegment::parse(&made.padded()) == Ok((made, video, audio)));
    }
});
