//! RTSP 1.0 messages (RFC 2326) as a server reads and writes them. No I/O.

/// Longest request that is read.
const REQUEST_LIMIT_BYTES: usize = 16 * 1024;

/// One request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The URL's path segments.
    pub(crate) fn path(&self) -> impl Iterator<Item = &str> {
        let path = match self.url.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => self.url.as_str(),
        };
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        path.split('/').filter(|segment| !segment.is_empty())
    }

    /// Scheme and authority of the URL, without user info.
    pub(crate) fn base(&self) -> String {
        let authority = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split_once('/').map_or(authority, |(authority, _)| authority);
        format!("rtsp://{}", authority.rsplit_once('@').map_or(authority, |(_, host)| host))
    }
}

/// What lay at the front of a connection's input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Request(Request),
    /// An interleaved packet on that channel.
    Packet(u8),
}

/// Takes one message off the front of `input`, or says with `None` that more must come first.
///
/// Errors: what is there is neither an RTSP request nor an interleaved packet.
pub(crate) fn take(input: &mut Vec<u8>) -> Result<Option<Input>, &'static str> {
    while matches!(input.first(), Some(b'\r' | b'\n')) {
        input.remove(0);
    }
    if let [b'$', rest @ ..] = input.as_slice() {
        let [channel, high, low, ..] = *rest else { return Ok(None) };
        let end = 4 + usize::from(u16::from_be_bytes([high, low]));
        if input.len() < end {
            return Ok(None);
        }
        input.drain(..end);
        return Ok(Some(Input::Packet(channel)));
    }
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if input.len() > REQUEST_LIMIT_BYTES { Err("request too long") } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(url), Some("RTSP/1.0")) = (first.next(), first.next(), first.next()) else {
        return Err("not RTSP/1.0");
    };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let request = Request { method: method.to_owned(), url: url.to_owned(), headers };
    let body = request.header("Content-Length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    if body > REQUEST_LIMIT_BYTES {
        return Err("body too long");
    }
    if input.len() < end + 4 + body {
        return Ok(None);
    }
    input.drain(..end + 4 + body);
    Ok(Some(Input::Request(request)))
}

/// An answer in the making.
pub(crate) struct Response {
    text: String,
    body: String,
}

impl Response {
    /// Begins an answer to `request` with `status`, such as `200 OK`.
    pub(crate) fn new(request: &Request, status: &str) -> Self {
        let sequence = request.header("CSeq").unwrap_or("0");
        Self {
            text: format!("RTSP/1.0 {status}\r\nCSeq: {sequence}\r\nServer: ledger-camera\r\n"),
            body: String::new(),
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.text.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Sets a body.
    pub(crate) fn body(mut self, kind: &str, body: String) -> Self {
        self.body = body;
        self.header("Content-Type", kind)
    }

    /// The bytes to send.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let length =
            if self.body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", self.body.len()) };
        format!("{}{length}\r\n{}", self.text, self.body).into_bytes()
    }
}

/// The channels of `interleaved=a-b` in a Transport header that asks for RTP over this TCP connection.
///
/// `Ok(None)` if the client leaves the choice to us; `Err` if it wants another transport.
pub(crate) fn interleaved(transport: &str) -> Result<Option<(u8, u8)>, ()> {
    for option in transport.split(',') {
        let mut parts = option.split(';').map(str::trim);
        if !parts.next().is_some_and(|profile| profile.eq_ignore_ascii_case("RTP/AVP/TCP")) {
            continue;
        }
        let channels = parts.find_map(|part| part.strip_prefix("interleaved="));
        let Some(channels) = channels else { return Ok(None) };
        let (rtp, rtcp) = channels.split_once('-').unwrap_or((channels, ""));
        let rtp: u8 = rtp.parse().map_err(|_| ())?;
        return Ok(Some((rtp, rtcp.parse().unwrap_or(rtp.wrapping_add(1)))));
    }
    Err(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_packets_are_taken_piece_by_piece() {
        let whole =
            b"$\x01\x00\x02abSETUP rtsp://u:p@h:5/cam/trackID=0?x RTSP/1.0\r\nCSeq: 3\r\nContent-Length: 2\r\n\r\nxy";
        for cut in 0..whole.len() {
            let mut input = whole[..cut].to_vec();
            let mut taken = Vec::new();
            for rest in [&[][..], &whole[cut..]] {
                input.extend_from_slice(rest);
                while let Some(message) = take(&mut input).unwrap() {
                    taken.push(message);
                }
            }
            let [Input::Packet(1), Input::Request(request)] = taken.as_slice() else { panic!("{taken:?}") };
            assert_eq!(request.path().collect::<Vec<_>>(), ["cam", "trackID=0"]);
            assert_eq!((request.base().as_str(), request.header("cseq")), ("rtsp://h:5", Some("3")));
        }
        assert!(take(&mut b"GET / HTTP/1.1\r\n\r\n".to_vec()).is_err());
        assert!(take(&mut vec![b'x'; 20_000]).is_err());
    }

    #[test]
    fn transports_other_than_tcp_are_refused() {
        assert_eq!(interleaved("RTP/AVP/TCP;unicast;interleaved=4-5"), Ok(Some((4, 5))));
        assert_eq!(interleaved("RTP/AVP;unicast;client_port=1-2,RTP/AVP/TCP"), Ok(None));
        assert_eq!(interleaved("RTP/AVP;unicast;client_port=1-2"), Err(()));
    }
}
