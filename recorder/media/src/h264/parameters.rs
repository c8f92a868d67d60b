//! SPS and PPS together: what a decoder must know before the first frame.

use bytes::Bytes;

use super::sps::Sps;
use super::{H264Error, nal_type, strip_trailing_zeros};
use crate::boxes::BoxWriter;

/// Colour description of the VUI (ISO/IEC 14496-10 §E.2.1; the code points are those of ISO/IEC 23091-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// colour_primaries.
    pub primaries: u8,
    /// transfer_characteristics.
    pub transfer: u8,
    /// matrix_coefficients.
    pub matrix: u8,
    /// video_full_range_flag.
    pub full_range: bool,
}

/// The codec parameters of an H.264 stream. Equal values make equal `moov` boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct H264Parameters {
    /// The sequence parameter set: a NAL unit with header, without start code, length or trailing zero bytes.
    pub sps: Bytes,
    /// The picture parameter sets, likewise; at least one.
    pub pps: Vec<Bytes>,
    /// profile_idc.
    pub profile_idc: u8,
    /// constraint_set0_flag (bit 7) to constraint_set5_flag (bit 2).
    pub constraint_flags: u8,
    /// level_idc: ten times the level.
    pub level_idc: u8,
    /// chroma_format_idc: 1 is 4:2:0.
    pub chroma_format_idc: u8,
    /// Bits a luma sample.
    pub bit_depth_luma: u8,
    /// Bits a chroma sample.
    pub bit_depth_chroma: u8,
    /// Luma samples, after cropping.
    pub width: u32,
    /// Luma samples, after cropping.
    pub height: u32,
    /// Width to height of a sample, where the VUI says.
    pub sample_aspect_ratio: Option<(u16, u16)>,
    /// Colour description, where the VUI says.
    pub colour: Option<Colour>,
    /// Frames a second as a fraction (numerator, denominator), where the VUI says. A hint: cameras lie.
    pub frame_rate_hint: Option<(u32, u32)>,
    /// How many frames may precede a frame in decoding order and follow it in output order; `None` when nothing says.
    pub max_num_reorder_frames: Option<u8>,
}

fn malformed(set: &'static str, field: &'static str) -> H264Error {
    H264Error::Malformed { set, field }
}

impl H264Parameters {
    /// From an SPS and its PPSs, as NAL units with header, without start codes. Zero bytes at their ends are dropped, so
    /// that the versions in SDP and in the stream compare equal; a PPS given twice counts once.
    ///
    /// # Errors
    /// When one is not what it should be, ends early, or is out of bounds.
    pub fn from_sps_pps<P: AsRef<[u8]>>(sps: &[u8], pps: &[P]) -> Result<Self, H264Error> {
        let sps = strip_trailing_zeros(sps);
        if sps.len() > usize::from(u16::MAX) {
            return Err(malformed("SPS", "longer than 65535 bytes"));
        }
        let parsed = Sps::parse(sps)?;
        let mut kept: Vec<Bytes> = Vec::new();
        for one in pps {
            let one = strip_trailing_zeros(one.as_ref());
            check_pps(one, parsed.id)?;
            if !kept.iter().any(|other| other == one) {
                kept.push(Bytes::copy_from_slice(one));
            }
        }
        if kept.is_empty() || kept.len() > usize::from(u8::MAX) {
            return Err(malformed("PPS", "there must be 1 to 255 of them"));
        }
        // Profiles without B slices, and picture order count type 2, put frames out as they come (§A.2.1, §8.2.1.3);
        // constraint_set3_flag means "intra only" in these profiles (§A.2.8 and on).
        let intra_only =
            parsed.constraint_flags & 0x10 != 0 && matches!(parsed.profile_idc, 44 | 86 | 100 | 110 | 122 | 244);
        let no_reordering = parsed.profile_idc == 66 || parsed.pic_order_cnt_type == 2 || intra_only;
        Ok(Self {
            sps: Bytes::copy_from_slice(sps),
            pps: kept,
            profile_idc: parsed.profile_idc,
            constraint_flags: parsed.constraint_flags,
            level_idc: parsed.level_idc,
            chroma_format_idc: parsed.chroma_format_idc,
            bit_depth_luma: parsed.bit_depth_luma,
            bit_depth_chroma: parsed.bit_depth_chroma,
            width: parsed.width,
            height: parsed.height,
            sample_aspect_ratio: parsed.vui.sample_aspect_ratio,
            colour: parsed.vui.colour,
            // §E.2.1: a frame is two ticks.
            frame_rate_hint: parsed.vui.timing.and_then(|(scale, units)| Some((scale, units.checked_mul(2)?))),
            max_num_reorder_frames: parsed.vui.max_num_reorder_frames.or(no_reordering.then_some(0)),
        })
    }

    /// From an AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1), the body of an `avcC` box.
    ///
    /// # Errors
    /// When it is malformed, has not exactly one SPS, or NAL units' lengths are not 4 bytes long.
    pub fn from_avcc(record: &[u8]) -> Result<Self, H264Error> {
        let short = || malformed("avcC", "ends early");
        let (fixed, mut rest) = record.split_first_chunk::<6>().ok_or_else(short)?;
        let &[version, _, _, _, length_size, sps_count] = fixed;
        if version != 1 {
            return Err(malformed("avcC", "configurationVersion is not 1"));
        }
        if length_size & 3 != 3 {
            return Err(malformed("avcC", "lengthSizeMinusOne is not 3"));
        }
        if sps_count & 0x1f != 1 {
            return Err(malformed("avcC", "numOfSequenceParameterSets is not 1"));
        }
        let set = |rest: &mut &[u8]| -> Result<Bytes, H264Error> {
            let (length, tail) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            let (bytes, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
            *rest = tail;
            Ok(Bytes::copy_from_slice(bytes))
        };
        let sps = set(&mut rest)?;
        let (&pps_count, tail) = rest.split_first().ok_or_else(short)?;
        rest = tail;
        let pps = (0..pps_count).map(|_| set(&mut rest)).collect::<Result<Vec<_>, _>>()?;
        Self::from_sps_pps(&sps, &pps)
    }

    /// The AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1), with 4-byte NAL unit lengths.
    #[must_use]
    pub fn avcc(&self) -> Bytes {
        let mut w = BoxWriter::with_capacity(32 + self.sps.len() + self.pps.iter().map(|p| p.len() + 2).sum::<usize>());
        w.bytes(&[1, self.profile_idc, self.constraint_flags, self.level_idc, 0xfc | 3, 0xe0 | 1]);
        let set = |w: &mut BoxWriter, bytes: &[u8]| {
            w.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
            w.bytes(bytes);
        };
        set(&mut w, &self.sps);
        w.u8(u8::try_from(self.pps.len()).unwrap_or(u8::MAX));
        for pps in &self.pps {
            set(&mut w, pps);
        }
        if !matches!(self.profile_idc, 66 | 77 | 88) {
            w.bytes(&[
                0xfc | self.chroma_format_idc,
                0xf8 | self.bit_depth_luma.saturating_sub(8),
                0xf8 | self.bit_depth_chroma.saturating_sub(8),
                0,
            ]);
        }
        w.finish()
    }

    /// The `codecs` parameter of RFC 6381 §3.3: `avc1.64001f`.
    #[must_use]
    pub fn codec_string(&self) -> String {
        format!("avc1.{:02x}{:02x}{:02x}", self.profile_idc, self.constraint_flags, self.level_idc)
    }

    /// Nominal duration of a frame in 90 kHz ticks, from the VUI, where it is between 1/240 s and 10 s.
    #[must_use]
    pub fn nominal_frame_duration(&self) -> Option<u32> {
        let (frames, seconds) = self.frame_rate_hint?;
        let ticks = u64::from(crate::unit::VIDEO_CLOCK_HZ) * u64::from(seconds) / u64::from(frames.max(1));
        u32::try_from(ticks).ok().filter(|ticks| (375..=900_000).contains(ticks))
    }
}

fn check_pps(nal: &[u8], sps_id: u32) -> Result<(), H264Error> {
    let Some((&header, payload)) = nal.split_first() else { return Err(malformed("PPS", "no bytes")) };
    if header & 0x80 != 0 || nal_type(header) != 8 {
        return Err(malformed("PPS", "nal_unit_type is not 8"));
    }
    if nal.len() > usize::from(u16::MAX) {
        return Err(malformed("PPS", "longer than 65535 bytes"));
    }
    // Two identifiers of at most 17 bits stand first.
    let head = super::sps::unescape(payload.get(..payload.len().min(16)).unwrap_or_default());
    let mut bits = crate::bits::BitReader::new(&head);
    if bits.ue().map_err(|_| malformed("PPS", "ends early"))? > 255 {
        return Err(malformed("PPS", "pic_parameter_set_id"));
    }
    if bits.ue().map_err(|_| malformed("PPS", "ends early"))? != sps_id {
        return Err(malformed("PPS", "seq_parameter_set_id is not that of the SPS"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libx264: 160 x 120, High profile, level 1.1, two frames of reordering, 25 fps.
    const SPS: &[u8] = &[
        0x67, 0x64, 0x00, 0x0b, 0xac, 0xd9, 0x42, 0x84, 0x7e, 0x5c, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00,
        0x00, 0x0c, 0x83, 0xc5, 0x0a, 0x65, 0x80,
    ];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

    #[test]
    fn fields_of_an_sps_with_emulation_prevention() {
        let found = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
        assert_eq!((found.width, found.height, found.profile_idc, found.level_idc), (160, 120, 100, 11));
        assert_eq!((found.frame_rate_hint, found.max_num_reorder_frames), (Some((50, 2)), Some(2)));
        assert_eq!((found.sample_aspect_ratio, found.colour), (Some((1, 1)), None));
        assert_eq!(found.codec_string(), "avc1.64000b");
    }

    #[test]
    fn zeros_at_the_end_and_sets_given_twice_make_no_difference() {
        let plain = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
        let padded = [PPS, &[0, 0]].concat();
        let again = H264Parameters::from_sps_pps(&[SPS, &[0]].concat(), &[&padded, PPS]).unwrap();
        assert_eq!(plain, again);
        assert_eq!(H264Parameters::from_avcc(&plain.avcc()).unwrap(), plain);
    }

    #[test]
    fn a_broken_vui_costs_the_hints_behind_the_break_only() {
        let cut = &SPS[..SPS.len() - 5];
        let found = H264Parameters::from_sps_pps(cut, &[PPS]).unwrap();
        assert_eq!((found.width, found.height, found.max_num_reorder_frames), (160, 120, None));
        assert_eq!(found.sample_aspect_ratio, Some((1, 1)));
    }

    #[test]
    fn what_is_no_parameter_set_is_refused() {
        let refused = |sps: &[u8], pps: &[u8]| H264Parameters::from_sps_pps(sps, &[pps]).unwrap_err().to_string();
        assert_eq!(refused(&[], PPS), "SPS is malformed: no bytes");
        assert_eq!(refused(PPS, PPS), "SPS is malformed: nal_unit_type is not 7");
        assert_eq!(refused(&SPS[..6], PPS), "SPS is malformed: ends early");
        assert_eq!(refused(SPS, SPS), "PPS is malformed: nal_unit_type is not 8");
        // pic_parameter_set_id 0, seq_parameter_set_id 1
        assert_eq!(refused(SPS, &[0x68, 0b1010_1000]), "PPS is malformed: seq_parameter_set_id is not that of the SPS");
        assert!(H264Parameters::from_sps_pps::<&[u8]>(SPS, &[]).is_err());
    }

    /// Baseline, one bit field after the other: sizes beyond the bound, cropping to nothing.
    #[test]
    fn absurd_sizes_are_refused() {
        let ue = |value: u32| -> String {
            let code = format!("{:b}", value + 1);
            "0".repeat(code.len() - 1) + &code
        };
        let sps = |width: u32, height: u32, crop: Option<u32>| -> Vec<u8> {
            // seq_parameter_set_id … pic_order_cnt_type 2, one reference frame, no gaps.
            let mut bits = [ue(0), ue(0), ue(2), ue(1), "0".into(), ue(width), ue(height)].concat();
            bits += "11"; // frame_mbs_only, direct_8x8
            match crop {
                Some(crop) => bits += &["1".into(), ue(0), ue(crop), ue(0), ue(0)].concat(),
                None => bits += "0",
            }
            bits += "01"; // no VUI, stop bit
            let padded = format!("{bits:0<width$}", width = bits.len().next_multiple_of(8));
            let bytes = (0..padded.len() / 8).map(|i| u8::from_str_radix(&padded[i * 8..i * 8 + 8], 2).unwrap());
            [0x67, 66, 0, 30].into_iter().chain(bytes).collect()
        };
        let read = |sps: &[u8]| H264Parameters::from_sps_pps(sps, &[&[0x68, 0b1110_0000]]);
        let vga = read(&sps(39, 29, None)).unwrap();
        assert_eq!((vga.width, vga.height, vga.max_num_reorder_frames), (640, 480, Some(0)));
        assert_eq!(read(&sps(39, 29, Some(20))).unwrap().width, 600);
        assert_eq!(read(&sps(1023, 29, None)).unwrap().width, 16_384);
        assert_eq!(read(&sps(1024, 29, None)).unwrap_err(), H264Error::Size { width: 16_400, height: 480 });
        assert!(read(&sps(60_000, 29, None)).is_err());
        assert!(read(&sps(39, 29, Some(320))).is_err(), "nothing is left");
        assert!(read(&sps(39, 29, Some(u32::MAX / 2 - 1))).is_err());
    }
}
