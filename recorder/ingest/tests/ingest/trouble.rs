//! What a source's sink hears when something is wrong, and that nobody else notices.

use std::collections::HashSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::common::*;
use framekeeper_ingest::{Credentials, Event, Ingest, IngestConfig, SessionEnd, SessionEndKind, SourceSpec, SpecError};
use url::Url;

const PASSWORD: &str = "Sup3r-geheim";
const USER: &str = "operator7";

/// How the first attempt at `camera` ends.
pub(crate) fn first_end(spec: SourceSpec) -> SessionEnd {
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(spec, sink).unwrap();
    let end = heard.end();
    ingest.shutdown();
    assert!(!end.message.contains(PASSWORD) && !end.message.contains(USER), "{}", end.message);
    assert!(!end.message.contains('\n'));
    end
}

pub(crate) fn answering(status: &'static str, headers: &'static str) -> Camera {
    Camera::new(move |mut conn| {
        while let Some(request) = conn.request() {
            conn.respond(&request, status, headers, "");
        }
    })
}

pub(crate) fn with_password(camera: &Camera) -> SourceSpec {
    SourceSpec { credentials: Some(Credentials::new(USER, PASSWORD)), ..camera.spec() }
}

#[test]
fn refused_password() {
    let camera = answering("401 Unauthorized", "WWW-Authenticate: Digest realm=\"cam operator7\", nonce=\"abc\"\r\n");
    let end = first_end(with_password(&camera));
    assert_eq!(end.kind, SessionEndKind::Unauthorized);
    assert!(end.message.contains("refused the user name or password"), "{}", end.message);
    assert!(end.retry_in_us.unwrap() >= 5_000_000, "no lock-out storm");
    assert_eq!(camera.connections(), 1);
}

#[test]
fn password_needed_and_none_given() {
    let camera = answering("401 Unauthorized", "WWW-Authenticate: Basic realm=\"cam\"\r\n");
    let end = first_end(camera.spec());
    assert_eq!(end.kind, SessionEndKind::Unauthorized);
    assert!(end.message.contains("none are configured"), "{}", end.message);
}

#[test]
fn new_credentials_are_tried_at_once_and_basic_is_spoken() {
    let camera = Camera::new(|mut conn| {
        while let Some(request) = conn.request() {
            // base64 of "operator7:Sup3r-geheim"
            if request.header("Authorization") != Some("Basic b3BlcmF0b3I3OlN1cDNyLWdlaGVpbQ==") {
                conn.respond(&request, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"cam\"\r\n", "");
            } else if conn.answer(&request, &video_sdp(), "s") && request.method == "PLAY" {
                return conn.stream_on(0);
            }
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    let wrong = SourceSpec { credentials: Some(Credentials::new(USER, "old")), ..camera.spec() };
    let id = ingest.add(wrong, sink).unwrap();
    assert_eq!(heard.end().kind, SessionEndKind::Unauthorized);
    // The next attempt would be in more than 5 s, the one after it in more than 10.
    let before = std::time::Instant::now();
    ingest.update(id, with_password(&camera)).unwrap();
    heard.playing();
    assert!(before.elapsed() < Duration::from_secs(4));
    heard.video();
}

#[test]
fn digest_is_spoken() {
    let camera = Camera::new(|mut conn| {
        while let Some(request) = conn.request() {
            let authorization = request.header("Authorization").unwrap_or_default().to_owned();
            if !authorization.starts_with("Digest ") {
                conn.respond(
                    &request,
                    "401 Unauthorized",
                    "WWW-Authenticate: Digest realm=\"cam\", nonce=\"n1\"\r\n",
                    "",
                );
                continue;
            }
            assert!(authorization.contains("username=\"operator7\"") && !authorization.contains(PASSWORD));
            if conn.answer(&request, &video_sdp(), "s") && request.method == "PLAY" {
                return conn.stream_on(0);
            }
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(with_password(&camera), sink).unwrap();
    heard.video();
}

#[test]
fn statuses() {
    let cases = [
        ("403 Forbidden", SessionEndKind::Unauthorized, "403"),
        ("404 Not Found", SessionEndKind::NotFound, "path"),
        ("453 Not Enough Bandwidth", SessionEndKind::TooManySessions, "453"),
        ("503 Service Unavailable", SessionEndKind::TooManySessions, "503"),
        ("305 Use Proxy", SessionEndKind::Protocol, "305"),
        ("302 Moved", SessionEndKind::Protocol, "Location"),
    ];
    for (status, kind, word) in cases {
        let end = first_end(with_password(&answering(status, "")));
        assert_eq!(end.kind, kind, "{status}: {}", end.message);
        assert!(end.message.contains(word), "{status}: {}", end.message);
    }
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtsp://{}/live", listener.local_addr().unwrap());
    drop(listener);
    let end = first_end(SourceSpec::new(Url::parse(&url).unwrap()));
    assert_eq!(end.kind, SessionEndKind::Unreachable);
    assert!(end.message.contains("refused"), "{}", end.message);
}

#[test]
fn no_such_name() {
    let end = first_end(SourceSpec::new(Url::parse("rtsp://no-such-camera.invalid/live").unwrap()));
    assert_eq!(end.kind, SessionEndKind::Unreachable, "{}", end.message);
}

#[test]
fn not_rtsp() {
    for greeting in [
        &b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 300],
        b"\x16\x03\x01\x02\0",
    ] {
        let camera = Camera::new(move |mut conn| {
            conn.request();
            conn.raw(greeting);
            conn.hold();
        });
        let end = first_end(camera.spec());
        let timed_out = greeting.len() == 5 && end.kind == SessionEndKind::Unreachable;
        assert!(end.kind == SessionEndKind::Protocol || timed_out, "{greeting:?}: {end:?}");
    }
}

#[test]
fn accepts_and_closes() {
    let end = first_end(Camera::new(drop).spec());
    assert_eq!(end.kind, SessionEndKind::Protocol, "{}", end.message);
}

#[test]
fn accepts_and_says_nothing() {
    let end = first_end(Camera::new(|mut conn| conn.hold()).spec());
    assert_eq!(end.kind, SessionEndKind::Unreachable);
    assert!(end.message.contains("within 3 s"), "{}", end.message);
}

#[test]
fn sdp_that_cannot_be_read() {
    for body in ["hello", "v=0\r\n", "\u{0}\u{1}\u{2}", "{\"json\": true}"] {
        let camera = Camera::new(move |mut conn| {
            conn.play(body, "s");
        });
        let end = first_end(camera.spec());
        assert!(matches!(end.kind, SessionEndKind::Protocol | SessionEndKind::Unsupported), "{body:?}: {end:?}");
    }
}

#[test]
fn sdp_without_media_says_so() {
    let camera = Camera::new(|mut conn| {
        conn.play("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nmalformed\r\na=control:*\r\n", "s");
    });
    let end = first_end(camera.spec());
    assert_eq!(end.kind, SessionEndKind::Protocol);
    assert!(end.message.contains("describes no media") && end.message.contains("m=video"), "{}", end.message);
}

#[test]
fn lines_of_rubbish_in_sdp_are_no_reason_not_to_record() {
    let camera = Camera::new(|mut conn| {
        let body = format!("rubbish\r\n{}=\r\n\u{1}\r\na=fmtp\r\na=rtpmap:96\r\nx\r\n", video_sdp());
        if conn.play(&body, "s") {
            conn.stream_on(0);
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    heard.video();
}

#[test]
fn a_sink_that_panics_costs_its_own_session_alone() {
    struct Broken;
    impl framekeeper_ingest::Sink for Broken {
        fn event(&mut self, _at: framekeeper_ingest::TickTime, event: Event) {
            if matches!(event, Event::Video(_)) {
                panic!("a sink's bug");
            }
        }
        fn tick(&mut self, _at: framekeeper_ingest::TickTime) {}
    }
    let (one, other) = (Camera::good(), Camera::good());
    let ingest = start();
    let (sink, heard) = sink();
    let broken = ingest.add(one.spec(), Box::new(Broken)).unwrap();
    ingest.add(other.spec(), sink).unwrap();
    while ingest.stats().iter().find(|(id, _)| *id == broken).unwrap().1.panics < 3 {
        heard.video();
    }
    heard.video();
    assert_eq!(other.connections(), 1);
}

#[test]
fn unsupported_video_says_which_codec() {
    for (media, words) in [
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\na=control:t\r\n", "H265"),
        ("m=video 0 RTP/AVP 26\r\na=control:t\r\n", "JPEG"),
        ("m=audio 0 RTP/AVP 0\r\na=control:t\r\n", "no video"),
    ] {
        let camera = Camera::new(move |mut conn| {
            conn.play(&sdp(media), "s");
        });
        let end = first_end(camera.spec());
        assert_eq!(end.kind, SessionEndKind::Unsupported);
        assert!(end.message.contains(words), "{}", end.message);
        assert!(end.retry_in_us.unwrap() >= 30_000_000);
    }
}

#[test]
fn silence_ends_a_session_and_another_begins() {
    let camera = Camera::new(|mut conn| {
        if conn.play(&video_sdp(), "s") {
            conn.idr(0, 1);
            conn.p(1800, 2);
            conn.hold();
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    for _ in 0..2 {
        heard.playing();
        let end = heard.end();
        assert_eq!(end.kind, SessionEndKind::Silence);
        assert!(end.message.contains("no packet for 1.5 s"), "{}", end.message);
    }
}

#[test]
fn audio_without_video_is_silence_too() {
    let media = format!(
        "{VIDEO_SDP}a=fmtp:96 packetization-mode=1;sprop-parameter-sets={SPROP_A}\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\na=control:track2\r\n"
    );
    let camera = Camera::new(move |mut conn| {
        if conn.play(&sdp(&media), "s") {
            conn.idr(0, 1);
            for n in 0.. {
                if !conn.rtp(1, n * 1024, true, &[0, 16, 0, 16, 1, 2]) {
                    return;
                }
                conn.wait(Duration::from_millis(60));
            }
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    heard.until("audio", |e| matches!(e, Event::Audio(_)).then_some(()));
    let end = heard.end();
    assert_eq!(end.kind, SessionEndKind::Silence);
    assert!(end.message.contains("video"), "{}", end.message);
}

#[test]
fn a_camera_that_closes_is_connected_again() {
    let camera = Camera::new(|mut conn| {
        if conn.play(&video_sdp(), "s") {
            conn.idr(0, 1);
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    let id = ingest.add(camera.spec(), sink).unwrap();
    for _ in 0..3 {
        heard.video();
        assert_eq!(heard.end().kind, SessionEndKind::ClosedByCamera);
    }
    let stats = ingest.stats();
    assert_eq!(stats[0].0, id);
    assert!(stats[0].1.sessions >= 2 && stats[0].1.video_frames >= 2, "{stats:?}");
}

/// What cameras, and whoever stands between, put among good packets. Sequence numbers begin at 65530; the good packet before has 65530.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    fn framed(channel: u8, packet: &[u8]) -> Vec<u8> {
        [&[b'$', channel][..], &(packet.len() as u16).to_be_bytes(), packet].concat()
    }
    fn rtp(first: u8, second: u8, sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
        let header = [&[first, second][..], &sequence.to_be_bytes(), &[0; 4], &ssrc.to_be_bytes()].concat();
        framed(0, &[&header[..], payload].concat())
    }
    const OWN: u32 = 0x1234_0000;
    vec![
        ("version 0", framed(0, &[0; 16])),
        ("version 1", rtp(0x40, 0xe0, 65_531, OWN, &[0x41, 0x9a])),
        ("short", framed(0, &[0x80, 96, 0])),
        ("empty", framed(0, &[])),
        ("CSRCs past the end", rtp(0x8f, 0xe0, 65_531, OWN, &[1, 2])),
        ("extension past the end", rtp(0x90, 0xe0, 65_531, OWN, &[0, 0, 0xff, 0xff])),
        ("padding longer than the packet", rtp(0xa0, 0xe0, 65_531, OWN, &[0x41, 0x9a, 200])),
        ("foreign SSRC", rtp(0x80, 0xe0, 9, 0xdead_beef, &[0x41, 0x9a, 1])),
        ("foreign SSRC with the right number", rtp(0x80, 0xe0, 65_531, 0xdead_beef, &[0x41, 0x9a, 1])),
        ("late", rtp(0x80, 0xe0, 65_500, OWN, &[0x41, 0x9a, 1])),
        ("number far away", rtp(0x80, 0xe0, 30_000, OWN, &[0x41, 0x9a, 1])),
        ("RTCP among RTP", framed(0, &[0x80, 200, 0, 6, 0x12, 0x34, 0, 0, 1, 1, 1, 1])),
        ("junk on the RTCP channel", framed(1, &[0x17; 29])),
        ("RTCP longer than it is", framed(1, &[0x80, 200, 0, 60, 0x12, 0x34, 0, 0])),
        ("RTCP of version 3", framed(1, &[0xff; 4])),
        ("sender report of somebody else", framed(1, &[&[0x80, 200, 0, 6, 9, 9, 9, 9][..], &[0; 20]].concat())),
        ("unknown channel", framed(77, &[1, 2, 3, 4, 5])),
        ("junk without a frame", b"garbage that is not RTSP\r\n\r\n".to_vec()),
        ("junk that looks like a frame", b"\0$\0\xff\xff\x80 and nothing more".to_vec()),
        ("half a frame", b"$\0\x05\xdc\x80\x60".to_vec()),
        ("an answer that nobody asked for", b"RTSP/1.0 500 Internal Server Error\r\nCSeq: 99\r\n\r\n".to_vec()),
        ("an answer with an absurd length", b"RTSP/1.0 200 OK\r\nContent-Length: 4000000000\r\n\r\n".to_vec()),
        ("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ]
}

#[test]
fn malformed_packets_are_dropped_and_counted_and_the_session_goes_on() {
    let kinds = malformed();
    let script = kinds.clone();
    // Kind n goes to the n-th connection.
    let camera = Camera::new(move |mut conn| {
        let bad = script[conn.number].1.clone();
        if conn.play(&video_sdp(), "s") {
            conn.idr(0, 1);
            conn.raw(&bad);
            conn.stream_on(1800);
        }
    });
    for (n, (what, _)) in kinds.iter().enumerate() {
        let ingest = start();
        let (sink, heard) = sink();
        ingest.add(camera.spec(), sink).unwrap();
        assert_eq!(heard.video().pts.0, 0, "{what}");
        // Half a frame, or what looks like one, may take some good packets along; nothing else takes more than itself.
        let takes_more = what.contains("half a frame") || what.contains("looks like a frame");
        if !takes_more {
            assert_eq!(heard.video().pts.0, 1800, "{what}");
        }
        let mut last = heard.video();
        for _ in 0..15 {
            let next = heard.video();
            if !takes_more {
                assert_eq!(next.pts.0 - last.pts.0, 1800, "{what}");
                assert!(!next.flags.contains(framekeeper_media::FrameFlags::LOSS_BEFORE), "{what}");
            }
            last = next;
        }
        let stats = ingest.stats()[0].1;
        assert_eq!((stats.sessions, stats.attempts), (1, 1), "{what}: {stats:?}");
        let harmless = ["an answer that nobody asked for", "sender report of somebody else"].contains(what);
        assert_eq!(stats.malformed_packets > 0, !harmless, "{what}: {stats:?}");
        assert_eq!(camera.connections(), n + 1, "{what}");
    }
}

#[test]
fn huge_lengths_are_no_trouble() {
    let cameras = [
        Camera::new(|mut conn| {
            let Some(request) = conn.request() else { return };
            conn.respond(
                &request,
                "200 OK",
                "Content-Type: application/sdp\r\nContent-Length: 18446744073709551615\r\n",
                "",
            );
            conn.hold();
        }),
        Camera::new(|mut conn| {
            let Some(request) = conn.request() else { return };
            conn.respond(
                &request,
                "200 OK",
                "Content-Type: application/sdp\r\nContent-Length: 99999999999999999999999\r\n",
                "",
            );
            conn.hold();
        }),
        Camera::new(|mut conn| {
            let Some(request) = conn.request() else { return };
            conn.respond(&request, "200 OK", "Content-Type: application/sdp\r\nContent-Length: 4000000000\r\n", "x");
            conn.hold();
        }),
    ];
    for camera in cameras {
        let end = first_end(camera.spec());
        assert_eq!(end.kind, SessionEndKind::Protocol, "{end:?}");
        assert!(end.message.contains("Content-Length"), "{}", end.message);
    }
}

#[test]
fn a_camera_that_floods_does_not_hold_up_another() {
    let flood = Camera::new(|mut conn| {
        if conn.play(&video_sdp(), "s") {
            conn.idr(0, 1);
            let mut block = Vec::new();
            for n in 0..64_u16 {
                // Fragments of a picture that never ends; the sequence number goes on from block to block.
                block.extend_from_slice(b"$\0\xff\xf0\x80\x60");
                block.extend_from_slice(&n.to_be_bytes());
                block.extend_from_slice(&[0, 0, 9, 9, 0x12, 0x34, 0, 0, 28, 0x05]);
                block.resize(block.len() + 0xfff0 - 14, 0x55);
            }
            let mut seq = 65_531_u16;
            loop {
                for packet in block.chunks_mut(0xfff0 + 4) {
                    packet[6..8].copy_from_slice(&seq.to_be_bytes());
                    seq = seq.wrapping_add(1);
                }
                if conn.stream.write_all(&block).is_err() {
                    return;
                }
            }
        }
    });
    let good = Camera::good();
    let ingest = start();
    let ((good_sink, good_heard), (flood_sink, flood_heard)) = (sink(), sink());
    let flood_id = ingest.add(flood.spec(), flood_sink).unwrap();
    flood_heard.playing();
    ingest.add(good.spec(), good_sink).unwrap();
    let mut last = good_heard.video().pts.0;
    for _ in 0..100 {
        let pts = good_heard.video().pts.0;
        assert_eq!(pts, last + 1800);
        last = pts;
    }
    let flooded = ingest.stats().into_iter().find(|(id, _)| *id == flood_id).unwrap().1;
    assert!(flooded.bytes > 50_000_000, "the flood was one: {flooded:?}");
    assert_eq!(good.connections(), 1);
}

#[test]
fn specs_that_cannot_be_right_are_refused() {
    let ingest = start();
    let refused = |url: &str| ingest.add(SourceSpec::new(Url::parse(url).unwrap()), sink().0).unwrap_err();
    assert_eq!(refused("rtsp://u:p@127.0.0.1/"), SpecError::UserInfo);
    assert!(matches!(refused("rtsps://127.0.0.1/"), SpecError::Scheme { .. }));
    let camera = Camera::good();
    let (sink, heard) = sink();
    let id = ingest.add(camera.spec(), sink).unwrap();
    heard.video();
    ingest.update(id, SourceSpec::new(Url::parse("http://x/").unwrap())).unwrap_err();
    heard.video();
    assert_eq!(camera.connections(), 1);
}

#[test]
fn many_sources_come_up_through_the_bucket_and_removal_says_teardown() {
    let (tx, rx) = channel();
    let camera = Camera::new(move |mut conn| {
        if !conn.play(&video_sdp(), "s") {
            return;
        }
        conn.idr(0, 1);
        while let Some(request) = conn.request() {
            if request.method == "TEARDOWN" {
                tx.send(conn.number).unwrap();
            }
            conn.answer(&request, "", "s");
        }
    });
    let ingest = Ingest::start(
        IngestConfig { silence: framekeeper_ingest::silence::SilenceLimits::default(), ..quick() },
        Box::new(|_| {}),
    )
    .unwrap();
    let heard: Vec<Heard> = (0..60)
        .map(|_| {
            let (sink, heard) = sink();
            ingest.add(camera.spec(), sink).unwrap();
            heard
        })
        .collect();
    for h in &heard {
        h.video();
    }
    assert_eq!(camera.connections(), 60);
    let before = std::time::Instant::now();
    ingest.shutdown();
    assert!(before.elapsed() < Duration::from_secs(10));
    for h in &heard {
        assert_eq!(h.end().kind, SessionEndKind::Stopped);
    }
    let said: HashSet<usize> = (0..60).map(|_| rx.recv_timeout(PATIENCE).expect("TEARDOWN")).collect();
    assert_eq!(said.len(), 60);
}

#[test]
fn an_update_of_the_url_moves_one_source_and_leaves_the_other() {
    let (from, to, other) = (Camera::good(), Camera::good(), Camera::good());
    let ingest = start();
    let ((sink_a, heard_a), (sink_b, heard_b)) = (sink(), sink());
    let id = ingest.add(from.spec(), sink_a).unwrap();
    ingest.add(other.spec(), sink_b).unwrap();
    heard_a.video();
    heard_b.video();
    ingest.update(id, to.spec()).unwrap();
    let end = heard_a.end();
    assert_eq!((end.kind, end.retry_in_us), (SessionEndKind::Stopped, Some(0)));
    heard_a.video();
    heard_b.video();
    assert_eq!((from.connections(), to.connections(), other.connections()), (1, 1, 1));
    // Credentials of a source that plays are for its next session: nothing is interrupted.
    ingest.update(id, with_password(&to)).unwrap();
    for _ in 0..30 {
        heard_a.video();
    }
    assert_eq!(to.connections(), 1);
}
