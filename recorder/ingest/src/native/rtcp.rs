//! RTCP (RFC 3550 §6): sender reports read, receiver reports written. No I/O.

use rtcp_types::{
    Compound, PayloadFeedback, Pli, ReceiverReport, ReportBlock, RtcpPacketParser as _, RtcpPacketWriterExt as _, Sdes,
    SdesChunk, SdesItem,
};

/// A sender report's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SenderInfo {
    pub(super) ssrc: u32,
    /// 32.32 fixed point.
    pub(super) ntp: u64,
    pub(super) rtp_time: u32,
}

/// Not RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet that is not RTCP")]
pub(super) struct NotRtcp;

const HEADER_BYTES: usize = 4;

/// The first sender report of a compound packet, if there is one. All its packets must fit (§A.2).
pub(super) fn sender_info(mut data: &[u8]) -> Result<Option<SenderInfo>, NotRtcp> {
    let mut found = None;
    if data.is_empty() {
        return Err(NotRtcp);
    }
    while !data.is_empty() {
        let (&[first, kind, high, low], _) = data.split_first_chunk::<HEADER_BYTES>().ok_or(NotRtcp)?;
        let length = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let (packet, rest) = data.split_at_checked(length).ok_or(NotRtcp)?;
        // 192 to 223 are what RTCP types may be (RFC 5761 §4).
        if first >> 6 != 2 || !(192..=223).contains(&kind) {
            return Err(NotRtcp);
        }
        if kind == 200 && found.is_none() {
            let report = rtcp_types::SenderReport::parse(packet).map_err(|_| NotRtcp)?;
            found =
                Some(SenderInfo { ssrc: report.ssrc(), ntp: report.ntp_timestamp(), rtp_time: report.rtp_timestamp() });
        }
        data = rest;
    }
    Ok(found)
}

/// What a receiver report says of one source (§6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) ssrc: u32,
    /// Of 256, since the report before.
    pub(super) fraction_lost: u8,
    /// 24 bits.
    pub(super) cumulative_lost: u32,
    pub(super) highest_sequence: u32,
    /// In ticks of the RTP clock.
    pub(super) jitter: u32,
    /// The middle 32 bits of the last sender report's NTP time; 0 if none has come.
    pub(super) last_report: u32,
    /// Since it came, in 1/65536 s.
    pub(super) since_last_report: u32,
}

/// Appends a compound packet (receiver report, source description, and with `pli` a Picture Loss Indication, RFC 4585 §6.3.1) to `out`, framed for
/// `channel` (RFC 2326 §10.12).
pub(super) fn write_receiver_report(
    out: &mut Vec<u8>,
    channel: u8,
    own_ssrc: u32,
    cname: &str,
    block: Block,
    pli: bool,
) {
    let report = ReceiverReport::builder(own_ssrc).add_report_block(
        ReportBlock::builder(block.ssrc)
            .fraction_lost(block.fraction_lost)
            .cumulative_lost(block.cumulative_lost.min(0x7f_ffff))
            .extended_sequence_number(block.highest_sequence)
            .interarrival_jitter(block.jitter)
            .last_sender_report_timestamp(block.last_report)
            .delay_since_last_sender_report_timestamp(block.since_last_report),
    );
    let name =
        Sdes::builder().add_chunk(SdesChunk::builder(own_ssrc).add_item(SdesItem::builder(SdesItem::CNAME, cname)));
    let mut packet = [0; 256];
    let indication = Pli::builder();
    let mut compound = Compound::builder().add_packet(report).add_packet(name);
    if pli {
        let feedback = PayloadFeedback::builder(&indication).sender_ssrc(own_ssrc).media_ssrc(block.ssrc);
        compound = compound.add_packet(feedback);
    }
    let Ok(length) = compound.write_into(&mut packet) else { return };
    let (Some(packet), Ok(length)) = (packet.get(..length), u16::try_from(length)) else { return };
    let [high, low] = length.to_be_bytes();
    out.extend_from_slice(&[b'$', channel, high, low]);
    out.extend_from_slice(packet);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Vec<u8> {
        let mut p = vec![0x80, 200, 0, 6, 0x12, 0x34, 0, 1];
        p.extend_from_slice(&0xe436_2f99_cccc_cccc_u64.to_be_bytes());
        p.extend_from_slice(&900_u32.to_be_bytes());
        p.extend_from_slice(&[0; 8]);
        p
    }

    #[test]
    fn a_sender_report_alone_and_in_company() {
        let want = Some(SenderInfo { ssrc: 0x1234_0001, ntp: 0xe436_2f99_cccc_cccc, rtp_time: 900 });
        assert_eq!(sender_info(&report()), Ok(want));
        let sdes = [0x81, 202, 0, 2, 0x12, 0x34, 0, 1, 1, 1, b'x', 0];
        assert_eq!(sender_info(&[&report()[..], &sdes].concat()), Ok(want));
        assert_eq!(sender_info(&[&sdes[..], &report()].concat()), Ok(want));
        assert_eq!(sender_info(&sdes), Ok(None));
    }

    #[test]
    fn junk_is_no_report() {
        for bad in [
            &b""[..],
            &[0xff; 4],
            &[0x17; 29],
            &[0x80, 200, 0, 6],
            &[0x80, 200, 0, 0],
            &[0x80, 96, 0, 0],
            &report()[..27],
            &[&report()[..], b"x"].concat(),
        ] {
            assert_eq!(sender_info(bad), Err(NotRtcp), "{bad:?}");
        }
    }

    #[test]
    fn a_receiver_report_is_read_as_it_was_meant() {
        let block = Block {
            ssrc: 7,
            fraction_lost: 25,
            cumulative_lost: 3,
            highest_sequence: 0x1_0005,
            jitter: 90,
            last_report: 0x2f99_cccc,
            since_last_report: 65536,
        };
        let mut out = Vec::new();
        write_receiver_report(&mut out, 1, 0xabcd, "fk-x", block, false);
        assert_eq!((out[0], out[1], usize::from(out[3])), (b'$', 1, out.len() - 4));
        assert_eq!(sender_info(&out[4..]), Ok(None));
        let report = ReceiverReport::parse(&out[4..4 + 32]).unwrap();
        assert_eq!(report.ssrc(), 0xabcd);
        let got = report.report_blocks().next().unwrap();
        assert_eq!((got.ssrc(), got.fraction_lost(), got.cumulative_lost()), (7, 25, 3));
        assert_eq!((got.extended_sequence_number(), got.interarrival_jitter()), (0x1_0005, 90));
        assert_eq!(
            (got.last_sender_report_timestamp(), got.delay_since_last_sender_report_timestamp()),
            (0x2f99_cccc, 65536)
        );
        assert!(out.windows(4).any(|w| w == b"fk-x"));
        let mut asks = Vec::new();
        write_receiver_report(&mut asks, 1, 0xabcd, "fk-x", block, true);
        // Version 2, format 1, payload-specific feedback, two words more: who asks, and whom (RFC 4585 §6.1).
        assert_eq!(asks[out.len()..], [0x81, 206, 0, 2, 0, 0, 0xab, 0xcd, 0, 0, 0, 7]);
        assert_eq!(usize::from(asks[3]), asks.len() - 4);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        use proptest::prelude::*;
        proptest!(|(head in proptest::collection::vec(any::<u8>(), 0..8), tail in proptest::collection::vec(any::<u8>(), 0..80), kind in 192_u8..224, words in 0_u8..20)| {
            let _ = sender_info(&head);
            let _ = sender_info(&[&[0x80 | head.first().map_or(0, |b| b & 0x3f), kind, 0, words][..], &tail].concat());
            let _ = sender_info(&[&report()[..], &[0xa0, kind, 0, words], &tail].concat());
        });
    }
}
