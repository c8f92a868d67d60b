//! Redirects (RFC 2326 §11.3). retina tells the status code but not the Location header, so DESCRIBE is asked once more, by hand.

use std::io;

use http_auth::{PasswordClient, PasswordParams};
use rtsp_types::{Message, Method, ParseError, Request, Response, Version, headers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::failure::{Stage, classify};
use crate::engine::Failure;
use crate::event::SessionEndKind;
use crate::spec::Credentials;

/// Redirects that are followed in a row.
pub(super) const MAX_REDIRECTS: u32 = 5;

/// Longest answer that is read; one with a redirect has no body to speak of.
const MAX_ANSWER_BYTES: usize = 64 << 10;

const DEFAULT_PORT: u16 = 554;

/// Whether a status says that the stream is somewhere else. 305 (Use Proxy) is not followed: nothing says how to speak to the proxy.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where `location` points to from `url`.
pub(super) fn target(url: &Url, location: &str) -> Result<Url, Failure> {
    let refused = |what: &str| Failure::new(SessionEndKind::Protocol, format!("the camera redirects {what}"));
    let target = url.join(location.trim()).map_err(|_| refused("to something that is not a URL"))?;
    if target.scheme() != url.scheme() {
        return Err(refused(&format!("to another scheme, {}; this is not followed", target.scheme())));
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(refused("to a URL with user info; this is not followed"));
    }
    if target.host().is_none() {
        return Err(refused("to a URL without a host"));
    }
    Ok(target)
}

/// The Location that `url` redirects to.
pub(super) async fn location(
    url: &Url,
    credentials: Option<&Credentials>,
    user_agent: &str,
) -> Result<String, Failure> {
    let mut stream = connect(url).await.map_err(|e| broken(&e))?;
    let mut answer = describe(&mut stream, url, user_agent, 1, None).await?;
    if u16::from(answer.status()) == 401
        && let Some(credentials) = credentials
        && let Some(authorization) = authorization(&answer, url, credentials)
    {
        answer = describe(&mut stream, url, user_agent, 2, Some(authorization)).await?;
    }
    let status = u16::from(answer.status());
    if !is_redirect(status) {
        let text = format!("{status} where there was a redirect a moment ago");
        return Err(classify(Stage::Describe, Some(status), &text, credentials.is_some()));
    }
    let location = answer.header(&headers::LOCATION).map(|value| value.as_str().to_owned());
    location.ok_or_else(|| {
        Failure::new(SessionEndKind::Protocol, format!("the camera redirects ({status}) without a Location"))
    })
}

fn broken(error: &io::Error) -> Failure {
    Failure::new(SessionEndKind::Unreachable, format!("asking where the camera redirects to: {error}"))
}

async fn connect(url: &Url) -> io::Result<TcpStream> {
    let port = url.port().unwrap_or(DEFAULT_PORT);
    match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
        Some(Host::Ipv4(address)) => TcpStream::connect((address, port)).await,
        Some(Host::Ipv6(address)) => TcpStream::connect((address, port)).await,
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no host")),
    }
}

fn authorization(answer: &Response<Vec<u8>>, url: &Url, credentials: &Credentials) -> Option<String> {
    let challenge = answer.header(&headers::WWW_AUTHENTICATE)?;
    let mut client = PasswordClient::try_from(challenge.as_str()).ok()?;
    let params = PasswordParams {
        username: credentials.username(),
        password: credentials.password(),
        uri: url.as_str(),
        method: "DESCRIBE",
        body: Some(&[]),
    };
    client.respond(&params).ok()
}

async fn describe(
    stream: &mut TcpStream,
    url: &Url,
    user_agent: &str,
    cseq: u32,
    authorization: Option<String>,
) -> Result<Response<Vec<u8>>, Failure> {
    let mut request = Request::builder(Method::Describe, Version::V1_0)
        .request_uri(url.clone())
        .header(headers::CSEQ, cseq.to_string())
        .header(headers::USER_AGENT, user_agent)
        .header(headers::ACCEPT, "application/sdp");
    if let Some(authorization) = authorization {
        request = request.header(headers::AUTHORIZATION, authorization);
    }
    let mut bytes = Vec::new();
    request.empty().write(&mut bytes).map_err(|e| broken(&io::Error::other(e.to_string())))?;
    stream.write_all(&bytes).await.map_err(|e| broken(&e))?;

    let mut answer = Vec::new();
    loop {
        match Message::<Vec<u8>>::parse(&answer) {
            Ok((Message::Response(response), _)) => return Ok(response),
            Ok(_) => return Err(Failure::new(SessionEndKind::Protocol, "the camera answers DESCRIBE with a request")),
            Err(ParseError::Incomplete(_)) if answer.len() <= MAX_ANSWER_BYTES => {}
            Err(_) => {
                return Err(Failure::new(SessionEndKind::Protocol, "the camera's redirect is not RTSP, or too long"));
            }
        }
        if stream.read_buf(&mut answer).await.map_err(|e| broken(&e))? == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let from = Url::parse("rtsp://camera:8554/a/b?x=1").unwrap();
        let ok = |location: &str| target(&from, location).unwrap().to_string();
        assert_eq!(ok("rtsp://other/c"), "rtsp://other/c");
        assert_eq!(ok(" /c "), "rtsp://camera:8554/c");
        assert_eq!(ok("c"), "rtsp://camera:8554/a/c");
        for bad in ["http://other/", "rtsps://camera/a", "rtsp://bob:geheim@camera/a", "rtsp://", "rtsp://[::1/"] {
            let failure = target(&from, bad).unwrap_err();
            assert_eq!(failure.kind, SessionEndKind::Protocol, "{bad}");
            assert!(!failure.message.contains("geheim"));
        }
    }
}
