//! What another recorder sends, and what a standby makes of whatever that says.
#![no_main]

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_takeover::heartbeat::{HEAD_BYTES, Heartbeat, body_bytes};
use framekeeper_takeover::{
    Assignment, Class, Footage, Liveness, Moment, Own, Peer, PeerClock, Rules, SteadyTime, Stream,
};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const ME: Uuid = Uuid::from_u128(1);
const STREAM: Uuid = Uuid::from_u128(2);

fuzz_target!(|bytes: &[u8]| {
    let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return };
    if let Ok(length) = body_bytes(head) {
        assert!(length <= framekeeper_takeover::heartbeat::BYTES_AT_MOST);
    }
    let Ok(heartbeat) = Heartbeat::decode(body) else { return };
    let again = heartbeat.encode();
    assert_eq!(Heartbeat::decode(&again[HEAD_BYTES..]).as_ref(), Ok(&heartbeat));
    decide(heartbeat);
});

/// A standby with frames in memory hears it three times, the newest of its own answered.
fn decide(heartbeat: Heartbeat) {
    let plan = Assignment {
        version: PlanVersion { term: 1, sequence: 1 },
        epoch: 1,
        class: Class::Standby,
        holders: vec![heartbeat.sender, ME],
        retired: Vec::new(),
    };
    let time = SteadyTime(1_000_000);
    let (mut stream, mut clock, rules) = (Stream::new(ME, 0, 0), PeerClock::default(), Rules::default());
    let mut epoch = 0;
    for beat in 1..=3 {
        let now = Moment { monotonic: beat * 2_000_000, wall: WallTime(i64::MAX / 2) };
        clock.send(now.monotonic, heartbeat.echo.map_or(0, |echo| echo.number));
        let reports = clock.hear(now, heartbeat.clone());
        let report = reports.iter().find(|(stream, _)| *stream == STREAM).map(|(_, report)| report);
        let footage = stream.is_recording().then_some(Footage { first: time, durable: time });
        let own = Own { camera: true, memory: Some(time), storage: true, slot: true, footage, ..Own::default() };
        let peers = [Peer { recorder: heartbeat.sender, liveness: Liveness::Alive, report }];
        if let Some(framekeeper_takeover::Action::Begin { epoch: begun, .. }) =
            stream.step(now.monotonic, &rules, &plan, &own, &peers)
        {
            assert!(begun > epoch || begun == u64::MAX);
            epoch = begun;
        }
        let _ = stream.report(now.monotonic, &rules, &plan, &own, &peers, heartbeat.sender).told(now);
        if let Some(offset) = clock.offset(now) {
            assert!(offset.least <= offset.most);
            let _ = (offset.middle(), offset.apart());
        }
    }
}
