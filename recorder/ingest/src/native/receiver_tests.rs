//! The receiver against streams of packets.

use super::*;

const HZ: u32 = 90_000;

fn rtp(ssrc: u32, sequence: u16, time: u32) -> Vec<u8> {
    let mut p = vec![0x80, 0xe0];
    p.extend_from_slice(&sequence.to_be_bytes());
    p.extend_from_slice(&time.to_be_bytes());
    p.extend_from_slice(&ssrc.to_be_bytes());
    p.extend_from_slice(&[0x65, 1, 2]);
    p
}

/// (time, lost) of what is accepted.
fn feed(r: &mut Receiver, data: &[u8]) -> Result<Vec<(i64, u64)>, Refused> {
    let mut out = Vec::new();
    r.packet(data, 0, |p| {
        assert_eq!((p.payload, p.marker), (&[0x65, 1, 2][..], true));
        out.push((p.pts, p.lost));
    })?;
    Ok(out)
}

#[test]
fn losses_and_wraps() {
    let mut r = Receiver::new(HZ);
    assert_eq!(feed(&mut r, &rtp(1, 65_534, u32::MAX - 10)), Ok(vec![(i64::from(u32::MAX) - 10, 0)]));
    assert_eq!(feed(&mut r, &rtp(1, 65_535, u32::MAX)), Ok(vec![(i64::from(u32::MAX), 0)]));
    assert_eq!(feed(&mut r, &rtp(1, 0, 9)), Ok(vec![(i64::from(u32::MAX) + 10, 0)]));
    assert_eq!(feed(&mut r, &rtp(1, 4, 19)), Ok(vec![(i64::from(u32::MAX) + 20, 3)]));
    assert_eq!(feed(&mut r, &rtp(1, 5, 14)), Ok(vec![(i64::from(u32::MAX) + 15, 0)]), "B-frames go back in time");
}

#[test]
fn what_is_late_or_doubled_is_left_out() {
    let mut r = Receiver::new(HZ);
    feed(&mut r, &rtp(1, 500, 0)).unwrap();
    for late in [500, 499, 401] {
        assert_eq!(feed(&mut r, &rtp(1, late, 0)), Err(Refused::Late), "{late}");
    }
    assert_eq!(feed(&mut r, &rtp(1, 501, 5)), Ok(vec![(5, 0)]));
}

#[test]
fn foreign_packets_between_good_ones_change_nothing() {
    let mut r = Receiver::new(HZ);
    for n in 0..100_u16 {
        assert_eq!(feed(&mut r, &rtp(1, n, u32::from(n))), Ok(vec![(n.into(), 0)]));
        assert_eq!(feed(&mut r, &rtp(0xdead_beef, n, 7)), Err(Refused::Foreign));
        if n % 2 == 0 {
            assert_eq!(feed(&mut r, &rtp(1, n.wrapping_add(40_000), 7)), Err(Refused::Foreign));
        }
    }
}

#[test]
fn a_stream_that_begins_anew_is_taken_up_without_a_packet_missing() {
    // Another SSRC; the same one, from another number on.
    for (ssrc, from, lost) in [(2, 7_u16, 1), (1, 40_000, 1), (1, 10_006, 10_000)] {
        let mut r = Receiver::new(HZ);
        feed(&mut r, &rtp(1, 5, 1000)).unwrap();
        assert_eq!(feed(&mut r, &rtp(ssrc, from, 5000)), Err(Refused::Foreign));
        assert_eq!(feed(&mut r, &rtp(ssrc, from + 1, 6000)), Ok(vec![(5000, lost), (6000, 0)]));
        assert_eq!(feed(&mut r, &rtp(ssrc, from + 2, 7000)), Ok(vec![(7000, 0)]));
        assert_eq!(r.block(0).unwrap().cumulative_lost, 0);
    }
}

#[test]
fn what_is_not_rtp_is_refused() {
    let good = rtp(1, 1, 1);
    let changed = |at: usize, to: u8| {
        let mut p = good.clone();
        p[at] = to;
        p
    };
    for bad in [
        Vec::new(),
        good[..11].to_vec(),
        changed(0, 0x40),
        changed(0, 0),
        changed(0, 0x8f),                // 15 CSRCs that are not there
        changed(0, 0x90),                // an extension that is not there
        changed(0, 0xa0)[..12].to_vec(), // padding of nothing
        [&changed(0, 0xa0)[..], &[0]].concat(),
        [&changed(0, 0xa0)[..], &[200]].concat(),
        changed(1, 200), // RTCP on the wrong channel
    ] {
        let mut r = Receiver::new(HZ);
        assert_eq!(feed(&mut r, &bad), Err(Refused::Malformed), "{bad:?}");
        assert_eq!(feed(&mut r, &good), Ok(vec![(1, 0)]));
    }
}

#[test]
fn reports_say_what_was_lost_when_and_how_evenly_it_came() {
    let mut r = Receiver::new(HZ);
    assert_eq!(r.block(0), None);
    let mut at = |sequence: u16, time: u32, now_us: u64| r.packet(&rtp(9, sequence, time), now_us, |_| {});
    at(65_530, 0, 0).unwrap();
    at(65_531, 9000, 100_000).unwrap();
    at(4, 18_000, 200_000).unwrap(); // 8 are missing
    let block = r.block(200_000).unwrap();
    assert_eq!((block.ssrc, block.highest_sequence, block.cumulative_lost), (9, 0x1_0004, 8));
    assert_eq!(block.fraction_lost, (8 * 256 / 11) as u8);
    assert_eq!((block.jitter, block.last_report, block.since_last_report), (0, 0, 0));

    assert_eq!(r.report(SenderInfo { ssrc: 5, ntp: 1, rtp_time: 1 }, 0), None, "of somebody else");
    let info = SenderInfo { ssrc: 9, ntp: 0x1122_3344_5566_7788, rtp_time: 17_000 };
    assert_eq!(r.report(info, 300_000), Some(17_000));
    // 10 ms late: 900 ticks, of which a 16th counts.
    r.packet(&rtp(9, 5, 27_000), 310_000, |_| {}).unwrap();
    let block = r.block(1_300_000).unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost, block.jitter), (0, 8, 56));
    assert_eq!((block.last_report, block.since_last_report), (0x3344_5566, 65_536));
}

#[test]
fn any_packets_are_taken_without_a_panic() {
    use proptest::prelude::*;
    let packet = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (0_u32..3, any::<u16>(), any::<u32>()).prop_map(|(ssrc, sequence, time)| rtp(ssrc, sequence, time)),
        (0_u32..2, 0_u16..5, 0_u32..5).prop_map(|(ssrc, sequence, time)| rtp(ssrc, sequence, time)),
    ];
    proptest!(|(packets in proptest::collection::vec(packet, 0..60), now in any::<u64>())| {
        let mut r = Receiver::new(HZ);
        for p in packets {
            let _ = r.packet(&p, now, |_| {});
            let _ = r.block(now);
            let _ = r.report(SenderInfo { ssrc: 0, ntp: now, rtp_time: now as u32 }, now);
        }
    });
}
