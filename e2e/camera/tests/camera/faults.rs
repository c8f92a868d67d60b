//! Each fault does what it says to a client, is in the ledger, and leaves other cameras alone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use framekeeper_e2e_camera::{
    Corruption, DescribeFault, EndReason, Fault, Kind, Ledger, Record, SdpFault, Server, read_sei,
};

use crate::common::{events, receive, run, serve, stamped, wait_for};

/// A client by hand: one connection, requests answered in order, interleaved packets kept apart.
struct Client {
    stream: TcpStream,
    url: String,
    session: String,
    /// What was received and not looked at.
    input: Vec<u8>,
}

/// What the peer sent next.
#[derive(Debug)]
enum Message {
    Response(String),
    Packet(u8, Vec<u8>),
    Closed,
}

impl Client {
    fn connect(server: &Server, camera: &str) -> Self {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, url: server.url(camera), session: String::new(), input: Vec::new() }
    }

    fn next(&mut self) -> Message {
        loop {
            if let [b'$', channel, high, low, rest @ ..] = self.input.as_slice() {
                let (channel, length) = (*channel, usize::from(u16::from_be_bytes([*high, *low])));
                if rest.len() >= length {
                    let packet = rest[..length].to_vec();
                    self.input.drain(..4 + length);
                    return Message::Packet(channel, packet);
                }
            } else if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
                let body = head
                    .split_once("Content-Length: ")
                    .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                if self.input.len() >= end + 4 + body {
                    let text = String::from_utf8_lossy(&self.input[..end + 4 + body]).into_owned();
                    self.input.drain(..end + 4 + body);
                    return Message::Response(text);
                }
            }
            let mut more = [0; 65536];
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return Message::Closed,
                Ok(count) => self.input.extend_from_slice(&more[..count]),
            }
        }
    }

    fn request(&mut self, method: &str, path: &str, headers: &str) -> String {
        let session = if self.session.is_empty() { String::new() } else { format!("Session: {}\r\n", self.session) };
        let request = format!("{method} {}{path} RTSP/1.0\r\nCSeq: 7\r\n{session}{headers}\r\n", self.url);
        self.stream.write_all(request.as_bytes()).unwrap();
        loop {
            match self.next() {
                Message::Response(text) => return text,
                Message::Packet(..) => {}
                Message::Closed => return String::new(),
            }
        }
    }

    fn setup(&mut self) -> String {
        let response = self.request("SETUP", "/trackID=0", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n");
        if let Some((_, rest)) = response.split_once("Session: ") {
            self.session = rest.split([';', '\r']).next().unwrap().to_owned();
        }
        response
    }

    fn play(&mut self) -> String {
        self.setup();
        self.request("PLAY", "", "")
    }

    /// The next RTP packet of the video track.
    fn rtp(&mut self) -> Vec<u8> {
        loop {
            match self.next() {
                Message::Packet(0, packet) => return packet,
                Message::Closed => panic!("connection closed"),
                Message::Packet(..) | Message::Response(_) => {}
            }
        }
    }
}

fn sequence(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

fn timestamp(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

const SMALL: &str = "width=320,height=240,bitrate=300k,gop=10";

#[test]
fn rtp_info_announces_the_first_packet_and_reports_tell_its_wall_clock() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}")]);
    let mut client = Client::connect(&server, "a");
    let answer = client.play();
    let field = |name: &str| {
        let (_, rest) = answer.split_once(name).unwrap();
        rest.split(['\r', ';', ',']).next().unwrap().parse::<u32>().unwrap()
    };
    let Message::Packet(1, report) = client.next() else { panic!("no sender report first") };
    let first = client.rtp();
    assert_eq!(u32::from(sequence(&first)), field("seq="));
    assert_eq!(timestamp(&first), field("rtptime="));
    assert_eq!(report[16..20], first[4..8], "RTP timestamp of the report");
    let sps = client.rtp()[12];
    assert_eq!((first[12], sps), (0x67, 0x68));
    let (_, time) = read_sei(&client.rtp()[12..]).unwrap();
    let ledger = wait_for(&server, "a", |record| record.kind == Kind::SessionBegan);
    let emitted = ledger.video().find(|record| record.media_time == time).unwrap();
    let seconds = u32::from_be_bytes(report[8..12].try_into().unwrap()) - 2_208_988_800;
    let fraction = f64::from(u32::from_be_bytes(report[12..16].try_into().unwrap())) / f64::from(u32::MAX);
    // The report tells the even clock; when the loop woke is later on a busy machine.
    let off = f64::from(seconds) + fraction - ledger.due_ns(emitted).unwrap() as f64 / 1e9;
    assert!(off.abs() < 0.2, "{off} s");
}

#[test]
fn two_sessions_get_the_same_bytes_under_different_numbers() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}")]);
    let mut clients = [Client::connect(&server, "a"), Client::connect(&server, "a")];
    let mut packets = [Vec::new(), Vec::new()];
    for client in &mut clients {
        assert!(client.play().starts_with("RTSP/1.0 200"));
    }
    for (client, packets) in clients.iter_mut().zip(&mut packets) {
        packets.extend((0..40).map(|_| client.rtp()));
    }
    // One of them may have begun a GOP later.
    let first = packets[1][2][12..].to_vec();
    let shift = packets[0].iter().position(|packet| packet[12..] == first).expect("same frames") - 2;
    let same = packets[0][shift..].iter().zip(&packets[1]);
    assert!(same.clone().count() > 5);
    for (one, other) in same {
        assert_eq!(one[12..], other[12..]);
        assert_ne!((sequence(one), timestamp(one), &one[8..12]), (sequence(other), timestamp(other), &other[8..12]));
    }
}

#[test]
fn a_camera_may_code_for_each_session() {
    let (server, _folder) = serve(&[&format!("name=a,per_session=true,{SMALL}")]);
    let url = server.url("a");
    let received = std::thread::scope(|scope| {
        let sessions = [(); 2].map(|()| scope.spawn(|| receive(&url, 40)));
        sessions.map(|session| session.join().unwrap())
    });
    let ledger = Ledger::read(server.ledger_path("a")).unwrap();
    let recoded: Vec<&Record> = ledger.records.iter().filter(|record| record.kind == Kind::Recoded).collect();
    let mut seen = std::collections::HashMap::new();
    for (stream, messages) in &received {
        assert_eq!(messages, "");
        let units = stamped(stream);
        assert_eq!(units.len(), 40);
        for (at, (number, time, hash)) in units.iter().enumerate() {
            // The same scene, at the same time of it, in bytes of its own and with key frames of its own.
            let known = recoded.iter().find(|record| record.hash == *hash).expect("bytes that the ledger has");
            assert_eq!((known.number, known.media_time, known.is_key()), (*number, *time, at % 10 == 0));
            assert!(ledger.video().any(|record| (record.number, record.media_time) == (*number, *time)));
            assert_ne!(seen.insert(*number, *hash), Some(*hash), "two sessions got the same bytes");
        }
    }
    assert!(seen.len() < 80, "the two sessions have no picture in common");
}

#[test]
fn silent_sessions_are_closed_and_keep_alives_keep_them() {
    let (server, _folder) = serve(&[&format!("name=a,timeout=1,{SMALL}")]);
    let mut kept = Client::connect(&server, "a");
    let mut silent = Client::connect(&server, "a");
    assert!(kept.setup().contains(";timeout=1"));
    silent.play();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert!(kept.request("GET_PARAMETER", "", "").starts_with("RTSP/1.0 200"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let ended = |record: &Record| record.kind == Kind::SessionEnded && record.bytes == EndReason::Timeout as u32;
    wait_for(&server, "a", ended);
    assert!(kept.request("TEARDOWN", "", "").starts_with("RTSP/1.0 200"));
}

#[test]
fn sessions_that_do_not_play_are_closed_where_the_camera_is_like_that() {
    let (server, _folder) = serve(&[&format!("name=a,idle=1,{SMALL}")]);
    let mut idle = Client::connect(&server, "a");
    let mut playing = Client::connect(&server, "a");
    // The second may begin as soon as this is asked, however late the answer is read.
    let since = Instant::now();
    idle.setup();
    playing.play();
    while since.elapsed() < Duration::from_secs(10) && idle.stream.write_all(b"$\x01\0\0").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(since.elapsed() > Duration::from_secs(1) && since.elapsed() < Duration::from_secs(10));
    assert!(playing.request("GET_PARAMETER", "", "").starts_with("RTSP/1.0 200"));
}

#[test]
fn a_session_that_does_not_read_loses_frames_and_nobody_else_does() {
    let (server, _folder) = serve(&["name=a,width=1280,height=720,bitrate=60M,gop=25"]);
    let mut stuck = Client::connect(&server, "a");
    stuck.play();
    let (stream, messages) = receive(&server.url("a"), 100);
    assert_eq!(messages, "");
    assert_eq!(stamped(&stream).len(), 100);
    let ledger = wait_for(&server, "a", |record| record.kind == Kind::Lost);
    let began = ledger.records.iter().find(|record| record.kind == Kind::SessionBegan).unwrap();
    let lost: Vec<_> = ledger.records.iter().filter(|record| record.kind == Kind::Lost).collect();
    assert!(lost.iter().all(|record| record.hash == began.number), "another session lost frames");
    // Reading on, it gets newer frames again, behind a gap in the sequence numbers.
    let newest = lost.last().unwrap().number;
    let mut last = sequence(&stuck.rtp());
    let mut gap = false;
    loop {
        let packet = stuck.rtp();
        gap |= sequence(&packet) != last.wrapping_add(1);
        last = sequence(&packet);
        if read_sei(&packet[12..]).is_some_and(|(number, _)| number > newest) {
            break;
        }
    }
    assert!(gap);
}

#[test]
fn passwords_redirects_limits_and_paths() {
    let (server, _folder) = serve(&[
        &format!("name=digest,user=u,password=geheim,{SMALL}"),
        &format!("name=sha,user=u,password=p,algorithm=sha256,qop=true,{SMALL}"),
        &format!("name=basic,user=u,password=p,auth=basic,{SMALL}"),
        &format!("name=moved,redirect=open,{SMALL}"),
        &format!("name=open,max_sessions=1,{SMALL}"),
        &format!("name=last,max_sessions=1,replace=true,{SMALL}"),
        &format!("name=stale,user=u,password=p,nonce_seconds=1,{SMALL}"),
    ]);
    let with = |name: &str, user: &str| server.url(name).replace("://", &format!("://{user}@"));
    for url in [with("digest", "u:geheim"), with("basic", "u:p"), server.url("moved"), with("stale", "u:p")] {
        let (stream, messages) = receive(&url, 5);
        assert_eq!((stamped(&stream).len(), messages.as_str()), (5, ""), "{url}");
    }
    for (url, says) in [
        (with("digest", "u:falsch"), "401"),
        (with("basic", "v:p"), "401"),
        (server.url("sha"), "401"),
        (server.url("nowhere"), "404"),
    ] {
        let (stream, messages) = receive(&url, 5);
        assert!(stream.is_empty() && messages.contains(says), "{url}: {messages}");
    }
    let mut first = Client::connect(&server, "open");
    assert!(first.setup().starts_with("RTSP/1.0 200"));
    assert!(Client::connect(&server, "open").setup().starts_with("RTSP/1.0 453"));
    let (mut first, mut last) = (Client::connect(&server, "last"), Client::connect(&server, "last"));
    assert!(first.play().starts_with("RTSP/1.0 200") && last.play().starts_with("RTSP/1.0 200"));
    while !matches!(first.next(), Message::Closed) {}
    last.rtp();
    let transport = "Transport: RTP/AVP;unicast;client_port=5000-5001\r\n";
    assert!(Client::connect(&server, "open").request("SETUP", "/trackID=0", transport).starts_with("RTSP/1.0 461"));
}

#[test]
fn stale_nonces_say_so() {
    let (server, _folder) = serve(&[&format!("name=a,user=u,password=p,nonce_seconds=1,{SMALL}")]);
    let nonce_of = |response: &str| response.split_once("nonce=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let mut client = Client::connect(&server, "a");
    let challenge = client.request("DESCRIBE", "", "");
    assert!(challenge.starts_with("RTSP/1.0 401") && !challenge.contains("stale"));
    let url = client.url.clone();
    let md5 = |text: String| -> String {
        use md5::Digest as _;
        md5::Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let answer = |nonce: &str| {
        let secret = md5("u:ledger camera:p".to_owned());
        let response = md5(format!("{secret}:{nonce}:{}", md5(format!("DESCRIBE:{url}"))));
        format!(
            "Authorization: Digest username=\"u\", realm=\"ledger camera\", nonce=\"{nonce}\", uri=\"{url}\", \
             response=\"{response}\"\r\n"
        )
    };
    let nonce = nonce_of(&challenge);
    assert!(client.request("DESCRIBE", "", &answer(&nonce)).starts_with("RTSP/1.0 200"));
    let since = Instant::now();
    let stale = loop {
        let response = client.request("DESCRIBE", "", &answer(&nonce));
        if response.starts_with("RTSP/1.0 401") {
            break response;
        }
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(stale.contains("stale=true"), "{stale}");
    assert!(client.request("DESCRIBE", "", &answer(&nonce_of(&stale))).starts_with("RTSP/1.0 200"));
}

#[test]
fn faults_of_the_stream_do_what_they_say() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}"), &format!("name=b,{SMALL}")]);
    let fault = |fault: Fault| server.fault("a", fault).unwrap();
    let mut bystander = Client::connect(&server, "b");
    bystander.play();
    let mut client = Client::connect(&server, "a");
    client.play();
    let mut last = client.rtp();
    let mut until = |client: &mut Client, fits: &dyn Fn(&[u8], &[u8]) -> bool| {
        for _ in 0..2000 {
            let packet = client.rtp();
            let found = fits(&last, &packet);
            last = packet;
            if found {
                return;
            }
        }
        panic!("not seen in 2000 packets");
    };
    let ssrc = client.rtp()[8..12].to_vec();

    let is_key = |packet: &[u8]| packet[12] == 0x67;
    until(&mut client, &|_, now| is_key(now));
    fault(Fault::Key);
    let pictures = std::cell::Cell::new(0);
    until(&mut client, &|_, now| {
        pictures.set(pictures.get() + u32::from(read_sei(&now[12..]).is_some()));
        is_key(now)
    });
    assert!(pictures.get() < 10, "{} pictures before a key frame that was asked for", pictures.get());

    fault(Fault::SequenceJump { by: 1000 });
    until(&mut client, &|last, now| sequence(now) == sequence(last).wrapping_add(1001));
    fault(Fault::TimestampJump { by: 900_000 });
    until(&mut client, &|last, now| timestamp(now).wrapping_sub(timestamp(last)) == 903_600);
    fault(Fault::Drop { every: 5 });
    until(&mut client, &|last, now| sequence(now) == sequence(last).wrapping_add(2));
    fault(Fault::Drop { every: 0 });
    fault(Fault::Corrupt { what: Corruption::Version, every: 3 });
    until(&mut client, &|_, now| now[0] >> 6 == 1);
    fault(Fault::Corrupt { what: Corruption::Short, every: 3 });
    until(&mut client, &|_, now| now.len() == 3 || now.len() < 12);
    fault(Fault::Corrupt { what: Corruption::ForeignSsrc, every: 3 });
    // What was on its way when the fault was switched may still be short.
    until(&mut client, &|_, now| now.len() > 12 && now[8..12] != ssrc[..]);
    fault(Fault::Corrupt { what: Corruption::OrphanFragment, every: 3 });
    until(&mut client, &|_, now| now.len() == 17 && now[12..14] == [0x7c, 0x01]);
    fault(Fault::None);
    fault(Fault::Resolution { width: 640, height: 480 });
    until(&mut client, &|_, now| now.len() > 12 && now[12] == 0x67);
    let (stream, messages) = receive(&server.url("a"), 30);
    assert_eq!((stamped(&stream).len(), messages.as_str()), (30, ""));

    fault(Fault::Kill);
    while !matches!(client.next(), Message::Closed) {}
    wait_for(&server, "a", |record| record.kind == Kind::SessionEnded && record.bytes == EndReason::Killed as u32);
    let ledger = Ledger::read(server.ledger_path("a")).unwrap();
    let codes: Vec<_> =
        events(&ledger).iter().filter(|record| record.kind == Kind::Fault).map(|record| record.number).collect();
    assert_eq!(codes, [15, 8, 7, 5, 5, 6, 6, 6, 6, 0, 9, 1]);
    for _ in 0..50 {
        let packet = bystander.rtp();
        assert_eq!(packet[0], 0x80);
    }
}

#[test]
fn a_frozen_camera_is_silent_and_comes_back_with_a_key_frame() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}")]);
    let mut client = Client::connect(&server, "a");
    client.play();
    client.rtp();
    server.fault("a", Fault::Freeze { on: true }).unwrap();
    let before = server.latest("a").unwrap().video.unwrap();
    assert!(client.request("OPTIONS", "", "").starts_with("RTSP/1.0 200"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.latest("a").unwrap().video.unwrap().number, before.number);
    server.fault("a", Fault::Freeze { on: false }).unwrap();
    let ledger = wait_for(&server, "a", |record| record.kind == Kind::Video && record.number > before.number);
    let after = ledger.video().find(|record| record.number == before.number + 1).unwrap();
    assert!(after.is_key());
    let skipped_ms = (after.media_time - before.media_time) / 90;
    assert!((400..2000).contains(&skipped_ms), "{skipped_ms}");
}

#[test]
fn a_slow_session_loses_frames_and_a_hanging_camera_answers_nothing() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}")]);
    let mut client = Client::connect(&server, "a");
    client.play();
    server.fault("a", Fault::Slow { bytes_per_second: 10_000 }).unwrap();
    wait_for(&server, "a", |record| record.kind == Kind::Lost);
    server.fault("a", Fault::Slow { bytes_per_second: 0 }).unwrap();
    let lost = Ledger::read(server.ledger_path("a")).unwrap();
    let newest = lost.records.iter().rfind(|record| record.kind == Kind::Lost).unwrap().number;
    while read_sei(&client.rtp()[12..]).is_none_or(|(number, _)| number <= newest) {}

    server.fault("a", Fault::Hang { on: true }).unwrap();
    let request = format!("OPTIONS {} RTSP/1.0\r\nCSeq: 9\r\n\r\n", client.url);
    client.stream.write_all(request.as_bytes()).unwrap();
    client.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    // Frames that were on their way come first.
    loop {
        match client.next() {
            Message::Packet(..) => {}
            Message::Closed => break,
            Message::Response(text) => panic!("{text}"),
        }
    }
    server.fault("a", Fault::Hang { on: false }).unwrap();
    let answered = std::iter::repeat_with(|| client.next()).find(|message| !matches!(message, Message::Packet(..)));
    assert!(matches!(answered, Some(Message::Response(text)) if text.contains("CSeq: 9")));
}

#[test]
fn a_session_may_begin_with_any_frame() {
    let (server, _folder) = serve(&["name=a,start=any,width=320,height=240,bitrate=300k,gop=500"]);
    wait_for(&server, "a", |record| record.number >= 3);
    let mut client = Client::connect(&server, "a");
    client.play();
    let (number, _) = read_sei(&client.rtp()[12..]).expect("a stamp first: no parameter sets before a P picture");
    let ledger = wait_for(&server, "a", |record| record.kind == Kind::SessionBegan);
    let began = ledger.records.iter().find(|record| record.kind == Kind::SessionBegan).unwrap();
    assert_eq!(began.hash, number);
    assert!(!ledger.video().find(|record| record.number == number).unwrap().is_key());
}

#[test]
fn descriptions_can_be_wrong_in_each_way() {
    let (server, _folder) = serve(&[&format!("name=a,{SMALL}")]);
    let describe = || Client::connect(&server, "a").request("DESCRIBE", "", "");
    for (what, says) in [
        (SdpFault::Garbage, "no equals sign"),
        (SdpFault::Mpeg4, "MP4V-ES"),
        (SdpFault::H263, "H263-1998"),
        (SdpFault::H265, "H265/90000"),
    ] {
        server.fault("a", Fault::Sdp { what }).unwrap();
        assert!(describe().contains(says));
    }
    server.fault("a", Fault::Sdp { what: SdpFault::Empty }).unwrap();
    assert!(!describe().contains("m="));
    for (what, says) in [
        (DescribeFault::NotFound, "RTSP/1.0 404"),
        (DescribeFault::ServerError, "RTSP/1.0 500"),
        (DescribeFault::Unavailable, "RTSP/1.0 503"),
        (DescribeFault::NotRtsp, "HTTP/1.1 200"),
    ] {
        server.fault("a", Fault::Describe { what }).unwrap();
        assert!(describe().starts_with(says));
    }
    server.fault("a", Fault::Refuse { on: true }).unwrap();
    assert_eq!(describe(), "");
    server.fault("a", Fault::None).unwrap();
    assert!(describe().contains("H264/90000"));

    server.accepting(false).unwrap();
    assert!(TcpStream::connect(server.addr()).is_err());
    server.accepting(true).unwrap();
    assert!(describe().contains("H264/90000"));
}

#[test]
fn the_control_port_lists_switches_and_explains() {
    let (server, _folder) = serve(&[&format!("name=a,user=u,password=geheim,{SMALL}")]);
    let base = format!("http://{}", server.control_addr().unwrap());
    let curl = |arguments: &[&str]| String::from_utf8(run("curl", arguments).stdout).unwrap();
    wait_for(&server, "a", |record| record.kind == Kind::Video);
    let list = curl(&["-s", &format!("{base}/cameras")]);
    assert!(list.contains("\"name\":\"a\"") && !list.contains("geheim"), "{list}");
    assert!(curl(&["-s", &format!("{base}/cameras/a/latest")]).contains("media_time"));
    assert!(curl(&["-s", &format!("{base}/cameras/x/latest")]).contains("no camera `x`"));
    let url = format!("{base}/cameras/a/fault");
    assert_eq!(curl(&["-s", "-d", r#"{"fault":"drop","every":9}"#, &url]).trim(), "{}");
    assert!(curl(&["-s", "-d", r#"{"fault":"dorp"}"#, &url]).contains("dorp"));
    wait_for(&server, "a", |record| record.kind == Kind::Fault && record.number == 5 && record.hash == 9);
}

#[test]
fn a_second_start_goes_on_in_the_same_ledger() {
    let (server, folder) = serve(&[&format!("name=a,audio=aac,{SMALL}")]);
    wait_for(&server, "a", |record| record.kind == Kind::Audio && record.number >= 5);
    server.stop().unwrap();
    let first = Ledger::read(folder.path().join("a.ledger")).unwrap();
    assert_eq!(first.records.last().unwrap().kind, Kind::Stopped);

    let spec = format!("name=a,audio=aac,{SMALL}").parse().unwrap();
    let server = Server::start(framekeeper_e2e_camera::ServerConfig::new(folder.path(), vec![spec])).unwrap();
    let last = first.video().last().unwrap().number;
    wait_for(&server, "a", |record| record.kind == Kind::Video && record.number == last + 3);
    server.stop().unwrap();
    let second = Ledger::read(folder.path().join("a.ledger")).unwrap();
    let video: Vec<_> = second.video().collect();
    assert!(video.iter().enumerate().all(|(at, record)| record.number == at as u64));
    assert!(video.windows(2).all(|pair| pair[0].media_time < pair[1].media_time));
    assert!(second.audio().enumerate().all(|(at, record)| record.number == at as u64));
}
