//! RTP packets (RFC 3550), H.264 (RFC 6184) and AAC (RFC 3640) payloads, RTCP sender reports.
//!
//! A frame is packetised once; each session gets a copy with its own SSRC, sequence numbers and timestamps.

/// Bytes of the RTP header.
pub(crate) const HEADER_BYTES: usize = 12;

/// The packets of one frame, headers without sequence number, timestamp and SSRC.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    /// Packets in order, each from its RTP header on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let packet = &self.bytes[start..end];
            start = end;
            packet
        })
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    fn begin(&mut self, payload_type: u8, marker: bool) {
        self.bytes.extend_from_slice(&[0x80, u8::from(marker) << 7 | payload_type]);
        self.bytes.extend_from_slice(&[0; HEADER_BYTES - 2]);
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Packetises an access unit: single NAL unit packets and FU-A (RFC 6184 §5.6, §5.8).
    pub(crate) fn h264<'a>(&mut self, nals: impl Iterator<Item = &'a [u8]>, payload_type: u8, mtu: usize) {
        self.bytes.clear();
        self.ends.clear();
        let mut nals = nals.filter(|nal| !nal.is_empty()).peekable();
        while let Some(nal) = nals.next() {
            let last = nals.peek().is_none();
            if nal.len() <= mtu {
                self.begin(payload_type, last);
                self.bytes.extend_from_slice(nal);
                self.end();
                continue;
            }
            let (header, mut rest) = (nal[0], &nal[1..]);
            let mut start = true;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(mtu - 2));
                let end = later.is_empty();
                self.begin(payload_type, last && end);
                self.bytes.push(header & 0xe0 | 28);
                self.bytes.push(u8::from(start) << 7 | u8::from(end) << 6 | header & 0x1f);
                self.bytes.extend_from_slice(now);
                self.end();
                (rest, start) = (later, false);
            }
        }
    }

    /// Packetises one AAC frame: a packet with one AU header, or fragments (RFC 3640 §3.2, AAC-hbr §3.3.6).
    pub(crate) fn aac(&mut self, frame: &[u8], payload_type: u8, mtu: usize) {
        self.bytes.clear();
        self.ends.clear();
        let mut rest = frame;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(mtu - 4));
            self.begin(payload_type, later.is_empty());
            // AU-headers-length in bits, then AU-size (of the whole frame) in 13 bits and AU-Index in 3.
            self.bytes.extend_from_slice(&[0, 16]);
            self.bytes.extend_from_slice(&((frame.len() as u16) << 3).to_be_bytes());
            self.bytes.extend_from_slice(now);
            self.end();
            rest = later;
        }
    }
}

/// One session's numbering of one track.
#[derive(Debug, Clone)]
pub(crate) struct Numbering {
    pub(crate) ssrc: u32,
    pub(crate) next_sequence: u16,
    pub(crate) timestamp_offset: u32,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

impl Numbering {
    /// The RTP timestamp of a media time in the track's clock.
    pub(crate) fn timestamp(&self, media_time: i64) -> u32 {
        (media_time as u32).wrapping_add(self.timestamp_offset)
    }

    /// Appends one packet, interleaved on `channel` (RFC 2326 §10.12), with this session's numbers.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, packet: &[u8], channel: u8, timestamp: u32) {
        out.extend_from_slice(&[b'$', channel]);
        out.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        let header = out.len();
        out.extend_from_slice(packet);
        out[header + 2..header + 4].copy_from_slice(&self.next_sequence.to_be_bytes());
        out[header + 4..header + 8].copy_from_slice(&timestamp.to_be_bytes());
        out[header + 8..header + 12].copy_from_slice(&self.ssrc.to_be_bytes());
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add((packet.len() - HEADER_BYTES) as u32);
    }

    /// Appends a sender report with a CNAME (RFC 3550 §6.4.1), interleaved on `channel`.
    ///
    /// `wall_ns` (since the Unix epoch) and `timestamp` are the same moment.
    pub(crate) fn append_report(&self, out: &mut Vec<u8>, channel: u8, wall_ns: i64, timestamp: u32) {
        let cname = b"ledger-camera";
        let sdes_words = (4 + 2 + cname.len() + 1).div_ceil(4) as u16;
        let total = 28 + 4 + 4 * sdes_words;
        out.extend_from_slice(&[b'$', channel]);
        out.extend_from_slice(&total.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(&[0x80, 200, 0, 6]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&ntp(wall_ns).to_be_bytes());
        for word in [timestamp, self.packets, self.octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&[0x81, 202]);
        out.extend_from_slice(&sdes_words.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&[1, cname.len() as u8]);
        out.extend_from_slice(cname);
        out.resize(start + usize::from(total), 0);
    }
}

/// The NTP timestamp (RFC 3550 §4) of a time since the Unix epoch.
fn ntp(wall_ns: i64) -> u64 {
    const UNIX_EPOCH_SECONDS: u64 = 2_208_988_800;
    let seconds = wall_ns.div_euclid(1_000_000_000) as u64 + UNIX_EPOCH_SECONDS;
    let fraction = ((wall_ns.rem_euclid(1_000_000_000) as u128) << 32) / 1_000_000_000;
    seconds << 32 | fraction as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_units_are_whole_or_fragmented_and_the_last_packet_is_marked() {
        let long: Vec<u8> = std::iter::once(0x65).chain((0..250).map(|b| b as u8)).collect();
        let mut packets = Packets::default();
        packets.h264([&[0x67, 1, 2][..], &long].into_iter(), 96, 100);
        let all: Vec<_> = packets.iter().collect();
        assert_eq!(all.len(), 4);
        assert_eq!((all[0][1], &all[0][12..]), (96, &[0x67, 1, 2][..]));
        assert_eq!(all[1][12..15], [0x7c, 0x85, 0]);
        assert_eq!(all[2][12..14], [0x7c, 0x05]);
        assert_eq!(all[3][12..14], [0x7c, 0x45]);
        assert_eq!([all[1][1], all[2][1], all[3][1]], [96, 96, 0x80 | 96]);
        let rebuilt: Vec<u8> = all[1..].iter().flat_map(|packet| &packet[14..]).copied().collect();
        assert_eq!(rebuilt, long[1..]);
    }

    #[test]
    fn an_aac_frame_has_one_header_even_in_fragments() {
        let mut packets = Packets::default();
        packets.aac(&[7; 150], 97, 104);
        let all: Vec<_> = packets.iter().collect();
        assert_eq!(all[0][12..17], [0, 16, (150u16 << 3 >> 8) as u8, (150u16 << 3) as u8, 7]);
        assert_eq!((all[0][1], all[1][1]), (97, 0x80 | 97));
        assert_eq!(all.iter().map(|packet| packet.len() - 16).sum::<usize>(), 150);
    }

    #[test]
    fn sequence_and_timestamp_wrap() {
        let mut numbering =
            Numbering { ssrc: 1, next_sequence: u16::MAX, timestamp_offset: u32::MAX, packets: 0, octets: 0 };
        let (mut out, mut packets) = (Vec::new(), Packets::default());
        packets.aac(&[1; 10], 97, 1400);
        for packet in packets.iter() {
            let timestamp = numbering.timestamp(2);
            numbering.append(&mut out, packet, 2, timestamp);
        }
        assert_eq!(numbering.next_sequence, 0);
        assert_eq!(out[..4], [b'$', 2, 0, 26]);
        assert_eq!(out[6..16], [0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn sender_reports_are_whole_words_and_tell_ntp_time() {
        let numbering = Numbering { ssrc: 1, next_sequence: 0, timestamp_offset: 0, packets: 2, octets: 3 };
        let mut out = Vec::new();
        numbering.append_report(&mut out, 1, 1_500_000_000, 5);
        assert_eq!(out.len() % 4, 0);
        assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), out.len() - 4);
        assert_eq!(out[12..20], (2_208_988_801u64 << 32 | 1 << 31).to_be_bytes());
        let sdes = 4 + 28;
        let words = usize::from(u16::from_be_bytes([out[sdes + 2], out[sdes + 3]]));
        assert_eq!(sdes + 4 + 4 * words, out.len());
    }
}
