//! RTP payloads to H.264 access units (RFC 6184, packetization modes 0 and 1).
//!
//! Never gives up on a stream: a payload that makes no sense costs the picture it belongs to, which is counted, and the next picture
//! says that something is missing before it.

use bytes::Bytes;

/// Largest access unit that is put together; ten times a key frame at 50 Mbit/s. A camera that never ends a picture must not
/// fill the memory.
pub(crate) const MAX_ACCESS_UNIT_BYTES: usize = 16 << 20;

/// Largest SPS or PPS that is kept; real ones are below 100 bytes.
const MAX_PARAMETER_SET_BYTES: usize = 4096;

/// PPSs kept of one picture; more than any encoder uses.
const MAX_PARAMETER_SETS: usize = 32;

/// Room for a picture in progress that is kept for the next one; key frames need more for a moment.
const KEPT_ROOM_BYTES: usize = 64 << 10;

/// One RTP packet, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) payload: &'a [u8],
    /// RTP time, unwrapped.
    pub(crate) pts: i64,
    pub(crate) marker: bool,
    /// Packets missing right before this one, by sequence number.
    pub(crate) lost: u64,
}

/// A picture that is whole.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// NAL units behind 4-byte lengths, without parameter sets, delimiters and filler.
    pub(crate) data: Bytes,
    pub(crate) pts: i64,
    /// Packets lost or unusable since the unit before.
    pub(crate) lost: u64,
    /// SPSs sent with this picture, in order.
    pub(crate) sps: Vec<Bytes>,
    /// PPSs sent with this picture, in order.
    pub(crate) pps: Vec<Bytes>,
}

/// A payload that breaks RFC 6184, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

/// Puts access units together.
#[derive(Debug, Default)]
pub(crate) struct Depacketizer {
    /// The picture in progress; its memory is used again for the next one.
    data: Vec<u8>,
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
    pts: i64,
    /// A picture is in progress.
    open: bool,
    has_slice: bool,
    damaged: bool,
    /// Offset in `data` of the length of the NAL unit whose fragments are coming in.
    fragmented: Option<usize>,
    /// Packets were lost before this picture, so it may lack its beginning.
    doubtful: bool,
    lost: u64,
    damaged_units: u64,
}

impl Depacketizer {
    /// Pictures left out so far.
    pub(crate) fn damaged_units(&self) -> u64 {
        self.damaged_units
    }

    /// Takes a packet; at most two units come of it (the one it ends by being of another time, and its own).
    ///
    /// # Errors
    /// The payload could not be used. The stream goes on all the same.
    pub(crate) fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Unit>) -> Result<(), Malformed> {
        if packet.lost > 0 {
            self.lost = self.lost.saturating_add(packet.lost);
            self.doubtful |= !self.open;
            self.damaged |= self.open;
        }
        if self.open && packet.pts != self.pts {
            if self.has_slice || self.damaged {
                // Without a marker the change of time ends a picture (§5.1), unless a fragment is missing its end.
                self.damaged |= self.fragmented.is_some();
                let doubtful = packet.lost > 0;
                self.finish(out);
                self.doubtful = doubtful;
            } else {
                // Parameter sets and SEI that were sent with a time of their own belong to the picture that follows.
                self.pts = packet.pts;
            }
        }
        if !self.open {
            self.open = true;
            self.pts = packet.pts;
        }
        let result = if self.damaged { Ok(()) } else { self.payload(packet.payload) };
        if let Err(Malformed(_)) = result {
            self.damaged = true;
            self.lost = self.lost.saturating_add(1);
        }
        if self.data.len() > MAX_ACCESS_UNIT_BYTES {
            self.damaged = true;
            self.data = Vec::new();
        }
        if packet.marker && (self.has_slice || self.damaged) {
            // A marker on parameter sets alone is a known fault of cameras; those are kept for the picture.
            self.damaged |= self.fragmented.is_some();
            self.finish(out);
        }
        result
    }

    fn finish(&mut self, out: &mut Vec<Unit>) {
        let (sps, pps) = (std::mem::take(&mut self.sps), std::mem::take(&mut self.pps));
        if self.damaged {
            self.damaged_units += 1;
            // The next picture says that something is missing, also when nothing was by sequence number.
            self.lost = self.lost.max(1);
        } else {
            // Pictures stay in memory for a GOP and longer, and the budget counts their bytes: each gets just these. To grow a buffer and to give
            // back the rest of it left holes between the pictures that were of no use to others; this copy is one within the cache.
            let data = Bytes::copy_from_slice(&self.data);
            out.push(Unit { data, pts: self.pts, lost: std::mem::take(&mut self.lost), sps, pps });
        }
        if self.data.capacity() > KEPT_ROOM_BYTES {
            self.data = Vec::new();
        }
        self.data.clear();
        self.open = false;
        self.has_slice = false;
        self.damaged = false;
        self.doubtful = false;
        self.fragmented = None;
    }

    fn payload(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let &header = payload.first().ok_or(Malformed("empty RTP payload"))?;
        if header & 0x80 != 0 {
            return Err(Malformed("forbidden_zero_bit is set"));
        }
        let kind = header & 0x1f;
        if self.fragmented.is_some() && kind != FU_A {
            return Err(Malformed("NAL unit inside a fragmented one"));
        }
        match kind {
            1..=23 => self.whole(payload),
            STAP_A => {
                let mut rest = payload.get(1..).unwrap_or_default();
                while let Some((length, tail)) = rest.split_first_chunk::<2>() {
                    let length = usize::from(u16::from_be_bytes(*length));
                    let (nal, tail) = tail.split_at_checked(length).ok_or(Malformed("STAP-A: length past the end"))?;
                    if nal.is_empty() {
                        return Err(Malformed("STAP-A: NAL unit of no bytes"));
                    }
                    self.whole(nal)?;
                    rest = tail;
                }
                if rest.is_empty() { Ok(()) } else { Err(Malformed("STAP-A: a byte too many")) }
            }
            FU_A => self.fragment(header, payload),
            _ => Err(Malformed("payload structure of interleaved mode, or a reserved one")),
        }
    }

    fn fragment(&mut self, indicator: u8, payload: &[u8]) -> Result<(), Malformed> {
        let (&fu_header, body) =
            payload.get(1..).and_then(<[u8]>::split_first).ok_or(Malformed("FU-A: no FU header"))?;
        let (start, end) = (fu_header & 0x80 != 0, fu_header & 0x40 != 0);
        let at = match (start, self.fragmented) {
            (true, None) => {
                let at = self.begin();
                self.data.push(indicator & 0xe0 | fu_header & 0x1f);
                self.fragmented = Some(at);
                at
            }
            (false, Some(at)) => at,
            (true, Some(_)) => return Err(Malformed("FU-A: start while another is not ended")),
            (false, None) => return Err(Malformed("FU-A: no start")),
        };
        self.data.extend_from_slice(body);
        if end {
            self.fragmented = None;
            return self.end(at);
        }
        Ok(())
    }

    fn whole(&mut self, nal: &[u8]) -> Result<(), Malformed> {
        let at = self.begin();
        self.data.extend_from_slice(nal);
        self.end(at)
    }

    /// Makes room for a NAL unit's length; returns where.
    fn begin(&mut self) -> usize {
        let at = self.data.len();
        self.data.extend_from_slice(&[0; 4]);
        at
    }

    /// A NAL unit is whole: fills in its length, or takes it out where it does not belong into a sample.
    fn end(&mut self, at: usize) -> Result<(), Malformed> {
        let nal = self.data.get(at + 4..).unwrap_or_default();
        let header = nal.first().copied().unwrap_or(0);
        match header & 0x1f {
            1..=5 => {
                // first_mb_in_slice is 0, one bit "1", in a picture's first slice (§7.3.3; arbitrary slice order is of no camera).
                let first = nal.get(1).is_some_and(|byte| byte & 0x80 != 0);
                if self.doubtful && !self.has_slice && !first {
                    self.damaged = true;
                }
                self.has_slice = true;
            }
            kind @ (7 | 8) => {
                let set = Bytes::copy_from_slice(trim_zeros(nal));
                self.data.truncate(at);
                let sets = if kind == 7 { &mut self.sps } else { &mut self.pps };
                if set.len() > MAX_PARAMETER_SET_BYTES || sets.len() >= MAX_PARAMETER_SETS {
                    return Err(Malformed("parameter set too long, or too many of them"));
                }
                sets.push(set);
                return Ok(());
            }
            // Delimiters, ends of sequence and stream, filler, SPS extension and subset: no place in a sample (ISO/IEC 14496-15 §5.3.2).
            9..=13 | 15 => {
                self.data.truncate(at);
                return Ok(());
            }
            0 | 24..=31 => return Err(Malformed("NAL unit type that no stream may have")),
            _ => {}
        }
        let length = u32::try_from(nal.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.data.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Zero bytes behind a parameter set are no part of it; SDP and stream often differ in them.
fn trim_zeros(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    nal.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_SLICE: &[u8] = &[0x65, 0x88, 1, 2, 3];
    const LATER_SLICE: &[u8] = &[0x65, 0x10, 1, 2, 3];

    #[derive(Default)]
    struct Run {
        d: Depacketizer,
        out: Vec<Unit>,
        errors: Vec<Malformed>,
    }

    impl Run {
        fn push(&mut self, payload: &[u8], pts: i64, marker: bool, lost: u64) -> &mut Self {
            if let Err(e) = self.d.push(Packet { payload, pts, marker, lost }, &mut self.out) {
                self.errors.push(e);
            }
            self
        }
        fn shapes(&self) -> Vec<(i64, usize, u64)> {
            self.out.iter().map(|u| (u.pts, u.data.len(), u.lost)).collect()
        }
    }

    fn fu(header: u8, start: bool, end: bool, body: &[u8]) -> Vec<u8> {
        let flags = if start { 0x80 } else { 0 } | if end { 0x40 } else { 0 };
        [&[header & 0xe0 | 28, flags | header & 0x1f], body].concat()
    }

    #[test]
    fn one_packet_is_one_picture() {
        let mut r = Run::default();
        r.push(FIRST_SLICE, 90, true, 0);
        assert_eq!(r.out.len(), 1);
        assert_eq!(&r.out[0].data[..], &[&[0, 0, 0, 5], FIRST_SLICE].concat()[..]);
    }

    #[test]
    fn fragments_and_aggregates_make_one_picture_and_sets_are_taken_out() {
        let mut r = Run::default();
        let stap = [&[24, 0, 3][..], &[0x67, 1, 2], &[0, 4], &[0x68, 3, 0, 0], &[0, 2], &[0x06, 9]].concat();
        r.push(&[0x09, 0xf0], 5, false, 0).push(&stap, 5, false, 0);
        r.push(&fu(0x65, true, false, &[0x88, 1]), 5, false, 0);
        r.push(&fu(0x65, false, false, &[2, 3]), 5, false, 0);
        r.push(&fu(0x65, false, true, &[4]), 5, true, 0);
        assert!(r.errors.is_empty());
        assert_eq!(r.out.len(), 1);
        assert_eq!(&r.out[0].data[..], &[0, 0, 0, 2, 6, 9, 0, 0, 0, 6, 0x65, 0x88, 1, 2, 3, 4]);
        assert_eq!(r.out[0].sps, vec![Bytes::from_static(&[0x67, 1, 2])]);
        assert_eq!(r.out[0].pps, vec![Bytes::from_static(&[0x68, 3])], "trailing zeros are gone");
    }

    #[test]
    fn without_markers_time_ends_a_picture() {
        let mut r = Run::default();
        r.push(FIRST_SLICE, 1, false, 0).push(LATER_SLICE, 1, false, 0).push(FIRST_SLICE, 2, false, 0);
        assert_eq!(r.shapes(), [(1, 18, 0)]);
    }

    #[test]
    fn a_marker_on_parameter_sets_does_not_end_a_picture() {
        let mut r = Run::default();
        r.push(&[0x67, 1], 1, true, 0).push(&[0x68, 1], 1, true, 0).push(FIRST_SLICE, 2, true, 0);
        assert_eq!(r.shapes(), [(2, 9, 0)]);
        assert_eq!((r.out[0].sps.len(), r.out[0].pps.len()), (1, 1));
    }

    #[test]
    fn loss_costs_the_picture_it_hit_and_is_told_with_the_next() {
        let mut r = Run::default();
        r.push(FIRST_SLICE, 1, true, 0);
        r.push(&fu(0x65, true, false, &[0x88, 1]), 2, false, 0);
        r.push(&fu(0x65, false, true, &[1]), 2, true, 3);
        r.push(FIRST_SLICE, 3, true, 0).push(FIRST_SLICE, 4, true, 0);
        assert_eq!(r.shapes(), [(1, 9, 0), (3, 9, 3), (4, 9, 0)]);
        assert_eq!(r.d.damaged_units(), 1);
    }

    #[test]
    fn loss_between_pictures_hits_the_one_that_lacks_its_first_slice() {
        let mut r = Run::default();
        r.push(FIRST_SLICE, 1, true, 0);
        r.push(LATER_SLICE, 2, true, 1).push(FIRST_SLICE, 3, true, 0);
        assert_eq!(r.shapes(), [(1, 9, 0), (3, 9, 1)]);
        // A whole picture was lost: what follows is whole.
        r.push(FIRST_SLICE, 5, true, 2);
        assert_eq!(r.shapes()[2], (5, 9, 2));
        // The end of one and the beginning of the next.
        r.push(FIRST_SLICE, 6, false, 0).push(LATER_SLICE, 7, true, 1).push(FIRST_SLICE, 8, true, 0);
        assert_eq!(r.shapes()[3..], [(8, 9, 1)]);
        assert_eq!(r.d.damaged_units(), 3);
    }

    #[test]
    fn malformed_payloads_cost_one_picture_each_and_never_the_stream() {
        let bad: [&[u8]; 12] = [
            &[],
            &[0x80 | 0x65, 1],
            &[24, 0],
            &[24, 0, 9, 1],
            &[24, 0, 0],
            &[25, 1, 1],
            &[30],
            &[0],
            &[28],
            &[28, 0x05, 1],
            &[28, 0x80, 1, 2],
            &[29, 0x85, 1],
        ];
        for payload in bad {
            let mut r = Run::default();
            r.push(FIRST_SLICE, 1, true, 0).push(FIRST_SLICE, 2, false, 0).push(payload, 2, false, 0);
            r.push(LATER_SLICE, 2, true, 0).push(FIRST_SLICE, 3, true, 0).push(FIRST_SLICE, 4, true, 0);
            if payload == [28, 0x80, 1, 2] {
                // A fragment that is only begun is found out by what follows it.
                assert_eq!(r.errors.len(), 1);
            }
            assert_eq!(r.errors.len(), 1, "{payload:?}");
            assert_eq!(r.shapes(), [(1, 9, 0), (3, 9, 1), (4, 9, 0)], "{payload:?}");
        }
    }

    /// The budget of memory counts frames' bytes, so there must not be more than these.
    #[test]
    fn pictures_take_no_more_memory_than_their_bytes() {
        let mut r = Run::default();
        for (pts, packets) in [1, 90, 2, 3, 700, 1, 40].into_iter().enumerate() {
            let pts = i64::try_from(pts).unwrap();
            for n in 0..packets {
                assert!(r.d.data.capacity() <= KEPT_ROOM_BYTES || n > 0);
                let body = vec![0x80; 1400];
                r.push(&fu(0x65, n == 0, n + 1 == packets, &body), pts, n + 1 == packets, 0);
            }
        }
        assert_eq!(r.out.len(), 7);
        for unit in r.out {
            let memory = unit.data.try_into_mut().expect("nobody else has it");
            assert_eq!(memory.capacity(), memory.len());
        }
    }

    #[test]
    fn a_picture_that_never_ends_is_bounded() {
        let mut r = Run::default();
        r.push(&fu(0x65, true, false, &[0x88]), 1, false, 0);
        let body = vec![0x55; 60_000];
        let mut most = 0;
        for _ in 0..1000 {
            r.push(&fu(0x65, false, false, &body), 1, false, 0);
            most = most.max(r.d.data.capacity());
        }
        assert!(most <= 2 * MAX_ACCESS_UNIT_BYTES + 100_000, "{most}");
        r.push(FIRST_SLICE, 2, true, 0);
        assert_eq!(r.shapes(), [(2, 9, 1)]);
    }

    #[test]
    fn random_payloads_never_panic() {
        let mut x = 1_u64;
        let mut r = Run::default();
        for i in 0..200_000 {
            let bytes: Vec<u8> = (0..i % 9)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (x >> 56) as u8
                })
                .collect();
            r.push(&bytes, (x >> 40) as i64 % 3, x >> 60 == 0, u64::from(x >> 59 == 0));
            r.out.clear();
        }
        assert!(!r.errors.is_empty());
    }
}
