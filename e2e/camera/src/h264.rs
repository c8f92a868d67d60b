//! A very small H.264 encoder whose pictures never repeat and cost next to nothing to make.
//!
//! Constrained Baseline, CAVLC. The background is DC-predicted or skipped; the bytes are I_PCM macroblocks filled with
//! fresh pseudo-random samples, as many as the frame's size asks for, in a band that moves over the picture. The stamp's
//! macroblocks are Intra_16x16 with one DC coefficient; in P pictures only those that changed are coded.

use crate::bits::{BitWriter, append_escaped};
use crate::stamp;

/// QP of every slice. At 51 one step of the single luma DC coefficient moves a macroblock by exactly 14
/// (H.264 clause 8.5.10: LevelScale 224 « 2, then (896 + 32) » 6).
const QP: i32 = 51;
const DC_STEP: i32 = 14;
/// Bytes of an I_PCM macroblock, its type and alignment included.
const PCM_BYTES: usize = 386;
/// Luma of the stamp's cells and of the black picture (H.264 Annex E, video range).
const BLACK: i32 = 16;
const WHITE: i32 = 235;

/// What the pictures show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// Stamped, and different in every frame.
    Moving,
    /// The coded slices of every GOP are the same bytes; no stamp in the picture.
    Frozen,
    /// Black, with as few bytes as a black picture takes.
    Black,
}

/// What the encoder is asked to make.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Luma samples a row; even.
    pub width: u32,
    /// Luma rows; even.
    pub height: u32,
    /// Frames a second.
    pub fps: u32,
    /// Bits a second that slices and stamps together should come to.
    pub bitrate_bps: u64,
    /// Frames from one key frame to the next.
    pub gop: u32,
    /// Slices a picture, at most one a macroblock row.
    pub slices: u32,
    /// What the pictures show.
    pub picture: Picture,
    /// What tells this stream's random samples from another's.
    pub seed: u64,
}

/// One coded picture: NAL units, each as (start, end) into `bytes`, without start codes.
#[derive(Debug, Default)]
pub struct Coded {
    /// The NAL units' bytes, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each NAL unit lies in `bytes`.
    pub nals: Vec<(usize, usize)>,
    /// The picture is an IDR picture.
    pub key: bool,
}

impl Coded {
    /// Forgets the picture; the next one is a key frame or not.
    pub fn clear(&mut self, key: bool) {
        self.bytes.clear();
        self.nals.clear();
        self.key = key;
    }

    /// Appends one NAL unit.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.nals.push((start, self.bytes.len()));
    }

    /// The NAL units in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.nals.iter().map(|&(start, end)| &self.bytes[start..end])
    }
}

/// Which bits a macroblock is written with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Macroblock {
    Pcm,
    /// Stamp cell or background with a DC level; its index in the stamp where it is one.
    Cell(usize),
}

/// The encoder of one stream.
pub struct Encoder {
    format: Format,
    /// `seq_parameter_set` NAL unit.
    sps: Vec<u8>,
    /// `pic_parameter_set` NAL unit.
    pps: Vec<u8>,
    columns: u32,
    rows: u32,
    /// Frames since the key frame, 0 for the key frame itself.
    in_gop: u32,
    rng: Rng,
    /// Luma of each stamp cell as the decoder has it.
    cells: [i32; stamp::COLUMNS * stamp::ROWS],
    /// Where the band of I_PCM macroblocks goes on.
    band: u32,
    p_bytes: usize,
    key_bytes: usize,
    writer: BitWriter,
    coded: Vec<(u32, Macroblock)>,
}

impl Encoder {
    /// An encoder whose first picture is a key frame.
    pub fn new(format: Format) -> Self {
        let (columns, rows) = (format.width.div_ceil(16), format.height.div_ceil(16));
        // A key frame is as large as six others, so that GOPs look like those of real cameras.
        let gop_bytes = format.bitrate_bps / 8 * u64::from(format.gop) / u64::from(format.fps.max(1));
        let p_bytes = gop_bytes / (u64::from(format.gop) + 5);
        Self {
            sps: sps(&format, columns, rows),
            pps: pps(),
            columns,
            rows,
            in_gop: 0,
            rng: Rng::new(format.seed),
            cells: [128; stamp::COLUMNS * stamp::ROWS],
            band: 0,
            p_bytes: p_bytes as usize,
            key_bytes: 6 * p_bytes as usize,
            writer: BitWriter::default(),
            coded: Vec::new(),
            format,
        }
    }

    /// What it was asked to make.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// SPS and PPS, each a NAL unit without start code.
    pub fn parameter_sets(&self) -> [&[u8]; 2] {
        [&self.sps, &self.pps]
    }

    /// Frames until the next key frame; 0 if it comes next.
    pub fn frames_to_key(&self) -> u32 {
        (self.format.gop - self.in_gop) % self.format.gop
    }

    /// Makes the next picture a key frame.
    pub fn force_key(&mut self) {
        self.in_gop = 0;
    }

    /// Codes frame `number` at `media_time` (90 kHz): parameter sets in front of key frames, SEI, slices.
    pub fn encode(&mut self, number: u64, media_time: i64, out: &mut Coded) {
        self.in_gop %= self.format.gop;
        out.clear(self.in_gop == 0);
        if out.key {
            out.push(|bytes| bytes.extend_from_slice(&self.sps));
            out.push(|bytes| bytes.extend_from_slice(&self.pps));
            if self.format.picture == Picture::Frozen {
                self.rng = Rng::new(self.format.seed);
                self.band = 0;
            }
        }
        out.push(|bytes| stamp::append_sei(bytes, number, media_time));
        self.choose_macroblocks(number, out.key, out.bytes.len());
        let slices = self.format.slices.clamp(1, self.rows);
        for slice in 0..slices {
            let first_row = slice * self.rows / slices;
            let end_row = (slice + 1) * self.rows / slices;
            let start = out.bytes.len();
            if out.key {
                self.idr_slice(number, first_row, end_row, &mut out.bytes);
            } else {
                self.p_slice(number, first_row, end_row, &mut out.bytes);
            }
            out.nals.push((start, out.bytes.len()));
        }
        self.in_gop += 1;
    }

    /// Fills `coded` with the macroblocks that are not plain background, in address order.
    fn choose_macroblocks(&mut self, number: u64, key: bool, written_bytes: usize) {
        self.coded.clear();
        match self.format.picture {
            Picture::Black if key => {
                // The first macroblock of each slice has nothing to be predicted from.
                let slices = self.format.slices.clamp(1, self.rows);
                let starts = (0..slices).map(|slice| slice * self.rows / slices * self.columns);
                self.coded.extend(starts.map(|address| (address, Macroblock::Cell(0))));
                return;
            }
            Picture::Black => return,
            Picture::Moving => {
                for (cell, white) in stamp::cells(number).into_iter().enumerate() {
                    let address = (cell / stamp::COLUMNS) as u32 * self.columns + (cell % stamp::COLUMNS) as u32;
                    if key || (self.cells[cell] > 128) != white {
                        self.coded.push((address, Macroblock::Cell(cell)));
                    }
                }
            }
            Picture::Frozen => {}
        }
        let total = self.columns * self.rows;
        let target = if key { self.key_bytes } else { self.p_bytes };
        // P frames vary by ± 12 %, as those of real encoders do.
        let varied = if key { target } else { target * (896 + (self.rng.next() % 257) as usize) / 1024 };
        let background = if key { total as usize } else { 64 };
        let stamped = (stamp::COLUMNS * stamp::ROWS) as u32;
        let pcm = (varied.saturating_sub(written_bytes + background) / PCM_BYTES) as u32;
        for _ in 0..pcm.clamp(1, total.saturating_sub(stamped).max(1)) {
            while self.is_stamp(self.band) {
                self.band = (self.band + 1) % total;
            }
            self.coded.push((self.band, Macroblock::Pcm));
            self.band = (self.band + 1) % total;
        }
        self.coded.sort_unstable_by_key(|&(address, _)| address);
        self.coded.dedup_by_key(|&mut (address, _)| address);
    }

    fn is_stamp(&self, address: u32) -> bool {
        address / self.columns < stamp::ROWS as u32 && address % self.columns < stamp::COLUMNS as u32
    }

    fn idr_slice(&mut self, number: u64, first_row: u32, end_row: u32, out: &mut Vec<u8>) {
        let mut zeros = self.begin_slice(true, number, first_row, out);
        let mut next = self.coded.partition_point(|&(address, _)| address < first_row * self.columns);
        for address in first_row * self.columns..end_row * self.columns {
            let special = self.coded.get(next).filter(|&&(at, _)| at == address).map(|&(_, kind)| kind);
            match special {
                Some(Macroblock::Pcm) => {
                    self.writer.ue(25); // mb_type I_PCM
                    self.pcm(out, &mut zeros);
                }
                Some(Macroblock::Cell(cell)) => {
                    self.writer.ue(3); // mb_type I_16x16_2_0_0: DC prediction, no AC, no chroma
                    self.dc_cell(cell, number, address, first_row, next);
                }
                None => {
                    self.writer.ue(3);
                    self.dc_level(0, self.beside_pcm(address, first_row, next));
                }
            }
            next += usize::from(special.is_some());
        }
        self.end_slice(out, &mut zeros);
    }

    fn p_slice(&mut self, number: u64, first_row: u32, end_row: u32, out: &mut Vec<u8>) {
        let mut zeros = self.begin_slice(false, number, first_row, out);
        let end = end_row * self.columns;
        let mut address = first_row * self.columns;
        let mut next = self.coded.partition_point(|&(at, _)| at < address);
        while let Some(&(at, kind)) = self.coded.get(next).filter(|&&(at, _)| at < end) {
            self.writer.ue(at - address); // mb_skip_run
            match kind {
                Macroblock::Pcm => {
                    self.writer.ue(5 + 25);
                    self.pcm(out, &mut zeros);
                }
                Macroblock::Cell(cell) => {
                    self.writer.ue(5 + 3);
                    self.dc_cell(cell, number, at, first_row, next);
                }
            }
            address = at + 1;
            next += 1;
        }
        if address < end {
            self.writer.ue(end - address);
        }
        self.end_slice(out, &mut zeros);
    }

    /// Writes NAL unit header and slice header (H.264 clause 7.3.3); gives back the zero bytes it ends with.
    fn begin_slice(&mut self, key: bool, number: u64, first_row: u32, out: &mut Vec<u8>) -> u32 {
        out.push(if key { 0x65 } else { 0x41 });
        let writer = &mut self.writer;
        writer.ue(first_row * self.columns); // first_mb_in_slice
        writer.ue(if key { 7 } else { 5 }); // slice_type: all slices of the picture are I or P
        writer.ue(0); // pic_parameter_set_id
        writer.bits(self.in_gop & 0xffff, 16); // frame_num
        if key {
            // Two IDR pictures in succession must differ in it; otherwise frozen GOPs must not.
            writer.ue(if self.format.gop == 1 { (number & 1) as u32 } else { 0 }); // idr_pic_id
            writer.bits(0, 2); // no_output_of_prior_pics_flag, long_term_reference_flag
        } else {
            writer.bits(0, 1); // num_ref_idx_active_override_flag
            writer.bits(0, 1); // ref_pic_list_modification_flag_l0
            writer.bits(0, 1); // adaptive_ref_pic_marking_mode_flag
        }
        writer.se(QP - 26); // slice_qp_delta
        writer.ue(1); // disable_deblocking_filter_idc: the stamp stays exact, decoding stays cheap
        0
    }

    fn end_slice(&mut self, out: &mut Vec<u8>, zeros: &mut u32) {
        self.writer.trailing();
        append_escaped(out, self.writer.drain(), zeros);
    }

    /// The samples of an I_PCM macroblock whose type is written. None is below 16, so none needs escaping.
    fn pcm(&mut self, out: &mut Vec<u8>, zeros: &mut u32) {
        self.writer.align(); // pcm_alignment_zero_bit
        append_escaped(out, self.writer.drain(), zeros);
        let mut samples = [0u8; 384];
        for eight in samples.as_chunks_mut::<8>().0 {
            *eight = ((self.rng.next() & 0x7f7f_7f7f_7f7f_7f7f) + 0x2020_2020_2020_2020).to_le_bytes();
        }
        out.extend_from_slice(&samples);
        *zeros = 0;
    }

    /// A flat macroblock of the stamp, or the black one that all others of a black picture are predicted from.
    fn dc_cell(&mut self, cell: usize, number: u64, address: u32, first_row: u32, next: usize) {
        let white = self.format.picture == Picture::Moving && stamp::cells(number)[cell];
        let target = if white { WHITE } else { BLACK };
        let left = (!address.is_multiple_of(self.columns)).then(|| self.cells[cell - 1]);
        let above =
            (address >= (first_row + 1) * self.columns).then(|| self.cells[cell.saturating_sub(stamp::COLUMNS)]);
        let predicted = match (left, above) {
            (Some(left), Some(above)) => (16 * left + 16 * above + 16) >> 5,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => 128,
        };
        let difference = target - predicted;
        let mut level = (difference + difference.signum() * DC_STEP / 2) / DC_STEP;
        if level.abs() == 1 {
            level = 0; // would be coded as a trailing one; 14 off the target still reads well
        }
        self.cells[cell] = (predicted + DC_STEP * level).clamp(0, 255);
        self.dc_level(level, self.beside_pcm(address, first_row, next));
    }

    /// What follows the type of an Intra_16x16 macroblock with at most the luma DC coefficient.
    /// `level` is 0 or at least 2 from it.
    fn dc_level(&mut self, level: i32, beside_pcm: bool) {
        let writer = &mut self.writer;
        writer.ue(0); // intra_chroma_pred_mode: DC
        writer.se(0); // mb_qp_delta
        // coeff_token, Table 9-5: an I_PCM neighbour counts 16 coefficients, all others none, so nC is 0 or ≥ 8.
        match (level, beside_pcm) {
            (0, false) => return writer.bits(0b1, 1),
            (0, true) => return writer.bits(0b00_0011, 6),
            (_, false) => writer.bits(0b00_0101, 6),
            (_, true) => writer.bits(0b00_0000, 6),
        }
        // level_prefix and level_suffix (clause 9.2.2): suffixLength 0, and ±1 is not among the values.
        let code = if level > 0 { 2 * level - 2 } else { -2 * level - 1 } - 2;
        if code < 14 {
            writer.bits(1, code as u32 + 1);
        } else {
            writer.bits(1, 15);
            writer.bits(code as u32 - 14, 4);
        }
        writer.bits(1, 1); // total_zeros = 0
    }

    /// Whether the macroblock to the left or above, in the same slice, is I_PCM. `next` is where `address` is, or would
    /// be, in `coded`.
    fn beside_pcm(&self, address: u32, first_row: u32, next: usize) -> bool {
        let left = !address.is_multiple_of(self.columns)
            && next.checked_sub(1).is_some_and(|before| self.coded[before] == (address - 1, Macroblock::Pcm));
        left || (address >= (first_row + 1) * self.columns && {
            let above = address - self.columns;
            self.coded[..next]
                .binary_search_by_key(&above, |&(at, _)| at)
                .is_ok_and(|found| self.coded[found].1 == Macroblock::Pcm)
        })
    }
}

/// Sequence parameter set (H.264 clause 7.3.2.1.1) with VUI timing and bitstream restrictions (Annex E).
fn sps(format: &Format, columns: u32, rows: u32) -> Vec<u8> {
    let mut writer = BitWriter::default();
    writer.bits(66, 8); // profile_idc: Baseline …
    writer.bits(0b1100_0000, 8); // … constrained
    writer.bits(level(columns * rows, format.fps), 8);
    writer.ue(0); // seq_parameter_set_id
    writer.ue(12); // log2_max_frame_num_minus4
    writer.ue(2); // pic_order_cnt_type: output order is coding order
    writer.ue(1); // max_num_ref_frames
    writer.flag(false); // gaps_in_frame_num_value_allowed_flag
    writer.ue(columns - 1);
    writer.ue(rows - 1);
    writer.flag(true); // frame_mbs_only_flag
    writer.flag(true); // direct_8x8_inference_flag
    let (crop_right, crop_bottom) = ((columns * 16 - format.width) / 2, (rows * 16 - format.height) / 2);
    writer.flag(crop_right + crop_bottom > 0);
    if crop_right + crop_bottom > 0 {
        [0, crop_right, 0, crop_bottom].into_iter().for_each(|crop| writer.ue(crop));
    }
    writer.flag(true); // vui_parameters_present_flag
    writer.flag(true); // aspect_ratio_info_present_flag
    writer.bits(1, 8); // square samples
    writer.flag(false); // overscan_info_present_flag
    writer.flag(false); // video_signal_type_present_flag
    writer.flag(false); // chroma_loc_info_present_flag
    writer.flag(true); // timing_info_present_flag
    writer.bits(1, 32); // num_units_in_tick
    writer.bits(2 * format.fps, 32); // time_scale, in fields
    writer.flag(true); // fixed_frame_rate_flag
    writer.flag(false); // nal_hrd_parameters_present_flag
    writer.flag(false); // vcl_hrd_parameters_present_flag
    writer.flag(false); // pic_struct_present_flag
    writer.flag(true); // bitstream_restriction_flag
    writer.flag(true); // motion_vectors_over_pic_boundaries_flag
    writer.ue(0); // max_bytes_per_pic_denom: no limit
    writer.ue(0); // max_bits_per_mb_denom: no limit
    writer.ue(10); // log2_max_mv_length_horizontal
    writer.ue(10); // log2_max_mv_length_vertical
    writer.ue(0); // max_num_reorder_frames
    writer.ue(1); // max_dec_frame_buffering
    writer.trailing();
    let mut nal = vec![0x67];
    append_escaped(&mut nal, writer.drain(), &mut 0);
    nal
}

/// Picture parameter set (H.264 clause 7.3.2.2).
fn pps() -> Vec<u8> {
    let mut writer = BitWriter::default();
    writer.ue(0); // pic_parameter_set_id
    writer.ue(0); // seq_parameter_set_id
    writer.flag(false); // entropy_coding_mode_flag: CAVLC
    writer.flag(false); // bottom_field_pic_order_in_frame_present_flag
    writer.ue(0); // num_slice_groups_minus1
    writer.ue(0); // num_ref_idx_l0_default_active_minus1
    writer.ue(0); // num_ref_idx_l1_default_active_minus1
    writer.bits(0, 3); // weighted_pred_flag, weighted_bipred_idc
    writer.se(0); // pic_init_qp_minus26
    writer.se(0); // pic_init_qs_minus26
    writer.se(0); // chroma_qp_index_offset
    writer.flag(true); // deblocking_filter_control_present_flag
    writer.flag(false); // constrained_intra_pred_flag
    writer.flag(false); // redundant_pic_cnt_present_flag
    writer.trailing();
    let mut nal = vec![0x68];
    append_escaped(&mut nal, writer.drain(), &mut 0);
    nal
}

/// The lowest `level_idc` from 3 on that holds so many macroblocks a frame and a second (H.264 Table A-1).
fn level(frame_macroblocks: u32, fps: u32) -> u32 {
    const LEVELS: [(u32, u32, u32); 7] = [
        (30, 1_620, 40_500),
        (31, 3_600, 108_000),
        (32, 5_120, 216_000),
        (40, 8_192, 245_760),
        (42, 8_704, 522_240),
        (50, 22_080, 589_824),
        (51, 36_864, 983_040),
    ];
    let fits =
        |&&(_, frame, second): &&(u32, u32, u32)| frame_macroblocks <= frame && frame_macroblocks * fps <= second;
    LEVELS.iter().find(fits).map_or(52, |&(level, ..)| level)
}

/// xorshift64*: fast, and good enough that no two macroblocks are alike.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike, and the state must not be 0.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ mixed >> 31) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
