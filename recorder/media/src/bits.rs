//! Reading bit fields and Exp-Golomb codes (ISO/IEC 14496-10 §7.2, §9.1), never past the end.

/// The bits ended before the syntax did, or an Exp-Golomb code is longer than 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBits;

/// A cursor over bits, most significant first.
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn bit(&mut self) -> Result<bool, OutOfBits> {
        let byte = self.bytes.get(self.position / 8).ok_or(OutOfBits)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Ok(bit == 1)
    }

    /// `count` bits, at most 32.
    pub(crate) fn bits(&mut self, count: u32) -> Result<u32, OutOfBits> {
        let mut value: u64 = 0;
        for _ in 0..count.min(32) {
            value = value << 1 | u64::from(self.bit()?);
        }
        u32::try_from(value).map_err(|_| OutOfBits)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, OutOfBits> {
        self.bits(8).and_then(|value| u8::try_from(value).map_err(|_| OutOfBits))
    }

    /// ue(v): unsigned Exp-Golomb.
    pub(crate) fn ue(&mut self) -> Result<u32, OutOfBits> {
        let mut zeros = 0u32;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return Err(OutOfBits);
            }
        }
        let suffix = u64::from(self.bits(zeros)?);
        u32::try_from((1u64 << zeros) - 1 + suffix).map_err(|_| OutOfBits)
    }

    /// se(v): signed Exp-Golomb.
    pub(crate) fn se(&mut self) -> Result<i32, OutOfBits> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        i32::try_from(if code % 2 == 1 { magnitude } else { -magnitude }).map_err(|_| OutOfBits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_of_the_standards_table() {
        // 1, 010, 011, 00100, 00101, 00110, 00111 = 0..6, then padding
        let bytes = [0b1010_0110, 0b0100_0010, 0b1001_1000, 0b1110_0000];
        let mut reader = BitReader::new(&bytes);
        let read: Vec<u32> = (0..7).map(|_| reader.ue().unwrap()).collect();
        assert_eq!(read, [0, 1, 2, 3, 4, 5, 6]);
        let mut reader = BitReader::new(&bytes);
        let read: Vec<i32> = (0..7).map(|_| reader.se().unwrap()).collect();
        assert_eq!(read, [0, 1, -1, 2, -2, 3, -3]);
    }

    #[test]
    fn an_endless_code_and_the_end_are_errors() {
        assert_eq!(BitReader::new(&[0; 16]).ue(), Err(OutOfBits));
        assert_eq!(BitReader::new(&[]).bit(), Err(OutOfBits));
        assert_eq!(BitReader::new(&[0xff]).bits(9), Err(OutOfBits));
    }
}
