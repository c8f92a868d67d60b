//! RTSP messages (RFC 2326 §4 to §7), read with bounds and with patience.
//!
//! Written here and not taken from a crate: cameras end lines with a bare LF, leave out the reason, repeat `WWW-Authenticate` and send
//! header values that are not ASCII, and none of that is a reason not to record.

use super::text::shown;

/// Longest start line and headers together.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Longest body. Session descriptions have a few kilobytes.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// Headers that are kept of one message; those after them are left out.
const MAX_HEADERS: usize = 128;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A status line.
    Response { status: u16, reason: String },
    /// A request of the camera.
    Request { method: String },
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) start: Start,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
}

/// Headers in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first header called `name`, in any case of letters.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Where a header called `name` comes more than once, its values as one list.
    pub(super) fn joined(&self, name: &str) -> Option<String> {
        let values = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let values: Vec<&str> = values.collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// Start line and headers, and how long the body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) start: Start,
    pub(super) headers: Headers,
    pub(super) body_bytes: usize,
}

/// Why a head cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadError {
    /// Not RTSP, or not a version that is spoken here.
    #[error("{line:?} is no start line of RTSP/1.0")]
    StartLine { line: String },
    /// Nothing that long is read.
    #[error("Content-Length is {value:?}; a number up to {MAX_BODY_BYTES} is right")]
    BodyLength { value: String },
}

/// Where the head at the beginning of `bytes` ends, its empty line included.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\n', bytes.get(from..)?) {
        from += at + 1;
        match bytes.get(from..)? {
            [b'\n', ..] => return Some(from + 1),
            [b'\r', b'\n', ..] => return Some(from + 2),
            _ => {}
        }
    }
    None
}

/// Reads a head that [`head_end`] has found.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Head, HeadError> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let start = start_line(first).ok_or_else(|| HeadError::StartLine { line: shown(first, 60) })?;
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            // A folded header goes on.
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':')
            && headers.len() < MAX_HEADERS
        {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let headers = Headers(headers);
    let body_bytes = match headers.get("Content-Length") {
        None | Some("") => 0,
        Some(value) => value
            .parse()
            .ok()
            .filter(|n| *n <= MAX_BODY_BYTES)
            .ok_or_else(|| HeadError::BodyLength { value: shown(value, 40) })?,
    };
    Ok(Head { start, headers, body_bytes })
}

fn start_line(line: &str) -> Option<Start> {
    if let Some(rest) = line.strip_prefix("RTSP/1.") {
        let (_, rest) = rest.split_once(' ')?;
        let rest = rest.trim_start();
        let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = status.trim().parse().ok().filter(|status| (100..1000).contains(status))?;
        return Some(Start::Response { status, reason: shown(reason.trim(), 80) });
    }
    let mut words = line.split_ascii_whitespace();
    let (method, _uri, version) = (words.next()?, words.next()?, words.next()?);
    (version.starts_with("RTSP/1.") && words.next().is_none()).then(|| Start::Request { method: shown(method, 32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, HeadError> {
        assert_eq!(head_end(text.as_bytes()), Some(text.len()), "{text:?}");
        parse_head(text.as_bytes())
    }

    #[test]
    fn an_answer_with_a_body() {
        let head = read("RTSP/1.0 200 OK\r\nCSeq:  7 \r\nContent-length: 12\r\nX: a\r\n\tb\r\n\r\n").unwrap();
        assert_eq!(head.start, Start::Response { status: 200, reason: "OK".to_owned() });
        assert_eq!((head.body_bytes, head.headers.get("cseq"), head.headers.get("x")), (12, Some("7"), Some("a b")));
        assert_eq!(head.headers.get("session"), None);
    }

    #[test]
    fn what_cameras_do() {
        assert_eq!(
            read("RTSP/1.0 404\nCSeq: 1\n\n").unwrap().start,
            Start::Response { status: 404, reason: String::new() }
        );
        let head = read("RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"a\"\r\nnonsense\r\nWWW-Authenticate: Basic realm=\"b\"\r\n\r\n").unwrap();
        assert_eq!(head.headers.joined("www-authenticate").unwrap(), "Digest realm=\"a\", Basic realm=\"b\"");
        let head = parse_head(b"RTSP/1.0 200 OK\r\nServer: \xff\xfe\r\n\r\n").unwrap();
        assert!(head.headers.get("server").is_some());
        assert_eq!(
            read("OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\n\r\n").unwrap().start,
            Start::Request { method: "OPTIONS".to_owned() }
        );
    }

    #[test]
    fn what_is_none() {
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "RTSP/1.0 99 x\r\n\r\n",
            "RTSP/1.0 abc\r\n\r\n",
            "RTSP/2.0 200 OK\r\n\r\n",
            "a b\r\n\r\n",
        ] {
            assert!(matches!(read(bad), Err(HeadError::StartLine { .. })), "{bad:?}");
        }
        for bad in ["1048577", "-1", "18446744073709551615", "99999999999999999999999", "1x"] {
            let e = read(&format!("RTSP/1.0 200 OK\r\nContent-Length: {bad}\r\n\r\n")).unwrap_err();
            assert!(e.to_string().contains(bad), "{e}");
        }
        assert_eq!(head_end(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n"), None);
    }
}
