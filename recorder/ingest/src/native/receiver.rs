//! One track's RTP packets (RFC 3550 §5.1): which of them belong to the stream, what is missing between them, and their time. No I/O.
//!
//! TCP keeps packets in order, so one that comes late is none of this stream, and a gap is a loss. A packet that does not fit (another
//! SSRC, a sequence number far away) is kept back; if the next one continues it, the camera has begun anew, and both are taken (§A.1).

use rtp_types::RtpPacket;

use super::rtcp::{Block, SenderInfo};

/// Packets that are so far behind are late or doubled; further away is another beginning (MAX_MISORDER of §A.1).
const MAX_LATE: u16 = 100;

/// As many may be lost at once; a number further ahead may be nonsense (MAX_DROPOUT of §A.1).
const MAX_LOST: u16 = 3000;

/// RTCP packet types 200 to 204, with the marker bit where RTP has it (RFC 5761 §4).
const RTCP_PAYLOAD_TYPES: std::ops::RangeInclusive<u8> = 72..=76;

/// A packet that belongs to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) payload: &'a [u8],
    /// RTP time, unwrapped.
    pub(super) pts: i64,
    pub(super) marker: bool,
    /// Packets missing right before this one; 1 where nobody knows how many.
    pub(super) lost: u64,
}

/// A packet that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Breaks RFC 3550.
    #[error("not an RTP packet")]
    Malformed,
    /// Of another stream, or of the same one begun anew: the next packet tells.
    #[error("an RTP packet that does not continue the stream")]
    Foreign,
    /// Came before, or was given up as lost.
    #[error("an RTP packet that is late or doubled")]
    Late,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Receiver {
    clock_hz: u32,
    source: Option<Source>,
    kept_back: Option<KeptBack>,
    time: Timeline,
    last_report: Option<(SenderInfo, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    next_sequence: u16,
    /// Sequence numbers with their wraps, from the first one of this source on.
    first: u32,
    highest: u32,
    received: u32,
    /// As of the report before.
    expected_before: u32,
    received_before: u32,
    jitter: f64,
    /// RTP time and arrival of the last packet, both in ticks.
    last_transit: Option<f64>,
}

#[derive(Debug)]
struct KeptBack {
    ssrc: u32,
    next_sequence: u16,
    /// Packets missing before it, if it is taken.
    lost: u64,
    packet: Vec<u8>,
}

impl Receiver {
    /// For a track with this RTP clock.
    pub(super) fn new(clock_hz: u32) -> Self {
        Self { clock_hz, source: None, kept_back: None, time: Timeline::default(), last_report: None }
    }

    /// Takes what came on the track's channel; gives `accept` the packets that are to be used, at most two.
    pub(super) fn packet(
        &mut self,
        data: &[u8],
        now_us: u64,
        mut accept: impl FnMut(Packet<'_>),
    ) -> Result<(), Refused> {
        let packet = RtpPacket::parse(data).map_err(|_| Refused::Malformed)?;
        if RTCP_PAYLOAD_TYPES.contains(&packet.payload_type()) {
            return Err(Refused::Malformed);
        }
        let (ssrc, sequence) = (packet.ssrc(), packet.sequence_number());
        let lost = match &self.source {
            None => 0,
            Some(source) if source.ssrc == ssrc => {
                let lost = sequence.wrapping_sub(source.next_sequence);
                let behind = source.next_sequence.wrapping_sub(sequence);
                if lost <= MAX_LOST {
                    lost
                } else if behind <= MAX_LATE {
                    return Err(Refused::Late);
                } else {
                    // Half of all numbers are ahead, the others behind.
                    let lost = if lost < 0x8000 { lost } else { 1 };
                    return self.keep_back(&packet, data, lost.into(), now_us, accept);
                }
            }
            Some(_) => return self.keep_back(&packet, data, 1, now_us, accept),
        };
        self.kept_back = None;
        accept(self.take(&packet, lost.into(), now_us));
        Ok(())
    }

    /// A packet that does not continue the stream: with the one before it, it may begin another.
    fn keep_back(
        &mut self,
        packet: &RtpPacket<'_>,
        data: &[u8],
        lost: u64,
        now_us: u64,
        mut accept: impl FnMut(Packet<'_>),
    ) -> Result<(), Refused> {
        let (ssrc, sequence) = (packet.ssrc(), packet.sequence_number());
        match self.kept_back.take() {
            Some(kept) if (kept.ssrc, kept.next_sequence) == (ssrc, sequence) => {
                self.source = None;
                if let Ok(first) = RtpPacket::parse(&kept.packet) {
                    accept(self.take(&first, kept.lost, now_us));
                }
                accept(self.take(packet, 0, now_us));
                Ok(())
            }
            _ => {
                let next_sequence = sequence.wrapping_add(1);
                self.kept_back = Some(KeptBack { ssrc, next_sequence, lost, packet: data.to_vec() });
                Err(Refused::Foreign)
            }
        }
    }

    fn take<'a>(&mut self, packet: &'a RtpPacket<'a>, lost: u64, now_us: u64) -> Packet<'a> {
        let (sequence, clock_hz) = (packet.sequence_number(), f64::from(self.clock_hz));
        let pts = self.time.advance_to(packet.timestamp());
        let source = self.source.get_or_insert_with(|| Source::begun(packet.ssrc(), sequence));
        source.highest = source.highest.wrapping_add(u32::from(sequence.wrapping_sub(source.highest as u16)));
        source.next_sequence = sequence.wrapping_add(1);
        source.received = source.received.wrapping_add(1);
        // §A.8; arrival is known to a tick, so a tick's packets look as if they had come together.
        let transit = now_us as f64 * clock_hz / 1e6 - pts as f64;
        if let Some(before) = source.last_transit.replace(transit) {
            source.jitter += ((transit - before).abs() - source.jitter) / 16.0;
        }
        Packet { payload: packet.payload(), pts, marker: packet.marker_bit(), lost }
    }

    /// A sender report; `None` if it is about another source. Gives its RTP time, unwrapped.
    pub(super) fn report(&mut self, info: SenderInfo, now_us: u64) -> Option<i64> {
        if self.source.is_some_and(|source| source.ssrc != info.ssrc) {
            return None;
        }
        self.last_report = Some((info, now_us));
        Some(self.time.place(info.rtp_time))
    }

    /// What a receiver report says now; `None` before the first packet.
    pub(super) fn block(&mut self, now_us: u64) -> Option<Block> {
        let source = self.source.as_mut()?;
        let expected = source.highest.wrapping_sub(source.first).wrapping_add(1);
        let expected_new = expected.wrapping_sub(source.expected_before);
        let received_new = source.received.wrapping_sub(source.received_before);
        (source.expected_before, source.received_before) = (expected, source.received);
        let lost_new = u64::from(expected_new.saturating_sub(received_new));
        let fraction_lost = (lost_new << 8).checked_div(expected_new.into()).unwrap_or(0);
        let (last_report, since_last_report) = match self.last_report {
            Some((info, at_us)) if info.ssrc == source.ssrc => {
                let since = u128::from(now_us.saturating_sub(at_us)) * 65_536 / 1_000_000;
                ((info.ntp >> 16) as u32, u32::try_from(since).unwrap_or(u32::MAX))
            }
            _ => (0, 0),
        };
        Some(Block {
            ssrc: source.ssrc,
            fraction_lost: u8::try_from(fraction_lost).unwrap_or(u8::MAX),
            cumulative_lost: expected.saturating_sub(source.received),
            highest_sequence: source.highest,
            jitter: source.jitter as u32,
            last_report,
            since_last_report,
        })
    }
}

impl Source {
    fn begun(ssrc: u32, sequence: u16) -> Self {
        Self {
            ssrc,
            next_sequence: sequence,
            first: sequence.into(),
            highest: sequence.into(),
            received: 0,
            expected_before: 0,
            received_before: 0,
            jitter: 0.0,
            last_transit: None,
        }
    }
}

/// RTP time without wraps: the first time is itself, each other one lies within half a turn of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Timeline {
    last: Option<i64>,
}

impl Timeline {
    fn place(&mut self, rtp_time: u32) -> i64 {
        let last = *self.last.get_or_insert(rtp_time.into());
        let distance = rtp_time.wrapping_sub(last as u32) as i32;
        last.saturating_add(distance.into())
    }

    fn advance_to(&mut self, rtp_time: u32) -> i64 {
        let time = self.place(rtp_time);
        self.last = Some(time);
        time
    }
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
