//! How RTSP requests are answered.

use crate::auth::Verdict;
use crate::camera::{Track, event};
use crate::conn::{Connection, Phase, Session, TrackState};
use crate::fault::DescribeFault;
use crate::ledger::{EndReason, Kind, Record};
use crate::recode::Recoder;
use crate::rtsp::{Input, Request, Response, interleaved, take};
use crate::sdp;
use crate::server::{State, wall_ns};
use crate::spec::{AudioKind, StartAt};

/// What `OPTIONS` tells.
const METHODS: &str = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER, SET_PARAMETER";

/// What becomes of the connection after a request.
enum Answer {
    Send(Response),
    /// These bytes, whatever they are, and then the connection is closed.
    SendAndClose(Vec<u8>),
    /// The session is over, and the connection with it.
    Teardown(Response),
    /// The connection is reset.
    Reset,
}

impl State {
    /// Answers what has come in. The error says why the connection has to be closed.
    pub(crate) fn serve(&mut self, key: usize, connection: &mut Connection) -> Result<(), EndReason> {
        loop {
            let now_ns = self.now_ns();
            match take(&mut connection.input) {
                Ok(None) => return Ok(()),
                // Reports on any channel count as a sign of life.
                Ok(Some(Input::Packet(_))) => connection.last_heard_ns = now_ns,
                Ok(Some(Input::Request(request))) => {
                    connection.last_heard_ns = now_ns;
                    let closed = |_| EndReason::Closed;
                    match self.answer(key, connection, &request) {
                        Answer::Send(response) => {
                            connection.send(&response.into_bytes(), now_ns, 0).map_err(closed)?;
                        }
                        Answer::SendAndClose(bytes) => {
                            connection.send(&bytes, now_ns, 0).map_err(closed)?;
                            return Err(EndReason::Closed);
                        }
                        Answer::Teardown(response) => {
                            connection.send(&response.into_bytes(), now_ns, 0).map_err(closed)?;
                            return Err(EndReason::Teardown);
                        }
                        Answer::Reset => return Err(EndReason::Killed),
                    }
                }
                Err(_) => {
                    let _ = connection.send(b"RTSP/1.0 400 Bad Request\r\n\r\n", now_ns, 0);
                    return Err(EndReason::Closed);
                }
            }
        }
    }

    fn answer(&mut self, key: usize, connection: &mut Connection, request: &Request) -> Answer {
        let status = |status: &str| Answer::Send(Response::new(request, status));
        let at = request.path().next().and_then(|name| self.find(name));
        if at.is_some_and(|at| self.cameras[at].switches.refuse) {
            return Answer::Reset;
        }
        if request.method == "OPTIONS" {
            return Answer::Send(Response::new(request, "200 OK").header("Public", METHODS));
        }
        let Some(at) = at else { return status("404 Not Found") };
        let now_ms = self.now_ns() / 1_000_000;
        let spec = &self.cameras[at].spec;
        if let Verdict::Challenge { stale } =
            self.nonces.judge(spec, &request.method, request.header("Authorization"), now_ms)
        {
            let response = Response::new(request, "401 Unauthorized");
            let challenges = self.nonces.challenges(spec, stale, now_ms);
            return Answer::Send(
                challenges.iter().fold(response, |response, value| response.header("WWW-Authenticate", value)),
            );
        }
        match request.method.as_str() {
            "DESCRIBE" => self.describe(at, request),
            "SETUP" => self.setup(key, at, connection, request),
            "PLAY" | "PAUSE" | "TEARDOWN" | "GET_PARAMETER" | "SET_PARAMETER" => {
                let Some(session) = &mut connection.session else { return status("454 Session Not Found") };
                let id = format!("{:016x}", session.id);
                let asked = request.header("Session").map(|value| value.split(';').next().unwrap_or_default().trim());
                if asked.is_some_and(|asked| asked != id) || session.camera != at {
                    return status("454 Session Not Found");
                }
                match request.method.as_str() {
                    "PLAY" => self.play(at, session, request),
                    "PAUSE" => {
                        if matches!(session.phase, Phase::Playing | Phase::Losing) {
                            let (number, bytes) = (session.id, EndReason::Paused as u32);
                            let record = Record { number, bytes, ..event(Kind::SessionEnded, wall_ns()) };
                            if self.cameras[at].log(record).is_err() {
                                return Answer::Reset;
                            }
                        }
                        session.phase = Phase::Ready;
                        session.idle_since_ns = session.idle_since_ns.or(Some(now_ms * 1_000_000));
                        Answer::Send(Response::new(request, "200 OK").header("Session", &id))
                    }
                    "TEARDOWN" => Answer::Teardown(Response::new(request, "200 OK").header("Session", &id)),
                    _ => Answer::Send(Response::new(request, "200 OK").header("Session", &id)),
                }
            }
            _ => Answer::Send(Response::new(request, "501 Not Implemented").header("Public", METHODS)),
        }
    }

    fn describe(&self, at: usize, request: &Request) -> Answer {
        let camera = &self.cameras[at];
        let status = |status: &str| Answer::Send(Response::new(request, status));
        match camera.switches.describe {
            DescribeFault::None => {}
            DescribeFault::NotFound => return status("404 Not Found"),
            DescribeFault::ServerError => return status("500 Internal Server Error"),
            DescribeFault::Unavailable => return status("503 Service Unavailable"),
            DescribeFault::NotRtsp => {
                return Answer::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
            }
        }
        if !camera.spec.redirect.is_empty() {
            let location = format!("{}/{}", request.base(), camera.spec.redirect);
            return Answer::Send(Response::new(request, "302 Found").header("Location", &location));
        }
        let description = sdp::describe(&camera.spec, camera.parameter_sets(), camera.switches.sdp);
        let base = format!("{}/{}/", request.base(), camera.spec.name);
        Answer::Send(
            Response::new(request, "200 OK").header("Content-Base", &base).body("application/sdp", description),
        )
    }

    fn setup(&mut self, key: usize, at: usize, connection: &mut Connection, request: &Request) -> Answer {
        let status = |status: &str| Answer::Send(Response::new(request, status));
        let camera = &mut self.cameras[at];
        let track = match request.path().nth(1) {
            // Where there is one track only, its aggregate URL will do.
            None | Some("trackID=0") => Track::Video,
            Some("trackID=1") if camera.spec.audio != AudioKind::None => Track::Audio,
            Some(_) => return status("404 Not Found"),
        };
        let Some(Ok(channels)) = request.header("Transport").map(interleaved) else {
            return status("461 Unsupported Transport");
        };
        let channels = channels.unwrap_or((2 * track as u8, 2 * track as u8 + 1));
        if connection.session.as_ref().is_some_and(|session| session.camera != at || session.phase != Phase::Ready) {
            return status("455 Method Not Valid in This State");
        }
        if connection.session.is_none() {
            let limit = camera.spec.max_sessions as usize;
            let full = limit > 0 && camera.sessions.len() >= limit;
            match camera.sessions.first() {
                Some(&oldest) if full && camera.spec.replace => {
                    camera.counts.replaced += 1;
                    if self.close(oldest, EndReason::Replaced).is_err() {
                        return Answer::Reset;
                    }
                }
                _ if full => {
                    camera.counts.refused += 1;
                    return status("453 Not Enough Bandwidth");
                }
                _ => {}
            }
            self.next_session += 1;
            let camera = &mut self.cameras[at];
            camera.counts.begun += 1;
            camera.sessions.push(key);
            let (id, tracks) = (self.next_session, [None, None]);
            let recoder = Recoder::of(&camera.spec, id);
            let (phase, idle_since_ns) = (Phase::Ready, Some(self.now_ns()));
            connection.session = Some(Session { id, camera: at, phase, idle_since_ns, tracks, recoder });
        }
        let Some(session) = &mut connection.session else { return status("454 Session Not Found") };
        let camera = &self.cameras[at];
        let state = TrackState::new(channels);
        let transport =
            format!("RTP/AVP/TCP;unicast;interleaved={}-{};ssrc={:08X}", channels.0, channels.1, state.numbering.ssrc);
        session.tracks[track as usize] = Some(state);
        Answer::Send(
            Response::new(request, "200 OK")
                .header("Session", &format!("{:016x};timeout={}", session.id, camera.spec.timeout))
                .header("Transport", &transport),
        )
    }

    fn play(&self, at: usize, session: &mut Session, request: &Request) -> Answer {
        let camera = &self.cameras[at];
        let mut info = Vec::new();
        let codes_alone = session.recoder.is_some();
        for (number, track) in [Track::Video, Track::Audio].into_iter().enumerate() {
            let Some(state) = session.track(track) else { continue };
            // A session's own encoder begins with a key frame.
            let at_key = camera.spec.start == StartAt::Key && !codes_alone;
            let first_time = camera.first_time(track, at_key);
            info.push(format!(
                "url={}/{}/trackID={number};seq={};rtptime={}",
                request.base(),
                camera.spec.name,
                state.numbering.next_sequence,
                state.numbering.timestamp(first_time)
            ));
        }
        // A second PLAY of a playing session changes nothing.
        if session.phase == Phase::Ready {
            session.phase = Phase::Waiting;
            session.idle_since_ns = None;
        }
        Answer::Send(
            Response::new(request, "200 OK")
                .header("Session", &format!("{:016x}", session.id))
                .header("Range", "npt=now-")
                .header("RTP-Info", &info.join(",")),
        )
    }
}
