//! The parameter sets of a video track, from SDP and from the stream.

use bytes::Bytes;

/// The parameter sets in force.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct ParameterSets {
    pub(super) sps: Bytes,
    pub(super) pps: Vec<Bytes>,
}

impl ParameterSets {
    /// Takes in what came with a picture; true if anything is different now.
    pub(super) fn take(&mut self, sps: Vec<Bytes>, pps: Vec<Bytes>) -> bool {
        let before = self.clone();
        if let Some(sps) = sps.into_iter().next_back()
            && sps != self.sps
        {
            // PPSs belong to an SPS; those of the old one say nothing about the new one, unless no others come along.
            if !pps.is_empty() {
                self.pps.clear();
            }
            self.sps = sps;
        }
        for new in pps {
            match self.pps.iter_mut().find(|old| pps_id(old) == pps_id(&new)) {
                Some(old) => *old = new,
                None => self.pps.push(new),
            }
        }
        *self != before
    }
}

/// pic_parameter_set_id, ue(v), the first element of a PPS (H.264 §7.3.2.2).
fn pps_id(pps: &[u8]) -> Option<u32> {
    let bits = u32::from_be_bytes([*pps.get(1)?, *pps.get(2).unwrap_or(&0), *pps.get(3).unwrap_or(&0), 0]);
    let zeros = bits.leading_zeros();
    (zeros <= 8).then(|| (bits << zeros >> (31 - zeros)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: Bytes = Bytes::from_static(&[0x67, 1]);
    const PPS0: Bytes = Bytes::from_static(&[0x68, 0b1000_0000]);
    const PPS0B: Bytes = Bytes::from_static(&[0x68, 0b1100_0000]);
    const PPS1: Bytes = Bytes::from_static(&[0x68, 0b0100_0000]);

    #[test]
    fn pps_ids() {
        assert_eq!(pps_id(&PPS0), Some(0));
        assert_eq!(pps_id(&PPS1), Some(1));
        assert_eq!(pps_id(&[0x68, 0b0110_0000]), Some(2));
        assert_eq!(pps_id(&[0x68, 0, 0b1111_1111, 0x80]), Some(510));
        assert_eq!(pps_id(&[0x68]), None);
        assert_eq!(pps_id(&[0x68, 0, 0, 0]), None);
    }

    #[test]
    fn repeated_sets_change_nothing() {
        let mut s = ParameterSets { sps: SPS, pps: vec![PPS0, PPS1] };
        assert!(!s.take(vec![SPS], vec![PPS0]));
        assert!(!s.take(vec![SPS, SPS], vec![PPS1]));
        assert!(s.take(vec![], vec![PPS0B]));
        assert_eq!(s.pps, [PPS0B, PPS1]);
        assert!(s.take(vec![Bytes::from_static(&[0x67, 2])], vec![PPS0]));
        assert_eq!(s.pps, [PPS0], "another SPS brings its own PPSs");
    }
}
