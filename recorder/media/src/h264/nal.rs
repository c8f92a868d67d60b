//! NAL units of a frame: splitting, and what kind of frame they make.

use bytes::Bytes;

use super::H264Error;
use super::sps::unescape;
use crate::bits::BitReader;
use crate::unit::FrameFlags;

/// How much of an SEI NAL unit is looked at: a recovery point stands far before that.
const SEI_BYTES_READ: usize = 1024;

/// nal_unit_type (ISO/IEC 14496-10 Table 7-1) of a NAL unit's header byte.
pub(crate) fn nal_type(header: u8) -> u8 {
    header & 0x1f
}

/// Without the zero bytes it ends with (trailing_zero_8bits and cabac_zero_words' ends are not content).
pub(crate) fn strip_trailing_zeros(nal: &[u8]) -> &[u8] {
    let kept = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    nal.get(..kept).unwrap_or_default()
}

/// What a frame's NAL units are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NalSummary {
    /// A slice of an IDR picture (type 5).
    pub idr: bool,
    /// recovery_frame_cnt of a recovery point SEI message (§D.2.8).
    pub recovery_frame_cnt: Option<u32>,
    /// NAL units of types 1 to 5.
    pub vcl_nals: u32,
    /// A sequence parameter set (type 7) is inside.
    pub sps: bool,
    /// A picture parameter set (type 8) is inside.
    pub pps: bool,
    /// Lengths do not add up: what is behind the last whole NAL unit was left out.
    pub malformed: bool,
}

impl NalSummary {
    /// Takes one NAL unit in. Returns whether it is VCL.
    pub(crate) fn add(&mut self, nal: &[u8]) -> bool {
        let Some(&header) = nal.first() else { return false };
        match nal_type(header) {
            kind @ 1..=5 => {
                self.idr |= kind == 5;
                self.vcl_nals = self.vcl_nals.saturating_add(1);
                return true;
            }
            6 if self.recovery_frame_cnt.is_none() => self.recovery_frame_cnt = recovery_frame_cnt(nal),
            7 => self.sps = true,
            8 => self.pps = true,
            _ => {}
        }
        false
    }
}

/// The NAL units of a frame whose NAL units stand behind 4-byte lengths (ISO/IEC 14496-15 §5.3.2). Ends behind the first error.
pub fn split_nals(data: &[u8]) -> impl Iterator<Item = Result<&[u8], H264Error>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let left = rest.len();
        let Some((length, tail)) = rest.split_first_chunk::<4>() else {
            rest = &[];
            return Some(Err(H264Error::NalLength { length: 4, left }));
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        match tail.split_at_checked(length) {
            Some((nal, tail)) if length > 0 => {
                rest = tail;
                Some(Ok(nal))
            }
            _ => {
                rest = &[];
                Some(Err(H264Error::NalLength { length, left: tail.len() }))
            }
        }
    })
}

/// What the NAL units of a frame (behind 4-byte lengths) are.
#[must_use]
pub fn classify(data: &[u8]) -> NalSummary {
    let mut summary = NalSummary::default();
    for nal in split_nals(data) {
        match nal {
            Ok(nal) => {
                summary.add(nal);
            }
            Err(_) => summary.malformed = true,
        }
    }
    summary
}

/// The flags that follow from a frame's NAL units: random access, sync, and incomplete where lengths do not add up or no slice is there.
#[must_use]
pub fn random_access_flags(summary: &NalSummary) -> FrameFlags {
    let mut flags = FrameFlags::default();
    if summary.idr {
        flags = flags.with(FrameFlags::RANDOM_ACCESS).with(FrameFlags::SYNC);
    } else if summary.recovery_frame_cnt == Some(0) && summary.vcl_nals > 0 {
        flags = flags.with(FrameFlags::RANDOM_ACCESS);
    }
    if summary.malformed || summary.vcl_nals == 0 {
        flags = flags.with(FrameFlags::INCOMPLETE);
    }
    flags
}

/// recovery_frame_cnt, where the SEI NAL unit has a recovery point message (payloadType 6; §7.3.2.3.1, §D.1.8).
fn recovery_frame_cnt(nal: &[u8]) -> Option<u32> {
    let payload = nal.get(1..nal.len().min(SEI_BYTES_READ))?;
    let rbsp = unescape(payload);
    let mut rest = rbsp.as_slice();
    // The stop bit stands alone in the last byte: no message is shorter than two bytes.
    while rest.len() > 2 {
        let kind = sei_number(&mut rest)?;
        let size = sei_number(&mut rest)?;
        if kind == 6 {
            return BitReader::new(rest).ue().ok();
        }
        rest = rest.get(size..)?;
    }
    None
}

/// ff_byte … last_byte (§7.3.2.3.1).
fn sei_number(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value += usize::from(byte);
        if byte != 0xff {
            return Some(value);
        }
    }
}

/// first_mb_in_slice (§7.3.3) of a slice NAL unit: 0 where a picture begins. `None` for other types.
#[must_use]
pub fn first_mb_in_slice(nal: &[u8]) -> Option<u32> {
    let (&header, payload) = nal.split_first()?;
    // The first syntax element takes at most 4 bytes in a picture of 2^20 macroblocks, with one emulation byte.
    let head = unescape(payload.get(..payload.len().min(8))?);
    if matches!(nal_type(header), 1 | 2 | 5) { BitReader::new(&head).ue().ok() } else { None }
}

/// The NAL units of an Annex B byte stream: between start codes, without zero bytes at their ends; empty ones are left out.
pub fn split_annexb(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = next_start_code(stream).map(|(_, after)| after);
    std::iter::from_fn(move || {
        loop {
            let bytes = rest?;
            let nal = match next_start_code(bytes) {
                Some((before, after)) => {
                    rest = Some(after);
                    before
                }
                None => {
                    rest = None;
                    bytes
                }
            };
            let nal = strip_trailing_zeros(nal);
            if !nal.is_empty() {
                return Some(nal);
            }
        }
    })
}

/// What lies before and behind the next `00 00 01`.
fn next_start_code(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(3).position(|window| window == [0, 0, 1])?;
    Some((bytes.get(..at)?, bytes.get(at + 3..)?))
}

/// An Annex B access unit with 4-byte lengths instead of start codes.
#[must_use]
pub fn annexb_to_avcc(stream: &[u8]) -> Bytes {
    let mut data = Vec::with_capacity(stream.len() + 16);
    for nal in split_annexb(stream) {
        data.extend_from_slice(&u32::try_from(nal.len()).unwrap_or(u32::MAX).to_be_bytes());
        data.extend_from_slice(nal);
    }
    Bytes::from(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], nal].concat()).collect()
    }

    #[test]
    fn recovery_points_count_only_without_frames_to_wait_for() {
        let slice: &[u8] = &[0x41, 0x9a];
        // payloadType 6, 1 byte, recovery_frame_cnt 0 and flags; then the same behind a user data message, and with 4 frames to wait for.
        let now: &[u8] = &[6, 6, 1, 0b1010_0000, 0x80];
        let behind: &[u8] = &[6, 5, 2, 0, 1, 6, 1, 0b1010_0000, 0x80];
        let later: &[u8] = &[6, 6, 1, 0b0010_1100, 0x80];
        let flags = |nals: &[&[u8]]| random_access_flags(&classify(&frame(nals)));
        assert_eq!(flags(&[now, slice]), FrameFlags::RANDOM_ACCESS);
        assert_eq!(flags(&[behind, slice]), FrameFlags::RANDOM_ACCESS);
        assert_eq!(flags(&[later, slice]), FrameFlags::default());
        assert_eq!(classify(&frame(&[later, slice])).recovery_frame_cnt, Some(4));
        assert_eq!(flags(&[&[0x65, 0x88]]), FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC));
        assert_eq!(flags(&[now]), FrameFlags::INCOMPLETE, "a recovery point of no picture");
    }

    #[test]
    fn lengths_that_do_not_add_up() {
        let mut data = frame(&[&[0x65, 0x88], &[0x41]]);
        data.truncate(data.len() - 1);
        let summary = classify(&data);
        assert!(summary.malformed && summary.idr);
        assert!(random_access_flags(&summary).contains(FrameFlags::INCOMPLETE));
        let last = split_nals(&data).last().unwrap();
        assert_eq!(last, Err(H264Error::NalLength { length: 1, left: 0 }));
        assert_eq!(split_nals(&[0, 0]).count(), 1);
        assert_eq!(
            split_nals(&[0, 0, 0, 0, 0]).collect::<Vec<_>>(),
            [Err(H264Error::NalLength { length: 0, left: 1 })]
        );
    }

    #[test]
    fn annex_b_with_both_start_codes() {
        let stream =
            [&[0, 0, 0, 1, 0x67, 1][..], &[0, 0, 1, 0x68, 2, 0, 0], &[0, 0, 1], &[0, 0, 1, 0x65, 3, 0]].concat();
        assert_eq!(split_annexb(&stream).collect::<Vec<_>>(), [&[0x67, 1][..], &[0x68, 2], &[0x65, 3]]);
        assert_eq!(split_annexb(&[1, 2, 3]).count(), 0);
    }
}
