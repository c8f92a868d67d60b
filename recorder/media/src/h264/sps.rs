//! The sequence parameter set (ISO/IEC 14496-10 §7.3.2.1.1, Annex E).

use super::{Colour, H264Error, MAX_DIMENSION};
use crate::bits::{BitReader, OutOfBits};

/// What of an SPS matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sps {
    pub(crate) id: u32,
    pub(crate) profile_idc: u8,
    pub(crate) constraint_flags: u8,
    pub(crate) level_idc: u8,
    pub(crate) chroma_format_idc: u8,
    pub(crate) bit_depth_luma: u8,
    pub(crate) bit_depth_chroma: u8,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pic_order_cnt_type: u32,
    pub(crate) vui: Vui,
}

/// Video usability information, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vui {
    pub(crate) sample_aspect_ratio: Option<(u16, u16)>,
    pub(crate) colour: Option<Colour>,
    /// time_scale and num_units_in_tick.
    pub(crate) timing: Option<(u32, u32)>,
    pub(crate) max_num_reorder_frames: Option<u8>,
}

/// Table E-1, sample aspect ratios by aspect_ratio_idc 1 to 16.
const ASPECT_RATIOS: [(u16, u16); 16] = [
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

const EXTENDED_SAR: u8 = 255;

/// Removes emulation prevention bytes (§7.3.1): `00 00 03` becomes `00 00`.
pub(crate) fn unescape(nal_payload: &[u8]) -> Vec<u8> {
    let mut rbsp = Vec::with_capacity(nal_payload.len());
    let mut zeros = 0u32;
    for &byte in nal_payload {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        rbsp.push(byte);
    }
    rbsp
}

fn malformed(field: &'static str) -> H264Error {
    H264Error::Malformed { set: "SPS", field }
}

impl Sps {
    /// Parses a NAL unit of type 7, its header byte included.
    pub(crate) fn parse(nal: &[u8]) -> Result<Self, H264Error> {
        let Some((&header, payload)) = nal.split_first() else { return Err(malformed("no bytes")) };
        if header & 0x80 != 0 || super::nal_type(header) != 7 {
            return Err(malformed("nal_unit_type is not 7"));
        }
        let rbsp = unescape(payload);
        let mut r = BitReader::new(&rbsp);
        let short = |_: OutOfBits| malformed("ends early");
        let at_most = |value: u32, max: u32, field| if value > max { Err(malformed(field)) } else { Ok(value) };

        let profile_idc = r.byte().map_err(short)?;
        let constraint_flags = r.byte().map_err(short)?;
        let level_idc = r.byte().map_err(short)?;
        let id = at_most(r.ue().map_err(short)?, 31, "seq_parameter_set_id")?;

        let (mut chroma_format_idc, mut bit_depth_luma, mut bit_depth_chroma) = (1, 8, 8);
        let mut separate_colour_planes = false;
        if matches!(profile_idc, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244) {
            chroma_format_idc = at_most(r.ue().map_err(short)?, 3, "chroma_format_idc")?;
            if chroma_format_idc == 3 {
                separate_colour_planes = r.bit().map_err(short)?;
            }
            bit_depth_luma = 8 + at_most(r.ue().map_err(short)?, 6, "bit_depth_luma_minus8")?;
            bit_depth_chroma = 8 + at_most(r.ue().map_err(short)?, 6, "bit_depth_chroma_minus8")?;
            r.bit().map_err(short)?;
            if r.bit().map_err(short)? {
                for list in 0..if chroma_format_idc == 3 { 12 } else { 8 } {
                    if r.bit().map_err(short)? {
                        skip_scaling_list(&mut r, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        at_most(r.ue().map_err(short)?, 12, "log2_max_frame_num_minus4")?;
        let pic_order_cnt_type = at_most(r.ue().map_err(short)?, 2, "pic_order_cnt_type")?;
        match pic_order_cnt_type {
            0 => {
                at_most(r.ue().map_err(short)?, 12, "log2_max_pic_order_cnt_lsb_minus4")?;
            }
            1 => {
                r.bit().map_err(short)?;
                r.se().map_err(short)?;
                r.se().map_err(short)?;
                for _ in 0..at_most(r.ue().map_err(short)?, 255, "num_ref_frames_in_pic_order_cnt_cycle")? {
                    r.se().map_err(short)?;
                }
            }
            _ => {}
        }
        at_most(r.ue().map_err(short)?, 16, "max_num_ref_frames")?;
        r.bit().map_err(short)?;
        let width_in_mbs = at_most(r.ue().map_err(short)?, MAX_DIMENSION / 16, "pic_width_in_mbs_minus1")? + 1;
        let map_units = at_most(r.ue().map_err(short)?, MAX_DIMENSION / 16, "pic_height_in_map_units_minus1")? + 1;
        let frame_mbs_only = r.bit().map_err(short)?;
        if !frame_mbs_only {
            r.bit().map_err(short)?;
        }
        r.bit().map_err(short)?;
        let (mut left, mut right, mut top, mut bottom) = (0, 0, 0, 0);
        if r.bit().map_err(short)? {
            left = r.ue().map_err(short)?;
            right = r.ue().map_err(short)?;
            top = r.ue().map_err(short)?;
            bottom = r.ue().map_err(short)?;
        }
        // §7.4.2.1.1: cropping counts in chroma samples, and in pairs of lines where there are fields.
        let fields = if frame_mbs_only { 1 } else { 2 };
        let array_type = if separate_colour_planes { 0 } else { chroma_format_idc };
        let unit_x = if matches!(array_type, 1 | 2) { 2 } else { 1 };
        let unit_y = if array_type == 1 { 2 } else { 1 } * fields;
        let cropped = |coded: u32, unit: u32, a: u32, b: u32| -> Option<u32> {
            coded.checked_sub(a.checked_add(b)?.checked_mul(unit)?).filter(|&size| size > 0)
        };
        let width = cropped(width_in_mbs * 16, unit_x, left, right).ok_or(malformed("frame_crop_right_offset"))?;
        let height =
            cropped(map_units * fields * 16, unit_y, top, bottom).ok_or(malformed("frame_crop_bottom_offset"))?;
        if width > MAX_DIMENSION || height > MAX_DIMENSION {
            return Err(H264Error::Size { width, height });
        }
        let mut vui = Vui::default();
        if r.bit().map_err(short)? {
            // Cameras with a broken VUI exist; what was read up to the break are hints worth having.
            let _broken = vui.read(&mut r);
        }
        let narrow = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        Ok(Self {
            id,
            profile_idc,
            constraint_flags,
            level_idc,
            chroma_format_idc: narrow(chroma_format_idc),
            bit_depth_luma: narrow(bit_depth_luma),
            bit_depth_chroma: narrow(bit_depth_chroma),
            width,
            height,
            pic_order_cnt_type,
            vui,
        })
    }
}

/// §7.3.2.1.1.1.
fn skip_scaling_list(r: &mut BitReader<'_>, size: u32) -> Result<(), H264Error> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            let delta = r.se().map_err(|_| malformed("ends early"))?;
            if !(-128..=127).contains(&delta) {
                return Err(malformed("delta_scale"));
            }
            next = (last + delta).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
}

impl Vui {
    /// §E.1.1. Fields are set as they are read.
    fn read(&mut self, r: &mut BitReader<'_>) -> Result<(), OutOfBits> {
        if r.bit()? {
            let ratio = match r.byte()? {
                EXTENDED_SAR => {
                    let (width, height) = (r.bits(16)?, r.bits(16)?);
                    u16::try_from(width).ok().zip(u16::try_from(height).ok())
                }
                idc => usize::from(idc).checked_sub(1).and_then(|at| ASPECT_RATIOS.get(at).copied()),
            };
            self.sample_aspect_ratio = ratio.filter(|&(width, height)| width > 0 && height > 0);
        }
        if r.bit()? {
            r.bit()?;
        }
        if r.bit()? {
            r.bits(3)?;
            let full_range = r.bit()?;
            if r.bit()? {
                self.colour = Some(Colour { primaries: r.byte()?, transfer: r.byte()?, matrix: r.byte()?, full_range });
            }
        }
        if r.bit()? {
            r.ue()?;
            r.ue()?;
        }
        if r.bit()? {
            let (num_units_in_tick, time_scale) = (r.bits(32)?, r.bits(32)?);
            r.bit()?;
            if num_units_in_tick > 0 && time_scale > 0 {
                self.timing = Some((time_scale, num_units_in_tick));
            }
        }
        let nal_hrd = r.bit()?;
        if nal_hrd {
            skip_hrd(r)?;
        }
        let vcl_hrd = r.bit()?;
        if vcl_hrd {
            skip_hrd(r)?;
        }
        if nal_hrd || vcl_hrd {
            r.bit()?;
        }
        r.bit()?;
        if r.bit()? {
            r.bit()?;
            for _ in 0..4 {
                r.ue()?;
            }
            let reorder = r.ue()?;
            let buffering = r.ue()?;
            if reorder <= buffering.min(16) {
                self.max_num_reorder_frames = u8::try_from(reorder).ok();
            }
        }
        Ok(())
    }
}

/// §E.1.2.
fn skip_hrd(r: &mut BitReader<'_>) -> Result<(), OutOfBits> {
    let cpb_count = r.ue()?.checked_add(1).filter(|&count| count <= 32).ok_or(OutOfBits)?;
    r.bits(8)?;
    for _ in 0..cpb_count {
        r.ue()?;
        r.ue()?;
        r.bit()?;
    }
    r.bits(20)?;
    Ok(())
}
