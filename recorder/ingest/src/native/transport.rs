//! The Transport and Session headers (RFC 2326 §12.39, §12.37), as far as interleaved TCP needs them.

use std::time::Duration;

use super::text::shown;

/// What is asked for, for the `n`-th track that is set up.
pub(super) fn asked(track: usize) -> (String, u8) {
    let rtp = u8::try_from(track * 2).unwrap_or(u8::MAX - 1);
    (format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{}", rtp + 1), rtp)
}

/// The RTP and RTCP channel that a Transport header gives; `asked_rtp` and the next one where it does not say.
pub(super) fn channels(header: Option<&str>, asked_rtp: u8) -> Result<(u8, u8), String> {
    let Some(header) = header else { return Ok((asked_rtp, asked_rtp.saturating_add(1))) };
    let mut parts = header.split(';').map(str::trim);
    let protocol = parts.next().unwrap_or_default().to_ascii_uppercase();
    let wrong = || {
        let header = shown(header, 80);
        Err(format!("Transport is {header:?}; RTP/AVP/TCP with interleaved=A-B is needed, channels 0 to 255"))
    };
    if !protocol.ends_with("/TCP") && !header.to_ascii_lowercase().contains("interleaved=") {
        return wrong();
    }
    let Some(given) = parts.find_map(|part| part.to_ascii_lowercase().strip_prefix("interleaved=").map(str::to_owned))
    else {
        return Ok((asked_rtp, asked_rtp.saturating_add(1)));
    };
    let (rtp, rtcp) = given.split_once('-').unwrap_or((&given, ""));
    let Ok(rtp) = rtp.trim().parse::<u8>() else { return wrong() };
    match rtcp.trim() {
        "" => Ok((rtp, rtp.saturating_add(1))),
        rtcp => rtcp.parse().map_or_else(|_| wrong(), |rtcp| Ok((rtp, rtcp))),
    }
}

/// A session as the server named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionName {
    pub(super) id: String,
    /// Without a request for so long, the server ends the session.
    pub(super) timeout: Duration,
}

/// RFC 2326 §12.37.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest session identifier that is sent back.
const MAX_ID_BYTES: usize = 512;

impl SessionName {
    /// Reads a Session header. A time-out that makes no sense counts as the standard's 60 s.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split(';').map(str::trim);
        let id = parts.next().filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)?;
        if id.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return None;
        }
        let seconds = parts
            .find_map(|part| {
                part.to_ascii_lowercase().strip_prefix("timeout=").and_then(|value| value.trim().parse::<u32>().ok())
            })
            .filter(|seconds| (1..=86_400).contains(seconds));
        let timeout = seconds.map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
        Some(Self { id: id.to_owned(), timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_given() {
        let of = |text: &str| channels(Some(text), 2);
        assert_eq!(of("RTP/AVP/TCP;unicast;interleaved=0-1"), Ok((0, 1)));
        assert_eq!(of("RTP/AVP/TCP;unicast; Interleaved=4-5;ssrc=d6d6627;mode=\"PLAY\""), Ok((4, 5)));
        assert_eq!(of("rtp/avp/tcp;interleaved=6"), Ok((6, 7)));
        assert_eq!(of("RTP/AVP;unicast;interleaved=8-9"), Ok((8, 9)));
        assert_eq!(of("RTP/AVP/TCP;unicast"), Ok((2, 3)));
        assert_eq!(channels(None, 2), Ok((2, 3)));
        for bad in [
            "RTP/AVP;unicast;client_port=5000-5001",
            "RTP/AVP/TCP;interleaved=256-257",
            "RTP/AVP/TCP;interleaved=0-x",
            "",
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("interleaved=A-B"), "{error}");
        }
        assert_eq!(asked(1), ("RTP/AVP/TCP;unicast;interleaved=2-3".to_owned(), 2));
    }

    #[test]
    fn sessions() {
        let of = |text: &str| SessionName::parse(text).map(|s| (s.id, s.timeout.as_secs()));
        let some = |id: &str, s| Some((id.to_owned(), s));
        assert_eq!(of("12345678"), some("12345678", 60));
        assert_eq!(of("a-b;timeout=30"), some("a-b", 30));
        assert_eq!(of(" a ; Timeout = 5"), some("a", 60), "not a name that anybody gives");
        assert_eq!(of("a;x=1; timeout=5"), some("a", 5));
        assert_eq!(of("a;timeout=0"), some("a", 60));
        assert_eq!(of("a;timeout=99999999999"), some("a", 60));
        assert_eq!((of(""), of(";timeout=5"), of("a b"), of(&"x".repeat(9999))), (None, None, None, None));
    }
}
