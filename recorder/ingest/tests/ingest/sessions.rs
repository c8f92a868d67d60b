//! What a source's sink hears when a camera behaves, and what comes with the frames.

use crate::common::*;
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

/// Runs `script` after PLAY on each connection and gives what the sink hears.
fn playing(sdp: String, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> (framekeeper_ingest::Ingest, Heard) {
    let camera = Camera::new(move |mut conn| {
        if conn.play(&sdp, "s") {
            script(&mut conn);
            conn.hold();
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    (ingest, heard)
}

#[test]
fn frames_before_the_first_random_access_point_are_left_out_and_counted() {
    let (ingest, heard) = playing(video_sdp(), |conn| {
        for n in 0..7 {
            conn.p(n * 1800, n as u8);
        }
        conn.idr(7 * 1800, 7);
        conn.p(8 * 1800, 8);
    });
    assert_eq!(heard.video().pts, MediaTime(7 * 1800));
    assert_eq!(heard.video().pts, MediaTime(8 * 1800));
    heard.end();
    let stats = ingest.stats()[0].1;
    assert!(stats.skipped_frames >= 7 && stats.video_frames >= 2, "{stats:?}");
}

#[test]
fn loss_is_told_counted_and_flagged() {
    let (ingest, heard) = playing(video_sdp(), |conn| {
        conn.idr(0, 0);
        conn.p(1800, 1);
        conn.skip_packets(0, 3);
        conn.p(3600, 2);
        conn.p(5400, 3);
    });
    assert!(!heard.video().flags.contains(FrameFlags::LOSS_BEFORE));
    assert!(!heard.video().flags.contains(FrameFlags::LOSS_BEFORE));
    let (_, event) = heard.next();
    assert!(matches!(event, Event::Loss { packets: 3 }), "{event:?}");
    assert!(heard.video().flags.contains(FrameFlags::LOSS_BEFORE));
    assert!(!heard.video().flags.contains(FrameFlags::LOSS_BEFORE));
    heard.end();
    assert!(ingest.stats()[0].1.lost_packets >= 3);
}

#[test]
fn times_are_unwrapped_across_the_wrap_of_rtp_time() {
    let (_ingest, heard) = playing(video_sdp(), |conn| {
        let mut t = u32::MAX - 5000;
        conn.idr(t, 0);
        for n in 1..10 {
            t = t.wrapping_add(1800);
            conn.p(t, n);
        }
    });
    let first = heard.video().pts.0;
    for n in 1..10 {
        assert_eq!(heard.video().pts.0, first + n * 1800);
    }
}

#[test]
fn a_jump_of_rtp_time_is_told_and_the_session_stays() {
    let (ingest, heard) = playing(video_sdp(), |conn| {
        conn.idr(0, 0);
        conn.p(1800, 1);
        conn.p(1800 + 60 * 90_000, 2);
        conn.p(3600 + 60 * 90_000, 3);
    });
    heard.video();
    heard.video();
    assert!(matches!(heard.next().1, Event::TimeJump));
    assert_eq!(heard.video().pts, MediaTime(1800 + 60 * 90_000));
    assert!(matches!(heard.next().1, Event::Video(_)));
    assert_eq!(ingest.stats()[0].1.attempts, 1);
}

#[test]
fn parameters_change_in_mid_session_before_the_frame_that_uses_them() {
    let (_ingest, heard) = playing(video_sdp(), |conn| {
        conn.idr(0, 0);
        // The same sets again, with a zero byte too many, are no change.
        conn.rtp(0, 1800, false, SPS_A);
        conn.rtp(0, 1800, false, &[PPS_A, &[0]].concat());
        conn.idr(1800, 1);
        conn.rtp(0, 3600, false, SPS_B);
        conn.rtp(0, 3600, false, PPS_B);
        conn.idr(3600, 2);
        conn.p(5400, 3);
    });
    let first = heard.playing();
    assert_eq!(first.video.width, 320);
    assert!(matches!(heard.next().1, Event::Video(_)));
    assert!(matches!(heard.next().1, Event::Video(_)));
    let (_, event) = heard.next();
    let Event::Parameters(parameters) = event else { panic!("{event:?}") };
    assert_eq!((parameters.video.width, parameters.video.height), (640, 480));
    let frame = heard.video();
    assert_eq!((frame.pts, frame.data.len()), (MediaTime(3600), 9), "no parameter sets inside");
}

#[test]
fn parameters_that_come_in_band_alone() {
    let (_ingest, heard) = playing(sdp(VIDEO_SDP), |conn| {
        conn.idr(0, 0);
        conn.p(1800, 1);
        conn.rtp(0, 3600, false, SPS_B);
        conn.rtp(0, 3600, false, PPS_B);
        conn.idr(3600, 2);
    });
    assert!(matches!(heard.next().1, Event::Connecting));
    let (_, event) = heard.next();
    let Event::Playing(parameters) = event else { panic!("{event:?}") };
    assert_eq!(parameters.video.width, 640);
    assert_eq!(heard.video().pts, MediaTime(3600), "what came before cannot be decoded");
}

const AAC_SDP: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\na=control:track2\r\n";

fn with_media(media: &str) -> String {
    sdp(&format!("{VIDEO_SDP}a=fmtp:96 packetization-mode=1;sprop-parameter-sets={SPROP_A}\r\n{media}"))
}

#[test]
fn audio_and_sender_reports_arrive() {
    let (_ingest, heard) = playing(with_media(AAC_SDP), |conn| {
        conn.rtp(1, 4000, true, &[0, 16, 0, 8, 9]);
        conn.idr(0, 0);
        conn.sender_report(0, 0xe436_2f99_cccc_cccc, 900);
        conn.rtp(1, 5024, true, &[0, 32, 0, 16, 0, 8, 1, 2, 3]);
        conn.sender_report(1, 0xe436_2f9a_0000_0000, 5000);
    });
    let parameters = heard.playing();
    let audio = parameters.audio.unwrap();
    assert_eq!((audio.sample_rate, audio.channels, parameters.audio_left_out), (16_000, 1, None));
    assert!(matches!(heard.next().1, Event::Video(_)), "no audio before the first picture");
    let (_, event) = heard.next();
    let Event::VideoReport(report) = event else { panic!("{event:?}") };
    assert_eq!((report.ntp, report.media_time), (0xe436_2f99_cccc_cccc, MediaTime(900)));
    for (pts, data) in [(5024, &[1_u8, 2][..]), (6048, &[3])] {
        let (_, event) = heard.next();
        let Event::Audio(frame) = event else { panic!("{event:?}") };
        assert_eq!((frame.pts, frame.duration, &frame.data[..]), (MediaTime(pts), 1024, data));
    }
    let (_, event) = heard.next();
    assert!(matches!(event, Event::AudioReport(r) if r.media_time == MediaTime(5000)), "{event:?}");
}

#[test]
fn audio_that_is_not_wanted_is_not_set_up() {
    let (tx, rx) = std::sync::mpsc::channel();
    let camera = Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            tx.send((request.method.clone(), request.uri.clone())).unwrap();
            conn.answer(&request, &with_media(AAC_SDP), "s");
            if request.method == "PLAY" {
                conn.idr(0, 0);
            }
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(framekeeper_ingest::SourceSpec { audio: false, ..camera.spec() }, sink).unwrap();
    let parameters = heard.playing();
    assert_eq!((parameters.audio, parameters.audio_left_out), (None, None));
    heard.video();
    let set_up: Vec<String> = rx.try_iter().filter(|(m, _)| m == "SETUP").map(|(_, uri)| uri).collect();
    assert_eq!(set_up.len(), 1);
    assert!(set_up[0].ends_with("track1"), "{set_up:?}");
}

#[test]
fn audio_of_another_codec_is_left_out_with_its_name() {
    for (media, name) in [
        ("m=audio 0 RTP/AVP 0\r\na=control:track2\r\n", "PCMU"),
        ("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 G726-16/8000\r\na=control:track2\r\n", "G726-16"),
        ("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=control:track2\r\n", "AAC"),
        (&AAC_SDP.replace("16000/1", "48000/1"), "contradict"),
    ] {
        let (_ingest, heard) = playing(with_media(media), |conn| {
            conn.idr(0, 0);
        });
        let parameters = heard.playing();
        assert_eq!(parameters.audio, None);
        assert!(parameters.audio_left_out.as_deref().unwrap_or_default().contains(name), "{parameters:?}");
        heard.video();
    }
}

#[test]
fn audio_whose_setup_is_refused_does_not_cost_the_video() {
    let camera = Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            if request.method == "SETUP" && request.uri.ends_with("track2") {
                conn.respond(&request, "461 Unsupported Transport", "", "");
                continue;
            }
            conn.answer(&request, &with_media(AAC_SDP), "s");
            if request.method == "PLAY" {
                conn.idr(0, 0);
            }
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    let parameters = heard.playing();
    assert!(parameters.audio.is_none() && parameters.audio_left_out.unwrap().contains("461"));
    heard.video();
}

#[test]
fn short_session_timeouts_are_kept_alive() {
    let (tx, rx) = std::sync::mpsc::channel();
    let camera = Camera::new(move |mut conn| {
        if !conn.play(&video_sdp(), "s;timeout=2") {
            return;
        }
        let mut writer = conn.stream.try_clone().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            for n in 0_u16.. {
                let mut p = b"$\0\0\x11\x80\xe0".to_vec();
                p.extend_from_slice(&n.to_be_bytes());
                p.extend_from_slice(&(u32::from(n) * 1800).to_be_bytes());
                p.extend_from_slice(&[0x12, 0x34, 0, 0, 0x65, 0x88, 0x84, n as u8, 1]);
                if writer.write_all(&p).is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        // As a camera does: without a request for the time-out, the session is over.
        let mut last = std::time::Instant::now();
        while let Some(request) = conn.request() {
            let _ = tx.send((request.method.clone(), last.elapsed()));
            last = std::time::Instant::now();
            conn.answer(&request, "", "s;timeout=2");
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    for n in 0..4 {
        let (method, after) = rx.recv_timeout(PATIENCE).expect("a keep-alive");
        assert_eq!(method, if n == 0 { "OPTIONS" } else { "GET_PARAMETER" });
        assert!(after < std::time::Duration::from_secs(2), "{after:?}");
    }
    heard.video();
    assert_eq!(camera.connections(), 1);
}

#[test]
fn receiver_reports_tell_the_camera_what_came() {
    let (tx, rx) = std::sync::mpsc::channel();
    let camera = Camera::new(move |mut conn| {
        if !conn.play(&video_sdp(), "s") {
            return;
        }
        conn.sender_report(0, 0x1122_3344_5566_7788, 0);
        let mut writer = conn.stream.try_clone().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            for n in 0_u16.. {
                // Each tenth is lost.
                let sequence = 65_000_u16.wrapping_add(n + n / 9);
                let mut p = b"$\0\0\x11\x80\xe0".to_vec();
                p.extend_from_slice(&sequence.to_be_bytes());
                p.extend_from_slice(&(u32::from(n) * 1800).to_be_bytes());
                p.extend_from_slice(&[0x12, 0x34, 0, 0, 0x65, 0x88, 0x84, n as u8, 1]);
                if writer.write_all(&p).is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        while let Some(packet) = conn.packet() {
            let _ = tx.send(packet);
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    heard.video();
    let (channel, packet) = rx.recv_timeout(PATIENCE).expect("a receiver report");
    assert_eq!((channel, packet[0], packet[1]), (1, 0x81, 201));
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    assert_eq!(word(8), 0x1234_0000, "about the camera's stream");
    assert_ne!(word(4), word(8));
    let (fraction, lost) = (packet[12], word(12) & 0xff_ffff);
    assert!((20..=32).contains(&fraction) && lost > 5, "a tenth of 256: {fraction}, {lost}");
    assert!(word(16) > 65_000, "with wraps: {}", word(16));
    assert_eq!(word(24), 0x3344_5566, "the middle of the sender report's time");
    let since_seconds = f64::from(word(28)) / 65_536.0;
    assert!((4.5..9.0).contains(&since_seconds), "{since_seconds}");
    // A source description with a name follows.
    assert_eq!((packet[32] & 0x1f, packet[33], packet[40]), (1, 202, 1));
}

#[test]
fn a_held_session_is_kept_alive_and_plays_at_once() {
    let (tx, rx) = std::sync::mpsc::channel();
    let camera = Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            tx.send(request.method.clone()).unwrap();
            conn.answer(&request, &video_sdp(), "s;timeout=2");
            if request.method == "PLAY" {
                return conn.stream_on(0);
            }
        }
    });
    let ingest = start();
    let (sink, heard, holds) = sink_that_holds(true);
    ingest.add(camera.spec(), sink).unwrap();
    heard.until("a session that is held", |e| matches!(e, Event::Ready).then_some(()));
    let said: Vec<String> = (0..5).map(|_| rx.recv_timeout(PATIENCE).expect("a keep-alive")).collect();
    assert_eq!(said, ["DESCRIBE", "SETUP", "OPTIONS", "GET_PARAMETER", "GET_PARAMETER"]);
    holds.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(heard.video().pts, MediaTime(0));
    assert_eq!(rx.try_iter().last().as_deref(), Some("PLAY"));
    assert_eq!(camera.connections(), 1);
}

#[test]
fn payloads_that_make_no_sense_cost_a_picture_and_not_the_session() {
    let (ingest, heard) = playing(video_sdp(), |conn| {
        conn.idr(0, 0);
        conn.rtp(0, 1800, true, &[28, 0x05, 1, 2]);
        conn.rtp(0, 3600, true, &[24, 0, 99, 1]);
        conn.p(5400, 1);
    });
    assert_eq!(heard.video().pts, MediaTime(0));
    assert!(matches!(heard.next().1, Event::Loss { packets: 2 }));
    let frame = heard.video();
    assert_eq!(frame.pts, MediaTime(5400));
    assert!(frame.flags.contains(FrameFlags::LOSS_BEFORE));
    assert_eq!(heard.end().kind, SessionEndKind::Silence);
    let stats = ingest.stats()[0].1;
    assert!(stats.malformed_packets >= 2 && stats.damaged_frames >= 2, "{stats:?}");
}

#[test]
fn ticks_come_to_every_sink_and_then_to_after_tick() {
    use std::sync::mpsc::channel;
    struct Ticks(&'static str, std::sync::mpsc::Sender<(&'static str, u64)>);
    impl framekeeper_ingest::Sink for Ticks {
        fn event(&mut self, _at: framekeeper_ingest::TickTime, _event: Event) {}
        fn tick(&mut self, at: framekeeper_ingest::TickTime) {
            let _ = self.1.send((self.0, at.monotonic_us));
        }
    }
    let (tx, rx) = channel();
    let after = tx.clone();
    let ingest = framekeeper_ingest::Ingest::start(
        quick(),
        Box::new(move |at| {
            let _ = after.send(("after", at.monotonic_us));
        }),
    )
    .unwrap();
    let camera = Camera::good();
    ingest.add(camera.spec(), Box::new(Ticks("a", tx.clone()))).unwrap();
    ingest.add(camera.spec(), Box::new(Ticks("b", tx))).unwrap();
    // The first source may be told of ticks that came before the second was there: the round that has both, and its "after", begin the count.
    let mut notes = std::iter::from_fn(|| rx.recv_timeout(PATIENCE).ok()).skip_while(|(who, _)| *who != "b").skip(2);
    for _ in 0..20 {
        let tick: Vec<_> = notes.by_ref().take(3).collect();
        assert_eq!(tick.iter().map(|t| t.0).collect::<Vec<_>>(), ["a", "b", "after"]);
        assert!(tick.iter().all(|t| t.1 == tick[0].1), "one time for all: {tick:?}");
    }
    ingest.shutdown();
}

#[test]
fn a_request_of_the_camera_in_mid_session_stops_nothing() {
    let (_ingest, heard) = playing(video_sdp(), |conn| {
        conn.idr(0, 0);
        conn.raw(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n");
        conn.p(1800, 1);
    });
    heard.video();
    assert!(matches!(heard.next().1, Event::Video(_)));
}

#[test]
fn a_camera_that_offers_it_is_asked_for_a_key_frame() {
    let (tx, rx) = std::sync::mpsc::channel();
    let camera = Camera::new(move |mut conn| {
        if !conn.play(&video_sdp().replace("a=fmtp:96", "a=rtcp-fb:* nack pli\r\na=fmtp:96"), "s") {
            return;
        }
        // In the middle of a group of pictures that would go on for ever.
        let sent = (0..3).all(|n| conn.p(u32::from(n) * 1800, n));
        assert!(sent);
        let asked = conn.packet();
        conn.idr(5400, 9);
        let _ = tx.send(asked);
        conn.hold();
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    assert_eq!(heard.video().pts, MediaTime(5400));
    let (channel, packet) = rx.recv_timeout(PATIENCE).unwrap().expect("a packet");
    // The last of the compound: a Picture Loss Indication.
    let indication = &packet[packet.len() - 12..];
    assert_eq!((channel, indication[0] & 0x1f, indication[1]), (1, 1, 206));
}
