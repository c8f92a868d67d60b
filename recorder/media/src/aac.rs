//! AAC (ISO/IEC 14496-3): the AudioSpecificConfig that RTP describes a stream with (RFC 3640 §4.1), and its `esds` box.

use bytes::Bytes;

use crate::bits::{BitReader, OutOfBits};
use crate::boxes::BoxWriter;

/// Longest AudioSpecificConfig that is accepted; real ones have 2 to 50 bytes.
pub const MAX_CONFIG_BYTES: usize = 4096;

/// Why an AudioSpecificConfig was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AacError {
    /// Not what ISO/IEC 14496-3 §1.6.2.1 says.
    #[error("AudioSpecificConfig is malformed: {field}")]
    Malformed {
        /// The syntax element, in the standard's name, or what is wrong.
        field: &'static str,
    },
    /// Well-formed, but a codec or layout that can't be recorded.
    #[error("audio object type {object_type} is not supported; AAC Main, LC, SSR, LTP, HE-AAC and HE-AAC v2 are")]
    ObjectType {
        /// Table 1.17.
        object_type: u8,
    },
}

/// The codec parameters of an AAC stream. Equal values make equal `moov` boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AacParameters {
    /// As the camera sent it.
    pub audio_specific_config: Bytes,
    /// Samples a second of the core codec: the timescale of the audio track.
    pub sample_rate: u32,
    /// Samples a second after spectral band replication, where it is signalled.
    pub extension_sample_rate: Option<u32>,
    /// Channels of the core codec.
    pub channels: u8,
    /// Audio object type as signalled first (Table 1.17): 2 is AAC-LC, 5 is HE-AAC, 29 is HE-AAC v2.
    pub object_type: u8,
    /// Samples of the core codec a frame: 1024 or 960.
    pub frame_length: u32,
}

/// Table 1.18.
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

fn malformed(field: &'static str) -> AacError {
    AacError::Malformed { field }
}

fn short(_: OutOfBits) -> AacError {
    malformed("ends early")
}

impl AacParameters {
    /// From an AudioSpecificConfig (ISO/IEC 14496-3 §1.6.2.1), as the SDP's `config` has it.
    ///
    /// # Errors
    /// When it is malformed, or of an object type that can't be recorded.
    pub fn from_audio_specific_config(config: &[u8]) -> Result<Self, AacError> {
        if config.len() > MAX_CONFIG_BYTES {
            return Err(malformed("longer than 4096 bytes"));
        }
        let mut r = BitReader::new(config);
        let object_type = object_type(&mut r)?;
        let sample_rate = sampling_frequency(&mut r)?;
        let channel_configuration = r.bits(4).map_err(short)?;
        let (mut core_type, mut extension_sample_rate) = (object_type, None);
        if matches!(object_type, 5 | 29) {
            extension_sample_rate = Some(sampling_frequency(&mut r)?);
            core_type = self::object_type(&mut r)?;
        }
        if !matches!(core_type, 1..=4) {
            return Err(AacError::ObjectType { object_type: core_type });
        }
        // GASpecificConfig, §4.4.1.
        let frame_length = if r.bit().map_err(short)? { 960 } else { 1024 };
        if r.bit().map_err(short)? {
            r.bits(14).map_err(short)?;
        }
        r.bit().map_err(short)?;
        let channels = match channel_configuration {
            0 => program_config_channels(&mut r)?,
            1..=6 => u8::try_from(channel_configuration).map_err(|_| malformed("channelConfiguration"))?,
            11 => 7,
            7 | 12 | 14 => 8,
            _ => return Err(malformed("channelConfiguration")),
        };
        Ok(Self {
            audio_specific_config: Bytes::copy_from_slice(config),
            sample_rate,
            extension_sample_rate,
            channels,
            object_type,
            frame_length,
        })
    }

    /// The `codecs` parameter of RFC 6381 §3.3: `mp4a.40.2`.
    #[must_use]
    pub fn codec_string(&self) -> String {
        format!("mp4a.40.{}", self.object_type)
    }

    /// The `esds` box (ISO/IEC 14496-14 §5.6) with the ES_Descriptor of ISO/IEC 14496-1 §7.2.6.5.
    #[must_use]
    pub fn esds(&self) -> Bytes {
        const ES_DESCRIPTOR: u8 = 3;
        const DECODER_CONFIG: u8 = 4;
        const DECODER_SPECIFIC_INFO: u8 = 5;
        const SL_CONFIG: u8 = 6;
        const OBJECT_TYPE_AAC: u8 = 0x40;
        const AUDIO_STREAM: u8 = 5 << 2 | 1;
        let specific = descriptor(DECODER_SPECIFIC_INFO, &self.audio_specific_config);
        // bufferSizeDB and bitrates are 0: not known ahead.
        let decoder = [&[OBJECT_TYPE_AAC, AUDIO_STREAM][..], &[0; 11], &specific].concat();
        let predefined_for_mp4 = descriptor(SL_CONFIG, &[2]);
        let es = [&[0; 3][..], &descriptor(DECODER_CONFIG, &decoder), &predefined_for_mp4].concat();
        let mut w = BoxWriter::new();
        w.full_box(*b"esds", 0, 0, |w| w.bytes(&descriptor(ES_DESCRIPTOR, &es)));
        w.finish()
    }

    /// From the body of an `esds` box, behind version and flags.
    ///
    /// # Errors
    /// When descriptors are missing or cut, the codec is not AAC, or the AudioSpecificConfig is refused.
    pub fn from_esds(body: &[u8]) -> Result<Self, AacError> {
        let es = find_descriptor(body, 3)?;
        let flags = *es.get(2).ok_or_else(|| malformed("ES_Descriptor ends early"))?;
        if flags & 0xe0 != 0 {
            return Err(malformed("ES_Descriptor with optional fields"));
        }
        let decoder = find_descriptor(es.get(3..).unwrap_or_default(), 4)?;
        if decoder.first() != Some(&0x40) {
            return Err(malformed("objectTypeIndication is not 0x40 (AAC)"));
        }
        Self::from_audio_specific_config(find_descriptor(decoder.get(13..).unwrap_or_default(), 5)?)
    }
}

fn object_type(r: &mut BitReader<'_>) -> Result<u8, AacError> {
    let value = match r.bits(5).map_err(short)? {
        31 => 32 + r.bits(6).map_err(short)?,
        value => value,
    };
    u8::try_from(value).map_err(|_| malformed("audioObjectType"))
}

fn sampling_frequency(r: &mut BitReader<'_>) -> Result<u32, AacError> {
    let rate = match r.bits(4).map_err(short)? {
        15 => r.bits(24).map_err(short)?,
        index => usize::try_from(index)
            .ok()
            .and_then(|index| SAMPLE_RATES.get(index).copied())
            .ok_or_else(|| malformed("samplingFrequencyIndex"))?,
    };
    if (1_000..=192_000).contains(&rate) { Ok(rate) } else { Err(malformed("samplingFrequency")) }
}

/// program_config_element, §4.4.1.1: the channels of its elements.
fn program_config_channels(r: &mut BitReader<'_>) -> Result<u8, AacError> {
    r.bits(4 + 2 + 4).map_err(short)?;
    let mut count = |bits| r.bits(bits).map_err(short);
    let pairs = [count(4)?, count(4)?, count(4)?];
    let lfe = count(2)?;
    let (_associated_data, _coupling) = (count(3)?, count(4)?);
    for (bits, _what) in [(4, "mono_mixdown"), (4, "stereo_mixdown"), (3, "matrix_mixdown")] {
        if count(1)? == 1 {
            count(bits)?;
        }
    }
    let mut channels = lfe;
    for elements in pairs {
        for _ in 0..elements {
            channels += 1 + count(1)?;
            count(4)?;
        }
    }
    u8::try_from(channels).ok().filter(|&channels| channels > 0).ok_or_else(|| malformed("program_config_element"))
}

/// A descriptor with its length in the four-byte form of ISO/IEC 14496-1 §8.3.3, which some players insist on.
fn descriptor(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let seven = |shift: usize| u8::try_from(length >> shift & 0x7f).unwrap_or(0);
    [&[tag, 0x80 | seven(21), 0x80 | seven(14), 0x80 | seven(7), seven(0)][..], body].concat()
}

/// The body of the first descriptor with this tag.
fn find_descriptor(mut bytes: &[u8], wanted: u8) -> Result<&[u8], AacError> {
    let cut = || malformed("descriptor ends early");
    loop {
        let (&tag, mut rest) = bytes.split_first().ok_or_else(|| malformed("descriptor missing"))?;
        let mut length = 0usize;
        for byte in 0.. {
            let (&next, tail) = rest.split_first().ok_or_else(cut)?;
            rest = tail;
            length = length << 7 | usize::from(next & 0x7f);
            if next & 0x80 == 0 {
                break;
            }
            if byte == 3 {
                return Err(malformed("descriptor length of more than four bytes"));
            }
        }
        let (body, tail) = rest.split_at_checked(length).ok_or_else(cut)?;
        if tag == wanted {
            return Ok(body);
        }
        bytes = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &[u8]) -> Result<AacParameters, AacError> {
        AacParameters::from_audio_specific_config(config)
    }

    /// Binary digits, grouped by syntax element, padded with zeros.
    fn bytes_of(digits: &str) -> Vec<u8> {
        let digits: Vec<char> = digits.chars().filter(|digit| !digit.is_whitespace()).collect();
        let byte =
            |digits: &[char]| digits.iter().chain(&['0'; 8]).take(8).fold(0, |byte, &d| byte << 1 | u8::from(d == '1'));
        digits.chunks(8).map(byte).collect()
    }

    #[test]
    fn low_complexity() {
        // 00010 0011 0010 000: AAC-LC, 48 kHz, stereo, 1024 samples
        let aac = read(&[0x11, 0x90]).unwrap();
        assert_eq!((aac.object_type, aac.sample_rate, aac.channels, aac.frame_length), (2, 48_000, 2, 1024));
        assert_eq!((aac.extension_sample_rate, aac.codec_string().as_str()), (None, "mp4a.40.2"));
        // 00010 1000 0001 100: 16 kHz, mono, 960 samples
        let aac = read(&[0x14, 0x0c]).unwrap();
        assert_eq!((aac.sample_rate, aac.channels, aac.frame_length), (16_000, 1, 960));
    }

    #[test]
    fn explicit_rate_and_spectral_band_replication() {
        let config = bytes_of(&format!("00010 1111 {:024b} 0001 000", 44_101));
        assert_eq!(read(&config).unwrap().sample_rate, 44_101);
        // HE-AAC, 24 kHz core, stereo, 48 kHz out
        let aac = read(&bytes_of("00101 0110 0010 0011 00010 000")).unwrap();
        assert_eq!((aac.object_type, aac.sample_rate, aac.extension_sample_rate), (5, 24_000, Some(48_000)));
        assert_eq!(aac.codec_string(), "mp4a.40.5");
    }

    #[test]
    fn channels_from_a_program_config_element() {
        // AAC-LC, 48 kHz, channelConfiguration 0; front: one pair and one single, one LFE: 4 channels.
        let config = bytes_of(
            "00010 0011 0000 000 \
             0000 01 0011 0010 0000 0000 01 000 0000 000 \
             1 0000 0 0000 0000",
        );
        assert_eq!(read(&config).unwrap().channels, 4);
    }

    #[test]
    fn what_is_not_supported_or_cut_is_refused() {
        assert_eq!(read(&[]), Err(AacError::Malformed { field: "ends early" }));
        assert_eq!(read(&[0x11]), Err(AacError::Malformed { field: "ends early" }));
        assert_eq!(read(&[0x16, 0x90]), Err(AacError::Malformed { field: "samplingFrequencyIndex" }));
        // 11111 000111: object type 39, ER AAC ELD
        assert_eq!(read(&[0xf8, 0xe6, 0x40, 0, 0]), Err(AacError::ObjectType { object_type: 39 }));
        assert!(read(&[0x12; MAX_CONFIG_BYTES + 1]).is_err());
    }

    #[test]
    fn esds_there_and_back() {
        let aac = read(&[0x11, 0x90]).unwrap();
        let esds = aac.esds();
        assert_eq!(AacParameters::from_esds(&esds[12..]).unwrap(), aac);
        for end in 12..esds.len() - 6 {
            assert!(AacParameters::from_esds(&esds[12..end]).is_err(), "cut at {end}");
        }
    }
}
