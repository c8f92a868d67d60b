//! An AVCDecoderConfigurationRecord.
#![no_main]

use framekeeper_media::h264::H264Parameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| {
    if let Ok(parameters) = H264Parameters::from_avcc(record) {
        assert_eq!(H264Parameters::from_avcc(&parameters.avcc()), Ok(parameters));
    }
});
