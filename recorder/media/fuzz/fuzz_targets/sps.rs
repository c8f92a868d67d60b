//! Parameter sets from SDP or a stream; what is accepted must survive its own `avcC`.
#![no_main]

use framekeeper_media::h264::H264Parameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8])| {
    if let Ok(parameters) = H264Parameters::from_sps_pps(input.0, &[input.1]) {
        assert!((1..=16_384).contains(&parameters.width) && (1..=16_384).contains(&parameters.height));
        assert_eq!(H264Parameters::from_avcc(&parameters.avcc()), Ok(parameters));
    }
});
