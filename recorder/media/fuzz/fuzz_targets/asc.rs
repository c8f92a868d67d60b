//! An AudioSpecificConfig, and the `esds` box around one.
#![no_main]

use framekeeper_media::aac::AacParameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = AacParameters::from_esds(bytes);
    if let Ok(parameters) = AacParameters::from_audio_specific_config(bytes) {
        assert_eq!(AacParameters::from_esds(&parameters.esds()[12..]), Ok(parameters));
    }
});
