//! What is asked of a camera, in which order: its clock, its media service, its profiles and their addresses once; a key frame each time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom as _, SystemRandom};
use roxmltree::Node;
use url::Url;

use crate::messages::{self, Fault, Login, Request};

const CONNECT: Duration = Duration::from_secs(2);
/// A camera that takes longer than this sends its next key frame by itself.
const WHOLE: Duration = Duration::from_secs(4);
/// More than any answer of these.
const MAX_BYTES: usize = 1 << 20;
/// A camera with more profiles than this is told which one it is.
const MAX_PROFILES: usize = 32;

/// Why a key frame could not be asked for. Holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum OnvifError {
    /// The device service can't be reached, or answers with something else than SOAP.
    #[error("{at} does not answer over ONVIF: {why}; see that source.onvif.endpoint is the camera's device service")]
    Unreachable {
        /// What was asked, without its query.
        at: String,
        /// In a few words.
        why: String,
    },
    /// User name and password are refused.
    #[error(
        "{at} refuses the user name and password; the user of the stream's Secret must be one that ONVIF knows, too"
    )]
    NotAuthorized {
        /// What was asked, without its query.
        at: String,
    },
    /// The camera says that something is wrong.
    #[error("{at} says: {said}")]
    Refused {
        /// What was asked, without its query.
        at: String,
        /// In the camera's words.
        said: String,
    },
    /// None of the profiles has the stream's address.
    #[error("none of the media profiles ({profiles}) has the stream's address; name one in source.onvif.profile")]
    NoProfile {
        /// Their tokens.
        profiles: String,
    },
}

/// Speaks HTTP with any number of cameras.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    /// One that keeps no connection open: cameras have few to give, and are asked rarely.
    ///
    /// # Errors
    /// When the system has none of what it takes.
    pub fn new() -> std::io::Result<Self> {
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = builder.connect_timeout(CONNECT).timeout(WHOLE).pool_max_idle_per_host(0).build();
        client.map(Self).map_err(std::io::Error::other)
    }
}

/// What was found out of a camera.
#[derive(Clone, Debug)]
struct Found {
    media: Url,
    profile: String,
}

/// A camera that is asked for key frames.
#[derive(Debug)]
pub struct Camera {
    endpoint: Url,
    stream: Url,
    profile: Option<String>,
    login: Option<Login>,
    client: Client,
    found: Option<Found>,
    /// By how much its clock is ahead.
    ahead: SignedDuration,
}

impl Camera {
    /// The camera whose device service is at `endpoint` and that sends `stream` (RTSP). `profile`: the token of the media profile, where it is known.
    #[must_use]
    pub fn new(client: Client, endpoint: Url, stream: Url, profile: Option<String>, login: Option<Login>) -> Self {
        Self { client, endpoint, stream, profile, login, found: None, ahead: SignedDuration::ZERO }
    }

    /// Finds out what must be known to ask, unless it is known.
    ///
    /// # Errors
    /// When the camera does not answer, refuses the login, or has no profile with the stream's address.
    pub async fn prepare(&mut self) -> Result<(), OnvifError> {
        if self.found.is_none() {
            self.found = Some(self.find().await?);
        }
        Ok(())
    }

    /// Asks for a key frame.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and when the camera refuses it. The next time all is found out anew.
    pub async fn ask(&mut self) -> Result<(), OnvifError> {
        self.prepare().await?;
        let Some(Found { media, profile }) = self.found.take() else { return Ok(()) };
        self.call(&media, Request::SynchronizationPoint(&profile), |_| Some(())).await?;
        self.found = Some(Found { media, profile });
        Ok(())
    }

    async fn find(&mut self) -> Result<Found, OnvifError> {
        let device = self.endpoint.clone();
        let before = Timestamp::now();
        // One that does not tell its time has the right one, it is to be hoped.
        if let Ok(utc) = self.call(&device, Request::SystemDateAndTime, messages::utc).await {
            self.ahead = utc.duration_since(before);
        }
        let address = self.call(&device, Request::MediaCapabilities, messages::media_address).await?;
        let media = beside(&device, &address);
        if let Some(profile) = self.profile.clone() {
            return Ok(Found { media, profile });
        }
        let profiles = self.call(&media, Request::Profiles, messages::profiles).await?;
        for profile in profiles.iter().take(MAX_PROFILES) {
            let uri = self.call(&media, Request::StreamUri(profile), messages::stream_uri).await;
            if uri.is_ok_and(|uri| Url::parse(&uri).is_ok_and(|uri| is_same(&uri, &self.stream))) {
                return Ok(Found { media, profile: profile.clone() });
            }
        }
        match &profiles[..] {
            [only] => Ok(Found { media, profile: only.clone() }),
            _ => {
                let profiles: Vec<String> = profiles.iter().take(MAX_PROFILES).map(|token| plain(token)).collect();
                Err(OnvifError::NoProfile { profiles: profiles.join(", ") })
            }
        }
    }

    async fn call<T>(
        &self,
        address: &Url,
        request: Request<'_>,
        read: impl FnOnce(Node<'_, '_>) -> Option<T>,
    ) -> Result<T, OnvifError> {
        let at = shown(address);
        // The clock is asked for without a login, which would need it.
        let login = self.login.as_ref().filter(|_| request != Request::SystemDateAndTime);
        let mut nonce = [0; 16];
        let unreachable = |why: String| OnvifError::Unreachable { at: at.clone(), why };
        SystemRandom::new().fill(&mut nonce).map_err(|_| unreachable("no random numbers".to_owned()))?;
        let created = Timestamp::now().saturating_add(self.ahead).unwrap_or_else(|_| Timestamp::now());
        let text = request.envelope(login.map(|login| (login, nonce, created)));
        let post = self.client.0.post(address.clone());
        let post = post.header("Content-Type", "application/soap+xml; charset=utf-8").body(text);
        // Its own words hold the address, which is shown already.
        let failed = |error: reqwest::Error| {
            let why = if error.is_timeout() { "it takes too long" } else { "no connection, or a broken one" };
            unreachable(why.to_owned())
        };
        let mut response = post.send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(unreachable("the answer is too long".to_owned()));
            }
        }
        match messages::answer(request, &String::from_utf8_lossy(&body), read) {
            Ok(read) => Ok(read),
            Err(Fault::NotAuthorized) => Err(OnvifError::NotAuthorized { at }),
            Err(Fault::NoAnswer) if status == reqwest::StatusCode::UNAUTHORIZED => {
                Err(OnvifError::NotAuthorized { at })
            }
            Err(Fault::Said(said)) => {
                let said = self.login.as_ref().map_or_else(|| said.clone(), |login| login.redact(&said));
                Err(OnvifError::Refused { at, said })
            }
            Err(Fault::NoAnswer) => Err(unreachable(format!("HTTP {status}, and no answer in it that is understood"))),
        }
    }
}

/// A service's address as it is reached from here: cameras behind others tell the address that they have on their side.
fn beside(device: &Url, address: &str) -> Url {
    let mut service = device.clone();
    if let Ok(told) = Url::parse(address) {
        service.set_path(told.path());
        service.set_query(told.query());
    }
    service
}

/// Whether two RTSP addresses are of one stream, whatever names their hosts have.
fn is_same(one: &Url, other: &Url) -> bool {
    one.path().trim_end_matches('/') == other.path().trim_end_matches('/') && one.query() == other.query()
}

/// An address without what may hold a secret.
fn shown(address: &Url) -> String {
    let mut shown = address.clone();
    shown.set_query(None);
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

fn plain(token: &str) -> String {
    token.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A camera that answers each request with the next of these, and keeps what it was sent.
    async fn camera(answers: Vec<(u16, String)>) -> (Url, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/onvif/device_service", listener.local_addr().unwrap())).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"</s:Envelope>") {
                    let mut buffer = [0; 4096];
                    let read = socket.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..read]);
                }
                kept.lock().unwrap().push(String::from_utf8(request).unwrap());
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                socket.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        (url, heard)
    }

    fn soap(body: &str) -> (u16, String) {
        (
            200,
            format!(
                "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:d=\"http://www.onvif.org/ver10/device/wsdl\" \
             xmlns:m=\"http://www.onvif.org/ver10/media/wsdl\"><s:Body>{body}</s:Body></s:Envelope>"
            ),
        )
    }

    fn address() -> (u16, String) {
        soap(
            "<d:GetCapabilitiesResponse><Media><XAddr>http://10.9.8.7:81/onvif/media?x=1</XAddr></Media></d:GetCapabilitiesResponse>",
        )
    }

    fn uri(path: &str) -> (u16, String) {
        soap(&format!("<m:GetStreamUriResponse><Uri>rtsp://10.9.8.7{path}</Uri></m:GetStreamUriResponse>"))
    }

    const DONE: &str = "<m:SetSynchronizationPointResponse/>";
    const TWO: &str =
        "<m:GetProfilesResponse><m:Profiles token=\"main\"/><m:Profiles token=\"sub\"/></m:GetProfilesResponse>";
    const NO_TIME: &str = "<s:Fault/>";

    fn asked(heard: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
        std::mem::take(&mut *heard.lock().unwrap())
    }

    #[tokio::test]
    async fn the_profile_that_sends_the_stream_is_asked_and_found_once() {
        let answers = vec![soap(NO_TIME), address(), soap(TWO), uri("/one"), uri("/two/"), soap(DONE), soap(DONE)];
        let (endpoint, heard) = camera(answers).await;
        let login = Login { user: "viewer".into(), password: "geheim".into() };
        let stream = Url::parse("rtsp://camera.example/two").unwrap();
        let mut camera = Camera::new(Client::new().unwrap(), endpoint, stream, None, Some(login));
        camera.prepare().await.unwrap();
        assert_eq!(asked(&heard).len(), 5);
        camera.ask().await.unwrap();
        camera.ask().await.unwrap();
        let asked = asked(&heard);
        assert_eq!(asked.len(), 2);
        for request in &asked {
            assert!(request.starts_with("POST /onvif/media?x=1 HTTP/1.1"), "{request}");
            assert!(request.contains("<trt:ProfileToken>sub</trt:ProfileToken>"), "{request}");
            assert!(request.contains("PasswordDigest") && !request.contains("geheim"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_is_allowed_for_and_a_profile_that_is_named_is_taken() {
        let time = "<d:GetSystemDateAndTimeResponse><UTCDateTime><Time><Hour>1</Hour><Minute>2</Minute><Second>3</Second></Time>\
                    <Date><Year>2001</Year><Month>1</Month><Day>1</Day></Date></UTCDateTime></d:GetSystemDateAndTimeResponse>";
        let (endpoint, heard) = camera(vec![soap(time), address(), soap(DONE)]).await;
        let login = Login { user: "viewer".into(), password: "geheim".into() };
        let stream = Url::parse("rtsp://camera.example/two").unwrap();
        let mut camera = Camera::new(Client::new().unwrap(), endpoint, stream, Some("mine".into()), Some(login));
        camera.ask().await.unwrap();
        let asked = asked(&heard);
        assert!(!asked[0].contains("UsernameToken"), "{}", asked[0]);
        assert!(asked[2].contains("<wsu:Created>2001-01-01T01:02:0"), "{}", asked[2]);
        assert!(asked[2].contains("<trt:ProfileToken>mine</trt:ProfileToken>"));
    }

    #[tokio::test]
    async fn what_a_camera_quotes_tells_nobody_a_password() {
        let quoting = "<s:Fault><s:Reason><s:Text>no viewer with geheim</s:Text></s:Reason></s:Fault>";
        let (endpoint, _) = camera(vec![soap(NO_TIME), soap(quoting)]).await;
        let login = Login { user: "viewer".into(), password: "geheim".into() };
        let stream = Url::parse("rtsp://camera.example/two").unwrap();
        let mut camera = Camera::new(Client::new().unwrap(), endpoint, stream, None, Some(login));
        let error = camera.ask().await.unwrap_err().to_string();
        assert!(error.contains("says: no *** with ***"), "{error}");
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_apart() {
        let refused = "<s:Fault><s:Code><s:Subcode><s:Value>ter:NotAuthorized</s:Value></s:Subcode></s:Code></s:Fault>";
        let cases: [(Vec<(u16, String)>, &str); 5] = [
            (vec![], "does not answer over ONVIF"),
            (vec![soap(NO_TIME), (404, "<html>".into())], "HTTP 404"),
            (vec![soap(NO_TIME), (401, String::new())], "refuses the user name"),
            (vec![soap(NO_TIME), soap(refused)], "refuses the user name"),
            (vec![soap(NO_TIME), address(), soap(TWO), uri("/a"), uri("/b")], "(main, sub) has the stream's address"),
        ];
        for (answers, words) in cases {
            let (endpoint, _) = camera(answers).await;
            let stream = Url::parse("rtsp://camera.example/two").unwrap();
            let error =
                Camera::new(Client::new().unwrap(), endpoint, stream, None, None).ask().await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
