//! The two stamps that tell which frame something is: one in the bitstream (SEI), one in the picture.
//!
//! The picture's stamp lies at the top left: 9 rows of 8 macroblocks of 16 × 16 luma samples, black (near 16) or white
//! (near 235). Rows 0–7 are the frame number, most significant bit first; row 8 is a checksum of them.

use crate::bits::append_escaped;

/// The `uuid_iso_iec_11578` of our user_data_unregistered SEI messages (H.264 clause D.1.7).
pub const SEI_UUID: [u8; 16] = *b"frame-ledger-01\n";

/// Cells (macroblocks) a row of the picture's stamp.
pub(crate) const COLUMNS: usize = 8;
/// Rows of the picture's stamp, the checksum's included.
pub(crate) const ROWS: usize = 9;
/// Edge of a macroblock in luma samples.
const CELL: usize = 16;

/// The 72 cells for a frame number, row by row; `true` is white.
pub(crate) fn cells(number: u64) -> [bool; COLUMNS * ROWS] {
    let bytes = number.to_be_bytes();
    let sum = checksum(bytes);
    std::array::from_fn(|cell| {
        let byte = bytes.get(cell / COLUMNS).copied().unwrap_or(sum);
        byte >> (7 - cell % COLUMNS) & 1 == 1
    })
}

/// So that neither an all-black, an all-white nor an all-grey picture reads as a number.
fn checksum(bytes: [u8; 8]) -> u8 {
    bytes.iter().fold(0xA5u8, |sum, byte| sum.rotate_left(1) ^ byte)
}

/// Reads the frame number out of a decoded picture's luma plane of `stride` samples a row.
///
/// `None` if the picture has no stamp: too small, grey cells, or a wrong checksum.
pub fn read_stamp(luma: &[u8], stride: usize) -> Option<u64> {
    let mut bytes = [0u8; ROWS];
    for (row, byte) in bytes.iter_mut().enumerate() {
        for column in 0..COLUMNS {
            let mut sum = 0u32;
            for y in 4..CELL - 4 {
                let first = (row * CELL + y) * stride + column * CELL + 4;
                sum += luma.get(first..first + CELL - 8)?.iter().map(|&sample| u32::from(sample)).sum::<u32>();
            }
            let bit = match sum / 64 {
                0..=80 => 0,
                170.. => 1,
                _ => return None,
            };
            *byte = *byte << 1 | bit;
        }
    }
    let (sum, number) = bytes.split_last()?;
    let number = <[u8; 8]>::try_from(number).ok()?;
    (checksum(number) == *sum).then(|| u64::from_be_bytes(number))
}

/// Appends the SEI NAL unit (no start code) that stamps an access unit with its number and media time (90 kHz).
pub(crate) fn append_sei(out: &mut Vec<u8>, number: u64, media_time: i64) {
    out.push(0x06);
    let mut message = [0u8; 35];
    message[0] = 5; // payload type: user_data_unregistered
    message[1] = 32; // payload size
    message[2..18].copy_from_slice(&SEI_UUID);
    message[18..26].copy_from_slice(&number.to_be_bytes());
    message[26..34].copy_from_slice(&media_time.to_be_bytes());
    message[34] = 0x80; // rbsp_trailing_bits
    append_escaped(out, message, &mut 0);
}

/// Reads number and media time (90 kHz) from a SEI NAL unit (no start code) written by a ledger camera.
///
/// `None` for every other NAL unit.
pub fn read_sei(nal: &[u8]) -> Option<(u64, i64)> {
    let (&header, body) = nal.split_first()?;
    if header & 0x1f != 6 {
        return None;
    }
    let (mut message, mut zeros) = (Vec::with_capacity(body.len()), 0);
    for &byte in body {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        message.push(byte);
    }
    let payload = message.strip_prefix(&[5, 32])?.strip_prefix(&SEI_UUID)?;
    let number = u64::from_be_bytes(*payload.first_chunk()?);
    let media_time = i64::from_be_bytes(*payload.get(8..)?.first_chunk()?);
    Some((number, media_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sei_stamp_reads_back_whatever_zeros_it_has() {
        for (number, time) in [(0, 0), (1, 3600), (u64::MAX, i64::MIN), (0x0100_0000_0300_0001, 90_000)] {
            let mut nal = Vec::new();
            append_sei(&mut nal, number, time);
            assert!(!nal.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] <= 2), "start code inside {nal:?}");
            assert_eq!(read_sei(&nal), Some((number, time)));
        }
        assert_eq!(read_sei(&[0x67, 5, 32]), None);
    }

    #[test]
    fn a_drawn_stamp_reads_back_and_plain_pictures_have_none() {
        let draw = |number: u64| {
            let cells = cells(number);
            let mut luma = vec![0u8; 160 * 144];
            for (at, sample) in luma.iter_mut().enumerate() {
                let (x, y) = (at % 160, at / 160);
                let cell = (y / 16) * 8 + (x / 16).min(7);
                *sample = if cells[cell] { 230 } else { 20 };
            }
            luma
        };
        for number in [0, 1, 255, 1 << 40, u64::MAX] {
            assert_eq!(read_stamp(&draw(number), 160), Some(number));
        }
        for grey in [0u8, 16, 128, 235, 255] {
            assert_eq!(read_stamp(&vec![grey; 160 * 144], 160), None);
        }
        assert_eq!(read_stamp(&[0; 100], 160), None);
    }
}
