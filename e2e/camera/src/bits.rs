//! Bits and NAL units: what H.264 clause 7 and 9 need to be written, and nothing to be read.

/// Writes bits, most significant first, into a byte vector.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, right-aligned; fewer than 8 of them between calls.
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// Appends the low `count` bits of `value`; `count` ≤ 32.
    pub(crate) fn bits(&mut self, value: u32, count: u32) {
        debug_assert!(count <= 32);
        let mask = (1u64 << count) - 1;
        self.pending = (self.pending << count) | (u64::from(value) & mask);
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.pending_bits -= 8;
            self.bytes.push((self.pending >> self.pending_bits) as u8);
        }
        self.pending &= (1 << self.pending_bits) - 1;
    }

    /// Appends one flag.
    pub(crate) fn flag(&mut self, value: bool) {
        self.bits(u32::from(value), 1);
    }

    /// Appends `ue(v)`, an unsigned Exp-Golomb code (H.264 clause 9.1).
    pub(crate) fn ue(&mut self, value: u32) {
        let code = u64::from(value) + 1;
        let length = 64 - code.leading_zeros();
        self.bits(0, length - 1);
        self.bits(code as u32, length.min(32));
    }

    /// Appends `se(v)`, a signed Exp-Golomb code (H.264 clause 9.1.1).
    pub(crate) fn se(&mut self, value: i32) {
        self.ue(if value > 0 { 2 * value as u32 - 1 } else { 2 * value.unsigned_abs() });
    }

    /// Pads with zero bits to the next byte.
    pub(crate) fn align(&mut self) {
        if self.pending_bits > 0 {
            self.bits(0, 8 - self.pending_bits);
        }
    }

    /// Appends `rbsp_trailing_bits()` (H.264 clause 7.3.2.11).
    pub(crate) fn trailing(&mut self) {
        self.bits(1, 1);
        self.align();
    }

    /// Hands over the whole bytes written so far and forgets them. Call after [`Self::align`].
    pub(crate) fn drain(&mut self) -> std::vec::Drain<'_, u8> {
        debug_assert_eq!(self.pending_bits, 0);
        self.bytes.drain(..)
    }
}

/// Appends `payload` to `out` with the emulation prevention of H.264 clause 7.4.1.
///
/// `zeros` counts the zero bytes at the end of what the NAL unit holds already and is kept up to date, so that a NAL
/// unit can be written in pieces.
pub(crate) fn append_escaped(out: &mut Vec<u8>, payload: impl IntoIterator<Item = u8>, zeros: &mut u32) {
    for byte in payload {
        if *zeros >= 2 && byte <= 3 {
            out.push(3);
            *zeros = 0;
        }
        out.push(byte);
        *zeros = if byte == 0 { *zeros + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BitWriter)) -> Vec<u8> {
        let mut writer = BitWriter::default();
        write(&mut writer);
        writer.trailing();
        writer.drain().collect()
    }

    #[test]
    fn exp_golomb_codes_are_those_of_table_9_2() {
        // 1, 010, 011, 00100, then the stop bit: 1010 0110 0100 1000
        assert_eq!(
            written(|w| {
                for value in 0..4 {
                    w.ue(value);
                }
            }),
            [0b1010_0110, 0b0100_1000]
        );
        // 0, +1, −1, +2 map to 0, 1, 2, 3
        let signed = written(|w| [0, 1, -1, 2].into_iter().for_each(|value| w.se(value)));
        assert_eq!(signed, [0b1010_0110, 0b0100_1000]);
        assert_eq!(written(|w| w.ue(8159)), [0, 0b0000_1111, 0b1111_0000, 0b0100_0000]);
    }

    #[test]
    fn emulation_is_prevented_across_pieces() {
        let (mut out, mut zeros) = (Vec::new(), 0);
        append_escaped(&mut out, [0, 0], &mut zeros);
        append_escaped(&mut out, [1, 0, 0, 0, 4], &mut zeros);
        assert_eq!(out, [0, 0, 3, 1, 0, 0, 3, 0, 4]);
    }
}
