//! The RTSP client as a state machine (RFC 2326 §A.1): messages and time in, bytes to send and steps out. No I/O.
//!
//! ```text
//! Describe ─► SetupVideo ─► (SetupAudio) ─► Ready ─► Play ─► Playing ─► Teardown ─► Over
//!    ▲ 401: asked again with an answer to the challenge; 3xx: Step::Moved
//! ```
//! One request is under way at a time. An answer belongs to it whatever CSeq it has (cameras get that wrong), except that answers to
//! requests that were given up are let go by.

use url::Url;

use super::auth::{Authenticator, Verdict};
use super::failure::{Stage, from_status};
use super::message::{Message, Start};
use super::presentation::{AudioTrack, Presentation};
use super::text::shown;
use super::transport::{self, SessionName};
use super::urls;
use crate::engine::Failure;
use crate::event::SessionEndKind;
use crate::spec::{Credentials, SourceSpec};

/// An answer to a keep-alive that takes longer is not waited for any more.
const KEEP_ALIVE_ANSWER_US: u64 = 10_000_000;

/// Bytes that may wait to be sent before requests of the camera are no longer answered, and the session is given up by its owner.
pub(super) const MAX_UNSENT_BYTES: usize = 64 << 10;

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing that its owner has to do.
    None,
    /// The stream is elsewhere: connect to [`Client::url`].
    Moved,
    /// All tracks are set up, and nothing plays: [`Client::play`] may be called.
    Ready,
    /// PLAY was answered.
    Playing,
    /// TEARDOWN was answered.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Describe,
    Setup,
    Play,
    Options,
    GetParameter,
    Teardown,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Describe => "DESCRIBE",
            Self::Setup => "SETUP",
            Self::Play => "PLAY",
            Self::Options => "OPTIONS",
            Self::GetParameter => "GET_PARAMETER",
            Self::Teardown => "TEARDOWN",
        }
    }
}

#[derive(Clone, Debug)]
struct Request {
    method: Method,
    uri: Url,
    headers: String,
    cseq: u32,
    sent_us: u64,
    /// How often it was asked before, with another answer to a challenge or none.
    tries: u32,
    authorized: bool,
}

/// RTP and RTCP channel of a track.
pub(super) type ChannelPair = (u8, u8);

/// See the module.
pub(super) struct Client {
    configured: Url,
    credentials: Option<Credentials>,
    audio_wanted: bool,
    hold: bool,
    user_agent: String,
    url: Url,
    hops: u32,
    auth: Authenticator,
    stage: Stage,
    cseq: u32,
    pending: Option<Request>,
    /// Answers up to this CSeq are not waited for any more.
    given_up: u32,
    unsent: Vec<u8>,
    presentation: Option<Presentation>,
    session: Option<SessionName>,
    video_channels: Option<ChannelPair>,
    audio_channels: Option<ChannelPair>,
    last_request_us: u64,
    keep_alive: Method,
}

impl Client {
    /// For `spec`; with `hold` it stops at Ready.
    pub(super) fn new(spec: &SourceSpec, hold: bool, user_agent: &str) -> Self {
        Self {
            configured: spec.url.clone(),
            credentials: spec.credentials.clone(),
            audio_wanted: spec.audio,
            hold,
            user_agent: user_agent.chars().filter(|c| !c.is_control()).collect(),
            url: spec.url.clone(),
            hops: 0,
            auth: Authenticator::new(spec.credentials.clone()),
            stage: Stage::Describe,
            cseq: 0,
            pending: None,
            given_up: 0,
            unsent: Vec::new(),
            presentation: None,
            session: None,
            video_channels: None,
            audio_channels: None,
            last_request_us: 0,
            // What else the camera offers is learned from the answer to the first.
            keep_alive: Method::Options,
        }
    }

    /// Where to connect to.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// What is to be sent; whoever sends takes out of it what was.
    pub(super) fn unsent(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// What was set up; from Ready on.
    pub(super) fn tracks(&self) -> Option<(&Presentation, ChannelPair, Option<ChannelPair>)> {
        Some((self.presentation.as_ref()?, self.video_channels?, self.audio_channels))
    }

    /// There is a connection: begins.
    pub(super) fn connected(&mut self, now_us: u64) {
        self.ask(Method::Describe, self.url.clone(), "Accept: application/sdp\r\n".to_owned(), now_us);
    }

    /// Plays at once a session that is Ready, and one that is not yet as soon as it is.
    pub(super) fn play(&mut self, now_us: u64) {
        self.hold = false;
        if self.stage == Stage::Ready {
            // The answer to a keep-alive does not matter any more.
            self.give_up();
            self.stage = Stage::Play;
            self.ask(Method::Play, self.aggregate(), "Range: npt=0.000-\r\n".to_owned(), now_us);
        }
    }

    /// Says good-bye, where there is a session to end. False if there is none.
    pub(super) fn close(&mut self, now_us: u64) -> bool {
        if self.session.is_none() || matches!(self.stage, Stage::Teardown | Stage::Over) {
            return false;
        }
        self.give_up();
        self.stage = Stage::Teardown;
        self.ask(Method::Teardown, self.aggregate(), String::new(), now_us);
        true
    }

    /// Time passes: keeps the session alive, at half its time-out (RFC 2326 §12.37). Fails if a session that is held has nobody at its
    /// other end.
    pub(super) fn tick(&mut self, now_us: u64) -> Result<(), Failure> {
        if !matches!(self.stage, Stage::Ready | Stage::Playing) {
            return Ok(());
        }
        if self.pending.as_ref().is_some_and(|p| now_us.saturating_sub(p.sent_us) >= KEEP_ALIVE_ANSWER_US) {
            self.give_up();
            if self.stage == Stage::Ready {
                // Nothing else would tell that nobody is there any more; a session that plays is judged by what it sends.
                let seconds = KEEP_ALIVE_ANSWER_US / 1_000_000;
                let message = format!("the camera has not answered a keep-alive for {seconds} s");
                return Err(Failure::new(SessionEndKind::Silence, message));
            }
        }
        let Some(session) = &self.session else { return Ok(()) };
        let interval_us = u64::try_from((session.timeout / 2).as_micros()).unwrap_or(u64::MAX);
        if self.pending.is_none() && now_us.saturating_sub(self.last_request_us) >= interval_us {
            self.ask(self.keep_alive, self.aggregate(), String::new(), now_us);
        }
        Ok(())
    }

    /// A message of the camera.
    pub(super) fn message(&mut self, message: &Message, now_us: u64) -> Result<Step, Failure> {
        match &message.start {
            Start::Request { method } => self.serve(method, message).map(|()| Step::None),
            Start::Response { status, reason } => self.answer(*status, reason, message, now_us),
        }
    }

    fn aggregate(&self) -> Url {
        self.presentation.as_ref().map_or_else(|| self.url.clone(), |p| p.aggregate.clone())
    }

    fn give_up(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.given_up = pending.cseq;
        }
    }

    fn with_credentials(&self) -> bool {
        self.credentials.is_some() && self.own_host()
    }

    /// Credentials are for the host that they were configured for, and for no other that it may point to.
    fn own_host(&self) -> bool {
        self.url.host() == self.configured.host()
    }

    fn ask(&mut self, method: Method, uri: Url, headers: String, now_us: u64) {
        self.send(Request { method, uri, headers, cseq: 0, sent_us: now_us, tries: 0, authorized: false });
    }

    fn send(&mut self, mut request: Request) {
        self.cseq = self.cseq.wrapping_add(1);
        request.cseq = self.cseq;
        let (method, uri) = (request.method.name(), request.uri.as_str());
        let mut text = format!("{method} {uri} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: {}\r\n", self.cseq, self.user_agent);
        if let Some(session) = &self.session {
            text.push_str(&format!("Session: {}\r\n", session.id));
        }
        let authorization = self.auth.header(method, uri);
        request.authorized = authorization.is_some();
        if let Some(authorization) = authorization {
            text.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        text.push_str(&request.headers);
        text.push_str("\r\n");
        self.unsent.extend_from_slice(text.as_bytes());
        self.last_request_us = request.sent_us;
        self.pending = Some(request);
    }

    /// Answers a request of the camera.
    fn serve(&mut self, method: &str, message: &Message) -> Result<(), Failure> {
        let cseq: Option<u64> = message.headers.get("CSeq").and_then(|cseq| cseq.parse().ok());
        if self.unsent.len() < MAX_UNSENT_BYTES {
            let status = match method {
                "OPTIONS" => "200 OK\r\nPublic: OPTIONS, ANNOUNCE, SET_PARAMETER, GET_PARAMETER, TEARDOWN",
                "ANNOUNCE" | "SET_PARAMETER" | "GET_PARAMETER" | "TEARDOWN" | "REDIRECT" => "200 OK",
                _ => "501 Not Implemented",
            };
            let cseq = cseq.map_or_else(String::new, |cseq| format!("CSeq: {cseq}\r\n"));
            self.unsent.extend_from_slice(format!("RTSP/1.0 {status}\r\n{cseq}\r\n").as_bytes());
        }
        match method {
            "TEARDOWN" | "REDIRECT" => {
                Err(Failure::new(SessionEndKind::ClosedByCamera, format!("the camera ended the session ({method})")))
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, status: u16, reason: &str, message: &Message, now_us: u64) -> Result<Step, Failure> {
        let cseq: Option<u32> = message.headers.get("CSeq").and_then(|cseq| cseq.parse().ok());
        if status < 200 || cseq.is_some_and(|cseq| (1..=self.given_up).contains(&cseq)) {
            return Ok(Step::None);
        }
        let Some(request) = self.pending.take() else { return Ok(Step::None) };
        if status == 401 {
            let challenges = message.headers.joined("WWW-Authenticate");
            let verdict = self.auth.challenged(challenges.as_deref(), request.authorized, request.tries);
            match (verdict, request.method) {
                (Verdict::Again, _) => {
                    self.send(Request { tries: request.tries + 1, sent_us: now_us, ..request });
                    return Ok(Step::None);
                }
                (Verdict::NotSupported(error), Method::Describe) => {
                    let message = format!(
                        "the camera asks for authentication (401) in a way that is not supported: {}; Basic and Digest with MD5 or SHA-256 are",
                        shown(&error, 120)
                    );
                    return Err(Failure::new(SessionEndKind::Unauthorized, message));
                }
                _ => {}
            }
        } else if request.authorized {
            self.auth.passed();
        }
        let refused = || from_status(self.stage, status, reason, self.with_credentials());
        let good = (200..300).contains(&status);
        match request.method {
            Method::Describe if good => self.described(message, now_us),
            Method::Describe if urls::is_redirect(status) => self.moved(status, message.headers.get("Location")),
            Method::Describe if status == 401 && !self.own_host() && self.credentials.is_some() => {
                let host = self.url.host_str().unwrap_or_default();
                let message =
                    format!("redirected to {host}, which asks for a password; it is sent to the configured host alone");
                Err(Failure::new(SessionEndKind::Unauthorized, message))
            }
            Method::Setup if self.stage == Stage::SetupVideo && good => self.video_set_up(message, now_us),
            Method::Setup if self.stage == Stage::SetupAudio => {
                // Refused for this track alone: pictures without sound are better than neither.
                let failure = if good { None } else { Some(refused().message) };
                Ok(self.audio_set_up(failure, message, now_us))
            }
            Method::Play if good => {
                // RTP-Info's seq and rtptime are wrong in many cameras, and nothing here needs them.
                self.stage = Stage::Playing;
                Ok(Step::Playing)
            }
            Method::Describe | Method::Setup | Method::Play => Err(refused()),
            Method::Options | Method::GetParameter => self.kept_alive(request.method, status, reason, message),
            Method::Teardown => {
                self.stage = Stage::Over;
                Ok(Step::Closed)
            }
        }
    }

    fn moved(&mut self, status: u16, location: Option<&str>) -> Result<Step, Failure> {
        let broken = |message: String| Failure::new(SessionEndKind::Protocol, message);
        let location = location.ok_or_else(|| broken(format!("the camera redirects ({status}) without a Location")))?;
        if self.hops == urls::MAX_REDIRECTS {
            return Err(broken(format!("the camera redirects more than {} times in a row", urls::MAX_REDIRECTS)));
        }
        self.hops += 1;
        self.url = urls::redirect_target(&self.url, location)?;
        self.auth = Authenticator::new(self.credentials.clone().filter(|_| self.own_host()));
        self.unsent.clear();
        Ok(Step::Moved)
    }

    fn described(&mut self, message: &Message, now_us: u64) -> Result<Step, Failure> {
        let presentation = Presentation::read(&self.url, message, self.audio_wanted)?;
        let (header, _) = transport::asked(0);
        let uri = presentation.video.clone();
        self.presentation = Some(presentation);
        self.stage = Stage::SetupVideo;
        self.ask(Method::Setup, uri, format!("Transport: {header}\r\n"), now_us);
        Ok(Step::None)
    }

    fn video_set_up(&mut self, message: &Message, now_us: u64) -> Result<Step, Failure> {
        let (_, asked) = transport::asked(0);
        let channels = transport::channels(message.headers.get("Transport"), asked).map_err(|error| {
            Failure::new(SessionEndKind::Protocol, format!("the camera's answer to SETUP cannot be used: {error}"))
        })?;
        self.video_channels = Some(channels);
        // Cameras that change the session's name from track to track are common; the first one is right.
        self.session = message.headers.get("Session").and_then(SessionName::parse);
        match self.presentation.as_ref().and_then(|p| p.audio.control.clone()) {
            Some(uri) => {
                let (header, _) = transport::asked(1);
                self.stage = Stage::SetupAudio;
                self.ask(Method::Setup, uri, format!("Transport: {header}\r\n"), now_us);
                Ok(Step::None)
            }
            None => Ok(self.ready(now_us)),
        }
    }

    fn audio_set_up(&mut self, failure: Option<String>, message: &Message, now_us: u64) -> Step {
        let (_, asked) = transport::asked(1);
        let video = self.video_channels;
        let result = failure.map_or_else(|| transport::channels(message.headers.get("Transport"), asked), Err);
        let result = result.and_then(|channels| {
            let apart = video
                .is_none_or(|(rtp, rtcp)| ![rtp, rtcp].contains(&channels.0) && ![rtp, rtcp].contains(&channels.1));
            if apart { Ok(channels) } else { Err("the camera gives audio the channels of the video".to_owned()) }
        });
        match (result, &mut self.presentation) {
            (Ok(channels), _) => self.audio_channels = Some(channels),
            (Err(reason), Some(presentation)) => presentation.audio = AudioTrack::left_out(reason),
            (Err(_), None) => {}
        }
        self.ready(now_us)
    }

    fn ready(&mut self, now_us: u64) -> Step {
        self.stage = Stage::Ready;
        if !self.hold {
            self.play(now_us);
        }
        Step::Ready
    }

    fn kept_alive(&mut self, method: Method, status: u16, reason: &str, message: &Message) -> Result<Step, Failure> {
        let good = (200..300).contains(&status);
        if good && method == Method::Options {
            let public = message.headers.joined("Public").unwrap_or_default();
            let offers = public.split(',').any(|method| method.trim().eq_ignore_ascii_case("GET_PARAMETER"));
            self.keep_alive = if offers { Method::GetParameter } else { Method::Options };
        } else if method == Method::GetParameter && !good {
            // Offered and then refused: some do.
            self.keep_alive = Method::Options;
        }
        match status {
            // A session that plays is judged by what it sends.
            454 | 401 if self.stage == Stage::Ready => {
                let failure = from_status(self.stage, status, reason, self.with_credentials());
                let kind = if status == 454 { SessionEndKind::ClosedByCamera } else { failure.kind };
                Err(Failure::new(kind, failure.message))
            }
            _ => Ok(Step::None),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
