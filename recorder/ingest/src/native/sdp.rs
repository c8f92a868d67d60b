//! Session descriptions (RFC 8866), as far as recording needs them. A line that makes no sense is left out, and never costs the others.
//!
//! Written here: the parsers that there are refuse, or panic at, what cameras send. Pure; bounded by the caller's bound on bodies.

use std::collections::BTreeMap;

/// Media descriptions that are kept; those after them are left out.
const MAX_MEDIA: usize = 64;

/// A session description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sdp {
    /// The session's own `a=control`.
    pub(super) control: Option<String>,
    pub(super) media: Vec<Media>,
}

/// A media description, with the attributes of the first of its formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Media {
    /// `video`, `audio`, `application`, …
    pub(super) kind: String,
    /// `RTP/AVP` and the like.
    pub(super) protocol: String,
    /// Encoding name in capital letters, as sent or by the static payload type; empty if neither says.
    pub(super) encoding: String,
    /// RTP clock, Hz; 0 if nothing says.
    pub(super) clock_hz: u32,
    /// Channels of audio, where the description says.
    pub(super) channels: Option<u32>,
    /// Format parameters, names in small letters.
    pub(super) fmtp: BTreeMap<String, String>,
    pub(super) control: Option<String>,
    /// It may be asked for a key frame by a Picture Loss Indication (RFC 4585 §6.3.1).
    pub(super) takes_pli: bool,
    payload_type: String,
}

/// What is sent is no session description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no line \"v=0\"")]
pub(super) struct NotSdp;

impl Sdp {
    /// Reads `body`.
    pub(super) fn parse(body: &[u8]) -> Result<Self, NotSdp> {
        let text = String::from_utf8_lossy(body);
        let mut sdp = Self::default();
        let mut has_version = false;
        // Some cameras end lines with CR alone, or with zero bytes at the end of it all.
        let mut full = false;
        for line in text.split(['\r', '\n', '\0']) {
            let Some((kind, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim();
            match kind {
                "v" => has_version = true,
                "m" => {
                    full = sdp.media.len() >= MAX_MEDIA;
                    if !full {
                        sdp.media.push(Media::from_line(value));
                    }
                }
                "a" if !full => sdp.attribute(value),
                _ => {}
            }
        }
        if has_version || !sdp.media.is_empty() { Ok(sdp) } else { Err(NotSdp) }
    }

    fn attribute(&mut self, attribute: &str) {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let value = value.trim();
        match (self.media.last_mut(), name.trim()) {
            (None, "control") => self.control = Some(value.to_owned()),
            (Some(media), "control") => media.control = Some(value.to_owned()),
            (Some(media), "rtpmap") => media.rtpmap(value),
            (Some(media), "fmtp") => media.fmtp(value),
            (Some(media), "rtcp-fb") => media.rtcp_fb(value),
            _ => {}
        }
    }
}

impl Media {
    fn from_line(line: &str) -> Self {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (kind, _port, protocol, payload_type) = (word(), word(), word(), word());
        let (encoding, clock_hz) = static_encoding(payload_type);
        Self {
            kind: kind.to_ascii_lowercase(),
            protocol: protocol.to_ascii_uppercase(),
            encoding: encoding.to_owned(),
            clock_hz,
            payload_type: payload_type.to_owned(),
            ..Self::default()
        }
    }

    /// `96 H264/90000`, `97 MPEG4-GENERIC/16000/1`.
    fn rtpmap(&mut self, value: &str) {
        let Some((payload_type, map)) = value.split_once([' ', '\t']) else { return };
        if payload_type != self.payload_type {
            return;
        }
        let mut parts = map.trim().split('/');
        self.encoding = parts.next().unwrap_or_default().trim().to_ascii_uppercase();
        if let Some(clock) = parts.next().and_then(|clock| clock.trim().parse().ok()) {
            self.clock_hz = clock;
        }
        self.channels = parts.next().and_then(|channels| channels.trim().parse().ok());
    }

    /// `* nack pli`, `96 nack pli`.
    fn rtcp_fb(&mut self, value: &str) {
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        if let [payload_type, "nack", "pli"] = words[..] {
            self.takes_pli |= payload_type == "*" || payload_type == self.payload_type;
        }
    }

    /// `96 packetization-mode=1;sprop-parameter-sets=…`.
    fn fmtp(&mut self, value: &str) {
        let Some((payload_type, parameters)) = value.split_once([' ', '\t']) else { return };
        if payload_type != self.payload_type {
            return;
        }
        for parameter in parameters.split(';') {
            if let Some((name, value)) = parameter.split_once('=') {
                self.fmtp.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
    }
}

/// The static payload types that cameras use (RFC 3551 §6).
fn static_encoding(payload_type: &str) -> (&'static str, u32) {
    match payload_type {
        "0" => ("PCMU", 8000),
        "3" => ("GSM", 8000),
        "4" => ("G723", 8000),
        "5" => ("DVI4", 8000),
        "8" => ("PCMA", 8000),
        "9" => ("G722", 8000),
        "10" | "11" => ("L16", 44_100),
        "14" => ("MPA", 90_000),
        "18" => ("G729", 8000),
        "26" => ("JPEG", 90_000),
        "31" => ("H261", 90_000),
        "32" => ("MPV", 90_000),
        "33" => ("MP2T", 90_000),
        "34" => ("H263", 90_000),
        _ => ("", 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_asked_for_a_key_frame() {
        let takes = |line: &str| {
            let sdp = format!("v=0\r\nm=video 0 RTP/AVPF 96\r\na=rtpmap:96 H264/90000\r\n{line}\r\n");
            Sdp::parse(sdp.as_bytes()).unwrap().media[0].takes_pli
        };
        assert!(takes("a=rtcp-fb:* nack pli") && takes("a=rtcp-fb:96 nack pli"));
        assert!(!takes("a=rtcp-fb:97 nack pli") && !takes("a=rtcp-fb:96 nack") && !takes("a=rtcp-fb:96 ccm fir"));
    }

    #[test]
    fn what_a_camera_sends() {
        let sdp = Sdp::parse(
            b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns= \r\nthis is no line\r\na=control:rtsp://x/\r\nt=0 0\r\n\
              m=video 0 RTP/AVP 96 97\r\na=rtpmap:97 H265/90000\r\na=rtpmap:96 h264/90000 \r\n\
              a=fmtp:96 Packetization-Mode=1; sprop-parameter-sets=Z0I=,aM4=;\r\na=control:track1\r\n\
              m=audio 0 RTP/AVP 8\r\na=control:track2\r\na=recvonly\r\n",
        )
        .unwrap();
        assert_eq!(sdp.control.as_deref(), Some("rtsp://x/"));
        let [video, audio] = &sdp.media[..] else { panic!("{sdp:?}") };
        assert_eq!(
            (video.kind.as_str(), video.protocol.as_str(), video.encoding.as_str()),
            ("video", "RTP/AVP", "H264")
        );
        assert_eq!((video.clock_hz, video.control.as_deref()), (90_000, Some("track1")));
        assert_eq!(video.fmtp["sprop-parameter-sets"], "Z0I=,aM4=");
        assert_eq!(video.fmtp["packetization-mode"], "1");
        assert_eq!((audio.encoding.as_str(), audio.clock_hz, audio.channels), ("PCMA", 8000, None));
    }

    #[test]
    fn other_line_ends_and_cut_lines() {
        for end in ["\n", "\r", "\r\n"] {
            let text = [
                "v=0",
                "a=control",
                "m=video",
                "a=rtpmap:",
                "a=fmtp:96",
                "m=audio 0 RTP/AVP 97",
                "a=rtpmap:97 X/y/z\0\0",
            ];
            let sdp = Sdp::parse(text.join(end).as_bytes()).unwrap();
            assert_eq!(sdp.media.len(), 2);
            assert_eq!((sdp.media[1].encoding.as_str(), sdp.media[1].clock_hz), ("X", 0));
        }
    }

    #[test]
    fn what_is_none() {
        for body in ["", "hello", "\0\u{1}\u{2}", "{\"json\": true}", "<html>a=b</html>"] {
            assert_eq!(Sdp::parse(body.as_bytes()), Err(NotSdp), "{body:?}");
        }
        assert_eq!(Sdp::parse(b"v=0\r\n").unwrap(), Sdp::default());
    }

    #[test]
    fn any_bytes_are_bounded_and_never_panic() {
        use proptest::prelude::*;
        let line = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..30),
            Just(b"m=video 0 RTP/AVP 96".to_vec()),
            Just(b"a=rtpmap:96 H264/90000".to_vec()),
            Just(b"a=fmtp:96 config=1;;=;x".to_vec()),
            Just("a=control:ä\u{202e}".as_bytes().to_vec()),
            Just(b"v=0".to_vec()),
        ];
        proptest!(ProptestConfig::with_cases(300), |(lines in proptest::collection::vec(line, 0..200))| {
            if let Ok(sdp) = Sdp::parse(&lines.join(&b"\r\n"[..])) {
                prop_assert!(sdp.media.len() <= MAX_MEDIA);
            }
        });
    }
}
