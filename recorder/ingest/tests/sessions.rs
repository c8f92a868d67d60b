//! What a source's sink hears when a camera behaves, and what comes with the frames.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::*;
use framekeeper_ingest::{Event, SessionEndKind};
use framekeeper_media::{FrameFlags, MediaTime};

#[test]
fn frames_of_one_camera_arrive_in_a_sink() {
    let camera = Camera::good();
    let ingest = start();
    let (sink, heard) = sink();
    let id = ingest.add(camera.spec(), sink).unwrap();

    assert!(matches!(heard.next().1, Event::Connecting));
    let parameters = heard.playing();
    assert_eq!((parameters.video.width, parameters.video.height), (320, 240));
    assert_eq!(parameters.video.sps, SPS_A);
    assert_eq!((parameters.audio, parameters.audio_left_out), (None, None));

    let first = heard.video();
    assert!(first.flags.contains(FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC)));
    assert_eq!(first.pts, MediaTime(0));
    assert_eq!(&first.data[..], [0, 0, 0, 5, 0x65, 0x88, 0x84, 0, 1]);
    for n in 1..60 {
        let frame = heard.video();
        assert_eq!(frame.pts, MediaTime(n * 1800));
        assert_eq!(frame.flags.contains(FrameFlags::RANDOM_ACCESS), n % 25 == 0);
        assert!(!frame.flags.contains(FrameFlags::LOSS_BEFORE));
        assert_ne!(frame.identity.0, 0);
    }

    ingest.remove(id);
    let end = heard.end();
    assert_eq!((end.kind, end.retry_in_us), (SessionEndKind::Stopped, None));
    assert!(heard.is_over(), "the sink is dropped");
    assert!(ingest.is_running());
    ingest.shutdown();
}
