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
                0xf8 | (self.bit_depth_luma - 8),
                0xf8 | (self.bit_depth_chroma - 8),
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
