//! A frame as a camera sent it, split, classified, hashed and converted.
#![no_main]

use framekeeper_media::h264::{annexb_to_avcc, classify, first_mb_in_slice, split_nals};
use framekeeper_media::identity::{frame_identity, inspect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seen = inspect(bytes);
    assert_eq!(seen.nals, classify(bytes));
    assert_eq!(seen.identity, frame_identity(bytes));
    for nal in split_nals(bytes).flatten() {
        let _ = first_mb_in_slice(nal);
    }
    let converted = annexb_to_avcc(bytes);
    assert!(split_nals(&converted).all(|nal| nal.is_ok()));
});
