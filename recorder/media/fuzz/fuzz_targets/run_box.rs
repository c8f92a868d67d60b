//! One of our boxes. The CRC is made to fit, so that the fields behind it are reached.
#![no_main]

use framekeeper_media::boxes::common::{CRC_OFFSET, crc_without};
use framekeeper_media::boxes::run::RunBox;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let covered = 256;
    if let Some(part) = bytes.get(..covered).filter(|part| part.len() >= 32) {
        let crc = crc_without(part, CRC_OFFSET);
        bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(read) = RunBox::decode(&bytes) {
        assert_eq!(RunBox::decode(&read.encode()).as_ref(), Ok(&read));
    }
});
