//! AAC-LC frames (ISO/IEC 14496-3 §4.4) with their number in a data_stream_element, and silence or a loop behind it.

use std::sync::Arc;

use crate::bits::BitWriter;
use crate::h264::Rng;

/// What a stamped data_stream_element begins with; the frame number follows, 8 bytes, big-endian.
pub const AUDIO_MAGIC: [u8; 8] = *b"FKAUDIO1";
/// Samples of each channel in one frame.
pub const FRAME_SAMPLES: i64 = 1024;

/// `samplingFrequencyIndex` (ISO/IEC 14496-3 Table 1.18) of the rates we make.
pub(crate) fn rate_index(rate: u32) -> Option<u32> {
    Some(match rate {
        48_000 => 3,
        44_100 => 4,
        32_000 => 5,
        16_000 => 8,
        8_000 => 11,
        _ => return None,
    })
}

/// `AudioSpecificConfig` (§1.6.2.1): AAC-LC, rate, channels.
pub(crate) fn config(rate: u32, channels: u32) -> [u8; 2] {
    let index = rate_index(rate).unwrap_or(3);
    ((2 << 11 | index << 7 | channels << 3) as u16).to_be_bytes()
}

/// Makes one stream's frames.
pub(crate) struct AacSource {
    rng: Rng,
    channels: u32,
    /// What frames come to.
    frame_bytes: usize,
    /// Frames without a stamp, looped; silence if there are none.
    sound: Option<Arc<Vec<Vec<u8>>>>,
    writer: BitWriter,
}

impl AacSource {
    pub(crate) fn new(rate: u32, channels: u32, bitrate_bps: u64, seed: u64, sound: Option<Arc<Vec<Vec<u8>>>>) -> Self {
        let frame_bytes = bitrate_bps / 8 * FRAME_SAMPLES as u64 / u64::from(rate);
        Self { rng: Rng::new(!seed), channels, frame_bytes: frame_bytes as usize, sound, writer: BitWriter::default() }
    }

    /// Writes frame `number`, a raw_data_block, to `out`.
    pub(crate) fn next(&mut self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        let sound = self.sound.as_ref().and_then(|sound| sound.get(number as usize % sound.len()));
        // The element takes what is left of the bit rate.
        let sound_bytes = sound.map_or(8, Vec::len);
        let element_bytes = self.frame_bytes.saturating_sub(2 + sound_bytes).clamp(16, 500);
        let writer = &mut self.writer;
        writer.bits(4, 3); // ID_DSE
        writer.bits(0, 4); // element_instance_tag
        writer.flag(true); // data_byte_align_flag; what precedes the data is whole bytes already
        let count = element_bytes as u32;
        writer.bits(count.min(255), 8);
        if count >= 255 {
            writer.bits(count - 255, 8); // esc_count
        }
        out.extend(writer.drain());
        let data = out.len();
        out.extend_from_slice(&AUDIO_MAGIC);
        out.extend_from_slice(&number.to_be_bytes());
        while out.len() < data + element_bytes {
            out.extend_from_slice(&self.rng.next().to_le_bytes());
        }
        out.truncate(data + element_bytes);
        // The element is whole bytes, so another raw_data_block may follow as it is.
        if let Some(sound) = sound {
            out.extend_from_slice(sound);
            return;
        }
        silence(writer, self.channels);
        writer.bits(7, 3); // ID_END
        writer.align();
        out.extend(writer.drain());
    }
}

/// A single_channel_element or channel_pair_element without a spectral line.
fn silence(writer: &mut BitWriter, channels: u32) {
    writer.bits(channels - 1, 3); // ID_SCE, ID_CPE
    writer.bits(0, 4); // element_instance_tag
    if channels == 2 {
        writer.flag(false); // common_window
    }
    for _ in 0..channels {
        writer.bits(100, 8); // global_gain
        writer.bits(0, 1 + 2 + 1); // ics_reserved_bit, ONLY_LONG_SEQUENCE, sine window
        writer.bits(0, 6); // max_sfb: no scale factor bands
        writer.bits(0, 1); // predictor_data_present
        writer.bits(0, 3); // pulse_data_present, tns_data_present, gain_control_data_present
    }
}

/// Reads the frame number out of a raw AAC frame made here.
pub fn read_audio_stamp(frame: &[u8]) -> Option<u64> {
    let (&[first, count, ..], true) = (frame.first_chunk::<2>()?, frame.first()? >> 5 == 4) else { return None };
    let data = if count == 255 { 3 } else { 2 };
    debug_assert_eq!(first & 1, 1);
    let number = frame.get(data..)?.strip_prefix(&AUDIO_MAGIC)?;
    Some(u64::from_be_bytes(*number.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_number_and_size() {
        for (bitrate, least) in [(1_000, 16), (64_000, 165), (500_000, 500)] {
            let mut source = AacSource::new(48_000, 2, bitrate, 5, None);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            source.next(77, &mut one);
            source.next(78, &mut other);
            assert_eq!((read_audio_stamp(&one), read_audio_stamp(&other)), (Some(77), Some(78)));
            assert!((least..least + 16).contains(&one.len()), "{}", one.len());
        }
        assert_eq!(config(48_000, 2), [0x11, 0x90]);
        assert_eq!(config(8_000, 1), [0x15, 0x88]);
        assert_eq!(read_audio_stamp(&[0x21, 0]), None);
    }
}
