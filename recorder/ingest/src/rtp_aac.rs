//! RTP payloads to AAC frames (RFC 3640, mode AAC-hbr: 13-bit sizes, 3-bit indices).

use bytes::Bytes;
use framekeeper_media::{AudioFrame, MediaTime};

/// One RTP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) payload: &'a [u8],
    /// RTP time, unwrapped, of the first frame inside.
    pub(crate) pts: i64,
    pub(crate) marker: bool,
    /// Packets missing right before this one.
    pub(crate) lost: u64,
}

/// A payload that breaks RFC 3640, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

/// Puts AAC frames together.
#[derive(Debug)]
pub(crate) struct Depacketizer {
    /// Samples a frame, which is its duration in ticks.
    frame_samples: u32,
    /// A frame larger than a packet, with its whole size.
    partial: Option<(Vec<u8>, usize, i64)>,
}

const HEADER_BITS: usize = 16;

impl Depacketizer {
    /// For frames of `frame_samples` samples (1024 or 960).
    pub(crate) fn new(frame_samples: u32) -> Self {
        Self { frame_samples, partial: None }
    }

    /// Takes a packet and appends the frames that are whole by it.
    ///
    /// # Errors
    /// The payload could not be used. The stream goes on all the same.
    pub(crate) fn push(&mut self, packet: Packet<'_>, out: &mut Vec<AudioFrame>) -> Result<(), Malformed> {
        if packet.lost > 0 {
            self.partial = None;
        }
        let (bits, rest) = packet.payload.split_first_chunk::<2>().ok_or(Malformed("no AU-headers-length"))?;
        let bits = usize::from(u16::from_be_bytes(*bits));
        if bits == 0 || bits % HEADER_BITS != 0 {
            return Err(Malformed("AU-headers-length is not a multiple of 16"));
        }
        let (headers, mut data) = rest.split_at_checked(bits / 8).ok_or(Malformed("AU headers past the end"))?;
        let (headers, _) = headers.as_chunks::<2>();
        let size_of = |header: &[u8; 2]| usize::from(u16::from_be_bytes(*header) >> 3);

        if let [header] = headers
            && (self.partial.is_some() || size_of(header) > data.len())
        {
            return self.fragment(packet, size_of(header), data, out);
        }
        self.partial = None;
        let mut pts = packet.pts;
        for header in headers {
            let (frame, tail) = data.split_at_checked(size_of(header)).ok_or(Malformed("AU past the end"))?;
            if frame.is_empty() {
                return Err(Malformed("AU of no bytes"));
            }
            out.push(self.frame(Bytes::copy_from_slice(frame), pts));
            pts = pts.saturating_add(i64::from(self.frame_samples));
            data = tail;
        }
        Ok(())
    }

    fn frame(&self, data: Bytes, pts: i64) -> AudioFrame {
        AudioFrame { data, pts: MediaTime(pts), duration: self.frame_samples }
    }

    /// One frame over several packets: each has its whole size in the header (§3.2.3.2), at most 8191 bytes.
    fn fragment(
        &mut self,
        packet: Packet<'_>,
        size: usize,
        data: &[u8],
        out: &mut Vec<AudioFrame>,
    ) -> Result<(), Malformed> {
        let (mut partial, whole, pts) = match self.partial.take() {
            None => (Vec::with_capacity(size), size, packet.pts),
            Some(p) if p.1 == size && p.2 == packet.pts => p,
            Some(_) => return Err(Malformed("fragment of another frame")),
        };
        partial.extend_from_slice(data);
        match (partial.len().cmp(&whole), packet.marker) {
            (std::cmp::Ordering::Less, false) => self.partial = Some((partial, whole, pts)),
            (std::cmp::Ordering::Equal, _) => out.push(self.frame(Bytes::from(partial), pts)),
            _ => return Err(Malformed("fragments do not add up to the frame's size")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sizes: &[usize], data: &[u8]) -> Vec<u8> {
        let mut p = ((sizes.len() * 16) as u16).to_be_bytes().to_vec();
        for s in sizes {
            p.extend_from_slice(&((*s as u16) << 3).to_be_bytes());
        }
        p.extend_from_slice(data);
        p
    }

    fn push(
        d: &mut Depacketizer,
        payload: &[u8],
        pts: i64,
        marker: bool,
        lost: u64,
    ) -> Result<Vec<(i64, Vec<u8>)>, Malformed> {
        let mut out = Vec::new();
        d.push(Packet { payload, pts, marker, lost }, &mut out)?;
        Ok(out.into_iter().map(|f| (f.pts.0, f.data.to_vec())).collect())
    }

    #[test]
    fn several_frames_in_a_packet_follow_each_other() {
        let mut d = Depacketizer::new(1024);
        let got = push(&mut d, &packet(&[2, 1, 3], b"aabccc"), 7, true, 0).unwrap();
        assert_eq!(got, [(7, b"aa".to_vec()), (1031, b"b".to_vec()), (2055, b"ccc".to_vec())]);
    }

    #[test]
    fn a_frame_over_several_packets() {
        let mut d = Depacketizer::new(1024);
        assert_eq!(push(&mut d, &packet(&[5], b"abc"), 9, false, 0), Ok(vec![]));
        assert_eq!(push(&mut d, &packet(&[5], b"de"), 9, true, 0), Ok(vec![(9, b"abcde".to_vec())]));
        assert_eq!(push(&mut d, &packet(&[5], b"abc"), 9, false, 0), Ok(vec![]));
        // The rest is lost; the next frame is whole.
        assert_eq!(push(&mut d, &packet(&[2], b"xy"), 1033, true, 1), Ok(vec![(1033, b"xy".to_vec())]));
    }

    #[test]
    fn malformed_payloads_are_errors_and_the_next_is_fine() {
        for bad in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\x10",
            b"\0\x0fab",
            b"\xff\xf0ab",
            &packet(&[2, 9], b"aab"),
            &packet(&[0], b""),
        ] {
            let mut d = Depacketizer::new(1024);
            assert!(push(&mut d, bad, 1, true, 0).is_err(), "{bad:?}");
            assert_eq!(push(&mut d, &packet(&[1], b"a"), 3, true, 0), Ok(vec![(3, b"a".to_vec())]));
        }
        let mut d = Depacketizer::new(1024);
        push(&mut d, &packet(&[5], b"abc"), 9, false, 0).unwrap();
        assert!(push(&mut d, &packet(&[5], b"defg"), 9, true, 0).is_err());
        assert!(push(&mut d, &packet(&[9], b"abc"), 9, true, 0).is_err(), "marker, but not whole");
    }
}
