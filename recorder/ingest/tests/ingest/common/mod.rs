//! Cameras that do as a test says, and a sink that writes down what it hears.
#![allow(unreachable_pub, reason = "a test's module has no outside")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use framekeeper_ingest::backoff::{BackoffLimits, Curve};
use framekeeper_ingest::silence::SilenceLimits;
use framekeeper_ingest::{Event, Ingest, IngestConfig, SessionEnd, Sink, SourceSpec, TickTime};
use url::Url;

/// Longer than anything takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// 320 × 240, baseline.
pub const SPS_A: &[u8] = &[
    0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03,
    0x20, 0xf1, 0x42, 0xa4, 0x80,
];
pub const PPS_A: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];
/// 640 × 480, high.
pub const SPS_B: &[u8] = &[
    0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x3d, 0xb0, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03,
    0x00, 0x32, 0x0f, 0x16, 0x2d, 0x96,
];
pub const PPS_B: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
/// base64 of SPS_A, PPS_A.
pub const SPROP_A: &str = "Z0LADdkBQfsBEAAAAwAQAAADAyDxQqSA,aMuDyyA=";

pub const VIDEO_SDP: &str = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n";

pub fn sdp(media: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n{media}")
}

/// H.264 with parameter sets, nothing else.
pub fn video_sdp() -> String {
    sdp(&format!(
        "{VIDEO_SDP}a=fmtp:96 packetization-mode=1;profile-level-id=42c00d;sprop-parameter-sets={SPROP_A}\r\n"
    ))
}

/// What a camera was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub uri: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A connection as the camera sees it.
pub struct Conn {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// How many connections came before it.
    pub number: usize,
    seq: [u16; 2],
}

impl Conn {
    /// The next request; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Request> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if !line.trim().is_empty() {
                break;
            }
        }
        let mut words = line.split_whitespace();
        let (method, uri) = (words.next()?.to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Some(Request { method, uri, headers })
    }

    /// The next interleaved packet of the client, and its channel; requests before it are dropped.
    pub fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut byte = [0];
        while byte != [b'$'] {
            self.reader.read_exact(&mut byte).ok()?;
        }
        let mut header = [0; 3];
        self.reader.read_exact(&mut header).ok()?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
        self.reader.read_exact(&mut packet).ok()?;
        Some((header[0], packet))
    }

    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn respond(&mut self, to: &Request, status: &str, headers: &str, body: &str) -> bool {
        let cseq = to.header("CSeq").unwrap_or("0");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.raw(format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}{length}\r\n{body}").as_bytes())
    }

    /// Answers one request as a well-behaved camera would. False at the end of the connection.
    pub fn answer(&mut self, request: &Request, sdp: &str, session: &str) -> bool {
        match request.method.as_str() {
            "DESCRIBE" => self.respond(request, "200 OK", "Content-Type: application/sdp\r\n", sdp),
            "SETUP" => {
                let transport = request.header("Transport").unwrap_or_default().to_owned();
                self.respond(request, "200 OK", &format!("Session: {session}\r\nTransport: {transport}\r\n"), "")
            }
            "OPTIONS" => {
                self.respond(request, "200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER\r\n", "")
            }
            _ => self.respond(request, "200 OK", &format!("Session: {session}\r\n"), ""),
        }
    }

    /// Up to the answer to PLAY. False if the client went away first.
    pub fn play(&mut self, sdp: &str, session: &str) -> bool {
        while let Some(request) = self.request() {
            if !self.answer(&request, sdp, session) {
                return false;
            }
            if request.method == "PLAY" {
                return true;
            }
        }
        false
    }

    /// An RTP packet on `track` (0 video, 1 audio).
    pub fn rtp(&mut self, track: usize, timestamp: u32, marker: bool, payload: &[u8]) -> bool {
        let seq = self.seq[track];
        self.seq[track] = seq.wrapping_add(1);
        self.rtp_with_seq(track, seq, timestamp, marker, payload)
    }

    pub fn skip_packets(&mut self, track: usize, n: u16) {
        self.seq[track] = self.seq[track].wrapping_add(n);
    }

    pub fn rtp_with_seq(&mut self, track: usize, seq: u16, timestamp: u32, marker: bool, payload: &[u8]) -> bool {
        let mut p = vec![b'$', track as u8 * 2];
        p.extend_from_slice(&(12 + payload.len() as u16).to_be_bytes());
        p.extend_from_slice(&[0x80, (96 + track as u8) | if marker { 0x80 } else { 0 }]);
        p.extend_from_slice(&seq.to_be_bytes());
        p.extend_from_slice(&timestamp.to_be_bytes());
        p.extend_from_slice(&(0x1234_0000 + track as u32).to_be_bytes());
        p.extend_from_slice(payload);
        self.raw(&p)
    }

    pub fn sender_report(&mut self, track: usize, ntp: u64, timestamp: u32) -> bool {
        let mut p = vec![b'$', track as u8 * 2 + 1, 0, 28, 0x80, 200, 0, 6];
        p.extend_from_slice(&(0x1234_0000 + track as u32).to_be_bytes());
        p.extend_from_slice(&ntp.to_be_bytes());
        p.extend_from_slice(&timestamp.to_be_bytes());
        p.extend_from_slice(&[0; 8]);
        self.raw(&p)
    }

    /// A key frame; `n` makes it differ from others.
    pub fn idr(&mut self, timestamp: u32, n: u8) -> bool {
        self.rtp(0, timestamp, true, &[0x65, 0x88, 0x84, n, 1])
    }

    /// A frame that needs the one before.
    pub fn p(&mut self, timestamp: u32, n: u8) -> bool {
        self.rtp(0, timestamp, true, &[0x41, 0x9a, 0x24, n, 1])
    }

    /// Frames at 50 a second from `timestamp` on until the client goes away, a key frame first and every 25.
    pub fn stream_on(&mut self, mut timestamp: u32) {
        for n in 0.. {
            let sent = if n % 25 == 0 { self.idr(timestamp, n as u8) } else { self.p(timestamp, n as u8) };
            if !sent {
                return;
            }
            timestamp = timestamp.wrapping_add(1800);
            self.wait(Duration::from_millis(20));
        }
    }

    /// Lets time pass, as a camera does between frames; reads and drops what the client says.
    pub fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut buf = [0; 1024];
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            let _ = self.stream.set_read_timeout(Some(left));
            if let Ok(0) = self.reader.read(&mut buf) {
                std::thread::sleep(left);
            }
        }
        let _ = self.stream.set_read_timeout(None);
    }

    /// Holds the connection until the client closes it.
    pub fn hold(&mut self) {
        let mut buf = [0; 1024];
        while matches!(self.reader.read(&mut buf), Ok(1..)) {}
    }
}

/// A camera that handles each connection by `script`, on a thread of its own.
pub struct Camera {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Camera {
    pub fn new(script: impl Fn(Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    let reader = BufReader::new(stream.try_clone().unwrap());
                    script(Conn { stream, reader, number, seq: [65_530, 7] });
                });
            }
        });
        Self { addr, connections }
    }

    /// Plays and streams on.
    pub fn good() -> Self {
        Self::new(|mut conn| {
            if conn.play(&video_sdp(), "s1") {
                conn.stream_on(0);
            }
        })
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("rtsp://{}/live", self.addr)).unwrap()
    }

    pub fn spec(&self) -> SourceSpec {
        SourceSpec::new(self.url())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

struct Notes(Sender<(TickTime, Event)>, Arc<AtomicBool>);

impl Sink for Notes {
    fn event(&mut self, at: TickTime, event: Event) {
        let _ = self.0.send((at, event));
    }
    fn tick(&mut self, _at: TickTime) {}
    fn holds(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

/// What a sink heard.
pub struct Heard(Receiver<(TickTime, Event)>);

pub fn sink() -> (Box<dyn Sink>, Heard) {
    let (sink, heard, _) = sink_that_holds(false);
    (sink, heard)
}

/// A sink whose session is to be held, for as long as that says so.
pub fn sink_that_holds(hold: bool) -> (Box<dyn Sink>, Heard, Arc<AtomicBool>) {
    let (tx, rx) = channel();
    let holds = Arc::new(AtomicBool::new(hold));
    (Box::new(Notes(tx, Arc::clone(&holds))), Heard(rx), holds)
}

impl Heard {
    /// The next event, whatever it is.
    pub fn next(&self) -> (TickTime, Event) {
        self.0.recv_timeout(PATIENCE).expect("an event")
    }

    /// The next event that `pick` picks; the others are dropped.
    pub fn until<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Ok((_, event)) = self.0.recv_timeout(left) else { break };
            if let Some(found) = pick(&event) {
                return found;
            }
            if seen.len() < 40 {
                seen.push(format!("{event:?}").chars().take(160).collect::<String>());
            }
        }
        panic!("{what} never came; heard {seen:#?}");
    }

    pub fn end(&self) -> SessionEnd {
        self.until("the end of a session", |e| if let Event::Ended(end) = e { Some(end.clone()) } else { None })
    }

    pub fn video(&self) -> framekeeper_media::AccessUnit {
        self.until("a video frame", |e| if let Event::Video(unit) = e { Some(unit.clone()) } else { None })
    }

    pub fn playing(&self) -> framekeeper_ingest::StreamParameters {
        self.until("PLAY", |e| if let Event::Playing(p) = e { Some((**p).clone()) } else { None })
    }

    /// True when nobody can say anything any more.
    pub fn is_over(&self) -> bool {
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

/// Quick ticks and short limits, so that tests need not wait.
pub fn quick() -> IngestConfig {
    let ms = Duration::from_millis;
    IngestConfig {
        tick: ms(10),
        silence: SilenceLimits { any: ms(1500), video: ms(3000) },
        handshake_limit: Duration::from_secs(3),
        teardown_limit: ms(300),
        backoff: BackoffLimits { usual: Curve { first: ms(20), max: ms(100), least: 0.0 }, ..BackoffLimits::default() },
        ..IngestConfig::default()
    }
}

pub fn start() -> Ingest {
    Ingest::start(quick(), Box::new(|_| {})).unwrap()
}
