//! The client against scripts: what it asks, and what comes of the answers.

use super::*;
use crate::native::message::{head_end, parse_head};

const SDP: &str = "v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:v\r\n";
const AUDIO: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\na=control:a\r\n";
const S: u64 = 1_000_000;

struct Talk {
    client: Client,
    now_us: u64,
}

/// A request or an answer of the client.
struct Said(String);

impl Said {
    fn line(&self) -> &str {
        self.0.lines().next().unwrap()
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Talk {
    fn new(play_at_once: bool) -> Self {
        Self::with(None, play_at_once)
    }

    fn with(credentials: Option<Credentials>, play_at_once: bool) -> Self {
        let url = Url::parse("rtsp://camera/live").unwrap();
        let spec = SourceSpec { credentials, ..SourceSpec::new(url) };
        let mut client = Client::new(&spec, !play_at_once, "test/1");
        client.connected(0);
        Self { client, now_us: 0 }
    }

    /// The one message that the client has sent since the last time.
    fn said(&mut self) -> Said {
        let bytes = std::mem::take(self.client.unsent());
        assert_eq!(head_end(&bytes), Some(bytes.len()), "one whole message: {:?}", String::from_utf8_lossy(&bytes));
        Said(String::from_utf8(bytes).unwrap())
    }

    fn says_nothing(&mut self) {
        assert_eq!(String::from_utf8_lossy(self.client.unsent()), "");
    }

    fn hears(&mut self, head: &str, body: &str) -> Result<Step, Failure> {
        let head = parse_head(format!("{head}\r\n\r\n").as_bytes()).unwrap();
        let message = Message { start: head.start, headers: head.headers, body: body.as_bytes().to_vec() };
        self.client.message(&message, self.now_us)
    }

    /// Up to the answer to the last SETUP.
    fn set_up(&mut self, sdp: &str, timeout: &str) {
        assert!(self.said().line().starts_with("DESCRIBE "));
        assert_eq!(self.hears("RTSP/1.0 200 OK\r\nCSeq: 1", sdp), Ok(Step::None));
        let mut n = 0;
        while self.client.stage() != Stage::Ready && self.client.stage() != Stage::Play {
            assert!(self.said().line().starts_with("SETUP "));
            self.hears(
                &format!(
                    "RTSP/1.0 200 OK\r\nSession: s{n}{timeout}\r\nTransport: RTP/AVP/TCP;unicast;interleaved={n}-{}",
                    n + 1
                ),
                "",
            )
            .unwrap();
            n += 2;
        }
    }

    fn playing(timeout: &str) -> Self {
        let mut talk = Self::new(true);
        talk.set_up(SDP, timeout);
        assert_eq!(talk.said().line(), "PLAY rtsp://camera/live RTSP/1.0");
        assert_eq!(talk.hears("RTSP/1.0 200 OK\r\nCSeq: 3", ""), Ok(Step::Playing));
        talk
    }

    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now_us = seconds * S;
        self.client.tick(self.now_us).unwrap();
        self
    }
}

#[test]
fn both_tracks_to_playing_and_good_bye() {
    let mut t = Talk::new(true);
    let said = t.said();
    assert_eq!(said.line(), "DESCRIBE rtsp://camera/live RTSP/1.0");
    assert_eq!(
        (said.header("CSeq"), said.header("Accept"), said.header("User-Agent")),
        (Some("1"), Some("application/sdp"), Some("test/1"))
    );
    t.hears("RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Base: rtsp://camera/live/", &format!("{SDP}{AUDIO}")).unwrap();
    let said = t.said();
    assert_eq!(said.line(), "SETUP rtsp://camera/live/v RTSP/1.0");
    assert_eq!((said.header("Transport"), said.header("Session")), (Some("RTP/AVP/TCP;unicast;interleaved=0-1"), None));
    t.hears("RTSP/1.0 200 OK\r\nSession: abc;timeout=90\r\nTransport: RTP/AVP/TCP;interleaved=4-5", "").unwrap();
    let said = t.said();
    assert_eq!(said.line(), "SETUP rtsp://camera/live/a RTSP/1.0");
    assert_eq!(
        (said.header("Transport"), said.header("Session")),
        (Some("RTP/AVP/TCP;unicast;interleaved=2-3"), Some("abc"))
    );
    assert_eq!(t.hears("RTSP/1.0 200 OK\r\nSession: another", ""), Ok(Step::Ready));
    let said = t.said();
    assert_eq!((said.line(), said.header("Session")), ("PLAY rtsp://camera/live/ RTSP/1.0", Some("abc")));
    assert_eq!(t.hears("RTSP/1.0 200 OK\r\nRTP-Info: url=x;seq=1", ""), Ok(Step::Playing));
    let (presentation, video, audio) = t.client.tracks().unwrap();
    assert_eq!((video, audio), ((4, 5), Some((2, 3))));
    assert!(presentation.audio.parameters.is_some());
    assert!(t.client.close(5));
    assert_eq!(t.said().line(), "TEARDOWN rtsp://camera/live/ RTSP/1.0");
    assert_eq!(t.hears("RTSP/1.0 200 OK\r\nCSeq: 5", ""), Ok(Step::Closed));
    assert!(!t.client.close(6), "once");
}

#[test]
fn answers_belong_to_the_request_whatever_their_number() {
    for cseq in ["CSeq: 77", "CSeq: 0", "CSeq: x", "X: y"] {
        let mut t = Talk::new(true);
        t.said();
        assert_eq!(t.hears("RTSP/1.0 100 Continue", ""), Ok(Step::None));
        t.hears(&format!("RTSP/1.0 200 OK\r\n{cseq}"), SDP).unwrap_or_else(|f| panic!("{cseq}: {f:?}"));
        assert!(t.said().line().starts_with("SETUP "));
    }
}

#[test]
fn audio_that_cannot_be_set_up_costs_the_audio() {
    for (answer, word) in [
        ("RTSP/1.0 461 Unsupported Transport", "461"),
        ("RTSP/1.0 404 Not Found", "404"),
        ("RTSP/1.0 200 OK\r\nTransport: RTP/AVP;client_port=5-6", "interleaved"),
        ("RTSP/1.0 200 OK\r\nTransport: RTP/AVP/TCP;interleaved=0-1", "channels of the video"),
    ] {
        let mut t = Talk::new(true);
        t.said();
        t.hears("RTSP/1.0 200 OK", &format!("{SDP}{AUDIO}")).unwrap();
        t.said();
        t.hears("RTSP/1.0 200 OK\r\nSession: s\r\nTransport: RTP/AVP/TCP;interleaved=0-1", "").unwrap();
        t.said();
        assert_eq!(t.hears(answer, ""), Ok(Step::Ready));
        let (presentation, _, audio) = t.client.tracks().unwrap();
        assert_eq!((audio, &presentation.audio.parameters), (None, &None));
        let why = presentation.audio.left_out.clone().unwrap();
        assert!(why.contains(word), "{why}");
        assert!(t.said().line().starts_with("PLAY "));
    }
}

#[test]
fn failures_have_their_class_and_say_what_failed() {
    let describe = |answer: &str, body: &str| {
        let mut t = Talk::new(true);
        t.hears(answer, body).unwrap_err()
    };
    use SessionEndKind as Kind;
    assert_eq!(describe("RTSP/1.0 404 Not Found", "").kind, Kind::NotFound);
    assert_eq!(
        describe("RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", "").kind,
        Kind::Unauthorized
    );
    let failure = describe("RTSP/1.0 503 Service Unavailable", "");
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            Kind::TooManySessions,
            "the camera has no room for one more session: it answered DESCRIBE with 503 Service Unavailable; raise its limit, or say it in spec.source.maxSessions"
        )
    );
    assert!(describe("RTSP/1.0 200 OK", "").message.contains("SDP"));
    assert!(describe("RTSP/1.0 302 Moved", "").message.contains("Location"));
    let mut t = Talk::new(true);
    t.hears("RTSP/1.0 200 OK", SDP).unwrap();
    let failure = t.hears("RTSP/1.0 200 OK\r\nTransport: RTP/AVP;client_port=5-6", "").unwrap_err();
    assert!(failure.message.contains("interleaved"), "{}", failure.message);
    let mut t = Talk::new(true);
    t.set_up(SDP, "");
    let failure = t.hears("RTSP/1.0 457 Invalid Range", "").unwrap_err();
    assert!(failure.message.contains("PLAY") && failure.message.contains("457"), "{}", failure.message);
}

const DIGEST: &str = "RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n1\", qop=\"auth\", algorithm=SHA-256\r\nWWW-Authenticate: Basic realm=\"r\"";

#[test]
fn a_password_is_given_when_it_is_asked_for_and_a_wrong_one_once() {
    let mut t = Talk::with(Some(Credentials::new("bob", "geheim")), true);
    assert_eq!(t.said().header("Authorization"), None);
    assert_eq!(t.hears(DIGEST, ""), Ok(Step::None));
    let said = t.said();
    let authorization = said.header("Authorization").unwrap();
    assert!(authorization.starts_with("Digest ") && authorization.contains("SHA-256"), "{authorization}");
    assert_eq!((said.line(), said.header("CSeq")), ("DESCRIBE rtsp://camera/live RTSP/1.0", Some("2")));
    let failure = t.hears(DIGEST, "").unwrap_err();
    assert_eq!(failure.kind, SessionEndKind::Unauthorized);
    assert!(failure.message.contains("refused"), "{}", failure.message);

    let mut t = Talk::with(Some(Credentials::new("bob", "geheim")), true);
    let failure = t.hears("RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Negotiate", "").unwrap_err();
    assert!(
        failure.kind == SessionEndKind::Unauthorized && failure.message.contains("Basic and Digest"),
        "{failure:?}"
    );
}

#[test]
fn a_nonce_that_grows_old_in_mid_session_is_renewed() {
    let mut t = Talk::with(Some(Credentials::new("bob", "geheim")), true);
    t.said();
    t.hears(DIGEST, "").unwrap();
    t.set_up(SDP, ";timeout=60");
    assert!(t.said().header("Authorization").unwrap().contains("nonce=\"n1\""));
    t.hears("RTSP/1.0 200 OK", "").unwrap();
    t.at(30);
    assert!(t.said().line().starts_with("OPTIONS "));
    t.hears("RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n2\", stale=true", "").unwrap();
    let said = t.said();
    assert!(said.line().starts_with("OPTIONS ") && said.header("Authorization").unwrap().contains("nonce=\"n2\""));
    t.hears("RTSP/1.0 200 OK\r\nPublic: GET_PARAMETER", "").unwrap();
    t.at(60);
    assert!(t.said().header("Authorization").unwrap().contains("nonce=\"n2\""));
}

#[test]
fn sessions_are_kept_alive_with_what_the_camera_offers() {
    let mut t = Talk::playing(";timeout=20");
    t.at(9).says_nothing();
    t.at(10);
    let said = t.said();
    assert_eq!((said.line(), said.header("Session")), ("OPTIONS rtsp://camera/live RTSP/1.0", Some("s0")));
    t.at(19).says_nothing();
    t.hears("RTSP/1.0 200 OK\r\nPublic: DESCRIBE, PLAY , get_parameter", "").unwrap();
    t.at(20);
    assert!(t.said().line().starts_with("GET_PARAMETER "));
    t.hears("RTSP/1.0 405 Method Not Allowed", "").unwrap();
    t.at(30);
    assert!(t.said().line().starts_with("OPTIONS "), "offered, but refused");
    // Never answered: the next one goes out all the same, and a late answer is nobody's.
    t.at(40);
    let said = t.said();
    assert!(said.line().starts_with("OPTIONS "));
    t.hears("RTSP/1.0 454 Session Not Found\r\nCSeq: 6", "").unwrap();
    let cseq = said.header("CSeq").unwrap().to_owned();
    t.hears(&format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nPublic: GET_PARAMETER"), "").unwrap();
    t.at(50);
    assert!(t.said().line().starts_with("GET_PARAMETER "));
    // A session that plays is not ended by a keep-alive's answer.
    assert_eq!(t.hears("RTSP/1.0 454 Session Not Found", ""), Ok(Step::None));
}

#[test]
fn a_session_is_held_ready_and_then_plays_at_once() {
    let mut t = Talk::new(false);
    t.set_up(SDP, ";timeout=20");
    assert_eq!(t.client.stage(), Stage::Ready);
    t.says_nothing();
    for n in 1..100 {
        t.at(n * 10);
        assert!(t.said().line().starts_with("OPTIONS "));
        t.hears("RTSP/1.0 200 OK", "").unwrap();
    }
    // Not even an unanswered keep-alive holds it up.
    t.at(1000);
    assert!(t.said().line().starts_with("OPTIONS "));
    t.client.play(1001 * S);
    assert_eq!(t.said().line(), "PLAY rtsp://camera/live RTSP/1.0");
    assert_eq!(t.hears("RTSP/1.0 200 OK\r\nCSeq: 102", ""), Ok(Step::None), "of the keep-alive");
    assert_eq!(t.hears("RTSP/1.0 200 OK\r\nCSeq: 103", ""), Ok(Step::Playing));

    let mut t = Talk::new(false);
    t.set_up(SDP, ";timeout=20");
    t.at(10).said();
    let failure = t.hears("RTSP/1.0 454 Session Not Found", "").unwrap_err();
    assert_eq!(failure.kind, SessionEndKind::ClosedByCamera, "a standby must know that it has no session any more");
    let mut t = Talk::new(false);
    t.set_up(SDP, ";timeout=20");
    t.at(10).said();
    t.at(19).says_nothing();
    let failure = t.client.tick(20 * S).unwrap_err();
    assert_eq!(failure.kind, SessionEndKind::Silence, "nor that there is nobody there");

    // Wanted before it is set up: it does not stop on the way.
    let mut t = Talk::new(false);
    t.client.play(0);
    t.set_up(SDP, "");
    assert!(t.said().line().starts_with("PLAY "));
}

#[test]
fn redirects_are_followed_and_passwords_stay_at_home() {
    let mut t = Talk::with(Some(Credentials::new("bob", "geheim")), true);
    t.said();
    t.hears(DIGEST, "").unwrap();
    assert!(t.said().header("Authorization").is_some());
    assert_eq!(t.hears("RTSP/1.0 302 Moved\r\nLocation: rtsp://elsewhere/x", ""), Ok(Step::Moved));
    assert_eq!(t.client.url().as_str(), "rtsp://elsewhere/x");
    t.client.connected(1);
    let said = t.said();
    assert_eq!((said.line(), said.header("Authorization")), ("DESCRIBE rtsp://elsewhere/x RTSP/1.0", None));
    let failure = t.hears(DIGEST, "").unwrap_err();
    assert!(failure.kind == SessionEndKind::Unauthorized && failure.message.contains("redirected to elsewhere"));
    let mut t = Talk::new(true);
    for n in 0..6 {
        t.said();
        let step = t.hears("RTSP/1.0 301 Moved\r\nLocation: /x", "");
        assert_eq!(step.is_ok(), n < 5);
        t.client.connected(1);
    }
}

#[test]
fn requests_of_the_camera_are_answered() {
    let mut t = Talk::playing("");
    t.hears("OPTIONS * RTSP/1.0\r\nCSeq: 7", "").unwrap();
    let said = t.said();
    assert_eq!((said.line(), said.header("CSeq")), ("RTSP/1.0 200 OK", Some("7")));
    t.hears("ANNOUNCE rtsp://x RTSP/1.0\r\nCSeq: 8\r\nX: \u{1}", SDP).unwrap();
    assert_eq!(t.said().line(), "RTSP/1.0 200 OK");
    t.hears("RECORD rtsp://x RTSP/1.0\r\nCSeq: evil", "").unwrap();
    let said = t.said();
    assert_eq!((said.line(), said.header("CSeq")), ("RTSP/1.0 501 Not Implemented", None));
    for _ in 0..10_000 {
        t.hears("OPTIONS * RTSP/1.0\r\nCSeq: 7", "").unwrap();
    }
    assert!(t.client.unsent().len() < MAX_UNSENT_BYTES + 1000, "who does not read gets no more answers");
    let failure = t.hears("TEARDOWN rtsp://x RTSP/1.0\r\nCSeq: 9", "").unwrap_err();
    assert_eq!(failure.kind, SessionEndKind::ClosedByCamera);
}

#[test]
fn any_talk_ends_or_goes_on_and_never_panics() {
    use proptest::prelude::*;
    let word = prop_oneof![
        Just((DIGEST.to_owned(), String::new())),
        Just((
            "RTSP/1.0 200 OK\r\nSession: s;timeout=2\r\nTransport: RTP/AVP/TCP;interleaved=0-1".to_owned(),
            format!("{SDP}{AUDIO}")
        )),
        Just(("RTSP/1.0 200 OK".to_owned(), SDP.to_owned())),
        Just(("RTSP/1.0 302 Moved\r\nLocation: /x".to_owned(), String::new())),
        ("[12345][0-9][0-9]", "[ -~]{0,60}", "[ -~]{0,60}").prop_map(|(status, session, transport)| {
            (
                format!(
                    "RTSP/1.0 {status} X\r\nSession: {session}\r\nTransport: {transport}\r\nWWW-Authenticate: {session}"
                ),
                transport,
            )
        }),
        "(OPTIONS|ANNOUNCE|X) [!-~]{1,20} RTSP/1[.]0".prop_map(|line| (line, String::new())),
    ];
    proptest!(|(words in proptest::collection::vec(word, 0..40), hold in any::<bool>())| {
        let mut t = Talk::with(Some(Credentials::new("bob", "geheim")), !hold);
        for (head, body) in words {
            t.now_us += S;
            let _ = t.client.tick(t.now_us);
            match t.hears(&head, &body) {
                Err(_) => break,
                Ok(Step::Moved) => t.client.connected(t.now_us),
                Ok(_) => {}
            }
            t.client.play(t.now_us);
            prop_assert!(t.client.unsent().len() < 2 * MAX_UNSENT_BYTES);
            prop_assert!(!String::from_utf8_lossy(t.client.unsent()).contains("geheim"));
        }
        t.client.close(t.now_us);
    });
}
